//! A folder held by descriptor: everything below it is reached without following a link.
//!
//! A job may have planted anything in the folders that it could write: links to the host's files, pipes that never
//! answer, trees deeper than any path. Nothing here trusts a name twice.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::path::{DEPTH_MAX, RelativePath};

/// The most entries that a walk looks at, whatever they are.
const WALK_ENTRIES_MAX: usize = 1_000_000;

/// How many names of a folder are held in memory at once while it is emptied.
const BATCH_ENTRIES_MAX: usize = 50_000;

/// Everyone may do everything: the job may run as any user.
const OPEN_TO_ALL: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// A folder held open.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// A regular file found by [`Folder::walk`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundFile {
    /// Where it is below the walked folder.
    pub path: RelativePath,
    /// Its size in bytes when it was found.
    pub bytes: u64,
}

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// The regular files, sorted by path.
    pub files: Vec<FoundFile>,
    /// How many entries were passed over: links, pipes, devices, names that are not text, folders too deep.
    pub passed_over: usize,
}

/// What is directly in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Names that are text.
    pub plain: Vec<RelativePath>,
    /// Names that are none, with what is no text replaced.
    pub odd: Vec<String>,
    /// How many entries there are besides.
    pub more: usize,
}

/// Why a file of a job could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing of that name.
    #[error("file not found: {0}")]
    NotFound(RelativePath),
    /// A folder, link, pipe or device, or the way to it leads over a link.
    #[error("not a regular file: {0}")]
    NotAFile(RelativePath),
    /// The job took the right to read it away, and we are not root.
    #[error("no right to read: {0}")]
    Denied(RelativePath),
    /// The file system failed.
    #[error("could not open {path}")]
    Failed {
        /// The file.
        path: RelativePath,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl Folder {
    /// Opens a folder of ours.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, folder_flags(), Mode::empty())?))
    }

    /// Returns a second handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Creates or empties a file that anyone may use, with the folders on its way.
    pub fn create(&self, path: &RelativePath) -> io::Result<File> {
        let (folders, name) = path.split();
        let parent = self.make_way(folders)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent.as_fd(), name, flags, OPEN_TO_ALL)?;
        // Again, since the process's mask applies to new files.
        rustix::fs::fchmod(&file, OPEN_TO_ALL)?;
        Ok(File::from(file))
    }

    /// Makes a folder that anyone may use, with the folders on its way; one that is there is fine.
    pub fn make_folder(&self, path: &RelativePath) -> io::Result<Self> {
        self.make_way(path.as_str().split('/')).map(Self)
    }

    fn make_way<'a>(&self, parts: impl Iterator<Item = &'a str>) -> io::Result<OwnedFd> {
        let mut here = self.0.try_clone()?;
        for part in parts {
            let made = match rustix::fs::mkdirat(&here, part, OPEN_TO_ALL) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            here = rustix::fs::openat(&here, part, folder_flags(), Mode::empty())?;
            if made {
                rustix::fs::fchmod(&here, OPEN_TO_ALL)?;
            }
        }
        Ok(here)
    }

    fn descend<'a>(&self, parts: impl Iterator<Item = &'a str>) -> rustix::io::Result<OwnedFd> {
        let mut here = rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?;
        for part in parts {
            here = rustix::fs::openat(&here, part, folder_flags(), Mode::empty())?;
        }
        Ok(here)
    }

    /// Opens a regular file for reading.
    pub fn read(&self, path: &RelativePath) -> Result<File, OpenError> {
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT => OpenError::NotFound(path.clone()),
            // A link where a file or folder should be: ELOOP with O_NOFOLLOW, ENOTDIR with O_DIRECTORY.
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::NXIO => {
                OpenError::NotAFile(path.clone())
            }
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => OpenError::Denied(path.clone()),
            other => OpenError::Failed {
                path: path.clone(),
                source: other.into(),
            },
        };
        let (folders, name) = path.split();
        let here = self.descend(folders).map_err(failed)?;
        // Asked first, since to open a device may do something; asked again below, since a name may change hands.
        let status = rustix::fs::statat(&here, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(OpenError::NotAFile(path.clone()));
        }
        // Without blocking, since a pipe would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&here, name, flags, Mode::empty()).map_err(failed)?;
        let status = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(OpenError::NotAFile(path.clone()));
        }
        Ok(File::from(file))
    }

    /// Returns how many bytes the file system has left for us.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let facts = rustix::fs::fstatvfs(&self.0)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    /// Lists the regular files below this folder; everything else is passed over and counted.
    ///
    /// Fails when there are more than `files_max` files, or more than a million entries of any kind.
    pub fn walk(&self, files_max: usize) -> io::Result<Result<Walk, TooManyFiles>> {
        let mut walk = Walk::default();
        let mut entries = 0;
        // Paths rather than descriptors wait, since a tree may be wider than a process's descriptors are many.
        let mut waiting: Vec<Option<RelativePath>> = vec![None];
        while let Some(base) = waiting.pop() {
            let parts = base.iter().flat_map(|base| base.as_str().split('/'));
            let folder = self.descend(parts)?;
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                entries += 1;
                if entries > WALK_ENTRIES_MAX {
                    return Ok(Err(TooManyFiles {
                        max: WALK_ENTRIES_MAX,
                    }));
                }
                let path = name
                    .to_str()
                    .ok()
                    .and_then(|name| RelativePath::parse(name).ok())
                    .and_then(|name| name.below(base.as_ref()).ok());
                let status = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match (path, FileType::from_raw_mode(status.st_mode)) {
                    (Some(path), FileType::RegularFile) => {
                        if walk.files.len() >= files_max {
                            return Ok(Err(TooManyFiles { max: files_max }));
                        }
                        let bytes = u64::try_from(status.st_size).unwrap_or(0);
                        walk.files.push(FoundFile { path, bytes });
                    }
                    (Some(path), FileType::Directory) if path.as_str().split('/').count() < DEPTH_MAX => {
                        waiting.push(Some(path));
                    }
                    (Some(_) | None, _) => walk.passed_over += 1,
                }
            }
        }
        walk.files.sort();
        Ok(Ok(walk))
    }

    /// Lists the names of the first `names_max` entries directly in this folder, sorted.
    pub fn names(&self, names_max: usize) -> io::Result<Names> {
        let mut names = Names::default();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if names.plain.len() + names.odd.len() >= names_max {
                names.more += 1;
                if names.more >= WALK_ENTRIES_MAX {
                    break;
                }
                continue;
            }
            match name.to_str().ok().and_then(|name| RelativePath::parse(name).ok()) {
                Some(name) => names.plain.push(name),
                None => names.odd.push(name.to_string_lossy().into_owned()),
            }
        }
        names.plain.sort();
        names.odd.sort();
        Ok(names)
    }

    /// Moves a file of ours to `name` in this folder, in place of whatever is there.
    pub fn replace(&self, file: &Path, name: &RelativePath) -> io::Result<()> {
        match rustix::fs::renameat(rustix::fs::CWD, file, &self.0, name.as_str()) {
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {
                // The job made a folder of that name.
                let inner = rustix::fs::openat(&self.0, name.as_str(), folder_flags(), Mode::empty())?;
                Self(inner).empty()?;
                rustix::fs::unlinkat(&self.0, name.as_str(), AtFlags::REMOVEDIR)?;
                Ok(rustix::fs::renameat(
                    rustix::fs::CWD,
                    file,
                    &self.0,
                    name.as_str(),
                )?)
            }
            result => Ok(result?),
        }
    }

    /// Removes everything in this folder, however deep; a link is removed, never followed.
    ///
    /// Folders are moved up before they are emptied, so neither the depth of a tree nor the length of its paths
    /// costs descriptors or stack.
    pub fn empty(&self) -> io::Result<()> {
        let mut moved = 0_u64;
        loop {
            let mut found = false;
            // Collected first: removing while reading may skip entries, hence the outer loop as well.
            let names: Vec<_> = entries(&self.0)?;
            for (name, kind) in names {
                found = true;
                if kind != FileType::Directory {
                    gone(rustix::fs::unlinkat(&self.0, name.as_c_str(), AtFlags::empty()))?;
                    continue;
                }
                if gone(rustix::fs::unlinkat(&self.0, name.as_c_str(), AtFlags::REMOVEDIR)).is_ok() {
                    continue;
                }
                let inner = rustix::fs::openat(&self.0, name.as_c_str(), folder_flags(), Mode::empty())?;
                // A job may have taken its own rights away.
                if let Err(error) = rustix::fs::fchmod(&inner, OPEN_TO_ALL) {
                    tracing::debug!(%error, "could not open up a folder that is to be removed");
                }
                for (inner_name, inner_kind) in entries(&inner)? {
                    if inner_kind != FileType::Directory {
                        gone(rustix::fs::unlinkat(
                            &inner,
                            inner_name.as_c_str(),
                            AtFlags::empty(),
                        ))?;
                        continue;
                    }
                    loop {
                        moved += 1;
                        let target = format!(".horde-removed-{moved}");
                        match rustix::fs::renameat(&inner, inner_name.as_c_str(), &self.0, target.as_str()) {
                            Ok(()) | Err(rustix::io::Errno::NOENT) => break,
                            Err(
                                rustix::io::Errno::EXIST
                                | rustix::io::Errno::NOTEMPTY
                                | rustix::io::Errno::NOTDIR
                                | rustix::io::Errno::ISDIR,
                            ) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
            }
            if !found {
                return Ok(());
            }
        }
    }
}

/// More files than a walk may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are more than {max} files")]
pub struct TooManyFiles {
    /// The bound that was passed.
    pub max: usize,
}

/// Empties and removes a folder of ours, by path; one that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    // Who may not look into an empty folder may remove it all the same.
    if rustix::fs::rmdir(path).is_ok() {
        return Ok(());
    }
    match Folder::open(path) {
        Ok(folder) => folder.empty()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    std::fs::remove_dir(path)
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn entries(folder: &OwnedFd) -> io::Result<Vec<(std::ffi::CString, FileType)>> {
    let mut found = Vec::new();
    // The rest is found by the next round.
    for entry in Dir::read_from(folder)?.take(BATCH_ENTRIES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            known => known,
        };
        found.push((name.to_owned(), kind));
    }
    Ok(found)
}

fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::parse(text).unwrap()
    }

    #[test]
    fn a_created_file_is_open_to_all_with_the_folders_on_its_way() {
        let outside = tempfile::tempdir().unwrap();
        let folder = Folder::open(outside.path()).unwrap();
        folder
            .create(&path("a/b/c.txt"))
            .unwrap()
            .write_all(b"x")
            .unwrap();
        for name in ["a", "a/b", "a/b/c.txt"] {
            let mode = fs::metadata(outside.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o777, "{name}");
        }
    }

    #[test]
    fn a_planted_link_is_neither_written_nor_read_through() {
        let outside = tempfile::tempdir().unwrap();
        let host = outside.path().join("host");
        fs::create_dir_all(host.join("etc")).unwrap();
        fs::write(host.join("secret"), "secret").unwrap();
        let jail = outside.path().join("jail");
        fs::create_dir(&jail).unwrap();
        symlink(host.join("secret"), jail.join("file")).unwrap();
        symlink(&host, jail.join("folder")).unwrap();
        let folder = Folder::open(&jail).unwrap();
        assert!(matches!(folder.read(&path("file")), Err(OpenError::NotAFile(_))));
        assert!(matches!(
            folder.read(&path("folder/secret")),
            Err(OpenError::NotAFile(_))
        ));
        assert!(matches!(folder.read(&path("none")), Err(OpenError::NotFound(_))));
        assert!(folder.create(&path("file")).is_err());
        assert!(folder.create(&path("folder/new")).is_err());
        let walk = folder.walk(10).unwrap().unwrap();
        assert_eq!((walk.files.len(), walk.passed_over), (0, 2));
        assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), "secret");
    }

    #[test]
    fn a_pipe_or_socket_is_no_file_and_does_not_block() {
        let outside = tempfile::tempdir().unwrap();
        let pipe = outside.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(outside.path().join("socket")).unwrap();
        let folder = Folder::open(outside.path()).unwrap();
        for name in ["pipe", "socket"] {
            assert!(
                matches!(folder.read(&path(name)), Err(OpenError::NotAFile(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_walk_finds_regular_files_sorted_and_counts_them() {
        let outside = tempfile::tempdir().unwrap();
        let folder = Folder::open(outside.path()).unwrap();
        for name in ["b/c", "a", "b/a"] {
            folder
                .create(&path(name))
                .unwrap()
                .write_all(name.as_bytes())
                .unwrap();
        }
        let found = folder.walk(3).unwrap().unwrap();
        let names: Vec<_> = found
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.bytes))
            .collect();
        assert_eq!(names, [("a", 1), ("b/a", 3), ("b/c", 3)]);
        assert_eq!(folder.walk(2).unwrap(), Err(TooManyFiles { max: 2 }));
    }

    #[test]
    fn emptying_removes_links_and_trees_deeper_than_any_path_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        let host = outside.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("keep"), "k").unwrap();
        let jail = outside.path().join("jail");
        fs::create_dir(&jail).unwrap();
        symlink(&host, jail.join("link")).unwrap();
        fs::write(jail.join(".horde-removed-1"), "a job that guesses names").unwrap();
        let mut deep = Folder::open(&jail).unwrap();
        for _ in 0..3000 {
            symlink(&host, jail.join("x")).ok();
            deep = deep.make_folder(&path("d")).unwrap();
        }
        deep.create(&path("leaf")).unwrap();
        drop(deep);
        remove(&jail).unwrap();
        assert!(!jail.exists());
        assert_eq!(fs::read_to_string(host.join("keep")).unwrap(), "k");
    }

    #[test]
    fn a_file_of_ours_takes_the_place_of_a_planted_link_or_folder() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("target"), "host").unwrap();
        let jail = outside.path().join("jail");
        fs::create_dir_all(jail.join("stderr.txt/deep")).unwrap();
        symlink(outside.path().join("target"), jail.join("stdout.txt")).unwrap();
        let folder = Folder::open(&jail).unwrap();
        for name in ["stdout.txt", "stderr.txt"] {
            let ours = outside.path().join("ours");
            fs::write(&ours, "ours").unwrap();
            folder.replace(&ours, &path(name)).unwrap();
            let mut text = String::new();
            folder
                .read(&path(name))
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "ours");
        }
        assert_eq!(fs::read_to_string(outside.path().join("target")).unwrap(), "host");
    }
}
