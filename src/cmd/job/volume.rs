//! Inputs of a job, from what was asked for to what travels: packed, uploaded, presigned.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::s3::s3_error;
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::progress::Progress;
use crate::core::client::inline::{self, PackError};
use crate::core::client::source::{Source, VolumeRequest, hide_query};
use crate::core::model::volume::{InlineVolume, SimpleVolume, SingleFileVolume, ZipUrlVolume};
use crate::core::s3::{Place, Resume, S3, UploadError};

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// How often a person is told how far packing is.
const TICK: Duration = Duration::from_millis(200);

/// Files above this size (8 MiB) are uploaded at once if they can be, rather than packed to see whether they get small.
const PACKED_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The name of a folder that was packed to be uploaded.
const PACKED_NAME: &str = "volume.zip";

/// What becomes of an input, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct VolumePlan {
    /// Where the job finds it.
    pub(super) path: String,
    /// Where it comes from, without secrets.
    pub(super) source: String,
    /// How it travels.
    pub(super) how: &'static str,
    /// Its size as it travels, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// Where it is uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uploaded_to: Option<String>,
}

/// Makes inputs ready.
pub(super) struct Inputs<'a> {
    pub(super) context: &'a Context,
    pub(super) s3: Option<&'a S3>,
    /// Where inputs go that no request can hold.
    pub(super) upload_to: Option<&'a Place>,
    /// The user's token for the hub, if the job shall have it.
    pub(super) hub_token: Option<String>,
    /// Whether nothing is uploaded.
    pub(super) is_dry: bool,
    pub(super) quiet: bool,
    /// Packed bytes that the request has room for.
    pub(super) room: usize,
}

impl Inputs<'_> {
    /// Makes one input ready.
    pub(super) async fn prepare(
        &mut self,
        request: &VolumeRequest,
    ) -> Result<(SimpleVolume, VolumePlan), CmdError> {
        let plan = |source: String, how| VolumePlan {
            path: format!("/volume/{}", request.path),
            source,
            how,
            bytes: None,
            uploaded_to: None,
        };
        match &request.source {
            Source::Url(url) if request.is_folder => Ok((
                SimpleVolume::ZipUrl(ZipUrlVolume {
                    contents: url.clone(),
                    relative_path: Some(request.path.clone()),
                }),
                plan(hide_query(url), "a zip, fetched and unpacked"),
            )),
            Source::Url(url) => Ok((
                SimpleVolume::SingleFile(SingleFileVolume {
                    url: url.clone(),
                    relative_path: request.path.clone(),
                }),
                plan(hide_query(url), "fetched"),
            )),
            Source::Hub(volume) => {
                let mut volume = volume.clone();
                volume.relative_path = Some(request.path.clone());
                volume.token.clone_from(&self.hub_token);
                let source = format!("hf://{}", volume.repo_id);
                Ok((
                    SimpleVolume::Huggingface(volume),
                    plan(source, "a snapshot of the hub, fetched"),
                ))
            }
            Source::S3(place) => {
                let url = self.presigned(place).await?;
                Ok((
                    SimpleVolume::SingleFile(SingleFileVolume {
                        url,
                        relative_path: request.path.clone(),
                    }),
                    plan(place.to_string(), "fetched by a presigned address"),
                ))
            }
            Source::Local(path) => self.local(request, path).await,
        }
    }

    fn service(&self) -> Result<&S3, CmdError> {
        self.s3
            .ok_or_else(|| CmdError::new(ExitCode::Bug, "no S3 service was opened"))
    }

    async fn presigned(&self, place: &Place) -> Result<String, CmdError> {
        let s3 = self.service()?;
        let tried = "could not use an input of S3";
        let is_there = s3.check(place).await.map_err(|error| s3_error(tried, &error))?;
        if is_there == Some(false) {
            return Err(CmdError::new(
                ExitCode::NotFound,
                format!("{place} does not exist"),
            ));
        }
        s3.presign_get(place)
            .await
            .map_err(|error| s3_error(tried, &error))
    }

    async fn local(
        &mut self,
        request: &VolumeRequest,
        source: &Path,
    ) -> Result<(SimpleVolume, VolumePlan), CmdError> {
        let is_folder = source.is_dir();
        // A folder's content goes to PATH; so does a file, unless PATH names a folder.
        let (folder, name) = if is_folder {
            (request.path.as_str(), None)
        } else {
            request.split()
        };
        let is_large = std::fs::metadata(source).is_ok_and(|facts| facts.len() > PACKED_FILE_BYTES_MAX);
        if self.upload_to.is_some() && !is_folder && is_large {
            return self.upload_file(request, source).await;
        }
        let (room, from, named) = (self.room, source.to_owned(), name.map(str::to_owned));
        let packed = tokio::task::spawn_blocking(move || inline::pack(&from, named.as_deref(), room))
            .await
            .or_fail(ExitCode::Bug, "could not pack a volume")?;
        let packed = match packed {
            Ok(packed) => packed,
            Err(PackError::TooLarge { .. }) if self.upload_to.is_some() => {
                return if is_folder {
                    self.upload_folder(request, source).await
                } else {
                    self.upload_file(request, source).await
                };
            }
            Err(error) => return Err(pack_error(&error)),
        };
        let bytes = packed.len() / 4 * 3;
        self.room = self.room.saturating_sub(bytes);
        let plan = VolumePlan {
            path: format!("/volume/{}", request.path),
            source: source.display().to_string(),
            how: "packed into the request",
            bytes: u64::try_from(bytes).ok(),
            uploaded_to: None,
        };
        let volume = SimpleVolume::Inline(InlineVolume {
            contents: packed,
            relative_path: Some(folder.to_owned()),
        });
        Ok((volume, plan))
    }

    async fn upload_file(
        &self,
        request: &VolumeRequest,
        source: &Path,
    ) -> Result<(SimpleVolume, VolumePlan), CmdError> {
        let own_name = source
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("data");
        let relative_path = match request.split() {
            ("", None) => own_name.to_owned(),
            (folder, None) => format!("{folder}/{own_name}"),
            (_, Some(_)) => request.path.clone(),
        };
        let (url, plan) = self.upload(request, source, source, own_name).await?;
        Ok((
            SimpleVolume::SingleFile(SingleFileVolume { url, relative_path }),
            plan,
        ))
    }

    async fn upload_folder(
        &self,
        request: &VolumeRequest,
        source: &Path,
    ) -> Result<(SimpleVolume, VolumePlan), CmdError> {
        let tried = "could not pack a volume";
        let packed = tempfile::Builder::new()
            .prefix("horde-volume-")
            .tempfile_in(self.context.environment.temporary())
            .or_fail(ExitCode::Failed, tried)?;
        let out = packed.reopen().or_fail(ExitCode::Failed, tried)?;
        {
            let what = format!("packing {}", source.display());
            let progress = Progress::of_bytes(self.context, what, None, self.quiet);
            let (from, read) = (source.to_owned(), Arc::new(AtomicU64::new(0)));
            let counter = Arc::clone(&read);
            let mut work = tokio::task::spawn_blocking(move || {
                inline::pack_into(&from, out, &|bytes| {
                    counter.fetch_add(bytes, Ordering::Relaxed);
                })
            });
            let packed = loop {
                tokio::select! {
                    packed = &mut work => break packed,
                    () = tokio::time::sleep(TICK) => progress.set(read.load(Ordering::Relaxed), None),
                }
            };
            packed
                .or_fail(ExitCode::Bug, tried)?
                .map_err(|error| pack_error(&error))?;
        }
        let (url, plan) = self.upload(request, source, packed.path(), PACKED_NAME).await?;
        let volume = ZipUrlVolume {
            contents: url,
            relative_path: Some(request.path.clone()),
        };
        Ok((SimpleVolume::ZipUrl(volume), plan))
    }

    /// Uploads a file under a key that stands for its content, and returns an address that reads it.
    async fn upload(
        &self,
        request: &VolumeRequest,
        source: &Path,
        file: &Path,
        name: &str,
    ) -> Result<(String, VolumePlan), CmdError> {
        let tried = format!("could not upload {}", source.display());
        let s3 = self.service()?;
        let to = self
            .upload_to
            .ok_or_else(|| CmdError::new(ExitCode::Bug, "no place to upload to"))?;
        let from = file.to_owned();
        let (bytes, digest) = tokio::task::spawn_blocking(move || digest(&from))
            .await
            .or_fail(ExitCode::Bug, tried.clone())?
            .or_fail(ExitCode::Usage, tried.clone())?;
        let place = to.join(&digest).join(name);
        if !self.is_dry {
            let what = format!("uploading {}", source.display());
            let progress = Progress::of_bytes(self.context, what, Some(bytes), self.quiet);
            let resume = Resume {
                folder: self.notes()?,
                name: hex::encode(Sha256::digest(place.to_string().as_bytes())),
            };
            s3.upload(&place, file, &resume, &|bytes| progress.add(bytes))
                .await
                .map_err(|error| match error {
                    UploadError::S3(error) => s3_error(&tried, &error),
                    error => CmdError::new(ExitCode::Failed, tried.clone()).caused_by(&error),
                })?;
        }
        let url = s3
            .presign_get(&place)
            .await
            .map_err(|error| s3_error(&tried, &error))?;
        let plan = VolumePlan {
            path: format!("/volume/{}", request.path),
            source: source.display().to_string(),
            how: "uploaded, then fetched by a presigned address",
            bytes: Some(bytes),
            uploaded_to: Some(place.to_string()),
        };
        Ok((url, plan))
    }

    /// Returns where notes of uploads in progress lie.
    fn notes(&self) -> Result<PathBuf, CmdError> {
        let base = self.context.dir().cloned();
        base.or_else(|| Some(self.context.environment.data_home()?.join("horde")))
            .map(|base| base.join("uploads"))
            .ok_or_else(|| {
                CmdError::new(
                    ExitCode::Configuration,
                    "there is no place for notes of an upload",
                )
                .hint("pass --dir DIRECTORY")
            })
    }
}

fn pack_error(error: &PackError) -> CmdError {
    let failed = CmdError::new(ExitCode::Usage, "could not pack a volume").caused_by(error);
    match error {
        PackError::TooLarge { .. } => failed.hint(
            "a request holds little: --upload-to s3://bucket/prefix uploads what is larger, or serve it by URL, as in \
             https://…:/volume/data.bin",
        ),
        _ => failed,
    }
}

/// Returns size and SHA-256 of a file, the latter in hex; blocks.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut digest, mut bytes) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(content) = buffer.get(..read).filter(|content| !content.is_empty()) else {
            break;
        };
        digest.update(content);
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    Ok((bytes, hex::encode(digest.finalize())))
}
