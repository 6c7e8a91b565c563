//! Jobs: submit, list, show.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Answer, body, busy, caller, check_signature, large_response, not_found, text_of, throttled};
use crate::core::facilitator::asker::Asker;
use crate::core::facilitator::delivery::{self, NoRoad, Occasion, Road};
use crate::core::facilitator::machine::{self, push, view};
use crate::core::facilitator::{Office, canonical_uuid, submission};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::proto::facilitator_validator::{
    Down, JobRequest, SignatureScope, VALIDATOR_FRAME_BYTES_MAX,
};
use crate::core::proto::sdk_facilitator::{
    IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_CHARS_MAX, JobPage, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, path,
};
use crate::core::store::StoreError;
use crate::core::store::facilitator::{
    Filter, Inserted, Job, JobSignature, KeyUse, RequestKey, Step, Submission,
};

/// Most jobs that a list can be narrowed to by their UUIDs.
const FILTER_UUIDS_MAX: usize = 256;

/// When a user that has too many unfinished jobs may come again: jobs take longer than rates.
const AFTER_A_JOB: Duration = Duration::from_secs(10);

pub(super) async fn submit(
    State(office): State<Office>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    office
        .limits
        .submission(&owner, Instant::now())
        .map_err(throttled)
        .inspect_err(|_| office.metrics.refused("rate"))?;
    let text = body::read(&office, &headers, body, office.limits.body_bytes_max).await?;
    let request = request_key(&headers, &text.text)?;
    let body = body::parse(&text.text)?;
    let spec = submission::read(&body).map_err(|errors| Answer::new(StatusCode::BAD_REQUEST, &errors))?;
    office.limits.measure(&spec).map_err(|oversize| {
        Answer::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Job too large",
            Some(oversize.to_string()),
        )
    })?;
    let signature = check_signature(&headers, &body)?;
    drop(text);
    let forwarded = signature.forwarded().ok_or_else(|| {
        Answer::error(
            StatusCode::BAD_REQUEST,
            "Invalid signature provided",
            Some("the time of the signature is too far in the future".to_owned()),
        )
    })?;
    // Before the validator is looked for: a repetition is answered whether it is there or not.
    if let Some(request) = &request {
        match office.store.key_use(&owner, request, office.clock.now()).await? {
            KeyUse::Free => {}
            KeyUse::Same(uuid) => return repeated(&office, &owner, &uuid).await,
            KeyUse::Other => return Err(key_taken()),
        }
    }
    let bill = office.prices.bill(&spec).map_err(|refusal| {
        Answer::new(
            StatusCode::BAD_REQUEST,
            &json!({"executor_class": [refusal.to_string()]}),
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
        cost: None,
        cancel: None,
        wait: None,
    };
    let push = Box::new(push(&job, forwarded.clone()));
    let frame_bytes = Down::JobRequest(push.clone()).encode_as_facilitator().len();
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
    let submission = Submission {
        delivery: machine::delivery(&job.spec, created_at, matches!(road, Road::Open(_))),
        job,
        signature: evidence,
        bill,
        request,
        unfinished_max: office.limits.unfinished_max,
    };
    // Once stored, a job must be handed over, or be ended, even if its user hangs up meanwhile.
    let (answer, answered) = tokio::sync::oneshot::channel();
    let tasks = office.tasks.clone();
    tasks.spawn("submission", async move {
        // Nobody waits for the answer of a user who hung up.
        drop(answer.send(accept(office, submission, road, push).await));
    });
    let (inserted, owner, uuid, office) = answered
        .await
        .map_err(|_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "The facilitator is stopping."))??;
    match inserted {
        // Read again: the validator may have said something already, or the job may have ended undelivered.
        Inserted::Done => show_stored(&office, &owner, &uuid, StatusCode::CREATED).await,
        Inserted::Repeated(uuid) => repeated(&office, &owner, &uuid).await,
        Inserted::KeyTaken => Err(key_taken()),
        Inserted::Insufficient(shortfall) => Err(shortfall.into()),
        Inserted::TooMany => {
            office.metrics.refused("unfinished");
            let most = office.limits.unfinished_max;
            let details = format!("{most} of your jobs have not ended; wait until one has");
            let refusal = Answer::error(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many unfinished jobs",
                Some(details),
            );
            Err(refusal.after(AFTER_A_JOB))
        }
    }
}

/// Reads the key by which a repetition of this request is to be recognised.
fn request_key(headers: &HeaderMap, body: &[u8]) -> Result<Option<RequestKey>, Answer> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let is_key = |key: &&str| (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len());
    // `to_str` lets printable ASCII pass, and tabs.
    match value
        .to_str()
        .ok()
        .filter(|key| !key.contains('\t'))
        .filter(is_key)
    {
        Some(key) => Ok(Some(RequestKey {
            key: key.to_owned(),
            body_sha256: Sha256::digest(body).into(),
        })),
        None => Err(Answer::error(
            StatusCode::BAD_REQUEST,
            "Invalid Idempotency-Key",
            Some(format!(
                "a key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters"
            )),
        )),
    }
}

/// Answers a repeated request with the job of the first one.
async fn repeated(office: &Office, owner: &Hotkey, uuid: &JobId) -> Result<Response, Answer> {
    tracing::info!(job = %uuid, user = %owner, "a submission was repeated");
    show_stored(office, owner, uuid, StatusCode::OK).await
}

fn key_taken() -> Answer {
    Answer::error(
        StatusCode::CONFLICT,
        "Idempotency-Key already used",
        Some("you have used this key for another request within the last 7 days".to_owned()),
    )
}

async fn show_stored(
    office: &Office,
    owner: &Hotkey,
    uuid: &JobId,
    status: StatusCode,
) -> Result<Response, Answer> {
    let turn = office.limits.read().await.map_err(busy)?;
    let job = office.store.job(owner, uuid).await?;
    let job = job.ok_or_else(|| not_found("No Job matches the given query."))?;
    let response = large_response(office, status, &view(job));
    drop(turn);
    response
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
    submission: Submission,
    road: Road,
    push: Box<JobRequest>,
) -> Result<(Inserted, Hotkey, JobId, Office), StoreError> {
    let job = &submission.job;
    let (uuid, owner) = (job.uuid.clone(), job.owner.clone());
    let (target, class) = (job.spec.target_validator.clone(), job.spec.executor_class);
    let inserted = office.store.insert(submission).await?;
    if inserted != Inserted::Done {
        return Ok((inserted, owner, uuid, office));
    }
    office.metrics.accepted(class.as_str());
    tracing::info!(job = %uuid, user = %owner, validator = %target, "job accepted");
    let is_handed_over = match road {
        Road::Open(link) => delivery::hand_over(&office, &target, &link, push).await,
        Road::Away => false,
    };
    if !is_handed_over {
        // It may have come back in between.
        delivery::deliver_waiting(&office, &target, Occasion::Reminded);
    }
    Ok((inserted, owner, uuid, office))
}

pub(super) async fn show(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    show_stored(&office, &owner, &uuid, StatusCode::OK).await
}

type Pairs = Vec<(String, String)>;

pub(super) async fn list(
    State(office): State<Office>,
    asker: Asker,
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
    let bad_uuid = |problem: String| Answer::new(StatusCode::BAD_REQUEST, &json!({"uuid": [problem]}));
    let wanted = pairs
        .iter()
        .filter(|(key, value)| key == "uuid" && !value.is_empty());
    for (_, text) in wanted {
        if filter.uuids.len() == FILTER_UUIDS_MAX {
            return Err(bad_uuid(format!("At most {FILTER_UUIDS_MAX} can be given.")));
        }
        let uuid = canonical_uuid(text).ok_or_else(|| bad_uuid("Enter a valid UUID.".to_owned()))?;
        filter.uuids.push(uuid);
    }
    let turn = office.limits.read().await.map_err(busy)?;
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
    let url = |number: u64| page_url(asker, &headers, &pairs, number);
    let seen = offset.saturating_add(u64::from(size));
    let body = JobPage {
        count: page.count,
        next: (seen < page.count).then(|| url(number.saturating_add(1))),
        previous: (number > 1).then(|| url(number - 1)),
        results: jobs.into_iter().map(view).collect(),
    };
    let response = large_response(&office, StatusCode::OK, &body);
    drop(turn);
    response
}

/// Returns the absolute URL of another page of the same list; the keys of its query are sorted, as the reference does.
fn page_url(asker: Asker, headers: &HeaderMap, pairs: &Pairs, number: u64) -> String {
    let scheme = if asker.is_https { "https" } else { "http" };
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
    format!("{scheme}://{host}{}{mark}{}", path::JOBS, query.join("&"))
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
