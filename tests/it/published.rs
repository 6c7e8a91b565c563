//! The published wheel 0.0.27: what it bounds, we bound.

use horde::core::model::job::RejectionReason;
use horde::core::model::receipt::{JobAccepted, JobFinished, JobStarted, ReceiptPayload};
use horde::core::model::upload::check_relative_path;
use horde::core::receipts::{TTL_SECONDS_MAX, check_bounds};
use serde_json::{Value, json};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../golden/published_0_0_27.json")).unwrap()
}

/// Returns a good payload of a type.
fn good(payload_type: &str) -> Value {
    let common = json!({
        "job_uuid": "3a9f2c1e-7b54-4d0a-9e61-0c8f5d2b7a10",
        "miner_hotkey": "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
        "validator_hotkey": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
        "timestamp": "2026-01-15T12:30:45Z",
    });
    let own = match payload_type {
        "JobStartedReceiptPayload" => {
            json!({"executor_class": "always_on.llm.a6000", "is_organic": true, "ttl": 7})
        }
        "JobAcceptedReceiptPayload" => json!({"time_accepted": "2026-01-15T12:30:45Z", "ttl": 7}),
        "JobFinishedReceiptPayload" => json!({
            "time_started": "2026-01-15T12:30:45Z", "time_took_us": 1, "score_str": "1.000000",
        }),
        other => panic!("unknown payload {other}"),
    };
    let mut payload = common.as_object().unwrap().clone();
    payload.extend(own.as_object().unwrap().clone());
    Value::Object(payload)
}

fn is_accepted(payload_type: &str, payload: Value) -> bool {
    let payload = match payload_type {
        "JobStartedReceiptPayload" => {
            serde_json::from_value::<JobStarted>(payload).map(ReceiptPayload::Started)
        }
        "JobAcceptedReceiptPayload" => {
            serde_json::from_value::<JobAccepted>(payload).map(ReceiptPayload::Accepted)
        }
        _ => serde_json::from_value::<JobFinished>(payload).map(ReceiptPayload::Finished),
    };
    payload.is_ok_and(|payload| check_bounds(&payload).is_ok())
}

#[test]
fn receipts_are_bounded_as_in_the_published_wheel() {
    let vectors = vectors();
    let bounds = &vectors["receipt_bounds"];
    assert_eq!(bounds["constants"]["MAX_TTL_SECONDS"], TTL_SECONDS_MAX);
    for case in bounds["cases"].as_array().unwrap() {
        let payload_type = case["payload_type"].as_str().unwrap();
        let mut payload = good(payload_type);
        assert!(is_accepted(payload_type, payload.clone()));
        for (key, value) in case["changed"].as_object().unwrap() {
            payload[key] = match (key.as_str(), value.as_str()) {
                ("score_str", Some(items)) if items.ends_with(" items>") => "1".repeat(count(items)).into(),
                ("block_numbers", Some(items)) => vec![1; count(items)].into(),
                _ => value.clone(),
            };
        }
        assert_eq!(
            is_accepted(payload_type, payload),
            case["accepted"] == true,
            "{case}"
        );
    }
}

/// Reads the number in `<256 items>`.
fn count(items: &str) -> usize {
    items.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn paths_of_uploads_are_refused_in_the_words_of_the_published_wheel() {
    for case in vectors()["upload_relative_path_cases"].as_array().unwrap() {
        let short = case["relative_path"].as_str().unwrap();
        let path = match short.split_once('*') {
            Some((unit, times)) => unit.repeat(times.parse().unwrap()),
            None => short.to_owned(),
        };
        match (check_relative_path(&path), &case["accepted"]) {
            (Ok(()), accepted) => assert_eq!(accepted, true, "{short}"),
            (Err(error), Value::String(words)) => {
                assert!(words.ends_with(&format!(": {error}")), "{short}: {error}");
            }
            (Err(error), _) => panic!("{short}: {error}"),
        }
    }
}

#[test]
fn every_rejection_reason_of_the_published_wheel_is_known() {
    for word in vectors()["job_rejection_reasons"].as_array().unwrap() {
        let word = word.as_str().unwrap();
        assert_eq!(RejectionReason::from_word(word).as_str(), word);
    }
}
