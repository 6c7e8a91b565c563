//! Judging: each check fails when it should, and says what helps.

use time::macros::datetime;

use super::*;
use crate::core::model::subnet::{Block, Neuron};

const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);

fn metagraph(axon: Option<Axon>) -> Metagraph {
    Metagraph {
        netuid: 12,
        block: Block(1),
        neurons: vec![Neuron {
            uid: 3,
            hotkey: Hotkey::from("miner"),
            coldkey: Hotkey::from("cold"),
            stake_rao: 0,
            axon,
            validator_permit: false,
            registered_at: Block(0),
            last_update: Block(0),
        }],
    }
}

fn at(port: u16) -> Axon {
    Axon {
        ip: [192, 0, 2, 1].into(),
        port,
    }
}

#[test]
fn a_miner_must_be_registered_and_announced_as_configured() {
    let subnet = metagraph(Some(at(8000)));
    assert_eq!(registered(&Hotkey::from("miner"), &subnet).status, Status::Held);
    let stranger = registered(&Hotkey::from("other"), &subnet);
    assert_eq!(stranger.status, Status::Failed);
    assert!(stranger.remedy.contains("register"));
    for (announced, configured, expected) in [
        (Some(at(8000)), Some(at(8000)), Status::Held),
        (Some(at(8000)), None, Status::Held),
        (Some(at(8000)), Some(at(8001)), Status::Failed),
        (None, Some(at(8000)), Status::Failed),
    ] {
        let found = axon(announced, configured);
        assert_eq!(found.status, expected);
        assert!(found.remedy.contains("miner.address"));
    }
}

#[test]
fn a_clock_that_is_off_is_told_with_the_difference() {
    let told = |ahead, exact_to| {
        clock(
            NOW,
            None,
            Some(Ok(Told {
                source: "http://time".to_owned(),
                ahead: time::Duration::seconds(ahead),
                exact_to: Duration::from_secs(exact_to),
            })),
        )
    };
    assert_eq!(told(1, 1).status, Status::Held);
    assert_eq!(told(4, 1).status, Status::Advice);
    assert_eq!(told(-60, 1).status, Status::Failed);
    assert!(told(-60, 1).actual.contains("60.0 s behind"));
    assert!(told(60, 1).actual.contains("60.0 s ahead"));
    assert_eq!(
        told(60, 59).status,
        Status::Held,
        "what is not sure is no failure"
    );
    let by_chain = |seconds| clock(NOW, Some(NOW - time::Duration::seconds(seconds)), None);
    assert_eq!(by_chain(11).status, Status::Held);
    assert_eq!(by_chain(-5).status, Status::Failed);
    assert!(by_chain(-5).actual.contains("behind the chain"));
    assert_eq!(by_chain(120).status, Status::Failed);
    assert!(by_chain(120).remedy.contains("miner.clock_url"));
    assert_eq!(clock(NOW, None, None).status, Status::Unknown);
}

#[test]
fn only_the_sign_of_life_and_the_exact_words_are_taken_for_reachable() {
    assert_eq!(reachable_http("u", &Ok(200)).status, Status::Held);
    for answer in [Ok(302), Ok(502), Err("refused".to_owned())] {
        assert_eq!(reachable_http("u", &answer).status, Status::Failed);
    }
    let say = |details: &str| Ok(Up::from(GenericError::new(details.to_owned())).encode());
    assert_eq!(
        reachable_websocket("u", &say("Unknown validator: fake-hotkey")).status,
        Status::Held
    );
    for first in [
        say("Unknown validator: other"),
        Ok("hello".to_owned()),
        Err("refused".to_owned()),
    ] {
        let found = reachable_websocket("u", &first);
        assert_eq!(found.status, Status::Failed);
        assert!(found.remedy.contains("Upgrade"));
    }
}

#[test]
fn keys_must_be_private_and_the_coldkey_elsewhere() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hotkey");
    assert_eq!(key_file(&KeyFile::read(&path)).status, Status::Failed);
    assert_eq!(coldkey(&KeyFile::read(&path)).status, Status::Held);
    std::fs::write(&path, "{}").unwrap();
    for (mode, expected) in [
        (0o600, Status::Held),
        (0o400, Status::Held),
        (0o640, Status::Failed),
        (0o604, Status::Failed),
    ] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let found = key_file(&KeyFile::read(&path));
        assert_eq!(found.status, expected, "{mode:o}");
        assert!(found.remedy.contains("chmod 600"));
    }
    assert_eq!(coldkey(&KeyFile::read(&path)).status, Status::Advice);
}

#[test]
fn a_database_must_lie_on_a_local_disk_and_be_undamaged() {
    let path = Path::new("/data");
    assert_eq!(data_dir(path, &Ok(0xef53)).status, Status::Held);
    assert_eq!(data_dir(path, &Ok(0x6969)).status, Status::Failed);
    assert!(data_dir(path, &Ok(0x6969)).actual.contains("NFS"));
    assert_eq!(data_dir(path, &Ok(0x6573_5546)).status, Status::Advice);
    assert_eq!(database(&Ok(Vec::new())).status, Status::Held);
    assert_eq!(
        database(&Ok(vec!["row missing".to_owned()])).status,
        Status::Failed
    );
    assert_eq!(database(&Err("malformed".to_owned())).status, Status::Failed);
}

#[test]
fn gpus_that_a_reload_takes_away_and_missing_ports_are_told() {
    assert_eq!(gpu_devices("cgroupfs", false).status, Status::Held);
    assert_eq!(gpu_devices("systemd", true).status, Status::Held);
    let hazard = gpu_devices("systemd", false);
    assert_eq!(hazard.status, Status::Advice);
    assert!(hazard.remedy.contains("create-dev-char-symlinks"));
    for (free, executors, expected) in [
        (10, 2, Status::Held),
        (1, 2, Status::Advice),
        (0, 1, Status::Failed),
    ] {
        assert_eq!(streaming_ports(&(6000..=6009), free, executors).status, expected);
    }
}

#[test]
fn every_check_says_what_it_requires_what_for_and_what_helps() {
    // Those of the executor's own check bring their words with them.
    let borrowed = ["docker", "work-dir", "disk", "gpu", "nvidia-runtime"];
    for name in NAMES.into_iter().filter(|name| !borrowed.contains(name)) {
        let (required, purpose, remedy) = words(name);
        for text in [required, purpose, remedy] {
            assert!(!text.is_empty(), "{name}");
        }
    }
    assert!(FROM_ELSEWHERE.iter().all(|name| NAMES.contains(name)));
    assert_eq!(words("self-test:always_on.test"), words("self-test"));
}
