//! What every role's database tells alike of jobs, events and receipts, and how the newest rows before a moment are found.
//!
//! A database may hold millions of rows, and who looks wants an answer at once. So nothing here counts or scans a table:
//! rows are read from the newest backwards, and where there is no index on time the row is found by bisection, since rows
//! are numbered as they come.

use std::cmp::Reverse;

use rusqlite::{Connection, OptionalExtension, Params, Row};
use time::OffsetDateTime;

use super::StoreError;
use super::times::micros;
use crate::core::model::{Hotkey, JobId};

/// Jobs that are counted at most, from the newest backwards; what is beyond is said to be more.
pub const COUNTED_MAX: i64 = 10_000;

/// Bytes of an outcome that is opened for a list: what is larger has its reason in the view of the job.
pub(super) const OPENED_MAX: i64 = 64 * 1024;

/// How a job stands, for who looks for trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has not ended.
    Open,
    /// It has results.
    Good,
    /// It has none.
    Bad,
    /// It was declined.
    Declined,
}

/// A job as one role keeps it, as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct JobGlance {
    /// The job.
    pub job: JobId,
    /// The role's word for its state.
    pub state: String,
    /// How it stands.
    pub standing: Standing,
    /// Its executor class, as it was written.
    pub class: String,
    /// Whose it is; known to a facilitator.
    pub owner: Option<Hotkey>,
    /// Who brokers it.
    pub validator: Option<Hotkey>,
    /// Who runs it.
    pub miner: Option<Hotkey>,
    /// When the role got it, UTC.
    pub came: OffsetDateTime,
    /// When it ended, UTC.
    pub ended: Option<OffsetDateTime>,
    /// The exit code of its container.
    pub exit: Option<i64>,
    /// Why it failed: the word of the wire.
    pub reason: Option<String>,
    /// Its score, by the finished receipt.
    pub score: Option<f64>,
}

/// Something that happened, as one role noted it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventGlance {
    /// When, UTC.
    pub at: OffsetDateTime,
    /// What: one word.
    pub what: String,
    /// How it is meant.
    pub standing: Standing,
    /// Of which job.
    pub job: Option<JobId>,
    /// With whom.
    pub peer: Option<Hotkey>,
    /// Further words.
    pub words: String,
}

/// A receipt as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiptGlance {
    /// Its row, rising with time.
    pub id: i64,
    /// The type word of the wire.
    pub kind: String,
    /// The job.
    pub job: JobId,
    /// Who ran it.
    pub miner: Hotkey,
    /// Who asked.
    pub validator: Hotkey,
    /// When it was made, by itself, UTC.
    pub made: OffsetDateTime,
    /// When it was stored, UTC.
    pub stored: OffsetDateTime,
    /// The class that it takes; of started receipts.
    pub class: Option<String>,
    /// Whether a user asked for the job; of started receipts.
    pub is_organic: Option<bool>,
    /// Whether the miner has signed it too.
    pub is_countersigned: bool,
    /// What the job is worth; of finished receipts.
    pub score: Option<f64>,
    /// How long the job took, in microseconds; of finished receipts.
    pub took_us: Option<i64>,
}

impl ReceiptGlance {
    /// Returns its storing as something that happened.
    pub(super) fn into_event(self, peer: Hotkey) -> EventGlance {
        EventGlance {
            at: self.stored,
            what: "receipt_kept".to_owned(),
            standing: Standing::Open,
            job: Some(self.job),
            peer: Some(peer),
            words: self.kind,
        }
    }
}

/// How jobs of a stretch of time stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// With results.
    pub good: u64,
    /// Without.
    pub bad: u64,
    /// Declined.
    pub declined: u64,
    /// Not ended.
    pub open: u64,
    /// There are more than were counted, which are the newest [`COUNTED_MAX`].
    pub is_more: bool,
}

impl Outcomes {
    /// Counts `count` jobs more.
    pub fn add(&mut self, standing: Standing, count: u64) {
        let sum = match standing {
            Standing::Open => &mut self.open,
            Standing::Good => &mut self.good,
            Standing::Bad => &mut self.bad,
            Standing::Declined => &mut self.declined,
        };
        *sum = sum.saturating_add(count);
    }

    /// Returns how many that are.
    pub fn sum(&self) -> u64 {
        [self.good, self.bad, self.declined, self.open]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Rows that are asked for: the newest `limit` of those at or before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    /// The last microsecond since 1970 that counts.
    pub us: i64,
    /// Rows at most.
    pub limit: u32,
}

/// Names the table and its columns of row and time for [`last_until`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bisected {
    /// Returns row and time of the last row that is not above `?1`: at most one row, by the table's own order.
    pub(super) below: &'static str,
}

/// Returns the last row that was written at `until_us` or before; 0 if there is none.
pub(super) fn last_until(connection: &Connection, table: Bisected, until_us: i64) -> Result<i64, StoreError> {
    let mut statement = connection.prepare_cached(table.below)?;
    let mut below = |row: i64| -> Result<Option<(i64, i64)>, StoreError> {
        Ok(statement
            .query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?)
    };
    let Some((newest, at)) = below(i64::MAX)? else {
        return Ok(0);
    };
    if at <= until_us {
        return Ok(newest);
    }
    // Rows up to `known` are not too new, or do not exist; `wanted` is.
    let (mut known, mut wanted, mut found) = (0, newest, 0);
    while wanted - known > 1 {
        let middle = known + (wanted - known) / 2;
        match below(middle)? {
            Some((row, at)) if at > until_us => wanted = row.max(known + 1),
            Some((row, _)) => {
                found = found.max(row);
                known = middle;
            }
            None => known = middle,
        }
        if wanted == known + 1 {
            break;
        }
    }
    Ok(found)
}

/// Reads a job, as it stood at a moment, from a row of a role's own statement.
pub(super) type ReadJob = fn(&Connection, &Row<'_>, i64) -> Result<JobGlance, StoreError>;

/// Returns the jobs that a statement finds, as they stood at `at_us`.
pub(super) fn jobs(
    connection: &Connection,
    (sql, parameters): (&str, impl Params),
    read: ReadJob,
    at_us: i64,
) -> Result<Vec<JobGlance>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(read(connection, row, at_us)?);
    }
    Ok(jobs)
}

/// Returns those of the jobs that are kept and had come, as they stood at `at_us`; `sql` finds one by its identity.
pub(super) fn jobs_among(
    connection: &Connection,
    sql: &str,
    wanted: &[JobId],
    read: ReadJob,
    at_us: i64,
) -> Result<Vec<JobGlance>, StoreError> {
    let mut glances = Vec::new();
    for job in wanted {
        let found = jobs(connection, (sql, [job.as_str()]), read, at_us)?;
        glances.extend(found.into_iter().filter(|found| micros(found.came) <= at_us));
    }
    Ok(glances)
}

/// Returns the jobs whose identity begins so; `sql` takes the beginning and how many at most.
pub(super) fn named(
    connection: &Connection,
    sql: &str,
    beginning: &str,
    limit: u32,
) -> Result<Vec<JobId>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let jobs = statement.query_map((beginning, limit), |row| Ok(JobId::new(row.get::<_, String>(0)?)))?;
    Ok(jobs.collect::<Result<_, _>>()?)
}

/// Returns the one number that a statement finds.
pub(super) fn count(connection: &Connection, sql: &str, parameters: impl Params) -> Result<i64, StoreError> {
    Ok(connection
        .prepare_cached(sql)?
        .query_row(parameters, |row| row.get(0))?)
}

/// Puts what several tables tell in order, the newest first, and keeps what is asked for.
pub(super) fn newest(mut events: Vec<EventGlance>, until: Until) -> Vec<EventGlance> {
    events.sort_by_key(|event| Reverse(event.at));
    events.truncate(usize::try_from(until.limit).unwrap_or(usize::MAX));
    events
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Fails if a statement reads more of a table than it shows: only indexes of what is open may be walked whole.
    pub(in super::super) fn assert_no_scan(connection: &Connection, statements: &[&str], walked: &[&str]) {
        for sql in statements {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap_or_else(|error| panic!("{error}: {sql}"));
            // Unbound parameters are null, which changes no plan.
            let mut rows = plan.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get("detail").unwrap();
                let is_fine = !step.starts_with("SCAN")
                    // The rows of a bounded statement inside, whose own step is looked at as well.
                    || step.starts_with("SCAN (subquery")
                    || walked.iter().any(|index| step.contains(index));
                assert!(is_fine, "{step}: {sql}");
                assert!(!step.contains("AUTOMATIC"), "{step}: {sql}");
            }
        }
    }

    const TABLE: Bisected = Bisected {
        below: "SELECT id, at FROM t WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
    };

    #[test]
    fn the_last_row_until_a_moment_is_found_whatever_rows_are_missing() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
            .unwrap();
        assert_eq!(last_until(&connection, TABLE, 5).unwrap(), 0);
        let rows: Vec<(i64, i64)> = vec![(3, 10), (4, 10), (9, 20), (1000, 30), (1001, 31), (70_000, 40)];
        for row in &rows {
            connection.execute("INSERT INTO t VALUES (?1, ?2)", *row).unwrap();
        }
        for until in 0..45 {
            let expected = rows.iter().rfind(|(_, at)| *at <= until).map_or(0, |(id, _)| *id);
            assert_eq!(
                last_until(&connection, TABLE, until).unwrap(),
                expected,
                "{until}"
            );
        }
    }
}
