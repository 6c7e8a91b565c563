//! The miner's front door with the real binary: whose connection counts, what is held against strangers and copies,
//! what the operator orders while it runs. Nothing here needs a Docker engine, but for two tests that say so.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use horde::core::chain::local::{LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::crypto::signed::auth_blob;
use horde::core::model::job::{ExecutorTiming, RejectionReason, RunPreset};
use horde::core::model::{ExecutorClass, JobId};
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{self, ConnectOptions};
use horde::core::net::{Event, Link};
use horde::core::proto::job::{FullJob, GenericError, InitialJob};
use horde::core::proto::validator_miner::{
    Accepted, Authenticate, Declined, Down, EXTENSIONS, MainHotkey, Up,
};
use horde::core::receipts::{self, About};
use horde::core::tasks::Tasks;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::{Home, SAMPLE_IMAGE, accepted_risks, docker_is_there};

const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A miner process with a chain and a directory of its own; //Alice, rich, and //Charlie, poor, validate.
pub(crate) struct Miner {
    home: Home,
    pub(crate) port: u16,
    process: Option<Child>,
    keypair: Keypair,
    executors: usize,
}

impl Miner {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(2, settings).await
    }

    pub(crate) async fn start_with(executors: usize, settings: &[(&str, &str)]) -> Self {
        let mut miner = Self::install(executors).await;
        miner.launch(settings).await;
        miner
    }

    /// Makes a chain and a directory for a miner that does not run yet.
    async fn install(executors: usize) -> Self {
        let home = Home::new();
        let path = home.path().join("chain.sqlite");
        let chain = LocalChain::open(&path, 12, Duration::from_secs(12), Clock::system())
            .await
            .unwrap();
        for (uri, units, validator_permit) in [
            ("//Alice", 1_000_000, true),
            ("//Charlie", 1, true),
            ("//Dave", 1_000_000, false),
            ("//Bob", 0, false),
        ] {
            let hotkey = Keypair::from_uri(uri).unwrap().hotkey().clone();
            let registration = Registration {
                coldkey: hotkey.clone(),
                hotkey,
                stake_rao: units * 1_000_000_000,
                validator_permit,
            };
            chain.register(registration).await.unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            home,
            port: listener.local_addr().unwrap().port(),
            process: None,
            keypair: Keypair::from_uri("//Bob").unwrap(),
            executors,
        }
    }

    async fn launch(&mut self, settings: &[(&str, &str)]) {
        let listen = format!("127.0.0.1:{}", self.port);
        let executors = format!("{CLASS}={}", self.executors);
        let process = self
            .command(&["run", "--listen", &listen, "--executors", &executors])
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .env("HORDE_WALLET_URI", "//Bob")
            .env("HORDE_EXECUTOR_WORK_DIR", self.home.path())
            .envs([accepted_risks()])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let client = reqwest::Client::new();
        let login = format!("http://{listen}/admin/login/");
        timeout(PATIENCE, async {
            while !client
                .get(&login)
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join("miner")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self
            .home
            .horde(["--dir", self.directory().to_str().unwrap(), "miner"]);
        command.args(words);
        command
    }

    /// Runs one of the operator's commands.
    fn order(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// A validator's connection.
pub(crate) struct Validator {
    keypair: Keypair,
    miner: Keypair,
    link: Link,
    clock: Clock,
    _tasks: Tasks,
}

impl Validator {
    pub(crate) async fn connect(miner: &Miner, uri: &str) -> Self {
        Self::connect_with(miner, uri, &[]).await
    }

    async fn connect_with(miner: &Miner, uri: &str, extensions: &[&str]) -> Self {
        let keypair = Keypair::from_uri(uri).unwrap();
        let url = format!(
            "ws://127.0.0.1:{}/v0.1/validator_interface/{}",
            miner.port,
            keypair.hotkey()
        );
        let tasks = Tasks::new();
        let options = ConnectOptions {
            extensions: Extensions::of(extensions),
            ..ConnectOptions::default()
        };
        let link = ws::connect(&url, &options, &tasks).await.unwrap();
        Self {
            keypair,
            miner: miner.keypair.clone(),
            link,
            clock: Clock::system(),
            _tasks: tasks,
        }
    }

    pub(crate) async fn trusted(miner: &Miner, uri: &str) -> Self {
        let validator = Self::connect(miner, uri).await;
        validator.let_in().await
    }

    /// Authenticates and takes the manifest.
    pub(crate) async fn let_in(mut self) -> Self {
        self.say(self.auth(0)).await;
        match self.expect().await {
            Up::Manifest(manifest) => assert!(manifest.manifest.count(CLASS) > 0),
            other => panic!("expected the manifest, got {other:?}"),
        }
        self
    }

    /// An authentication signed `ahead` seconds from now.
    fn auth(&self, ahead: i64) -> Authenticate {
        let timestamp = self.clock.unix_seconds() + ahead;
        let (validator, miner) = (self.keypair.hotkey(), self.miner.hotkey());
        let blob = auth_blob(validator, miner, timestamp);
        Authenticate {
            validator_hotkey: validator.clone(),
            miner_hotkey: miner.clone(),
            timestamp,
            signature: self.keypair.sign(&blob).to_hex_prefixed(),
        }
    }

    async fn say(&self, message: impl Into<Down>) {
        self.link.send(message.into().encode()).await.unwrap();
    }

    async fn hear(&mut self) -> Event {
        timeout(PATIENCE, self.link.recv()).await.unwrap()
    }

    pub(crate) async fn expect(&mut self) -> Up {
        match self.hear().await {
            Event::Text(text) => Up::decode(&text).unwrap(),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    async fn expect_error(&mut self) -> String {
        match self.expect().await {
            Up::GenericError(GenericError { details }) => details.unwrap(),
            other => panic!("expected an error, got {other:?}"),
        }
    }

    async fn expect_close(&mut self) -> u16 {
        match self.hear().await {
            Event::Closed { code, .. } => code,
            other => panic!("expected the end, got {other:?}"),
        }
    }

    /// Expects to be refused for a reason that begins so, and then to be cut off.
    async fn expect_refusal(&mut self, reason: &str) {
        let validator = self.keypair.hotkey();
        let expected = format!("Validator {validator} not authenticated due to: {reason}");
        let details = self.expect_error().await;
        assert!(details.starts_with(&expected), "{details}");
        assert_eq!(self.expect_close().await, 1000);
    }

    /// Asks for an executor.
    pub(crate) async fn request(&self) -> JobId {
        let job = JobId::new(Uuid::new_v4().to_string());
        let about = About {
            job_uuid: &job,
            miner: self.miner.hotkey(),
            now: self.clock.now(),
        };
        let receipt = receipts::sign_started(&self.keypair, about, CLASS, true, 30).unwrap();
        self.say(InitialJob {
            validator_signature: None,
            job_uuid: job.clone(),
            executor_class: CLASS,
            docker_image: Some(SAMPLE_IMAGE.to_owned()),
            timeout_seconds: Some(300),
            volume: None,
            job_started_receipt_payload: receipt.payload,
            job_started_receipt_signature: receipt.signature,
            streaming_details: None,
            executor_timing: Some(ExecutorTiming {
                allowed_leeway: 10,
                download_time_limit: 60,
                execution_time_limit: 60,
                upload_time_limit: 60,
                streaming_start_time_limit: 10,
            }),
        })
        .await;
        job
    }

    async fn order(&self, job: &JobId, script: &str) {
        self.say(FullJob {
            validator_signature: None,
            job_uuid: job.clone(),
            executor_class: CLASS,
            docker_image: SAMPLE_IMAGE.to_owned(),
            raw_script: None,
            docker_run_options_preset: RunPreset::None,
            docker_run_cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: indexmap::IndexMap::new(),
            volume: None,
            output_upload: None,
            artifacts_dir: None,
        })
        .await;
    }

    pub(crate) async fn expect_accepted(&mut self, job: &JobId) -> Accepted {
        match self.expect().await {
            Up::Accepted(accepted) => {
                assert_eq!(&accepted.job_uuid, job);
                accepted
            }
            other => panic!("expected an acceptance, got {other:?}"),
        }
    }

    /// Returns the next decline, past repeated acceptances of jobs whose connection has gone.
    async fn expect_decline(&mut self) -> Declined {
        loop {
            if let Up::Declined(declined) = self.expect_verdict().await {
                return declined;
            }
        }
    }

    /// Returns what becomes of a request, past news of other jobs.
    async fn expect_verdict(&mut self) -> Up {
        loop {
            if let verdict @ (Up::Accepted(_) | Up::Declined(_)) = self.expect().await {
                return verdict;
            }
        }
    }

    /// Waits for readiness; the acceptance is repeated to a connection that took the job over.
    async fn expect_ready(&mut self, job: &JobId) {
        loop {
            match self.expect().await {
                Up::Accepted(accepted) => assert_eq!(&accepted.job_uuid, job),
                Up::ExecutorReady(ready) => {
                    assert_eq!(&ready.job_uuid, job);
                    return;
                }
                other => panic!("expected readiness, got {other:?}"),
            }
        }
    }

    async fn close(self) {
        self.link.close(1000, "").await;
        self.link.sender().closed().await;
    }
}

#[tokio::test]
async fn a_signed_stamp_opens_one_connection_and_many_of_one_second_open_many() {
    let miner = Miner::start(&[]).await;
    let mut first = Validator::connect(&miner, "//Alice").await;
    let auth = first.auth(0);
    first.say(auth.clone()).await;
    assert!(matches!(first.expect().await, Up::Manifest(_)));
    // A copy on another connection, also in other letters, and on the same one.
    let shouted = Authenticate {
        signature: format!("0x{}", auth.signature.trim_start_matches("0x").to_uppercase()),
        ..auth.clone()
    };
    for copy in [auth.clone(), shouted] {
        let mut thief = Validator::connect(&miner, "//Alice").await;
        thief.say(copy).await;
        thief.expect_refusal("msg replayed").await;
    }
    // Thirty at once, each with a signature of its own.
    let many = (0..30).map(|_| Validator::trusted(&miner, "//Alice"));
    let many = futures_util::future::join_all(many).await;
    assert_eq!(many.len(), 30);
    first.say(auth).await;
    first.expect_refusal("msg replayed").await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_by_how_much() {
    let miner = Miner::start(&[]).await;
    for (ahead, reason) in [
        (-60, "msg too old (signed 6"),
        (60, "msg too new (signed "),
        (86_400, "msg too new (signed 86"),
    ] {
        let mut alice = Validator::connect(&miner, "//Alice").await;
        alice.say(alice.auth(ahead)).await;
        alice.expect_refusal(reason).await;
    }
    for ahead in [-8, 8] {
        let mut alice = Validator::connect(&miner, "//Alice").await;
        alice.say(alice.auth(ahead)).await;
        assert!(matches!(alice.expect().await, Up::Manifest(_)), "{ahead}");
    }
}

#[tokio::test]
async fn before_authentication_one_small_message_is_heard_and_what_follows_it_waits() {
    let miner = Miner::start(&[]).await;
    let mut asking = Validator::connect(&miner, "//Alice").await;
    asking.say(MainHotkey { main_hotkey: None }).await;
    asking
        .expect_refusal("the first message is not the authentication")
        .await;

    let mut babbling = Validator::connect(&miner, "//Alice").await;
    babbling.link.send("garbage").await.unwrap();
    assert!(babbling.expect_error().await.starts_with("Malformed message"));
    assert_eq!(babbling.expect_close().await, 1000);

    let mut large = Validator::connect(&miner, "//Alice").await;
    large.link.send("x".repeat(3_000_000)).await.unwrap();
    assert_eq!(large.expect_close().await, 1009);

    let silent = Instant::now();
    let mut mute = Validator::connect(&miner, "//Alice").await;
    mute.expect_refusal("no authentication in time").await;
    assert!(
        silent.elapsed() >= Duration::from_secs(9),
        "{:?}",
        silent.elapsed()
    );

    // As all real validators do: the next frame, and a large one, right behind the authentication.
    let mut alice = Validator::connect(&miner, "//Alice").await;
    alice.say(alice.auth(0)).await;
    alice
        .say(Down::GenericError(GenericError::new("x".repeat(2_000_000))))
        .await;
    alice.say(MainHotkey { main_hotkey: None }).await;
    assert!(matches!(alice.expect().await, Up::Manifest(_)));
    assert!(matches!(alice.expect().await, Up::MainHotkey(_)));
}

#[tokio::test]
async fn who_comes_too_fast_is_told_to_come_again() {
    let miner = Miner::start(&[("HORDE_MINER_VALIDATOR_RATE", "1")]).await;
    let mut here = Vec::new();
    let refused = loop {
        let mut alice = Validator::connect(&miner, "//Alice").await;
        alice.say(alice.auth(0)).await;
        match alice.expect().await {
            Up::Manifest(_) => here.push(alice),
            Up::GenericError(GenericError { details }) => break (alice, details.unwrap()),
            other => panic!("{other:?}"),
        }
        assert!(here.len() < 60, "nothing is refused");
    };
    let (mut alice, details) = refused;
    assert!(here.len() >= 10, "ten seconds' worth pass: {}", here.len());
    assert!(details.contains("too many connections (again in "), "{details}");
    assert_eq!(alice.expect_close().await, 1013);
    // Another validator is not held up.
    let mut charlie = Validator::trusted(&miner, "//Charlie").await;
    let mut accepted = 0;
    let message = loop {
        charlie.request().await;
        match charlie.expect_verdict().await {
            Up::Declined(declined) if declined.reason == RejectionReason::Unknown => break declined.message,
            Up::Declined(_) | Up::Accepted(_) => accepted += 1,
            other => panic!("{other:?}"),
        }
        assert!(accepted < 60, "nothing is refused");
    };
    assert!(accepted >= 10, "{accepted}");
    assert!(message.starts_with("too many jobs (again in "), "{message}");
}

/// Asks until what becomes of a job is as expected; returns how long that took.
async fn until(
    miner: &Miner,
    uri: &str,
    is_so: impl Fn(&Result<Up, String>) -> bool,
) -> (Duration, Result<Up, String>) {
    let started = Instant::now();
    loop {
        let mut validator = Validator::connect(miner, uri).await;
        validator.say(validator.auth(0)).await;
        let outcome = match validator.hear().await {
            Event::Text(text) if text.contains("V0ExecutorManifestRequest") => {
                validator.request().await;
                Ok(validator.expect_verdict().await)
            }
            Event::Text(text) => Err(text),
            other => Err(format!("{other:?}")),
        };
        if is_so(&outcome) {
            return (started.elapsed(), outcome);
        }
        assert!(started.elapsed() < PATIENCE, "{outcome:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn is_blacklisted(outcome: &Result<Up, String>) -> bool {
    matches!(outcome, Ok(Up::Declined(declined)) if declined.reason == RejectionReason::ValidatorBlacklisted)
}

fn is_taken(outcome: &Result<Up, String>) -> bool {
    outcome.is_ok() && !is_blacklisted(outcome)
}

#[tokio::test]
async fn orders_about_validators_are_followed_while_the_miner_runs_and_when_it_starts() {
    let mut miner = Miner::install(2).await;
    let missing = miner.order(&["validator", "list"]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    miner.launch(&[]).await;
    let address = |uri: &str| Keypair::from_uri(uri).unwrap().hotkey().to_string();
    let (alice, eve) = (address("//Alice"), address("//Eve"));

    let blocked = miner.order(&["validator", "block", &alice, "--reason", "owes us", "--for", "1h"]);
    assert!(blocked.status.success(), "{blocked:?}");
    let (took, outcome) = until(&miner, "//Alice", is_blacklisted).await;
    // Two seconds by the promise; the rest is for a busy machine.
    assert!(took < Duration::from_secs(20), "{took:?}");
    let Ok(Up::Declined(declined)) = outcome else {
        panic!()
    };
    assert!(
        declined
            .message
            .starts_with("validator is blacklisted: owes us (until 20"),
        "{}",
        declined.message
    );
    assert!(declined.receipts.is_empty());
    let listed = miner.order(&["validator", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = |hotkey: &str| {
        let rows = listed.as_array().unwrap();
        rows.iter().find(|row| row["hotkey"] == hotkey).cloned()
    };
    let row_of_alice = row(&alice).unwrap();
    assert_eq!(
        (&row_of_alice["active"], &row_of_alice["stake"]),
        (&true.into(), &1_000_000.into())
    );
    assert_eq!(row_of_alice["blocked"]["reason"], "owes us");
    assert!(row(&address("//Dave")).is_none(), "no validator");

    let unblocked = miner.order(&["validator", "unblock", &alice]);
    assert!(unblocked.status.success());
    until(&miner, "//Alice", is_taken).await.1.unwrap();
    assert_eq!(
        miner.order(&["validator", "unblock", &alice]).status.code(),
        Some(3)
    );

    let unknown = |outcome: &Result<Up, String>| matches!(outcome, Err(text) if text.contains(&format!("Unknown validator: {eve}")));
    until(&miner, "//Eve", unknown).await.1.unwrap_err();
    let planned = miner.order(&["validator", "add", &eve, "--dry-run"]);
    assert_eq!(planned.status.code(), Some(11));
    until(&miner, "//Eve", unknown).await.1.unwrap_err();
    assert!(miner.order(&["validator", "add", &eve]).status.success());
    let again = miner.order(&["validator", "add", &eve, "--dry-run"]);
    assert_eq!(again.status.code(), Some(0), "it is let in already");
    until(&miner, "//Eve", Result::is_ok).await.1.unwrap();
    assert!(miner.order(&["validator", "remove", &eve]).status.success());
    until(&miner, "//Eve", unknown).await.1.unwrap_err();

    // Given while it does not run; a block that is over counts no more.
    let mut process = miner.process.take().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(
        miner
            .order(&["validator", "block", &alice, "--reason", "later"])
            .status
            .success()
    );
    let charlie = address("//Charlie");
    let short = miner.order(&["validator", "block", &charlie, "--reason", "short", "--for", "1s"]);
    assert!(short.status.success());
    miner.launch(&[]).await;
    sleep(Duration::from_secs(1)).await;
    let mut refused = Validator::trusted(&miner, "//Alice").await;
    refused.request().await;
    let declined = refused.expect_decline().await;
    assert_eq!(declined.message, "validator is blacklisted: later");
    until(&miner, "//Charlie", is_taken).await.1.unwrap();

    for (words, code) in [
        (&["validator", "add", "nobody"][..], 2),
        (&["validator", "block", &alice, "--reason", ""], 2),
        (
            &["validator", "block", &alice, "--reason", "x", "--for", "soon"],
            2,
        ),
        (&["validator", "remove", &alice], 3),
        (&["validator", "remove", &alice, "--dry-run"], 3),
        (&["validator", "unblock", &eve, "--dry-run"], 3),
    ] {
        let refused = miner.order(words);
        assert_eq!(refused.status.code(), Some(code), "{words:?}");
        assert!(
            refused.stdout.is_empty() && !refused.stderr.is_empty(),
            "{words:?}"
        );
    }
}

/// Two connections of one validator: each hears of its own job only, and who takes a job over hears of it alone.
#[tokio::test]
async fn connections_of_one_validator_hear_of_their_own_jobs_only() {
    if !docker_is_there() {
        return;
    }
    let miner = Miner::start(&[]).await;
    let mut one = Validator::trusted(&miner, "//Alice").await;
    let mut other = Validator::trusted(&miner, "//Alice").await;
    let (first, second) = (one.request().await, other.request().await);
    one.expect_accepted(&first).await;
    other.expect_accepted(&second).await;
    one.expect_ready(&first).await;
    other.expect_ready(&second).await;
    // A third connection takes over the job whose connection has gone, and only that.
    one.close().await;
    let mut third = Validator::trusted(&miner, "//Alice").await;
    third.expect_ready(&first).await;
    other.order(&second, "echo second").await;
    third.order(&first, "echo first").await;
    for (validator, job, said) in [(&mut other, &second, "second\n"), (&mut third, &first, "first\n")] {
        loop {
            let message = validator.expect().await;
            assert!(message.encode().contains(job.as_str()), "{message:?}");
            if let Up::JobFinished(finished) = message {
                assert_eq!(finished.docker_process_stdout, said);
                break;
            }
        }
        timeout(Duration::from_millis(300), validator.link.recv())
            .await
            .unwrap_err();
    }
}

/// Charlie has a millionth of the stake: its jobs are best effort, and Alice's claim their executors.
#[tokio::test]
async fn shares_by_stake_are_told_to_those_who_know_of_them_only() {
    if !docker_is_there() {
        return;
    }
    let miner = Miner::start(&[("HORDE_MINER_SHARING", "stake")]).await;
    let charlie = Validator::connect_with(&miner, "//Charlie", EXTENSIONS).await;
    let mut charlie = charlie.let_in().await;
    let job = charlie.request().await;
    assert_eq!(charlie.expect_accepted(&job).await.best_effort, Some(true));
    charlie.expect_ready(&job).await;

    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = alice.request().await;
    assert_eq!(
        alice.expect_accepted(&job).await.best_effort,
        None,
        "it does not know"
    );
    alice.expect_ready(&job).await;
    alice.request().await;
    let declined = alice.expect_decline().await;
    assert_eq!((declined.reason, declined.context), (RejectionReason::Busy, None));

    let alice = Validator::connect_with(&miner, "//Alice", EXTENSIONS).await;
    let mut alice = alice.let_in().await;
    alice.request().await;
    let declined = alice.expect_decline().await;
    assert_eq!(declined.reason, RejectionReason::Busy);
    assert_eq!(declined.receipts.len(), 3, "two that run, one that was declined");
    assert_eq!(declined.context.unwrap()["retry_after_seconds"], 30);
}
