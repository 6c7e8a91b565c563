//! What a job's owner thinks of its result (wire-facilitator-http §9).

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::body::small_object;
use super::{Answer, caller, check_signature_if_any, json_response, not_found};
use crate::core::facilitator::{Office, canonical_uuid};
use crate::core::store::facilitator::Feedback;

/// Takes an opinion, in place of what was said before.
pub(super) async fn give(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    let body = small_object(&office, &headers, body).await?;
    check_signature_if_any(&headers, &body)?;
    let feedback = read(&body)?;
    let now = office.clock.now();
    match office.store.set_feedback(&owner, &uuid, feedback, now).await? {
        None => Err(not_found("No Job matches the given query.")),
        Some(true) => Ok(json_response(StatusCode::CREATED, &view(feedback))),
        Some(false) => Ok(json_response(StatusCode::OK, &view(feedback))),
    }
}

/// Shows what was said last.
pub(super) async fn show(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    match office.store.feedback(&owner, &uuid).await? {
        None => Err(not_found("No Job matches the given query.")),
        Some(None) => Err(not_found("Not found.")),
        Some(Some(feedback)) => Ok(json_response(StatusCode::OK, &view(feedback))),
    }
}

fn view(feedback: Feedback) -> Value {
    json!({"result_correctness": feedback.result_correctness, "expected_duration": feedback.expected_duration})
}

/// Reads the fields, with the words of the reference's framework for what is wrong.
fn read(body: &Map<String, Value>) -> Result<Feedback, Answer> {
    let mut errors = Map::new();
    let mut refuse = |field: &str, problem: &str| {
        errors.insert(field.to_owned(), json!([problem]));
    };
    let correctness = match body.get("result_correctness") {
        None => Err("This field is required."),
        Some(Value::Null) => Err("This field may not be null."),
        Some(value) => match value.as_f64() {
            None => Err("A valid number is required."),
            Some(number) if number < 0.0 => Err("Ensure this value is greater than or equal to 0.0."),
            Some(number) if number > 1.0 => Err("Ensure this value is less than or equal to 1.0."),
            Some(number) => Ok(number),
        },
    };
    let duration = match body.get("expected_duration") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            None => Err("A valid number is required."),
            Some(number) if number < 0.0 => Err("Ensure this value is greater than or equal to 0.0."),
            Some(number) => Ok(Some(number)),
        },
    };
    match (correctness, duration) {
        (Ok(result_correctness), Ok(expected_duration)) => Ok(Feedback {
            result_correctness,
            expected_duration,
        }),
        (correctness, duration) => {
            if let Err(problem) = correctness {
                refuse("result_correctness", problem);
            }
            if let Err(problem) = duration {
                refuse("expected_duration", problem);
            }
            Err(Answer::new(StatusCode::BAD_REQUEST, &errors))
        }
    }
}
