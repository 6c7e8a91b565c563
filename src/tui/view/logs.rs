//! Logs: what the roles here have written of themselves, merged by time.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use time::OffsetDateTime;

use super::cells;
use super::{Ask, Line, LoadError, Page, Tone, View};
use crate::core::model::Timestamp;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "logs",
    key: None,
    title: "logs",
    about: "Show what the roles here say of themselves, oldest first",
    opens: None,
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str = "no log is kept here: a role says what it does on standard error, `horde up` keeps that as `log` beside each database";

/// The file of a role's log in its directory.
const FILE: &str = "log/horde.log.jsonl";

/// Bytes of each log that are read, from its end.
const TAIL_BYTES: u64 = 256 * 1024;

/// Characters of one line that are kept.
const LINE_CHARS: usize = 4000;

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let until = ask.at.map(Timestamp::moment);
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for place in &source.places {
        let file = place.dir.join(FILE);
        if !files.iter().any(|(_, known)| *known == file) {
            files.push((place.name.clone(), file));
        }
    }
    let mut lines = Vec::new();
    for (name, file) in &files {
        let text = tail(file).map_err(|error| LoadError::Database {
            database: format!("{name}/{FILE}"),
            reason: error.to_string(),
        })?;
        lines.extend(text.lines().filter_map(|line| read(name, line)));
    }
    lines.retain(|(at, _)| until.is_none_or(|until| *at <= until));
    lines.sort_by_key(|(at, _)| *at);
    let shown = usize::try_from(cells::limit(ask)).unwrap_or(usize::MAX);
    let skipped = lines.len().saturating_sub(shown);
    Ok(Page {
        text: lines.into_iter().skip(skipped).map(|(_, line)| line).collect(),
        empty: EMPTY,
        ..Page::default()
    })
}

/// Returns the last lines of a file, whole ones; nothing if there is no file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Under `horde up` the name of the folder is that of a file with what a role printed.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // The role goes on writing.
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if start == 0 {
        return Ok(text);
    }
    Ok(text
        .split_once('\n')
        .map_or(String::new(), |(_, whole)| whole.to_owned()))
}

/// Reads a line of a log; what is none is left out, as a line may be half written.
pub(in crate::tui) fn read(name: &str, line: &str) -> Option<(OffsetDateTime, Line)> {
    let entry: Json = serde_json::from_str(line).ok()?;
    let word = |key: &str| entry.get(key).and_then(Json::as_str).unwrap_or_default();
    let at = Timestamp::parse(word("ts")).ok()?;
    let level = word("level");
    let mut text = format!("{name} {level:<5} {} {}", word("target"), word("message"));
    for (key, value) in entry
        .get("fields")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
    {
        text.push(' ');
        text.push_str(key);
        text.push('=');
        match value {
            Json::String(words) => text.push_str(words),
            other => text.push_str(&other.to_string()),
        }
    }
    if text.chars().count() > LINE_CHARS {
        text = text.chars().take(LINE_CHARS).collect();
        text.push('…');
    }
    let tone = match level.to_ascii_uppercase().as_str() {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warning,
        "DEBUG" | "TRACE" => Tone::Faint,
        _ => Tone::Plain,
    };
    Some((
        at.moment(),
        Line {
            at: Some(at),
            text,
            tone,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_read_from_its_end_and_half_a_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(tail(&path).unwrap(), "");
        std::fs::write(folder.path().join("plain"), "words").unwrap();
        assert_eq!(tail(&folder.path().join("plain/horde.log.jsonl")).unwrap(), "");
        let line = r#"{"ts":"2026-01-15T12:00:00Z","level":"WARN","target":"horde::miner","message":"odd","fields":{"job":"x","n":7}}"#;
        let many = format!("{line}\n").repeat(5000);
        std::fs::write(&path, format!("{many}{{\"ts\":\"2026")).unwrap();
        let read: Vec<_> = tail(&path)
            .unwrap()
            .lines()
            .filter_map(|line| read("miner", line))
            .collect();
        assert!(read.len() > 1000 && read.len() < 5000);
        let (_, first) = read.first().unwrap();
        assert_eq!(first.text, "miner WARN  horde::miner odd job=x n=7");
        assert_eq!(first.tone, Tone::Warning);
    }
}
