//! Writes of the ledger.

use rusqlite::{Connection, named_params};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::StoreError;
use super::{
    Batch, REFUSALS_KEPT, REFUSED_AUTHENTICATIONS_MAX, REFUSED_OFFERS_MAX, Refused, SELF_TEST,
    STRANGER_ROWS_MAX, Strangers, Subject,
};
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::store::times::micros;

/// Most characters of a refusal's words.
const WORDS_CHARS_MAX: usize = 1000;

/// Most characters of a name that a peer gave: a hotkey, a job.
const NAME_CHARS_MAX: usize = 100;

/// Most bytes of a refusal's evidence; more is replaced by a note of its size.
const EVIDENCE_BYTES_MAX: usize = 8 * 1024;

pub(super) fn record(connection: &Connection, batch: &Batch) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT OR IGNORE INTO job_step (job_row, step, at)
         SELECT id, ?2, ?3 FROM accepted_job WHERE job_uuid = ?1",
    )?;
    for note in &batch.notes {
        insert.execute((note.job.as_str(), note.step.number(), micros(note.at)))?;
    }
    for refused in &batch.refused {
        let name = counted_as(connection, &refused.validator)?;
        tally(connection, refused.subject, &refused.reason, name, 1)?;
        match refused.subject {
            Subject::Offer | Subject::Receipt => keep_offer(connection, refused)?,
            Subject::Authentication => keep_authentication(connection, refused)?,
        }
    }
    for (subject, reason, validator, count) in &batch.crowded {
        let name = counted_as(connection, validator)?;
        tally(connection, *subject, reason, name, *count)?;
    }
    let mut room = if batch.strangers.is_empty() {
        0
    } else {
        let rows: i64 = connection
            .prepare_cached("SELECT count(*) FROM stranger")?
            .query_row((), |row| row.get(0))?;
        STRANGER_ROWS_MAX - rows
    };
    for strangers in &batch.strangers {
        tally(
            connection,
            Subject::Authentication,
            &strangers.reason,
            "",
            strangers.count,
        )?;
        fold(connection, strangers, &mut room)?;
    }
    if !batch.refused.is_empty() {
        // Numbers of rows have no gaps but at their beginning.
        connection
            .prepare_cached("DELETE FROM refused_offer WHERE id <= (SELECT max(id) FROM refused_offer) - ?1")?
            .execute((REFUSED_OFFERS_MAX,))?;
        connection
            .prepare_cached(
                "DELETE FROM refused_authentication
                 WHERE id <= (SELECT max(id) FROM refused_authentication) - ?1",
            )?
            .execute((REFUSED_AUTHENTICATIONS_MAX,))?;
    }
    Ok(())
}

/// Returns the name under which a validator is counted.
fn counted_as<'a>(connection: &Connection, validator: &'a Hotkey) -> Result<&'a str, StoreError> {
    let is_self_test = connection
        .prepare_cached("SELECT 1 FROM check_validator WHERE hotkey = ?1")?
        .exists((validator.as_str(),))?;
    Ok(if is_self_test {
        SELF_TEST
    } else {
        validator.as_str()
    })
}

fn tally(
    connection: &Connection,
    subject: Subject,
    reason: &str,
    validator: &str,
    count: u64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO tally (event, reason, validator, count) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?
        .execute((
            subject.event().as_str(),
            reason,
            validator,
            i64::try_from(count).unwrap_or(i64::MAX),
        ))?;
    Ok(())
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn evidence(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= EVIDENCE_BYTES_MAX {
        text
    } else {
        serde_json::json!({ "left_out_bytes": text.len() }).to_string()
    }
}

fn keep_offer(connection: &Connection, refused: &Refused) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO refused_offer (at, subject, validator, address, job_uuid, executor_class, reason, words, evidence)
             VALUES (:at, :subject, :validator, :address, :job, :class, :reason, :words, :evidence)",
        )?
        .execute(named_params! {
            ":at": micros(refused.at),
            ":subject": refused.subject.as_str(),
            ":validator": cut(refused.validator.as_str(), NAME_CHARS_MAX),
            ":address": refused.address,
            ":job": refused.job.as_ref().map(|job| cut(job.as_str(), NAME_CHARS_MAX)),
            ":class": refused.class.map(ExecutorClass::as_str),
            ":reason": refused.reason,
            ":words": cut(&refused.words, WORDS_CHARS_MAX),
            ":evidence": evidence(&refused.evidence),
        })?;
    Ok(())
}

fn keep_authentication(connection: &Connection, refused: &Refused) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO refused_authentication (at, validator, address, reason, words, evidence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            micros(refused.at),
            cut(refused.validator.as_str(), NAME_CHARS_MAX),
            refused.address.as_deref(),
            &refused.reason,
            cut(&refused.words, WORDS_CHARS_MAX),
            evidence(&refused.evidence),
        ))?;
    Ok(())
}

/// Adds strangers to the row of their address, or to that of no address when there is no room for one more row.
fn fold(connection: &Connection, strangers: &Strangers, room: &mut i64) -> Result<(), StoreError> {
    let is_known = connection
        .prepare_cached("SELECT 1 FROM stranger WHERE reason = ?1 AND address = ?2")?
        .exists((&strangers.reason, &strangers.address))?;
    let has_room = is_known || *room > 0;
    if !is_known && has_room {
        *room -= 1;
    }
    connection
        .prepare_cached(
            "INSERT INTO stranger (reason, address, count, first_at, last_at, last_validator, last_words)
             VALUES (:reason, :address, :count, :first_at, :last_at, :last_validator, :last_words)
             ON CONFLICT DO UPDATE SET count = count + excluded.count, last_at = excluded.last_at,
                 last_validator = excluded.last_validator, last_words = excluded.last_words",
        )?
        .execute(named_params! {
            ":reason": strangers.reason,
            ":address": if has_room { strangers.address.as_str() } else { "" },
            ":count": i64::try_from(strangers.count).unwrap_or(i64::MAX),
            ":first_at": micros(strangers.first_at),
            ":last_at": micros(strangers.last_at),
            ":last_validator": cut(strangers.last_validator.as_str(), NAME_CHARS_MAX),
            ":last_words": cut(&strangers.last_words, WORDS_CHARS_MAX),
        })?;
    Ok(())
}

/// Forgets refusals that are older than [`REFUSALS_KEPT`].
pub(in super::super) fn forget(connection: &Connection, now: OffsetDateTime) -> Result<(), StoreError> {
    let cutoff = now
        .checked_sub(REFUSALS_KEPT)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    for change in [
        "DELETE FROM refused_offer WHERE at < ?1",
        "DELETE FROM refused_authentication WHERE at < ?1",
        "DELETE FROM stranger WHERE last_at < ?1",
        "DELETE FROM check_validator WHERE until < ?1",
    ] {
        connection.execute(change, (micros(cutoff),))?;
    }
    Ok(())
}
