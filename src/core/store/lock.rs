//! The lock file that keeps a second process away from a database.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::OpenError;

/// Holds `<database>.lock` locked; the operating system lets go when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// Locks, or says which process was there first.
    pub(super) fn acquire(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let failed = |source| OpenError::File {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        // Not truncated: the text belongs to whoever holds the lock.
        options.create(true).read(true).write(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    path: database.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self(file))
    }
}

/// Who holds a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process(u32),
    /// None that can be seen from here.
    Nobody,
    /// This system does not tell.
    Unknown,
}

/// Tells who holds the database at `path`, without touching its lock: a lock that was tried, if only for a moment, could
/// keep its role from starting.
pub fn holder(path: &Path) -> Holder {
    // Linux lists the locks of all processes that can be seen from here.
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else {
        return Holder::Unknown;
    };
    let written = File::open(lock_path(path))
        .ok()
        .and_then(|mut file| read_pid(&mut file));
    let holds = |pid: u32| {
        locks.lines().any(|line| {
            // As in `1: FLOCK  ADVISORY  WRITE 4711 08:02:1234 0 EOF`.
            let mut words = line.split_whitespace().skip(1);
            words.next() == Some("FLOCK") && words.nth(2).and_then(|word| word.parse().ok()) == Some(pid)
        })
    };
    match written {
        Some(pid) if holds(pid) => Holder::Process(pid),
        _ => Holder::Nobody,
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
