//! `horde miner stats`: how often what happened, and why.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{Table, or_nothing};
use super::open_beside;
use crate::core::miner::ledger::meaning;
use crate::core::store::miner::ledger::{Counter, Event};

/// `horde miner stats …`
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct StatsArgs {
    /// Count apart
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
}

const EXAMPLES: &str = "\
Counts are of the life of the database; `self-test` are the jobs of `horde miner check`.

Examples:
  horde miner stats
  horde miner stats --by validator --json";

/// What counts are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// Whose offers and jobs
    Validator,
}

impl StatsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, _) = open_beside(context).await?;
        let counters = store
            .counters()
            .await
            .or_fail(ExitCode::Failed, "could not read the counts")?;
        let by_validator = self.by == Some(By::Validator);
        let mut counts: BTreeMap<(Event, String, Option<String>), u64> = BTreeMap::new();
        for Counter {
            event,
            reason,
            validator,
            count,
        } in counters
        {
            let key = (event, reason, by_validator.then_some(validator));
            let sum = counts.entry(key).or_default();
            *sum = sum.saturating_add(count);
        }
        if counts.is_empty() {
            context.say("nothing was counted yet: no validator has offered a job or tried to authenticate");
        }
        if context.wants_data() {
            return context.print_data(&Counts::of(&counts));
        }
        if counts.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(["EVENT", "REASON", "VALIDATOR", "COUNT", "MEANING"]);
        for ((event, reason, validator), count) in &counts {
            let validator = match validator.as_deref() {
                None => "all".to_owned(),
                Some("") => "strangers".to_owned(),
                Some(name) => or_nothing(Some(name)),
            };
            let explained = meaning(reason).map_or("", |(meaning, _)| meaning);
            table.add([
                event.as_str().to_owned(),
                or_nothing(Some(reason)),
                validator,
                count.to_string(),
                explained.to_owned(),
            ]);
        }
        table.print(context)
    }
}

/// All counts.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Counts<'a> {
    /// One for each event, reason and (`--by validator`) validator.
    counters: Vec<Tally<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Tally<'a> {
    /// What happened.
    event: &'static str,
    /// Why; empty where there is but one reason.
    reason: &'a str,
    /// How often.
    count: u64,
    /// With `--by validator`: at whose offer; empty for strangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    validator: Option<&'a str>,
}

impl<'a> Counts<'a> {
    fn of(counts: &'a BTreeMap<(Event, String, Option<String>), u64>) -> Self {
        let counters = counts.iter().map(|((event, reason, validator), count)| Tally {
            event: event.as_str(),
            reason,
            count: *count,
            validator: validator.as_deref(),
        });
        Self {
            counters: counters.collect(),
        }
    }
}
