//! Scores: what finished receipts say that jobs are worth, for each job and for each peer.

use std::collections::{BTreeMap, HashSet};

use time::{Duration, OffsetDateTime, Time};

use super::cells::{self, or_nothing};
use super::receipts::{Kept, newest};
use super::{Ask, Cell, Chart, LoadError, Page, Row, Tone, View};
use crate::core::model::Hotkey;
use crate::core::store::glance::Until;
use crate::core::store::times::micros;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "scores",
    key: None,
    title: "scores",
    about: "Show what jobs were worth by their finished receipts, and the sums of each peer today",
    opens: Some("job"),
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str = "no finished receipt yet: a validator signs one when it has a job's outcome; `horde miner jobs` lists the jobs";

/// Receipts that are added up; a job has three.
const RECEIPTS_MAX: u32 = 3000;

/// Peers that have a bar.
const BARS_MAX: usize = 12;

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.moment(ask);
    let until = cells::until(ask, moment);
    let read = newest(
        source,
        Until {
            limit: RECEIPTS_MAX,
            ..until
        },
    )?;
    let is_more = read.len() >= usize::try_from(RECEIPTS_MAX).unwrap_or(usize::MAX);
    let older = read
        .last()
        .filter(|_| is_more)
        .map(|kept| micros(kept.receipt.stored).to_string());
    let mut scored = scored(read);
    let sums = Sums::of(&scored, moment.replace_time(Time::MIDNIGHT));
    let cut = cells::cut(&mut scored, ask, |kept| kept.receipt.stored);
    Ok(Page {
        older: cut.or(older),
        ..shown(&scored, &sums, is_more, moment)
    })
}

/// Returns the page of these receipts, which are all there are.
pub(in crate::tui) fn page(receipts: Vec<Kept>, moment: OffsetDateTime) -> Page {
    let scored = scored(receipts);
    let sums = Sums::of(&scored, moment.replace_time(Time::MIDNIGHT));
    shown(&scored, &sums, false, moment)
}

/// Returns the receipts with a score, each once: validator and miner of one machine keep the same.
fn scored(receipts: Vec<Kept>) -> Vec<Kept> {
    let mut seen = HashSet::new();
    receipts
        .into_iter()
        .filter(|kept| kept.receipt.score.is_some() && seen.insert(kept.receipt.job.clone()))
        .collect()
}

fn shown(scored: &[Kept], sums: &Sums, is_more: bool, moment: OffsetDateTime) -> Page {
    let charts = if sums.by_peer.is_empty() {
        Vec::new()
    } else {
        vec![sums.chart()]
    };
    Page {
        facts: sums.facts(is_more),
        charts,
        columns: cells::columns(&[
            ("job", false, 0),
            ("score", true, 0),
            ("peer", false, 1),
            ("took", true, 2),
            ("age", true, 3),
            ("miner", false, 5),
            ("validator", false, 6),
            ("kept", false, 7),
        ]),
        rows: scored.iter().map(|kept| row(kept, moment)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

/// Returns whom a receipt is about, seen from who keeps it: a miner's validator, a validator's miner.
fn peer(kept: &Kept) -> &Hotkey {
    if kept.by.starts_with("validator") {
        &kept.receipt.miner
    } else {
        &kept.receipt.validator
    }
}

/// Jobs and the sum of their scores, since midnight.
#[derive(Default)]
struct Sums {
    by_peer: BTreeMap<Hotkey, (u64, f64)>,
}

impl Sums {
    fn of(scored: &[Kept], midnight: OffsetDateTime) -> Self {
        let mut sums = Self::default();
        for kept in scored.iter().filter(|kept| kept.receipt.stored >= midnight) {
            let (jobs, sum) = sums.by_peer.entry(peer(kept).clone()).or_default();
            *jobs += 1;
            *sum += kept.receipt.score.unwrap_or_default();
        }
        sums
    }

    fn facts(&self, is_more: bool) -> Vec<(&'static str, Cell)> {
        if self.by_peer.is_empty() {
            return Vec::new();
        }
        let jobs = self
            .by_peer
            .values()
            .map(|(jobs, _)| *jobs)
            .fold(0, u64::saturating_add);
        let sum: f64 = self.by_peer.values().map(|(_, sum)| sum).sum();
        let counted = if is_more {
            Cell::text(format!("the newest {RECEIPTS_MAX} receipts")).tone(Tone::Warning)
        } else {
            Cell::text("all of today (UTC)")
        };
        vec![
            ("jobs today", cells::count(jobs)),
            ("score today", cells::score(sum)),
            (
                "peers today",
                cells::count(u64::try_from(self.by_peer.len()).unwrap_or(u64::MAX)),
            ),
            ("counted", counted),
        ]
    }

    fn chart(&self) -> Chart {
        let mut bars: Vec<(String, f64)> = self
            .by_peer
            .iter()
            .map(|(peer, (_, sum))| (cells::shortened(peer.as_str()), *sum))
            .collect();
        bars.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        bars.truncate(BARS_MAX);
        Chart {
            title: "score of today by peer",
            bars,
        }
    }
}

fn row(kept: &Kept, now: OffsetDateTime) -> Row {
    let receipt = &kept.receipt;
    let score = or_nothing(receipt.score, |score| {
        cells::score(score).tone(if score > 0.0 { Tone::Good } else { Tone::Warning })
    });
    Row {
        key: receipt.job.as_str().into(),
        cells: vec![
            cells::identity(receipt.job.as_str()),
            score,
            cells::hotkey(peer(kept)),
            or_nothing(receipt.took_us, |took| cells::span(Duration::microseconds(took))),
            cells::age(receipt.stored, now),
            cells::hotkey(&receipt.miner),
            cells::hotkey(&receipt.validator),
            Cell::text(kept.by.clone()).tone(Tone::Faint),
        ],
    }
}
