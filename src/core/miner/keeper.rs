//! The keeper of one job: starts its executor, relays between executor and validator, gives the slot back.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Miner;
use super::backend::{ExecutorOrder, Exit, Running};
use super::job::{Effect, Event, Job, Outcome};
use super::ledger::{Step, step_of};
use super::ports::PortLease;
use crate::core::crypto::signed::streaming_blob;
use crate::core::model::JobId;
use crate::core::model::executor::UNHEALTHY;
use crate::core::net::{self, Link, LinkSender, close_code};
use crate::core::proto::job::{FullJob, GenericError, InitialJob, StreamingReady};
use crate::core::proto::miner_executor;
use crate::core::proto::validator_miner::{self, Declined};
use crate::core::store::miner::JobState;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Outcome as Ended;

/// Letters that wait for a keeper; senders wait beyond that.
pub const LETTERS: usize = 16;

/// Messages kept for a validator that is away; when full, the oldest goes. A job has six at most.
const UNDELIVERED_MAX: usize = 16;

/// Longest wait for room in the queue of a validator's connection before it counts as gone.
const SEND_TIME: Duration = Duration::from_secs(10);

/// Time that an executor has to exit once its job is over: it removes its container and its folder.
const LEAVE_TIME: Duration = Duration::from_secs(30);

/// Time for which the slot of an unfit machine is out of service. Long enough for an operator to be told by whatever
/// watches the log, short enough that a driver which recovered by itself is not lost for the day.
const OUT_OF_SERVICE: Duration = Duration::from_secs(600);

/// Far enough away to mean never.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What reaches a keeper from outside.
#[derive(Debug)]
pub enum Letter {
    /// A connection of the validator has authenticated and takes over what has none.
    Resume(Line),
    /// The full order, with its text as received, on this connection.
    Order(Line, Box<FullJob>, String),
    /// The job is given up.
    Abandon(Line, Declined),
    /// An executor with the job's token.
    Executor(Link),
    /// Its executor is needed for a job within its validator's share.
    Preempted,
}

/// A connection of a validator, as keepers use it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Tells connections apart.
    pub id: u64,
    /// The way to the validator.
    pub sender: LinkSender,
}

impl Line {
    fn is_open(&self) -> bool {
        self.sender.closed().now_or_never().is_none()
    }
}

/// A job that was accepted and needs a keeper.
#[derive(Debug)]
pub struct Assignment {
    /// The validator's request.
    pub request: Box<InitialJob>,
    /// Where its executor is to run.
    pub slot: u32,
    /// The token of its executor.
    pub token: String,
    /// The connection that brought it.
    pub line: Line,
    /// Where the executor can be reached from outside.
    pub address: IpAddr,
}

/// The keeper of one job.
#[derive(Debug)]
pub struct Keeper {
    miner: Arc<Miner>,
    order: ExecutorOrder,
    is_streaming: bool,
    /// Given back with the keeper: by then the executor is gone.
    port: Option<PortLease>,
    address: IpAddr,
    job: Job,
    line: Option<Line>,
    undelivered: VecDeque<validator_miner::Up>,
    letters: mpsc::Receiver<Letter>,
    executor: Option<Link>,
    running: Option<Box<dyn Running>>,
    /// Whether the executor said that its machine is not fit for another job.
    is_unhealthy: bool,
    /// When the executor is ended by force.
    deadline: Instant,
    outcome: Option<validator_miner::Up>,
}

/// What the keeper's loop wakes up for.
enum Wake {
    Stop,
    Letter(Letter),
    Executor(net::Event),
    Exit(Exit),
    Deadline,
}

impl Keeper {
    /// Makes a keeper that gets its letters from `letters`.
    pub fn new(miner: Arc<Miner>, assignment: Assignment, letters: mpsc::Receiver<Letter>) -> Self {
        let Assignment {
            request,
            slot,
            token,
            line,
            address,
        } = assignment;
        let order = ExecutorOrder {
            job: request.job_uuid.clone(),
            class: request.executor_class,
            slot,
            token,
            streaming_port: None,
            startup_seconds: miner.dynamic.borrow().executor_startup_seconds(),
        };
        let is_streaming = request.streaming_details.is_some();
        Self {
            miner,
            order,
            is_streaming,
            port: None,
            address,
            job: Job::new(request, address),
            line: Some(line),
            undelivered: VecDeque::new(),
            letters,
            executor: None,
            running: None,
            is_unhealthy: false,
            deadline: Instant::now() + NEVER,
            outcome: None,
        }
    }

    /// Keeps the job until its executor is gone.
    pub async fn run(mut self, tasks: Tasks) {
        if self.is_streaming {
            self.port = self.miner.ports.lease();
            self.order.streaming_port = self.port.as_ref().map(PortLease::port);
        }
        if self.is_streaming && self.port.is_none() {
            tracing::error!(job = %self.order.job, "no port of miner.streaming_ports is free for a streaming job");
            self.happen(Event::StartFailed).await;
        } else {
            self.employ(&tasks).await;
        }
        if self.is_unhealthy {
            self.rest_the_slot(&tasks);
        } else {
            self.miner.pool.release(&self.order.job).await;
        }
        self.miner.shares.end(&self.order.job);
        self.letters.close();
        // An executor that came too late hears the reason; a validator that came meanwhile gets its outcome.
        while let Some(letter) = self.letters.recv().await {
            self.read(letter).await;
        }
    }

    async fn employ(&mut self, tasks: &Tasks) {
        match self.miner.backend.start(&self.order).await {
            Ok(running) => self.look_after(running, tasks).await,
            Err(error) => {
                tracing::error!(job = %self.order.job, error = %Chain(&error), "executor failed to start");
                self.happen(Event::StartFailed).await;
            }
        }
    }

    /// Keeps the slot out of service for a while: its machine is not fit for another job.
    fn rest_the_slot(&self, tasks: &Tasks) {
        let (miner, order, stop) = (Arc::clone(&self.miner), self.order.clone(), tasks.token());
        let minutes = OUT_OF_SERVICE.as_secs() / 60;
        tracing::error!(
            job = %order.job, class = %order.class, minutes,
            "the executor left its machine unfit; its slot is out of service (`horde executor check` tells more)"
        );
        miner.pool.rest(&order.job, order.class, order.slot);
        tasks.spawn("slot out of service", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(OUT_OF_SERVICE) => tracing::info!(class = %order.class, "a slot is in service again"),
            }
            miner.pool.wake(&order.job).await;
        });
    }

    async fn look_after(&mut self, running: Box<dyn Running>, tasks: &Tasks) {
        self.deadline = Instant::now() + self.miner.config.executor_ttl;
        self.miner.ledger.note(&self.order.job, Step::ExecutorStarted);
        let process = running.process();
        self.running = Some(running);
        if let Some(process) = process
            && let Err(error) = self.miner.store.note_process(&self.order.job, process).await
        {
            tracing::error!(job = %self.order.job, %error, "cannot note the executor's process");
        }
        let stop = tasks.token();
        let mut is_stopping = false;
        while self.running.is_some() || self.executor.is_some() {
            let wake = tokio::select! {
                biased;
                () = stop.cancelled(), if !is_stopping => Wake::Stop,
                Some(letter) = self.letters.recv() => Wake::Letter(letter),
                event = hear(&mut self.executor) => Wake::Executor(event),
                exit = exit(&mut self.running, &self.order.job) => Wake::Exit(exit),
                () = sleep_until(self.deadline) => Wake::Deadline,
            };
            match wake {
                Wake::Stop => {
                    is_stopping = true;
                    self.happen(Event::Stopping).await;
                }
                Wake::Letter(letter) => self.read(letter).await,
                Wake::Executor(event) => self.hear(event).await,
                Wake::Exit(exit) => {
                    self.running = None;
                    self.is_unhealthy = exit == Exit::Code(i64::from(UNHEALTHY));
                    match &self.executor {
                        // What it said last may still be on its way.
                        Some(_) => self.deadline = Instant::now() + SEND_TIME,
                        None => self.happen(Event::Exited).await,
                    }
                }
                Wake::Deadline => self.on_deadline().await,
            }
        }
        self.happen(Event::Exited).await;
    }

    async fn on_deadline(&mut self) {
        self.deadline = Instant::now() + NEVER;
        if self.running.is_some() {
            tracing::warn!(job = %self.order.job, "executor outlived its time");
            self.happen(Event::Expired(self.miner.config.executor_ttl)).await;
        } else if let Some(link) = self.executor.take() {
            // The process is gone, its connection is not: nobody speaks for it any more.
            link.close(close_code::NORMAL, "").await;
            self.happen(Event::Disconnected(close_code::ABNORMAL)).await;
        }
    }

    async fn read(&mut self, letter: Letter) {
        match letter {
            Letter::Resume(line) => self.resume(line).await,
            Letter::Order(line, order, text) => {
                // Whoever brings the order wants the news.
                self.take(line).await;
                self.happen(Event::Ordered(order, text)).await;
            }
            Letter::Abandon(line, decline) => {
                self.take(line).await;
                self.happen(Event::Abandoned(decline)).await;
            }
            Letter::Executor(link) => self.meet(link).await,
            Letter::Preempted => self.happen(Event::Preempted).await,
        }
    }

    async fn resume(&mut self, line: Line) {
        let keeps_its_own = self
            .line
            .as_ref()
            .is_some_and(|own| own.id != line.id && own.is_open());
        if keeps_its_own {
            return;
        }
        let has_unsaid = !self.undelivered.is_empty();
        self.take(line).await;
        // What was waiting includes the readiness, if that is what it waits for.
        if !has_unsaid {
            self.happen(Event::Resumed).await;
        }
        self.deliver_outcome().await;
    }

    /// Makes `line` the job's connection and sends what could not be sent before.
    async fn take(&mut self, line: Line) {
        self.line = Some(line);
        for message in std::mem::take(&mut self.undelivered) {
            self.tell(message).await;
        }
    }

    async fn meet(&mut self, link: Link) {
        if self.executor.is_some() || !self.job.is_waiting_for_executor() {
            refuse_executor(&link, not_waiting(&self.order.token)).await;
            return;
        }
        self.executor = Some(link);
        self.happen(Event::Connected).await;
    }

    async fn hear(&mut self, event: net::Event) {
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

    /// Lets the job decide, and does what it says.
    async fn happen(&mut self, event: Event) {
        if let Some(step) = step_of(&event) {
            self.miner.ledger.note(&self.order.job, step);
        }
        for effect in self.job.on(event) {
            match effect {
                Effect::Instruct(message) => self.instruct(*message).await,
                Effect::Tell(message) => self.tell(message).await,
                Effect::Vouch(message) => {
                    let vouched = self.vouch(message);
                    self.tell(vouched.into()).await;
                }
                Effect::NoteReady => self.note_ready().await,
                Effect::NoteOrder(text) => self.note_order(text).await,
                Effect::End(outcome) => self.end(outcome).await,
                Effect::Kill => {
                    if let Some(running) = &mut self.running {
                        running.kill().await;
                    }
                    self.running = None;
                    self.executor = None;
                }
            }
        }
    }

    async fn instruct(&mut self, message: miner_executor::Down) {
        if let Some(link) = &self.executor {
            // Its end is heard of on the receiving side.
            drop(timeout(SEND_TIME, link.send(message.encode())).await);
        }
    }

    async fn tell(&mut self, message: validator_miner::Up) {
        if !self.send(message.encode()).await {
            if self.undelivered.len() >= UNDELIVERED_MAX {
                self.undelivered.pop_front();
            }
            self.undelivered.push_back(message);
        }
    }

    async fn send(&mut self, text: String) -> bool {
        let Some(line) = &self.line else { return false };
        let is_sent = matches!(timeout(SEND_TIME, line.sender.send(text)).await, Ok(Ok(())));
        if !is_sent {
            self.line = None;
        }
        is_sent
    }

    fn vouch(&self, message: StreamingReady) -> StreamingReady {
        let ip = self.address.to_string();
        let blob = streaming_blob(
            self.order.job.as_str(),
            Some(&ip),
            message.port,
            &message.public_key,
        );
        StreamingReady {
            executor_token: None,
            ip: Some(ip),
            miner_signature: Some(self.miner.keypair.sign(&blob).to_hex_prefixed()),
            ..message
        }
    }

    async fn note_ready(&self) {
        let noted = self
            .miner
            .store
            .executor_ready(&self.order.job, self.address.to_string(), self.now())
            .await;
        if let Err(error) = noted {
            tracing::error!(job = %self.order.job, %error, "cannot note that the executor is ready");
        }
    }

    async fn note_order(&self, text: String) {
        if let Err(error) = self.miner.store.ordered(&self.order.job, text, self.now()).await {
            tracing::error!(job = %self.order.job, %error, "cannot note the order");
        }
    }

    async fn end(&mut self, outcome: Outcome) {
        let job = &self.order.job;
        let state = if outcome.is_success {
            JobState::Finished
        } else {
            JobState::Failed
        };
        tracing::info!(%job, state = state.as_str(), outcome = outcome.message.message_type(), "job ended");
        let (ended, reason) = ending(&outcome);
        self.miner.metrics.job_ended(ended, reason);
        self.deadline = self.deadline.min(Instant::now() + LEAVE_TIME);
        self.miner.pool.note_leaving(job);
        if let Err(error) = self
            .miner
            .store
            .end(job, state, outcome.message.encode(), self.now())
            .await
        {
            // The validator is told all the same; a restart will call the job failed.
            tracing::error!(%job, %error, "cannot keep the outcome");
        }
        self.outcome = Some(outcome.message);
        self.deliver_outcome().await;
    }

    async fn deliver_outcome(&mut self) {
        if !self.undelivered.is_empty() {
            // The validator waits for the steps in their order.
            return;
        }
        let (Some(outcome), Some(line)) = (&self.outcome, &self.line) else {
            return;
        };
        if self
            .miner
            .deliver(&self.order.job, &outcome.encode(), &line.sender)
            .await
        {
            self.outcome = None;
        } else {
            self.line = None;
        }
    }

    fn now(&self) -> OffsetDateTime {
        self.miner.clock.now()
    }
}

/// Returns how a job ended, in the words by which it is counted.
fn ending(outcome: &Outcome) -> (Ended, &'static str) {
    match &outcome.message {
        validator_miner::Up::JobFailed(failed) => (Ended::JobFailed, failed.reason.as_str()),
        validator_miner::Up::HordeFailed(failed) => (Ended::HordeFailed, failed.reason.as_str()),
        _ if outcome.is_success => (Ended::Finished, ""),
        _ => (Ended::HordeFailed, "unknown"),
    }
}

/// Waits for news of the executor; for ever when it is not connected.
async fn hear(executor: &mut Option<Link>) -> net::Event {
    match executor {
        Some(link) => link.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for the exit of the executor; for ever when there is none.
async fn exit(running: &mut Option<Box<dyn Running>>, job: &JobId) -> Exit {
    match running {
        Some(running) => {
            let exit = running.wait().await;
            tracing::debug!(%job, %exit, "executor exited");
            exit
        }
        None => std::future::pending().await,
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
        link.close(close_code::NORMAL, "").await;
    }
}

/// An error with its sources, in one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
