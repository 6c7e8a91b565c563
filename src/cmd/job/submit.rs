//! `horde job submit`.

use std::path::PathBuf;

use clap::Args;
use indexmap::IndexMap;

use super::follow::{InterruptArgs, Plan, follow};
use super::{UserArgs, client_error, usage};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::client::{Client, ClientError, inline};
use crate::core::model::upload::{SingleFilePut, SingleFileUpload};
use crate::core::model::volume::{InlineVolume, SimpleVolume, SingleFileVolume, ZipUrlVolume};
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::proto::sdk_facilitator::Submit;

/// Seconds for a streaming job to become reachable, as the SDK sends them for jobs that do not stream.
const STREAMING_START_SECONDS: i64 = 5;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job submit alpine:3.19 -- echo hello
  horde job submit --volume data/:/volume/ --output '/output/sum.txt=https://…' IMAGE -- sh -c '…'";

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
    #[command(flatten)]
    interrupt: InterruptArgs,
    /// The image
    image: String,
    /// The command
    #[arg(last = true)]
    args: Vec<String>,
}

impl SubmitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
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
            return follow(context, &client, job, Plan::to_the_end(self.interrupt)).await;
        }
        if context.json {
            return context.print_json(&job);
        }
        context.line(&job.uuid)
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
