//! What the machine is told, and what it orders.

use indexmap::IndexMap;

use crate::core::docker::Signal;
use crate::core::host::checks::Finding;
use crate::core::model::upload::OutputUpload;
use crate::core::model::volume::Volume;
use crate::core::proto::job::{ArtifactVerdict, Context, FullJob};
use crate::core::proto::miner_executor::{Down, Up};

use super::super::shortfall::Shortfall;
use super::super::streaming::{ClientCertificate, StreamFault, StreamServer};

/// What a container wrote, cut as the wire wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A container that ended, by itself or killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub exit_code: i64,
    /// What it wrote.
    pub streams: Streams,
    /// What it ran short of, when that is why it failed or may be.
    pub shortfall: Option<Shortfall>,
}

/// What a job leaves for its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// Small files, base64 by path.
    pub artifacts: IndexMap<String, String>,
    /// Why other files are not among them; at most [`ARTIFACT_VERDICTS_MAX`](crate::core::proto::job::ARTIFACT_VERDICTS_MAX).
    pub verdicts: Vec<ArtifactVerdict>,
    /// How many more are not.
    pub more: u64,
    /// What the upload servers answered, by key.
    pub uploads: IndexMap<String, String>,
}

/// Why a piece of work failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Through what the job asked for: a volume or an upload.
    Job(String),
    /// Through something that the executor cannot give, in words for a person.
    Refused(String),
    /// Through the machine: these security checks do not hold, so nothing runs.
    Insecure(Vec<Finding>),
    /// The engine would not make or start the container, since the job may not have what it needs.
    Denied {
        /// The engine's words.
        detail: String,
        /// What was missing.
        shortfall: Box<Shortfall>,
    },
    /// The image cannot be had.
    NoImage(String),
    /// Through the engine, the disk or a bug of ours.
    Ours {
        /// The kind, in the reference's vocabulary, such as `DockerError`.
        kind: &'static str,
        /// What happened.
        detail: String,
    },
}

/// What the machine is told.
#[derive(Debug)]
pub enum Event {
    /// The miner sent a message.
    Message(Box<Down>),
    /// The miner sent something that is no message.
    Malformed {
        /// What it sent.
        text: String,
        /// Why it is none.
        error: String,
    },
    /// Time has passed.
    Tick,
    /// [`Effect::Prepare`] has ended.
    Prepared(Result<(), Fault>),
    /// [`Effect::Fetch`] has ended.
    Fetched(Result<(), Fault>),
    /// The container has ended, or could not be made or started.
    Exited(Result<Ended, Fault>),
    /// The way into a streaming job is open, or there is none; the second may come after the first.
    Streaming(Result<StreamServer, StreamFault>),
    /// [`Effect::Upload`] has ended.
    Uploaded(Result<Results, Fault>),
    /// The machine is described.
    Described(Context),
    /// The container is gone with everything that ran in it, or nobody can tell.
    Gone(Result<(), String>),
    /// The miner is gone.
    LinkLost,
    /// The process was asked to stop.
    StopAsked,
}

/// What the driver is to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Tell the miner.
    Send(Up),
    /// Look at the machine, make the folders, ask for the engine, have the image at hand.
    Prepare {
        /// The image, if it is known already.
        image: Option<String>,
        /// Whether jobs of the class get GPUs.
        gpus: bool,
    },
    /// Begin to open a way into the job, which goes on once the container runs.
    OpenStream {
        /// The only client.
        client: ClientCertificate,
        /// The executor's address, as that client will know it.
        address: Option<String>,
    },
    /// Make the container, without starting it; its failure is told when it is to start.
    Create(Box<FullJob>),
    /// Put the volume in place.
    Fetch(Option<Volume>),
    /// Start the container and wait for its end.
    Start,
    /// Address the container with a signal.
    Stop(Signal),
    /// Remove the container, also while it runs or is being made, and make sure that nothing of it is left.
    Remove,
    /// Collect artifacts and send the output.
    Upload {
        /// Where to.
        upload: Option<OutputUpload>,
        /// The folder of artifacts, as the container knows it.
        artifacts_dir: Option<String>,
    },
    /// Clear everything away and end.
    End(Outcome),
}

/// How an executor's life ended; every life ends in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The miner was told: finished.
    Finished,
    /// The miner was told: failed by itself.
    Failed,
    /// The miner was told: failed by the horde.
    HordeFailed,
    /// The miner was told: failed by the horde, which cannot remove the job's container.
    ContainerLeft,
    /// Nobody was told: no job came in time.
    NoJob,
    /// Nobody was told: the miner is gone.
    LinkLost,
    /// Nobody was told: the process was asked to stop before a job came.
    Stopped,
}
