//! Unpacking a stranger's zip: everything is judged first, then written.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zip::ZipArchive;
use zip::result::ZipError;

use super::folder::Folder;
use super::path::{PathError, RelativePath};
use super::records::{self, LocalHeader};

/// How much is unpacked between two looks at the budget and at whether anyone still waits, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;

/// The most that the library may read before it knows an archive's entries, in bytes.
///
/// It looks for the directory backwards through the whole file and keeps all of it in memory, so this bounds both,
/// whatever the records in the file's end pretend. 100 000 entries with names of 150 bytes fit.
const DIRECTORY_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// How many times larger than the archive its content may be, once it is over [`RATIO_BYTES_FREE`]. Text and sparse
/// weights reach 20; what deflate can do at most, and only with one byte repeated, is 1032.
const RATIO_MAX: u64 = 200;

/// What an archive may unpack to whatever its ratio, in bytes.
const RATIO_BYTES_FREE: u64 = 256 * 1024 * 1024;

/// What an archive may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnzipBudget {
    /// The most bytes that all entries together unpack to.
    pub bytes_max: u64,
    /// The most entries.
    pub entries_max: u64,
}

/// What an archive did cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unzipped {
    /// Bytes of all entries together.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
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
    /// It unpacks to so much more than it weighs that it is made to fill a disk.
    #[error("the zip file unpacks to more than {RATIO_MAX} times its size of {bytes} bytes")]
    TooDense {
        /// Its size.
        bytes: u64,
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
    /// A name stands in the directory twice, or the directory is longer than announced.
    #[error("the zip file's directory does not hold what it announces, each name once")]
    Directory,
    /// Two entries share bytes of the archive, so that a small one unpacks to much.
    #[error("the zip entry `{0}` overlaps another")]
    Overlap(String),
    /// The archive's directory and the entry itself tell different stories, so that two readers see two archives.
    #[error("the zip entry `{name}` contradicts the directory in its {field}")]
    Contradiction {
        /// The entry.
        name: String,
        /// What differs.
        field: &'static str,
    },
    /// Nobody waits for it any more.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// Our own disk failed.
    #[error("could not write an unpacked file")]
    Disk(#[source] io::Error),
}

/// An entry that has passed.
struct Planned {
    index: usize,
    path: RelativePath,
    is_folder: bool,
    bytes: u64,
}

/// Unpacks `archive` into `folder`, below `base` if given. Blocks; looks at `cancelled` often.
///
/// Nothing is written before every entry has been judged: its name, its kind, its place in the archive, and what all
/// of them together announce. What is written is counted once more, since announcements lie.
pub fn unzip(
    archive: File,
    folder: &Folder,
    base: Option<&RelativePath>,
    budget: UnzipBudget,
    cancelled: &AtomicBool,
) -> Result<Unzipped, UnzipError> {
    let archive = Arc::new(archive);
    let length = archive.metadata().map_err(UnzipError::Disk)?.len();
    let mut zip = open(&archive, budget)?;
    let plan = judge(&archive, &mut zip, length, base, cancelled)?;
    let bytes_max = budget.bytes_max.min(dense_bytes(length));
    let over = || {
        if bytes_max < budget.bytes_max {
            UnzipError::TooDense { bytes: length }
        } else {
            UnzipError::TooLarge { max: bytes_max }
        }
    };
    let announced = plan.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
    if announced > bytes_max {
        return Err(over());
    }
    if let Some(base) = base {
        folder.make_folder(base).map_err(|error| writing(error, base))?;
    }
    let mut left = bytes_max;
    for entry in &plan {
        let path = &entry.path;
        if entry.is_folder {
            folder.make_folder(path).map_err(|error| writing(error, path))?;
            continue;
        }
        let mut file = folder.create(path).map_err(|error| writing(error, path))?;
        let mut content = zip.by_index(entry.index).map_err(not_a_zip)?;
        let copied = copy(&mut content, &mut file, left, cancelled)?.ok_or_else(over)?;
        if copied != entry.bytes {
            return Err(UnzipError::Contradiction {
                name: path.to_string(),
                field: "unpacked size",
            });
        }
        left -= copied;
    }
    Ok(Unzipped {
        bytes: bytes_max - left,
        entries: u64::try_from(plan.len()).unwrap_or(u64::MAX),
    })
}

/// Returns how much an archive of `length` bytes may unpack to before it counts as a bomb.
fn dense_bytes(length: u64) -> u64 {
    length.saturating_mul(RATIO_MAX).max(RATIO_BYTES_FREE)
}

/// Reads the directory, within bounds.
fn open(archive: &Arc<File>, budget: UnzipBudget) -> Result<ZipArchive<Metered>, UnzipError> {
    let too_many = UnzipError::TooManyEntries {
        max: budget.entries_max,
    };
    // Asked before the library reads the directory, which it keeps in memory.
    let announced =
        records::announced_entries(archive).map_err(|error| UnzipError::NotAZip(error.to_string()))?;
    if announced > budget.entries_max {
        return Err(too_many);
    }
    let left = Arc::new(AtomicU64::new(DIRECTORY_BYTES_MAX));
    let metered = Metered {
        inner: Arc::clone(archive),
        position: 0,
        left: Arc::clone(&left),
    };
    let zip = ZipArchive::new(metered).map_err(not_a_zip)?;
    left.store(u64::MAX, Ordering::Relaxed);
    if u64::try_from(zip.len()).unwrap_or(u64::MAX) > budget.entries_max {
        return Err(too_many);
    }
    Ok(zip)
}

/// Judges every entry; returns those that are to be written, in the archive's order.
fn judge(
    archive: &File,
    zip: &mut ZipArchive<Metered>,
    length: u64,
    base: Option<&RelativePath>,
    cancelled: &AtomicBool,
) -> Result<Vec<Planned>, UnzipError> {
    let directory = zip.central_directory_start();
    // The library keeps one entry of each name, whatever the directory holds.
    let listed = records::directory_entries(archive, directory, zip.len())
        .map_err(|error| UnzipError::NotAZip(error.to_string()))?;
    if listed != zip.len() {
        return Err(UnzipError::Directory);
    }
    let mut places = BTreeMap::new();
    let mut plan = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        if cancelled.load(Ordering::Relaxed) {
            return Err(UnzipError::Cancelled);
        }
        let entry = zip.by_index_raw(index).map_err(not_a_zip)?;
        if entry.encrypted() {
            return Err(UnzipError::Unsupported("a password".to_owned()));
        }
        if records::method_number(entry.compression()).is_none() {
            let method = entry.compression();
            return Err(UnzipError::Unsupported(format!("compression method {method}")));
        }
        let name = || {
            entry
                .name()
                .chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect::<String>()
        };
        let is_plain = entry
            .unix_mode()
            .is_none_or(|mode| matches!(mode & 0o170_000, 0 | 0o040_000 | 0o100_000));
        if entry.is_symlink() || !is_plain {
            return Err(UnzipError::NotAFile(name()));
        }
        let header = LocalHeader::read(archive, entry.header_start())
            .map_err(|error| UnzipError::NotAZip(error.to_string()))?;
        if let Some(field) = header.contradiction(&entry) {
            return Err(UnzipError::Contradiction { name: name(), field });
        }
        let end = header.data_start.saturating_add(entry.compressed_size());
        if end > directory.min(length) || places.insert(entry.header_start(), (end, name())).is_some() {
            return Err(UnzipError::Overlap(name()));
        }
        let path = RelativePath::parse_entry(entry.name()).map_err(UnzipError::BadEntry)?;
        if let Some(path) = path {
            plan.push(Planned {
                index,
                path: path.below(base).map_err(UnzipError::BadEntry)?,
                is_folder: entry.is_dir(),
                bytes: if entry.is_dir() { 0 } else { entry.size() },
            });
        }
    }
    let mut free = 0;
    for (start, (end, name)) in places {
        if start < free {
            return Err(UnzipError::Overlap(name));
        }
        free = end;
    }
    check_names(&plan)?;
    Ok(plan)
}

/// Checks that no name is used for two things. Names that differ in case are two names, as everywhere on Linux.
fn check_names(plan: &[Planned]) -> Result<(), UnzipError> {
    let mut files = HashSet::new();
    let mut folders = HashSet::new();
    for entry in plan {
        let text = entry.path.as_str();
        // From the deepest up: where one is known, those above it are.
        let mut above = text;
        while let Some((parent, _name)) = above.rsplit_once('/') {
            if !folders.insert(parent) {
                break;
            }
            above = parent;
        }
        let is_new = if entry.is_folder {
            folders.insert(text);
            true
        } else {
            files.insert(text)
        };
        if !is_new {
            return Err(UnzipError::Duplicate(text.to_owned()));
        }
    }
    match files.intersection(&folders).next() {
        Some(name) => Err(UnzipError::Duplicate((*name).to_owned())),
        None => Ok(()),
    }
}

/// A reader of a file that keeps its own place, and fails once it has given as much as it may.
struct Metered {
    inner: Arc<File>,
    position: u64,
    left: Arc<AtomicU64>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read_at(buffer, self.position)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        let left = self.left.load(Ordering::Relaxed);
        let Some(rest) = left.checked_sub(bytes) else {
            return Err(io::Error::other("its directory is too large"));
        };
        if left != u64::MAX {
            self.left.store(rest, Ordering::Relaxed);
        }
        self.position = self.position.saturating_add(bytes);
        Ok(count)
    }
}

impl Seek for Metered {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let to = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.inner.metadata()?.len().checked_add_signed(by),
        };
        self.position = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

/// Copies an entry; returns how many bytes it had, or nothing when they are more than `left`.
fn copy(
    entry: &mut impl Read,
    file: &mut impl Write,
    left: u64,
    cancelled: &AtomicBool,
) -> Result<Option<u64>, UnzipError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut copied = 0_u64;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(UnzipError::Cancelled);
        }
        let count = match entry.read(&mut buffer) {
            Ok(0) => return Ok(Some(copied)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnzipError::NotAZip(error.to_string())),
        };
        copied = copied.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if copied > left {
            return Ok(None);
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

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn unpack(bytes: &[u8], base: Option<&str>) -> (tempfile::TempDir, Result<Unzipped, UnzipError>) {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("jail")).unwrap();
        let folder = Folder::open(&outside.path().join("jail")).unwrap();
        let base = base.map(|base| RelativePath::parse(base).unwrap());
        let result = unzip(
            file_of(bytes),
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
        let result = unzip(file_of(&bytes), &folder, None, BUDGET, &AtomicBool::new(true));
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
