//! The end of a container, proven: the engine has forgotten it and the kernel runs nothing of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cgroup::Cgroup;
use super::{ContainerId, Engine, EngineError};

/// The longest that a container may take to be gone once its removal is asked for. Engines take some ten
/// milliseconds, and seconds under load; what takes longer has a disk or a driver that hangs.
pub const REMOVAL_PATIENCE: Duration = Duration::from_secs(30);

/// Shortest and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// Why a container is not known to be gone.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The engine does not remove it.
    #[error("could not remove the container {container} within {} s", patience.as_secs())]
    Refused {
        /// The container.
        container: ContainerId,
        /// How long it was tried.
        patience: Duration,
        /// What the engine said last.
        #[source]
        source: EngineError,
    },
    /// The engine says that it removes it, and still lists it.
    #[error("the engine keeps the container {container} {} s after its removal was asked for", patience.as_secs())]
    Stays {
        /// The container.
        container: ContainerId,
        /// How long it was tried.
        patience: Duration,
    },
    /// It is gone, its processes are not.
    #[error("the container {container} is gone, but its control group {} still holds the processes {processes}", group.display())]
    Populated {
        /// The container.
        container: ContainerId,
        /// The folder of the group.
        group: PathBuf,
        /// The numbers of the processes.
        processes: String,
    },
    /// Its control group cannot be read.
    #[error("could not look into the control group of the container {container}")]
    Unreadable {
        /// The container.
        container: ContainerId,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Kills and removes a container, and returns when the engine has forgotten it and its control group is empty.
///
/// Tried again with growing pauses for `patience`. Without a group, which cannot be seen from inside another
/// container, the engine's word counts.
pub async fn remove(
    engine: &dyn Engine,
    container: &ContainerId,
    cgroup: Option<&Cgroup>,
    patience: Duration,
) -> Result<(), RemovalError> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSES.0;
    loop {
        let error = match attempt(engine, container, cgroup, patience).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn attempt(
    engine: &dyn Engine,
    container: &ContainerId,
    cgroup: Option<&Cgroup>,
    patience: Duration,
) -> Result<(), RemovalError> {
    let refused = |source| RemovalError::Refused {
        container: container.clone(),
        patience,
        source,
    };
    engine.remove(container).await.map_err(refused)?;
    if engine.inspect(container).await.map_err(refused)?.is_some() {
        return Err(RemovalError::Stays {
            container: container.clone(),
            patience,
        });
    }
    let left = cgroup.map_or(Ok(None), Cgroup::left);
    match left {
        Ok(None) => Ok(()),
        Ok(Some(left)) => Err(RemovalError::Populated {
            container: container.clone(),
            group: left.group,
            processes: left.processes.trim().replace('\n', " "),
        }),
        Err(source) => Err(RemovalError::Unreadable {
            container: container.clone(),
            source,
        }),
    }
}
