//! Token buckets by key: so much at once, so much a second on average.
//!
//! Each bucket is one moment, the time at which it will be full again (the generic cell rate algorithm), so nothing has
//! to be refilled and a bucket that is full need not be kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Events a second on average, at least 1.
    pub per_second: u32,
    /// Events at once after a pause, at least 1.
    pub burst: u32,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    fn tolerance(self) -> Duration {
        self.interval().saturating_mul(self.burst.max(1))
    }
}

/// The bucket was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// Time after which one event more is possible.
    pub wait: Duration,
}

/// The buckets of many keys, all of the same size.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    keys_max: usize,
    /// When each bucket is full again.
    full_at: HashMap<K, Instant>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Makes full buckets. Keys beyond `keys_max` that are not full at the same time are not held to the rate.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        Self {
            rate,
            keys_max,
            full_at: HashMap::new(),
        }
    }

    /// Takes one event out of a key's bucket.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Empty> {
        if self.full_at.len() >= self.keys_max && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.keys_max {
                return Ok(());
            }
        }
        let full_at = self.full_at.get(&key).copied().unwrap_or(now).max(now) + self.rate.interval();
        let latest = now + self.rate.tolerance();
        if full_at > latest {
            return Err(Empty {
                wait: full_at.duration_since(latest),
            });
        }
        self.full_at.insert(key, full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_and_says_how_long_to_wait() {
        let mut buckets = Buckets::new(
            Rate {
                per_second: 10,
                burst: 3,
            },
            8,
        );
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", now), Ok(()));
        }
        let wait = Duration::from_millis(100);
        assert_eq!(buckets.take("a", now), Err(Empty { wait }));
        assert_eq!(buckets.take("b", now), Ok(()), "another key's bucket is its own");
        assert_eq!(buckets.take("a", now + wait), Ok(()));
        buckets.take("a", now + wait).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate_and_the_table_stays_small(
            per_second in 1_u32..50,
            burst in 1_u32..20,
            steps in proptest::collection::vec((0_u64..300, 0_u8..4), 1..200),
        ) {
            let mut buckets = Buckets::new(Rate { per_second, burst }, 4);
            let mut now = Instant::now();
            let mut taken: HashMap<u8, Vec<Instant>> = HashMap::new();
            for (pause, key) in steps {
                now += Duration::from_millis(pause);
                let passed = taken.entry(key).or_default();
                match buckets.take(key, now) {
                    Ok(()) => passed.push(now),
                    Err(Empty { wait }) => {
                        // Refused only when the burst was really used up, and the wait is long enough.
                        prop_assert!(u64::try_from(passed.len()).unwrap() >= u64::from(burst));
                        prop_assert!(buckets.take(key, now + wait).is_ok());
                        passed.push(now + wait);
                        now += wait;
                    }
                }
                prop_assert!(buckets.full_at.len() <= 4);
            }
            for passed in taken.values() {
                for (from, first) in passed.iter().enumerate() {
                    for (to, last) in passed.iter().enumerate().skip(from) {
                        let window = last.duration_since(*first).as_secs_f64();
                        let most = f64::from(burst) + window * f64::from(per_second) + 0.01;
                        prop_assert!(f64::from(u32::try_from(to - from + 1).unwrap()) <= most + 1e-6);
                    }
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_refused(per_second in 1_u32..1000, count in 1_u32..500) {
            let mut buckets = Buckets::new(Rate { per_second, burst: 1 }, 4);
            let start = Instant::now();
            let interval = Rate { per_second, burst: 1 }.interval();
            for number in 0..count {
                prop_assert!(buckets.take((), start + interval * number).is_ok());
            }
        }
    }
}
