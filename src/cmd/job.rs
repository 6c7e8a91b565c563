//! `horde job`: submit jobs to a facilitator and follow them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::context::Context;
use super::error::{CmdError, ExitCode};
use super::key;
use super::table::{Table, printable};
use crate::core::client::{Client, ClientError, inline};
use crate::core::config::{Flag, Scope, WalletConfig};
use crate::core::model::job::{FailureReason, JobStatus};
use crate::core::model::upload::{SingleFilePut, SingleFileUpload};
use crate::core::model::volume::{InlineVolume, SimpleVolume, SingleFileVolume, ZipUrlVolume};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::proto::facilitator_validator::StatusMetadata;
use crate::core::proto::job::Context as FailureContext;
use crate::core::proto::sdk_facilitator::{JobView, StatusEntry, Submit};

/// Pauses between two looks at a job: the first, the longest, and how much longer each is than the last, in percent.
const LOOK: (Duration, Duration, u32) = (Duration::from_millis(200), Duration::from_secs(1), 125);

/// Jobs asked for at a time by `horde job list`.
const PAGE_SIZE: u32 = 50;

/// Seconds for a streaming job to become reachable, as the SDK sends them for jobs that do not stream.
const STREAMING_START_SECONDS: i64 = 5;

/// `horde job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job, follow it, and exit with its exit code
    ///
    /// Standard output and error are the job's own. Other ends: 124 the job ran out of time, 125 the horde failed it,
    /// 126 it was rejected.
    #[command(after_help = SUBMIT_EXAMPLES)]
    Submit(Box<SubmitArgs>),
    /// List your jobs, newest first
    List(ListArgs),
    /// Show a job and its history
    Show(ShowArgs),
    /// Wait for a job and exit with its exit code
    Wait(WaitArgs),
}

const SUBMIT_EXAMPLES: &str = "\
Examples:
  horde job submit alpine:3.19 -- echo hello
  horde job submit --volume data/:/volume/ --output '/output/sum.txt=https://…' IMAGE -- sh -c '…'";

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

/// `horde job submit …`
#[derive(Args, Debug)]
pub struct SubmitArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Send the job to this validator (SS58) [default: the only one that is connected]
    #[arg(long, value_name = "HOTKEY")]
    validator: Option<String>,
    /// Run on an executor of this class
    #[arg(long, value_name = "CLASS", default_value = ExecutorClass::DEFAULT.as_str())]
    class: ExecutorClass,
    /// Set an environment variable; NAME alone takes the value from here
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give a file, a folder or a URL as input below /volume; a URL with a PATH that ends in / is a zip to unpack there
    #[arg(long = "volume", value_name = "SOURCE:PATH")]
    volumes: Vec<String>,
    /// Upload a file below /output by PUT when the job is done
    #[arg(long = "output", value_name = "PATH=URL")]
    outputs: Vec<String>,
    /// Return the files of this folder of the container with the result
    #[arg(long, value_name = "DIRECTORY")]
    artifact: Option<String>,
    /// Seconds for the input
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(..=86_400))]
    download_limit: u32,
    /// Seconds for the container
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(..=86_400))]
    execution_limit: u32,
    /// Seconds for the output
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(..=86_400))]
    upload_limit: u32,
    /// Name the family of jobs that this one belongs to
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Print the job's identity and leave it alone
    #[arg(long)]
    detach: bool,
    /// The image
    image: String,
    /// The command
    #[arg(last = true)]
    args: Vec<String>,
}

/// `horde job list …`
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    user: UserArgs,
    /// List so many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

/// `horde job show …`
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    user: UserArgs,
    /// The job
    id: String,
}

/// `horde job wait …`
#[derive(Args, Debug)]
pub struct WaitArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Give up after so many seconds, with 7; the job goes on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The job
    id: String,
}

impl JobCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Submit(args) => args.run(context).await,
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

impl SubmitArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let env = env(context, &self.env)?;
        let volumes = self.volumes.iter().map(|given| volume(given));
        let volumes = volumes.collect::<Result<_, _>>()?;
        let uploads = self.outputs.iter().map(|given| upload(given));
        let uploads = uploads.collect::<Result<_, _>>()?;
        let client = self.user.client(context).await?;
        let validator = match &self.validator {
            Some(hotkey) => Hotkey::new(hotkey.as_str()),
            None => only_validator(&client).await?,
        };
        let submit = Submit {
            target_validator_hotkey: validator,
            executor_class: self.class,
            docker_image: self.image,
            job_namespace: self.namespace,
            args: self.args,
            env,
            use_gpu: self.class.has_gpu(),
            artifacts_dir: self.artifact,
            on_trusted_miner: false,
            download_time_limit: self.download_limit.into(),
            execution_time_limit: self.execution_limit.into(),
            streaming_start_time_limit: STREAMING_START_SECONDS,
            upload_time_limit: self.upload_limit.into(),
            streaming_details: None,
            volumes,
            uploads,
        };
        let job = client
            .submit(&submit)
            .await
            .map_err(|error| client_error("could not submit the job", &error))?;
        if !self.detach {
            return follow(context, &client, job, None).await;
        }
        if context.json {
            return context.print_json(&job);
        }
        context.line(&job.uuid)
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let mut jobs = Vec::new();
        let mut number = 1;
        while jobs.len() < self.limit {
            let page = client
                .page(number, PAGE_SIZE)
                .await
                .map_err(|error| client_error("could not list the jobs", &error))?;
            jobs.extend(page.results);
            if page.next.is_none() {
                break;
            }
            number += 1;
        }
        jobs.truncate(self.limit);
        if context.json {
            return context.print_json(&jobs);
        }
        if jobs.is_empty() {
            context.say("no jobs yet");
            return Ok(());
        }
        let mut table = Table::new(["JOB", "STATUS", "CLASS", "SUBMITTED", "IMAGE"]);
        for job in &jobs {
            table.add([
                printable(job.uuid.as_str()),
                job.current().to_string(),
                job.executor_class.to_string(),
                job.created_at.to_string(),
                printable(&job.docker_image),
            ]);
        }
        table.print(context)
    }
}

impl ShowArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        if context.json {
            return context.print_json(&job);
        }
        let limits = format!(
            "download {} s, execution {} s, upload {} s",
            job.download_time_limit, job.execution_time_limit, job.upload_time_limit
        );
        let args = job.args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>();
        for (name, text) in [
            ("job", job.uuid.as_str().to_owned()),
            ("status", job.current().to_string()),
            ("image", printable(&job.docker_image)),
            ("arguments", args.join(" ")),
            ("class", job.executor_class.to_string()),
            ("validator", printable(job.target_validator_hotkey.as_str())),
            ("limits", limits),
            ("submitted", job.created_at.to_string()),
        ] {
            context.line(format_args!("{name:<12}{text}"))?;
        }
        for (index, entry) in job.status_history.iter().enumerate() {
            let name = if index == 0 { "history" } else { "" };
            let line = history_line(&job, entry);
            context.line(format_args!("{name:<12}{line}"))?;
        }
        if let Some(words) = end(&job).and_then(|end| end.words) {
            context.line(format_args!("{:<12}{}", "end", printable(&words)))?;
        }
        for (name, paths) in [("artifacts", &job.artifacts), ("uploads", &job.upload_results)] {
            for (index, path) in paths.keys().enumerate() {
                let name = if index == 0 { name } else { "" };
                context.line(format_args!("{name:<12}{}", printable(path)))?;
            }
        }
        Ok(())
    }
}

impl WaitArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let deadline = self.timeout.map(Duration::from_secs);
        let job = find(&client, &self.id).await?;
        follow(context, &client, job, deadline).await
    }
}

async fn find(client: &Client, id: &str) -> Result<JobView, CmdError> {
    client
        .job(&JobId::new(id))
        .await
        .map_err(|error| client_error("could not read the job", &error))
}

/// Returns the validator of a facilitator that has one connected.
async fn only_validator(client: &Client) -> Result<Hotkey, CmdError> {
    let tried = "could not choose a validator";
    let validators = match client.validators().await {
        Ok(validators) => validators,
        Err(error @ ClientError::NotFound { .. }) => {
            return Err(CmdError::new(ExitCode::Usage, tried)
                .caused_by(&error)
                .hint("this facilitator does not tell its validators: pass --validator HOTKEY"));
        }
        Err(error) => return Err(client_error(tried, &error)),
    };
    match validators.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(CmdError::new(ExitCode::Unreachable, tried)
            .hint("no validator is connected to the facilitator; try again when one is")),
        many => {
            let names: Vec<&str> = many.iter().map(Hotkey::as_str).collect();
            let hint = format!("pass --validator with one of {}", names.join(", "));
            Err(CmdError::new(ExitCode::Usage, tried).hint(hint))
        }
    }
}

fn usage(given: &str, problem: &str) -> CmdError {
    CmdError::new(ExitCode::Usage, format!("{given:?} {problem}"))
}

fn env(context: &Context, given: &[String]) -> Result<IndexMap<String, String>, CmdError> {
    let mut env = IndexMap::new();
    for pair in given {
        let (name, value) = if let Some(both) = pair.split_once('=') {
            both
        } else {
            let value = context.environment.get(pair);
            let value = value.ok_or_else(|| usage(pair, "is not set in this environment"))?;
            (pair.as_str(), value)
        };
        if name.is_empty() {
            return Err(usage(pair, "has no name before the ="));
        }
        env.insert(name.to_owned(), value.to_owned());
    }
    Ok(env)
}

/// Returns what of an absolute path lies below `root`, without leading slash; empty for the root itself.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root)?;
    match rest.strip_prefix('/') {
        Some(inner) => Some(inner),
        None => rest.is_empty().then_some(rest),
    }
}

/// Reads `SOURCE:PATH`; a local source is packed into the request.
fn volume(given: &str) -> Result<SimpleVolume, CmdError> {
    let (source, path) = given
        .rsplit_once(":/")
        .ok_or_else(|| usage(given, "is not SOURCE:PATH, as in data.txt:/volume/data.txt"))?;
    let path = below(path, "volume").ok_or_else(|| usage(given, "has a path outside of /volume"))?;
    if source.starts_with("http://") || source.starts_with("https://") {
        if path.is_empty() || path.ends_with('/') {
            return Ok(SimpleVolume::ZipUrl(ZipUrlVolume {
                contents: source.to_owned(),
                relative_path: Some(path.trim_end_matches('/').to_owned()),
            }));
        }
        return Ok(SimpleVolume::SingleFile(SingleFileVolume {
            url: source.to_owned(),
            relative_path: path.to_owned(),
        }));
    }
    let source = PathBuf::from(source);
    // A folder's content goes to PATH; so does a file, unless PATH names a folder.
    let (folder, name) = if source.is_dir() || path.is_empty() || path.ends_with('/') {
        (path.trim_end_matches('/'), None)
    } else {
        match path.rsplit_once('/') {
            Some((folder, name)) => (folder, Some(name)),
            None => ("", Some(path)),
        }
    };
    let packed = inline::pack(&source, name).map_err(|error| {
        let failed = CmdError::new(ExitCode::Usage, "could not pack a volume").caused_by(&error);
        match error {
            inline::PackError::TooLarge { .. } => failed
                .hint("a request holds little: serve large inputs by URL, as in https://…:/volume/data.bin"),
            _ => failed,
        }
    })?;
    Ok(SimpleVolume::Inline(InlineVolume {
        contents: packed,
        relative_path: Some(folder.to_owned()),
    }))
}

/// Reads `PATH=URL`.
fn upload(given: &str) -> Result<SingleFileUpload, CmdError> {
    let (path, url) = given
        .split_once('=')
        .ok_or_else(|| usage(given, "is not PATH=URL, as in /output/sum.txt=https://…"))?;
    let path = below(path, "/output")
        .filter(|path| !path.is_empty() && !path.ends_with('/'))
        .ok_or_else(|| usage(given, "does not name a file below /output"))?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(usage(given, "has no URL of http:// or https:// behind the ="));
    }
    Ok(SingleFileUpload::Put(SingleFilePut {
        url: url.to_owned(),
        relative_path: path.to_owned(),
        signed_headers: None,
    }))
}

/// Shows a job's stages until it has ended, then prints its output and ends as it did.
pub(super) async fn follow(
    context: &Context,
    client: &Client,
    mut job: JobView,
    patience: Option<Duration>,
) -> Result<(), CmdError> {
    let started = Instant::now();
    let mut stages = Stages::new(context, &job);
    let mut pause = LOOK.0;
    loop {
        stages.show(&job);
        if job.current().is_terminal() {
            stages.end();
            return finish(context, &job);
        }
        if patience.is_some_and(|patience| started.elapsed() >= patience) {
            stages.end();
            let words = format!("the job is still {} and goes on", job.current());
            return Err(CmdError::new(ExitCode::TooLong, words).hint(format!("horde job wait {}", job.uuid)));
        }
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                stages.end();
                context.say(format_args!("the job goes on; `horde job wait {}` follows it", job.uuid));
                return Err(CmdError::quiet(ExitCode::Passed(130)));
            }
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * LOOK.2 / 100).min(LOOK.1);
        job = client.job(&job.uuid).await.map_err(|error| {
            client_error("could not read the job", &error)
                .hint(format!("the job goes on: horde job wait {}", job.uuid))
        })?;
    }
}

/// The stages of a job as they come: a moving line for a person, plain lines otherwise.
struct Stages<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    shown: usize,
}

impl<'a> Stages<'a> {
    fn new(context: &'a Context, job: &JobView) -> Self {
        let bar = context.interactive.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let stages = Self {
            context,
            bar,
            shown: 0,
        };
        stages.say(&format!("job {}", job.uuid));
        stages
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.context.say(line),
        }
    }

    fn show(&mut self, job: &JobView) {
        for entry in job.status_history.iter().skip(self.shown) {
            self.say(&history_line(job, entry));
        }
        self.shown = job.status_history.len();
        if let Some(bar) = &self.bar {
            bar.set_message(waiting_for(job.current()));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns a step with its time since the submission.
fn history_line(job: &JobView, entry: &StatusEntry) -> String {
    let since = entry.created_at.moment() - job.created_at.moment();
    format!("{:>8.2} s  {}", since.as_seconds_f64(), entry.status)
}

/// Returns what happens next to a job in this state.
const fn waiting_for(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Sent => "waiting for the validator",
        JobStatus::Received => "looking for a miner",
        JobStatus::Accepted => "starting the executor",
        JobStatus::ExecutorReady => "fetching the input",
        JobStatus::VolumesReady | JobStatus::StreamingReady => "running",
        JobStatus::ExecutionDone => "delivering the output",
        JobStatus::Completed | JobStatus::Rejected | JobStatus::Failed | JobStatus::HordeFailed => "ended",
        JobStatus::Unknown => "in a state that this program does not know",
    }
}

/// The most that is shown of one fact of a failure, in characters.
const FACT_CHARACTERS_MAX: usize = 300;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: ExitCode,
    /// Why, for people; none if all is well.
    pub(super) words: Option<String>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Returns how a job ended; none if it has not.
pub(super) fn end(job: &JobView) -> Option<End> {
    let last = job.last().filter(|entry| entry.status.is_terminal())?;
    let metadata: StatusMetadata =
        serde_json::from_value(Value::Object(last.metadata.clone())).unwrap_or_default();
    let ended = |code, words: String| End {
        code,
        words: Some(words),
        stdout: job.stdout.clone(),
        stderr: job.stderr.clone(),
    };
    if last.status == JobStatus::Completed {
        return Some(End {
            words: None,
            ..ended(ExitCode::Done, String::new())
        });
    }
    if let Some(details) = metadata.horde_failure_details {
        let words = format!(
            "the horde failed the job: {} (reported by the {}: {}){}",
            details.message,
            details.reported_by,
            details.reason,
            facts(details.context.as_ref())
        );
        return Some(ended(ExitCode::JobFailedByHorde, words));
    }
    if let Some(details) = metadata.job_rejection_details {
        let words = format!(
            "the job was rejected: {} (by the {}: {}){}",
            details.message,
            details.rejected_by,
            details.reason,
            facts(details.context.as_ref())
        );
        return Some(ended(ExitCode::JobRejected, words));
    }
    if let Some(details) = metadata.job_failure_details {
        let (code, words) = match details.reason {
            FailureReason::Timeout => (
                ExitCode::JobTimeout,
                format!(
                    "the job ran out of time in {}: {}",
                    details.stage, details.message
                ),
            ),
            FailureReason::NonzeroReturnCode => {
                let status = details.docker_process_exit_status;
                let code = status.and_then(|status| u8::try_from(status).ok());
                let shown =
                    status.map_or_else(|| "an unknown exit code".to_owned(), |s| format!("exit code {s}"));
                (
                    // A job that failed must not look like one that did not.
                    ExitCode::Passed(code.filter(|code| *code != 0).unwrap_or(1)),
                    format!("the job ended with {shown}"),
                )
            }
            FailureReason::DownloadFailed | FailureReason::UploadFailed | FailureReason::Unknown => (
                ExitCode::Failed,
                format!(
                    "the job failed in {}: {} ({}){}",
                    details.stage,
                    details.message,
                    details.reason,
                    facts(details.context.as_ref())
                ),
            ),
        };
        return Some(End {
            stdout: details.docker_process_stdout.unwrap_or_default(),
            stderr: details.docker_process_stderr.unwrap_or_default(),
            ..ended(code, words)
        });
    }
    let code = match last.status {
        JobStatus::Rejected => ExitCode::JobRejected,
        JobStatus::HordeFailed => ExitCode::JobFailedByHorde,
        _ => ExitCode::Failed,
    };
    Some(ended(
        code,
        format!("the job ended as {} without a reason", last.status),
    ))
}

/// Returns what a peer added to its reason, for the end of a sentence: texts only, each cut to a line's length.
fn facts(details: Option<&FailureContext>) -> String {
    let texts = details.into_iter().flatten().filter_map(|(name, value)| {
        let text = value.as_str().map(str::trim).filter(|text| !text.is_empty())?;
        let cut: String = text.chars().take(FACT_CHARACTERS_MAX).collect();
        Some(format!("; {name}: {cut}"))
    });
    texts.collect()
}

/// Prints a job that has ended and ends as it did.
fn finish(context: &Context, job: &JobView) -> Result<(), CmdError> {
    let Some(end) = end(job) else {
        return Err(CmdError::new(ExitCode::Bug, "the job has not ended"));
    };
    if context.json {
        context.print_json(job)?;
    } else {
        context.bytes(end.stdout.as_bytes())?;
        // Nobody is left to tell if this fails.
        drop(io::stderr().lock().write_all(end.stderr.as_bytes()));
        for path in job.artifacts.keys() {
            context.say(format_args!("artifact {}", printable(path)));
        }
        for path in job.upload_results.keys() {
            context.say(format_args!("uploaded /output/{}", printable(path)));
        }
    }
    match end.words {
        None => Ok(()),
        Some(words) => Err(CmdError::new(end.code, printable(&words))),
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(status: &str, metadata: &Value) -> JobView {
        serde_json::from_value(json!({
            "uuid": "u", "executor_class": "always_on.test", "created_at": "2026-11-22T09:13:22.5Z", "docker_image": "i",
            "args": [], "env": {}, "stdout": "out", "stderr": "err",
            "status_history": [{"status": "sent", "metadata": {}, "created_at": "2026-11-22T09:13:22.5Z"},
                {"status": status, "metadata": metadata, "created_at": "2026-11-22T09:13:24Z"}],
        }))
        .unwrap()
    }

    fn code(status: &str, metadata: &Value) -> u8 {
        end(&job(status, metadata)).unwrap().code.number()
    }

    #[test]
    fn a_command_ends_as_its_job_did() {
        let failed = |reason: &str, status: Value| {
            let details = json!({"job_failure_details": {"reason": reason, "stage": "execution", "message": "m",
                "docker_process_exit_status": status, "docker_process_stdout": "o"}});
            code("failed", &details)
        };
        let horde = json!({"horde_failure_details": {"reported_by": "validator", "reason": "generic_error",
            "message": "m"}});
        assert_eq!(code("completed", &json!({})), 0);
        assert_eq!(failed("nonzero_return_code", json!(3)), 3);
        assert_eq!(failed("nonzero_return_code", json!(0)), 1);
        assert_eq!(failed("nonzero_return_code", json!(-1)), 1);
        assert_eq!(failed("nonzero_return_code", Value::Null), 1);
        assert_eq!(failed("timeout", Value::Null), 124);
        assert_eq!(failed("download_failed", Value::Null), 1);
        assert_eq!(code("horde_failed", &horde), 125);
        assert_eq!(code("failed", &horde), 125, "what the validator itself noticed");
        assert_eq!(code("horde_failed", &json!({})), 125);
        assert_eq!(code("rejected", &json!({})), 126);
        assert_eq!(end(&job("accepted", &json!({}))), None);
    }

    #[test]
    fn the_facts_of_a_failure_are_told_and_bounded() {
        let pull = json!({"horde_failure_details": {"reported_by": "executor", "reason": "generic_error",
            "message": "Failed to pull docker image",
            "context": {"stderr": "no such image: x:1\n", "code": 5, "long": "y".repeat(10_000)}}});
        let words = end(&job("horde_failed", &pull)).unwrap().words.unwrap();
        assert!(
            words.contains("; stderr: no such image: x:1; long: yyy"),
            "{words}"
        );
        assert!(words.len() < 1000);
    }

    #[test]
    fn the_output_of_a_failed_job_is_in_its_details() {
        let details = json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution",
            "message": "m", "docker_process_stdout": "o", "docker_process_stderr": "e"}});
        let end = end(&job("failed", &details)).unwrap();
        assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("o", "e"));
    }

    #[test]
    fn a_step_is_shown_with_its_time_since_the_submission() {
        let job = job("received", &json!({}));
        assert_eq!(history_line(&job, job.last().unwrap()), "    1.50 s  received");
    }

    #[test]
    fn volumes_are_read_as_they_are_meant() {
        let url = |given: &str| serde_json::to_value(volume(given).unwrap()).unwrap();
        assert_eq!(
            url("http://h:80/f.bin:/volume/d/f.bin"),
            json!({"volume_type": "single_file", "url": "http://h:80/f.bin", "relative_path": "d/f.bin"})
        );
        assert_eq!(
            url("https://h/a.zip:/volume/d/"),
            json!({"volume_type": "zip_url", "contents": "https://h/a.zip", "relative_path": "d"})
        );
        assert_eq!(url("https://h/a.zip:/volume")["relative_path"], "");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.txt");
        std::fs::write(&file, "x").unwrap();
        let inline = |path: &str| url(&format!("{}:{path}", file.display()))["relative_path"].clone();
        assert_eq!(inline("/volume/d/y.txt"), "d");
        assert_eq!(inline("/volume/y.txt"), "");
        assert_eq!(inline("/volume/d/"), "d");
        for bad in ["x", "x:y", "x:/elsewhere", "x:/volumes/y", "/nowhere:/volume/x"] {
            assert_eq!(volume(bad).unwrap_err().code, ExitCode::Usage, "{bad}");
        }
    }

    #[test]
    fn outputs_are_files_below_the_output_folder() {
        let put = upload("/output/d/f=https://h/f?a=b").unwrap();
        assert_eq!(
            serde_json::to_value(put).unwrap(),
            json!({"output_upload_type": "single_file_put", "url": "https://h/f?a=b", "relative_path": "d/f",
                "signed_headers": null})
        );
        for bad in [
            "/output/f",
            "/output/=https://h",
            "/tmp/f=https://h",
            "/output/f=ftp://h",
            "/outputs/f=http://h",
        ] {
            assert_eq!(upload(bad).unwrap_err().code, ExitCode::Usage, "{bad}");
        }
    }
}
