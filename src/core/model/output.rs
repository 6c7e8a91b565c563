//! What a running job writes, on its way up from hop to hop: bounded, lossy, never in the way of anything else.
//!
//! Each hop keeps pieces until the next one takes them. When they come faster than they are taken, the oldest are
//! dropped; as every piece has its place in its stream, what is missing is known.

use std::collections::VecDeque;

use super::job::OutputStream;

/// The most bytes of one piece (32 KiB).
pub const PIECE_BYTES_MAX: usize = 32 * 1024;

/// Pieces of one stream that wait.
#[derive(Debug, Default)]
struct Window {
    /// Bytes known to be written so far.
    written: u64,
    pieces: VecDeque<Piece>,
    /// Bytes of all pieces.
    waiting: usize,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset.saturating_add(length(&self.bytes))
    }
}

impl Window {
    fn add(&mut self, offset: u64, bytes: &[u8], bytes_max: usize) {
        let Some(end) = offset
            .checked_add(length(bytes))
            .filter(|end| *end > self.written)
        else {
            // Nothing that is not known already.
            return;
        };
        let known = usize::try_from(self.written.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut offset = offset.max(self.written);
        let mut rest = bytes.get(known..).unwrap_or_default();
        // What could not stay anyway need not be copied.
        let excess = rest.len().saturating_sub(bytes_max);
        offset = offset.saturating_add(length(rest.get(..excess).unwrap_or_default()));
        rest = rest.get(excess..).unwrap_or_default();
        if let Some(last) = self.pieces.back_mut()
            && last.end() == offset
        {
            let fitting = PIECE_BYTES_MAX.saturating_sub(last.bytes.len()).min(rest.len());
            let (fits, more) = rest.split_at_checked(fitting).unwrap_or((rest, &[]));
            last.bytes.extend_from_slice(fits);
            self.waiting += fits.len();
            offset = offset.saturating_add(length(fits));
            rest = more;
        }
        for chunk in rest.chunks(PIECE_BYTES_MAX) {
            let bytes = chunk.to_vec();
            self.waiting += bytes.len();
            self.pieces.push_back(Piece { offset, bytes });
            offset = offset.saturating_add(length(chunk));
        }
        while self.waiting > bytes_max
            && let Some(dropped) = self.pieces.pop_front()
        {
            self.waiting -= dropped.bytes.len();
        }
        self.written = end;
    }
}

/// Bytes of the end of a stream that are kept after it has ended, to find its place in a result.
const END_BYTES: usize = 256;

/// What is kept of one stream to be read from any place, the newest part.
#[derive(Debug)]
pub struct Tape {
    bytes_max: usize,
    window: Window,
}

impl Tape {
    /// Makes a tape that keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            window: Window::default(),
        }
    }

    /// Takes a piece in at its place; what is known already is left out.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.window.add(offset, bytes, self.bytes_max);
    }

    /// Returns how many bytes are kept.
    pub fn kept(&self) -> usize {
        self.window.waiting
    }

    /// Returns the first bytes that are kept at or after `offset`, up to the next gap and `bytes_max` at most, and their
    /// place.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Option<(u64, Vec<u8>)> {
        let mut read: Option<(u64, Vec<u8>)> = None;
        for piece in self.window.pieces.iter().filter(|piece| piece.end() > offset) {
            let (_, bytes) = match &mut read {
                Some((start, bytes)) if start.saturating_add(length(bytes)) != piece.offset => break,
                Some(found) => found,
                None => read.insert((offset.max(piece.offset), Vec::new())),
            };
            let skipped = usize::try_from(offset.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
            bytes.extend_from_slice(piece.bytes.get(skipped..).unwrap_or_default());
            if bytes.len() >= bytes_max {
                bytes.truncate(bytes_max);
                break;
            }
        }
        read
    }

    /// Forgets all but what [`Self::start_of_end`] needs.
    pub fn end(&mut self) {
        let start = self
            .window
            .written
            .saturating_sub(u64::try_from(END_BYTES).unwrap_or(0));
        let (written, kept) = (self.window.written, self.read(start, END_BYTES));
        self.window = Window::default();
        if let Some((offset, bytes)) = kept {
            self.window.add(offset, &bytes, END_BYTES);
        }
        self.window.written = written;
    }

    /// Returns the place in the stream of the first byte of its `end`, found by what was recorded last.
    pub fn start_of_end(&self, end: &[u8]) -> Option<u64> {
        let start = self
            .window
            .written
            .saturating_sub(u64::try_from(END_BYTES).unwrap_or(0));
        let (place, seen) = self.read(start, END_BYTES)?;
        let at = end.windows(seen.len()).rposition(|bytes| bytes == seen)?;
        place.checked_sub(u64::try_from(at).ok()?)
    }
}

/// What became of a piece that was to be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// It was taken.
    Taken,
    /// It was not, and goes on waiting.
    Refused,
    /// There was none.
    Nothing,
}

/// Both streams of one job, as far as they wait to be passed on.
#[derive(Debug)]
pub struct Windows {
    /// The most bytes of each stream that wait.
    bytes_max: usize,
    stdout: Window,
    stderr: Window,
    /// Whose turn was last, so that a loud stream does not silence the other.
    was_stdout: bool,
}

impl Windows {
    /// Makes windows that hold at most `bytes_max` bytes of each stream.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            stdout: Window::default(),
            stderr: Window::default(),
            was_stdout: false,
        }
    }

    /// Takes in what a stream goes on with.
    pub fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        let offset = self.window(stream).written;
        self.add(stream, offset, bytes);
    }

    /// Takes a piece in at its place; what is known already is left out.
    pub fn add(&mut self, stream: OutputStream, offset: u64, bytes: &[u8]) {
        let bytes_max = self.bytes_max;
        self.window(stream).add(offset, bytes, bytes_max);
    }

    /// Returns how many bytes wait.
    pub fn waiting(&self) -> usize {
        self.stdout.waiting + self.stderr.waiting
    }

    /// Drops what waits; its place stays empty.
    pub fn clear(&mut self) {
        for window in [&mut self.stdout, &mut self.stderr] {
            window.pieces.clear();
            window.waiting = 0;
        }
    }

    /// Hands the next piece over, oldest first, the streams in turn; what is not taken goes on waiting.
    pub fn hand_over(&mut self, take: impl FnOnce(OutputStream, u64, &[u8]) -> bool) -> Handed {
        let order = if self.was_stdout {
            [OutputStream::Stderr, OutputStream::Stdout]
        } else {
            [OutputStream::Stdout, OutputStream::Stderr]
        };
        for stream in order {
            let window = self.window(stream);
            let Some(piece) = window.pieces.front() else {
                continue;
            };
            if !take(stream, piece.offset, &piece.bytes) {
                return Handed::Refused;
            }
            window.waiting -= piece.bytes.len();
            window.pieces.pop_front();
            self.was_stdout = stream == OutputStream::Stdout;
            return Handed::Taken;
        }
        Handed::Nothing
    }

    fn window(&mut self, stream: OutputStream) -> &mut Window {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 100_000;

    type Handful = Vec<(OutputStream, u64, Vec<u8>)>;

    fn take_all(windows: &mut Windows) -> Handful {
        let mut pieces = Vec::new();
        while windows.hand_over(|stream, offset, bytes| {
            pieces.push((stream, offset, bytes.to_vec()));
            true
        }) == Handed::Taken
        {}
        pieces
    }

    #[test]
    fn a_piece_that_nobody_takes_waits_and_both_streams_get_their_turn() {
        let mut windows = Windows::new(ROOM);
        windows.push(OutputStream::Stdout, b"a");
        windows.push(OutputStream::Stderr, b"b");
        assert_eq!(windows.hand_over(|_, _, _| false), Handed::Refused);
        assert_eq!(windows.hand_over(|_, _, _| true), Handed::Taken);
        windows.push(OutputStream::Stdout, b"c");
        let stderr_first = [
            (OutputStream::Stderr, 0, b"b".to_vec()),
            (OutputStream::Stdout, 1, b"c".to_vec()),
        ];
        assert_eq!(take_all(&mut windows), stderr_first);
        assert_eq!(windows.waiting(), 0);
    }

    #[test]
    fn a_hop_passes_on_what_it_gets_with_its_gaps_and_without_repetitions() {
        let mut windows = Windows::new(ROOM);
        for (offset, bytes) in [(0, b"abc"), (1, b"bcd"), (9, b"xyz"), (9, b"xyz")] {
            windows.add(OutputStream::Stdout, offset, bytes);
        }
        windows.add(OutputStream::Stdout, u64::MAX, b"!!");
        let pieces: Vec<(u64, Vec<u8>)> = take_all(&mut windows)
            .into_iter()
            .map(|(_, offset, bytes)| (offset, bytes))
            .collect();
        assert_eq!(pieces, [(0, b"abcd".to_vec()), (9, b"xyz".to_vec())]);
    }

    proptest! {
        #[test]
        fn a_piece_is_what_was_written_at_its_place_and_the_newest_is_never_lost(
            writes in proptest::collection::vec((0_usize..150_000, any::<bool>()), 1..12),
        ) {
            let mut windows = Windows::new(ROOM);
            let mut written = Vec::new();
            let mut end = 0;
            for (index, (length, is_taken)) in writes.iter().enumerate() {
                let bytes: Vec<u8> = (0..*length).map(|at| u8::try_from((at + index) % 251).unwrap()).collect();
                windows.push(OutputStream::Stdout, &bytes);
                written.extend_from_slice(&bytes);
                prop_assert!(windows.waiting() <= ROOM);
                if *is_taken {
                    for (_, offset, bytes) in take_all(&mut windows) {
                        let offset = usize::try_from(offset).unwrap();
                        prop_assert!(bytes.len() <= PIECE_BYTES_MAX && offset >= end);
                        prop_assert_eq!(&written[offset..offset + bytes.len()], &bytes[..]);
                        end = offset + bytes.len();
                    }
                    prop_assert_eq!(end, written.len());
                }
            }
        }
    }
}
