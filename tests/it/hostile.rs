//! Hostile input: whatever a peer sends, a decoder answers with a message or an error.

use horde::core::crypto::{Keypair, SignatureBytes, canonical, keyfile, signed, ss58};
use horde::core::model::Hotkey;
use horde::core::proto::{facilitator_validator, miner_executor, validator_miner};
use proptest::prelude::*;
use serde_json::Value;

/// Decodes a frame in every direction; what decodes must be writable and decode to the same again.
fn decode_everywhere(text: &str) {
    macro_rules! direction {
        ($($decoder:ty),+) => {
            $(if let Ok(message) = <$decoder>::decode(text) {
                let again = <$decoder>::decode(&message.encode());
                assert!(again.as_ref().is_ok_and(|again| *again == message), "{text}: {again:?}");
            })+
        };
    }
    direction!(
        validator_miner::Down,
        validator_miner::Up,
        miner_executor::Down,
        miner_executor::Up,
        facilitator_validator::Down,
        facilitator_validator::Up
    );
}

/// Any JSON value, not too deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Every golden frame of both message files.
fn samples() -> Vec<Value> {
    [
        include_str!("../golden/messages_miner.json"),
        include_str!("../golden/messages_facilitator.json"),
    ]
    .iter()
    .flat_map(|text| {
        let vectors: Value = serde_json::from_str(text).unwrap();
        vectors["samples"].as_array().unwrap().clone()
    })
    .map(|sample| serde_json::from_str(sample["json_text"].as_str().unwrap()).unwrap())
    .collect()
}

/// Puts a value in the place of one field, somewhere in the object.
fn replace(target: &mut Value, path: &[usize], value: &Value) {
    let (Some(step), rest) = (path.first(), path.get(1..).unwrap_or_default()) else {
        *target = value.clone();
        return;
    };
    match target {
        Value::Object(fields) if !fields.is_empty() => {
            let count = fields.len();
            if let Some(inner) = fields.values_mut().nth(step % count) {
                replace(inner, rest, value);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let count = items.len();
            replace(&mut items[step % count], rest, value);
        }
        _ => *target = value.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,64}", bytes in prop::collection::vec(any::<u8>(), 0..128)) {
        decode_everywhere(&text);
        let signature = SignatureBytes::parse_hex(&text);
        prop_assert!(signature.is_err());
        prop_assert!(SignatureBytes::parse_base64(&text).is_err());
        prop_assert!(ss58::decode(&Hotkey::new(text.as_str())).is_err());
        drop(Keypair::from_uri(&text));
        drop(keyfile::parse(&bytes));
        drop(signed::verify_facilitator_auth(&text, &text));
        drop(signed::verify_message(&Hotkey::new(text.as_str()), &text));
    }

    #[test]
    fn a_changed_message_is_a_message_or_an_error(
        which in any::<prop::sample::Index>(),
        path in prop::collection::vec(any::<usize>(), 1..4),
        value in json(),
    ) {
        let samples = samples();
        let mut message = which.get(&samples).clone();
        replace(&mut message, &path, &value);
        decode_everywhere(&message.to_string());
    }

    #[test]
    fn canonical_text_is_ascii_and_means_the_same(value in json()) {
        for text in [canonical::spaced_sorted(&value), canonical::compact_sorted(&value)] {
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let again: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical::spaced_sorted(&again), canonical::spaced_sorted(&value));
        }
    }

    #[test]
    fn a_signature_is_good_for_its_message_and_key_only(message in prop::collection::vec(any::<u8>(), 0..64), seed: [u8; 32]) {
        let keypair = Keypair::from_seed(&seed);
        let signature = keypair.sign(&message);
        horde::core::crypto::verify(keypair.hotkey(), &message, &signature).unwrap();
        let mut other = message.clone();
        other.push(0);
        prop_assert!(horde::core::crypto::verify(keypair.hotkey(), &other, &signature).is_err());
        prop_assert_eq!(SignatureBytes::parse_hex(&signature.to_hex_prefixed()).unwrap(), signature);
        prop_assert_eq!(SignatureBytes::parse_base64(&signature.to_base64()).unwrap(), signature);
    }
}

#[test]
fn deep_nesting_is_refused_instead_of_followed() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    decode_everywhere(&deep);
    decode_everywhere(&format!(
        r#"{{"message_type":"V0MachineSpecsRequest","job_uuid":"x","specs":{{"specs":{{"x":{deep}}}}}}}"#
    ));
    assert!(keyfile::parse(deep.as_bytes()).is_err());
}
