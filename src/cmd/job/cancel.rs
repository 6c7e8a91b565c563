//! `horde job cancel`.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use super::follow::{Interrupts, until_ended};
use super::{UserArgs, client_error, find};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::cmd::table::printable;
use crate::core::client::Client;
use crate::core::client::cancel::Cancelled;
use crate::core::client::explain::status_word;
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job cancel 3f2a
  horde job cancel 3f2a 91bc --wait
  horde job cancel 3f2a 91bc --dry-run
  horde job list --status open --quiet | xargs horde job cancel";

/// What comes of a job that is only asked about.
const WOULD_CANCEL: &str = "would-cancel";

/// `horde job cancel …`
#[derive(Args, Debug)]
pub struct CancelArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Wait until the jobs have ended: their executors have reported the containers dead
    #[arg(long)]
    wait: bool,
    /// Give up waiting for a job after so many seconds, with 7
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
    /// Tell which jobs would be cancelled and cancel none; ends with 11 if any would
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// The jobs; the beginnings of their identities are enough
    #[arg(required = true)]
    ids: Vec<String>,
}

/// What came of one job; keys in this order.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Outcome {
    /// The job, or what was given for it.
    job: String,
    /// `cancelling`, `cancelled`, `ended` (otherwise, or before), `cannot`, `error`, or with `--dry-run` `would-cancel`.
    result: &'static str,
    /// How the job stands; null if that is not known.
    status: Option<&'static str>,
    /// Why it cannot be cancelled, or what went wrong.
    detail: Option<String>,
    #[serde(skip)]
    code: ExitCode,
    #[serde(skip)]
    hints: Vec<String>,
}

impl Outcome {
    fn of(job: &JobView, result: &'static str) -> Self {
        Self {
            job: job.uuid.to_string(),
            result,
            status: Some(status_word(job)),
            detail: None,
            code: ExitCode::Done,
            hints: Vec::new(),
        }
    }

    fn ended(job: &JobView) -> Self {
        let word = status_word(job);
        let result = if word == "cancelled" { word } else { "ended" };
        Self::of(job, result)
    }

    fn failed(job: String, error: CmdError) -> Self {
        Self {
            job,
            result: "error",
            status: None,
            detail: Some(error.to_string()),
            code: error.code,
            hints: error.hints,
        }
    }

    fn cannot(job: &JobView, detail: String) -> Self {
        Self {
            detail: Some(detail),
            code: ExitCode::Conflict,
            ..Self::of(job, "cannot")
        }
    }
}

impl CancelArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let mut interrupts = Interrupts::listen()?;
        // All are asked for first, so that they end beside each other.
        let mut asked = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            asked.push(ask(&client, id, self.dry_run).await);
        }
        let mut outcomes = Vec::with_capacity(asked.len());
        for (outcome, job) in asked {
            let outcome = match job.filter(|_| self.wait) {
                None => outcome,
                Some(job) => tokio::select! {
                    biased;
                    () = interrupts.next() => return Err(CmdError::quiet(ExitCode::Passed(130))),
                    outcome = self.ended(context, &client, job) => outcome,
                },
            };
            if !context.wants_data() {
                let status = outcome.status.filter(|status| *status != outcome.result);
                let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
                context.line(format_args!(
                    "{} {}{status}",
                    printable(&outcome.job),
                    outcome.result
                ))?;
            }
            outcomes.push(outcome);
        }
        if context.wants_data() {
            context.print_data(&outcomes)?;
        }
        verdict(&outcomes)
    }

    /// Waits for the end of a job that is being cancelled.
    async fn ended(&self, context: &Context, client: &Client, job: JobView) -> Outcome {
        let id = job.uuid.to_string();
        let patience = self.timeout.map_or(Duration::MAX, Duration::from_secs);
        match timeout(patience, until_ended(context, client, job.clone())).await {
            Ok(Ok(job)) => Outcome::ended(&job),
            Ok(Err(error)) => Outcome::failed(id, error),
            Err(_elapsed) => Outcome {
                detail: Some("its container was not reported dead in time; the cancel goes on".to_owned()),
                code: ExitCode::TooLong,
                ..Outcome::of(&job, "cancelling")
            },
        }
    }
}

/// Asks for the end of a job; returns the job too if that takes a while.
async fn ask(client: &Client, id: &str, is_dry: bool) -> (Outcome, Option<JobView>) {
    let job = match find(client, id).await {
        Ok(job) => job,
        Err(error) => return (Outcome::failed(id.to_owned(), error), None),
    };
    if job.current().is_terminal() {
        return (Outcome::ended(&job), None);
    }
    if is_dry {
        return (Outcome::of(&job, WOULD_CANCEL), None);
    }
    match client.cancel(&job.uuid).await {
        Ok(Cancelled::UnderWay(job)) => (Outcome::of(&job, "cancelling"), Some(job)),
        Ok(Cancelled::Ended(job)) => (Outcome::ended(&job), None),
        Ok(Cancelled::Cannot { words }) => {
            let words = format!("it cannot be cancelled and goes on: {words}");
            (Outcome::cannot(&job, words), None)
        }
        Ok(Cancelled::NotKnown) => {
            let words = "this facilitator cannot cancel jobs; the job goes on".to_owned();
            (Outcome::cannot(&job, words), None)
        }
        Err(error) => {
            let error = client_error("could not cancel the job", &error);
            (Outcome::failed(job.uuid.to_string(), error), None)
        }
    }
}

/// Returns how the command ends: 8 if only some jobs could be cancelled.
fn verdict(outcomes: &[Outcome]) -> Result<(), CmdError> {
    let mut failed = outcomes
        .iter()
        .filter(|outcome| outcome.code != ExitCode::Done)
        .peekable();
    let Some(first) = failed.peek().map(|outcome| outcome.code) else {
        let is_pending = outcomes.iter().any(|outcome| outcome.result == WOULD_CANCEL);
        return if is_pending {
            Err(CmdError::quiet(ExitCode::Pending))
        } else {
            Ok(())
        };
    };
    let code = if outcomes.iter().all(|outcome| outcome.code == first) {
        first
    } else if outcomes.iter().any(|outcome| outcome.code == ExitCode::Done) {
        ExitCode::Partial
    } else {
        ExitCode::Failed
    };
    let mut error = CmdError::new(code, "could not cancel every job");
    for outcome in failed {
        let detail = outcome.detail.as_deref().unwrap_or_default();
        error
            .causes
            .push(printable(&format!("{}: {detail}", outcome.job)));
        error.hints.extend(outcome.hints.iter().cloned());
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: ExitCode) -> Outcome {
        Outcome {
            job: "j".to_owned(),
            result: "cancelling",
            status: None,
            detail: Some("why".to_owned()),
            code,
            hints: Vec::new(),
        }
    }

    #[test]
    fn some_that_could_not_be_cancelled_are_a_part_and_all_alike_are_what_they_are() {
        let code = |codes: &[ExitCode]| {
            let outcomes: Vec<Outcome> = codes.iter().map(|code| outcome(*code)).collect();
            verdict(&outcomes).map_err(|error| error.code)
        };
        assert_eq!(code(&[ExitCode::Done, ExitCode::Done]), Ok(()));
        assert_eq!(code(&[ExitCode::Conflict]), Err(ExitCode::Conflict));
        assert_eq!(
            code(&[ExitCode::NotFound, ExitCode::NotFound]),
            Err(ExitCode::NotFound)
        );
        assert_eq!(
            code(&[ExitCode::Done, ExitCode::NotFound]),
            Err(ExitCode::Partial)
        );
        assert_eq!(
            code(&[ExitCode::Conflict, ExitCode::NotFound]),
            Err(ExitCode::Failed),
            "nothing was done, for several reasons"
        );
    }
}
