//! Following a job to its end: its stages on standard error, its output on standard output.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::client_error;
use super::end::end;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::cmd::table::printable;
use crate::core::client::Client;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::{JobView, StatusEntry};

/// Pauses between two looks at a job: the first, the longest, and how much longer each is than the last, in percent.
const LOOK: (Duration, Duration, u32) = (Duration::from_millis(200), Duration::from_secs(1), 125);

/// Shows a job's stages until it has ended, then prints its output and ends as it did.
pub(in crate::cmd) async fn follow(
    context: &Context,
    client: &Client,
    mut job: JobView,
    patience: Option<Duration>,
) -> Result<(), CmdError> {
    let started = Instant::now();
    let mut stages = Stages::new(context, &job);
    let mut pause = LOOK.0;
    loop {
        stages.show(&job);
        if job.current().is_terminal() {
            stages.end();
            return finish(context, &job);
        }
        if patience.is_some_and(|patience| started.elapsed() >= patience) {
            stages.end();
            let words = format!("the job is still {} and goes on", job.current());
            return Err(CmdError::new(ExitCode::TooLong, words).hint(format!("horde job wait {}", job.uuid)));
        }
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                stages.end();
                context.say(format_args!("the job goes on; `horde job wait {}` follows it", job.uuid));
                return Err(CmdError::quiet(ExitCode::Passed(130)));
            }
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * LOOK.2 / 100).min(LOOK.1);
        job = client.job(&job.uuid).await.map_err(|error| {
            client_error("could not read the job", &error)
                .hint(format!("the job goes on: horde job wait {}", job.uuid))
        })?;
    }
}

/// The stages of a job as they come: a moving line for a person, plain lines otherwise.
struct Stages<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    shown: usize,
}

impl<'a> Stages<'a> {
    fn new(context: &'a Context, job: &JobView) -> Self {
        let bar = context.interactive.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let stages = Self {
            context,
            bar,
            shown: 0,
        };
        stages.say(&format!("job {}", job.uuid));
        stages
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.context.say(line),
        }
    }

    fn show(&mut self, job: &JobView) {
        for entry in job.status_history.iter().skip(self.shown) {
            self.say(&history_line(job, entry));
        }
        self.shown = job.status_history.len();
        if let Some(bar) = &self.bar {
            bar.set_message(waiting_for(job.current()));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns a step with its time since the submission.
pub(super) fn history_line(job: &JobView, entry: &StatusEntry) -> String {
    let since = entry.created_at.moment() - job.created_at.moment();
    format!("{:>8.2} s  {}", since.as_seconds_f64(), entry.status)
}

/// Returns what happens next to a job in this state.
const fn waiting_for(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Sent => "waiting for the validator",
        JobStatus::Received => "looking for a miner",
        JobStatus::Accepted => "starting the executor",
        JobStatus::ExecutorReady => "fetching the input",
        JobStatus::VolumesReady | JobStatus::StreamingReady => "running",
        JobStatus::ExecutionDone => "delivering the output",
        JobStatus::Completed | JobStatus::Rejected | JobStatus::Failed | JobStatus::HordeFailed => "ended",
        JobStatus::Unknown => "in a state that this program does not know",
    }
}

/// Prints a job that has ended and ends as it did.
fn finish(context: &Context, job: &JobView) -> Result<(), CmdError> {
    let Some(end) = end(job) else {
        return Err(CmdError::new(ExitCode::Bug, "the job has not ended"));
    };
    if context.json {
        context.print_json(job)?;
    } else {
        context.bytes(end.stdout.as_bytes())?;
        // Nobody is left to tell if this fails.
        drop(io::stderr().lock().write_all(end.stderr.as_bytes()));
        for path in job.artifacts.keys() {
            context.say(format_args!("artifact {}", printable(path)));
        }
        for path in job.upload_results.keys() {
            context.say(format_args!("uploaded /output/{}", printable(path)));
        }
    }
    match end.words {
        None => Ok(()),
        Some(words) => Err(CmdError::new(end.code, printable(&words))),
    }
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

    #[test]
    fn a_step_is_shown_with_its_time_since_the_submission() {
        let job = job("received", &json!({}));
        assert_eq!(history_line(&job, job.last().unwrap()), "    1.50 s  received");
    }
}
