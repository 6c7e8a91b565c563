//! The commands that read and end jobs, against a played facilitator: one that can be as slow, as old and as hostile as a
//! test needs it; and against a real one, for what is signed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::crypto::signed::full_request_payload;
use horde::core::proto::sdk_facilitator::RequestSignature;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::facilitator::{World, pushed, report};
use crate::support::Home;

const A: &str = "3f2a0000-0000-4000-8000-00000000000a";
const B: &str = "3f2b0000-0000-4000-8000-00000000000b";
const C: &str = "91bc0000-0000-4000-8000-00000000000c";

/// What a stream of a job is, as the facilitator has it.
#[derive(Default)]
struct Log {
    /// From this byte of the stream on it is kept.
    from: u64,
    bytes: Vec<u8>,
    ended: bool,
    live: bool,
    omitted: u64,
}

/// What the played facilitator does and has seen.
#[derive(Default)]
struct Play {
    jobs: Vec<Value>,
    /// None for a facilitator of the reference, which knows no such paths.
    logs: Option<HashMap<(String, String), Log>>,
    /// Most bytes of a piece of a log.
    piece: usize,
    /// How often a log's connection breaks in the middle, before it holds.
    breaks: usize,
    /// The answer to a cancel, by job.
    cancels: HashMap<String, (u16, Value)>,
    /// Jobs of a page above which it is too large.
    page_max: Option<usize>,
    /// What was asked, method and path, and what came with it.
    asked: Vec<(String, HashMap<String, String>, Value)>,
}

/// A facilitator that is played.
#[derive(Clone)]
struct Stage {
    play: Arc<Mutex<Play>>,
    address: SocketAddr,
}

impl Stage {
    async fn start(jobs: Vec<Value>) -> Self {
        let play = Arc::new(Mutex::new(Play {
            jobs,
            piece: usize::MAX,
            ..Play::default()
        }));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let stage = Self {
            play,
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new().fallback(answer).with_state(stage.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        stage
    }

    fn play(&self) -> MutexGuard<'_, Play> {
        self.play.lock().unwrap()
    }

    fn command(&self, home: &Home, args: &[&str]) -> Command {
        let url = format!("http://{}", self.address);
        let mut all = vec!["job", args[0], "--facilitator", &url, "--key-uri", "//Charlie"];
        all.extend(&args[1..]);
        Command::from(home.horde(all))
    }

    async fn run(&self, home: &Home, args: &[&str]) -> Output {
        self.command(home, args).output().await.unwrap()
    }

    fn log(&self, job: &str, stream: &str, log: Log) {
        let mut play = self.play();
        let logs = play.logs.get_or_insert_default();
        logs.insert((job.to_owned(), stream.to_owned()), log);
    }

    /// Changes a log while it is followed.
    fn change(&self, job: &str, stream: &str, change: impl FnOnce(&mut Log)) {
        let mut play = self.play();
        let key = (job.to_owned(), stream.to_owned());
        change(play.logs.as_mut().unwrap().get_mut(&key).unwrap());
    }

    async fn asked(&self, what: &str) -> bool {
        for _ in 0..600 {
            if self
                .play()
                .asked
                .iter()
                .any(|(asked, ..)| asked.starts_with(what))
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

fn json_answer(status: u16, body: &Value) -> Response {
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

async fn answer(State(stage): State<Stage>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 24).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path().to_owned();
    let query: HashMap<String, String> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let asked = format!("{} {path}", head.method);
    let mut play = stage.play();
    play.asked.push((asked, headers.collect(), body));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["auth", "nonce"] => json_answer(200, &json!({"nonce": "n"})),
        ["auth", "login"] => json_answer(200, &json!({"token": "t"})),
        ["api", "v1", "cheated-job"] => json_answer(201, &json!({"message": "Job reported as cheated"})),
        ["api", "v1", "jobs"] => page(&play, &query),
        ["api", "v1", "jobs", id] => match play.jobs.iter().find(|job| job["uuid"] == **id) {
            Some(job) => json_answer(200, job),
            None => json_answer(404, &json!({"detail": "No Job matches the given query."})),
        },
        ["api", "v1", "jobs", id, "cancel"] => match play.cancels.get(*id) {
            Some((status, body)) => json_answer(*status, body),
            None => json_answer(404, &json!({"detail": "Not found."})),
        },
        ["api", "v1", "jobs", id, "logs"] => {
            let id = (*id).to_owned();
            log(&mut play, id, &query)
        }
        _ => json_answer(404, &json!({"detail": "Not found."})),
    }
}

fn page(play: &Play, query: &HashMap<String, String>) -> Response {
    let number = |name: &str| query[name].parse::<usize>().unwrap();
    let (page, size) = (number("page"), number("page_size"));
    if play.page_max.is_some_and(|max| size > max) {
        return json_answer(413, &json!({"detail": "too large together"}));
    }
    let tagged = |job: &&Value| query.get("tag").is_none_or(|tag| job["tag"] == **tag);
    let jobs: Vec<&Value> = play.jobs.iter().filter(tagged).collect();
    let from = (page - 1) * size;
    let results: Vec<&Value> = jobs.iter().copied().skip(from).take(size).collect();
    let next = (from + size < jobs.len()).then_some("more");
    json_answer(
        200,
        &json!({"count": jobs.len(), "next": next, "previous": null, "results": results}),
    )
}

fn log(play: &mut Play, id: String, query: &HashMap<String, String>) -> Response {
    let piece = play.piece;
    let does_break = play.breaks > 0;
    let Some(logs) = &play.logs else {
        return json_answer(404, &json!({"detail": "Not found."}));
    };
    let log = &logs[&(id, query["stream"].clone())];
    let asked: u64 = query["offset"].parse().unwrap();
    // A log that is not kept from where it is asked for begins later.
    let offset = asked.max(log.from);
    let start = usize::try_from(offset - log.from).unwrap().min(log.bytes.len());
    let end = start.saturating_add(piece).min(log.bytes.len());
    let data = &log.bytes[start..end];
    let body = json!({"stream": query["stream"], "offset": offset,
        "next_offset": offset + u64::try_from(data.len()).unwrap(), "data": STANDARD.encode(data),
        "ended": log.ended && end == log.bytes.len(), "live": log.live, "omitted_bytes": log.omitted});
    if does_break && !data.is_empty() {
        play.breaks -= 1;
        // Half of an answer, and the connection is gone.
        let text = body.to_string();
        let half: String = text.chars().take(text.len() / 2).collect();
        let broken =
            futures_util::stream::iter([Ok(half), Err(std::io::Error::other("the connection breaks here"))]);
        return Response::new(Body::from_stream(broken));
    }
    json_answer(200, &body)
}

/// A job as a facilitator shows it.
fn job(uuid: &str, steps: &[&str], metadata: &Value) -> Value {
    let history: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(index, status)| {
            let metadata = if index + 1 == steps.len() {
                metadata.clone()
            } else {
                json!({})
            };
            json!({"status": status, "metadata": metadata, "created_at": format!("2026-11-25T18:00:{index:02}Z")})
        })
        .collect();
    json!({
        "uuid": uuid, "executor_class": "always_on.test", "created_at": "2026-11-25T18:00:00Z",
        "last_update": "2026-11-25T18:00:09Z", "status": "x", "docker_image": "busybox:1", "job_namespace": null,
        "args": ["work"], "env": {}, "use_gpu": true, "tag": "", "stdout": "", "stderr": "", "volumes": [],
        "uploads": [], "artifacts": {}, "artifacts_dir": "", "target_validator_hotkey": "5V",
        "on_trusted_miner": false, "upload_results": {}, "download_time_limit": 60, "execution_time_limit": 120,
        "streaming_start_time_limit": 5, "upload_time_limit": 60, "streaming_client_cert": "",
        "streaming_server_cert": "", "streaming_server_address": "", "streaming_server_port": 0,
        "status_history": history,
    })
}

fn running(uuid: &str) -> Value {
    let steps = ["sent", "received", "accepted", "executor_ready", "volumes_ready"];
    job(uuid, &steps, &json!({}))
}

fn completed(uuid: &str, stdout: &str, stderr: &str) -> Value {
    let mut job = job(uuid, &["sent", "received", "completed"], &json!({}));
    job["stdout"] = stdout.into();
    job["stderr"] = stderr.into();
    job
}

fn cancelled(uuid: &str) -> Value {
    let details = json!({"job_failure_details": {"reason": "unknown", "stage": "execution",
        "message": "cancelled by the user", "context": {"cancelled": true}}});
    job(uuid, &["sent", "received", "failed"], &details)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Checks the exit code and returns both streams.
fn ended(output: &Output, code: i32) -> (String, String) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    (stdout, stderr)
}

fn parsed(output: &Output, code: i32) -> Value {
    serde_json::from_str(&ended(output, code).0).unwrap()
}

#[tokio::test]
async fn a_job_is_found_by_the_beginning_of_its_identity_that_no_other_has() {
    let stage = Stage::start(vec![running(A), running(B), running(C)]).await;
    let home = Home::new();
    let shown = parsed(&stage.run(&home, &["show", "91B", "--json"]).await, 0);
    assert_eq!(shown["uuid"], C);
    let (stdout, stderr) = ended(&stage.run(&home, &["show", "3f2"]).await, 2);
    assert!(stdout.is_empty());
    assert!(
        stderr.contains(A) && stderr.contains(B) && !stderr.contains(C),
        "{stderr}"
    );
    let (_, stderr) = ended(&stage.run(&home, &["explain", "777"]).await, 3);
    assert!(stderr.contains("no job among the newest 3"), "{stderr}");
    for (id, code) in [
        ("nope", 2),
        ("", 2),
        ("../3f", 2),
        (&A.replace("3f2a", "0000"), 3),
    ] {
        ended(&stage.run(&home, &["logs", id]).await, code);
    }
}

#[tokio::test]
async fn jobs_are_listed_as_the_filters_say_over_pages_of_any_size() {
    let mut jobs = vec![running(A), completed(B, "", ""), cancelled(C)];
    jobs[1]["tag"] = "nightly".into();
    jobs[1]["created_at"] = "2026-11-24T18:00:00Z".into();
    jobs[2]["job_namespace"] = "sums".into();
    jobs[2]["created_at"] = "2026-11-23T18:00:00Z".into();
    let stage = Stage::start(jobs).await;
    stage.play().page_max = Some(1);
    let home = Home::new();
    for (args, expected) in [
        (&[][..], &[A, B, C][..]),
        (&["--limit", "2"], &[A, B]),
        (&["--all"], &[A, B, C]),
        (&["--status", "open"], &[A]),
        (&["--status", "ended"], &[B, C]),
        (&["--status", "completed,cancelled"], &[B, C]),
        (&["--status", "failed"], &[]),
        (&["--tag", "nightly"], &[B]),
        (&["--namespace", "sums"], &[C]),
        (&["--class", "spin_up-4min.gpu-24gb"], &[]),
        (&["--since", "2026-11-24T00:00:00Z"], &[A, B]),
        (&["--until", "2026-11-24T00:00:00Z"], &[C]),
        (
            &[
                "--since",
                "2026-11-24T00:00:00Z",
                "--until",
                "2026-11-25T00:00:00Z",
            ],
            &[B],
        ),
    ] {
        let all = [&["list", "--json"], args].concat();
        let listed = parsed(&stage.run(&home, &all).await, 0);
        let listed: Vec<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["uuid"].as_str().unwrap())
            .collect();
        assert_eq!(listed, expected, "{args:?}");
    }
    let (stdout, stderr) = ended(&stage.run(&home, &["list", "--status", "failed"]).await, 0);
    assert!(stdout.is_empty() && stderr.contains("no such jobs"), "{stderr}");
    let (stdout, _) = ended(&stage.run(&home, &["list", "--quiet"]).await, 0);
    assert_eq!(stdout, format!("{A}\n{B}\n{C}\n"));
    let (_, stderr) = ended(&stage.run(&home, &["list", "--status", "nope"]).await, 2);
    assert!(stderr.contains("horde_failed"), "{stderr}");
    insta::assert_snapshot!(text(&stage.run(&home, &["list"]).await.stdout));
}

#[tokio::test]
async fn a_job_is_shown_with_everything_that_is_known() {
    let mut job = cancelled(A);
    job["env"] = json!({"WHO": "you"});
    job["volumes"] =
        json!([{"volume_type": "single_file", "url": "https://example.com/in", "relative_path": "in"}]);
    job["uploads"] = json!([{"output_upload_type": "single_file_put", "url": "https://example.com/out",
        "relative_path": "out", "signed_headers": null}]);
    let stage = Stage::start(vec![job]).await;
    insta::assert_snapshot!(text(&stage.run(&Home::new(), &["show", A]).await.stdout));
}

#[tokio::test]
async fn the_output_of_a_job_that_has_ended_comes_from_its_result_where_there_are_no_logs() {
    let stage = Stage::start(vec![completed(A, "one\ntwo\nthree\n", "warned\n"), running(B)]).await;
    let home = Home::new();
    let (stdout, stderr) = ended(&stage.run(&home, &["logs", A]).await, 0);
    assert_eq!(
        (stdout.as_str(), stderr.as_str()),
        ("one\ntwo\nthree\n", "warned\n")
    );
    let (stdout, stderr) = ended(&stage.run(&home, &["logs", A, "--stream", "stderr"]).await, 0);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("warned\n", ""));
    let (stdout, _) = ended(&stage.run(&home, &["logs", A, "--tail", "2"]).await, 0);
    assert_eq!(stdout, "two\nthree\n");
    let told = parsed(&stage.run(&home, &["logs", A, "--json", "--tail", "1"]).await, 0);
    assert_eq!(told["streams"][0]["text"], "three\n");
    assert_eq!(
        (&told["streams"][0]["bytes"], &told["complete"]),
        (&json!(14), &json!(true))
    );

    let (stdout, stderr) = ended(&stage.run(&home, &["logs", B]).await, 5);
    assert!(
        stdout.is_empty() && stderr.contains("before it has ended"),
        "{stderr}"
    );
    // Following it waits for the end.
    stage.play().asked.clear();
    let play = async {
        assert!(stage.asked(&format!("GET /api/v1/jobs/{B}/logs")).await);
        stage.play().jobs[1] = completed(B, "late\n", "");
    };
    let args = ["logs", B, "--follow"];
    let (output, ()) = tokio::join!(stage.run(&home, &args), play);
    let (stdout, stderr) = ended(&output, 0);
    assert_eq!(stdout, "late\n");
    assert!(
        stderr.contains("does not show what a job writes while it runs"),
        "{stderr}"
    );
}

#[tokio::test]
async fn logs_are_followed_without_gap_or_repetition_over_broken_connections() {
    let stage = Stage::start(vec![running(A)]).await;
    let home = Home::new();
    let written: Vec<u8> = (0..2000)
        .flat_map(|n| format!("żółw {n}\n").into_bytes())
        .collect();
    let begun = written[..1000].to_vec();
    let live = |bytes: Vec<u8>| Log {
        bytes,
        live: true,
        ..Log::default()
    };
    stage.log(A, "stdout", live(begun));
    stage.log(A, "stderr", live(Vec::new()));
    {
        let mut play = stage.play();
        play.piece = 777;
        play.breaks = 3;
    }
    let play = async {
        assert!(stage.asked(&format!("GET /api/v1/jobs/{A}/logs")).await);
        stage.change(A, "stdout", |log| log.bytes.clone_from(&written));
        stage.change(A, "stderr", |log| log.bytes = b"warned\n".to_vec());
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.play().jobs[0] = completed(A, "", "");
        for stream in ["stdout", "stderr"] {
            stage.change(A, stream, |log| log.ended = true);
        }
    };
    let args = ["logs", A, "--follow"];
    let (output, ()) = tokio::join!(stage.run(&home, &args), play);
    let (stdout, stderr) = ended(&output, 0);
    assert!(
        stdout.as_bytes() == written,
        "{} of {}",
        stdout.len(),
        written.len()
    );
    assert_eq!(stderr, "warned\n");
    assert_eq!(stage.play().breaks, 0);

    // The same as records, which together are the stream.
    let output = stage
        .run(&home, &["logs", A, "--follow", "--json", "--stream", "stdout"])
        .await;
    let (stdout, _) = ended(&output, 0);
    let records: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut together = String::new();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record["seq"], index + 1);
        if record["type"] == "output" {
            assert_eq!(record["offset"], together.len());
            together.push_str(record["text"].as_str().unwrap());
        }
    }
    assert!(together.as_bytes() == written);
    let last = records.last().unwrap();
    assert_eq!(
        (&last["type"], &last["status"], &last["exit_code"]),
        (&json!("end"), &json!("completed"), &json!(0))
    );

    let (stdout, _) = ended(
        &stage.run(&home, &["logs", A, "--follow", "--tail", "1"]).await,
        0,
    );
    assert_eq!(stdout, "żółw 1999\n");
}

#[tokio::test]
async fn a_job_that_is_followed_is_heard_while_it_runs_and_each_byte_once() {
    let stage = Stage::start(vec![running(A)]).await;
    let home = Home::new();
    for stream in ["stdout", "stderr"] {
        let log = Log {
            bytes: b"begun\n".to_vec(),
            live: true,
            ..Log::default()
        };
        stage.log(A, stream, log);
    }
    let mut command = stage.command(&home, &["wait", A]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It is heard before the job has ended.
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line())
        .await
        .unwrap();
    assert_eq!(line.unwrap().as_deref(), Some("begun"));
    // Of one stream the facilitator tells the rest, of the other only the result does.
    stage.change(A, "stdout", |log| {
        log.bytes = b"begun\nended\n".to_vec();
        log.ended = true;
    });
    stage.change(A, "stderr", |log| log.from = 100);
    let mut done = completed(A, "not this\n", "begun\nwarned\n");
    done["artifacts"] = json!({"a.txt": "eA=="});
    stage.play().jobs[0] = done;
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ended"));
    assert_eq!(lines.next_line().await.unwrap(), None);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = text(&output.stderr);
    assert_eq!(
        (
            stderr.matches("begun\n").count(),
            stderr.matches("warned\n").count()
        ),
        (1, 1),
        "{stderr}"
    );
}

#[tokio::test]
async fn what_is_lost_of_a_log_is_told() {
    let stage = Stage::start(vec![completed(A, "", "")]).await;
    let home = Home::new();
    let log = |from, bytes: &[u8], omitted| Log {
        from,
        bytes: bytes.to_vec(),
        ended: true,
        live: true,
        omitted,
    };
    stage.log(A, "stdout", log(100, b"rest\n", 0));
    stage.log(A, "stderr", log(0, b"\xff", 7));
    let (stdout, stderr) = ended(
        &stage
            .run(&home, &["logs", A, "--follow", "--stream", "stdout"])
            .await,
        0,
    );
    assert_eq!(stdout, "rest\n");
    assert!(stderr.contains("[100 bytes of stdout are lost here]"), "{stderr}");
    let output = stage.run(&home, &["logs", A, "--stream", "stderr"]).await;
    assert_eq!(output.stdout, b"\xff", "a pipe gets the bytes as they are");
    assert!(text(&output.stderr).contains("7 bytes of stderr were not kept"));
    let told = parsed(&stage.run(&home, &["logs", A, "--json"]).await, 0);
    assert_eq!(told["streams"][0]["omitted_bytes"], 100);
    assert_eq!(told["streams"][1]["base64"], "/w==");
}

#[tokio::test]
async fn a_job_is_waited_for_until_what_was_named_has_come() {
    let rejection =
        json!({"job_rejection_details": {"rejected_by": "miner", "reason": "busy", "message": "no"}});
    let stage = Stage::start(vec![
        running(A),
        job(B, &["sent", "rejected"], &rejection),
        cancelled(C),
    ])
    .await;
    let home = Home::new();
    let waited = parsed(
        &stage.run(&home, &["wait", A, "--for", "running", "--json"]).await,
        0,
    );
    assert_eq!(waited["uuid"], A);
    ended(&stage.run(&home, &["wait", A, "--for", "accepted"]).await, 0);
    let (_, stderr) = ended(
        &stage
            .run(&home, &["wait", A, "--for", "execution_done", "--timeout", "0"])
            .await,
        7,
    );
    assert!(stderr.contains(&format!("horde job wait {A}")), "{stderr}");
    // What can come no more ends as the job did.
    ended(&stage.run(&home, &["wait", B, "--for", "running"]).await, 126);
    let (_, stderr) = ended(&stage.run(&home, &["wait", C]).await, 130);
    assert!(
        stderr.contains("cancelled by its user") && stderr.contains("horde job explain"),
        "{stderr}"
    );
    ended(&stage.run(&home, &["wait", A, "--for", "soon"]).await, 2);
}

#[tokio::test]
async fn jobs_are_cancelled_one_by_one_and_each_is_accounted_for() {
    let stage = Stage::start(vec![running(A), running(B), completed(C, "", "")]).await;
    let home = Home::new();
    // A facilitator of the reference knows no such path.
    let (_, stderr) = ended(&stage.run(&home, &["cancel", A]).await, 5);
    assert!(stderr.contains("this facilitator cannot cancel jobs"), "{stderr}");
    {
        let mut play = stage.play();
        let under_way = (202, play.jobs[0].clone());
        play.cancels.insert(A.to_owned(), under_way);
        let refusal = (409, json!({"error": "its validator cannot cancel"}));
        play.cancels.insert(B.to_owned(), refusal);
    }
    let output = stage.run(&home, &["cancel", A, B, C, "777", "--json"]).await;
    let told = parsed(&output, 8);
    let results: Vec<&str> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["cancelling", "cannot", "ended", "error"]);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("its validator cannot cancel") && stderr.contains("begins with 777"),
        "{stderr}"
    );
    let (stdout, _) = ended(&stage.run(&home, &["cancel", A]).await, 0);
    assert_eq!(stdout, format!("{A} cancelling (volumes_ready)\n"));

    let (_, stderr) = ended(
        &stage.run(&home, &["cancel", A, "--wait", "--timeout", "0"]).await,
        7,
    );
    assert!(stderr.contains("the cancel goes on"), "{stderr}");
    let play = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.play().jobs[0] = cancelled(A);
    };
    let args = ["cancel", A, "--wait"];
    let (output, ()) = tokio::join!(stage.run(&home, &args), play);
    assert_eq!(ended(&output, 0).0, format!("{A} cancelled\n"));
}

/// Sends an interrupt once standard error has said so.
async fn interrupt_at(
    lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    id: u32,
    words: &str,
) {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(words) {
                return true;
            }
        }
        false
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap(),
        "{words}"
    );
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::INT).unwrap();
}

#[tokio::test]
async fn the_first_interrupt_leaves_a_job_alone_and_the_second_cancels_it_if_asked_to() {
    let stage = Stage::start(vec![running(A)]).await;
    {
        let mut play = stage.play();
        let under_way = (202, play.jobs[0].clone());
        play.cancels.insert(A.to_owned(), under_way);
    }
    let home = Home::new();
    let start = |args: &[&str]| {
        let mut command = stage.command(&home, args);
        command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        (child, lines)
    };
    let (mut child, mut lines) = start(&["wait", A]);
    interrupt_at(&mut lines, child.id().unwrap(), "volumes_ready").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    let words = lines.next_line().await.unwrap().unwrap();
    assert_eq!(words, format!("the job goes on; `horde job wait {A}` follows it"));
    let is_cancel =
        |(asked, ..): &(String, HashMap<String, String>, Value)| asked.starts_with("POST /api/v1/jobs");
    assert!(!stage.play().asked.iter().any(is_cancel));

    let (mut child, mut lines) = start(&["wait", A, "--cancel-on-interrupt"]);
    let id = child.id().unwrap();
    interrupt_at(&mut lines, id, "volumes_ready").await;
    interrupt_at(&mut lines, id, "another Ctrl-C within 3 s cancels it").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    let words = lines.next_line().await.unwrap().unwrap();
    assert!(words.contains("the cancel is under way"), "{words}");
    assert!(stage.play().asked.iter().any(is_cancel));
}

#[tokio::test]
async fn a_job_is_explained_in_words_and_as_json() {
    let details = json!({"job_failure_details": {"reason": "timeout", "stage": "execution",
        "message": "Execution time exceeded", "docker_process_stderr": "step 7\n"}});
    let steps = [
        "sent",
        "received",
        "accepted",
        "executor_ready",
        "volumes_ready",
        "failed",
    ];
    let stage = Stage::start(vec![job(A, &steps, &details)]).await;
    let home = Home::new();
    insta::assert_snapshot!(text(&stage.run(&home, &["explain", A]).await.stdout));
    let told = parsed(&stage.run(&home, &["explain", A, "--json"]).await, 0);
    let keys: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "job",
            "status",
            "ended",
            "code",
            "reason",
            "blame",
            "reported_by",
            "waiting",
            "evidence",
            "stages",
            "total_seconds",
            "remedies",
            "exit_code"
        ]
    );
    assert_eq!(
        (&told["code"], &told["blame"]),
        (&json!("failed.timeout.execution"), &json!("job"))
    );
    assert_eq!(told["exit_code"], 124);
    assert!(
        told["remedies"][0]
            .as_str()
            .unwrap()
            .contains("--execution-limit 240")
    );
}

#[tokio::test]
async fn a_report_of_a_cheater_is_checked_and_signed_over_all_of_it() {
    let mut trusted = completed(B, "41\n", "");
    trusted["on_trusted_miner"] = true.into();
    let stage = Stage::start(vec![completed(A, "42\n", ""), trusted, completed(C, "42\n", "")]).await;
    let home = Home::new();
    let mut args = vec![
        "report-cheated",
        A,
        B,
        "--details",
        r#"{"expected":"41","ż":[1]}"#,
        "--json",
        "--dry-run",
    ];
    let told = parsed(&stage.run(&home, &args).await, 11);
    assert_eq!(
        told["plan"]["changes"][0]["to"],
        format!("by {B}, which differs in stdout")
    );
    args.pop();
    let (_, stderr) = ended(&stage.run(&home, &args).await, 2);
    assert!(stderr.contains("needs a yes"), "{stderr}");
    assert!(
        !stage
            .play()
            .asked
            .iter()
            .any(|(asked, ..)| asked.contains("cheated"))
    );
    args.push("--yes");
    let told = parsed(&stage.run(&home, &args).await, 0);
    assert_eq!(
        (&told["reported"], &told["differs"]),
        (&json!(true), &json!(["stdout"]))
    );
    let (_, headers, body) = stage
        .play()
        .asked
        .iter()
        .find(|(asked, ..)| asked == "POST /api/v1/cheated-job/")
        .cloned()
        .unwrap();
    assert_eq!(
        body,
        json!({"job_uuid": A, "trusted_job_uuid": B, "details": {"expected": "41", "ż": [1]}})
    );
    let signature = RequestSignature::from_headers(|name| headers.get(name).map(String::as_str)).unwrap();
    assert_eq!(headers["x-ch-signature-scope"], "FullRequest");
    signature.verify(&full_request_payload(&body)).unwrap();

    for (args, words, code) in [
        (
            &["report-cheated", A, C][..],
            "did not run on the trusted miner",
            5,
        ),
        (&["report-cheated", B, A], "ran on the trusted miner itself", 5),
        (&["report-cheated", A, B, "--details", "x"], "it must be JSON", 2),
        (&["report-cheated", A, "777"], "no job among", 3),
    ] {
        let (_, stderr) = ended(&stage.run(&home, args).await, code);
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[tokio::test]
async fn a_job_is_submitted_again_with_a_signature_of_its_own() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let home = Home::new();
    let url = format!("http://{}", world.address);
    let run = async |args: &[&str]| {
        let mut all = vec!["job", args[0], "--facilitator", &url, "--key-uri", "//Charlie"];
        all.extend(&args[1..]);
        Command::from(home.horde(all)).output().await.unwrap()
    };
    home.write("data.txt", "hello");
    let expired =
        "/output/sum=https://b.example/k?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=0";
    let mut submit = vec![
        "submit",
        "--detach",
        "--class",
        "always_on.test",
        "--env",
        "Z=1",
        "--env",
        "A=2",
    ];
    submit.extend(["--volume", "data.txt:/volume/data.txt", "--deliver", expired]);
    submit.extend([
        "--namespace",
        "sums",
        "--execution-limit",
        "7",
        "busybox",
        "--",
        "echo",
        " x ",
    ]);
    let (stdout, _) = ended(&run(&submit).await, 0);
    let id = stdout.trim();
    let (_, first) = pushed(&mut validator).await;
    report(&mut validator, id, "received", Value::Null).await;

    let (_, stderr) = ended(&run(&["retry", id, "--detach"]).await, 5);
    assert!(
        stderr.contains("/output/sum was valid until 2020-01-01T00:01:00Z"),
        "{stderr}"
    );
    let plan = parsed(&run(&["retry", id, "--force", "--dry-run", "--json"]).await, 11);
    assert_eq!(plan["plan"]["request"]["execution_time_limit"], 7);
    assert_eq!(plan["plan"]["cost"]["charges"], false);
    assert!(!plan.to_string().contains("2020"), "{plan}");
    let beginning: String = id.chars().take(8).collect();
    let args = [
        "retry",
        &beginning,
        "--force",
        "--detach",
        "--execution-limit",
        "600",
        "--json",
    ];
    let again = parsed(&run(&args).await, 0);
    let (_, second) = pushed(&mut validator).await;
    second.verify().unwrap();
    assert_eq!(second.uuid.as_str(), again["uuid"]);
    assert_ne!(second.uuid, first.uuid);
    assert_ne!(second.signature, first.signature);
    let same = |mut request: horde::core::proto::facilitator_validator::JobRequest| {
        request.uuid.clone_from(&first.uuid);
        request.signature = None;
        request.execution_time_limit = 0;
        request
    };
    assert_eq!(same(second), same(first.clone()));

    let (_, stderr) = ended(&run(&["retry", id, "--force", "--detach", "--trusted"]).await, 0);
    assert!(stderr.contains("note: the URL of /output/sum"), "{stderr}");
    let (_, trusted) = pushed(&mut validator).await;
    assert!(trusted.on_trusted_miner);
    trusted.verify().unwrap();
}

#[tokio::test]
async fn what_hostile_peers_say_neither_steers_a_terminal_nor_breaks_json() {
    let hostile = format!("\u{1b}]0;owned\u{7}\u{1b}[2J\r\n{}", "y".repeat(1_000_000));
    let details = json!({"horde_failure_details": {"reported_by": hostile, "reason": hostile, "message": hostile,
        "context": {hostile.clone(): hostile, "n": [hostile]}}});
    let mut job = job(A, &["sent", "horde_failed"], &details);
    for key in [
        "docker_image",
        "tag",
        "job_namespace",
        "target_validator_hotkey",
        "stdout",
        "stderr",
    ] {
        job[key] = hostile.clone().into();
    }
    job["args"] = json!([hostile]);
    job["env"] = json!({hostile.clone(): hostile});
    job["artifacts"] = json!({hostile.clone(): "eA=="});
    job["upload_results"] = json!({hostile.clone(): "{}"});
    let stage = Stage::start(vec![job]).await;
    stage
        .play()
        .cancels
        .insert(A.to_owned(), (409, json!({"error": hostile})));
    let home = Home::new();
    for (args, code) in [
        (&["show", A][..], 0),
        (&["list"], 0),
        (&["explain", A], 0),
        (&["cancel", A], 0),
    ] {
        let output = stage.run(&home, args).await;
        let (stdout, stderr) = ended(&output, code);
        for c in stdout.chars().chain(stderr.chars()) {
            assert!(c == '\n' || !c.is_control(), "{args:?}: {c:?}");
        }
        let all = [args, &["--json"]].concat();
        parsed(&stage.run(&home, &all).await, code);
    }
    // What the horde says of a job's end is made harmless even where its output is not.
    let (_, stderr) = ended(&stage.run(&home, &["wait", A, "--json"]).await, 125);
    assert!(!stderr.contains('\u{1b}'));
}
