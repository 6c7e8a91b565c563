//! Unpacking a stranger's zip.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zip::ZipArchive;
use zip::result::ZipError;

use super::folder::Folder;
use super::path::{PathError, RelativePath};

/// How much is unpacked between two looks at the budget and at whether anyone still waits, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;

/// The end of a zip in which its directory can be announced: the record of 22 bytes and a comment of 65 535.
const TAIL_BYTES: u64 = 22 + 65_535 + ZIP64_LOCATOR_BYTES;

/// The record before the last that points to the large directory's own record.
const ZIP64_LOCATOR_BYTES: u64 = 20;

/// The most that the library may read before it knows an archive's entries, in bytes.
///
/// It looks for the directory backwards through the whole file and keeps all of it in memory, so this bounds both,
/// whatever the records in the file's end pretend. A directory of [`UnzipBudget::entries_max`] entries with long
/// names fits.
const DIRECTORY_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// What an archive may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnzipBudget {
    /// The most bytes that all entries together unpack to.
    pub bytes_max: u64,
    /// The most entries.
    pub entries_max: u64,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnzipError {
    /// It is no zip, or a damaged one.
    #[error("the volume is not a valid zip file: {0}")]
    NotAZip(String),
    /// It uses what we do not read.
    #[error("the zip file needs {0}, which is not supported")]
    Unsupported(String),
    /// It has too many entries.
    #[error("the zip file has more than {max} entries")]
    TooManyEntries {
        /// The bound.
        max: u64,
    },
    /// It unpacks to too much.
    #[error("the zip file unpacks to more than {max} bytes")]
    TooLarge {
        /// The bound.
        max: u64,
    },
    /// An entry would land elsewhere.
    #[error("refused an entry of the zip file")]
    BadEntry(#[source] PathError),
    /// An entry is a link or a device.
    #[error("the zip entry `{0}` is neither a file nor a folder")]
    NotAFile(String),
    /// Two entries have one name.
    #[error("the zip entry `{0}` occurs twice or is both a file and a folder")]
    Duplicate(String),
    /// Nobody waits for it any more.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// Our own disk failed.
    #[error("could not write an unpacked file")]
    Disk(#[source] io::Error),
}

/// Unpacks `archive` into `folder`, below `base` if given. Blocks; looks at `cancelled` often.
pub fn unzip<R: Read + Seek>(
    mut archive: R,
    folder: &Folder,
    base: Option<&RelativePath>,
    budget: UnzipBudget,
    cancelled: &AtomicBool,
) -> Result<(), UnzipError> {
    let too_many = UnzipError::TooManyEntries {
        max: budget.entries_max,
    };
    // Asked before the library reads the directory, which it keeps in memory.
    if announced_entries(&mut archive).map_err(|error| UnzipError::NotAZip(error.to_string()))?
        > budget.entries_max
    {
        return Err(too_many);
    }
    let left = Arc::new(AtomicU64::new(DIRECTORY_BYTES_MAX));
    let metered = Metered {
        inner: archive,
        left: Arc::clone(&left),
    };
    let mut archive = ZipArchive::new(metered).map_err(not_a_zip)?;
    left.store(u64::MAX, Ordering::Relaxed);
    if u64::try_from(archive.len()).unwrap_or(u64::MAX) > budget.entries_max {
        return Err(too_many);
    }
    if let Some(base) = base {
        folder.make_folder(base).map_err(UnzipError::Disk)?;
    }
    let mut seen = HashSet::new();
    let mut left = budget.bytes_max;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(not_a_zip)?;
        let Some(path) = RelativePath::parse_entry(entry.name()).map_err(UnzipError::BadEntry)? else {
            continue;
        };
        let path = path.below(base).map_err(UnzipError::BadEntry)?;
        let is_plain = entry
            .unix_mode()
            .is_none_or(|mode| matches!(mode & 0o170_000, 0 | 0o040_000 | 0o100_000));
        if entry.is_symlink() || !is_plain {
            return Err(UnzipError::NotAFile(path.to_string()));
        }
        if entry.is_dir() {
            folder.make_folder(&path).map_err(|error| writing(error, &path))?;
            continue;
        }
        if !seen.insert(path.clone()) {
            return Err(UnzipError::Duplicate(path.to_string()));
        }
        let mut file = folder.create(&path).map_err(|error| writing(error, &path))?;
        left = copy(&mut entry, &mut file, left, cancelled)?.ok_or(UnzipError::TooLarge {
            max: budget.bytes_max,
        })?;
    }
    Ok(())
}

/// A reader that fails once it has given as much as it may.
struct Metered<R> {
    inner: R,
    left: Arc<AtomicU64>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed);
        let Some(rest) = left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) else {
            return Err(io::Error::other("its directory is too large"));
        };
        if left != u64::MAX {
            self.left.store(rest, Ordering::Relaxed);
        }
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

/// Copies an entry; returns what is left of the budget, or nothing when it did not suffice.
fn copy(
    entry: &mut impl Read,
    file: &mut impl Write,
    mut left: u64,
    cancelled: &AtomicBool,
) -> Result<Option<u64>, UnzipError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(UnzipError::Cancelled);
        }
        let count = match entry.read(&mut buffer) {
            Ok(0) => return Ok(Some(left)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnzipError::NotAZip(error.to_string())),
        };
        match left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
            Some(rest) => left = rest,
            None => return Ok(None),
        }
        file.write_all(buffer.get(..count).unwrap_or_default())
            .map_err(UnzipError::Disk)?;
    }
}

fn not_a_zip(error: ZipError) -> UnzipError {
    match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) | ZipError::InvalidPassword => {
            UnzipError::Unsupported("a password".to_owned())
        }
        ZipError::UnsupportedArchive(what) => UnzipError::Unsupported(what.to_owned()),
        ZipError::CompressionMethodNotSupported(method) => {
            UnzipError::Unsupported(format!("compression method {method}"))
        }
        other => UnzipError::NotAZip(other.to_string()),
    }
}

/// A name that is already a folder, or lies in what is already a file, is the archive's contradiction, not ours.
fn writing(error: io::Error, path: &RelativePath) -> UnzipError {
    match error.kind() {
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => UnzipError::Duplicate(path.to_string()),
        _ => UnzipError::Disk(error),
    }
}

/// Returns the largest number of entries that any directory record in the archive's end announces.
///
/// The old record has 16 bits for it; only the large one, found through its locator, can announce more.
fn announced_entries<R: Read + Seek>(archive: &mut R) -> io::Result<u64> {
    let length = archive.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(TAIL_BYTES);
    archive.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    archive.by_ref().take(TAIL_BYTES).read_to_end(&mut tail)?;
    let mut most = 0;
    for (at, window) in tail.windows(16).enumerate() {
        let number = |from: usize| -> u64 {
            let bytes = window.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        if window.starts_with(b"PK\x05\x06") {
            let entries = window
                .get(10..12)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u16::from_le_bytes);
            most = most.max(if entries == u16::MAX {
                0
            } else {
                u64::from(entries)
            });
        } else if window.starts_with(b"PK\x06\x07") {
            most = most.max(zip64_entries(archive, number(8))?);
        } else if window.starts_with(b"PK\x06\x06") {
            // Found without its locator, for archives with something in front that shifts all offsets.
            most = most.max(zip64_entries(
                archive,
                start.saturating_add(u64::try_from(at).unwrap_or(0)),
            )?);
        }
    }
    archive.seek(SeekFrom::Start(0))?;
    Ok(most)
}

fn zip64_entries<R: Read + Seek>(archive: &mut R, at: u64) -> io::Result<u64> {
    if i64::try_from(at).is_err() {
        return Ok(0);
    }
    archive.seek(SeekFrom::Start(at))?;
    let mut record = Vec::new();
    archive.by_ref().take(40).read_to_end(&mut record)?;
    let is_record = record.starts_with(b"PK\x06\x06");
    let entries = record
        .get(32..40)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    Ok(entries.filter(|_| is_record).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const BUDGET: UnzipBudget = UnzipBudget {
        bytes_max: 1000,
        entries_max: 10,
    };

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            let options = SimpleFileOptions::default();
            if name.ends_with('/') {
                writer.add_directory(*name, options).unwrap();
            } else {
                writer.start_file(*name, options).unwrap();
                writer.write_all(content).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    }

    fn unpack(bytes: &[u8], base: Option<&str>) -> (tempfile::TempDir, Result<(), UnzipError>) {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("jail")).unwrap();
        let folder = Folder::open(&outside.path().join("jail")).unwrap();
        let base = base.map(|base| RelativePath::parse(base).unwrap());
        let result = unzip(
            Cursor::new(bytes),
            &folder,
            base.as_ref(),
            BUDGET,
            &AtomicBool::new(false),
        );
        (outside, result)
    }

    #[test]
    fn files_and_folders_are_unpacked_below_the_base() {
        let bytes = archive(&[("d/", b""), ("d/x", b"1"), ("./in.txt", b"hi there\n")]);
        let (outside, result) = unpack(&bytes, Some("sub/dir"));
        result.unwrap();
        let read = |name: &str| fs::read_to_string(outside.path().join("jail/sub/dir").join(name)).unwrap();
        assert_eq!(
            (read("d/x"), read("in.txt")),
            ("1".to_owned(), "hi there\n".to_owned())
        );
    }

    #[test]
    fn what_is_no_zip_is_said_to_be_none() {
        for bytes in [&b""[..], b"not a zip", b"PK\x05\x06", &[0; 100]] {
            let (_outside, result) = unpack(bytes, None);
            assert!(matches!(result, Err(UnzipError::NotAZip(_))), "{result:?}");
        }
    }

    #[test]
    fn an_entry_that_leaves_the_folder_is_refused_and_writes_nothing_outside() {
        for name in ["../escaped", "/escaped", "a/../../escaped"] {
            let (outside, result) = unpack(&archive(&[(name, b"x")]), None);
            assert!(
                matches!(result, Err(UnzipError::BadEntry(_))),
                "{name}: {result:?}"
            );
            assert!(!outside.path().join("escaped").exists());
        }
    }

    #[test]
    fn a_link_is_refused() {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer
            .add_symlink("link", "/etc/passwd", SimpleFileOptions::default())
            .unwrap();
        let (_outside, result) = unpack(&writer.finish().unwrap().into_inner(), None);
        assert!(matches!(result, Err(UnzipError::NotAFile(_))), "{result:?}");
    }

    #[test]
    fn a_zip_over_its_budgets_is_refused() {
        let (_outside, result) = unpack(&archive(&[("zeros", &[0; 1001])]), None);
        assert!(
            matches!(result, Err(UnzipError::TooLarge { max: 1000 })),
            "{result:?}"
        );
        let (_outside, result) = unpack(&archive(&[("a", &[0; 600]), ("b", &[0; 600])]), None);
        assert!(matches!(result, Err(UnzipError::TooLarge { .. })), "{result:?}");
        let names: Vec<String> = (0..11).map(|number| number.to_string()).collect();
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let (_outside, result) = unpack(&archive(&entries), None);
        assert!(
            matches!(result, Err(UnzipError::TooManyEntries { max: 10 })),
            "{result:?}"
        );
    }

    #[test]
    fn a_name_that_is_both_file_and_folder_is_refused() {
        let (_outside, result) = unpack(&archive(&[("a", b"1"), ("a/b", b"2")]), None);
        assert!(matches!(result, Err(UnzipError::Duplicate(_))), "{result:?}");
    }

    #[test]
    fn nobody_waiting_ends_the_work() {
        let outside = tempfile::tempdir().unwrap();
        let folder = Folder::open(outside.path()).unwrap();
        let bytes = archive(&[("a", b"1")]);
        let result = unzip(Cursor::new(bytes), &folder, None, BUDGET, &AtomicBool::new(true));
        assert!(matches!(result, Err(UnzipError::Cancelled)), "{result:?}");
    }

    #[test]
    fn a_directory_beyond_all_bounds_is_not_read_to_its_end() {
        // Larger than the bound and without any record to be found: the search must give up.
        let bytes = vec![0; usize::try_from(DIRECTORY_BYTES_MAX).unwrap() + 1_000_000];
        let (_outside, result) = unpack(&bytes, None);
        assert!(matches!(result, Err(UnzipError::NotAZip(_))), "{result:?}");
    }

    #[test]
    fn a_damaged_zip_never_panics() {
        let bytes = archive(&[("d/x", b"some content"), ("in.txt", b"hi there\n")]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            drop(unpack(&damaged, None));
            drop(unpack(&bytes[..at], None));
        }
    }
}
