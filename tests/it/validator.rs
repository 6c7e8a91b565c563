//! The validator between a facilitator and a miner that both are played by the test: frames on both links, in order.

#[path = "cancel_validator.rs"]
mod cancel;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Path as UrlPath;
use axum::http::HeaderMap;
use axum::routing::get;
use horde::core::chain::{Chain, ChainError, Head, Weights};
use horde::core::clock::Clock;
use horde::core::config::{ChainConfig, ValidatorConfig, WalletConfig};
use horde::core::crypto::Keypair;
use horde::core::crypto::signed as bytes;
use horde::core::model::receipt::ReceiptPayload;
use horde::core::model::subnet::{Axon, Block, Metagraph, Neuron};
use horde::core::model::{Hotkey, JobId};
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{self, Limits, Upgrade};
use horde::core::net::{Event, Link, http};
use horde::core::proto::facilitator_validator::{Down as Push, JobRequest, Signature, SignatureScope};
use horde::core::proto::validator_miner::Down;
use horde::core::receipts;
use horde::core::store::validator::ValidatorStore;
use horde::core::tasks::Tasks;
use horde::core::validator::{self, Ports};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const JOB: &str = "2a91e0a0-deec-4c8a-b3ac-777a6afbbbb9";
const PATIENCE: Duration = Duration::from_secs(20);
const SUCCESS: &str = r#"{"status":"success","errors":[]}"#;

fn key(name: &str) -> Keypair {
    Keypair::from_uri(name).unwrap()
}

/// A chain with these miners on it.
#[derive(Debug)]
struct Miners(Vec<(Hotkey, SocketAddr)>);

#[async_trait]
impl Chain for Miners {
    async fn head(&self) -> Result<Head, ChainError> {
        Ok(Head {
            block: Block(1),
            time: time::OffsetDateTime::UNIX_EPOCH,
        })
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        let neuron = |(uid, (hotkey, address)): (u16, &(Hotkey, SocketAddr))| Neuron {
            uid,
            hotkey: hotkey.clone(),
            coldkey: hotkey.clone(),
            stake_rao: 0,
            axon: Some(Axon {
                ip: address.ip(),
                port: address.port(),
            }),
            validator_permit: false,
            registered_at: Block(0),
            last_update: Block(0),
        };
        Ok(Metagraph {
            netuid: 12,
            block: Block(1),
            neurons: (0..).zip(&self.0).map(neuron).collect(),
        })
    }

    async fn serve_axon(&self, _: &Keypair, _: Axon) -> Result<(), ChainError> {
        Ok(())
    }

    async fn set_weights(&self, _: &Keypair, _: &[(u16, u16)]) -> Result<(), ChainError> {
        Ok(())
    }

    async fn weights(&self) -> Result<Weights, ChainError> {
        Ok(Weights::default())
    }
}

/// A server whose sessions come to the test.
struct Server {
    address: SocketAddr,
    links: mpsc::Receiver<(String, HeaderMap, Link)>,
}

/// Serves a route as one who knows of these extensions.
async fn server(route: &str, known: &[&str], tasks: &Tasks) -> Server {
    let (sender, links) = mpsc::channel(16);
    let (family, known) = (tasks.clone(), Extensions::of(known));
    let handler = async move |UrlPath(path): UrlPath<String>, headers: HeaderMap, upgrade: Upgrade| {
        let sender = sender.clone();
        let upgrade = upgrade.agreeing(&known);
        ws::accept(upgrade, Limits::towards_validator(), &family, async move |link| {
            drop(sender.send((path, headers, link)).await);
        })
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route(route, get(handler));
    let family = tasks.clone();
    tasks.spawn(
        "server",
        async move { http::serve(listener, router, &family).await },
    );
    Server { address, links }
}

/// The whole stage.
struct Stage {
    folder: tempfile::TempDir,
    tasks: Tasks,
    facilitator: Server,
    miner: Server,
    validator: Option<Tasks>,
    /// Whether the miner is the validator's own, of which the chain knows nothing.
    is_trusted: bool,
}

impl Stage {
    /// The peers are those of the reference.
    async fn set() -> Self {
        Self::between(&[], &[]).await
    }

    /// The facilitator and the miner know of these extensions.
    async fn between(facilitator: &[&str], miner: &[&str]) -> Self {
        let tasks = Tasks::new();
        Self {
            folder: tempfile::tempdir().unwrap(),
            facilitator: server("/ws/{version}/", facilitator, &tasks).await,
            miner: server("/v0.1/validator_interface/{hotkey}", miner, &tasks).await,
            validator: None,
            is_trusted: false,
            tasks,
        }
    }

    /// Starts the validator; it authenticates at the facilitator.
    async fn start(&mut self) -> Talk {
        let family = self.tasks.child();
        let mut config = config(self.folder.path(), self.facilitator.address);
        config.trusted_miner = self.is_trusted.then_some(self.miner.address);
        let mut miners = vec![(key("//Bob").hotkey().clone(), self.miner.address)];
        miners.retain(|_| !self.is_trusted);
        let ports = Ports {
            keypair: key("//Alice"),
            chain: Arc::new(Miners(miners)),
            clock: Clock::system(),
        };
        let inner = family.clone();
        family.spawn(
            "validator",
            async move { validator::run(config, ports, &inner).await },
        );
        self.validator = Some(family);
        self.welcome().await
    }

    /// Takes the validator's next connection to the facilitator and lets it in.
    async fn welcome(&mut self) -> Talk {
        let (path, headers, link) = timeout(PATIENCE, self.facilitator.links.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(path, "v0");
        assert!(headers.contains_key("x-validator-version"));
        assert!(headers.contains_key("x-validator-runner-version"));
        let mut talk = Talk::over(link);
        let hello = talk.hears("V0AuthenticationRequest").await;
        let signer = bytes::verify_facilitator_auth(
            hello["public_key"].as_str().unwrap(),
            hello["signature"].as_str().unwrap(),
        );
        assert_eq!(signer.as_ref(), Ok(key("//Alice").hotkey()));
        talk.says(SUCCESS).await;
        talk.hears("V0Heartbeat").await;
        talk
    }

    /// Takes the validator's next connection for a job to the miner, authenticated; answers polls of the manifest.
    async fn job_connection(&mut self) -> Talk {
        loop {
            let (path, _, link) = timeout(PATIENCE, self.miner.links.recv()).await.unwrap().unwrap();
            assert_eq!(path, key("//Alice").hotkey().as_str());
            let mut talk = Talk::over(link);
            let hello = talk.hears("ValidatorAuthForMiner").await;
            let message = Down::decode(&hello.to_string()).unwrap();
            let Down::Authenticate(hello) = message else {
                panic!("{message:?}")
            };
            hello.verify().unwrap();
            assert_eq!(hello.miner_hotkey, *key("//Bob").hotkey());
            talk.says(r#"{"message_type":"V0ExecutorManifestRequest","manifest":{"always_on.llm.a6000":1}}"#)
                .await;
            // A poll closes now; a job goes on.
            if let Some(next) = talk.next().await {
                talk.early = Some(next);
                return talk;
            }
        }
    }

    async fn stop(self) {
        assert!(self.tasks.shut_down(Duration::from_secs(60)).await);
    }
}

fn config(folder: &Path, facilitator: SocketAddr) -> ValidatorConfig {
    ValidatorConfig {
        dir: folder.to_owned(),
        wallet: WalletConfig {
            path: folder.to_owned(),
            name: "default".to_owned(),
            hotkey: "default".to_owned(),
            uri: None,
            password_file: None,
        },
        chain: ChainConfig {
            path: folder.join("chain.sqlite"),
            netuid: 12,
            block: Duration::from_secs(12),
        },
        facilitator_url: format!("ws://{facilitator}/ws/v0/"),
        whitelist: vec![key("//Charlie").hotkey().clone()],
        reservation: Duration::from_secs(7),
        startup: Duration::from_secs(5),
        leeway: Duration::from_secs(5),
        job_max: Duration::from_secs(600),
        trusted_miner: None,
        cheat_blacklist: Duration::from_secs(14_400),
    }
}

/// One side of a link, with what was read too early.
struct Talk {
    link: Link,
    early: Option<String>,
}

impl Talk {
    fn over(link: Link) -> Self {
        Self { link, early: None }
    }

    async fn next(&mut self) -> Option<String> {
        if let Some(text) = self.early.take() {
            return Some(text);
        }
        match timeout(PATIENCE, self.link.recv()).await.unwrap() {
            Event::Text(text) => Some(text),
            Event::Closed { .. } => None,
            Event::Binary(_) => panic!("binary frame"),
        }
    }

    async fn hears(&mut self, kind: &str) -> Value {
        let text = self
            .next()
            .await
            .unwrap_or_else(|| panic!("closed instead of {kind}"));
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["message_type"], kind, "{text}");
        frame
    }

    async fn says(&mut self, text: &str) {
        self.link.send(text).await.unwrap();
    }

    async fn is_closed_with(&mut self, expected: u16) {
        match timeout(PATIENCE, self.link.recv()).await.unwrap() {
            Event::Closed { code, .. } => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }

    /// Hears reports of these statuses, answers each, returns the metadata of the last.
    async fn reports(&mut self, statuses: &str) -> Value {
        let mut metadata = Value::Null;
        for status in statuses.split(' ') {
            let report = self.hears("V0JobStatusUpdate").await;
            assert_eq!(
                (&report["uuid"], &report["status"]),
                (&json!(JOB), &json!(status)),
                "{report}"
            );
            metadata = report["metadata"].clone();
            self.says(SUCCESS).await;
        }
        metadata
    }
}

/// A job of //Charlie, signed.
fn job() -> JobRequest {
    job_signed_by("//Charlie")
}

/// The same for the trusted miner.
fn trusted_job() -> JobRequest {
    signed(
        "//Charlie",
        JobRequest {
            on_trusted_miner: true,
            ..job()
        },
    )
}

fn job_signed_by(signer: &str) -> JobRequest {
    let request: JobRequest = serde_json::from_value(json!({
        "uuid": JOB, "executor_class": "always_on.llm.a6000", "docker_image": "127.0.0.1:5555/bb:1",
        "args": ["echo", "hello"], "env": {"B": "2", "A": "ż"},
        "volume": {"volume_type": "multi_volume", "volumes": [{"volume_type": "inline", "contents": "UEs="}]},
        "download_time_limit": 10, "execution_time_limit": 20, "upload_time_limit": 5,
        "streaming_start_time_limit": 5,
    }))
    .unwrap();
    signed(signer, request)
}

fn signed(signer: &str, mut request: JobRequest) -> JobRequest {
    let payload = request.signed_payload().unwrap();
    let signature = Signature::make(
        &key(signer),
        1_795_338_529_987_321_755,
        SignatureScope::SignedFields,
        &payload,
    );
    request.signature = Some(signature.unwrap());
    request
}

fn push(request: JobRequest) -> String {
    Push::JobRequest(Box::new(request)).encode()
}

/// What the miner said in a recorded session, after its manifest, about our job.
fn script(trace: &str) -> Vec<Value> {
    let lines: Vec<Value> = trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines
        .into_iter()
        .filter(|line| line["dir"] == "miner->validator")
        .map(|line| line["msg"].clone())
        .filter(|message| message["message_type"] != "V0ExecutorManifestRequest")
        .map(|mut message| {
            message["job_uuid"] = JOB.into();
            message
        })
        .collect()
}

const ORGANIC: &str = include_str!("../golden/traces/miner-validator-organic.jsonl");
const JOB_FAILED: &str = include_str!("../golden/traces/miner-validator-job-failed.jsonl");
const BUSY: &str = include_str!("../golden/traces/miner-validator-busy.jsonl");

/// Checks a receipt of //Alice for //Bob.
fn check_receipt(payload: &Value, signature: &Value) -> ReceiptPayload {
    let payload: ReceiptPayload = serde_json::from_value(payload.clone()).unwrap();
    let (miner, validator) = (key("//Bob"), key("//Alice"));
    receipts::verify_payload(
        &payload,
        signature.as_str().unwrap(),
        miner.hotkey(),
        validator.hotkey(),
    )
    .unwrap();
    payload
}

/// Takes the first request and checks both its signatures.
async fn initial(miner: &mut Talk) -> Value {
    let text = miner.next().await.unwrap();
    assert!(text.starts_with(r#"{"validator_signature":"0x"#), "{text}");
    bytes::verify_message(key("//Alice").hotkey(), &text).unwrap();
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(message["message_type"], "V0InitialJobRequest");
    assert_eq!(message["timeout_seconds"], 300);
    assert_eq!(message["volume"]["volume_type"], "multi_volume");
    let receipt = check_receipt(
        &message["job_started_receipt_payload"],
        &message["job_started_receipt_signature"],
    );
    assert!(matches!(receipt, ReceiptPayload::Started(started) if started.ttl == 7));
    message
}

async fn full(miner: &mut Talk) -> Value {
    let text = miner.next().await.unwrap();
    bytes::verify_message(key("//Alice").hotkey(), &text).unwrap();
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(message["message_type"], "V0JobRequest");
    assert_eq!(message["volume"], Value::Null);
    assert_eq!(message["docker_run_options_preset"], "nvidia_all");
    assert_eq!(message["env"], json!({"B": "2", "A": "ż"}));
    message
}

/// Takes the finished receipt and the close.
async fn finished(miner: &mut Talk, score: &str) {
    let message = miner.hears("V0JobFinishedReceiptRequest").await;
    let receipt = check_receipt(&message["payload"], &message["signature"]);
    assert!(
        matches!(receipt, ReceiptPayload::Finished(finished) if finished.score_str == score),
        "{message}"
    );
    miner.is_closed_with(1000).await;
}

#[tokio::test]
async fn a_job_goes_the_whole_road() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    let [accept, ready, volumes, done, results] = script(ORGANIC).try_into().unwrap();

    miner.says(&accept.to_string()).await;
    let message = miner.hears("V0JobAcceptedReceiptRequest").await;
    let receipt = check_receipt(&message["payload"], &message["signature"]);
    assert!(
        matches!(receipt, ReceiptPayload::Accepted(accepted) if accepted.ttl == 30 + 5 + 5 + 10 + 20 + 5 + 5)
    );
    facilitator.reports("accepted").await;

    miner.says(&ready.to_string()).await;
    full(&mut miner).await;
    facilitator.reports("executor_ready").await;

    // Neither noise is an end: what cannot be read is answered, `PING` is not.
    miner.says("PING").await;
    miner.says("no json").await;
    let complaint = miner.hears("GenericError").await;
    assert!(
        complaint["details"]
            .as_str()
            .unwrap()
            .starts_with("Malformed message")
    );

    miner.says(&volumes.to_string()).await;
    miner.says(&done.to_string()).await;
    miner.says(&results.to_string()).await;
    let metadata = facilitator
        .reports("volumes_ready execution_done completed")
        .await;
    assert_eq!(metadata["miner_response"]["docker_process_stdout"], "hello\n");
    finished(&mut miner, "35.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn what_the_miner_refuses_or_fails_is_reported_and_receipted_with_nothing() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    for answer in script(JOB_FAILED) {
        miner.says(&answer.to_string()).await;
    }
    miner.hears("V0JobAcceptedReceiptRequest").await;
    full(&mut miner).await;
    let metadata = facilitator
        .reports("received accepted executor_ready volumes_ready failed")
        .await;
    assert_eq!(metadata["job_failure_details"]["docker_process_exit_status"], 3);
    finished(&mut miner, "0.000000").await;

    // The same job again is not run; the facilitator hears its last status once more, and why.
    facilitator.says(&push(job())).await;
    let metadata = facilitator.reports("failed").await;
    assert!(
        metadata["refused"].as_str().unwrap().contains("is known already"),
        "{metadata}"
    );
    stage.stop().await;

    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    miner.says(&script(BUSY)[0].to_string()).await;
    let metadata = facilitator.reports("received rejected").await;
    assert_eq!(metadata["job_rejection_details"]["rejected_by"], "miner");
    assert_eq!(metadata["job_rejection_details"]["reason"], "busy");
    finished(&mut miner, "0.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_job_without_a_good_signature_or_a_miner_is_rejected_in_words() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    let unsigned = JobRequest {
        signature: None,
        ..job()
    };
    let changed = JobRequest {
        docker_image: "other".to_owned(),
        ..job()
    };
    let dave = key("//Dave");
    let stranger = format!("Signatory {} is not in validator whitelist", dave.hotkey());
    for (request, words) in [
        (unsigned, "Signature is empty"),
        (job_signed_by("//Dave"), stranger.as_str()),
        (changed, "Bad signature"),
    ] {
        facilitator.says(&push(request)).await;
        let metadata = facilitator.reports("rejected").await;
        assert_eq!(
            metadata["job_rejection_details"],
            json!({"rejected_by": "validator", "reason": "invalid_signature", "message": words, "context": null})
        );
    }
    let mut unknown: Value = serde_json::from_str(&push(job())).unwrap();
    unknown["executor_class"] = "no such class".into();
    facilitator.says(&unknown.to_string()).await;
    let metadata = facilitator.reports("rejected").await;
    let words = metadata["job_rejection_details"]["message"].as_str().unwrap();
    assert!(words.contains("no such class"), "{words}");
    facilitator.says("nonsense").await;

    // The miner offers nothing of this class.
    let mut elsewhere = JobRequest {
        executor_class: "always_on.test".parse().unwrap(),
        ..job_signed_by("//Alice")
    };
    let payload = elsewhere.signed_payload().unwrap();
    elsewhere.signature = Signature::make(&key("//Alice"), 1, SignatureScope::SignedFields, &payload).ok();
    facilitator.says(&push(elsewhere)).await;
    let metadata = tokio::select! {
        metadata = facilitator.reports("received rejected") => metadata,
        _ = stage.job_connection() => panic!("no job comes to the miner"),
    };
    let details = &metadata["job_rejection_details"];
    assert_eq!(details["reason"], "no_miner_for_job");
    assert_eq!(details["message"], "Job could not be routed to a miner");
    assert_eq!(details["context"]["exception_type"], "AllMinersBusy");
    stage.stop().await;
}

#[tokio::test]
async fn lost_links_are_opened_again_and_what_is_owed_is_sent_again() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    let [accept, ready, volumes, done, results] = script(ORGANIC).try_into().unwrap();
    miner.says(&accept.to_string()).await;
    miner.hears("V0JobAcceptedReceiptRequest").await;
    // Heard, but not answered.
    facilitator.hears("V0JobStatusUpdate").await;
    drop(facilitator);
    drop(miner);

    // The validator comes back with nothing but an authentication; the miner repeats what it waits for.
    let (_, _, link) = timeout(PATIENCE, stage.miner.links.recv())
        .await
        .unwrap()
        .unwrap();
    let mut miner = Talk::over(link);
    miner.hears("ValidatorAuthForMiner").await;
    for answer in [ready, volumes, done, results] {
        miner.says(&answer.to_string()).await;
    }
    full(&mut miner).await;
    finished(&mut miner, "35.000000").await;

    let mut facilitator = stage.welcome().await;
    facilitator
        .reports("accepted executor_ready volumes_ready execution_done completed")
        .await;
    stage.stop().await;
}

#[tokio::test]
async fn a_facilitator_that_refuses_is_tried_again() {
    let mut stage = Stage::set().await;
    let refusal = r#"{"status":"error","errors":[{"msg":"Validator not found","type":"auth.validator_not_found","help":""}]}"#;
    let family = stage.tasks.child();
    let config = config(stage.folder.path(), stage.facilitator.address);
    let ports = Ports {
        keypair: key("//Alice"),
        chain: Arc::new(Miners(Vec::new())),
        clock: Clock::system(),
    };
    let inner = family.clone();
    family.spawn(
        "validator",
        async move { validator::run(config, ports, &inner).await },
    );
    let (_, _, link) = timeout(PATIENCE, stage.facilitator.links.recv())
        .await
        .unwrap()
        .unwrap();
    let mut facilitator = Talk::over(link);
    facilitator.hears("V0AuthenticationRequest").await;
    facilitator.says(refusal).await;
    stage.welcome().await;
    assert!(!family.is_stopping());
    stage.stop().await;
}

#[tokio::test]
async fn a_job_that_a_crash_interrupted_ends_failed_at_the_next_start() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    // As with kill -9, nobody says goodbye.
    let dead = stage.validator.take().unwrap();
    dead.abort();
    while dead.running() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((facilitator, miner));

    let mut facilitator = stage.start().await;
    let metadata = facilitator.reports("failed").await;
    let details = &metadata["horde_failure_details"];
    assert_eq!(
        (&details["reported_by"], &details["reason"]),
        (&json!("validator"), &json!("unhandled_exception"))
    );
    let mut miner = stage.job_connection().await;
    finished(&mut miner, "0.000000").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_validator_that_stops_ends_its_jobs_first() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    stage.validator.as_ref().unwrap().stop();
    finished(&mut miner, "0.000000").await;
    let metadata = facilitator.reports("failed").await;
    assert_eq!(metadata["horde_failure_details"]["reported_by"], "validator");
    facilitator.is_closed_with(1000).await;
    stage.stop().await;
}

/// Counts the rows of a table of the validator's database.
fn rows(stage: &Stage, table: &str) -> i64 {
    let database = rusqlite::Connection::open(stage.folder.path().join("validator.sqlite")).unwrap();
    let query = format!("SELECT count(*) FROM {table}");
    database.query_row(&query, (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_job_for_the_trusted_miner_goes_there_by_its_own_name_and_leaves_nothing_on_record() {
    let mut stage = Stage::set().await;
    stage.is_trusted = true;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(trusted_job())).await;
    facilitator.reports("received").await;
    let (_, _, link) = timeout(PATIENCE, stage.miner.links.recv())
        .await
        .unwrap()
        .unwrap();
    let mut miner = Talk::over(link);
    let hello = miner.hears("ValidatorAuthForMiner").await;
    assert_eq!(hello["miner_hotkey"], "0".repeat(48));
    miner
        .says(r#"{"message_type":"V0ExecutorManifestRequest","manifest":{"always_on.llm.a6000":0}}"#)
        .await;
    let request = miner.hears("V0InitialJobRequest").await;
    assert_eq!(
        request["job_started_receipt_payload"]["miner_hotkey"],
        "0".repeat(48)
    );
    for answer in script(JOB_FAILED) {
        miner.says(&answer.to_string()).await;
    }
    miner.hears("V0JobAcceptedReceiptRequest").await;
    miner.hears("V0JobRequest").await;
    facilitator
        .reports("accepted executor_ready volumes_ready failed")
        .await;
    miner.hears("V0JobFinishedReceiptRequest").await;
    miner.is_closed_with(1000).await;
    assert_eq!(
        (
            rows(&stage, "job"),
            rows(&stage, "receipt"),
            rows(&stage, "incident")
        ),
        (1, 0, 0)
    );
    stage.stop().await;
}

#[tokio::test]
async fn a_job_for_a_trusted_miner_that_there_is_not_is_rejected_in_words() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    facilitator.says(&push(trusted_job())).await;
    let metadata = facilitator.reports("received rejected").await;
    let details = &metadata["job_rejection_details"];
    assert_eq!(details["reason"], "no_miner_for_job");
    assert!(
        details["message"]
            .as_str()
            .unwrap()
            .contains("has no trusted miner"),
        "{details}"
    );
    stage.stop().await;
}

/// A report of //Charlie's about [`JOB`], signed over the bytes that `payload` makes of it.
fn cheated(payload: fn(&str, &str, &Value) -> Vec<u8>, details: &Value) -> Value {
    let trusted = "b2d4e6f8-0a1c-4e3f-8a5b-7c9d1e2f3a4b";
    let bytes = payload(JOB, trusted, details);
    let signature = Signature::make(&key("//Charlie"), 5, SignatureScope::FullRequest, &bytes).unwrap();
    json!({"signature": signature, "type": "job.cheated", "message_type": "V0JobCheated", "job_uuid": JOB,
        "trusted_job_uuid": trusted, "details": details})
}

#[tokio::test]
async fn a_report_about_a_completed_job_keeps_its_miner_from_further_jobs() {
    let mut stage = Stage::set().await;
    let mut facilitator = stage.start().await;
    // Before the job is known, of nobody, of a stranger, and touched: none counts.
    let early = cheated(bytes::report_payload, &json!({"diff": 1}));
    facilitator.says(&early.to_string()).await;
    let mut unsigned = early.clone();
    unsigned["signature"] = Value::Null;
    facilitator.says(&unsigned.to_string()).await;
    let mut touched = early.clone();
    touched["details"] = json!({"diff": 2});
    facilitator.says(&touched.to_string()).await;

    facilitator.says(&push(job())).await;
    facilitator.reports("received").await;
    let mut miner = stage.job_connection().await;
    initial(&mut miner).await;
    for answer in script(ORGANIC) {
        miner.says(&answer.to_string()).await;
    }
    miner.hears("V0JobAcceptedReceiptRequest").await;
    full(&mut miner).await;
    facilitator
        .reports("accepted executor_ready volumes_ready execution_done completed")
        .await;
    finished(&mut miner, "35.000000").await;

    // As the SDK signs it, and as the reference's facilitator forwards it: without the key that is null.
    let mut report = cheated(bytes::report_payload_of_sdk, &Value::Null);
    report.as_object_mut().unwrap().remove("details");
    for _ in 0..2 {
        facilitator.says(&report.to_string()).await;
    }
    let second = "5b643889-6799-42e6-bbb1-36c25a97e7db";
    let next = signed(
        "//Charlie",
        JobRequest {
            uuid: JobId::new(second),
            ..job()
        },
    );
    facilitator.says(&push(next)).await;
    for status in ["received", "rejected"] {
        let report = facilitator.hears("V0JobStatusUpdate").await;
        assert_eq!(
            (&report["uuid"], &report["status"]),
            (&json!(second), &json!(status))
        );
        facilitator.says(SUCCESS).await;
        if status == "rejected" {
            let context = &report["metadata"]["job_rejection_details"]["context"];
            assert_eq!(
                context["skipped_miners"][key("//Bob").hotkey().as_str()],
                "blacklisted",
                "{report}"
            );
        }
    }
    let store = ValidatorStore::open_beside(&stage.folder.path().join("validator.sqlite")).unwrap();
    let mut fates: Vec<_> = store
        .cheats()
        .await
        .unwrap()
        .into_iter()
        .map(|judged| (judged.refusal, judged.slash_due))
        .collect();
    fates.reverse();
    let refused = |words: &str| (Some(words.to_owned()), false);
    assert_eq!(
        fates,
        [
            refused("the job is not known"),
            refused("Signature is empty"),
            refused("Bad signature"),
            (None, true)
        ]
    );
    stage.stop().await;
}
