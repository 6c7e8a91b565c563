//! What can be seen of a validator without being one: all reads, by a [`Look`].

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};
use time::OffsetDateTime;

use super::{MIGRATIONS, PENDING};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::glance::{
    self, Bisected, COUNTED_MAX, EventGlance, JobGlance, Outcomes, ReceiptGlance, Standing, Until, last_until,
};
use crate::core::store::look::{Look, LookError};
use crate::core::store::receipts::{self, KeptReceipt};
use crate::core::store::times::moment;

/// A validator's database, opened to be read only, beside the validator or without it.
#[derive(Debug)]
pub struct ValidatorLook {
    look: Look,
}

/// A job with all that the validator keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatorJob {
    /// As a list shows it.
    pub glance: JobGlance,
    /// Where its miner was reached.
    pub address: Option<String>,
    /// When it was given to its miner, UTC.
    pub assigned: Option<OffsetDateTime>,
    /// When its user cancelled it, UTC; unknown in databases from before that was possible.
    pub cancelled: Option<OffsetDateTime>,
    /// Its receipts.
    pub receipts: Vec<KeptReceipt>,
    /// What a miner did wrong about it, and when.
    pub incident: Option<(OffsetDateTime, String)>,
}

/// What a validator has had of a miner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MinerGlance {
    /// How its jobs stand, of the newest [`COUNTED_MAX`].
    pub outcomes: Outcomes,
    /// Incidents, of the newest [`COUNTED_MAX`].
    pub incidents: u64,
    /// When it got its last job, UTC.
    pub last: Option<OffsetDateTime>,
    /// Until when it gets no jobs, UTC.
    pub blacklisted: Option<OffsetDateTime>,
}

const BY_TIME: Bisected = Bisected {
    below: "SELECT rowid, received_at FROM job WHERE rowid <= ?1 ORDER BY rowid DESC LIMIT 1",
};
const JOBS: &str =
    "SELECT uuid, executor_class, state, received_at, miner_hotkey, started_at, ended_at, last_status,
        miner_ip, miner_port
    FROM job WHERE rowid <= ?1 ORDER BY rowid DESC LIMIT ?2";
const JOB: &str =
    "SELECT uuid, executor_class, state, received_at, miner_hotkey, started_at, ended_at, last_status,
        miner_ip, miner_port
    FROM job WHERE uuid = ?1";
const NAMED: &str =
    "SELECT uuid FROM job WHERE uuid >= ?1 AND uuid < ?1 || char(1114111) ORDER BY uuid LIMIT ?2";
const CANCELLED: &str = "SELECT cancel_ordered FROM job WHERE uuid = ?1";
const INCIDENT: &str = "SELECT happened_at, reason FROM incident WHERE job_uuid = ?1";
const STATES: &str = "SELECT state, miner_hotkey, started_at FROM job WHERE rowid > ?1 AND rowid <= ?2";
const OPEN: &str = "SELECT count(*) FROM (SELECT 1 FROM job WHERE state = 'pending' LIMIT ?1)";
const OWED: &str = "SELECT count(*) FROM (SELECT 1 FROM owed_status WHERE id > 0 LIMIT ?1)";
const ENDED: &str = "SELECT uuid, state, ended_at, miner_hotkey FROM job WHERE ended_at <= ?1
    ORDER BY ended_at DESC LIMIT ?2";
const INCIDENTS: &str =
    "SELECT job_uuid, miner_hotkey, reason, happened_at FROM incident WHERE happened_at <= ?1
    ORDER BY happened_at DESC LIMIT ?2";
const BLACKLIST: &str = "SELECT miner_hotkey, until FROM blacklist WHERE until > ?1 ORDER BY until LIMIT ?2";
const CHEATS: &str = "SELECT job_uuid, reported_at, miner_hotkey, refusal FROM cheat WHERE id <= ?1
    ORDER BY id DESC LIMIT ?2";
const CHEATS_BY_TIME: Bisected = Bisected {
    below: "SELECT id, reported_at FROM cheat WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
};

impl ValidatorLook {
    /// Opens the database at `path`; blocks.
    pub fn open(path: &Path) -> Result<Self, LookError> {
        let look = Look::open(path, MIGRATIONS)?;
        Ok(Self { look })
    }

    /// Returns the look itself, for what it tells of the schema.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Returns the newest jobs that came until then, as they stood at `at_us`, newest first.
    pub fn jobs(&self, until: Until, at_us: i64) -> Result<Vec<JobGlance>, LookError> {
        self.look.read(|connection| {
            let last = last_until(connection, BY_TIME, until.us)?;
            glance::jobs(connection, (JOBS, (last, until.limit)), glance_of, at_us)
        })
    }

    /// Returns those of the jobs that are kept here and had come, as they stood at `at_us`.
    pub fn glances(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<JobGlance>, LookError> {
        self.look
            .read(|connection| glance::jobs_among(connection, JOB, jobs, glance_of, at_us))
    }

    /// Returns all that is kept of a job, as it stood at `at_us`.
    pub fn job(&self, job: &JobId, at_us: i64) -> Result<Option<ValidatorJob>, LookError> {
        let cancelled = if self.has_cancels() { Some(CANCELLED) } else { None };
        self.look.read(|connection| {
            let mut statement = connection.prepare_cached(JOB)?;
            let mut rows = statement.query([job.as_str()])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let ip: Option<String> = row.get(8)?;
            let port: Option<u16> = row.get(9)?;
            let assigned: Option<i64> = row.get(5)?;
            let cancelled: Option<i64> = match cancelled {
                Some(sql) => connection
                    .prepare_cached(sql)?
                    .query_row([job.as_str()], |row| row.get(0))?,
                None => None,
            };
            let incident: Option<(i64, String)> = connection
                .prepare_cached(INCIDENT)?
                .query_row([job.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            Ok(Some(ValidatorJob {
                glance: glance_of(connection, row, at_us)?,
                address: ip.zip(port).map(|(ip, port)| format!("{ip}:{port}")),
                assigned: assigned.map(moment).transpose()?,
                cancelled: cancelled.map(moment).transpose()?,
                receipts: receipts::of_job(connection, job)?,
                incident: incident
                    .map(|(at, reason)| Ok::<_, StoreError>((moment(at)?, reason)))
                    .transpose()?,
            }))
        })
    }

    /// Tells whether jobs can be cancelled in this schema: since `validator/0003_cancel`, which is version 4.
    fn has_cancels(&self) -> bool {
        const CANCELS_SINCE: u32 = 4;
        self.look.schema().0 >= CANCELS_SINCE
    }

    /// Returns at most `limit` jobs whose id begins so.
    pub fn named(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, LookError> {
        self.look
            .read(|connection| glance::named(connection, NAMED, beginning, limit))
    }

    /// Returns what happened to jobs until then, newest first.
    pub fn events(&self, until: Until) -> Result<Vec<EventGlance>, LookError> {
        self.look.read(|connection| {
            let mut events = came(connection, until)?;
            events.extend(ended(connection, until)?);
            events.extend(incidents(connection, until)?);
            events.extend(cheats(connection, until)?);
            events.extend(receipts::newest(connection, until)?.into_iter().map(|receipt| {
                let peer = receipt.miner.clone();
                receipt.into_event(peer)
            }));
            Ok(glance::newest(events, until))
        })
    }

    /// Returns the newest receipts that were stored until then, newest first.
    pub fn receipts(&self, until: Until) -> Result<Vec<ReceiptGlance>, LookError> {
        self.look.read(|connection| receipts::newest(connection, until))
    }

    /// Returns how the jobs that came after `since_us` and until `until_us` stand, the newest [`COUNTED_MAX`] of them.
    pub fn outcomes(&self, since_us: i64, until_us: i64) -> Result<Outcomes, LookError> {
        self.look.read(|connection| {
            let since = last_until(connection, BY_TIME, since_us)?;
            let last = last_until(connection, BY_TIME, until_us)?;
            let first = since.max(last.saturating_sub(COUNTED_MAX));
            let mut statement = connection.prepare_cached(STATES)?;
            let mut rows = statement.query((first, last))?;
            let mut outcomes = Outcomes {
                is_more: first > since,
                ..Outcomes::default()
            };
            while let Some(row) = rows.next()? {
                outcomes.add(standing(&row.get::<_, String>(0)?), 1);
            }
            Ok(outcomes)
        })
    }

    /// Returns how many jobs have not ended, and how many reports the facilitator has not answered, up to [`COUNTED_MAX`].
    pub fn open_and_owed(&self) -> Result<(i64, i64), LookError> {
        self.look.read(|connection| {
            let count = |sql| glance::count(connection, sql, [COUNTED_MAX]);
            Ok((count(OPEN)?, count(OWED)?))
        })
    }

    /// Returns what the validator has had of miners, by the newest [`COUNTED_MAX`] jobs and incidents.
    pub fn miners(&self, now_us: i64) -> Result<BTreeMap<Hotkey, MinerGlance>, LookError> {
        self.look.read(|connection| {
            let mut miners: BTreeMap<Hotkey, MinerGlance> = BTreeMap::new();
            let last = last_until(connection, BY_TIME, now_us)?;
            let mut statement = connection.prepare_cached(STATES)?;
            let mut rows = statement.query((last.saturating_sub(COUNTED_MAX), last))?;
            while let Some(row) = rows.next()? {
                let Some(miner) = row.get::<_, Option<String>>(1)? else {
                    continue;
                };
                let miner = miners.entry(Hotkey::new(miner)).or_default();
                miner.outcomes.add(standing(&row.get::<_, String>(0)?), 1);
                let started: Option<i64> = row.get(2)?;
                miner.last = miner.last.max(started.map(moment).transpose()?);
            }
            let mut statement = connection.prepare_cached(INCIDENTS)?;
            let mut rows = statement.query((now_us, COUNTED_MAX))?;
            while let Some(row) = rows.next()? {
                let miner = miners.entry(Hotkey::new(row.get::<_, String>(1)?)).or_default();
                miner.incidents = miner.incidents.saturating_add(1);
            }
            let mut statement = connection.prepare_cached(BLACKLIST)?;
            let mut rows = statement.query((now_us, COUNTED_MAX))?;
            // The last end of a miner's entries counts, which comes last.
            while let Some(row) = rows.next()? {
                let miner = miners.entry(Hotkey::new(row.get::<_, String>(0)?)).or_default();
                miner.blacklisted = Some(moment(row.get(1)?)?);
            }
            Ok(miners)
        })
    }
}

fn standing(state: &str) -> Standing {
    match JobStatus::from_word(state) {
        JobStatus::Completed => Standing::Good,
        JobStatus::Failed | JobStatus::HordeFailed => Standing::Bad,
        JobStatus::Rejected => Standing::Declined,
        _ => Standing::Open,
    }
}

fn glance_of(connection: &Connection, row: &Row<'_>, at_us: i64) -> Result<JobGlance, StoreError> {
    let job: String = row.get(0)?;
    let before = |at: Option<i64>| at.filter(|at| *at <= at_us);
    let started = before(row.get(5)?);
    let ended = before(row.get(6)?);
    let state: String = row.get(2)?;
    let last: String = row.get(7)?;
    let state = match (ended, started) {
        (Some(_), _) => state,
        // The last report tells more than `pending`; of an earlier moment it would tell of the future.
        (None, _) if state == PENDING => last,
        (None, Some(_)) => "assigned".to_owned(),
        (None, None) => JobStatus::Received.as_str().to_owned(),
    };
    let standing = standing(&state);
    let reason: Option<String> = match standing {
        Standing::Open | Standing::Good => None,
        Standing::Bad | Standing::Declined => connection
            .prepare_cached(INCIDENT)?
            .query_row([&job], |row| row.get(1))
            .optional()?,
    };
    let miner = row.get::<_, Option<String>>(4)?.filter(|_| started.is_some());
    Ok(JobGlance {
        job: JobId::new(job),
        state,
        standing,
        class: row.get(1)?,
        owner: None,
        validator: None,
        miner: miner.map(Hotkey::new),
        came: moment(row.get(3)?)?,
        ended: ended.map(moment).transpose()?,
        exit: None,
        reason,
        score: None,
    })
}

/// Returns that jobs came and were given to miners.
fn came(connection: &Connection, until: Until) -> Result<Vec<EventGlance>, StoreError> {
    let last = last_until(connection, BY_TIME, until.us)?;
    let mut statement = connection.prepare_cached(JOBS)?;
    let mut rows = statement.query((last, until.limit))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let job = JobId::new(row.get::<_, String>(0)?);
        let assigned: Option<i64> = row.get(5)?;
        if let Some(at) = assigned.filter(|at| *at <= until.us) {
            events.push(EventGlance {
                peer: row.get::<_, Option<String>>(4)?.map(Hotkey::new),
                ..event(moment(at)?, "assigned", &job)
            });
        }
        events.push(EventGlance {
            words: row.get(1)?,
            ..event(moment(row.get(3)?)?, "received", &job)
        });
    }
    Ok(events)
}

fn ended(connection: &Connection, until: Until) -> Result<Vec<EventGlance>, StoreError> {
    let mut statement = connection.prepare_cached(ENDED)?;
    let mut rows = statement.query((until.us, until.limit))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let job = JobId::new(row.get::<_, String>(0)?);
        let state: String = row.get(1)?;
        events.push(EventGlance {
            standing: standing(&state),
            peer: row.get::<_, Option<String>>(3)?.map(Hotkey::new),
            ..event(moment(row.get(2)?)?, &state, &job)
        });
    }
    Ok(events)
}

fn incidents(connection: &Connection, until: Until) -> Result<Vec<EventGlance>, StoreError> {
    let mut statement = connection.prepare_cached(INCIDENTS)?;
    let mut rows = statement.query((until.us, until.limit))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let job = JobId::new(row.get::<_, String>(0)?);
        events.push(EventGlance {
            standing: Standing::Bad,
            peer: Some(Hotkey::new(row.get::<_, String>(1)?)),
            words: row.get(2)?,
            ..event(moment(row.get(3)?)?, "incident", &job)
        });
    }
    Ok(events)
}

fn cheats(connection: &Connection, until: Until) -> Result<Vec<EventGlance>, StoreError> {
    let last = last_until(connection, CHEATS_BY_TIME, until.us)?;
    let mut statement = connection.prepare_cached(CHEATS)?;
    let mut rows = statement.query((last, until.limit))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let job = JobId::new(row.get::<_, String>(0)?);
        let refusal: Option<String> = row.get(3)?;
        events.push(EventGlance {
            standing: if refusal.is_some() {
                Standing::Declined
            } else {
                Standing::Bad
            },
            peer: row.get::<_, Option<String>>(2)?.map(Hotkey::new),
            words: refusal.map_or_else(
                || "counts, the miner is blacklisted".to_owned(),
                |why| format!("does not count: {why}"),
            ),
            ..event(moment(row.get(1)?)?, "cheat_reported", &job)
        });
    }
    Ok(events)
}

fn event(at: OffsetDateTime, what: &str, job: &JobId) -> EventGlance {
    EventGlance {
        at,
        what: what.to_owned(),
        standing: Standing::Open,
        job: Some(job.clone()),
        peer: None,
        words: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::glance::tests::assert_no_scan;

    #[test]
    fn nothing_that_is_looked_at_is_scanned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("validator.sqlite");
        drop(super::super::ValidatorStore::open(&path).unwrap());
        let looks = [
            BY_TIME.below,
            JOBS,
            JOB,
            NAMED,
            CANCELLED,
            INCIDENT,
            STATES,
            OPEN,
            OWED,
            ENDED,
            INCIDENTS,
            BLACKLIST,
            CHEATS,
            CHEATS_BY_TIME.below,
        ];
        let look = ValidatorLook::open(&path).unwrap();
        let plan = |connection: &Connection| {
            assert_no_scan(connection, &looks, &["job_pending"]);
            assert_no_scan(connection, receipts::LOOKS, &[]);
            Ok(())
        };
        look.look.read(plan).unwrap();
    }
}
