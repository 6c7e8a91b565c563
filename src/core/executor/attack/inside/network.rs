//! Ways to other machines, to the host and to other jobs.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket};

use super::super::catalogue::NEIGHBOUR_PORT;
use super::super::probe::{Got, Orders, Step, abstract_name};
use super::{Refusal, found, step};

/// How long a connection may take. A network that is not there refuses at once.
const PATIENCE: Duration = Duration::from_millis(700);

/// Addresses for documentation (RFC 5737, RFC 3849): a sandbox with a way to the Internet lets packets to them out,
/// and they trouble nobody there.
const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Where clouds tell machines their secrets.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// Where engines listen.
const ENGINE_SOCKETS: [&str; 7] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
];

/// The engine's ports without and with TLS.
const ENGINE_PORTS: [u16; 2] = [2375, 2376];

/// How many addresses after each of the host's own are tried for other containers.
const NEIGHBOURS_TRIED: u32 = 3;

pub(super) fn attempt(name: &str, orders: &Orders) -> Option<Vec<Step>> {
    let hello = orders.hello(name);
    Some(match name {
        "routes" => routes(),
        "tcp-internet" => INTERNET.map(|address| tcp(address, 443, &hello)).to_vec(),
        "udp-dns" => name_servers()
            .into_iter()
            .chain(INTERNET)
            .map(|address| udp(address, 53, &hello))
            .collect(),
        "metadata-address" => METADATA.map(|address| tcp(address, 80, &hello)).to_vec(),
        "host-addresses" => reach(orders, |address| !address.is_loopback(), &hello),
        "host-loopback" => reach(orders, IpAddr::is_loopback, &hello),
        "icmp" => icmp(),
        "packet-sockets" => vec![step(
            "socket(AF_PACKET)",
            socket(AddressFamily::PACKET, SocketType::RAW, None),
            "a socket that sees all packets",
        )],
        "abstract-sockets" => abstract_sockets(orders, &hello),
        "docker-socket" => engine_sockets(),
        "docker-port" => orders
            .addresses
            .iter()
            .flat_map(|address| ENGINE_PORTS.map(|port| tcp(*address, port, &hello)))
            .collect(),
        "neighbour" => neighbours(orders, &hello),
        _ => return None,
    })
}

/// Lists what could carry a packet away: routes and addresses other than the loopback's.
fn routes() -> Vec<Step> {
    // Interface, destination; the first line is a heading.
    let v4 = lines("/proc/net/route").skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some(format!("{} to {}", fields.next()?, fields.next()?))
    });
    // The interface is the last field; unreachable routes belong to the loopback's.
    let v6 = lines("/proc/net/ipv6_route").filter_map(|line| {
        let interface = line.split_whitespace().next_back()?;
        let target = line.split_whitespace().next()?;
        (interface != "lo").then(|| format!("{interface} to {target}"))
    });
    let addresses = lines("/proc/net/if_inet6").filter_map(|line| {
        let interface = line.split_whitespace().next_back()?;
        (interface != "lo").then(|| format!("{interface} has an address"))
    });
    vec![found(
        "routes and addresses",
        v4.chain(v6).chain(addresses).collect(),
    )]
}

fn reach(orders: &Orders, is_meant: impl Fn(&IpAddr) -> bool, hello: &[u8]) -> Vec<Step> {
    let addresses = orders.addresses.iter().copied().filter(is_meant);
    addresses
        .flat_map(|address| {
            [
                tcp(address, orders.tcp_port, hello),
                udp(address, orders.udp_port, hello),
            ]
        })
        .collect()
}

fn tcp(address: IpAddr, port: u16, hello: &[u8]) -> Step {
    let target = SocketAddr::new(address, port);
    let tried = format!("tcp {target}");
    match TcpStream::connect_timeout(&target, PATIENCE) {
        Ok(mut stream) => step(tried, stream.write_all(hello).map_err(Refusal::from), "connected"),
        // The kernel found a way; only nobody answered.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            done(tried, "a packet left, without an answer")
        }
        Err(error) => step(tried, Err::<(), _>(error), ""),
    }
}

fn udp(address: IpAddr, port: u16, hello: &[u8]) -> Step {
    let target = SocketAddr::new(address, port);
    let own: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let sent = UdpSocket::bind((own, 0)).and_then(|socket| {
        socket.connect(target)?;
        socket.send(hello)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Tells whether anybody is there: on the own loopback nobody is, and the kernel says so.
        match socket.recv(&mut [0; 16]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(())
            }
            other => other.map(drop),
        }
    });
    step(format!("udp {target}"), sent, "a packet left")
}

/// Reads which name servers the container was told of.
fn name_servers() -> Vec<IpAddr> {
    lines("/etc/resolv.conf")
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

fn icmp() -> Vec<Step> {
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP));
    let raw6 = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6));
    let ping = ping(ipproto::ICMP);
    vec![
        step("raw ICMP socket", raw, "a socket that forges packets"),
        step("raw ICMPv6 socket", raw6, "a socket that forges packets"),
        step("ping 192.0.2.1", ping, "a packet left"),
    ]
}

/// Pings with the kind of socket that needs no right, where the engine allows it.
fn ping(protocol: Protocol) -> rustix::io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(protocol))?;
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0)))?;
    // An echo request with number and checksum left to the kernel.
    rustix::io::write(&socket, &[8, 0, 0, 0, 0, 0, 0, 1]).map(drop)
}

fn abstract_sockets(orders: &Orders, hello: &[u8]) -> Vec<Step> {
    let canary = shout(&abstract_name(&orders.run), hello);
    // What begins with `@` belongs to other programs; the attacker itself has none.
    let others = lines("/proc/net/unix").filter_map(|line| {
        let path = line.split_whitespace().nth(7)?.to_owned();
        path.starts_with('@').then_some(path)
    });
    vec![
        step("connect to the host's canary", canary, "connected"),
        found("abstract sockets", others.collect()),
    ]
}

fn shout(name: &str, hello: &[u8]) -> io::Result<()> {
    let address = UnixAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address)?.write_all(hello)
}

fn engine_sockets() -> Vec<Step> {
    ENGINE_SOCKETS
        .map(|path| {
            step(
                format!("connect to {path}"),
                UnixStream::connect(path),
                "connected",
            )
        })
        .to_vec()
}

fn neighbours(orders: &Orders, hello: &[u8]) -> Vec<Step> {
    let mut steps = vec![
        tcp(Ipv4Addr::LOCALHOST.into(), NEIGHBOUR_PORT, hello),
        step(
            "connect to another job's abstract socket",
            shout(&orders.neighbour_name(), hello),
            "connected",
        ),
    ];
    for address in &orders.addresses {
        let IpAddr::V4(own) = address else { continue };
        if own.is_loopback() {
            continue;
        }
        // Engines number containers upwards from their gateway.
        let next = (1..=NEIGHBOURS_TRIED).filter_map(|step| own.to_bits().checked_add(step));
        steps.extend(next.map(|bits| tcp(Ipv4Addr::from_bits(bits).into(), NEIGHBOUR_PORT, hello)));
    }
    steps
}

fn done(tried: String, what: &str) -> Step {
    Step {
        tried,
        got: Got::Done(what.to_owned()),
    }
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}
