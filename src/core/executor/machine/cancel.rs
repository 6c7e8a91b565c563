//! The end of a job that its user cancelled: like an overrun, but sooner and in other words.

use tokio::time::Instant;

use crate::core::docker::Signal;
use crate::core::model::JobId;
use crate::core::proto::job::{Context, JobFailed};

use super::events::{Effect, Outcome, Streams};
use super::{Machine, STOP_GRACE, State, Why, complain, later};

impl Machine {
    /// Ends the job, unless it is about to end anyway: what came first stands.
    pub(super) fn on_cancel(&mut self, now: Instant, job: &JobId) -> Vec<Effect> {
        let Some(own) = self.job_uuid().cloned() else {
            return Vec::new();
        };
        if own != *job {
            return complain(format!(
                "Received cancel for another job: first self.job_uuid='{own}' and then msg.job_uuid='{job}'"
            ));
        }
        match &self.state {
            State::Preparing { .. } | State::AwaitingJob { .. } | State::Fetching { .. } => {
                self.cancelled(own, None, None, Context::new())
            }
            State::Running { .. } => self.stop(later(now, STOP_GRACE), own, Why::Cancelled, Signal::Term),
            // The container has ended; what it left is not wanted any more.
            State::Uploading { ended, .. } => {
                let (exit_code, streams) = (ended.exit_code, ended.streams.clone());
                self.cancelled(own, Some(exit_code), Some(streams), Context::new())
            }
            State::AwaitingInitial | State::Stopping { .. } | State::Leaving { .. } | State::Ended => {
                Vec::new()
            }
        }
    }

    /// Reports a cancelled job once nothing of it runs any more; `more` are facts besides the mark.
    pub(super) fn cancelled(
        &mut self,
        job_uuid: JobId,
        exit_code: Option<i64>,
        streams: Option<Streams>,
        more: Context,
    ) -> Vec<Effect> {
        let mut failed = JobFailed::cancelled(job_uuid, self.stage());
        failed.docker_process_exit_status = exit_code;
        if let Some(streams) = streams {
            failed.docker_process_stdout = Some(streams.stdout);
            failed.docker_process_stderr = Some(streams.stderr);
        }
        failed.context.get_or_insert_default().extend(more);
        self.leave(failed.into(), Outcome::Failed)
    }
}
