//! Random lives of jobs, through the real store: submitted, told, ended, charged for intervals, with crashes in between. The
//! ledger always balances, no user goes below zero, nothing is charged twice; each amount is checked against a reckoning
//! of the test's own.

use std::collections::HashMap;
use std::path::Path;

use horde::core::model::job::JobStatus;
use horde::core::model::{ExecutorClass, Hotkey, JobId};
use horde::core::money::{Bill, Micro};
use horde::core::store::OpenError;
use horde::core::store::facilitator::{
    Appended, Delivery, FacilitatorStore, Grant, Granted, Inserted, Job, JobSignature, JobSpec, Step,
    Submission,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::gateway::{PATIENCE, PAUSE};

const USERS: [&str; 3] = ["alice", "bob", "charlie"];

/// The statuses before an end, in their usual order.
const BEFORE: [JobStatus; 5] = [
    JobStatus::Received,
    JobStatus::Accepted,
    JobStatus::ExecutorReady,
    JobStatus::VolumesReady,
    JobStatus::ExecutionDone,
];

/// How a job ends.
#[derive(Clone, Copy, Debug)]
enum EndOf {
    Completes,
    FailsByItself,
    IsCancelled,
    IsSpoiled,
    FailsByTheHorde,
    IsRejected,
}

#[derive(Clone, Debug)]
enum Act {
    Grant {
        user: usize,
        micro: i64,
        key: Option<u8>,
    },
    Submit {
        user: usize,
        price: i64,
        limits: i64,
    },
    Tell {
        job: usize,
        status: usize,
    },
    End {
        job: usize,
        how: EndOf,
    },
    Wait {
        milliseconds: i64,
    },
    ChargeIntervals,
    /// Charges once more what was charged last.
    ChargeAgain,
    /// The process is killed: what is on the disk is all that is left.
    Crash,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let how = prop_oneof![
        Just(EndOf::Completes),
        Just(EndOf::FailsByItself),
        Just(EndOf::IsCancelled),
        Just(EndOf::IsSpoiled),
        Just(EndOf::FailsByTheHorde),
        Just(EndOf::IsRejected),
    ];
    prop_oneof![
        2 => (0..USERS.len(), -4_000..9_000_i64, prop::option::of(0..4_u8))
            .prop_map(|(user, micro, key)| Act::Grant { user, micro, key }),
        4 => (0..USERS.len(), 0..4_i64, -10..2_500_i64)
            .prop_map(|(user, price, limits)| Act::Submit { user, price, limits }),
        6 => (any::<prop::sample::Index>(), 0..BEFORE.len())
            .prop_map(|(job, status)| Act::Tell { job: job.index(1000), status }),
        3 => (any::<prop::sample::Index>(), how).prop_map(|(job, how)| Act::End { job: job.index(1000), how }),
        4 => (0..1_500_000_i64).prop_map(|milliseconds| Act::Wait { milliseconds }),
        3 => Just(Act::ChargeIntervals),
        1 => Just(Act::ChargeAgain),
        1 => Just(Act::Crash),
        1 => Just(Act::Reopen),
    ]
}

/// What a job must have cost, by a reckoning of the test's own.
#[derive(Clone, Debug)]
struct Expected {
    id: JobId,
    user: usize,
    price: i64,
    seconds: i64,
    states: Vec<(JobStatus, i64)>,
    charged: i64,
    is_open: bool,
}

impl Expected {
    fn works_since(&self) -> Option<i64> {
        let working = self
            .states
            .iter()
            .filter(|(status, _)| BEFORE[2..].contains(status));
        working.map(|(_, at)| *at).min()
    }

    /// Returns the milliseconds at which each interval is over, and what it costs.
    fn intervals(&self) -> Vec<(i64, i64)> {
        let Some(since) = self.works_since() else {
            return Vec::new();
        };
        let mut left = self.seconds;
        let mut over = Vec::new();
        let mut at = since;
        while left > 0 {
            let length = left.min(600);
            at += length * 1000;
            left -= length;
            over.push((at, length * self.price));
        }
        over
    }

    fn end(&mut self, how: EndOf, now: i64) {
        self.is_open = false;
        let milliseconds = match how {
            EndOf::Completes => {
                let order = [JobStatus::Accepted, JobStatus::Received, JobStatus::Sent];
                let at = |wanted: &JobStatus| {
                    self.states
                        .iter()
                        .find(|(status, _)| status == wanted)
                        .map(|(_, at)| *at)
                };
                now - self.works_since().or_else(|| order.iter().find_map(at)).unwrap()
            }
            EndOf::FailsByItself | EndOf::IsCancelled => self.works_since().map_or(0, |since| now - since),
            EndOf::IsSpoiled | EndOf::FailsByTheHorde | EndOf::IsRejected => 0,
        };
        let used = (milliseconds + 999) / 1000;
        self.charged = used.min(self.seconds) * self.price;
    }
}

/// The store, and beside it what must be in it.
struct World {
    folder: TempDir,
    store: Option<FacilitatorStore>,
    /// Milliseconds since the beginning.
    now: i64,
    given: [i64; 3],
    keys: HashMap<u8, (usize, i64)>,
    jobs: Vec<Expected>,
    last_charged: Vec<(i64, i64)>,
}

/// Opens the store; a process that another test starts right now may still hold the lock of the one before, until it
/// becomes another program.
async fn open(folder: &Path) -> FacilitatorStore {
    let started = Instant::now();
    loop {
        match FacilitatorStore::open(&folder.join("facilitator.sqlite")) {
            Err(OpenError::InUse { .. }) if started.elapsed() < PATIENCE => sleep(PAUSE).await,
            opened => return opened.unwrap(),
        }
    }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: Some(open(folder.path()).await),
            folder,
            now: 0,
            given: [0; 3],
            keys: HashMap::new(),
            jobs: Vec::new(),
            last_charged: Vec::new(),
        }
    }

    fn store(&self) -> &FacilitatorStore {
        self.store.as_ref().unwrap()
    }

    fn clock(&self) -> OffsetDateTime {
        time::macros::datetime!(2026-01-15 12:00 UTC) + time::Duration::milliseconds(self.now)
    }

    fn reserved(&self, user: usize) -> i64 {
        let open = self.jobs.iter().filter(|job| job.user == user && job.is_open);
        open.map(|job| job.price * job.seconds - job.charged).sum()
    }

    fn available(&self, user: usize) -> i64 {
        let charged: i64 = self
            .jobs
            .iter()
            .filter(|job| job.user == user)
            .map(|job| job.charged)
            .sum();
        self.given[user] - charged - self.reserved(user)
    }

    async fn play(&mut self, act: Act) {
        match act {
            Act::Grant { user, micro, key } => self.grant(user, micro, key).await,
            Act::Submit { user, price, limits } => self.submit(user, price, limits).await,
            Act::Tell { job, status } => self.tell(job, BEFORE[status], Map::new(), None).await,
            Act::End { job, how } => {
                let (status, key) = match how {
                    EndOf::Completes => (JobStatus::Completed, "miner_response"),
                    EndOf::FailsByItself | EndOf::IsCancelled => (JobStatus::Failed, "job_failure_details"),
                    EndOf::IsSpoiled => (JobStatus::Failed, "horde_failure_details"),
                    EndOf::FailsByTheHorde => (JobStatus::HordeFailed, "horde_failure_details"),
                    EndOf::IsRejected => (JobStatus::Rejected, "job_rejection_details"),
                };
                let metadata = Map::from_iter([(key.to_owned(), json!({}))]);
                self.tell(job, status, metadata, Some(how)).await;
            }
            Act::Wait { milliseconds } => self.now += milliseconds,
            Act::ChargeIntervals => {
                let now_us = i64::try_from(self.clock().unix_timestamp_nanos() / 1000).unwrap();
                let running = self.store().running_bills(self.clock()).await.unwrap();
                let over = running
                    .iter()
                    .map(|job| (job.id, job.bill.intervals_over(job.since_us, now_us)));
                self.last_charged = over.collect();
                self.store()
                    .charge_intervals(self.last_charged.clone(), self.clock())
                    .await
                    .unwrap();
                let now = self.now;
                for job in self.jobs.iter_mut().filter(|job| job.is_open) {
                    let over = job.intervals().into_iter().filter(|(at, _)| *at <= now);
                    job.charged = over.map(|(_, micro)| micro).sum();
                }
            }
            Act::ChargeAgain => {
                let charged = self
                    .store()
                    .charge_intervals(self.last_charged.clone(), self.clock())
                    .await;
                assert_eq!(charged.unwrap(), 0, "nothing is charged twice");
            }
            Act::Crash => {
                // What a killed process leaves: the file and its write-ahead log as they are.
                let copy = tempfile::tempdir().unwrap();
                for name in ["facilitator.sqlite", "facilitator.sqlite-wal"] {
                    std::fs::copy(self.folder.path().join(name), copy.path().join(name)).unwrap();
                }
                self.store = Some(open(copy.path()).await);
                self.folder = copy;
            }
            Act::Reopen => {
                self.store = None;
                self.store = Some(open(self.folder.path()).await);
            }
        }
    }

    async fn grant(&mut self, user: usize, micro: i64, key: Option<u8>) {
        let grant = Grant {
            hotkey: Hotkey::new(USERS[user]),
            amount: Micro::new(micro),
            note: String::new(),
            key: key.map(|key| format!("key-{key}")),
        };
        let granted = self.store().grant(grant, self.clock()).await.unwrap();
        let before = self.available(user);
        let expected = match key.and_then(|key| self.keys.get(&key)) {
            Some(known) if *known == (user, micro) => Granted::Already(Micro::new(before)),
            Some(_) => Granted::KeyTaken,
            None if before + micro < 0 => Granted::TooLittle(Micro::new(before)),
            None => {
                self.given[user] += micro;
                // A grant of nothing moves nothing, and leaves its key free.
                if let Some(key) = key.filter(|_| micro != 0) {
                    self.keys.insert(key, (user, micro));
                }
                Granted::Done(Micro::new(before + micro))
            }
        };
        assert_eq!(granted, expected);
    }

    async fn submit(&mut self, user: usize, price: i64, limits: i64) {
        let id = JobId::new(format!("00000000-0000-4000-8000-{:012}", self.jobs.len()));
        let seconds = limits.max(0);
        let submission = submission(
            &id,
            USERS[user],
            self.clock(),
            Bill {
                price: Micro::new(price),
                seconds_max: seconds,
            },
        );
        let inserted = self.store().insert(submission).await.unwrap();
        let before = self.available(user);
        if before < price * seconds {
            let Inserted::Insufficient(shortfall) = inserted else {
                panic!("{inserted:?}")
            };
            assert_eq!(shortfall.missing().get(), price * seconds - before);
            return;
        }
        assert_eq!(inserted, Inserted::Done);
        self.jobs.push(Expected {
            id,
            user,
            price,
            seconds,
            states: vec![(JobStatus::Sent, self.now)],
            charged: 0,
            is_open: true,
        });
    }

    async fn tell(
        &mut self,
        job: usize,
        status: JobStatus,
        metadata: Map<String, Value>,
        how: Option<EndOf>,
    ) {
        if self.jobs.is_empty() {
            return;
        }
        let index = job % self.jobs.len();
        let step = Step {
            status,
            metadata,
            created_at: self.clock(),
        };
        let judge = move |states: &[JobStatus]| {
            let is_over = states.iter().any(|known| known.is_terminal());
            if is_over || states.contains(&status) {
                Err(())
            } else {
                Ok(())
            }
        };
        let told = self
            .store()
            .append(&self.jobs[index].id, &Hotkey::new("validator"), step, judge)
            .await
            .unwrap();
        let now = self.now;
        let job = &mut self.jobs[index];
        if !job.is_open || job.states.iter().any(|(known, _)| *known == status) {
            assert_eq!(told, Appended::Refused(()));
            return;
        }
        assert_eq!(told, Appended::Done);
        match how {
            Some(how) => job.end(how, now),
            None => job.states.push((status, now)),
        }
    }

    /// The books balance, nobody is below zero, and everything is as the test's own reckoning has it.
    async fn check(&self) {
        assert_eq!(self.store().imbalances().await.unwrap(), []);
        for (user, name) in USERS.iter().enumerate() {
            let account = self.store().account(&Hotkey::new(*name)).unwrap();
            assert_eq!(
                (account.available.get(), account.reserved.get()),
                (self.available(user), self.reserved(user)),
                "{name}"
            );
            assert!(account.available >= Micro::ZERO && account.reserved >= Micro::ZERO);
        }
        for expected in &self.jobs {
            let job = self
                .store()
                .job(&Hotkey::new(USERS[expected.user]), &expected.id)
                .await
                .unwrap()
                .unwrap();
            let cost = job.cost.unwrap();
            assert_eq!(cost.charged.get(), expected.charged, "{expected:?}");
            assert_eq!(cost.charged, Micro::new(expected.price * cost.seconds));
            let ends = job
                .history
                .iter()
                .filter(|step| step.status.is_terminal())
                .count();
            assert_eq!(ends, usize::from(!expected.is_open));
        }
    }
}

fn submission(id: &JobId, owner: &str, created_at: OffsetDateTime, bill: Bill) -> Submission {
    let step = Step {
        status: JobStatus::Sent,
        metadata: Map::new(),
        created_at,
    };
    Submission {
        job: Job {
            uuid: id.clone(),
            owner: Hotkey::new(owner),
            created_at,
            spec: JobSpec {
                target_validator: Hotkey::new("validator"),
                executor_class: ExecutorClass::AlwaysOnTest,
                docker_image: "busybox".to_owned(),
                job_namespace: None,
                tag: String::new(),
                args: Vec::new(),
                env: indexmap::IndexMap::new(),
                use_gpu: false,
                artifacts_dir: String::new(),
                on_trusted_miner: false,
                download_time_limit: 1,
                execution_time_limit: 1,
                streaming_start_time_limit: 1,
                upload_time_limit: 1,
                streaming_client_cert: None,
                volumes: Vec::new(),
                uploads: Vec::new(),
            },
            history: vec![step],
            cost: None,
            cancel: None,
            wait: None,
        },
        signature: JobSignature {
            signatory: Hotkey::new(owner),
            timestamp_ns: 1,
            signature: "c2ln".to_owned(),
            scope: "SignedFields".to_owned(),
        },
        bill: Some(bill),
        request: None,
        unfinished_max: u64::MAX,
        delivery: Delivery {
            is_pushed: true,
            deliver_until: created_at,
            budget: time::Duration::HOUR,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_any_lives_of_jobs_the_ledger_balances_and_nothing_is_charged_twice(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for act in acts {
                world.play(act).await;
                world.check().await;
            }
        });
    }
}
