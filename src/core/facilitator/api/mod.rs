//! HTTP for users: login, jobs, cheat reports; and the door for validators.
//!
//! Each path is served with and without its trailing slash. Here is what the handlers share: the routes, answers, who
//! calls, and bodies.

mod cancel;
mod cheats;
mod jobs;
mod link;
mod login;
mod logs;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::auth::{LoginRefusal, TokenRefusal};
use super::{Causes, Office};
use crate::core::crypto::signed::full_request_payload;
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::proto::facilitator_validator::SignatureScope;
use crate::core::proto::sdk_facilitator::{Detail, Refusal, RequestSignature, path, signed_fields_payload};
use crate::core::store::StoreError;

/// Time that a client has to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Makes the routes.
pub(in crate::core::facilitator) fn router(office: Office) -> Router {
    let routes: [(&str, MethodRouter<Office>); 11] = [
        (path::HEALTH, get(health)),
        (path::NONCE, get(login::nonce)),
        (path::LOGIN, post(login::login)),
        (path::SUBMIT, post(jobs::submit)),
        (path::JOBS, get(jobs::list)),
        ("/api/v1/jobs/{uuid}/", get(jobs::show)),
        ("/api/v1/jobs/{uuid}/cancel/", post(cancel::cancel)),
        ("/api/v1/jobs/{uuid}/logs/", get(logs::logs)),
        (path::CHEATED, post(cheats::report_cheated)),
        (path::VALIDATORS, get(link::validators)),
        (path::VALIDATOR_LINK, get(link::link)),
    ];
    let mut router = Router::new();
    for (path, handlers) in routes {
        let bare = path.trim_end_matches('/');
        router = router
            .route(bare, handlers.clone())
            .route(&format!("{bare}/"), handlers);
    }
    router
        .fallback(|| async { not_found("Not found.") })
        .method_not_allowed_fallback(|method: Method| async move {
            Answer::detail(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("Method \"{method}\" not allowed."),
            )
        })
        .with_state(office)
}

/// An answer other than success.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: Value,
}

impl Answer {
    fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self {
            status,
            body: serde_json::to_value(body).unwrap_or_default(),
        }
    }

    fn detail(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(status, &Detail { detail })
    }

    fn error(status: StatusCode, error: impl Into<String>, details: Option<String>) -> Self {
        let error = error.into();
        Self::new(status, &Refusal { error, details })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body);
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

fn not_found(detail: &str) -> Answer {
    Answer::detail(StatusCode::NOT_FOUND, detail)
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl From<TokenRefusal> for Answer {
    fn from(refusal: TokenRefusal) -> Self {
        Self::detail(StatusCode::UNAUTHORIZED, refusal.to_string())
    }
}

impl From<LoginRefusal> for Answer {
    fn from(refusal: LoginRefusal) -> Self {
        let body = json!({"error": refusal.to_string()});
        // A login's 401 has no `WWW-Authenticate` in the reference, which nobody reads.
        let status = match refusal {
            LoginRefusal::Signature => StatusCode::UNAUTHORIZED,
            LoginRefusal::Missing(_)
            | LoginRefusal::Nonce
            | LoginRefusal::Unreadable
            | LoginRefusal::NotAllowed => StatusCode::BAD_REQUEST,
        };
        Self { status, body }
    }
}

impl From<StoreError> for Answer {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %Causes(&error), "the database failed");
        // Trying again can help; the caller learns no more than that.
        Self::detail(
            StatusCode::SERVICE_UNAVAILABLE,
            "The facilitator's database is not available.",
        )
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Returns the caller.
fn caller(office: &Office, headers: &HeaderMap) -> Result<Hotkey, Answer> {
    let authorization = match headers.get(header::AUTHORIZATION) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_foreign| TokenRefusal::Format)?),
    };
    Ok(office.gate.user(authorization, office.clock.unix_seconds())?)
}

/// Reads a body that must be a JSON object.
async fn object(office: &Office, headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Answer> {
    let kind = text_of(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let kind: String = kind.chars().take(100).collect();
        return Err(Answer::detail(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Unsupported media type \"{kind}\" in request."),
        ));
    }
    let limit = office.body_bytes_max;
    let too_large = || {
        Answer::detail(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is larger than {limit} bytes."),
        )
    };
    let announced =
        text_of(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let bytes = match timeout(BODY_WITHIN, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            // The cause is the only place where axum says whether it was the limit.
            let is_limit = std::error::Error::source(&error)
                .is_some_and(|cause| cause.to_string().contains("length limit"));
            return Err(if is_limit {
                too_large()
            } else {
                Answer::detail(StatusCode::BAD_REQUEST, "The request body could not be read.")
            });
        }
        Err(_) => {
            return Err(Answer::detail(
                StatusCode::REQUEST_TIMEOUT,
                "The request body did not come in time.",
            ));
        }
    };
    match serde_json::from_slice(&bytes) {
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

/// Checks the signature headers against the body.
fn check_signature(headers: &HeaderMap, body: &Map<String, Value>) -> Result<RequestSignature, Answer> {
    let invalid = |details: String| {
        Answer::error(
            StatusCode::BAD_REQUEST,
            "Invalid signature provided",
            Some(details),
        )
    };
    if !headers.contains_key(crate::core::proto::sdk_facilitator::header::SIGNATURE) {
        return Err(Answer::error(
            StatusCode::BAD_REQUEST,
            "Signature not found",
            Some("the request has no X-CH-Signature header".to_owned()),
        ));
    }
    let signature = RequestSignature::from_headers(|name| text_of(headers, name))
        .map_err(|error| invalid(error.to_string()))?;
    let outcome = match signature.scope {
        SignatureScope::FullRequest => signature.verify(&full_request_payload(&Value::Object(body.clone()))),
        // An absent class is signed as the word None by the reference, and as the default by whoever knows better.
        SignatureScope::SignedFields => signature
            .verify(&signed_fields_payload(body, ExecutorClass::DEFAULT.as_str()))
            .or_else(|error| {
                if body.contains_key("executor_class") {
                    return Err(error);
                }
                signature.verify(&signed_fields_payload(body, "None"))
            }),
    };
    outcome.map_err(|error| invalid(error.to_string()))?;
    Ok(signature)
}

async fn health() -> Response {
    json_response(StatusCode::OK, &json!({"status": "ok"}))
}
