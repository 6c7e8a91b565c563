//! Facts become findings. Pure.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

use super::facts::{Directory, KeyFile, Room};
use super::finding;
use super::mend::Mend;
use super::port::Tried;
use crate::core::host::checks::{Finding, Status};
use crate::core::model::Hotkey;
use crate::core::model::subnet::Metagraph;
use crate::core::store::Holder;

/// Bytes of a mebibyte.
const MEBIBYTE: u64 = 1024 * 1024;

/// Access that a private file may not give: that of group and others.
const SHARED_BITS: u32 = 0o077;

/// The right to write of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Free space below which a role will stop soon, in bytes.
const SPACE_MIN: u64 = 512 * MEBIBYTE;

/// Free space below which it is time to look, in bytes.
const SPACE_ADVICE: u64 = 5 * 1024 * MEBIBYTE;

/// Files that can still be made below which a role will stop soon.
const FILES_MIN: u64 = 1000;

/// Log of changes beyond which something keeps the database from being tidied, in bytes.
const LOG_ADVICE: u64 = 256 * MEBIBYTE;

/// Open files below which a role turns peers away.
const OPEN_FILES_MIN: u64 = 1024;

/// Open files that a role of the subnet needs with room to spare.
const OPEN_FILES_ADVICE: u64 = 4096;

/// Memory below which the kernel will soon kill something, in bytes.
const MEMORY_MIN: u64 = 64 * MEBIBYTE;

/// Memory below which it is time to look, in bytes.
const MEMORY_ADVICE: u64 = 256 * MEBIBYTE;

/// Clock difference that is worth a look: peers' clocks are off as well, and 10 s end an authentication
/// (wire-miner-validator §2).
const SKEW_ADVICE: Duration = Duration::from_secs(2);

/// Clock difference at which authentications and receipts begin to fail.
const SKEW_MAX: Duration = Duration::from_secs(5);

/// How far the newest block may lie back: two blocks and a slow node.
const HEAD_AGE_MAX: Duration = Duration::from_secs(30);

/// What a kind of file system means for a database.
enum Suits {
    /// Another machine keeps the data.
    Not,
    /// It may or may not.
    Perhaps,
    /// The data goes with something else.
    ForATime(&'static str),
}

/// File systems on which a database does not lie well, by the number that `statfs` gives.
const FILE_SYSTEMS: [(u64, &str, Suits); 10] = [
    (0x6969, "NFS", Suits::Not),
    (0x517b, "SMB", Suits::Not),
    (0xff53_4d42, "CIFS", Suits::Not),
    (0xfe53_4d42, "SMB", Suits::Not),
    (0x0102_1997, "9P", Suits::Not),
    (0x00c3_6400, "Ceph", Suits::Not),
    (0x5346_414f, "AFS", Suits::Not),
    (0x6573_5546, "FUSE", Suits::Perhaps),
    (0x0102_1994, "tmpfs", Suits::ForATime("a restart of the machine")),
    (0x794c_7630, "overlay", Suits::ForATime("the container")),
];

/// A finding, and what would put it right where that is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The finding.
    pub finding: Finding,
    /// What would put it right.
    pub mends: Vec<Mend>,
}

impl From<Finding> for Judged {
    fn from(finding: Finding) -> Self {
        Self {
            finding,
            mends: Vec::new(),
        }
    }
}

/// Judges the data directory of a role.
pub fn data_dir(directory: &Directory) -> Judged {
    let check = "data-dir";
    let path = directory.path.display();
    let failed = |why: String| Judged::from(finding(check, Status::Failed, why));
    let entry = match &directory.found {
        Err(why) => return failed(format!("{path}: {why}")),
        Ok(None) if directory.can_be_made => {
            return Judged {
                finding: Finding {
                    remedy: "the role makes it when it starts, and so does `horde doctor --fix`; if data should be there, \
                             --dir is wrong"
                        .to_owned(),
                    ..finding(check, Status::Advice, format_args!("there is no {path} yet"))
                },
                mends: vec![Mend::MakeDirectory(directory.path.clone())],
            };
        }
        Ok(None) => {
            return failed(format!("there is no {path}, and this user may not make it"));
        }
        Ok(Some(entry)) => entry,
    };
    if !entry.is_dir {
        return failed(format!("{path} is no directory"));
    }
    let is_owned = entry.owner == entry.me || entry.me == 0;
    if !is_owned || !entry.is_writable {
        return Judged::from(Finding {
            remedy: format!(
                "run as user {}, or chown -R the directory to user {}",
                entry.owner, entry.me
            ),
            ..finding(
                check,
                Status::Failed,
                format_args!(
                    "{path} belongs to user {}, and this is user {}",
                    entry.owner, entry.me
                ),
            )
        });
    }
    let kind = match &directory.kind {
        Err(why) => return finding(check, Status::Unknown, format_args!("{path}: {why}")).into(),
        Ok(kind) => FILE_SYSTEMS.iter().find(|(number, ..)| number == kind),
    };
    if let Some((_, name, Suits::Not)) = kind {
        return failed(format!("{path} is on {name}"));
    }
    if entry.mode & OTHERS_WRITE != 0 {
        return Judged {
            finding: Finding {
                remedy: format!("chmod go-w {path}; `horde doctor --fix` does it"),
                ..finding(
                    check,
                    Status::Failed,
                    format_args!("others may write to {path} (mode {:04o})", entry.mode),
                )
            },
            mends: vec![Mend::MakePrivate {
                path: directory.path.clone(),
                mode: entry.mode & !OTHERS_WRITE,
            }],
        };
    }
    match kind {
        Some((_, name, Suits::Perhaps)) => finding(
            check,
            Status::Advice,
            format_args!("{path} is on {name}, which may be another machine"),
        ),
        Some((_, name, Suits::ForATime(end))) => Finding {
            remedy: "pass --dir with a directory on a disk, or mount one there".to_owned(),
            ..finding(
                check,
                Status::Advice,
                format_args!("{path} is on {name}: its data goes with {end}"),
            )
        },
        _ => finding(check, Status::Held, path),
    }
    .into()
}

/// Judges the room on the data directory's file system.
pub fn space(path: &Path, room: &Result<Room, String>) -> Finding {
    let check = "space";
    let path = path.display();
    match room {
        Err(why) => finding(check, Status::Unknown, format_args!("{path}: {why}")),
        Ok(room) => {
            let few = room.files.filter(|files| *files < FILES_MIN);
            let status = if room.bytes < SPACE_MIN || few.is_some() {
                Status::Failed
            } else if room.bytes < SPACE_ADVICE {
                Status::Advice
            } else {
                Status::Held
            };
            let files = few.map_or_else(String::new, |files| format!(", and only {files} more files"));
            let words = format!("{} free{files}", in_units(room.bytes));
            finding(check, status, words)
        }
    }
}

/// Judges the modes of the files of a database; those that are missing do not count.
pub fn permissions(files: &[KeyFile]) -> Judged {
    let check = "permissions";
    let mut shared = Vec::new();
    let mut mends = Vec::new();
    for file in files {
        match &file.mode {
            Some(Ok(mode)) if mode & SHARED_BITS != 0 => {
                shared.push(format!("{} has mode {mode:04o}", file.path.display()));
                mends.push(private(&file.path));
            }
            Some(Err(why)) => {
                let words = format!("{}: {why}", file.path.display());
                return finding(check, Status::Unknown, words).into();
            }
            Some(Ok(_)) | None => {}
        }
    }
    if shared.is_empty() {
        return finding(check, Status::Held, "private").into();
    }
    let finding = Finding {
        remedy: "chmod 600 the files named; `horde doctor --fix` does it".to_owned(),
        ..finding(check, Status::Failed, shared.join(", "))
    };
    Judged { finding, mends }
}

fn private(path: &Path) -> Mend {
    Mend::MakePrivate {
        path: path.to_owned(),
        mode: 0o600,
    }
}

/// Judges the version of a database's schema: that in the file, and the newest that this program knows.
pub fn schema(found: u32, known: u32) -> Finding {
    let check = "schema";
    match found.cmp(&known) {
        Ordering::Greater => {
            let words = format!("version {found}, and this program knows versions up to {known}");
            finding(check, Status::Failed, words)
        }
        Ordering::Less => Finding {
            remedy: "nothing to do: the role brings it up to date when it starts".to_owned(),
            ..finding(check, Status::Advice, format_args!("version {found} of {known}"))
        },
        Ordering::Equal => finding(check, Status::Held, format_args!("version {found}")),
    }
}

/// What SQLite found when it looked through a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// It looked through all of it, and found these faults.
    Through(Vec<String>),
    /// There was no time to look through all of it.
    NotWhole(Duration),
    /// It could not look.
    Refused(String),
}

/// Judges what SQLite found.
pub fn database(looked: &Looked) -> Finding {
    let check = "database";
    match looked {
        Looked::Refused(why) => finding(check, Status::Failed, why),
        Looked::NotWhole(time) => Finding {
            remedy: "stop the role and look with `sqlite3 DATABASE 'PRAGMA quick_check'`".to_owned(),
            ..finding(
                check,
                Status::Unknown,
                format_args!(
                    "nothing wrong so far: it is too large to be looked through in {} s",
                    time.as_secs()
                ),
            )
        },
        Looked::Through(faults) => match faults.split_first() {
            None => finding(check, Status::Held, "undamaged"),
            Some((fault, [])) => finding(check, Status::Failed, fault),
            Some((fault, more)) => finding(
                check,
                Status::Failed,
                format_args!("{fault} (and {} more)", more.len()),
            ),
        },
    }
}

/// Judges the length of the log of changes, in bytes.
pub fn wal(bytes: u64) -> Finding {
    let status = if bytes > LOG_ADVICE {
        Status::Advice
    } else {
        Status::Held
    };
    finding("wal", status, in_units(bytes))
}

/// Judges who holds a database, and whether this user could; `file` is the lock's file.
pub fn lock(holder: Holder, file: &Path, is_usable: bool) -> Finding {
    let check = "lock";
    match holder {
        Holder::Process(pid) => finding(
            check,
            Status::Held,
            format_args!("held by process {pid}: the role runs"),
        ),
        _ if !is_usable => finding(
            check,
            Status::Failed,
            format_args!("{} cannot be written by this user", file.display()),
        ),
        Holder::Nobody => finding(check, Status::Held, "held by nobody: the role does not run"),
        Holder::Unknown => finding(
            check,
            Status::Unknown,
            "this system does not tell who holds locks",
        ),
    }
}

/// Judges the hotkey's file.
pub fn key_file(file: &KeyFile) -> Judged {
    let check = "key-file";
    let path = file.path.display();
    let finding = match &file.mode {
        None => Finding {
            remedy: "set wallet.path, wallet.name and wallet.hotkey; `horde key new` makes one".to_owned(),
            ..finding(check, Status::Failed, format_args!("{path}: no such file"))
        },
        Some(Err(why)) => finding(check, Status::Failed, format_args!("{path}: {why}")),
        Some(Ok(mode)) if mode & SHARED_BITS != 0 => {
            return Judged {
                finding: Finding {
                    remedy: format!("chmod 600 {path}; `horde doctor --fix` does it"),
                    ..finding(check, Status::Failed, format_args!("{path} has mode {mode:04o}"))
                },
                mends: vec![private(&file.path)],
            };
        }
        Some(Ok(mode)) => finding(check, Status::Held, format_args!("{path} has mode {mode:04o}")),
    };
    finding.into()
}

/// What a hotkey's two files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The address that follows from the private file.
    pub private: PrivateKey,
    /// The address in the public file; none where there is no such file.
    pub public: Option<Result<Hotkey, String>>,
}

/// What a private file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// It is plain, and this address follows from it.
    Known(Hotkey),
    /// It is encrypted.
    Sealed,
    /// It cannot be used.
    Refused(String),
}

/// Judges whether a hotkey's files belong together.
pub fn key_pair(pair: &Pair) -> Finding {
    let check = "key-pair";
    match (&pair.private, &pair.public) {
        (PrivateKey::Refused(why), _) | (_, Some(Err(why))) => finding(check, Status::Failed, why),
        (PrivateKey::Known(own), Some(Ok(named))) if own != named => finding(
            check,
            Status::Failed,
            format_args!("the private file is {own}, and its public file says {named}"),
        ),
        (PrivateKey::Known(own), _) => finding(check, Status::Held, own),
        (PrivateKey::Sealed, Some(Ok(named))) => finding(
            check,
            Status::Held,
            format_args!("{named} by its public file; the private one is encrypted"),
        ),
        (PrivateKey::Sealed, None) => finding(
            check,
            Status::Unknown,
            "the private file is encrypted, and there is no public one",
        ),
    }
}

/// Looks for the coldkey, which has no business here.
pub fn coldkey(file: &KeyFile) -> Finding {
    match file.mode {
        None => finding("coldkey", Status::Held, "none"),
        Some(_) => finding("coldkey", Status::Advice, file.path.display()),
    }
}

/// What is known of a local chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFacts {
    /// Its newest block.
    pub block: u64,
    /// The subnets that have neurons.
    pub netuids: Vec<u16>,
}

/// Judges a local chain; none if no role has begun it.
pub fn chain(path: &Path, netuid: u16, found: &Result<Option<ChainFacts>, String>) -> Finding {
    let check = "chain";
    let path = path.display();
    match found {
        Err(why) => finding(check, Status::Failed, format_args!("{path}: {why}")),
        Ok(None) => finding(
            check,
            Status::Advice,
            format_args!("no role has begun the chain in {path} yet"),
        ),
        Ok(Some(facts)) if facts.netuids.contains(&netuid) => finding(
            check,
            Status::Held,
            format_args!("block {} of the local chain {path}", facts.block),
        ),
        Ok(Some(_)) => finding(
            check,
            Status::Advice,
            format_args!("nobody is registered in subnet {netuid} of the chain {path}"),
        ),
    }
}

/// Looks for a hotkey in the metagraph.
pub fn registered(hotkey: &Hotkey, metagraph: &Metagraph) -> Finding {
    match metagraph.neuron(hotkey) {
        Some(neuron) => finding(
            "registered",
            Status::Held,
            format_args!("{hotkey} is uid {} of subnet {}", neuron.uid, metagraph.netuid),
        ),
        None => finding(
            "registered",
            Status::Failed,
            format_args!("{hotkey} is not in subnet {}", metagraph.netuid),
        ),
    }
}

/// Judges whether a hotkey is taken for a validator.
pub fn permit(hotkey: &Hotkey, metagraph: &Metagraph) -> Finding {
    match metagraph.neuron(hotkey) {
        Some(neuron) if neuron.validator_permit => finding("permit", Status::Held, "it has one"),
        Some(_) => finding("permit", Status::Failed, "it has none"),
        None => finding("permit", Status::Skipped, "the hotkey is not registered"),
    }
}

/// What another clock said, and when it was asked by ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whose clock.
    pub source: String,
    /// Our clock ahead of it (negative: behind).
    pub ahead: time::Duration,
    /// How exact that is.
    pub exact_to: Duration,
}

/// Compares the clocks: with the chain's newest block, which may only bound it, and with a server where one is set.
pub fn clock(
    now: OffsetDateTime,
    head: Option<OffsetDateTime>,
    server: Option<Result<Told, String>>,
) -> Finding {
    match server {
        Some(Ok(told)) => {
            let sure = told.ahead.unsigned_abs().saturating_sub(told.exact_to);
            let status = if sure > SKEW_MAX {
                Status::Failed
            } else if sure > SKEW_ADVICE {
                Status::Advice
            } else {
                Status::Held
            };
            let words = format!("{} (by {})", direction(told.ahead), told.source);
            return finding("clock", status, words);
        }
        Some(Err(why)) => return finding("clock", Status::Unknown, why),
        None => {}
    }
    let Some(head) = head else {
        return finding("clock", Status::Unknown, "the chain does not answer");
    };
    let age = now - head;
    let remedy = "set miner.clock_url to a web server that you trust, to measure the difference itself";
    if age < -time::Duration::seconds(2) {
        finding(
            "clock",
            Status::Failed,
            format_args!(
                "this machine's clock is at least {:.1} s behind the chain",
                -age.as_seconds_f64()
            ),
        )
    } else if age > HEAD_AGE_MAX {
        Finding {
            remedy: format!("compare with another clock, or wait for the chain to go on; {remedy}"),
            ..finding(
                "clock",
                Status::Failed,
                format_args!(
                    "the newest block is {:.0} s old: the clock is ahead or the chain stands still",
                    age.as_seconds_f64()
                ),
            )
        }
    } else {
        finding(
            "clock",
            Status::Held,
            format_args!("the newest block is {:.1} s old", age.as_seconds_f64()),
        )
    }
}

fn direction(ahead: time::Duration) -> String {
    let seconds = ahead.as_seconds_f64();
    if seconds >= 0.0 {
        format!("this machine's clock is {seconds:.1} s ahead")
    } else {
        format!("this machine's clock is {:.1} s behind", -seconds)
    }
}

/// Judges what a facilitator answers: any status of HTTP, or why there is none.
pub fn facilitator(url: &str, answer: &Result<u16, String>) -> Finding {
    match answer {
        Ok(status) => finding(
            "facilitator",
            Status::Held,
            format_args!("{url} answers (HTTP {status})"),
        ),
        Err(why) => finding("facilitator", Status::Failed, format_args!("{url}: {why}")),
    }
}

/// Judges a facilitator's certificate and key.
pub fn certificate(path: &Path, loaded: &Result<(), String>) -> Finding {
    match loaded {
        Ok(()) => finding("certificate", Status::Held, path.display()),
        Err(why) => finding("certificate", Status::Failed, why),
    }
}

/// Judges an address that a role listens at, by one of the checks `listen` and `metrics`; `role` holds the database.
pub fn listen(check: &str, address: SocketAddr, tried: &Tried, role: Holder) -> Finding {
    let is_running = matches!(role, Holder::Process(_));
    match tried {
        // A role that has just begun, or that is told to serve none.
        Tried::Free if is_running => Finding {
            remedy: "wait a moment and look again; if it stays so, restart the role and read its log"
                .to_owned(),
            ..finding(
                check,
                Status::Failed,
                format_args!("the role runs, but does not listen at {address}"),
            )
        },
        Tried::Free => finding(check, Status::Held, format_args!("{address} is free")),
        Tried::Taken(Some(listener)) if role == Holder::Process(listener.pid) => finding(
            check,
            Status::Held,
            format_args!("the running role serves at {address}"),
        ),
        Tried::Taken(Some(listener)) => finding(
            check,
            Status::Failed,
            format_args!(
                "{address} is taken by process {} ({})",
                listener.pid, listener.name
            ),
        ),
        Tried::Taken(None) if is_running => finding(
            check,
            Status::Unknown,
            format_args!("{address} is taken; whether by the running role cannot be seen by this user"),
        ),
        Tried::Taken(None) => finding(
            check,
            Status::Failed,
            format_args!("{address} is taken by a process of another user"),
        ),
        Tried::Forbidden => Finding {
            remedy: "use a port above 1023, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
                .to_owned(),
            ..finding(
                check,
                Status::Failed,
                format_args!("this user may not listen at {address}"),
            )
        },
        Tried::Elsewhere => Finding {
            remedy: "set the address to one of this machine (`ip address`), or to 0.0.0.0".to_owned(),
            ..finding(
                check,
                Status::Failed,
                format_args!("this machine has no address {}", address.ip()),
            )
        },
        Tried::Failed(why) => finding(check, Status::Failed, format_args!("{address}: {why}")),
    }
}

/// Judges how many files may be open; none if there is no limit.
pub fn open_files(limit: Option<u64>) -> Finding {
    let check = "open-files";
    match limit {
        None => finding(check, Status::Held, "no limit"),
        Some(limit) => {
            let status = if limit < OPEN_FILES_MIN {
                Status::Failed
            } else if limit < OPEN_FILES_ADVICE {
                Status::Advice
            } else {
                Status::Held
            };
            finding(check, status, limit)
        }
    }
}

/// Judges the memory that can be had, in bytes.
pub fn memory(available: &Result<u64, String>) -> Finding {
    let check = "memory";
    match available {
        Err(why) => finding(check, Status::Unknown, why),
        Ok(bytes) => {
            let status = if *bytes < MEMORY_MIN {
                Status::Failed
            } else if *bytes < MEMORY_ADVICE {
                Status::Advice
            } else {
                Status::Held
            };
            finding(check, status, format_args!("{} available", in_units(*bytes)))
        }
    }
}

/// Judges whether systemd knows the role.
pub fn systemd(unit: Option<&PathBuf>) -> Finding {
    match unit {
        Some(path) => finding("systemd", Status::Held, path.display()),
        None => finding("systemd", Status::Skipped, "there is no unit of this role"),
    }
}

/// Returns a number of bytes as people read it.
fn in_units(bytes: u64) -> String {
    let mebibytes = bytes / MEBIBYTE;
    if mebibytes >= 10 * 1024 {
        format!("{} GiB", mebibytes / 1024)
    } else if mebibytes > 0 {
        format!("{mebibytes} MiB")
    } else {
        format!("{bytes} bytes")
    }
}

#[cfg(test)]
mod tests;
