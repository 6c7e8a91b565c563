//! A page as lines of plain text: for screen readers, files and bug reports.

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
