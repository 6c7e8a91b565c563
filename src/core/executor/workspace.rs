//! The folders of one job on the host.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::core::transfer::folder;

/// How often the removal of a folder is tried again when something was still being written into it.
const REMOVALS_MAX: usize = 5;

/// A job's folders, below one that only this user may enter; removed with everything in them.
///
/// The job's own folders are open to all, since its container may run as any user.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
    is_removed: bool,
}

impl Workspace {
    /// Makes the folders below `work_dir`, under a name that nobody else has.
    pub(super) fn create(work_dir: &Path) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("horde-executor-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(work_dir)?
            .keep();
        let workspace = Self {
            root,
            is_removed: false,
        };
        for (folder, mode) in [
            (workspace.volume(), 0o777),
            (workspace.output(), 0o777),
            (workspace.artifacts(), 0o777),
            (workspace.specs(), 0o755),
            (workspace.scratch(), 0o700),
        ] {
            fs::DirBuilder::new().mode(mode).create(&folder)?;
            // Again, since the process's mask applies to new folders.
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?;
        }
        Ok(workspace)
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

impl Drop for Workspace {
    /// The last resort, for an executor that was aborted.
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(folder = %self.root.display(), %error, "could not remove a job's folder");
        }
    }
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
}
