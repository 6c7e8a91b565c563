//! Executors as containers: the image that `horde executor image` makes, on a Docker engine
//! (wire-executor-miner §3).

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::capacity::Capacity;
use super::{
    Backend, ExecutorOrder, Exit, Running, STOP_SECONDS, StartError, Terms, executor_settings, preload_on,
};
use crate::core::config::Environment;
use crate::core::docker::limits::{
    BindMount, ContainerPath, ContainerPathError, ContainerSpec, Labels, Network, Role,
};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Alive, ContainerId, Engine, EngineError, Label, sweep, sweep_strays};

/// Where the image expects the engine's socket.
const SOCKET: &str = "/var/run/docker.sock";

/// The setting of the folder that host and container share under one name: the executor binds its job folders, which
/// lie in it, into containers of the host's engine.
const WORK_DIR: &str = "HORDE_EXECUTOR_WORK_DIR";

/// That folder when it is not set.
const SHARED_FOLDER: &str = "/tmp";

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
        let work_dir = environment.get(WORK_DIR).unwrap_or(SHARED_FOLDER);
        let mounts = vec![
            BindMount {
                source: socket,
                target: ContainerPath::parse(SOCKET)?,
            },
            BindMount {
                source: PathBuf::from(work_dir),
                target: ContainerPath::parse(work_dir)?,
            },
        ];
        let variables = executor_settings(environment)
            .filter(|(name, _)| name != DOCKER_HOST)
            .collect();
        Ok(Self {
            terms,
            image,
            variables,
            mounts,
            capacity: watch::Sender::new(capacity),
            engine,
        })
    }
}

#[async_trait]
impl Backend for ContainerBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let Some(image) = self.engine.find_image(&self.image).await? else {
            return Err(StartError::NoImage {
                image: self.image.as_str().to_owned(),
            });
        };
        let spec = ContainerSpec {
            name: order.token.clone(),
            image,
            command: self.terms.arguments(order).into(),
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

    async fn clear(&self, token: &str, _process: Option<&str>) -> Result<(), EngineError> {
        sweep(&*self.engine, Label::Token(token)).await.map(drop)
    }

    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, EngineError> {
        sweep_strays(&*self.engine, &self.terms.owner, is_alive).await
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
        if let Err(error) = sweep(&*self.engine, Label::Token(&self.token)).await {
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
