//! The life of a job's container and of its image: time, streams, removal, what is whose, what is kept.

#![expect(clippy::print_stderr, reason = "a test that measures says what it measured")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::docker::reference::ImageReference;
use horde::core::docker::{Engine, Label, sweep, sweep_strays};
use horde::core::net::http;
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::executor::{AMPLE, IMAGE, Miner, Session, engine, initial, is_report, job, kind_of};

/// How much a loud job writes, in bytes: a hundred times what is kept of it. `HORDE_TEST_STDOUT_BYTES` says
/// otherwise; ten gigabytes take many minutes in a binary that is not optimised.
const LOUD_BYTES: u64 = 128 * 1024 * 1024;

/// The most resident memory of an executor, whatever a job writes, in KiB.
const MEMORY_KIB_MAX: u64 = 64 * 1024;

/// Orders a job and returns everything that is said until the goodbye.
async fn run(session: &mut Session, initial: &Value, job: &Value) -> Vec<Value> {
    session.send(initial).await;
    let ready = session.next().await.unwrap();
    assert_eq!(kind_of(&ready), "V0ExecutorReadyRequest", "{ready}");
    session.send(job).await;
    session.rest().await
}

/// Runs the engine's own command line, which must succeed.
async fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn until_it_runs(engine: &dyn Engine, label: Label<'_>) {
    let runs = async || engine.list(label).await.unwrap().iter().any(|one| one.is_running);
    while !runs().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// --- time -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_its_time_may_end_well_or_is_killed_with_all_its_children() {
    let Some(engine) = engine().await else { return };
    let stubborn =
        "trap '' TERM; (trap '' TERM; while true; do sleep 1; done) & echo up; while true; do sleep 1; done";
    let polite = "trap 'echo bye; exit 7' TERM; echo up; while true; do sleep 0.1; done";
    let cases = [
        (stubborn, "up\n", "SIGKILL", 137),
        (polite, "up\nbye\n", "SIGTERM", 7),
    ];
    let play = async |(script, stdout, signal, exit): (&str, &str, &str, i64)| {
        let mut miner = Miner::start().await;
        let mut session = Session::start(&mut miner, &[]).await;
        let initial = initial(json!(null), [0, 4, 1, 10, 0]);
        session.send(&initial).await;
        session.next().await.unwrap();
        session.send(&job(&initial, &["sh", "-c", script])).await;
        assert_eq!(kind_of(&session.next().await.unwrap()), "V0VolumesReadyRequest");
        let report = session.next().await.unwrap();
        assert!(is_report(&report));
        assert_eq!(engine.list(Label::Token(&session.token)).await.unwrap(), []);
        assert_eq!(report["message"], "Execution time exceeded");
        assert_eq!(report["docker_process_stdout"], stdout);
        assert_eq!(
            (
                &report["context"]["stopped_with"],
                &report["context"]["container_exit_status"]
            ),
            (&json!(signal), &json!(exit))
        );
        assert!(session.end(&*engine).await.success());
    };
    let [first, second] = cases;
    tokio::join!(play(first), play(second));
}

// --- streams ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_floods_its_streams_costs_no_memory_and_the_next_one_runs() {
    let Some(engine) = engine().await else { return };
    let bytes = std::env::vars()
        .find(|(name, _)| name == "HORDE_TEST_STDOUT_BYTES")
        .map_or(LOUD_BYTES, |(_, value)| value.parse().unwrap());
    let mut miner = Miner::knowing(&["output"]).await;
    let mut session = Session::start(&mut miner, &[]).await;
    let initial_job = initial(json!(null), [30, 30, 1800, 30, 0]);
    let script = format!("yes 0123456789012345678901234567890123456789 | head -c {bytes}; echo the end");
    session.send(&initial_job).await;
    session.next().await.unwrap();
    let started = tokio::time::Instant::now();
    session.send(&job(&initial_job, &["sh", "-c", &script])).await;
    let report = loop {
        let message = session.next_within(Duration::from_secs(1800)).await.unwrap();
        if is_report(&message) {
            break message;
        }
    };
    let took = started.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", session.child.id().unwrap())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    eprintln!("{bytes} bytes of output in {took:?}, at most {peak} KiB resident");
    assert_eq!(kind_of(&report), "V0JobFinishedRequest");
    let stdout = report["docker_process_stdout"].as_str().unwrap();
    assert_eq!(stdout.len(), 1_000_005);
    assert!(stdout.ends_with("the end\n"));
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    assert_eq!(session.rest().await, Vec::<Value>::new());
    assert!(session.end(&*engine).await.success());

    let mut next = Session::start(&mut miner, &[]).await;
    let said = run(
        &mut next,
        &initial(json!(null), AMPLE),
        &job(&initial_job, &["true"]),
    )
    .await;
    assert_eq!(kind_of(said.last().unwrap()), "V0JobFinishedRequest");
    assert!(next.end(&*engine).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_writes_reaches_a_miner_that_agreed_and_no_other() {
    let Some(engine) = engine().await else { return };
    for extensions in [&["output"][..], &[]] {
        let mut miner = Miner::knowing(extensions).await;
        let mut session = Session::start(&mut miner, &[]).await;
        let initial = initial(json!(null), AMPLE);
        let script = "printf one; sleep 1; echo two >&2; printf 'th\\377ree'; sleep 1";
        let said = run(&mut session, &initial, &job(&initial, &["sh", "-c", script])).await;
        assert!(session.end(&*engine).await.success());
        let pieces: Vec<_> = said
            .iter()
            .filter(|one| kind_of(one) == "V0JobOutputRequest")
            .collect();
        assert_eq!(kind_of(said.last().unwrap()), "V0JobFinishedRequest");
        if extensions.is_empty() {
            assert_eq!(pieces.len(), 0);
            continue;
        }
        let mut streams: HashMap<&str, Vec<u8>> = HashMap::new();
        for piece in pieces {
            assert_eq!(piece["job_uuid"], initial["job_uuid"]);
            let stream = streams.entry(piece["stream"].as_str().unwrap()).or_default();
            assert_eq!(piece["offset"], stream.len());
            stream.extend(STANDARD.decode(piece["data"].as_str().unwrap()).unwrap());
        }
        assert_eq!(streams["stdout"], b"oneth\xffree");
        assert_eq!(streams["stderr"], b"two\n");
    }
}

// --- whose is what ----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn executors_of_two_owners_and_strangers_leave_each_other_alone() {
    let Some(engine) = engine().await else { return };
    let stranger = format!("ch-horde-test-life-{}-job", uuid::Uuid::new_v4());
    docker(&[
        "run",
        "-d",
        "--name",
        &stranger,
        "--network",
        "none",
        IMAGE,
        "sleep",
        "600",
    ])
    .await;
    let mut miner = Miner::start().await;
    let owners = [(); 2].map(|()| format!("horde-test-{}", uuid::Uuid::new_v4()));
    let [dead, alive] = &owners;
    let initial = initial(json!(null), AMPLE);
    let mut sessions = Vec::new();
    for (owner, command) in [(dead, "sleep 600"), (alive, "sleep 4; echo done")] {
        let mut session = Session::start(&mut miner, &[("HORDE_EXECUTOR_OWNER", owner)]).await;
        session.send(&initial).await;
        session.next().await.unwrap();
        session.send(&job(&initial, &["sh", "-c", command])).await;
        until_it_runs(&*engine, Label::Owner(owner)).await;
        sessions.push(session);
    }
    let mut survivor = sessions.pop().unwrap();
    let mut victim = sessions.pop().unwrap();
    victim.child.kill().await.unwrap();
    let none = sweep_strays(&*engine, dead, &|token| token == victim.token).await;
    assert_eq!(none.unwrap(), 0, "its executor is taken for alive");
    let one = sweep_strays(&*engine, dead, &|token| token == survivor.token).await;
    assert_eq!(one.unwrap(), 1);
    assert_eq!(sweep(&*engine, Label::Owner(dead)).await.unwrap(), []);
    let said = survivor.rest().await;
    assert_eq!(
        said.last().unwrap()["docker_process_stdout"],
        "done\n",
        "{said:?}"
    );
    assert!(survivor.end(&*engine).await.success());
    assert_eq!(
        docker(&["inspect", "-f", "{{.State.Running}}", &stranger]).await,
        "true"
    );
    docker(&["rm", "-f", &stranger]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_without_root_removes_what_jobs_left_as_other_users() {
    let Some(engine) = engine().await else { return };
    let mut miner = Miner::start().await;
    // A user without a name, who may talk to the engine; where tests do not run as root, this user is one already.
    let group = fs::metadata("/var/run/docker.sock").unwrap().gid();
    let is_root = rustix::process::geteuid().is_root();
    let mut session = if is_root {
        Session::start_as(&mut miner, 65_000, group).await
    } else {
        Session::start(&mut miner, &[]).await
    };
    // What an executor left that was killed.
    let killed = session.home.path().join("work/horde-executor-killed");
    fs::create_dir_all(killed.join("volume/deep")).unwrap();
    fs::write(killed.join("volume/deep/x"), "x").unwrap();
    fs::write(killed.join("lock"), "").unwrap();
    if is_root {
        for ours in ["", "lock", "volume"] {
            chown(killed.join(ours), Some(65_000), Some(group)).unwrap();
        }
    }
    let script = "umask 077; mkdir -p /output/deep/er /volume/other; echo x > /output/deep/er/x
        ln -s /volume /output/deep/link; busybox chown -R 1234 /volume/other; busybox chmod 1777 /output/deep
        busybox chown 0 /output && busybox chmod 700 /output && id -u";
    let initial = initial(json!(null), AMPLE);
    let said = run(&mut session, &initial, &job(&initial, &["sh", "-c", script])).await;
    assert_eq!(said.last().unwrap()["docker_process_stdout"], "0\n", "{said:?}");
    assert!(session.end(&*engine).await.success());
}

// --- images -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn the_image_that_a_name_meant_when_the_job_was_accepted_runs() {
    let Some(engine) = engine().await else { return };
    let name = format!("horde-test-life-{}:1", uuid::Uuid::new_v4());
    let other = format!("horde-test-life-{}:2", uuid::Uuid::new_v4());
    docker(&["tag", IMAGE, &name]).await;
    // Nothing starts in it.
    let mut empty = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut empty, &[0; 1024]).unwrap();
    std::io::Seek::rewind(&mut empty).unwrap();
    let empty = tokio::fs::File::from_std(empty);
    let reference = ImageReference::parse(&other).unwrap();
    engine.import(empty, &reference, Vec::new()).await.unwrap();

    let mut miner = Miner::start().await;
    let mut session = Session::start(&mut miner, &[]).await;
    let mut initial = initial(json!(null), AMPLE);
    initial["docker_image"] = json!(name);
    session.send(&initial).await;
    assert_eq!(kind_of(&session.next().await.unwrap()), "V0ExecutorReadyRequest");
    docker(&["tag", &other, &name]).await;
    let mut job = job(&initial, &["echo", "the old one"]);
    job["docker_image"] = json!(name);
    session.send(&job).await;
    let said = session.rest().await;
    docker(&["rmi", &name, &other]).await;
    assert_eq!(
        said.last().unwrap()["docker_process_stdout"],
        "the old one\n",
        "{said:?}"
    );
    assert!(session.end(&*engine).await.success());
}

/// A registry on loopback, which engines trust without TLS, with one image whose tag moves.
#[derive(Clone, Default)]
struct Registry {
    blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    tag: Arc<Mutex<String>>,
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    fn put(&self, blob: Vec<u8>) -> Value {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&blob)));
        let size = blob.len();
        self.blobs.lock().unwrap().insert(digest.clone(), blob);
        json!({ "digest": digest, "size": size })
    }

    /// Moves the tag to an image that prints a word.
    fn publish(&self, word: &str) {
        let mut layer = tar::Builder::new(Vec::new());
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.iter().find_map(|path| fs::read(path).ok()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        layer.append_data(&mut header, "echo", &busybox[..]).unwrap();
        let mut layer = self.put(layer.into_inner().unwrap());
        let mut config = self.put(
            json!({
                "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
                "config": { "Cmd": ["/echo", word] },
                "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
            })
            .to_string()
            .into_bytes(),
        );
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar");
        config["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let manifest = self.put(manifest.to_string().into_bytes());
        let digest = manifest["digest"].as_str().unwrap();
        digest.clone_into(&mut self.tag.lock().unwrap());
    }

    async fn serve(&self) -> (String, Tasks) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::new();
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/moving/manifests/{name}", get(manifest))
            .route("/v2/moving/blobs/{digest}", get(blob))
            .with_state(self.clone());
        let family = tasks.clone();
        tasks.spawn(
            "registry",
            async move { http::serve(listener, router, &family).await },
        );
        (address, tasks)
    }
}

async fn manifest(State(registry): State<Registry>, Path(name): Path<String>) -> Response {
    let digest = if name.starts_with("sha256:") {
        name
    } else {
        registry.tag.lock().unwrap().clone()
    };
    let Some(body) = registry.blobs.lock().unwrap().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, MANIFEST.to_owned()),
        (header::HeaderName::from_static("docker-content-digest"), digest),
    ];
    (headers, body).into_response()
}

async fn blob(State(registry): State<Registry>, Path(digest): Path<String>) -> Response {
    match registry.blobs.lock().unwrap().get(&digest).cloned() {
        Some(blob) => blob.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Sets a time of every entry of the executors' record of images back to the beginning.
fn long_ago(work_dir: &std::path::Path, key: &str) {
    let record = fs::read_dir(work_dir).unwrap().map(|entry| entry.unwrap().path());
    let record = record
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "json"));
    let record = record.unwrap();
    let mut entries: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    for entry in entries.as_array_mut().unwrap() {
        entry[key] = json!(0);
    }
    fs::write(record, entries.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_tag_follows_its_registry_and_what_was_pulled_makes_room() {
    let Some(engine) = engine().await else { return };
    let registry = Registry::default();
    registry.publish("first");
    let (address, serving) = registry.serve().await;
    let image = format!("{address}/moving:latest");
    let work_dir = tempfile::tempdir().unwrap();
    let path = work_dir.path().to_str().unwrap().to_owned();
    let mut miner = Miner::start().await;
    let mut print = async |image: &str, budget: &str, pinned: &str| {
        let settings = [
            ("HORDE_EXECUTOR_WORK_DIR", path.as_str()),
            ("HORDE_EXECUTOR_IMAGE_CACHE_BYTES", budget),
            ("HORDE_EXECUTOR_PINNED_IMAGES", pinned),
        ];
        let mut session = Session::start(&mut miner, &settings).await;
        let mut initial = initial(json!(null), AMPLE);
        initial["docker_image"] = json!(image);
        let mut job = job(&initial, if image == IMAGE { &["echo", "none"] } else { &[] });
        job["docker_image"] = json!(image);
        let said = run(&mut session, &initial, &job).await;
        assert!(session.end(&*engine).await.success());
        said.last().unwrap()["docker_process_stdout"]
            .as_str()
            .map(str::to_owned)
    };
    let ample = "1000000000";
    let printed = |word: &str| Some(format!("{word}\n"));
    assert_eq!(print(&image, ample, "").await, printed("first"));
    registry.publish("second");
    assert_eq!(
        print(&image, ample, "").await,
        printed("first"),
        "asked a moment ago"
    );
    long_ago(work_dir.path(), "checked");
    assert_eq!(print(&image, ample, "").await, printed("second"));
    registry.publish("third");
    serving.abort();
    long_ago(work_dir.path(), "checked");
    assert_eq!(
        print(&image, ample, "").await,
        printed("second"),
        "the registry is gone"
    );

    let held = async || {
        let reference = ImageReference::parse(&image).unwrap();
        engine.find_image(&reference).await.unwrap().is_some()
    };
    assert_eq!(print(IMAGE, "0", "").await, printed("none"));
    assert!(held().await, "used a moment ago");
    long_ago(work_dir.path(), "used");
    assert_eq!(print(IMAGE, "0", "127.0.0.1:*/moving").await, printed("none"));
    assert!(held().await, "pinned");
    assert_eq!(print(IMAGE, "0", "").await, printed("none"));
    assert!(!held().await, "too much");
    let own = ImageReference::parse(IMAGE).unwrap();
    assert!(
        engine.find_image(&own).await.unwrap().is_some(),
        "nobody pulled it"
    );
    let left = docker(&["images", "-q", &format!("{address}/moving")]).await;
    assert_eq!(left, "");
}
