//! The miner's front door: websockets for validators and executors, and the pages by which others see that it lives.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::{Html, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use super::keeper::{Letter, not_waiting, refuse_executor};
use super::{Miner, driver, pages};
use crate::core::model::{Hotkey, JobId};
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, Limits, Upgrade};
use crate::core::net::{Link, close_code, http};
use crate::core::proto::job::GenericError;
use crate::core::proto::miner_executor::EXTENSIONS;
use crate::core::proto::validator_miner;
use crate::core::tasks::Tasks;

/// Characters of a job id, which every executor token begins with.
const JOB_ID_CHARS: usize = 36;

/// Answered on `/admin/login/`, which the whole subnet takes for a sign of life. There is no panel behind it.
const LOGIN_PAGE: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Horde miner</title></head>\
    <body><h1>Horde miner</h1><p>This miner is up. It is run from the command line: <code>horde miner --help</code>.</p>\
    </body></html>\n";

#[derive(Debug, Clone)]
struct House {
    miner: Arc<Miner>,
    tasks: Tasks,
}

/// Serves until the family is told to stop.
pub(super) async fn serve(miner: Arc<Miner>, listener: TcpListener, tasks: &Tasks) {
    let house = House {
        miner,
        tasks: tasks.clone(),
    };
    let router = Router::new()
        .route("/v0.1/validator_interface/{hotkey}", get(validator))
        .route("/v0.1/executor_interface/{token}", get(executor))
        .route("/admin/login/", get(|| async { Html(LOGIN_PAGE) }))
        .route("/admin/", get(|| async { Redirect::to("/admin/login/") }))
        .route("/", get(|| async { Redirect::to("/admin/") }))
        .route("/version", get(version))
        .route("/receipts/{page}", get(receipts))
        .with_state(house);
    http::serve(listener, router, tasks).await;
}

async fn version() -> Json<serde_json::Value> {
    // One binary is its own runner.
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"miner_version": version, "runner_version": version}))
}

async fn receipts(
    State(house): State<House>,
    Path(page): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    pages::serve(&house.miner, &page, &method, &headers).await
}

async fn validator(
    State(house): State<House>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(hotkey): Path<String>,
    upgrade: Upgrade,
) -> Response {
    let House { miner, tasks } = house;
    let family = tasks.clone();
    let upgrade = upgrade.agreeing(&Extensions::of(validator_miner::EXTENSIONS));
    ws::accept(upgrade, Limits::towards_strangers(), &tasks, move |link| {
        driver::serve(miner, link, Hotkey::new(hotkey), peer.ip(), family)
    })
}

async fn executor(State(house): State<House>, Path(token): Path<String>, upgrade: Upgrade) -> Response {
    let House { miner, tasks } = house;
    let upgrade = upgrade.agreeing(&Extensions::of(EXTENSIONS));
    let family = tasks.clone();
    ws::accept(upgrade, Limits::towards_strangers(), &tasks, move |link| {
        introduce(miner, link, token, family)
    })
}

/// Brings an executor to the keeper of its job.
async fn introduce(miner: Arc<Miner>, link: Link, token: String, tasks: Tasks) {
    if tasks.is_stopping() {
        // The next life may want what this one does not know any more.
        return link.close(close_code::GOING_AWAY, "").await;
    }
    let post = token
        .get(..JOB_ID_CHARS)
        .and_then(|job| miner.pool.post(&JobId::new(job)))
        .filter(|post| post.token == token);
    let Some(post) = post else {
        let token: String = token.chars().take(100).collect();
        refuse_executor(
            &link,
            GenericError::new(format!("No job waiting for token {token}")),
        )
        .await;
        return;
    };
    if !link.trust() {
        tracing::error!("there is no place for the connection of an executor");
        link.close(close_code::TRY_AGAIN_LATER, "too many connections")
            .await;
        return;
    }
    if let Err(refused) = post.letters.send(Letter::Executor(link)).await
        && let Letter::Executor(link) = refused.0
    {
        if tasks.is_stopping() {
            return link.close(close_code::GOING_AWAY, "").await;
        }
        refuse_executor(&link, not_waiting(&token)).await;
    }
}
