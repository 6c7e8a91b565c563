//! `horde job list`.

use clap::Args;

use super::{UserArgs, client_error};
use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::{Table, printable};

/// Jobs asked for at a time by `horde job list`.
const PAGE_SIZE: u32 = 50;

/// `horde job list …`
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    user: UserArgs,
    /// List so many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let mut jobs = Vec::new();
        let mut number = 1;
        while jobs.len() < self.limit {
            let page = client
                .page(number, PAGE_SIZE)
                .await
                .map_err(|error| client_error("could not list the jobs", &error))?;
            jobs.extend(page.results);
            if page.next.is_none() {
                break;
            }
            number += 1;
        }
        jobs.truncate(self.limit);
        if context.json {
            return context.print_json(&jobs);
        }
        if jobs.is_empty() {
            context.say("no jobs yet");
            return Ok(());
        }
        let mut table = Table::new(["JOB", "STATUS", "CLASS", "SUBMITTED", "IMAGE"]);
        for job in &jobs {
            table.add([
                printable(job.uuid.as_str()),
                job.current().to_string(),
                job.executor_class.to_string(),
                job.created_at.to_string(),
                printable(&job.docker_image),
            ]);
        }
        table.print(context)
    }
}
