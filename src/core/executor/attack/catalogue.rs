//! The attacks: their names, what each tries, in which job, and what a sandbox that holds answers.

/// The port at which one job listens while another looks for it: the one of streaming jobs.
pub(super) const NEIGHBOUR_PORT: u16 = 8000;

/// The name of the attempt by which a job plays the neighbour; it attacks nobody.
pub(super) const BE_A_NEIGHBOUR: &str = "be-a-neighbour";

/// One attack.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// Its name, which reports and `--only` use.
    pub name: &'static str,
    /// What it tries, in words.
    pub tries: &'static str,
    /// The job that it is part of.
    pub(super) job: Job,
    /// What shows that it was held.
    pub(super) rule: Rule,
}

/// The jobs that are run; attacks of one job share a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Looks, opens, calls; takes nothing.
    Probes,
    /// Takes processes and descriptors.
    Crowd,
    /// Takes memory.
    Memory,
    /// Takes the file systems that lie in memory.
    SharedMemory,
    /// Takes the disk below the container's root.
    Disk,
    /// Takes the disk below `/output`.
    OutputDisk,
    /// Writes without end.
    Flood,
    /// Stays when it should go.
    Daemon,
    /// Leaves links and pipes where results are read, and has them uploaded as a zip.
    Links,
    /// Has a link uploaded by name.
    SingleLink,
    /// Brings a volume that is a trap; each in a job of its own.
    Volume,
}

/// What shows that an attack was held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Every attempt was refused, each with one of these words.
    Refused(&'static [&'static str]),
    /// As [`Rule::Refused`], and what was looked for was not there.
    Nothing(&'static [&'static str]),
    /// Nothing was there but what this function knows.
    Only(fn(&str) -> bool),
    /// The rights of the process are those of the profile.
    Capabilities,
    /// No rights can be gained, and system calls are filtered.
    Confined,
    /// No namespace is the executor's own.
    Namespaces,
    /// There was no process more than the limit, and the outside saw none.
    OutOfProcesses,
    /// The job was stopped at its memory limit.
    OutOfMemory,
    /// The attempt was refused, or the job was stopped for its disk.
    OutOfDisk,
    /// The job ended as usual; the executor kept a bounded part of what it wrote.
    BoundedLog,
    /// Nothing of the job lives after its report.
    NothingLives,
    /// What was planted was neither followed nor waited for.
    NothingFollowed,
    /// The job failed for its upload.
    UploadRefused,
    /// The job failed for its volume.
    DownloadRefused(Bait),
}

/// Where a volume that is a trap begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bait {
    /// At a page of the stage, which has to be asked for before anything can be refused.
    Page,
    /// At an address or path that is to be refused before anything is asked for.
    Address,
}

/// A right that is not there; `ENOSYS` is how some engines' filters refuse.
const NO_RIGHT: &[&str] = &["EPERM", "EACCES", "ENOSYS"];

/// A network that is not there.
const NO_WAY: &[&str] = &[
    "ENETUNREACH",
    "EHOSTUNREACH",
    "EADDRNOTAVAIL",
    "EAFNOSUPPORT",
    "EPERM",
    "EACCES",
];

/// On the loopback of a network of its own, nobody listens.
const NOBODY_LISTENS: &[&str] = &[
    "ECONNREFUSED",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "EADDRNOTAVAIL",
    "EAFNOSUPPORT",
    "EPERM",
    "EACCES",
];

/// A file that is not there, covered, or not to be written.
const NO_FILE: &[&str] = &[
    "ENOENT", "ENOTDIR", "ENXIO", "ENODEV", "EACCES", "EPERM", "EROFS", "EISDIR", "empty",
];

/// What setuid programs come to; some folders are not for programs, or not to be written.
const NO_GAIN: &[&str] = &[
    "no gain", "killed", "EACCES", "EPERM", "EROFS", "ENOENT", "ENOEXEC",
];

/// What an engine puts into `/dev`, and the devices of the preset `nvidia_all`.
fn is_plain_device(name: &str) -> bool {
    const PLAIN: [&str; 15] = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "zero",
    ];
    name == "urandom" || PLAIN.contains(&name) || name.starts_with("nvidia")
}

/// Where a container of ours has something mounted, as `target source-root type`.
fn is_own_mount(line: &str) -> bool {
    let mut fields = line.split(' ');
    let (target, root) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let kind = fields.next().unwrap_or_default();
    match target {
        // The host's own root, as a bind mount would show it, is no overlay and begins elsewhere.
        "/" => !matches!(kind, "ext4" | "xfs") || root != "/",
        "/volume" | "/output" | "/specs" | "/artifacts" | "/script.py" => root.ends_with(target),
        // The engine's own three files.
        "/etc/resolv.conf" | "/etc/hostname" | "/etc/hosts" => root != "/etc/hosts",
        "/tmp" | "/run" | "/var/tmp" | "/root" | "/home" | "/home/job" => kind == "tmpfs",
        _ => ["/proc", "/sys", "/dev"].iter().any(|folder| {
            target
                .strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
    }
}

const fn attack(name: &'static str, tries: &'static str, job: Job, rule: Rule) -> Attack {
    Attack {
        name,
        tries,
        job,
        rule,
    }
}

/// All attacks, in the order in which they are told.
pub static ATTACKS: &[Attack] = &[
    attack(
        "routes",
        "find a route or an address beside the loopback",
        Job::Probes,
        Rule::Nothing(NO_WAY),
    ),
    attack(
        "tcp-internet",
        "connect to the Internet, IPv4 and IPv6",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "udp-dns",
        "ask name servers, the host's own among them",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "metadata-address",
        "reach a cloud's metadata address",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "host-addresses",
        "reach the host at its addresses, the engine's gateway among them",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "host-loopback",
        "reach what listens on the host's loopback",
        Job::Probes,
        Rule::Refused(NOBODY_LISTENS),
    ),
    attack(
        "icmp",
        "send raw ICMP and ping",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "packet-sockets",
        "open a socket that sees all packets",
        Job::Probes,
        Rule::Refused(NO_WAY),
    ),
    attack(
        "abstract-sockets",
        "reach abstract Unix sockets of the host",
        Job::Probes,
        Rule::Nothing(NOBODY_LISTENS),
    ),
    attack(
        "docker-socket",
        "find the engine's socket",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "docker-port",
        "reach the engine by TCP",
        Job::Probes,
        Rule::Refused(NOBODY_LISTENS),
    ),
    attack(
        "neighbour",
        "reach another job on the same engine",
        Job::Probes,
        Rule::Refused(NOBODY_LISTENS),
    ),
    attack(
        "capabilities",
        "have a right that the profile does not give",
        Job::Probes,
        Rule::Capabilities,
    ),
    attack(
        "raise-capabilities",
        "ask for CAP_SYS_ADMIN",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "setuid-binary",
        "become root by a setuid program",
        Job::Probes,
        Rule::Refused(NO_GAIN),
    ),
    attack(
        "no-new-privileges",
        "be without no_new_privs or without a seccomp filter",
        Job::Probes,
        Rule::Confined,
    ),
    attack(
        "mount",
        "mount, remount, unmask",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "unshare",
        "make user, mount and network namespaces",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "setns",
        "enter the namespaces of process 1",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "keyring",
        "use the kernel's keyrings",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack("bpf", "load a BPF program", Job::Probes, Rule::Refused(NO_RIGHT)),
    attack(
        "userfaultfd",
        "handle page faults",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "perf-events",
        "open a performance counter",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "open-by-handle",
        "open a host file by its handle (shocker)",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "kernel-modules",
        "load and remove kernel modules",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "kexec",
        "load another kernel",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "reboot",
        "restart the machine",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "clock",
        "set the machine's clock",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack("swap", "turn swap off", Job::Probes, Rule::Refused(NO_RIGHT)),
    attack(
        "io-ports",
        "open the machine's I/O ports",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "kernel-log",
        "read the kernel's log",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "priority",
        "take the highest priority",
        Job::Probes,
        Rule::Refused(NO_RIGHT),
    ),
    attack(
        "namespaces",
        "share a namespace with the executor",
        Job::Probes,
        Rule::Namespaces,
    ),
    attack(
        "processes",
        "see processes of others",
        Job::Probes,
        Rule::Nothing(NO_FILE),
    ),
    attack(
        "host-files",
        "read and write a file of the host",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "foreign-mounts",
        "find a mount that the job was not promised",
        Job::Probes,
        Rule::Only(is_own_mount),
    ),
    attack(
        "devices",
        "find a device that the job was not promised",
        Job::Probes,
        Rule::Only(is_plain_device),
    ),
    attack(
        "device-nodes",
        "make device nodes and open them",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "kernel-settings",
        "change settings below /proc/sys",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "core-pattern",
        "change where the host's core files go",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "sysrq",
        "trigger the kernel's emergency keys",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "kernel-memory",
        "read the kernel's memory and secrets",
        Job::Probes,
        Rule::Refused(NO_FILE),
    ),
    attack(
        "masked-folders",
        "look into covered folders of /proc and /sys",
        Job::Probes,
        Rule::Nothing(NO_FILE),
    ),
    attack(
        "cgroup-escape",
        "set a cgroup's release agent (CVE-2022-0492)",
        Job::Probes,
        Rule::Nothing(NO_FILE),
    ),
    attack("sysfs", "write below /sys", Job::Probes, Rule::Refused(NO_FILE)),
    attack(
        "inherited-descriptors",
        "find a descriptor that leads out (CVE-2024-21626)",
        Job::Probes,
        Rule::Nothing(NO_FILE),
    ),
    attack(
        "core-dump",
        "dump core on the host",
        Job::Probes,
        Rule::Refused(&["EPERM", "no core"]),
    ),
    attack(
        "fork-bomb",
        "take all processes",
        Job::Crowd,
        Rule::OutOfProcesses,
    ),
    attack(
        "descriptors",
        "take all file descriptors",
        Job::Crowd,
        Rule::Refused(&["EMFILE"]),
    ),
    attack("memory", "take all memory", Job::Memory, Rule::OutOfMemory),
    attack(
        "shared-memory",
        "fill /dev/shm",
        Job::SharedMemory,
        Rule::OutOfDisk,
    ),
    attack("temporary-files", "fill /tmp", Job::SharedMemory, Rule::OutOfDisk),
    attack("disk", "fill the disk below the root", Job::Disk, Rule::OutOfDisk),
    attack(
        "output-disk",
        "fill the disk below /output",
        Job::OutputDisk,
        Rule::OutOfDisk,
    ),
    attack("log-flood", "write without end", Job::Flood, Rule::BoundedLog),
    attack(
        "leftover-daemon",
        "leave a process behind",
        Job::Daemon,
        Rule::NothingLives,
    ),
    attack(
        "output-link",
        "have links and pipes in /output read",
        Job::Links,
        Rule::NothingFollowed,
    ),
    attack(
        "stream-link",
        "have a host file written through /output/stdout.txt",
        Job::Links,
        Rule::NothingFollowed,
    ),
    attack(
        "artifact-link",
        "have links, pipes and hard links read as artifacts",
        Job::Links,
        Rule::NothingFollowed,
    ),
    attack(
        "single-file-link",
        "have a link uploaded by its name",
        Job::SingleLink,
        Rule::UploadRefused,
    ),
    attack(
        "zip-slip",
        "unpack a zip entry outside of its folder",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "zip-absolute",
        "unpack a zip entry to an absolute path",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "zip-symlink",
        "unpack a link, then write through it",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "zip-duplicate",
        "unpack two entries of one name",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "zip-bomb",
        "unpack a small zip to a large volume",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "path-escape",
        "place a file outside of the volume",
        Job::Volume,
        Rule::DownloadRefused(Bait::Address),
    ),
    attack(
        "redirect-to-loopback",
        "be redirected to the host's loopback",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "redirect-to-metadata",
        "be redirected to the metadata address",
        Job::Volume,
        Rule::DownloadRefused(Bait::Page),
    ),
    attack(
        "mapped-address",
        "reach the loopback by an IPv4-mapped IPv6 address",
        Job::Volume,
        Rule::DownloadRefused(Bait::Address),
    ),
    attack(
        "local-file",
        "have a file of the host read by a file: address",
        Job::Volume,
        Rule::DownloadRefused(Bait::Address),
    ),
];

/// Returns the attack of that name.
pub fn find(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_attack_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        assert!(find("zip-slip").is_some() && find(BE_A_NEIGHBOUR).is_none());
    }

    #[test]
    fn mounts_of_a_job_are_known_and_others_are_not() {
        for line in [
            "/ / overlay",
            "/proc / proc",
            "/proc/kcore /null tmpfs",
            "/dev/shm / tmpfs",
            "/sys/fs/cgroup / tmpfs",
            "/volume /tmp/horde-executor-x/volume ext4",
            "/etc/hosts /var/lib/docker/containers/0/hosts ext4",
            "/tmp / tmpfs",
        ] {
            assert!(is_own_mount(line), "{line}");
        }
        for line in [
            "/run/docker.sock /docker.sock tmpfs",
            "/var/run/docker.sock /docker.sock tmpfs",
            "/host / ext4",
            "/output / ext4",
            "/volume /home ext4",
            "/etc/hosts /etc/hosts ext4",
            "/tmp /tmp ext4",
            "/process /x ext4",
        ] {
            assert!(!is_own_mount(line), "{line}");
        }
    }

    #[test]
    fn devices_of_a_job_are_known_and_others_are_not() {
        for name in ["null", "urandom", "nvidia0", "nvidia-uvm"] {
            assert!(is_plain_device(name), "{name}");
        }
        for name in ["sda", "mem", "kvm", "fuse", "net", "dri"] {
            assert!(!is_plain_device(name), "{name}");
        }
    }
}
