//! The miner's ledger: the steps of jobs, what was not accepted and why, and how often what happened.
//!
//! Steps and counts of what changes a job are written by triggers of the schema, in the transaction of the change.
//! The rest comes in batches ([`Batch`]), several times a second.

pub(super) mod query;
mod record;

use std::sync::Arc;

use rusqlite::Connection;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

pub(super) use self::record::forget;
use super::{JobState, MinerStore, StoreError};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::look;
use crate::core::store::times::micros;

/// Refused offers and receipts that are kept, at most.
pub const REFUSED_OFFERS_MAX: i64 = 50_000;

/// Refused authentications in the name of validators that are kept, at most.
pub const REFUSED_AUTHENTICATIONS_MAX: i64 = 5_000;

/// Rows of folded strangers, at most; what comes beyond is counted without its address.
pub const STRANGER_ROWS_MAX: i64 = 10_000;

/// How long refusals are kept: a week, so that last weekend can be asked about.
pub const REFUSALS_KEPT: Duration = Duration::days(7);

/// The name under which jobs of `horde miner check` are counted.
pub const SELF_TEST: &str = "self-test";

/// A step in a job's life. The numbers are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A validator's offer arrived.
    Offered = 1,
    /// It got a slot.
    Accepted = 2,
    /// It got none.
    Declined = 3,
    /// Its executor was started.
    ExecutorStarted = 4,
    /// Its executor connected.
    ExecutorConnected = 5,
    /// Its executor is ready for the full order.
    Ready = 6,
    /// The full order went to the executor.
    Ordered = 7,
    /// Its input is in place.
    VolumesReady = 8,
    /// Its client can reach it.
    StreamingReady = 9,
    /// Its container has ended.
    ExecutionDone = 10,
    /// It has results.
    Finished = 11,
    /// It has none.
    Failed = 12,
    /// Its outcome was handed to a connection of its validator.
    Delivered = 13,
    /// Its accepted receipt was kept.
    AcceptedReceipt = 14,
    /// Its finished receipt was kept.
    FinishedReceipt = 15,
    /// Its slot was given back.
    Released = 16,
}

impl Step {
    /// All steps, in the order of a job's life.
    pub const ALL: [Self; 16] = [
        Self::Offered,
        Self::Accepted,
        Self::Declined,
        Self::ExecutorStarted,
        Self::ExecutorConnected,
        Self::Ready,
        Self::Ordered,
        Self::VolumesReady,
        Self::StreamingReady,
        Self::ExecutionDone,
        Self::Finished,
        Self::Failed,
        Self::Delivered,
        Self::AcceptedReceipt,
        Self::FinishedReceipt,
        Self::Released,
    ];

    /// Returns its name, a promise to scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::ExecutorStarted => "executor_started",
            Self::ExecutorConnected => "executor_connected",
            Self::Ready => "ready",
            Self::Ordered => "order_received",
            Self::VolumesReady => "volumes_ready",
            Self::StreamingReady => "streaming_ready",
            Self::ExecutionDone => "execution_done",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Delivered => "outcome_delivered",
            Self::AcceptedReceipt => "accepted_receipt_kept",
            Self::FinishedReceipt => "finished_receipt_kept",
            Self::Released => "slot_released",
        }
    }

    /// Returns the number of the table.
    pub const fn number(self) -> i64 {
        self as i64
    }

    pub(super) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.number() == number)
    }
}

/// A step that changes nothing in its job's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The job.
    pub job: JobId,
    /// The step.
    pub step: Step,
    /// When.
    pub at: OffsetDateTime,
}

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An offer of a job.
    Offer,
    /// A receipt.
    Receipt,
    /// An authentication, or a connection before it.
    Authentication,
}

impl Subject {
    /// Returns its name, a promise to scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Receipt => "receipt",
            Self::Authentication => "authentication",
        }
    }

    const fn event(self) -> Event {
        match self {
            Self::Offer => Event::Declined,
            Self::Receipt => Event::ReceiptRefused,
            Self::Authentication => Event::AuthenticationRefused,
        }
    }
}

/// Something that a validator wanted and did not get.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub subject: Subject,
    /// Who asked.
    pub validator: Hotkey,
    /// From where.
    pub address: Option<String>,
    /// The job.
    pub job: Option<JobId>,
    /// Its class.
    pub class: Option<ExecutorClass>,
    /// Why: a stable code.
    pub reason: String,
    /// Why, in words.
    pub words: String,
    /// What shows it.
    pub evidence: Value,
}

/// Refused authentications of strangers, of one reason and one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strangers {
    /// Why: a stable code.
    pub reason: String,
    /// From where; empty for the rest, and where nobody can tell.
    pub address: String,
    /// How many.
    pub count: u64,
    /// The first.
    pub first_at: OffsetDateTime,
    /// The last.
    pub last_at: OffsetDateTime,
    /// The name that the last one used.
    pub last_validator: Hotkey,
    /// What the last one was told.
    pub last_words: String,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Offers, whatever became of them; reason: none.
    Offered,
    /// Offers that got a slot; reason: the class.
    Accepted,
    /// Offers that got none; reason: the refusal's code.
    Declined,
    /// Jobs with results; reason: the class.
    Finished,
    /// Jobs without; reason: the word of the wire.
    Failed,
    /// Jobs that ran out of time; reason: the stage, or the word of the wire.
    TimedOut,
    /// Receipts that were not kept; reason: the refusal's code.
    ReceiptRefused,
    /// Authentications; reason: the refusal's code.
    AuthenticationRefused,
}

impl Event {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Offered,
        Self::Accepted,
        Self::Declined,
        Self::Finished,
        Self::Failed,
        Self::TimedOut,
        Self::ReceiptRefused,
        Self::AuthenticationRefused,
    ];

    /// Returns its name, a promise to scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::ReceiptRefused => "receipt_refused",
            Self::AuthenticationRefused => "authentication_refused",
        }
    }
}

/// How often something happened in the life of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// What.
    pub event: Event,
    /// Why; see [`Event`].
    pub reason: String,
    /// Whose; empty for strangers, [`SELF_TEST`] for jobs of `horde miner check`.
    pub validator: String,
    /// How often.
    pub count: u64,
}

/// What is written together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Steps.
    pub notes: Vec<Note>,
    /// Refusals.
    pub refused: Vec<Refused>,
    /// Folded strangers.
    pub strangers: Vec<Strangers>,
    /// Refusals for whose rows there was no room: what, why, whose, how many.
    pub crowded: Vec<(Subject, String, Hotkey, u64)>,
}

impl Batch {
    /// Tells whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
            && self.refused.is_empty()
            && self.strangers.is_empty()
            && self.crowded.is_empty()
    }
}

/// Which jobs are asked for; none of a field means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In one of these states; any when empty.
    pub states: Vec<JobState>,
    /// Of validators whose address begins so.
    pub validator: Option<String>,
    /// Of this class.
    pub class: Option<ExecutorClass>,
    /// Offered since.
    pub since: Option<OffsetDateTime>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Number of the row, rising with time.
    pub id: i64,
    /// The job.
    pub job: JobId,
    /// Whose it is.
    pub validator: Hotkey,
    /// Its class.
    pub class: ExecutorClass,
    /// Where it stands.
    pub state: JobState,
    /// The slot that it occupies.
    pub slot: Option<u32>,
    /// Exit code of its container.
    pub exit_status: Option<i64>,
    /// Duration by the finished receipt, in microseconds.
    pub time_took_us: Option<i64>,
    /// Score by the finished receipt.
    pub score: Option<f64>,
    /// Why it failed, as the wire calls it.
    pub error_type: Option<String>,
    /// Why it failed, in words.
    pub error_detail: Option<String>,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
    /// When its row last changed.
    pub updated_at: OffsetDateTime,
    /// When its outcome was handed to its validator.
    pub reported_at: Option<OffsetDateTime>,
    /// Whether there is an outcome to hand over.
    pub has_outcome: bool,
}

/// Everything about one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDetails {
    /// As in a list.
    pub row: JobRow,
    /// Process or container of its executor.
    pub executor_process: Option<String>,
    /// Where its executor was reached.
    pub executor_address: Option<String>,
    /// The type of the message that ended it.
    pub outcome: Option<String>,
    /// The stage in which it ended.
    pub stage: Option<String>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Its steps, by time.
    pub steps: Vec<(Step, OffsetDateTime)>,
}

/// A refusal in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedRow {
    /// Number within its subject, rising with time.
    pub id: i64,
    /// The refusal.
    pub refused: Refused,
}

/// Which refusals are asked for; none of a field means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedFilter {
    /// Of validators whose address begins so.
    pub validator: Option<String>,
    /// Of this class.
    pub class: Option<ExecutorClass>,
    /// Of jobs whose id begins so.
    pub job: Option<String>,
    /// Since.
    pub since: Option<OffsetDateTime>,
}

impl MinerStore {
    /// Writes a batch; steps of unknown jobs and of steps that were noted before are left out.
    pub async fn record(&self, batch: Arc<Batch>) -> Result<(), StoreError> {
        self.store
            .write(move |connection| record::record(connection, &batch))
            .await
    }

    /// Returns how often what happened, by event, reason and validator; offers are the sum of what became of them.
    pub async fn counters(&self) -> Result<Vec<Counter>, StoreError> {
        self.store.read(query::counters).await
    }

    /// Returns at most `limit` jobs, newest first.
    pub async fn jobs(&self, filter: JobFilter, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        self.store
            .read(move |connection| query::jobs(connection, &filter, limit))
            .await
    }

    /// Returns everything about a job.
    pub async fn job_details(&self, job: &JobId) -> Result<Option<JobDetails>, StoreError> {
        let job = job.clone();
        self.store
            .read(move |connection| query::details(connection, &job))
            .await
    }

    /// Returns the jobs that a person may mean: that with this number of a row, else those whose id begins so.
    pub async fn jobs_named(&self, name: &str) -> Result<Vec<JobId>, StoreError> {
        let name = name.to_owned();
        self.store
            .read(move |connection| query::jobs_named(connection, &name))
            .await
    }

    /// Returns at most `limit` refusals, newest first.
    pub async fn refusals(&self, filter: RefusedFilter, limit: u32) -> Result<Vec<RefusedRow>, StoreError> {
        self.store
            .read(move |connection| query::refusals(connection, &filter, limit))
            .await
    }

    /// Returns at most `limit` rows of strangers, the latest first.
    pub async fn strangers(
        &self,
        since: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Strangers>, StoreError> {
        self.store
            .read(move |connection| query::strangers(connection, since, limit))
            .await
    }

    /// Lets a hotkey in as a validator until then, over connections of this host; it takes what lapsed away.
    pub async fn allow_check_validator(
        &self,
        hotkey: &Hotkey,
        until: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let hotkey = hotkey.clone();
        let change = move |connection: &Connection| {
            connection.execute("DELETE FROM check_validator WHERE until < ?1", (micros(now),))?;
            connection.execute(
                "INSERT INTO check_validator (hotkey, until) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET until = excluded.until",
                (hotkey.as_str(), micros(until)),
            )?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Takes the leave of a hotkey away at this moment; its name stays known until the next check, for the counts.
    pub async fn dismiss_check_validator(
        &self,
        hotkey: &Hotkey,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let hotkey = hotkey.clone();
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE check_validator SET until = min(until, ?2) WHERE hotkey = ?1",
                (hotkey.as_str(), micros(now)),
            )?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Tells whether a hotkey is let in for a check.
    pub async fn is_check_validator(&self, hotkey: &Hotkey, now: OffsetDateTime) -> Result<bool, StoreError> {
        let hotkey = hotkey.clone();
        let query = move |connection: &Connection| {
            Ok(connection
                .prepare_cached("SELECT 1 FROM check_validator WHERE hotkey = ?1 AND until > ?2")?
                .exists((hotkey.as_str(), micros(now)))?)
        };
        self.store.read(query).await
    }

    /// Has SQLite look for damage; returns what it found, nothing when all is well.
    pub async fn damage(&self) -> Result<Vec<String>, StoreError> {
        self.store.read(look::faults).await
    }
}

#[cfg(test)]
mod tests;
