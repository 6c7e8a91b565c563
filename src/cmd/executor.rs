//! `horde executor`: run one job for a miner.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};

use schemars::JsonSchema;
use serde::Serialize;

use super::attack::InsideArgs;
use super::check::{CheckArgs, SpecsArgs};
use super::context::{Context, GRACE};
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use super::findings::Findings;
use super::miner::QUESTION;
use super::progress::Progress;
use crate::core::config::{ExecutorConfig, Flag, Scope};
use crate::core::docker::engine::Bollard;
use crate::core::docker::image::{ImageError, make_executor_image};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError};
use crate::core::executor;
use crate::core::executor::attack::Report;
use crate::core::host::specs::Specs;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new(
        "executor run",
        Prints::Nothing,
        &[ExitCode::Unreachable, ExitCode::Unhealthy],
    ),
    Promise::new(
        "executor image",
        Prints::One(of::<MadeImage<'_>>),
        &[ExitCode::Unreachable],
    ),
    Promise::new(
        "executor check",
        Prints::Either(of::<Findings>, of::<Report>),
        &[ExitCode::CheckFailed, ExitCode::Unreachable],
    ),
    Promise::new("executor specs", Prints::One(of::<Specs>), &[]),
];

/// `horde executor …`
#[derive(Debug, Subcommand)]
pub enum ExecutorCommand {
    /// Connect to a miner, run one job, report and exit
    Run(RunArgs),
    /// Make the executor's image out of this very binary
    Image(ImageArgs),
    /// Tell whether this machine is fit to run strangers' jobs
    Check(CheckArgs),
    /// Tell what this machine is made of, as miners report it
    Specs(SpecsArgs),
    /// Try to get out of the container that this runs in
    #[command(hide = true)]
    AttackInside(InsideArgs),
    /// Print the input of a self-test, in its container
    #[command(hide = true)]
    AnswerInside,
    /// Be a helper of a streaming job, in a container that an executor made
    #[command(hide = true)]
    Helper(HelperArgs),
    /// Empty folders, in a container that an executor made
    #[command(hide = true)]
    EmptyFolders(EmptyFoldersArgs),
}

/// `horde executor run …`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The miner's endpoint; `$MINER_ADDRESS` does the same
    #[arg(long, value_name = "ws://HOST:PORT")]
    miner_address: Option<String>,
    /// The token that the miner gave; `$EXECUTOR_TOKEN` does the same and is not seen by other users
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Seconds to connect to the miner [default: 5]
    #[arg(long, value_name = "SECONDS")]
    startup_time_limit: Option<String>,
    /// A Python class of the reference; there is none here
    #[arg(long, value_name = "CLASS", hide = true)]
    job_runner_class: Option<String>,
}

/// The words with which a Python miner starts the reference's executor: `python manage.py run_executor …`.
#[derive(Args, Debug)]
pub struct PythonArgs {
    #[arg(value_name = "SCRIPT", value_parser = ["manage.py"])]
    _script: String,
    #[command(subcommand)]
    command: PythonCommand,
}

/// What a Python miner asks of its executor's script.
#[derive(Debug, Subcommand)]
enum PythonCommand {
    /// Connect to a miner, run one job, report and exit
    #[command(name = "run_executor")]
    RunExecutor(RunArgs),
}

impl PythonArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let PythonCommand::RunExecutor(args) = self.command;
        args.run(context).await
    }
}

/// `horde executor image …`
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// Name of the image
    #[arg(long, value_name = "NAME:TAG", default_value = "horde-executor:latest")]
    tag: String,
}

/// `horde executor helper …`
#[derive(Args, Debug)]
pub struct HelperArgs {
    /// The folder of the socket over which the executor says what to do
    #[arg(long, value_name = "DIRECTORY")]
    folder: PathBuf,
}

/// `horde executor empty-folders …`
#[derive(Args, Debug)]
pub struct EmptyFoldersArgs {
    /// The folders
    #[arg(value_name = "DIRECTORY", required = true)]
    folders: Vec<PathBuf>,
}

impl ExecutorCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Run(args) => args.run(context).await,
            Self::Image(args) => args.run(context).await,
            Self::Check(args) => args.run(context).await,
            Self::Specs(args) => args.run(context).await,
            Self::AttackInside(args) => args.run(),
            Self::AnswerInside => answer(context),
            Self::Helper(args) => args.run(context).await,
            Self::EmptyFolders(args) => executor::cleaner::empty_folders(&args.folders)
                .or_fail(ExitCode::Failed, "could not empty the folders"),
        }
    }
}

impl RunArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        if let Some(class) = self.job_runner_class {
            let message = format!("could not use the job runner {class}");
            let cause = "job runners are Python classes of the reference's executor; this one has its own";
            let mut error = CmdError::new(ExitCode::Usage, message)
                .hint("unset CUSTOM_JOB_RUNNER_CLASS_NAME in the miner");
            error.causes.push(cause.to_owned());
            return Err(error);
        }
        let flags = [
            ("executor.miner_address", "--miner-address", self.miner_address),
            ("executor.token", "--token", self.token),
            (
                "executor.startup_seconds",
                "--startup-time-limit",
                self.startup_time_limit,
            ),
        ];
        let flags = flags.into_iter().filter_map(|(key, flag, value)| {
            Some(Flag {
                key,
                flag,
                value: value?,
            })
        });
        let settings = context.role_settings(Scope::Executor, flags.collect())?;
        let config = ExecutorConfig::from_settings(&settings)?;
        let engine = engine(&config.docker_host)?;
        let is_unhealthy = AtomicBool::new(false);
        let role = async |tasks| {
            let outcome = executor::run(config, engine, tasks).await;
            outcome.inspect_err(|error| is_unhealthy.store(error.is_unhealthy(), Ordering::Relaxed))
        };
        let outcome = context.serve("executor", GRACE, role).await;
        outcome.map_err(|error| CmdError {
            code: if is_unhealthy.load(Ordering::Relaxed) {
                ExitCode::Unhealthy
            } else {
                error.code
            },
            ..error
        })
    }
}

/// An image that was made.
#[derive(Debug, Serialize, JsonSchema)]
struct MadeImage<'a> {
    /// Its name.
    image: &'a str,
    /// Its identity: the digest of its configuration.
    id: &'a str,
}

impl ImageArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.role_settings(Scope::Executor, Vec::new())?;
        let engine = engine(settings.text("executor.docker_host")?)?;
        let image = ImageReference::parse(&self.tag).or_fail(
            ExitCode::Usage,
            format!("{:?} cannot be the name of an image", self.tag),
        )?;
        let progress = Progress::of_time(context, format!("making {image} out of this binary"));
        let made = progress.during(make_executor_image(&*engine, &image)).await;
        let id = made.map_err(|error| {
            let code = match &error {
                ImageError::Engine(EngineError::Unreachable { .. }) => ExitCode::Unreachable,
                ImageError::Engine(_) | ImageError::Read { .. } | ImageError::Write(_) => ExitCode::Failed,
            };
            CmdError::new(code, format!("could not make {image}")).caused_by(&error)
        })?;
        if context.wants_data() {
            context.print_data(&MadeImage {
                image: image.as_str(),
                id: id.as_str(),
            })
        } else {
            context.line(format_args!("{image} {}", id.as_str()))
        }
    }
}

impl HelperArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        context.role_settings(Scope::Executor, Vec::new())?;
        context
            .serve("helper", GRACE, |tasks| async move {
                executor::streaming::help(&self.folder, tasks).await
            })
            .await
    }
}

/// The largest input of a self-test, in bytes.
const QUESTION_BYTES_MAX: u64 = 1024;

/// Prints the input of a self-test: what its job does.
fn answer(context: &Context) -> Result<(), CmdError> {
    let path = std::path::Path::new("/volume").join(QUESTION);
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(&path)?
            .take(QUESTION_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().or_fail(ExitCode::Failed, format!("could not read {}", path.display()))?;
    context.bytes(&bytes)
}

/// Returns the engine of the setting `executor.docker_host`.
pub(super) fn engine(address: &str) -> Result<Arc<dyn Engine>, CmdError> {
    let engine = Bollard::new(address).or_fail(
        ExitCode::Configuration,
        "could not use the setting executor.docker_host",
    )?;
    Ok(Arc::new(engine))
}
