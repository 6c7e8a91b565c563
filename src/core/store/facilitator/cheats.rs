//! Users' reports that a miner cheated, and which of them their validators have got.

use rusqlite::{Connection, OptionalExtension, named_params};
use time::OffsetDateTime;

use super::FacilitatorStore;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::times::micros;

/// A report, as it is kept for the job's validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheatReport {
    /// The job that is in doubt.
    pub job: JobId,
    /// Its validator.
    pub validator: Hotkey,
    /// The same job, run on the trusted miner.
    pub trusted_job: JobId,
    /// The message as the validator gets it.
    pub frame: String,
    /// When it came, UTC.
    pub reported_at: OffsetDateTime,
}

impl FacilitatorStore {
    /// Keeps a report; false if there is one of its job already, which stays.
    pub async fn keep_cheat_report(&self, report: CheatReport) -> Result<bool, StoreError> {
        let change = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(
                    "INSERT INTO cheat_reports (job, validator, trusted_job, frame, reported_us)
                     SELECT seq, :validator, :trusted_job, :frame, :reported FROM jobs WHERE uuid = :job
                     ON CONFLICT DO NOTHING",
                )?
                .execute(named_params! {
                    ":job": report.job.as_str(),
                    ":validator": report.validator.as_str(),
                    ":trusted_job": report.trusted_job.as_str(),
                    ":frame": report.frame,
                    ":reported": micros(report.reported_at),
                })?;
            Ok(changed > 0)
        };
        self.store.write(change).await
    }

    /// Returns the oldest report with a place after `after` that a validator has not got, and its place. With
    /// `repeat_since`, those that were handed over since then count as not got, too.
    pub async fn next_cheat_report(
        &self,
        validator: &Hotkey,
        after: i64,
        repeat_since: Option<OffsetDateTime>,
    ) -> Result<Option<(i64, String)>, StoreError> {
        let validator = validator.clone();
        let query = move |connection: &Connection| {
            let since = repeat_since.map_or(i64::MAX, micros);
            Ok(connection
                .prepare_cached(
                    "SELECT job, frame FROM cheat_reports
                     WHERE validator = ?1 AND job > ?2 AND (pushed_us IS NULL OR pushed_us >= ?3)
                     ORDER BY job LIMIT 1",
                )?
                .query_row((validator.as_str(), after, since), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?)
        };
        self.store.read(query).await
    }

    /// Notes that a report was handed to its validator.
    pub async fn cheat_report_pushed(&self, place: i64, now: OffsetDateTime) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE cheat_reports SET pushed_us = coalesce(pushed_us, ?2) WHERE job = ?1",
                )?
                .execute((place, micros(now)))?;
            Ok(())
        };
        self.store.write(change).await
    }
}
