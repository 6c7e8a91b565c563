//! `horde job` at a terminal: what a person sees while a job runs and when it has ended, Ctrl-C, and questions, which
//! nobody is asked who is not there.

use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use horde::core::net::Link;
use horde::core::net::extensions::Extensions;
use horde::core::net::ws::{ConnectOptions, connect};
use horde::core::proto::facilitator_validator::EXTENSIONS;
use serde_json::{Value, json};

use crate::facilitator::{World, authentication, heard, pushed, report};
use crate::support::Home;
use crate::terminal::{INTERRUPT, Terminal};

/// An image that needs no warning.
const IMAGE: &str = "busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn job(world: &World, home: &Home, words: &[&str]) -> Command {
    let mut command = home.horde(["job", words[0], "--facilitator"]);
    command
        .arg(format!("http://{}", world.address))
        .args(["--key-uri", "//Charlie"])
        .args(&words[1..]);
    command
}

/// Runs a command without a terminal.
async fn piped(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

/// Connects as one of our validators, which can cancel and passes on what jobs write.
async fn ours(world: &World) -> Link {
    let url = format!("ws://{}/ws/v0/", world.address);
    let options = ConnectOptions {
        extensions: Extensions::of(EXTENSIONS),
        ..ConnectOptions::default()
    };
    let mut link = connect(&url, &options, &world.tasks).await.unwrap();
    link.send(authentication("//Alice")).await.unwrap();
    assert!(heard(&mut link).await.contains("success"));
    link
}

/// Takes the job, and tells that it runs.
async fn runs(validator: &mut Link) -> String {
    let (_, request) = pushed(validator).await;
    let uuid = request.uuid.as_str();
    for status in ["received", "accepted", "executor_ready", "volumes_ready"] {
        report(validator, uuid, status, Value::Null).await;
    }
    uuid.to_owned()
}

fn result(stdout: &str, stderr: &str) -> Value {
    json!({"miner_response": {"docker_process_stdout": stdout, "docker_process_stderr": stderr, "artifacts": {},
        "upload_results": {}}})
}

/// Returns the last word of each line of the stages that stand on a screen.
fn stages(screen: &str) -> Vec<&str> {
    let lines = screen.lines().filter(|line| line.contains(" s  "));
    lines.filter_map(|line| line.split_whitespace().last()).collect()
}

const STAGES: [&str; 6] = [
    "sent",
    "received",
    "accepted",
    "executor_ready",
    "volumes_ready",
    "completed",
];

#[tokio::test]
async fn a_person_sees_what_is_waited_for_and_in_the_end_only_stages_and_output() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = world.validator().await;
    let terminal = Terminal::start(&job(&world, &home, &["submit", IMAGE]), Some("xterm"));
    terminal.shows("s  waiting for the validator").await;
    let (_, request) = pushed(&mut validator).await;
    let uuid = request.uuid.as_str();
    for (status, then) in [
        ("received", "s  looking for a miner"),
        ("accepted", "s  starting the executor"),
        ("executor_ready", "s  fetching the input"),
        ("volumes_ready", "s  running"),
    ] {
        report(&mut validator, uuid, status, Value::Null).await;
        terminal.shows(then).await;
    }
    report(
        &mut validator,
        uuid,
        "completed",
        result("one\ntwo\n", "warned\n"),
    )
    .await;
    assert!(terminal.has_moved());
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 0, "{screen}");
    assert_eq!(stages(&screen), STAGES, "{screen}");
    assert!(screen.starts_with(&format!("job {uuid}\n")), "{screen}");
    // Nothing that moved is left behind. What was written may come a moment before the end does.
    let lines = screen.lines().skip(1).filter(|line| !line.contains(" s  "));
    let mut written: Vec<_> = lines.collect();
    written.sort_unstable();
    assert_eq!(written, ["one", "two", "warned"], "{screen}");
}

#[tokio::test]
async fn a_terminal_that_can_or_should_move_nothing_gets_the_stages_as_lines() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = world.validator().await;
    for (term, motion) in [(Some("dumb"), "auto"), (None, "auto"), (Some("xterm"), "off")] {
        let mut command = job(&world, &home, &["submit", IMAGE]);
        command.env("HORDE_TERMINAL_MOTION", motion);
        let terminal = Terminal::start(&command, term);
        let uuid = runs(&mut validator).await;
        report(&mut validator, &uuid, "completed", result("out\n", "")).await;
        terminal.shows("\nout").await;
        assert!(!terminal.has_moved(), "{term:?} {motion}");
        let (code, screen) = terminal.end().await;
        assert_eq!(code, 0, "{screen}");
        assert_eq!(stages(&screen), STAGES, "{screen}");
        assert!(screen.contains("\nout"), "{screen}");
    }
}

#[tokio::test]
async fn what_a_job_writes_stays_whole_beside_what_moves() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = ours(&world).await;
    let terminal = Terminal::start(&job(&world, &home, &["submit", IMAGE]), Some("xterm"));
    let uuid = runs(&mut validator).await;
    terminal.shows("s  running").await;
    // A line that comes in pieces, with the moving line in between.
    let mut offset = 0;
    for piece in ["first\nsec", "ond", "\nthird: 10%"] {
        tell(&mut validator, &uuid, offset, piece).await;
        offset += piece.len();
        let whole = ["first\nsec", "first\nsecond", "first\nsecond\nthird: 10%"];
        terminal
            .shows(whole.into_iter().find(|text| text.len() >= offset).unwrap())
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        terminal
            .shows(whole.into_iter().find(|text| text.len() >= offset).unwrap())
            .await;
    }
    report(
        &mut validator,
        &uuid,
        "completed",
        result("first\nsecond\nthird: 10%", ""),
    )
    .await;
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 0, "{screen}");
    let after = screen.split_once("volumes_ready\n").unwrap().1;
    let (output, rest) = after.split_once("third: 10%\n").unwrap();
    assert_eq!(output, "first\nsecond\n", "{screen}");
    assert!(
        rest.ends_with("completed") && !rest.contains("running"),
        "{screen}"
    );
}

/// Tells what a job writes, as our validator does.
async fn tell(validator: &mut Link, uuid: &str, offset: usize, text: &str) {
    let output = json!({"message_type": "H0JobOutput", "uuid": uuid, "stream": "stdout", "offset": offset,
        "data": STANDARD.encode(text)});
    validator.send(output.to_string()).await.unwrap();
}

#[tokio::test]
async fn the_first_interrupt_detaches_and_says_how_to_come_back_and_the_second_asks_whether_to_cancel() {
    let (world, home) = (World::start().await, Home::new());
    let mut validator = ours(&world).await;
    let again = "another Ctrl-C within 3 s asks whether to cancel it";

    // One alone leaves the job alone.
    let mut terminal = Terminal::start(&job(&world, &home, &["submit", IMAGE]), Some("xterm"));
    let uuid = runs(&mut validator).await;
    terminal.shows("s  running").await;
    terminal.press(INTERRUPT);
    terminal.shows(again).await;
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 130, "{screen}");
    let wait = format!("the job goes on; `horde job wait {uuid}` follows it");
    assert!(screen.contains(&wait) && !screen.contains("running"), "{screen}");

    // What it said can be typed; a second one asks, and an answer of no leaves the job alone, too.
    for (answer, is_cancelled) in [("n", false), ("y", true)] {
        let mut terminal = Terminal::start(&job(&world, &home, &["wait", &uuid]), Some("xterm"));
        terminal.shows("s  running").await;
        terminal.press(INTERRUPT);
        terminal.shows(again).await;
        terminal.press(INTERRUPT);
        terminal.shows("Cancel the job?").await;
        terminal.press(answer);
        let (code, screen) = terminal.end().await;
        assert_eq!(code, 130, "{screen}");
        assert_eq!(
            screen.contains("the cancel is under way"),
            is_cancelled,
            "{screen}"
        );
    }
    let order = heard(&mut validator).await;
    assert_eq!(
        order,
        format!("{{\"message_type\": \"H0JobCancel\", \"uuid\": \"{uuid}\"}}")
    );
}

#[tokio::test]
async fn questions_are_asked_at_a_terminal_and_nowhere_else() {
    let (world, home) = (World::start().await, Home::new());
    let _alice = world.validator().await;
    // Without an image: a person is asked, and what was typed is the image.
    let mut terminal = Terminal::start(&job(&world, &home, &["submit", "--detach"]), Some("xterm"));
    terminal.shows("Image:").await;
    terminal.press(&format!("{IMAGE}\r"));
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 0, "{screen}");
    // Nobody is asked who said so, or is not there.
    let no_input = Terminal::start(&job(&world, &home, &["submit", "--no-input"]), Some("xterm"));
    let (code, screen) = no_input.end().await;
    assert_eq!(code, 2, "{screen}");
    assert!(screen.contains("there is no image"), "{screen}");
    let output = piped(job(&world, &home, &["submit"])).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // With one of two validators to choose, too.
    let mut ferdie = world.link().await;
    ferdie.send(authentication("//Ferdie")).await.unwrap();
    assert!(heard(&mut ferdie).await.contains("success"));
    let mut terminal = Terminal::start(&job(&world, &home, &["submit", "--detach", IMAGE]), Some("xterm"));
    terminal.shows("Which validator").await;
    terminal.press("\r");
    let (code, screen) = terminal.end().await;
    assert_eq!(code, 0, "{screen}");
    let mut command = job(&world, &home, &["submit", "--detach", IMAGE]);
    command.stdin(Stdio::null());
    let output = piped(command).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("pass --validator with one of"), "{words}");
}
