//! The log that a role keeps, and `horde logs`, which reads it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::served::{ROLES, Served, serves};
use crate::support::Home;

fn line(time: &str, level: &str, message: &str) -> String {
    let entry = serde_json::json!({"ts": format!("2026-01-15T12:{time}Z"), "level": level,
        "target": "horde::core::miner", "message": message, "fields": {"job": "3f2a", "n": 7}});
    format!("{entry}\n")
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A data directory with the logs of two miners and a validator, one of them rotated, one of them torn.
fn filled() -> Home {
    let home = Home::new();
    let odd = "two\nlines \u{1b}]0;title\u{7}\u{202e}x";
    for (file, text) in [
        ("d/miner-1/logs/miner.jsonl.1", line("00:01", "INFO", "one")),
        (
            "d/miner-1/logs/miner.jsonl",
            format!(
                "{}{{\"ts\":\"2026\n{}",
                line("00:03", "WARN", "three"),
                line("00:05", "DEBUG", odd)
            ),
        ),
        ("d/miner-2/logs/miner.jsonl", line("00:04.25", "ERROR", "four")),
        ("d/logs/validator.jsonl", line("00:02", "INFO", "two")),
    ] {
        home.write(file, &text);
    }
    home
}

#[test]
fn the_logs_of_all_roles_are_merged_by_time() {
    let home = filled();
    insta::assert_snapshot!(home.run(["logs", "--dir", "d"]));
}

#[test]
fn lines_are_picked_by_role_level_time_words_and_number() {
    let home = filled();
    let told = |words: &[&str]| {
        let words = [&["logs", "--dir", "d", "--json"][..], words].concat();
        let output = home.horde(&words).output().unwrap();
        assert!(output.status.success(), "{}", home.told(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let records: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let (end, lines) = records.split_last().unwrap();
        assert_eq!(end["type"], "end");
        assert_eq!(end["lines"], lines.len());
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record["seq"], index + 1);
            assert_eq!(record["schema"], 1);
        }
        let seconds = lines.iter().map(|line| {
            assert_eq!(line["type"], "line");
            line["ts"].as_str().unwrap().get(17..19).unwrap().parse().unwrap()
        });
        (seconds.collect::<Vec<u32>>(), end["unreadable"].as_u64().unwrap())
    };
    for (words, seconds, unreadable) in [
        (&[][..], &[1, 2, 3, 4, 5][..], 1),
        (&["miner"], &[1, 3, 4, 5], 1),
        (&["miner-2", "validator"], &[2, 4], 0),
        (&["--tail", "2"], &[4, 5], 1),
        (&["--tail", "0"], &[], 0),
        (&["--tail", "2", "--level", "warn"], &[3, 4], 1),
        (&["--level", "INFO"], &[1, 2, 3, 4], 1),
        (&["--since", "2026-01-15T12:00:03Z"], &[3, 4, 5], 1),
        (&["--until", "2026-01-15T12:00:04Z"], &[1, 2, 3], 1),
        (&["--since", "2026-01-15T12:00:02Z", "--tail", "3"], &[3, 4, 5], 1),
        (&["--grep", "t[wh].*job=3f2a"], &[2, 3, 5], 1),
        (&["--grep", "FOUR"], &[], 1),
        (&["--grep", "(?i)FOUR"], &[4], 1),
    ] {
        assert_eq!(told(words), (seconds.to_vec(), unreadable), "{words:?}");
    }
}

#[test]
fn what_is_not_there_or_makes_no_sense_is_told() {
    let home = filled();
    insta::assert_snapshot!(format!(
        "{}\n{}\n{}\n{}\n{}",
        home.run(["logs", "--dir", "nowhere"]),
        home.run(["logs", "--dir", "d", "facilitator", "executor"]),
        home.run(["logs", "--dir", "d", "--grep", "("]),
        home.run(["logs", "--dir", "d", "--level", "loud"]),
        home.run(["logs", "--dir", "d", "--since", "2030-01-01"]),
    ));
}

#[test]
fn a_reader_follows_over_a_rotation_and_to_a_role_that_starts_later() {
    let home = filled();
    let mut reading = home
        .horde(["logs", "--dir", "d", "--follow", "--json", "--tail", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reading.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["ts"], "2026-01-15T12:00:05Z");
    let logs = home.path().join("d/miner-1/logs");
    let newest = logs.join("miner.jsonl");
    append(&newest, &line("00:06", "INFO", "before"));
    fs::rename(logs.join("miner.jsonl.1"), logs.join("miner.jsonl.2")).unwrap();
    fs::rename(&newest, logs.join("miner.jsonl.1")).unwrap();
    append(&newest, &line("00:07", "INFO", "after"));
    assert_eq!(next()["message"], "before");
    assert_eq!(next()["message"], "after");
    home.write(
        "d/facilitator/logs/facilitator.jsonl",
        &line("00:08", "INFO", "new"),
    );
    let new = next();
    assert_eq!((&new["role"], &new["seq"]), (&"facilitator".into(), &4.into()));
    kill_process(Pid::from_child(&reading), Signal::INT).unwrap();
    let end = next();
    assert_eq!((&end["type"], &end["lines"]), (&"end".into(), &4.into()));
    assert_eq!(reading.wait().unwrap().code(), Some(130));
}

#[test]
fn every_role_keeps_a_log_that_its_owner_alone_may_read() {
    for (role, _) in ROLES {
        let mut served = Served::start(role, &[]);
        served.until_logged(serves(role));
        assert!(served.stop().success());
        let mode = fs::metadata(served.log_file()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let output = served.beside(&["logs", role]).output().unwrap();
        let told = served.home.told(&output);
        assert!(told.contains(serves(role)), "{told}");
        assert!(told.contains("asked to stop"), "the last lines too: {told}");
        assert!(
            served.stderr().contains(serves(role)),
            "on standard error as well"
        );
    }
}

#[test]
fn a_log_file_alone_is_enough_and_none_is_kept_where_none_is_wanted() {
    let mut served = Served::start("facilitator", &[("HORDE_LOG_STDERR", "false")]);
    served.until_logged("facilitator serves");
    assert!(served.stop().success());
    assert_eq!(served.stderr(), "");
    let mut served = Served::start(
        "facilitator",
        &[("HORDE_LOG_FILE", "off"), ("HORDE_LOG_STDERR", "false")],
    );
    served.until("line on standard error", |served| {
        served.stderr().contains("facilitator serves").then_some(())
    });
    assert!(!served.log_file().parent().unwrap().exists());
}

#[test]
fn a_role_whose_log_cannot_be_kept_says_so_and_serves() {
    let home = Home::new();
    home.write("data/facilitator/logs", "in the way");
    let mut served = Served::start_in(home, "facilitator", &[("HORDE_LOG_STDERR", "false")]);
    served.until("line on standard error", |served| {
        let told = served.stderr();
        (told.contains("no log file is kept") && told.contains("facilitator serves")).then_some(())
    });
    assert!(served.stop().success());
}
