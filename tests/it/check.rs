//! `horde executor check` and `horde executor specs` on this very machine.

use std::path::PathBuf;
use std::process::Output;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, routing::any};
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::support::{Home, docker_is_there};

/// Plays an engine that tells what it is and can do nothing else; returns its socket, which lies in `home`.
///
/// `change` may make it weaker than it is: a current one, with all limits and filters, and the NVIDIA runtime.
pub(crate) fn weak_engine(home: &Home, change: impl FnOnce(&mut Value, &mut Value)) -> PathBuf {
    let mut version = json!({
        "Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24",
        "Components": [
            { "Name": "Engine", "Version": "28.5.2" },
            { "Name": "containerd", "Version": "v1.7.29", "Details": { "GitCommit": "442cb34" } },
            { "Name": "runc", "Version": "1.3.3", "Details": { "GitCommit": "v1.3.3-0-gd842d771" } },
        ],
    });
    let mut info = json!({
        "CgroupVersion": "2", "MemoryLimit": true, "SwapLimit": true, "PidsLimit": true, "CpuCfsQuota": true,
        "SecurityOptions": ["name=seccomp,profile=builtin"], "MemTotal": 8_589_934_592_u64, "NCPU": 4,
        "Runtimes": { "runc": { "path": "runc" }, "nvidia": { "path": "nvidia-container-runtime" } },
        "DefaultRuntime": "runc", "OperatingSystem": "Somewhere Linux",
    });
    change(&mut version, &mut info);
    let answer = move |uri: Uri| async move {
        match uri.path().rsplit('/').next() {
            Some("version") => Json(version).into_response(),
            Some("info") => Json(info).into_response(),
            _ => no_such_thing(),
        }
    };
    let socket = home.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let app = Router::new().fallback(any(answer));
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    socket
}

fn no_such_thing() -> Response {
    let message = json!({ "message": "no such thing" });
    (StatusCode::NOT_FOUND, Json(message)).into_response()
}

fn checks(output: &Output) -> Vec<Value> {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["checks"].as_array().unwrap().clone()
}

fn failed(checks: &[Value]) -> Vec<&str> {
    let failed = checks.iter().filter(|check| check["status"] == "failed");
    failed.map(|check| check["check"].as_str().unwrap()).collect()
}

#[test]
fn a_machine_without_docker_fails_its_check_with_a_remedy() {
    let home = Home::new();
    let output = home
        .horde(["executor", "check", "--json"])
        .env("HORDE_EXECUTOR_DOCKER_HOST", "unix:///no/such.sock")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", home.told(&output));
    let checks = checks(&output);
    assert_eq!(failed(&checks), ["docker"]);
    assert!(checks[0]["actual"].as_str().unwrap().contains("/no/such.sock"));
    assert!(!checks[0]["remedy"].as_str().unwrap().is_empty());
}

/// Whatever this machine is, the exit code follows from what is printed, and accepting what failed changes both.
#[test]
fn every_check_is_told_and_a_failed_one_can_be_accepted_by_name() {
    if !docker_is_there() {
        return;
    }
    let home = Home::new();
    let run = |accept: &str| {
        let mut command = home.horde(["executor", "check", "--json"]);
        command.env("HORDE_EXECUTOR_ACCEPT", accept).output().unwrap()
    };
    let output = run("");
    let found = checks(&output);
    let wanted = if failed(&found).is_empty() { 0 } else { 10 };
    assert_eq!(output.status.code(), Some(wanted), "{}", home.told(&output));
    let names: Vec<_> = found
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    for name in [
        "CVE-2022-0492",
        "CVE-2025-31133",
        "CVE-2024-25621",
        "seccomp",
        "limits",
        "docker",
        "cgroup",
        "work-dir",
        "disk",
        "image",
        "user-namespace",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for check in &found {
        for field in ["status", "actual", "required", "purpose", "remedy"] {
            assert!(!check[field].as_str().unwrap().is_empty(), "{field} of {check}");
        }
    }
    let vulnerabilities: Vec<_> = failed(&found)
        .into_iter()
        .filter(|name| name.starts_with("CVE-"))
        .collect();
    let accepted = checks(&run(&vulnerabilities.join(",")));
    for check in &accepted {
        let name = check["check"].as_str().unwrap();
        if vulnerabilities.contains(&name) {
            assert_eq!(check["status"], "accepted", "{check}");
        }
    }
    let left: Vec<_> = failed(&found)
        .into_iter()
        .filter(|name| !name.starts_with("CVE-"))
        .collect();
    assert_eq!(failed(&accepted), left);
    let text = home.run(["executor", "check"]);
    for name in names {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[test]
fn the_machine_is_described_in_the_words_of_the_wire() {
    let home = Home::new();
    let output = home.horde(["executor", "specs", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", home.told(&output));
    let specs: Value = serde_json::from_slice(&output.stdout).unwrap();
    for section in ["gpu", "cpu", "ram", "hard_disk", "os"] {
        assert!(!specs[section].is_null(), "{section} in {specs}");
    }
}

/// What `executor check` says of an engine that the test plays, with more arguments and variables.
async fn played(
    change: impl FnOnce(&mut Value, &mut Value),
    more: &[&str],
    accept: &str,
) -> (Option<i32>, Vec<Value>) {
    let home = Home::new();
    let socket = weak_engine(&home, change);
    let mut command = home.horde([&["executor", "check", "--json"], more].concat());
    command
        .env(
            "HORDE_EXECUTOR_DOCKER_HOST",
            format!("unix://{}", socket.display()),
        )
        .env("HORDE_EXECUTOR_ACCEPT", accept);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    (output.status.code(), checks(&output))
}

fn find<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["check"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_runc_or_a_missing_filter_fails_the_check_with_words() {
    let (_, found) = played(|_, _| {}, &[], "").await;
    for name in ["CVE-2025-31133", "CVE-2024-25621", "seccomp", "limits"] {
        assert_eq!(find(&found, name)["status"], "held", "{name}");
    }
    let outdate = |version: &mut Value, info: &mut Value| {
        version["Components"][2]["Version"] = json!("1.2.4");
        info["SecurityOptions"] = json!([]);
        info["PidsLimit"] = json!(false);
    };
    let (code, found) = played(outdate, &[], "").await;
    assert_eq!(code, Some(10));
    let runc = find(&found, "CVE-2025-31133");
    assert_eq!(
        (&runc["status"], &runc["actual"]),
        (&json!("failed"), &json!("runc 1.2.4"))
    );
    assert_eq!(
        runc["cves"],
        json!(["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"])
    );
    assert_eq!(find(&found, "seccomp")["status"], "failed");
    assert!(
        find(&found, "limits")["actual"]
            .as_str()
            .unwrap()
            .contains("processes")
    );
    let (_, found) = played(outdate, &[], "CVE-2025-31133,seccomp").await;
    assert_eq!(find(&found, "CVE-2025-31133")["status"], "accepted");
    assert_eq!(
        find(&found, "seccomp")["status"],
        "failed",
        "only a vulnerability can be accepted"
    );
}

/// The NVIDIA runtime that the engine names is where the toolkit is asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_toolkit_that_the_reference_takes_fails_and_a_fixed_one_holds() {
    use std::os::unix::fs::PermissionsExt;
    for (version, status) in [("1.17.4", "failed"), ("1.17.8", "held")] {
        let toolkit = Home::new();
        let words = format!("#!/bin/sh\necho NVIDIA Container Toolkit CLI version {version}\n");
        let program = toolkit.write("nvidia-ctk", &words);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = toolkit.path().join("nvidia-container-runtime");
        let point = move |_: &mut Value, info: &mut Value| {
            info["Runtimes"]["nvidia"]["path"] = json!(runtime);
        };
        let (code, found) = played(point, &["--gpu"], "").await;
        assert_eq!(find(&found, "CVE-2025-23266")["status"], status, "{version}");
        assert_eq!(find(&found, "nvidia-runtime")["status"], "held");
        // This machine may have a GPU.
        if find(&found, "gpu")["status"] == "failed" {
            assert_eq!(code, Some(10));
        }
    }
}
