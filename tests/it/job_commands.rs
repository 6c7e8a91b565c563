//! What holds for every command of `horde job`, by one table: an example in its help, JSON that is JSON, and readers that
//! go early. A command that is not in the table fails the test.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use horde::cmd::Cli;
use horde::core::net::Link;
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::proto::facilitator_validator::EXTENSIONS;
use serde_json::{Value, json};

use crate::facilitator::{World, authentication, heard, pushed, report};
use crate::support::Home;

/// What a command prints with `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Print {
    /// One document.
    One,
    /// One document a line.
    Lines,
    /// Identities and nothing else, as it was asked to.
    Quiet,
}

/// A way to call a command: its words, with `JOB` for a job that has completed, `TRUSTED` for the same on the trusted
/// miner and `RUNS` for one that runs; what it prints; how it ends when all is well.
type Row = (&'static [&'static str], Print, i32);

/// Every command, in each of its ways to print.
const TABLE: &[Row] = &[
    (&["submit", "--detach", IMAGE], Print::One, 0),
    (&["submit", "--quiet", IMAGE], Print::Quiet, 0),
    (&["submit", "--dry-run", IMAGE], Print::One, 11),
    (&["list"], Print::One, 0),
    (&["list", "--quiet"], Print::Quiet, 0),
    (&["show", "JOB"], Print::One, 0),
    (&["logs", "JOB"], Print::One, 0),
    (&["logs", "JOB", "--follow"], Print::Lines, 0),
    (&["wait", "JOB"], Print::One, 0),
    (&["wait", "RUNS", "--for", "running"], Print::One, 0),
    (&["explain", "JOB"], Print::One, 0),
    (&["retry", "JOB", "--detach"], Print::One, 0),
    (&["retry", "JOB", "--dry-run"], Print::One, 11),
    (
        &["download", "JOB", "--to", "got", "--force", "--streams"],
        Print::One,
        0,
    ),
    (&["report-cheated", "JOB", "TRUSTED", "--dry-run"], Print::One, 11),
    (&["report-cheated", "JOB", "TRUSTED", "--yes"], Print::One, 0),
    (&["cancel", "RUNS", "JOB", "--dry-run"], Print::One, 11),
    (&["cancel", "JOB", "--dry-run"], Print::One, 0),
    (&["cancel", "RUNS"], Print::One, 0),
];

const IMAGE: &str = "busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// More than a pipe holds.
const LINES: usize = 50_000;

/// A facilitator with the three jobs of the table.
struct Scene {
    world: World,
    home: Home,
    jobs: [(&'static str, String); 3],
    alice: Link,
}

impl Scene {
    async fn start() -> Self {
        let (world, home) = (World::start().await, Home::new());
        let url = format!("ws://{}/ws/v0/", world.address);
        let options = ConnectOptions {
            extensions: Extensions::of(EXTENSIONS),
            ..ConnectOptions::default()
        };
        let mut alice = connect(&url, &options, &world.tasks).await.unwrap();
        alice.send(authentication("//Alice")).await.unwrap();
        assert!(heard(&mut alice).await.contains("success"));
        let mut scene = Self {
            world,
            home,
            jobs: ["JOB", "TRUSTED", "RUNS"].map(|name| (name, String::new())),
            alice,
        };
        for (index, trusted) in [false, true, false].into_iter().enumerate() {
            let mut args = vec!["submit", "--detach", "--artifact", "/artifacts", IMAGE];
            if trusted {
                args.insert(1, "--trusted");
            }
            let output = run(scene.command(&args, false)).await;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let (_, request) = pushed(&mut scene.alice).await;
            let uuid = request.uuid.as_str().to_owned();
            for status in ["received", "accepted", "executor_ready", "volumes_ready"] {
                report(&mut scene.alice, &uuid, status, Value::Null).await;
            }
            if index < 2 {
                let result = json!({"miner_response": {"docker_process_stdout": "line\n".repeat(LINES),
                    "docker_process_stderr": "", "artifacts": {"/artifacts/a": "YQ=="}, "upload_results": {}}});
                report(&mut scene.alice, &uuid, "completed", result).await;
            }
            scene.jobs[index].1 = uuid;
        }
        scene
    }

    /// Returns `horde job …` as //Charlie, with the jobs' identities in the place of their names.
    fn command(&self, words: &[&str], json: bool) -> Command {
        let mut command = self.home.horde(["job"]);
        for word in words {
            let job = self.jobs.iter().find(|(name, _)| name == word);
            command.arg(job.map_or(*word, |(_, uuid)| uuid.as_str()));
        }
        command
            .arg(format!("--facilitator=http://{}", self.world.address))
            .args(["--key-uri", "//Charlie"]);
        if json {
            command.arg("--json");
        }
        command
    }
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

/// Returns the names of all commands of `horde job`.
fn names() -> BTreeSet<String> {
    let cli = Cli::command();
    let job = cli.find_subcommand("job").unwrap();
    let all = job.get_subcommands().map(|command| command.get_name().to_owned());
    all.filter(|name| name != "help").collect()
}

#[test]
fn the_table_names_every_command_and_every_command_has_an_example_and_a_snapshot_of_its_help() {
    let in_table: BTreeSet<String> = TABLE.iter().map(|(words, ..)| words[0].to_owned()).collect();
    assert_eq!(in_table, names());
    let help = include_str!("snapshots/it__cli__the_help_of_the_whole_tree.snap");
    let cli = Cli::command();
    for name in names() {
        let command = cli
            .find_subcommand("job")
            .unwrap()
            .find_subcommand(&name)
            .unwrap();
        let examples = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            examples.contains(&format!("  horde job {name} ")),
            "{name}: {examples}"
        );
        assert!(help.contains(&format!("$ horde job {name}\n")), "{name}");
    }
}

#[tokio::test]
async fn every_command_prints_json_that_is_json_and_nothing_else() {
    let scene = Scene::start().await;
    for (words, print, code) in TABLE.iter().filter(|row| row.1 != Print::Quiet) {
        let output = run(scene.command(words, true)).await;
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        if *print == Print::Lines {
            assert!(text.lines().count() >= 2, "{words:?}: {text}");
            for line in text.lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                assert!(record["type"].is_string(), "{words:?}: {line}");
            }
            continue;
        }
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
        assert!(value.is_object() || value.is_array(), "{words:?}: {text}");
    } // What was reported stands, and is not reported twice.
    let output = run(scene.command(&["report-cheated", "JOB", "TRUSTED", "--yes"], true)).await;
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

/// The reader of a pipe may go as soon as it has seen enough: that is success, and nothing is said about it.
#[tokio::test]
async fn every_command_is_silent_and_successful_when_its_reader_has_gone() {
    let plain: Vec<_> = TABLE.iter().map(|row| row.0).collect();
    let with_json = TABLE.iter().filter(|row| row.1 != Print::Quiet);
    let with_json: Vec<_> = with_json.map(|row| row.0).collect();
    for (json, rows) in [(false, plain), (true, with_json)] {
        let scene = Scene::start().await;
        for words in rows {
            goes_early(scene.command(words, json)).await;
        }
        goes_early(scene.home.horde(["job", "submit", "--example"])).await;
    }
}

async fn goes_early(mut command: Command) {
    let called = format!("{command:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // Its own end of the pipe.
    drop(command);
    let waited = tokio::task::spawn_blocking(move || child.wait_with_output()).await;
    let output = waited.unwrap().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{called}: {words}");
    for word in ["error", "panic", "roken pipe"] {
        assert!(!words.contains(word), "{called}: {words}");
    }
}

/// And it may go in the middle, which ends the command: here after the first bytes of many.
#[tokio::test]
async fn a_reader_that_goes_in_the_middle_ends_the_command() {
    let scene = Scene::start().await;
    for words in [
        &["logs", "JOB"][..],
        &["wait", "JOB"],
        &["logs", "JOB", "--follow"],
    ] {
        let mut command = scene.command(words, false);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut first = [0; 5];
            std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
            (first, child.wait_with_output().unwrap())
        });
        let (first, output) = read.await.unwrap();
        assert_eq!(&first, b"line\n");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    }
}
