//! The folders of one job on the host.
//!
//! Each workspace holds a lock while its executor lives. The kernel drops it with the process, however that ends,
//! so the next executor sees which folders nobody will come back for ([`Workspace::sweep`]).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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

/// A job's folders, below one that only this user may enter; removed with everything in them.
///
/// The job's own folders are open to all, since its container may run as any user.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
    /// The root as the engine's host has it, once that is known to differ.
    host_root: OnceLock<PathBuf>,
    _lock: OwnedFd,
    is_removed: bool,
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
            is_removed: false,
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

    /// Removes the workspaces in `work_dir` whose executors were killed, and returns how many; blocks.
    ///
    /// Only folders of this user that bear our name and a lock that nobody holds.
    pub(super) fn sweep(work_dir: &Path) -> io::Result<usize> {
        let this_user = rustix::process::geteuid().as_raw();
        let mut count = 0;
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
            if is_ours && is_abandoned(&entry.path()) {
                folder::remove(&entry.path())?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The folder that holds all others.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Notes where the engine's host has the root; the first word counts.
    pub(super) fn settle(&self, host_root: PathBuf) {
        self.host_root.get_or_init(|| host_root);
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
        self.root.join("volume")
    }

    /// The folder mounted at `/output/`.
    pub(super) fn output(&self) -> PathBuf {
        self.root.join("output")
    }

    /// The folder mounted where the job wants its artifacts.
    pub(super) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// The folder mounted at `/specs/`; never filled.
    pub(super) fn specs(&self) -> PathBuf {
        self.root.join("specs")
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
    pub(super) fn remove(&mut self) -> io::Result<()> {
        if self.is_removed {
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            match folder::remove(&self.root) {
                Ok(()) => break,
                // A download that was cut short may write one more file.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < REMOVALS_MAX => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.is_removed = true;
        Ok(())
    }
}

/// Returns whether a workspace has a lock and nobody holds it.
fn is_abandoned(workspace: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(workspace.join(LOCK), flags, Mode::empty()) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => false,
    }
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
        let mut workspace = Workspace::create(outside.path()).unwrap();
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
        assert_eq!(Workspace::sweep(outside.path()).unwrap(), 1);
        assert!(!killed.exists() && held.output().exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 5);
    }
}
