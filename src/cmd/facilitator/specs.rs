//! `horde facilitator specs`: what validators told of miners' machines.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{Table, printable, stamp, to_the_second};
use crate::core::config::Scope;
use crate::core::model::Hotkey;
use crate::core::store::OpenError;
use crate::core::store::facilitator::{FacilitatorStore, KeptSpecs};

/// Characters of the facts that are shown of each machine; `--json` has all.
const FACTS_CHARS: usize = 120;

/// `horde facilitator specs …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  horde facilitator specs\n  horde --json facilitator specs")]
pub struct SpecsArgs {}

impl SpecsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let words = "could not open the facilitator's database";
        let settings = context.settings(Scope::Facilitator, Vec::new())?;
        let file = settings.dir()?.join("facilitator.sqlite");
        let opened = tokio::task::spawn_blocking(move || FacilitatorStore::open_beside(&file))
            .await
            .or_fail(ExitCode::Bug, words)?;
        let store = opened.map_err(|error| {
            let code = match error {
                OpenError::Missing { .. } => ExitCode::NotFound,
                _ => ExitCode::Failed,
            };
            CmdError::new(code, words).caused_by(&error).hint(
                "`horde facilitator run` makes it; `--dir` names the directory that it was started with",
            )
        })?;
        let specs = store
            .specs()
            .await
            .or_fail(ExitCode::Failed, "could not read the machine specs")?;
        if context.wants_data() {
            let all: Vec<ShownSpecs<'_>> = specs.iter().map(shown).collect();
            return context.print_data(&all);
        }
        if specs.is_empty() {
            context.say("no validator has told of a machine");
            return Ok(());
        }
        let mut table = Table::new(["miner", "told by", "at", "facts"]);
        for machine in &specs {
            let facts: String = machine.specs.to_string().chars().take(FACTS_CHARS).collect();
            table.add([
                printable(machine.miner.as_str()),
                machine.validator.to_string(),
                to_the_second(machine.received_at),
                printable(&facts),
            ]);
        }
        table.print(context)
    }
}

/// What a validator told of a miner's machine.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownSpecs<'a> {
    /// The miner.
    miner: &'a Hotkey,
    /// Who told.
    validator: &'a Hotkey,
    /// The batch of synthetic jobs in which it was told.
    batch_id: &'a str,
    /// When it came.
    received_at: String,
    /// The facts, by section, as they were told.
    specs: &'a Value,
}

fn shown(machine: &KeptSpecs) -> ShownSpecs<'_> {
    ShownSpecs {
        miner: &machine.miner,
        validator: &machine.validator,
        batch_id: &machine.batch_id,
        received_at: stamp(machine.received_at),
        specs: &machine.specs,
    }
}
