//! HTTP for users: login, jobs, cheat reports; and the door for validators.
//!
//! Each path is served with and without its trailing slash.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::auth::{LoginRefusal, TokenRefusal};
use super::driver::{Versions, converse, deliver};
use super::machine::{push, view};
use super::{Causes, Office, canonical_uuid, submission};
use crate::core::crypto::signed::full_request_payload;
use crate::core::model::job::JobStatus;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::net::ws::{self, Upgrade, UpgradeError};
use crate::core::proto::facilitator_validator::{Down, SignatureScope, VALIDATOR_FRAME_BYTES_MAX};
use crate::core::proto::sdk_facilitator::{
    Detail, JobPage, NonceAnswer, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Refusal, RequestSignature, TokenAnswer,
    ValidatorView, ValidatorsAnswer, path, signed_fields_payload,
};
use crate::core::store::StoreError;
use crate::core::store::facilitator::{Filter, Job, JobSignature, Step};

/// Time that a client has to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Most jobs that a list can be narrowed to by their UUIDs.
const FILTER_UUIDS_MAX: usize = 256;

/// Makes the routes.
pub(super) fn router(office: Office) -> Router {
    let routes: [(&str, MethodRouter<Office>); 9] = [
        (path::HEALTH, get(health)),
        (path::NONCE, get(nonce)),
        (path::LOGIN, post(login)),
        (path::SUBMIT, post(submit)),
        (path::JOBS, get(list)),
        ("/api/v1/jobs/{uuid}/", get(show)),
        (path::CHEATED, post(report_cheated)),
        (path::VALIDATORS, get(validators)),
        (path::VALIDATOR_LINK, get(link)),
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

async fn health() -> Response {
    json_response(StatusCode::OK, &json!({"status": "ok"}))
}

async fn nonce(State(office): State<Office>) -> Response {
    let nonce = office.gate.nonce(office.clock.unix_seconds(), rand::random());
    json_response(StatusCode::OK, &NonceAnswer { nonce })
}

async fn login(State(office): State<Office>, headers: HeaderMap, body: Body) -> Result<Response, Answer> {
    let body = object(&office, &headers, body).await?;
    let now = office.clock.unix_seconds();
    let hotkey = office.gate.login(&body, now)?;
    let token = office.gate.token(&hotkey, now).map_err(|error| {
        tracing::error!(%error, "cannot make a token");
        Answer::detail(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be made.")
    })?;
    Ok(json_response(StatusCode::OK, &TokenAnswer { token }))
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

async fn submit(State(office): State<Office>, headers: HeaderMap, body: Body) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let body = object(&office, &headers, body).await?;
    let spec = submission::read(&body).map_err(|errors| Answer::new(StatusCode::BAD_REQUEST, &errors))?;
    let signature = check_signature(&headers, &body)?;
    let forwarded = signature.forwarded().ok_or_else(|| {
        Answer::error(
            StatusCode::BAD_REQUEST,
            "Invalid signature provided",
            Some("the time of the signature is too far in the future".to_owned()),
        )
    })?;
    let Some(validator) = office.seats.ready(&spec.target_validator, Instant::now()) else {
        return Err(Answer::new(
            StatusCode::BAD_REQUEST,
            &["Could not select Validator"],
        ));
    };
    let created_at = office.clock.now();
    let job = Job {
        uuid: JobId::new(uuid::Uuid::new_v4().hyphenated().to_string()),
        owner,
        created_at,
        spec,
        history: vec![Step {
            status: JobStatus::Sent,
            metadata: Map::new(),
            created_at,
        }],
    };
    let request = Box::new(push(&job, forwarded.clone()));
    let frame_bytes = Down::JobRequest(request.clone()).encode_as_facilitator().len();
    if frame_bytes > VALIDATOR_FRAME_BYTES_MAX {
        return Err(Answer::detail(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "The job has {frame_bytes} bytes on its way to the validator, which takes {VALIDATOR_FRAME_BYTES_MAX}; \
                 pass large inputs by URL."
            ),
        ));
    }
    let evidence = JobSignature {
        signatory: signature.signatory.clone(),
        timestamp_ns: forwarded.timestamp_ns,
        signature: signature.signature.clone(),
        scope: match signature.scope {
            SignatureScope::SignedFields => "SignedFields",
            SignatureScope::FullRequest => "FullRequest",
        }
        .to_owned(),
    };
    // Once stored, a job must be handed over, or be ended, even if its user hangs up meanwhile.
    let (answer, answered) = tokio::sync::oneshot::channel();
    let tasks = office.tasks.clone();
    tasks.spawn("submission", async move {
        // Nobody waits for the answer of a user who hung up.
        drop(answer.send(accept(office, job, evidence, &validator, request).await));
    });
    let (owner, uuid, office) = answered
        .await
        .map_err(|_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "The facilitator is stopping."))??;
    // Read again: the validator may have said something already, or the job may have ended undelivered.
    let stored = office.store.job(&owner, &uuid).await?;
    let stored = stored.ok_or_else(|| not_found("No Job matches the given query."))?;
    Ok(json_response(StatusCode::CREATED, &view(stored)))
}

async fn accept(
    office: Office,
    job: Job,
    evidence: JobSignature,
    validator: &crate::core::net::LinkSender,
    request: Box<crate::core::proto::facilitator_validator::JobRequest>,
) -> Result<(Hotkey, JobId, Office), StoreError> {
    office.store.insert(&job, &evidence).await?;
    tracing::info!(job = %job.uuid, user = %job.owner, validator = %job.spec.target_validator, "job accepted");
    deliver(&office, &job.spec.target_validator, validator, request).await;
    Ok((job.owner, job.uuid, office))
}

async fn show(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    let job = office.store.job(&owner, &uuid).await?;
    let job = job.ok_or_else(|| not_found("No Job matches the given query."))?;
    Ok(json_response(StatusCode::OK, &view(job)))
}

type Pairs = Vec<(String, String)>;

async fn list(
    State(office): State<Office>,
    headers: HeaderMap,
    query: Result<Query<Pairs>, QueryRejection>,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let Query(pairs) =
        query.map_err(|rejection| Answer::detail(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let last = |name: &str| {
        pairs
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let size = last("page_size")
        .and_then(|text| text.trim().parse::<u32>().ok())
        .filter(|size| *size > 0)
        .unwrap_or(PAGE_SIZE_DEFAULT)
        .min(PAGE_SIZE_MAX);
    let invalid_page = || not_found("Invalid page.");
    let number = match last("page") {
        None | Some("") => 1,
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(invalid_page)?,
    };
    let mut filter = Filter {
        uuids: Vec::new(),
        tag: last("tag").filter(|tag| !tag.is_empty()).map(str::to_owned),
    };
    let wanted = pairs
        .iter()
        .filter(|(key, value)| key == "uuid" && !value.is_empty());
    for (_, text) in wanted.take(FILTER_UUIDS_MAX) {
        let uuid = canonical_uuid(text)
            .ok_or_else(|| Answer::new(StatusCode::BAD_REQUEST, &json!({"uuid": ["Enter a valid UUID."]})))?;
        filter.uuids.push(uuid);
    }
    let offset = (number - 1).saturating_mul(u64::from(size));
    let page = office.store.page(&owner, &filter, offset, size).await?;
    if offset > 0 && offset >= page.count {
        return Err(invalid_page());
    }
    let jobs = page.jobs.ok_or_else(|| {
        Answer::detail(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The jobs of this page are too large together; ask for a smaller page_size.",
        )
    })?;
    let url = |number: u64| page_url(&headers, &pairs, number);
    let seen = offset.saturating_add(u64::from(size));
    let body = JobPage {
        count: page.count,
        next: (seen < page.count).then(|| url(number.saturating_add(1))),
        previous: (number > 1).then(|| url(number - 1)),
        results: jobs.into_iter().map(view).collect(),
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// Returns the absolute URL of another page of the same list; the keys of its query are sorted, as the reference does.
fn page_url(headers: &HeaderMap, pairs: &Pairs, number: u64) -> String {
    let host = text_of(headers, header::HOST.as_str()).unwrap_or("localhost");
    let mut pairs: Vec<(&str, &str)> = pairs
        .iter()
        .filter(|(key, _)| key != "page")
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let number = number.to_string();
    // The first page has no number.
    if number != "1" {
        pairs.push(("page", &number));
    }
    pairs.sort_by_key(|(key, _)| *key);
    let query: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| format!("{}={}", percent(key), percent(value)))
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("http://{host}{}{mark}{}", path::JOBS, query.join("&"))
}

/// Writes a text as part of a query.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Takes a cheat report as far as this facilitator can: unknown jobs and bad fields are told as the reference does, a
/// report that would have to be forwarded is refused.
async fn report_cheated(
    State(office): State<Office>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let body = object(&office, &headers, body).await?;
    let mut errors = Map::new();
    let mut uuid = |field: &str| {
        let problem = match body.get(field) {
            None | Some(Value::Null) => "This field is required.",
            Some(value) => match value.as_str().and_then(canonical_uuid) {
                Some(uuid) => return Some(uuid),
                None => "Must be a valid UUID.",
            },
        };
        errors.insert(field.to_owned(), json!([problem]));
        None
    };
    let (Some(job), Some(trusted)) = (uuid("job_uuid"), uuid("trusted_job_uuid")) else {
        return Err(Answer::new(StatusCode::BAD_REQUEST, &errors));
    };
    check_signature(&headers, &body)?;
    let missing = |words: &str| Answer::error(StatusCode::NOT_FOUND, words, None);
    let job = office.store.job(&owner, &job).await?;
    if job.is_none_or(|job| job.spec.on_trusted_miner) {
        return Err(missing("Job not found"));
    }
    let trusted = office.store.job(&owner, &trusted).await?;
    if trusted.is_none_or(|job| !job.spec.on_trusted_miner) {
        return Err(missing("Trusted job not found"));
    }
    Err(Answer::error(
        StatusCode::NOT_IMPLEMENTED,
        "Cheat reports are not forwarded by this facilitator",
        None,
    ))
}

async fn validators(State(office): State<Office>, headers: HeaderMap) -> Result<Response, Answer> {
    caller(&office, &headers)?;
    let ready = office.seats.all_ready(Instant::now());
    let validators = ready.into_iter().map(|hotkey| ValidatorView { hotkey }).collect();
    Ok(json_response(StatusCode::OK, &ValidatorsAnswer { validators }))
}

async fn link(
    State(office): State<Office>,
    headers: HeaderMap,
    upgrade: Result<Upgrade, UpgradeError>,
) -> Result<Response, Answer> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(error) => return Ok(error.into_response()),
    };
    let Ok(slot) = std::sync::Arc::clone(&office.links).try_acquire_owned() else {
        return Err(Answer::detail(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many validators are connected.",
        ));
    };
    let version = |name: &str| text_of(&headers, name).map(|text| text.chars().take(64).collect());
    let versions = Versions {
        validator: version("x-validator-version"),
        runner: version("x-validator-runner-version"),
    };
    let tasks = office.tasks.clone();
    let limits = ws::Limits::towards_validator();
    Ok(ws::accept(upgrade, limits, &tasks, move |link| async move {
        converse(link, &office, &versions).await;
        drop(slot);
    }))
}
