//! What a job has written, while it runs and afterwards.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::{Answer, caller, json_response, not_found};
use crate::core::facilitator::logs::Part;
use crate::core::facilitator::{Office, canonical_uuid};
use crate::core::model::job::OutputStream;
use crate::core::model::{Hotkey, JobId};
use crate::core::proto::sdk_facilitator::{LOGS_WAIT_SECONDS_MAX, LogPage};
use crate::core::store::facilitator::Job;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    stream: OutputStream,
    offset: u64,
    wait: Duration,
}

/// Reads the query; what is absent is standard output, from its beginning, without waiting.
fn wanted(pairs: &[(String, String)]) -> Result<Wanted, Answer> {
    let mut errors = Map::new();
    let last = |name: &str| {
        pairs
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let stream = match last("stream") {
        None | Some("stdout") => OutputStream::Stdout,
        Some("stderr") => OutputStream::Stderr,
        Some(_) => {
            errors.insert("stream".to_owned(), json!(["Must be stdout or stderr."]));
            OutputStream::Stdout
        }
    };
    let mut number = |name: &str| match last(name).map(str::parse::<u64>) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => {
            errors.insert(name.to_owned(), json!(["A whole number from 0 on is required."]));
            0
        }
    };
    let (offset, wait) = (number("offset"), number("wait"));
    if !errors.is_empty() {
        return Err(Answer::new(StatusCode::BAD_REQUEST, &errors));
    }
    let wait = Duration::from_secs(wait.min(LOGS_WAIT_SECONDS_MAX));
    Ok(Wanted { stream, offset, wait })
}

pub(super) async fn logs(
    State(office): State<Office>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Answer> {
    let owner = caller(&office, &headers)?;
    let uuid = canonical_uuid(&uuid).ok_or_else(|| not_found("Not found."))?;
    let Query(pairs) =
        query.map_err(|rejection| Answer::detail(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let wanted = wanted(&pairs)?;
    let deadline = Instant::now() + wanted.wait;
    let seat = office.readers.try_acquire();
    loop {
        let waiter = office.logs.wait_for(&uuid);
        let mut news = std::pin::pin!(waiter.news.notified());
        // From here on nothing is missed.
        news.as_mut().enable();
        let page = look(&office, &owner, &uuid, wanted).await?;
        let is_news = page.ended || !page.data.is_empty();
        if is_news || seat.is_err() || office.tasks.is_stopping() {
            return Ok(json_response(StatusCode::OK, &page));
        }
        let is_late = tokio::select! {
            biased;
            () = office.tasks.stopped() => true,
            waited = timeout_at(deadline, news) => waited.is_err(),
        };
        if is_late {
            return Ok(json_response(StatusCode::OK, &page));
        }
    }
}

/// Looks at what there is now.
async fn look(office: &Office, owner: &Hotkey, uuid: &JobId, wanted: Wanted) -> Result<LogPage, Answer> {
    let job = office.store.job(owner, uuid).await?;
    let job = job.ok_or_else(|| not_found("No Job matches the given query."))?;
    let Wanted { stream, offset, .. } = wanted;
    let result = result(&job, stream);
    let (part, end) = if let Some(text) = result {
        let (part, end) = office.logs.read_result(uuid, stream, text, offset);
        (part, Some(end))
    } else {
        let bytes = Vec::new();
        let nothing = Part { offset, bytes };
        (office.logs.read(uuid, stream, offset).unwrap_or(nothing), None)
    };
    let next_offset = part.offset.saturating_add(length(&part));
    let reach = office.seats.reach(&job.spec.target_validator);
    Ok(LogPage {
        stream,
        offset: part.offset,
        next_offset,
        live: result.is_none() && reach.is_some_and(|reach| reach.logs),
        omitted_bytes: if part.bytes.is_empty() {
            0
        } else {
            part.offset.saturating_sub(offset)
        },
        data: STANDARD.encode(&part.bytes),
        ended: end.is_some_and(|end| next_offset >= end),
    })
}

fn length(part: &Part) -> u64 {
    u64::try_from(part.bytes.len()).unwrap_or(u64::MAX)
}

/// Returns a stream of an ended job's result, be it empty; none while the job runs.
fn result(job: &Job, stream: OutputStream) -> Option<&str> {
    let end = job.history.iter().find(|step| step.status.is_terminal())?;
    let key = match stream {
        OutputStream::Stdout => "docker_process_stdout",
        OutputStream::Stderr => "docker_process_stderr",
    };
    let details = ["miner_response", "job_failure_details"]
        .into_iter()
        .find_map(|kind| end.metadata.get(kind));
    let text = details
        .and_then(|details| details.get(key))
        .and_then(Value::as_str);
    Some(text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Wanted, Answer> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        wanted(&pairs)
    }

    #[test]
    fn what_is_wanted_has_defaults_and_bounds_and_bad_words_are_named() {
        let all = Wanted {
            stream: OutputStream::Stdout,
            offset: 0,
            wait: Duration::ZERO,
        };
        assert_eq!(read(&[]).unwrap(), all);
        let some = read(&[
            ("stream", "stderr"),
            ("offset", "7"),
            ("wait", "1000"),
            ("x", "y"),
        ])
        .unwrap();
        assert_eq!(some.stream, OutputStream::Stderr);
        assert_eq!((some.offset, some.wait), (7, Duration::from_secs(30)));
        let refusal = read(&[("stream", "stdin"), ("offset", "-1"), ("wait", "soon")]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        let named: Vec<_> = refusal.body.as_object().unwrap().keys().collect();
        assert_eq!(named, ["stream", "offset", "wait"]);
    }
}
