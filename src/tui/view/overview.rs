//! What runs here and whether it is well: the roles, the chain, the jobs of the last hour and day, what to look at.

use time::{Duration, OffsetDateTime};

use super::cells;
use super::checks::{self, Outcome};
use super::{Ask, Cell, Chart, LoadError, Page, Row, Tone, View};
use crate::core::store::facilitator::look::FacilitatorLook;
use crate::core::store::glance::{Outcomes, Standing};
use crate::core::store::look::{Footprint, LookError, footprint};
use crate::core::store::miner::look::MinerLook;
use crate::core::store::places::{Place, Role};
use crate::core::store::times::micros;
use crate::core::store::validator::look::ValidatorLook;
use crate::core::store::{Holder, holder};
use crate::tui::source::{Source, refused};

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

/// A slot that a job has for longer is looked at: no job of the reference may take that long.
const STUCK: Duration = Duration::hours(24);

/// A bill that is open for longer is looked at.
const UNSETTLED: Duration = Duration::hours(24);

/// A database with open jobs is written more often than that.
const UNWRITTEN: Duration = Duration::hours(1);

/// Slots that are looked at.
const SLOTS_MAX: u32 = 1000;

/// What is known of one role.
#[derive(Default)]
pub(in crate::tui) struct State {
    /// Jobs that have not ended.
    pub(in crate::tui) open: i64,
    /// Executors that are taken, and how many there are.
    pub(in crate::tui) executors: Option<(i64, i64)>,
    /// Jobs of the last hour, and of the last day.
    pub(in crate::tui) hour: Outcomes,
    pub(in crate::tui) day: Outcomes,
    /// Whether no new jobs are taken.
    pub(in crate::tui) is_draining: bool,
    /// Reports or outcomes that a peer has not taken.
    pub(in crate::tui) owed: i64,
    /// What to look at.
    pub(in crate::tui) alerts: Vec<Cell>,
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a view")]
fn load(source: &Source, _: &Ask) -> Result<Page, LoadError> {
    let now = source.clock.now();
    let roles = source.places.iter().map(|place| role(place, now)).collect();
    let mut facts = chain(source, now);
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
            .extend(state.alerts.into_iter().map(|alert| ("alert", alert)));
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
    match local_chain(source, now) {
        Ok(found) => facts.extend(found),
        Err(error) => facts.push(("chain", Cell::text(error.to_string()).tone(Tone::Bad))),
    }
    facts
}

fn local_chain(source: &Source, now: OffsetDateTime) -> Result<Vec<(&'static str, Cell)>, LoadError> {
    let mut facts = Vec::new();
    let Some(look) = source.chain()? else {
        return Ok(facts);
    };
    let failed = |error: LookError| refused(std::path::Path::new("chain.sqlite"), &error);
    let Some(genesis) = look.genesis().map_err(failed)? else {
        return Ok(facts);
    };
    let netuids = look.netuids().map_err(failed)?;
    if source.network.is_none()
        && let Some(netuid) = netuids.first()
    {
        facts.push(("network", Cell::text(format!("local, subnet {netuid}"))));
    }
    let passed = (micros(now) / 1000).saturating_sub(genesis.unix_millis).max(0);
    let block = passed.checked_div(genesis.block_millis).unwrap_or(0);
    let age = Duration::milliseconds(passed.checked_rem(genesis.block_millis).unwrap_or(0));
    facts.push((
        "chain",
        Cell::text(format!(
            "block {block}, {} old (a local chain)",
            cells::short(age)
        )),
    ));
    for netuid in netuids {
        let words = match look.weighed(netuid).map_err(failed)? {
            Some(set) => {
                let blocks = block
                    .saturating_sub(i64::try_from(set.0).unwrap_or(i64::MAX))
                    .max(0);
                let age = Duration::milliseconds(blocks.saturating_mul(genesis.block_millis));
                Cell::text(format!("set {blocks} blocks ago ({})", cells::short(age)))
            }
            None => Cell::text("never set").tone(Tone::Faint),
        };
        facts.push(("weights", words));
    }
    Ok(facts)
}

/// Tells of one role; of a database that cannot be read it says so, since the others can be.
fn role(place: &Place, now: OffsetDateTime) -> (Row, State) {
    let read = match place.role {
        Role::Facilitator => facilitator(place, now),
        Role::Validator => validator(place, now),
        Role::Miner => miner(place, now),
    };
    let footprint = footprint(&place.database());
    let running = holder(&place.database());
    let (mut state, words) = match read {
        Ok(state) => {
            let words = standing(running, state.is_draining);
            (state, words)
        }
        Err(error) => {
            let words = refused(&place.database(), &error).to_string();
            let state = State {
                alerts: vec![Cell::text(format!("{}: {words}", place.name)).tone(Tone::Bad)],
                ..State::default()
            };
            (state, Cell::text("unreadable").tone(Tone::Bad))
        }
    };
    common_alerts(place, &mut state, (running, footprint.written_at), now);
    let row = row(place, words, &state, footprint, now);
    (row, state)
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

/// Looks at what may be wrong with any role.
fn common_alerts(
    place: &Place,
    state: &mut State,
    (running, written): (Holder, Option<OffsetDateTime>),
    now: OffsetDateTime,
) {
    let name = &place.name;
    if running == Holder::Nobody && state.open > 0 {
        let words = format!(
            "{name} is stopped with open jobs ({}): start it again (see its log)",
            state.open
        );
        state.alerts.push(Cell::text(words).tone(Tone::Bad));
    }
    if state.is_draining {
        let words = format!(
            "{name} takes no new jobs: `horde {} undrain` ends that",
            place.role.word()
        );
        state.alerts.push(Cell::text(words).tone(Tone::Warning));
    }
    if let (Holder::Process(_), Some(written)) = (running, written)
        && state.open > 0
        && now - written > UNWRITTEN
    {
        let words = format!(
            "{name} has open jobs and has written nothing for {}",
            cells::ago(written, now)
        );
        state.alerts.push(Cell::text(words).tone(Tone::Warning));
    }
    match checks::read(place) {
        Ok(findings) => {
            let failed: Vec<&str> = findings
                .iter()
                .filter(|finding| finding.outcome == Outcome::Failed)
                .map(|finding| finding.id.as_str())
                .collect();
            if !failed.is_empty() {
                let words = format!("{name} fails checks: {} (view checks)", failed.join(", "));
                state.alerts.push(Cell::text(words).tone(Tone::Bad));
            }
        }
        Err(error) => state
            .alerts
            .push(Cell::text(error.to_string()).tone(Tone::Warning)),
    }
}

fn facilitator(place: &Place, now: OffsetDateTime) -> Result<State, LookError> {
    let look = FacilitatorLook::open(&place.database())?;
    let now_us = micros(now);
    let mut state = State {
        open: look.open_jobs()?,
        hour: look.outcomes(micros(now - Duration::HOUR), now_us)?,
        day: look.outcomes(micros(now - Duration::DAY), now_us)?,
        ..State::default()
    };
    let overdue = look.overdue_jobs(now_us)?;
    if overdue > 0 {
        let words = format!("{}: {overdue} jobs are beyond their time (view jobs)", place.name);
        state.alerts.push(Cell::text(words).tone(Tone::Bad));
    }
    let books = look.books()?;
    if let Some(oldest) = books.oldest_open.filter(|oldest| now - *oldest > UNSETTLED) {
        let words = format!(
            "{}: {} bills are not settled, the oldest for {} (view credits)",
            place.name,
            books.open_bills,
            cells::ago(oldest, now)
        );
        state.alerts.push(Cell::text(words).tone(Tone::Warning));
    }
    Ok(state)
}

fn validator(place: &Place, now: OffsetDateTime) -> Result<State, LookError> {
    let look = ValidatorLook::open(&place.database())?;
    let (open, owed) = look.open_and_owed()?;
    let now_us = micros(now);
    Ok(State {
        open,
        owed,
        hour: look.outcomes(micros(now - Duration::HOUR), now_us)?,
        day: look.outcomes(micros(now - Duration::DAY), now_us)?,
        ..State::default()
    })
}

fn miner(place: &Place, now: OffsetDateTime) -> Result<State, LookError> {
    let look = MinerLook::open(&place.database())?;
    let (open, owed) = look.open_and_owed()?;
    let now_us = micros(now);
    let slots = look.slots(SLOTS_MAX)?;
    let (manifest, _) = look.manifest()?;
    let counted: i64 = manifest.map_or(0, |manifest| {
        manifest
            .counted
            .0
            .values()
            .map(|count| (*count).max(0))
            .fold(0, i64::saturating_add)
    });
    let taken = i64::try_from(slots.len()).unwrap_or(i64::MAX);
    let mut state = State {
        open,
        owed,
        executors: Some((taken, counted)),
        hour: look.outcomes(micros(now - Duration::HOUR), now_us)?,
        day: look.outcomes(micros(now - Duration::DAY), now_us)?,
        is_draining: look.is_draining()?,
        ..State::default()
    };
    let stuck = slots.iter().filter(|slot| now - slot.since > STUCK).count();
    if stuck > 0 {
        let words = format!(
            "{}: {stuck} executors have had their jobs for more than a day (view executors)",
            place.name
        );
        state.alerts.push(Cell::text(words).tone(Tone::Bad));
    }
    Ok(state)
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
