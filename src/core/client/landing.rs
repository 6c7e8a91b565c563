//! A folder of the user's in which files land whose names come from strangers.
//!
//! Names are parsed before they are used and walked descriptor by descriptor without following a link, so that nothing
//! is written outside. A file comes to its name whole: until then it lies beside it under a name of ours, with a note of
//! what it is the beginning of.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::core::transfer::path::{PathError, RelativePath};

/// The longest note that is read, in bytes.
const NOTE_BYTES_MAX: u64 = 4096;

/// How our own names begin; a stranger's file of such a name could pass for the beginning of another.
const OWN: &str = ".horde-";

/// Why a file cannot land.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandingError {
    /// The name leads elsewhere, or nowhere.
    #[error("its name was refused")]
    Name(#[from] PathError),
    /// The name is one of those under which files lie that are not whole.
    #[error("{0} is a name that this program keeps to itself")]
    Own(RelativePath),
    /// Something of that name is there.
    #[error("{0} is there already")]
    Taken(RelativePath),
    /// Our own disk.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: RelativePath,
        /// What the operating system says.
        source: io::Error,
    },
}

/// A folder held open.
#[derive(Debug)]
pub struct Landing {
    folder: OwnedFd,
    replaces: bool,
}

/// A file that is not whole yet.
#[derive(Debug)]
pub struct Part {
    path: RelativePath,
    parent: OwnedFd,
    file: File,
    replaces: bool,
}

impl Landing {
    /// Makes and opens the folder; `replaces` tells whether files that are there give way.
    pub fn open(path: &Path, replaces: bool) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let folder = rustix::fs::open(path, folder_flags(), Mode::empty())?;
        Ok(Self { folder, replaces })
    }

    /// Begins a file, or takes up one that was begun; fails at once if its name is taken.
    ///
    /// A leading slash, which paths of a container have, is left out.
    pub fn begin(&self, name: &str) -> Result<Part, LandingError> {
        let path = RelativePath::parse(name.trim_start_matches('/'))?;
        if path.as_str().split('/').any(|part| part.starts_with(OWN)) {
            return Err(LandingError::Own(path));
        }
        self.begin_at(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LandingError::Taken(path.clone()),
            _ => LandingError::Write {
                path: path.clone(),
                source,
            },
        })
    }

    fn begin_at(&self, path: &RelativePath) -> io::Result<Part> {
        let (folders, name) = path.split();
        let mut parent = self.folder.try_clone()?;
        for folder in folders {
            match rustix::fs::mkdirat(&parent, folder, Mode::from(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            parent = rustix::fs::openat(&parent, folder, folder_flags(), Mode::empty())?;
        }
        if !self.replaces {
            match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &parent,
            part_name(path),
            flags,
            Mode::from(0o666),
        )?);
        // Somebody may have put a pipe there.
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Part {
            path: path.clone(),
            parent,
            file,
            replaces: self.replaces,
        })
    }

    /// Writes a whole file.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<RelativePath, LandingError> {
        let mut part = self.begin(name)?;
        part.restart("").map_err(|source| part.failed(source))?;
        part.append(content).map_err(|source| part.failed(source))?;
        part.finish()
    }
}

impl Part {
    /// Returns where the file will be.
    pub fn path(&self) -> &RelativePath {
        &self.path
    }

    /// Returns how much of the file is there, and of what it is the beginning; 0 if nobody knows.
    pub fn begun(&self) -> io::Result<(u64, String)> {
        let Ok(note) = self.open_note(OFlags::RDONLY) else {
            return Ok((0, String::new()));
        };
        let mut text = String::new();
        note.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
        let bytes = if text.is_empty() {
            0
        } else {
            self.file.metadata()?.len()
        };
        Ok((bytes, text))
    }

    /// Empties the file and notes of what it will be the beginning; an empty note keeps it from being taken up.
    pub fn restart(&mut self, note: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut file = self.open_note(OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(note.as_bytes())
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(bytes)
    }

    /// Returns the file from its beginning, for those who check it; blocks.
    pub fn content(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<RelativePath, LandingError> {
        match self.rename() {
            Ok(()) => Ok(self.path),
            Err(Errno::EXIST) => Err(LandingError::Taken(self.path)),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    fn rename(&self) -> Result<(), Errno> {
        let (_, name) = self.path.split();
        let flags = if self.replaces {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        rustix::fs::renameat_with(&self.parent, part_name(&self.path), &self.parent, name, flags)?;
        self.remove(&note_name(&self.path));
        Ok(())
    }

    /// Removes what is there of the file: it is not what it should be.
    pub fn discard(self) {
        for name in [part_name(&self.path), note_name(&self.path)] {
            self.remove(&name);
        }
    }

    fn remove(&self, name: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.parent, name, AtFlags::empty()) {
            tracing::debug!(name, %error, "could not remove what is left of a download");
        }
    }

    /// Wraps an error of our own disk.
    pub fn failed(&self, source: io::Error) -> LandingError {
        LandingError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn open_note(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let note = rustix::fs::openat(&self.parent, note_name(&self.path), flags, Mode::from(0o600))?;
        Ok(File::from(note))
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// A name of fixed length, since the file's own may be as long as names can be.
fn short_name(path: &RelativePath) -> String {
    let digest = hex::encode(Sha256::digest(path.as_str().as_bytes()));
    digest.chars().take(16).collect()
}

fn part_name(path: &RelativePath) -> String {
    format!("{OWN}{}.part", short_name(path))
}

fn note_name(path: &RelativePath) -> String {
    format!("{OWN}{}.note", short_name(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_outside_whatever_the_name() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let target = home.path().join("to");
        let landing = Landing::open(&target, true).unwrap();
        symlink(&outside, target.join("link")).unwrap();
        symlink(outside.join("file"), target.join("leaf")).unwrap();
        for name in [
            "../x",
            "a/../../x",
            "",
            "/",
            "a//b",
            "link/x",
            "a\0b",
            "..",
            ".horde-1.part",
        ] {
            assert!(landing.write(name, b"x").is_err(), "{name:?}");
        }
        // A link is replaced, not followed.
        landing.write("leaf", b"x").unwrap();
        assert_eq!(fs::read(target.join("leaf")).unwrap(), b"x");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        landing.write("/etc/passwd", b"x").unwrap();
        assert!(target.join("etc/passwd").exists());
    }

    #[test]
    fn what_is_there_gives_way_only_if_it_is_told_to() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("a"), "old").unwrap();
        let careful = Landing::open(home.path(), false).unwrap();
        assert!(matches!(careful.write("a", b"new"), Err(LandingError::Taken(_))));
        assert_eq!(fs::read(home.path().join("a")).unwrap(), b"old");
        // Also if it came while the file was under way.
        let mut part = careful.begin("b").unwrap();
        part.append(b"new").unwrap();
        fs::write(home.path().join("b"), "old").unwrap();
        assert!(matches!(part.finish(), Err(LandingError::Taken(_))));
        Landing::open(home.path(), true)
            .unwrap()
            .write("a", b"new")
            .unwrap();
        assert_eq!(fs::read(home.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_was_begun_is_taken_up_if_it_is_known_what_it_is() {
        let home = tempfile::tempdir().unwrap();
        let landing = Landing::open(home.path(), false).unwrap();
        let name = "n".repeat(255);
        let mut part = landing.begin(&name).unwrap();
        assert_eq!(part.begun().unwrap(), (0, String::new()));
        part.restart("tag").unwrap();
        part.append(b"abc").unwrap();
        drop(part);
        let mut part = landing.begin(&name).unwrap();
        assert_eq!(part.begun().unwrap(), (3, "tag".to_owned()));
        part.append(b"def").unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read(home.path().join(&name)).unwrap(), b"abcdef");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        let mut part = landing.begin("other").unwrap();
        part.restart("").unwrap();
        part.append(b"abc").unwrap();
        drop(part);
        assert_eq!(landing.begin("other").unwrap().begun().unwrap().0, 0);
    }
}
