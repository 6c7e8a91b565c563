//! What a job has written to the disk, watched while it runs, so that it ends within its bound.
//!
//! Where the engine's file system keeps quotas, the kernel stops the root of a container at the bound already. Most
//! do not, and none counts the folders of the spec with it. So the executor looks: often at how much room is left,
//! which costs nothing, and at every file when room is going fast or some time has passed. A measurement may take a
//! tenth of the time at most, however many files a job makes.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::time::{Instant, sleep, timeout};

use crate::core::docker::{ContainerId, Engine};

/// Time between two looks at the room that is left.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The longest time between two measurements, unless one takes long itself.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How many times longer than a measurement the pause after it is, at least.
const PAUSE_FACTOR: u32 = 9;

/// The longest that one measurement by the engine may take; one that takes longer counts for nothing.
const MEASURE_PATIENCE: Duration = Duration::from_secs(60);

/// The most files and folders that a job may leave in its folders. A walk of so many takes seconds.
const ENTRIES_MAX: usize = 1_000_000;

/// The deepest folders that a job may nest; each level costs a descriptor while it is measured.
const DEPTH_MAX: usize = 100;

/// The room in bytes that a file system keeps, whatever a job may still write: the machine must live.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// The files that a file system keeps room for likewise.
const FREE_FILES_MIN: u64 = 10_000;

/// On a small file system the kept room is one part of so many at most.
const FREE_PART_MAX: u64 = 20;

/// The size in bytes in which the kernel counts the blocks of a file.
const BLOCK_BYTES: u64 = 512;

/// How a job has gone over what it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    /// It has written too much.
    Bytes {
        /// How much, in bytes, when that was seen.
        used: u64,
        /// The bound, in bytes.
        bound: u64,
    },
    /// It has made too many files.
    Entries {
        /// The bound.
        max: usize,
    },
    /// It has nested its folders too deep.
    Depth {
        /// The bound.
        max: usize,
    },
    /// The machine has no room left, be it through this job or something else.
    HostFull {
        /// Where.
        folder: PathBuf,
        /// Room in bytes that was left.
        free: u64,
    },
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Watched {
    /// The engine.
    pub(super) engine: Arc<dyn Engine>,
    /// The job's container.
    pub(super) container: ContainerId,
    /// The folders of the spec.
    pub(super) folders: Vec<PathBuf>,
    /// A folder on each file system that the job writes to.
    pub(super) file_systems: Vec<PathBuf>,
    /// What the job may write, in bytes.
    pub(super) bound: u64,
}

impl Watched {
    /// Watches until the job is over its bound; never ends when it stays below.
    pub(super) async fn excess(&self) -> Excess {
        let mut pace = Pace::new(self.bound, Instant::now(), self.room().await.bytes);
        loop {
            sleep(LOOK_EVERY).await;
            let room = self.room().await;
            if let Some(excess) = room.full {
                return excess;
            }
            let started = Instant::now();
            if !pace.is_due(started, room.bytes) {
                continue;
            }
            match self.measure().await {
                Ok(used) if used > self.bound => {
                    let bound = self.bound;
                    return Excess::Bytes { used, bound };
                }
                Ok(used) => pace.measured(used, started, Instant::now(), room.bytes),
                Err(excess) => return excess,
            }
        }
    }

    /// Returns the room on all file systems.
    async fn room(&self) -> Room {
        let folders = self.file_systems.clone();
        let room = tokio::task::spawn_blocking(move || Room::of(&folders)).await;
        room.unwrap_or_else(|error| {
            tracing::error!(%error, "could not look at the room on the disk");
            Room::default()
        })
    }

    async fn measure(&self) -> Result<u64, Excess> {
        let folders = self.folders.clone();
        let folders = tokio::task::spawn_blocking(move || {
            let mut tally = Tally::default();
            folders.iter().try_for_each(|folder| tally.add(folder))?;
            Ok(tally.bytes)
        });
        let root = timeout(MEASURE_PATIENCE, self.engine.written_bytes(&self.container));
        let (folders, root) = tokio::join!(folders, root);
        let folders = match folders {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(Unmeasured::Excess(excess))) => return Err(excess),
            Ok(Err(Unmeasured::Io(error))) => {
                tracing::warn!(%error, "could not measure a job's folders");
                0
            }
            Err(error) => {
                tracing::error!(%error, "could not measure a job's folders");
                0
            }
        };
        let root = match root {
            Ok(Ok(bytes)) => bytes,
            // It may have ended just now.
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not measure a container");
                0
            }
            Err(_elapsed) => {
                tracing::warn!(container = %self.container, "the engine takes too long to measure a container");
                0
            }
        };
        Ok(root.saturating_add(folders))
    }
}

/// When to measure; pure.
#[derive(Debug)]
struct Pace {
    bound: u64,
    used: u64,
    /// Room on all file systems at the last measurement, in bytes.
    room: u64,
    measured: Instant,
    took: Duration,
}

impl Pace {
    fn new(bound: u64, now: Instant, room: u64) -> Self {
        Self {
            bound,
            used: 0,
            room,
            measured: now,
            took: Duration::ZERO,
        }
    }

    /// Returns whether the job may be near its bound: room has gone that would bring it half the way there.
    fn is_due(&self, now: Instant, room: u64) -> bool {
        let since = now.saturating_duration_since(self.measured);
        if since < self.took.saturating_mul(PAUSE_FACTOR) {
            return false;
        }
        let gone = self.room.saturating_sub(room);
        since >= MEASURE_EVERY || gone > self.bound.saturating_sub(self.used) / 2
    }

    fn measured(&mut self, used: u64, started: Instant, ended: Instant, room: u64) {
        self.used = used;
        self.room = room;
        self.measured = ended;
        self.took = ended.saturating_duration_since(started);
    }
}

/// The room on some file systems.
#[derive(Debug, Default)]
struct Room {
    /// Bytes on all of them.
    bytes: u64,
    /// The first that is full.
    full: Option<Excess>,
}

impl Room {
    /// Looks at file systems; blocks. One that cannot be looked at has no say.
    fn of(folders: &[PathBuf]) -> Self {
        let mut room = Self::default();
        for folder in folders {
            let Ok(found) = rustix::fs::statvfs(folder) else {
                continue;
            };
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let total = found.f_blocks.saturating_mul(found.f_frsize);
            // Some file systems make room for files as they go, and say 0 of 0.
            let is_full = free < FREE_BYTES_MIN.min(total / FREE_PART_MAX)
                || found.f_favail < FREE_FILES_MIN.min(found.f_files / FREE_PART_MAX);
            room.bytes = room.bytes.saturating_add(free);
            if is_full && room.full.is_none() {
                room.full = Some(Excess::HostFull {
                    folder: folder.clone(),
                    free,
                });
            }
        }
        room
    }
}

/// Why a folder was not measured to its end.
#[derive(Debug, thiserror::Error)]
enum Unmeasured {
    #[error("the job is over a bound")]
    Excess(Excess),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What lies in some folders.
#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    entries: usize,
    /// Files with several names, which count once.
    linked: HashSet<(u64, u64)>,
}

impl Tally {
    /// Adds what lies in a folder; blocks, follows no link, and minds nothing that vanishes meanwhile.
    fn add(&mut self, folder: &Path) -> Result<(), Unmeasured> {
        let top = rustix::fs::open(folder, folder_flags(), Mode::empty()).map_err(io::Error::from)?;
        let mut open = vec![Dir::new(top).map_err(io::Error::from)?];
        while let Some(dir) = open.last_mut() {
            let Some(entry) = dir.read() else {
                open.pop();
                continue;
            };
            let entry = entry.map_err(io::Error::from)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(Unmeasured::Excess(Excess::Entries { max: ENTRIES_MAX }));
            }
            let here = dir.fd().map_err(io::Error::from)?;
            let status = match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => status,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            if status.st_nlink < 2 || self.linked.insert((status.st_dev, status.st_ino)) {
                let blocks = u64::try_from(status.st_blocks).unwrap_or(0);
                self.bytes = self.bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            }
            if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                continue;
            }
            let inner: OwnedFd = match rustix::fs::openat(here, name, folder_flags(), Mode::empty()) {
                Ok(inner) => inner,
                // Moved away, replaced, or closed to an executor that is not root.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            if open.len() >= DEPTH_MAX {
                return Err(Unmeasured::Excess(Excess::Depth { max: DEPTH_MAX }));
            }
            open.push(Dir::new(inner).map_err(io::Error::from)?);
        }
        Ok(())
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_measurement_is_due_when_room_goes_or_time_passes_but_never_eats_the_time() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut pace = Pace::new(100 * MIB, start, 1000 * MIB);
        assert!(!pace.is_due(at(250), 1000 * MIB));
        assert!(!pace.is_due(at(250), 951 * MIB));
        assert!(pace.is_due(at(250), 949 * MIB));
        assert!(pace.is_due(at(5000), 1000 * MIB));
        // Others may make room meanwhile: time passes all the same.
        assert!(pace.is_due(at(5000), 2000 * MIB));
        pace.measured(90 * MIB, at(5000), at(7000), 900 * MIB);
        assert!(!pace.is_due(at(24_000), 0));
        assert!(pace.is_due(at(25_000), 900 * MIB));
        pace.measured(90 * MIB, at(25_000), at(25_001), 900 * MIB);
        assert!(
            pace.is_due(at(25_300), 894 * MIB),
            "near the bound a little is enough"
        );
    }

    #[test]
    fn a_tally_counts_blocks_once_and_follows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("big"), vec![1; 8 << 20]).unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/x"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(folder.path().join("d/x"), folder.path().join("again")).unwrap();
        symlink(other.path().join("big"), folder.path().join("file")).unwrap();
        symlink(other.path(), folder.path().join("folder")).unwrap();
        let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let mut tally = Tally::default();
        tally.add(folder.path()).unwrap();
        assert!((MIB..2 * MIB).contains(&tally.bytes), "{}", tally.bytes);
        assert_eq!(tally.entries, 6);
    }

    #[test]
    fn folders_without_end_are_an_excess_and_not_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().to_owned();
        for _ in 0..=DEPTH_MAX {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let error = Tally::default().add(folder.path()).unwrap_err();
        assert!(
            matches!(error, Unmeasured::Excess(Excess::Depth { max: DEPTH_MAX })),
            "{error:?}"
        );
    }

    #[test]
    fn a_machine_with_room_is_not_full_and_one_that_cannot_be_seen_has_no_say() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(&[folder.path().to_owned()]);
        assert!(room.bytes > 0);
        let room = Room::of(&[PathBuf::from("/nowhere")]);
        assert_eq!((room.bytes, room.full), (0, None));
    }
}
