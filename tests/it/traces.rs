//! Recorded sessions of the reference: every frame decodes to a known message, or to the refusal that the spec names.

use std::fs;
use std::path::Path;

use horde::core::crypto::signed;
use horde::core::crypto::verify_hex;
use horde::core::model::Hotkey;
use horde::core::proto::facilitator_validator::{Down as FacilitatorDown, Up as FacilitatorUp};
use horde::core::proto::miner_executor::{Down as ExecutorDown, Up as ExecutorUp};
use horde::core::proto::sdk_facilitator::{
    JobPage, JobView, Login, NonceAnswer, Refusal, RequestSignature, Submit, TokenAnswer, legacy_label,
    signed_fields_payload,
};
use horde::core::proto::validator_miner::{Down as MinerDown, Up as MinerUp};
use horde::core::proto::{DecodeError, facilitator_validator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One line of a recording.
struct Line {
    file: String,
    direction: String,
    message: Value,
}

impl Line {
    /// Returns the text of a websocket frame; whatever else is recorded (handshakes, ends, HTTP) has none.
    fn frame(&self) -> Option<String> {
        if let Some(raw) = self.message["_raw"].as_str() {
            return Some(raw.to_owned());
        }
        let http = self.direction.contains("http") || self.message.get("headers").is_some();
        let other = self.message.get("ws_close").is_some() || !self.direction.contains("->");
        (!http && !other && self.message.get("method").is_none()).then(|| self.message.to_string())
    }
}

fn recorded(prefix: &str) -> Vec<Line> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/traces");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            lines.push(Line {
                file: file.file_name().unwrap().to_str().unwrap().to_owned(),
                direction: line["dir"].as_str().unwrap().to_owned(),
                message: line["msg"].clone(),
            });
        }
    }
    lines
}

/// Checks that what was written again says the same; keys that hand-made frames leave out appear with their default.
fn assert_same(line: &Line, frame: &str, written: &str) {
    if frame != written {
        let (before, after) = (
            serde_json::from_str(frame).unwrap(),
            serde_json::from_str(written).unwrap(),
        );
        assert!(says(&before, &after), "{}: {frame}\nbecame {written}", line.file);
    }
}

fn says(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let kept = before
                .iter()
                .all(|(key, value)| after.get(key).is_some_and(|after| says(value, after)));
            let added = after.iter().filter(|(key, _)| !before.contains_key(*key));
            kept && added.into_iter().all(|(_, value)| is_default(value))
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len()
                && before
                    .iter()
                    .zip(after)
                    .all(|(before, after)| says(before, after))
        }
        _ => before == after,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || text == "unknown",
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[test]
fn frames_of_executors_decode_and_the_unknown_one_is_refused_as_unknown() {
    let (mut known, mut refused) = (0, 0);
    for line in recorded("executor-") {
        let Some(frame) = line.frame() else { continue };
        let outcome = match line.direction.as_str() {
            "miner->executor" => ExecutorDown::decode(&frame).map(|message| message.encode()),
            "executor->miner" => ExecutorUp::decode(&frame).map(|message| message.encode()),
            other => panic!("unknown direction {other}"),
        };
        match outcome {
            Ok(written) => {
                assert_same(&line, &frame, &written);
                known += 1;
            }
            Err(DecodeError::UnknownMessageType(word)) if word == "V0Nope" => refused += 1,
            Err(error) => panic!("{}: {error}: {frame}", line.file),
        }
    }
    assert_eq!((known, refused), (146, 1));
}

#[test]
fn frames_between_validators_and_miners_decode_and_garbage_is_refused_by_kind() {
    let (mut known, mut refused) = (0, Vec::new());
    for line in recorded("miner-validator-") {
        let Some(frame) = line.frame() else { continue };
        if !line.direction.starts_with("validator") && !line.direction.starts_with("miner") {
            // The user's own requests to a streaming job.
            continue;
        }
        let outcome = match line.direction.as_str() {
            "validator->miner" => MinerDown::decode(&frame).map(|message| message.encode()),
            "miner->validator" => MinerUp::decode(&frame).map(|message| message.encode()),
            other => panic!("unknown direction {other}"),
        };
        match outcome {
            Ok(written) => {
                assert_same(&line, &frame, &written);
                known += 1;
            }
            Err(error @ (DecodeError::NotJson(_) | DecodeError::UnknownMessageType(_))) => {
                refused.push(format!("{}: {error}", line.file));
            }
            Err(error) => panic!("{}: {error}: {frame}", line.file),
        }
    }
    assert_eq!(known, 175);
    assert_eq!(
        refused,
        [
            "miner-validator-garbage.jsonl: the frame is no JSON",
            "miner-validator-garbage.jsonl: unknown message_type \"V0Nope\"",
        ]
    );
}

#[test]
fn frames_between_facilitator_and_validator_decode() {
    let mut known = 0;
    for line in recorded("facilitator-sdk") {
        let Some(frame) = line.frame() else { continue };
        let outcome = match line.direction.as_str() {
            "facilitator->client" => FacilitatorDown::decode(&frame).map(|message| message.encode()),
            "client->facilitator" => FacilitatorUp::decode(&frame).map(|message| message.encode()),
            other => panic!("unknown direction {other}"),
        };
        match outcome {
            Ok(written) => {
                assert_same(&line, &frame, &written);
                known += 1;
            }
            Err(error) => panic!("{}: {error}: {frame}", line.file),
        }
    }
    assert_eq!(known, 124);
}

#[test]
fn recorded_signatures_verify() {
    let mut counts = [0; 4];
    let mut refused = Vec::new();
    for line in recorded("miner-validator-") {
        let Some(frame) = line.frame() else { continue };
        let (signer, blob, signature): (Hotkey, _, _) = match MinerDown::decode(&frame) {
            Ok(MinerDown::Authenticate(message)) => {
                match message.verify() {
                    Ok(()) => counts[0] += 1,
                    Err(error) => refused.push(format!("{}: {error}", line.file)),
                }
                continue;
            }
            Ok(MinerDown::AcceptedReceipt(message)) => (
                message.payload.validator_hotkey.clone(),
                signed::receipt_blob(&message.payload).unwrap(),
                message.signature,
            ),
            Ok(MinerDown::FinishedReceipt(message)) => (
                message.payload.validator_hotkey.clone(),
                signed::receipt_blob(&message.payload).unwrap(),
                message.signature,
            ),
            _ => continue,
        };
        verify_hex(&signer, &blob, &signature)
            .unwrap_or_else(|error| panic!("{}: {error}: {frame}", line.file));
        counts[1] += 1;
    }
    for line in recorded("facilitator-sdk") {
        let Some(frame) = line.frame() else { continue };
        match FacilitatorDown::decode(&frame) {
            Ok(FacilitatorDown::JobRequest(request)) => {
                let request: Box<facilitator_validator::JobRequest> = request;
                request
                    .verify()
                    .unwrap_or_else(|error| panic!("{}: {error}: {frame}", line.file));
                counts[2] += 1;
            }
            _ => {
                if let Ok(FacilitatorUp::Authenticate(message)) = FacilitatorUp::decode(&frame) {
                    signed::verify_facilitator_auth(&message.public_key, &message.signature).unwrap();
                    counts[3] += 1;
                }
            }
        }
    }
    assert_eq!(counts, [20, 29, 9, 2]);
    // Its time was set back after it was signed; the reference looks at the age first.
    assert_eq!(
        refused,
        ["miner-validator-oldauth.jsonl: signature does not match"]
    );
}

/// Reads a body as `T` and checks that `T` writes the same again.
fn body_is<T: DeserializeOwned + Serialize>(line: &Line) -> T {
    let body = line.message["body"].to_string();
    let read: T =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{}: {error}: {body}", line.file));
    assert_same(line, &body, &serde_json::to_string(&read).unwrap());
    read
}

#[test]
fn bodies_of_the_sdk_and_the_facilitator_are_read_and_their_signatures_verify() {
    let (mut logins, mut submits, mut views) = (0, 0, 0);
    for line in recorded("facilitator-sdk") {
        let body = &line.message["body"];
        let headers = &line.message["headers"];
        let signature = || {
            RequestSignature::from_headers(|name| {
                let all = headers.as_object()?;
                all.iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))?
                    .1
                    .as_str()
            })
            .unwrap()
        };
        match (line.message["path"].as_str(), line.message["status"].as_u64()) {
            (Some("/auth/login"), _) => {
                let login: Login = body_is(&line);
                signed::verify_login(&login.hotkey, &login.nonce, &login.signature).unwrap();
                logins += 1;
            }
            (Some("/api/v1/job-docker/"), _) => {
                let submit: Submit = body_is(&line);
                let payload = signed_fields_payload(body.as_object().unwrap(), "None");
                assert_eq!(submit.payload().unwrap(), payload);
                signature().verify(&payload).unwrap();
                submits += 1;
            }
            (Some("/api/v1/cheated-job/"), _) => {
                signature().verify(&signed::full_request_payload(body)).unwrap();
            }
            (Some(_), _) => assert_eq!(body, "", "{}: only a POST has a body", line.file),
            (None, Some(200)) if body.get("nonce").is_some() => drop(body_is::<NonceAnswer>(&line)),
            (None, Some(200)) if body.get("token").is_some() => drop(body_is::<TokenAnswer>(&line)),
            (None, Some(200)) if body.get("results").is_some() => {
                views += body_is::<JobPage>(&line).results.len();
            }
            (None, Some(200 | 201)) => {
                let view: JobView = body_is(&line);
                assert_eq!(legacy_label(view.current()), view.status, "{}", line.file);
                views += 1;
            }
            (None, Some(404)) => drop(body_is::<Refusal>(&line)),
            (None, Some(status)) => panic!("{}: unknown answer {status}: {body}", line.file),
            (None, None) => {}
        }
    }
    assert_eq!((logins, submits), (9, 9));
    assert!(views > 30, "{views}");
}
