//! `horde key`: make keys, show them, sign and verify with them.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CmdError, ExitCode};

/// `horde key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new hotkey and write its file
    New(KeyArgs),
    /// Show the address of a key
    Show(KeyArgs),
    /// Sign a text
    Sign(KeyArgs),
    /// Verify a signature
    Verify(KeyArgs),
}

/// Which key.
#[derive(Args, Debug)]
pub struct KeyArgs {}

impl KeyCommand {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "keys are not here yet")]
    pub async fn run(self, _context: &Context) -> Result<(), CmdError> {
        Err(CmdError::new(ExitCode::Bug, "this binary has no keys yet"))
    }
}
