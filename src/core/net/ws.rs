//! WebSocket client and server: from an address or an HTTP request to a [`Link`].

use std::{io, time::Duration};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error as WsError,
        client::IntoClientRequest,
        handshake::{client::Request, derive_accept_key},
        http::{HeaderName, Uri},
        protocol::Role,
    },
};

use super::extensions::{self, Extensions};
use super::guests::Seat;
use super::session::{self, Watched};
use super::{Link, tls};
use crate::core::tasks::Tasks;

/// Largest message taken on the inner wires: 50 MiB (wire-miner-validator §1).
pub const FRAME_BYTES_MAX: usize = 50 * 1024 * 1024;

/// Largest message that a validator takes from the facilitator: 1 MiB (wire-facilitator-validator §1).
pub const FACILITATOR_FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Largest message that the facilitator takes from a validator: 16 MiB (wire-facilitator-validator §1).
pub const VALIDATOR_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time between two pings: 20 s (every wire spec, §1).
pub const PING_EVERY: Duration = Duration::from_secs(20);

/// Time that a peer has for its pong on the inner wires: 120 s (wire-miner-validator §1).
pub const PONG_WITHIN: Duration = Duration::from_secs(120);

/// Time that a peer has for its pong on the facilitator's wire: 20 s (wire-facilitator-validator §1).
pub const FACILITATOR_PONG_WITHIN: Duration = Duration::from_secs(20);

/// Time for name, TCP, TLS and HTTP handshake together: 10 s (wire-miner-validator §1).
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the client of an upgrade has until the session begins.
pub const UPGRADE_TIME: Duration = Duration::from_secs(5);

/// Bytes of the only message that a peer of the inner wires may send before it is trusted: an authentication has some
/// 350.
pub const STRANGER_BYTES_MAX: usize = 4096;

/// Attempts to connect before giving up: 5 (wire-miner-validator §8).
pub const CONNECT_ATTEMPTS: u32 = 5;

/// Bounds of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest message taken; one byte more closes with 1009.
    pub frame_bytes_max: usize,
    /// Time between two pings.
    pub ping_every: Duration,
    /// Time that the peer has to answer a ping, and to take what is written, before it is given up.
    pub pong_within: Duration,
    /// Bytes of the only message that is heard before [`Link::trust`]; none where a stranger may send what it likes.
    pub stranger_bytes_max: Option<usize>,
}

impl Default for Limits {
    /// The limits of the inner wires: 50 MiB, 20 s, 120 s.
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX,
            ping_every: PING_EVERY,
            pong_within: PONG_WITHIN,
            stranger_bytes_max: None,
        }
    }
}

impl Limits {
    /// The limits of the inner wires, with one message of [`STRANGER_BYTES_MAX`] before the peer is trusted.
    pub fn towards_strangers() -> Self {
        Self {
            stranger_bytes_max: Some(STRANGER_BYTES_MAX),
            ..Self::default()
        }
    }

    /// The limits of a validator towards the facilitator: 1 MiB, 20 s, 20 s.
    pub fn towards_facilitator() -> Self {
        Self {
            frame_bytes_max: FACILITATOR_FRAME_BYTES_MAX,
            pong_within: FACILITATOR_PONG_WITHIN,
            ..Self::default()
        }
    }

    /// The limits of the facilitator towards a validator: 16 MiB, 20 s, 20 s.
    pub fn towards_validator() -> Self {
        Self {
            frame_bytes_max: VALIDATOR_FRAME_BYTES_MAX,
            pong_within: FACILITATOR_PONG_WITHIN,
            ..Self::default()
        }
    }
}

/// How to open a session.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Header names and values beside those of the protocol.
    pub headers: Vec<(String, String)>,
    /// What is offered beyond the wire.
    pub extensions: Extensions,
    /// Bounds of the session.
    pub limits: Limits,
    /// Time for the whole handshake.
    pub open_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            extensions: Extensions::default(),
            limits: Limits::default(),
            open_timeout: OPEN_TIMEOUT,
        }
    }
}

/// No session could be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address cannot be used.
    #[error("{url:?} is no WebSocket address: {reason}")]
    BadUrl {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A header given by the caller cannot travel.
    #[error("the header {name:?} has a name or value that HTTP does not allow")]
    BadHeader {
        /// Name of the header.
        name: String,
    },
    /// The host does not resolve, or does not answer on the port.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// TLS could not be agreed on.
    #[error("no TLS with {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// What the TLS library says.
        source: io::Error,
    },
    /// The server answered, but not with an upgrade.
    #[error("{address} refused the session with HTTP status {status}")]
    Refused {
        /// Host and port.
        address: String,
        /// HTTP status.
        status: u16,
    },
    /// The server broke the handshake.
    #[error("the handshake with {address} failed: {reason}")]
    Handshake {
        /// Host and port.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// The handshake took longer than allowed.
    #[error("{address} did not complete the handshake within {} s", limit.as_secs_f64())]
    TimedOut {
        /// Host and port.
        address: String,
        /// Time allowed.
        limit: Duration,
    },
}

impl ConnectError {
    /// Says whether trying again can help; a bad address or header stays bad.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::BadUrl { .. } | Self::BadHeader { .. })
    }
}

/// Pause after failed attempt number `attempt` (counted from 1): 2^attempt s plus `jitter` s,
/// where `jitter` lies in 0..1 (wire-miner-validator §8: 2, 4, 8, 16, 32 s).
pub fn pause_after(attempt: u32, jitter: f64) -> Duration {
    let whole = Duration::from_secs(1 << attempt.clamp(1, CONNECT_ATTEMPTS));
    whole + Duration::try_from_secs_f64(jitter.min(1.0)).unwrap_or_default()
}

/// Opens a session, trying up to `attempts` times with the pauses of [`pause_after`] — also after
/// the last failure, as the reference does — and returns the last error when all failed.
///
/// Dropping the future gives up at once.
pub async fn connect_patiently(
    url: &str,
    options: &ConnectOptions,
    tasks: &Tasks,
    attempts: u32,
) -> Result<Link, ConnectError> {
    let mut attempt = 1;
    loop {
        let error = match connect(url, options, tasks).await {
            Ok(link) => return Ok(link),
            Err(error) if error.is_lasting() => return Err(error),
            Err(error) => error,
        };
        let pause = pause_after(attempt, rand::random());
        tracing::debug!(url, attempt, %error, ?pause, "cannot connect");
        sleep(pause).await;
        if attempt >= attempts {
            return Err(error);
        }
        attempt += 1;
    }
}

/// Opens a session with a server at a `ws://` or `wss://` address.
pub async fn connect(url: &str, options: &ConnectOptions, tasks: &Tasks) -> Result<Link, ConnectError> {
    let (mut request, target) = prepare(url, &options.headers)?;
    if let Some(offer) = options.extensions.header() {
        request.headers_mut().insert(extensions::HEADER, offer);
    }
    let opening = open(request, &target, options, tasks);
    timeout(options.open_timeout, opening).await.unwrap_or_else(|_| {
        Err(ConnectError::TimedOut {
            address: target.address(),
            limit: options.open_timeout,
        })
    })
}

/// Where a `ws://` or `wss://` address leads.
#[derive(Debug)]
struct Target {
    host: String,
    port: u16,
    secure: bool,
}

impl Target {
    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn prepare(url: &str, headers: &[(String, String)]) -> Result<(Request, Target), ConnectError> {
    let bad = |reason: &str| ConnectError::BadUrl {
        url: url.to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = url
        .parse()
        .map_err(|error: tokio_tungstenite::tungstenite::http::uri::InvalidUri| bad(&error.to_string()))?;
    let secure = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(bad("it does not begin with ws:// or wss://")),
    };
    let host = uri.host().ok_or_else(|| bad("it names no host"))?;
    let names_port = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().ends_with(host));
    if names_port && uri.port_u16().is_none() {
        return Err(bad("its port is no number up to 65535"));
    }
    let target = Target {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        secure,
    };
    let mut request = uri
        .into_client_request()
        .map_err(|error| bad(&error.to_string()))?;
    for (name, value) in headers {
        let (Ok(key), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) else {
            return Err(ConnectError::BadHeader { name: name.clone() });
        };
        request.headers_mut().append(key, value);
    }
    Ok((request, target))
}

async fn open(
    request: Request,
    target: &Target,
    options: &ConnectOptions,
    tasks: &Tasks,
) -> Result<Link, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        address: target.address(),
        source,
    };
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    if !target.secure {
        return shake_hands(request, stream, target, options, tasks).await;
    }
    let no_tls = |source| ConnectError::Tls {
        address: target.address(),
        source,
    };
    let name = tls::server_name(&target.host).map_err(no_tls)?;
    let stream = tls::connector()
        .map_err(no_tls)?
        .connect(name, stream)
        .await
        .map_err(no_tls)?;
    shake_hands(request, stream, target, options, tasks).await
}

async fn shake_hands<S>(
    request: Request,
    stream: S,
    target: &Target,
    options: &ConnectOptions,
    tasks: &Tasks,
) -> Result<Link, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = session::websocket_config(&options.limits);
    match client_async_with_config(request, Watched::new(stream), Some(config)).await {
        Ok((socket, response)) => {
            let agreed = options
                .extensions
                .shared_with(&Extensions::read(response.headers()));
            let (link, driver) = session::start(socket, options.limits.clone(), agreed, None);
            tasks.spawn("link", driver);
            Ok(link)
        }
        Err(WsError::Http(response)) => Err(ConnectError::Refused {
            address: target.address(),
            status: response.status().as_u16(),
        }),
        Err(WsError::Io(source)) => Err(ConnectError::Unreachable {
            address: target.address(),
            source,
        }),
        Err(other) => Err(ConnectError::Handshake {
            address: target.address(),
            reason: other.to_string(),
        }),
    }
}

/// An HTTP request that asks for a WebSocket; an axum extractor, given to [`accept`].
#[derive(Debug)]
pub struct Upgrade {
    accept_key: String,
    taking_over: OnUpgrade,
    offered: Extensions,
    agreed: Extensions,
    /// None where another server than [`super::http::serve`] accepted the connection.
    seat: Option<Seat>,
}

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UpgradeError {
    /// The request lacks what RFC 6455 demands of the client's handshake.
    #[error("this address speaks WebSocket version 13 only")]
    NotWebSocket,
    /// The connection cannot be taken over from HTTP.
    #[error("this connection cannot be upgraded")]
    NotUpgradable,
}

impl IntoResponse for UpgradeError {
    fn into_response(self) -> Response {
        let upgrade = [
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
        ];
        (StatusCode::UPGRADE_REQUIRED, upgrade, self.to_string()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = UpgradeError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, UpgradeError> {
        let headers = &parts.headers;
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .ok_or(UpgradeError::NotWebSocket)?;
        let asked = parts.method == Method::GET
            && has_token(headers, &header::CONNECTION, "upgrade")
            && has_token(headers, &header::UPGRADE, "websocket")
            && has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13");
        if !asked {
            return Err(UpgradeError::NotWebSocket);
        }
        let accept_key = derive_accept_key(key.as_bytes());
        let taking_over = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or(UpgradeError::NotUpgradable)?;
        Ok(Self {
            accept_key,
            taking_over,
            offered: Extensions::read(&parts.headers),
            agreed: Extensions::default(),
            seat: parts.extensions.get().cloned(),
        })
    }
}

impl Upgrade {
    /// Agrees to those of `known` that the client offers; without this nothing is agreed on.
    #[must_use]
    pub fn agreeing(mut self, known: &Extensions) -> Self {
        self.agreed = known.shared_with(&self.offered);
        self
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Answers an upgrade request and runs `session` with the link as a task, so that shutdown waits for it.
pub fn accept<F, Fut>(upgrade: Upgrade, limits: Limits, tasks: &Tasks, session: F) -> Response
where
    F: FnOnce(Link) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Upgrade {
        accept_key,
        taking_over,
        offered: _,
        agreed,
        seat,
    } = upgrade;
    let Ok(accept_key) = HeaderValue::from_str(&accept_key) else {
        return UpgradeError::NotWebSocket.into_response();
    };
    let answer = agreed.header();
    let spawner = tasks.clone();
    tasks.spawn("session", async move {
        let stream = match timeout(UPGRADE_TIME, taking_over).await {
            Ok(Ok(upgraded)) => match limits.stranger_bytes_max {
                Some(bytes_max) => Watched::guarded(TokioIo::new(upgraded), bytes_max),
                None => Watched::new(TokioIo::new(upgraded)),
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "upgrade failed");
                return;
            }
            Err(_) => {
                tracing::debug!("upgrade took too long");
                return;
            }
        };
        let config = session::websocket_config(&limits);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let (link, driver) = session::start(socket, limits, agreed, seat.as_ref().map(Seat::place));
        // Boxed, as is the session: a future within another is held twice.
        let driver = Box::pin(driver);
        spawner.spawn("link", async move {
            match &seat {
                Some(seat) => tokio::select! {
                    () = driver => {}
                    () = seat.left() => tracing::debug!("a stranger's link gave way to another"),
                },
                None => driver.await,
            }
            drop(seat);
        });
        Box::pin(session(link)).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
    if let Some(answer) = answer {
        headers.insert(extensions::HEADER, answer);
    }
    response
}

/// Bytes that wait in each direction of the pipe under [`pair`].
const PAIR_BUFFER_BYTES: usize = 64 * 1024;

/// Two links joined in memory, with the same framing as over a socket: the first as the server, the second as the client.
pub async fn pair(tasks: &Tasks, limits: &Limits) -> (Link, Link) {
    let (near, far) = tokio::io::duplex(PAIR_BUFFER_BYTES);
    let (near, far) = (Watched::new(near), Watched::new(far));
    let config = session::websocket_config(limits);
    let server = WebSocketStream::from_raw_socket(near, Role::Server, Some(config)).await;
    let client = WebSocketStream::from_raw_socket(far, Role::Client, Some(config)).await;
    let (server, server_driver) = session::start(server, limits.clone(), Extensions::default(), None);
    let (client, client_driver) = session::start(client, limits.clone(), Extensions::default(), None);
    tasks.spawn("link", server_driver);
    tasks.spawn("link", client_driver);
    (server, client)
}
