//! Input volumes: fetched, counted, unpacked below the volume's folder.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::core::model::volume::{SimpleVolume, Volume};
use crate::core::net::http::{ClientOptions, Redirects};

use super::address::Policy;
use super::fetch::{FetchError, Request, fetch};
use super::folder::Folder;
use super::guard::{GuardedClient, HopError, parse_url};
use super::hub::{Hub, HubError, Target};
use super::path::{PathError, RelativePath};
use super::unzip::{UnzipBudget, UnzipError, unzip};

/// The longest that a server may take to accept a connection or to send the next piece (wire-executor-miner §6: the
/// reference's HTTP library allows 5 s for each).
const SILENCE: Duration = Duration::from_secs(5);

/// The most redirects that one request follows. The reference follows 20.
const REDIRECTS_MAX: usize = 10;

/// The most files and folders of one input, all its volumes together.
const ENTRIES_MAX: u64 = 100_000;

/// How many times more than a zip may weigh it may unpack to. The reference has no bound at all; compressed text and
/// sparse weights reach tenfold.
const UNPACKED_FACTOR: u64 = 10;

/// The most parts of a multi volume.
const PARTS_MAX: usize = 1000;

/// Why a job's input could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The download, or what was inside the message, is over the operator's limit.
    #[error("Input volume too large: more than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// All volumes together are over what an input may take.
    #[error("Input volume too large: all its volumes together have more than {max} bytes")]
    AllTooLarge {
        /// The limit.
        max: u64,
    },
    /// All volumes together hold too many files.
    #[error("the input has more than {ENTRIES_MAX} files and folders")]
    TooManyEntries,
    /// More parts than anyone needs.
    #[error("the input has {got} volumes, more than {PARTS_MAX}")]
    TooManyParts {
        /// How many there are.
        got: usize,
    },
    /// The text inside the message is no base64.
    #[error("the inline volume is not valid base64")]
    NotBase64,
    /// Where it should go is not below the volume's folder.
    #[error("the volume's relative_path was refused")]
    BadPath(#[source] PathError),
    /// Two files of the volumes contradict each other.
    #[error("the volume's file `{0}` cannot be placed: it is in the way of another")]
    InTheWay(RelativePath),
    /// The archive was refused.
    #[error(transparent)]
    Archive(UnzipError),
    /// The server could not be reached, is not allowed, said no, or stopped in the middle.
    #[error("the volume could not be fetched")]
    Fetch(#[source] FetchError),
    /// There is no such snapshot.
    #[error("the Hugging Face volume could not be fetched")]
    Hub(#[source] HubError),
    /// Our own disk or machine failed: not the job's fault.
    #[error("the volume could not be stored")]
    Local(#[source] io::Error),
}

impl DownloadError {
    /// Returns whether the fault is the executor's own rather than the job's.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl From<UnzipError> for DownloadError {
    fn from(error: UnzipError) -> Self {
        match error {
            UnzipError::Disk(source) => Self::Local(source),
            other => Self::Archive(other),
        }
    }
}

impl From<FetchError> for DownloadError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::TooLarge { max } => Self::TooLarge { max },
            FetchError::Local(source) => Self::Local(source),
            other => Self::Fetch(other),
        }
    }
}

impl From<HopError> for DownloadError {
    fn from(error: HopError) -> Self {
        Self::Fetch(FetchError::Hop(error))
    }
}

impl From<HubError> for DownloadError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Local(source) => Self::Local(source),
            other => Self::Hub(other),
        }
    }
}

/// Fetches volumes within an operator's limits.
#[derive(Debug)]
pub struct Downloader {
    volume_bytes_max: u64,
    input_bytes_max: u64,
    client: GuardedClient,
    hub: Hub,
}

/// What an input may still cost, all its volumes together.
#[derive(Debug, Clone, Copy)]
struct Budget {
    bytes_max: u64,
    bytes_left: u64,
    entries_left: u64,
}

impl Budget {
    fn take(&mut self, bytes: u64, entries: u64) -> Result<(), DownloadError> {
        self.entries_left = self
            .entries_left
            .checked_sub(entries)
            .ok_or(DownloadError::TooManyEntries)?;
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or(DownloadError::AllTooLarge { max: self.bytes_max })?;
        Ok(())
    }
}

/// Where an input goes.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    folder: &'a Folder,
    scratch: &'a Path,
}

impl Downloader {
    /// Makes one that knows the public hub without an account; `volume_bytes_max` counts per download and on the
    /// compressed zip, and 0 means no limit.
    pub fn new(volume_bytes_max: u64, policy: Arc<Policy>) -> Self {
        let options = ClientOptions {
            connect_timeout: SILENCE,
            read_timeout: SILENCE,
            total_timeout: None,
            redirects: Redirects::Follow(REDIRECTS_MAX),
        };
        let volume_bytes_max = if volume_bytes_max == 0 {
            u64::MAX
        } else {
            volume_bytes_max
        };
        Self {
            volume_bytes_max,
            input_bytes_max: u64::MAX,
            client: GuardedClient::new(options, policy),
            hub: Hub::default(),
        }
    }

    /// Bounds what an input takes on the disk, all its volumes together, in bytes.
    #[must_use]
    pub fn within(mut self, input_bytes_max: u64) -> Self {
        self.input_bytes_max = input_bytes_max;
        self
    }

    /// Takes snapshots from this hub.
    #[must_use]
    pub fn with_hub(mut self, hub: Hub) -> Self {
        self.hub = hub;
        self
    }

    /// Puts a volume into `folder`, part by part; zips on their way lie in `scratch`.
    ///
    /// Dropping the future ends it; the one file that is being unpacked is then finished or left partial.
    pub async fn fetch(&self, volume: Volume, folder: &Folder, scratch: &Path) -> Result<(), DownloadError> {
        // The operator's account serves a job's own volume only (wire-executor-miner §6).
        let is_multi = matches!(volume, Volume::Multi(_));
        let parts = volume.into_parts();
        if parts.len() > PARTS_MAX {
            return Err(DownloadError::TooManyParts { got: parts.len() });
        }
        let mut budget = Budget {
            bytes_max: self.input_bytes_max,
            bytes_left: self.input_bytes_max,
            entries_left: ENTRIES_MAX,
        };
        for part in parts {
            self.fetch_part(part, is_multi, Place { folder, scratch }, &mut budget)
                .await?;
        }
        Ok(())
    }

    async fn fetch_part(
        &self,
        part: SimpleVolume,
        is_multi: bool,
        place: Place<'_>,
        budget: &mut Budget,
    ) -> Result<(), DownloadError> {
        let base = |path: Option<&str>| RelativePath::parse_folder(path).map_err(DownloadError::BadPath);
        match part {
            SimpleVolume::Inline(inline) => {
                let base = base(inline.relative_path.as_deref())?;
                let archive = self.decode(inline.contents, place.scratch)?;
                self.unpack(archive, place.folder, base, budget).await
            }
            SimpleVolume::ZipUrl(zip) => {
                let base = base(zip.relative_path.as_deref())?;
                let archive = tempfile::tempfile_in(place.scratch).map_err(DownloadError::Local)?;
                let (archive, _bytes) = self
                    .download(&zip.contents, self.volume_bytes_max, archive)
                    .await?;
                self.unpack(archive, place.folder, base, budget).await
            }
            SimpleVolume::SingleFile(single) => {
                let path = RelativePath::parse(&single.relative_path).map_err(DownloadError::BadPath)?;
                let file = place.folder.create(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
                        DownloadError::InTheWay(path)
                    }
                    _ => DownloadError::Local(error),
                })?;
                let bytes_max = self.volume_bytes_max.min(budget.bytes_left);
                let (_file, bytes) = self.download(&single.url, bytes_max, file).await?;
                budget.take(bytes, 1)
            }
            SimpleVolume::Huggingface(snapshot) => {
                let base = base(snapshot.relative_path.as_deref())?;
                let target = Target {
                    folder: place.folder,
                    base: base.as_ref(),
                    scratch: place.scratch,
                    files_max: budget.entries_left,
                    bytes_max: budget.bytes_left,
                };
                let taken = self
                    .hub
                    .snapshot(&self.client, &snapshot, &target, !is_multi)
                    .await?;
                budget.take(taken.bytes, taken.files)
            }
        }
    }

    /// Writes what an address holds into `file`; returns it rewound, and its size.
    async fn download(&self, url: &str, bytes_max: u64, file: File) -> Result<(File, u64), DownloadError> {
        let url = parse_url(self.client.policy(), url)?;
        let request = Request::new(url, bytes_max);
        let fetched = fetch(&self.client, request, file).await?;
        Ok((fetched.file, fetched.bytes))
    }

    /// Writes what is inside the message into a file without a name.
    fn decode(&self, text: String, scratch: &Path) -> Result<File, DownloadError> {
        let bytes = decode_leniently(&text).ok_or(DownloadError::NotBase64)?;
        drop(text);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > self.volume_bytes_max {
            return Err(DownloadError::TooLarge {
                max: self.volume_bytes_max,
            });
        }
        let write = || {
            let mut file = tempfile::tempfile_in(scratch)?;
            file.write_all(&bytes)?;
            file.rewind()?;
            Ok(file)
        };
        write().map_err(DownloadError::Local)
    }

    async fn unpack(
        &self,
        archive: File,
        folder: &Folder,
        base: Option<RelativePath>,
        budget: &mut Budget,
    ) -> Result<(), DownloadError> {
        let allowed = UnzipBudget {
            bytes_max: self
                .volume_bytes_max
                .saturating_mul(UNPACKED_FACTOR)
                .min(budget.bytes_left),
            entries_max: budget.entries_left,
        };
        let folder = folder.try_clone().map_err(DownloadError::Local)?;
        let cancelled = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&cancelled.0);
        let unzipped =
            tokio::task::spawn_blocking(move || unzip(archive, &folder, base.as_ref(), allowed, &flag))
                .await
                .map_err(|error| DownloadError::Local(io::Error::other(error)))??;
        budget.take(unzipped.bytes, unzipped.entries)
    }
}

/// Tells the thread that unpacks that nobody waits any more.
#[derive(Debug)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Decodes standard base64 as Python does by default: foreign characters are skipped, and a complete padding ends
/// the text. Returns nothing when the padding is wrong.
fn decode_leniently(text: &str) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(text.len());
    let mut padding = 0;
    let mut is_complete = false;
    for byte in text.bytes() {
        match byte {
            b'=' => {
                padding += 1;
                is_complete = digits.len() % 4 >= 2 && digits.len() % 4 + padding >= 4;
                if is_complete {
                    break;
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                padding = 0;
                digits.push(byte);
            }
            _ => {}
        }
    }
    if digits.len() % 4 != 0 && !is_complete {
        return None;
    }
    // Bits left over behind the last byte are ignored, as Python does.
    let settings = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    GeneralPurpose::new(&alphabet::STANDARD, settings)
        .decode(&digits)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_python_reads_it() {
        for (text, wanted) in [
            ("aGk=", Some(&b"hi"[..])),
            ("a G\nk=", Some(b"hi")),
            ("aGk=!", Some(b"hi")),
            ("aGk=aGk=", Some(b"hi")),
            ("aGl=", Some(b"hi")),
            ("!!", Some(b"")),
            ("", Some(b"")),
            ("aGk", None),
            ("a", None),
            ("a===", None),
        ] {
            assert_eq!(decode_leniently(text).as_deref(), wanted, "{text:?}");
        }
    }
}
