//! Connections of validators as keepers use them, and which outcome was told over which.
//!
//! No wire acknowledges a frame: an outcome that was handed to a connection may have gone down with it. It counts as
//! had by the validator when its finished receipt is kept, or when the validator closes in good order the connection
//! on which it spoke of the job itself. Until then it is told again to each connection that authenticates.
//!
//! Validators have one connection per job, and one that reconnects authenticates without a word about which job it is
//! for. So a job that has lost its connection is spoken of on all that came since, until one turns out to be its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::core::model::JobId;
use crate::core::net::LinkSender;

/// Outcomes of which it is remembered over which connection they were told; others are told again needlessly.
const TELLINGS_MAX: usize = 65_536;

/// Jobs that a connection remembers before it looks for some that need not be remembered.
const TOLD_MIN: usize = 1024;

/// For how long an open connection is believed to have carried what was told over it, before a second one is told.
const BELIEVED: Duration = Duration::from_secs(10);

/// A connection of a validator, as keepers use it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Tells connections apart.
    pub id: u64,
    /// The way to the validator.
    pub sender: LinkSender,
    /// Whether the validator takes what running jobs write.
    pub follows: bool,
    /// Whether the validator spoke of the job on this connection.
    pub is_own: bool,
    /// Whether it spoke of any job there.
    is_taken: Arc<AtomicBool>,
    /// Jobs whose outcome was told here; some may be acknowledged since.
    told: Arc<Mutex<Vec<JobId>>>,
}

impl Line {
    /// Makes the connection of a validator that has said nothing yet.
    pub fn new(id: u64, sender: LinkSender, follows: bool) -> Self {
        Self {
            id,
            sender,
            follows,
            is_own: false,
            is_taken: Arc::default(),
            told: Arc::default(),
        }
    }

    /// Tells whether the connection has not ended yet, as far as is known.
    pub fn is_open(&self) -> bool {
        self.sender.closed().now_or_never().is_none()
    }

    fn told(&self) -> MutexGuard<'_, Vec<JobId>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection as that of a job that the validator speaks of there.
    #[must_use]
    pub fn own(&self) -> Self {
        self.is_taken.store(true, Ordering::Relaxed);
        Self {
            is_own: true,
            ..self.clone()
        }
    }
}

/// The connections of one job's validator on which there may be somebody who waits for news of the job.
#[derive(Debug, Default)]
pub struct Lines(Vec<Line>);

impl Lines {
    /// Takes a connection in; false when the job has one of its own, and this is not it.
    pub fn add(&mut self, line: Line) -> bool {
        self.0.retain(|known| known.is_open() && known.id != line.id);
        if line.is_own {
            self.0.clear();
        } else if self.0.iter().any(|known| known.is_own) {
            return false;
        }
        self.0.push(line);
        true
    }

    /// Tells whether this is the connection that news go to, and the only one.
    pub fn is_settled_on(&self, id: u64) -> bool {
        self.0.iter().any(|line| line.is_own && line.id == id)
    }

    /// Tells whether news go to this connection, among others.
    pub fn knows(&self, id: u64) -> bool {
        self.0.iter().any(|line| line.id == id)
    }

    /// Strikes a connection off that does not work.
    pub fn remove(&mut self, id: u64) {
        self.0.retain(|line| line.id != id);
    }

    /// Returns the job's own connection, if its validator takes what the job writes.
    pub fn follower(&self) -> Option<&Line> {
        self.0
            .iter()
            .find(|line| line.is_own && line.follows && line.is_open())
    }

    /// Returns the connections to be told something: those on which the validator spoke of other jobs only if there
    /// are no others.
    pub fn audience(&self) -> Vec<Line> {
        let is_free = |line: &&Line| line.is_own || !line.is_taken.load(Ordering::Relaxed);
        let free: Vec<Line> = self.0.iter().filter(is_free).cloned().collect();
        if free.is_empty() { self.0.clone() } else { free }
    }
}

#[derive(Debug)]
struct Telling {
    line: Line,
    at: Instant,
}

/// Outcomes that were told and not acknowledged, by job.
#[derive(Debug, Default)]
pub struct Tellings(Mutex<HashMap<JobId, Vec<Telling>>>);

impl Tellings {
    /// Notes that an outcome was handed to a connection.
    pub fn note(&self, job: &JobId, line: &Line) {
        let mut tellings = self.lock();
        if tellings.len() < TELLINGS_MAX || tellings.contains_key(job) {
            let of_job = tellings.entry(job.clone()).or_default();
            of_job.retain(|telling| telling.line.id != line.id && telling.line.is_open());
            of_job.push(Telling {
                line: line.clone(),
                at: Instant::now(),
            });
            let mut told = line.told();
            told.push(job.clone());
            if told.len() >= TOLD_MIN && told.len().is_power_of_two() {
                told.retain(|job| tellings.contains_key(job));
            }
        }
    }

    /// Tells whether an outcome need not be told over `line`: it was already, or was a moment ago over the job's own.
    pub fn is_fresh(&self, job: &JobId, line: &Line, now: Instant) -> bool {
        self.lock().get(job).is_some_and(|of_job| {
            of_job.iter().any(|Telling { line: told, at }| {
                told.is_open() && (told.id == line.id || (told.is_own && now < *at + BELIEVED))
            })
        })
    }

    /// Forgets an outcome that is acknowledged.
    pub fn settle(&self, job: &JobId) {
        self.lock().remove(job);
    }

    /// Forgets what was told over a connection that has ended; returns the jobs that were its own.
    pub fn take(&self, line: &Line) -> Vec<JobId> {
        let mut tellings = self.lock();
        let mut own = Vec::new();
        for job in line.told().drain(..) {
            let Some(of_job) = tellings.get_mut(&job) else {
                continue;
            };
            let is_own = of_job
                .iter()
                .any(|telling| telling.line.id == line.id && telling.line.is_own);
            of_job.retain(|telling| telling.line.id != line.id);
            if of_job.is_empty() {
                tellings.remove(&job);
            }
            if is_own {
                own.push(job);
            }
        }
        own
    }

    /// Tells whether something that was told over a connection is not acknowledged.
    pub fn is_waiting(&self, line: &Line) -> bool {
        let tellings = self.lock();
        line.told().iter().any(|job| {
            let of_job = tellings.get(job);
            of_job.is_some_and(|of_job| of_job.iter().any(|telling| telling.line.id == line.id))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Vec<Telling>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::net::ws::{Limits, pair};
    use crate::core::tasks::Tasks;

    #[tokio::test]
    async fn an_outcome_is_told_to_a_second_connection_only_when_the_first_may_have_lost_it() {
        let tasks = Tasks::new();
        let (near, far) = pair(&tasks, &Limits::default()).await;
        let line = |id| Line::new(id, near.sender(), false);
        let (job, other) = (JobId::new("j"), JobId::new("o"));
        let tellings = Tellings::default();
        let soon = Instant::now();
        let fresh = |job, id, now| tellings.is_fresh(job, &line(id), now);
        assert!(!fresh(&job, 1, soon));
        let (first, second) = (line(1), line(2));
        tellings.note(&job, &first.own());
        tellings.note(&other, &first);
        assert!(fresh(&job, 1, soon) && fresh(&job, 2, soon));
        assert!(tellings.is_waiting(&first) && !tellings.is_waiting(&second));
        let later = Instant::now() + BELIEVED;
        assert!(fresh(&job, 1, later) && !fresh(&job, 2, later));
        drop(far);
        near.sender().closed().await;
        assert!(!fresh(&job, 1, soon));
        assert_eq!(tellings.take(&first), [job], "the other was told by the way");
        assert!(!tellings.is_waiting(&first));
        assert_eq!(tellings.take(&first), []);
    }

    #[tokio::test]
    async fn a_job_without_a_connection_is_spoken_of_on_all_until_one_is_its_own() {
        let tasks = Tasks::new();
        let (near, _far) = pair(&tasks, &Limits::default()).await;
        let line = |id| Line::new(id, near.sender(), false);
        let mut lines = Lines::default();
        let told = |lines: &Lines| lines.audience().iter().map(|line| line.id).collect::<Vec<_>>();
        let (first, second) = (line(1), line(2));
        assert!(lines.add(first.clone()) && lines.add(second.clone()));
        assert_eq!(told(&lines), [1, 2]);
        drop(first.own());
        assert_eq!(told(&lines), [2], "the first is another job's");
        drop(second.own());
        assert_eq!(told(&lines), [1, 2], "better than nobody");
        assert!(lines.add(second.own()) && lines.is_settled_on(2));
        assert_eq!(told(&lines), [2]);
        assert!(!lines.add(line(3)));
        lines.remove(2);
        assert!(lines.add(line(3)));
        assert_eq!(told(&lines), [3]);
    }
}
