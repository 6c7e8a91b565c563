//! Bodies of requests: JSON objects, bounded in size, in time and together.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{Answer, busy, text_of};
use crate::core::facilitator::Office;
use crate::core::facilitator::limits::Held;

/// Time that a client has to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Largest body of a request that needs no large one: logins, feedback (16 KiB).
pub(super) const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) text: Vec<u8>,
    _room: Held,
}

/// Reads a body that must be a JSON object.
pub(super) async fn object(
    office: &Office,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Answer> {
    parse(
        &read(office, headers, body, office.limits.body_bytes_max)
            .await?
            .text,
    )
}

/// Reads a small body that must be a JSON object.
pub(super) async fn small_object(
    office: &Office,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Answer> {
    parse(&read(office, headers, body, SMALL_BODY_BYTES_MAX).await?.text)
}

/// Reads a body that is called JSON, of at most `limit` bytes.
pub(super) async fn read(
    office: &Office,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<ReadBody, Answer> {
    let kind = text_of(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let kind: String = kind.chars().take(100).collect();
        return Err(Answer::detail(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Unsupported media type \"{kind}\" in request."),
        ));
    }
    let announced =
        text_of(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    match timeout(BODY_WITHIN, collect(office, body, limit)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Answer::detail(
            StatusCode::REQUEST_TIMEOUT,
            "The request body did not come in time.",
        )),
    }
}

async fn collect(office: &Office, body: Body, limit: usize) -> Result<ReadBody, Answer> {
    let mut room = office.limits.body();
    let mut text = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk
            .map_err(|_| Answer::detail(StatusCode::BAD_REQUEST, "The request body could not be read."))?;
        if chunk.len() > limit.saturating_sub(text.len()) {
            return Err(too_large(limit));
        }
        room.grow(chunk.len()).map_err(busy)?;
        text.extend_from_slice(&chunk);
    }
    Ok(ReadBody { text, _room: room })
}

fn too_large(limit: usize) -> Answer {
    Answer::detail(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The request body is larger than {limit} bytes."),
    )
}

/// Reads a JSON object.
pub(super) fn parse(text: &[u8]) -> Result<Map<String, Value>, Answer> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Answer::detail(
            StatusCode::BAD_REQUEST,
            "Invalid data. Expected a dictionary.",
        )),
        Err(error) => Err(Answer::detail(
            StatusCode::BAD_REQUEST,
            format!("JSON parse error - {error}"),
        )),
    }
}
