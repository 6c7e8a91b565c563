//! Whether a job may have a slot at all, asked before anyone looks for a free one.

use std::sync::atomic::Ordering;

use time::format_description::well_known::Rfc3339;

use super::door::seconds;
use super::{Miner, offering};
use crate::core::model::ExecutorClass;
use crate::core::model::job::RejectionReason;
use crate::core::proto::job::InitialJob;
use crate::core::store::miner::validators::Block;

/// Why a job gets no slot, however many are free.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The miner is about to end.
    #[error("miner is stopping")]
    Stopping,
    /// Its operator wants no new jobs.
    #[error("miner is draining: it takes no new jobs")]
    Draining,
    /// A streaming job's client would not find it.
    #[error("miner does not know its own address yet, which streaming jobs need")]
    NoAddress,
    /// The operator has set the class to no executors.
    #[error("executor class {0} is not offered at the moment")]
    NotOffered(ExecutorClass),
    /// The class earns less than the operator asks for.
    #[error(
        "executor class {class} has a share of {share:.4} in what the subnet pays; this miner takes its jobs from {min} on"
    )]
    Unprofitable {
        /// The class.
        class: ExecutorClass,
        /// Its share now, from 0 to 1.
        share: f64,
        /// The least share that the operator asks for, from 0 to 1.
        min: f64,
    },
    /// The operator refuses the validator's jobs.
    #[error("validator is blacklisted: {}{}", .0.reason, end_of(.0))]
    Blacklisted(Block),
    /// The validator, or its address, brings jobs too fast.
    #[error("too many jobs (again in {} s)", seconds(*wait))]
    TooManyJobs {
        /// When to try again.
        wait: std::time::Duration,
    },
}

fn end_of(block: &Block) -> String {
    let end = block.until.and_then(|until| until.format(&Rfc3339).ok());
    end.map(|end| format!(" (until {end})")).unwrap_or_default()
}

impl Refusal {
    /// Returns the code under which the operator finds it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Blacklisted(_) => "validator_blacklisted",
            Self::TooManyJobs { .. } => "too_many_jobs",
            Self::Draining => "draining",
            Self::NoAddress => "no_address",
            Self::NotOffered(_) => "not_offered",
            Self::Unprofitable { .. } => "unprofitable",
        }
    }

    /// Returns the wire's word for it; what the wire has no word for is `unknown`.
    pub const fn reason(&self) -> RejectionReason {
        match self {
            Self::Stopping
            | Self::Draining
            | Self::NoAddress
            | Self::NotOffered(_)
            | Self::Unprofitable { .. }
            | Self::TooManyJobs { .. } => RejectionReason::Unknown,
            Self::Blacklisted(_) => RejectionReason::ValidatorBlacklisted,
        }
    }
}

/// Asks every rule in turn; the first that refuses is told to the validator.
pub(super) fn admit(miner: &Miner, request: &InitialJob, is_stopping: bool) -> Result<(), Refusal> {
    if is_stopping || miner.is_closing.load(Ordering::Relaxed) {
        return Err(Refusal::Stopping);
    }
    if miner.is_draining.load(Ordering::Relaxed) {
        return Err(Refusal::Draining);
    }
    // The receipt's validator is the one that authenticated: that was checked with its signature.
    let validator = &request.job_started_receipt_payload.validator_hotkey;
    if let Some(block) = miner.validators.block(validator, miner.clock.now()) {
        return Err(Refusal::Blacklisted(block));
    }
    if request.streaming_details.is_some() && miner.address.borrow().is_none() {
        return Err(Refusal::NoAddress);
    }
    let class = request.executor_class;
    if let Some(unprofitable) = offering::unprofitable(miner, class) {
        return Err(unprofitable);
    }
    if miner.pool.counted().count(class) == 0 {
        // Not `busy`, which would claim an occupation that receipts do not show.
        return Err(Refusal::NotOffered(class));
    }
    Ok(())
}
