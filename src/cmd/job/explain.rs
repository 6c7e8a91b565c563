//! `horde job explain`.

use std::borrow::Cow;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::end::exit_code;
use super::{UserArgs, find};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::{NOTHING, Table, printable};
use crate::core::client::explain::ledger::{Progress, Stage, StageTime};
use crate::core::client::explain::{Explanation, explain, verdict};
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job explain 3f2a
  horde job explain 3f2a --json | jq -r .reason";

/// Most characters of a fact's name that the others are lined up with.
const NAME_CHARACTERS_MAX: usize = 30;

/// `horde job explain …`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    user: UserArgs,
    /// The job; the beginning of its identity is enough
    id: String,
}

/// An explanation, as it is printed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Explained<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    /// The exit code of commands that wait for the job; null while it has not ended.
    exit_code: Option<u8>,
}

impl ExplainArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        let explanation = explain(&job, context.clock.now());
        let code = verdict(&job)
            .and_then(|meaning| meaning.ending)
            .map(|ending| exit_code(ending).number());
        if context.wants_data() {
            return context.print_data(&Explained {
                explanation: &explanation,
                exit_code: code,
            });
        }
        lines(&job, &explanation, code)
            .iter()
            .try_for_each(|line| context.line(line))
    }
}

/// Returns what people read: the reason first.
fn lines(job: &JobView, explanation: &Explanation, code: Option<u8>) -> Vec<String> {
    let mut lines = vec![printable(&explanation.reason), String::new()];
    let mut add = |name: &str, text: Cow<'_, str>| {
        lines.push(printable(&format!("{name:<12}{text}")).trim_end().to_owned());
    };
    // Some endings have no more to tell than their status.
    let standing = if explanation.code == explanation.status {
        explanation.status.clone()
    } else {
        format!("{} ({})", explanation.status, explanation.code)
    };
    add("job", job.uuid.as_str().into());
    add(
        "status",
        match code {
            Some(code) => format!("{standing}, exit code {code}").into(),
            None => standing.into(),
        },
    );
    add("to blame", explanation.blame.as_str().into());
    if let Some(by) = explanation.reported_by {
        add("said by", by.as_str().into());
    }
    if let Some(waiting) = &explanation.waiting {
        let since = waiting
            .since
            .map_or_else(String::new, |since| format!(", since {since}"));
        let took = waiting
            .seconds
            .map_or_else(String::new, |took| format!(" ({took:.1} s)"));
        let allowed = waiting
            .allowed_seconds
            .map_or_else(String::new, |allowed| format!(", of {allowed:.1} s that it may"));
        add(
            "waits for",
            format!("{}{since}{took}{allowed}", waiting.what).into(),
        );
    }
    let mut last = "";
    let width = explanation
        .evidence
        .iter()
        .map(|item| item.name.chars().count())
        .max();
    let width = width.unwrap_or_default().min(NAME_CHARACTERS_MAX);
    for item in &explanation.evidence {
        let value = item
            .value
            .as_str()
            .map_or_else(|| item.value.to_string(), str::to_owned);
        let name = if last == item.name { "" } else { item.name.as_str() };
        last = &item.name;
        let heading = if item == explanation.evidence.first().unwrap_or(item) {
            "evidence"
        } else {
            ""
        };
        add(heading, format!("{name:<width$}  {value}").into());
    }
    lines.push(String::new());
    lines.extend(times(explanation));
    if !explanation.remedies.is_empty() {
        lines.push(String::new());
    }
    for (index, remedy) in explanation.remedies.iter().enumerate() {
        let name = if index == 0 { "what helps" } else { "" };
        lines.push(printable(&format!("{name:<12}{remedy}")));
    }
    lines
}

/// Returns the time ledger.
fn times(explanation: &Explanation) -> Vec<String> {
    let mut table = Table::new(["STAGE", "WHO", "TOOK", "SHARE", "LIMIT", "CARRIED", ""]);
    for stage in &explanation.ledger.stages {
        table.add(cells(stage));
    }
    table.add([
        "total".to_owned(),
        String::new(),
        span(Some(explanation.ledger.total_seconds)),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ]);
    table.lines()
}

fn span(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| NOTHING.to_owned(), |seconds| format!("{seconds:.2} s"))
}

fn cells(stage: &StageTime) -> [String; 7] {
    let name = match stage.stage {
        Stage::Delivery => "delivery",
        Stage::Reservation => "reservation",
        Stage::Startup => "start-up",
        Stage::Download => "download",
        Stage::Streaming => "streaming",
        Stage::Execution => "execution",
        Stage::Upload => "upload",
    };
    let limit = match stage.limit_seconds {
        Some(limit) if stage.is_limit_usual => format!("~{limit} s"),
        Some(limit) => format!("{limit} s"),
        None => NOTHING.to_owned(),
    };
    let progress = match stage.progress {
        Progress::Done => String::new(),
        Progress::Running => "now".to_owned(),
        Progress::EndedHere => "the job ended here".to_owned(),
        Progress::NotTold => "its end was not told".to_owned(),
        Progress::NotReached => "not reached".to_owned(),
    };
    let remark = match stage.overdue_seconds() {
        Some(over) => format!("{progress}, {over:.1} s too long")
            .trim_start_matches(", ")
            .to_owned(),
        None => progress,
    };
    [
        name.to_owned(),
        stage.role.to_owned(),
        span(stage.took_seconds),
        stage
            .share_percent
            .map_or_else(|| NOTHING.to_owned(), |share| format!("{share:.1} %")),
        limit,
        span(stage.carried_seconds),
        remark,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::model::Timestamp;

    fn shown(metadata: &Value, steps: &[(&str, &str)], now: &str) -> String {
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
        let job: JobView = serde_json::from_value(json!({
            "uuid": "3f2a0000-0000-4000-8000-000000000000", "executor_class": "always_on.test",
            "created_at": "2026-11-25T18:00:00Z", "docker_image": "busybox", "args": ["sh", "-c", "work"], "env": {},
            "stdout": "", "stderr": "", "target_validator_hotkey": "5Validator", "download_time_limit": 60,
            "execution_time_limit": 120, "upload_time_limit": 60, "streaming_start_time_limit": 5,
            "status_history": history,
        }))
        .unwrap();
        let now = Timestamp::parse(now).unwrap().moment();
        let explanation = explain(&job, now);
        let code = verdict(&job)
            .and_then(|meaning| meaning.ending)
            .map(|ending| exit_code(ending).number());
        lines(&job, &explanation, code).join("\n")
    }

    const RUN: [(&str, &str); 5] = [
        ("sent", "2026-11-25T18:00:00Z"),
        ("received", "2026-11-25T18:00:00.1Z"),
        ("accepted", "2026-11-25T18:00:01Z"),
        ("executor_ready", "2026-11-25T18:00:03.5Z"),
        ("volumes_ready", "2026-11-25T18:00:10Z"),
    ];

    fn after(run: usize, last: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
        let mut steps = RUN.get(..run).unwrap().to_vec();
        steps.push(last);
        steps
    }

    #[test]
    fn a_job_that_ran_out_of_time_is_explained() {
        let metadata = json!({"job_failure_details": {"reason": "timeout", "stage": "execution",
            "message": "Execution time exceeded", "docker_process_stdout": "begun\n",
            "docker_process_stderr": "step 1\nstep 2\u{1b}[31m\n"}});
        let steps = after(5, ("failed", "2026-11-25T18:03:10Z"));
        insta::assert_snapshot!(shown(&metadata, &steps, "2026-11-25T19:00:00Z"));
    }

    #[test]
    fn an_image_that_does_not_exist_is_explained() {
        let metadata = json!({"horde_failure_details": {"reported_by": "executor", "reason": "generic_error",
            "message": "Failed to pull docker image", "context": {"stdout": "",
            "stderr": "manifest for busybox:latest not found: manifest unknown", "stage": "executor_startup"}}});
        let steps = after(3, ("horde_failed", "2026-11-25T18:00:04Z"));
        insta::assert_snapshot!(shown(&metadata, &steps, "2026-11-25T19:00:00Z"));
    }

    #[test]
    fn a_job_without_a_miner_is_explained() {
        let metadata = json!({"job_rejection_details": {"rejected_by": "validator", "reason": "no_miner_for_job",
            "message": "Job could not be routed to a miner", "context": {"exception_type": "AllMinersBusy"}}});
        let steps = after(2, ("rejected", "2026-11-25T18:00:00.2Z"));
        insta::assert_snapshot!(shown(&metadata, &steps, "2026-11-25T19:00:00Z"));
    }

    #[test]
    fn a_job_that_runs_longer_than_it_may_is_explained() {
        let steps = RUN.to_vec();
        insta::assert_snapshot!(shown(&json!({}), &steps, "2026-11-25T18:04:00Z"));
    }

    #[test]
    fn a_job_that_completed_is_explained() {
        let mut steps = after(5, ("execution_done", "2026-11-25T18:01:00Z"));
        steps.push(("completed", "2026-11-25T18:01:02Z"));
        insta::assert_snapshot!(shown(&json!({}), &steps, "2026-11-25T19:00:00Z"));
    }

    #[test]
    fn what_peers_say_cannot_steer_a_terminal() {
        let hostile = format!("\u{1b}]0;x\u{7}{}", "y".repeat(1_000_000));
        let metadata = json!({"horde_failure_details": {"reported_by": "miner", "reason": "generic_error",
            "message": hostile, "context": {"\u{1b}[2J": hostile}}});
        let text = shown(
            &metadata,
            &after(3, ("horde_failed", "2026-11-25T18:00:04Z")),
            "2026-11-25T19:00:00Z",
        );
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
        assert!(text.len() < 10_000, "{}", text.len());
    }
}
