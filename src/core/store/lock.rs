//! The lock file that keeps a second process away from a database.

use std::os::unix::fs::MetadataExt as _;
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
    let Ok(mut file) = File::open(lock_path(path)) else {
        return Holder::Nobody;
    };
    let inode = file.metadata().map(|metadata| metadata.ino());
    match (read_pid(&mut file), inode) {
        (Some(pid), Ok(inode)) if is_locked(&locks, pid, inode) => Holder::Process(pid),
        _ => Holder::Nobody,
    }
}

/// Tells whether the process holds a lock on the file of this number, and not on any other: a process may have the number
/// of one that is long gone, and a program may hold several databases.
fn is_locked(locks: &str, pid: u32, inode: u64) -> bool {
    locks.lines().any(|line| {
        // As in `1: FLOCK  ADVISORY  WRITE 4711 08:02:1234 0 EOF`; the device is not compared, since some file systems
        // show another one there than to who asks for a file's.
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("FLOCK")
            && words.nth(2).and_then(|word| word.parse().ok()) == Some(pid)
            && words
                .next()
                .and_then(|file| file.rsplit(':').next()?.parse().ok())
                == Some(inode)
    })
}

/// Returns the path of the lock of the database at `database`.
pub fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_counts_for_its_own_file_and_its_own_process() {
        let locks =
            "1: POSIX  ADVISORY  WRITE 10 08:02:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 10 08:02:77 0 EOF\n";
        assert!(is_locked(locks, 10, 77));
        for (pid, inode) in [(10, 5), (10, 7), (11, 77)] {
            assert!(!is_locked(locks, pid, inode), "{pid} {inode}");
        }
        assert!(!is_locked("nonsense\n\n3: FLOCK", 10, 77));
    }

    #[test]
    fn the_holder_of_a_database_is_seen_while_it_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        assert_eq!(holder(&path), Holder::Nobody);
        let lock = Lock::acquire(&path).unwrap();
        assert_eq!(holder(&path), Holder::Process(std::process::id()));
        let _other = Lock::acquire(&folder.path().join("b.sqlite")).unwrap();
        drop(lock);
        // A process that another test has just started may still have it, for as long as it takes to become a program.
        while holder(&path) != Holder::Nobody {
            std::thread::yield_now();
        }
    }
}
