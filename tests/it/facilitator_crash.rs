//! kill -9 of the facilitator right before and right after the commit of every durable step of a job: after its restart
//! the job has one end, and its money is settled once.
//!
//! The facilitator's own debug build ends itself at a step (`HORDE_TEST_KILL_BEFORE`, `HORDE_TEST_KILL_AFTER`). The test
//! plays the user, who asks again when nobody answered, and the validator, which repeats what was not answered, as the
//! reference does (wire-facilitator-validator §5).

#[path = "facilitator_crash_delivery.rs"]
mod delivery;

use std::ops::RangeBounds;
use std::os::unix::process::ExitStatusExt;

use futures_util::stream::{self, StreamExt};
use horde::core::model::JobId;
use horde::core::money::INTERVAL_SECONDS;
use horde::core::net::{Event, Link};
use horde::core::proto::sdk_facilitator::JobView;
use horde::core::store::facilitator::CrashPoint;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::gateway::{Door, Gateway, PATIENCE, PAUSE, address, ends, job};

/// Crashes that are played at once.
const AT_ONCE: usize = 3;

/// Micro-units of a second, of what the user has, and the limits of the job.
const PRICE: i64 = 7;
const CREDIT: i64 = 1_000_000;
const LIMITS: [i64; 3] = [100, 3600, 50];
const RESERVED: i64 = PRICE * 3750;

/// How long ago a long job has begun, and how many intervals that are.
const LONG_SECONDS: i64 = 25 * 60;
const INTERVALS: i64 = LONG_SECONDS / INTERVAL_SECONDS;

/// After how many statuses a job is known to run.
const RUNNING: usize = 3;

/// How a job ends, and what is told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// It runs and completes.
    Completed,
    /// It runs and fails by itself.
    Failed,
    /// It runs and its miner is lost, as the reference's validator tells that.
    Spoiled,
    /// It runs, and the horde fails it.
    HordeFailed,
    /// Nobody takes it.
    Rejected,
    /// It runs for more than twenty minutes and completes.
    Long,
    /// It runs for more than twenty minutes and the horde fails it.
    LongSpoiled,
}

impl Scene {
    fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::LongSpoiled)
    }

    /// Returns the statuses before the end.
    fn told(self) -> &'static [&'static str] {
        match self {
            Self::Rejected => &["received"],
            Self::Completed
            | Self::Failed
            | Self::Spoiled
            | Self::HordeFailed
            | Self::Long
            | Self::LongSpoiled => &[
                "received",
                "accepted",
                "executor_ready",
                "volumes_ready",
                "execution_done",
            ],
        }
    }

    /// Returns the end and its metadata.
    fn end(self) -> (&'static str, Value) {
        let horde = json!({"horde_failure_details": {"reported_by": "validator", "reason": "generic_error", "message": "lost"}});
        match self {
            Self::Completed | Self::Long => (
                "completed",
                json!({"miner_response": {"docker_process_stdout": "out", "docker_process_stderr": ""}}),
            ),
            Self::Failed => (
                "failed",
                json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution", "message": "1"}}),
            ),
            Self::Spoiled => ("failed", horde),
            Self::HordeFailed | Self::LongSpoiled => ("horde_failed", horde),
            Self::Rejected => (
                "rejected",
                json!({"job_rejection_details": {"rejected_by": "validator", "reason": "no_miner_for_job", "message": "none"}}),
            ),
        }
    }

    /// Returns some of all that is told, the end included.
    fn reports(self, range: impl RangeBounds<usize>) -> Vec<(&'static str, Value)> {
        let before = self.told().iter().map(|status| (*status, Value::Null));
        let mut all: Vec<_> = before.chain([self.end()]).collect();
        all.drain(range).collect()
    }

    /// Tells whether the job is paid for what it used.
    fn is_charged(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Long)
    }
}

/// How each step is reached, and at which time it is worth it: a new step has to be played, too.
fn scenes(point: CrashPoint) -> &'static [(Scene, u32)] {
    match point {
        CrashPoint::Submitted => &[(Scene::Completed, 1)],
        CrashPoint::Status => &[
            (Scene::Completed, 1),
            (Scene::Completed, 2),
            (Scene::Completed, 3),
            (Scene::Completed, 4),
            (Scene::Completed, 5),
        ],
        CrashPoint::Interval => &[(Scene::Long, 1), (Scene::LongSpoiled, 1)],
        CrashPoint::Ended => &[
            (Scene::Completed, 1),
            (Scene::Failed, 1),
            (Scene::Spoiled, 1),
            (Scene::HordeFailed, 1),
            (Scene::Rejected, 1),
            (Scene::LongSpoiled, 1),
        ],
        // Played in `delivery`, with validators that look at what they get.
        CrashPoint::Pushed | CrashPoint::Withdrawn | CrashPoint::Cancelled => &[],
    }
}

/// Where to end the facilitator: the variable's name, and its value.
type Trap = (&'static str, String);

#[tokio::test(flavor = "multi_thread")]
async fn a_facilitator_killed_at_any_step_ends_each_job_once_and_settles_its_money_once() {
    let plays = CrashPoint::ALL.into_iter().flat_map(|point| {
        let of_point = scenes(point).iter();
        of_point.flat_map(move |(scene, count)| {
            ["HORDE_TEST_KILL_BEFORE", "HORDE_TEST_KILL_AFTER"]
                .map(|side| (*scene, (side, format!("{}:{count}", point.as_str()))))
        })
    });
    stream::iter(plays)
        .for_each_concurrent(AT_ONCE, async |(scene, trap)| play(scene, trap).await)
        .await;
}

/// Plays a scene in which the facilitator ends itself at a trap, and is started again.
async fn play(scene: Scene, trap: Trap) {
    let prices = format!("always_on.test={PRICE}");
    let mut gateway = Gateway::make(&[
        ("HORDE_FACILITATOR_PRICES", &prices),
        ("HORDE_FACILITATOR_ALLOW_ANY_USER", "true"),
    ])
    .await;
    let door = gateway.door.clone();
    let told = format!("{scene:?} {trap:?}");
    let mut known = None;
    if scene.is_long() {
        // It works already when the facilitator is started with the trap.
        gateway.launch().await;
        assert_eq!(grant(&gateway).await["added"], true);
        let uuid = hand_in(&door).await;
        tell(&door, &uuid, scene.reports(..RUNNING)).await;
        gateway.signal(Signal::TERM).await;
        make_older(&gateway, LONG_SECONDS);
        gateway.variables.push(trap);
        gateway.spawn();
        known = Some(uuid);
    } else {
        gateway.variables.push(trap);
        gateway.launch().await;
        assert_eq!(grant(&gateway).await["added"], true);
    }
    let drama = async {
        let uuid = match known {
            Some(uuid) => {
                until_charged(&door, &uuid, PRICE * INTERVALS * INTERVAL_SECONDS).await;
                uuid
            }
            None => hand_in(&door).await,
        };
        tell(
            &door,
            &uuid,
            scene.reports(if scene.is_long() { RUNNING } else { 0 }..),
        )
        .await;
        uuid
    };
    let (uuid, ()) = tokio::join!(drama, start_again(&mut gateway, 0));
    gateway.until_it_serves().await;
    expect_one_end(&gateway, &uuid, scene, &told).await;
}

async fn grant(gateway: &Gateway) -> Value {
    let told = gateway
        .asked(&["credit", "add", &address("//Charlie"), "1", "--key", "first"])
        .await;
    assert_eq!(told["amount_micro"], CREDIT);
    told
}

/// Waits until the facilitator has ended itself, and starts it again without traps, so many seconds later.
async fn start_again(gateway: &mut Gateway, seconds: i64) {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = gateway.process.as_mut().unwrap().try_wait().unwrap() {
            break status;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "the facilitator does not come to {:?}",
            gateway.variables
        );
        sleep(PAUSE).await;
    };
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    gateway
        .variables
        .retain(|(name, _)| !name.starts_with("HORDE_TEST_KILL"));
    make_older(gateway, seconds);
    gateway.spawn();
}

/// Lets a stopped facilitator's job have begun that many seconds earlier.
fn make_older(gateway: &Gateway, seconds: i64) {
    let database = rusqlite::Connection::open(gateway.database()).unwrap();
    for change in [
        "UPDATE jobs SET created_us = created_us - ?1",
        "UPDATE steps SET created_us = created_us - ?1",
        "UPDATE deliveries SET waiting_since_us = waiting_since_us - ?1, deliver_until_us = deliver_until_us - ?1, \
         pushed_us = pushed_us - ?1",
    ] {
        database.execute(change, (seconds * 1_000_000,)).unwrap();
    }
}

/// Submits a job as //Charlie to //Alice until one is stored; whoever gets no answer looks before asking again.
async fn hand_in(door: &Door) -> JobId {
    let client = door.client("//Charlie");
    let stored = timeout(PATIENCE, async {
        loop {
            // A job is only taken while its validator is there.
            if let Some(_link) = door.try_validator().await
                && let Ok(view) = client.submit(&job(LIMITS)).await
            {
                return view.uuid;
            }
            if let Ok(page) = client.page(1, 10).await
                && let Some(view) = page.results.first()
            {
                return view.uuid.clone();
            }
            sleep(PAUSE).await;
        }
    });
    stored.await.unwrap()
}

/// Tells these statuses of a job as //Alice, over as many links as it takes, and again what was not answered.
async fn tell(door: &Door, uuid: &JobId, reports: Vec<(&'static str, Value)>) {
    let mut left = reports.into_iter().peekable();
    let told = timeout(PATIENCE, async {
        while left.peek().is_some() {
            let Some(mut link) = door.try_validator().await else {
                sleep(PAUSE).await;
                continue;
            };
            while let Some((status, metadata)) = left.peek() {
                let update = json!({"message_type": "V0JobStatusUpdate", "uuid": uuid, "status": status, "metadata": metadata});
                if link.send(update.to_string()).await.is_err() || !is_answered(&mut link).await {
                    break;
                }
                left.next();
            }
        }
    });
    told.await.unwrap();
}

/// Waits for the answer to a status: taken now, or before; false when the link is lost.
async fn is_answered(link: &mut Link) -> bool {
    loop {
        let text = match timeout(PATIENCE, link.recv()).await.unwrap() {
            Event::Text(text) => text,
            Event::Binary(_) | Event::Closed { .. } => return false,
        };
        let answer: Value = serde_json::from_str(&text).unwrap();
        // Jobs are pushed on the same link.
        if answer.get("status").is_some() {
            let is_known = answer["errors"][0]["type"] == "job.integrity_error";
            assert!(answer["status"] == "success" || is_known, "{text}");
            return true;
        }
    }
}

/// Waits until a job was charged this much.
async fn until_charged(door: &Door, uuid: &JobId, micro: i64) {
    let client = door.client("//Charlie");
    let charged = async || {
        let view = client.job(uuid).await.ok()?;
        Some(view.horde.cost?.charged_micro)
    };
    let waited = timeout(PATIENCE, async {
        while charged().await != Some(micro) {
            sleep(PAUSE).await;
        }
    });
    waited.await.unwrap();
}

/// Looks at what is left: one job, one end, and each transfer that it causes once.
async fn expect_one_end(gateway: &Gateway, uuid: &JobId, scene: Scene, told: &str) {
    let client = gateway.door.client("//Charlie");
    let page = client.page(1, 10).await.unwrap();
    assert_eq!(page.count, 1, "{told}");
    let view: &JobView = &page.results[0];
    assert_eq!(ends(view), [scene.end().0], "{told}");
    let cost = view.horde.cost.unwrap();
    assert_eq!(cost.reserved_micro, RESERVED, "{told}");
    assert_eq!(cost.charged_micro, PRICE * cost.seconds, "{told}");
    let least = if scene.is_long() { LONG_SECONDS } else { 1 };
    if scene.is_charged() {
        assert!(
            (least..RESERVED / PRICE).contains(&cost.seconds),
            "{told}: {cost:?}"
        );
    } else {
        assert_eq!(cost.seconds, 0, "{told}");
    }
    let user = gateway.asked(&["user", "show", &address("//Charlie")]).await;
    assert_eq!(user["available_micro"], CREDIT - cost.charged_micro, "{told}");
    assert_eq!(user["reserved_micro"], 0, "{told}");
    let books = gateway.asked(&["credit", "check"]).await;
    assert_eq!(books["balanced"], true, "{told}: {books}");
    let transfers = gateway.asked(&["credit", "list", "--job", uuid.as_str()]).await;
    let count = |kind: &str| {
        let all = transfers.as_array().unwrap().iter();
        all.filter(|transfer| transfer["kind"] == kind).count()
    };
    let intervals = if scene.is_long() {
        usize::try_from(INTERVALS).unwrap()
    } else {
        0
    };
    let is_refunded = usize::from(scene.is_long() && !scene.is_charged());
    assert_eq!(
        ["reserve", "interval", "charge", "refund", "return"].map(count),
        [1, intervals, usize::from(scene.is_charged()), is_refunded, 1],
        "{told}: {transfers}"
    );
    // What was given under a key is not given again.
    assert_eq!(grant(gateway).await["added"], false, "{told}");
}
