//! Removes job folders, also those with files of other users, which an executor without root may not remove itself.
//!
//! For these a container of our own image empties the folders, as root, seeing nothing else; only when it is needed.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::core::docker::image::ImageError;
use crate::core::docker::limits::{
    BindMount, ContainerPath, ContainerPathError, ContainerSpec, Labels, Network, Role,
};
use crate::core::docker::own::own_image;
use crate::core::docker::removal::{self, REMOVAL_PATIENCE};
use crate::core::docker::{ContainerId, Engine, EngineError};
use crate::core::transfer::folder::Folder;

use super::container::Identity;
use super::workspace::{Abandoned, Workspace, job_folders};

/// The most workspaces that one container empties; the next executor goes on.
const CLEANED_MAX: usize = 4;

/// How long the container may take: a million files on a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why folders were not emptied.
#[derive(Debug, thiserror::Error)]
enum CleanError {
    #[error("could not make the cleaner's image")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A bug.
    #[error(transparent)]
    Path(#[from] ContainerPathError),
    #[error("the folders were not empty after {} s", PATIENCE.as_secs())]
    TooSlow,
    #[error("the cleaner ended with {0}")]
    Failed(i64),
}

/// What is to be removed.
#[derive(Debug, Default)]
struct Folders {
    own: Option<Arc<Workspace>>,
    abandoned: Vec<Abandoned>,
}

/// Removes the job's folders, and those in `work_dir` of executors that were killed.
pub(super) async fn remove_folders(
    engine: &dyn Engine,
    identity: &Identity,
    own: Option<Arc<Workspace>>,
    work_dir: &Path,
) {
    let host_work_dir = own
        .as_ref()
        .and_then(|own| own.host_work_dir())
        .map(Path::to_owned);
    let work_dir = work_dir.to_owned();
    let Some(left) = blocking(move || Folders::find(own, &work_dir).remove()).await else {
        return;
    };
    let roots: Vec<_> = left.roots().take(CLEANED_MAX).collect();
    // Without a workspace of its own this executor does not know where the engine has the folders.
    if let (false, Some(host_work_dir)) = (roots.is_empty(), host_work_dir) {
        tracing::info!(
            count = roots.len(),
            "a job left files of other users: a container removes them"
        );
        if let Err(error) = empty(engine, identity, mounts(&roots, &host_work_dir)).await {
            let cause = error.source().map(ToString::to_string);
            tracing::error!(%error, cause, "could not empty job folders");
        }
    }
    // Whatever stays is named when it is tried again.
    let Some(left) = blocking(move || left.remove()).await else {
        return;
    };
    for root in left.roots() {
        tracing::error!(folder = %root.display(), "a job's folder holds files of other users, and is left");
    }
}

/// Removes everything in some folders, following no link: what the cleaner does inside its container. Blocks.
///
/// A folder that fails does not keep it from the others.
pub fn empty_folders(folders: &[PathBuf]) -> io::Result<()> {
    folders
        .iter()
        .map(|folder| Folder::open(folder)?.empty())
        .fold(Ok(()), Result::and)
}

impl Folders {
    fn find(own: Option<Arc<Workspace>>, work_dir: &Path) -> Self {
        let abandoned = Abandoned::find(work_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not look for folders of executors that were killed");
            Vec::new()
        });
        if !abandoned.is_empty() {
            let count = abandoned.len();
            tracing::info!(count, "found folders of executors that were killed");
        }
        Self { own, abandoned }
    }

    /// Removes what this process may remove; returns what holds files of other users.
    fn remove(mut self) -> Self {
        self.own = self.own.filter(|own| is_denied(own.root(), own.remove()));
        self.abandoned
            .retain(|abandoned| is_denied(abandoned.root(), abandoned.remove()));
        self
    }

    fn roots(&self) -> impl Iterator<Item = &Path> {
        let own = self.own.iter().map(|own| own.root());
        own.chain(self.abandoned.iter().map(Abandoned::root))
    }
}

/// Returns whether a removal failed because somebody else owns something.
fn is_denied(root: &Path, removed: io::Result<()>) -> bool {
    match removed {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "could not remove a job's folder");
            false
        }
    }
}

/// Returns what a cleaner sees: the folders that jobs wrote into, not those around them, which are this user's alone.
fn mounts(roots: &[&Path], host_work_dir: &Path) -> Vec<(PathBuf, String)> {
    let named = roots.iter().filter_map(|root| Some((root, root.file_name()?)));
    named
        .enumerate()
        .flat_map(|(number, (root, name))| {
            let on_host = host_work_dir.join(name);
            job_folders(root).map(move |folder| (on_host.join(folder), format!("/clean/{number}/{folder}")))
        })
        .collect()
}

/// Empties folders of the engine's host, each mounted where its second word says.
async fn empty(
    engine: &dyn Engine,
    identity: &Identity,
    folders: Vec<(PathBuf, String)>,
) -> Result<(), CleanError> {
    let mut command: Vec<_> = ["executor", "empty-folders"].map(str::to_owned).into();
    let mut mounts = Vec::new();
    for (source, target) in folders {
        mounts.push(BindMount {
            source,
            target: ContainerPath::parse(&target)?,
        });
        command.push(target);
    }
    let spec = ContainerSpec {
        name: format!("ch-{}-clean", identity.token),
        image: own_image(engine).await?,
        command,
        env: Vec::new(),
        labels: Labels {
            owner: identity.owner.clone(),
            token: identity.token.clone(),
            job: None,
        },
        mounts,
        network: Network::None,
        role: Role::Cleaner,
    };
    let container = engine.create(&spec).await?;
    let done = timeout(PATIENCE, run(engine, &container)).await;
    if let Err(error) = removal::remove(engine, &container, None, REMOVAL_PATIENCE).await {
        tracing::error!(%container, %error, "could not remove a cleaner");
    }
    match done {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(code)) => Err(CleanError::Failed(code)),
        Ok(Err(error)) => Err(error.into()),
        Err(_elapsed) => Err(CleanError::TooSlow),
    }
}

async fn run(engine: &dyn Engine, container: &ContainerId) -> Result<i64, EngineError> {
    engine.start(container).await?;
    engine.wait(container).await
}

/// Works on a thread that may block.
async fn blocking(work: impl FnOnce() -> Folders + Send + 'static) -> Option<Folders> {
    tokio::task::spawn_blocking(work)
        .await
        .inspect_err(|error| tracing::error!(%error, "could not remove job folders"))
        .ok()
}
