//! Executors as services of a Docker Swarm: two engines of this machine as two nodes, and what happens when one goes.

use std::process::Command;
use std::time::Duration;

use horde::core::model::job::HordeReason;
use horde::core::proto::validator_miner::Up;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::miner::{CLASS, Miner, PATIENCE, Validator, new_job};
use crate::second_engine::{SecondEngine, second_engine_can_run};
use crate::support::{SAMPLE_IMAGE, docker_is_there};

/// Two engines in one swarm.
struct Swarm {
    manager: SecondEngine,
    worker: SecondEngine,
    /// The worker's node.
    node: String,
}

impl Swarm {
    /// Starts two engines that know the executor's image and the sample, and joins them.
    fn start(image: &str) -> Self {
        let (manager, worker) = (SecondEngine::start(&[]), SecondEngine::start(&[]));
        for engine in [&manager, &worker] {
            engine.image(SAMPLE_IMAGE);
            engine.image(image);
        }
        let (here, there) = connect(&manager, &worker);
        // A node is down after three beats.
        let init = [
            "swarm",
            "init",
            "--dispatcher-heartbeat",
            "1s",
            "--advertise-addr",
            &here,
            "--listen-addr",
        ];
        told(manager.docker(&init).arg(&here));
        let token = told(&mut manager.docker(&["swarm", "join-token", "--quiet", "worker"]));
        let join = [
            "swarm",
            "join",
            "--token",
            &token,
            "--advertise-addr",
            &there,
            "--listen-addr",
            &there,
        ];
        told(worker.docker(&join).arg(format!("{here}:2377")));
        let mut swarm = Self {
            manager,
            worker,
            node: String::new(),
        };
        swarm.node = swarm.ask(&["node", "ls", "--quiet", "--filter", "role=worker"]);
        let manager = swarm.ask(&["node", "ls", "--quiet", "--filter", "role=manager"]);
        for node in [&swarm.node, &manager] {
            let label = format!("horde.{CLASS}=1");
            swarm.ask(&["node", "update", "--label-add", &label, node]);
        }
        swarm
    }

    /// Runs a command of the client on the manager.
    fn ask(&self, arguments: &[&str]) -> String {
        told(&mut self.manager.docker(arguments))
    }

    /// Returns how many executors run on the manager and on the worker.
    fn executors(&self) -> (usize, usize) {
        let count = |engine: &SecondEngine| {
            let listed = told(&mut engine.docker(&["ps", "--quiet", "--filter", "label=horde.token"]));
            listed.lines().count()
        };
        (count(&self.manager), count(&self.worker))
    }

    /// Waits until no service, no task and no container is left.
    async fn expect_nothing(&self) {
        let left = || {
            let services = self.ask(&["service", "ls", "--quiet"]);
            let tasks = self.ask(&["node", "ps", "--quiet", "self", &self.node]);
            let containers = [&self.manager, &self.worker]
                .map(|engine| told(&mut engine.docker(&["ps", "--all", "--format", "{{.Names}}"])));
            format!("{services}{tasks}{}{}", containers[0], containers[1])
        };
        let started = Instant::now();
        while !left().is_empty() {
            assert!(started.elapsed() < PATIENCE, "{}", left());
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Joins the networks of two engines by a link of their own, and returns their addresses on it: this machine forwards
/// nothing between them.
fn connect(one: &SecondEngine, other: &SecondEngine) -> (String, String) {
    let (here, there) = (namespace(one), namespace(other));
    // Private and known to these two alone.
    let (near, far) = ("10.255.255.1", "10.255.255.2");
    for line in [
        format!("-n {here} link add peer type veth peer name peer netns {there}"),
        format!("-n {here} address add {near}/30 dev peer"),
        format!("-n {there} address add {far}/30 dev peer"),
        format!("-n {here} link set peer up"),
        format!("-n {there} link set peer up"),
    ] {
        told(Command::new("ip").args(line.split(' ')));
    }
    (near.to_owned(), far.to_owned())
}

/// Returns the network namespace of an engine.
fn namespace(engine: &SecondEngine) -> String {
    let address = format!(" {}/", engine.address());
    let mut namespaces = std::fs::read_dir("/run/netns").unwrap().flatten();
    let found = namespaces.find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let listed = Command::new("ip").args(["-n", &name, "address"]).output().ok()?;
        String::from_utf8_lossy(&listed.stdout)
            .contains(&address)
            .then_some(name)
    });
    found.unwrap()
}

/// Runs a command that must go well, and returns what it prints.
fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Connects until so many executors are offered.
async fn until_offered(miner: &Miner, wanted: i64) {
    let started = Instant::now();
    loop {
        let (validator, count) = Validator::offered(miner, "//Charlie").await;
        validator.close().await;
        if count == wanted {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{count} are offered, not {wanted}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Finishes a job whose executor is ready.
async fn finish(validator: &mut Validator, job: &horde::core::model::JobId) -> String {
    validator.say(Validator::order(job, "echo done")).await;
    loop {
        match validator.expect().await {
            Up::JobFinished(finished) => return finished.docker_process_stdout,
            Up::JobFailed(failed) => panic!("{failed:?}"),
            Up::HordeFailed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
}

/// An image of this machine's engine that goes with the test.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        let remove = ["image", "rm", "--force", &self.0];
        drop(Command::new("docker").args(remove).output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_of_two_machines_runs_jobs_on_both_and_goes_on_with_one() {
    if !docker_is_there() || !second_engine_can_run() {
        return;
    }
    let mut miner = Miner::make("0.0.0.0", vec!["--backend", "swarm"]).await;
    let image = Image(format!("horde-test-swarm-{}", miner.port));
    told(&mut miner.home.horde(["executor", "image", "--tag", &image.0]));
    let mut swarm = Swarm::start(&image.0);
    miner.executor_image = Some(image.0.clone());
    // Chosen late: other tests take ports while engines start.
    let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    miner.port = listener.local_addr().unwrap().port();
    drop(listener);
    let address = format!("{}:{}", swarm.manager.host_address(), miner.port);
    miner.variables = vec![
        ("HORDE_MINER_DOCKER_HOST", swarm.manager.host()),
        ("HORDE_MINER_EXECUTOR_ADDRESS", address),
    ];
    let log = miner.home.path().join("log");
    miner.log = Some(log.clone());
    let read_log = || std::fs::read_to_string(&log).unwrap();
    miner.launch().await;

    // Both nodes at once, and no more than they have.
    let (mut alice, count) = Validator::offered(&miner, "//Alice").await;
    assert_eq!(count, 2, "{}", read_log());
    let (mut charlie, _) = Validator::offered(&miner, "//Charlie").await;
    let (first, second) = (new_job(), new_job());
    alice.engage(&first).await;
    charlie.engage(&second).await;
    assert_eq!(swarm.executors(), (1, 1));
    alice.request_signed(&new_job()).await;
    alice.expect_decline().await;
    assert_eq!(finish(&mut alice, &first).await, "done\n");
    assert_eq!(finish(&mut charlie, &second).await, "done\n");
    swarm.expect_nothing().await;

    // One engine stops: its job ends, the other goes on, and so does the miner.
    let (first, second) = (new_job(), new_job());
    alice.engage(&first).await;
    let is_on_worker = swarm.executors() == (0, 1);
    charlie.engage(&second).await;
    assert_eq!(swarm.executors(), (1, 1));
    swarm.worker.crash();
    let ((loser, lost), (winner, won)) = if is_on_worker {
        ((&mut alice, &first), (&mut charlie, &second))
    } else {
        ((&mut charlie, &second), (&mut alice, &first))
    };
    let failed = loser.expect_horde_failed().await;
    assert_eq!(
        (&failed.job_uuid, failed.reason),
        (lost, HordeReason::ExecutorDisconnected)
    );
    assert_eq!(finish(winner, won).await, "done\n");
    charlie.close().await;
    until_offered(&miner, 1).await;
    let said = read_log();
    assert!(said.contains("a node of the swarm is lost"), "{said}");
    assert!(said.contains("a place for executors is lost"), "{said}");
    assert_eq!(alice.run(&new_job(), "echo alone").await, "alone\n");

    // It comes back.
    swarm.worker.restart();
    until_offered(&miner, 2).await;
    let (mut charlie, _) = Validator::offered(&miner, "//Charlie").await;
    let (first, second) = (new_job(), new_job());
    alice.engage(&first).await;
    charlie.engage(&second).await;
    assert_eq!(swarm.executors(), (1, 1));
    assert_eq!(finish(&mut charlie, &second).await, "done\n");
    assert_eq!(finish(&mut alice, &first).await, "done\n");
    charlie.close().await;

    // A miner that is killed finds its executor again, and the job goes on.
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, "sleep 3; echo survived")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    miner.signal(Signal::KILL).await;
    miner.launch().await;
    let (mut alice, _) = Validator::offered(&miner, "//Alice").await;
    assert_eq!(alice.expect_results(&job).await, "survived\n");

    // A node that its operator drains is not offered, and is again when it is active.
    swarm.ask(&["node", "update", "--availability", "drain", &swarm.node]);
    until_offered(&miner, 1).await;
    swarm.ask(&["node", "update", "--availability", "active", &swarm.node]);
    until_offered(&miner, 2).await;
    alice.close().await;
    miner.signal(Signal::TERM).await;
    swarm.expect_nothing().await;
}

#[tokio::test]
async fn an_engine_that_manages_no_swarm_is_named_with_a_remedy_and_offers_nothing() {
    if !docker_is_there() {
        return;
    }
    // This machine's own engine, which is in no swarm and stays out of any.
    let mut miner = Miner::make("127.0.0.1", vec!["--backend", "swarm"]).await;
    miner.log = Some(miner.home.path().join("log"));
    miner.launch().await;
    let (alice, count) = Validator::offered(&miner, "//Alice").await;
    assert_eq!(count, 0);
    alice.close().await;
    let log = std::fs::read_to_string(miner.log.as_ref().unwrap()).unwrap();
    assert!(log.contains("docker swarm init"), "{log}");
}
