//! Uploads of large files: in parts, a few at a time, taken up again where they were broken off.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::{StreamExt, TryStreamExt, stream};
use indexmap::IndexMap;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{S3, S3Error};

/// The usual size of a part (8 MiB); a file of one part goes in one request.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// The largest part (64 MiB): what one of [`SIDE_BY_SIDE`] requests holds in memory.
const PART_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most parts of one object (the service's own bound).
const PARTS_MAX: u64 = 10_000;

/// Parts that are on their way at once.
const SIDE_BY_SIDE: usize = 3;

/// The largest file that is uploaded, in bytes (625 GiB).
pub const FILE_BYTES_MAX: u64 = PART_BYTES_MAX * PARTS_MAX;

/// Answers that list the parts of one upload, 1000 each.
const PAGES_MAX: usize = 10;

/// The largest note of an upload in progress that is read, in bytes.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Why a file was not uploaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The file was changed meanwhile.
    #[error("{} changed while it was uploaded", .0.display())]
    Changed(PathBuf),
    /// The service.
    #[error(transparent)]
    S3(#[from] S3Error),
}

/// Where notes of uploads in progress lie, so that a later call takes them up again.
#[derive(Debug, Clone)]
pub struct Resume {
    /// The folder; made when it is needed.
    pub folder: PathBuf,
    /// A name of the upload that stands for its place and its content.
    pub name: String,
}

/// An upload in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    upload: String,
    part_bytes: u64,
    bytes: u64,
}

/// What is uploaded.
struct Cargo<'a> {
    place: &'a Place,
    path: &'a Path,
    file: Arc<File>,
    bytes: u64,
}

impl S3 {
    /// Uploads a file; `progress` hears of bytes that have arrived, those of an earlier call included.
    ///
    /// A file that is already there with its size is left alone: the name of the place must stand for its content.
    pub async fn upload(
        &self,
        place: &Place,
        path: &Path,
        resume: &Resume,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), UploadError> {
        let failed = |source| UploadError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(UploadError::TooLarge(path.to_owned()));
        }
        let cargo = Cargo {
            place,
            path,
            file: Arc::new(file),
            bytes,
        };
        if self.is_there(&cargo).await? {
            progress(bytes);
            return Ok(());
        }
        if bytes <= PART_BYTES {
            self.put(&cargo).await?;
            progress(bytes);
            return Ok(());
        }
        self.in_parts(&cargo, resume, progress).await
    }

    async fn is_there(&self, cargo: &Cargo<'_>) -> Result<bool, UploadError> {
        let place = cargo.place;
        let asked = self.client.head_object().bucket(&place.bucket).key(&place.key);
        match asked.send().await {
            Ok(found) => Ok(found
                .content_length()
                .and_then(|length| u64::try_from(length).ok())
                == Some(cargo.bytes)),
            // An answer without a body has no code: what is wrong with a refusal, the upload itself will be told.
            Err(error) => match S3Error::of("a look at", place, error) {
                error @ S3Error::Unreachable(_) => Err(error.into()),
                _ => Ok(false),
            },
        }
    }

    async fn put(&self, cargo: &Cargo<'_>) -> Result<(), UploadError> {
        let content = cargo.part(0, cargo.bytes).await?;
        let place = cargo.place;
        let request = self.client.put_object().bucket(&place.bucket).key(&place.key);
        let sent = request.body(ByteStream::from(content)).send().await;
        sent.map_err(|error| S3Error::of("an upload to", place, error))?;
        Ok(())
    }

    async fn in_parts(
        &self,
        cargo: &Cargo<'_>,
        resume: &Resume,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), UploadError> {
        let (note, mut done) = match self.taken_up(cargo, resume).await? {
            Some(found) => found,
            None => (self.begin(cargo, resume).await?, IndexMap::new()),
        };
        let parts = cargo.bytes.div_ceil(note.part_bytes);
        let missing: Vec<u64> = (0..parts).filter(|part| !done.contains_key(part)).collect();
        let (left, all) = (missing.len(), usize::try_from(parts).unwrap_or(usize::MAX));
        if left < all {
            let there = done.keys().map(|part| cargo.length(*part, note.part_bytes)).sum();
            progress(there);
        }
        let sent: Vec<(u64, String)> = stream::iter(missing)
            .map(|part| {
                let note = &note;
                async move {
                    let tag = self.send_part(cargo, note, part).await?;
                    progress(cargo.length(part, note.part_bytes));
                    Ok::<_, UploadError>((part, tag))
                }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect()
            .await?;
        done.extend(sent);
        // What was read must be what the name of the place stands for.
        let now = cargo.file.metadata().map_err(|source| cargo.failed(source))?;
        if now.len() != cargo.bytes {
            return Err(UploadError::Changed(cargo.path.to_owned()));
        }
        self.complete(cargo, &note, done).await?;
        drop(fs::remove_file(resume.path()));
        Ok(())
    }

    /// Returns an upload that was broken off, with the parts that have arrived; none if the service has forgotten it.
    async fn taken_up(
        &self,
        cargo: &Cargo<'_>,
        resume: &Resume,
    ) -> Result<Option<(Note, IndexMap<u64, String>)>, UploadError> {
        let Some(note) = resume.read().filter(|note| note.bytes == cargo.bytes) else {
            return Ok(None);
        };
        let mut done = IndexMap::new();
        let mut marker = None;
        for _ in 0..PAGES_MAX {
            let asked = self
                .client
                .list_parts()
                .bucket(&cargo.place.bucket)
                .key(&cargo.place.key)
                .upload_id(&note.upload)
                .set_part_number_marker(marker)
                .send()
                .await;
            let page = match asked {
                Ok(page) => page,
                Err(error) => match S3Error::of("a list of parts of", cargo.place, error) {
                    S3Error::Refused { .. } => return Ok(None),
                    error => return Err(error.into()),
                },
            };
            for part in page.parts() {
                let number = part.part_number().and_then(|number| u64::try_from(number).ok());
                let size = part.size().and_then(|size| u64::try_from(size).ok());
                if let (Some(index), Some(size)) = (number.and_then(|number| number.checked_sub(1)), size)
                    && index < cargo.bytes.div_ceil(note.part_bytes)
                    && size == cargo.length(index, note.part_bytes)
                {
                    let tag = match part.e_tag() {
                        Some(tag) => tag.to_owned(),
                        // Some servers leave it out of the list; it is the digest of what was sent.
                        None => cargo.tag(index, note.part_bytes).await?,
                    };
                    done.insert(index, tag);
                }
            }
            marker = page.next_part_number_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || marker.is_none() {
                break;
            }
        }
        Ok(Some((note, done)))
    }

    async fn begin(&self, cargo: &Cargo<'_>, resume: &Resume) -> Result<Note, UploadError> {
        let place = cargo.place;
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&place.bucket)
            .key(&place.key)
            .send()
            .await
            .map_err(|error| S3Error::of("the beginning of an upload to", place, error))?;
        let upload = begun.upload_id().ok_or_else(|| S3Error::Refused {
            doing: format!("the beginning of an upload to {place}"),
            code: "no name".to_owned(),
            message: "the upload got no name".to_owned(),
        })?;
        let note = Note {
            upload: upload.to_owned(),
            part_bytes: part_bytes(cargo.bytes),
            bytes: cargo.bytes,
        };
        // Without a note the next call begins anew; that is no reason not to upload.
        if let Err(error) = resume.write(&note) {
            tracing::warn!(%error, "an upload that is broken off will begin anew");
        }
        Ok(note)
    }

    async fn send_part(&self, cargo: &Cargo<'_>, note: &Note, part: u64) -> Result<String, UploadError> {
        let start = part.saturating_mul(note.part_bytes);
        let content = cargo.part(start, cargo.length(part, note.part_bytes)).await?;
        let sent = self
            .client
            .upload_part()
            .bucket(&cargo.place.bucket)
            .key(&cargo.place.key)
            .upload_id(&note.upload)
            .part_number(number(part))
            .body(ByteStream::from(content))
            .send()
            .await
            .map_err(|error| S3Error::of("a part of", cargo.place, error))?;
        Ok(sent.e_tag().unwrap_or_default().to_owned())
    }

    async fn complete(
        &self,
        cargo: &Cargo<'_>,
        note: &Note,
        mut parts: IndexMap<u64, String>,
    ) -> Result<(), UploadError> {
        parts.sort_unstable_keys();
        let parts = parts.into_iter().map(|(part, tag)| {
            CompletedPart::builder()
                .part_number(number(part))
                .e_tag(tag)
                .build()
        });
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        self.client
            .complete_multipart_upload()
            .bucket(&cargo.place.bucket)
            .key(&cargo.place.key)
            .upload_id(&note.upload)
            .multipart_upload(all)
            .send()
            .await
            .map_err(|error| S3Error::of("the end of an upload to", cargo.place, error))?;
        Ok(())
    }
}

/// Returns the number of a part on the wire, which counts from 1.
fn number(part: u64) -> i32 {
    i32::try_from(part).unwrap_or(i32::MAX).saturating_add(1)
}

/// Returns the size of the parts of a file: the usual one unless that made too many.
fn part_bytes(bytes: u64) -> u64 {
    const MIB: u64 = 1024 * 1024;
    let needed = bytes.div_ceil(PARTS_MAX).div_ceil(MIB).saturating_mul(MIB);
    needed.clamp(PART_BYTES, PART_BYTES_MAX)
}

impl Cargo<'_> {
    fn failed(&self, source: io::Error) -> UploadError {
        UploadError::Read {
            path: self.path.to_owned(),
            source,
        }
    }

    /// Returns how long a part is.
    fn length(&self, part: u64, part_bytes: u64) -> u64 {
        let start = part.saturating_mul(part_bytes);
        part_bytes.min(self.bytes.saturating_sub(start))
    }

    /// Returns the tag that a server gives a part.
    async fn tag(&self, part: u64, part_bytes: u64) -> Result<String, UploadError> {
        let start = part.saturating_mul(part_bytes);
        let content = self.part(start, self.length(part, part_bytes)).await?;
        Ok(format!("\"{}\"", hex::encode(Md5::digest(content))))
    }

    async fn part(&self, start: u64, length: u64) -> Result<Vec<u8>, UploadError> {
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || {
            let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut content, start)?;
            Ok::<_, io::Error>(content)
        });
        match read.await.map_err(io::Error::other) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(UploadError::Changed(self.path.to_owned()))
            }
            Ok(read) => read.map_err(|error| self.failed(error)),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl Resume {
    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    fn read(&self) -> Option<Note> {
        let path = self.path();
        if fs::metadata(&path).ok()?.len() > NOTE_BYTES_MAX {
            return None;
        }
        let note: Note = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (PART_BYTES..=PART_BYTES_MAX)
            .contains(&note.part_bytes)
            .then_some(note)
    }

    fn write(&self, note: &Note) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let text = serde_json::to_string(note)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(self.path()).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_at_most_as_many_parts_as_a_service_takes_and_parts_fit_into_memory() {
        const GIB: u64 = 1024 * 1024 * 1024;
        for bytes in [PART_BYTES + 1, 80 * GIB, 81 * GIB, 300 * GIB, FILE_BYTES_MAX] {
            let size = part_bytes(bytes);
            assert!(bytes.div_ceil(size) <= PARTS_MAX, "{bytes}");
            assert!((PART_BYTES..=PART_BYTES_MAX).contains(&size), "{bytes}");
        }
        assert_eq!(part_bytes(GIB), PART_BYTES);
    }

    #[test]
    fn a_note_that_makes_no_sense_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let resume = Resume {
            folder: folder.path().join("notes"),
            name: "n".to_owned(),
        };
        assert_eq!(resume.read(), None);
        let note = Note {
            upload: "u".to_owned(),
            part_bytes: PART_BYTES,
            bytes: 9,
        };
        resume.write(&note).unwrap();
        assert_eq!(resume.read(), Some(note.clone()));
        resume
            .write(&Note {
                part_bytes: 0,
                ..note
            })
            .unwrap();
        assert_eq!(resume.read(), None);
        fs::write(resume.path(), "{").unwrap();
        assert_eq!(resume.read(), None);
    }
}
