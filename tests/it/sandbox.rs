//! The container of a job: ordinary images work in it, and a job that takes more than its share ends in words.
//!
//! The images are made here, of a static busybox: one whose entry point is root's and installs itself, one that runs
//! as an ordinary user, one with a set-user-id helper, one that serves HTTP.

use std::io::Write as _;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use horde::core::docker::Engine;
use horde::core::docker::reference::ImageReference;
use serde_json::{Value, json};

use crate::executor::{AMPLE, Miner, Session, engine, initial, job, kind_of};

/// How many jobs run side by side.
const SIDE_BY_SIDE: usize = 3;

/// What the entry point of the installing image does. Each step fails without the right beside it.
const ENTRYPOINT: &str = r"#!/bin/sh
set -e
test $(id -u) = 0
echo installed >/etc/app.conf                          # a root that can be written to
cp /bin/busybox /usr/local/bin/busybox-tool                    # what an installer does
chmod 755 /usr/local/bin/busybox-tool; chown app:app /usr/local/bin/busybox-tool; chown root /usr/local/bin/busybox-tool
mkdir -p /srv/data && chown -R app:app /srv/data       # CHOWN
chmod 700 /srv/data                                    # FOWNER: it is not root's any more
echo x >/srv/data/roots                                # DAC_OVERRIDE
touch /srv/data/apps && chown app:app /srv/data/apps
chmod g+s /srv/data && test -g /srv/data               # FSETID
chmod 2755 /srv/data/apps && test -g /srv/data/apps    # FSETID, for a group that is not root's
test $(su app -c 'id -u') = 1000                       # SETUID, SETGID
su app -c 'sleep 60' &
sleep 0.3; worker=$(ps -o pid,user,args | grep 'sleep 6[0]' | awk '{print $1}')
kill $worker                                           # KILL: it is another user's
busybox-tool echo $(cat /etc/app.conf) as $(id -un)
";

/// An image of the corpus.
struct Image {
    name: &'static str,
    changes: &'static [&'static str],
}

const ROOT: Image = Image {
    name: "horde-test-sandbox-root:1",
    changes: &["ENTRYPOINT [\"/entrypoint.sh\"]"],
};
const USER: Image = Image {
    name: "horde-test-sandbox-user:1",
    changes: &["USER 1000:1000", "WORKDIR /home/app", "ENV HOME=/home/app"],
};
const PLAIN: Image = Image {
    name: "horde-test-sandbox-plain:1",
    changes: &["CMD [\"sh\"]"],
};

/// Makes the images that are not there yet.
async fn make_images(engine: &dyn Engine) {
    let lock = std::fs::File::create(std::env::temp_dir().join("horde-test-sandbox.lock")).unwrap();
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .unwrap()
        .unwrap();
    for image in [ROOT, USER, PLAIN] {
        let reference = ImageReference::parse(image.name).unwrap();
        if engine.find_image(&reference).await.unwrap().is_none() {
            let changes = image.changes.iter().map(|change| (*change).to_owned()).collect();
            let file = tokio::fs::File::from_std(root_fs());
            engine.import(file, &reference, changes).await.unwrap();
        }
    }
    drop(lock);
}

/// Writes the root file system that all images share.
fn root_fs() -> std::fs::File {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap();
    let mut root = tar::Builder::new(tempfile::tempfile().unwrap());
    let mut put = |path: &str, mode: u32, owner: u64, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(bytes.len() as u64);
        root.append_data(&mut header, path, bytes).unwrap();
    };
    let file = tar::EntryType::Regular;
    put("bin/busybox", 0o755, 0, file, &busybox);
    put("bin/busybox-suid", 0o4755, 0, file, &busybox);
    put("entrypoint.sh", 0o755, 0, file, ENTRYPOINT.as_bytes());
    put(
        "etc/passwd",
        0o644,
        0,
        file,
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    );
    put("etc/group", 0o644, 0, file, b"root:x:0:\napp:x:1000:\n");
    put("srv/health", 0o644, 0, file, b"healthy");
    for (path, mode, owner) in [
        ("usr/local/bin/", 0o755, 0),
        ("tmp/", 0o1777, 0),
        ("home/app/", 0o755, 1000),
    ] {
        put(path, mode, owner, tar::EntryType::Directory, b"");
    }
    let names = "sh id test mkdir cp chown chmod touch su sleep ps grep awk kill echo cat head tail dd httpd wget \
                 seq true yes ls env";
    for name in names.split_whitespace() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        root.append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    let mut file = root.into_inner().unwrap();
    file.flush().unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

/// Runs one job and returns what the executor said last.
async fn run(
    engine: &dyn Engine,
    image: &Image,
    command: &[&str],
    extra: &[(&str, &str)],
    change: impl FnOnce(&mut Value, &mut Value),
) -> Value {
    let mut miner = Miner::start().await;
    let mut session = Session::start(&mut miner, extra).await;
    let mut initial = initial(json!(null), AMPLE);
    let mut job = job(&initial, command);
    job["docker_image"] = json!(image.name);
    change(&mut initial, &mut job);
    session.send(&initial).await;
    assert_eq!(kind_of(&session.next().await.unwrap()), "V0ExecutorReadyRequest");
    session.send(&job).await;
    let said = session.rest().await;
    assert!(session.end(engine).await.success());
    said.last().unwrap().clone()
}

fn unchanged(_: &mut Value, _: &mut Value) {}

const STRICT: [(&str, &str); 1] = [("HORDE_EXECUTOR_PROFILE", "strict")];

/// What a program in a container sees of its own rights.
const RIGHTS: &str = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; echo $HOME";

/// What a web server does for its client.
const SERVE: &str = "httpd -p 8000 -h /srv && sleep 0.2 && wget -q -O - http://127.0.0.1:8000/health";

/// What an ordinary user's job does, wherever it is allowed.
const WORK: &str = "set -e; echo a >/output/a; echo b >/volume/b; echo c >/artifacts/c; echo d >/tmp/d; \
                    echo e >$HOME/e; echo f >/dev/shm/f; cat /output/a /volume/b /artifacts/c /tmp/d $HOME/e";

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_images_work_under_live() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    let artifacts = |_: &mut Value, job: &mut Value| job["artifacts_dir"] = json!("/artifacts");
    let finished = run(&*engine, &ROOT, &[], &[], unchanged).await;
    assert_eq!(
        finished["docker_process_stdout"], "installed as root\n",
        "{finished}"
    );
    let finished = run(&*engine, &USER, &["sh", "-c", WORK], &[], artifacts).await;
    assert_eq!(finished["docker_process_stdout"], "a\nb\nc\nd\ne\n", "{finished}");
    assert_eq!(finished["artifacts"]["/artifacts/c"], "Ywo=");
    let finished = run(&*engine, &PLAIN, &["sh", "-c", SERVE], &[], unchanged).await;
    assert_eq!(finished["docker_process_stdout"], "healthy", "{finished}");
    // The seven capabilities of the table, and no other, for root and for nobody else.
    let finished = run(&*engine, &PLAIN, &["sh", "-c", RIGHTS], &[], unchanged).await;
    assert_eq!(
        finished["docker_process_stdout"],
        "0\nCapEff:\t00000000000000fb\nCapBnd:\t00000000000000fb\nNoNewPrivs:\t1\nSeccomp:\t2\n/root\n",
        "{finished}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_user_id_helper_gives_nothing_under_either_profile() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    for extra in [&[][..], &STRICT] {
        let failed = run(
            &*engine,
            &USER,
            &["/bin/busybox-suid", "su", "-c", "id"],
            extra,
            unchanged,
        )
        .await;
        assert_eq!(kind_of(&failed), "V0JobFailedRequest", "{failed}");
        let stderr = failed["docker_process_stderr"].as_str().unwrap();
        assert!(stderr.contains("must be suid"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_job_has_its_folders_a_user_of_its_own_and_no_right() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    let artifacts = |_: &mut Value, job: &mut Value| job["artifacts_dir"] = json!("/artifacts");
    let work = ["sh", "-c", WORK];
    for image in [&USER, &PLAIN] {
        let change = |_: &mut Value, job: &mut Value| {
            job["artifacts_dir"] = json!("/artifacts");
            job["env"] = json!({ "HOME": "/home/job" });
        };
        let finished = run(&*engine, image, &work, &STRICT, change).await;
        assert_eq!(finished["docker_process_stdout"], "a\nb\nc\nd\ne\n", "{finished}");
        assert_eq!(finished["artifacts"]["/artifacts/c"], "Ywo=");
    }
    let mut users = Vec::new();
    for _ in 0..2 {
        let finished = run(&*engine, &PLAIN, &["sh", "-c", RIGHTS], &STRICT, artifacts).await;
        let stdout = finished["docker_process_stdout"].as_str().unwrap().to_owned();
        let (user, rights) = stdout.split_once('\n').unwrap();
        assert!(user.parse::<u32>().unwrap() >= 20_000, "{stdout}");
        assert_eq!(
            rights,
            "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n/home/job\n"
        );
        users.push(user.to_owned());
    }
    assert_ne!(users[0], users[1]);
    let finished = run(&*engine, &PLAIN, &["sh", "-c", SERVE], &STRICT, unchanged).await;
    assert_eq!(finished["docker_process_stdout"], "healthy", "{finished}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_needs_more_than_strict_gives_is_told_what_was_missing() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    for (command, right, evidence) in [
        ("echo x >/etc/app.conf", "write_root", "Read-only file system"),
        ("chown 1:1 /tmp", "capability", "Operation not permitted"),
        (
            "dd if=/dev/zero of=/run/x bs=1M count=64",
            "space",
            "No space left on device",
        ),
    ] {
        let extra = [STRICT[0], ("HORDE_EXECUTOR_MEMORY_BYTES", "268435456")];
        let failed = run(&*engine, &PLAIN, &["sh", "-c", command], &extra, unchanged).await;
        assert_eq!(failed["reason"], "nonzero_return_code", "{failed}");
        let context = &failed["context"];
        assert_eq!(context["missing_right"], right, "{failed}");
        assert_eq!(context["profile"], "strict");
        assert!(
            context["evidence"].as_str().unwrap().contains(evidence),
            "{failed}"
        );
        let words = context["explanation"].as_str().unwrap();
        assert!(words.contains("under the profile strict a job has"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_engine_cannot_give_is_told_with_what_was_missing() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    // More files than the kernel lets any process have.
    let many = [("HORDE_EXECUTOR_NOFILE_MAX", "1073741824")];
    let failed = run(&*engine, &PLAIN, &["true"], &many, unchanged).await;
    assert_eq!(kind_of(&failed), "V0HordeFailedRequest", "{failed}");
    assert_eq!(failed["context"]["missing_right"], "open_files", "{failed}");
    if engine.info().await.unwrap().runtimes.contains_key("nvidia") {
        return;
    }
    let gpus = |_: &mut Value, job: &mut Value| job["docker_run_options_preset"] = json!("nvidia_all");
    let real = [("DEBUG_NO_GPU_MODE", "0")];
    let failed = run(&*engine, &PLAIN, &["true"], &real, gpus).await;
    assert_eq!(failed["reason"], "unhandled_exception", "{failed}");
    assert_eq!(failed["context"]["missing_right"], "gpu", "{failed}");
}

/// A job that takes more than its share, and what is said of it.
struct Greedy {
    script: &'static str,
    extra: (&'static str, &'static str),
    reason: &'static str,
    words: &'static str,
    /// What the context names: a bound that was seen to be met, or one that the error output speaks of.
    named: &'static str,
}

const GREEDY: [Greedy; 6] = [
    Greedy {
        script: "tail /dev/zero",
        extra: ("HORDE_EXECUTOR_MEMORY_BYTES", "67108864"),
        reason: "nonzero_return_code",
        words: "the job ran out of memory: its limit is 64 MiB, without swap",
        named: "memory",
    },
    Greedy {
        script: "dd if=/dev/zero of=/big bs=1M count=80; sleep 60",
        extra: ("HORDE_EXECUTOR_DISK_BYTES", "67108864"),
        reason: "nonzero_return_code",
        words: "the job used more disk than 64 MiB",
        named: "disk",
    },
    Greedy {
        script: "dd if=/dev/zero of=/big bs=1M count=40; dd if=/dev/zero of=/output/big bs=1M count=40; sleep 60",
        extra: ("HORDE_EXECUTOR_DISK_BYTES", "67108864"),
        reason: "nonzero_return_code",
        words: "the job used more disk than 64 MiB",
        named: "disk",
    },
    Greedy {
        script: "dd if=/dev/zero of=/dev/shm/big bs=1M",
        extra: ("HORDE_EXECUTOR_SHM_BYTES", "8388608"),
        reason: "nonzero_return_code",
        words: "exit code: 1",
        named: "space",
    },
    Greedy {
        // Its first process makes no other after the bomb, so that it is not the one that is refused.
        script: "bomb() { bomb | bomb & }; bomb & exec sleep 60",
        extra: ("HORDE_EXECUTOR_PIDS_MAX", "64"),
        reason: "timeout",
        words: "Execution time exceeded",
        named: "processes",
    },
    Greedy {
        script: "for n in $(seq 200); do sleep 3 & done; wait",
        extra: ("HORDE_EXECUTOR_PIDS_MAX", "64"),
        reason: "nonzero_return_code",
        words: "exit code: 2",
        named: "processes",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_job_ends_in_words_and_the_next_one_runs() {
    let Some(engine) = engine().await else { return };
    make_images(&*engine).await;
    let play = |greedy: Greedy| {
        let engine = Arc::clone(&engine);
        async move {
            let is_timeout = greedy.reason == "timeout";
            let change = |initial: &mut Value, _: &mut Value| {
                if is_timeout {
                    initial["executor_timing"]["allowed_leeway"] = json!(0);
                    initial["executor_timing"]["download_time_limit"] = json!(4);
                    initial["executor_timing"]["execution_time_limit"] = json!(1);
                }
            };
            let command = ["sh", "-c", greedy.script];
            let failed = run(&*engine, &PLAIN, &command, &[greedy.extra], change).await;
            assert_eq!(failed["reason"], greedy.reason, "{failed}");
            let message = failed["message"].as_str().unwrap();
            assert!(message.contains(greedy.words), "{failed}");
            let context = &failed["context"];
            let is_named = |key: &str| context[key] == greedy.named;
            assert!(is_named("limit") || is_named("missing_right"), "{failed}");
        }
    };
    stream::iter(GREEDY)
        .map(play)
        .buffer_unordered(SIDE_BY_SIDE)
        .collect::<Vec<()>>()
        .await;
    let next = run(&*engine, &PLAIN, &["echo", "fine"], &[], unchanged).await;
    assert_eq!(next["docker_process_stdout"], "fine\n");
}
