//! A job that its user cancelled: the miner is asked to end it, and what it reports is the end.
//!
//! A job that has not reached its miner ends at once. A miner that does not know the extension cannot be asked: the job
//! goes on, and its user is told so. Whatever ends a job first is its end.

use std::time::Duration;

use tokio::time::Instant;

use super::{Effect, Machine, Now, Outcome, failure};
use crate::core::model::JobId;
use crate::core::model::job::{HordeReason, JobStage, JobStatus};
use crate::core::proto::facilitator_validator::{HordeFailure, JobFailure, StatusMetadata};
use crate::core::proto::job::{CANCELLED_KEY, GenericError, HordeFailed, JOB_CANCEL, JobFailed};

/// How long a miner has to report the end of a cancelled job: its executor has 60 s, and both may be started again.
pub(in crate::core::validator) const CANCEL_WITHIN: Duration = Duration::from_secs(120);

/// What a user is told whose job cannot be cancelled.
pub(in crate::core::validator) const MINER_CANNOT: &str =
    "the job's miner is one of the reference, which cannot cancel jobs";

/// How far the cancelling of a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    /// Nobody has asked for it.
    Unasked,
    /// The miner has until then.
    Asked(Instant),
    /// It cannot be.
    Refused,
}

impl Machine {
    /// Takes in that the user has cancelled the job; `cancels` tells whether the connected miner knows of cancelling.
    pub(super) fn cancel_asked(&mut self, now: Now, cancels: Option<bool>, effects: &mut Vec<Effect>) {
        if self.cancel != Cancel::Unasked {
            return;
        }
        if self.connections == 0 {
            return self.cancelled_unseen(now, effects);
        }
        self.cancel = Cancel::Asked(now.instant + CANCEL_WITHIN);
        if let Some(cancels) = cancels {
            self.pursue_cancel(now, cancels, effects);
        }
    }

    /// Asks the miner on its present connection, if need be again: what a lost one has carried nobody knows.
    pub(super) fn pursue_cancel(&mut self, now: Now, cancels: bool, effects: &mut Vec<Effect>) {
        if !self.is_cancelling() {
            return;
        }
        if cancels {
            effects.push(Effect::Cancel);
        } else {
            self.cancel = Cancel::Refused;
            effects.push(Effect::RefuseCancel(MINER_CANNOT.to_owned()));
            // It may have waited for this.
            self.advance(now, effects);
        }
    }

    /// Ends a cancelled job that the miner has not got: nothing of it runs.
    pub(super) fn cancelled_unseen(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let metadata = failure(JobFailure::cancelled(JobStage::Unknown));
        self.end(now, Outcome::Cancelled, JobStatus::Failed, metadata, effects);
    }

    /// Tells whether the miner is to end the job.
    pub(super) fn is_cancelling(&self) -> bool {
        matches!(self.cancel, Cancel::Asked(_))
    }

    /// Ends a cancelled job whose end the miner has not reported in time: nobody knows whether it still runs.
    pub(super) fn cancel_overdue(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let message = format!(
            "The miner did not report the end of the cancelled job within {} s",
            CANCEL_WITHIN.as_secs()
        );
        self.fail(now, HordeReason::FinalResponseTimedOut, message, effects);
    }
}

/// Tells whether a miner's complaint says that it has not got a job that it was to end.
pub(in crate::core::validator) fn says_unknown(complaint: &GenericError, job: &JobId) -> bool {
    *complaint == GenericError::unknown_job(JOB_CANCEL, job)
}

/// Reads a miner's report of a failure; only what the user asked for counts as cancelled.
pub(in crate::core::validator) fn read_failure(
    mut failed: JobFailed,
    is_cancelling: bool,
) -> (Outcome, StatusMetadata) {
    let outcome = if is_cancelling && failed.is_cancelled() {
        Outcome::Cancelled
    } else {
        if let Some(context) = &mut failed.context {
            context.shift_remove(CANCELLED_KEY);
        }
        Outcome::Failed(failed.stage, failed.reason)
    };
    let metadata = failure(JobFailure {
        reason: failed.reason,
        stage: failed.stage,
        message: failed.message,
        context: failed.context,
        docker_process_exit_status: failed.docker_process_exit_status,
        docker_process_stdout: failed.docker_process_stdout,
        docker_process_stderr: failed.docker_process_stderr,
    });
    (outcome, metadata)
}

/// Reads a miner's report that the horde failed a job.
pub(in crate::core::validator) fn read_horde_failure(failed: HordeFailed) -> (Outcome, StatusMetadata) {
    let outcome = Outcome::HordeFailed(failed.reported_by, failed.reason);
    let metadata = super::horde(HordeFailure {
        reported_by: failed.reported_by,
        reason: failed.reason,
        message: failed.message,
        context: failed.context,
    });
    (outcome, metadata)
}
