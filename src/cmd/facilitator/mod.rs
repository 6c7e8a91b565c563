//! `horde facilitator`: serve the gateway between users and validators.

mod run;
mod specs;

use clap::Subcommand;

use self::run::RunArgs;
use super::context::Context;
use super::error::CmdError;

/// `horde facilitator …`
#[derive(Debug, Subcommand)]
pub enum FacilitatorCommand {
    /// Serve users over HTTP and validators over websockets until stopped
    Run(RunArgs),
    /// List what validators told of miners' machines, the newest of each
    Specs(specs::SpecsArgs),
}

impl FacilitatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::Specs(args) => args.run(context).await,
        }
    }

    /// Tells whether the command serves until it is stopped.
    pub(super) fn is_server(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::Specs(_) => false,
        }
    }
}
