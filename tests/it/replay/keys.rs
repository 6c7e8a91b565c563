//! The development keys, and the signatures of the recordings that were made with others.

use horde::core::crypto::Keypair;
use horde::core::crypto::signed::{auth_blob, receipt_blob};
use horde::core::model::{Hotkey, JobId};
use horde::core::proto::validator_miner::{Authenticate, Down, FinishedReceipt};
use horde::core::receipts::{About, Work, sign_finished};
use serde_json::Value;
use time::OffsetDateTime;

/// The keys of the recorded traces and those that stand in for them.
const STAND_INS: [(&str, &str); 3] = [
    ("5CDYBwxDZwXnYSp7E39Vy92MVbCMtcK2i953oRxDm9Veko7M", "//Alice"),
    ("5FYwNgYu5Wj7Vv49KtC3gXa1W1dn2BnMBGNKGrLy8pX9i4T7", "//Bob"),
    ("5FQzhS8MRMGNZfCxVJaWu4n4Q6jt53zv2hxYguM4Y5fVkcHZ", "//Ferdie"),
];

/// Whose signatures may have to be made again.
const SIGNERS: [&str; 2] = ["//Alice", "//Ferdie"];

pub(super) fn keypair(uri: &str) -> Keypair {
    Keypair::from_uri(uri).unwrap()
}

/// Puts the development keys in the place of the recorded ones.
pub(super) fn stand_in(text: &str) -> String {
    STAND_INS.iter().fold(text.to_owned(), |text, (recorded, uri)| {
        text.replace(recorded, keypair(uri).hotkey().as_str())
    })
}

/// Returns the first frame of a validator on its way to //Bob.
pub(super) fn authentication(validator: &Keypair, timestamp: i64) -> String {
    let miner = keypair("//Bob");
    let blob = auth_blob(validator.hotkey(), miner.hotkey(), timestamp);
    Down::from(Authenticate {
        validator_hotkey: validator.hotkey().clone(),
        miner_hotkey: miner.hotkey().clone(),
        timestamp,
        signature: validator.sign(&blob).to_hex_prefixed(),
    })
    .encode()
}

/// Returns the receipt by which a validator ends a job that came to nothing.
pub(super) fn last_receipt(validator: &Keypair, job: &JobId, now: OffsetDateTime) -> String {
    let miner = keypair("//Bob");
    let about = About {
        job_uuid: job,
        miner: miner.hotkey(),
        now,
    };
    let work = Work {
        started: now,
        took: time::Duration::ZERO,
        score: 0.0,
        block_numbers: Vec::new(),
    };
    let receipt = sign_finished(validator, about, work).unwrap();
    Down::from(FinishedReceipt {
        payload: receipt.payload,
        signature: receipt.signature,
    })
    .encode()
}

/// Signs a frame of a validator again, as its recorded key did.
pub(super) fn sign_again(text: &str) -> String {
    let Ok(mut message) = serde_json::from_str::<Value>(text) else {
        return text.to_owned();
    };
    let sign = |signer: &Value, blob: Vec<u8>| {
        let signers = SIGNERS.map(keypair);
        let keypair = signers.iter().find(|keypair| signer == keypair.hotkey().as_str());
        Value::String(keypair.unwrap().sign(&blob).to_hex_prefixed())
    };
    match message["message_type"].as_str() {
        Some("ValidatorAuthForMiner") => {
            let hotkey = |key: &str| Hotkey::from(message[key].as_str().unwrap());
            let (validator, miner) = (hotkey("validator_hotkey"), hotkey("miner_hotkey"));
            let blob = auth_blob(&validator, &miner, message["timestamp"].as_i64().unwrap());
            message["signature"] = sign(&message["validator_hotkey"], blob);
        }
        Some("V0InitialJobRequest") => {
            let payload = &message["job_started_receipt_payload"];
            message["job_started_receipt_signature"] =
                sign(&payload["validator_hotkey"], receipt_blob(payload).unwrap());
        }
        Some("V0JobAcceptedReceiptRequest" | "V0JobFinishedReceiptRequest") => {
            let payload = &message["payload"];
            message["signature"] = sign(&payload["validator_hotkey"], receipt_blob(payload).unwrap());
        }
        _ => {}
    }
    message.to_string()
}
