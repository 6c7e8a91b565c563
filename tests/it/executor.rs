//! The real executor with a real engine, under a miner played by the test: recorded sessions, and worse.
//!
//! Every recording in `tests/golden/traces/executor-*.jsonl` is played again: what the miner sent then is sent now,
//! and what the executor answers must be what the reference answered. Where we answer otherwise on purpose:
//!
//! | recording | the reference | here | why |
//! |---|---|---|---|
//! | bad-inline-volume | `V0HordeFailedRequest`, `unhandled_exception`, `BadZipFile` | `V0JobFailedRequest`, `download_failed`, with the reason | a bad volume is the job's fault |
//! | single-file-volume-404 | `V0HordeFailedRequest`, `unhandled_exception`, `HTTPStatusError` | `V0JobFailedRequest`, `download_failed`, with the reason | likewise |
//! | every horde failure | context without the engine's words | `detail`, or `stderr` of a failed pull, holds them | a person must be able to act on it |
//! | upload-failure | context is null | context `error` says why | likewise |
//! | unknown-message, generic-error | the library's and the class's own words | our words behind the same beginning | the words name Python's classes |
//! | multi-upload | zips hold folders | zips hold regular files only | as the newer wheel does (vectors/uploads_http_published.json) |
//! | volume-env-artifacts | `NoNewPrivs: 0`, fourteen capabilities | `NoNewPrivs: 1`, seven | hardening that images do not notice |
//! | exit-3, and every container that fails | context is null | context names a bound that was met, or a right that may be missing | a person must be able to act on it |
//! | happy-registry-pull | the image is pulled though it is there | an image that was made here is used as it is | no registry has it |
//! | exec-timeout, exec-timeout-overall | context is null | context says by which signal the container ended, and with what | a person must be able to act on it |
//! | exec-timeout, exec-timeout-overall, legacy-single-timeout | the whole sum of limits is the container's | up to 3 s of the leeway (a tenth of a single limit) are kept | the report goes out after the container is gone, and the validator waits no longer than the sum |

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that waits in vain says for what; one that is skipped says so"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use horde::core::docker::engine::Bollard;
use horde::core::docker::reference::ImageReference;
use horde::core::docker::{Engine, Label, sweep};
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{Limits, Upgrade, accept};
use horde::core::net::{Event, Link, http};
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::check::weak_engine;
use crate::support::{Home, accepted_risks};

/// The image that the recordings call `bb:1`.
pub(crate) const IMAGE: &str = "horde-test-executor:1";

/// The name under which one recording has it; nothing is ever fetched from there.
const REGISTRY_IMAGE: &str = "127.0.0.1:5555/horde-test-executor:1";

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// How many recordings are played side by side.
const SIDE_BY_SIDE: usize = 3;

/// Returns the engine; none, said loudly, where there is none and none is demanded.
pub(crate) async fn engine() -> Option<Arc<dyn Engine>> {
    let engine: Arc<dyn Engine> = Arc::new(Bollard::new("unix:///var/run/docker.sock").unwrap());
    match engine.version().await {
        Ok(_) => {
            for name in [IMAGE, REGISTRY_IMAGE] {
                make_image(&*engine, &ImageReference::parse(name).unwrap()).await;
            }
            Some(engine)
        }
        Err(error) => {
            let is_demanded = ["CI", "HORDE_TEST_DOCKER"]
                .iter()
                .any(|name| std::env::vars().any(|(key, _)| key == *name));
            assert!(!is_demanded, "this test needs Docker: {error}");
            eprintln!("SKIPPED, since there is no Docker: {error}");
            None
        }
    }
}

/// Makes the test's image out of a static busybox.
async fn make_image(engine: &dyn Engine, image: &ImageReference) {
    // One test at a time, also across processes.
    let lock = fs::File::create(std::env::temp_dir().join("horde-test-image.lock")).unwrap();
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .unwrap()
        .unwrap();
    if engine.find_image(image).await.unwrap().is_some() {
        return;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| fs::read(path).ok());
    let busybox = busybox.expect("busybox-static is installed");
    let mut root = tar::Builder::new(tempfile::tempfile().unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    root.append_data(&mut header, "bin/busybox", &busybox[..])
        .unwrap();
    for name in
        "sh echo cat ls id pwd env sort mkdir head yes printf sleep find ip grep mount true ln".split(' ')
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        root.append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    let mut file = root.into_inner().unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    engine
        .import(
            tokio::fs::File::from_std(file),
            image,
            vec!["CMD [\"sh\"]".to_owned()],
        )
        .await
        .unwrap();
    drop(lock);
}

/// An upload as the server got it.
#[derive(Debug, Clone)]
struct Received {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone)]
struct Server {
    tasks: Tasks,
    extensions: Extensions,
    links: mpsc::Sender<Link>,
    received: Arc<Mutex<Vec<Received>>>,
}

/// A miner, and the web server beside it.
pub(crate) struct Miner {
    pub(crate) address: String,
    pub(crate) links: mpsc::Receiver<Link>,
    received: Arc<Mutex<Vec<Received>>>,
    tasks: Tasks,
}

impl Miner {
    /// Starts one of the reference, which agrees to nothing beyond the wire.
    pub(crate) async fn start() -> Self {
        Self::serve("127.0.0.1", &[]).await
    }

    /// Starts where executors elsewhere than on this host's loopback find it.
    pub(crate) async fn start_on(ip: &str) -> Self {
        Self::serve(ip, &[]).await
    }

    /// Starts a miner that agrees to these extensions.
    pub(crate) async fn knowing(extensions: &[&str]) -> Self {
        Self::serve("127.0.0.1", extensions).await
    }

    async fn serve(ip: &str, extensions: &[&str]) -> Self {
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, links) = mpsc::channel(4);
        let (tasks, received) = (Tasks::new(), Arc::default());
        let server = Server {
            tasks: tasks.clone(),
            extensions: Extensions::of(extensions),
            links: sender,
            received: Arc::clone(&received),
        };
        let router = Router::new()
            .route("/v0.1/executor_interface/{token}", axum::routing::any(upgrade))
            .fallback(web)
            .layer(DefaultBodyLimit::disable())
            .with_state(server);
        let family = tasks.clone();
        tasks.spawn(
            "server",
            async move { http::serve(listener, router, &family).await },
        );
        Self {
            address,
            links,
            received,
            tasks,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn upgrade(State(server): State<Server>, upgrade: Upgrade) -> Response {
    let links = server.links.clone();
    let upgrade = upgrade.agreeing(&server.extensions);
    accept(upgrade, Limits::default(), &server.tasks, |link| async move {
        drop(links.send(link).await);
    })
}

async fn web(
    State(server): State<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let body = axum::body::to_bytes(request.into_body(), usize::MAX)
        .await
        .unwrap();
    let path = uri.path().to_owned();
    match (path.as_str(), &method) {
        ("/file", _) => return "content".into_response(),
        ("/zip", _) => return zip_of(&[("d/x", b"zipped")]).into_response(),
        ("/moved", _) => return (StatusCode::FOUND, [("location", "/file")]).into_response(),
        (_, &Method::GET) => return StatusCode::NOT_FOUND.into_response(),
        _ => {}
    }
    let is_refused = path == "/fail";
    server.received.lock().unwrap().push(Received {
        method,
        path,
        headers,
        body,
    });
    if is_refused {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    ([("ETag", "\"abc\"")], "stored").into_response()
}

pub(crate) fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        std::io::Write::write_all(&mut writer, content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// How the executor is started.
const ARGUMENTS: [&str; 4] = ["executor", "run", "--startup-time-limit", "60"];

/// A running executor and its link.
pub(crate) struct Session {
    pub(crate) home: Home,
    pub(crate) token: String,
    pub(crate) child: Child,
    link: Link,
}

impl Session {
    /// Starts the real binary and waits until it is connected.
    pub(crate) async fn start(miner: &mut Miner, extra: &[(&str, &str)]) -> Self {
        let home = Home::new();
        let command = home.horde(ARGUMENTS);
        Self::start_in(home, command, miner, extra).await
    }

    /// Starts it as another user and group.
    pub(crate) async fn start_as(miner: &mut Miner, uid: u32, gid: u32) -> Self {
        let home = Home::new();
        let mut command = home.own_horde(ARGUMENTS);
        chown(home.path(), Some(uid), Some(gid)).unwrap();
        command.uid(uid).gid(gid);
        Self::start_in(home, command, miner, &[]).await
    }

    async fn start_in(
        home: Home,
        mut command: std::process::Command,
        miner: &mut Miner,
        extra: &[(&str, &str)],
    ) -> Self {
        let owner = fs::metadata(home.path()).unwrap();
        fs::create_dir(home.path().join("work")).unwrap();
        chown(home.path().join("work"), Some(owner.uid()), Some(owner.gid())).unwrap();
        let token = format!("horde-test-{}", uuid::Uuid::new_v4());
        command
            .env("MINER_ADDRESS", format!("ws://{}", miner.address))
            .env("EXECUTOR_TOKEN", &token)
            .env("HORDE_EXECUTOR_OWNER", "horde-test")
            .env("HORDE_EXECUTOR_WORK_DIR", home.path().join("work"))
            .env("HORDE_LOG_LEVEL", "error")
            .env("HORDE_EXECUTOR_ALLOW_ADDRESSES", "127.0.0.0/8")
            .envs([accepted_risks()])
            .env("HORDE_EXECUTOR_HUB_URL", miner.url("/hub"))
            .env("DEBUG_NO_GPU_MODE", "1");
        command.envs(extra.iter().copied());
        let child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let link = timeout(PATIENCE, miner.links.recv()).await.unwrap().unwrap();
        Self {
            home,
            token,
            child,
            link,
        }
    }

    pub(crate) async fn send(&self, message: &Value) {
        // The executor may have ended already, as in the recording without timing.
        drop(self.link.send(message.to_string()).await);
    }

    /// Returns the next message; none when the executor said goodbye.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        self.next_within(PATIENCE).await
    }

    /// Returns the next message of an executor that may take its time.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> Option<Value> {
        match timeout(patience, self.link.recv())
            .await
            .expect("the executor answers in time")
        {
            Event::Text(text) => Some(serde_json::from_str(&text).unwrap()),
            Event::Binary(_) => panic!("a binary message"),
            Event::Closed { code, .. } => {
                assert_eq!(code, 1000);
                None
            }
        }
    }

    /// Returns everything that is still said.
    pub(crate) async fn rest(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        messages
    }

    /// Waits for the end of the process; asserts that it left nothing behind.
    pub(crate) async fn end(mut self, engine: &dyn Engine) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the executor exits in time")
            .unwrap();
        assert_eq!(
            engine.list(Label::Token(&self.token)).await.unwrap(),
            [],
            "containers are left"
        );
        let left: Vec<_> = fs::read_dir(self.home.path().join("work")).unwrap().collect();
        assert!(left.is_empty(), "folders are left: {left:?}");
        status
    }
}

pub(crate) fn initial(volume: Value, timing: [i64; 5]) -> Value {
    let [leeway, download, execution, upload, streaming] = timing;
    let trace = fs::read_to_string(golden("executor-happy.jsonl")).unwrap();
    let line = trace
        .lines()
        .find(|line| line.contains("V0InitialJobRequest"))
        .unwrap();
    let mut message = serde_json::from_str::<Value>(line).unwrap()["msg"].clone();
    message["volume"] = volume;
    message["executor_timing"] = json!({
        "allowed_leeway": leeway, "download_time_limit": download, "execution_time_limit": execution,
        "upload_time_limit": upload, "streaming_start_time_limit": streaming,
    });
    message
}

pub(crate) fn job(initial: &Value, command: &[&str]) -> Value {
    json!({
        "message_type": "V0JobRequest", "job_uuid": initial["job_uuid"], "executor_class": initial["executor_class"],
        "docker_image": IMAGE, "raw_script": null, "docker_run_options_preset": "none", "docker_run_cmd": command,
        "env": {}, "volume": null, "output_upload": null, "artifacts_dir": null,
    })
}

pub(crate) fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/traces")
        .join(name)
}

pub(crate) const AMPLE: [i64; 5] = [30, 30, 30, 30, 0];

/// Plays a volume and a command, and returns what the executor said.
async fn play(engine: &dyn Engine, volume: Value, command: &[&str], extra: &[(&str, &str)]) -> Vec<Value> {
    let mut miner = Miner::start().await;
    let volume: Value =
        serde_json::from_str(&volume.to_string().replace("http://WEB", &miner.url(""))).unwrap();
    let mut session = Session::start(&mut miner, extra).await;
    let initial = initial(volume, AMPLE);
    session.send(&initial).await;
    let ready = session.next().await.unwrap();
    assert_eq!(ready["message_type"], "V0ExecutorReadyRequest");
    session.send(&job(&initial, command)).await;
    let messages = session.rest().await;
    assert!(session.end(engine).await.success());
    messages
}

// --- recordings -------------------------------------------------------------------------------------------------

/// What must be equal of an executor's message.
fn essence(scenario: &str, message: &Value) -> Value {
    let kind = message["message_type"].as_str().unwrap();
    if kind == "GenericError" {
        let details = message["details"].as_str().unwrap();
        let words = if details.starts_with("Received") { 100 } else { 2 };
        return json!([kind, details.split(' ').take(words).collect::<Vec<_>>().join(" ")]);
    }
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect()
    };
    let mut essence = message.clone();
    let fields = essence.as_object_mut().unwrap();
    if kind == "V0JobFinishedRequest" {
        fields["upload_results"] = json!(keys(&message["upload_results"]));
        fields["artifacts"] = json!(keys(&message["artifacts"]));
        match scenario {
            // The recording has cut it itself; what it is, is tested below.
            "big-stdout" => fields["docker_process_stdout"] = json!(null),
            // It lists a file with the time of day.
            "raw-script" => {
                let stdout = fields["docker_process_stdout"].as_str().unwrap();
                assert!(
                    stdout.contains("-rw-r--r--") && stdout.ends_with("/script.py\n"),
                    "{stdout}"
                );
                fields["docker_process_stdout"] = json!(stdout.lines().next());
            }
            // Names of machines, and a right less.
            "volume-env-artifacts" => {
                let stdout = fields["docker_process_stdout"].as_str().unwrap();
                assert!(
                    stdout.contains("FOO=bar") && stdout.contains("hi there"),
                    "{stdout}"
                );
                fields["docker_process_stdout"] = json!(null);
            }
            _ => {}
        }
    }
    if let Some(context) = fields.get_mut("context").filter(|context| context.is_object()) {
        *context = json!({ "stage": context["stage"], "exception_type": context["exception_type"] });
        if kind == "V0JobFailedRequest" {
            *context = json!(null);
        }
    }
    essence
}

/// What a recording expects, with the differences of the table above.
fn expected(scenario: &str, message: &Value) -> Value {
    let mut message = message.clone();
    let is_download = message["context"]["stage"] == "volume_download";
    if is_download && message["reason"] == "unhandled_exception" {
        let text = match scenario {
            "bad-inline-volume" => {
                "the volume is not a valid zip file: invalid Zip archive: Could not find EOCD"
            }
            _ => "the volume could not be fetched: the server answered 404 Not Found",
        };
        return json!({
            "message_type": "V0JobFailedRequest", "job_uuid": message["job_uuid"], "message": text,
            "reason": "download_failed", "stage": "volume_download", "docker_process_exit_status": null,
            "docker_process_stdout": null, "docker_process_stderr": null, "context": null,
        });
    }
    message = essence(scenario, &message);
    message
}

/// Returns whether a message is the executor's last word on its job.
pub(crate) fn is_report(message: &Value) -> bool {
    let reports = [
        "V0JobFinishedRequest",
        "V0JobFailedRequest",
        "V0HordeFailedRequest",
    ];
    reports.contains(&kind_of(message))
}

fn uploads_of(message: &Value) -> Option<(String, String, BTreeMap<String, u64>)> {
    let zip = message.get("zip")?.as_object()?;
    let files = zip.iter().filter(|(name, _)| !name.ends_with('/'));
    let files = files
        .map(|(name, file)| (name.clone(), file["size"].as_u64().unwrap()))
        .collect();
    let text = |key: &str| message[key].as_str().unwrap().to_owned();
    Some((text("method"), text("path"), files))
}

fn zip_in(received: &Received) -> Option<BTreeMap<String, u64>> {
    let start = received
        .body
        .windows(4)
        .position(|window| window == b"PK\x03\x04")?;
    let end = received
        .body
        .windows(4)
        .rposition(|window| window == b"PK\x05\x06")?
        + 22;
    let mut archive = zip::ZipArchive::new(Cursor::new(received.body.slice(start..end))).unwrap();
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).unwrap();
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        files.insert(entry.name().to_owned(), entry.size());
    }
    Some(files)
}

async fn replay(engine: &dyn Engine, file: &Path) {
    let scenario = file
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .strip_prefix("executor-")
        .unwrap()
        .to_owned();
    let mut miner = Miner::start().await;
    let recording = fs::read_to_string(file)
        .unwrap()
        .replace("127.0.0.1:18002", &miner.address)
        .replace("127.0.0.1:5555/bb:1", REGISTRY_IMAGE)
        .replace("\"bb:1\"", &format!("\"{IMAGE}\""));
    let mut session = Session::start(&mut miner, &[]).await;
    for line in recording.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let message = &line["msg"];
        match line["dir"].as_str().unwrap() {
            "miner->executor" => session.send(message).await,
            "executor->miner" => {
                let said = session.next().await;
                let said = said.unwrap_or_else(|| panic!("{scenario}: closed instead of {message}"));
                if is_report(&said) {
                    let left = engine.list(Label::Token(&session.token)).await.unwrap();
                    assert_eq!(left, [], "{scenario}: reported before the container was gone");
                }
                let (said, wanted) = (essence(&scenario, &said), expected(&scenario, message));
                assert_eq!(said, wanted, "{scenario}");
            }
            "close" => assert_eq!(session.rest().await, Vec::<Value>::new(), "{scenario}"),
            "executor->http" if scenario != "volume-env-artifacts" => {
                if let Some((method, path, files)) = uploads_of(message) {
                    let received = miner.received.lock().unwrap().clone();
                    let same = |one: &&Received| one.method.as_str() == method && one.path == path;
                    let one = received
                        .iter()
                        .find(same)
                        .unwrap_or_else(|| panic!("{scenario}: no {method} {path}"));
                    assert_eq!(zip_in(one).unwrap(), files, "{scenario}");
                }
            }
            _ => {}
        }
    }
    assert!(session.end(engine).await.success(), "{scenario}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_session_goes_as_it_went_but_for_the_table_above() {
    let Some(engine) = engine().await else { return };
    let mut files: Vec<_> = fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| {
        file.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("executor-")
    });
    files.sort();
    assert_eq!(files.len(), 26);
    let play = |file: std::path::PathBuf| {
        let engine = Arc::clone(&engine);
        async move { replay(&*engine, &file).await }
    };
    stream::iter(files)
        .map(play)
        .buffer_unordered(SIDE_BY_SIDE)
        .collect::<Vec<()>>()
        .await;
}

// --- inputs -----------------------------------------------------------------------------------------------------

pub(crate) fn kind_of(message: &Value) -> &str {
    message["message_type"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_trusted_is_a_failed_download_with_a_reason() {
    let Some(engine) = engine().await else { return };
    let inline =
        |zip: &[u8]| json!({ "volume_type": "inline", "contents": base64_of(zip), "relative_path": null });
    let single =
        |path: &str| json!({ "volume_type": "single_file", "url": "http://WEB/file", "relative_path": path });
    let mut link = zip::ZipWriter::new(Cursor::new(Vec::new()));
    link.add_symlink("l", "/etc/passwd", zip::write::SimpleFileOptions::default())
        .unwrap();
    let cases = [
        (inline(&zip_of(&[("../escaped", b"x")])), "leaves its folder"),
        (
            inline(&link.finish().unwrap().into_inner()),
            "neither a file nor a folder",
        ),
        (inline(b"PK"), "not a valid zip file"),
        (
            inline(&zip_of(&[("zeros", &vec![0; 20_000])])),
            "unpacks to more than",
        ),
        (
            inline(&(0..=u8::MAX).cycle().take(3000).collect::<Vec<_>>()),
            "too large",
        ),
        (single("../escaped"), "leaves its folder"),
        (single("/etc/escaped"), "absolute path"),
        (
            json!({ "volume_type": "zip_url", "contents": "http://WEB/file" }),
            "not a valid zip file",
        ),
        (
            json!({ "volume_type": "zip_url", "contents": "file:///etc/passwd" }),
            "not an http",
        ),
        (
            json!({ "volume_type": "huggingface_volume", "repo_id": "o/n" }),
            "the hub has no repository o/n",
        ),
    ];
    let play = |(volume, reason): (Value, &'static str)| {
        let engine = Arc::clone(&engine);
        async move {
            let limit = [("VOLUME_MAX_SIZE_BYTES", "1500")];
            let said = play(&*engine, volume.clone(), &["true"], &limit).await;
            assert_eq!(said.len(), 1, "{volume}: {said:?}");
            assert_eq!(kind_of(&said[0]), "V0JobFailedRequest", "{said:?}");
            assert_eq!(
                (&said[0]["reason"], &said[0]["stage"]),
                (&json!("download_failed"), &json!("volume_download"))
            );
            assert!(
                said[0]["message"].as_str().unwrap().contains(reason),
                "{reason}: {said:?}"
            );
        }
    };
    stream::iter(cases)
        .map(play)
        .buffer_unordered(SIDE_BY_SIDE)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_every_kind_lie_where_the_job_looks_for_them() {
    let Some(engine) = engine().await else { return };
    let volume = json!({ "volume_type": "multi_volume", "volumes": [
        { "volume_type": "inline", "contents": base64_of(&zip_of(&[("in.txt", b"inline")])), "relative_path": "a/b" },
        { "volume_type": "zip_url", "contents": "http://WEB/zip", "relative_path": null },
        { "volume_type": "single_file", "url": "http://WEB/moved", "relative_path": "f/single" },
    ]});
    let command = ["sh", "-c", "cat /volume/a/b/in.txt /volume/d/x /volume/f/single"];
    let said = play(&*engine, volume, &command, &[]).await;
    assert_eq!(
        said.iter().map(kind_of).collect::<Vec<_>>(),
        [
            "V0VolumesReadyRequest",
            "V0ExecutionDoneRequest",
            "V0JobFinishedRequest"
        ]
    );
    assert_eq!(said[2]["docker_process_stdout"], "inlinezippedcontent");
}

// --- outputs ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_long_output_keeps_its_ends_and_a_link_in_the_output_stays_unread() {
    let Some(engine) = engine().await else { return };
    let mut miner = Miner::start().await;
    let mut session = Session::start(&mut miner, &[]).await;
    let initial = initial(json!(null), AMPLE);
    session.send(&initial).await;
    session.next().await.unwrap();
    let script = "ln -s /etc/passwd /output/stdout.txt; ln -s /etc/passwd /output/link; \
                  yes 0123456789012345678901234567890123456789 | head -c 1500000";
    let mut job = job(&initial, &["sh", "-c", script]);
    job["output_upload"] = json!({ "output_upload_type": "multi_upload", "uploads": [
        { "output_upload_type": "single_file_put", "url": miner.url("/put"), "relative_path": "stdout.txt",
          "signed_headers": { "Content-Type": "text/x-test", "x-amz-acl": "private" } },
        { "output_upload_type": "single_file_post", "url": miner.url("/post"), "relative_path": "stderr.txt",
          "form_fields": { "key": "k", "policy": "p" } },
    ], "system_output": { "output_upload_type": "zip_and_http_put", "url": miner.url("/sys") } });
    session.send(&job).await;
    let said = session.rest().await;
    let finished = said.last().unwrap();
    assert_eq!(kind_of(finished), "V0JobFinishedRequest", "{said:?}");
    let stdout = finished["docker_process_stdout"].as_str().unwrap();
    assert_eq!(stdout.len(), 1_000_005);
    assert!(stdout.split_at(500_000).1.starts_with(" ... "));
    let results = finished["upload_results"].as_object().unwrap();
    assert_eq!(
        results.keys().collect::<Vec<_>>(),
        ["stdout.txt", "stderr.txt", "system_output"]
    );
    assert!(
        results["stdout.txt"]
            .as_str()
            .unwrap()
            .starts_with("{\"headers\": {\"")
    );
    assert!(
        results["stdout.txt"]
            .as_str()
            .unwrap()
            .ends_with("\"body\": \"stored\"}")
    );
    let received = miner.received.lock().unwrap().clone();
    let one = |path: &str| received.iter().find(|one| one.path == path).unwrap();
    let (put, post) = (one("/put"), one("/post"));
    assert_eq!(put.body.len(), 1_500_000);
    assert_eq!(put.headers["content-type"], "text/x-test");
    assert_eq!(put.headers["x-amz-acl"], "private");
    for upload in &received {
        assert_eq!(upload.headers["content-length"], upload.body.len().to_string());
        assert!(!upload.headers.contains_key("transfer-encoding"));
    }
    let kind = post.headers["content-type"].to_str().unwrap();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    let form = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"policy\"\r\n\r\np\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"stderr.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n\r\n--{boundary}--\r\n"
    );
    assert_eq!(post.body, form);
    assert_eq!(
        zip_in(one("/sys")),
        None,
        "a zip of nothing: the named files are left out, the link too"
    );
    assert!(session.end(&*engine).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_a_link_or_is_not_there_is_a_failed_upload() {
    let Some(engine) = engine().await else { return };
    for (name, reason) in [
        ("link", "not a regular file"),
        ("none", "file not found"),
        ("../x", "leaves its folder"),
    ] {
        let mut miner = Miner::start().await;
        let mut session = Session::start(&mut miner, &[]).await;
        let initial = initial(json!(null), AMPLE);
        session.send(&initial).await;
        session.next().await.unwrap();
        let mut job = job(&initial, &["ln", "-s", "/etc/passwd", "/output/link"]);
        job["output_upload"] = json!({
            "output_upload_type": "single_file_put", "url": miner.url("/put"), "relative_path": name
        });
        session.send(&job).await;
        let said = session.rest().await;
        let failed = said.last().unwrap();
        assert_eq!(
            (&failed["reason"], &failed["stage"]),
            (&json!("upload_failed"), &json!("result_upload"))
        );
        assert!(
            failed["context"]["error"].as_str().unwrap().contains(reason),
            "{failed}"
        );
        assert!(miner.received.lock().unwrap().is_empty(), "nothing was sent");
        assert!(session.end(&*engine).await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_not_sent_has_a_verdict_for_those_who_know_the_word() {
    let Some(engine) = engine().await else { return };
    for extensions in [&["artifact-verdicts"][..], &[]] {
        let mut miner = Miner::knowing(extensions).await;
        let mut session = Session::start(&mut miner, &[]).await;
        let initial = initial(json!(null), AMPLE);
        session.send(&initial).await;
        session.next().await.unwrap();
        let script = "cd /artifacts; echo small > small; head -c 1000000 /dev/zero > large; \
                      ln -s /etc/passwd link; mkdir folder";
        let mut job = job(&initial, &["sh", "-c", script]);
        job["artifacts_dir"] = json!("/artifacts");
        session.send(&job).await;
        let said = session.rest().await;
        let finished = said.last().unwrap();
        assert_eq!(
            finished["artifacts"],
            json!({ "/artifacts/small": base64_of(b"small\n") })
        );
        let verdicts: Vec<_> = said
            .iter()
            .filter(|message| kind_of(message) == "V0ArtifactVerdictsRequest")
            .collect();
        if extensions.is_empty() {
            assert!(verdicts.is_empty(), "{said:?}");
        } else {
            let verdict =
                |name: &str, word: &str| json!({ "path": format!("/artifacts/{name}"), "verdict": word });
            assert_eq!(
                verdicts[0]["verdicts"],
                json!([
                    verdict("folder", "not_a_regular_file"),
                    verdict("large", "too_large"),
                    verdict("link", "not_a_regular_file"),
                ])
            );
            assert_eq!(verdicts[0]["more"], 0);
        }
        assert!(session.end(&*engine).await.success());
    }
}

// --- ends -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_miner_or_a_signal_ends_the_container_and_leaves_nothing() {
    let Some(engine) = engine().await else { return };
    for is_signal in [true, false] {
        let mut miner = Miner::start().await;
        let mut session = Session::start(&mut miner, &[]).await;
        let initial = initial(json!(null), AMPLE);
        session.send(&initial).await;
        session.next().await.unwrap();
        session.send(&job(&initial, &["sleep", "60"])).await;
        assert_eq!(kind_of(&session.next().await.unwrap()), "V0VolumesReadyRequest");
        while !engine
            .list(Label::Token(&session.token))
            .await
            .unwrap()
            .iter()
            .any(|container| container.is_running)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if is_signal {
            let pid = rustix::process::Pid::from_raw(session.child.id().unwrap().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let said = session.rest().await;
            assert_eq!(
                said.iter().map(kind_of).collect::<Vec<_>>(),
                ["V0HordeFailedRequest"]
            );
            assert!(session.end(&*engine).await.success());
        } else {
            miner.tasks.abort();
            assert_eq!(session.end(&*engine).await.code(), Some(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_found_by_their_label_and_nothing_else_is() {
    let Some(engine) = engine().await else { return };
    let mut miner = Miner::start().await;
    let owner = format!("horde-test-{}", uuid::Uuid::new_v4());
    let mut session = Session::start(&mut miner, &[("HORDE_EXECUTOR_OWNER", &owner)]).await;
    let initial = initial(json!(null), AMPLE);
    session.send(&initial).await;
    session.next().await.unwrap();
    session.send(&job(&initial, &["sleep", "60"])).await;
    assert_eq!(kind_of(&session.next().await.unwrap()), "V0VolumesReadyRequest");
    while engine.list(Label::Owner(&owner)).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    session.child.kill().await.unwrap();
    assert_eq!(
        sweep(&*engine, Label::Owner("horde-test-nobody")).await.unwrap(),
        []
    );
    let removed = sweep(&*engine, Label::Owner(&owner)).await.unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].name, format!("ch-{}-job", session.token));
    assert_eq!(removed[0].job.as_deref(), initial["job_uuid"].as_str());
    assert_eq!(engine.list(Label::Owner(&owner)).await.unwrap(), []);
}

/// The failure that the reference means to report and crashes over (wire-executor-miner §10).
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_its_security_checks_runs_nothing_and_says_why() {
    let home = Home::new();
    let socket = weak_engine(&home, |version, _| {
        version["Components"][2]["Version"] = json!("1.1.9");
    });
    let docker_host = format!("unix://{}", socket.display());
    let mut miner = Miner::start().await;
    for (accept, is_let_in) in [
        ("", false),
        ("CVE-2025-31133", false),
        ("CVE-2025-31133,CVE-2024-21626", true),
    ] {
        let extra = [
            ("HORDE_EXECUTOR_DOCKER_HOST", docker_host.as_str()),
            ("HORDE_EXECUTOR_ACCEPT", accept),
        ];
        let mut session = Session::start(&mut miner, &extra).await;
        let mut first = initial(Value::Null, [60; 5]);
        first["docker_image"] = Value::Null;
        session.send(&first).await;
        let answer = session.next().await.unwrap();
        if is_let_in {
            assert_eq!(answer["message_type"], "V0ExecutorReadyRequest");
            continue;
        }
        assert_eq!(answer["message_type"], "V0HordeFailedRequest");
        assert_eq!(answer["reason"], "security_check_failed");
        assert_eq!(answer["context"]["stage"], "executor_startup");
        assert!(
            answer["message"].as_str().unwrap().contains("runc 1.1.9"),
            "{answer}"
        );
        let checks = answer["context"]["checks"].as_array().unwrap();
        let names: Vec<_> = checks
            .iter()
            .map(|check| check["check"].as_str().unwrap())
            .collect();
        if accept.is_empty() {
            assert_eq!(names, ["CVE-2024-21626", "CVE-2025-31133"]);
        } else {
            assert_eq!(names, ["CVE-2024-21626"]);
        }
        for check in checks {
            assert!(
                check["required"].is_string() && check["remedy"].is_string(),
                "{check}"
            );
        }
        assert!(session.child.wait().await.unwrap().success());
    }
}

/// Only where GPUs are not played without, as the reference has it (wire-executor-miner §5, §11).
#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_described_right_before_a_success_is_reported() {
    let Some(engine) = engine().await else { return };
    let said = play(
        &*engine,
        json!(null),
        &["echo", "x"],
        &[("DEBUG_NO_GPU_MODE", "0")],
    )
    .await;
    let kinds: Vec<_> = said.iter().map(kind_of).collect();
    assert_eq!(
        kinds.split_at(kinds.len() - 2).1,
        ["V0MachineSpecsRequest", "V0JobFinishedRequest"],
        "{kinds:?}"
    );
    let specs = &said[said.len() - 2]["specs"]["specs"];
    assert!(
        specs["gpu"]["count"].is_u64() && specs["cpu"]["model"].is_string(),
        "{specs}"
    );
    assert!(
        specs["ram"]["total"].as_u64() > Some(0) && specs["hard_disk"]["free"].is_u64(),
        "{specs}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_the_failure_says_what_to_do() {
    let mut miner = Miner::start().await;
    let none = [("HORDE_EXECUTOR_DOCKER_HOST", "unix:///nowhere/docker.sock")];
    let mut session = Session::start(&mut miner, &none).await;
    session.send(&initial(json!(null), AMPLE)).await;
    let said = session.rest().await;
    assert_eq!(
        said.iter().map(kind_of).collect::<Vec<_>>(),
        ["V0HordeFailedRequest"]
    );
    let message = said[0]["message"].as_str().unwrap();
    assert!(
        message.contains("Docker does not answer at unix:///nowhere/docker.sock"),
        "{message}"
    );
    assert!(message.contains("install it"), "{message}");
    assert!(
        timeout(PATIENCE, session.child.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executors_image_starts_from_nothing_but_this_binary() {
    let Some(engine) = engine().await else { return };
    let tag = format!("horde-test-image-{}:1", uuid::Uuid::new_v4());
    let home = Home::new();
    let output = Command::from(home.horde(["executor", "image", "--tag", &tag, "--json"]))
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["image"], tag);
    let image = ImageReference::parse(&tag).unwrap();
    assert_eq!(
        engine.find_image(&image).await.unwrap().unwrap().as_str(),
        made["id"].as_str().unwrap()
    );
    let run = Command::new("docker")
        .args(["run", "--rm", "--network", "none", &tag, "--version"])
        .output()
        .await;
    engine.remove_image(&image).await.unwrap();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8_lossy(&run.stdout).starts_with("horde "));
}
