//! What is read of directories, files and limits; all of it blocks, and nothing of it writes.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// The most that is read of a file of `/proc`, in bytes.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Folders in which units of systemd lie.
const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// A directory, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// What is there; none if nothing is.
    pub found: Result<Option<Entry>, String>,
    /// Whether it could be made, where it is missing: this user may write to the nearest folder above that exists.
    pub can_be_made: bool,
    /// The number of its file system, or of the nearest folder above that exists, as `statfs` gives it.
    pub kind: Result<u64, String>,
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its mode: twelve bits.
    pub mode: u32,
    /// The number of its owner.
    pub owner: u32,
    /// The number of this process' user.
    pub me: u32,
    /// Whether this process may write there.
    pub is_writable: bool,
}

impl Directory {
    /// Looks at a directory.
    pub fn read(path: &Path) -> Self {
        let nearest = path.ancestors().skip(1).find(|path| path.exists());
        let above = nearest.map(entry);
        Self {
            path: path.to_owned(),
            found: entry(path),
            can_be_made: matches!(above, Some(Ok(Some(entry))) if entry.is_dir && entry.is_writable),
            kind: file_system(path),
        }
    }
}

fn entry(path: &Path) -> Result<Option<Entry>, String> {
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    Ok(Some(Entry {
        is_dir: facts.is_dir(),
        mode: facts.permissions().mode() & 0o7777,
        owner: facts.uid(),
        me: rustix::process::geteuid().as_raw(),
        is_writable: rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
    }))
}

/// A file that must be private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its mode, or why it is not known; none where there is no such file.
    pub mode: Option<Result<u32, String>>,
}

impl KeyFile {
    /// Looks at a file.
    pub fn read(path: &Path) -> Self {
        let mode = match fs::metadata(path) {
            Ok(facts) => Some(Ok(facts.permissions().mode() & 0o7777)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(Err(error.to_string())),
        };
        Self {
            path: path.to_owned(),
            mode,
        }
    }
}

/// Returns the number of the file system that a path lies on, or of the nearest folder above that exists.
pub fn file_system(path: &Path) -> Result<u64, String> {
    let nearest = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let facts = rustix::fs::statfs(nearest).map_err(|error| error.to_string())?;
    // Its type differs between architectures; the numbers have 32 bits.
    u32::try_from(facts.f_type & 0xffff_ffff)
        .map(u64::from)
        .map_err(|error| error.to_string())
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this user may still write.
    pub bytes: u64,
    /// Files that this user may still make; none where the file system does not count them.
    pub files: Option<u64>,
}

impl Room {
    /// Looks at the file system of a path, or of the nearest folder above that exists.
    pub fn read(path: &Path) -> Result<Self, String> {
        let nearest = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        let facts = rustix::fs::statvfs(nearest).map_err(|error| error.to_string())?;
        Ok(Self {
            bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
            files: (facts.f_files > 0).then_some(facts.f_favail),
        })
    }
}

/// Returns the hard limit of open files; none if there is none.
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Returns the bytes of memory that can be had without swapping.
pub fn memory_available() -> Result<u64, String> {
    let path = "/proc/meminfo";
    let text = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let text = String::from_utf8_lossy(text.get(..FILE_BYTES_MAX).unwrap_or(&text)).into_owned();
    available_of(&text).ok_or_else(|| format!("{path} does not tell"))
}

fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Ticks in a second by which the kernel tells when a process began; the same on all systems that horde runs on.
const TICKS: u64 = 100;

/// Returns for how long a process runs; none if it does not, or the kernel does not tell.
pub fn running_for(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    age_of(&stat, &uptime)
}

fn age_of(stat: &str, uptime: &str) -> Option<Duration> {
    // The name, in brackets, may hold anything; the moment is the 20th word after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let began: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let now = seconds
        .parse::<u64>()
        .ok()?
        .checked_mul(TICKS)?
        .checked_add(hundredths.parse().ok()?)?;
    Some(Duration::from_millis(
        now.saturating_sub(began).saturating_mul(1000 / TICKS),
    ))
}

/// Returns the unit of a role, if there is one; `home` is where users keep theirs.
pub fn unit(role: &str, config_home: Option<&Path>) -> Option<PathBuf> {
    let name = format!("horde-{role}.service");
    let of_user = config_home.map(|home| home.join("systemd/user"));
    UNIT_FOLDERS
        .iter()
        .map(PathBuf::from)
        .chain(of_user)
        .map(|folder| folder.join(&name))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available_of(text), Some(2 * 1024 * 1024));
        for text in ["", "MemAvailable:", "MemAvailable: x kB"] {
            assert_eq!(available_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_directory_is_seen_with_its_mode_and_a_missing_one_by_what_is_above() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let found = Directory::read(folder.path());
        let entry = found.found.unwrap().unwrap();
        assert!(entry.is_dir && entry.is_writable);
        assert_eq!((entry.mode, entry.owner), (0o750, entry.me));
        let missing = Directory::read(&folder.path().join("not/there"));
        assert_eq!(missing.found, Ok(None));
        assert!(missing.can_be_made);
        assert_eq!(missing.kind, found.kind);
        assert!(Room::read(&missing.path).unwrap().bytes > 0);
    }

    #[test]
    fn the_age_of_a_process_is_read_whatever_its_name_is() {
        let stat = format!("7 (a) b (c) S {}4200 0 0", "1 ".repeat(18));
        assert_eq!(age_of(&stat, "100.50 3.0\n"), Some(Duration::from_millis(58_500)));
        for (stat, uptime) in [("", "1.0"), ("7 (a) S 1", "1.0"), (stat.as_str(), "x")] {
            assert_eq!(age_of(stat, uptime), None);
        }
        assert!(running_for(std::process::id()).is_some());
    }

    #[test]
    fn a_unit_is_found_where_a_user_keeps_it() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(unit("test-role", Some(home.path())), None);
        let path = home.path().join("systemd/user/horde-test-role.service");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(unit("test-role", Some(home.path())), Some(path));
    }
}
