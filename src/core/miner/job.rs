//! One accepted job as the miner sees it: what follows from each event, between validator and executor.
//!
//! ```text
//! Starting ──connected──▶ Preparing ──ready──▶ Ready ──order──▶ Running ──result──▶ Over
//!     └──────────┴──────── lost, expired, abandoned, stopping ─────┴──────────────────▲
//! ```
//!
//! Every path ends in exactly one [`Effect::End`]. Nothing here limits a stage: the executor does, and its time to
//! live does for all that goes wrong.
#![warn(clippy::wildcard_enum_match_arm)]

use std::net::IpAddr;
use std::time::Duration;

use crate::core::model::JobId;
use crate::core::model::job::{HordeReason, Participant};
use crate::core::proto::job::{
    ExecutorReady, FullJob, GenericError, HordeFailed, InitialJob, StreamingReady,
};
use crate::core::proto::miner_executor::{Down, Up};
use crate::core::proto::validator_miner::{self, Declined};

/// What happens to a job.
#[derive(Debug)]
pub enum Event {
    /// Its executor could not be started.
    StartFailed,
    /// Its executor has connected.
    Connected,
    /// Its executor says something.
    Said(Up),
    /// The executor's connection has ended with this close code.
    Disconnected(u16),
    /// The executor has exited.
    Exited,
    /// The executor has outlived its time.
    Expired(Duration),
    /// The validator sent the full order, here with its text as received.
    Ordered(Box<FullJob>, String),
    /// The job is given up; this is what to tell the validator.
    Abandoned(Declined),
    /// A connection of the validator has taken the job over.
    Resumed,
    /// The miner is stopping.
    Stopping,
}

/// What the driver has to do; effects are carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Sends a message to the executor.
    Instruct(Box<Down>),
    /// Sends a message to the validator.
    Tell(validator_miner::Up),
    /// Fills in the address, signs, and sends to the validator.
    Vouch(StreamingReady),
    /// Notes that the executor is ready.
    NoteReady,
    /// Notes that the executor has the full order, here as received.
    NoteOrder(String),
    /// Keeps the outcome, then tells it to the validator.
    End(Outcome),
    /// Ends the executor.
    Kill,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether there are results.
    pub is_success: bool,
    /// What the validator is told.
    pub message: validator_miner::Up,
}

/// A full order that came before its executor was ready, and its text as received.
type HeldOrder = (Box<FullJob>, String);

#[derive(Debug, Default)]
enum State {
    Starting {
        request: Box<InitialJob>,
        order: Option<HeldOrder>,
    },
    Preparing {
        order: Option<HeldOrder>,
    },
    Ready,
    Running,
    #[default]
    Over,
}

/// A job and where it stands.
#[derive(Debug)]
pub struct Job {
    id: JobId,
    has_volume: bool,
    state: State,
}

impl Job {
    /// Begins with a job that was accepted; `address` is where its executor can be reached.
    pub fn new(mut request: Box<InitialJob>, address: IpAddr) -> Self {
        // The signature is between validator and miner.
        request.validator_signature = None;
        if let Some(streaming) = &mut request.streaming_details {
            streaming.executor_ip = Some(address.to_string());
        }
        Self {
            id: request.job_uuid.clone(),
            has_volume: request.volume.is_some(),
            state: State::Starting { request, order: None },
        }
    }

    /// Tells whether an executor may still come.
    pub fn is_waiting_for_executor(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Tells whether the job has its outcome.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Returns what follows from an event.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        if self.is_over() {
            return match event {
                // The executor may be left in the middle of something; nobody waits for it any more.
                Event::Expired(_) | Event::Stopping => vec![Effect::Kill],
                Event::Ordered(..) => vec![self.unknown_order()],
                Event::StartFailed
                | Event::Connected
                | Event::Said(_)
                | Event::Disconnected(_)
                | Event::Exited
                | Event::Abandoned(_)
                | Event::Resumed => Vec::new(),
            };
        }
        match event {
            Event::StartFailed => self.fail(
                HordeReason::ExecutorSpinupFailed,
                "Executor failed to start".to_owned(),
            ),
            Event::Connected => self.on_connected(),
            Event::Said(message) => self.on_said(message),
            Event::Disconnected(code) => self.fail(
                HordeReason::ExecutorDisconnected,
                format!("Executor disconnected while job was running (code: {code})"),
            ),
            Event::Exited => match self.state {
                State::Starting { .. } => self.fail(
                    HordeReason::ExecutorSpinupFailed,
                    "Executor failed to start".to_owned(),
                ),
                State::Preparing { .. } | State::Ready | State::Running | State::Over => self.fail(
                    HordeReason::ExecutorDisconnected,
                    "Executor exited while job was running".to_owned(),
                ),
            },
            Event::Expired(limit) => {
                let message = format!("Executor outlived its time to live of {} s", limit.as_secs());
                self.fail_and_kill(HordeReason::UnhandledTimeout, message)
            }
            Event::Ordered(order, text) => self.on_ordered(order, text),
            Event::Abandoned(decline) => {
                self.state = State::Over;
                let outcome = Outcome {
                    is_success: false,
                    message: decline.into(),
                };
                vec![Effect::End(outcome), Effect::Kill]
            }
            Event::Resumed => match self.state {
                State::Ready => vec![Effect::Tell(self.ready())],
                State::Starting { .. } | State::Preparing { .. } | State::Running | State::Over => Vec::new(),
            },
            Event::Stopping => self.fail_and_kill(
                HordeReason::ExecutorDisconnected,
                "Miner was stopped while job was running".to_owned(),
            ),
        }
    }

    fn on_connected(&mut self) -> Vec<Effect> {
        match std::mem::take(&mut self.state) {
            State::Starting { request, order } => {
                self.state = State::Preparing { order };
                vec![Effect::Instruct(Box::new((*request).into()))]
            }
            other @ (State::Preparing { .. } | State::Ready | State::Running | State::Over) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    fn on_said(&mut self, message: Up) -> Vec<Effect> {
        if message.job_uuid().is_some_and(|job| job != &self.id) {
            return vec![scold(format!("This connection is for job {}", self.id))];
        }
        match message {
            Up::ExecutorReady(_) => self.on_ready(),
            Up::StreamingReady(message) => vec![Effect::Vouch(message)],
            Up::VolumesReady(message) => vec![Effect::Tell(message.into())],
            Up::ExecutionDone(message) => vec![Effect::Tell(message.into())],
            Up::MachineSpecs(message) => vec![Effect::Tell(message.into())],
            Up::JobFinished(message) => match self.state {
                State::Running => self.end(true, message.into()),
                State::Starting { .. } | State::Preparing { .. } | State::Ready | State::Over => {
                    vec![scold("The job has not been ordered yet".to_owned())]
                }
            },
            Up::JobFailed(message) => self.end(false, message.into()),
            Up::HordeFailed(message) => self.end(false, message.into()),
            Up::ExecutorFailed(message) => self.end(false, message.into_horde_failed().into()),
            Up::StreamingNotReady(message) => self.end(false, message.into_horde_failed().into()),
            Up::GenericError(error) => {
                tracing::warn!(job = %self.id, details = error.details.unwrap_or_default(), "the executor complains");
                Vec::new()
            }
        }
    }

    fn on_ready(&mut self) -> Vec<Effect> {
        match std::mem::take(&mut self.state) {
            State::Preparing { order } => {
                self.state = State::Ready;
                let mut effects = vec![Effect::Tell(self.ready()), Effect::NoteReady];
                if let Some((order, text)) = order {
                    self.state = State::Running;
                    effects.extend([
                        Effect::Instruct(Box::new((*order).into())),
                        Effect::NoteOrder(text),
                    ]);
                }
                effects
            }
            other @ (State::Starting { .. } | State::Ready | State::Running | State::Over) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    fn on_ordered(&mut self, mut order: Box<FullJob>, text: String) -> Vec<Effect> {
        order.validator_signature = None;
        if self.has_volume && order.volume.is_some() {
            return vec![complain(format!(
                "Received job volume twice job_uuid: {}",
                self.id
            ))];
        }
        let twice = complain(format!("Received JobRequest twice job_uuid: {}", self.id));
        match &mut self.state {
            // A validator that does not wait for the executor: the order waits instead.
            State::Starting { order: held, .. } | State::Preparing { order: held } => {
                if held.is_some() {
                    return vec![twice];
                }
                *held = Some((order, text));
                Vec::new()
            }
            State::Ready => {
                self.state = State::Running;
                vec![
                    Effect::Instruct(Box::new((*order).into())),
                    Effect::NoteOrder(text),
                ]
            }
            State::Running => vec![twice],
            State::Over => vec![self.unknown_order()],
        }
    }

    fn unknown_order(&self) -> Effect {
        complain(unknown_job("JobRequest", &self.id))
    }

    fn ready(&self) -> validator_miner::Up {
        let ready = ExecutorReady {
            job_uuid: self.id.clone(),
            executor_token: None,
        };
        ready.into()
    }

    fn end(&mut self, is_success: bool, message: validator_miner::Up) -> Vec<Effect> {
        self.state = State::Over;
        vec![Effect::End(Outcome { is_success, message })]
    }

    fn fail(&mut self, reason: HordeReason, message: String) -> Vec<Effect> {
        let failed = miner_failed(&self.id, reason, message);
        self.end(false, failed.into())
    }

    fn fail_and_kill(&mut self, reason: HordeReason, message: String) -> Vec<Effect> {
        let mut effects = self.fail(reason, message);
        effects.push(Effect::Kill);
        effects
    }
}

/// Makes a failure that the miner itself reports.
pub fn miner_failed(job: &JobId, reason: HordeReason, message: String) -> HordeFailed {
    HordeFailed {
        job_uuid: job.clone(),
        reported_by: Participant::Miner,
        message,
        reason,
        context: None,
    }
}

/// Returns the words for a message about a job that the validator has not got here (wire-miner-validator §5).
pub fn unknown_job(message: &str, job: &JobId) -> String {
    let job: String = job.as_str().chars().take(100).collect();
    format!("Received {message} for unknown job_uuid: {job}")
}

fn complain(details: String) -> Effect {
    Effect::Tell(GenericError::new(details).into())
}

fn scold(details: String) -> Effect {
    Effect::Instruct(Box::new(GenericError::new(details).into()))
}
