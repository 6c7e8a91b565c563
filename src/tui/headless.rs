//! The dashboard without a terminal: one frame as text or as a picture, one page as what it is.

use std::sync::Arc;
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::app::{App, Start};
use super::draw::draw;
use super::event::{Effect, Event, Now};
use super::loader::Reader;
use super::view::{LoadError, Page};
use crate::core::clock::Clock;

/// Readings after which a frame is taken as it is.
const READINGS_MAX: usize = 4;

/// The dashboard at one moment, with its page read.
#[derive(Debug)]
pub struct Still {
    app: App,
}

impl Still {
    /// Reads what the dashboard would show first.
    pub fn take(start: Start, reader: &mut Reader, clock: &Clock) -> Self {
        let now = Now {
            wall: clock.now(),
            steady: Duration::ZERO,
        };
        let mut app = App::new(start, now);
        app.header = reader.header();
        let mut effects = app.update(Event::Tick, now);
        for _ in 0..READINGS_MAX {
            let mut next = Vec::new();
            for effect in effects {
                if let Effect::Load(request) = effect {
                    let answer = reader.read(&request);
                    next.extend(app.update(Event::Loaded(Box::new(answer)), now));
                }
            }
            effects = next;
        }
        Self { app }
    }

    /// Returns the state.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Returns the page, or why there is none.
    pub fn page(&self) -> Result<Arc<Page>, LoadError> {
        let screen = self.app.screen();
        match (&screen.page, &screen.failure) {
            (Some(page), _) => Ok(Arc::clone(page)),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Ok(Arc::default()),
        }
    }

    /// Draws the frame.
    pub fn frame(&self) -> Buffer {
        frame(&self.app)
    }
}

/// Draws a frame of the dashboard's size.
pub fn frame(app: &App) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, app.size.0, app.size.1));
    draw(app, &mut buffer);
    buffer
}

/// Returns a frame as lines of text without colours.
pub fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        let mut skip = false;
        for x in buffer.area.left()..buffer.area.right() {
            let symbol = buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
            // What stands behind a wide character is not seen.
            if !std::mem::take(&mut skip) {
                line.push_str(symbol);
                skip = super::tame::columns(symbol) == 2;
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
