//! The signatures inside messages, made and checked on the messages themselves.
//!
//! The bytes are those of [`crate::core::crypto::signed`]; here the fields of each message are put in their place.

use super::facilitator_validator::{Cheated, JobRequest, Signature, SignatureScope};
use super::frame::{self, Message};
use super::job::{FullJob, InitialJob, StreamingReady};
use super::validator_miner::Authenticate;
use crate::core::crypto::canonical::CanonicalError;
use crate::core::crypto::signed::{self, SignedFields, SignedStreaming};
use crate::core::crypto::{Keypair, VerifyError, verify_hex};
use crate::core::model::Hotkey;
use crate::core::model::upload::{OutputUpload, SingleFileUpload};
use crate::core::model::volume::Volume;

/// What the SDK writes as `signature_type`; nobody checks it.
pub const SIGNATURE_TYPE: &str = "bittensor";

impl Authenticate {
    /// Makes the first frame of a validator; `timestamp` is in unix seconds.
    pub fn signed(validator: &Keypair, miner_hotkey: Hotkey, timestamp: i64) -> Self {
        let blob = signed::auth_blob(validator.hotkey(), &miner_hotkey, timestamp);
        Self {
            validator_hotkey: validator.hotkey().clone(),
            miner_hotkey,
            timestamp,
            signature: validator.sign(&blob).to_hex_prefixed(),
        }
    }

    /// Checks the signature; who is meant and how old it is, is checked elsewhere.
    pub fn verify(&self) -> Result<(), VerifyError> {
        let blob = signed::auth_blob(&self.validator_hotkey, &self.miner_hotkey, self.timestamp);
        verify_hex(&self.validator_hotkey, &blob, &self.signature)
    }
}

impl InitialJob {
    /// Signs the message as wheel 0.0.27 does; the last step before it is written.
    pub fn sign(&mut self, validator: &Keypair) {
        self.validator_signature = None;
        self.validator_signature = Some(message_signature(self, validator));
    }
}

impl FullJob {
    /// Signs the message as wheel 0.0.27 does; the last step before it is written.
    pub fn sign(&mut self, validator: &Keypair) {
        self.validator_signature = None;
        self.validator_signature = Some(message_signature(self, validator));
    }
}

fn message_signature<M: Message>(message: &M, validator: &Keypair) -> String {
    let blob = signed::message_blob(&frame::to_object(message));
    validator.sign(&blob).to_hex_prefixed()
}

impl StreamingReady {
    /// Vouches for the streaming server, once its address is filled in.
    pub fn sign(&mut self, miner: &Keypair) {
        self.miner_signature = Some(miner.sign(&self.blob()).to_hex_prefixed());
    }

    /// Checks the miner's signature; a missing one is malformed.
    pub fn verify(&self, miner: &Hotkey) -> Result<(), VerifyError> {
        let signature = self.miner_signature.as_deref().unwrap_or_default();
        verify_hex(miner, &self.blob(), signature)
    }

    fn blob(&self) -> Vec<u8> {
        signed::streaming_blob(
            self.job_uuid.as_str(),
            self.ip.as_deref(),
            self.port,
            &self.public_key,
        )
    }
}

impl JobRequest {
    /// Returns the bytes whose digest the user signed, recomputed from the typed fields.
    pub fn signed_payload(&self) -> Result<Vec<u8>, CanonicalError> {
        let streaming_details = self.streaming_details.as_ref().map(|details| SignedStreaming {
            public_key: &details.public_key,
            executor_ip: details.executor_ip.as_deref(),
        });
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
            streaming_details,
            volumes: &self.volume.clone().map_or_else(Vec::new, Volume::into_parts),
            uploads: &self.output_upload.clone().map_or_else(Vec::new, upload_parts),
        }
        .payload()
    }

    /// Checks the user's signature; whether this user may send jobs is checked elsewhere.
    pub fn verify(&self) -> Result<(), RequestSignatureError> {
        verify_payload(self.signature.as_ref(), &self.signed_payload()?)
    }
}

impl Cheated {
    /// Checks the user's signature over the report: the object encoded once, as the reference's validator does, or
    /// encoded twice, as the SDK signs it and the reference's facilitator demands (wire-facilitator-validator §3).
    pub fn verify(&self) -> Result<(), RequestSignatureError> {
        let (job, trusted) = (self.job_uuid.as_str(), self.trusted_job_uuid.as_str());
        let once = signed::report_payload(job, trusted, &self.details);
        verify_payload(self.signature.as_ref(), &once).or_else(|error| {
            let twice = signed::report_payload_of_sdk(job, trusted, &self.details);
            verify_payload(self.signature.as_ref(), &twice).map_err(|_same| error)
        })
    }
}

impl Signature {
    /// Signs a payload; `timestamp_ns` is in unix nanoseconds and not negative.
    pub fn make(
        signer: &Keypair,
        timestamp_ns: i64,
        scope: SignatureScope,
        payload: &[u8],
    ) -> Result<Self, RequestSignatureError> {
        let signature = signed::sign_request(signer, unsigned(timestamp_ns)?, payload);
        Ok(Self {
            signature_type: SIGNATURE_TYPE.to_owned(),
            signatory: signer.hotkey().clone(),
            timestamp_ns,
            signature: signature.to_base64(),
            signature_scope: scope,
        })
    }

    /// Checks this signature over a payload.
    pub fn verify(&self, payload: &[u8]) -> Result<(), RequestSignatureError> {
        let timestamp_ns = unsigned(self.timestamp_ns)?;
        Ok(signed::verify_request(
            &self.signatory,
            timestamp_ns,
            payload,
            &self.signature,
        )?)
    }
}

/// Why a request is not signed by whom it names.
#[derive(Debug, thiserror::Error)]
pub enum RequestSignatureError {
    /// None in it.
    #[error("the request carries no signature")]
    Missing,
    /// A time before 1970, which has no eight-byte form.
    #[error("the signature's time {0} is negative")]
    Time(i64),
    /// The signature cannot be read or does not match.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The request has no canonical text.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

fn verify_payload(signature: Option<&Signature>, payload: &[u8]) -> Result<(), RequestSignatureError> {
    signature.ok_or(RequestSignatureError::Missing)?.verify(payload)
}

fn unsigned(timestamp_ns: i64) -> Result<u64, RequestSignatureError> {
    u64::try_from(timestamp_ns).map_err(|_negative| RequestSignatureError::Time(timestamp_ns))
}

/// The named files of an upload, without the rest that goes into `system_output`; a simple upload is its only part.
fn upload_parts(upload: OutputUpload) -> Vec<OutputUpload> {
    match upload {
        OutputUpload::Multi(multi) => multi
            .uploads
            .into_iter()
            .map(|upload| match upload {
                SingleFileUpload::Post(post) => OutputUpload::SingleFilePost(post),
                SingleFileUpload::Put(put) => OutputUpload::SingleFilePut(put),
            })
            .collect(),
        OutputUpload::ZipPost(_)
        | OutputUpload::ZipPut(_)
        | OutputUpload::SingleFilePost(_)
        | OutputUpload::SingleFilePut(_) => vec![upload],
    }
}
