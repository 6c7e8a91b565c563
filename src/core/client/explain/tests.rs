//! What every explanation must have, for every word of the wire.

use std::collections::HashSet;

use serde_json::json;

use super::ledger::{Progress, Stage};
use super::*;
use crate::core::model::Timestamp;
use crate::core::model::job::{FailureReason, HordeReason, JobStage, RejectionReason};

const PARTICIPANTS: [Participant; 5] = [
    Participant::Sdk,
    Participant::Facilitator,
    Participant::Validator,
    Participant::Miner,
    Participant::Executor,
];

fn at(text: &str) -> OffsetDateTime {
    Timestamp::parse(text).unwrap().moment()
}

/// A job with these steps, the last one with this metadata.
fn job(steps: &[(&str, &str)], metadata: &Value) -> JobView {
    let history: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(index, (status, at))| {
            let metadata = if index + 1 == steps.len() {
                metadata.clone()
            } else {
                json!({})
            };
            json!({"status": status, "metadata": metadata, "created_at": at})
        })
        .collect();
    serde_json::from_value(json!({
        "uuid": "u", "executor_class": "always_on.test", "created_at": "2026-11-25T18:00:00Z",
        "docker_image": "busybox:1", "args": ["work"], "env": {}, "stdout": "", "stderr": "",
        "download_time_limit": 60, "execution_time_limit": 120, "upload_time_limit": 30,
        "streaming_start_time_limit": 5, "status_history": history,
    }))
    .unwrap()
}

fn ended(status: &str, metadata: &Value) -> JobView {
    job(
        &[("sent", "2026-11-25T18:00:00Z"), (status, "2026-11-25T18:00:04Z")],
        metadata,
    )
}

/// Checks what every explanation must have, and returns it.
fn sound(job: &JobView) -> Explanation {
    let told = explain(job, at("2026-11-25T18:00:30Z"));
    assert!(told.reason.len() > 20 && told.reason.ends_with('.'), "{told:?}");
    assert!(!told.reason.contains(".."), "{}", told.reason);
    assert!(!told.code.is_empty() && !told.code.contains(' '), "{told:?}");
    assert!(told.code == "completed" || !told.remedies.is_empty(), "{told:?}");
    assert_eq!(told.waiting.is_none(), told.ended);
    told
}

#[test]
fn no_reason_of_a_rejection_lacks_an_explanation() {
    let mut sentences = HashSet::new();
    for reason in RejectionReason::ALL {
        for by in PARTICIPANTS {
            let metadata = json!({"job_rejection_details": {"rejected_by": by, "reason": reason,
                "message": format!("m {reason}")}});
            let job = ended("rejected", &metadata);
            let told = sound(&job);
            assert_eq!(told.code, format!("rejected.{reason}"));
            assert_ne!(told.blame, Blame::Nobody, "{reason} by {by}");
            assert_eq!(told.reported_by, Some(by));
            assert_eq!(verdict(&job).unwrap().ending, Some(Ending::Rejected));
            sentences.insert((reason.as_str(), told.reason));
        }
    }
    let distinct: HashSet<&String> = sentences.iter().map(|(_, sentence)| sentence).collect();
    assert_eq!(distinct.len(), sentences.len(), "two reasons read the same");
}

#[test]
fn no_reason_of_a_failure_lacks_an_explanation_in_any_stage() {
    let mut sentences = HashSet::new();
    for reason in FailureReason::ALL {
        for stage in JobStage::ALL {
            let metadata = json!({"job_failure_details": {"reason": reason, "stage": stage, "message": "m",
                "docker_process_exit_status": 3}});
            let told = sound(&ended("failed", &metadata));
            assert!(
                told.code.starts_with(&format!("failed.{reason}")),
                "{}",
                told.code
            );
            assert_ne!(told.blame, Blame::Nobody, "{reason} in {stage}");
            sentences.insert((reason.as_str(), told.reason));
        }
    }
    let distinct: HashSet<&String> = sentences.iter().map(|(_, sentence)| sentence).collect();
    assert_eq!(distinct.len(), sentences.len(), "two reasons read the same");
}

#[test]
fn no_reason_of_the_horde_lacks_an_explanation_under_either_status() {
    // What the validator itself noticed comes as `failed` (wire-facilitator-validator §4).
    for status in ["failed", "horde_failed"] {
        for reason in HordeReason::ALL {
            for by in PARTICIPANTS {
                let metadata = json!({"horde_failure_details": {"reported_by": by, "reason": reason,
                    "message": "m"}});
                let job = ended(status, &metadata);
                let told = sound(&job);
                assert_eq!(told.code, format!("horde_failed.{reason}"));
                assert_ne!(told.blame, Blame::Nobody, "{reason} by {by}");
                assert_eq!(verdict(&job).unwrap().ending, Some(Ending::Horde));
            }
        }
    }
}

#[test]
fn no_state_of_an_unfinished_job_lacks_an_explanation() {
    for status in JobStatus::ALL.iter().filter(|status| !status.is_terminal()) {
        let told = sound(&ended(status.as_str(), &json!({})));
        let waiting = told.waiting.unwrap();
        assert!(!waiting.what.is_empty());
        assert!(
            told.remedies
                .iter()
                .any(|remedy| remedy.contains("horde job wait"))
        );
    }
}

#[test]
fn an_end_without_details_is_explained_too() {
    for status in ["failed", "horde_failed", "rejected"] {
        for metadata in [json!({}), json!({"job_failure_details": 7}), json!({"x": "y"})] {
            let told = sound(&ended(status, &metadata));
            assert_eq!(told.code, format!("{status}.without_details"));
        }
    }
    assert_eq!(sound(&ended("completed", &json!({}))).blame, Blame::Nobody);
}

#[test]
fn a_cancelled_job_and_one_that_is_being_cancelled_are_told_apart() {
    let metadata = json!({"job_failure_details": {"reason": "unknown", "stage": "execution",
        "message": "cancelled by the user", "context": {"cancelled": true}}});
    let told = sound(&ended("failed", &metadata));
    assert_eq!(
        (told.status.as_str(), told.code.as_str()),
        ("cancelled", "cancelled")
    );
    assert_eq!(told.blame, Blame::User);

    let job = job(&[("sent", "2026-11-25T18:00:00Z")], &json!({}));
    let ledger = ledger(&job, at("2026-11-25T18:00:01Z"));
    let asked = json!({"cancel": {"asked_at": "2026-11-25T18:00:00Z"}});
    let (meaning, _) = waiting::waiting(&job, &ledger, &asked);
    assert_eq!(meaning.code, "cancelling.sent");
    let refused = json!({"cancel": {"asked_at": "2026-11-25T18:00:00Z", "refused": "it cannot"}});
    let (meaning, _) = waiting::waiting(&job, &ledger, &refused);
    assert_eq!(meaning.code, "waiting.sent");
}

#[test]
fn a_job_whose_validator_is_away_waits_for_it_and_says_so() {
    let job = job(&[("sent", "2026-11-25T18:00:00Z")], &json!({}));
    let ledger = ledger(&job, at("2026-11-25T18:00:20Z"));
    let away = json!({"delivery": {"pushed_at": null, "waiting_since": "2026-11-25T18:00:00Z"}});
    let (meaning, waiting) = waiting::waiting(&job, &ledger, &away);
    assert_eq!(meaning.blame, Blame::Validator);
    assert!(waiting.what.contains("not connected"), "{waiting:?}");
    let (meaning, _) = waiting::waiting(&job, &ledger, &json!({"delivery": {"pushed_at": "x"}}));
    assert_eq!(meaning.blame, Blame::Nobody);
}

const RUN: [(&str, &str); 5] = [
    ("sent", "2026-11-25T18:00:00Z"),
    ("received", "2026-11-25T18:00:00.1Z"),
    ("accepted", "2026-11-25T18:00:01Z"),
    ("executor_ready", "2026-11-25T18:00:03Z"),
    ("volumes_ready", "2026-11-25T18:00:13Z"),
];

#[test]
fn what_a_stage_leaves_is_carried_over_to_the_next() {
    let mut steps = RUN.to_vec();
    steps.push(("execution_done", "2026-11-25T18:02:33Z"));
    steps.push(("completed", "2026-11-25T18:02:34Z"));
    let ledger = ledger(&job(&steps, &json!({})), at("2026-11-25T19:00:00Z"));
    let of = |stage: Stage| ledger.stages.iter().find(|time| time.stage == stage).unwrap();
    let download = of(Stage::Download);
    assert_eq!(
        (download.took_seconds, download.carried_seconds),
        (Some(10.0), Some(5.0))
    );
    // 5 s of leeway and 60 s were allowed, 10 s were taken.
    let execution = of(Stage::Execution);
    assert_eq!(
        (execution.took_seconds, execution.carried_seconds),
        (Some(140.0), Some(55.0))
    );
    assert_eq!(
        execution.overdue_seconds(),
        None,
        "longer than its limit, not than it may"
    );
    assert_eq!(of(Stage::Upload).carried_seconds, Some(35.0));
    assert_eq!(of(Stage::Reservation).carried_seconds, None);
    assert_eq!(Some(ledger.total_seconds), Some(154.0));
    let shares: f64 = ledger.stages.iter().filter_map(|time| time.share_percent).sum();
    assert!((shares - 100.0).abs() < 0.5, "{shares}");
    assert!(ledger.stages.iter().all(|time| time.stage != Stage::Streaming));
}

#[test]
fn a_stage_that_lasts_longer_than_it_may_is_overdue() {
    let job = job(&RUN, &json!({}));
    let told = explain(&job, at("2026-11-25T18:05:00Z"));
    // It may run 120 s and the 55 s that were left; it has for 287 s.
    assert_eq!(told.code, "overdue.volumes_ready");
    assert_eq!(told.waiting.unwrap().overdue_seconds, Some(112.0));
    assert_eq!(told.blame, Blame::Job);
}

#[test]
fn steps_that_were_not_told_and_clocks_that_go_backwards_do_no_harm() {
    let job = job(
        &[
            ("sent", "2026-11-25T18:00:00Z"),
            ("volumes_ready", "2026-11-25T17:00:00Z"),
            ("received", "2026-11-25T18:00:01Z"),
            ("failed", "2026-11-25T16:00:00Z"),
        ],
        &json!({}),
    );
    let ledger = ledger(&job, at("2026-11-25T19:00:00Z"));
    assert_eq!(Some(ledger.total_seconds), Some(0.0));
    let progress = |stage: Stage| {
        ledger
            .stages
            .iter()
            .find(|time| time.stage == stage)
            .unwrap()
            .progress
    };
    assert_eq!(progress(Stage::Reservation), Progress::NotTold);
    assert_eq!(progress(Stage::Execution), Progress::EndedHere);
    assert_eq!(progress(Stage::Upload), Progress::NotReached);
    assert!(
        ledger
            .stages
            .iter()
            .filter_map(|time| time.took_seconds)
            .all(|took| took >= 0.0)
    );
}

#[test]
fn hostile_numbers_of_limits_do_no_harm() {
    let mut job = job(&RUN, &json!({}));
    job.execution_time_limit = i64::MAX;
    job.download_time_limit = i64::MIN;
    job.upload_time_limit = -1;
    let told = explain(&job, at("2026-11-25T18:05:00Z"));
    assert_eq!(told.ledger.stages.len(), 6);
    for reason in HordeReason::ALL {
        let metadata =
            json!({"horde_failure_details": {"reported_by": "miner", "reason": reason, "message": "m"}});
        let mut job = ended("failed", &metadata);
        job.execution_time_limit = i64::MAX;
        job.upload_time_limit = i64::MIN;
        sound(&job);
    }
}

#[test]
fn the_evidence_is_bounded() {
    let long = "y".repeat(1_000_000);
    let context: serde_json::Map<String, Value> = (0..1000)
        .map(|n| (format!("{n}{long}"), json!([long])))
        .take(40)
        .collect();
    let lines = "line\n".repeat(10_000);
    let metadata = json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution",
        "message": long, "context": context, "docker_process_exit_status": 3, "docker_process_stderr": lines}});
    let told = sound(&ended("failed", &metadata));
    let text = serde_json::to_string(&told).unwrap();
    assert!(text.len() < 64 * 1024, "{}", text.len());
    let stderr = told.evidence.iter().filter(|item| item.name == "stderr").count();
    assert_eq!(stderr, STDERR_LINES);
    assert!(text.contains("8 more facts"));
}

#[test]
fn what_is_told_beside_a_reason_decides() {
    let horde = |reason: &str, message: &str, context: Value| {
        let metadata = json!({"horde_failure_details": {"reported_by": "executor", "reason": reason,
            "message": message, "context": context}});
        sound(&ended("horde_failed", &metadata))
    };
    let missing = horde(
        "generic_error",
        "Failed to pull docker image",
        json!({"stderr": "manifest unknown"}),
    );
    assert_eq!(missing.blame, Blame::User);
    assert!(missing.reason.contains("busybox:1") && missing.reason.contains("manifest unknown"));
    assert!(missing.remedies.iter().any(|remedy| remedy.contains("no digest")));
    let full = horde(
        "generic_error",
        "Failed to pull docker image",
        json!({"stderr": "no space left on device"}),
    );
    assert_eq!(full.blame, Blame::Miner);
    let command = horde(
        "unhandled_exception",
        "Unhandled exception",
        json!({"exception_type": "DockerError", "stage": "execution",
            "detail": "exec: \"work\": executable file not found in $PATH"}),
    );
    assert_eq!(command.blame, Blame::Job);
    assert!(command.reason.contains("\"work\""), "{}", command.reason);
    let zip = horde(
        "unhandled_exception",
        "Unhandled exception",
        json!({"exception_type": "BadZipFile", "stage": "volume_download"}),
    );
    assert_eq!(zip.blame, Blame::User);

    let exit = |message: &str| {
        let metadata = json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution",
            "message": message, "docker_process_exit_status": 137}});
        sound(&ended("failed", &metadata)).reason
    };
    let certain = exit(
        "Job container exited with non-zero exit code: 137: the job ran out of memory: its limit is 1 GiB, without swap",
    );
    assert!(certain.contains("137: the job ran out of memory"), "{certain}");
    assert!(
        exit("Job container exited with non-zero exit code: 137").contains("most often for want of memory")
    );

    let routed = |kind: &str| {
        let metadata = json!({"job_rejection_details": {"rejected_by": "validator", "reason": "no_miner_for_job",
            "message": "Job could not be routed to a miner", "context": {"exception_type": kind}}});
        sound(&ended("rejected", &metadata))
    };
    assert!(routed("NotEnoughAllowanceException").reason.contains("210 s"));
    assert_eq!(routed("AllMinersBusy").blame, Blame::Miner);
    assert_eq!(routed("").blame, Blame::Validator);
}
