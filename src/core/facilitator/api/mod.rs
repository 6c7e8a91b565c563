//! HTTP for users: login, jobs, feedback, cheat reports; and the door for validators.
//!
//! Each path is served with and without its trailing slash. Here is what the handlers share: the routes, answers, and
//! who calls.

mod account;
mod body;
mod cancel;
mod cheats;
mod feedback;
mod jobs;
mod link;
mod login;
mod logs;
mod openapi;

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::body::object;
use super::Office;
use super::auth::{LoginRefusal, TokenRefusal};
use super::limits::{Full, Held};
use crate::core::causes::Causes;
use crate::core::crypto::signed::full_request_payload;
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::net::buckets::Empty;
use crate::core::proto::facilitator_validator::SignatureScope;
use crate::core::proto::sdk_facilitator::{Detail, Refusal, RequestSignature, path, signed_fields_payload};
use crate::core::store::StoreError;

/// When a client may come again that could not be served, unless something better is known.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// One path, the methods that it knows, and who answers.
struct Route {
    path: &'static str,
    methods: Vec<&'static str>,
    handlers: MethodRouter<Office>,
}

impl Route {
    fn new(path: &'static str) -> Self {
        Self {
            path,
            methods: Vec::new(),
            handlers: MethodRouter::new(),
        }
    }

    fn get<H: Handler<T, Office>, T: 'static>(self, handler: H) -> Self {
        self.on("get", MethodFilter::GET, handler)
    }

    fn post<H: Handler<T, Office>, T: 'static>(self, handler: H) -> Self {
        self.on("post", MethodFilter::POST, handler)
    }

    fn put<H: Handler<T, Office>, T: 'static>(self, handler: H) -> Self {
        self.on("put", MethodFilter::PUT, handler)
    }

    fn on<H: Handler<T, Office>, T: 'static>(
        mut self,
        word: &'static str,
        method: MethodFilter,
        handler: H,
    ) -> Self {
        self.methods.push(word);
        self.handlers = self.handlers.on(method, handler);
        self
    }
}

/// Lists the routes; `openapi.json` describes the same ones.
fn routes() -> Vec<Route> {
    vec![
        Route::new(path::HEALTH).get(health),
        Route::new(path::OPENAPI).get(openapi::document),
        Route::new(path::NONCE).get(login::nonce),
        Route::new(path::LOGIN).post(login::login),
        Route::new(path::SUBMIT).post(jobs::submit),
        Route::new(path::JOBS).get(jobs::list),
        Route::new(path::JOB).get(jobs::show),
        Route::new(path::CANCEL).post(cancel::cancel),
        Route::new(path::LOGS).get(logs::logs),
        Route::new(path::FEEDBACK)
            .get(feedback::show)
            .post(feedback::give)
            .put(feedback::give),
        Route::new(path::CHEATED).post(cheats::report_cheated),
        Route::new(path::ACCOUNT).get(account::account),
        Route::new(path::VALIDATORS).get(link::validators),
        Route::new(path::VALIDATOR_LINK).get(link::link),
    ]
}

/// Makes the router.
pub(in crate::core::facilitator) fn router(office: Office) -> Router {
    let mut router = Router::new();
    for Route { path, handlers, .. } in routes() {
        let counting = office.clone();
        let handlers = handlers.layer(from_fn(move |request: Request, next: Next| {
            let office = counting.clone();
            async move {
                let response = next.run(request).await;
                office.metrics.requested(path, response.status().as_u16());
                response
            }
        }));
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
    /// When the caller may come again.
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self {
            status,
            body: serde_json::to_value(body).unwrap_or_default(),
            retry_after: None,
        }
    }

    /// Says when the caller may come again.
    fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
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
        // What cannot be done now can be later.
        let later = (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(COME_AGAIN);
        if let Some(wait) = self.retry_after.or(later) {
            let seconds = HeaderValue::from(whole_seconds(wait));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// Rounds up, so that whoever waits does not come too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Says that a rate is used up, in the words of the reference's framework.
fn throttled(Empty { wait }: Empty) -> Answer {
    let seconds = whole_seconds(wait);
    let plural = if seconds == 1 { "" } else { "s" };
    Answer::detail(
        StatusCode::TOO_MANY_REQUESTS,
        format!("Request was throttled. Expected available in {seconds} second{plural}."),
    )
    .after(wait)
}

fn busy(full: Full) -> Answer {
    Answer::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "Busy",
        Some(format!("{full}; try again")),
    )
}

fn not_found(detail: &str) -> Answer {
    Answer::detail(StatusCode::NOT_FOUND, detail)
}

/// Answers with what may be large: it is held against the room of all answers until the client has taken it.
fn large_response(office: &Office, status: StatusCode, body: &impl Serialize) -> Result<Response, Answer> {
    struct Text {
        text: Vec<u8>,
        _room: Held,
    }
    impl AsRef<[u8]> for Text {
        fn as_ref(&self) -> &[u8] {
            &self.text
        }
    }
    let text = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "cannot write an answer");
        Answer::detail(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The answer could not be written.",
        )
    })?;
    let mut room = office.limits.answer();
    room.grow(text.len()).map_err(busy)?;
    let text = Bytes::from_owner(Text { text, _room: room });
    Ok((status, [(header::CONTENT_TYPE, "application/json")], text).into_response())
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
        Self::new(status, &body)
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

/// As [`check_signature`], where a request need not be signed.
fn check_signature_if_any(headers: &HeaderMap, body: &Map<String, Value>) -> Result<(), Answer> {
    if headers.contains_key(crate::core::proto::sdk_facilitator::header::SIGNATURE) {
        check_signature(headers, body)?;
    }
    Ok(())
}

async fn health() -> Response {
    json_response(StatusCode::OK, &json!({"status": "ok"}))
}
