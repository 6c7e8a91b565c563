//! `horde facilitator run`.

use std::sync::Arc;

use clap::Args;

use crate::cmd::context::{Context, GRACE};
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::core::chain::Chain;
use crate::core::chain::local::LocalChain;
use crate::core::config::{FacilitatorConfig, Flag, Scope};
use crate::core::facilitator;
use crate::core::store::facilitator::CrashPoint;

/// `horde facilitator run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where to serve [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = self
            .listen
            .map(|value| Flag {
                key: "facilitator.listen",
                flag: "--listen",
                value,
            })
            .into_iter()
            .collect();
        let settings = context.served_settings(Scope::Facilitator, flags)?;
        let config = FacilitatorConfig::from_settings(&settings)?;
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
        let trap = context.trap(&CrashPoint::ALL.map(CrashPoint::as_str));
        context
            .serve("facilitator", GRACE, |tasks| {
                facilitator::run(config, chain, clock, trap, tasks)
            })
            .await
    }
}
