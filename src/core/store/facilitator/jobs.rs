//! The users' jobs and their histories.

use indexmap::IndexMap;
use rusqlite::{Connection, OptionalExtension, Params, Row, named_params};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::cancels::{CancelOrder, read_cancel};
use super::credit::{self, Cost, Shortfall};
use super::deliveries::{self, Delivery, Wait};
use super::requests::{self, KeyUse, RequestKey};
use super::{CrashPoint, FacilitatorStore, from_json, json};
use crate::core::model::job::JobStatus;
use crate::core::model::upload::SingleFileUpload;
use crate::core::model::volume::SimpleVolume;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::money::Bill;
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// Most bytes of job texts that one page may hold in memory (64 MiB): a job's result alone may have 16 MiB.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// Which validator shall broker it.
    pub target_validator: Hotkey,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// The image.
    pub docker_image: String,
    /// A name for a family of jobs.
    pub job_namespace: Option<String>,
    /// The user's mark; empty if there is none.
    pub tag: String,
    /// The command.
    pub args: Vec<String>,
    /// The environment, in the order in which it was signed.
    pub env: IndexMap<String, String>,
    /// Has no effect.
    pub use_gpu: bool,
    /// The folder whose files are returned; empty if none.
    pub artifacts_dir: String,
    /// Whether the validator's own miner shall run it.
    pub on_trusted_miner: bool,
    /// Seconds for the input.
    pub download_time_limit: i64,
    /// Seconds for the container.
    pub execution_time_limit: i64,
    /// Seconds for a streaming job to become reachable.
    pub streaming_start_time_limit: i64,
    /// Seconds for the output.
    pub upload_time_limit: i64,
    /// The user's certificate, if the job streams.
    pub streaming_client_cert: Option<String>,
    /// The input.
    pub volumes: Vec<SimpleVolume>,
    /// Where results go.
    pub uploads: Vec<SingleFileUpload>,
}

/// The user's signature, kept as evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSignature {
    /// Who signed.
    pub signatory: Hotkey,
    /// When, unix nanoseconds.
    pub timestamp_ns: i64,
    /// Base64 of 64 bytes.
    pub signature: String,
    /// The word of what is covered.
    pub scope: String,
}

/// One step of a job's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The state.
    pub status: JobStatus,
    /// Its details, nulls removed.
    pub metadata: Map<String, Value>,
    /// When it was stored, UTC.
    pub created_at: OffsetDateTime,
}

/// A job with its history.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The job.
    pub uuid: JobId,
    /// Who may see it.
    pub owner: Hotkey,
    /// When it was submitted, UTC.
    pub created_at: OffsetDateTime,
    /// What was asked for.
    pub spec: JobSpec,
    /// Oldest first; the first is `sent`.
    pub history: Vec<Step>,
    /// What it costs; none if it is not charged. Not looked at on insertion.
    pub cost: Option<Cost>,
    /// Its user's wish to end it; never there when a job is new.
    pub cancel: Option<CancelOrder>,
    /// How it waited for its validator; none if it was handed over at once.
    pub wait: Option<Wait>,
}

/// Which jobs of an owner are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these; all if empty.
    pub uuids: Vec<JobId>,
    /// Only those with this mark.
    pub tag: Option<String>,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// How many jobs the filter lets pass.
    pub count: u64,
    /// The jobs of the page, newest first; none if they are too large together.
    pub jobs: Option<Vec<Job>>,
}

/// What became of a step that was to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended<E> {
    /// It is stored.
    Done,
    /// No such job is brokered by this validator.
    NoSuchJob,
    /// The judge refused it.
    Refused(E),
}

/// A job as it is handed in.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The job; its history is its first step, `sent`.
    pub job: Job,
    /// The user's signature.
    pub signature: JobSignature,
    /// What is agreed about its cost; none if it is not charged.
    pub bill: Option<Bill>,
    /// By what a repetition of the request is recognised.
    pub request: Option<RequestKey>,
    /// Most jobs that its owner may have that have not ended, this one included.
    pub unfinished_max: u64,
    /// How it gets to its validator.
    pub delivery: Delivery,
}

/// What became of a job that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is stored, and what it may cost is set aside.
    Done,
    /// The same request has been stored before, as this job; nothing is stored.
    Repeated(JobId),
    /// The request's key stands for another request; nothing is stored.
    KeyTaken,
    /// Its owner has as many jobs that have not ended as it may have; nothing is stored.
    TooMany,
    /// Its user cannot pay for it; nothing is stored.
    Insufficient(Shortfall),
}

impl FacilitatorStore {
    /// Stores a job and its first step, `sent`, at the time of its submission, and sets aside what it may cost, together.
    pub async fn insert(&self, submission: Submission) -> Result<Inserted, StoreError> {
        let Submission {
            job,
            signature,
            bill,
            request,
            unfinished_max,
            delivery,
        } = submission;
        let change = move |connection: &Connection| {
            // A repetition is never refused, for want of room or of money.
            if let Some(request) = &request {
                match requests::key_use(connection, &job.owner, request, job.created_at)? {
                    KeyUse::Free => {}
                    KeyUse::Same(uuid) => return Ok(Inserted::Repeated(uuid)),
                    KeyUse::Other => return Ok(Inserted::KeyTaken),
                }
            }
            if requests::tally(connection, &job.owner)?.unfinished >= unfinished_max {
                return Ok(Inserted::TooMany);
            }
            let mut payment = None;
            if let Some(bill) = bill {
                match credit::purse(connection, &job.owner, &bill)? {
                    Ok(purse) => payment = Some((purse, bill)),
                    Err(shortfall) => return Ok(Inserted::Insufficient(shortfall)),
                }
            }
            let spec = &job.spec;
            connection
                .prepare_cached(
                    "INSERT INTO jobs (uuid, owner, created_us, target_validator, executor_class, docker_image,
                        job_namespace, tag, args, env, use_gpu, artifacts_dir, on_trusted_miner,
                        download_time_limit, execution_time_limit, streaming_start_time_limit, upload_time_limit,
                        streaming_client_cert, volumes, uploads, signatory, signature_timestamp_ns, signature,
                        signature_scope)
                     VALUES (:uuid, :owner, :created_us, :target_validator, :executor_class, :docker_image,
                        :job_namespace, :tag, :args, :env, :use_gpu, :artifacts_dir, :on_trusted_miner,
                        :download_time_limit, :execution_time_limit, :streaming_start_time_limit,
                        :upload_time_limit, :streaming_client_cert, :volumes, :uploads, :signatory,
                        :signature_timestamp_ns, :signature, :signature_scope)",
                )?
                .execute(named_params! {
                    ":uuid": job.uuid.as_str(),
                    ":owner": job.owner.as_str(),
                    ":created_us": micros(job.created_at),
                    ":target_validator": spec.target_validator.as_str(),
                    ":executor_class": spec.executor_class.as_str(),
                    ":docker_image": spec.docker_image,
                    ":job_namespace": spec.job_namespace,
                    ":tag": spec.tag,
                    ":args": json("arguments", &spec.args)?,
                    ":env": json("environment", &spec.env)?,
                    ":use_gpu": spec.use_gpu,
                    ":artifacts_dir": spec.artifacts_dir,
                    ":on_trusted_miner": spec.on_trusted_miner,
                    ":download_time_limit": spec.download_time_limit,
                    ":execution_time_limit": spec.execution_time_limit,
                    ":streaming_start_time_limit": spec.streaming_start_time_limit,
                    ":upload_time_limit": spec.upload_time_limit,
                    ":streaming_client_cert": spec.streaming_client_cert,
                    ":volumes": json("volumes", &spec.volumes)?,
                    ":uploads": json("uploads", &spec.uploads)?,
                    ":signatory": signature.signatory.as_str(),
                    ":signature_timestamp_ns": signature.timestamp_ns,
                    ":signature": signature.signature,
                    ":signature_scope": signature.scope,
                })?;
            let seq = connection.last_insert_rowid();
            if let Some((purse, bill)) = payment {
                credit::reserve(connection, (seq, &job.uuid), &purse, &bill, job.created_at)?;
            }
            deliveries::open(connection, seq, &job, &delivery)?;
            for (position, step) in (0_i64..).zip(&job.history) {
                insert_step(connection, seq, position, step)?;
            }
            if let Some(request) = &request {
                requests::take_key(connection, &job.owner, request, seq, job.created_at)?;
            }
            Ok(Inserted::Done)
        };
        self.step(CrashPoint::Submitted, change).await
    }

    /// Appends a step to a job brokered by `validator`, unless `judge`, who sees the states so far, refuses it; a step that
    /// ends the job settles its bill.
    pub async fn append<E, F>(
        &self,
        job: &JobId,
        validator: &Hotkey,
        step: Step,
        judge: F,
    ) -> Result<Appended<E>, StoreError>
    where
        E: Send + 'static,
        F: FnOnce(&[JobStatus]) -> Result<(), E> + Send + 'static,
    {
        let (job, validator) = (job.clone(), validator.clone());
        let point = if step.status.is_terminal() {
            CrashPoint::Ended
        } else {
            CrashPoint::Status
        };
        let change = move |connection: &Connection| {
            let seq: Option<i64> = connection
                .prepare_cached("SELECT seq FROM jobs WHERE uuid = ?1 AND target_validator = ?2")?
                .query_row((job.as_str(), validator.as_str()), |row| row.get(0))
                .optional()?;
            let Some(seq) = seq else {
                return Ok(Appended::NoSuchJob);
            };
            let states = connection
                .prepare_cached("SELECT status FROM steps WHERE job = ?1 ORDER BY position")?
                .query_map((seq,), |row| row.get::<_, String>(0))?
                .map(|word| Ok(JobStatus::from_word(&word?)))
                .collect::<Result<Vec<_>, StoreError>>()?;
            if let Err(refusal) = judge(&states) {
                return Ok(Appended::Refused(refusal));
            }
            let position = i64::try_from(states.len()).map_err(|e| StoreError::value("history", e))?;
            insert_step(connection, seq, position, &step)?;
            Ok(Appended::Done)
        };
        self.step(point, change).await
    }

    /// Returns a job of an owner.
    pub async fn job(&self, owner: &Hotkey, uuid: &JobId) -> Result<Option<Job>, StoreError> {
        let (owner, uuid) = (owner.clone(), uuid.clone());
        let query = move |connection: &Connection| {
            let sql = "SELECT * FROM jobs WHERE uuid = ?1 AND owner = ?2";
            read_whole(connection, sql, (uuid.as_str(), owner.as_str()))
        };
        self.store.read(query).await
    }

    /// Returns `limit` jobs of an owner, newest first, after skipping `offset`.
    pub async fn page(
        &self,
        owner: &Hotkey,
        filter: &Filter,
        offset: u64,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let (owner, filter) = (owner.clone(), filter.clone());
        let query = move |connection: &Connection| {
            let condition = match (filter.uuids.is_empty(), filter.tag.is_some()) {
                (true, false) => "owner = :owner AND :uuids = '' AND :tag IS NULL",
                (true, true) => "owner = :owner AND :uuids = '' AND tag = :tag",
                (false, false) => {
                    "owner = :owner AND uuid IN (SELECT value FROM json_each(:uuids)) AND :tag IS NULL"
                }
                (false, true) => {
                    "owner = :owner AND uuid IN (SELECT value FROM json_each(:uuids)) AND tag = :tag"
                }
            };
            let uuids = if filter.uuids.is_empty() {
                String::new()
            } else {
                json("filter", &filter.uuids)?
            };
            let count = if filter == Filter::default() {
                requests::tally(connection, &owner)?.jobs
            } else {
                let count: i64 = connection
                    .prepare_cached(&format!("SELECT count(*) FROM jobs WHERE {condition}"))?
                    .query_row(
                        named_params! {":owner": owner.as_str(), ":uuids": uuids, ":tag": filter.tag},
                        |row| row.get(0),
                    )?;
                u64::try_from(count).map_err(|e| StoreError::value("count", e))?
            };
            let offset = i64::try_from(offset).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(&format!(
                "SELECT * FROM jobs WHERE {condition} ORDER BY seq DESC LIMIT :limit OFFSET :offset"
            ))?;
            let rows = statement.query_map(
                named_params! {
                    ":owner": owner.as_str(), ":uuids": uuids, ":tag": filter.tag,
                    ":limit": limit, ":offset": offset
                },
                |row| Ok(read_job(row)),
            )?;
            let mut jobs = Vec::new();
            let mut bytes = 0_usize;
            for row in rows {
                let (seq, mut job, job_bytes) = row??;
                let history_bytes;
                (job.history, history_bytes) = read_history(connection, seq)?;
                job.cost = credit::cost_of(connection, seq)?;
                job.cancel = read_cancel(connection, seq)?;
                job.wait = deliveries::wait(connection, seq)?;
                bytes = bytes.saturating_add(job_bytes).saturating_add(history_bytes);
                if bytes > PAGE_BYTES_MAX && limit > 1 {
                    return Ok(Page { count, jobs: None });
                }
                jobs.push(job);
            }
            Ok(Page {
                count,
                jobs: Some(jobs),
            })
        };
        self.store.read(query).await
    }
}

/// Writes a step; every end of a job, whoever causes it, goes through here, so that its bill is settled with it.
fn insert_step(connection: &Connection, seq: i64, position: i64, step: &Step) -> Result<(), StoreError> {
    if step.status.is_terminal() {
        credit::settle(connection, seq, step)?;
    }
    connection
        .prepare_cached(
            "INSERT INTO steps (job, position, status, metadata, created_us) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            seq,
            position,
            step.status.as_str(),
            json("metadata", &step.metadata)?,
            micros(step.created_at),
        ))?;
    Ok(())
}

/// Returns the job that a statement finds, with all that is kept of it.
pub(super) fn read_whole(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<Option<Job>, StoreError> {
    let found = connection
        .prepare_cached(sql)?
        .query_row(parameters, |row| Ok(read_job(row)))
        .optional()?
        .transpose()?;
    let Some((seq, mut job, _)) = found else {
        return Ok(None);
    };
    (job.history, _) = read_history(connection, seq)?;
    job.cost = credit::cost_of(connection, seq)?;
    job.cancel = read_cancel(connection, seq)?;
    job.wait = deliveries::wait(connection, seq)?;
    Ok(Some(job))
}

/// Reads a row of `jobs` and how many bytes its texts have.
pub(super) fn read_job(row: &Row<'_>) -> Result<(i64, Job, usize), StoreError> {
    let text = |column: &str| row.get::<_, String>(column);
    let (args, env) = (text("args")?, text("env")?);
    let (volumes, uploads) = (text("volumes")?, text("uploads")?);
    let bytes = args.len() + env.len() + volumes.len() + uploads.len();
    let spec = JobSpec {
        target_validator: Hotkey::new(text("target_validator")?),
        executor_class: text("executor_class")?
            .parse()
            .map_err(|error| StoreError::value("executor class", error))?,
        docker_image: text("docker_image")?,
        job_namespace: row.get("job_namespace")?,
        tag: text("tag")?,
        args: from_json("arguments", &args)?,
        env: from_json("environment", &env)?,
        use_gpu: row.get("use_gpu")?,
        artifacts_dir: text("artifacts_dir")?,
        on_trusted_miner: row.get("on_trusted_miner")?,
        download_time_limit: row.get("download_time_limit")?,
        execution_time_limit: row.get("execution_time_limit")?,
        streaming_start_time_limit: row.get("streaming_start_time_limit")?,
        upload_time_limit: row.get("upload_time_limit")?,
        streaming_client_cert: row.get("streaming_client_cert")?,
        volumes: from_json("volumes", &volumes)?,
        uploads: from_json("uploads", &uploads)?,
    };
    let job = Job {
        uuid: JobId::new(text("uuid")?),
        owner: Hotkey::new(text("owner")?),
        created_at: moment(row.get("created_us")?)?,
        spec,
        history: Vec::new(),
        cost: None,
        cancel: None,
        wait: None,
    };
    Ok((row.get("seq")?, job, bytes))
}

/// Reads a job's steps and how many bytes their details have.
pub(super) fn read_history(connection: &Connection, seq: i64) -> Result<(Vec<Step>, usize), StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT status, metadata, created_us FROM steps WHERE job = ?1 ORDER BY position")?;
    let rows = statement.query_map((seq,), |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
        ))
    })?;
    let mut bytes = 0_usize;
    let mut history = Vec::new();
    for row in rows {
        let (status, metadata, created_us) = row?;
        bytes = bytes.saturating_add(metadata.len());
        history.push(Step {
            status: JobStatus::from_word(&status),
            metadata: from_json("metadata", &metadata)?,
            created_at: moment(created_us)?,
        });
    }
    Ok((history, bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn job(number: u32, tag: &str) -> Job {
        let created_at = OffsetDateTime::from_unix_timestamp(1_800_000_000 + i64::from(number)).unwrap();
        Job {
            uuid: JobId::new(format!("00000000-0000-4000-8000-{number:012}")),
            owner: Hotkey::new("owner"),
            created_at,
            spec: JobSpec {
                target_validator: Hotkey::new("validator"),
                executor_class: ExecutorClass::AlwaysOnTest,
                docker_image: "busybox".to_owned(),
                job_namespace: None,
                tag: tag.to_owned(),
                args: vec!["echo".to_owned()],
                env: IndexMap::from([("B".to_owned(), "2".to_owned()), ("A".to_owned(), "ż".to_owned())]),
                use_gpu: true,
                artifacts_dir: String::new(),
                on_trusted_miner: false,
                download_time_limit: 1,
                execution_time_limit: -2,
                streaming_start_time_limit: 3,
                upload_time_limit: 4,
                streaming_client_cert: None,
                volumes: Vec::new(),
                uploads: Vec::new(),
            },
            history: vec![Step {
                status: JobStatus::Sent,
                metadata: Map::new(),
                created_at,
            }],
            cost: None,
            cancel: None,
            wait: None,
        }
    }

    pub(in super::super) fn signature() -> JobSignature {
        JobSignature {
            signatory: Hotkey::new("owner"),
            timestamp_ns: 1,
            signature: "c2ln".to_owned(),
            scope: "SignedFields".to_owned(),
        }
    }

    pub(in super::super) fn submission(job: &Job) -> Submission {
        Submission {
            job: job.clone(),
            signature: signature(),
            bill: None,
            request: None,
            unfinished_max: 100,
            delivery: Delivery {
                is_pushed: true,
                deliver_until: job.created_at,
                budget: time::Duration::MINUTE,
            },
        }
    }

    pub(in super::super) fn open() -> (tempfile::TempDir, FacilitatorStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_job_is_read_as_it_was_stored_and_only_by_its_owner() {
        let (_folder, store) = open();
        let stored = job(1, "");
        store.insert(submission(&stored)).await.unwrap();
        let read = store.job(&stored.owner, &stored.uuid).await.unwrap().unwrap();
        assert_eq!(read, stored);
        assert!(read.spec.env.keys().eq(["B", "A"]), "order is kept");
        let other = store.job(&Hotkey::new("other"), &stored.uuid).await.unwrap();
        assert_eq!(other, None);
    }

    #[tokio::test]
    async fn pages_are_newest_first_and_filtered() {
        let (_folder, store) = open();
        for number in 0..5 {
            let tag = if number == 3 { "mine" } else { "" };
            store.insert(submission(&job(number, tag))).await.unwrap();
        }
        let owner = Hotkey::new("owner");
        let page = store.page(&owner, &Filter::default(), 1, 2).await.unwrap();
        assert_eq!(page.count, 5);
        let uuids: Vec<_> = page.jobs.unwrap().into_iter().map(|job| job.uuid).collect();
        assert_eq!(uuids, [job(3, "").uuid, job(2, "").uuid]);
        let filter = Filter {
            uuids: vec![job(0, "").uuid, job(3, "").uuid],
            tag: None,
        };
        assert_eq!(store.page(&owner, &filter, 0, 9).await.unwrap().count, 2);
        let filter = Filter {
            tag: Some("mine".to_owned()),
            ..filter
        };
        assert_eq!(store.page(&owner, &filter, 0, 9).await.unwrap().count, 1);
        let filter = Filter {
            uuids: Vec::new(),
            ..filter
        };
        assert_eq!(store.page(&owner, &filter, 0, 9).await.unwrap().count, 1);
    }

    #[tokio::test]
    async fn a_step_is_appended_for_the_jobs_validator_and_if_the_judge_agrees() {
        let (_folder, store) = open();
        let stored = job(1, "");
        store.insert(submission(&stored)).await.unwrap();
        let validator = Hotkey::new("validator");
        let step = |status| Step {
            status,
            metadata: Map::new(),
            created_at: stored.created_at,
        };
        let agree = |_: &[JobStatus]| Ok::<_, &str>(());
        let other = store
            .append(&stored.uuid, &Hotkey::new("x"), step(JobStatus::Received), agree)
            .await
            .unwrap();
        assert_eq!(other, Appended::NoSuchJob);
        let refused = store
            .append(&stored.uuid, &validator, step(JobStatus::Received), |states| {
                assert_eq!(states, [JobStatus::Sent]);
                Err("no")
            })
            .await
            .unwrap();
        assert_eq!(refused, Appended::Refused("no"));
        let done = store
            .append(&stored.uuid, &validator, step(JobStatus::Failed), agree)
            .await
            .unwrap();
        assert_eq!(done, Appended::Done);
        // Whatever a judge says, the schema lets a job end once.
        let twice = store
            .append(&stored.uuid, &validator, step(JobStatus::Completed), agree)
            .await;
        assert!(twice.unwrap_err().is_constraint());
    }
}
