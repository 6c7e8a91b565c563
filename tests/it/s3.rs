//! Inputs, outputs and downloads of jobs at a real S3 server that checks every signature.

use std::path::Path;
use std::process::Stdio;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use horde::core::tasks::Tasks;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncBufReadExt;
use tokio::process::Command;

use crate::facilitator::{World, pushed, report};
use crate::support::{Home, SAMPLE_IMAGE, docker_is_there};
use crate::up::Network;

const ACCESS: &str = "horde-access";
const SECRET: &str = "horde-secret-key";
const BUCKET: &str = "bucket";

/// The size of a part of an upload, in bytes.
const PART: usize = 8 * 1024 * 1024;

/// An S3 server on loopback, with one bucket.
struct Server {
    dir: TempDir,
    url: String,
    /// Parts with a number from here on are refused; 0 lets all through.
    refused_from: Arc<AtomicU64>,
    /// Parts that were let through.
    parts: Arc<AtomicU64>,
    tasks: Tasks,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("horde-test-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (refused_from, parts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (refused, counted) = (Arc::clone(&refused_from), Arc::clone(&parts));
        let app = Router::new().fallback(move |request: Request| {
            answer(
                service.clone(),
                request,
                Arc::clone(&refused),
                Arc::clone(&counted),
            )
        });
        let app = app.layer(axum::extract::DefaultBodyLimit::disable());
        let tasks = Tasks::new();
        tasks.spawn("s3", async move { axum::serve(listener, app).await.unwrap() });
        Self {
            dir,
            url,
            refused_from,
            parts,
            tasks,
        }
    }

    fn put(&self, key: &str, content: &[u8]) {
        let path = self.dir.path().join(BUCKET).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(BUCKET).join(key)).ok()
    }

    /// Returns the only file below a folder of the bucket: its key and its content.
    fn only(&self, folder: &str) -> (String, Vec<u8>) {
        let root = self.dir.path().join(BUCKET);
        let mut found = Vec::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), 1, "{found:?}");
        let key = found[0].strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (key, std::fs::read(&found[0]).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn answer(
    service: S3Service,
    request: Request,
    refused_from: Arc<AtomicU64>,
    parts: Arc<AtomicU64>,
) -> axum::http::Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let part = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("partNumber="))
        .map(|number| number.parse::<u64>().unwrap());
    if let Some(part) = part {
        let from = refused_from.load(Ordering::SeqCst);
        if from > 0 && part >= from {
            // Not before all others have arrived: what of them would be let through is a race.
            while parts.load(Ordering::SeqCst) + 1 < from {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let words = "<Error><Code>AccessDenied</Code><Message>not now</Message></Error>";
            let answer = axum::http::Response::builder().status(403);
            return answer.body(Body::from(words)).unwrap();
        }
    }
    let answer = service
        .call(request.map(s3s::Body::http_body_unsync))
        .await
        .unwrap();
    // One whose sender has gone meanwhile does not come this far.
    if part.is_some() && answer.status().is_success() {
        parts.fetch_add(1, Ordering::SeqCst);
    }
    answer.map(Body::new)
}

/// Returns `horde job …` with the credentials of the server in its environment.
fn job(home: &Home, facilitator: &str, secret: &str, args: &[&str]) -> Command {
    let mut all = vec![
        "job",
        args[0],
        "--facilitator",
        facilitator,
        "--key-uri",
        "//Charlie",
    ];
    all.extend(&args[1..]);
    let mut command = Command::from(home.horde(all));
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .kill_on_drop(true);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Carries out what a job's request asks for with its addresses, as an executor does: no credentials, no headers.
async fn carry_out(request: &Value) -> (Vec<u8>, u16) {
    let http = reqwest::Client::new();
    let volume = &request["volume"]["volumes"][0];
    let url = volume["url"].as_str().or(volume["contents"].as_str()).unwrap();
    let input = http.get(url).send().await.unwrap().error_for_status().unwrap();
    let input = input.bytes().await.unwrap().to_vec();
    let url = request["output_upload"]["uploads"][0]["url"].as_str().unwrap();
    let mut output = input.clone();
    output.reverse();
    let sent = http.put(url).body(output).send().await.unwrap();
    (input, sent.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_and_outputs_of_s3_are_presigned_and_the_output_is_brought_home() {
    let (world, server, home) = (World::start().await, Server::start().await, Home::new());
    let mut validator = world.validator().await;
    let url = format!("http://{}", world.address);
    server.put("in/words.txt", b"stressed");
    let args = [
        "submit",
        "--s3-endpoint",
        &server.url,
        "--volume",
        "s3://bucket/in/words.txt:/volume/words.txt",
        "--deliver",
        "/output/d/out.txt=s3://bucket/out/a b.txt",
        "--tag",
        "mark",
        "busybox",
    ];
    let play = async {
        let (_, request) = pushed(&mut validator).await;
        request.verify().unwrap();
        let wire = serde_json::to_value(&request).unwrap();
        let (input, status) = carry_out(&wire).await;
        assert_eq!((input.as_slice(), status), (b"stressed".as_slice(), 200));
        let artifacts = json!({"/artifacts/a.bin": "YXJ0Cg=="});
        let metadata = json!({"miner_response": {"docker_process_stderr": "e", "docker_process_stdout": "o",
            "artifacts": artifacts, "upload_results": {"d/out.txt": "{}"}}});
        report(&mut validator, request.uuid.as_str(), "completed", metadata).await;
        request.uuid.as_str().to_owned()
    };
    let mut command = job(&home, &url, SECRET, &args);
    let (output, uuid) = tokio::join!(command.output(), play);
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(server.get("out/a b.txt").unwrap(), b"desserts");

    let fetch = [
        "download",
        "--s3-endpoint",
        &server.url,
        "--to",
        "got",
        "--streams",
        "--json",
        &uuid,
    ];
    let output = job(&home, &url, SECRET, &fetch).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["failed"], json!([]));
    let brought = told["files"].as_array().unwrap();
    let by_digest = brought.iter().find(|file| file["source"] == "output").unwrap();
    assert_eq!(by_digest["verified"], "md5", "{told}");
    let got = home.path().join("got");
    let all = [
        "artifacts/artifacts/a.bin",
        "output/d/out.txt",
        "stderr",
        "stdout",
    ];
    assert_eq!(files(&got), all);
    assert_eq!(std::fs::read(got.join("output/d/out.txt")).unwrap(), b"desserts");
    assert_eq!(std::fs::read(got.join("stdout")).unwrap(), b"o");

    // Nothing that is there is touched unless it is told to.
    std::fs::write(got.join("output/d/out.txt"), "mine").unwrap();
    let output = job(&home, &url, SECRET, &fetch).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("--force"), "{output:?}");
    assert_eq!(std::fs::read(got.join("output/d/out.txt")).unwrap(), b"mine");
    let only = [
        "download",
        "--s3-endpoint",
        &server.url,
        "--to",
        "got",
        "--force",
        "--delivered",
        "/output/d/out.txt",
        &uuid,
    ];
    let output = job(&home, &url, SECRET, &only).output().await.unwrap();
    assert_eq!(text(&output.stdout), "got/output/d/out.txt\n", "{output:?}");
    assert_eq!(std::fs::read(got.join("output/d/out.txt")).unwrap(), b"desserts");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_would_refuse_is_told_before_anything_is_submitted() {
    let (world, server, home) = (World::start().await, Server::start().await, Home::new());
    let _validator = world.validator().await;
    let url = format!("http://{}", world.address);
    let submit = async |secret: &str, more: &[&str]| {
        let args = [
            &["submit", "--detach", "--s3-endpoint", &server.url],
            more,
            &["busybox"],
        ]
        .concat();
        let output = job(&home, &url, secret, &args).output().await.unwrap();
        assert_eq!(text(&output.stdout), "", "{output:?}");
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let to = ["--deliver", "/output/x=s3://bucket/x"];
    let (code, told) = submit("not the secret", &to).await;
    assert_eq!(code, 4, "{told}");
    assert!(
        told.contains("SignatureDoesNotMatch") && told.contains("AWS_ACCESS_KEY_ID"),
        "{told}"
    );
    assert!(!told.contains("not the secret"), "{told}");
    let (code, told) = submit(SECRET, &["--deliver", "/output/x=s3://no-such-bucket/x"]).await;
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("no bucket \"no-such-bucket\""), "{told}");
    let (code, told) = submit(SECRET, &["--volume", "s3://bucket/none:/volume/x"]).await;
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("s3://bucket/none does not exist"), "{told}");

    let mut command = job(
        &home,
        &url,
        SECRET,
        &["submit", "--detach", to[0], to[1], "busybox"],
    );
    let output = command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env("AWS_ENDPOINT_URL", &server.url);
    let output = output.output().await.unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        text(&output.stderr).contains("no credentials for S3"),
        "{output:?}"
    );
    let output = job(
        &home,
        &url,
        SECRET,
        &["submit", "--detach", to[0], to[1], "busybox"],
    );
    let output = { output }.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("--s3-region"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_input_is_uploaded_in_parts_and_taken_up_where_it_broke_off() {
    let (world, server, home) = (World::start().await, Server::start().await, Home::new());
    let mut validator = world.validator().await;
    let url = format!("http://{}", world.address);
    // Three whole parts and a bit; the fourth goes when one of the first three has arrived.
    let mut noise = vec![0_u8; 3 * PART + 5];
    rand::fill(noise.as_mut_slice());
    std::fs::write(home.path().join("large.bin"), &noise).unwrap();
    let args = [
        "submit",
        "--detach",
        "--s3-endpoint",
        &server.url,
        "--upload-to",
        "s3://bucket/inputs/",
        "--volume",
        "large.bin:/volume/large.bin",
        "--deliver",
        "/output/x=s3://bucket/out/x",
        "busybox",
    ];
    server.refused_from.store(4, Ordering::SeqCst);
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("not now"), "{output:?}");
    assert_eq!(server.parts.swap(0, Ordering::SeqCst), 3);
    assert_eq!(files(&home.path().join(".local/share/horde/uploads")).len(), 1);

    server.refused_from.store(0, Ordering::SeqCst);
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(server.parts.swap(0, Ordering::SeqCst), 1, "only what was missing");
    assert_eq!(files(&home.path().join(".local/share/horde/uploads")).len(), 0);
    let (_, stored) = server.only("inputs");
    assert!(stored == noise, "the object is not the file");
    let (_, request) = pushed(&mut validator).await;
    let (input, _) = carry_out(&serde_json::to_value(&request).unwrap()).await;
    assert!(input == noise);

    // What is there already is not uploaded again.
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(server.parts.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_folder_is_packed_and_uploaded_and_a_small_one_travels_in_the_request() {
    let (world, server, home) = (World::start().await, Server::start().await, Home::new());
    let mut validator = world.validator().await;
    let url = format!("http://{}", world.address);
    home.write("small/a.txt", "a");
    home.write("big/d/a.txt", "a");
    let noise: Vec<u8> = (0..1_500_000).map(|_| rand::random()).collect();
    std::fs::write(home.path().join("big/noise"), noise).unwrap();
    let args = [
        "submit",
        "--quiet",
        "--s3-endpoint",
        &server.url,
        "--upload-to",
        "s3://bucket/inputs",
        "--volume",
        "big:/volume/big",
        "--volume",
        "small:/volume/small",
        "busybox",
    ];
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (_, request) = pushed(&mut validator).await;
    request.verify().unwrap();
    assert_eq!(text(&output.stdout), format!("{}\n", request.uuid));
    assert_eq!(text(&output.stderr), "");
    let wire = serde_json::to_value(&request).unwrap();
    let volumes = &wire["volume"]["volumes"];
    assert_eq!(volumes[0]["volume_type"], "zip_url");
    assert_eq!(volumes[0]["relative_path"], "big");
    assert_eq!(volumes[1]["volume_type"], "inline");
    let (key, zip) = server.only("inputs");
    assert!(key.ends_with("/volume.zip"), "{key}");
    let archive = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    let mut names: Vec<&str> = archive.file_names().collect();
    names.sort_unstable();
    assert_eq!(names, ["d/", "d/a.txt", "noise"]);

    // Without a place for it, it is told what to do.
    let output = job(
        &home,
        &url,
        SECRET,
        &["submit", "--volume", "big:/volume/big", "busybox"],
    );
    let output = { output }.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("--upload-to"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_no_secret_and_changes_nothing() {
    let (world, server, home) = (World::start().await, Server::start().await, Home::new());
    let _validator = world.validator().await;
    let url = format!("http://{}", world.address);
    let noise: Vec<u8> = (0..1_000_000).map(|_| rand::random()).collect();
    std::fs::write(home.path().join("large.bin"), noise).unwrap();
    let args = [
        "submit",
        "--dry-run",
        "--json",
        "--s3-endpoint",
        &server.url,
        "--upload-to",
        "s3://bucket/inputs",
        "--env",
        "TOKEN=very-secret",
        "--volume",
        "large.bin:/volume/large.bin",
        "--deliver",
        "/output/x=s3://bucket/x",
        "busybox",
    ];
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let plan = &told["plan"];
    assert_eq!(plan["volumes"][0]["bytes"], 1_000_000);
    assert_eq!(plan["outputs"][0]["to"], "s3://bucket/x");
    assert!(plan["headers"]["x-ch-signature"].is_string());
    let all = text(&output.stdout);
    for secret in ["very-secret", SECRET, "X-Amz-Signature", "X-Amz-Credential"] {
        assert!(!all.contains(secret), "{all}");
    }
    assert_eq!(
        std::fs::read_dir(server.dir.path().join(BUCKET)).unwrap().count(),
        0
    );
    let output = job(&home, &url, SECRET, &["list", "--json"])
        .output()
        .await
        .unwrap();
    assert_eq!(text(&output.stdout).trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_job_reads_from_s3_writes_to_s3_and_its_output_is_brought_home() {
    if !docker_is_there() {
        return;
    }
    let (server, home) = (Server::start().await, Home::new());
    let network = Network::start(&home);
    let url = network.told["facilitator"]["url"].as_str().unwrap().to_owned();
    server.put("in/words.txt", b"quince\napple\n");
    let noise: Vec<u8> = (0..PART + 9).map(|_| rand::random()).collect();
    std::fs::write(home.path().join("large.bin"), &noise).unwrap();
    let script = "sort /volume/words.txt > /output/sorted.txt; busybox wc -c < /volume/large.bin; echo a > /artifacts/a";
    let args = [
        "submit",
        "--class",
        "always_on.test",
        "--s3-endpoint",
        &server.url,
        "--upload-to",
        "s3://bucket/inputs",
        "--volume",
        "s3://bucket/in/words.txt:/volume/words.txt",
        "--volume",
        "large.bin:/volume/",
        "--deliver",
        "/output/sorted.txt=s3://bucket/out/sorted.txt",
        "--artifact",
        "/artifacts",
        SAMPLE_IMAGE,
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = job(&home, &url, SECRET, &args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout).trim(), noise.len().to_string());
    assert_eq!(server.get("out/sorted.txt").unwrap(), b"apple\nquince\n");
    let output = job(&home, &url, SECRET, &["list", "--json"])
        .output()
        .await
        .unwrap();
    let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let uuid = jobs[0]["uuid"].as_str().unwrap();
    let fetch = ["download", "--s3-endpoint", &server.url, uuid];
    let output = job(&home, &url, SECRET, &fetch).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let got = home.path().join(uuid);
    assert_eq!(files(&got), ["artifacts/a", "output/sorted.txt"]);
    assert_eq!(
        std::fs::read(got.join("output/sorted.txt")).unwrap(),
        b"apple\nquince\n"
    );
}

/// Serves `hi` until it is asked for `over`.
const TALK: &str = "mkdir -p /tmp/w/cgi-bin; cd /tmp/w; echo ok > health; echo hi > hello; \
    printf '#!/bin/sh\\ntouch /tmp/over; printf \"\\\\r\\\\n\\\\r\\\\nbye\"\\n' > cgi-bin/over; chmod +x cgi-bin/over; \
    busybox httpd -p 8000 -h /tmp/w; until [ -e /tmp/over ]; do sleep 0.2; done; echo done";

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_job_is_talked_to_with_the_files_that_submit_wrote() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let network = Network::start(&home);
    let url = network.told["facilitator"]["url"].as_str().unwrap().to_owned();
    let args = [
        "submit",
        "--class",
        "always_on.test",
        "--stream",
        "--stream-dir",
        "talk",
        SAMPLE_IMAGE,
        "--",
        "sh",
        "-c",
        TALK,
    ];
    let mut command = job(&home, &url, SECRET, &args);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = tokio::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let mut address = None;
    while let Some(line) = told.next_line().await.unwrap() {
        if let Some(rest) = line.strip_prefix("server ") {
            address = Some(rest.trim().to_owned());
        }
        if line.starts_with("curl ") {
            break;
        }
    }
    let address = address.unwrap();
    let file = |name: &str| std::fs::read(home.path().join("talk").join(name)).unwrap();
    let identity = [file("client.pem"), file("client-key.pem")].concat();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&file("server.pem")).unwrap()])
        .identity(reqwest::Identity::from_pem(&identity).unwrap())
        .build()
        .unwrap();
    let hello = http.get(format!("{address}hello")).send().await.unwrap();
    assert_eq!(hello.text().await.unwrap(), "hi\n");
    // The job may end before the answer is through.
    drop(http.get(format!("{address}cgi-bin/over")).send().await);
    // Somebody must read what it says until it ends.
    while told.next_line().await.unwrap().is_some() {}
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "done\n")
    );
}
