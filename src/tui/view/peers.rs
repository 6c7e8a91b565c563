//! Peers: a miner's validators, a validator's miners, a facilitator's validators, with how their jobs went.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::model::Hotkey;
use crate::core::store::facilitator::look::LinkGlance;
use crate::core::store::miner::ledger::{Counter, Event, SELF_TEST};
use crate::core::store::miner::look::MinerLook;
use crate::core::store::miner::validators::KnownValidator;
use crate::core::store::times::micros;
use crate::core::store::validator::look::MinerGlance;
use crate::tui::source::{Seen, Source};

/// The view.
pub const VIEW: View = View {
    name: "peers",
    key: None,
    title: "peers",
    about: "List a miner's validators, a validator's miners, a facilitator's validators, with their counts",
    opens: None,
    keeps_past: false,
    load,
    draw: None,
};

const EMPTY: &str = "no peer yet: `horde miner validator list` shows whom the chain lists, `horde miner check` makes one knock";

/// Validators of a facilitator that are listed.
const LINKS_MAX: u32 = 500;

/// Rao in one TAO.
const RAO: f64 = 1e9;

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.clock.now();
    let mut rows = Vec::new();
    for seen in source.facilitators()? {
        let links = seen.ask(|look| look.links(LINKS_MAX))?;
        rows.extend(links.iter().map(|found| link(&seen.place.name, found, moment)));
    }
    for seen in source.validators()? {
        let miners = seen.ask(|look| look.miners(micros(moment)))?;
        rows.extend(
            miners
                .iter()
                .map(|(hotkey, found)| miner(&seen.place.name, hotkey, found, moment)),
        );
    }
    for seen in source.miners()? {
        rows.extend(validators(&seen, moment)?);
    }
    rows.truncate(usize::try_from(cells::limit(ask)).unwrap_or(usize::MAX));
    Ok(page(rows))
}

/// Returns the page of these rows.
pub(in crate::tui) fn page(rows: Vec<Row>) -> Page {
    Page {
        columns: cells::columns(&[
            ("peer", false, 0),
            ("state", false, 0),
            ("good", true, 1),
            ("bad", true, 1),
            ("declined", true, 2),
            ("open", true, 2),
            ("refused", true, 3),
            ("stake", true, 4),
            ("seen", true, 4),
            ("words", false, 5),
            ("role", false, 6),
        ]),
        rows,
        empty: EMPTY,
        ..Page::default()
    }
}

/// A row before it is one; counts that nobody keeps are none.
#[derive(Default)]
struct Peer {
    state: Option<Cell>,
    good: Option<u64>,
    bad: Option<u64>,
    declined: Option<u64>,
    open: Option<u64>,
    refused: Option<u64>,
    stake: Option<f64>,
    seen: Option<Cell>,
    words: String,
}

impl Peer {
    fn row(self, by: &str, name: &str) -> Row {
        let counted = |count: Option<u64>, tone: Tone| {
            or_nothing(count, |count| {
                cells::count(count).tone(if count > 0 { tone } else { Tone::Plain })
            })
        };
        Row {
            key: format!("{name}#{by}").into(),
            cells: vec![
                cells::identity(name),
                self.state.unwrap_or_else(Cell::nothing),
                counted(self.good, Tone::Good),
                counted(self.bad, Tone::Bad),
                counted(self.declined, Tone::Warning),
                counted(self.open, Tone::Busy),
                counted(self.refused, Tone::Warning),
                or_nothing(self.stake, |stake| cells::number(format!("{stake:.0}"), stake)),
                self.seen.unwrap_or_else(Cell::nothing),
                cells::words(&self.words),
                Cell::text(by).tone(Tone::Faint),
            ],
        }
    }
}

pub(in crate::tui) fn link(by: &str, link: &LinkGlance, now: OffsetDateTime) -> Row {
    /// A validator says something at least so often, or its connection is down (wire-facilitator-validator §1).
    const SILENT: time::Duration = time::Duration::minutes(2);
    let is_silent = now - link.seen > SILENT;
    Peer {
        state: Some(if is_silent {
            Cell::text("silent").tone(Tone::Warning)
        } else {
            Cell::text("connected").tone(Tone::Good)
        }),
        open: Some(link.open.unsigned_abs()),
        seen: Some(cells::age(link.seen, now)),
        words: link
            .version
            .as_ref()
            .map(|version| format!("version {version}"))
            .unwrap_or_default(),
        ..Peer::default()
    }
    .row(by, link.validator.as_str())
}

pub(in crate::tui) fn miner(by: &str, hotkey: &Hotkey, miner: &MinerGlance, now: OffsetDateTime) -> Row {
    let is_trusted = hotkey.as_str() == Hotkey::TRUSTED_MINER;
    let state = match (miner.blacklisted, is_trusted) {
        (Some(_), _) => Cell::text("blacklisted").tone(Tone::Bad),
        (None, true) => Cell::text("trusted").tone(Tone::Good),
        (None, false) => Cell::text("miner"),
    };
    let mut words = Vec::new();
    if miner.incidents > 0 {
        words.push(format!("{} incidents", miner.incidents));
    }
    if let Some(until) = miner.blacklisted {
        words.push(format!("no jobs for {}", cells::short(until - now)));
    }
    Peer {
        state: Some(state),
        good: Some(miner.outcomes.good),
        bad: Some(miner.outcomes.bad),
        declined: Some(miner.outcomes.declined),
        open: Some(miner.outcomes.open),
        seen: miner.last.map(|last| cells::age(last, now)),
        words: words.join(", "),
        ..Peer::default()
    }
    .row(by, hotkey.as_str())
}

fn validators(seen: &Seen<MinerLook>, now: OffsetDateTime) -> Result<Vec<Row>, LoadError> {
    let (known, _) = seen.ask(MinerLook::validators)?;
    Ok(of_miner(
        &seen.place.name,
        &known,
        seen.ask(MinerLook::counters)?,
        now,
    ))
}

/// Tells of all validators that the chain lists, the operator names, or something was counted of.
pub(in crate::tui) fn of_miner(
    name: &str,
    known: &[KnownValidator],
    counters: Vec<Counter>,
    now: OffsetDateTime,
) -> Vec<Row> {
    let mut counts: BTreeMap<String, Peer> = BTreeMap::new();
    for counter in counters {
        // Strangers have no name.
        if counter.validator.is_empty() {
            continue;
        }
        let peer = counts.entry(counter.validator).or_default();
        let sum = match counter.event {
            Event::Finished => &mut peer.good,
            Event::Failed | Event::TimedOut => &mut peer.bad,
            Event::Declined => &mut peer.declined,
            Event::ReceiptRefused | Event::AuthenticationRefused => &mut peer.refused,
            Event::Offered | Event::Accepted => continue,
        };
        *sum = Some(sum.unwrap_or(0).saturating_add(counter.count));
    }
    let mut rows = Vec::new();
    for validator in known {
        let counted = counts.remove(validator.hotkey.as_str()).unwrap_or_default();
        let peer = with_orders(counted, validator, now);
        rows.push(peer.row(name, validator.hotkey.as_str()));
    }
    for (hotkey, mut peer) in counts {
        peer.state = Some(if hotkey == SELF_TEST {
            Cell::text("self-test").tone(Tone::Faint)
        } else {
            Cell::text("not listed").tone(Tone::Faint)
        });
        rows.push(peer.row(name, &hotkey));
    }
    rows
}

fn with_orders(counted: Peer, validator: &KnownValidator, now: OffsetDateTime) -> Peer {
    let block = validator.block.as_ref().filter(|block| block.holds_at(now));
    let state = match (block, validator.is_debug, validator.is_active) {
        (Some(_), _, _) => Cell::text("blocked").tone(Tone::Bad),
        (None, true, _) => Cell::text("debug").tone(Tone::Warning),
        (None, false, true) => Cell::text("active").tone(Tone::Good),
        (None, false, false) => Cell::text("inactive").tone(Tone::Faint),
    };
    #[expect(clippy::cast_precision_loss, reason = "a stake is shown in whole TAO")]
    let stake = validator.stake_rao as f64 / RAO;
    Peer {
        state: Some(state),
        good: counted.good.or(Some(0)),
        bad: counted.bad.or(Some(0)),
        declined: counted.declined.or(Some(0)),
        refused: counted.refused.or(Some(0)),
        stake: Some(stake),
        words: block.map(|block| block.reason.clone()).unwrap_or_default(),
        ..counted
    }
}
