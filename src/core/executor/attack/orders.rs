//! What the miner of the stage orders: the job of each attack, in the words of the wire; pure.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::catalogue::{ATTACKS, Attack, BE_A_NEIGHBOUR, Job};

/// The class that the jobs are ordered under; it asks for nothing.
const CLASS: &str = "always_on.test";

/// A hotkey that is nobody's: the executor reads the receipt and leaves it to others to check.
const HOTKEY: &str = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM";

/// The limit of a job's container and of its other stages, in seconds.
const LIMIT_SECONDS: u64 = 60;

/// One job that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Its name, which is part of its token.
    pub(super) name: &'static str,
    /// What the container tries.
    pub(super) inside: Vec<&'static str>,
    /// The attacks that are judged by it.
    pub(super) attacks: Vec<&'static str>,
    /// What it brings and takes.
    pub(super) cargo: Cargo,
}

/// What a job brings and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    /// Nothing.
    None,
    /// The output as a zip, and artifacts.
    Results,
    /// One file of the output, by the name of a link.
    Link,
    /// A volume that is a trap.
    Trap,
}

/// The addresses that an order names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses<'a> {
    /// The web server of the stage.
    pub(super) stage: SocketAddr,
    /// The port of the canaries.
    pub(super) canary_port: u16,
    /// The run, which a canary wants to hear.
    pub(super) run: &'a str,
    /// A file of the host.
    pub(super) canary: &'a str,
}

impl Addresses<'_> {
    fn page(&self, page: &str, name: &str) -> String {
        format!("http://{}/{page}/{name}", self.stage)
    }
}

/// Returns the jobs of the chosen attacks, in the order in which they are run: one lane that looks and takes, one
/// that brings traps. The neighbour is not among them.
pub(super) fn plan(chosen: &dyn Fn(&str) -> bool) -> (Vec<Order>, Vec<Order>) {
    let of = |job: Job| {
        ATTACKS
            .iter()
            .filter(move |attack| attack.job == job && chosen(attack.name))
    };
    let together = |job: Job, name: &'static str, cargo: Cargo| {
        let attacks: Vec<&str> = of(job).map(|attack| attack.name).collect();
        (!attacks.is_empty()).then(|| Order {
            name,
            inside: attacks.clone(),
            attacks,
            cargo,
        })
    };
    let alone = |attack: &Attack| Order {
        name: attack.name,
        inside: Vec::new(),
        attacks: vec![attack.name],
        cargo: Cargo::Trap,
    };
    let first = [
        together(Job::Probes, "probes", Cargo::None),
        together(Job::Crowd, "crowd", Cargo::None),
        together(Job::Memory, "memory", Cargo::None),
        together(Job::SharedMemory, "shared-memory", Cargo::None),
        together(Job::Disk, "disk", Cargo::None),
        together(Job::OutputDisk, "output-disk", Cargo::None),
        together(Job::Flood, "flood", Cargo::None),
    ];
    let second = [
        together(Job::Links, "links", Cargo::Results),
        together(Job::SingleLink, "single-link", Cargo::Link),
        together(Job::Daemon, "daemon", Cargo::None),
    ];
    (
        first.into_iter().flatten().collect(),
        second
            .into_iter()
            .flatten()
            .chain(of(Job::Volume).map(alone))
            .collect(),
    )
}

/// Returns the job that plays the neighbour.
pub(super) fn neighbour() -> Order {
    Order {
        name: "neighbour",
        inside: vec![BE_A_NEIGHBOUR],
        attacks: Vec::new(),
        cargo: Cargo::None,
    }
}

/// Writes the first message of a job.
pub(super) fn initial(job_uuid: &str, image: &str) -> Value {
    json!({
        "message_type": "V0InitialJobRequest",
        "job_uuid": job_uuid,
        "executor_class": CLASS,
        "docker_image": image,
        "timeout_seconds": null,
        "volume": null,
        "job_started_receipt_payload": {
            "job_uuid": job_uuid,
            "miner_hotkey": HOTKEY,
            "validator_hotkey": HOTKEY,
            "timestamp": "2026-01-01T00:00:00Z",
            "receipt_type": "JobStartedReceipt",
            "executor_class": CLASS,
            "is_organic": true,
            "ttl": 30,
        },
        "job_started_receipt_signature": "0x00",
        "streaming_details": null,
        "executor_timing": {
            "allowed_leeway": LIMIT_SECONDS,
            "download_time_limit": LIMIT_SECONDS,
            "execution_time_limit": LIMIT_SECONDS,
            "upload_time_limit": LIMIT_SECONDS,
            "streaming_start_time_limit": LIMIT_SECONDS,
        },
    })
}

/// Writes the second message of a job; `inside` are the attacker's orders.
pub(super) fn full(
    order: &Order,
    job_uuid: &str,
    image: &str,
    inside: &str,
    addresses: Addresses<'_>,
    token: &str,
) -> Value {
    let upload = match order.cargo {
        Cargo::None | Cargo::Trap => Value::Null,
        Cargo::Results => {
            json!({ "output_upload_type": "zip_and_http_put", "url": addresses.page("upload", token) })
        }
        Cargo::Link => json!({
            "output_upload_type": "single_file_put",
            "url": addresses.page("upload", token),
            "relative_path": "secret",
        }),
    };
    let volume = match order.cargo {
        Cargo::Trap => volume(order.name, addresses),
        Cargo::None | Cargo::Results | Cargo::Link => Value::Null,
    };
    json!({
        "message_type": "V0JobRequest",
        "job_uuid": job_uuid,
        "executor_class": CLASS,
        "docker_image": image,
        "raw_script": null,
        "docker_run_options_preset": "none",
        "docker_run_cmd": ["executor", "attack-inside", inside],
        "env": {},
        "volume": volume,
        "output_upload": upload,
        "artifacts_dir": (order.cargo == Cargo::Results).then_some("/artifacts"),
    })
}

/// Writes the volume of an attack that is one.
fn volume(attack: &str, addresses: Addresses<'_>) -> Value {
    let single = |url: String| json!({ "volume_type": "single_file", "url": url, "relative_path": "file" });
    match attack {
        "path-escape" => json!({
            "volume_type": "single_file",
            "url": addresses.page("zip", "zip-slip"),
            "relative_path": "../../horde-attack-escaped",
        }),
        "redirect-to-loopback" | "redirect-to-metadata" => single(addresses.page("away", attack)),
        "mapped-address" => single(format!(
            "http://[::ffff:127.0.0.2]:{}/{}={attack}=",
            addresses.canary_port, addresses.run
        )),
        "local-file" => single(format!("file://{}", addresses.canary)),
        _ => json!({ "volume_type": "zip_url", "contents": addresses.page("zip", attack) }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::proto::miner_executor::Down;

    #[test]
    fn every_attack_is_part_of_exactly_one_job() {
        let (first, second) = plan(&|_| true);
        let judged: Vec<&str> = first
            .iter()
            .chain(&second)
            .flat_map(|order| order.attacks.iter().copied())
            .collect();
        let all: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(judged.len(), all.len());
        assert_eq!(judged.into_iter().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn only_the_jobs_of_chosen_attacks_are_run() {
        let (first, second) = plan(&|name| matches!(name, "mount" | "zip-bomb"));
        let names = |orders: &[Order]| orders.iter().map(|order| order.name).collect::<Vec<_>>();
        assert_eq!(
            (names(&first), names(&second)),
            (vec!["probes"], vec!["zip-bomb"])
        );
        assert_eq!(first[0].inside, ["mount"]);
    }

    #[test]
    fn every_order_is_a_message_of_the_wire() {
        let addresses = Addresses {
            stage: SocketAddr::from(([127, 0, 0, 1], 1)),
            canary_port: 2,
            run: "r",
            canary: "/tmp/c",
        };
        let (first, second) = plan(&|_| true);
        for order in first.iter().chain(&second).chain([&neighbour()]) {
            let text = full(order, "j", "image:1", "{}", addresses, "t").to_string();
            assert!(matches!(Down::decode(&text), Ok(Down::FullJob(_))), "{text}");
        }
        let text = initial("j", "image:1").to_string();
        assert!(matches!(Down::decode(&text), Ok(Down::InitialJob(_))), "{text}");
    }
}
