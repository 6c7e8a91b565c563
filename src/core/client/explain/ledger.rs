//! The time ledger: how long each stage of a job took, whose it was, what it was allowed, and what was carried over.
//!
//! The times are those at which the facilitator stored each step. A validator only ever extends its deadline, so what a
//! stage leaves unused is carried over to the next (sem-organic-jobs §7); the stages before the executor is ready have
//! limits of their own.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use crate::core::model::Timestamp;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::JobView;

/// Seconds that a miner has to take or decline a job, unless its validator has set it otherwise (sem-organic-jobs §7).
const RESERVATION_SECONDS: i64 = 7;

/// Seconds that an executor has to start, besides the spin-up of its class; 10 in production (sem-organic-jobs §7).
const STARTUP_SECONDS: i64 = 10;

/// Seconds that all stages from the download on share besides their limits (sem-organic-jobs §7).
const LEEWAY_SECONDS: i64 = 5;

/// A part of a job's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// To the validator.
    Delivery,
    /// A miner is chosen and takes the job.
    Reservation,
    /// The executor starts and has the image at hand.
    Startup,
    /// The input comes.
    Download,
    /// The way into a streaming job opens.
    Streaming,
    /// The container runs.
    Execution,
    /// The output goes.
    Upload,
}

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Over.
    Done,
    /// The job is in it now.
    Running,
    /// The job ended in it.
    EndedHere,
    /// Its end was not told; its time is part of the next one's.
    NotTold,
    /// The job did not get there.
    NotReached,
}

/// What one stage took and was allowed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StageTime {
    /// Which.
    pub stage: Stage,
    /// Whose work it is.
    pub role: &'static str,
    /// How far it has come.
    pub progress: Progress,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// How long it took, or has taken so far, in seconds.
    pub took_seconds: Option<f64>,
    /// Its own limit in seconds; none if nobody limits it, or only a role's configuration does.
    pub limit_seconds: Option<i64>,
    /// Whether the limit is the usual one of a validator, and not the job's.
    pub is_limit_usual: bool,
    /// What earlier stages had left, in seconds.
    pub carried_seconds: Option<f64>,
    /// Its part of the whole, in percent.
    pub share_percent: Option<f64>,
}

impl StageTime {
    /// Returns how much longer than allowed it has taken, in seconds; none if it has not, or has no limit.
    pub fn overdue_seconds(&self) -> Option<f64> {
        let limit = seconds(self.limit_seconds?);
        let over = self.took_seconds? - limit - self.carried_seconds.unwrap_or(0.0);
        (over > 0.0).then(|| rounded(over))
    }
}

/// Everything about a job's time.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Ledger {
    /// In the order of the way.
    pub stages: Vec<StageTime>,
    /// From the submission to the end, or to now, in seconds.
    pub total_seconds: f64,
}

impl Ledger {
    /// Returns the stage that the job is in, or that it ended in.
    pub fn current(&self) -> Option<&StageTime> {
        let here = |stage: &&StageTime| matches!(stage.progress, Progress::Running | Progress::EndedHere);
        self.stages.iter().find(here)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "limits are far below 2^52 s; a foreign one above is shown roughly"
)]
fn seconds(whole: i64) -> f64 {
    whole as f64
}

/// Rounds to milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Returns the seconds from one moment to a later one; clocks of peers may go backwards, which counts as nothing.
fn between(from: OffsetDateTime, to: OffsetDateTime) -> f64 {
    rounded((to - from).as_seconds_f64().max(0.0))
}

/// Where the limit of a stage comes from.
struct Limit {
    seconds: Option<i64>,
    is_usual: bool,
    /// Whether what is left over goes on to the next stage.
    is_shared: bool,
}

const fn usual(seconds: i64) -> Limit {
    Limit {
        seconds: Some(seconds),
        is_usual: true,
        is_shared: false,
    }
}

const fn own(seconds: i64) -> Limit {
    Limit {
        seconds: Some(seconds),
        is_usual: false,
        is_shared: true,
    }
}

/// Returns the stages of this job with whose work they are, the step that ends each, and their limits.
fn way(job: &JobView) -> Vec<(Stage, &'static str, JobStatus, Limit)> {
    let unlimited = Limit {
        seconds: None,
        is_usual: false,
        is_shared: false,
    };
    let startup = STARTUP_SECONDS.saturating_add(job.executor_class.spin_up_seconds());
    let mut way = vec![
        (Stage::Delivery, "facilitator", JobStatus::Received, unlimited),
        (
            Stage::Reservation,
            "validator",
            JobStatus::Accepted,
            usual(RESERVATION_SECONDS),
        ),
        (Stage::Startup, "miner", JobStatus::ExecutorReady, usual(startup)),
        (
            Stage::Download,
            "executor",
            JobStatus::VolumesReady,
            own(job.download_time_limit),
        ),
    ];
    if !job.streaming_client_cert.is_empty() {
        let limit = own(job.streaming_start_time_limit);
        way.push((Stage::Streaming, "executor", JobStatus::StreamingReady, limit));
    }
    way.push((
        Stage::Execution,
        "job",
        JobStatus::ExecutionDone,
        own(job.execution_time_limit),
    ));
    way.push((
        Stage::Upload,
        "executor",
        JobStatus::Completed,
        own(job.upload_time_limit),
    ));
    way
}

/// Makes the ledger of a job as it stands at `now`.
pub fn ledger(job: &JobView, now: OffsetDateTime) -> Ledger {
    let told = |status: JobStatus| {
        let entry = job.status_history.iter().find(|entry| entry.status == status);
        entry.map(|entry| entry.created_at)
    };
    let ended = job
        .status_history
        .iter()
        .find(|entry| entry.status.is_terminal())
        .map(|entry| entry.created_at);
    let is_over = ended.is_some();
    let until = ended.map_or(now, Timestamp::moment);
    let total_seconds = between(job.created_at.moment(), until);
    let way = way(job);
    // The last step that was told tells which stage the job is in.
    let reached = way.iter().rposition(|(_, _, status, _)| told(*status).is_some());
    let current = reached.map_or(0, |index| index + 1);
    let mut began_at = job.created_at;
    let mut left = seconds(LEEWAY_SECONDS);
    let mut stages = Vec::with_capacity(way.len());
    for (index, (stage, role, status, limit)) in way.into_iter().enumerate() {
        let end = told(status);
        let (progress, end) = match end {
            Some(end) => (Progress::Done, Some(end.moment())),
            None if index < current => (Progress::NotTold, None),
            None if index == current && is_over => (Progress::EndedHere, Some(until)),
            None if index == current => (Progress::Running, Some(until)),
            None => (Progress::NotReached, None),
        };
        let took = end.map(|end| between(began_at.moment(), end));
        let is_here = matches!(progress, Progress::Done | Progress::Running | Progress::EndedHere);
        let carried = (limit.is_shared && is_here).then_some(rounded(left));
        if limit.is_shared {
            let allowed = left + seconds(limit.seconds.unwrap_or_default().max(0));
            left = (allowed - took.unwrap_or_default()).max(0.0);
        }
        let share = took.filter(|_| total_seconds > 0.0).map(|took| {
            let percent = took / total_seconds * 100.0;
            (percent * 10.0).round() / 10.0
        });
        stages.push(StageTime {
            stage,
            role,
            progress,
            began_at: (progress != Progress::NotReached).then_some(began_at),
            took_seconds: took,
            limit_seconds: limit.seconds,
            is_limit_usual: limit.is_usual,
            carried_seconds: carried,
            share_percent: share,
        });
        if let Some(end) = told(status) {
            began_at = end;
        }
    }
    Ledger {
        stages,
        total_seconds,
    }
}
