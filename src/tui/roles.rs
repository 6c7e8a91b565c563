//! What is known of the roles that keep data here, and of the chain that they share: for the overview, and for who asks
//! for it as data.

use time::{Duration, OffsetDateTime};

use super::source::{Source, refused};
use super::view::LoadError;
use super::view::cells;
use super::view::checks::{self, Finding, Outcome};
use crate::core::store::facilitator::look::FacilitatorLook;
use crate::core::store::glance::Outcomes;
use crate::core::store::look::{Footprint, LookError, footprint};
use crate::core::store::miner::look::MinerLook;
use crate::core::store::places::{Place, Role};
use crate::core::store::times::micros;
use crate::core::store::validator::look::ValidatorLook;
use crate::core::store::{Holder, holder};

/// A slot that a job has for longer is looked at: no job of the reference may take that long.
const STUCK: Duration = Duration::hours(24);

/// A bill that is open for longer is looked at.
const UNSETTLED: Duration = Duration::hours(24);

/// A database with open jobs is written more often than that.
const UNWRITTEN: Duration = Duration::hours(1);

/// Slots that are looked at.
const SLOTS_MAX: u32 = 1000;

/// Validators that are counted as connected.
const LINKS_MAX: u32 = 1000;

/// A validator that has said nothing for longer is not connected: it says something every few seconds.
const SILENT: Duration = Duration::minutes(2);

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What, and what helps.
    pub words: String,
    /// Whether something does not work, rather than only needing a look.
    pub is_bad: bool,
}

impl Alert {
    /// Something does not work.
    pub fn bad(words: String) -> Self {
        Self { words, is_bad: true }
    }

    /// Something needs a look.
    pub fn warning(words: String) -> Self {
        Self { words, is_bad: false }
    }
}

/// What is known of one role.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Whether its database cannot be read; then nothing else is known but what to look at.
    pub is_unreadable: bool,
    /// Jobs that have not ended.
    pub open: i64,
    /// Executors that are taken, and how many there are.
    pub executors: Option<(i64, i64)>,
    /// Jobs of the last hour.
    pub hour: Outcomes,
    /// Jobs of the last day.
    pub day: Outcomes,
    /// Whether no new jobs are taken.
    pub is_draining: bool,
    /// Reports or outcomes that a peer has not taken.
    pub owed: i64,
    /// Peers that are connected, where the database tells.
    pub peers: Option<u64>,
    /// What the last check of its clock found.
    pub clock: Option<String>,
    /// What to look at.
    pub alerts: Vec<Alert>,
}

/// One role.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its place.
    pub place: Place,
    /// Who holds its database.
    pub running: Holder,
    /// What its database takes on the disk.
    pub footprint: Footprint,
    /// What is known of it.
    pub state: State,
}

/// The local chain that the roles share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// Its newest block.
    pub block: i64,
    /// How old that is.
    pub age: Duration,
    /// For each subnet: how many blocks ago, and how long ago, weights were set; none if they never were.
    pub weights: Vec<(u16, Option<(i64, Duration)>)>,
}

/// Tells of the local chain; none if there is none, or nobody has begun it.
pub fn chain(source: &Source, now: OffsetDateTime) -> Result<Option<ChainState>, LoadError> {
    let Some(look) = source.chain()? else {
        return Ok(None);
    };
    let failed = |error: LookError| refused(std::path::Path::new("chain.sqlite"), &error);
    let Some(genesis) = look.genesis().map_err(failed)? else {
        return Ok(None);
    };
    let passed = (micros(now) / 1000).saturating_sub(genesis.unix_millis).max(0);
    let block = passed.checked_div(genesis.block_millis).unwrap_or(0);
    let age = Duration::milliseconds(passed.checked_rem(genesis.block_millis).unwrap_or(0));
    let mut weights = Vec::new();
    for netuid in look.netuids().map_err(failed)? {
        let set = look.weighed(netuid).map_err(failed)?.map(|set| {
            let blocks = block
                .saturating_sub(i64::try_from(set.0).unwrap_or(i64::MAX))
                .max(0);
            let age = Duration::milliseconds(blocks.saturating_mul(genesis.block_millis));
            (blocks, age)
        });
        weights.push((netuid, set));
    }
    Ok(Some(ChainState { block, age, weights }))
}

/// Tells of one role; of a database that cannot be read it says so, since the others can be.
pub fn standing(place: &Place, now: OffsetDateTime) -> Standing {
    let read = match place.role {
        Role::Facilitator => facilitator(place, now),
        Role::Validator => validator(place, now),
        Role::Miner => miner(place, now),
    };
    let footprint = footprint(&place.database());
    let running = holder(&place.database());
    let mut state = read.unwrap_or_else(|error| {
        let words = refused(&place.database(), &error).to_string();
        State {
            is_unreadable: true,
            alerts: vec![Alert::bad(format!("{}: {words}", place.name))],
            ..State::default()
        }
    });
    common_alerts(place, &mut state, (running, footprint.written_at), now);
    Standing {
        place: place.clone(),
        running,
        footprint,
        state,
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
        state.alerts.push(Alert::bad(words));
    }
    if state.is_draining {
        let words = format!(
            "{name} takes no new jobs: `horde {} undrain` ends that",
            place.role.word()
        );
        state.alerts.push(Alert::warning(words));
    }
    if let (Holder::Process(_), Some(written)) = (running, written)
        && state.open > 0
        && now - written > UNWRITTEN
    {
        let words = format!(
            "{name} has open jobs and has written nothing for {}",
            cells::ago(written, now)
        );
        state.alerts.push(Alert::warning(words));
    }
    let findings = match checks::read(place) {
        Ok(findings) => findings,
        Err(error) => {
            state.alerts.push(Alert::warning(error.to_string()));
            return;
        }
    };
    state.alerts.extend(failing(name, &findings));
    let clock = findings.into_iter().find(|finding| finding.id == "clock");
    state.clock = clock
        .filter(|finding| finding.outcome != Outcome::Skipped)
        .map(|finding| finding.actual);
}

/// Tells which checks failed when they were made last.
fn failing(name: &str, findings: &[Finding]) -> Option<Alert> {
    let failed: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Failed)
        .map(|finding| finding.id.as_str())
        .collect();
    (!failed.is_empty()).then(|| {
        Alert::warning(format!(
            "{name} fails checks: {} (view checks)",
            failed.join(", ")
        ))
    })
}

/// Returns what to look at of the machine that the roles share.
pub fn shared(source: &Source) -> Option<Alert> {
    match checks::shared(source) {
        Ok(findings) => failing(checks::SHARED, &findings),
        Err(error) => Some(Alert::warning(error.to_string())),
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
    let links = look.links(LINKS_MAX)?;
    let connected = links.iter().filter(|link| now - link.seen <= SILENT).count();
    state.peers = u64::try_from(connected).ok();
    let overdue = look.overdue_jobs(now_us)?;
    if overdue > 0 {
        let words = format!("{}: {overdue} jobs are beyond their time (view jobs)", place.name);
        state.alerts.push(Alert::bad(words));
    }
    let books = look.books()?;
    if let Some(oldest) = books.oldest_open.filter(|oldest| now - *oldest > UNSETTLED) {
        let words = format!(
            "{}: {} bills are not settled, the oldest for {} (view credits)",
            place.name,
            books.open_bills,
            cells::ago(oldest, now)
        );
        state.alerts.push(Alert::warning(words));
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
        state.alerts.push(Alert::bad(words));
    }
    Ok(state)
}
