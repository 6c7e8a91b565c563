//! What can be seen of a miner without being one: all reads, by a [`Look`].

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};
use time::OffsetDateTime;

use super::ledger::{Counter, JobDetails, JobFilter, JobRow, Step, query};
use super::manifest::{self, ManifestState, OfferedClass};
use super::validators::{self, KnownValidator};
use super::{JobState, MIGRATIONS, journal};
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::glance::{
    self, COUNTED_MAX, EventGlance, JobGlance, Outcomes, ReceiptGlance, Standing, Until,
};
use crate::core::store::look::{Look, LookError};
use crate::core::store::receipts::{self, KeptReceipt};
use crate::core::store::times::moment;

/// Steps that a job has, at most.
const STEPS_MAX: u32 = 16;

/// Steps that are read besides, for jobs that came within a moment.
const STEPS_MORE: u32 = 256;

/// How much earlier than its row the offer of a job may have come, in microseconds: 2 s.
const OFFER_LEAD_US: i64 = 2_000_000;

/// A miner's database, opened to be read only, beside the miner or without it.
#[derive(Debug)]
pub struct MinerLook {
    look: Look,
}

/// An executor that a job has.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenSlot {
    /// Its class.
    pub class: String,
    /// Its number within the class.
    pub slot: u32,
    /// The job.
    pub job: JobId,
    /// Whose job.
    pub validator: Hotkey,
    /// The job's state.
    pub state: JobState,
    /// Since when, UTC.
    pub since: OffsetDateTime,
    /// When the executor was started, UTC; none while that is owed.
    pub started: Option<OffsetDateTime>,
}

const LAST: &str =
    "SELECT id FROM accepted_job WHERE created_at <= ?1 ORDER BY created_at DESC, id DESC LIMIT 1";
/// The outcome holds the streams: a large one is not opened for a list.
const JOBS: &str = "SELECT id, job_uuid, validator, executor_class, status, score, created_at,
        CASE WHEN octet_length(outcome) <= ?3 THEN exit_status END,
        CASE WHEN octet_length(outcome) <= ?3 THEN error_type END
    FROM accepted_job WHERE id <= ?1 ORDER BY id DESC LIMIT ?2";
const JOB: &str =
    "SELECT id, job_uuid, validator, executor_class, status, score, created_at, exit_status, error_type
    FROM accepted_job WHERE job_uuid = ?1";
const STEPS: &str =
    "SELECT step, at FROM job_step WHERE job_row = ?1 AND at <= ?2 ORDER BY at DESC, step DESC";
const STATES: &str = "SELECT status FROM accepted_job WHERE id > ?1 AND id <= ?2";
const OPEN: &str = "SELECT count(*) FROM (SELECT 1 FROM accepted_job
    WHERE (slot IS NOT NULL OR status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING')) LIMIT ?1)";
const SLOTS: &str = "SELECT executor_class, slot, job_uuid, validator, status, created_at, executor_started
    FROM accepted_job WHERE slot IS NOT NULL ORDER BY executor_class, slot LIMIT ?1";
const OWED: &str = "SELECT count(*) FROM (SELECT 1 FROM accepted_job
    WHERE outcome IS NOT NULL AND outcome_acknowledged IS NULL LIMIT ?1)";
const NEWEST_STEPS: &str = "SELECT s.step, s.at, j.job_uuid, j.validator, j.executor_class
    FROM job_step s CROSS JOIN accepted_job j ON j.id = s.job_row
    WHERE s.job_row <= ?1 ORDER BY s.job_row DESC, s.step DESC LIMIT ?2";
const OPEN_STEPS: &str = "SELECT s.step, s.at, j.job_uuid, j.validator, j.executor_class
    FROM accepted_job j INDEXED BY accepted_job_obliging CROSS JOIN job_step s ON s.job_row = j.id
    WHERE (j.slot IS NOT NULL OR j.status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING'))
        AND j.id < ?1 LIMIT ?2";
const REFUSED: &str =
    "SELECT at, subject, validator, job_uuid, reason, words FROM refused_offer WHERE at <= ?1
    ORDER BY at DESC LIMIT ?2";
const UNAUTHENTICATED: &str = "SELECT at, 'authentication', validator, NULL, reason, words
    FROM refused_authentication WHERE at <= ?1 ORDER BY at DESC LIMIT ?2";
const NAMED: &str =
    "SELECT job_uuid FROM accepted_job WHERE job_uuid >= ?1 AND job_uuid < ?1 || char(1114111)
    ORDER BY job_uuid LIMIT ?2";
const REFUSED_OF: &str = "SELECT at, subject, validator, job_uuid, reason, words FROM refused_offer
    WHERE job_uuid = ?1 ORDER BY at DESC LIMIT ?2";
const VALIDATORS_SEEN: &str = "SELECT max(seen_at) FROM validator";

impl MinerLook {
    /// Opens the database at `path`; blocks.
    pub fn open(path: &Path) -> Result<Self, LookError> {
        let look = Look::open(path, MIGRATIONS)?;
        Ok(Self { look })
    }

    /// Returns the look itself, for what it tells of the schema.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Tells whether the operator wants no new jobs.
    pub fn is_draining(&self) -> Result<bool, LookError> {
        self.look.read(journal::is_draining)
    }

    /// Returns how often what happened, by event, reason and validator.
    pub fn counters(&self) -> Result<Vec<Counter>, LookError> {
        self.look.read(query::counters)
    }

    /// Returns at most `limit` jobs, newest first, as `horde miner jobs` lists them.
    pub fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, LookError> {
        self.look
            .read(|connection| query::jobs(connection, filter, limit))
    }

    /// Returns the newest jobs that came until then, as they stood at `at_us`, newest first.
    pub fn jobs(&self, until: Until, at_us: i64) -> Result<Vec<JobGlance>, LookError> {
        self.look.read(|connection| {
            let Some(last) = last_until(connection, until.us)? else {
                return Ok(Vec::new());
            };
            glance::jobs(
                connection,
                (JOBS, (last, until.limit, glance::OPENED_MAX)),
                glance_of,
                at_us,
            )
        })
    }

    /// Returns those of the jobs that are kept here and had come, as they stood at `at_us`.
    pub fn glances(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<JobGlance>, LookError> {
        self.look
            .read(|connection| glance::jobs_among(connection, JOB, jobs, glance_of, at_us))
    }

    /// Returns everything about a job.
    pub fn job(&self, job: &JobId) -> Result<Option<JobDetails>, LookError> {
        self.look.read(|connection| query::details(connection, job))
    }

    /// Returns the receipts of a job.
    pub fn receipts_of(&self, job: &JobId) -> Result<Vec<KeptReceipt>, LookError> {
        self.look.read(|connection| receipts::of_job(connection, job))
    }

    /// Returns what was refused about a job, newest first, at most `limit`.
    pub fn refusals_of(&self, job: &JobId, limit: u32) -> Result<Vec<EventGlance>, LookError> {
        self.look
            .read(|connection| refusals(connection, REFUSED_OF, (job.as_str(), limit)))
    }

    /// Returns at most `limit` jobs whose id begins so.
    pub fn named(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, LookError> {
        self.look
            .read(|connection| glance::named(connection, NAMED, beginning, limit))
    }

    /// Returns what happened until then, newest first: steps of the jobs that came last and of those that are open, and
    /// what was refused.
    pub fn events(&self, until: Until) -> Result<Vec<EventGlance>, LookError> {
        self.look.read(|connection| {
            let mut events = steps(connection, until)?;
            events.extend(refusals(connection, REFUSED, (until.us, until.limit))?);
            events.extend(refusals(connection, UNAUTHENTICATED, (until.us, until.limit))?);
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
            let since = last_until(connection, since_us)?.unwrap_or(0);
            let last = last_until(connection, until_us)?.unwrap_or(0);
            let first = since.max(last.saturating_sub(COUNTED_MAX));
            let mut statement = connection.prepare_cached(STATES)?;
            let mut rows = statement.query((first, last))?;
            let mut outcomes = Outcomes {
                is_more: first > since,
                ..Outcomes::default()
            };
            while let Some(row) = rows.next()? {
                let state = JobState::from_word(&row.get::<_, String>(0)?)?;
                outcomes.add(standing(state), 1);
            }
            Ok(outcomes)
        })
    }

    /// Returns how many jobs are open, and how many outcomes no validator has acknowledged, up to [`COUNTED_MAX`].
    pub fn open_and_owed(&self) -> Result<(i64, i64), LookError> {
        self.look.read(|connection| {
            let count = |sql| glance::count(connection, sql, [COUNTED_MAX]);
            Ok((count(OPEN)?, count(OWED)?))
        })
    }

    /// Returns the executors that jobs have, by class and number, at most `limit`.
    pub fn slots(&self, limit: u32) -> Result<Vec<TakenSlot>, LookError> {
        self.look.read(|connection| {
            let mut statement = connection.prepare_cached(SLOTS)?;
            let mut rows = statement.query([limit])?;
            let mut slots = Vec::new();
            while let Some(row) = rows.next()? {
                slots.push(TakenSlot {
                    class: row.get(0)?,
                    slot: row.get(1)?,
                    job: JobId::new(row.get::<_, String>(2)?),
                    validator: Hotkey::new(row.get::<_, String>(3)?),
                    state: JobState::from_word(&row.get::<_, String>(4)?)?,
                    since: moment(row.get(5)?)?,
                    started: row.get::<_, Option<i64>>(6)?.map(moment).transpose()?,
                });
            }
            Ok(slots)
        })
    }

    /// Returns the manifest that counts, and what validators are told of it.
    pub fn manifest(&self) -> Result<(Option<ManifestState>, Vec<OfferedClass>), LookError> {
        self.look.read(|connection| {
            let (offered, _) = manifest::offered(connection)?;
            Ok((manifest::state(connection)?, offered))
        })
    }

    /// Returns all that is known of validators, active ones first, and when the chain was read last, UTC.
    pub fn validators(&self) -> Result<(Vec<KnownValidator>, Option<OffsetDateTime>), LookError> {
        self.look.read(|connection| {
            let seen: Option<i64> = connection
                .prepare_cached(VALIDATORS_SEEN)?
                .query_row((), |row| row.get(0))?;
            Ok((validators::known(connection)?, seen.map(moment).transpose()?))
        })
    }
}

fn last_until(connection: &Connection, until_us: i64) -> Result<Option<i64>, StoreError> {
    Ok(connection
        .prepare_cached(LAST)?
        .query_row([until_us], |row| row.get(0))
        .optional()?)
}

/// Returns how a job in this state stands.
const fn standing(state: JobState) -> Standing {
    match state {
        JobState::WaitingForExecutor | JobState::WaitingForPayload | JobState::Running => Standing::Open,
        JobState::Finished => Standing::Good,
        JobState::Failed => Standing::Bad,
        JobState::Rejected => Standing::Declined,
    }
}

/// Returns the state that a job is in after this step; none if the step says nothing of that.
const fn state_after(step: Step) -> Option<JobState> {
    match step {
        Step::Accepted => Some(JobState::WaitingForExecutor),
        Step::Declined => Some(JobState::Rejected),
        Step::Ready => Some(JobState::WaitingForPayload),
        Step::Ordered => Some(JobState::Running),
        Step::Finished => Some(JobState::Finished),
        Step::Failed => Some(JobState::Failed),
        Step::Offered
        | Step::ExecutorStarted
        | Step::ExecutorConnected
        | Step::VolumesReady
        | Step::StreamingReady
        | Step::ExecutionDone
        | Step::Delivered
        | Step::AcceptedReceipt
        | Step::FinishedReceipt
        | Step::Released => None,
    }
}

fn glance_of(connection: &Connection, row: &Row<'_>, at_us: i64) -> Result<JobGlance, StoreError> {
    let kept = JobState::from_word(&row.get::<_, String>(4)?)?;
    let mut statement = connection.prepare_cached(STEPS)?;
    let mut steps = statement.query((row.get::<_, i64>(0)?, at_us))?;
    let mut found = None;
    while let Some(step) = steps.next()? {
        let state = Step::from_number(step.get(0)?).and_then(state_after);
        if let Some(state) = state {
            found = Some((state, step.get::<_, i64>(1)?));
            break;
        }
    }
    // A database from before steps were noted has only the state of now.
    let (state, since) = found.map_or((kept, None), |(state, at)| (state, Some(at)));
    let standing = standing(state);
    let has_ended = !state.is_open();
    let exit: Option<i64> = row.get(7)?;
    Ok(JobGlance {
        job: JobId::new(row.get::<_, String>(1)?),
        state: state.as_str().to_ascii_lowercase(),
        standing,
        class: row.get(3)?,
        owner: None,
        validator: Some(Hotkey::new(row.get::<_, String>(2)?)),
        miner: None,
        came: moment(row.get(6)?)?,
        ended: since.filter(|_| has_ended).map(moment).transpose()?,
        exit: match state {
            JobState::Finished => Some(exit.unwrap_or(0)),
            _ => exit.filter(|_| has_ended),
        },
        reason: row.get::<_, Option<String>>(8)?.filter(|_| has_ended),
        score: row.get::<_, Option<f64>>(5)?.filter(|_| has_ended),
    })
}

fn steps(connection: &Connection, until: Until) -> Result<Vec<EventGlance>, StoreError> {
    let last = last_until(connection, until.us.saturating_add(OFFER_LEAD_US))?.unwrap_or(0);
    let many = until
        .limit
        .saturating_mul(STEPS_MAX / 2)
        .saturating_add(STEPS_MORE);
    let mut events = Vec::new();
    let mut add = |row: &Row<'_>| -> Result<(), StoreError> {
        let at: i64 = row.get(1)?;
        if let Some(step) = Step::from_number(row.get(0)?).filter(|_| at <= until.us) {
            events.push(EventGlance {
                at: moment(at)?,
                what: step.as_str().to_owned(),
                standing: state_after(step).map_or(Standing::Open, standing),
                job: Some(JobId::new(row.get::<_, String>(2)?)),
                peer: Some(Hotkey::new(row.get::<_, String>(3)?)),
                words: row.get(4)?,
            });
        }
        Ok(())
    };
    let mut statement = connection.prepare_cached(NEWEST_STEPS)?;
    let mut rows = statement.query((last, many))?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    let mut statement = connection.prepare_cached(OPEN_STEPS)?;
    let mut rows = statement.query((last, many))?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    // What is open may be among the newest.
    events.sort_by(|a, b| (b.at, &a.job, &a.what).cmp(&(a.at, &b.job, &b.what)));
    events.dedup_by(|a, b| (a.at, &a.job, &a.what) == (b.at, &b.job, &b.what));
    Ok(events)
}

fn refusals(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<EventGlance>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let (reason, words): (String, String) = (row.get(4)?, row.get(5)?);
        events.push(EventGlance {
            at: moment(row.get(0)?)?,
            what: format!("{}_refused", row.get::<_, String>(1)?),
            standing: Standing::Declined,
            job: row.get::<_, Option<String>>(3)?.map(JobId::new),
            peer: Some(Hotkey::new(row.get::<_, String>(2)?)),
            words: if words.is_empty() {
                reason
            } else {
                format!("{reason}: {words}")
            },
        });
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::glance::tests::assert_no_scan;

    #[test]
    fn nothing_that_is_looked_at_is_scanned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("miner.sqlite");
        drop(super::super::MinerStore::open(&path).unwrap());
        let looks = [
            LAST,
            JOBS,
            JOB,
            STEPS,
            STATES,
            OPEN,
            SLOTS,
            OWED,
            NEWEST_STEPS,
            OPEN_STEPS,
            REFUSED,
            UNAUTHENTICATED,
            NAMED,
            REFUSED_OF,
        ];
        let walked = ["accepted_job_slot", "accepted_job_owed", "accepted_job_obliging"];
        let look = MinerLook::open(&path).unwrap();
        let plan = |connection: &Connection| {
            assert_no_scan(connection, &looks, &walked);
            assert_no_scan(connection, receipts::LOOKS, &[]);
            Ok(())
        };
        look.look.read(plan).unwrap();
    }
}
