//! Looks at a database without being its role: no lock, no migration, not one byte written.
//!
//! The role may be running, or be long gone; the file may be a copy in a folder that nobody may write to. What is there
//! decides how it is opened ([`Way`]). A look is for a moment: whoever comes back later opens another one, which takes
//! less than a millisecond and is then right about what has been written, moved or deleted in between.
//!
//! What can be asked stands with the nouns: [`MinerLook`](super::miner::look::MinerLook),
//! [`FacilitatorLook`](super::facilitator::look::FacilitatorLook),
//! [`ValidatorLook`](super::validator::look::ValidatorLook), [`ChainLook`](super::local_chain::ChainLook).

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use thiserror::Error;
use time::OffsetDateTime;

use super::places::Role;
use super::{Migration, StoreError, set_up};

/// Time that a look waits for somebody who mends the database after a crash: 250 ms.
const PATIENCE: Duration = Duration::from_millis(250);

/// A database cannot be looked at, or does not answer.
#[derive(Debug, Error)]
pub enum LookError {
    /// There is none.
    #[error("there is no {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file cannot be reached.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A newer program has written it.
    #[error("{} has schema version {found}, this program knows versions up to {known}", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version of this program.
        known: u32,
    },
    /// An older program has written it, and it lacks what was asked for.
    #[error("{} has schema version {found} of {known} and lacks this: {lacks}", path.display())]
    Older {
        /// The database.
        path: PathBuf,
        /// Version in the file; 0 if nothing was ever written to it.
        found: u32,
        /// Newest version of this program.
        known: u32,
        /// What SQLite misses, as in `no such table: accepted_job`.
        lacks: String,
    },
    /// It is damaged, locked, or holds what cannot be read.
    #[error("cannot read {}", path.display())]
    Store {
        /// The database.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Beside the role that has it open, by the index in shared memory that both use.
    Beside,
    /// With an index of one's own in memory: there is a log of changes, but nobody shares an index of it, as in a copy of
    /// both files, or where the index may not be read.
    Apart,
    /// As a file that does not change: there is no log, so nobody has it open.
    Still,
}

impl Way {
    /// Returns the ways for what lies beside the database, the best first.
    fn of(path: &Path) -> &'static [Self] {
        match (beside(path, "-wal").exists(), beside(path, "-shm").exists()) {
            (false, _) => &[Self::Still],
            (true, true) => &[Self::Beside, Self::Apart],
            (true, false) => &[Self::Apart],
        }
    }

    const fn parameters(self) -> &'static str {
        match self {
            Self::Beside => "?mode=ro",
            // Without locks, as there is nobody to be kept away; taking them would need a file that can be written.
            Self::Apart => "?mode=ro&vfs=unix-none",
            Self::Still => "?mode=ro&immutable=1",
        }
    }

    /// Opens the database and reads its schema's version, which is the first thing that fails if this way leads nowhere.
    fn open(self, path: &Path) -> Result<(Connection, u32), rusqlite::Error> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(path, self.parameters()), flags)?;
        if self == Self::Apart {
            // Before anything is read: makes SQLite keep the index of the log in its own memory.
            connection.query_row("PRAGMA locking_mode = EXCLUSIVE", (), |_| Ok(()))?;
        }
        set_up(&connection)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "query_only", true)?;
        let version = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
        Ok((connection, version))
    }
}

/// An open database of one schema, to be asked.
#[derive(Debug)]
pub struct Look {
    path: PathBuf,
    connection: Connection,
    found: u32,
    known: u32,
}

impl Look {
    /// Opens the database at `path`, whose schema these migrations make; blocks.
    pub(super) fn open(path: &Path, migrations: &[Migration]) -> Result<Self, LookError> {
        // SQLite keeps its other files beside the real one.
        let real = fs::canonicalize(path).map_err(|source| unreachable(path, source))?;
        let (connection, found) = open(&real).map_err(|source| failed(path, source.into()))?;
        let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
        let path = path.to_owned();
        if found > known {
            return Err(LookError::Newer { path, found, known });
        }
        Ok(Self {
            path,
            connection,
            found,
            known,
        })
    }

    /// Runs `query` on one snapshot; blocks, and holds no snapshot afterwards.
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, LookError> {
        self.in_snapshot(query).map_err(|source| match lacks(&source) {
            Some(lacks) if self.found < self.known => LookError::Older {
                path: self.path.clone(),
                found: self.found,
                known: self.known,
                lacks,
            },
            _ => failed(&self.path, source),
        })
    }

    fn in_snapshot<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connection.prepare_cached("BEGIN")?.execute(())?;
        let found = query(&self.connection);
        self.connection.prepare_cached("COMMIT")?.execute(())?;
        found
    }

    /// Opens the database of a role; blocks.
    pub fn of_role(role: Role, path: &Path) -> Result<Self, LookError> {
        let migrations = match role {
            Role::Facilitator => super::facilitator::MIGRATIONS,
            Role::Validator => super::validator::MIGRATIONS,
            Role::Miner => super::miner::MIGRATIONS,
        };
        Self::open(path, migrations)
    }

    /// Has SQLite look for damage; returns what it found, nothing when all is well. Blocks for as long as it takes to read
    /// the whole file, or until it is interrupted.
    pub fn faults(&self) -> Result<Vec<String>, LookError> {
        self.read(faults)
    }

    /// Returns what ends a question that takes too long, from another thread.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.connection.get_interrupt_handle())
    }

    /// Returns the version of the schema in the file, and the newest of this program.
    pub fn schema(&self) -> (u32, u32) {
        (self.found, self.known)
    }
}

/// Ends a question to a database.
pub struct Interrupter(InterruptHandle);

impl fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupter")
    }
}

impl Interrupter {
    /// Ends the question that is being answered, if there is one: it fails.
    pub fn interrupt(&self) {
        self.0.interrupt();
    }
}

/// Faults that are named at most.
const FAULTS_MAX: u32 = 10;

/// Has SQLite look for damage.
pub(super) fn faults(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let lines = statement.query_map((), |row| row.get::<_, String>(0))?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Returns the files of the database at `path`: itself, and what SQLite keeps beside it.
pub fn files(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")]
}

/// What a database takes on the disk, and when it was written last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the database and of its log.
    pub bytes: u64,
    /// When either was written last, UTC, by the file system.
    pub written_at: Option<OffsetDateTime>,
}

/// Returns the footprint of the database at `path`, without opening it.
pub fn footprint(path: &Path) -> Footprint {
    let mut footprint = Footprint::default();
    for file in [path.to_owned(), beside(path, "-wal")] {
        if let Ok(metadata) = fs::metadata(&file) {
            footprint.bytes = footprint.bytes.saturating_add(metadata.len());
            let written = metadata.modified().ok().map(OffsetDateTime::from);
            footprint.written_at = footprint.written_at.max(written);
        }
    }
    footprint
}

fn open(real: &Path) -> Result<(Connection, u32), rusqlite::Error> {
    let mut outcome = Err(rusqlite::Error::InvalidQuery);
    for way in Way::of(real) {
        outcome = way.open(real);
        let is_barred = |error: &rusqlite::Error| {
            matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            )
        };
        match &outcome {
            Err(error) if is_barred(error) => {}
            _ => break,
        }
    }
    outcome
}

fn unreachable(path: &Path, source: io::Error) -> LookError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        LookError::Missing { path }
    } else {
        LookError::File { path, source }
    }
}

fn failed(path: &Path, source: StoreError) -> LookError {
    let path = path.to_owned();
    LookError::Store { path, source }
}

/// Returns what a statement misses in the schema, if that is why it failed.
fn lacks(error: &StoreError) -> Option<String> {
    let StoreError::Statement(
        rusqlite::Error::SqliteFailure(_, Some(words)) | rusqlite::Error::SqlInputError { msg: words, .. },
    ) = error
    else {
        return None;
    };
    let is_lack = ["no such table", "no such column"]
        .iter()
        .any(|beginning| words.starts_with(beginning));
    is_lack.then(|| words.clone())
}

/// Returns the path of a file that SQLite keeps beside its database.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Writes an absolute path as SQLite's `file:` address; what could mean something in an address is escaped.
fn uri(path: &Path, parameters: &str) -> PathBuf {
    let mut text = OsString::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte);
        if is_plain {
            text.push(char::from(*byte).encode_utf8(&mut [0; 4]));
        } else {
            text.push(format!("%{byte:02X}"));
        }
    }
    text.push(parameters);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    const OLD: &[Migration] = &[Migration {
        name: "0001",
        sql: "CREATE TABLE thing (value INTEGER) STRICT;",
    }];
    const NEW: &[Migration] = &[
        OLD[0],
        Migration {
            name: "0002",
            sql: "CREATE TABLE other (value INTEGER) STRICT;",
        },
    ];

    async fn add(store: &Store, value: i64) {
        let change = move |connection: &Connection| {
            connection.execute("INSERT INTO thing VALUES (?1)", [value])?;
            Ok(())
        };
        store.write(change).await.unwrap();
    }

    fn sum(path: &Path, migrations: &[Migration]) -> Result<i64, LookError> {
        Look::open(path, migrations)?.read(|connection| {
            Ok(connection.query_row("SELECT sum(value) FROM thing", (), |row| row.get(0))?)
        })
    }

    fn files(folder: &Path) -> Vec<(OsString, u64)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), entry.metadata().unwrap().len())
            })
            .collect();
        files.sort();
        files
    }

    /// Copies a running database without its lock and, if asked so, without its index, and forbids all writing.
    fn copy(from: &Path, to: &Path, ends: &[&str]) -> PathBuf {
        for end in ends {
            fs::copy(beside(from, end), beside(&to.join("copy %3f?#.sqlite"), end)).unwrap();
        }
        forbid(to, true);
        to.join("copy %3f?#.sqlite")
    }

    /// Where tests run as root this forbids nothing; that nothing is written is looked at besides.
    fn forbid(folder: &Path, is_forbidden: bool) {
        use std::os::unix::fs::PermissionsExt;
        let mode = if is_forbidden { 0o555 } else { 0o755 };
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn a_look_beside_a_running_store_sees_what_was_acknowledged_and_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sqlite");
        let store = Store::open(&path, OLD).unwrap();
        add(&store, 1).await;
        let before = files(folder.path());
        assert_eq!(sum(&path, OLD).unwrap(), 1);
        assert_eq!(files(folder.path()), before);
        // It keeps nobody from writing, and what is written later is seen by the next look.
        let look = Look::open(&path, OLD).unwrap();
        add(&store, 2).await;
        assert_eq!(sum(&path, OLD).unwrap(), 3);
        let refused = look.read(|connection| Ok(connection.execute("DELETE FROM thing", ())?));
        assert!(matches!(
            refused,
            Err(LookError::Store {
                source: StoreError::ReadOnly(_),
                ..
            })
        ));
    }

    #[tokio::test]
    async fn a_look_works_on_copies_that_cannot_be_written_with_and_without_their_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sqlite");
        let store = Store::open(&path, OLD).unwrap();
        add(&store, 1).await;
        for ends in [&["", "-wal"][..], &["", "-wal", "-shm"]] {
            let other = tempfile::tempdir().unwrap();
            let copied = copy(&path, other.path(), ends);
            let before = files(other.path());
            assert_eq!(sum(&copied, OLD).unwrap(), 1, "{ends:?}");
            assert_eq!(files(other.path()), before);
            forbid(other.path(), false);
        }
        drop(store);
        assert!(
            !beside(&path, "-wal").exists(),
            "the store was closed in good order"
        );
        let other = tempfile::tempdir().unwrap();
        let copied = copy(&path, other.path(), &[""]);
        let before = files(other.path());
        assert_eq!(sum(&copied, OLD).unwrap(), 1);
        assert_eq!(files(other.path()), before, "no log is begun");
        forbid(other.path(), false);
    }

    #[test]
    fn older_databases_are_read_as_far_as_they_go_and_newer_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sqlite");
        drop(Store::open(&path, OLD).unwrap());
        let look = Look::open(&path, NEW).unwrap();
        assert_eq!(look.schema(), (1, 2));
        look.read(|connection| Ok(connection.execute_batch("SELECT * FROM thing")?))
            .unwrap();
        let lacking = look.read(|connection| Ok(connection.execute_batch("SELECT * FROM other")?));
        assert!(
            matches!(
                lacking,
                Err(LookError::Older {
                    found: 1,
                    known: 2,
                    ..
                })
            ),
            "{lacking:?}"
        );
        // A fault of our own is not taken for age.
        let wrong = look.read(|connection| Ok(connection.execute_batch("SELEKT")?));
        assert!(matches!(wrong, Err(LookError::Store { .. })), "{wrong:?}");
        drop(Store::open(&path, NEW).unwrap());
        let newer = Look::open(&path, OLD);
        assert!(matches!(
            newer,
            Err(LookError::Newer {
                found: 2,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn what_is_no_database_is_an_error_and_an_empty_one_is_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sqlite");
        assert!(matches!(sum(&path, OLD), Err(LookError::Missing { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(sum(&path, OLD), Err(LookError::Older { found: 0, .. })));
        fs::write(
            &path,
            "this is no database, however long one looks at it".repeat(99),
        )
        .unwrap();
        let damaged = sum(&path, OLD);
        assert!(
            matches!(
                damaged,
                Err(LookError::Store {
                    source: StoreError::Corrupt(_),
                    ..
                })
            ),
            "{damaged:?}"
        );
        assert!(matches!(sum(folder.path(), OLD), Err(LookError::Store { .. })));
    }

    #[tokio::test]
    async fn a_footprint_counts_the_log_and_tells_when_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sqlite");
        assert_eq!(footprint(&path), Footprint::default());
        let store = Store::open(&path, OLD).unwrap();
        add(&store, 1).await;
        let found = footprint(&path);
        assert!(found.bytes > fs::metadata(&path).unwrap().len());
        assert!(found.written_at.is_some());
    }
}
