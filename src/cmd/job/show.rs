//! `horde job show`.

use clap::Args;

use super::follow::history_line;
use super::{UserArgs, end, find};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::printable;

/// `horde job show …`
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    user: UserArgs,
    /// The job
    id: String,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        if context.json {
            return context.print_json(&job);
        }
        let limits = format!(
            "download {} s, execution {} s, upload {} s",
            job.download_time_limit, job.execution_time_limit, job.upload_time_limit
        );
        let args = job.args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>();
        for (name, text) in [
            ("job", job.uuid.as_str().to_owned()),
            ("status", job.current().to_string()),
            ("image", printable(&job.docker_image)),
            ("arguments", args.join(" ")),
            ("class", job.executor_class.to_string()),
            ("validator", printable(job.target_validator_hotkey.as_str())),
            ("limits", limits),
            ("submitted", job.created_at.to_string()),
        ] {
            context.line(format_args!("{name:<12}{text}"))?;
        }
        for (index, entry) in job.status_history.iter().enumerate() {
            let name = if index == 0 { "history" } else { "" };
            let line = history_line(&job, entry);
            context.line(format_args!("{name:<12}{line}"))?;
        }
        if let Some(words) = end(&job).and_then(|end| end.words) {
            context.line(format_args!("{:<12}{}", "end", printable(&words)))?;
        }
        for (name, paths) in [("artifacts", &job.artifacts), ("uploads", &job.upload_results)] {
            for (index, path) in paths.keys().enumerate() {
                let name = if index == 0 { name } else { "" };
                context.line(format_args!("{name:<12}{}", printable(path)))?;
            }
        }
        Ok(())
    }
}
