//! Jobs: their identity, states, stages, and the reasons for which they end (wire-miner-validator §4).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::lenient;

/// A job's identity as it travels. The reference makes UUIDs; the wire takes any text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// Wraps an identity as it came.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether this is a UUID in canonical lower case, as receipts demand.
    pub fn is_canonical_uuid(&self) -> bool {
        uuid::Uuid::try_parse(&self.0).is_ok_and(|uuid| uuid.hyphenated().to_string() == self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

/// Declares a closed set of words of the wire; `lenient` sets read an unknown word as `Unknown`.
macro_rules! words {
    ($(#[$doc:meta])* lenient $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub enum $name {
            /// A word that this build does not know.
            #[default]
            Unknown,
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every word, `unknown` first.
            pub const ALL: &'static [Self] = &[Self::Unknown, $(Self::$variant,)+];

            /// Returns the word of the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Unknown => "unknown",
                    $(Self::$variant => $word,)+
                }
            }

            /// Reads a word; an unknown one becomes `Unknown`.
            pub fn from_word(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    _ => Self::Unknown,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let words: Vec<&str> = Self::ALL.iter().map(|word| word.as_str()).collect();
                schemars::json_schema!({ "type": "string", "enum": words })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from_word(&String::deserialize(deserializer)?))
            }
        }
    };
}

words! {
    /// A job's state as the facilitator and its users see it (wire-facilitator-validator §4).
    lenient JobStatus {
        /// Stored by the facilitator and pushed to a validator.
        Sent = "sent",
        /// The validator has it and found the signature good.
        Received = "received",
        /// A miner accepted it.
        Accepted = "accepted",
        /// The executor is up.
        ExecutorReady = "executor_ready",
        /// The input is in place.
        VolumesReady = "volumes_ready",
        /// The streaming job can be reached.
        StreamingReady = "streaming_ready",
        /// The container ended with 0.
        ExecutionDone = "execution_done",
        /// Finished, with results.
        Completed = "completed",
        /// Refused before it ran.
        Rejected = "rejected",
        /// Failed by the job itself.
        Failed = "failed",
        /// Failed by the horde.
        HordeFailed = "horde_failed",
    }
}

impl JobStatus {
    /// Returns whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Rejected | Self::Failed | Self::HordeFailed => true,
            Self::Unknown
            | Self::Sent
            | Self::Received
            | Self::Accepted
            | Self::ExecutorReady
            | Self::VolumesReady
            | Self::StreamingReady
            | Self::ExecutionDone => false,
        }
    }
}

/// Which of a job's streams something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

words! {
    /// Where in its life a job was when something went wrong.
    lenient JobStage {
        /// Checks, image, folders.
        ExecutorStartup = "executor_startup",
        /// Input.
        VolumeDownload = "volume_download",
        /// Proxy and certificate of a streaming job; the reference never emits it.
        StreamingStartup = "streaming_startup",
        /// The container.
        Execution = "execution",
        /// Output.
        ResultUpload = "result_upload",
    }
}

words! {
    /// Who reports or refuses.
    lenient Participant {
        /// The user's library.
        Sdk = "sdk",
        /// The gateway.
        Facilitator = "facilitator",
        /// The broker.
        Validator = "validator",
        /// The executor pool.
        Miner = "miner",
        /// The machine.
        Executor = "executor",
    }
}

words! {
    /// Why a job was refused before it ran.
    lenient RejectionReason {
        /// All executors of the class are taken.
        Busy = "busy",
        /// A signature does not verify.
        InvalidSignature = "invalid_signature",
        /// The receipt inside the request is out of bounds (wheel 0.0.27).
        InvalidReceipt = "invalid_receipt",
        /// The validator found no miner.
        NoMinerForJob = "no_miner_for_job",
        /// The miner does not serve this validator.
        ValidatorBlacklisted = "validator_blacklisted",
    }
}

words! {
    /// Why a job failed by itself.
    lenient FailureReason {
        /// A stage took longer than its limit.
        Timeout = "timeout",
        /// The container ended with another code than 0.
        NonzeroReturnCode = "nonzero_return_code",
        /// The input could not be had.
        DownloadFailed = "download_failed",
        /// The output could not be delivered.
        UploadFailed = "upload_failed",
    }
}

words! {
    /// Why the horde failed a job.
    lenient HordeReason {
        /// Something known but unnamed.
        GenericError = "generic_error",
        /// A fault of our own.
        UnhandledException = "unhandled_exception",
        /// A limit of our own.
        UnhandledTimeout = "unhandled_timeout",
        /// Streaming could not be set up.
        StreamingFailed = "streaming_failed",
        /// The miner could not be reached.
        MinerConnectionFailed = "miner_connection_failed",
        /// The miner neither accepted nor declined in time.
        InitialResponseTimedOut = "initial_response_timed_out",
        /// The executor was not ready in time.
        ExecutorReadinessResponseTimedOut = "executor_readiness_response_timed_out",
        /// The input was not in place in time.
        VolumesTimedOut = "volumes_timed_out",
        /// The streaming job was not reachable in time.
        StreamingJobReadyTimedOut = "streaming_job_ready_timed_out",
        /// The container did not end in time.
        ExecutionTimedOut = "execution_timed_out",
        /// The results did not come in time.
        FinalResponseTimedOut = "final_response_timed_out",
        /// The executor could not be started.
        ExecutorSpinupFailed = "executor_spinup_failed",
        /// The executor went away while the job ran.
        ExecutorDisconnected = "executor_disconnected",
        /// The host is not safe to run jobs on.
        SecurityCheckFailed = "security_check_failed",
    }
}

/// The five time limits of a job, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorTiming {
    /// Slack that all stages share.
    #[serde(deserialize_with = "lenient::integer")]
    pub allowed_leeway: i64,
    /// For the input.
    #[serde(deserialize_with = "lenient::integer")]
    pub download_time_limit: i64,
    /// For the container.
    #[serde(deserialize_with = "lenient::integer")]
    pub execution_time_limit: i64,
    /// For the output.
    #[serde(deserialize_with = "lenient::integer")]
    pub upload_time_limit: i64,
    /// For a streaming job to become reachable.
    #[serde(deserialize_with = "lenient::integer")]
    pub streaming_start_time_limit: i64,
}

/// What a streaming job needs to know of its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamingDetails {
    /// The client's certificate, PEM.
    pub public_key: String,
    /// The executor's public address, filled in by the miner.
    #[serde(default)]
    pub executor_ip: Option<String>,
}

/// Which devices a job's container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPreset {
    /// All NVIDIA GPUs.
    NvidiaAll,
    /// None.
    None,
}
