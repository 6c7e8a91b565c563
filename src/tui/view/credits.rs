//! Credits of a facilitator: its books, and every transfer.

use time::OffsetDateTime;

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::store::facilitator::look::{Books, FacilitatorLook};
use crate::core::store::facilitator::{Party, Transfer};
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "credits",
    key: None,
    title: "credits",
    about: "Show a facilitator's books and list its transfers, newest first",
    opens: Some("job"),
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str = "no transfer yet: `horde facilitator credit add HOTKEY AMOUNT` gives a user credit";

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.moment(ask);
    let until = cells::until(ask, moment);
    let facilitators = source.facilitators()?;
    if facilitators.is_empty() {
        return Err(LoadError::NotKept(
            "credit is kept by a facilitator, and none has its data here",
        ));
    }
    let mut transfers = Vec::new();
    let mut facts = Vec::new();
    for seen in &facilitators {
        transfers.extend(seen.ask(|look| look.transfers(until))?);
        // The books are those of now.
        if ask.at.is_none() {
            facts.extend(books(&seen.ask(FacilitatorLook::books)?, moment));
        }
    }
    transfers.sort_by_key(|transfer| std::cmp::Reverse((transfer.at, transfer.id)));
    let older = cells::cut(&mut transfers, ask, |transfer| transfer.at);
    Ok(Page {
        facts,
        older,
        ..page(&transfers, moment)
    })
}

/// Returns the page of these transfers.
pub(in crate::tui) fn page(transfers: &[Transfer], moment: OffsetDateTime) -> Page {
    Page {
        columns: cells::columns(&[
            ("age", true, 1),
            ("kind", false, 0),
            ("amount", true, 0),
            ("from", false, 2),
            ("to", false, 2),
            ("job", false, 3),
            ("note", false, 4),
            ("key", false, 5),
        ]),
        rows: transfers.iter().map(|transfer| row(transfer, moment)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

pub(in crate::tui) fn books(books: &Books, now: OffsetDateTime) -> Vec<(&'static str, Cell)> {
    let with_users = books.issued.minus(books.income);
    let mut facts = vec![
        ("issued", cells::money(books.issued)),
        ("income", cells::money(books.income)),
        ("with users", cells::money(with_users)),
        ("open bills", Cell::integer(books.open_bills)),
    ];
    if let Some(oldest) = books.oldest_open {
        facts.push(("oldest open bill", cells::age(oldest, now)));
    }
    facts
}

fn party(party: &Party) -> Cell {
    match party {
        Party::Issued | Party::Income => Cell::text(party.as_str()).tone(Tone::Faint),
        Party::Available(hotkey) => cells::hotkey(hotkey),
        Party::Reserved(hotkey) => Cell::text(format!("{} (reserved)", cells::shortened(hotkey.as_str()))),
    }
}

fn row(transfer: &Transfer, now: OffsetDateTime) -> Row {
    let tone = match transfer.kind.as_str() {
        "credit" => Tone::Good,
        "debit" => Tone::Warning,
        _ => Tone::Plain,
    };
    let mark = format!("transfer {}", transfer.id);
    Row {
        key: match &transfer.job {
            Some(job) => cells::keyed(job, mark),
            None => format!("#{mark}").into(),
        },
        cells: vec![
            cells::age(transfer.at, now),
            Cell::text(transfer.kind.clone()).tone(tone),
            cells::money(transfer.amount),
            party(&transfer.taken_from),
            party(&transfer.given_to),
            or_nothing(transfer.job.as_ref(), |job| cells::identity(job.as_str())),
            cells::words(&transfer.note),
            cells::words(transfer.key.as_deref().unwrap_or_default()),
        ],
    }
}
