//! `horde job wait`.

use std::time::Duration;

use clap::Args;

use super::follow::{Goal, InterruptArgs, Plan, follow};
use super::{UserArgs, find};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::core::model::job::JobStatus;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job wait 3f2a
  horde job wait 3f2a --for running --timeout 60
  horde job wait 3f2a --for streaming_ready --json";

/// `horde job wait …`
#[derive(Args, Debug)]
pub struct WaitArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Wait for this: done, running, or a status as `horde job list` has it; with another than done, that is success
    #[arg(long = "for", value_name = "STATUS", default_value = "done", value_parser = goal)]
    goal: Goal,
    /// Give up after so many seconds, with 7; the job goes on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    interrupt: InterruptArgs,
    /// The job; the beginning of its identity is enough
    id: String,
}

/// Reads what is waited for.
fn goal(word: &str) -> Result<Goal, String> {
    let word = word.trim().to_ascii_lowercase();
    match word.as_str() {
        "done" => return Ok(Goal::Ended),
        "running" => return Ok(Goal::Running),
        _ => {}
    }
    match JobStatus::from_word(&word) {
        JobStatus::Unknown => {
            let known = JobStatus::ALL
                .iter()
                .filter(|status| **status != JobStatus::Unknown);
            let known: Vec<&str> = known.map(|status| status.as_str()).collect();
            Err(format!("there are done, running, {}", known.join(", ")))
        }
        status => Ok(Goal::Status(status)),
    }
}

impl WaitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        let plan = Plan {
            goal: self.goal,
            patience: self.timeout.map(Duration::from_secs),
            interrupt: self.interrupt,
        };
        follow(context, &client, job, plan).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_read() {
        assert_eq!(goal("done"), Ok(Goal::Ended));
        assert_eq!(goal("Running"), Ok(Goal::Running));
        assert_eq!(goal("accepted"), Ok(Goal::Status(JobStatus::Accepted)));
        assert!(goal("soon").unwrap_err().contains("volumes_ready"));
        assert!(goal("unknown").is_err());
    }
}
