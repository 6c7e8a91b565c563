//! What `horde miner check` looks at: facts become findings. Pure, but for [`probe`] and [`trial`].

pub mod probe;
pub mod trial;

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

pub use crate::core::host::checks::{Finding, Status};
use crate::core::model::Hotkey;
use crate::core::model::subnet::{Axon, Metagraph};
use crate::core::proto::job::GenericError;
use crate::core::proto::validator_miner::Up;

/// Names of the checks, in the order in which they are made; `self-test` is one for each class.
pub const NAMES: [&str; 20] = [
    "key-file",
    "coldkey",
    "data-dir",
    "database",
    "registered",
    "axon",
    "clock",
    "front-door",
    "reachable-http",
    "reachable-websocket",
    "docker",
    "image",
    "work-dir",
    "disk",
    "gpu",
    "nvidia-runtime",
    "gpu-devices",
    "streaming-ports",
    "self-test",
    "receipts-page",
];

/// Checks that a machine other than the miner's can make.
pub const FROM_ELSEWHERE: [&str; 5] = [
    "registered",
    "axon",
    "clock",
    "reachable-http",
    "reachable-websocket",
];

/// The hotkey of the probe (sem-miner §10.1).
pub const PROBE_HOTKEY: &str = "fake-hotkey";

/// Clock difference that is worth a look: validators' clocks are off as well, and 10 s end an authentication
/// (wire-miner-validator §2).
const SKEW_ADVICE: Duration = Duration::from_secs(2);

/// Clock difference at which authentications and receipts begin to fail.
const SKEW_MAX: Duration = Duration::from_secs(5);

/// How far the newest block may lie back: two blocks and a slow node.
const HEAD_AGE_MAX: Duration = Duration::from_secs(30);

/// Access that a private key may not give: that of group and others.
const SHARED_BITS: u32 = 0o077;

/// Makes a finding.
pub fn finding(check: &str, status: Status, actual: impl Display) -> Finding {
    let (required, purpose, remedy) = words(check);
    Finding {
        check: check.to_owned(),
        status,
        actual: actual.to_string(),
        required: required.to_owned(),
        purpose: purpose.to_owned(),
        remedy: remedy.to_owned(),
        cves: Vec::new(),
    }
}

/// Makes the finding of a check that was not made.
pub fn skipped(check: &str, why: impl Display) -> Finding {
    finding(check, Status::Skipped, why)
}

/// Returns what a check requires, what it is good for, and what helps when it fails.
fn words(check: &str) -> (&'static str, &'static str, &'static str) {
    match check.split(':').next().unwrap_or(check) {
        "key-file" => (
            "readable by this user alone (mode 0600)",
            "whoever reads the hotkey can speak as this miner",
            "chmod 600 the file named",
        ),
        "coldkey" => (
            "no private coldkey on this machine",
            "the coldkey owns the stake, and a miner never needs it",
            "move the file to a machine that serves nobody, and leave coldkeypub.txt here",
        ),
        "data-dir" => (
            "on a local file system",
            "SQLite loses data over network file systems",
            "pass --dir with a directory on a local disk",
        ),
        "database" => (
            "undamaged",
            "it holds jobs, receipts and what is owed to validators",
            "stop the miner, move miner.sqlite* away and bring a backup back",
        ),
        "registered" => (
            "in the metagraph",
            "validators look for miners there",
            "register the hotkey on the subnet (btcli subnet register), or set wallet.name and wallet.hotkey to the \
             registered one",
        ),
        "axon" => (
            "on the chain as configured",
            "validators connect to what the chain says",
            "run the miner: it announces itself every minute; set miner.address and miner.port to how it is reached \
             from outside",
        ),
        "clock" => (
            "at most 5 s off",
            "authentications and receipts of a wrong time are refused",
            "synchronise the clock: timedatectl set-ntp true",
        ),
        "front-door" => (
            "the running miner answers at miner.listen",
            "the other checks go through it",
            "start it: horde miner run",
        ),
        "reachable-http" => (
            "HTTP 200 on /admin/login/ at the chain's address",
            "the subnet's sign of life",
            "open the port in the firewall and forward it in the router; then look again from another machine: \
             curl -i the address named",
        ),
        "reachable-websocket" => (
            "GenericError \"Unknown validator: fake-hotkey\" as first message",
            "validators speak websocket, which some proxies do not pass",
            "let the proxy pass Upgrade headers, and see that no other program has the port",
        ),
        "gpu-devices" => (
            "no device can vanish from a running job",
            "systemctl daemon-reload takes GPUs from containers when systemd keeps their device rules",
            "nvidia-ctk system create-dev-char-symlinks --create-all, or \"exec-opts\": \
             [\"native.cgroupdriver=cgroupfs\"] in /etc/docker/daemon.json",
        ),
        "streaming-ports" => (
            "one for each executor",
            "clients of streaming jobs come in there",
            "set miner.streaming_ports to ports that no other program uses, and open them in the firewall",
        ),
        "self-test" => (
            "a job of the class runs to its end",
            "what a validator would get",
            "see the reason; `horde miner jobs show` has the job's timeline, `horde executor check` looks at the \
             machine",
        ),
        "receipts-page" => (
            "lists the receipts of the self-test",
            "validators collect proofs of work there",
            "look at the log for what keeps pages from being written",
        ),
        "image" => (
            "there, when executors are containers",
            "executors run in it with miner.backend = docker",
            "horde executor image --tag, with the name of miner.executor_image",
        ),
        _ => ("", "", "see the reason"),
    }
}

/// A file that holds a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its mode, or why it is not known; none where there is no such file.
    pub mode: Option<Result<u32, String>>,
}

impl KeyFile {
    /// Looks at a file; blocks.
    pub fn read(path: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = match std::fs::metadata(path) {
            Ok(facts) => Some(Ok(facts.permissions().mode() & 0o7777)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error.to_string())),
        };
        Self {
            path: path.to_owned(),
            mode,
        }
    }
}

/// Looks at the hotkey's file.
pub fn key_file(file: &KeyFile) -> Finding {
    let path = file.path.display();
    match &file.mode {
        None => Finding {
            remedy: "set wallet.path, wallet.name and wallet.hotkey; `horde key new` makes one".to_owned(),
            ..finding("key-file", Status::Failed, format_args!("{path}: no such file"))
        },
        Some(Err(why)) => finding("key-file", Status::Failed, format_args!("{path}: {why}")),
        Some(Ok(mode)) => {
            let is_private = mode & SHARED_BITS == 0;
            let status = if is_private { Status::Held } else { Status::Failed };
            finding("key-file", status, format_args!("{path} has mode {mode:04o}"))
        }
    }
}

/// Looks for the coldkey, which has no business here.
pub fn coldkey(file: &KeyFile) -> Finding {
    match file.mode {
        None => finding("coldkey", Status::Held, "none"),
        Some(_) => finding("coldkey", Status::Advice, file.path.display()),
    }
}

/// Names of file systems that are somebody else's machine, by the number that `statfs` gives.
const REMOTE: [(u64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6573_5546, "FUSE"),
];

/// Returns the number of the file system that a path lies on, or of the nearest folder above that exists; blocks.
pub fn file_system(path: &Path) -> Result<u64, String> {
    let nearest = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let facts = rustix::fs::statfs(nearest).map_err(|error| error.to_string())?;
    // Its type differs between architectures; the numbers have 32 bits.
    u32::try_from(facts.f_type & 0xffff_ffff)
        .map(u64::from)
        .map_err(|error| error.to_string())
}

/// Tells whether GPUs can be found by their device numbers in a folder such as `/dev/char`; blocks.
pub fn has_device_links(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.filter_map(Result::ok).any(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with("nvidia"))
    })
}

/// Looks at the file system of the data directory; `kind` is the number that `statfs` gives, or why there is none.
pub fn data_dir(path: &Path, kind: &Result<u64, String>) -> Finding {
    let path = path.display();
    match kind {
        Err(why) => finding("data-dir", Status::Unknown, format_args!("{path}: {why}")),
        Ok(kind) => match REMOTE.iter().find(|(number, _)| number == kind) {
            // Some are local.
            Some((_, "FUSE")) => finding("data-dir", Status::Advice, format_args!("{path} is on FUSE")),
            Some((_, name)) => finding("data-dir", Status::Failed, format_args!("{path} is on {name}")),
            None => finding("data-dir", Status::Held, path),
        },
    }
}

/// Looks at what SQLite found.
pub fn database(damage: &Result<Vec<String>, String>) -> Finding {
    match damage {
        Err(why) => finding("database", Status::Failed, why),
        Ok(lines) => match lines.first() {
            None => finding("database", Status::Held, "undamaged"),
            Some(line) => finding("database", Status::Failed, line),
        },
    }
}

/// Looks for the miner in the metagraph.
pub fn registered(hotkey: &Hotkey, metagraph: &Metagraph) -> Finding {
    match metagraph.neuron(hotkey) {
        Some(neuron) => finding(
            "registered",
            Status::Held,
            format_args!("{hotkey} is uid {} of subnet {}", neuron.uid, metagraph.netuid),
        ),
        None => finding(
            "registered",
            Status::Failed,
            format_args!("{hotkey} is not in subnet {}", metagraph.netuid),
        ),
    }
}

/// Compares the announced address with the configured one; without one, being announced is enough.
pub fn axon(announced: Option<Axon>, configured: Option<Axon>) -> Finding {
    let shown = |axon: Axon| SocketAddr::new(axon.ip, axon.port);
    match (announced, configured) {
        (None, _) => finding("axon", Status::Failed, "no address is announced on the chain"),
        (Some(axon), Some(wanted)) if axon != wanted => finding(
            "axon",
            Status::Failed,
            format_args!("the chain has {}, configured is {}", shown(axon), shown(wanted)),
        ),
        (Some(axon), _) => finding(
            "axon",
            Status::Held,
            format_args!("the chain has {}", shown(axon)),
        ),
    }
}

/// What another clock said, and when it was asked by ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whose clock.
    pub source: String,
    /// Our clock ahead of it (negative: behind).
    pub ahead: time::Duration,
    /// How exact that is.
    pub exact_to: Duration,
}

/// Compares the clocks: with the chain's newest block, which may only bound it, and with a server where one is set.
pub fn clock(
    now: OffsetDateTime,
    head: Option<OffsetDateTime>,
    server: Option<Result<Told, String>>,
) -> Finding {
    match server {
        Some(Ok(told)) => {
            let sure = told.ahead.unsigned_abs().saturating_sub(told.exact_to);
            let status = if sure > SKEW_MAX {
                Status::Failed
            } else if sure > SKEW_ADVICE {
                Status::Advice
            } else {
                Status::Held
            };
            let words = format!("{} (by {})", direction(told.ahead), told.source);
            return finding("clock", status, words);
        }
        Some(Err(why)) => return finding("clock", Status::Unknown, why),
        None => {}
    }
    let Some(head) = head else {
        return finding("clock", Status::Unknown, "the chain does not answer");
    };
    let age = now - head;
    let remedy = "set miner.clock_url to a web server that you trust, to measure the difference itself";
    if age < -time::Duration::seconds(2) {
        finding(
            "clock",
            Status::Failed,
            format_args!(
                "this machine's clock is at least {:.1} s behind the chain",
                -age.as_seconds_f64()
            ),
        )
    } else if age > HEAD_AGE_MAX {
        Finding {
            remedy: format!("compare with another clock, or wait for the chain to go on; {remedy}"),
            ..finding(
                "clock",
                Status::Failed,
                format_args!(
                    "the newest block is {:.0} s old: the clock is ahead or the chain stands still",
                    age.as_seconds_f64()
                ),
            )
        }
    } else {
        finding(
            "clock",
            Status::Held,
            format_args!("the newest block is {:.1} s old", age.as_seconds_f64()),
        )
    }
}

fn direction(ahead: time::Duration) -> String {
    let seconds = ahead.as_seconds_f64();
    if seconds >= 0.0 {
        format!("this machine's clock is {seconds:.1} s ahead")
    } else {
        format!("this machine's clock is {:.1} s behind", -seconds)
    }
}

/// Judges the sign of life at the chain's address.
pub fn reachable_http(url: &str, answer: &Result<u16, String>) -> Finding {
    match answer {
        Ok(200) => finding("reachable-http", Status::Held, format_args!("{url}: HTTP 200")),
        Ok(status) => finding(
            "reachable-http",
            Status::Failed,
            format_args!("{url}: HTTP {status}"),
        ),
        Err(why) => finding("reachable-http", Status::Failed, format_args!("{url}: {why}")),
    }
}

/// Judges the first message to a validator that nobody knows.
pub fn reachable_websocket(url: &str, first: &Result<String, String>) -> Finding {
    let check = "reachable-websocket";
    let expected = format!("Unknown validator: {PROBE_HOTKEY}");
    match first {
        Err(why) => finding(check, Status::Failed, format_args!("{url}: {why}")),
        Ok(text) => match Up::decode(text) {
            Ok(Up::GenericError(GenericError { details })) if details.as_deref() == Some(&expected) => {
                finding(check, Status::Held, format_args!("{url}: {expected}"))
            }
            _ => finding(
                check,
                Status::Failed,
                format_args!("{url} answers {:?}", text.chars().take(200).collect::<String>()),
            ),
        },
    }
}

/// Judges whether a GPU can vanish from running jobs (NVIDIA container toolkit issue 48): systemd keeps the device
/// rules, and the devices have no links by number, without which it forgets them at its next reload.
pub fn gpu_devices(cgroup_driver: &str, has_links: bool) -> Finding {
    let check = "gpu-devices";
    if cgroup_driver != "systemd" {
        finding(
            check,
            Status::Held,
            format_args!("the engine keeps device rules itself (cgroup driver {cgroup_driver:?})"),
        )
    } else if has_links {
        finding(
            check,
            Status::Held,
            "systemd keeps device rules, and the devices have their links",
        )
    } else {
        finding(
            check,
            Status::Advice,
            "systemd keeps device rules, and /dev/char has no links to the GPUs: a daemon-reload takes them from jobs",
        )
    }
}

/// Judges the ports for clients of streaming jobs; `free` of the range are.
pub fn streaming_ports(range: &RangeInclusive<u16>, free: usize, executors: u32) -> Finding {
    let wanted = usize::try_from(executors).unwrap_or(usize::MAX);
    let status = if free == 0 && wanted > 0 {
        Status::Failed
    } else if free < wanted {
        Status::Advice
    } else {
        Status::Held
    };
    let words = format!(
        "{free} of {}-{} are free, for {executors} executors",
        range.start(),
        range.end()
    );
    finding("streaming-ports", status, words)
}

#[cfg(test)]
mod tests;
