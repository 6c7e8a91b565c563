//! Downloads of a job's outputs: taken up where they broke off, and compared with what the server tells of the object.

use std::io::{self, Read};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use sha2::{Digest, Sha256};

use super::landing::{LandingError, Part};
use crate::core::clock::Backoff;
use crate::core::net::http::{self, ClientOptions};

/// Attempts in a row that bring nothing; one that brings bytes begins the count anew.
const ATTEMPTS: u32 = 5;

/// The first pause between attempts, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The largest file that is downloaded, in bytes (5 TiB: the largest object that S3 knows).
const FILE_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1024 * 1024;

/// Bytes of a refusal that are read.
const WORDS_BYTES_MAX: usize = 4096;

/// Characters of a refusal that are quoted.
const WORDS_CHARS_MAX: usize = 300;

/// Why a file was not downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The HTTP client could not be made.
    #[error(transparent)]
    SetUp(#[from] http::ClientError),
    /// The server did not answer, or stopped in the middle again and again.
    #[error("the server stopped in the middle or did not answer: {0}")]
    Broken(String),
    /// The server refused.
    #[error("the server answered with HTTP status {status}: {words}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The file is too large.
    #[error("the file is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// The server tells the size of something else.
    #[error("the file has {got} bytes, and the server told {told}")]
    Size {
        /// What came.
        got: u64,
        /// What was told.
        told: u64,
    },
    /// The content is not what the server tells.
    #[error("the file's {kind} is {got}, and the server told {told}")]
    Digest {
        /// Which digest.
        kind: &'static str,
        /// Of what came, in hex.
        got: String,
        /// What was told, in hex.
        told: String,
    },
    /// It cannot land.
    #[error(transparent)]
    Landing(#[from] LandingError),
}

/// A file that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// By which digest of the server's it was verified; none if the server told none.
    pub verified: Option<&'static str>,
}

/// Fetches files.
#[derive(Debug, Clone)]
pub struct Downloads(reqwest::Client);

/// What a server tells of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    tag: String,
    bytes: Option<u64>,
    sha256: Option<Vec<u8>>,
    md5: Option<Vec<u8>>,
}

/// How an attempt ended that did not bring the file.
enum Stop {
    /// For good.
    Final(DownloadError),
    /// For now.
    Passing(DownloadError),
}

impl<E: Into<DownloadError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl Downloads {
    /// Makes the client; it follows redirects.
    pub fn new() -> Result<Self, DownloadError> {
        Ok(Self(http::client(&ClientOptions::default())?))
    }

    /// Brings a file; `is_s3` tells that the server is one, whose tags are digests; `progress` hears of bytes that are there, and of the size once it is known.
    pub async fn fetch(
        &self,
        url: &str,
        mut part: Part,
        is_s3: bool,
        progress: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<Fetched, DownloadError> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let told = loop {
            let before = size(&part)?;
            match self.attempt(url, &mut part, progress).await {
                Ok(told) => break told,
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Passing(error)) => {
                    if size(&part)? > before {
                        backoff.reset();
                    }
                    if backoff.attempts() + 1 >= ATTEMPTS {
                        return Err(error);
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        };
        let file = part.content().map_err(|source| part.failed(source))?;
        let sums = tokio::task::spawn_blocking(move || sums(file)).await;
        let sums = sums.map_err(io::Error::other).and_then(|sums| sums);
        let sums = sums.map_err(|source| part.failed(source))?;
        let told = if is_s3 { told } else { Told { md5: None, ..told } };
        match verify(&told, &sums) {
            Ok(verified) => {
                part.finish()?;
                Ok(Fetched {
                    bytes: sums.bytes,
                    sha256: hex::encode(&sums.sha256),
                    verified,
                })
            }
            Err(error) => {
                // The next call must not take it up.
                part.discard();
                Err(error)
            }
        }
    }

    async fn attempt(
        &self,
        url: &str,
        part: &mut Part,
        progress: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<Told, Stop> {
        let (have, tag) = part.begun().map_err(|source| part.failed(source))?;
        let mut request = self.0.get(url);
        if have > 0 {
            request = request
                .header(RANGE, format!("bytes={have}-"))
                .header(IF_RANGE, &tag);
        }
        let mut answer = request.send().await.map_err(broken)?;
        let mut told = told(answer.headers());
        let mut have = match answer.status() {
            StatusCode::PARTIAL_CONTENT
                if have > 0 && continues(answer.headers(), have) && told.tag == tag =>
            {
                told.bytes = told.bytes.map(|rest| rest.saturating_add(have));
                have
            }
            // The whole file is there, or something else than was begun: the sizes tell.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if have > 0 => {
                part.restart("").map_err(|source| part.failed(source))?;
                let words = "what was begun is no longer what the server has".to_owned();
                return Err(Stop::Passing(DownloadError::Broken(words)));
            }
            status if status.is_success() => {
                part.restart(&told.tag).map_err(|source| part.failed(source))?;
                0
            }
            status => return Err(refusal(status, answer).await),
        };
        progress(have, told.bytes);
        let mut gathered = Vec::with_capacity(WRITE_BYTES);
        loop {
            let chunk = answer.chunk().await;
            let is_end = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(chunk)) = &chunk {
                gathered.extend_from_slice(chunk);
            }
            if gathered.len() >= WRITE_BYTES || is_end {
                have = have.saturating_add(u64::try_from(gathered.len()).unwrap_or(u64::MAX));
                if have > FILE_BYTES_MAX {
                    return Err(DownloadError::TooLarge.into());
                }
                part.append(&gathered).map_err(|source| part.failed(source))?;
                gathered.clear();
                progress(have, told.bytes);
            }
            chunk.map_err(broken)?;
            if is_end {
                return Ok(told);
            }
        }
    }
}

fn size(part: &Part) -> Result<u64, DownloadError> {
    let facts = part.content().and_then(|file| file.metadata());
    Ok(facts.map_err(|source| part.failed(source))?.len())
}

/// Describes a failed request without its address, which may be presigned and so a secret.
fn broken(error: reqwest::Error) -> Stop {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    let failed = DownloadError::Broken(text.chars().take(WORDS_CHARS_MAX).collect());
    // An address that is none gets no better.
    if error.is_builder() || error.is_redirect() {
        Stop::Final(failed)
    } else {
        Stop::Passing(failed)
    }
}

async fn refusal(status: StatusCode, mut answer: Response) -> Stop {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= WORDS_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    let words: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: String = words.trim().chars().take(WORDS_CHARS_MAX).collect();
    let refused = DownloadError::Refused {
        status: status.as_u16(),
        words: if words.is_empty() {
            "no words".to_owned()
        } else {
            words
        },
    };
    if matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504) {
        Stop::Passing(refused)
    } else {
        Stop::Final(refused)
    }
}

/// Returns whether an answer begins where the file ends.
fn continues(headers: &HeaderMap, have: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next());
    start.and_then(|start| start.parse().ok()) == Some(have)
}

fn told(headers: &HeaderMap) -> Told {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = headers
        .get(ETAG)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // A weak tag does not promise the same bytes.
    let tag = if tag.starts_with("W/") { "" } else { tag };
    // A content that was packed on the way is not the file that the size and the digests are of.
    if text("content-encoding").is_some_and(|coding| coding != "identity" && coding != "aws-chunked") {
        return Told {
            tag: tag.to_owned(),
            ..Told::default()
        };
    }
    // With a key that S3 keeps or the user gave, the tag is no digest; nor is that of an upload in parts.
    let is_sealed = text("x-amz-server-side-encryption").is_some_and(|kind| kind != "AES256")
        || text("x-amz-server-side-encryption-customer-algorithm").is_some();
    let md5 = Some(tag.trim_matches('"'))
        .filter(|tag| tag.len() == 32 && !is_sealed)
        .and_then(|tag| hex::decode(tag).ok());
    let structured = ["repr-digest", "content-digest"]
        .into_iter()
        .find_map(|name| member(text(name)?, "sha-256=:", ':'));
    let sha256 = text("x-amz-checksum-sha256")
        .filter(|sum| !sum.contains('-'))
        .and_then(|sum| STANDARD.decode(sum).ok())
        .or(structured)
        .or_else(|| member(text("digest")?, "sha-256=", ','))
        .filter(|sum| sum.len() == 32);
    Told {
        tag: tag.to_owned(),
        bytes: text("content-length").and_then(|length| length.parse().ok()),
        sha256,
        md5,
    }
}

/// Finds base64 behind `key` up to `end` in a header of several members.
fn member(header: &str, key: &str, end: char) -> Option<Vec<u8>> {
    let member = header
        .split(',')
        .map(str::trim)
        .find(|member| member.to_ascii_lowercase().starts_with(key))?;
    let value = member.get(key.len()..)?.split(end).next()?;
    STANDARD.decode(value).ok()
}

struct Sums {
    bytes: u64,
    sha256: Vec<u8>,
    md5: Vec<u8>,
}

fn sums(mut file: std::fs::File) -> io::Result<Sums> {
    let (mut sha256, mut md5, mut bytes) = (Sha256::new(), Md5::new(), 0_u64);
    let mut buffer = vec![0; WRITE_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(content) = buffer.get(..read).filter(|content| !content.is_empty()) else {
            break;
        };
        sha256.update(content);
        md5.update(content);
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    Ok(Sums {
        bytes,
        sha256: sha256.finalize().to_vec(),
        md5: md5.finalize().to_vec(),
    })
}

fn verify(told: &Told, sums: &Sums) -> Result<Option<&'static str>, DownloadError> {
    if let Some(bytes) = told.bytes.filter(|bytes| *bytes != sums.bytes) {
        return Err(DownloadError::Size {
            got: sums.bytes,
            told: bytes,
        });
    }
    for (kind, told, got) in [
        ("sha256", &told.sha256, &sums.sha256),
        ("md5", &told.md5, &sums.md5),
    ] {
        match told {
            Some(told) if told == got => return Ok(Some(kind)),
            Some(told) => {
                return Err(DownloadError::Digest {
                    kind,
                    got: hex::encode(got),
                    told: hex::encode(told),
                });
            }
            None => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(
                reqwest::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    #[test]
    fn digests_are_taken_from_where_servers_tell_them() {
        let sum = Sha256::digest(b"abc");
        let text = STANDARD.encode(sum);
        for pairs in [
            &[("x-amz-checksum-sha256", text.as_str())][..],
            &[("repr-digest", &format!("sha-512=:AA==:, sha-256=:{text}:"))],
            &[("digest", &format!("SHA-256={text}"))],
        ] {
            assert_eq!(
                told(&headers(pairs)).sha256.as_deref(),
                Some(sum.as_slice()),
                "{pairs:?}"
            );
        }
        let tag = ("etag", "\"900150983cd24fb0d6963f7d28e17f72\"");
        assert!(told(&headers(&[tag])).md5.is_some());
        // Not if it was sealed, not if it came in parts, not if it was packed.
        assert!(
            told(&headers(&[tag, ("x-amz-server-side-encryption", "aws:kms")]))
                .md5
                .is_none()
        );
        let parts = ("etag", "\"900150983cd24fb0d6963f7d28e17f72-2\"");
        assert!(told(&headers(&[parts])).md5.is_none());
        assert!(told(&headers(&[tag, ("content-encoding", "gzip")])).md5.is_none());
        assert_eq!(told(&headers(&[("etag", "W/\"x\"")])).tag, "");
    }

    #[test]
    fn what_is_not_what_was_told_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let sums = sums(std::fs::File::open(path).unwrap()).unwrap();
        let good = Told {
            bytes: Some(3),
            md5: Some(Md5::digest(b"abc").to_vec()),
            ..Told::default()
        };
        assert_eq!(verify(&good, &sums).unwrap(), Some("md5"));
        assert_eq!(verify(&Told::default(), &sums).unwrap(), None);
        let short = Told {
            bytes: Some(4),
            ..good.clone()
        };
        assert!(matches!(verify(&short, &sums), Err(DownloadError::Size { .. })));
        let other = Told {
            sha256: Some(vec![0; 32]),
            ..good
        };
        assert!(matches!(
            verify(&other, &sums),
            Err(DownloadError::Digest { kind: "sha256", .. })
        ));
    }

    #[test]
    fn a_part_continues_only_where_the_file_ends() {
        assert!(continues(&headers(&[("content-range", "bytes 5-9/10")]), 5));
        assert!(!continues(&headers(&[("content-range", "bytes 4-9/10")]), 5));
        assert!(!continues(&headers(&[]), 5));
    }
}
