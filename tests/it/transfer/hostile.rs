//! Servers that break off, lie, drip, flood and lead elsewhere.

use std::sync::Arc;
use std::time::Duration;

use horde::core::transfer::address::Policy;
use horde::core::transfer::download::Downloader;
use serde_json::{Value, json};

use super::server::{Reply, Server, answer, head};
use super::{BYTES_MAX, Job, downloader, told};

fn single(url: &str) -> Value {
    json!({ "volume_type": "single_file", "url": url, "relative_path": "f" })
}

/// Fetches from a server of these replies; returns the file or the words, and the requests.
async fn fetched(replies: Vec<Vec<u8>>) -> (Result<String, String>, Vec<super::server::Seen>) {
    let (job, server) = (Job::new(), Server::replying(replies).await);
    let result = job
        .fetch(&downloader(), single(&server.url("/f?sig=secret")))
        .await;
    let result = match result {
        Ok(()) => Ok(String::from_utf8(job.files().remove("f").unwrap()).unwrap()),
        Err(error) => Err(told(&error)),
    };
    if let Err(words) = &result {
        assert!(
            !words.contains("secret"),
            "a presigned address is a secret: {words}"
        );
    }
    (result, server.seen())
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke_if_the_file_is_still_the_same() {
    let mut broken = head("200 OK", &[("etag", "\"v1\"")], 10);
    broken.extend_from_slice(b"01234");
    let rest = answer(
        "206 Partial Content",
        &[("etag", "\"v1\""), ("content-range", "bytes 5-9/10")],
        b"56789",
    );
    let (result, seen) = fetched(vec![broken.clone(), rest]).await;
    assert_eq!(result.unwrap(), "0123456789");
    assert_eq!(
        (seen[0].header("range"), seen[0].header("if-range")),
        (None, None)
    );
    assert_eq!(
        (seen[1].header("range"), seen[1].header("if-range")),
        (Some("bytes=5-"), Some("\"v1\""))
    );
    // It has changed: the server sends all of it.
    let changed = answer("200 OK", &[("etag", "\"v2\"")], b"abcdefghij");
    let (result, _seen) = fetched(vec![broken.clone(), changed]).await;
    assert_eq!(result.unwrap(), "abcdefghij");
    // A server that sends another part than was asked for, or has none, is asked for all of it.
    for confused in [
        answer(
            "206 Partial Content",
            &[("content-range", "bytes 3-9/10")],
            b"3456789",
        ),
        answer("206 Partial Content", &[], b"56789"),
        answer("416 Range Not Satisfiable", &[], b""),
    ] {
        let whole = answer("200 OK", &[], b"0123456789");
        let (result, seen) = fetched(vec![broken.clone(), confused, whole]).await;
        assert_eq!(result.unwrap(), "0123456789");
        assert_eq!(seen[2].header("range"), None);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_three_times_and_what_may_not_once() {
    let cases = [
        (answer("503 X", &[], b""), 3, "the server answered 503"),
        (answer("404 X", &[], b""), 1, "the server answered 404"),
        (answer("403 X", &[], b""), 1, "the server answered 403"),
        (head("200 OK", &[], 10), 3, "the volume could not be fetched"),
        (b"nonsense\r\n\r\n".to_vec(), 3, "the volume could not be fetched"),
        (
            answer("206 X", &[("content-range", "bytes 0-1/2")], b"xx"),
            3,
            "makes no sense",
        ),
    ];
    let play = cases.map(|(reply, requests, words)| async move {
        let (result, seen) = fetched(vec![reply]).await;
        let error = result.unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!(seen.len(), requests, "{words}");
    });
    futures_util::future::join_all(play).await;
    let (result, seen) = fetched(vec![answer("503 X", &[], b""), answer("200 OK", &[], b"now")]).await;
    assert_eq!((result.unwrap().as_str(), seen.len()), ("now", 2));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_told() {
    let (job, server) = (Job::new(), Server::replying(vec![Vec::new()]).await);
    let url = server.url("/f?sig=secret");
    drop(server);
    let started = tokio::time::Instant::now();
    let error = told(&job.fetch(&downloader(), single(&url)).await.unwrap_err());
    assert!(started.elapsed() > Duration::from_secs(5), "two pauses");
    assert!(
        error.contains("Connection refused") && !error.contains("secret"),
        "{error}"
    );
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_stored() {
    // Announced.
    let (result, seen) = fetched(vec![head("200 OK", &[], usize::try_from(BYTES_MAX).unwrap() + 1)]).await;
    assert_eq!(
        result.unwrap_err(),
        "Input volume too large: more than 1000000 bytes"
    );
    assert_eq!(seen.len(), 1);
    // Not announced, and without end.
    let endless = Server::start(|_seen, _number| Reply::Endless {
        head: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        piece: [b"10000\r\n", &vec![b'x'; 0x10000][..], b"\r\n"].concat(),
        pause: Duration::ZERO,
    })
    .await;
    let job = Job::new();
    let error = job
        .fetch(&downloader(), single(&endless.url("/f")))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Input volume too large: more than 1000000 bytes"
    );
    assert!(job.files()["f"].len() <= 1_000_000);
    // All volumes together.
    let server = Server::replying(vec![answer("200 OK", &[], &[b'x'; 600])]).await;
    let part =
        |name: &str| json!({ "volume_type": "single_file", "url": server.url("/f"), "relative_path": name });
    let multi = json!({ "volume_type": "multi_volume", "volumes": [part("a"), part("b")] });
    let error = Job::new()
        .fetch(&downloader().within(1000), multi)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "Input volume too large: more than 400 bytes");
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    let flood = Server::start(|_seen, _number| Reply::Endless {
        head: b"HTTP/1.1 200 OK\r\n".to_vec(),
        piece: format!("x-{}: {}\r\n", "a".repeat(1000), "b".repeat(1000)).into_bytes(),
        pause: Duration::ZERO,
    })
    .await;
    let error = Job::new()
        .fetch(&downloader(), single(&flood.url("/f")))
        .await
        .unwrap_err();
    assert!(
        told(&error).starts_with("the volume could not be fetched"),
        "{}",
        told(&error)
    );
    assert_eq!(flood.seen().len(), 3);
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_five_seconds() {
    let silent = Server::start(|_seen, number| {
        if number > 0 {
            return Reply::Bytes(answer("404 X", &[], b""));
        }
        Reply::Endless {
            head: head("200 OK", &[], 10),
            piece: Vec::new(),
            pause: Duration::from_secs(600),
        }
    })
    .await;
    let started = tokio::time::Instant::now();
    let error = Job::new()
        .fetch(&downloader(), single(&silent.url("/f")))
        .await
        .unwrap_err();
    assert!(told(&error).contains("404"), "{}", told(&error));
    assert!((5..15).contains(&started.elapsed().as_secs()));
}

#[tokio::test]
async fn what_the_server_has_encoded_is_stored_as_it_is() {
    // The beginning of something that would inflate to more than the limit.
    let packed = b"\x1f\x8b\x08\x00 a bomb, or not";
    let server = Server::replying(vec![answer("200 OK", &[("content-encoding", "gzip")], packed)]).await;
    let job = Job::new();
    job.fetch(&downloader(), single(&server.url("/f"))).await.unwrap();
    assert_eq!(job.files()["f"], packed);
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn no_redirect_leads_to_the_metadata_service_or_to_the_executors_own_machine() {
    for (target, words) in [
        (
            "http://169.254.169.254/latest/meta-data/",
            "169.254.169.254, a cloud metadata address",
        ),
        ("http://127.0.0.1:1/", "127.0.0.1, a loopback address"),
        ("http://localhost:1/", "a loopback address"),
        ("//[::ffff:10.0.0.1]/", "a private address"),
    ] {
        let redirect = move |_seen: &_, _number| Reply::Bytes(answer("302 X", &[("location", target)], b""));
        let server = Server::start_at("127.0.0.2", redirect).await;
        let only_the_server = Policy::new(vec!["127.0.0.2/32".parse().unwrap()]);
        let downloader = Downloader::new(BYTES_MAX, Arc::new(only_the_server));
        let job = Job::new();
        let error = job.fetch(&downloader, single(&server.url("/f?sig=secret"))).await;
        let error = told(&error.unwrap_err());
        assert!(
            error.contains(words) && error.contains("executor.allow_addresses"),
            "{target}: {error}"
        );
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(server.seen().len(), 1, "{target}");
    }
}
