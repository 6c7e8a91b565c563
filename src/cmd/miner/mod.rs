//! `horde miner`: serve executors to validators, and what its operator asks of it.
//!
//! A command beside a running miner reads its database, and orders by writing there: the miner looks for new orders
//! every second, and finds at its start those that were given while it did not run.

mod check;
mod drain;
mod dynamic;
mod jobs;
mod manifest;
mod receipts;
mod run;
mod selftest;
mod show;
mod stats;
mod validator;

pub(super) use self::selftest::QUESTION;

use clap::Subcommand;

use super::catalogue;
use super::confirm::PlanShown;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::config::{Scope, Settings};
use crate::core::store::OpenError;
use crate::core::store::miner::MinerStore;

/// The miner's database in its data directory.
pub(super) const DATABASE: &str = "miner.sqlite";

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("miner run", Prints::Nothing, &[]),
    Promise::new(
        "miner jobs",
        Prints::ListOr(of::<jobs::Shown<'_>>, of::<jobs::Change<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner jobs show",
        Prints::One(of::<show::Whole<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner stats",
        Prints::Under("counters", of::<stats::Counts<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner check",
        Prints::Under("checks", of::<super::findings::Findings>),
        &[ExitCode::NotFound, ExitCode::CheckFailed, ExitCode::Unreachable],
    ),
    Promise::new(
        "miner validator list",
        Prints::List(of::<validator::ShownValidator<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner validator add",
        Prints::Either(of::<validator::ShownValidator<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner validator remove",
        Prints::Either(of::<validator::ShownValidator<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner validator block",
        Prints::Either(of::<validator::ShownValidator<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner validator unblock",
        Prints::Either(of::<validator::ShownValidator<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner drain",
        Prints::Either(of::<drain::Draining>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::TooLong, ExitCode::Pending],
    ),
    Promise::new(
        "miner undrain",
        Prints::Either(of::<drain::Draining>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner manifest show",
        Prints::One(of::<manifest::ShownManifest<'_>>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner manifest set",
        Prints::Either(of::<manifest::SetManifest<'_>>, of::<PlanShown<'_>>),
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "miner receipts",
        Prints::Under("receipts", of::<receipts::Receipts>),
        &[ExitCode::NotFound, ExitCode::CheckFailed],
    ),
    Promise::new(
        "miner receipts export",
        Prints::Stream(of::<crate::core::model::receipt::Receipt>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "miner dynamic",
        Prints::One(of::<dynamic::Dynamic<'_>>),
        &[ExitCode::NotFound],
    ),
];

/// `horde miner …`
#[derive(Debug, Subcommand)]
pub enum MinerCommand {
    /// Serve validators and start an executor per job until stopped
    Run(run::RunArgs),
    /// List the accepted jobs, newest first, or what was not accepted and why
    Jobs(jobs::JobsArgs),
    /// Count offers, jobs and refusals by reason
    Stats(stats::StatsArgs),
    /// Tell whether validators find this miner and get their jobs done
    Check(check::CheckArgs),
    /// Show validators, let one in for debugging, block one
    #[command(subcommand)]
    Validator(validator::ValidatorCommand),
    /// Take no new jobs, until `undrain`: running ones go on
    Drain(drain::DrainArgs),
    /// Take jobs again after `drain`
    Undrain(drain::UndrainArgs),
    /// Show and change what validators are offered
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Show the receipts that were countersigned
    Receipts(receipts::ReceiptsArgs),
    /// Show the subnet's dynamic configuration as this miner has read it
    Dynamic(dynamic::DynamicArgs),
}

impl MinerCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::Jobs(args) => args.run(context).await,
            Self::Stats(args) => args.run(context).await,
            Self::Check(args) => args.run(context).await,
            Self::Validator(command) => command.run(context).await,
            Self::Drain(args) => args.run(context).await,
            Self::Undrain(args) => args.run(context).await,
            Self::Manifest(command) => command.run(context).await,
            Self::Receipts(args) => args.run(context).await,
            Self::Dynamic(args) => args.run(context).await,
        }
    }

    /// Tells whether the command serves until it is stopped.
    pub(super) fn is_server(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::Jobs(_)
            | Self::Stats(_)
            | Self::Check(_)
            | Self::Validator(_)
            | Self::Drain(_)
            | Self::Undrain(_)
            | Self::Manifest(_)
            | Self::Receipts(_)
            | Self::Dynamic(_) => false,
        }
    }
}

/// Opens the database of a miner that may be running.
async fn open_beside(context: &Context) -> Result<(MinerStore, Settings), CmdError> {
    let settings = context.settings(Scope::Miner, Vec::new())?;
    let file = settings.dir()?.join(DATABASE);
    let opened = tokio::task::spawn_blocking(move || MinerStore::open_beside(&file))
        .await
        .or_fail(ExitCode::Bug, "could not open the miner's database")?;
    match opened {
        Ok(store) => Ok((store, settings)),
        Err(error @ OpenError::Missing { .. }) => Err(CmdError::new(
            catalogue::NO_DATABASE,
            "could not open the miner's database",
        )
        .caused_by(&error)
        .hint("`horde miner run` makes it; `--dir` names the directory that the miner was started with")),
        Err(error) => {
            Err(CmdError::new(catalogue::DATABASE, "could not open the miner's database").caused_by(&error))
        }
    }
}
