//! The real miner under a validator played by the test: refusals word for word, jobs through the real executor and a
//! real engine, and what is left after `kill -9`.
//!
//! Tests that run jobs need a Docker engine and the sample image (`sh scripts/test.sh` makes it). Without them they
//! say so and pass, unless `HORDE_TEST_DOCKER` or `CI` is set.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use horde::core::chain::Chain as _;
use horde::core::chain::local::{LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::crypto::signed::{auth_blob, message_blob};
use horde::core::model::job::{ExecutorTiming, HordeReason, RejectionReason, RunPreset};
use horde::core::model::subnet::Axon;
use horde::core::model::{ExecutorClass, JobId};
use horde::core::net::ws::{self, ConnectOptions};
use horde::core::net::{Event, Link};
use horde::core::proto::frame::to_object;
use horde::core::proto::job::{FullJob, GenericError, HordeFailed, InitialJob};
use horde::core::proto::validator_miner::{
    AcceptedReceipt, Authenticate, Declined, Down, FinishedReceipt, Up,
};
use horde::core::receipts::{self, About, Work};
use horde::core::store::miner::{JobState, MinerStore};
use horde::core::tasks::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::{Home, SAMPLE_IMAGE, accepted_risks, docker_is_there};

/// The class of all jobs here.
pub(crate) const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// Makes something wrong with a message.
type Spoil<M> = fn(&mut M);

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A miner process with a chain and a directory of its own.
pub(crate) struct Miner {
    pub(crate) home: Home,
    ip: &'static str,
    arguments: Vec<&'static str>,
    pub(crate) port: u16,
    pub(crate) process: Option<Child>,
    pub(crate) keypair: Keypair,
    pub(crate) executor_image: Option<String>,
    pub(crate) executors: u32,
    /// Variables for the next start of the process.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// Where its log goes; none means where the test's own goes.
    pub(crate) log: Option<PathBuf>,
}

impl Miner {
    /// Starts a miner of one executor on a chain where //Alice and //Charlie validate and //Dave does not.
    pub(crate) async fn start() -> Self {
        Self::start_with("127.0.0.1", Vec::new()).await
    }

    async fn start_with(ip: &'static str, arguments: Vec<&'static str>) -> Self {
        let mut miner = Self::make(ip, arguments).await;
        miner.launch().await;
        let axon = miner.axon().await;
        assert_eq!(axon.map(|axon| axon.port), Some(miner.port), "announced");
        miner
    }

    /// Returns where the chain says that it is.
    async fn axon(&self) -> Option<Axon> {
        let chain = self.chain().await;
        let metagraph = chain.metagraph().await.unwrap();
        metagraph.neuron(self.keypair.hotkey()).unwrap().axon
    }

    async fn chain(&self) -> LocalChain {
        let path = self.home.path().join("chain.sqlite");
        LocalChain::open(&path, 12, Duration::from_secs(12), Clock::system())
            .await
            .unwrap()
    }

    /// Makes one that does not run yet.
    pub(crate) async fn make(ip: &'static str, arguments: Vec<&'static str>) -> Self {
        let home = Home::new();
        let chain = LocalChain::open(
            &home.path().join("chain.sqlite"),
            12,
            Duration::from_secs(12),
            Clock::system(),
        )
        .await
        .unwrap();
        for (uri, validator_permit) in [
            ("//Alice", true),
            ("//Charlie", true),
            ("//Dave", false),
            ("//Bob", false),
        ] {
            let hotkey = Keypair::from_uri(uri).unwrap().hotkey().clone();
            let registration = Registration {
                coldkey: hotkey.clone(),
                hotkey,
                stake_rao: 1_000_000_000,
                validator_permit,
            };
            chain.register(registration).await.unwrap();
        }
        Self {
            home,
            ip,
            arguments,
            port: crate::support::free_port(),
            process: None,
            keypair: Keypair::from_uri("//Bob").unwrap(),
            executor_image: None,
            executors: 1,
            variables: Vec::new(),
            log: None,
        }
    }

    /// Starts the process and waits until it serves and has announced itself.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        self.until_it_serves().await;
        sleep(Duration::from_millis(200)).await;
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let directory = self.directory();
        let listen = format!("{}:{}", self.ip, self.port);
        let executors = format!("{CLASS}={}", self.executors);
        let process = self
            .home
            .horde(["--dir", directory.to_str().unwrap(), "miner", "run"])
            .args(["--listen", &listen, "--executors", &executors])
            .args(&self.arguments)
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .env("HORDE_WALLET_URI", "//Bob")
            .env("HORDE_MINER_METRICS_LISTEN", "off")
            .env("HORDE_EXECUTOR_WORK_DIR", self.home.path())
            .envs([accepted_risks()])
            .env(
                "HORDE_MINER_EXECUTOR_IMAGE",
                self.executor_image
                    .as_deref()
                    .unwrap_or("horde-test-no-such-image"),
            )
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.variables.iter().cloned())
            // Whoever is told to end with its parent reads it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(match &self.log {
                Some(path) => std::fs::File::create(path).unwrap().into(),
                None => Stdio::inherit(),
            })
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Waits until it answers.
    async fn until_it_serves(&self) {
        let client = reqwest::Client::new();
        let login = format!("http://{}:{}/admin/login/", self.ip, self.port);
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

    /// Returns a command beside the miner, ready to run.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let directory = self.directory();
        let mut command = self.home.horde(["--dir", directory.to_str().unwrap(), "miner"]);
        command.args(words);
        command
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("miner")
    }

    /// Ends the process with a signal and waits for it.
    pub(crate) async fn signal(&mut self, signal: Signal) {
        let mut process = self.process.take().unwrap();
        // Kept open: this is not how it is told to end.
        let _input = process.stdin.take();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        // Elsewhere: the test's own side of its connections has to answer meanwhile.
        tokio::task::spawn_blocking(move || process.wait())
            .await
            .unwrap()
            .unwrap();
    }

    /// Opens the database of a miner that does not run.
    pub(crate) fn store(&self) -> MinerStore {
        assert!(self.process.is_none(), "the miner has its database to itself");
        MinerStore::open(&self.directory().join("miner.sqlite")).unwrap()
    }

    /// Waits until an executor that has reported has also cleared away.
    pub(crate) async fn expect_no_containers(&self) {
        let started = Instant::now();
        while !self.containers().await.is_empty() {
            assert!(started.elapsed() < PATIENCE, "containers stay");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the containers that carry this miner's label, read from a copy of its database.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let copy = tempfile::tempdir().unwrap();
        for name in ["miner.sqlite", "miner.sqlite-wal"] {
            drop(std::fs::copy(self.directory().join(name), copy.path().join(name)));
        }
        let store = MinerStore::open(&copy.path().join("miner.sqlite")).unwrap();
        let owner = store.owner().await.unwrap();
        let filter = format!("label=horde.owner={owner}");
        let listed = Command::new("docker")
            .args(["ps", "--all", "--quiet", "--filter", &filter])
            .output()
            .unwrap();
        assert!(listed.status.success());
        String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
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
    pub(crate) link: Link,
    clock: Clock,
    tasks: Tasks,
}

impl Validator {
    pub(crate) async fn connect(miner: &Miner, uri: &str) -> Self {
        Self::try_connect(miner.ip, miner.port, &miner.keypair, uri)
            .await
            .unwrap()
    }

    /// Connects to a miner that may not be there.
    pub(crate) async fn try_connect(ip: &str, port: u16, miner: &Keypair, uri: &str) -> Option<Self> {
        let keypair = Keypair::from_uri(uri).unwrap();
        let url = format!(
            "ws://{}:{}/v0.1/validator_interface/{}",
            ip,
            port,
            keypair.hotkey()
        );
        let tasks = Tasks::new();
        let link = ws::connect(&url, &ConnectOptions::default(), &tasks).await.ok()?;
        Some(Self {
            keypair,
            miner: miner.clone(),
            link,
            clock: Clock::system(),
            tasks,
        })
    }

    /// Connects, authenticates and tells how many executors are offered.
    pub(crate) async fn offered(miner: &Miner, uri: &str) -> (Self, i64) {
        let mut validator = Self::connect(miner, uri).await;
        validator.say(validator.auth()).await;
        match validator.expect().await {
            Up::Manifest(manifest) => (validator, manifest.manifest.count(CLASS)),
            other => panic!("expected the manifest, got {other:?}"),
        }
    }

    /// Connects, authenticates and takes the manifest.
    pub(crate) async fn trusted(miner: &Miner, uri: &str) -> Self {
        let mut validator = Self::connect(miner, uri).await;
        validator.say(validator.auth()).await;
        validator.expect_manifest().await;
        validator
    }

    pub(crate) fn auth(&self) -> Authenticate {
        let timestamp = self.clock.unix_seconds();
        let (validator, miner) = (self.keypair.hotkey(), self.miner.hotkey());
        Authenticate {
            validator_hotkey: validator.clone(),
            miner_hotkey: miner.clone(),
            timestamp,
            signature: self
                .keypair
                .sign(&auth_blob(validator, miner, timestamp))
                .to_hex_prefixed(),
        }
    }

    pub(crate) async fn say(&self, message: impl Into<Down>) {
        self.link.send(message.into().encode()).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Event {
        timeout(PATIENCE, self.link.recv()).await.unwrap()
    }

    pub(crate) async fn expect(&mut self) -> Up {
        match self.hear().await {
            Event::Text(text) => Up::decode(&text).unwrap(),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    pub(crate) async fn expect_manifest(&mut self) {
        match self.expect().await {
            Up::Manifest(manifest) => assert_eq!(manifest.manifest.count(CLASS), 1),
            other => panic!("expected the manifest, got {other:?}"),
        }
    }

    pub(crate) async fn expect_error(&mut self) -> String {
        match self.expect().await {
            Up::GenericError(GenericError { details }) => details.unwrap(),
            other => panic!("expected an error, got {other:?}"),
        }
    }

    pub(crate) async fn expect_decline(&mut self) -> Declined {
        match self.expect().await {
            Up::Declined(declined) => declined,
            other => panic!("expected a decline, got {other:?}"),
        }
    }

    pub(crate) async fn expect_horde_failed(&mut self) -> HordeFailed {
        match self.expect().await {
            Up::HordeFailed(failed) => failed,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    pub(crate) async fn expect_close(&mut self) {
        match self.hear().await {
            Event::Closed { code, .. } => assert_eq!(code, 1000),
            other => panic!("expected the end, got {other:?}"),
        }
    }

    pub(crate) fn request(&self, job: &JobId) -> InitialJob {
        let about = About {
            job_uuid: job,
            miner: self.miner.hotkey(),
            now: self.clock.now(),
        };
        let receipt = receipts::sign_started(&self.keypair, about, CLASS, true, 30).unwrap();
        InitialJob {
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
        }
    }

    /// Sends the request signed, as the newest validators do.
    pub(crate) async fn request_signed(&self, job: &JobId) {
        let mut request = self.request(job);
        let blob = message_blob(&to_object(&request));
        request.validator_signature = Some(self.keypair.sign(&blob).to_hex_prefixed());
        self.say(request).await;
    }

    /// Asks for an executor and waits until it is ready.
    pub(crate) async fn engage(&mut self, job: &JobId) {
        self.request_signed(job).await;
        match self.expect().await {
            Up::Accepted(accepted) => assert_eq!(&accepted.job_uuid, job),
            other => panic!("expected an acceptance, got {other:?}"),
        }
        match self.expect().await {
            Up::ExecutorReady(ready) => assert_eq!((&ready.job_uuid, ready.executor_token), (job, None)),
            other => panic!("expected readiness, got {other:?}"),
        }
    }

    pub(crate) fn order(job: &JobId, script: &str) -> FullJob {
        FullJob {
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
        }
    }

    pub(crate) fn accepted_receipt(&self, job: &JobId) -> AcceptedReceipt {
        let about = About {
            job_uuid: job,
            miner: self.miner.hotkey(),
            now: self.clock.now(),
        };
        let receipt = receipts::sign_accepted(&self.keypair, about, self.clock.now(), 100).unwrap();
        AcceptedReceipt {
            payload: receipt.payload,
            signature: receipt.signature,
        }
    }

    async fn say_accepted_receipt(&self, job: &JobId) {
        self.say(self.accepted_receipt(job)).await;
    }

    pub(crate) fn finished_receipt(&self, job: &JobId) -> FinishedReceipt {
        let about = About {
            job_uuid: job,
            miner: self.miner.hotkey(),
            now: self.clock.now(),
        };
        let work = Work {
            started: self.clock.now(),
            took: time::Duration::milliseconds(1500),
            score: 180.0,
            block_numbers: vec![1, 2],
        };
        let receipt = receipts::sign_finished(&self.keypair, about, work).unwrap();
        FinishedReceipt {
            payload: receipt.payload,
            signature: receipt.signature,
        }
    }

    pub(crate) async fn say_finished_receipt(&self, job: &JobId) {
        self.say(self.finished_receipt(job)).await;
    }

    /// As [`Self::trusted`], by a miner of so many executors.
    async fn trusted_by(miner: &Miner, uri: &str, executors: i64) -> Self {
        let mut validator = Self::connect(miner, uri).await;
        validator.say(validator.auth()).await;
        match validator.expect().await {
            Up::Manifest(manifest) => assert_eq!(manifest.manifest.count(CLASS), executors),
            other => panic!("expected the manifest, got {other:?}"),
        }
        validator
    }

    /// Waits for the results of a job that was ordered before, whatever steps are told on the way; results of others,
    /// which the miner tells again until they are acknowledged, are no business of this one.
    pub(crate) async fn expect_results(&mut self, job: &JobId) -> String {
        loop {
            match self.expect().await {
                Up::JobFinished(finished) if &finished.job_uuid == job => {
                    return finished.docker_process_stdout;
                }
                Up::JobFailed(failed) if &failed.job_uuid == job => panic!("{failed:?}"),
                Up::HordeFailed(failed) if &failed.job_uuid == job => panic!("{failed:?}"),
                _step => {}
            }
        }
    }

    /// Runs a whole job and returns its standard output.
    pub(crate) async fn run(&mut self, job: &JobId, script: &str) -> String {
        self.engage(job).await;
        self.say_accepted_receipt(job).await;
        self.say(Self::order(job, script)).await;
        let mut seen = Vec::new();
        loop {
            match self.expect().await {
                Up::JobFinished(finished) => {
                    assert_eq!(seen, ["V0VolumesReadyRequest", "V0ExecutionDoneRequest"]);
                    assert_eq!(&finished.job_uuid, job);
                    return finished.docker_process_stdout;
                }
                Up::MachineSpecs(_) => {}
                Up::JobFailed(failed) => panic!("{failed:?}"),
                Up::HordeFailed(failed) => panic!("{failed:?}"),
                other => seen.push(other.message_type()),
            }
        }
    }

    pub(crate) async fn close(self) {
        self.link.close(1000, "").await;
        self.tasks.shut_down(PATIENCE).await;
    }
}

pub(crate) fn new_job() -> JobId {
    JobId::new(Uuid::new_v4().to_string())
}

#[tokio::test]
async fn who_is_no_validator_hears_why_and_is_sent_off() {
    let miner = Miner::start().await;
    for (uri, word) in [("//Ferdie", "Unknown"), ("//Dave", "Inactive")] {
        let mut stranger = Validator::connect(&miner, uri).await;
        let hotkey = stranger.keypair.hotkey().clone();
        assert_eq!(
            stranger.expect_error().await,
            format!("{word} validator: {hotkey}")
        );
        stranger.expect_close().await;
    }
}

#[tokio::test]
async fn bad_authentication_is_refused_in_the_words_of_the_reference() {
    let miner = Miner::start().await;
    let cases: [(Spoil<Authenticate>, &str); 6] = [
        (|auth| auth.timestamp -= 12, "msg too old"),
        (
            |auth| auth.miner_hotkey = auth.validator_hotkey.clone(),
            "wrong miner hotkey (MINER!=VALIDATOR)",
        ),
        (
            |auth| auth.validator_hotkey = auth.miner_hotkey.clone(),
            "wrong validator hotkey (VALIDATOR!=MINER)",
        ),
        (|auth| auth.timestamp += 1, "Signature mismatches"),
        (|auth| auth.signature = "0xzz".to_owned(), "Signature mismatches"),
        (|auth| auth.signature = String::new(), "Signature mismatches"),
    ];
    for (spoil, reason) in cases {
        let mut validator = Validator::connect(&miner, "//Alice").await;
        let mut auth = validator.auth();
        spoil(&mut auth);
        validator.say(auth).await;
        let hotkey = validator.keypair.hotkey().as_str().to_owned();
        let reason = reason
            .replace("MINER", miner.keypair.hotkey().as_str())
            .replace("VALIDATOR", &hotkey);
        // Where the reference has words, ours begin with them; a clock that is off is told by how much.
        let (said, expected) = (
            validator.expect_error().await,
            format!("Validator {hotkey} not authenticated due to: {reason}"),
        );
        assert!(
            said == expected || said.starts_with(&format!("{expected} (signed 1")),
            "{said}"
        );
        validator.expect_close().await;
    }
}

#[tokio::test]
async fn who_authenticates_again_gets_the_manifest_again() {
    let miner = Miner::start().await;
    let mut validator = Validator::trusted(&miner, "//Alice").await;
    validator.say(validator.auth()).await;
    validator.expect_manifest().await;
    let mut old = validator.auth();
    old.timestamp -= 100;
    validator.say(old).await;
    assert!(validator.expect_error().await.contains("msg too old"));
    validator.expect_close().await;
}

#[tokio::test]
async fn malformed_frames_and_impossible_requests_are_answered_and_the_connection_is_kept() {
    let miner = Miner::start().await;
    let mut validator = Validator::trusted(&miner, "//Alice").await;
    for text in ["not json", "PING", "[]", "{}", "{\"message_type\":\"V0Nope\"}"] {
        validator.link.send(text).await.unwrap();
        let details = validator.expect_error().await;
        assert!(details.starts_with("Malformed message"), "{text}: {details}");
    }
    let job = new_job();
    validator.say(Validator::order(&job, "true")).await;
    assert_eq!(
        validator.expect_error().await,
        format!("Received JobRequest for unknown job_uuid: {job}")
    );
    validator.say_finished_receipt(&job).await;
    assert_eq!(
        validator.expect_error().await,
        format!("Received JobFinishedReceipt for unknown job_uuid: {job}")
    );

    let cases: [(Spoil<InitialJob>, RejectionReason); 6] = [
        (
            |job| job.job_started_receipt_signature = format!("0x{}", "0".repeat(128)),
            RejectionReason::InvalidSignature,
        ),
        (
            |job| job.job_started_receipt_payload.ttl = 3_000_000,
            RejectionReason::InvalidReceipt,
        ),
        (
            |job| job.job_uuid = JobId::new("J"),
            RejectionReason::InvalidReceipt,
        ),
        (
            |job| {
                job.job_uuid = JobId::new("J");
                job.job_started_receipt_payload.job_uuid = JobId::new("J");
            },
            RejectionReason::InvalidReceipt,
        ),
        (
            |job| job.validator_signature = Some(format!("0x{}", "0".repeat(128))),
            RejectionReason::InvalidSignature,
        ),
        (
            |job| job.validator_signature = Some("nonsense".to_owned()),
            RejectionReason::InvalidSignature,
        ),
    ];
    for (spoil, reason) in cases {
        let mut request = validator.request(&new_job());
        spoil(&mut request);
        let job = request.job_uuid.clone();
        validator.say(request).await;
        let declined = validator.expect_decline().await;
        assert_eq!(
            (declined.reason, declined.job_uuid),
            (reason, job),
            "{}",
            declined.message
        );
    }

    let job = new_job();
    let about = About {
        job_uuid: &job,
        miner: miner.keypair.hotkey(),
        now: validator.clock.now(),
    };
    let class = ExecutorClass::AlwaysOnLlmA6000;
    let receipt = receipts::sign_started(&validator.keypair, about, class, true, 7).unwrap();
    let mut request = validator.request(&job);
    request.executor_class = class;
    request.job_started_receipt_payload = receipt.payload;
    request.job_started_receipt_signature = receipt.signature;
    validator.say(request).await;
    let declined = validator.expect_decline().await;
    assert_eq!(
        declined.message,
        "executor class always_on.llm.a6000 is not in the manifest"
    );
    assert_eq!(declined.reason, RejectionReason::Unknown);
    validator.close().await;
}

#[tokio::test]
async fn an_executor_without_a_job_hears_why_and_is_sent_off() {
    let miner = Miner::start().await;
    let token = format!("{}-{}", new_job(), Uuid::new_v4());
    let url = format!("ws://127.0.0.1:{}/v0.1/executor_interface/{token}", miner.port);
    let tasks = Tasks::new();
    let mut link = ws::connect(&url, &ConnectOptions::default(), &tasks)
        .await
        .unwrap();
    let expected =
        format!("{{\"message_type\":\"GenericError\",\"details\":\"No job waiting for token {token}\"}}");
    assert_eq!(link.recv().await, Event::Text(expected));
    assert!(matches!(link.recv().await, Event::Closed { code: 1000, .. }));
}

#[tokio::test]
async fn a_job_runs_its_receipts_are_kept_and_a_second_one_is_declined_with_an_excuse() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    alice.engage(&job).await;
    alice.say_accepted_receipt(&job).await;

    // The same job again: refused, and the one that runs is not disturbed.
    alice.say(alice.request(&job)).await;
    assert_eq!(
        alice.expect_error().await,
        format!("Received InitialJobRequest twice job_uuid: {job}")
    );
    // Another validator has no way to it, not even with its id.
    let mut charlie = Validator::trusted(&miner, "//Charlie").await;
    charlie.say(Validator::order(&job, "true")).await;
    assert_eq!(
        charlie.expect_error().await,
        format!("Received JobRequest for unknown job_uuid: {job}")
    );
    charlie.say(charlie.request(&job)).await;
    assert_eq!(charlie.expect_decline().await.reason, RejectionReason::Unknown);

    let second = new_job();
    charlie.request_signed(&second).await;
    let declined = charlie.expect_decline().await;
    assert_eq!(declined.reason, RejectionReason::Busy);
    assert_eq!(declined.receipts.len(), 1);
    assert_eq!(declined.receipts[0].payload.job_uuid(), &job);
    receipts::verify_receipt(&declined.receipts[0]).unwrap();
    charlie.close().await;

    alice.say(Validator::order(&job, "echo out; echo err >&2")).await;
    let mut outcome = alice.expect().await;
    while !matches!(outcome, Up::JobFinished(_)) {
        assert!(
            !matches!(outcome, Up::JobFailed(_) | Up::HordeFailed(_)),
            "{outcome:?}"
        );
        outcome = alice.expect().await;
    }
    // The receipt sits right before the close frame, as the published client sends it.
    alice.say_finished_receipt(&job).await;
    alice.close().await;
    // The slot is free again at once.
    let mut charlie = Validator::trusted(&miner, "//Charlie").await;
    let third = new_job();
    assert_eq!(charlie.run(&third, "echo third").await, "third\n");
    charlie.close().await;
    miner.expect_no_containers().await;

    miner.signal(Signal::TERM).await;
    let store = miner.store();
    let kept = store.job(&job).await.unwrap().unwrap();
    assert_eq!(
        (kept.state, kept.stdout.as_str(), kept.slot, kept.is_reported),
        (JobState::Finished, "out\n", None, true)
    );
    assert_eq!((kept.time_took_us, kept.score), (Some(1_500_000), Some(180.0)));
    let types: Vec<_> = store
        .receipts_of(&job)
        .await
        .unwrap()
        .iter()
        .map(|receipt| (receipt.payload.receipt_type(), receipt.miner_signature.is_some()))
        .collect();
    assert_eq!(
        types,
        [
            ("JobStartedReceipt", true),
            ("JobAcceptedReceipt", true),
            ("JobFinishedReceipt", true)
        ]
    );
    let declined = store.job(&second).await.unwrap().unwrap();
    assert_eq!((declined.state, declined.slot), (JobState::Rejected, None));
}

#[tokio::test]
async fn a_failing_job_is_reported_with_its_exit_code_and_an_unreported_one_when_the_validator_is_back() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    alice.engage(&job).await;
    alice.say_accepted_receipt(&job).await;
    // The validator goes, comes back, and is told again what the miner waits for.
    alice.close().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    assert!(matches!(alice.expect().await, Up::ExecutorReady(ready) if ready.job_uuid == job));
    alice.say(Validator::order(&job, "sleep 1; echo o; exit 3")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    alice.close().await;
    sleep(Duration::from_secs(4)).await;
    // What was missed is made up for.
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    match alice.expect().await {
        Up::JobFailed(failed) => {
            assert_eq!(failed.docker_process_exit_status, Some(3));
            assert_eq!(failed.docker_process_stdout.as_deref(), Some("o\n"));
        }
        other => panic!("{other:?}"),
    }
    alice.close().await;
    miner.signal(Signal::TERM).await;
    let kept = miner.store().job(&job).await.unwrap().unwrap();
    assert_eq!(
        (kept.state, kept.exit_status, kept.is_reported),
        (JobState::Failed, Some(3), true)
    );
    assert_eq!(kept.error_type.as_deref(), Some("nonzero_return_code"));
}

/// kill -9 of the miner during a job, then a restart: the job goes on, its result arrives, no container stays, the next
/// job runs.
#[tokio::test]
async fn a_killed_miner_goes_on_with_its_jobs_once_it_is_back() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, "sleep 3; echo survived")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    miner.signal(Signal::KILL).await;
    assert!(matches!(alice.hear().await, Event::Closed { .. }));

    miner.launch().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    assert_eq!(alice.expect_results(&job).await, "survived\n");
    let next = new_job();
    assert_eq!(alice.run(&next, "echo next").await, "next\n");
    alice.close().await;

    miner.signal(Signal::TERM).await;
    let store = miner.store();
    for job in [job, next] {
        let kept = store.job(&job).await.unwrap().unwrap();
        assert_eq!((kept.state, kept.slot), (JobState::Finished, None));
    }
    drop(store);
    miner.expect_no_containers().await;
}

/// A miner that is asked to stop lets a job finish that can, and leaves one that takes longer to its next life.
#[tokio::test]
async fn a_stopping_miner_takes_no_new_jobs_and_lets_running_ones_finish_now_or_later() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::make("127.0.0.1", Vec::new()).await;
    miner.executors = 2;
    miner.variables = vec![("HORDE_MINER_DRAIN_SECONDS", "4".to_owned())];
    miner.launch().await;
    let mut quick = Validator::trusted_by(&miner, "//Alice", 2).await;
    let mut slow = Validator::trusted_by(&miner, "//Alice", 2).await;
    let (quick_job, slow_job) = (new_job(), new_job());
    quick.engage(&quick_job).await;
    quick
        .say(Validator::order(&quick_job, "sleep 1; echo quick"))
        .await;
    slow.engage(&slow_job).await;
    slow.say(Validator::order(&slow_job, "sleep 9; echo slow")).await;
    assert!(matches!(slow.expect().await, Up::VolumesReady(_)));
    let pid = Pid::from_child(miner.process.as_ref().unwrap());
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(quick.expect_results(&quick_job).await, "quick\n");
    // While it drains, it answers.
    let late = new_job();
    quick.request_signed(&late).await;
    assert_eq!(quick.expect_decline().await.message, "miner is stopping");
    quick.say_finished_receipt(&quick_job).await;
    assert!(matches!(slow.hear().await, Event::Closed { code: 1001, .. }));
    let mut process = miner.process.take().unwrap();
    let ended = tokio::task::spawn_blocking(move || process.wait()).await;
    assert!(ended.unwrap().unwrap().success());
    assert_eq!(miner.containers().await.len(), 1, "the slow job runs on");

    miner.launch().await;
    let mut slow = Validator::trusted_by(&miner, "//Alice", 2).await;
    assert_eq!(slow.expect_results(&slow_job).await, "slow\n");
    slow.close().await;
    miner.signal(Signal::TERM).await;
    let store = miner.store();
    assert_eq!(store.leftovers().await.unwrap(), []);
    assert_eq!(store.job(&late).await.unwrap(), None);
    assert!(store.job(&quick_job).await.unwrap().unwrap().is_acknowledged);
    drop(store);
    miner.expect_no_containers().await;
}

/// A miner whose parent is not going to start it again tells its validators, and takes its executors with it.
#[tokio::test]
async fn a_miner_that_ends_with_its_parent_leaves_nothing_running() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start_with("127.0.0.1", vec!["--exit-with-parent"]).await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, "sleep 600")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    miner.signal(Signal::TERM).await;
    let failed = alice.expect_horde_failed().await;
    assert_eq!(
        (&failed.job_uuid, failed.reason),
        (&job, HordeReason::ExecutorDisconnected)
    );
    assert!(matches!(alice.hear().await, Event::Closed { code: 1001, .. }));
    assert_eq!(miner.containers().await, [""; 0]);
    let ended = miner.store().job(&job).await.unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.slot, ended.is_reported),
        (JobState::Failed, None, true)
    );
}

/// The address of the host on the engine's default bridge: where containers find it, and nobody else.
const BRIDGE: &str = "172.17.0.1";

/// The same with executors in containers of their own, made from the very binary.
#[tokio::test]
async fn executors_in_containers_run_jobs_and_go_on_when_a_killed_miner_is_back() {
    if !docker_is_there() || std::net::TcpListener::bind((BRIDGE, 0)).is_err() {
        return;
    }
    let mut miner = Miner::start_with(BRIDGE, vec!["--backend", "docker"]).await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    // Without the image, the refusal says what is missing.
    let image = format!("horde-test-miner-{}", miner.port);
    let made = miner
        .home
        .horde(["executor", "image", "--tag", &image])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let image = Image(image);
    let job = new_job();
    alice.request_signed(&job).await;
    assert!(matches!(alice.expect().await, Up::Accepted(_)));
    assert_eq!(
        alice.expect_horde_failed().await.reason,
        HordeReason::ExecutorSpinupFailed
    );
    alice.close().await;
    miner.signal(Signal::TERM).await;

    miner.executor_image = Some(image.0.clone());
    miner.launch().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    assert_eq!(alice.run(&new_job(), "echo boxed").await, "boxed\n");
    miner.expect_no_containers().await;
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, "sleep 3; echo survived")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    miner.signal(Signal::KILL).await;
    miner.launch().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    assert_eq!(alice.expect_results(&job).await, "survived\n");
    miner.expect_no_containers().await;
    assert_eq!(alice.run(&new_job(), "echo again").await, "again\n");
    alice.close().await;
    miner.signal(Signal::TERM).await;
}

/// An image that goes with the test.
pub(crate) struct Image(pub(crate) String);

impl Drop for Image {
    fn drop(&mut self) {
        drop(
            Command::new("docker")
                .args(["image", "rm", "--force", &self.0])
                .output(),
        );
    }
}
