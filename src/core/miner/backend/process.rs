//! Executors as child processes of the miner: this very binary as `horde executor run`.
//!
//! A child outlives a miner that is killed or restarted: nothing ties it to its parent but the link, whose loss it
//! survives for a while. It reads nothing, writes its log to the miner's standard error (where a closed pipe does not
//! disturb it), and has a process group of its own. The next life finds it by process id and start time, or by the
//! token in its environment, and watches it by looking, as it is no child any more: its exit code is then not known.
//! What a child that was killed itself leaves behind is found by labels on the engine.

use std::fs;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::capacity::Capacity;
use super::{
    Backend, ClearError, ExecutorOrder, Exit, Running, STOP_SECONDS, StartError, Terms, executor_settings,
    preload_on,
};
use crate::core::config::Environment;
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Alive, Engine, Label, sweep, sweep_strays};

/// The kernel's name of the running binary: still right when the file was replaced by an update.
const OWN_BINARY: &str = "/proc/self/exe";

/// Variables of the miner's machine that its executors see too, besides their settings.
pub(super) const PASSED_ON: [&str; 9] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LC_ALL",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The setting of the executor's engine; the miner's own setting takes its place.
const DOCKER_HOST: &str = "HORDE_EXECUTOR_DOCKER_HOST";

/// Time that a killed process has to be gone.
const KILL_TIME: Duration = Duration::from_secs(5);

/// Pause between looks at a process that is not a child and is about to end.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Pause between looks at a process that is not a child and may run for long.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// The variable by which an executor without a known process id is found.
const TOKEN_VARIABLE: &str = "EXECUTOR_TOKEN";

/// Starts executors as child processes.
#[derive(Debug)]
pub struct ProcessBackend {
    terms: Terms,
    variables: Vec<(String, String)>,
    capacity: watch::Sender<Capacity>,
    engine: Arc<dyn Engine>,
    outlives_miner: bool,
}

impl ProcessBackend {
    /// Makes the backend; `engine` is the one that its executors run jobs on.
    ///
    /// They are told its address, so that what is swept here is what they made.
    pub fn new(
        terms: Terms,
        environment: &Environment,
        capacity: Capacity,
        docker_host: &str,
        engine: Arc<dyn Engine>,
    ) -> Self {
        let mut variables: Vec<(String, String)> = environment
            .names()
            .filter(|name| PASSED_ON.contains(name))
            .filter_map(|name| Some((name.to_owned(), environment.get(name)?.to_owned())))
            .chain(executor_settings(environment))
            .collect();
        variables.push((DOCKER_HOST.to_owned(), docker_host.to_owned()));
        Self {
            terms,
            variables,
            capacity: watch::Sender::new(capacity),
            engine,
            outlives_miner: true,
        }
    }

    /// Says whether executors are left running when the miner lets go of them; true unless this is called.
    #[must_use]
    pub fn outliving_miner(mut self, outlives_miner: bool) -> Self {
        self.outlives_miner = outlives_miner;
        self
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let child = Command::new(OWN_BINARY)
            .args(self.terms.arguments(order))
            .env_clear()
            .envs(self.variables.iter().cloned())
            .envs(self.terms.environment(order))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Its log lines are the miner's.
            .stderr(Stdio::inherit())
            // A Ctrl-C at the terminal is the miner's to hand on.
            .process_group(0)
            .kill_on_drop(!self.outlives_miner)
            .spawn()
            .map_err(StartError::Spawn)?;
        Ok(Box::new(Process {
            child,
            token: order.token.clone(),
            engine: Arc::clone(&self.engine),
        }))
    }

    async fn adopt(&self, order: &ExecutorOrder, process: Option<&str>) -> Option<Box<dyn Running>> {
        let identity = find(&order.token, process).await?;
        Some(Box::new(Adopted {
            identity,
            token: order.token.clone(),
            engine: Arc::clone(&self.engine),
        }))
    }

    async fn clear(&self, token: &str, process: Option<&str>) -> Result<(), ClearError> {
        if let Some(process) = find(token, process).await {
            process.end().await;
        }
        sweep(&*self.engine, Label::Token(token)).await?;
        Ok(())
    }

    async fn reap(&self, is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        Ok(sweep_strays(&*self.engine, &self.terms.owner, is_alive).await?)
    }

    async fn preload(&self, images: &[ImageReference]) {
        preload_on(&*self.engine, images).await;
    }
}

/// A child that runs an executor.
#[derive(Debug)]
struct Process {
    child: Child,
    token: String,
    engine: Arc<dyn Engine>,
}

#[async_trait]
impl Running for Process {
    fn process(&self) -> Option<String> {
        Identity::of(Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?).map(Identity::to_text)
    }

    async fn wait(&mut self) -> Exit {
        let exit = match self.child.wait().await {
            Ok(status) => exit(status),
            Err(error) => {
                tracing::warn!(%error, "cannot wait for an executor");
                Exit::Unknown
            }
        };
        if exit == Exit::Unknown {
            clear_up(&*self.engine, &self.token).await;
        }
        exit
    }

    async fn kill(&mut self) {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        {
            signal(pid, Signal::TERM);
            let grace = Duration::from_secs(u64::from(STOP_SECONDS));
            if timeout(grace, self.child.wait()).await.is_err() {
                tracing::warn!(token = self.token, "the executor does not stop and is killed");
                drop(timeout(KILL_TIME, self.child.kill()).await);
            }
        }
        clear_up(&*self.engine, &self.token).await;
    }
}

/// An executor of a former life, which is no child of this process.
#[derive(Debug)]
struct Adopted {
    identity: Identity,
    token: String,
    engine: Arc<dyn Engine>,
}

#[async_trait]
impl Running for Adopted {
    fn process(&self) -> Option<String> {
        Some(self.identity.to_text())
    }

    async fn wait(&mut self) -> Exit {
        while self.identity.is_running() {
            sleep(WATCH_PAUSE).await;
        }
        clear_up(&*self.engine, &self.token).await;
        Exit::Unknown
    }

    async fn kill(&mut self) {
        signal(self.identity.pid, Signal::TERM);
        let grace = Duration::from_secs(u64::from(STOP_SECONDS));
        let gone = async {
            while self.identity.is_running() {
                sleep(LOOK_PAUSE).await;
            }
        };
        if timeout(grace, gone).await.is_err() {
            tracing::warn!(token = self.token, "the executor does not stop and is killed");
            self.identity.end().await;
        }
        clear_up(&*self.engine, &self.token).await;
    }
}

/// Removes the containers of an executor that may not have done so itself.
async fn clear_up(engine: &dyn Engine, token: &str) {
    if let Err(error) = sweep(engine, Label::Token(token)).await {
        tracing::warn!(token, %error, "cannot look for what the executor left");
    }
}

/// Finds the running executor with a token: the noted process, or where none was noted any that has the token.
async fn find(token: &str, process: Option<&str>) -> Option<Identity> {
    if let Some(identity) = process.and_then(Identity::parse) {
        return identity.is_running().then_some(identity);
    }
    let token = token.to_owned();
    // A few hundred small files that never leave memory.
    let search = tokio::task::spawn_blocking(move || Identity::with_token(&token));
    search.await.ok().flatten()
}

/// Sends a signal; a process that is gone already is fine.
fn signal(pid: Pid, signal: Signal) {
    if let Err(error) = kill_process(pid, signal) {
        tracing::debug!(pid = pid.as_raw_nonzero(), %error, "cannot signal an executor");
    }
}

fn exit(status: ExitStatus) -> Exit {
    status
        .code()
        .map_or(Exit::Unknown, |code| Exit::Code(i64::from(code)))
}

/// A process of this machine that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    pid: Pid,
    /// Clock ticks since boot at which it was started.
    started: u64,
}

impl Identity {
    /// Returns the identity of a running process.
    fn of(pid: Pid) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        if fields.next()? == "Z" {
            return None;
        }
        // The state is field 3, the start time field 22.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Returns the oldest running process of this user that has the token in its environment.
    fn with_token(token: &str) -> Option<Self> {
        let wanted = format!("{TOKEN_VARIABLE}={token}");
        let processes = fs::read_dir("/proc").ok()?;
        processes
            .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
            .filter(|pid| {
                // Those of others cannot be read, and are not ours.
                let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
                fs::read(path).is_ok_and(|variables| {
                    let mut variables = variables.split(|byte| *byte == 0);
                    variables.any(|variable| variable == wanted.as_bytes())
                })
            })
            .filter_map(Self::of)
            .min_by_key(|identity| identity.started)
    }

    fn to_text(self) -> String {
        format!("{} {}", self.pid.as_raw_nonzero(), self.started)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once(' ')?;
        Some(Self {
            pid: Pid::from_raw(pid.parse().ok()?)?,
            started: started.parse().ok()?,
        })
    }

    fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills the process, if it still runs, and waits for its end.
    async fn end(self) {
        let looks = KILL_TIME.as_millis() / LOOK_PAUSE.as_millis();
        if self.is_running() {
            tracing::info!(
                pid = self.pid.as_raw_nonzero(),
                "ending an executor of a former life"
            );
            signal(self.pid, Signal::KILL);
        }
        for _ in 0..looks {
            if !self.is_running() {
                return;
            }
            sleep(LOOK_PAUSE).await;
        }
        tracing::warn!(
            pid = self.pid.as_raw_nonzero(),
            "an executor of a former life does not end"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_its_start_and_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let identity = Identity::of(pid).unwrap();
        assert_eq!(Identity::parse(&identity.to_text()), Some(identity));
        let other = Identity {
            started: identity.started + 1,
            ..identity
        };
        assert!(!other.is_running());
        other.end().await;
        assert!(identity.is_running());
        identity.end().await;
        assert!(!child.wait().await.unwrap().success());
    }

    #[tokio::test]
    async fn an_executor_whose_process_was_not_noted_is_found_by_its_token_and_watched() {
        let token = format!("horde-test-{}", uuid::Uuid::new_v4());
        assert_eq!(find(&token, None).await, None);
        let mut child = Command::new("sleep")
            .arg("60")
            .env(TOKEN_VARIABLE, &token)
            .spawn()
            .unwrap();
        // Its environment is its own once it has become another program.
        let identity = loop {
            match find(&token, None).await {
                Some(identity) if Some(identity.pid.as_raw_nonzero().get().cast_unsigned()) == child.id() => {
                    break identity;
                }
                _ => sleep(LOOK_PAUSE).await,
            }
        };
        assert_eq!(find(&token, Some(&identity.to_text())).await, Some(identity));
        let engine = Arc::new(crate::core::docker::engine::Bollard::new("/run/no.sock").unwrap());
        let mut adopted = Adopted {
            identity,
            token,
            engine,
        };
        assert_eq!(adopted.process(), Some(identity.to_text()));
        assert!(timeout(WATCH_PAUSE * 2, adopted.wait()).await.is_err());
        tokio::join!(adopted.kill(), child.wait()).1.unwrap();
        assert_eq!(adopted.wait().await, Exit::Unknown);
    }

    #[test]
    fn the_wallets_secrets_are_not_passed_on() {
        let environment = Environment::from_iter([
            ("PATH", "/bin"),
            ("HORDE_WALLET_URI", "//Bob"),
            ("BT_PW__HOME_ANN", "secret"),
            ("HORDE_EXECUTOR_WORK_DIR", "/work"),
        ]);
        let terms = Terms {
            miner_address: "ws://127.0.0.1:8000".to_owned(),
            startup_seconds: 5,
            owner: "o".to_owned(),
            no_gpu: false,
            profiles: Vec::new(),
        };
        let engine = Arc::new(crate::core::docker::engine::Bollard::new("/run/no.sock").unwrap());
        let backend = ProcessBackend::new(
            terms,
            &environment,
            Capacity::default(),
            "unix:///run/no.sock",
            engine,
        );
        let names: Vec<_> = backend.variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["PATH", "HORDE_EXECUTOR_WORK_DIR", "HORDE_EXECUTOR_DOCKER_HOST"]
        );
    }
}
