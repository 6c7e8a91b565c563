//! The messages that cross both inner wires (validator-miner and miner-executor), each defined once.
//!
//! Field order is the order on the wire. Absent optionals are written as null, except `validator_signature`,
//! which only newer validators know (wire-miner-validator §11).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::frame::{Message, message};
use crate::core::model::job::{
    ExecutorTiming, FailureReason, HordeReason, JobStage, OutputStream, Participant, RunPreset,
    StreamingDetails,
};
use crate::core::model::receipt::JobStarted;
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::model::{ExecutorClass, JobId, lenient};

/// Free-form facts that come with a failure.
pub type Context = IndexMap<String, Value>;

/// Extension of all three links (`core::net::extensions`): the upper side may send [`JobCancel`], or the facilitator's
/// form of it, while the job runs.
pub const EXTENSION_CANCEL: &str = "cancel";

/// Extension of the two upper links (`core::net::extensions`): the lower side may send what a running job writes.
pub const EXTENSION_LOGS: &str = "logs";

/// The message of a job that its user cancelled.
pub const CANCELLED_MESSAGE: &str = "cancelled by the user";

/// The key that is `true` in the context of such a job's end.
pub const CANCELLED_KEY: &str = "cancelled";

/// Characters of an identity that an answer quotes, at most.
const UNKNOWN_JOB_CHARS_MAX: usize = 100;

/// What [`JobCancel`] is called in [`GenericError::unknown_job`].
pub const JOB_CANCEL: &str = "JobCancel";

/// Says that a frame could not be used, or that a peer is not welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenericError {
    /// What is wrong, in words.
    #[serde(default)]
    pub details: Option<String>,
}

impl GenericError {
    /// Makes the answer to a message about a job that the peer has not got here (wire-miner-validator §5).
    pub fn unknown_job(message: &str, job: &JobId) -> Self {
        let job: String = job.as_str().chars().take(UNKNOWN_JOB_CHARS_MAX).collect();
        Self::new(format!("Received {message} for unknown job_uuid: {job}"))
    }

    /// Makes an error of words.
    pub fn new(details: impl Into<String>) -> Self {
        Self {
            details: Some(details.into()),
        }
    }

    /// Makes the answer to a frame that cannot be read. Peers of the reference look for this beginning.
    pub fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::new(format!("Malformed message: {reason}"))
    }
}

/// Asks for an executor and carries the started receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialJob {
    /// The validator's signature over the rest of the message (wheel 0.0.27).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator_signature: Option<String>,
    /// The job.
    pub job_uuid: JobId,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// The image to fetch before the executor is ready.
    #[serde(default)]
    pub docker_image: Option<String>,
    /// The total limit of peers that know no timing, in seconds.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub timeout_seconds: Option<i64>,
    /// The input, unless the full order brings it.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// What the validator signed.
    pub job_started_receipt_payload: JobStarted,
    /// Its signature.
    pub job_started_receipt_signature: String,
    /// Present for streaming jobs.
    #[serde(default)]
    pub streaming_details: Option<StreamingDetails>,
    /// The time limits by stage.
    #[serde(default)]
    pub executor_timing: Option<ExecutorTiming>,
}

/// The full order: what to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullJob {
    /// The validator's signature over the rest of the message (wheel 0.0.27).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator_signature: Option<String>,
    /// The job.
    pub job_uuid: JobId,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// The image to run.
    pub docker_image: String,
    /// A Python script to run if there is no command.
    #[serde(default)]
    pub raw_script: Option<String>,
    /// Which devices the container gets.
    pub docker_run_options_preset: RunPreset,
    /// The command; the image's own if empty.
    pub docker_run_cmd: Vec<String>,
    /// The environment, in the order of the request.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// The input, unless the first request brought it.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// Where results go.
    #[serde(default)]
    pub output_upload: Option<OutputUpload>,
    /// The folder inside the container whose files are returned.
    #[serde(default)]
    pub artifacts_dir: Option<String>,
}

/// The executor is up and waits for the full order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorReady {
    /// The job.
    pub job_uuid: JobId,
    /// Null on every wire; the reference used it inside the miner.
    #[serde(default)]
    pub executor_token: Option<String>,
}

/// The streaming job can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamingReady {
    /// The job.
    pub job_uuid: JobId,
    /// Null on every wire.
    #[serde(default)]
    pub executor_token: Option<String>,
    /// The server's certificate, PEM.
    pub public_key: String,
    /// The public address, filled in by the miner.
    #[serde(default)]
    pub ip: Option<String>,
    /// The public port.
    #[serde(deserialize_with = "lenient::integer")]
    pub port: i64,
    /// The miner's signature over job, address, port and certificate.
    #[serde(default)]
    pub miner_signature: Option<String>,
}

/// The input is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesReady {
    /// The job.
    pub job_uuid: JobId,
}

/// The container ended with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionDone {
    /// The job.
    pub job_uuid: JobId,
}

/// What the executor's machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpecs {
    /// The job.
    pub job_uuid: JobId,
    /// The wrapper of the facts.
    pub specs: Specs,
}

/// The wrapper in which machine facts travel (they are nested twice).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Specs {
    /// The facts (wire-executor-miner §11).
    pub specs: Context,
}

/// The results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFinished {
    /// The job.
    pub job_uuid: JobId,
    /// What the container wrote to its standard output.
    pub docker_process_stdout: String,
    /// What the container wrote to its standard error.
    pub docker_process_stderr: String,
    /// Files of the artifacts folder, base64 by path.
    #[serde(default)]
    pub artifacts: Option<IndexMap<String, String>>,
    /// What the upload servers answered, JSON text by key.
    #[serde(default)]
    pub upload_results: Option<IndexMap<String, String>>,
}

/// The job failed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailed {
    /// The job.
    pub job_uuid: JobId,
    /// What happened, in words.
    #[serde(default, alias = "error_detail")]
    pub message: String,
    /// Why.
    #[serde(default, alias = "error_type")]
    pub reason: FailureReason,
    /// When.
    #[serde(default)]
    pub stage: JobStage,
    /// The container's exit code, if it ran to an end.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub docker_process_exit_status: Option<i64>,
    /// What the container wrote to its standard output, if it ran.
    #[serde(default)]
    pub docker_process_stdout: Option<String>,
    /// What the container wrote to its standard error, if it ran.
    #[serde(default)]
    pub docker_process_stderr: Option<String>,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
}

impl JobFailed {
    /// Makes the end of a job that its user cancelled at `stage`, without streams. The wire has no word for it: to a
    /// reference peer it is a failure without a known reason.
    pub fn cancelled(job_uuid: JobId, stage: JobStage) -> Self {
        Self {
            job_uuid,
            message: CANCELLED_MESSAGE.to_owned(),
            reason: FailureReason::Unknown,
            stage,
            docker_process_exit_status: None,
            docker_process_stdout: None,
            docker_process_stderr: None,
            context: Some(cancelled_context()),
        }
    }

    /// Tells whether it says that the user cancelled the job.
    pub fn is_cancelled(&self) -> bool {
        let mark = self
            .context
            .as_ref()
            .and_then(|context| context.get(CANCELLED_KEY));
        mark == Some(&Value::Bool(true))
    }
}

/// Returns the mark of a cancelled job's end.
pub fn cancelled_context() -> Context {
    Context::from_iter([(CANCELLED_KEY.to_owned(), Value::Bool(true))])
}

/// The horde failed the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HordeFailed {
    /// The job.
    pub job_uuid: JobId,
    /// Who noticed.
    pub reported_by: Participant,
    /// What happened, in words.
    pub message: String,
    /// Why.
    pub reason: HordeReason,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
}

/// Asks for the end of a job that its user has cancelled.
///
/// Beyond the wire: sent only to a peer that agreed to [`EXTENSION_CANCEL`]; the reference does not know it. Said once
/// or again, it means the same. The answer is the job's end: [`JobFailed::cancelled`], or whatever ended it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCancel {
    /// The job.
    pub job_uuid: JobId,
}

/// A piece of what the job has written, while it runs.
///
/// Beyond the wire: sent only to a miner that agreed to the extension `output`, and by it to a validator that agreed to
/// [`EXTENSION_LOGS`]; the reference does not know it. Lossy: a piece may be missing, which the next one's offset shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutput {
    /// The job.
    pub job_uuid: JobId,
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes the stream had before it.
    pub offset: u64,
    /// The bytes as they were written, base64: any bytes, 32 KiB at most from executors of this version.
    pub data: String,
}

/// The most artifacts of which it is told why they are not sent; the others are counted.
pub const ARTIFACT_VERDICTS_MAX: usize = 1000;

/// What of a job's artifacts is not in its report, and why.
///
/// Beyond the wire: sent right before the report, only to a miner that agreed to the extension `artifact-verdicts`; the
/// reference leaves such files out without a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactVerdicts {
    /// The job.
    pub job_uuid: JobId,
    /// One for each file that was left out, [`ARTIFACT_VERDICTS_MAX`] at most from executors of this version.
    pub verdicts: Vec<ArtifactVerdict>,
    /// How many more were left out.
    #[serde(default)]
    pub more: u64,
}

/// Why one file was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactVerdict {
    /// Its path inside the container.
    pub path: String,
    /// The reason in one word, such as `too_large`; newer executors may know more words.
    pub verdict: String,
}

/// Legacy: the executor could not prepare. Read, never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorFailed {
    /// The job.
    pub job_uuid: JobId,
    /// Null on every wire.
    #[serde(default)]
    pub executor_token: Option<String>,
}

/// Legacy: the streaming job could not be reached. Read, never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamingNotReady {
    /// The job.
    pub job_uuid: JobId,
    /// Null on every wire.
    #[serde(default)]
    pub executor_token: Option<String>,
}

impl ExecutorFailed {
    /// Returns the message that newer peers would have sent.
    pub fn into_horde_failed(self) -> HordeFailed {
        HordeFailed {
            job_uuid: self.job_uuid,
            reported_by: Participant::Miner,
            message: "Executor failed to start".to_owned(),
            reason: HordeReason::GenericError,
            context: None,
        }
    }
}

impl StreamingNotReady {
    /// Returns the message that newer peers would have sent.
    pub fn into_horde_failed(self) -> HordeFailed {
        HordeFailed {
            job_uuid: self.job_uuid,
            reported_by: Participant::Miner,
            message: "Streaming job failed to start".to_owned(),
            reason: HordeReason::StreamingFailed,
            context: None,
        }
    }
}

message!(
    GenericError = "GenericError",
    ExecutorReady = "V0ExecutorReadyRequest",
    StreamingReady = "V0StreamingJobReadyRequest",
    VolumesReady = "V0VolumesReadyRequest",
    ExecutionDone = "V0ExecutionDoneRequest",
    MachineSpecs = "V0MachineSpecsRequest",
    JobFinished = "V0JobFinishedRequest",
    JobFailed = "V0JobFailedRequest",
    HordeFailed = "V0HordeFailedRequest",
    JobCancel = "H0JobCancel",
    JobOutput = "V0JobOutputRequest",
    ArtifactVerdicts = "V0ArtifactVerdictsRequest",
    ExecutorFailed = "V0ExecutorFailedRequest",
    StreamingNotReady = "V0StreamingJobNotReadyRequest",
);

impl Message for InitialJob {
    const TYPE: &'static str = "V0InitialJobRequest";

    fn keys_before_type(&self) -> usize {
        usize::from(self.validator_signature.is_some())
    }
}

impl Message for FullJob {
    const TYPE: &'static str = "V0JobRequest";

    fn keys_before_type(&self) -> usize {
        usize::from(self.validator_signature.is_some())
    }
}
