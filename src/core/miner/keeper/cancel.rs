//! The keeper of a job that its user cancelled.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::job::{Event, Outcome, miner_failed};
use super::Keeper;
use crate::core::model::job::HordeReason;
use crate::core::proto::job::JobFailed;

/// Time that an executor has to end a cancelled job and to report it: it may have to ask the container (1 s), to kill it
/// (20 s), and to remove it (35 s).
const CANCEL_TIME: Duration = Duration::from_secs(60);

/// Time for what an executor that was ended by force has left to be cleared away.
const CLEAR_TIME: Duration = Duration::from_secs(20);

impl Keeper {
    pub(super) async fn note_cancel(&self) {
        let job = &self.order.job;
        tracing::info!(%job, "the job is cancelled by its user");
        if let Err(error) = self.miner.store.cancel_ordered(job, self.now()).await {
            // It is ended all the same; only a next life would not know of it, and its validator says it again.
            tracing::error!(%job, %error, "cannot note that a job is cancelled");
        }
    }

    pub(super) fn await_cancel(&mut self) {
        self.cancel_by.get_or_insert(Instant::now() + CANCEL_TIME);
    }

    pub(super) async fn on_cancel_overdue(&mut self) {
        self.cancel_by = None;
        self.happen(Event::CancelOverdue(CANCEL_TIME)).await;
    }

    /// Ends the executor by force, and says that the job is cancelled only if nothing of it is left.
    pub(super) async fn oust(&mut self, report: JobFailed) {
        // Whatever becomes of this process, the executor is to end.
        self.doom().await;
        let process = self.running.as_ref().and_then(|running| running.process());
        if let Some(running) = &mut self.running {
            running.kill().await;
        }
        self.let_go();
        let token = self.order.token.clone();
        let clearing = timeout(CLEAR_TIME, self.miner.backend.clear(&token, process.as_deref()));
        let job = &self.order.job;
        let message = match clearing.await {
            Ok(Ok(())) => report.into(),
            Ok(Err(error)) => {
                tracing::error!(%job, %error, "cannot clear away what a cancelled job left");
                left(job, &error.to_string()).into()
            }
            Err(_) => left(job, "clearing it away takes too long").into(),
        };
        self.end(Outcome {
            is_success: false,
            is_doomed: true,
            message,
        })
        .await;
    }
}

fn left(job: &crate::core::model::JobId, reason: &str) -> crate::core::proto::job::HordeFailed {
    let message =
        format!("The executor of the cancelled job was ended, something of it may be left: {reason}");
    miner_failed(job, HordeReason::ExecutorDisconnected, message)
}
