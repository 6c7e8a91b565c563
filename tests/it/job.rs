//! `horde job` as people run it, against a real facilitator and a played validator.

use std::process::Output;

use serde_json::{Value, json};

use crate::facilitator::{World, pushed, report};
use crate::support::Home;

/// Runs `horde job …` as //Charlie while `play` plays the validator.
async fn run_while<F>(world: &World, home: &Home, args: &[&str], play: F) -> Output
where
    F: Future<Output = ()>,
{
    let url = format!("http://{}", world.address);
    let mut all = vec!["job", args[0], "--facilitator", &url, "--key-uri", "//Charlie"];
    all.extend(&args[1..]);
    let mut command = tokio::process::Command::from(home.horde(all));
    let (output, ()) = tokio::join!(command.output(), play);
    output.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Returns the last word of each line of the stage display.
fn stages(output: &Output) -> Vec<String> {
    let stderr = text(&output.stderr);
    let lines = stderr.lines().filter(|line| line.contains(" s  "));
    lines
        .map(|line| line.split_whitespace().last().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_submitted_job_is_followed_to_its_output() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let home = Home::new();
    home.write("data/greeting.txt", "hello");
    let args = [
        "submit",
        "--class",
        "always_on.test",
        "--env",
        "WHO=świat",
        "--volume",
        "data:/volume/in",
        "--deliver",
        "/output/sum.txt=https://example.com/sum?a=b",
        "busybox",
        "--",
        "echo",
        "--",
        "hi",
    ];
    let play = async {
        // No --validator: there is only one.
        let (_, request) = pushed(&mut validator).await;
        request.verify().unwrap();
        assert_eq!(request.args, ["echo", "--", "hi"]);
        assert_eq!(request.env["WHO"], "świat");
        let wire = serde_json::to_value(&request).unwrap();
        assert_eq!(wire["volume"]["volumes"][0]["relative_path"], "in");
        assert_eq!(wire["output_upload"]["uploads"][0]["relative_path"], "sum.txt");
        assert_eq!(wire["artifacts_dir"], Value::Null);
        let uuid = request.uuid.as_str();
        report(&mut validator, uuid, "received", Value::Null).await;
        report(&mut validator, uuid, "accepted", Value::Null).await;
        let metadata = json!({"miner_response": {"docker_process_stderr": "warned\n",
            "docker_process_stdout": "out\n", "artifacts": {}, "upload_results": {"sum.txt": "{}"}}});
        report(&mut validator, uuid, "completed", metadata).await;
    };
    let output = run_while(&world, &home, &args, play).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(stages(&output), ["sent", "received", "accepted", "completed"]);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("warned\n") && stderr.contains("uploaded /output/sum.txt"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_failed_job_gives_its_exit_code_and_its_output() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let home = Home::new();
    for (status, metadata, code, words) in [
        (
            "failed",
            json!({"job_failure_details": {"reason": "nonzero_return_code", "stage": "execution", "message": "m",
                "docker_process_exit_status": 42, "docker_process_stdout": "o", "docker_process_stderr": "e"}}),
            42,
            "exit code 42",
        ),
        (
            "failed",
            json!({"job_failure_details": {"reason": "timeout", "stage": "execution", "message": "too slow"}}),
            124,
            "ran out of time in execution: too slow",
        ),
        (
            "failed",
            json!({"horde_failure_details": {"reported_by": "validator", "reason": "miner_connection_failed",
                "message": "gone"}}),
            125,
            "the horde failed the job: gone (reported by the validator: miner_connection_failed)",
        ),
        (
            "rejected",
            json!({"job_rejection_details": {"rejected_by": "miner", "reason": "busy", "message": "no"}}),
            126,
            "the job was rejected: no (by the miner: busy)",
        ),
    ] {
        let play = async {
            let (_, request) = pushed(&mut validator).await;
            report(&mut validator, request.uuid.as_str(), status, metadata).await;
        };
        let output = run_while(&world, &home, &["submit", "busybox"], play).await;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        if code == 42 {
            assert_eq!(text(&output.stdout), "o");
        }
    }
}

#[tokio::test]
async fn a_detached_job_is_listed_shown_and_waited_for() {
    let world = World::start().await;
    let mut validator = world.validator().await;
    let home = Home::new();
    let nothing = || async {};
    let output = run_while(&world, &home, &["submit", "--detach", "busybox"], nothing()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (_, request) = pushed(&mut validator).await;
    let uuid = request.uuid.as_str();
    assert_eq!(text(&output.stdout), format!("{uuid}\n"));

    let output = run_while(&world, &home, &["list"], nothing()).await;
    assert!(text(&output.stdout).lines().nth(1).unwrap().starts_with(uuid));
    let output = run_while(&world, &home, &["list", "--json"], nothing()).await;
    let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(jobs[0]["uuid"], uuid);
    let output = run_while(&world, &home, &["show", uuid], nothing()).await;
    assert!(text(&output.stdout).contains("status      sent"));

    let output = run_while(&world, &home, &["wait", "--timeout", "0", uuid], nothing()).await;
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let play = async {
        report(&mut validator, uuid, "completed", Value::Null).await;
    };
    let output = run_while(&world, &home, &["wait", "--json", uuid], play).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let job: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(job["status"], "Completed");
}

#[tokio::test]
async fn what_cannot_be_is_said_with_a_hint() {
    let world = World::start().await;
    let home = Home::new();
    let nothing = || async {};
    let output = run_while(&world, &home, &["submit", "busybox"], nothing()).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(text(&output.stderr).contains("no validator is connected"));
    let unknown = "00000000-0000-0000-0000-000000000000";
    let output = run_while(&world, &home, &["show", unknown], nothing()).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let stranger = [
        "job",
        "list",
        "--facilitator",
        &format!("http://{}", world.address),
        "--key-uri",
        "//Eve",
    ];
    let output = tokio::process::Command::from(home.horde(stranger)).output().await;
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stderr).contains("Hotkey not allowed"));
}
