//! What runs here and whether it is well: the roles, the chain, the jobs of the last hour and day, what to look at.

use time::OffsetDateTime;

use super::cells;
use super::{Ask, Cell, Chart, LoadError, Page, Row, Tone, View};
use crate::core::store::Holder;
use crate::core::store::glance::{Outcomes, Standing};
use crate::core::store::look::Footprint;
use crate::core::store::places::Place;
use crate::tui::roles::{self, Alert, State};
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "overview",
    key: None,
    title: "overview",
    about: "Show which roles keep data here, the chain, how jobs went, and what to look at",
    opens: None,
    keeps_past: false,
    load,
    draw: None,
};

const EMPTY: &str = "no role keeps data here yet: `horde up` starts all of them, `horde miner run` a miner";

#[expect(clippy::unnecessary_wraps, reason = "the shape of a view")]
fn load(source: &Source, _: &Ask) -> Result<Page, LoadError> {
    let now = source.clock.now();
    let roles = source.places.iter().map(|place| {
        let found = roles::standing(place, now);
        let words = if found.state.is_unreadable {
            Cell::text("unreadable").tone(Tone::Bad)
        } else {
            standing(found.running, found.state.is_draining)
        };
        (row(place, words, &found.state, found.footprint, now), found.state)
    });
    let roles = roles.collect();
    let mut facts: Vec<_> = roles::shared(source)
        .into_iter()
        .map(|alert| ("alert", cell(alert)))
        .collect();
    facts.extend(chain(source, now));
    facts.push(("directory", Cell::text(source.dir.display().to_string())));
    Ok(page(roles, facts))
}

/// Returns the page of these roles, in the order of a job's road, with what is known besides.
pub(in crate::tui) fn page(roles: Vec<(Row, State)>, facts: Vec<(&'static str, Cell)>) -> Page {
    let mut page = Page {
        columns: cells::columns(&[
            ("role", false, 0),
            ("state", false, 0),
            ("open", true, 1),
            ("hour", false, 1),
            ("day", false, 2),
            ("executors", true, 2),
            ("owed", true, 4),
            ("written", true, 3),
            ("size", true, 5),
            ("directory", false, 6),
        ]),
        empty: EMPTY,
        ..Page::default()
    };
    let mut day: Option<Outcomes> = None;
    for (row, state) in roles {
        // What is to be looked at stands where it is seen on the smallest screen.
        page.facts
            .extend(state.alerts.into_iter().map(|alert| ("alert", cell(alert))));
        // Of the roles on a job's road the first knows of all jobs.
        if day.is_none() && state.day.sum() > 0 {
            day = Some(state.day);
        }
        page.rows.push(row);
    }
    page.facts.extend(facts);
    page.charts.extend(day.map(chart));
    page
}

/// Tells of the network and of the chain, as far as that is known here.
fn chain(source: &Source, now: OffsetDateTime) -> Vec<(&'static str, Cell)> {
    let mut facts = Vec::new();
    if let Some((network, netuid)) = &source.network {
        facts.push(("network", Cell::text(format!("{network}, subnet {netuid}"))));
    }
    let chain = match roles::chain(source, now) {
        Ok(Some(chain)) => chain,
        Ok(None) => return facts,
        Err(error) => {
            facts.push(("chain", Cell::text(error.to_string()).tone(Tone::Bad)));
            return facts;
        }
    };
    if source.network.is_none()
        && let Some((netuid, _)) = chain.weights.first()
    {
        facts.push(("network", Cell::text(format!("local, subnet {netuid}"))));
    }
    facts.push((
        "chain",
        Cell::text(format!(
            "block {}, {} old (a local chain)",
            chain.block,
            cells::short(chain.age)
        )),
    ));
    for (_, set) in chain.weights {
        let words = match set {
            Some((blocks, age)) => Cell::text(format!("set {blocks} blocks ago ({})", cells::short(age))),
            None => Cell::text("never set").tone(Tone::Faint),
        };
        facts.push(("weights", words));
    }
    facts
}

fn cell(alert: Alert) -> Cell {
    Cell::text(alert.words).tone(if alert.is_bad { Tone::Bad } else { Tone::Warning })
}

/// Returns the row of a role.
pub(in crate::tui) fn row(
    place: &Place,
    words: Cell,
    state: &State,
    footprint: Footprint,
    now: OffsetDateTime,
) -> Row {
    let marked =
        |count: i64, tone: Tone| Cell::integer(count).tone(if count > 0 { tone } else { Tone::Plain });
    let executors = state.executors.map_or_else(Cell::nothing, |(taken, all)| {
        Cell::text(format!("{taken}/{all}")).tone(if taken > 0 { Tone::Busy } else { Tone::Plain })
    });
    Row {
        key: place.name.as_str().into(),
        cells: vec![
            Cell::text(place.name.clone()),
            words,
            marked(state.open, Tone::Busy),
            outcomes(state.hour),
            outcomes(state.day),
            executors,
            marked(state.owed, Tone::Warning),
            cells::or_nothing(footprint.written_at, |at| cells::age(at, now)),
            cells::bytes(footprint.bytes),
            Cell::text(place.dir.display().to_string()).tone(Tone::Faint),
        ],
    }
}

/// Returns what a role does, in words.
pub(in crate::tui) fn standing(running: Holder, is_draining: bool) -> Cell {
    match (running, is_draining) {
        (Holder::Process(pid), false) => Cell::text(format!("running ({pid})")).tone(Tone::Good),
        (Holder::Process(pid), true) => Cell::text(format!("draining ({pid})")).tone(Tone::Warning),
        (Holder::Nobody, _) => Cell::text("stopped").tone(Tone::Faint),
        (Holder::Unknown, false) => Cell::text("not known"),
        (Holder::Unknown, true) => Cell::text("draining").tone(Tone::Warning),
    }
}

/// Tells how jobs went in a few words.
fn outcomes(outcomes: Outcomes) -> Cell {
    let mut words = Vec::new();
    for (count, word) in [
        (outcomes.good, "good"),
        (outcomes.bad, "bad"),
        (outcomes.declined, "declined"),
        (outcomes.open, "open"),
    ] {
        if count > 0 {
            words.push(format!("{count} {word}"));
        }
    }
    if words.is_empty() {
        return Cell::text("none").tone(Tone::Faint);
    }
    let more = if outcomes.is_more { ", and older ones" } else { "" };
    let tone = if outcomes.bad > 0 {
        Tone::Warning
    } else {
        Tone::Good
    };
    let tone = if outcomes.good + outcomes.bad == 0 {
        Tone::Plain
    } else {
        tone
    };
    Cell::text(format!("{}{more}", words.join(" "))).tone(tone)
}

fn chart(outcomes: Outcomes) -> Chart {
    let bar = |(standing, count): (Standing, u64)| {
        let name = match standing {
            Standing::Good => "good",
            Standing::Bad => "bad",
            Standing::Declined => "declined",
            Standing::Open => "open",
        };
        #[expect(clippy::cast_precision_loss, reason = "at most some ten thousand")]
        let length = count as f64;
        (name.to_owned(), length)
    };
    let bars = [
        (Standing::Good, outcomes.good),
        (Standing::Bad, outcomes.bad),
        (Standing::Declined, outcomes.declined),
        (Standing::Open, outcomes.open),
    ];
    Chart {
        title: "jobs of the last day",
        bars: bars.into_iter().map(bar).collect(),
    }
}
