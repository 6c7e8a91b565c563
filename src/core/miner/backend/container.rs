//! Executors as containers: the image that `horde executor image` makes, on a Docker engine
//! (wire-executor-miner §3).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use super::capacity::Capacity;
use super::{
    Backend, ClearError, ExecutorOrder, Exit, Running, STOP_SECONDS, StartError, Terms, executor_settings,
    preload_on,
};
use crate::core::config::Environment;
use crate::core::docker::limits::{
    BindMount, ContainerPath, ContainerPathError, ContainerSpec, Labels, Network, Role,
};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Alive, ContainerId, Engine, EngineError, ImageId, Label, sweep, sweep_strays};

/// Where the image expects the engine's socket.
const SOCKET: &str = "/var/run/docker.sock";

/// The setting of the folder that host and container share under one name: the executor binds its job folders, which
/// lie in it, into containers of the host's engine.
const WORK_DIR: &str = "HORDE_EXECUTOR_WORK_DIR";

/// That folder when it is not set.
const SHARED_FOLDER: &str = "/tmp";

/// Longest pull of the executor's image: 300 s (wire-executor-miner §3).
const PULL_TIME: Duration = Duration::from_secs(300);

/// The setting of the executor's engine; in the container it is where the image expects it.
const DOCKER_HOST: &str = "HORDE_EXECUTOR_DOCKER_HOST";

/// Starts executors as containers.
#[derive(Debug)]
pub struct ContainerBackend {
    terms: Terms,
    image: ImageReference,
    /// What executors are told besides the terms.
    variables: Vec<(String, String)>,
    mounts: Vec<BindMount>,
    capacity: watch::Sender<Capacity>,
    engine: Arc<dyn Engine>,
}

impl ContainerBackend {
    /// Makes the backend; `socket` is where the host has the engine's socket.
    ///
    /// The executors' own settings of the miner's environment are theirs too.
    pub fn new(
        terms: Terms,
        environment: &Environment,
        capacity: Capacity,
        image: ImageReference,
        socket: PathBuf,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, ContainerPathError> {
        Ok(Self {
            terms,
            image,
            variables: executor_variables(environment),
            mounts: executor_mounts(environment, socket)?,
            capacity: watch::Sender::new(capacity),
            engine,
        })
    }

    /// Returns the image, pulled if the engine does not hold it and it is one of a registry.
    async fn find_image(&self) -> Result<ImageId, StartError> {
        let image = self.image.as_str().to_owned();
        if let Some(found) = self.engine.find_image(&self.image).await? {
            return Ok(found);
        }
        if !is_of_registry(&image) {
            return Err(StartError::NoImage { image });
        }
        tracing::info!(image, "pulling the executor's image");
        let reason = match timeout(PULL_TIME, self.engine.pull(&self.image)).await {
            Ok(Ok(())) => match self.engine.find_image(&self.image).await? {
                Some(found) => return Ok(found),
                None => "it is not there afterwards".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done within {} s", PULL_TIME.as_secs()),
        };
        Err(StartError::Pull { image, reason })
    }

    /// Pulls the image anew, if it came from a registry.
    pub(super) async fn refresh_image(&self) -> Result<(), EngineError> {
        let held = self.engine.inspect_image(&self.image).await?;
        if held.is_none_or(|facts| facts.digests.is_empty()) {
            return Ok(());
        }
        match timeout(PULL_TIME, self.engine.pull(&self.image)).await {
            Ok(pulled) => pulled,
            Err(_) => Err(EngineError::Broken {
                action: "pull the image",
                message: format!("not done within {} s", PULL_TIME.as_secs()),
            }),
        }
    }
}

/// Tells whether an image may be asked for at a registry. A bare name never is: our own image is made on the engine,
/// and what a public registry has under its name is not ours.
fn is_of_registry(image: &str) -> bool {
    image.contains('/')
}

/// Removes what an executor made, and what the reference's executor calls by names instead of labels.
async fn clear_up(engine: &dyn Engine, token: &str) -> Result<(), EngineError> {
    sweep(engine, Label::Token(token)).await?;
    // Tokens are ours and unguessable, so these names are nobody else's (wire-executor-miner §3, §6).
    for name in [
        token.to_owned(),
        format!("ch-{token}-job"),
        format!("ch-{token}-nginx"),
    ] {
        engine.remove(&ContainerId::new(name)).await?;
    }
    engine.remove_network(&format!("ch-{token}")).await
}

/// Returns the command of an executor: the one that the reference's image takes, and ours as well.
pub(super) fn command(arguments: [String; 4]) -> Vec<String> {
    let [_, _, limit, seconds] = arguments;
    let words = ["python", "manage.py", "run_executor"].map(str::to_owned);
    words.into_iter().chain([limit, seconds]).collect()
}

/// Returns what executors in containers are told of a miner's environment.
pub(super) fn executor_variables(environment: &Environment) -> Vec<(String, String)> {
    executor_settings(environment)
        .filter(|(name, _)| name != DOCKER_HOST)
        .collect()
}

/// Returns what executors in containers see of their host's files; `socket` is where it has its engine's socket.
pub(super) fn executor_mounts(
    environment: &Environment,
    socket: PathBuf,
) -> Result<Vec<BindMount>, ContainerPathError> {
    let work_dir = environment.get(WORK_DIR).unwrap_or(SHARED_FOLDER);
    Ok(vec![
        BindMount {
            source: socket,
            target: ContainerPath::parse(SOCKET)?,
        },
        BindMount {
            source: PathBuf::from(work_dir),
            target: ContainerPath::parse(work_dir)?,
        },
    ])
}

#[async_trait]
impl Backend for ContainerBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let image = self.find_image().await?;
        let spec = ContainerSpec {
            name: order.token.clone(),
            image,
            command: command(self.terms.arguments(order)),
            env: [self.variables.clone(), self.terms.environment(order)].concat(),
            labels: Labels {
                owner: self.terms.owner.clone(),
                token: order.token.clone(),
                job: None,
            },
            mounts: self.mounts.clone(),
            network: Network::Bridge,
            role: Role::Executor,
        };
        let container = self.engine.create(&spec).await?;
        if let Err(error) = self.engine.start(&container).await {
            // The start is what failed; a container that cannot be removed either is found by its label.
            if let Err(error) = self.engine.remove(&container).await {
                tracing::warn!(%container, %error, "cannot remove an executor that did not start");
            }
            return Err(error.into());
        }
        Ok(Box::new(Container {
            id: container,
            token: order.token.clone(),
            engine: Arc::clone(&self.engine),
        }))
    }

    async fn adopt(&self, order: &ExecutorOrder, _process: Option<&str>) -> Option<Box<dyn Running>> {
        let found = match self.engine.list(Label::Token(&order.token)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(token = order.token, %error, "cannot look for an executor of a former life");
                return None;
            }
        };
        // The others are those that it made.
        let executor = found
            .into_iter()
            .find(|container| container.name == order.token && container.is_running)?;
        Some(Box::new(Container {
            id: executor.id,
            token: order.token.clone(),
            engine: Arc::clone(&self.engine),
        }))
    }

    async fn clear(&self, token: &str, _process: Option<&str>) -> Result<(), ClearError> {
        Ok(clear_up(&*self.engine, token).await?)
    }

    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        Ok(sweep_strays(&*self.engine, &self.terms.owner, is_alive).await?)
    }

    async fn preload(&self, images: &[ImageReference]) {
        preload_on(&*self.engine, images).await;
    }
}

/// A container that runs an executor.
#[derive(Debug)]
struct Container {
    id: ContainerId,
    token: String,
    engine: Arc<dyn Engine>,
}

#[async_trait]
impl Running for Container {
    fn process(&self) -> Option<String> {
        None
    }

    async fn wait(&mut self) -> Exit {
        match self.engine.wait(&self.id).await {
            Ok(code) => Exit::Code(code),
            // The engine removes it when it ends.
            Err(EngineError::NotFound { .. }) => Exit::Unknown,
            Err(error) => {
                tracing::warn!(token = self.token, %error, "lost sight of an executor");
                self.kill().await;
                Exit::Unknown
            }
        }
    }

    async fn kill(&mut self) {
        if let Err(error) = self.engine.stop(&self.id, STOP_SECONDS).await {
            tracing::warn!(token = self.token, %error, "cannot stop an executor");
        }
        if let Err(error) = clear_up(&*self.engine, &self.token).await {
            tracing::warn!(token = self.token, %error, "cannot remove what an executor left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_in_containers_get_their_settings_and_the_folder_that_they_work_in() {
        let environment = Environment::from_iter([
            ("PATH", "/bin"),
            ("HORDE_WALLET_URI", "//Bob"),
            ("HORDE_EXECUTOR_WORK_DIR", "/data/jobs"),
            ("HORDE_EXECUTOR_DOCKER_HOST", "unix:///run/other.sock"),
            ("HORDE_EXECUTOR_ACCEPT", "CVE-1"),
            ("VOLUME_MAX_SIZE_BYTES", "1"),
        ]);
        let terms = Terms {
            miner_address: "ws://172.17.0.1:8000".to_owned(),
            startup_seconds: 5,
            owner: "o".to_owned(),
            no_gpu: false,
            profiles: Vec::new(),
        };
        let engine = Arc::new(crate::core::docker::engine::Bollard::new("/run/no.sock").unwrap());
        let image = ImageReference::parse("horde-executor:latest").unwrap();
        let socket = PathBuf::from("/run/docker.sock");
        let backend =
            ContainerBackend::new(terms, &environment, Capacity::default(), image, socket, engine).unwrap();
        let names: Vec<_> = backend.variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "HORDE_EXECUTOR_ACCEPT",
                "HORDE_EXECUTOR_WORK_DIR",
                "VOLUME_MAX_SIZE_BYTES"
            ]
        );
        let targets: Vec<_> = backend.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/var/run/docker.sock", "/data/jobs"]);
        assert_eq!(backend.mounts[1].source, PathBuf::from("/data/jobs"));
    }
}
