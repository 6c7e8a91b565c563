//! The docker backend over two engines: both work at once, the loss of one is reported and its work goes to the other,
//! and it is in service again when it is back.

use std::time::Duration;

use horde::core::model::JobId;
use horde::core::model::job::HordeReason;
use horde::core::proto::validator_miner::Up;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::miner::{CLASS, Image, Miner, PATIENCE, Validator, new_job};
use crate::second_engine::{SecondEngine, second_engine_can_run};
use crate::support::SAMPLE_IMAGE;

/// Returns the containers of the second engine, where nobody else's are.
fn containers(engine: &SecondEngine) -> usize {
    let listed = engine.docker(&["ps", "--all", "--quiet"]).output().unwrap();
    assert!(listed.status.success());
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

async fn wait_for_containers(engine: &SecondEngine, count: usize) {
    let started = Instant::now();
    while containers(engine) != count {
        assert!(started.elapsed() < PATIENCE, "not {count} containers");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Returns how many executors the miner offers to a validator that comes now.
async fn offered(miner: &Miner) -> i64 {
    let mut charlie = Validator::connect(miner, "//Charlie").await;
    charlie.say(charlie.auth()).await;
    let count = match charlie.expect().await {
        Up::Manifest(manifest) => manifest.manifest.count(CLASS),
        other => panic!("expected the manifest, got {other:?}"),
    };
    charlie.close().await;
    count
}

async fn wait_until_offered(miner: &Miner, count: i64) {
    let started = Instant::now();
    while offered(miner).await != count {
        assert!(started.elapsed() < PATIENCE, "not {count} executors");
        sleep(Duration::from_secs(1)).await;
    }
}

/// Starts a job that runs until it is told otherwise.
async fn begin(alice: &mut Validator, script: &str) -> JobId {
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, script)).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    job
}

/// Waits for the output of a job.
async fn finish(alice: &mut Validator, job: &JobId) -> String {
    loop {
        match alice.expect().await {
            Up::JobFinished(finished) if &finished.job_uuid == job => return finished.docker_process_stdout,
            Up::ExecutionDone(_) | Up::MachineSpecs(_) => {}
            other => panic!("expected the output of {job}, got {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_work_at_once_and_the_loss_of_one_moves_its_work_to_the_other() {
    if !second_engine_can_run() {
        return;
    }
    let mut far = SecondEngine::start(&[]);
    // Where executors of both engines find the miner.
    let ip: &'static str = far.host_address().to_string().leak();
    let mut miner = Miner::make(ip, vec!["--backend", "docker"]).await;
    let image = Image(format!("horde-test-engines-{}", miner.port));
    let made = miner
        .home
        .horde(["executor", "image", "--tag", &image.0])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    far.image(&image.0);
    far.image(SAMPLE_IMAGE);
    let servers = format!(
        "near: {{executor_class: {CLASS}, mode: local}}\nfar: {{executor_class: {CLASS}, docker_host: '{}', \
         address: {}}}\n",
        far.host(),
        far.address()
    );
    let file = miner.home.write("engines.yml", &servers);
    miner.variables = vec![("HORDE_MINER_ENGINES", file.display().to_string())];
    miner.executor_image = Some(image.0.clone());
    miner.launch().await;
    assert_eq!(offered(&miner).await, 2);

    // Both at once, one on each.
    let mut alice = Validator::connect(&miner, "//Alice").await;
    alice.say(alice.auth()).await;
    assert!(matches!(alice.expect().await, Up::Manifest(_)));
    let near_job = begin(&mut alice, "sleep 15; echo near").await;
    assert_eq!(containers(&far), 0, "the first goes to the first");
    let far_job = begin(&mut alice, "sleep 600").await;
    // An executor and its job.
    wait_for_containers(&far, 2).await;
    assert!(!miner.containers().await.is_empty(), "the other's still runs");

    // The loss of one is told, and the other works on.
    far.crash();
    let (mut failed, mut output) = (None, None);
    while failed.is_none() || output.is_none() {
        match alice.expect().await {
            Up::HordeFailed(message) => failed = Some(message),
            Up::JobFinished(message) => output = Some((message.job_uuid, message.docker_process_stdout)),
            Up::ExecutionDone(_) | Up::MachineSpecs(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    let failed = failed.unwrap();
    assert_eq!(
        (&failed.job_uuid, failed.reason),
        (&far_job, HordeReason::ExecutorDisconnected)
    );
    assert_eq!(output.unwrap(), (near_job, "near\n".to_owned()));
    wait_until_offered(&miner, 1).await;
    miner.expect_no_containers().await;
    assert_eq!(alice.run(&new_job(), "echo moved").await, "moved\n");

    // It gets work again once it is back.
    far.restart();
    wait_until_offered(&miner, 2).await;
    miner.expect_no_containers().await;
    let near_job = begin(&mut alice, "sleep 5; echo near").await;
    let far_job = begin(&mut alice, "sleep 20; echo far").await;
    assert!(containers(&far) > 0, "work returns");
    assert_eq!(finish(&mut alice, &near_job).await, "near\n");
    assert_eq!(finish(&mut alice, &far_job).await, "far\n");
    miner.expect_no_containers().await;
    wait_for_containers(&far, 0).await;
    alice.close().await;
    miner.signal(Signal::TERM).await;
}
