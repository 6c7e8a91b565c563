//! Events: the journals of all roles here, merged by time.

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::store::glance::{EventGlance, Standing};
use crate::core::store::times::micros;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "events",
    key: None,
    title: "events",
    about: "List what happened to jobs in all roles here, newest first",
    opens: Some("job"),
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str =
    "nothing has happened yet: `horde job submit` sends a job, `:overview` shows who is here to take it";

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let until = cells::until(ask, source.moment(ask));
    let mut events: Vec<(String, EventGlance)> = Vec::new();
    let mut add = |by: &str, found: Vec<EventGlance>| {
        events.extend(found.into_iter().map(|event| (by.to_owned(), event)));
    };
    for seen in source.facilitators()? {
        add(&seen.place.name, seen.ask(|look| look.events(until))?);
    }
    for seen in source.validators()? {
        add(&seen.place.name, seen.ask(|look| look.events(until))?);
    }
    for seen in source.miners()? {
        add(&seen.place.name, seen.ask(|look| look.events(until))?);
    }
    events.sort_by_key(|(_, event)| std::cmp::Reverse(event.at));
    let older = cells::cut(&mut events, ask, |(_, event)| event.at);
    Ok(Page {
        older,
        ..page(&events)
    })
}

/// Returns the page of these events, each with the name of the role that noted it.
pub(in crate::tui) fn page(events: &[(String, EventGlance)]) -> Page {
    Page {
        columns: cells::columns(&[
            ("time", false, 0),
            ("role", false, 1),
            ("event", false, 0),
            ("job", false, 0),
            ("words", false, 2),
            ("peer", false, 3),
        ]),
        rows: events.iter().map(|(by, event)| row(by, event)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

fn row(by: &str, event: &EventGlance) -> Row {
    let tone = match event.standing {
        Standing::Open => Tone::Plain,
        ended => cells::tone(ended),
    };
    let mark = format!("{by} {} {}", event.what, micros(event.at));
    Row {
        key: match &event.job {
            Some(job) => cells::keyed(job, mark),
            None => format!("#{mark}").into(),
        },
        cells: vec![
            cells::clock(event.at),
            Cell::text(by),
            Cell::text(event.what.clone()).tone(tone),
            or_nothing(event.job.as_ref(), |job| cells::identity(job.as_str())),
            cells::words(&event.words),
            or_nothing(event.peer.as_ref(), cells::hotkey),
        ],
    }
}
