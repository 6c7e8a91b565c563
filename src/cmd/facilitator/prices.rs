//! `horde facilitator prices`: what the configuration says that jobs cost.

use clap::Args;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::cmd::table::Table;
use crate::core::config::{FacilitatorConfig, Scope};
use crate::core::model::ExecutorClass;
use crate::core::money::Micro;

const SECONDS_PER_HOUR: i64 = 3600;

/// `horde facilitator prices`
#[derive(Args, Debug)]
#[command(
    after_help = "Amounts are units. The configuration has micro-units, a millionth each, by the second; a running \
facilitator has the prices that it found at its start:

  [facilitator.prices]
  \"always_on.gpu-24gb\" = 400
  \"always_on.test\" = 0

Examples:
  horde facilitator prices
  horde facilitator prices --json | jq .prices"
)]
pub struct PricesArgs {}

/// What jobs cost.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Prices<'a> {
    /// Whether they cost anything.
    charges: bool,
    /// Micro-units a second, by executor class.
    prices: IndexMap<&'a str, Micro>,
}

impl PricesArgs {
    #[expect(clippy::unused_self, reason = "as all commands are run")]
    pub(super) fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.settings(Scope::Facilitator, Vec::new())?;
        let prices = FacilitatorConfig::from_settings(&settings)?.prices;
        if context.wants_data() {
            return context.print_data(&Prices {
                charges: !prices.is_empty(),
                prices: prices
                    .iter()
                    .map(|(class, price)| (class.as_str(), *price))
                    .collect(),
            });
        }
        if prices.is_empty() {
            context.say("jobs are free: facilitator.prices is empty");
            return Ok(());
        }
        let mut table = Table::new(["CLASS", "A SECOND", "AN HOUR"]);
        for (class, price) in &prices {
            table.add([
                class.to_string(),
                price.to_string(),
                price.times(SECONDS_PER_HOUR).to_string(),
            ]);
        }
        table.print(context)?;
        let refused: Vec<&str> = ExecutorClass::ALL
            .into_iter()
            .filter(|class| prices.iter().all(|(priced, _)| priced != class))
            .map(ExecutorClass::as_str)
            .collect();
        if !refused.is_empty() {
            context.say(format!("without a price, so refused: {}", refused.join(", ")));
        }
        Ok(())
    }
}
