//! Wall time and back-off.
//!
//! Wall time is for signing, storing and showing; it may jump. Durations and deadlines are measured with
//! `tokio::time::Instant`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

/// A source of wall time; clones share it.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Fixed(Arc<Mutex<OffsetDateTime>>),
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Clock(system)"),
            Source::Fixed(_) => write!(f, "Clock(fixed {})", self.now()),
        }
    }
}

impl Clock {
    /// Returns the clock of this machine.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Returns a clock that stands still until [`Clock::advance`]: for tests.
    pub fn fixed(now: OffsetDateTime) -> Self {
        Self(Source::Fixed(Arc::new(Mutex::new(now))))
    }

    /// Moves a fixed clock forward; the system's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Source::Fixed(now) = &self.0 {
            let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = time::Duration::try_from(by)
                .ok()
                .and_then(|by| now.checked_add(by))
                .unwrap_or(*now);
        }
    }

    /// Returns the time in UTC, cut to microseconds, the resolution of every timestamp on the wires.
    pub fn now(&self) -> OffsetDateTime {
        let now = match &self.0 {
            Source::System => OffsetDateTime::now_utc(),
            Source::Fixed(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
        };
        now.replace_microsecond(now.microsecond()).unwrap_or(now)
    }

    /// Returns the whole seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(&self) -> i64 {
        self.now().unix_timestamp()
    }

    /// Returns the nanoseconds since 1970-01-01T00:00:00Z, cut to microseconds.
    pub fn unix_nanos(&self) -> i128 {
        self.now().unix_timestamp_nanos()
    }
}

/// Growing pauses between attempts: each twice the last up to a maximum, spread by a quarter either way.
///
/// The spread keeps a thousand peers of one restarted server from coming back in the same instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Returns a back-off whose first pause is about `first` and whose pauses never exceed `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempt: 0,
        }
    }

    /// Returns the next pause.
    pub fn pause(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        let pause = self.first.saturating_mul(factor).min(self.max);
        pause.mul_f64(rand::random_range(0.75..=1.25)).min(self.max)
    }

    /// Returns how many pauses were taken since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_moves_only_when_told() {
        let clock = Clock::fixed(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(clock.unix_seconds(), 0);
        clock.clone().advance(Duration::from_millis(1_500));
        assert_eq!(clock.unix_nanos(), 1_500_000_000);
    }

    #[test]
    fn the_time_is_cut_to_microseconds() {
        let clock = Clock::fixed(OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_999));
        assert_eq!(clock.unix_nanos(), 1_000);
        assert_eq!(Clock::system().now().nanosecond() % 1_000, 0);
    }

    #[test]
    fn pauses_grow_stay_under_their_maximum_and_start_over() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, max);
        let first_pause = backoff.pause();
        assert!(first_pause >= first * 3 / 4 && first_pause <= first * 5 / 4);
        for _ in 0..100 {
            assert!(backoff.pause() <= max);
        }
        assert!(backoff.pause() >= max * 3 / 4);
        backoff.reset();
        assert!(backoff.pause() <= first * 5 / 4);
    }
}
