//! What a job that has not ended waits for, since when, and what can be done.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::ledger::{Ledger, StageTime};
use super::reasons::{Blame, Meaning};
use crate::core::model::Timestamp;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::JobView;

/// What a job waits for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Waiting {
    /// What for.
    pub what: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// For how long, in seconds.
    pub seconds: Option<f64>,
    /// How long it may, in seconds, with what earlier stages left; none if nobody limits it.
    pub allowed_seconds: Option<f64>,
    /// How much longer than that it has, in seconds.
    pub overdue_seconds: Option<f64>,
}

/// Returns what a job in this state waits for, and who is to blame if that does not come.
fn awaited(job: &JobView, is_pushed: Option<bool>) -> (&'static str, Blame) {
    match job.current() {
        JobStatus::Sent if is_pushed == Some(false) => (
            "its validator, which is not connected to the facilitator",
            Blame::Validator,
        ),
        JobStatus::Sent => ("its validator to take it", Blame::Validator),
        JobStatus::Received => (
            "its validator to find a miner, and that miner to take it",
            Blame::Validator,
        ),
        JobStatus::Accepted => ("the miner to start an executor with the image", Blame::Miner),
        JobStatus::ExecutorReady => ("the executor to fetch the input", Blame::Miner),
        JobStatus::VolumesReady if !job.streaming_client_cert.is_empty() => {
            ("the streaming job to be reachable", Blame::Job)
        }
        JobStatus::VolumesReady | JobStatus::StreamingReady => ("its container to end", Blame::Job),
        JobStatus::ExecutionDone => ("the executor to deliver the output", Blame::Miner),
        JobStatus::Unknown
        | JobStatus::Completed
        | JobStatus::Rejected
        | JobStatus::Failed
        | JobStatus::HordeFailed => (
            "its next step: it is in a state that this program does not know",
            Blame::Nobody,
        ),
    }
}

/// Explains a job that has not ended; `beyond` is what the facilitator tells beside the reference's wire.
pub(super) fn waiting(job: &JobView, ledger: &Ledger, beyond: &Value) -> (Meaning, Waiting) {
    let pushed = beyond
        .get("delivery")
        .map(|delivery| delivery.get("pushed_at").is_some_and(|at| !at.is_null()));
    let (what, culprit) = awaited(job, pushed);
    let stage = ledger.current();
    let overdue = stage.and_then(StageTime::overdue_seconds);
    let waiting = Waiting {
        what: what.to_owned(),
        since: stage.and_then(|stage| stage.began_at),
        seconds: stage.and_then(|stage| stage.took_seconds),
        allowed_seconds: stage.and_then(|stage| {
            let limit = stage.limit_seconds.map(i32::try_from)?.ok()?;
            Some(f64::from(limit) + stage.carried_seconds.unwrap_or(0.0))
        }),
        overdue_seconds: overdue,
    };
    let is_told = |pointer: &str| beyond.pointer(pointer).is_some_and(|value| !value.is_null());
    // A wish that its validator could not fulfil no longer stands.
    let is_cancelling = is_told("/cancel/asked_at") && !is_told("/cancel/refused");
    let status = job.current();
    let mut remedies = Vec::new();
    let (code, sentence, blame) = if is_cancelling {
        (
            format!("cancelling.{status}"),
            "The job is being cancelled: it ends when its executor has reported the container dead."
                .to_owned(),
            Blame::Nobody,
        )
    } else if let Some(over) = overdue {
        remedies.push(format!(
            "wait a little: its validator ends a job that is late; or give it up: horde job cancel {}",
            job.uuid
        ));
        (
            format!("overdue.{status}"),
            format!("The job waits for {what}, {over:.0} s longer than it may."),
            culprit,
        )
    } else {
        let blame = if status == JobStatus::Sent && pushed == Some(false) {
            culprit
        } else {
            Blame::Nobody
        };
        (
            format!("waiting.{status}"),
            format!("The job waits for {what}."),
            blame,
        )
    };
    if status == JobStatus::Sent && pushed == Some(false) && !is_cancelling {
        remedies.push("name a validator that is connected: horde job retry … --validator HOTKEY".to_owned());
    }
    remedies.push(format!("follow it: horde job wait {}", job.uuid));
    let meaning = Meaning {
        code,
        sentence,
        blame,
        ending: None,
        remedies,
    };
    (meaning, waiting)
}
