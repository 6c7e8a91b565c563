//! Receipts against the golden vectors of the reference.

use serde_json::{Map, Value};
use time::macros::datetime;

use super::*;

const RECEIPTS: &str = include_str!("../../../tests/golden/receipts.json");
const PUBLISHED: &str = include_str!("../../../tests/golden/published_0_0_27.json");
const JOB: &str = "3a9f2c1e-7b54-4d0a-9e61-0c8f5d2b7a10";

fn alice() -> Keypair {
    Keypair::from_uri("//Alice").unwrap()
}

fn bob() -> Keypair {
    Keypair::from_uri("//Bob").unwrap()
}

fn golden(list: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(RECEIPTS).unwrap();
    vectors[list].as_array().unwrap().clone()
}

fn text<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key].as_str().unwrap()
}

/// Two of the golden receipts show what was signed before wheel 0.0.27 set bounds.
fn is_within_bounds(name: &str) -> bool {
    !matches!(name, "started_naive" | "non_ascii_uuid")
}

#[test]
fn golden_receipts_are_read_written_and_verified_as_by_the_reference() {
    let vectors = golden("receipts");
    assert_eq!(vectors.len(), 12);
    for vector in &vectors {
        let name = text(vector, "name");
        let line = text(vector, "receipt_jsonl_line").trim_end();
        let receipt: Receipt = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&receipt).unwrap(), line, "{name}");
        assert_eq!(
            serde_json::to_string(&receipt.payload).unwrap(),
            text(vector, "payload_wire_json_text")
        );
        assert_eq!(
            receipt_blob(&receipt.payload).unwrap(),
            text(vector, "blob_utf8").as_bytes(),
            "{name}"
        );
        let verified = verify_receipt(&receipt);
        if is_within_bounds(name) {
            verified.unwrap_or_else(|error| panic!("{name}: {error}"));
            let signature = &receipt.validator_signature;
            verify_payload(&receipt.payload, signature, bob().hotkey(), alice().hotkey()).unwrap();
        } else {
            assert!(
                matches!(verified, Err(ReceiptError::Bounds(_))),
                "{name}: {verified:?}"
            );
        }
    }
}

#[test]
fn tampered_receipts_are_refused() {
    let mut refused = 0;
    for vector in golden("tampered") {
        let Some(blob) = vector["blob_utf8"].as_str() else {
            continue;
        };
        let payload: ReceiptPayload = serde_json::from_str(blob).unwrap();
        let signer = Hotkey::new(text(&vector, "signer_ss58"));
        let outcome = verify_hex(
            &signer,
            &receipt_blob(&payload).unwrap(),
            text(&vector, "signature"),
        );
        assert_eq!(
            outcome.is_ok(),
            vector["verify"].as_bool().unwrap(),
            "{}",
            text(&vector, "name")
        );
        refused += usize::from(outcome.is_err());
    }
    assert_eq!(refused, 6);
}

#[test]
fn bounds_are_those_of_the_published_wheel() {
    let vectors: Value = serde_json::from_str(PUBLISHED).unwrap();
    let cases = vectors["receipt_bounds"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 33);
    for case in cases {
        let word = text(case, "payload_type").strip_suffix("Payload").unwrap();
        let base = golden("receipts")
            .iter()
            .map(|vector| serde_json::from_str(text(vector, "payload_wire_json_text")).unwrap())
            .find(|payload: &Map<String, Value>| payload["receipt_type"] == word)
            .unwrap();
        let mut changed = base;
        for (key, value) in case["changed"].as_object().unwrap() {
            changed.insert(key.clone(), expand(key, value));
        }
        let payload: ReceiptPayload = serde_json::from_value(Value::Object(changed)).unwrap();
        let accepted = case["accepted"] == Value::Bool(true);
        assert_eq!(check_bounds(&payload).is_ok(), accepted, "{case}");
    }
}

/// Values too long for the vectors are given there as `<N items>`.
fn expand(key: &str, value: &Value) -> Value {
    let count = value
        .as_str()
        .and_then(|text| text.strip_prefix('<')?.strip_suffix(" items>"))
        .map(|count| count.parse::<usize>().unwrap());
    match (key, count) {
        ("score_str", Some(count)) => Value::from("1".repeat(count)),
        (_, Some(count)) => Value::from(vec![1; count]),
        (_, None) => value.clone(),
    }
}

fn about<'a>(job: &'a JobId, miner: &'a Hotkey) -> About<'a> {
    About {
        job_uuid: job,
        miner,
        now: datetime!(2026-01-15 12:30:45.123456 UTC),
    }
}

#[test]
fn the_three_receipts_of_a_job_are_signed_and_countersigned() {
    let (job, miner, validator) = (JobId::new(JOB), bob(), alice());
    let about = about(&job, miner.hotkey());
    let started = sign_started(&validator, about, ExecutorClass::DEFAULT, true, 7).unwrap();
    let accepted = sign_accepted(&validator, about, about.now, i64::MAX).unwrap();
    assert_eq!(accepted.payload.ttl, TTL_SECONDS_MAX);
    let work = Work {
        started: about.now,
        took: Duration::seconds(-1),
        score: 35.0,
        block_numbers: vec![5],
    };
    let finished = sign_finished(&validator, about, work).unwrap();
    assert_eq!(finished.payload.score_str, "35.000000");
    assert_eq!(finished.payload.time_took_us, 0);
    let all = [
        (ReceiptPayload::Started(started.payload), started.signature),
        (ReceiptPayload::Accepted(accepted.payload), accepted.signature),
        (ReceiptPayload::Finished(finished.payload), finished.signature),
    ];
    for (payload, signature) in all {
        verify_payload(&payload, &signature, miner.hotkey(), validator.hotkey()).unwrap();
        let receipt = countersign(&miner, payload, signature).unwrap();
        verify_receipt(&receipt).unwrap();
    }
}

#[test]
fn a_miner_refuses_what_is_not_for_it_or_not_from_its_validator() {
    let (job, miner, validator) = (JobId::new(JOB), bob(), alice());
    let signed = sign_started(
        &validator,
        about(&job, miner.hotkey()),
        ExecutorClass::DEFAULT,
        true,
        7,
    )
    .unwrap();
    let payload = ReceiptPayload::Started(signed.payload);
    let check = |miner: &Keypair, validator: &Keypair, signature: &str| {
        verify_payload(&payload, signature, miner.hotkey(), validator.hotkey())
    };
    let good = &signed.signature;
    assert!(matches!(
        check(&validator, &validator, good),
        Err(ReceiptError::WrongMiner(_))
    ));
    assert!(matches!(
        check(&miner, &miner, good),
        Err(ReceiptError::WrongValidator(_))
    ));
    for bad in ["", "0x", "not hex", &good.replace('a', "b")] {
        let outcome = check(&miner, &validator, bad);
        assert!(
            matches!(outcome, Err(ReceiptError::ValidatorSignature(_))),
            "{bad:?}: {outcome:?}"
        );
    }
}

#[test]
fn a_score_is_always_a_decimal_number() {
    let texts = [1.5, 0.0, -0.0, -3.0, f64::NAN, f64::INFINITY].map(score_text);
    assert_eq!(
        texts,
        [
            "1.500000", "0.000000", "0.000000", "0.000000", "0.000000", "0.000000"
        ]
    );
}

#[test]
fn a_job_whose_id_is_no_uuid_gets_no_receipt() {
    let (job, miner) = (JobId::new("job-1"), bob());
    let outcome = sign_started(
        &alice(),
        about(&job, miner.hotkey()),
        ExecutorClass::DEFAULT,
        true,
        7,
    );
    assert!(
        matches!(outcome, Err(ReceiptError::Bounds(BoundsError::JobUuid(_)))),
        "{outcome:?}"
    );
}
