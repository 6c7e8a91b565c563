//! The log that a role keeps in its data directory: JSON lines in a few files of bounded size, written by one process and
//! read by whoever wants to know.
//!
//! ```text
//! events ──layer──▶ queue (bytes bounded) ──writer thread──▶ logs/miner.jsonl
//!                                                            logs/miner.jsonl.1 … (older)
//!                            dashboard, horde logs ◀──reader──┘
//! ```
//!
//! A role never waits for its log: what does not fit into the queue is dropped, counted, and the count written down. The
//! files are rotated by size, so that the log as a whole is bounded whatever happens; `tracing-appender` rotates by the
//! hour only.

pub mod layer;
pub mod reader;
pub mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use tracing::Level;

use crate::core::model::Timestamp;

/// The folder of logs in a role's data directory.
pub const FOLDER: &str = "logs";

/// What the name of a role's newest file ends with; older ones have a number behind it, the oldest the highest.
const ENDING: &str = ".jsonl";

/// Most bytes of a line; longer ones are not ours.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most files of one log.
pub const FILES_MAX: u32 = 64;

/// Directories of a data directory that are looked at for logs.
const DIRECTORIES_MAX: usize = 1000;

/// The target of what the writer says of itself, which goes to standard error: the file is what does not work.
pub const OWN_TARGET: &str = "horde::log";

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it was said.
    pub at: Timestamp,
    /// How grave it is.
    pub level: Level,
    /// The module that said it.
    pub target: String,
    /// What it said.
    pub message: String,
    /// What belongs to it, by name.
    pub fields: Map<String, Json>,
}

/// An entry as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    ts: String,
    level: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    fields: Map<String, Json>,
}

impl Entry {
    /// Reads a line; none if it is no entry, as when a crash has torn it.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(line).ok()?;
        Some(Self {
            at: Timestamp::parse(&written.ts).ok()?,
            level: Level::from_str(&written.level).ok()?,
            target: written.target,
            message: written.message,
            fields: written.fields,
        })
    }

    /// Returns the line with its end; without its fields if it is longer than a line may be.
    pub fn line(self) -> Vec<u8> {
        let mut written = Written {
            ts: self.at.to_string(),
            level: self.level.to_string(),
            target: self.target,
            message: self.message,
            fields: self.fields,
        };
        let mut line = serde_json::to_vec(&written).unwrap_or_default();
        if line.len() >= LINE_BYTES_MAX {
            written.fields = Map::from_iter([("fields_left_out".to_owned(), Json::Bool(true))]);
            line = serde_json::to_vec(&written).unwrap_or_default();
        }
        line.push(b'\n');
        line
    }

    /// Returns the fields as `name=value`, one after the other.
    pub fn pairs(&self) -> impl Iterator<Item = String> + '_ {
        self.fields.iter().map(|(name, value)| match value {
            Json::String(words) => format!("{name}={words}"),
            other => format!("{name}={other}"),
        })
    }
}

/// Whose log, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The role, or the name of its directory, as in `miner-1`.
    pub name: String,
    /// The role's word.
    pub role: String,
    /// The newest file.
    pub file: PathBuf,
}

/// Returns the newest file of a role's log in its data directory.
pub fn file(dir: &Path, role: &str) -> PathBuf {
    dir.join(FOLDER).join(format!("{role}{ENDING}"))
}

/// Returns the file that was the newest so many rotations ago.
fn older(file: &Path, rotations: u32) -> PathBuf {
    if rotations == 0 {
        return file.to_owned();
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{rotations}"));
    name.into()
}

/// Finds the logs in a data directory and in the directories right below it, by name. What cannot be read holds none.
pub fn find(dir: &Path) -> Vec<Place> {
    let mut places = in_directory(dir, None);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.take(DIRECTORIES_MAX) {
        let name = entry.file_name().to_string_lossy().into_owned();
        places.extend(in_directory(&entry.path(), Some(&name)));
    }
    places.sort();
    places
}

fn in_directory(dir: &Path, name: Option<&str>) -> Vec<Place> {
    let entries = fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let mut places: Vec<Place> = entries
        .take(DIRECTORIES_MAX)
        .filter_map(|entry| {
            let file_name = entry.file_name();
            let role = file_name.to_str()?.strip_suffix(ENDING)?.to_owned();
            Some(Place {
                name: name.unwrap_or(&role).to_owned(),
                role,
                file: entry.path(),
            })
        })
        .collect();
    if places.len() > 1 {
        // Several roles of one directory are told apart by what they are.
        for place in &mut places {
            place.name.clone_from(&place.role);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_and_comes_back_as_it_was() {
        let entry = Entry {
            at: Timestamp::parse("2026-01-15T12:00:00.25Z").unwrap(),
            level: Level::WARN,
            target: "horde::core::miner".to_owned(),
            message: "two\nlines \u{1b}[2J".to_owned(),
            fields: Map::from_iter([("job".to_owned(), "x".into()), ("n".to_owned(), 7.into())]),
        };
        let line = entry.clone().line();
        assert_eq!(line.split(|byte| *byte == b'\n').count(), 2);
        assert!(line.starts_with(br#"{"ts":"2026-01-15T12:00:00.250000Z","level":"WARN","target":"#));
        assert_eq!(Entry::parse(&line).unwrap(), entry);
        assert_eq!(entry.pairs().collect::<Vec<_>>(), ["job=x", "n=7"]);
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for line in [
            &b"{\"ts\":\"2026"[..],
            b"",
            b"null",
            b"\xff\xfe",
            br#"{"ts":"yesterday","level":"INFO"}"#,
            br#"{"ts":"2026-01-15T12:00:00Z","level":"LOUD"}"#,
        ] {
            assert_eq!(Entry::parse(line), None, "{line:?}");
        }
        let least = Entry::parse(br#"{"ts":"2026-01-15T12:00:00Z","level":"info"}"#).unwrap();
        assert_eq!((least.level, least.message.as_str()), (Level::INFO, ""));
    }

    #[test]
    fn a_line_that_is_too_long_loses_its_fields() {
        let entry = Entry {
            at: Timestamp::parse("2026-01-15T12:00:00Z").unwrap(),
            level: Level::INFO,
            target: String::new(),
            message: "much".to_owned(),
            fields: Map::from_iter([("all".to_owned(), "x".repeat(LINE_BYTES_MAX).into())]),
        };
        let line = entry.line();
        assert!(line.len() < LINE_BYTES_MAX);
        assert_eq!(
            Entry::parse(&line).unwrap().fields["fields_left_out"],
            Json::Bool(true)
        );
    }

    #[test]
    fn logs_are_found_in_a_directory_and_right_below_it() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "miner-2/logs/miner.jsonl",
            "miner-1/logs/miner.jsonl",
            "miner-1/logs/miner.jsonl.1",
            "logs/validator.jsonl",
            "both/logs/miner.jsonl",
            "both/logs/validator.jsonl",
            "deep/er/logs/miner.jsonl",
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let names: Vec<_> = find(root.path()).into_iter().map(|place| place.name).collect();
        assert_eq!(names, ["miner", "miner-1", "miner-2", "validator", "validator"]);
        assert_eq!(find(&root.path().join("nowhere")), []);
    }
}
