//! `horde facilitator`: serve the gateway between users and validators.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};
use crate::core::config::{FacilitatorConfig, Flag, Scope};

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
    #[expect(clippy::unused_async, reason = "the role is not here yet")]
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
        let _config = FacilitatorConfig::from_settings(&settings)?;
        Err(CmdError::new(
            ExitCode::Bug,
            "the facilitator is not built into this binary yet",
        ))
    }
}
