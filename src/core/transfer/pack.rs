//! Packing a job's output into a zip, stored as the wire has it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use time::OffsetDateTime;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::folder::{Folder, OpenError};
use super::path::RelativePath;

/// The most files of one zip (wire-executor-miner §8).
pub const FILES_MAX: usize = 1000;

/// The files that come first, as the reference writes them.
const FIRST: [&str; 2] = ["stdout.txt", "stderr.txt"];

/// The size from which on an entry needs the large form, in bytes; a little below 4 GiB.
const LARGE_BYTES: u64 = 0xFFFF_0000;

/// Why an output could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// More files than a zip of the wire holds.
    #[error("the output has more than {max} files")]
    TooManyFiles {
        /// The bound.
        max: usize,
    },
    /// More bytes than the operator allows.
    #[error("the output is larger than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The job took the right to read a file away.
    #[error("the output cannot be packed")]
    Denied(#[source] OpenError),
    /// Our own disk or machine failed.
    #[error("the output could not be packed")]
    Local(#[source] io::Error),
}

/// A packed output: an unnamed file, rewound.
#[derive(Debug)]
pub struct Packed {
    /// The zip.
    pub file: File,
    /// Its size.
    pub bytes: u64,
}

/// Packs the regular files below `folder` except `left_out`; blocks.
///
/// Links, pipes and devices are not packed, and folders only as parts of names.
pub(super) fn pack(
    folder: &Folder,
    left_out: &HashSet<RelativePath>,
    bytes_max: u64,
    scratch: &Path,
) -> Result<Packed, PackError> {
    let walk = folder
        .walk(FILES_MAX.saturating_add(left_out.len()))
        .map_err(PackError::Local)?
        .map_err(|_too_many| PackError::TooManyFiles { max: FILES_MAX })?;
    if walk.passed_over > 0 {
        tracing::warn!(
            count = walk.passed_over,
            "left links, pipes and devices out of the output"
        );
    }
    let is_first = |path: &RelativePath| FIRST.iter().position(|first| *first == path.as_str());
    let mut files: Vec<_> = walk
        .files
        .into_iter()
        .filter(|file| !left_out.contains(&file.path))
        .collect();
    files.sort_by_key(|file| is_first(&file.path).unwrap_or(FIRST.len()));
    if files.len() > FILES_MAX {
        return Err(PackError::TooManyFiles { max: FILES_MAX });
    }
    // Summed before anything is copied, so that an output far too large does not fill the disk first.
    if files.iter().map(|file| file.bytes).fold(0, u64::saturating_add) > bytes_max {
        return Err(PackError::TooLarge { max: bytes_max });
    }
    let mut zip = ZipWriter::new(tempfile::tempfile_in(scratch).map_err(PackError::Local)?);
    for found in files {
        let mut file = match folder.read(&found.path) {
            Ok(file) => file,
            // It cannot vanish, since the container is gone; nor is it a reason to send nothing.
            Err(OpenError::NotFound(_) | OpenError::NotAFile(_)) => continue,
            Err(error @ OpenError::Denied(_)) => return Err(PackError::Denied(error)),
            Err(OpenError::Failed { source, .. }) => return Err(PackError::Local(source)),
        };
        add(&mut zip, &found.path, &mut file).map_err(PackError::Local)?;
    }
    let mut file = zip.finish().map_err(|error| PackError::Local(error.into()))?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(PackError::Local)?;
    file.seek(SeekFrom::Start(0)).map_err(PackError::Local)?;
    if bytes > bytes_max {
        return Err(PackError::TooLarge { max: bytes_max });
    }
    Ok(Packed { file, bytes })
}

fn add(zip: &mut ZipWriter<File>, path: &RelativePath, file: &mut File) -> io::Result<()> {
    let facts = file.metadata()?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(facts.mode() & 0o777)
        .last_modified_time(zip_time(facts.mtime()))
        .large_file(facts.len() >= LARGE_BYTES);
    zip.start_file(path.as_str(), options)?;
    // No more than it was announced with.
    io::copy(&mut file.take(facts.len()), zip)?;
    zip.flush()
}

/// Turns a file's time into a zip's, which begins in 1980; anything outside becomes that beginning.
fn zip_time(unix_seconds: i64) -> DateTime {
    let time = OffsetDateTime::from_unix_timestamp(unix_seconds).ok();
    time.and_then(|time| {
        let year = u16::try_from(time.year()).ok()?;
        let (month, day) = (u8::from(time.month()), time.day());
        DateTime::from_date_and_time(year, month, day, time.hour(), time.minute(), time.second()).ok()
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use zip::ZipArchive;

    use super::*;

    fn names(packed: Packed) -> Vec<String> {
        let mut archive = ZipArchive::new(packed.file).unwrap();
        (0..archive.len())
            .map(|index| {
                let entry = archive.by_index(index).unwrap();
                assert_eq!(entry.compression(), CompressionMethod::Stored);
                entry.name().to_owned()
            })
            .collect()
    }

    #[test]
    fn the_streams_come_first_and_links_stay_out() {
        let outside = tempfile::tempdir().unwrap();
        let (jail, scratch) = (outside.path().join("output"), outside.path());
        fs::create_dir_all(jail.join("sub/empty")).unwrap();
        for name in ["a.txt", "sub/b.bin", "stderr.txt", "stdout.txt"] {
            fs::write(jail.join(name), name).unwrap();
        }
        symlink("/etc/passwd", jail.join("link")).unwrap();
        let folder = Folder::open(&jail).unwrap();
        let packed = pack(&folder, &HashSet::new(), 10_000, scratch).unwrap();
        assert_eq!(packed.bytes, packed.file.metadata().unwrap().len());
        assert_eq!(names(packed), ["stdout.txt", "stderr.txt", "a.txt", "sub/b.bin"]);
        let left_out = HashSet::from([RelativePath::parse("a.txt").unwrap()]);
        let packed = pack(&folder, &left_out, 10_000, scratch).unwrap();
        assert_eq!(names(packed), ["stdout.txt", "stderr.txt", "sub/b.bin"]);
    }

    #[test]
    fn an_output_over_its_limits_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let jail = outside.path().join("output");
        fs::create_dir(&jail).unwrap();
        fs::write(jail.join("a"), [0; 100]).unwrap();
        let folder = Folder::open(&jail).unwrap();
        let result = pack(&folder, &HashSet::new(), 99, outside.path());
        assert!(
            matches!(result, Err(PackError::TooLarge { max: 99 })),
            "{result:?}"
        );
        for number in 0..FILES_MAX {
            fs::write(jail.join(format!("f{number}")), "").unwrap();
        }
        let result = pack(&folder, &HashSet::new(), 10_000_000, outside.path());
        assert!(
            matches!(result, Err(PackError::TooManyFiles { .. })),
            "{result:?}"
        );
    }

    #[test]
    fn a_time_that_a_zip_cannot_hold_becomes_its_first() {
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(zip_time(seconds), DateTime::default());
        }
        assert_eq!(zip_time(1_700_000_000).year(), 2023);
    }
}
