//! Receipts: what validators and miners have signed about jobs.

use time::{Duration, OffsetDateTime};

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::store::glance::ReceiptGlance;
use crate::core::store::glance::Until;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "receipts",
    key: None,
    title: "receipts",
    about: "List the receipts that are kept here, newest first",
    opens: Some("job"),
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str = "no receipt yet: a validator signs one with each job; `horde miner receipts` tells what a miner publishes";

/// A receipt and the name of the role that keeps it.
pub(in crate::tui) struct Kept {
    pub(in crate::tui) by: String,
    pub(in crate::tui) receipt: ReceiptGlance,
}

/// Returns the newest receipts of all who keep some, newest first; perhaps more than asked for.
pub(super) fn newest(source: &Source, until: Until) -> Result<Vec<Kept>, LoadError> {
    let mut all = Vec::new();
    let mut keep = |by: &str, receipts: Vec<ReceiptGlance>| {
        all.extend(receipts.into_iter().map(|receipt| Kept {
            by: by.to_owned(),
            receipt,
        }));
    };
    for seen in source.validators()? {
        keep(&seen.place.name, seen.ask(|look| look.receipts(until))?);
    }
    for seen in source.miners()? {
        keep(&seen.place.name, seen.ask(|look| look.receipts(until))?);
    }
    all.sort_by_key(|kept| std::cmp::Reverse(kept.receipt.stored));
    Ok(all)
}

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.moment(ask);
    let until = cells::until(ask, moment);
    let mut all = newest(source, until)?;
    let older = cells::cut(&mut all, ask, |kept| kept.receipt.stored);
    Ok(Page {
        older,
        ..page(&all, moment)
    })
}

/// Returns the page of these receipts.
pub(in crate::tui) fn page(all: &[Kept], moment: OffsetDateTime) -> Page {
    Page {
        columns: cells::columns(&[
            ("type", false, 0),
            ("job", false, 0),
            ("age", true, 1),
            ("signed", false, 2),
            ("score", true, 3),
            ("took", true, 4),
            ("validator", false, 5),
            ("miner", false, 6),
            ("class", false, 7),
            ("organic", false, 8),
            ("kept", false, 9),
        ]),
        rows: all.iter().map(|kept| row(kept, moment)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

/// Returns the type word of the wire without what all have.
fn kind(kind: &str) -> &str {
    match kind {
        "JobStartedReceipt" => "started",
        "JobAcceptedReceipt" => "accepted",
        "JobFinishedReceipt" => "finished",
        other => other,
    }
}

fn row(kept: &Kept, now: OffsetDateTime) -> Row {
    let receipt = &kept.receipt;
    let signed = if receipt.is_countersigned {
        Cell::text("both")
    } else {
        Cell::text("validator")
    };
    Row {
        key: cells::keyed(&receipt.job, format_args!("{} {}", kept.by, kind(&receipt.kind))),
        cells: vec![
            Cell::text(kind(&receipt.kind)),
            cells::identity(receipt.job.as_str()),
            cells::age(receipt.stored, now),
            signed,
            or_nothing(receipt.score, cells::score),
            or_nothing(receipt.took_us, |took| cells::span(Duration::microseconds(took))),
            cells::hotkey(&receipt.validator),
            cells::hotkey(&receipt.miner),
            or_nothing(receipt.class.as_deref(), Cell::text),
            or_nothing(receipt.is_organic, |is_organic| {
                Cell::text(if is_organic { "yes" } else { "no" })
            }),
            Cell::text(kept.by.clone()).tone(Tone::Faint),
        ],
    }
}
