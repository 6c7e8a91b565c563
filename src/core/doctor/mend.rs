//! What can be put right without risk: a directory that is missing, a private file that others may read.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mend {
    /// Make a directory for its owner alone, and those above it that are missing.
    MakeDirectory(PathBuf),
    /// Take access from everybody but the owner.
    MakePrivate {
        /// The file or directory.
        path: PathBuf,
        /// The mode that it gets.
        mode: u32,
    },
}

impl Mend {
    /// Does it; blocks.
    pub fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::MakeDirectory(path) => fs::DirBuilder::new().recursive(true).mode(0o700).create(path),
            Self::MakePrivate { path, mode } => fs::set_permissions(path, fs::Permissions::from_mode(*mode)),
        }
    }
}

impl fmt::Display for Mend {
    /// As in `made the directory /data`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeDirectory(path) => write!(f, "made the directory {}", path.display()),
            Self::MakePrivate { path, mode } => write!(f, "set the mode of {} to {mode:04o}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_and_files_made_private_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let inner = folder.path().join("a/b");
        Mend::MakeDirectory(inner.clone()).carry_out().unwrap();
        assert_eq!(mode(&inner), 0o700);
        let path = inner.join("key");
        fs::write(&path, "").unwrap();
        let mend = Mend::MakePrivate {
            path: path.clone(),
            mode: 0o600,
        };
        mend.carry_out().unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(mend.to_string().ends_with("key to 0600"));
        assert!(
            Mend::MakeDirectory(path.join("below/a/file"))
                .carry_out()
                .is_err()
        );
    }
}
