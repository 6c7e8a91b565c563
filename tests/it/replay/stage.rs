//! The miner under replay and the peers that the test plays.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use horde::core::chain::local::{LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::config::{Environment, Flag, MinerConfig, Scope, Sources, load};
use horde::core::crypto::signed::streaming_blob;
use horde::core::crypto::verify_hex;
use horde::core::docker::Alive;
use horde::core::miner::backend::capacity::Capacity;
use horde::core::miner::backend::{Backend, ClearError, ExecutorOrder, Exit, Running, StartError};
use horde::core::miner::{self, Ports};
use horde::core::model::JobId;
use horde::core::model::receipt::Receipt;
use horde::core::net::ws::{self, ConnectOptions};
use horde::core::net::{Event, Link, close_code};
use horde::core::proto::validator_miner::{Down, MainHotkey};
use horde::core::receipts::verify_receipt;
use horde::core::store::miner::MinerStore;
use horde::core::store::miner::validators::Block;
use horde::core::tasks::Tasks;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::keys;
use super::script::{Peer, Step};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing must come for the miner to count as silent.
const SILENCE: Duration = Duration::from_millis(150);

/// Why the operator refuses the jobs of //Eve.
const BLACKLIST_REASON: &str = "sends what it does not pay for";

/// An authentication that is further ahead than this was meant to be: the recorded clock does not follow it.
const AHEAD_SECONDS: i64 = 600;

/// A miner with a chain, a store and a clock of its own, whose executors are played.
pub(super) struct Stage {
    address: SocketAddr,
    clock: Clock,
    tasks: Tasks,
    played: Arc<Played>,
    store: MinerStore,
    peers: BTreeMap<Peer, Link>,
    /// Jobs of connected executors by their peer, whose exit is told when they leave.
    employed: HashMap<Peer, String>,
    /// Signs recorded frames again, where the recorded keys are not ours.
    signs_again: bool,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Starts the miner at `now` with these executors; its executors are reachable at `address`.
    pub(super) async fn start(
        executors: &str,
        address: &str,
        now: OffsetDateTime,
        signs_again: bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(now);
        let chain_file = folder.path().join("chain.sqlite");
        let chain = LocalChain::open(&chain_file, 12, Duration::from_secs(12), clock.clone())
            .await
            .unwrap();
        // //Ferdie is a stranger.
        for (uri, validator_permit) in [
            ("//Alice", true),
            ("//Charlie", true),
            ("//Eve", true),
            ("//Dave", false),
            ("//Bob", false),
        ] {
            let hotkey = keys::keypair(uri).hotkey().clone();
            let registration = Registration {
                coldkey: hotkey.clone(),
                hotkey,
                stake_rao: 100_000_000_000_000,
                validator_permit,
            };
            chain.register(registration).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let flags = [
            ("miner.executors", executors),
            ("miner.address", address),
            ("miner.metrics_listen", "off"),
            ("miner.dynamic_config_url", "off"),
            ("wallet.uri", "//Bob"),
        ];
        let environment = Environment::default();
        let settings = load(&Sources {
            scope: Scope::Miner,
            environment: &environment,
            dir: Some(folder.path().join("miner")),
            config: None,
            context: None,
            flags: flags
                .map(|(key, value)| Flag {
                    key,
                    flag: "--test",
                    value: value.to_owned(),
                })
                .to_vec(),
        })
        .unwrap();
        let config = MinerConfig::from_settings(&settings).unwrap();
        let store = MinerStore::open(&folder.path().join("miner/miner.sqlite")).unwrap();
        let block = Block {
            reason: BLACKLIST_REASON.to_owned(),
            until: None,
        };
        store
            .block_validator(keys::keypair("//Eve").hotkey(), block, now)
            .await
            .unwrap();
        let played = Arc::new(Played {
            capacity: watch::Sender::new(Capacity::fixed(&config.executors)),
            ..Played::default()
        });
        let ports = Ports {
            keypair: keys::keypair("//Bob"),
            chain: Arc::new(chain),
            store: store.clone(),
            clock: clock.clone(),
            environment,
            leaves_jobs: false,
            backend: Some(Arc::clone(&played) as Arc<dyn Backend>),
        };
        let tasks = Tasks::new();
        let family = tasks.clone();
        tasks.spawn("miner", miner::run(config, ports, listener, family));
        Self {
            address: local,
            clock,
            tasks,
            played,
            store,
            peers: BTreeMap::new(),
            employed: HashMap::new(),
            signs_again,
            _folder: folder,
        }
    }

    /// Plays steps; the name is for what a failure says.
    pub(super) async fn play(&mut self, name: &str, steps: &[Step]) {
        let fails =
            |step: &Step| matches!(step, Step::Hear(_, text) if text.contains("Executor failed to start"));
        self.played.starts_fail(steps.iter().any(fails));
        for (number, step) in steps.iter().enumerate() {
            let place = format!("{name}, step {number}");
            timeout(PATIENCE, self.step(&place, step))
                .await
                .unwrap_or_else(|_| panic!("{place} hangs: {step:?}"));
        }
        // Whoever has not left by now stays in the way of the next script.
        for (_, link) in std::mem::take(&mut self.peers) {
            leave(link).await;
        }
        self.employed.clear();
        self.played.end_all();
        self.settle().await;
    }

    /// Waits until the miner has read what executors have said: it answers each frame that it cannot read, in order.
    async fn hear_executors_out(&mut self) {
        for (peer, link) in &mut self.peers {
            if self.employed.contains_key(peer) {
                link.send("?").await.unwrap();
                let answer = link.recv().await;
                assert!(
                    matches!(&answer, Event::Text(text) if text.contains("Malformed message")),
                    "{answer:?}"
                );
            }
        }
    }

    /// Waits until all slots are free and the miner owes //Alice nothing: what is owed would come up in the next script. The recorded validator
    /// did not always send its last receipt, by which a miner knows that it has the outcome.
    async fn settle(&self) {
        let alice = keys::keypair("//Alice");
        let settled = async {
            for job in self.played.jobs() {
                while self.store.job(&job).await.unwrap().unwrap().slot.is_some() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            loop {
                let now = self.clock.now();
                let owed = self.store.owed(alice.hotkey(), 100, now).await.unwrap();
                if owed.is_empty() {
                    return;
                }
                let path = format!("validator_interface/{}", alice.hotkey());
                let link = self.open(&path).await;
                let greeting = keys::authentication(&alice, self.clock.unix_seconds());
                link.send(greeting).await.unwrap();
                for owed in owed {
                    link.send(keys::last_receipt(&alice, &owed.job, now))
                        .await
                        .unwrap();
                }
                leave(link).await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(
            timeout(PATIENCE, settled).await.is_ok(),
            "an outcome is owed for ever"
        );
    }

    async fn step(&mut self, place: &str, step: &Step) {
        match step {
            Step::Connect(peer, hotkey) => {
                self.hear_executors_out().await;
                let path = format!("validator_interface/{hotkey}");
                self.connect(*peer, &path).await;
            }
            Step::Employ(peer, token) => {
                // The miner makes its own tokens; one that is for no job is used as it is.
                let job = token.get(..36).filter(|job| job.parse::<uuid::Uuid>().is_ok());
                let token = match job {
                    Some(job) => self.played.token(job).await,
                    None => token.clone(),
                };
                if let Some(job) = job
                    && !self.employed.values().any(|employed| employed == job)
                {
                    self.employed.insert(*peer, job.to_owned());
                }
                self.connect(*peer, &format!("executor_interface/{token}")).await;
            }
            Step::Say(peer, text) => {
                self.follow(text);
                let text = if self.signs_again && matches!(peer, Peer::Validator(_)) {
                    keys::sign_again(text)
                } else {
                    text.clone()
                };
                self.link(*peer).send(text).await.unwrap();
            }
            Step::Hear(peer, expected) => match self.link(*peer).recv().await {
                Event::Text(text) => {
                    let (expected, text) = self.comparable(expected, &text);
                    assert_eq!(
                        text, expected,
                        "{place}: the miner says the first, not the second"
                    );
                }
                other => panic!("{place}: instead of {expected} came {other:?}"),
            },
            Step::Closed(peer, expected) => match self.link(*peer).recv().await {
                Event::Closed { code, .. } => assert_eq!(code, *expected, "{place}"),
                other => panic!("{place}: instead of the end came {other:?}"),
            },
            Step::Open(peer) => {
                let question = Down::from(MainHotkey { main_hotkey: None }).encode();
                let link = self.link(*peer);
                link.send(question).await.unwrap();
                match link.recv().await {
                    Event::Text(text) => assert!(text.contains("V0MainHotkeyMessage"), "{place}: {text}"),
                    other => panic!("{place}: {other:?}"),
                }
            }
            Step::Silence(peer) => {
                if let Ok(event) = timeout(SILENCE, self.link(*peer).recv()).await {
                    panic!("{place}: into the silence came {event:?}");
                }
            }
            Step::Leave(peer) => {
                let left = leave(self.peers.remove(peer).unwrap()).await;
                assert_eq!(left, [""; 0], "{place}: unasked");
                if let Some(job) = self.employed.remove(peer) {
                    self.played.end(&job);
                }
            }
        }
    }

    async fn connect(&mut self, peer: Peer, path: &str) {
        let link = self.open(path).await;
        self.peers.insert(peer, link);
    }

    async fn open(&self, path: &str) -> Link {
        let url = format!("ws://{}/v0.1/{path}", self.address);
        ws::connect(&url, &ConnectOptions::default(), &self.tasks)
            .await
            .unwrap()
    }

    fn link(&mut self, peer: Peer) -> &mut Link {
        self.peers
            .get_mut(&peer)
            .unwrap_or_else(|| panic!("{peer:?} is not there"))
    }

    /// Lets the clock follow what validators sign.
    fn follow(&self, text: &str) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        if let Some(timestamp) = message["timestamp"].as_i64() {
            let ahead = timestamp - self.clock.unix_seconds();
            if (1..AHEAD_SECONDS).contains(&ahead) {
                self.clock.advance(Duration::from_secs(ahead.unsigned_abs()));
            }
        }
    }

    /// Returns both texts without what cannot be the same: signatures, which are checked instead, the words about a
    /// malformed frame, and the token of an executor.
    fn comparable(&self, expected: &str, text: &str) -> (String, String) {
        let mut before: Value = serde_json::from_str(expected).unwrap();
        let mut after: Value = serde_json::from_str(text).unwrap();
        match after["message_type"].as_str().unwrap() {
            "V0DeclineJobRequest" => {
                let receipts = after["receipts"].as_array().unwrap().clone();
                for receipt in receipts {
                    verify_receipt(&serde_json::from_value::<Receipt>(receipt).unwrap()).unwrap();
                }
                for list in [&mut before["receipts"], &mut after["receipts"]] {
                    for receipt in list.as_array_mut().unwrap() {
                        receipt["miner_signature"] = Value::Null;
                        receipt["validator_signature"] = Value::Null;
                    }
                }
            }
            "V0StreamingJobReadyRequest" => {
                let blob = streaming_blob(
                    after["job_uuid"].as_str().unwrap(),
                    after["ip"].as_str(),
                    after["port"].as_i64().unwrap(),
                    after["public_key"].as_str().unwrap(),
                );
                let signature = after["miner_signature"].as_str().unwrap();
                verify_hex(keys::keypair("//Bob").hotkey(), &blob, signature).unwrap();
                before["miner_signature"] = after["miner_signature"].clone();
            }
            "V0InitialJobRequest" if self.signs_again => {
                after["job_started_receipt_signature"] = before["job_started_receipt_signature"].clone();
            }
            "GenericError" => {
                for message in [&mut before, &mut after] {
                    let details = message["details"].as_str().unwrap().to_owned();
                    message["details"] = match details.split_once(": ") {
                        Some((beginning @ "Malformed message", _)) => beginning.into(),
                        _ => without_token(&details).into(),
                    };
                }
            }
            _ => {}
        }
        // As text: the order of the keys counts, too.
        (before.to_string(), after.to_string())
    }
}

/// Cuts the random half of a token (two UUIDs with a dash between) out of a text.
fn without_token(details: &str) -> String {
    let words = details.split(' ').map(|word| match word.get(..36) {
        Some(job) if word.len() == 73 => job,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Ends a connection; returns what the miner had still said.
async fn leave(mut link: Link) -> Vec<String> {
    link.close(close_code::NORMAL, "").await;
    let mut unheard = Vec::new();
    loop {
        match link.recv().await {
            Event::Text(text) => unheard.push(text),
            Event::Binary(_) => {}
            Event::Closed { .. } => return unheard,
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// An executor's token, and what ends it when dropped.
type Employed = (String, Option<oneshot::Sender<()>>);

/// Executors that the test plays: none is started, their tokens are known, they end when they are told to.
#[derive(Debug, Default)]
struct Played {
    capacity: watch::Sender<Capacity>,
    fails: AtomicBool,
    jobs: Mutex<HashMap<String, Employed>>,
    changed: watch::Sender<()>,
}

impl Played {
    fn starts_fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    async fn token(&self, job: &str) -> String {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(token) = self.known_token(job) {
                return token;
            }
            changed.changed().await.unwrap();
        }
    }

    fn known_token(&self, job: &str) -> Option<String> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(job).map(|(token, _)| token.clone())
    }

    fn jobs(&self) -> Vec<JobId> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.keys().map(JobId::new).collect()
    }

    fn end_all(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, end) in jobs.values_mut() {
            drop(end.take());
        }
    }

    fn end(&self, job: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, end)) = jobs.get_mut(job) {
            drop(end.take());
        }
    }
}

#[async_trait]
impl Backend for Played {
    fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    async fn start(&self, order: &ExecutorOrder) -> Result<Box<dyn Running>, StartError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(StartError::Spawn(std::io::ErrorKind::NotFound.into()));
        }
        let (end, ended) = oneshot::channel();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.insert(order.job.to_string(), (order.token.clone(), Some(end)));
        drop(jobs);
        self.changed.send_replace(());
        Ok(Box::new(Executor(Some(ended))))
    }

    async fn adopt(&self, _order: &ExecutorOrder, _process: Option<&str>) -> Option<Box<dyn Running>> {
        None
    }

    async fn clear(&self, _token: &str, _process: Option<&str>) -> Result<(), ClearError> {
        Ok(())
    }

    async fn reap(&self, _is_alive: &Alive<'_>) -> Result<usize, ClearError> {
        Ok(0)
    }
}

#[derive(Debug)]
struct Executor(Option<oneshot::Receiver<()>>);

#[async_trait]
impl Running for Executor {
    fn process(&self) -> Option<String> {
        None
    }

    async fn wait(&mut self) -> Exit {
        if let Some(ended) = &mut self.0 {
            drop(ended.await);
            self.0 = None;
        }
        Exit::Code(0)
    }

    async fn kill(&mut self) {
        self.0 = None;
    }
}
