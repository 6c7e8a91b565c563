//! One validator's conversation: what follows from each frame (wire-miner-validator §2 to §6).
//!
//! ```text
//! Waiting ──good auth──▶ Trusted ──good auth──▶ Trusted
//!    │ (frames queue)       │
//!    └────────bad auth──────┴──▶ Over
//! ```
//!
//! Signatures are checked here, since checking is pure; what needs the store or other tasks leaves as an
//! [`Effect`]. Three things differ from the reference on purpose: a started receipt with a bad signature or
//! values out of bounds declines the job (the reference only logs it), so does a wrong `validator_signature`, and
//! a signature that cannot be read gets the words of one that does not match (the reference closes with 1011).
#![warn(clippy::wildcard_enum_match_arm)]

use time::OffsetDateTime;

use crate::core::crypto::signed::{MessageSignatureError, auth_blob, verify_message};
use crate::core::crypto::verify_hex;
use crate::core::model::job::RejectionReason;
use crate::core::model::receipt::ReceiptPayload;
use crate::core::model::{Hotkey, JobId, Manifest};
use crate::core::net::close_code;
use crate::core::proto::job::{FullJob, GenericError, InitialJob};
use crate::core::proto::validator_miner::{
    self, AUTH_AGE_SECONDS_MAX, Authenticate, Declined, Down, MainHotkey, Up,
};
use crate::core::receipts::{ReceiptError, verify_payload};

/// Frames kept from a validator that has not authenticated. All known validators authenticate first, and what
/// follows their first frame waits in the link while its signature is checked, so the queue is for those that
/// are out of order.
pub const QUEUED_FRAMES_MAX: usize = 16;

/// Bytes of these frames together: one order with an inline volume of ordinary size.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of what an answer to a malformed frame tells about it.
const MALFORMED_CHARS_MAX: usize = 500;

/// What the driver has to do; effects are carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Sends a message.
    Say(Up),
    /// Ends the connection after what was said.
    Close(u16),
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
    Waiting {
        queue: Vec<String>,
        bytes: usize,
    },
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
            state: State::Waiting {
                queue: Vec::new(),
                bytes: 0,
            },
        }
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
        if self.is_over() {
            return Vec::new();
        }
        match Down::decode(&text) {
            Ok(Down::Authenticate(auth)) => self.on_authenticate(now, &auth),
            // Also before authentication, as the reference does: the sender may be debugging.
            Err(error) => vec![malformed(&error)],
            Ok(message) => match &mut self.state {
                State::Waiting { queue, bytes } => {
                    *bytes = bytes.saturating_add(text.len());
                    if queue.len() >= QUEUED_FRAMES_MAX || *bytes > QUEUED_BYTES_MAX {
                        return self.refuse("too much was sent before authentication");
                    }
                    queue.push(text);
                    Vec::new()
                }
                State::Trusted => self.on_message(message, text),
                State::Over => Vec::new(),
            },
        }
    }

    /// Returns what follows from a binary frame: no wire has any.
    pub fn on_binary(&self) -> Vec<Effect> {
        match self.state {
            State::Over => Vec::new(),
            State::Waiting { .. } | State::Trusted => vec![malformed(&"the frame is not text")],
        }
    }

    /// Returns what follows when the validator has not authenticated in time.
    pub fn on_auth_timeout(&mut self) -> Vec<Effect> {
        match self.state {
            State::Waiting { .. } => self.refuse("no authentication in time"),
            State::Trusted | State::Over => Vec::new(),
        }
    }

    fn on_authenticate(&mut self, now: OffsetDateTime, auth: &Authenticate) -> Vec<Effect> {
        if let Err(reason) = check(&self.parties, now, auth) {
            return self.refuse(&reason);
        }
        let manifest = validator_miner::Manifest {
            manifest: self.manifest.clone(),
        };
        let mut effects = vec![Effect::Say(manifest.into())];
        if let State::Waiting { queue, .. } = std::mem::replace(&mut self.state, State::Trusted) {
            for text in queue {
                // What cannot be read was answered when it came.
                if let Ok(message) = Down::decode(&text) {
                    effects.extend(self.on_message(message, text));
                }
            }
        }
        effects.push(Effect::Resume);
        effects
    }

    fn refuse(&mut self, reason: &str) -> Vec<Effect> {
        self.state = State::Over;
        let validator = &self.parties.validator;
        vec![
            Effect::Say(
                GenericError::new(format!(
                    "Validator {validator} not authenticated due to: {reason}"
                ))
                .into(),
            ),
            Effect::Close(close_code::NORMAL),
        ]
    }

    fn on_message(&self, message: Down, text: String) -> Vec<Effect> {
        match message {
            // Handled before it gets here; a queue never holds one.
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
        let decline = |reason, message: String| {
            vec![Effect::Say(
                declined(request.job_uuid.clone(), reason, message).into(),
            )]
        };
        if let Err(error) = self.check_message(&text) {
            return decline(RejectionReason::InvalidSignature, error.to_string());
        }
        if let Err((reason, message)) = self.check_started_receipt(&request) {
            return decline(reason, message);
        }
        if !self.manifest.lists(request.executor_class) {
            // Not `busy`, which would claim an occupation that receipts do not show; no other reason of the wire
            // says what is the case.
            let message = format!("executor class {} is not in the manifest", request.executor_class);
            return decline(RejectionReason::Unknown, message);
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
                Vec::new()
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

/// The checks of authentication, in the order of the reference.
fn check(parties: &Parties, now: OffsetDateTime, auth: &Authenticate) -> Result<(), String> {
    // No upper bound: the clocks of validators run ahead, and the reference lets them.
    if auth.timestamp < now.unix_timestamp().saturating_sub(AUTH_AGE_SECONDS_MAX) {
        return Err("msg too old".to_owned());
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
    verify_hex(validator, &blob, &auth.signature).map_err(|error| {
        tracing::debug!(%validator, %error, "authentication refused");
        "Signature mismatches".to_owned()
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
