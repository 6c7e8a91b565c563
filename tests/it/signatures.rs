//! Keys, wallet files and signatures: every case of the reference verifies or is refused as it is there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::crypto::keyfile::{
    self, ContentError, KeyFile, KeyFileError, LegacyFormat, NewHotkey, Passwords,
};
use horde::core::crypto::signed::{self, FacilitatorAuthError, MessageSignatureError};
use horde::core::crypto::{
    Keypair, SignatureBytes, SignatureFormatError, VerifyError, ss58, text_bytes, verify, verify_hex,
};
use horde::core::model::Hotkey;
use horde::core::model::receipt::{Receipt, ReceiptPayload};
use horde::core::proto::facilitator_validator::{self, SignatureScope};
use horde::core::proto::job::{FullJob, InitialJob, StreamingReady};
use horde::core::proto::sdk_facilitator::signed_fields_payload;
use horde::core::proto::signing::RequestSignatureError;
use horde::core::proto::{frame, validator_miner};
use serde_json::{Map, Value};

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

fn bytes<const N: usize>(digits: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut bytes).unwrap();
    bytes
}

fn hotkey(address: &str) -> Hotkey {
    Hotkey::new(address)
}

fn alice() -> Keypair {
    Keypair::from_uri("//Alice").unwrap()
}

#[test]
fn every_key_pair_comes_out_as_in_the_reference() {
    let vectors = golden(include_str!("../golden/keys.json"));
    for case in list(&vectors, "keypairs") {
        let label = text(case, "label");
        let input = text(case, "input");
        let keypair = match text(case, "kind") {
            "uri" => Keypair::from_uri(input).unwrap(),
            "seed_hex" => Keypair::from_seed(&bytes(input)),
            "mnemonic" => Keypair::from_phrase(input).unwrap(),
            other => panic!("unknown kind {other}"),
        };
        assert_eq!(keypair.hotkey().as_str(), text(case, "ss58_address"), "{label}");
        assert_eq!(
            hex::encode(keypair.public_key()),
            text(case, "public_key_hex"),
            "{label}"
        );
        let private_key = bytes::<64>(text(case, "expanded_private_key_hex"));
        // A soft junction draws the nonce half of the key anew each time; the scalar half is the key.
        let soft = label.split("//").any(|part| part.contains('/'));
        let comparable = if soft { 32 } else { 64 };
        assert_eq!(
            keypair.private_key()[..comparable],
            private_key[..comparable],
            "{label}"
        );
        if let Some(seed) = case["mini_secret_seed_hex"].as_str() {
            assert_eq!(
                Keypair::from_seed(&bytes(seed)).public_key(),
                keypair.public_key(),
                "{label}"
            );
        }
        let again = Keypair::from_private_key(&private_key).unwrap();
        assert_eq!(again.hotkey(), keypair.hotkey(), "{label}");
        assert_eq!(
            ss58::decode(keypair.hotkey()).unwrap(),
            keypair.public_key(),
            "{label}"
        );

        let message = text(case, "sample_message_utf8").as_bytes();
        verify_hex(keypair.hotkey(), message, text(case, "sample_signature_hex")).unwrap();
        verify(keypair.hotkey(), message, &again.sign(message)).unwrap();
    }
    assert_eq!(list(&vectors, "keypairs").len(), 26);
}

#[test]
fn odd_signatures_count_or_fail_as_in_the_reference() {
    let vectors = golden(include_str!("../golden/keys.json"));
    for case in list(&vectors, "verification_quirks") {
        let name = text(case, "name");
        let signature = match &case["signature"] {
            Value::String(signature) => SignatureBytes::parse_hex(signature),
            raw => Ok(SignatureBytes::new(bytes(text(raw, "raw_bytes_hex")))),
        };
        let message = match case["data"].get("utf8") {
            Some(data) => text_bytes(data.as_str().unwrap()).unwrap(),
            None => hex::decode(text(&case["data"], "hex")).unwrap(),
        };
        let outcome = signature
            .map_err(VerifyError::from)
            .and_then(|signature| verify(&hotkey(text(case, "verifier_ss58")), &message, &signature));
        let expected = match &case["result"] {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) => Err(VerifyError::Mismatch),
            Value::String(raised) if raised.contains("Invalid signature format") => {
                Err(SignatureFormatError::Unprefixed.into())
            }
            Value::String(raised) if raised.contains("Invalid hex string") => {
                Err(SignatureFormatError::Hex.into())
            }
            Value::String(raised) if raised.contains("Invalid signature") => {
                Err(SignatureFormatError::Length.into())
            }
            other => panic!("unknown result {other}"),
        };
        assert_eq!(outcome, expected, "{name}");
    }
    assert_eq!(list(&vectors, "verification_quirks").len(), 16);
}

#[test]
fn uris_and_phrases_that_are_none_are_refused_without_repeating_them() {
    for uri in [
        "//Alice/",
        "hello world",
        "bottom drive obey lake curtain smoke basket hold race lonely fit fit",
        "bottom drive obey lake curtain smoke basket hold race lonely fit xyzzy",
        "0x1234//Alice",
        "0xzz11111111111111111111111111111111111111111111111111111111111111",
        "//Alice//",
    ] {
        let error = Keypair::from_uri(uri).unwrap_err().to_string();
        assert!(
            !error.contains("xyzzy") && !error.contains("bottom"),
            "{uri}: {error}"
        );
    }
    assert!(Keypair::from_uri(&"/a".repeat(100_000)).is_err());
    assert!(Keypair::from_private_key(&[0xff; 64]).is_err());
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let hotkey = NewHotkey::generate().unwrap();
    let shown = format!("{hotkey:?} {:?}", hotkey.keypair);
    assert!(shown.contains(hotkey.keypair.hotkey().as_str()));
    assert!(!shown.contains(hotkey.phrase.as_str()));
    assert!(!shown.contains(&hex::encode(*hotkey.keypair.private_key())));
}

#[test]
fn validators_are_recognised_by_their_first_frame() {
    let vectors = golden(include_str!("../golden/validator_auth.json"));
    for case in list(&vectors, "cases") {
        let name = text(case, "name");
        let frame = case["message"].to_string();
        let Ok(validator_miner::Down::Authenticate(message)) = validator_miner::Down::decode(&frame) else {
            panic!("{name}: no authentication");
        };
        let blob = signed::auth_blob(
            &message.validator_hotkey,
            &message.miner_hotkey,
            message.timestamp,
        );
        assert_eq!(blob, text(case, "blob_utf8").as_bytes(), "{name}");
        assert_eq!(message.verify().is_ok(), case["verify"] == true, "{name}");
    }
    validator_miner::Authenticate::signed(&alice(), hotkey("x"), 5)
        .verify()
        .unwrap();
}

#[test]
fn validators_authenticate_at_the_facilitator_with_their_bare_key() {
    let vectors = golden(include_str!("../golden/facilitator_auth.json"));
    for case in list(&vectors, "cases") {
        let name = text(case, "name");
        let Ok(facilitator_validator::Up::Authenticate(message)) =
            facilitator_validator::Up::decode(text(case, "message_text"))
        else {
            panic!("{name}: no authentication");
        };
        let outcome = signed::verify_facilitator_auth(&message.public_key, &message.signature);
        match name {
            "valid" => assert_eq!(outcome.unwrap().as_str(), text(case, "ss58_address")),
            "other_public_key" => {
                assert_eq!(outcome, Err(FacilitatorAuthError::Verify(VerifyError::Mismatch)));
                assert_eq!(
                    signed::facilitator_auth_hotkey(&message.public_key)
                        .unwrap()
                        .as_str(),
                    text(case, "ss58_address")
                );
            }
            "public_key_with_0x" => assert_eq!(outcome, Err(FacilitatorAuthError::PublicKey)),
            "signature_without_0x" => assert_eq!(
                outcome,
                Err(FacilitatorAuthError::Verify(
                    SignatureFormatError::Unprefixed.into()
                ))
            ),
            other => panic!("unknown case {other}"),
        }
    }
    let (public_key, signature) = signed::sign_facilitator_auth(&alice());
    let signer = signed::verify_facilitator_auth(&public_key, &signature.to_hex_prefixed()).unwrap();
    assert_eq!(&signer, alice().hotkey());
}

#[test]
fn miners_vouch_for_streaming_servers() {
    let vectors = golden(include_str!("../golden/streaming_ready.json"));
    let bob = Keypair::from_uri("//Bob").unwrap();
    for case in list(&vectors, "cases") {
        let name = text(case, "name");
        let frame = case["message"].to_string();
        let Ok(validator_miner::Up::StreamingReady(mut message)) = validator_miner::Up::decode(&frame) else {
            panic!("{name}: not ready");
        };
        let blob = signed::streaming_blob(
            message.job_uuid.as_str(),
            message.ip.as_deref(),
            message.port,
            &message.public_key,
        );
        assert_eq!(blob, text(case, "blob_utf8").as_bytes(), "{name}");
        assert_eq!(hex::encode(&blob), text(case, "blob_hex"), "{name}");
        assert_eq!(
            message.verify(bob.hotkey()).is_ok(),
            case["verify"] == true,
            "{name}"
        );
        message.sign(&bob);
        message.verify(bob.hotkey()).unwrap();
        let unsigned = StreamingReady {
            miner_signature: None,
            ..message
        };
        assert!(unsigned.verify(bob.hotkey()).is_err());
    }
}

#[test]
fn receipts_are_signed_over_the_bytes_of_the_reference() {
    let vectors = golden(include_str!("../golden/receipts.json"));
    let bob = Keypair::from_uri("//Bob").unwrap();
    for case in list(&vectors, "receipts") {
        let name = text(case, "name");
        let wire = text(case, "payload_wire_json_text");
        let payload: ReceiptPayload = serde_json::from_str(wire).unwrap();
        assert_eq!(serde_json::to_string(&payload).unwrap(), wire, "{name}");
        let blob = signed::receipt_blob(&payload).unwrap();
        assert_eq!(
            String::from_utf8(blob.clone()).unwrap(),
            text(case, "blob_utf8"),
            "{name}"
        );
        assert_eq!(hex::encode(&blob), text(case, "blob_hex"), "{name}");
        verify_hex(alice().hotkey(), &blob, text(case, "validator_signature")).unwrap();
        verify_hex(bob.hotkey(), &blob, text(case, "miner_signature")).unwrap();
        assert!(verify_hex(bob.hotkey(), &blob, text(case, "validator_signature")).is_err());

        let line = text(case, "receipt_jsonl_line");
        let receipt: Receipt = serde_json::from_str(line).unwrap();
        assert_eq!(receipt.payload, payload, "{name}");
        assert_eq!(
            serde_json::to_string(&receipt).unwrap(),
            line.trim_end(),
            "{name}"
        );
    }
    assert_eq!(list(&vectors, "receipts").len(), 12);
}

#[test]
fn datetimes_of_receipts_are_read_and_written_as_in_the_reference() {
    let vectors = golden(include_str!("../golden/receipts.json"));
    let sample = text(&list(&vectors, "receipts")[0], "payload_wire_json_text");
    for case in list(&vectors, "datetime_reserialisation") {
        let mut payload = golden(sample);
        payload["timestamp"] = case["input"].clone();
        let payload: Result<ReceiptPayload, _> = serde_json::from_value(payload);
        assert_eq!(payload.is_ok(), case["accepted"] == true, "{case}");
        let payload = payload.unwrap();
        let written = serde_json::to_value(&payload).unwrap();
        assert_eq!(written["timestamp"], case["serialised"], "{case}");
        let blob = golden(&String::from_utf8(signed::receipt_blob(&payload).unwrap()).unwrap());
        assert_eq!(blob["timestamp"], case["blob_timestamp"], "{case}");
    }
}

#[test]
fn receipts_that_were_touched_do_not_verify() {
    let vectors = golden(include_str!("../golden/receipts.json"));
    let reference = text(&list(&vectors, "tampered")[0], "blob_utf8");
    for case in list(&vectors, "tampered") {
        let name = text(case, "name");
        let signature = text(case, "signature");
        if let Some(signed) = case["signed_utf8"].as_str() {
            verify_hex(alice().hotkey(), signed.as_bytes(), signature).unwrap();
            let outcome = verify_hex(alice().hotkey(), reference.as_bytes(), signature);
            assert_eq!(outcome, Err(VerifyError::Mismatch), "{name}");
            continue;
        }
        let blob = text(case, "blob_utf8");
        let outcome = verify_hex(&hotkey(text(case, "signer_ss58")), blob.as_bytes(), signature);
        assert_eq!(outcome.is_ok(), case["verify"] == true, "{name}");
    }
}

fn job_request(text: &str) -> Box<facilitator_validator::JobRequest> {
    match facilitator_validator::Down::decode(text) {
        Ok(facilitator_validator::Down::JobRequest(request)) => request,
        other => panic!("no job request: {other:?}"),
    }
}

#[test]
fn users_sign_jobs_over_the_double_encoding() {
    let vectors = golden(include_str!("../golden/signed_request.json"));
    for case in list(&vectors, "positive") {
        let name = text(case, "name");
        let request = job_request(text(case, "wire_message_text"));
        let payload = request.signed_payload().unwrap();
        assert_eq!(
            std::str::from_utf8(&payload).unwrap(),
            text(case, "payload_bytes_utf8"),
            "{name}"
        );
        let signature = request.signature.clone().unwrap();
        assert_eq!(signature.timestamp_ns, case["timestamp_ns"].as_i64().unwrap());
        let digest = signed::request_digest(signature.timestamp_ns.unsigned_abs(), &payload);
        assert_eq!(hex::encode(digest), text(case, "blake2b512_digest_hex"), "{name}");
        request.verify().unwrap();
        let mut own = request.clone();
        own.signature = Some(
            facilitator_validator::Signature::make(
                &alice(),
                1_768_480_245_000_000_000,
                SignatureScope::SignedFields,
                &payload,
            )
            .unwrap(),
        );
        own.verify().unwrap();
        own.signature = None;
        assert!(matches!(own.verify(), Err(RequestSignatureError::Missing)));
    }
    for case in list(&vectors, "mutations") {
        let outcome = job_request(text(case, "wire_message_text")).verify();
        match &case["verify"] {
            Value::Bool(true) => outcome.unwrap(),
            Value::String(raised) => {
                let Err(RequestSignatureError::Verify(error)) = outcome else {
                    panic!("{}: {outcome:?}", case["name"]);
                };
                let expected = match raised.rsplit(": ").next().unwrap() {
                    "Signature is invalid" => matches!(error, VerifyError::Mismatch),
                    "Invalid signatory for BittensorWalletVerifier" => {
                        matches!(error, VerifyError::Signer(_))
                    }
                    "Signature is malformed" => matches!(error, VerifyError::Format(_)),
                    other => panic!("unknown exception {other}"),
                };
                assert!(expected, "{}: {error:?}", case["name"]);
            }
            other => panic!("unknown result {other}"),
        }
    }
}

/// The reference's validator takes only what is signed over the object encoded once, and the SDK signs it encoded twice.
#[test]
fn cheat_reports_of_the_sdk_verify_at_the_facilitator_and_at_the_validator() {
    let vectors = golden(include_str!("../golden/signed_request.json"));
    for case in list(&vectors, "cheated_report_as_sent_by_sdk") {
        let headers = &case["sdk_headers"];
        let timestamp = text(headers, "X-CH-Timestamp-NS").parse().unwrap();
        let payload = signed::full_request_payload(&case["sdk_body"]);
        let signatory = hotkey(text(headers, "X-CH-Signatory"));
        signed::verify_request(&signatory, timestamp, &payload, text(headers, "X-CH-Signature")).unwrap();

        let mut forwarded = case["message_forwarded_to_validator"].clone();
        if case["validator_can_parse_forwarded_message"] != true {
            facilitator_validator::Down::decode(&forwarded.to_string()).unwrap_err();
            // Our facilitator keeps the key.
            forwarded["details"] = Value::Null;
        }
        let decoded = facilitator_validator::Down::decode(&forwarded.to_string());
        let Ok(facilitator_validator::Down::Cheated(mut report)) = decoded else {
            panic!("no report");
        };
        report.verify().unwrap();
        report.details = "touched".into();
        assert!(matches!(
            report.verify(),
            Err(RequestSignatureError::Verify(VerifyError::Mismatch))
        ));
    }
}

#[test]
fn requests_of_the_published_sdk_verify_and_tampered_ones_do_not() {
    let vectors = golden(include_str!("../golden/sdk_http_headers.json"));
    let (mut logins, mut requests) = (0, 0);
    for case in list(&vectors, "requests") {
        let call = text(case, "call");
        if let Some(nonce) = case["login_signed_bytes_utf8"].as_str() {
            let body = golden(text(case, "body_text"));
            assert_eq!(text(&body, "nonce"), nonce);
            let signer = hotkey(text(&body, "hotkey"));
            let signature = text(&body, "signature");
            signed::verify_login(&signer, nonce, signature).unwrap();
            assert_eq!(
                signed::verify_login(&signer, &format!("{nonce}x"), signature),
                Err(VerifyError::Mismatch)
            );
            let prefixed = format!("0x{signature}");
            assert!(matches!(
                signed::verify_login(&signer, nonce, &prefixed),
                Err(VerifyError::Format(_))
            ));
            logins += 1;
        }
        let Some(signature) = case.get("signature") else {
            continue;
        };
        let headers = &case["headers"];
        let Value::Object(mut body) = golden(text(case, "body_text")) else {
            panic!("{call}: the body is no object");
        };
        let full = text(headers, "x-ch-signature-scope") == "FullRequest";
        let payload_of = |body: &Map<String, Value>| {
            if full {
                signed::full_request_payload(&Value::Object(body.clone()))
            } else {
                signed_fields_payload(body, "None")
            }
        };
        let payload = payload_of(&body);
        assert_eq!(
            std::str::from_utf8(&payload).unwrap(),
            text(signature, "payload_bytes_utf8"),
            "{call}"
        );
        let timestamp = text(headers, "x-ch-timestamp-ns").parse().unwrap();
        assert_eq!(
            hex::encode(signed::request_digest(timestamp, &payload)),
            text(signature, "digest_blake2b512_hex"),
            "{call}"
        );
        let signer = hotkey(text(headers, "x-ch-signatory"));
        let given = text(headers, "x-ch-signature");
        signed::verify_request(&signer, timestamp, &payload, given).unwrap();
        let key = if full { "job_uuid" } else { "docker_image" };
        body.insert(key.to_owned(), "tampered".into());
        assert_eq!(
            signed::verify_request(&signer, timestamp, &payload_of(&body), given),
            Err(VerifyError::Mismatch),
            "{call}"
        );
        requests += 1;
    }
    assert_eq!((logins, requests), (1, 4));
}

/// Rewrites a signed message as the case of that name says.
fn changed(case: &str, wire: &str) -> String {
    let mut message = golden(wire);
    let fields = message.as_object_mut().unwrap();
    match case {
        "as_sent" | "other_hotkey" => return wire.to_owned(),
        "keys_reordered_and_spaced" => {
            let mut entries: Vec<_> = fields.clone().into_iter().collect();
            entries.reverse();
            return serde_json::to_string_pretty(&Value::Object(entries.into_iter().collect())).unwrap();
        }
        "docker_image_changed" => {
            fields.insert("docker_image".to_owned(), "alpine:3.18".into());
        }
        "unknown_key_added_after_signing" => {
            fields.insert("unknown".to_owned(), 1.into());
        }
        "null_key_dropped" => {
            let null = fields
                .iter()
                .find(|(_, value)| value.is_null())
                .map(|(key, _)| key.clone());
            fields.shift_remove(&null.unwrap());
        }
        "signature_missing" => {
            fields.shift_remove(signed::MESSAGE_SIGNATURE_KEY);
        }
        "signature_garbage" => {
            fields.insert(signed::MESSAGE_SIGNATURE_KEY.to_owned(), "0xgarbage".into());
        }
        "unknown_key_included_in_signed_content" => {
            fields.insert(
                "from_the_future".to_owned(),
                serde_json::json!({"ż": [1.0, 1e16]}),
            );
            let signature = alice().sign(&signed::message_blob(fields)).to_hex_prefixed();
            fields.insert(signed::MESSAGE_SIGNATURE_KEY.to_owned(), signature.into());
        }
        "duplicate_key_last_wins" => {
            return format!(
                "{},\"docker_image\":\"alpine:3.18\"}}",
                wire.strip_suffix('}').unwrap()
            );
        }
        other => panic!("unknown case {other}"),
    }
    message.to_string()
}

#[test]
fn jobs_signed_by_newer_validators_verify_and_changed_ones_do_not() {
    let vectors = golden(include_str!("../golden/published_0_0_27.json"));
    for message in list(&vectors, "signed_messages") {
        let name = text(message, "name");
        let wire = text(message, "wire_text");
        let Value::Object(fields) = golden(wire) else {
            panic!("{name}: no object");
        };
        assert_eq!(
            String::from_utf8(signed::message_blob(&fields)).unwrap(),
            text(message, "blob_for_signing_utf8"),
            "{name}"
        );
        let decoded = validator_miner::Down::decode(wire).unwrap();
        assert_eq!(decoded.encode(), wire, "{name}");
        for (case, expected) in message["verify_cases"].as_object().unwrap() {
            let bob = Keypair::from_uri("//Bob").unwrap();
            let signer = if case == "other_hotkey" { bob } else { alice() };
            let outcome = signed::verify_message(signer.hotkey(), &changed(case, wire));
            assert_eq!(outcome.is_ok(), *expected == true, "{name} {case}: {outcome:?}");
            if case == "signature_missing" {
                assert!(matches!(outcome, Err(MessageSignatureError::Missing)));
            }
        }
        let signed_again = match decoded {
            validator_miner::Down::InitialJob(job) => {
                let mut job: InitialJob = job;
                job.sign(&alice());
                frame::write(&job)
            }
            validator_miner::Down::FullJob(job) => {
                let mut job: FullJob = job;
                job.sign(&alice());
                frame::write(&job)
            }
            other => panic!("{name}: {other:?}"),
        };
        signed::verify_message(alice().hotkey(), &signed_again).unwrap();
    }
}

/// Writes a file as a wallet would hold it.
fn private_file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn load(path: &Path) -> Result<Keypair, KeyFileError> {
    keyfile::load(path, &mut Passwords::default())
}

#[test]
fn plain_wallet_files_give_their_key() {
    let vectors = golden(include_str!("../golden/keyfiles.json"));
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in vectors["unencrypted_files"].as_object().unwrap() {
        let content = text(file, "contents_utf8");
        let path = private_file(folder.path(), &name.replace('/', "-"), content.as_bytes());
        let address = golden(content)["ss58Address"].clone();
        if name.ends_with("pub.txt") {
            assert_eq!(
                keyfile::load_public(&path).unwrap().as_str(),
                address.as_str().unwrap()
            );
            let error = load(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::PublicOnly { .. }));
            assert!(error.remedy().unwrap().ends_with("golden-coldkey"), "{error:?}");
        } else {
            assert_eq!(
                load(&path).unwrap().hotkey().as_str(),
                address.as_str().unwrap(),
                "{name}"
            );
        }
    }
}

#[test]
fn of_several_secrets_in_a_file_the_first_of_the_reference_decides() {
    let vectors = golden(include_str!("../golden/keyfiles.json"));
    for case in list(&vectors, "deserialisation_priority") {
        let name = text(case, "case");
        let outcome = keyfile::parse(case["contents"].to_string().as_bytes());
        match &case["result"] {
            Value::Object(expected) => {
                let (address, can_sign) = match outcome.unwrap() {
                    KeyFile::Private(keypair) => (keypair.hotkey().clone(), true),
                    KeyFile::Public(hotkey) => (hotkey, false),
                };
                assert_eq!(address.as_str(), expected["ss58_address"], "{name}");
                assert_eq!(can_sign, expected["can_sign"], "{name}");
            }
            Value::String(raised) => {
                let error = outcome.unwrap_err();
                let expected = if raised.contains("Failed to parse") {
                    ContentError::NotTextFields
                } else {
                    ContentError::NoKey
                };
                assert_eq!(error, expected, "{name}");
            }
            other => panic!("unknown result {other}"),
        }
    }
    let bug = text(&vectors["seed_serialisation_bug"], "contents_utf8");
    assert!(matches!(
        keyfile::parse(bug.as_bytes()),
        Err(ContentError::Key(_))
    ));
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
    let folder = tempfile::tempdir().unwrap();
    let path = private_file(
        folder.path(),
        "default",
        include_bytes!("../golden/wallet/v1/hotkeys/h1"),
    );
    for mode in [0o640, 0o604, 0o666, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Shared { mode: found, .. } if found == mode));
        assert_eq!(
            error.remedy().unwrap(),
            format!("run `chmod 600 {}`", path.display())
        );
        assert!(matches!(
            keyfile::load_public(&path),
            Err(KeyFileError::Shared { .. })
        ));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let expected = golden(include_str!("../golden/wallet/v1/hotkeys/h1pub.txt"));
    assert_eq!(
        load(&path).unwrap().hotkey().as_str(),
        text(&expected, "ss58Address")
    );
}

#[test]
fn what_is_no_wallet_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        load(&folder.path().join("absent")),
        Err(KeyFileError::Missing { .. })
    ));
    assert!(matches!(load(folder.path()), Err(KeyFileError::NotAFile { .. })));
    let large = private_file(folder.path(), "large", &vec![b' '; 100_000]);
    assert!(matches!(load(&large), Err(KeyFileError::TooLarge { .. })));
    let vectors = golden(include_str!("../golden/keyfiles.json"));
    let vault = text(&vectors["encrypted_legacy_ansible_vault"], "file_utf8");
    for (content, format) in [
        (vault.as_bytes(), LegacyFormat::AnsibleVault),
        (&b"gAAAAABkxyz"[..], LegacyFormat::Fernet),
    ] {
        let path = private_file(folder.path(), "legacy", content);
        let error = load(&path).unwrap_err();
        assert!(matches!(&error, KeyFileError::Legacy { format: found, .. } if *found == format));
        assert!(error.remedy().unwrap().contains("regen-coldkey"));
    }
    for content in [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        "{\"ss58Address\":\"5Grw\"}",
        "{\"secretSeed\":\"0x12\"}",
    ] {
        let path = private_file(folder.path(), "odd", content.as_bytes());
        let error = load(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Content { .. }), "{content}");
    }
}

/// One test, because each opening takes seconds and 512 MiB.
#[test]
fn sealed_coldkeys_open_with_their_password_and_no_other() {
    let vectors = golden(include_str!("../golden/keyfiles.json"));
    let sealed = &vectors["encrypted_nacl"];
    let folder = tempfile::tempdir().unwrap();
    let path = private_file(
        folder.path(),
        "coldkey",
        &hex::decode(text(sealed, "file_bytes_hex")).unwrap(),
    );
    let address = golden(text(sealed, "plaintext_utf8"))["ss58Address"].clone();
    let password = text(sealed, "password");

    let error = load(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::NoPassword { .. }));
    let variable = keyfile::password_variable(&path);
    assert!(error.remedy().unwrap().contains(&variable));

    let file = private_file(folder.path(), "password", format!("{password}\n").as_bytes());
    let mut by_file = Passwords {
        file: Some(&file),
        ..Passwords::default()
    };
    let keypair = keyfile::load(&path, &mut by_file).unwrap();
    assert_eq!(keypair.hotkey().as_str(), address.as_str().unwrap());

    let wrong = private_file(folder.path(), "wrong", b"not this one");
    let mut by_wrong_file = Passwords {
        file: Some(&wrong),
        ..Passwords::default()
    };
    let error = keyfile::load(&path, &mut by_wrong_file).unwrap_err();
    assert!(matches!(error, KeyFileError::WrongPassword { .. }));

    // The second wallet opens by the variable of the Python wallet.
    let coldkey = private_file(
        folder.path(),
        "coldkey2",
        include_bytes!("../golden/wallet/v1/coldkey"),
    );
    let variable = keyfile::password_variable(&coldkey);
    let notes = golden(include_str!("../golden/wallet/README.json"));
    let hidden: Vec<u8> = text(&notes, "password")
        .bytes()
        .zip(variable.bytes().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect();
    let hidden = STANDARD.encode(hidden);
    let mut by_variable = Passwords {
        variable: Some(&hidden),
        ..Passwords::default()
    };
    let keypair = keyfile::load(&coldkey, &mut by_variable).unwrap();
    let expected = golden(include_str!("../golden/wallet/v1/coldkeypub.txt"));
    assert_eq!(keypair.hotkey().as_str(), text(&expected, "ss58Address"));

    let mut by_nonsense = Passwords {
        variable: Some("%%"),
        ..Passwords::default()
    };
    assert!(matches!(
        keyfile::load(&coldkey, &mut by_nonsense),
        Err(KeyFileError::PasswordVariable { .. })
    ));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut by_shared_file = Passwords {
        file: Some(&file),
        ..Passwords::default()
    };
    assert!(matches!(
        keyfile::load(&path, &mut by_shared_file),
        Err(KeyFileError::Shared { .. })
    ));
}

#[test]
fn a_new_hotkey_is_private_readable_by_us_and_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallets/default/hotkeys/fresh");
    let hotkey = NewHotkey::generate().unwrap();
    let public = hotkey.write(&path).unwrap();
    assert_eq!(public, folder.path().join("wallets/default/hotkeys/freshpub.txt"));
    for file in [&path, &public] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(load(&path).unwrap().hotkey(), hotkey.keypair.hotkey());
    assert_eq!(keyfile::load_public(&public).unwrap(), *hotkey.keypair.hotkey());
    let before = fs::read(&path).unwrap();
    let fields = golden(std::str::from_utf8(&before).unwrap());
    assert_eq!(fields["secretPhrase"], hotkey.phrase.as_str());
    let seed = Keypair::from_seed(&bytes(text(&fields, "secretSeed")));
    assert_eq!(seed.hotkey(), hotkey.keypair.hotkey());

    let error = NewHotkey::generate().unwrap().write(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::Exists { .. }));
    fs::remove_file(&public).unwrap();
    assert!(matches!(
        hotkey.write(&path).unwrap_err(),
        KeyFileError::Exists { .. }
    ));
    assert_eq!(fs::read(&path).unwrap(), before);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing temporary stays behind: {left:?}");
}
