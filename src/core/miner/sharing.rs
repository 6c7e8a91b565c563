//! Who gets an executor when several validators want it (sem-scoring §11 row 5, §11.3): by stake when they compete,
//! whoever asks when they do not.
//!
//! Each validator earns executor time by its share of the stake, into a bucket of at most one cycle. A job that fits
//! into the bucket is *in quota*; any other may have an executor that is idle, as *best effort*, and costs nothing.
//! When none is idle, a job in quota claims the executor of a best-effort job of another validator: that job is stopped
//! at its next ten-minute boundary, and the executor is kept for the claimant for a while. Only validators that speak
//! the extension claim, and only jobs of such validators are stopped: they know that they run as best effort.
//!
//! ```text
//!               an executor is idle, and not kept for another ──▶ accepted: in quota or best effort
//! asks ─┬──────
//!       └── none, in quota ──▶ busy, come again in …   (a best-effort job stops at its boundary, the slot is kept)
//!       └── none, over quota ──▶ busy
//! ```

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::model::{ExecutorClass, Hotkey, JobId};

/// Best-effort jobs are stopped at multiples of this since their start only: ten minutes (sem-scoring §11.3).
pub const BOUNDARY: Duration = Duration::from_secs(600);

/// Time for which unused quota adds up: one cycle of 722 blocks of 12 s.
pub const CYCLE: Duration = Duration::from_secs(722 * 12);

/// How long an executor that became free for a claimant is kept for it.
pub const KEPT_FOR: Duration = Duration::from_secs(60);

/// Longest time after which a claimant is told to come again; shorter than [`KEPT_FOR`], so that it does not miss an
/// executor that became free early.
pub const COME_AGAIN: Duration = Duration::from_secs(30);

/// Shortest such time: a job that is stopped takes a moment to leave, and nobody shall ask without a pause.
pub const COME_AGAIN_MIN: Duration = Duration::from_secs(1);

/// A job that wants an executor.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The job.
    pub job: &'a JobId,
    /// Whose it is.
    pub validator: &'a Hotkey,
    /// The class it needs.
    pub class: ExecutorClass,
    /// How long it may run, in seconds.
    pub seconds: u32,
    /// Whether the validator knows of sharing.
    pub knows: bool,
    /// Executors of the class that are in service.
    pub slots: u32,
}

/// On which terms a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// Within the validator's share; it is left alone.
    InQuota,
    /// Beyond it.
    BestEffort,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It gets an executor that is idle.
    Accept(Terms),
    /// It gets none.
    Busy {
        /// When to ask again, where an executor is on its way.
        again_in: Option<Duration>,
    },
}

#[derive(Debug)]
struct Bucket {
    seconds: f64,
    at: Instant,
}

#[derive(Debug)]
struct Run {
    validator: Hotkey,
    since: Instant,
    /// Seconds taken out of the bucket; none for best effort.
    charged: Option<f64>,
    knows: bool,
    stops_at: Option<Instant>,
    was_told: bool,
}

/// An executor that is or will be free for a validator.
#[derive(Debug)]
struct Claim {
    validator: Hotkey,
    victim: JobId,
    /// Until when the executor is kept, once the victim has left it.
    kept_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Floor {
    buckets: HashMap<Hotkey, Bucket>,
    runs: HashMap<JobId, Run>,
    claims: Vec<Claim>,
}

/// The executors of a miner as validators share them.
#[derive(Debug, Default)]
pub struct Sharing {
    stakes: HashMap<Hotkey, u64>,
    floors: HashMap<ExecutorClass, Floor>,
}

impl Sharing {
    /// Takes over the stakes of the active validators.
    pub fn set_stakes(&mut self, stakes: HashMap<Hotkey, u64>) {
        for floor in self.floors.values_mut() {
            floor
                .buckets
                .retain(|validator, _| stakes.contains_key(validator));
        }
        self.stakes = stakes;
    }

    /// Returns a validator's part of all stake, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    fn share(&self, validator: &Hotkey) -> f64 {
        let Some(own) = self.stakes.get(validator) else {
            return 0.0;
        };
        let all: u128 = self.stakes.values().map(|stake| u128::from(*stake)).sum();
        if all == 0 {
            return 1.0 / self.stakes.len() as f64;
        }
        *own as f64 / all as f64
    }

    /// Tells whether a job runs.
    pub fn has(&self, job: &JobId) -> bool {
        self.floors.values().any(|floor| floor.runs.contains_key(job))
    }

    /// Decides on a request; one that is accepted runs until [`Sharing::end`].
    pub fn ask(&mut self, request: Request<'_>, now: Instant) -> Decision {
        let share = self.share(request.validator);
        let stakes = &self.stakes;
        let floor = self.floors.entry(request.class).or_default();
        floor.forget_claims(now);
        let seconds = f64::from(request.seconds);
        let is_in_quota = floor.fill(request.validator, share, request.slots, now) >= seconds;
        if floor.has_room_for(request.validator, request.slots) {
            floor.use_claim(request.validator);
            return Decision::Accept(floor.run(request, is_in_quota.then_some(seconds), now));
        }
        if !is_in_quota || !request.knows {
            return Decision::Busy { again_in: None };
        }
        let again_in = floor
            .claim(request.validator, stakes, now)
            .map(|ready_at| ready_at.duration_since(now).clamp(COME_AGAIN_MIN, COME_AGAIN));
        Decision::Busy { again_in }
    }

    /// Notes that a job has left its executor; what it had reserved and not used goes back into the bucket.
    pub fn end(&mut self, job: &JobId, now: Instant) {
        for floor in self.floors.values_mut() {
            let Some(run) = floor.runs.remove(job) else {
                continue;
            };
            let used = now.duration_since(run.since).as_secs_f64();
            let unused = run.charged.map_or(0.0, |charged| (charged - used).max(0.0));
            if let Some(bucket) = floor.buckets.get_mut(&run.validator) {
                // The cap is applied when the bucket is filled next.
                bucket.seconds += unused;
            }
            for claim in floor.claims.iter_mut().filter(|claim| &claim.victim == job) {
                claim.kept_until = Some(now + KEPT_FOR);
            }
            return;
        }
    }

    /// Returns the jobs that have reached the boundary at which they stop; each once.
    pub fn due(&mut self, now: Instant) -> Vec<JobId> {
        let mut due = Vec::new();
        for floor in self.floors.values_mut() {
            floor.forget_claims(now);
            for (job, run) in &mut floor.runs {
                if run.stops_at.is_some_and(|stops_at| stops_at <= now) && !run.was_told {
                    run.was_told = true;
                    due.push(job.clone());
                }
            }
        }
        due
    }
}

impl Floor {
    /// Fills a validator's bucket, and returns the executor seconds in it.
    fn fill(&mut self, validator: &Hotkey, share: f64, slots: u32, now: Instant) -> f64 {
        let earned_a_second = f64::from(slots) * share;
        let most = earned_a_second * CYCLE.as_secs_f64();
        let bucket = self.buckets.entry(validator.clone()).or_insert(Bucket {
            seconds: most,
            at: now,
        });
        let elapsed = now.duration_since(bucket.at).as_secs_f64();
        bucket.seconds = (bucket.seconds + elapsed * earned_a_second).min(most);
        bucket.at = now;
        bucket.seconds
    }

    /// Returns whether an executor is idle and not kept for another validator.
    fn has_room_for(&self, validator: &Hotkey, slots: u32) -> bool {
        let kept = self
            .claims
            .iter()
            .filter(|claim| claim.kept_until.is_some() && &claim.validator != validator)
            .count();
        self.runs.len() + kept < usize::try_from(slots).unwrap_or(usize::MAX)
    }

    fn use_claim(&mut self, validator: &Hotkey) {
        let kept = self
            .claims
            .iter()
            .position(|claim| &claim.validator == validator && claim.kept_until.is_some());
        if let Some(at) = kept {
            self.claims.remove(at);
        }
    }

    fn forget_claims(&mut self, now: Instant) {
        self.claims
            .retain(|claim| claim.kept_until.is_none_or(|until| now < until));
    }

    fn run(&mut self, request: Request<'_>, charged: Option<f64>, now: Instant) -> Terms {
        if let (Some(seconds), Some(bucket)) = (charged, self.buckets.get_mut(request.validator)) {
            bucket.seconds -= seconds;
        }
        let run = Run {
            validator: request.validator.clone(),
            since: now,
            charged,
            knows: request.knows,
            stops_at: None,
            was_told: false,
        };
        self.runs.insert(request.job.clone(), run);
        match charged {
            Some(_) => Terms::InQuota,
            None => Terms::BestEffort,
        }
    }

    /// Claims an executor for a validator, and returns when it will be free; none where no job may be stopped.
    fn claim(&mut self, validator: &Hotkey, stakes: &HashMap<Hotkey, u64>, now: Instant) -> Option<Instant> {
        let pending = self
            .claims
            .iter()
            .find(|claim| &claim.validator == validator && claim.kept_until.is_none());
        if let Some(claim) = pending {
            let stops_at = self.runs.get(&claim.victim).and_then(|run| run.stops_at);
            return Some(stops_at.map_or(now, |stops_at| stops_at.max(now)));
        }
        let victim = self
            .runs
            .iter()
            .filter(|(_, run)| {
                run.charged.is_none() && run.knows && run.stops_at.is_none() && &run.validator != validator
            })
            .max_by(|(one, a), (other, b)| {
                let greed = |run: &Run| self.greed(&run.validator, stakes, now);
                greed(a).total_cmp(&greed(b)).then_with(|| one.cmp(other))
            })
            .map(|(job, _)| job.clone())?;
        let run = self.runs.get_mut(&victim)?;
        let stops_at = next_boundary(run.since, now);
        run.stops_at = Some(stops_at);
        self.claims.push(Claim {
            validator: validator.clone(),
            victim,
            kept_until: None,
        });
        Some(stops_at)
    }

    /// Returns how much best-effort time a validator's jobs have taken, for its stake.
    #[expect(clippy::cast_precision_loss, reason = "only compared")]
    fn greed(&self, validator: &Hotkey, stakes: &HashMap<Hotkey, u64>, now: Instant) -> f64 {
        let used: f64 = self
            .runs
            .values()
            .filter(|run| &run.validator == validator && run.charged.is_none())
            .map(|run| now.duration_since(run.since).as_secs_f64())
            .sum();
        let stake = stakes.get(validator).copied().unwrap_or(0).max(1);
        used / stake as f64
    }
}

/// Returns the first multiple of [`BOUNDARY`] since `since` that is not before `now`.
fn next_boundary(since: Instant, now: Instant) -> Instant {
    let elapsed = now.duration_since(since);
    let passed = elapsed.as_nanos().div_ceil(BOUNDARY.as_nanos()).max(1);
    since + BOUNDARY * u32::try_from(passed).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

    fn validator(number: u8) -> Hotkey {
        Hotkey::new(format!("validator {number}"))
    }

    fn job(number: u32) -> JobId {
        JobId::new(format!("{number}"))
    }

    /// Validators 0, 1, … with these stakes.
    fn sharing(stakes: &[u64]) -> Sharing {
        let mut sharing = Sharing::default();
        let stakes = stakes.iter().zip(0..);
        sharing.set_stakes(
            stakes
                .map(|(stake, number)| (validator(number), *stake))
                .collect(),
        );
        sharing
    }

    fn ask(sharing: &mut Sharing, who: u8, what: u32, seconds: u32, slots: u32, now: Instant) -> Decision {
        let request = Request {
            job: &job(what),
            validator: &validator(who),
            class: CLASS,
            seconds,
            knows: true,
            slots,
        };
        sharing.ask(request, now)
    }

    fn is_accepted(decision: Decision) -> bool {
        matches!(decision, Decision::Accept(_))
    }

    #[test]
    fn who_is_alone_has_everything_whatever_its_stake() {
        let mut sharing = sharing(&[1, 1_000_000]);
        let now = Instant::now();
        for number in 0..4 {
            assert!(is_accepted(ask(&mut sharing, 0, number, 300, 4, now)));
        }
        assert_eq!(
            ask(&mut sharing, 0, 9, 300, 4, now),
            Decision::Busy { again_in: None }
        );
    }

    #[test]
    fn a_best_effort_job_makes_room_at_its_boundary_and_the_claimant_gets_the_executor() {
        let mut sharing = sharing(&[1, 1_000_000]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            ask(&mut sharing, 0, 1, 3000, 1, start),
            Decision::Accept(Terms::BestEffort)
        );
        let wait = Decision::Busy {
            again_in: Some(COME_AGAIN),
        };
        assert_eq!(ask(&mut sharing, 1, 2, 300, 1, at(700)), wait);
        // Asking again does not stop a second job, and the first goes on until its boundary.
        assert_eq!(ask(&mut sharing, 1, 2, 300, 1, at(730)), wait);
        assert_eq!(sharing.due(at(1199)), []);
        assert_eq!(sharing.due(at(1200)), [job(1)]);
        assert_eq!(sharing.due(at(1201)), [], "each once");
        sharing.end(&job(1), at(1202));
        assert_eq!(
            ask(&mut sharing, 0, 3, 300, 1, at(1203)),
            Decision::Busy { again_in: None },
            "the executor is kept"
        );
        assert_eq!(
            ask(&mut sharing, 1, 2, 300, 1, at(1204)),
            Decision::Accept(Terms::InQuota)
        );
    }

    #[test]
    fn who_asks_at_the_very_boundary_is_told_to_come_again_after_a_pause() {
        let mut sharing = sharing(&[1, 1_000_000]);
        let start = Instant::now();
        ask(&mut sharing, 0, 1, 3000, 1, start);
        let again_in = Some(COME_AGAIN_MIN);
        let now = start + BOUNDARY * 2;
        assert_eq!(ask(&mut sharing, 1, 2, 300, 1, now), Decision::Busy { again_in });
        assert_eq!(sharing.due(now), [job(1)]);
    }

    #[test]
    fn an_executor_is_not_kept_for_ever() {
        let mut sharing = sharing(&[1, 1_000_000]);
        let start = Instant::now();
        ask(&mut sharing, 0, 1, 3000, 1, start);
        ask(&mut sharing, 1, 2, 300, 1, start);
        sharing.end(&job(1), start);
        assert!(!is_accepted(ask(&mut sharing, 0, 3, 300, 1, start)));
        assert!(is_accepted(ask(&mut sharing, 0, 3, 300, 1, start + KEPT_FOR)));
    }

    #[test]
    fn jobs_of_validators_that_do_not_know_are_left_alone() {
        let mut sharing = sharing(&[1, 1_000_000]);
        let now = Instant::now();
        let request = Request {
            job: &job(1),
            validator: &validator(0),
            class: CLASS,
            seconds: 3000,
            knows: false,
            slots: 1,
        };
        assert!(is_accepted(sharing.ask(request, now)));
        assert_eq!(
            ask(&mut sharing, 1, 2, 300, 1, now),
            Decision::Busy { again_in: None }
        );
        assert_eq!(sharing.due(now + BOUNDARY * 9), []);
    }

    #[test]
    fn of_two_the_greedier_for_its_stake_makes_room() {
        let mut sharing = sharing(&[10, 1, 1_000_000]);
        let start = Instant::now();
        ask(&mut sharing, 0, 1, 8000, 2, start);
        ask(&mut sharing, 1, 2, 8000, 2, start);
        let now = start + Duration::from_secs(30);
        ask(&mut sharing, 2, 3, 300, 2, now);
        assert_eq!(sharing.due(start + BOUNDARY), [job(2)]);
    }

    #[test]
    fn unused_quota_comes_back() {
        let mut sharing = sharing(&[1]);
        let start = Instant::now();
        let whole = u32::try_from(CYCLE.as_secs()).unwrap();
        for number in 0..5 {
            let decision = ask(&mut sharing, 0, number, whole, 1, start);
            assert_eq!(decision, Decision::Accept(Terms::InQuota));
            sharing.end(&job(number), start);
        }
        ask(&mut sharing, 0, 9, whole, 1, start);
        sharing.end(&job(9), start + CYCLE * 2);
        let now = start + CYCLE * 2;
        assert_eq!(
            ask(&mut sharing, 0, 10, whole, 1, now),
            Decision::Accept(Terms::InQuota)
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask { who: u8, seconds: u32, knows: bool },
        End { pick: usize },
        Wait { seconds: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u8..4, 1_u32..5000, any::<bool>())
                .prop_map(|(who, seconds, knows)| Step::Ask { who, seconds, knows }),
            1 => any::<usize>().prop_map(|pick| Step::End { pick }),
            2 => (0_u64..900).prop_map(|seconds| Step::Wait { seconds }),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn slots_are_never_exceeded_and_only_best_effort_of_those_who_know_stops_at_boundaries(
            stakes in proptest::collection::vec(0_u64..1000, 4),
            slots in 0_u32..4,
            steps in steps(),
        ) {
            let mut sharing = sharing(&stakes);
            let mut now = Instant::now();
            let mut running: Vec<(u32, u8, Terms, bool, Instant)> = Vec::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Ask { who, seconds, knows } => {
                        let request = Request {
                            job: &job(number), validator: &validator(who), class: CLASS, seconds, knows, slots,
                        };
                        match sharing.ask(request, now) {
                            Decision::Accept(terms) => running.push((number, who, terms, knows, now)),
                            Decision::Busy { again_in } => {
                                if let Some(again_in) = again_in {
                                    prop_assert!((COME_AGAIN_MIN..=COME_AGAIN).contains(&again_in) && knows);
                                }
                                // Refused only when all are taken or kept for others.
                                let floor = &sharing.floors[&CLASS];
                                prop_assert!(floor.runs.len() + floor.claims.len() >= usize::try_from(slots).unwrap());
                            }
                        }
                    }
                    Step::End { pick } if !running.is_empty() => {
                        let (number, ..) = running.swap_remove(pick % running.len());
                        sharing.end(&job(number), now);
                    }
                    Step::End { .. } => {}
                    Step::Wait { seconds } => {
                        for _ in 0..seconds {
                            now += Duration::from_secs(1);
                            for stopped in sharing.due(now) {
                                let at = running.iter().position(|(number, ..)| job(*number) == stopped).unwrap();
                                let (_, _, terms, knows, since) = running.swap_remove(at);
                                prop_assert_eq!((terms, knows), (Terms::BestEffort, true));
                                let ran = now.duration_since(since);
                                // Asked for at the very boundary, it is found at the next look.
                                prop_assert!(ran.as_secs() % BOUNDARY.as_secs() <= 1, "{:?}", ran);
                                prop_assert!(ran >= BOUNDARY);
                                sharing.end(&stopped, now);
                            }
                        }
                    }
                }
                prop_assert!(running.len() <= usize::try_from(slots).unwrap());
                prop_assert_eq!(sharing.floors.get(&CLASS).map_or(0, |floor| floor.runs.len()), running.len());
            }
        }

        #[test]
        fn in_quota_waits_for_one_boundary_at_most_while_best_effort_runs(
            slots in 1_u32..5,
            begun in proptest::collection::vec(0_u64..2000, 5),
            seconds in 1_u32..600,
        ) {
            // Validator 0 has nearly no stake and holds every executor, with jobs that began at various times.
            let mut sharing = sharing(&[1, 1_000_000_000]);
            let start = Instant::now();
            let mut begun: Vec<u64> = begun.into_iter().take(usize::try_from(slots).unwrap()).collect();
            begun.sort_unstable();
            for (number, after) in (0..).zip(&begun) {
                let decision = ask(&mut sharing, 0, number, 8000, slots, start + Duration::from_secs(*after));
                prop_assert_eq!(decision, Decision::Accept(Terms::BestEffort));
            }
            let asked = start + Duration::from_secs(2000);
            let mut now = asked;
            loop {
                match ask(&mut sharing, 1, 99, seconds, slots, now) {
                    Decision::Accept(terms) => {
                        prop_assert_eq!(terms, Terms::InQuota);
                        break;
                    }
                    Decision::Busy { again_in } => {
                        let again = now + again_in.unwrap();
                        while now < again {
                            now += Duration::from_secs(1);
                            for stopped in sharing.due(now) {
                                sharing.end(&stopped, now);
                            }
                            // The best-effort validator asks all the time.
                            ask(&mut sharing, 0, 1000, 8000, slots, now);
                        }
                    }
                }
                prop_assert!(now <= asked + BOUNDARY + COME_AGAIN);
            }
        }
    }
}
