//! What the dashboard shows: one file per view, and one row per view in [`VIEWS`].
//!
//! A view says what it is in a [`View`]: a pure description, a function that reads one [`Page`] from the databases, and,
//! where a table with facts above it is not enough, a function that draws it. Sorting, filtering, searching, marking and
//! copying are the frame's and work on every page alike, since a page is data.

pub(in crate::tui) mod cells;
pub mod checks;
pub mod credits;
pub mod events;
pub mod executors;
pub mod job;
pub mod jobs;
pub mod logs;
pub mod overview;
pub mod peers;
pub mod receipts;
pub mod scores;
pub mod users;

use std::sync::Arc;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use thiserror::Error;

use super::source::Source;
use super::theme::Theme;
use crate::core::model::Timestamp;

/// Rows that one page holds at most; what is older is asked for by [`Ask::before`].
pub const ROWS_MAX: usize = 1000;

/// A view of the dashboard.
#[derive(Debug)]
pub struct View {
    /// Its name in the palette and for `--view`: one lower-case word.
    pub name: &'static str,
    /// The key that opens it from anywhere.
    pub key: Option<char>,
    /// The words in its frame.
    pub title: &'static str,
    /// What it shows, for the help: starts with a verb, no full stop.
    pub about: &'static str,
    /// The view that Enter opens for the selected row, by its [`Row::key`].
    pub opens: Option<&'static str>,
    /// Whether it can show the past: whether it minds [`Ask::at`]. The others stay in the present, and the frame says so.
    pub keeps_past: bool,
    /// Reads one page; runs on the loader's thread, may block, and keeps its transactions short.
    pub load: fn(&Source, &Ask) -> Result<Page, LoadError>,
    /// Draws the page where the frame's own way (facts, charts, table, text from above) does not do.
    pub draw: Option<fn(&Page, Rect, &mut Buffer, &Theme)>,
}

/// All views, in the order of the tabs.
pub const VIEWS: &[View] = &[
    overview::VIEW,
    jobs::VIEW,
    job::VIEW,
    executors::VIEW,
    peers::VIEW,
    scores::VIEW,
    receipts::VIEW,
    users::VIEW,
    credits::VIEW,
    events::VIEW,
    logs::VIEW,
    checks::VIEW,
];

/// What a page is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Which one, for views of one thing: a job, a peer.
    pub key: Option<String>,
    /// As it stood then, where the view keeps a journal; now if none.
    pub at: Option<Timestamp>,
    /// The page of rows older than this cursor, which is [`Page::older`] of the page before.
    pub before: Option<String>,
    /// Rows at most; never above [`ROWS_MAX`].
    pub rows_max: usize,
}

/// Why there is no page.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// No database in the directory holds what the view shows.
    #[error("nothing here keeps this: {0}")]
    NotKept(&'static str),
    /// The thing that was asked for does not exist.
    #[error("there is no {0}")]
    NotFound(String),
    /// A database cannot be read.
    #[error("cannot read {database}: {reason}")]
    Database {
        /// Its file name.
        database: String,
        /// The chain of causes, in words.
        reason: String,
    },
}

/// What a view shows at one moment. Everything in it may come from strangers: who draws it tames it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Name and value, above all else.
    pub facts: Vec<(&'static str, Cell)>,
    /// Charts, between facts and table.
    pub charts: Vec<Chart>,
    /// The columns of the table; none if there is no table.
    pub columns: Vec<Column>,
    /// Its rows, in the order of the view.
    pub rows: Vec<Row>,
    /// Cursor for the rows that are older than the last one; none if this is all.
    pub older: Option<String>,
    /// Lines of text, below the table: logs, streams.
    pub text: Vec<Line>,
    /// What stands where rows and text would be when there are none, as in `no job yet: …`.
    pub empty: &'static str,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading, and its name in `field:value` filters: one lower-case word.
    pub name: &'static str,
    /// Whether its cells stand at the right edge.
    pub right: bool,
    /// Leaves first when space runs out; 0 stays to the end.
    pub rank: u8,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What [`View::opens`] is asked for, what is copied, and what keeps the selection on its row when rows move. Rows of
    /// the same thing are told apart by what stands behind a `#`, which is neither asked for nor copied; a row of nothing
    /// that could be opened has a key that begins so.
    pub key: Arc<str>,
    /// One per column.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Returns what its key names; nothing if the row is of nothing that could be opened.
    pub fn id(&self) -> &str {
        self.key.split_once('#').map_or(&*self.key, |(id, _)| id)
    }
}

/// One value, in words and as what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// What it is: sorted by, and printed by `--json`.
    pub value: Value,
    /// How it is coloured; the text says the same in words.
    pub tone: Tone,
}

impl Cell {
    /// Makes a cell of words.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            value: Value::Text,
            tone: Tone::Plain,
        }
    }

    /// Makes a cell of a count.
    pub fn integer(value: i64) -> Self {
        Self {
            text: value.to_string(),
            value: Value::Integer(value),
            tone: Tone::Plain,
        }
    }

    /// Makes a cell for a value that there is not.
    pub fn nothing() -> Self {
        Self {
            text: "-".to_owned(),
            value: Value::Nothing,
            tone: Tone::Faint,
        }
    }

    /// Returns its text in full, of which it may show a part only.
    pub fn whole(&self) -> &str {
        match &self.value {
            Value::Whole(text) => text,
            Value::Nothing | Value::Text | Value::Integer(_) | Value::Number(_) | Value::Time(_) => {
                &self.text
            }
        }
    }

    /// Returns the same with a tone.
    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// A value to sort by.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// There is none.
    Nothing,
    /// A word or text: the cell's own.
    Text,
    /// A text of which the cell shows a part, such as a hotkey.
    Whole(String),
    /// A count, an amount, bytes.
    Integer(i64),
    /// A ratio, seconds.
    Number(f64),
    /// A moment.
    Time(Timestamp),
}

/// What a value means to somebody who looks for trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// Of lesser weight.
    Faint,
    /// As it should be.
    Good,
    /// At work, on its way.
    Busy,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
}

/// A chart of one or more series over time or over peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Its words.
    pub title: &'static str,
    /// Bars, each with its label.
    pub bars: Vec<(String, f64)>,
}

/// One line of text with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was written, where that is known.
    pub at: Option<Timestamp>,
    /// The text as it came.
    pub text: String,
    /// Its weight.
    pub tone: Tone,
}

#[cfg(test)]
mod tests;
