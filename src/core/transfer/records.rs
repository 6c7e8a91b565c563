//! The records of a zip file that the library does not tell: how many entries are announced and listed, and what
//! each entry says of itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zip::CompressionMethod;
use zip::read::ZipFile;

/// The end of a zip in which its directory can be announced: the record of 22 bytes and a comment of 65 535.
const TAIL_BYTES: u64 = 22 + 65_535 + ZIP64_LOCATOR_BYTES;

/// The record before the last that points to the large directory's own record.
const ZIP64_LOCATOR_BYTES: u64 = 20;

/// The fixed part of an entry in the directory, in bytes.
const DIRECTORY_ENTRY_BYTES: usize = 46;

/// The fixed part of what stands before an entry's content, in bytes.
const LOCAL_HEADER_BYTES: u64 = 30;

/// What stands in a field of 32 bits whose value is elsewhere.
const ELSEWHERE: u32 = u32::MAX;

/// Says that sizes and checksum follow the content instead of preceding it.
const FLAG_DESCRIPTOR: u16 = 1 << 3;

/// Says that the content is encrypted.
const FLAG_ENCRYPTED: u16 = 1;

/// Returns the largest number of entries that any directory record in the archive's end announces.
///
/// The old record has 16 bits for it; only the large one, found through its locator, can announce more.
pub(super) fn announced_entries(archive: &File) -> io::Result<u64> {
    let length = archive.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    let tail = read_at_most(archive, start, TAIL_BYTES)?;
    let mut most = 0;
    for (at, window) in tail.windows(16).enumerate() {
        if window.starts_with(b"PK\x05\x06") {
            let entries = u16_at(window, 10).unwrap_or(0);
            most = most.max(if entries == u16::MAX { 0 } else { entries.into() });
        } else if window.starts_with(b"PK\x06\x07") {
            most = most.max(zip64_entries(archive, u64_at(window, 8).unwrap_or(0))?);
        } else if window.starts_with(b"PK\x06\x06") {
            // Found without its locator, for archives with something in front that shifts all offsets.
            let here = start.saturating_add(u64::try_from(at).unwrap_or(0));
            most = most.max(zip64_entries(archive, here)?);
        }
    }
    Ok(most)
}

fn zip64_entries(archive: &File, at: u64) -> io::Result<u64> {
    if i64::try_from(at).is_err() {
        return Ok(0);
    }
    let record = read_at_most(archive, at, 40)?;
    let is_record = record.starts_with(b"PK\x06\x06");
    Ok(u64_at(&record, 32).filter(|_| is_record).unwrap_or(0))
}

/// Counts the entries that the directory at `start` really holds; stops at the first beyond `known`.
pub(super) fn directory_entries(archive: &File, start: u64, known: usize) -> io::Result<usize> {
    let mut reader = io::BufReader::new(Positioned {
        file: archive,
        position: start,
    });
    let mut count = 0;
    while count <= known {
        let mut fixed = [0; DIRECTORY_ENTRY_BYTES];
        match reader.read_exact(&mut fixed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        if !fixed.starts_with(b"PK\x01\x02") {
            break;
        }
        let variable = [28, 30, 32].map(|at| u64::from(u16_at(&fixed, at).unwrap_or(0)));
        io::copy(&mut reader.by_ref().take(variable.iter().sum()), &mut io::sink())?;
        count += 1;
    }
    Ok(count)
}

/// A reader of a file that leaves the file's own place alone.
struct Positioned<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position = self
            .position
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

/// What stands before an entry's content.
#[derive(Debug)]
pub(super) struct LocalHeader {
    flags: u16,
    method: u16,
    crc32: u32,
    compressed: u32,
    unpacked: u32,
    name: Vec<u8>,
    /// Where the content begins.
    pub(super) data_start: u64,
}

impl LocalHeader {
    /// Reads the header at `at`.
    pub(super) fn read(archive: &File, at: u64) -> io::Result<Self> {
        let fixed = read_at_most(archive, at, LOCAL_HEADER_BYTES)?;
        let parse = || {
            let name_bytes = u64::from(u16_at(&fixed, 26)?);
            let extra_bytes = u64::from(u16_at(&fixed, 28)?);
            let name_start = at.checked_add(LOCAL_HEADER_BYTES)?;
            let header = Self {
                flags: u16_at(&fixed, 6)?,
                method: u16_at(&fixed, 8)?,
                crc32: u32_at(&fixed, 14)?,
                compressed: u32_at(&fixed, 18)?,
                unpacked: u32_at(&fixed, 22)?,
                name: Vec::new(),
                data_start: name_start.checked_add(name_bytes + extra_bytes)?,
            };
            fixed
                .starts_with(b"PK\x03\x04")
                .then_some((header, name_start, name_bytes))
        };
        let (header, name_start, name_bytes) =
            parse().ok_or_else(|| io::Error::other("an entry has no header"))?;
        let name = read_at_most(archive, name_start, name_bytes)?;
        Ok(Self { name, ..header })
    }

    /// Returns in what the header contradicts the directory; sizes that follow the content are not looked at.
    pub(super) fn contradiction<R: Read>(&self, entry: &ZipFile<'_, R>) -> Option<&'static str> {
        let differs = |here: u32, there: u64| here != ELSEWHERE && u64::from(here) != there;
        let is_told_here = self.flags & FLAG_DESCRIPTOR == 0;
        if self.name != entry.name_raw() {
            Some("name")
        } else if (self.flags & FLAG_ENCRYPTED != 0) != entry.encrypted() {
            Some("encryption")
        } else if Some(self.method) != method_number(entry.compression()) {
            Some("compression method")
        } else if is_told_here && differs(self.compressed, entry.compressed_size()) {
            Some("size")
        } else if is_told_here && differs(self.unpacked, entry.size()) {
            Some("unpacked size")
        } else if is_told_here && self.crc32 != entry.crc32() {
            Some("checksum")
        } else {
            None
        }
    }
}

/// Returns the number of a compression method; none for those that are not unpacked here.
pub(super) fn method_number(method: CompressionMethod) -> Option<u16> {
    match method {
        CompressionMethod::Stored => Some(0),
        CompressionMethod::Deflated => Some(8),
        _ => None,
    }
}

fn read_at_most(file: &File, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    Positioned { file, position: at }
        .take(bytes)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
