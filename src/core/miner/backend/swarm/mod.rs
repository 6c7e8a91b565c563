//! Executors as services of a Docker Swarm: many machines behind the engine of one manager, `miner.docker_host`.
//!
//! What a machine offers is written on its node, one label per class:
//!
//! ```text
//! docker node update --label-add horde.always_on.gpu-24gb=1 --label-add horde.always_on.test=2 NODE
//! ```
//!
//! Several classes on one node are fine. Each executor is a service of one container, pinned to the node of its slot
//! by `node.id`: the labels choose the node, and are no constraint of the service, since Swarm ends what runs as soon
//! as a label does not match any more, and to offer less must end nothing. An executor of a class with a GPU sets one
//! generic resource `NVIDIA-GPU` aside, so a node offers no more of them than it lists
//! (`--node-generic-resource NVIDIA-GPU=UUID` of dockerd); with `miner.no_gpu` that is not asked for. Clients of
//! streaming jobs are sent to the node's address as the manager knows it, or to the one in its label `horde.address`.
//!
//! A node counts while it is ready and active. `--availability pause` lets its executors finish; `drain`, and a node
//! that is down, end them. Every node needs the image under the name `miner.executor_image`: from a registry, or
//! loaded by hand, and then a dockerd with `DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1` does not look for it in one first.

mod board;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::sleep;

use self::board::Board;
use super::capacity::Capacity;
use super::container::{command, executor_mounts, executor_variables};
use super::{Backend, ClearError, ExecutorOrder, Exit, Reach, Running, STOP_SECONDS, StartError, Terms};
use crate::core::clock::Clock;
use crate::core::config::Environment;
use crate::core::docker::limits::{BindMount, ContainerPathError, Labels};
use crate::core::docker::reference::ImageReference;
use crate::core::docker::swarm::{ServiceOrder, Swarm, TaskStanding, service_name};
use crate::core::docker::{Alive, EngineError, Label};
use crate::core::model::ExecutorClass;
use crate::core::tasks::Tasks;

/// Where every node has its engine's socket.
const SOCKET: &str = "/var/run/docker.sock";

/// Time between two looks at an executor.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Starts executors as services of a swarm.
#[derive(Debug)]
pub struct SwarmBackend {
    terms: Terms,
    image: ImageReference,
    /// What executors are told besides the terms.
    variables: Vec<(String, String)>,
    mounts: Vec<BindMount>,
    board: Arc<Board>,
}

impl SwarmBackend {
    /// Makes the backend and looks at the nodes once; then looks on, as a task of `tasks`.
    ///
    /// A manager that does not answer is no error: it is asked again, and nothing is offered meanwhile.
    pub async fn open(
        terms: Terms,
        environment: &Environment,
        image: ImageReference,
        swarm: Arc<dyn Swarm>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, ContainerPathError> {
        let board = Arc::new(Board::new(swarm, clock, terms.no_gpu));
        board.look().await;
        tasks.spawn("watch swarm", Arc::clone(&board).watch(tasks.clone()));
        Ok(Self {
            image,
            variables: executor_variables(environment),
            mounts: executor_mounts(environment, PathBuf::from(SOCKET))?,
            terms,
            board,
        })
    }

    fn running(&self, order: &ExecutorOrder, node: String) -> Box<dyn Running> {
        Box::new(Service {
            name: service_name(&order.token),
            token: order.token.clone(),
            node,
            board: Arc::clone(&self.board),
            is_warned: false,
        })
    }

    async fn remove(&self, service: &str) -> Result<(), EngineError> {
        self.board.swarm.remove_service(service).await
    }
}

#[async_trait]
impl Backend for SwarmBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.board.capacity.subscribe()
    }

    fn reach(&self, class: ExecutorClass, slot: u32) -> Reach {
        Reach {
            // A port of the miner's range, so that executors of one node do not meet at the default.
            is_local: true,
            address: self.board.address(class, slot).map(|address| address.to_string()),
        }
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let Some(node) = self.board.node_of(order.class, order.slot) else {
            return Err(StartError::NoPlace { slot: order.slot });
        };
        let service = ServiceOrder {
            name: service_name(&order.token),
            node: node.clone(),
            image: self.image.clone(),
            command: command(self.terms.arguments(order)),
            env: [self.variables.clone(), self.terms.environment(order)].concat(),
            labels: Labels {
                owner: self.terms.owner.clone(),
                token: order.token.clone(),
                job: None,
            },
            mounts: self.mounts.clone(),
            gpus: u32::from(order.class.has_gpu() && !self.terms.no_gpu),
            grace_seconds: STOP_SECONDS,
        };
        self.board.swarm.create_service(&service).await?;
        Ok(self.running(order, node))
    }

    async fn adopt(&self, order: &ExecutorOrder, process: Option<&str>) -> Option<Box<dyn Running>> {
        let service = service_name(&order.token);
        match self.board.swarm.task(&service).await {
            Ok(Some(TaskStanding::Running | TaskStanding::Waiting(_))) => {}
            Ok(Some(TaskStanding::Ended { .. }) | None) => return None,
            Err(error) => {
                tracing::warn!(token = order.token, %error, "cannot look for an executor of a former life");
                return None;
            }
        }
        // Noted or not: its slot was on that node, and its labels have it.
        let node = match process {
            Some(node) => node.to_owned(),
            None => self.board.node_of(order.class, order.slot)?,
        };
        Some(self.running(order, node))
    }

    async fn clear(&self, token: &str, _process: Option<&str>) -> Result<(), ClearError> {
        let service = service_name(token);
        self.remove(&service).await?;
        if self.board.is_gone(&service).await? {
            return Ok(());
        }
        Err(ClearError::StillRuns {
            token: token.to_owned(),
        })
    }

    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        let mut count = 0;
        for service in self.board.swarm.services(Label::Owner(&self.terms.owner)).await? {
            // Asked after the list was made: who lives now lived when its service was listed, or is new.
            if service.token.as_deref().is_some_and(is_alive) {
                continue;
            }
            self.remove(&service.name).await?;
            tracing::info!(service = service.name, "removed a service that no executor knows");
            count += 1;
        }
        Ok(count)
    }
}

/// A service that runs an executor.
#[derive(Debug)]
struct Service {
    name: String,
    token: String,
    node: String,
    board: Arc<Board>,
    /// Whether the log holds already why it cannot be seen, or does not start.
    is_warned: bool,
}

impl Service {
    fn warn(&mut self, words: &str) {
        if !self.is_warned {
            self.is_warned = true;
            tracing::warn!(
                token = self.token,
                node = self.node,
                words,
                "an executor's service makes trouble"
            );
        }
    }

    async fn remove(&self) {
        if let Err(error) = self.board.swarm.remove_service(&self.name).await {
            tracing::warn!(token = self.token, %error, "cannot remove an executor's service; trying again in a minute");
        }
    }

    /// Looks once; returns how it ended, if it has.
    async fn look(&mut self) -> Option<Exit> {
        match self.board.swarm.task(&self.name).await {
            Ok(Some(TaskStanding::Ended { code: Some(code), .. })) => return Some(Exit::Code(code)),
            Ok(Some(TaskStanding::Ended { code: None, words })) => {
                let words = words.unwrap_or_default();
                tracing::error!(
                    token = self.token,
                    node = self.node,
                    words,
                    "an executor was not run"
                );
                return Some(Exit::Unknown);
            }
            Ok(None) => return Some(Exit::Unknown),
            Ok(Some(TaskStanding::Waiting(Some(words)))) => self.warn(&words),
            Ok(Some(TaskStanding::Waiting(None) | TaskStanding::Running)) => {}
            Err(error) => self.warn(&error.to_string()),
        }
        if self.board.is_lost(&self.node) {
            tracing::error!(
                token = self.token,
                node = self.node,
                "an executor is lost with its node"
            );
            return Some(Exit::Unknown);
        }
        None
    }
}

#[async_trait]
impl Running for Service {
    fn process(&self) -> Option<String> {
        Some(self.node.clone())
    }

    async fn wait(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.look().await {
                self.remove().await;
                return exit;
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    async fn kill(&mut self) {
        self.remove().await;
        if self.board.is_lost(&self.node) {
            return;
        }
        match self.board.is_gone(&self.name).await {
            Ok(true) => {}
            Ok(false) => tracing::error!(
                token = self.token,
                node = self.node,
                "an executor was removed and does not end: its machine may need a look"
            ),
            Err(error) => {
                tracing::warn!(token = self.token, %error, "cannot tell whether an executor has ended");
            }
        }
    }
}

#[cfg(test)]
mod tests;
