//! `horde job download`: a job's artifacts, outputs and streams into a folder.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::end::end;
use super::s3::{self, S3Args, s3_error};
use super::{UserArgs, find};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::progress::Progress;
use crate::cmd::table::printable;
use crate::core::causes::Causes;
use crate::core::client::download::Downloads;
use crate::core::client::landing::Landing;
use crate::core::client::source::hide_query;
use crate::core::model::JobId;
use crate::core::model::upload::SingleFileUpload;
use crate::core::proto::sdk_facilitator::JobView;
use crate::core::s3::S3;

pub(super) const EXAMPLES: &str = "\
Examples:
  horde job download 3f2a
  horde job download 3f2a --to results --artifact /artifacts/model.bin
  horde job download 3f2a --delivered /output/sum.txt --s3-endpoint https://s3.example.com";

/// Where the two kinds of files go below the folder.
const ARTIFACTS: &str = "artifacts";
const OUTPUT: &str = "output";

/// What an address that S3 signed has in it.
const PRESIGNED: &str = "X-Amz-Signature=";

/// `horde job download …`
#[derive(Args, Debug)]
pub struct DownloadArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Bring the files into this folder [default: one of the job's name]
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
    /// Bring this artifact; with --delivered, nothing else
    #[arg(long = "artifact", value_name = "PATH")]
    artifacts: Vec<String>,
    /// Bring this file from where the job delivered it; with --artifact, nothing else
    #[arg(long = "delivered", value_name = "PATH")]
    outputs: Vec<String>,
    /// Bring standard output and error too, as stdout and stderr
    #[arg(long)]
    streams: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    s3: S3Args,
    /// The job; the beginning of its identity is enough
    id: String,
}

/// A file that has come.
#[derive(Debug, Serialize, JsonSchema)]
struct Came {
    /// Where it lies below the folder.
    path: String,
    /// `artifact`, `output` or `stream`.
    source: &'static str,
    /// Its size.
    bytes: u64,
    /// Its digest, in hex.
    sha256: String,
    /// By which digest of the server's it was verified, if the server told one.
    verified: Option<&'static str>,
}

/// A file that has not.
#[derive(Debug, Serialize, JsonSchema)]
struct Missed {
    /// What it is called by the job.
    path: String,
    /// `artifact`, `output` or `stream`.
    source: &'static str,
    /// Why.
    error: String,
}

/// What came of a download.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Downloaded<'a> {
    /// The job.
    job: &'a JobId,
    /// The folder.
    directory: String,
    /// What has come.
    files: &'a [Came],
    /// What has not.
    failed: &'a [Missed],
}

/// A download in progress.
struct Download<'a> {
    context: &'a Context,
    job: &'a JobView,
    args: &'a DownloadArgs,
    landing: Landing,
    s3: Option<S3>,
    came: Vec<Came>,
    missed: Vec<Missed>,
}

impl DownloadArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let client = self.user.client(context).await?;
        let job = find(&client, &self.id).await?;
        let Some(end) = end(&job) else {
            let words = format!("the job has not ended: it is {}", job.current());
            return Err(CmdError::new(ExitCode::Conflict, words).hint(format!("horde job wait {}", job.uuid)));
        };
        let to = match &self.to {
            Some(to) => to.clone(),
            None => own_folder(&job)?,
        };
        let landing = Landing::open(&to, self.force).or_fail(
            ExitCode::Failed,
            format!("could not use the folder {}", to.display()),
        )?;
        let mut download = Download {
            context,
            job: &job,
            args: &self,
            landing,
            s3: None,
            came: Vec::new(),
            missed: Vec::new(),
        };
        download.artifacts();
        download.outputs().await?;
        if self.streams {
            download.keep("stdout", "stream", "stdout", end.stdout.as_bytes());
            download.keep("stderr", "stream", "stderr", end.stderr.as_bytes());
        }
        download.finish(&to)
    }

    fn wants_all(&self) -> bool {
        self.artifacts.is_empty() && self.outputs.is_empty()
    }
}

/// Returns a folder of the job's name, which a facilitator gave.
fn own_folder(job: &JobView) -> Result<PathBuf, CmdError> {
    let name = job.uuid.as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(
            CmdError::new(ExitCode::Failed, "the job's identity is no name of a folder")
                .hint("pass --to DIRECTORY"),
        );
    }
    Ok(PathBuf::from(name))
}

impl Download<'_> {
    fn artifacts(&mut self) {
        let folder = self.job.artifacts_dir.trim_end_matches('/');
        let named = |path: &str| {
            let inner = path.strip_prefix(folder).filter(|inner| inner.starts_with('/'));
            inner.unwrap_or(path).trim_start_matches('/').to_owned()
        };
        let wanted = |path: &str| {
            let mut names = self.args.artifacts.iter();
            self.args.wants_all() || names.any(|name| name == path || *name == named(path))
        };
        let all: Vec<_> = self
            .job
            .artifacts
            .iter()
            .filter(|(path, _)| wanted(path))
            .collect();
        for name in &self.args.artifacts {
            if !all.iter().any(|(path, _)| *path == name || named(path) == *name) {
                self.miss(name, "artifact", "the job has no such artifact".to_owned());
            }
        }
        for (path, content) in all {
            match STANDARD.decode(content) {
                Ok(content) => {
                    let to = format!("{ARTIFACTS}/{}", named(path));
                    self.keep(&to, "artifact", path, &content);
                }
                Err(error) => self.miss(path, "artifact", format!("its content is not base64: {error}")),
            }
        }
    }

    async fn outputs(&mut self) -> Result<(), CmdError> {
        let named = |path: &str| path.strip_prefix("/output/").unwrap_or(path).to_owned();
        let wanted: Vec<String> = self.args.outputs.iter().map(|path| named(path)).collect();
        for name in &wanted {
            if !self
                .job
                .uploads
                .iter()
                .any(|upload| upload.relative_path() == name)
            {
                self.miss(name, "output", "the job has no such output".to_owned());
            }
        }
        for upload in &self.job.uploads {
            let path = upload.relative_path();
            if !self.args.wants_all() && !wanted.iter().any(|name| name == path) {
                continue;
            }
            if !self.job.upload_results.contains_key(path) {
                self.miss(
                    path,
                    "output",
                    "the executor did not tell that it was uploaded".to_owned(),
                );
                continue;
            }
            match upload {
                SingleFileUpload::Put(put) => self.output(path, &put.url).await?,
                SingleFileUpload::Post(_) => {
                    let words = "it was sent as a form, and nobody knows where it can be read";
                    self.miss(path, "output", words.to_owned());
                }
            }
        }
        Ok(())
    }

    async fn output(&mut self, path: &str, url: &str) -> Result<(), CmdError> {
        let is_s3 = url.contains(PRESIGNED);
        let Some(url) = self.readable(path, url).await? else {
            return Ok(());
        };
        let part = match self.landing.begin(&format!("{OUTPUT}/{path}")) {
            Ok(part) => part,
            Err(error) => {
                self.miss(path, "output", Causes(&error).to_string());
                return Ok(());
            }
        };
        let to = part.path().to_string();
        let downloads = Downloads::new().or_fail(ExitCode::Failed, "could not download")?;
        let what = format!("downloading {}", printable(path));
        let progress = Progress::of_bytes(self.context, what, None, self.args.quiet);
        let fetched = downloads
            .fetch(&url, part, is_s3, &|bytes, total| progress.set(bytes, total))
            .await;
        drop(progress);
        match fetched {
            Ok(fetched) => self.came.push(Came {
                path: to,
                source: "output",
                bytes: fetched.bytes,
                sha256: fetched.sha256,
                verified: fetched.verified,
            }),
            Err(error) => self.miss(path, "output", Causes(&error).to_string()),
        }
        Ok(())
    }

    /// Returns an address that reads what was sent to `url`: that one, or for S3 one that is presigned for reading.
    async fn readable(&mut self, path: &str, url: &str) -> Result<Option<String>, CmdError> {
        if !url.contains(PRESIGNED) {
            return Ok(Some(url.to_owned()));
        }
        if self.s3.is_none() {
            self.s3 = Some(s3::open(&self.args.s3.draft()).await?);
        }
        let place = self.s3.as_ref().and_then(|s3| Some((s3, s3.place_of(url)?)));
        let Some((s3, place)) = place else {
            let words = format!(
                "{} is an address of another S3 service; --s3-endpoint names it",
                hide_query(url)
            );
            self.miss(path, "output", words);
            return Ok(None);
        };
        let tried = "could not read from S3";
        let readable = s3.presign_get(&place).await;
        readable.map(Some).map_err(|error| s3_error(tried, &error))
    }

    fn keep(&mut self, to: &str, source: &'static str, path: &str, content: &[u8]) {
        match self.landing.write(to, content) {
            Ok(path) => self.came.push(Came {
                path: path.to_string(),
                source,
                bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
                sha256: hex::encode(Sha256::digest(content)),
                verified: None,
            }),
            Err(error) => self.miss(path, source, Causes(&error).to_string()),
        }
    }

    fn miss(&mut self, path: &str, source: &'static str, error: String) {
        self.missed.push(Missed {
            path: path.to_owned(),
            source,
            error,
        });
    }

    fn finish(self, to: &std::path::Path) -> Result<(), CmdError> {
        let context = self.context;
        if context.wants_data() {
            context.print_data(&Downloaded {
                job: &self.job.uuid,
                directory: to.display().to_string(),
                files: &self.came,
                failed: &self.missed,
            })?;
        } else {
            for file in &self.came {
                context.line(printable(&to.join(&file.path).display().to_string()))?;
            }
            if self.came.is_empty() && self.missed.is_empty() {
                context.say("the job has no artifacts and no outputs");
            }
        }
        if self.missed.is_empty() {
            return Ok(());
        }
        let (missed, all) = (self.missed.len(), self.missed.len() + self.came.len());
        let mut failed = CmdError::new(ExitCode::Failed, format!("{missed} of {all} files did not come"));
        failed.causes = self
            .missed
            .iter()
            .map(|missed| printable(&format!("{} {}: {}", missed.source, missed.path, missed.error)))
            .collect();
        if self
            .missed
            .iter()
            .any(|missed| missed.error.contains("is there already"))
        {
            failed = failed.hint("--force replaces what is there");
        }
        Err(failed)
    }
}
