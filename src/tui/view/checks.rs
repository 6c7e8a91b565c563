//! Checks: what the last checks of the roles here found, with what helps.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value as Json;

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::store::places::{CHECKS_FILE as FILE, Place};
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "checks",
    key: None,
    title: "checks",
    about: "Show what the last checks of the roles here found, the worst first",
    opens: None,
    keeps_past: false,
    load,
    draw: None,
};

const EMPTY: &str =
    "no results of checks are kept here: `horde doctor` looks at the roles of this directory, and keeps them";

/// Whose results lie beside the directories of the roles: what all of them share.
pub(in crate::tui) const SHARED: &str = "machine";

/// Bytes of results that are read; a check writes some hundred for each finding.
const BYTES_MAX: u64 = 1024 * 1024;

/// What a check found.
pub(in crate::tui) struct Finding {
    pub(in crate::tui) place: String,
    pub(in crate::tui) id: String,
    pub(in crate::tui) outcome: Outcome,
    pub(in crate::tui) actual: String,
    required: String,
    purpose: String,
    remedy: String,
    seconds: Option<f64>,
}

/// What came of a check, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tui) enum Outcome {
    Failed,
    Warned,
    Skipped,
    Told,
    Passed,
}

impl Outcome {
    fn read(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "fail" | "failed" => Self::Failed,
            "warn" | "warned" | "warning" | "accepted" | "advice" => Self::Warned,
            "skip" | "skipped" => Self::Skipped,
            "pass" | "passed" | "held" => Self::Passed,
            _ => Self::Told,
        }
    }

    fn cell(self) -> Cell {
        match self {
            Self::Failed => Cell::text("fail").tone(Tone::Bad),
            Self::Warned => Cell::text("warn").tone(Tone::Warning),
            Self::Skipped => Cell::text("skip").tone(Tone::Faint),
            Self::Told => Cell::text("info"),
            Self::Passed => Cell::text("pass").tone(Tone::Good),
        }
    }
}

fn load(source: &Source, _: &Ask) -> Result<Page, LoadError> {
    let mut findings = shared(source)?;
    for place in &source.places {
        findings.extend(read(place)?);
    }
    Ok(page(findings))
}

/// Returns the page of these findings.
pub(in crate::tui) fn page(mut findings: Vec<Finding>) -> Page {
    findings.sort_by(|a, b| (a.outcome, &a.place).cmp(&(b.outcome, &b.place)));
    let rows = findings.iter().enumerate().map(|(number, finding)| Row {
        key: format!("{} {}#{number}", finding.place, finding.id).into(),
        cells: vec![
            finding.outcome.cell(),
            Cell::text(finding.id.clone()),
            cells::words(&finding.actual),
            cells::words(&finding.required),
            cells::words(&finding.remedy),
            cells::words(&finding.purpose),
            or_nothing(finding.seconds, |seconds| {
                cells::span(time::Duration::seconds_f64(seconds))
            }),
            Cell::text(finding.place.clone()).tone(Tone::Faint),
        ],
    });
    let rows: Vec<Row> = rows.collect();
    let count = |outcome: Outcome| {
        findings
            .iter()
            .filter(|finding| finding.outcome == outcome)
            .count()
    };
    let mut facts = Vec::new();
    for (name, outcome, tone) in [
        ("failed", Outcome::Failed, Tone::Bad),
        ("warnings", Outcome::Warned, Tone::Warning),
        ("passed", Outcome::Passed, Tone::Good),
    ] {
        let found = u64::try_from(count(outcome)).unwrap_or(u64::MAX);
        if found > 0 {
            facts.push((name, cells::count(found).tone(tone)));
        }
    }
    Page {
        facts,
        columns: cells::columns(&[
            ("status", false, 0),
            ("check", false, 0),
            ("actual", false, 1),
            ("required", false, 3),
            ("remedy", false, 2),
            ("purpose", false, 5),
            ("took", true, 6),
            ("role", false, 4),
        ]),
        rows,
        empty: EMPTY,
        ..Page::default()
    }
}

/// Reads the last results of what all roles share; none if there are none, or if they stand with those of a role.
pub(in crate::tui) fn shared(source: &Source) -> Result<Vec<Finding>, LoadError> {
    if source.places.iter().any(|place| place.dir == source.dir) {
        return Ok(Vec::new());
    }
    read_in(SHARED, &source.dir)
}

/// Reads the last results of a role; none if there are none.
pub(in crate::tui) fn read(place: &Place) -> Result<Vec<Finding>, LoadError> {
    read_in(&place.name, &place.dir)
}

fn read_in(name: &str, dir: &Path) -> Result<Vec<Finding>, LoadError> {
    let path = dir.join(FILE);
    let refused = |reason: String| LoadError::Database {
        database: format!("{name}/{FILE}"),
        reason,
    };
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(error.to_string())),
    };
    if length > BYTES_MAX {
        return Err(refused(format!("it has {length} bytes, which no check writes")));
    }
    let text = fs::read_to_string(&path).map_err(|error| refused(error.to_string()))?;
    let kept: Json = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    let list = ["findings", "checks"].iter().find_map(|key| kept.get(*key));
    let list = list
        .unwrap_or(&kept)
        .as_array()
        .ok_or_else(|| refused("it holds no list of findings".to_owned()))?;
    Ok(list.iter().map(|found| finding(name, found)).collect())
}

/// Reads one finding of a role.
pub(in crate::tui) fn finding(place: &str, found: &Json) -> Finding {
    let word = |keys: &[&str]| {
        let value = keys.iter().find_map(|key| found.get(*key));
        match value {
            Some(Json::String(words)) => words.clone(),
            Some(Json::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    };
    let number = |key: &str| found.get(key).and_then(Json::as_f64);
    Finding {
        place: Some(word(&["role"]))
            .filter(|role| !role.is_empty())
            .unwrap_or_else(|| place.to_owned()),
        id: word(&["id", "check"]),
        outcome: Outcome::read(&word(&["status"])),
        actual: word(&["actual"]),
        required: word(&["required"]),
        purpose: word(&["purpose"]),
        remedy: word(&["remedy"]),
        seconds: number("duration_us")
            .map(|micros| micros / 1e6)
            .or_else(|| number("duration_ms").map(|millis| millis / 1e3))
            .or_else(|| number("duration_seconds"))
            .filter(|seconds| (0.0..1e9).contains(seconds)),
    }
}
