//! The keeper as a hop of what its job writes: to the validator's connection, when that carries nothing else.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;

use super::Keeper;
use crate::core::model::output::{Handed, Windows};
use crate::core::proto::job::JobOutput;
use crate::core::proto::validator_miner::Up;

/// The most bytes of each stream that wait for the connection (128 KiB).
const WAITING_BYTES_MAX: usize = 128 * 1024;

/// Time between two attempts to pass a piece on.
const PAUSE: Duration = Duration::from_millis(50);

/// What waits to be passed on.
#[derive(Debug)]
pub(super) struct Relay {
    windows: Windows,
    next: Instant,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            windows: Windows::new(WAITING_BYTES_MAX),
            next: Instant::now(),
        }
    }
}

impl Relay {
    /// Returns when the next attempt is due; none when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.windows.waiting() > 0).then_some(self.next)
    }
}

impl Keeper {
    /// Takes in what the job has written, for a validator that follows it.
    pub(super) fn take_output(&mut self, piece: &JobOutput) {
        if self.lines.follower().is_none() {
            return;
        }
        // The job has looked at it before.
        if let Ok(bytes) = STANDARD.decode(&piece.data) {
            self.relay.windows.add(piece.stream, piece.offset, &bytes);
            self.pass_on_output();
        }
    }

    /// Passes on what the connection takes without waiting.
    pub(super) fn pass_on_output(&mut self) {
        let now = Instant::now();
        if now < self.relay.next {
            return;
        }
        let Some(line) = self.lines.follower() else {
            return self.relay.windows.clear();
        };
        let job_uuid = &self.order.job;
        let handed = self.relay.windows.hand_over(|stream, offset, bytes| {
            let piece = JobOutput {
                job_uuid: job_uuid.clone(),
                stream,
                offset,
                data: STANDARD.encode(bytes),
            };
            line.sender.offer(Up::JobOutput(piece).encode())
        });
        if handed != Handed::Nothing {
            self.relay.next = now + PAUSE;
        }
    }
}
