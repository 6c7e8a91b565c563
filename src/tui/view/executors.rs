//! Executors: the pools of the miners here, slot by slot, and what is known of other miners' machines.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use time::OffsetDateTime;

use super::cells;
use super::{Ask, Cell, Line, LoadError, Page, Row, Tone, View};
use crate::core::model::{ExecutorClass, Manifest, Timestamp};
use crate::core::store::facilitator::look::MachineGlance;
use crate::core::store::miner::JobState;
use crate::core::store::miner::look::{MinerLook, TakenSlot};
use crate::core::store::miner::manifest::OfferedClass;
use crate::tui::source::{Seen, Source};

/// The view.
pub const VIEW: View = View {
    name: "executors",
    key: None,
    title: "executors",
    about: "Show the executors of the miners here, by class and slot, and the machines of others",
    opens: Some("job"),
    keeps_past: false,
    load,
    draw: None,
};

const EMPTY: &str =
    "no executor yet: `horde miner manifest set` says how many there are, `horde miner run` starts the miner";

/// Machines that are told of.
const MACHINES_MAX: u32 = 200;

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.clock.now();
    let limit = cells::limit(ask);
    let rows_max = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut pools = Vec::new();
    for seen in source.miners()? {
        pools.push((seen.place.name.clone(), Pools::of(&seen, limit)?));
    }
    let mut machines = Vec::new();
    for seen in source.facilitators()? {
        machines.extend(seen.ask(|look| look.machines(MACHINES_MAX))?);
    }
    Ok(page(&pools, &machines, rows_max, moment))
}

/// Returns the page of the pools of miners, by name, and of machines.
pub(in crate::tui) fn page(
    pools: &[(String, Pools)],
    machines: &[MachineGlance],
    rows_max: usize,
    moment: OffsetDateTime,
) -> Page {
    let mut page = Page {
        columns: cells::columns(&[
            ("class", false, 0),
            ("slot", true, 0),
            ("state", false, 0),
            ("job", false, 1),
            ("for", true, 1),
            ("validator", false, 2),
            ("executor", false, 3),
            ("miner", false, 4),
        ]),
        text: machines.iter().map(machine).collect(),
        empty: EMPTY,
        ..Page::default()
    };
    for (name, pools) in pools {
        page.facts.extend(pools.facts(name));
        page.rows.extend(pools.rows(name, moment, rows_max));
    }
    page.rows.truncate(rows_max);
    page
}

/// A class of executors of one miner.
#[derive(Default)]
struct Pool {
    counted: i64,
    offered: Option<(i64, Option<String>)>,
    taken: Vec<TakenSlot>,
}

/// The classes of one miner.
pub(in crate::tui) struct Pools(BTreeMap<String, Pool>);

impl Pools {
    fn of(seen: &Seen<MinerLook>, limit: u32) -> Result<Self, LoadError> {
        let (state, offered) = seen.ask(MinerLook::manifest)?;
        let counted = state.map(|state| state.counted).unwrap_or_default();
        Ok(Self::new(counted, offered, seen.ask(|look| look.slots(limit))?))
    }

    /// Makes them of what counts, what is offered, and which executors are taken.
    pub(in crate::tui) fn new(counted: Manifest, offered: Vec<OfferedClass>, taken: Vec<TakenSlot>) -> Self {
        let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
        for (class, count) in counted.0 {
            pools.entry(class.as_str().to_owned()).or_default().counted = count.max(0);
        }
        for offered in offered {
            let pool = pools.entry(offered.class.as_str().to_owned()).or_default();
            pool.offered = Some((offered.count, offered.reason));
        }
        for slot in taken {
            pools.entry(slot.class.clone()).or_default().taken.push(slot);
        }
        Self(pools)
    }

    /// Tells each pool in one line; names of facts are those of classes.
    fn facts(&self, miner: &str) -> Vec<(&'static str, Cell)> {
        let fact = |(class, pool): (&String, &Pool)| {
            let class = class.parse::<ExecutorClass>().ok()?.as_str();
            let taken = pool.taken.len();
            let mut words = format!("{taken} of {} taken on {miner}", pool.counted);
            let mut tone = if taken > 0 { Tone::Busy } else { Tone::Plain };
            if let Some((offered, reason)) = &pool.offered
                && *offered < pool.counted
            {
                words = format!("{words}, {offered} offered");
                if let Some(reason) = reason {
                    words = format!("{words} ({reason})");
                }
                tone = Tone::Warning;
            }
            Some((class, Cell::text(words).tone(tone)))
        };
        self.0.iter().filter_map(fact).collect()
    }

    fn rows(&self, miner: &str, now: OffsetDateTime, rows_max: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        for (class, pool) in &self.0 {
            for slot in &pool.taken {
                rows.push(taken(miner, slot, now));
            }
            let numbers: Vec<i64> = pool.taken.iter().map(|slot| i64::from(slot.slot)).collect();
            let free = (0..pool.counted).filter(|number| !numbers.contains(number));
            rows.extend(free.take(rows_max).map(|number| free_slot(miner, class, number)));
        }
        rows
    }
}

fn taken(miner: &str, slot: &TakenSlot, now: OffsetDateTime) -> Row {
    let (words, tone) = match slot.state {
        JobState::WaitingForExecutor => ("starting", Tone::Busy),
        JobState::WaitingForPayload => ("ready", Tone::Busy),
        JobState::Running => ("running", Tone::Busy),
        JobState::Finished | JobState::Failed | JobState::Rejected => ("leaving", Tone::Warning),
    };
    let executor = match slot.started {
        Some(_) => Cell::text("started"),
        None => Cell::text("not started yet").tone(Tone::Warning),
    };
    Row {
        key: cells::keyed(&slot.job, format_args!("{miner} {} {}", slot.class, slot.slot)),
        cells: vec![
            Cell::text(slot.class.clone()),
            Cell::integer(i64::from(slot.slot)),
            Cell::text(words).tone(tone),
            cells::identity(slot.job.as_str()),
            cells::span(now - slot.since),
            cells::hotkey(&slot.validator),
            executor,
            Cell::text(miner).tone(Tone::Faint),
        ],
    }
}

fn free_slot(miner: &str, class: &str, number: i64) -> Row {
    Row {
        key: format!("#{miner} {class} {number}").into(),
        cells: vec![
            Cell::text(class),
            Cell::integer(number),
            Cell::text("free").tone(Tone::Good),
            Cell::nothing(),
            Cell::nothing(),
            Cell::nothing(),
            Cell::nothing(),
            Cell::text(miner).tone(Tone::Faint),
        ],
    }
}

/// Tells of a machine what its miner's validator has told the facilitator.
fn machine(machine: &MachineGlance) -> Line {
    let specs: Json = serde_json::from_str(&machine.specs).unwrap_or_default();
    let gpus: Vec<&str> = specs
        .pointer("/gpu/details")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(|gpu| gpu.get("name").and_then(Json::as_str))
        .collect();
    let what = if gpus.is_empty() {
        machine.specs.clone()
    } else {
        format!("{} GPU: {}", gpus.len(), gpus.join(", "))
    };
    Line {
        at: Some(Timestamp::new(machine.received)),
        text: format!(
            "machine of {} by {}: {what}",
            cells::shortened(machine.miner.as_str()),
            cells::shortened(machine.validator.as_str()),
        ),
        tone: Tone::Plain,
    }
}
