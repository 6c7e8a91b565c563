//! Cheat reports.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{Answer, caller, check_signature, object};
use crate::core::facilitator::{Office, canonical_uuid};

/// Takes a cheat report as far as this facilitator can: unknown jobs and bad fields are told as the reference does, a
/// report that would have to be forwarded is refused.
pub(super) async fn report_cheated(
    State(office): State<Office>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let body = object(&office, &headers, body).await?;
    let mut errors = Map::new();
    let mut uuid = |field: &str| {
        let problem = match body.get(field) {
            None | Some(Value::Null) => "This field is required.",
            Some(value) => match value.as_str().and_then(canonical_uuid) {
                Some(uuid) => return Some(uuid),
                None => "Must be a valid UUID.",
            },
        };
        errors.insert(field.to_owned(), json!([problem]));
        None
    };
    let (Some(job), Some(trusted)) = (uuid("job_uuid"), uuid("trusted_job_uuid")) else {
        return Err(Answer::new(StatusCode::BAD_REQUEST, &errors));
    };
    check_signature(&headers, &body)?;
    let missing = |words: &str| Answer::error(StatusCode::NOT_FOUND, words, None);
    let job = office.store.job(&owner, &job).await?;
    if job.is_none_or(|job| job.spec.on_trusted_miner) {
        return Err(missing("Job not found"));
    }
    let trusted = office.store.job(&owner, &trusted).await?;
    if trusted.is_none_or(|job| !job.spec.on_trusted_miner) {
        return Err(missing("Trusted job not found"));
    }
    Err(Answer::error(
        StatusCode::NOT_IMPLEMENTED,
        "Cheat reports are not forwarded by this facilitator",
        None,
    ))
}
