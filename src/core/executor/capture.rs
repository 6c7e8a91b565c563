//! What a container writes: a bounded text of its head and tail, and the whole in a file.

use std::collections::VecDeque;
use std::io::{self, Write};

/// How many characters of a stream are kept at each end (wire-executor-miner §8).
const END_CHARACTERS: usize = 500_000;

/// What stands for the middle of a stream that was cut (wire-executor-miner §8).
const GAP: &str = " ... ";

/// The most of a stream that is written to its file, in bytes; what follows is counted only.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How much text is gathered in one piece of the tail, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// The end of a stream, in pieces, so that what is too old is dropped without looking at it again.
#[derive(Debug, Default)]
struct Tail {
    pieces: VecDeque<Piece>,
    characters: usize,
}

#[derive(Debug, Default)]
struct Piece {
    text: String,
    characters: usize,
}

impl Tail {
    /// Adds text; at least the last [`END_CHARACTERS`] are kept, and a piece more at most.
    fn push(&mut self, text: &str, characters: usize) {
        match self.pieces.back_mut() {
            Some(last) if last.text.len() < PIECE_BYTES => {
                last.text.push_str(text);
                last.characters += characters;
            }
            Some(_) | None => self.pieces.push_back(Piece {
                text: text.to_owned(),
                characters,
            }),
        }
        self.characters += characters;
        while let Some(first) = self.pieces.front()
            && self.characters - first.characters >= END_CHARACTERS
        {
            self.characters -= first.characters;
            self.pieces.pop_front();
        }
    }

    /// Returns the last `characters`, or all that is there.
    fn last(&self, characters: usize) -> String {
        let all: String = self.pieces.iter().map(|piece| piece.text.as_str()).collect();
        let skipped = self.characters.saturating_sub(characters);
        all.get(byte_of(&all, skipped)..).unwrap_or_default().to_owned()
    }
}

/// Returns the place of a character in a text, in bytes.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices()
        .nth(character)
        .map_or(text.len(), |(at, _)| at)
}

/// What is known of a stream that has ended.
#[derive(Debug)]
pub(super) struct Captured {
    /// Its text, cut in the middle if it is long.
    pub(super) text: String,
    /// How many bytes were written to it.
    pub(super) bytes: u64,
    /// How many characters of its text are missing in the middle.
    pub(super) characters_cut: u64,
    /// How many bytes of its text did not fit into the file.
    pub(super) file_bytes_left_out: u64,
}

/// One stream of a container, read as UTF-8 with the replacement character for what is none.
#[derive(Debug)]
pub(super) struct Capture<W> {
    /// Bytes at the end of the last chunk that may begin a character.
    unfinished: Vec<u8>,
    bytes: u64,
    head: String,
    head_characters: usize,
    tail: Tail,
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
            bytes: 0,
            head: String::new(),
            head_characters: 0,
            tail: Tail::default(),
            characters: 0,
            file,
            file_room: file_bytes_max,
            file_left_out: 0,
        }
    }

    /// Takes the next bytes; chunks may end in the middle of a character.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(count(bytes.len()));
        let mut joined;
        let bytes = if self.unfinished.is_empty() {
            bytes
        } else {
            joined = std::mem::take(&mut self.unfinished);
            joined.extend_from_slice(bytes);
            &joined[..]
        };
        // Most streams are text, and are read at the speed of memory.
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.push_text(text);
        }
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && may_begin_a_character(invalid) {
                self.unfinished = invalid.to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.push_text(&text)
    }

    fn push_text(&mut self, text: &str) -> io::Result<()> {
        self.write_file(text.as_bytes())?;
        let characters = text.chars().count();
        self.characters = self.characters.saturating_add(count(characters));
        let room = END_CHARACTERS - self.head_characters;
        if room > 0 {
            self.head
                .push_str(text.get(..byte_of(text, room)).unwrap_or_default());
            self.head_characters += characters.min(room);
        }
        self.tail.push(text, characters);
        Ok(())
    }

    fn write_file(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = count(bytes.len());
        let fits = usize::try_from(length.min(self.file_room)).unwrap_or(bytes.len());
        self.file.write_all(bytes.get(..fits).unwrap_or_default())?;
        self.file_room = self.file_room.saturating_sub(length);
        self.file_left_out = self
            .file_left_out
            .saturating_add(length.saturating_sub(count(fits)));
        Ok(())
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<Captured> {
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
        let characters_cut = self.characters.saturating_sub(count(2 * END_CHARACTERS));
        let mut text = self.head;
        if characters_cut > 0 {
            text.push_str(GAP);
            text.push_str(&self.tail.last(END_CHARACTERS));
        } else {
            // The ends overlap: the head has the first of the tail's characters already.
            let rest = self.characters.saturating_sub(count(self.head_characters));
            text.push_str(&self.tail.last(usize::try_from(rest).unwrap_or(END_CHARACTERS)));
        }
        Ok(Captured {
            text,
            bytes: self.bytes,
            characters_cut,
            file_bytes_left_out: self.file_left_out,
        })
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
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
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file, FILE_BYTES_MAX);
        for chunk in chunks {
            capture.push(chunk).unwrap();
        }
        let captured = capture.finish().unwrap();
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        assert_eq!(captured.bytes, count(bytes));
        (captured.text, String::from_utf8(file).unwrap())
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
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file, 3);
        capture.push(b"abcdef").unwrap();
        capture.push(b"ghi").unwrap();
        let captured = capture.finish().unwrap();
        assert_eq!(captured.text, "abcdefghi");
        assert_eq!((captured.bytes, captured.file_bytes_left_out), (9, 6));
        assert_eq!(file, b"abc\n[cut here: 6 further bytes were left out]\n");
    }

    #[test]
    fn a_stream_without_end_takes_no_more_memory_and_says_what_is_missing() {
        let mut capture = Capture::new(io::sink(), 10);
        let chunk = "é".repeat(20_000);
        for _ in 0..500 {
            capture.push(chunk.as_bytes()).unwrap();
            let kept: usize = capture.tail.pieces.iter().map(|piece| piece.text.len()).sum();
            assert!(kept <= 2 * END_CHARACTERS + 2 * chunk.len(), "{kept}");
        }
        for _ in 0..70_000 {
            capture.push(b"x").unwrap();
        }
        assert!(capture.tail.pieces.len() < 100, "{}", capture.tail.pieces.len());
        let captured = capture.finish().unwrap();
        assert_eq!(captured.bytes, 500 * 40_000 + 70_000);
        assert_eq!(captured.characters_cut, 500 * 20_000 + 70_000 - 1_000_000);
        assert_eq!(captured.file_bytes_left_out, captured.bytes - 10);
        assert_eq!(captured.text.chars().count(), 1_000_005);
        assert!(captured.text.ends_with(&"x".repeat(70_000)));
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
