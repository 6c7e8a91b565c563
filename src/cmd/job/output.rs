//! Outputs of a job, from what was asked for to what travels.

use schemars::JsonSchema;
use serde::Serialize;

use super::s3::s3_error;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::client::source::{OutputRequest, Target, hide_query};
use crate::core::model::upload::{SingleFilePost, SingleFilePut, SingleFileUpload};
use crate::core::s3::S3;

/// What becomes of an output, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct OutputPlan {
    /// Where the job leaves it.
    pub(super) path: String,
    /// Where it goes, without secrets.
    pub(super) to: String,
    /// How it travels.
    pub(super) how: &'static str,
}

/// Makes one output ready; a place in S3 is presigned, and asked for first whether it can be written at all.
pub(super) async fn prepare(
    context: &Context,
    s3: Option<&S3>,
    request: &OutputRequest,
    quiet: bool,
) -> Result<(SingleFileUpload, OutputPlan), CmdError> {
    let plan = |to: &str, how| OutputPlan {
        path: format!("/output/{}", request.path),
        to: hide_query(to),
        how,
    };
    let put = |url: String| {
        SingleFileUpload::Put(SingleFilePut {
            url,
            relative_path: request.path.clone(),
            signed_headers: request.headers.clone(),
        })
    };
    match &request.target {
        Target::Put(url) => Ok((put(url.clone()), plan(url, "by PUT"))),
        Target::Post(url) => {
            let post = SingleFilePost {
                url: url.clone(),
                form_fields: request.fields.clone(),
                relative_path: request.path.clone(),
                signed_headers: request.headers.clone(),
            };
            Ok((SingleFileUpload::Post(post), plan(url, "as a form")))
        }
        Target::S3(place) => {
            let s3 = s3.ok_or_else(|| CmdError::new(ExitCode::Bug, "no S3 service was opened"))?;
            let tried = "could not use S3 for an output";
            // Told now rather than when the job has run in vain.
            let is_there = s3.check(place).await.map_err(|error| s3_error(tried, &error))?;
            if is_there == Some(true) && !quiet {
                context.say(format_args!("warning: {place} is there and will be replaced"));
            }
            let url = s3
                .presign_put(place)
                .await
                .map_err(|error| s3_error(tried, &error))?;
            Ok((put(url), plan(&place.to_string(), "by a presigned PUT")))
        }
    }
}
