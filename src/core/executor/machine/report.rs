//! How the end of a job is told to the miner.

use indexmap::IndexMap;
use serde_json::Value;

use crate::core::host::checks::Finding;
use crate::core::model::JobId;
use crate::core::model::job::{FailureReason, HordeReason, JobStage, Participant};
use crate::core::proto::job::{Context, HordeFailed, JobFailed};
use crate::core::proto::miner_executor::{FRAME_BYTES_MAX, Up};

use super::events::{Effect, Ended, Fault, Outcome, Streams};
use super::{Machine, Presence, State};

impl Machine {
    /// Reports a fault as the current stage has it.
    pub(super) fn failed_by(&mut self, job_uuid: JobId, fault: Fault, ended: Option<Ended>) -> Vec<Effect> {
        let text = |text: &str| Value::String(text.to_owned());
        match fault {
            Fault::Job(detail) => {
                let (message, reason, context) = if ended.is_some() {
                    let context = Context::from_iter([("error".to_owned(), Value::String(detail))]);
                    (
                        "Upload failed".to_owned(),
                        FailureReason::UploadFailed,
                        Some(context),
                    )
                } else {
                    (detail, FailureReason::DownloadFailed, None)
                };
                let (exit_code, streams) = ended.map(|ended| (ended.exit_code, ended.streams)).unzip();
                let (stdout, stderr) = streams.map(|streams| (streams.stdout, streams.stderr)).unzip();
                let failed = JobFailed {
                    job_uuid,
                    message,
                    reason,
                    stage: self.stage(),
                    docker_process_exit_status: exit_code,
                    docker_process_stdout: stdout,
                    docker_process_stderr: stderr,
                    context,
                };
                self.leave(failed.into(), Outcome::Failed)
            }
            Fault::Insecure(findings) => self.insecure(job_uuid, &findings),
            Fault::Refused(message) => self.horde_failed(job_uuid, &message, HordeReason::GenericError, []),
            Fault::NoImage(detail) if self.stage() == JobStage::ExecutorStartup => self.horde_failed(
                job_uuid,
                "Failed to pull docker image",
                HordeReason::GenericError,
                [("stdout", text("")), ("stderr", text(&detail))],
            ),
            // At the start of the container the reference does not tell a missing image from other trouble.
            Fault::NoImage(detail) => self.unhandled(job_uuid, "DockerError", &detail, &Context::new()),
            // Likewise.
            Fault::Denied { detail, shortfall } => {
                self.unhandled(job_uuid, "DockerError", &detail, &shortfall.context)
            }
            Fault::Ours { kind, detail } => self.unhandled(job_uuid, kind, &detail, &Context::new()),
        }
    }

    /// Reports checks that do not hold (wire-executor-miner §10), each with what is, what must be and what helps.
    fn insecure(&mut self, job_uuid: JobId, findings: &[Finding]) -> Vec<Effect> {
        let words: Vec<String> = findings
            .iter()
            .map(|finding| {
                let Finding {
                    check,
                    actual,
                    required,
                    ..
                } = finding;
                format!("{check}: {actual}, required: {required}")
            })
            .collect();
        // Nothing in a finding can fail to become JSON.
        let checks = serde_json::to_value(findings).unwrap_or_default();
        self.horde_failed(
            job_uuid,
            &format!("Security check failed: {}", words.join("; ")),
            HordeReason::SecurityCheckFailed,
            [("checks", checks)],
        )
    }

    fn unhandled(&mut self, job_uuid: JobId, kind: &str, detail: &str, more: &Context) -> Vec<Effect> {
        let facts = [
            ("exception_type", Value::String(kind.to_owned())),
            ("detail", Value::String(detail.to_owned())),
        ];
        let more = more.iter().map(|(key, value)| (key.as_str(), value.clone()));
        self.horde_failed(
            job_uuid,
            "Unhandled exception",
            HordeReason::UnhandledException,
            facts.into_iter().chain(more),
        )
    }

    pub(super) fn timed_out(
        &mut self,
        job_uuid: JobId,
        message: &str,
        exit_code: Option<i64>,
        streams: Option<Streams>,
        context: Option<Context>,
    ) -> Vec<Effect> {
        let (stdout, stderr) = streams.map(|streams| (streams.stdout, streams.stderr)).unzip();
        let failed = JobFailed {
            job_uuid,
            message: message.to_owned(),
            reason: FailureReason::Timeout,
            stage: self.stage(),
            docker_process_exit_status: exit_code,
            docker_process_stdout: stdout,
            docker_process_stderr: stderr,
            context,
        };
        self.leave(failed.into(), Outcome::Failed)
    }

    pub(super) fn horde_failed<'a>(
        &mut self,
        job_uuid: JobId,
        message: &str,
        reason: HordeReason,
        facts: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Vec<Effect> {
        let failed = horde_failure(job_uuid, message, reason, self.stage(), facts);
        self.leave(failed, Outcome::HordeFailed)
    }

    /// Ends the job; the report waits for the container to be gone.
    pub(super) fn leave(&mut self, report: Up, outcome: Outcome) -> Vec<Effect> {
        let stage = self.stage();
        match &self.container {
            Presence::Absent | Presence::Stuck(_) => self.report(report, outcome, stage),
            Presence::Present | Presence::Leaving => {
                let is_asked = matches!(self.container, Presence::Leaving);
                self.container = Presence::Leaving;
                self.state = State::Leaving {
                    report,
                    outcome,
                    stage,
                };
                (!is_asked).then_some(Effect::Remove).into_iter().collect()
            }
        }
    }

    /// Tells the miner. A container that is still there makes every outcome a failure of ours.
    pub(super) fn report(&mut self, report: Up, outcome: Outcome, stage: JobStage) -> Vec<Effect> {
        let (Presence::Stuck(detail), Some(job_uuid)) = (&self.container, report.job_uuid()) else {
            self.state = State::Ended;
            return vec![Effect::Send(report), Effect::End(outcome)];
        };
        let facts = [
            ("exception_type", Value::from("DockerError")),
            ("detail", Value::from(detail.as_str())),
            ("withheld", Value::from(report.message_type())),
        ];
        let message = "The job's container could not be removed";
        let reason = HordeReason::UnhandledException;
        let failed = horde_failure(job_uuid.clone(), message, reason, stage, facts);
        self.state = State::Ended;
        vec![Effect::Send(failed), Effect::End(Outcome::ContainerLeft)]
    }

    pub(super) fn end(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.state = State::Ended;
        vec![Effect::End(outcome)]
    }
}

fn horde_failure<'a>(
    job_uuid: JobId,
    message: &str,
    reason: HordeReason,
    stage: JobStage,
    facts: impl IntoIterator<Item = (&'a str, Value)>,
) -> Up {
    let mut context: Context = facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    context.insert("stage".to_owned(), Value::from(stage.as_str()));
    Up::from(HordeFailed {
        job_uuid,
        reported_by: Participant::Executor,
        message: message.to_owned(),
        reason,
        context: Some(context),
    })
}

/// Returns the size of a report as it travels; small reports are only estimated.
pub(super) fn encoded_bytes(report: &Up) -> usize {
    let Up::JobFinished(finished) = report else {
        return 0;
    };
    let maps = [&finished.artifacts, &finished.upload_results];
    let values = maps.into_iter().flatten().flat_map(IndexMap::iter);
    let raw = values.map(|(key, value)| key.len() + value.len()).sum::<usize>()
        + finished.docker_process_stdout.len()
        + finished.docker_process_stderr.len();
    // A character takes at most six bytes as JSON.
    if raw < FRAME_BYTES_MAX / 8 {
        raw
    } else {
        report.encode().len()
    }
}
