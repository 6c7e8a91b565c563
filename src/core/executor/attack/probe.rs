//! What the inside tells the outside: one line of JSON for each attack, facts without a verdict.

use serde::{Deserialize, Serialize};

/// The longest line that the outside reads, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The most attempts of one attack that the outside looks at.
const STEPS_MAX: usize = 256;

/// What the outside asks of the inside; travels as an argument of the container's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Orders {
    /// The attacks to try, by name.
    pub(super) attacks: Vec<String>,
    /// The run that these attacks belong to; names of sockets and what is said to canaries carry it.
    pub(super) run: String,
    /// This job of the run; its processes are known by it.
    pub(super) job: String,
    /// Addresses of the host at which canaries listen.
    pub(super) addresses: Vec<std::net::IpAddr>,
    /// Their TCP port.
    pub(super) tcp_port: u16,
    /// Their UDP port.
    pub(super) udp_port: u16,
    /// A file on the host that must be neither read nor written.
    pub(super) canary: String,
    /// How much an exhaustion may take before the attacker stops by itself.
    pub(super) bounds: Bounds,
}

/// Where the attacker itself stops, so that a broken sandbox does not cost the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bounds {
    /// Processes.
    pub(super) forks: u32,
    /// Bytes of memory.
    pub(super) memory_bytes: u64,
    /// Bytes written to any one place.
    pub(super) disk_bytes: u64,
    /// Bytes written to the log.
    pub(super) log_bytes: u64,
    /// Open descriptors.
    pub(super) descriptors: u32,
}

/// What one attempt met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Got {
    /// The kernel's refusal, by its name, such as `EPERM`.
    Refused(String),
    /// It worked; what happened.
    Done(String),
    /// What there was to see.
    Found(Vec<String>),
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// What was tried.
    pub(super) tried: String,
    /// What came of it.
    pub(super) got: Got,
}

/// All attempts of one attack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probe {
    /// The attack's name.
    pub(super) attack: String,
    /// What was tried, in order.
    pub(super) steps: Vec<Step>,
}

impl Orders {
    /// Returns what the attacker says where it gets through, by which a canary knows it.
    pub(super) fn hello(&self, attack: &str) -> Vec<u8> {
        format!("{}={attack}=\n", self.run).into_bytes()
    }

    /// Returns the abstract name at which another job listens.
    pub(super) fn neighbour_name(&self) -> String {
        format!("horde-neighbour-{}", self.run)
    }
}

/// Returns the abstract name of the host's canary.
pub(super) fn abstract_name(run: &str) -> String {
    format!("horde-canary-{run}")
}

/// Reads what the inside told; lines that are none of ours, or too long, are passed over.
pub(super) fn read(stdout: &str) -> Vec<Probe> {
    let ours = stdout.lines().filter(|line| line.len() <= LINE_BYTES_MAX);
    ours.filter_map(|line| serde_json::from_str::<Probe>(line).ok())
        .map(|mut probe| {
            probe.steps.truncate(STEPS_MAX);
            probe
        })
        .collect()
}
