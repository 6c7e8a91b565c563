//! The writer: one thread, one connection, a bounded queue, commits shared by what waits together.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// Writes that wait; further callers wait until there is room.
const QUEUE: usize = 256;

/// Writes that share one commit at most, so that the first of them is not kept waiting for long.
const GROUP: usize = 64;

/// Stack of the thread; SQLite itself needs far less than the default 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// What the writer of a store has done since its start, and has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLoad {
    /// Writes that were carried out.
    pub writes: u64,
    /// Commits; writes that wait together share one.
    pub commits: u64,
    /// Writes that wait.
    pub waiting: u64,
}

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    commits: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Writer {
    counts: Arc<Counts>,
    // Both are taken apart in `Drop`, the queue first.
    queue: Option<mpsc::Sender<Box<dyn Change>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> io::Result<Self> {
        let (queue, changes) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&connection, changes, &counted))?;
        Ok(Self {
            counts,
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    pub(super) async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queued = Queued {
            change: Some(change),
            outcome: None,
            reply,
        };
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue
            .send(Box::new(queued))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Writer {
    /// Returns what the writer has done and has to do.
    pub(super) fn load(&self) -> StoreLoad {
        let waiting = self
            .queue
            .as_ref()
            .map_or(0, |queue| queue.max_capacity().saturating_sub(queue.capacity()));
        StoreLoad {
            writes: self.counts.writes.load(Ordering::Relaxed),
            commits: self.counts.commits.load(Ordering::Relaxed),
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Writer {
    /// Finishes what is queued and closes the file, so that whoever opens it next finds it free.
    ///
    /// Waits for at most the queue's worth of commits.
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(handle) = self.thread.take() else {
            return;
        };
        // A change may hold the last clone of the store: the writer cannot wait for itself.
        if handle.thread().id() != thread::current().id() && handle.join().is_err() {
            tracing::error!("the writer of the store panicked");
        }
    }
}

/// A queued write, its type erased.
trait Change: Send {
    /// Runs the write and keeps its outcome; false when it has to be undone.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Takes the error of a write that failed.
    fn take_error(&mut self) -> Option<StoreError>;
    /// Puts a failure in place of a kept success.
    fn fail(&mut self, cause: &Arc<StoreError>);
    /// Tells the caller.
    fn acknowledge(self: Box<Self>);
}

struct Queued<T, F> {
    change: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Change for Queued<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(change) = self.change.take() else {
            return false;
        };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| change(connection))).unwrap_or(Err(StoreError::Panicked));
        self.outcome.insert(outcome).is_ok()
    }

    fn take_error(&mut self) -> Option<StoreError> {
        self.outcome
            .take_if(|outcome| outcome.is_err())
            .and_then(Result::err)
    }

    fn fail(&mut self, cause: &Arc<StoreError>) {
        if !matches!(self.outcome, Some(Err(_))) {
            self.outcome = Some(Err(StoreError::Commit(Arc::clone(cause))));
        }
    }

    fn acknowledge(self: Box<Self>) {
        let outcome = self.outcome.unwrap_or(Err(StoreError::Closed));
        // A caller that has gone away needs no answer.
        drop(self.reply.send(outcome));
    }
}

/// The thread: until all handles are gone, takes what waits and commits it together.
fn serve(connection: &Connection, mut changes: mpsc::Receiver<Box<dyn Change>>, counts: &Counts) {
    let mut group = Vec::with_capacity(GROUP);
    while changes.blocking_recv_many(&mut group, GROUP) > 0 {
        if let Err(error) = commit(connection, &mut group) {
            // Whatever state the failure left, the next group begins outside of a transaction.
            if !connection.is_autocommit() {
                drop(connection.execute_batch("ROLLBACK"));
            }
            let cause = Arc::new(error);
            if cause.is_fatal() {
                tracing::error!(error = %cause, "the store cannot write");
            }
            for change in &mut group {
                change.fail(&cause);
            }
        }
        counts.commits.fetch_add(1, Ordering::Relaxed);
        let writes = u64::try_from(group.len()).unwrap_or(u64::MAX);
        counts.writes.fetch_add(writes, Ordering::Relaxed);
        for change in group.drain(..) {
            change.acknowledge();
        }
    }
}

/// Runs a group of changes, each in a savepoint, and commits those that succeeded.
fn commit(connection: &Connection, group: &mut [Box<dyn Change>]) -> Result<(), StoreError> {
    // Prepared once: to read the words anew takes as long as to carry them out.
    let order = |words| connection.prepare_cached(words)?.execute(());
    order("BEGIN IMMEDIATE")?;
    for change in group {
        order("SAVEPOINT change")?;
        if change.run(connection) {
            order("RELEASE change")?;
        } else if connection.is_autocommit() {
            // After such failures as a full disk SQLite undoes the whole transaction by itself.
            return Err(change.take_error().unwrap_or(StoreError::Closed));
        } else {
            connection.execute_batch("ROLLBACK TO change; RELEASE change")?;
        }
    }
    order("COMMIT")?;
    Ok(())
}
