//! The executor's image under a miner of the reference, which knows only how to start its own
//! (wire-executor-miner §3): the container's name is the token, its command is that of the Python program, and it
//! sees the engine's socket and `/tmp`.

use std::process::Output;
use std::time::Duration;

use horde::core::docker::Label;
use horde::core::docker::reference::ImageReference;
use horde::core::net::{Event, Link};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::executor::{AMPLE, IMAGE, Miner, PATIENCE, base64_of, engine, initial, job, zip_of};
use crate::support::{Home, accepted_risks};

/// Where containers of the default bridge find this host.
const BRIDGE: &str = "172.17.0.1";

async fn docker<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    let mut command = Command::new("docker");
    timeout(PATIENCE, command.args(arguments).output())
        .await
        .unwrap()
        .unwrap()
}

/// Starts an executor as the reference's miner does, with `folder` of the host as its `/tmp`, and sends it a job
/// that copies its input to its artifacts; returns all that it says.
async fn run(image: &str, token: &str, folder: Option<&str>) -> Vec<Value> {
    let mut miner = Miner::start_on(BRIDGE).await;
    let address = format!("MINER_ADDRESS=ws://{}", miner.address);
    let token_variable = format!("EXECUTOR_TOKEN={token}");
    let (name, risks) = accepted_risks();
    let accept = format!("{name}={risks}");
    let folder = folder.map(|folder| format!("{folder}:/tmp"));
    let mut arguments = vec!["run", "--detach", "--rm", "--name", token];
    for variable in [&address, &token_variable, "DEBUG_NO_GPU_MODE=1", &accept] {
        arguments.extend(["--env", variable]);
    }
    arguments.extend(["--volume", "/var/run/docker.sock:/var/run/docker.sock"]);
    if let Some(folder) = &folder {
        arguments.extend(["--volume", folder]);
    }
    arguments.extend([
        image,
        "python",
        "manage.py",
        "run_executor",
        "--startup-time-limit",
        "60",
    ]);
    let started = docker(arguments).await;
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    let mut link = timeout(PATIENCE, miner.links.recv()).await.unwrap().unwrap();
    let input = zip_of(&[("in.txt", b"from the input")]);
    let first = initial(
        json!({ "volume_type": "inline", "contents": base64_of(&input) }),
        AMPLE,
    );
    let mut order = job(
        &first,
        &["sh", "-c", "cat /volume/in.txt > /artifacts/out.txt; echo done"],
    );
    order["artifacts_dir"] = json!("/artifacts");
    for message in [first, order] {
        // One that has refused the first is gone.
        drop(link.send(message.to_string()).await);
    }
    rest(&mut link).await
}

async fn rest(link: &mut Link) -> Vec<Value> {
    let mut said = Vec::new();
    loop {
        match timeout(PATIENCE, link.recv()).await.unwrap() {
            Event::Text(text) => said.push(serde_json::from_str(&text).unwrap()),
            Event::Binary(_) => panic!("a binary message"),
            Event::Closed { .. } => return said,
        }
    }
}

/// Waits until the engine has removed an executor's own container, which it does a moment after its end.
async fn gone(name: &str) {
    let removal = async {
        while docker(["container", "inspect", name]).await.status.success() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, removal).await.unwrap();
}

fn kinds(said: &[Value]) -> Vec<&str> {
    said.iter()
        .map(|message| message["message_type"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_miner_starts_it_by_changing_one_setting() {
    let Some(engine) = engine().await else { return };
    assert!(IMAGE.contains(':'));
    let home = Home::new();
    let image = format!("horde-test-dropin-{}:1", uuid::Uuid::new_v4());
    let made = Command::from(home.horde(["executor", "image", "--json", "--tag", &image]))
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let elsewhere = home.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for (folder, is_seen) in [
        // As the reference has it, and with another folder of the host.
        (Some("/tmp"), true),
        (Some(elsewhere.to_str().unwrap()), true),
        (None, false),
    ] {
        let token = format!("horde-test-dropin-{}", uuid::Uuid::new_v4());
        let said = run(&image, &token, folder).await;
        if is_seen {
            let wanted = [
                "V0ExecutorReadyRequest",
                "V0VolumesReadyRequest",
                "V0ExecutionDoneRequest",
                "V0JobFinishedRequest",
            ];
            assert_eq!(kinds(&said), wanted, "{folder:?}: {said:?}");
            let finished = said.last().unwrap();
            assert_eq!(finished["docker_process_stdout"], "done\n");
            assert_eq!(
                finished["artifacts"]["/artifacts/out.txt"],
                base64_of(b"from the input")
            );
        } else {
            assert_eq!(kinds(&said), ["V0HordeFailedRequest"], "{said:?}");
            let message = said[0]["message"].as_str().unwrap();
            assert!(message.contains("-v /tmp:/tmp"), "{message}");
        }
        gone(&token).await;
        assert_eq!(engine.list(Label::Token(&token)).await.unwrap(), []);
    }
    assert_eq!(
        std::fs::read_dir(&elsewhere).unwrap().count(),
        0,
        "folders are left"
    );
    let image = ImageReference::parse(&image).unwrap();
    engine.remove_image(&image).await.unwrap();
}

#[test]
fn a_job_runner_of_the_reference_is_answered_with_words() {
    let home = Home::new();
    let class = "compute_horde_miner.custom_job_runners.Mine";
    for words in [&["python", "manage.py", "run_executor"][..], &["executor", "run"]] {
        let told = home.run([words, &["--startup-time-limit", "5", "--job-runner-class", class]].concat());
        assert!(told.starts_with("exit code: 2\n"), "{told}");
        assert!(
            told.contains("could not use the job runner") && told.contains(class),
            "{told}"
        );
        assert!(told.contains("CUSTOM_JOB_RUNNER_CLASS_NAME"), "{told}");
    }
    let told = home.run(["python", "other.py", "run_executor"]);
    assert!(told.starts_with("exit code: 2\n"), "{told}");
}
