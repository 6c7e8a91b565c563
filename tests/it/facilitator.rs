//! The facilitator, over real sockets: recorded exchanges of the reference, replayed; and what is different on purpose.

#[path = "cancel_facilitator.rs"]
mod cancel;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use horde::core::chain::local::{BLOCK_TIME, LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::config::{ChainConfig, FacilitatorConfig};
use horde::core::crypto::{Keypair, signed};
use horde::core::facilitator;
use horde::core::model::Hotkey;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::net::{Event, Link};
use horde::core::proto::facilitator_validator::{Down, JobRequest};
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::described;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The moment at which the reference's tokens and nonces were made.
pub(crate) const THEN: i64 = 1_795_338_800;

pub(crate) fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

pub(crate) fn http_vectors() -> Value {
    golden(include_str!("../golden/facilitator_http.json"))
}

pub(crate) fn ws_vectors() -> Value {
    golden(include_str!("../golden/facilitator_ws.json"))
}

/// A facilitator of a test's own, with //Alice and //Ferdie as active validators and //Charlie as only user.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    http: reqwest::Client,
    pub(crate) config: FacilitatorConfig,
    chain: Arc<LocalChain>,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts it with other settings than usual.
    pub(crate) async fn start_with(change: impl FnOnce(&mut FacilitatorConfig)) -> Self {
        let dir = tempfile::Builder::new().prefix("horde-test-").tempdir().unwrap();
        let clock = Clock::fixed(time::OffsetDateTime::from_unix_timestamp(THEN).unwrap());
        let chain_config = ChainConfig {
            path: dir.path().join("chain.sqlite"),
            netuid: 12,
            block: BLOCK_TIME,
        };
        let chain = LocalChain::open(&chain_config.path, 12, BLOCK_TIME, clock.clone())
            .await
            .unwrap();
        let chain = Arc::new(chain);
        for (name, validator_permit) in [("//Alice", true), ("//Ferdie", true), ("//Dave", false)] {
            register(&chain, name, validator_permit).await;
        }
        let mut config = FacilitatorConfig {
            dir: dir.path().join("facilitator"),
            chain: chain_config,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_any_user: false,
            users: vec![key("//Charlie").hotkey().clone()],
            prices: Vec::new(),
            jwt: Duration::from_secs(3600),
            nonce: Duration::from_secs(300),
            body_bytes_max: 2_621_440,
            away: Duration::from_secs(600),
            volumes_max: 64,
            submit_rate: 100,
            unfinished_max: 1000,
            login_rate: 20,
            keep: Duration::from_secs(7 * 24 * 3600),
            tls: None,
            trusted_proxies: Vec::new(),
            metrics_listen: None,
        };
        change(&mut config);
        let tasks = Tasks::new();
        let address = facilitator::start(config.clone(), chain.clone(), clock.clone(), &tasks)
            .await
            .unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            address,
            clock,
            tasks,
            http,
            config,
            chain,
            _dir: dir,
        }
    }

    /// Stops the facilitator and starts it again on the same data.
    pub(crate) async fn restart(&mut self) {
        self.tasks.shut_down(Duration::from_secs(5)).await;
        self.tasks = Tasks::new();
        self.address = facilitator::start(
            self.config.clone(),
            self.chain.clone(),
            self.clock.clone(),
            &self.tasks,
        )
        .await
        .unwrap();
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method.parse().unwrap(), url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        described::check(method, path, status, &headers, &body);
        Answer {
            status,
            headers,
            body,
        }
    }

    pub(crate) async fn login(&self, user: &str) -> String {
        let nonce = self.send("GET", "/auth/nonce", &[], None).await.body["nonce"]
            .as_str()
            .unwrap()
            .to_owned();
        let keypair = key(user);
        let login = json!({"hotkey": keypair.hotkey(), "signature": keypair.sign(nonce.as_bytes()).to_hex(), "nonce": nonce});
        let answer = self
            .send(
                "POST",
                "/auth/login",
                &[("content-type", "application/json")],
                Some(&login.to_string()),
            )
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        format!("Bearer {}", answer.body["token"].as_str().unwrap())
    }

    /// Sends a recorded request with a token of ours in place of the recorded one.
    pub(crate) async fn replay(&self, request: &Value, token: &str) -> Answer {
        let mut headers: Vec<(&str, &str)> = Vec::new();
        for (name, value) in request["headers"].as_object().unwrap() {
            match name.as_str() {
                "host" | "content-length" => {}
                "authorization" => headers.push(("authorization", token)),
                name => headers.push((name, value.as_str().unwrap())),
            }
        }
        self.send(
            request["method"].as_str().unwrap(),
            request["url_path"].as_str().unwrap(),
            &headers,
            request["body_text"].as_str(),
        )
        .await
    }

    pub(crate) async fn link(&self) -> Link {
        let url = format!("ws://{}/ws/v0/", self.address);
        connect(&url, &ConnectOptions::default(), &self.tasks)
            .await
            .unwrap()
    }

    /// Connects as //Alice.
    pub(crate) async fn validator(&self) -> Link {
        let mut link = self.link().await;
        link.send(authentication("//Alice")).await.unwrap();
        assert_eq!(heard(&mut link).await, r#"{"status":"success","errors":[]}"#);
        link
    }

    pub(crate) async fn job(&self, token: &str, uuid: &str) -> Value {
        let answer = self
            .send(
                "GET",
                &format!("/api/v1/jobs/{uuid}/"),
                &[("authorization", token)],
                None,
            )
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}

async fn register(chain: &LocalChain, name: &str, validator_permit: bool) {
    let hotkey = key(name).hotkey().clone();
    let registration = Registration {
        coldkey: hotkey.clone(),
        hotkey,
        stake_rao: 1,
        validator_permit,
    };
    chain.register(registration).await.unwrap();
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) fn key(uri: &str) -> Keypair {
    Keypair::from_uri(uri).unwrap()
}

pub(crate) fn authentication(uri: &str) -> String {
    let (public_key, signature) = signed::sign_facilitator_auth(&key(uri));
    json!({"message_type": "V0AuthenticationRequest", "public_key": public_key,
        "signature": signature.to_hex_prefixed()})
    .to_string()
}

pub(crate) async fn heard(link: &mut Link) -> String {
    match tokio::time::timeout(PATIENCE, link.recv()).await.unwrap() {
        Event::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn closed(link: &mut Link) -> u16 {
    match tokio::time::timeout(PATIENCE, link.recv()).await.unwrap() {
        Event::Closed { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn pushed(link: &mut Link) -> (String, JobRequest) {
    let text = heard(link).await;
    match Down::decode(&text).unwrap() {
        Down::JobRequest(request) => (text, *request),
        other => panic!("{other:?}"),
    }
}

/// Sends a status and returns the answer.
pub(crate) async fn report(link: &mut Link, uuid: &str, status: &str, metadata: Value) -> Value {
    let update =
        json!({"message_type": "V0JobStatusUpdate", "uuid": uuid, "status": status, "metadata": metadata});
    link.send(update.to_string()).await.unwrap();
    golden(&heard(link).await)
}

/// Returns the recorded exchanges with this label.
pub(crate) fn exchanges<'a>(vectors: &'a Value, label: &str) -> Vec<&'a Value> {
    let all = vectors["exchanges"].as_array().unwrap().iter();
    let found: Vec<_> = all
        .filter(|exchange| exchange["label"] == label && exchange.get("request").is_some())
        .collect();
    assert!(!found.is_empty(), "{label}");
    found
}

/// Takes what differs from run to run out of a job.
fn timeless(job: &Value) -> Value {
    let mut job = job.clone();
    for key in ["uuid", "created_at", "last_update"] {
        assert!(job[key].is_string(), "{key}");
        job[key] = Value::Null;
    }
    for step in job["status_history"].as_array_mut().unwrap() {
        step["created_at"] = Value::Null;
    }
    job
}

#[tokio::test]
async fn logins_are_refused_with_the_words_of_the_reference() {
    let world = World::start().await;
    let vectors = http_vectors();
    // Their nonces were made with another secret, so only what is told before the nonce is looked at can be replayed;
    // the unit tests of the gate have the rest.
    for label in [
        "login missing hotkey",
        "login missing signature",
        "login missing nonce",
        "login tampered nonce",
        "login expired nonce",
        "login form encoded body",
    ] {
        for exchange in exchanges(&vectors, label) {
            let answer = world.replay(&exchange["request"], "").await;
            assert_eq!(answer.status, exchange["response"]["status"], "{label}");
            assert_eq!(answer.body, exchange["response"]["json"], "{label}");
        }
    }
    let nonce = world.send("GET", "/auth/nonce", &[], None).await.body["nonce"]
        .as_str()
        .unwrap()
        .to_owned();
    let shape = |nonce: &str| nonce.split(':').map(str::len).collect::<Vec<_>>();
    assert_eq!(
        shape(&nonce),
        shape(
            exchanges(&vectors, "nonce")[0]["response"]["json"]["nonce"]
                .as_str()
                .unwrap()
        )
    );
    let json = [("content-type", "application/json")];
    let bad = world.send("POST", "/auth/login", &json, Some("{")).await;
    assert_eq!(bad.status, 400);
    assert!(
        bad.body["detail"]
            .as_str()
            .unwrap()
            .starts_with("JSON parse error")
    );
    let list = world.send("POST", "/auth/login", &json, Some("[]")).await;
    assert_eq!(list.status, 400);
    assert_eq!(world.send("GET", "/auth/login", &[], None).await.status, 405);
    // A nonce may be used again within its time.
    world.login("//Charlie").await;
}

#[tokio::test]
async fn calls_without_a_good_token_are_refused_with_the_words_of_the_reference() {
    let world = World::start().await;
    let vectors = http_vectors();
    for label in [
        "jobs without Authorization",
        "jobs garbage token",
        "jobs non-bearer scheme",
        "jobs malformed Authorization",
    ] {
        for exchange in exchanges(&vectors, label) {
            let recorded = exchange["request"]["headers"]["authorization"]
                .as_str()
                .unwrap_or_default();
            let answer = world.replay(&exchange["request"], recorded).await;
            assert_eq!(answer.status, 401, "{label}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{label}");
            assert_eq!(answer.body, exchange["response"]["json"], "{label}");
        }
    }
    let token = world.login("//Charlie").await;
    let list = |token: String| {
        let world = &world;
        async move {
            world
                .send("GET", "/api/v1/jobs/", &[("authorization", &token)], None)
                .await
        }
    };
    assert_eq!(list(token.replace("Bearer", "bearer")).await.status, 200);
    world.clock.advance(Duration::from_secs(3600));
    let expired = list(token).await;
    assert_eq!(
        (expired.status, expired.body),
        (401, json!({"detail": "Token expired."}))
    );
    // Nobody else may log in.
    let nonce = world.send("GET", "/auth/nonce", &[], None).await.body["nonce"]
        .as_str()
        .unwrap()
        .to_owned();
    let bob = key("//Bob");
    let login =
        json!({"hotkey": bob.hotkey(), "signature": bob.sign(nonce.as_bytes()).to_hex(), "nonce": nonce});
    let answer = world
        .send(
            "POST",
            "/auth/login",
            &[("content-type", "application/json")],
            Some(&login.to_string()),
        )
        .await;
    assert_eq!(
        (answer.status, answer.body),
        (400, json!({"error": "Hotkey not allowed"}))
    );
}

/// Submits the recorded SDK job and returns its UUID.
pub(crate) async fn submit(world: &World, token: &str, validator: &mut Link) -> String {
    let vectors = http_vectors();
    let answer = world
        .replay(&exchanges(&vectors, "sdk create_job")[0]["request"], token)
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (_, request) = pushed(validator).await;
    request.uuid.as_str().to_owned()
}

pub(crate) fn error_type(response: &Value) -> &str {
    assert_eq!(response["status"], "error", "{response}");
    response["errors"][0]["type"].as_str().unwrap()
}

#[tokio::test]
async fn a_jobs_history_is_shown_as_the_reference_shows_it_and_ends_once() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let uuid = submit(&world, &token, &mut validator).await;
    let success = json!({"status": "success", "errors": []});
    for status in [
        "received",
        "accepted",
        "executor_ready",
        "volumes_ready",
        "execution_done",
    ] {
        assert_eq!(report(&mut validator, &uuid, status, Value::Null).await, success);
    }
    let again = report(&mut validator, &uuid, "received", Value::Null).await;
    let recorded = json!({"status": "error", "errors": [{"msg": "Integrity error", "type": "job.integrity_error",
        "help": "Probably you are trying to set the same status twice?"}]});
    assert_eq!(again, recorded);
    let metadata = json!({"miner_response": {"docker_process_stderr": "", "docker_process_stdout": "hi\n",
        "artifacts": {"/artifacts/stuff": "aGkK"}, "upload_results": {"a.json": "{\"headers\": {\"etag\": \"x\"}, \"body\": \"\"}"}},
        "job_rejection_details": null, "job_failure_details": null, "horde_failure_details": null, "streaming_details": null});
    assert_eq!(
        report(&mut validator, &uuid, "completed", metadata).await,
        success
    );
    // The reference stores these.
    let late = report(&mut validator, &uuid, "failed", Value::Null).await;
    assert_eq!(error_type(&late), "job.integrity_error");
    let unknown = report(&mut validator, &uuid, "levitating", Value::Null).await;
    assert_eq!(error_type(&unknown), "job.unknown_status");
    let stranger = report(
        &mut validator,
        "00000000-0000-0000-0000-000000000000",
        "received",
        Value::Null,
    )
    .await;
    assert_eq!(error_type(&stranger), "job.not_found");

    let vectors = http_vectors();
    let recorded = &exchanges(&vectors, "sdk get_job completed")[0]["response"]["json"];
    let shown = world.job(&token, &uuid).await;
    assert_eq!(timeless(&shown), timeless(recorded));
    world.restart().await;
    // Neither the job nor the login is lost.
    assert_eq!(world.job(&token, &uuid).await, shown);
}

#[tokio::test]
async fn ends_and_streams_are_shown_as_the_reference_shows_them() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let ws = ws_vectors();
    let frames = ws["connections"][0]["frames"].as_array().unwrap();
    let vectors = http_vectors();
    for label in [
        "sdk get_job streaming",
        "sdk get_job rejected",
        "sdk get_job failed",
        "sdk get_job horde_failed",
    ] {
        let recorded = &exchanges(&vectors, label)[0]["response"]["json"];
        let recorded_uuid = recorded["uuid"].as_str().unwrap();
        let submission = vectors["exchanges"]
            .as_array()
            .unwrap()
            .iter()
            .find(|exchange| {
                exchange["response"]["status"] == 201 && exchange["response"]["json"]["uuid"] == recorded_uuid
            })
            .unwrap();
        let answer = world.replay(&submission["request"], &token).await;
        assert_eq!(answer.status, 201, "{label}");
        let (_, request) = pushed(&mut validator).await;
        let uuid = request.uuid.as_str();
        for frame in frames {
            let Some(text) = frame["text"].as_str() else {
                continue;
            };
            if text.contains("V0JobStatusUpdate") && text.contains(recorded_uuid) {
                validator.send(text.replace(recorded_uuid, uuid)).await.unwrap();
                assert_eq!(heard(&mut validator).await, r#"{"status":"success","errors":[]}"#);
            }
        }
        assert_eq!(
            timeless(&world.job(&token, uuid).await),
            timeless(recorded),
            "{label}"
        );
    }
}

#[tokio::test]
async fn an_end_without_metadata_is_stored() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let uuid = submit(&world, &token, &mut validator).await;
    for status in ["streaming_ready", "completed"] {
        let answer = report(&mut validator, &uuid, status, Value::Null).await;
        assert_eq!(answer["status"], "success", "{status}");
    }
    let job = world.job(&token, &uuid).await;
    assert_eq!(
        (&job["status"], &job["stdout"], &job["streaming_server_port"]),
        (&json!("Completed"), &json!(""), &json!(0))
    );
    assert_eq!(job["status_history"][2]["metadata"], json!({}));
}

#[tokio::test]
async fn jobs_are_listed_in_pages_newest_first() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let mut uuids = Vec::new();
    for _ in 0..3 {
        uuids.push(submit(&world, &token, &mut validator).await);
    }
    let list = |query: &str| {
        let path = format!("/api/v1/jobs/{query}");
        let (world, token) = (&world, &token);
        async move { world.send("GET", &path, &[("authorization", token)], None).await }
    };
    let ids = |answer: &Answer| -> Vec<String> {
        let results = answer.body["results"].as_array().unwrap().iter();
        results
            .map(|job| job["uuid"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = list("?page=1&page_size=2").await;
    assert_eq!(ids(&first), [uuids[2].clone(), uuids[1].clone()]);
    let next = format!("http://{}/api/v1/jobs/?page=2&page_size=2", world.address);
    assert_eq!(
        (&first.body["count"], &first.body["next"], &first.body["previous"]),
        (&json!(3), &json!(next), &Value::Null)
    );
    let second = list("?page=2&page_size=2").await;
    assert_eq!(ids(&second), [uuids[0].clone()]);
    let previous = format!("http://{}/api/v1/jobs/?page_size=2", world.address);
    assert_eq!(
        (&second.body["next"], &second.body["previous"]),
        (&Value::Null, &json!(previous))
    );
    assert_eq!(ids(&list("?page_size=1000").await).len(), 3);
    for page in ["?page=999", "?page=0", "?page=x"] {
        let answer = list(page).await;
        assert_eq!(
            (answer.status, answer.body),
            (404, json!({"detail": "Invalid page."})),
            "{page}"
        );
    }
    let filtered = list(&format!("?uuid={}&uuid={}", uuids[0], uuids[2])).await;
    assert_eq!(filtered.body["count"], 2);
    assert_eq!(list("?tag=mytag").await.body["count"], 0);
    assert_eq!(list("?uuid=x").await.status, 400);
}

#[tokio::test]
async fn what_is_not_there_is_told_as_the_reference_tells_it() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let vectors = http_vectors();
    for label in ["sdk get_job not found", "sdk get_job bad uuid"] {
        for exchange in exchanges(&vectors, label) {
            let answer = world.replay(&exchange["request"], &token).await;
            assert_eq!(answer.status, 404, "{label}");
            assert_eq!(answer.body, exchange["response"]["json"], "{label}");
        }
    }
    for exchange in exchanges(&vectors, "sdk report_cheated_job") {
        // The jobs of the recording are not here.
        let answer = world.replay(&exchange["request"], &token).await;
        assert_eq!(
            (answer.status, answer.body),
            (404, json!({"error": "Job not found"}))
        );
    }
    let bad = world
        .replay(&exchanges(&vectors, "cheated-job bad uuid")[0]["request"], &token)
        .await;
    assert_eq!(
        (bad.status, bad.body),
        (400, json!({"job_uuid": ["Must be a valid UUID."]}))
    );
    assert_eq!(
        world.send("GET", "/nowhere", &[], None).await.body,
        json!({"detail": "Not found."})
    );
    let health = world.send("GET", "/health", &[], None).await;
    assert_eq!((health.status, health.body), (200, json!({"status": "ok"})));
}

#[tokio::test]
async fn other_users_do_not_see_a_job() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let uuid = submit(&world, &token, &mut validator).await;
    world.config.allow_any_user = true;
    world.restart().await;
    let other = world.login("//Eve").await;
    let path = format!("/api/v1/jobs/{uuid}/");
    let answer = world.send("GET", &path, &[("authorization", &other)], None).await;
    assert_eq!(
        (answer.status, answer.body),
        (404, json!({"detail": "No Job matches the given query."}))
    );
    // Without the slash it is the same door, in capitals the same job.
    let path = format!("/api/v1/jobs/{}", uuid.to_uppercase());
    let answer = world.send("GET", &path, &[("authorization", &token)], None).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_limit() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let headers = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
    ];
    let large = "x".repeat(2_621_441);
    let answer = world
        .send("POST", "/api/v1/job-docker/", &headers, Some(&large))
        .await;
    assert_eq!(answer.status, 413);
    assert!(answer.body["detail"].as_str().unwrap().contains("2621440"));
    // Larger than what a validator reads in one frame, and signed.
    let mut validator = world.validator().await;
    let charlie = key("//Charlie");
    let body = json!({"target_validator_hotkey": key("//Alice").hotkey(), "executor_class": "always_on.test",
        "docker_image": "busybox", "args": [], "env": {"LARGE": "x".repeat(1_048_576)}, "use_gpu": false, "download_time_limit": 1,
        "execution_time_limit": 1, "streaming_start_time_limit": 1, "upload_time_limit": 1});
    let payload =
        horde::core::proto::sdk_facilitator::signed_fields_payload(body.as_object().unwrap(), "None");
    let signature = signed::sign_request(&charlie, 7, &payload).to_base64();
    let mut headers = headers.to_vec();
    headers.extend([
        ("x-ch-signature-type", "bittensor"),
        ("x-ch-signatory", charlie.hotkey().as_str()),
        ("x-ch-timestamp-ns", "7"),
        ("x-ch-signature", signature.as_str()),
    ]);
    let answer = world
        .send("POST", "/api/v1/job-docker/", &headers, Some(&body.to_string()))
        .await;
    assert_eq!(answer.status, 413, "{answer:?}");
    // The validator was not troubled.
    submit(&world, &token, &mut validator).await;
}

#[tokio::test]
async fn validators_authenticate_as_with_the_reference() {
    let world = World::start().await;
    let vectors = ws_vectors();
    let frames = |name: &str| {
        let connections = vectors["connections"].as_array().unwrap().iter();
        let mut found = connections.filter(|connection| connection["connection"] == name);
        found.next().unwrap()["frames"].as_array().unwrap().clone()
    };
    // Refusals with their close codes, word for word. //Bob is nobody here either.
    for (name, code) in [("unknown validator hotkey", 3001), ("bad signature", 3000)] {
        let frames = frames(name);
        let mut link = world.link().await;
        link.send(frames[0]["text"].as_str().unwrap()).await.unwrap();
        assert_eq!(heard(&mut link).await, frames[1]["text"].as_str().unwrap());
        assert_eq!(closed(&mut link).await, code, "{name}");
    }
    // The reference crashes on these.
    for name in ["undecodable signature", "undecodable public key"] {
        let mut link = world.link().await;
        link.send(frames(name)[0]["text"].as_str().unwrap())
            .await
            .unwrap();
        assert_eq!(
            error_type(&golden(&heard(&mut link).await)),
            "auth.signature_invalid"
        );
        assert_eq!(closed(&mut link).await, 3000, "{name}");
    }
    // A registered key without a permit is no validator.
    let mut link = world.link().await;
    link.send(authentication("//Dave")).await.unwrap();
    assert_eq!(
        error_type(&golden(&heard(&mut link).await)),
        "auth.validator_not_found"
    );
    assert_eq!(closed(&mut link).await, 3001);

    // What keeps the link open: the first connection of the recording up to the first job.
    let mut link = world.link().await;
    let mut expected = Vec::new();
    for frame in &frames("unauthenticated, then malformed, then success") {
        let Some(text) = frame["text"].as_str() else {
            continue;
        };
        if text.contains("V2JobRequest") {
            break;
        }
        if frame["dir"] == "validator->facilitator" {
            link.send(text).await.unwrap();
        } else {
            expected.push(golden(text));
        }
    }
    for expected in expected {
        let answer = golden(&heard(&mut link).await);
        if expected["errors"][0].get("url").is_some() {
            // The parser's own words are its own.
            assert_eq!(error_type(&answer), error_type(&expected));
            assert_eq!(
                answer["errors"][0]["loc"], expected["errors"][0]["loc"],
                "{answer}"
            );
        } else {
            assert_eq!(answer, expected);
        }
    }
}

#[tokio::test]
async fn the_newest_link_of_a_validator_gets_the_jobs() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let validators = || async {
        let answer = world
            .send("GET", "/api/v1/validators/", &[("authorization", &token)], None)
            .await;
        assert_eq!(answer.status, 200);
        answer.body
    };
    assert_eq!(validators().await, json!({"validators": []}));
    let mut older = world.validator().await;
    let mut newer = world.validator().await;
    assert_eq!(closed(&mut older).await, 1000);
    let alice = Hotkey::new(key("//Alice").hotkey().as_str());
    assert_eq!(validators().await, json!({"validators": [{"hotkey": alice}]}));
    submit(&world, &token, &mut newer).await;
    newer.close(1000, "").await;
    assert_eq!(closed(&mut newer).await, 1000);
    // The job of a validator that has gone waits until it is back.
    let vectors = http_vectors();
    let answer = world
        .replay(&exchanges(&vectors, "sdk create_job")[0]["request"], &token)
        .await;
    assert_eq!(answer.status, 201);
    let mut back = world.validator().await;
    let (_, request) = pushed(&mut back).await;
    assert_eq!(answer.body["uuid"], request.uuid.as_str());
}

#[tokio::test]
async fn a_status_of_another_validators_job_is_refused() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut alice = world.validator().await;
    let uuid = submit(&world, &token, &mut alice).await;
    let mut ferdie = world.link().await;
    ferdie.send(authentication("//Ferdie")).await.unwrap();
    heard(&mut ferdie).await;
    let answer = report(&mut ferdie, &uuid, "completed", Value::Null).await;
    assert_eq!(error_type(&answer), "job.not_found");
    assert_eq!(world.job(&token, &uuid).await["status"], "Sent");
}
