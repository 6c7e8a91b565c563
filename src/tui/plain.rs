//! A page as lines of plain text: for screen readers, files and bug reports.

use std::collections::{HashMap, HashSet};

use super::app::screen::{LINE_COLUMNS_MAX, Screen};
use super::tame::{columns, tame};
use super::view::{Cell, Column, Line, Page, Row, Tone};

/// Returns what a view shows as lines: facts, charts, the rows that match in their order, text.
pub fn lines(screen: &Screen, page: &Page) -> Vec<String> {
    let mut lines = facts(page);
    for chart in &page.charts {
        lines.push(format!("{}:", tame(chart.title, LINE_COLUMNS_MAX)));
        lines.extend(
            chart
                .bars
                .iter()
                .map(|(label, value)| format!("  {}: {value}", tame(label, LINE_COLUMNS_MAX))),
        );
    }
    let rows: Vec<&Row> = (0..screen.order.len())
        .filter_map(|place| screen.row_at(place))
        .collect();
    if rows.is_empty() && page.text.is_empty() {
        lines.push(page.empty.to_owned());
    } else {
        lines.extend(table(&page.columns, &rows));
    }
    let text = screen.lines.iter().filter_map(|at| page.text.get(*at));
    lines.extend(text.map(line));
    lines
}

/// Returns the facts, one a line.
pub fn facts(page: &Page) -> Vec<String> {
    let facts = page.facts.iter();
    facts
        .map(|(name, cell)| format!("{}: {}", tame(name, LINE_COLUMNS_MAX), said(cell)))
        .collect()
}

/// Returns a cell in words, with its weight where that is not plain.
fn said(cell: &Cell) -> String {
    let text = tame(&cell.text, LINE_COLUMNS_MAX);
    match cell.tone {
        Tone::Warning => format!("{text} (warning)"),
        Tone::Bad => format!("{text} (bad)"),
        _ => text,
    }
}

/// Returns one line of text with its time.
pub fn line(line: &Line) -> String {
    let text = tame(&line.text, LINE_COLUMNS_MAX);
    match line.at {
        Some(at) => format!("{at} {text}"),
        None => text,
    }
}

/// Returns what is different from the page before, in lines: facts, rows that are new, changed or gone, new lines of text.
pub fn changes(before: &Page, now: &Page) -> Vec<String> {
    let mut lines: Vec<String> = now
        .facts
        .iter()
        .filter(|fact| !before.facts.contains(fact))
        .map(|(name, cell)| format!("{}: {}", tame(name, LINE_COLUMNS_MAX), said(cell)))
        .collect();
    let known: HashMap<_, _> = before.rows.iter().map(|row| (&row.key, row)).collect();
    for new in &now.rows {
        match known.get(&new.key) {
            None => lines.push(format!("new: {}", row(&now.columns, new))),
            Some(old) if *old != new => lines.push(format!("changed: {}", changed(&now.columns, old, new))),
            Some(_) => {}
        }
    }
    let left: HashSet<_> = now.rows.iter().map(|row| &row.key).collect();
    let gone = before.rows.iter().filter(|row| !left.contains(&row.key));
    lines.extend(gone.map(|row| format!("gone: {}", tame(&row.key, LINE_COLUMNS_MAX))));
    lines.extend(added(&before.text, &now.text).iter().map(line));
    lines
}

/// Returns a row as its key and those of its cells that have changed.
fn changed(columns: &[Column], old: &Row, new: &Row) -> String {
    let cells = columns.iter().zip(old.cells.iter().zip(&new.cells));
    let differ = cells.filter(|(_, (old, new))| old != new);
    let words: Vec<_> = differ
        .map(|(column, (_, new))| format!("{} {}", column.name, tame(&new.text, LINE_COLUMNS_MAX)))
        .collect();
    format!("{}: {}", tame(&new.key, LINE_COLUMNS_MAX), words.join(", "))
}

/// Returns the lines that a text has gained at its end, while it may have lost some at its beginning.
fn added<'l>(before: &[Line], now: &'l [Line]) -> &'l [Line] {
    (0..=before.len())
        .filter_map(|lost| before.get(lost..))
        .find_map(|kept| now.strip_prefix(kept))
        .unwrap_or(now)
}

/// Returns one row as `column value, column value`.
pub fn row(columns: &[Column], row: &Row) -> String {
    let cells = columns.iter().zip(&row.cells);
    let words: Vec<_> = cells
        .map(|(column, cell)| format!("{} {}", column.name, tame(&cell.text, LINE_COLUMNS_MAX)))
        .collect();
    words.join(", ")
}

fn table(heads: &[Column], rows: &[&Row]) -> Vec<String> {
    if heads.is_empty() || rows.is_empty() {
        return Vec::new();
    }
    let cell = |row: &Row, at: usize| {
        row.cells
            .get(at)
            .map(|cell| tame(&cell.text, LINE_COLUMNS_MAX))
            .unwrap_or_default()
    };
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(at, head)| {
            let cells = rows.iter().map(|row| columns(&cell(row, at)));
            cells.fold(head.name.len(), usize::max)
        })
        .collect();
    let join = |texts: Vec<String>| {
        let mut line = String::new();
        for ((text, width), head) in texts.iter().zip(&widths).zip(heads) {
            let room = " ".repeat(width.saturating_sub(columns(text)));
            if head.right {
                line.push_str(&room);
                line.push_str(text);
            } else {
                line.push_str(text);
                line.push_str(&room);
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    let heading = join(heads.iter().map(|head| head.name.to_owned()).collect());
    let body = rows
        .iter()
        .map(|row| join((0..heads.len()).map(|at| cell(row, at)).collect()));
    std::iter::once(heading).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(status: &str, text: &[&str]) -> Page {
        Page {
            facts: vec![("jobs", Cell::integer(2))],
            columns: ["id", "status"]
                .map(|name| Column {
                    name,
                    right: false,
                    rank: 0,
                })
                .to_vec(),
            rows: vec![Row {
                key: "a".into(),
                cells: vec![Cell::text("a"), Cell::text(status)],
            }],
            text: text
                .iter()
                .map(|text| Line {
                    at: None,
                    text: (*text).to_owned(),
                    tone: Tone::Plain,
                })
                .collect(),
            ..Page::default()
        }
    }

    #[test]
    fn only_what_has_changed_is_said_again() {
        let before = page("running", &["one", "two", "two"]);
        assert_eq!(changes(&before, &before), [""; 0]);
        let now = page("completed", &["two", "two", "three"]);
        assert_eq!(changes(&before, &now), ["changed: a: status completed", "three"]);
        assert_eq!(
            changes(&Page::default(), &now),
            ["jobs: 2", "new: id a, status completed", "two", "two", "three"]
        );
        assert_eq!(changes(&now, &Page::default()), ["gone: a"]);
    }

    #[test]
    fn nothing_of_strangers_steers_a_screen_reader_or_its_terminal() {
        let hostile = page("\x1b]0;x\x07bad", &["\x1b[2Jbad"]);
        for line in changes(&Page::default(), &hostile) {
            assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        }
    }
}
