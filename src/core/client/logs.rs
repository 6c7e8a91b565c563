//! What a job writes, by offset: live between peers of this program, else from the stored result.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Call, Client, ClientError};
use crate::core::model::JobId;
use crate::core::model::job::OutputStream;
use crate::core::proto::sdk_facilitator::path;

/// A piece of a stream, as the facilitator sends it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Piece {
    offset: u64,
    next_offset: u64,
    data: String,
    ended: bool,
    #[serde(default)]
    live: bool,
    #[serde(default)]
    omitted_bytes: u64,
}

/// A piece of what a job wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// How many bytes of the stream come before it; larger than what was asked for if some are lost.
    pub offset: u64,
    /// Where the next piece begins; what to ask for next.
    pub next_offset: u64,
    /// The bytes, as the job wrote them.
    pub data: Vec<u8>,
    /// Whether nothing comes after it.
    pub is_ended: bool,
    /// Whether the stream comes while the job runs; otherwise only the result of an ended job is shown.
    pub is_live: bool,
    /// How many bytes of the stream nobody has kept, in all.
    pub omitted_bytes: u64,
}

/// The word of a stream in a URL.
pub const fn stream_word(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

impl Client {
    /// Returns what one of the user's jobs wrote from `offset` on, waiting up to `wait` (seconds count) for more.
    ///
    /// None if the facilitator does not show what jobs write; the caller has seen the job, so a 404 means that.
    pub async fn logs(
        &self,
        job: &JobId,
        stream: OutputStream,
        offset: u64,
        wait: Duration,
    ) -> Result<Option<LogPiece>, ClientError> {
        let path = format!(
            "{}{}/logs/?stream={}&offset={offset}&wait={}",
            path::JOBS,
            super::in_path(job),
            stream_word(stream),
            wait.as_secs()
        );
        let piece: Piece = match self.ask(&Call::get(&path)).await {
            Ok(piece) => piece,
            Err(ClientError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let bad = |what: &str| ClientError::BadAnswer {
            url: self.url(&path),
            source: serde::de::Error::custom(what),
        };
        let data = STANDARD
            .decode(&piece.data)
            .map_err(|_foreign| bad("the data is no base64"))?;
        let length = u64::try_from(data.len()).map_err(|_overflow| bad("the data is too long"))?;
        if piece.offset.checked_add(length) != Some(piece.next_offset) {
            return Err(bad("the offsets do not fit the data"));
        }
        Ok(Some(LogPiece {
            offset: piece.offset,
            next_offset: piece.next_offset,
            data,
            is_ended: piece.ended,
            is_live: piece.live,
            omitted_bytes: piece.omitted_bytes,
        }))
    }
}
