//! kill -9 of the miner right before and right after the commit of every durable step of a job, and what is left of it:
//! one outcome, all receipts, all slots free, no container; where the executor comes back, results.
//!
//! The miner's own debug build ends itself at a step (`HORDE_TEST_KILL_BEFORE`, `HORDE_TEST_KILL_AFTER`). For the whole
//! matrix the test plays both sides: the executor that the miner starts connects to the test, which takes its token and
//! speaks to the miner in its place; the process itself lives until the test lets it go. Some steps are played again
//! with real executors and containers, which need Docker (see `miner`).

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path as UrlPath;
use axum::routing::get;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered};
use horde::core::crypto::Keypair;
use horde::core::model::JobId;
use horde::core::model::job::{HordeReason, JobStage, StreamingDetails};
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{self, ConnectOptions, Limits, Upgrade};
use horde::core::net::{Event, Link, http};
use horde::core::proto::frame::Message;
use horde::core::proto::job::{
    CANCELLED_MESSAGE, EXTENSION_CANCEL, ExecutionDone, ExecutorReady, HordeFailed, JobCancel, JobFailed,
    JobFinished, StreamingReady, VolumesReady,
};
use horde::core::proto::miner_executor::{self, EXTENSION_RESUME, Resumes};
use horde::core::proto::validator_miner::{Down, MainHotkey, Up};
use horde::core::store::miner::{JobState, MinerStore, Step};
use horde::core::tasks::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::miner::{CLASS, Miner, PATIENCE, Validator, new_job};
use crate::support::docker_is_there;

/// Pause between looks and attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Crashes that are played at once.
const AT_ONCE: usize = 4;

/// Where to end the miner: the variable's name, and its value.
type Trap = (&'static str, String);

fn traps(step: Step, count: u32) -> [Trap; 2] {
    ["HORDE_TEST_KILL_BEFORE", "HORDE_TEST_KILL_AFTER"]
        .map(|side| (side, format!("{}:{count}", step.as_str())))
}

// --- the validator ------------------------------------------------------------------------------------------------

/// What a validator of the newest kind saw of its job: it reconnects and authenticates until it has all.
#[derive(Debug, Default)]
struct Seen {
    /// Whether the job was accepted.
    is_accepted: bool,
    /// What ended it, without repetitions.
    outcomes: Vec<String>,
    /// The steps that were told, without repetitions.
    steps: Vec<&'static str>,
}

/// How to reach a miner that may not be there.
#[derive(Clone)]
struct Door {
    port: u16,
    keypair: Keypair,
}

impl Door {
    fn of(miner: &Miner) -> Self {
        Self {
            port: miner.port,
            keypair: miner.keypair.clone(),
        }
    }

    async fn enter(&self) -> Validator {
        loop {
            if let Some(validator) =
                Validator::try_connect("127.0.0.1", self.port, &self.keypair, "//Alice").await
            {
                return validator;
            }
            sleep(PAUSE).await;
        }
    }
}

/// What a validator asks for.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a script: each is told apart by its name"
)]
struct Wish {
    job: JobId,
    script: &'static str,
    streams: bool,
    /// Whether the finished receipt is sent; else only the close shows that the results have come.
    thanks: bool,
    /// Whether a connection that is opened again begins with the accepted receipt, in case it was lost; else with
    /// nothing but the authentication, so that the miner does not know which job it is for.
    repeats: bool,
    /// Whether the user cancels the job while it runs.
    cancels: bool,
}

async fn send(validator: &Validator, message: impl Into<Down>) {
    // A lost connection is noticed where it is listened to.
    drop(validator.link.send(message.into().encode()).await);
}

/// Runs one job over as many connections as it takes; none when it was declined.
async fn ask(door: &Door, wish: &Wish) -> Option<Seen> {
    let mut seen = Seen::default();
    let mut is_asked = false;
    loop {
        let mut validator = door.enter().await;
        send(&validator, validator.auth()).await;
        if !is_asked {
            // At once, as all validators do: the connection may be gone before the manifest.
            is_asked = true;
            request(&validator, wish).await;
        }
        if seen.is_accepted && wish.repeats {
            send(&validator, validator.accepted_receipt(&wish.job)).await;
        }
        if seen.steps.contains(&VolumesReady::TYPE) {
            cancel(&validator, wish).await;
        }
        match converse(&mut validator, wish, &mut seen).await {
            Talk::Over => {
                validator.close().await;
                return Some(seen);
            }
            Talk::Declined => return None,
            // Only if it was never heard of: asked twice, the miner says so.
            Talk::Silent => is_asked = false,
            Talk::Lost => {}
        }
    }
}

/// Says, as often as a connection is opened, what the user wants.
async fn cancel(validator: &Validator, wish: &Wish) {
    if wish.cancels {
        let job_uuid = wish.job.clone();
        send(validator, JobCancel { job_uuid }).await;
    }
}

enum Talk {
    Over,
    Declined,
    Lost,
    Silent,
}

async fn request(validator: &Validator, wish: &Wish) {
    let mut request = validator.request(&wish.job);
    if wish.streams {
        request.streaming_details = Some(StreamingDetails {
            public_key: "PEM".to_owned(),
            executor_ip: None,
        });
    }
    send(validator, request).await;
}

async fn converse(validator: &mut Validator, wish: &Wish, seen: &mut Seen) -> Talk {
    let mut is_ordered = false;
    loop {
        let patience = if seen.is_accepted {
            PATIENCE
        } else {
            Duration::from_secs(8)
        };
        let Ok(event) = timeout(patience, validator.link.recv()).await else {
            assert!(
                !seen.is_accepted,
                "nothing is heard of {} after {seen:?}",
                wish.job
            );
            return Talk::Silent;
        };
        let text = match event {
            Event::Text(text) => text,
            Event::Binary(_) => panic!("a binary frame"),
            Event::Closed { .. } => return Talk::Lost,
        };
        let message = Up::decode(&text).unwrap();
        let kind = message.message_type();
        match message {
            Up::Accepted(accepted) if accepted.job_uuid == wish.job => {
                seen.is_accepted = true;
                send(validator, validator.accepted_receipt(&wish.job)).await;
            }
            Up::Declined(declined) if declined.job_uuid == wish.job => {
                assert!(!seen.is_accepted, "{declined:?}");
                return Talk::Declined;
            }
            Up::ExecutorReady(ready) if ready.job_uuid == wish.job && !is_ordered => {
                is_ordered = true;
                send(validator, Validator::order(&wish.job, wish.script)).await;
            }
            Up::VolumesReady(VolumesReady { job_uuid })
            | Up::ExecutionDone(ExecutionDone { job_uuid })
            | Up::StreamingReady(StreamingReady { job_uuid, .. })
                if job_uuid == wish.job && !seen.steps.contains(&kind) =>
            {
                seen.steps.push(kind);
                if kind == VolumesReady::TYPE {
                    cancel(validator, wish).await;
                }
            }
            Up::JobFinished(JobFinished { job_uuid, .. }) | Up::HordeFailed(HordeFailed { job_uuid, .. })
                if job_uuid == wish.job && !seen.outcomes.contains(&text) =>
            {
                seen.outcomes.push(text);
            }
            Up::JobFailed(failed) if wish.cancels && failed.job_uuid == wish.job => {
                assert!(failed.is_cancelled(), "{failed:?}");
                if !seen.outcomes.contains(&text) {
                    seen.outcomes.push(text);
                }
            }
            Up::JobFailed(failed) => panic!("{failed:?}"),
            _other => {}
        }
        if !seen.outcomes.is_empty() && thank(validator, wish).await {
            return Talk::Over;
        }
    }
}

/// Hands the receipts over; false when it is not known whether they came.
async fn thank(validator: &mut Validator, wish: &Wish) -> bool {
    if !wish.thanks {
        return true;
    }
    send(validator, validator.finished_receipt(&wish.job)).await;
    // Frames are taken in their order: who answers this has kept the receipt.
    send(validator, MainHotkey { main_hotkey: None }).await;
    loop {
        match timeout(PATIENCE, validator.link.recv()).await.unwrap() {
            Event::Text(text) if matches!(Up::decode(&text), Ok(Up::MainHotkey(_))) => return true,
            Event::Closed { .. } => return false,
            Event::Text(_) | Event::Binary(_) => {}
        }
    }
}

// --- the executors ------------------------------------------------------------------------------------------------

/// Where the miner's executors connect: the test takes their tokens, and speaks for them.
struct Stand {
    address: String,
    arrivals: mpsc::Receiver<(String, Link)>,
    tasks: Tasks,
}

impl Stand {
    async fn open() -> Self {
        let tasks = Tasks::new();
        let (sender, arrivals) = mpsc::channel(64);
        let family = tasks.clone();
        let handler = async move |UrlPath(token): UrlPath<String>, upgrade: Upgrade| {
            let sender = sender.clone();
            ws::accept(upgrade, Limits::default(), &family, async move |link| {
                drop(sender.send((token, link)).await);
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/v0.1/executor_interface/{token}", get(handler));
        let family = tasks.clone();
        tasks.spawn(
            "stand",
            async move { http::serve(listener, router, &family).await },
        );
        Self {
            address,
            arrivals,
            tasks,
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// How a played executor behaves.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a script: each is told apart by its name"
)]
struct Manner {
    /// How long the job takes.
    work: Duration,
    /// Whether its process stays when all is said.
    lingers: bool,
    /// Whether it knows nothing of resuming, as the reference.
    is_simple: bool,
    /// Whether it does not come back.
    stays_away: bool,
    /// Whether its job runs until it is cancelled.
    runs_on: bool,
}

/// Plays an executor whose process holds `hold`: ends with the miner's word that the report is kept, with the end of the
/// process, or with the first loss where it does not come back.
async fn execute(port: u16, token: String, mut hold: Link, manner: Manner) {
    let mut told: Vec<miner_executor::Up> = Vec::new();
    let mut has = Resumes {
        job_uuid: None,
        is_ordered: false,
    };
    let tasks = Tasks::new();
    let url = format!("ws://127.0.0.1:{port}/v0.1/executor_interface/{token}");
    let known: &[&str] = if manner.is_simple {
        &[]
    } else {
        &[EXTENSION_RESUME, EXTENSION_CANCEL]
    };
    let options = ConnectOptions {
        extensions: Extensions::of(known),
        ..ConnectOptions::default()
    };
    let mut is_first = true;
    let speak = async {
        loop {
            let Ok(mut link) = ws::connect(&url, &options, &tasks).await else {
                sleep(PAUSE).await;
                continue;
            };
            if !is_first {
                send_up(&link, has.clone().into()).await;
                for message in &told {
                    send_up(&link, message.clone()).await;
                }
            }
            is_first = false;
            if serve(&mut link, &mut has, &mut told, manner).await || manner.is_simple || manner.stays_away {
                return;
            }
        }
    };
    // The miner may end the process; then there is nobody to speak for.
    tokio::select! {
        () = speak => {}
        () = async { while !matches!(hold.recv().await, Event::Closed { .. }) {} } => return,
    }
    if manner.lingers || manner.stays_away || manner.is_simple {
        while !matches!(hold.recv().await, Event::Closed { .. }) {}
    }
    // The process sees the end of its link, and ends.
    hold.close(1000, "").await;
}

async fn send_up(link: &Link, message: miner_executor::Up) {
    drop(link.send(message.encode()).await);
}

/// Serves one link; true once the miner has the report.
async fn serve(
    link: &mut Link,
    has: &mut Resumes,
    told: &mut Vec<miner_executor::Up>,
    manner: Manner,
) -> bool {
    loop {
        let Event::Text(text) = link.recv().await else {
            return false;
        };
        let mut news: Vec<miner_executor::Up> = Vec::new();
        match miner_executor::Down::decode(&text).unwrap() {
            miner_executor::Down::InitialJob(job) if has.job_uuid.is_none() => {
                has.job_uuid = Some(job.job_uuid.clone());
                let ready = ExecutorReady {
                    job_uuid: job.job_uuid,
                    executor_token: None,
                };
                news.push(ready.into());
            }
            miner_executor::Down::FullJob(order) => {
                assert!(!has.is_ordered, "ordered once");
                has.is_ordered = true;
                let steps = if manner.runs_on { 2 } else { 4 };
                news.extend(run(order.job_uuid).into_iter().take(steps));
            }
            miner_executor::Down::JobCancel(cancel) => {
                let is_new = !told.iter().any(miner_executor::Up::is_report);
                news.extend(
                    is_new.then(|| JobFailed::cancelled(cancel.job_uuid, JobStage::Execution).into()),
                );
            }
            miner_executor::Down::ReportKept(_) => return true,
            // Again, by a miner that cannot know; or it was too late for the process that is spoken for.
            miner_executor::Down::InitialJob(_) | miner_executor::Down::GenericError(_) => {}
        }
        if news.len() > 1 {
            sleep(manner.work).await;
        }
        for message in news {
            told.push(message.clone());
            send_up(link, message).await;
        }
    }
}

fn run(job_uuid: JobId) -> [miner_executor::Up; 4] {
    [
        StreamingReady {
            job_uuid: job_uuid.clone(),
            executor_token: None,
            public_key: "PEM".to_owned(),
            ip: None,
            port: 6000,
            miner_signature: None,
        }
        .into(),
        VolumesReady {
            job_uuid: job_uuid.clone(),
        }
        .into(),
        ExecutionDone {
            job_uuid: job_uuid.clone(),
        }
        .into(),
        JobFinished {
            docker_process_stdout: format!("{job_uuid}\n"),
            job_uuid,
            docker_process_stderr: String::new(),
            artifacts: None,
            upload_results: None,
        }
        .into(),
    ]
}

/// Speaks for all executors that come, until dropped.
async fn speak_for_all(stand: &mut Stand, port: u16, manner: Manner) {
    let mut executors = FuturesUnordered::new();
    loop {
        tokio::select! {
            arrival = stand.arrivals.recv() => {
                let (token, hold) = arrival.unwrap();
                executors.push(execute(port, token, hold, manner));
            }
            Some(()) = executors.next() => {}
        }
    }
}

// --- the miner ----------------------------------------------------------------------------------------------------

async fn played(stand: &Stand, more: &[(&'static str, &str)]) -> Miner {
    let mut miner = Miner::make("127.0.0.1", Vec::new()).await;
    miner.variables = vec![
        ("HORDE_MINER_EXECUTOR_ADDRESS", stand.address.clone()),
        // The processes that the test speaks for wait for their first request in vain.
        ("HORDE_MINER_EXECUTOR_STARTUP_SECONDS", "600".to_owned()),
        ("HORDE_LOG_LEVEL", "warn".to_owned()),
    ];
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    miner.variables.extend(more);
    miner
}

/// Waits until the miner has ended itself, and starts it again without traps, after what is to be done in between.
async fn start_again(miner: &mut Miner) {
    until_killed(miner).await;
    miner
        .variables
        .retain(|(name, _)| !name.starts_with("HORDE_TEST_KILL"));
    miner.spawn();
}

async fn until_killed(miner: &mut Miner) {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = miner.process.as_mut().unwrap().try_wait().unwrap() {
            break status;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "the miner does not come to {:?}",
            miner.variables
        );
        sleep(PAUSE).await;
    };
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    miner.process = None;
}

/// Waits until the miner has nothing more to do, ends it, and looks at what it says of a job.
async fn settle(miner: &mut Miner, job: &JobId, state: JobState, receipts: &[&str]) {
    let directory = miner.directory();
    let drained = timeout(PATIENCE, async {
        let path = directory.join("miner.sqlite");
        loop {
            let store = MinerStore::open_beside(&path).unwrap();
            if store.slots_taken().await.unwrap() == 0 {
                return;
            }
            drop(store);
            sleep(PAUSE).await;
        }
    });
    assert!(drained.await.is_ok(), "a slot stays taken: {:?}", miner.variables);
    miner.signal(Signal::TERM).await;
    let store = miner.store();
    assert_eq!(store.leftovers().await.unwrap(), []);
    let kept = store.job(job).await.unwrap().unwrap();
    assert_eq!((kept.state, kept.slot, kept.is_reported), (state, None, true));
    assert!(kept.is_acknowledged);
    let of_job = store.receipts_of(job).await.unwrap();
    let kinds: Vec<_> = of_job
        .iter()
        .map(|receipt| receipt.payload.receipt_type())
        .collect();
    assert_eq!(kinds, receipts);
    assert!(of_job.iter().all(|receipt| receipt.miner_signature.is_some()));
}

const RECEIPTS: [&str; 3] = ["JobStartedReceipt", "JobAcceptedReceipt", "JobFinishedReceipt"];

/// What goes on while the miner is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// All is well: the job finishes, before or after.
    Plain,
    /// The validator closes without a word when it has the results.
    NoThanks,
    /// The executor does not exit once all is said, until it has outlived its time.
    Lingering,
    /// The job takes longer than its executor may live.
    Overdue,
    /// The user cancels the job.
    Cancelled,
    /// The miner was killed before, and the executor does not come back.
    Lost,
}

/// How each step is reached, and at which time it is worth it: a new step has to be played, too.
fn scenes(step: Step) -> &'static [(Scene, u32)] {
    match step {
        Step::Reserved | Step::PortTaken | Step::Started | Step::Ready | Step::Ordered => {
            &[(Scene::Plain, 1)]
        }
        Step::CancelOrdered => &[(Scene::Cancelled, 1)],
        Step::Told => &[(Scene::Plain, 1), (Scene::Overdue, 1)],
        Step::Ended | Step::Released => &[(Scene::Plain, 1), (Scene::Overdue, 1), (Scene::Cancelled, 1)],
        // The accepted receipt, and the finished one.
        Step::ReceiptKept => &[(Scene::Plain, 1), (Scene::Plain, 2)],
        Step::Acknowledged => &[(Scene::NoThanks, 1)],
        Step::Doomed => &[(Scene::Lingering, 1)],
        Step::Buried => &[(Scene::Lost, 1)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_killed_at_any_step_owes_nothing_in_the_end_and_has_lost_nothing() {
    let plays = Step::ALL.into_iter().flat_map(|step| {
        let of_step = scenes(step).iter();
        of_step.flat_map(move |(scene, count)| {
            traps(step, *count).map(|trap| (*scene, has_outcome(step, *count, trap.0), trap))
        })
    });
    stream::iter(plays)
        .for_each_concurrent(AT_ONCE, async |(scene, has_outcome, trap)| {
            play(scene, trap, has_outcome).await;
        })
        .await;
}

/// Tells whether a miner that is killed there has the outcome: its next life owes that, and not the steps before it,
/// which may have died with the connection.
fn has_outcome(step: Step, count: u32, side: &str) -> bool {
    match step {
        Step::Reserved
        | Step::PortTaken
        | Step::Started
        | Step::Ready
        | Step::Ordered
        | Step::CancelOrdered => false,
        Step::Ended => side == "HORDE_TEST_KILL_AFTER",
        Step::ReceiptKept => count > 1,
        Step::Told | Step::Acknowledged | Step::Doomed | Step::Released | Step::Buried => true,
    }
}

/// Plays a scene in which the miner ends itself at a trap, and starts it again.
async fn play(scene: Scene, trap: Trap, has_outcome: bool) {
    let mut stand = Stand::open().await;
    let (manner, seconds) = match scene {
        Scene::Plain | Scene::NoThanks => (Manner::default(), "1200"),
        Scene::Lingering => {
            let lingers = true;
            (
                Manner {
                    lingers,
                    ..Manner::default()
                },
                // Enough for the job itself on a busy machine.
                "12",
            )
        }
        Scene::Cancelled => {
            let runs_on = true;
            (
                Manner {
                    runs_on,
                    ..Manner::default()
                },
                "1200",
            )
        }
        Scene::Overdue => {
            let work = PATIENCE;
            (
                Manner {
                    work,
                    ..Manner::default()
                },
                "4",
            )
        }
        Scene::Lost => {
            let is_simple = true;
            (
                Manner {
                    is_simple,
                    work: PATIENCE,
                    ..Manner::default()
                },
                "1200",
            )
        }
    };
    let mut miner = played(&stand, &[("HORDE_MINER_EXECUTOR_TTL_SECONDS", seconds)]).await;
    if scene != Scene::Lost {
        miner.variables.push(trap.clone());
    }
    miner.launch().await;
    let (door, port) = (Door::of(&miner), miner.port);
    let wish = Wish {
        job: new_job(),
        script: "true",
        streams: true,
        thanks: scene != Scene::NoThanks,
        repeats: true,
        cancels: scene == Scene::Cancelled,
    };
    let play = async {
        let crash = async {
            if scene == Scene::Lost {
                until_ordered(&miner, &wish.job).await;
                miner.signal(Signal::KILL).await;
                miner.variables.push(trap.clone());
                miner.spawn();
            }
            start_again(&mut miner).await;
        };
        let (seen, ()) = tokio::join!(ask(&door, &wish), crash);
        let seen = seen.unwrap();
        assert_eq!(seen.outcomes.len(), 1, "{scene:?} {trap:?}: {seen:?}");
        let (state, word) = match scene {
            Scene::Plain | Scene::NoThanks | Scene::Lingering => (JobState::Finished, "V0JobFinishedRequest"),
            Scene::Cancelled => (JobState::Failed, CANCELLED_MESSAGE),
            Scene::Overdue => (JobState::Failed, "unhandled_timeout"),
            Scene::Lost => (JobState::Failed, "executor_disconnected"),
        };
        assert!(seen.outcomes[0].contains(word), "{scene:?} {trap:?}: {seen:?}");
        if state == JobState::Finished {
            let mut steps = seen.steps;
            steps.sort_unstable();
            let all = [
                "V0ExecutionDoneRequest",
                "V0StreamingJobReadyRequest",
                "V0VolumesReadyRequest",
            ];
            assert!(
                steps.iter().all(|step| all.contains(step)),
                "{scene:?} {trap:?}: {steps:?}"
            );
            assert!(has_outcome || steps == all, "{scene:?} {trap:?}: {steps:?}");
        }
        if scene == Scene::NoThanks {
            let is_told_again = trap.0 == "HORDE_TEST_KILL_BEFORE";
            hear_again(&door, &wish, is_told_again.then_some(&seen.outcomes[0])).await;
        }
        settle(&mut miner, &wish.job, state, &RECEIPTS).await;
    };
    tokio::select! {
        () = play => {}
        () = speak_for_all(&mut stand, port, manner) => {}
    }
}

/// Waits until the job runs, as far as the miner knows.
async fn until_ordered(miner: &Miner, job: &JobId) {
    let store = MinerStore::open_beside(&miner.directory().join("miner.sqlite")).unwrap();
    let is_running = async || {
        let kept = store.job(job).await.unwrap();
        kept.is_some_and(|kept| kept.state == JobState::Running)
    };
    timeout(PATIENCE, async {
        while !is_running().await {
            sleep(PAUSE).await;
        }
    })
    .await
    .unwrap();
}

/// Comes as a validator that has nothing to ask for: hears the outcome again, or nothing, and hands its receipt over.
///
/// The receipt waits for what is expected: a job that still has a keeper is spoken of beside the conversation, and once
/// the receipt is there nothing is owed any more.
async fn hear_again(door: &Door, wish: &Wish, expected: Option<&String>) {
    let mut validator = door.enter().await;
    send(&validator, validator.auth()).await;
    let mut heard = Vec::new();
    while heard.len() < usize::from(expected.is_some()) {
        heard.extend(outcome_or_answer(&mut validator).await);
    }
    send(&validator, validator.finished_receipt(&wish.job)).await;
    send(&validator, MainHotkey { main_hotkey: None }).await;
    while let Some(outcome) = outcome_or_answer(&mut validator).await {
        heard.push(outcome);
    }
    assert_eq!(heard, Vec::from_iter(expected.cloned()));
    validator.close().await;
}

/// Waits for an outcome, which is returned, or for the answer to a question that was asked; skips all else.
async fn outcome_or_answer(validator: &mut Validator) -> Option<String> {
    loop {
        match timeout(PATIENCE, validator.link.recv()).await.unwrap() {
            Event::Text(text) => match Up::decode(&text).unwrap() {
                Up::JobFinished(_) => return Some(text),
                Up::MainHotkey(_) => return None,
                _other => {}
            },
            other => panic!("{other:?}"),
        }
    }
}

// --- without a trap -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_stays_away_is_given_up_and_killed() {
    let mut stand = Stand::open().await;
    let mut miner = played(&stand, &[("HORDE_EXECUTOR_RECONNECT_SECONDS", "1")]).await;
    miner.launch().await;
    let (door, port) = (Door::of(&miner), miner.port);
    let wish = Wish {
        job: new_job(),
        script: "true",
        streams: false,
        thanks: true,
        repeats: true,
        cancels: false,
    };
    let manner = Manner {
        work: PATIENCE,
        stays_away: true,
        ..Manner::default()
    };
    let play = async {
        let crash = async {
            until_ordered(&miner, &wish.job).await;
            miner.signal(Signal::KILL).await;
            miner.launch().await;
        };
        let (seen, ()) = tokio::join!(ask(&door, &wish), crash);
        let seen = seen.unwrap();
        assert_eq!(seen.outcomes.len(), 1);
        assert!(
            seen.outcomes[0].contains("Executor did not come back within 11 s"),
            "{seen:?}"
        );
        settle(&mut miner, &wish.job, JobState::Failed, &RECEIPTS).await;
    };
    tokio::select! {
        () = play => {}
        () = speak_for_all(&mut stand, port, manner) => {}
    }
}

/// The second signal ends a draining miner at once; what runs is left to the next life all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait_for_jobs_and_loses_none() {
    let mut stand = Stand::open().await;
    let mut miner = played(&stand, &[("HORDE_MINER_DRAIN_SECONDS", "600")]).await;
    miner.launch().await;
    let (door, port) = (Door::of(&miner), miner.port);
    let wish = Wish {
        job: new_job(),
        script: "true",
        streams: false,
        thanks: true,
        repeats: true,
        cancels: false,
    };
    let manner = Manner {
        work: Duration::from_secs(4),
        ..Manner::default()
    };
    let play = async {
        let stop = async {
            until_ordered(&miner, &wish.job).await;
            let pid = Pid::from_child(miner.process.as_ref().unwrap());
            kill_process(pid, Signal::TERM).unwrap();
            sleep(Duration::from_millis(500)).await;
            assert_eq!(
                miner.process.as_mut().unwrap().try_wait().unwrap(),
                None,
                "the job runs"
            );
            miner.signal(Signal::TERM).await;
            miner.launch().await;
        };
        let (seen, ()) = tokio::join!(ask(&door, &wish), stop);
        let seen = seen.unwrap();
        assert_eq!(seen.outcomes.len(), 1);
        assert!(seen.outcomes[0].contains("V0JobFinishedRequest"), "{seen:?}");
        settle(&mut miner, &wish.job, JobState::Finished, &RECEIPTS).await;
    };
    tokio::select! {
        () = play => {}
        () = speak_for_all(&mut stand, port, manner) => {}
    }
}

/// Restarts under load: every job that was accepted has its results, once, and every executor is free in the end.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_under_load_lose_no_job() {
    const EXECUTORS: u32 = 4;
    const RESTARTS: usize = 3;
    let mut stand = Stand::open().await;
    let mut miner = played(&stand, &[("HORDE_MINER_DRAIN_SECONDS", "1")]).await;
    miner.executors = EXECUTORS;
    miner.launch().await;
    let (door, port) = (Door::of(&miner), miner.port);
    let manner = Manner {
        // Some finish while the miner drains, some outlast it.
        work: Duration::from_millis(1500),
        ..Manner::default()
    };
    let is_over = AtomicBool::new(false);
    let submit = async || {
        let mut accepted = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let wish = Wish {
                job: new_job(),
                script: "true",
                streams: false,
                thanks: true,
                repeats: false,
                cancels: false,
            };
            match ask(&door, &wish).await {
                None => sleep(PAUSE).await,
                Some(seen) => {
                    assert_eq!(seen.outcomes.len(), 1, "{seen:?}");
                    assert!(seen.outcomes[0].contains("V0JobFinishedRequest"), "{seen:?}");
                    accepted.push(wish.job);
                }
            }
        }
        accepted
    };
    let flag = &is_over;
    let restart = async move {
        for _ in 0..RESTARTS {
            sleep(Duration::from_secs(3)).await;
            miner.signal(Signal::TERM).await;
            miner.launch().await;
        }
        flag.store(true, Ordering::Relaxed);
        miner
    };
    let play = async {
        let (jobs, mut miner) = tokio::join!(join_all((0..=EXECUTORS).map(|_| submit())), restart);
        let jobs = jobs.concat();
        assert!(jobs.len() > RESTARTS * 4, "{} jobs", jobs.len());
        for job in &jobs {
            let store = MinerStore::open_beside(&miner.directory().join("miner.sqlite")).unwrap();
            let kept = store.job(job).await.unwrap().unwrap();
            assert_eq!(kept.state, JobState::Finished);
            assert_eq!(store.receipts_of(job).await.unwrap().len(), RECEIPTS.len());
        }
        settle(&mut miner, &jobs[0], JobState::Finished, &RECEIPTS).await;
    };
    tokio::select! {
        () = play => {}
        () = speak_for_all(&mut stand, port, manner) => {}
    }
}

/// With real executors and containers: what the matrix plays is what they do.
#[tokio::test(flavor = "multi_thread")]
async fn real_executors_survive_a_miner_that_is_killed_at_a_step() {
    if !docker_is_there() {
        return;
    }
    let plays = [Step::Started, Step::Ready, Step::Ordered, Step::Ended]
        .into_iter()
        .flat_map(|step| traps(step, 1));
    stream::iter(plays)
        .for_each_concurrent(2, async |trap| {
            let mut miner = Miner::make("127.0.0.1", Vec::new()).await;
            miner.variables = vec![trap.clone(), ("HORDE_LOG_LEVEL", "warn".to_owned())];
            miner.launch().await;
            let door = Door::of(&miner);
            let wish = Wish {
                job: new_job(),
                script: "sleep 1; echo survived",
                streams: false,
                thanks: true,
                repeats: true,
                cancels: false,
            };
            let (seen, ()) = tokio::join!(ask(&door, &wish), start_again(&mut miner));
            let seen = seen.unwrap();
            assert_eq!(seen.outcomes.len(), 1, "{trap:?}: {seen:?}");
            assert!(seen.outcomes[0].contains("survived"), "{trap:?}: {seen:?}");
            settle(&mut miner, &wish.job, JobState::Finished, &RECEIPTS).await;
            miner.expect_no_containers().await;
        })
        .await;
}

/// An executor whose miner does not come back ends, and takes its container along.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_whose_miner_stays_away_ends_and_leaves_no_container() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::make("127.0.0.1", Vec::new()).await;
    miner.variables = vec![("HORDE_EXECUTOR_RECONNECT_SECONDS", "3".to_owned())];
    miner.launch().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    alice.engage(&job).await;
    send(&alice, Validator::order(&job, "sleep 600")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    let runs = timeout(PATIENCE, async {
        while miner.containers().await.is_empty() {
            sleep(PAUSE).await;
        }
    });
    runs.await.unwrap();
    miner.signal(Signal::KILL).await;
    miner.expect_no_containers().await;
    // What it cannot tell any more, the next life says.
    miner.launch().await;
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    assert_eq!(
        alice.expect_horde_failed().await.reason,
        HordeReason::ExecutorDisconnected
    );
    send(&alice, alice.finished_receipt(&job)).await;
    alice.close().await;
    settle(
        &mut miner,
        &job,
        JobState::Failed,
        &["JobStartedReceipt", "JobFinishedReceipt"],
    )
    .await;
}

// --- drain --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_miner_takes_no_jobs_until_it_is_undrained_also_over_a_restart() {
    let mut stand = Stand::open().await;
    let mut miner = played(&stand, &[]).await;
    miner.launch().await;
    let (door, port) = (Door::of(&miner), miner.port);
    let manner = Manner {
        work: Duration::from_secs(3),
        ..Manner::default()
    };
    let wish = || Wish {
        job: new_job(),
        script: "true",
        streams: false,
        thanks: true,
        repeats: true,
        cancels: false,
    };
    let manifest = async || {
        let mut validator = door.enter().await;
        send(&validator, validator.auth()).await;
        let Up::Manifest(manifest) = validator.expect().await else {
            panic!("no manifest")
        };
        send(&validator, validator.request(&new_job())).await;
        let answer = loop {
            match validator.expect().await {
                Up::Declined(declined) => break declined.message,
                Up::Accepted(_) => break "accepted".to_owned(),
                _told_again => {}
            }
        };
        (manifest.manifest.count(CLASS), answer)
    };
    let drained = (0, "miner is draining: it takes no new jobs".to_owned());
    let play = async {
        let job = wish();
        let order = async {
            until_ordered(&miner, &job.job).await;
            let told = command(&miner, &["drain", "--json"]).await;
            assert_eq!(told, (Some(0), r#"{"is_draining":true,"jobs":1}"#.to_owned()));
            let told = command(&miner, &["drain", "--wait", "1", "--json"]).await;
            assert_eq!(told, (Some(7), r#"{"is_draining":true,"jobs":1}"#.to_owned()));
            assert_eq!(manifest().await, drained);
            let told = command(&miner, &["drain", "--wait"]).await;
            let words = "draining: no new jobs are taken; 0 jobs hold an executor".to_owned();
            assert_eq!(told, (Some(0), words));
        };
        let (seen, ()) = tokio::join!(ask(&door, &job), order);
        assert!(
            seen.unwrap().outcomes[0].contains("V0JobFinishedRequest"),
            "running jobs go on"
        );
        miner.signal(Signal::TERM).await;
        miner.launch().await;
        assert_eq!(manifest().await, drained);
        let told = command(&miner, &["undrain", "--dry-run"]).await;
        let plan = "would undrain the miner\n  new jobs: none taken -> taken".to_owned();
        assert_eq!(told, (Some(11), plan));
        assert_eq!(
            command(&miner, &["drain", "--dry-run"]).await,
            (Some(0), String::new())
        );
        let told = command(&miner, &["undrain", "--json"]).await;
        assert_eq!(told, (Some(0), r#"{"is_draining":false,"jobs":0}"#.to_owned()));
        let undrained = timeout(PATIENCE, async {
            while manifest().await.0 != 1 {
                sleep(PAUSE).await;
            }
        });
        undrained.await.unwrap();
    };
    tokio::select! {
        () = play => {}
        () = speak_for_all(&mut stand, port, manner) => {}
    }
}

/// Runs an operator's command beside the miner; returns its exit code and what it printed.
async fn command(miner: &Miner, words: &[&str]) -> (Option<i32>, String) {
    let mut command = miner.command(words);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), printed.trim().to_owned())
}
