//! What happens to the dashboard, and what it wants done.

use std::path::PathBuf;
use std::time::Duration;

use crossterm::event::{KeyEvent, MouseEvent};
use time::OffsetDateTime;

use super::view::{Ask, LoadError, Page, View};

/// A moment: what the clock on the wall says, and the time since the start, which never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For showing.
    pub wall: OffsetDateTime,
    /// For pauses and ages.
    pub steady: Duration,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse did something.
    Mouse(MouseEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal has this many columns and rows now.
    Resize(u16, u16),
    /// Time has passed.
    Tick,
    /// The loader has an answer.
    Loaded(Box<Answer>),
    /// A file was written, or was not.
    Saved(Result<PathBuf, String>),
    /// The data of another context was opened.
    Turned(Header),
    /// The terminal is ours again, with nothing of us on it.
    Resumed,
}

/// What stands in the line at the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The roles whose databases are read, as in `facilitator` or `miner-1`.
    pub roles: Vec<String>,
    /// The context, and whether it is the main network.
    pub context: Option<(String, bool)>,
    /// The data directory, as people write it.
    pub dir: String,
}

/// What a page is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be shown.
    Shown,
    /// To find out what is to be looked at.
    Alerts,
}

/// A page that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tells its answer from others.
    pub id: u64,
    /// What it is read for.
    pub purpose: Purpose,
    /// What is to be read.
    pub view: &'static View,
    /// Which page of it.
    pub ask: Ask,
}

/// What became of a [`Request`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// The page, or why there is none.
    pub result: Result<Page, LoadError>,
    /// How long it took to read.
    pub took: Duration,
    /// Whether anything was written since the last reading for the same purpose.
    pub is_news: bool,
    /// The roles that were found, if others than before.
    pub header: Option<Header>,
}

/// What the dashboard wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read a page.
    Load(Request),
    /// Give this to the terminal's clipboard.
    Copy(String),
    /// Write this to a new file.
    Save {
        /// The file; one that exists is left as it is.
        path: PathBuf,
        /// Its content.
        text: String,
    },
    /// Take the mouse, or leave it to the terminal.
    Mouse(bool),
    /// Read the data of another context.
    Turn(String),
    /// Draw everything anew.
    Repaint,
    /// Give the terminal to the shell until it is given back.
    Suspend,
    /// End.
    Quit,
}
