//! Outputs: packed or picked, sent by PUT or as a form, and the servers' answers kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use indexmap::IndexMap;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::core::model::upload::{
    Fields, OutputUpload, RelativePathError, SingleFileUpload, ZipUpload, check_relative_path,
};
use crate::core::net::http::{ClientOptions, Redirects};

use super::address::Policy;
use super::describe;
use super::folder::{Folder, OpenError};
use super::guard::{GuardedClient, HopError, hop_error, parse_url};
use super::pack::{PackError, pack};
use super::path::{PathError, RelativePath};

/// How often a request is made before the upload has failed (wire-executor-miner §8).
const ATTEMPTS: usize = 3;

/// The pauses between attempts, in seconds (wire-executor-miner §8).
const PAUSE_SECONDS: [u64; 2] = [1, 2];

/// The longest that one request may take (wire-executor-miner §8).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The largest answer that is kept, in bytes (wire-executor-miner §8).
const ANSWER_BYTES_MAX: usize = 10 * 1024 * 1024;

/// The most uploads of one job.
const UPLOADS_MAX: usize = 1000;

/// How many uploads of one job run side by side.
const SIDE_BY_SIDE: usize = 8;

/// How much of a file is read ahead of the network, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// The name under which a zip travels, and its key in the results.
const ZIP_NAME: &str = "output.zip";

/// The key of a multi upload's zip in the results.
const SYSTEM_OUTPUT: &str = "system_output";

/// Why a job's output was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A named file is not below the output folder.
    #[error("the upload's relative_path was refused")]
    BadPath(#[source] PathError),
    /// A named file's path has more than one spelling, or a character that the published peers refuse.
    #[error("the upload's relative_path {0}")]
    NotCanonical(RelativePathError),
    /// A named file is not there, or is none.
    #[error("the output cannot be uploaded")]
    NoFile(#[source] OpenError),
    /// A file is over the operator's limit.
    #[error("the output file `{path}` is larger than {max} bytes")]
    TooLarge {
        /// The file.
        path: RelativePath,
        /// The limit.
        max: u64,
    },
    /// The zip could not be made.
    #[error(transparent)]
    Pack(PackError),
    /// More uploads than anyone needs.
    #[error("the job asks for {got} uploads, more than {UPLOADS_MAX}")]
    TooMany {
        /// How many there are.
        got: usize,
    },
    /// The address is not sent to.
    #[error("the output was not sent")]
    Hop(#[from] HopError),
    /// A header cannot travel.
    #[error("the signed header `{0}` is not a valid HTTP header")]
    BadHeader(String),
    /// The server said no, or sent us elsewhere.
    #[error("the upload's server answered {status}")]
    Status {
        /// Its status.
        status: StatusCode,
    },
    /// The server could not be reached, or stopped in the middle.
    #[error("the upload failed: {reason}")]
    Transport {
        /// What happened.
        reason: String,
    },
    /// The server's answer is too long, or no text.
    #[error("the upload's server gave an answer that cannot be passed on: {reason}")]
    BadAnswer {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Our own disk or machine failed: not the job's fault.
    #[error("the output could not be read")]
    Local(#[source] io::Error),
}

impl UploadError {
    /// Returns whether the fault is the executor's own rather than the job's.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl From<PackError> for UploadError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Local(source) => Self::Local(source),
            other => Self::Pack(other),
        }
    }
}

impl From<OpenError> for UploadError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Failed { source, .. } => Self::Local(source),
            other => Self::NoFile(other),
        }
    }
}

/// What the servers answered, JSON text by key, as the wire has it.
pub type UploadResults = IndexMap<String, String>;

/// Sends outputs within an operator's limit.
#[derive(Debug)]
pub struct Uploader {
    upload_bytes_max: u64,
    client: GuardedClient,
}

/// One request to be made: everything is open and counted before the first byte leaves.
#[derive(Debug)]
struct Parcel {
    key: String,
    url: reqwest::Url,
    method: Method,
    headers: HeaderMap,
    before: Bytes,
    file: File,
    file_bytes: u64,
    after: Bytes,
}

impl Uploader {
    /// Makes one; `upload_bytes_max` counts for each zip and each file, and 0 means no limit.
    pub fn new(upload_bytes_max: u64, policy: Arc<Policy>) -> Self {
        let options = ClientOptions {
            read_timeout: REQUEST_TIMEOUT,
            total_timeout: Some(REQUEST_TIMEOUT),
            redirects: Redirects::Refuse,
            ..ClientOptions::default()
        };
        let upload_bytes_max = if upload_bytes_max == 0 {
            u64::MAX
        } else {
            upload_bytes_max
        };
        Self {
            upload_bytes_max,
            client: GuardedClient::new(options, policy),
        }
    }

    /// Makes the HTTP client, so that the first upload need not wait for it; a failure is told by that upload.
    pub async fn warm(&self) {
        if let Err(error) = self.client.get().await {
            tracing::debug!(%error, "could not make the HTTP client yet");
        }
    }

    /// Sends what `upload` asks for out of `folder`; zips on their way lie in `scratch`.
    ///
    /// Several uploads run side by side; the first that fails ends the others.
    pub async fn send(
        &self,
        upload: OutputUpload,
        folder: &Folder,
        scratch: &Path,
    ) -> Result<UploadResults, UploadError> {
        let source = Source {
            folder: folder.try_clone().map_err(UploadError::Local)?,
            scratch: scratch.to_owned(),
            bytes_max: self.upload_bytes_max,
            policy: Arc::clone(self.client.policy()),
        };
        let parcels = tokio::task::spawn_blocking(move || prepare(upload, &source))
            .await
            .map_err(|error| UploadError::Local(io::Error::other(error)))??;
        let client = self.client.get().await.map_err(UploadError::Local)?;
        // As they end, so that the first failure is seen, and the others dropped, while those still run.
        let mut answers: Vec<(usize, String, String)> = stream::iter(parcels.into_iter().enumerate())
            .map(|(place, parcel)| async move {
                let answer = deliver(client, &parcel).await?;
                Ok::<_, UploadError>((place, parcel.key, answer))
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect()
            .await?;
        answers.sort_unstable_by_key(|(place, ..)| *place);
        Ok(answers
            .into_iter()
            .map(|(_place, key, answer)| (key, answer))
            .collect())
    }
}

/// Where parcels come from, and what they must keep to.
struct Source {
    folder: Folder,
    scratch: PathBuf,
    bytes_max: u64,
    policy: Arc<Policy>,
}

/// Opens, packs and counts everything that is to be sent; blocks.
fn prepare(upload: OutputUpload, source: &Source) -> Result<Vec<Parcel>, UploadError> {
    let nothing = HashSet::new();
    let zip = |upload: ZipUpload, key: &str, left_out: &HashSet<RelativePath>| {
        let packed = pack(&source.folder, left_out, source.bytes_max, &source.scratch)?;
        let content = Content {
            name: ZIP_NAME,
            file: packed.file,
            bytes: packed.bytes,
        };
        match upload {
            ZipUpload::Post(post) => {
                let url = parse_url(&source.policy, &post.url)?;
                parcel(key, url, Way::Form(post.form_fields), None, content)
            }
            ZipUpload::Put(put) => {
                let url = parse_url(&source.policy, &put.url)?;
                parcel(key, url, Way::Body, None, content)
            }
        }
    };
    let single = |upload: SingleFileUpload| single_file(upload, source);
    match upload {
        OutputUpload::ZipPost(post) => Ok(vec![zip(ZipUpload::Post(post), ZIP_NAME, &nothing)?]),
        OutputUpload::ZipPut(put) => Ok(vec![zip(ZipUpload::Put(put), ZIP_NAME, &nothing)?]),
        OutputUpload::SingleFilePost(post) => Ok(vec![single(SingleFileUpload::Post(post))?]),
        OutputUpload::SingleFilePut(put) => Ok(vec![single(SingleFileUpload::Put(put))?]),
        OutputUpload::Multi(multi) => {
            if multi.uploads.len() > UPLOADS_MAX {
                return Err(UploadError::TooMany {
                    got: multi.uploads.len(),
                });
            }
            let named: Result<HashSet<RelativePath>, PathError> = multi
                .uploads
                .iter()
                .map(|upload| RelativePath::parse(upload.relative_path()))
                .collect();
            let named = named.map_err(UploadError::BadPath)?;
            let mut parcels: Vec<Parcel> = multi.uploads.into_iter().map(single).collect::<Result<_, _>>()?;
            if let Some(upload) = multi.system_output {
                parcels.push(zip(upload, SYSTEM_OUTPUT, &named)?);
            }
            Ok(parcels)
        }
    }
}

fn single_file(upload: SingleFileUpload, source: &Source) -> Result<Parcel, UploadError> {
    let path = RelativePath::parse(upload.relative_path()).map_err(UploadError::BadPath)?;
    check_relative_path(upload.relative_path()).map_err(UploadError::NotCanonical)?;
    let file = source.folder.read(&path)?;
    let bytes = file.metadata().map_err(UploadError::Local)?.len();
    if bytes > source.bytes_max {
        return Err(UploadError::TooLarge {
            path,
            max: source.bytes_max,
        });
    }
    let (_folders, name) = path.split();
    let content = Content { name, file, bytes };
    match upload {
        SingleFileUpload::Post(post) => {
            let way = Way::Form(post.form_fields);
            parcel(
                path.as_str(),
                parse_url(&source.policy, &post.url)?,
                way,
                post.signed_headers.as_ref(),
                content,
            )
        }
        SingleFileUpload::Put(put) => parcel(
            path.as_str(),
            parse_url(&source.policy, &put.url)?,
            Way::Body,
            put.signed_headers.as_ref(),
            content,
        ),
    }
}

/// How a file travels.
enum Way {
    /// As the whole body of a PUT.
    Body,
    /// As the last part of a form, behind these fields.
    Form(Option<Fields>),
}

/// What travels.
struct Content<'a> {
    name: &'a str,
    file: File,
    bytes: u64,
}

fn parcel(
    key: &str,
    url: reqwest::Url,
    way: Way,
    signed: Option<&Fields>,
    content: Content<'_>,
) -> Result<Parcel, UploadError> {
    let mut headers = HeaderMap::new();
    for (name, value) in signed.into_iter().flatten() {
        let bad = || UploadError::BadHeader(name.escape_debug().to_string());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_error| bad())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_error| bad())?;
        headers.insert(header, value);
    }
    let (method, before, after) = match way {
        Way::Body => (Method::PUT, Vec::new(), Vec::new()),
        Way::Form(fields) => {
            let boundary = uuid::Uuid::new_v4().simple().to_string();
            let (before, after) = form_around(&boundary, fields.as_ref(), content.name);
            let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))
                .map_err(|_error| UploadError::BadHeader(CONTENT_TYPE.to_string()))?;
            // A signed Content-Type wins, as in the reference, even though no server can read the form then.
            headers.entry(CONTENT_TYPE).or_insert(kind);
            (Method::POST, before, after)
        }
    };
    let around = u64::try_from(before.len() + after.len()).unwrap_or(u64::MAX);
    // The body is a stream, so its length must be said; presigned addresses do not take chunks.
    headers
        .entry(CONTENT_LENGTH)
        .or_insert(HeaderValue::from(content.bytes.saturating_add(around)));
    Ok(Parcel {
        key: key.to_owned(),
        url,
        method,
        headers,
        before: before.into(),
        file: content.file,
        file_bytes: content.bytes,
        after: after.into(),
    })
}

/// Writes what stands before and behind the file in a form (`vectors/uploads_http.json`).
fn form_around(boundary: &str, fields: Option<&Fields>, file_name: &str) -> (Vec<u8>, Vec<u8>) {
    let mut before = String::new();
    for (name, value) in fields.into_iter().flatten() {
        let name = escape_parameter(name);
        let part =
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        before.push_str(&part);
    }
    let name = escape_parameter(file_name);
    let kind = mime_guess::from_path(file_name).first_or_octet_stream();
    let part = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: {kind}\r\n\r\n"
    );
    before.push_str(&part);
    (
        before.into_bytes(),
        format!("\r\n--{boundary}--\r\n").into_bytes(),
    )
}

/// Escapes a form parameter as browsers and the reference's library do.
fn escape_parameter(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("%22"),
            '\\' => escaped.push_str("\\\\"),
            // The escape character itself is let through, by an oversight of the living standard's older form.
            control @ '\0'..='\x1f' if control != '\x1b' => {
                let code = format!("%{:02X}", u32::from(control));
                escaped.push_str(&code);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

async fn deliver(client: &reqwest::Client, parcel: &Parcel) -> Result<String, UploadError> {
    let mut attempt = 1;
    loop {
        let error = match post(client, parcel).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_passing = matches!(error, UploadError::Status { .. } | UploadError::Transport { .. });
        let pause = PAUSE_SECONDS.get(attempt - 1);
        let Some(seconds) = pause.filter(|_| is_passing && attempt < ATTEMPTS) else {
            return Err(error);
        };
        tracing::info!(key = %parcel.key, attempt, %error, "an upload failed and is tried again");
        tokio::time::sleep(Duration::from_secs(*seconds)).await;
        attempt += 1;
    }
}

async fn post(client: &reqwest::Client, parcel: &Parcel) -> Result<String, UploadError> {
    let mut file = parcel.file.try_clone().map_err(UploadError::Local)?;
    file.seek(SeekFrom::Start(0)).map_err(UploadError::Local)?;
    let file = tokio::fs::File::from_std(file).take(parcel.file_bytes);
    let (before, after) = (parcel.before.clone(), parcel.after.clone());
    let body = stream::iter([Ok(before)])
        .chain(ReaderStream::with_capacity(file, CHUNK_BYTES))
        .chain(stream::iter([Ok(after)]));
    let transport = |error| match hop_error(&error) {
        Some(hop) => UploadError::Hop(hop),
        None => UploadError::Transport {
            reason: describe(error),
        },
    };
    let mut answer = client
        .request(parcel.method.clone(), parcel.url.clone())
        .headers(parcel.headers.clone())
        .body(reqwest::Body::wrap_stream(body))
        .send()
        .await
        .map_err(transport)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(UploadError::Status { status });
    }
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(transport)? {
        if text.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(UploadError::BadAnswer {
                reason: "it is longer than 10 MiB",
            });
        }
        text.extend_from_slice(&piece);
    }
    let body = String::from_utf8(text).map_err(|_error| UploadError::BadAnswer {
        reason: "it is no UTF-8 text",
    })?;
    Ok(answer_text(answer.headers(), body))
}

/// Writes an answer as the reference does: Python's JSON of its headers, names in lower case, and its body.
fn answer_text(headers: &HeaderMap, body: String) -> String {
    #[derive(Serialize)]
    struct Answer {
        headers: IndexMap<String, String>,
        body: String,
    }
    let mut joined: IndexMap<String, String> = IndexMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    python_json(&Answer {
        headers: joined,
        body,
    })
}

/// Writes a value as Python's `json.dumps` does by default: `", "` and `": "`, and nothing but ASCII.
fn python_json(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, PythonFormatter);
    if value.serialize(&mut serializer).is_err() {
        debug_assert!(false, "texts and maps of texts always serialise");
    }
    String::from_utf8(text).unwrap_or_default()
}

struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        for character in text.chars() {
            // Python escapes DEL not at all and everything beyond it.
            if character.is_ascii() {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_its_fields_first_and_the_file_last() {
        let fields = Fields::from_iter([
            ("key".to_owned(), "b.bin".to_owned()),
            ("po\"l\r\n".to_owned(), "p".to_owned()),
        ]);
        let (before, after) = form_around("B", Some(&fields), "b.bin");
        assert_eq!(
            String::from_utf8(before).unwrap(),
            "--B\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nb.bin\r\n\
             --B\r\nContent-Disposition: form-data; name=\"po%22l%0D%0A\"\r\n\r\np\r\n\
             --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"b.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        assert_eq!(String::from_utf8(after).unwrap(), "\r\n--B--\r\n");
        for (name, kind) in [
            ("output.zip", "application/zip"),
            ("b.txt", "text/plain"),
            ("x", "application/octet-stream"),
        ] {
            let (before, _after) = form_around("B", None, name);
            assert!(
                String::from_utf8(before)
                    .unwrap()
                    .contains(&format!("Content-Type: {kind}\r\n")),
                "{name}"
            );
        }
    }

    #[test]
    fn an_answer_is_written_as_python_writes_it() {
        let mut headers = HeaderMap::new();
        headers.insert("ETag", HeaderValue::from_static("\"abc\""));
        headers.append("X-A", HeaderValue::from_static("1"));
        headers.append("X-A", HeaderValue::from_static("2"));
        assert_eq!(
            answer_text(&headers, "é\n😀".to_owned()),
            r#"{"headers": {"etag": "\"abc\"", "x-a": "1, 2"}, "body": "\u00e9\n\ud83d\ude00"}"#
        );
    }
}
