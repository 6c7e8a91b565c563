//! What a running job has written last, as far as its executor passes it on: for people who wonder how far it was.
//!
//! Only executors of our own kind do, and only when the link is idle, so pieces may be missing; every piece has its
//! place, so what is missing is known.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::core::model::job::OutputStream;
use crate::core::proto::job::{Context, JobOutput};

/// The most of each stream that is kept of a running job, in bytes.
pub const TAIL_BYTES_MAX: usize = 16 * 1024;

/// The most of each stream that goes into a failure's context, in bytes.
const TOLD_BYTES_MAX: usize = 4 * 1024;

/// The most bytes of a piece as it travels; executors of this version send half of it.
const PIECE_BYTES_MAX: usize = 128 * 1024;

/// Why a piece of output was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// It is longer than any that is sent.
    #[error("the output has more than {PIECE_BYTES_MAX} bytes")]
    TooLong,
    /// It is not base64.
    #[error("the output is not base64")]
    NotBase64,
}

/// The end of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Bytes that the job is known to have written.
    pub written: u64,
    /// The last of them without a gap, [`TAIL_BYTES_MAX`] at most.
    kept: VecDeque<u8>,
}

impl Tail {
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        let Some(end) = u64::try_from(bytes.len())
            .ok()
            .and_then(|length| offset.checked_add(length))
            .filter(|end| *end > self.written)
        else {
            // Nothing that is not known already.
            return;
        };
        if offset > self.written {
            self.kept.clear();
        }
        let known = usize::try_from(self.written.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.kept.extend(bytes.get(known..).unwrap_or_default());
        let excess = self.kept.len().saturating_sub(TAIL_BYTES_MAX);
        self.kept.drain(..excess);
        self.written = end;
    }

    /// Returns the last lines, [`TOLD_BYTES_MAX`] at most; a first line that was cut is left out.
    fn last_lines(&self) -> String {
        let skipped = self.kept.len().saturating_sub(TOLD_BYTES_MAX);
        let bytes: Vec<u8> = self.kept.iter().skip(skipped).copied().collect();
        let is_whole = skipped == 0 && u64::try_from(self.kept.len()) == Ok(self.written);
        let first_line = bytes.iter().position(|byte| *byte == b'\n');
        let start = match first_line {
            Some(end) if !is_whole && end + 1 < bytes.len() => end + 1,
            Some(_) | None => 0,
        };
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }
}

/// The ends of both streams of a running job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Of its standard output.
    pub stdout: Tail,
    /// Of its standard error.
    pub stderr: Tail,
}

impl Output {
    /// Takes a piece in.
    pub fn add(&mut self, piece: &JobOutput) -> Result<(), PieceError> {
        if piece.data.len() > PIECE_BYTES_MAX {
            return Err(PieceError::TooLong);
        }
        let bytes = STANDARD
            .decode(&piece.data)
            .map_err(|_error| PieceError::NotBase64)?;
        match piece.stream {
            OutputStream::Stdout => self.stdout.add(piece.offset, &bytes),
            OutputStream::Stderr => self.stderr.add(piece.offset, &bytes),
        }
        Ok(())
    }

    /// Returns how far the job was, as facts for whoever hears of its failure; none when nothing is known.
    pub fn context(&self) -> Option<Context> {
        if self.stdout.written == 0 && self.stderr.written == 0 {
            return None;
        }
        Some(Context::from_iter([
            ("stdout_bytes".to_owned(), Value::from(self.stdout.written)),
            ("stdout_tail".to_owned(), Value::from(self.stdout.last_lines())),
            ("stderr_bytes".to_owned(), Value::from(self.stderr.written)),
            ("stderr_tail".to_owned(), Value::from(self.stderr.last_lines())),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::model::JobId;

    fn piece(offset: u64, bytes: &[u8]) -> JobOutput {
        JobOutput {
            job_uuid: JobId::new("j"),
            stream: OutputStream::Stdout,
            offset,
            data: STANDARD.encode(bytes),
        }
    }

    fn told(pieces: &[(u64, &[u8])]) -> (u64, String) {
        let mut output = Output::default();
        for (offset, bytes) in pieces {
            output.add(&piece(*offset, bytes)).unwrap();
        }
        let context = output.context().unwrap();
        (
            context["stdout_bytes"].as_u64().unwrap(),
            context["stdout_tail"].as_str().unwrap().to_owned(),
        )
    }

    #[test]
    fn the_tail_is_what_was_written_last_without_a_gap() {
        assert_eq!(told(&[(0, b"a\n"), (2, b"b\n")]), (4, "a\nb\n".to_owned()));
        assert_eq!(
            told(&[(0, b"a\n"), (0, b"a\nb")]),
            (3, "a\nb".to_owned()),
            "overlap"
        );
        assert_eq!(told(&[(0, b"a"), (0, b"x")]), (1, "a".to_owned()), "nothing new");
        assert_eq!(
            told(&[(0, b"a"), (10, b"cut\nwhole\n")]),
            (20, "whole\n".to_owned()),
            "gap"
        );
        let long = [b"first\n".as_slice(), &b"x".repeat(5000), b"\nlast \xff"].concat();
        assert_eq!(told(&[(0, &long)]), (5013, "last \u{fffd}".to_owned()));
    }

    #[test]
    fn a_piece_that_is_none_is_refused() {
        let mut output = Output::default();
        let mut bad = piece(0, b"");
        bad.data = "*".to_owned();
        assert_eq!(output.add(&bad), Err(PieceError::NotBase64));
        bad.data = "A".repeat(PIECE_BYTES_MAX + 4);
        assert_eq!(output.add(&bad), Err(PieceError::TooLong));
        assert_eq!(output.context(), None);
    }

    proptest! {
        #[test]
        fn whatever_an_executor_claims_memory_stays_bounded(
            pieces in proptest::collection::vec((any::<u64>(), 0_usize..30_000), 0..20),
        ) {
            let mut output = Output::default();
            for (offset, length) in pieces {
                output.add(&piece(offset, &vec![b'x'; length])).unwrap();
                prop_assert!(output.stdout.kept.len() <= TAIL_BYTES_MAX);
            }
        }
    }
}
