//! `horde facilitator`: serve the gateway between users and validators.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::context::{Context, GRACE};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::chain::Chain;
use crate::core::chain::local::LocalChain;
use crate::core::config::{FacilitatorConfig, Flag, Scope};
use crate::core::facilitator;

/// `horde facilitator …`
#[derive(Debug, Subcommand)]
pub enum FacilitatorCommand {
    /// Serve users over HTTP and validators over websockets until stopped
    Run(RunArgs),
}

/// `horde facilitator run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where to serve [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

impl FacilitatorCommand {
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
            .listen
            .map(|value| Flag {
                key: "facilitator.listen",
                flag: "--listen",
                value,
            })
            .into_iter()
            .collect();
        let settings = context.role_settings(Scope::Facilitator, flags)?;
        let config = FacilitatorConfig::from_settings(&settings)?;
        if !config.allow_any_user && config.users.is_empty() {
            tracing::warn!(
                "no user may log in: facilitator.users is empty and facilitator.allow_any_user is off"
            );
        }
        let clock = context.clock.clone();
        let chain = LocalChain::open(
            &config.chain.path,
            config.chain.netuid,
            config.chain.block,
            clock.clone(),
        )
        .await
        .or_fail(ExitCode::Failed, "could not open the chain")?;
        let chain: Arc<dyn Chain> = Arc::new(chain);
        context
            .serve("facilitator", GRACE, |tasks| {
                facilitator::run(config, chain, clock, tasks)
            })
            .await
    }
}
