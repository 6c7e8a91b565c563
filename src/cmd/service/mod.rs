//! `horde service`, and the life of a role as a service: signals, systemd.

pub(super) mod attend;
mod install;
mod systemd;
mod unit;

use clap::Subcommand;

use self::install::{INSTALL_EXAMPLES, InstallArgs, Told, UNIT_EXAMPLES, UnitArgs};
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode};

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("service unit", Prints::One(of::<Told>), &[]),
    Promise::new(
        "service install",
        Prints::One(of::<Told>),
        &[ExitCode::Refused, ExitCode::Conflict, ExitCode::Pending],
    ),
];

/// `horde service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Print the unit file of a role for systemd
    #[command(after_help = UNIT_EXAMPLES)]
    Unit(UnitArgs),
    /// Write the unit file of a role to where systemd looks for it, and say what to type next
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(InstallArgs),
}

impl ServiceCommand {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "all commands have one shape")]
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Unit(args) => args.print(context),
            Self::Install(args) => args.run(context),
        }
    }
}
