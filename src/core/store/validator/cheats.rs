//! Reports that a miner cheated, and the blacklist that follows from them.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::{MIGRATIONS, ValidatorStore};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::store::times::{micros, moment};
use crate::core::store::{OpenError, Store, StoreError};

/// Refused reports that are kept; older ones go. Those that count are bounded by the jobs that completed.
const REFUSED_MAX: u32 = 10_000;

/// Characters of the details that are kept of a refused report.
const REFUSED_DETAILS_CHARS: usize = 1000;

/// Reports, and entries of the blacklist, that are listed.
const LISTED_MAX: u32 = 10_000;

/// A report, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct CheatReport {
    /// The job that is in doubt.
    pub job: JobId,
    /// The same job, run on the trusted miner.
    pub trusted_job: JobId,
    /// Anything.
    pub details: Value,
    /// Who signed it, and the signature; none if nobody did.
    pub signature: Option<(Hotkey, String)>,
}

/// What follows from a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts: the miner is on the blacklist.
    Accepted {
        /// The miner.
        miner: Hotkey,
        /// Until when it gets no jobs, UTC.
        until: OffsetDateTime,
    },
    /// It does not count, and why.
    Refused(String),
    /// It was judged before.
    Repeated,
}

/// A report that was judged.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedReport {
    /// The report; of a refused one only the beginning of its details, as a text.
    pub report: CheatReport,
    /// When it came, UTC.
    pub reported_at: OffsetDateTime,
    /// The miner that ran the job, where that is known.
    pub miner: Option<Hotkey>,
    /// Why it does not count; none if it does.
    pub refusal: Option<String>,
    /// Whether the miner's collateral is still to be slashed.
    pub slash_due: bool,
}

/// A miner that gets no jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blacklisted {
    /// The miner.
    pub miner: Hotkey,
    /// Because of which job.
    pub job: JobId,
    /// The word for why.
    pub reason: String,
    /// Since when, UTC.
    pub since: OffsetDateTime,
    /// Until when, UTC.
    pub until: OffsetDateTime,
}

impl ValidatorStore {
    /// Opens the file of a validator that may be running, for short reads.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open_beside(path, MIGRATIONS)?;
        Ok(Self { store })
    }

    /// Judges a report and keeps it with what follows, all of it or nothing; `refusal` says why it does not count
    /// whatever is known of the job. A report that counts puts the miner on the blacklist for `blacklist`.
    pub async fn judge_cheat(
        &self,
        report: CheatReport,
        refusal: Option<String>,
        blacklist: Duration,
        now: OffsetDateTime,
    ) -> Result<Verdict, StoreError> {
        let change = move |connection: &Connection| {
            let (miner, refusal) = match refusal {
                Some(refusal) => (None, Some(refusal)),
                None => judge(connection, &report.job)?,
            };
            if was_judged(connection, &report, refusal.as_deref())? {
                return Ok(Verdict::Repeated);
            }
            keep(connection, &report, (miner.as_ref(), refusal.as_deref()), now)?;
            match (miner, refusal) {
                (Some(miner), None) => {
                    let until = now + blacklist;
                    connection.execute(
                        "INSERT INTO blacklist (miner_hotkey, job_uuid, reason, since, until)
                         VALUES (?1, ?2, 'job_cheated', ?3, ?4)",
                        (miner.as_str(), report.job.as_str(), micros(now), micros(until)),
                    )?;
                    Ok(Verdict::Accepted { miner, until })
                }
                (_, refusal) => Ok(Verdict::Refused(refusal.unwrap_or_default())),
            }
        };
        self.store.write(change).await
    }

    /// Returns the miners that get no jobs now.
    pub async fn blacklisted(&self, now: OffsetDateTime) -> Result<HashSet<Hotkey>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement =
                connection.prepare_cached("SELECT DISTINCT miner_hotkey FROM blacklist WHERE until > ?1")?;
            let miners =
                statement.query_map([micros(now)], |row| Ok(Hotkey::new(row.get::<_, String>(0)?)))?;
            Ok(miners.collect::<Result<_, _>>()?)
        };
        self.store.read(query).await
    }

    /// Returns the blacklist as it is now, by the time at which entries end.
    pub async fn blacklist(&self, now: OffsetDateTime) -> Result<Vec<Blacklisted>, StoreError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT miner_hotkey, job_uuid, reason, since, until FROM blacklist WHERE until > ?1
                 ORDER BY until, miner_hotkey LIMIT ?2",
            )?;
            let mut rows = statement.query((micros(now), LISTED_MAX))?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next()? {
                listed.push(Blacklisted {
                    miner: Hotkey::new(row.get::<_, String>(0)?),
                    job: JobId::new(row.get::<_, String>(1)?),
                    reason: row.get(2)?,
                    since: moment(row.get(3)?)?,
                    until: moment(row.get(4)?)?,
                });
            }
            Ok(listed)
        };
        self.store.read(query).await
    }

    /// Returns the reports, newest first.
    pub async fn cheats(&self) -> Result<Vec<JudgedReport>, StoreError> {
        let query = |connection: &Connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM cheat ORDER BY id DESC LIMIT ?1")?;
            let mut rows = statement.query([LISTED_MAX])?;
            let mut reports = Vec::new();
            while let Some(row) = rows.next()? {
                reports.push(read(row)?);
            }
            Ok(reports)
        };
        self.store.read(query).await
    }
}

/// Forgets refused reports and what is off the blacklist since before a moment.
pub(super) fn prune(connection: &Connection, before: OffsetDateTime) -> Result<(), StoreError> {
    connection.execute(
        "DELETE FROM cheat WHERE refusal IS NOT NULL AND reported_at < ?1",
        [micros(before)],
    )?;
    connection.execute("DELETE FROM blacklist WHERE until < ?1", [micros(before)])?;
    Ok(())
}

/// Returns the miner of a reported job, and why the report does not count, if it does not.
fn judge(connection: &Connection, job: &JobId) -> Result<(Option<Hotkey>, Option<String>), StoreError> {
    let known: Option<(String, Option<String>)> = connection
        .prepare_cached("SELECT state, miner_hotkey FROM job WHERE uuid = ?1")?
        .query_row([job.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (state, miner) = match known {
        Some((state, Some(miner))) => (state, Hotkey::new(miner)),
        Some((state, None)) => return Ok((None, Some(format!("no miner had the job, it is {state}")))),
        None => return Ok((None, Some("the job is not known".to_owned()))),
    };
    let reported: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM cheat WHERE job_uuid = ?1 AND refusal IS NULL)")?
        .query_row([job.as_str()], |row| row.get(0))?;
    let refusal = if miner.as_str() == Hotkey::TRUSTED_MINER {
        Some("the job ran on the trusted miner".to_owned())
    } else if state != JobStatus::Completed.as_str() {
        Some(format!("the job has not completed, it is {state}"))
    } else {
        reported.then(|| "the job is reported already".to_owned())
    };
    Ok((Some(miner), refusal))
}

/// Tells whether this very report is kept as one that counts, or as refused for the same reason.
fn was_judged(
    connection: &Connection,
    report: &CheatReport,
    refusal: Option<&str>,
) -> Result<bool, StoreError> {
    let signature = report.signature.as_ref().map(|(_, signature)| signature.as_str());
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM cheat WHERE job_uuid = ?1 AND trusted_job_uuid = ?2 AND signature IS ?3
                AND (refusal IS NULL OR refusal IS ?4))",
        )?
        .query_row(
            (
                report.job.as_str(),
                report.trusted_job.as_str(),
                signature,
                refusal,
            ),
            |row| row.get(0),
        )?)
}

fn keep(
    connection: &Connection,
    report: &CheatReport,
    (miner, refusal): (Option<&Hotkey>, Option<&str>),
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let mut details = report.details.to_string();
    if refusal.is_some() {
        let beginning: String = details.chars().take(REFUSED_DETAILS_CHARS).collect();
        details = Value::String(beginning).to_string();
    }
    connection
        .prepare_cached(
            "INSERT INTO cheat (job_uuid, trusted_job_uuid, details, signatory, signature, reported_at, miner_hotkey,
                refusal, slash_due)
             VALUES (:job, :trusted_job, :details, :signatory, :signature, :now, :miner, :refusal, :slash_due)",
        )?
        .execute(named_params! {
            ":job": report.job.as_str(),
            ":trusted_job": report.trusted_job.as_str(),
            ":details": details,
            ":signatory": report.signature.as_ref().map(|(signatory, _)| signatory.as_str()),
            ":signature": report.signature.as_ref().map(|(_, signature)| signature),
            ":now": micros(now),
            ":miner": miner.map(Hotkey::as_str),
            ":refusal": refusal,
            ":slash_due": refusal.is_none(),
        })?;
    if refusal.is_some() {
        connection
            .prepare_cached(
                "DELETE FROM cheat WHERE refusal IS NOT NULL AND id <= (SELECT id FROM cheat
                 WHERE refusal IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            )?
            .execute([REFUSED_MAX])?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> Result<JudgedReport, StoreError> {
    let hotkey =
        |column: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<String>>(column)?.map(Hotkey::new));
    let signature: Option<String> = row.get("signature")?;
    Ok(JudgedReport {
        report: CheatReport {
            job: JobId::new(row.get::<_, String>("job_uuid")?),
            trusted_job: JobId::new(row.get::<_, String>("trusted_job_uuid")?),
            details: serde_json::from_str(&row.get::<_, String>("details")?)
                .map_err(|error| StoreError::value("details", error))?,
            signature: hotkey("signatory")?.zip(signature),
        },
        reported_at: moment(row.get("reported_at")?)?,
        miner: hotkey("miner_hotkey")?,
        refusal: row.get("refusal")?,
        slash_due: row.get("slash_due")?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::Entry;
    use super::*;
    use crate::core::model::ExecutorClass;
    use crate::core::model::subnet::Axon;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::HOUR;

    fn report(job: &str, signature: &str) -> CheatReport {
        CheatReport {
            job: JobId::new(job),
            trusted_job: JobId::new("t"),
            details: serde_json::json!({"diff": 1}),
            signature: Some((Hotkey::new("user"), signature.to_owned())),
        }
    }

    async fn run(store: &ValidatorStore, job: &str, miner: &str, end: JobStatus) {
        let id = JobId::new(job);
        let class = ExecutorClass::AlwaysOnTest;
        store.admit(id.clone(), class, String::new(), NOW).await.unwrap();
        let axon = Axon {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 1,
        };
        let status = Entry::Status {
            status: end,
            frame: String::new(),
        };
        let assigned = Entry::Assigned {
            miner: Hotkey::new(miner),
            axon,
        };
        store
            .record(id, vec![assigned, status, Entry::Ended], NOW)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_report_counts_once_for_a_completed_job_and_what_does_not_count_is_kept_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let store = ValidatorStore::open(&folder.path().join("validator.sqlite")).unwrap();
        run(&store, "done", "bob", JobStatus::Completed).await;
        run(&store, "failed", "bob", JobStatus::Failed).await;
        run(&store, "trusted", Hotkey::TRUSTED_MINER, JobStatus::Completed).await;
        let unknown = store.admit(
            JobId::new("open"),
            ExecutorClass::AlwaysOnTest,
            String::new(),
            NOW,
        );
        unknown.await.unwrap();
        let judge = |report: CheatReport, refusal: Option<&str>| {
            store.judge_cheat(report, refusal.map(str::to_owned), HOUR, NOW)
        };
        for (job, refusal, words) in [
            ("done", Some("Bad signature"), "Bad signature"),
            ("nobody's", None, "the job is not known"),
            ("open", None, "no miner had the job, it is pending"),
            ("failed", None, "the job has not completed, it is failed"),
            ("trusted", None, "the job ran on the trusted miner"),
        ] {
            let verdict = judge(report(job, "1"), refusal).await.unwrap();
            assert_eq!(verdict, Verdict::Refused(words.to_owned()), "{job}");
            assert_eq!(judge(report(job, "1"), refusal).await.unwrap(), Verdict::Repeated);
        }
        let accepted = Verdict::Accepted {
            miner: Hotkey::new("bob"),
            until: NOW + HOUR,
        };
        assert_eq!(judge(report("done", "2"), None).await.unwrap(), accepted);
        assert_eq!(judge(report("done", "2"), None).await.unwrap(), Verdict::Repeated);
        let again = judge(report("done", "3"), None).await.unwrap();
        assert_eq!(again, Verdict::Refused("the job is reported already".to_owned()));

        let reports = store.cheats().await.unwrap();
        assert_eq!(reports.len(), 7);
        let counting: Vec<_> = reports.iter().filter(|report| report.refusal.is_none()).collect();
        assert_eq!(counting.len(), 1);
        assert_eq!(counting[0].report, report("done", "2"));
        assert!(counting[0].slash_due);
        assert_eq!(store.blacklist(NOW).await.unwrap().len(), 1);
        let bob = HashSet::from([Hotkey::new("bob")]);
        assert_eq!(store.blacklisted(NOW).await.unwrap(), bob);
        assert!(store.blacklisted(NOW + HOUR).await.unwrap().is_empty());
        store.prune(NOW + HOUR * 2, NOW).await.unwrap();
        assert_eq!(store.cheats().await.unwrap().len(), 1);
    }
}
