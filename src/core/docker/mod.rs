//! Containers: what the executor and the miner ask of a Docker engine.
//!
//! [`Engine`] is the port, [`engine::Bollard`] speaks to a real engine over its Unix socket, [`info`] is what an
//! engine says of itself, [`limits`] turns a job into the container that it may have, [`image`] makes the
//! executor's own image from the running binary, [`own`] keeps one of this very binary for helpers, [`place`]
//! tells whether this process is in a container itself, and [`swarm`] is for many machines behind one manager. Everything made here carries our labels ([`Label`]), and only
//! what carries them is ever removed: other people's containers on the same engine are none of our business.

pub mod cgroup;
pub mod engine;
pub mod image;
pub mod info;
pub mod limits;
pub mod own;
pub mod place;
pub mod profile;
pub mod reference;
pub mod removal;
pub mod sandbox;
pub mod swarm;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::time::sleep;

use info::{EngineInfo, EngineVersion};
use limits::ContainerSpec;
use place::HostMount;
use reference::ImageReference;

/// Names the miner (or the person) on whose behalf a container runs.
pub const LABEL_OWNER: &str = "horde.owner";
/// Names the job that a container runs.
pub const LABEL_JOB: &str = "horde.job";
/// Names the executor token under which a container was started.
pub const LABEL_TOKEN: &str = "horde.token";

/// A label that only our containers carry; what [`sweep`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label<'a> {
    /// All containers of one owner: what a restarted miner removes.
    Owner(&'a str),
    /// The containers of one executor: what a miner removes after it killed that executor.
    Token(&'a str),
}

impl Label<'_> {
    fn key(self) -> &'static str {
        match self {
            Self::Owner(_) => LABEL_OWNER,
            Self::Token(_) => LABEL_TOKEN,
        }
    }

    fn value(&self) -> &str {
        match self {
            Self::Owner(value) | Self::Token(value) => value,
        }
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.key(), self.value())
    }
}

/// The content address of an image (`sha256:…`): what runs, whatever a tag means a minute later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageId(String);

impl ImageId {
    /// Wraps an identifier that the engine gave.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the text that the engine understands.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The identifier of a container, as the engine gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Wraps an identifier that the engine gave.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the text that the engine understands.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which of a container's streams a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a container's output, as the container wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// The stream it was written to.
    pub stream: StreamName,
    /// The bytes; any bytes.
    pub bytes: Bytes,
}

/// A container's output until it ends.
pub type OutputStream = BoxStream<'static, Result<OutputChunk, EngineError>>;

/// A container found by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundContainer {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name, without the leading slash.
    pub name: String,
    /// The job that it runs, when it says so.
    pub job: Option<String>,
    /// The executor that it belongs to, when it says so.
    pub token: Option<String>,
    /// Whether it runs now.
    pub is_running: bool,
}

/// How a running container is addressed when it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The polite one, which a program may use to end well.
    Term,
    /// The one that no program survives.
    Kill,
}

impl Signal {
    /// Returns the name that the engine understands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        }
    }
}

/// What an engine says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether it runs now.
    pub is_running: bool,
    /// Its first process as the engine's host numbers it; none when it does not run.
    pub pid: Option<u32>,
    /// Its exit code, when it has ended.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed a process of it for lack of memory.
    pub is_out_of_memory: bool,
    /// The engine's words on why it did not start; empty when it did.
    pub error: String,
}

/// What an engine says of an image that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its content address.
    pub id: ImageId,
    /// Under which addresses registries know it (`name@sha256:…`); none for an image that was never in one.
    pub digests: Vec<String>,
    /// Its size on the disk with all its layers, in bytes.
    pub bytes: u64,
}

/// What can go wrong between us and an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The setting names something else than a Unix socket.
    #[error("docker address `{address}` is not supported: it must look like unix:///var/run/docker.sock")]
    UnsupportedAddress {
        /// The address as configured.
        address: String,
    },
    /// Nobody answers at the socket.
    #[error("Docker does not answer at {address} ({cause}): {remedy}")]
    Unreachable {
        /// The address as configured.
        address: String,
        /// What the operating system said.
        cause: String,
        /// What a person can do about it.
        remedy: &'static str,
    },
    /// The thing asked for does not exist (any more).
    #[error("docker could not {action}: {message}")]
    NotFound {
        /// What was tried.
        action: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The engine said no.
    #[error("docker could not {action}: {message}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The engine manages no swarm.
    #[error(
        "docker could not {action}: {message} (a swarm's manager is needed: `docker swarm init` makes one, and \
         `docker node ls` works on it)"
    )]
    NoManager {
        /// What was tried.
        action: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The link to the engine broke or it sent what nobody understands.
    #[error("docker could not {action}: {message}")]
    Broken {
        /// What was tried.
        action: &'static str,
        /// The client's words.
        message: String,
    },
}

/// What is asked of a container engine.
///
/// All calls are cancel-safe in the sense that dropping one leaves at most a labelled container behind, which
/// [`sweep`] finds.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// Returns the engine's versions; fails when nobody answers.
    async fn version(&self) -> Result<EngineVersion, EngineError>;

    /// Returns what the engine says about itself and its machine.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// Returns the content address of a local image, or `None` when the engine does not hold it.
    async fn find_image(&self, image: &ImageReference) -> Result<Option<ImageId>, EngineError>;

    /// Returns what the engine knows of a local image, or `None` when it does not hold it.
    async fn inspect_image(&self, image: &ImageReference) -> Result<Option<ImageFacts>, EngineError>;

    /// Asks an image's registry, through the engine, for the digest (`sha256:…`) that its name means now.
    async fn registry_digest(&self, image: &ImageReference) -> Result<String, EngineError>;

    /// Fetches an image from its registry.
    async fn pull(&self, image: &ImageReference) -> Result<(), EngineError>;

    /// Makes an image from a root file system; `changes` are Dockerfile instructions such as `CMD ["run"]`.
    async fn import(
        &self,
        root_fs: tokio::fs::File,
        image: &ImageReference,
        changes: Vec<String>,
    ) -> Result<ImageId, EngineError>;

    /// Removes an image's name, and the image when that was its last name.
    async fn remove_image(&self, image: &ImageReference) -> Result<(), EngineError>;

    /// Creates a container without starting it.
    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError>;

    /// Opens a container's output. Opened before the start, it misses nothing; it ends when the container does.
    async fn attach(&self, container: &ContainerId) -> Result<OutputStream, EngineError>;

    /// Starts a container.
    async fn start(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Waits until a container does not run, and returns its exit code.
    async fn wait(&self, container: &ContainerId) -> Result<i64, EngineError>;

    /// Returns what a container is about, or `None` when there is none (any more).
    async fn inspect(&self, container: &ContainerId) -> Result<Option<ContainerState>, EngineError>;

    /// Returns what a container sees of the host, or `None` when there is no such container.
    async fn host_mounts(&self, container: &ContainerId) -> Result<Option<Vec<HostMount>>, EngineError>;

    /// Returns how many bytes a container has written to its root. Takes as long as it takes to look at every file.
    async fn written_bytes(&self, container: &ContainerId) -> Result<u64, EngineError>;

    /// Sends a container a signal. One that does not run or is gone is fine.
    async fn kill(&self, container: &ContainerId, signal: Signal) -> Result<(), EngineError>;

    /// Asks a container to stop and kills it after `grace_seconds`. One that does not run is fine.
    async fn stop(&self, container: &ContainerId, grace_seconds: u32) -> Result<(), EngineError>;

    /// Kills and removes a container with its anonymous volumes. One that is gone is fine.
    async fn remove(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Removes a network by its name. One that is gone is fine.
    async fn remove_network(&self, name: &str) -> Result<(), EngineError>;

    /// Lists containers, also stopped ones, that carry a label of ours.
    async fn list(&self, label: Label<'_>) -> Result<Vec<FoundContainer>, EngineError>;
}

/// How often [`sweep`] looks again for what it removed.
const SWEEP_LOOKS: u32 = 20;

/// Time between two looks of [`sweep`].
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Kills and removes every container that carries `label`; returns those found.
///
/// This is how a restarted miner clears away what its killed executors left, and how a miner clears up after an
/// executor that it had to kill. Containers are removed one after another; the first error ends it. An engine that
/// was still making a container when its executor died answers that the removal is in progress, and may then keep
/// the container after all: so it is looked for again until it is gone, [`SWEEP_LOOKS`] times at most.
pub async fn sweep(engine: &dyn Engine, label: Label<'_>) -> Result<Vec<FoundContainer>, EngineError> {
    let found = engine.list(label).await?;
    let mut left = found.clone();
    for look in 0..SWEEP_LOOKS {
        if left.is_empty() {
            return Ok(found);
        }
        if look > 0 {
            sleep(SWEEP_PAUSE).await;
        }
        for container in &left {
            engine.remove(&container.id).await?;
            tracing::info!(container = %container.name, %label, "removed a leftover container");
        }
        left = engine.list(label).await?;
    }
    for container in &left {
        tracing::error!(container = %container.name, %label, "the engine keeps a container that was removed");
    }
    Ok(found)
}

/// Tells of a token whether its executor is alive.
pub type Alive<'a> = dyn Fn(&str) -> bool + Send + Sync + 'a;

/// Removes every container of `owner` whose executor `is_alive` does not know by its token; returns how many.
///
/// An engine may finish making a container after whoever asked for it was killed, and after [`sweep`] has looked.
pub async fn sweep_strays(
    engine: &dyn Engine,
    owner: &str,
    is_alive: &Alive<'_>,
) -> Result<usize, EngineError> {
    let mut count = 0;
    for container in engine.list(Label::Owner(owner)).await? {
        // Asked after the list was made: who lives now lived when its container was listed, or is new.
        if container.token.as_deref().is_some_and(is_alive) {
            continue;
        }
        engine.remove(&container.id).await?;
        tracing::info!(container = %container.name, owner, "removed a container that no executor knows");
        count += 1;
    }
    Ok(count)
}
