//! A user ends a job and follows what it writes: what is kept, said to whom, and answered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::net::extensions::Extensions;
use horde::core::proto::facilitator_validator::EXTENSIONS;

use super::*;

/// Connects as one of our validators.
async fn ours(world: &World, name: &str) -> Link {
    let url = format!("ws://{}/ws/v0/", world.address);
    let options = ConnectOptions {
        extensions: Extensions::of(EXTENSIONS),
        ..ConnectOptions::default()
    };
    let mut link = connect(&url, &options, &world.tasks).await.unwrap();
    assert!(link.extensions().has("cancel") && link.extensions().has("logs"));
    link.send(authentication(name)).await.unwrap();
    assert_eq!(heard(&mut link).await, r#"{"status":"success","errors":[]}"#);
    link
}

async fn cancel(world: &World, token: &str, job: &str) -> Answer {
    let path = format!("/api/v1/jobs/{job}/cancel/");
    world.send("POST", &path, &[("authorization", token)], None).await
}

async fn logs(world: &World, token: &str, job: &str, query: &str) -> Value {
    let path = format!("/api/v1/jobs/{job}/logs/?{query}");
    let answer = world.send("GET", &path, &[("authorization", token)], None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Waits until a job shows this.
async fn until(world: &World, token: &str, job: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let view = world.job(token, job).await;
            if is_so(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap()
}

fn cancelled() -> Value {
    json!({"job_failure_details": {"reason": "unknown", "stage": "execution", "message": "cancelled by the user",
        "context": {"cancelled": true}, "docker_process_stdout": "hello wörld"}})
}

async fn hears_order(validator: &mut Link, job: &str) {
    let expected = format!("{{\"message_type\": \"H0JobCancel\", \"uuid\": \"{job}\"}}");
    assert_eq!(heard(validator).await, expected);
}

/// Shows that nothing waits for a validator: an answer to its question is the next that it hears.
async fn hears_nothing(validator: &mut Link) {
    validator.send(authentication("//Alice")).await.unwrap();
    assert!(heard(validator).await.contains("auth.already_authenticated"));
}

#[tokio::test]
async fn with_a_validator_of_the_reference_a_job_cannot_be_cancelled_and_nothing_changes() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = world.validator().await;
    let job = submit(&world, &token, &mut validator).await;
    let before = world.job(&token, &job).await;
    let answer = cancel(&world, &token, &job).await;
    assert_eq!(answer.status, 409);
    assert!(
        answer.body["error"].as_str().unwrap().contains("cannot cancel"),
        "{answer:?}"
    );
    assert_eq!(world.job(&token, &job).await, before);
    hears_nothing(&mut validator).await;
    for (path, status) in [("00000000-0000-4000-8000-000000000000", 404), ("x", 404)] {
        assert_eq!(cancel(&world, &token, path).await.status, status);
    }
    let path = format!("/api/v1/jobs/{job}/cancel/");
    assert_eq!(world.send("POST", &path, &[], None).await.status, 401);
    assert_eq!(
        world
            .send("GET", &path, &[("authorization", &token)], None)
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn an_order_outlives_facilitator_and_link_until_the_job_has_ended() {
    let mut world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = ours(&world, "//Alice").await;
    let job = submit(&world, &token, &mut validator).await;
    report(&mut validator, &job, "received", Value::Null).await;
    let answer = cancel(&world, &token, &job).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(answer.body["horde"]["cancel"]["asked_at"].is_string());
    hears_order(&mut validator, &job).await;
    // Asked again, it is said again and stands since the first time.
    let again = cancel(&world, &token, &job).await;
    assert_eq!((again.status, &again.body["horde"]), (202, &answer.body["horde"]));
    hears_order(&mut validator, &job).await;
    world.restart().await;
    let mut validator = ours(&world, "//Alice").await;
    hears_order(&mut validator, &job).await;
    // Other validators have nothing to do with it.
    let mut other = ours(&world, "//Ferdie").await;
    hears_nothing(&mut other).await;
    report(&mut validator, &job, "failed", cancelled()).await;
    drop(validator);
    let mut validator = ours(&world, "//Alice").await;
    hears_nothing(&mut validator).await;
    let answer = cancel(&world, &token, &job).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("Failed")));
    assert_eq!(answer.body["status_history"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_order_that_cannot_be_fulfilled_stays_on_record_with_the_reason() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = ours(&world, "//Alice").await;
    let job = submit(&world, &token, &mut validator).await;
    // Nobody asked for this.
    let refused = json!({"message_type": "H0JobCancelRefused", "uuid": job, "reason": "the miner cannot"});
    validator.send(refused.to_string()).await.unwrap();
    hears_nothing(&mut validator).await;
    assert_eq!(cancel(&world, &token, &job).await.status, 202);
    hears_order(&mut validator, &job).await;
    validator.send(refused.to_string()).await.unwrap();
    let reason = |view: &Value| view["horde"]["cancel"]["refused"] == "the miner cannot";
    until(&world, &token, &job, reason).await;
    let answer = cancel(&world, &token, &job).await;
    assert_eq!(answer.status, 409);
    assert!(
        answer.body["error"]
            .as_str()
            .unwrap()
            .contains("the miner cannot")
    );
    hears_nothing(&mut validator).await;
    // One that stands is refused by a validator that comes back as another.
    let second = submit(&world, &token, &mut validator).await;
    assert_eq!(cancel(&world, &token, &second).await.status, 202);
    drop(validator);
    let mut validator = world.validator().await;
    let is_refused = |view: &Value| view["horde"]["cancel"]["refused"].is_string();
    until(&world, &token, &second, is_refused).await;
    hears_nothing(&mut validator).await;
    // The jobs go on.
    for job in [&job, &second] {
        report(&mut validator, job, "failed", cancelled()).await;
    }
}

#[tokio::test]
async fn what_a_job_writes_is_read_live_and_goes_on_from_its_result() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let mut validator = ours(&world, "//Alice").await;
    let mut other = ours(&world, "//Ferdie").await;
    let job = submit(&world, &token, &mut validator).await;
    let said = |offset: u64, words: &str| {
        json!({"message_type": "H0JobOutput", "uuid": job, "stream": "stdout", "offset": offset,
            "data": STANDARD.encode(words)})
        .to_string()
    };
    let page = logs(&world, &token, &job, "").await;
    let nothing = json!({"stream": "stdout", "offset": 0, "next_offset": 0, "data": "", "ended": false, "live": true,
        "omitted_bytes": 0});
    assert_eq!(page, nothing);
    // Another validator's words about it are not its output.
    other.send(said(0, "lies")).await.unwrap();
    other.send(authentication("//Ferdie")).await.unwrap();
    heard(&mut other).await;
    assert_eq!(logs(&world, &token, &job, "").await, nothing);
    // Who waits hears of it.
    let (page, ()) = tokio::join!(logs(&world, &token, &job, "wait=30"), async {
        validator.send(said(0, "hel")).await.unwrap();
    });
    assert_eq!(
        (&page["data"], &page["next_offset"]),
        (&json!(STANDARD.encode("hel")), &json!(3))
    );
    // A gap is told; the other stream is another.
    validator.send(said(6, "wör")).await.unwrap();
    let page = logs(&world, &token, &job, "offset=3&wait=30").await;
    assert_eq!(page["data"], STANDARD.encode("wör"));
    assert_eq!((&page["offset"], &page["omitted_bytes"]), (&json!(6), &json!(3)));
    assert_eq!(logs(&world, &token, &job, "stream=stderr").await["data"], "");
    let (page, _) = tokio::join!(
        logs(&world, &token, &job, "offset=10&wait=30"),
        report(&mut validator, &job, "failed", cancelled())
    );
    assert_eq!(page["data"], STANDARD.encode("ld"));
    assert_eq!((&page["ended"], &page["live"]), (&json!(true), &json!(false)));
    // What comes late changes nothing.
    validator.send(said(0, "late late late")).await.unwrap();
    hears_nothing(&mut validator).await;
    let page = logs(&world, &token, &job, "").await;
    assert_eq!(page["data"], STANDARD.encode("hello wörld"));
    let path = format!("/api/v1/jobs/{job}/logs/?stream=x");
    assert_eq!(
        world
            .send("GET", &path, &[("authorization", &token)], None)
            .await
            .status,
        400
    );
    assert_eq!(world.send("GET", &path, &[], None).await.status, 401);
}
