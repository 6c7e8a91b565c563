//! A job as the facilitator sees it: which steps may follow, what users see, what validators get. No IO.

use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::core::model::Timestamp;
use crate::core::model::job::{HordeReason, JobStatus, Participant, StreamingDetails};
use crate::core::model::upload::{MultiUpload, OutputUpload};
use crate::core::model::volume::{MultiVolume, Volume};
use crate::core::proto::facilitator_validator::{
    HordeFailure, JobNewWord, JobRequest, Response, Signature, SignatureScope, StatusMetadata,
};
use crate::core::proto::job::Context;
use crate::core::proto::sdk_facilitator::{
    CancelView, CostView, DeliveryView, HordeView, JobView, StatusEntry, legacy_label,
};
use crate::core::proto::signing::SIGNATURE_TYPE;
use crate::core::store::facilitator::{Delivery, Job, JobSignature, JobSpec, Overdue, Step};

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

/// What a validator may take for a job beyond the job's limits and its class's spin-up, before the facilitator ends it:
/// 600 s of the reference's validator for its worker, and 300 s in which it repeats a status (wire-facilitator-validator
/// §4, §5).
pub(super) const BUDGET_SLACK: time::Duration = time::Duration::seconds(900);

/// How long a job waits for its validator at least, however short its limits: a validator comes back within seconds.
pub(super) const DELIVER_WITHIN_MIN: time::Duration = time::Duration::seconds(60);

/// The longest time that a job's limits count with: after seven days the reference forgets a job.
const LIMITS_MAX_SECONDS: i64 = 7 * 86_400;

/// Returns the seconds that a job's user has granted it.
fn limits(spec: &JobSpec) -> i64 {
    let mut limits = vec![
        spec.download_time_limit,
        spec.execution_time_limit,
        spec.upload_time_limit,
    ];
    if spec.streaming_client_cert.is_some() {
        limits.push(spec.streaming_start_time_limit);
    }
    let sum = limits
        .into_iter()
        .fold(0, |sum: i64, limit| sum.saturating_add(limit.max(0)));
    sum.min(LIMITS_MAX_SECONDS)
}

/// Returns until when a job may be delivered, and how long its validator has for it.
pub(super) fn delivery(spec: &JobSpec, submitted: OffsetDateTime, is_pushed: bool) -> Delivery {
    let limits = time::Duration::seconds(limits(spec));
    Delivery {
        is_pushed,
        deliver_until: submitted + limits.max(DELIVER_WITHIN_MIN),
        budget: limits + time::Duration::seconds(spec.executor_class.spin_up_seconds()) + BUDGET_SLACK,
    }
}

/// Returns the details of a job that the facilitator ends because nobody else did.
pub(super) fn overdue(job: &Overdue, now: OffsetDateTime) -> StatusMetadata {
    let waited = (now - job.waiting_since).whole_seconds();
    let message = match job.pushed_at {
        None => format!(
            "The validator was not connected for {waited} s, until the job's time limits were over; the job was not \
             delivered and has not run"
        ),
        Some(_) => format!(
            "The validator did not report how the job ended within {} s, which are the job's time limits, the spin-up \
             of its executor class and {} s for the road; the last that it reported was {}",
            job.budget.whole_seconds(),
            BUDGET_SLACK.whole_seconds(),
            if job.last == JobStatus::Sent {
                "nothing"
            } else {
                job.last.as_str()
            },
        ),
    };
    let facts = Context::from_iter([
        ("delivered".to_owned(), Value::from(job.pushed_at.is_some())),
        ("last_status".to_owned(), Value::from(job.last.as_str())),
    ]);
    StatusMetadata {
        horde_failure_details: Some(HordeFailure {
            reported_by: Participant::Facilitator,
            reason: HordeReason::UnhandledTimeout,
            message,
            context: Some(facts),
        }),
        ..StatusMetadata::default()
    }
}

/// Returns a kept signature as it travels on.
pub(super) fn signature_of(kept: &JobSignature) -> Signature {
    Signature {
        signature_type: SIGNATURE_TYPE.to_owned(),
        signatory: kept.signatory.clone(),
        timestamp_ns: kept.timestamp_ns,
        signature: kept.signature.clone(),
        signature_scope: match kept.scope.as_str() {
            "FullRequest" => SignatureScope::FullRequest,
            _ => SignatureScope::SignedFields,
        },
    }
}

/// Returns a job as users see it.
pub(super) fn view(job: Job) -> JobView {
    let Job {
        uuid,
        created_at,
        spec,
        history,
        cost,
        cancel,
        wait,
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
            cost: cost.map(|cost| CostView {
                reserved_micro: cost.reserved.get(),
                charged_micro: cost.charged.get(),
                seconds: cost.seconds,
            }),
            cancel: cancel.map(|order| CancelView {
                asked_at: Timestamp::new(order.asked_at),
                refused: order.refused,
            }),
            delivery: wait.map(|wait| DeliveryView {
                waiting_since: Timestamp::new(wait.since),
                pushed_at: wait.pushed_at.map(Timestamp::new),
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
    use crate::core::model::{ExecutorClass, Hotkey};

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
    fn a_job_has_its_limits_a_spin_up_and_slack_and_waits_a_minute_at_least() {
        let spec = |limits: [i64; 4], streams: bool| JobSpec {
            target_validator: Hotkey::new("v"),
            executor_class: ExecutorClass::DEFAULT,
            docker_image: String::new(),
            job_namespace: None,
            tag: String::new(),
            args: Vec::new(),
            env: IndexMap::new(),
            use_gpu: false,
            artifacts_dir: String::new(),
            on_trusted_miner: false,
            download_time_limit: limits[0],
            execution_time_limit: limits[1],
            upload_time_limit: limits[2],
            streaming_start_time_limit: limits[3],
            streaming_client_cert: streams.then(String::new),
            volumes: Vec::new(),
            uploads: Vec::new(),
        };
        let start = OffsetDateTime::UNIX_EPOCH;
        let spin_up = ExecutorClass::DEFAULT.spin_up_seconds();
        for (limits, streams, wait, sum) in [
            ([10, 20, 5, 7], false, 60, 35),
            ([10, 200, 5, 7], true, 222, 222),
            ([-10, 0, 0, 0], false, 60, 0),
            ([i64::MAX, i64::MAX, 1, 1], true, 604_800, 604_800),
        ] {
            let delivery = delivery(&spec(limits, streams), start, false);
            assert_eq!(
                (delivery.deliver_until - start).whole_seconds(),
                wait,
                "{limits:?}"
            );
            assert_eq!(delivery.budget.whole_seconds(), sum + spin_up + 900, "{limits:?}");
        }
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
