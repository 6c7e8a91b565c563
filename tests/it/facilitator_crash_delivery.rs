//! kill -9 of the facilitator around the hand-over of a job: its validator, which is played to the letter, gets it once,
//! or again if it refuses to run it twice, and the job has one end, whoever tells it.

use std::cell::Cell;
use std::collections::VecDeque;

use horde::core::proto::facilitator_validator::EXTENSIONS;

use super::*;

/// Who validates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One of ours, which says that it refuses duplicates.
    Ours,
    /// One of the reference, which would run a job as often as it gets it.
    Reference,
}

/// When the facilitator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The job is stored as handed over, as its validator is there; and not sent.
    Submitted,
    /// The validator was away and is back: the job is marked as handed over, and not sent.
    Pushed,
    /// The validator stays away for too long: the job is taken from whoever would hand it over.
    Withdrawn,
    /// The job is sent, and the first that its validator says is stored.
    Told,
    /// The job runs, and its user wants it ended.
    Cancelled,
}

/// A play, and what it must come to.
#[derive(Clone, Copy, Debug)]
struct Play {
    moment: Moment,
    side: &'static str,
    kind: Kind,
    /// How often the validator may get the job.
    gets: (u32, u32),
    end: Scene,
}

/// After so many seconds nobody may hand the job over any more, or still run it.
const TOO_LATE: i64 = 3 * 3600;

const BEFORE: &str = "HORDE_TEST_KILL_BEFORE";
const AFTER: &str = "HORDE_TEST_KILL_AFTER";

fn plays() -> Vec<Play> {
    use {Kind::*, Moment::*};
    let ended = Scene::HordeFailed;
    let done = Scene::Completed;
    [
        (Submitted, BEFORE, Ours, (1, 1), done),
        (Submitted, BEFORE, Reference, (1, 1), done),
        (Submitted, AFTER, Ours, (1, 1), done),
        // It may have run there, so that it never gets it again: the facilitator ends the job when its time is over.
        (Submitted, AFTER, Reference, (0, 0), ended),
        (Pushed, BEFORE, Ours, (1, 1), done),
        (Pushed, BEFORE, Reference, (1, 1), done),
        (Pushed, AFTER, Ours, (1, 1), done),
        (Pushed, AFTER, Reference, (0, 0), ended),
        (Withdrawn, BEFORE, Ours, (0, 0), ended),
        (Withdrawn, AFTER, Reference, (0, 0), ended),
        (Withdrawn, AFTER, Ours, (0, 0), ended),
        // Nothing of it is known, unless what the validator repeats is faster.
        (Told, BEFORE, Ours, (1, 2), done),
        (Told, BEFORE, Reference, (1, 1), done),
        (Told, AFTER, Ours, (1, 1), done),
        (Cancelled, BEFORE, Ours, (1, 1), Scene::Failed),
        (Cancelled, AFTER, Ours, (1, 1), Scene::Failed),
    ]
    .map(|(moment, side, kind, gets, end)| Play {
        moment,
        side,
        kind,
        gets,
        end,
    })
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_facilitator_killed_while_it_hands_over_has_a_job_run_once_at_most_and_ends_it_once() {
    stream::iter(plays()).for_each_concurrent(AT_ONCE, act).await;
}

/// Plays a play.
async fn act(play: Play) {
    let prices = format!("always_on.test={PRICE}");
    let mut gateway = Gateway::make(&[
        ("HORDE_FACILITATOR_PRICES", &prices),
        ("HORDE_FACILITATOR_ALLOW_ANY_USER", "true"),
    ])
    .await;
    let door = gateway.door.clone();
    let step = match play.moment {
        Moment::Submitted => CrashPoint::Submitted,
        Moment::Pushed => CrashPoint::Pushed,
        Moment::Withdrawn => CrashPoint::Withdrawn,
        Moment::Told => CrashPoint::Status,
        Moment::Cancelled => CrashPoint::Cancelled,
    };
    let trap = (play.side, step.as_str().to_owned());
    let got = Cell::new(0);
    if play.moment == Moment::Withdrawn {
        gateway.launch().await;
        grant(&gateway).await;
        leave_and_hand_in(&door).await;
        gateway.signal(Signal::TERM).await;
        make_older(&gateway, TOO_LATE);
        gateway.variables.push(trap);
        gateway.spawn();
    } else {
        gateway.variables.push(trap);
        gateway.launch().await;
        grant(&gateway).await;
    }
    if play.moment == Moment::Pushed {
        leave_and_hand_in(&door).await;
    }
    let waits_for_the_end = play.end == Scene::HordeFailed && play.moment != Moment::Withdrawn;
    let later = if waits_for_the_end { TOO_LATE } else { 0 };
    let user = async {
        let uuid = hand_in_once(&door).await;
        if play.moment == Moment::Cancelled {
            until_cancelled(&door, &uuid).await;
        }
        until_ended(&door, &uuid).await;
        uuid
    };
    let drama = async {
        let (uuid, ()) = tokio::join!(user, start_again(&mut gateway, later));
        uuid
    };
    let uuid = tokio::select! {
        uuid = drama => uuid,
        () = validate(&door, play, &got) => panic!("validators do not end"),
    };
    let told = format!("{play:?}");
    expect_one_end(&gateway, &uuid, play.end, &told).await;
    let (least, most) = play.gets;
    assert!((least..=most).contains(&got.get()), "{told}: {}", got.get());
}

/// Has the validator come and go, and a job wait for it.
async fn leave_and_hand_in(door: &Door) {
    drop(door.try_validator().await.unwrap());
    let client = door.client("//Charlie");
    let is_gone = timeout(PATIENCE, async {
        while !client.validators().await.unwrap().is_empty() {
            sleep(PAUSE).await;
        }
    });
    is_gone.await.unwrap();
    let waiting = client.submit_once(&job(LIMITS), KEY).await.unwrap();
    assert!(ends(&waiting).is_empty());
}

/// Under which the job is submitted, however often.
const KEY: &str = "the job";

/// Submits the job until that is answered.
async fn hand_in_once(door: &Door) -> JobId {
    let client = door.client("//Charlie");
    let stored = timeout(PATIENCE, async {
        loop {
            match client.submit_once(&job(LIMITS), KEY).await {
                Ok(view) => return view.uuid,
                Err(_) => sleep(PAUSE).await,
            }
        }
    });
    stored.await.unwrap()
}

/// Cancels the job, once it runs, until that is answered.
async fn until_cancelled(door: &Door, uuid: &JobId) {
    let client = door.client("//Charlie");
    let is_asked = async || {
        let view = client.job(uuid).await.ok()?;
        let runs = view.status_history.len() > RUNNING;
        (runs && client.cancel(uuid).await.is_ok()).then_some(())
    };
    let asked = timeout(PATIENCE, async {
        while is_asked().await.is_none() {
            sleep(PAUSE).await;
        }
    });
    asked.await.unwrap();
}

async fn until_ended(door: &Door, uuid: &JobId) {
    let client = door.client("//Charlie");
    let has_ended = async || client.job(uuid).await.is_ok_and(|view| !ends(&view).is_empty());
    let ended = timeout(PATIENCE, async {
        while !has_ended().await {
            sleep(PAUSE).await;
        }
    });
    ended.await.unwrap();
}

/// Plays //Alice for ever: runs what it gets once, tells about it until that is answered, and counts how often it came.
async fn validate(door: &Door, play: Play, got: &Cell<u32>) {
    let extensions = match play.kind {
        Kind::Ours => EXTENSIONS,
        Kind::Reference => &[],
    };
    let mut left = VecDeque::new();
    loop {
        let Some(mut link) = door.try_validator_with(extensions).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut told = None;
        loop {
            let next = left.front().map(Value::to_string);
            if let Some(next) = next.filter(|next| told.as_ref() != Some(next)) {
                if link.send(next.clone()).await.is_err() {
                    break;
                }
                told = Some(next);
            }
            let Event::Text(text) = link.recv().await else {
                break;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == "job.new" {
                got.set(got.get() + 1);
                if got.get() == 1 {
                    left.extend(reports(play, &message["uuid"]));
                }
            } else if message["message_type"] == "H0JobCancel" {
                let end = cancelled(&message["uuid"]);
                // The order is repeated until the job has ended.
                if left.back() != Some(&end) {
                    left.push_back(end);
                }
            } else {
                let is_known = message["errors"][0]["type"] == "job.integrity_error";
                assert!(message["status"] == "success" || is_known, "{play:?}: {text}");
                left.pop_front();
                told = None;
            }
        }
    }
}

/// Returns what is told of a job: all of it, or until it runs.
fn reports(play: Play, uuid: &Value) -> Vec<Value> {
    let all = if play.moment == Moment::Cancelled {
        play.end.reports(..RUNNING + 1)
    } else {
        Scene::Completed.reports(..)
    };
    all.iter()
        .map(|(status, metadata)| update(uuid, status, metadata))
        .collect()
}

fn cancelled(uuid: &Value) -> Value {
    let details = json!({"job_failure_details": {"reason": "unknown", "stage": "execution",
        "message": "cancelled by the user", "context": {"cancelled": true}}});
    update(uuid, "failed", &details)
}

fn update(uuid: &Value, status: &str, metadata: &Value) -> Value {
    json!({"message_type": "V0JobStatusUpdate", "uuid": uuid, "status": status, "metadata": metadata})
}
