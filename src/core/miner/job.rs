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

use super::output::Output;
use crate::core::model::JobId;
use crate::core::model::job::{HordeReason, Participant};
use crate::core::proto::job::{
    ARTIFACT_VERDICTS_MAX, ArtifactVerdict, ArtifactVerdicts, ExecutorReady, FullJob, GenericError,
    HordeFailed, InitialJob, StreamingReady,
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
    /// Another validator, within its share, needs the executor.
    Preempted,
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
    output: Output,
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
            output: Output::default(),
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
                | Event::Resumed
                | Event::Preempted => Vec::new(),
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
            Event::Preempted => self.fail_and_kill(
                HordeReason::GenericError,
                "Best-effort job was stopped at a ten-minute boundary for one within its validator's share"
                    .to_owned(),
            ),
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
            Up::JobOutput(piece) => match self.output.add(&piece) {
                Ok(()) => Vec::new(),
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
        let failed = HordeFailed {
            // How far it was: nobody else can say any more.
            context: self.output.context(),
            ..miner_failed(&self.id, reason, message)
        };
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
    use crate::core::proto::job::{
        ExecutionDone, ExecutorFailed, JobFailed, JobFinished, JobOutput, VolumesReady,
    };

    const ID: &str = "3b2cf3a8-54cb-4fd6-8d3c-4f8f9a3d7a11";

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

    fn ready() -> Up {
        let ready = ExecutorReady {
            job_uuid: JobId::new(ID),
            executor_token: Some("secret".to_owned()),
        };
        ready.into()
    }

    /// How many kinds of events [`event`] makes.
    const EVENTS: usize = 17;

    /// Every event, by a number.
    fn event(number: usize) -> Option<Event> {
        let job_uuid = JobId::new(ID);
        Some(match number {
            0 => Event::StartFailed,
            1 => Event::Connected,
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
            13 => Event::Resumed,
            14 => Event::Stopping,
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
            _ => return None,
        })
    }

    fn job() -> Job {
        Job::new(request(), IpAddr::from([192, 0, 2, 7]))
    }

    fn words(effects: &[Effect]) -> Vec<&'static str> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Instruct(message) => message.message_type(),
                Effect::Tell(message) => message.message_type(),
                Effect::Vouch(_) => "vouch",
                Effect::NoteReady => "note ready",
                Effect::NoteOrder(_) => "note order",
                Effect::End(_) => "end",
                Effect::Kill => "kill",
            })
            .collect()
    }

    #[test]
    fn a_job_goes_its_way_and_carries_no_secret_across() {
        let mut job = job();
        let effects = job.on(Event::Connected);
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
        assert_eq!(words(&job.on(Event::Resumed)), ["V0ExecutorReadyRequest"]);
        let effects = job.on(Event::Ordered(order(), String::new()));
        assert_eq!(words(&effects), ["V0JobRequest", "note order"]);
        assert!(matches!(
            &effects[0],
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
        assert_eq!(job.on(Event::Ordered(order(), String::new())), []);
        assert_eq!(
            words(&job.on(Event::Ordered(order(), String::new()))),
            ["GenericError"]
        );
        assert_eq!(words(&job.on(Event::Connected)), ["V0InitialJobRequest"]);
        assert_eq!(
            words(&job.on(Event::Said(ready()))),
            [
                "V0ExecutorReadyRequest",
                "note ready",
                "V0JobRequest",
                "note order"
            ]
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
        job.on(Event::Connected);
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
                    .filter(|effect| matches!(effect, Effect::End(_)))
                    .count();
                assert_eq!(ends, 1, "{gone} steps, then {first}, {second}");
                assert!(job.is_over());
            }
        }
    }

    #[test]
    fn an_executor_that_is_lost_leaves_its_last_lines_in_the_failure() {
        for event in [
            Event::Disconnected(1006),
            Event::Expired(Duration::from_secs(9)),
            Event::Preempted,
            Event::Stopping,
        ] {
            let mut job = job();
            job.on(Event::Connected);
            let piece = JobOutput {
                job_uuid: JobId::new(ID),
                stream: OutputStream::Stdout,
                offset: 7,
                data: "c3RlcCAzIG9mIDkK".to_owned(),
            };
            assert_eq!(job.on(Event::Said(piece.into())), []);
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
