//! The door's own tests; and a property over all messages: none reaches what a container may do to its host.

use std::path::Path;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig, MountType};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::container::{Identity, plan};
use super::machine::{Effect, Event, Fault, Machine};
use super::workspace::Workspace;
use super::{endpoint, is_token};
use crate::core::docker::ImageId;
use crate::core::docker::limits::{Preset, container_body};
use crate::core::docker::profile::is_the_runtimes;
use crate::core::docker::sandbox::Sandbox;
use crate::core::docker::sandbox::tests::{engine, wishes};
use crate::core::model::Profile;
use crate::core::model::job::RunPreset;
use crate::core::proto::job::FullJob;
use crate::core::proto::miner_executor::Down;

const JOB: &str = "e4227db4-f18c-4ed9-8c9b-a74762c585f6";

/// What capabilities a job may have at most; a longer list is a decision that this test wants to see.
const CAPABILITIES_MAX: [&str; 7] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
];

/// The variables by which the NVIDIA runtime is told what a container gets.
const FORCED: [&str; 6] = [
    "NVIDIA_VISIBLE_DEVICES=",
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "NVIDIA_GDS=disabled",
    "NVIDIA_MOFED=disabled",
    "NVIDIA_NVSWITCH=disabled",
    "NVIDIA_GDRCOPY=disabled",
];

/// Any text, and the texts that would hurt if they got through.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "",
            "/",
            "--privileged",
            "/var/run/docker.sock:/var/run/docker.sock",
            "host",
            "seccomp=unconfined",
            "a:b",
            "x\0y",
            "container:other",
        ])
        .prop_map(str::to_owned),
    ]
}

fn variable() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "NVIDIA_VISIBLE_DEVICES",
            "NVIDIA_VISIBLE_DEVICES=all",
            "NVIDIA_DRIVER_CAPABILITIES",
            "NVIDIA_GDS",
            "NVIDIA_MOFED",
            "NVIDIA_IMEX_CHANNELS",
            "NVIDIA_REQUIRE_CUDA",
            "LD_PRELOAD",
            "HOME",
            "",
            "=",
        ])
        .prop_map(str::to_owned),
    ]
}

fn folder() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        any::<String>().prop_map(Some),
        prop::sample::select(vec![
            "",
            "/",
            "/artifacts/",
            "/output",
            "/volume/x",
            "/proc/sys",
            "/sys",
            "/dev/shm",
            "/tmp",
            "/home/job",
            "/script.py",
            "../up",
            "/a/../..",
        ])
        .prop_map(|path| Some(path.to_owned())),
    ]
}

fn volume() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        text().prop_map(|url| json!({ "volume_type": "zip_url", "contents": url, "relative_path": url })),
        text().prop_map(|url| json!({ "volume_type": "single_file", "url": url, "relative_path": url })),
    ]
}

fn upload() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        text().prop_map(|url| json!({ "output_upload_type": "zip_and_http_put", "url": url })),
    ]
}

/// Keys that no message has, named as an engine or a sandbox would name them.
fn smuggled() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        text().prop_map(|text| json!({
            "HostConfig": { "Privileged": true }, "host_config": { "privileged": true }, "privileged": true,
            "cap_add": ["SYS_ADMIN"], "network": text, "sandbox": { "profile": text }, "user": text,
        })),
    ]
}

fn full_job() -> impl Strategy<Value = Value> {
    let what = (
        text(),
        proptest::option::of(text()),
        prop::sample::select(vec!["none", "nvidia_all"]),
        prop::collection::vec(text(), 0..4),
        prop::collection::vec((variable(), text()), 0..5),
    );
    (what, volume(), upload(), folder(), smuggled()).prop_map(
        |((image, script, preset, command, env), volume, upload, artifacts, smuggled)| {
            let env: serde_json::Map<String, Value> = env
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect();
            let mut message = json!({
                "message_type": "V0JobRequest", "job_uuid": JOB, "executor_class": "always_on.test",
                "docker_image": image, "raw_script": script, "docker_run_options_preset": preset,
                "docker_run_cmd": command, "env": env, "volume": volume, "output_upload": upload,
                "artifacts_dir": artifacts,
            });
            let smuggled = smuggled.as_object().cloned().unwrap_or_default();
            message.as_object_mut().unwrap().extend(smuggled);
            message
        },
    )
}

fn initial_job() -> impl Strategy<Value = Value> {
    (proptest::option::of(text()), smuggled(), any::<i64>()).prop_map(|(image, smuggled, limit)| {
        let mut message = json!({
            "message_type": "V0InitialJobRequest", "job_uuid": JOB, "executor_class": "always_on.test",
            "docker_image": image, "timeout_seconds": null, "volume": null,
            "job_started_receipt_payload": {
                "receipt_type": "JobStartedReceipt", "job_uuid": JOB, "miner_hotkey": "m", "validator_hotkey": "v",
                "timestamp": "2026-11-22T08:58:34.647364Z", "executor_class": "always_on.test", "is_organic": true,
                "ttl": 30,
            },
            "job_started_receipt_signature": "0x00", "streaming_details": null,
            "executor_timing": {
                "allowed_leeway": 2, "download_time_limit": limit.max(1), "execution_time_limit": limit,
                "upload_time_limit": limit, "streaming_start_time_limit": limit,
            },
        });
        let smuggled = smuggled.as_object().cloned().unwrap_or_default();
        message.as_object_mut().unwrap().extend(smuggled);
        message
    })
}

/// Returns the order as the machine hands it on; none when it is refused.
fn ordered(initial: &Value, full: &Value) -> Option<Box<FullJob>> {
    let now = Instant::now();
    let mut machine = Machine::new(now, Duration::from_secs(5), "ws://m");
    let told =
        |message: &Value| Down::decode(&message.to_string()).map(|message| Event::Message(Box::new(message)));
    machine.on(now, told(initial).unwrap());
    machine.on(now, Event::Prepared(Ok(())));
    let effects = machine.on(now, told(full).unwrap());
    effects.into_iter().find_map(|effect| match effect {
        Effect::Create(job) => Some(job),
        _ => None,
    })
}

fn identity() -> Identity {
    Identity {
        owner: "o".to_owned(),
        token: "t".to_owned(),
        no_gpu: false,
        streaming_port: 6006,
    }
}

/// Returns the request to the engine; none when the order is refused.
fn body_of(job: &FullJob, workspace: &Workspace, sandbox: &Sandbox) -> Option<ContainerCreateBody> {
    let image = ImageId::new("sha256:00");
    match plan(job, image, &identity(), workspace, sandbox) {
        Ok(spec) => Some(container_body(&spec)),
        Err(Fault::Refused(_)) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// What must hold of every job's container, whatever was asked for.
fn check_host(host: &HostConfig, profile: Profile, has_gpus: bool) {
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.publish_all_ports, Some(false));
    assert_eq!(host.port_bindings, None);
    assert_eq!(
        (&host.pid_mode, &host.uts_mode, &host.userns_mode),
        (&None, &None, &None)
    );
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert_eq!(
        host.cgroupns_mode.map(|mode| mode.to_string()).as_deref(),
        Some("private")
    );
    assert_eq!((&host.cgroup, &host.cgroup_parent), (&None, &None));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    for name in host.cap_add.as_ref().unwrap() {
        assert!(
            profile == Profile::Live && CAPABILITIES_MAX.contains(&name.as_str()),
            "{name}"
        );
    }
    let options = host.security_opt.as_ref().unwrap();
    assert!(options.contains(&"no-new-privileges:true".to_owned()));
    assert!(options.contains(&"seccomp=builtin".to_owned()));
    assert_eq!(options.len(), 2);
    assert_eq!(host.readonly_rootfs, Some(profile == Profile::Strict));
    assert_eq!((&host.masked_paths, &host.readonly_paths), (&None, &None));
    assert_eq!(host.devices, Some(Vec::new()));
    assert_eq!(host.device_cgroup_rules, None);
    assert_eq!(
        host.device_requests.as_ref().unwrap().len(),
        usize::from(has_gpus)
    );
    assert_eq!(host.runtime.as_deref(), has_gpus.then_some("nvidia"));
    assert!(host.memory.unwrap() > 0);
    assert_eq!(host.memory_swap, host.memory);
    assert_eq!(host.oom_kill_disable, Some(false));
    assert!(host.oom_score_adj.unwrap() > 0);
    assert!(host.pids_limit.unwrap() > 0 && host.shm_size.unwrap() > 0 && host.nano_cpus.unwrap() > 0);
    assert!(host.cpu_shares.unwrap() < 1024);
    let limits = host.ulimits.as_ref().unwrap();
    let hard = |name: &str| {
        limits
            .iter()
            .find(|limit| limit.name.as_deref() == Some(name))?
            .hard
    };
    assert!(hard("nofile").unwrap() > 0);
    assert_eq!(hard("core"), Some(0));
    assert_eq!(
        (&host.binds, &host.volumes_from, &host.links),
        (&None, &None, &None)
    );
    assert_eq!(
        (&host.dns, &host.extra_hosts, &host.group_add),
        (&None, &None, &None)
    );
    assert_eq!(
        (&host.sysctls, &host.init, &host.restart_policy),
        (&None, &None, &None)
    );
    assert_eq!(host.log_config.as_ref().unwrap().typ.as_deref(), Some("none"));
    assert_eq!(host.auto_remove, Some(false));
}

fn check_mounts(host: &HostConfig, workspace: &Workspace) {
    let root = workspace.volume();
    let root = root.parent().unwrap();
    let mut targets = Vec::new();
    for mount in host.mounts.as_ref().unwrap() {
        assert_eq!(mount.typ, Some(MountType::BIND));
        let source = Path::new(mount.source.as_deref().unwrap());
        assert_eq!(source.parent(), Some(root), "{source:?}");
        assert_ne!(source, workspace.scratch());
        let target = mount.target.as_deref().unwrap();
        assert!(
            target.starts_with('/') && target.len() > 1 && !target.contains("/../"),
            "{target}"
        );
        for reserved in ["/proc", "/sys", "/dev"] {
            assert!(
                target != reserved && !target.starts_with(&format!("{reserved}/")),
                "{target}"
            );
        }
        targets.push(target);
    }
    for folder in host.tmpfs.iter().flatten() {
        assert!(folder.1.contains("nosuid,nodev,size="), "{folder:?}");
        targets.push(folder.0);
    }
    let count = targets.len();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets.len(), count, "two things are mounted at one place");
}

fn check_rest(body: &ContainerCreateBody, profile: Profile, preset: Preset) {
    assert_eq!(body.image.as_deref(), Some("sha256:00"));
    match (&body.user, profile) {
        (None, Profile::Live) => {}
        (Some(user), Profile::Strict) => {
            let (user, group) = user.split_once(':').unwrap();
            assert!(user.parse::<u32>().unwrap() >= 20_000 && user == group);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        (&body.entrypoint, &body.volumes, &body.networking_config),
        (&None, &None, &None)
    );
    assert_eq!(
        (&body.hostname, &body.working_dir, &body.exposed_ports),
        (&None, &None, &None)
    );
    let theirs = body.env.iter().flatten().filter(|text| is_the_runtimes(text));
    let wanted = if preset == Preset::None { 1 } else { FORCED.len() };
    let theirs: Vec<&String> = theirs.collect();
    assert_eq!(theirs.len(), wanted, "{theirs:?}");
    for (text, forced) in theirs.into_iter().zip(FORCED) {
        assert!(text.starts_with(forced), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_message_weakens_a_container(initial in initial_job(), full in full_job()) {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(folder.path()).unwrap();
        if let Some(job) = ordered(&initial, &full) {
            for profile in [Profile::Live, Profile::Strict] {
                let sandbox = Sandbox::fit(&wishes(profile), &engine(), "t").unwrap();
                let preset = match job.docker_run_options_preset {
                    RunPreset::None => Preset::None,
                    RunPreset::NvidiaAll => Preset::NvidiaAll,
                };
                let Some(mut body) = body_of(&job, &workspace, &sandbox) else { continue };
                check_rest(&body, profile, preset);
                let mut host = body.host_config.take().unwrap();
                check_host(&host, profile, preset == Preset::NvidiaAll);
                check_mounts(&host, &workspace);
                // Beyond the mounts nothing differs from what any other job of the preset gets.
                let plain = FullJob {
                    raw_script: None,
                    artifacts_dir: None,
                    env: indexmap::IndexMap::new(),
                    docker_run_cmd: Vec::new(),
                    ..*job.clone()
                };
                let mut other = body_of(&plain, &workspace, &sandbox).unwrap().host_config.unwrap();
                for host in [&mut host, &mut other] {
                    host.mounts = None;
                    host.tmpfs = None;
                }
                prop_assert_eq!(host, other);
            }
        }
    }
}

#[test]
fn an_ordinary_order_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Workspace::create(folder.path()).unwrap();
    let full = json!({
        "message_type": "V0JobRequest", "job_uuid": JOB, "executor_class": "always_on.test", "docker_image": "bb:1",
        "docker_run_options_preset": "nvidia_all", "docker_run_cmd": ["echo"], "env": { "A": "b" },
        "artifacts_dir": "/tmp",
    });
    let job = match Down::decode(&full.to_string()).unwrap() {
        Down::FullJob(job) => job,
        other => panic!("{other:?}"),
    };
    for profile in [Profile::Live, Profile::Strict] {
        let sandbox = Sandbox::fit(&wishes(profile), &engine(), "t").unwrap();
        let body = body_of(&job, &workspace, &sandbox).unwrap();
        assert!(body.env.unwrap().contains(&"A=b".to_owned()));
        assert_eq!(body.host_config.unwrap().mounts.unwrap().len(), 4);
    }
}

#[test]
fn an_address_without_a_scheme_is_plain_websocket() {
    for (address, wanted) in [
        ("127.0.0.1:8000", "ws://127.0.0.1:8000"),
        ("ws://172.17.0.1:8000/", "ws://172.17.0.1:8000"),
        ("wss://m", "wss://m"),
    ] {
        assert_eq!(endpoint(address), wanted);
    }
}

#[test]
fn a_token_that_could_name_another_endpoint_is_refused() {
    assert!(is_token(
        "1ec5cdf2-a14e-4214-83cd-23df60a49a5b-24b2ddab-c8dc-44e1-9931-1266bb7f78a2"
    ));
    for text in ["", "a/b", "a b", "a?b", "é", &"a".repeat(201)] {
        assert!(!is_token(text), "{text}");
    }
}
