//! Serves the miner's figures to Prometheus, on a listener of their own: they are the operator's business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::Miner;
use crate::core::model::ExecutorClass;
use crate::core::net::http;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::{CONTENT_TYPE as OPENMETRICS, ClassFigures, Snapshot};
use crate::core::telemetry::{STATE_TARGET, process};

/// Starts to serve figures; a port that is taken is a warning, since jobs matter more.
pub(super) async fn start(miner: &Arc<Miner>, address: SocketAddr, tasks: &Tasks) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %address, %error,
                "cannot serve figures to Prometheus; miner.metrics_listen takes another address, or off"
            );
            return;
        }
    };
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "figures are served beyond this machine, to everybody who can reach the port");
    }
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(miner));
    let family = tasks.clone();
    tasks.spawn(
        "figures",
        async move { http::serve(listener, router, &family).await },
    );
}

async fn metrics(State(miner): State<Arc<Miner>>) -> Response {
    match miner.metrics.text(&snapshot(&miner)) {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write figures");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Writes how things stand to the log whenever somebody wants to know.
pub(super) fn tell_when_asked(miner: &Arc<Miner>) {
    let known = Arc::downgrade(miner);
    miner.life.when_asked(move || {
        if let Some(miner) = known.upgrade() {
            tell(&miner);
        }
    });
}

fn tell(miner: &Miner) {
    let snapshot = snapshot(miner);
    tracing::info!(
        target: STATE_TARGET,
        jobs = miner.pool.busy().len(),
        validators = miner.validators.active().len(),
        is_draining = miner.is_draining.load(Ordering::Relaxed),
        is_closing = miner.is_closing.load(Ordering::Relaxed),
        "state of the miner"
    );
    for ClassFigures {
        class,
        offered,
        busy,
        resting,
        lost,
    } in snapshot.executors
    {
        tracing::info!(target: STATE_TARGET, class, offered, busy, resting, lost, "state of executors");
    }
    tracing::info!(
        target: STATE_TARGET,
        writes = snapshot.store_writes,
        commits = snapshot.store_commits,
        waiting = snapshot.store_waiting,
        "state of the store"
    );
}

fn snapshot(miner: &Miner) -> Snapshot {
    let offered = miner.offered();
    let (busy, resting) = (miner.pool.busy(), miner.pool.resting_by_class());
    let count = |counts: &[ExecutorClass], class: ExecutorClass| {
        let count = counts.iter().filter(|other| **other == class).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    let executors = offered.0.keys().map(|class| {
        let (places, in_service) = miner.pool.places(*class);
        ClassFigures {
            class: class.as_str(),
            offered: offered.count(*class),
            busy: count(&busy, *class),
            resting: count(&resting, *class),
            lost: i64::try_from(places.saturating_sub(in_service)).unwrap_or(i64::MAX),
        }
    });
    let load = miner.store.load();
    let process = process::figures();
    Snapshot {
        executors: executors.collect(),
        store_writes: load.writes,
        store_commits: load.commits,
        store_waiting: load.waiting,
        memory_bytes: process.memory_bytes,
        open_files: process.open_files,
    }
}
