//! The uploads of `vectors/uploads_http*.json`, played again: method, headers, layout, retries, answers. Where we do
//! otherwise on purpose:
//!
//! | cases | the recording | here | why |
//! |---|---|---|---|
//! | all | `Accept-Encoding: gzip, deflate`, `User-Agent: python-httpx` | none, our own | presigned addresses sign neither |
//! | zips of the older wheel | folders are entries; a link's content is | regular files only | as the newer wheel does |
//! | symlink_single of the older wheel | what the link points to is sent | refused | likewise |
//! | directory_as_file of the older wheel | `IsADirectoryError`, a horde failure | refused | likewise |
//! | path_traversal of the newer wheel | no message | refused when it is carried out | decoding is for every peer |
//! | zips | lengths differ by their times and extra fields | | the names, sizes and the method count |

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::time::Duration;

use horde::core::transfer::upload::{UploadError, UploadResults, Uploader};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{Reply, Seen, Server, answer};
use super::{Job, loopback, told};

/// The output folder of the recordings.
fn output(case: &str) -> Job {
    let job = Job::new();
    let root = job.path("output");
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    for (name, content) in [
        ("result.json", "{\"a\": 1}\n"),
        ("sub/b.bin", "\n\nxx\n"),
        ("stdout.txt", "out"),
        ("stderr.txt", ""),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    if case.contains("symlink") {
        fs::write(job.path("secret"), "top").unwrap();
        symlink(job.path("secret"), root.join("link")).unwrap();
    }
    job
}

fn reply(case: &str, number: usize) -> Vec<u8> {
    match (case, number) {
        ("retry_500_500_200", 0 | 1) => answer("500 X", &[], b""),
        ("fail_403_three_times", _) => answer("403 X", &[], b""),
        ("redirect_is_an_error", _) => answer("307 X", &[("location", "/q")], b""),
        ("status_204", _) => answer("204 X", &[("x-y", "1")], b""),
        _ => answer("200 OK", &[("etag", "\"abc\"")], b"ok"),
    }
}

async fn send(job: &Job, upload: Value) -> Result<UploadResults, UploadError> {
    let uploader = Uploader::new(1_000_000, loopback());
    uploader
        .send(
            serde_json::from_value(upload).unwrap(),
            &job.folder("output"),
            &job.path("scratch"),
        )
        .await
}

/// What matters of a request: the line, the headers but for those of the table, and the body without its boundary.
fn essence(line: &str, headers: &[(String, String)], body: &str) -> Value {
    const OF_THE_CLIENT: [&str; 5] = ["host", "accept", "accept-encoding", "connection", "user-agent"];
    let mut kept: BTreeMap<String, String> = headers
        .iter()
        .filter(|(name, _)| !OF_THE_CLIENT.contains(&name.as_str()))
        .cloned()
        .collect();
    let boundary = kept
        .get("content-type")
        .and_then(|kind| kind.strip_prefix("multipart/form-data; boundary="))
        .map(str::to_owned);
    let mut body = body.to_owned();
    if let Some(boundary) = boundary {
        assert_eq!(boundary.len(), 32);
        body = body.replace(&boundary, "BOUNDARY");
        kept.insert(
            "content-type".to_owned(),
            "multipart/form-data; boundary=BOUNDARY".to_owned(),
        );
    }
    if body.contains("<zip bytes>") || body.is_empty() {
        kept.remove("content-length");
    }
    json!({ "line": line, "headers": kept, "body": body })
}

fn recorded(request: &Value) -> (Value, Option<BTreeMap<String, u64>>) {
    let headers: Vec<(String, String)> = serde_json::from_value(request["headers"].clone()).unwrap();
    let headers: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let line = request["request_line"].as_str().unwrap();
    let zip = request.get("body_is_zip_with").map(|entries| {
        let entries = entries.as_array().unwrap().iter();
        // Folders and links are of the table.
        let files = entries.filter(|entry| !entry["name"].as_str().unwrap().ends_with('/'));
        files
            .filter(|entry| entry["name"] != "link")
            .map(|entry| {
                (
                    entry["name"].as_str().unwrap().to_owned(),
                    entry["size"].as_u64().unwrap(),
                )
            })
            .collect()
    });
    let body = request.get("body_text").map_or("", |body| body.as_str().unwrap());
    (essence(line, &headers, body), zip)
}

/// Takes the zip out of a body, if there is one; the rest is text.
fn taken_apart(seen: &Seen) -> (String, Option<BTreeMap<String, u64>>) {
    let find = |magic: &[u8]| seen.body.windows(4).position(|window| window == magic);
    let Some(start) = find(b"PK\x03\x04") else {
        return (String::from_utf8(seen.body.clone()).unwrap(), None);
    };
    let end = find(b"PK\x05\x06").unwrap() + 22;
    let mut archive = zip::ZipArchive::new(Cursor::new(&seen.body[start..end])).unwrap();
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).unwrap();
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        files.insert(entry.name().to_owned(), entry.size());
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (before, after) = (text(&seen.body[..start]), text(&seen.body[end..]));
    let is_all = before.is_empty() && after.is_empty();
    let text = if is_all {
        String::new()
    } else {
        format!("{before}<zip bytes>{after}")
    };
    (text, Some(files))
}

/// What is refused before anything is sent, and with which words; the table says of which cases.
fn refusal(case: &str) -> Option<&'static str> {
    match case {
        "missing_file" => Some("file not found: nope"),
        "directory_as_file" => Some("not a regular file: sub"),
        "symlink_single" => Some("not a regular file: link"),
        "path_traversal" => Some("leaves its folder"),
        _ => None,
    }
}

async fn replay(case: &Value) {
    let name = case["case"].as_str().unwrap().to_owned();
    let mut upload = case.get("upload").cloned().unwrap_or_else(|| {
        json!({ "output_upload_type": "single_file_put", "url": "http://127.0.0.1:19005/p", "relative_path": "../x" })
    });
    let played = name.clone();
    let server = Server::start(move |_seen, number| Reply::Bytes(reply(&played, number))).await;
    upload = serde_json::from_str(
        &upload
            .to_string()
            .replace("http://127.0.0.1:19005", &server.url("")),
    )
    .unwrap();
    let (job, started) = (output(&name), Instant::now());
    let result = send(&job, upload).await;
    let took = started.elapsed();
    if let Some(words) = refusal(&name) {
        let error = told(&result.unwrap_err());
        assert!(error.contains(words), "{name}: {error}");
        assert_eq!(server.seen().len(), 0, "{name}: nothing is sent");
        return;
    }
    let wanted_results = &case["result"];
    match result {
        Ok(results) => {
            let results: BTreeMap<String, Value> = results
                .iter()
                .map(|(key, text)| (key.clone(), serde_json::from_str(text).unwrap()))
                .collect();
            assert_eq!(&json!(results), wanted_results, "{name}");
        }
        Err(error) => {
            let raised = wanted_results.as_str().unwrap();
            assert!(
                raised.starts_with("raises OutputUploadFailed"),
                "{name}: {}",
                told(&error)
            );
            let status = if name == "redirect_is_an_error" {
                "307"
            } else {
                "403"
            };
            assert!(told(&error).contains(status), "{name}: {}", told(&error));
        }
    }
    compare(&name, case, &server.seen(), took);
}

fn compare(name: &str, case: &Value, seen: &[Seen], took: Duration) {
    let requests = case["http_requests"].as_array().unwrap();
    let mut wanted: Vec<_> = requests.iter().map(recorded).collect();
    let mut got: Vec<_> = seen
        .iter()
        .map(|seen| {
            let (body, zip) = taken_apart(seen);
            (essence(&seen.line, &seen.headers, &body), zip)
        })
        .collect();
    // Uploads of one job run side by side.
    wanted.sort_by_key(|(essence, _)| essence["line"].to_string());
    got.sort_by_key(|(essence, _)| essence["line"].to_string());
    for ((wanted, zip), (got, got_zip)) in wanted.iter().zip(&got) {
        assert_eq!(got, wanted, "{name}");
        if let Some(zip) = zip {
            assert_eq!(got_zip.as_ref(), Some(zip), "{name}");
        }
    }
    assert_eq!(got.len(), wanted.len(), "{name}");
    let recorded = requests.last().unwrap()["t"].as_f64().unwrap();
    assert!((took.as_secs_f64() - recorded).abs() < 2.0, "{name}: {took:?}");
}

#[tokio::test]
async fn every_recorded_upload_is_on_the_wire_as_it_was_but_for_the_table_above() {
    let mut played = 0;
    for text in [
        include_str!("../../golden/uploads_http.json"),
        include_str!("../../golden/uploads_http_published.json"),
    ] {
        let vectors: Value = serde_json::from_str(text).unwrap();
        let cases = vectors["uploads"].as_array().unwrap();
        played += cases.len();
        futures_util::future::join_all(cases.iter().map(replay)).await;
    }
    assert_eq!(played, 30);
}

#[tokio::test]
async fn one_upload_that_fails_ends_the_others() {
    let server = Server::start(|seen, _number| match seen.path() {
        "/bad" => Reply::Bytes(answer("200 OK", &[], b"\xff\xfe")),
        _ => Reply::Endless {
            head: Vec::new(),
            piece: Vec::new(),
            pause: Duration::from_secs(600),
        },
    })
    .await;
    let put = |path: &str, name: &str| json!({ "output_upload_type": "single_file_put", "url": server.url(path), "relative_path": name });
    let upload = json!({ "output_upload_type": "multi_upload", "uploads": [put("/waits", "result.json"), put("/bad", "stdout.txt")] });
    let (job, started) = (output(""), Instant::now());
    let error = told(&send(&job, upload).await.unwrap_err());
    assert!(error.contains("no UTF-8 text"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn an_upload_keeps_to_its_limits_and_to_the_operators_policy() {
    let long = Server::start(|_seen, _number| Reply::Endless {
        head: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        piece: vec![b'x'; 1 << 20],
        pause: Duration::ZERO,
    })
    .await;
    let redirect = Server::replying(vec![answer(
        "302 X",
        &[("location", "http://169.254.169.254/")],
        b"",
    )])
    .await;
    let put = |url: String, name: &str| json!({ "output_upload_type": "single_file_put", "url": url, "relative_path": name });
    let job = output("");
    fs::write(job.path("output/large"), vec![0; 1_000_001]).unwrap();
    // A file of a terabyte, all of it a hole.
    let sparse = fs::File::create(job.path("output/sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    for (upload, words) in [
        (put(long.url("/?sig=secret"), "stdout.txt"), "longer than 10 MiB"),
        (put(redirect.url("/?sig=secret"), "stdout.txt"), "answered 302"),
        (
            put("http://169.254.169.254/?sig=secret".to_owned(), "stdout.txt"),
            "a cloud metadata address",
        ),
        (
            put("http://10.0.0.1/?sig=secret".to_owned(), "stdout.txt"),
            "executor.allow_addresses",
        ),
        (
            put("ftp://h/?sig=secret".to_owned(), "stdout.txt"),
            "not an http or https address",
        ),
        (
            put(long.url("/"), "large"),
            "`large` is larger than 1000000 bytes",
        ),
        (
            put(long.url("/"), "sparse"),
            "`sparse` is larger than 1000000 bytes",
        ),
        (put(long.url("/"), "a\\b"), "must not contain backslashes"),
        (put(long.url("/"), "sub/../result.json"), "leaves its folder"),
        (
            json!({ "output_upload_type": "zip_and_http_put", "url": long.url("/") }),
            "larger than 1000000 bytes",
        ),
    ] {
        let error = told(&send(&job, upload.clone()).await.unwrap_err());
        assert!(error.contains(words), "{upload}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
