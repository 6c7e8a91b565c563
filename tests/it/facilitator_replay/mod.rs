//! The recorded exchanges of the reference's facilitator over HTTP, all of them, played again with ours: the same
//! status, body and headers. Where ours does something else on purpose, [`DIFFERENCES`] says what and why; a row that
//! fits nowhere, or that is not needed any more, fails the test.
//!
//! The requests are sent as recorded but for what only the reference could make or know: its nonces, tokens and job
//! identities have ours in their place, and what they are signed into is signed again ([`stage`]). A recorded signature
//! that is wrong stays wrong. The validator says what it said then, when it said it.

mod stage;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::stage::Stage;
use crate::facilitator::{Answer, World, http_vectors, key};

/// Whether an answer is the one that stands here in place of the recorded one.
type Holds = fn(&Answer) -> bool;

/// One difference: the exchange, what ours answers instead, and why.
struct Difference {
    exchange: &'static str,
    here: Holds,
    why: &'static str,
}

const CALLERS_FAULT: &str =
    "a bad request is the caller's: 4xx with a reason where the reference answers 500 with HTML";
const PARSERS_WORDS: &str =
    "the same kind and place of the error; the words and links of the reference's parser are its own";
const WHAT_IS_SIGNED: &str = "what is signed survives: trimmed, the validator refuses the signature";
const ONE_MORE: &str =
    "one job more than there: the one without artifacts_dir; newest first, where the order there is no rule";
const NO_REDIRECT: &str = "a redirect loses a POST's body in most clients: both spellings are served";

fn is_signature_refused(answer: &Answer) -> bool {
    answer.status == 400
        && answer.body["error"] == "Invalid signature provided"
        && answer.body["details"].is_string()
}

fn has_field_error(answer: &Answer, field: &str, kind: &str) -> bool {
    let error = &answer.body[field][0];
    answer.status == 400 && error["type"] == kind && error["loc"] == json!(["0"]) && error["msg"].is_string()
}

/// All differences of `facilitator_http.json`.
const DIFFERENCES: &[Difference] = &[
    Difference {
        exchange: "sdk create_job without artifacts_dir (SDK sends null)",
        here: |answer| answer.status == 201 && answer.body["artifacts_dir"] == "",
        why: "null is what the SDK's default sends; it means none",
    },
    Difference {
        exchange: "sdk create_job arg with surrounding spaces",
        here: |answer| answer.status == 201 && answer.body["args"][2] == " echo hi ",
        why: WHAT_IS_SIGNED,
    },
    Difference {
        exchange: "sdk create_job docker_image with trailing space",
        here: |answer| answer.status == 201 && answer.body["docker_image"] == "alpine:3.19 ",
        why: WHAT_IS_SIGNED,
    },
    Difference {
        exchange: "raw create without signature headers",
        here: |answer| answer.status == 400 && answer.body["error"] == "Signature not found",
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create with wrong signature",
        here: is_signature_refused,
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create with unknown signature scope",
        here: is_signature_refused,
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create with non-numeric timestamp",
        here: is_signature_refused,
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create executor_class=\"nope\"",
        here: |answer| {
            answer.status == 400
                && answer.body["executor_class"] == json!(["\"nope\" is not a valid choice."])
        },
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create env={\"A\": 1}",
        here: |answer| answer.status == 400 && answer.body["env"]["A"] == json!(["Not a valid string."]),
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create env=[]",
        here: |answer| answer.status == 400 && answer.body["env"][0].is_string(),
        why: CALLERS_FAULT,
    },
    Difference {
        exchange: "raw create volumes=[{\"volume_type\": \"nope\"}]",
        here: |answer| has_field_error(answer, "volumes", "union_tag_invalid"),
        why: PARSERS_WORDS,
    },
    Difference {
        exchange: "raw create uploads=[{\"output_upload_type\": \"zip_and_http_pu",
        here: |answer| has_field_error(answer, "uploads", "union_tag_invalid"),
        why: PARSERS_WORDS,
    },
    Difference {
        exchange: "list page 1 size 2",
        here: |answer| {
            answer.status == 200
                && answer.body["count"] == 28
                && answer.body["next"] == "http://127.0.0.1:19001/api/v1/jobs/?page=2&page_size=2"
                && answer.body["previous"].is_null()
                && answer.body["results"]
                    .as_array()
                    .is_some_and(|jobs| jobs.len() == 2)
        },
        why: ONE_MORE,
    },
    Difference {
        exchange: "list page_size above max",
        here: |answer| {
            answer.status == 200
                && answer.body["count"] == 28
                && answer.body["next"].is_null()
                && answer.body["results"]
                    .as_array()
                    .is_some_and(|jobs| jobs.len() == 28)
        },
        why: ONE_MORE,
    },
    Difference {
        exchange: "sdk get_jobs page 1",
        here: |answer| {
            answer.status == 200
                && answer.body["count"] == 29
                && answer.body["next"] == "http://127.0.0.1:19001/api/v1/jobs/?page=2&page_size=1"
                && answer.body["results"]
                    .as_array()
                    .is_some_and(|jobs| jobs.len() == 1)
        },
        why: "two jobs more than there: those of the two differences above; newest first",
    },
    Difference {
        exchange: "post without trailing slash",
        here: |answer| answer.status == 201 && answer.body["status"] == "Sent",
        why: NO_REDIRECT,
    },
    Difference {
        exchange: "get without trailing slash",
        here: |answer| answer.status == 200 && answer.body["status"] == "Completed",
        why: NO_REDIRECT,
    },
    Difference {
        exchange: "get with SignedFields signature headers",
        here: |answer| answer.status == 200 && answer.body["status"] == "Completed",
        why: "the headers sign nothing on a GET and are not looked at",
    },
    Difference {
        exchange: "cheated-job without signature",
        here: |answer| answer.status == 400 && answer.body["error"] == "Signature not found",
        why: "the validator would refuse it, so that it could not count",
    },
    Difference {
        exchange: "cheated-job signed over the object form",
        here: |answer| answer.status == 201,
        why: "it is the form that the reference's validators check",
    },
    Difference {
        exchange: "feedback PUT",
        here: |answer| {
            answer.status == 201
                && answer.body == json!({"result_correctness": 0.5, "expected_duration": 3.0})
        },
        why: "here every owner is a hotkey; there the opinion of one is not taken",
    },
    Difference {
        exchange: "feedback POST",
        here: |answer| {
            answer.status == 200
                && answer.body == json!({"result_correctness": 0.5, "expected_duration": 3.0})
        },
        why: "here every owner is a hotkey; there the opinion of one is not taken",
    },
    Difference {
        exchange: "feedback GET",
        here: |answer| {
            answer.status == 200
                && answer.body == json!({"result_correctness": 0.5, "expected_duration": 3.0})
        },
        why: "here every owner is a hotkey; there asking for the opinion of one is a fault of the server",
    },
    Difference {
        exchange: "sdk get_job unknown status",
        here: |answer| answer.status == 200 && answer.body["status"] == "Sent",
        why: "an unknown status is refused when it is reported, so that its job can be read",
    },
    Difference {
        exchange: "list jobs when one job has an unknown status",
        here: |answer| {
            answer.status == 200
                && answer.body["count"] == 30
                && answer.body["next"] == "http://127.0.0.1:19001/api/v1/jobs/?page=2"
                && answer.body["results"]
                    .as_array()
                    .is_some_and(|jobs| jobs.len() == 10)
        },
        why: "two jobs more than there, as above; newest first",
    },
];

/// Headers of answers that are not compared, and why.
const HEADERS_LEFT_OUT: &[(&str, &str)] = &[(
    "allow",
    "the reference tells a path's methods on every answer; nobody reads that, ours does so with 405",
)];

/// What stands among the exchanges and is none, by its key.
const NOTES: &[(&str, &str)] = &[
    (
        "sdk_raised",
        "what the SDK raised for the exchange before; tests/python proves the SDK itself",
    ),
    (
        "upload_results",
        "what the SDK makes of the job that was read before; tests/python proves the SDK itself",
    ),
];

#[tokio::test]
async fn every_recorded_exchange_is_answered_as_the_reference_does_or_differs_for_a_reason() {
    for difference in DIFFERENCES {
        assert!(!difference.why.is_empty());
    }
    let vectors = http_vectors();
    let mut stage = Stage::set_up().await;
    let (mut played, mut notes) = (0, 0);
    let mut needed = BTreeSet::new();
    let mut complaints = Vec::new();
    for exchange in vectors["exchanges"].as_array().unwrap() {
        let label = exchange["label"].as_str().unwrap();
        if exchange.get("request").is_none() {
            assert!(
                NOTES.iter().any(|(key, _)| exchange.get(*key).is_some()),
                "{label}"
            );
            notes += 1;
            continue;
        }
        played += 1;
        let rows: Vec<_> = DIFFERENCES
            .iter()
            .enumerate()
            .filter(|(_, difference)| difference.exchange == label)
            .collect();
        assert!(rows.len() <= 1, "{label}: two rows");
        let row = rows.first().copied();
        let answer = stage.play(exchange, row.is_some()).await;
        let comparison = stage.compare(exchange, &answer);
        match row {
            None => {
                if let Err(why) = comparison {
                    complaints.push(format!("{label}: {why}\n{answer:#?}"));
                }
            }
            Some((index, difference)) => {
                if comparison.is_ok() {
                    complaints.push(format!("{label}: the difference is none any more"));
                }
                if !(difference.here)(&answer) {
                    complaints.push(format!("{label}: {answer:#?}"));
                }
                needed.insert(index);
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert_eq!((played, notes), (103, 10));
    let unused: Vec<_> = (0..DIFFERENCES.len())
        .filter(|index| !needed.contains(index))
        .map(|index| DIFFERENCES[index].exchange)
        .collect();
    assert!(unused.is_empty(), "rows that fit nowhere: {unused:?}");
}

/// The differences of the HTTP part of `limits.json`, by the size of the body.
const SIZE_DIFFERENCES: &[(u64, Holds, &str)] = &[(
    2_700_370,
    |answer| {
        answer.status == 413
            && answer.body["detail"]
                .as_str()
                .is_some_and(|words| words.contains("2621440"))
    },
    "the answer names the limit, as JSON, with the status that means it; the limit is the same",
)];

#[tokio::test]
async fn bodies_of_the_recorded_sizes_are_taken_and_refused_as_the_reference_does() {
    let limits: Value = serde_json::from_str(include_str!("../../golden/limits.json")).unwrap();
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut needed = 0;
    for exchange in limits["facilitator_http"].as_array().unwrap() {
        let bytes = exchange["http_body_bytes"].as_u64().unwrap();
        let (headers, body) = submission_of(usize::try_from(bytes).unwrap());
        let mut headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        headers.push(("authorization", token.as_str()));
        let answer = world
            .send("POST", "/api/v1/job-docker/", &headers, Some(&body))
            .await;
        let recorded: Value =
            serde_json::from_str(exchange["response"].as_str().unwrap()).unwrap_or_default();
        let is_same = answer.status == exchange["status"] && answer.body == recorded;
        match SIZE_DIFFERENCES.iter().find(|(size, ..)| *size == bytes) {
            None => assert!(is_same, "{bytes}: {answer:?}"),
            Some((_, here, _)) => {
                assert!(!is_same && here(&answer), "{bytes}: {answer:?}");
                needed += 1;
            }
        }
    }
    assert_eq!(needed, SIZE_DIFFERENCES.len());
}

/// Makes a signed submission of so many bytes, most of them a volume.
fn submission_of(bytes: usize) -> (Vec<(&'static str, String)>, String) {
    let charlie = key("//Charlie");
    let body = |padding: usize| {
        json!({"target_validator_hotkey": key("//Alice").hotkey(), "executor_class": "always_on.test",
            "docker_image": "busybox", "args": [], "env": {}, "use_gpu": false, "artifacts_dir": "",
            "on_trusted_miner": false, "download_time_limit": 1, "execution_time_limit": 1,
            "streaming_start_time_limit": 1, "upload_time_limit": 1,
            "volumes": [{"volume_type": "inline", "contents": "A".repeat(padding), "relative_path": null}]})
    };
    let frame = body(0).to_string().len();
    let body = body(bytes - frame);
    let payload =
        horde::core::proto::sdk_facilitator::signed_fields_payload(body.as_object().unwrap(), "None");
    let signature = horde::core::crypto::signed::sign_request(&charlie, 7, &payload);
    let headers = vec![
        ("content-type", "application/json".to_owned()),
        ("x-ch-signature-type", "bittensor".to_owned()),
        ("x-ch-signatory", charlie.hotkey().to_string()),
        ("x-ch-timestamp-ns", "7".to_owned()),
        ("x-ch-signature", signature.to_base64()),
    ];
    let body = body.to_string();
    assert_eq!(body.len(), bytes);
    (headers, body)
}

/// The limits that each of the recorded clients has here, and where ours closes otherwise.
#[tokio::test]
async fn frames_of_the_recorded_sizes_are_taken_and_refused_by_our_clients_as_by_the_references() {
    let limits: Value = serde_json::from_str(include_str!("../../golden/limits.json")).unwrap();
    for exchange in limits["websocket_clients"].as_array().unwrap() {
        let bytes = usize::try_from(exchange["frame_bytes"].as_u64().unwrap()).unwrap();
        let client = exchange["client"].as_str().unwrap();
        let ours = if client.starts_with("FacilitatorClient") {
            horde::core::net::ws::Limits::towards_facilitator()
        } else {
            assert!(client.starts_with("WSTransport"), "{client}");
            horde::core::net::ws::Limits::default()
        };
        let outcome = stage::frame(bytes, ours).await;
        match exchange["close_code"].as_u64().unwrap() {
            1000 => assert_eq!(outcome, Ok(bytes), "{client}: {bytes}"),
            code => assert_eq!(outcome.map_err(u64::from), Err(code), "{client}: {bytes}"),
        }
    }
}

#[test]
fn what_is_left_out_of_the_comparison_has_a_reason() {
    for (what, why) in HEADERS_LEFT_OUT.iter().chain(NOTES) {
        assert!(!what.is_empty() && !why.is_empty());
    }
}
