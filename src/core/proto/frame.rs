//! Frames: one JSON object each, told apart by `message_type`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The key that tells messages apart.
pub const MESSAGE_TYPE: &str = "message_type";

/// Why a frame is no message of its wire and direction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The text is no JSON.
    #[error("the frame is no JSON")]
    NotJson(#[source] serde_json::Error),
    /// The JSON is no object.
    #[error("the frame is no JSON object")]
    NotAnObject,
    /// The object does not say what it is.
    #[error("the frame has no message_type")]
    NoMessageType,
    /// The word is unknown on this wire in this direction.
    #[error("unknown message_type {0:?}")]
    UnknownMessageType(String),
    /// The fields do not fit the type.
    #[error("invalid {message_type}: {source}")]
    Invalid {
        /// What the frame says it is.
        message_type: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// A message that can be a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Its `message_type`.
    const TYPE: &'static str;

    /// How many keys come before `message_type` on the wire. The reference writes fields of base models first.
    fn keys_before_type(&self) -> usize {
        0
    }
}

/// Splits a frame into its `message_type` and the other keys.
pub(crate) fn open(text: &str) -> Result<(String, Map<String, Value>), DecodeError> {
    let Value::Object(mut fields) = serde_json::from_str(text).map_err(DecodeError::NotJson)? else {
        return Err(DecodeError::NotAnObject);
    };
    match fields.shift_remove(MESSAGE_TYPE) {
        Some(Value::String(message_type)) => Ok((message_type, fields)),
        Some(_) | None => Err(DecodeError::NoMessageType),
    }
}

/// Reads the fields of one message.
pub(crate) fn read<M: Message>(fields: Map<String, Value>) -> Result<M, DecodeError> {
    serde_json::from_value(Value::Object(fields)).map_err(|source| DecodeError::Invalid {
        message_type: M::TYPE.to_owned(),
        source,
    })
}

/// Returns a message as the ordered object that its frame holds.
pub fn to_object<M: Message>(message: &M) -> Map<String, Value> {
    let tag = (MESSAGE_TYPE.to_owned(), Value::String(M::TYPE.to_owned()));
    let Ok(Value::Object(fields)) = serde_json::to_value(message) else {
        debug_assert!(false, "{} serialises to an object", M::TYPE);
        return Map::from_iter([tag]);
    };
    let before = message.keys_before_type();
    let mut fields = fields.into_iter();
    let mut object = Map::with_capacity(fields.len() + 1);
    object.extend(fields.by_ref().take(before));
    object.extend([tag]);
    object.extend(fields);
    object
}

/// Writes a message as compact JSON with raw UTF-8, the form of every frame but the facilitator's pushes.
pub fn write<M: Message>(message: &M) -> String {
    Value::Object(to_object(message)).to_string()
}

/// Declares the messages of one wire in one direction.
macro_rules! direction {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident($message:ty),)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($message),)+
        }

        impl $name {
            /// Reads a frame.
            pub fn decode(text: &str) -> Result<Self, $crate::core::proto::frame::DecodeError> {
                use $crate::core::proto::frame::{self, DecodeError, Message};
                let (message_type, fields) = frame::open(text)?;
                match message_type.as_str() {
                    $(<$message as Message>::TYPE => frame::read(fields).map(Self::$variant),)+
                    _ => Err(DecodeError::UnknownMessageType(message_type)),
                }
            }

            /// Writes the frame.
            pub fn encode(&self) -> String {
                match self {
                    $(Self::$variant(message) => $crate::core::proto::frame::write(message),)+
                }
            }

            /// Returns the `message_type`.
            pub fn message_type(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => <$message as $crate::core::proto::frame::Message>::TYPE,)+
                }
            }
        }

        $(impl From<$message> for $name {
            fn from(message: $message) -> Self {
                Self::$variant(message)
            }
        })+
    };
}
pub(crate) use direction;

/// Gives a struct its `message_type`.
macro_rules! message {
    ($($message:ty = $word:literal),+ $(,)?) => {
        $(impl $crate::core::proto::frame::Message for $message {
            const TYPE: &'static str = $word;
        })+
    };
}
pub(crate) use message;
