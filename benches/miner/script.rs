//! What validators and executors say in the course of a job.

use horde::core::clock::Clock;
use horde::core::crypto::{Keypair, signed};
use horde::core::model::job::{ExecutorTiming, RunPreset};
use horde::core::model::{ExecutorClass, Hotkey, JobId};
use horde::core::proto::frame;
use horde::core::proto::job::{ExecutionDone, ExecutorReady, FullJob, InitialJob, JobFinished, VolumesReady};
use horde::core::proto::miner_executor;
use horde::core::proto::validator_miner::{AcceptedReceipt, Authenticate, Down, FinishedReceipt};
use horde::core::receipts::{self, About, Work};

use crate::Failure;

/// The class of all jobs.
pub(crate) const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// The image that is named, and never looked for.
const IMAGE: &str = "horde-sample:latest";

/// Seconds that the receipts of a job speak of.
const SECONDS: i64 = 30;

/// Which validators are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Those of the baseline, as when the reference was measured: they sign themselves and their receipts.
    Baseline,
    /// Those of the published 0.0.27, which sign the request and the order besides (`validator_signature`).
    Published,
}

/// Everything that is said about one job, made and signed before the clock runs; only authentication is fresh.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) validator: Keypair,
    pub(crate) job: String,
    pub(crate) initial: String,
    pub(crate) accepted: String,
    pub(crate) order: String,
    pub(crate) ready: String,
    pub(crate) volumes: String,
    pub(crate) done: String,
    pub(crate) finished: String,
    pub(crate) receipt: String,
}

impl Script {
    /// Writes the script of a new job.
    pub(crate) fn new(
        validator: &Keypair,
        miner: &Hotkey,
        clock: &Clock,
        generation: Generation,
    ) -> Result<Self, Failure> {
        let job_uuid = JobId::new(uuid::Uuid::new_v4().to_string());
        let now = clock.now();
        let about = About {
            job_uuid: &job_uuid,
            miner,
            now,
        };
        let accepted = receipts::sign_accepted(validator, about, now, SECONDS)?;
        let work = Work {
            started: now,
            took: time::Duration::milliseconds(1500),
            score: 30.0,
            block_numbers: vec![1],
        };
        let receipt = receipts::sign_finished(validator, about, work)?;
        let executor = |message: miner_executor::Up| message.encode();
        Ok(Self {
            validator: validator.clone(),
            job: job_uuid.to_string(),
            initial: initial(validator, about, generation)?,
            accepted: Down::from(AcceptedReceipt {
                payload: accepted.payload,
                signature: accepted.signature,
            })
            .encode(),
            order: order(validator, &job_uuid, generation),
            ready: executor(
                ExecutorReady {
                    job_uuid: job_uuid.clone(),
                    executor_token: None,
                }
                .into(),
            ),
            volumes: executor(
                VolumesReady {
                    job_uuid: job_uuid.clone(),
                }
                .into(),
            ),
            done: executor(
                ExecutionDone {
                    job_uuid: job_uuid.clone(),
                }
                .into(),
            ),
            finished: executor(
                JobFinished {
                    job_uuid,
                    docker_process_stdout: "hello\n".to_owned(),
                    docker_process_stderr: String::new(),
                    artifacts: Some(indexmap::IndexMap::new()),
                    upload_results: Some(indexmap::IndexMap::new()),
                }
                .into(),
            ),
            receipt: Down::from(FinishedReceipt {
                payload: receipt.payload,
                signature: receipt.signature,
            })
            .encode(),
        })
    }
}

/// Returns the first frame of a connection.
pub(crate) fn authentication(validator: &Keypair, miner: &Hotkey, clock: &Clock) -> String {
    let timestamp = clock.unix_seconds();
    let blob = signed::auth_blob(validator.hotkey(), miner, timestamp);
    Down::from(Authenticate {
        validator_hotkey: validator.hotkey().clone(),
        miner_hotkey: miner.clone(),
        timestamp,
        signature: validator.sign(&blob).to_hex_prefixed(),
    })
    .encode()
}

fn initial(validator: &Keypair, about: About<'_>, generation: Generation) -> Result<String, Failure> {
    let started = receipts::sign_started(validator, about, CLASS, true, 7)?;
    let mut message = InitialJob {
        validator_signature: None,
        job_uuid: about.job_uuid.clone(),
        executor_class: CLASS,
        docker_image: Some(IMAGE.to_owned()),
        timeout_seconds: Some(300),
        volume: None,
        job_started_receipt_payload: started.payload,
        job_started_receipt_signature: started.signature,
        streaming_details: None,
        executor_timing: Some(ExecutorTiming {
            allowed_leeway: 5,
            download_time_limit: 10,
            execution_time_limit: 10,
            upload_time_limit: 10,
            streaming_start_time_limit: 5,
        }),
    };
    if generation == Generation::Published {
        let blob = signed::message_blob(&frame::to_object(&message));
        message.validator_signature = Some(validator.sign(&blob).to_hex_prefixed());
    }
    Ok(Down::from(message).encode())
}

fn order(validator: &Keypair, job: &JobId, generation: Generation) -> String {
    let mut message = FullJob {
        validator_signature: None,
        job_uuid: job.clone(),
        executor_class: CLASS,
        docker_image: IMAGE.to_owned(),
        raw_script: None,
        docker_run_options_preset: RunPreset::None,
        docker_run_cmd: ["echo", "hello"].map(str::to_owned).to_vec(),
        env: indexmap::IndexMap::new(),
        volume: None,
        output_upload: None,
        artifacts_dir: None,
    };
    if generation == Generation::Published {
        let blob = signed::message_blob(&frame::to_object(&message));
        message.validator_signature = Some(validator.sign(&blob).to_hex_prefixed());
    }
    Down::from(message).encode()
}
