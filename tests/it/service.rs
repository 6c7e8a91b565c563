//! A role as a service: signals that do not stop it, and what systemd hears of it.

use std::collections::VecDeque;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::served::{ROLES, Served, serves};
use crate::support::Home;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands in for systemd: hears what a role says.
struct Ear {
    socket: UnixDatagram,
    heard: VecDeque<String>,
}

impl Ear {
    fn in_home(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            heard: VecDeque::new(),
        }
    }

    /// Returns the next thing that is said.
    fn next(&mut self) -> String {
        while self.heard.is_empty() {
            let mut bytes = [0; 4096];
            let count = self.socket.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..count]).unwrap();
            self.heard.extend(text.lines().map(str::to_owned));
        }
        self.heard.pop_front().unwrap()
    }

    /// Returns what is said next besides signs of life.
    fn news(&mut self) -> String {
        loop {
            let next = self.next();
            if next != "WATCHDOG=1" {
                return next;
            }
        }
    }
}

#[test]
fn systemd_hears_when_a_role_serves_reloads_lives_and_stops() {
    for (role, _) in ROLES {
        let home = Home::new();
        let mut ear = Ear::in_home(&home);
        let socket = home.path().join("notify");
        let variables = [
            ("NOTIFY_SOCKET", socket.to_str().unwrap()),
            ("WATCHDOG_USEC", "300000"),
        ];
        let mut served = Served::start_in(home, role, &variables);
        assert_eq!(ear.news(), "READY=1", "{role}");
        let status = ear.news();
        if let Some((_, place)) = status.split_once("serves at ") {
            let address = place.split(' ').next().unwrap();
            TcpStream::connect(address).unwrap();
        } else {
            // Nobody answers: it may know by now.
            let words = [
                "takes jobs as soon as the facilitator answers",
                "no connection to the facilitator: ",
            ];
            let is_of_validator = words
                .iter()
                .any(|words| status.starts_with(&format!("STATUS={words}")));
            assert!(is_of_validator, "{role}: {status}");
        }
        assert_eq!(
            std::iter::repeat_with(|| ear.next())
                .filter(|said| said == "WATCHDOG=1")
                .take(3)
                .count(),
            3
        );
        served.signal(Signal::HUP);
        until(&mut ear, "RELOADING=1");
        assert!(ear.news().starts_with("MONOTONIC_USEC="), "{role}");
        until(&mut ear, "READY=1");
        served.signal(Signal::TERM);
        until(&mut ear, "STOPPING=1");
        // What it says from here on would fill the socket, and hold it up.
        drop(ear);
        assert!(served.wait().success(), "{role}: {}", served.log());
    }
}

fn until(ear: &mut Ear, words: &str) {
    while ear.news() != words {}
}

#[test]
fn a_role_that_systemd_does_not_watch_gives_no_sign_of_life() {
    let home = Home::new();
    let mut ear = Ear::in_home(&home);
    let socket = home.path().join("notify");
    let variables = [
        ("NOTIFY_SOCKET", socket.to_str().unwrap()),
        ("WATCHDOG_USEC", "300000"),
        // Meant for another process.
        ("WATCHDOG_PID", "1"),
    ];
    let mut served = Served::start_in(home, "facilitator", &variables);
    assert_eq!(ear.next(), "READY=1");
    assert!(ear.next().starts_with("STATUS=serves at "));
    served.signal(Signal::TERM);
    assert_eq!(ear.next(), "STOPPING=1");
    assert!(served.wait().success());
}

#[test]
fn a_hangup_has_the_configuration_read_again_and_the_log_opened_anew() {
    let home = Home::new();
    let file = home.write("data/facilitator/horde.toml", "[log]\nlevel = 'info'\n");
    let mut served = Served::start_in(home, "facilitator", &[]);
    served.until_logged(serves("facilitator"));
    let log = served.log_file();
    fs::rename(&log, log.with_extension("old")).unwrap();
    fs::write(&file, "[log]\nlevel = 'warn'\n[facilitator]\nkeep_days = 9\n").unwrap();
    served.signal(Signal::HUP);
    let told = served.until_logged("waiting_for_a_restart");
    assert!(
        told.contains(r#""applied":"log.level","waiting_for_a_restart":"facilitator.keep_days""#),
        "{told}"
    );
    fs::write(&file, "[log]\nlevel = 'loud'\n").unwrap();
    served.signal(Signal::HUP);
    served.until_logged("the configuration cannot be used: all stays as it was");
    // The level is `warn` by now.
    fs::write(&file, "").unwrap();
    served.signal(Signal::HUP);
    served.until_logged(r#""applied":"log.level"}"#);
    assert!(served.stop().success());
}

#[test]
fn every_role_tells_how_things_stand_whatever_its_log_level_is() {
    for (role, _) in ROLES {
        let mut served = Served::start(role, &[("HORDE_LOG_LEVEL", "error")]);
        served.until("answer", |served| {
            // Before it listens for signals one would end it.
            let is_ready = fs::exists(served.log_file().with_extension("lock")).unwrap()
                && catches(served, Signal::USR1);
            is_ready.then_some(())
        });
        served.signal(Signal::USR1);
        served.until_logged("state of the process");
        served.until("state", |served| {
            served.signal(Signal::USR1);
            let log = served.log();
            let all = [
                "state of a loop",
                "state of the store",
                &format!("state of the {role}"),
            ];
            all.iter().all(|words| log.contains(words)).then_some(())
        });
        assert!(served.stop().success());
    }
}

/// Tells whether a process has asked for a signal, as the kernel knows it.
fn catches(served: &Served, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", served.id())).unwrap();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_unit_is_planned_written_once_and_replaced_only_by_force() {
    let home = Home::new();
    let install = |more: &[&str]| {
        let words = [
            "service",
            "install",
            "validator",
            "--user",
            "--program",
            "/usr/bin/horde",
        ];
        home.run([&words[..], more].concat())
    };
    let path = home.path().join(".config/systemd/user/horde-validator.service");
    let planned = install(&["--dry-run"]);
    assert!(planned.starts_with("exit code: 11\n"), "{planned}");
    assert!(
        planned.contains("ExecStart=\"/usr/bin/horde\" validator run\n"),
        "{planned}"
    );
    assert!(!path.exists());
    insta::assert_snapshot!(install(&[]));
    assert!(planned.contains(&fs::read_to_string(&path).unwrap()));
    assert!(install(&["--dry-run"]).starts_with("exit code: 0\n--- stdout\n$HOME/.config"));
    fs::write(&path, "mine").unwrap();
    let refused = install(&[]);
    assert!(refused.starts_with("exit code: 5\n"), "{refused}");
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert!(install(&["--force"]).starts_with("exit code: 0\n"));
    let told = install(&["--json"]);
    assert!(told.contains(r#""action":"keep","done":true"#), "{told}");
}

#[test]
fn what_cannot_stand_in_a_unit_is_refused() {
    let home = Home::new();
    for words in [
        &["service", "unit", "miner", "--account", "a\nUser=root"][..],
        &["service", "unit", "miner", "--program", "/a\nb"],
        &["service", "unit", "executor"],
    ] {
        let told = home.run(words);
        assert!(told.starts_with("exit code: 2\n"), "{told}");
    }
}

/// systemd itself finds nothing to say about the units, where it is installed.
#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn systemd_understands_every_unit() {
    let home = Home::new();
    let analyze = |file: &std::path::Path| {
        std::process::Command::new("systemd-analyze")
            .arg("verify")
            .arg(file)
            .output()
    };
    for (role, _) in ROLES {
        let words = [
            "service",
            "unit",
            role,
            "--account",
            "root",
            "--program",
            "/bin/true",
            "--dir",
        ];
        let directory = home.path().join("100% of it");
        let output = home.horde(words).arg(directory).output().unwrap();
        assert!(output.status.success(), "{}", home.told(&output));
        let file = home.path().join(format!("horde-{role}.service"));
        fs::write(&file, output.stdout).unwrap();
        let Ok(said) = analyze(&file) else {
            eprintln!("SKIPPED: no systemd-analyze on this machine");
            return;
        };
        let words = String::from_utf8(said.stderr).unwrap();
        let own: Vec<_> = words.lines().filter(|line| line.contains("horde-")).collect();
        assert!(own.is_empty(), "{own:#?}");
    }
}
