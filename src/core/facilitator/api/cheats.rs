//! Cheat reports.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{Answer, caller, json_response, object, text_of};
use crate::core::crypto::signed::{report_payload, report_payload_of_sdk};
use crate::core::facilitator::delivery::{self, Occasion};
use crate::core::facilitator::{Office, canonical_uuid};
use crate::core::model::JobId;
use crate::core::proto::facilitator_validator::{
    Cheated, Down, JobCheatedWord, Signature, SignatureScope, VALIDATOR_FRAME_BYTES_MAX,
};
use crate::core::proto::sdk_facilitator::{RequestSignature, header};
use crate::core::store::facilitator::CheatReport;

/// The two jobs of a report, in our spelling and in that of the body, which is what was signed.
struct Named {
    job: JobId,
    trusted_job: JobId,
    as_written: [String; 2],
}

/// Takes a report, keeps it, and hands it to the job's validator as soon as that is there.
pub(super) async fn report_cheated(
    State(office): State<Office>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let body = object(&office, &headers, body).await?;
    let named = named(&body)?;
    let details = body.get("details").cloned().unwrap_or_default();
    let signature = check(&headers, &named.as_written, &details)?;
    let missing = |words: &str| Answer::error(StatusCode::NOT_FOUND, words, None);
    let job = office.store.job(&owner, &named.job).await?;
    let job = job
        .filter(|job| !job.spec.on_trusted_miner)
        .ok_or_else(|| missing("Job not found"))?;
    let trusted = office.store.job(&owner, &named.trusted_job).await?;
    if trusted.is_none_or(|job| !job.spec.on_trusted_miner) {
        return Err(missing("Trusted job not found"));
    }
    let [job_uuid, trusted_job_uuid] = named.as_written.map(JobId::new);
    let frame = Down::Cheated(Cheated {
        signature: Some(signature),
        r#type: JobCheatedWord,
        job_uuid,
        trusted_job_uuid,
        details,
    })
    .encode_as_facilitator();
    if frame.len() > VALIDATOR_FRAME_BYTES_MAX {
        let words = format!(
            "The report has {} bytes on its way to the validator, which takes {VALIDATOR_FRAME_BYTES_MAX}.",
            frame.len()
        );
        return Err(Answer::detail(StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    let validator = job.spec.target_validator;
    let report = CheatReport {
        job: named.job,
        validator: validator.clone(),
        trusted_job: named.trusted_job,
        frame,
        reported_at: office.clock.now(),
    };
    let uuid = report.job.clone();
    if !office.store.keep_cheat_report(report).await? {
        return Err(Answer::error(
            StatusCode::BAD_REQUEST,
            "Cheat report already exists for this job",
            None,
        ));
    }
    tracing::info!(job = %uuid, user = %owner, %validator, "a job is reported as cheated");
    delivery::deliver_waiting(&office, &validator, Occasion::Reminded);
    let answer = json!({"message": "Job reported as cheated"});
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// Reads the two jobs of a report.
fn named(body: &Map<String, Value>) -> Result<Named, Answer> {
    let mut errors = Map::new();
    let mut uuid = |field: &str| {
        let problem = match body.get(field) {
            None | Some(Value::Null) => "This field is required.",
            Some(value) => match value
                .as_str()
                .and_then(|text| Some((canonical_uuid(text)?, text)))
            {
                Some((uuid, text)) => return Some((uuid, text.to_owned())),
                None => "Must be a valid UUID.",
            },
        };
        errors.insert(field.to_owned(), json!([problem]));
        None
    };
    match (uuid("job_uuid"), uuid("trusted_job_uuid")) {
        (Some((job, written)), Some((trusted_job, trusted_written))) => Ok(Named {
            job,
            trusted_job,
            as_written: [written, trusted_written],
        }),
        _ => Err(Answer::new(StatusCode::BAD_REQUEST, &errors)),
    }
}

/// Checks that the report is signed so that its validator can check it, which knows nothing of it but these three
/// values: in the SDK's form, encoded twice, or in that of the reference's validators, encoded once
/// (wire-facilitator-validator §3).
fn check(headers: &HeaderMap, [job, trusted]: &[String; 2], details: &Value) -> Result<Signature, Answer> {
    let invalid = |details: String| {
        let words = "Invalid signature provided";
        Answer::error(StatusCode::BAD_REQUEST, words, Some(details))
    };
    if !headers.contains_key(header::SIGNATURE) {
        let details = "the report has no X-CH-Signature header, and no validator would count it".to_owned();
        return Err(Answer::error(
            StatusCode::BAD_REQUEST,
            "Signature not found",
            Some(details),
        ));
    }
    let signature = RequestSignature::from_headers(|name| text_of(headers, name))
        .map_err(|error| invalid(error.to_string()))?;
    if signature.scope != SignatureScope::FullRequest {
        return Err(invalid(
            "a report is signed with the scope FullRequest".to_owned(),
        ));
    }
    signature
        .verify(&report_payload_of_sdk(job, trusted, details))
        .or_else(|error| {
            let once = signature.verify(&report_payload(job, trusted, details));
            once.map_err(|_same| error)
        })
        .map_err(|error| {
            invalid(format!(
                "{error}; what is signed is job_uuid, trusted_job_uuid and details, null if there are none"
            ))
        })?;
    signature
        .forwarded()
        .ok_or_else(|| invalid("the time of the signature is too far in the future".to_owned()))
}
