//! One file from one address: streamed to disk, resumed where it broke, given up in time.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::describe;
use super::guard::{GuardedClient, HopError, hop_error};

/// How often in a row a request may fail before its file has failed (wire-executor-miner §6).
const ATTEMPTS: usize = 3;

/// How many requests one file takes at most, however much each of them brings.
const REQUESTS_MAX: usize = 30;

/// What a request must bring, in bytes, to count as progress: the next failure is then a first one again. A large
/// file over a bad line would otherwise fail by its size alone.
const PROGRESS_BYTES: u64 = 8 * 1024 * 1024;

/// The pauses between attempts, in seconds (wire-executor-miner §6, seen in traces/executor-single-file-volume-404).
const PAUSE_SECONDS: [u64; ATTEMPTS - 1] = [1, 4];

/// The slowest pace at which a download goes on. Each piece may take as long as the client's read timeout, so that a
/// server could send a byte each time for hours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Over how long it is measured.
    window: Duration,
    /// What must come in that time, in bytes.
    bytes_min: u64,
}

impl Default for Pace {
    /// 1 KiB/s over half a minute.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            bytes_min: 30 * 1024,
        }
    }
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address, or one that it was redirected to, is not fetched from.
    #[error(transparent)]
    Hop(#[from] HopError),
    /// It is larger than it may be.
    #[error("Input volume too large: more than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The server said no.
    #[error("the server answered {status}")]
    Status {
        /// Its status, with its words.
        status: StatusCode,
        /// What else it said in a header: the hub's error code.
        code: Option<String>,
    },
    /// The server could not be reached, or stopped in the middle.
    #[error("{reason}")]
    Transport {
        /// What happened.
        reason: String,
    },
    /// The server sends next to nothing.
    #[error("the server sent less than {bytes} bytes in {window:?}")]
    TooSlow {
        /// What it should have sent.
        bytes: u64,
        /// In which time.
        window: Duration,
    },
    /// The server's answer contradicts itself, or what was to be expected.
    #[error("the server's answer makes no sense: {reason}")]
    Nonsense {
        /// How.
        reason: String,
    },
    /// Our own disk or machine failed: not the job's fault.
    #[error("the volume could not be stored")]
    Local(#[source] io::Error),
}

impl FetchError {
    /// Returns whether the next attempt may go better: the connection, a broken body, a server in trouble.
    fn is_passing(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::TooSlow { .. } | Self::Nonsense { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Hop(_) | Self::TooLarge { .. } | Self::Local(_) => false,
        }
    }
}

/// What is to be fetched.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// From where; a URL that [`super::guard::parse_url`] has passed.
    pub(super) url: Url,
    /// What is sent along, beyond what a download needs.
    pub(super) headers: HeaderMap,
    /// The most bytes that are taken.
    pub(super) bytes_max: u64,
    /// How many bytes it must have, where that is known before.
    pub(super) bytes: Option<u64>,
    /// Its SHA-256, where that is known before.
    pub(super) sha256: Option<[u8; 32]>,
    /// How slow the server may be.
    pub(super) pace: Pace,
}

impl Request {
    /// Makes one of which nothing is known.
    pub(super) fn new(url: Url, bytes_max: u64) -> Self {
        Self {
            url,
            headers: HeaderMap::new(),
            bytes_max,
            bytes: None,
            sha256: None,
            pace: Pace::default(),
        }
    }
}

/// What was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The file, rewound.
    pub(super) file: File,
    /// Its size.
    pub(super) bytes: u64,
    /// What the server said about it.
    pub(super) headers: HeaderMap,
}

/// Writes what an address holds into `file`.
pub(super) async fn fetch(
    client: &GuardedClient,
    request: Request,
    file: File,
) -> Result<Fetched, FetchError> {
    let client = client.get().await.map_err(FetchError::Local)?;
    let mut download = Download {
        digest: request.sha256.map(|_| Sha256::new()),
        request,
        file,
        have: 0,
        headers: HeaderMap::new(),
    };
    let mut failures = 0;
    for _ in 0..REQUESTS_MAX {
        let before = download.have;
        let error = match download.attempt(client).await {
            Ok(()) => return download.finish(),
            Err(error) => error,
        };
        failures = if download.have >= before.saturating_add(PROGRESS_BYTES) {
            1
        } else {
            failures + 1
        };
        let pause = PAUSE_SECONDS.get(failures - 1);
        let Some(seconds) = pause.filter(|_| error.is_passing()) else {
            return Err(error);
        };
        tracing::info!(failures, have = download.have, %error, "a download failed and is tried again");
        let jitter: f64 = rand::random_range(1.0..1.1);
        tokio::time::sleep(Duration::from_secs(*seconds).mul_f64(jitter)).await;
    }
    Err(FetchError::Nonsense {
        reason: format!("it broke off {REQUESTS_MAX} times"),
    })
}

/// A download in progress; what is on disk survives a failed attempt.
struct Download {
    request: Request,
    file: File,
    have: u64,
    digest: Option<Sha256>,
    /// What the server said when it began.
    headers: HeaderMap,
}

impl Download {
    async fn attempt(&mut self, client: &reqwest::Client) -> Result<(), FetchError> {
        let mut request = client
            .get(self.request.url.clone())
            .headers(self.request.headers.clone())
            // What is stored is what the server has; nothing is inflated on the way.
            .header(ACCEPT_ENCODING, "identity");
        if self.have > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.have));
            // Two versions must not be sewn together.
            if let Some(version) = version(&self.headers) {
                request = request.header(IF_RANGE, version);
            }
        }
        let answer = request.send().await.map_err(failed)?;
        self.begin(&answer)?;
        self.take(answer).await
    }

    /// Judges the head of an answer and makes ready for its body.
    fn begin(&mut self, answer: &Response) -> Result<(), FetchError> {
        let (status, headers) = (answer.status(), answer.headers());
        if !status.is_success() {
            // A range that is not there any more must not be asked for again.
            if self.have > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE {
                self.restart()?;
                return Err(FetchError::Nonsense {
                    reason: "it has no more to send than before".to_owned(),
                });
            }
            let code = headers.get("x-error-code").and_then(|code| code.to_str().ok());
            return Err(FetchError::Status {
                status,
                code: code.map(|code| code.chars().take(64).collect()),
            });
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let start = headers.get(CONTENT_RANGE).and_then(range_start);
            if self.have == 0 || start != Some(self.have) {
                self.restart()?;
                return Err(FetchError::Nonsense {
                    reason: "it sent another part than was asked for".to_owned(),
                });
            }
        } else if self.have > 0 {
            // The server does not resume, or has another version: this answer starts from the beginning.
            self.restart()?;
        }
        if self.have == 0 {
            self.headers = headers.clone();
            if let Some(encoding) = headers.get(CONTENT_ENCODING) {
                tracing::warn!(
                    ?encoding,
                    "the server sent an encoded body, which is stored as it is"
                );
            }
        }
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match announced {
            Some(length) => self.room_for(length),
            None => Ok(()),
        }
    }

    /// Takes a body piece by piece.
    async fn take(&mut self, mut answer: Response) -> Result<(), FetchError> {
        let Pace { window, bytes_min } = self.request.pace;
        let too_slow = || FetchError::TooSlow {
            bytes: bytes_min,
            window,
        };
        let (mut since, mut mark) = (Instant::now(), self.have);
        loop {
            let Ok(piece) = timeout(window, answer.chunk()).await else {
                return Err(too_slow());
            };
            let Some(piece) = piece.map_err(failed)? else {
                break;
            };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.room_for(length)?;
            // Into the page cache: short, and cheaper than handing each piece to another thread.
            self.file.write_all(&piece).map_err(FetchError::Local)?;
            if let Some(digest) = &mut self.digest {
                digest.update(&piece);
            }
            self.have += length;
            if since.elapsed() >= window {
                if self.have - mark < bytes_min {
                    return Err(too_slow());
                }
                (since, mark) = (Instant::now(), self.have);
            }
        }
        self.check()
    }

    fn room_for(&self, length: u64) -> Result<(), FetchError> {
        if length > self.request.bytes_max.saturating_sub(self.have) {
            return Err(FetchError::TooLarge {
                max: self.request.bytes_max,
            });
        }
        Ok(())
    }

    /// Compares what has come with what was announced; what is wrong is thrown away.
    fn check(&mut self) -> Result<(), FetchError> {
        let digest = self
            .digest
            .clone()
            .map(|digest| <[u8; 32]>::from(digest.finalize()));
        let reason = if self.request.bytes.is_some_and(|bytes| bytes != self.have) {
            format!("the file has {} bytes and should have another number", self.have)
        } else if digest != self.request.sha256 {
            "the file's SHA-256 is not the announced one".to_owned()
        } else {
            return Ok(());
        };
        self.restart()?;
        Err(FetchError::Nonsense { reason })
    }

    fn restart(&mut self) -> Result<(), FetchError> {
        self.have = 0;
        self.headers.clear();
        self.digest = self.digest.as_ref().map(|_| Sha256::new());
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(FetchError::Local)
    }

    fn finish(mut self) -> Result<Fetched, FetchError> {
        self.file.rewind().map_err(FetchError::Local)?;
        Ok(Fetched {
            file: self.file,
            bytes: self.have,
            headers: self.headers,
        })
    }
}

/// Says what became of a request that has no answer, or not all of it.
pub(super) fn failed(error: reqwest::Error) -> FetchError {
    match hop_error(&error) {
        Some(hop) => FetchError::Hop(hop),
        None => FetchError::Transport {
            reason: describe(error),
        },
    }
}

/// Returns what names a version beyond doubt: a strong entity tag, else the time of the last change (RFC 9110 §13.1.5).
fn version(headers: &HeaderMap) -> Option<&HeaderValue> {
    let tag = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    tag.or_else(|| headers.get(LAST_MODIFIED))
}

/// Returns where a part begins, of `bytes 5-9/10`.
fn range_start(range: &HeaderValue) -> Option<u64> {
    let (start, _rest) = range.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::address::Policy;
    use super::super::guard::parse_url;
    use super::*;
    use crate::core::net::http::ClientOptions;
    use crate::core::tasks::Tasks;

    #[tokio::test]
    async fn a_server_that_drips_is_given_up_though_it_is_never_silent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        let family = tasks.clone();
        tasks.spawn("server", async move {
            while let Ok((mut stream, _peer)) = listener.accept().await {
                family.spawn("connection", async move {
                    // A client that is answered before it has asked gives up at once.
                    let mut asked = [0; 1024];
                    assert!(stream.read(&mut asked).await.unwrap() > 0);
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                    let mut going = stream.write_all(head).await.is_ok();
                    while going {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        going = stream.write_all(b"x").await.is_ok();
                    }
                });
            }
        });
        let policy = Arc::new(Policy::new(vec!["127.0.0.0/8".parse().unwrap()]));
        let client = GuardedClient::new(ClientOptions::default(), policy);
        let mut request = Request::new(parse_url(client.policy(), &url).unwrap(), u64::MAX);
        request.pace = Pace {
            window: Duration::from_millis(200),
            bytes_min: 1000,
        };
        let error = fetch(&client, request, tempfile::tempfile().unwrap())
            .await
            .unwrap_err();
        assert!(
            matches!(error, FetchError::TooSlow { bytes: 1000, .. }),
            "{error}"
        );
        tasks.abort();
    }
}
