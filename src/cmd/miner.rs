//! `horde miner`: serve executors to validators.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};
use crate::core::config::{Flag, MinerConfig, Scope};

/// `horde miner …`
#[derive(Debug, Subcommand)]
pub enum MinerCommand {
    /// Serve validators and start an executor per job until stopped
    Run(RunArgs),
}

/// `horde miner run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where to serve validators and executors [default: 0.0.0.0:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// How executors are started: process or docker [default: process]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// How many executors of which class to offer [default: spin_up-4min.gpu-24gb=1]
    #[arg(long, value_name = "CLASS=N,…")]
    executors: Option<String>,
}

impl MinerCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
        }
    }
}

impl RunArgs {
    #[expect(clippy::unused_async, reason = "the role is not here yet")]
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = [
            ("miner.listen", "--listen", self.listen),
            ("miner.backend", "--backend", self.backend),
            ("miner.executors", "--executors", self.executors),
        ];
        let flags = flags.into_iter().filter_map(|(key, flag, value)| {
            Some(Flag {
                key,
                flag,
                value: value?,
            })
        });
        let settings = context.role_settings(Scope::Miner, flags.collect())?;
        let _config = MinerConfig::from_settings(&settings)?;
        Err(CmdError::new(
            ExitCode::Bug,
            "the miner is not built into this binary yet",
        ))
    }
}
