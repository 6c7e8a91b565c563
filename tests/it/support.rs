//! What integration tests share: the real binary in an environment of its own.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use horde::core::host::floors::Floors;
use tempfile::{NamedTempFile, TempDir};

/// A home directory of a test's own, and the binary run in it with nothing else in its environment.
pub(crate) struct Home {
    dir: TempDir,
    /// Where commands note, for tests, what they printed as data and how they ended.
    witness: NamedTempFile,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("horde-test-").tempdir().unwrap(),
            witness: NamedTempFile::new().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below the home directory.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Returns the binary with arguments, ready to run.
    pub(crate) fn horde<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        self.horde_at(Path::new(env!("CARGO_BIN_EXE_horde")), args)
    }

    /// Returns a copy of the binary in the home directory with arguments, ready to run as a user who may not enter the
    /// folder that it was built in.
    pub(crate) fn own_horde<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let copy = self.path().join("horde");
        std::fs::copy(env!("CARGO_BIN_EXE_horde"), &copy).unwrap();
        self.horde_at(&copy, args)
    }

    fn horde_at<A: AsRef<OsStr>>(&self, binary: &Path, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(binary);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path())
            .env("HORDE_TEST_WITNESS", self.witness.path())
            .env("COLUMNS", "100")
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary and returns exit code and both streams, with the home directory's path as `$HOME`.
    #[must_use = "what the command said is what is tested"]
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.told(&self.horde(args).output().unwrap())
    }

    /// Returns an outcome as text.
    pub(crate) fn told(&self, output: &Output) -> String {
        let mut text = match output.status.code() {
            Some(code) => format!("exit code: {code}\n"),
            None => format!("{}\n", output.status),
        };
        for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !stream.is_empty() {
                write!(text, "--- {name}\n{}", String::from_utf8_lossy(stream)).unwrap();
            }
        }
        text.replace(self.path().to_str().unwrap(), "$HOME")
    }
}

impl Drop for Home {
    /// Whatever commands ran: what they printed as data fits their schema, and they ended with a code that they promise.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let notes = std::fs::read_to_string(self.witness.path()).unwrap_or_default();
        // A command that was killed may have left a part of a line.
        for note in notes.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            crate::contract::check(&note);
        }
    }
}

/// The variable and the value with which executors run whatever the versions of this machine's programs are: tests
/// run only their own jobs.
pub(crate) fn accepted_risks() -> (&'static str, String) {
    let floors = Floors::built_in().unwrap();
    let names: Vec<_> = floors.list.into_iter().map(|floor| floor.id).collect();
    ("HORDE_EXECUTOR_ACCEPT", names.join(","))
}

/// The image that `sh scripts/test.sh` makes: busybox.
pub(crate) const SAMPLE_IMAGE: &str = "horde-sample:latest";

/// Tells whether jobs can run here; where they must, a missing engine fails the test.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
pub(crate) fn docker_is_there() -> bool {
    let inspected = Command::new("docker")
        .args(["image", "inspect", SAMPLE_IMAGE])
        .output();
    if inspected.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let must = ["HORDE_TEST_DOCKER", "CI"].iter().any(|name| environment(name));
    assert!(
        !must,
        "no Docker engine with the image {SAMPLE_IMAGE}: `sh scripts/test.sh` sets both up"
    );
    eprintln!("SKIPPED: no Docker engine with the image {SAMPLE_IMAGE}; `sh scripts/test.sh` sets both up");
    false
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests are configured by their environment alone"
)]
fn environment(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Returns a port of this machine that is free and that no connection takes by chance: it lies below those that the
/// kernel gives out, and no other test of this run gets it.
pub(crate) fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = std::process::id().wrapping_mul(97).wrapping_add(number) % 12_000;
        let port = 20_000 + u16::try_from(place).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
