//! The bodies and headers of the HTTP wire between a user (the SDK, `horde job`) and the facilitator.
//!
//! Source: wire-facilitator-http. Volumes and uploads are written with every field of their model, nulls included:
//! the validator recomputes what the user signed from typed values, so an omitted null breaks the signature.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::facilitator_validator::{Signature, SignatureScope};
use super::job::CANCELLED_KEY;
use crate::core::crypto::canonical::CanonicalError;
use crate::core::crypto::signed::{SignedFields, SignedStreaming, sign_request};
use crate::core::crypto::{Keypair, VerifyError, signed};
use crate::core::model::job::{JobStatus, OutputStream};
use crate::core::model::upload::SingleFileUpload;
use crate::core::model::volume::SimpleVolume;
use crate::core::model::{ExecutorClass, Hotkey, JobId, Timestamp};

/// Paths, as the SDK asks for them.
pub mod path {
    /// Gives a nonce.
    pub const NONCE: &str = "/auth/nonce";
    /// Takes a signed nonce, gives a token.
    pub const LOGIN: &str = "/auth/login";
    /// Takes a job.
    pub const SUBMIT: &str = "/api/v1/job-docker/";
    /// Lists the caller's jobs; one job lies below it.
    pub const JOBS: &str = "/api/v1/jobs/";
    /// Shows a job.
    pub const JOB: &str = "/api/v1/jobs/{uuid}/";
    /// Takes the wish to end a job; not known to the reference.
    pub const CANCEL: &str = "/api/v1/jobs/{uuid}/cancel/";
    /// Gives what a job has written, from an offset on; not known to the reference.
    pub const LOGS: &str = "/api/v1/jobs/{uuid}/logs/";
    /// Takes, and shows, what a job's owner thinks of its result.
    pub const FEEDBACK: &str = "/api/v1/jobs/{uuid}/feedback/";
    /// Takes a cheat report.
    pub const CHEATED: &str = "/api/v1/cheated-job/";
    /// Lists connected validators; not known to the reference.
    pub const VALIDATORS: &str = "/api/v1/validators/";
    /// Shows the caller's money and the prices; not known to the reference.
    pub const ACCOUNT: &str = "/api/v1/account/";
    /// Says whether the facilitator serves; not known to the reference.
    pub const HEALTH: &str = "/health";
    /// Describes all of these (OpenAPI 3.1); not known to the reference.
    pub const OPENAPI: &str = "/openapi.json";
    /// Where validators connect.
    pub const VALIDATOR_LINK: &str = "/ws/v0/";
}

/// Header names of a signed request (wire-facilitator-http §4); HTTP ignores their case.
pub mod header {
    /// Always `bittensor`.
    pub const SIGNATURE_TYPE: &str = "x-ch-signature-type";
    /// The signer's SS58 address.
    pub const SIGNATORY: &str = "x-ch-signatory";
    /// Unix nanoseconds.
    pub const TIMESTAMP_NS: &str = "x-ch-timestamp-ns";
    /// Base64 of 64 bytes.
    pub const SIGNATURE: &str = "x-ch-signature";
    /// `SignedFields` (also if absent) or `FullRequest`.
    pub const SIGNATURE_SCOPE: &str = "x-ch-signature-scope";
}

/// The header of a submission by whose value a repetition is recognised; not known to the reference.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Most characters of the value of [`IDEMPOTENCY_KEY`], all of them printable ASCII.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;

/// The signature type that is in use.
pub const SIGNATURE_TYPE: &str = "bittensor";

/// The headers that the SDK sends with each call; the facilitator ignores them.
pub const SDK_HEADERS: [(&str, &str); 2] = [("realm", "mainnet"), ("subnetid", "12")];

/// The text that tells an expired token from other refusals; the SDK looks for its beginning without the full stop.
pub const TOKEN_EXPIRED: &str = "Token expired.";

/// Entries of a page unless the caller asks for another number.
pub const PAGE_SIZE_DEFAULT: u32 = 10;

/// Most entries of a page; a larger number is clamped.
pub const PAGE_SIZE_MAX: u32 = 256;

/// Gives a nonce to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonceAnswer {
    /// Opaque.
    pub nonce: String,
}

/// Proves who the user is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user.
    pub hotkey: Hotkey,
    /// 128 hex digits without `0x`, over the nonce's text.
    pub signature: String,
    /// The nonce as given.
    pub nonce: String,
}

impl Login {
    /// Signs a nonce.
    pub fn signed(keypair: &Keypair, nonce: String) -> Self {
        Self {
            hotkey: keypair.hotkey().clone(),
            signature: keypair.sign(signed::login_blob(&nonce)).to_hex(),
            nonce,
        }
    }
}

/// Gives a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// A JSON web token, opaque to clients.
    pub token: String,
}

/// What a streaming job's user sends of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamingClient {
    /// The certificate, PEM.
    pub public_key: String,
}

/// A job, as a user submits it; keys in the order of the SDK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Which validator shall broker it.
    pub target_validator_hotkey: Hotkey,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// The image.
    pub docker_image: String,
    /// A name for a family of jobs.
    pub job_namespace: Option<String>,
    /// The command.
    pub args: Vec<String>,
    /// The environment, in the order in which it is signed.
    pub env: IndexMap<String, String>,
    /// Has no effect; the SDK sends true.
    pub use_gpu: bool,
    /// The folder whose files are returned.
    pub artifacts_dir: Option<String>,
    /// Whether the validator's own miner shall run it.
    pub on_trusted_miner: bool,
    /// Seconds for the input.
    pub download_time_limit: i64,
    /// Seconds for the container.
    pub execution_time_limit: i64,
    /// Seconds for a streaming job to become reachable; the SDK sends 5.
    pub streaming_start_time_limit: i64,
    /// Seconds for the output.
    pub upload_time_limit: i64,
    /// Present for streaming jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming_details: Option<StreamingClient>,
    /// The input; absent if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<SimpleVolume>,
    /// Where results go; absent if nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uploads: Vec<SingleFileUpload>,
    /// The user's mark, which is not signed; the SDK does not know it, facilitators store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl Submit {
    /// Returns the bytes that the user's signature covers (scope `SignedFields`).
    pub fn payload(&self) -> Result<Vec<u8>, CanonicalError> {
        SignedFields {
            executor_class: self.executor_class.as_str(),
            docker_image: &self.docker_image,
            args: &self.args,
            env: &self.env,
            use_gpu: self.use_gpu,
            artifacts_dir: self.artifacts_dir.as_deref().unwrap_or_default(),
            on_trusted_miner: self.on_trusted_miner,
            download_time_limit: self.download_time_limit,
            execution_time_limit: self.execution_time_limit,
            upload_time_limit: self.upload_time_limit,
            streaming_start_time_limit: self.streaming_start_time_limit,
            streaming_details: self.streaming_details.as_ref().map(|client| SignedStreaming {
                public_key: &client.public_key,
                executor_ip: None,
            }),
            volumes: &self.volumes,
            uploads: &self.uploads,
        }
        .payload()
    }

    /// Signs the job; `timestamp_ns` is unix nanoseconds.
    pub fn sign(&self, keypair: &Keypair, timestamp_ns: u64) -> Result<RequestSignature, CanonicalError> {
        Ok(RequestSignature {
            signatory: keypair.hotkey().clone(),
            timestamp_ns,
            signature: sign_request(keypair, timestamp_ns, &self.payload()?).to_base64(),
            scope: SignatureScope::SignedFields,
        })
    }
}

/// The signature that travels in the headers of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSignature {
    /// Who signed.
    pub signatory: Hotkey,
    /// When, unix nanoseconds.
    pub timestamp_ns: u64,
    /// Base64 of 64 bytes.
    pub signature: String,
    /// What is covered.
    pub scope: SignatureScope,
}

/// Why the headers of a request hold no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureHeaderError {
    /// There is none.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// The time is no number of nanoseconds.
    #[error("the header {} is not a number of nanoseconds", header::TIMESTAMP_NS)]
    Timestamp,
    /// The scope is unknown.
    #[error("unknown signature scope {0:?} (known: SignedFields, FullRequest)")]
    Scope(String),
    /// The type is unknown.
    #[error("unknown signature type {0:?} (known: bittensor)")]
    Type(String),
}

impl RequestSignature {
    /// Returns names and values of the headers.
    pub fn headers(&self) -> [(&'static str, String); 5] {
        [
            (header::SIGNATURE_TYPE, SIGNATURE_TYPE.to_owned()),
            (header::SIGNATORY, self.signatory.as_str().to_owned()),
            (header::TIMESTAMP_NS, self.timestamp_ns.to_string()),
            (header::SIGNATURE, self.signature.clone()),
            (header::SIGNATURE_SCOPE, scope_word(self.scope).to_owned()),
        ]
    }

    /// Reads the headers; `get` looks one up by its name.
    pub fn from_headers<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, SignatureHeaderError> {
        let need = |name| get(name).ok_or(SignatureHeaderError::Missing(name));
        let signature = need(header::SIGNATURE)?.to_owned();
        let kind = need(header::SIGNATURE_TYPE)?;
        if kind != SIGNATURE_TYPE {
            return Err(SignatureHeaderError::Type(kind.chars().take(64).collect()));
        }
        Ok(Self {
            signatory: Hotkey::new(need(header::SIGNATORY)?),
            timestamp_ns: need(header::TIMESTAMP_NS)?
                .parse()
                .map_err(|_foreign| SignatureHeaderError::Timestamp)?,
            signature,
            scope: match get(header::SIGNATURE_SCOPE) {
                None | Some("SignedFields") => SignatureScope::SignedFields,
                Some("FullRequest") => SignatureScope::FullRequest,
                Some(other) => return Err(SignatureHeaderError::Scope(other.chars().take(64).collect())),
            },
        })
    }

    /// Checks the signature over `payload`.
    pub fn verify(&self, payload: &[u8]) -> Result<(), VerifyError> {
        signed::verify_request(&self.signatory, self.timestamp_ns, payload, &self.signature)
    }

    /// Returns the form in which the signature travels on to the validator; none if its time is beyond the year 2262.
    pub fn forwarded(&self) -> Option<Signature> {
        Some(Signature {
            signature_type: SIGNATURE_TYPE.to_owned(),
            signatory: self.signatory.clone(),
            timestamp_ns: i64::try_from(self.timestamp_ns).ok()?,
            signature: self.signature.clone(),
            signature_scope: self.scope,
        })
    }
}

const fn scope_word(scope: SignatureScope) -> &'static str {
    match scope {
        SignatureScope::SignedFields => "SignedFields",
        SignatureScope::FullRequest => "FullRequest",
    }
}

/// Returns the bytes that a `SignedFields` signature covers, computed from a request's body as it came.
///
/// Volumes and uploads are taken verbatim; what is absent counts with the reference's defaults. An absent executor
/// class is signed as `class_if_absent`: the reference signs the word `None`.
pub fn signed_fields_payload(body: &Map<String, Value>, class_if_absent: &str) -> Vec<u8> {
    let take = |key: &str, default: Value| body.get(key).cloned().unwrap_or(default);
    let empty_list = || Value::Array(Vec::new());
    let streaming = match body.get("streaming_details") {
        None | Some(Value::Null) => Value::Null,
        Some(details) => {
            let field = |key: &str| details.get(key).cloned().unwrap_or(Value::Null);
            let pair = ["public_key", "executor_ip"].map(|key| (key.to_owned(), field(key)));
            Value::Object(pair.into_iter().collect())
        }
    };
    let artifacts_dir = match body.get("artifacts_dir") {
        None | Some(Value::Null) => Value::String(String::new()),
        Some(path) => path.clone(),
    };
    let text = [
        ("executor_class", take("executor_class", class_if_absent.into())),
        ("docker_image", take("docker_image", "".into())),
        ("args", take("args", empty_list())),
        ("env", take("env", Value::Object(Map::new()))),
        ("use_gpu", take("use_gpu", false.into())),
        ("artifacts_dir", artifacts_dir),
        ("on_trusted_miner", take("on_trusted_miner", false.into())),
        ("download_time_limit", take("download_time_limit", 0.into())),
        ("execution_time_limit", take("execution_time_limit", 0.into())),
        ("upload_time_limit", take("upload_time_limit", 0.into())),
        (
            "streaming_start_time_limit",
            take("streaming_start_time_limit", 0.into()),
        ),
        ("streaming_details", streaming),
        ("volumes", take("volumes", empty_list())),
        ("uploads", take("uploads", empty_list())),
    ];
    let object: Map<String, Value> = text
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    crate::core::crypto::canonical::quoted(&Value::Object(object).to_string()).into_bytes()
}

/// One step of a job's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusEntry {
    /// The state.
    pub status: JobStatus,
    /// Its details, nulls removed; empty if there are none.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// When the facilitator stored it.
    pub created_at: Timestamp,
}

/// A job, as the facilitator shows it; keys in the order of the reference.
///
/// What the SDK cannot do without is required on reading; the rest has defaults, so that an older facilitator is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The job.
    pub uuid: JobId,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its last status was stored.
    #[serde(default)]
    pub last_update: Option<Timestamp>,
    /// A label of former days: [`legacy_label`].
    #[serde(default)]
    pub status: String,
    /// The image.
    pub docker_image: String,
    /// The user's name for a family of jobs.
    #[serde(default)]
    pub job_namespace: Option<String>,
    /// The command.
    pub args: Vec<String>,
    /// The environment.
    pub env: IndexMap<String, String>,
    /// Has no effect.
    #[serde(default)]
    pub use_gpu: bool,
    /// The user's mark.
    #[serde(default)]
    pub tag: String,
    /// Standard output of a completed job, else empty.
    pub stdout: String,
    /// Standard error of a completed job, else empty.
    pub stderr: String,
    /// The input.
    #[serde(default)]
    pub volumes: Vec<SimpleVolume>,
    /// Where results go.
    #[serde(default)]
    pub uploads: Vec<SingleFileUpload>,
    /// Files of a completed job, base64 by path.
    #[serde(default)]
    pub artifacts: IndexMap<String, String>,
    /// The folder whose files are returned.
    #[serde(default)]
    pub artifacts_dir: String,
    /// The validator that brokers it.
    #[serde(default = "no_hotkey")]
    pub target_validator_hotkey: Hotkey,
    /// Whether the validator's own miner shall run it.
    #[serde(default)]
    pub on_trusted_miner: bool,
    /// Upload answers, JSON text by path.
    #[serde(default)]
    pub upload_results: IndexMap<String, String>,
    /// Seconds for the input.
    #[serde(default)]
    pub download_time_limit: i64,
    /// Seconds for the container.
    #[serde(default)]
    pub execution_time_limit: i64,
    /// Seconds for a streaming job to become reachable.
    #[serde(default)]
    pub streaming_start_time_limit: i64,
    /// Seconds for the output.
    #[serde(default)]
    pub upload_time_limit: i64,
    /// The user's certificate; empty if the job does not stream.
    #[serde(default)]
    pub streaming_client_cert: String,
    /// The executor's certificate; empty until it is known.
    #[serde(default)]
    pub streaming_server_cert: String,
    /// The executor's address; empty until it is known.
    #[serde(default)]
    pub streaming_server_address: String,
    /// The executor's port; 0 until it is known.
    #[serde(default)]
    pub streaming_server_port: i64,
    /// Oldest first; never empty.
    pub status_history: Vec<StatusEntry>,
    /// What only our facilitator tells; the SDK ignores it.
    #[serde(default, skip_serializing_if = "HordeView::is_empty")]
    pub horde: HordeView,
}

/// What the reference's job object has no place for. Each part is absent where it does not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HordeView {
    /// What the job costs; absent if it is not charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostView>,
    /// The user's wish to end the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CancelView>,
    /// How the job waited for its validator; absent if it was handed over at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryView>,
}

/// What a job costs, in micro-units (millionths of a unit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CostView {
    /// What was set aside for it when it was submitted.
    pub reserved_micro: i64,
    /// What it was charged so far; final once it has ended.
    pub charged_micro: i64,
    /// For how many seconds.
    pub seconds: i64,
}

/// A user's wish to end a job, as the facilitator shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelView {
    /// When it was made.
    pub asked_at: Timestamp,
    /// Why it cannot be fulfilled, in words; absent as long as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// How a job waited for a validator that was away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveryView {
    /// Since when.
    pub waiting_since: Timestamp,
    /// When it was handed over; null while it waits, or if it ended before.
    #[serde(default)]
    pub pushed_at: Option<Timestamp>,
}

impl HordeView {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn no_hotkey() -> Hotkey {
    Hotkey::new("")
}

impl JobView {
    /// Returns the last step of the history.
    pub fn last(&self) -> Option<&StatusEntry> {
        self.status_history.last()
    }

    /// Returns the current state; `Unknown` for a history without steps, which no facilitator sends.
    pub fn current(&self) -> JobStatus {
        self.last().map_or(JobStatus::Unknown, |entry| entry.status)
    }
}

/// Returns the label that the `status` key of a job shows.
pub const fn legacy_label(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Sent => "Sent",
        JobStatus::Received => "Received",
        JobStatus::Accepted => "Accepted",
        JobStatus::ExecutorReady => "Executor Ready",
        JobStatus::VolumesReady => "Volumes Ready",
        JobStatus::StreamingReady => "Streaming Ready",
        JobStatus::ExecutionDone => "Execution Done",
        JobStatus::Completed => "Completed",
        JobStatus::Rejected => "Rejected",
        JobStatus::Failed | JobStatus::HordeFailed => "Failed",
        JobStatus::Unknown => "Unknown",
    }
}

/// Tells whether a status says that the job's user cancelled it: `failed` with a mark, since the wire has no word for it.
pub fn is_cancelled(entry: &StatusEntry) -> bool {
    let context = entry
        .metadata
        .get("job_failure_details")
        .and_then(|details| details.get("context"));
    let mark = context.and_then(|context| context.get(CANCELLED_KEY));
    entry.status == JobStatus::Failed && mark == Some(&Value::Bool(true))
}

/// The longest that a reader of a job's output may be kept waiting for news, in seconds.
pub const LOGS_WAIT_SECONDS_MAX: u64 = 30;

/// A part of one stream of a job.
///
/// Offsets count the bytes that the job has written. While it runs, parts may be missing ([`Self::omitted_bytes`]). Once
/// it has ended, they come from its stored result: the same bytes, but that invalid UTF-8 has become U+FFFD, and that of
/// a stream of more than 1,000,000 characters only the two ends are kept. Then the place of its end is taken from what
/// was last seen live; where nothing was, the end follows on its beginning after the five bytes of the gap's mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Which stream.
    pub stream: OutputStream,
    /// The place of the first byte of `data`; not below what was asked for.
    pub offset: u64,
    /// What to ask for next.
    pub next_offset: u64,
    /// The bytes, base64; none where there is nothing new.
    pub data: String,
    /// Whether nothing will follow after `next_offset`.
    pub ended: bool,
    /// Whether more can come before the job has ended: its validator passes it on.
    pub live: bool,
    /// Bytes between what was asked for and `offset` that are not there.
    pub omitted_bytes: u64,
}

/// A page of the caller's jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobPage {
    /// How many jobs there are in all.
    pub count: u64,
    /// URL of the next page.
    pub next: Option<String>,
    /// URL of the page before.
    pub previous: Option<String>,
    /// The jobs of this page.
    pub results: Vec<JobView>,
}

/// A validator that jobs can be sent to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorView {
    /// Its hotkey.
    pub hotkey: Hotkey,
}

/// The validators that jobs can be sent to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorsAnswer {
    /// By rising hotkey.
    pub validators: Vec<ValidatorView>,
}

/// The caller's money and the prices; not known to the reference. Amounts are micro-units (millionths of a unit).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// The caller.
    pub hotkey: Hotkey,
    /// Whether jobs are charged at all.
    pub charges: bool,
    /// What new jobs can be paid from.
    pub available_micro: i64,
    /// What is set aside for jobs that have not ended.
    pub reserved_micro: i64,
    /// The price of a second by executor class; a class without one is not served by a facilitator that charges.
    pub prices: IndexMap<ExecutorClass, i64>,
}

/// A refusal of a job that its user cannot pay for (402).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditRefusal {
    /// `Insufficient credit`.
    pub error: String,
    /// In words.
    pub details: String,
    /// What has to be added, micro-units.
    pub missing_micro: i64,
    /// What the job may cost.
    pub required_micro: i64,
    /// What the user has.
    pub available_micro: i64,
}

/// A refusal in the words of one field: `{"detail": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// In words.
    pub detail: String,
}

/// A refusal of the login or of a signature: `{"error": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In words.
    pub error: String,
    /// More words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_that_the_sdk_signed_verifies_and_its_body_is_written_again_byte_for_byte() {
        let text = include_str!("../../../tests/golden/sdk_http_headers.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let mut count = 0;
        for request in vectors["requests"].as_array().unwrap() {
            let headers = request["headers"].as_object().unwrap();
            if !headers.contains_key(header::SIGNATURE) {
                continue;
            }
            let signature =
                RequestSignature::from_headers(|name| headers.get(name).and_then(Value::as_str)).unwrap();
            let text = request["body_text"].as_str().unwrap();
            let body: Value = serde_json::from_str(text).unwrap();
            let payload = match signature.scope {
                SignatureScope::SignedFields => {
                    let submit: Submit = serde_json::from_str(text).unwrap();
                    assert_eq!(serde_json::to_string(&submit).unwrap(), text);
                    let payload = submit.payload().unwrap();
                    assert_eq!(signed_fields_payload(body.as_object().unwrap(), "None"), payload);
                    payload
                }
                SignatureScope::FullRequest => signed::full_request_payload(&body),
            };
            assert_eq!(
                String::from_utf8(payload.clone()).unwrap(),
                request["signature"]["payload_bytes_utf8"].as_str().unwrap()
            );
            signature.verify(&payload).unwrap();
            signature.verify(&payload[1..]).unwrap_err();
            count += 1;
        }
        assert!(count >= 3, "{count}");
    }

    #[test]
    fn signature_headers_are_read_as_they_are_written() {
        let signature = RequestSignature {
            signatory: Hotkey::new("5x"),
            timestamp_ns: 7,
            signature: "c2ln".to_owned(),
            scope: SignatureScope::FullRequest,
        };
        let headers = signature.headers();
        let find = |name: &str| {
            headers
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(RequestSignature::from_headers(find).unwrap(), signature);
    }

    #[test]
    fn bad_signature_headers_are_named() {
        let with = |changed: &'static str, value: Option<&'static str>| {
            RequestSignature::from_headers(move |name| {
                if name == changed {
                    return value;
                }
                match name {
                    header::TIMESTAMP_NS => Some("7"),
                    header::SIGNATURE_TYPE => Some(SIGNATURE_TYPE),
                    header::SIGNATURE_SCOPE => None,
                    _ => Some("x"),
                }
            })
        };
        assert_eq!(
            with(header::SIGNATURE, None),
            Err(SignatureHeaderError::Missing(header::SIGNATURE))
        );
        assert_eq!(
            with(header::TIMESTAMP_NS, Some("soon")),
            Err(SignatureHeaderError::Timestamp)
        );
        assert_eq!(
            with(header::SIGNATURE_SCOPE, Some("Nope")),
            Err(SignatureHeaderError::Scope("Nope".to_owned()))
        );
        assert_eq!(
            with("", None).unwrap().scope,
            SignatureScope::SignedFields,
            "the default scope"
        );
    }
}
