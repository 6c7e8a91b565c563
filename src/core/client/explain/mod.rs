//! Why a job stands as it stands: one decisive reason, who is to blame, the evidence, the time, what would change it.
//!
//! Pure: everything comes from the job as the facilitator shows it. What peers said is cut to bounded lengths, not made
//! harmless for terminals: that is for whoever prints it.

mod horde;
mod image;
pub mod ledger;
pub mod reasons;
mod waiting;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use self::ledger::{Ledger, ledger};
pub use self::reasons::{Blame, Ending, Meaning};
pub use self::waiting::Waiting;
use crate::core::model::JobId;
use crate::core::model::job::{JobStatus, Participant};
use crate::core::proto::facilitator_validator::StatusMetadata;
use crate::core::proto::job::Context;
use crate::core::proto::sdk_facilitator::{JobView, StatusEntry, is_cancelled};

/// Most facts of a peer that are shown.
const FACTS_MAX: usize = 32;

/// Most characters of one fact.
const FACT_CHARACTERS_MAX: usize = 400;

/// Last lines of the job's standard error that are shown.
const STDERR_LINES: usize = 10;

/// One thing that is known.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Evidence {
    /// What it is.
    pub name: String,
    /// What it says; texts are cut to [`FACT_CHARACTERS_MAX`] characters.
    pub value: Value,
}

/// Everything that `horde job explain` tells; keys in this order.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// Its state; `cancelled` for a job that its user has cancelled.
    pub status: String,
    /// Whether it has ended.
    pub ended: bool,
    /// A stable code, such as `failed.timeout.execution`.
    pub code: String,
    /// The decisive reason, one sentence.
    pub reason: String,
    /// Who is to blame.
    pub blame: Blame,
    /// Who said so, where somebody did.
    pub reported_by: Option<Participant>,
    /// What it waits for, while it has not ended.
    pub waiting: Option<Waiting>,
    /// What is known.
    pub evidence: Vec<Evidence>,
    /// Where the time went.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// What would change the outcome.
    pub remedies: Vec<String>,
}

/// The details of the step with which a job ended, or of the last one.
pub fn details(entry: &StatusEntry) -> StatusMetadata {
    serde_json::from_value(Value::Object(entry.metadata.clone())).unwrap_or_default()
}

/// Returns the word for a job's state; a job that its user has cancelled is `cancelled`.
pub fn status_word(job: &JobView) -> &'static str {
    match job.last() {
        Some(last) if is_cancelled(last) => "cancelled",
        _ => job.current().as_str(),
    }
}

/// Explains how a job ended; none if it has not.
pub fn verdict(job: &JobView) -> Option<Meaning> {
    let last = job.last().filter(|entry| entry.status.is_terminal())?;
    if last.status == JobStatus::Completed {
        return Some(reasons::completed(job));
    }
    if is_cancelled(last) {
        return Some(reasons::cancelled(job));
    }
    let details = details(last);
    if let Some(failure) = &details.horde_failure_details {
        return Some(horde::horde(failure, job));
    }
    if let Some(rejection) = &details.job_rejection_details {
        return Some(reasons::rejection(rejection, job));
    }
    if let Some(failure) = &details.job_failure_details {
        return Some(reasons::failure(failure, job));
    }
    Some(reasons::without_details(last.status, job))
}

/// Explains a job as it stands at `now`.
pub fn explain(job: &JobView, now: OffsetDateTime) -> Explanation {
    let ledger = ledger(job, now);
    let beyond = serde_json::to_value(&job.horde).unwrap_or_default();
    let (meaning, waiting) = if let Some(meaning) = verdict(job) {
        (meaning, None)
    } else {
        let (meaning, waiting) = waiting::waiting(job, &ledger, &beyond);
        (meaning, Some(waiting))
    };
    let details = job.last().map(details).unwrap_or_default();
    let reported_by = match (&details.horde_failure_details, &details.job_rejection_details) {
        (Some(details), _) => Some(details.reported_by),
        (None, Some(details)) => Some(details.rejected_by),
        (None, None) => None,
    };
    Explanation {
        job: job.uuid.clone(),
        status: status_word(job).to_owned(),
        ended: waiting.is_none(),
        code: meaning.code,
        reason: meaning.sentence,
        blame: meaning.blame,
        reported_by,
        waiting,
        evidence: evidence(job, &details, &beyond),
        ledger,
        remedies: meaning.remedies,
    }
}

/// Collects what is known, the reporter's words first.
fn evidence(job: &JobView, details: &StatusMetadata, beyond: &Value) -> Vec<Evidence> {
    let mut found = Found::default();
    let mut output = (job.stderr.as_str(), None);
    if let Some(details) = &details.horde_failure_details {
        found.text("message", &details.message);
        found.text("reason", details.reason.as_str());
        found.context(details.context.as_ref());
    }
    if let Some(details) = &details.job_rejection_details {
        found.text("message", &details.message);
        found.text("reason", details.reason.as_str());
        found.context(details.context.as_ref());
    }
    if let Some(details) = &details.job_failure_details {
        found.text("message", &details.message);
        found.text("reason", details.reason.as_str());
        found.text("stage", details.stage.as_str());
        found.context(details.context.as_ref());
        output = (
            details.docker_process_stderr.as_deref().unwrap_or_default(),
            details.docker_process_exit_status,
        );
    }
    let (stderr, exit) = output;
    if let Some(exit) = exit {
        found.add("exit_status", exit.into());
    }
    found.text("image", &job.docker_image);
    found.text("class", job.executor_class.as_str());
    found.text("validator", job.target_validator_hotkey.as_str());
    if let Some(Value::Object(cost)) = beyond.get("cost") {
        for (name, value) in cost {
            found.add(format!("cost.{name}"), value.clone());
        }
    }
    for (name, pointer) in [
        ("cancel.asked_at", "/cancel/asked_at"),
        ("cancel.refused", "/cancel/refused"),
    ] {
        if let Some(Value::String(text)) = beyond.pointer(pointer) {
            found.text(name, text);
        }
    }
    let lines: Vec<&str> = stderr.lines().collect();
    let last = lines.len().saturating_sub(STDERR_LINES);
    for line in lines.iter().skip(last) {
        found.text("stderr", line);
    }
    found.items
}

/// Evidence as it is collected.
#[derive(Default)]
struct Found {
    items: Vec<Evidence>,
}

impl Found {
    fn add(&mut self, name: impl Into<String>, value: Value) {
        self.items.push(Evidence {
            name: name.into(),
            value,
        });
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.trim().is_empty() {
            self.add(name, Value::String(cut(text)));
        }
    }

    /// Adds what a peer said beside its words; [`FACTS_MAX`] facts at most, the rest is counted.
    fn context(&mut self, context: Option<&Context>) {
        let Some(context) = context else {
            return;
        };
        for (name, value) in context.iter().take(FACTS_MAX) {
            let name = format!("context.{}", cut(name));
            match value {
                Value::Null => {}
                Value::String(text) => self.text(&name, text),
                Value::Bool(_) | Value::Number(_) => self.add(name, value.clone()),
                Value::Array(_) | Value::Object(_) => self.text(&name, &value.to_string()),
            }
        }
        let more = context.len().saturating_sub(FACTS_MAX);
        if more > 0 {
            self.add(
                "context",
                Value::String(format!("{more} more facts are not shown")),
            );
        }
    }
}

/// Cuts a text to [`FACT_CHARACTERS_MAX`] characters, and says so.
fn cut(text: &str) -> String {
    let text = text.trim_end();
    let Some((end, _)) = text.char_indices().nth(FACT_CHARACTERS_MAX) else {
        return text.to_owned();
    };
    let kept = text.get(..end).unwrap_or_default();
    format!("{kept}… ({} bytes in all)", text.len())
}

#[cfg(test)]
mod tests;
