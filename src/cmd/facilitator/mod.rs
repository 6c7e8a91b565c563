//! `horde facilitator`: serve the gateway between users and validators.

mod run;

use clap::Subcommand;

use self::run::RunArgs;
use super::context::Context;
use super::error::CmdError;

/// `horde facilitator …`
#[derive(Debug, Subcommand)]
pub enum FacilitatorCommand {
    /// Serve users over HTTP and validators over websockets until stopped
    Run(RunArgs),
}

impl FacilitatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
        }
    }
}
