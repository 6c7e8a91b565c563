//! `horde job submit`: from flags and a job file to a request, and what becomes of it.

use std::path::PathBuf;

use clap::Args;

use super::asked::AskedArgs;
use super::follow::{self, InterruptArgs, follow};
use super::plan::{Plan, check_cost, estimate};
use super::stream::{self, Files};
use super::volume::Inputs;
use super::{UserArgs, ask, client_error, output, recent, s3};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::client::draft::{Draft, KEY_CHARS_MAX};
use crate::core::client::jobfile::EXAMPLE;
use crate::core::client::source::{Source, Target};
use crate::core::client::{Client, ClientError, inline};
use crate::core::docker::reference::ImageReference;
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::proto::sdk_facilitator::{JobView, Submit};
use crate::core::s3::S3;

/// Seconds for each stage unless the user says otherwise.
const DOWNLOAD_SECONDS: u32 = 60;
const EXECUTION_SECONDS: u32 = 120;
const UPLOAD_SECONDS: u32 = 60;

/// Seconds for a job to become reachable: as the SDK sends them for jobs that do not stream, and for those that do.
const STREAMING_START_SECONDS: (u32, u32) = (5, 30);

/// The largest request, in bytes: as a message it must fit the validator's frame of 1 MiB beside the identity and the
/// signature.
const REQUEST_BYTES_MAX: usize = 1024 * 1024 - 4096;

/// Most characters of an image's name, as in the reference's database.
const IMAGE_CHARS_MAX: usize = 255;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job submit alpine:3.19 -- echo hello
  horde job submit --volume data/:/volume/in --deliver /output/sum.txt=s3://bucket/sum.txt IMAGE -- sh -c '…'
  horde job submit --volume hf://org/model@main:/volume/model --limits execution=3600 --max-cost 2.5 IMAGE
  horde job submit --example > job.toml; horde job submit --file job.toml --dry-run";

/// `horde job submit …`
#[expect(clippy::struct_excessive_bools, reason = "flags")]
#[derive(Args, Debug)]
pub struct SubmitArgs {
    #[command(flatten)]
    user: UserArgs,
    #[command(flatten)]
    asked: AskedArgs,
    /// Print a job file with every field, and submit nothing
    #[arg(long, exclusive = true)]
    example: bool,
    /// Write certificate and key of a streaming job into this folder [default: horde-stream-…]
    #[arg(long, value_name = "DIRECTORY", requires = "stream")]
    stream_dir: Option<PathBuf>,
    /// Check everything and print what would be submitted; ends with 11
    #[arg(long)]
    dry_run: bool,
    /// Print the job's identity and leave it alone
    #[arg(long)]
    detach: bool,
    /// Print the job's identity and nothing else, and leave it alone
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    interrupt: InterruptArgs,
    /// Never ask at the terminal
    #[arg(long)]
    no_input: bool,
}

/// What submitting takes besides the request.
struct Ready {
    job: Submit,
    plan: Plan,
    stream: Option<Files>,
}

impl SubmitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        if self.example {
            return context.bytes(EXAMPLE.as_bytes());
        }
        let mut draft = self.asked.draft(context)?;
        if draft.image.is_none() && ask::may_ask(context, self.no_input) {
            draft.image = Some(ask::image().await?);
        }
        check(&draft)?;
        if !self.quiet {
            warn(context, &draft);
        }
        let client = self.user.client(context).await?;
        let Ready { job, plan, stream } = self.ready(context, &client, &draft).await?;
        if self.dry_run {
            plan.print(context, &job)?;
            return Err(CmdError::quiet(ExitCode::Pending));
        }
        let key = plan.idempotency_key;
        let job = client
            .submit_once(&job, &key)
            .await
            .map_err(|error| submit_error(&error, &key))?;
        recent::note(&context.environment, &job.uuid);
        self.after(context, &client, job, stream).await
    }

    /// Makes the request; nothing of it is done yet but uploads of inputs.
    async fn ready(&self, context: &Context, client: &Client, draft: &Draft) -> Result<Ready, CmdError> {
        let validator = match &draft.validator {
            Some(hotkey) => Hotkey::new(hotkey.as_str()),
            None => self.choose_validator(context, client).await?,
        };
        let mut job = request(draft, validator);
        let key = draft.idempotency_key.clone();
        let key = key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let stream = self.stream(draft, &mut job, &key).await?;
        // Asked for before anything is uploaded.
        let cost = if draft.max_cost.is_some() || self.dry_run {
            estimate(client, &job).await?
        } else {
            None
        };
        check_cost(cost.as_ref(), draft.max_cost)?;
        let s3 = if needs_s3(draft) {
            Some(s3::open(&draft.s3).await?)
        } else {
            None
        };
        let (volumes, outputs) = self.fill(context, s3.as_ref(), draft, &mut job).await?;
        let mut plan = Plan::new(client, &job, key)?;
        if plan.request_bytes > REQUEST_BYTES_MAX {
            let words = format!(
                "the request has {} bytes, more than the {REQUEST_BYTES_MAX} that a validator takes",
                plan.request_bytes
            );
            return Err(CmdError::new(ExitCode::Usage, words)
                .hint("give large inputs by URL, or let them be uploaded: --upload-to s3://bucket/prefix"));
        }
        (plan.cost, plan.volumes, plan.outputs) = (cost, volumes, outputs);
        Ok(Ready { job, plan, stream })
    }

    async fn stream(&self, draft: &Draft, job: &mut Submit, key: &str) -> Result<Option<Files>, CmdError> {
        if draft.stream != Some(true) {
            return Ok(None);
        }
        let short: String = key.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let folder = self.stream_dir.clone();
        let folder = folder.unwrap_or_else(|| PathBuf::from(format!("horde-stream-{short}")));
        let (client, files) = stream::prepare(&folder, !self.dry_run).await?;
        job.streaming_details = Some(client);
        Ok(Some(files))
    }

    /// Makes inputs and outputs ready.
    async fn fill(
        &self,
        context: &Context,
        s3: Option<&S3>,
        draft: &Draft,
        job: &mut Submit,
    ) -> Result<(Vec<super::volume::VolumePlan>, Vec<output::OutputPlan>), CmdError> {
        let hub_token = match &draft.hub_token_from {
            Some(name) => Some(context.environment.get(name).map(str::to_owned).ok_or_else(|| {
                let words =
                    format!("the variable {name:?}, which should hold the token for the hub, is not set");
                CmdError::new(ExitCode::Usage, words)
            })?),
            None => None,
        };
        // Outputs first: they cost nothing, and may be refused.
        let mut outputs = Vec::new();
        for wanted in &draft.outputs {
            let (upload, plan) = output::prepare(context, s3, wanted, self.quiet).await?;
            job.uploads.push(upload);
            outputs.push(plan);
        }
        let mut inputs = Inputs {
            context,
            s3,
            upload_to: draft.s3.upload_to.as_ref(),
            hub_token,
            is_dry: self.dry_run,
            quiet: self.quiet,
            room: inline::PACKED_BYTES_MAX,
        };
        let mut volumes = Vec::new();
        for wanted in &draft.volumes {
            let (volume, plan) = inputs.prepare(wanted).await?;
            job.volumes.push(volume);
            volumes.push(plan);
        }
        Ok((volumes, outputs))
    }

    async fn after(
        &self,
        context: &Context,
        client: &Client,
        job: JobView,
        stream: Option<Files>,
    ) -> Result<(), CmdError> {
        if self.quiet {
            return context.line(&job.uuid);
        }
        if self.detach {
            if let Some(files) = &stream {
                stream::say_files(context, &job, files);
            }
            return if context.wants_data() {
                context.print_data(&job)
            } else {
                context.line(&job.uuid)
            };
        }
        let job = match &stream {
            Some(files) => stream::connect(context, client, job, files, self.interrupt).await?,
            None => job,
        };
        follow(context, client, job, follow::Plan::to_the_end(self.interrupt)).await
    }

    /// Returns the validator of a facilitator that has one connected, or the one that a person chooses.
    async fn choose_validator(&self, context: &Context, client: &Client) -> Result<Hotkey, CmdError> {
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
            [only] => return Ok(only.clone()),
            [] => {
                return Err(CmdError::new(ExitCode::Unreachable, tried)
                    .hint("no validator is connected to the facilitator; try again when one is"));
            }
            many if ask::may_ask(context, self.no_input) => {
                if let Some(chosen) = ask::validator(many).await? {
                    return Ok(chosen);
                }
            }
            _ => {}
        }
        let names: Vec<&str> = validators.iter().map(Hotkey::as_str).collect();
        let hint = format!("pass --validator with one of {}", names.join(", "));
        Err(CmdError::new(ExitCode::Usage, tried).hint(hint))
    }
}

fn needs_s3(draft: &Draft) -> bool {
    draft.s3.upload_to.is_some()
        || draft
            .volumes
            .iter()
            .any(|volume| matches!(volume.source, Source::S3(_)))
        || draft
            .outputs
            .iter()
            .any(|output| matches!(output.target, Target::S3(_)))
}

/// Checks what can be checked here; tells all that is wrong.
fn check(draft: &Draft) -> Result<(), CmdError> {
    let mut problems = Vec::new();
    match &draft.image {
        None => {
            problems.push("there is no image: name it, or write image = \"…\" into the job file".to_owned());
        }
        Some(image) if image.chars().count() > IMAGE_CHARS_MAX => {
            problems.push(format!(
                "the image's name has more than {IMAGE_CHARS_MAX} characters"
            ));
        }
        Some(image) => {
            if let Err(error) = ImageReference::parse(image) {
                problems.push(error.to_string());
            }
        }
    }
    for (index, arg) in draft.args.iter().flatten().enumerate() {
        if arg.is_empty() {
            problems.push(format!(
                "argument {} is empty, which facilitators refuse",
                index + 1
            ));
        }
    }
    if let Some(folder) = draft
        .artifact
        .as_deref()
        .filter(|folder| !folder.starts_with('/'))
    {
        problems.push(format!("the folder {folder:?} of --artifact is not absolute"));
    }
    problems.extend(draft.idempotency_key.as_deref().and_then(key_problem));
    for volume in &draft.volumes {
        if let Source::Local(path) = &volume.source
            && let Err(error) = std::fs::metadata(path)
        {
            problems.push(format!("cannot read {}: {error}", path.display()));
        }
    }
    for (list, name) in [
        (
            draft
                .volumes
                .iter()
                .map(|volume| &volume.path)
                .collect::<Vec<_>>(),
            "/volume",
        ),
        (
            draft.outputs.iter().map(|output| &output.path).collect(),
            "/output",
        ),
    ] {
        for (index, path) in list.iter().enumerate() {
            if name == "/output" && list.iter().take(index).any(|other| other == path) {
                problems.push(format!("{name}/{path} is named twice"));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(CmdError {
        causes: problems,
        ..CmdError::new(ExitCode::Usage, "the job cannot be submitted like this")
    })
}

/// Says what is wrong with a key that is to make a submission happen once.
pub(super) fn key_problem(key: &str) -> Option<String> {
    let is_good = (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let words = || format!("the idempotency key is not 1 to {KEY_CHARS_MAX} printable ASCII characters");
    (!is_good).then(words)
}

/// Says what may surprise later.
fn warn(context: &Context, draft: &Draft) {
    let image = draft.image.as_deref().unwrap_or_default();
    if !image.contains('@') {
        context.say(format_args!(
            "warning: {image} has no digest, so what runs may be another image than today's; {image}@sha256:… pins it"
        ));
    }
    let is_trimmed = |text: &String| text.trim() != text.as_str();
    if draft.args.iter().flatten().any(is_trimmed) {
        context.say(
            "warning: an argument begins or ends with space; a facilitator of the reference takes that away, and the \
             validator then refuses the signature",
        );
    }
}

fn request(draft: &Draft, validator: Hotkey) -> Submit {
    let class = draft.class.unwrap_or(ExecutorClass::DEFAULT);
    let streams = draft.stream == Some(true);
    let start = if streams {
        STREAMING_START_SECONDS.1
    } else {
        STREAMING_START_SECONDS.0
    };
    let limits = draft.limits;
    let seconds = |limit: Option<u32>, default: u32| i64::from(limit.unwrap_or(default));
    Submit {
        target_validator_hotkey: validator,
        executor_class: class,
        docker_image: draft.image.clone().unwrap_or_default(),
        job_namespace: draft.namespace.clone(),
        args: draft.args.clone().unwrap_or_default(),
        env: draft.env.clone(),
        use_gpu: class.has_gpu(),
        // Signed as an empty text in any case; the reference refuses null.
        artifacts_dir: Some(draft.artifact.clone().unwrap_or_default()),
        on_trusted_miner: draft.trusted == Some(true),
        download_time_limit: seconds(limits.download, DOWNLOAD_SECONDS),
        execution_time_limit: seconds(limits.execution, EXECUTION_SECONDS),
        streaming_start_time_limit: seconds(limits.streaming_start, start),
        upload_time_limit: seconds(limits.upload, UPLOAD_SECONDS),
        streaming_details: None,
        volumes: Vec::new(),
        uploads: Vec::new(),
        tag: draft.tag.clone(),
    }
}

/// Says what to do about a submission that failed.
pub(super) fn submit_error(error: &ClientError, key: &str) -> CmdError {
    let failed = client_error("could not submit the job", error);
    match error {
        ClientError::Refused { status: 409, .. } => failed.hint(format!(
            "another job was submitted with the key {key:?}; choose another --idempotency-key"
        )),
        ClientError::Refused { status: 413, .. } => {
            failed.hint("give large inputs by URL, or let them be uploaded: --upload-to s3://bucket/prefix")
        }
        ClientError::Unreachable { source, .. } if !source.is_connect() => failed.hint(format!(
            "nobody knows whether the job has arrived: `horde job list` tells, and --idempotency-key {key} makes \
             sure that a second attempt is no second job"
        )),
        _ => failed,
    }
}
