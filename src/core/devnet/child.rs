//! One supervised child process: started, its streams kept in a file, started again when it dies, stopped with its group.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::core::clock::Backoff;
use crate::core::tasks::{Tasks, VitalEnd};

/// How often a child may die in a row before the network gives up on it.
pub const DEATHS_MAX: u32 = 5;
/// A child that lived so long has recovered: its deaths are forgotten.
const RECOVERED: Duration = Duration::from_secs(60);
/// Pauses between starts.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a child may take to end after SIGTERM; longer than the roles grant themselves.
const TERM_GRACE: Duration = Duration::from_secs(11);
/// How much of a file [`tail`] reads, in bytes.
const TAIL_BYTES: u64 = 16 * 1024;

/// What to run.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// Its name, for people.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables of the environment that it must not inherit.
    pub forget: Vec<String>,
    /// Variables that it gets.
    pub variables: Vec<(String, String)>,
    /// The file that both its streams are appended to; its log it keeps itself.
    pub console: PathBuf,
}

/// Why a child is not run any more.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The file of its streams cannot be written.
    #[error("could not write {}", path.display())]
    Console {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be started.
    #[error("could not start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("could not wait for its end")]
    Wait(#[source] io::Error),
    /// It died too often.
    #[error("it died {deaths} times, the last time with {status}")]
    Died {
        /// How often in a row.
        deaths: u32,
        /// How it ended the last time.
        status: ExitStatus,
    },
}

/// A handle to a supervised child.
#[derive(Debug)]
pub struct Child {
    spec: ChildSpec,
    family: Tasks,
    pid: watch::Receiver<Option<u32>>,
}

impl Child {
    /// Starts a child under a family of its own.
    pub fn start(spec: ChildSpec, family: &Tasks) -> Self {
        let (told, pid) = watch::channel(None);
        family.spawn_vital(spec.name, supervise(spec.clone(), family.clone(), told));
        Self {
            spec,
            family: family.clone(),
            pid,
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Returns its process id; none while it is down.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Returns the file of its streams.
    pub fn console(&self) -> &Path {
        &self.spec.console
    }

    /// Waits until it has died too often; pends for ever if it is stopped instead. Cancel-safe.
    pub async fn gave_up(&self) -> VitalEnd {
        self.family.stopped().await;
        match self.family.failure() {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }

    /// Stops it: SIGTERM, and SIGKILL for its whole group after the grace. Returns true if it ended by itself.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.family.shut_down(grace).await
    }
}

/// Runs a child until its family stops, or until it has died too often.
async fn supervise(
    spec: ChildSpec,
    family: Tasks,
    told: watch::Sender<Option<u32>>,
) -> Result<(), ChildError> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let started = Instant::now();
        let mut process = spawn(&spec)?;
        // Taken, as waiting would close it, and its end is what tells the child to stop.
        let held = process.stdin.take();
        let group = Group::of(&process);
        told.send_replace(process.id());
        let status = tokio::select! {
            biased;
            () = family.stopped() => {
                terminate(&mut process, &group).await;
                told.send_replace(None);
                return Ok(());
            }
            status = process.wait() => status.map_err(ChildError::Wait)?,
        };
        told.send_replace(None);
        drop(held);
        // Whatever it had started itself must not outlive it.
        drop(group);
        if started.elapsed() > RECOVERED {
            backoff.reset();
        }
        let pause = backoff.pause();
        let deaths = backoff.attempts();
        if deaths >= DEATHS_MAX {
            return Err(ChildError::Died { deaths, status });
        }
        tracing::warn!(child = spec.name, %status, pause_ms = pause.as_millis(), "a child died and is started again");
        tokio::select! {
            biased;
            () = family.stopped() => return Ok(()),
            () = sleep(pause) => {}
        }
    }
}

fn spawn(spec: &ChildSpec) -> Result<tokio::process::Child, ChildError> {
    let failed = |source| ChildError::Console {
        path: spec.console.clone(),
        source,
    };
    let console = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.console)
        .map_err(failed)?;
    let errors = console.try_clone().map_err(failed)?;
    let mut command = Command::new(&spec.program);
    for name in &spec.forget {
        command.env_remove(name);
    }
    command
        .args(&spec.arguments)
        .envs(spec.variables.iter().cloned())
        // The child reads nothing from it, but sees it close when this process ends, however it ends.
        .stdin(Stdio::piped())
        .stdout(console)
        .stderr(errors)
        // A group of its own: Ctrl-C at the terminal is for this process, which then stops the children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ChildError::Start {
            program: spec.program.clone(),
            source,
        })
}

/// Asks a child to stop, and kills it when it does not.
async fn terminate(process: &mut tokio::process::Child, group: &Group) {
    if let Some(leader) = group.0
        && let Err(error) = kill_process(leader, Signal::TERM)
    {
        // It may have ended in this very moment, which is as good.
        tracing::debug!(%error, "could not ask a child to stop");
    }
    if timeout(TERM_GRACE, process.wait()).await.is_err() {
        tracing::warn!("a child did not stop in time and is killed");
        if let Err(error) = process.kill().await {
            tracing::warn!(%error, "could not kill a child");
        }
    }
}

/// The process group of a child; killed when dropped, so that nothing of it is left on any way out.
struct Group(Option<Pid>);

impl Group {
    fn of(process: &tokio::process::Child) -> Self {
        Self(process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0
            && kill_process_group(leader, Signal::KILL).is_ok()
        {
            // Mostly there is nobody left to kill.
            tracing::debug!("killed what a child had left behind");
        }
    }
}

/// Returns the last lines of a file, at most `lines`.
pub fn tail(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last = VecDeque::new();
    for line in text.lines() {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(line);
    }
    Ok(Vec::from(last).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> ChildSpec {
        ChildSpec {
            name: "shell",
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            forget: Vec::new(),
            variables: Vec::new(),
            console: dir.join("console.log"),
        }
    }

    fn is_alive(pid: u32) -> bool {
        // A zombie is dead for our purpose, and is what `kill 0` would not tell.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    async fn wait_for(what: impl Fn() -> bool) {
        timeout(Duration::from_secs(10), async {
            while !what() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_child_is_stopped_together_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $!; trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let child = Child::start(shell(dir.path(), script), &Tasks::new());
        wait_for(|| tail(child.console(), 1).is_ok_and(|line| !line.is_empty())).await;
        let grandchild = tail(child.console(), 1).unwrap().parse().unwrap();
        assert!(is_alive(grandchild));
        assert!(child.stop(Duration::from_secs(10)).await);
        wait_for(|| !is_alive(grandchild)).await;
        assert_eq!(child.pid(), None);
    }

    #[tokio::test]
    async fn a_child_keeps_its_input_open_while_its_parent_lives() {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::start(shell(dir.path(), "echo up; cat; echo closed"), &Tasks::new());
        wait_for(|| tail(child.console(), 1).is_ok_and(|line| line == "up")).await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(tail(child.console(), 9).unwrap(), "up");
    }

    #[tokio::test]
    async fn a_deaf_child_is_killed_when_its_family_is_aborted() {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::start(
            shell(dir.path(), "trap '' TERM; echo up; while :; do sleep 0.05; done"),
            &Tasks::new(),
        );
        wait_for(|| tail(child.console(), 1).is_ok_and(|line| line == "up")).await;
        let pid = child.pid().unwrap();
        assert!(!child.stop(Duration::from_millis(100)).await);
        wait_for(|| !is_alive(pid)).await;
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_given_up_at_last() {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::start(shell(dir.path(), "echo alas; exit 3"), &Tasks::new());
        let end = timeout(Duration::from_secs(30), child.gave_up()).await.unwrap();
        let cause = std::error::Error::source(&end).unwrap().to_string();
        assert_eq!(cause, "it died 5 times, the last time with exit status: 3");
        assert_eq!(
            tail(child.console(), 99).unwrap().lines().count(),
            DEATHS_MAX as usize
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_given_up_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ChildSpec {
            program: "/nowhere/horde".into(),
            ..shell(dir.path(), "")
        };
        let end = Child::start(spec, &Tasks::new()).gave_up().await;
        assert_eq!(
            std::error::Error::source(&end).unwrap().to_string(),
            "could not start /nowhere/horde"
        );
    }

    #[test]
    fn the_tail_of_a_file_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let lines: Vec<String> = (0..10_000).map(|n| format!("line {n}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(tail(&path, 2).unwrap(), "line 9998\nline 9999");
    }
}
