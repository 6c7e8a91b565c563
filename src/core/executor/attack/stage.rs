//! The stage on which executors meet the attack: a miner and a web server in one, on the loopback.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, put};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::archives;
use super::canary::second_loopback;
use crate::core::net::ws::{Limits, Upgrade, accept};
use crate::core::net::{Link, http};
use crate::core::tasks::Tasks;

/// The largest upload that is kept, in bytes; links do not lead to more.
const UPLOAD_BYTES_MAX: usize = 16 << 20;

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    run: String,
    stray: String,
    canary_port: u16,
    waiting: Mutex<HashMap<String, oneshot::Sender<Link>>>,
    uploads: Mutex<HashMap<String, Vec<Bytes>>>,
    served: Mutex<BTreeSet<String>>,
    tasks: Tasks,
}

impl Shared {
    /// Notes that the page of an attack was asked for.
    fn serve(&self, attack: String) {
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(attack);
    }
}

/// The stage; it stands until its tasks are told to stop.
#[derive(Debug)]
pub(super) struct Stage {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Stage {
    /// Opens it. `stray` is where archives try to place a file, `canary_port` where redirects lead to.
    pub(super) async fn open(run: &str, stray: &str, canary_port: u16, tasks: &Tasks) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            run: run.to_owned(),
            stray: stray.to_owned(),
            canary_port,
            waiting: Mutex::default(),
            uploads: Mutex::default(),
            served: Mutex::default(),
            tasks: tasks.clone(),
        });
        let router = Router::new()
            .route("/v0.1/executor_interface/{token}", any(upgrade))
            .route("/zip/{attack}", get(archive))
            .route("/away/{attack}", get(redirect))
            .route("/upload/{token}", put(upload))
            .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
            .with_state(Arc::clone(&shared));
        let family = tasks.clone();
        tasks.spawn(
            "stage",
            async move { http::serve(listener, router, &family).await },
        );
        Ok(Self { address, shared })
    }

    /// Returns the address of the miner.
    pub(super) fn miner(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Returns the only address that executors may reach here.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the executor of that token; call it before the executor is started.
    pub(super) fn expect(&self, token: &str) -> oneshot::Receiver<Link> {
        let (sender, receiver) = oneshot::channel();
        self.shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.to_owned(), sender);
        receiver
    }

    /// Returns whether the page of an attack was asked for.
    pub(super) fn is_served(&self, attack: &str) -> bool {
        self.shared
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(attack)
    }

    /// Returns what was uploaded under that token, and forgets it.
    pub(super) fn take_uploads(&self, token: &str) -> Vec<Bytes> {
        let mut uploads = self.shared.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.remove(token).unwrap_or_default()
    }
}

async fn upgrade(State(shared): State<Arc<Shared>>, Path(token): Path<String>, upgrade: Upgrade) -> Response {
    let waiting = shared
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&token);
    let Some(waiting) = waiting else {
        return StatusCode::NOT_FOUND.into_response();
    };
    accept(upgrade, Limits::default(), &shared.tasks, |link| async move {
        // Whoever waited has given up.
        drop(waiting.send(link));
    })
}

async fn archive(State(shared): State<Arc<Shared>>, Path(attack): Path<String>) -> Response {
    let maker = Arc::clone(&shared);
    let name = attack.clone();
    let made = tokio::task::spawn_blocking(move || archives::make(&name, &maker.stray)).await;
    match made {
        Ok(Some(archive)) => {
            shared.serve(attack);
            archive.into_response()
        }
        Ok(None) | Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn redirect(State(shared): State<Arc<Shared>>, Path(attack): Path<String>) -> Response {
    let host = match attack.as_str() {
        "redirect-to-loopback" => second_loopback(shared.canary_port).to_string(),
        "redirect-to-metadata" => "169.254.169.254".to_owned(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let target = format!("http://{host}/{}={attack}=", shared.run);
    shared.serve(attack);
    (StatusCode::FOUND, [(LOCATION, target)]).into_response()
}

async fn upload(State(shared): State<Arc<Shared>>, Path(token): Path<String>, body: Bytes) -> StatusCode {
    let mut uploads = shared.uploads.lock().unwrap_or_else(PoisonError::into_inner);
    uploads.entry(token).or_default().push(body);
    StatusCode::OK
}
