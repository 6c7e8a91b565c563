//! Logs: what the roles here have written of themselves, merged by time.

use std::io;
use std::path::Path;

use time::OffsetDateTime;
use tracing::Level;

use super::cells;
use super::{Ask, Line, LoadError, Page, Tone, View};
use crate::core::model::Timestamp;
use crate::core::telemetry::journal::reader::Tail;
use crate::core::telemetry::journal::{self, Entry};
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

const EMPTY: &str = "no log is kept here: a role keeps one in logs/ while log.file is auto; `horde logs` reads it without this screen";

/// Lines of each log that are looked at, from its end: enough for the past of some hours, and read in no time.
const LINES_MAX: usize = 20_000;

/// Characters of one line that are kept.
const LINE_CHARS: usize = 4000;

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let until = ask.at.map(Timestamp::moment);
    let shown = usize::try_from(cells::limit(ask)).unwrap_or(usize::MAX);
    let mut lines = Vec::new();
    for place in &source.places {
        let name = &place.name;
        let file = journal::file(&place.dir, place.role.word());
        let entries = last(&file, until, shown).map_err(|error| LoadError::Database {
            database: format!("the log of {name}"),
            reason: error.to_string(),
        })?;
        lines.extend(entries.iter().map(|entry| line(name, entry)));
    }
    lines.sort_by_key(|line| line.at.map(Timestamp::moment));
    let skipped = lines.len().saturating_sub(shown);
    Ok(Page {
        text: lines.split_off(skipped),
        empty: EMPTY,
        ..Page::default()
    })
}

/// Returns the last entries of a log until a moment, the oldest first.
fn last(file: &Path, until: Option<OffsetDateTime>, count: usize) -> io::Result<Vec<Entry>> {
    let mut tail = Tail::open(file)?;
    let mut entries = Vec::new();
    for _ in 0..LINES_MAX {
        let Some(entry) = tail.previous()? else { break };
        if until.is_none_or(|until| entry.at.moment() <= until) {
            entries.push(entry);
        }
        if entries.len() == count {
            break;
        }
    }
    entries.reverse();
    Ok(entries)
}

/// Returns an entry as a line.
pub(in crate::tui) fn line(name: &str, entry: &Entry) -> Line {
    let level = entry.level.as_str();
    let mut text = format!("{name} {level:<5} {} {}", entry.target, entry.message);
    for pair in entry.pairs() {
        text.push(' ');
        text.push_str(&pair);
    }
    if text.chars().count() > LINE_CHARS {
        text = text.chars().take(LINE_CHARS).collect();
        text.push('…');
    }
    let tone = match entry.level {
        Level::ERROR => Tone::Bad,
        Level::WARN => Tone::Warning,
        Level::DEBUG | Level::TRACE => Tone::Faint,
        Level::INFO => Tone::Plain,
    };
    Line {
        at: Some(entry.at),
        text,
        tone,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_lines_until_a_moment_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("miner.jsonl");
        assert_eq!(last(&path, None, 10).unwrap(), []);
        let entry = |second: u8| {
            format!(
                r#"{{"ts":"2026-01-15T12:00:{second:02}Z","level":"WARN","target":"horde::miner","message":"odd","fields":{{"job":"x","n":7}}}}"#
            )
        };
        let lines: Vec<_> = (0..5).map(entry).collect();
        fs::write(&path, format!("{}\n{{\"ts\":\"2026", lines.join("\n"))).unwrap();
        let until = Timestamp::parse("2026-01-15T12:00:03Z").unwrap().moment();
        let found = last(&path, Some(until), 2).unwrap();
        let at: Vec<_> = found.iter().map(|entry| entry.at.to_string()).collect();
        assert_eq!(at, ["2026-01-15T12:00:02Z", "2026-01-15T12:00:03Z"]);
        let shown = line("miner", &found[0]);
        assert_eq!(shown.text, "miner WARN  horde::miner odd job=x n=7");
        assert_eq!(shown.tone, Tone::Warning);
    }
}
