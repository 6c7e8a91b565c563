//! What `horde miner check` looks at: facts become findings. Pure, but for [`probe`] and [`trial`].

pub mod probe;
pub mod trial;

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::core::doctor;
use crate::core::host::checks::Words;
pub use crate::core::host::checks::{Finding, Status};
use crate::core::model::subnet::Axon;
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

/// Makes a finding.
pub fn finding(check: &str, status: Status, actual: impl Display) -> Finding {
    Finding::new(check, status, actual, words(check))
}

/// Makes the finding of a check that was not made.
pub fn skipped(check: &str, why: impl Display) -> Finding {
    finding(check, Status::Skipped, why)
}

/// Returns what a check requires, what it is good for, and what helps when it fails.
fn words(check: &str) -> Words {
    match check.split(':').next().unwrap_or(check) {
        "axon" => (
            "on the chain as configured",
            "validators connect to what the chain says",
            "run the miner: it announces itself every minute; set miner.address and miner.port to how it is reached \
             from outside",
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
        other => doctor::words(other),
    }
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
