//! One accepted job as the miner sees it: what follows from each event, between validator and executor.
//!
//! ```text
//! Starting ──connected──▶ Preparing ──ready──▶ Ready ──order──▶ Running ──result──▶ Over
//!     └──────────┴──────── lost, expired, abandoned, stopping ─────┴──────────────────▲
//! ```
//!
//! Every path ends in exactly one [`Effect::End`], unless the miner ends first and leaves the job to its next life
//! ([`Effect::Leave`]), which goes on with it ([`Job::adopted`]). Nothing here limits a stage: the executor does, and its
//! time to live does for all that goes wrong.
//!
//! An executor that agreed to resume (`proto::miner_executor::EXTENSION_RESUME`) may lose its link: the job waits for
//! it. What it tells again changes nothing, and is passed on once.
#![warn(clippy::wildcard_enum_match_arm)]

mod cancel;

use std::time::Duration;

use self::cancel::Cancel;
use super::output::Output;
use crate::core::model::JobId;
use crate::core::model::job::{HordeReason, Participant};
use crate::core::proto::job::{
    ARTIFACT_VERDICTS_MAX, ArtifactVerdict, ArtifactVerdicts, ExecutorReady, FullJob, GenericError,
    HordeFailed, InitialJob, JobFailed, JobOutput, StreamingReady,
};
use crate::core::proto::miner_executor::{Down, Resumes, Up};
use crate::core::proto::validator_miner::{self, Accepted, Declined};
use crate::core::store::miner::JobState;

/// What happens to a job.
#[derive(Debug)]
pub enum Event {
    /// Its executor could not be started.
    StartFailed,
    /// Its executor has connected, and said whether it survives the loss of the link.
    Connected {
        /// Whether it does.
        resumes: bool,
        /// Whether it can be asked to end a job that was cancelled.
        cancels: bool,
    },
    /// Its executor says something.
    Said(Up),
    /// The executor's connection has ended with this close code.
    Disconnected(u16),
    /// An executor that was to come back has not done so in this time.
    Absent(Duration),
    /// The executor has exited.
    Exited,
    /// The executor has outlived its time.
    Expired(Duration),
    /// The validator sent the full order, here with its text as received.
    Ordered(Box<FullJob>, String),
    /// The job is given up; this is what to tell the validator.
    Abandoned(Declined),
    /// A connection of the validator has taken the job over; the validator may have missed what was said before.
    Resumed {
        /// Whether it has shown that it knows of the acceptance.
        knows_acceptance: bool,
    },
    /// Another validator, within its share, needs the executor.
    Preempted,
    /// The user has cancelled it.
    Cancelled,
    /// The executor has not ended a cancelled job in this time.
    CancelOverdue(Duration),
    /// The miner is stopping.
    Stopping {
        /// Whether a next life of it may go on with what can wait.
        may_leave: bool,
    },
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
    /// Notes that the executor is ready, and whether it survives the loss of its link.
    NoteReady {
        /// Whether it does.
        resumes: bool,
    },
    /// Keeps the full order, here as received, before the executor gets it.
    NoteOrder(String),
    /// Keeps the outcome, then tells it to the validator.
    End(Outcome),
    /// Passes on what the job has written, to whoever follows it.
    PassOutput(JobOutput),
    /// Notes that the user has cancelled the job, before anything is done about it.
    NoteCancel,
    /// Gives the executor its time to end a cancelled job.
    AwaitCancel,
    /// Ends the executor and all that it made, then the job with this: its user has cancelled it.
    Oust(Box<JobFailed>),
    /// Tells the executor that its report is kept, if it is.
    Thank,
    /// Gives the executor its time to come back.
    Await,
    /// Notes that the executor of a job that is over is to be ended by force.
    Doom,
    /// Ends the executor.
    Kill,
    /// Leaves executor, slot and all to the miner's next life.
    Leave,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether there are results.
    pub is_success: bool,
    /// Whether the executor is to be ended by force.
    pub is_doomed: bool,
    /// What the validator is told.
    pub message: validator_miner::Up,
}

/// A full order that came before its executor was ready; it is kept on the disk already.
type HeldOrder = Box<FullJob>;

#[derive(Debug, Default)]
enum State {
    Starting {
        request: Box<InitialJob>,
        order: Option<HeldOrder>,
    },
    Preparing {
        /// For an executor that loses its link before it has got it; none where it cannot come back.
        request: Option<Box<InitialJob>>,
        order: Option<HeldOrder>,
    },
    Ready,
    Running {
        /// For an executor that loses its link before it has got it.
        order: Option<Box<FullJob>>,
    },
    #[default]
    Over,
}

/// A job and where it stands.
#[derive(Debug)]
pub struct Job {
    id: JobId,
    has_volume: bool,
    state: State,
    output: Output,
    /// Whether the executor survives the loss of its link.
    resumes: bool,
    /// Whether the first request was sent on the executor's present link.
    is_asked: bool,
    cancel: Cancel,
    /// What was passed on to the validator, each kind once: it is said again to one that comes back.
    told: Vec<Effect>,
}

impl Job {
    /// Begins with a job that was accepted; `address` is where its executor can be reached.
    pub fn new(mut request: Box<InitialJob>, address: &str) -> Self {
        // The signature is between validator and miner.
        request.validator_signature = None;
        if let Some(streaming) = &mut request.streaming_details {
            streaming.executor_ip = Some(address.to_owned());
        }
        Self {
            id: request.job_uuid.clone(),
            has_volume: request.volume.is_some(),
            state: State::Starting { request, order: None },
            output: Output::default(),
            resumes: false,
            is_asked: false,
            cancel: Cancel::default(),
            told: Vec::new(),
        }
    }

    /// Goes on with a job of a former life that stood at `state`; `order` is what that life had kept.
    pub fn adopted(
        request: Box<InitialJob>,
        address: &str,
        state: JobState,
        order: Option<Box<FullJob>>,
        resumes: bool,
    ) -> Self {
        let mut job = Self::new(request, address);
        job.resumes = resumes;
        let order = order.map(|mut order| {
            order.validator_signature = None;
            order
        });
        job.state = match (state, std::mem::take(&mut job.state)) {
            (JobState::WaitingForExecutor, State::Starting { request, .. }) => {
                State::Starting { request, order }
            }
            (JobState::WaitingForPayload, _) => State::Ready,
            (JobState::Running, _) => State::Running { order },
            (
                JobState::WaitingForExecutor | JobState::Finished | JobState::Failed | JobState::Rejected,
                _,
            ) => State::Over,
        };
        job
    }

    /// Tells whether the executor survives the loss of its link.
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// Says where the executor can be reached after all; too late once it has its request.
    pub fn move_to(&mut self, address: &str) {
        if let State::Starting { request, .. } = &mut self.state
            && let Some(streaming) = &mut request.streaming_details
        {
            streaming.executor_ip = Some(address.to_owned());
        }
    }

    /// Tells whether an executor may still come.
    pub fn is_waiting_for_executor(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Returns what the job has written last, as far as its executor passes it on.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Tells whether the job has its outcome.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Returns what follows from an event.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        if self.is_over() {
            return self.on_after_end(event);
        }
        match event {
            Event::StartFailed => self.fail(
                HordeReason::ExecutorSpinupFailed,
                "Executor failed to start".to_owned(),
            ),
            Event::Connected { resumes, cancels } => {
                self.cancel.known = Some(cancels);
                self.on_connected(resumes)
            }
            Event::Said(message) => self.on_said(message),
            Event::Disconnected(_) if self.resumes => {
                self.is_asked = false;
                self.cancel.known = None;
                vec![Effect::Await]
            }
            Event::Disconnected(code) => self.fail(
                HordeReason::ExecutorDisconnected,
                format!("Executor disconnected while job was running (code: {code})"),
            ),
            Event::Absent(limit) => {
                let message = format!("Executor did not come back within {} s", limit.as_secs());
                self.fail_and_kill(HordeReason::ExecutorDisconnected, message)
            }
            Event::Exited => match self.state {
                State::Starting { .. } => self.fail(
                    HordeReason::ExecutorSpinupFailed,
                    "Executor failed to start".to_owned(),
                ),
                State::Preparing { .. } | State::Ready | State::Running { .. } | State::Over => self.fail(
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
                let mut effects = self.end(false, decline.into());
                doom(&mut effects);
                effects
            }
            Event::Resumed { knows_acceptance } => self.say_again(knows_acceptance),
            Event::Preempted => self.fail_and_kill(
                HordeReason::GenericError,
                "Best-effort job was stopped at a ten-minute boundary for one within its validator's share"
                    .to_owned(),
            ),
            Event::Cancelled => self.on_cancelled(),
            Event::CancelOverdue(limit) => self.on_cancel_overdue(limit),
            Event::Stopping { may_leave } if may_leave && self.resumes => vec![Effect::Leave],
            Event::Stopping { .. } => self.fail_and_kill(
                HordeReason::ExecutorDisconnected,
                "Miner was stopped while job was running".to_owned(),
            ),
        }
    }

    /// Returns what follows once there is an outcome: only the executor is still to be seen off.
    fn on_after_end(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Stopping { may_leave } if may_leave && self.resumes => vec![Effect::Leave],
            // The executor may be left in the middle of something; nobody waits for it any more.
            Event::Expired(_) | Event::Stopping { .. } => vec![Effect::Doom, Effect::Kill],
            Event::Ordered(..) => vec![self.unknown_order()],
            Event::Connected { resumes, .. } => {
                self.resumes |= resumes;
                Vec::new()
            }
            // Steps that the validator has not heard of yet, as its outcome may be unheard, too.
            Event::Said(message) if self.resumes => match message {
                message if message.is_report() => vec![Effect::Thank],
                Up::StreamingReady(message) => self.pass_on(Effect::Vouch(message)),
                Up::VolumesReady(message) => self.pass_on(Effect::Tell(message.into())),
                Up::ExecutionDone(message) => self.pass_on(Effect::Tell(message.into())),
                Up::MachineSpecs(message) => self.pass_on(Effect::Tell(message.into())),
                Up::ExecutorReady(_)
                | Up::JobFinished(_)
                | Up::JobFailed(_)
                | Up::HordeFailed(_)
                | Up::ExecutorFailed(_)
                | Up::StreamingNotReady(_)
                | Up::JobOutput(_)
                | Up::ArtifactVerdicts(_)
                | Up::Resumes(_)
                | Up::GenericError(_) => Vec::new(),
            },
            Event::Resumed { .. } => self.told.clone(),
            Event::StartFailed
            | Event::Said(_)
            | Event::Disconnected(_)
            | Event::Absent(_)
            | Event::Exited
            | Event::Abandoned(_)
            | Event::Cancelled
            | Event::CancelOverdue(_)
            | Event::Preempted => Vec::new(),
        }
    }

    /// Says what a validator may have missed. Each message fills its place at the validator once, so a repetition does
    /// no harm (wire-miner-validator §5); the reference repeats the readiness only (§8).
    fn say_again(&self, knows_acceptance: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !knows_acceptance {
            let job_uuid = self.id.clone();
            // Whether it may be stopped was told when it was accepted.
            let best_effort = None;
            effects.push(Effect::Tell(
                Accepted {
                    job_uuid,
                    best_effort,
                }
                .into(),
            ));
        }
        // Whoever sent the order had heard of it, and would send the order again.
        if matches!(self.state, State::Ready) {
            effects.push(Effect::Tell(self.ready()));
        }
        effects.extend(self.told.iter().cloned());
        effects
    }

    fn on_connected(&mut self, resumes: bool) -> Vec<Effect> {
        match std::mem::take(&mut self.state) {
            State::Starting { request, order } => {
                self.resumes = resumes;
                self.is_asked = true;
                self.state = State::Preparing {
                    request: resumes.then(|| request.clone()),
                    order,
                };
                vec![Effect::Instruct(Box::new((*request).into()))]
            }
            other @ (State::Preparing { .. } | State::Ready | State::Running { .. } | State::Over) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// Gives an executor that is back what it lacks.
    fn on_resumes(&mut self, has: &Resumes) -> Vec<Effect> {
        match &mut self.state {
            State::Preparing {
                request: Some(request),
                ..
            } if has.job_uuid.is_none() && !self.is_asked => {
                self.is_asked = true;
                vec![Effect::Instruct(Box::new((**request).clone().into()))]
            }
            State::Ready if has.is_ordered => {
                self.state = State::Running { order: None };
                Vec::new()
            }
            State::Running { order } if has.is_ordered => {
                *order = None;
                Vec::new()
            }
            State::Running { order: Some(order) } => {
                vec![Effect::Instruct(Box::new((**order).clone().into()))]
            }
            State::Starting { .. }
            | State::Preparing { .. }
            | State::Ready
            | State::Running { .. }
            | State::Over => Vec::new(),
        }
    }

    fn on_said(&mut self, message: Up) -> Vec<Effect> {
        if message.job_uuid().is_some_and(|job| job != &self.id) {
            return vec![scold(format!("This connection is for job {}", self.id))];
        }
        match message {
            Up::ExecutorReady(_) => self.on_ready(),
            Up::StreamingReady(message) => self.pass_on(Effect::Vouch(message)),
            Up::VolumesReady(message) => self.pass_on(Effect::Tell(message.into())),
            Up::ExecutionDone(message) => self.pass_on(Effect::Tell(message.into())),
            Up::MachineSpecs(message) => self.pass_on(Effect::Tell(message.into())),
            Up::JobFinished(message) => match self.state {
                State::Running { .. } => self.end_with_thanks(true, message.into()),
                State::Starting { .. } | State::Preparing { .. } | State::Ready | State::Over => {
                    vec![scold("The job has not been ordered yet".to_owned())]
                }
            },
            Up::JobFailed(message) => self.end_with_thanks(false, message.into()),
            Up::HordeFailed(message) => self.end_with_thanks(false, message.into()),
            Up::ExecutorFailed(message) => self.end_with_thanks(false, message.into_horde_failed().into()),
            Up::StreamingNotReady(message) => self.end_with_thanks(false, message.into_horde_failed().into()),
            Up::Resumes(has) => {
                let mut effects = self.on_resumes(&has);
                if self.cancel.is_asked {
                    effects.extend(self.pursue_cancel());
                }
                effects
            }
            Up::JobOutput(piece) => match self.output.add(&piece) {
                Ok(()) => vec![Effect::PassOutput(piece)],
                Err(error) => vec![scold(error.to_string())],
            },
            Up::ArtifactVerdicts(left_out) => {
                note_left_out(&self.id, left_out);
                Vec::new()
            }
            Up::GenericError(error) => {
                tracing::warn!(job = %self.id, details = error.details.unwrap_or_default(), "the executor complains");
                Vec::new()
            }
        }
    }

    /// Passes a step on to the validator; one that an executor tells again is known.
    fn pass_on(&mut self, effect: Effect) -> Vec<Effect> {
        if let State::Running { order } = &mut self.state {
            // Who has got so far has the order.
            *order = None;
        }
        if self.told.iter().any(|told| is_same_step(told, &effect)) {
            return if self.resumes { Vec::new() } else { vec![effect] };
        }
        self.told.push(effect.clone());
        vec![effect]
    }

    fn on_ready(&mut self) -> Vec<Effect> {
        match std::mem::take(&mut self.state) {
            State::Preparing { order, .. } => {
                let resumes = self.resumes;
                self.state = State::Ready;
                let mut effects = vec![Effect::Tell(self.ready()), Effect::NoteReady { resumes }];
                if let Some(order) = order {
                    effects.push(self.instruct(order));
                }
                effects
            }
            other @ (State::Starting { .. } | State::Ready | State::Running { .. } | State::Over) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// Begins to run: the executor gets its order.
    fn instruct(&mut self, order: Box<FullJob>) -> Effect {
        self.state = State::Running {
            order: self.resumes.then(|| order.clone()),
        };
        Effect::Instruct(Box::new((*order).into()))
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
            State::Starting { order: held, .. } | State::Preparing { order: held, .. } => {
                if held.is_some() {
                    return vec![twice];
                }
                *held = Some(order);
                vec![Effect::NoteOrder(text)]
            }
            State::Ready => vec![Effect::NoteOrder(text), self.instruct(order)],
            State::Running { .. } => vec![twice],
            State::Over => vec![self.unknown_order()],
        }
    }

    fn unknown_order(&self) -> Effect {
        Effect::Tell(GenericError::unknown_job("JobRequest", &self.id).into())
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
        vec![Effect::End(Outcome {
            is_success,
            is_doomed: false,
            message,
        })]
    }

    fn end_with_thanks(&mut self, is_success: bool, message: validator_miner::Up) -> Vec<Effect> {
        let mut effects = self.end(is_success, message);
        if self.resumes {
            effects.push(Effect::Thank);
        }
        effects
    }

    fn fail(&mut self, reason: HordeReason, message: String) -> Vec<Effect> {
        let failed = HordeFailed {
            // How far it was: nobody else can say any more.
            context: self.output.context(),
            ..miner_failed(&self.id, reason, message)
        };
        self.end(false, failed.into())
    }

    fn fail_and_kill(&mut self, reason: HordeReason, message: String) -> Vec<Effect> {
        let mut effects = self.fail(reason, message);
        doom(&mut effects);
        effects
    }
}

/// Adds to an end that the executor is to be ended with it.
fn doom(effects: &mut Vec<Effect>) {
    if let Some(Effect::End(outcome)) = effects.first_mut() {
        outcome.is_doomed = true;
    }
    effects.push(Effect::Kill);
}

/// Tells whether two effects pass the same kind of step on.
fn is_same_step(one: &Effect, other: &Effect) -> bool {
    match (one, other) {
        (Effect::Tell(one), Effect::Tell(other)) => one.message_type() == other.message_type(),
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
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

fn complain(details: String) -> Effect {
    Effect::Tell(GenericError::new(details).into())
}

/// Tells the operator's log which artifacts a job's report will not hold; validators have no word for it.
fn note_left_out(job: &JobId, left_out: ArtifactVerdicts) {
    let mut unnamed = left_out.more;
    for (place, ArtifactVerdict { path, verdict }) in left_out.verdicts.into_iter().enumerate() {
        if place < ARTIFACT_VERDICTS_MAX {
            tracing::info!(%job, path, verdict, "an artifact was left out");
        } else {
            unnamed = unnamed.saturating_add(1);
        }
    }
    if unnamed > 0 {
        tracing::info!(%job, count = unnamed, "more artifacts were left out");
    }
}

fn scold(details: String) -> Effect {
    Effect::Instruct(Box::new(GenericError::new(details).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::ExecutorClass;
    use crate::core::model::job::OutputStream;
    use crate::core::model::job::RunPreset;
    use crate::core::proto::job::{ExecutionDone, ExecutorFailed, JobFinished, VolumesReady};

    pub(super) const ID: &str = "3b2cf3a8-54cb-4fd6-8d3c-4f8f9a3d7a11";

    fn request() -> Box<InitialJob> {
        let text = format!(
            r#"{{"validator_signature":"0x00","job_uuid":"{ID}","executor_class":"always_on.test",
                "volume":{{"volume_type":"inline","contents":"UEsFBg=="}},
                "streaming_details":{{"public_key":"PEM"}},"job_started_receipt_signature":"0x",
                "job_started_receipt_payload":{{"job_uuid":"{ID}","miner_hotkey":"m","validator_hotkey":"v",
                "timestamp":"2026-01-01T00:00:00Z","executor_class":"always_on.test","is_organic":true,"ttl":7}}}}"#
        );
        Box::new(serde_json::from_str(&text).unwrap())
    }

    fn order() -> Box<FullJob> {
        Box::new(FullJob {
            validator_signature: Some("0x".to_owned()),
            job_uuid: JobId::new(ID),
            executor_class: ExecutorClass::AlwaysOnTest,
            docker_image: "i".to_owned(),
            raw_script: None,
            docker_run_options_preset: RunPreset::None,
            docker_run_cmd: Vec::new(),
            env: indexmap::IndexMap::new(),
            volume: None,
            output_upload: None,
            artifacts_dir: None,
        })
    }

    fn finished() -> Up {
        let finished = JobFinished {
            job_uuid: JobId::new(ID),
            docker_process_stdout: "o".to_owned(),
            docker_process_stderr: String::new(),
            artifacts: None,
            upload_results: None,
        };
        finished.into()
    }

    pub(super) fn ready() -> Up {
        let ready = ExecutorReady {
            job_uuid: JobId::new(ID),
            executor_token: Some("secret".to_owned()),
        };
        ready.into()
    }

    pub(super) fn connected(resumes: bool, cancels: bool) -> Event {
        Event::Connected { resumes, cancels }
    }

    const KNOWN: Event = Event::Resumed {
        knows_acceptance: true,
    };

    pub(super) fn back(is_ordered: bool) -> Resumes {
        Resumes {
            job_uuid: Some(JobId::new(ID)),
            is_ordered,
        }
    }

    fn volumes() -> Up {
        let job_uuid = JobId::new(ID);
        VolumesReady { job_uuid }.into()
    }

    /// How many kinds of events [`event`] makes.
    const EVENTS: usize = 23;

    /// Every event, by a number.
    pub(super) fn event(number: usize) -> Option<Event> {
        let job_uuid = JobId::new(ID);
        Some(match number {
            0 => Event::StartFailed,
            1 => connected(false, false),
            2 => Event::Said(ready()),
            3 => Event::Said(VolumesReady { job_uuid }.into()),
            4 => Event::Said(ExecutionDone { job_uuid }.into()),
            5 => Event::Said(finished()),
            6 => Event::Said(
                serde_json::from_str::<JobFailed>(&format!(r#"{{"job_uuid":"{ID}"}}"#))
                    .unwrap()
                    .into(),
            ),
            7 => Event::Said(GenericError::new("x").into()),
            8 => Event::Disconnected(1006),
            9 => Event::Exited,
            10 => Event::Expired(Duration::from_secs(1200)),
            11 => Event::Ordered(order(), "text".to_owned()),
            12 => Event::Abandoned(crate::core::miner::machine::declined(
                job_uuid,
                crate::core::model::job::RejectionReason::InvalidSignature,
                String::new(),
            )),
            13 => Event::Resumed {
                knows_acceptance: false,
            },
            14 => Event::Stopping { may_leave: false },
            15 => Event::Said(
                ExecutorFailed {
                    job_uuid,
                    executor_token: None,
                }
                .into(),
            ),
            16 => Event::Said(
                VolumesReady {
                    job_uuid: JobId::new("other"),
                }
                .into(),
            ),
            17 => connected(true, false),
            18 => Event::Absent(Duration::from_secs(120)),
            19 => Event::Said(back(true).into()),
            20 => connected(true, true),
            21 => Event::Cancelled,
            22 => Event::CancelOverdue(Duration::from_secs(60)),
            _ => return None,
        })
    }

    pub(super) fn job() -> Job {
        Job::new(request(), "192.0.2.7")
    }

    pub(super) fn words(effects: &[Effect]) -> Vec<&'static str> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Instruct(message) => message.message_type(),
                Effect::Tell(message) => message.message_type(),
                Effect::Vouch(_) => "vouch",
                Effect::NoteReady { .. } => "note ready",
                Effect::NoteOrder(_) => "note order",
                Effect::End(_) => "end",
                Effect::PassOutput(_) => "pass output",
                Effect::NoteCancel => "note cancel",
                Effect::AwaitCancel => "await cancel",
                Effect::Oust(_) => "oust",
                Effect::Thank => "thank",
                Effect::Await => "await",
                Effect::Doom => "doom",
                Effect::Kill => "kill",
                Effect::Leave => "leave",
            })
            .collect()
    }

    #[test]
    fn a_job_goes_its_way_and_carries_no_secret_across() {
        let mut job = job();
        let effects = job.on(connected(false, false));
        let [Effect::Instruct(first)] = &effects[..] else {
            panic!("{effects:?}")
        };
        let Down::InitialJob(initial) = &**first else {
            panic!("{first:?}")
        };
        assert_eq!(initial.validator_signature, None);
        let streaming = initial.streaming_details.clone().unwrap();
        assert_eq!(streaming.executor_ip.as_deref(), Some("192.0.2.7"));
        let effects = job.on(Event::Said(ready()));
        assert_eq!(words(&effects), ["V0ExecutorReadyRequest", "note ready"]);
        assert!(matches!(
            &effects[0],
            Effect::Tell(validator_miner::Up::ExecutorReady(ready)) if ready.executor_token.is_none()
        ));
        assert_eq!(words(&job.on(KNOWN)), ["V0ExecutorReadyRequest"]);
        let effects = job.on(Event::Ordered(order(), String::new()));
        assert_eq!(words(&effects), ["note order", "V0JobRequest"]);
        assert!(matches!(
            &effects[1],
            Effect::Instruct(message) if matches!(&**message, Down::FullJob(order) if order.validator_signature.is_none())
        ));
        assert_eq!(
            words(&job.on(Event::Ordered(order(), String::new()))),
            ["GenericError"]
        );
        assert_eq!(words(&job.on(Event::Said(finished()))), ["end"]);
        assert_eq!(job.on(Event::Disconnected(1000)), []);
        assert_eq!(job.on(Event::Exited), []);
    }

    #[test]
    fn an_order_that_comes_early_waits_for_the_executor() {
        let mut job = job();
        assert_eq!(
            words(&job.on(Event::Ordered(order(), String::new()))),
            ["note order"]
        );
        assert_eq!(
            words(&job.on(Event::Ordered(order(), String::new()))),
            ["GenericError"]
        );
        assert_eq!(words(&job.on(connected(false, false))), ["V0InitialJobRequest"]);
        assert_eq!(
            words(&job.on(Event::Said(ready()))),
            ["V0ExecutorReadyRequest", "note ready", "V0JobRequest"]
        );
    }

    #[test]
    fn a_volume_comes_once() {
        let mut job = job();
        let mut twice = order();
        twice.volume = request().volume;
        let effects = job.on(Event::Ordered(twice, String::new()));
        let expected = format!("Received job volume twice job_uuid: {ID}");
        assert_eq!(effects, [complain(expected)]);
    }

    #[test]
    fn a_lost_executor_is_told_in_the_words_of_the_reference() {
        let mut job = job();
        job.on(connected(false, false));
        let effects = job.on(Event::Disconnected(1006));
        let [Effect::End(outcome)] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(
            outcome.message.encode(),
            format!(
                r#"{{"message_type":"V0HordeFailedRequest","job_uuid":"{ID}","reported_by":"miner","message":"Executor disconnected while job was running (code: 1006)","reason":"executor_disconnected","context":null}}"#
            )
        );
    }

    /// From each state, all sequences of two events: whatever comes in whatever order, there is one outcome, and it is
    /// there at the latest when the executor has exited.
    #[test]
    fn every_path_ends_in_exactly_one_outcome() {
        assert!(event(EVENTS).is_none());
        let way: [usize; 4] = [1, 2, 11, 5];
        for gone in 0..=way.len() {
            for (first, second) in
                (0..EVENTS).flat_map(|first| (0..EVENTS).map(move |second| (first, second)))
            {
                let mut job = job();
                let path = way.iter().take(gone).copied().chain([first, second, 9]);
                let ends = path
                    .flat_map(|number| job.on(event(number).unwrap()))
                    .filter(|effect| matches!(effect, Effect::End(_) | Effect::Oust(_)))
                    .count();
                assert_eq!(ends, 1, "{gone} steps, then {first}, {second}");
                assert!(job.is_over());
            }
        }
    }

    #[test]
    fn an_executor_that_resumes_gets_what_it_lacks_and_is_thanked_for_its_report() {
        let mut job = job();
        job.on(connected(true, false));
        assert_eq!(words(&job.on(Event::Disconnected(1006))), ["await"]);
        assert_eq!(job.on(connected(true, false)), []);
        let nothing = Resumes {
            job_uuid: None,
            is_ordered: false,
        };
        let effects = job.on(Event::Said(nothing.clone().into()));
        assert_eq!(words(&effects), ["V0InitialJobRequest"]);
        assert_eq!(job.on(Event::Said(nothing.into())), [], "once on each link");
        job.on(Event::Said(ready()));
        job.on(Event::Ordered(order(), String::new()));
        assert_eq!(words(&job.on(Event::Disconnected(1001))), ["await"]);
        job.on(connected(true, false));
        let effects = job.on(Event::Said(back(false).into()));
        assert_eq!(words(&effects), ["V0JobRequest"], "it was on its way");
        assert_eq!(job.on(Event::Said(ready())), []);
        assert_eq!(words(&job.on(Event::Said(volumes()))), ["V0VolumesReadyRequest"]);
        assert_eq!(job.on(Event::Said(volumes())), [], "told again");
        assert_eq!(words(&job.on(KNOWN)), ["V0VolumesReadyRequest"]);
        assert_eq!(words(&job.on(Event::Said(finished()))), ["end", "thank"]);
        assert_eq!(job.on(Event::Disconnected(1006)), []);
        assert_eq!(words(&job.on(Event::Said(finished()))), ["thank"]);
    }

    #[test]
    fn a_stopping_miner_leaves_to_its_next_life_what_can_wait_and_nothing_else() {
        for (resumes, may_leave, left) in [(true, true, true), (true, false, false), (false, true, false)] {
            let mut job = job();
            job.on(connected(resumes, false));
            let effects = job.on(Event::Stopping { may_leave });
            let expected: &[&str] = if left { &["leave"] } else { &["end", "kill"] };
            assert_eq!(words(&effects), expected);
        }
    }

    #[test]
    fn a_next_life_goes_on_where_the_last_one_was() {
        let address = "192.0.2.7";
        let adopt = |state, order, resumes| Job::adopted(request(), address, state, order, resumes);
        let unknown = Event::Resumed {
            knows_acceptance: false,
        };

        // Nobody knows whether the executor has the first request: it ignores the second.
        let mut starting = adopt(JobState::WaitingForExecutor, Some(order()), false);
        assert_eq!(words(&starting.on(unknown)), ["V0AcceptJobRequest"]);
        let effects = starting.on(connected(true, false));
        assert_eq!(words(&effects), ["V0InitialJobRequest"]);
        assert_eq!(starting.on(Event::Said(back(false).into())), []);
        assert_eq!(
            words(&starting.on(Event::Said(ready()))),
            ["V0ExecutorReadyRequest", "note ready", "V0JobRequest"]
        );

        let mut waiting = adopt(JobState::WaitingForPayload, None, true);
        assert_eq!(words(&waiting.on(KNOWN)), ["V0ExecutorReadyRequest"]);
        assert_eq!(waiting.on(Event::Said(ready())), []);
        assert_eq!(
            words(&waiting.on(Event::Absent(Duration::from_secs(9)))),
            ["end", "kill"]
        );

        let mut running = adopt(JobState::Running, Some(order()), true);
        let effects = running.on(Event::Said(back(false).into()));
        assert_eq!(words(&effects), ["V0JobRequest"]);
        assert_eq!(
            words(&running.on(Event::Said(volumes()))),
            ["V0VolumesReadyRequest"]
        );
        assert_eq!(words(&running.on(Event::Said(finished()))), ["end", "thank"]);

        let mut over = adopt(JobState::Finished, Some(order()), true);
        assert_eq!(over.on(connected(true, false)), []);
        assert_eq!(words(&over.on(Event::Said(finished()))), ["thank"]);
        assert_eq!(words(&over.on(Event::Expired(Duration::ZERO))), ["doom", "kill"]);
    }

    #[test]
    fn an_executor_that_is_lost_leaves_its_last_lines_in_the_failure() {
        for event in [
            Event::Disconnected(1006),
            Event::Expired(Duration::from_secs(9)),
            Event::Preempted,
            Event::Stopping { may_leave: true },
        ] {
            let mut job = job();
            job.on(connected(false, false));
            let piece = JobOutput {
                job_uuid: JobId::new(ID),
                stream: OutputStream::Stdout,
                offset: 7,
                data: "c3RlcCAzIG9mIDkK".to_owned(),
            };
            let passed_on = Effect::PassOutput(piece.clone());
            assert_eq!(job.on(Event::Said(piece.into())), [passed_on]);
            let effects = job.on(event);
            let Some(Effect::End(Outcome { message, .. })) = effects.first() else {
                panic!("{effects:?}")
            };
            let validator_miner::Up::HordeFailed(failed) = message else {
                panic!("{message:?}")
            };
            let context = failed.context.as_ref().unwrap();
            assert_eq!(context["stdout_bytes"], 19);
            assert_eq!(context["stdout_tail"], "step 3 of 9\n");
        }
    }
}
