//! The wire between validator and miner (`/v0.1/validator_interface/<validator hotkey>`).

use serde::{Deserialize, Serialize};

use super::frame::{direction, message};
use super::job::{
    Context, EXTENSION_CANCEL, EXTENSION_LOGS, ExecutionDone, ExecutorFailed, ExecutorReady, FullJob,
    GenericError, HordeFailed, InitialJob, JobCancel, JobFailed, JobFinished, JobOutput, MachineSpecs,
    StreamingNotReady, StreamingReady, VolumesReady,
};
use crate::core::model::job::RejectionReason;
use crate::core::model::receipt::{self, Receipt};
use crate::core::model::{Hotkey, JobId, lenient};

/// How far a validator's clock may be behind the miner's, in seconds (`AUTH_MESSAGE_MAX_AGE`).
pub const AUTH_AGE_SECONDS_MAX: i64 = 10;

/// How far a validator's clock may be ahead of the miner's, in seconds: as far as it may be behind, and two more for
/// stamps of whole seconds and clocks of whole seconds. The reference has no such bound.
pub const AUTH_AHEAD_SECONDS_MAX: i64 = AUTH_AGE_SECONDS_MAX + 2;

/// The most a validator's side of this wire reads in one frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 52_428_800;

/// What validators and miners of this version agree on beyond the wire (`core::net::extensions`).
pub const EXTENSIONS: &[&str] = &[EXTENSION_SHARING, EXTENSION_CANCEL, EXTENSION_LOGS];

/// The miner may say in [`Accepted`] that a job runs as best effort, and end such a job at a ten-minute boundary.
pub const EXTENSION_SHARING: &str = "sharing";

/// Introduces the validator; its first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticate {
    /// Who connects.
    pub validator_hotkey: Hotkey,
    /// Whom it wants to reach.
    pub miner_hotkey: Hotkey,
    /// When it was signed, unix seconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub timestamp: i64,
    /// The signature, `0x` and hex.
    pub signature: String,
}

/// Asks for, or names, the hotkey that stands for a coldkey's miners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainHotkey {
    /// Null in the question.
    #[serde(default)]
    pub main_hotkey: Option<Hotkey>,
}

/// Hands over the accepted receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedReceipt {
    /// What the validator signed.
    pub payload: receipt::JobAccepted,
    /// Its signature.
    pub signature: String,
}

/// Hands over the finished receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedReceipt {
    /// What the validator signed.
    pub payload: receipt::JobFinished,
    /// Its signature.
    pub signature: String,
}

/// Why a miner of old refuses a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnauthorizedCode {
    /// The authentication is too old.
    TokenTooOld,
    /// The miner does not know this hotkey.
    UnknownValidator,
    /// The hotkey is no active validator.
    ValidatorInactive,
}

/// Legacy refusal; read, never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unauthorized {
    /// Why.
    pub code: UnauthorizedCode,
    /// In words.
    #[serde(default)]
    pub details: Option<String>,
}

/// Says what the miner offers; its answer to a good authentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Executors by class.
    pub manifest: crate::core::model::Manifest,
}

/// The miner took the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The job.
    pub job_uuid: JobId,
    /// Extension [`EXTENSION_SHARING`], else absent: whether the job is beyond the validator's share and may be stopped
    /// at a ten-minute boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_effort: Option<bool>,
}

/// The miner did not take the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// The job.
    pub job_uuid: JobId,
    /// In words.
    #[serde(default)]
    pub message: String,
    /// Why.
    #[serde(default)]
    pub reason: RejectionReason,
    /// Receipts of other jobs, which prove that the miner is busy.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
}

message!(
    Authenticate = "ValidatorAuthForMiner",
    MainHotkey = "V0MainHotkeyMessage",
    AcceptedReceipt = "V0JobAcceptedReceiptRequest",
    FinishedReceipt = "V0JobFinishedReceiptRequest",
    Unauthorized = "UnauthorizedError",
    Manifest = "V0ExecutorManifestRequest",
    Accepted = "V0AcceptJobRequest",
    Declined = "V0DeclineJobRequest",
);

direction! {
    /// From the validator to the miner.
    Down {
        /// Introduces the validator.
        Authenticate(Authenticate),
        /// Asks for the main hotkey.
        MainHotkey(MainHotkey),
        /// Asks for an executor.
        InitialJob(InitialJob),
        /// Says what to run.
        FullJob(FullJob),
        /// Hands over the accepted receipt.
        AcceptedReceipt(AcceptedReceipt),
        /// Hands over the finished receipt.
        FinishedReceipt(FinishedReceipt),
        /// Extension [`EXTENSION_CANCEL`]: asks for the job's end.
        JobCancel(JobCancel),
        /// Complains.
        GenericError(GenericError),
    }
}

direction! {
    /// From the miner to the validator.
    Up {
        /// Refuses, in the old way.
        Unauthorized(Unauthorized),
        /// Says what is offered.
        Manifest(Manifest),
        /// Names the main hotkey.
        MainHotkey(MainHotkey),
        /// Takes the job.
        Accepted(Accepted),
        /// Refuses the job.
        Declined(Declined),
        /// The executor is up.
        ExecutorReady(ExecutorReady),
        /// The streaming job can be reached.
        StreamingReady(StreamingReady),
        /// The input is in place.
        VolumesReady(VolumesReady),
        /// The container ended with 0.
        ExecutionDone(ExecutionDone),
        /// What the machine is made of.
        MachineSpecs(MachineSpecs),
        /// Extension [`EXTENSION_LOGS`]: what the job has written.
        JobOutput(JobOutput),
        /// The results.
        JobFinished(JobFinished),
        /// The job failed by itself.
        JobFailed(JobFailed),
        /// The horde failed the job.
        HordeFailed(HordeFailed),
        /// Legacy horde failure.
        ExecutorFailed(ExecutorFailed),
        /// Legacy horde failure.
        StreamingNotReady(StreamingNotReady),
        /// Complains.
        GenericError(GenericError),
    }
}
