//! The folders of one job on the host.
//!
//! Each workspace holds a lock while its executor lives. The kernel drops it with the process, however that ends,
//! so the next executor sees which folders nobody will come back for ([`Abandoned`]).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::core::transfer::folder;

use super::streaming::Folders;

/// How often the removal of a folder is tried again when something was still being written into it.
const REMOVALS_MAX: usize = 5;

/// How the names of workspaces begin.
const PREFIX: &str = "horde-executor-";

/// The file that an executor keeps locked.
const LOCK: &str = "lock";

/// The name of that file until it is locked.
const UNLOCKED: &str = "lock.new";

/// The folders that a job may write into.
const JOB_FOLDERS: [&str; 4] = [VOLUME, OUTPUT, ARTIFACTS, SPECS];

const VOLUME: &str = "volume";
const OUTPUT: &str = "output";
const ARTIFACTS: &str = "artifacts";
const SPECS: &str = "specs";

/// Workspaces of killed executors that one executor looks after; the next goes on.
const ABANDONED_MAX: usize = 64;

/// A job's folders, below one that only this user may enter; removed with everything in them.
///
/// The job's own folders are open to all, since its container may run as any user.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
    /// The root as the engine's host has it, once that is known to differ.
    host_root: OnceLock<PathBuf>,
    _lock: OwnedFd,
    is_removed: AtomicBool,
}

/// The workspace of an executor that was killed, held so that no other executor removes it meanwhile.
#[derive(Debug)]
pub(super) struct Abandoned {
    root: PathBuf,
    _lock: OwnedFd,
}

impl Workspace {
    /// Makes the folders below `work_dir`, under a name that nobody else has.
    pub(super) fn create(work_dir: &Path) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(work_dir)?
            .keep();
        // Locked before it has its name, so that nobody ever finds it unlocked while this process lives.
        let lock = OwnedFd::from(fs::File::create_new(root.join(UNLOCKED))?);
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(root.join(UNLOCKED), root.join(LOCK))?;
        let workspace = Self {
            root,
            host_root: OnceLock::new(),
            _lock: lock,
            is_removed: AtomicBool::new(false),
        };
        for (folder, mode) in [
            (workspace.volume(), 0o777),
            (workspace.output(), 0o777),
            (workspace.artifacts(), 0o777),
            (workspace.specs(), 0o755),
            (workspace.scratch(), 0o700),
        ] {
            open_folder(&folder, mode)?;
        }
        Ok(workspace)
    }

    /// The folder that holds all others.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Notes where the engine's host has the root; the first word counts.
    pub(super) fn settle(&self, host_root: PathBuf) {
        self.host_root.get_or_init(|| host_root);
    }

    /// The folder around this workspace and those of other executors, as the engine's host has it, once known.
    pub(super) fn host_work_dir(&self) -> Option<&Path> {
        self.host_root.get()?.parent()
    }

    /// Returns a path of the workspace as the engine's host has it.
    pub(super) fn on_host(&self, path: PathBuf) -> PathBuf {
        match (self.host_root.get(), path.strip_prefix(&self.root)) {
            (Some(host_root), Ok(rest)) => host_root.join(rest),
            (None, _) | (_, Err(_)) => path,
        }
    }

    /// The folder mounted at `/volume/`.
    pub(super) fn volume(&self) -> PathBuf {
        self.root.join(VOLUME)
    }

    /// The folder mounted at `/output/`.
    pub(super) fn output(&self) -> PathBuf {
        self.root.join(OUTPUT)
    }

    /// The folder mounted where the job wants its artifacts.
    pub(super) fn artifacts(&self) -> PathBuf {
        self.root.join(ARTIFACTS)
    }

    /// The folder mounted at `/specs/`; never filled.
    pub(super) fn specs(&self) -> PathBuf {
        self.root.join(SPECS)
    }

    /// A folder that no container sees: zips on their way, streams as they come.
    pub(super) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// Makes the folders for the sockets of a streaming job's helpers, which no job sees.
    ///
    /// Open to all, since on an engine that maps users a helper is somebody else; the folder around them is not.
    pub(super) fn helper_folders(&self) -> io::Result<Folders> {
        let folders = ["relay", "front"].map(|name| self.root.join(name));
        for folder in &folders {
            open_folder(folder, 0o777)?;
        }
        let [relay, front] = folders;
        Ok(Folders { relay, front })
    }

    /// The file mounted at `/script.py`.
    pub(super) fn script(&self) -> PathBuf {
        self.root.join("script.py")
    }

    /// Removes everything; blocks. Follows no link, whatever the job left behind.
    pub(super) fn remove(&self) -> io::Result<()> {
        if !self.is_removed.load(Ordering::Acquire) {
            remove(&self.root)?;
            self.is_removed.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl Abandoned {
    /// Finds the workspaces in `work_dir` whose executors were killed; blocks.
    ///
    /// Only folders of this user that bear our name and a lock that nobody holds.
    pub(super) fn find(work_dir: &Path) -> io::Result<Vec<Self>> {
        let this_user = rustix::process::geteuid().as_raw();
        let mut found = Vec::new();
        for entry in fs::read_dir(work_dir)? {
            let entry = entry?;
            let facts = match entry.metadata() {
                Ok(facts) => facts,
                // Its executor was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_ours = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PREFIX.as_bytes())
                && facts.is_dir()
                && facts.uid() == this_user;
            if is_ours && let Some(lock) = take_over(&entry.path()) {
                found.push(Self {
                    root: entry.path(),
                    _lock: lock,
                });
            }
            if found.len() >= ABANDONED_MAX {
                break;
            }
        }
        Ok(found)
    }

    /// The folder that holds all others.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes everything; blocks. Follows no link.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.root)
    }
}

/// Returns the folders of a workspace that a job may have written into, by name.
pub(super) fn job_folders(root: &Path) -> impl Iterator<Item = &'static str> {
    let is_there = |name: &&str| fs::symlink_metadata(root.join(name)).is_ok_and(|facts| facts.is_dir());
    JOB_FOLDERS.into_iter().filter(is_there)
}

fn remove(root: &Path) -> io::Result<()> {
    let mut attempt = 1;
    loop {
        // What may fail first: as long as it does, the lock is there to be found by the next executor.
        let removed = JOB_FOLDERS
            .iter()
            .try_for_each(|name| folder::remove(&root.join(name)))
            .and_then(|()| folder::remove(root));
        match removed {
            // A download that was cut short may write one more file.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < REMOVALS_MAX => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Takes the lock of a workspace when it has one and nobody holds it.
fn take_over(workspace: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = rustix::fs::open(workspace.join(LOCK), flags, Mode::empty()).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(lock)
}

impl Drop for Workspace {
    /// The last resort, for an executor that was aborted.
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(folder = %self.root.display(), %error, "could not remove a job's folder");
        }
    }
}

fn open_folder(folder: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(folder)?;
    // Again, since the process's mask applies to new folders.
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_open_to_the_job_below_one_that_is_not_and_go_with_it() {
        let outside = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let workspace = Workspace::create(outside.path()).unwrap();
        assert_eq!(mode(&workspace.root), 0o700);
        assert_eq!(mode(&workspace.volume()), 0o777);
        assert_eq!(mode(&workspace.specs()), 0o755);
        fs::write(workspace.output().join("x"), "x").unwrap();
        workspace.remove().unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        drop(Workspace::create(outside.path()).unwrap());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_engine_is_told_the_paths_of_its_own_host() {
        let outside = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(outside.path()).unwrap();
        assert_eq!(workspace.on_host(workspace.volume()), workspace.volume());
        workspace.settle("/srv/jobs/x".into());
        assert_eq!(
            workspace.on_host(workspace.volume()),
            Path::new("/srv/jobs/x/volume")
        );
        assert_eq!(workspace.on_host("/elsewhere".into()), Path::new("/elsewhere"));
    }

    #[test]
    fn only_workspaces_that_nobody_holds_any_more_are_swept_away() {
        let outside = tempfile::tempdir().unwrap();
        let held = Workspace::create(outside.path()).unwrap();
        let killed = outside.path().join("horde-executor-killed");
        fs::create_dir_all(killed.join("output/deep")).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        for other in ["horde-executor-beginning", "horde-executor", "other"] {
            fs::create_dir(outside.path().join(other)).unwrap();
        }
        std::os::unix::fs::symlink(
            outside.path().join("other"),
            outside.path().join("horde-executor-link"),
        )
        .unwrap();
        let abandoned = Abandoned::find(outside.path()).unwrap();
        let roots: Vec<_> = abandoned.iter().map(Abandoned::root).collect();
        assert_eq!(roots, [&killed]);
        assert_eq!(Abandoned::find(outside.path()).unwrap().len(), 0, "it is held");
        abandoned[0].remove().unwrap();
        assert!(!killed.exists() && held.output().exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 5);
    }
}
