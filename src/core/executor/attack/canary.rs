//! Ears on the host: listeners that nobody inside a sandbox may reach.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener as StdUnixListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::time::timeout;

use super::catalogue::ATTACKS;
use crate::core::tasks::Tasks;

/// The most addresses of the host that are listened at and attacked.
const ADDRESSES_MAX: usize = 12;

/// How long a canary listens to one visitor.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of what a visitor says is read, in bytes.
const HELLO_BYTES_MAX: usize = 1024;

/// The most visits that are kept of one attack.
const VISITS_MAX: usize = 8;

/// What was heard, by attack.
type Heard = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// The listeners of one run.
#[derive(Debug)]
pub(super) struct Canaries {
    /// Where they listen.
    pub(super) addresses: Vec<IpAddr>,
    /// Their TCP port.
    pub(super) tcp_port: u16,
    /// Their UDP port.
    pub(super) udp_port: u16,
    heard: Heard,
}

impl Canaries {
    /// Opens them on every address of this host; they listen until `tasks` is told to stop.
    ///
    /// Whoever is heard says which run and which attack it belongs to: other visitors are none of ours.
    pub(super) async fn open(run: &str, abstract_name: &str, tasks: &Tasks) -> io::Result<Self> {
        let tcp = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(listener) => listener,
            // A host without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        };
        let udp = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(socket) => socket,
            Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        };
        let name = StdUnixListener::bind_addr(&UnixAddr::from_abstract_name(abstract_name)?)?;
        name.set_nonblocking(true)?;
        let name = UnixListener::from_std(name)?;
        let canaries = Self {
            addresses: addresses(),
            tcp_port: tcp.local_addr()?.port(),
            udp_port: udp.local_addr()?.port(),
            heard: Heard::default(),
        };
        let ear = |_| Ear {
            run: run.to_owned(),
            heard: Arc::clone(&canaries.heard),
        };
        let [by_tcp, by_udp, by_name] = [0, 1, 2].map(ear);
        tasks.spawn("tcp canary", until_stopped(tasks.clone(), hear_tcp(tcp, by_tcp)));
        tasks.spawn("udp canary", until_stopped(tasks.clone(), hear_udp(udp, by_udp)));
        tasks.spawn(
            "unix canary",
            until_stopped(tasks.clone(), hear_unix(name, by_name)),
        );
        Ok(canaries)
    }

    /// Returns what was heard so far, by attack.
    pub(super) fn heard(&self) -> BTreeMap<String, Vec<String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn until_stopped(tasks: Tasks, listening: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = tasks.stopped() => {}
        () = listening => {}
    }
}

/// What a listener notes.
#[derive(Debug)]
struct Ear {
    run: String,
    heard: Heard,
}

impl Ear {
    fn note(&self, said: &[u8], by: &str) {
        let Some(attack) = attack_of(&String::from_utf8_lossy(said), &self.run) else {
            return;
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let visits = heard.entry(attack.to_owned()).or_default();
        if visits.len() < VISITS_MAX {
            visits.push(by.to_owned());
        }
    }

    async fn listen(&self, visitor: &mut (dyn AsyncRead + Unpin + Send), by: &str) {
        let mut said = vec![0; HELLO_BYTES_MAX];
        let count = timeout(PATIENCE, visitor.read(&mut said)).await;
        if let Ok(Ok(count)) = count {
            self.note(said.get(..count).unwrap_or_default(), by);
        }
    }
}

/// Returns the attack that a visitor of this run names, as `<run>=<attack>=`.
fn attack_of(said: &str, run: &str) -> Option<&'static str> {
    let (_, rest) = said.split_once(run)?;
    let (name, _) = rest.strip_prefix('=')?.split_once('=')?;
    ATTACKS
        .iter()
        .map(|attack| attack.name)
        .find(|known| *known == name)
}

/// One visitor after another: there is one at most that is ours, and the others cost two seconds.
async fn hear_tcp(listener: TcpListener, ear: Ear) {
    loop {
        match listener.accept().await {
            Ok((mut stream, peer)) => ear.listen(&mut stream, &format!("tcp from {peer}")).await,
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
    }
}

async fn hear_udp(socket: UdpSocket, ear: Ear) {
    let mut said = vec![0; HELLO_BYTES_MAX];
    loop {
        match socket.recv_from(&mut said).await {
            Ok((count, peer)) => ear.note(said.get(..count).unwrap_or_default(), &format!("udp from {peer}")),
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
    }
}

async fn hear_unix(listener: UnixListener, ear: Ear) {
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => ear.listen(&mut stream, "abstract socket").await,
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
    }
}

/// Returns the addresses of this host: the loopback's, the engine's bridges, those of its networks.
fn addresses() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut addresses: Vec<IpAddr> = local_v4(&v4).into_iter().map(IpAddr::V4).collect();
    addresses.extend(local_v6(&v6).into_iter().map(IpAddr::V6));
    addresses.push(Ipv4Addr::LOCALHOST.into());
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// Reads the local addresses out of the kernel's table of routes: a leaf, and below it `/32 host LOCAL`.
fn local_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut leaf: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in table.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(leaf);
        }
    }
    found
}

/// Reads the addresses of the interfaces; those of one link only cannot be named without it.
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    table
        .lines()
        .filter_map(|line| {
            let digits = line.split_whitespace().next()?;
            u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from_bits)
        })
        .filter(|address| !address.is_unicast_link_local())
        .collect()
}

/// Returns the address at which the canaries listen on the loopback, other than the first that a policy may allow.
pub(super) fn second_loopback(tcp_port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), tcp_port))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_hosts_addresses_are_read_as_the_kernel_writes_them() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 172.17.0.0\n        /16 link UNICAST\n     \
                     |-- 172.17.0.1\n        /32 host LOCAL\n     |-- 172.17.255.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(table), [Ipv4Addr::new(172, 17, 0, 1)]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000004200fffe123456 02 40 20 80     eth0\n";
        assert_eq!(local_v6(table), [Ipv6Addr::LOCALHOST]);
    }

    #[test]
    fn only_visitors_of_this_run_are_noted() {
        assert_eq!(attack_of("r1=docker-port=\n", "r1"), Some("docker-port"));
        assert_eq!(
            attack_of("GET /r1=redirect-to-loopback=/x HTTP/1.1", "r1"),
            Some("redirect-to-loopback")
        );
        for said in [
            "",
            "r2=docker-port=",
            "r1=nothing=",
            "r1 docker-port",
            "r1=docker-port",
        ] {
            assert_eq!(attack_of(said, "r1"), None, "{said}");
        }
    }

    #[tokio::test]
    async fn a_visitor_is_heard_by_tcp_udp_and_name() {
        let tasks = Tasks::new();
        let name = format!("horde-test-{}", uuid::Uuid::new_v4());
        let canaries = Canaries::open("r1", &name, &tasks).await.unwrap();
        let mut tcp = tokio::net::TcpStream::connect(second_loopback(canaries.tcp_port))
            .await
            .unwrap();
        tcp.write_all(b"r1=host-loopback=\n").await.unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        udp.send_to(b"r1=udp-dns=", ("127.0.0.1", canaries.udp_port))
            .await
            .unwrap();
        let mut unix = {
            let address = UnixAddr::from_abstract_name(&name).unwrap();
            let stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            stream.set_nonblocking(true).unwrap();
            tokio::net::UnixStream::from_std(stream).unwrap()
        };
        unix.write_all(b"r1=abstract-sockets=").await.unwrap();
        let all = async {
            while canaries.heard().len() < 3 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), all).await.unwrap();
        tasks.abort();
    }
}
