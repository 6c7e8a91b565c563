//! Taking all there is: processes, memory, disk, descriptors, log; and staying when told to go.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid};

use super::super::catalogue::NEIGHBOUR_PORT;
use super::super::probe::{Got, Orders, Step};
use super::syscall::{Child, fork, fork_and_wait};
use super::{InsideError, Refusal, found, let_pass, pause, step};

/// How much memory or disk is taken at a time, in bytes.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// How long what was taken is kept, so that whoever watches from outside can see it.
const HOLD: Duration = Duration::from_millis(500);

/// How long an attacker over its disk limit waits to be stopped.
const DISK_PATIENCE: Duration = Duration::from_secs(15);

/// How long a neighbour listens.
const NEIGHBOUR_LIFE: Duration = Duration::from_secs(8);

/// Time between two looks of a neighbour whether somebody came.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(20);

/// The size of a page that is written to, so that memory is really taken, in bytes.
const PAGE_BYTES: usize = 4096;

/// The bit of a wait status that says that a core was dumped.
const CORE_DUMPED: i32 = 0x80;

pub(super) fn attempt(
    name: &str,
    orders: &Orders,
    out: &mut dyn Write,
) -> Result<Option<Vec<Step>>, InsideError> {
    let bounds = &orders.bounds;
    Ok(Some(match name {
        "fork-bomb" => vec![fork_bomb(bounds.forks)],
        "descriptors" => vec![take_descriptors(bounds.descriptors)],
        "core-dump" => dump_core(),
        "memory" => vec![take_memory(bounds.memory_bytes)],
        "shared-memory" => vec![fill(Path::new("/dev/shm"), bounds.disk_bytes)],
        "temporary-files" => vec![fill_until_stopped(Path::new("/tmp"), bounds.disk_bytes)],
        "disk" => vec![fill_until_stopped(Path::new("/"), bounds.disk_bytes)],
        "output-disk" => vec![fill_until_stopped(Path::new("/output"), bounds.disk_bytes)],
        "log-flood" => vec![flood(bounds.log_bytes, out)?],
        "leftover-daemon" => vec![leave_a_daemon()],
        "be-a-neighbour" => vec![be_a_neighbour(orders)],
        _ => return Ok(None),
    }))
}

/// Makes processes until there are no more, keeps them a moment, and kills them.
fn fork_bomb(forks_max: u32) -> Step {
    let mut children = Vec::new();
    let refusal = loop {
        if children.len() >= usize::try_from(forks_max).unwrap_or(usize::MAX) {
            break None;
        }
        match fork(Child::Sleeps) {
            Ok(child) => children.push(child),
            Err(error) => break Some(error),
        }
    };
    pause(HOLD);
    for child in &children {
        // A child that has ended by itself needs no signal.
        let_pass(kill_process(*child, Signal::KILL));
        let_pass(waitpid(Some(*child), WaitOptions::empty()));
    }
    let tried = format!("{} processes, then one more", children.len());
    match refusal {
        Some(error) => step(tried, Err::<(), _>(error), ""),
        None => step(tried, Ok::<(), Refusal>(()), "no limit was met"),
    }
}

/// Opens files until there are no more.
fn take_descriptors(descriptors_max: u32) -> Step {
    let mut open = Vec::new();
    let refusal = loop {
        if open.len() >= usize::try_from(descriptors_max).unwrap_or(usize::MAX) {
            break None;
        }
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => break Some(error),
        }
    };
    let tried = format!("{} open files, then one more", open.len());
    drop(open);
    match refusal {
        Some(error) => step(tried, Err::<(), _>(error), ""),
        None => step(tried, Ok::<(), Refusal>(()), "no limit was met"),
    }
}

/// Asks for the right to dump core, then crashes.
fn dump_core() -> Vec<Step> {
    let limit = getrlimit(Resource::Core);
    let wanted = Rlimit {
        current: Some(1 << 30),
        maximum: Some(1 << 30),
    };
    let raised = setrlimit(Resource::Core, wanted);
    if limit.maximum != Some(0) {
        // Whatever was allowed from the start is no gain; what follows shows what it is worth.
        let_pass(setrlimit(Resource::Core, limit));
    }
    let crashed = match fork_and_wait(Child::Crashes) {
        Ok(status) if status.terminating_signal().is_none() => Err(Refusal("no crash".to_owned())),
        Ok(status) if status.as_raw() & CORE_DUMPED == 0 => Err(Refusal("no core".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    };
    vec![
        step("raise the limit of core files", raised, "it was raised"),
        step("crash", crashed, "a core was dumped"),
    ]
}

/// Takes memory and writes to every page of it.
fn take_memory(bytes_max: u64) -> Step {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 0_u64;
    while bytes < bytes_max {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(PIECE_BYTES).is_err() {
            let tried = format!("{} MiB of memory, then more", bytes >> 20);
            return step(tried, Err::<(), _>(Refusal("ENOMEM".to_owned())), "");
        }
        piece.resize(PIECE_BYTES, 1_u8);
        for page in piece.chunks_mut(PAGE_BYTES) {
            // Not all alike, so that nothing can be shared between pages.
            if let (Some(first), Ok(count)) = (page.first_mut(), u8::try_from(taken.len() & 0xff)) {
                *first = count;
            }
        }
        taken.push(black_box(piece));
        bytes = bytes.saturating_add(u64::try_from(PIECE_BYTES).unwrap_or(0));
    }
    let tried = format!("{} MiB of memory", bytes >> 20);
    drop(black_box(taken));
    step(tried, Ok::<(), Refusal>(()), "no limit was met")
}

/// Writes a file in `folder` until there is no room, and removes it.
fn fill(folder: &Path, bytes_max: u64) -> Step {
    let path = folder.join("horde-attack-fill");
    let (written, result) = write_until_refused(&path, bytes_max);
    let_pass(fs::remove_file(&path));
    let tried = format!("{} MiB in {}, then more", written >> 20, folder.display());
    step(tried, result, "no limit was met")
}

/// Writes a file in `folder`, and waits to be stopped when nothing refuses it.
fn fill_until_stopped(folder: &Path, bytes_max: u64) -> Step {
    let path = folder.join("horde-attack-fill");
    let (written, result) = write_until_refused(&path, bytes_max);
    if result.is_ok() {
        pause(DISK_PATIENCE);
    }
    let_pass(fs::remove_file(&path));
    let tried = format!("{} MiB in {}, then more", written >> 20, folder.display());
    step(tried, result, "no limit was met, and nobody came")
}

fn write_until_refused(path: &Path, bytes_max: u64) -> (u64, io::Result<()>) {
    let piece = vec![0x5a_u8; PIECE_BYTES];
    let mut written = 0_u64;
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) => return (0, Err(error)),
    };
    while written < bytes_max {
        match file.write(&piece) {
            Ok(count) => written = written.saturating_add(u64::try_from(count).unwrap_or(0)),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Writes without an end in sight, and without the end of a line.
fn flood(bytes_max: u64, out: &mut dyn Write) -> Result<Step, InsideError> {
    let piece = vec![b'!'; 64 * 1024];
    let mut written = 0_u64;
    while written < bytes_max {
        out.write_all(&piece)?;
        written = written.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
    }
    out.write_all(b"\n")?;
    Ok(found("written MiB", vec![(written >> 20).to_string()]))
}

/// Leaves a process behind, stays long enough for it to be seen, and goes.
fn leave_a_daemon() -> Step {
    let left = fork_and_wait(Child::LeavesADaemon);
    pause(HOLD);
    step("leave a daemon behind", left, "it was left behind")
}

/// Listens where another job's attacker knocks, and tells who came.
fn be_a_neighbour(orders: &Orders) -> Step {
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, NEIGHBOUR_PORT));
    let abstract_socket = SocketAddr::from_abstract_name(orders.neighbour_name())
        .and_then(|name| UnixListener::bind_addr(&name));
    let (tcp, abstract_socket) = match (tcp, abstract_socket) {
        (Ok(tcp), Ok(abstract_socket)) => (tcp, abstract_socket),
        (Err(error), _) | (_, Err(error)) => return step("listen", Err::<(), _>(error), ""),
    };
    if let Err(error) = tcp
        .set_nonblocking(true)
        .and(abstract_socket.set_nonblocking(true))
    {
        return step("listen", Err::<(), _>(error), "");
    }
    let mut visitors = Vec::new();
    let looks = NEIGHBOUR_LIFE.as_millis() / NEIGHBOUR_PAUSE.as_millis();
    for _ in 0..looks {
        if let Ok((mut stream, peer)) = tcp.accept() {
            visitors.push(format!("tcp {peer}: {}", greeting(&mut stream)));
        }
        if let Ok((mut stream, _)) = abstract_socket.accept() {
            visitors.push(format!("abstract socket: {}", greeting(&mut stream)));
        }
        pause(NEIGHBOUR_PAUSE);
    }
    Step {
        tried: "visitors of another job".to_owned(),
        got: Got::Found(visitors),
    }
}

fn greeting(stream: &mut dyn Read) -> String {
    let mut text = [0; 64];
    let count = stream.read(&mut text).unwrap_or(0);
    String::from_utf8_lossy(text.get(..count).unwrap_or_default())
        .trim()
        .to_owned()
}
