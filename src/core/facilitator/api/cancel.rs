//! A user ends a job.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{Answer, caller, json_response, not_found};
use crate::core::facilitator::cancel::{Wish, ask};
use crate::core::facilitator::machine::view;
use crate::core::facilitator::{Office, canonical_uuid};

/// Answers 202 while the job is being ended, 200 when it had ended, 409 when it cannot be.
pub(super) async fn cancel(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    let missing = || not_found("No Job matches the given query.");
    let job = office.store.job(&owner, &uuid).await?.ok_or_else(missing)?;
    // Once kept, the wish must reach the validator, even if its user hangs up meanwhile.
    let (answer, answered) = tokio::sync::oneshot::channel();
    let clerk = office.clone();
    office.tasks.spawn("cancel", async move {
        // Nobody waits for the answer of a user who hung up.
        drop(answer.send(ask(&clerk, &job).await));
    });
    let wish = answered
        .await
        .map_err(|_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "The facilitator is stopping."))??;
    let status = match wish {
        Wish::Stands => StatusCode::ACCEPTED,
        Wish::Ended => StatusCode::OK,
        Wish::Refused(reason) => {
            let words = format!("The job cannot be cancelled: {reason}");
            return Err(Answer::error(StatusCode::CONFLICT, words, None));
        }
    };
    // Read again: it may have ended at once.
    let job = office.store.job(&owner, &uuid).await?.ok_or_else(missing)?;
    Ok(json_response(status, &view(job)))
}
