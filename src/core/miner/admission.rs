//! Whether a job may have a slot at all, asked before anyone looks for a free one.

use super::Miner;
use crate::core::model::job::RejectionReason;
use crate::core::proto::job::InitialJob;

/// Why a job gets no slot, however many are free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The miner is about to end.
    #[error("miner is stopping")]
    Stopping,
}

impl Refusal {
    /// Returns the code under which the operator finds it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
        }
    }

    /// Returns the wire's word for it; what the wire has no word for is `unknown`.
    pub const fn reason(&self) -> RejectionReason {
        match self {
            Self::Stopping => RejectionReason::Unknown,
        }
    }
}

/// Asks every rule in turn; the first that refuses is told to the validator.
pub(super) fn admit(_miner: &Miner, _request: &InitialJob, is_stopping: bool) -> Result<(), Refusal> {
    if is_stopping {
        return Err(Refusal::Stopping);
    }
    Ok(())
}
