//! Rows of receipts: one table, which the databases of validator and miner both have.
//!
//! A role puts [`MIGRATION`] into its list and calls these functions inside its own reads and writes, so that
//! a receipt and the state of its job change together.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

use super::{Migration, StoreError};
use crate::core::model::receipt::{Receipt, ReceiptPayload};
use crate::core::model::{ExecutorClass, JobId};

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

/// Returns the receipt of a type (`JobStartedReceipt`, …) of a job.
pub(super) fn find(
    connection: &Connection,
    job: &JobId,
    receipt_type: &str,
) -> Result<Option<KeptReceipt>, StoreError> {
    connection
        .prepare_cached(
            "SELECT payload, validator_signature, miner_signature FROM receipt
             WHERE receipt_type = ?1 AND job_uuid = ?2",
        )?
        .query_row((receipt_type, job.as_str()), |row| Ok(kept(row)))
        .optional()?
        .transpose()
}

/// Returns every receipt of a job: started, accepted, finished, as far as there are any.
pub(super) fn of_job(connection: &Connection, job: &JobId) -> Result<Vec<KeptReceipt>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT payload, validator_signature, miner_signature FROM receipt WHERE job_uuid = ?1 ORDER BY id",
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

/// Returns the receipts that excuse a miner for being busy (wire-miner-validator §7): countersigned organic started
/// receipts of the class that are valid at `at`, without that of the declined job itself.
pub(super) fn excuses(
    connection: &Connection,
    class: ExecutorClass,
    at: OffsetDateTime,
    declined: &JobId,
) -> Result<Vec<Receipt>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT payload, validator_signature, miner_signature FROM receipt
         WHERE executor_class = ?1 AND timestamp <= ?2 AND valid_until >= ?2 AND is_organic = 1
             AND miner_signature IS NOT NULL AND job_uuid <> ?3
         ORDER BY id LIMIT ?4",
    )?;
    let limit = i64::try_from(EXCUSES_MAX).unwrap_or(i64::MAX);
    let mut rows = statement.query((class.as_str(), micros(at), declined.as_str(), limit))?;
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

fn kept(row: &Row<'_>) -> Result<KeptReceipt, StoreError> {
    let payload: String = row.get("payload")?;
    Ok(KeptReceipt {
        payload: serde_json::from_str(&payload).map_err(|error| StoreError::value("receipt", error))?,
        validator_signature: row.get("validator_signature")?,
        miner_signature: row.get("miner_signature")?,
    })
}

/// Microseconds since 1970; every datetime that the `time` crate can hold fits.
fn micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}
