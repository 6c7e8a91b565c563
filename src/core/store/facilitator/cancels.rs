//! Users' wishes to end their jobs.

use rusqlite::{Connection, OptionalExtension};
use time::OffsetDateTime;

use super::{CrashPoint, FacilitatorStore};
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// A wish to end a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelOrder {
    /// When it was made, UTC.
    pub asked_at: OffsetDateTime,
    /// Why the validator cannot fulfil it, once it has said so.
    pub refused: Option<String>,
}

/// The condition of a job that has ended; `seq` is the job's.
const HAS_ENDED: &str = "EXISTS (SELECT 1 FROM steps WHERE steps.job = jobs.seq
    AND status IN ('completed', 'rejected', 'failed', 'horde_failed'))";

impl FacilitatorStore {
    /// Keeps the wish to end a job, unless there is one or the job has ended; returns the one that stands.
    pub async fn order_cancel(
        &self,
        job: &JobId,
        now: OffsetDateTime,
    ) -> Result<Option<CancelOrder>, StoreError> {
        let job = job.clone();
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(&format!(
                    "INSERT INTO cancels (job, asked_us) SELECT seq, ?2 FROM jobs WHERE uuid = ?1 AND NOT {HAS_ENDED}
                     ON CONFLICT DO NOTHING"
                ))?
                .execute((job.as_str(), micros(now)))?;
            let seq: Option<i64> = connection
                .prepare_cached("SELECT seq FROM jobs WHERE uuid = ?1")?
                .query_row((job.as_str(),), |row| row.get(0))
                .optional()?;
            seq.map_or(Ok(None), |seq| read_cancel(connection, seq))
        };
        self.step_if(CrashPoint::Cancelled, Option::is_some, change).await
    }

    /// Returns the jobs of a validator that are still to be ended, oldest wish first.
    pub async fn cancels_due(&self, validator: &Hotkey) -> Result<Vec<JobId>, StoreError> {
        let validator = validator.clone();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT uuid FROM cancels JOIN jobs ON jobs.seq = cancels.job
                 WHERE refused IS NULL AND target_validator = ?1 AND NOT {HAS_ENDED} ORDER BY asked_us"
            ))?;
            let jobs = statement.query_map((validator.as_str(),), |row| {
                Ok(JobId::new(row.get::<_, String>(0)?))
            })?;
            Ok(jobs.collect::<Result<_, _>>()?)
        };
        self.store.read(query).await
    }

    /// Notes that the validator of a job cannot end it, and why; false if nobody asked.
    pub async fn refuse_cancel(
        &self,
        job: &JobId,
        validator: &Hotkey,
        reason: String,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let (job, validator) = (job.clone(), validator.clone());
        let change = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE cancels SET refused = ?3, refused_us = ?4 WHERE refused IS NULL
                     AND job = (SELECT seq FROM jobs WHERE uuid = ?1 AND target_validator = ?2)",
                )?
                .execute((job.as_str(), validator.as_str(), reason, micros(now)))?;
            Ok(changed == 1)
        };
        self.store.write(change).await
    }

    /// Tells whether a job of this validator is there and has not ended.
    pub async fn is_running(&self, job: &JobId, validator: &Hotkey) -> Result<bool, StoreError> {
        let (job, validator) = (job.clone(), validator.clone());
        let query = move |connection: &Connection| {
            Ok(connection
                .prepare_cached(&format!(
                    "SELECT EXISTS (SELECT 1 FROM jobs
                         WHERE uuid = ?1 AND target_validator = ?2 AND NOT {HAS_ENDED})"
                ))?
                .query_row((job.as_str(), validator.as_str()), |row| row.get(0))?)
        };
        self.store.read(query).await
    }
}

/// Reads the wish to end a job, by the job's `seq`.
pub(super) fn read_cancel(connection: &Connection, seq: i64) -> Result<Option<CancelOrder>, StoreError> {
    let row: Option<(i64, Option<String>)> = connection
        .prepare_cached("SELECT asked_us, refused FROM cancels WHERE job = ?1")?
        .query_row((seq,), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let order = |(asked_us, refused)| {
        let asked_at = moment(asked_us)?;
        Ok(CancelOrder { asked_at, refused })
    };
    row.map(order).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::jobs::tests::{job, open, submission};
    use super::super::{Appended, Step};
    use super::*;
    use crate::core::model::job::JobStatus;

    #[tokio::test]
    async fn a_wish_stands_until_the_job_has_ended_or_it_cannot_be() {
        let (_folder, store) = open();
        let jobs = [job(1, ""), job(2, ""), job(3, "")];
        for job in &jobs {
            store.insert(submission(job)).await.unwrap();
        }
        let validator = Hotkey::new("validator");
        let now = jobs[0].created_at;
        for job in &jobs[..2] {
            let order = store.order_cancel(&job.uuid, now).await.unwrap().unwrap();
            assert_eq!((order.asked_at, order.refused), (now, None));
        }
        let later = now + time::Duration::seconds(9);
        let order = store.order_cancel(&jobs[0].uuid, later).await.unwrap().unwrap();
        assert_eq!(order.asked_at, now, "the first wish stands");
        let due = async || store.cancels_due(&validator).await.unwrap();
        assert_eq!(due().await, [jobs[0].uuid.clone(), jobs[1].uuid.clone()]);
        assert_eq!(store.cancels_due(&Hotkey::new("other")).await.unwrap(), []);
        let refuse = async |job: &JobId, validator: &str| {
            let validator = Hotkey::new(validator);
            let reason = "no".to_owned();
            store.refuse_cancel(job, &validator, reason, now).await.unwrap()
        };
        assert!(!refuse(&jobs[1].uuid, "other").await);
        assert!(!refuse(&jobs[2].uuid, "validator").await, "nobody asked");
        assert!(refuse(&jobs[1].uuid, "validator").await);
        assert_eq!(due().await, [jobs[0].uuid.clone()]);
        let read = store.job(&jobs[1].owner, &jobs[1].uuid).await.unwrap().unwrap();
        assert_eq!(read.cancel.unwrap().refused.as_deref(), Some("no"));
        assert!(store.is_running(&jobs[0].uuid, &validator).await.unwrap());
        let end = Step {
            status: JobStatus::Failed,
            metadata: serde_json::Map::new(),
            created_at: now,
        };
        let agree = |_: &[JobStatus]| Ok::<_, &str>(());
        for job in [&jobs[0], &jobs[2]] {
            let ended = store.append(&job.uuid, &validator, end.clone(), agree).await;
            assert_eq!(ended.unwrap(), Appended::Done);
        }
        assert_eq!(due().await, []);
        assert!(!store.is_running(&jobs[0].uuid, &validator).await.unwrap());
        assert_eq!(
            store.order_cancel(&jobs[2].uuid, now).await.unwrap(),
            None,
            "it has ended"
        );
    }
}
