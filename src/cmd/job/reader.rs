//! Reading a stream of a job piece by piece.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cmd::context::Context;
use crate::core::client::{Client, ClientError};
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;

/// How long a call waits for more.
pub(super) const WAIT: Duration = Duration::from_secs(20);

/// Pause after a call that brought nothing, whatever the facilitator waited.
pub(super) const PAUSE: Duration = Duration::from_millis(300);

/// Pause before a broken connection is tried again, besides the client's own attempts.
const BROKEN_PAUSE: Duration = Duration::from_secs(1);

/// How long a facilitator may be away before following it is given up.
const BROKEN_MAX: Duration = Duration::from_secs(300);

/// What a look at a stream brought.
#[derive(Debug)]
pub(super) enum Look {
    /// More, after so many bytes that are lost.
    More {
        /// Lost bytes before it.
        gap: u64,
        /// Where it begins in the stream.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Nothing yet.
    Nothing,
    /// Nothing comes any more.
    Ended,
    /// The facilitator does not show what jobs write.
    NotShown,
}

/// A stream of a job, read piece by piece without gap or repetition, also across broken connections.
#[derive(Debug)]
pub(super) struct Reader<'c> {
    client: &'c Client,
    job: JobId,
    pub(super) stream: OutputStream,
    /// What was read: where the next piece begins.
    pub(super) offset: u64,
    /// Whether pieces come while the job runs, as far as the facilitator has said.
    pub(super) is_live: bool,
    /// How many bytes of the stream nobody has kept.
    pub(super) omitted: u64,
}

impl<'c> Reader<'c> {
    pub(super) fn new(client: &'c Client, job: &JobId, stream: OutputStream) -> Self {
        Self {
            client,
            job: job.clone(),
            stream,
            offset: 0,
            is_live: false,
            omitted: 0,
        }
    }

    /// Looks for more, waiting so long for it.
    pub(super) async fn look(&mut self, wait: Duration) -> Result<Look, ClientError> {
        let piece = self
            .client
            .logs(&self.job, self.stream, self.offset, wait)
            .await?;
        let Some(piece) = piece else {
            return Ok(Look::NotShown);
        };
        self.is_live = piece.is_live;
        self.omitted = self.omitted.max(piece.omitted_bytes);
        let known = usize::try_from(self.offset.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
        let data = piece.data.get(known..).unwrap_or_default().to_vec();
        if data.is_empty() {
            return Ok(if piece.is_ended {
                Look::Ended
            } else {
                Look::Nothing
            });
        }
        let gap = piece.offset.saturating_sub(self.offset);
        let offset = self.offset + gap;
        self.offset = piece.next_offset;
        Ok(Look::More { gap, offset, data })
    }

    /// Does the same, and tries on while the facilitator is away for a while.
    pub(super) async fn look_on(&mut self, context: &Context, wait: Duration) -> Result<Look, ClientError> {
        let mut broken: Option<Instant> = None;
        loop {
            let error = match self.look(wait).await {
                Err(error) if is_passing(&error) => error,
                outcome => return outcome,
            };
            if broken.is_none() {
                context.say("the facilitator does not answer; trying on");
            }
            if broken.get_or_insert_with(Instant::now).elapsed() > BROKEN_MAX {
                return Err(error);
            }
            sleep(BROKEN_PAUSE).await;
        }
    }
}

/// Tells whether a call that failed so may succeed soon.
pub(super) fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused { status, .. } => matches!(status, 429 | 500..),
        _ => false,
    }
}
