//! Judging: each check fails when it should, and says what helps.

use super::*;

fn at(port: u16) -> Axon {
    Axon {
        ip: [192, 0, 2, 1].into(),
        port,
    }
}

#[test]
fn a_miner_must_be_announced_as_configured() {
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
