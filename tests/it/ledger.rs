//! `horde miner jobs`, `stats` and `check` beside a real miner: what is written down, and what is said of it.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use axum::Router;
use axum::http::header::DATE;
use axum::routing::get;
use horde::core::chain::local::{LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::model::{ExecutorClass, Hotkey};
use horde::core::proto::validator_miner::Up;
use horde::core::receipts::{self, About};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::miner::{Miner, Validator, new_job};
use crate::support::{SAMPLE_IMAGE, accepted_risks, docker_is_there};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a command of the miner's operator, with the settings that the miner runs with.
fn command(miner: &Miner, args: &[&str]) -> Command {
    let directory = miner.directory();
    let mut command = miner.home.horde(["--dir", directory.to_str().unwrap(), "miner"]);
    command
        .args(args)
        .env("HORDE_CHAIN_PATH", miner.home.path().join("chain.sqlite"))
        .env("HORDE_WALLET_URI", "//Bob")
        .env("HORDE_EXECUTOR_WORK_DIR", miner.home.path())
        .env("HORDE_MINER_LISTEN", format!("127.0.0.1:{}", miner.port))
        .env("HORDE_MINER_EXECUTORS", "always_on.test=1")
        .env("HORDE_LOG_LEVEL", "warn")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a command elsewhere, since the test's own side of its connections has to answer meanwhile.
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn told(miner: &Miner, args: &[&str]) -> Output {
    output(command(miner, args)).await
}

async fn json_of(miner: &Miner, args: &[&str]) -> Value {
    let output = told(miner, args).await;
    assert!(output.status.success(), "{}", miner.home.told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until a list of a command is as it should be.
async fn eventually(miner: &Miner, args: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let value = json_of(miner, args).await;
        if is_right(&value) {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{value:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn with_reason<'a>(list: &'a Value, reason: &str) -> Option<&'a Value> {
    list.as_array()
        .unwrap()
        .iter()
        .find(|row| row["reason"] == reason)
}

#[tokio::test]
async fn an_empty_ledger_is_an_empty_list_and_a_hint() {
    let miner = Miner::start().await;
    for args in [&["jobs", "--json"][..], &["jobs", "--rejected", "--json"]] {
        let output = told(&miner, args).await;
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n");
        assert!(!output.stderr.is_empty(), "a hint");
    }
    let stats = json_of(&miner, &["stats", "--json"]).await;
    assert_eq!(stats, json!({"counters": []}));
    let missing = told(&miner, &["jobs", "show", "beef"]).await;
    assert_eq!(missing.status.code(), Some(3));
    for args in [&["jobs", "--status", "asleep"][..], &["jobs", "--since", "soon"]] {
        assert_eq!(told(&miner, args).await.status.code(), Some(2));
    }
}

/// Every kind of refusal, by a real miner, is found by its operator with who, why and what shows it.
#[tokio::test]
async fn no_rejection_is_silent() {
    let mut miner = Miner::start().await;
    for uri in ["//Ferdie", "//Ferdie", "//Dave"] {
        let mut stranger = Validator::connect(&miner, uri).await;
        stranger.expect_error().await;
        stranger.expect_close().await;
    }
    let mut late = Validator::connect(&miner, "//Alice").await;
    let mut auth = late.auth();
    auth.timestamp -= 30;
    late.say(auth).await;
    late.expect_error().await;
    late.expect_close().await;

    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let forged = new_job();
    let mut request = alice.request(&forged);
    request.job_started_receipt_signature = format!("0x{}", "0".repeat(128));
    alice.say(request).await;
    alice.expect_decline().await;
    let foreign = new_job();
    let class = ExecutorClass::AlwaysOnLlmA6000;
    let clock = Clock::system();
    let about = About {
        job_uuid: &foreign,
        miner: miner.keypair.hotkey(),
        now: clock.now(),
    };
    let alices = Keypair::from_uri("//Alice").unwrap();
    let receipt = receipts::sign_started(&alices, about, class, true, 7).unwrap();
    let mut request = alice.request(&foreign);
    request.executor_class = class;
    request.job_started_receipt_payload = receipt.payload;
    request.job_started_receipt_signature = receipt.signature;
    alice.say(request).await;
    alice.expect_decline().await;

    let rejected = &["jobs", "--rejected", "--json"][..];
    let list = eventually(&miner, rejected, |list| {
        [
            "unknown_validator",
            "inactive_validator",
            "too_old",
            "invalid_signature",
            "not_in_manifest",
        ]
        .iter()
        .all(|reason| with_reason(list, reason).is_some())
    })
    .await;
    let stranger = with_reason(&list, "unknown_validator").unwrap();
    assert_eq!(
        (&stranger["count"], &stranger["address"]),
        (&json!(2), &json!("127.0.0.1"))
    );
    let late = with_reason(&list, "too_old").unwrap();
    assert_eq!(late["validator"], json!(alices.hotkey()));
    let age = late["evidence"]["age_seconds"].as_i64().unwrap();
    assert!((30..60).contains(&age), "{late}");
    assert!(
        late["evidence"]["signed"]
            .as_str()
            .unwrap()
            .starts_with(alices.hotkey().as_str())
    );
    assert!(late["remedy"].as_str().unwrap().contains("clock"));
    let forged_row = with_reason(&list, "invalid_signature").unwrap();
    assert_eq!(forged_row["job"], json!(forged));
    assert_eq!(forged_row["evidence"]["signed"]["job_uuid"], json!(forged));
    let foreign_row = with_reason(&list, "not_in_manifest").unwrap();
    assert_eq!(foreign_row["class"], class.as_str());
    assert_eq!(foreign_row["evidence"]["manifest"], json!({"always_on.test": 1}));

    let stats = json_of(&miner, &["stats", "--json"]).await;
    let count = |event: &str, reason: &str| {
        let counters = stats["counters"].as_array().unwrap();
        let found = counters
            .iter()
            .find(|counter| counter["event"] == event && counter["reason"] == reason);
        found.map_or(0, |counter| counter["count"].as_u64().unwrap())
    };
    assert_eq!(count("offered", ""), 2);
    assert_eq!(count("declined", "not_in_manifest"), 1);
    assert_eq!(count("authentication_refused", "unknown_validator"), 2);
    let by = json_of(&miner, &["stats", "--by", "validator", "--json"]).await;
    let names: Vec<&Value> = by["counters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|counter| &counter["validator"])
        .collect();
    assert!(names.contains(&&json!(alices.hotkey())) && names.contains(&&json!("")));
    // A filter on one job, and people's words; the same when the miner does not run.
    alice.close().await;
    miner.signal(Signal::TERM).await;
    let show = told(&miner, &["jobs", "show", forged.as_str()]).await;
    assert!(show.status.success());
    assert!(String::from_utf8_lossy(&show.stdout).contains("invalid_signature"));
    let table = told(&miner, &["jobs", "--rejected"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for whole in [foreign.as_str(), alices.hotkey().as_str(), "not_in_manifest"] {
        assert!(table.contains(whole), "{whole} in {table}");
    }
}

/// A `horde miner jobs --follow --json` that runs beside.
struct Follower(Child);

impl Follower {
    fn start(miner: &Miner) -> Self {
        let mut command = command(miner, &["jobs", "--follow", "--json"]);
        let file = std::fs::File::create(miner.home.path().join("followed")).unwrap();
        Self(command.stdout(file).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Ends it by a signal and returns what it said.
    fn end(mut self, miner: &Miner) -> Vec<Value> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.0.wait().unwrap();
        said(miner)
    }
}

fn said(miner: &Miner) -> Vec<Value> {
    let text = std::fs::read_to_string(miner.home.path().join("followed")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_job_is_listed_followed_and_shown_with_its_timeline_receipts_and_output() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    let follower = Follower::start(&miner);
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    let job = new_job();
    assert_eq!(alice.run(&job, "echo out; echo err >&2; sleep 1").await, "out\n");
    alice.say_finished_receipt(&job).await;
    // The second is declined while a third runs.
    let third = new_job();
    alice.engage(&third).await;
    let second = new_job();
    alice.request_signed(&second).await;
    let declined = alice.expect_decline().await;
    assert!(!declined.receipts.is_empty());
    alice.say(Validator::order(&third, "exit 3")).await;
    while !matches!(alice.expect().await, Up::JobFailed(_)) {}

    let list = eventually(&miner, &["jobs", "--json"], |list| {
        let list = list.as_array().unwrap();
        list.len() == 2 && list.iter().all(|row| row["slot"].is_null()) && !list[1]["score"].is_null()
    })
    .await;
    let [failed, finished] = list.as_array().unwrap().as_slice() else {
        panic!("two accepted jobs, not the declined one: {list:#}")
    };
    assert_eq!(
        (
            &failed["job"],
            &failed["status"],
            &failed["exit"],
            &failed["reason"]
        ),
        (
            &json!(third),
            &json!("FAILED"),
            &json!(3),
            &json!("nonzero_return_code")
        )
    );
    assert_eq!(
        (
            &finished["job"],
            &finished["exit"],
            &finished["score"],
            &finished["time_took_us"]
        ),
        (&json!(job), &json!(0), &json!(180.0), &json!(1_500_000))
    );
    let of = async |args: &[&str]| {
        let args = [&["jobs", "--json"], args].concat();
        json_of(&miner, &args).await.as_array().unwrap().len()
    };
    assert_eq!(of(&["--status", "failed"]).await, 1);
    assert_eq!(of(&["--status", "open,rejected"]).await, 1);
    assert_eq!(of(&["--limit", "1"]).await, 1);
    assert_eq!(of(&["--since", "1d", "--class", "always_on.test"]).await, 2);
    assert_eq!(of(&["--validator", "5nobody"]).await, 0);

    let busy = eventually(&miner, &["jobs", "--rejected", "--json"], |list| {
        with_reason(list, "busy").is_some()
    })
    .await;
    let busy = with_reason(&busy, "busy").unwrap();
    assert_eq!(busy["job"], json!(second));
    assert_eq!(
        busy["evidence"]["excusing_receipts"],
        json!(declined.receipts.len())
    );

    // An id is used once.
    alice.say(alice.request(&job)).await;
    alice.expect_decline().await;
    let again = eventually(&miner, &["jobs", "--rejected", "--json"], |list| {
        with_reason(list, "duplicate").is_some()
    })
    .await;
    let again = with_reason(&again, "duplicate").unwrap();
    assert_eq!(
        (&again["job"], &again["evidence"]["status"]),
        (&json!(job), &json!("FINISHED"))
    );

    let prefix: String = job.as_str().chars().take(20).collect();
    let shown = eventually(&miner, &["jobs", "show", &prefix, "--json"], |shown| {
        shown["timeline"]
            .as_array()
            .unwrap()
            .iter()
            .any(|step| step["step"] == "execution_done")
    })
    .await;
    let steps: Vec<&str> = shown["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    for step in [
        "offered",
        "accepted",
        "executor_started",
        "executor_connected",
        "ready",
        "order_received",
        "volumes_ready",
        "execution_done",
        "finished",
        "outcome_delivered",
        "accepted_receipt_kept",
        "finished_receipt_kept",
        "slot_released",
    ] {
        assert!(steps.contains(&step), "{step} in {steps:?}");
    }
    assert_eq!(steps[..2], ["offered", "accepted"]);
    let receipts = shown["receipts"].as_array().unwrap();
    assert_eq!(receipts.len(), 3);
    assert!(receipts.iter().all(|receipt| receipt["is_valid"] == true));
    assert_eq!(shown["stdout"]["tail"], "out");
    assert_eq!(shown["stderr"]["tail"], "err");
    assert!(shown["delivery"].as_str().unwrap().starts_with("handed to"));
    let both = told(&miner, &["jobs", "show", ""]).await;
    assert_eq!(both.status.code(), Some(2), "ambiguous");
    let candidates = String::from_utf8_lossy(&both.stderr).into_owned();
    assert!(candidates.contains(job.as_str()) && candidates.contains(third.as_str()));

    let started = Instant::now();
    while !said(&miner)
        .iter()
        .any(|line| line["job"]["job"] == json!(third) && line["job"]["status"] == "FAILED")
    {
        assert!(started.elapsed() < PATIENCE);
        sleep(Duration::from_millis(100)).await;
    }
    let lines = follower.end(&miner);
    assert_eq!(lines.last().unwrap()["type"], "end");
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], json!(index + 1));
    }
    alice.close().await;
    miner.signal(Signal::TERM).await;
    let table = told(&miner, &["jobs"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains(third.as_str()));
}

/// Runs the check and returns its exit code and findings.
async fn check(miner: &Miner, args: &[&str], change: impl FnOnce(&mut Command)) -> (Option<i32>, Vec<Value>) {
    let args = [&["check", "--json"], args].concat();
    let mut command = command(miner, &args);
    change(&mut command);
    let output = output(command).await;
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", miner.home.told(&output)));
    (output.status.code(), value["checks"].as_array().unwrap().clone())
}

fn find<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("{name} in {checks:#?}"))
}

#[tokio::test]
async fn a_good_miner_passes_every_check_and_runs_the_self_test_made_of_its_own_binary() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    let (code, checks) = check(&miner, &[], |_| {}).await;
    assert_eq!(code, Some(0), "{checks:#?}");
    for name in [
        "data-dir",
        "database",
        "registered",
        "axon",
        "clock",
        "front-door",
        "reachable-http",
        "reachable-websocket",
        "docker",
        "work-dir",
        "disk",
        "streaming-ports",
        "self-test:always_on.test",
    ] {
        assert_eq!(find(&checks, name)["status"], "held", "{name}");
    }
    for name in ["key-file", "gpu", "image"] {
        assert_eq!(find(&checks, name)["status"], "skipped", "{name}");
    }
    // Its job is a job like others, counted apart, with three receipts that excuse nothing.
    let jobs = json_of(&miner, &["jobs", "--json"]).await;
    let job = jobs[0]["job"].as_str().unwrap();
    assert_eq!(jobs[0]["status"], "FINISHED");
    let shown = json_of(&miner, &["jobs", "show", job, "--json"]).await;
    assert_eq!(shown["receipts"][0]["payload"]["is_organic"], false);
    let stats = json_of(&miner, &["stats", "--by", "validator", "--json"]).await;
    let accepted = &stats["counters"][1];
    assert_eq!(
        (&accepted["event"], &accepted["validator"]),
        (&json!("accepted"), &json!("self-test"))
    );
    // Its hotkey is not let in any more, and its image is gone.
    let guest = Hotkey::new(jobs[0]["validator"].as_str().unwrap());
    miner.signal(Signal::TERM).await;
    let store = horde::core::store::miner::MinerStore::open(&miner.directory().join("miner.sqlite")).unwrap();
    assert!(
        !store
            .is_check_validator(&guest, Clock::system().now())
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_self_test_in_a_given_image_fails_with_the_reason_and_the_slot_comes_back() {
    if !docker_is_there() {
        return;
    }
    let miner = Miner::start().await;
    let only = ["--only", "self-test", "--image"];
    let run = async |image: &str| check(&miner, &[&only[..], &[image]].concat(), |_| {}).await;
    let (code, checks) = run("horde-test-no-such-image:latest").await;
    assert_eq!(code, Some(10));
    let failed = find(&checks, "self-test:always_on.test");
    assert!(failed["actual"].as_str().unwrap().contains("image"), "{failed}");
    assert!(!failed["remedy"].as_str().unwrap().is_empty());
    let (code, checks) = run(SAMPLE_IMAGE).await;
    assert_eq!(code, Some(0), "{checks:#?}");

    // Occupied by somebody else: nobody can tell.
    let mut alice = Validator::trusted(&miner, "//Alice").await;
    alice.engage(&new_job()).await;
    let (code, checks) = run(SAMPLE_IMAGE).await;
    assert_eq!(
        (code, &find(&checks, "self-test:always_on.test")["status"]),
        (Some(0), &json!("unknown"))
    );
}

/// An image that answers in the place of hashcat; it goes with the test.
struct Hashcat(String);

impl Hashcat {
    fn answering(answer: &str) -> Self {
        let image = format!("horde-test-hashcat-{}", new_job());
        let docker = |args: &[&str]| {
            let output = Command::new("docker").args(args).output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let container = docker(&["create", SAMPLE_IMAGE, "true"]);
        let entry = format!("ENTRYPOINT [\"sh\", \"-c\", \"echo {answer}\", \"hashcat\"]");
        docker(&["commit", "--change", &entry, &container, &image]);
        docker(&["rm", &container]);
        Self(image)
    }
}

impl Drop for Hashcat {
    fn drop(&mut self) {
        let remove = ["image", "rm", "--force", &self.0];
        drop(Command::new("docker").args(remove).output());
    }
}

/// The known hashcat job goes over the whole wire, and only its answer counts; no GPU is needed for that.
#[tokio::test]
async fn the_known_hashcat_job_must_answer_what_is_known() {
    if !docker_is_there() {
        return;
    }
    let mut miner = Miner::start().await;
    miner.signal(Signal::TERM).await;
    let gpu_class = [
        ("HORDE_MINER_EXECUTORS", "always_on.gpu-24gb=1"),
        ("HORDE_MINER_NO_GPU", "true"),
    ];
    let mut run = command(&miner, &["run"]);
    run.envs(gpu_class).envs([accepted_risks()]);
    let _running = Follower(run.stdout(Stdio::null()).spawn().unwrap());
    let started = Instant::now();
    while check(&miner, &["--only", "front-door"], |_| {}).await.1[0]["status"] != "held" {
        assert!(started.elapsed() < PATIENCE, "the miner does not come up");
        sleep(Duration::from_millis(100)).await;
    }
    for (answer, status) in [("mQNJTt", "held"), ("mQNJTu", "failed")] {
        let image = Hashcat::answering(answer);
        let args = ["--only", "self-test", "--gpu-image", &image.0];
        let (_, checks) = check(&miner, &args, |command| {
            command.envs(gpu_class);
        })
        .await;
        let found = find(&checks, "self-test:always_on.gpu-24gb");
        assert_eq!(found["status"], status, "{found}");
    }
}

/// A web server whose clock is an hour ahead.
async fn wrong_clock() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = || async {
        let ahead = Clock::system().now() + Duration::from_secs(3600);
        let text = ahead
            .format(&time::format_description::well_known::Rfc2822)
            .unwrap();
        [(DATE, text.replace("+0000", "GMT"))]
    };
    let app = Router::new().route("/", get(answer));
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/")
}

/// A check, the status it must have, the settings that make it so, and what its remedy names.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// Each check that can be made to fail here does so once, alone, and names its remedy.
#[tokio::test]
async fn each_check_fails_when_it_should_and_names_its_remedy() {
    let mut miner = Miner::start().await;
    let clock = wrong_clock().await;
    let home = miner.home.path().to_owned();
    let wallets = home.join("wallets/default");
    std::fs::create_dir_all(wallets.join("hotkeys")).unwrap();
    std::fs::write(wallets.join("hotkeys/default"), "{}").unwrap();
    std::fs::set_permissions(
        wallets.join("hotkeys/default"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    std::fs::write(wallets.join("coldkey"), "{}").unwrap();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.port())).unwrap();
    let range = format!("{0}-{0}", taken.1);
    let wallet_path = home.join("wallets").display().to_string();
    let cases: &[Case<'_>] = &[
        (
            "registered",
            "failed",
            &[("HORDE_WALLET_URI", "//Nobody")],
            "register",
        ),
        ("axon", "failed", &[("HORDE_MINER_PORT", "9")], "miner.port"),
        (
            "clock",
            "failed",
            &[("HORDE_MINER_CLOCK_URL", &clock)],
            "timedatectl",
        ),
        (
            "docker",
            "failed",
            &[("HORDE_MINER_DOCKER_HOST", "unix:///nowhere/docker.sock")],
            "Docker",
        ),
        (
            "work-dir",
            "failed",
            &[("HORDE_EXECUTOR_WORK_DIR", "/nowhere")],
            "executor.work_dir",
        ),
        (
            "disk",
            "failed",
            &[("HORDE_EXECUTOR_VOLUME_BYTES_MAX", "1000000000000000")],
            "make room",
        ),
        (
            "image",
            "failed",
            &[
                ("HORDE_MINER_BACKEND", "docker"),
                ("HORDE_MINER_EXECUTOR_IMAGE", "horde-test-none:1"),
            ],
            "horde executor image",
        ),
        (
            "streaming-ports",
            "failed",
            &[("HORDE_MINER_STREAMING_PORTS", &range)],
            "miner.streaming_ports",
        ),
        (
            "coldkey",
            "advice",
            &[("HORDE_WALLET_PATH", &wallet_path)],
            "move the file",
        ),
    ];
    for (name, status, variables, remedy) in cases {
        // Of an engine that is not there nothing else is said.
        if ["work-dir", "disk", "image"].contains(name) && !docker_is_there() {
            continue;
        }
        let (code, checks) = check(&miner, &["--only", name], |command| {
            command.envs(variables.iter().copied());
        })
        .await;
        let found = find(&checks, name);
        assert_eq!(found["status"], *status, "{found}");
        assert_eq!(code, Some(if *status == "failed" { 10 } else { 0 }));
        assert!(found["remedy"].as_str().unwrap().contains(remedy), "{found}");
        assert_eq!(checks.len(), 1, "only the one that was asked for");
    }
    let (code, checks) = check(&miner, &["--only", "key-file,registered"], |command| {
        command
            .env_remove("HORDE_WALLET_URI")
            .env("HORDE_WALLET_PATH", &wallet_path);
    })
    .await;
    assert_eq!(code, Some(10));
    let found = find(&checks, "key-file");
    assert!(found["actual"].as_str().unwrap().contains("0644"), "{found}");
    assert!(found["remedy"].as_str().unwrap().contains("chmod 600"));

    // Another program at the announced address, and nobody at all.
    let (code, checks) = check(
        &miner,
        &["--only", "database,reachable-http,reachable-websocket"],
        |_| {},
    )
    .await;
    assert_eq!(code, Some(0), "{checks:#?}");
    miner.signal(Signal::TERM).await;
    let from_elsewhere = ["--hotkey", miner.keypair.hotkey().as_str()];
    let (code, checks) = check(&miner, &from_elsewhere, |_| {}).await;
    assert_eq!(code, Some(10));
    for name in ["reachable-http", "reachable-websocket"] {
        let found = find(&checks, name);
        assert_eq!(found["status"], "failed", "{found}");
        assert!(
            found["actual"]
                .as_str()
                .unwrap()
                .contains(&miner.port.to_string())
        );
    }
    let listed: Vec<&str> = checks
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        listed,
        [
            "registered",
            "axon",
            "clock",
            "reachable-http",
            "reachable-websocket"
        ]
    );
    let needs_it = ["--only", "front-door,reachable-http,self-test,receipts-page"];
    let (code, checks) = check(&miner, &needs_it, |_| {}).await;
    assert_eq!(code, Some(0));
    assert!(checks.iter().all(|check| {
        check["status"] == "skipped"
            && check["actual"]
                .as_str()
                .unwrap()
                .starts_with("the miner does not run")
            && check["remedy"].as_str().unwrap().contains("horde miner run")
    }));
    let required = [&needs_it[..], &["--require-running"]].concat();
    let (code, checks) = check(&miner, &required, |_| {}).await;
    assert_eq!(code, Some(10));
    assert!(checks.iter().all(|check| check["status"] == "failed"));

    // A damaged database, last.
    let file = miner.directory().join("miner.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    for byte in bytes.iter_mut().skip(8192).take(4096 * 6) {
        *byte = 0xff;
    }
    std::fs::write(&file, bytes).unwrap();
    let (code, checks) = check(&miner, &["--only", "database"], |_| {}).await;
    assert_eq!(code, Some(10), "{checks:#?}");
    assert!(
        find(&checks, "database")["remedy"]
            .as_str()
            .unwrap()
            .contains("backup")
    );
}

/// The hotkey of a check opens the door for this machine only, and for its time only.
#[tokio::test]
async fn the_guest_of_a_check_is_let_in_until_its_time_is_over() {
    let miner = Miner::start().await;
    let guest = Keypair::from_uri("//Guest").unwrap();
    let mut before = Validator::connect(&miner, "//Guest").await;
    assert!(before.expect_error().await.starts_with("Unknown validator"));
    let store =
        horde::core::store::miner::MinerStore::open_beside(&miner.directory().join("miner.sqlite")).unwrap();
    let now = Clock::system().now();
    store
        .allow_check_validator(guest.hotkey(), now + Duration::from_secs(600), now)
        .await
        .unwrap();
    Validator::trusted(&miner, "//Guest").await.close().await;
    store
        .dismiss_check_validator(guest.hotkey(), Clock::system().now())
        .await
        .unwrap();
    let mut after = Validator::connect(&miner, "//Guest").await;
    assert!(after.expect_error().await.starts_with("Unknown validator"));
}

/// A second miner of a chain that has another one at its address is told so.
#[tokio::test]
async fn a_miner_that_is_registered_and_never_announced_is_told() {
    let miner = Miner::start().await;
    let chain = LocalChain::open(
        &miner.home.path().join("chain.sqlite"),
        12,
        Duration::from_secs(12),
        Clock::system(),
    )
    .await
    .unwrap();
    let hotkey = Keypair::from_uri("//Eve").unwrap().hotkey().clone();
    let registration = Registration {
        coldkey: hotkey.clone(),
        hotkey: hotkey.clone(),
        stake_rao: 0,
        validator_permit: false,
    };
    chain.register(registration).await.unwrap();
    let (code, checks) = check(&miner, &["--hotkey", hotkey.as_str()], |_| {}).await;
    assert_eq!(code, Some(10));
    assert_eq!(find(&checks, "registered")["status"], "held");
    assert_eq!(find(&checks, "axon")["status"], "failed");
    assert_eq!(find(&checks, "reachable-http")["status"], "skipped");
}
