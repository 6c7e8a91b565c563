//! Questions to the ledger.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

use super::super::{JobState, StoreError};
use super::{
    Counter, Event, JobDetails, JobFilter, JobRow, Refused, RefusedFilter, RefusedRow, Step, Strangers,
    Subject,
};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::times::{micros, moment};

/// Jobs that a prefix is said to name, at most.
const CANDIDATES_MAX: u32 = 20;

pub(in super::super) fn counters(connection: &Connection) -> Result<Vec<Counter>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT event, reason, validator, count FROM tally
         UNION ALL
         SELECT 'offered', '', validator, sum(count) FROM tally WHERE event IN ('accepted', 'declined')
             GROUP BY validator",
    )?;
    let mut rows = statement.query(())?;
    let mut counters = Vec::new();
    while let Some(row) = rows.next()? {
        let word: String = row.get(0)?;
        let event = Event::ALL
            .into_iter()
            .find(|event| event.as_str() == word)
            .ok_or_else(|| StoreError::value("event", word))?;
        counters.push(Counter {
            event,
            reason: row.get(1)?,
            validator: row.get(2)?,
            count: row.get::<_, i64>(3)?.unsigned_abs(),
        });
    }
    counters.sort_by(|a, b| (a.event, &a.reason, &a.validator).cmp(&(b.event, &b.reason, &b.validator)));
    Ok(counters)
}

/// The columns of [`JobRow`]; the streams stay where they are.
const ROW: &str = "id, job_uuid, validator, executor_class, status, slot, exit_status, time_took_us, score,
    error_type, error_detail, created_at, updated_at, result_reported_to_validator, outcome IS NOT NULL AS has_outcome";

pub(in super::super) fn jobs(
    connection: &Connection,
    filter: &JobFilter,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let states = (!states.is_empty()).then(|| serde_json::json!(states).to_string());
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {ROW} FROM accepted_job
         WHERE (:states IS NULL OR status IN (SELECT value FROM json_each(:states)))
             AND (:validator IS NULL OR substr(validator, 1, length(:validator)) = :validator)
             AND (:class IS NULL OR executor_class = :class)
             AND (:since IS NULL OR created_at >= :since)
         ORDER BY id DESC LIMIT :limit"
    ))?;
    let mut rows = statement.query(named_params! {
        ":states": states,
        ":validator": filter.validator,
        ":class": filter.class.map(ExecutorClass::as_str),
        ":since": filter.since.map(micros),
        ":limit": limit,
    })?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(job_row(row)?);
    }
    Ok(jobs)
}

fn job_row(row: &Row<'_>) -> Result<JobRow, StoreError> {
    Ok(JobRow {
        id: row.get("id")?,
        job: JobId::new(row.get::<_, String>("job_uuid")?),
        validator: Hotkey::new(row.get::<_, String>("validator")?),
        class: class(&row.get::<_, String>("executor_class")?)?,
        state: JobState::from_word(&row.get::<_, String>("status")?)?,
        slot: row.get("slot")?,
        exit_status: row.get("exit_status")?,
        time_took_us: row.get("time_took_us")?,
        score: row.get("score")?,
        error_type: row.get("error_type")?,
        error_detail: row.get("error_detail")?,
        created_at: moment(row.get("created_at")?)?,
        updated_at: moment(row.get("updated_at")?)?,
        reported_at: row
            .get::<_, Option<i64>>("result_reported_to_validator")?
            .map(moment)
            .transpose()?,
        has_outcome: row.get("has_outcome")?,
    })
}

fn class(word: &str) -> Result<ExecutorClass, StoreError> {
    word.parse()
        .map_err(|error| StoreError::value("executor class", error))
}

pub(in super::super) fn details(
    connection: &Connection,
    job: &JobId,
) -> Result<Option<JobDetails>, StoreError> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {ROW}, executor_process, executor_address, stdout, stderr,
                 json_extract(outcome, '$.message_type') AS message_type, json_extract(outcome, '$.stage') AS stage
             FROM accepted_job WHERE job_uuid = ?1"
        ))?
        .query_row((job.as_str(),), |row| {
            Ok(job_row(row).map(|found| {
                Ok::<_, rusqlite::Error>(JobDetails {
                    row: found,
                    executor_process: row.get("executor_process")?,
                    executor_address: row.get("executor_address")?,
                    outcome: row.get("message_type")?,
                    stage: row.get("stage")?,
                    stdout: row.get("stdout")?,
                    stderr: row.get("stderr")?,
                    steps: Vec::new(),
                })
            }))
        })
        .optional()?;
    let Some(details) = found else {
        return Ok(None);
    };
    let mut details = details??;
    let mut statement =
        connection.prepare_cached("SELECT step, at FROM job_step WHERE job_row = ?1 ORDER BY at, step")?;
    let mut rows = statement.query((details.row.id,))?;
    while let Some(row) = rows.next()? {
        // A step of a newer program is not shown.
        if let Some(step) = Step::from_number(row.get(0)?) {
            details.steps.push((step, moment(row.get(1)?)?));
        }
    }
    Ok(Some(details))
}

pub(super) fn jobs_named(connection: &Connection, name: &str) -> Result<Vec<JobId>, StoreError> {
    let number = name.parse::<i64>().ok();
    if let Some(number) = number.filter(|number| number.to_string() == name) {
        let found: Option<String> = connection
            .prepare_cached("SELECT job_uuid FROM accepted_job WHERE id = ?1")?
            .query_row((number,), |row| row.get(0))
            .optional()?;
        if let Some(job) = found {
            return Ok(vec![JobId::new(job)]);
        }
    }
    let mut statement = connection.prepare_cached(
        "SELECT job_uuid FROM accepted_job WHERE job_uuid >= ?1 AND job_uuid < ?1 || char(1114111)
         UNION SELECT job_uuid FROM refused_offer WHERE job_uuid >= ?1 AND job_uuid < ?1 || char(1114111)
         ORDER BY 1 LIMIT ?2",
    )?;
    let names = statement.query_map((name, CANDIDATES_MAX), |row| row.get::<_, String>(0))?;
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    if names.iter().any(|known| known == name) {
        return Ok(vec![JobId::new(name)]);
    }
    Ok(names.into_iter().map(JobId::new).collect())
}

pub(super) fn refusals(
    connection: &Connection,
    filter: &RefusedFilter,
    limit: u32,
) -> Result<Vec<RefusedRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, at, subject, validator, address, job_uuid, executor_class, reason, words, evidence FROM (
             SELECT id, at, subject, validator, address, job_uuid, executor_class, reason, words, evidence
                 FROM refused_offer
             UNION ALL
             SELECT id, at, 'authentication', validator, address, NULL, NULL, reason, words, evidence
                 FROM refused_authentication)
         WHERE (:validator IS NULL OR substr(validator, 1, length(:validator)) = :validator)
             AND (:class IS NULL OR executor_class = :class)
             AND (:job IS NULL OR substr(job_uuid, 1, length(:job)) = :job)
             AND (:since IS NULL OR at >= :since)
         ORDER BY at DESC, id DESC LIMIT :limit",
    )?;
    let mut rows = statement.query(named_params! {
        ":validator": filter.validator,
        ":class": filter.class.map(ExecutorClass::as_str),
        ":job": filter.job,
        ":since": filter.since.map(micros),
        ":limit": limit,
    })?;
    let mut refusals = Vec::new();
    while let Some(row) = rows.next()? {
        refusals.push(refused_row(row)?);
    }
    Ok(refusals)
}

fn refused_row(row: &Row<'_>) -> Result<RefusedRow, StoreError> {
    let word: String = row.get("subject")?;
    let subject = [Subject::Offer, Subject::Receipt, Subject::Authentication]
        .into_iter()
        .find(|subject| subject.as_str() == word)
        .ok_or_else(|| StoreError::value("subject", word))?;
    let evidence: String = row.get("evidence")?;
    Ok(RefusedRow {
        id: row.get("id")?,
        refused: Refused {
            at: moment(row.get("at")?)?,
            subject,
            validator: Hotkey::new(row.get::<_, String>("validator")?),
            address: row.get("address")?,
            job: row.get::<_, Option<String>>("job_uuid")?.map(JobId::new),
            class: row
                .get::<_, Option<String>>("executor_class")?
                .map(|word| class(&word))
                .transpose()?,
            reason: row.get("reason")?,
            words: row.get("words")?,
            evidence: serde_json::from_str(&evidence)
                .map_err(|error| StoreError::value("evidence", error))?,
        },
    })
}

pub(super) fn strangers(
    connection: &Connection,
    since: Option<OffsetDateTime>,
    limit: u32,
) -> Result<Vec<Strangers>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT reason, address, count, first_at, last_at, last_validator, last_words FROM stranger
         WHERE ?1 IS NULL OR last_at >= ?1 ORDER BY last_at DESC LIMIT ?2",
    )?;
    let mut rows = statement.query((since.map(micros), limit))?;
    let mut strangers = Vec::new();
    while let Some(row) = rows.next()? {
        strangers.push(Strangers {
            reason: row.get(0)?,
            address: row.get(1)?,
            count: row.get::<_, i64>(2)?.unsigned_abs(),
            first_at: moment(row.get(3)?)?,
            last_at: moment(row.get(4)?)?,
            last_validator: Hotkey::new(row.get::<_, String>(5)?),
            last_words: row.get(6)?,
        });
    }
    Ok(strangers)
}
