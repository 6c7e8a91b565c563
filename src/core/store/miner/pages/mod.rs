//! The pages in which the miner publishes its receipts: each receipt has its place in a page from the moment it is
//! stored, so that the bytes of a page never change and only its end moves.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

use super::super::receipts::{self, KeptReceipt};
use super::{MinerStore, StoreError};
use crate::core::model::receipt::{ReceiptPayload, page_at};
use crate::core::model::{Hotkey, JobId};
use crate::core::store::times::{micros, moment};

/// Pages by which the clock may fall back without that receipts go into a page behind the newest.
const CLOCK_SLIP_PAGES: i64 = 2;

/// Lines that one look at a page returns at most.
const LINES_MAX: u32 = 256;

/// What is published under one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Length of all lines.
    pub bytes: i64,
    /// When the last line was stored.
    pub changed_at: OffsetDateTime,
    /// Length when packed, once it is.
    pub gzip_bytes: Option<i64>,
}

/// A receipt as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedReceipt {
    /// Number of the row, rising with time.
    pub id: i64,
    /// The page that it stands in.
    pub page: i64,
    /// When it was stored.
    pub stored_at: OffsetDateTime,
    /// The receipt.
    pub receipt: KeptReceipt,
}

/// Which receipts to list; what is not set lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// Of this job.
    pub job: Option<JobId>,
    /// From this validator.
    pub validator: Option<Hotkey>,
    /// Of this type, as `JobStartedReceipt`.
    pub receipt_type: Option<&'static str>,
    /// Stored at this time or later.
    pub since: Option<OffsetDateTime>,
}

impl MinerStore {
    /// Returns what there is of a page; none if it has no lines.
    pub async fn page(&self, page: i64) -> Result<Option<Page>, StoreError> {
        let query = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "SELECT page_start + page_bytes, stored_at,
                         (SELECT gzip_bytes FROM receipt_archive
                          WHERE page = ?1 AND plain_bytes = receipt.page_start + receipt.page_bytes)
                     FROM receipt WHERE page = ?1 ORDER BY page_start DESC LIMIT 1",
                )?
                .query_row((page,), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?
                .map(|(bytes, changed_at, gzip_bytes)| {
                    Ok(Page {
                        bytes,
                        changed_at: moment(changed_at)?,
                        gzip_bytes,
                    })
                })
                .transpose()
        };
        self.store.read(query).await
    }

    /// Returns bytes of a page from `from` on: whole lines but for the beginning, about `bytes` of them and at least
    /// one; nothing at the end of the page.
    pub async fn page_bytes(&self, page: i64, from: i64, bytes: usize) -> Result<Vec<u8>, StoreError> {
        self.store
            .read(move |connection| page_bytes(connection, page, from, bytes))
            .await
    }

    /// Returns at most `limit` pages below `before` that are not packed, oldest first.
    pub async fn pages_to_pack(&self, before: i64, limit: u32) -> Result<Vec<i64>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT DISTINCT page FROM receipt
                 WHERE page < ?1 AND page NOT IN (SELECT page FROM receipt_archive) ORDER BY page LIMIT ?2",
            )?;
            let pages = statement.query_map((before, limit), |row| row.get(0))?;
            Ok(pages.collect::<Result<_, _>>()?)
        };
        self.store.read(query).await
    }

    /// Keeps a piece of a packed page.
    pub async fn keep_packed(&self, page: i64, start: i64, bytes: Vec<u8>) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO receipt_archive_piece (page, start, bytes) VALUES (?1, ?2, ?3)",
                )?
                .execute((page, start, bytes))?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Notes that all pieces of a packed page are kept; false, and the pieces go, if the page has grown meanwhile.
    pub async fn finish_packed(
        &self,
        page: i64,
        plain_bytes: i64,
        gzip_bytes: i64,
    ) -> Result<bool, StoreError> {
        let change = move |connection: &Connection| {
            if end_of(connection, page)? != plain_bytes {
                forget_packed(connection, page)?;
                return Ok(false);
            }
            connection.execute(
                "DELETE FROM receipt_archive_piece WHERE page = ?1 AND start >= ?2",
                (page, gzip_bytes),
            )?;
            connection.execute(
                "INSERT OR REPLACE INTO receipt_archive (page, plain_bytes, gzip_bytes) VALUES (?1, ?2, ?3)",
                (page, plain_bytes, gzip_bytes),
            )?;
            Ok(true)
        };
        self.store.write(change).await
    }

    /// Returns the piece of a packed page that begins at `start`; none if there is none.
    pub async fn packed(&self, page: i64, start: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let query = move |connection: &Connection| {
            Ok(connection
                .prepare_cached("SELECT bytes FROM receipt_archive_piece WHERE page = ?1 AND start = ?2")?
                .query_row((page, start), |row| row.get(0))
                .optional()?)
        };
        self.store.read(query).await
    }

    /// Returns the newest receipts that pass, at most `limit`, in order of arrival.
    pub async fn newest_receipts(
        &self,
        filter: ReceiptFilter,
        limit: u32,
    ) -> Result<Vec<ListedReceipt>, StoreError> {
        let query = move |connection: &Connection| {
            let mut found = listed(connection, &filter, i64::MAX, "id < :bound", "DESC", limit)?;
            found.reverse();
            Ok(found)
        };
        self.store.read(query).await
    }

    /// Returns receipts that pass and came after row `after`, at most `limit`, in order of arrival.
    pub async fn receipts_after(
        &self,
        filter: ReceiptFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<ListedReceipt>, StoreError> {
        let query =
            move |connection: &Connection| listed(connection, &filter, after, "id > :bound", "ASC", limit);
        self.store.read(query).await
    }
}

/// Keeps a countersigned receipt at the end of the page of this moment; false when its job has one of this type.
pub(super) fn enter(
    connection: &Connection,
    receipt: &KeptReceipt,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    if !receipts::insert(connection, receipt, now)? {
        return Ok(false);
    }
    let id = connection.last_insert_rowid();
    let (page, start) = place(connection, page_at(now))?;
    let payload =
        serde_json::to_string(&receipt.payload).map_err(|error| StoreError::value("receipt", error))?;
    let miner_signature = receipt.miner_signature.as_deref().unwrap_or_default();
    let bytes = line(&payload, &receipt.validator_signature, miner_signature).len();
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    connection
        .prepare_cached("UPDATE receipt SET page = ?2, page_start = ?3, page_bytes = ?4 WHERE id = ?1")?
        .execute((id, page, start, bytes))?;
    Ok(true)
}

/// Returns the page that a receipt of this moment goes into, and where that page ends.
///
/// Changes run one after another, so the end of a page only grows, and whoever reads sees every line before the next.
/// A clock that falls back a little does not open an older page, which its readers may have done with.
fn place(connection: &Connection, of_now: i64) -> Result<(i64, i64), StoreError> {
    let newest: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT page, page_start + page_bytes FROM receipt WHERE page IS NOT NULL
             ORDER BY page DESC, page_start DESC LIMIT 1",
        )?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match newest {
        None => Ok((of_now, 0)),
        Some((page, _)) if page < of_now => Ok((of_now, 0)),
        Some((page, end)) if page.saturating_sub(of_now) <= CLOCK_SLIP_PAGES => Ok((page, end)),
        Some(_) => {
            forget_packed(connection, of_now)?;
            Ok((of_now, end_of(connection, of_now)?))
        }
    }
}

fn end_of(connection: &Connection, page: i64) -> Result<i64, StoreError> {
    let end = connection
        .prepare_cached(
            "SELECT page_start + page_bytes FROM receipt WHERE page = ?1 ORDER BY page_start DESC LIMIT 1",
        )?
        .query_row((page,), |row| row.get(0))
        .optional()?;
    Ok(end.unwrap_or(0))
}

fn forget_packed(connection: &Connection, page: i64) -> Result<(), StoreError> {
    connection.execute("DELETE FROM receipt_archive WHERE page = ?1", (page,))?;
    connection.execute("DELETE FROM receipt_archive_piece WHERE page = ?1", (page,))?;
    Ok(())
}

/// Forgets whole pages that ended before `cutoff`; returns how many receipts.
pub(super) fn delete_older(connection: &Connection, cutoff: OffsetDateTime) -> Result<usize, StoreError> {
    let page = page_at(cutoff);
    connection.execute("DELETE FROM receipt_archive WHERE page < ?1", (page,))?;
    connection.execute("DELETE FROM receipt_archive_piece WHERE page < ?1", (page,))?;
    Ok(connection.execute("DELETE FROM receipt WHERE page < ?1", (page,))?)
}

/// Returns the line of a receipt, its end included; signatures are hex digits and need no escapes.
fn line(payload: &str, validator_signature: &str, miner_signature: &str) -> String {
    format!(
        "{{\"payload\":{payload},\"validator_signature\":\"{validator_signature}\",\"miner_signature\":\"{miner_signature}\"}}\n"
    )
}

fn page_bytes(connection: &Connection, page: i64, from: i64, wanted: usize) -> Result<Vec<u8>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT page_start, page_bytes, payload, validator_signature, miner_signature FROM receipt
         WHERE page = ?1 AND page_start >=
             (SELECT max(page_start) FROM receipt WHERE page = ?1 AND page_start <= ?2)
         ORDER BY page_start LIMIT ?3",
    )?;
    let mut rows = statement.query((page, from, LINES_MAX))?;
    let mut bytes = Vec::new();
    let mut at = from;
    while let Some(row) = rows.next()? {
        let (start, length): (i64, i64) = (row.get(0)?, row.get(1)?);
        let text = line(
            row.get_ref(2)?.as_str().map_err(unreadable)?,
            row.get_ref(3)?.as_str().map_err(unreadable)?,
            row.get_ref(4)?.as_str().map_err(unreadable)?,
        );
        let skipped = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        // Whoever reads on at an offset must find there what he left.
        if i64::try_from(text.len()) != Ok(length) || start > at {
            return Err(StoreError::value(
                "page of receipts",
                "a line is not where it was",
            ));
        }
        // Only when nothing is left: `from` lies at or behind the end.
        let Some(rest) = text.as_bytes().get(skipped..) else {
            continue;
        };
        bytes.extend_from_slice(rest);
        at = at.saturating_add(i64::try_from(rest.len()).unwrap_or(i64::MAX));
        if bytes.len() >= wanted {
            break;
        }
    }
    Ok(bytes)
}

fn unreadable(error: rusqlite::types::FromSqlError) -> StoreError {
    StoreError::value("receipt", error)
}

fn listed(
    connection: &Connection,
    filter: &ReceiptFilter,
    bound: i64,
    condition: &str,
    order: &str,
    limit: u32,
) -> Result<Vec<ListedReceipt>, StoreError> {
    let sql = format!(
        "SELECT id, page, stored_at, payload, validator_signature, miner_signature FROM receipt
         WHERE page IS NOT NULL AND {condition}
             AND (:job IS NULL OR job_uuid = :job) AND (:validator IS NULL OR validator_hotkey = :validator)
             AND (:type IS NULL OR receipt_type = :type) AND (:since IS NULL OR stored_at >= :since)
         ORDER BY id {order} LIMIT :limit"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(named_params! {
        ":bound": bound,
        ":job": filter.job.as_ref().map(JobId::as_str),
        ":validator": filter.validator.as_ref().map(Hotkey::as_str),
        ":type": filter.receipt_type,
        ":since": filter.since.map(micros),
        ":limit": limit,
    })?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(listed_receipt(row)?);
    }
    Ok(found)
}

fn listed_receipt(row: &Row<'_>) -> Result<ListedReceipt, StoreError> {
    let payload: String = row.get("payload")?;
    let payload: ReceiptPayload =
        serde_json::from_str(&payload).map_err(|error| StoreError::value("receipt", error))?;
    Ok(ListedReceipt {
        id: row.get("id")?,
        page: row.get("page")?,
        stored_at: moment(row.get("stored_at")?)?,
        receipt: KeptReceipt {
            payload,
            validator_signature: row.get("validator_signature")?,
            miner_signature: row.get("miner_signature")?,
        },
    })
}

#[cfg(test)]
mod tests;
