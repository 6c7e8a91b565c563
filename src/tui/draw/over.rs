//! What lies over a view: the keys, and all of one row.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::body::wrapped;
use super::layout::Layout;
use super::{border, clear};
use crate::tui::app::{App, Over};
use crate::tui::keys::BINDINGS;
use crate::tui::tame::{columns, put, tame};
use crate::tui::theme::Part;
use crate::tui::view::Tone;

/// Columns of the names in both.
const NAME: u16 = 20;

/// Returns how many rows it has.
pub fn rows(app: &App) -> usize {
    let width = app.layout().map_or(80, |layout| layout.inner.width);
    lines(app, width).len()
}

/// A line: a name, words, and how they look.
type OverLine = (String, String, Style);

fn lines(app: &App, width: u16) -> Vec<OverLine> {
    match app.over {
        Some((Over::Help, _)) => help(app),
        Some((Over::Row, _)) => row(app, width),
        None => Vec::new(),
    }
}

fn help(app: &App) -> Vec<OverLine> {
    let base = app.theme.base();
    let head = app.theme.part(Part::Title);
    let screen = app.screen();
    let mut lines = vec![
        (screen.view.title.to_owned(), screen.view.about.to_owned(), base),
        (String::new(), String::new(), base),
        ("Views".to_owned(), String::new(), head),
    ];
    for (at, view) in app.tabs().enumerate() {
        let key = view.key.map_or_else(
            || {
                if at < 9 {
                    (at + 1).to_string()
                } else {
                    format!(":{}", view.name)
                }
            },
            String::from,
        );
        lines.push((key, format!("{}: {}", view.name, view.about), base));
    }
    let mut group = "";
    for binding in BINDINGS {
        if group != binding.group {
            group = binding.group;
            lines.push((String::new(), String::new(), base));
            lines.push((group.to_owned(), String::new(), head));
        }
        lines.push((app.keys.shown(binding.action), binding.about.to_owned(), base));
    }
    lines
}

fn row(app: &App, width: u16) -> Vec<OverLine> {
    let screen = app.screen();
    let (Some(page), Some(row)) = (screen.page.as_deref(), screen.row_at(screen.cursor)) else {
        return Vec::new();
    };
    let room = usize::from(width.saturating_sub(NAME + 4).max(8));
    let mut lines = vec![("key".to_owned(), tame(row.id(), room), app.theme.base())];
    for (column, cell) in page.columns.iter().zip(&row.cells) {
        let mut name = column.name.to_owned();
        for piece in wrapped(cell.whole(), room) {
            lines.push((std::mem::take(&mut name), piece, app.theme.tone(cell.tone)));
        }
    }
    lines
}

/// Draws it over the view.
pub(super) fn draw(app: &App, layout: &Layout, buffer: &mut Buffer) {
    let Some((over, top)) = app.over else { return };
    clear(buffer, layout.body, app.theme.base());
    let all = lines(app, layout.inner.width);
    let title = match over {
        Over::Help => "keys",
        Over::Row => "row",
    };
    let area = layout.inner;
    let shown = usize::from(area.height);
    let top = top.min(all.len().saturating_sub(shown));
    let right = if all.len() > shown {
        format!("{}–{} of {}", top + 1, (top + shown).min(all.len()), all.len())
    } else {
        String::new()
    };
    border(buffer, layout.body, title, &right, app.theme);
    let wide = all
        .iter()
        .map(|(name, _, _)| columns(&tame(name, usize::from(NAME))))
        .max();
    let wide = u16::try_from(wide.unwrap_or(0)).unwrap_or(NAME);
    for ((name, words, style), y) in all.iter().skip(top).zip(area.top()..area.bottom()) {
        let line = Rect::new(area.x + 1, y, area.width - 1, 1);
        let part = if words.is_empty() {
            *style
        } else {
            app.theme.part(Part::Key)
        };
        let part = if over == Over::Row {
            app.theme.tone(Tone::Faint)
        } else {
            part
        };
        let names = Rect { width: wide, ..line };
        put(buffer, names, line.x, y, name, part);
        put(buffer, line, line.x + wide + 2, y, words, *style);
    }
}
