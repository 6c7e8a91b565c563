//! Executors by the operator's own program, and a miner whose program is of no use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use horde::core::model::job::HordeReason;
use horde::core::proto::validator_miner::Up;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::miner::{Miner, PATIENCE, Validator, new_job};
use crate::support::docker_is_there;

/// The program of the documentation.
const EXAMPLE: &str = include_str!("../../src/core/miner/backend/command/example.sh");

/// A program that is the example, but for what a file tells it to do wrong; and notes what it was asked.
const WRONG: &str = r#"#!/bin/sh
folder=$1 verb=$2
echo "$verb" >>"$folder/asked"
case "$(cat "$folder/wrong" 2>/dev/null) $verb" in
"start fails start") echo 'no machine is left' >&2; exit 3 ;;
"start floods start") exec yes '{"id": "many' ;;
"start babbles start") echo started; exit 0 ;;
"wait fails wait") echo 'lost the machine' >&2; exit 1 ;;
"manifest fails manifest") echo 'no fleet today' >&2; exit 1 ;;
esac
exec "$folder/../example" "$@"
"#;

/// A miner with the program, which keeps its files in a folder of the miner's home.
struct Fleet {
    miner: Miner,
    folder: PathBuf,
}

impl Fleet {
    async fn make() -> Self {
        let mut miner = Miner::make("127.0.0.1", vec!["--backend", "command"]).await;
        let folder = miner.home.path().join("fleet");
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in [("example", EXAMPLE), ("program", WRONG)] {
            let path = miner.home.write(name, text);
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let program = miner.home.path().join("program");
        let binaries = Path::new(env!("CARGO_BIN_EXE_horde")).parent().unwrap();
        miner.variables = vec![
            (
                "HORDE_MINER_COMMAND",
                format!("{},{}", program.display(), folder.display()),
            ),
            (
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", binaries.display()),
            ),
        ];
        miner.log = Some(miner.home.path().join("log"));
        Self { miner, folder }
    }

    fn be_wrong(&self, how: &str) {
        std::fs::write(self.folder.join("wrong"), how).unwrap();
    }

    fn asked(&self, verb: &str) -> usize {
        let asked = std::fs::read_to_string(self.folder.join("asked")).unwrap();
        asked.lines().filter(|line| *line == verb).count()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.miner.log.as_ref().unwrap()).unwrap()
    }

    /// Waits until no process of the program's executors is left.
    async fn expect_no_executors(&self) {
        let started = Instant::now();
        let mark = self.miner.home.path().to_str().unwrap();
        loop {
            let of_ours = executors(mark);
            if of_ours.is_empty() {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{of_ours:?}");
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

/// Returns the processes that are executors in whose environment `mark` is found.
fn executors(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let command = read("cmdline");
        if command.contains("executor\0run") && read("environ").contains(mark) {
            found.push(format!("{}: {command}", entry.path().display()));
        }
    }
    found
}

#[tokio::test]
async fn jobs_run_on_executors_of_the_operators_program() {
    if !docker_is_there() {
        return;
    }
    let mut fleet = Fleet::make().await;
    fleet.miner.launch().await;
    let (mut alice, count) = Validator::offered(&fleet.miner, "//Alice").await;
    assert_eq!(count, 2, "what the program says");
    assert_eq!(alice.run(&new_job(), "echo one").await, "one\n");
    // A miner that is killed finds its executor again, and the job goes on.
    let job = new_job();
    alice.engage(&job).await;
    alice.say(Validator::order(&job, "sleep 3; echo survived")).await;
    assert!(matches!(alice.expect().await, Up::VolumesReady(_)));
    fleet.miner.signal(Signal::KILL).await;
    fleet.miner.launch().await;
    let (mut alice, _) = Validator::offered(&fleet.miner, "//Alice").await;
    assert_eq!(alice.expect_results(&job).await, "survived\n");
    let (mut charlie, _) = Validator::offered(&fleet.miner, "//Charlie").await;
    let (first, second) = (new_job(), new_job());
    alice.engage(&first).await;
    charlie.engage(&second).await;
    assert_eq!(executors(fleet.miner.home.path().to_str().unwrap()).len(), 2);
    for (validator, job) in [(&mut alice, &first), (&mut charlie, &second)] {
        validator.say(Validator::order(job, "echo two")).await;
        assert_eq!(validator.expect_results(job).await, "two\n");
    }
    fleet.expect_no_executors().await;
    fleet.miner.signal(Signal::TERM).await;
    assert_eq!(fleet.asked("start"), 4);
    assert!(fleet.asked("wait") >= 5);
    // Nothing of the wallet goes to the program or its executors.
    let log = fleet.log();
    assert!(!log.contains("//Bob"), "{log}");
}

#[tokio::test]
async fn a_program_that_fails_in_some_verb_costs_that_job_and_no_slot() {
    if !docker_is_there() {
        return;
    }
    let mut fleet = Fleet::make().await;
    fleet.miner.launch().await;
    let (mut alice, _) = Validator::offered(&fleet.miner, "//Alice").await;
    // Twice each: with two slots, the second would be refused if the first one's was lost, and the third of all.
    for (wrong, word) in [
        ("start fails", "exit code 3: no machine is left"),
        ("start floods", "printed more than"),
        ("start babbles", "is not understood"),
    ] {
        fleet.be_wrong(wrong);
        for _ in 0..3 {
            let job = new_job();
            alice.request_signed(&job).await;
            assert!(matches!(alice.expect().await, Up::Accepted(_)), "{wrong}");
            let failed = alice.expect_horde_failed().await;
            assert_eq!(failed.reason, HordeReason::ExecutorSpinupFailed, "{wrong}");
        }
        assert!(fleet.log().contains(word), "{wrong}: {}", fleet.log());
    }
    assert!(fleet.asked("stop") >= 9, "what had perhaps begun was ended");
    // A wait that always fails ends the executor: nobody could tell whether it runs.
    fleet.be_wrong("wait fails");
    let job = new_job();
    alice.engage(&job).await;
    let failed = alice.expect_horde_failed().await;
    assert_eq!(failed.job_uuid, job);
    // The executor may still say itself that it was told to end.
    let reasons = [HordeReason::ExecutorDisconnected, HordeReason::GenericError];
    assert!(reasons.contains(&failed.reason), "{failed:?}");
    fleet.expect_no_executors().await;
    assert!(
        fleet.log().contains("lost sight of an executor"),
        "{}",
        fleet.log()
    );
    fleet.be_wrong("nothing");
    assert_eq!(alice.run(&new_job(), "echo well").await, "well\n");
    alice.close().await;
}

#[tokio::test]
async fn a_program_that_offers_nothing_is_said_to_and_one_that_is_not_there_ends_the_miner() {
    let mut fleet = Fleet::make().await;
    fleet.be_wrong("manifest fails");
    fleet.miner.launch().await;
    let (alice, count) = Validator::offered(&fleet.miner, "//Alice").await;
    assert_eq!(count, 0);
    alice.close().await;
    let log = fleet.log();
    assert!(log.contains("exit code 1: no fleet today"), "{log}");
    fleet.miner.signal(Signal::TERM).await;

    let directory = fleet.miner.directory();
    let run = |command: &str| {
        let output = fleet
            .miner
            .home
            .horde(["--dir", directory.to_str().unwrap(), "miner", "run"])
            .args(["--listen", "127.0.0.1:0", "--backend", "command"])
            .env("HORDE_CHAIN_PATH", fleet.miner.home.path().join("chain.sqlite"))
            .env("HORDE_WALLET_URI", "//Bob")
            .env("HORDE_MINER_COMMAND", command)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run("/no/such/program");
    assert!(
        text.contains("cannot run /no/such/program, which miner.command names"),
        "{text}"
    );
    let text = run("");
    assert!(text.contains("miner.command is not set"), "{text}");
}
