//! `horde executor check` and `horde executor specs` on this very machine.

use std::process::Output;

use serde_json::Value;

use crate::support::{Home, docker_is_there};

fn checks(output: &Output) -> Vec<Value> {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["checks"].as_array().unwrap().clone()
}

fn failed(checks: &[Value]) -> Vec<&str> {
    let failed = checks.iter().filter(|check| check["status"] == "failed");
    failed.map(|check| check["check"].as_str().unwrap()).collect()
}

#[test]
fn a_machine_without_docker_fails_its_check_with_a_remedy() {
    let home = Home::new();
    let output = home
        .horde(["executor", "check", "--json"])
        .env("HORDE_EXECUTOR_DOCKER_HOST", "unix:///no/such.sock")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    let checks = checks(&output);
    assert_eq!(failed(&checks), ["docker"]);
    assert!(checks[0]["actual"].as_str().unwrap().contains("/no/such.sock"));
    assert!(!checks[0]["remedy"].as_str().unwrap().is_empty());
}

/// Whatever this machine is, the exit code follows from what is printed, and accepting what failed changes both.
#[test]
fn every_check_is_told_and_a_failed_one_can_be_accepted_by_name() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let run = |accept: &str| {
        let mut command = home.horde(["executor", "check", "--json"]);
        command.env("HORDE_EXECUTOR_ACCEPT", accept).output().unwrap()
    };
    let output = run("");
    let found = checks(&output);
    let wanted = if failed(&found).is_empty() { 0 } else { 10 };
    assert_eq!(output.status.code(), Some(wanted), "{}", home.told(&output));
    let names: Vec<_> = found
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    for name in [
        "CVE-2022-0492",
        "CVE-2025-31133",
        "CVE-2024-25621",
        "seccomp",
        "limits",
        "docker",
        "cgroup",
        "work-dir",
        "disk",
        "image",
        "user-namespace",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for check in &found {
        for field in ["status", "actual", "required", "purpose", "remedy"] {
            assert!(!check[field].as_str().unwrap().is_empty(), "{field} of {check}");
        }
    }
    let vulnerabilities: Vec<_> = failed(&found)
        .into_iter()
        .filter(|name| name.starts_with("CVE-"))
        .collect();
    let accepted = checks(&run(&vulnerabilities.join(",")));
    for check in &accepted {
        let name = check["check"].as_str().unwrap();
        if vulnerabilities.contains(&name) {
            assert_eq!(check["status"], "accepted", "{check}");
        }
    }
    let left: Vec<_> = failed(&found)
        .into_iter()
        .filter(|name| !name.starts_with("CVE-"))
        .collect();
    assert_eq!(failed(&accepted), left);
    let text = home.run(["executor", "check"]);
    for name in names {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[test]
fn the_machine_is_described_in_the_words_of_the_wire() {
    let home = Home::new();
    let output = home.horde(["executor", "specs", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", home.told(&output));
    let specs: Value = serde_json::from_slice(&output.stdout).unwrap();
    for section in ["gpu", "cpu", "ram", "hard_disk", "os"] {
        assert!(!specs[section].is_null(), "{section} in {specs}");
    }
}
