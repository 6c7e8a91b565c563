//! Which S3 service, by flags; and what is said when it cannot be used.

use std::time::Duration;

use clap::Args;

use crate::cmd::error::{CmdError, ExitCode};
use crate::core::client::draft::S3Draft;
use crate::core::s3::{Options, S3, S3Error};

/// Which S3 service; credentials come from where Amazon's own tools look for them, never from a flag.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct S3Args {
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Use the S3 service at this address [default: AWS_ENDPOINT_URL, else Amazon's]
    #[arg(
        long = "s3-endpoint",
        id = "s3_endpoint",
        value_name = "URL",
        help_heading = "S3"
    )]
    endpoint: Option<String>,
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Use this region [default: AWS_REGION, else that of the profile]
    #[arg(
        long = "s3-region",
        id = "s3_region",
        value_name = "REGION",
        help_heading = "S3"
    )]
    region: Option<String>,
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Take the credentials of this profile [default: AWS_ACCESS_KEY_ID and others, AWS_PROFILE, the machine's role]
    #[arg(
        long = "s3-profile",
        id = "s3_profile",
        value_name = "NAME",
        help_heading = "S3"
    )]
    profile: Option<String>,
    /// Let presigned addresses be good for so long [default: 21600]
    #[arg(long = "s3-expires", id = "s3_expires", value_name = "SECONDS", help_heading = "S3",
          value_parser = clap::value_parser!(u32).range(1..=604_800))]
    expires: Option<u32>,
}

impl S3Args {
    /// Returns what was said.
    pub(super) fn draft(&self) -> S3Draft {
        S3Draft {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            expires: self.expires,
            upload_to: None,
        }
    }
}

/// Opens the service.
pub(super) async fn open(draft: &S3Draft) -> Result<S3, CmdError> {
    let options = Options {
        endpoint: draft.endpoint.clone(),
        region: draft.region.clone(),
        profile: draft.profile.clone(),
        expires: draft.expires.map(|seconds| Duration::from_secs(seconds.into())),
    };
    S3::open(options)
        .await
        .map_err(|error| s3_error("could not use S3", &error))
}

/// Says what to do about an S3 service that cannot be used.
pub(super) fn s3_error(tried: &str, error: &S3Error) -> CmdError {
    let code = match error {
        S3Error::Endpoint(_) | S3Error::NoRegion => ExitCode::Usage,
        S3Error::NoCredentials(_) | S3Error::Credentials { .. } => ExitCode::Refused,
        S3Error::NoBucket(_) => ExitCode::NotFound,
        S3Error::Unreachable(_) => ExitCode::Unreachable,
        _ => ExitCode::Failed,
    };
    let failed = CmdError::new(code, tried).caused_by(error);
    match error {
        S3Error::NoRegion => failed.hint("set AWS_REGION, or pass --s3-region or --s3-endpoint"),
        S3Error::NoCredentials(_) => {
            failed.hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or pass --s3-profile NAME")
        }
        S3Error::Credentials { code, .. } if code == "RequestTimeTooSkewed" => {
            failed.hint("the clock of this machine is wrong")
        }
        S3Error::Credentials { code, .. } if code == "ExpiredToken" => {
            failed.hint("log in again, so that the credentials are fresh")
        }
        S3Error::Credentials { .. } => failed
            .hint("are they those of this service? AWS_ACCESS_KEY_ID, AWS_PROFILE and --s3-endpoint decide"),
        S3Error::NoBucket(_) => failed.hint("make the bucket first; --s3-endpoint names the service"),
        S3Error::Unreachable(_) => failed.hint("is --s3-endpoint the address of the service?"),
        _ => failed,
    }
}
