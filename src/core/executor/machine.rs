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
//! `executor-exec-timeout` a limit of 2 s after 4 s of unused time ends the container after 6 s. So none here.
//!
//! A container over its time is asked to end (TERM), then killed (KILL). No report goes out before the container is
//! gone and nothing of it runs ([`Effect::Remove`], [`Event::Gone`]): whoever reads it may count on the machine.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;
use tokio::time::Instant;

use crate::core::docker::Signal;
use crate::core::docker::removal::REMOVAL_PATIENCE;
use crate::core::host::checks::Finding;
use crate::core::model::JobId;
use crate::core::model::job::{ExecutorTiming, FailureReason, HordeReason, JobStage, Participant};
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::proto::job::{
    ArtifactVerdict, ArtifactVerdicts, Context, ExecutionDone, ExecutorReady, FullJob, GenericError,
    HordeFailed, InitialJob, JobFailed, JobFinished, MachineSpecs, Specs, StreamingReady, VolumesReady,
};
use crate::core::proto::miner_executor::{Down, FRAME_BYTES_MAX, Up};

use super::shortfall::Shortfall;
use super::streaming::{ClientCertificate, StreamFault, StreamServer};

/// How long a container may take to end by itself once it was asked to, before it is killed: what the reference
/// gives (wire-executor-miner §7), and what validators reckon with.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How long the removal of the container may hold up the report. The driver gives up before that.
const LEAVE_PATIENCE: Duration = REMOVAL_PATIENCE.saturating_add(Duration::from_secs(5));

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
    /// What it ran short of, when that is why it failed or may be.
    pub shortfall: Option<Shortfall>,
}

/// What a job leaves for its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// Small files, base64 by path.
    pub artifacts: IndexMap<String, String>,
    /// Why other files are not among them; at most [`ARTIFACT_VERDICTS_MAX`](crate::core::proto::job::ARTIFACT_VERDICTS_MAX).
    pub verdicts: Vec<ArtifactVerdict>,
    /// How many more are not.
    pub more: u64,
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
    /// Through the machine: these security checks do not hold, so nothing runs.
    Insecure(Vec<Finding>),
    /// The engine would not make or start the container, since the job may not have what it needs.
    Denied {
        /// The engine's words.
        detail: String,
        /// What was missing.
        shortfall: Box<Shortfall>,
    },
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
    /// The way into a streaming job is open, or there is none; the second may come after the first.
    Streaming(Result<StreamServer, StreamFault>),
    /// [`Effect::Upload`] has ended.
    Uploaded(Result<Results, Fault>),
    /// The machine is described.
    Described(Context),
    /// The container is gone with everything that ran in it, or nobody can tell.
    Gone(Result<(), String>),
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
    /// Look at the machine, make the folders, ask for the engine, have the image at hand.
    Prepare {
        /// The image, if it is known already.
        image: Option<String>,
        /// Whether jobs of the class get GPUs.
        gpus: bool,
    },
    /// Begin to open a way into the job, which goes on once the container runs.
    OpenStream {
        /// The only client.
        client: ClientCertificate,
        /// The executor's address, as that client will know it.
        address: Option<String>,
    },
    /// Make the container, without starting it; its failure is told when it is to start.
    Create(Box<FullJob>),
    /// Put the volume in place.
    Fetch(Option<Volume>),
    /// Start the container and wait for its end.
    Start,
    /// Address the container with a signal.
    Stop(Signal),
    /// Remove the container, also while it runs or is being made, and make sure that nothing of it is left.
    Remove,
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
    /// The miner was told: failed by the horde, which cannot remove the job's container.
    ContainerLeft,
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
}

/// What is said of a streaming job that did not become healthy (wire-executor-miner §9).
const UNHEALTHY: &str = "Streaming job health check failed";

/// The stage machine of one job.
#[derive(Debug)]
pub struct Machine {
    state: State,
    container: Presence,
    deadline: Instant,
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
            | State::Leaving { .. } => Some(self.deadline),
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
            Event::Tick if now >= self.deadline => self.on_overrun(now),
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
            Why::Overrun => "Execution time exceeded",
            Why::Unhealthy(detail) => {
                context.insert("error".to_owned(), Value::String(detail));
                UNHEALTHY
            }
        };
        let streams = ended.map(|ended| {
            context.extend(ended.shortfall.map(Shortfall::into_parts).unwrap_or_default().1);
            ended.streams
        });
        self.timed_out(job_uuid, message, None, streams, Some(context))
    }

    /// Reports a fault as the current stage has it.
    fn failed_by(&mut self, job_uuid: JobId, fault: Fault, ended: Option<Ended>) -> Vec<Effect> {
        let text = |text: &str| Value::String(text.to_owned());
        match fault {
            Fault::Job(detail) => {
                let (message, reason, context) = if ended.is_some() {
                    let context = Context::from_iter([("error".to_owned(), Value::String(detail))]);
                    (
                        "Upload failed".to_owned(),
                        FailureReason::UploadFailed,
                        Some(context),
                    )
                } else {
                    (detail, FailureReason::DownloadFailed, None)
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
                self.leave(failed.into(), Outcome::Failed)
            }
            Fault::Insecure(findings) => self.insecure(job_uuid, &findings),
            Fault::Refused(message) => self.horde_failed(job_uuid, &message, HordeReason::GenericError, []),
            Fault::NoImage(detail) if self.stage() == JobStage::ExecutorStartup => self.horde_failed(
                job_uuid,
                "Failed to pull docker image",
                HordeReason::GenericError,
                [("stdout", text("")), ("stderr", text(&detail))],
            ),
            // At the start of the container the reference does not tell a missing image from other trouble.
            Fault::NoImage(detail) => self.unhandled(job_uuid, "DockerError", &detail, &Context::new()),
            // Likewise.
            Fault::Denied { detail, shortfall } => {
                self.unhandled(job_uuid, "DockerError", &detail, &shortfall.context)
            }
            Fault::Ours { kind, detail } => self.unhandled(job_uuid, kind, &detail, &Context::new()),
        }
    }

    /// Reports checks that do not hold (wire-executor-miner §10), each with what is, what must be and what helps.
    fn insecure(&mut self, job_uuid: JobId, findings: &[Finding]) -> Vec<Effect> {
        let words: Vec<String> = findings
            .iter()
            .map(|finding| {
                let Finding {
                    check,
                    actual,
                    required,
                    ..
                } = finding;
                format!("{check}: {actual}, required: {required}")
            })
            .collect();
        // Nothing in a finding can fail to become JSON.
        let checks = serde_json::to_value(findings).unwrap_or_default();
        self.horde_failed(
            job_uuid,
            &format!("Security check failed: {}", words.join("; ")),
            HordeReason::SecurityCheckFailed,
            [("checks", checks)],
        )
    }

    fn unhandled(&mut self, job_uuid: JobId, kind: &str, detail: &str, more: &Context) -> Vec<Effect> {
        let facts = [
            ("exception_type", Value::String(kind.to_owned())),
            ("detail", Value::String(detail.to_owned())),
        ];
        let more = more.iter().map(|(key, value)| (key.as_str(), value.clone()));
        self.horde_failed(
            job_uuid,
            "Unhandled exception",
            HordeReason::UnhandledException,
            facts.into_iter().chain(more),
        )
    }

    fn timed_out(
        &mut self,
        job_uuid: JobId,
        message: &str,
        exit_code: Option<i64>,
        streams: Option<Streams>,
        context: Option<Context>,
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
            context,
        };
        self.leave(failed.into(), Outcome::Failed)
    }

    fn horde_failed<'a>(
        &mut self,
        job_uuid: JobId,
        message: &str,
        reason: HordeReason,
        facts: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Vec<Effect> {
        let failed = horde_failure(job_uuid, message, reason, self.stage(), facts);
        self.leave(failed, Outcome::HordeFailed)
    }

    /// Ends the job; the report waits for the container to be gone.
    fn leave(&mut self, report: Up, outcome: Outcome) -> Vec<Effect> {
        let stage = self.stage();
        match &self.container {
            Presence::Absent | Presence::Stuck(_) => self.report(report, outcome, stage),
            Presence::Present | Presence::Leaving => {
                let is_asked = matches!(self.container, Presence::Leaving);
                self.container = Presence::Leaving;
                self.state = State::Leaving {
                    report,
                    outcome,
                    stage,
                };
                (!is_asked).then_some(Effect::Remove).into_iter().collect()
            }
        }
    }

    /// Tells the miner. A container that is still there makes every outcome a failure of ours.
    fn report(&mut self, report: Up, outcome: Outcome, stage: JobStage) -> Vec<Effect> {
        let (Presence::Stuck(detail), Some(job_uuid)) = (&self.container, report.job_uuid()) else {
            self.state = State::Ended;
            return vec![Effect::Send(report), Effect::End(outcome)];
        };
        let facts = [
            ("exception_type", Value::from("DockerError")),
            ("detail", Value::from(detail.as_str())),
            ("withheld", Value::from(report.message_type())),
        ];
        let message = "The job's container could not be removed";
        let reason = HordeReason::UnhandledException;
        let failed = horde_failure(job_uuid.clone(), message, reason, stage, facts);
        self.state = State::Ended;
        vec![Effect::Send(failed), Effect::End(Outcome::ContainerLeft)]
    }

    fn end(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.state = State::Ended;
        vec![Effect::End(outcome)]
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

fn horde_failure<'a>(
    job_uuid: JobId,
    message: &str,
    reason: HordeReason,
    stage: JobStage,
    facts: impl IntoIterator<Item = (&'a str, Value)>,
) -> Up {
    let mut context: Context = facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    context.insert("stage".to_owned(), Value::from(stage.as_str()));
    Up::from(HordeFailed {
        job_uuid,
        reported_by: Participant::Executor,
        message: message.to_owned(),
        reason,
        context: Some(context),
    })
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

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::json;

    use super::*;

    fn initial(change: impl FnOnce(&mut Value)) -> Event {
        let job = "e4227db4-f18c-4ed9-8c9b-a74762c585f6";
        let mut message = json!({
            "message_type": "V0InitialJobRequest", "job_uuid": job, "executor_class": "always_on.test",
            "docker_image": null, "timeout_seconds": null, "volume": null,
            "job_started_receipt_payload": {
                "receipt_type": "JobStartedReceipt", "job_uuid": job, "miner_hotkey": "m", "validator_hotkey": "v",
                "timestamp": "2026-11-22T08:58:34.647364Z", "executor_class": "always_on.test", "is_organic": true,
                "ttl": 30,
            },
            "job_started_receipt_signature": "0x00", "streaming_details": null,
            "executor_timing": {
                "allowed_leeway": 2, "download_time_limit": 3, "execution_time_limit": 4, "upload_time_limit": 5,
                "streaming_start_time_limit": 6,
            },
        });
        change(&mut message);
        Event::Message(Box::new(Down::decode(&message.to_string()).unwrap()))
    }

    fn full(change: impl FnOnce(&mut Value)) -> Event {
        let mut message = json!({
            "message_type": "V0JobRequest", "job_uuid": "e4227db4-f18c-4ed9-8c9b-a74762c585f6",
            "executor_class": "always_on.test", "docker_image": "bb:1", "docker_run_options_preset": "none",
            "docker_run_cmd": ["echo"],
        });
        change(&mut message);
        Event::Message(Box::new(Down::decode(&message.to_string()).unwrap()))
    }

    fn ended(exit_code: i64) -> Event {
        let streams = Streams {
            stdout: "out".to_owned(),
            stderr: "err".to_owned(),
        };
        Event::Exited(Ok(Ended {
            exit_code,
            streams,
            shortfall: None,
        }))
    }

    fn machine(now: Instant) -> Machine {
        Machine::new(now, Duration::from_secs(5), "ws://m")
    }

    fn kinds(effects: &[Effect]) -> Vec<&'static str> {
        let kind = |effect: &Effect| match effect {
            Effect::Send(message) => message.message_type(),
            Effect::Prepare { .. } => "prepare",
            Effect::OpenStream { .. } => "open stream",
            Effect::Create(_) => "create",
            Effect::Fetch(_) => "fetch",
            Effect::Start => "start",
            Effect::Stop(Signal::Term) => "term",
            Effect::Stop(Signal::Kill) => "kill",
            Effect::Remove => "remove",
            Effect::Upload { .. } => "upload",
            Effect::End(_) => "end",
        };
        effects.iter().map(kind).collect()
    }

    fn report(effects: &[Effect]) -> Value {
        let mut reports = effects.iter().filter_map(|effect| {
            let Effect::Send(message) = effect else {
                return None;
            };
            serde_json::from_str(&message.encode()).ok()
        });
        reports.next_back().unwrap_or_default()
    }

    /// Brings a machine into the state that follows so many steps of an ordinary job.
    fn after(steps: usize, now: Instant) -> Machine {
        let mut machine = machine(now);
        let ordinary = [
            initial(|_| {}),
            Event::Prepared(Ok(())),
            full(|_| {}),
            Event::Fetched(Ok(())),
            ended(0),
            Event::Gone(Ok(())),
            Event::Uploaded(Ok(Results::default())),
        ];
        for event in ordinary.into_iter().take(steps) {
            machine.on(now, event);
        }
        machine
    }

    #[test]
    fn an_ordinary_job_goes_through_all_stages_and_is_reported_once() {
        let now = Instant::now();
        let mut machine = machine(now);
        let mut step = |event| kinds(&machine.on(now, event));
        assert_eq!(step(initial(|_| {})), ["prepare"]);
        assert_eq!(step(Event::Prepared(Ok(()))), ["V0ExecutorReadyRequest"]);
        assert_eq!(step(full(|_| {})), ["create", "fetch"]);
        assert_eq!(step(Event::Fetched(Ok(()))), ["V0VolumesReadyRequest", "start"]);
        assert_eq!(step(ended(0)), ["V0ExecutionDoneRequest", "upload", "remove"]);
        assert_eq!(step(Event::Gone(Ok(()))), [""; 0]);
        assert_eq!(
            step(Event::Uploaded(Ok(Results::default()))),
            ["V0JobFinishedRequest", "end"]
        );
        assert_eq!(step(Event::LinkLost), [""; 0]);
    }

    #[test]
    fn one_deadline_grows_by_stage_and_keeps_what_was_saved() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut machine = after(1, start);
        assert_eq!(machine.deadline(), Some(at(5)));
        machine.on(at(1), Event::Prepared(Ok(())));
        assert_eq!(machine.deadline(), Some(at(1 + 2 + 3)));
        machine.on(at(2), full(|_| {}));
        machine.on(at(3), Event::Fetched(Ok(())));
        assert_eq!(machine.deadline(), Some(at(1 + 2 + 3 + 4)));
        assert_eq!(kinds(&machine.on(at(9), Event::Tick)), [""; 0]);
        machine.on(at(9), ended(0));
        assert_eq!(machine.deadline(), Some(at(1 + 2 + 3 + 4 + 5)));
        machine.on(at(9), Event::Gone(Ok(())));
        let effects = machine.on(at(15), Event::Tick);
        assert_eq!(report(&effects)["message"], "Upload time exceeded");
        assert_eq!(report(&effects)["docker_process_exit_status"], 0);
        assert_eq!(report(&effects)["docker_process_stdout"], "out");
        assert_eq!(machine.deadline(), None);
    }

    #[test]
    fn a_job_of_the_legacy_kind_has_one_limit() {
        let start = Instant::now();
        let mut machine = machine(start);
        machine.on(
            start,
            initial(|message| {
                message["executor_timing"] = json!(null);
                message["timeout_seconds"] = json!(20);
            }),
        );
        machine.on(start, Event::Prepared(Ok(())));
        machine.on(start, full(|_| {}));
        machine.on(start, Event::Fetched(Ok(())));
        assert_eq!(machine.deadline(), Some(start + Duration::from_secs(20)));
    }

    #[test]
    fn absurd_limits_neither_panic_nor_end_the_job() {
        for limit in [i64::MIN, -1, 0, i64::MAX] {
            let now = Instant::now();
            let mut machine = machine(now);
            machine.on(
                now,
                initial(|message| {
                    for limits in message["executor_timing"].as_object_mut().unwrap().values_mut() {
                        *limits = json!(limit);
                    }
                }),
            );
            assert_eq!(
                kinds(&machine.on(now, Event::Prepared(Ok(())))),
                ["V0ExecutorReadyRequest"]
            );
            assert!(machine.deadline().unwrap() >= now);
        }
    }

    #[test]
    fn a_container_over_its_time_is_asked_then_killed_and_reported_with_its_streams_once_it_is_gone() {
        let now = Instant::now();
        let late = now + Duration::from_secs(60);
        for (signals, exit_code) in [(1, 143), (2, 137)] {
            let mut machine = after(4, now);
            let mut at = late;
            for word in ["term", "kill"].into_iter().take(signals) {
                assert_eq!(kinds(&machine.on(at, Event::Tick)), [word]);
                assert_eq!(kinds(&machine.on(at, Event::Tick)), [""; 0]);
                at += STOP_GRACE;
            }
            assert_eq!(kinds(&machine.on(at, ended(exit_code))), ["remove"]);
            let effects = machine.on(at, Event::Gone(Ok(())));
            let report = report(&effects);
            assert_eq!(kinds(&effects), ["V0JobFailedRequest", "end"]);
            assert_eq!(
                (&report["reason"], &report["stage"]),
                (&json!("timeout"), &json!("execution"))
            );
            assert_eq!(report["docker_process_exit_status"], json!(null));
            assert_eq!(report["docker_process_stdout"], "out");
            assert_eq!(report["context"]["container_exit_status"], exit_code);
        }
    }

    #[test]
    fn a_job_that_ran_short_says_of_what_and_keeps_the_wires_words_first() {
        let shortfall = |certain: Option<&str>| Shortfall {
            certain: certain.map(str::to_owned),
            context: Context::from_iter([("limit".to_owned(), json!("memory"))]),
        };
        let now = Instant::now();
        let ended = |shortfall| {
            Event::Exited(Ok(Ended {
                exit_code: 137,
                streams: Streams::default(),
                shortfall,
            }))
        };
        for (certain, message) in [
            (
                Some("the job ran out of memory"),
                "Job container exited with non-zero exit code: 137: the job ran out of memory",
            ),
            (None, "Job container exited with non-zero exit code: 137"),
        ] {
            let mut machine = after(4, now);
            let mut effects = machine.on(now, ended(Some(shortfall(certain))));
            effects.extend(machine.on(now, Event::Gone(Ok(()))));
            let report = report(&effects);
            assert_eq!(report["message"], message);
            assert_eq!(report["reason"], "nonzero_return_code");
            assert_eq!(report["context"], json!({ "limit": "memory" }));
        }
        let mut machine = after(4, now);
        let denied = Fault::Denied {
            detail: "no".to_owned(),
            shortfall: Box::new(shortfall(None)),
        };
        let mut effects = machine.on(now, Event::Exited(Err(denied)));
        effects.extend(machine.on(now, Event::Gone(Ok(()))));
        let report = report(&effects);
        assert_eq!(report["reason"], "unhandled_exception");
        assert_eq!(report["context"]["limit"], "memory");
        assert_eq!(report["context"]["detail"], "no");
    }

    #[test]
    fn a_container_that_cannot_be_killed_is_reported_as_soon_as_it_is_gone() {
        let now = Instant::now();
        let mut machine = after(4, now);
        let mut at = now + Duration::from_secs(60);
        machine.on(at, Event::Tick);
        at += STOP_GRACE;
        machine.on(at, Event::Tick);
        at += STOP_PATIENCE;
        assert_eq!(kinds(&machine.on(at, Event::Tick)), ["remove"]);
        let effects = machine.on(at, Event::Gone(Ok(())));
        assert_eq!(report(&effects)["message"], "Execution time exceeded");
        assert_eq!(report(&effects)["docker_process_stdout"], json!(null));
    }

    #[test]
    fn whatever_a_container_that_cannot_be_removed_did_it_is_a_failure_of_ours() {
        let now = Instant::now();
        let late = now + Duration::from_secs(3600);
        let stuck = || Event::Gone(Err("busy".to_owned()));
        let done = || Event::Uploaded(Ok(Results::default()));
        let fault = || Event::Fetched(Err(Fault::Job("bad".to_owned())));
        for (steps, events, withheld) in [
            (3, vec![fault(), stuck()], "V0JobFailedRequest"),
            (4, vec![ended(3), stuck()], "V0JobFailedRequest"),
            (5, vec![done(), stuck()], "V0JobFinishedRequest"),
            (5, vec![stuck(), done()], "V0JobFinishedRequest"),
            (5, vec![done(), Event::Tick], "V0JobFinishedRequest"),
        ] {
            let mut machine = after(steps, now);
            let effects: Vec<_> = events
                .into_iter()
                .flat_map(|event| {
                    let at = if matches!(event, Event::Tick) { late } else { now };
                    machine.on(at, event)
                })
                .collect();
            let report = report(&effects);
            assert_eq!(report["message_type"], "V0HordeFailedRequest");
            assert_eq!(report["context"]["withheld"], withheld);
            assert_eq!(effects.last(), Some(&Effect::End(Outcome::ContainerLeft)));
        }
    }

    #[test]
    fn a_report_that_waits_for_the_container_is_not_hurried_by_a_stop_but_lost_with_the_link() {
        let now = Instant::now();
        let mut machine = after(4, now);
        assert_eq!(kinds(&machine.on(now, ended(3))), ["remove"]);
        assert_eq!(kinds(&machine.on(now, Event::StopAsked)), [""; 0]);
        let effects = machine.on(now, Event::LinkLost);
        assert_eq!(effects, [Effect::End(Outcome::LinkLost)]);
    }

    #[test]
    fn a_volume_may_come_with_either_request_but_not_with_both() {
        let volume = || json!({ "volume_type": "inline", "contents": "" });
        for (first, second) in [(true, false), (false, true), (true, true)] {
            let now = Instant::now();
            let mut machine = machine(now);
            let give = |is_given: bool, message: &mut Value| {
                if is_given {
                    message["volume"] = volume();
                }
            };
            machine.on(now, initial(|message| give(first, message)));
            machine.on(now, Event::Prepared(Ok(())));
            let effects = machine.on(now, full(|message| give(second, message)));
            if first && second {
                assert_eq!(report(&effects)["message"], "Received multiple volumes");
                assert_eq!(report(&effects)["context"]["stage"], "volume_download");
            } else {
                assert!(
                    matches!(effects.last(), Some(Effect::Fetch(Some(_)))),
                    "{effects:?}"
                );
            }
        }
    }

    #[test]
    fn an_order_that_comes_while_preparing_waits_for_its_turn() {
        let now = Instant::now();
        let mut machine = after(1, now);
        assert_eq!(kinds(&machine.on(now, full(|_| {}))), [""; 0]);
        let effects = machine.on(now, Event::Prepared(Ok(())));
        assert_eq!(kinds(&effects), ["V0ExecutorReadyRequest", "create", "fetch"]);
    }

    #[test]
    fn an_order_out_of_turn_is_answered_and_changes_nothing() {
        let now = Instant::now();
        let mut fresh = machine(now);
        assert_eq!(kinds(&fresh.on(now, full(|_| {}))), ["GenericError"]);
        for steps in 1..=5 {
            let mut machine = after(steps, now);
            let before = machine.deadline();
            assert_eq!(
                kinds(&machine.on(now, initial(|_| {}))),
                ["GenericError"],
                "{steps}"
            );
            let other = full(|message| message["job_uuid"] = json!("another"));
            assert_eq!(kinds(&machine.on(now, other)), ["GenericError"], "{steps}");
            if steps > 2 {
                assert_eq!(kinds(&machine.on(now, full(|_| {}))), ["GenericError"], "{steps}");
            }
            assert_eq!(machine.deadline(), before);
        }
    }

    fn streaming_initial() -> Event {
        let golden: Value =
            serde_json::from_str(include_str!("../../../tests/golden/streaming_tls.json")).unwrap();
        let pem = golden["certificates"][0]["certificate_pem"].clone();
        initial(|message| {
            message["streaming_details"] = json!({ "public_key": pem, "executor_ip": "203.0.113.7" });
        })
    }

    fn server() -> Event {
        Event::Streaming(Ok(StreamServer {
            certificate: "CERT".to_owned(),
            port: 6006,
        }))
    }

    /// Brings a machine with a streaming job to where its container runs.
    fn streaming(now: Instant) -> Machine {
        let mut machine = machine(now);
        for event in [
            streaming_initial(),
            Event::Prepared(Ok(())),
            full(|_| {}),
            Event::Fetched(Ok(())),
        ] {
            machine.on(now, event);
        }
        machine
    }

    /// Returns what a streaming job's executor reports in the end, after an event of its own.
    fn report_after(machine: &mut Machine, now: Instant, event: Event) -> Value {
        machine.on(now, event);
        report(&machine.on(now, Event::Gone(Ok(()))))
    }

    #[test]
    fn a_streaming_job_is_announced_and_has_the_time_for_its_start_besides() {
        let now = Instant::now();
        let effects = machine(now).on(now, streaming_initial());
        assert_eq!(kinds(&effects), ["prepare", "open stream"]);
        let mut machine = streaming(now);
        assert_eq!(machine.deadline(), Some(now + Duration::from_secs(2 + 3 + 4 + 6)));
        let effects = machine.on(now, server());
        assert_eq!(
            report(&effects),
            json!({
                "message_type": "V0StreamingJobReadyRequest", "job_uuid": "e4227db4-f18c-4ed9-8c9b-a74762c585f6",
                "executor_token": null, "public_key": "CERT", "ip": null, "port": 6006, "miner_signature": null,
            })
        );
        assert_eq!(
            kinds(&machine.on(now, ended(0))),
            ["V0ExecutionDoneRequest", "upload", "remove"]
        );
    }

    #[test]
    fn a_clients_certificate_that_is_none_fails_the_stream_at_once() {
        let now = Instant::now();
        let event = initial(|message| message["streaming_details"] = json!({ "public_key": "PEM" }));
        let effects = machine(now).on(now, event);
        let report = report(&effects);
        assert_eq!(report["reason"], "streaming_failed");
        assert_eq!(
            report["message"],
            "Failed to start streaming: the client's certificate is not PEM"
        );
        assert_eq!(report["context"]["stage"], "executor_startup");
        assert_eq!(kinds(&effects), ["V0HordeFailedRequest", "end"]);
    }

    #[test]
    fn a_job_that_does_not_become_healthy_is_killed_and_reported_with_its_streams() {
        let now = Instant::now();
        let mut machine = streaming(now);
        let unhealthy = StreamFault::Unhealthy("nothing listens".to_owned());
        assert_eq!(
            kinds(&machine.on(now, Event::Streaming(Err(unhealthy)))),
            ["term"]
        );
        let report = report_after(&mut machine, now, ended(137));
        assert_eq!(report["reason"], "timeout");
        assert_eq!(report["message"], "Streaming job health check failed");
        assert_eq!(report["context"]["error"], "nothing listens");
        assert_eq!(report["docker_process_stdout"], "out");
    }

    #[test]
    fn a_streaming_job_that_ends_before_it_was_ready_has_failed() {
        let now = Instant::now();
        let report_of = |exit_code| report_after(&mut streaming(now), now, ended(exit_code));
        let early = report_of(0);
        assert_eq!(early["message"], "Streaming job health check failed");
        assert_eq!(
            (&early["reason"], &early["docker_process_exit_status"]),
            (&json!("timeout"), &json!(0))
        );
        assert_eq!(report_of(3)["reason"], "nonzero_return_code");
    }

    #[test]
    fn a_way_in_that_breaks_fails_the_job_in_every_stage_before_its_end() {
        let fault = || Event::Streaming(Err(StreamFault::Setup("why".to_owned())));
        let now = Instant::now();
        let mut broken = streaming(now);
        broken.on(now, server());
        let report = report_after(&mut broken, now, fault());
        assert_eq!(report["reason"], "streaming_failed");
        assert_eq!(report["message"], "Failed to start streaming: why");
        assert_eq!(report["context"]["stage"], "execution");
        let mut done = streaming(now);
        done.on(now, server());
        done.on(now, ended(0));
        assert_eq!(kinds(&done.on(now, fault())), [""; 0]);
    }

    #[test]
    fn every_fault_is_reported_with_its_stage() {
        let cases = [
            (
                1,
                Fault::NoImage("x".to_owned()),
                "generic_error",
                "executor_startup",
            ),
            (
                1,
                Fault::Refused("x".to_owned()),
                "generic_error",
                "executor_startup",
            ),
            (
                3,
                Fault::Job("x".to_owned()),
                "download_failed",
                "volume_download",
            ),
            (
                4,
                Fault::NoImage("x".to_owned()),
                "unhandled_exception",
                "execution",
            ),
            (5, Fault::Job("x".to_owned()), "upload_failed", "result_upload"),
            (
                5,
                Fault::Ours {
                    kind: "OSError",
                    detail: "x".to_owned(),
                },
                "unhandled_exception",
                "result_upload",
            ),
        ];
        for (steps, fault, reason, stage) in cases {
            let now = Instant::now();
            let event = match steps {
                1 => Event::Prepared(Err(fault)),
                3 => Event::Fetched(Err(fault)),
                4 => Event::Exited(Err(fault)),
                _ => Event::Uploaded(Err(fault)),
            };
            let mut machine = after(steps, now);
            let mut effects = machine.on(now, event);
            if steps > 2 && steps < 6 {
                effects.extend(machine.on(now, Event::Gone(Ok(()))));
            }
            let report = report(&effects);
            let told = if report["stage"].is_null() {
                &report["context"]["stage"]
            } else {
                &report["stage"]
            };
            assert_eq!((&report["reason"], told), (&json!(reason), &json!(stage)));
        }
    }

    #[test]
    fn results_too_long_for_a_frame_are_a_failed_upload() {
        let now = Instant::now();
        let uploads = IndexMap::from_iter([("k".to_owned(), "x".repeat(FRAME_BYTES_MAX))]);
        let results = Results {
            uploads,
            ..Results::default()
        };
        let effects = after(6, now).on(now, Event::Uploaded(Ok(results)));
        assert_eq!(report(&effects)["reason"], "upload_failed");
    }

    #[test]
    fn what_was_left_out_is_told_before_the_report() {
        let now = Instant::now();
        let verdict = ArtifactVerdict {
            path: "/artifacts/big".to_owned(),
            verdict: "too_large".to_owned(),
        };
        for (verdicts, more, told) in [
            (vec![verdict], 0, true),
            (Vec::new(), 1, true),
            (Vec::new(), 0, false),
        ] {
            let results = Results {
                verdicts,
                more,
                ..Results::default()
            };
            let effects = after(6, now).on(now, Event::Uploaded(Ok(results)));
            let kinds = kinds(&effects);
            assert_eq!(
                kinds.first() == Some(&"V0ArtifactVerdictsRequest"),
                told,
                "{kinds:?}"
            );
            assert_eq!(
                kinds.contains(&"V0JobFinishedRequest") && !told,
                kinds.first() == Some(&"V0JobFinishedRequest")
            );
        }
    }

    #[test]
    fn the_machines_description_is_told_right_before_a_success_and_not_before_a_failure() {
        let now = Instant::now();
        let described = || Event::Described(Context::from_iter([("os".to_owned(), json!("Debian"))]));
        for is_success in [true, false] {
            let mut machine = after(6, now);
            assert_eq!(machine.on(now, described()), []);
            let result = if is_success {
                Ok(Results::default())
            } else {
                Err(Fault::Job("no".to_owned()))
            };
            let mut effects = machine.on(now, Event::Uploaded(result));
            effects.extend(machine.on(now, Event::Gone(Ok(()))));
            let kinds = kinds(&effects);
            let told = kinds.iter().position(|kind| *kind == "V0MachineSpecsRequest");
            let finished = kinds.iter().position(|kind| *kind == "V0JobFinishedRequest");
            assert_eq!(told.is_some(), is_success, "{kinds:?}");
            assert_eq!(finished.is_some(), is_success, "{kinds:?}");
            assert!(told <= finished, "{kinds:?}");
        }
    }

    /// Plays random events in random order, with random pauses, and counts the ends.
    #[test]
    fn every_play_ends_in_exactly_one_outcome_with_at_most_one_report() {
        for seed in 0..300 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut now = Instant::now();
            let mut machine = machine(now);
            let (mut ends, mut reports, mut is_there) = (0, 0, false);
            for turn in 0..60 {
                now += Duration::from_millis(random.random_range(0..3000));
                let fault = || Fault::Ours {
                    kind: "OSError",
                    detail: String::new(),
                };
                let event = match random.random_range(0..20) {
                    0 => initial(|_| {}),
                    1 | 2 => full(|_| {}),
                    3 | 4 => Event::Prepared(Ok(())),
                    5 => Event::Prepared(Err(fault())),
                    6 | 7 => Event::Fetched(Ok(())),
                    8 => Event::Fetched(Err(Fault::Job(String::new()))),
                    9 => ended(random.random_range(0..2)),
                    10 => Event::Exited(Err(fault())),
                    11 => Event::Uploaded(Ok(Results::default())),
                    12 => Event::Malformed {
                        text: "{".to_owned(),
                        error: "no".to_owned(),
                    },
                    13 => Event::Gone(Err("busy".to_owned())),
                    14 | 15 => Event::Gone(Ok(())),
                    16 => streaming_initial(),
                    17 => server(),
                    18 => Event::Streaming(Err(StreamFault::Unhealthy(String::new()))),
                    _ => Event::Tick,
                };
                let event = if turn == 59 { Event::LinkLost } else { event };
                is_there &= !matches!(event, Event::Gone(_));
                let effects = machine.on(now, event);
                is_there |= kinds(&effects).contains(&"create");
                ends += effects
                    .iter()
                    .filter(|effect| matches!(effect, Effect::End(_)))
                    .count();
                let is_report = |kind: &&str| {
                    [
                        "V0JobFinishedRequest",
                        "V0JobFailedRequest",
                        "V0HordeFailedRequest",
                    ]
                    .contains(kind)
                };
                let told = kinds(&effects).iter().filter(|kind| is_report(kind)).count();
                let is_given_up = effects.contains(&Effect::End(Outcome::ContainerLeft));
                assert!(told == 0 || !is_there || is_given_up, "seed {seed}: {effects:?}");
                reports += told;
            }
            assert_eq!(ends, 1, "seed {seed}");
            assert!(reports <= 1, "seed {seed}");
        }
    }
}
