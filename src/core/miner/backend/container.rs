//! Executors as containers: the image that `horde executor image` makes, on a Docker engine
//! (wire-executor-miner §3).

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, ExecutorOrder, Exit, Running, STOP_SECONDS, StartError, Terms};
use crate::core::docker::limits::{
    BindMount, ContainerPath, ContainerPathError, ContainerSpec, Labels, Network, Role,
};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{ContainerId, Engine, EngineError, Label, sweep};

/// Where the image expects the engine's socket.
const SOCKET: &str = "/var/run/docker.sock";

/// The folder that host and container share under one name: the executor binds its job folders, which lie in it,
/// into containers of the host's engine.
const SHARED_FOLDER: &str = "/tmp";

/// Starts executors as containers.
#[derive(Debug)]
pub struct ContainerBackend {
    terms: Terms,
    image: ImageReference,
    mounts: Vec<BindMount>,
    engine: Arc<dyn Engine>,
}

impl ContainerBackend {
    /// Makes the backend; `socket` is where the host has the engine's socket.
    pub fn new(
        terms: Terms,
        image: ImageReference,
        socket: PathBuf,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, ContainerPathError> {
        let mounts = vec![
            BindMount {
                source: socket,
                target: ContainerPath::parse(SOCKET)?,
            },
            BindMount {
                source: PathBuf::from(SHARED_FOLDER),
                target: ContainerPath::parse(SHARED_FOLDER)?,
            },
        ];
        Ok(Self {
            terms,
            image,
            mounts,
            engine,
        })
    }
}

#[async_trait]
impl Backend for ContainerBackend {
    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let Some(image) = self.engine.find_image(&self.image).await? else {
            return Err(StartError::NoImage {
                image: self.image.as_str().to_owned(),
            });
        };
        let spec = ContainerSpec {
            name: order.token.clone(),
            image,
            command: self.terms.arguments().into(),
            env: self.terms.environment(&order.token),
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

    async fn clear(&self, token: &str, _process: Option<&str>) -> Result<(), EngineError> {
        sweep(&*self.engine, Label::Token(token)).await.map(drop)
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
