//! Tolerant readers: what the reference's parser (pydantic, lax mode) coerces, and nothing else.
//!
//! Source: the "Coercions a reader tolerates" row of the validator-miner wire: `"5"` and `5.0` are the
//! integer 5, `5.5` is refused; text is never made from numbers.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The largest magnitude at which every integral double is one exact integer (2^53).
const EXACT_DOUBLE_MAX: f64 = 9_007_199_254_740_992.0;

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::custom(format_args!("integer {value} is too large")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        if value.fract() != 0.0 || value.abs() > EXACT_DOUBLE_MAX {
            return Err(E::custom(format_args!("{value} is not an integer")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "integral and within 2^53, checked above"
        )]
        let integer = value as i64;
        Ok(integer)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        text.trim()
            .parse()
            .map_err(|_| E::custom(format_args!("{text:?} is not an integer")))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<i64, E> {
        Ok(i64::from(value))
    }
}

/// Reads an integer that may be written as text or as an integral float.
pub fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor)
}

/// A wrapper that reads like [`integer`], for use inside collections and options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integer(pub i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        integer(deserializer).map(Integer)
    }
}

/// Reads an optional integer; null is `None`.
pub fn optional_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Integer>::deserialize(deserializer)?.map(|Integer(value)| value))
}

/// Reads a list of integers.
pub fn integers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    Ok(Vec::<Integer>::deserialize(deserializer)?
        .into_iter()
        .map(|Integer(value)| value)
        .collect())
}

struct BooleanVisitor;

impl Visitor<'_> for BooleanVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<bool, E> {
        match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(E::custom(format_args!("{value} is not a boolean"))),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<bool, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
            _ => Err(E::custom(format_args!("{text:?} is not a boolean"))),
        }
    }
}

/// Reads a boolean that may be written as 0, 1 or a word.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    deserializer.deserialize_any(BooleanVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "integer")]
        n: i64,
    }

    #[test]
    fn integers_may_be_text_or_integral_floats_and_nothing_else() {
        for (text, expected) in [
            ("5", Some(5)),
            ("\"5\"", Some(5)),
            ("2.0", Some(2)),
            ("-1", Some(-1)),
        ] {
            let holder: Option<Holder> = serde_json::from_str(&format!("{{\"n\":{text}}}")).ok();
            assert_eq!(holder.map(|h| h.n), expected, "{text}");
        }
        for text in ["2.5", "\"x\"", "null", "[]", "1e300", "18446744073709551615"] {
            assert!(
                serde_json::from_str::<Holder>(&format!("{{\"n\":{text}}}")).is_err(),
                "{text}"
            );
        }
    }
}
