//! A user ends a job, and follows what it writes, through a whole network of `horde up` with real containers.
//!
//! What each role says to peers that know of it, and to those of the reference, is shown without Docker:
//! `facilitator::cancel`, `validator::cancel`, and `crash` for the miner.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use horde::core::client::Client;
use horde::core::client::cancel::Cancelled;
use horde::core::client::logs::LogPiece;
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::model::job::{JobStatus, OutputStream};
use horde::core::model::{Hotkey, JobId};
use horde::core::proto::sdk_facilitator::{JobView, Submit, is_cancelled};
use horde::core::store::miner::MinerStore;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Home, SAMPLE_IMAGE, docker_is_there};

/// Longest wait for anything; a machine that runs many tests at once is slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A whole network, and its user; killed when the test ends.
struct Network {
    process: Child,
    told: Value,
    client: Client,
    validator: Hotkey,
    _home: Home,
}

impl Network {
    async fn start() -> Self {
        let home = Home::new();
        let mut process = home
            .horde(["up", "--json"])
            .env("TMPDIR", home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let url = told["facilitator"]["url"].as_str().unwrap();
        let user = Keypair::from_uri(told["user"]["uri"].as_str().unwrap()).unwrap();
        let client = Client::new(url, user, Clock::system()).unwrap();
        let validator = client.validators().await.unwrap().remove(0);
        Self {
            process,
            told,
            client,
            validator,
            _home: home,
        }
    }

    async fn submit(&self, script: &str) -> JobId {
        let submit: Submit = serde_json::from_value(json!({
            "target_validator_hotkey": self.validator, "executor_class": "always_on.test",
            "docker_image": SAMPLE_IMAGE, "job_namespace": null, "args": ["sh", "-c", script], "env": {},
            "use_gpu": false, "artifacts_dir": null, "on_trusted_miner": false, "download_time_limit": 10,
            "execution_time_limit": 120, "streaming_start_time_limit": 5, "upload_time_limit": 10,
        }))
        .unwrap();
        self.client.submit(&submit).await.unwrap().uuid
    }

    /// Submits a job and waits until it has written something.
    async fn running(&self, script: &str) -> JobId {
        let job = self.submit(script).await;
        until("the job runs", async || {
            !self.page(&job, 0, 5).await.data.is_empty()
        })
        .await;
        job
    }

    async fn job(&self, job: &JobId) -> JobView {
        self.client.job(job).await.unwrap()
    }

    async fn page(&self, job: &JobId, offset: u64, wait: u64) -> LogPiece {
        let wait = Duration::from_secs(wait);
        let page = self.client.logs(job, OutputStream::Stdout, offset, wait).await;
        page.unwrap().unwrap()
    }

    /// Asks for the end of a job and returns it as it was then.
    async fn cancel(&self, job: &JobId) -> JobView {
        match self.client.cancel(job).await.unwrap() {
            Cancelled::UnderWay(view) | Cancelled::Ended(view) => view,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of a job, and looks for its containers as soon as that is known.
    async fn end_of(&self, job: &JobId) -> JobView {
        let start = Instant::now();
        loop {
            let view = self.job(job).await;
            if view.current().is_terminal() {
                assert_eq!(
                    containers_of(job),
                    "",
                    "the containers are gone before the job has ended"
                );
                return view;
            }
            assert!(start.elapsed() < PATIENCE, "the job does not end: {view:?}");
            sleep(PAUSE).await;
        }
    }

    fn directory(&self, role: &str) -> PathBuf {
        PathBuf::from(self.told["directory"].as_str().unwrap()).join(role)
    }

    /// Returns the log that a role of this name keeps.
    fn log_of(&self, name: &str) -> PathBuf {
        let role = if name.contains("miner") { "miner" } else { name };
        self.directory(name).join("logs").join(format!("{role}.jsonl"))
    }

    /// Waits until a role has logged a line about a job.
    async fn until_logged(&self, roles: &[&str], words: &str, job: &JobId) -> String {
        let mut found = None;
        until(words, async || {
            found = roles.iter().find(|role| {
                let log = std::fs::read_to_string(self.log_of(role)).unwrap_or_default();
                log.lines()
                    .any(|line| line.contains(words) && line.contains(job.as_str()))
            });
            found.is_some()
        })
        .await;
        (*found.unwrap()).to_owned()
    }

    fn kill(&self, role: &str) {
        let pid = i32::try_from(self.told["pids"][role].as_i64().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    async fn until_all_slots_are_free(&self) {
        for miner in ["miner-1", "miner-2"] {
            let path = self.directory(miner).join("miner.sqlite");
            until("all slots are free", async || {
                let store = MinerStore::open_beside(&path).unwrap();
                store.slots_taken().await.unwrap() == 0
            })
            .await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // In good order, so that no container is left.
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap_or_default();
        drop(self.process.wait());
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "waited too long: {what}");
        sleep(PAUSE).await;
    }
}

/// Returns the names of a job's containers that are there, running or not.
fn containers_of(job: &JobId) -> String {
    let output = Command::new("docker")
        .args([
            "ps",
            "--all",
            "--filter",
            &format!("label=horde.job={job}"),
            "--format",
            "{{.Names}}",
        ])
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn assert_cancelled(view: &JobView) {
    let end = view.last().unwrap();
    assert!(is_cancelled(end), "{view:#?}");
    assert_eq!(end.status, JobStatus::Failed);
    assert_eq!(
        end.metadata["job_failure_details"]["message"],
        "cancelled by the user"
    );
    assert_eq!(end.metadata["job_failure_details"]["reason"], "unknown");
    assert!(view.horde.cancel.as_ref().unwrap().refused.is_none());
}

/// A job that writes a line and takes a second to kill, so that there is time between order and end.
const STUBBORN: &str = "trap '' TERM; echo begun; while :; do sleep 1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_cancelled_once_its_container_is_gone_and_its_slot_serves_the_next() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    let job = network.running("echo begun; sleep 600").await;
    assert_ne!(containers_of(&job), "");
    let asked = Instant::now();
    let view = network.cancel(&job).await;
    assert!(view.horde.cancel.is_some());
    let view = network.end_of(&job).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert_cancelled(&view);
    let details = &view.last().unwrap().metadata["job_failure_details"];
    assert_eq!(details["docker_process_stdout"], "begun\n");
    assert_eq!(details["stage"], "execution");
    network.until_all_slots_are_free().await;
    // Said again, it changes nothing.
    assert_eq!(network.cancel(&job).await.status_history, view.status_history);
    let next = network.submit("echo next").await;
    let view = network.end_of(&next).await;
    assert_eq!(
        (view.current(), view.stdout.as_str()),
        (JobStatus::Completed, "next\n")
    );
    // What has ended stays as it is.
    let again = network.cancel(&next).await;
    assert_eq!(again.current(), JobStatus::Completed);
    assert!(again.horde.cancel.is_none());
    // Nobody else's jobs can be reached.
    let stranger = Keypair::from_uri("//Stranger").unwrap();
    let url = network.told["facilitator"]["url"].as_str().unwrap();
    let stranger = Client::new(url, stranger, Clock::system()).unwrap();
    assert_eq!(stranger.cancel(&next).await.unwrap(), Cancelled::NotKnown);
    let page = stranger
        .logs(&next, OutputStream::Stdout, 0, Duration::ZERO)
        .await;
    assert_eq!(page.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_cancelled_at_once_end_so_wherever_they_were() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    // With all manner of delays, the order meets the job on every part of its way.
    for delay in [0, 3, 10, 30, 60, 100, 200, 400] {
        let job = network.submit("echo begun; sleep 600").await;
        sleep(Duration::from_millis(delay)).await;
        network.cancel(&job).await;
        assert_cancelled(&network.end_of(&job).await);
    }
    network.until_all_slots_are_free().await;
    let next = network.submit("echo next").await;
    assert_eq!(network.end_of(&next).await.current(), JobStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_killed_between_order_and_end_still_ends_the_job() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    let job = network.running(STUBBORN).await;
    network.cancel(&job).await;
    let words = "the job is cancelled by its user";
    let miner = network.until_logged(&["miner-1", "miner-2"], words, &job).await;
    network.kill(&miner);
    assert_cancelled(&network.end_of(&job).await);
    network.until_all_slots_are_free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_killed_between_order_and_end_still_ends_the_job() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    let job = network.running(STUBBORN).await;
    network.cancel(&job).await;
    network
        .until_logged(&["validator"], "the job is cancelled by its user", &job)
        .await;
    network.kill("validator");
    assert_cancelled(&network.end_of(&job).await);
    network.until_all_slots_are_free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_killed_while_a_job_runs_has_its_miner_end_it() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    let job = network.running(STUBBORN).await;
    network.kill("validator");
    until("the job has ended", async || {
        network.job(&job).await.current().is_terminal()
    })
    .await;
    assert!(!is_cancelled(network.job(&job).await.last().unwrap()));
    until("the container is gone", async || containers_of(&job).is_empty()).await;
    network.until_all_slots_are_free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_followed_line_by_line_and_its_result_goes_on_where_it_was() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    // Each line waits for a while, so that it is seen before the job has ended.
    let script = "for i in 1 2 3 4 5; do echo line $i; sleep 1; done; echo oops >&2; printf żółw";
    let job = network.submit(script).await;
    let (mut seen, mut live) = (Vec::new(), 0);
    loop {
        // Every read is a resumption: the facilitator remembers nothing of its readers.
        let offset = u64::try_from(seen.len()).unwrap();
        let page = network.page(&job, offset, 30).await;
        assert_eq!((page.offset, page.omitted_bytes), (offset, 0));
        let bytes = page.data;
        assert_eq!(page.next_offset, offset + u64::try_from(bytes.len()).unwrap());
        live += usize::from(page.is_live && !bytes.is_empty());
        seen.extend(bytes);
        if page.is_ended {
            break;
        }
    }
    let view = network.job(&job).await;
    assert_eq!(view.current(), JobStatus::Completed);
    assert_eq!(String::from_utf8(seen).unwrap(), view.stdout);
    assert_eq!(view.stdout, "line 1\nline 2\nline 3\nline 4\nline 5\nżółw");
    assert!(live >= 3, "{live} parts were seen live");
    // From anywhere, and of the other stream.
    let page = network.page(&job, 7, 0).await;
    assert!(page.is_ended && !page.is_live);
    assert_eq!(page.data, view.stdout.as_bytes()[7..]);
    let page = network
        .client
        .logs(&job, OutputStream::Stderr, 0, Duration::ZERO)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(page.data, b"oops\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loud_job_is_followed_with_gaps_that_are_told_and_is_not_slowed_down() {
    if !docker_is_there() {
        return;
    }
    let network = Network::start().await;
    // 40 MB at once: more than any hop keeps.
    let script = "yes 0123456789abcdef | head -c 40000000; echo end >&2; sleep 3";
    let job = network.submit(script).await;
    let (mut offset, mut omitted) = (0, 0);
    loop {
        let page = network.page(&job, offset, 30).await;
        assert_eq!(page.offset, offset + page.omitted_bytes);
        let bytes = page.data;
        assert_eq!(
            page.next_offset,
            page.offset + u64::try_from(bytes.len()).unwrap()
        );
        // Whatever is missing, what is there is what was written at its place.
        let start = usize::try_from(page.offset % 17).unwrap();
        let expected = b"0123456789abcdef\n".iter().cycle().skip(start);
        assert!(bytes.iter().eq(expected.take(bytes.len())), "at {}", page.offset);
        omitted += page.omitted_bytes;
        offset = page.next_offset;
        if page.is_ended {
            break;
        }
    }
    assert!(omitted > 0);
    assert_eq!(network.end_of(&job).await.current(), JobStatus::Completed);
    assert!(offset >= 1_000_000, "{offset}");
}
