//! Forgets jobs that ended long ago, a bounded piece at a time, so that submissions do not wait for it.

use std::time::Duration;

use tokio::time::sleep;

use super::Office;
use crate::core::causes::Causes;
use crate::core::telemetry::metrics::Loop;

/// Time between two looks for old jobs.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

/// Jobs that one piece looks at: some milliseconds of the database's only writer.
const ROWS_PER_PIECE: u32 = 200;

/// Pause between two pieces.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes jobs `keep` after their end, again and again.
pub(super) async fn keep(office: Office, keep: Duration) {
    let mut turns = office.tasks.turns(LOOK_EVERY);
    while turns.next().await {
        turn(&office, keep).await;
        office.beat(Loop::Forget);
    }
}

async fn turn(office: &Office, keep: Duration) {
    let horizon = office.clock.now() - keep;
    let (mut after, mut removed) = (0, 0_u64);
    loop {
        match office.store.evict(after, horizon, ROWS_PER_PIECE).await {
            Ok(piece) => {
                removed = removed.saturating_add(piece.removed);
                let Some(next) = piece.resume_after else {
                    break;
                };
                after = next;
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "cannot forget old jobs");
                break;
            }
        }
        tokio::select! {
            () = office.tasks.stopped() => break,
            () = sleep(PAUSE) => {}
        }
    }
    if removed > 0 {
        tracing::info!(removed, "jobs that ended long ago are forgotten");
    }
    office.metrics.evicted(removed);
}
