//! What of the host can be seen, opened or made: devices, settings, mounts, other processes.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::super::probe::{Got, Orders, Step};
use super::{Refusal, found, let_pass, step};

/// Settings of the kernel that a job has no business to change.
const SETTINGS: [&str; 6] = [
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward",
];

/// What holds memory or secrets of the kernel.
const MEMORY: [&str; 9] = [
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/dev/mem",
    "/dev/kmem",
    "/dev/kmsg",
];

/// Folders that tell about the machine and are covered in a container.
const MASKED_FOLDERS: [&str; 3] = ["/proc/acpi", "/proc/scsi", "/sys/firmware"];

/// Devices whose nodes an attacker makes: name, type, numbers of the kernel's list of devices.
const DEVICES: [(&str, FileType, u32, u32); 7] = [
    ("sda", FileType::BlockDevice, 8, 0),
    ("vda", FileType::BlockDevice, 252, 0),
    ("vdb", FileType::BlockDevice, 254, 0),
    ("nvme0n1", FileType::BlockDevice, 259, 0),
    ("mem", FileType::CharacterDevice, 1, 1),
    ("kmsg", FileType::CharacterDevice, 1, 11),
    ("fuse", FileType::CharacterDevice, 10, 229),
];

/// Folders in which nodes are made: the container's own and those of the host.
const NODE_FOLDERS: [&str; 3] = ["/tmp", "/output", "/dev"];

/// How many files of /sys are tried for writing.
const SYSFS_FILES_MAX: usize = 3000;

/// How many folders of it are looked into.
const SYSFS_FOLDERS_MAX: usize = 1500;

pub(super) fn attempt(name: &str, orders: &Orders) -> Option<Vec<Step>> {
    Some(match name {
        "namespaces" => vec![found("/proc/self/ns", namespaces())],
        "processes" => vec![found("/proc", foreign_processes(&orders.job))],
        "foreign-mounts" => vec![found("/proc/self/mountinfo", mounts())],
        "devices" => vec![found("/dev", names("/dev"))],
        "device-nodes" => nodes(),
        "kernel-settings" => SETTINGS.map(writes).to_vec(),
        "core-pattern" => vec![writes("/proc/sys/kernel/core_pattern")],
        "sysrq" => vec![writes("/proc/sysrq-trigger")],
        "kernel-memory" => MEMORY.map(reads).to_vec(),
        "masked-folders" => MASKED_FOLDERS.map(|folder| found(folder, names(folder))).to_vec(),
        "cgroup-escape" => cgroups(),
        "sysfs" => vec![sysfs()],
        "inherited-descriptors" => vec![found("/proc/self/fd", descriptors())],
        "host-files" => vec![
            reads(&orders.canary),
            reads(&format!("/proc/1/root{}", orders.canary)),
            writes(&orders.canary),
        ],
        _ => return None,
    })
}

/// Returns the names of this process's namespaces, such as `net:[4026532008]`.
pub(in super::super) fn namespaces() -> Vec<String> {
    ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).ok())
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Lists processes that are not of this job.
fn foreign_processes(job: &str) -> Vec<String> {
    let pids = names("/proc")
        .into_iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.filter_map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // A child of the attacker that has ended and was not waited for has no command line.
        let is_foreign = !command.contains(job) && !command.is_empty();
        is_foreign.then(|| format!("{pid}: {}", command.chars().take(60).collect::<String>()))
    })
    .collect()
}

/// Lists what is mounted where: `target source-root type`.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let root = fields.nth(3)?;
            let target = fields.next()?;
            let kind = line.split(" - ").nth(1)?.split_whitespace().next()?;
            Some(format!("{target} {root} {kind}"))
        })
        .collect()
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// Makes device nodes and opens them.
fn nodes() -> Vec<Step> {
    let mut steps = Vec::new();
    for folder in NODE_FOLDERS {
        for (name, kind, major, minor) in DEVICES {
            let path = Path::new(folder).join(format!("horde-attack-{name}"));
            let mode = Mode::RUSR | Mode::WUSR;
            let tried = format!("make {name} in {folder} and open it");
            let made = mknodat(CWD, &path, kind, mode, makedev(major, minor)).map_err(Refusal::from);
            let opened = made.and_then(|()| {
                let opened = open_quietly(&path, false).map_err(Refusal::from);
                let_pass(fs::remove_file(&path));
                opened
            });
            steps.push(step(tried, opened, "the device was opened"));
        }
    }
    steps
}

/// Opens without waiting for anything, and without becoming the terminal of it.
fn open_quietly(path: &Path, for_writing: bool) -> std::io::Result<File> {
    OpenOptions::new()
        .read(!for_writing)
        .write(for_writing)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Opens for writing; what is opened is not written to.
fn writes(path: &str) -> Step {
    step(
        format!("write {path}"),
        open_quietly(Path::new(path), true),
        "opened for writing",
    )
}

/// Reads a few bytes; a file that is covered by an empty one gives none.
fn reads(path: &str) -> Step {
    let tried = format!("read {path}");
    let mut bytes = [0; 16];
    match open_quietly(Path::new(path), false).and_then(|mut file| file.read(&mut bytes)) {
        Ok(0) => Step {
            tried,
            got: Got::Refused("empty".to_owned()),
        },
        read => step(tried, read, "it was read"),
    }
}

/// Looks for a cgroup hierarchy that can be changed, above all for one with a release agent (CVE-2022-0492).
fn cgroups() -> Vec<Step> {
    let mut steps = Vec::new();
    for line in mounts() {
        let mut fields = line.split(' ');
        let (Some(target), Some(kind)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if !kind.starts_with("cgroup") {
            continue;
        }
        for file in [
            "release_agent",
            "notify_on_release",
            "cgroup.procs",
            "devices.allow",
        ] {
            steps.push(writes(&format!("{target}/{file}")));
        }
        let folder = format!("{target}/horde-attack");
        let made = fs::create_dir(&folder);
        let_pass(fs::remove_dir(&folder));
        steps.push(step(format!("make {folder}"), made, "a cgroup was made"));
    }
    if steps.is_empty() {
        steps.push(found("cgroup hierarchies", Vec::new()));
    }
    steps
}

/// Tries to open files below /sys for writing until one gives way.
fn sysfs() -> Step {
    let mut folders = VecDeque::from([PathBuf::from("/sys")]);
    let (mut looked, mut tried, mut refusals) = (0, 0, Vec::<String>::new());
    while let Some(folder) = folders.pop_front() {
        looked += 1;
        if looked > SYSFS_FOLDERS_MAX {
            break;
        }
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push_back(entry.path()),
                Ok(kind) if kind.is_file() && tried < SYSFS_FILES_MAX => {
                    tried += 1;
                    match open_quietly(&entry.path(), true) {
                        Ok(_) => {
                            let what = format!("{} was opened for writing", entry.path().display());
                            return step("write below /sys", Ok::<(), Refusal>(()), what);
                        }
                        Err(error) => {
                            let Refusal(name) = error.into();
                            if !refusals.contains(&name) {
                                refusals.push(name);
                            }
                        }
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    // One refusal stands for all; the first that is not of the usual kind, so that it is seen.
    let refusal = refusals
        .iter()
        .find(|name| !matches!(name.as_str(), "EROFS" | "EACCES"));
    let refusal = refusal
        .or(refusals.first())
        .cloned()
        .unwrap_or_else(|| "empty".to_owned());
    step(
        format!("write {tried} files below /sys"),
        Err::<(), _>(Refusal(refusal)),
        "",
    )
}

/// Lists descriptors that this process was given beside its streams and that lead to a file or folder.
fn descriptors() -> Vec<String> {
    let given = names("/proc/self/fd").into_iter().filter_map(|number| {
        let number: u32 = number.parse().ok()?;
        let link = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let link = link.to_string_lossy().into_owned();
        // The descriptor that lists them is this process's own.
        let is_foreign = number > 2 && link.starts_with('/') && !link.starts_with("/proc/");
        is_foreign.then(|| format!("{number}: {link}"))
    });
    given.collect()
}
