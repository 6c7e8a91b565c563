//! A job as the facilitator sees it: which steps may follow, what users see, what validators get. No IO.

use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::core::model::Timestamp;
use crate::core::model::job::{HordeReason, JobStatus, Participant, StreamingDetails};
use crate::core::model::upload::{MultiUpload, OutputUpload};
use crate::core::model::volume::{MultiVolume, Volume};
use crate::core::proto::facilitator_validator::{
    HordeFailure, JobNewWord, JobRequest, Response, Signature, StatusMetadata,
};
use crate::core::proto::sdk_facilitator::{CancelView, HordeView, JobView, StatusEntry, legacy_label};
use crate::core::store::facilitator::{Job, Step};

/// How old the last sign of life of a validator may be for it to get jobs (wire-facilitator-validator §5).
pub(super) const DISPATCH_WITHIN: Duration = Duration::from_secs(3 * 60);

/// After which silence a validator's link is closed (wire-facilitator-validator §5).
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(10 * 60);

/// How old the list of active validators may be; also what the refusal of an unknown validator promises
/// (wire-facilitator-validator §2: five minutes).
pub(super) const ACTIVE_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Why a validator's status is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepRefusal {
    /// The job has had this state.
    Repeated,
    /// The job has ended in this state.
    Ended(JobStatus),
    /// The state is unknown to this build; the reference stores it and cannot show the job afterwards.
    Unknown,
}

impl StepRefusal {
    /// Returns the answer to the validator.
    pub(super) fn response(self) -> Response {
        match self {
            Self::Repeated => Response::error(
                "job.integrity_error",
                "Integrity error",
                "Probably you are trying to set the same status twice?",
            ),
            Self::Ended(status) => Response::error(
                "job.integrity_error",
                "Integrity error",
                format!("The job has ended as {status}; nothing can follow"),
            ),
            Self::Unknown => Response::error(
                "job.unknown_status",
                "Unknown status",
                "This facilitator does not know the status; it was not stored",
            ),
        }
    }
}

/// Decides whether `next` may follow the states that a job has had, oldest first.
///
/// The reference takes any order, even after an end state; here a job ends once.
pub(super) fn judge(states: &[JobStatus], next: JobStatus) -> Result<(), StepRefusal> {
    if next == JobStatus::Unknown {
        return Err(StepRefusal::Unknown);
    }
    if states.contains(&next) {
        return Err(StepRefusal::Repeated);
    }
    match states.iter().find(|status| status.is_terminal()) {
        Some(end) => Err(StepRefusal::Ended(*end)),
        None => Ok(()),
    }
}

/// Returns a status' details as they are stored: an object without nulls at any depth.
pub(super) fn stored_metadata(metadata: Option<&StatusMetadata>) -> Map<String, Value> {
    match metadata.map(serde_json::to_value) {
        Some(Ok(Value::Object(fields))) => without_nulls(fields),
        _ => Map::new(),
    }
}

fn without_nulls(fields: Map<String, Value>) -> Map<String, Value> {
    fields
        .into_iter()
        .filter_map(|(key, value)| match value {
            Value::Null => None,
            Value::Object(inner) => Some((key, Value::Object(without_nulls(inner)))),
            other => Some((key, other)),
        })
        .collect()
}

/// Returns the details of a job that could not be handed to its validator.
pub(super) fn undelivered() -> StatusMetadata {
    StatusMetadata {
        horde_failure_details: Some(HordeFailure {
            reported_by: Participant::Facilitator,
            reason: HordeReason::GenericError,
            message: "The connection to the validator was lost before the job could be sent".to_owned(),
            context: None,
        }),
        ..StatusMetadata::default()
    }
}

/// Returns a job as users see it.
pub(super) fn view(job: Job) -> JobView {
    let Job {
        uuid,
        created_at,
        spec,
        history,
        cancel,
        ..
    } = job;
    let last = history.last();
    let stream = |key: &str| {
        last.and_then(|step| step.metadata.get("miner_response"))
            .and_then(|response| response.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let response = metadata_of(&history, JobStatus::Completed).and_then(|m| m.get("miner_response"));
    let streaming = metadata_of(&history, JobStatus::StreamingReady).and_then(|m| m.get("streaming_details"));
    let server = |key: &str| {
        streaming
            .and_then(|details| details.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    JobView {
        uuid,
        executor_class: spec.executor_class,
        created_at: Timestamp::new(created_at),
        last_update: last.map(|step| Timestamp::new(step.created_at)),
        status: last.map_or("", |step| legacy_label(step.status)).to_owned(),
        docker_image: spec.docker_image,
        job_namespace: spec.job_namespace,
        args: spec.args,
        env: spec.env,
        use_gpu: spec.use_gpu,
        tag: spec.tag,
        stdout: stream("docker_process_stdout"),
        stderr: stream("docker_process_stderr"),
        volumes: spec.volumes,
        uploads: spec.uploads,
        artifacts: texts(response, "artifacts"),
        artifacts_dir: spec.artifacts_dir,
        target_validator_hotkey: spec.target_validator,
        on_trusted_miner: spec.on_trusted_miner,
        upload_results: texts(response, "upload_results"),
        download_time_limit: spec.download_time_limit,
        execution_time_limit: spec.execution_time_limit,
        streaming_start_time_limit: spec.streaming_start_time_limit,
        upload_time_limit: spec.upload_time_limit,
        streaming_client_cert: spec.streaming_client_cert.unwrap_or_default(),
        streaming_server_cert: server("streaming_server_cert"),
        streaming_server_address: server("streaming_server_address"),
        streaming_server_port: streaming
            .and_then(|details| details.get("streaming_server_port"))
            .and_then(Value::as_i64)
            .unwrap_or(0),
        status_history: history
            .into_iter()
            .map(|step| StatusEntry {
                status: step.status,
                metadata: step.metadata,
                created_at: Timestamp::new(step.created_at),
            })
            .collect(),
        horde: HordeView {
            cancel: cancel.map(|order| CancelView {
                asked_at: Timestamp::new(order.asked_at),
                refused: order.refused,
            }),
        },
    }
}

fn metadata_of(history: &[Step], status: JobStatus) -> Option<&Map<String, Value>> {
    history
        .iter()
        .find(|step| step.status == status)
        .map(|step| &step.metadata)
}

/// Returns an object's texts under a key of a miner's response.
fn texts(response: Option<&Value>, key: &str) -> IndexMap<String, String> {
    let Some(Value::Object(entries)) = response.and_then(|response| response.get(key)) else {
        return IndexMap::new();
    };
    entries
        .iter()
        .filter_map(|(path, text)| Some((path.clone(), text.as_str()?.to_owned())))
        .collect()
}

/// Returns a job as its validator gets it.
pub(super) fn push(job: &Job, signature: Signature) -> JobRequest {
    let spec = &job.spec;
    JobRequest {
        signature: Some(signature),
        r#type: JobNewWord,
        uuid: job.uuid.clone(),
        job_namespace: spec.job_namespace.clone(),
        executor_class: spec.executor_class,
        docker_image: spec.docker_image.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        use_gpu: spec.use_gpu,
        volume: (!spec.volumes.is_empty()).then(|| {
            Volume::Multi(MultiVolume {
                volumes: spec.volumes.clone(),
            })
        }),
        output_upload: (!spec.uploads.is_empty()).then(|| {
            OutputUpload::Multi(MultiUpload {
                uploads: spec.uploads.clone(),
                system_output: None,
            })
        }),
        artifacts_dir: (!spec.artifacts_dir.is_empty()).then(|| spec.artifacts_dir.clone()),
        on_trusted_miner: spec.on_trusted_miner,
        download_time_limit: spec.download_time_limit,
        execution_time_limit: spec.execution_time_limit,
        upload_time_limit: spec.upload_time_limit,
        streaming_start_time_limit: spec.streaming_start_time_limit,
        streaming_details: spec
            .streaming_client_cert
            .as_ref()
            .map(|public_key| StreamingDetails {
                public_key: public_key.clone(),
                executor_ip: None,
            }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_has_each_state_once_and_ends_once() {
        use JobStatus::{Accepted, Completed, Failed, Received, Sent, Unknown};
        assert_eq!(judge(&[Sent], Received), Ok(()));
        assert_eq!(
            judge(&[Sent, Accepted], Received),
            Ok(()),
            "any order before the end"
        );
        assert_eq!(judge(&[Sent, Received], Received), Err(StepRefusal::Repeated));
        assert_eq!(judge(&[Sent], Sent), Err(StepRefusal::Repeated));
        assert_eq!(judge(&[Sent, Completed], Completed), Err(StepRefusal::Repeated));
        assert_eq!(
            judge(&[Sent, Completed], Failed),
            Err(StepRefusal::Ended(Completed))
        );
        assert_eq!(judge(&[Sent, Failed], Received), Err(StepRefusal::Ended(Failed)));
        assert_eq!(judge(&[Sent], Unknown), Err(StepRefusal::Unknown));
    }

    #[test]
    fn nulls_are_not_stored_at_any_depth_and_texts_of_artifacts_are() {
        let metadata: StatusMetadata = serde_json::from_value(json!({
            "miner_response": {"docker_process_stderr": "", "docker_process_stdout": "x", "artifacts": {"/a": "YQ=="},
                "upload_results": null},
            "job_failure_details": null,
        }))
        .unwrap();
        assert_eq!(
            Value::Object(stored_metadata(Some(&metadata))),
            json!({"miner_response": {"docker_process_stderr": "", "docker_process_stdout": "x",
                "artifacts": {"/a": "YQ=="}}})
        );
        assert_eq!(stored_metadata(None), Map::new());
    }
}
