//! The downloads of `vectors/uploads_http*.json`, played again. Where we do otherwise on purpose:
//!
//! | case | the reference | here | why |
//! |---|---|---|---|
//! | inline_bad_base64, inline_not_zip | `BadZipFile`, a horde failure | refused, with the reason | a bad volume is the job's fault |
//! | single_file_404 | asks three times | asks once | what is not there does not come |
//! | single_file_path_traversal | writes outside the folder, or the library refuses | refused before anything is asked | |
//! | all | `Accept-Encoding: gzip, deflate` | `identity` | nothing is inflated on the way to the disk |

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};

use serde_json::{Value, json};

use super::server::{Reply, Server, answer};
use super::{Job, downloader, told};

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Answers as the recording's server did.
fn reply(case: &str, path: &str, number: usize) -> Vec<u8> {
    match (case, path) {
        ("single_file_redirect_followed", "/f") => answer("302 X", &[("location", "/g")], b""),
        ("single_file_404", _) => answer("404 X", &[], b""),
        ("single_file_503_then_ok", _) if number == 0 => answer("503 X", &[], b""),
        ("single_file_too_big", _) => answer("200 OK", &[], &vec![b'x'; 2_000_000]),
        (_, "/z") => answer("200 OK", &[], &zip_of(&[("a/b.txt", b"hi")])),
        (_, "/1") => answer("200 OK", &[], b"one"),
        _ => answer("200 OK", &[], b"data"),
    }
}

async fn replay(case: &Value) {
    let name = case["case"].as_str().unwrap().to_owned();
    let played = name.clone();
    let server = Server::start(move |seen, number| Reply::Bytes(reply(&played, seen.path(), number))).await;
    let mut volume = case["volume"].clone();
    if volume["volume_type"] == "inline" && volume.get("contents").is_none() {
        volume["contents"] = json!(base64_of(&zip_of(&[("a/b.txt", b"hi")])));
    }
    let volume = volume
        .to_string()
        .replace("http://127.0.0.1:19005", &server.url(""));
    let job = Job::new();
    let result = job
        .fetch(&downloader(), serde_json::from_str(&volume).unwrap())
        .await;
    let refusal = match name.as_str() {
        "inline_bad_base64" | "inline_not_zip" => Some("not a valid zip file"),
        "single_file_404" => Some("the server answered 404"),
        "single_file_too_big" => Some("Input volume too large"),
        "single_file_path_traversal" => Some("leaves its folder"),
        _ => None,
    };
    match (refusal, result) {
        (Some(words), Err(error)) => assert!(told(&error).contains(words), "{name}: {}", told(&error)),
        (None, Ok(())) => {
            let wanted: BTreeMap<String, String> = serde_json::from_value(case["files"].clone()).unwrap();
            let wanted: BTreeMap<_, _> = wanted
                .into_iter()
                .map(|(name, text)| (name, text.into_bytes()))
                .collect();
            assert_eq!(job.files(), wanted, "{name}");
        }
        (refusal, result) => panic!("{name}: {refusal:?} and {result:?}"),
    }
    let asked: Vec<String> = server.seen().iter().map(|seen| seen.line.clone()).collect();
    let mut wanted: Vec<&str> = case["http_requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| request["request_line"].as_str().unwrap())
        .collect();
    match name.as_str() {
        "single_file_404" => wanted.truncate(1),
        "single_file_path_traversal" => wanted.clear(),
        _ => {}
    }
    assert_eq!(asked, wanted, "{name}");
}

#[tokio::test]
async fn every_recorded_download_goes_as_it_went_but_for_the_table_above() {
    let mut played = 0;
    for text in [
        include_str!("../../golden/uploads_http.json"),
        include_str!("../../golden/uploads_http_published.json"),
    ] {
        let vectors: Value = serde_json::from_str(text).unwrap();
        let cases = vectors["downloads"].as_array().unwrap();
        played += cases.len();
        futures_util::future::join_all(cases.iter().map(replay)).await;
    }
    assert_eq!(played, 24);
}
