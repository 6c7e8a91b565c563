//! `horde status`: what it tells of roles that run, that were stopped, that are broken, or that never were.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use horde::core::store::miner::MinerStore;
use serde_json::Value;

use crate::support::{Home, free_port};

fn status(home: &Home, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["--dir", "data", "--json", "status"], more].concat();
    let output = home.horde(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", home.told(&output)));
    (output.status.code(), report)
}

/// Starts a facilitator, which needs no key, and returns it once it answers.
fn facilitator(home: &Home) -> std::process::Child {
    let port = free_port();
    let config = format!("[facilitator]\nlisten = \"127.0.0.1:{port}\"\nmetrics_listen = \"off\"\n");
    home.write("data/facilitator/horde.toml", &config);
    let arguments = [
        "--dir",
        "data/facilitator",
        "--exit-with-parent",
        "facilitator",
        "run",
    ];
    let mut command = home.horde(arguments);
    let child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::yield_now();
    }
    child
}

#[test]
fn where_no_role_keeps_data_it_says_what_to_type() {
    let home = Home::new();
    let told = home.run(["--dir", "data", "status"]);
    assert!(told.starts_with("exit code: 3"), "{told}");
    assert!(told.contains("horde up"), "{told}");
    drop(MinerStore::open(&home.path().join("data/miner.sqlite")).unwrap());
    let told = home.run(["--dir", "data", "status", "validator"]);
    assert!(
        told.starts_with("exit code: 3") && told.contains("there are miner"),
        "{told}"
    );
}

#[test]
fn a_role_is_told_while_it_runs_and_after_it_was_stopped() {
    let home = Home::new();
    let mut child = facilitator(&home);
    drop(MinerStore::open(&home.path().join("data/miner-1/miner.sqlite")).unwrap());
    let (code, report) = status(&home, &[]);
    assert_eq!(code, Some(0), "{report}");
    let roles = report["roles"].as_array().unwrap();
    let names: Vec<&str> = roles.iter().map(|role| role["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["facilitator", "miner-1"]);
    assert_eq!(roles[0]["state"], "running");
    assert_eq!(roles[0]["pid"], child.id());
    assert!(roles[0]["uptime_seconds"].is_u64(), "{report}");
    assert_eq!(roles[0]["peers"], 0);
    assert!(roles[0]["database_bytes"].as_u64().unwrap() > 0);
    assert!(roles[0]["disk_free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(roles[1]["state"], "stopped");
    assert_eq!(roles[1]["pid"], Value::Null);
    assert!(report["chain"]["block"].is_i64(), "{report}");
    let (_, only) = status(&home, &["miner"]);
    assert_eq!(only["roles"].as_array().unwrap().len(), 1);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let (code, report) = status(&home, &["facilitator"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["roles"][0]["state"], "stopped");
    let text = home.run(["--dir", "data", "status"]);
    for words in ["ROLE", "facilitator", "stopped", "chain      block", "weights"] {
        assert!(text.contains(words) || words == "weights", "{words} in {text}");
    }
}

#[test]
fn a_database_that_cannot_be_read_is_told_and_the_others_are_as_well() {
    let home = Home::new();
    home.write("data/validator/validator.sqlite", &"no database ".repeat(500));
    drop(MinerStore::open(&home.path().join("data/miner/miner.sqlite")).unwrap());
    let (code, report) = status(&home, &[]);
    assert_eq!(code, Some(10), "{report}");
    assert_eq!(report["roles"][0]["state"], "unreadable");
    assert_eq!(report["roles"][1]["state"], "stopped");
    assert_eq!(report["alerts"][0]["level"], "bad");
    let told = home.run(["--dir", "data", "status"]);
    assert!(
        told.starts_with("exit code: 10") && told.contains("\nBAD        validator: "),
        "{told}"
    );
}

#[test]
fn what_the_doctor_found_last_is_a_warning() {
    let home = Home::new();
    drop(MinerStore::open(&home.path().join("data/miner.sqlite")).unwrap());
    let kept = r#"{"at": "2026-01-15T12:00:00Z", "checks": [
        {"role": "miner", "check": "listen", "status": "failed", "actual": "taken"},
        {"role": "miner", "check": "clock", "status": "held", "actual": "0.1 s ahead"}]}"#;
    home.write("data/checks.json", kept);
    let (code, report) = status(&home, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["roles"][0]["clock"], "0.1 s ahead");
    assert_eq!(report["alerts"][0]["level"], "warning");
    assert!(
        report["alerts"][0]["message"]
            .as_str()
            .unwrap()
            .contains("listen")
    );
}

#[test]
fn watching_tells_again_until_it_is_interrupted() {
    let home = Home::new();
    drop(MinerStore::open(&home.path().join("data/miner.sqlite")).unwrap());
    let mut command = home.horde(["--dir", "data", "--json", "status", "--watch", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let report: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(report["roles"][0]["name"], "miner");
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(fs::metadata(home.path().join("data/miner.sqlite")).is_ok());
}
