//! Traps for tests of crashes: a debug build ends itself right before or right after the commit of a named step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::Connection;
use rustix::process::{Signal, getpid, kill_process};

use super::{Store, StoreError};

/// On which side of a step's commit the process ends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing of the step is on the disk.
    Before,
    /// All of it is, and nobody was told.
    After,
}

impl Side {
    /// Both, each with the environment variable that sets a trap there.
    pub const VARIABLES: [(&'static str, Self); 2] = [
        ("HORDE_TEST_KILL_BEFORE", Self::Before),
        ("HORDE_TEST_KILL_AFTER", Self::After),
    ];
}

/// Ends this process, as `kill -9` would, at the n-th time that it comes to one side of a step.
#[derive(Debug)]
pub struct Trap {
    step: &'static str,
    side: Side,
    left: AtomicU32,
}

impl Trap {
    /// Reads `STEP` or `STEP:N`, N counted from 1, where `steps` are those that there are; none where that says nothing,
    /// and in release builds always.
    pub fn parse(side: Side, text: &str, steps: &[&'static str]) -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let step = steps.iter().find(|step| **step == name)?;
        let left = AtomicU32::new(count.parse().ok()?);
        Some(Self { step, side, left })
    }

    fn pass(&self, step: &str, side: Side) {
        if (step, side) != (self.step, self.side) || self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            tracing::error!(%error, "cannot end this process as the test wants it");
        }
    }
}

/// Makes a change durable under the name of its step, at whose commit a trap may be set.
pub(super) async fn write<T, F>(
    store: &Store,
    trap: Option<&Arc<Trap>>,
    step: &'static str,
    change: F,
) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    write_if(store, trap, step, |_| true, change).await
}

/// Does the same for a change that is its step only if something `happened`.
pub(super) async fn write_if<T, F>(
    store: &Store,
    trap: Option<&Arc<Trap>>,
    step: &'static str,
    happened: fn(&T) -> bool,
    change: F,
) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    let Some(trap) = trap else {
        return store.write(change).await;
    };
    let before = Arc::clone(trap);
    let trapped = move |connection: &Connection| {
        let done = change(connection)?;
        if happened(&done) {
            before.pass(step, Side::Before);
        }
        Ok(done)
    };
    let done = store.write(trapped).await?;
    if happened(&done) {
        trap.pass(step, Side::After);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 2] = ["told", "ended"];

    #[test]
    fn a_trap_is_for_one_side_of_one_time_of_one_step() {
        for step in STEPS {
            let trap = Trap::parse(Side::After, step, &STEPS).unwrap();
            assert_eq!(trap.left.load(Ordering::Relaxed), 1);
        }
        let trap = Trap::parse(Side::Before, "told:3", &STEPS).unwrap();
        trap.pass("told", Side::After);
        trap.pass("ended", Side::Before);
        trap.pass("told", Side::Before);
        assert_eq!(trap.left.load(Ordering::Relaxed), 2);
        assert!(Trap::parse(Side::After, "nothing", &STEPS).is_none());
        assert!(Trap::parse(Side::After, "told:x", &STEPS).is_none());
    }
}
