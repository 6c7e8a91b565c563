//! What can be seen of a facilitator without being one: all reads, by a [`Look`].

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};
use time::OffsetDateTime;

use super::MIGRATIONS;
use super::credit::Account;
use super::jobs::{Job, read_whole};
use super::ledger::{Transfer, read_transfer};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::money::Micro;
use crate::core::store::StoreError;
use crate::core::store::glance::{
    self, Bisected, COUNTED_MAX, EventGlance, JobGlance, Outcomes, Standing, Until, last_until,
};
use crate::core::store::look::{Look, LookError};
use crate::core::store::times::moment;

/// A facilitator's database, opened to be read only, beside the facilitator or without it.
#[derive(Debug)]
pub struct FacilitatorLook {
    look: Look,
}

/// A user as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserGlance {
    /// Who.
    pub hotkey: Hotkey,
    /// When the administrator let it in, UTC; none if not by a command.
    pub added: Option<OffsetDateTime>,
    /// Since when it is kept out, UTC, and why.
    pub blocked: Option<(OffsetDateTime, String)>,
    /// The administrator's words about it; perhaps empty.
    pub note: String,
    /// Its money.
    pub account: Account,
    /// Its jobs that are stored.
    pub jobs: i64,
    /// Those that have not ended.
    pub unfinished: i64,
}

/// The facilitator's own side of the books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Books {
    /// What was ever given out.
    pub issued: Micro,
    /// What was charged.
    pub income: Micro,
    /// Bills that are not settled, up to [`COUNTED_MAX`].
    pub open_bills: i64,
    /// When the oldest of them was opened, UTC.
    pub oldest_open: Option<OffsetDateTime>,
}

/// A validator that has been connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkGlance {
    /// Who.
    pub validator: Hotkey,
    /// When it was last heard, UTC.
    pub seen: OffsetDateTime,
    /// Its version, if it told.
    pub version: Option<String>,
    /// Its jobs that have not ended, up to [`COUNTED_MAX`].
    pub open: i64,
}

/// The newest facts about a miner's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineGlance {
    /// Whose machine.
    pub miner: Hotkey,
    /// Who told it.
    pub validator: Hotkey,
    /// The facts, JSON.
    pub specs: String,
    /// When they came, UTC.
    pub received: OffsetDateTime,
}

const JOBS_BY_TIME: Bisected = Bisected {
    below: "SELECT seq, created_us FROM jobs WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1",
};
const STEPS_BY_TIME: Bisected = Bisected {
    below: "SELECT rowid, created_us FROM steps WHERE rowid <= ?1 ORDER BY rowid DESC LIMIT 1",
};
const TRANSFERS_BY_TIME: Bisected = Bisected {
    below: "SELECT id, at_us FROM transfers WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
};

const JOBS: &str = "SELECT seq, uuid, owner, created_us, target_validator, executor_class FROM jobs
    WHERE seq <= ?1 ORDER BY seq DESC LIMIT ?2";
const JOB: &str =
    "SELECT seq, uuid, owner, created_us, target_validator, executor_class FROM jobs WHERE uuid = ?1";
/// The reason and the state of a job that its user ended.
const CANCELLED: &str = "cancelled";
/// What a job last was at a moment. Its details are opened if it has ended with few of them: streams are in there.
const LAST_STEP: &str = "SELECT status, created_us,
        CASE WHEN status IN ('rejected', 'failed', 'horde_failed') AND octet_length(metadata) <= ?3
            THEN coalesce(iif(json_extract(metadata, '$.job_failure_details.context.cancelled'), 'cancelled', NULL),
                json_extract(metadata, '$.job_failure_details.reason'),
                json_extract(metadata, '$.horde_failure_details.reason'),
                json_extract(metadata, '$.job_rejection_details.reason')) END,
        CASE WHEN status = 'failed' AND octet_length(metadata) <= ?3
            THEN json_extract(metadata, '$.job_failure_details.docker_process_exit_status') END
    FROM steps WHERE job = ?1 AND created_us <= ?2 ORDER BY position DESC LIMIT 1";
const WHOLE: &str = "SELECT * FROM jobs WHERE uuid = ?1";
const NAMED: &str =
    "SELECT uuid FROM jobs WHERE uuid >= ?1 AND uuid < ?1 || char(1114111) ORDER BY uuid LIMIT ?2";
const EVENTS: &str = "SELECT s.created_us, s.status, j.uuid, j.target_validator,
        CASE WHEN s.status IN ('rejected', 'failed', 'horde_failed') AND octet_length(s.metadata) <= ?3
            THEN coalesce(iif(json_extract(s.metadata, '$.job_failure_details.context.cancelled'), 'cancelled', NULL),
                json_extract(s.metadata, '$.job_failure_details.reason'),
                json_extract(s.metadata, '$.horde_failure_details.reason'),
                json_extract(s.metadata, '$.job_rejection_details.reason')) END
    FROM steps s CROSS JOIN jobs j ON j.seq = s.job WHERE s.rowid <= ?1 ORDER BY s.rowid DESC LIMIT ?2";
const CAME_BETWEEN: &str = "SELECT count(*) FROM jobs WHERE seq > ?1 AND seq <= ?2";
/// Counted by who asks: a tenth of the time that SQLite takes to group them.
const ENDED_BETWEEN: &str = "SELECT status FROM steps INDEXED BY steps_end WHERE job > ?1 AND job <= ?2
    AND status IN ('completed', 'rejected', 'failed', 'horde_failed')";
pub(super) const OPEN: &str = "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ended = 0 LIMIT ?1)";
const OVERDUE: &str = "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ended = 0
    AND CASE WHEN pushed_us IS NULL THEN deliver_until_us ELSE pushed_us + budget_us END <= ?1 LIMIT ?2)";
const USERS_KNOWN: &str = "SELECT hotkey FROM users WHERE hotkey > ?1 ORDER BY hotkey LIMIT ?2";
const USERS_WITH_JOBS: &str = "SELECT owner FROM tallies WHERE owner > ?1 ORDER BY owner LIMIT ?2";
const USERS_WITH_MONEY: &str =
    "SELECT DISTINCT hotkey FROM accounts WHERE hotkey > ?1 ORDER BY hotkey LIMIT ?2";
const USER: &str = "SELECT added_us, note, blocked_us, reason FROM users WHERE hotkey = ?1";
const TALLY: &str = "SELECT jobs, unfinished FROM tallies WHERE owner = ?1";
const BALANCE: &str = "SELECT balance FROM accounts WHERE hotkey = ?1 AND kind = ?2";
const TRANSFERS: &str =
    "SELECT t.id, t.at_us, t.kind, f.kind, f.hotkey, g.kind, g.hotkey, t.amount, b.job_uuid, t.key, t.note
    FROM transfers t CROSS JOIN accounts f ON f.id = t.taken_from CROSS JOIN accounts g ON g.id = t.given_to
        LEFT JOIN bills b ON b.id = t.bill
    WHERE t.id <= ?1 ORDER BY t.id DESC LIMIT ?2";
const OPEN_BILLS: &str = "SELECT count(*) FROM (SELECT 1 FROM bills WHERE settled_us IS NULL LIMIT ?1)";
const OLDEST_BILL: &str =
    "SELECT (SELECT created_us FROM jobs WHERE seq = b.job) FROM bills b INDEXED BY bills_open
    WHERE b.settled_us IS NULL ORDER BY b.id LIMIT 1";
const OPEN_OF: &str =
    "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE validator = ?1 AND ended = 0 LIMIT ?2)";
/// One row for each validator that ever came, and one for each miner that a validator told of: few.
const LINKS: &str = "SELECT hotkey, seen_us, version FROM validator_links ORDER BY seen_us DESC LIMIT ?1";
const MACHINES: &str = "SELECT miner, validator, specs, received_us FROM machine_specs LIMIT ?1";

/// The state that says that a job came; every job has it.
const CAME: &str = "sent";

impl FacilitatorLook {
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
            let last = last_until(connection, JOBS_BY_TIME, until.us)?;
            glance::jobs(connection, (JOBS, (last, until.limit)), glance_of, at_us)
        })
    }

    /// Returns those of the jobs that are kept here and had come, as they stood at `at_us`.
    pub fn glances(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<JobGlance>, LookError> {
        self.look
            .read(|connection| glance::jobs_among(connection, JOB, jobs, glance_of, at_us))
    }

    /// Returns a job with its history, whoever owns it.
    pub fn job(&self, job: &JobId) -> Result<Option<Job>, LookError> {
        self.look
            .read(|connection| read_whole(connection, WHOLE, [job.as_str()]))
    }

    /// Returns at most `limit` jobs whose id begins so.
    pub fn named(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, LookError> {
        self.look
            .read(|connection| glance::named(connection, NAMED, beginning, limit))
    }

    /// Returns the newest steps of jobs until then, newest first.
    pub fn events(&self, until: Until) -> Result<Vec<EventGlance>, LookError> {
        self.look.read(|connection| {
            let last = last_until(connection, STEPS_BY_TIME, until.us)?;
            let mut statement = connection.prepare_cached(EVENTS)?;
            let mut rows = statement.query((last, until.limit, glance::OPENED_MAX))?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                let status = JobStatus::from_word(&row.get::<_, String>(1)?);
                events.push(EventGlance {
                    at: moment(row.get(0)?)?,
                    what: row.get(1)?,
                    standing: standing(status),
                    job: Some(JobId::new(row.get::<_, String>(2)?)),
                    peer: Some(Hotkey::new(row.get::<_, String>(3)?)),
                    words: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
                });
            }
            Ok(events)
        })
    }

    /// Returns how the jobs that came after `since_us` and until `until_us` stand, the newest [`COUNTED_MAX`] of them.
    pub fn outcomes(&self, since_us: i64, until_us: i64) -> Result<Outcomes, LookError> {
        self.look.read(|connection| {
            let since = last_until(connection, JOBS_BY_TIME, since_us)?;
            let last = last_until(connection, JOBS_BY_TIME, until_us)?;
            let first = since.max(last.saturating_sub(COUNTED_MAX));
            let came = glance::count(connection, CAME_BETWEEN, (first, last))?.unsigned_abs();
            let mut statement = connection.prepare_cached(ENDED_BETWEEN)?;
            let mut rows = statement.query((first, last))?;
            let mut outcomes = Outcomes::default();
            while let Some(row) = rows.next()? {
                let word = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
                outcomes.add(standing(JobStatus::from_word(word)), 1);
            }
            outcomes.open = came.saturating_sub(outcomes.sum());
            outcomes.is_more = first > since;
            Ok(outcomes)
        })
    }

    /// Returns how many jobs have not ended, up to [`COUNTED_MAX`].
    pub fn open_jobs(&self) -> Result<i64, LookError> {
        self.look
            .read(|connection| glance::count(connection, OPEN, [COUNTED_MAX]))
    }

    /// Returns how many jobs were not handed over, or not ended, within their time, up to [`COUNTED_MAX`].
    pub fn overdue_jobs(&self, now_us: i64) -> Result<i64, LookError> {
        self.look
            .read(|connection| glance::count(connection, OVERDUE, [now_us, COUNTED_MAX]))
    }

    /// Returns at most `limit` users after this hotkey, by their hotkeys.
    pub fn users(&self, after: &str, limit: u32) -> Result<Vec<UserGlance>, LookError> {
        self.look.read(|connection| {
            let mut users: BTreeSet<String> = BTreeSet::new();
            for sql in [USERS_KNOWN, USERS_WITH_JOBS, USERS_WITH_MONEY] {
                let mut statement = connection.prepare_cached(sql)?;
                let names = statement.query_map((after, limit), |row| row.get::<_, String>(0))?;
                for name in names {
                    users.insert(name?);
                }
            }
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            users
                .into_iter()
                .take(limit)
                .map(|hotkey| user(connection, hotkey))
                .collect()
        })
    }

    /// Returns the newest transfers until then, newest first.
    pub fn transfers(&self, until: Until) -> Result<Vec<Transfer>, LookError> {
        self.look.read(|connection| {
            let last = last_until(connection, TRANSFERS_BY_TIME, until.us)?;
            let mut statement = connection.prepare_cached(TRANSFERS)?;
            let mut rows = statement.query((last, until.limit))?;
            let mut transfers = Vec::new();
            while let Some(row) = rows.next()? {
                transfers.push(read_transfer(row)?);
            }
            Ok(transfers)
        })
    }

    /// Returns the facilitator's side of the books.
    pub fn books(&self) -> Result<Books, LookError> {
        self.look.read(|connection| {
            let balance = |kind| own_balance(connection, "", kind);
            let oldest: Option<Option<i64>> = connection
                .prepare_cached(OLDEST_BILL)?
                .query_row((), |row| row.get(0))
                .optional()?;
            Ok(Books {
                issued: Micro::new(balance("issued")?.get().saturating_neg()),
                income: balance("income")?,
                open_bills: glance::count(connection, OPEN_BILLS, [COUNTED_MAX])?,
                oldest_open: oldest.flatten().map(moment).transpose()?,
            })
        })
    }

    /// Returns the validators that have been connected, the last heard first, at most `limit`.
    pub fn links(&self, limit: u32) -> Result<Vec<LinkGlance>, LookError> {
        self.look.read(|connection| {
            let mut statement = connection.prepare_cached(LINKS)?;
            let mut rows = statement.query([limit])?;
            let mut links = Vec::new();
            while let Some(row) = rows.next()? {
                let hotkey: String = row.get(0)?;
                links.push(LinkGlance {
                    open: glance::count(connection, OPEN_OF, (&hotkey, COUNTED_MAX))?,
                    validator: Hotkey::new(hotkey),
                    seen: moment(row.get(1)?)?,
                    version: row.get(2)?,
                });
            }
            Ok(links)
        })
    }

    /// Returns the facts about miners' machines, at most `limit`.
    pub fn machines(&self, limit: u32) -> Result<Vec<MachineGlance>, LookError> {
        self.look.read(|connection| {
            let mut statement = connection.prepare_cached(MACHINES)?;
            let mut rows = statement.query([limit])?;
            let mut machines = Vec::new();
            while let Some(row) = rows.next()? {
                machines.push(MachineGlance {
                    miner: Hotkey::new(row.get::<_, String>(0)?),
                    validator: Hotkey::new(row.get::<_, String>(1)?),
                    specs: row.get(2)?,
                    received: moment(row.get(3)?)?,
                });
            }
            Ok(machines)
        })
    }
}

fn glance_of(connection: &Connection, row: &Row<'_>, at_us: i64) -> Result<JobGlance, StoreError> {
    let last = connection
        .prepare_cached(LAST_STEP)?
        .query_row((row.get::<_, i64>(0)?, at_us, glance::OPENED_MAX), |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get(2)?,
                row.get(3)?,
            ))
        })
        .optional()?;
    let (state, changed, reason, exit): (String, i64, Option<String>, Option<i64>) =
        last.unwrap_or_else(|| (CAME.to_owned(), 0, None, None));
    let status = JobStatus::from_word(&state);
    // The wire has no status for it: a job that its user ended is `failed` there, with a mark.
    let state = match reason.as_deref() {
        Some(CANCELLED) if status == JobStatus::Failed => CANCELLED.to_owned(),
        _ => state,
    };
    Ok(JobGlance {
        job: JobId::new(row.get::<_, String>(1)?),
        standing: standing(status),
        class: row.get(5)?,
        owner: Some(Hotkey::new(row.get::<_, String>(2)?)),
        validator: Some(Hotkey::new(row.get::<_, String>(4)?)),
        miner: None,
        came: moment(row.get(3)?)?,
        ended: status.is_terminal().then(|| moment(changed)).transpose()?,
        exit: if status == JobStatus::Completed {
            Some(0)
        } else {
            exit
        },
        reason,
        score: None,
        state,
    })
}

/// Returns how a job of this status stands.
pub(in super::super) const fn standing(status: JobStatus) -> Standing {
    match status {
        JobStatus::Completed => Standing::Good,
        JobStatus::Failed | JobStatus::HordeFailed => Standing::Bad,
        JobStatus::Rejected => Standing::Declined,
        _ => Standing::Open,
    }
}

fn user(connection: &Connection, hotkey: String) -> Result<UserGlance, StoreError> {
    type Words = (Option<i64>, String, Option<i64>, String);
    let known: Option<Words> = connection
        .prepare_cached(USER)?
        .query_row([&hotkey], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let (added, note, blocked, reason) = known.unwrap_or_default();
    let tally: Option<(i64, i64)> = connection
        .prepare_cached(TALLY)?
        .query_row([&hotkey], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (jobs, unfinished) = tally.unwrap_or_default();
    Ok(UserGlance {
        added: added.map(moment).transpose()?,
        blocked: blocked.map(moment).transpose()?.map(|since| (since, reason)),
        note,
        account: Account {
            available: own_balance(connection, &hotkey, "available")?,
            reserved: own_balance(connection, &hotkey, "reserved")?,
        },
        jobs,
        unfinished,
        hotkey: Hotkey::new(hotkey),
    })
}

fn own_balance(connection: &Connection, hotkey: &str, kind: &str) -> Result<Micro, StoreError> {
    let balance: Option<i64> = connection
        .prepare_cached(BALANCE)?
        .query_row((hotkey, kind), |row| row.get(0))
        .optional()?;
    Ok(balance.map_or(Micro::ZERO, Micro::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::facilitator::Step;
    use crate::core::store::facilitator::jobs::tests::{job, open, submission};
    use crate::core::store::glance::tests::assert_no_scan;

    #[tokio::test]
    async fn a_job_that_its_user_ended_is_told_apart_from_one_that_failed() {
        let (folder, store) = open();
        for (number, context) in [
            (1, serde_json::json!({"cancelled": true})),
            (2, serde_json::json!({})),
        ] {
            let mut ended = job(number, "");
            let details = serde_json::json!({"reason": "unknown", "stage": "execution", "context": context});
            ended.history.push(Step {
                status: JobStatus::Failed,
                metadata: serde_json::Map::from_iter([("job_failure_details".to_owned(), details)]),
                created_at: ended.created_at,
            });
            store.insert(submission(&ended)).await.unwrap();
        }
        let look = FacilitatorLook::open(&folder.path().join("facilitator.sqlite")).unwrap();
        let until = Until {
            us: i64::MAX,
            limit: 10,
        };
        let jobs = look.jobs(until, i64::MAX).unwrap();
        let told: Vec<_> = jobs
            .iter()
            .map(|job| (job.state.as_str(), job.reason.as_deref(), job.standing))
            .collect();
        assert_eq!(
            told,
            [
                ("failed", Some("unknown"), Standing::Bad),
                ("cancelled", Some("cancelled"), Standing::Bad)
            ]
        );
    }

    #[test]
    fn nothing_that_is_looked_at_is_scanned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facilitator.sqlite");
        drop(super::super::FacilitatorStore::open(&path).unwrap());
        let looks = [
            JOBS_BY_TIME.below,
            STEPS_BY_TIME.below,
            TRANSFERS_BY_TIME.below,
            JOBS,
            JOB,
            LAST_STEP,
            WHOLE,
            NAMED,
            EVENTS,
            CAME_BETWEEN,
            ENDED_BETWEEN,
            OPEN,
            OVERDUE,
            USERS_KNOWN,
            USERS_WITH_JOBS,
            USERS_WITH_MONEY,
            USER,
            TALLY,
            BALANCE,
            TRANSFERS,
            OPEN_BILLS,
            OLDEST_BILL,
            OPEN_OF,
            LINKS,
            MACHINES,
        ];
        let walked = [
            "deliveries_open",
            "deliveries_due",
            "bills_open",
            "validator_links",
            "machine_specs",
        ];
        let look = FacilitatorLook::open(&path).unwrap();
        let plan = |connection: &Connection| {
            assert_no_scan(connection, &looks, &walked);
            Ok(())
        };
        look.look.read(plan).unwrap();
    }
}
