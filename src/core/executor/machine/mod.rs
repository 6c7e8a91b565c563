//! A job as its executor sees it: stages, the one deadline, and what to tell the miner. Pure.
//!
//! ```text
//! AwaitingInitial ─ initial ─▶ Preparing ─ prepared ─▶ AwaitingJob ─ job ─▶ Fetching ─ fetched ─▶ Running
//!        │                         │                       │                   │                    │
//!        │                         └───────────┬───────────┴───────────────────┤       deadline     │ exit 0
//!        ▼                                     ▼                               ▼   ┌── Stopping ◀───┤
//!      Ended ◀── one report ◀── Leaving: the container is being removed ◀──────────┘                ▼
//!        ▲                                     ▲────────────────────────────────────────────── Uploading
//!        └── link lost: nobody to tell
//! ```
//!
//! One deadline rules the whole job (wire-executor-miner §5): each stage adds its limit to it, what one stage saves
//! the next may use, and the leeway is shared. A job of the legacy kind has one limit for everything. The reference
//! has a second cap on the container's own time besides, which its recordings do not show: in
//! `executor-exec-timeout` a limit of 2 s after 4 s of unused time ends the container after 6 s. So none here, but a
//! part of the leeway is kept: the validator reckons with the same deadline and must hear of the end before it.
//!
//! A container over its time is asked to end (TERM), then killed (KILL). No report goes out before the container is
//! gone and nothing of it runs ([`Effect::Remove`], [`Event::Gone`]): whoever reads it may count on the machine.

#![warn(clippy::wildcard_enum_match_arm)]

mod cancel;
mod events;
mod report;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::core::docker::Signal;
use crate::core::docker::removal::REMOVAL_PATIENCE;
use crate::core::model::JobId;
use crate::core::model::job::{ExecutorTiming, FailureReason, HordeReason, JobStage};
use crate::core::proto::job::{
    ArtifactVerdicts, Context, ExecutionDone, ExecutorReady, FullJob, GenericError, InitialJob, JobFailed,
    JobFinished, MachineSpecs, Specs, StreamingReady, VolumesReady,
};
use crate::core::proto::miner_executor::{Down, FRAME_BYTES_MAX, Up};

use super::shortfall::Shortfall;
use super::streaming::{ClientCertificate, StreamFault, StreamServer};

pub use events::{Effect, Ended, Event, Fault, Outcome, Results, Streams};

use report::encoded_bytes;

/// How long a container may take to end by itself once it was asked to, before it is killed: what the reference
/// gives (wire-executor-miner §7), and what validators reckon with.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Time kept from the slack for ending a container and reporting it: [`STOP_GRACE`], the kill, the removal. The
/// validator counts the same sum of limits, so a container that ran to its end would be reported too late.
const REPORT_TIME: Duration = Duration::from_secs(3);

/// The part of a single limit, which has no slack of its own, that is kept for the same at most: a tenth.
const REPORT_PART: u32 = 10;

/// How long the removal of the container may hold up the report. The driver gives up before that.
const LEAVE_PATIENCE: Duration = REMOVAL_PATIENCE.saturating_add(Duration::from_secs(5));

/// How long a container that is being killed may take before the job is reported without its streams.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// The longest limit that a peer can set; anything above is this. A year.
const LIMIT_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// How much of an unreadable message is quoted back, in characters.
const QUOTED_CHARACTERS_MAX: usize = 1000;

#[derive(Debug)]
enum State {
    AwaitingInitial,
    Preparing {
        initial: Box<InitialJob>,
        early: Option<Box<FullJob>>,
    },
    AwaitingJob {
        initial: Box<InitialJob>,
    },
    Fetching {
        job: Box<FullJob>,
    },
    Running {
        job: Box<FullJob>,
    },
    Stopping {
        job_uuid: JobId,
        why: Why,
        signal: Signal,
    },
    Uploading {
        job_uuid: JobId,
        ended: Ended,
    },
    Leaving {
        report: Up,
        outcome: Outcome,
        stage: JobStage,
    },
    Ended,
}

/// What is known of the job's container.
#[derive(Debug)]
enum Presence {
    /// It was never asked for, or it is gone.
    Absent,
    /// It may be there.
    Present,
    /// It is being removed.
    Leaving,
    /// It could not be removed, for this reason.
    Stuck(String),
}

/// How the limits of a job are given.
#[derive(Debug, Clone, Copy)]
enum Timing {
    /// By stage.
    Staged(ExecutorTiming),
    /// One for all.
    Single,
}

/// How far the way into a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// The job does not stream.
    None,
    /// Not yet.
    Opening,
    /// The miner was told.
    Open,
}

/// Why a container is ended before its end.
#[derive(Debug, Clone)]
enum Why {
    /// Its time is over.
    Overrun,
    /// It did not become healthy, and what it said last.
    Unhealthy(String),
    /// Its user wants it no more.
    Cancelled,
}

/// What is said of a streaming job that did not become healthy (wire-executor-miner §9).
const UNHEALTHY: &str = "Streaming job health check failed";

/// The stage machine of one job.
#[derive(Debug)]
pub struct Machine {
    state: State,
    container: Presence,
    deadline: Instant,
    startup: Duration,
    /// How long before the deadline a running container is asked to end.
    report_time: Duration,
    timing: Timing,
    stream: Stream,
    miner: String,
    /// The machine's description, to be told before a success.
    specs: Option<Context>,
}

impl Machine {
    /// Makes a machine whose start-up deadline begins at `now`; `miner` is the address to name in complaints.
    pub fn new(now: Instant, startup: Duration, miner: impl Into<String>) -> Self {
        Self {
            state: State::AwaitingInitial,
            container: Presence::Absent,
            deadline: later(now, startup),
            startup,
            report_time: Duration::ZERO,
            timing: Timing::Single,
            stream: Stream::None,
            miner: miner.into(),
            specs: None,
        }
    }

    /// Returns when the next tick is due; none when nothing is awaited any more.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Ended => None,
            State::AwaitingInitial
            | State::Preparing { .. }
            | State::AwaitingJob { .. }
            | State::Fetching { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Uploading { .. }
            | State::Leaving { .. } => Some(self.due()),
        }
    }

    /// Begins the wait for the first request again: the miner could not send it before.
    pub fn await_again(&mut self, now: Instant) {
        if matches!(self.state, State::AwaitingInitial) {
            self.deadline = later(now, self.startup);
        }
    }

    /// Returns when the present state is over its time.
    fn due(&self) -> Instant {
        match self.state {
            State::Running { .. } => self
                .deadline
                .checked_sub(self.report_time)
                .unwrap_or(self.deadline),
            State::AwaitingInitial
            | State::Preparing { .. }
            | State::AwaitingJob { .. }
            | State::Fetching { .. }
            | State::Stopping { .. }
            | State::Uploading { .. }
            | State::Leaving { .. }
            | State::Ended => self.deadline,
        }
    }

    /// Takes in an event; the only place where the job changes.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        if matches!(self.state, State::Ended) {
            return Vec::new();
        }
        let was_leaving = matches!(self.state, State::Leaving { .. });
        let effects = self.take(now, event);
        if !was_leaving && matches!(self.state, State::Leaving { .. }) {
            self.deadline = later(now, LEAVE_PATIENCE);
        }
        effects
    }

    fn take(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Message(message) => self.on_message(now, *message),
            Event::Malformed { text, error } => self.on_malformed(&text, &error),
            Event::Tick if now >= self.due() => self.on_overrun(now),
            Event::Tick => Vec::new(),
            Event::Prepared(result) => self.on_prepared(now, result),
            Event::Fetched(result) => self.on_fetched(result),
            Event::Exited(result) => self.on_exited(result),
            Event::Streaming(result) => self.on_streaming(now, result),
            Event::Uploaded(result) => self.on_uploaded(result),
            Event::Described(specs) => {
                self.specs = Some(specs);
                Vec::new()
            }
            Event::Gone(result) => self.on_gone(result),
            Event::LinkLost => self.end(Outcome::LinkLost),
            // The report is on its way as fast as it can be.
            Event::StopAsked if matches!(self.state, State::Leaving { .. }) => Vec::new(),
            Event::StopAsked => match self.job_uuid().cloned() {
                Some(job_uuid) => self.horde_failed(
                    job_uuid,
                    "Executor was asked to stop",
                    HordeReason::GenericError,
                    [],
                ),
                None => self.end(Outcome::Stopped),
            },
        }
    }

    fn on_message(&mut self, now: Instant, message: Down) -> Vec<Effect> {
        match message {
            Down::InitialJob(initial) => self.on_initial(initial),
            Down::FullJob(job) => self.on_job(now, Box::new(job)),
            Down::JobCancel(cancel) => self.on_cancel(now, &cancel.job_uuid),
            // Between the driver and the miner.
            Down::ReportKept(_) => Vec::new(),
            Down::GenericError(_) => complain(format!(
                "Unsupported message from miner {}: GenericError",
                self.miner
            )),
        }
    }

    fn on_malformed(&mut self, text: &str, error: &str) -> Vec<Effect> {
        let quoted: String = text.chars().take(QUOTED_CHARACTERS_MAX).collect();
        complain(format!(
            "Malformed message {quoted} from miner {}: {error}",
            self.miner
        ))
    }

    fn on_initial(&mut self, initial: InitialJob) -> Vec<Effect> {
        if let Some(first) = self.job_uuid() {
            return complain(format!(
                "Received duplicate initial job request: first self.job_uuid='{first}' and then msg.job_uuid='{}'",
                initial.job_uuid
            ));
        }
        let (job_uuid, image) = (initial.job_uuid.clone(), initial.docker_image.clone());
        let gpus = initial.executor_class.has_gpu();
        let streaming = initial.streaming_details.clone();
        self.state = State::Preparing {
            initial: Box::new(initial),
            early: None,
        };
        let mut effects = vec![Effect::Prepare { image, gpus }];
        if let Some(streaming) = streaming {
            let address = streaming.executor_ip;
            match ClientCertificate::parse(&streaming.public_key) {
                Ok(client) => effects.push(Effect::OpenStream { client, address }),
                Err(error) => {
                    let message = format!("Failed to start streaming: {error}");
                    return self.horde_failed(job_uuid, &message, HordeReason::StreamingFailed, []);
                }
            }
            self.stream = Stream::Opening;
        }
        effects
    }

    fn on_job(&mut self, now: Instant, job: Box<FullJob>) -> Vec<Effect> {
        let Some(first) = self.job_uuid() else {
            return complain(format!(
                "Received job request before an initial job request msg.job_uuid='{}'",
                job.job_uuid
            ));
        };
        if *first != job.job_uuid {
            return complain(format!(
                "Received job request for another job: first self.job_uuid='{first}' and then msg.job_uuid='{}'",
                job.job_uuid
            ));
        }
        match &mut self.state {
            State::AwaitingJob { .. } => self.begin(now, job),
            State::Preparing {
                early: early @ None, ..
            } => {
                *early = Some(job);
                Vec::new()
            }
            State::AwaitingInitial
            | State::Preparing { .. }
            | State::Fetching { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Uploading { .. }
            | State::Leaving { .. }
            | State::Ended => complain(format!(
                "Received duplicate job request: first self.job_uuid='{uuid}' and then msg.job_uuid='{uuid}'",
                uuid = job.job_uuid
            )),
        }
    }

    fn on_prepared(&mut self, now: Instant, result: Result<(), Fault>) -> Vec<Effect> {
        let State::Preparing { initial, early } = &mut self.state else {
            return Vec::new();
        };
        let job_uuid = initial.job_uuid.clone();
        if let Err(fault) = result {
            return self.failed_by(job_uuid, fault, None);
        }
        let ready = Effect::Send(Up::from(ExecutorReady {
            job_uuid: job_uuid.clone(),
            executor_token: None,
        }));
        let early = early.take();
        let (leeway, timing) = match (initial.executor_timing, initial.timeout_seconds) {
            (Some(timing), _) => (timing.allowed_leeway, Timing::Staged(timing)),
            (None, Some(seconds)) => (seconds, Timing::Single),
            (None, None) => {
                let message = "No timing received: either timeout_seconds or timing_details must be set";
                let mut effects = vec![ready];
                effects.extend(self.horde_failed(job_uuid, message, HordeReason::GenericError, []));
                return effects;
            }
        };
        let initial = initial.clone();
        self.timing = timing;
        let slack = seconds(leeway);
        self.report_time = REPORT_TIME.min(match timing {
            Timing::Staged(_) => slack,
            Timing::Single => slack / REPORT_PART,
        });
        self.deadline = later(now, slack);
        self.extend(|timing| timing.download_time_limit);
        self.state = State::AwaitingJob { initial };
        let mut effects = vec![ready];
        if let Some(job) = early {
            effects.extend(self.begin(now, job));
        }
        effects
    }

    fn begin(&mut self, now: Instant, mut job: Box<FullJob>) -> Vec<Effect> {
        let State::AwaitingJob { initial } = &mut self.state else {
            return Vec::new();
        };
        // Late, but before the tick said so.
        if now >= self.deadline {
            return self.on_overrun(now);
        }
        // The facilitator's wire has no null here: an empty text is what an unset folder looks like at this end.
        job.artifacts_dir.take_if(|folder| folder.is_empty());
        let volume = match (initial.volume.take(), job.volume.take()) {
            (Some(_), Some(_)) => {
                let job_uuid = job.job_uuid;
                return self.horde_failed(
                    job_uuid,
                    "Received multiple volumes",
                    HordeReason::GenericError,
                    [],
                );
            }
            (volume @ Some(_), None) | (None, volume) => volume,
        };
        let create = Effect::Create(job.clone());
        self.container = Presence::Present;
        self.state = State::Fetching { job };
        vec![create, Effect::Fetch(volume)]
    }

    fn on_fetched(&mut self, result: Result<(), Fault>) -> Vec<Effect> {
        let State::Fetching { job } = &self.state else {
            return Vec::new();
        };
        let job_uuid = job.job_uuid.clone();
        if let Err(fault) = result {
            return self.failed_by(job_uuid, fault, None);
        }
        self.state = State::Running { job: job.clone() };
        self.extend(|timing| timing.execution_time_limit);
        if self.stream != Stream::None {
            self.extend(|timing| timing.streaming_start_time_limit);
        }
        vec![Effect::Send(Up::from(VolumesReady { job_uuid })), Effect::Start]
    }

    fn on_streaming(&mut self, now: Instant, result: Result<StreamServer, StreamFault>) -> Vec<Effect> {
        let job_uuid = match &self.state {
            State::Preparing { initial, .. } | State::AwaitingJob { initial } => initial.job_uuid.clone(),
            State::Fetching { job } | State::Running { job } => job.job_uuid.clone(),
            State::AwaitingInitial
            | State::Stopping { .. }
            | State::Uploading { .. }
            | State::Leaving { .. }
            | State::Ended => {
                return Vec::new();
            }
        };
        match result {
            Ok(server) => {
                self.stream = Stream::Open;
                vec![Effect::Send(Up::from(StreamingReady {
                    job_uuid,
                    executor_token: None,
                    public_key: server.certificate,
                    ip: None,
                    port: server.port.into(),
                    miner_signature: None,
                }))]
            }
            Err(StreamFault::Setup(detail)) => {
                let message = format!("Failed to start streaming: {detail}");
                self.horde_failed(job_uuid, &message, HordeReason::StreamingFailed, [])
            }
            // Its streams tell why, so it is ended first.
            Err(StreamFault::Unhealthy(detail)) => self.stop(
                later(now, STOP_GRACE),
                job_uuid,
                Why::Unhealthy(detail),
                Signal::Term,
            ),
        }
    }

    fn on_exited(&mut self, result: Result<Ended, Fault>) -> Vec<Effect> {
        let job = match &self.state {
            State::Running { job } => job,
            State::Stopping {
                job_uuid,
                why,
                signal,
            } => {
                let (job_uuid, why, signal) = (job_uuid.clone(), why.clone(), *signal);
                return self.stopped(job_uuid, why, signal, result.ok());
            }
            State::AwaitingInitial
            | State::Preparing { .. }
            | State::AwaitingJob { .. }
            | State::Fetching { .. }
            | State::Uploading { .. }
            | State::Leaving { .. }
            | State::Ended => return Vec::new(),
        };
        let job_uuid = job.job_uuid.clone();
        match result {
            Err(fault) => self.failed_by(job_uuid, fault, None),
            Ok(ended) if ended.exit_code != 0 => {
                let mut message = format!(
                    "Job container exited with non-zero exit code: {}",
                    ended.exit_code
                );
                let (certain, context) = ended.shortfall.map(Shortfall::into_parts).unzip();
                if let Some(words) = certain.flatten() {
                    message = format!("{message}: {words}");
                }
                let failed = JobFailed {
                    job_uuid,
                    message,
                    reason: FailureReason::NonzeroReturnCode,
                    stage: JobStage::Execution,
                    docker_process_exit_status: Some(ended.exit_code),
                    docker_process_stdout: Some(ended.streams.stdout),
                    docker_process_stderr: Some(ended.streams.stderr),
                    context,
                };
                self.leave(failed.into(), Outcome::Failed)
            }
            // Nobody was told where to reach it.
            Ok(ended) if self.stream == Stream::Opening => {
                let detail = Value::from("the job ended before it was ready");
                let context = Context::from_iter([("error".to_owned(), detail)]);
                let exit_code = Some(ended.exit_code);
                self.timed_out(job_uuid, UNHEALTHY, exit_code, Some(ended.streams), Some(context))
            }
            Ok(ended) => {
                let upload = Effect::Upload {
                    upload: job.output_upload.clone(),
                    artifacts_dir: job.artifacts_dir.clone(),
                };
                self.state = State::Uploading {
                    job_uuid: job_uuid.clone(),
                    ended,
                };
                self.extend(|timing| timing.upload_time_limit);
                self.container = Presence::Leaving;
                // Beside the upload, which reads folders of the host only.
                vec![
                    Effect::Send(Up::from(ExecutionDone { job_uuid })),
                    upload,
                    Effect::Remove,
                ]
            }
        }
    }

    fn on_uploaded(&mut self, result: Result<Results, Fault>) -> Vec<Effect> {
        let State::Uploading { job_uuid, ended } = &self.state else {
            return Vec::new();
        };
        let (job_uuid, ended) = (job_uuid.clone(), ended.clone());
        let results = match result {
            Ok(results) => results,
            Err(fault) => return self.failed_by(job_uuid, fault, Some(ended)),
        };
        let verdicts = ArtifactVerdicts {
            job_uuid: job_uuid.clone(),
            verdicts: results.verdicts,
            more: results.more,
        };
        let finished = Up::from(JobFinished {
            job_uuid: job_uuid.clone(),
            docker_process_stdout: ended.streams.stdout.clone(),
            docker_process_stderr: ended.streams.stderr.clone(),
            artifacts: Some(results.artifacts),
            upload_results: Some(results.uploads),
        });
        if encoded_bytes(&finished) > FRAME_BYTES_MAX {
            let fault = Fault::Job("the servers' answers are too long to be reported".to_owned());
            return self.failed_by(job_uuid, fault, Some(ended));
        }
        let mut effects = Vec::new();
        if !verdicts.verdicts.is_empty() || verdicts.more > 0 {
            effects.push(Effect::Send(Up::from(verdicts)));
        }
        if let Some(specs) = self.specs.take() {
            let specs = Specs { specs };
            effects.push(Effect::Send(Up::from(MachineSpecs { job_uuid, specs })));
        }
        effects.extend(self.leave(finished, Outcome::Finished));
        effects
    }

    fn on_gone(&mut self, result: Result<(), String>) -> Vec<Effect> {
        self.container = match result {
            Ok(()) => Presence::Absent,
            Err(reason) => Presence::Stuck(reason),
        };
        if !matches!(self.state, State::Leaving { .. }) {
            return Vec::new();
        }
        let State::Leaving {
            report,
            outcome,
            stage,
        } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Vec::new();
        };
        self.report(report, outcome, stage)
    }

    fn on_overrun(&mut self, now: Instant) -> Vec<Effect> {
        match &self.state {
            State::AwaitingInitial => self.end(Outcome::NoJob),
            State::Preparing { initial, .. } => {
                let job_uuid = initial.job_uuid.clone();
                self.horde_failed(
                    job_uuid,
                    "Executor startup time exceeded",
                    HordeReason::GenericError,
                    [],
                )
            }
            State::AwaitingJob { initial } => {
                let job_uuid = initial.job_uuid.clone();
                self.timed_out(job_uuid, "Download time exceeded", None, None, None)
            }
            State::Fetching { job } => {
                let job_uuid = job.job_uuid.clone();
                self.timed_out(job_uuid, "Download time exceeded", None, None, None)
            }
            State::Running { job } => {
                let job_uuid = job.job_uuid.clone();
                self.stop(later(now, STOP_GRACE), job_uuid, Why::Overrun, Signal::Term)
            }
            State::Stopping {
                job_uuid,
                why,
                signal: Signal::Term,
            } => {
                let (job_uuid, why) = (job_uuid.clone(), why.clone());
                self.stop(later(now, STOP_PATIENCE), job_uuid, why, Signal::Kill)
            }
            State::Stopping {
                job_uuid,
                why,
                signal,
            } => {
                let (job_uuid, why, signal) = (job_uuid.clone(), why.clone(), *signal);
                self.stopped(job_uuid, why, signal, None)
            }
            State::Uploading { job_uuid, ended } => {
                let (job_uuid, ended) = (job_uuid.clone(), ended.clone());
                self.timed_out(
                    job_uuid,
                    "Upload time exceeded",
                    Some(ended.exit_code),
                    Some(ended.streams),
                    None,
                )
            }
            State::Leaving { .. } => self.on_gone(Err(format!(
                "it is not known to be gone after {} s",
                LEAVE_PATIENCE.as_secs()
            ))),
            State::Ended => Vec::new(),
        }
    }

    fn stop(&mut self, deadline: Instant, job_uuid: JobId, why: Why, signal: Signal) -> Vec<Effect> {
        self.state = State::Stopping {
            job_uuid,
            why,
            signal,
        };
        self.deadline = deadline;
        vec![Effect::Stop(signal)]
    }

    /// Reports a container that was ended. The wire's exit status stays empty, as in the recordings.
    fn stopped(&mut self, job_uuid: JobId, why: Why, signal: Signal, ended: Option<Ended>) -> Vec<Effect> {
        let mut context = Context::from_iter([("stopped_with".to_owned(), Value::from(signal.as_str()))]);
        if let Some(ended) = &ended {
            context.insert("container_exit_status".to_owned(), Value::from(ended.exit_code));
        }
        let message = match why {
            Why::Overrun => Some("Execution time exceeded"),
            Why::Unhealthy(detail) => {
                context.insert("error".to_owned(), Value::String(detail));
                Some(UNHEALTHY)
            }
            Why::Cancelled => None,
        };
        let streams = ended.map(|ended| {
            context.extend(ended.shortfall.map(Shortfall::into_parts).unwrap_or_default().1);
            ended.streams
        });
        let Some(message) = message else {
            return self.cancelled(job_uuid, None, streams, context);
        };
        self.timed_out(job_uuid, message, None, streams, Some(context))
    }

    /// Returns the job, once it is known and until it has ended.
    pub(super) fn job_uuid(&self) -> Option<&JobId> {
        match &self.state {
            State::AwaitingInitial | State::Ended => None,
            State::Preparing { initial, .. } | State::AwaitingJob { initial } => Some(&initial.job_uuid),
            State::Fetching { job } | State::Running { job } => Some(&job.job_uuid),
            State::Stopping { job_uuid, .. } | State::Uploading { job_uuid, .. } => Some(job_uuid),
            State::Leaving { report, .. } => report.job_uuid(),
        }
    }

    fn stage(&self) -> JobStage {
        match &self.state {
            State::AwaitingInitial | State::Preparing { .. } => JobStage::ExecutorStartup,
            State::AwaitingJob { .. } | State::Fetching { .. } => JobStage::VolumeDownload,
            State::Running { .. } | State::Stopping { .. } => JobStage::Execution,
            State::Uploading { .. } => JobStage::ResultUpload,
            State::Leaving { stage, .. } => *stage,
            State::Ended => JobStage::Unknown,
        }
    }

    /// Adds a stage's limit to the deadline; a single limit was given whole at the beginning.
    fn extend(&mut self, limit: impl Fn(&ExecutorTiming) -> i64) {
        match &self.timing {
            Timing::Staged(timing) => self.deadline = later(self.deadline, seconds(limit(timing))),
            Timing::Single => {}
        }
    }
}

fn complain(details: String) -> Vec<Effect> {
    vec![Effect::Send(Up::from(GenericError::new(details)))]
}

/// Returns a peer's limit as a duration; a negative one is none, an absurd one is a year.
fn seconds(limit: i64) -> Duration {
    Duration::from_secs(u64::try_from(limit).unwrap_or(0).min(LIMIT_SECONDS_MAX))
}

fn later(instant: Instant, by: Duration) -> Instant {
    instant.checked_add(by).unwrap_or(instant)
}

#[cfg(test)]
mod tests;
