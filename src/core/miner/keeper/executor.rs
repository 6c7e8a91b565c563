//! The keeper towards the executor: who may come, and what it is told.

use tokio::time::timeout;

use super::super::job::Event;
use super::{Keeper, Part, SEND_TIME};
use crate::core::net::{self, Link, close_code};
use crate::core::proto::job::{EXTENSION_CANCEL, GenericError};
use crate::core::proto::miner_executor::{self, EXTENSION_RESUME, ReportKept};

impl Keeper {
    pub(super) async fn meet(&mut self, link: Link) {
        if self.part == Part::Left {
            return link.close(close_code::GOING_AWAY, "").await;
        }
        let resumes = link.extensions().has(EXTENSION_RESUME);
        let is_back = resumes && (self.job.resumes() || self.job.is_over());
        let is_new = self.executor.is_none() && self.job.is_waiting_for_executor();
        if self.part == Part::Done || !(is_back || is_new) {
            refuse_executor(&link, not_waiting(&self.order.token)).await;
            return;
        }
        if is_back {
            tracing::info!(job = %self.order.job, "the executor is back");
        }
        // Whatever its last link looks like from here, its own end is gone.
        self.executor = Some(link);
        self.return_by = None;
        let cancels = self
            .executor
            .as_ref()
            .is_some_and(|link| link.extensions().has(EXTENSION_CANCEL));
        self.happen(Event::Connected { resumes, cancels }).await;
    }

    pub(super) async fn hear(&mut self, event: net::Event) {
        match event {
            net::Event::Text(text) => match miner_executor::Up::decode(&text) {
                Ok(message) => self.happen(Event::Said(message)).await,
                Err(error) => self.instruct(GenericError::malformed(error).into()).await,
            },
            net::Event::Binary(_) => {
                self.instruct(GenericError::malformed("the frame is not text").into())
                    .await;
            }
            net::Event::Closed { code, .. } => {
                self.executor = None;
                self.happen(Event::Disconnected(code)).await;
            }
        }
    }

    pub(super) async fn instruct(&mut self, message: miner_executor::Down) {
        if let Some(link) = &self.executor {
            // Its end is heard of on the receiving side.
            drop(timeout(SEND_TIME, link.send(message.encode())).await);
        }
    }

    /// Lets an executor go that has waited for its report to be kept.
    pub(super) async fn thank(&mut self) {
        if self.outcome.as_ref().is_some_and(|outcome| outcome.is_kept) {
            let job_uuid = self.order.job.clone();
            self.instruct(ReportKept { job_uuid }.into()).await;
        }
    }
}

/// Returns the words for an executor whose token is good no more (wire-executor-miner §1).
pub fn not_waiting(token: &str) -> GenericError {
    GenericError::new(format!("Job with token {token} is not waiting for an executor"))
}

/// Tells an executor that it is not wanted and ends its connection, which the reference leaves open.
pub async fn refuse_executor(link: &Link, reason: GenericError) {
    let said = link.send(miner_executor::Down::from(reason).encode()).await;
    if said.is_ok() {
        let code = if link.extensions().has(EXTENSION_RESUME) {
            close_code::NOT_WANTED
        } else {
            close_code::NORMAL
        };
        link.close(code, "").await;
    }
}
