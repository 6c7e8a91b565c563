//! Executor slots and the jobs that hold them.
//!
//! Which slot is taken is written in the store, in the transaction that accepts a job; here is who looks after
//! each job of this life, and how to reach them. A slot is given back by the job's keeper, once its executor has
//! exited.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::keeper::Letter;
use crate::core::clock::Clock;
use crate::core::model::{ExecutorClass, Hotkey, JobId, Manifest};
use crate::core::store::StoreError;
use crate::core::store::miner::{MinerStore, Offer, Reservation};

/// How long an offer waits for an executor whose job is over to exit, before it is declined. The reference takes up
/// to 2 s for the same; validators wait for 7.
const EXIT_WAIT: Duration = Duration::from_secs(2);

/// Where the keeper of a job is reached.
#[derive(Debug, Clone)]
pub struct Post {
    /// Whose job it is.
    pub validator: Hotkey,
    /// The class of its executor.
    pub class: ExecutorClass,
    /// The token of its executor.
    pub token: String,
    /// Letters to its keeper.
    pub letters: mpsc::Sender<Letter>,
    /// Whether the job is over and only its executor's exit is awaited.
    pub is_leaving: bool,
}

/// The slots of a miner.
#[derive(Debug)]
pub struct Pool {
    store: MinerStore,
    clock: Clock,
    manifest: Manifest,
    posts: Mutex<HashMap<JobId, Post>>,
    freed: Notify,
}

impl Pool {
    /// Makes a pool of the executors of a manifest.
    pub fn new(store: MinerStore, clock: Clock, manifest: Manifest) -> Self {
        Self {
            store,
            clock,
            manifest,
            posts: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Returns what the pool offers.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns how many executors of a class there are.
    pub fn slots(&self, class: ExecutorClass) -> u32 {
        u32::try_from(self.manifest.count(class)).unwrap_or(u32::MAX)
    }

    /// Gives the offered job a slot, waiting a little when one is about to become free.
    pub async fn reserve(&self, offer: Offer) -> Result<Reservation, StoreError> {
        let deadline = Instant::now() + EXIT_WAIT;
        loop {
            // Registered before looking, so that a slot given back in between wakes us.
            let freed = self.freed.notified();
            let is_full = self.slots_in_use(offer.class) >= self.slots(offer.class);
            if is_full && self.expects_exit(offer.class) && timeout_at(deadline, freed).await.is_ok() {
                continue;
            }
            return self.store.reserve(offer, self.clock.now()).await;
        }
    }

    fn slots_in_use(&self, class: ExecutorClass) -> u32 {
        let taken = self.with(|posts| posts.values().filter(|post| post.class == class).count());
        u32::try_from(taken).unwrap_or(u32::MAX)
    }

    fn expects_exit(&self, class: ExecutorClass) -> bool {
        self.with(|posts| posts.values().any(|post| post.class == class && post.is_leaving))
    }

    /// Puts a keeper on the list.
    pub fn enter(&self, job: &JobId, post: Post) {
        self.with(|posts| posts.insert(job.clone(), post));
    }

    /// Notes that a job is over and its executor about to exit.
    pub fn note_leaving(&self, job: &JobId) {
        self.with(|posts| {
            if let Entry::Occupied(mut post) = posts.entry(job.clone()) {
                post.get_mut().is_leaving = true;
            }
        });
    }

    /// Gives a job's slot back and strikes its keeper off the list.
    pub async fn release(&self, job: &JobId) {
        if let Err(error) = self.store.release(job).await {
            // The slot is lost until the next start, which finds it as a leftover.
            tracing::error!(%job, %error, "cannot give a slot back");
        }
        self.with(|posts| posts.remove(job));
        self.freed.notify_waiters();
    }

    /// Returns the keeper of a job.
    pub fn post(&self, job: &JobId) -> Option<Post> {
        self.with(|posts| posts.get(job).cloned())
    }

    /// Returns whether a job is kept whose executor has this token.
    pub fn knows(&self, token: &str) -> bool {
        self.with(|posts| posts.values().any(|post| post.token == token))
    }

    /// Returns the keepers of a validator's jobs.
    pub fn posts_of(&self, validator: &Hotkey) -> Vec<Post> {
        self.with(|posts| {
            posts
                .values()
                .filter(|post| &post.validator == validator)
                .cloned()
                .collect()
        })
    }

    /// Waits until no job is kept.
    pub async fn emptied(&self) {
        loop {
            let freed = self.freed.notified();
            if self.with(|posts| posts.is_empty()) {
                return;
            }
            freed.await;
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<JobId, Post>) -> T) -> T {
        look(&mut self.posts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
