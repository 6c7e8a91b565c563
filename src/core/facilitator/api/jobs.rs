//! Jobs: submit, list, show.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, json};

use super::{Answer, caller, check_signature, json_response, not_found, object, text_of};
use crate::core::facilitator::delivery::{self, NoRoad, Occasion, Road};
use crate::core::facilitator::machine::{self, push, view};
use crate::core::facilitator::{Office, canonical_uuid, submission};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::proto::facilitator_validator::{
    Down, JobRequest, SignatureScope, VALIDATOR_FRAME_BYTES_MAX,
};
use crate::core::proto::sdk_facilitator::{JobPage, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, path};
use crate::core::store::StoreError;
use crate::core::store::facilitator::{Filter, Job, JobSignature, Step, Submission};

/// Most jobs that a list can be narrowed to by their UUIDs.
const FILTER_UUIDS_MAX: usize = 256;

pub(super) async fn submit(
    State(office): State<Office>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
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
    let road = delivery::road(&office, &spec.target_validator).await?;
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
        cancel: None,
        wait: None,
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
        drop(answer.send(accept(office, job, evidence, road, request).await));
    });
    let (owner, uuid, office) = answered
        .await
        .map_err(|_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "The facilitator is stopping."))??;
    // Read again: the validator may have said something already, or the job may have ended undelivered.
    let stored = office.store.job(&owner, &uuid).await?;
    let stored = stored.ok_or_else(|| not_found("No Job matches the given query."))?;
    Ok(json_response(StatusCode::CREATED, &view(stored)))
}

impl From<NoRoad> for Answer {
    fn from(reason: NoRoad) -> Self {
        match reason {
            NoRoad::Unknown => Self::new(StatusCode::BAD_REQUEST, &["Could not select Validator"]),
            NoRoad::Full => Self::detail(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("Not accepted: {reason}."),
            ),
            NoRoad::Store(error) => error.into(),
        }
    }
}

async fn accept(
    office: Office,
    job: Job,
    evidence: JobSignature,
    road: Road,
    request: Box<JobRequest>,
) -> Result<(Hotkey, JobId, Office), StoreError> {
    let is_pushed = matches!(road, Road::Open(_));
    let submission = Submission {
        delivery: machine::delivery(&job.spec, job.created_at, is_pushed),
        job: job.clone(),
        signature: evidence,
    };
    office.store.insert(submission).await?;
    tracing::info!(job = %job.uuid, user = %job.owner, validator = %job.spec.target_validator, "job accepted");
    let validator = &job.spec.target_validator;
    let is_handed_over = match road {
        Road::Open(link) => delivery::hand_over(&office, validator, &link, request).await,
        Road::Away => false,
    };
    if !is_handed_over {
        // It may have come back in between.
        delivery::deliver_waiting(&office, validator, Occasion::Reminded);
    }
    Ok((job.owner, job.uuid, office))
}

pub(super) async fn show(
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

pub(super) async fn list(
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
