//! The real facilitator as a process of its own, on a chain where //Alice validates; and what is asked of it.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use horde::core::chain::local::{LocalChain, Registration};
use horde::core::client::Client;
use horde::core::clock::Clock;
use horde::core::model::{ExecutorClass, Hotkey, JobId};
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::net::{Event, Link};
use horde::core::proto::sdk_facilitator::{JobView, Submit};
use horde::core::tasks::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::facilitator::{authentication, key};
use crate::support::Home;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between looks and attempts.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// How to reach a facilitator that may not be there.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    port: u16,
    tasks: Tasks,
}

/// A facilitator process with a chain and a directory of its own.
pub(crate) struct Gateway {
    home: Home,
    pub(crate) door: Door,
    pub(crate) process: Option<Child>,
    /// Variables for the next start of the process and for commands beside it.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Makes one that does not run yet.
    pub(crate) async fn make(variables: &[(&'static str, &str)]) -> Self {
        let home = Home::new();
        let path = home.path().join("chain.sqlite");
        let chain = LocalChain::open(&path, 12, Duration::from_secs(12), Clock::system())
            .await
            .unwrap();
        let hotkey = key("//Alice").hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao: 1,
            validator_permit: true,
        };
        chain.register(registration).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            home,
            door: Door {
                port: listener.local_addr().unwrap().port(),
                tasks: Tasks::new(),
            },
            process: None,
            variables: variables.collect(),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.home.path().join("facilitator/facilitator.sqlite")
    }

    pub(crate) fn command(&self, words: &[&str]) -> std::process::Command {
        let directory = self.home.path().join("facilitator");
        let mut command = self
            .home
            .horde(["--dir", directory.to_str().unwrap(), "facilitator"]);
        command
            .args(words)
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .env("HORDE_LOG_LEVEL", "error")
            .envs(self.variables.iter().cloned());
        command
    }

    /// Returns `horde job …` as a user of this facilitator, ready to run.
    pub(crate) fn job(&self, user: &str, words: &[&str]) -> std::process::Command {
        let mut command = self
            .home
            .horde(["job", words[0], "--facilitator", &self.door.url()]);
        command.args(["--key-uri", user]).args(&words[1..]);
        command
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let listen = format!("127.0.0.1:{}", self.door.port);
        let mut command = self.command(&["run", "--listen", &listen]);
        self.process = Some(command.stdout(Stdio::null()).spawn().unwrap());
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        self.until_it_serves().await;
    }

    pub(crate) async fn until_it_serves(&self) {
        let client = reqwest::Client::new();
        let health = format!("{}/health", self.door.url());
        let serves = async || {
            client
                .get(&health)
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
        };
        timeout(PATIENCE, async {
            while !serves().await {
                sleep(PAUSE).await;
            }
        })
        .await
        .unwrap();
    }

    /// Ends the process with a signal and waits for it.
    pub(crate) async fn signal(&mut self, signal: Signal) {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process), signal).unwrap();
        tokio::task::spawn_blocking(move || process.wait())
            .await
            .unwrap()
            .unwrap();
    }

    /// Runs a command beside the facilitator; returns its exit code, its data and its words.
    pub(crate) async fn told(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.command(words);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().trim().to_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Runs a command that must succeed, and returns its JSON.
    pub(crate) async fn asked(&self, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        let (code, data, words_of_it) = self.told(&words).await;
        assert_eq!(code, Some(0), "{words:?}: {words_of_it}");
        serde_json::from_str(&data).unwrap()
    }
}

impl Door {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self, user: &str) -> Client {
        Client::new(&self.url(), key(user), Clock::system()).unwrap()
    }

    /// Returns a token of a user, or how the login was refused.
    pub(crate) async fn token(&self, user: &str) -> Result<String, (u16, Value)> {
        let http = reqwest::Client::new();
        let nonce = http
            .get(format!("{}/auth/nonce", self.url()))
            .send()
            .await
            .unwrap();
        let nonce: Value = serde_json::from_slice(&nonce.bytes().await.unwrap()).unwrap();
        let nonce = nonce["nonce"].as_str().unwrap();
        let keypair = key(user);
        let login = json!({"hotkey": keypair.hotkey(), "signature": keypair.sign(nonce.as_bytes()).to_hex(), "nonce": nonce});
        let (status, body) = self.post("/auth/login", &[], login.to_string()).await;
        match status {
            200 => Ok(format!("Bearer {}", body["token"].as_str().unwrap())),
            _ => Err((status, body)),
        }
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        let request = reqwest::Client::new()
            .get(format!("{}{path}", self.url()))
            .header("authorization", token);
        answer(request).await
    }

    async fn post(&self, path: &str, headers: &[(&str, String)], body: String) -> (u16, Value) {
        let mut request = reqwest::Client::new()
            .post(format!("{}{path}", self.url()))
            .header("content-type", "application/json")
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        answer(request).await
    }

    /// Submits a job once, and returns the answer.
    pub(crate) async fn submit(&self, user: &str, token: &str, job: &Submit) -> (u16, Value) {
        let now = u64::try_from(Clock::system().unix_nanos()).unwrap();
        let signature = job.sign(&key(user), now).unwrap();
        let mut headers = signature.headers().to_vec();
        headers.push(("authorization", token.to_owned()));
        self.post(
            "/api/v1/job-docker/",
            &headers,
            serde_json::to_string(job).unwrap(),
        )
        .await
    }

    /// Connects as //Alice, a validator of the reference; none if there is nobody to connect to.
    pub(crate) async fn try_validator(&self) -> Option<Link> {
        self.try_validator_with(&[]).await
    }

    /// Connects as //Alice, who understands these extensions; none if there is nobody to connect to.
    pub(crate) async fn try_validator_with(&self, extensions: &[&str]) -> Option<Link> {
        let url = format!("ws://127.0.0.1:{}/ws/v0/", self.port);
        let options = ConnectOptions {
            extensions: Extensions::of(extensions),
            ..ConnectOptions::default()
        };
        let mut link = connect(&url, &options, &self.tasks).await.ok()?;
        link.send(authentication("//Alice")).await.ok()?;
        match timeout(PATIENCE, link.recv()).await.unwrap() {
            Event::Text(text) if text.contains("success") => Some(link),
            Event::Text(text) => panic!("{text}"),
            Event::Binary(_) | Event::Closed { .. } => None,
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.door.tasks.abort();
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap(),
    )
}

/// A job of the test class for //Alice with these limits for download, execution and upload.
pub(crate) fn job(limits: [i64; 3]) -> Submit {
    let [download_time_limit, execution_time_limit, upload_time_limit] = limits;
    Submit {
        target_validator_hotkey: key("//Alice").hotkey().clone(),
        executor_class: ExecutorClass::AlwaysOnTest,
        docker_image: "busybox".to_owned(),
        job_namespace: None,
        tag: None,
        args: vec!["true".to_owned()],
        env: indexmap::IndexMap::new(),
        use_gpu: true,
        artifacts_dir: None,
        on_trusted_miner: false,
        download_time_limit,
        execution_time_limit,
        streaming_start_time_limit: 5,
        upload_time_limit,
        streaming_details: None,
        volumes: Vec::new(),
        uploads: Vec::new(),
    }
}

/// Returns a user's address.
pub(crate) fn address(user: &str) -> String {
    let hotkey: Hotkey = key(user).hotkey().clone();
    hotkey.as_str().to_owned()
}

/// Returns what ends the job, if it has ended; once at most.
pub(crate) fn ends(job: &JobView) -> Vec<&'static str> {
    let all = job.status_history.iter().filter(|step| step.status.is_terminal());
    all.map(|step| step.status.as_str()).collect()
}

/// Returns the identity of a job in an answer.
pub(crate) fn uuid(body: &Value) -> JobId {
    JobId::new(body["uuid"].as_str().unwrap())
}
