//! `horde validator run`: the role itself.

use std::sync::Arc;

use clap::Args;

use super::super::context::{Context, GRACE};
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::key::open_hotkey;
use crate::core::chain::local::LocalChain;
use crate::core::config::{ChainConfig, Flag, Scope, ValidatorConfig};
use crate::core::validator::{self, Ports};

/// `horde validator run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// The facilitator's endpoint for validators, such as ws://127.0.0.1:9000/ws/v0/
    #[arg(long, value_name = "URL")]
    facilitator_url: Option<String>,
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = self
            .facilitator_url
            .map(|value| Flag {
                key: "validator.facilitator_url",
                flag: "--facilitator-url",
                value,
            })
            .into_iter()
            .collect();
        let settings = context.served_settings(Scope::Validator, flags)?;
        let config = ValidatorConfig::from_settings(&settings)?;
        let keypair = open_hotkey(context, &config.wallet).await?;
        let ChainConfig { path, netuid, block } = &config.chain;
        let chain = LocalChain::open(path, *netuid, *block, context.clock.clone())
            .await
            .or_fail(ExitCode::Failed, "could not open the local chain")?;
        let ports = Ports {
            keypair,
            chain: Arc::new(chain),
            clock: context.clock.clone(),
        };
        context
            .serve("validator", GRACE, |tasks| async move {
                validator::run(config, ports, &tasks).await
            })
            .await
    }
}
