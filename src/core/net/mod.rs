//! Links between processes: WebSocket sessions and HTTP.
//!
//! A [`Link`] is one session of text messages, the same on both sides of a
//! wire and in tests. Behind it runs one task that owns the socket: it reads,
//! writes, pings and closes, so that the owner of the link may be busy without
//! the peer taking it for dead.
//!
//! # Queues and what happens when they are full
//!
//! Each direction has a queue bounded twice: by [`QUEUE_MESSAGES`] and by
//! [`QUEUE_BYTES`] (one message larger than that may still pass, alone).
//! Outgoing, [`LinkSender::send`] waits. Incoming, the session stops reading the
//! socket, so that TCP slows the peer down; while it does not read, the peer's
//! silence is not held against it. Nothing is ever dropped to make room. A peer
//! that is slowed down sees no pongs meanwhile and may lose its own patience, so
//! an owner that is busy for longer than seconds should go on receiving.
//!
//! # Strangers
//!
//! Whoever connects to a listener is a stranger until the owner of its link calls [`Link::trust`]: its connection gives
//! way to others when there are too many ([`guests`]), and where [`ws::Limits::stranger_bytes_max`] says so it is heard
//! with one small message only ([`guard`]).

pub mod buckets;
pub mod certificates;
pub mod extensions;
pub mod get;
pub mod guests;
pub mod http;
pub mod ws;

mod guard;
mod patience;
mod session;
mod tls;

use std::sync::{Arc, OnceLock};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use extensions::Extensions;
use guard::Trust;
use guests::Place;

/// Messages that wait in one direction of a link before the other side is slowed down.
pub const QUEUE_MESSAGES: usize = 64;

/// Bytes that wait in one direction of a link before the other side is slowed down (8 MiB).
pub const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Close codes of RFC 6455 and of the wires of this system.
pub mod close_code {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The process that closes is stopping.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the framing rules.
    pub const PROTOCOL: u16 = 1002;
    /// Stands in an [`Event::Closed`](super::Event::Closed) for a close frame without a code; never sent.
    pub const NO_STATUS: u16 = 1005;
    /// Stands in an [`Event::Closed`](super::Event::Closed) for a connection lost without a close frame; never sent.
    pub const ABNORMAL: u16 = 1006;
    /// A text message was not UTF-8.
    pub const INVALID_TEXT: u16 = 1007;
    /// A message exceeded the receiver's limit.
    pub const TOO_BIG: u16 = 1009;
    /// The peer that closes met a condition that it did not expect, or heard no pong.
    pub const INTERNAL: u16 = 1011;
    /// There are too many connections; a later one may do better.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// Miner, to an executor that agreed to come back: nobody waits for it, it need not come again.
    pub const NOT_WANTED: u16 = 4004;
    /// Facilitator: the signature of the authentication is wrong.
    pub const AUTH_SIGNATURE_INVALID: u16 = 3000;
    /// Facilitator: no active validator has this key.
    pub const AUTH_VALIDATOR_NOT_FOUND: u16 = 3001;
}

/// News from the peer of a [`Link`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One whole text message.
    Text(String),
    /// One whole binary message; no wire of this system has any, the owner of the link says so to the peer.
    Binary(Vec<u8>),
    /// The session has ended; every later `recv` says the same again.
    Closed {
        /// Close code received or sent, or 1005/1006 of [`close_code`] when there was none.
        code: u16,
        /// Text received or sent with it, or what broke the connection.
        reason: String,
    },
}

/// The session had ended before the message could be queued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the link is closed with code {code}: {reason}")]
pub struct LinkClosed {
    /// As in [`Event::Closed`].
    pub code: u16,
    /// As in [`Event::Closed`].
    pub reason: String,
}

/// An order for the task that owns the socket.
#[derive(Debug)]
enum Order {
    Text {
        text: String,
        _room: OwnedSemaphorePermit,
    },
    Close {
        code: u16,
        reason: String,
    },
}

/// A message on its way to the owner of the link.
#[derive(Debug)]
struct Arrival {
    event: Event,
    _room: OwnedSemaphorePermit,
}

/// How the session ended; written once, by the task that owns the socket.
type Ending = Arc<OnceLock<LinkClosed>>;

/// Byte budget of one direction, in units of [`Budget::UNIT`] so that a permit count fits `u32`.
#[derive(Debug, Clone)]
struct Budget(Arc<Semaphore>);

impl Budget {
    const UNIT: usize = 1024;

    fn new() -> Self {
        Self(Arc::new(Semaphore::new(QUEUE_BYTES / Self::UNIT)))
    }

    /// Returns whether nothing has taken any of it.
    fn is_whole(&self) -> bool {
        self.0.available_permits() == QUEUE_BYTES / Self::UNIT
    }

    /// Takes room for `bytes`, if there is any.
    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0)
            .try_acquire_many_owned(Self::units(bytes))
            .ok()
    }

    fn units(bytes: usize) -> u32 {
        let units = bytes.clamp(1, QUEUE_BYTES).div_ceil(Self::UNIT);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Waits for room for `bytes`; a message above the whole budget waits until it is alone.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = Self::units(bytes);
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}

/// One session of text messages with a peer.
///
/// Dropping it closes the session with 1000 once everything queued is written.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
    extensions: Extensions,
    standing: Standing,
}

/// What the listener and the session hold against a peer that has not proved who it is.
#[derive(Debug)]
struct Standing {
    /// None where nothing is guarded.
    trust: Option<Arc<Trust>>,
    /// None for links that no listener of ours accepted.
    place: Option<Place>,
}

impl Link {
    /// Returns the next news; after the end of the session always [`Event::Closed`].
    ///
    /// Cancel-safe: a call dropped before it returned has consumed nothing.
    pub async fn recv(&mut self) -> Event {
        self.receiver.recv().await
    }

    /// Queues one text message; see [`LinkSender::send`].
    pub async fn send(&self, text: impl Into<String>) -> Result<(), LinkClosed> {
        self.sender.send(text).await
    }

    /// Ends the session after everything queued is written; see [`LinkSender::close`].
    pub async fn close(&self, code: u16, reason: impl Into<String>) {
        self.sender.close(code, reason).await;
    }

    /// Returns what both sides know beyond the wire; nothing with a reference peer.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Notes that the peer has proved who it is: its connection gives way to no other any more, and may send messages
    /// of full size.
    ///
    /// False when the listener has no place for another such peer, or has given this one's place away: then nothing
    /// has changed, and the link is best closed.
    pub fn trust(&self) -> bool {
        let has_place = self.standing.place.as_ref().is_none_or(Place::trust);
        if has_place && let Some(trust) = &self.standing.trust {
            trust.grant();
        }
        has_place
    }

    /// Returns a further handle for sending.
    pub fn sender(&self) -> LinkSender {
        self.sender.clone()
    }

    /// Separates the two directions, for owners that send and receive in different tasks.
    pub fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a [`Link`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct LinkSender {
    orders: mpsc::Sender<Order>,
    budget: Budget,
    ending: Ending,
}

impl LinkSender {
    /// Queues one text message, waiting while the queue is full.
    ///
    /// `Ok` means that the session has taken it over, not that the peer has it:
    /// no wire of this system acknowledges frames, so what must arrive is
    /// confirmed by the peer's next message. Cancel-safe: a call dropped before
    /// it returned has sent nothing.
    pub async fn send(&self, text: impl Into<String>) -> Result<(), LinkClosed> {
        let text = text.into();
        let room = tokio::select! {
            biased;
            () = self.orders.closed() => return Err(self.ended()),
            room = self.budget.take(text.len()) => room.ok_or_else(|| self.ended())?,
        };
        let order = Order::Text { text, _room: room };
        self.orders.send(order).await.map_err(|_| self.ended())
    }

    /// Queues one text message if nothing else waits for the line; false if something does.
    ///
    /// For what may be lost: it never waits, and holds up what comes after it by its own length at most.
    pub fn offer(&self, text: impl Into<String>) -> bool {
        let is_idle = self.orders.capacity() == self.orders.max_capacity() && self.budget.is_whole();
        let text = text.into();
        if !is_idle {
            return false;
        }
        let Some(room) = self.budget.try_take(text.len()) else {
            return false;
        };
        self.orders.try_send(Order::Text { text, _room: room }).is_ok()
    }

    /// Ends the session: what is queued is written, then the close frame with `code` and `reason`
    /// (cut to the 123 bytes of the protocol), then the peer's answer is awaited for at most 10 s.
    ///
    /// Returns as soon as the order is queued; [`LinkSender::closed`] waits for the end itself.
    pub async fn close(&self, code: u16, reason: impl Into<String>) {
        let order = Order::Close {
            code,
            reason: reason.into(),
        };
        // A session that has ended already needs no closing.
        drop(self.orders.send(order).await);
    }

    /// Waits until the session has ended.
    pub async fn closed(&self) -> LinkClosed {
        self.orders.closed().await;
        self.ended()
    }

    fn ended(&self) -> LinkClosed {
        ending_of(&self.ending)
    }
}

/// The receiving half of a [`Link`]; dropping it closes the session.
#[derive(Debug)]
pub struct LinkReceiver {
    arrivals: mpsc::Receiver<Arrival>,
    ending: Ending,
}

impl LinkReceiver {
    /// As [`Link::recv`].
    pub async fn recv(&mut self) -> Event {
        if let Some(arrival) = self.arrivals.recv().await {
            return arrival.event;
        }
        let LinkClosed { code, reason } = ending_of(&self.ending);
        Event::Closed { code, reason }
    }
}

fn ending_of(ending: &Ending) -> LinkClosed {
    ending.get().cloned().unwrap_or_else(|| LinkClosed {
        code: close_code::ABNORMAL,
        reason: "the session is closing or was aborted".to_owned(),
    })
}

#[cfg(test)]
mod tests;
