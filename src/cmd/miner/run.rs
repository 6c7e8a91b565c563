//! `horde miner run`: the role itself.

use std::sync::Arc;

use clap::Args;

use super::super::context::{Context, GRACE};
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::key::open_hotkey;
use super::DATABASE;
use crate::core::chain::local::LocalChain;
use crate::core::config::{ChainConfig, Flag, MinerConfig, Scope};
use crate::core::crypto::{Keypair, ss58};
use crate::core::miner::{self, Ports};
use crate::core::net::http;
use crate::core::store::miner::{MinerStore, Step};

/// `horde miner run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where to serve validators and executors [default: 0.0.0.0:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// How executors are started: process, docker, swarm or command [default: process]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// How many executors of which class to offer [default: spin_up-4min.gpu-24gb=1]
    #[arg(long, value_name = "CLASS=N,…")]
    executors: Option<String>,
    /// Be the trusted miner of this validator alone: no chain, no wallet
    #[arg(long, value_name = "HOTKEY")]
    local_validator: Option<String>,
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = [
            ("miner.listen", "--listen", self.listen),
            ("miner.backend", "--backend", self.backend),
            ("miner.executors", "--executors", self.executors),
            ("miner.local_validator", "--local-validator", self.local_validator),
        ];
        let flags = flags.into_iter().filter_map(|(key, flag, value)| {
            Some(Flag {
                key,
                flag,
                value: value?,
            })
        });
        let settings = context.served_settings(Scope::Miner, flags.collect())?;
        let config = MinerConfig::from_settings(&settings)?;
        if let Some(validator) = &config.local_validator {
            ss58::decode(validator).or_fail(
                ExitCode::Configuration,
                format!(
                    "miner.local_validator is no address of a hotkey: {:?}",
                    validator.as_str()
                ),
            )?;
        }
        // Bound first: who connects while the rest opens waits in the kernel.
        let listener = http::listen(config.listen)
            .or_fail(ExitCode::Failed, format!("could not listen on {}", config.listen))
            .map_err(|error| error.hint("is another miner running? `--listen` takes another address"))?;
        let ports = open_ports(context, &config).await?;
        let grace = if ports.leaves_jobs {
            config.drain + GRACE
        } else {
            GRACE
        };
        context
            .serve("miner", grace, |tasks| miner::run(config, ports, listener, tasks))
            .await
    }
}

async fn open_ports(context: &Context, config: &MinerConfig) -> Result<Ports, CmdError> {
    // Nobody asks for the key of a trusted miner: one that is made for this run signs as well as any.
    let keypair = match config.local_validator {
        Some(_) => Keypair::from_seed(&rand::random()),
        None => open_hotkey(context, &config.wallet).await?,
    };
    let ChainConfig { path, netuid, block } = &config.chain;
    let chain = LocalChain::open(path, *netuid, *block, context.clock.clone())
        .await
        .or_fail(ExitCode::Failed, "could not open the chain")?;
    let file = config.dir.join(DATABASE);
    let store = tokio::task::spawn_blocking(move || MinerStore::open(&file))
        .await
        .or_fail(ExitCode::Bug, "could not open the database")?
        .or_fail(ExitCode::Failed, "could not open the database")?;
    Ok(Ports {
        keypair,
        chain: Arc::new(chain),
        store: store.with_trap(context.trap(&Step::ALL.map(Step::as_str))),
        leaves_jobs: !context.ends_with_parent(),
        clock: context.clock.clone(),
        environment: context.environment.clone(),
        backend: None,
    })
}
