//! Reads a log while it is written: backwards from its end, and forwards across its rotations.
//!
//! Files are told apart by what they are, not by what they are called, since each changes its name when the log is
//! rotated. They are opened from the newest to the oldest: whatever is renamed meanwhile is met once more, and never missed.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{Entry, FILES_MAX, LINE_BYTES_MAX, older};

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// One file of a log.
#[derive(Clone, Debug)]
struct Opened {
    file: Arc<File>,
    id: (u64, u64),
    modified: (i64, i64),
    length: u64,
}

impl Opened {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Ok(Some(Self {
            file: Arc::new(file),
            id: id(&about),
            modified: (about.mtime(), about.mtime_nsec()),
            length: about.len(),
        }))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn id(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Opens the files of a log from the newest to the oldest, until `is_enough` of one.
fn open_all(newest: &Path, mut is_enough: impl FnMut(&Opened) -> bool) -> io::Result<Vec<Opened>> {
    let mut files: Vec<Opened> = Vec::new();
    for rotations in 0..=FILES_MAX {
        match Opened::open(&older(newest, rotations))? {
            // It has just become older, and the next newest is not there yet.
            None if rotations == 0 => {}
            None => break,
            Some(file) if is_enough(&file) => break,
            Some(file) if files.iter().any(|known| known.id == file.id) => {}
            Some(file) => files.push(file),
        }
    }
    Ok(files)
}

/// Reads a log from its end.
#[derive(Debug)]
pub struct Tail {
    newest: PathBuf,
    /// Files that are still to be read, the oldest last.
    older: VecDeque<Opened>,
    current: Option<Backwards>,
    /// Where the last whole line of the newest file ends.
    end: Option<(Opened, u64)>,
    unreadable: u64,
}

impl Tail {
    /// Opens the log whose newest file this is; a log that is not there is empty.
    pub fn open(newest: &Path) -> io::Result<Self> {
        let mut files: VecDeque<_> = open_all(newest, |_| false)?.into();
        let mut tail = Self {
            newest: newest.to_owned(),
            current: None,
            end: None,
            unreadable: 0,
            older: VecDeque::new(),
        };
        if let Some(first) = files.pop_front() {
            let mut backwards = Backwards::new(&first);
            // What comes after the last end of a line may be half a line.
            let half = backwards.line()?;
            let missing = match half {
                Some(Raw::Line(bytes)) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                _ => 0,
            };
            tail.end = Some((first.clone(), first.length.saturating_sub(missing)));
            tail.current = Some(backwards);
        }
        tail.older = files;
        Ok(tail)
    }

    /// Returns the entry before the last one that was returned; none at the beginning of the log.
    pub fn previous(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(next) = self.older.pop_front() else {
                    return Ok(None);
                };
                self.current = Some(Backwards::new(&next));
                continue;
            };
            match current.line()? {
                None => self.current = None,
                Some(Raw::Line(line)) if line.is_empty() => {}
                Some(Raw::Line(line)) => match Entry::parse(&line) {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.unreadable += 1,
                },
                Some(Raw::TooLong) => self.unreadable += 1,
            }
        }
    }

    /// Returns how many lines were no entries.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Returns a reader of what comes after the end that this one began at.
    pub fn follow(&self) -> Follow {
        let mut follow = Follow::new(&self.newest);
        if let Some((file, offset)) = &self.end {
            follow.files.push_back(file.clone());
            follow.offset = *offset;
        }
        follow
    }
}

/// A line, or that there was one.
enum Raw {
    Line(Vec<u8>),
    TooLong,
}

/// Reads a file line by line from its end.
#[derive(Debug)]
struct Backwards {
    file: Arc<File>,
    /// Where the bytes begin that are held.
    position: u64,
    held: Vec<u8>,
    is_too_long: bool,
    is_over: bool,
}

impl Backwards {
    fn new(opened: &Opened) -> Self {
        Self {
            file: Arc::clone(&opened.file),
            position: opened.length,
            held: Vec::new(),
            is_too_long: false,
            is_over: false,
        }
    }

    /// Returns what comes before the line that was returned last; first what comes after the last end of a line.
    fn line(&mut self) -> io::Result<Option<Raw>> {
        loop {
            if let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') {
                let line = self.held.split_off(end + 1);
                self.held.pop();
                return Ok(Some(self.whole(line)));
            }
            if self.position == 0 {
                if std::mem::replace(&mut self.is_over, true) {
                    return Ok(None);
                }
                let line = std::mem::take(&mut self.held);
                return Ok(Some(self.whole(line)));
            }
            if self.held.len() > LINE_BYTES_MAX {
                self.held.clear();
                self.is_too_long = true;
            }
            let count = CHUNK.min(usize::try_from(self.position).unwrap_or(CHUNK));
            let start = self.position - u64::try_from(count).unwrap_or_default();
            let mut chunk = vec![0; count];
            match self.file.read_exact_at(&mut chunk, start) {
                Ok(()) => {}
                // It was cut meanwhile: nothing that was there counts.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.position = 0;
                    self.is_over = true;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            chunk.append(&mut self.held);
            self.held = chunk;
            self.position = start;
        }
    }

    fn whole(&mut self, line: Vec<u8>) -> Raw {
        if std::mem::take(&mut self.is_too_long) || line.len() > LINE_BYTES_MAX {
            Raw::TooLong
        } else {
            Raw::Line(line)
        }
    }
}

/// Reads a log forwards, and goes on with what is written meanwhile.
#[derive(Debug)]
pub struct Follow {
    newest: PathBuf,
    /// The file that is read, and newer ones.
    files: VecDeque<Opened>,
    offset: u64,
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
    is_too_long: bool,
    unreadable: u64,
}

impl Follow {
    fn new(newest: &Path) -> Self {
        Self {
            newest: newest.to_owned(),
            files: VecDeque::new(),
            offset: 0,
            pending: Vec::new(),
            is_too_long: false,
            unreadable: 0,
        }
    }

    /// Reads the log whose newest file this is from its beginning; files that were not written after `since` are left out.
    pub fn from_start(newest: &Path, since: Option<OffsetDateTime>) -> io::Result<Self> {
        let since = since.map(OffsetDateTime::unix_timestamp);
        // The newest is read in any case: it is what is followed.
        let mut is_newest = true;
        let is_before = |file: &Opened| {
            !std::mem::take(&mut is_newest) && since.is_some_and(|since| file.modified.0 < since)
        };
        let mut follow = Self::new(newest);
        follow.files = open_all(newest, is_before)?.into_iter().rev().collect();
        Ok(follow)
    }

    /// Returns the next entries, some at a time; none if there are no more by now.
    pub fn read(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            let Some(current) = self.files.front() else {
                self.files = open_all(&self.newest, |_| false)?.into_iter().rev().collect();
                if self.files.is_empty() {
                    return Ok(Vec::new());
                }
                continue;
            };
            let mut chunk = vec![0; CHUNK];
            let count = current.file.read_at(&mut chunk, self.offset)?;
            if count > 0 {
                chunk.truncate(count);
                self.offset += u64::try_from(count).unwrap_or_default();
                let entries = self.feed(&chunk);
                if !entries.is_empty() {
                    return Ok(entries);
                }
                continue;
            }
            if self.files.len() > 1 {
                self.files.pop_front();
                self.offset = 0;
                self.give_up_line();
                continue;
            }
            let about = current.file.metadata()?;
            let (own, modified) = (current.id, (about.mtime(), about.mtime_nsec()));
            let newer = open_all(&self.newest, |file| file.id == own || file.modified < modified)?;
            if newer.is_empty() {
                if about.len() < self.offset {
                    // Somebody has emptied it.
                    self.offset = 0;
                    self.give_up_line();
                    continue;
                }
                return Ok(Vec::new());
            }
            // The current one is looked at once more: it may have been written after it was read, before it was rotated.
            self.files.extend(newer.into_iter().rev());
        }
    }

    /// Returns how many lines were no entries.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.pending.len() + piece.len() > LINE_BYTES_MAX {
                self.pending.clear();
                self.is_too_long = true;
            }
            if !self.is_too_long {
                self.pending.extend_from_slice(piece);
            }
            if pieces.peek().is_some() {
                entries.extend(self.end_line());
            }
        }
        entries
    }

    fn end_line(&mut self) -> Option<Entry> {
        let line = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.is_too_long) {
            self.unreadable += 1;
            return None;
        }
        if line.is_empty() {
            return None;
        }
        let entry = Entry::parse(&line);
        self.unreadable += u64::from(entry.is_none());
        entry
    }

    /// Takes the beginning of a line for all that there is of it.
    fn give_up_line(&mut self) {
        if self.is_too_long || !self.pending.is_empty() {
            self.pending.clear();
            self.is_too_long = false;
            self.unreadable += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn line(number: usize) -> String {
        format!("{{\"ts\":\"2026-01-15T12:00:00Z\",\"level\":\"INFO\",\"message\":\"{number}\"}}\n")
    }

    fn lines(numbers: std::ops::Range<usize>) -> String {
        numbers.map(line).collect()
    }

    fn numbers(entries: &[Entry]) -> Vec<usize> {
        entries
            .iter()
            .map(|entry| entry.message.parse().unwrap())
            .collect()
    }

    fn backwards(tail: &mut Tail) -> Vec<usize> {
        let mut found = Vec::new();
        while let Some(entry) = tail.previous().unwrap() {
            found.push(entry.message.parse().unwrap());
        }
        found
    }

    fn forwards(follow: &mut Follow) -> Vec<usize> {
        let mut found = Vec::new();
        loop {
            let entries = follow.read().unwrap();
            if entries.is_empty() {
                return found;
            }
            found.extend(numbers(&entries));
        }
    }

    fn append(path: &Path, text: &[u8]) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text).unwrap();
    }

    fn rotate(newest: &Path) {
        for rotations in (0..5).rev() {
            let from = older(newest, rotations);
            if from.exists() {
                fs::rename(&from, older(newest, rotations + 1)).unwrap();
            }
        }
    }

    #[test]
    fn a_log_is_read_from_its_end_across_files_and_on_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let newest = dir.path().join("miner.jsonl");
        assert_eq!(backwards(&mut Tail::open(&newest).unwrap()), [0; 0]);
        append(&newest, lines(0..3000).as_bytes());
        rotate(&newest);
        append(&newest, lines(3000..5000).as_bytes());
        // Half a line is not read before its other half is there.
        let whole = line(5000);
        let (one, other) = whole.split_at(20);
        append(&newest, one.as_bytes());
        let mut tail = Tail::open(&newest).unwrap();
        let mut follow = tail.follow();
        assert_eq!(backwards(&mut tail), (0..5000).rev().collect::<Vec<_>>());
        assert_eq!(tail.unreadable(), 0);
        assert_eq!(forwards(&mut follow), [0; 0]);
        append(&newest, other.as_bytes());
        assert_eq!(forwards(&mut follow), [5000]);
    }

    #[test]
    fn a_reader_follows_over_rotations_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let newest = dir.path().join("miner.jsonl");
        let mut follow = Follow::from_start(&newest, None).unwrap();
        assert_eq!(forwards(&mut follow), [0; 0]);
        append(&newest, lines(0..2).as_bytes());
        assert_eq!(forwards(&mut follow), [0, 1]);
        append(&newest, lines(2..4).as_bytes());
        rotate(&newest);
        assert_eq!(
            forwards(&mut follow),
            [2, 3],
            "there is no newest file in this moment"
        );
        append(&newest, lines(4..6).as_bytes());
        rotate(&newest);
        append(&newest, lines(6..7).as_bytes());
        rotate(&newest);
        append(&newest, lines(7..9).as_bytes());
        assert_eq!(forwards(&mut follow), [4, 5, 6, 7, 8]);
        fs::write(&newest, lines(9..10)).unwrap();
        assert_eq!(forwards(&mut follow), [9], "emptied by hand");
        assert_eq!(follow.unreadable(), 0);
    }

    #[test]
    fn torn_lines_foreign_bytes_and_endless_lines_are_counted_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let newest = dir.path().join("miner.jsonl");
        append(&newest, line(1).as_bytes());
        append(&newest, b"{\"ts\":\"20\n\xff\xfe\x00\n\n");
        append(&newest, &vec![b'x'; 3 * LINE_BYTES_MAX]);
        append(&newest, b"\n");
        append(&newest, line(2).as_bytes());
        let mut tail = Tail::open(&newest).unwrap();
        assert_eq!(backwards(&mut tail), [2, 1]);
        assert_eq!(tail.unreadable(), 3);
        let mut follow = Follow::from_start(&newest, None).unwrap();
        assert_eq!(forwards(&mut follow), [1, 2]);
        assert_eq!(follow.unreadable(), 3);
    }

    #[test]
    fn a_torn_end_of_an_older_file_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let newest = dir.path().join("miner.jsonl");
        append(&newest, format!("{}{}", line(1), "{\"ts\"").as_bytes());
        let mut follow = Follow::from_start(&newest, None).unwrap();
        assert_eq!(forwards(&mut follow), [1]);
        rotate(&newest);
        append(&newest, line(2).as_bytes());
        assert_eq!(forwards(&mut follow), [2]);
        assert_eq!(follow.unreadable(), 1);
        let mut tail = Tail::open(&newest).unwrap();
        assert_eq!(backwards(&mut tail), [2, 1]);
        assert_eq!(tail.unreadable(), 1);
    }

    #[test]
    fn files_from_before_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let newest = dir.path().join("miner.jsonl");
        append(&newest, line(1).as_bytes());
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(&newest).unwrap().set_modified(long_ago).unwrap();
        rotate(&newest);
        append(&newest, line(2).as_bytes());
        let since = OffsetDateTime::from_unix_timestamp(2_000_000).unwrap();
        let mut follow = Follow::from_start(&newest, Some(since)).unwrap();
        assert_eq!(forwards(&mut follow), [2]);
    }
}
