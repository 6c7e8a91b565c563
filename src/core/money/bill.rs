//! A job's bill: what is set aside for it, when what is charged, what is given back.

use super::Micro;
use crate::core::model::job::JobStatus;

/// After how many seconds of work each time a long job is charged.
pub const INTERVAL_SECONDS: i64 = 600;

/// Highest price of a second: a thousand units. With it the most that four limits of 31 bits can cost fits an amount.
pub const PRICE_MAX: Micro = Micro::new(1000 * Micro::PER_UNIT);

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The states that show that an executor works.
const WORKING: [JobStatus; 4] = [
    JobStatus::ExecutorReady,
    JobStatus::VolumesReady,
    JobStatus::StreamingReady,
    JobStatus::ExecutionDone,
];

/// The states before, the latest first.
const WAITING: [JobStatus; 3] = [JobStatus::Accepted, JobStatus::Received, JobStatus::Sent];

/// The limits of a job, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// For the input.
    pub download: i64,
    /// For the container.
    pub execution: i64,
    /// For the output.
    pub upload: i64,
    /// To become reachable, of a job that streams.
    pub streaming_start: Option<i64>,
}

impl TimeLimits {
    /// Returns the seconds that are set aside for the job: the sum of its limits. A negative one, which the wire allows,
    /// counts as none.
    pub fn seconds(&self) -> i64 {
        let limits = [
            self.download,
            self.execution,
            self.upload,
            self.streaming_start.unwrap_or(0),
        ];
        limits
            .into_iter()
            .fold(0, |sum: i64, limit| sum.saturating_add(limit.max(0)))
    }
}

/// What was agreed about a job when it was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// The price of a second, never negative.
    pub price: Micro,
    /// The most seconds that can be charged, never negative.
    pub seconds_max: i64,
}

/// A state of a job, and when it was stored, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The state.
    pub status: JobStatus,
    /// When.
    pub at_us: i64,
}

/// The end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The end state, and when.
    pub moment: Moment,
    /// Whether it comes with `horde_failure_details`, which make `failed` the horde's fault.
    pub has_horde_failure: bool,
}

/// How a bill is closed. All amounts are zero or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// The seconds that the job pays for.
    pub seconds: i64,
    /// What it pays in all, intervals included.
    pub total: Micro,
    /// What is charged now, out of what was set aside.
    pub charge: Micro,
    /// What was charged for intervals and is refunded.
    pub refund: Micro,
    /// What was set aside and is given back.
    pub give_back: Micro,
}

/// Returns since when the job's executor is known to work.
pub fn working_since(steps: &[Moment]) -> Option<i64> {
    let working = steps.iter().filter(|step| WORKING.contains(&step.status));
    working.map(|step| step.at_us).min()
}

impl End {
    /// Tells whether the user pays for what was used.
    fn is_charged(&self) -> bool {
        match self.moment.status {
            JobStatus::Completed => true,
            JobStatus::Failed => !self.has_horde_failure,
            JobStatus::Rejected
            | JobStatus::HordeFailed
            | JobStatus::Unknown
            | JobStatus::Sent
            | JobStatus::Received
            | JobStatus::Accepted
            | JobStatus::ExecutorReady
            | JobStatus::VolumesReady
            | JobStatus::StreamingReady
            | JobStatus::ExecutionDone => false,
        }
    }

    /// Returns since when the job has worked; none if it never did.
    fn since(&self, steps: &[Moment]) -> Option<i64> {
        let of = |status: &JobStatus| steps.iter().find(|step| step.status == *status);
        working_since(steps).or_else(|| {
            if self.moment.status != JobStatus::Completed {
                return None;
            }
            WAITING.iter().find_map(of).map(|step| step.at_us)
        })
    }
}

impl Bill {
    /// Returns what is set aside.
    pub const fn reserved(&self) -> Micro {
        self.price.times(self.seconds_max)
    }

    /// Returns the seconds that the job pays for in the end.
    fn used(&self, steps: &[Moment], end: &End) -> i64 {
        let since = end.since(steps).filter(|_| end.is_charged());
        // A clock that was set back does not make a job pay less than nothing.
        let micros = since.map_or(0, |since| end.moment.at_us.saturating_sub(since).max(0));
        seconds_begun(micros).min(self.seconds_max)
    }

    /// Closes the bill of a job with these states before its end, for which `charged` was charged so far.
    pub fn settle(&self, charged: Micro, steps: &[Moment], end: &End) -> Settlement {
        let seconds = self.used(steps, end);
        let total = self.price.times(seconds);
        let already = charged.min(self.reserved());
        Settlement {
            seconds,
            total,
            charge: total.minus(already).max(Micro::ZERO),
            refund: already.minus(total).max(Micro::ZERO),
            give_back: self.reserved().minus(total.max(already)),
        }
    }

    /// Returns how many intervals of a job that has worked since then are over; what follows the most that it can be
    /// charged for is none.
    pub fn intervals_over(&self, since_us: i64, now_us: i64) -> i64 {
        let seconds = now_us.saturating_sub(since_us).max(0) / MICROS_PER_SECOND;
        if seconds >= self.seconds_max {
            // The last one may be short.
            self.seconds_max.saturating_add(INTERVAL_SECONDS - 1) / INTERVAL_SECONDS
        } else {
            seconds / INTERVAL_SECONDS
        }
    }

    /// Returns the seconds of an interval, counted from 1.
    pub fn interval_seconds(&self, number: i64) -> i64 {
        let before = number.saturating_sub(1).saturating_mul(INTERVAL_SECONDS);
        self.seconds_max.saturating_sub(before).clamp(0, INTERVAL_SECONDS)
    }
}

fn seconds_begun(micros: i64) -> i64 {
    micros / MICROS_PER_SECOND + i64::from(micros % MICROS_PER_SECOND > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobStatus::{
        Accepted, Completed, ExecutionDone, ExecutorReady, Failed, HordeFailed, Received, Rejected, Sent,
    };

    const BILL: Bill = Bill {
        price: Micro::new(3),
        seconds_max: 1000,
    };

    fn moment(status: JobStatus, milliseconds: i64) -> Moment {
        Moment {
            status,
            at_us: 1_800_000_000_000_000 + milliseconds * 1000,
        }
    }

    fn end(status: JobStatus, milliseconds: i64) -> End {
        End {
            moment: moment(status, milliseconds),
            has_horde_failure: false,
        }
    }

    fn started() -> Vec<Moment> {
        vec![
            moment(Sent, 0),
            moment(Received, 10),
            moment(Accepted, 500),
            moment(ExecutorReady, 2_000),
        ]
    }

    #[test]
    fn limits_are_added_and_negative_ones_count_as_none() {
        let limits = TimeLimits {
            download: 1,
            execution: -5,
            upload: 4,
            streaming_start: None,
        };
        assert_eq!(limits.seconds(), 5);
        let streams = TimeLimits {
            streaming_start: Some(7),
            ..limits
        };
        assert_eq!(streams.seconds(), 12);
        let most = i64::from(i32::MAX);
        let most = TimeLimits {
            download: most,
            execution: most,
            upload: most,
            streaming_start: Some(most),
        };
        assert!(PRICE_MAX.get().checked_mul(most.seconds()).is_some());
    }

    #[test]
    fn what_was_used_is_rounded_up_and_charged_when_the_job_ends_by_itself() {
        for (status, milliseconds, seconds) in [
            (Completed, 12_000, 10),
            (Completed, 12_001, 11),
            (Failed, 2_000, 0),
            (Failed, 2_001, 1),
            (Completed, 5_000_000, 1000),
            // The clock was set back.
            (Completed, 0, 0),
        ] {
            let settled = BILL.settle(Micro::ZERO, &started(), &end(status, milliseconds));
            let total = Micro::new(3 * seconds);
            let expected = Settlement {
                seconds,
                total,
                charge: total,
                refund: Micro::ZERO,
                give_back: BILL.reserved().minus(total),
            };
            assert_eq!(settled, expected, "{status} {milliseconds}");
        }
    }

    #[test]
    fn what_the_horde_spoils_costs_nothing_and_its_intervals_are_refunded() {
        let spoiled = End {
            has_horde_failure: true,
            ..end(Failed, 700_000)
        };
        for end in [end(HordeFailed, 700_000), end(Rejected, 700_000), spoiled] {
            let settled = BILL.settle(Micro::new(1800), &started(), &end);
            let expected = Settlement {
                seconds: 0,
                total: Micro::ZERO,
                charge: Micro::ZERO,
                refund: Micro::new(1800),
                give_back: Micro::new(1200),
            };
            assert_eq!(settled, expected);
        }
    }

    #[test]
    fn what_was_charged_for_intervals_counts_at_the_end() {
        let settled = BILL.settle(Micro::new(1800), &started(), &end(Completed, 702_000));
        assert_eq!((settled.seconds, settled.total), (700, Micro::new(2100)));
        assert_eq!(
            (settled.charge, settled.give_back),
            (Micro::new(300), Micro::new(900))
        );
    }

    #[test]
    fn a_job_works_from_the_first_state_that_shows_it() {
        let late = [
            moment(Sent, 0),
            moment(ExecutionDone, 5_000),
            moment(ExecutorReady, 6_000),
        ];
        assert_eq!(BILL.settle(Micro::ZERO, &late, &end(Completed, 7_000)).seconds, 2);
        // None of them was told: a job that completed has run all the same, one that failed has not.
        let silent = [moment(Sent, 0), moment(Received, 1_000)];
        assert_eq!(
            BILL.settle(Micro::ZERO, &silent, &end(Completed, 4_000)).seconds,
            3
        );
        assert_eq!(BILL.settle(Micro::ZERO, &silent, &end(Failed, 4_000)).seconds, 0);
    }

    #[test]
    fn intervals_end_with_what_can_be_charged_and_are_never_more_than_it() {
        let over = |seconds: i64| BILL.intervals_over(7, 7 + seconds * MICROS_PER_SECOND);
        assert_eq!(
            [-1, 0, 599, 600, 999, 1000, 1200, 999_999].map(over),
            [0, 0, 0, 1, 1, 2, 2, 2]
        );
        assert_eq!(
            [1, 2, 3, 4].map(|number| BILL.interval_seconds(number)),
            [600, 400, 0, 0]
        );
        let nothing = Bill {
            seconds_max: 0,
            ..BILL
        };
        assert_eq!(
            (nothing.intervals_over(0, i64::MAX), nothing.reserved()),
            (0, Micro::ZERO)
        );
    }
}
