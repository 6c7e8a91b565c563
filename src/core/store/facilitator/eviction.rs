//! Forgetting old jobs: what ended long ago goes, a bounded piece at a time.

use rusqlite::Connection;
use time::OffsetDateTime;

use super::FacilitatorStore;
use crate::core::store::StoreError;
use crate::core::store::times::micros;

/// What one piece of the work has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Jobs that are gone, with their histories, keys and feedback.
    pub removed: u64,
    /// Where to go on; none at the end of what is old.
    pub resume_after: Option<i64>,
}

impl FacilitatorStore {
    /// Removes jobs that ended before `horizon`, of the `rows_max` oldest ones after the place `after` (0: from the start).
    ///
    /// A job that has not ended stays, however old it is: it is owed an end.
    pub async fn evict(
        &self,
        after: i64,
        horizon: OffsetDateTime,
        rows_max: u32,
    ) -> Result<Evicted, StoreError> {
        let change = move |connection: &Connection| evict(connection, after, micros(horizon), rows_max);
        self.store.write(change).await
    }
}

fn evict(connection: &Connection, after: i64, horizon_us: i64, rows_max: u32) -> Result<Evicted, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, created_us, (SELECT steps.created_us FROM steps WHERE steps.job = jobs.seq
            AND steps.status IN ('completed', 'rejected', 'failed', 'horde_failed'))
         FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = statement.query_map((after, rows_max), |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, Option<i64>>(2)?,
        ))
    })?;
    let (mut seen, mut last, mut is_recent) = (0_u32, after, false);
    let mut old = Vec::new();
    for row in rows {
        let (seq, created_us, ended_us) = row?;
        if created_us >= horizon_us {
            // Jobs are numbered as they come.
            is_recent = true;
            break;
        }
        (seen, last) = (seen.saturating_add(1), seq);
        if ended_us.is_some_and(|ended_us| ended_us < horizon_us) {
            old.push(seq);
        }
    }
    let mut removed = 0_u64;
    let mut delete = connection.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?;
    for seq in old {
        delete.execute((seq,))?;
        removed = removed.saturating_add(1);
    }
    Ok(Evicted {
        removed,
        resume_after: (!is_recent && seen == rows_max).then_some(last),
    })
}
