//! A server that takes what the facilitator takes, checks the same signatures, and keeps nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use horde::core::proto::sdk_facilitator::{
    JobView, NonceAnswer, RequestSignature, TokenAnswer, path, signed_fields_payload,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::Failure;
use crate::parts::CLASS;

/// What it answers.
#[derive(Debug)]
struct Answers {
    job: JobView,
    page: String,
}

/// Serves until it is told to stop.
pub(crate) async fn run(address: SocketAddr) -> Result<(), Failure> {
    let job = json!({"uuid": "00000000-0000-4000-8000-000000000000", "executor_class": CLASS,
        "created_at": "2026-01-15T12:30:45.000000Z", "docker_image": "image", "args": ["echo", "hello"], "env": {},
        "stdout": "hello\n", "stderr": "",
        "status_history": [{"status": "sent", "metadata": {}, "created_at": "2026-01-15T12:30:45.000000Z"}]});
    let jobs = vec![job.clone(); crate::load::PAGE_SIZE as usize];
    let page = json!({"count": 1, "next": null, "previous": null, "results": jobs}).to_string();
    let answers = Arc::new(Answers {
        job: serde_json::from_value(job)?,
        page,
    });
    let nonce = || async {
        answer(&NonceAnswer {
            nonce: "nonce".to_owned(),
        })
    };
    let login = || async {
        answer(&TokenAnswer {
            token: "token".to_owned(),
        })
    };
    let router = Router::new()
        .route(path::NONCE, get(nonce))
        .route(path::LOGIN, post(login))
        .route(path::SUBMIT, post(submit))
        .route(path::JOBS, get(page_of_jobs))
        .with_state(answers);
    let listener = TcpListener::bind(address).await?;
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        _ = end.recv() => {}
    }
    Ok(())
}

async fn submit(
    State(answers): State<Arc<Answers>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<impl IntoResponse, StatusCode> {
    let refused = StatusCode::BAD_REQUEST;
    let body: Map<String, Value> = serde_json::from_slice(&body).map_err(|_foreign| refused)?;
    RequestSignature::from_headers(|name| headers.get(name).and_then(|value| value.to_str().ok()))
        .map_err(|_foreign| refused)?
        .verify(&signed_fields_payload(&body, CLASS.as_str()))
        .map_err(|_foreign| refused)?;
    Ok((StatusCode::CREATED, answer(&answers.job)))
}

async fn page_of_jobs(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], answers.page.clone())
}

fn answer(body: &impl Serialize) -> axum::response::Response {
    let text = serde_json::to_string(body).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
