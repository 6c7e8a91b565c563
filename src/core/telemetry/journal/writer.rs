//! Writes the log: a queue that nobody waits for, and a thread that empties it into files of bounded size.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Map;
use tracing::Level;

use super::{Entry, OWN_TARGET, older};
use crate::core::clock::Clock;
use crate::core::model::Timestamp;

/// Bytes that wait to be written; a file may be no smaller.
pub const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Room for lines that is kept while few are said.
const USUAL_BYTES: usize = 16 * 1024;

/// Where a log is kept, and how much of it.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The newest file, as [`super::file`] says it.
    pub file: PathBuf,
    /// Bytes after which a file is rotated.
    pub file_bytes_max: u64,
    /// Files that are kept, the newest included.
    pub files_max: u32,
}

/// Why no log is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file or its folder cannot be made or opened.
    #[error("cannot write {}", path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Another process writes it.
    #[error("another process writes {}", path.display())]
    Taken {
        /// The newest file.
        path: PathBuf,
    },
    /// There can be no thread for it.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// A handle to a log that is written; clones write the same one.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Rings when there is something to do.
    work: Condvar,
    /// Rings when all is written.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// Lines that found no room.
    dropped: u64,
    /// Whether the file is to be opened anew.
    reopens: bool,
    is_writing: bool,
}

impl Queue {
    /// Takes a line; drops and counts it if there is no room.
    fn put(&mut self, line: &[u8]) {
        if self.lines.len() + line.len() > QUEUE_BYTES_MAX {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.lines.extend_from_slice(line);
        }
    }

    fn is_idle(&self) -> bool {
        !self.is_writing && self.lines.is_empty() && self.dropped == 0
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// Opens a log and starts the thread that writes it, until the process ends.
    pub fn open(keep: Keep, clock: Clock) -> Result<Self, JournalError> {
        let files = Files::open(keep, clock)?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        // A thread: a full or slow disk holds up this one alone.
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_on(&own, files))
            .map_err(JournalError::Thread)?;
        Ok(Self(shared))
    }

    /// Puts a line with its end into the queue; drops and counts it if there is no room.
    pub fn write(&self, line: &[u8]) {
        self.0.queue().put(line);
        self.0.work.notify_one();
    }

    /// Opens the file anew before the next line: somebody may have moved it away.
    pub fn reopen(&self) {
        self.0.queue().reopens = true;
    }

    /// Waits until all is written, but not for longer than `patience`; true if it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let waited = self
            .0
            .idle
            .wait_timeout_while(self.0.queue(), patience, |queue| !queue.is_idle());
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.is_idle()
    }
}

/// Empties the queue into the files, for ever.
fn write_on(shared: &Shared, mut files: Files) {
    let mut lines = Vec::new();
    loop {
        let mut queue = shared
            .work
            .wait_while(shared.queue(), |queue| {
                queue.lines.is_empty() && queue.dropped == 0
            })
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.lines, &mut lines);
        let dropped = std::mem::take(&mut queue.dropped);
        let reopens = std::mem::take(&mut queue.reopens);
        queue.is_writing = true;
        drop(queue);
        if reopens {
            files.file = None;
        }
        files.write(&lines, dropped);
        lines.clear();
        lines.shrink_to(USUAL_BYTES);
        shared.queue().is_writing = false;
        shared.idle.notify_all();
    }
}

/// The files of a log, the newest open.
#[derive(Debug)]
struct Files {
    keep: Keep,
    clock: Clock,
    file: Option<File>,
    bytes: u64,
    /// Lines that could not be written.
    lost: u64,
    /// Whether a failed write may have left a piece of a line.
    is_torn: bool,
    is_failing: bool,
    /// Held for its lock: two processes would rotate each other's files away.
    _lock: File,
}

impl Files {
    fn open(keep: Keep, clock: Clock) -> Result<Self, JournalError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Open { path, source }
        };
        let folder = keep.file.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed(folder))?;
        let lock_path = keep.file.with_extension("lock");
        let lock = options().open(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Taken { path: keep.file }),
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        let mut files = Self {
            clock,
            file: None,
            bytes: 0,
            lost: 0,
            is_torn: false,
            is_failing: false,
            _lock: lock,
            keep,
        };
        let path = files.keep.file.clone();
        files.current().map_err(failed(&path))?;
        Ok(files)
    }

    /// Returns the newest file, opened anew if it is not where it was.
    fn current(&mut self) -> io::Result<&mut File> {
        let there = fs::metadata(&self.keep.file).ok();
        let is_there = match (&self.file, there) {
            (Some(file), Some(there)) => {
                let own = file.metadata()?;
                (own.dev(), own.ino()) == (there.dev(), there.ino())
            }
            _ => false,
        };
        if !is_there {
            self.file = None;
        }
        match &mut self.file {
            Some(file) => Ok(file),
            empty => {
                let file = options().open(&self.keep.file)?;
                self.bytes = file.metadata()?.len();
                // A crash may have torn the last line.
                self.is_torn = self.bytes > 0;
                Ok(empty.insert(file))
            }
        }
    }

    /// Writes lines, and how many are missing: before them those that could not be written, after them those that found no
    /// room in the queue.
    fn write(&mut self, lines: &[u8], dropped: u64) {
        let mut all = Vec::new();
        if self.lost > 0 {
            all.extend(self.missing("lines of the log could not be written", self.lost));
        }
        all.extend_from_slice(lines);
        if dropped > 0 {
            all.extend(self.missing(
                "lines of the log were dropped: they came faster than they are written",
                dropped,
            ));
        }
        match self.put(&all) {
            Ok(()) => {
                self.lost = 0;
                if std::mem::take(&mut self.is_failing) {
                    tracing::warn!(target: OWN_TARGET, file = %self.keep.file.display(), "the log file is written again");
                }
            }
            Err(error) => {
                let newlines = lines.split(|byte| *byte == b'\n').skip(1);
                let missing = u64::try_from(newlines.count())
                    .unwrap_or(u64::MAX)
                    .saturating_add(dropped);
                self.lost = self.lost.saturating_add(missing);
                self.is_torn = true;
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(
                        target: OWN_TARGET, file = %self.keep.file.display(), %error,
                        "the log file cannot be written; its lines are lost until it can"
                    );
                }
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.current()?;
        if self.bytes > 0 && self.bytes.saturating_add(more) > self.keep.file_bytes_max {
            self.rotate()?;
        }
        let is_torn = self.is_torn;
        let file = self.current()?;
        if is_torn {
            file.write_all(b"\n")?;
        }
        file.write_all(bytes)?;
        self.is_torn = false;
        self.bytes = self.bytes.saturating_add(more).saturating_add(u64::from(is_torn));
        Ok(())
    }

    /// Makes room: every file becomes one older, the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let file = &self.keep.file;
        for rotations in (0..self.keep.files_max).rev() {
            let from = older(file, rotations);
            let done = if rotations + 1 == self.keep.files_max {
                fs::remove_file(&from)
            } else {
                fs::rename(&from, older(file, rotations + 1))
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn missing(&self, words: &str, lines: u64) -> Vec<u8> {
        Entry {
            at: Timestamp::new(self.clock.now()),
            level: Level::WARN,
            target: OWN_TARGET.to_owned(),
            message: words.to_owned(),
            fields: Map::from_iter([("lines".to_owned(), lines.into())]),
        }
        .line()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn keep(dir: &Path, file_bytes_max: u64, files_max: u32) -> Keep {
        Keep {
            file: super::super::file(dir, "miner"),
            file_bytes_max,
            files_max,
        }
    }

    fn line(number: usize) -> Vec<u8> {
        Entry {
            at: Timestamp::parse("2026-01-15T12:00:00Z").unwrap(),
            level: Level::INFO,
            target: "t".to_owned(),
            message: format!("line {number:04}"),
            fields: Map::new(),
        }
        .line()
    }

    fn messages(path: &Path) -> Vec<String> {
        let text = fs::read(path).unwrap();
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| Some(Entry::parse(line)?.message))
            .collect()
    }

    #[test]
    fn files_are_rotated_by_size_and_their_number_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let one = u64::try_from(line(0).len()).unwrap();
        let mut files = Files::open(keep(dir.path(), 2 * one, 3), Clock::system()).unwrap();
        for number in 0..10 {
            files.write(&line(number), 0);
        }
        let newest = &files.keep.file;
        assert_eq!(messages(newest), ["line 0008", "line 0009"]);
        assert_eq!(messages(&older(newest, 1)), ["line 0006", "line 0007"]);
        assert_eq!(messages(&older(newest, 2)), ["line 0004", "line 0005"]);
        assert!(!older(newest, 3).exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(newest), mode(newest.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_log_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let first = Files::open(keep(dir.path(), 1 << 20, 3), Clock::system()).unwrap();
        let second = Files::open(keep(dir.path(), 1 << 20, 3), Clock::system());
        assert!(matches!(second, Err(JournalError::Taken { .. })));
        drop(first);
        Files::open(keep(dir.path(), 1 << 20, 3), Clock::system()).unwrap();
    }

    #[test]
    fn a_torn_line_and_a_file_that_was_moved_away_harm_no_other_line() {
        let dir = tempfile::tempdir().unwrap();
        let keep = keep(dir.path(), 1 << 20, 3);
        fs::create_dir_all(keep.file.parent().unwrap()).unwrap();
        fs::write(&keep.file, "{\"ts\":\"2026").unwrap();
        let mut files = Files::open(keep.clone(), Clock::system()).unwrap();
        files.write(&line(1), 0);
        assert_eq!(messages(&keep.file), ["line 0001"]);
        let away = dir.path().join("away");
        fs::rename(&keep.file, &away).unwrap();
        files.write(&line(2), 0);
        assert_eq!(messages(&keep.file), ["line 0002"]);
        assert_eq!(messages(&away), ["line 0001"]);
    }

    #[test]
    fn what_a_full_disk_swallows_is_counted_and_told_when_there_is_room_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(keep(dir.path(), 1 << 20, 3), Clock::system()).unwrap();
        let path = files.keep.file.clone();
        // Every write to it fails as on a full disk.
        files.keep.file = "/dev/full".into();
        files.write(&line(1), 0);
        files.write(&[line(2), line(3)].concat(), 4);
        assert!(files.is_failing);
        files.keep.file.clone_from(&path);
        files.write(&line(4), 0);
        assert_eq!(
            messages(&path),
            ["lines of the log could not be written", "line 0004"]
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""fields":{"lines":7}"#), "{text}");
        assert!(!files.is_failing);
    }

    #[test]
    fn what_finds_no_room_in_the_queue_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let keep = keep(dir.path(), 64 << 20, 3);
        let path = keep.file.clone();
        let journal = Journal::open(keep, Clock::system()).unwrap();
        // The thread cannot take anything meanwhile.
        let mut queue = journal.0.queue();
        queue.lines = line(0).repeat(QUEUE_BYTES_MAX / line(0).len());
        let held = queue.lines.len();
        queue.put(&line(1));
        drop(queue);
        journal.0.work.notify_one();
        assert!(journal.flush(PATIENCE));
        let told = messages(&path);
        assert_eq!(told.len(), held / line(0).len() + 1);
        assert!(
            told.last().unwrap().starts_with("lines of the log were dropped"),
            "{:?}",
            told.last()
        );
    }
}
