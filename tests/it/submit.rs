//! `horde job submit` and `horde job download` as people run them: job files, costs, retries, hostile peers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::{Json, Router};
use base64::Engine as _;
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::facilitator::{World, pushed, report};
use crate::support::Home;

/// Returns `horde job …` as //Charlie.
fn job(home: &Home, facilitator: &str, args: &[&str]) -> Command {
    let mut all = vec![
        "job",
        args[0],
        "--facilitator",
        facilitator,
        "--key-uri",
        "//Charlie",
    ];
    all.extend(&args[1..]);
    Command::from(home.horde(all))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a facilitator was asked: method and path, the key of a submission, its body.
#[derive(Debug, Clone)]
struct Asked {
    what: String,
    key: Option<String>,
    body: Value,
}

/// A facilitator that answers as it is told and remembers what it was asked.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Tasks,
}

/// How a facilitator answers submissions.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// One of ours.
    Ours,
    /// One of ours, whose first answer to a submission breaks off.
    Broken,
    /// The reference's, whose first answer to a submission breaks off.
    BrokenReference,
    /// One of ours, to which the user owes money.
    Poor,
}

impl Fake {
    async fn start(kind: Kind) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (all, jobs) = (Arc::clone(&asked), Arc::new(Mutex::new(HashMap::new())));
        let app = Router::new()
            .fallback(move |request: Request| answer(kind, request, Arc::clone(&all), Arc::clone(&jobs)));
        let tasks = Tasks::new();
        tasks.spawn("fake facilitator", async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self { url, asked, tasks }
    }

    fn submissions(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.what.contains("job-docker"))
            .cloned()
            .collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

type Jobs = Arc<Mutex<HashMap<String, Value>>>;

async fn answer(
    kind: Kind,
    request: Request,
    all: Arc<Mutex<Vec<Asked>>>,
    jobs: Jobs,
) -> axum::response::Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let key = request
        .headers()
        .get("idempotency-key")
        .map(|key| key.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 22).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked {
        what: what.clone(),
        key: key.clone(),
        body: body.clone(),
    };
    all.lock().unwrap().push(asked);
    let is_first = all
        .lock()
        .unwrap()
        .iter()
        .filter(|asked| asked.what == what)
        .count()
        == 1;
    let not_found = (
        axum::http::StatusCode::NOT_FOUND,
        Json(json!({"detail": "Not found."})),
    );
    match what.as_str() {
        "GET /auth/nonce" => Json(json!({"nonce": "n"})).into_response(),
        "POST /auth/login" => Json(json!({"token": "t"})).into_response(),
        _ if kind == Kind::BrokenReference && !what.contains("job-docker") => not_found.into_response(),
        "GET /api/v1/validators/" => Json(json!({"validators": [{"hotkey": "5v"}]})).into_response(),
        "GET /api/v1/account/" => Json(
            json!({"hotkey": "5u", "charges": true, "available_micro": 5_000_000,
            "reserved_micro": 0, "prices": {"always_on.test": 10_000}}),
        )
        .into_response(),
        "POST /api/v1/job-docker/" if kind == Kind::Poor => {
            let words = json!({"error": "Insufficient credit", "details": "1.4 is missing", "missing_micro": 1_400_000,
                "required_micro": 2_400_000, "available_micro": 1_000_000});
            (axum::http::StatusCode::PAYMENT_REQUIRED, Json(words)).into_response()
        }
        "POST /api/v1/job-docker/" => {
            let count = jobs.lock().unwrap().len();
            let view = json!({"uuid": format!("job-{count}"), "executor_class": "always_on.test",
                "created_at": "2026-11-22T09:13:22.5Z", "docker_image": body["docker_image"], "args": [], "env": {},
                "stdout": "", "stderr": "", "status_history": [{"status": "sent", "metadata": {},
                "created_at": "2026-11-22T09:13:22.5Z"}]});
            let view = jobs
                .lock()
                .unwrap()
                .entry(key.unwrap_or_default())
                .or_insert(view)
                .clone();
            if is_first && kind != Kind::Ours {
                let broken = futures_util::stream::iter([
                    Ok("{".to_owned()),
                    Err(std::io::Error::other("the line broke")),
                ]);
                return Body::from_stream(broken).into_response();
            }
            (axum::http::StatusCode::CREATED, Json(view)).into_response()
        }
        _ => not_found.into_response(),
    }
}

const TEST: [&str; 4] = ["submit", "--detach", "--class", "always_on.test"];

#[tokio::test]
async fn a_submission_whose_answer_broke_off_is_repeated_under_its_key() {
    let (fake, home) = (Fake::start(Kind::Broken).await, Home::new());
    let output = job(&home, &fake.url, &[&TEST[..], &["i@sha256:1"]].concat())
        .output()
        .await
        .unwrap();
    assert_eq!(text(&output.stdout), "job-0\n", "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let sent = fake.submissions();
    assert_eq!(sent.len(), 2);
    assert!(sent[0].key.is_some() && sent[0].key == sent[1].key);
    // The next call is another job, unless it is told otherwise.
    let again = |key| [&TEST[..], &["--idempotency-key", key, "i@sha256:1"]].concat();
    for (key, name) in [("k", "job-1\n"), ("k", "job-1\n"), ("l", "job-2\n")] {
        let output = job(&home, &fake.url, &again(key)).output().await.unwrap();
        assert_eq!(text(&output.stdout), name, "{output:?}");
    }
}

#[tokio::test]
async fn the_reference_gets_a_submission_once_even_if_its_answer_broke_off() {
    let (fake, home) = (Fake::start(Kind::BrokenReference).await, Home::new());
    let args = [&TEST[..], &["--validator", "5v", "--idempotency-key", "k", "i"]].concat();
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let told = text(&output.stderr);
    assert!(
        told.contains("nobody knows whether the job has arrived"),
        "{told}"
    );
    assert_eq!(fake.submissions().len(), 1);
    // It has no account to ask either.
    let args = [&TEST[..], &["--validator", "5v", "--max-cost", "1", "i"]].concat();
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(10), "{output:?}");
    assert!(text(&output.stderr).contains("has no accounts"), "{output:?}");
}

#[tokio::test]
async fn a_job_that_may_cost_too_much_is_not_submitted() {
    let (fake, home) = (Fake::start(Kind::Ours).await, Home::new());
    let args = [&TEST[..], &["--max-cost", "2.39", "i"]].concat();
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(10), "{output:?}");
    insta::assert_snapshot!(home.told(&output));
    assert_eq!(fake.submissions().len(), 0);
    let args = [&TEST[..], &["--max-cost", "2.4", "i"]].concat();
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let poor = Fake::start(Kind::Poor).await;
    let output = job(&home, &poor.url, &[&TEST[..], &["i"]].concat())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        text(&output.stderr).contains("Insufficient credit: 1.4 is missing"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_plan_shows_what_would_be_submitted() {
    let (fake, home) = (Fake::start(Kind::Ours).await, Home::new());
    home.write("data/a.txt", "a");
    let args = [
        "submit",
        "--dry-run",
        "--class",
        "always_on.test",
        "--idempotency-key",
        "k",
        "--env",
        "A=b",
        "--volume",
        "data:/volume/in",
        "--volume",
        "hf://datasets/o/d@v1/x/*.json:/volume/d",
        "--volume",
        "https://h.example/z.zip?s=1:/volume/z/",
        "--deliver",
        "/output/x=post+https://h.example/x?s=1",
        "--limits",
        "execution=100,upload=5",
        "--upload-limit",
        "6",
        "i:1",
        "--",
        "sh",
        "-c",
        "exit 3",
    ];
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    insta::assert_snapshot!(home.told(&output));
    assert_eq!(fake.submissions().len(), 0);
}

#[tokio::test]
async fn a_job_file_is_submitted_and_flags_override_it() {
    let (fake, home) = (Fake::start(Kind::Ours).await, Home::new());
    home.write("jobs/data/a.txt", "a");
    home.write("vars", "# a comment\nB=2\n\nC=from file\n");
    home.write(
        "jobs/job.toml",
        "image = 'i@sha256:1'\nargs = ['a', 'b']\nclass = 'always_on.test'\nnamespace = 'n'\ntag = 't'\n\
         artifact = '/artifacts'\ntrusted = true\nidempotency_key = 'k1'\n[env]\nZ = '1'\nB = '1'\n\
         [limits]\nexecution = 7\ndownload = 8\n[[volumes]]\nsource = 'data'\npath = '/volume/in'\n\
         [[outputs]]\npath = '/output/x'\nto = 'post+https://h/x'\nfields = { key = 'v' }\n",
    );
    let args = [
        "submit",
        "--detach",
        "--file",
        "jobs/job.toml",
        "--limits",
        "execution=9",
        "--tag",
        "u",
        "--env-file",
        "vars",
        "--env",
        "C=3",
        "--deliver",
        "/output/y=https://h/y",
        "--",
        "c",
    ];
    let output = job(&home, &fake.url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let sent = fake.submissions().pop().unwrap();
    assert_eq!(sent.key.as_deref(), Some("k1"));
    let mut body = sent.body;
    assert_eq!(body["volumes"][0]["relative_path"], "in");
    body["volumes"] = Value::Null;
    assert_eq!(
        body,
        json!({
            "target_validator_hotkey": "5v", "executor_class": "always_on.test", "docker_image": "i@sha256:1",
            "job_namespace": "n", "args": ["c"], "env": {"Z": "1", "B": "2", "C": "3"}, "use_gpu": false,
            "artifacts_dir": "/artifacts", "on_trusted_miner": true, "download_time_limit": 8,
            "execution_time_limit": 9, "streaming_start_time_limit": 5, "upload_time_limit": 60, "volumes": null,
            "uploads": [
                {"output_upload_type": "single_file_post", "url": "https://h/x", "form_fields": {"key": "v"},
                 "relative_path": "x", "signed_headers": null},
                {"output_upload_type": "single_file_put", "url": "https://h/y", "relative_path": "y",
                 "signed_headers": null}],
            "tag": "u",
        })
    );
    // From standard input, too.
    let file = std::fs::File::open(home.path().join("jobs/job.toml")).unwrap();
    std::fs::create_dir(home.path().join("data")).unwrap();
    let output = job(&home, &fake.url, &["submit", "-q", "-f", "-"])
        .stdin(file)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn everything_wrong_with_a_job_is_told_at_once() {
    let home = Home::new();
    home.write(
        "job.toml",
        "imge = 'i'\nclas = 'always_on.test'\nargs = 'one'\n\n[limits]\nexecution = 100000\n\n\
         [[volumes]]\nsource = 's3://B/x'\npath = '/volume/x'\n\n[[outputs]]\npath = '/output/x'\n",
    );
    let nobody = "http://127.0.0.1:1";
    let output = job(&home, nobody, &["submit", "--file", "job.toml"])
        .output()
        .await
        .unwrap();
    insta::assert_snapshot!("job_file_problems", home.told(&output));
    let args = [
        "submit",
        "--volume",
        "x",
        "--volume",
        "none:/volume/x",
        "--volume",
        "hf://x:/volume/y",
        "--deliver",
        "/output/x",
        "--deliver",
        "/etc/x=https://h/x?secret",
        "--env",
        "=1",
        "--env",
        "NOT_SET",
        "--limits",
        "excution=1,upload=x",
        "--max-cost",
        "much",
        "--upload-to",
        "bucket",
        "i",
    ];
    let output = job(&home, nobody, &args).output().await.unwrap();
    insta::assert_snapshot!("flag_problems", home.told(&output));
    let args = [
        "submit",
        "--volume",
        "none:/volume/x",
        "--artifact",
        "a",
        "--idempotency-key",
        "a b",
        "--deliver",
        "/output/x=https://h",
        "--deliver",
        "/output/x=https://h",
        "I mage",
        "--",
        "a",
        "",
    ];
    let output = job(&home, nobody, &args).output().await.unwrap();
    insta::assert_snapshot!("job_problems", home.told(&output));
    // Nobody is there who could be asked.
    let output = job(&home, nobody, &["submit"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("there is no image"), "{output:?}");
}

#[tokio::test]
async fn the_example_is_a_job_file() {
    let home = Home::new();
    let example = Command::from(home.horde(["job", "submit", "--example"]))
        .output()
        .await
        .unwrap();
    assert_eq!(example.status.code(), Some(0), "{example:?}");
    home.write("job.toml", &text(&example.stdout));
    home.write("data/words.txt", "b\na\n");
    let fake = Fake::start(Kind::Ours).await;
    let output = job(&home, &fake.url, &["submit", "--file", "job.toml", "--quiet"])
        .output()
        .await
        .unwrap();
    assert_eq!(text(&output.stdout), "job-0\n", "{output:?}");
}

/// Sends the first half of a file and breaks off; sends the rest to those who say what they have.
fn half(content: &[u8], seen: &Mutex<Vec<Option<String>>>, request: &Request) -> axum::response::Response {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let range = header("range");
    seen.lock().unwrap().push(range.clone());
    let answer = axum::http::Response::builder().header("etag", "\"v1\"");
    let Some(range) = range else {
        let first = content[..content.len() / 2].to_vec();
        let broken = futures_util::stream::iter([Ok(first), Err(std::io::Error::other("the line broke"))]);
        return answer
            .header("content-length", content.len())
            .body(Body::from_stream(broken))
            .unwrap();
    };
    assert_eq!(header("if-range").as_deref(), Some("\"v1\""));
    let start: usize = range
        .strip_prefix("bytes=")
        .unwrap()
        .strip_suffix('-')
        .unwrap()
        .parse()
        .unwrap();
    let place = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(content));
    answer
        .status(206)
        .header("content-range", place)
        .header("repr-digest", format!("sha-256=:{digest}:"))
        .body(Body::from(content[start..].to_vec()))
        .unwrap()
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off_and_is_verified() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = world.validator().await;
    let url = format!("http://{}", world.address);
    let content: Arc<Vec<u8>> = Arc::new((0..300_000_u32).flat_map(u32::to_be_bytes).collect());
    let (seen, served) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&content));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let output = format!("/output/x=http://{}/x", listener.local_addr().unwrap());
    let all = Arc::clone(&seen);
    let app =
        Router::new().fallback(move |request: Request| std::future::ready(half(&served, &all, &request)));
    let tasks = Tasks::new();
    tasks.spawn("files", async move { axum::serve(listener, app).await.unwrap() });
    let submitted = job(
        &home,
        &url,
        &["submit", "--quiet", "--deliver", &output, "busybox"],
    )
    .output()
    .await
    .unwrap();
    let uuid = text(&submitted.stdout).trim().to_owned();
    drop(pushed(&mut validator).await);
    let metadata = json!({"miner_response": {"docker_process_stderr": "", "docker_process_stdout": "",
        "artifacts": {}, "upload_results": {"x": "{}"}}});
    report(&mut validator, &uuid, "completed", metadata).await;
    let args = ["download", "--to", "got", "--json", &uuid];
    let output = job(&home, &url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["files"][0]["verified"], "sha256", "{told}");
    assert!(std::fs::read(home.path().join("got/output/x")).unwrap() == *content);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let half = format!("bytes={}-", content.len() / 2);
    assert_eq!(seen, [None, Some(half)]);
    tasks.abort();
}

#[tokio::test]
async fn nothing_of_a_hostile_peer_lands_outside_of_the_folder() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = world.validator().await;
    let url = format!("http://{}", world.address);
    let args = ["submit", "--quiet", "--artifact", "/a", "busybox"];
    let output = job(&home, &url, &args).output().await.unwrap();
    let uuid = text(&output.stdout).trim().to_owned();
    drop(pushed(&mut validator).await);
    let artifacts = json!({"/a/good": "YQ==", "/a/../../evil": "YQ==", "../evil": "YQ==", "/a/../evil": "YQ==",
        "/a/.horde-0.part": "YQ==", "/a/broken": "?", "/etc/passwd": "YQ=="});
    let metadata = json!({"miner_response": {"docker_process_stderr": "", "docker_process_stdout": "",
        "artifacts": artifacts, "upload_results": {}}});
    report(&mut validator, &uuid, "completed", metadata).await;
    let args = ["download", "--to", "in/got", "--json", &uuid];
    let output = job(&home, &url, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["failed"].as_array().unwrap().len(), 5, "{told}");
    let got = home.path().join("in/got");
    assert_eq!(std::fs::read(got.join("artifacts/good")).unwrap(), b"a");
    assert_eq!(std::fs::read(got.join("artifacts/etc/passwd")).unwrap(), b"a");
    let names = |folder: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    // Besides the folder there is only the submission's own note of the job.
    assert_eq!(names(home.path()), [".local", "in"]);
    assert_eq!(names(&home.path().join(".local/share/horde")), ["recent-jobs"]);
    assert_eq!(names(&home.path().join("in")), ["got"]);
    assert_eq!(names(&got), ["artifacts"]);
    assert_eq!(names(&got.join("artifacts")), ["etc", "good"]);
}
