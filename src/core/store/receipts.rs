//! Rows of receipts: one table, which the databases of validator and miner both have.
//!
//! A role puts [`MIGRATION`] into its list and calls these functions inside its own reads and writes, so that
//! a receipt and the state of its job change together.

use rusqlite::{Connection, Row, named_params};
use time::{Duration, OffsetDateTime};

use super::glance::{self, Bisected, ReceiptGlance, Until};
use super::{Migration, StoreError};
use crate::core::model::receipt::{Receipt, ReceiptPayload};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::times::{micros, moment};

/// Makes the table.
pub(super) const MIGRATION: Migration = Migration {
    name: "receipts/0001_receipts",
    sql: include_str!("migrations/receipts/0001_receipts.sql"),
};

/// A receipt as it is kept: a validator keeps its own without the miner's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReceipt {
    /// What is signed.
    pub payload: ReceiptPayload,
    /// The validator's signature, `0x` and 128 hex digits.
    pub validator_signature: String,
    /// The miner's signature, if known.
    pub miner_signature: Option<String>,
}

impl From<Receipt> for KeptReceipt {
    fn from(receipt: Receipt) -> Self {
        Self {
            payload: receipt.payload,
            validator_signature: receipt.validator_signature,
            miner_signature: Some(receipt.miner_signature),
        }
    }
}

/// Keeps a receipt; false when the job already has one of this type, which then stays as it is.
pub(super) fn insert(
    connection: &Connection,
    receipt: &KeptReceipt,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let payload = &receipt.payload;
    let timestamp = micros(payload.timestamp().moment());
    let started = match payload {
        ReceiptPayload::Started(started) => Some(started),
        ReceiptPayload::Accepted(_) | ReceiptPayload::Finished(_) => None,
    };
    let ttl = started.map(|started| started.ttl.saturating_mul(1_000_000));
    let text = serde_json::to_string(payload).map_err(|error| StoreError::value("receipt", error))?;
    let inserted = connection
        .prepare_cached(
            "INSERT INTO receipt (receipt_type, job_uuid, miner_hotkey, validator_hotkey, timestamp, executor_class,
                 is_organic, valid_until, payload, validator_signature, miner_signature, stored_at)
             VALUES (:receipt_type, :job_uuid, :miner_hotkey, :validator_hotkey, :timestamp, :executor_class,
                 :is_organic, :valid_until, :payload, :validator_signature, :miner_signature, :stored_at)
             ON CONFLICT (receipt_type, job_uuid) DO NOTHING",
        )?
        .execute(named_params! {
            ":receipt_type": payload.receipt_type(),
            ":job_uuid": payload.job_uuid().as_str(),
            ":miner_hotkey": payload.miner_hotkey().as_str(),
            ":validator_hotkey": payload.validator_hotkey().as_str(),
            ":timestamp": timestamp,
            ":executor_class": started.map(|started| started.executor_class.as_str()),
            ":is_organic": started.map(|started| started.is_organic),
            ":valid_until": ttl.map(|ttl| timestamp.saturating_add(ttl)),
            ":payload": text,
            ":validator_signature": receipt.validator_signature,
            ":miner_signature": receipt.miner_signature,
            ":stored_at": micros(now),
        })?;
    Ok(inserted == 1)
}

/// Returns every receipt of a job: started, accepted, finished, as far as there are any.
pub(super) fn of_job(connection: &Connection, job: &JobId) -> Result<Vec<KeptReceipt>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT payload, validator_signature, miner_signature FROM receipt
         WHERE receipt_type IN ('JobStartedReceipt', 'JobAcceptedReceipt', 'JobFinishedReceipt') AND job_uuid = ?1 ORDER BY id",
    )?;
    let mut rows = statement.query((job.as_str(),))?;
    let mut receipts = Vec::new();
    while let Some(row) = rows.next()? {
        receipts.push(kept(row)?);
    }
    Ok(receipts)
}

/// Most receipts sent as the excuse of one declined job.
const EXCUSES_MAX: usize = 1000;

/// How long after its end a started receipt still excuses: validators allow 2 s (wire-miner-validator §7).
const EXCUSE_LEEWAY: Duration = Duration::seconds(2);

/// Returns the receipts that excuse a miner for being busy, which are those that validators count (wire-miner-validator
/// §7): countersigned organic started receipts of the class that are older than `at` and valid at `at` or up to 2 s
/// before, without that of the declined job itself. How much stake their validators need is for the validator to say.
pub(super) fn excuses(
    connection: &Connection,
    class: ExecutorClass,
    at: OffsetDateTime,
    declined: &JobId,
) -> Result<Vec<Receipt>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT payload, validator_signature, miner_signature FROM receipt
         WHERE executor_class = ?1 AND timestamp < ?2 AND valid_until > ?5 AND is_organic = 1
             AND miner_signature IS NOT NULL AND job_uuid <> ?3
         ORDER BY id LIMIT ?4",
    )?;
    let oldest = at
        .checked_sub(EXCUSE_LEEWAY)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let limit = i64::try_from(EXCUSES_MAX).unwrap_or(i64::MAX);
    let mut rows = statement.query((
        class.as_str(),
        micros(at),
        declined.as_str(),
        limit,
        micros(oldest),
    ))?;
    let mut receipts = Vec::new();
    while let Some(row) = rows.next()? {
        let KeptReceipt {
            payload,
            validator_signature,
            miner_signature,
        } = kept(row)?;
        if let Some(miner_signature) = miner_signature {
            receipts.push(Receipt {
                payload,
                validator_signature,
                miner_signature,
            });
        }
    }
    Ok(receipts)
}

/// Forgets receipts made before `cutoff`; returns how many.
pub(super) fn delete_older(connection: &Connection, cutoff: OffsetDateTime) -> Result<usize, StoreError> {
    Ok(connection.execute("DELETE FROM receipt WHERE timestamp < ?1", (micros(cutoff),))?)
}

/// Finds receipts by the time of their storing.
const BY_TIME: Bisected = Bisected {
    below: "SELECT id, stored_at FROM receipt WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
};

/// The newest receipts up to a row. The payload is the only place of score and duration.
const NEWEST: &str =
    "SELECT id, receipt_type, job_uuid, miner_hotkey, validator_hotkey, timestamp, stored_at,
        executor_class, is_organic, miner_signature IS NOT NULL,
        json_extract(payload, '$.score_str'), json_extract(payload, '$.time_took_us')
    FROM receipt WHERE id <= ?1 ORDER BY id DESC LIMIT ?2";

/// Statements that look, for the test that none of them scans.
#[cfg(test)]
pub(super) const LOOKS: &[&str] = &[BY_TIME.below, NEWEST];

/// Returns the newest receipts that were stored until then, newest first.
pub(super) fn newest(connection: &Connection, until: Until) -> Result<Vec<ReceiptGlance>, StoreError> {
    let last = glance::last_until(connection, BY_TIME, until.us)?;
    let mut statement = connection.prepare_cached(NEWEST)?;
    let mut rows = statement.query((last, until.limit))?;
    let mut receipts = Vec::new();
    while let Some(row) = rows.next()? {
        let score: Option<String> = row.get(10)?;
        receipts.push(ReceiptGlance {
            id: row.get(0)?,
            kind: row.get(1)?,
            job: JobId::new(row.get::<_, String>(2)?),
            miner: Hotkey::new(row.get::<_, String>(3)?),
            validator: Hotkey::new(row.get::<_, String>(4)?),
            made: moment(row.get(5)?)?,
            stored: moment(row.get(6)?)?,
            class: row.get(7)?,
            is_organic: row.get(8)?,
            is_countersigned: row.get(9)?,
            score: score
                .and_then(|score| score.parse().ok())
                .filter(|score: &f64| score.is_finite()),
            took_us: row.get(11)?,
        });
    }
    Ok(receipts)
}

fn kept(row: &Row<'_>) -> Result<KeptReceipt, StoreError> {
    let payload: String = row.get("payload")?;
    Ok(KeptReceipt {
        payload: serde_json::from_str(&payload).map_err(|error| StoreError::value("receipt", error))?,
        validator_signature: row.get("validator_signature")?,
        miner_signature: row.get("miner_signature")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use time::{Duration, macros::datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45.123456 UTC);
    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnLlmA6000;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATION.sql).unwrap();
        connection
    }

    fn golden(name: &str) -> Receipt {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/receipts.json")).unwrap();
        let list = vectors["receipts"].as_array().unwrap();
        let vector = list.iter().find(|vector| vector["name"] == name).unwrap();
        serde_json::from_str(vector["receipt_jsonl_line"].as_str().unwrap()).unwrap()
    }

    fn of_other_job(job: &str) -> Receipt {
        let mut receipt = golden("started");
        let ReceiptPayload::Started(started) = &mut receipt.payload else {
            panic!("not a started receipt");
        };
        started.job_uuid = JobId::new(job);
        receipt
    }

    #[test]
    fn receipts_come_back_as_they_were_and_the_first_of_a_type_wins() {
        let connection = database();
        let names = ["started", "accepted", "finished"];
        for name in names {
            assert!(insert(&connection, &golden(name).into(), NOW).unwrap());
        }
        assert!(!insert(&connection, &golden("finished_zero_score").into(), NOW).unwrap());
        let started = golden("started");
        let job = started.payload.job_uuid();
        let all = of_job(&connection, job).unwrap();
        assert_eq!(all, names.map(|name| KeptReceipt::from(golden(name))));
        assert_eq!(of_job(&connection, &JobId::new("other")).unwrap(), []);
    }

    #[test]
    fn excuses_are_other_jobs_of_the_class_that_hold_an_executor_at_the_time() {
        let connection = database();
        let excuse = of_other_job("other");
        insert(&connection, &excuse.clone().into(), NOW).unwrap();
        insert(&connection, &golden("started").into(), NOW).unwrap();
        let unsigned = KeptReceipt {
            miner_signature: None,
            ..of_other_job("unsigned").into()
        };
        insert(&connection, &unsigned, NOW).unwrap();
        let declined = golden("started").payload.job_uuid().clone();
        let at = |moment, class| excuses(&connection, class, moment, &declined).unwrap();
        // After its timestamp, and until two seconds after its seven, both excluded, as validators count.
        let micro = Duration::microseconds(1);
        assert_eq!(at(NOW, CLASS), []);
        assert_eq!(at(NOW + micro, CLASS), std::slice::from_ref(&excuse));
        assert_eq!(at(NOW + Duration::seconds(9) - micro, CLASS), [excuse]);
        assert_eq!(at(NOW + Duration::seconds(9), CLASS), []);
        assert_eq!(at(NOW + micro, ExecutorClass::DEFAULT), []);
    }

    #[test]
    fn old_receipts_are_forgotten() {
        let connection = database();
        insert(&connection, &golden("started").into(), NOW).unwrap();
        assert_eq!(delete_older(&connection, NOW).unwrap(), 0);
        assert_eq!(delete_older(&connection, NOW + Duration::seconds(1)).unwrap(), 1);
    }
}
