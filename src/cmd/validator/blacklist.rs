//! `horde validator blacklist`: which miners get no jobs.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{Table, stamp, to_the_second};
use super::open_beside;
use crate::core::model::{Hotkey, JobId};

/// `horde validator blacklist …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  horde validator blacklist\n  horde --json validator blacklist")]
pub struct BlacklistArgs {}

/// A miner that gets no jobs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownEntry<'a> {
    /// The miner.
    miner: &'a Hotkey,
    /// Why.
    reason: &'a str,
    /// The job that it spoiled.
    job_uuid: &'a JobId,
    /// Since when.
    since: String,
    /// Until when.
    until: String,
}

impl BlacklistArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let store = open_beside(context).await?;
        let listed = store
            .blacklist(context.clock.now())
            .await
            .or_fail(ExitCode::Failed, "could not read the blacklist")?;
        if context.wants_data() {
            let all = listed.iter().map(|entry| ShownEntry {
                miner: &entry.miner,
                reason: &entry.reason,
                job_uuid: &entry.job,
                since: stamp(entry.since),
                until: stamp(entry.until),
            });
            let all: Vec<ShownEntry<'_>> = all.collect();
            return context.print_data(&all);
        }
        if listed.is_empty() {
            context.say("no miner is on the blacklist");
            return Ok(());
        }
        let mut table = Table::new(["miner", "until", "reason", "job"]);
        for entry in &listed {
            table.add([
                entry.miner.to_string(),
                to_the_second(entry.until),
                entry.reason.clone(),
                entry.job.to_string(),
            ]);
        }
        table.print(context)
    }
}
