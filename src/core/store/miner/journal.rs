//! The journal: what the miner owes for a job, written in the transaction that begins or ends the debt.
//!
//! | owed | from | until |
//! |---|---|---|
//! | start an executor | the reservation | `executor_started` |
//! | end it by force | `kill_ordered` | the slot is given back |
//! | end the job, as its user wants | `cancel_ordered` | `outcome` |
//! | tell the outcome | `outcome` | `outcome_acknowledged` |
//! | give the slot (and the port) back | the reservation | `slot` is null |
//! | keep a receipt | nothing: countersigned and kept in one step before it counts | |
//!
//! Every change of a job's row but its deletion in old age goes through [`MinerStore::step`] under the name of its
//! [`Step`]. Debug builds can end themselves right before or right after the commit of any step ([`Trap`]), which is how
//! the crash tests reach all of them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use time::{Duration, OffsetDateTime};

use super::super::StoreError;
use super::super::trap::{self, Trap};
use super::{JobState, MinerStore, end};
use crate::core::model::{Hotkey, JobId};
use crate::core::store::times::{micros, moment};

/// For how long an outcome that was told, but not acknowledged, is told again to its validator: longer than the
/// longest job of the reference's validator (600 s, wire-miner-validator §5) lasts.
pub const TOLD_AGAIN: Duration = Duration::minutes(15);

/// A durable step of a job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The job has its slot and its started receipt; an executor is owed.
    Reserved,
    /// A streaming job has its port.
    PortTaken,
    /// The executor was started.
    Started,
    /// The executor is ready.
    Ready,
    /// The full order is kept, before the executor gets it.
    Ordered,
    /// The user's wish to end the job is kept.
    CancelOrdered,
    /// The outcome is kept; its telling is owed. With it, where that is so, the order to end the executor.
    Ended,
    /// The executor of a job that is over is to be ended by force.
    Doomed,
    /// The outcome was handed to a connection of the validator.
    Told,
    /// The validator closed the connection in good order after that.
    Acknowledged,
    /// A receipt is kept; a finished one acknowledges the outcome.
    ReceiptKept,
    /// The slot is given back.
    Released,
    /// A former life's job that cannot be saved is ended and its slot given back.
    Buried,
}

impl Step {
    /// All steps, roughly in the order of a job's life.
    pub const ALL: [Self; 13] = [
        Self::Reserved,
        Self::PortTaken,
        Self::Started,
        Self::Ready,
        Self::Ordered,
        Self::CancelOrdered,
        Self::Ended,
        Self::Doomed,
        Self::Told,
        Self::Acknowledged,
        Self::ReceiptKept,
        Self::Released,
        Self::Buried,
    ];

    /// Returns its name in settings of tests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::PortTaken => "port-taken",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Ordered => "ordered",
            Self::CancelOrdered => "cancel-ordered",
            Self::Ended => "ended",
            Self::Doomed => "doomed",
            Self::Told => "told",
            Self::Acknowledged => "acknowledged",
            Self::ReceiptKept => "receipt-kept",
            Self::Released => "released",
            Self::Buried => "buried",
        }
    }
}

/// A job to which a former life of this miner is still obliged by more than its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The job.
    pub job: JobId,
    /// Whose it is.
    pub validator: Hotkey,
    /// The token of its executor.
    pub token: String,
    /// The process of its executor, as [`MinerStore::started`] was told.
    pub process: Option<String>,
    /// Where the job stands.
    pub state: JobState,
    /// Its slot.
    pub slot: Option<u32>,
    /// The validator's first request, as received.
    pub request: String,
    /// The validator's full order, as received.
    pub order: Option<String>,
    /// The port for the client of a streaming job.
    pub streaming_port: Option<u16>,
    /// Whether the executor was started.
    pub is_started: bool,
    /// Whether the executor said that it comes back by itself.
    pub resumes: bool,
    /// Whether the executor is to be ended by force.
    pub is_doomed: bool,
    /// When its user cancelled it, if so.
    pub cancelled: Option<OffsetDateTime>,
    /// When the job was accepted.
    pub accepted: OffsetDateTime,
    /// The outcome, where the job is over.
    pub outcome: Option<String>,
}

/// An outcome that its validator has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The job.
    pub job: JobId,
    /// The message.
    pub outcome: String,
}

impl MinerStore {
    /// Sets a trap, for tests of crashes.
    #[must_use]
    pub fn with_trap(mut self, trap: Option<Trap>) -> Self {
        self.trap = trap.map(Arc::new);
        self
    }

    /// Makes a change of a job durable.
    pub(super) async fn step<T, F>(&self, step: Step, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        trap::write(&self.store, self.trap.as_ref(), step.as_str(), change).await
    }

    /// Notes the port of a streaming job, before its executor is told of it.
    pub async fn port_taken(&self, job: &JobId, port: u16) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached("UPDATE accepted_job SET streaming_port = ?2 WHERE job_uuid = ?1")?
                .execute((job.as_str(), port))?;
            Ok(())
        };
        self.step(Step::PortTaken, change).await
    }

    /// Notes that the job's executor was started, and which process it is where it is one.
    pub async fn started(
        &self,
        job: &JobId,
        process: Option<String>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET executor_process = ?2, executor_started = ?3 WHERE job_uuid = ?1",
                )?
                .execute((job.as_str(), process, micros(now)))?;
            Ok(())
        };
        self.step(Step::Started, change).await
    }

    /// Notes that the executor, reachable at `address`, is ready, and whether it comes back after the loss of its link.
    ///
    /// An order that was kept before is what it gets next.
    pub async fn executor_ready(
        &self,
        job: &JobId,
        address: String,
        resumes: bool,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET executor_address = ?2, executor_resumes = ?3, updated_at = ?4,
                         status = 'WAITING_FOR_PAYLOAD'
                     WHERE job_uuid = ?1 AND status = 'WAITING_FOR_EXECUTOR'",
                )?
                .execute((job.as_str(), address, resumes, micros(now)))?;
            // A step of its own, as whoever counts steps expects.
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET status = 'RUNNING'
                     WHERE job_uuid = ?1 AND status = 'WAITING_FOR_PAYLOAD'
                         AND EXISTS (SELECT 1 FROM job_order WHERE job_row = accepted_job.id)",
                )?
                .execute((job.as_str(),))?;
            Ok(())
        };
        self.step(Step::Ready, change).await
    }

    /// Keeps the full order, as received, for the executor: it runs, or will once its executor is ready.
    pub async fn ordered(&self, job: &JobId, order: String, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT INTO job_order (job_row, text)
                     SELECT id, ?2 FROM accepted_job
                     WHERE job_uuid = ?1 AND status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD')
                     ON CONFLICT DO UPDATE SET text = excluded.text",
                )?
                .execute((job.as_str(), order))?;
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET status = 'RUNNING', updated_at = ?2
                     WHERE job_uuid = ?1 AND status = 'WAITING_FOR_PAYLOAD'",
                )?
                .execute((job.as_str(), micros(now)))?;
            Ok(())
        };
        self.step(Step::Ordered, change).await
    }

    /// Ends an open job with the message that its validator is owed, and says whether its executor is to be ended by
    /// force; false when the job had ended before.
    pub async fn end(
        &self,
        job: &JobId,
        state: JobState,
        outcome: String,
        is_doomed: bool,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            let is_new = end(connection, &job, state, &outcome, now)?;
            if is_doomed {
                doom(connection, &job, now)?;
            }
            Ok(is_new)
        };
        self.step(Step::Ended, change).await
    }

    /// Keeps the wish of the job's user to end it.
    pub async fn cancel_ordered(&self, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET cancel_ordered = coalesce(cancel_ordered, ?2) WHERE job_uuid = ?1",
                )?
                .execute((job.as_str(), micros(now)))?;
            Ok(())
        };
        self.step(Step::CancelOrdered, change).await
    }

    /// Orders the end of the job's executor by force.
    pub async fn doomed(&self, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| doom(connection, &job, now);
        self.step(Step::Doomed, change).await
    }

    /// Gives the job's slot back.
    pub async fn release(&self, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| release(connection, &job, now);
        self.step(Step::Released, change).await
    }

    /// Notes that the outcome was handed to a connection of its validator; the first time counts.
    pub async fn reported(&self, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE accepted_job SET result_reported_to_validator = ?2
                     WHERE job_uuid = ?1 AND result_reported_to_validator IS NULL",
                )?
                .execute((job.as_str(), micros(now)))?;
            Ok(())
        };
        self.step(Step::Told, change).await
    }

    /// Notes that the validator has the outcome.
    pub async fn acknowledged(&self, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| acknowledge(connection, &job, now);
        self.step(Step::Acknowledged, change).await
    }

    /// Tells whether the job has an outcome that its validator has not acknowledged.
    pub fn is_owed(&self, job: &JobId) -> Result<bool, StoreError> {
        self.store.read_here(|connection| {
            let owed: Option<bool> = connection
                .prepare_cached(
                    "SELECT outcome IS NOT NULL AND outcome_acknowledged IS NULL FROM accepted_job
                     WHERE job_uuid = ?1",
                )?
                .query_row((job.as_str(),), |row| row.get(0))
                .optional()?;
            Ok(owed.unwrap_or(false))
        })
    }

    /// Returns at most `limit` outcomes that a validator has not acknowledged, oldest first; without those that were
    /// told for the first time more than [`TOLD_AGAIN`] ago, as nobody waits for them any more.
    pub async fn owed(
        &self,
        validator: &Hotkey,
        limit: u32,
        now: OffsetDateTime,
    ) -> Result<Vec<Owed>, StoreError> {
        // As a rule nothing is owed, which is seen at once; outcomes themselves may be large.
        let is_owed = self.store.read_here(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT 1 FROM accepted_job
                 WHERE validator = ?1 AND outcome IS NOT NULL AND outcome_acknowledged IS NULL",
            )?;
            Ok(statement.exists((validator.as_str(),))?)
        })?;
        if !is_owed {
            return Ok(Vec::new());
        }
        let validator = validator.clone();
        let query = move |connection: &Connection| {
            let stale = now.checked_sub(TOLD_AGAIN).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let mut statement = connection.prepare_cached(
                "SELECT job_uuid, outcome FROM accepted_job
                 WHERE validator = ?1 AND outcome IS NOT NULL AND outcome_acknowledged IS NULL
                     AND (result_reported_to_validator IS NULL OR result_reported_to_validator > ?2)
                 ORDER BY id LIMIT ?3",
            )?;
            let rows = statement.query_map((validator.as_str(), micros(stale), limit), |row| {
                Ok(Owed {
                    job: JobId::new(row.get::<_, String>(0)?),
                    outcome: row.get(1)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.store.read(query).await
    }

    /// Tells whether the validator has shown that it knows of the job's acceptance.
    pub async fn is_acceptance_known(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        let query = move |connection: &Connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM receipt
                         WHERE job_uuid = ?1 AND receipt_type = 'JobAcceptedReceipt')
                     OR EXISTS (SELECT 1 FROM accepted_job JOIN job_order ON job_row = id WHERE job_uuid = ?1)",
                )?
                .query_row((job.as_str(),), |row| row.get(0))?)
        };
        self.store.read(query).await
    }

    /// Returns the jobs that nobody of this life looks after; only to be asked before the first reservation.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let query = |connection: &Connection| {
            let mut statement = connection.prepare(
                "SELECT accepted_job.*, job_request.text AS request, job_order.text AS full_order
                 FROM accepted_job JOIN job_request ON job_request.job_row = id
                     LEFT JOIN job_order ON job_order.job_row = id
                 WHERE slot IS NOT NULL OR status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING')
                 ORDER BY id",
            )?;
            let mut rows = statement.query(())?;
            let mut leftovers = Vec::new();
            while let Some(row) = rows.next()? {
                leftovers.push(Leftover {
                    job: JobId::new(row.get::<_, String>("job_uuid")?),
                    validator: Hotkey::new(row.get::<_, String>("validator")?),
                    token: row.get("executor_token")?,
                    process: row.get("executor_process")?,
                    state: JobState::from_word(&row.get::<_, String>("status")?)?,
                    slot: row.get("slot")?,
                    request: row.get("request")?,
                    order: row.get("full_order")?,
                    streaming_port: row.get("streaming_port")?,
                    is_started: row.get::<_, Option<i64>>("executor_started")?.is_some(),
                    resumes: row.get("executor_resumes")?,
                    is_doomed: row.get::<_, Option<i64>>("kill_ordered")?.is_some(),
                    cancelled: row
                        .get::<_, Option<i64>>("cancel_ordered")?
                        .map(moment)
                        .transpose()?,
                    accepted: moment(row.get("created_at")?)?,
                    outcome: row.get("outcome")?,
                });
            }
            Ok(leftovers)
        };
        self.store.read(query).await
    }

    /// Ends a job that cannot be saved with `outcome`, unless it has ended, and gives its slot back, together.
    pub async fn bury(&self, job: &JobId, outcome: String, now: OffsetDateTime) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            end(connection, &job, JobState::Failed, &outcome, now)?;
            release(connection, &job, now)
        };
        self.step(Step::Buried, change).await
    }

    /// Tells whether the operator wants no new jobs.
    pub async fn is_draining(&self) -> Result<bool, StoreError> {
        self.store.read(is_draining).await
    }

    /// Orders that no new job is accepted, or that new ones are accepted again; holds from the next reservation on.
    pub async fn order_draining(&self, is_draining: bool) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE operator SET is_draining = ?1, revision = revision + 1",
                (is_draining,),
            )?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns how many slots are taken.
    pub async fn slots_taken(&self) -> Result<u32, StoreError> {
        let query = |connection: &Connection| {
            Ok(connection
                .prepare_cached("SELECT count(*) FROM accepted_job WHERE slot IS NOT NULL")?
                .query_row((), |row| row.get(0))?)
        };
        self.store.read(query).await
    }
}

pub(super) fn is_draining(connection: &Connection) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT is_draining FROM operator")?
        .query_row((), |row| row.get(0))?)
}

pub(super) fn acknowledge(
    connection: &Connection,
    job: &JobId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE accepted_job SET outcome_acknowledged = ?2
             WHERE job_uuid = ?1 AND outcome IS NOT NULL AND outcome_acknowledged IS NULL",
        )?
        .execute((job.as_str(), micros(now)))?;
    Ok(())
}

fn release(connection: &Connection, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE accepted_job SET slot = NULL, updated_at = ?2 WHERE job_uuid = ?1")?
        .execute((job.as_str(), micros(now)))?;
    Ok(())
}

fn doom(connection: &Connection, job: &JobId, now: OffsetDateTime) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE accepted_job SET kill_ordered = coalesce(kill_ordered, ?2) WHERE job_uuid = ?1",
        )?
        .execute((job.as_str(), micros(now)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::Migration;
    use super::*;

    #[test]
    fn orders_of_an_older_database_are_kept_and_go_with_their_job() {
        let connection = Connection::open_in_memory().unwrap();
        let migrations = super::super::MIGRATIONS;
        let is_last = |migration: &Migration| migration.name == "miner/0009_orders";
        let place = migrations.iter().position(is_last).unwrap();
        let last = &migrations[place];
        for migration in &migrations[..place] {
            connection.execute_batch(migration.sql).unwrap();
        }
        connection
            .execute_batch(
                "INSERT INTO accepted_job (validator, job_uuid, executor_class, executor_token, status,
                     initial_job_details, full_job_details, created_at, updated_at)
                 VALUES ('v', 'a', 'always_on.test', 't', 'RUNNING', 'request', 'order', 1, 1),
                     ('v', 'b', 'always_on.test', 'u', 'WAITING_FOR_EXECUTOR', 'other request', NULL, 1, 1);",
            )
            .unwrap();
        connection.execute_batch(last.sql).unwrap();
        let texts = || -> Vec<(String, Option<String>)> {
            let mut statement = connection
                .prepare(
                    "SELECT job_request.text, job_order.text FROM job_request LEFT JOIN job_order USING (job_row)
                     ORDER BY job_row",
                )
                .unwrap();
            let rows = statement
                .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            rows.map(Result::unwrap).collect()
        };
        let request = |text: &str, order: Option<&str>| (text.to_owned(), order.map(str::to_owned));
        assert_eq!(
            texts(),
            [request("request", Some("order")), request("other request", None)]
        );
        connection
            .execute("DELETE FROM accepted_job WHERE job_uuid = 'a'", ())
            .unwrap();
        assert_eq!(texts(), [request("other request", None)]);
    }
}
