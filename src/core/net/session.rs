//! The task behind a [`Link`]: owns one WebSocket, reads, writes, pings, closes.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        error::{CapacityError, ProtocolError},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Arrival, Budget, Ending, Event, Link, LinkClosed, LinkReceiver, LinkSender, Order, QUEUE_MESSAGES,
    Standing, close_code,
    extensions::Extensions,
    guard::{Excess, Guard, Trust, excess},
    guests::Place,
    ws::Limits,
};

/// Longest wait for the peer's answer to a close frame (wire-miner-validator §1: 10 s).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time spent on swallowing what the peer of an oversize message still sends, so that the
/// close frame reaches it instead of being destroyed by a connection reset.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of text that fit into a close frame beside the code.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Bytes of the read buffer of a socket; allocated at once, so it is kept small. A larger frame has a buffer of its own
/// length.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes that are gathered before they are written.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// Queued messages written before the socket is flushed.
const WRITE_BATCH: usize = 16;

/// Translates the limits of a link into those of the WebSocket library.
pub(super) fn websocket_config(limits: &Limits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(limits.frame_bytes_max))
        .max_frame_size(Some(limits.frame_bytes_max))
}

/// A link and the future that drives its socket; the link is dead unless the future runs.
pub(super) fn start<S>(
    socket: WebSocketStream<Watched<S>>,
    limits: Limits,
    extensions: Extensions,
    place: Option<Place>,
) -> (Link, impl Future<Output = ()> + Send + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (order_sender, orders) = mpsc::channel(QUEUE_MESSAGES);
    let (arrival_sender, arrivals) = mpsc::channel(QUEUE_MESSAGES);
    let ending: Ending = Arc::new(OnceLock::new());
    let link = Link {
        sender: LinkSender {
            orders: order_sender,
            budget: Budget::new(),
            ending: Arc::clone(&ending),
        },
        receiver: LinkReceiver {
            arrivals,
            ending: Arc::clone(&ending),
        },
        extensions,
        standing: Standing {
            trust: socket.get_ref().trust(),
            place,
        },
    };
    let session = Session {
        limits,
        trust: link.standing.trust.clone(),
        arrivals: arrival_sender,
        budget: Budget::new(),
        pulse: Arc::clone(&socket.get_ref().pulse),
    };
    (link, session.drive(socket, orders, ending))
}

/// Why one of the two loops of a session stopped.
#[derive(Debug)]
enum Stop {
    /// This side ends the session with a close frame.
    Ours { code: u16, reason: String },
    /// The peer sent a close frame, or ended the stream after one.
    Theirs { code: u16, reason: String },
    /// The connection is unusable.
    Broken { reason: String },
}

/// Signs of life of the peer, noted by [`Watched`] and judged by the writing loop.
#[derive(Debug)]
struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the newest byte that came in.
    heard: AtomicU64,
    /// Milliseconds from `start` to the newest byte that went out.
    took: AtomicU64,
    /// Whether this side does not listen at the moment.
    deaf: AtomicBool,
}

impl Pulse {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            heard: AtomicU64::new(0),
            took: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
        }
    }

    fn beat(&self, what: &AtomicU64) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        what.store(millis, Ordering::Relaxed);
    }

    fn since(&self, what: &AtomicU64) -> Duration {
        let beat = Duration::from_millis(what.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(beat)
    }

    /// Time since the peer was last heard; zero while this side does not listen.
    fn silence(&self) -> Duration {
        if self.deaf.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.since(&self.heard)
    }

    fn stop_listening(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    fn listen_again(&self) {
        self.beat(&self.heard);
        self.deaf.store(false, Ordering::Relaxed);
    }
}

/// A socket that notes every byte, so that a large message over a slow line counts as life.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    pulse: Arc<Pulse>,
    /// None once the peer is trusted.
    guard: Option<Box<Guard>>,
}

impl<S> Watched<S> {
    /// Takes over a socket that is about to become a session.
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            pulse: Arc::new(Pulse::new()),
            guard: None,
        }
    }

    /// Takes over the socket of a peer that may send no more than one message of `bytes_max` until it is trusted.
    pub(super) fn guarded(socket: S, bytes_max: usize) -> Self {
        Self {
            guard: Some(Box::new(Guard::new(bytes_max))),
            ..Self::new(socket)
        }
    }

    fn trust(&self) -> Option<Arc<Trust>> {
        Some(self.guard.as_ref()?.trust())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Self { socket, guard, .. } = &mut *self;
        if guard.as_ref().is_some_and(|guard| guard.is_done()) {
            *guard = None;
        }
        let outcome = match guard {
            Some(guard) => guard.poll_read(socket, context, buffer),
            None => Pin::new(socket).poll_read(context, buffer),
        };
        if buffer.filled().len() > before {
            self.pulse.beat(&self.pulse.heard);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(context, bytes);
        if matches!(outcome, Poll::Ready(Ok(count)) if count > 0) {
            self.pulse.beat(&self.pulse.took);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

struct Session {
    limits: Limits,
    arrivals: mpsc::Sender<Arrival>,
    budget: Budget,
    pulse: Arc<Pulse>,
    trust: Option<Arc<Trust>>,
}

impl Session {
    async fn drive<S>(
        self,
        socket: WebSocketStream<Watched<S>>,
        mut orders: mpsc::Receiver<Order>,
        ending: Ending,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (mut sink, mut source) = socket.split();
        let stop = {
            let reading = pin!(self.read(&mut source));
            let writing = pin!(self.write(&mut sink, &mut orders));
            tokio::select! {
                biased;
                stop = reading => stop,
                stop = writing => stop,
            }
        };
        if let Some(trust) = &self.trust {
            // The peer's own farewell has to get through.
            trust.say_farewell();
        }
        let closed = match stop {
            Stop::Ours { code, reason } => {
                // The ending is known before the farewell is over: whoever waits need not wait for it.
                let closed = note(&ending, code, reason);
                drop(orders);
                drop(self.arrivals);
                // Boxed, so that no session carries the room for its farewell through its life.
                Box::pin(say_goodbye(sink, source, &closed)).await;
                closed
            }
            Stop::Theirs { code, reason } => {
                let closed = note(&ending, code, reason);
                drop(orders);
                drop(self.arrivals);
                // The library has queued the answer; reading on writes it and awaits the end of the stream.
                let farewell = async { while let Some(Ok(_)) = source.next().await {} };
                drop(timeout(CLOSE_TIMEOUT, farewell).await);
                closed
            }
            Stop::Broken { reason } => note(&ending, close_code::ABNORMAL, reason),
        };
        tracing::debug!(code = closed.code, reason = %closed.reason, "link closed");
    }

    /// Hands messages of the peer to the owner of the link, until the stream ends.
    async fn read<S>(&self, source: &mut SplitStream<WebSocketStream<Watched<S>>>) -> Stop
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        loop {
            let Some(frame) = source.next().await else {
                return Stop::Broken {
                    reason: "the peer ended the connection".to_owned(),
                };
            };
            let event = match frame {
                Ok(Message::Text(text)) => Event::Text(text.as_str().to_owned()),
                Ok(Message::Binary(bytes)) => Event::Binary(bytes.to_vec()),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(Some(frame))) => {
                    return Stop::Theirs {
                        code: frame.code.into(),
                        reason: frame.reason.as_str().to_owned(),
                    };
                }
                Ok(Message::Close(None)) => {
                    return Stop::Theirs {
                        code: close_code::NO_STATUS,
                        reason: String::new(),
                    };
                }
                Err(error) => return stop_for(&error),
            };
            self.pulse.stop_listening();
            if !self.deliver(event).await {
                // The writing loop sees the same and ends the session in good order.
                std::future::pending::<()>().await;
            }
            self.pulse.listen_again();
        }
    }

    /// Queues a message for the owner of the link; false when the owner has gone.
    async fn deliver(&self, event: Event) -> bool {
        let bytes = match &event {
            Event::Text(text) => text.len(),
            Event::Binary(bytes) => bytes.len(),
            Event::Closed { .. } => 0,
        };
        let Some(room) = self.budget.take(bytes).await else {
            return false;
        };
        let arrival = Arrival { event, _room: room };
        self.arrivals.send(arrival).await.is_ok()
    }

    /// Writes what the owner of the link queues, and pings; ends with the owner's wish, a silent peer or a broken socket.
    async fn write<S>(
        &self,
        sink: &mut SplitSink<WebSocketStream<Watched<S>>, Message>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Stop
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut pings = interval_at(Instant::now() + self.limits.ping_every, self.limits.ping_every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listening = true;
        loop {
            let order = tokio::select! {
                () = self.arrivals.closed(), if listening => {
                    // Nobody hears the peer any more: write what is queued, take nothing new.
                    listening = false;
                    orders.close();
                    continue;
                }
                order = orders.recv() => order,
                _ = pings.tick() => {
                    if self.pulse.silence() > self.limits.ping_every + self.limits.pong_within {
                        return Stop::Ours {
                            code: close_code::INTERNAL,
                            reason: "keepalive ping timeout".to_owned(),
                        };
                    }
                    match self.bounded(sink.send(Message::Ping(Vec::new().into()))).await {
                        Ok(()) => continue,
                        Err(stop) => return stop,
                    }
                }
            };
            let mut next = order;
            let mut written = 0;
            loop {
                match next {
                    Some(Order::Text { text, _room }) => {
                        if let Err(stop) = self.bounded(sink.feed(Message::text(text))).await {
                            return stop;
                        }
                    }
                    Some(Order::Close { code, reason }) => return Stop::Ours { code, reason },
                    None => {
                        return Stop::Ours {
                            code: close_code::NORMAL,
                            reason: String::new(),
                        };
                    }
                }
                written += 1;
                if written == WRITE_BATCH {
                    break;
                }
                match orders.try_recv() {
                    Ok(order) => next = Some(order),
                    Err(_) => break,
                }
            }
            if let Err(stop) = self.bounded(sink.flush()).await {
                return stop;
            }
        }
    }

    /// Bounds a write: a peer that takes no byte for as long as it may owe a pong is gone.
    async fn bounded(&self, write: impl Future<Output = Result<(), WsError>>) -> Result<(), Stop> {
        let mut write = pin!(write);
        self.pulse.beat(&self.pulse.took);
        let patience = self.limits.pong_within;
        loop {
            let left = patience.saturating_sub(self.pulse.since(&self.pulse.took));
            if left.is_zero() {
                return Err(Stop::Broken {
                    reason: "the peer reads nothing".to_owned(),
                });
            }
            if let Ok(outcome) = timeout(left, write.as_mut()).await {
                return outcome.map_err(|error| stop_for(&error));
            }
        }
    }
}

/// Writes down how the session ended, once.
fn note(ending: &Ending, code: u16, reason: String) -> LinkClosed {
    ending.get_or_init(|| LinkClosed { code, reason }).clone()
}

/// Returns what a stranger sent too much of, if that is the error.
fn excess_of(error: &WsError) -> Option<Excess> {
    match error {
        WsError::Io(error) => excess(error),
        _ => None,
    }
}

/// Says what an error of the socket means for the session.
fn stop_for(error: &WsError) -> Stop {
    if let Some(excess) = excess_of(error) {
        return Stop::Ours {
            code: close_code::TOO_BIG,
            reason: excess.to_string(),
        };
    }
    let (code, reason) = match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => (
            close_code::TOO_BIG,
            format!("message of {size} bytes exceeds the limit of {max_size} bytes"),
        ),
        WsError::Utf8(_) => (close_code::INVALID_TEXT, "text is not UTF-8".to_owned()),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | WsError::ConnectionClosed
        | WsError::AlreadyClosed
        | WsError::Io(_) => {
            return Stop::Broken {
                reason: error.to_string(),
            };
        }
        WsError::Protocol(violation) => (close_code::PROTOCOL, violation.to_string()),
        other => {
            return Stop::Broken {
                reason: other.to_string(),
            };
        }
    };
    Stop::Ours { code, reason }
}

/// Sends the close frame and waits, within bounds, until the peer has answered and ended the stream.
async fn say_goodbye<S>(
    mut sink: SplitSink<WebSocketStream<Watched<S>>, Message>,
    mut source: SplitStream<WebSocketStream<Watched<S>>>,
    closed: &LinkClosed,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    let frame = CloseFrame {
        code: CloseCode::from(closed.code),
        reason: Utf8Bytes::from(cut(&closed.reason, CLOSE_REASON_BYTES_MAX)),
    };
    let Ok(Ok(())) = timeout_at(deadline, sink.send(Message::Close(Some(frame)))).await else {
        return;
    };
    let answer = async {
        loop {
            match source.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return matches!(error, WsError::Capacity(_)) || excess_of(&error).is_some();
                }
                None => return false,
            }
        }
    };
    let Ok(oversize) = timeout_at(deadline, answer).await else {
        return;
    };
    if !oversize {
        return;
    }
    if let Ok(socket) = sink.reunite(source) {
        let mut raw = socket.into_inner().socket;
        let mut scrap = vec![0_u8; 4096];
        let swallow = async { while matches!(raw.read(&mut scrap).await, Ok(n) if n > 0) {} };
        drop(timeout(DRAIN_TIMEOUT, swallow).await);
    }
}

/// Cuts `text` to at most `bytes_max` bytes at a character boundary.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
