//! The manifest as text on the chain: `<M:A3;S2>` beside whatever else a miner has committed
//! (wire-miner-validator §10).

use super::{ExecutorClass, Manifest};

/// Most bytes of a whole commitment.
pub const COMMITMENT_BYTES_MAX: usize = 128;

const OPEN: &str = "<M:";
const CLOSE: char = '>';

/// The manifest does not fit beside what else is committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the commitment would have {bytes} bytes, at most {COMMITMENT_BYTES_MAX} are allowed")]
pub struct CommitmentTooLong {
    /// How long it would be.
    pub bytes: usize,
}

/// Returns the letter of a class.
pub const fn letter(class: ExecutorClass) -> char {
    match class {
        ExecutorClass::AlwaysOnGpu24Gb => 'A',
        ExecutorClass::AlwaysOnCpu8C16Gb => 'C',
        ExecutorClass::AlwaysOnLlmA6000 => 'L',
        ExecutorClass::SpinUp4MinGpu24Gb => 'S',
        ExecutorClass::AlwaysOnTest => 'T',
    }
}

/// Writes a manifest without its envelope, sorted by letter: `A3;S2`.
pub fn encode(manifest: &Manifest) -> String {
    let mut items: Vec<String> = manifest
        .0
        .iter()
        .map(|(class, count)| format!("{}{count}", letter(*class)))
        .collect();
    // Each letter is there once, so whole items sort as their letters do.
    items.sort_unstable();
    items.join(";")
}

/// Reads a manifest without its envelope; what cannot be read is skipped, later duplicates win.
pub fn decode(text: &str) -> Manifest {
    let items = text.split(';').filter_map(|item| {
        let mut rest = item.trim().chars();
        let first = rest.next()?;
        let class = ExecutorClass::ALL
            .into_iter()
            .find(|class| letter(*class) == first)?;
        Some((class, rest.as_str().trim().parse().ok()?))
    });
    items.collect()
}

/// Takes a commitment apart: what else is in it, and the first manifest without its envelope, empty if there is none.
pub fn extract(raw: &str) -> (String, &str) {
    let mut other = String::new();
    let mut payload = None;
    let mut rest = raw;
    while let Some((before, opened)) = rest.split_once(OPEN) {
        let Some((inside, after)) = opened.split_once(CLOSE) else {
            break;
        };
        other.push_str(before);
        payload.get_or_insert(inside);
        rest = after;
    }
    other.push_str(rest);
    (other, payload.unwrap_or_default())
}

/// Puts a manifest into a commitment in place of any that it holds.
pub fn merge(raw: &str, manifest: &Manifest) -> Result<String, CommitmentTooLong> {
    let (other, _) = extract(raw);
    let text = format!("{other}{OPEN}{}{CLOSE}", encode(manifest));
    match text.len() {
        0..=COMMITMENT_BYTES_MAX => Ok(text),
        bytes => Err(CommitmentTooLong { bytes }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn golden(list: &str) -> Vec<Value> {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/manifest_commitment.json")).unwrap();
        vectors[list].as_array().unwrap().clone()
    }

    fn text<'a>(case: &'a Value, key: &str) -> &'a str {
        case[key].as_str().unwrap()
    }

    #[test]
    fn manifests_are_written_and_read_as_by_the_reference() {
        let (written, read) = (golden("format"), golden("parse"));
        assert_eq!((written.len(), read.len()), (5, 10));
        for case in written {
            let manifest: Manifest = serde_json::from_value(case["manifest"].clone()).unwrap();
            assert_eq!(encode(&manifest), text(&case, "text"));
            assert_eq!(decode(text(&case, "text")).0.len(), manifest.0.len());
        }
        for case in read {
            assert_eq!(json!(decode(text(&case, "text"))), case["manifest"], "{case}");
        }
    }

    #[test]
    fn commitments_are_taken_apart_and_put_together_as_by_the_reference() {
        let (extracted, merged) = (golden("extract"), golden("merge"));
        assert_eq!((extracted.len(), merged.len()), (7, 5));
        for case in extracted {
            let (other, payload) = extract(text(&case, "raw"));
            assert_eq!(json!([other, payload]), case["other_and_payload"], "{case}");
        }
        for case in merged {
            let manifest = decode(text(&case, "new"));
            assert_eq!(
                merge(text(&case, "raw"), &manifest).unwrap(),
                text(&case, "result")
            );
        }
    }

    #[test]
    fn every_class_has_its_letter() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/manifest_commitment.json")).unwrap();
        let letters = vectors["class_letters"].as_object().unwrap();
        assert_eq!(letters.len(), ExecutorClass::ALL.len());
        for class in ExecutorClass::ALL {
            assert_eq!(letters[class.as_str()], letter(class).to_string());
        }
    }

    #[test]
    fn a_commitment_of_129_bytes_is_refused() {
        let manifest = decode("A3");
        let room = COMMITMENT_BYTES_MAX - "<M:A3>".len();
        assert!(merge(&"x".repeat(room), &manifest).is_ok());
        assert_eq!(
            merge(&"x".repeat(room + 1), &manifest),
            Err(CommitmentTooLong { bytes: 129 })
        );
    }
}
