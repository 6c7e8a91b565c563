//! How executors come to life: the port, and what every backend is told.
//!
//! A backend starts one executor per token and can end it. What the executor does is between it and the miner,
//! over the wire; the backend sees only whether it still runs.

pub mod capacity;
pub mod command;
pub mod container;
pub mod fleet;
pub mod process;
pub mod swarm;

mod roster;

mod tunnel;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use self::capacity::Capacity;
use self::command::CommandError;
use crate::core::config::Environment;
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Alive, Engine, EngineError};
use crate::core::model::{ExecutorClass, JobId, Profile};

/// Time that an executor has to end by itself once it was asked to, before it is killed: 5 s
/// (wire-executor-miner §3).
pub const STOP_SECONDS: u32 = 5;

/// An executor to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorOrder {
    /// The job that it is for.
    pub job: JobId,
    /// The class that it is to be.
    pub class: ExecutorClass,
    /// Its slot: the number of its place among those of its class.
    pub slot: u32,
    /// The token by which it names itself to the miner.
    pub token: String,
    /// The port for the client of a streaming job.
    pub streaming_port: Option<u16>,
    /// Seconds to be ready within, where the subnet sets them; none leaves it to [`Terms::startup_seconds`].
    pub startup_seconds: Option<u64>,
}

/// What all executors of a miner are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The miner's endpoint for executors, `ws://host:port`.
    pub miner_address: String,
    /// Seconds to be ready within.
    pub startup_seconds: u64,
    /// The label of the containers that they make.
    pub owner: String,
    /// Whether they ask for no GPU.
    pub no_gpu: bool,
    /// Which rights their jobs have, by class; a class that is not there leaves it to the executor's own setting.
    pub profiles: Vec<(ExecutorClass, Profile)>,
}

impl Terms {
    /// Returns the environment of an executor.
    fn environment(&self, order: &ExecutorOrder) -> Vec<(String, String)> {
        let mut variables = vec![
            ("MINER_ADDRESS", self.miner_address.clone()),
            ("EXECUTOR_TOKEN", order.token.clone()),
            ("HORDE_EXECUTOR_OWNER", self.owner.clone()),
        ];
        if self.no_gpu {
            variables.push(("DEBUG_NO_GPU_MODE", "1".to_owned()));
        }
        if let Some((_, profile)) = self.profiles.iter().find(|(class, _)| *class == order.class) {
            variables.push(("HORDE_EXECUTOR_PROFILE", profile.as_str().to_owned()));
        }
        if let Some(port) = order.streaming_port {
            variables.push((STREAMING_PORT, port.to_string()));
        }
        variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Returns the command line of an executor, without the program.
    fn arguments(&self, order: &ExecutorOrder) -> [String; 4] {
        [
            "executor".to_owned(),
            "run".to_owned(),
            "--startup-time-limit".to_owned(),
            order.startup_seconds.unwrap_or(self.startup_seconds).to_string(),
        ]
    }
}

/// Beginning of the names of settings that are the executor's own.
const EXECUTOR_SETTINGS: &str = "HORDE_EXECUTOR_";

/// The reference's name of the port for the client of a streaming job.
const STREAMING_PORT: &str = "NGINX_PORT";

/// Our own name of it, which would win: the port of one executor, so no setting for all of them.
const OWN_STREAMING_PORT: &str = "HORDE_EXECUTOR_STREAMING_PORT";

/// Settings of executors under other names: those of logs, and the reference's. Not among them: the miner's wallet.
const MORE_EXECUTOR_SETTINGS: [&str; 6] = [
    "HF_ACCESS_TOKEN",
    "HF_ENDPOINT",
    "VOLUME_MAX_SIZE_BYTES",
    "OUTPUT_ZIP_UPLOAD_MAX_SIZE_BYTES",
    "HORDE_LOG_LEVEL",
    "HORDE_LOG_FORMAT",
];

/// Returns the variables of a miner's environment that are settings of its executors.
fn executor_settings(environment: &Environment) -> impl Iterator<Item = (String, String)> {
    environment
        .names()
        .filter(|name| *name != OWN_STREAMING_PORT)
        .filter(|name| name.starts_with(EXECUTOR_SETTINGS) || MORE_EXECUTOR_SETTINGS.contains(name))
        .filter_map(|name| Some((name.to_owned(), environment.get(name)?.to_owned())))
}

/// Why an executor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process could not be started.
    #[error("could not start the executor's process")]
    Spawn(#[source] io::Error),
    /// The image is not on the engine.
    #[error("docker holds no image {image}: `horde executor image` makes it")]
    NoImage {
        /// The image as configured.
        image: String,
    },
    /// The image could not be had from its registry.
    #[error("could not pull the executor's image {image}: {reason}")]
    Pull {
        /// The image as configured.
        image: String,
        /// The engine's words.
        reason: String,
    },
    /// The engine of the place does not answer.
    #[error("the server {server} does not answer: {reason}")]
    Lost {
        /// Its name.
        server: String,
        /// What happened.
        reason: String,
    },
    /// There is no such place.
    #[error("there is no place for slot {slot}")]
    NoPlace {
        /// The slot.
        slot: u32,
    },
    /// The engine said no.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operator's program was of no use.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why something that was left could not be cleared away.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The engine said no.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operator's program was of no use.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// It still runs.
    #[error("the executor of {token} still runs")]
    StillRuns {
        /// Its token.
        token: String,
    },
}

/// How the clients of streaming jobs reach the executor of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Whether it listens at a port of this machine, one of the miner's range; else at its own default.
    pub is_local: bool,
    /// At which address; none means that of the miner.
    pub address: Option<String>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            is_local: true,
            address: None,
        }
    }
}

/// How an executor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i64),
    /// In some other way: by a signal, or unseen.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Unknown => formatter.write_str("no exit code"),
        }
    }
}

/// A way to start executors.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// Returns where executors can run, now and whenever that changes.
    fn capacity(&self) -> watch::Receiver<Capacity>;

    /// Returns how clients of streaming jobs reach the executor of a place.
    fn reach(&self, _class: ExecutorClass, _slot: u32) -> Reach {
        Reach::default()
    }

    /// Starts an executor.
    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError>;

    /// Takes over an executor that a former life of this miner started for `order`, by what [`Running::process`] said of
    /// it, or by its token alone where that life ended before it could note it; none when it does not run.
    ///
    /// What cannot be asked counts as not running; its reason is logged.
    async fn adopt(&self, order: &ExecutorOrder, process: Option<&str>) -> Option<Box<dyn Running>>;

    /// Ends the executor of a former life, by its token and by what [`Running::process`] said of it, and removes
    /// the containers that it made. One that is gone is fine.
    async fn clear(&self, token: &str, process: Option<&str>) -> Result<(), ClearError>;

    /// Removes containers of this miner whose executor `is_alive` does not know by its token; returns how many.
    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, ClearError>;

    /// Brings images of jobs to the engines before the first job asks for them. What cannot be had is logged: the job
    /// that needs it tries again. A backend without engines of its own has nothing to do.
    async fn preload(&self, images: &[ImageReference]) {
        tracing::debug!(images = images.len(), "this backend preloads no images");
    }
}

/// Longest pull of one image before its turn is over.
const PRELOAD_TIME: Duration = Duration::from_secs(1800);

/// Pulls the images that an engine does not hold, one after another.
async fn preload_on(engine: &dyn Engine, images: &[ImageReference]) {
    for image in images {
        match engine.find_image(image).await {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => {
                // It would say the same about the others.
                tracing::warn!(%image, %error, "cannot look for an image to preload");
                return;
            }
        }
        match timeout(PRELOAD_TIME, engine.pull(image)).await {
            Ok(Ok(())) => tracing::info!(%image, "image preloaded"),
            Ok(Err(error)) => tracing::warn!(%image, %error, "cannot preload an image"),
            Err(_) => {
                tracing::warn!(%image, seconds = PRELOAD_TIME.as_secs(), "preloading an image takes too long");
            }
        }
    }
}

/// An executor that was started. Dropping it leaves it running, unless its backend says otherwise.
#[async_trait]
pub trait Running: fmt::Debug + Send + Sync {
    /// Returns what [`Backend::adopt`] and [`Backend::clear`] need to find it again after a crash of the miner.
    fn process(&self) -> Option<String>;

    /// Returns where its streaming clients find it, when that came out only at its start; else [`Backend::reach`] holds.
    fn address(&self) -> Option<IpAddr> {
        None
    }

    /// Waits until it has ended. Cancel-safe; may be asked again.
    async fn wait(&mut self) -> Exit;

    /// Ends it, if need be by force, and waits for its end; takes at most a few seconds longer than
    /// [`STOP_SECONDS`].
    async fn kill(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_is_told_the_profile_of_its_class_and_of_no_other() {
        let terms = Terms {
            miner_address: "ws://127.0.0.1:8000".to_owned(),
            startup_seconds: 5,
            owner: "o".to_owned(),
            no_gpu: false,
            profiles: vec![(ExecutorClass::AlwaysOnTest, Profile::Strict)],
        };
        let told = |class| {
            let order = ExecutorOrder {
                job: JobId::new("j"),
                class,
                slot: 0,
                token: "t".to_owned(),
                streaming_port: None,
                startup_seconds: None,
            };
            let variables = terms.environment(&order);
            let found = variables
                .into_iter()
                .find(|(name, _)| name == "HORDE_EXECUTOR_PROFILE");
            found.map(|(_, value)| value)
        };
        assert_eq!(told(ExecutorClass::AlwaysOnTest).as_deref(), Some("strict"));
        assert_eq!(told(ExecutorClass::AlwaysOnCpu8C16Gb), None);
    }
    #[test]
    fn a_port_is_told_by_the_order_and_by_no_setting_of_all_executors() {
        let terms = Terms {
            miner_address: "ws://127.0.0.1:8000".to_owned(),
            startup_seconds: 5,
            owner: "o".to_owned(),
            no_gpu: false,
            profiles: Vec::new(),
        };
        let told = |streaming_port| {
            let order = ExecutorOrder {
                job: JobId::new("j"),
                class: ExecutorClass::AlwaysOnTest,
                slot: 0,
                token: "t".to_owned(),
                streaming_port,
                startup_seconds: None,
            };
            let variables = terms.environment(&order);
            let found = variables.into_iter().find(|(name, _)| name == STREAMING_PORT);
            found.map(|(_, value)| value)
        };
        assert_eq!(told(Some(6001)).as_deref(), Some("6001"));
        assert_eq!(told(None), None);
        let environment =
            Environment::from_iter([(OWN_STREAMING_PORT, "7000"), ("HORDE_EXECUTOR_PROFILE", "live")]);
        let passed_on: Vec<_> = executor_settings(&environment).map(|(name, _)| name).collect();
        assert_eq!(passed_on, ["HORDE_EXECUTOR_PROFILE"]);
    }
}
