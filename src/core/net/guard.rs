//! What a peer may send before it has proved who it is: one small message, counted on the raw bytes.
//!
//! The WebSocket library reserves memory for a frame as soon as it has read the frame's length, and hands over
//! messages as they come. So the bytes of a stranger pass through a [`Guard`] first, which follows the frames by their
//! headers: a message above the limit is refused at its header, and what comes after the first message stays in the
//! socket (but for what was read together with it) until the owner of the link trusts the peer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes read from the socket of a stranger at once.
const READ_BYTES: usize = 2048;

/// Bytes of the longest frame header.
const HEADER_BYTES_MAX: usize = 14;

/// Bytes of the longest control frame's content (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Control frames that a stranger may send.
const CONTROL_FRAMES_MAX: u32 = 64;

/// What a stranger may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Excess {
    /// A message above the limit.
    #[error("message of {bytes} bytes exceeds the {bytes_max} bytes of a peer that has not authenticated")]
    Message {
        /// Its bytes, as far as is known.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A control frame that no protocol allows, or too many.
    #[error("too many control frames, or too large ones")]
    Control,
}

/// Says what was too much, if that is what broke the connection.
pub(super) fn excess(error: &io::Error) -> Option<Excess> {
    error.get_ref()?.downcast_ref::<Excess>().copied()
}

const STRANGER: u8 = 0;
const LEAVING: u8 = 1;
const TRUSTED: u8 = 2;

/// Whether a peer is trusted, as its guard and its link share it.
#[derive(Debug)]
pub(super) struct Trust {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Trust {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(STRANGER),
            waker: AtomicWaker::new(),
        }
    }

    /// Lets everything pass from now on.
    pub(super) fn grant(&self) {
        self.state.store(TRUSTED, Ordering::Release);
        self.waker.wake();
    }

    /// Lets the end of the session pass, in small messages, unless the peer is trusted.
    pub(super) fn say_farewell(&self) {
        let is_stranger = self
            .state
            .compare_exchange(STRANGER, LEAVING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if is_stranger {
            self.waker.wake();
        }
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }
}

/// Follows the frames of one direction by their headers.
#[derive(Debug)]
struct Scanner {
    bytes_max: u64,
    header: [u8; HEADER_BYTES_MAX],
    have: usize,
    /// Bytes of the current frame's content that are still to come.
    left: u64,
    /// Whether the current frame is the last of a message.
    ends_message: bool,
    /// Bytes of the current message so far, by the headers.
    message: u64,
    control_frames: u32,
    /// Whether the last byte was the last of a message.
    is_complete: bool,
}

impl Scanner {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: u64::try_from(bytes_max).unwrap_or(u64::MAX),
            header: [0; HEADER_BYTES_MAX],
            have: 0,
            left: 0,
            ends_message: false,
            message: 0,
            control_frames: 0,
            is_complete: false,
        }
    }

    /// Returns how many of `bytes` belong to the current message.
    fn pass(&mut self, bytes: &[u8]) -> Result<usize, Excess> {
        let mut passed = 0;
        while !self.is_complete {
            let rest = bytes.get(passed..).unwrap_or_default();
            if self.left > 0 {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                if taken == 0 {
                    break;
                }
                passed += taken;
                self.left -= u64::try_from(taken).unwrap_or(u64::MAX);
                if self.left == 0 {
                    self.end_frame();
                }
                continue;
            }
            let (Some(byte), Some(place)) = (rest.first(), self.header.get_mut(self.have)) else {
                break;
            };
            *place = *byte;
            self.have += 1;
            passed += 1;
            if self.have == self.header_length() {
                self.read_header()?;
            }
        }
        Ok(passed)
    }

    /// Begins the next message.
    fn go_on(&mut self) {
        self.is_complete = false;
    }

    fn header_length(&self) -> usize {
        let [_, second, ..] = self.header;
        if self.have < 2 {
            return 2;
        }
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
    }

    fn read_header(&mut self) -> Result<(), Excess> {
        let [first, second, ..] = self.header;
        let extended = |bytes: usize| {
            let digits = self.header.get(2..2 + bytes).unwrap_or_default();
            digits
                .iter()
                .fold(0_u64, |length, byte| (length << 8) | u64::from(*byte))
        };
        let length = match second & 0x7f {
            126 => extended(2),
            127 => extended(8),
            length => length.into(),
        };
        self.have = 0;
        self.left = length;
        let is_control = first & 0x08 != 0;
        if is_control {
            self.ends_message = false;
            self.control_frames += 1;
            if length > CONTROL_BYTES_MAX || self.control_frames > CONTROL_FRAMES_MAX {
                return Err(Excess::Control);
            }
        } else {
            self.ends_message = first & 0x80 != 0;
            // Empty fragments count, too, so that they cannot go on for ever.
            self.message = self.message.saturating_add(length.max(1));
            if self.message > self.bytes_max {
                return Err(Excess::Message {
                    bytes: self.message,
                    bytes_max: self.bytes_max,
                });
            }
        }
        if length == 0 {
            self.end_frame();
        }
        Ok(())
    }

    fn end_frame(&mut self) {
        if self.ends_message {
            self.is_complete = true;
            self.message = 0;
            self.ends_message = false;
        }
    }
}

/// Stands between the socket of a stranger and the WebSocket library.
#[derive(Debug)]
pub(super) struct Guard {
    trust: Arc<Trust>,
    scanner: Scanner,
    /// Read, but not handed over.
    stash: BytesMut,
    excess: Option<Excess>,
}

impl Guard {
    /// Guards against messages above `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            trust: Arc::new(Trust::new()),
            scanner: Scanner::new(bytes_max),
            stash: BytesMut::new(),
            excess: None,
        }
    }

    /// Returns what the owner of the link decides by.
    pub(super) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    /// Tells whether there is nothing left to guard or to hand over.
    pub(super) fn is_done(&self) -> bool {
        self.trust.state() == TRUSTED && self.stash.is_empty()
    }

    /// Reads as the socket would, but no more than a stranger may send.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(excess) = self.excess {
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let wanted = self.stash.len().min(buffer.remaining());
            let ready = self.stash.get(..wanted).unwrap_or_default();
            let passes = match self.trust.state() {
                TRUSTED => wanted,
                state => {
                    if state == LEAVING {
                        self.scanner.go_on();
                    }
                    match self.scanner.pass(ready) {
                        Ok(passes) => passes,
                        Err(excess) => {
                            self.excess = Some(excess);
                            return Poll::Ready(Err(io::Error::other(excess)));
                        }
                    }
                }
            };
            if passes > 0 {
                buffer.put_slice(self.stash.get(..passes).unwrap_or_default());
                self.stash.advance(passes);
                return Poll::Ready(Ok(()));
            }
            if self.scanner.is_complete {
                self.trust.waker.register(context.waker());
                if self.trust.state() == STRANGER {
                    return Poll::Pending;
                }
                if self.trust.state() == TRUSTED {
                    self.scanner.go_on();
                }
                continue;
            }
            if self.is_done() {
                return Pin::new(socket).poll_read(context, buffer);
            }
            // Trusted while it waits for the socket, it reads on by the next call.
            let mut chunk = [0_u8; READ_BYTES];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut *socket).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.stash.extend_from_slice(chunk.filled());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Guarded<S> {
        socket: S,
        guard: Guard,
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self { socket, guard } = self.get_mut();
            guard.poll_read(socket, context, buffer)
        }
    }

    /// A masked client frame whose content is zeros.
    fn frame(first: u8, length: u64) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(0xfe);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0xff);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame
    }

    fn whole(first: u8, length: u64) -> Vec<u8> {
        let mut whole = frame(first, length);
        whole.resize(whole.len() + usize::try_from(length).unwrap(), 0);
        whole
    }

    #[test]
    fn a_message_above_the_limit_is_refused_at_its_header() {
        for length in [4097, 65_536, 1 << 40, u64::MAX] {
            let excess = Scanner::new(4096).pass(&frame(0x81, length)).unwrap_err();
            let bytes_max = 4096;
            assert_eq!(
                excess,
                Excess::Message {
                    bytes: length,
                    bytes_max
                }
            );
        }
        let mut fragments = Scanner::new(4096);
        fragments.pass(&whole(0x01, 4000)).unwrap();
        fragments.pass(&frame(0x80, 97)).unwrap_err();
        Scanner::new(4096).pass(&frame(0x89, 126)).unwrap_err();
        let mut pings = Scanner::new(4096);
        let many = whole(0x89, 1).repeat(65);
        assert_eq!(pings.pass(&many), Err(Excess::Control));
        let mut empty = Scanner::new(4096);
        assert!(matches!(
            empty.pass(&whole(0x00, 0).repeat(4097)),
            Err(Excess::Message { .. })
        ));
    }

    #[tokio::test]
    async fn what_follows_the_first_message_waits_for_trust() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let guard = Guard::new(4096);
        let trust = guard.trust();
        let mut guarded = Guarded { socket: far, guard };
        let first = [whole(0x89, 3), whole(0x01, 200), whole(0x80, 10)].concat();
        let rest = whole(0x81, 100_000);
        near.write_all(&[first.clone(), rest.clone()].concat())
            .await
            .unwrap();
        let mut read = vec![0; first.len()];
        guarded.read_exact(&mut read).await.unwrap();
        assert_eq!(read, first);
        let mut byte = [0];
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), guarded.read(&mut byte)).await;
        early.unwrap_err();
        assert!(guarded.guard.stash.len() <= READ_BYTES);
        let mut read = vec![0; rest.len()];
        let granting = async {
            tokio::task::yield_now().await;
            trust.grant();
        };
        let (outcome, ()) = tokio::join!(guarded.read_exact(&mut read), granting);
        outcome.unwrap();
        assert_eq!(read, rest);
        assert!(guarded.guard.is_done());
    }

    #[tokio::test]
    async fn a_refused_peer_may_still_say_goodbye() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let guard = Guard::new(4096);
        let trust = guard.trust();
        let mut guarded = Guarded { socket: far, guard };
        let sent = [whole(0x81, 10), whole(0x81, 20), whole(0x88, 2)].concat();
        near.write_all(&sent).await.unwrap();
        near.write_all(&frame(0x81, 5000)).await.unwrap();
        drop(near);
        trust.say_farewell();
        let mut read = vec![0; sent.len()];
        guarded.read_exact(&mut read).await.unwrap();
        let error = guarded.read_to_end(&mut read).await.unwrap_err();
        assert!(excess(&error).is_some(), "{error}");
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_only_the_first_message_passes(
            fragments in proptest::collection::vec(0_u64..400, 0..4),
            last in 0_u64..400,
            cuts in proptest::collection::vec(1_usize..50, 1..40),
            tail in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut message = Vec::new();
            for length in &fragments {
                message.extend(whole(0x01, *length));
            }
            message.extend(whole(0x80, last));
            let stream = [message.clone(), tail].concat();
            let mut scanner = Scanner::new(4096);
            let (mut at, mut passed) = (0, 0);
            for cut in cuts.iter().cycle() {
                if at == stream.len() {
                    break;
                }
                let end = (at + cut).min(stream.len());
                passed += scanner.pass(&stream[at..end]).unwrap();
                at = end;
            }
            prop_assert_eq!(passed, message.len());
            prop_assert!(scanner.is_complete);
        }

        #[test]
        fn no_bytes_make_it_panic_or_pass_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let mut scanner = Scanner::new(4096);
            if let Ok(passed) = scanner.pass(&bytes) {
                let control = usize::try_from(CONTROL_BYTES_MAX).unwrap() + HEADER_BYTES_MAX;
                prop_assert!(passed <= 4096 * (1 + HEADER_BYTES_MAX) + 64 * control);
            }
        }
    }
}
