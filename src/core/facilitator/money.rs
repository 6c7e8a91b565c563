//! What jobs cost here: the prices, the bills of new jobs, and the turn that charges those that work for long.
//!
//! How much is decided in [`crate::core::money`], whose doc comment says when what is charged.

use std::time::Duration;

use time::OffsetDateTime;

use super::Office;
use crate::core::causes::Causes;
use crate::core::model::ExecutorClass;
use crate::core::money::{Bill, Micro, TimeLimits};
use crate::core::store::StoreError;
use crate::core::store::facilitator::{JobSpec, RunningBill};

/// Time between two looks for intervals that are over: an interval of ten minutes is charged that late at most.
const CHARGE_EVERY: Duration = Duration::from_secs(30);

/// Bills that are charged in one transaction, so that submissions are not kept waiting.
const CHARGED_AT_ONCE: usize = 64;

/// A facilitator that charges has no price for this class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no price here, so its jobs are not taken.")]
pub(super) struct NoPrice(ExecutorClass);

/// What a second costs, by class; nothing is charged where there are no prices at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prices(Vec<(ExecutorClass, Micro)>);

impl Prices {
    pub(super) fn new(prices: Vec<(ExecutorClass, Micro)>) -> Self {
        Self(prices)
    }

    /// Tells whether jobs are charged.
    pub(super) fn charge(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns all prices, in the order of the configuration.
    pub(super) fn all(&self) -> &[(ExecutorClass, Micro)] {
        &self.0
    }

    /// Returns the bill of a job; none where nothing is charged.
    pub(super) fn bill(&self, spec: &JobSpec) -> Result<Option<Bill>, NoPrice> {
        if !self.charge() {
            return Ok(None);
        }
        let class = spec.executor_class;
        let found = self.0.iter().find(|(priced, _)| *priced == class);
        let (_, price) = found.ok_or(NoPrice(class))?;
        let limits = TimeLimits {
            download: spec.download_time_limit,
            execution: spec.execution_time_limit,
            upload: spec.upload_time_limit,
            streaming_start: spec
                .streaming_client_cert
                .as_ref()
                .map(|_| spec.streaming_start_time_limit),
        };
        Ok(Some(Bill {
            price: *price,
            seconds_max: limits.seconds(),
        }))
    }
}

/// Charges jobs that work for the intervals that are over, again and again.
///
/// Also jobs of before: what was agreed about them does not change with the prices.
pub(super) async fn charge_running(office: Office) {
    let mut turns = office.tasks.turns(CHARGE_EVERY);
    while turns.next().await {
        match charge(&office).await {
            Ok(0) => {}
            Ok(intervals) => tracing::info!(intervals, "jobs that work are charged"),
            Err(error) => tracing::error!(error = %Causes(&error), "cannot charge jobs that work"),
        }
    }
}

async fn charge(office: &Office) -> Result<u64, StoreError> {
    let now = office.clock.now();
    let over = intervals_over(&office.store.running_bills(now).await?, now);
    let mut charged: u64 = 0;
    for some in over.chunks(CHARGED_AT_ONCE) {
        charged = charged.saturating_add(office.store.charge_intervals(some.to_vec(), now).await?);
    }
    Ok(charged)
}

/// Returns the bills with intervals that are over and not charged, and how many intervals are over.
fn intervals_over(running: &[RunningBill], now: OffsetDateTime) -> Vec<(i64, i64)> {
    let now_us = i64::try_from(now.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
    let over = running.iter().map(|running| {
        let over = running.bill.intervals_over(running.since_us, now_us);
        (running, over)
    });
    over.filter(|(running, over)| *over > running.intervals)
        .map(|(running, over)| (running.id, over))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-15 12:30:45 UTC);

    #[test]
    fn only_what_is_over_and_not_charged_yet_is_due() {
        let of = |id, minutes: i64, intervals| RunningBill {
            id,
            bill: Bill {
                price: Micro::new(1),
                seconds_max: 3600,
            },
            since_us: (NOW - time::Duration::minutes(minutes)).unix_timestamp() * 1_000_000,
            intervals,
        };
        let running = [
            of(1, 9, 0),
            of(2, 10, 0),
            of(3, 25, 1),
            of(4, 25, 2),
            of(5, 600, 0),
            of(6, -5, 0),
        ];
        assert_eq!(intervals_over(&running, NOW), [(2, 1), (3, 2), (5, 6)]);
    }
}
