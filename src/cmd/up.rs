//! `horde up`: a whole network on this machine, as supervised child processes.

use clap::Args;

use super::context::Context;
use super::error::{CmdError, ExitCode};

/// `horde up …`
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Run a sample job, print its result and exit with its outcome
    #[arg(long)]
    once: bool,
}

impl UpArgs {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "the network is not here yet")]
    pub async fn run(self, _context: &Context) -> Result<(), CmdError> {
        let what = if self.once {
            "a network for one job"
        } else {
            "a network"
        };
        Err(CmdError::new(
            ExitCode::Bug,
            format!("this binary cannot start {what} yet"),
        ))
    }
}
