//! The command line: parses words, runs a role or a question, prints; no domain logic.

pub mod attack;
pub mod check;
pub mod config;
pub mod context;
pub mod dashboard;
pub mod error;
pub mod executor;
pub mod facilitator;
pub mod job;
pub mod key;
pub mod logs;
pub mod miner;
mod table;
pub mod up;
pub mod validator;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::context::{Context, GlobalArgs};
use self::error::{CmdError, ExitCode};

/// A compute subnet in one binary: facilitator, validator, miner, executor and the job commands
#[derive(Debug, Parser)]
#[command(name = "horde", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole network on this machine: facilitator, validator, two miners and their executors
    Up(up::UpArgs),
    /// Serve the gateway between users and validators
    #[command(subcommand)]
    Facilitator(facilitator::FacilitatorCommand),
    /// Serve as broker between a facilitator and miners
    #[command(subcommand)]
    Validator(validator::ValidatorCommand),
    /// Serve executors to validators
    #[command(subcommand)]
    Miner(miner::MinerCommand),
    /// Run one job for a miner
    #[command(subcommand)]
    Executor(executor::ExecutorCommand),
    /// Run one job for a Python miner
    #[command(hide = true)]
    Python(executor::PythonArgs),
    /// Submit jobs to a facilitator and follow them
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Watch the roles of this machine on one screen
    Dashboard(dashboard::DashboardArgs),
    /// Print what the roles of this machine say of themselves, and follow it
    #[command(after_help = logs::EXAMPLES)]
    Logs(logs::LogsArgs),
    /// Make keys, show them, sign and verify with them
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show and check the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

impl Command {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Up(args) => args.run(context).await,
            Self::Facilitator(command) => command.run(context).await,
            Self::Validator(command) => command.run(context).await,
            Self::Miner(command) => command.run(context).await,
            Self::Executor(command) => command.run(context).await,
            Self::Python(args) => args.run(context).await,
            Self::Job(command) => command.run(context).await,
            Self::Dashboard(args) => args.run(context).await,
            Self::Logs(args) => args.run(context).await,
            Self::Key(command) => command.run(context).await,
            Self::Config(command) => command.run(context).await,
        }
    }

    /// Long-running servers get two workers; for all others one thread is enough and starts faster.
    fn is_server(&self) -> bool {
        match self {
            Self::Facilitator(command) => command.is_server(),
            Self::Validator(command) => command.is_server(),
            Self::Miner(command) => command.is_server(),
            _ => false,
        }
    }
}

/// How long blocking work that nobody waits for may hold up the end of the process.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Runs the command line of this process and returns its exit code.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Done
            };
            // Help on a closed pipe has been read far enough.
            drop(error.print());
            return code.number().into();
        }
    };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(cli))).unwrap_or_else(|_| {
        // The panic's own message is on standard error already.
        Err(CmdError::new(
            ExitCode::Bug,
            "this is a bug of horde; please report it with the lines above",
        ))
    });
    let code = match outcome {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            drop(error.render(&mut io::stderr().lock()));
            error.code
        }
    };
    code.number().into()
}

fn run(cli: Cli) -> Result<(), CmdError> {
    let context = Context::new(cli.global);
    let mut builder = if cli.command.is_server() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| CmdError::new(ExitCode::Failed, "could not start the runtime").caused_by(&error))?;
    let outcome = runtime.block_on(cli.command.run(&context));
    runtime.shutdown_timeout(LAST_WAIT);
    context.end_logs();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
