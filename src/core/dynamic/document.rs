//! What a document sets (wire-dynamic-config §2).

use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::core::model::Timestamp;

/// Beginning of the names of all keys.
const PREFIX: &str = "DYNAMIC_";

/// Why a document, or the rest of it, does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON object.
    #[error("the document is no JSON object: {0}")]
    Json(String),
    /// An entry is not as it should be; it and what follows it is not read.
    #[error("the entry of {key} cannot be read, and nothing behind it is: {reason}")]
    Entry {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a document sets, and what stopped the reading.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// Keys and values, in the order of the document.
    pub values: Vec<(String, Value)>,
    /// Why the rest is missing.
    pub error: Option<DocumentError>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "description")]
    _description: String,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    // Any JSON, null included, but it has to be there.
    #[serde(deserialize_with = "Value::deserialize")]
    value: Value,
    #[serde(default)]
    effective_from: Option<Timestamp>,
    #[serde(default, rename = "reason")]
    _reason: Option<String>,
}

/// Reads a document: of each key that `is_known` the last item of its list that is in force at `now`.
///
/// A malformed entry ends the reading, and what was read before it counts, as in the reference; malformed entries of
/// keys that are not asked for do not.
pub fn read(text: &str, is_known: impl Fn(&str) -> bool, now: OffsetDateTime) -> Reading {
    let mut reading = Reading::default();
    let document: Map<String, Value> = match serde_json::from_str(text) {
        Ok(document) => document,
        Err(error) => {
            reading.error = Some(DocumentError::Json(error.to_string()));
            return reading;
        }
    };
    for (key, entry) in document {
        if !key.starts_with(PREFIX) || !is_known(&key) {
            continue;
        }
        match in_force(entry, now) {
            Ok(Some(value)) => reading.values.push((key, value)),
            Ok(None) => {}
            Err(reason) => {
                reading.error = Some(DocumentError::Entry { key, reason });
                break;
            }
        }
    }
    reading
}

/// Returns the value of the last item that is in force; the order of the list decides, not the dates.
fn in_force(entry: Value, now: OffsetDateTime) -> Result<Option<Value>, String> {
    let entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let mut value = None;
    for item in entry.items {
        match item.effective_from {
            Some(from) if !from.is_aware() => {
                return Err(format!("effective_from {from} has no time zone"));
            }
            Some(from) if from.moment() > now => {}
            Some(_) | None => value = Some(item.value),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

    #[test]
    fn documents_are_read_as_by_the_reference() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/dynamic_config.json")).unwrap();
        let cases = vectors["loader_cases"].as_array().unwrap();
        assert_eq!(cases.len(), 14);
        for case in cases {
            let name = case["case"].as_str().unwrap();
            let before = case["config_before"].as_object().unwrap();
            let mut config = before.clone();
            let reading = if case["http_status"] == 200 {
                let text = case["document"].as_str().unwrap();
                read(text, |key| before.contains_key(key), NOW)
            } else {
                // The status is an error before there is a document: `net::get` says so.
                let error = Some(DocumentError::Json("no document".to_owned()));
                Reading {
                    values: Vec::new(),
                    error,
                }
            };
            config.extend(reading.values);
            let result = &case["result"];
            let config = Value::Object(config);
            assert_eq!(reading.error.is_some(), result.get("raises").is_some(), "{name}");
            assert_eq!(result.get("after_error").unwrap_or(result), &config, "{name}");
        }
    }

    #[test]
    fn hostile_documents_are_errors_and_nothing_else() {
        let deep = "[".repeat(100_000);
        let no_value = r#"{"DYNAMIC_A": {"description": "d", "items": [{}]}}"#;
        let text_date =
            r#"{"DYNAMIC_A": {"description": "d", "items": [{"value": 1, "effective_from": "soon"}]}}"#;
        for text in ["", "[]", "null", "\u{0}", &deep, no_value, text_date] {
            let reading = read(text, |_| true, NOW);
            assert!(reading.error.is_some() && reading.values.is_empty());
        }
        let null = r#"{"DYNAMIC_A": {"description": "d", "items": [{"value": null}]}}"#;
        assert_eq!(
            read(null, |_| true, NOW).values,
            [("DYNAMIC_A".to_owned(), Value::Null)]
        );
    }
}
