//! HTTP: serving a router under [`Tasks`], and making clients.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use super::certificates::Certificates;
use super::guests::{Guests, Places, Seat, raise_file_limit};
use super::patience::Patient;
use crate::core::tasks::Tasks;

/// Time that a client has to send the head of its first request.
pub const FIRST_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that a client has to send the head of a further request, counted from the answer to the last.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time in which a client must take some of what is written to it; longer than the sessions of [`super::ws`] wait, which
/// have their own patience.
pub const TAKE_TIMEOUT: Duration = Duration::from_secs(150);

/// Bytes of the head of a request, and of the read buffer behind it.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Time that a client keeps an idle connection; shorter than servers do, so that none is reused while it is closed.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Pause after `accept` failed for want of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Connections that wait in the kernel until they are accepted; it has at most `net.core.somaxconn` of them.
const BACKLOG: u32 = 4096;

/// Listens at an address, with room for a batch of connections at once.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` on `listener` until `tasks` is told to stop, then lets requests in progress finish.
///
/// Each connection is a task of `tasks`, so shutdown waits for it as long as it waits for anything. There are places for
/// as many connections as the process may have files, whose limit is raised for that; when those of strangers are
/// full, one gives way ([`super::guests`]). A handler finds the peer's address as [`ConnectInfo`]`<SocketAddr>`.
pub async fn serve(listener: TcpListener, router: Router, tasks: &Tasks) {
    serve_at_most(
        listener,
        router,
        tasks,
        Places::for_files(raise_file_limit()),
        None,
    )
    .await;
}

/// As [`serve`], over TLS: a client that has not shaken hands within [`FIRST_HEADER_TIMEOUT`] is cut off.
pub async fn serve_tls(listener: TcpListener, router: Router, tasks: &Tasks, certificates: Certificates) {
    let places = Places::for_files(raise_file_limit());
    serve_at_most(listener, router, tasks, places, Some(certificates)).await;
}

pub(super) async fn serve_at_most(
    listener: TcpListener,
    router: Router,
    tasks: &Tasks,
    places: Places,
    certificates: Option<Certificates>,
) {
    let guests = Guests::new(places);
    let token = tasks.token();
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
                }
                let (seat, router, family) = (guests.enter(peer), router.clone(), tasks.clone());
                match certificates.clone() {
                    None => {
                        let connection = converse(stream, peer, seat, router, family);
                        tasks.spawn("http connection", connection);
                    }
                    Some(certificates) => {
                        let connection = shake_hands(stream, peer, seat, router, family, certificates);
                        tasks.spawn("https connection", connection);
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says whether a failed `accept` concerns only the connection that it would have returned.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    router: Router,
    tasks: Tasks,
    certificates: Certificates,
) {
    let token = tasks.token();
    let shaken = tokio::select! {
        shaken = timeout(FIRST_HEADER_TIMEOUT, certificates.accept(stream)) => shaken,
        () = seat.left() => {
            tracing::debug!(%peer, "a stranger's connection gave way to another");
            return;
        }
        () = token.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => converse(stream, peer, seat, router, tasks).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
    }
}

async fn converse<S>(stream: S, peer: SocketAddr, seat: Seat, router: Router, tasks: Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let has_asked = Arc::new(AtomicBool::new(false));
    let (asked, place) = (Arc::clone(&has_asked), seat.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(place.clone());
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, TAKE_TIMEOUT)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let silence = async {
        sleep(FIRST_HEADER_TIMEOUT).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let token = tasks.token();
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = seat.left() => {
            tracing::debug!(%peer, "a stranger's connection gave way to another");
            return;
        }
        () = silence => {
            tracing::debug!(%peer, "no request in time");
            return;
        }
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

/// What a client made by [`client`] does with an answer that points elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// Follows up to so many.
    Follow(usize),
    /// Returns the answer as it is.
    Refuse,
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Time for name, TCP and TLS.
    pub connect_timeout: Duration,
    /// Longest silence of the server in the middle of an answer.
    pub read_timeout: Duration,
    /// Time for a whole request; none where a stage's own deadline rules.
    pub total_timeout: Option<Duration>,
    /// Redirects.
    pub redirects: Redirects,
}

impl Default for ClientOptions {
    /// 10 s to connect, 60 s of silence, no total, ten redirects.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            total_timeout: None,
            redirects: Redirects::Follow(10),
        }
    }
}

/// No HTTP client could be made.
#[derive(Debug, Error)]
#[error("cannot set up the HTTP client")]
pub struct ClientError {
    #[from]
    source: reqwest::Error,
}

/// Makes an HTTP client; it reads the system's certificates, so make it when it is first needed and keep it.
pub fn client(options: &ClientOptions) -> Result<reqwest::Client, ClientError> {
    Ok(builder(options).build()?)
}

/// Starts an HTTP client, for those who add to it.
pub fn builder(options: &ClientOptions) -> reqwest::ClientBuilder {
    let redirects = match options.redirects {
        Redirects::Follow(hops) => reqwest::redirect::Policy::limited(hops),
        Redirects::Refuse => reqwest::redirect::Policy::none(),
    };
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("horde/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .redirect(redirects)
        // An address may be a secret, and a redirect leads to somebody else.
        .referer(false)
        .tcp_nodelay(true);
    if let Some(total) = options.total_timeout {
        builder = builder.timeout(total);
    }
    builder
}
