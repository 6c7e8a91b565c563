//! What the facilitator takes from one user and one address, what it does with slow and with too many clients, and what
//! it tells its operator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use horde::core::crypto::signed;
use horde::core::net::Link;
use horde::core::proto::sdk_facilitator::signed_fields_payload;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::described;
use crate::facilitator::{Answer, World, key, pushed, report, submit};

/// Longest wait for something that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Submits a job that differs from the usual one by `change`, signed, with `more` headers.
async fn submit_changed(
    world: &World,
    token: &str,
    change: impl FnOnce(&mut Value),
    more: &[(&str, &str)],
) -> Answer {
    let charlie = key("//Charlie");
    let mut body = json!({"target_validator_hotkey": key("//Alice").hotkey(), "executor_class": "always_on.test",
        "docker_image": "busybox", "args": ["true"], "env": {}, "use_gpu": false, "artifacts_dir": "",
        "on_trusted_miner": false, "download_time_limit": 1, "execution_time_limit": 1,
        "streaming_start_time_limit": 1, "upload_time_limit": 1});
    change(&mut body);
    let payload = signed_fields_payload(body.as_object().unwrap(), "None");
    let signature = signed::sign_request(&charlie, 7, &payload).to_base64();
    let mut headers = vec![
        ("authorization", token),
        ("content-type", "application/json"),
        ("x-ch-signature-type", "bittensor"),
        ("x-ch-signatory", charlie.hotkey().as_str()),
        ("x-ch-timestamp-ns", "7"),
        ("x-ch-signature", signature.as_str()),
    ];
    headers.extend(more);
    world
        .send("POST", "/api/v1/job-docker/", &headers, Some(&body.to_string()))
        .await
}

async fn get(world: &World, token: &str, path: &str) -> Answer {
    world.send("GET", path, &[("authorization", token)], None).await
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_user_that_submits_too_fast_is_told_when_to_come_again_and_others_are_not() {
    let world = World::start_with(|config| {
        config.submit_rate = 1;
        config.users.push(key("//Eve").hotkey().clone());
    })
    .await;
    let (charlie, eve) = (world.login("//Charlie").await, world.login("//Eve").await);
    // No validator is there: what counts is that they ask.
    let mut refused = None;
    for number in 0..100 {
        let answer = submit_changed(&world, &charlie, |_| {}, &[]).await;
        if answer.status == 429 {
            refused = Some((number, answer));
            break;
        }
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let (number, answer) = refused.unwrap();
    assert!(number >= 10, "ten may come at once, {number} did");
    assert_eq!(
        answer.body,
        json!({"detail": "Request was throttled. Expected available in 1 second."})
    );
    assert_eq!(retry_after(&answer), 1);
    assert_eq!(submit_changed(&world, &eve, |_| {}, &[]).await.status, 400);
    // Reading is not submitting.
    assert_eq!(get(&world, &charlie, "/api/v1/jobs/").await.status, 200);
}

#[tokio::test]
async fn an_address_that_logs_in_too_fast_is_told_so_whoever_it_says_it_is() {
    let world = World::start_with(|config| config.login_rate = 1).await;
    let nonce = async |headers: &[(&str, &str)]| world.send("GET", "/auth/nonce", headers, None).await;
    let mut answers = 0;
    let refused = loop {
        let answer = nonce(&[]).await;
        if answer.status == 429 {
            break answer;
        }
        answers += 1;
        assert!(answers < 100);
    };
    assert!(answers >= 10 && retry_after(&refused) >= 1, "{answers}");
    // Nobody trusts this proxy.
    assert_eq!(nonce(&[("x-forwarded-for", "203.0.113.9")]).await.status, 429);
    let login = [("content-type", "application/json")];
    assert_eq!(
        world.send("POST", "/auth/login", &login, Some("{}")).await.status,
        429
    );
}

#[tokio::test]
async fn a_trusted_proxy_says_for_whom_it_asks_and_over_what() {
    let world = World::start_with(|config| {
        config.login_rate = 1;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    for _ in 0..2 {
        submit(&world, &token, &mut validator).await;
    }
    for last in 1..40 {
        let client = format!("203.0.113.{last}");
        let headers = [("x-forwarded-for", client.as_str())];
        assert_eq!(
            world.send("GET", "/auth/nonce", &headers, None).await.status,
            200,
            "{last}"
        );
    }
    let headers = [
        ("authorization", token.as_str()),
        ("x-forwarded-proto", "https"),
        ("host", "horde.example"),
    ];
    let page = world
        .send("GET", "/api/v1/jobs/?page_size=1", &headers, None)
        .await;
    assert_eq!(
        page.body["next"],
        "https://horde.example/api/v1/jobs/?page=2&page_size=1"
    );
}

#[tokio::test]
async fn a_user_with_too_many_unfinished_jobs_waits_until_one_has_ended() {
    let world = World::start_with(|config| config.unfinished_max = 2).await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    let first = submit(&world, &token, &mut validator).await;
    submit(&world, &token, &mut validator).await;
    let refused = submit_changed(&world, &token, |_| {}, &[]).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.body["error"], "Too many unfinished jobs");
    assert!(
        refused.body["details"]
            .as_str()
            .unwrap()
            .contains("2 of your jobs")
    );
    assert!(retry_after(&refused) >= 1);
    report(&mut validator, &first, "failed", Value::Null).await;
    submit(&world, &token, &mut validator).await;
}

#[tokio::test]
async fn a_job_with_too_many_or_too_long_parts_is_refused_with_the_limit() {
    let world = World::start_with(|config| config.volumes_max = 2).await;
    let token = world.login("//Charlie").await;
    let volume = json!({"volume_type": "zip_url", "contents": "http://x/", "relative_path": null});
    let upload = json!({"output_upload_type": "single_file_put", "url": "http://x/", "relative_path": "a",
        "signed_headers": null});
    let entries: serde_json::Map<String, Value> = (0..1025)
        .map(|number| (format!("V{number}"), json!("")))
        .collect();
    for (field, value, words) in [
        (
            "volumes",
            json!([volume, volume, volume]),
            "volumes has 3 entries, at most 2 are taken",
        ),
        (
            "uploads",
            json!([upload, upload, upload]),
            "uploads has 3 entries, at most 2 are taken",
        ),
        (
            "args",
            json!(vec!["x"; 1025]),
            "args has 1025 entries, at most 1024 are taken",
        ),
        (
            "env",
            json!(entries),
            "env has 1025 entries, at most 1024 are taken",
        ),
        (
            "args",
            json!(["x".repeat(131_072)]),
            "args has an entry of 131072 bytes, a program can be given 131071",
        ),
        (
            "env",
            json!({"A": "x".repeat(131_070)}),
            "env has an entry of 131072 bytes, a program can be given 131071",
        ),
    ] {
        let answer = submit_changed(&world, &token, |body| body[field] = value, &[]).await;
        assert_eq!(
            (answer.status, answer.body),
            (413, json!({"error": "Job too large", "details": words}))
        );
    }
    let image = submit_changed(
        &world,
        &token,
        |body| body["docker_image"] = json!("x".repeat(256)),
        &[],
    )
    .await;
    assert_eq!(
        (image.status, image.body),
        (
            400,
            json!({"docker_image": ["Ensure this field has no more than 255 characters."]})
        )
    );
}

#[tokio::test]
async fn a_repeated_submission_is_answered_with_the_first_job_and_makes_no_other() {
    let mut world = World::start().await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    let key = [("idempotency-key", "once, and only once")];
    let first = submit_changed(&world, &token, |_| {}, &key).await;
    assert_eq!(first.status, 201, "{first:?}");
    let uuid = first.body["uuid"].as_str().unwrap().to_owned();
    pushed(&mut validator).await;
    report(&mut validator, &uuid, "received", Value::Null).await;
    // It is durable, and needs no validator.
    world.restart().await;
    let again = submit_changed(&world, &token, |_| {}, &key).await;
    assert_eq!(
        (again.status, &again.body["uuid"], &again.body["status"]),
        (200, &json!(uuid), &json!("Received"))
    );
    let other = submit_changed(&world, &token, |body| body["args"] = json!(["false"]), &key).await;
    assert_eq!(
        (other.status, &other.body["error"]),
        (409, &json!("Idempotency-Key already used"))
    );
    for bad in ["", "a\tb", &"x".repeat(129)] {
        let answer = submit_changed(&world, &token, |_| {}, &[("idempotency-key", bad)]).await;
        assert_eq!(
            (answer.status, &answer.body["error"]),
            (400, &json!("Invalid Idempotency-Key")),
            "{bad:?}"
        );
    }
    assert_eq!(get(&world, &token, "/api/v1/jobs/").await.body["count"], 1);
    // Many at once: one job.
    let mut validator: Link = world.validator().await;
    let key = [("idempotency-key", "many")];
    let answers =
        futures_util::future::join_all((0..16).map(|_| submit_changed(&world, &token, |_| {}, &key))).await;
    let uuids: std::collections::BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.body["uuid"].to_string())
        .collect();
    assert_eq!(uuids.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    pushed(&mut validator).await;
    assert_eq!(get(&world, &token, "/api/v1/jobs/").await.body["count"], 2);
    // After seven days the key is free.
    world.clock.advance(Duration::from_secs(7 * 24 * 3600));
    let token = world.login("//Charlie").await;
    let renewed = submit_changed(&world, &token, |_| {}, &key).await;
    assert_eq!(renewed.status, 201, "{renewed:?}");
}

#[tokio::test]
async fn feedback_is_taken_replaced_and_shown() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    let uuid = submit(&world, &token, &mut validator).await;
    let path = format!("/api/v1/jobs/{uuid}/feedback/");
    let give = async |method: &str, path: &str, body: &str| {
        let headers = [
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
        ];
        world.send(method, path, &headers, Some(body)).await
    };
    assert_eq!(get(&world, &token, &path).await.status, 404);
    assert_eq!(
        give("POST", &path, r#"{"result_correctness": 1}"#).await.status,
        201
    );
    let second = give(
        "PUT",
        &path,
        r#"{"result_correctness": 0.25, "expected_duration": 2}"#,
    )
    .await;
    let said = json!({"result_correctness": 0.25, "expected_duration": 2.0});
    assert_eq!((second.status, &second.body), (200, &said));
    assert_eq!(get(&world, &token, &path).await.body, said);
    let bad = give(
        "PUT",
        &path,
        r#"{"result_correctness": 2, "expected_duration": -1}"#,
    )
    .await;
    assert_eq!(
        (bad.status, bad.body),
        (
            400,
            json!({"result_correctness": ["Ensure this value is less than or equal to 1.0."],
                "expected_duration": ["Ensure this value is greater than or equal to 0.0."]})
        )
    );
    assert_eq!(give("POST", &path, "{}").await.status, 400);
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(20_000));
    assert_eq!(give("POST", &path, &large).await.status, 413);
    let nobodys = "/api/v1/jobs/00000000-0000-0000-0000-000000000000/feedback/";
    assert_eq!(
        give("PUT", nobodys, r#"{"result_correctness": 1}"#).await.status,
        404
    );
    assert_eq!(get(&world, &token, nobodys).await.status, 404);
    assert_eq!(get(&world, &token, "/api/v1/jobs/x/feedback/").await.status, 404);
}

#[tokio::test]
async fn what_is_served_is_described_and_seen() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    let uuid = submit(&world, &token, &mut validator).await;
    let document = world.send("GET", "/openapi.json", &[], None).await;
    assert_eq!(
        (document.status, &document.body["openapi"]),
        (200, &json!("3.1.1"))
    );
    for path in [
        "/health".to_owned(),
        "/api/v1/validators/".to_owned(),
        "/api/v1/account/".to_owned(),
        "/api/v1/jobs/".to_owned(),
        format!("/api/v1/jobs/{uuid}/"),
        format!("/api/v1/jobs/{uuid}/feedback/"),
        format!("/api/v1/jobs/{uuid}/logs/"),
        "/ws/v0/".to_owned(),
    ] {
        get(&world, &token, &path).await;
        world.send("GET", &path, &[], None).await;
    }
    let json = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
    ];
    for (path, body) in [
        ("/api/v1/cheated-job/".to_owned(), "{}"),
        (format!("/api/v1/jobs/{uuid}/cancel/"), "{}"),
        (
            format!("/api/v1/jobs/{uuid}/feedback/"),
            r#"{"result_correctness": 1}"#,
        ),
    ] {
        assert!(world.send("POST", &path, &json, Some(body)).await.status < 500);
    }
    let other_method = world.send("GET", "/auth/login", &[], None).await;
    assert_eq!(
        (other_method.status, other_method.header("allow")),
        (405, Some("POST"))
    );
    let feedback = format!("/api/v1/jobs/{uuid}/feedback/");
    world
        .send("PUT", &feedback, &json, Some(r#"{"result_correctness": 1}"#))
        .await;
    let seen: std::collections::BTreeSet<_> = described::seen().into_iter().map(|(name, _)| name).collect();
    let document = document.body;
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            if let Some(name) = operation["operationId"].as_str() {
                assert!(seen.contains(name), "{name} was never asked");
            }
        }
    }
}

#[tokio::test]
async fn jobs_are_forgotten_seven_days_after_their_end() {
    let mut world = World::start().await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    let ended = submit(&world, &token, &mut validator).await;
    report(&mut validator, &ended, "failed", Value::Null).await;
    let works = submit(&world, &token, &mut validator).await;
    world.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
    let fresh = submit(&world, &world.login("//Charlie").await, &mut validator).await;
    // It looks when it starts, and every ten minutes.
    world.restart().await;
    let token = world.login("//Charlie").await;
    let deadline = Instant::now() + PATIENCE;
    while get(&world, &token, &format!("/api/v1/jobs/{ended}/"))
        .await
        .status
        == 200
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for uuid in [works, fresh] {
        assert_eq!(
            get(&world, &token, &format!("/api/v1/jobs/{uuid}/")).await.status,
            200
        );
    }
    assert_eq!(get(&world, &token, "/api/v1/jobs/").await.body["count"], 2);
}

/// Returns a free port of this machine.
fn free_address() -> SocketAddr {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap()
}

#[tokio::test]
async fn figures_are_served_on_a_listener_of_their_own() {
    let figures = free_address();
    let world = World::start_with(|config| config.metrics_listen = Some(figures)).await;
    let mut validator = world.validator().await;
    let token = world.login("//Charlie").await;
    submit(&world, &token, &mut validator).await;
    let text = reqwest::get(format!("http://{figures}/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        r#"horde_facilitator_requests_total{route="/api/v1/job-docker/",status="201"} 1"#,
        r#"horde_facilitator_jobs_accepted_total{class="always_on.llm.a6000"} 1"#,
        "horde_facilitator_validators 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(world.send("GET", "/metrics", &[], None).await.status, 404);
}

/// Waits until the server has closed a connection; returns what it said.
fn said_until_closed(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_cut_off_and_hold_up_nobody() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let address = world.address;
    let connect = move || TcpStream::connect(address).unwrap();
    // Half a head, and half a body, from many.
    let mut heads: Vec<_> = (0..64).map(|_| connect()).collect();
    for head in &mut heads {
        head.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .unwrap();
    }
    let mut bodies: Vec<_> = (0..64).map(|_| connect()).collect();
    for body in &mut bodies {
        let request = format!(
            "POST /api/v1/job-docker/ HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n{{\""
        );
        body.write_all(request.as_bytes()).unwrap();
    }
    assert_eq!(world.send("GET", "/health", &[], None).await.status, 200);
    let began = Instant::now();
    let (head, body) = tokio::task::spawn_blocking(move || {
        let head = said_until_closed(&mut heads[0]);
        let head_took = began.elapsed();
        (
            (head, head_took),
            (said_until_closed(&mut bodies[0]), began.elapsed()),
        )
    })
    .await
    .unwrap();
    assert_eq!(head.0, "", "the head never came");
    assert!(head.1 < PATIENCE, "{head:?}");
    assert!(body.0.starts_with("HTTP/1.1 408"), "{body:?}");
    assert!(body.1 < PATIENCE * 2, "{body:?}");
    assert_eq!(world.send("GET", "/health", &[], None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_places_and_a_newcomer_is_served() {
    let world = World::start().await;
    let address = world.address;
    // One address has half of the strangers' places.
    let idle = horde::core::net::guests::STRANGERS_MAX / 2 + 100;
    let held = tokio::task::spawn_blocking(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        for _ in 0..idle {
            held.push(TcpStream::connect(address).unwrap());
        }
        held
    })
    .await
    .unwrap();
    assert_eq!(world.send("GET", "/health", &[], None).await.status, 200);
    // The oldest had to go.
    let gone = tokio::task::spawn_blocking(move || {
        let mut held = held;
        said_until_closed(&mut held[0])
    });
    assert_eq!(gone.await.unwrap(), "");
}
