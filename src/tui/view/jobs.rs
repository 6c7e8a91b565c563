//! Jobs of all roles here, one row for each job, whoever keeps something of it.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::model::{Hotkey, JobId};
use crate::core::store::facilitator::look::FacilitatorLook;
use crate::core::store::glance::{JobGlance, Standing, Until};
use crate::core::store::look::LookError;
use crate::core::store::miner::look::MinerLook;
use crate::core::store::times::micros;
use crate::core::store::validator::look::ValidatorLook;
use crate::tui::source::{Seen, Source};

/// The view.
pub const VIEW: View = View {
    name: "jobs",
    key: None,
    title: "jobs",
    about: "List the jobs of all roles here, newest first",
    opens: Some("job"),
    keeps_past: true,
    load,
    draw: None,
};

const EMPTY: &str =
    "no job yet: `horde job submit` sends one, `horde miner check` tells whether validators reach this miner";

/// The databases of all roles.
pub(super) struct All {
    pub(super) facilitators: Vec<Seen<FacilitatorLook>>,
    pub(super) validators: Vec<Seen<ValidatorLook>>,
    pub(super) miners: Vec<Seen<MinerLook>>,
}

/// A job by all who keep something of it, in the order of its road.
pub(in crate::tui) struct Merged {
    pub(in crate::tui) job: JobId,
    pub(in crate::tui) by: Vec<By>,
}

/// What one role keeps of a job.
pub(in crate::tui) struct By {
    /// The role's place on the road.
    pub(in crate::tui) place: usize,
    /// The name of its directory.
    pub(in crate::tui) name: String,
    pub(in crate::tui) glance: JobGlance,
}

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.moment(ask);
    let all = All::open(source)?;
    let until = cells::until(ask, moment);
    let at_us = if ask.at.is_some() {
        micros(moment)
    } else {
        i64::MAX
    };
    let mut jobs = all.jobs(until, at_us)?;
    let older = cells::cut(&mut jobs, ask, Merged::came);
    Ok(Page {
        older,
        ..page(&jobs, moment)
    })
}

/// Returns the page of these jobs.
pub(in crate::tui) fn page(jobs: &[Merged], moment: OffsetDateTime) -> Page {
    Page {
        columns: cells::columns(&[
            ("job", false, 0),
            ("state", false, 0),
            ("age", true, 1),
            ("took", true, 2),
            ("reason", false, 3),
            ("exit", true, 5),
            ("class", false, 4),
            ("validator", false, 6),
            ("miner", false, 7),
            ("score", true, 8),
            ("owner", false, 9),
            ("kept", false, 10),
        ]),
        rows: jobs.iter().map(|job| job.row(moment)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

impl All {
    pub(super) fn open(source: &Source) -> Result<Self, LoadError> {
        Ok(Self {
            facilitators: source.facilitators()?,
            validators: source.validators()?,
            miners: source.miners()?,
        })
    }

    /// Returns the newest jobs, newest first; perhaps more than asked for, as each role has its own newest.
    fn jobs(&self, until: Until, at_us: i64) -> Result<Vec<Merged>, LoadError> {
        let mut merging = Merging::default();
        merging.ask_all(self, |look, _| look.jobs(until, at_us))?;
        let mut jobs = merging.done();
        jobs.truncate(
            usize::try_from(until.limit)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        );
        let mut jobs = self.complete(jobs, at_us)?;
        // A job may have come to an earlier role before the moment until which rows were asked for; and then it may have
        // come before what the next page begins with.
        jobs.retain(|job| micros(job.came()) <= until.us);
        Ok(jobs)
    }

    /// Returns these jobs by all who keep them, newest first.
    pub(super) fn of(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<Merged>, LoadError> {
        let jobs = jobs.iter().map(|job| Merged {
            job: job.clone(),
            by: Vec::new(),
        });
        let mut jobs = self.complete(jobs.collect(), at_us)?;
        jobs.retain(|job| !job.by.is_empty());
        Ok(jobs)
    }

    /// Asks each role for those of the jobs of which it has not told.
    fn complete(&self, jobs: Vec<Merged>, at_us: i64) -> Result<Vec<Merged>, LoadError> {
        let mut merging = Merging::of(jobs);
        let told: HashSet<(usize, JobId)> = merging
            .jobs
            .iter()
            .flat_map(|job| job.by.iter().map(|by| (by.place, job.job.clone())))
            .collect();
        let all: Vec<JobId> = merging.jobs.iter().map(|job| job.job.clone()).collect();
        merging.ask_all(self, |look, place| {
            let wanted: Vec<JobId> = all
                .iter()
                .filter(|job| !told.contains(&(place, JobId::clone(job))))
                .cloned()
                .collect();
            look.glances(&wanted, at_us)
        })?;
        Ok(merging.done())
    }
}

/// What every role's database answers alike.
trait Jobs {
    fn jobs(&self, until: Until, at_us: i64) -> Result<Vec<JobGlance>, LookError>;
    fn glances(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<JobGlance>, LookError>;
}

macro_rules! jobs_of {
    ($($look:ident)+) => { $(
        impl Jobs for $look {
            fn jobs(&self, until: Until, at_us: i64) -> Result<Vec<JobGlance>, LookError> {
                Self::jobs(self, until, at_us)
            }

            fn glances(&self, jobs: &[JobId], at_us: i64) -> Result<Vec<JobGlance>, LookError> {
                Self::glances(self, jobs, at_us)
            }
        }
    )+ };
}
jobs_of!(FacilitatorLook ValidatorLook MinerLook);

#[derive(Default)]
struct Merging {
    jobs: Vec<Merged>,
    places: HashMap<JobId, usize>,
}

impl Merging {
    fn of(jobs: Vec<Merged>) -> Self {
        let places = jobs.iter().zip(0..).map(|(job, place)| (job.job.clone(), place));
        Self {
            places: places.collect(),
            jobs,
        }
    }

    /// Asks every role, which is told by its place on the road.
    fn ask_all(
        &mut self,
        all: &All,
        ask: impl Fn(&dyn Jobs, usize) -> Result<Vec<JobGlance>, LookError>,
    ) -> Result<(), LoadError> {
        let mut place = 0;
        for seen in &all.facilitators {
            self.add(place, &seen.place.name, seen.ask(|look| ask(look, place))?);
            place += 1;
        }
        for seen in &all.validators {
            self.add(place, &seen.place.name, seen.ask(|look| ask(look, place))?);
            place += 1;
        }
        for seen in &all.miners {
            self.add(place, &seen.place.name, seen.ask(|look| ask(look, place))?);
            place += 1;
        }
        Ok(())
    }

    fn add(&mut self, place: usize, name: &str, glances: Vec<JobGlance>) {
        self.jobs.reserve(glances.len());
        self.places.reserve(glances.len());
        for glance in glances {
            let next = self.jobs.len();
            let at = *self.places.entry(glance.job.clone()).or_insert(next);
            if at == next {
                self.jobs.push(Merged {
                    job: glance.job.clone(),
                    by: Vec::new(),
                });
            }
            if let Some(job) = self.jobs.get_mut(at) {
                let name = name.to_owned();
                job.by.push(By { place, name, glance });
            }
        }
    }

    fn done(self) -> Vec<Merged> {
        let mut jobs = self.jobs;
        for job in &mut jobs {
            job.by.sort_by_key(|by| by.place);
        }
        jobs.sort_by_cached_key(|job| std::cmp::Reverse((job.came(), job.job.clone())));
        jobs
    }
}

impl Merged {
    /// Returns when the job came to the first of them.
    pub(super) fn came(&self) -> OffsetDateTime {
        let came = self.by.iter().map(|by| by.glance.came).min();
        came.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Returns what the first role on its road keeps, whose word is the user's.
    pub(super) fn first(&self) -> Option<&JobGlance> {
        self.by.first().map(|by| &by.glance)
    }

    /// Returns the first that a role tells of it.
    fn told<'a, T>(&'a self, what: impl Fn(&'a JobGlance) -> Option<T>) -> Option<T> {
        self.by.iter().find_map(|by| what(&by.glance))
    }

    /// Returns who runs it: as somebody says, else the miner here that keeps it.
    pub(super) fn miner(&self) -> Option<String> {
        self.told(|glance| glance.miner.as_ref().map(Hotkey::to_string))
    }

    pub(super) fn validator(&self) -> Option<&Hotkey> {
        self.told(|glance| glance.validator.as_ref())
    }

    pub(super) fn owner(&self) -> Option<&Hotkey> {
        self.told(|glance| glance.owner.as_ref())
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.told(|glance| glance.reason.as_deref())
    }

    pub(super) fn score(&self) -> Option<f64> {
        self.told(|glance| glance.score)
    }

    pub(super) fn exit(&self) -> Option<i64> {
        self.told(|glance| glance.exit)
    }

    /// Returns how long it took, or takes.
    pub(super) fn took(&self, now: OffsetDateTime) -> Cell {
        let Some(first) = self.first() else {
            return Cell::nothing();
        };
        match (first.ended, first.standing) {
            (Some(ended), _) => cells::span(ended - first.came),
            (None, Standing::Open) if now >= first.came => cells::span(now - first.came).tone(Tone::Busy),
            (None, _) => Cell::nothing(),
        }
    }

    /// Returns its state in words.
    pub(super) fn state(&self) -> Cell {
        or_nothing(self.first(), |first| {
            Cell::text(first.state.clone()).tone(cells::tone(first.standing))
        })
    }

    fn row(&self, now: OffsetDateTime) -> Row {
        let class = self.told(|glance| Some(glance.class.as_str()).filter(|class| *class != "unknown"));
        let exit = or_nothing(self.exit(), |code| {
            Cell::integer(code).tone(if code == 0 { Tone::Plain } else { Tone::Bad })
        });
        let kept: Vec<&str> = self.by.iter().map(|by| by.name.as_str()).collect();
        Row {
            key: self.job.as_str().into(),
            cells: vec![
                cells::identity(self.job.as_str()),
                self.state(),
                cells::age(self.came(), now),
                self.took(now),
                or_nothing(self.reason(), Cell::text),
                exit,
                or_nothing(class, Cell::text),
                or_nothing(self.validator(), cells::hotkey),
                or_nothing(self.miner().as_deref(), cells::identity),
                or_nothing(self.score(), cells::score),
                or_nothing(self.owner(), cells::hotkey),
                Cell::text(kept.join(" ")).tone(Tone::Faint),
            ],
        }
    }
}
