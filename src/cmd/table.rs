//! How lists and times are printed: columns as wide as their widest cell, nothing cut.

use std::time::Duration;

use time::OffsetDateTime;

use super::context::Context;
use super::error::{CmdError, ExitCode};
use crate::core::model::Timestamp;

/// What stands where there is nothing.
pub(super) const NOTHING: &str = "-";

/// A table of `N` columns; the last may be as long as it likes.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Begins with the names of the columns.
    pub(super) fn new(names: [&str; N]) -> Self {
        Self {
            rows: vec![names.map(str::to_owned)],
        }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Returns the lines.
    pub(super) fn lines(&self) -> Vec<String> {
        aligned(&self.rows)
    }

    /// Prints it.
    pub(super) fn print(&self, context: &Context) -> Result<(), CmdError> {
        self.lines().iter().try_for_each(|line| context.line(line))
    }
}

/// Returns rows as lines, with columns as wide as their widest cell.
pub(super) fn aligned<R: AsRef<[String]>>(rows: &[R]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (index, cell) in row.as_ref().iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(index) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let line = |row: &R| {
        let mut line = String::new();
        for (index, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            if index > 0 {
                line.push_str("  ");
            }
            line.push_str(cell);
            // Not by a format string, whose widths end at 65,535.
            let missing = width.saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', missing));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// Returns a time as JSON has it: RFC 3339, UTC, to the microsecond.
pub(super) fn stamp(moment: OffsetDateTime) -> String {
    Timestamp::new(moment).to_string()
}

/// Returns a time as a table has it: to the second.
pub(super) fn to_the_second(moment: OffsetDateTime) -> String {
    stamp(moment.replace_nanosecond(0).unwrap_or(moment))
}

/// Returns a text of a peer in one line of a table.
pub(super) fn or_nothing(text: Option<&str>) -> String {
    match text.map(printable) {
        Some(text) if !text.is_empty() => text,
        _ => NOTHING.to_owned(),
    }
}

/// Takes what would steer a terminal out of a foreign text.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Reads how long ago: a number and s, m, h or d.
pub(super) fn parse_ago(text: &str) -> Result<Duration, CmdError> {
    let wrong = || {
        CmdError::new(ExitCode::Usage, format!("{text:?} is no span of time"))
            .hint("a number and s, m, h or d, as in --since 2h")
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number = text.strip_suffix(unit).unwrap_or_default();
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// Returns the moment that long before `now`.
pub(super) fn ago(now: OffsetDateTime, span: Duration) -> OffsetDateTime {
    let span = time::Duration::try_from(span).ok();
    span.and_then(|span| now.checked_sub(span))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Reads a time as people give it: how long ago, or a moment.
pub(super) fn moment(now: OffsetDateTime, text: &str) -> Result<OffsetDateTime, CmdError> {
    if text.contains('-') || text.contains(':') {
        let parsed = Timestamp::parse(text).map_err(|error| {
            CmdError::new(ExitCode::Usage, error.to_string())
                .hint("as in 2026-11-25T18:00:00Z, or 2h for 2 hours ago")
        })?;
        return Ok(parsed.moment());
    }
    Ok(ago(now, parse_ago(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_nothing_is_cut() {
        let mut table = Table::new(["A", "B"]);
        let long = "x".repeat(300);
        table.add([long.clone(), "b".to_owned()]);
        table.add(["é".to_owned(), String::new()]);
        let lines = table.lines();
        assert_eq!(lines[1], format!("{long}  b"));
        assert_eq!(lines[0].find('B'), Some(302));
        assert_eq!(lines[2], "é");
        let mut table = Table::new(["A", "B"]);
        table.add(["x".repeat(100_000), "b".to_owned()]);
        assert_eq!(table.lines()[1].len(), 100_003);
    }

    #[test]
    fn spans_of_time_are_read() {
        for (text, seconds) in [("90s", 90), ("2m", 120), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(parse_ago(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in ["", "h", "2", "2w", "-1h", "1.5h", "99999999999999999d"] {
            assert_eq!(parse_ago(text).unwrap_err().code, ExitCode::Usage, "{text}");
        }
    }
}
