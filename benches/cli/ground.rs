//! The ground of the stage: databases of roles of long standing, with as many jobs as are asked for.
//!
//! One job is stored the way the role does it; the rest are copies of its rows, made in SQL, since a million jobs on
//! the way of a role take longer than all that is measured here.

use std::path::Path;

use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::store::facilitator::FacilitatorStore;
use horde::core::store::miner::MinerStore;
use rusqlite::Connection;
use time::OffsetDateTime;

use crate::{Failure, old_job};

/// The identifier of the newest job, by which a screen is known to show it.
pub(crate) const NEWEST: &str = "fedcba98-7654-4321-8765-0123456789ab";

/// Makes the directory of a machine on which a facilitator and a miner have had `jobs` jobs.
pub(crate) async fn make(directory: &Path, jobs: u32) -> Result<(), Failure> {
    // A moment long enough ago that a millisecond for each later job does not reach beyond now.
    let then = Clock::system().now() - time::Duration::hours(1);
    facilitator(&directory.join("facilitator"), jobs, then).await?;
    miner(&directory.join("miner"), jobs, then)
}

async fn facilitator(directory: &Path, jobs: u32, then: OffsetDateTime) -> Result<(), Failure> {
    let path = directory.join("facilitator.sqlite");
    let store = FacilitatorStore::open(&path)?;
    let [owner, validator] = ["//Reader", "//Validator"].map(Keypair::from_uri);
    let job = old_job::make(owner?.hotkey(), validator?.hotkey(), then);
    store.insert(job).await?;
    drop(store);
    let connection = quick(&path)?;
    let columns = columns(&connection, "jobs", &["seq", "uuid", "created_us"])?;
    let made = "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)";
    connection.execute_batch("BEGIN")?;
    connection.execute(
        &format!(
            "{made} INSERT INTO jobs (seq, uuid, created_us, {columns})
             SELECT i, iif(i = ?1, '{NEWEST}', {UUID}), created_us + i * 1000, {columns}
             FROM n, (SELECT * FROM jobs WHERE seq = 1)"
        ),
        [jobs],
    )?;
    connection.execute(
        "INSERT INTO steps (job, position, status, metadata, created_us)
         SELECT jobs.seq, steps.position, steps.status, steps.metadata, jobs.created_us + steps.position * 1000
         FROM jobs, steps WHERE jobs.seq > 1 AND steps.job = 1",
        (),
    )?;
    connection.execute_batch("COMMIT; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

fn miner(directory: &Path, jobs: u32, then: OffsetDateTime) -> Result<(), Failure> {
    let path = directory.join("miner.sqlite");
    drop(MinerStore::open(&path)?);
    let validator = Keypair::from_uri("//Validator")?.hotkey().clone();
    let connection = quick(&path)?;
    connection.execute_batch("BEGIN")?;
    connection.execute(
        &format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO accepted_job (id, validator, job_uuid, executor_class, executor_token, status, outcome,
                 time_took_us, score, created_at, updated_at)
             SELECT i, ?2, iif(i = ?1, '{NEWEST}', {UUID}), 'always_on.test', 'token-' || i, 'FINISHED',
                 '{{\"docker_process_stdout\": \"hello\", \"docker_process_exit_status\": 0}}',
                 1500000, 1.0, ?3 + i * 1000, ?3 + i * 1000 + 500
             FROM n"
        ),
        (
            jobs,
            validator.as_str(),
            i64::try_from(then.unix_timestamp_nanos() / 1000)?,
        ),
    )?;
    // The first step is noted by itself: the payload, the run, the end.
    connection.execute(
        "INSERT INTO job_step (job_row, step, at)
         SELECT id, step, created_at + step * 40 FROM accepted_job,
             (SELECT 6 AS step UNION SELECT 7 UNION SELECT 11)",
        (),
    )?;
    connection.execute_batch("COMMIT; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// A random identifier, in SQL.
const UUID: &str = "lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' \
     || substr(lower(hex(randomblob(2))), 2) || '-8' || substr(lower(hex(randomblob(2))), 2) \
     || '-' || lower(hex(randomblob(6)))";

/// Opens a database of which nothing is lost if it is lost.
fn quick(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; PRAGMA temp_store = memory")?;
    Ok(connection)
}

/// Returns the names of a table's columns but for some, with commas.
fn columns(connection: &Connection, table: &str, but: &[&str]) -> Result<String, Failure> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    let mut kept = Vec::new();
    for name in names {
        let name = name?;
        if !but.contains(&name.as_str()) {
            kept.push(name);
        }
    }
    Ok(kept.join(", "))
}
