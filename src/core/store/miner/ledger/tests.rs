//! The ledger against the real schema.

use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;

use super::super::{Offer, Reservation};
use super::*;
use crate::core::model::ExecutorClass;

const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);
const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

fn store() -> (tempfile::TempDir, MinerStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
    (folder, store)
}

fn job(number: u32) -> JobId {
    JobId::new(format!("{number:08}-0000-4000-8000-000000000000"))
}

fn receipt(number: u32, kind: &str, more: &str) -> crate::core::model::receipt::Receipt {
    let text = format!(
        r#"{{"payload":{{"job_uuid":"{job}","miner_hotkey":"m","validator_hotkey":"v","timestamp":"2026-01-15T12:30:45Z",
            "receipt_type":"{kind}",{more}}},"validator_signature":"0x01","miner_signature":"0x02"}}"#,
        job = job(number)
    );
    serde_json::from_str(&text).unwrap()
}

fn offer(number: u32, slots: u32) -> Offer {
    Offer {
        validator: Hotkey::from("validator"),
        job: job(number),
        class: CLASS,
        token: format!("token {number}"),
        request: "{}".to_owned(),
        receipt: receipt(
            number,
            "JobStartedReceipt",
            r#""executor_class":"always_on.test","is_organic":true,"ttl":7"#,
        ),
        slots: (0..slots).collect(),
    }
}

fn seconds(seconds: i64) -> OffsetDateTime {
    NOW + Duration::seconds(seconds)
}

fn refused(number: u32, reason: &str) -> Refused {
    Refused {
        at: seconds(i64::from(number)),
        subject: Subject::Offer,
        validator: Hotkey::from("validator"),
        address: Some("192.0.2.1".to_owned()),
        job: Some(job(number)),
        class: Some(CLASS),
        reason: reason.to_owned(),
        words: "words".to_owned(),
        evidence: json!({"executors": 1}),
    }
}

fn count(counters: &[Counter], event: Event, reason: &str) -> u64 {
    let matching = counters
        .iter()
        .filter(|counter| counter.event == event && counter.reason == reason);
    matching.map(|counter| counter.count).sum()
}

#[tokio::test]
async fn the_steps_of_a_job_are_written_with_its_changes_and_each_once() {
    let (_folder, store) = store();
    store.reserve(offer(1, 1), NOW).await.unwrap();
    let note = |step, at| Note {
        job: job(1),
        step,
        at,
    };
    let notes = vec![
        note(Step::Offered, seconds(-1)),
        note(Step::ExecutorConnected, seconds(1)),
        note(Step::ExecutorConnected, seconds(9)),
        Note {
            job: job(99),
            ..note(Step::Offered, NOW)
        },
    ];
    let batch = Batch {
        notes,
        ..Batch::default()
    };
    store.record(Arc::new(batch)).await.unwrap();
    store
        .executor_ready(&job(1), "a".to_owned(), true, seconds(2))
        .await
        .unwrap();
    store.ordered(&job(1), "{}".to_owned(), seconds(3)).await.unwrap();
    let outcome = r#"{"message_type":"V0JobFinishedRequest","docker_process_stdout":"out"}"#;
    store
        .end(&job(1), JobState::Finished, outcome.to_owned(), false, seconds(4))
        .await
        .unwrap();
    store.reported(&job(1), seconds(5)).await.unwrap();
    let accepted = receipt(
        1,
        "JobAcceptedReceipt",
        r#""time_accepted":"2026-01-15T12:30:45Z","ttl":9"#,
    );
    store.keep_receipt(accepted, seconds(6)).await.unwrap();
    store.release(&job(1), seconds(7)).await.unwrap();
    let details = store.job_details(&job(1)).await.unwrap().unwrap();
    let steps: Vec<_> = details
        .steps
        .iter()
        .map(|(step, at)| (*step, (*at - NOW).whole_seconds()))
        .collect();
    assert_eq!(
        steps,
        [
            (Step::Offered, -1),
            (Step::Accepted, 0),
            (Step::ExecutorConnected, 1),
            (Step::Ready, 2),
            (Step::Ordered, 3),
            (Step::Finished, 4),
            (Step::Delivered, 5),
            (Step::AcceptedReceipt, 6),
            (Step::Released, 7),
        ]
    );
    assert_eq!(
        (details.outcome.as_deref(), details.stdout.as_str()),
        (Some("V0JobFinishedRequest"), "out")
    );
    // They go with the job.
    store
        .forget_old(seconds(0) + super::super::KEPT + Duration::hours(1))
        .await
        .unwrap();
    assert_eq!(store.job_details(&job(1)).await.unwrap(), None);
    let left = |connection: &Connection| {
        Ok(connection.query_row("SELECT count(*) FROM job_step", (), |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(store.store.read(left).await.unwrap(), 0);
}

#[tokio::test]
async fn everything_is_counted_by_its_reason_and_outlives_its_row() {
    let (_folder, store) = store();
    for number in 0..4 {
        store.reserve(offer(number, 4), NOW).await.unwrap();
    }
    assert!(matches!(
        store.reserve(offer(9, 4), NOW).await.unwrap(),
        Reservation::Busy(_)
    ));
    for (number, state, outcome) in [
        (0, JobState::Finished, r#"{"docker_process_stdout":""}"#),
        (1, JobState::Failed, r#"{"reason":"timeout","stage":"execution"}"#),
        (2, JobState::Failed, r#"{"reason":"unhandled_timeout"}"#),
        (3, JobState::Failed, r#"{"reason":"download_failed"}"#),
    ] {
        store
            .end(&job(number), state, outcome.to_owned(), false, NOW)
            .await
            .unwrap();
        store.release(&job(number), NOW).await.unwrap();
    }
    let batch = Batch {
        refused: vec![refused(9, "busy")],
        crowded: vec![(Subject::Offer, "busy".to_owned(), Hotkey::from("other"), 3)],
        ..Batch::default()
    };
    store.record(Arc::new(batch)).await.unwrap();
    store
        .forget_old(NOW + super::super::KEPT + Duration::hours(1))
        .await
        .unwrap();
    let counters = store.counters().await.unwrap();
    for (event, reason, expected) in [
        (Event::Offered, "", 8),
        (Event::Accepted, CLASS.as_str(), 4),
        (Event::Declined, "busy", 4),
        (Event::Finished, CLASS.as_str(), 1),
        (Event::TimedOut, "execution", 1),
        (Event::TimedOut, "unhandled_timeout", 1),
        (Event::Failed, "download_failed", 1),
    ] {
        assert_eq!(count(&counters, event, reason), expected, "{event:?} {reason}");
    }
    assert!(
        counters
            .iter()
            .any(|counter| counter.event == Event::Offered && counter.validator == "other")
    );
}

#[tokio::test]
async fn refusals_are_bounded_in_number_size_and_age() {
    let (_folder, store) = store();
    let mut long = refused(1, "busy");
    long.words = "w".repeat(100_000);
    long.evidence = json!({"x": "y".repeat(100_000)});
    long.job = Some(JobId::new("j".repeat(100_000)));
    let batch = Batch {
        refused: vec![long],
        ..Batch::default()
    };
    store.record(Arc::new(batch)).await.unwrap();
    let rows = store.refusals(RefusedFilter::default(), 10).await.unwrap();
    let kept = &rows[0].refused;
    assert_eq!(
        (kept.words.len(), kept.job.as_ref().unwrap().as_str().len()),
        (1000, 100)
    );
    assert!(kept.evidence["left_out_bytes"].as_u64().unwrap() > 100_000);

    let max = u32::try_from(REFUSED_AUTHENTICATIONS_MAX).unwrap();
    let authentication = |number| Refused {
        subject: Subject::Authentication,
        ..refused(number, "too_old")
    };
    let batch = Batch {
        refused: (0..max + 10).map(authentication).collect(),
        ..Batch::default()
    };
    store.record(Arc::new(batch)).await.unwrap();
    let rows = store.refusals(RefusedFilter::default(), 100_000).await.unwrap();
    assert_eq!(
        rows.len(),
        usize::try_from(max).unwrap() + 1,
        "a flood of authentications leaves offers alone"
    );
    assert_eq!(
        rows[0].refused.at,
        seconds(i64::from(max) + 9),
        "the newest are kept"
    );
    store
        .forget_old(NOW + REFUSALS_KEPT + Duration::days(1))
        .await
        .unwrap();
    assert_eq!(store.refusals(RefusedFilter::default(), 10).await.unwrap(), []);
}

#[tokio::test]
async fn strangers_are_folded_by_reason_and_address() {
    let (_folder, store) = store();
    let strangers = |address: &str, count, at| Strangers {
        reason: "unknown_validator".to_owned(),
        address: address.to_owned(),
        count,
        first_at: at,
        last_at: at,
        last_validator: Hotkey::from("fake-hotkey"),
        last_words: String::new(),
    };
    for (address, number, at) in [("a", 2, NOW), ("b", 1, NOW), ("a", 5, seconds(9))] {
        let batch = Batch {
            strangers: vec![strangers(address, number, at)],
            ..Batch::default()
        };
        store.record(Arc::new(batch)).await.unwrap();
    }
    let rows = store.strangers(None, 10).await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].count, rows[0].first_at, rows[0].last_at),
        (2, 7, NOW, seconds(9))
    );
    assert_eq!(store.strangers(Some(seconds(1)), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn jobs_are_found_by_number_by_prefix_and_by_filter() {
    let (_folder, store) = store();
    for number in [10, 11, 20] {
        store
            .reserve(offer(number, 9), seconds(i64::from(number)))
            .await
            .unwrap();
    }
    let named = async |name: &str| store.jobs_named(name).await.unwrap();
    assert_eq!(named("1").await, [job(10)], "a number of a row");
    assert_eq!(named("0000001").await, [job(10), job(11)]);
    assert_eq!(named("00000020").await, [job(20)]);
    assert_eq!(named(job(11).as_str()).await, [job(11)]);
    assert_eq!(named("f%").await, []);
    let ids = async |filter: JobFilter| {
        let rows = store.jobs(filter, 10).await.unwrap();
        rows.into_iter().map(|row| row.job).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(JobFilter::default()).await,
        [job(20), job(11), job(10)],
        "newest first"
    );
    let since = JobFilter {
        since: Some(seconds(11)),
        ..JobFilter::default()
    };
    assert_eq!(ids(since).await, [job(20), job(11)]);
    let finished = JobFilter {
        states: vec![JobState::Finished],
        ..JobFilter::default()
    };
    assert_eq!(ids(finished).await, []);
    let of = |validator: &str| JobFilter {
        validator: Some(validator.to_owned()),
        class: Some(CLASS),
        ..JobFilter::default()
    };
    assert_eq!(ids(of("valid")).await.len(), 3);
    assert_eq!(ids(of("w")).await, []);
}

#[tokio::test]
async fn the_hotkey_of_a_check_is_let_in_for_a_time_and_its_jobs_are_counted_apart() {
    let (_folder, store) = store();
    let hotkey = Hotkey::from("validator");
    store
        .allow_check_validator(&hotkey, seconds(60), NOW)
        .await
        .unwrap();
    assert!(store.is_check_validator(&hotkey, seconds(59)).await.unwrap());
    assert!(!store.is_check_validator(&hotkey, seconds(61)).await.unwrap());
    store.reserve(offer(1, 1), NOW).await.unwrap();
    store.dismiss_check_validator(&hotkey, seconds(1)).await.unwrap();
    assert!(!store.is_check_validator(&hotkey, seconds(2)).await.unwrap());
    let counters = store.counters().await.unwrap();
    assert!(
        counters.iter().all(|counter| counter.validator == SELF_TEST),
        "{counters:?}"
    );
    assert_eq!(store.damage().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_addresses_of_strangers_are_bounded_and_the_rest_is_still_counted() {
    let (_folder, store) = store();
    let max = u64::try_from(STRANGER_ROWS_MAX).unwrap();
    let strangers = (0..max + 50).map(|number| Strangers {
        reason: "unknown_validator".to_owned(),
        address: number.to_string(),
        count: 1,
        first_at: NOW,
        last_at: NOW,
        last_validator: Hotkey::from("x"),
        last_words: String::new(),
    });
    let strangers: Vec<_> = strangers.collect();
    for batch in strangers.chunks(4096) {
        let batch = Batch {
            strangers: batch.to_vec(),
            ..Batch::default()
        };
        store.record(Arc::new(batch)).await.unwrap();
    }
    let rows = store.strangers(None, u32::MAX).await.unwrap();
    assert_eq!(u64::try_from(rows.len()).unwrap(), max + 1);
    let nameless = rows.iter().find(|row| row.address.is_empty()).unwrap();
    assert_eq!(nameless.count, 50);
    let counters = store.counters().await.unwrap();
    assert_eq!(
        count(&counters, Event::AuthenticationRefused, "unknown_validator"),
        max + 50
    );
}
