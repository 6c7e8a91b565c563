//! The keeper of one job: starts its executor, relays between executor and validator, gives the slot back.
//!
//! A keeper's own state is in the store as well: a next life of the miner makes one again from there
//! ([`Keeper::adopt`]), with an executor that is still to come back.

mod cancel;
mod executor;
mod output;
mod validator;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::executor::{not_waiting, refuse_executor};
use self::output::Relay;
use super::Miner;
use super::backend::{ExecutorOrder, Exit, Running};
use super::job::{Effect, Event, Job, Outcome};
use super::ledger::{Step, step_of};
use super::line::{Line, Lines};
use super::ports::PortLease;
use crate::core::model::JobId;
use crate::core::model::executor::UNHEALTHY;
use crate::core::net::{self, Link, close_code};
use crate::core::proto::job::{CANCELLED_KEY, FullJob, InitialJob};
use crate::core::proto::validator_miner::{Declined, Up};
use crate::core::store::miner::JobState;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Outcome as Counted;

/// Letters that wait for a keeper; senders wait beyond that.
pub const LETTERS: usize = 16;

/// Longest wait for room in the queue of a validator's connection before it counts as gone.
const SEND_TIME: Duration = Duration::from_secs(10);

/// Time that an executor has to come back, besides that which it takes itself: for a last attempt that is under way.
const RETURN_SLACK: Duration = Duration::from_secs(10);

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
    /// Its user has cancelled it, as the validator says on this connection; none where a former life was told.
    Cancelled(Option<Line>),
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

/// A job of a former life that needs a keeper again.
#[derive(Debug)]
pub struct Adoption {
    /// The job, as far as it was.
    pub job: Job,
    /// The executor's order.
    pub order: ExecutorOrder,
    /// The executor, if it still runs; else it is to be started.
    pub running: Option<Box<dyn Running>>,
    /// The port that the former life had taken for a streaming job.
    pub port: Option<PortLease>,
    /// Whether the job streams.
    pub is_streaming: bool,
    /// How long the executor may still live.
    pub time_left: Duration,
    /// The outcome, where there is one.
    pub outcome: Option<String>,
}

/// The keeper of one job.
#[derive(Debug)]
pub struct Keeper {
    miner: Arc<Miner>,
    order: ExecutorOrder,
    /// Whether its executor is to be found by a client at a port of this machine.
    needs_port: bool,
    /// Given back with the keeper: by then the executor is gone.
    port: Option<PortLease>,
    address: String,
    job: Job,
    lines: Lines,
    /// Whether something could not be sent to the validator.
    has_missed: bool,
    letters: mpsc::Receiver<Letter>,
    executor: Option<Link>,
    running: Option<Box<dyn Running>>,
    /// Whether the executor said that its machine is not fit for another job.
    is_unhealthy: bool,
    /// When the executor is ended by force.
    deadline: Instant,
    /// When an executor that has lost its link counts as lost itself.
    return_by: Option<Instant>,
    /// When an executor that was to end a cancelled job is ended itself.
    cancel_by: Option<Instant>,
    relay: Relay,
    outcome: Option<Ended>,
    part: Part,
}

/// What the keeper has to do with the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It looks after it.
    Keeping,
    /// Executor and slot are left to a next life.
    Left,
    /// No executor is wanted any more.
    Done,
}

/// The end of the job, as its validator is told.
#[derive(Debug)]
struct Ended {
    message: String,
    /// Whether it is on the disk.
    is_kept: bool,
}

/// What the keeper's loop wakes up for.
enum Wake {
    Stop,
    Letter(Letter),
    Executor(net::Event),
    Exit(Exit),
    Deadline,
    Absent,
    CancelOverdue,
    Relay,
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
        let reach = miner.backend.reach(order.class, order.slot);
        let address = reach.address.unwrap_or_else(|| address.to_string());
        let is_streaming = request.streaming_details.is_some();
        let mut lines = Lines::default();
        lines.add(line);
        let job = Job::new(request, &address);
        Self {
            miner,
            order,
            needs_port: is_streaming && reach.is_local,
            port: None,
            address,
            job,
            lines,
            has_missed: false,
            letters,
            executor: None,
            running: None,
            is_unhealthy: false,
            deadline: Instant::now() + NEVER,
            return_by: None,
            cancel_by: None,
            relay: Relay::default(),
            outcome: None,
            part: Part::Keeping,
        }
    }

    /// Makes a keeper that goes on with a job of a former life.
    pub fn adopt(miner: Arc<Miner>, adoption: Adoption, letters: mpsc::Receiver<Letter>) -> Self {
        let Adoption {
            job,
            order,
            running,
            port,
            is_streaming,
            time_left,
            outcome,
        } = adoption;
        let now = Instant::now();
        let reach = miner.backend.reach(order.class, order.slot);
        let address = reach.address.unwrap_or_else(|| miner.address().to_string());
        let return_time = miner.config.executor_reconnect + RETURN_SLACK;
        // One that has reported needs no more than a thank-you.
        let time_left = if job.is_over() {
            time_left.min(LEAVE_TIME)
        } else {
            time_left
        };
        Self {
            miner,
            order,
            needs_port: is_streaming && reach.is_local,
            port,
            address,
            job,
            lines: Lines::default(),
            has_missed: true,
            letters,
            executor: None,
            return_by: running.is_some().then_some(now + return_time),
            running,
            is_unhealthy: false,
            deadline: now + time_left,
            cancel_by: None,
            relay: Relay::default(),
            outcome: outcome.map(|message| Ended {
                message,
                is_kept: true,
            }),
            part: Part::Keeping,
        }
    }

    /// Returns the job.
    pub fn job(&self) -> &JobId {
        &self.order.job
    }

    /// Returns the token of the job's executor.
    pub fn token(&self) -> &str {
        &self.order.token
    }

    /// Keeps the job until its executor is gone, or until a next life of the miner is to go on with it.
    pub async fn run(mut self, tasks: Tasks) {
        if self.running.is_some() {
            self.look_after(&tasks).await;
        } else if self.needs_port && !self.take_port().await {
            tracing::error!(job = %self.order.job, "no port of miner.streaming_ports is free for a streaming job");
            self.happen(Event::StartFailed).await;
        } else {
            self.employ(&tasks).await;
        }
        if self.part == Part::Left {
            self.miner.pool.leave(&self.order.job);
        } else if self.is_unhealthy {
            self.rest_the_slot(&tasks);
        } else {
            self.miner.pool.release(&self.order.job).await;
        }
        self.miner.shares.end(&self.order.job);
        if self.part == Part::Keeping {
            self.part = Part::Done;
        }
        self.letters.close();
        // An executor that came too late hears the reason; a validator that came meanwhile gets its outcome.
        while let Some(letter) = self.letters.recv().await {
            self.read(letter).await;
        }
    }

    async fn take_port(&mut self) -> bool {
        if self.port.is_none() {
            self.port = self.miner.ports.lease();
        }
        self.order.streaming_port = self.port.as_ref().map(PortLease::port);
        let Some(port) = self.order.streaming_port else {
            return false;
        };
        if let Err(error) = self.miner.store.port_taken(&self.order.job, port).await {
            // A next life would not know it, and might give it to another job.
            tracing::error!(job = %self.order.job, %error, "cannot note the port of a streaming job");
        }
        true
    }

    async fn employ(&mut self, tasks: &Tasks) {
        match self.miner.backend.start(&self.order).await {
            Ok(running) => {
                self.deadline = Instant::now() + self.miner.config.executor_ttl;
                self.miner.ledger.note(&self.order.job, Step::ExecutorStarted);
                let process = running.process();
                self.running = Some(running);
                let noted = self.miner.store.started(&self.order.job, process, self.now());
                if let Err(error) = noted.await {
                    tracing::error!(job = %self.order.job, %error, "cannot note that the executor was started");
                }
                self.look_after(tasks).await;
            }
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

    async fn look_after(&mut self, tasks: &Tasks) {
        if let Some(address) = self.running.as_ref().and_then(|running| running.address()) {
            self.address = address.to_string();
            self.job.move_to(&self.address);
        }
        let stop = tasks.token();
        let mut is_stopping = false;
        while self.running.is_some() || self.executor.is_some() {
            let (return_by, cancel_by, relay_at) = (self.return_by, self.cancel_by, self.relay.due());
            let wake = tokio::select! {
                biased;
                () = stop.cancelled(), if !is_stopping => Wake::Stop,
                Some(letter) = self.letters.recv() => Wake::Letter(letter),
                event = hear(&mut self.executor) => Wake::Executor(event),
                exit = exit(&mut self.running, &self.order.job) => Wake::Exit(exit),
                () = sleep_until(self.deadline) => Wake::Deadline,
                () = sleep_until(return_by.unwrap_or(self.deadline)), if return_by.is_some() => Wake::Absent,
                () = sleep_until(cancel_by.unwrap_or(self.deadline)), if cancel_by.is_some() => Wake::CancelOverdue,
                () = sleep_until(relay_at.unwrap_or(self.deadline)), if relay_at.is_some() => Wake::Relay,
            };
            match wake {
                Wake::Stop => {
                    is_stopping = true;
                    let may_leave = self.miner.leaves_jobs;
                    self.happen(Event::Stopping { may_leave }).await;
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
                Wake::CancelOverdue => self.on_cancel_overdue().await,
                Wake::Relay => self.pass_on_output(),
                Wake::Absent => {
                    self.return_by = None;
                    tracing::warn!(job = %self.order.job, "the executor has not come back");
                    let limit = self.miner.config.executor_reconnect + RETURN_SLACK;
                    self.happen(Event::Absent(limit)).await;
                }
            }
        }
        if self.part == Part::Keeping {
            self.happen(Event::Exited).await;
        }
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
            Letter::Cancelled(line) => {
                if let Some(line) = line {
                    self.take(line).await;
                }
                self.happen(Event::Cancelled).await;
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
                Effect::NoteReady { resumes } => self.note_ready(resumes).await,
                Effect::NoteOrder(text) => self.note_order(text).await,
                Effect::End(outcome) => self.end(outcome).await,
                Effect::PassOutput(piece) => self.take_output(&piece),
                Effect::NoteCancel => self.note_cancel().await,
                Effect::AwaitCancel => self.await_cancel(),
                Effect::Oust(report) => self.oust(*report).await,
                Effect::Thank => self.thank().await,
                Effect::Await => {
                    let patience = self.miner.config.executor_reconnect + RETURN_SLACK;
                    self.return_by = Some(Instant::now() + patience);
                }
                Effect::Doom => self.doom().await,
                Effect::Kill => {
                    if let Some(running) = &mut self.running {
                        running.kill().await;
                    }
                    self.let_go();
                }
                Effect::Leave => {
                    tracing::info!(job = %self.order.job, "the job is left running for the next start of this miner");
                    self.part = Part::Left;
                    self.let_go();
                }
            }
        }
    }

    fn let_go(&mut self) {
        self.running = None;
        self.executor = None;
        self.return_by = None;
        self.cancel_by = None;
    }

    async fn note_ready(&self, resumes: bool) {
        let noted = self
            .miner
            .store
            .executor_ready(&self.order.job, self.address.clone(), resumes, self.now())
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
        self.cancel_by = None;
        self.miner.pool.note_leaving(job);
        let text = outcome.message.encode();
        let kept = self
            .miner
            .store
            .end(job, state, text.clone(), outcome.is_doomed, self.now())
            .await;
        if let Err(error) = &kept {
            // The validator is told all the same; a restart will call the job failed.
            tracing::error!(%job, %error, "cannot keep the outcome");
        }
        self.outcome = Some(Ended {
            message: text,
            is_kept: kept.is_ok(),
        });
        self.deliver_outcome().await;
    }

    async fn doom(&self) {
        if let Err(error) = self.miner.store.doomed(&self.order.job, self.now()).await {
            tracing::error!(job = %self.order.job, %error, "cannot note that an executor is to be ended");
        }
    }

    fn now(&self) -> OffsetDateTime {
        self.miner.clock.now()
    }
}

/// Returns how a job ended, in the words by which it is counted.
fn ending(outcome: &Outcome) -> (Counted, &'static str) {
    match &outcome.message {
        Up::JobFailed(failed) if failed.is_cancelled() => (Counted::JobFailed, CANCELLED_KEY),
        Up::JobFailed(failed) => (Counted::JobFailed, failed.reason.as_str()),
        Up::HordeFailed(failed) => (Counted::HordeFailed, failed.reason.as_str()),
        _ if outcome.is_success => (Counted::Finished, ""),
        _ => (Counted::HordeFailed, "unknown"),
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
