//! The wires, byte for byte: golden messages of the reference, decoded and written again.

use horde::core::model::upload::OutputUpload;
use horde::core::model::volume::Volume;
use horde::core::proto::{facilitator_validator, miner_executor, validator_miner};
use serde_json::Value;

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Decodes a frame of a direction and writes it again.
fn again(direction: &str, text: &str) -> Result<String, String> {
    match direction {
        "validator->miner" => validator_miner::Down::decode(text).map(|m| m.encode()),
        "miner->validator" => validator_miner::Up::decode(text).map(|m| m.encode()),
        "miner->executor" => miner_executor::Down::decode(text).map(|m| m.encode()),
        "executor->miner" => miner_executor::Up::decode(text).map(|m| m.encode()),
        "facilitator->validator" => facilitator_validator::Down::decode(text).map(|m| m.encode()),
        "validator->facilitator" => facilitator_validator::Up::decode(text).map(|m| m.encode()),
        other => panic!("unknown direction {other}"),
    }
    .map_err(|error| error.to_string())
}

#[test]
fn every_sample_of_the_inner_wires_is_read_and_written_byte_for_byte() {
    let vectors = golden(include_str!("../golden/messages_miner.json"));
    let mut count = 0;
    for sample in vectors["samples"].as_array().unwrap() {
        let text = sample["json_text"].as_str().unwrap();
        for direction in sample["directions"].as_array().unwrap() {
            let direction = direction.as_str().unwrap();
            if direction == "miner internal channel layer only" {
                continue;
            }
            assert_eq!(
                again(direction, text).as_deref(),
                Ok(text),
                "{direction} {}",
                sample["name"]
            );
            count += 1;
        }
    }
    assert!(count > 73);
}

#[test]
fn the_inner_wires_accept_and_refuse_what_the_reference_does() {
    let vectors = golden(include_str!("../golden/messages_miner.json"));
    for case in vectors["parse_cases"].as_array().unwrap() {
        let text = case["input_text"].as_str().unwrap();
        let outcome = again(case["direction"].as_str().unwrap(), text);
        assert_eq!(
            outcome.is_ok(),
            case["accepted"] == true,
            "{}: {outcome:?}",
            case["name"]
        );
        if let (Ok(written), expected @ Value::Object(_)) = (outcome, &case["reserialised"]) {
            assert_eq!(&golden(&written), expected, "{}", case["name"]);
        }
    }
}

#[test]
fn every_sample_of_the_facilitator_wire_is_read_and_written_byte_for_byte() {
    let vectors = golden(include_str!("../golden/messages_facilitator.json"));
    for sample in vectors["samples"].as_array().unwrap() {
        let text = sample["json_text"].as_str().unwrap();
        let direction = sample["direction"].as_str().unwrap();
        assert_eq!(again(direction, text).as_deref(), Ok(text), "{}", sample["name"]);
    }
}

#[test]
fn the_facilitator_wire_accepts_and_refuses_what_the_reference_does() {
    let vectors = golden(include_str!("../golden/messages_facilitator.json"));
    for case in vectors["parse_cases"].as_array().unwrap() {
        let text = case["input_text"].as_str().unwrap();
        let name = case["name"].as_str().unwrap();
        let down = name.starts_with("v2_") || name.starts_with("cheated_") || name.starts_with("response");
        let direction = if down {
            "facilitator->validator"
        } else {
            "validator->facilitator"
        };
        let outcome = again(direction, text);
        assert_eq!(outcome.is_ok(), case["accepted"] == true, "{name}: {outcome:?}");
        if let (Ok(written), expected @ Value::Object(_)) = (outcome, &case["reserialised"]) {
            assert_eq!(&golden(&written), expected, "{name}");
        }
    }
}

#[test]
fn every_volume_and_upload_is_read_and_written_byte_for_byte() {
    let vectors = golden(include_str!("../golden/volumes.json"));
    for (name, case) in vectors["volumes"].as_object().unwrap() {
        let text = case["json_text"].as_str().unwrap();
        let volume: Volume = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&volume).unwrap(), text, "{name}");
    }
    let vectors = golden(include_str!("../golden/uploads.json"));
    for (name, case) in vectors["uploads"].as_object().unwrap() {
        let text = case["json_text"].as_str().unwrap();
        let upload: OutputUpload = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&upload).unwrap(), text, "{name}");
    }
}

#[test]
fn volumes_and_uploads_that_are_none_are_refused() {
    for text in [
        r#"{"volume_type":"tape","contents":""}"#,
        r#"{"contents":""}"#,
        r#"{"volume_type":"inline"}"#,
        r#"{"volume_type":"single_file","url":"https://example.com"}"#,
        r#"{"volume_type":"multi_volume","volumes":[{"volume_type":"multi_volume","volumes":[]}]}"#,
        "[]",
        "null",
    ] {
        assert!(serde_json::from_str::<Volume>(text).is_err(), "{text}");
    }
    for text in [
        r#"{"output_upload_type":"fax","url":""}"#,
        r#"{"output_upload_type":"zip_and_http_put"}"#,
        r#"{"output_upload_type":"multi_upload","uploads":[{"output_upload_type":"zip_and_http_put","url":""}]}"#,
    ] {
        assert!(serde_json::from_str::<OutputUpload>(text).is_err(), "{text}");
    }
}
