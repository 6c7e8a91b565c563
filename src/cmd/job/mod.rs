//! `horde job`: submit jobs to a facilitator and follow them.

mod ask;
mod asked;
mod cancel;
mod download;
mod end;
mod explain;
mod file;
mod find;
mod follow;
mod list;
mod live;
mod logs;
mod moving;
mod output;
mod plan;
mod reader;
pub(super) mod recent;
mod report_cheated;
mod retry;
mod s3;
mod show;
mod stream;
mod submit;
mod tame;
mod volume;
mod wait;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::cancel::CancelArgs;
use self::download::DownloadArgs;
pub(super) use self::end::end;
use self::explain::ExplainArgs;
use self::find::find;
use self::list::ListArgs;
use self::logs::LogsArgs;
use self::report_cheated::ReportCheatedArgs;
use self::retry::RetryArgs;
use self::show::ShowArgs;
use self::submit::SubmitArgs;
use self::wait::WaitArgs;
use super::catalogue::{self, Problem};
use super::confirm::PlanShown;
use super::context::Context;
use super::contract::{JOBS_OWN, Prints, Promise, of};
use super::error::{CmdError, ExitCode};
use super::key::{self, WalletArgs};
use crate::core::client::{Client, ClientError};
use crate::core::config::{Flag, Scope, Settings, WalletConfig};
use crate::core::proto::sdk_facilitator::JobView;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new(
        "job submit",
        Prints::Either(of::<JobView>, of::<plan::Planned<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
            ExitCode::CheckFailed,
            ExitCode::Pending,
            JOBS_OWN,
        ],
    ),
    Promise::new(
        "job download",
        Prints::One(of::<download::Downloaded<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
            ExitCode::Partial,
            JOBS_OWN,
        ],
    ),
    Promise::new(
        "job list",
        Prints::List(of::<JobView>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Unreachable],
    ),
    Promise::new(
        "job show",
        Prints::One(of::<JobView>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Unreachable],
    ),
    Promise::new(
        "job logs",
        Prints::Either(of::<logs::Logs<'_>>, of::<logs::LogEvent<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
        ],
    ),
    Promise::new(
        "job wait",
        Prints::One(of::<JobView>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::TooLong,
            JOBS_OWN,
        ],
    ),
    Promise::new(
        "job cancel",
        Prints::List(of::<cancel::Outcome>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
            ExitCode::TooLong,
            ExitCode::Partial,
            ExitCode::Pending,
        ],
    ),
    Promise::new(
        "job explain",
        Prints::One(of::<explain::Explained<'_>>),
        &[ExitCode::NotFound, ExitCode::Refused, ExitCode::Unreachable],
    ),
    Promise::new(
        "job retry",
        Prints::Either(of::<JobView>, of::<plan::Planned<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
            ExitCode::Pending,
            JOBS_OWN,
        ],
    ),
    Promise::new(
        "job report-cheated",
        Prints::Either(of::<report_cheated::Report<'_>>, of::<PlanShown<'_>>),
        &[
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Unreachable,
            ExitCode::Conflict,
            ExitCode::Pending,
        ],
    ),
];

/// `horde job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job, follow it, and exit with its exit code
    ///
    /// Standard output and error are the job's own. Other ends: 124 the job ran out of time, 125 the horde failed it,
    /// 126 it was rejected, 127 its image or command was not found or cannot be run, 130 it was cancelled. The first
    /// Ctrl-C leaves the job alone.
    #[command(after_help = submit::EXAMPLES)]
    Submit(Box<SubmitArgs>),
    /// Bring a job's artifacts and outputs into a folder
    #[command(after_help = download::EXAMPLES)]
    Download(Box<DownloadArgs>),
    /// List your jobs, newest first
    #[command(after_help = list::EXAMPLES)]
    List(ListArgs),
    /// Show a job and its history
    #[command(after_help = show::EXAMPLES)]
    Show(ShowArgs),
    /// Print what a job wrote, or writes
    ///
    /// On a terminal, control characters of the job are made harmless; a pipe or file gets them as they are.
    #[command(after_help = logs::EXAMPLES)]
    Logs(LogsArgs),
    /// Wait for a job and exit with its exit code
    ///
    /// Other ends are those of `horde job submit`; 7 when the time to wait is over.
    #[command(after_help = wait::EXAMPLES)]
    Wait(WaitArgs),
    /// Cancel jobs: they end when their executors have reported the containers dead
    ///
    /// A validator or facilitator of the reference cannot; then nothing changes, and the exit code is 5. It is 8 when
    /// only some of several jobs could be cancelled.
    #[command(after_help = cancel::EXAMPLES)]
    Cancel(CancelArgs),
    /// Explain why a job stands as it stands: the reason, who is to blame, the evidence, where the time went, what helps
    #[command(after_help = explain::EXAMPLES)]
    Explain(ExplainArgs),
    /// Submit the same job again, with a new signature, and follow it
    #[command(after_help = retry::EXAMPLES)]
    Retry(Box<RetryArgs>),
    /// Report that a job's miner cheated, as the same job on the trusted miner shows
    #[command(after_help = report_cheated::EXAMPLES)]
    ReportCheated(ReportCheatedArgs),
}

/// Which facilitator, as whom.
#[derive(Args, Debug)]
pub struct UserArgs {
    /// The facilitator, if not the one that the setting `client.facilitator_url` names
    #[arg(long, value_name = "URL")]
    facilitator: Option<String>,
    /// Sign with a development key such as //Charlie
    #[arg(long, value_name = "URI", conflicts_with_all = ["wallet_path", "wallet", "hotkey"])]
    key_uri: Option<String>,
    #[command(flatten)]
    wallet: WalletArgs,
    /// Read the password of an encrypted key from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl JobCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Submit(args) => Box::pin(args.run(context)).await,
            Self::Download(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Show(args) => args.run(context).await,
            Self::Logs(args) => args.run(context).await,
            Self::Wait(args) => args.run(context).await,
            Self::Cancel(args) => args.run(context).await,
            Self::Explain(args) => args.run(context).await,
            Self::Retry(args) => args.run(context).await,
            Self::ReportCheated(args) => args.run(context).await,
        }
    }
}

impl UserArgs {
    async fn client(&self, context: &Context) -> Result<Client, CmdError> {
        let settings = self.settings(context)?;
        self.client_of(context, &settings).await
    }

    fn settings(&self, context: &Context) -> Result<Settings, CmdError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            (
                "client.facilitator_url",
                "--facilitator",
                self.facilitator.clone(),
            ),
            (
                "wallet.password_file",
                "--password-file",
                path(&self.password_file),
            ),
            ("wallet.uri", "--key-uri", self.key_uri.clone()),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(key, flag, value)| value.map(|value| Flag { key, flag, value }));
        context.settings(Scope::Tool, flags.chain(self.wallet.flags()).collect())
    }

    async fn client_of(&self, context: &Context, settings: &Settings) -> Result<Client, CmdError> {
        let mut wallet = WalletConfig::from_settings(settings)?;
        // A wallet named on the command line outranks a development key from elsewhere.
        if !self.wallet.flags().is_empty() {
            wallet.uri = None;
        }
        let keypair = key::open_hotkey(context, &wallet).await?;
        Client::new(
            settings.text("client.facilitator_url")?,
            keypair,
            context.clock.clone(),
        )
        .map_err(|error| client_error("could not use the facilitator", &error))
    }
}

fn client_error(tried: &str, error: &ClientError) -> CmdError {
    let problem: &Problem = match error {
        ClientError::BadUrl { .. } => catalogue::USAGE,
        ClientError::Unreachable { .. } => catalogue::NO_FACILITATOR,
        ClientError::NotLetIn { .. } => catalogue::NOT_LET_IN,
        ClientError::Refused { status: 402, .. } => catalogue::NO_CREDIT,
        ClientError::NotFound { .. } => catalogue::NO_JOB,
        ClientError::Refused { status: 409, .. } => catalogue::CONFLICT,
        ClientError::SetUp(_)
        | ClientError::Refused { .. }
        | ClientError::BadAnswer { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Request(_) => catalogue::FAILED,
    };
    let failed = CmdError::new(problem, tried).caused_by(error);
    match error {
        ClientError::Unreachable { .. } => {
            failed.hint("is a facilitator running there? --facilitator URL names another one")
        }
        ClientError::NotLetIn { hotkey, .. } => failed.hint(format!(
            "its operator lets users in (`horde facilitator user add {hotkey}`) and keeps them out (`user block`)"
        )),
        ClientError::Refused { status: 402, .. } => {
            failed.hint("the facilitator's operator adds credit; shorter limits take less of it")
        }
        ClientError::Refused { words, .. } if words == "Could not select Validator" => {
            failed.hint("the validator is not connected to this facilitator")
        }
        _ => failed,
    }
}
