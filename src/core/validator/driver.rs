//! One job on one miner: carries out the machine's effects, and survives the loss of the connection.
//!
//! What is to be sent is stored first. A frame that a lost connection did not take over is sent on the next one,
//! behind a fresh authentication; the first request is never sent twice.

use std::collections::VecDeque;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::machine::{Effect, Event, Machine, Outcome, cut};
use super::miners::Route;
use crate::core::clock::Backoff;
use crate::core::model::job::{HordeReason, Participant, RejectionReason};
use crate::core::model::receipt::{JobFinished, ReceiptPayload};
use crate::core::model::subnet::Axon;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, CONNECT_ATTEMPTS, ConnectError, ConnectOptions};
use crate::core::net::{Event as LinkEvent, Link, close_code};
use crate::core::proto::facilitator_validator::JobRequest;
use crate::core::proto::job::{EXTENSION_CANCEL, GenericError, JobCancel};
use crate::core::proto::validator_miner::{AcceptedReceipt, Down, EXTENSIONS, FinishedReceipt, Up};
use crate::core::receipts::{self, About, ReceiptError, Signed};
use crate::core::store::StoreError;
use crate::core::store::validator::Entry;

/// Attempts to hand a finished receipt to a miner whose connection was lost, when nobody waits.
pub(super) const PATIENT: u32 = CONNECT_ATTEMPTS;

/// How long a miner has to show that it took a receipt.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(10);

/// Pauses before reconnecting to a miner that drops us again and again; the reference comes back without any.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Text that a miner may send at any time and that means nothing (wire-miner-validator §1).
const PING: &str = "PING";

/// An effect could not be carried out.
#[derive(Debug, Error)]
enum DriveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a receipt could not be signed")]
    Sign(#[from] ReceiptError),
}

struct Driver<'a> {
    broker: &'a Broker,
    machine: Machine,
    job: JobId,
    class: ExecutorClass,
    miner: Hotkey,
    axon: Axon,
    link: Option<Link>,
    /// The authentication that the open connection still lacks.
    greeting: Option<String>,
    /// Frames that no connection has taken over yet.
    unsent: VecDeque<String>,
    /// The finished receipt's frame, once there is one.
    parting: Option<String>,
    losses: Backoff,
    /// Before the next connection.
    pause: Duration,
    was_connected: bool,
    /// Fires when the user has cancelled the job.
    cancelled: CancellationToken,
    is_cancel_told: bool,
}

impl Broker {
    /// Runs a job on the miner that was picked for it, to its end; `cancelled` fires when its user wants that to be soon.
    pub(super) async fn drive(&self, request: JobRequest, route: Route, cancelled: CancellationToken) {
        let Route { miner, axon, taken } = route;
        let job = request.uuid.clone();
        let class = request.executor_class;
        let driver = Driver {
            broker: self,
            machine: Machine::new(request, self.limits(), self.now()),
            job,
            class,
            miner,
            axon,
            link: None,
            greeting: None,
            unsent: VecDeque::new(),
            parting: None,
            losses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            pause: Duration::ZERO,
            was_connected: false,
            cancelled,
            is_cancel_told: false,
        };
        // Boxed, as are the rare ways out below: a thousand waiting jobs shall not each hold room for all of it.
        Box::pin(driver.run()).await;
        drop(taken);
    }

    /// Hands a finished receipt to a miner over a connection of its own.
    pub(super) async fn hand_over(
        &self,
        job: &JobId,
        miner: &Hotkey,
        axon: Axon,
        frame: String,
        attempts: u32,
    ) {
        let url = self.miner_url(axon);
        let options = options();
        let attempt = async {
            let mut link = ws::connect_patiently(&url, &options, &self.tasks, attempts)
                .await
                .map_err(|error| error.to_string())?;
            let lost = |error: crate::core::net::LinkClosed| error.to_string();
            link.send(self.greeting(miner)).await.map_err(lost)?;
            if can_cancel(&link) {
                // Whatever still runs of it, nobody waits for it.
                let job_uuid = job.clone();
                let end = Down::JobCancel(JobCancel { job_uuid }).encode();
                link.send(end).await.map_err(lost)?;
            }
            link.send(frame).await.map_err(lost)?;
            // The manifest shows that the miner has authenticated us, and so takes what we sent.
            let answer = timeout(HAND_OVER_WITHIN, link.recv()).await;
            link.close(close_code::NORMAL, "").await;
            match answer {
                Ok(LinkEvent::Text(text)) if matches!(Up::decode(&text), Ok(Up::Manifest(_))) => Ok(()),
                Ok(LinkEvent::Text(text)) => Err(cut(&text).to_owned()),
                Ok(LinkEvent::Binary(_) | LinkEvent::Closed { .. }) => {
                    Err("it closed the connection".to_owned())
                }
                Err(_) => Err("it did not answer".to_owned()),
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome,
            () = self.tasks.stopped() => Err("the validator stops".to_owned()),
        };
        match outcome {
            Ok(()) => tracing::info!(%job, %miner, "the finished receipt was handed over late"),
            Err(reason) => {
                tracing::warn!(%job, %miner, reason, "the finished receipt could not be handed over");
            }
        }
    }
}

impl Driver<'_> {
    async fn run(mut self) {
        tracing::info!(job = %self.job, miner = %self.miner, ip = %self.axon.ip, port = self.axon.port, "job starts");
        loop {
            let Some(event) = self.next_event().await else {
                continue;
            };
            let effects = self.machine.handle(self.broker.now(), event);
            match self.carry_out(effects).await {
                Ok(None) => {}
                Ok(Some(outcome)) => return self.finish(outcome).await,
                Err(error) => return Box::pin(self.give_up(error)).await,
            }
        }
    }

    /// Waits for the next thing that concerns the machine; nothing if it was settled here.
    async fn next_event(&mut self) -> Option<Event> {
        if self.cancelled.is_cancelled() && !self.is_cancel_told {
            self.is_cancel_told = true;
            let cancels = self.link.as_ref().map(can_cancel);
            return Some(Event::CancelAsked { cancels });
        }
        let due = sleep_until(self.machine.deadline());
        let cancelled = self.cancelled.clone();
        let is_cancel_told = self.is_cancel_told;
        let Some(link) = &mut self.link else {
            let reconnecting = self.was_connected;
            let url = self.broker.miner_url(self.axon);
            let connected = tokio::select! {
                biased;
                () = self.broker.tasks.stopped() => return Some(Event::Stopping),
                () = cancelled.cancelled(), if !is_cancel_told => return None,
                () = due => return Some(Event::Tick),
                connected = connect(&url, self.broker, self.pause) => connected,
            };
            return match connected {
                Ok(link) => {
                    let cancels = can_cancel(&link);
                    self.link = Some(link);
                    self.was_connected = true;
                    Some(Event::Connected { cancels })
                }
                // Bounded by the stage's limit; the connection's own pauses keep this from spinning.
                Err(error) if reconnecting && !error.is_lasting() => None,
                Err(error) => Some(Event::Unreachable(error.to_string())),
            };
        };
        tokio::select! {
            biased;
            () = self.broker.tasks.stopped() => Some(Event::Stopping),
            () = cancelled.cancelled(), if !is_cancel_told => None,
            () = due => Some(Event::Tick),
            news = link.recv() => self.hear(news).await,
        }
    }

    async fn hear(&mut self, news: LinkEvent) -> Option<Event> {
        let problem = match news {
            LinkEvent::Text(text) if text == PING => return None,
            LinkEvent::Text(text) => match Up::decode(&text) {
                Ok(message) => {
                    if !matches!(
                        message,
                        Up::GenericError(_) | Up::Unauthorized(_) | Up::Manifest(_)
                    ) {
                        self.losses.reset();
                    }
                    return Some(Event::Message(message));
                }
                Err(error) => error.to_string(),
            },
            LinkEvent::Binary(_) => "binary frames are not part of this wire".to_owned(),
            LinkEvent::Closed { code, reason } => {
                tracing::warn!(job = %self.job, miner = %self.miner, code, reason, "the connection to the miner was lost");
                self.link = None;
                // The first loss after news of the job is no reason to wait.
                let pause = self.losses.pause();
                self.pause = if self.losses.attempts() > 1 {
                    pause
                } else {
                    Duration::ZERO
                };
                return None;
            }
        };
        tracing::warn!(job = %self.job, miner = %self.miner, problem = cut(&problem), "malformed message");
        let complaint = GenericError::malformed(cut(&problem));
        self.unsent.push_back(Down::GenericError(complaint).encode());
        self.flush().await;
        None
    }

    /// Tells whether this is the validator's own miner, of which nothing is kept: no receipts, no manifest, no blame.
    fn is_on_trusted_miner(&self) -> bool {
        self.miner.as_str() == Hotkey::TRUSTED_MINER
    }

    fn about(&self) -> About<'_> {
        About {
            job_uuid: &self.job,
            miner: &self.miner,
            now: self.broker.clock.now(),
        }
    }

    /// Stores, then sends; returns the outcome if there is one.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<Option<Outcome>, DriveError> {
        let mut entries = Vec::new();
        let mut frames = Vec::new();
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Authenticate => self.greeting = Some(self.broker.greeting(&self.miner)),
                Effect::RequestExecutor { ttl } => {
                    let about = self.about();
                    let receipt = receipts::sign_started(&self.broker.keypair, about, self.class, true, ttl)?;
                    entries.push(kept(receipt.clone(), ReceiptPayload::Started));
                    let mut message = self.machine.initial_job(receipt);
                    message.sign(&self.broker.keypair);
                    frames.push(Down::InitialJob(message).encode());
                }
                Effect::HandOverAccepted { accepted, ttl } => {
                    let receipt = receipts::sign_accepted(&self.broker.keypair, self.about(), accepted, ttl)?;
                    entries.push(kept(receipt.clone(), ReceiptPayload::Accepted));
                    let Signed { payload, signature } = receipt;
                    frames.push(Down::AcceptedReceipt(AcceptedReceipt { payload, signature }).encode());
                }
                // The job's end must be stored even if there can be no receipt of it.
                Effect::HandOverFinished(work) => {
                    match receipts::sign_finished(&self.broker.keypair, self.about(), work) {
                        Ok(receipt) => {
                            entries.push(kept(receipt.clone(), ReceiptPayload::Finished));
                            self.parting = Some(finished_frame(receipt));
                        }
                        Err(error) => tracing::error!(job = %self.job, %error, "no finished receipt"),
                    }
                }
                Effect::SendOrder(mut message) => {
                    message.sign(&self.broker.keypair);
                    frames.push(Down::FullJob(*message).encode());
                }
                Effect::Report { status, frame } => {
                    tracing::info!(job = %self.job, miner = %self.miner, %status, "job step");
                    entries.push(Entry::Status { status, frame });
                }
                Effect::Cancel => {
                    tracing::info!(job = %self.job, miner = %self.miner, "the miner is asked to end a cancelled job");
                    let job_uuid = self.job.clone();
                    frames.push(Down::JobCancel(JobCancel { job_uuid }).encode());
                }
                Effect::RefuseCancel(reason) => self.broker.refuse_cancel(&self.job, reason),
                Effect::PassOutput(piece) => self.broker.asides.pass_output(&piece),
                Effect::Learn(_) if self.is_on_trusted_miner() => {}
                Effect::Learn(manifest) => self.broker.miners.learn(&self.miner, manifest),
                Effect::End(outcome) => {
                    entries.push(Entry::Ended);
                    if outcome.blames_miner() && !self.is_on_trusted_miner() {
                        entries.push(Entry::Incident {
                            miner: self.miner.clone(),
                            class: self.class,
                            reason: format!("{outcome:?}"),
                        });
                    }
                    ended = Some(outcome);
                }
            }
        }
        if self.is_on_trusted_miner() {
            entries.retain(|entry| !matches!(entry, Entry::Receipt { .. }));
        }
        if !entries.is_empty() {
            self.broker.record(&self.job, entries).await?;
        }
        self.unsent.extend(frames);
        self.flush().await;
        Ok(ended)
    }

    /// Sends what the open connection lacks; what it does not take waits for the next one.
    async fn flush(&mut self) {
        let Some(link) = &self.link else {
            return;
        };
        if let Some(greeting) = &self.greeting {
            if link.send(greeting.clone()).await.is_err() {
                return;
            }
            self.greeting = None;
        }
        while let Some(frame) = self.unsent.front() {
            if link.send(frame.clone()).await.is_err() {
                // The end of the connection is heard next.
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Parts from the miner.
    async fn finish(mut self, outcome: Outcome) {
        tracing::info!(job = %self.job, miner = %self.miner, ?outcome, "job ends");
        self.broker.asides.forget(&self.job);
        match outcome {
            _ if self.is_on_trusted_miner() => {}
            Outcome::Rejected(RejectionReason::Busy) => self.broker.miners.declined(&self.miner, self.class),
            Outcome::HordeFailed(Participant::Validator, HordeReason::MinerConnectionFailed) => {
                self.broker.miners.lose(&self.miner);
            }
            _ => {}
        }
        let Some(parting) = self.parting.take() else {
            return;
        };
        if matches!(outcome, Outcome::HordeFailed(Participant::Validator, _))
            && let Some(link) = self.link.as_ref().filter(|link| can_cancel(link))
        {
            // The miner may still run what nobody waits for any more.
            let job_uuid = self.job.clone();
            let end = Down::JobCancel(JobCancel { job_uuid }).encode();
            link.send(end).await.unwrap_or_default();
        }
        let sent = match self.link.take() {
            Some(link) if self.greeting.is_none() && link.send(parting.clone()).await.is_ok() => {
                link.close(close_code::NORMAL, "").await;
                true
            }
            _ => false,
        };
        if !sent {
            // One attempt: the executor counts as taken until this returns.
            self.broker
                .hand_over(&self.job, &self.miner, self.axon, parting, 1)
                .await;
        }
    }

    /// Ends a job that cannot be written down: the disk decides what is reported after the next start.
    async fn give_up(mut self, error: DriveError) {
        let effects = self
            .machine
            .handle(self.broker.now(), Event::Broken(error.to_string()));
        match error {
            DriveError::Store(error) => self.broker.store_failed(&self.job, error),
            DriveError::Sign(error) => {
                tracing::error!(job = %self.job, %error, "a receipt could not be signed");
            }
        }
        match self.carry_out(effects).await {
            Ok(Some(outcome)) => self.finish(outcome).await,
            Ok(None) => {}
            Err(error) => tracing::error!(job = %self.job, %error, "the job's end could not be stored"),
        }
    }
}

pub(super) fn can_cancel(link: &Link) -> bool {
    link.extensions().has(EXTENSION_CANCEL)
}

/// Opens a connection after a pause, with the patience of the wire.
async fn connect(url: &str, broker: &Broker, pause: Duration) -> Result<Link, ConnectError> {
    sleep(pause).await;
    ws::connect_patiently(url, &options(), &broker.tasks, CONNECT_ATTEMPTS).await
}

/// Returns how a connection for a job is opened.
pub(super) fn options() -> ConnectOptions {
    ConnectOptions {
        extensions: Extensions::of(EXTENSIONS),
        ..ConnectOptions::default()
    }
}

fn kept<P>(receipt: Signed<P>, wrap: fn(P) -> ReceiptPayload) -> Entry {
    Entry::Receipt {
        payload: wrap(receipt.payload),
        signature: receipt.signature,
    }
}

/// Returns the frame that hands over a finished receipt.
pub(super) fn finished_frame(receipt: Signed<JobFinished>) -> String {
    let Signed { payload, signature } = receipt;
    Down::FinishedReceipt(FinishedReceipt { payload, signature }).encode()
}
