//! The job as the command line and a job file ask for it.

use std::path::PathBuf;

use clap::Args;
use indexmap::IndexMap;

use super::file;
use super::s3::S3Args;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::client::draft::{Draft, LIMIT_SECONDS_MAX, Limits, NAME_CHARS_MAX, S3Draft, check_variable};
use crate::core::client::jobfile::nearest;
use crate::core::client::source::{OutputRequest, VolumeRequest, amount, place};
use crate::core::model::ExecutorClass;

/// What `--limits` knows.
const LIMIT_NAMES: [&str; 4] = ["download", "execution", "upload", "streaming-start"];

/// What kind of job.
#[derive(Args, Debug)]
pub(super) struct AskedArgs {
    /// Read the job from this file, - for standard input; flags override it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send the job to this validator (SS58) [default: the only one that is connected]
    #[arg(long, value_name = "HOTKEY")]
    validator: Option<String>,
    /// Run on an executor of this class [default: spin_up-4min.gpu-24gb]
    #[arg(long, value_name = "CLASS")]
    class: Option<ExecutorClass>,
    /// Set an environment variable; NAME alone takes the value from here
    #[arg(long = "env", short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Set the environment variables of this file, one NAME=VALUE or NAME a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    #[arg(
        long = "volume",
        short,
        value_name = "SOURCE:PATH",
        help = "Give a file, a folder, a URL, hf://owner/repo[@revision][/path] or s3://bucket/key as input below \
                /volume; a URL with a PATH that ends in / is a zip to unpack there"
    )]
    volumes: Vec<String>,
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Deliver a file below /output when the job is done: to a URL by PUT, to post+URL as a form, or to s3://bucket/key
    #[arg(long = "deliver", value_name = "PATH=URL")]
    outputs: Vec<String>,
    /// Return the files of this folder of the container with the result
    #[arg(long, value_name = "DIRECTORY")]
    artifact: Option<String>,
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Upload inputs that are too large for the request here, as s3://bucket/prefix
    #[arg(long, value_name = "PLACE")]
    upload_to: Option<String>,
    /// Let the executor use the hub's access token in this environment variable; validator and miner see it
    #[arg(long, value_name = "NAME")]
    hf_token_from: Option<String>,
    /// Set limits in seconds: download, execution, upload, streaming-start
    #[arg(long, value_name = "NAME=SECONDS", value_delimiter = ',')]
    limits: Vec<String>,
    /// Seconds for the input [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    download_limit: Option<u32>,
    /// Seconds for the container [default: 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    execution_limit: Option<u32>,
    /// Seconds for the output [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    upload_limit: Option<u32>,
    /// Name the family of jobs that this one belongs to
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Mark the job, to find it again
    #[arg(long, value_name = "TEXT")]
    tag: Option<String>,
    /// Talk to the job while it runs: makes a certificate and says how to connect
    #[arg(long)]
    stream: bool,
    /// Run on the validator's own miner
    #[arg(long)]
    trusted: bool,
    /// Do not submit what may cost more, in units of credit; ends with 10
    #[arg(long, value_name = "AMOUNT")]
    max_cost: Option<String>,
    /// Submit once, however often this is run with the same key within 7 days [default: a new key each time]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    s3: S3Args,
    /// The image
    image: Option<String>,
    /// The command
    #[arg(last = true)]
    args: Vec<String>,
}

/// What is wrong with flags, all of it.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn take<T>(&mut self, given: &str, read: Result<T, impl std::fmt::Display>) -> Option<T> {
        read.map_err(|error| self.0.push(format!("{given}: {error}")))
            .ok()
    }
}

impl AskedArgs {
    /// Returns the job that flags and file ask for together.
    pub(super) fn draft(&self, context: &Context) -> Result<Draft, CmdError> {
        let base = match &self.file {
            Some(path) => file::read(path)?,
            None => Draft::default(),
        };
        let mut problems = Problems::default();
        let env = self.env(context, &mut problems)?;
        let limits = self.limits(&mut problems);
        let volumes = self.volumes.iter().filter_map(|given| {
            let read = split_volume(given).and_then(|(source, path)| {
                VolumeRequest::new(source, path).map_err(|error| error.to_string())
            });
            problems.take(&format!("--volume {given:?}"), read)
        });
        let volumes = volumes.collect();
        let outputs = self.outputs.iter().filter_map(|given| {
            let pair = given
                .split_once('=')
                .ok_or_else(|| "is not PATH=URL, as in /output/sum.txt=https://…".to_owned());
            let shown = given.split(['?', '#']).next().unwrap_or_default();
            let read =
                pair.and_then(|(path, to)| OutputRequest::new(path, to).map_err(|error| error.to_string()));
            problems.take(&format!("--deliver {shown:?}"), read)
        });
        let outputs = outputs.collect();
        let names = [
            ("--namespace", &self.namespace),
            ("--tag", &self.tag),
            ("--artifact", &self.artifact),
        ];
        for (flag, name) in names {
            let count = name.as_deref().map_or(0, |name| name.chars().count());
            if count > NAME_CHARS_MAX {
                problems
                    .0
                    .push(format!("{flag}: more than {NAME_CHARS_MAX} characters"));
            }
        }
        let upload_to = self.upload_to.as_deref();
        let upload_to = upload_to.and_then(|text| problems.take("--upload-to", place(text)));
        let max_cost = self.max_cost.as_deref();
        let max_cost = max_cost.and_then(|text| problems.take("--max-cost", amount(text)));
        if !problems.0.is_empty() {
            return Err(CmdError {
                causes: problems.0,
                ..CmdError::new(ExitCode::Usage, "the job cannot be submitted like this")
            });
        }
        let flags = Draft {
            image: self.image.clone(),
            args: (!self.args.is_empty()).then(|| self.args.clone()),
            class: self.class,
            validator: self.validator.clone(),
            namespace: self.namespace.clone(),
            tag: self.tag.clone(),
            artifact: self.artifact.clone(),
            trusted: self.trusted.then_some(true),
            stream: self.stream.then_some(true),
            env,
            limits,
            volumes,
            outputs,
            s3: S3Draft {
                upload_to,
                ..self.s3.draft()
            },
            max_cost,
            idempotency_key: self.idempotency_key.clone(),
            hub_token_from: self.hf_token_from.clone(),
        };
        Ok(flags.over(base))
    }

    fn env(&self, context: &Context, problems: &mut Problems) -> Result<IndexMap<String, String>, CmdError> {
        let mut env = IndexMap::new();
        for path in &self.env_file {
            let text = file::read_variables(path)?;
            for (index, line) in text.lines().enumerate() {
                if line.trim().is_empty() || line.trim_start().starts_with('#') {
                    continue;
                }
                let place = format!("{}:{}", path.display(), index + 1);
                env.extend(problems.take(&place, variable(context, line)));
            }
        }
        for pair in &self.env {
            let name = pair.split('=').next().unwrap_or_default();
            env.extend(problems.take(&format!("--env {name:?}"), variable(context, pair)));
        }
        Ok(env)
    }

    fn limits(&self, problems: &mut Problems) -> Limits {
        let mut limits = Limits::default();
        for given in &self.limits {
            let read = read_limit(given);
            let Some((name, seconds)) = problems.take(&format!("--limits {given:?}"), read) else {
                continue;
            };
            let limit = match name {
                "download" => &mut limits.download,
                "execution" => &mut limits.execution,
                "upload" => &mut limits.upload,
                _ => &mut limits.streaming_start,
            };
            *limit = Some(seconds);
        }
        Limits {
            download: self.download_limit.or(limits.download),
            execution: self.execution_limit.or(limits.execution),
            upload: self.upload_limit.or(limits.upload),
            ..limits
        }
    }
}

/// Splits `SOURCE:PATH` at the last colon before a slash: sources have colons too.
fn split_volume(given: &str) -> Result<(&str, &str), String> {
    let at = given
        .rfind(":/")
        .filter(|at| !given.get(*at..).unwrap_or_default().starts_with("://"));
    at.and_then(|at| Some((given.get(..at)?, given.get(at + 1..)?)))
        .ok_or_else(|| "is not SOURCE:PATH, as in data.txt:/volume/data.txt".to_owned())
}

/// Reads `NAME=VALUE`, or `NAME` with the value of this environment.
fn variable(context: &Context, given: &str) -> Result<(String, String), String> {
    let (name, value) = if let Some((name, value)) = given.split_once('=') {
        (name, value)
    } else {
        let name = given.trim();
        let value = context.environment.get(name);
        (name, value.ok_or("is not set in this environment")?)
    };
    check_variable(name).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_limit(given: &str) -> Result<(&'static str, u32), String> {
    let (name, seconds) = given
        .split_once('=')
        .ok_or("is not NAME=SECONDS, as in execution=3600")?;
    let known = LIMIT_NAMES.into_iter().find(|known| *known == name);
    let name = known.ok_or_else(|| {
        let meant = nearest(name, &LIMIT_NAMES);
        let meant = meant
            .map(|meant| format!("; did you mean {meant}?"))
            .unwrap_or_default();
        format!(
            "there is no such limit (known: {}){meant}",
            LIMIT_NAMES.join(", ")
        )
    })?;
    let seconds = seconds
        .parse()
        .ok()
        .filter(|seconds| *seconds <= LIMIT_SECONDS_MAX);
    let wrong = || format!("not a whole number of seconds from 0 to {LIMIT_SECONDS_MAX}");
    Ok((name, seconds.ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_split_before_its_path() {
        for (given, source, path) in [
            ("a:/volume", "a", "/volume"),
            ("https://h:8/x:/volume/a", "https://h:8/x", "/volume/a"),
            ("C:/x:/volume/", "C:/x", "/volume/"),
            ("hf://o/m@v:/volume/m", "hf://o/m@v", "/volume/m"),
        ] {
            assert_eq!(split_volume(given), Ok((source, path)));
        }
        for given in ["a", "https://h/x", "hf://o/m"] {
            assert!(split_volume(given).is_err(), "{given}");
        }
    }

    #[test]
    fn limits_are_read_by_name() {
        assert_eq!(read_limit("streaming-start=9"), Ok(("streaming-start", 9)));
        assert!(
            read_limit("excution=1")
                .unwrap_err()
                .contains("did you mean execution?")
        );
        for given in ["execution", "execution=", "execution=-1", "execution=86401"] {
            assert!(read_limit(given).is_err(), "{given}");
        }
    }
}
