//! Jobs that their users cancelled: the order is on the disk before anything follows from it, and outlives this process.
//!
//! | the job | then |
//! |---|---|
//! | runs here | its driver is told ([`Cancels`]); [`machine::cancel`] says what follows |
//! | was never heard of | has ended as cancelled, and is not run should it come |
//! | has ended | nothing |
//! | is one of the last run | its miner is asked for its end, which is then the job's |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::machine::{self, Outcome, cancel};
use super::{Broker, RunError, driver};
use crate::core::model::JobId;
use crate::core::model::job::{JobStage, JobStatus};
use crate::core::model::receipt::ReceiptPayload;
use crate::core::net::ws;
use crate::core::net::{Event, Link, close_code};
use crate::core::proto::facilitator_validator::{JobFailure, MinerResponse, StatusMetadata};
use crate::core::proto::job::{JobCancel, JobFinished};
use crate::core::proto::validator_miner::{Down, Up};
use crate::core::receipts::{self, About, Work};
use crate::core::store::StoreError;
use crate::core::store::validator::{CancelFate, Entry, PendingJob};

/// The running jobs, by what tells their drivers to end them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancels(Arc<Mutex<HashMap<JobId, Running>>>);

#[derive(Debug, Default)]
struct Running {
    token: CancellationToken,
    /// Why it cannot be cancelled, once that is known.
    refused: Option<String>,
}

/// The place of one running job; free again when this is dropped.
#[derive(Debug)]
pub(super) struct CancelEntry {
    cancels: Cancels,
    job: JobId,
    token: CancellationToken,
}

impl CancelEntry {
    /// Returns what fires when the user cancels the job.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for CancelEntry {
    fn drop(&mut self) {
        self.cancels.lock().remove(&self.job);
    }
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a job; one that is pushed twice shares its place with itself.
    pub(super) fn enter(&self, job: &JobId) -> CancelEntry {
        let token = self.lock().entry(job.clone()).or_default().token.clone();
        CancelEntry {
            cancels: self.clone(),
            job: job.clone(),
            token,
        }
    }

    /// Tells a job's driver to end it; returns the reason if that is known to be impossible.
    fn fire(&self, job: &JobId) -> Option<String> {
        let running = self.lock();
        let running = running.get(job)?;
        running.token.cancel();
        running.refused.clone()
    }
}

impl Broker {
    /// Takes in that a user has cancelled a job.
    pub(super) async fn order_cancel(&self, job: &JobId) -> Result<(), StoreError> {
        let failure = machine::failure(JobFailure::cancelled(JobStage::Unknown));
        let frame = machine::status_frame(job, JobStatus::Failed, Some(failure));
        let fate = self
            .store
            .order_cancel(job.clone(), frame, self.clock.now())
            .await?;
        tracing::info!(%job, ?fate, "the job is cancelled by its user");
        match fate {
            CancelFate::Kept => {}
            CancelFate::Unknown => self.owed.notify_one(),
            CancelFate::Ended => return Ok(()),
        }
        if let Some(reason) = self.cancels.fire(job) {
            // The facilitator has not got the answer, or it would not ask again.
            self.asides.refuse_cancel(job, reason);
        }
        Ok(())
    }

    /// Says that a job cannot be cancelled, and remembers it for when it is asked again.
    pub(super) fn refuse_cancel(&self, job: &JobId, reason: String) {
        tracing::warn!(%job, reason, "the job cannot be cancelled");
        if let Some(running) = self.cancels.lock().get_mut(job) {
            running.refused = Some(reason.clone());
        }
        self.asides.refuse_cancel(job, reason);
    }

    /// Ends a job as cancelled that no miner has.
    pub(super) async fn end_cancelled(&self, job: &JobId) -> Result<(), StoreError> {
        let metadata = machine::failure(JobFailure::cancelled(JobStage::Unknown));
        self.end(job, JobStatus::Failed, metadata).await
    }

    /// Settles a cancelled job of the last run: its miner is still to end it.
    pub(super) async fn settle_cancelled(self: &Arc<Self>, pending: PendingJob) -> Result<(), RunError> {
        if pending.miner.is_none() {
            return Ok(self.end_cancelled(&pending.job).await?);
        }
        let broker = Arc::clone(self);
        self.tasks.spawn("cancelled job", async move {
            let job = pending.job.clone();
            if let Err(error) = broker.see_to_the_end(pending).await {
                tracing::error!(%job, %error, "a cancelled job could not be settled");
            }
        });
        Ok(())
    }

    async fn see_to_the_end(self: &Arc<Self>, pending: PendingJob) -> Result<(), RunError> {
        let told = tokio::select! {
            biased;
            // The next run goes on with it.
            () = self.tasks.stopped() => return Ok(()),
            told = timeout(cancel::CANCEL_WITHIN, self.ask_for_the_end(&pending)) => told.ok().flatten(),
        };
        let Some((link, message)) = told else {
            tracing::warn!(job = %pending.job, "the miner has not told of the end of a cancelled job");
            return self.settle(pending).await;
        };
        let Some(end) = read_end(message, &pending.job) else {
            return self.settle(pending).await;
        };
        tracing::info!(job = %pending.job, outcome = ?end.outcome, "a job of the last run has ended");
        let now = self.clock.now();
        let Some((miner, _)) = &pending.miner else {
            return self.settle(pending).await;
        };
        let frame = machine::end_frame(&pending.job, end.status, end.metadata);
        let status = end.status;
        let mut entries = vec![Entry::Status { status, frame }, Entry::Ended];
        let mut parting = None;
        if pending.receipted {
            let about = About {
                job_uuid: &pending.job,
                miner,
                now,
            };
            let work = Work {
                started: pending.started,
                took: (now - pending.started).min(machine::TOOK_MAX),
                score: 0.0,
                block_numbers: Vec::new(),
            };
            let receipt = receipts::sign_finished(&self.keypair, about, work)?;
            entries.push(Entry::Receipt {
                payload: ReceiptPayload::Finished(receipt.payload.clone()),
                signature: receipt.signature.clone(),
            });
            parting = Some(driver::finished_frame(receipt));
        }
        self.record(&pending.job, entries).await?;
        if let Some(parting) = parting {
            // A link that has ended needs no closing either.
            link.send(parting).await.unwrap_or_default();
        }
        link.close(close_code::NORMAL, "").await;
        Ok(())
    }

    /// Asks a miner for the end of a job until it tells; none if it does not know of cancelling.
    async fn ask_for_the_end(&self, pending: &PendingJob) -> Option<(Link, Up)> {
        let (miner, axon) = pending.miner.as_ref()?;
        let url = self.miner_url(*axon);
        let job_uuid = pending.job.clone();
        let request = Down::JobCancel(JobCancel { job_uuid }).encode();
        loop {
            let options = driver::options();
            let connecting = ws::connect_patiently(&url, &options, &self.tasks, driver::PATIENT);
            let mut link = match connecting.await {
                Ok(link) => link,
                Err(error) if error.is_lasting() => return None,
                Err(_) => continue,
            };
            if !driver::can_cancel(&link) {
                return None;
            }
            if link.send(self.greeting(miner)).await.is_err() || link.send(request.clone()).await.is_err() {
                continue;
            }
            loop {
                let text = match link.recv().await {
                    Event::Text(text) => text,
                    Event::Binary(_) => continue,
                    Event::Closed { .. } => break,
                };
                match Up::decode(&text) {
                    Ok(message) if machine::is_end_of(&message, &pending.job) => {
                        return Some((link, message));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            // Not at once: a miner that drops us may do so again.
            tokio::time::sleep(ws::pause_after(1, rand::random())).await;
        }
    }
}

/// How a job of the last run ended.
struct End {
    outcome: Outcome,
    status: JobStatus,
    metadata: StatusMetadata,
}

/// Reads a miner's last word about a cancelled job. What it says of results counts as well: they came first.
fn read_end(message: Up, job: &JobId) -> Option<End> {
    let (outcome, status, metadata) = match message {
        // The miner has never got it.
        Up::GenericError(error) if cancel::says_unknown(&error, job) => {
            let metadata = machine::failure(JobFailure::cancelled(JobStage::Unknown));
            (Outcome::Cancelled, JobStatus::Failed, metadata)
        }
        Up::JobFailed(failed) => {
            let (outcome, metadata) = cancel::read_failure(failed, true);
            (outcome, JobStatus::Failed, metadata)
        }
        Up::HordeFailed(failed) => {
            let (outcome, metadata) = cancel::read_horde_failure(failed);
            (outcome, JobStatus::HordeFailed, metadata)
        }
        Up::JobFinished(finished) => (Outcome::Completed, JobStatus::Completed, results(finished)),
        _ => return None,
    };
    Some(End {
        outcome,
        status,
        metadata,
    })
}

fn results(finished: JobFinished) -> StatusMetadata {
    StatusMetadata {
        miner_response: Some(MinerResponse {
            docker_process_stderr: finished.docker_process_stderr,
            docker_process_stdout: finished.docker_process_stdout,
            artifacts: finished.artifacts,
            upload_results: finished.upload_results,
            more: serde_json::Map::new(),
        }),
        ..StatusMetadata::default()
    }
}
