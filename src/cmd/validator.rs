//! `horde validator`: serve as broker between a facilitator and miners.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::context::{Context, GRACE};
use super::error::{CmdError, ExitCode, OrFail};
use super::key::open_hotkey;
use crate::core::chain::local::LocalChain;
use crate::core::config::{ChainConfig, Flag, Scope, ValidatorConfig};
use crate::core::validator::{self, Ports};

/// `horde validator …`
#[derive(Debug, Subcommand)]
pub enum ValidatorCommand {
    /// Take jobs from the facilitator and drive them through miners until stopped
    Run(RunArgs),
}

/// `horde validator run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// The facilitator's endpoint for validators, such as ws://127.0.0.1:9000/ws/v0/
    #[arg(long, value_name = "URL")]
    facilitator_url: Option<String>,
}

impl ValidatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
        }
    }
}

impl RunArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = self
            .facilitator_url
            .map(|value| Flag {
                key: "validator.facilitator_url",
                flag: "--facilitator-url",
                value,
            })
            .into_iter()
            .collect();
        let settings = context.role_settings(Scope::Validator, flags)?;
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
