//! The dynamic configuration of a running miner, from a folder that the test serves: what it takes over, what it keeps
//! when the folder is gone, and what it never asks for.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use horde::core::net::http;
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::support::Home;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Requests = Arc<Mutex<Vec<(String, String)>>>;

/// A folder of documents over HTTP.
#[derive(Clone, Default)]
pub(crate) struct Folder {
    documents: Arc<Mutex<BTreeMap<String, String>>>,
    requests: Requests,
}

impl Folder {
    pub(crate) fn put(&self, name: &str, document: &(impl ToString + ?Sized)) {
        self.documents
            .lock()
            .unwrap()
            .insert(name.to_owned(), document.to_string());
    }

    pub(crate) async fn serve(&self, tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/config/", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/config/{name}", get(answer))
            .with_state(self.clone());
        let family = tasks.clone();
        tasks.spawn(
            "folder",
            async move { http::serve(listener, router, &family).await },
        );
        url
    }
}

async fn answer(
    State(folder): State<Folder>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let agent = headers["user-agent"].to_str().unwrap().to_owned();
    folder.requests.lock().unwrap().push((name.clone(), agent));
    folder
        .documents
        .lock()
        .unwrap()
        .get(&name)
        .cloned()
        .ok_or(StatusCode::NOT_FOUND)
}

pub(crate) fn entry(value: impl Into<Value>) -> Value {
    json!({ "description": "d", "items": [{ "value": value.into() }] })
}

pub(crate) struct Miner {
    pub(crate) home: Home,
    settings: Vec<(&'static str, String)>,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Miner {
    pub(crate) fn new(settings: Vec<(&'static str, String)>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            home: Home::new(),
            settings,
            port: listener.local_addr().unwrap().port(),
            process: None,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let directory = self.home.path().join("miner");
        let mut command = self.home.horde(["--dir", directory.to_str().unwrap(), "miner"]);
        command
            .args(arguments)
            .env("HORDE_CHAIN_PATH", self.home.path().join("chain.sqlite"))
            .env("HORDE_WALLET_URI", "//Bob")
            .env("HORDE_MINER_METRICS_LISTEN", "off")
            .env("HORDE_MINER_DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("HORDE_MINER_LISTEN", format!("127.0.0.1:{}", self.port))
            .envs(self.settings.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    pub(crate) fn launch(&mut self) {
        self.stop();
        self.process = Some(self.command(&["run"]).stdout(Stdio::null()).spawn().unwrap());
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Returns what `horde miner dynamic --json` says once it `is_so`.
    async fn dynamic(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let output = self.command(&["dynamic", "--json"]).output().unwrap();
                if output.status.success() {
                    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
                    if is_so(&said) {
                        return said;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap()
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the row of a key.
fn value<'a>(said: &'a Value, key: &str) -> &'a Value {
    let rows = said["values"].as_array().unwrap();
    rows.iter().find(|row| row["key"] == key).unwrap()
}

const TRANSFER: &str = "DYNAMIC_RECEIPT_TRANSFER_ENABLED";
const STARTUP: &str = "DYNAMIC_EXECUTOR_STARTUP_TIME_LIMIT";
const WEIGHTS: &str = "DYNAMIC_EXECUTOR_CLASS_WEIGHTS";

#[tokio::test]
async fn later_documents_win_and_the_last_good_value_outlives_folder_and_miner() {
    let tasks = Tasks::new();
    let folder = Folder::default();
    folder.put(
        "miner-config-testing.json",
        &json!({ TRANSFER: entry(false), STARTUP: entry("soon") }),
    );
    folder.put(
        "common-config-testing.json",
        &json!({ TRANSFER: entry(true), "DYNAMIC_OTHER": 7 }),
    );
    let url = folder.serve(&tasks).await;
    let settings = vec![
        ("HORDE_MINER_DYNAMIC_CONFIG_URL", url.clone()),
        ("HORDE_MINER_DYNAMIC_CONFIG_ENV", "testing".to_owned()),
    ];
    let mut miner = Miner::new(settings);
    miner.launch();
    let said = miner
        .dynamic(|said| said["documents"].as_array().unwrap().len() == 2)
        .await;
    assert_eq!(said["url"], url);
    let transfer = value(&said, TRANSFER);
    assert_eq!(
        (&transfer["value"], &transfer["document"]),
        (&json!(true), &json!("common-config-testing.json"))
    );
    assert_eq!(
        value(&said, STARTUP)["problem"],
        "not used: expected whole seconds from 1 to 3600"
    );
    assert!(value(&said, WEIGHTS)["value"].is_null());
    let mut requests = folder.requests.lock().unwrap().clone();
    requests.dedup();
    let agent = || "backend-developers-ltd".to_owned();
    assert_eq!(
        requests,
        [
            ("miner-config-testing.json".to_owned(), agent()),
            ("common-config-testing.json".to_owned(), agent())
        ]
    );

    // The later document breaks behind its first entry, the earlier one is gone: both are told, nothing is lost, and
    // the document of lower rank does not win because the other cannot be read.
    folder.documents.lock().unwrap().clear();
    folder.put(
        "miner-config-testing.json",
        &json!({ TRANSFER: entry(false), STARTUP: entry(10) }),
    );
    folder.put(
        "common-config-testing.json",
        &json!({ WEIGHTS: entry("always_on.test=1"), STARTUP: 5, TRANSFER: entry(false) }),
    );
    miner.launch();
    let said = miner
        .dynamic(|said| !said["documents"][0]["error"].is_null())
        .await;
    let error = said["documents"][0]["error"].as_str().unwrap();
    assert!(error.contains(STARTUP), "{error}");
    assert_eq!(value(&said, TRANSFER)["value"], true);
    assert_eq!(value(&said, STARTUP)["value"], 10);
    assert_eq!(value(&said, WEIGHTS)["value"], "always_on.test=1");

    // Nobody answers: what is known is kept, and the reason is there.
    tasks.shut_down(Duration::from_secs(1)).await;
    miner.launch();
    let is_gone = |said: &Value| {
        let errors = said["documents"].as_array().unwrap().iter();
        let errors: Vec<_> = errors.filter_map(|document| document["error"].as_str()).collect();
        errors.len() == 2 && errors.iter().all(|error| error.contains("cannot be reached"))
    };
    let said = miner.dynamic(is_gone).await;
    assert_eq!(value(&said, TRANSFER)["value"], true);
}

#[tokio::test]
async fn a_miner_with_a_least_multiplier_reads_the_weights_of_classes_where_validators_do() {
    let tasks = Tasks::new();
    let folder = Folder::default();
    folder.put(
        "validator-config-prod.json",
        &json!({ WEIGHTS: entry("always_on.test=3"), TRANSFER: entry(true) }),
    );
    let url = folder.serve(&tasks).await;
    let settings = vec![
        ("HORDE_MINER_DYNAMIC_CONFIG_URL", url),
        ("HORDE_MINER_MULTIPLIER_MIN", "always_on.test=0.5".to_owned()),
    ];
    let mut miner = Miner::new(settings);
    miner.launch();
    let said = miner
        .dynamic(|said| said["documents"].as_array().unwrap().len() == 3)
        .await;
    assert_eq!(value(&said, WEIGHTS)["value"], "always_on.test=3");
    // Nothing else is taken from a document for others.
    assert!(value(&said, TRANSFER)["value"].is_null());
    let errors = said["documents"].as_array().unwrap().iter();
    let missing = errors.filter(|document| document["error"] == "the server answers with status 404");
    assert_eq!(missing.count(), 2);
}

/// An engine that holds the images that were pulled, and tells what it was asked.
#[derive(Clone, Default)]
struct PlayedEngine {
    asked: Arc<Mutex<Vec<String>>>,
}

impl PlayedEngine {
    fn serve(&self, home: &Home) -> String {
        let path = home.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = Router::new().fallback(engine_answer).with_state(self.clone());
        drop(tokio::task::spawn_local(async move {
            axum::serve(listener, router).await
        }));
        format!("unix://{}", path.display())
    }
}

async fn engine_answer(
    State(engine): State<PlayedEngine>,
    method: axum::http::Method,
    uri: axum::http::Uri,
) -> (StatusCode, String) {
    engine.asked.lock().unwrap().push(format!("{method} {uri}"));
    match method.as_str() {
        "POST" => (StatusCode::OK, String::new()),
        _ if uri.path().ends_with("/version") => {
            let version = json!({ "ApiVersion": "1.41", "Version": "20.10.24", "MinAPIVersion": "1.12" });
            (StatusCode::OK, version.to_string())
        }
        _ if uri.path().ends_with("/containers/json") => (StatusCode::OK, "[]".to_owned()),
        _ => (StatusCode::NOT_FOUND, r#"{"message":"no such image"}"#.to_owned()),
    }
}

#[tokio::test]
async fn images_of_the_dynamic_configuration_are_pulled_before_a_job_asks_for_them() {
    let local = tokio::task::LocalSet::new();
    let play = async {
        let tasks = Tasks::new();
        let folder = Folder::default();
        let images = json!(["example/one:v1", "Not An Image", "example/two"]);
        folder.put(
            "miner-config-prod.json",
            &json!({ "DYNAMIC_PRELOAD_DOCKER_JOB_IMAGES": entry(images) }),
        );
        folder.put("common-config-prod.json", "{}");
        let url = folder.serve(&tasks).await;
        let engine = PlayedEngine::default();
        let mut miner = Miner::new(vec![("HORDE_MINER_DYNAMIC_CONFIG_URL", url)]);
        miner
            .settings
            .push(("HORDE_MINER_DOCKER_HOST", engine.serve(&miner.home)));
        miner.launch();
        let pulls = || -> Vec<String> {
            let asked = engine.asked.lock().unwrap();
            asked
                .iter()
                .filter(|line| line.starts_with("POST "))
                .cloned()
                .collect()
        };
        let come = timeout(PATIENCE, async {
            while pulls().len() < 2 {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(come.await.is_ok(), "{:?}", engine.asked.lock().unwrap());
        let pulls = pulls();
        assert!(
            pulls[0].contains("/images/create?") && pulls[0].contains("one"),
            "{pulls:?}"
        );
        assert!(
            pulls[1].contains("/images/create?") && pulls[1].contains("two"),
            "{pulls:?}"
        );
    };
    local.run_until(play).await;
}

#[tokio::test]
async fn a_huge_document_is_refused() {
    let tasks = Tasks::new();
    let folder = Folder::default();
    folder.put("miner-config-prod.json", &" ".repeat(2 * 1024 * 1024));
    folder.put("common-config-prod.json", "{}");
    let url = folder.serve(&tasks).await;
    let mut miner = Miner::new(vec![("HORDE_MINER_DYNAMIC_CONFIG_URL", url)]);
    miner.launch();
    let said = miner
        .dynamic(|said| said["documents"].as_array().unwrap().len() == 2)
        .await;
    assert_eq!(
        said["documents"][1]["error"],
        "the answer has more than 1048576 bytes"
    );
}

#[tokio::test]
async fn a_miner_of_a_local_chain_asks_nobody() {
    let mut miner = Miner::new(Vec::new());
    miner.launch();
    let said = miner.dynamic(|_| true).await;
    assert_eq!((&said["url"], &said["documents"]), (&json!("off"), &json!([])));
    let shown = miner.home.run(["config", "show", "miner", "--json"]);
    assert!(
        shown.contains(r#""miner.dynamic_config_url":{"value":"off","origin":"derived""#),
        "{shown}"
    );
    assert!(
        shown.contains(r#""miner.address_services":{"value":[],"origin":"derived""#),
        "{shown}"
    );
}
