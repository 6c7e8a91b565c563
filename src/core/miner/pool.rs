//! Executor slots and the jobs that hold them.
//!
//! Which slot is taken is written in the store, in the transaction that accepts a job; here is who looks after
//! each job of this life, and how to reach them. A slot is given back by the job's keeper, once its executor has
//! exited.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::backend::capacity::Capacity;
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
    /// Where that runs.
    pub slot: u32,
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
    capacity: watch::Receiver<Capacity>,
    /// The most executors of each class that are offered, as the operator wants it.
    counted: Mutex<Manifest>,
    posts: Mutex<HashMap<JobId, Post>>,
    /// Tokens of executors that are left to a next life.
    left: Mutex<Vec<String>>,
    /// The slots that are out of service, by the job that left them so.
    resting: Mutex<HashMap<JobId, (ExecutorClass, u32)>>,
    freed: Notify,
}

impl Pool {
    /// Makes a pool of the places of a backend, of which so many are offered at most.
    pub fn new(
        store: MinerStore,
        clock: Clock,
        capacity: watch::Receiver<Capacity>,
        counted: Manifest,
    ) -> Self {
        Self {
            store,
            clock,
            capacity,
            counted: Mutex::new(counted),
            posts: Mutex::default(),
            left: Mutex::default(),
            resting: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Returns the places in service, without those that rest.
    pub fn usable(&self) -> Manifest {
        let capacity = self.capacity.borrow();
        let mut manifest = capacity.manifest();
        for (class, slot) in self.resting().values() {
            // A place that is lost besides counts once.
            if capacity.in_service(*class).any(|other| other == *slot)
                && let Some(count) = manifest.0.get_mut(class)
            {
                *count -= 1;
            }
        }
        manifest
    }

    /// Changes how many executors are offered at most; jobs that run go on whatever the new counts are.
    pub fn set_counted(&self, counted: Manifest) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        self.freed.notify_waiters();
    }

    /// Returns how many executors of each class are offered at most.
    pub fn counted(&self) -> Manifest {
        self.counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns what the pool offers now: what the operator wants, as far as there are usable places.
    pub fn manifest(&self) -> Manifest {
        let mut manifest = self.counted();
        let usable = self.usable();
        for (class, count) in &mut manifest.0 {
            *count = (*count).min(usable.count(*class));
        }
        manifest
    }

    /// Returns how many places of each class there are, in service or not.
    pub fn all_places(&self) -> Manifest {
        self.capacity.borrow().all()
    }

    /// Returns how many places of a class there are, and how many of them are in service.
    pub fn places(&self, class: ExecutorClass) -> (usize, usize) {
        let capacity = self.capacity.borrow();
        (capacity.of(class).len(), capacity.in_service(class).count())
    }

    /// Returns the slots of a class that may be given now, the best first; none is in use by a job of this life.
    pub fn slots(&self, class: ExecutorClass) -> Vec<u32> {
        let mut busy: HashSet<_> = self.resting().values().copied().collect();
        self.with(|posts| busy.extend(posts.values().map(|post| (post.class, post.slot))));
        let working = self.with(|posts| posts.values().filter(|post| post.class == class).count());
        let counted = usize::try_from(self.counted().count(class)).unwrap_or(usize::MAX);
        if working >= counted {
            return Vec::new();
        }
        self.capacity.borrow().preferred(class, &busy)
    }

    /// Gives the offered job a slot, waiting a little when one is about to become free.
    pub async fn reserve(&self, mut offer: Offer) -> Result<Reservation, StoreError> {
        let deadline = Instant::now() + EXIT_WAIT;
        loop {
            // Registered before looking, so that a slot given back in between wakes us.
            let freed = self.freed.notified();
            offer.slots = self.slots(offer.class);
            if offer.slots.is_empty()
                && self.expects_exit(offer.class)
                && timeout_at(deadline, freed).await.is_ok()
            {
                continue;
            }
            return self.store.reserve(offer, self.clock.now()).await;
        }
    }

    /// Keeps an offer that gets no slot, though one may be free.
    pub async fn decline(&self, mut offer: Offer) -> Result<Reservation, StoreError> {
        offer.slots = Vec::new();
        self.store.reserve(offer, self.clock.now()).await
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
        if let Err(error) = self.store.release(job, self.clock.now()).await {
            // The slot is lost until the next start, which finds it as a leftover.
            tracing::error!(%job, %error, "cannot give a slot back");
        }
        self.with(|posts| posts.remove(job));
        self.freed.notify_waiters();
    }

    /// Strikes a keeper off the list whose job is left to a next life, with its slot.
    pub fn leave(&self, job: &JobId) {
        if let Some(post) = self.post(job) {
            // Before it is struck off: its containers belong to somebody all the time.
            self.left().push(post.token);
        }
        self.with(|posts| posts.remove(job));
        self.freed.notify_waiters();
    }

    fn left(&self) -> MutexGuard<'_, Vec<String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot of a job that is over out of service; its keeper leaves the list.
    pub fn rest(&self, job: &JobId, class: ExecutorClass, slot: u32) {
        self.resting().insert(job.clone(), (class, slot));
        self.with(|posts| posts.remove(job));
        self.freed.notify_waiters();
    }

    /// Puts a slot back into service.
    pub async fn wake(&self, job: &JobId) {
        self.resting().remove(job);
        self.release(job).await;
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<JobId, (ExecutorClass, u32)>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keeper of a job.
    pub fn post(&self, job: &JobId) -> Option<Post> {
        self.with(|posts| posts.get(job).cloned())
    }

    /// Returns whether a job is kept, or left to a next life, whose executor has this token.
    pub fn knows(&self, token: &str) -> bool {
        self.with(|posts| posts.values().any(|post| post.token == token))
            || self.left().iter().any(|left| left == token)
    }

    /// Returns the class of every job that is kept.
    pub fn busy(&self) -> Vec<ExecutorClass> {
        self.with(|posts| posts.values().map(|post| post.class).collect())
    }

    /// Returns the class of every slot that is out of service.
    pub fn resting_by_class(&self) -> Vec<ExecutorClass> {
        self.resting().values().map(|(class, _)| *class).collect()
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

    /// Tells whether no job is kept.
    pub fn is_empty(&self) -> bool {
        self.with(|posts| posts.is_empty())
    }

    /// Waits until no job is kept.
    pub async fn emptied(&self) {
        loop {
            let freed = self.freed.notified();
            if self.is_empty() {
                return;
            }
            freed.await;
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<JobId, Post>) -> T) -> T {
        look(&mut self.posts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::capacity::PlaceState;
    use super::*;

    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

    fn offer(number: u32) -> Offer {
        let job = JobId::new(format!("00000000-0000-4000-8000-{number:012}"));
        let text = format!(
            r#"{{"payload":{{"job_uuid":"{job}","miner_hotkey":"m","validator_hotkey":"v",
                "timestamp":"2026-01-15T12:30:45Z","receipt_type":"JobStartedReceipt",
                "executor_class":"always_on.test","is_organic":true,"ttl":7}},
                "validator_signature":"0x01","miner_signature":"0x02"}}"#
        );
        Offer {
            validator: Hotkey::from("v"),
            job,
            class: CLASS,
            token: format!("token {number}"),
            request: "{}".to_owned(),
            receipt: serde_json::from_str(&text).unwrap(),
            slots: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_slot_of_an_unfit_machine_is_neither_offered_nor_given_until_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        let capacity = watch::Sender::new(Capacity::fixed(&[(CLASS, 2)]));
        let pool = Pool::new(
            store,
            Clock::system(),
            capacity.subscribe(),
            Manifest::from_iter([(CLASS, 2)]),
        );
        let reserve = async |number| match pool.reserve(offer(number)).await.unwrap() {
            Reservation::Reserved(slot) => Some(slot),
            Reservation::Busy(_) | Reservation::Known { .. } | Reservation::Draining => None,
        };
        assert_eq!(reserve(1).await, Some(0));
        let unfit = offer(1).job;
        pool.rest(&unfit, CLASS, 0);
        assert_eq!(pool.manifest().count(CLASS), 1);
        assert_eq!(reserve(2).await, Some(1), "the other slot is free");
        assert_eq!(reserve(3).await, None, "the unfit one is not");
        pool.wake(&unfit).await;
        assert_eq!(pool.manifest().count(CLASS), 2);
        assert_eq!(reserve(4).await, Some(0));
    }

    #[tokio::test]
    async fn a_lost_place_is_not_offered_and_its_job_keeps_its_slot() {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        let capacity = watch::Sender::new(Capacity::fixed(&[(CLASS, 2)]));
        let pool = Pool::new(
            store,
            Clock::system(),
            capacity.subscribe(),
            Manifest::from_iter([(CLASS, 2)]),
        );
        let reserve = async |number| pool.reserve(offer(number)).await.unwrap();
        assert_eq!(reserve(1).await, Reservation::Reserved(0));
        capacity.send_modify(|capacity| {
            capacity.places[&CLASS][0].state = PlaceState::Lost {
                reason: "gone".to_owned(),
                since: time::OffsetDateTime::UNIX_EPOCH,
            };
        });
        pool.rest(&offer(1).job, CLASS, 0);
        assert_eq!(
            pool.manifest().count(CLASS),
            1,
            "lost and resting, it counts once"
        );
        assert_eq!(reserve(2).await, Reservation::Reserved(1));
        assert!(matches!(reserve(3).await, Reservation::Busy(_)));
    }
}
