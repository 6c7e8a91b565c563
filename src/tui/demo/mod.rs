//! Recorded pages, so that the dashboard can be looked at without a network: two days of a small subnet, told by the same
//! views as the databases are. Time passes in it as outside, and one can go back.
//!
//! Nobody's keys are in it: the addresses are those of the well-known development accounts.

mod take;

use std::path::PathBuf;

use indexmap::IndexMap;
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tracing::Level;

use self::take::{Fate, Take};
use super::event::Header;
use super::roles::{Alert, State};
use super::view::executors::Pools;
use super::view::job::Story;
use super::view::jobs::{By, Merged};
use super::view::receipts::Kept;
use super::view::{
    Ask, Cell, Page, Row, Tone, cells, checks, credits, events, executors, jobs, logs, overview, peers,
    receipts, scores, users,
};
use crate::core::clock::Clock;
use crate::core::model::{ExecutorClass, Hotkey, Manifest, Timestamp};
use crate::core::money::Micro;
use crate::core::store::Holder;
use crate::core::store::facilitator::look::{Books, LinkGlance, MachineGlance, UserGlance};
use crate::core::store::facilitator::{Account, Party, Transfer};
use crate::core::store::glance::{EventGlance, Outcomes, ReceiptGlance, Standing};
use crate::core::store::look::Footprint;
use crate::core::store::miner::JobState;
use crate::core::store::miner::ledger::{Counter, Event};
use crate::core::store::miner::look::TakenSlot;
use crate::core::store::miner::manifest::OfferedClass;
use crate::core::store::miner::validators::{Block, KnownValidator};
use crate::core::store::places::{Place, Role};
use crate::core::store::times::micros;
use crate::core::store::validator::look::MinerGlance;
use crate::core::telemetry::journal::Entry;

/// The accounts `//Alice` to `//Dave`, which every chain for development knows.
const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";
const CHARLIE: &str = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y";
const DAVE: &str = "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy";

/// Jobs in the recording.
const JOBS: u32 = 60;

/// The recording goes on for so long and then begins again.
const LOOP: i64 = 300;

/// Price of a second, in millionths of a unit.
const PRICE: i64 = 1500;

const ROLES: [(&str, Role); 3] = [
    ("facilitator", Role::Facilitator),
    ("validator", Role::Validator),
    ("miner-1", Role::Miner),
];

/// Returns what stands at the top of the recording.
pub fn header() -> Header {
    Header {
        roles: ROLES.map(|(name, _)| name.to_owned()).to_vec(),
        context: Some(("demo".to_owned(), false)),
        dir: "recorded data".to_owned(),
    }
}

/// Returns the recorded page of a view; none if there is no such recording.
pub fn page(view: &str, ask: &Ask) -> Option<Page> {
    let now = Clock::system().now();
    let moment = ask.at.map_or(now, Timestamp::moment);
    let tape = Tape::at(now, moment);
    let mut page = match view {
        "overview" => tape.overview(),
        "jobs" => jobs::page(&tape.merged(), moment),
        "job" => tape.job(ask.key.as_deref())?,
        "executors" => executors::page(&tape.pools(), &tape.machines(), usize::MAX, moment),
        "peers" => peers::page(tape.peers()),
        "scores" => scores::page(tape.receipts(), moment),
        "receipts" => receipts::page(&tape.receipts(), moment),
        "users" => users::page(&tape.users(), moment),
        "credits" => tape.credits(),
        "events" => events::page(&tape.events()),
        "logs" => tape.logs(),
        "checks" => checks::page(Tape::checks()),
        _ => return None,
    };
    if ask.rows_max > 0 {
        page.rows.truncate(ask.rows_max);
    }
    Some(page)
}

/// The recording up to a moment.
struct Tape {
    moment: OffsetDateTime,
    takes: Vec<Take>,
}

impl Tape {
    fn at(now: OffsetDateTime, moment: OffsetDateTime) -> Self {
        let anchor = now - Duration::seconds(now.unix_timestamp().rem_euclid(LOOP));
        Self {
            moment,
            takes: (0..JOBS).map(|number| Take::of(number, anchor)).collect(),
        }
    }

    fn hour_or_day(&self, role: usize, span: Duration) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for take in self.takes.iter().filter(|take| self.moment - take.sent <= span) {
            if let Some(glance) = take.glance(role, self.moment) {
                outcomes.add(glance.standing, 1);
            }
        }
        outcomes
    }

    fn overview(&self) -> Page {
        let taken = i64::try_from(self.slots().len()).unwrap_or(i64::MAX);
        let mut roles = Vec::new();
        for (number, (name, role)) in ROLES.into_iter().enumerate() {
            let is_miner = role == Role::Miner;
            let alerts = if is_miner {
                vec![Alert::warning(
                    "miner-1 fails checks: disk (view checks)".to_owned(),
                )]
            } else {
                Vec::new()
            };
            let state = State {
                open: i64::try_from(self.hour_or_day(number, Duration::days(2)).open).unwrap_or(0),
                executors: is_miner.then_some((taken, 4)),
                hour: self.hour_or_day(number, Duration::HOUR),
                day: self.hour_or_day(number, Duration::DAY),
                alerts,
                ..State::default()
            };
            let place = Place {
                role,
                name: name.to_owned(),
                dir: PathBuf::from(format!("recorded data/{name}")),
            };
            let footprint = Footprint {
                bytes: 3_400_000,
                written_at: Some(self.moment - Duration::seconds(2)),
            };
            let words = overview::standing(Holder::Process(4711), false);
            roles.push((
                overview::row(&place, words, &state, footprint, self.moment),
                state,
            ));
        }
        let facts = vec![
            ("network", Cell::text("local, subnet 12")),
            ("chain", Cell::text("block 4242, 3s old (a local chain)")),
            ("weights", Cell::text("set 61 blocks ago (12m12s)")),
            ("directory", Cell::text("recorded data")),
        ];
        overview::page(roles, facts)
    }

    fn merged(&self) -> Vec<Merged> {
        self.takes.iter().filter_map(|take| self.merge(take)).collect()
    }

    fn merge(&self, take: &Take) -> Option<Merged> {
        let by = ROLES.into_iter().enumerate().filter_map(|(place, (name, _))| {
            Some(By {
                place,
                name: name.to_owned(),
                glance: take.glance(place, self.moment)?,
            })
        });
        let by: Vec<By> = by.collect();
        (!by.is_empty()).then(|| Merged {
            job: take.job.clone(),
            by,
        })
    }

    fn job(&self, key: Option<&str>) -> Option<Page> {
        let take = match key {
            Some(key) => self
                .takes
                .iter()
                .find(|take| take.job.as_str().starts_with(key))?,
            None => self.takes.get(2)?,
        };
        let mut story = Story::default();
        story.head(&self.merge(take)?, self.moment);
        story.fact("image", Cell::text("horde-sample:latest"));
        story.fact("executor", Cell::text("slot 0, 4711, 127.0.0.1"));
        for (role, step, millis, standing) in take.steps() {
            let name = ROLES.get(role).map_or("", |(name, _)| name);
            let words = match (standing, take.reason()) {
                (Standing::Bad | Standing::Declined, Some(reason)) => reason.to_owned(),
                _ => String::new(),
            };
            let tone = if standing == Standing::Open {
                Tone::Plain
            } else {
                cells::tone(standing)
            };
            story.mark(take.at(millis), name, step, words, tone);
        }
        let has_ended = take.glance(0, self.moment)?.ended.is_some();
        if has_ended {
            story.stream("stdout", "loading the model\n1000 tokens\n2000 tokens\ndone\n");
            story.stream("stderr", "warning: no cache\n");
        }
        Some(story.page(if has_ended { i64::MAX } else { micros(self.moment) }))
    }

    fn slots(&self) -> Vec<TakenSlot> {
        let mut slots = Vec::new();
        for take in &self.takes {
            let Some(glance) = take
                .glance(2, self.moment)
                .filter(|glance| glance.standing == Standing::Open)
            else {
                continue;
            };
            slots.push(TakenSlot {
                class: glance.class,
                slot: u32::try_from(slots.len()).unwrap_or(u32::MAX),
                job: glance.job,
                validator: Hotkey::new(BOB),
                state: if glance.state == "volumes_ready" {
                    JobState::Running
                } else {
                    JobState::WaitingForExecutor
                },
                since: glance.came,
                started: Some(take.at(270)),
            });
        }
        slots
    }

    fn pools(&self) -> Vec<(String, Pools)> {
        let class = ExecutorClass::AlwaysOnLlmA6000;
        let counted = Manifest(IndexMap::from([(class, 4)]));
        let offered = OfferedClass {
            class,
            count: 4,
            reason: None,
        };
        vec![(
            "miner-1".to_owned(),
            Pools::new(counted, vec![offered], self.slots()),
        )]
    }

    fn machines(&self) -> Vec<MachineGlance> {
        vec![MachineGlance {
            miner: Hotkey::new(CHARLIE),
            validator: Hotkey::new(BOB),
            specs: json!({"gpu": {"count": 4, "details": vec![json!({"name": "NVIDIA RTX A6000"}); 4]}})
                .to_string(),
            received: self.moment - Duration::minutes(7),
        }]
    }

    fn peers(&self) -> Vec<Row> {
        let now = self.moment;
        let link = LinkGlance {
            validator: Hotkey::new(BOB),
            seen: now - Duration::seconds(3),
            version: Some("1.4.2".to_owned()),
            open: 2,
        };
        let all = self.hour_or_day(1, Duration::days(9));
        let miner = MinerGlance {
            outcomes: all,
            incidents: all.bad,
            last: Some(now - Duration::seconds(9)),
            blacklisted: None,
        };
        let known =
            [(BOB, true, None), (DAVE, false, Some("pays for nothing"))].map(|(who, is_active, blocked)| {
                KnownValidator {
                    hotkey: Hotkey::new(who),
                    is_active,
                    stake_rao: if is_active { 182_340_000_000_000 } else { 0 },
                    is_debug: false,
                    block: blocked.map(|reason| Block {
                        reason: reason.to_owned(),
                        until: None,
                    }),
                }
            });
        let counters = [
            (Event::Finished, all.good),
            (Event::Failed, all.bad),
            (Event::Declined, all.declined),
        ];
        let counters = counters.map(|(event, count)| Counter {
            event,
            reason: String::new(),
            validator: BOB.to_owned(),
            count,
        });
        let mut rows = vec![
            peers::link("facilitator", &link, now),
            peers::miner("validator", &Hotkey::new(CHARLIE), &miner, now),
        ];
        rows.extend(peers::of_miner("miner-1", &known, counters.to_vec(), now));
        rows
    }

    fn receipts(&self) -> Vec<Kept> {
        let mut all = Vec::new();
        for take in &self.takes {
            let done = take.at(2300 + take.runs + 470);
            let finished = take
                .score()
                .map(|score| ("JobFinishedReceipt", done, Some(score)));
            for (kind, stored, score) in [Some(("JobStartedReceipt", take.at(150), None)), finished]
                .into_iter()
                .flatten()
            {
                let receipt = ReceiptGlance {
                    id: 0,
                    kind: kind.to_owned(),
                    job: take.job.clone(),
                    miner: Hotkey::new(CHARLIE),
                    validator: Hotkey::new(BOB),
                    made: stored,
                    stored,
                    class: score
                        .is_none()
                        .then(|| ExecutorClass::AlwaysOnLlmA6000.as_str().to_owned()),
                    is_organic: score.is_none().then_some(true),
                    is_countersigned: true,
                    score,
                    took_us: score.map(|_| (take.runs + 2700) * 1000),
                };
                if stored <= self.moment {
                    all.push(Kept {
                        by: "miner-1".to_owned(),
                        receipt,
                    });
                }
            }
        }
        all.sort_by_key(|kept| std::cmp::Reverse(kept.receipt.stored));
        all
    }

    fn users(&self) -> Vec<UserGlance> {
        let jobs = self.hour_or_day(0, Duration::days(9));
        let user = |hotkey: &str, blocked: Option<&str>, available: i64, note: &str| UserGlance {
            hotkey: Hotkey::new(hotkey),
            added: Some(self.moment - Duration::days(12)),
            blocked: blocked.map(|reason| (self.moment - Duration::days(1), reason.to_owned())),
            note: note.to_owned(),
            account: Account {
                available: Micro::new(available),
                reserved: Micro::ZERO,
            },
            jobs: 0,
            unfinished: 0,
        };
        vec![
            user(DAVE, Some("key was stolen"), 0, ""),
            UserGlance {
                jobs: i64::try_from(jobs.sum()).unwrap_or(0),
                unfinished: i64::try_from(jobs.open).unwrap_or(0),
                ..user(ALICE, None, 24_000_000, "alice@example.com, until May")
            },
        ]
    }

    fn credits(&self) -> Page {
        let alice = || Hotkey::new(ALICE);
        let mut transfers = Vec::new();
        for take in &self.takes {
            let cost = Micro::new(PRICE * (take.runs / 1000 + 1));
            let ended = take.glance(0, self.moment).and_then(|glance| glance.ended);
            if let (Some(at), Fate::Completes | Fate::Fails) = (ended, take.fate) {
                transfers.push(Transfer {
                    id: micros(at),
                    at,
                    kind: "charge".to_owned(),
                    taken_from: Party::Reserved(alice()),
                    given_to: Party::Income,
                    amount: cost,
                    job: Some(take.job.clone()),
                    key: None,
                    note: String::new(),
                });
            }
        }
        let income = transfers
            .iter()
            .fold(Micro::ZERO, |sum, transfer| sum.plus(transfer.amount));
        let issued = Micro::new(25_000_000);
        let at = self.moment - Duration::days(12);
        transfers.push(Transfer {
            id: 1,
            at,
            kind: "credit".to_owned(),
            taken_from: Party::Issued,
            given_to: Party::Available(alice()),
            amount: issued,
            job: None,
            key: Some("invoice-1043".to_owned()),
            note: "invoice 1043".to_owned(),
        });
        let books = Books {
            issued,
            income,
            open_bills: 2,
            oldest_open: None,
        };
        Page {
            facts: credits::books(&books, self.moment),
            ..credits::page(&transfers, self.moment)
        }
    }

    fn events(&self) -> Vec<(String, EventGlance)> {
        let mut events = Vec::new();
        for take in &self.takes {
            for (role, what, millis, standing) in take.steps() {
                let at = take.at(millis);
                if at > self.moment {
                    continue;
                }
                let name = ROLES.get(role).map_or("", |(name, _)| name);
                let words = take
                    .reason()
                    .filter(|_| standing != Standing::Open)
                    .unwrap_or_default();
                events.push((
                    name.to_owned(),
                    EventGlance {
                        at,
                        what: what.to_owned(),
                        standing,
                        job: Some(take.job.clone()),
                        peer: Some(Hotkey::new(if role == 1 { CHARLIE } else { BOB })),
                        words: words.to_owned(),
                    },
                ));
            }
        }
        events.sort_by_key(|(_, event)| std::cmp::Reverse(event.at));
        events
    }

    fn logs(&self) -> Page {
        let mut text = Vec::new();
        for (name, event) in self.events().into_iter().rev() {
            let level = match event.standing {
                Standing::Bad => Level::WARN,
                Standing::Declined => Level::ERROR,
                Standing::Open | Standing::Good => Level::INFO,
            };
            let job = event.job.map(|job| ("job".to_owned(), json!(job)));
            let entry = Entry {
                at: Timestamp::new(event.at),
                level,
                target: "horde".to_owned(),
                message: format!("job {}", event.what),
                fields: job.into_iter().collect(),
            };
            text.push(logs::line(&name, &entry));
        }
        Page {
            text,
            ..Page::default()
        }
    }

    fn checks() -> Vec<checks::Finding> {
        [
            json!({"id": "docker", "status": "pass", "actual": "Docker 27.3.1", "required": "20.10 or newer",
                "purpose": "jobs run in containers", "duration_us": 12_000}),
            json!({"id": "gpu", "status": "pass", "actual": "4 × NVIDIA RTX A6000", "required": "1 GPU with 48 GB",
                "purpose": "the class asks for it", "duration_us": 61_000}),
            json!({"id": "clock", "status": "warn", "actual": "off by 900 ms", "required": "within 500 ms",
                "purpose": "receipts are dated", "remedy": "run chrony", "duration_us": 150_000}),
            json!({"id": "disk", "status": "fail", "actual": "2 GiB free", "required": "20 GiB free",
                "purpose": "images need room", "remedy": "docker image prune", "duration_us": 800}),
        ]
        .iter()
        .map(|found| checks::finding("miner-1", found))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::view::VIEWS;

    #[test]
    fn every_view_has_a_recording_now_and_yesterday() {
        for at in [
            None,
            Some(Timestamp::new(Clock::system().now() - Duration::hours(30))),
        ] {
            for view in VIEWS {
                let ask = Ask {
                    at,
                    rows_max: 1000,
                    ..Ask::default()
                };
                let page = page(view.name, &ask);
                // The last of the jobs is asked for where none is named; yesterday it had not come.
                let Some(page) = page else {
                    assert!(
                        view.name == "job" && at.is_some(),
                        "{} is not recorded",
                        view.name
                    );
                    continue;
                };
                assert!(page.rows.len() + page.text.len() > 0, "{}", view.name);
                for row in &page.rows {
                    assert_eq!(row.cells.len(), page.columns.len(), "{}", view.name);
                }
            }
        }
    }

    #[test]
    fn a_job_of_the_list_can_be_opened() {
        let list = page("jobs", &Ask::default()).unwrap();
        for row in &list.rows {
            let ask = Ask {
                key: Some(row.id().to_owned()),
                ..Ask::default()
            };
            assert!(page("job", &ask).is_some(), "{}", row.id());
        }
    }
}
