//! What the miner holds against those who knock: stamps that were used, connections of each validator, and how fast
//! they and their jobs come.
//!
//! Only authenticated connections count here, so nobody can use up what belongs to another. Strangers are the
//! listener's business (`core::net::guests`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::stamps::{Stale, Stamp, Stamps};
use crate::core::model::Hotkey;
use crate::core::net::buckets::{Buckets, Empty, Rate};
use crate::core::net::guests::Origin;

/// Connections of one validator at once. It opens one for each job, and its fleet may be large.
pub const CONNECTIONS_MAX: usize = 4096;

/// Seconds' worth of a rate that may come at once.
const BURST_SECONDS: u32 = 10;

/// How many validators' share one address may bring: several live behind one.
const VALIDATORS_PER_ADDRESS: u32 = 4;

/// Validators, and addresses, whose rate is counted at once.
const KEYS_MAX: usize = 4096;

/// Why an authenticated validator is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its stamp is good no more.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// It connects too fast.
    #[error("too many connections (again in {} s)", seconds(*wait))]
    TooFast {
        /// When to try again.
        wait: Duration,
    },
    /// It has too many connections, or all validators together have.
    #[error("too many connections (close some first)")]
    TooMany,
}

/// Jobs come too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyJobs {
    /// When to try again.
    pub wait: Duration,
}

/// Rounds up, so that who waits as told has waited long enough.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Ledger {
    stamps: Stamps,
    open: HashMap<Hotkey, usize>,
    connects: Buckets<Hotkey>,
    jobs: Buckets<Hotkey>,
    jobs_of_address: Buckets<Origin>,
}

/// The miner's door; clones are the same door.
#[derive(Debug, Clone)]
pub struct Door(Arc<Mutex<Ledger>>);

impl Door {
    /// Makes a door through which a validator may bring `per_second` connections, and as many jobs, on average.
    pub fn new(per_second: u32) -> Self {
        let rate = |factor: u32| {
            let per_second = per_second.saturating_mul(factor);
            Rate {
                per_second,
                burst: per_second.saturating_mul(BURST_SECONDS),
            }
        };
        Self(Arc::new(Mutex::new(Ledger {
            stamps: Stamps::default(),
            open: HashMap::new(),
            connects: Buckets::new(rate(1), KEYS_MAX),
            jobs: Buckets::new(rate(1), KEYS_MAX),
            jobs_of_address: Buckets::new(rate(VALIDATORS_PER_ADDRESS), KEYS_MAX),
        })))
    }

    /// Lets a validator in that has proved who it is; `unix_now` in seconds.
    pub fn admit(
        &self,
        validator: &Hotkey,
        stamp: &Stamp,
        unix_now: i64,
        now: Instant,
    ) -> Result<Presence, Denied> {
        let mut ledger = self.ledger();
        ledger.stamps.use_up(validator, stamp, unix_now)?;
        if ledger
            .open
            .get(validator)
            .is_some_and(|open| *open >= CONNECTIONS_MAX)
        {
            return Err(Denied::TooMany);
        }
        let taken = ledger.connects.take(validator.clone(), now);
        taken.map_err(|Empty { wait }| Denied::TooFast { wait })?;
        *ledger.open.entry(validator.clone()).or_default() += 1;
        drop(ledger);
        Ok(Presence {
            door: self.clone(),
            validator: validator.clone(),
        })
    }

    /// Uses the stamp of a validator that authenticates again on the same connection.
    pub fn admit_again(&self, validator: &Hotkey, stamp: &Stamp, unix_now: i64) -> Result<(), Denied> {
        Ok(self.ledger().stamps.use_up(validator, stamp, unix_now)?)
    }

    /// Counts a job that a validator brings from an address.
    pub fn take_job(&self, validator: &Hotkey, origin: Origin, now: Instant) -> Result<(), TooManyJobs> {
        let mut ledger = self.ledger();
        let taken = ledger.jobs.take(validator.clone(), now);
        taken
            .and_then(|()| ledger.jobs_of_address.take(origin, now))
            .map_err(|Empty { wait }| TooManyJobs { wait })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An authenticated connection, for as long as it is there.
#[derive(Debug)]
pub struct Presence {
    door: Door,
    validator: Hotkey,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut ledger = self.door.ledger();
        if let Entry::Occupied(mut open) = ledger.open.entry(self.validator.clone()) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::core::crypto::SignatureBytes;

    const NOW: i64 = 1_800_000_000;

    fn stamp(number: usize) -> Stamp {
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&number.to_le_bytes());
        Stamp {
            timestamp: NOW,
            signature: SignatureBytes::new(signature),
        }
    }

    #[test]
    fn a_batch_of_hundreds_passes_and_a_copy_of_a_stamp_does_not() {
        let door = Door::new(100);
        let (alice, now) = (Hotkey::from("alice"), Instant::now());
        let here: Vec<Presence> = (0..900)
            .map(|number| door.admit(&alice, &stamp(number), NOW, now).unwrap())
            .collect();
        assert_eq!(
            door.admit(&alice, &stamp(5), NOW, now).unwrap_err(),
            Denied::Stale(Stale::Used)
        );
        assert_eq!(
            door.admit_again(&alice, &stamp(6), NOW),
            Err(Denied::Stale(Stale::Used))
        );
        let origin = Origin::from(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..900 {
            door.take_job(&alice, origin, now).unwrap();
        }
        drop(here);
        assert!(door.ledger().open.is_empty());
    }

    #[test]
    fn who_comes_too_fast_is_told_when_to_come_again_and_others_are_not_held_up() {
        let door = Door::new(1);
        let (alice, bob, now) = (Hotkey::from("alice"), Hotkey::from("bob"), Instant::now());
        let mut here = Vec::new();
        for number in 0..10 {
            here.push(door.admit(&alice, &stamp(number), NOW, now).unwrap());
        }
        let denied = door.admit(&alice, &stamp(10), NOW, now).unwrap_err();
        assert_eq!(denied.to_string(), "too many connections (again in 1 s)");
        door.admit(&bob, &stamp(10), NOW, now).unwrap();
        let origin = Origin::from(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..10 {
            door.take_job(&alice, origin, now).unwrap();
        }
        let wait = door.take_job(&alice, origin, now).unwrap_err().wait;
        door.take_job(&bob, origin, now).unwrap();
        door.take_job(&alice, origin, now + wait).unwrap();
    }
}
