//! The miner's database: accepted jobs, the executor slots that they occupy, and their receipts.

mod journal;
pub mod ledger;
pub mod look;
pub mod manifest;
pub mod pages;
pub mod validators;

mod dynamic;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::{Duration, OffsetDateTime};

pub use self::journal::{Leftover, Owed, Step, TOLD_AGAIN};
use super::receipts::{self, KeptReceipt};
use super::trap::Trap;
use super::{Migration, OpenError, Store, StoreError, StoreLoad};
use crate::core::model::receipt::{Receipt, ReceiptPayload};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::times::micros;

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "miner/0001_start",
        sql: include_str!("../migrations/miner/0001_start.sql"),
    },
    receipts::MIGRATION,
    Migration {
        name: "miner/0002_operator",
        sql: include_str!("../migrations/miner/0002_operator.sql"),
    },
    Migration {
        name: "miner/0003_journal",
        sql: include_str!("../migrations/miner/0003_journal.sql"),
    },
    Migration {
        name: "miner/0004_validators",
        sql: include_str!("../migrations/miner/0004_validators.sql"),
    },
    Migration {
        name: "miner/0005_ledger",
        sql: include_str!("../migrations/miner/0005_ledger.sql"),
    },
    Migration {
        name: "miner/0006_receipt_pages",
        sql: include_str!("../migrations/miner/0006_receipt_pages.sql"),
    },
    Migration {
        name: "miner/0007_manifest",
        sql: include_str!("../migrations/miner/0007_manifest.sql"),
    },
    Migration {
        name: "miner/0008_dynamic",
        sql: include_str!("../migrations/miner/0008_dynamic.sql"),
    },
    Migration {
        name: "miner/0009_orders",
        sql: include_str!("../migrations/miner/0009_orders.sql"),
    },
    Migration {
        name: "miner/0010_cancel",
        sql: include_str!("../migrations/miner/0010_cancel.sql"),
    },
];

/// The version of the schema that this program writes.
pub const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// How long ended jobs and receipts are kept: 2 days (sem-miner §13).
pub const KEPT: Duration = Duration::days(2);

/// Where an accepted job stands (sem-miner §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Its executor is being started.
    WaitingForExecutor,
    /// Its executor is ready for the full order.
    WaitingForPayload,
    /// The full order went to the executor.
    Running,
    /// It has results.
    Finished,
    /// It has none.
    Failed,
    /// It was declined.
    Rejected,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 6] = [
        Self::WaitingForExecutor,
        Self::WaitingForPayload,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Rejected,
    ];

    /// Returns the word of the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForExecutor => "WAITING_FOR_EXECUTOR",
            Self::WaitingForPayload => "WAITING_FOR_PAYLOAD",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
        }
    }

    /// Tells whether the job still occupies somebody.
    pub const fn is_open(self) -> bool {
        match self {
            Self::WaitingForExecutor | Self::WaitingForPayload | Self::Running => true,
            Self::Finished | Self::Failed | Self::Rejected => false,
        }
    }

    fn from_word(word: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| StoreError::value("status", word))
    }
}

/// A job that asks for an executor.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Who asks.
    pub validator: Hotkey,
    /// The job.
    pub job: JobId,
    /// The class that it needs.
    pub class: ExecutorClass,
    /// The token that its executor would get.
    pub token: String,
    /// The request as received.
    pub request: String,
    /// Its started receipt, countersigned.
    pub receipt: Receipt,
    /// The slots of the class that it may have, the best first.
    pub slots: Vec<u32>,
}

/// What became of an [`Offer`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reservation {
    /// The job has this slot of its class.
    Reserved(u32),
    /// All slots are taken; the receipts say by whom.
    Busy(Vec<Receipt>),
    /// There is such a job already.
    Known {
        /// Whose it is.
        validator: Hotkey,
        /// Where it stands.
        state: JobState,
    },
    /// The operator wants no new jobs.
    Draining,
}

/// What became of a receipt that came after its job's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptFate {
    /// It is kept.
    Kept,
    /// There was such a receipt already, which stays as it is.
    Repeated,
    /// Its validator has no such job here.
    UnknownJob,
}

/// A job as the table has it.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedJob {
    /// Number of the row, rising with time.
    pub id: i64,
    /// Whose it is.
    pub validator: Hotkey,
    /// The job.
    pub job: JobId,
    /// Its class.
    pub class: ExecutorClass,
    /// Where it stands.
    pub state: JobState,
    /// The slot that it occupies.
    pub slot: Option<u32>,
    /// Exit code of its container.
    pub exit_status: Option<i64>,
    /// Standard output of its container.
    pub stdout: String,
    /// Why it failed, as the wire calls it.
    pub error_type: Option<String>,
    /// Why it failed, in words.
    pub error_detail: Option<String>,
    /// Whether its validator was told the outcome.
    pub is_reported: bool,
    /// Whether its validator has shown that it has the outcome.
    pub is_acknowledged: bool,
    /// Duration by the finished receipt, in microseconds.
    pub time_took_us: Option<i64>,
    /// Score by the finished receipt.
    pub score: Option<f64>,
}

/// The miner's database.
#[derive(Debug, Clone)]
pub struct MinerStore {
    store: Store,
    trap: Option<Arc<Trap>>,
}

impl MinerStore {
    /// Opens the database at `path` for this process alone, making it where missing.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open(path, MIGRATIONS)?;
        Ok(Self { store, trap: None })
    }

    /// Opens the database of a miner that may be running, for questions and orders of its operator.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open_beside(path, MIGRATIONS)?;
        Ok(Self { store, trap: None })
    }

    /// Returns what the writer of this process has done and has to do.
    pub fn load(&self) -> StoreLoad {
        self.store.load()
    }

    /// Returns how many orders the operator has given in the life of the database; whoever saw another number before
    /// has to look for what has changed.
    pub async fn orders_revision(&self) -> Result<i64, StoreError> {
        self.store
            .read(|connection| {
                Ok(connection
                    .prepare_cached("SELECT revision FROM operator")?
                    .query_row((), |row| row.get(0))?)
            })
            .await
    }

    /// Returns the label by which this miner knows its containers; it stays the same for the life of the database.
    pub async fn owner(&self) -> Result<String, StoreError> {
        self.store
            .read(|connection| Ok(connection.query_row("SELECT label FROM owner", (), |row| row.get(0))?))
            .await
    }

    /// Keeps the job and its receipt, and gives it a slot if one is free, all in one transaction.
    pub async fn reserve(&self, offer: Offer, now: OffsetDateTime) -> Result<Reservation, StoreError> {
        self.step(Step::Reserved, move |connection| reserve(connection, offer, now))
            .await
    }

    /// Returns the validator and the state of a job.
    pub async fn standing(&self, job: &JobId) -> Result<Option<(Hotkey, JobState)>, StoreError> {
        let job = job.clone();
        self.store
            .read(move |connection| standing(connection, &job))
            .await
    }

    /// Keeps a receipt that came after the job's start; a finished one also tells the job's duration and score.
    ///
    /// False when there was such a receipt already, which stays as it is.
    pub async fn keep_receipt(&self, receipt: Receipt, now: OffsetDateTime) -> Result<bool, StoreError> {
        let change = move |connection: &Connection| keep_receipt(connection, &receipt.into(), now);
        self.step(Step::ReceiptKept, change).await
    }

    /// Keeps a receipt as [`Self::keep_receipt`] does, if its job is one of its validator's.
    pub async fn keep_own_receipt(
        &self,
        receipt: Receipt,
        now: OffsetDateTime,
    ) -> Result<ReceiptFate, StoreError> {
        let change = move |connection: &Connection| {
            let kept = KeptReceipt::from(receipt);
            let owner = standing(connection, kept.payload.job_uuid())?;
            if owner.is_none_or(|(validator, _)| &validator != kept.payload.validator_hotkey()) {
                return Ok(ReceiptFate::UnknownJob);
            }
            Ok(if keep_receipt(connection, &kept, now)? {
                ReceiptFate::Kept
            } else {
                ReceiptFate::Repeated
            })
        };
        self.step(Step::ReceiptKept, change).await
    }

    /// Returns the receipts of a job.
    pub async fn receipts_of(&self, job: &JobId) -> Result<Vec<KeptReceipt>, StoreError> {
        let job = job.clone();
        self.store
            .read(move |connection| receipts::of_job(connection, &job))
            .await
    }

    /// Returns a job.
    pub async fn job(&self, job: &JobId) -> Result<Option<AcceptedJob>, StoreError> {
        let job = job.clone();
        let query = move |connection: &Connection| {
            connection
                .prepare_cached("SELECT * FROM accepted_job WHERE job_uuid = ?1")?
                .query_row((job.as_str(),), |row| Ok(accepted_job(row)))
                .optional()?
                .transpose()
        };
        self.store.read(query).await
    }

    /// Forgets ended jobs and receipts that are older than [`KEPT`]; returns how many rows.
    pub async fn forget_old(&self, now: OffsetDateTime) -> Result<usize, StoreError> {
        let change = move |connection: &Connection| {
            let cutoff = now.checked_sub(KEPT).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let jobs = connection.execute(
                "DELETE FROM accepted_job WHERE created_at < ?1 AND slot IS NULL
                     AND status IN ('FINISHED', 'FAILED', 'REJECTED')",
                (micros(cutoff),),
            )?;
            ledger::forget(connection, now)?;
            Ok(jobs + pages::delete_older(connection, cutoff)?)
        };
        self.store.write(change).await
    }
}

fn reserve(connection: &Connection, offer: Offer, now: OffsetDateTime) -> Result<Reservation, StoreError> {
    if let Some((validator, state)) = standing(connection, &offer.job)? {
        return Ok(Reservation::Known { validator, state });
    }
    if journal::is_draining(connection)? {
        return Ok(Reservation::Draining);
    }
    let at = offer.receipt.payload.timestamp().moment();
    pages::enter(connection, &KeptReceipt::from(offer.receipt), now)?;
    let slot = free_slot(connection, offer.class, &offer.slots)?;
    let state = match slot {
        Some(_) => JobState::WaitingForExecutor,
        None => JobState::Rejected,
    };
    connection
        .prepare_cached(
            "INSERT INTO accepted_job (validator, job_uuid, executor_class, executor_token, status, slot,
                 created_at, updated_at)
             VALUES (:validator, :job, :class, :token, :status, :slot, :now, :now)",
        )?
        .execute(named_params! {
            ":validator": offer.validator.as_str(),
            ":job": offer.job.as_str(),
            ":class": offer.class.as_str(),
            ":token": offer.token,
            ":status": state.as_str(),
            ":slot": slot,
            ":now": micros(now),
        })?;
    connection
        .prepare_cached("INSERT INTO job_request (job_row, text) VALUES (?1, ?2)")?
        .execute((connection.last_insert_rowid(), offer.request))?;
    if let Some(slot) = slot {
        return Ok(Reservation::Reserved(slot));
    }
    let excuses = receipts::excuses(connection, offer.class, at, &offer.job)?;
    Ok(Reservation::Busy(excuses))
}

/// Returns the first of `slots` that no job has.
fn free_slot(
    connection: &Connection,
    class: ExecutorClass,
    slots: &[u32],
) -> Result<Option<u32>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM accepted_job WHERE executor_class = ?1 AND slot = ?2")?;
    for slot in slots {
        if !statement.exists((class.as_str(), slot))? {
            return Ok(Some(*slot));
        }
    }
    Ok(None)
}

fn keep_receipt(
    connection: &Connection,
    kept: &KeptReceipt,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let is_new = pages::enter(connection, kept, now)?;
    let ReceiptPayload::Finished(finished) = &kept.payload else {
        return Ok(is_new);
    };
    // Validators send it when they have the outcome, whatever it is (wire-miner-validator §5).
    journal::acknowledge(connection, &finished.job_uuid, now)?;
    if is_new {
        let score: Option<f64> = finished.score_str.parse().ok();
        connection
            .prepare_cached("UPDATE accepted_job SET time_took_us = ?2, score = ?3 WHERE job_uuid = ?1")?
            .execute((
                finished.job_uuid.as_str(),
                finished.time_took_us,
                score.filter(|score| score.is_finite()),
            ))?;
    }
    Ok(is_new)
}

fn standing(connection: &Connection, job: &JobId) -> Result<Option<(Hotkey, JobState)>, StoreError> {
    let found: Option<(String, String)> = connection
        .prepare_cached("SELECT validator, status FROM accepted_job WHERE job_uuid = ?1")?
        .query_row((job.as_str(),), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found
        .map(|(validator, state)| Ok((Hotkey::new(validator), JobState::from_word(&state)?)))
        .transpose()
}

fn end(
    connection: &Connection,
    job: &JobId,
    state: JobState,
    outcome: &str,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let changed = connection
        .prepare_cached(
            // A validator that has sent its last receipt waits for nothing any more.
            "UPDATE accepted_job SET status = ?2, outcome = ?3, updated_at = ?4,
                 outcome_acknowledged = CASE WHEN EXISTS (SELECT 1 FROM receipt
                     WHERE job_uuid = ?1 AND receipt_type = 'JobFinishedReceipt') THEN ?4 END
             WHERE job_uuid = ?1 AND status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING')",
        )?
        .execute((job.as_str(), state.as_str(), outcome, micros(now)))?;
    Ok(changed == 1)
}

fn accepted_job(row: &Row<'_>) -> Result<AcceptedJob, StoreError> {
    let class: String = row.get("executor_class")?;
    Ok(AcceptedJob {
        id: row.get("id")?,
        validator: Hotkey::new(row.get::<_, String>("validator")?),
        job: JobId::new(row.get::<_, String>("job_uuid")?),
        class: class
            .parse()
            .map_err(|error| StoreError::value("executor class", error))?,
        state: JobState::from_word(&row.get::<_, String>("status")?)?,
        slot: row.get("slot")?,
        exit_status: row.get("exit_status")?,
        stdout: row.get("stdout")?,
        error_type: row.get("error_type")?,
        error_detail: row.get("error_detail")?,
        is_reported: row
            .get::<_, Option<i64>>("result_reported_to_validator")?
            .is_some(),
        is_acknowledged: row.get::<_, Option<i64>>("outcome_acknowledged")?.is_some(),
        time_took_us: row.get("time_took_us")?,
        score: row.get("score")?,
    })
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-15 12:30:45 UTC);

    fn store() -> (tempfile::TempDir, MinerStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        (folder, store)
    }

    fn job(number: u32) -> JobId {
        JobId::new(format!("00000000-0000-4000-8000-{number:012}"))
    }

    fn offer(number: u32, slots: u32) -> Offer {
        let text = format!(
            r#"{{"payload":{{"job_uuid":"{job}","miner_hotkey":"m","validator_hotkey":"v",
                "timestamp":"2026-01-15T12:30:45.{micros:06}Z","receipt_type":"JobStartedReceipt",
                "executor_class":"always_on.test","is_organic":true,"ttl":7}},
                "validator_signature":"0x01","miner_signature":"0x02"}}"#,
            job = job(number),
            // Only older receipts excuse.
            micros = number + 1,
        );
        Offer {
            validator: Hotkey::from("v"),
            job: job(number),
            class: ExecutorClass::AlwaysOnTest,
            token: format!("token {number}"),
            request: "{}".to_owned(),
            receipt: serde_json::from_str(&text).unwrap(),
            slots: (0..slots).collect(),
        }
    }

    #[tokio::test]
    async fn many_offers_at_once_get_each_slot_once() {
        let (_folder, store) = store();
        let offers = (0..40).map(|number| store.reserve(offer(number, 3), NOW));
        let mut slots = Vec::new();
        for reservation in join_all(offers).await {
            match reservation.unwrap() {
                Reservation::Reserved(slot) => slots.push(slot),
                // The jobs that hold the slots, and those declined before, excuse it.
                Reservation::Busy(receipts) => assert!(receipts.len() >= 3),
                Reservation::Known { .. } => panic!("no job was offered twice"),
                Reservation::Draining => panic!("nobody ordered that"),
            }
        }
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_slot_that_is_given_back_is_the_next_to_be_taken() {
        let (_folder, store) = store();
        for number in 0..3 {
            store.reserve(offer(number, 3), NOW).await.unwrap();
        }
        store.release(&job(1), NOW).await.unwrap();
        assert_eq!(
            store.reserve(offer(7, 3), NOW).await.unwrap(),
            Reservation::Reserved(1)
        );
        assert!(matches!(
            store.reserve(offer(8, 3), NOW).await.unwrap(),
            Reservation::Busy(_)
        ));
    }

    #[tokio::test]
    async fn a_known_job_is_told_apart_and_changes_nothing() {
        let (_folder, store) = store();
        store.reserve(offer(1, 2), NOW).await.unwrap();
        let again = store.reserve(offer(1, 2), NOW).await.unwrap();
        let expected = Reservation::Known {
            validator: Hotkey::from("v"),
            state: JobState::WaitingForExecutor,
        };
        assert_eq!(again, expected);
        assert_eq!(
            store.reserve(offer(2, 2), NOW).await.unwrap(),
            Reservation::Reserved(1)
        );
    }

    #[tokio::test]
    async fn an_outcome_is_kept_once_read_back_in_columns_and_owed_until_acknowledged() {
        let (_folder, store) = store();
        store.reserve(offer(1, 1), NOW).await.unwrap();
        store
            .executor_ready(&job(1), "127.0.0.1".to_owned(), true, NOW)
            .await
            .unwrap();
        store.ordered(&job(1), "{}".to_owned(), NOW).await.unwrap();
        assert_eq!(
            store.standing(&job(1)).await.unwrap().unwrap().1,
            JobState::Running
        );
        let outcome = r#"{"message_type":"V0JobFailedRequest","job_uuid":"x","message":"bad","reason":"timeout",
            "docker_process_exit_status":137,"docker_process_stdout":"zero \u0000 inside","context":null}"#;
        let failed = JobState::Failed;
        assert!(
            store
                .end(&job(1), failed, outcome.to_owned(), false, NOW)
                .await
                .unwrap()
        );
        assert!(
            !store
                .end(&job(1), failed, "{}".to_owned(), false, NOW)
                .await
                .unwrap()
        );
        let kept = store.job(&job(1)).await.unwrap().unwrap();
        assert_eq!(
            (
                kept.exit_status,
                kept.error_type.as_deref(),
                kept.error_detail.as_deref()
            ),
            (Some(137), Some("timeout"), Some("bad"))
        );
        assert_eq!(kept.stdout, "zero \0 inside");
        let owed = store.owed(&Hotkey::from("v"), 10, NOW).await.unwrap();
        assert_eq!(owed.len(), 1);
        assert_eq!(owed[0].outcome, outcome);
        assert_eq!(store.owed(&Hotkey::from("w"), 10, NOW).await.unwrap(), []);
        store.reported(&job(1), NOW).await.unwrap();
        assert_eq!(
            store.owed(&Hotkey::from("v"), 10, NOW).await.unwrap(),
            owed,
            "told, but not acknowledged"
        );
        let later = NOW + TOLD_AGAIN + Duration::seconds(1);
        assert_eq!(store.owed(&Hotkey::from("v"), 10, later).await.unwrap(), []);
        store.acknowledged(&job(1), NOW).await.unwrap();
        assert!(!store.is_owed(&job(1)).unwrap());
        assert_eq!(store.owed(&Hotkey::from("v"), 10, NOW).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_former_lifes_jobs_are_found_and_buried_and_old_ones_forgotten() {
        let (_folder, store) = store();
        store.reserve(offer(1, 2), NOW).await.unwrap();
        store
            .started(&job(1), Some("42 4711".to_owned()), NOW)
            .await
            .unwrap();
        store.reserve(offer(2, 2), NOW).await.unwrap();
        store
            .end(
                &job(2),
                JobState::Finished,
                "{\"docker_process_stdout\":\"o\"}".to_owned(),
                true,
                NOW,
            )
            .await
            .unwrap();
        let leftovers = store.leftovers().await.unwrap();
        assert_eq!(leftovers.len(), 2);
        assert_eq!(leftovers[0].process.as_deref(), Some("42 4711"));
        assert_eq!(leftovers[0].accepted, NOW);
        let owed = |index: usize| (leftovers[index].is_started, leftovers[index].is_doomed);
        assert_eq!((owed(0), owed(1)), ((true, false), (false, true)));
        for leftover in leftovers {
            store
                .bury(&leftover.job, "{\"reason\":\"x\"}".to_owned(), NOW)
                .await
                .unwrap();
        }
        let buried = store.job(&job(1)).await.unwrap().unwrap();
        assert_eq!((buried.state, buried.slot), (JobState::Failed, None));
        // What had ended keeps its outcome.
        let ended = store.job(&job(2)).await.unwrap().unwrap();
        assert_eq!(
            (ended.state, ended.slot, ended.stdout.as_str()),
            (JobState::Finished, None, "o")
        );
        assert_eq!(store.leftovers().await.unwrap(), []);

        assert_eq!(store.forget_old(NOW + KEPT).await.unwrap(), 0);
        // Receipts go by whole pages.
        let later = NOW + KEPT + Duration::minutes(5);
        assert_eq!(
            store.forget_old(later).await.unwrap(),
            4,
            "two jobs, two receipts"
        );
        assert_eq!(store.job(&job(1)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_order_that_comes_before_its_executor_is_kept_and_runs_when_that_is_ready() {
        let (_folder, store) = store();
        store.reserve(offer(1, 1), NOW).await.unwrap();
        store.ordered(&job(1), "{}".to_owned(), NOW).await.unwrap();
        let state = async || store.standing(&job(1)).await.unwrap().unwrap().1;
        assert_eq!(state().await, JobState::WaitingForExecutor);
        assert_eq!(store.leftovers().await.unwrap()[0].order.as_deref(), Some("{}"));
        store
            .executor_ready(&job(1), String::new(), true, NOW)
            .await
            .unwrap();
        assert_eq!(state().await, JobState::Running);
        assert!(store.leftovers().await.unwrap()[0].resumes);
        assert!(store.is_acceptance_known(&job(1)).await.unwrap());
    }

    #[tokio::test]
    async fn a_draining_miner_reserves_nothing_until_it_is_told_otherwise() {
        let (folder, store) = store();
        let beside = MinerStore::open_beside(&folder.path().join("miner.sqlite")).unwrap();
        let revision = store.orders_revision().await.unwrap();
        beside.order_draining(true).await.unwrap();
        assert_eq!(store.orders_revision().await.unwrap(), revision + 1);
        assert!(store.is_draining().await.unwrap());
        assert_eq!(
            store.reserve(offer(1, 1), NOW).await.unwrap(),
            Reservation::Draining
        );
        assert_eq!(store.job(&job(1)).await.unwrap(), None);
        beside.order_draining(false).await.unwrap();
        assert_eq!(
            store.reserve(offer(1, 1), NOW).await.unwrap(),
            Reservation::Reserved(0)
        );
        assert_eq!(beside.slots_taken().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_label_of_its_containers_stays_with_the_database() {
        let (folder, store) = store();
        let owner = store.owner().await.unwrap();
        assert_eq!(owner.len(), 32);
        drop(store);
        let again = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        assert_eq!(again.owner().await.unwrap(), owner);
    }
}
