//! Executors by the operator's own program: for fleets that no other backend knows.
//!
//! The reference lets an operator replace its executor manager by a Python class (sem-miner §5). Here it is any
//! program, `miner.command`, with a verb as its last argument, one JSON document on its standard input and one on its
//! standard output:
//!
//! | verb | gets | prints | within |
//! |---|---|---|---|
//! | `manifest` | `{}` | `{"classes": {"always_on.test": 2}}` | 10 s; asked at the start and every minute |
//! | `start` | `token`, `class`, `slot`, `job`, `miner_address`, `environment`, `startup_seconds`, `streaming_port` | `{"id": "…"}`, and `"address": "203.0.113.7"` if streaming clients find the executor elsewhere than the miner | 60 s |
//! | `wait` | `id`, `token` | `{"exit_code": 0}` once the executor has ended; `null` if nobody can tell | an hour, then it is asked again |
//! | `stop` | `id` (null when the miner died before it learned it), `token`, `grace_seconds` | anything, once the executor has ended | 15 s |
//!
//! An exit code other than 0 is a failure, and the end of what was said on standard error is logged with it. What the
//! program leaves running at the end of `start` runs on; what it runs when its time is over is killed with it. `wait`
//! may be asked for one executor again and again, also by the next life of the miner. `stop` for an executor that is
//! gone is no failure. The program gets no environment of the miner's but the names in `PASSED_ON`: nothing of the
//! wallet. An executor needs the variables of `environment` and is `horde executor run --startup-time-limit
//! startup_seconds`, or any other that speaks the wire.
//!
//! A whole program, for executors that are processes of this machine:
//!
//! ```sh
#![doc = include_str!("example.sh")]
//! ```

mod call;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::call::{Call, Program, Verb};
pub use self::call::{CommandError, Words};
use super::capacity::{Capacity, PLACES_MAX};
use super::process::PASSED_ON;
use super::roster::{Group, Roster, publish};
use super::{
    Backend, ClearError, ExecutorOrder, Exit, Running, STOP_SECONDS, StartError, Terms, executor_settings,
};
use crate::core::clock::Clock;
use crate::core::config::Environment;
use crate::core::docker::Alive;
use crate::core::model::ExecutorClass;
use crate::core::tasks::Tasks;

/// Time between two questions for the manifest.
const MANIFEST_EVERY: Duration = Duration::from_secs(60);

/// How often in a row the manifest may fail before its places count as lost.
const MANIFEST_FAILURES_MAX: u32 = 3;

/// The longest name of an executor, in bytes.
const ID_BYTES_MAX: usize = 256;

/// How often in a row a wait may fail before the executor counts as gone.
const WAIT_FAILURES_MAX: u32 = 3;

/// Pause before a wait that failed is begun anew.
const WAIT_PAUSE: Duration = Duration::from_secs(2);

/// A wait that took this long before it failed does not count as one more failure in a row.
const WAIT_IS_LONG: Duration = Duration::from_secs(60);

/// How often a stop is tried.
const STOP_TRIES: u32 = 2;

/// Starts executors through the operator's program.
#[derive(Debug)]
pub struct CommandBackend {
    terms: Terms,
    /// What executors are told besides the terms.
    variables: Vec<(String, String)>,
    program: Arc<Program>,
    capacity: watch::Receiver<Capacity>,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Debug, Deserialize)]
struct ManifestAnswer {
    classes: BTreeMap<ExecutorClass, u32>,
}

#[derive(Debug, Serialize)]
struct StartQuestion<'a> {
    token: &'a str,
    class: ExecutorClass,
    slot: u32,
    job: &'a str,
    miner_address: &'a str,
    environment: BTreeMap<String, String>,
    startup_seconds: u64,
    streaming_port: Option<u16>,
}

/// What the program calls an executor; kept in the store as it is, to find the executor again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Name {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

impl Name {
    fn check(self) -> Result<Self, CommandError> {
        let wrong = |reason: &str| CommandError::Answer {
            verb: Verb::Start,
            reason: reason.to_owned(),
            words: Words::default(),
        };
        if self.id.is_empty() {
            return Err(wrong("the id is empty"));
        }
        if self.id.len() > ID_BYTES_MAX {
            return Err(wrong("the id has more than 256 bytes"));
        }
        if self.id.chars().any(char::is_control) {
            return Err(wrong("the id holds control characters"));
        }
        Ok(self)
    }
}

#[derive(Debug, Serialize)]
struct WaitQuestion<'a> {
    id: &'a str,
    token: &'a str,
}

#[derive(Debug, Deserialize)]
struct WaitAnswer {
    exit_code: Option<i64>,
}

#[derive(Debug, Serialize)]
struct StopQuestion<'a> {
    id: Option<&'a str>,
    token: &'a str,
    grace_seconds: u32,
}

impl CommandBackend {
    /// Makes the backend and asks for the first manifest; then asks on, as a task of `tasks`.
    ///
    /// A program that cannot be run is a mistake of the settings and an error; one that fails is asked again.
    pub async fn open(
        terms: Terms,
        environment: &Environment,
        command: Vec<String>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, CommandError> {
        let program = Arc::new(program(environment, command)?);
        let mut offer = Offer {
            program: Arc::clone(&program),
            roster: Roster::default(),
            failures: 0,
            clock,
            capacity: watch::Sender::default(),
        };
        match offer.ask().await {
            Err(error @ CommandError::Spawn { .. }) => return Err(error),
            result => offer.note(result),
        }
        let capacity = offer.capacity.subscribe();
        tasks.spawn("manifest of the command", offer.watch(tasks.clone()));
        Ok(Self {
            terms,
            variables: executor_settings(environment).collect(),
            program,
            capacity,
        })
    }

    fn running(&self, name: Name, token: &str) -> Box<dyn Running> {
        Box::new(Started {
            name,
            token: token.to_owned(),
            program: Arc::clone(&self.program),
            wait: None,
            failures: 0,
        })
    }
}

fn program(environment: &Environment, command: Vec<String>) -> Result<Program, CommandError> {
    let mut words = command.into_iter();
    let path = words
        .next()
        .filter(|path| !path.is_empty())
        .ok_or(CommandError::NotSet)?;
    let variables = environment
        .names()
        .filter(|name| PASSED_ON.contains(name))
        .filter_map(|name| Some((name.to_owned(), environment.get(name)?.to_owned())));
    Ok(Program {
        path: PathBuf::from(path),
        arguments: words.collect(),
        variables: variables.collect(),
        time: Verb::time,
    })
}

/// What the program offers, kept up to date.
#[derive(Debug)]
struct Offer {
    program: Arc<Program>,
    roster: Roster,
    /// How often in a row it has failed.
    failures: u32,
    clock: Clock,
    capacity: watch::Sender<Capacity>,
}

impl Offer {
    async fn ask(&self) -> Result<BTreeMap<ExecutorClass, u32>, CommandError> {
        let answer: ManifestAnswer = self.program.ask(Verb::Manifest, &Nothing {}).await?;
        let is_absurd = |count: u32| usize::try_from(count).is_ok_and(|count| count > PLACES_MAX);
        match answer.classes.iter().find(|(_, count)| is_absurd(**count)) {
            None => Ok(answer.classes),
            Some((class, count)) => Err(CommandError::Answer {
                verb: Verb::Manifest,
                reason: format!("{count} executors of {class} are more than {PLACES_MAX}"),
                words: Words::default(),
            }),
        }
    }

    /// Takes an answer over. A program that fails now and then keeps its last good one.
    fn note(&mut self, answer: Result<BTreeMap<ExecutorClass, u32>, CommandError>) {
        let engine: Arc<str> = self.program.path.display().to_string().into();
        let group = |(class, count)| Group {
            class,
            key: Arc::clone(&engine),
            engine: Arc::clone(&engine),
            count,
            is_ready: true,
        };
        let now = self.clock.now();
        match answer {
            Ok(classes) => {
                self.failures = 0;
                let groups: Vec<_> = classes.into_iter().map(group).collect();
                let why = |_: &str| "the program offers fewer".to_owned();
                self.roster.update(&groups, why, now);
            }
            Err(error) => {
                self.failures += 1;
                tracing::warn!(%error, failures = self.failures, "the program of miner.command does not say what it offers");
                if self.failures < MANIFEST_FAILURES_MAX {
                    return;
                }
                self.roster.update(&[], |_| error.to_string(), now);
            }
        }
        publish(&self.capacity, self.roster.capacity());
    }

    async fn watch(mut self, tasks: Tasks) {
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => return,
                () = sleep(MANIFEST_EVERY) => {}
            }
            let answer = self.ask().await;
            self.note(answer);
        }
    }
}

#[async_trait]
impl Backend for CommandBackend {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.clone()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        let question = StartQuestion {
            token: &order.token,
            class: order.class,
            slot: order.slot,
            job: order.job.as_str(),
            miner_address: &self.terms.miner_address,
            environment: self
                .variables
                .iter()
                .cloned()
                .chain(self.terms.environment(order))
                .collect(),
            startup_seconds: order.startup_seconds.unwrap_or(self.terms.startup_seconds),
            streaming_port: order.streaming_port,
        };
        let name = match self.program.ask::<Name>(Verb::Start, &question).await {
            Ok(name) => name.check(),
            Err(error) => Err(error),
        };
        match name {
            Ok(name) => Ok(self.running(name, &order.token)),
            Err(error) => {
                // It may have started something before it failed.
                if !matches!(error, CommandError::Spawn { .. }) {
                    drop(stop(&self.program, None, &order.token).await);
                }
                Err(error.into())
            }
        }
    }

    /// Whether it still runs is what its first [`Running::wait`] tells.
    async fn adopt(&self, order: &ExecutorOrder, process: Option<&str>) -> Option<Box<dyn Running>> {
        let name: Name = serde_json::from_str(process?).ok()?;
        Some(self.running(name.check().ok()?, &order.token))
    }

    async fn clear(&self, token: &str, process: Option<&str>) -> Result<(), ClearError> {
        let name = process.and_then(|process| serde_json::from_str::<Name>(process).ok());
        let id = name.as_ref().map(|name| name.id.as_str());
        Ok(stop(&self.program, id, token).await?)
    }

    /// Finds nothing: the program alone knows what it made.
    async fn reap(&self, _is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        Ok(0)
    }
}

/// Has an executor ended, by its name if that is known, else by its token.
async fn stop(program: &Program, id: Option<&str>, token: &str) -> Result<(), CommandError> {
    let question = StopQuestion {
        id,
        token,
        grace_seconds: STOP_SECONDS,
    };
    let mut tries = 1;
    loop {
        match program.tell(Verb::Stop, &question).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(token, %error, "the program of miner.command does not stop an executor");
                if tries == STOP_TRIES {
                    return Err(error);
                }
                tries += 1;
            }
        }
    }
}

/// An executor that the program has started.
#[derive(Debug)]
struct Started {
    name: Name,
    token: String,
    program: Arc<Program>,
    /// The wait that goes on, and when it began.
    wait: Option<(Instant, Call)>,
    /// How many waits in a row have failed.
    failures: u32,
}

impl Started {
    async fn wait_once(&mut self) -> Result<Exit, CommandError> {
        if self.wait.is_none() {
            let question = WaitQuestion {
                id: &self.name.id,
                token: &self.token,
            };
            self.wait = Some((Instant::now(), self.program.call(Verb::Wait, &question)?));
        }
        let Some((_, call)) = &mut self.wait else {
            debug_assert!(false, "made above");
            return Ok(Exit::Unknown);
        };
        let WaitAnswer { exit_code } = call.answer().await?;
        self.wait = None;
        Ok(exit_code.map_or(Exit::Unknown, Exit::Code))
    }

    fn note_failure(&mut self, error: &CommandError) {
        let was_long = self
            .wait
            .take()
            .is_some_and(|(began, _)| began.elapsed() >= WAIT_IS_LONG);
        if was_long {
            self.failures = 0;
        }
        // An hour is over, no more.
        if matches!(error, CommandError::TimedOut { .. }) {
            tracing::debug!(token = self.token, %error, "waiting for an executor anew");
            return;
        }
        self.failures += 1;
        tracing::warn!(token = self.token, %error, failures = self.failures, "the program of miner.command does not wait for an executor");
    }
}

#[async_trait]
impl Running for Started {
    fn process(&self) -> Option<String> {
        serde_json::to_string(&self.name).ok()
    }

    fn address(&self) -> Option<IpAddr> {
        self.name.address
    }

    async fn wait(&mut self) -> Exit {
        while self.failures < WAIT_FAILURES_MAX {
            match self.wait_once().await {
                Ok(exit) => return exit,
                Err(error) => {
                    self.note_failure(&error);
                    sleep(WAIT_PAUSE).await;
                }
            }
        }
        tracing::error!(
            token = self.token,
            id = self.name.id,
            "lost sight of an executor; having it stopped"
        );
        self.kill().await;
        Exit::Unknown
    }

    async fn kill(&mut self) {
        if let Err(error) = stop(&self.program, Some(&self.name.id), &self.token).await {
            tracing::error!(token = self.token, id = self.name.id, %error, "an executor may still run: end it by hand");
        }
        self.wait = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_wallets_secrets_are_not_passed_on() {
        let environment = Environment::from_iter([
            ("PATH", "/bin"),
            ("HORDE_WALLET_URI", "//Bob"),
            ("BT_PW__HOME_ANN", "secret"),
            ("HORDE_EXECUTOR_WORK_DIR", "/work"),
        ]);
        let command = ["/opt/x", "a"].map(str::to_owned).to_vec();
        let program = program(&environment, command).unwrap();
        assert_eq!(program.variables, [("PATH".to_owned(), "/bin".to_owned())]);
        assert_eq!(
            (program.path, program.arguments),
            (PathBuf::from("/opt/x"), vec!["a".to_owned()])
        );
        let none = super::program(&environment, Vec::new());
        assert!(matches!(none, Err(CommandError::NotSet)));
    }

    #[test]
    fn a_name_is_kept_with_its_address_and_must_be_one() {
        let name = |value: serde_json::Value| serde_json::from_value::<Name>(value).unwrap();
        let good = name(json!({"id": "7 1", "address": "10.0.0.1", "more": true}));
        let kept = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Name>(&kept).unwrap(), good);
        assert!(good.check().is_ok());
        for id in ["", "a\nb", &"x".repeat(257)] {
            assert!(name(json!({"id": id})).check().is_err(), "{id:?}");
        }
        assert!(serde_json::from_value::<Name>(json!({"id": "a", "address": "here"})).is_err());
    }

    fn shell(script: &str) -> Arc<Program> {
        Arc::new(Program {
            path: PathBuf::from("/bin/sh"),
            arguments: ["-c", script, "sh"].map(str::to_owned).to_vec(),
            variables: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            time: |_| Duration::from_secs(20),
        })
    }

    fn backend(script: &str) -> CommandBackend {
        CommandBackend {
            terms: Terms {
                miner_address: "ws://127.0.0.1:8000".to_owned(),
                startup_seconds: 5,
                owner: "o".to_owned(),
                no_gpu: false,
                profiles: Vec::new(),
            },
            variables: vec![("HORDE_EXECUTOR_ACCEPT".to_owned(), "CVE-1".to_owned())],
            program: shell(script),
            capacity: watch::Sender::default().subscribe(),
        }
    }

    fn order() -> ExecutorOrder {
        ExecutorOrder {
            job: crate::core::model::JobId::new("j"),
            class: ExecutorClass::AlwaysOnTest,
            slot: 1,
            token: "t".to_owned(),
            streaming_port: Some(6001),
            startup_seconds: None,
        }
    }

    #[tokio::test]
    async fn an_executor_is_started_found_again_and_stopped_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let script = format!(
            r#"cat >{0}/$1.json; case $1 in
               start) echo '{{"id": "seven", "address": "10.0.0.7"}}' ;;
               wait) echo '{{"exit_code": 11}}' ;;
               esac"#,
            folder.display()
        );
        let backend = backend(&script);
        let asked = |verb: &str| {
            let text = std::fs::read_to_string(folder.join(format!("{verb}.json"))).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let running = backend.start(&order()).await.unwrap();
        assert_eq!(running.address(), Some(IpAddr::from([10, 0, 0, 7])));
        assert_eq!(
            asked("start"),
            json!({
                "token": "t",
                "class": "always_on.test",
                "slot": 1,
                "job": "j",
                "miner_address": "ws://127.0.0.1:8000",
                "environment": {
                    "MINER_ADDRESS": "ws://127.0.0.1:8000",
                    "EXECUTOR_TOKEN": "t",
                    "HORDE_EXECUTOR_OWNER": "o",
                    "HORDE_EXECUTOR_ACCEPT": "CVE-1",
                    "NGINX_PORT": "6001",
                },
                "startup_seconds": 5,
                "streaming_port": 6001,
            })
        );
        let process = running.process();
        drop(running);
        let mut adopted = backend.adopt(&order(), process.as_deref()).await.unwrap();
        assert_eq!(adopted.wait().await, Exit::Code(11));
        assert_eq!(asked("wait"), json!({"id": "seven", "token": "t"}));
        backend.clear("t", process.as_deref()).await.unwrap();
        assert_eq!(
            asked("stop"),
            json!({"id": "seven", "token": "t", "grace_seconds": 5})
        );
        backend.clear("t", None).await.unwrap();
        assert_eq!(
            asked("stop"),
            json!({"id": null, "token": "t", "grace_seconds": 5})
        );
        assert!(
            backend.adopt(&order(), None).await.is_none(),
            "nobody knows its name"
        );
    }

    #[tokio::test]
    async fn waiting_goes_on_where_it_was_when_it_is_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let script = format!(
            r#"[ $1 = wait ] || {{ echo '{{"id": "x"}}'; exit; }}
               echo >>{path}/waits; while [ ! -e {path}/end ]; do sleep 0.05; done; echo '{{"exit_code": 0}}'"#
        );
        let mut running = backend(&script).start(&order()).await.unwrap();
        for _ in 0..3 {
            let look = tokio::time::timeout(Duration::from_millis(100), running.wait()).await;
            assert!(look.is_err());
        }
        std::fs::write(folder.path().join("end"), "").unwrap();
        assert_eq!(running.wait().await, Exit::Code(0));
        let waits = std::fs::read_to_string(folder.path().join("waits")).unwrap();
        assert_eq!(waits.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_stop_that_fails_is_tried_again_and_then_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let stubborn = backend(&format!("echo >>{path}/stops; exit 1"));
        let error = stubborn.clear("t", None).await.unwrap_err();
        assert!(
            matches!(error, ClearError::Command(CommandError::Failed { .. })),
            "{error}"
        );
        let stops = std::fs::read_to_string(folder.path().join("stops")).unwrap();
        assert_eq!(stops.lines().count(), 2);
    }

    fn offer(script: &str) -> Offer {
        Offer {
            program: shell(script),
            roster: Roster::default(),
            failures: 0,
            clock: Clock::system(),
            capacity: watch::Sender::default(),
        }
    }

    #[tokio::test]
    async fn a_manifest_that_fails_now_and_then_stands_until_it_has_failed_three_times() {
        let mut offer = offer(r#"echo '{"classes": {"always_on.test": 2}}'"#);
        let capacity = offer.capacity.subscribe();
        let answer = offer.ask().await;
        offer.note(answer);
        let count = || capacity.borrow().manifest().count(ExecutorClass::AlwaysOnTest);
        assert_eq!(count(), 2);
        for wanted in [2, 2, 0] {
            offer.note(Err(CommandError::NotSet));
            assert_eq!(count(), wanted);
        }
        let answer = offer.ask().await;
        offer.note(answer);
        assert_eq!(count(), 2);
    }

    #[tokio::test]
    async fn a_manifest_names_known_classes_and_no_absurd_counts() {
        for classes in [
            r#"{"no.such": 1}"#,
            r#"{"always_on.test": 10001}"#,
            r#"{"always_on.test": -1}"#,
        ] {
            let script = format!("echo '{{\"classes\": {classes}}}'");
            let error = offer(&script).ask().await.unwrap_err();
            assert!(matches!(error, CommandError::Answer { .. }), "{error}");
        }
    }
}
