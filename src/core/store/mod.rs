//! SQLite: one writer, many readers; the only room that knows SQL.
//!
//! Every role keeps one database file in its data directory. All changes go
//! through one thread that owns the writing connection; it takes them from a
//! bounded queue, runs each in its own savepoint of an immediate transaction,
//! and acknowledges them only after the commit has reached the disk
//! (`synchronous = FULL`). Changes that wait together share one commit, and so
//! one sync of the disk; a change that fails is undone alone. Readers are a few
//! lazily opened read-only connections, each call sees one snapshot.
//!
//! The SQL of a role and the rows it turns into model types live in a file of
//! this room named after the role, its numbered migrations in
//! `migrations/<role>/`. Those files use [`Store::write`] and [`Store::read`],
//! which are private to the room.

pub mod dynamic;
pub mod facilitator;
pub mod glance;
pub mod local_chain;
pub mod look;
pub mod miner;
pub mod places;
pub mod receipts;
pub mod times;
pub mod trap;
pub mod validator;

mod lock;
mod migrate;
mod readers;
mod writer;

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

pub use self::lock::{Holder, holder, lock_path};
pub use self::migrate::Migration;
pub use self::writer::StoreLoad;
use self::{lock::Lock, readers::Readers, writer::Writer};

/// Time that a connection waits for another process' lock on a shared database: 10 s.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory for pages of one connection, in KiB.
const CACHE_KIB: i64 = 1024;

/// A database could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or folder of the database cannot be made or opened.
    #[error("cannot use {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is none, and none is to be made.
    #[error("there is no {}", path.display())]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// Another process has the database open.
    #[error("{} is in use by another process{}", path.display(), pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The other process, where its lock file tells.
        pid: Option<u32>,
    },
    /// A newer program has written the database.
    #[error("{} has schema version {found}, this program knows versions up to {known}", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version of this program.
        known: u32,
    },
    /// A migration failed; the database is as it was before.
    #[error("migration {name} of {} failed", path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// Name of the migration.
        name: &'static str,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file system cannot keep a database in WAL mode.
    #[error("{} cannot be kept in write-ahead mode (it is in {mode:?} mode); is it on a network file system?", path.display())]
    NoWal {
        /// The database.
        path: PathBuf,
        /// The mode that SQLite fell back to.
        mode: String,
    },
    /// SQLite refuses the file.
    #[error("cannot open {}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// A read or a write failed; a failed write has left nothing behind.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk, or the quota on it, is full.
    #[error("the disk is full")]
    Full(#[source] rusqlite::Error),
    /// The file is damaged or no database.
    #[error("the database is damaged")]
    Corrupt(#[source] rusqlite::Error),
    /// The file or its folder cannot be written.
    #[error("the database is read-only")]
    ReadOnly(#[source] rusqlite::Error),
    /// The disk failed.
    #[error("the disk failed")]
    Io(#[source] rusqlite::Error),
    /// Another process held its lock for longer than this one waits.
    #[error("the database is locked by another process")]
    Busy(#[source] rusqlite::Error),
    /// A uniqueness, reference or check rule of the schema forbids the change.
    #[error("the change breaks a rule of the schema")]
    Constraint(#[source] rusqlite::Error),
    /// Any other failure of a statement.
    #[error("a statement failed")]
    Statement(#[source] rusqlite::Error),
    /// A stored value is not what the program writes there.
    #[error("the stored {what} cannot be read: {reason}")]
    Value {
        /// What the value is.
        what: &'static str,
        /// Why it cannot be read.
        reason: String,
    },
    /// The commit that this write shared with others failed.
    #[error("the transaction failed: {0}")]
    Commit(Arc<Self>),
    /// The code of the read or write itself panicked.
    #[error("the operation panicked")]
    Panicked,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Says whether a value cannot be read, for files of this room that turn rows into model types.
    #[expect(clippy::needless_pass_by_value, reason = "reads well in map_err")]
    fn value(what: &'static str, reason: impl ToString) -> Self {
        Self::Value {
            what,
            reason: reason.to_string(),
        }
    }

    /// Says whether further writes will fail as well, so that the role must stop rather than go on.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Full(_)
            | Self::Corrupt(_)
            | Self::ReadOnly(_)
            | Self::Io(_)
            | Self::Panicked
            | Self::Closed => true,
            Self::Commit(cause) => cause.is_fatal(),
            Self::Busy(_) | Self::Constraint(_) | Self::Statement(_) | Self::Value { .. } => false,
        }
    }

    /// Says whether a rule of the schema, such as a primary key, forbade the change.
    pub fn is_constraint(&self) -> bool {
        matches!(self, Self::Constraint(_))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::DiskFull) => Self::Full(error),
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Corrupt(error),
            Some(Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen) => Self::ReadOnly(error),
            Some(Code::SystemIoFailure) => Self::Io(error),
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy(error),
            Some(Code::ConstraintViolation) => Self::Constraint(error),
            _ => Self::Statement(error),
        }
    }
}

/// An open database; cheap to clone.
///
/// When the last clone is dropped, queued writes are finished and the file is closed.
#[derive(Debug, Clone)]
pub struct Store {
    // In this order, because fields are dropped in order: the lock goes last.
    writer: Arc<Writer>,
    readers: Arc<Readers>,
    _lock: Option<Arc<Lock>>,
}

impl Store {
    /// Opens the database at `path` for this process alone, making it and its folder where missing,
    /// and brings it to the newest of `migrations`.
    ///
    /// Blocks for as long as the migrations take.
    pub fn open(path: &Path, migrations: &'static [Migration]) -> Result<Self, OpenError> {
        prepare_files(path)?;
        let lock = Lock::acquire(path)?;
        Self::start(path, migrations, Some(Arc::new(lock)))
    }

    /// Opens a database that exists, beside the process that holds it, for short reads and writes.
    fn open_beside(path: &Path, migrations: &'static [Migration]) -> Result<Self, OpenError> {
        if !path.exists() {
            let path = path.to_owned();
            return Err(OpenError::Missing { path });
        }
        Self::start(path, migrations, None)
    }

    /// Opens a database that several processes share; a write waits for those of the others.
    fn open_shared(path: &Path, migrations: &'static [Migration]) -> Result<Self, OpenError> {
        prepare_files(path)?;
        Self::start(path, migrations, None)
    }

    fn start(
        path: &Path,
        migrations: &'static [Migration],
        lock: Option<Arc<Lock>>,
    ) -> Result<Self, OpenError> {
        let refused = |source| OpenError::Sqlite {
            path: path.to_owned(),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = connect(path, flags).map_err(refused)?;
        set_up_writing(&connection, path)?;
        migrate::run(&mut connection, path, migrations)?;
        let writer = Writer::start(connection).map_err(|source| OpenError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            writer: Arc::new(writer),
            readers: Arc::new(Readers::new(path)),
            _lock: lock,
        })
    }

    /// Returns what the writer has done and has to do.
    fn load(&self) -> StoreLoad {
        self.writer.load()
    }

    /// Runs `change` in a transaction and returns once it is on the disk.
    ///
    /// An error of `change` undoes all it did. Waits while the queue is full.
    /// A call that is dropped before it returned may or may not have happened:
    /// what was queued is still carried out.
    async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer.write(change).await
    }

    /// Runs `query` as [`Self::read`] does, but in place: for looking a few rows up by an index, nothing more.
    fn read_here<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.readers.read_here(query)
    }

    /// Runs `query` on a read-only snapshot of everything acknowledged so far.
    async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.readers.read(query).await
    }
}

/// Makes the folder and the file where missing, for the owner's eyes only: jobs carry secrets.
fn prepare_files(path: &Path) -> Result<(), OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(failed(folder))?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(failed(path))
}

/// Opens a connection with what every connection needs.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Negative: in KiB rather than pages.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.set_prepared_statement_cache_capacity(64);
    // A plan is made once: else SQLite makes it anew for nearly every value that is bound, which costs more than the
    // questions themselves.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Puts the database into WAL mode and the connection into full sync.
fn set_up_writing(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let refused = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let mode = switch_to_wal(connection).map_err(refused)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::NoWal {
            path: path.to_owned(),
            mode,
        });
    }
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(refused)
}

/// Switches to WAL; SQLite does not wait for other processes there, so this does.
fn switch_to_wal(connection: &Connection) -> Result<String, rusqlite::Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut patience = BUSY_TIMEOUT.as_millis() / PAUSE.as_millis();
    loop {
        let switched = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0));
        match switched {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && patience > 0 =>
            {
                patience -= 1;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "opening is blocking by contract and happens before the runtime has work"
                )]
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
