//! The facilitator and validators that come and go: jobs and cheat reports wait, are handed over once, and end.

use std::time::Duration;

use horde::core::crypto::signed;
use horde::core::net::Link;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::proto::facilitator_validator::Down;
use horde::core::proto::sdk_facilitator::signed_fields_payload;
use horde::core::store::facilitator::FacilitatorStore;
use serde_json::{Value, json};

use crate::facilitator::{Answer, World, authentication, closed, error_type, heard, key, pushed, report};

const SUCCESS: &str = r#"{"status":"success","errors":[]}"#;

/// Submits a job of //Charlie for //Alice with limits of 40 s together.
async fn submit(world: &World, token: &str, on_trusted_miner: bool) -> Answer {
    let charlie = key("//Charlie");
    let body = json!({"target_validator_hotkey": key("//Alice").hotkey(), "executor_class": "always_on.test",
        "docker_image": "busybox", "args": ["true"], "env": {}, "use_gpu": false, "artifacts_dir": "",
        "on_trusted_miner": on_trusted_miner, "download_time_limit": 10, "execution_time_limit": 20,
        "streaming_start_time_limit": 5, "upload_time_limit": 10});
    let payload = signed_fields_payload(body.as_object().unwrap(), "None");
    let signature = signed::sign_request(&charlie, 7, &payload).to_base64();
    let headers = signed_by_charlie(token, &signature, "SignedFields");
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    world
        .send("POST", "/api/v1/job-docker/", &headers, Some(&body.to_string()))
        .await
}

fn signed_by_charlie(token: &str, signature: &str, scope: &str) -> [(&'static str, String); 7] {
    [
        ("authorization", token.to_owned()),
        ("content-type", "application/json".to_owned()),
        ("x-ch-signature-type", "bittensor".to_owned()),
        ("x-ch-signatory", key("//Charlie").hotkey().to_string()),
        ("x-ch-timestamp-ns", "7".to_owned()),
        ("x-ch-signature", signature.to_owned()),
        ("x-ch-signature-scope", scope.to_owned()),
    ]
}

fn uuid(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["uuid"].as_str().unwrap().to_owned()
}

/// Connects as //Alice, who says that she understands these words.
async fn validator_with(world: &World, features: &str) -> Link {
    let options = ConnectOptions {
        headers: vec![("X-Horde-Features".to_owned(), features.to_owned())],
        ..ConnectOptions::default()
    };
    let url = format!("ws://{}/ws/v0/", world.address);
    let mut link = connect(&url, &options, &world.tasks).await.unwrap();
    link.send(authentication("//Alice")).await.unwrap();
    assert_eq!(heard(&mut link).await, SUCCESS);
    link
}

/// Kills the facilitator, as `kill -9` would: nobody says goodbye and nothing more is written. Then starts it again.
async fn crash(world: &mut World) {
    world.tasks.abort();
    while world.tasks.running() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.restart().await;
}

async fn gone(world: &World, mut link: Link, token: &str) {
    link.close(1000, "").await;
    closed(&mut link).await;
    until(|| async {
        let answer = world
            .send("GET", "/api/v1/validators/", &[("authorization", token)], None)
            .await;
        answer.body == json!({"validators": []})
    })
    .await;
}

/// Waits until something holds; the facilitator looks for overdue jobs every second.
async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    for _ in 0..1500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never held");
}

/// Waits until a job has ended and returns the details of its end.
async fn end_of(world: &World, token: &str, uuid: &str) -> Value {
    until(|| async { world.job(token, uuid).await["status"] == "Failed" }).await;
    let job = world.job(token, uuid).await;
    let last = job["status_history"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["status"], "horde_failed", "{job}");
    last["metadata"]["horde_failure_details"].clone()
}

#[tokio::test]
async fn a_validator_that_was_never_connected_or_is_long_gone_gets_no_jobs() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let refused = |answer: Answer| {
        assert_eq!(
            (answer.status, answer.body),
            (400, json!(["Could not select Validator"]))
        );
    };
    refused(submit(&world, &token, false).await);
    let link = world.validator().await;
    gone(&world, link, &token).await;
    world.clock.advance(Duration::from_secs(599));
    uuid(&submit(&world, &token, false).await);
    world.clock.advance(Duration::from_secs(1));
    refused(submit(&world, &token, false).await);
}

#[tokio::test]
async fn jobs_wait_for_a_validator_that_is_away_even_across_a_restart() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let link = world.validator().await;
    gone(&world, link, &token).await;
    let first = submit(&world, &token, false).await;
    assert_eq!(first.body["status"], "Sent");
    assert!(first.body["horde"]["delivery"]["waiting_since"].is_string());
    assert_eq!(first.body["horde"]["delivery"]["pushed_at"], Value::Null);
    let second = submit(&world, &token, false).await;
    crash(&mut world).await;
    world.clock.advance(Duration::from_secs(30));
    let mut link = world.validator().await;
    for answer in [&first, &second] {
        let (_, request) = pushed(&mut link).await;
        assert_eq!(request.uuid.as_str(), uuid(answer));
        request.verify().unwrap();
    }
    let uuid = uuid(&first);
    assert_eq!(
        report(&mut link, &uuid, "received", Value::Null).await["status"],
        "success"
    );
    let job = world.job(&token, &uuid).await;
    assert!(job["horde"]["delivery"]["pushed_at"].is_string(), "{job}");
    // One that was handed over at once has not waited.
    let third = submit(&world, &token, false).await;
    pushed(&mut link).await;
    assert_eq!(third.body.get("horde"), None);
}

#[tokio::test]
async fn a_job_whose_validator_stays_away_ends_with_its_limits_and_is_not_delivered_afterwards() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let link = world.validator().await;
    gone(&world, link, &token).await;
    let uuid = uuid(&submit(&world, &token, false).await);
    world.clock.advance(Duration::from_secs(60));
    let details = end_of(&world, &token, &uuid).await;
    assert_eq!(details["reported_by"], "facilitator");
    assert_eq!(details["reason"], "unhandled_timeout");
    let words = details["message"].as_str().unwrap();
    assert!(
        words.contains("not connected for 60 s") && words.contains("has not run"),
        "{words}"
    );
    assert_eq!(
        details["context"],
        json!({"delivered": false, "last_status": "sent"})
    );
    let mut link = world.validator().await;
    // Nothing comes before the next job.
    let next = submit(&world, &token, false).await;
    let (_, request) = pushed(&mut link).await;
    assert_eq!(next.body["uuid"], request.uuid.as_str());
}

#[tokio::test]
async fn a_job_that_its_validator_never_ends_is_ended_once_and_for_all() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut link = world.validator().await;
    let uuid = uuid(&submit(&world, &token, false).await);
    pushed(&mut link).await;
    report(&mut link, &uuid, "received", Value::Null).await;
    report(&mut link, &uuid, "accepted", Value::Null).await;
    // Limits of 40 s, no spin-up, 900 s of slack.
    world.clock.advance(Duration::from_secs(939));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.job(&token, &uuid).await["status"], "Accepted");
    world.clock.advance(Duration::from_secs(60));
    let details = end_of(&world, &token, &uuid).await;
    assert_eq!(details["reason"], "unhandled_timeout");
    assert!(
        details["message"]
            .as_str()
            .unwrap()
            .ends_with("the last that it reported was accepted"),
        "{details}"
    );
    let late = report(&mut link, &uuid, "completed", Value::Null).await;
    assert_eq!(error_type(&late), "job.integrity_error");
    let ends = world.job(&token, &uuid).await["status_history"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(ends, 4);
}

#[tokio::test]
async fn a_job_of_which_nothing_was_heard_is_repeated_to_those_alone_who_refuse_duplicates() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut link = validator_with(&world, "cancel, dedup").await;
    let silent = uuid(&submit(&world, &token, false).await);
    let spoken = uuid(&submit(&world, &token, false).await);
    pushed(&mut link).await;
    pushed(&mut link).await;
    report(&mut link, &spoken, "received", Value::Null).await;
    crash(&mut world).await;
    drop(link);
    world.clock.advance(Duration::from_secs(1));
    // One of the reference would run it twice.
    let mut link = world.validator().await;
    let fresh = uuid(&submit(&world, &token, false).await);
    assert_eq!(pushed(&mut link).await.1.uuid.as_str(), fresh);
    report(&mut link, &fresh, "received", Value::Null).await;
    world.clock.advance(Duration::from_secs(1));
    let mut link = validator_with(&world, "dedup").await;
    assert_eq!(pushed(&mut link).await.1.uuid.as_str(), silent);
    let next = uuid(&submit(&world, &token, false).await);
    assert_eq!(pushed(&mut link).await.1.uuid.as_str(), next);
}

/// Reports a job as cheated, signed in the form of the SDK or in that of the reference's validators.
async fn report_cheated(world: &World, token: &str, body: &Value, is_sdk: bool) -> Answer {
    let payload = if is_sdk {
        signed::full_request_payload(body)
    } else {
        let text = |field: &str| body[field].as_str().unwrap();
        signed::report_payload(text("job_uuid"), text("trusted_job_uuid"), &body["details"])
    };
    let signature = signed::sign_request(&key("//Charlie"), 7, &payload).to_base64();
    let headers = signed_by_charlie(token, &signature, "FullRequest");
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    world
        .send("POST", "/api/v1/cheated-job/", &headers, Some(&body.to_string()))
        .await
}

async fn hears_report(link: &mut Link) -> Value {
    let text = heard(link).await;
    let Down::Cheated(report) = Down::decode(&text).unwrap() else {
        panic!("{text}")
    };
    report.verify().unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn cheat_reports_are_answered_kept_and_handed_over_with_all_their_keys() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut link = world.validator().await;
    let mut jobs = Vec::new();
    for on_trusted_miner in [false, true, false, false] {
        jobs.push(uuid(&submit(&world, &token, on_trusted_miner).await));
        pushed(&mut link).await;
    }
    let [job, trusted, other, third] = jobs.as_slice() else {
        panic!()
    };
    let body = |job: &str, trusted: &str, details: Value| json!({"job_uuid": job, "trusted_job_uuid": trusted, "details": details});
    let told = |answer: Answer| (answer.status, answer.body);

    let good = body(job, trusted, json!({"diff": "ż", "n": 1.5}));
    let answer = report_cheated(&world, &token, &good, true).await;
    assert_eq!(told(answer), (201, json!({"message": "Job reported as cheated"})));
    let frame = hears_report(&mut link).await;
    assert_eq!(
        (&frame["job_uuid"], &frame["details"]),
        (&good["job_uuid"], &good["details"])
    );
    let answer = report_cheated(&world, &token, &good, true).await;
    assert_eq!(
        told(answer),
        (400, json!({"error": "Cheat report already exists for this job"}))
    );
    for (job, trusted, words) in [
        (trusted, trusted, "Job not found"),
        (other, other, "Trusted job not found"),
    ] {
        let answer = report_cheated(&world, &token, &body(job, trusted, Value::Null), true).await;
        assert_eq!(told(answer), (404, json!({"error": words})));
    }
    let unsigned = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
    ];
    let text = body(other, trusted, Value::Null).to_string();
    let answer = world
        .send("POST", "/api/v1/cheated-job/", &unsigned, Some(&text))
        .await;
    assert_eq!(
        (answer.status, &answer.body["error"]),
        (400, &json!("Signature not found"))
    );
    // What its validator could not check is refused at once: it gets null where there are no details.
    let bare = json!({"job_uuid": other, "trusted_job_uuid": trusted});
    assert_eq!(report_cheated(&world, &token, &bare, true).await.status, 400);

    // Without details, in the other form, in capitals, while the validator is away, and across a restart.
    gone(&world, link, &token).await;
    let null = body(&other.to_uppercase(), trusted, Value::Null);
    assert_eq!(report_cheated(&world, &token, &null, false).await.status, 201);
    assert_eq!(
        report_cheated(&world, &token, &body(third, trusted, json!([])), true)
            .await
            .status,
        201
    );
    crash(&mut world).await;
    let mut link = world.validator().await;
    let frame = hears_report(&mut link).await;
    assert_eq!(frame["job_uuid"], other.to_uppercase());
    assert_eq!(frame.get("details"), Some(&Value::Null));
    assert_eq!(hears_report(&mut link).await["job_uuid"], *third);
    gone(&world, link, &token).await;
    // Handed over once to a validator of the reference, again to one that takes repetitions for what they are.
    let mut link = world.validator().await;
    let next = submit(&world, &token, false).await;
    assert_eq!(next.body["uuid"], pushed(&mut link).await.1.uuid.as_str());
    gone(&world, link, &token).await;
    let mut link = validator_with(&world, "dedup").await;
    let mut again = Vec::new();
    while again.len() < 3 {
        let frame: Value = serde_json::from_str(&heard(&mut link).await).unwrap();
        if frame["message_type"] == "V0JobCheated" {
            again.push(frame["job_uuid"].as_str().unwrap().to_lowercase());
        }
    }
    assert_eq!(again, [job.clone(), other.clone(), third.clone()]);
}

#[tokio::test]
async fn facts_about_machines_are_kept_if_they_are_of_the_validator_that_tells_them() {
    let world = World::start().await;
    let mut link = world.validator().await;
    let specs = |validator: &str, cpus: u32, filler: usize| {
        json!({"message_type": "V0MachineSpecsUpdate", "miner_hotkey": "miner", "validator_hotkey": key(validator).hotkey(),
            "specs": {"cpu": {"count": cpus}, "filler": "x".repeat(filler)}, "batch_id": "b"})
        .to_string()
    };
    for text in [
        specs("//Alice", 1, 0),
        specs("//Ferdie", 2, 0),
        specs("//Alice", 3, 70_000),
        specs("//Alice", 4, 0),
    ] {
        link.send(text).await.unwrap();
    }
    // Frames are taken in order, and this one is answered.
    let answer = report(
        &mut link,
        "00000000-0000-0000-0000-000000000000",
        "received",
        Value::Null,
    )
    .await;
    assert_eq!(error_type(&answer), "job.not_found");
    let store = FacilitatorStore::open_beside(&world.config.dir.join("facilitator.sqlite")).unwrap();
    let kept = store.specs().await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].specs["cpu"]["count"], 4);
    assert_eq!(&kept[0].validator, key("//Alice").hotkey());
}
