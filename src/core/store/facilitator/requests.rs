//! What belongs to the users' requests: idempotency keys, how many jobs a user has, feedback.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use time::OffsetDateTime;

use super::FacilitatorStore;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::times::micros;

/// How long a key stands for the job of its first request: 7 days.
pub const KEY_LIVES: Duration = Duration::from_secs(7 * 24 * 3600);

/// A user's key of a submission, by which a repetition is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, as the user chose it.
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_sha256: [u8; 32],
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUse {
    /// Nothing, or nothing any more.
    Free,
    /// The job of the same request.
    Same(JobId),
    /// The job of another request.
    Other,
}

/// How many jobs a user has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All that are stored.
    pub jobs: u64,
    /// Those that have not ended.
    pub unfinished: u64,
}

/// What a job's owner thinks of its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// 0 (wrong) to 1 (right).
    pub result_correctness: f64,
    /// Seconds that the job should have taken, at least 0.
    pub expected_duration: Option<f64>,
}

impl FacilitatorStore {
    /// Looks up what a user's key stands for at `now`.
    pub async fn key_use(
        &self,
        owner: &Hotkey,
        request: &RequestKey,
        now: OffsetDateTime,
    ) -> Result<KeyUse, StoreError> {
        let (owner, request) = (owner.clone(), request.clone());
        self.store
            .read(move |connection| key_use(connection, &owner, &request, now))
            .await
    }

    /// Stores what an owner thinks of a job's result, in place of what it thought before; true if it had not said
    /// anything yet, none if it has no such job.
    pub async fn set_feedback(
        &self,
        owner: &Hotkey,
        job: &JobId,
        feedback: Feedback,
        now: OffsetDateTime,
    ) -> Result<Option<bool>, StoreError> {
        let (owner, job) = (owner.clone(), job.clone());
        let change = move |connection: &Connection| {
            let Some(seq) = seq_of(connection, &owner, &job)? else {
                return Ok(None);
            };
            let is_first = feedback_of(connection, seq)?.is_none();
            connection
                .prepare_cached(
                    "INSERT INTO feedback (job, result_correctness, expected_duration, created_us)
                     VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (job) DO UPDATE SET result_correctness = excluded.result_correctness,
                        expected_duration = excluded.expected_duration, created_us = excluded.created_us",
                )?
                .execute((
                    seq,
                    feedback.result_correctness,
                    feedback.expected_duration,
                    micros(now),
                ))?;
            Ok(Some(is_first))
        };
        self.store.write(change).await
    }

    /// Returns what an owner thinks of a job's result; the outer none if it has no such job.
    pub async fn feedback(
        &self,
        owner: &Hotkey,
        job: &JobId,
    ) -> Result<Option<Option<Feedback>>, StoreError> {
        let (owner, job) = (owner.clone(), job.clone());
        let query = move |connection: &Connection| match seq_of(connection, &owner, &job)? {
            Some(seq) => Ok(Some(feedback_of(connection, seq)?)),
            None => Ok(None),
        };
        self.store.read(query).await
    }
}

/// Returns how many jobs a user has.
pub(super) fn tally(connection: &Connection, owner: &Hotkey) -> Result<Tally, StoreError> {
    let found: Option<(i64, i64)> = connection
        .prepare_cached("SELECT jobs, unfinished FROM tallies WHERE owner = ?1")?
        .query_row((owner.as_str(),), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let count = |number: i64| u64::try_from(number).map_err(|error| StoreError::value("tally", error));
    match found {
        None => Ok(Tally::default()),
        Some((jobs, unfinished)) => Ok(Tally {
            jobs: count(jobs)?,
            unfinished: count(unfinished)?,
        }),
    }
}

/// Returns what a user's key stands for.
pub(super) fn key_use(
    connection: &Connection,
    owner: &Hotkey,
    request: &RequestKey,
    now: OffsetDateTime,
) -> Result<KeyUse, StoreError> {
    let found: Option<([u8; 32], String)> = connection
        .prepare_cached(
            "SELECT requests.body_sha256, jobs.uuid FROM requests JOIN jobs ON jobs.seq = requests.job
             WHERE requests.owner = ?1 AND requests.key = ?2 AND requests.created_us > ?3",
        )?
        .query_row((owner.as_str(), &request.key, micros(now - KEY_LIVES)), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(match found {
        None => KeyUse::Free,
        Some((digest, uuid)) if digest == request.body_sha256 => KeyUse::Same(JobId::new(uuid)),
        Some(_) => KeyUse::Other,
    })
}

/// Lets a free key stand for a job.
pub(super) fn take_key(
    connection: &Connection,
    owner: &Hotkey,
    request: &RequestKey,
    seq: i64,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO requests (owner, key, body_sha256, job, created_us) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (owner, key) DO UPDATE SET body_sha256 = excluded.body_sha256, job = excluded.job,
                created_us = excluded.created_us",
        )?
        .execute((
            owner.as_str(),
            &request.key,
            request.body_sha256,
            seq,
            micros(now),
        ))?;
    Ok(())
}

fn seq_of(connection: &Connection, owner: &Hotkey, job: &JobId) -> Result<Option<i64>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT seq FROM jobs WHERE uuid = ?1 AND owner = ?2")?
        .query_row((job.as_str(), owner.as_str()), |row| row.get(0))
        .optional()?)
}

fn feedback_of(connection: &Connection, seq: i64) -> Result<Option<Feedback>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT result_correctness, expected_duration FROM feedback WHERE job = ?1")?
        .query_row((seq,), |row| {
            Ok(Feedback {
                result_correctness: row.get(0)?,
                expected_duration: row.get(1)?,
            })
        })
        .optional()?)
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use serde_json::Map;

    use super::super::{Delivery, Filter, Inserted, Job, JobSignature, JobSpec, Step, Submission};
    use super::*;
    use crate::core::model::ExecutorClass;
    use crate::core::model::job::JobStatus;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn submission(number: u32, created_at: OffsetDateTime, request: Option<RequestKey>) -> Submission {
        let job = Job {
            uuid: JobId::new(format!("00000000-0000-4000-8000-{number:012}")),
            owner: Hotkey::new("owner"),
            created_at,
            spec: JobSpec {
                target_validator: Hotkey::new("validator"),
                executor_class: ExecutorClass::AlwaysOnTest,
                docker_image: "busybox".to_owned(),
                job_namespace: None,
                tag: String::new(),
                args: Vec::new(),
                env: IndexMap::new(),
                use_gpu: false,
                artifacts_dir: String::new(),
                on_trusted_miner: false,
                download_time_limit: 1,
                execution_time_limit: 1,
                streaming_start_time_limit: 1,
                upload_time_limit: 1,
                streaming_client_cert: None,
                volumes: Vec::new(),
                uploads: Vec::new(),
            },
            history: vec![step(JobStatus::Sent, created_at)],
            cost: None,
            cancel: None,
            wait: None,
        };
        Submission {
            job,
            signature: JobSignature {
                signatory: Hotkey::new("owner"),
                timestamp_ns: 1,
                signature: "c2ln".to_owned(),
                scope: "SignedFields".to_owned(),
            },
            request,
            bill: None,
            delivery: Delivery {
                is_pushed: true,
                deliver_until: created_at,
                budget: time::Duration::MINUTE,
            },
            unfinished_max: 3,
        }
    }

    fn step(status: JobStatus, created_at: OffsetDateTime) -> Step {
        Step {
            status,
            metadata: Map::new(),
            created_at,
        }
    }

    fn key(key: &str, body: u8) -> RequestKey {
        RequestKey {
            key: key.to_owned(),
            body_sha256: [body; 32],
        }
    }

    struct World {
        store: FacilitatorStore,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn open() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
            Self {
                store,
                _folder: folder,
            }
        }

        async fn end(&self, job: &JobId, at: OffsetDateTime) {
            self.store
                .append(
                    job,
                    &Hotkey::new("validator"),
                    step(JobStatus::Failed, at),
                    |_| Ok::<_, ()>(()),
                )
                .await
                .unwrap();
        }

        async fn tally(&self) -> Tally {
            let owner = Hotkey::new("owner");
            let read = move |connection: &Connection| tally(connection, &owner);
            self.store.store.read(read).await.unwrap()
        }
    }

    fn tallied(jobs: u64, unfinished: u64) -> Tally {
        Tally { jobs, unfinished }
    }

    #[tokio::test]
    async fn a_key_stands_for_the_job_of_its_first_request_for_seven_days() {
        let world = World::open();
        let store = &world.store;
        let first = submission(1, start(), Some(key("k", 1)));
        let uuid = first.job.uuid.clone();
        assert_eq!(store.insert(first).await.unwrap(), Inserted::Done);
        let again = submission(2, start() + HOUR, Some(key("k", 1)));
        assert_eq!(
            store.insert(again).await.unwrap(),
            Inserted::Repeated(uuid.clone())
        );
        let other = submission(3, start() + HOUR, Some(key("k", 2)));
        assert_eq!(store.insert(other).await.unwrap(), Inserted::KeyTaken);
        assert_eq!(world.tally().await, tallied(1, 1));
        let owner = Hotkey::new("owner");
        let look = async |owner: &Hotkey, now| store.key_use(owner, &key("k", 1), now).await.unwrap();
        let nearly = start() + KEY_LIVES - Duration::from_secs(1);
        assert_eq!(look(&owner, nearly).await, KeyUse::Same(uuid));
        assert_eq!(look(&Hotkey::new("x"), nearly).await, KeyUse::Free);
        let late = start() + KEY_LIVES;
        assert_eq!(look(&owner, late).await, KeyUse::Free);
        let renewed = submission(4, late, Some(key("k", 2)));
        assert_eq!(store.insert(renewed).await.unwrap(), Inserted::Done);
        assert_eq!(look(&owner, late).await, KeyUse::Other);
    }

    #[tokio::test]
    async fn a_user_has_no_more_unfinished_jobs_than_allowed() {
        let world = World::open();
        for number in 0..3 {
            let outcome = world.store.insert(submission(number, start(), None)).await;
            assert_eq!(outcome.unwrap(), Inserted::Done);
        }
        let fourth = || submission(4, start(), Some(key("k", 1)));
        assert_eq!(world.store.insert(fourth()).await.unwrap(), Inserted::TooMany);
        assert_eq!(world.tally().await, tallied(3, 3));
        world.end(&submission(1, start(), None).job.uuid, start()).await;
        assert_eq!(world.tally().await, tallied(3, 2));
        // The key of what was refused is free.
        assert_eq!(world.store.insert(fourth()).await.unwrap(), Inserted::Done);
    }

    #[tokio::test]
    async fn what_ended_long_ago_goes_with_all_that_hangs_on_it_and_the_rest_stays() {
        let world = World::open();
        let store = &world.store;
        let submissions: Vec<_> = (0..6_u32)
            .map(|number| {
                let mut submission =
                    submission(number, start() + HOUR * number, Some(key(&number.to_string(), 1)));
                submission.unfinished_max = 100;
                submission
            })
            .collect();
        let uuids: Vec<_> = submissions.iter().map(|one| one.job.uuid.clone()).collect();
        for submission in submissions {
            store.insert(submission).await.unwrap();
        }
        let owner = Hotkey::new("owner");
        let opinion = Feedback {
            result_correctness: 0.5,
            expected_duration: None,
        };
        for number in [0, 2] {
            let set = store.set_feedback(&owner, &uuids[number], opinion, start()).await;
            assert_eq!(set.unwrap(), Some(true));
        }
        // The second never ended, the fourth ended late, the sixth is recent.
        for (number, hours) in [(0, 1), (2, 3), (3, 90), (4, 5), (5, 6)] {
            world.end(&uuids[number], start() + HOUR * hours).await;
        }
        assert_eq!(world.tally().await, tallied(6, 1));
        let horizon = start() + HOUR * 5 + Duration::from_secs(1);
        let first = store.evict(0, horizon, 2).await.unwrap();
        assert_eq!(first.removed, 1);
        let second = store
            .evict(first.resume_after.unwrap(), horizon, 2)
            .await
            .unwrap();
        assert_eq!(second.removed, 1);
        let third = store
            .evict(second.resume_after.unwrap(), horizon, 9)
            .await
            .unwrap();
        assert_eq!((third.removed, third.resume_after), (1, None));
        assert_eq!(world.tally().await, tallied(3, 1));
        let page = store.page(&owner, &Filter::default(), 0, 9).await.unwrap();
        let left: Vec<_> = page.jobs.unwrap().into_iter().map(|job| job.uuid).collect();
        assert_eq!(left, [uuids[5].clone(), uuids[3].clone(), uuids[1].clone()]);
        let rows = |table: &'static str| {
            store.store.read(move |connection| {
                let count = format!("SELECT count(*) FROM {table}");
                Ok(connection.query_row(&count, (), |row| row.get::<_, i64>(0))?)
            })
        };
        assert_eq!(rows("requests").await.unwrap(), 3);
        assert_eq!(rows("feedback").await.unwrap(), 0);
        assert_eq!(rows("steps").await.unwrap(), 5);
    }

    #[tokio::test]
    async fn feedback_is_the_owners_and_the_last_word_counts() {
        let world = World::open();
        let stored = submission(1, start(), None);
        let (owner, uuid) = (stored.job.owner.clone(), stored.job.uuid.clone());
        world.store.insert(stored).await.unwrap();
        assert_eq!(world.store.feedback(&owner, &uuid).await.unwrap(), Some(None));
        let said = |result_correctness| Feedback {
            result_correctness,
            expected_duration: Some(2.5),
        };
        for (opinion, is_first) in [(0.0, true), (1.0, false)] {
            let set = world
                .store
                .set_feedback(&owner, &uuid, said(opinion), start())
                .await;
            assert_eq!(set.unwrap(), Some(is_first));
        }
        let read = world.store.feedback(&owner, &uuid).await.unwrap();
        assert_eq!(read, Some(Some(said(1.0))));
        let stranger = Hotkey::new("x");
        assert_eq!(world.store.feedback(&stranger, &uuid).await.unwrap(), None);
        let set = world.store.set_feedback(&stranger, &uuid, said(0.0), start());
        assert_eq!(set.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_page_is_read_by_the_owners_index_and_not_sorted() {
        let world = World::open();
        let plan = |sql: &'static str| {
            world.store.store.read(move |connection| {
                let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let lines = statement.query_map((), |row| row.get::<_, String>(3))?;
                Ok(lines.collect::<Result<Vec<_>, _>>()?.join("\n"))
            })
        };
        for (sql, index) in [
            (
                "SELECT * FROM jobs WHERE owner = 'x' AND '' = '' AND NULL IS NULL
                 ORDER BY seq DESC LIMIT 10 OFFSET 9",
                "jobs_of_owner (owner=?)",
            ),
            (
                "SELECT * FROM jobs WHERE owner = 'x' AND tag = 'y' ORDER BY seq DESC LIMIT 10",
                "jobs_of_owner_with_tag (owner=? AND tag=?)",
            ),
            (
                "SELECT count(*) FROM jobs WHERE owner = 'x' AND tag = 'y'",
                "COVERING INDEX jobs_of_owner_with_tag (owner=? AND tag=?)",
            ),
            (
                "SELECT seq FROM jobs WHERE seq > 5 ORDER BY seq LIMIT 10",
                "PRIMARY KEY",
            ),
        ] {
            let plan = plan(sql).await.unwrap();
            assert!(
                plan.contains(index) && !plan.contains("TEMP B-TREE"),
                "{sql}: {plan}"
            );
        }
    }
}
