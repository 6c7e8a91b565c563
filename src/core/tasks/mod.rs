//! Spawned work: tracked, stopped and waited for.
//!
//! Nothing in this crate is spawned outside [`Tasks`]. A family of tasks has two words: *stop* (everyone
//! finishes what is in hand and says goodbye) and *abort* (everyone ends at the next await point). The end or
//! the panic of a vital task stops its whole family, and [`Tasks::failure`] keeps the reason.

pub mod life;
pub mod signals;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::life::Life;
use crate::core::causes::Causes;

/// A family of tasks that is stopped and waited for as one; clones are handles to the same family.
#[derive(Clone)]
pub struct Tasks {
    stop: CancellationToken,
    abort: CancellationToken,
    /// Own tracker first, then those of all ancestors, so that a parent also waits for its children's tasks.
    trackers: Arc<[TaskTracker]>,
    failure: Arc<Mutex<Option<VitalEnd>>>,
    life: Life,
}

/// The turns of a periodic task, until its family is asked to stop.
#[derive(Debug)]
pub struct Turns {
    ticks: Interval,
    stop: CancellationToken,
}

impl Turns {
    /// Waits for the next turn; false when the family is asked to stop. Cancel-safe.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.ticks.tick() => true,
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running())
            .field("stopping", &self.is_stopping())
            .finish_non_exhaustive()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a vital task ended although nobody had asked its family to stop.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VitalEnd {
    /// It returned.
    #[error("vital task {name} ended")]
    Ended {
        /// The task's name.
        name: &'static str,
    },
    /// It returned an error.
    #[error("vital task {name} failed")]
    Failed {
        /// The task's name.
        name: &'static str,
        /// The error that it returned.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// It panicked: a bug of ours.
    #[error("vital task {name} panicked: {message}")]
    Panicked {
        /// The task's name.
        name: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// What a task may return: nothing, or a result whose error is logged under the task's name.
pub trait Ending: Send + 'static {
    /// Returns the error that the task ended with.
    fn into_error(self) -> Option<Arc<dyn Error + Send + Sync>>;
}

impl Ending for () {
    fn into_error(self) -> Option<Arc<dyn Error + Send + Sync>> {
        None
    }
}

impl<E: Error + Send + Sync + 'static> Ending for Result<(), E> {
    fn into_error(self) -> Option<Arc<dyn Error + Send + Sync>> {
        match self {
            Ok(()) => None,
            Err(error) => Some(Arc::new(error)),
        }
    }
}

impl Tasks {
    /// Returns a new, empty family.
    pub fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            trackers: Arc::new([TaskTracker::new()]),
            failure: Arc::default(),
            life: Life::default(),
        }
    }

    /// Returns a family inside this one: it can be stopped alone, and stops and is waited for with its parent.
    ///
    /// A vital task of the child stops the child only; the parent learns of it through [`Tasks::failure`] of
    /// the child.
    #[must_use]
    pub fn child(&self) -> Self {
        let trackers = std::iter::once(TaskTracker::new())
            .chain(self.trackers.iter().cloned())
            .collect();
        Self {
            stop: self.stop.child_token(),
            abort: self.abort.child_token(),
            trackers,
            failure: Arc::default(),
            life: self.life.clone(),
        }
    }

    /// Returns a family inside this one that goes on when its parent is asked to stop, until whoever keeps it stops it:
    /// for work that is to be finished first. It is aborted and waited for with its parent.
    #[must_use]
    pub fn outliving_child(&self) -> Self {
        Self {
            stop: CancellationToken::new(),
            ..self.child()
        }
    }

    /// Spawns a task that may end when it likes; an error or a panic is logged.
    ///
    /// The task is expected to watch [`Tasks::token`] or [`Tasks::stopped`] if it can wait for long. In a
    /// family that was aborted it ends before its first poll.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future + Send + 'static,
        F::Output: Ending,
    {
        let guarded = self.guard(future);
        self.launch(async move {
            match guarded.await {
                None | Some(Ok(None)) => {}
                Some(Ok(Some(error))) => tracing::warn!(task = name, error = %Causes(&*error), "task failed"),
                Some(Err(message)) => tracing::error!(task = name, message, "task panicked"),
            }
        })
    }

    /// Spawns a task without which the family is pointless: its end, error or panic stops the family, unless
    /// the family was stopping already.
    pub fn spawn_vital<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future + Send + 'static,
        F::Output: Ending,
    {
        let guarded = self.guard(future);
        let (stop, failure) = (self.stop.clone(), Arc::clone(&self.failure));
        self.launch(async move {
            let end = match guarded.await {
                None => return,
                Some(Ok(None)) if stop.is_cancelled() => return,
                Some(Ok(None)) => VitalEnd::Ended { name },
                Some(Ok(Some(source))) => VitalEnd::Failed { name, source },
                Some(Err(message)) => VitalEnd::Panicked { name, message },
            };
            tracing::error!(task = name, error = %Causes(&end), "vital task ended");
            failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(end);
            stop.cancel();
        })
    }

    /// Returns the token that is cancelled when the family is asked to stop.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks the family to stop; returns at once.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends every task of the family at its next await point; returns at once.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    /// Tells whether the family was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the family is asked to stop. Cancel-safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Returns the turns of a periodic task: the first at once, the others `every` so often.
    pub fn turns(&self, every: Duration) -> Turns {
        let mut ticks = interval(every);
        // A turn that takes long delays those after it, and is not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Turns {
            ticks,
            stop: self.token(),
        }
    }

    /// Returns what the family, its parents and its children show of themselves.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Waits until the family is aborted. Cancel-safe.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Returns how many tasks of the family, its children included, still run.
    pub fn running(&self) -> usize {
        self.trackers.first().map_or(0, TaskTracker::len)
    }

    /// Returns the first vital task that ended unasked.
    pub fn failure(&self) -> Option<VitalEnd> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops the family, waits at most `grace` for its tasks, then aborts the rest and waits for their end.
    ///
    /// Returns true if all ended within the grace.
    pub async fn shut_down(&self, grace: Duration) -> bool {
        self.stop.cancel();
        let Some(tracker) = self.trackers.first() else {
            return true;
        };
        tracker.close();
        let in_order = tokio::time::timeout(grace, tracker.wait()).await.is_ok();
        if !in_order {
            tracing::warn!(
                running = tracker.len(),
                "tasks outlived their grace and are aborted"
            );
        }
        // Also when in order: what is spawned from now on must not outlive the family.
        self.abort.cancel();
        tracker.wait().await;
        in_order
    }

    /// Wraps a future so that an abort ends it (`None`) and a panic becomes its message (`Some(Err)`).
    fn guard<F>(
        &self,
        future: F,
    ) -> impl Future<Output = Option<Result<Option<Arc<dyn Error + Send + Sync>>, String>>> + Send + 'static
    where
        F: Future + Send + 'static,
        F::Output: Ending,
    {
        let abort = self.abort.clone();
        // Each future around another one keeps room for it twice, so a task of some KiB would take eight times as many.
        let future = Box::pin(future);
        async move {
            tokio::select! {
                biased;
                () = abort.cancelled() => None,
                outcome = AssertUnwindSafe(future).catch_unwind() => {
                    Some(outcome.map(Ending::into_error).map_err(|panic| panic_message(&*panic)))
                }
            }
        }
    }

    fn launch(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let tokens: Vec<_> = self.trackers.iter().map(TaskTracker::token).collect();
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let handle = tokio::spawn(async move {
            future.await;
            drop(tokens);
        });
        handle.abort_handle()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_begin_at_once_and_end_with_the_family() {
        let tasks = Tasks::new();
        let mut turns = tasks.turns(Duration::from_secs(3600));
        assert!(turns.next().await);
        let stopper = async { tasks.stop() };
        let (goes_on, ()) = tokio::join!(turns.next(), stopper);
        assert!(!goes_on);
        assert!(!turns.next().await);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no bread")]
    struct NoBread;

    /// Keeps the compiler from knowing that a task panics, which would make its output `!`.
    fn tasks_burn() -> bool {
        std::hint::black_box(true)
    }

    #[tokio::test]
    async fn a_family_that_listens_ends_within_its_grace() {
        let tasks = Tasks::new();
        let stopped = tasks.token();
        tasks.spawn("listens", async move { stopped.cancelled().await });
        assert_eq!(tasks.running(), 1);
        assert!(tasks.shut_down(Duration::from_secs(1)).await);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_deaf_task_is_aborted_after_the_grace() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending::<()>());
        assert!(!tasks.shut_down(Duration::from_millis(10)).await);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn the_error_of_a_vital_task_stops_the_family_and_is_kept() {
        let tasks = Tasks::new();
        tasks.spawn_vital("baker", async { Err::<(), _>(NoBread) });
        tasks.stopped().await;
        let failure = tasks.failure().unwrap();
        assert_eq!(failure.to_string(), "vital task baker failed");
        assert_eq!(failure.source().unwrap().to_string(), "no bread");
    }

    #[tokio::test]
    async fn the_panic_of_a_vital_task_stops_the_family() {
        let tasks = Tasks::new();
        tasks.spawn_vital("baker", async { assert!(!tasks_burn(), "fire") });
        tasks.stopped().await;
        assert_eq!(
            tasks.failure().unwrap().to_string(),
            "vital task baker panicked: fire"
        );
    }

    #[tokio::test]
    async fn the_panic_of_a_common_task_stops_nobody() {
        let tasks = Tasks::new();
        tasks.spawn("guest", async { assert!(!tasks_burn(), "wine") });
        while tasks.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.is_stopping());
        assert!(tasks.failure().is_none());
    }

    #[tokio::test]
    async fn a_vital_task_may_end_after_the_stop() {
        let tasks = Tasks::new();
        let stopped = tasks.token();
        tasks.spawn_vital("listens", async move { stopped.cancelled().await });
        assert!(tasks.shut_down(Duration::from_secs(5)).await);
        assert!(tasks.failure().is_none());
    }

    #[tokio::test]
    async fn a_child_stops_alone_and_a_parent_waits_for_its_children() {
        let parent = Tasks::new();
        let (one, two) = (parent.child(), parent.child());
        let stopped = one.token();
        one.spawn("one", async move { stopped.cancelled().await });
        two.spawn("two", std::future::pending::<()>());
        assert!(one.shut_down(Duration::from_secs(1)).await);
        assert!(!parent.is_stopping());
        assert_eq!(parent.running(), 1);
        assert!(!parent.shut_down(Duration::from_millis(10)).await);
        assert_eq!(two.running(), 0);
    }

    #[tokio::test]
    async fn an_outliving_child_ends_when_it_is_stopped_or_aborted_and_is_waited_for() {
        let parent = Tasks::new();
        let child = parent.outliving_child();
        let stopped = child.token();
        child.spawn("works on", async move { stopped.cancelled().await });
        parent.stop();
        tokio::task::yield_now().await;
        assert_eq!((parent.running(), child.is_stopping()), (1, false));
        child.stop();
        assert!(parent.shut_down(Duration::from_secs(1)).await);

        let parent = Tasks::new();
        let child = parent.outliving_child();
        child.spawn("deaf", std::future::pending::<()>());
        assert!(!parent.shut_down(Duration::from_millis(10)).await);
        assert_eq!(child.running(), 0);
    }

    #[tokio::test]
    async fn nothing_starts_in_a_family_that_was_shut_down() {
        let tasks = Tasks::new();
        tasks.shut_down(Duration::ZERO).await;
        let (started, mut never) = tokio::sync::mpsc::channel::<()>(1);
        tasks.spawn("late", async move {
            started.send(()).await.unwrap();
        });
        assert!(never.recv().await.is_none());
    }
}
