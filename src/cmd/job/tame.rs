//! What a job wrote, made harmless for a terminal; pipes and files get it as it is.

use std::io::{self, IsTerminal as _, Write as _};

use crate::cmd::context::Context;
use crate::cmd::error::CmdError;
use crate::core::model::job::OutputStream;

/// Takes what would steer a terminal out of a stream that comes in pieces.
///
/// A lone carriage return, with which a line could be written over, ends the line; control characters other than line
/// ends and tabs, and marks that turn the direction of text, become U+FFFD. Bytes that are no text do too.
#[derive(Debug, Default)]
pub(super) struct Tamer {
    /// The beginning of a character whose rest has not come yet; three bytes at most.
    pending: Vec<u8>,
    /// Whether the last character was a carriage return.
    after_return: bool,
}

/// Tells whether a character turns the direction of the text after it.
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Tamer {
    /// Returns the next piece, tame.
    pub(super) fn tame(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let mut out = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push(chunk.valid(), &mut out);
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // A character that has only begun at the very end may go on in the next piece.
            let is_begun = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_begun {
                self.pending = invalid.to_vec();
            } else {
                self.push("\u{fffd}", &mut out);
            }
        }
        out
    }

    fn push(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            let was_return = std::mem::replace(&mut self.after_return, c == '\r');
            match c {
                '\n' if was_return => {}
                '\r' | '\n' => out.push('\n'),
                '\t' => out.push('\t'),
                c if c.is_control() || turns_text(c) => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
    }
}

/// Where a stream of a job is printed.
#[derive(Debug)]
pub(super) struct Sink {
    is_stderr: bool,
    tamer: Option<Tamer>,
}

impl Sink {
    /// Makes the sink for a stream: the same one of this process, tame if that is a terminal and nobody wants it `raw`.
    pub(super) fn of(stream: OutputStream, raw: bool) -> Self {
        let is_stderr = stream == OutputStream::Stderr;
        let is_terminal = if is_stderr {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        Self {
            is_stderr,
            tamer: (is_terminal && !raw).then(Tamer::default),
        }
    }

    /// Prints the next bytes.
    pub(super) fn print(&mut self, context: &Context, bytes: &[u8]) -> Result<(), CmdError> {
        let tame = self.tamer.as_mut().map(|tamer| tamer.tame(bytes));
        let bytes = tame.as_ref().map_or(bytes, String::as_bytes);
        if self.is_stderr {
            // Nobody is left to tell if this fails.
            drop(io::stderr().lock().write_all(bytes));
            return Ok(());
        }
        context.bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tame(pieces: &[&[u8]]) -> String {
        let mut tamer = Tamer::default();
        pieces.iter().map(|piece| tamer.tame(piece)).collect()
    }

    #[test]
    fn what_steers_a_terminal_is_taken_out_and_text_stays() {
        assert_eq!(tame(&[b"a\tb\nc"]), "a\tb\nc");
        assert_eq!(tame(&["zażółć".as_bytes()]), "zażółć");
        let hostile = "\x1b]0;title\x07\x1b[2J\u{9b}31m\u{202e}x\x08";
        let shown = tame(&[hostile.as_bytes()]);
        assert!(
            shown.chars().all(|c| !c.is_control() && c != '\u{202e}'),
            "{shown:?}"
        );
        assert!(shown.contains("title") && shown.ends_with("x\u{fffd}"));
    }

    #[test]
    fn a_return_cannot_hide_what_was_written_before_it() {
        assert_eq!(
            tame(&[b"10%\r20%\r\nend\r", b"\nx\r", b"y"]),
            "10%\n20%\nend\nx\ny"
        );
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "aż\u{1f600}b".as_bytes();
        for at in 0..=text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(tame(&[left, right]), "aż\u{1f600}b", "{at}");
        }
        assert_eq!(tame(&[b"a\xff\xc5", b"b"]), "a\u{fffd}\u{fffd}b");
    }
}
