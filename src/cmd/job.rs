//! `horde job`: submit jobs to a facilitator and follow them.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};

/// `horde job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job
    Submit(ServerArgs),
    /// List jobs
    List(ServerArgs),
    /// Show a job
    Show(ServerArgs),
    /// Wait for a job and exit with its exit code
    Wait(ServerArgs),
}

/// Which facilitator.
#[derive(Args, Debug)]
pub struct ServerArgs {
    /// The facilitator
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    facilitator: String,
}

impl JobCommand {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "the client is not here yet")]
    pub async fn run(self, _context: &Context) -> Result<(), CmdError> {
        let (Self::Submit(server) | Self::List(server) | Self::Show(server) | Self::Wait(server)) = self;
        let message = format!("this binary has no client yet to ask {}", server.facilitator);
        Err(CmdError::new(ExitCode::Bug, message))
    }
}
