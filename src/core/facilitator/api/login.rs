//! Logging in: nonces and tokens.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use tokio::time::Instant;

use super::body::small_object;
use super::{Answer, json_response, throttled};
use crate::core::facilitator::Office;
use crate::core::facilitator::asker::Asker;
use crate::core::proto::sdk_facilitator::{NonceAnswer, TokenAnswer};

pub(super) async fn nonce(State(office): State<Office>, asker: Asker) -> Result<Response, Answer> {
    office
        .limits
        .login(asker.address, Instant::now())
        .map_err(throttled)?;
    let nonce = office.gate.nonce(office.clock.unix_seconds(), rand::random());
    Ok(json_response(StatusCode::OK, &NonceAnswer { nonce }))
}

pub(super) async fn login(
    State(office): State<Office>,
    asker: Asker,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    office
        .limits
        .login(asker.address, Instant::now())
        .map_err(throttled)?;
    let body = small_object(&office, &headers, body).await?;
    let now = office.clock.unix_seconds();
    let hotkey = office.gate.login(&body, now)?;
    let token = office.gate.token(&hotkey, now).map_err(|error| {
        tracing::error!(%error, "cannot make a token");
        Answer::detail(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be made.")
    })?;
    Ok(json_response(StatusCode::OK, &TokenAnswer { token }))
}
