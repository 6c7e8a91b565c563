//! What a family shows of itself to whoever runs it: that it serves, that its loops turn, and how things stand.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The life of a family and of all families inside it; clones are handles to the same one.
#[derive(Clone, Default)]
pub struct Life(Arc<Inner>);

#[derive(Default)]
struct Inner {
    standing: watch::Sender<Standing>,
    loops: Mutex<Vec<Watched>>,
    tellers: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

/// How far a role is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it does what it is there for.
    pub serves: bool,
    /// What it does, in a few words.
    pub words: String,
}

/// A loop that must turn.
#[derive(Debug)]
struct Watched {
    name: &'static str,
    patience: Duration,
    turned: Instant,
}

/// A loop that has not turned for longer than it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its name.
    pub name: &'static str,
    /// Since when.
    pub since: Duration,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life")
            .field("standing", &*self.0.standing.borrow())
            .field("loops", &*self.loops())
            .finish_non_exhaustive()
    }
}

impl Life {
    /// Says that the role serves from now on, and what.
    pub fn serves(&self, words: impl Into<String>) {
        let words = words.into();
        self.0.standing.send_replace(Standing { serves: true, words });
    }

    /// Says what the role does now.
    pub fn says(&self, words: impl Into<String>) {
        let words = words.into();
        self.0.standing.send_if_modified(|standing| {
            let is_new = standing.words != words;
            standing.words = words;
            is_new
        });
    }

    /// Returns how far the role is, now and whenever it changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Watches a loop from now on: it is stuck if it does not turn within `patience`.
    pub fn watch(&self, name: &'static str, patience: Duration) {
        let turned = Instant::now();
        let mut loops = self.loops();
        loops.retain(|known| known.name != name);
        loops.push(Watched {
            name,
            patience,
            turned,
        });
    }

    /// Notes that a loop turned; loops that are not watched may say so, too.
    pub fn beat(&self, name: &'static str) {
        let now = Instant::now();
        if let Some(found) = self.loops().iter_mut().find(|known| known.name == name) {
            found.turned = now;
        }
    }

    /// Returns a loop that is stuck, the one that is longest.
    pub fn stuck(&self, now: Instant) -> Option<Stuck> {
        let loops = self.loops();
        let stuck = loops.iter().filter_map(|known| {
            let since = now.saturating_duration_since(known.turned);
            (since > known.patience).then_some(Stuck {
                name: known.name,
                since,
            })
        });
        stuck.max_by_key(|stuck| stuck.since)
    }

    /// Returns the watched loops, each with how long ago it turned.
    pub fn turns(&self, now: Instant) -> Vec<(&'static str, Duration)> {
        let ago = |known: &Watched| (known.name, now.saturating_duration_since(known.turned));
        self.loops().iter().map(ago).collect()
    }

    /// Has `tell` called whenever somebody wants to know how things stand: it writes that to the log. It must not block,
    /// and hold nothing alive.
    pub fn when_asked(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.tellers().push(Box::new(tell));
    }

    /// Writes how things stand to the log.
    pub fn tell(&self) {
        for tell in &*self.tellers() {
            tell();
        }
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tellers(&self) -> MutexGuard<'_, Vec<Box<dyn Fn() + Send + Sync>>> {
        self.0.tellers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_loop_that_does_not_turn_is_stuck_until_it_does() {
        let life = Life::default();
        let start = Instant::now();
        life.watch("orders", Duration::from_secs(30));
        life.watch("slow", Duration::from_secs(3000));
        assert_eq!(life.stuck(start + Duration::from_secs(29)), None);
        let late = start + Duration::from_secs(1000);
        let stuck = life.stuck(late).unwrap();
        assert_eq!(stuck.name, "orders");
        assert!(stuck.since > Duration::from_secs(30));
        life.beat("nobody");
        life.beat("orders");
        assert_eq!(life.stuck(Instant::now()), None);
        let names: Vec<_> = life.turns(late).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["orders", "slow"]);
    }

    #[test]
    fn what_a_role_says_is_seen_by_who_runs_it() {
        let life = Life::default();
        let mut seen = life.standing();
        assert!(!seen.borrow_and_update().serves);
        life.says("opens its database");
        assert!(!seen.borrow_and_update().serves);
        life.serves("at 127.0.0.1:9000");
        assert!(seen.has_changed().unwrap());
        assert_eq!(seen.borrow_and_update().words, "at 127.0.0.1:9000");
        life.says("at 127.0.0.1:9000");
        assert!(!seen.has_changed().unwrap(), "it has been said");
    }

    #[test]
    fn everybody_tells_how_things_stand() {
        let life = Life::default();
        let told = Arc::new(AtomicU32::new(0));
        for _ in 0..2 {
            let told = Arc::clone(&told);
            life.when_asked(move || {
                told.fetch_add(1, Ordering::Relaxed);
            });
        }
        life.tell();
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }
}
