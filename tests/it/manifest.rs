//! What a running miner offers: changed by its operator at most every two hours, and at once by what does not pay.

use std::time::Duration;

use horde::core::model::ExecutorClass;
use horde::core::model::job::RejectionReason;
use horde::core::net::Link;
use horde::core::proto::validator_miner::Up;
use horde::core::tasks::Tasks;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::dynamic::{Folder, Miner, entry};
use crate::receipts::{bring_job, connect, expect, new_job, register};

const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn ask(miner: &Miner, arguments: &[&str]) -> (i32, String) {
    let output = miner.command(&["manifest"]).args(arguments).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

/// Returns what `horde miner manifest show --json` says once it `is_so`.
async fn shown(miner: &Miner, is_so: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let (code, text) = ask(miner, &["show", "--json"]);
            if code == 0 {
                let said: Value = serde_json::from_str(&text).unwrap();
                if is_so(&said) {
                    return said;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap()
}

/// Connects as a validator, when the miner is up, and returns the link with the count that it is told.
async fn told(miner: &Miner, tasks: &Tasks) -> (Link, i64) {
    let login = format!("http://127.0.0.1:{}/admin/login/", miner.port);
    timeout(PATIENCE, async {
        while reqwest::get(&login).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let mut link = connect(miner.port, tasks).await;
    match expect(&mut link).await {
        Up::Manifest(manifest) => {
            let count = manifest.manifest.count(CLASS);
            (link, count)
        }
        other => panic!("expected the manifest, got {other:?}"),
    }
}

fn executors() -> (&'static str, String) {
    ("HORDE_MINER_EXECUTORS", format!("{CLASS}=1"))
}

#[tokio::test]
async fn a_first_change_counts_at_once_and_the_next_one_waits_its_two_hours_through_a_restart() {
    let mut miner = Miner::new(vec![(
        "HORDE_MINER_EXECUTORS",
        format!("{CLASS}=4,always_on.gpu-24gb=1"),
    )]);
    register(miner.home.path()).await;
    let (code, _) = ask(&miner, &["show"]);
    assert_eq!(code, 3, "there is no miner yet");
    miner.launch();
    let tasks = Tasks::new();
    let said = shown(&miner, |said| said["offered"][CLASS.as_str()] == 4).await;
    assert_eq!(
        (&said["takes_effect_at"], &said["commitment"]),
        (&Value::Null, &json!("<M:A1;T4>"))
    );

    let (code, text) = ask(&miner, &["set", "always_on.test=3", "--dry-run"]);
    assert_eq!(code, 11);
    assert!(text.contains("  always_on.test: 4 -> 3"), "{text}");
    let (code, text) = ask(&miner, &["set", "always_on.test=3", "always_on.gpu-24gb=0"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("wanted         always_on.test=3 always_on.gpu-24gb=0"),
        "{text}"
    );
    assert!(text.contains("takes effect   at once"), "{text}");
    let said = shown(&miner, |said| said["offered"][CLASS.as_str()] == 3).await;
    assert_eq!(said["commitment"], "<M:A0;T3>");
    let (_link, count) = told(&miner, &tasks).await;
    assert_eq!(count, 3);

    let (_, text) = ask(&miner, &["set", "always_on.test=2"]);
    assert!(
        text.contains("takes effect   20") && text.contains("(in 2 h 0 min; "),
        "{text}"
    );
    miner.launch();
    let (mut link, count) = told(&miner, &tasks).await;
    assert_eq!(count, 3, "the second change waits");
    let said = shown(&miner, |said| said["offered"][CLASS.as_str()] == 3).await;
    assert_eq!(
        (&said["wanted"][CLASS.as_str()], &said["in_force"][CLASS.as_str()]),
        (&json!(2), &json!(3))
    );
    assert!(said["takes_effect_at"].is_string());
    let (_, text) = ask(&miner, &["show"]);
    assert!(
        text.contains("in force       always_on.test=3 always_on.gpu-24gb=0  (since 20"),
        "{text}"
    );
    // Three slots are what counts, so a job gets one.
    assert!(matches!(bring_job(&mut link, &new_job()).await, Up::Accepted(_)));

    let (code, _) = ask(&miner, &["set", "always_on.test"]);
    assert_eq!(code, 2);
}

#[tokio::test]
async fn more_than_there_are_places_is_never_offered() {
    let mut miner = Miner::new(vec![executors()]);
    register(miner.home.path()).await;
    miner.launch();
    shown(&miner, |said| said["offered"][CLASS.as_str()] == 1).await;
    let (code, _) = ask(&miner, &["set", "always_on.test=5"]);
    assert_eq!(code, 0);
    let said = shown(&miner, |said| said["in_force"][CLASS.as_str()] == 5).await;
    assert_eq!(said["offered"][CLASS.as_str()], 1);
    let said = shown(&miner, |said| said["reasons"][CLASS.as_str()].is_string()).await;
    assert_eq!(
        (&said["offered"][CLASS.as_str()], &said["commitment"]),
        (&json!(1), &json!("<M:T1>"))
    );
}

#[tokio::test]
async fn a_class_without_executors_is_refused_by_that_name() {
    let mut miner = Miner::new(vec![("HORDE_MINER_EXECUTORS", format!("{CLASS}=0"))]);
    register(miner.home.path()).await;
    miner.launch();
    let tasks = Tasks::new();
    let (mut link, count) = told(&miner, &tasks).await;
    assert_eq!(count, 0);
    let Up::Declined(declined) = bring_job(&mut link, &new_job()).await else {
        panic!("a job was accepted");
    };
    assert_eq!(declined.reason, RejectionReason::Unknown);
    assert_eq!(
        declined.message,
        "executor class always_on.test is not offered at the moment"
    );
}

#[tokio::test]
async fn a_class_that_does_not_pay_is_neither_offered_nor_taken_and_the_reason_is_published() {
    const WEIGHTS: &str = "DYNAMIC_EXECUTOR_CLASS_WEIGHTS";
    let tasks = Tasks::new();
    let folder = Folder::default();
    let weights = "always_on.cpu.8c.16gb=97,always_on.test=3";
    folder.put("validator-config-prod.json", &json!({ WEIGHTS: entry(weights) }));
    folder.put("miner-config-prod.json", "{}");
    folder.put("common-config-prod.json", "{}");
    let url = folder.serve(&tasks).await;
    let mut miner = Miner::new(vec![
        executors(),
        ("HORDE_MINER_DYNAMIC_CONFIG_URL", url),
        ("HORDE_MINER_MULTIPLIER_MIN", "always_on.test=0.05".to_owned()),
    ]);
    register(miner.home.path()).await;
    miner.launch();
    let said = shown(&miner, |said| said["reasons"][CLASS.as_str()].is_string()).await;
    assert_eq!(
        (&said["offered"][CLASS.as_str()], &said["commitment"]),
        (&json!(0), &json!("<M:T0>"))
    );
    assert_eq!(
        said["multipliers"][CLASS.as_str()],
        json!({ "share": 0.03, "min": 0.05 })
    );
    let (mut link, count) = told(&miner, &tasks).await;
    assert_eq!(count, 0);
    let Up::Declined(declined) = bring_job(&mut link, &new_job()).await else {
        panic!("a job was accepted");
    };
    let words = "executor class always_on.test has a share of 0.0300 in what the subnet pays; this miner takes its \
                 jobs from 0.05 on";
    assert_eq!(declined.message, words);

    // It pays again: offered at once, without the wait of the operator's own changes.
    folder.put(
        "validator-config-prod.json",
        &json!({ WEIGHTS: entry("always_on.test=1") }),
    );
    miner.launch();
    shown(&miner, |said| said["offered"][CLASS.as_str()] == 1).await;
    let (mut link, _) = told(&miner, &tasks).await;
    assert!(matches!(bring_job(&mut link, &new_job()).await, Up::Accepted(_)));
}
