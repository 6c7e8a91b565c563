//! A job as its executor sees it: stages, the one deadline, and what to tell the miner. Pure.
//!
//! ```text
//! AwaitingInitial ─ initial ─▶ Preparing ─ prepared ─▶ AwaitingJob ─ job ─▶ Fetching ─ fetched ─▶ Running
//!        │                         │                       │                   │                    │
//!        │                         └───────────┬───────────┴───────────────────┤       deadline     │ exit 0
//!        ▼                                     ▼                               ▼   ┌── Stopping ◀───┤
//!      Ended ◀──────────────────────── one report to the miner ◀───────────────────┘                ▼
//!        ▲                                     ▲────────────────────────────────────────────── Uploading
//!        └── link lost: nobody to tell
//! ```
//!
//! One deadline rules the whole job (wire-executor-miner §5): each stage adds its limit to it, what one stage saves
//! the next may use, and the leeway is shared. A job of the legacy kind has one limit for everything.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;
use tokio::time::Instant;

use crate::core::model::JobId;
use crate::core::model::job::{ExecutorTiming, FailureReason, HordeReason, JobStage, Participant};
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::proto::job::{
    Context, ExecutionDone, ExecutorReady, FullJob, GenericError, HordeFailed, InitialJob, JobFailed,
    JobFinished, VolumesReady,
};
use crate::core::proto::miner_executor::{Down, FRAME_BYTES_MAX, Up};

/// How long a container that is being killed may take before the job is reported without its streams.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// The longest limit that a peer can set; anything above is this. A year.
const LIMIT_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// How much of an unreadable message is quoted back, in characters.
const QUOTED_CHARACTERS_MAX: usize = 1000;

/// What a container wrote, cut as the wire wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A container that ended, by itself or killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub exit_code: i64,
    /// What it wrote.
    pub streams: Streams,
}

/// What a job leaves for its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// Small files, base64 by path.
    pub artifacts: IndexMap<String, String>,
    /// What the upload servers answered, by key.
    pub uploads: IndexMap<String, String>,
}

/// Why a piece of work failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Through what the job asked for: a volume or an upload.
    Job(String),
    /// Through something that the executor cannot give, in words for a person.
    Refused(String),
    /// The image cannot be had.
    NoImage(String),
    /// Through the engine, the disk or a bug of ours.
    Ours {
        /// The kind, in the reference's vocabulary, such as `DockerError`.
        kind: &'static str,
        /// What happened.
        detail: String,
    },
}

/// What the machine is told.
#[derive(Debug)]
pub enum Event {
    /// The miner sent a message.
    Message(Box<Down>),
    /// The miner sent something that is no message.
    Malformed {
        /// What it sent.
        text: String,
        /// Why it is none.
        error: String,
    },
    /// Time has passed.
    Tick,
    /// [`Effect::Prepare`] has ended.
    Prepared(Result<(), Fault>),
    /// [`Effect::Fetch`] has ended.
    Fetched(Result<(), Fault>),
    /// The container has ended, or could not be made or started.
    Exited(Result<Ended, Fault>),
    /// [`Effect::Upload`] has ended.
    Uploaded(Result<Results, Fault>),
    /// The miner is gone.
    LinkLost,
    /// The process was asked to stop.
    StopAsked,
}

/// What the driver is to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Tell the miner.
    Send(Up),
    /// Make the folders, ask for the engine, have the image at hand.
    Prepare {
        /// The image, if it is known already.
        image: Option<String>,
    },
    /// Make the container, without starting it; its failure is told when it is to start.
    Create(Box<FullJob>),
    /// Put the volume in place.
    Fetch(Option<Volume>),
    /// Start the container and wait for its end.
    Start,
    /// Kill the container.
    Stop,
    /// Collect artifacts and send the output.
    Upload {
        /// Where to.
        upload: Option<OutputUpload>,
        /// The folder of artifacts, as the container knows it.
        artifacts_dir: Option<String>,
    },
    /// Clear everything away and end.
    End(Outcome),
}

/// How an executor's life ended; every life ends in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The miner was told: finished.
    Finished,
    /// The miner was told: failed by itself.
    Failed,
    /// The miner was told: failed by the horde.
    HordeFailed,
    /// Nobody was told: no job came in time.
    NoJob,
    /// Nobody was told: the miner is gone.
    LinkLost,
    /// Nobody was told: the process was asked to stop before a job came.
    Stopped,
}

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
    },
    Uploading {
        job_uuid: JobId,
        ended: Ended,
    },
    Ended,
}

/// How the limits of a job are given.
#[derive(Debug, Clone, Copy)]
enum Timing {
    /// By stage.
    Staged(ExecutorTiming),
    /// One for all.
    Single,
}

/// The stage machine of one job.
#[derive(Debug)]
pub struct Machine {
    state: State,
    deadline: Instant,
    timing: Timing,
    miner: String,
}

impl Machine {
    /// Makes a machine whose start-up deadline begins at `now`; `miner` is the address to name in complaints.
    pub fn new(now: Instant, startup: Duration, miner: impl Into<String>) -> Self {
        Self {
            state: State::AwaitingInitial,
            deadline: later(now, startup),
            timing: Timing::Single,
            miner: miner.into(),
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
            | State::Uploading { .. } => Some(self.deadline),
        }
    }

    /// Takes in an event; the only place where the job changes.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        if matches!(self.state, State::Ended) {
            return Vec::new();
        }
        match event {
            Event::Message(message) => self.on_message(now, *message),
            Event::Malformed { text, error } => self.on_malformed(&text, &error),
            Event::Tick if now >= self.deadline => self.on_overrun(now),
            Event::Tick => Vec::new(),
            Event::Prepared(result) => self.on_prepared(now, result),
            Event::Fetched(result) => self.on_fetched(result),
            Event::Exited(result) => self.on_exited(result),
            Event::Uploaded(result) => self.on_uploaded(result),
            Event::LinkLost => self.end(None, Outcome::LinkLost),
            Event::StopAsked => match self.job_uuid().cloned() {
                Some(job_uuid) => self.horde_failed(
                    job_uuid,
                    "Executor was asked to stop",
                    HordeReason::GenericError,
                    [],
                ),
                None => self.end(None, Outcome::Stopped),
            },
        }
    }

    fn on_message(&mut self, now: Instant, message: Down) -> Vec<Effect> {
        match message {
            Down::InitialJob(initial) => self.on_initial(initial),
            Down::FullJob(job) => self.on_job(now, Box::new(job)),
            Down::GenericError(_) => self.complain(format!(
                "Unsupported message from miner {}: GenericError",
                self.miner
            )),
        }
    }

    fn on_malformed(&mut self, text: &str, error: &str) -> Vec<Effect> {
        let quoted: String = text.chars().take(QUOTED_CHARACTERS_MAX).collect();
        self.complain(format!(
            "Malformed message {quoted} from miner {}: {error}",
            self.miner
        ))
    }

    fn on_initial(&mut self, initial: InitialJob) -> Vec<Effect> {
        if let Some(first) = self.job_uuid() {
            return self.complain(format!(
                "Received duplicate initial job request: first self.job_uuid='{first}' and then msg.job_uuid='{}'",
                initial.job_uuid
            ));
        }
        let (job_uuid, image) = (initial.job_uuid.clone(), initial.docker_image.clone());
        let is_streaming = initial.streaming_details.is_some();
        self.state = State::Preparing {
            initial: Box::new(initial),
            early: None,
        };
        if is_streaming {
            let message = "Streaming jobs are not supported by this executor";
            return self.horde_failed(job_uuid, message, HordeReason::StreamingFailed, []);
        }
        vec![Effect::Prepare { image }]
    }

    fn on_job(&mut self, now: Instant, job: Box<FullJob>) -> Vec<Effect> {
        let Some(first) = self.job_uuid() else {
            return self.complain(format!(
                "Received job request before an initial job request msg.job_uuid='{}'",
                job.job_uuid
            ));
        };
        if *first != job.job_uuid {
            return self.complain(format!(
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
            | State::Ended => self.complain(format!(
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
        self.deadline = later(now, seconds(leeway));
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
        vec![Effect::Send(Up::from(VolumesReady { job_uuid })), Effect::Start]
    }

    fn on_exited(&mut self, result: Result<Ended, Fault>) -> Vec<Effect> {
        let job = match &self.state {
            State::Running { job } => job,
            State::Stopping { job_uuid } => {
                let job_uuid = job_uuid.clone();
                let streams = result.ok().map(|ended| ended.streams);
                return self.timed_out(job_uuid, "Execution time exceeded", None, streams);
            }
            State::AwaitingInitial
            | State::Preparing { .. }
            | State::AwaitingJob { .. }
            | State::Fetching { .. }
            | State::Uploading { .. }
            | State::Ended => return Vec::new(),
        };
        let job_uuid = job.job_uuid.clone();
        match result {
            Err(fault) => self.failed_by(job_uuid, fault, None),
            Ok(ended) if ended.exit_code != 0 => {
                let failed = JobFailed {
                    job_uuid,
                    message: format!(
                        "Job container exited with non-zero exit code: {}",
                        ended.exit_code
                    ),
                    reason: FailureReason::NonzeroReturnCode,
                    stage: JobStage::Execution,
                    docker_process_exit_status: Some(ended.exit_code),
                    docker_process_stdout: Some(ended.streams.stdout),
                    docker_process_stderr: Some(ended.streams.stderr),
                    context: None,
                };
                self.end(Some(failed.into()), Outcome::Failed)
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
                vec![Effect::Send(Up::from(ExecutionDone { job_uuid })), upload]
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
        self.end(Some(finished), Outcome::Finished)
    }

    fn on_overrun(&mut self, now: Instant) -> Vec<Effect> {
        match &self.state {
            State::AwaitingInitial => self.end(None, Outcome::NoJob),
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
                self.timed_out(job_uuid, "Download time exceeded", None, None)
            }
            State::Fetching { job } => {
                let job_uuid = job.job_uuid.clone();
                self.timed_out(job_uuid, "Download time exceeded", None, None)
            }
            State::Running { job } => {
                self.state = State::Stopping {
                    job_uuid: job.job_uuid.clone(),
                };
                self.deadline = later(now, STOP_PATIENCE);
                vec![Effect::Stop]
            }
            State::Stopping { job_uuid } => {
                let job_uuid = job_uuid.clone();
                self.timed_out(job_uuid, "Execution time exceeded", None, None)
            }
            State::Uploading { job_uuid, ended } => {
                let (job_uuid, ended) = (job_uuid.clone(), ended.clone());
                self.timed_out(
                    job_uuid,
                    "Upload time exceeded",
                    Some(ended.exit_code),
                    Some(ended.streams),
                )
            }
            State::Ended => Vec::new(),
        }
    }

    /// Reports a fault as the current stage has it.
    fn failed_by(&mut self, job_uuid: JobId, fault: Fault, ended: Option<Ended>) -> Vec<Effect> {
        let text = |text: &str| Value::String(text.to_owned());
        match fault {
            Fault::Job(detail) => {
                let (message, reason, context) = match ended {
                    None => (detail, FailureReason::DownloadFailed, None),
                    Some(_) => {
                        let context = Context::from_iter([("error".to_owned(), Value::String(detail))]);
                        (
                            "Upload failed".to_owned(),
                            FailureReason::UploadFailed,
                            Some(context),
                        )
                    }
                };
                let (exit_code, streams) = ended.map(|ended| (ended.exit_code, ended.streams)).unzip();
                let (stdout, stderr) = streams.map(|streams| (streams.stdout, streams.stderr)).unzip();
                let failed = JobFailed {
                    job_uuid,
                    message,
                    reason,
                    stage: self.stage(),
                    docker_process_exit_status: exit_code,
                    docker_process_stdout: stdout,
                    docker_process_stderr: stderr,
                    context,
                };
                self.end(Some(failed.into()), Outcome::Failed)
            }
            Fault::Refused(message) => self.horde_failed(job_uuid, &message, HordeReason::GenericError, []),
            Fault::NoImage(detail) if self.stage() == JobStage::ExecutorStartup => self.horde_failed(
                job_uuid,
                "Failed to pull docker image",
                HordeReason::GenericError,
                [("stdout", text("")), ("stderr", text(&detail))],
            ),
            // At the start of the container the reference does not tell a missing image from other trouble.
            Fault::NoImage(detail) => self.unhandled(job_uuid, "DockerError", &detail),
            Fault::Ours { kind, detail } => self.unhandled(job_uuid, kind, &detail),
        }
    }

    fn unhandled(&mut self, job_uuid: JobId, kind: &str, detail: &str) -> Vec<Effect> {
        self.horde_failed(
            job_uuid,
            "Unhandled exception",
            HordeReason::UnhandledException,
            [
                ("exception_type", Value::String(kind.to_owned())),
                ("detail", Value::String(detail.to_owned())),
            ],
        )
    }

    fn timed_out(
        &mut self,
        job_uuid: JobId,
        message: &str,
        exit_code: Option<i64>,
        streams: Option<Streams>,
    ) -> Vec<Effect> {
        let (stdout, stderr) = streams.map(|streams| (streams.stdout, streams.stderr)).unzip();
        let failed = JobFailed {
            job_uuid,
            message: message.to_owned(),
            reason: FailureReason::Timeout,
            stage: self.stage(),
            docker_process_exit_status: exit_code,
            docker_process_stdout: stdout,
            docker_process_stderr: stderr,
            context: None,
        };
        self.end(Some(failed.into()), Outcome::Failed)
    }

    fn horde_failed<const N: usize>(
        &mut self,
        job_uuid: JobId,
        message: &str,
        reason: HordeReason,
        facts: [(&str, Value); N],
    ) -> Vec<Effect> {
        let mut context: Context = facts
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        context.insert(
            "stage".to_owned(),
            Value::String(self.stage().as_str().to_owned()),
        );
        let failed = HordeFailed {
            job_uuid,
            reported_by: Participant::Executor,
            message: message.to_owned(),
            reason,
            context: Some(context),
        };
        self.end(Some(failed.into()), Outcome::HordeFailed)
    }

    fn end(&mut self, report: Option<Up>, outcome: Outcome) -> Vec<Effect> {
        self.state = State::Ended;
        report
            .map(Effect::Send)
            .into_iter()
            .chain([Effect::End(outcome)])
            .collect()
    }

    fn complain(&self, details: String) -> Vec<Effect> {
        vec![Effect::Send(Up::from(GenericError::new(details)))]
    }

    fn job_uuid(&self) -> Option<&JobId> {
        match &self.state {
            State::AwaitingInitial | State::Ended => None,
            State::Preparing { initial, .. } | State::AwaitingJob { initial } => Some(&initial.job_uuid),
            State::Fetching { job } | State::Running { job } => Some(&job.job_uuid),
            State::Stopping { job_uuid } | State::Uploading { job_uuid, .. } => Some(job_uuid),
        }
    }

    fn stage(&self) -> JobStage {
        match &self.state {
            State::AwaitingInitial | State::Preparing { .. } => JobStage::ExecutorStartup,
            State::AwaitingJob { .. } | State::Fetching { .. } => JobStage::VolumeDownload,
            State::Running { .. } | State::Stopping { .. } => JobStage::Execution,
            State::Uploading { .. } => JobStage::ResultUpload,
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

/// Returns a peer's limit as a duration; a negative one is none, an absurd one is a year.
fn seconds(limit: i64) -> Duration {
    Duration::from_secs(u64::try_from(limit).unwrap_or(0).min(LIMIT_SECONDS_MAX))
}

fn later(instant: Instant, by: Duration) -> Instant {
    instant.checked_add(by).unwrap_or(instant)
}

/// Returns the size of a report as it travels; small reports are only estimated.
fn encoded_bytes(report: &Up) -> usize {
    let Up::JobFinished(finished) = report else {
        return 0;
    };
    let maps = [&finished.artifacts, &finished.upload_results];
    let values = maps.into_iter().flatten().flat_map(IndexMap::iter);
    let raw = values.map(|(key, value)| key.len() + value.len()).sum::<usize>()
        + finished.docker_process_stdout.len()
        + finished.docker_process_stderr.len();
    // A character takes at most six bytes as JSON.
    if raw < FRAME_BYTES_MAX / 8 {
        raw
    } else {
        report.encode().len()
    }
}
