//! What only the kernel may do: rights, namespaces, mounts, modules.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountFlags, UnmountFlags, fsopen, mount, mount_bind, mount_remount, unmount,
};
use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

use super::super::elf;
use super::super::probe::{Orders, Step};
use super::syscall::{Call, attempt as call, enter};
use super::{Refusal, found, let_pass, step};

/// Where things are mounted by an attacker that can.
const MOUNT_POINTS: [&str; 3] = ["/tmp", "/output", "/volume"];

/// A user of the container without any right.
const NOBODY: u32 = 65_534;

pub(super) fn attempt(name: &str, _orders: &Orders) -> Option<Vec<Step>> {
    let calls: &[(&str, Call)] = match name {
        "capabilities" => return Some(held_rights()),
        "raise-capabilities" => return Some(raise()),
        "setuid-binary" => return Some(setuid()),
        "no-new-privileges" => return Some(confinement()),
        "mount" => return Some(mounts()),
        "unshare" => &[
            ("unshare(CLONE_NEWUSER)", Call::UnshareUser),
            ("unshare(CLONE_NEWNS)", Call::UnshareMount),
            ("unshare(CLONE_NEWNET)", Call::UnshareNetwork),
            ("clone(CLONE_NEWUSER)", Call::CloneUser),
        ],
        "setns" => return Some(enter_namespaces()),
        "keyring" => &[
            ("keyctl", Call::Keyctl),
            ("add_key", Call::AddKey),
            ("request_key", Call::RequestKey),
        ],
        "bpf" => &[("bpf(BPF_PROG_LOAD)", Call::Bpf)],
        "userfaultfd" => &[("userfaultfd", Call::Userfaultfd)],
        "perf-events" => &[("perf_event_open", Call::PerfEventOpen)],
        "open-by-handle" => &[("open_by_handle_at", Call::OpenByHandleAt)],
        "kernel-modules" => &[
            ("init_module", Call::InitModule),
            ("delete_module", Call::DeleteModule),
        ],
        "kexec" => &[("kexec_load", Call::KexecLoad)],
        "reboot" => &[("reboot", Call::Reboot)],
        "clock" => &[("clock_settime", Call::ClockSettime)],
        "swap" => &[("swapoff", Call::Swapoff)],
        #[cfg(target_arch = "x86_64")]
        "io-ports" => &[("iopl(3)", Call::Iopl)],
        #[cfg(not(target_arch = "x86_64"))]
        "io-ports" => return Some(vec![step("iopl(3)", Err::<(), _>(Errno::NOSYS), "")]),
        "kernel-log" => &[("syslog(SYSLOG_ACTION_READ_ALL)", Call::Syslog)],
        "priority" => &[("setpriority(-20)", Call::Setpriority)],
        _ => return None,
    };
    let steps = calls
        .iter()
        .map(|(tried, wanted)| step(*tried, call(*wanted), "the kernel did it"));
    Some(steps.collect())
}

/// Lists the sets of rights that this process has, as the kernel writes them.
fn held_rights() -> Vec<Step> {
    vec![found(
        "/proc/self/status",
        status_lines(&["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]),
    )]
}

/// Lists whether rights can be gained, and whether system calls are filtered.
fn confinement() -> Vec<Step> {
    vec![found(
        "/proc/self/status",
        status_lines(&["NoNewPrivs", "Seccomp"]),
    )]
}

fn status_lines(keys: &[&str]) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = status.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        keys.contains(&key).then(|| format!("{key} {}", value.trim()))
    });
    wanted.collect()
}

/// Asks for every right at once, and for the one that is worth most in the set that survives an exec.
fn raise() -> Vec<Step> {
    let all = capabilities(None).and_then(|mut sets| {
        sets.permitted |= CapabilitySet::SYS_ADMIN;
        sets.effective |= CapabilitySet::SYS_ADMIN;
        set_capabilities(None, sets)
    });
    let ambient = configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true);
    vec![
        step("capset(CAP_SYS_ADMIN)", all, "the right was given"),
        step(
            "raise CAP_SYS_ADMIN in the ambient set",
            ambient,
            "the right was given",
        ),
    ]
}

/// Runs programs of root that carry the setuid bit, as a user who is not root.
fn setuid() -> Vec<Step> {
    let mut steps = vec![run_as_nobody(
        Path::new(elf::SETUID_PATH),
        "the image's setuid program",
    )];
    for folder in MOUNT_POINTS {
        let program = Path::new(folder).join("horde-attack-setuid");
        let tried = format!("a setuid program made in {folder}");
        let made = fs::write(&program, elf::tell_user())
            .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)));
        steps.push(match made {
            Ok(()) => run_as_nobody(&program, &tried),
            Err(error) => step(tried, Err::<(), _>(error), ""),
        });
        // In the container's own folders: gone with it anyway.
        let_pass(fs::remove_file(&program));
    }
    steps
}

fn run_as_nobody(program: &Path, tried: &str) -> Step {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.status().map(|status| status.code()) {
        Ok(Some(elf::IS_ROOT)) => step(tried, Ok::<(), Errno>(()), "it ran as root"),
        Ok(Some(_)) => step(tried, Err::<(), _>(Refusal("no gain".to_owned())), ""),
        Ok(None) => step(tried, Err::<(), _>(Refusal("killed".to_owned())), ""),
        Err(error) => step(tried, Err::<(), _>(error), ""),
    }
}

fn mounts() -> Vec<Step> {
    let target = "/tmp";
    let flags = MountFlags::empty();
    let undo = |result: rustix::io::Result<()>| {
        if result.is_ok() {
            // What was mounted by a broken sandbox goes with the container; the next attempt needs the place.
            let_pass(unmount(target, UnmountFlags::DETACH));
        }
        result
    };
    vec![
        step(
            "mount tmpfs",
            undo(mount("none", target, "tmpfs", flags, None)),
            "mounted",
        ),
        step(
            "mount proc",
            undo(mount("proc", target, "proc", flags, None)),
            "mounted",
        ),
        step(
            "mount sysfs",
            undo(mount("sysfs", target, "sysfs", flags, None)),
            "mounted",
        ),
        step(
            "mount a cgroup hierarchy",
            undo(mount("cgroup", target, "cgroup", flags, Some(c"rdma"))),
            "mounted",
        ),
        step(
            "mount cgroup2",
            undo(mount("none", target, "cgroup2", flags, None)),
            "mounted",
        ),
        step(
            "bind /proc elsewhere",
            undo(mount_bind("/proc", target)),
            "mounted",
        ),
        step(
            "remount /proc/sys for writing",
            mount_remount("/proc/sys", MountFlags::BIND, ""),
            "remounted",
        ),
        step(
            "remount /sys for writing",
            mount_remount("/sys", MountFlags::BIND, ""),
            "remounted",
        ),
        step(
            "lift the mask from /proc/kcore",
            unmount("/proc/kcore", UnmountFlags::DETACH),
            "unmasked",
        ),
        step(
            "fsopen(tmpfs)",
            fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC),
            "a file system to be mounted",
        ),
    ]
}

/// Enters namespaces of process 1: another process's, where those are shared.
fn enter_namespaces() -> Vec<Step> {
    ["mnt", "net", "pid", "user", "uts", "ipc"]
        .map(|kind| {
            let path = format!("/proc/1/ns/{kind}");
            let entered = fs::File::open(&path)
                .map_err(Refusal::from)
                .and_then(|namespace| enter(&namespace).map_err(Refusal::from));
            step(format!("setns {path}"), entered, "entered")
        })
        .to_vec()
}
