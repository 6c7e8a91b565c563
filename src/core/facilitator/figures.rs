//! Serves the facilitator's figures to Prometheus, on a listener of their own: they are the operator's business.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::Office;
use crate::core::net::http;
use crate::core::telemetry::facilitator::Snapshot;
use crate::core::telemetry::metrics::CONTENT_TYPE as OPENMETRICS;
use crate::core::telemetry::process;

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
