//! The wire between miner and executor (`/v0.1/executor_interface/<token>`).

use serde::{Deserialize, Serialize};

use super::frame::{direction, message};
use super::job::{
    ArtifactVerdicts, EXTENSION_CANCEL, ExecutionDone, ExecutorFailed, ExecutorReady, FullJob, GenericError,
    HordeFailed, InitialJob, JobCancel, JobFailed, JobFinished, JobOutput, MachineSpecs, StreamingNotReady,
    StreamingReady, VolumesReady,
};
use crate::core::model::JobId;

/// The most an executor reads in one frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 52_428_800;

/// What executors and miners of this version agree on beyond the wire (`core::net::extensions`): each name allows
/// messages that the reference does not know. Neither side sends them to a peer that did not agree.
pub const EXTENSIONS: &[&str] = &[
    EXTENSION_OUTPUT,
    EXTENSION_ARTIFACT_VERDICTS,
    EXTENSION_RESUME,
    EXTENSION_CANCEL,
];

/// The executor may send [`JobOutput`] while the job runs.
pub const EXTENSION_OUTPUT: &str = "output";

/// The executor may send [`ArtifactVerdicts`] before its report.
pub const EXTENSION_ARTIFACT_VERDICTS: &str = "artifact-verdicts";

/// The loss of the link does not end the job.
///
/// The executor works on and comes back with its token, for a bounded time. On each link but its first it says
/// [`Resumes`] first, then again all that it has told so far, which changes nothing at a miner that knows it. The miner
/// sends again what the executor lacks. The executor keeps its report until [`ReportKept`] says that the miner has it
/// on its disk, and ends only then, or when the miner stays away.
pub const EXTENSION_RESUME: &str = "resume";

/// Extension [`EXTENSION_RESUME`]: the executor is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumes {
    /// The job, once its first request has arrived.
    pub job_uuid: Option<JobId>,
    /// Whether the full order has arrived.
    pub is_ordered: bool,
}

/// Extension [`EXTENSION_RESUME`]: the miner has the report on its disk and needs the executor no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportKept {
    /// The job.
    pub job_uuid: JobId,
}

message!(
    Resumes = "V0ExecutorResumesRequest",
    ReportKept = "V0ReportKeptRequest",
);

direction! {
    /// From the miner to the executor.
    Down {
        /// Asks to get ready.
        InitialJob(InitialJob),
        /// Says what to run.
        FullJob(FullJob),
        /// Extension [`EXTENSION_RESUME`]: the report is kept.
        ReportKept(ReportKept),
        /// Extension [`EXTENSION_CANCEL`]: asks for the job's end.
        JobCancel(JobCancel),
        /// Complains.
        GenericError(GenericError),
    }
}

direction! {
    /// From the executor to the miner.
    Up {
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
        /// Extension [`EXTENSION_OUTPUT`]: what the job has written.
        JobOutput(JobOutput),
        /// Extension [`EXTENSION_ARTIFACT_VERDICTS`]: what was not sent, and why.
        ArtifactVerdicts(ArtifactVerdicts),
        /// Extension [`EXTENSION_RESUME`]: the executor is back.
        Resumes(Resumes),
        /// Complains.
        GenericError(GenericError),
    }
}

impl Up {
    /// Returns the extension without which a miner must not be sent this; none for what is on the wire.
    pub fn extension(&self) -> Option<&'static str> {
        match self {
            Self::JobOutput(_) => Some(EXTENSION_OUTPUT),
            Self::ArtifactVerdicts(_) => Some(EXTENSION_ARTIFACT_VERDICTS),
            Self::Resumes(_) => Some(EXTENSION_RESUME),
            Self::ExecutorReady(_)
            | Self::StreamingReady(_)
            | Self::VolumesReady(_)
            | Self::ExecutionDone(_)
            | Self::MachineSpecs(_)
            | Self::JobFinished(_)
            | Self::JobFailed(_)
            | Self::HordeFailed(_)
            | Self::ExecutorFailed(_)
            | Self::StreamingNotReady(_)
            | Self::GenericError(_) => None,
        }
    }

    /// Returns the job that the news is about; a complaint names none.
    pub fn job_uuid(&self) -> Option<&JobId> {
        match self {
            Self::ExecutorReady(m) => Some(&m.job_uuid),
            Self::StreamingReady(m) => Some(&m.job_uuid),
            Self::VolumesReady(m) => Some(&m.job_uuid),
            Self::ExecutionDone(m) => Some(&m.job_uuid),
            Self::MachineSpecs(m) => Some(&m.job_uuid),
            Self::JobFinished(m) => Some(&m.job_uuid),
            Self::JobFailed(m) => Some(&m.job_uuid),
            Self::HordeFailed(m) => Some(&m.job_uuid),
            Self::ExecutorFailed(m) => Some(&m.job_uuid),
            Self::StreamingNotReady(m) => Some(&m.job_uuid),
            Self::JobOutput(m) => Some(&m.job_uuid),
            Self::ArtifactVerdicts(m) => Some(&m.job_uuid),
            Self::Resumes(m) => m.job_uuid.as_ref(),
            Self::GenericError(_) => None,
        }
    }

    /// Tells whether it is the last word about the job.
    pub fn is_report(&self) -> bool {
        matches!(
            self,
            Self::JobFinished(_)
                | Self::JobFailed(_)
                | Self::HordeFailed(_)
                | Self::ExecutorFailed(_)
                | Self::StreamingNotReady(_)
        )
    }
}
