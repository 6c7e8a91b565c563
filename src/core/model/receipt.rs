//! Receipts: what validator and miner sign about a job (wire-miner-validator §6).
//!
//! Both sign the same bytes: the payload as sorted, spaced JSON (`crypto::signed`). Bounds and signatures are
//! checked in the `receipts` room; here is only the shape.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use time::OffsetDateTime;

use super::{ExecutorClass, Hotkey, JobId, Timestamp, lenient};

/// Seconds of storing that share a page (wire-receipts-http §1).
pub const PAGE_SECONDS: i64 = 300;

/// The newest pages, which may still grow (wire-receipts-http §1).
pub const ACTIVE_PAGES: i64 = 2;

/// Returns the number of the page of receipts that are stored at this moment.
pub fn page_at(moment: OffsetDateTime) -> i64 {
    moment.unix_timestamp().div_euclid(PAGE_SECONDS)
}

/// Declares a field that always holds one word: written always, defaulted when absent, any other word refused.
macro_rules! literal {
    ($(#[$doc:meta])* $name:ident = $word:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name;

        impl $name {
            /// The word.
            pub const WORD: &'static str = $word;
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($word)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "const": $word })
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = <String as serde::Deserialize>::deserialize(deserializer)?;
                if word == $word {
                    Ok(Self)
                } else {
                    Err(serde::de::Error::custom(format_args!("expected {:?}, got {word:?}", $word)))
                }
            }
        }
    };
}
pub(crate) use literal;

literal!(
    /// The type word of a started receipt.
    StartedWord = "JobStartedReceipt"
);
literal!(
    /// The type word of an accepted receipt.
    AcceptedWord = "JobAcceptedReceipt"
);
literal!(
    /// The type word of a finished receipt.
    FinishedWord = "JobFinishedReceipt"
);

/// Says that a validator asked a miner to start a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStarted {
    /// The job.
    pub job_uuid: JobId,
    /// The miner that shall run it.
    pub miner_hotkey: Hotkey,
    /// The validator that asks.
    pub validator_hotkey: Hotkey,
    /// When this receipt was made.
    pub timestamp: Timestamp,
    /// Always `JobStartedReceipt`.
    #[serde(default)]
    pub receipt_type: StartedWord,
    /// The executor class that is taken.
    pub executor_class: ExecutorClass,
    /// Whether a user asked for the job.
    #[serde(deserialize_with = "lenient::boolean")]
    pub is_organic: bool,
    /// For how many seconds it proves that an executor is taken.
    #[serde(deserialize_with = "lenient::integer")]
    pub ttl: i64,
}

/// Says that the miner accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobAccepted {
    /// The job.
    pub job_uuid: JobId,
    /// The miner that runs it.
    pub miner_hotkey: Hotkey,
    /// The validator that asked.
    pub validator_hotkey: Hotkey,
    /// When this receipt was made.
    pub timestamp: Timestamp,
    /// Always `JobAcceptedReceipt`.
    #[serde(default)]
    pub receipt_type: AcceptedWord,
    /// When the miner's answer came.
    pub time_accepted: Timestamp,
    /// For how many seconds it proves that an executor is taken.
    #[serde(deserialize_with = "lenient::integer")]
    pub ttl: i64,
}

/// Says that the job is over and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobFinished {
    /// The job.
    pub job_uuid: JobId,
    /// The miner that ran it.
    pub miner_hotkey: Hotkey,
    /// The validator that asked.
    pub validator_hotkey: Hotkey,
    /// When this receipt was made.
    pub timestamp: Timestamp,
    /// Always `JobFinishedReceipt`.
    #[serde(default)]
    pub receipt_type: FinishedWord,
    /// When the validator began to connect.
    pub time_started: Timestamp,
    /// How long it took, in microseconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub time_took_us: i64,
    /// The score as text, six decimals.
    pub score_str: String,
    /// The allowance blocks that pay for it.
    #[serde(default, deserialize_with = "lenient::integers")]
    pub block_numbers: Vec<i64>,
}

/// Any receipt payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptPayload {
    /// A job was started.
    Started(JobStarted),
    /// A job was accepted.
    Accepted(JobAccepted),
    /// A job is over.
    Finished(JobFinished),
}

impl ReceiptPayload {
    /// Returns the job.
    pub fn job_uuid(&self) -> &JobId {
        match self {
            Self::Started(payload) => &payload.job_uuid,
            Self::Accepted(payload) => &payload.job_uuid,
            Self::Finished(payload) => &payload.job_uuid,
        }
    }

    /// Returns the miner.
    pub fn miner_hotkey(&self) -> &Hotkey {
        match self {
            Self::Started(payload) => &payload.miner_hotkey,
            Self::Accepted(payload) => &payload.miner_hotkey,
            Self::Finished(payload) => &payload.miner_hotkey,
        }
    }

    /// Returns the validator.
    pub fn validator_hotkey(&self) -> &Hotkey {
        match self {
            Self::Started(payload) => &payload.validator_hotkey,
            Self::Accepted(payload) => &payload.validator_hotkey,
            Self::Finished(payload) => &payload.validator_hotkey,
        }
    }

    /// Returns when the receipt was made.
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Self::Started(payload) => payload.timestamp,
            Self::Accepted(payload) => payload.timestamp,
            Self::Finished(payload) => payload.timestamp,
        }
    }

    /// Returns the type word.
    pub const fn receipt_type(&self) -> &'static str {
        match self {
            Self::Started(_) => StartedWord::WORD,
            Self::Accepted(_) => AcceptedWord::WORD,
            Self::Finished(_) => FinishedWord::WORD,
        }
    }
}

impl Serialize for ReceiptPayload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Started(payload) => payload.serialize(serializer),
            Self::Accepted(payload) => payload.serialize(serializer),
            Self::Finished(payload) => payload.serialize(serializer),
        }
    }
}

impl JsonSchema for ReceiptPayload {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReceiptPayload".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            generator.subschema_for::<JobStarted>(),
            generator.subschema_for::<JobAccepted>(),
            generator.subschema_for::<JobFinished>(),
        ]})
    }
}

impl<'de> Deserialize<'de> for ReceiptPayload {
    /// The type word decides, and is required here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let word = value
            .get("receipt_type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        match word.as_str() {
            StartedWord::WORD => serde_json::from_value(value).map(Self::Started),
            AcceptedWord::WORD => serde_json::from_value(value).map(Self::Accepted),
            FinishedWord::WORD => serde_json::from_value(value).map(Self::Finished),
            _ => return Err(D::Error::custom(format_args!("unknown receipt_type {word:?}"))),
        }
        .map_err(D::Error::custom)
    }
}

/// A payload with both signatures, as a miner publishes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// What is signed.
    pub payload: ReceiptPayload,
    /// The validator's signature, `0x` and 128 hex digits.
    pub validator_signature: String,
    /// The miner's signature, `0x` and 128 hex digits.
    pub miner_signature: String,
}
