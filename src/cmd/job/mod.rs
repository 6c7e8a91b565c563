//! `horde job`: submit jobs to a facilitator and follow them.

mod ask;
mod asked;
mod download;
mod end;
mod file;
mod follow;
mod list;
mod output;
mod plan;
mod progress;
mod s3;
mod show;
mod stream;
mod submit;
mod volume;
mod wait;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::download::DownloadArgs;
pub(super) use self::end::end;
pub(super) use self::follow::follow;
use self::list::ListArgs;
use self::show::ShowArgs;
use self::submit::SubmitArgs;
use self::wait::WaitArgs;
use super::context::Context;
use super::error::{CmdError, ExitCode};
use super::key;
use crate::core::client::{Client, ClientError};
use crate::core::config::{Flag, Scope, WalletConfig};
use crate::core::model::JobId;
use crate::core::proto::sdk_facilitator::JobView;

/// `horde job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job, follow it, and exit with its exit code
    ///
    /// Standard output and error are the job's own. Other ends: 124 the job ran out of time, 125 the horde failed it,
    /// 126 it was rejected.
    #[command(after_help = submit::EXAMPLES)]
    Submit(Box<SubmitArgs>),
    /// Bring a job's artifacts and outputs into a folder
    #[command(after_help = download::EXAMPLES)]
    Download(Box<DownloadArgs>),
    /// List your jobs, newest first
    List(ListArgs),
    /// Show a job and its history
    Show(ShowArgs),
    /// Wait for a job and exit with its exit code
    Wait(WaitArgs),
}

/// Which facilitator, as whom.
#[derive(Args, Debug)]
pub struct UserArgs {
    /// The facilitator
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    facilitator: String,
    /// Sign with a development key such as //Charlie
    #[arg(long, value_name = "URI", conflicts_with_all = ["wallet_path", "wallet", "hotkey"])]
    key_uri: Option<String>,
    /// Look for wallets in this directory
    #[arg(long, value_name = "DIRECTORY")]
    wallet_path: Option<PathBuf>,
    /// Use the wallet of this name
    #[arg(long, value_name = "NAME")]
    wallet: Option<String>,
    /// Use the hotkey of this name
    #[arg(long, value_name = "NAME")]
    hotkey: Option<String>,
    /// Read the password of an encrypted key from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl JobCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Submit(args) => args.run(context).await,
            Self::Download(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Show(args) => args.run(context).await,
            Self::Wait(args) => args.run(context).await,
        }
    }
}

impl UserArgs {
    async fn client(&self, context: &Context) -> Result<Client, CmdError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("wallet.path", "--wallet-path", path(&self.wallet_path)),
            ("wallet.name", "--wallet", self.wallet.clone()),
            ("wallet.hotkey", "--hotkey", self.hotkey.clone()),
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
        let settings = context.settings(Scope::Tool, flags.collect())?;
        let mut wallet = WalletConfig::from_settings(&settings)?;
        // A wallet named on the command line outranks a development key from the file or the environment.
        if self.wallet_path.is_some() || self.wallet.is_some() || self.hotkey.is_some() {
            wallet.uri = None;
        }
        let keypair = key::open_hotkey(context, &wallet).await?;
        Client::new(&self.facilitator, keypair, context.clock.clone())
            .map_err(|error| client_error("could not use the facilitator", &error))
    }
}

async fn find(client: &Client, id: &str) -> Result<JobView, CmdError> {
    client
        .job(&JobId::new(id))
        .await
        .map_err(|error| client_error("could not read the job", &error))
}

fn client_error(tried: &str, error: &ClientError) -> CmdError {
    let code = match error {
        ClientError::BadUrl { .. } => ExitCode::Usage,
        ClientError::Unreachable { .. } => ExitCode::Unreachable,
        ClientError::NotLetIn { .. } => ExitCode::Refused,
        ClientError::NotFound { .. } => ExitCode::NotFound,
        ClientError::SetUp(_)
        | ClientError::Refused { .. }
        | ClientError::BadAnswer { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Request(_) => ExitCode::Failed,
    };
    let failed = CmdError::new(code, tried).caused_by(error);
    match error {
        ClientError::Unreachable { .. } => {
            failed.hint("is a facilitator running there? --facilitator URL names another one")
        }
        ClientError::NotLetIn { .. } => {
            failed.hint("its operator must list this hotkey in facilitator.users")
        }
        ClientError::Refused { words, .. } if words == "Could not select Validator" => {
            failed.hint("the validator is not connected to this facilitator")
        }
        _ => failed,
    }
}
