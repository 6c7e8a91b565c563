//! The wire between facilitator and validator (`/ws/v0/`).
//!
//! Unknown keys are refused, except in the metadata object, the miner's response and a response's errors, where
//! they are kept, and in the other detail objects, where they are ignored (wire-facilitator-validator §1).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::frame::{DecodeError, Message, direction, message};
use super::job::{CANCELLED_MESSAGE, Context, EXTENSION_CANCEL, EXTENSION_LOGS, cancelled_context};
use crate::core::model::job::{
    FailureReason, HordeReason, JobStage, JobStatus, OutputStream, Participant, RejectionReason,
    StreamingDetails,
};
use crate::core::model::receipt::literal;
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::model::{ExecutorClass, Hotkey, JobId, lenient};

/// The most a reference validator reads in one frame, in bytes; a larger push closes its link with 1009.
pub const VALIDATOR_FRAME_BYTES_MAX: usize = 1_048_576;

/// The most the facilitator reads in one frame, in bytes.
pub const FACILITATOR_FRAME_BYTES_MAX: usize = 16_777_216;

/// What facilitators and validators of this version agree on beyond the wire (`core::net::extensions`): each name
/// allows messages, or keys, that the reference does not know. Neither side sends them to a peer that did not agree.
pub const EXTENSIONS: &[&str] = &[EXTENSION_CANCEL, EXTENSION_LOGS, EXTENSION_DEDUP];

/// The validator never runs a job twice, so one that may not have reached it may be pushed again.
pub const EXTENSION_DEDUP: &str = "dedup";

literal!(
    /// The routing word of a pushed job.
    JobNewWord = "job.new"
);
literal!(
    /// The routing word of a pushed cheat report.
    JobCheatedWord = "job.cheated"
);

/// What a request's signature covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignatureScope {
    /// The signed fields of a job.
    #[default]
    SignedFields,
    /// The whole body.
    FullRequest,
}

/// A user's signature, as it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// `bittensor`; nobody checks it.
    #[serde(default)]
    pub signature_type: String,
    /// Who signed.
    #[serde(default = "no_hotkey")]
    pub signatory: Hotkey,
    /// When, unix nanoseconds; part of what is signed.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub timestamp_ns: i64,
    /// 64 bytes, standard base64.
    pub signature: String,
    /// What is covered.
    #[serde(default)]
    pub signature_scope: SignatureScope,
}

fn no_hotkey() -> Hotkey {
    Hotkey::new("")
}

fn yes() -> bool {
    true
}

/// A user's job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// The user's signature; a request without one is rejected.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Routing word, always `job.new`.
    #[serde(default)]
    pub r#type: JobNewWord,
    /// The job; made by the facilitator and not signed.
    pub uuid: JobId,
    /// The user's name for a family of jobs; not signed.
    #[serde(default)]
    pub job_namespace: Option<String>,
    /// The executor class.
    pub executor_class: ExecutorClass,
    /// The image.
    pub docker_image: String,
    /// The command.
    pub args: Vec<String>,
    /// The environment, in the order in which it was signed.
    pub env: IndexMap<String, String>,
    /// Has no effect.
    #[serde(default = "yes", deserialize_with = "lenient::boolean")]
    pub use_gpu: bool,
    /// The input.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// Where results go.
    #[serde(default)]
    pub output_upload: Option<OutputUpload>,
    /// The folder whose files are returned.
    #[serde(default)]
    pub artifacts_dir: Option<String>,
    /// Whether the validator's own miner shall run it.
    #[serde(default, deserialize_with = "lenient::boolean")]
    pub on_trusted_miner: bool,
    /// Seconds for the input.
    #[serde(deserialize_with = "lenient::integer")]
    pub download_time_limit: i64,
    /// Seconds for the container.
    #[serde(deserialize_with = "lenient::integer")]
    pub execution_time_limit: i64,
    /// Seconds for the output.
    #[serde(deserialize_with = "lenient::integer")]
    pub upload_time_limit: i64,
    /// Seconds for a streaming job to become reachable.
    #[serde(deserialize_with = "lenient::integer")]
    pub streaming_start_time_limit: i64,
    /// Present for streaming jobs.
    #[serde(default)]
    pub streaming_details: Option<StreamingDetails>,
}

/// A user's report that a miner cheated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cheated {
    /// The user's signature.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Routing word, always `job.cheated`.
    #[serde(default)]
    pub r#type: JobCheatedWord,
    /// The job that is in doubt.
    pub job_uuid: JobId,
    /// The same job, run on the trusted miner.
    pub trusted_job_uuid: JobId,
    /// Anything; null is a value, absence is refused.
    #[serde(deserialize_with = "any_value")]
    pub details: Value,
}

/// Reads any JSON, but demands that the key is there.
fn any_value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Value::deserialize(deserializer)
}

/// Whether a frame was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseStatus {
    /// It was.
    Success,
    /// It was not.
    Error,
}

/// One reason for which a frame was not good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseError {
    /// In words.
    pub msg: String,
    /// A stable code.
    pub r#type: String,
    /// What to do.
    #[serde(default)]
    pub help: String,
    /// Whatever else the peer said.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The facilitator's answer to an authentication or a status; the one frame without a `message_type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Good or not.
    pub status: ResponseStatus,
    /// Why not.
    #[serde(default)]
    pub errors: Vec<ResponseError>,
}

impl Response {
    /// Returns the answer to a good frame.
    pub fn success() -> Self {
        Self {
            status: ResponseStatus::Success,
            errors: Vec::new(),
        }
    }

    /// Returns the answer to a bad frame.
    pub fn error(code: &str, msg: impl Into<String>, help: impl Into<String>) -> Self {
        let error = ResponseError {
            msg: msg.into(),
            r#type: code.to_owned(),
            help: help.into(),
            more: Map::new(),
        };
        Self {
            status: ResponseStatus::Error,
            errors: vec![error],
        }
    }
}

/// Introduces the validator; its first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authenticate {
    /// 64 hex digits without `0x`.
    pub public_key: String,
    /// The signature over the 32 key bytes, `0x` and hex.
    pub signature: String,
}

/// Says that the validator lives; every 60 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {}

/// What a miner's machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpecs {
    /// Whose machine.
    pub miner_hotkey: Hotkey,
    /// Who says so.
    pub validator_hotkey: Hotkey,
    /// The facts.
    pub specs: Context,
    /// The batch in which they were taken.
    pub batch_id: String,
}

/// What the container said and left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinerResponse {
    /// Standard error.
    pub docker_process_stderr: String,
    /// Standard output.
    pub docker_process_stdout: String,
    /// Files, base64 by path.
    #[serde(default)]
    pub artifacts: Option<IndexMap<String, String>>,
    /// Upload answers, JSON text by key.
    #[serde(default)]
    pub upload_results: Option<IndexMap<String, String>>,
    /// Whatever else the peer said.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Why a job was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRejection {
    /// By whom.
    pub rejected_by: Participant,
    /// Why.
    pub reason: RejectionReason,
    /// In words.
    pub message: String,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// Why.
    pub reason: FailureReason,
    /// When.
    pub stage: JobStage,
    /// In words.
    pub message: String,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
    /// The container's exit code.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub docker_process_exit_status: Option<i64>,
    /// Standard output.
    #[serde(default)]
    pub docker_process_stdout: Option<String>,
    /// Standard error.
    #[serde(default)]
    pub docker_process_stderr: Option<String>,
}

impl JobFailure {
    /// Makes the end of a job that its user cancelled at `stage`, without streams.
    pub fn cancelled(stage: JobStage) -> Self {
        Self {
            reason: FailureReason::Unknown,
            stage,
            message: CANCELLED_MESSAGE.to_owned(),
            context: Some(cancelled_context()),
            docker_process_exit_status: None,
            docker_process_stdout: None,
            docker_process_stderr: None,
        }
    }
}

/// Why the horde failed a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HordeFailure {
    /// Who noticed.
    pub reported_by: Participant,
    /// Why.
    pub reason: HordeReason,
    /// In words.
    pub message: String,
    /// Further facts.
    #[serde(default)]
    pub context: Option<Context>,
}

/// Where a streaming job can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamingServer {
    /// Its certificate, PEM.
    #[serde(default)]
    pub streaming_server_cert: Option<String>,
    /// Its address.
    #[serde(default)]
    pub streaming_server_address: Option<String>,
    /// Its port.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub streaming_server_port: Option<i64>,
}

/// The details of a status; at most one is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusMetadata {
    /// With `completed`.
    #[serde(default)]
    pub miner_response: Option<MinerResponse>,
    /// With `rejected`.
    #[serde(default)]
    pub job_rejection_details: Option<JobRejection>,
    /// With `failed`.
    #[serde(default)]
    pub job_failure_details: Option<JobFailure>,
    /// With `horde_failed`, and with `failed` when the validator itself noticed.
    #[serde(default)]
    pub horde_failure_details: Option<HordeFailure>,
    /// With `streaming_ready`.
    #[serde(default)]
    pub streaming_details: Option<StreamingServer>,
    /// Whatever else the peer said.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A step in a job's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusUpdate {
    /// The job.
    pub uuid: JobId,
    /// Its new state.
    pub status: JobStatus,
    /// Details.
    #[serde(default)]
    pub metadata: Option<StatusMetadata>,
}

/// Extension [`EXTENSION_CANCEL`]: the user has cancelled the job.
///
/// Said again on each new connection until the job has ended. The answer is the job's end, or [`CancelRefused`]; the
/// facilitator's stands for the user, so it carries no signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobCancel {
    /// The job.
    pub uuid: JobId,
}

/// Extension [`EXTENSION_CANCEL`]: the job cannot be cancelled and goes on. Like a heartbeat it has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRefused {
    /// The job.
    pub uuid: JobId,
    /// Why not, in words for its user.
    pub reason: String,
}

/// Extension [`EXTENSION_LOGS`]: a piece of what a job has written, while it runs. It has no answer, and may be missing,
/// which the next one's offset shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobOutput {
    /// The job.
    pub uuid: JobId,
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes the stream had before it.
    pub offset: u64,
    /// The bytes as they were written, base64.
    pub data: String,
}

message!(
    JobCancel = "H0JobCancel",
    CancelRefused = "H0JobCancelRefused",
    JobOutput = "H0JobOutput",
    Authenticate = "V0AuthenticationRequest",
    Heartbeat = "V0Heartbeat",
    MachineSpecs = "V0MachineSpecsUpdate",
    StatusUpdate = "V0JobStatusUpdate",
);

impl Message for JobRequest {
    const TYPE: &'static str = "V2JobRequest";

    fn keys_before_type(&self) -> usize {
        2
    }
}

impl Message for Cheated {
    const TYPE: &'static str = "V0JobCheated";

    fn keys_before_type(&self) -> usize {
        2
    }
}

/// From the facilitator to the validator.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Answers a frame.
    Response(Response),
    /// Brings a job.
    JobRequest(Box<JobRequest>),
    /// Brings a cheat report.
    Cheated(Cheated),
    /// Extension [`EXTENSION_CANCEL`]: asks for a job's end.
    JobCancel(JobCancel),
}

impl Down {
    /// Reads a frame. An answer has no `message_type`; a job or report without one is not accepted as an answer.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let value: Value = serde_json::from_str(text).map_err(DecodeError::NotJson)?;
        let Value::Object(mut fields) = value else {
            return Err(DecodeError::NotAnObject);
        };
        let word = fields.shift_remove(super::frame::MESSAGE_TYPE);
        match word.as_ref().map(Value::as_str) {
            Some(Some(JobRequest::TYPE)) => super::frame::read(fields).map(Box::new).map(Self::JobRequest),
            Some(Some(Cheated::TYPE)) => super::frame::read(fields).map(Self::Cheated),
            Some(Some(JobCancel::TYPE)) => super::frame::read(fields).map(Self::JobCancel),
            Some(Some(other)) => Err(DecodeError::UnknownMessageType(other.to_owned())),
            Some(None) => Err(DecodeError::NoMessageType),
            None => Self::decode_untyped(fields),
        }
    }

    /// Reads a frame without `message_type`: a response, or a push whose type word has a default.
    fn decode_untyped(fields: Map<String, Value>) -> Result<Self, DecodeError> {
        if fields.contains_key("status") {
            return serde_json::from_value(Value::Object(fields))
                .map(Self::Response)
                .map_err(|source| DecodeError::Invalid {
                    message_type: "Response".to_owned(),
                    source,
                });
        }
        if fields.contains_key("trusted_job_uuid") {
            return super::frame::read(fields).map(Self::Cheated);
        }
        if fields.contains_key("uuid") {
            return super::frame::read(fields).map(Box::new).map(Self::JobRequest);
        }
        Err(DecodeError::NoMessageType)
    }

    /// Writes the frame as the facilitator does: an answer compact, a push spaced and in ASCII.
    pub fn encode_as_facilitator(&self) -> String {
        use crate::core::crypto::canonical::spaced;
        match self {
            Self::Response(_) => self.encode(),
            Self::JobRequest(request) => spaced(&Value::Object(super::frame::to_object(request.as_ref()))),
            Self::Cheated(report) => spaced(&Value::Object(super::frame::to_object(report))),
            Self::JobCancel(cancel) => spaced(&Value::Object(super::frame::to_object(cancel))),
        }
    }

    /// Writes the frame as compact JSON.
    pub fn encode(&self) -> String {
        match self {
            Self::Response(response) => serde_json::to_string(response).unwrap_or_default(),
            Self::JobRequest(request) => super::frame::write(request.as_ref()),
            Self::Cheated(report) => super::frame::write(report),
            Self::JobCancel(cancel) => super::frame::write(cancel),
        }
    }
}

direction! {
    /// From the validator to the facilitator.
    #[expect(clippy::large_enum_variant, reason = "read and handled one at a time, never kept in numbers")]
    Up {
        /// Introduces the validator.
        Authenticate(Authenticate),
        /// The validator lives.
        Heartbeat(Heartbeat),
        /// What a machine is made of.
        MachineSpecs(MachineSpecs),
        /// A step in a job's life.
        StatusUpdate(StatusUpdate),
        /// Extension [`EXTENSION_CANCEL`]: a job cannot be cancelled.
        CancelRefused(CancelRefused),
        /// Extension [`EXTENSION_LOGS`]: what a job has written.
        JobOutput(JobOutput),
    }
}
