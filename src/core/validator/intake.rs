//! The connection to the facilitator: brings jobs, takes reports; and the check of a job before it is routed.
//!
//! Reports are sent in the order in which they were stored and forgotten when answered; the facilitator answers in
//! order and without saying what, so answers are matched by their place. After a new connection all that is
//! unanswered is sent again: the facilitator refuses what it has already, which counts as an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::cancel::CancelEntry;
use super::miners::{Route, RouteError};
use super::{Broker, JOBS_MAX, cheats, machine};
use crate::core::crypto::signed;
use crate::core::model::job::{HordeReason, JobStatus, Participant, RejectionReason};
use crate::core::model::{Hotkey, JobId};
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, ConnectError, ConnectOptions, Limits};
use crate::core::net::{Event, Link, LinkClosed, close_code};
use crate::core::proto::facilitator_validator::{
    Authenticate, Down, EXTENSIONS, Heartbeat, HordeFailure, JobRejection, JobRequest, Response,
    ResponseStatus, StatusMetadata, Up,
};
use crate::core::proto::frame::{MESSAGE_TYPE, Message};
use crate::core::proto::job::{Context, EXTENSION_LOGS};
use crate::core::store::StoreError;
use crate::core::store::validator::{Admission, Entry};

/// The largest frame taken, in bytes (16 MiB).
///
/// The reference takes 1 MiB and so loses its link, and the job, to a request whose inline volume is larger, although
/// the facilitator takes request bodies of 2.5 MiB. We take what the facilitator takes of us.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time between two heartbeats: 60 s (wire-facilitator-validator §4).
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// The name of the loop that serves the facilitator.
pub(super) const LOOP: &str = "facilitator";

/// Longest time between two turns of it: three heartbeats, which is also longer than any attempt to connect.
pub(super) const LOOP_PATIENCE: Duration = HEARTBEAT_EVERY.saturating_mul(3);

/// How long the facilitator has to answer the authentication.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// How long the facilitator has to answer a report before the connection is taken for dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Reports that are sent before the first of them is answered.
const UNANSWERED_MAX: usize = 64;

/// Connections that a report may see break while it is the first unanswered one; then the facilitator cannot take it.
const ATTEMPTS_MAX: u32 = 10;

/// Pause before reconnecting, growing by this up to the longest: 2, 4, … 10 s (wire-facilitator-validator §5).
const PAUSE_STEP: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a stopping validator goes on to report the ends of its jobs.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);

/// How often a stopping validator looks whether all is said.
const FAREWELL_LOOK: Duration = Duration::from_millis(20);

/// Longest identity of a job that cannot be read as a whole, in bytes.
const JOB_ID_BYTES_MAX: usize = 200;

/// Why a connection to the facilitator ended, or never began.
#[derive(Debug, Error)]
enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Closed(#[from] LinkClosed),
    #[error("the facilitator did not answer the authentication")]
    NoWelcome,
    #[error("the facilitator refused the authentication: {0}")]
    Refused(String),
    #[error("the facilitator left a report unanswered for {} s", ANSWER_WITHIN.as_secs())]
    Deaf,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a job is refused before it is routed. The texts are those of the reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("Signature is empty")]
    NoSignature,
    #[error("Signatory {0} is not in validator whitelist")]
    Signatory(Hotkey),
    #[error("Bad signature")]
    Signature,
}

/// A report that is on its way.
#[derive(Debug)]
struct Sent {
    id: i64,
    job: JobId,
    at: Instant,
}

/// One authenticated connection.
struct Session<'a> {
    broker: &'a Arc<Broker>,
    link: Link,
    unanswered: VecDeque<Sent>,
    /// The last report that was sent here.
    last: i64,
    /// Whether there may be reports after it.
    more: bool,
}

impl Broker {
    /// Keeps a connection to the facilitator until the validator stops.
    pub(super) async fn serve_facilitator(self: Arc<Self>) -> Result<(), StoreError> {
        let mut pause = Duration::ZERO;
        loop {
            self.tasks.life().beat(LOOP);
            let error = match self.session(&mut pause).await {
                Ok(()) => return Ok(()),
                Err(SessionError::Store(error)) if error.is_fatal() => return Err(error),
                Err(error) => error,
            };
            if self.tasks.is_stopping() {
                return Ok(());
            }
            pause = (pause + PAUSE_STEP).min(PAUSE_MAX);
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::warn!(%error, cause, retry_in = ?pause, "no connection to the facilitator");
            self.tasks
                .life()
                .says(format!("no connection to the facilitator: {error}"));
            tokio::select! {
                biased;
                () = self.tasks.stopped() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    /// Runs one connection, from its beginning to its end; resets the pause once it is accepted.
    async fn session(self: &Arc<Self>, pause: &mut Duration) -> Result<(), SessionError> {
        let opening = async {
            let mut link = ws::connect(&self.config.facilitator_url, &options(), &self.tasks).await?;
            let (public_key, signature) = signed::sign_facilitator_auth(&self.keypair);
            let signature = signature.to_hex_prefixed();
            let hello = Up::Authenticate(Authenticate {
                public_key,
                signature,
            });
            link.send(hello.encode()).await?;
            let answer = timeout(WELCOME_WITHIN, link.recv())
                .await
                .map_err(|_| SessionError::NoWelcome)?;
            welcome(answer)?;
            Ok::<_, SessionError>(link)
        };
        let link = tokio::select! {
            biased;
            () = self.tasks.stopped() => return Ok(()),
            link = opening => link?,
        };
        tracing::info!(url = %self.config.facilitator_url, "connected to the facilitator");
        self.tasks
            .life()
            .says(format!("takes jobs from {}", self.config.facilitator_url));
        *pause = Duration::ZERO;
        let mut session = Session {
            broker: self,
            link,
            unanswered: VecDeque::new(),
            last: *self.answered.borrow(),
            more: true,
        };
        let follows = session.link.extensions().has(EXTENSION_LOGS);
        self.asides.listen(follows);
        let outcome = session.run().await;
        self.asides.listen(false);
        if let (Err(_), Some(first)) = (&outcome, session.unanswered.front()) {
            // It may be this very report that the facilitator stumbles over.
            if self.store.unanswered(first.id, ATTEMPTS_MAX).await? {
                tracing::error!(job = %first.job, "the facilitator cannot take a report, which is given up");
            }
        }
        outcome
    }

    /// Checks who signed a job, and the signature.
    fn check(&self, request: &JobRequest) -> Result<(), Refusal> {
        let signature = request.signature.as_ref().ok_or(Refusal::NoSignature)?;
        if !self.trusts(&signature.signatory) {
            return Err(Refusal::Signatory(signature.signatory.clone()));
        }
        request.verify().map_err(|error| {
            tracing::debug!(job = %request.uuid, %error, "bad signature");
            Refusal::Signature
        })
    }

    /// Takes a job: checks, stores, routes, runs it.
    async fn take(self: Arc<Self>, request: JobRequest, entry: CancelEntry, _slot: OwnedSemaphorePermit) {
        let job = request.uuid.clone();
        if let Err(error) = self.try_take(request, entry.token()).await {
            self.store_failed(&job, error);
        }
    }

    async fn try_take(&self, request: JobRequest, cancelled: &CancellationToken) -> Result<(), StoreError> {
        let job = request.uuid.clone();
        if let Err(refusal) = self.check(&request) {
            return self
                .refuse(&job, RejectionReason::InvalidSignature, refusal.to_string())
                .await;
        }
        if !job.is_canonical_uuid() {
            // No receipt about it would be valid (wire-miner-validator §11).
            let message = "The job's identity is no UUID in canonical form".to_owned();
            return self.refuse(&job, RejectionReason::Unknown, message).await;
        }
        let class = request.executor_class;
        let received = machine::status_frame(&job, JobStatus::Received, None);
        match self
            .store
            .admit(job.clone(), class, received, self.clock.now())
            .await?
        {
            Admission::New => self.owed.notify_one(),
            Admission::Known(status) => return self.repeat(&job, status).await,
        }
        if request.on_trusted_miner {
            let Some(route) = self.trusted_route() else {
                let message =
                    "This validator has no trusted miner (validator.trusted_miner is not set)".to_owned();
                return self.reject(&job, message, None).await;
            };
            return self.assign(request, route, cancelled).await;
        }
        let route = tokio::select! {
            biased;
            () = cancelled.cancelled() => return self.end_cancelled(&job).await,
            route = self.route(class) => route,
        };
        let route = match route {
            Ok(route) => route,
            Err(RouteError::AllMinersBusy { skipped, .. }) => {
                let skipped: Map<String, Value> = skipped
                    .into_iter()
                    .map(|(miner, skip)| (miner.as_str().to_owned(), skip.to_string().into()))
                    .collect();
                tracing::info!(%job, %class, ?skipped, "no miner for the job");
                let context = Context::from_iter([
                    ("exception_type".to_owned(), "AllMinersBusy".into()),
                    ("skipped_miners".to_owned(), skipped.into()),
                ]);
                let message = "Job could not be routed to a miner".to_owned();
                return self.reject(&job, message, Some(context)).await;
            }
            Err(error) => {
                tracing::error!(%job, %error, "the job could not be routed");
                let details = HordeFailure {
                    reported_by: Participant::Validator,
                    reason: HordeReason::UnhandledException,
                    message: format!("The job could not be routed: {error}"),
                    context: None,
                };
                return self
                    .end(&job, JobStatus::HordeFailed, machine::horde(details))
                    .await;
            }
        };
        self.assign(request, route, cancelled).await
    }

    /// Gives a stored job to its miner and runs it to its end.
    async fn assign(
        &self,
        request: JobRequest,
        route: Route,
        cancelled: &CancellationToken,
    ) -> Result<(), StoreError> {
        let assigned = Entry::Assigned {
            miner: route.miner.clone(),
            axon: route.axon,
        };
        self.record(&request.uuid, vec![assigned]).await?;
        self.drive(request, route, cancelled.clone()).await;
        Ok(())
    }

    /// Refuses a job that is not even stored, unless its identity is that of a stored one.
    async fn refuse(&self, job: &JobId, reason: RejectionReason, message: String) -> Result<(), StoreError> {
        tracing::warn!(%job, %reason, message, "job refused");
        if self.store.last_status(job.clone()).await?.is_some() {
            return Ok(());
        }
        let details = JobRejection {
            rejected_by: Participant::Validator,
            reason,
            message,
            context: None,
        };
        let frame = machine::status_frame(job, JobStatus::Rejected, Some(machine::rejection(details)));
        self.store.owe(job.clone(), frame).await?;
        self.owed.notify_one();
        Ok(())
    }

    /// Answers a job that is known already: it is not run again, and its last status is said again with the reason.
    ///
    /// `rejected` would end the job that is known in the eyes of its user; a status that the facilitator has already
    /// is answered with `job.integrity_error` and changes nothing.
    async fn repeat(&self, job: &JobId, status: JobStatus) -> Result<(), StoreError> {
        tracing::warn!(%job, %status, "job refused: it is known already");
        let refused = format!("Job {job} is known already ({status}) and is not run again");
        let metadata = StatusMetadata {
            more: Map::from_iter([("refused".to_owned(), refused.into())]),
            ..StatusMetadata::default()
        };
        let frame = machine::status_frame(job, status, Some(metadata));
        self.store.owe(job.clone(), frame).await?;
        self.owed.notify_one();
        Ok(())
    }

    /// Rejects a stored job for which there is no miner.
    async fn reject(&self, job: &JobId, message: String, context: Option<Context>) -> Result<(), StoreError> {
        let details = JobRejection {
            rejected_by: Participant::Validator,
            reason: RejectionReason::NoMinerForJob,
            message,
            context,
        };
        self.end(job, JobStatus::Rejected, machine::rejection(details))
            .await
    }

    pub(super) async fn end(
        &self,
        job: &JobId,
        status: JobStatus,
        metadata: StatusMetadata,
    ) -> Result<(), StoreError> {
        let frame = machine::status_frame(job, status, Some(metadata));
        self.record(job, vec![Entry::Status { status, frame }, Entry::Ended])
            .await
    }
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), SessionError> {
        // The first at once: from then on the facilitator sends jobs.
        self.link.send(Up::Heartbeat(Heartbeat {}).encode()).await?;
        let mut heartbeats = interval_at(Instant::now() + HEARTBEAT_EVERY, HEARTBEAT_EVERY);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let broker = Arc::clone(self.broker);
        loop {
            broker.tasks.life().beat(LOOP);
            let room = self.unanswered.len() < UNANSWERED_MAX;
            let deaf_at = self.unanswered.front().map(|sent| sent.at + ANSWER_WITHIN);
            tokio::select! {
                biased;
                () = broker.tasks.stopped() => return self.farewell().await,
                event = self.link.recv() => self.hear(event).await?,
                _ = heartbeats.tick() => self.link.send(Up::Heartbeat(Heartbeat {}).encode()).await?,
                () = std::future::ready(()), if room && self.more => self.send_next().await?,
                () = broker.asides.due() => self.say_asides().await?,
                () = broker.owed.notified(), if !self.more => self.more = true,
                () = sleep_until(deaf_at.unwrap_or_else(Instant::now)), if deaf_at.is_some() => {
                    return Err(SessionError::Deaf);
                }
            }
        }
    }

    /// Tells what is no report, as far as the facilitator knows of it.
    async fn say_asides(&mut self) -> Result<(), SessionError> {
        while let Some(refusal) = self.broker.asides.next_refusal() {
            self.link.send(refusal).await?;
        }
        self.broker.asides.offer_output(&self.link.sender());
        Ok(())
    }

    /// Sends the next report, if there is one.
    async fn send_next(&mut self) -> Result<(), SessionError> {
        let Some(owed) = self.broker.store.next_owed(self.last).await? else {
            self.more = false;
            return Ok(());
        };
        self.link.send(owed.frame).await?;
        self.last = owed.id;
        self.unanswered.push_back(Sent {
            id: owed.id,
            job: owed.job,
            at: Instant::now(),
        });
        Ok(())
    }

    async fn hear(&mut self, event: Event) -> Result<(), SessionError> {
        let text = match event {
            Event::Text(text) => text,
            Event::Binary(_) => {
                tracing::warn!("binary frame of the facilitator ignored");
                return Ok(());
            }
            Event::Closed { code, reason } => return Err(LinkClosed { code, reason }.into()),
        };
        match Down::decode(&text) {
            Ok(Down::Response(response)) => self.answered(&response),
            Ok(Down::JobRequest(request)) => self.start(*request).await?,
            Ok(Down::JobCancel(cancel)) => self.broker.order_cancel(&cancel.uuid).await?,
            Ok(Down::Cheated(report)) => self.broker.take_report(report).await?,
            Err(error) => {
                if let Some(report) = cheats::without_details(&text) {
                    return Ok(self.broker.take_report(report).await?);
                }
                tracing::warn!(%error, "unusable frame of the facilitator");
                if let Some(job) = unreadable_job(&text) {
                    let message = format!("The job cannot be read: {}", machine::cut(&error.to_string()));
                    self.broker
                        .refuse(&job, RejectionReason::Unknown, message)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Takes the answer to the oldest unanswered report.
    fn answered(&mut self, response: &Response) {
        let job = self.unanswered.pop_front().map(|sent| {
            self.broker.answered.send_replace(sent.id);
            sent.job
        });
        if response.status == ResponseStatus::Error {
            let errors = words(response);
            tracing::warn!(
                job = job.as_ref().map(JobId::as_str),
                errors,
                "the facilitator refused a report"
            );
        }
    }

    /// Starts a job in a task of its own.
    async fn start(&mut self, request: JobRequest) -> Result<(), SessionError> {
        let broker = Arc::clone(self.broker);
        if let Ok(slot) = Arc::clone(&broker.slots).try_acquire_owned() {
            let tasks = broker.tasks.clone();
            let entry = broker.cancels.enter(&request.uuid);
            tasks.spawn("job", broker.take(request, entry, slot));
            return Ok(());
        }
        let message = format!("The validator is at its limit of {JOBS_MAX} jobs");
        Ok(broker
            .refuse(&request.uuid, RejectionReason::NoMinerForJob, message)
            .await?)
    }

    /// Waits, within bounds, until all jobs have ended and their reports are answered, then closes.
    async fn farewell(&mut self) -> Result<(), SessionError> {
        let broker = Arc::clone(self.broker);
        let deadline = Instant::now() + FAREWELL_WITHIN;
        loop {
            // Before the look for reports: a job that has ended by then has stored its own.
            let idle = broker.slots.available_permits() == JOBS_MAX;
            if self.unanswered.len() < UNANSWERED_MAX {
                self.more = true;
                self.send_next().await?;
            }
            if (idle && !self.more && self.unanswered.is_empty()) || Instant::now() >= deadline {
                break;
            }
            match timeout(FAREWELL_LOOK, self.link.recv()).await {
                Err(_) | Ok(Event::Binary(_)) => {}
                Ok(Event::Text(text)) => match Down::decode(&text) {
                    Ok(Down::Response(response)) => self.answered(&response),
                    Ok(Down::JobRequest(request)) => {
                        let message = "The validator is stopping".to_owned();
                        broker
                            .refuse(&request.uuid, RejectionReason::NoMinerForJob, message)
                            .await?;
                    }
                    Ok(Down::Cheated(report)) => broker.take_report(report).await?,
                    // The facilitator says it again.
                    Ok(Down::JobCancel(_)) | Err(_) => {}
                },
                Ok(Event::Closed { code, reason }) => return Err(LinkClosed { code, reason }.into()),
            }
        }
        // What was answered just now is not sent again after the next start.
        let answered = *broker.answered.borrow();
        broker.store.answered(answered).await?;
        self.link.close(close_code::NORMAL, "").await;
        Ok(())
    }
}

fn options() -> ConnectOptions {
    let version = concat!("horde-", env!("CARGO_PKG_VERSION")).to_owned();
    ConnectOptions {
        headers: vec![
            ("X-Validator-Version".to_owned(), version.clone()),
            ("X-Validator-Runner-Version".to_owned(), version),
        ],
        extensions: Extensions::of(EXTENSIONS),
        limits: Limits {
            frame_bytes_max: FRAME_BYTES_MAX,
            ..Limits::towards_facilitator()
        },
        ..ConnectOptions::default()
    }
}

/// Reads the answer to the authentication: all but a success is an error.
fn welcome(answer: Event) -> Result<(), SessionError> {
    match answer {
        Event::Text(text) => match Down::decode(&text) {
            Ok(Down::Response(response)) if response.status == ResponseStatus::Success => Ok(()),
            Ok(Down::Response(response)) => Err(SessionError::Refused(words(&response))),
            Ok(_) | Err(_) => Err(SessionError::Refused(machine::cut(&text).to_owned())),
        },
        Event::Binary(_) => Err(SessionError::Refused("a binary frame".to_owned())),
        Event::Closed { code, reason } => Err(LinkClosed { code, reason }.into()),
    }
}

fn words(response: &Response) -> String {
    let errors: Vec<_> = response
        .errors
        .iter()
        .map(|error| format!("{} ({})", error.msg, error.r#type))
        .collect();
    machine::cut(&errors.join(", ")).to_owned()
}

/// Returns the identity of a pushed job that cannot be read as a whole, so that it can be refused by name.
fn unreadable_job(text: &str) -> Option<JobId> {
    let frame: Map<String, Value> = serde_json::from_str(text).ok()?;
    let kind = frame.get(MESSAGE_TYPE)?.as_str()?;
    let uuid = frame.get("uuid")?.as_str()?;
    (kind == JobRequest::TYPE && uuid.len() <= JOB_ID_BYTES_MAX).then(|| JobId::new(uuid))
}
