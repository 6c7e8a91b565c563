//! What leaves the dashboard: copies for the clipboard, and files with what a view shows.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};
use time::format_description::well_known::Rfc3339;

use super::App;
use super::prompt::Kind;
use super::screen::{Panel, Screen};
use crate::tui::event::Effect;
use crate::tui::keys::Action;
use crate::tui::plain;
use crate::tui::view::{Cell, Page, Row, Tone, Value};

/// Bytes that are given to a clipboard: terminals take no more.
pub const COPY_MAX: usize = 70_000;

/// Returns a cell as what it is.
pub fn json_of(cell: &Cell) -> Json {
    match &cell.value {
        Value::Nothing => Json::Null,
        Value::Text | Value::Whole(_) => Json::from(cell.whole()),
        Value::Integer(value) => Json::from(*value),
        Value::Number(value) => Json::from(*value),
        Value::Time(moment) => moment.moment().format(&Rfc3339).map_or(Json::Null, Json::from),
    }
}

fn row_json(page: &Page, row: &Row) -> Json {
    let cells = page.columns.iter().zip(&row.cells);
    let fields = cells.map(|(column, cell)| (column.name.to_owned(), json_of(cell)));
    let key = std::iter::once(("key".to_owned(), Json::from(row.id())));
    Json::Object(key.chain(fields).collect::<Map<_, _>>())
}

fn row_text(row: &Row) -> String {
    let cells: Vec<_> = row.cells.iter().map(Cell::whole).collect();
    cells.join("\t")
}

/// Returns the marked rows in the order shown, or the selected one.
fn taken(screen: &Screen) -> Vec<&Row> {
    let shown = (0..screen.order.len()).filter_map(|place| screen.row_at(place));
    if screen.marks.is_empty() {
        return screen.row_at(screen.cursor).into_iter().collect();
    }
    shown.filter(|row| screen.marks.contains(&row.key)).collect()
}

impl App {
    /// Gives the selection to the clipboard.
    pub(super) fn copy(&mut self, action: Action, effects: &mut Vec<Effect>) {
        let screen = self.screen();
        let Some(page) = screen.page.as_deref() else {
            return;
        };
        let (text, what) = if screen.focus() == Panel::Text {
            let top = screen.top_of(Panel::Text);
            let room = self.layout().map_or(0, |layout| usize::from(layout.text.height));
            let lines = screen.lines.iter().skip(top).take(room);
            let lines: Vec<_> = lines
                .filter_map(|at| page.text.get(*at))
                .map(|line| line.text.as_str())
                .collect();
            (lines.join("\n"), count(lines.len(), "line"))
        } else {
            let rows = taken(screen);
            let text = match action {
                Action::CopyKey => rows
                    .iter()
                    .map(|row| row.id().to_owned())
                    .collect::<Vec<_>>()
                    .join("\n"),
                Action::CopyJson => match rows.as_slice() {
                    [row] => row_json(page, row).to_string(),
                    rows => rows
                        .iter()
                        .map(|row| row_json(page, row))
                        .collect::<Json>()
                        .to_string(),
                },
                _ => rows
                    .iter()
                    .map(|row| row_text(row))
                    .collect::<Vec<_>>()
                    .join("\n"),
            };
            let noun = if action == Action::CopyKey { "id" } else { "row" };
            (text, count(rows.len(), noun))
        };
        if text.is_empty() {
            self.say("there is nothing to copy", Tone::Faint);
        } else if text.len() > COPY_MAX {
            self.say(
                format!("{what} are more than a terminal's clipboard takes; save them instead"),
                Tone::Warning,
            );
        } else {
            effects.push(Effect::Copy(text));
            self.say(format!("copied {what}"), Tone::Good);
        }
    }

    /// Asks where to save.
    pub(super) fn prompt_save(&mut self) {
        let time = self.now.wall.time();
        let name = format!(
            "horde-{}-{:02}{:02}{:02}.txt",
            self.screen().view.name,
            time.hour(),
            time.minute(),
            time.second()
        );
        self.prompt(Kind::Save, &name);
    }

    /// Saves what the view shows.
    pub(super) fn save(&mut self, path: &str, effects: &mut Vec<Effect>) {
        if path.trim().is_empty() {
            return;
        }
        let screen = self.screen();
        let Some(page) = screen.page.as_deref() else {
            return;
        };
        let text = plain::lines(screen, page).join("\n") + "\n";
        effects.push(Effect::Save {
            path: PathBuf::from(path.trim()),
            text,
        });
    }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
