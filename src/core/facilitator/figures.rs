//! Serves the facilitator's figures to Prometheus, on a listener of their own: they are the operator's business.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{LINKS_MAX, Office, READERS_MAX};
use crate::core::net::http;
use crate::core::telemetry::facilitator::Snapshot;
use crate::core::telemetry::metrics::CONTENT_TYPE as OPENMETRICS;
use crate::core::telemetry::{STATE_TARGET, process};

/// Starts to serve figures; a port that is taken is a warning, since jobs matter more.
pub(super) async fn start(office: &Office, address: SocketAddr) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %address, %error,
                "cannot serve figures to Prometheus; facilitator.metrics_listen takes another address, or off"
            );
            return;
        }
    };
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "figures are served beyond this machine, to everybody who can reach the port");
    }
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(office.clone());
    let family = office.tasks.clone();
    office.tasks.spawn(
        "figures",
        async move { http::serve(listener, router, &family).await },
    );
}

/// Writes how things stand to the log whenever somebody wants to know.
pub(super) fn tell_when_asked(office: &Office) {
    let known = Arc::downgrade(&office.0);
    office.tasks.life().when_asked(move || {
        if let Some(inner) = known.upgrade() {
            tell(&Office(inner));
        }
    });
}

fn tell(office: &Office) {
    let asker = office.clone();
    office.tasks.spawn("count of jobs", async move {
        match asker.store.open_jobs().await {
            Ok(open) => tracing::info!(target: STATE_TARGET, open, "state of the jobs"),
            Err(error) => tracing::warn!(%error, "cannot count the jobs"),
        }
    });
    let load = office.store.load();
    tracing::info!(
        target: STATE_TARGET,
        validators = office.seats.all_ready(Instant::now()).len(),
        links = LINKS_MAX.saturating_sub(office.links.available_permits()),
        readers_waiting = READERS_MAX.saturating_sub(office.readers.available_permits()),
        "state of the facilitator"
    );
    tracing::info!(
        target: STATE_TARGET,
        writes = load.writes,
        commits = load.commits,
        waiting = load.waiting,
        "state of the store"
    );
}

async fn metrics(State(office): State<Office>) -> Response {
    let load = office.store.load();
    let snapshot = Snapshot {
        validators: office.seats.all_ready(Instant::now()).len(),
        store_writes: load.writes,
        store_commits: load.commits,
        store_waiting: load.waiting,
        process: process::figures(),
    };
    match office.metrics.text(&snapshot) {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write figures");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
