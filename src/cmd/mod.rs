//! The command line: parses words, runs a role or a question, prints; no domain logic.

pub mod attack;
pub mod catalogue;
pub mod check;
pub mod color;
pub mod config;
pub mod confirm;
pub mod context;
pub mod contexts;
pub mod contract;
pub mod dashboard;
pub mod doctor;
pub mod error;
pub mod executor;
pub mod facilitator;
mod findings;
pub mod help;
pub mod init;
pub mod job;
pub mod key;
pub mod logs;
pub mod man;
pub mod miner;
pub mod offers;
pub mod output;
mod progress;
pub mod schema;
pub mod service;
pub mod status;
mod table;
pub mod up;
pub mod validator;
pub mod version;
#[cfg(debug_assertions)]
mod witness;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::color::ColorChoice;
use self::context::{Context, GlobalArgs};
use self::contract::Promise;
use self::error::{CmdError, ExitCode};
use crate::core::config::Environment;

/// What all commands promise, in the order of the help.
const PROMISES: &[&[Promise]] = &[
    init::PROMISES,
    up::PROMISES,
    facilitator::PROMISES,
    validator::PROMISES,
    miner::PROMISES,
    executor::PROMISES,
    job::PROMISES,
    dashboard::PROMISES,
    logs::PROMISES,
    doctor::PROMISES,
    service::PROMISES,
    status::PROMISES,
    key::PROMISES,
    config::PROMISES,
    contexts::PROMISES,
    schema::PROMISES,
    help::PROMISES,
    offers::PROMISES,
    man::PROMISES,
    version::PROMISES,
];

/// A compute subnet in one binary: facilitator, validator, miner, executor and the job commands
#[derive(Debug, Parser)]
#[command(name = "horde", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up a miner, validator, facilitator or user: asks, writes a configuration, tells what comes next
    Init(Box<init::InitArgs>),
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
    /// Tell on one screen what runs here, and what to look at
    Status(status::StatusArgs),
    /// Tell what keeps the roles of this machine from working, and what helps
    Doctor(doctor::DoctorArgs),
    /// Run a role under systemd
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Make keys, show them, sign and verify with them
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show and check the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Name networks and servers, and choose which of them commands work on
    #[command(subcommand, after_help = contexts::ContextCommand::ABOUT)]
    Context(contexts::ContextCommand),
    /// Print the JSON Schema of what a command prints
    Schema(schema::SchemaArgs),
    /// Explain a command, an error's code or a topic
    Help(help::HelpArgs),
    /// Show the manual's page of a command
    Man(man::ManArgs),
    /// Print the script by which a shell completes horde's words
    Completions(offers::CompletionsArgs),
    /// Tell what this binary is made of, and what it speaks
    Version(version::VersionArgs),
}

impl Command {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Init(args) => args.run(context).await,
            Self::Up(args) => args.run(context).await,
            Self::Facilitator(command) => command.run(context).await,
            Self::Validator(command) => command.run(context).await,
            Self::Miner(command) => command.run(context).await,
            Self::Executor(command) => command.run(context).await,
            Self::Python(args) => args.run(context).await,
            Self::Job(command) => Box::pin(command.run(context)).await,
            Self::Dashboard(args) => args.run(context).await,
            Self::Logs(args) => args.run(context).await,
            Self::Status(args) => args.run(context).await,
            Self::Doctor(args) => args.run(context).await,
            Self::Service(command) => command.run(context).await,
            Self::Key(command) => command.run(context).await,
            Self::Config(command) => command.run(context).await,
            Self::Context(command) => command.run(context).await,
            Self::Schema(args) => args.run(context),
            Self::Help(args) => args.run(context),
            Self::Man(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Version(args) => args.run(context),
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
    let environment = Environment::of_process();
    let words: Vec<OsString> = std::env::args_os().collect();
    if offers::answer(&environment, &words) {
        return ExitCode::Done.number().into();
    }
    if let Some(command) = asks_for_fields(&words) {
        let outcome = list_fields(contract::promise(&command));
        return end(
            outcome,
            wants_colors(ColorChoice::Auto, &environment, io::stderr().is_terminal()),
        )
        .into();
    }
    let parsed = Cli::command()
        .try_get_matches_from(&words)
        .and_then(|matches| Ok((words_of(&matches), Cli::from_arg_matches(&matches)?)));
    let (command, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return answer(&error, &environment),
    };
    let (choice, promise) = (cli.global.color.unwrap_or_default(), contract::promise(&command));
    let colors = wants_colors(choice, &environment, io::stderr().is_terminal());
    #[cfg(debug_assertions)]
    let kept = environment.clone();
    let outcome =
        panic::catch_unwind(AssertUnwindSafe(|| run(cli, environment, promise))).unwrap_or_else(|_| {
            // The panic's own message is on standard error already.
            Err(CmdError::new(
                ExitCode::Bug,
                "this is a bug of horde; please report it with the lines above",
            ))
        });
    let code = end(outcome, colors);
    #[cfg(debug_assertions)]
    witness::ended(&kept, &command, code);
    code.into()
}

fn wants_colors(choice: ColorChoice, environment: &Environment, is_terminal: bool) -> bool {
    color::wanted(choice, |name| environment.get(name), is_terminal)
}

/// Returns the words of the command that was asked for, as in `job list`.
fn words_of(matches: &ArgMatches) -> String {
    let mut words = Vec::new();
    let mut level = matches;
    while let Some((word, below)) = level.subcommand() {
        words.push(word);
        level = below;
    }
    words.join(" ")
}

/// Returns the words of the command if `--fields` stands last, without names: then they are listed, whatever else the
/// command needs.
fn asks_for_fields(words: &[OsString]) -> Option<String> {
    let (last, before) = words.split_last()?;
    if last != "--fields" {
        return None;
    }
    let root = Cli::command();
    let (mut command, mut found) = (&root, Vec::new());
    for word in before.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(below) = command.find_subcommand(word) {
            found.push(below.get_name());
            command = below;
        }
    }
    Some(found.join(" "))
}

/// Prints the names of the fields of a command's rows.
fn list_fields(promise: &Promise) -> Result<(), CmdError> {
    output::check_prints(promise)?;
    let fields = promise.prints.fields();
    let lines = fields.iter().map(|field| format!("{field}\n"));
    // A closed pipe has been read far enough.
    drop(
        io::stdout()
            .lock()
            .write_all(lines.collect::<String>().as_bytes()),
    );
    Ok(())
}

/// Tells why a command failed, if it did, and returns the exit code's number.
fn end(outcome: Result<(), CmdError>, colors: bool) -> u8 {
    match outcome {
        Ok(()) => ExitCode::Done.number(),
        Err(error) => {
            // Nobody is left to tell if this fails.
            drop(error.render(&mut io::stderr().lock(), colors));
            error.code.number()
        }
    }
}

/// Prints what the parser answers itself: help and version, and what is wrong with the command line.
fn answer(error: &clap::Error, environment: &Environment) -> std::process::ExitCode {
    let is_error = error.use_stderr();
    let is_terminal = if is_error {
        io::stderr().is_terminal()
    } else {
        io::stdout().is_terminal()
    };
    let colors = wants_colors(ColorChoice::Auto, environment, is_terminal);
    let text = error.render();
    let text = if colors {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    // On a closed pipe what was written has been read far enough.
    if !is_error {
        drop(io::stdout().lock().write_all(text.as_bytes()));
        return ExitCode::Done.number().into();
    }
    let problem = match error.kind() {
        ErrorKind::ArgumentConflict => catalogue::USAGE,
        _ => catalogue::WORD,
    };
    let mut out = io::stderr().lock();
    let rest = text.split_once("error:").map_or(&*text, |(_, rest)| rest);
    let rest = rest.strip_prefix("\u{1b}[0m").unwrap_or(rest).trim_start();
    drop(error::write_head(&mut out, problem, colors).and_then(|()| out.write_all(rest.as_bytes())));
    ExitCode::Usage.number().into()
}

fn run(cli: Cli, environment: Environment, promise: &'static Promise) -> Result<(), CmdError> {
    let context = Context::new(cli.global, environment, promise)?;
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
