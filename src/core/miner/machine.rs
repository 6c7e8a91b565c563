//! One validator's conversation: what follows from each frame (wire-miner-validator §2 to §6).
//!
//! ```text
//! Waiting ──good auth──▶ Knocking ──admitted──▶ Trusted ──good auth──▶ Knocking …
//!    │                      │                     │
//!    └──anything else───────┴──denied─────────────┴─bad auth──▶ Over
//! ```
//!
//! Signatures are checked here, since checking is pure; what needs the store or other tasks leaves as an
//! [`Effect`]. Where it differs from the reference on purpose is in the table of its tests.
#![warn(clippy::wildcard_enum_match_arm)]

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::door::Denied;
use super::ledger::{Rebuff, short};
use super::stamps::{Stale, Stamp};
use crate::core::crypto::signed::{MessageSignatureError, auth_blob, verify_message};
use crate::core::crypto::{SignatureBytes, VerifyError, verify};
use crate::core::model::job::RejectionReason;
use crate::core::model::receipt::ReceiptPayload;
use crate::core::model::{Hotkey, JobId, Manifest};
use crate::core::net::close_code;
use crate::core::proto::job::{FullJob, GenericError, InitialJob};
use crate::core::proto::validator_miner::{
    self, AUTH_AGE_SECONDS_MAX, AUTH_AHEAD_SECONDS_MAX, Authenticate, Declined, Down, MainHotkey, Up,
};
use crate::core::receipts::{ReceiptError, verify_payload};

/// Bytes of what an answer to a malformed frame tells about it.
const MALFORMED_CHARS_MAX: usize = 500;

/// What the driver has to do; effects are carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Notes a refusal for the operator.
    Note(Box<Rebuff>),
    /// Sends a message.
    Say(Up),
    /// Ends the connection after what was said.
    Close(u16),
    /// Asks whether the validator, which has proved who it is, may come in; the answer is
    /// [`Conversation::on_admission`].
    Admit(Stamp),
    /// Takes the validator's open jobs that have no connection, and says what waits to be said about them.
    Resume,
    /// Finds an executor for a job whose signatures are in order.
    Offer {
        /// The request.
        request: Box<InitialJob>,
        /// The request as received.
        text: String,
    },
    /// Hands the full order to the job's executor.
    Order {
        /// The order.
        order: Box<FullJob>,
        /// The order as received.
        text: String,
    },
    /// Gives a job up whose full order is not the validator's.
    Abandon {
        /// The job.
        job: JobId,
        /// What to tell the validator.
        decline: Declined,
    },
    /// Ends a job that its user cancelled.
    Cancel(JobId),
    /// Countersigns and keeps a receipt whose signature is in order.
    Keep {
        /// The receipt.
        payload: Box<ReceiptPayload>,
        /// The validator's signature.
        signature: String,
    },
}

/// Who talks with whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// The validator that the address of the connection names.
    pub validator: Hotkey,
    /// This miner.
    pub miner: Hotkey,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Over,
    /// Nothing has come yet.
    Waiting,
    /// The first authentication was good, and nobody has said yet whether it is let in.
    Knocking,
    Trusted,
}

/// The conversation with one validator on one connection.
#[derive(Debug)]
pub struct Conversation {
    parties: Parties,
    manifest: Manifest,
    state: State,
}

impl Conversation {
    /// Begins a conversation; nothing is believed yet.
    pub fn new(parties: Parties, manifest: Manifest) -> Self {
        Self {
            parties,
            manifest,
            state: State::Waiting,
        }
    }

    /// Takes over what is offered now.
    pub fn set_manifest(&mut self, manifest: Manifest) {
        self.manifest = manifest;
    }

    /// Tells whether the validator has proved who it is.
    pub fn is_trusted(&self) -> bool {
        matches!(self.state, State::Trusted)
    }

    /// Tells whether nothing more is to be heard.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Returns what follows from a text frame.
    pub fn on_text(&mut self, now: OffsetDateTime, text: String) -> Vec<Effect> {
        match (&self.state, Down::decode(&text)) {
            (State::Over, _) => Vec::new(),
            (_, Ok(Down::Authenticate(auth))) => self.on_authenticate(now, &auth),
            (State::Waiting | State::Knocking, Ok(message)) => {
                self.refuse(NOT_FIRST, json!({"message_type": message.message_type()}))
            }
            (State::Waiting | State::Knocking, Err(error)) => {
                self.end(MALFORMED_FIRST, json!({"frame": short(&text)}), malformed(&error))
            }
            (State::Trusted, Ok(message)) => self.on_message(message, text),
            (State::Trusted, Err(error)) => vec![malformed(&error)],
        }
    }

    /// Returns what follows from a binary frame: no wire has any.
    pub fn on_binary(&mut self) -> Vec<Effect> {
        let answer = malformed(&"the frame is not text");
        match self.state {
            State::Over => Vec::new(),
            State::Waiting | State::Knocking => self.end(MALFORMED_FIRST, json!({"frame": "binary"}), answer),
            State::Trusted => vec![answer],
        }
    }

    /// Returns what follows when the validator has not authenticated in time.
    pub fn on_auth_timeout(&mut self) -> Vec<Effect> {
        match self.state {
            State::Waiting | State::Knocking => self.refuse("no authentication in time", json!({})),
            State::Trusted | State::Over => Vec::new(),
        }
    }

    /// Returns what follows from the answer to [`Effect::Admit`].
    pub fn on_admission(&mut self, admission: Result<(), Denied>) -> Vec<Effect> {
        if self.is_over() {
            return Vec::new();
        }
        match admission {
            Ok(()) => {
                self.state = State::Trusted;
                let manifest = self.manifest.clone();
                let manifest = validator_miner::Manifest { manifest };
                vec![Effect::Say(manifest.into()), Effect::Resume]
            }
            Err(denied @ Denied::Stale(Stale::Used)) => self.refuse(&denied.to_string(), json!({})),
            Err(denied) => {
                let mut effects = self.refuse(&denied.to_string(), json!({}));
                effects.pop();
                effects.push(Effect::Close(close_code::TRY_AGAIN_LATER));
                effects
            }
        }
    }

    fn on_authenticate(&mut self, now: OffsetDateTime, auth: &Authenticate) -> Vec<Effect> {
        match check(&self.parties, now, auth) {
            Ok(stamp) => {
                if matches!(self.state, State::Waiting) {
                    self.state = State::Knocking;
                }
                vec![Effect::Admit(stamp)]
            }
            Err(reason) => self.refuse(&reason, evidence(&self.parties, now, auth)),
        }
    }

    fn refuse(&mut self, reason: &str, evidence: Value) -> Vec<Effect> {
        let validator = &self.parties.validator;
        let words = format!("Validator {validator} not authenticated due to: {reason}");
        self.end(reason, evidence, Effect::Say(GenericError::new(words).into()))
    }

    /// Notes a refusal and says a last word.
    fn end(&mut self, reason: &str, evidence: Value, last: Effect) -> Vec<Effect> {
        self.state = State::Over;
        let note = Effect::Note(Box::new(Rebuff::authentication(reason, evidence)));
        vec![note, last, Effect::Close(close_code::NORMAL)]
    }

    fn on_message(&self, message: Down, text: String) -> Vec<Effect> {
        match message {
            // Handled before it gets here.
            Down::Authenticate(_) => Vec::new(),
            Down::MainHotkey(_) => {
                let answer = MainHotkey {
                    main_hotkey: Some(self.parties.miner.clone()),
                };
                vec![Effect::Say(answer.into())]
            }
            Down::InitialJob(request) => self.on_initial_job(request, text),
            Down::FullJob(order) => self.on_full_job(order, text),
            Down::AcceptedReceipt(receipt) => {
                self.on_receipt(ReceiptPayload::Accepted(receipt.payload), receipt.signature)
            }
            Down::FinishedReceipt(receipt) => {
                self.on_receipt(ReceiptPayload::Finished(receipt.payload), receipt.signature)
            }
            Down::JobCancel(cancel) => vec![Effect::Cancel(cancel.job_uuid)],
            Down::GenericError(error) => {
                let details = error.details.unwrap_or_default();
                tracing::warn!(
                    validator = %self.parties.validator,
                    details = shorten(&details),
                    "the validator complains"
                );
                Vec::new()
            }
        }
    }

    fn on_initial_job(&self, request: InitialJob, text: String) -> Vec<Effect> {
        let decline = |reason: RejectionReason, code, message: String, evidence| {
            let rebuff = Rebuff::offer(&request, code, message.as_str(), evidence);
            vec![
                Effect::Note(Box::new(rebuff)),
                Effect::Say(declined(request.job_uuid.clone(), reason, message).into()),
            ]
        };
        if let Err(error) = self.check_message(&text) {
            let signature = request.validator_signature.as_deref().map(short);
            let covered = json!({"signed": "the whole request without validator_signature", "bytes": text.len(),
                "signature": signature});
            let reason = RejectionReason::InvalidSignature;
            return decline(reason, reason.as_str(), error.to_string(), covered);
        }
        if let Err((reason, message)) = self.check_started_receipt(&request) {
            let covered = json!({"signed": &request.job_started_receipt_payload,
                "signature": short(&request.job_started_receipt_signature)});
            return decline(reason, reason.as_str(), message, covered);
        }
        if !self.manifest.lists(request.executor_class) {
            // Not `busy`, which would claim an occupation that receipts do not show; no other reason of the wire
            // says what is the case.
            let message = format!("executor class {} is not in the manifest", request.executor_class);
            let evidence = json!({"manifest": &self.manifest});
            return decline(RejectionReason::Unknown, "not_in_manifest", message, evidence);
        }
        vec![Effect::Offer {
            request: Box::new(request),
            text,
        }]
    }

    fn check_started_receipt(&self, request: &InitialJob) -> Result<(), (RejectionReason, String)> {
        let payload = &request.job_started_receipt_payload;
        let invalid = |message: &str| Err((RejectionReason::InvalidReceipt, message.to_owned()));
        if payload.job_uuid != request.job_uuid {
            return invalid("receipt is for another job");
        }
        if payload.executor_class != request.executor_class {
            return invalid("receipt is for another executor class");
        }
        let Parties { validator, miner } = &self.parties;
        let signature = &request.job_started_receipt_signature;
        let payload = ReceiptPayload::Started(payload.clone());
        verify_payload(&payload, signature, miner, validator).map_err(|error| {
            let reason = match error {
                ReceiptError::ValidatorSignature(_) => RejectionReason::InvalidSignature,
                ReceiptError::Bounds(_)
                | ReceiptError::WrongMiner(_)
                | ReceiptError::WrongValidator(_)
                | ReceiptError::MinerSignature(_)
                | ReceiptError::Canonical(_) => RejectionReason::InvalidReceipt,
            };
            (reason, error.to_string())
        })
    }

    fn on_full_job(&self, order: FullJob, text: String) -> Vec<Effect> {
        match self.check_message(&text) {
            Ok(()) => vec![Effect::Order {
                order: Box::new(order),
                text,
            }],
            Err(error) => vec![Effect::Abandon {
                decline: declined(
                    order.job_uuid.clone(),
                    RejectionReason::InvalidSignature,
                    error.to_string(),
                ),
                job: order.job_uuid,
            }],
        }
    }

    /// Checks the signature of a job message; validators older than wheel 0.0.27 send none.
    fn check_message(&self, text: &str) -> Result<(), MessageSignatureError> {
        match verify_message(&self.parties.validator, text) {
            Err(MessageSignatureError::Missing) => Ok(()),
            other => other,
        }
    }

    fn on_receipt(&self, payload: ReceiptPayload, signature: String) -> Vec<Effect> {
        let Parties { validator, miner } = &self.parties;
        match verify_payload(&payload, &signature, miner, validator) {
            Ok(()) => vec![Effect::Keep {
                payload: Box::new(payload),
                signature,
            }],
            Err(error) => {
                // The wire has no answer to a receipt, good or bad.
                tracing::warn!(%validator, job = %payload.job_uuid(), %error, "receipt refused");
                let evidence = json!({"signed": &payload, "signature": short(&signature)});
                let rebuff = Rebuff::receipt(payload.job_uuid(), error.to_string(), evidence);
                vec![Effect::Note(Box::new(rebuff))]
            }
        }
    }
}

/// Makes the words of a refusal at the door (wire-miner-validator §2).
pub fn unknown_validator(validator: &Hotkey) -> Up {
    GenericError::new(format!("Unknown validator: {validator}")).into()
}

/// Makes the words for a validator that is registered but may not validate.
pub fn inactive_validator(validator: &Hotkey) -> Up {
    GenericError::new(format!("Inactive validator: {validator}")).into()
}

/// Makes a refusal of a job that needs no receipts.
pub fn declined(job_uuid: JobId, reason: RejectionReason, message: String) -> Declined {
    Declined {
        job_uuid,
        message,
        reason,
        receipts: Vec::new(),
        context: None,
    }
}

/// Said to a validator that begins with something else; all known validators begin with it.
const NOT_FIRST: &str = "the first message is not the authentication";

/// Noted of a validator whose first frame cannot be read; it hears what is wrong with the frame.
const MALFORMED_FIRST: &str = "the first message is malformed";

/// The checks of authentication, in the order of the reference.
fn check(parties: &Parties, now: OffsetDateTime, auth: &Authenticate) -> Result<Stamp, String> {
    let now = now.unix_timestamp();
    if auth.timestamp < now.saturating_sub(AUTH_AGE_SECONDS_MAX) {
        let age = now.saturating_sub(auth.timestamp);
        return Err(format!(
            "msg too old (signed {age} s ago by the miner's clock, {AUTH_AGE_SECONDS_MAX} s are allowed)"
        ));
    }
    if auth.timestamp > now.saturating_add(AUTH_AHEAD_SECONDS_MAX) {
        let ahead = auth.timestamp.saturating_sub(now);
        return Err(format!(
            "msg too new (signed {ahead} s ahead of the miner's clock, {AUTH_AHEAD_SECONDS_MAX} s are allowed)"
        ));
    }
    let Parties { validator, miner } = parties;
    if &auth.miner_hotkey != miner {
        return Err(format!(
            "wrong miner hotkey ({miner}!={})",
            theirs(&auth.miner_hotkey)
        ));
    }
    if &auth.validator_hotkey != validator {
        return Err(format!(
            "wrong validator hotkey ({validator}!={})",
            theirs(&auth.validator_hotkey)
        ));
    }
    let blob = auth_blob(validator, miner, auth.timestamp);
    let verified = SignatureBytes::parse_hex(&auth.signature)
        .map_err(VerifyError::from)
        .and_then(|signature| verify(validator, &blob, &signature).map(|()| signature));
    match verified {
        Ok(signature) => Ok(Stamp {
            timestamp: auth.timestamp,
            signature,
        }),
        Err(error) => {
            tracing::debug!(%validator, %error, "authentication refused");
            Err("Signature mismatches".to_owned())
        }
    }
}

/// Returns what shows an operator why an authentication was refused: what is signed, by whom, and the clocks.
fn evidence(parties: &Parties, now: OffsetDateTime, auth: &Authenticate) -> Value {
    let Parties { validator, miner } = parties;
    json!({
        "signed": format!("{}:{}:{}", theirs(&auth.validator_hotkey), theirs(&auth.miner_hotkey), auth.timestamp),
        "signature": short(&auth.signature),
        "expected_validator": validator,
        "expected_miner": miner,
        // Positive when the validator's clock, or its message, is behind ours.
        "age_seconds": now.unix_timestamp().saturating_sub(auth.timestamp),
    })
}

/// Returns a hotkey that a stranger claims, at a length that can be sent back.
fn theirs(hotkey: &Hotkey) -> String {
    shorten(hotkey.as_str())
}

fn malformed(reason: &dyn std::fmt::Display) -> Effect {
    Effect::Say(GenericError::malformed(shorten(&reason.to_string())).into())
}

fn shorten(text: &str) -> String {
    text.chars().take(MALFORMED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::crypto::Keypair;
    use crate::core::model::ExecutorClass;

    const NOW: i64 = 1_800_000_000;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }

    fn alice() -> Keypair {
        Keypair::from_uri("//Alice").unwrap()
    }

    fn bob() -> Keypair {
        Keypair::from_uri("//Bob").unwrap()
    }

    fn conversation() -> Conversation {
        let parties = Parties {
            validator: alice().hotkey().clone(),
            miner: bob().hotkey().clone(),
        };
        Conversation::new(parties, Manifest::from_iter([(ExecutorClass::AlwaysOnTest, 2)]))
    }

    fn auth(timestamp: i64) -> String {
        let (alice, bob) = (alice(), bob());
        let blob = auth_blob(alice.hotkey(), bob.hotkey(), timestamp);
        let auth = Authenticate {
            validator_hotkey: alice.hotkey().clone(),
            miner_hotkey: bob.hotkey().clone(),
            timestamp,
            signature: alice.sign(&blob).to_hex_prefixed(),
        };
        Down::from(auth).encode()
    }

    fn question() -> String {
        Down::from(MainHotkey { main_hotkey: None }).encode()
    }

    fn words(effects: &[Effect]) -> Vec<&'static str> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Note(_) => None,
                Effect::Say(message) => Some(message.message_type()),
                Effect::Close(_) => Some("close"),
                Effect::Admit(_) => Some("admit"),
                Effect::Resume => Some("resume"),
                Effect::Offer { .. } => Some("offer"),
                Effect::Order { .. } => Some("order"),
                Effect::Abandon { .. } => Some("abandon"),
                Effect::Cancel(_) => Some("cancel"),
                Effect::Keep { .. } => Some("keep"),
            })
            .collect()
    }

    fn trusted() -> Conversation {
        let mut conversation = conversation();
        conversation.on_text(now(), auth(NOW));
        conversation.on_admission(Ok(()));
        conversation
    }

    #[test]
    fn the_manifest_comes_first_then_the_open_jobs() {
        let mut conversation = conversation();
        assert_eq!(words(&conversation.on_text(now(), auth(NOW))), ["admit"]);
        assert!(!conversation.is_trusted());
        let effects = conversation.on_admission(Ok(()));
        assert_eq!(words(&effects), ["V0ExecutorManifestRequest", "resume"]);
        assert!(conversation.is_trusted());
        // Again on the same connection.
        assert_eq!(words(&conversation.on_text(now(), auth(NOW))), ["admit"]);
        let effects = conversation.on_admission(Ok(()));
        assert_eq!(words(&effects), ["V0ExecutorManifestRequest", "resume"]);
    }

    fn said(effects: &[Effect]) -> &str {
        match effects {
            [
                Effect::Note(_),
                Effect::Say(Up::GenericError(GenericError { details })),
                ..,
            ] => details.as_deref().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stamp_may_be_ten_seconds_old_or_twelve_ahead_and_a_refusal_tells_the_skew() {
        for (timestamp, refusal) in [
            (NOW - 10, None),
            (
                NOW - 11,
                Some("msg too old (signed 11 s ago by the miner's clock, 10 s are allowed)"),
            ),
            (NOW + 12, None),
            (
                NOW + 13,
                Some("msg too new (signed 13 s ahead of the miner's clock, 12 s are allowed)"),
            ),
            (NOW + 86_400, Some("msg too new (signed 86400 s ahead of")),
            (i64::MIN, Some("msg too old (signed ")),
            (i64::MAX, Some("msg too new (signed ")),
        ] {
            let mut conversation = conversation();
            let effects = conversation.on_text(now(), auth(timestamp));
            match refusal {
                None => assert_eq!(words(&effects), ["admit"], "{timestamp}"),
                Some(refusal) => {
                    let validator = alice().hotkey().clone();
                    let expected = format!("Validator {validator} not authenticated due to: {refusal}");
                    assert!(said(&effects).starts_with(&expected), "{effects:?}");
                    assert_eq!(words(&effects), ["GenericError", "close"]);
                    assert!(conversation.is_over());
                }
            }
        }
    }

    #[test]
    fn who_is_denied_hears_why_and_when_to_come_again_by_the_close_code() {
        let wait = std::time::Duration::from_millis(2500);
        for (denied, reason, code) in [
            (
                Denied::Stale(Stale::Used),
                "msg replayed (this signature was used before)",
                1000,
            ),
            (Denied::TooMany, "too many connections (close some first)", 1013),
            (
                Denied::TooFast { wait },
                "too many connections (again in 3 s)",
                1013,
            ),
        ] {
            let mut conversation = conversation();
            conversation.on_text(now(), auth(NOW));
            let effects = conversation.on_admission(Err(denied));
            assert!(said(&effects).ends_with(reason), "{effects:?}");
            assert_eq!(effects.last(), Some(&Effect::Close(code)));
            assert!(conversation.is_over());
        }
    }

    #[test]
    fn after_a_refusal_nothing_is_heard() {
        let mut conversation = conversation();
        conversation.on_text(now(), auth(NOW - 100));
        assert_eq!(conversation.on_text(now(), auth(NOW)), []);
        assert_eq!(conversation.on_text(now(), "garbage".to_owned()), []);
        assert_eq!(conversation.on_binary(), []);
        assert_eq!(conversation.on_auth_timeout(), []);
        assert_eq!(conversation.on_admission(Ok(())), []);
    }

    #[test]
    fn whoever_begins_with_anything_else_is_refused() {
        let mut asking = conversation();
        let effects = asking.on_text(now(), question());
        assert!(
            said(&effects).ends_with("not authenticated due to: the first message is not the authentication")
        );
        let mut babbling = conversation();
        let effects = babbling.on_text(now(), "garbage".to_owned());
        assert!(said(&effects).starts_with("Malformed message"));
        assert_eq!(words(&effects), ["GenericError", "close"]);
        assert_eq!(words(&conversation().on_binary()), ["GenericError", "close"]);
    }

    #[test]
    fn who_does_not_authenticate_in_time_is_refused() {
        assert_eq!(
            words(&conversation().on_auth_timeout()),
            ["GenericError", "close"]
        );
        assert_eq!(trusted().on_auth_timeout(), []);
    }

    #[test]
    fn the_answer_to_a_malformed_frame_is_short_and_begins_as_the_reference_does() {
        let mut conversation = trusted();
        let frame = format!("{{\"message_type\":\"{}\"}}", "x".repeat(100_000));
        for text in [frame, "PING".to_owned(), String::new()] {
            let effects = conversation.on_text(now(), text);
            let [
                Effect::Say(Up::GenericError(GenericError {
                    details: Some(details),
                })),
            ] = &effects[..]
            else {
                panic!("{effects:?}")
            };
            assert!(details.starts_with("Malformed message"), "{details}");
            assert!(details.len() < 600, "{}", details.len());
        }
        assert_eq!(words(&conversation.on_binary()), ["GenericError"]);
    }

    #[test]
    fn the_vectors_of_authentication_are_believed_as_marked() {
        let text = include_str!("../../../tests/golden/validator_auth.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() > 3);
        for case in cases {
            let message = &case["message"];
            let word = |key: &str| Hotkey::new(message[key].as_str().unwrap());
            let parties = Parties {
                validator: word("validator_hotkey"),
                miner: word("miner_hotkey"),
            };
            let made = message["timestamp"].as_i64().unwrap();
            let now = OffsetDateTime::from_unix_timestamp(made).unwrap();
            let mut conversation = Conversation::new(parties, Manifest::default());
            let effects = conversation.on_text(now, message.to_string());
            assert_eq!(
                words(&effects) == ["admit"],
                case["verify"].as_bool().unwrap(),
                "{}",
                case["name"]
            );
        }
    }

    /// The miner of the recordings, but for those of the reference validator.
    const RECORDED_MINER: &str = "5FYwNgYu5Wj7Vv49KtC3gXa1W1dn2BnMBGNKGrLy8pX9i4T7";

    /// Where the words to a validator differ from the recordings: ours, theirs.
    ///
    /// | recorded | here | why |
    /// |---|---|---|
    /// | `msg too old` | the same, and by how much | anchors S50, P20: the measured skew (traces oldauth, "auth 11 s old") |
    /// | a stamp of tomorrow passes | `msg too new (…)`, 1000 | B11: a two-sided window, 12 s ahead ("auth timestamp one day in the future is accepted") |
    /// | a stamp passes again | `msg replayed (…)`, 1000 | B11, S50: a stamp is good once (no recording repeats one) |
    /// | frames before authentication wait for it | refused, 1000 | B12, S48: one message before authentication ("messages sent before auth are queued and answered after the manifest") |
    /// | a malformed first frame is answered | answered, then 1000 | the same (no recording) |
    /// | a first frame of any size | above 4 KiB: 1009 | B12, S48 (no recording) |
    /// | silence before authentication | `no authentication in time`, 1000 after 10 s | S47 (no recording) |
    /// | a signature that is no hex: 1011 | `Signature mismatches`, 1000 | a refusal has words ("auth undecodable signature") |
    /// | `validator_blacklisted` without words | the operator's reason, and until when | issue 4: no rejection without words ("blacklisted validator") |
    /// | any number of connections and jobs | `too many connections (…)`, 1013; decline `too many jobs (…)` | B14, S51, far above what validators do |
    /// | a started receipt with a bad signature is only logged | declines the job | a receipt that proves nothing excuses nothing |
    /// | class absent from the manifest, job twice, id that is no UUID, receipt of an unknown job: 1011 | decline or error, and the connection stays | errors have words |
    const DIFFERENCES: &[(&str, &str)] = &[(
        "msg too old (signed 99 s ago by the miner's clock, 10 s are allowed)",
        "msg too old",
    )];

    /// What the miner of a recording says without help of store and executor, and what the conversation says.
    ///
    /// Of a malformed frame's answer only the beginning is compared: the rest is pydantic's.
    fn replay(trace: &str) -> (Vec<String>, Vec<String>, Vec<&'static str>) {
        let frames: Vec<Value> = trace
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let auths = || {
            frames
                .iter()
                .filter(|frame| frame["msg"]["message_type"] == "ValidatorAuthForMiner")
        };
        let first = &auths().next().unwrap()["msg"];
        let text = |value: &Value| Hotkey::new(value.as_str().unwrap());
        let is_of_the_reference = first["miner_hotkey"] != first["validator_hotkey"];
        let parties = Parties {
            validator: text(&first["validator_hotkey"]),
            miner: if is_of_the_reference {
                text(&first["miner_hotkey"])
            } else {
                Hotkey::from(RECORDED_MINER)
            },
        };
        let newest = auths()
            .map(|auth| auth["msg"]["timestamp"].as_i64().unwrap())
            .max();
        let now = OffsetDateTime::from_unix_timestamp(newest.unwrap()).unwrap();
        let manifest = Manifest::from_iter([(ExecutorClass::AlwaysOnLlmA6000, 1)]);
        let mut conversation = Conversation::new(parties, manifest);
        let (mut recorded, mut said, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        let shown = |text: String| {
            let differs = DIFFERENCES.iter().find(|(ours, _)| text.contains(ours));
            let text = differs.map_or(text.clone(), |(ours, theirs)| text.replace(ours, theirs));
            match text.find("Malformed message") {
                Some(_) => "Malformed message".to_owned(),
                None => text,
            }
        };
        for frame in &frames {
            let message = &frame["msg"];
            match (frame["dir"].as_str().unwrap(), message["message_type"].as_str()) {
                ("validator->miner", _) => {
                    let text = message["_raw"]
                        .as_str()
                        .map_or_else(|| message.to_string(), str::to_owned);
                    let mut effects = conversation.on_text(now, text);
                    if matches!(effects[..], [Effect::Admit(_)]) {
                        effects = conversation.on_admission(Ok(()));
                    }
                    for effect in effects {
                        if let Effect::Say(message) = effect {
                            said.push(shown(message.encode()));
                        } else if let Effect::Close(code) = effect {
                            said.push(format!("close {code}"));
                        } else {
                            asked.extend(words(&[effect]));
                        }
                    }
                }
                ("close", _) if conversation.is_over() => recorded.push(format!("close {}", message["code"])),
                (_, Some("V0ExecutorManifestRequest" | "GenericError" | "V0MainHotkeyMessage")) => {
                    recorded.push(shown(message.to_string()));
                }
                _ => {}
            }
        }
        (recorded, said, asked)
    }

    macro_rules! trace {
        ($name:literal) => {
            include_str!(concat!(
                "../../../tests/golden/traces/miner-validator-",
                $name,
                ".jsonl"
            ))
        };
    }

    #[test]
    fn recorded_sessions_are_answered_word_for_word() {
        let cases: [(&str, &str, &[&str]); 9] = [
            ("badauth", trace!("badauth"), &[]),
            ("oldauth", trace!("oldauth"), &["resume"]),
            ("garbage", trace!("garbage"), &["resume"]),
            ("mainhotkey", trace!("mainhotkey"), &["resume"]),
            (
                "organic",
                trace!("organic"),
                &["resume", "offer", "keep", "order", "keep"],
            ),
            (
                "organic-via-nginx",
                trace!("organic-via-nginx"),
                &["resume", "offer", "keep", "order", "keep"],
            ),
            (
                "job-failed",
                trace!("job-failed"),
                &["resume", "offer", "keep", "order", "keep"],
            ),
            ("busy", trace!("busy"), &["resume", "offer", "keep"]),
            (
                "streaming",
                trace!("streaming"),
                &["resume", "offer", "keep", "order", "keep"],
            ),
        ];
        for (name, trace, expected) in cases {
            let (recorded, said, asked) = replay(trace);
            assert_eq!(said, recorded, "{name}");
            assert_eq!(asked, expected, "{name}");
        }
    }

    #[test]
    fn the_recorded_stranger_hears_the_same_words() {
        let trace = trace!("unknown");
        let hotkey = Hotkey::from("5FQzhS8MRMGNZfCxVJaWu4n4Q6jt53zv2hxYguM4Y5fVkcHZ");
        let said: Value = serde_json::from_str(&unknown_validator(&hotkey).encode()).unwrap();
        let recorded: Value = serde_json::from_str(trace.lines().nth(1).unwrap()).unwrap();
        assert_eq!(said, recorded["msg"]);
    }
}
