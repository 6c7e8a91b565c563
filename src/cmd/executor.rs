//! `horde executor`: run one job for a miner.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};
use crate::core::config::{ExecutorConfig, Flag, Scope};

/// `horde executor …`
#[derive(Debug, Subcommand)]
pub enum ExecutorCommand {
    /// Connect to a miner, run one job, report and exit
    Run(RunArgs),
    /// Make the executor's image out of this very binary
    Image(ImageArgs),
}

/// `horde executor run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The miner's endpoint; $MINER_ADDRESS does the same
    #[arg(long, value_name = "ws://HOST:PORT")]
    miner_address: Option<String>,
    /// The token that the miner gave; $EXECUTOR_TOKEN does the same and is not seen by other users
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Seconds to connect to the miner [default: 5]
    #[arg(long, value_name = "SECONDS")]
    startup_time_limit: Option<String>,
}

/// `horde executor image …`
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// Name of the image
    #[arg(long, value_name = "NAME:TAG", default_value = "horde-executor:latest")]
    tag: String,
}

impl ExecutorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::Image(args) => args.run(context).await,
        }
    }
}

impl RunArgs {
    #[expect(clippy::unused_async, reason = "the role is not here yet")]
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let flags = [
            ("executor.miner_address", "--miner-address", self.miner_address),
            ("executor.token", "--token", self.token),
            (
                "executor.startup_seconds",
                "--startup-time-limit",
                self.startup_time_limit,
            ),
        ];
        let flags = flags.into_iter().filter_map(|(key, flag, value)| {
            Some(Flag {
                key,
                flag,
                value: value?,
            })
        });
        let settings = context.role_settings(Scope::Executor, flags.collect())?;
        let _config = ExecutorConfig::from_settings(&settings)?;
        Err(CmdError::new(
            ExitCode::Bug,
            "the executor is not built into this binary yet",
        ))
    }
}

impl ImageArgs {
    #[expect(clippy::unused_async, reason = "the image is not here yet")]
    async fn run(self, _context: &Context) -> Result<(), CmdError> {
        Err(CmdError::new(
            ExitCode::Bug,
            format!("{} cannot be made by this binary yet", self.tag),
        ))
    }
}
