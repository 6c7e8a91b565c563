//! What is signed: for each kind of signature on the wire the exact bytes, and the checks over them.
//!
//! | signature | bytes |
//! |---|---|
//! | validator to miner, first frame | [`auth_blob`] |
//! | receipts, by both sides | [`receipt_blob`] |
//! | jobs from a validator (`validator_signature`) | [`message_blob`] |
//! | streaming server, by the miner | [`streaming_blob`] |
//! | validator to facilitator, first frame | the raw public key: [`sign_facilitator_auth`] |
//! | job from a user | [`request_digest`] of [`SignedFields::payload`] |
//! | cheat report over HTTP, and as the validator checks it | [`request_digest`] of [`full_request_payload`], [`report_payload`] |
//! | HTTP login | [`login_blob`] |

use blake2::{Blake2b512, Digest};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::crypto::canonical::{self, CanonicalError};
use crate::core::crypto::keypair::{Keypair, SignatureBytes, VerifyError, verify, verify_public};
use crate::core::crypto::ss58;
use crate::core::model::Hotkey;

/// The key that a job message carries its own signature under, since wheel 0.0.27.
pub const MESSAGE_SIGNATURE_KEY: &str = "validator_signature";

/// Returns what a validator signs to authenticate with a miner; `timestamp` is in unix seconds.
pub fn auth_blob(validator: &Hotkey, miner: &Hotkey, timestamp: i64) -> Vec<u8> {
    format!("{}:{}:{timestamp}", validator.as_str(), miner.as_str()).into_bytes()
}

/// Returns what both sides sign of a receipt: its payload as written to JSON, keys sorted, spaced.
pub fn receipt_blob(payload: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    canonical::spaced_sorted_of(payload).map(String::into_bytes)
}

/// Returns what the miner signs to vouch for a streaming server; a missing address is the word `None`.
pub fn streaming_blob(job_uuid: &str, ip: Option<&str>, port: i64, public_key: &str) -> Vec<u8> {
    let ip = ip.unwrap_or("None");
    format!("{job_uuid}:{ip}:{port}:{public_key}").into_bytes()
}

/// Returns what a validator signs of a job message: the object as sent, without the signature itself, keys sorted,
/// compact.
pub fn message_blob(message: &Map<String, Value>) -> Vec<u8> {
    let mut unsigned = message.clone();
    // Order does not matter, the text is sorted.
    unsigned.swap_remove(MESSAGE_SIGNATURE_KEY);
    canonical::compact_sorted(&Value::Object(unsigned)).into_bytes()
}

/// Checks the `validator_signature` of a job message given as it was received.
pub fn verify_message(validator: &Hotkey, text: &str) -> Result<(), MessageSignatureError> {
    let mut message: Map<String, Value> = serde_json::from_str(text)?;
    // Order does not matter, the text is sorted.
    match message.swap_remove(MESSAGE_SIGNATURE_KEY) {
        None | Some(Value::Null) => Err(MessageSignatureError::Missing),
        Some(Value::String(signature)) => {
            let signature = SignatureBytes::parse_hex(&signature).map_err(VerifyError::from)?;
            let blob = canonical::compact_sorted(&Value::Object(message)).into_bytes();
            Ok(verify(validator, &blob, &signature)?)
        }
        Some(_) => Err(MessageSignatureError::NotText),
    }
}

/// Why a job message is not signed by its validator.
#[derive(Debug, thiserror::Error)]
pub enum MessageSignatureError {
    /// The message is no JSON object.
    #[error("signed message is not a JSON object")]
    Json(#[from] serde_json::Error),
    /// No signature in it; peers older than wheel 0.0.27 send none.
    #[error("message carries no validator signature")]
    Missing,
    /// Something else than text where the signature belongs.
    #[error("validator signature is not text")]
    NotText,
    /// The signature cannot be read or does not match.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// Returns the public key (64 hex digits, no `0x`) and the signature over its raw bytes with which a validator
/// authenticates at the facilitator.
pub fn sign_facilitator_auth(keypair: &Keypair) -> (String, SignatureBytes) {
    let public_key = keypair.public_key();
    (hex::encode(public_key), keypair.sign(&public_key))
}

/// Returns the address that a facilitator authentication claims, unchecked.
pub fn facilitator_auth_hotkey(public_key: &str) -> Result<Hotkey, FacilitatorAuthError> {
    Ok(ss58::encode(&facilitator_public_key(public_key)?))
}

/// Checks a facilitator authentication and returns the address that made it.
pub fn verify_facilitator_auth(public_key: &str, signature: &str) -> Result<Hotkey, FacilitatorAuthError> {
    let key = facilitator_public_key(public_key)?;
    let signature = SignatureBytes::parse_hex(signature).map_err(VerifyError::from)?;
    verify_public(&key, &key, &signature)?;
    Ok(ss58::encode(&key))
}

fn facilitator_public_key(text: &str) -> Result<[u8; 32], FacilitatorAuthError> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_foreign| FacilitatorAuthError::PublicKey)?;
    Ok(key)
}

/// Why a facilitator authentication is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FacilitatorAuthError {
    /// Not 64 hex digits (`0x` in front is refused too).
    #[error("public key is not 64 hex digits")]
    PublicKey,
    /// The signature cannot be read or does not match.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// The part of a job request that its user signs, in the order in which it is signed.
///
/// Volumes and uploads are the elements of the multi objects with all their fields, nulls included; `env` keeps the
/// order of the request.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SignedFields<'a, Env, Volume, Upload> {
    /// The executor class.
    pub executor_class: &'a str,
    /// The image.
    pub docker_image: &'a str,
    /// The command.
    pub args: &'a [String],
    /// The environment, as a map that keeps its order.
    pub env: &'a Env,
    /// Whether a GPU is wanted; has no effect.
    pub use_gpu: bool,
    /// The folder of artifacts; absent is signed as empty text.
    pub artifacts_dir: &'a str,
    /// Whether the job runs on the validator's own miner.
    pub on_trusted_miner: bool,
    /// Seconds for the download.
    pub download_time_limit: i64,
    /// Seconds for the execution.
    pub execution_time_limit: i64,
    /// Seconds for the upload.
    pub upload_time_limit: i64,
    /// Seconds for the start of streaming.
    pub streaming_start_time_limit: i64,
    /// The streaming client, if the job streams.
    pub streaming_details: Option<SignedStreaming<'a>>,
    /// The volumes.
    pub volumes: &'a [Volume],
    /// The uploads.
    pub uploads: &'a [Upload],
}

/// The streaming part of [`SignedFields`].
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SignedStreaming<'a> {
    /// The certificate of the client, PEM.
    pub public_key: &'a str,
    /// The address of the executor; null when signed by a user.
    pub executor_ip: Option<&'a str>,
}

impl<Env: Serialize, Volume: Serialize, Upload: Serialize> SignedFields<'_, Env, Volume, Upload> {
    /// Returns the signed text: compact JSON in raw UTF-8.
    pub fn text(&self) -> Result<String, CanonicalError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Returns the bytes that [`request_digest`] takes: the text, encoded as JSON a second time.
    pub fn payload(&self) -> Result<Vec<u8>, CanonicalError> {
        Ok(canonical::quoted(&self.text()?).into_bytes())
    }
}

/// Returns the bytes that [`request_digest`] takes for a whole HTTP body: its sorted, spaced text, encoded a second time.
pub fn full_request_payload(body: &Value) -> Vec<u8> {
    canonical::quoted(&canonical::spaced_sorted(body)).into_bytes()
}

/// Returns the bytes that [`request_digest`] takes for a cheat report as the reference's validators check it: encoded
/// once.
pub fn report_payload(job_uuid: &str, trusted_job_uuid: &str, details: &Value) -> Vec<u8> {
    canonical::spaced_sorted(&report(job_uuid, trusted_job_uuid, details)).into_bytes()
}

/// Returns the bytes that [`request_digest`] takes for a cheat report as the SDK signs it: encoded twice.
pub fn report_payload_of_sdk(job_uuid: &str, trusted_job_uuid: &str, details: &Value) -> Vec<u8> {
    full_request_payload(&report(job_uuid, trusted_job_uuid, details))
}

fn report(job_uuid: &str, trusted_job_uuid: &str, details: &Value) -> Value {
    let mut report = Map::new();
    report.insert("job_uuid".to_owned(), job_uuid.into());
    report.insert("trusted_job_uuid".to_owned(), trusted_job_uuid.into());
    report.insert("details".to_owned(), details.clone());
    Value::Object(report)
}

/// Returns the digest that a user signs: BLAKE2b-512 over the time in unix nanoseconds and the payload.
pub fn request_digest(timestamp_ns: u64, payload: &[u8]) -> [u8; 64] {
    let mut hasher = Blake2b512::new();
    hasher.update(timestamp_ns.to_be_bytes());
    hasher.update(payload);
    hasher.finalize().into()
}

/// Signs a payload with its time.
pub fn sign_request(keypair: &Keypair, timestamp_ns: u64, payload: &[u8]) -> SignatureBytes {
    keypair.sign(&request_digest(timestamp_ns, payload))
}

/// Checks the base64 signature of a payload.
pub fn verify_request(
    signatory: &Hotkey,
    timestamp_ns: u64,
    payload: &[u8],
    signature: &str,
) -> Result<(), VerifyError> {
    let signature = SignatureBytes::parse_base64(signature)?;
    verify(signatory, &request_digest(timestamp_ns, payload), &signature)
}

/// Returns what a user signs to log in: the nonce as given.
pub fn login_blob(nonce: &str) -> &[u8] {
    nonce.as_bytes()
}

/// Checks a login; its signature has no `0x`.
pub fn verify_login(hotkey: &Hotkey, nonce: &str, signature: &str) -> Result<(), VerifyError> {
    verify(
        hotkey,
        login_blob(nonce),
        &SignatureBytes::parse_hex_bare(signature)?,
    )
}
