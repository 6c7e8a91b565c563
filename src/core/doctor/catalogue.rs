//! Every check by its name: whose it is, what it requires, what it is good for, how it is made, what helps.

/// Whom a check concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The machine, whatever runs on it.
    Machine,
    /// A user of a facilitator.
    Client,
    /// A facilitator.
    Facilitator,
    /// A validator.
    Validator,
    /// A miner.
    Miner,
    /// What runs the jobs.
    Executor,
}

impl Who {
    /// Returns the word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Client => "client",
            Self::Facilitator => "facilitator",
            Self::Validator => "validator",
            Self::Miner => "miner",
            Self::Executor => "executor",
        }
    }
}

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whom it concerns.
    pub of: &'static [Who],
    /// What must be.
    pub required: &'static str,
    /// What that is good for.
    pub purpose: &'static str,
    /// How it is found out.
    pub how: &'static str,
    /// What helps when it is not so.
    pub remedy: &'static str,
}

use Who::{Client, Executor, Facilitator, Machine, Miner, Validator};

/// All checks of `horde doctor` but the versions of programs, in the order in which they are told.
pub const CHECKS: &[Check] = &[
    Check {
        name: "open-files",
        of: &[Machine],
        required: "4096 or more",
        purpose: "each connection is an open file; beyond the limit peers are turned away",
        how: "the hard limit of this process (RLIMIT_NOFILE), up to which roles raise theirs",
        remedy: "set LimitNOFILE=65536 in the systemd unit, or `* hard nofile 65536` in /etc/security/limits.conf",
    },
    Check {
        name: "memory",
        of: &[Machine],
        required: "256 MiB available",
        purpose: "a role that the kernel kills for want of memory loses connections and running jobs",
        how: "MemAvailable of /proc/meminfo",
        remedy: "stop what takes the memory (`ps aux --sort=-rss | head`), or add some",
    },
    Check {
        name: "config",
        of: &[Client, Facilitator, Validator, Miner, Executor],
        required: "sound",
        purpose: "a role does not start with a wrong setting",
        how: "loads file and environment as the role does; all problems are told at once",
        remedy: "mend what is named; `horde config show` lists all settings and where they come from",
    },
    Check {
        name: "data-dir",
        of: &[Facilitator, Validator, Miner],
        required: "a directory of this user on a local file system, which nobody else may write to",
        purpose: "the role keeps its database there, and SQLite loses data over network file systems",
        how: "looks at owner, mode, the right to write and the kind of file system (statfs)",
        remedy: "make it, or pass --dir with a directory on a local disk",
    },
    Check {
        name: "space",
        of: &[Facilitator, Validator, Miner],
        required: "512 MiB and 1000 files free; better 5 GiB",
        purpose: "a role stops when its database cannot be written",
        how: "free blocks and inodes of the data directory's file system, as this user may use them",
        remedy: "make room (`du -xh DIRECTORY | sort -h | tail`), or move the data directory to a larger disk",
    },
    Check {
        name: "permissions",
        of: &[Facilitator, Validator, Miner],
        required: "the database's files are readable by their owner alone (mode 0600)",
        purpose: "jobs carry their users' secrets",
        how: "the modes of the database and of the files that SQLite keeps beside it",
        remedy: "chmod 600 the files named",
    },
    Check {
        name: "schema",
        of: &[Facilitator, Validator, Miner],
        required: "not newer than this program knows",
        purpose: "an older program would not understand what a newer one has written, and does not start",
        how: "compares the database's user_version with the migrations of this program",
        remedy: "install the horde that has written it, or a newer one; or bring back a backup from before",
    },
    Check {
        name: "database",
        of: &[Facilitator, Validator, Miner],
        required: "undamaged",
        purpose: "it holds the role's jobs, receipts and what it owes to others",
        how: "opens it to be read only and has SQLite look through it (quick_check) for at most 10 s",
        remedy: "stop the role, move its *.sqlite* files away and bring a backup back",
    },
    Check {
        name: "wal",
        of: &[Facilitator, Validator, Miner],
        required: "256 MiB or less",
        purpose: "a long log of changes makes every read slow and the next start too",
        how: "the size of the -wal file beside the database",
        remedy: "end programs that keep the database open for long (`fuser -v DATABASE`), then restart the role",
    },
    Check {
        name: "lock",
        of: &[Facilitator, Validator, Miner],
        required: "held by a running role, or by nobody",
        purpose: "two processes on one database would undo each other's work",
        how: "looks the lock file up in /proc/locks; a file that no process holds locked is no lock and stays where it is",
        remedy: "give the lock file to the user that the role runs as: chown the file named",
    },
    Check {
        name: "key-file",
        of: &[Client, Validator, Miner],
        required: "readable by this user alone (mode 0600)",
        purpose: "whoever reads the hotkey can speak in its name",
        how: "the mode of the hotkey's file",
        remedy: "chmod 600 the file named",
    },
    Check {
        name: "key-pair",
        of: &[Client, Validator, Miner],
        required: "the private file holds the key that its public file names",
        purpose: "peers know this machine by the public address, and refuse what another key signed",
        how: "derives the address of a plain private file; of an encrypted one only the public file is read",
        remedy: "restore the private file from its phrase (`btcli wallet regen-hotkey`), or remove the wrong pub.txt",
    },
    Check {
        name: "coldkey",
        of: &[Validator, Miner],
        required: "no private coldkey on this machine",
        purpose: "the coldkey owns the stake, and no role ever needs it",
        how: "looks for the wallet's private coldkey",
        remedy: "move the file to a machine that serves nobody, and leave coldkeypub.txt here",
    },
    Check {
        name: "chain",
        of: &[Facilitator, Validator, Miner],
        required: "can be read, and has the subnet",
        purpose: "the roles find each other there",
        how: "opens the local chain's file (chain.path) to be read only",
        remedy: "set chain.path and chain.netuid to those of the other roles; the first role that starts begins the chain",
    },
    Check {
        name: "registered",
        of: &[Validator, Miner],
        required: "in the metagraph",
        purpose: "peers look there for whom they talk to",
        how: "looks the hotkey up among the neurons of chain.netuid",
        remedy: "register the hotkey on the subnet (btcli subnet register), or set wallet.name and wallet.hotkey to the \
                 registered one",
    },
    Check {
        name: "permit",
        of: &[Validator],
        required: "a validator permit",
        purpose: "miners and facilitators turn validators without one away",
        how: "the neuron's validator_permit on the chain",
        remedy: "the permit comes with stake: stake to this hotkey, and wait for the next epoch",
    },
    Check {
        name: "clock",
        of: &[Client, Validator, Miner],
        required: "at most 5 s off",
        purpose: "authentications and receipts of a wrong time are refused",
        how: "compares with the Date of the facilitator's answer, or of miner.clock_url; no other server is asked",
        remedy: "synchronise the clock: timedatectl set-ntp true",
    },
    Check {
        name: "facilitator",
        of: &[Client, Validator],
        required: "answers, with a valid certificate where it is https",
        purpose: "jobs come from there",
        how: "one GET of its address: any answer of HTTP will do",
        remedy: "is it running? set validator.facilitator_url, or client.facilitator_url of a client, to where it serves",
    },
    Check {
        name: "certificate",
        of: &[Facilitator],
        required: "the certificate and its key can be read and belong together",
        purpose: "the facilitator does not start with a wrong one",
        how: "loads both files as the facilitator does",
        remedy: "set facilitator.tls_certificate and facilitator.tls_key to files of one pair, in PEM form",
    },
    Check {
        name: "listen",
        of: &[Facilitator, Miner],
        required: "free, or served by this very role",
        purpose: "peers come in there",
        how: "binds the address and lets go; where it is taken, looks up in /proc who listens",
        remedy: "stop the other program, or set another address (facilitator.listen, miner.listen)",
    },
    Check {
        name: "metrics",
        of: &[Facilitator, Miner],
        required: "free, or served by this very role",
        purpose: "Prometheus reads the role's figures there",
        how: "binds the address and lets go; where it is taken, looks up in /proc who listens",
        remedy: "stop the other program, or set another address (facilitator.metrics_listen, miner.metrics_listen)",
    },
    Check {
        name: "streaming-ports",
        of: &[Miner],
        required: "one for each executor",
        purpose: "clients of streaming jobs come in there",
        how: "binds the ports of miner.streaming_ports one after the other",
        remedy: "set miner.streaming_ports to ports that no other program uses, and open them in the firewall",
    },
    Check {
        name: "systemd",
        of: &[Facilitator, Validator, Miner],
        required: "a unit, where systemd runs the role",
        purpose: "the role comes back after a crash and after a reboot",
        how: "looks for horde-ROLE.service in the folders of units",
        remedy: "write a unit with ExecStart=horde ROLE run, Type=notify and Restart=always",
    },
    Check {
        name: "docker",
        of: &[Executor],
        required: "answers",
        purpose: "runs the jobs' containers",
        how: "asks the engine of executor.docker_host for its version",
        remedy: "install and start Docker, and let this user use it (see executor.docker_host)",
    },
    Check {
        name: "cgroup",
        of: &[Executor],
        required: "v1 or v2; better v2",
        purpose: "limits jobs, and tells that nothing of them is left",
        how: "what the engine says of its control groups",
        remedy: "boot with systemd.unified_cgroup_hierarchy=1",
    },
    Check {
        name: "swap",
        of: &[Executor],
        required: "can be limited",
        purpose: "a job beyond its memory is stopped rather than swapped out",
        how: "what the engine says of its limits",
        remedy: "boot with swapaccount=1, or switch swap off",
    },
    Check {
        name: "user-namespace",
        of: &[Executor],
        required: "optional",
        purpose: "a job that breaks out is still nobody",
        how: "what the engine says of its security options",
        remedy: "set userns-remap in /etc/docker/daemon.json, or run Docker rootless; then look whether GPUs still work",
    },
    Check {
        name: "work-dir",
        of: &[Executor],
        required: "this user may write, others not, or with the sticky bit",
        purpose: "holds the jobs' input and output",
        how: "makes a file in executor.work_dir and removes it again",
        remedy: "set executor.work_dir to a folder of this user's own",
    },
    Check {
        name: "disk",
        of: &[Executor],
        required: "room for one job's input and output at their limits",
        purpose: "a job whose data does not fit fails",
        how: "the free space of executor.work_dir against volume_bytes_max and upload_bytes_max",
        remedy: "make room, or set executor.work_dir to another disk",
    },
    Check {
        name: "image",
        of: &[Executor],
        required: "there, when miners start executors as containers",
        purpose: "executors run in it with miner.backend = docker",
        how: "asks the engine for miner.executor_image",
        remedy: "horde executor image",
    },
    Check {
        name: "nvidia-runtime",
        of: &[Executor],
        required: "there, where jobs get GPUs",
        purpose: "brings GPUs into jobs",
        how: "the runtimes that the engine lists",
        remedy: "install nvidia-container-toolkit, run nvidia-ctk runtime configure --runtime=docker and restart Docker",
    },
    Check {
        name: "gpu",
        of: &[Executor],
        required: "1 or more, where jobs get GPUs",
        purpose: "jobs of GPU classes compute on them",
        how: "asks NVIDIA's library (NVML) how many there are",
        remedy: "see `nvidia-smi`; install the driver, or set executor.no_gpu",
    },
    Check {
        name: "seccomp",
        of: &[Executor],
        required: "on",
        purpose: "keeps dangerous system calls from jobs",
        how: "what the engine says of its security options",
        remedy: "remove seccomp-profile: unconfined from /etc/docker/daemon.json, and use a kernel with seccomp",
    },
    Check {
        name: "limits",
        of: &[Executor],
        required: "memory, processes and processor time can be limited",
        purpose: "a job could starve the machine",
        how: "what the engine says of its limits",
        remedy: "boot with the memory, pids and cpu control groups on (see the warnings of `docker info`)",
    },
];

/// Returns a check by its name.
pub fn find(name: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.name == name)
}

/// Returns where a check stands in the order in which they are told; what is not in the catalogue stands at the end.
pub fn place(name: &str) -> usize {
    let place = CHECKS.iter().position(|check| check.name == name);
    place.unwrap_or(CHECKS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_one_row_with_all_its_words() {
        for (index, check) in CHECKS.iter().enumerate() {
            assert_eq!(place(check.name), index, "{} is there twice", check.name);
            assert!(!check.of.is_empty(), "{}", check.name);
            for text in [check.required, check.purpose, check.how, check.remedy] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{}: {text}", check.name);
            }
        }
    }

    #[test]
    fn what_other_rooms_find_is_in_the_catalogue() {
        use crate::core::host::checks;
        for name in [checks::SECCOMP, checks::LIMITS] {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
