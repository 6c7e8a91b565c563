//! The keys that are used here, and what their values mean (wire-dynamic-config §3).

use std::collections::BTreeMap;
use std::str::FromStr;

use indexmap::IndexMap;
use serde_json::Value;
use time::OffsetDateTime;

use crate::core::model::ExecutorClass;

/// Seconds that an executor has to start: passed on to executors by the miner; default 5.
pub const EXECUTOR_STARTUP_TIME_LIMIT: Key = Key {
    name: "DYNAMIC_EXECUTOR_STARTUP_TIME_LIMIT",
    expected: "whole seconds from 1 to 3600",
};

/// Whether receipts are published and fetched; default false.
pub const RECEIPT_TRANSFER_ENABLED: Key = Key {
    name: "DYNAMIC_RECEIPT_TRANSFER_ENABLED",
    expected: "true or false",
};

/// Images of jobs that executors should have before the first job asks for them; default none.
pub const PRELOAD_DOCKER_JOB_IMAGES: Key = Key {
    name: "DYNAMIC_PRELOAD_DOCKER_JOB_IMAGES",
    expected: "a list of at most 100 names of images",
};

/// The share of each class in what miners earn, as `class=weight,…`: a key of validators.
pub const EXECUTOR_CLASS_WEIGHTS: Key = Key {
    name: "DYNAMIC_EXECUTOR_CLASS_WEIGHTS",
    expected: "weights as CLASS=NUMBER,…",
};

/// All keys that a miner knows.
pub const MINER_KEYS: &[Key] = &[
    EXECUTOR_STARTUP_TIME_LIMIT,
    RECEIPT_TRANSFER_ENABLED,
    PRELOAD_DOCKER_JOB_IMAGES,
    EXECUTOR_CLASS_WEIGHTS,
];

/// Longest start of an executor that is believed.
const STARTUP_SECONDS_MAX: u64 = 3600;

/// Most images that are preloaded.
const IMAGES_MAX: usize = 100;

/// Longest name of an image.
const IMAGE_CHARS_MAX: usize = 512;

/// A key of the dynamic configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in documents.
    pub name: &'static str,
    /// What its values have to be, in words.
    pub expected: &'static str,
}

/// A value with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value, of whatever type the document had.
    pub value: Value,
    /// The name of the document.
    pub document: String,
    /// When it was last read there.
    pub fetched_at: OffsetDateTime,
}

/// The last good values; those of the wrong type count as absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(pub BTreeMap<String, Entry>);

impl Values {
    fn value(&self, key: Key) -> Option<&Value> {
        self.0.get(key.name).map(|entry| &entry.value)
    }

    /// Returns [`EXECUTOR_STARTUP_TIME_LIMIT`].
    pub fn executor_startup_seconds(&self) -> Option<u64> {
        let seconds = self.value(EXECUTOR_STARTUP_TIME_LIMIT)?.as_u64()?;
        (1..=STARTUP_SECONDS_MAX).contains(&seconds).then_some(seconds)
    }

    /// Returns [`RECEIPT_TRANSFER_ENABLED`].
    pub fn receipt_transfer_enabled(&self) -> Option<bool> {
        self.value(RECEIPT_TRANSFER_ENABLED)?.as_bool()
    }

    /// Returns [`PRELOAD_DOCKER_JOB_IMAGES`].
    pub fn preload_images(&self) -> Option<Vec<String>> {
        let images = self.value(PRELOAD_DOCKER_JOB_IMAGES)?.as_array()?;
        if images.len() > IMAGES_MAX {
            return None;
        }
        images
            .iter()
            .map(|image| {
                let name = image.as_str()?.trim();
                (1..=IMAGE_CHARS_MAX)
                    .contains(&name.len())
                    .then(|| name.to_owned())
            })
            .collect()
    }

    /// Returns the share of each listed class in what the subnet pays, from 0 to 1; the sum is 1.
    ///
    /// A weight is the share of its class in the pool (sem-scoring §1 and §5), so weights mean something only beside
    /// each other. None while no weights are known; a class that is not listed has no share.
    pub fn class_shares(&self) -> Option<IndexMap<ExecutorClass, f64>> {
        let text = self.value(EXECUTOR_CLASS_WEIGHTS)?.as_str()?;
        let mut weights: IndexMap<ExecutorClass, f64> = class_map(text);
        weights.retain(|_, weight| weight.is_finite() && *weight > 0.0);
        let sum: f64 = weights.values().sum();
        if sum <= 0.0 || !sum.is_finite() {
            return None;
        }
        weights.values_mut().for_each(|weight| *weight /= sum);
        Some(weights)
    }

    /// Returns what is wrong with the value of a key that is there but cannot be used.
    pub fn problem(&self, key: Key) -> Option<String> {
        self.value(key)?;
        let is_used = match key {
            EXECUTOR_STARTUP_TIME_LIMIT => self.executor_startup_seconds().is_some(),
            RECEIPT_TRANSFER_ENABLED => self.receipt_transfer_enabled().is_some(),
            PRELOAD_DOCKER_JOB_IMAGES => self.preload_images().is_some(),
            EXECUTOR_CLASS_WEIGHTS => self.class_shares().is_some(),
            _ => true,
        };
        (!is_used).then(|| format!("not used: expected {}", key.expected))
    }
}

/// Reads `class=value,class=value`: unknown classes, bad numbers and malformed pairs are skipped, later duplicates
/// win, spaces make a pair malformed.
pub fn class_map<T: FromStr>(text: &str) -> IndexMap<ExecutorClass, T> {
    text.split(',')
        .filter_map(|pair| {
            let (class, value) = pair.split_once('=')?;
            Some((class.parse().ok()?, value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(key: Key, value: Value) -> Values {
        let entry = Entry {
            value,
            document: "d".to_owned(),
            fetched_at: OffsetDateTime::UNIX_EPOCH,
        };
        Values(BTreeMap::from([(key.name.to_owned(), entry)]))
    }

    #[test]
    fn class_maps_are_read_as_by_the_reference() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/dynamic_config.json")).unwrap();
        let cases = vectors["executor_class_map_parser"].as_array().unwrap();
        assert_eq!(cases.len(), 11);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let parsed = match case["value_type"].as_str().unwrap() {
                "int" => json!(class_map::<i64>(text)),
                _ => json!(class_map::<f64>(text)),
            };
            assert_eq!(parsed, case["parsed"], "{text}");
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_not_used_and_say_so() {
        for (key, good, bad) in [
            (EXECUTOR_STARTUP_TIME_LIMIT, json!(10), json!("10")),
            (EXECUTOR_STARTUP_TIME_LIMIT, json!(1), json!(0)),
            (EXECUTOR_STARTUP_TIME_LIMIT, json!(3600), json!(1e9)),
            (RECEIPT_TRANSFER_ENABLED, json!(false), json!("false")),
            (PRELOAD_DOCKER_JOB_IMAGES, json!(["a"]), json!(["a", ""])),
            (PRELOAD_DOCKER_JOB_IMAGES, json!([]), json!("a")),
            (PRELOAD_DOCKER_JOB_IMAGES, json!([]), json!(vec!["a"; 101])),
            (
                EXECUTOR_CLASS_WEIGHTS,
                json!("always_on.test=1"),
                json!("always_on.test=0"),
            ),
            (
                EXECUTOR_CLASS_WEIGHTS,
                json!("always_on.test=2"),
                json!({"always_on.test": 2}),
            ),
        ] {
            assert_eq!(values(key, good).problem(key), None, "{key:?}");
            assert!(values(key, bad.clone()).problem(key).is_some(), "{key:?} {bad}");
            assert_eq!(Values::default().problem(key), None);
        }
    }

    #[test]
    fn a_share_is_the_part_of_the_weights() {
        let text = "spin_up-4min.gpu-24gb=98,always_on.llm.a6000=1,always_on.test=0,always_on.cpu.8c.16gb=1";
        let shares = values(EXECUTOR_CLASS_WEIGHTS, json!(text))
            .class_shares()
            .unwrap();
        assert!((shares[&ExecutorClass::SpinUp4MinGpu24Gb] - 0.98).abs() < 1e-9);
        assert!((shares[&ExecutorClass::AlwaysOnCpu8C16Gb] - 0.01).abs() < 1e-9);
        assert_eq!(shares.get(&ExecutorClass::AlwaysOnTest), None);
    }
}
