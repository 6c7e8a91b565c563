//! `horde validator`: serve as broker between a facilitator and miners, and what its operator asks of it.
//!
//! A command beside a running validator reads its database.

mod blacklist;
mod cheats;
mod run;

use clap::Subcommand;

use super::catalogue;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::config::Scope;
use crate::core::store::OpenError;
use crate::core::store::validator::ValidatorStore;

/// The validator's database in its data directory.
const DATABASE: &str = "validator.sqlite";

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("validator run", Prints::Nothing, &[]),
    Promise::new(
        "validator cheats",
        Prints::List(of::<cheats::ShownReport<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "validator blacklist",
        Prints::List(of::<blacklist::ShownEntry<'_>>),
        &[ExitCode::NotFound],
    ),
];

/// `horde validator …`
#[derive(Debug, Subcommand)]
pub enum ValidatorCommand {
    /// Take jobs from the facilitator and drive them through miners until stopped
    Run(run::RunArgs),
    /// List the users' reports that a miner cheated, newest first, also those that do not count and why
    Cheats(cheats::CheatsArgs),
    /// List the miners that get no jobs at the moment, and why
    Blacklist(blacklist::BlacklistArgs),
}

impl ValidatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::Cheats(args) => args.run(context).await,
            Self::Blacklist(args) => args.run(context).await,
        }
    }

    /// Tells whether the command serves until it is stopped.
    pub(super) fn is_server(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::Cheats(_) | Self::Blacklist(_) => false,
        }
    }
}

/// Opens the database of a validator that may be running.
async fn open_beside(context: &Context) -> Result<ValidatorStore, CmdError> {
    let settings = context.settings(Scope::Validator, Vec::new())?;
    let file = settings.dir()?.join(DATABASE);
    let opened = tokio::task::spawn_blocking(move || ValidatorStore::open_beside(&file))
        .await
        .or_fail(ExitCode::Bug, "could not open the validator's database")?;
    opened.map_err(|error| {
        let words = "could not open the validator's database";
        match error {
            OpenError::Missing { .. } => CmdError::new(catalogue::NO_DATABASE, words)
                .caused_by(&error)
                .hint("`horde validator run` makes it; `--dir` names the directory that the validator was started with"),
            _ => CmdError::new(catalogue::DATABASE, words).caused_by(&error),
        }
    })
}
