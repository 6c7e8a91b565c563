//! Inline volumes: files and folders of the user's machine, packed into the request.

use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Seek, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Most bytes of a packed volume (704 KiB): as base64 it must fit the validator's frame of 1 MiB beside the job's other
/// texts.
pub const PACKED_BYTES_MAX: usize = 704 * 1024;

/// Most bytes that are read to be packed (64 MiB); far more than can be expected to fit.
pub const READ_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Most files of a packed volume.
pub const FILES_MAX: usize = 10_000;

/// Most bytes of a folder that is packed to be uploaded (625 GiB: what an upload takes).
pub const FOLDER_BYTES_MAX: u64 = 625 * 1024 * 1024 * 1024;

/// Most files of a folder that is packed to be uploaded.
pub const FOLDER_FILES_MAX: usize = 1_000_000;

/// Why a file or folder could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", path.display())]
    Odd {
        /// What it is.
        path: PathBuf,
    },
    /// Its name cannot stand in a zip.
    #[error("the name of {} is not UTF-8", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// It is too large.
    #[error("{} has more than {limit} {unit}", path.display())]
    TooLarge {
        /// What was packed.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The zip cannot be written.
    #[error("cannot write the zip")]
    Zip(#[from] ZipError),
}

struct Packer<'a, W: Write + Seek> {
    zip: ZipWriter<W>,
    root: PathBuf,
    bytes: u64,
    files: usize,
    bytes_max: u64,
    files_max: usize,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// Packs a file under the name `name`, or a folder's content under its own names, and returns base64 of the zip, which
/// has at most `room` bytes; [`PACKED_BYTES_MAX`] is the most that can be.
///
/// Links are followed, since they mean nothing on another machine; other things than files and folders are refused.
/// Blocks.
pub fn pack(source: &Path, name: Option<&str>, room: usize) -> Result<String, PackError> {
    let room = room.min(PACKED_BYTES_MAX);
    let mut packer = Packer {
        zip: ZipWriter::new(Cursor::new(Vec::new())),
        root: source.to_owned(),
        bytes: 0,
        files: 0,
        bytes_max: READ_BYTES_MAX,
        files_max: FILES_MAX,
        progress: &|_| {},
    };
    packer.add(source, name)?;
    let zip = packer.zip.finish()?.into_inner();
    if zip.len() > room {
        return Err(PackError::TooLarge {
            path: source.to_owned(),
            limit: u64::try_from(room).unwrap_or(u64::MAX),
            unit: "bytes packed",
        });
    }
    Ok(STANDARD.encode(zip))
}

/// Packs a folder's content into `file`; `progress` hears of bytes that were read. Blocks.
///
/// The same folder gives the same zip.
pub fn pack_into(source: &Path, file: File, progress: &(dyn Fn(u64) + Sync)) -> Result<(), PackError> {
    let mut packer = Packer {
        zip: ZipWriter::new(BufWriter::new(file)),
        root: source.to_owned(),
        bytes: 0,
        files: 0,
        bytes_max: FOLDER_BYTES_MAX,
        files_max: FOLDER_FILES_MAX,
        progress,
    };
    packer.add(source, None)?;
    let mut out = packer.zip.finish()?;
    out.flush().map_err(|error| PackError::Zip(error.into()))
}

/// Folders inside one another that are packed; a link that leads back to its own folder ends there.
const DEPTH_MAX: usize = 64;

impl<W: Write + Seek> Packer<'_, W> {
    fn add(&mut self, source: &Path, name: Option<&str>) -> Result<(), PackError> {
        let kind = fs::metadata(source).map_err(|error| read_error(source, error))?;
        if kind.is_dir() {
            return self.add_folder(source, "", 0);
        }
        let name = match name {
            Some(name) => name,
            None => file_name(source)?,
        };
        self.add_file(source, name)
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), PackError> {
        if depth > DEPTH_MAX {
            return Err(self.too_large(u64::try_from(DEPTH_MAX).unwrap_or(u64::MAX), "levels of folders"));
        }
        let entries = fs::read_dir(folder).map_err(|error| read_error(folder, error))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| read_error(folder, error))?;
        // The same folder gives the same zip.
        paths.sort();
        for path in paths {
            let name = format!("{prefix}{}", file_name(&path)?);
            let kind = fs::metadata(&path).map_err(|error| read_error(&path, error))?;
            if kind.is_dir() {
                let name = format!("{name}/");
                self.zip.add_directory(name.as_str(), options())?;
                self.add_folder(&path, &name, depth + 1)?;
            } else {
                self.add_file(&path, &name)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, name: &str) -> Result<(), PackError> {
        let failed = |error| read_error(path, error);
        let facts = fs::metadata(path).map_err(failed)?;
        // Opening a pipe would wait for its writer.
        if !facts.is_file() {
            return Err(PackError::Odd {
                path: path.to_owned(),
            });
        }
        self.files += 1;
        if self.files > self.files_max {
            return Err(self.too_large(u64::try_from(self.files_max).unwrap_or(u64::MAX), "files"));
        }
        let mut file = File::open(path).map_err(failed)?;
        // Four bytes of size are not enough for every file.
        let is_large = facts.len() >= u64::from(u32::MAX);
        let options = options().unix_permissions(mode(&facts)).large_file(is_large);
        self.zip.start_file(name, options)?;
        let room = self.bytes_max.saturating_sub(self.bytes);
        let mut limited = io::Read::take(&mut file, room.saturating_add(1));
        let copied = io::copy(&mut limited, &mut self.zip).map_err(failed)?;
        self.zip.flush().map_err(failed)?;
        self.bytes = self.bytes.saturating_add(copied);
        if copied > room {
            return Err(self.too_large(self.bytes_max, "bytes"));
        }
        (self.progress)(copied);
        Ok(())
    }

    fn too_large(&self, limit: u64, unit: &'static str) -> PackError {
        PackError::TooLarge {
            path: self.root.clone(),
            limit,
            unit,
        }
    }
}

fn options() -> SimpleFileOptions {
    // The beginning of a zip's time: what is packed twice is the same twice.
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
}

fn mode(facts: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&facts.permissions()) & 0o777
}

fn file_name(path: &Path) -> Result<&str, PackError> {
    path.file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| PackError::Name {
            path: path.to_owned(),
        })
}

fn read_error(path: &Path, source: io::Error) -> PackError {
    PackError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = PACKED_BYTES_MAX;

    fn names(packed: &str) -> Vec<String> {
        let zip = STANDARD.decode(packed).unwrap();
        let archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        archive.file_names().map(str::to_owned).collect()
    }

    #[test]
    fn a_file_is_packed_under_the_name_that_it_shall_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "hello").unwrap();
        assert_eq!(names(&pack(&path, Some("b.txt"), ROOM).unwrap()), ["b.txt"]);
        assert_eq!(names(&pack(&path, None, ROOM).unwrap()), ["a.txt"]);
    }

    #[test]
    fn a_folder_is_packed_with_what_is_in_it_and_twice_the_same() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/x"), "x").unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        let packed = pack(folder.path(), None, ROOM).unwrap();
        let mut found = names(&packed);
        found.sort();
        assert_eq!(found, ["a", "d/", "d/x"]);
        assert_eq!(pack(folder.path(), None, ROOM).unwrap(), packed);
        let out = tempfile::NamedTempFile::new().unwrap();
        pack_into(folder.path(), out.reopen().unwrap(), &|_| {}).unwrap();
        assert_eq!(STANDARD.encode(fs::read(out.path()).unwrap()), packed);
        assert!(matches!(
            pack(folder.path(), None, 10),
            Err(PackError::TooLarge { limit: 10, .. })
        ));
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            pack(&folder.path().join("none"), None, ROOM),
            Err(PackError::Read { .. })
        ));
        assert!(matches!(
            pack(Path::new("/dev/null"), None, ROOM),
            Err(PackError::Odd { .. })
        ));
        let noise: Vec<u8> = (0..PACKED_BYTES_MAX + 1024).map(|_| rand::random()).collect();
        let path = folder.path().join("noise");
        fs::write(&path, noise).unwrap();
        assert!(matches!(pack(&path, None, ROOM), Err(PackError::TooLarge { .. })));
        // A link back to its own folder has no end.
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        fs::remove_file(path).unwrap();
        assert!(pack(folder.path(), None, ROOM).is_err());
    }
}
