//! The sandbox of jobs under attack, with the real binary and a real engine: it holds under both profiles, and a
//! sandbox that somebody weakened is found out.
//!
//! The weakened ones are made by a proxy between the binary and the engine that changes the request for a container
//! on its way, so that everything else is as it is for every job.

#![expect(clippy::expect_used, reason = "a test that waits in vain says for what")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Home, docker_is_there};

/// How long one run of all attacks may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The engine's socket.
const SOCKET: &str = "/var/run/docker.sock";

/// What a run said: exit code, and verdict and evidence by attack.
struct Run {
    code: i32,
    attacks: BTreeMap<String, (String, String)>,
    profile: String,
}

async fn attack(home: &Home, socket: &str, arguments: &[&str]) -> Run {
    let mut command = home.horde(["--json", "executor", "check", "--attack"]);
    command
        .args(arguments)
        .env("HORDE_EXECUTOR_DOCKER_HOST", format!("unix://{socket}"))
        .env("HORDE_EXECUTOR_WORK_DIR", home.path())
        .env("HORDE_LOG_LEVEL", "error");
    let output = timeout(PATIENCE, Command::from(command).kill_on_drop(true).output())
        .await
        .expect("the attack ends in time")
        .unwrap();
    let told = home.told(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let attacks = report["attacks"].as_array().unwrap().iter();
    let attacks = attacks.map(|finding| {
        let verdict = (text(&finding["verdict"]), text(&finding["evidence"]));
        (text(&finding["name"]), verdict)
    });
    Run {
        code: output.status.code().unwrap(),
        attacks: attacks.collect(),
        profile: text(&report["profile"]),
    }
}

/// Attacks a profile with everything; asserts that it held and that nothing is left.
async fn holds(profile: &str) {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let run = attack(&home, SOCKET, &["--profile", profile]).await;
    let open: Vec<_> = run
        .attacks
        .iter()
        .filter(|(_, (verdict, _))| verdict != "held")
        .collect();
    assert!(open.is_empty(), "{open:#?}");
    assert_eq!((run.code, run.profile.as_str()), (0, profile));
    assert!(run.attacks.len() > 60, "{} attacks", run.attacks.len());
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "folders are left"
    );
}

#[tokio::test]
async fn every_attack_is_held_under_the_profile_live() {
    holds("live").await;
}

#[tokio::test]
async fn every_attack_is_held_under_the_profile_strict() {
    holds("strict").await;
}

/// How a sandbox is weakened, what then breaks, and what holds all the same.
struct Weakness {
    what: &'static str,
    weaken: fn(&mut Value),
    broken: &'static [&'static str],
    held: &'static [&'static str],
}

const WEAKNESSES: [Weakness; 4] = [
    Weakness {
        // As `--privileged`, but for rights that an engine inside of a container cannot give.
        what: "rights",
        weaken: |host| {
            host["CapAdd"] = json!(["SYS_ADMIN"]);
            host["SecurityOpt"] = json!(["seccomp=unconfined", "apparmor=unconfined"]);
            host["MaskedPaths"] = json!([]);
            host["ReadonlyPaths"] = json!([]);
        },
        broken: &[
            "capabilities",
            "kernel-settings",
            "mount",
            "no-new-privileges",
            "raise-capabilities",
            "setns",
            "unshare",
        ],
        held: &[
            "routes",
            "host-loopback",
            "docker-socket",
            "fork-bomb",
            "packet-sockets",
        ],
    },
    Weakness {
        what: "the host's network",
        weaken: |host| host["NetworkMode"] = json!("host"),
        broken: &["routes", "host-loopback", "abstract-sockets", "namespaces"],
        held: &["mount", "capabilities", "bpf"],
    },
    Weakness {
        what: "the engine's socket",
        weaken: |host| host["Binds"] = json!([format!("{SOCKET}:{SOCKET}"), "/tmp:/host"]),
        broken: &["docker-socket", "foreign-mounts"],
        held: &["mount", "routes"],
    },
    Weakness {
        what: "no limits",
        weaken: |host| {
            host["PidsLimit"] = json!(0);
            host["Memory"] = json!(0);
            host["MemorySwap"] = json!(0);
            host["MemorySwappiness"] = json!(null);
            host["Ulimits"] = json!([]);
        },
        broken: &["fork-bomb", "memory"],
        held: &["mount", "zip-slip"],
    },
];

#[tokio::test]
async fn a_sandbox_that_was_weakened_is_reported_as_broken_where_it_is() {
    if !docker_is_there() {
        return;
    }
    futures_util::future::join_all(WEAKNESSES.map(is_found_out)).await;
}

async fn is_found_out(weakness: Weakness) {
    let home = Home::new();
    let proxy = Proxy::open(&home, weakness.weaken);
    let only = [weakness.broken, weakness.held].concat().join(",");
    let run = attack(&home, &proxy.socket, &["--profile", "live", "--only", &only]).await;
    let all = &run.attacks;
    let of = |verdict: &str| -> Vec<&str> {
        let names = all.iter().filter(|(_, (told, _))| told == verdict);
        names.map(|(name, _)| name.as_str()).collect()
    };
    let sorted = |names: &[&'static str]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    assert_eq!(
        of("broken"),
        sorted(weakness.broken),
        "{}: {all:#?}",
        weakness.what
    );
    assert_eq!(of("held"), sorted(weakness.held), "{}: {all:#?}", weakness.what);
    assert_eq!(run.code, 10, "{}", weakness.what);
}

/// An engine's socket that weakens every container that is asked for.
struct Proxy {
    socket: String,
    _connections: JoinSet<()>,
}

impl Proxy {
    fn open(home: &Home, weaken: fn(&mut Value)) -> Self {
        // Not in the home directory, which has to be empty afterwards; abstract names are no paths.
        let socket: PathBuf = home.path().with_extension("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                open.spawn(pass_on(client, weaken));
            }
        });
        Self {
            socket: socket.to_str().unwrap().to_owned(),
            _connections: connections,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// Passes one request on, and whatever follows as it is; a request for a container is changed.
async fn pass_on(mut client: UnixStream, weaken: fn(&mut Value)) {
    let mut engine = UnixStream::connect(SOCKET).await.unwrap();
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut headers: Vec<&str> = headers
        .split("\r\n")
        .filter(|header| !header.is_empty())
        .collect();
    let is = |header: &str, name: &str| header.to_lowercase().starts_with(name);
    let length = headers.iter().find_map(|header| {
        let value = is(header, "content-length:").then(|| header.split_once(':').unwrap().1)?;
        value.trim().parse::<usize>().ok()
    });
    let is_create = line.starts_with("POST ") && line.contains("/containers/create");
    if is_create {
        let length = length.expect("a request for a container has a length");
        while body.len() < length {
            assert_ne!(client.read_buf(&mut body).await.unwrap(), 0);
        }
        let mut request: Value = serde_json::from_slice(&body).unwrap();
        weaken(&mut request["HostConfig"]);
        body = request.to_string().into_bytes();
        headers.retain(|header| !is(header, "content-length:"));
    }
    let new_length = format!("Content-Length: {}", body.len());
    if is_create {
        headers.push(&new_length);
    }
    // One request for each connection, so that none passes unseen; a hijacked one stays what it becomes.
    if !headers.iter().any(|header| is(header, "upgrade:")) {
        headers.retain(|header| !is(header, "connection:"));
        headers.push("Connection: close");
    }
    let head = format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n"));
    engine.write_all(head.as_bytes()).await.unwrap();
    engine.write_all(&body).await.unwrap();
    // Either side may leave when it has heard enough.
    drop(copy_bidirectional(&mut client, &mut engine).await);
}

#[test]
fn an_attack_that_does_not_exist_is_a_usage_error_that_names_those_that_do() {
    let home = Home::new();
    let told = home.run(["executor", "check", "--attack", "--only", "mount,nothing"]);
    assert!(told.contains("exit code: 2"), "{told}");
    assert!(
        told.contains("there is no attack \"nothing\"") && told.contains("zip-slip"),
        "{told}"
    );
}

#[test]
fn an_attack_without_an_engine_says_so() {
    let home = Home::new();
    let mut command = home.horde(["executor", "check", "--attack"]);
    command.env(
        "HORDE_EXECUTOR_DOCKER_HOST",
        format!("unix://{}/no.sock", home.path().display()),
    );
    let told = home.told(&command.output().unwrap());
    assert!(
        told.contains("exit code: 6") && told.contains("Docker does not answer"),
        "{told}"
    );
}

#[tokio::test]
async fn an_interrupted_attack_leaves_nothing_behind() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let mut command = home.horde(["executor", "check", "--attack"]);
    command
        .env("HORDE_EXECUTOR_WORK_DIR", home.path())
        .env("HORDE_LOG_LEVEL", "error")
        .stderr(std::process::Stdio::piped());
    let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
    // The first job is announced after the image was made and before its container is.
    let mut said = Vec::new();
    let stderr = child.stderr.as_mut().unwrap();
    while !String::from_utf8_lossy(&said).contains("running") {
        assert_ne!(
            timeout(PATIENCE, stderr.read_buf(&mut said))
                .await
                .unwrap()
                .unwrap(),
            0
        );
    }
    // Well into the first jobs.
    let run = run_of(&home);
    let containers = |all: bool| {
        let filter = format!("label=horde.owner=horde-attack-{run}");
        let mut docker = Command::new("docker");
        docker.args(["ps", "--quiet", "--filter", &filter]);
        if all {
            docker.arg("--all");
        }
        docker
    };
    let is_running = async { while containers(false).output().await.unwrap().stdout.is_empty() {} };
    timeout(PATIENCE, is_running)
        .await
        .expect("a job of the attack runs");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = timeout(PATIENCE, child.wait())
        .await
        .expect("it ends in time")
        .unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(containers(true).output().await.unwrap().stdout.is_empty());
    let image = format!("horde-attack:{run}");
    let inspected = Command::new("docker")
        .args(["image", "inspect", &image])
        .output()
        .await
        .unwrap();
    assert!(!inspected.status.success(), "the image is left");
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "folders are left"
    );
}

/// Returns the name of the run that works in that directory.
fn run_of(home: &Home) -> String {
    let folder = std::fs::read_dir(home.path()).unwrap().next().unwrap().unwrap();
    let name = folder.file_name().into_string().unwrap();
    let rest = name.strip_prefix("horde-attack-").unwrap();
    rest.split_once('-').unwrap().0.to_owned()
}
