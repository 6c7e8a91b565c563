//! Users' wishes to end their jobs, on their way to the validators.
//!
//! A wish is on the disk before its validator hears of it, and is said again on each new connection until the job has
//! ended. The end is the validator's to report.

use tokio::time::timeout;

use super::Office;
use super::delivery::PUSH_WITHIN;
use super::driver::append;
use super::validators::Reach;
use crate::core::causes::Causes;
use crate::core::model::job::{JobStage, JobStatus};
use crate::core::model::{Hotkey, JobId};
use crate::core::net::LinkSender;
use crate::core::proto::facilitator_validator::{Down, JobCancel, JobFailure, StatusMetadata};
use crate::core::store::StoreError;
use crate::core::store::facilitator::Job;

/// What a user is told whose validator does not know of cancelling.
pub(super) const VALIDATOR_CANNOT: &str =
    "the job's validator is one of the reference, which cannot cancel jobs; the job ends by its own limits";

/// What became of a user's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// It stands, and will be seen to.
    Stands,
    /// The job has ended.
    Ended,
    /// It cannot be fulfilled, for this reason.
    Refused(String),
}

/// Takes a user's wish to end a job.
pub(super) async fn ask(office: &Office, job: &Job) -> Result<Wish, StoreError> {
    if job.history.iter().any(|step| step.status.is_terminal()) {
        return Ok(Wish::Ended);
    }
    let validator = &job.spec.target_validator;
    let reach = office.seats.reach(validator);
    if reach.as_ref().is_some_and(|reach| !reach.cancels) {
        return Ok(Wish::Refused(VALIDATOR_CANNOT.to_owned()));
    }
    let order = office.store.order_cancel(&job.uuid, office.clock.now()).await?;
    match order {
        None => return Ok(Wish::Ended),
        Some(order) => {
            if let Some(reason) = order.refused {
                return Ok(Wish::Refused(reason));
            }
        }
    }
    tracing::info!(job = %job.uuid, user = %job.owner, %validator, "job cancelled by its user");
    if office.store.withdraw(&job.uuid).await? {
        // No validator has got it.
        let metadata = StatusMetadata {
            job_failure_details: Some(JobFailure::cancelled(JobStage::Unknown)),
            ..StatusMetadata::default()
        };
        append(office, validator, &job.uuid, JobStatus::Failed, Some(&metadata)).await?;
        return Ok(Wish::Ended);
    }
    if let Some(Reach { link, .. }) = reach {
        push(&link, &job.uuid).await;
    }
    Ok(Wish::Stands)
}

/// Says to a validator that has connected what is still to be ended; one that cannot has its jobs' users told.
pub(super) async fn say_again(office: &Office, validator: &Hotkey, reach: &Reach) {
    let due = match office.store.cancels_due(validator).await {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%validator, error = %Causes(&error), "cannot read which jobs are to be cancelled");
            return;
        }
    };
    for job in due {
        if reach.cancels {
            push(&reach.link, &job).await;
        } else {
            refuse(office, validator, &job, VALIDATOR_CANNOT.to_owned()).await;
        }
    }
}

/// Notes that a validator cannot end a job.
pub(super) async fn refuse(office: &Office, validator: &Hotkey, job: &JobId, reason: String) {
    let job = super::canonical_uuid(job.as_str()).unwrap_or_else(|| job.clone());
    let now = office.clock.now();
    match office
        .store
        .refuse_cancel(&job, validator, reason.clone(), now)
        .await
    {
        Ok(true) => tracing::info!(%job, %validator, reason, "the job cannot be cancelled"),
        Ok(false) => tracing::debug!(%job, %validator, "nobody asked for what the validator refuses"),
        // It is refused again when it is asked again.
        Err(error) => {
            tracing::error!(%job, error = %Causes(&error), "cannot note that a job cannot be cancelled");
        }
    }
}

async fn push(link: &LinkSender, job: &JobId) {
    let uuid = job.clone();
    let frame = Down::JobCancel(JobCancel { uuid }).encode_as_facilitator();
    if !matches!(timeout(PUSH_WITHIN, link.send(frame)).await, Ok(Ok(()))) {
        tracing::debug!(%job, "the validator hears of it when it is connected again");
    }
}
