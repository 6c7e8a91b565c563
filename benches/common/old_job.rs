//! A job that has ended long ago, as a facilitator of long standing has many.

use horde::core::model::job::JobStatus;
use horde::core::model::{ExecutorClass, Hotkey, JobId};
use horde::core::store::facilitator::{Delivery, Job, JobSignature, JobSpec, Step, Submission};
use serde_json::{Map, json};

/// Makes one that came and ended at `now`.
pub(crate) fn make(owner: &Hotkey, validator: &Hotkey, now: time::OffsetDateTime) -> Submission {
    let step = |status, metadata| Step {
        status,
        metadata,
        created_at: now,
    };
    let response = json!({"docker_process_stdout": "hello\n", "docker_process_stderr": ""});
    Submission {
        job: Job {
            uuid: JobId::new(uuid::Uuid::new_v4().to_string()),
            owner: owner.clone(),
            created_at: now,
            spec: JobSpec {
                target_validator: validator.clone(),
                executor_class: ExecutorClass::AlwaysOnTest,
                docker_image: "horde-sample:latest".to_owned(),
                job_namespace: None,
                tag: String::new(),
                args: ["echo", "hello"].map(str::to_owned).to_vec(),
                env: indexmap::IndexMap::new(),
                use_gpu: false,
                artifacts_dir: String::new(),
                on_trusted_miner: false,
                download_time_limit: 10,
                execution_time_limit: 10,
                streaming_start_time_limit: 5,
                upload_time_limit: 10,
                streaming_client_cert: None,
                volumes: Vec::new(),
                uploads: Vec::new(),
            },
            history: vec![
                step(JobStatus::Sent, Map::new()),
                step(JobStatus::Received, Map::new()),
                step(JobStatus::Accepted, Map::new()),
                step(JobStatus::ExecutorReady, Map::new()),
                step(JobStatus::VolumesReady, Map::new()),
                step(JobStatus::ExecutionDone, Map::new()),
                step(
                    JobStatus::Completed,
                    Map::from_iter([("miner_response".to_owned(), response)]),
                ),
            ],
            cost: None,
            cancel: None,
            wait: None,
        },
        signature: JobSignature {
            signatory: owner.clone(),
            timestamp_ns: 1,
            signature: "c2ln".to_owned(),
            scope: "SignedFields".to_owned(),
        },
        bill: None,
        request: None,
        unfinished_max: u64::MAX,
        delivery: Delivery {
            is_pushed: true,
            deliver_until: now,
            budget: time::Duration::MINUTE,
        },
    }
}
