//! The validator's file: its jobs, the receipts that it signed, the reports that it owes, its miners' incidents, and
//! users' reports that they cheated.

mod cheats;
pub mod look;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

pub use self::cheats::{Blacklisted, CheatReport, JudgedReport, Verdict};
use super::receipts::{self, KeptReceipt};
use super::{Migration, OpenError, Store, StoreError, StoreLoad};
use crate::core::model::job::JobStatus;
use crate::core::model::receipt::ReceiptPayload;
use crate::core::model::subnet::Axon;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::times::{micros, moment};

pub(super) const MIGRATIONS: &[Migration] = &[
    receipts::MIGRATION,
    Migration {
        name: "validator/0001_start",
        sql: include_str!("../migrations/validator/0001_start.sql"),
    },
    Migration {
        name: "validator/0002_cheats",
        sql: include_str!("../migrations/validator/0002_cheats.sql"),
    },
    Migration {
        name: "validator/0003_cancel",
        sql: include_str!("../migrations/validator/0003_cancel.sql"),
    },
];

/// The version of the schema that this program writes.
pub const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The state of a job that has not ended.
const PENDING: &str = "pending";

/// Whether a job may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new and stored.
    New,
    /// It was seen before; this was its last status.
    Known(JobStatus),
}

/// What a user's wish to end a job meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelFate {
    /// The job has not ended; the wish is kept.
    Kept,
    /// The job has ended.
    Ended,
    /// The job was not known; now it counts as ended, should it come.
    Unknown,
}

/// What happened to a job, to be stored in one piece.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// It was given to a miner.
    Assigned {
        /// The miner.
        miner: Hotkey,
        /// Where the miner was reached.
        axon: Axon,
    },
    /// A receipt about it was signed.
    Receipt {
        /// What was signed.
        payload: ReceiptPayload,
        /// The validator's signature.
        signature: String,
    },
    /// A step is owed to the facilitator.
    Status {
        /// The step.
        status: JobStatus,
        /// The status update as it will be sent.
        frame: String,
    },
    /// It is over; its last status is its state.
    Ended,
    /// The miner is to blame for its end.
    Incident {
        /// The miner.
        miner: Hotkey,
        /// The executor class.
        class: ExecutorClass,
        /// How the job ended.
        reason: String,
    },
}

/// A job that had not ended when the validator did.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingJob {
    /// The job.
    pub job: JobId,
    /// The miner that has it, if one had been found.
    pub miner: Option<(Hotkey, Axon)>,
    /// When it was given to the miner, else when it was received.
    pub started: OffsetDateTime,
    /// Whether the miner may hold a started receipt of it.
    pub receipted: bool,
    /// Whether its user has cancelled it.
    pub is_cancelled: bool,
}

/// A status update that the facilitator has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedStatus {
    /// Its place in the order in which updates are sent.
    pub id: i64,
    /// The job.
    pub job: JobId,
    /// The frame.
    pub frame: String,
}

/// The validator's file.
#[derive(Debug, Clone)]
pub struct ValidatorStore {
    store: Store,
}

impl ValidatorStore {
    /// Opens the file for this process alone, making it where missing; blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open(path, MIGRATIONS)?;
        Ok(Self { store })
    }

    /// Returns what the writer of this process has done and has to do.
    pub fn load(&self) -> StoreLoad {
        self.store.load()
    }

    /// Stores a job with its first status, unless it is known already.
    pub async fn admit(
        &self,
        job: JobId,
        class: ExecutorClass,
        frame: String,
        now: OffsetDateTime,
    ) -> Result<Admission, StoreError> {
        let change = move |connection: &Connection| {
            if let Some(status) = last_status(connection, &job)? {
                return Ok(Admission::Known(status));
            }
            // A job that was refused at the door is not kept. Until the facilitator has answered that, it may repeat it.
            let is_refused: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM owed_status WHERE job_uuid = ?1)")?
                .query_row([job.as_str()], |row| row.get(0))?;
            if is_refused {
                return Ok(Admission::Known(JobStatus::Rejected));
            }
            connection
                .prepare_cached(
                    "INSERT INTO job (uuid, executor_class, last_status, received_at)
                     VALUES (:uuid, :class, :status, :now)",
                )?
                .execute(named_params! {
                    ":uuid": job.as_str(),
                    ":class": class.as_str(),
                    ":status": JobStatus::Received.as_str(),
                    ":now": micros(now),
                })?;
            owe(connection, &job, &frame)?;
            Ok(Admission::New)
        };
        self.store.write(change).await
    }

    /// Keeps the wish of a job's user to end it. A job that never came has ended with this: `frame` says so.
    pub async fn order_cancel(
        &self,
        job: JobId,
        frame: String,
        now: OffsetDateTime,
    ) -> Result<CancelFate, StoreError> {
        let change = move |connection: &Connection| {
            let state: Option<String> = connection
                .prepare_cached("SELECT state FROM job WHERE uuid = ?1")?
                .query_row([job.as_str()], |row| row.get(0))
                .optional()?;
            match state.as_deref() {
                Some(PENDING) => {
                    connection
                        .prepare_cached(
                            "UPDATE job SET cancel_ordered = coalesce(cancel_ordered, ?2) WHERE uuid = ?1",
                        )?
                        .execute((job.as_str(), micros(now)))?;
                    Ok(CancelFate::Kept)
                }
                Some(_) => Ok(CancelFate::Ended),
                None => {
                    connection
                        .prepare_cached(
                            "INSERT INTO job (uuid, executor_class, state, last_status, received_at, ended_at,
                                 cancel_ordered)
                             VALUES (?1, 'unknown', ?2, ?2, ?3, ?3, ?3)",
                        )?
                        .execute((job.as_str(), JobStatus::Failed.as_str(), micros(now)))?;
                    owe(connection, &job, &frame)?;
                    Ok(CancelFate::Unknown)
                }
            }
        };
        self.store.write(change).await
    }

    /// Returns the last status of a job, if it is known.
    pub async fn last_status(&self, job: JobId) -> Result<Option<JobStatus>, StoreError> {
        self.store
            .read(move |connection| last_status(connection, &job))
            .await
    }

    /// Stores what happened to a job, all of it or nothing.
    pub async fn record(
        &self,
        job: JobId,
        entries: Vec<Entry>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            entries
                .iter()
                .try_for_each(|entry| note(connection, &job, entry, now))
        };
        self.store.write(change).await
    }

    /// Stores a status update about a job that is not kept itself, such as a refused one.
    pub async fn owe(&self, job: JobId, frame: String) -> Result<(), StoreError> {
        self.store
            .write(move |connection| owe(connection, &job, &frame))
            .await
    }

    /// Returns the first owed status update after the given place.
    pub async fn next_owed(&self, after: i64) -> Result<Option<OwedStatus>, StoreError> {
        let query = move |connection: &Connection| {
            let owed = connection
                .prepare_cached(
                    "SELECT id, job_uuid, frame FROM owed_status WHERE id > ?1 ORDER BY id LIMIT 1",
                )?
                .query_row([after], |row| {
                    Ok(OwedStatus {
                        id: row.get(0)?,
                        job: JobId::new(row.get::<_, String>(1)?),
                        frame: row.get(2)?,
                    })
                })
                .optional()?;
            Ok(owed)
        };
        self.store.read(query).await
    }

    /// Forgets the owed status updates up to a place: they were answered.
    pub async fn answered(&self, up_to: i64) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection
                .prepare_cached("DELETE FROM owed_status WHERE id <= ?1")?
                .execute([up_to])?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Notes that a status update was sent in vain; forgets it, and returns true, after `attempts_max` times.
    pub async fn unanswered(&self, id: i64, attempts_max: u32) -> Result<bool, StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE owed_status SET attempts = attempts + 1 WHERE id = ?1",
                [id],
            )?;
            let given_up = connection.execute(
                "DELETE FROM owed_status WHERE id = ?1 AND attempts >= ?2",
                (id, attempts_max),
            )?;
            Ok(given_up > 0)
        };
        self.store.write(change).await
    }

    /// Returns the jobs that have not ended.
    pub async fn pending_jobs(&self) -> Result<Vec<PendingJob>, StoreError> {
        let query = |connection: &Connection| {
            let mut statement = connection.prepare(
                "SELECT uuid, miner_hotkey, miner_ip, miner_port, coalesce(started_at, received_at),
                        EXISTS (SELECT 1 FROM receipt WHERE job_uuid = uuid), cancel_ordered IS NOT NULL
                 FROM job WHERE state = 'pending' ORDER BY received_at",
            )?;
            let mut rows = statement.query(())?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                jobs.push(pending_job(row)?);
            }
            Ok(jobs)
        };
        self.store.read(query).await
    }

    /// Counts the incidents of each miner with a class since a moment.
    pub async fn incidents(
        &self,
        class: ExecutorClass,
        since: OffsetDateTime,
    ) -> Result<HashMap<Hotkey, i64>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT miner_hotkey, count(*) FROM incident
                 WHERE executor_class = ?1 AND happened_at >= ?2 GROUP BY miner_hotkey",
            )?;
            let counts = statement.query_map((class.as_str(), micros(since)), |row| {
                Ok((Hotkey::new(row.get::<_, String>(0)?), row.get(1)?))
            })?;
            Ok(counts.collect::<Result<_, _>>()?)
        };
        self.store.read(query).await
    }

    /// Forgets jobs and incidents older than `jobs_before` and receipts older than `receipts_before`.
    pub async fn prune(
        &self,
        jobs_before: OffsetDateTime,
        receipts_before: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute("DELETE FROM job WHERE ended_at < ?1", [micros(jobs_before)])?;
            connection.execute(
                "DELETE FROM incident WHERE happened_at < ?1",
                [micros(jobs_before)],
            )?;
            cheats::prune(connection, jobs_before)?;
            receipts::delete_older(connection, receipts_before)?;
            Ok(())
        };
        self.store.write(change).await
    }
}

fn note(connection: &Connection, job: &JobId, entry: &Entry, now: OffsetDateTime) -> Result<(), StoreError> {
    match entry {
        Entry::Assigned { miner, axon } => {
            connection
                .prepare_cached(
                    "UPDATE job SET miner_hotkey = :miner, miner_ip = :ip, miner_port = :port, started_at = :now
                     WHERE uuid = :uuid",
                )?
                .execute(named_params! {
                    ":uuid": job.as_str(),
                    ":miner": miner.as_str(),
                    ":ip": axon.ip.to_string(),
                    ":port": axon.port,
                    ":now": micros(now),
                })?;
        }
        Entry::Receipt { payload, signature } => {
            let receipt = KeptReceipt {
                payload: payload.clone(),
                validator_signature: signature.clone(),
                miner_signature: None,
            };
            // A receipt once signed stays: a second one of the type would contradict it.
            receipts::insert(connection, &receipt, now)?;
        }
        Entry::Status { status, frame } => {
            connection
                .prepare_cached("UPDATE job SET last_status = ?2 WHERE uuid = ?1")?
                .execute((job.as_str(), status.as_str()))?;
            owe(connection, job, frame)?;
        }
        Entry::Ended => {
            connection
                .prepare_cached(
                    "UPDATE job SET state = last_status, ended_at = ?2 WHERE uuid = ?1 AND state = ?3",
                )?
                .execute((job.as_str(), micros(now), PENDING))?;
        }
        Entry::Incident { miner, class, reason } => {
            connection
                .prepare_cached(
                    "INSERT INTO incident (job_uuid, miner_hotkey, executor_class, reason, happened_at)
                     VALUES (:job, :miner, :class, :reason, :now) ON CONFLICT DO NOTHING",
                )?
                .execute(named_params! {
                    ":job": job.as_str(),
                    ":miner": miner.as_str(),
                    ":class": class.as_str(),
                    ":reason": reason,
                    ":now": micros(now),
                })?;
        }
    }
    Ok(())
}

fn owe(connection: &Connection, job: &JobId, frame: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO owed_status (job_uuid, frame) VALUES (?1, ?2)")?
        .execute((job.as_str(), frame))?;
    Ok(())
}

fn last_status(connection: &Connection, job: &JobId) -> Result<Option<JobStatus>, StoreError> {
    let word: Option<String> = connection
        .prepare_cached("SELECT last_status FROM job WHERE uuid = ?1")?
        .query_row([job.as_str()], |row| row.get(0))
        .optional()?;
    Ok(word.map(|word| JobStatus::from_word(&word)))
}

fn pending_job(row: &Row<'_>) -> Result<PendingJob, StoreError> {
    let hotkey: Option<String> = row.get(1)?;
    let ip: Option<String> = row.get(2)?;
    let port: Option<u16> = row.get(3)?;
    let miner = match (hotkey, ip, port) {
        (Some(hotkey), Some(ip), Some(port)) => {
            let ip: IpAddr = ip.parse().map_err(|error| StoreError::value("address", error))?;
            Some((Hotkey::new(hotkey), Axon { ip, port }))
        }
        _ => None,
    };
    Ok(PendingJob {
        job: JobId::new(row.get::<_, String>(0)?),
        miner,
        started: moment(row.get(4)?)?,
        receipted: row.get(5)?,
        is_cancelled: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn store() -> (tempfile::TempDir, ValidatorStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ValidatorStore::open(&folder.path().join("validator.sqlite")).unwrap();
        (folder, store)
    }

    async fn admit(store: &ValidatorStore, job: &str) -> Admission {
        store
            .admit(
                JobId::new(job),
                ExecutorClass::AlwaysOnTest,
                format!("{job} received"),
                NOW,
            )
            .await
            .unwrap()
    }

    fn status(status: JobStatus, frame: &str) -> Entry {
        Entry::Status {
            status,
            frame: frame.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_job_is_admitted_once_and_known_by_its_last_status() {
        let (_folder, store) = store();
        assert_eq!(admit(&store, "a").await, Admission::New);
        assert_eq!(admit(&store, "a").await, Admission::Known(JobStatus::Received));
        let entries = vec![status(JobStatus::Accepted, "a accepted")];
        store.record(JobId::new("a"), entries, NOW).await.unwrap();
        assert_eq!(admit(&store, "a").await, Admission::Known(JobStatus::Accepted));
        assert_eq!(store.last_status(JobId::new("b")).await.unwrap(), None);
        // One that was refused at the door is known until that is answered.
        store.owe(JobId::new("b"), "b rejected".to_owned()).await.unwrap();
        assert_eq!(admit(&store, "b").await, Admission::Known(JobStatus::Rejected));
        store.answered(i64::MAX).await.unwrap();
        assert_eq!(admit(&store, "b").await, Admission::New);
    }

    #[tokio::test]
    async fn owed_updates_come_in_order_until_answered_or_given_up() {
        let (_folder, store) = store();
        admit(&store, "a").await;
        store
            .record(
                JobId::new("a"),
                vec![status(JobStatus::Accepted, "a accepted")],
                NOW,
            )
            .await
            .unwrap();
        store.owe(JobId::new("b"), "b rejected".to_owned()).await.unwrap();
        let mut frames = Vec::new();
        let mut ids = vec![0];
        while let Some(owed) = store.next_owed(*ids.last().unwrap()).await.unwrap() {
            ids.push(owed.id);
            frames.push(owed.frame);
        }
        assert_eq!(frames, ["a received", "a accepted", "b rejected"]);
        store.answered(ids[1]).await.unwrap();
        assert_eq!(store.next_owed(0).await.unwrap().unwrap().frame, "a accepted");
        assert!(!store.unanswered(ids[2], 2).await.unwrap());
        assert!(store.unanswered(ids[2], 2).await.unwrap());
        assert_eq!(store.next_owed(0).await.unwrap().unwrap().frame, "b rejected");
    }

    #[tokio::test]
    async fn a_job_is_pending_with_its_miner_until_it_ends() {
        let (_folder, store) = store();
        admit(&store, "a").await;
        admit(&store, "b").await;
        let axon = Axon {
            ip: "::1".parse().unwrap(),
            port: 8000,
        };
        let miner = Hotkey::from("miner");
        let later = NOW + time::Duration::seconds(5);
        let assigned = Entry::Assigned {
            miner: miner.clone(),
            axon,
        };
        store
            .record(JobId::new("b"), vec![assigned], later)
            .await
            .unwrap();
        let pending = store.pending_jobs().await.unwrap();
        assert_eq!(pending.len(), 2);
        assert_eq!(pending[0].miner, None);
        assert_eq!(pending[1].miner, Some((miner, axon)));
        assert_eq!(pending[1].started, later);
        for job in ["a", "b"] {
            let entries = vec![status(JobStatus::Failed, "failed"), Entry::Ended];
            store.record(JobId::new(job), entries, later).await.unwrap();
        }
        assert_eq!(store.pending_jobs().await.unwrap(), []);
        store
            .prune(later + time::Duration::seconds(1), NOW)
            .await
            .unwrap();
        assert_eq!(store.last_status(JobId::new("a")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_wish_to_end_a_job_is_kept_and_one_that_never_came_has_ended() {
        let (_folder, store) = store();
        admit(&store, "a").await;
        let order = async |job: &str| {
            let frame = format!("{job} cancelled");
            store.order_cancel(JobId::new(job), frame, NOW).await.unwrap()
        };
        assert!(!store.pending_jobs().await.unwrap()[0].is_cancelled);
        assert_eq!(order("a").await, CancelFate::Kept);
        assert_eq!(order("a").await, CancelFate::Kept);
        assert!(store.pending_jobs().await.unwrap()[0].is_cancelled);
        let entries = vec![status(JobStatus::Completed, "a completed"), Entry::Ended];
        store.record(JobId::new("a"), entries, NOW).await.unwrap();
        assert_eq!(order("a").await, CancelFate::Ended);
        assert_eq!(order("b").await, CancelFate::Unknown);
        assert_eq!(admit(&store, "b").await, Admission::Known(JobStatus::Failed));
        assert_eq!(order("b").await, CancelFate::Ended);
        assert_eq!(store.pending_jobs().await.unwrap(), []);
        let mut frames = Vec::new();
        let mut last = 0;
        while let Some(owed) = store.next_owed(last).await.unwrap() {
            last = owed.id;
            frames.push(owed.frame);
        }
        assert_eq!(frames, ["a received", "a completed", "b cancelled"]);
    }

    #[tokio::test]
    async fn incidents_are_counted_by_miner_and_class_within_the_window() {
        let (_folder, store) = store();
        let incident = |miner: &str, class| Entry::Incident {
            miner: Hotkey::from(miner),
            class,
            reason: "x".to_owned(),
        };
        for (job, miner, class) in [
            ("a", "one", ExecutorClass::AlwaysOnTest),
            ("b", "one", ExecutorClass::AlwaysOnTest),
            ("c", "one", ExecutorClass::AlwaysOnLlmA6000),
            ("d", "two", ExecutorClass::AlwaysOnTest),
        ] {
            store
                .record(JobId::new(job), vec![incident(miner, class)], NOW)
                .await
                .unwrap();
        }
        let counts = store.incidents(ExecutorClass::AlwaysOnTest, NOW).await.unwrap();
        assert_eq!(counts.get(&Hotkey::from("one")), Some(&2));
        assert_eq!(counts.get(&Hotkey::from("two")), Some(&1));
        let none = store
            .incidents(ExecutorClass::AlwaysOnTest, NOW + time::Duration::seconds(1))
            .await
            .unwrap();
        assert!(none.is_empty());
    }
}
