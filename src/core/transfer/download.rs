//! Input volumes: fetched, counted, unpacked below the volume's folder.

use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, RANGE};

use crate::core::model::volume::{SimpleVolume, Volume};
use crate::core::net::http::{ClientOptions, Redirects};

use super::address::Policy;
use super::describe;
use super::folder::Folder;
use super::guard::{GuardedClient, HopError, hop_error, parse_url};
use super::path::{PathError, RelativePath};
use super::unzip::{UnzipBudget, UnzipError, unzip};

/// How often a request is made before its volume has failed (wire-executor-miner §6).
const ATTEMPTS: usize = 3;

/// The pauses between attempts, in seconds (wire-executor-miner §6, seen in traces/executor-single-file-volume-404).
const PAUSE_SECONDS: [u64; 2] = [1, 4];

/// The longest that a server may take to accept a connection or to send the next piece (wire-executor-miner §6: the
/// reference's HTTP library allows 5 s for each).
const SILENCE: Duration = Duration::from_secs(5);

/// The most redirects that one request follows. The reference follows 20.
const REDIRECTS_MAX: usize = 10;

/// The most entries of one zip.
const ENTRIES_MAX: u64 = 100_000;

/// How much more a volume may unpack to than it may weigh. The reference has no bound at all; compressed text and
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
    /// The address, or one that it was redirected to, is not fetched from.
    #[error("the volume was not fetched")]
    Hop(#[from] HopError),
    /// The server said no.
    #[error("the volume's server answered {status}")]
    Status {
        /// Its status, with its words.
        status: StatusCode,
    },
    /// The server could not be reached, or stopped in the middle.
    #[error("the volume could not be fetched: {reason}")]
    Transport {
        /// What happened.
        reason: String,
    },
    /// The kind of volume is none of ours.
    #[error("Hugging Face volumes are not supported by this build")]
    HuggingFaceNotSupported,
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

/// Fetches volumes within an operator's limit.
#[derive(Debug)]
pub struct Downloader {
    volume_bytes_max: u64,
    client: GuardedClient,
}

impl Downloader {
    /// Makes one; `volume_bytes_max` counts per download and on the compressed zip, and 0 means no limit.
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
            client: GuardedClient::new(options, policy),
        }
    }

    /// Puts a volume into `folder`, part by part; zips on their way lie in `scratch`.
    ///
    /// Dropping the future ends it; the one file that is being unpacked is then finished or left partial.
    pub async fn fetch(&self, volume: Volume, folder: &Folder, scratch: &Path) -> Result<(), DownloadError> {
        let parts = volume.into_parts();
        if parts.len() > PARTS_MAX {
            return Err(DownloadError::TooManyParts { got: parts.len() });
        }
        for part in parts {
            self.fetch_part(part, folder, scratch).await?;
        }
        Ok(())
    }

    async fn fetch_part(
        &self,
        part: SimpleVolume,
        folder: &Folder,
        scratch: &Path,
    ) -> Result<(), DownloadError> {
        let base = |path: Option<&str>| RelativePath::parse_folder(path).map_err(DownloadError::BadPath);
        match part {
            SimpleVolume::Inline(inline) => {
                let base = base(inline.relative_path.as_deref())?;
                let bytes = decode_leniently(&inline.contents).ok_or(DownloadError::NotBase64)?;
                if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > self.volume_bytes_max {
                    return Err(DownloadError::TooLarge {
                        max: self.volume_bytes_max,
                    });
                }
                self.unpack(Cursor::new(bytes), folder, base).await
            }
            SimpleVolume::ZipUrl(zip) => {
                let base = base(zip.relative_path.as_deref())?;
                let file = tempfile::tempfile_in(scratch).map_err(DownloadError::Local)?;
                let file = self.download(&zip.contents, file).await?;
                self.unpack(file, folder, base).await
            }
            SimpleVolume::SingleFile(single) => {
                let path = RelativePath::parse(&single.relative_path).map_err(DownloadError::BadPath)?;
                let file = folder.create(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
                        DownloadError::InTheWay(path)
                    }
                    _ => DownloadError::Local(error),
                })?;
                self.download(&single.url, file).await.map(drop)
            }
            SimpleVolume::Huggingface(_) => Err(DownloadError::HuggingFaceNotSupported),
        }
    }

    async fn unpack<R>(
        &self,
        archive: R,
        folder: &Folder,
        base: Option<RelativePath>,
    ) -> Result<(), DownloadError>
    where
        R: io::Read + Seek + Send + 'static,
    {
        let budget = UnzipBudget {
            bytes_max: self.volume_bytes_max.saturating_mul(UNPACKED_FACTOR),
            entries_max: ENTRIES_MAX,
        };
        let folder = folder.try_clone().map_err(DownloadError::Local)?;
        let cancelled = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&cancelled.0);
        tokio::task::spawn_blocking(move || unzip(archive, &folder, base.as_ref(), budget, &flag))
            .await
            .map_err(|error| DownloadError::Local(io::Error::other(error)))?
            .map_err(DownloadError::from)
    }

    /// Writes what an address holds into `file`, and returns it rewound.
    async fn download(&self, url: &str, file: File) -> Result<File, DownloadError> {
        let url = parse_url(self.client.policy(), url)?;
        let client = self.client.get().await.map_err(DownloadError::Local)?;
        let mut download = Download {
            file,
            have: 0,
            max: self.volume_bytes_max,
        };
        let mut attempt = 1;
        loop {
            let error = match download.attempt(client, url.clone()).await {
                Ok(()) => {
                    download
                        .file
                        .seek(SeekFrom::Start(0))
                        .map_err(DownloadError::Local)?;
                    return Ok(download.file);
                }
                Err(error) => error,
            };
            let is_passing = matches!(
                error,
                DownloadError::Status { .. } | DownloadError::Transport { .. }
            );
            let pause = PAUSE_SECONDS.get(attempt - 1);
            let Some(seconds) = pause.filter(|_| is_passing && attempt < ATTEMPTS) else {
                return Err(error);
            };
            tracing::info!(attempt, %error, "a download failed and is tried again");
            let jitter: f64 = rand::random_range(1.0..1.1);
            tokio::time::sleep(Duration::from_secs(*seconds).mul_f64(jitter)).await;
            attempt += 1;
        }
    }
}

/// A download in progress; what is on disk survives a failed attempt.
#[derive(Debug)]
struct Download {
    file: File,
    have: u64,
    max: u64,
}

impl Download {
    async fn attempt(&mut self, client: &reqwest::Client, url: reqwest::Url) -> Result<(), DownloadError> {
        let mut request = client.get(url);
        if self.have > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.have));
        }
        let transport = |error| match hop_error(&error) {
            Some(hop) => DownloadError::Hop(hop),
            None => DownloadError::Transport {
                reason: describe(error),
            },
        };
        let mut answer = request.send().await.map_err(transport)?;
        let status = answer.status();
        if self.have > 0 && status != StatusCode::PARTIAL_CONTENT && status.is_success() {
            // The server does not resume: this answer starts from the beginning.
            self.restart().map_err(DownloadError::Local)?;
        }
        if !status.is_success() {
            self.restart().map_err(DownloadError::Local)?;
            return Err(DownloadError::Status { status });
        }
        let announced = answer
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| length > self.max.saturating_sub(self.have)) {
            return Err(DownloadError::TooLarge { max: self.max });
        }
        while let Some(piece) = answer.chunk().await.map_err(transport)? {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if length > self.max.saturating_sub(self.have) {
                return Err(DownloadError::TooLarge { max: self.max });
            }
            // Into the page cache: short, and cheaper than handing each piece to another thread.
            self.file.write_all(&piece).map_err(DownloadError::Local)?;
            self.have += length;
        }
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.have = 0;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0)).map(drop)
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
