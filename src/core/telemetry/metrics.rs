//! Figures of a running miner, as text for Prometheus. Every name and every label is here and nowhere else.
//!
//! Counters are kept where things happen; what can be looked up (executors, the store, the process) is set when
//! somebody asks, from a [`Snapshot`].

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A loop that shows by a heartbeat that it turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// Reads the metagraph and announces the address.
    Chain,
    /// Finds out the address.
    Address,
    /// Follows the operator's orders.
    Orders,
    /// Keeps the manifest up to date.
    Manifest,
    /// Reads the dynamic configuration.
    Dynamic,
    /// Forgets old rows.
    Forget,
    /// Removes containers that nobody knows.
    Reap,
    /// Packs old pages of receipts.
    Pack,
}

impl Loop {
    /// Returns its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Address => "address",
            Self::Orders => "orders",
            Self::Manifest => "manifest",
            Self::Dynamic => "dynamic",
            Self::Forget => "forget",
            Self::Reap => "reap",
            Self::Pack => "pack",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With results.
    Finished,
    /// By its own fault.
    JobFailed,
    /// By the fault of somebody else.
    HordeFailed,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::JobFailed => "job_failed",
            Self::HordeFailed => "horde_failed",
        }
    }
}

/// What a class of executors is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassFigures {
    /// The class.
    pub class: &'static str,
    /// Executors that validators are told of.
    pub offered: i64,
    /// Executors that have a job.
    pub busy: i64,
    /// Executors that rest, since one of them left its machine unfit.
    pub resting: i64,
    /// Executors whose engine or machine does not answer, or was taken out.
    pub lost: i64,
}

/// What is looked up when somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By class.
    pub executors: Vec<ClassFigures>,
    /// Writes of the store since the start.
    pub store_writes: u64,
    /// Commits of the store since the start; writes that wait together share one.
    pub store_commits: u64,
    /// Writes of the store that wait.
    pub store_waiting: u64,
    /// Memory of the process, in bytes.
    pub memory_bytes: u64,
    /// Open files of the process.
    pub open_files: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Class {
    class: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassState {
    class: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoopName {
    name: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// All figures of a miner.
pub struct Metrics {
    registry: Registry,
    offered: Family<Class, Counter>,
    accepted: Family<Class, Counter>,
    declined: Family<Reason, Counter>,
    ended: Family<Ended, Counter>,
    executors: Family<ClassState, Gauge>,
    connections: Family<State, Gauge>,
    receipts: Family<Kind, Counter>,
    pages: Family<Status, Counter>,
    beats: Family<LoopName, Seconds>,
    store_writes: Gauge,
    store_commits: Gauge,
    store_waiting: Gauge,
    memory: Gauge,
    files: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes the figures, all at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            offered: Family::default(),
            accepted: Family::default(),
            declined: Family::default(),
            ended: Family::default(),
            executors: Family::default(),
            connections: Family::default(),
            receipts: Family::default(),
            pages: Family::default(),
            beats: Family::default(),
            store_writes: Gauge::default(),
            store_commits: Gauge::default(),
            store_waiting: Gauge::default(),
            memory: Gauge::default(),
            files: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the process",
            Unit::Bytes,
            self.memory.clone(),
        );
        registry.register(
            "process_open_fds",
            "Open files of the process",
            self.files.clone(),
        );
        let registry = registry.sub_registry_with_prefix("horde");
        registry.register("build", "What runs", build);
        registry.register_with_unit(
            "loop_last_turn_timestamp",
            "When each loop turned last, as Unix time; one that stands still is stuck",
            Unit::Seconds,
            self.beats.clone(),
        );
        let registry = registry.sub_registry_with_prefix("miner");
        registry.register(
            "jobs_offered",
            "Jobs that validators brought",
            self.offered.clone(),
        );
        registry.register(
            "jobs_accepted",
            "Jobs that got an executor",
            self.accepted.clone(),
        );
        registry.register("jobs_declined", "Jobs that were refused", self.declined.clone());
        registry.register("jobs_ended", "Accepted jobs that ended", self.ended.clone());
        registry.register("executors", "Executors by what they do", self.executors.clone());
        registry.register(
            "connections",
            "Connections of validators",
            self.connections.clone(),
        );
        registry.register(
            "receipts_stored",
            "Receipts that were countersigned and stored",
            self.receipts.clone(),
        );
        registry.register(
            "page_requests",
            "Requests for pages of receipts",
            self.pages.clone(),
        );
        registry.register(
            "store_writes",
            "Writes of the database since the start",
            self.store_writes.clone(),
        );
        registry.register(
            "store_commits",
            "Commits of the database since the start",
            self.store_commits.clone(),
        );
        registry.register(
            "store_waiting",
            "Writes of the database that wait",
            self.store_waiting.clone(),
        );
    }

    /// Notes that a validator brought a job.
    pub fn job_offered(&self, class: &str) {
        let class = class.to_owned();
        self.offered.get_or_create(&Class { class }).inc();
    }

    /// Notes that a job got an executor.
    pub fn job_accepted(&self, class: &str) {
        let class = class.to_owned();
        self.accepted.get_or_create(&Class { class }).inc();
    }

    /// Notes that a job was refused.
    pub fn job_declined(&self, reason: &'static str) {
        self.declined.get_or_create(&Reason { reason }).inc();
    }

    /// Notes that an accepted job ended; `reason` is the wire's word, or empty.
    pub fn job_ended(&self, outcome: Outcome, reason: &'static str) {
        let outcome = outcome.word();
        self.ended.get_or_create(&Ended { outcome, reason }).inc();
    }

    /// Notes that a receipt was stored; `kind` as `JobStartedReceipt`.
    pub fn receipt_stored(&self, kind: &'static str) {
        self.receipts.get_or_create(&Kind { kind }).inc();
    }

    /// Notes the status of an answer to a request for a page.
    pub fn page_requested(&self, status: u16) {
        self.pages.get_or_create(&Status { status }).inc();
    }

    /// Notes that a loop turned at this Unix time, in seconds.
    pub fn beat(&self, which: Loop, unix_seconds: i64) {
        let name = LoopName { name: which.word() };
        #[expect(clippy::cast_precision_loss, reason = "exact up to the year 285 million")]
        self.beats.get_or_create(&name).set(unix_seconds as f64);
    }

    /// Counts a connection that has not authenticated, until what is returned goes.
    pub fn connection(&self) -> Connection {
        let waiting = self.connections.get_or_create_owned(&State { state: "waiting" });
        let authenticated = self.connections.get_or_create_owned(&State {
            state: "authenticated",
        });
        waiting.inc();
        Connection {
            now: waiting,
            authenticated,
        }
    }

    /// Returns all figures as text, with what `snapshot` says.
    pub fn text(&self, snapshot: &Snapshot) -> Result<String, fmt::Error> {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.store_writes, snapshot.store_writes);
        set(&self.store_commits, snapshot.store_commits);
        set(&self.store_waiting, snapshot.store_waiting);
        set(&self.memory, snapshot.memory_bytes);
        set(&self.files, snapshot.open_files);
        for ClassFigures {
            class,
            offered,
            busy,
            resting,
            lost,
        } in &snapshot.executors
        {
            for (state, count) in [
                ("offered", offered),
                ("busy", busy),
                ("resting", resting),
                ("lost", lost),
            ] {
                let class = (*class).to_owned();
                self.executors
                    .get_or_create(&ClassState { class, state })
                    .set(*count);
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Connection {
    now: Gauge,
    authenticated: Gauge,
}

impl Connection {
    /// Counts it among those that have authenticated from now on.
    pub fn authenticate(&mut self) {
        self.now.dec();
        self.now = self.authenticated.clone();
        self.now.inc();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.now.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_text_that_prometheus_reads() {
        let metrics = Metrics::new();
        metrics.job_offered("always_on.test");
        metrics.job_offered("always_on.test");
        metrics.job_accepted("always_on.test");
        metrics.job_declined("busy");
        metrics.job_ended(Outcome::JobFailed, "timeout");
        metrics.receipt_stored("JobStartedReceipt");
        metrics.page_requested(206);
        metrics.beat(Loop::Chain, 1_800_000_000);
        let first = metrics.connection();
        let mut second = metrics.connection();
        second.authenticate();
        drop(first);
        let snapshot = Snapshot {
            executors: vec![ClassFigures {
                class: "always_on.test",
                offered: 2,
                busy: 1,
                resting: 0,
                lost: 0,
            }],
            store_writes: 7,
            ..Snapshot::default()
        };
        let text = metrics.text(&snapshot).unwrap();
        for line in [
            r#"horde_miner_jobs_offered_total{class="always_on.test"} 2"#,
            r#"horde_miner_jobs_accepted_total{class="always_on.test"} 1"#,
            r#"horde_miner_jobs_declined_total{reason="busy"} 1"#,
            r#"horde_miner_jobs_ended_total{outcome="job_failed",reason="timeout"} 1"#,
            r#"horde_miner_receipts_stored_total{kind="JobStartedReceipt"} 1"#,
            r#"horde_miner_page_requests_total{status="206"} 1"#,
            r#"horde_loop_last_turn_timestamp_seconds{name="chain"} 1800000000.0"#,
            r#"horde_miner_connections{state="waiting"} 0"#,
            r#"horde_miner_connections{state="authenticated"} 1"#,
            r#"horde_miner_executors{class="always_on.test",state="busy"} 1"#,
            "horde_miner_store_writes 7",
            &format!("horde_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
