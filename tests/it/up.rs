//! `horde up`: a whole network from one command, a job through it, and nothing left behind.
//!
//! All but one of these tests need a Docker engine and the sample image (`sh scripts/test.sh` makes it). Without them
//! they say so and pass, unless `HORDE_TEST_DOCKER` or `CI` is set.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Home, SAMPLE_IMAGE, docker_is_there};

/// Returns `horde up` whose temporary files lie in the home directory, where the test sees them.
fn up(home: &Home, args: &[&str]) -> Command {
    let mut command = home.horde([&["up"], args].concat());
    command.env("TMPDIR", home.path());
    command
}

/// A network that is killed when the test fails.
pub(crate) struct Network {
    process: Child,
    pub(crate) told: Value,
}

impl Network {
    /// Starts a network and waits until it tells what runs where.
    pub(crate) fn start(home: &Home) -> Self {
        let mut process = up(home, &["--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            let mut errors = String::new();
            process
                .stderr
                .as_mut()
                .unwrap()
                .read_to_string(&mut errors)
                .unwrap();
            panic!("the network did not start: {errors}");
        }
        Self {
            process,
            told: serde_json::from_str(&line).unwrap(),
        }
    }

    /// Returns the process ids of the roles.
    fn pids(&self) -> Vec<i32> {
        let pids = self.told["pids"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "up");
        pids.map(|(_, pid)| i32::try_from(pid.as_i64().unwrap()).unwrap())
            .collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of horde up", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test that watches other processes has nothing else to wait on"
)]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Tells whether a process runs; one that is dead and not yet collected does not.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn leftovers(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn without_docker_it_says_what_is_missing_and_how_to_get_it() {
    let home = Home::new();
    let output = up(&home, &[])
        .env("HORDE_EXECUTOR_DOCKER_HOST", "unix:///nowhere.sock")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("jobs cannot run without Docker") && told.contains("scripts/demo.sh"),
        "{told}"
    );
    assert_eq!(leftovers(&home), [""; 0]);
}

#[test]
fn a_sample_job_goes_down_the_whole_road_and_nothing_is_left() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let output = up(&home, &["--once", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", home.told(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sorted = "apple\nbilberry\ndamson\nmedlar\nquince\n";
    assert_eq!(told["job"]["status"], "completed");
    assert_eq!(told["job"]["stdout"], sorted);
    assert_eq!(told["job"]["stderr"], "sorted 5 lines\n");
    assert_eq!(told["uploads"]["sorted.txt"], sorted);
    assert_eq!(told["miners"].as_array().unwrap().len(), 2);
    for pid in told["pids"].as_object().unwrap().values() {
        assert!(!runs(i32::try_from(pid.as_i64().unwrap()).unwrap()));
    }
    assert_eq!(leftovers(&home), [""; 0]);
}

#[test]
fn an_image_that_is_not_there_is_told_before_anything_starts() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let output = up(&home, &["--once", "--image", "horde-no-such-image:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", home.told(&output));
    assert_eq!(leftovers(&home), [""; 0]);
}

#[test]
fn a_job_over_its_time_is_told_by_its_executor_before_the_validator_gives_up() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let network = Network::start(&home);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (url, key) = (
        text(&network.told["facilitator"]["url"]),
        text(&network.told["user"]["uri"]),
    );
    // A shell that is the container's first process ignores TERM, so it takes the whole ladder; so does one whose
    // output the engine has not got rid of.
    for script in [
        "trap '' TERM; echo begun; while :; do sleep 1; done",
        "trap '' TERM; echo begun; yes",
    ] {
        let output = home
            .horde(["job", "submit", "--facilitator", &url, "--key-uri", &key])
            .args(["--class", "always_on.test", "--download-limit", "1"])
            .args(["--execution-limit", "1", SAMPLE_IMAGE, "--", "sh", "-c", script])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(124), "{told}");
        assert!(told.contains("Execution time exceeded"), "{told}");
        assert!(output.stdout.starts_with(b"begun\n"), "{script}");
    }
    let job = |args: &[&str]| {
        let mut all = vec!["job", args[0], "--facilitator", &url, "--key-uri", &key];
        all.extend(&args[1..]);
        home.horde(all).output().unwrap()
    };
    // What a real executor says of a command that is not in its image is told from its own failures.
    let output = job(&["submit", "--class", "always_on.test", SAMPLE_IMAGE, "--", "nope"]);
    assert_eq!(output.status.code(), Some(127), "{}", home.told(&output));
    let output = job(&["list", "--json", "--limit", "1"]);
    let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let beginning: String = jobs[0]["uuid"].as_str().unwrap().chars().take(8).collect();
    let output = job(&["explain", &beginning, "--json"]);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&explained["blame"], &explained["exit_code"]),
        (&Value::from("job"), &Value::from(127))
    );
    let reason = explained["reason"].as_str().unwrap();
    assert!(
        reason.contains("the command \"nope\" is not in the image"),
        "{reason}"
    );
}

#[test]
fn ctrl_c_stops_everybody_in_order() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let mut network = Network::start(&home);
    assert!(
        Path::new(network.told["directory"].as_str().unwrap())
            .join("chain.sqlite")
            .exists()
    );
    let pids = network.pids();
    assert_eq!(pids.len(), 5);
    assert!(pids.iter().all(|pid| runs(*pid)));
    network.signal(Signal::INT);
    assert_eq!(network.end().code(), Some(0));
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert_eq!(leftovers(&home), [""; 0]);
}

#[test]
fn everybody_dies_with_a_parent_that_is_killed() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let mut network = Network::start(&home);
    let pids = network.pids();
    network.signal(Signal::KILL);
    assert!(!network.end().success());
    wait_for("the end of the roles", || !pids.iter().any(|pid| runs(*pid)));
}

#[test]
fn a_miner_that_is_killed_is_started_again() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let mut network = Network::start(&home);
    let pid = i32::try_from(network.told["pids"]["miner-1"].as_i64().unwrap()).unwrap();
    let (address, port) = (
        &network.told["miners"][0]["address"],
        &network.told["miners"][0]["port"],
    );
    let address = format!("{}:{port}", address.as_str().unwrap());
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_for("the end of the miner", || !runs(pid));
    wait_for("another miner in its place", || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    network.signal(Signal::TERM);
    assert_eq!(network.end().code(), Some(0));
}
