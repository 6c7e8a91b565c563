//! Is an address free to listen at, and who has it if not.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Processes that are looked at for who listens; what lies beyond is not found.
const PROCESSES_MAX: usize = 20_000;

/// The state of a socket that listens, in the words of `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// What became of listening at an address for a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It is free.
    Free,
    /// Somebody listens there already; the process, where it can be seen from here.
    Taken(Option<Listener>),
    /// The port belongs to the privileged.
    Forbidden,
    /// No interface of this machine has the address.
    Elsewhere,
    /// Anything else, in words.
    Failed(String),
}

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// Listens at an address and lets go; blocks.
pub fn try_listen(address: SocketAddr) -> Tried {
    match TcpListener::bind(address) {
        Ok(_) => Tried::Free,
        Err(error) => match error.kind() {
            ErrorKind::AddrInUse => Tried::Taken(listener(Path::new("/proc"), address.port())),
            ErrorKind::PermissionDenied => Tried::Forbidden,
            ErrorKind::AddrNotAvailable => Tried::Elsewhere,
            _ => Tried::Failed(error.to_string()),
        },
    }
}

/// Finds the process that listens at a port; only those of this user can be seen, unless it is root.
fn listener(proc: &Path, port: u16) -> Option<Listener> {
    let mut sockets = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
        sockets.extend(listening(&text, port).map(|inode| format!("socket:[{inode}]")));
    }
    let processes = fs::read_dir(proc).ok()?.flatten().take(PROCESSES_MAX);
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let holds = |target: &Path| sockets.iter().any(|socket| Path::new(socket) == target);
        if files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| holds(&target))
        {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            return Some(Listener { pid, name });
        }
    }
    None
}

/// Returns the numbers of the sockets that listen at a port.
fn listening(table: &str, port: u16) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, of_row) = words.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(of_row, 16) == Ok(port) && *words.get(3)? == LISTENING;
        is_it.then(|| words.get(9).copied()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_who_has_it() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let Tried::Taken(Some(found)) = try_listen(address) else {
            panic!("it is taken by this process");
        };
        assert_eq!(found.pid, std::process::id());
        assert!(!found.name.is_empty());
    }

    #[test]
    fn an_address_of_another_machine_cannot_be_listened_at() {
        assert_eq!(try_listen("192.0.2.1:8000".parse().unwrap()), Tried::Elsewhere);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0\n\
            1: 0100007F:1F40 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 78 1 0\n\
            2: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 79 1 0\n\
            nonsense\n";
        assert_eq!(listening(table, 8000).collect::<Vec<_>>(), ["77"]);
        assert_eq!(listening("", 8000).count(), 0);
    }
}
