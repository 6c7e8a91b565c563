//! How a job ended, in words and as an exit code.

use crate::cmd::error::ExitCode;
use crate::core::client::explain::{Ending, details, verdict};
use crate::core::model::job::{FailureReason, JobStatus};
use crate::core::proto::facilitator_validator::StatusMetadata;
use crate::core::proto::job::Context as FailureContext;
use crate::core::proto::sdk_facilitator::{JobView, is_cancelled};

/// The most that is shown of one fact of a failure, in characters.
const FACT_CHARACTERS_MAX: usize = 300;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd) struct End {
    pub(in crate::cmd) code: ExitCode,
    /// Why, for people; none if all is well.
    pub(in crate::cmd) words: Option<String>,
    pub(in crate::cmd) stdout: String,
    pub(in crate::cmd) stderr: String,
}

/// The exit code of commands about a job that its user has cancelled, as for any other end by interrupt.
const CANCELLED: u8 = 130;

/// Returns the exit code for an ending.
pub(super) fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Completed => ExitCode::Done,
        Ending::Cancelled => ExitCode::Passed(CANCELLED),
        // A job that failed must not look like one that did not.
        Ending::Exit(status) => {
            let code = status.and_then(|status| u8::try_from(status).ok());
            ExitCode::Passed(code.filter(|code| *code != 0).unwrap_or(1))
        }
        Ending::Timeout => ExitCode::JobTimeout,
        Ending::NotRunnable => ExitCode::JobNotRunnable,
        Ending::Horde => ExitCode::JobFailedByHorde,
        Ending::Rejected => ExitCode::JobRejected,
        Ending::Failed => ExitCode::Failed,
    }
}

/// Returns how a job ended; none if it has not.
pub(in crate::cmd) fn end(job: &JobView) -> Option<End> {
    let code = exit_code(verdict(job)?.ending?);
    let last = job.last()?;
    let details = details(last);
    let words = if code == ExitCode::Done {
        None
    } else if is_cancelled(last) {
        Some("the job was cancelled by its user".to_owned())
    } else {
        Some(words(last.status, &details))
    };
    let (stdout, stderr) = match details.job_failure_details {
        Some(failure) => (
            failure.docker_process_stdout.unwrap_or_default(),
            failure.docker_process_stderr.unwrap_or_default(),
        ),
        None => (job.stdout.clone(), job.stderr.clone()),
    };
    Some(End {
        code,
        words,
        stdout,
        stderr,
    })
}

/// Returns what the reporter said, for people.
fn words(status: JobStatus, details: &StatusMetadata) -> String {
    if let Some(details) = &details.horde_failure_details {
        return format!(
            "the horde failed the job: {} (reported by the {}: {}){}",
            details.message,
            details.reported_by,
            details.reason,
            facts(details.context.as_ref())
        );
    }
    if let Some(details) = &details.job_rejection_details {
        return format!(
            "the job was rejected: {} (by the {}: {}){}",
            details.message,
            details.rejected_by,
            details.reason,
            facts(details.context.as_ref())
        );
    }
    let Some(details) = &details.job_failure_details else {
        return format!("the job ended as {status} without a reason");
    };
    match details.reason {
        FailureReason::Timeout => {
            format!(
                "the job ran out of time in {}: {}",
                details.stage, details.message
            )
        }
        FailureReason::NonzeroReturnCode => {
            let status = details.docker_process_exit_status;
            let shown =
                status.map_or_else(|| "an unknown exit code".to_owned(), |s| format!("exit code {s}"));
            format!("the job ended with {shown}")
        }
        FailureReason::DownloadFailed | FailureReason::UploadFailed | FailureReason::Unknown => format!(
            "the job failed in {}: {} ({}){}",
            details.stage,
            details.message,
            details.reason,
            facts(details.context.as_ref())
        ),
    }
}

/// Returns what a peer added to its reason, for the end of a sentence: texts only, each cut to a line's length.
fn facts(details: Option<&FailureContext>) -> String {
    let texts = details.into_iter().flatten().filter_map(|(name, value)| {
        let text = value.as_str().map(str::trim).filter(|text| !text.is_empty())?;
        let cut: String = text.chars().take(FACT_CHARACTERS_MAX).collect();
        Some(format!("; {name}: {cut}"))
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: &str, metadata: &Value) -> JobView {
        serde_json::from_value(json!({
            "uuid": "u", "executor_class": "always_on.test", "created_at": "2026-11-22T09:13:22.5Z", "docker_image": "i",
            "args": [], "env": {}, "stdout": "out", "stderr": "err",
            "status_history": [{"status": "sent", "metadata": {}, "created_at": "2026-11-22T09:13:22.5Z"},
                {"status": status, "metadata": metadata, "created_at": "2026-11-22T09:13:24Z"}],
        }))
        .unwrap()
    }

    fn code(status: &str, metadata: &Value) -> u8 {
        end(&job(status, metadata)).unwrap().code.number()
    }

    #[test]
    fn a_command_ends_as_its_job_did() {
        let failed = |reason: &str, status: Value| {
            let details = json!({"job_failure_details": {"reason": reason, "stage": "execution", "message": "m",
                "docker_process_exit_status": status, "docker_process_stdout": "o"}});
            code("failed", &details)
        };
        let horde = json!({"horde_failure_details": {"reported_by": "validator", "reason": "generic_error",
            "message": "m"}});
        assert_eq!(code("completed", &json!({})), 0);
        assert_eq!(failed("nonzero_return_code", json!(3)), 3);
        assert_eq!(failed("nonzero_return_code", json!(0)), 1);
        assert_eq!(failed("nonzero_return_code", json!(-1)), 1);
        assert_eq!(failed("nonzero_return_code", Value::Null), 1);
        assert_eq!(failed("timeout", Value::Null), 124);
        assert_eq!(failed("download_failed", Value::Null), 1);
        assert_eq!(code("horde_failed", &horde), 125);
        assert_eq!(code("failed", &horde), 125, "what the validator itself noticed");
        assert_eq!(code("horde_failed", &json!({})), 125);
        assert_eq!(code("rejected", &json!({})), 126);
        assert_eq!(end(&job("accepted", &json!({}))), None);
    }

    #[test]
    fn an_image_or_command_that_is_not_there_is_told_from_a_failure_of_the_horde() {
        let horde = |reason: &str, message: &str, context: Value| {
            let details = json!({"horde_failure_details": {"reported_by": "executor", "reason": reason,
                "message": message, "context": context}});
            code("horde_failed", &details)
        };
        let pull = |stderr: &str| {
            let context = json!({"stdout": "", "stderr": stderr, "stage": "executor_startup"});
            horde("generic_error", "Failed to pull docker image", context)
        };
        let start = |detail: Value| {
            let context = json!({"exception_type": "DockerError", "stage": "execution", "detail": detail});
            horde("unhandled_exception", "Unhandled exception", context)
        };
        assert_eq!(pull("manifest for x:1 not found: manifest unknown"), 127);
        assert_eq!(
            pull(""),
            127,
            "what the reference says of an image that does not exist"
        );
        assert_eq!(pull("toomanyrequests: rate limit"), 125);
        assert_eq!(pull("dial tcp: lookup r.example: no such host"), 125);
        assert_eq!(
            start(Value::Null),
            127,
            "what the reference says of a bad command"
        );
        assert_eq!(
            start(json!("exec: \"nope\": executable file not found in $PATH")),
            127
        );
        assert_eq!(start(json!("could not select device driver")), 125);
    }

    #[test]
    fn a_cancelled_job_is_told_so() {
        let details = json!({"job_failure_details": {"reason": "unknown", "stage": "execution",
            "message": "cancelled by the user", "context": {"cancelled": true}, "docker_process_stdout": "o"}});
        let end = end(&job("failed", &details)).unwrap();
        assert_eq!((end.code.number(), end.stdout.as_str()), (130, "o"));
        assert_eq!(end.words.as_deref(), Some("the job was cancelled by its user"));
    }

    #[test]
    fn the_facts_of_a_failure_are_told_and_bounded() {
        let pull = json!({"horde_failure_details": {"reported_by": "executor", "reason": "generic_error",
            "message": "Failed to pull docker image",
            "context": {"stderr": "no such image: x:1\n", "code": 5, "long": "y".repeat(10_000)}}});
        let words = end(&job("horde_failed", &pull)).unwrap().words.unwrap();
        assert!(
            words.contains("; stderr: no such image: x:1; long: yyy"),
            "{words}"
        );
        assert!(words.len() < 1000);
    }

    #[test]
    fn the_output_of_a_failed_job_is_in_its_details() {
        let details = json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution",
            "message": "m", "docker_process_stdout": "o", "docker_process_stderr": "e"}});
        let end = end(&job("failed", &details)).unwrap();
        assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("o", "e"));
    }
}
