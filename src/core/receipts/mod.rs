//! Receipts, the proof of work done: made and signed by the validator, checked and countersigned by the miner.
//!
//! A job leaves up to three: *started* (sent with the order), *accepted* (after the miner's yes), *finished*
//! (always, whatever the outcome). Both sides sign the same bytes. All functions are pure; what is kept on disk is
//! the business of `store::receipts`.

pub mod publication;

mod bounds;

use time::{Duration, OffsetDateTime};

pub use self::bounds::{BoundsError, TTL_SECONDS_MAX, check_bounds};
use crate::core::crypto::canonical::CanonicalError;
use crate::core::crypto::signed::receipt_blob;
use crate::core::crypto::{Keypair, VerifyError, verify_hex};
use crate::core::model::receipt::{
    AcceptedWord, FinishedWord, JobAccepted, JobFinished, JobStarted, Receipt, ReceiptPayload, StartedWord,
};
use crate::core::model::{ExecutorClass, Hotkey, JobId, Timestamp};
use crate::core::store::receipts::KeptReceipt;

/// A payload with its validator's signature (`0x` and 128 hex digits), ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<P> {
    /// What is signed.
    pub payload: P,
    /// The signature.
    pub signature: String,
}

/// What all receipts say: which job, which miner, and when the receipt was made.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The job.
    pub job_uuid: &'a JobId,
    /// The miner that runs it.
    pub miner: &'a Hotkey,
    /// The time of making, UTC.
    pub now: OffsetDateTime,
}

/// What a finished receipt says beyond that.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// When the validator began to connect, UTC.
    pub started: OffsetDateTime,
    /// How long it took from then on; negative counts as nothing.
    pub took: Duration,
    /// What it is worth, in seconds of an executor; 0 for every outcome but success.
    pub score: f64,
    /// The allowance blocks that pay for it; none for every outcome but success.
    pub block_numbers: Vec<i64>,
}

/// Why a receipt cannot be made or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// A value lies outside of what the subnet accepts.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// It is about another miner.
    #[error("receipt is for miner {0}")]
    WrongMiner(Hotkey),
    /// It names another validator than the one that sent it.
    #[error("receipt is from validator {0}")]
    WrongValidator(Hotkey),
    /// The validator has not signed this.
    #[error("validator's signature of the receipt is not valid")]
    ValidatorSignature(#[source] VerifyError),
    /// The miner has not signed this.
    #[error("miner's signature of the receipt is not valid")]
    MinerSignature(#[source] VerifyError),
    /// The payload cannot be written for signing.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// Makes the receipt that goes out with the order; `ttl` is the reservation limit in seconds.
pub fn sign_started(
    validator: &Keypair,
    about: About<'_>,
    executor_class: ExecutorClass,
    is_organic: bool,
    ttl: i64,
) -> Result<Signed<JobStarted>, ReceiptError> {
    let payload = JobStarted {
        job_uuid: about.job_uuid.clone(),
        miner_hotkey: about.miner.clone(),
        validator_hotkey: validator.hotkey().clone(),
        timestamp: Timestamp::new(about.now),
        receipt_type: StartedWord,
        executor_class,
        is_organic,
        ttl,
    };
    sign(validator, payload, ReceiptPayload::Started)
}

/// Makes the receipt that follows the miner's yes; `ttl` in seconds is cut to [`TTL_SECONDS_MAX`].
pub fn sign_accepted(
    validator: &Keypair,
    about: About<'_>,
    time_accepted: OffsetDateTime,
    ttl: i64,
) -> Result<Signed<JobAccepted>, ReceiptError> {
    let payload = JobAccepted {
        job_uuid: about.job_uuid.clone(),
        miner_hotkey: about.miner.clone(),
        validator_hotkey: validator.hotkey().clone(),
        timestamp: Timestamp::new(about.now),
        receipt_type: AcceptedWord,
        time_accepted: Timestamp::new(time_accepted),
        ttl: ttl.clamp(0, TTL_SECONDS_MAX),
    };
    sign(validator, payload, ReceiptPayload::Accepted)
}

/// Makes the receipt that ends a job.
pub fn sign_finished(
    validator: &Keypair,
    about: About<'_>,
    work: Work,
) -> Result<Signed<JobFinished>, ReceiptError> {
    let micros = work.took.whole_microseconds().max(0);
    let payload = JobFinished {
        job_uuid: about.job_uuid.clone(),
        miner_hotkey: about.miner.clone(),
        validator_hotkey: validator.hotkey().clone(),
        timestamp: Timestamp::new(about.now),
        receipt_type: FinishedWord,
        time_started: Timestamp::new(work.started),
        time_took_us: i64::try_from(micros).unwrap_or(i64::MAX),
        score_str: score_text(work.score),
        block_numbers: work.block_numbers,
    };
    sign(validator, payload, ReceiptPayload::Finished)
}

/// Writes a score with its six decimals; what is no score counts as 0.
fn score_text(score: f64) -> String {
    let score = if score.is_finite() && score > 0.0 {
        score
    } else {
        0.0
    };
    format!("{score:.6}")
}

fn sign<P: Clone>(
    validator: &Keypair,
    payload: P,
    wrap: fn(P) -> ReceiptPayload,
) -> Result<Signed<P>, ReceiptError> {
    let wrapped = wrap(payload.clone());
    check_bounds(&wrapped)?;
    let signature = validator.sign(&receipt_blob(&wrapped)?).to_hex_prefixed();
    Ok(Signed { payload, signature })
}

/// Checks what a miner was sent: within bounds, about `miner`, from `validator`, and signed by it.
pub fn verify_payload(
    payload: &ReceiptPayload,
    signature: &str,
    miner: &Hotkey,
    validator: &Hotkey,
) -> Result<(), ReceiptError> {
    check_bounds(payload)?;
    if payload.miner_hotkey() != miner {
        return Err(ReceiptError::WrongMiner(payload.miner_hotkey().clone()));
    }
    if payload.validator_hotkey() != validator {
        return Err(ReceiptError::WrongValidator(payload.validator_hotkey().clone()));
    }
    verify_hex(validator, &receipt_blob(payload)?, signature).map_err(ReceiptError::ValidatorSignature)
}

/// Adds the miner's signature to a payload that [`verify_payload`] has let pass.
pub fn countersign(
    miner: &Keypair,
    payload: ReceiptPayload,
    validator_signature: String,
) -> Result<Receipt, ReceiptError> {
    let miner_signature = miner.sign(&receipt_blob(&payload)?).to_hex_prefixed();
    Ok(Receipt {
        payload,
        validator_signature,
        miner_signature,
    })
}

/// Checks a whole receipt from anywhere: bounds and both signatures.
pub fn verify_receipt(receipt: &Receipt) -> Result<(), ReceiptError> {
    let payload = &receipt.payload;
    check_bounds(payload)?;
    let blob = receipt_blob(payload)?;
    verify_hex(payload.miner_hotkey(), &blob, &receipt.miner_signature)
        .map_err(ReceiptError::MinerSignature)?;
    verify_hex(payload.validator_hotkey(), &blob, &receipt.validator_signature)
        .map_err(ReceiptError::ValidatorSignature)
}

/// Checks a receipt of a miner's store: bounds and both signatures.
pub fn verify_kept(kept: &KeptReceipt) -> Result<(), ReceiptError> {
    let miner_signature = kept.miner_signature.clone().unwrap_or_default();
    verify_receipt(&Receipt {
        payload: kept.payload.clone(),
        validator_signature: kept.validator_signature.clone(),
        miner_signature,
    })
}

#[cfg(test)]
mod tests;
