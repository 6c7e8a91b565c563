//! `horde facilitator`: serve the gateway between users and validators, and what its administrator asks of it.
//!
//! The administrator's commands work on the facilitator's database, beside the running facilitator: whoever may write
//! that file is the administrator, and nothing of this can be asked for over the network. A running facilitator looks for
//! new orders every second, and finds at its start those that were given while it did not run.

mod credit;
mod prices;
mod run;
mod specs;
mod user;

use clap::Subcommand;

use self::run::RunArgs;
use super::catalogue;
use super::confirm::PlanShown;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::config::{Scope, Settings};
use crate::core::crypto::ss58;
use crate::core::facilitator::DATABASE;
use crate::core::model::Hotkey;
use crate::core::store::OpenError;
use crate::core::store::facilitator::FacilitatorStore;

/// Characters of the longest note of the administrator.
const NOTE_CHARS_MAX: usize = 200;

/// What the administrator's commands have in common.
const BESIDE: &str = "These commands work on the database in the data directory of the facilitator (--dir), on the same \
machine: whoever may write that file is the administrator. A running facilitator follows within a second.";

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("facilitator run", Prints::Nothing, &[]),
    Promise::new(
        "facilitator user add",
        Prints::Either(of::<user::ShownUser<'_>>, of::<PlanShown<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Conflict,
            ExitCode::Pending,
        ],
    ),
    Promise::new(
        "facilitator user list",
        Prints::List(of::<user::ShownUser<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "facilitator user show",
        Prints::One(of::<user::ShownUser<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "facilitator user block",
        Prints::Either(of::<user::ShownUser<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Pending],
    ),
    Promise::new(
        "facilitator user unblock",
        Prints::Either(of::<user::ShownUser<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Pending],
    ),
    Promise::new(
        "facilitator credit add",
        Prints::Either(of::<credit::Given<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Pending],
    ),
    Promise::new(
        "facilitator credit list",
        Prints::List(of::<credit::ShownTransfer<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "facilitator credit check",
        Prints::One(of::<credit::Books<'_>>),
        &[ExitCode::NotFound, ExitCode::CheckFailed],
    ),
    Promise::new("facilitator prices", Prints::One(of::<prices::Prices<'_>>), &[]),
    Promise::new(
        "facilitator specs",
        Prints::List(of::<specs::ShownSpecs<'_>>),
        &[ExitCode::NotFound],
    ),
];

/// `horde facilitator …`
#[derive(Debug, Subcommand)]
pub enum FacilitatorCommand {
    /// Serve users over HTTP and validators over websockets until stopped
    Run(RunArgs),
    /// Show users, let them in, keep them out
    #[command(subcommand, after_help = BESIDE)]
    User(user::UserCommand),
    /// Give users credit, show where money went, check the books
    #[command(subcommand, after_help = BESIDE)]
    Credit(credit::CreditCommand),
    /// Show what a second of each executor class costs
    Prices(prices::PricesArgs),
    /// List what validators told of miners' machines, the newest of each
    Specs(specs::SpecsArgs),
}

impl FacilitatorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::User(command) => command.run(context).await,
            Self::Credit(command) => command.run(context).await,
            Self::Prices(args) => args.run(context),
            Self::Specs(args) => args.run(context).await,
        }
    }

    /// Tells whether the command serves until it is stopped.
    pub(super) fn is_server(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::User(_) | Self::Credit(_) | Self::Prices(_) | Self::Specs(_) => false,
        }
    }
}

/// Opens the database of a facilitator that may be running.
async fn open_beside(context: &Context) -> Result<(FacilitatorStore, Settings), CmdError> {
    const TRIED: &str = "could not open the facilitator's database";
    let settings = context.settings(Scope::Facilitator, Vec::new())?;
    let file = settings.dir()?.join(DATABASE);
    let opened = tokio::task::spawn_blocking(move || FacilitatorStore::open_beside(&file))
        .await
        .or_fail(ExitCode::Bug, TRIED)?;
    match opened {
        Ok(store) => Ok((store, settings)),
        Err(error @ OpenError::Missing { .. }) => Err(CmdError::new(catalogue::NO_DATABASE, TRIED)
            .caused_by(&error)
            .hint("`horde facilitator run` makes it; `--dir` names the directory that it was started with")),
        Err(error) => Err(CmdError::new(catalogue::DATABASE, TRIED).caused_by(&error)),
    }
}

/// Reads an address, checked: a slip of the finger must not become an order about nobody.
fn hotkey(text: &str) -> Result<Hotkey, CmdError> {
    let hotkey = Hotkey::new(text);
    ss58::decode(&hotkey)
        .or_fail(ExitCode::Usage, format!("{text:?} is no address of a hotkey"))
        .map_err(|error| error.hint("`horde facilitator user list` shows those that are known"))?;
    Ok(hotkey)
}

/// Reads words of the administrator: one line, not too long.
fn words(what: &str, text: &str) -> Result<String, CmdError> {
    let text = text.trim();
    let chars = text.chars().count();
    if chars > NOTE_CHARS_MAX || text.contains(char::is_control) {
        let message =
            format!("a {what} is one line of at most {NOTE_CHARS_MAX} characters, this one has {chars}");
        return Err(CmdError::new(ExitCode::Usage, message));
    }
    Ok(text.to_owned())
}
