//! `horde doctor`: what it finds in directories that are whole, broken or missing, and what it puts right.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use horde::core::store::miner::MinerStore;
use serde_json::Value;

use crate::support::Home;

/// Checks of the miner itself, without what this machine has or lacks.
const OF_MINER: &str =
    "config,data-dir,permissions,schema,database,wal,lock,key-file,key-pair,coldkey,listen";

/// A home with a miner that has a database, a key and a port of its own.
fn miner(port: u16) -> Home {
    let home = Home::new();
    let config = format!(
        "[miner]\nlisten = \"127.0.0.1:{port}\"\nmetrics_listen = \"off\"\n[wallet]\npath = \"wallets\"\n"
    );
    home.write("data/horde.toml", &config);
    let made = home.run(["key", "new", "--wallet-path", "data/wallets"]);
    assert!(made.starts_with("exit code: 0"), "{made}");
    drop(MinerStore::open(&home.path().join("data/miner.sqlite")).unwrap());
    set_mode(&home.path().join("data"), 0o700);
    home
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn doctor(home: &Home, more: &[&str]) -> (Output, Value) {
    let arguments = [&["--dir", "data", "--json", "doctor"], more].concat();
    let output = home.horde(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", home.told(&output)));
    (output, report)
}

fn find<'a>(report: &'a Value, check: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let mut found = checks.iter().filter(|row| row["check"] == check);
    let row = found.next().unwrap_or_else(|| panic!("{check} in {report}"));
    assert!(found.next().is_none(), "{check} is there twice");
    row
}

fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    let failed = checks.filter(|row| row["status"] == "failed");
    failed.map(|row| row["check"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_miner_holds_every_check_of_its_own() {
    let home = miner(crate::support::free_port());
    let (output, report) = doctor(&home, &["--only", OF_MINER]);
    assert_eq!(output.status.code(), Some(0), "{}", home.told(&output));
    let names: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(row["role"], "miner", "{row}");
            assert!(row["duration_ms"].is_u64(), "{row}");
            for field in ["actual", "required", "purpose", "remedy"] {
                assert!(!row[field].as_str().unwrap().is_empty(), "{field} of {row}");
            }
            row["check"].as_str().unwrap()
        })
        .collect();
    let mut wanted: Vec<&str> = OF_MINER.split(',').collect();
    let mut sorted = names.clone();
    wanted.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    for name in names.iter().filter(|name| **name != "data-dir") {
        assert_eq!(find(&report, name)["status"], "held", "{report}");
    }
}

#[test]
fn a_private_file_that_others_may_read_fails_until_it_is_fixed() {
    let home = miner(crate::support::free_port());
    let key = home.path().join("data/wallets/default/hotkeys/default");
    let database = home.path().join("data/miner.sqlite");
    set_mode(&key, 0o644);
    set_mode(&database, 0o640);
    let only = ["--only", "key-file,permissions"];
    let (output, report) = doctor(&home, &only);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    assert_eq!(failed(&report), ["permissions", "key-file"]);
    assert!(
        find(&report, "key-file")["remedy"]
            .as_str()
            .unwrap()
            .contains("chmod 600")
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("key-file of miner"));
    // What was not asked for is left alone.
    let (output, report) = doctor(&home, &["--only", "permissions", "--fix"]);
    assert_eq!(output.status.code(), Some(0), "{}", home.told(&output));
    assert_eq!(report["changed"].as_array().unwrap().len(), 1, "{report}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&database), mode(&key)), (0o600, 0o644));
    let (output, report) = doctor(&home, &[&only[..], &["--fix"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", home.told(&output));
    assert_eq!(mode(&key), 0o600);
    assert!(
        report["changed"][0].as_str().unwrap().contains("0600"),
        "{report}"
    );
    let (_, report) = doctor(&home, &[&only[..], &["--fix"]].concat());
    assert_eq!(report["changed"], serde_json::json!([]), "there is nothing left");
}

#[test]
fn a_taken_port_names_who_has_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = miner(taken.local_addr().unwrap().port());
    let (output, report) = doctor(&home, &["--only", "listen"]);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    let words = find(&report, "listen")["actual"].as_str().unwrap();
    assert!(
        words.contains(&format!("process {} (", std::process::id())),
        "{words}"
    );
}

#[test]
fn a_newer_schema_and_a_damaged_database_fail_by_different_names() {
    let home = miner(crate::support::free_port());
    let path = home.path().join("data/miner.sqlite");
    let whole = fs::read(&path).unwrap();
    let only = ["--only", "schema,database"];
    // `user_version` is a number of four bytes in the file's head.
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&900_u32.to_be_bytes());
    fs::write(&path, newer).unwrap();
    let (output, report) = doctor(&home, &only);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    assert_eq!(failed(&report), ["schema"]);
    assert!(
        find(&report, "schema")["actual"]
            .as_str()
            .unwrap()
            .contains("version 900")
    );
    for damaged in [b"this is no database".repeat(300), {
        let mut page = whole.clone();
        let length = page.len();
        page[4096..length].fill(0xAA);
        page
    }] {
        fs::write(&path, damaged).unwrap();
        let (output, report) = doctor(&home, &only);
        assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
        assert_eq!(failed(&report), ["database"], "{report}");
    }
}

#[test]
fn a_missing_directory_is_made_when_asked_for() {
    let home = Home::new();
    let look = |more: &[&str]| doctor(&home, &[&["miner", "--only", "data-dir"], more].concat());
    let (output, report) = look(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", home.told(&output));
    assert_eq!(find(&report, "data-dir")["status"], "advice");
    assert!(!home.path().join("data").exists());
    let (_, report) = look(&["--fix"]);
    assert_eq!(report["changed"].as_array().unwrap().len(), 1, "{report}");
    let mode = fs::metadata(home.path().join("data"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let status = &find(&report, "data-dir")["actual"];
    assert!(status.as_str().unwrap().contains("data"), "{report}");
}

#[test]
fn everything_that_is_wrong_with_the_configuration_is_one_failed_check() {
    let home = miner(crate::support::free_port());
    home.write("data/horde.toml", "[miner]\nlisten = \"nowhere\"\ncolour = 1\n");
    let (output, report) = doctor(&home, &["--only", "config,listen,data-dir"]);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    assert_eq!(failed(&report), ["config"]);
    let words = find(&report, "config")["actual"].as_str().unwrap();
    assert!(words.contains("nowhere") && words.contains("colour"), "{words}");
    assert_eq!(find(&report, "listen")["actual"], "see config");
    assert_ne!(find(&report, "data-dir")["status"], "skipped");
}

#[test]
fn a_validator_whose_facilitator_is_away_is_told_so() {
    let home = Home::new();
    let port = crate::support::free_port();
    let config = format!(
        "[wallet]\nuri = \"//Alice\"\n[validator]\nfacilitator_url = \"ws://127.0.0.1:{port}/ws/v0/\"\n"
    );
    home.write("data/horde.toml", &config);
    let (output, report) = doctor(&home, &["--only", "facilitator,clock,key-file"]);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    assert_eq!(failed(&report), ["facilitator"]);
    assert_eq!(find(&report, "facilitator")["role"], "validator");
    assert_eq!(find(&report, "clock")["actual"], "see facilitator");
    assert_eq!(find(&report, "key-file")["status"], "skipped");
}

#[test]
fn results_are_kept_for_the_dashboard_and_written_as_junit() {
    let home = miner(crate::support::free_port());
    set_mode(&home.path().join("data/miner.sqlite"), 0o644);
    // Whatever else this machine lacks, the miner fails.
    let (output, report) = doctor(&home, &["--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    let kept: Value =
        serde_json::from_str(&fs::read_to_string(home.path().join("data/checks.json")).unwrap()).unwrap();
    assert_eq!(find(&kept, "permissions"), find(&report, "permissions"));
    let junit = fs::read_to_string(home.path().join("report.xml")).unwrap();
    let case = junit
        .lines()
        .find(|line| line.contains("name=\"permissions\""))
        .unwrap();
    assert!(
        case.contains("classname=\"miner\"") && case.contains("<failure"),
        "{case}"
    );
    let view = home.run([
        "--dir",
        "data",
        "dashboard",
        "--view",
        "checks",
        "--once",
        "--json",
    ]);
    assert!(
        view.contains("\"permissions\"") && view.contains("0644"),
        "{view}"
    );
    // A look at some of it is no look at all of it.
    fs::remove_file(home.path().join("data/checks.json")).unwrap();
    drop(doctor(&home, &["--only", "permissions"]));
    assert!(!home.path().join("data/checks.json").exists());
}

#[test]
fn without_any_role_a_client_is_looked_at_and_nothing_is_written() {
    let home = Home::new();
    let output = home.horde(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(10),
        "it has no key: {}",
        home.told(&output)
    );
    assert_eq!(failed(&report), ["key-file"]);
    assert_eq!(find(&report, "facilitator")["status"], "skipped");
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // The facilitator that a user has named is asked.
    let url = format!("http://127.0.0.1:{}", crate::support::free_port());
    let mut named = home.horde(["doctor", "--json", "--only", "facilitator"]);
    let output = named.env("HORDE_CLIENT_FACILITATOR_URL", url).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(failed(&report), ["facilitator"], "{}", home.told(&output));
}

#[test]
fn the_roles_in_the_directory_of_a_context_are_looked_at() {
    let home = Home::new();
    let dir = home.path().join("there");
    let contexts = format!("[context.far]\ndir = {dir:?}\n");
    home.write(".config/horde/contexts.toml", &contexts);
    home.write("there/miner/horde.toml", "[wallet]\nuri = \"//Bob\"\n");
    drop(MinerStore::open(&dir.join("miner/miner.sqlite")).unwrap());
    let output = home
        .horde([
            "--context",
            "far",
            "doctor",
            "--json",
            "--only",
            "data-dir,key-file",
        ])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", home.told(&output));
    assert_eq!(find(&report, "key-file")["status"], "skipped", "{report}");
    let words = find(&report, "data-dir")["actual"].as_str().unwrap();
    assert!(words.contains("there/miner"), "{words}");
}

#[test]
fn checks_are_listed_explained_and_named_rightly() {
    let home = Home::new();
    let list = home.run(["doctor", "--list"]);
    for name in ["key-file", "docker", "CVE-2022-0492", "CVE-2025-31133"] {
        assert!(list.contains(name), "{name} in {list}");
        let told = home.run(["doctor", "--explain", name]);
        for word in ["required", "purpose", "how", "remedy"] {
            assert!(told.contains(&format!("\n{word:<8}  ")), "{word} in {told}");
        }
    }
    let json = home.horde(["doctor", "--list", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let rows = json["checks"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["how"].is_string()));
    let wrong = home.run(["doctor", "--only", "key-fiel"]);
    assert!(
        wrong.starts_with("exit code: 2") && wrong.contains("did you mean key-file?"),
        "{wrong}"
    );
    let nothing = home.run(["doctor", "--only", "streaming-ports"]);
    assert!(
        nothing.starts_with("exit code: 2"),
        "a client has none: {nothing}"
    );
}

#[test]
fn people_read_a_sign_and_a_word_and_what_helps() {
    let home = miner(crate::support::free_port());
    set_mode(&home.path().join("data/miner.sqlite"), 0o644);
    let only = ["--dir", "data", "doctor", "--only", "permissions,lock"];
    let text = home.run(only);
    assert!(text.contains("\nminer\n"), "{text}");
    assert!(text.contains("✗ FAILED    permissions  "), "{text}");
    assert!(text.contains("remedy       chmod 600"), "{text}");
    assert!(text.contains("✓ held      lock"), "{text}");
    let output = home.horde(only).env("LC_ALL", "C").output().unwrap();
    assert!(output.stdout.is_ascii(), "{}", home.told(&output));
}
