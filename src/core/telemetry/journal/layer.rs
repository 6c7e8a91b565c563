//! Turns events into lines of the log.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value as Json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::writer::Journal;
use super::{Entry, OWN_TARGET};
use crate::core::clock::Clock;
use crate::core::model::Timestamp;

/// Bytes of a message or of a field that are kept: escaped, the longest message still fits into a line.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Writes events into a [`Journal`].
#[derive(Debug)]
pub struct JournalLayer {
    journal: Journal,
    clock: Clock,
}

impl JournalLayer {
    /// Makes the layer; `clock` dates the lines.
    pub fn new(journal: Journal, clock: Clock) -> Self {
        Self { journal, clock }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        if about.target() == OWN_TARGET {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let entry = Entry {
            at: Timestamp::new(self.clock.now()),
            level: *about.level(),
            target: about.target().to_owned(),
            message: said.message,
            fields: said.fields,
        };
        self.journal.write(&entry.line());
    }
}

#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Json>,
}

impl Said {
    fn put(&mut self, field: &Field, value: Json) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded::default();
        // It fails when it is full, which cuts what comes after.
        write!(text, "{value:?}").unwrap_or_default();
        if field.name() == "message" {
            self.message = text.0;
        } else {
            self.put(field, text.0.into());
        }
    }
}

/// A text that ends with `…` where it was cut.
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = text.floor_char_boundary(room);
        self.0.push_str(text.get(..end).unwrap_or_default());
        self.0.push('…');
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        let mut text = Bounded::default();
        assert!(write!(text, "a{}", "é".repeat(TEXT_BYTES_MAX)).is_err());
        assert!(text.0.ends_with("é…") && text.0.len() <= TEXT_BYTES_MAX + '…'.len_utf8());
        let mut text = Bounded::default();
        write!(text, "{}", "x".repeat(TEXT_BYTES_MAX)).unwrap();
        assert_eq!(text.0.len(), TEXT_BYTES_MAX);
    }
}
