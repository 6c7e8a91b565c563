//! A role that is served as a process of its own: what it says, and how it answers to signals.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::support::Home;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The roles with what each needs to be served alone.
pub(crate) const ROLES: [(&str, &[(&str, &str)]); 3] = [
    (
        "facilitator",
        &[
            ("HORDE_FACILITATOR_LISTEN", "127.0.0.1:0"),
            ("HORDE_FACILITATOR_METRICS_LISTEN", "off"),
        ],
    ),
    (
        "validator",
        &[
            ("HORDE_WALLET_URI", "//Alice"),
            // Nobody serves there: it tries again and again.
            ("HORDE_VALIDATOR_FACILITATOR_URL", "ws://127.0.0.1:9/ws/v0/"),
        ],
    ),
    (
        "miner",
        &[
            ("HORDE_WALLET_URI", "//Bob"),
            ("HORDE_MINER_LISTEN", "127.0.0.1:0"),
            ("HORDE_MINER_ADDRESS", "127.0.0.1"),
            ("HORDE_MINER_METRICS_LISTEN", "off"),
        ],
    ),
];

/// A role that is served; killed when the test fails.
pub(crate) struct Served {
    pub(crate) home: Home,
    role: &'static str,
    process: Child,
}

impl Served {
    /// Starts a role, with variables besides those that it needs.
    pub(crate) fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_in(Home::new(), role, variables)
    }

    pub(crate) fn start_in(home: Home, role: &str, variables: &[(&str, &str)]) -> Self {
        let (role, own) = ROLES.into_iter().find(|(name, _)| *name == role).unwrap();
        let dir = home.path().join("data").join(role);
        let stderr = fs::File::create(home.path().join("stderr")).unwrap();
        let mut command = home.horde([
            OsStr::new("--dir"),
            dir.as_os_str(),
            OsStr::new(role),
            OsStr::new("run"),
        ]);
        command
            .envs(own.iter().copied())
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(stderr);
        let process = command.spawn().unwrap();
        Self { home, role, process }
    }

    /// Returns a command beside the role, on the data directory of all roles.
    pub(crate) fn beside(&self, words: &[&str]) -> Command {
        let mut command = self.home.horde(words);
        command.arg("--dir").arg(self.home.path().join("data"));
        command
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        let file = format!("data/{0}/logs/{0}.jsonl", self.role);
        self.home.path().join(file)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr")).unwrap()
    }

    /// Waits until the log says something, and returns it.
    pub(crate) fn until_logged(&mut self, words: &str) -> String {
        self.until(words, |served| {
            let log = served.log();
            log.contains(words).then_some(log)
        })
    }

    pub(crate) fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let (log, stderr) = (self.log(), self.stderr());
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: it ended: {ended:?}\n{log}\n{stderr}");
            assert!(start.elapsed() < PATIENCE, "no {what}\n{log}\n{stderr}");
            pause();
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Asks it to stop, and returns how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test that watches other processes has nothing else to wait on"
)]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// The words with which each role says that it serves.
pub(crate) fn serves(role: &str) -> &'static str {
    match role {
        "facilitator" => "facilitator serves",
        "validator" => "validator runs",
        _ => "miner serves",
    }
}
