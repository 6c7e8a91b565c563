//! One job as the validator sees it: what it waits for, until when, and what follows from each event.
//!
//! Pure: time comes in with each event, and what is to be done goes out as [`Effect`]s, in the order in which it is
//! to be done. The driver signs, stores, sends. Every path ends in exactly one [`Effect::End`].
//!
//! | wait for | until (wire-miner-validator §5) | then |
//! |---|---|---|
//! | accept | reservation | accepted receipt; report `accepted` |
//! | executor ready | spin-up of the class + start-up | full order; report `executor_ready` |
//! | volumes ready | leeway + download | report `volumes_ready` |
//! | streaming ready, streaming jobs only | + streaming start | report `streaming_ready` |
//! | execution done | + execution | report `execution_done` |
//! | finished | + upload | finished receipt; report `completed` |
//!
//! From the full order on there is one deadline, which each stage extends by its own limit when it begins: what one
//! stage leaves unused the next ones have. Above all stands the limit of the whole job.

pub(super) mod cancel;

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::core::model::job::{
    ExecutorTiming, FailureReason, HordeReason, JobStage, JobStatus, Participant, RejectionReason, RunPreset,
};
use crate::core::model::receipt::JobStarted;
use crate::core::model::{JobId, Manifest};
use crate::core::proto::facilitator_validator::{
    self, FACILITATOR_FRAME_BYTES_MAX, HordeFailure, JobFailure, JobRejection, JobRequest, MinerResponse,
    StatusMetadata, StatusUpdate, StreamingServer,
};
use crate::core::proto::job::{
    CANCELLED_KEY, Context, ExecutionDone, ExecutorReady, FullJob, HordeFailed, InitialJob, JobFailed,
    JobFinished, JobOutput, StreamingReady, VolumesReady, cancelled_context,
};
use crate::core::proto::validator_miner::{Accepted, Declined, Up};
use crate::core::receipts::{Signed, Work};

use cancel::Cancel;

/// The total limit that the first request names for peers that know no timing, in seconds (wire-miner-validator §4).
const LEGACY_TIMEOUT_SECONDS: i64 = 300;

/// The longest time that a single limit of a request may stand for, in seconds (a year); the whole job's limit is
/// far below.
const LIMIT_SECONDS_MAX: u32 = 31_536_000;

/// The longest duration in a receipt: a year (wire-miner-validator §11).
pub const TOOK_MAX: time::Duration = time::Duration::days(365);

/// Characters of a peer's words that are kept when its whole answer is too large for the facilitator.
const WORDS_MAX: usize = 2000;

/// A moment, on the clock that measures and on the clock that people read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// For receipts, UTC.
    pub wall: OffsetDateTime,
}

/// The limits that the validator sets by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For accept or decline.
    pub reservation: Duration,
    /// For the executor to start, besides the spin-up of its class.
    pub startup: Duration,
    /// Slack that all later stages share.
    pub leeway: Duration,
    /// For the job as a whole, from before connecting.
    pub whole: Duration,
}

/// What happens to a job.
#[derive(Debug)]
pub enum Event {
    /// A connection to the miner is open: the first, or one after a loss.
    Connected {
        /// Whether the miner knows of cancelling.
        cancels: bool,
    },
    /// The user has cancelled the job.
    CancelAsked {
        /// Whether the miner knows of cancelling; none while it is not connected.
        cancels: Option<bool>,
    },
    /// No first connection could be opened.
    Unreachable(String),
    /// The miner says something.
    Message(Up),
    /// Time has passed.
    Tick,
    /// The validator stops.
    Stopping,
    /// The validator itself cannot go on.
    Broken(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a fresh authentication, before anything else on this connection.
    Authenticate,
    /// Sign and store a started receipt with this ttl in seconds, put it into [`Machine::initial_job`], sign and send
    /// that.
    RequestExecutor {
        /// The ttl.
        ttl: i64,
    },
    /// Sign, store and send an accepted receipt.
    HandOverAccepted {
        /// When the miner's answer came, UTC.
        accepted: OffsetDateTime,
        /// For how many seconds it holds.
        ttl: i64,
    },
    /// Sign, store and send a finished receipt.
    HandOverFinished(Work),
    /// Sign and send.
    SendOrder(Box<FullJob>),
    /// Store and report a step to the facilitator; the frame is the status update as it will be sent.
    Report {
        /// The step.
        status: JobStatus,
        /// The frame.
        frame: String,
    },
    /// Ask the miner to end the job.
    Cancel,
    /// Tell the facilitator that the job cannot be cancelled, and why.
    RefuseCancel(String),
    /// Pass on what the job has written.
    PassOutput(JobOutput),
    /// Remember what the miner offers.
    Learn(Manifest),
    /// The job is over: store the outcome and close the connection.
    End(Outcome),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With results.
    Completed,
    /// Refused by the miner.
    Rejected(RejectionReason),
    /// By itself.
    Failed(JobStage, FailureReason),
    /// By its user.
    Cancelled,
    /// By the horde, as noticed by the participant.
    HordeFailed(Participant, HordeReason),
}

impl Outcome {
    /// Returns whether the miner is to blame, which makes it less likely to be picked.
    ///
    /// Unlike the reference, a time limit that the miner let pass counts, and a user's container that ends with an
    /// error does not. A `busy` does not count until excuses are judged.
    pub fn blames_miner(self) -> bool {
        match self {
            Self::Completed | Self::Cancelled | Self::Failed(_, FailureReason::NonzeroReturnCode) => false,
            Self::Rejected(reason) => reason != RejectionReason::Busy,
            Self::HordeFailed(Participant::Validator, reason) => !matches!(
                reason,
                HordeReason::GenericError
                    | HordeReason::UnhandledException
                    | HordeReason::MinerConnectionFailed
            ),
            Self::Failed(..) | Self::HordeFailed(..) => true,
        }
    }
}

/// What the job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Reserving,
    SpinningUp,
    Downloading,
    StartingStream,
    Executing,
    Uploading,
    Over,
}

/// The miner's answers, each taken once, be it early.
#[derive(Debug, Default)]
struct Slots {
    accepted: Option<Accepted>,
    executor_ready: Option<ExecutorReady>,
    volumes_ready: Option<VolumesReady>,
    streaming_ready: Option<StreamingReady>,
    execution_done: Option<ExecutionDone>,
    finished: Option<JobFinished>,
}

/// One job on one miner.
#[derive(Debug)]
pub struct Machine {
    request: JobRequest,
    limits: Limits,
    started: Now,
    stage: Stage,
    deadline: Option<Instant>,
    slots: Slots,
    /// Connections so far; 0 means that no receipt is due.
    connections: u32,
    /// The connection that the full order was sent on.
    ordered_on: u32,
    cancel: Cancel,
    /// What the miner complained of last.
    complaint: Option<String>,
}

impl Machine {
    /// Starts the clock of a job; the next event is the connection or its failure.
    pub fn new(request: JobRequest, limits: Limits, now: Now) -> Self {
        Self {
            request,
            limits,
            started: now,
            stage: Stage::Connecting,
            deadline: None,
            slots: Slots::default(),
            connections: 0,
            ordered_on: 0,
            cancel: Cancel::Unasked,
            complaint: None,
        }
    }

    /// Returns the job.
    pub fn job(&self) -> &JobId {
        &self.request.uuid
    }

    /// Returns when the next [`Event::Tick`] is due.
    pub fn deadline(&self) -> Instant {
        let whole = self.whole_deadline();
        if let Cancel::Asked(until) = self.cancel {
            return until.min(whole);
        }
        self.deadline.map_or(whole, |deadline| deadline.min(whole))
    }

    /// Says what follows from an event; nothing once the job is over.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            _ if self.stage == Stage::Over => {}
            Event::Connected { cancels } => {
                self.connected(now, &mut effects);
                self.pursue_cancel(now, cancels, &mut effects);
            }
            Event::CancelAsked { cancels } => self.cancel_asked(now, cancels, &mut effects),
            Event::Unreachable(reason) => {
                let message = format!("Could not connect to the miner: {reason}");
                self.fail(now, HordeReason::MinerConnectionFailed, message, &mut effects);
            }
            Event::Message(message) => self.hear(now, message, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
            Event::Stopping => {
                let message = "The validator stopped while the job was running".to_owned();
                self.fail(now, HordeReason::UnhandledException, message, &mut effects);
            }
            Event::Broken(reason) => {
                let message = format!("The validator could not go on with the job: {reason}");
                self.fail(now, HordeReason::UnhandledException, message, &mut effects);
            }
        }
        effects
    }

    fn connected(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.connections = self.connections.saturating_add(1);
        effects.push(Effect::Authenticate);
        if self.stage == Stage::Connecting {
            self.stage = Stage::Reserving;
            self.deadline = Some(now.instant + self.limits.reservation);
            let ttl = whole_seconds(self.limits.reservation);
            effects.push(Effect::RequestExecutor { ttl });
        }
    }

    fn hear(&mut self, now: Now, message: Up, effects: &mut Vec<Effect>) {
        if let Some(job) = job_of(&message)
            && job != &self.request.uuid
        {
            // A miner sends them to every connection of the validator.
            tracing::debug!(job = %self.request.uuid, other = %job, kind = message.message_type(), "message about another job ignored");
            return;
        }
        let kind = message.message_type();
        let fresh = match message {
            Up::Accepted(accepted) => {
                if accepted.best_effort == Some(true) {
                    tracing::info!(job = %self.request.uuid, "the job runs as best effort: the miner may stop it after ten minutes");
                }
                put(&mut self.slots.accepted, accepted)
            }
            Up::ExecutorReady(ready) => {
                put(&mut self.slots.executor_ready, ready) || self.order_was_lost(effects)
            }
            Up::VolumesReady(ready) => put(&mut self.slots.volumes_ready, ready),
            Up::StreamingReady(ready) => put(&mut self.slots.streaming_ready, ready),
            Up::ExecutionDone(done) => put(&mut self.slots.execution_done, done),
            Up::JobFinished(finished) => put(&mut self.slots.finished, finished),
            Up::Declined(declined) => return self.declined(now, declined, effects),
            Up::JobFailed(failed) => return self.job_failed(now, failed, effects),
            Up::HordeFailed(failed) => return self.horde_failed(now, failed, effects),
            Up::ExecutorFailed(failed) => return self.horde_failed(now, failed.into_horde_failed(), effects),
            Up::StreamingNotReady(failed) => {
                return self.horde_failed(now, failed.into_horde_failed(), effects);
            }
            Up::JobOutput(piece) => {
                effects.push(Effect::PassOutput(piece));
                true
            }
            Up::Manifest(manifest) => {
                effects.push(Effect::Learn(manifest.manifest));
                true
            }
            Up::GenericError(error)
                if self.is_cancelling() && cancel::says_unknown(&error, &self.request.uuid) =>
            {
                return self.cancelled_unseen(now, effects);
            }
            Up::GenericError(error) => {
                self.complained(error.details.as_deref().unwrap_or_default());
                true
            }
            Up::Unauthorized(error) => {
                self.complained(error.details.as_deref().unwrap_or("unauthorized"));
                true
            }
            // Machine facts have no reader yet; the main hotkey is no business of a job.
            Up::MachineSpecs(_) | Up::MainHotkey(_) => true,
        };
        if !fresh {
            tracing::warn!(job = %self.request.uuid, kind, "duplicate message ignored");
        }
        self.advance(now, effects);
    }

    /// Repeats the full order when the miner asks for it again on a newer connection than the one that carried it.
    ///
    /// A miner repeats "executor ready" to a validator that comes back only for jobs whose order it has not got
    /// (wire-miner-validator §8), so the order was lost with the old connection.
    fn order_was_lost(&mut self, effects: &mut Vec<Effect>) -> bool {
        let lost = self.stage == Stage::Downloading && self.ordered_on < self.connections;
        if lost {
            self.ordered_on = self.connections;
            effects.push(Effect::SendOrder(Box::new(self.full_job())));
        }
        lost
    }

    fn complained(&mut self, words: &str) {
        tracing::warn!(job = %self.request.uuid, words = cut(words), "the miner complains");
        self.complaint = Some(cut(words).to_owned());
    }

    /// Takes every step for which the answer is there.
    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        loop {
            match self.stage {
                Stage::Reserving if self.slots.accepted.is_some() => {
                    self.stage = Stage::SpinningUp;
                    self.deadline = Some(
                        now.instant
                            + seconds(self.request.executor_class.spin_up_seconds())
                            + self.limits.startup,
                    );
                    effects.push(Effect::HandOverAccepted {
                        accepted: now.wall,
                        ttl: self.accepted_ttl(),
                    });
                    self.report(JobStatus::Accepted, None, effects);
                }
                // Nobody needs it to begin any more.
                Stage::SpinningUp if self.slots.executor_ready.is_some() && !self.is_cancelling() => {
                    self.stage = Stage::Downloading;
                    self.deadline = Some(now.instant + self.limits.leeway);
                    self.extend(self.request.download_time_limit);
                    self.ordered_on = self.connections;
                    effects.push(Effect::SendOrder(Box::new(self.full_job())));
                    self.report(JobStatus::ExecutorReady, None, effects);
                }
                Stage::Downloading if self.slots.volumes_ready.is_some() => {
                    self.report(JobStatus::VolumesReady, None, effects);
                    if self.request.streaming_details.is_some() {
                        self.stage = Stage::StartingStream;
                        self.extend(self.request.streaming_start_time_limit);
                    } else {
                        self.stage = Stage::Executing;
                        self.extend(self.request.execution_time_limit);
                    }
                }
                Stage::StartingStream => {
                    let Some(ready) = self.slots.streaming_ready.clone() else {
                        return;
                    };
                    self.stage = Stage::Executing;
                    self.extend(self.request.execution_time_limit);
                    self.report(JobStatus::StreamingReady, Some(streaming(ready)), effects);
                }
                Stage::Executing if self.slots.execution_done.is_some() => {
                    self.stage = Stage::Uploading;
                    self.extend(self.request.upload_time_limit);
                    self.report(JobStatus::ExecutionDone, None, effects);
                }
                Stage::Uploading => {
                    let Some(finished) = self.slots.finished.take() else {
                        return;
                    };
                    return self.completed(now, finished, effects);
                }
                Stage::Connecting
                | Stage::Reserving
                | Stage::SpinningUp
                | Stage::Downloading
                | Stage::Executing
                | Stage::Over => return,
            }
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.instant >= self.whole_deadline() {
            let message = format!("The job did not end within {} s", self.limits.whole.as_secs());
            let details = self.details(HordeReason::UnhandledException, message);
            let outcome = Outcome::HordeFailed(Participant::Validator, HordeReason::UnhandledException);
            // The one limit that the reference reports as a failure of the horde (wire-facilitator-validator §4).
            return self.end(now, outcome, JobStatus::HordeFailed, horde(details), effects);
        }
        if let Cancel::Asked(until) = self.cancel {
            if now.instant >= until {
                self.cancel_overdue(now, effects);
            }
            return;
        }
        if self.deadline.is_none_or(|deadline| now.instant < deadline) {
            return;
        }
        let (reason, awaited) = match self.stage {
            Stage::Reserving => (
                HordeReason::InitialResponseTimedOut,
                "the miner to accept or decline",
            ),
            Stage::SpinningUp => (
                HordeReason::ExecutorReadinessResponseTimedOut,
                "the executor to be ready",
            ),
            Stage::Downloading => (HordeReason::VolumesTimedOut, "the volumes"),
            Stage::StartingStream => (
                HordeReason::StreamingJobReadyTimedOut,
                "the streaming job to be ready",
            ),
            Stage::Executing => (HordeReason::ExecutionTimedOut, "the execution to end"),
            Stage::Uploading => (HordeReason::FinalResponseTimedOut, "the results"),
            Stage::Connecting | Stage::Over => return,
        };
        self.fail(now, reason, format!("Timed out waiting for {awaited}"), effects);
    }

    fn declined(&mut self, now: Now, declined: Declined, effects: &mut Vec<Effect>) {
        let message = if declined.message.is_empty() {
            format!("The miner declined the job: {}", declined.reason)
        } else {
            declined.message
        };
        let details = JobRejection {
            rejected_by: Participant::Miner,
            reason: declined.reason,
            message,
            context: declined.context,
        };
        let outcome = Outcome::Rejected(declined.reason);
        self.end(now, outcome, JobStatus::Rejected, rejection(details), effects);
    }

    fn job_failed(&mut self, now: Now, failed: JobFailed, effects: &mut Vec<Effect>) {
        let (outcome, metadata) = cancel::read_failure(failed, self.is_cancelling());
        self.end(now, outcome, JobStatus::Failed, metadata, effects);
    }

    fn horde_failed(&mut self, now: Now, failed: HordeFailed, effects: &mut Vec<Effect>) {
        let (outcome, metadata) = cancel::read_horde_failure(failed);
        self.end(now, outcome, JobStatus::HordeFailed, metadata, effects);
    }

    /// Ends the job with what the validator itself noticed: to the facilitator that is `failed`, not `horde_failed`.
    fn fail(&mut self, now: Now, reason: HordeReason, message: String, effects: &mut Vec<Effect>) {
        let outcome = Outcome::HordeFailed(Participant::Validator, reason);
        let details = self.details(reason, message);
        self.end(now, outcome, JobStatus::Failed, horde(details), effects);
    }

    fn details(&self, reason: HordeReason, message: String) -> HordeFailure {
        let context = self
            .complaint
            .as_ref()
            .map(|words| Context::from_iter([("miner_error".to_owned(), Value::String(words.clone()))]));
        HordeFailure {
            reported_by: Participant::Validator,
            reason,
            message,
            context,
        }
    }

    fn completed(&mut self, now: Now, finished: JobFinished, effects: &mut Vec<Effect>) {
        let score = self.score();
        let metadata = StatusMetadata {
            miner_response: Some(MinerResponse {
                docker_process_stderr: finished.docker_process_stderr,
                docker_process_stdout: finished.docker_process_stdout,
                artifacts: finished.artifacts,
                upload_results: finished.upload_results,
                more: serde_json::Map::new(),
            }),
            ..StatusMetadata::default()
        };
        let frame = self.frame(JobStatus::Completed, Some(metadata));
        if frame.len() <= FACILITATOR_FRAME_BYTES_MAX {
            return self.settle(
                now,
                Outcome::Completed,
                score,
                (JobStatus::Completed, frame),
                effects,
            );
        }
        // The miner has earned its receipt; the facilitator would drop the link instead of taking the frame.
        let message = format!(
            "The results take {} bytes on the wire, the facilitator takes {FACILITATOR_FRAME_BYTES_MAX}",
            frame.len()
        );
        let details = self.details(HordeReason::GenericError, message);
        let outcome = Outcome::HordeFailed(Participant::Validator, HordeReason::GenericError);
        let frame = self.frame(JobStatus::Failed, Some(horde(details)));
        self.settle(now, outcome, score, (JobStatus::Failed, frame), effects);
    }

    fn end(
        &mut self,
        now: Now,
        outcome: Outcome,
        status: JobStatus,
        metadata: StatusMetadata,
        effects: &mut Vec<Effect>,
    ) {
        let frame = end_frame(&self.request.uuid, status, metadata);
        self.settle(now, outcome, 0, (status, frame), effects);
    }

    /// Ends the job: the finished receipt if there ever was a connection, the last report, the outcome.
    fn settle(
        &mut self,
        now: Now,
        outcome: Outcome,
        score: u32,
        (status, frame): (JobStatus, String),
        effects: &mut Vec<Effect>,
    ) {
        self.stage = Stage::Over;
        self.deadline = None;
        if self.connections > 0 {
            let took = now.instant.saturating_duration_since(self.started.instant);
            effects.push(Effect::HandOverFinished(Work {
                started: self.started.wall,
                took: time::Duration::try_from(took).map_or(TOOK_MAX, |took| took.min(TOOK_MAX)),
                score: f64::from(score),
                block_numbers: Vec::new(),
            }));
        }
        effects.push(Effect::Report { status, frame });
        effects.push(Effect::End(outcome));
    }

    fn report(&self, status: JobStatus, metadata: Option<StatusMetadata>, effects: &mut Vec<Effect>) {
        let frame = self.frame(status, metadata);
        effects.push(Effect::Report { status, frame });
    }

    fn frame(&self, status: JobStatus, metadata: Option<StatusMetadata>) -> String {
        status_frame(&self.request.uuid, status, metadata)
    }

    fn whole_deadline(&self) -> Instant {
        self.started.instant + self.limits.whole
    }

    fn extend(&mut self, by: i64) {
        self.deadline = self.deadline.map(|deadline| deadline + seconds(by));
    }

    /// Returns what the job is worth when it completes: the seconds that are reserved for it.
    fn score(&self) -> u32 {
        let limits = [
            self.request.download_time_limit,
            self.request.execution_time_limit,
            self.request.upload_time_limit,
        ];
        limits.into_iter().map(within_limit).sum()
    }

    /// Makes the first request around its started receipt; takes the volume along, which travels once.
    pub fn initial_job(&mut self, receipt: Signed<JobStarted>) -> InitialJob {
        InitialJob {
            validator_signature: None,
            job_uuid: self.request.uuid.clone(),
            executor_class: self.request.executor_class,
            docker_image: Some(self.request.docker_image.clone()),
            timeout_seconds: Some(LEGACY_TIMEOUT_SECONDS),
            volume: self.request.volume.take(),
            job_started_receipt_payload: receipt.payload,
            job_started_receipt_signature: receipt.signature,
            streaming_details: self.request.streaming_details.clone(),
            executor_timing: Some(self.timing()),
        }
    }

    fn timing(&self) -> ExecutorTiming {
        ExecutorTiming {
            allowed_leeway: whole_seconds(self.limits.leeway),
            download_time_limit: self.request.download_time_limit,
            execution_time_limit: self.request.execution_time_limit,
            upload_time_limit: self.request.upload_time_limit,
            streaming_start_time_limit: self.request.streaming_start_time_limit,
        }
    }

    fn full_job(&self) -> FullJob {
        FullJob {
            validator_signature: None,
            job_uuid: self.request.uuid.clone(),
            executor_class: self.request.executor_class,
            docker_image: self.request.docker_image.clone(),
            raw_script: None,
            docker_run_options_preset: if self.request.executor_class.has_gpu() {
                RunPreset::NvidiaAll
            } else {
                RunPreset::None
            },
            docker_run_cmd: self.request.args.clone(),
            env: self.request.env.clone(),
            volume: None,
            output_upload: self.request.output_upload.clone(),
            artifacts_dir: self.request.artifacts_dir.clone(),
        }
    }

    /// Returns for how long the accepted receipt holds: all limits together, in seconds.
    fn accepted_ttl(&self) -> i64 {
        let timing = self.timing();
        let limits = [
            self.request.executor_class.spin_up_seconds(),
            whole_seconds(self.limits.startup),
            timing.allowed_leeway,
            timing.download_time_limit,
            timing.execution_time_limit,
            timing.upload_time_limit,
            timing.streaming_start_time_limit,
        ];
        limits.into_iter().fold(0, i64::saturating_add)
    }
}

/// Makes the frame that reports a job's step to the facilitator.
pub fn status_frame(job: &JobId, status: JobStatus, metadata: Option<StatusMetadata>) -> String {
    let update = StatusUpdate {
        uuid: job.clone(),
        status,
        metadata,
    };
    facilitator_validator::Up::StatusUpdate(update).encode()
}

/// Makes the frame that reports a job's end; what is too large for the facilitator is left out.
pub fn end_frame(job: &JobId, status: JobStatus, mut metadata: StatusMetadata) -> String {
    let frame = status_frame(job, status, Some(metadata.clone()));
    if frame.len() <= FACILITATOR_FRAME_BYTES_MAX {
        return frame;
    }
    shrink(&mut metadata);
    status_frame(job, status, Some(metadata))
}

/// Makes the details of a rejection.
pub fn rejection(details: JobRejection) -> StatusMetadata {
    StatusMetadata {
        job_rejection_details: Some(details),
        ..StatusMetadata::default()
    }
}

/// Makes the details of a failure of the job itself.
pub fn failure(details: JobFailure) -> StatusMetadata {
    StatusMetadata {
        job_failure_details: Some(details),
        ..StatusMetadata::default()
    }
}

/// Makes the details of a failure of the horde.
pub fn horde(details: HordeFailure) -> StatusMetadata {
    StatusMetadata {
        horde_failure_details: Some(details),
        ..StatusMetadata::default()
    }
}

/// Returns the job that a message is about, if it is about one.
fn job_of(message: &Up) -> Option<&JobId> {
    match message {
        Up::Accepted(message) => Some(&message.job_uuid),
        Up::Declined(message) => Some(&message.job_uuid),
        Up::ExecutorReady(message) => Some(&message.job_uuid),
        Up::StreamingReady(message) => Some(&message.job_uuid),
        Up::VolumesReady(message) => Some(&message.job_uuid),
        Up::ExecutionDone(message) => Some(&message.job_uuid),
        Up::MachineSpecs(message) => Some(&message.job_uuid),
        Up::JobFinished(message) => Some(&message.job_uuid),
        Up::JobFailed(message) => Some(&message.job_uuid),
        Up::HordeFailed(message) => Some(&message.job_uuid),
        Up::JobOutput(message) => Some(&message.job_uuid),
        Up::ExecutorFailed(message) => Some(&message.job_uuid),
        Up::StreamingNotReady(message) => Some(&message.job_uuid),
        Up::Unauthorized(_) | Up::Manifest(_) | Up::MainHotkey(_) | Up::GenericError(_) => None,
    }
}

/// Tells whether a message ends a job, as miners of this version say it.
pub fn is_end_of(message: &Up, job: &JobId) -> bool {
    matches!(
        message,
        Up::JobFailed(_) | Up::HordeFailed(_) | Up::JobFinished(_)
    ) && job_of(message) == Some(job)
}

/// Fills a slot; false, and nothing changes, if it was filled.
fn put<T>(slot: &mut Option<T>, value: T) -> bool {
    let free = slot.is_none();
    if free {
        *slot = Some(value);
    }
    free
}

fn streaming(ready: StreamingReady) -> StatusMetadata {
    StatusMetadata {
        streaming_details: Some(StreamingServer {
            streaming_server_cert: Some(ready.public_key),
            streaming_server_address: ready.ip,
            streaming_server_port: Some(ready.port),
        }),
        ..StatusMetadata::default()
    }
}

/// Leaves out what a peer may have made too large, so that the facilitator at least learns how the job ended.
fn shrink(metadata: &mut StatusMetadata) {
    if let Some(details) = &mut metadata.job_rejection_details {
        details.message = cut(&details.message).to_owned();
        details.context = None;
    }
    if let Some(details) = &mut metadata.horde_failure_details {
        details.message = cut(&details.message).to_owned();
        details.context = None;
    }
    if let Some(details) = &mut metadata.job_failure_details {
        details.message = format!("{} (output too large to be passed on)", cut(&details.message));
        let is_cancelled = details
            .context
            .as_ref()
            .is_some_and(|facts| facts.contains_key(CANCELLED_KEY));
        details.context = is_cancelled.then(cancelled_context);
        details.docker_process_stdout = None;
        details.docker_process_stderr = None;
    }
}

/// Returns the beginning of a peer's words.
pub fn cut(words: &str) -> &str {
    words
        .char_indices()
        .nth(WORDS_MAX)
        .and_then(|(end, _)| words.get(..end))
        .unwrap_or(words)
}

fn within_limit(limit: i64) -> u32 {
    u32::try_from(limit.max(0))
        .unwrap_or(u32::MAX)
        .min(LIMIT_SECONDS_MAX)
}

fn seconds(limit: i64) -> Duration {
    Duration::from_secs(within_limit(limit).into())
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
