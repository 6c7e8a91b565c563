//! The readers: a few read-only connections, opened when first needed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{StoreError, connect};

/// Reads that run at once; further ones wait.
const READERS: usize = 4;

/// Connections that are kept open; threads of the runtime may look besides the readers.
const PARKED_MAX: usize = 2 * READERS;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    slots: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            slots: Arc::new(Semaphore::new(READERS)),
            idle: Arc::default(),
        }
    }

    /// Runs a query in place rather than on a thread that may wait for the disk.
    ///
    /// For looking a few rows up by an index: these are in memory as a rule, and handing them to another thread and back
    /// takes several times as long as the look itself.
    pub(super) fn read_here<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        look(&self.idle, &self.path, query)
    }

    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let path = self.path.clone();
        let reading = spawn_blocking(move || {
            let _slot = slot;
            look(&idle, &path, query)
        });
        reading.await.map_err(|_| StoreError::Closed)?
    }
}

/// Runs a query on a parked connection, or on a new one, and parks it.
fn look<T>(
    idle: &Mutex<Vec<Connection>>,
    path: &Path,
    query: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let parked = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let connection = match parked {
        Some(connection) => connection,
        None => connect(path, flags())?,
    };
    // A panic leaves the connection in an unknown state: it is not parked again.
    let outcome = catch_unwind(AssertUnwindSafe(|| in_snapshot(&connection, query)))
        .map_err(|_| StoreError::Panicked)?;
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < PARKED_MAX {
        idle.push(connection);
    }
    outcome
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Gives all statements of one query the same view of the data.
fn in_snapshot<T>(
    connection: &Connection,
    query: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // Words that are prepared once; a transaction that only read has nothing to undo.
    connection.prepare_cached("BEGIN")?.execute(())?;
    let found = query(connection);
    connection.prepare_cached("COMMIT")?.execute(())?;
    found
}
