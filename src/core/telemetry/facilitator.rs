//! Figures of a running facilitator, as text for Prometheus. Every name and every label is here and nowhere else.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::Loop;
use super::process::Process;

/// What is looked up when somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Validators that may get jobs.
    pub validators: usize,
    /// Writes of the store since the start.
    pub store_writes: u64,
    /// Commits of the store since the start; writes that wait together share one.
    pub store_commits: u64,
    /// Writes of the store that wait.
    pub store_waiting: u64,
    /// The process.
    pub process: Process,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoopName {
    name: &'static str,
}

/// All figures of a facilitator.
#[derive(Default)]
pub struct FacilitatorMetrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    accepted: Family<Class, Counter>,
    refused: Family<Reason, Counter>,
    statuses: Family<Status, Counter>,
    evicted: Counter,
    beats: Family<LoopName, Gauge<f64, AtomicU64>>,
    validators: Gauge,
    store_writes: Gauge,
    store_commits: Gauge,
    store_waiting: Gauge,
    memory: Gauge,
    files: Gauge,
}

impl fmt::Debug for FacilitatorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FacilitatorMetrics").finish_non_exhaustive()
    }
}

impl FacilitatorMetrics {
    /// Makes the figures, all at zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
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
        let registry = registry.sub_registry_with_prefix("facilitator");
        registry.register("requests", "Requests by route and status", self.requests.clone());
        registry.register("jobs_accepted", "Jobs that were stored", self.accepted.clone());
        registry.register(
            "jobs_refused",
            "Jobs that were refused for a limit",
            self.refused.clone(),
        );
        registry.register(
            "job_statuses",
            "Statuses that validators reported and that were stored",
            self.statuses.clone(),
        );
        registry.register(
            "jobs_evicted",
            "Jobs that were forgotten, long after their end",
            self.evicted.clone(),
        );
        registry.register(
            "validators",
            "Validators that may get jobs now",
            self.validators.clone(),
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

    /// Notes an answer; `route` is the path's pattern.
    pub fn requested(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Request { route, status }).inc();
    }

    /// Notes that a job was stored.
    pub fn accepted(&self, class: &'static str) {
        self.accepted.get_or_create(&Class { class }).inc();
    }

    /// Notes that a job was refused for a limit.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Notes that a status was stored; the wire's word.
    pub fn status(&self, status: &'static str) {
        self.statuses.get_or_create(&Status { status }).inc();
    }

    /// Notes that jobs were forgotten.
    pub fn evicted(&self, jobs: u64) {
        self.evicted.inc_by(jobs);
    }

    /// Notes that a loop turned at this Unix time, in seconds.
    pub fn beat(&self, which: Loop, unix_seconds: i64) {
        let name = LoopName { name: which.word() };
        #[expect(clippy::cast_precision_loss, reason = "exact up to the year 285 million")]
        self.beats.get_or_create(&name).set(unix_seconds as f64);
    }

    /// Returns all figures as text, with what `snapshot` says.
    pub fn text(&self, snapshot: &Snapshot) -> Result<String, fmt::Error> {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(
            &self.validators,
            u64::try_from(snapshot.validators).unwrap_or(u64::MAX),
        );
        set(&self.store_writes, snapshot.store_writes);
        set(&self.store_commits, snapshot.store_commits);
        set(&self.store_waiting, snapshot.store_waiting);
        set(&self.memory, snapshot.process.memory_bytes);
        set(&self.files, snapshot.process.open_files);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_text_that_prometheus_reads() {
        let metrics = FacilitatorMetrics::new();
        metrics.requested("/api/v1/jobs/", 200);
        metrics.accepted("always_on.test");
        metrics.refused("rate");
        metrics.status("completed");
        metrics.evicted(3);
        metrics.beat(Loop::Forget, 1_800_000_000);
        let snapshot = Snapshot {
            validators: 2,
            store_writes: 7,
            ..Snapshot::default()
        };
        let text = metrics.text(&snapshot).unwrap();
        for line in [
            r#"horde_facilitator_requests_total{route="/api/v1/jobs/",status="200"} 1"#,
            r#"horde_facilitator_jobs_accepted_total{class="always_on.test"} 1"#,
            r#"horde_facilitator_jobs_refused_total{reason="rate"} 1"#,
            r#"horde_facilitator_job_statuses_total{status="completed"} 1"#,
            "horde_facilitator_jobs_evicted_total 3",
            "horde_facilitator_validators 2",
            "horde_facilitator_store_writes 7",
            r#"horde_loop_last_turn_timestamp_seconds{name="forget"} 1800000000.0"#,
            &format!("horde_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
