//! Recorded pages, so that the dashboard can be looked at without a network.

use super::event::Header;
use super::view::{Ask, Cell, Column, Page, Row, Tone};

/// Returns what stands at the top of the recording.
pub fn header() -> Header {
    Header {
        roles: ["facilitator", "validator", "miner-1"]
            .map(str::to_owned)
            .to_vec(),
        context: Some(("demo".to_owned(), false)),
        dir: "recorded data".to_owned(),
    }
}

/// Returns the recorded page of a view; none if there is no such recording.
pub fn page(view: &str, _: &Ask) -> Option<Page> {
    match view {
        "overview" => Some(overview()),
        _ => None,
    }
}

fn overview() -> Page {
    let row = |name: &str, role: &str, state: &str, tone| Row {
        key: name.into(),
        cells: vec![Cell::text(name), Cell::text(role), Cell::text(state).tone(tone)],
    };
    Page {
        facts: vec![
            ("network", Cell::text("local")),
            ("running jobs", Cell::integer(2).tone(Tone::Busy)),
        ],
        columns: ["name", "role", "state"]
            .into_iter()
            .zip(0..)
            .map(|(name, rank)| Column {
                name,
                right: false,
                rank,
            })
            .collect(),
        rows: vec![
            row("facilitator", "facilitator", "serving", Tone::Good),
            row("validator", "validator", "connected", Tone::Good),
            row("miner-1", "miner", "2 of 2 executors busy", Tone::Busy),
        ],
        empty: "no role",
        ..Page::default()
    }
}
