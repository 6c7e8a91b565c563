//! `horde job report-cheated`.

use std::io::{self, Read as _};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{UserArgs, client_error, find};
use crate::cmd::confirm::{ChangeArgs, Danger, Plan};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail as _};
use crate::core::client::ClientError;
use crate::core::model::JobId;
use crate::core::model::job::JobStatus;
use crate::core::proto::sdk_facilitator::JobView;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job retry 3f2a --trusted
  horde job report-cheated 3f2a 91bc --dry-run
  horde job report-cheated 3f2a 91bc --yes
  horde job report-cheated 3f2a 91bc --yes --details '{\"expected\": \"42\", \"got\": \"41\"}'
  diff expected.json got.json | jq -R . | horde job report-cheated 3f2a 91bc --yes --details -";

/// Most bytes of details that are read from standard input (1 MiB).
const DETAILS_BYTES_MAX: u64 = 1024 * 1024;

/// `horde job report-cheated …`
#[derive(Args, Debug)]
pub struct ReportCheatedArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Add this evidence, as JSON; - reads it from standard input
    #[arg(long, value_name = "JSON")]
    details: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
    /// The job whose miner cheated; the beginning of its identity is enough
    id: String,
    /// The same job, run on the validator's trusted miner
    trusted_id: String,
}

/// A report that was taken.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Report<'a> {
    /// The job whose miner is said to have cheated.
    job: &'a JobId,
    /// The same job on the trusted miner.
    trusted_job: &'a JobId,
    /// Whether the report was taken: always, or the command fails.
    reported: bool,
    /// What the facilitator said.
    message: &'a str,
    /// In what the two results differ, as far as that can be seen here.
    differs: &'a [&'static str],
}

impl ReportCheatedArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let details = self
            .details
            .as_deref()
            .map(details)
            .transpose()?
            .unwrap_or_default();
        let settings = self.user.settings(context)?;
        let client = self.user.client_of(context, &settings).await?;
        let job = find(&client, &self.id).await?;
        let trusted = find(&client, &self.trusted_id).await?;
        check(&job, &trusted)?;
        let differs = differences(&job, &trusted);
        if differs.is_empty() {
            context.say(
                "note: the two jobs returned the same output and artifacts; what they uploaded cannot be compared here",
            );
        }
        let to = match differs.as_slice() {
            [] => format!("by {}", trusted.uuid),
            differs => format!("by {}, which differs in {}", trusted.uuid, differs.join(", ")),
        };
        let plan = Plan::new("report", "job", job.uuid.as_str())
            .change("cheat report", None, Some(to))
            .danger(
                Danger::Ask,
                "The miner of that job is punished if the report is right, and a report cannot be taken back",
            );
        if !self.change.allow(context, &settings, &plan).await? {
            return Ok(());
        }
        let words = client
            .report_cheated(&job.uuid, &trusted.uuid, &details)
            .await
            .map_err(|error| report_error(&error))?;
        if context.wants_data() {
            return context.print_data(&Report {
                job: &job.uuid,
                trusted_job: &trusted.uuid,
                reported: true,
                message: &words,
                differs: &differs,
            });
        }
        context.line(format_args!(
            "{} reported as cheated, as {} shows",
            job.uuid, trusted.uuid
        ))
    }
}

/// Says why a report was refused; one that stands already is no failure of this one's.
fn report_error(error: &ClientError) -> CmdError {
    let failed = client_error("could not report the job", error);
    match error {
        ClientError::Refused { status: 400, words } if words.contains("already exists") => failed
            .known_as(ExitCode::Conflict)
            .hint("the first report stands; nothing more needs to be done"),
        _ => failed,
    }
}

/// Reads the details of a report.
fn details(given: &str) -> Result<Value, CmdError> {
    let tried = "could not read --details";
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        let mut input = io::stdin().lock().take(DETAILS_BYTES_MAX + 1);
        input.read_to_string(&mut text).or_fail(ExitCode::Usage, tried)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > DETAILS_BYTES_MAX) {
            let words = format!("the details are larger than {DETAILS_BYTES_MAX} bytes");
            return Err(CmdError::new(ExitCode::Usage, words));
        }
    }
    serde_json::from_str(&text).map_err(|error| {
        CmdError::new(ExitCode::Usage, tried)
            .caused_by(&error)
            .hint("it must be JSON; a text needs its own quotes, as in --details '\"the sums differ\"'")
    })
}

/// Refuses what every facilitator and validator would refuse or ignore (wire-facilitator-http §8,
/// wire-facilitator-validator §3).
fn check(job: &JobView, trusted: &JobView) -> Result<(), CmdError> {
    let refuse = |words: String| CmdError::new(ExitCode::Conflict, words);
    if job.on_trusted_miner {
        return Err(refuse(format!("{} ran on the trusted miner itself", job.uuid))
            .hint("the job in doubt comes first, then the one on the trusted miner"));
    }
    if !trusted.on_trusted_miner {
        return Err(
            refuse(format!("{} did not run on the trusted miner", trusted.uuid))
                .hint(format!("horde job retry {} --trusted runs it there", job.uuid)),
        );
    }
    for job in [job, trusted] {
        if job.current() != JobStatus::Completed {
            return Err(refuse(format!(
                "{} is {}: only what completed can be compared",
                job.uuid,
                job.current()
            )));
        }
    }
    if job.docker_image != trusted.docker_image || job.args != trusted.args || job.env != trusted.env {
        return Err(
            refuse("the two jobs do not run the same image with the same arguments".to_owned()).hint(
                format!("horde job retry {} --trusted runs the same job", job.uuid),
            ),
        );
    }
    Ok(())
}

/// Returns in what the results differ, as far as they came with the jobs.
fn differences(job: &JobView, trusted: &JobView) -> Vec<&'static str> {
    let mut artifacts = (job.artifacts.clone(), trusted.artifacts.clone());
    artifacts.0.sort_keys();
    artifacts.1.sort_keys();
    [
        ("stdout", job.stdout != trusted.stdout),
        ("stderr", job.stderr != trusted.stderr),
        ("artifacts", artifacts.0 != artifacts.1),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
