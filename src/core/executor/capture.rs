//! What a container writes: a bounded text of its head and tail, and the whole in a file.

use std::io::{self, Write};

/// How many characters of a stream are kept at each end (wire-executor-miner §8).
const END_CHARACTERS: usize = 500_000;

/// What stands for the middle of a stream that was cut (wire-executor-miner §8).
const GAP: &str = " ... ";

/// The most of a stream that is written to its file, in bytes; what follows is counted only.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One stream of a container, read as UTF-8 with the replacement character for what is none.
#[derive(Debug)]
pub(super) struct Capture<W> {
    /// Bytes at the end of the last chunk that may begin a character.
    unfinished: Vec<u8>,
    head: String,
    head_characters: usize,
    tail: String,
    tail_characters: usize,
    characters: u64,
    file: W,
    file_room: u64,
    file_left_out: u64,
}

impl<W: Write> Capture<W> {
    /// Makes an empty capture that also writes the decoded text to `file`, at most `file_bytes_max` of it.
    pub(super) fn new(file: W, file_bytes_max: u64) -> Self {
        Self {
            unfinished: Vec::new(),
            head: String::new(),
            head_characters: 0,
            tail: String::new(),
            tail_characters: 0,
            characters: 0,
            file,
            file_room: file_bytes_max,
            file_left_out: 0,
        }
    }

    /// Takes the next bytes; chunks may end in the middle of a character.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut joined;
        let bytes = if self.unfinished.is_empty() {
            bytes
        } else {
            joined = std::mem::take(&mut self.unfinished);
            joined.extend_from_slice(bytes);
            &joined[..]
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push_text(chunk.valid())?;
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && may_begin_a_character(invalid) {
                self.unfinished = invalid.to_vec();
            } else {
                self.push_text("\u{fffd}")?;
            }
        }
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> io::Result<()> {
        self.write_file(text.as_bytes())?;
        let count = text.chars().count();
        self.characters = self
            .characters
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let room = END_CHARACTERS - self.head_characters;
        if room > 0 {
            let end = text.char_indices().nth(room).map_or(text.len(), |(at, _)| at);
            self.head.push_str(text.get(..end).unwrap_or_default());
            self.head_characters += count.min(room);
        }
        self.tail.push_str(text);
        self.tail_characters += count;
        // Twice the wanted length before cutting, so that cutting costs little per character.
        if self.tail_characters > 2 * END_CHARACTERS {
            self.cut_tail();
        }
        Ok(())
    }

    fn cut_tail(&mut self) {
        let excess = self.tail_characters.saturating_sub(END_CHARACTERS);
        let start = self
            .tail
            .char_indices()
            .nth(excess)
            .map_or(self.tail.len(), |(at, _)| at);
        self.tail.drain(..start);
        self.tail_characters -= excess;
    }

    fn write_file(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let fits = usize::try_from(length.min(self.file_room)).unwrap_or(bytes.len());
        self.file.write_all(bytes.get(..fits).unwrap_or_default())?;
        self.file_room = self.file_room.saturating_sub(length);
        self.file_left_out = self
            .file_left_out
            .saturating_add(length.saturating_sub(u64::try_from(fits).unwrap_or(u64::MAX)));
        Ok(())
    }

    /// Ends the stream; returns its text, cut in the middle if it is long, and the file.
    pub(super) fn finish(mut self) -> io::Result<(String, W)> {
        if !self.unfinished.is_empty() {
            self.unfinished.clear();
            self.push_text("\u{fffd}")?;
        }
        if self.file_left_out > 0 {
            let note = format!(
                "\n[cut here: {} further bytes were left out]\n",
                self.file_left_out
            );
            self.file.write_all(note.as_bytes())?;
        }
        self.file.flush()?;
        self.cut_tail();
        let both = u64::try_from(2 * END_CHARACTERS).unwrap_or(u64::MAX);
        let text = if self.characters > both {
            format!("{}{GAP}{}", self.head, self.tail)
        } else {
            // The ends overlap: the tail's first characters are in the head already.
            let shared = self.head_characters + self.tail_characters;
            let shared = shared.saturating_sub(usize::try_from(self.characters).unwrap_or(shared));
            let start = self
                .tail
                .char_indices()
                .nth(shared)
                .map_or(self.tail.len(), |(at, _)| at);
            self.head.push_str(self.tail.get(start..).unwrap_or_default());
            self.head
        };
        Ok((text, self.file))
    }
}

/// Returns whether bytes that are no character yet could become one with what follows.
fn may_begin_a_character(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capture(chunks: &[&[u8]]) -> (String, String) {
        let mut capture = Capture::new(Vec::new(), FILE_BYTES_MAX);
        for chunk in chunks {
            capture.push(chunk).unwrap();
        }
        let (text, file) = capture.finish().unwrap();
        (text, String::from_utf8(file).unwrap())
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters_in_both() {
        let (text, file) = capture(&[b"\xff\xfex\r\n\0y"]);
        assert_eq!(text, "\u{fffd}\u{fffd}x\r\n\0y");
        assert_eq!(file, text);
    }

    #[test]
    fn a_character_may_be_split_between_chunks_and_cut_off_at_the_end() {
        assert_eq!(capture(&[b"\xf0\x9f", b"\x98\x80", b"\xc3"]).0, "😀\u{fffd}");
        assert_eq!(capture(&[b"\xf0\x9f", b"x"]).0, "\u{fffd}x");
    }

    #[test]
    fn a_long_stream_keeps_its_head_and_tail_and_the_file_keeps_all() {
        for (length, is_cut) in [
            (999_999, false),
            (1_000_000, false),
            (1_000_001, true),
            (3_400_000, true),
        ] {
            let whole: String = (0..length)
                .map(|at| char::from(b'a' + u8::try_from(at % 23).unwrap()))
                .collect();
            let chunks: Vec<&[u8]> = whole.as_bytes().chunks(32_768).collect();
            let (text, file) = capture(&chunks);
            assert_eq!(file.len(), length);
            if is_cut {
                assert_eq!(text.len(), 1_000_005);
                let (head, rest) = text.split_at(500_000);
                assert_eq!(head, whole.split_at(500_000).0);
                assert_eq!(
                    rest.strip_prefix(" ... "),
                    Some(whole.split_at(length - 500_000).1)
                );
            } else {
                assert_eq!(text, whole);
            }
        }
    }

    #[test]
    fn a_file_over_its_bound_says_what_is_missing() {
        let mut capture = Capture::new(Vec::new(), 3);
        capture.push(b"abcdef").unwrap();
        capture.push(b"ghi").unwrap();
        let (text, file) = capture.finish().unwrap();
        assert_eq!(text, "abcdefghi");
        assert_eq!(file, b"abc\n[cut here: 6 further bytes were left out]\n");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_read_as_the_whole_would(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            size in 1_usize..8,
        ) {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(capture(&chunks).0, String::from_utf8_lossy(&bytes));
        }
    }
}
