//! How jobs get to their validators: what waits, what was handed over, what is overdue; and when each validator was
//! last heard.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::{Duration, OffsetDateTime};

use super::jobs::{Job, JobSignature, read_history, read_job};
use super::{CrashPoint, FacilitatorStore};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// Until when a job may be handed to its validator, and how long it may take from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it is about to be handed over; else it waits for its validator.
    pub is_pushed: bool,
    /// The end of its limits, UTC: later than that nobody wants it done.
    pub deliver_until: OffsetDateTime,
    /// How long its validator has for it, from the hand-over on.
    pub budget: Duration,
}

/// The wait of a job that could not be handed over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Since when, UTC.
    pub since: OffsetDateTime,
    /// When it was handed over, UTC; none if it was not.
    pub pushed_at: Option<OffsetDateTime>,
}

/// A job that somebody must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// The job.
    pub job: JobId,
    /// Its validator.
    pub validator: Hotkey,
    /// When it was submitted, UTC.
    pub waiting_since: OffsetDateTime,
    /// When it was handed over, UTC; none if it never was.
    pub pushed_at: Option<OffsetDateTime>,
    /// How long its validator had for it.
    pub budget: Duration,
    /// What was last heard of it; `sent` if nothing was.
    pub last: JobStatus,
}

/// Makes the row of a new job.
pub(super) fn open(
    connection: &Connection,
    seq: i64,
    job: &Job,
    delivery: &Delivery,
) -> Result<(), StoreError> {
    let now = micros(job.created_at);
    connection
        .prepare_cached(
            "INSERT INTO deliveries (job, validator, waiting_since_us, deliver_until_us, budget_us, pushed_us)
             VALUES (:job, :validator, :now, :deliver_until, :budget, :pushed)",
        )?
        .execute(named_params! {
            ":job": seq,
            ":validator": job.spec.target_validator.as_str(),
            ":now": now,
            ":deliver_until": micros(delivery.deliver_until),
            ":budget": duration_micros(delivery.budget)?,
            ":pushed": delivery.is_pushed.then_some(now),
        })?;
    Ok(())
}

/// Returns how a job waited; none if it was handed over at once.
pub(super) fn wait(connection: &Connection, seq: i64) -> Result<Option<Wait>, StoreError> {
    let waited: Option<(i64, Option<i64>)> = connection
        .prepare_cached(
            "SELECT waiting_since_us, pushed_us FROM deliveries
             WHERE job = ?1 AND (pushed_us IS NULL OR pushed_us > waiting_since_us)",
        )?
        .query_row((seq,), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((since, pushed)) = waited else {
        return Ok(None);
    };
    Ok(Some(Wait {
        since: moment(since)?,
        pushed_at: pushed.map(moment).transpose()?,
    }))
}

impl FacilitatorStore {
    /// Marks the next job that waits for a validator as handed over, and returns it; within its limits only.
    ///
    /// With `repeat_before`, jobs that were handed over before then and of which nothing was heard count as waiting,
    /// too: for validators that refuse to run a job twice.
    pub async fn claim_next(
        &self,
        validator: &Hotkey,
        now: OffsetDateTime,
        repeat_before: Option<OffsetDateTime>,
    ) -> Result<Option<(Job, JobSignature)>, StoreError> {
        let validator = validator.clone();
        let change = move |connection: &Connection| {
            let now = micros(now);
            let before = repeat_before.map_or(i64::MIN, micros);
            let seq: Option<i64> = connection
                .prepare_cached(
                    "SELECT job FROM deliveries
                     WHERE validator = :validator AND ended = 0 AND withdrawn = 0 AND deliver_until_us > :now
                        AND (pushed_us IS NULL OR (pushed_us < :before
                            AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.job = deliveries.job AND position > 0)))
                     ORDER BY job LIMIT 1",
                )?
                .query_row(
                    named_params! {":validator": validator.as_str(), ":now": now, ":before": before},
                    |row| row.get(0),
                )
                .optional()?;
            let Some(seq) = seq else { return Ok(None) };
            connection
                .prepare_cached("UPDATE deliveries SET pushed_us = ?2 WHERE job = ?1")?
                .execute((seq, now))?;
            read_submission(connection, seq).map(Some)
        };
        self.step_if(CrashPoint::Pushed, Option::is_some, change).await
    }

    /// Lets a job wait again that could not be handed over after all.
    pub async fn unclaim(&self, job: &JobId) -> Result<(), StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE deliveries SET pushed_us = NULL
                     WHERE job = (SELECT seq FROM jobs WHERE uuid = ?1) AND ended = 0
                        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.job = deliveries.job AND position > 0)",
                )?
                .execute((job.as_str(),))?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Takes a job that waits for its validator away from whoever would hand it over; false if it was handed over, or
    /// has ended. Whoever withdraws a job must end it.
    pub async fn withdraw(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE deliveries SET withdrawn = 1
                     WHERE job = (SELECT seq FROM jobs WHERE uuid = ?1) AND pushed_us IS NULL AND ended = 0",
                )?
                .execute((job.as_str(),))?;
            Ok(changed > 0)
        };
        self.step_if(CrashPoint::Withdrawn, |is_withdrawn| *is_withdrawn, change)
            .await
    }

    /// Returns jobs that were not handed over within their limits, or not ended within their budget. Withdrawn ones are
    /// among them, since whoever withdrew them may have died.
    pub async fn overdue(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<Overdue>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT uuid, validator, waiting_since_us, pushed_us, budget_us,
                    (SELECT status FROM steps WHERE steps.job = seq ORDER BY position DESC LIMIT 1)
                 FROM deliveries JOIN jobs ON seq = job
                 WHERE ended = 0
                    AND CASE WHEN pushed_us IS NULL THEN deliver_until_us ELSE pushed_us + budget_us END <= ?1
                 ORDER BY CASE WHEN pushed_us IS NULL THEN deliver_until_us ELSE pushed_us + budget_us END LIMIT ?2",
            )?;
            let mut rows = statement.query((micros(now), limit))?;
            let mut overdue = Vec::new();
            while let Some(row) = rows.next()? {
                overdue.push(read_overdue(row)?);
            }
            Ok(overdue)
        };
        self.store.read(query).await
    }

    /// Counts the jobs that wait for a validator, up to `limit`.
    pub async fn waiting(&self, validator: &Hotkey, limit: u32) -> Result<u32, StoreError> {
        let validator = validator.clone();
        let query = move |connection: &Connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT count(*) FROM (SELECT 1 FROM deliveries
                     WHERE validator = ?1 AND ended = 0 AND pushed_us IS NULL LIMIT ?2)",
                )?
                .query_row((validator.as_str(), limit), |row| row.get(0))?)
        };
        self.store.read(query).await
    }

    /// Notes that a validator was heard; versions are kept if they are told.
    pub async fn heard(
        &self,
        validator: &Hotkey,
        versions: (Option<String>, Option<String>),
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let validator = validator.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT INTO validator_links (hotkey, seen_us, version, runner_version) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (hotkey) DO UPDATE SET seen_us = max(seen_us, excluded.seen_us),
                        version = coalesce(excluded.version, version),
                        runner_version = coalesce(excluded.runner_version, runner_version)",
                )?
                .execute((validator.as_str(), micros(now), versions.0, versions.1))?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns when a validator was last heard, UTC; none if it was never connected.
    pub async fn last_heard(&self, validator: &Hotkey) -> Result<Option<OffsetDateTime>, StoreError> {
        let validator = validator.clone();
        let query = move |connection: &Connection| {
            let seen: Option<i64> = connection
                .prepare_cached("SELECT seen_us FROM validator_links WHERE hotkey = ?1")?
                .query_row((validator.as_str(),), |row| row.get(0))
                .optional()?;
            seen.map(moment).transpose()
        };
        self.store.read(query).await
    }
}

fn read_submission(connection: &Connection, seq: i64) -> Result<(Job, JobSignature), StoreError> {
    let (mut job, signature) = connection
        .prepare_cached("SELECT * FROM jobs WHERE seq = ?1")?
        .query_row((seq,), |row| {
            let signature = JobSignature {
                signatory: Hotkey::new(row.get::<_, String>("signatory")?),
                timestamp_ns: row.get("signature_timestamp_ns")?,
                signature: row.get("signature")?,
                scope: row.get("signature_scope")?,
            };
            Ok(read_job(row).map(|(_, job, _)| (job, signature)))
        })??;
    (job.history, _) = read_history(connection, seq)?;
    Ok((job, signature))
}

fn read_overdue(row: &Row<'_>) -> Result<Overdue, StoreError> {
    Ok(Overdue {
        job: JobId::new(row.get::<_, String>(0)?),
        validator: Hotkey::new(row.get::<_, String>(1)?),
        waiting_since: moment(row.get(2)?)?,
        pushed_at: row.get::<_, Option<i64>>(3)?.map(moment).transpose()?,
        budget: Duration::microseconds(row.get(4)?),
        last: JobStatus::from_word(&row.get::<_, String>(5)?),
    })
}

fn duration_micros(duration: Duration) -> Result<i64, StoreError> {
    i64::try_from(duration.whole_microseconds()).map_err(|error| StoreError::value("duration", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::facilitator::jobs::tests::{job, open, signature};
    use crate::core::store::facilitator::{Step, Submission};

    const MINUTE: Duration = Duration::MINUTE;

    async fn insert(store: &FacilitatorStore, number: u32, is_pushed: bool) -> Job {
        let job = job(number, "");
        let delivery = Delivery {
            is_pushed,
            deliver_until: job.created_at + MINUTE,
            budget: MINUTE * 2,
        };
        let submission = Submission {
            job: job.clone(),
            signature: signature(),
            bill: None,
            request: None,
            unfinished_max: u64::MAX,
            delivery,
        };
        store.insert(submission).await.unwrap();
        job
    }

    async fn step(store: &FacilitatorStore, job: &Job, status: JobStatus) {
        let step = Step {
            status,
            metadata: serde_json::Map::new(),
            created_at: job.created_at,
        };
        let agree = |_: &[JobStatus]| Ok::<_, ()>(());
        store
            .append(&job.uuid, &job.spec.target_validator, step, agree)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_job_that_waits_is_claimed_once_and_within_its_limits() {
        let (_folder, store) = open();
        let validator = Hotkey::new("validator");
        let (first, second) = (insert(&store, 1, false).await, insert(&store, 2, false).await);
        let now = second.created_at;
        assert_eq!(store.waiting(&validator, 9).await.unwrap(), 2);
        assert_eq!(
            store.claim_next(&Hotkey::new("other"), now, None).await.unwrap(),
            None
        );
        let (claimed, evidence) = store.claim_next(&validator, now, None).await.unwrap().unwrap();
        assert_eq!((&claimed.uuid, evidence), (&first.uuid, signature()));
        let too_late = second.created_at + MINUTE;
        assert_eq!(store.claim_next(&validator, too_late, None).await.unwrap(), None);
        let (claimed, _) = store.claim_next(&validator, now, None).await.unwrap().unwrap();
        assert_eq!(claimed.uuid, second.uuid);
        assert_eq!(store.claim_next(&validator, now, None).await.unwrap(), None);
        store.unclaim(&first.uuid).await.unwrap();
        let (claimed, _) = store.claim_next(&validator, now, None).await.unwrap().unwrap();
        assert_eq!(claimed.uuid, first.uuid);
        let read = store.job(&first.owner, &first.uuid).await.unwrap().unwrap();
        let wait = Wait {
            since: first.created_at,
            pushed_at: Some(now),
        };
        assert_eq!(read.wait, Some(wait));
    }

    #[tokio::test]
    async fn a_job_of_which_nothing_was_heard_is_repeated_only_where_that_is_asked_for() {
        let (_folder, store) = open();
        let validator = Hotkey::new("validator");
        let silent = insert(&store, 1, true).await;
        let heard = insert(&store, 2, true).await;
        step(&store, &heard, JobStatus::Received).await;
        let now = heard.created_at + Duration::SECOND;
        assert_eq!(store.claim_next(&validator, now, None).await.unwrap(), None);
        let again = store
            .claim_next(&validator, now, Some(now))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(again.0.uuid, silent.uuid);
        assert_eq!(store.claim_next(&validator, now, Some(now)).await.unwrap(), None);
        // Nothing takes back what was heard.
        store.unclaim(&heard.uuid).await.unwrap();
        assert_eq!(store.claim_next(&validator, now, None).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_waits_or_runs_too_long_is_overdue_until_it_ends() {
        let (_folder, store) = open();
        let waiting = insert(&store, 1, false).await;
        let running = insert(&store, 2, true).await;
        step(&store, &running, JobStatus::Accepted).await;
        let due = |now| {
            let store = &store;
            async move {
                let overdue = store.overdue(now, 9).await.unwrap().into_iter();
                overdue
                    .map(|overdue| (overdue.job, overdue.pushed_at.is_some(), overdue.last))
                    .collect::<Vec<_>>()
            }
        };
        let start = waiting.created_at;
        assert_eq!(due(start + MINUTE - Duration::SECOND).await, []);
        let first = (waiting.uuid.clone(), false, JobStatus::Sent);
        assert_eq!(due(start + MINUTE).await, std::slice::from_ref(&first));
        let second = (running.uuid.clone(), true, JobStatus::Accepted);
        assert_eq!(due(start + MINUTE * 3).await, [first, second.clone()]);
        assert!(store.withdraw(&waiting.uuid).await.unwrap());
        assert!(!store.withdraw(&running.uuid).await.unwrap());
        let validator = Hotkey::new("validator");
        assert_eq!(store.claim_next(&validator, start, None).await.unwrap(), None);
        step(&store, &waiting, JobStatus::HordeFailed).await;
        assert_eq!(due(start + MINUTE * 3).await, [second]);
        step(&store, &running, JobStatus::Completed).await;
        assert_eq!(due(start + MINUTE * 3).await, []);
    }

    #[tokio::test]
    async fn jobs_of_before_are_delivered_and_open_ones_end_with_their_limits() {
        use crate::core::store::Store;
        use crate::core::store::facilitator::MIGRATIONS;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facilitator.sqlite");
        let older = &MIGRATIONS[..1];
        let change = |connection: &Connection| {
            for (uuid, end) in [("open", "accepted"), ("ended", "failed")] {
                connection.execute(
                    "INSERT INTO jobs VALUES (NULL, ?1, 'owner', 5000000, 'validator', 'always_on.test', 'busybox', NULL,
                        '', '[]', '{}', 1, '', 0, 10, 20, -5, 9000000, NULL, '[]', '[]', 'owner', 1, 's', 'SignedFields')",
                    [uuid],
                )?;
                connection.execute(
                    "INSERT INTO steps VALUES (last_insert_rowid(), 0, ?1, '{}', 5000000)",
                    [end],
                )?;
            }
            Ok(())
        };
        Store::open(&path, older).unwrap().write(change).await.unwrap();
        let store = FacilitatorStore::open(&path).unwrap();
        // A limit counts with a week at most, and an hour is added.
        let end = OffsetDateTime::UNIX_EPOCH + Duration::seconds(5 + 30 + 604_800 + 3600);
        assert_eq!(store.overdue(end - Duration::SECOND, 9).await.unwrap(), []);
        let overdue = store.overdue(end, 9).await.unwrap();
        assert_eq!(overdue.len(), 1);
        assert_eq!(overdue[0].job.as_str(), "open");
        assert!(overdue[0].pushed_at.is_some());
    }

    #[tokio::test]
    async fn a_validator_is_remembered_with_the_last_time_it_was_heard() {
        let (_folder, store) = open();
        let validator = Hotkey::new("validator");
        assert_eq!(store.last_heard(&validator).await.unwrap(), None);
        let now = OffsetDateTime::UNIX_EPOCH + MINUTE;
        let versions = (Some("1".to_owned()), None);
        store.heard(&validator, versions, now).await.unwrap();
        store.heard(&validator, (None, None), now - MINUTE).await.unwrap();
        assert_eq!(store.last_heard(&validator).await.unwrap(), Some(now));
    }
}
