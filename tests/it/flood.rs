//! Ten thousand connections that never say who they are, and a real validator among them.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::door::{Miner, Validator};
use horde::core::crypto::Keypair;
use horde::core::proto::validator_miner::Up;

/// Connections of the flood.
const CONNECTIONS: usize = 10_000;

/// Files of the test process that are not the flood's: other tests run beside it.
const OTHER_FILES: usize = 2_000;

/// How often the validator brings a job; the miner has an executor for each.
const ROUNDS: usize = 5;

/// Parts of the flood, each of which comes at once.
const WAVES: usize = 8;

/// Most memory of the miner during the flood, in KiB: generous, but far below what ten thousand sessions would take.
const MEMORY_KIB_MAX: u64 = 400 * 1024;

/// Longest time for which the real validator may wait for its acceptance: below the 7 s of the wire on an idle machine,
/// more while other tests have its cores.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// Raises this process's limit of open files, and returns how many connections it allows.
#[expect(clippy::print_stderr, reason = "a smaller flood must be told")]
fn connections_allowed() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let files = limit
        .maximum
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    let allowed = CONNECTIONS.min(files.saturating_sub(OTHER_FILES));
    if allowed < CONNECTIONS {
        eprintln!("the hard limit of open files is {files}: a flood of {allowed} instead of {CONNECTIONS}");
    }
    allowed
}

/// What one of the flood sends before it is silent.
fn opening(number: usize, hotkey: &str) -> String {
    let path = format!("/v0.1/validator_interface/{hotkey}");
    match number % 3 {
        0 => String::new(),
        1 => format!("GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: webs"),
        _ => format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    }
}

/// Opens one connection of the flood; none where the system has no room for it.
async fn knock(source: Ipv4Addr, port: u16, opening: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((source, 0))).ok()?;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = timeout(Duration::from_secs(10), socket.connect(target))
        .await
        .ok()?
        .ok()?;
    let stream = stream.into_std().ok()?;
    // What the miner has cut off already is no concern of the flood.
    drop((&stream).write(opening.as_bytes()));
    TcpStream::from_std(stream).ok()
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Authenticates, takes the manifest and brings a job until its executor is started; returns how long it took until the
/// job was accepted.
async fn be_served(miner: &Miner) -> Duration {
    let started = Instant::now();
    let mut alice = Validator::trusted(miner, "//Alice").await;
    let job = alice.request().await;
    let mut accepted = None;
    loop {
        let message = alice.expect().await;
        // The jobs before this one still wait for their orders, and this connection takes them over.
        if !message.encode().contains(job.as_str()) {
            continue;
        }
        match message {
            Up::Accepted(_) => accepted = Some(started.elapsed()),
            // With an engine it is ready, without one it says so: both come from an executor that was started.
            Up::ExecutorReady(_) | Up::HordeFailed(_) => return accepted.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// Floods a miner from the addresses that `source` gives, and is served meanwhile, and afterwards.
#[expect(clippy::print_stderr, reason = "the figures are what people ask for")]
async fn withstand(source: impl Fn(usize) -> Ipv4Addr) {
    let allowed = connections_allowed();
    let miner = Miner::start_with(ROUNDS, &[]).await;
    let hotkey = Keypair::from_uri("//Alice").unwrap().hotkey().to_string();
    let quiet = memory_kib(miner.pid());
    let mut flood: Vec<TcpStream> = Vec::with_capacity(allowed);
    let (mut served, begun) = (Vec::new(), Instant::now());
    for wave in 0..WAVES {
        let numbers = wave * allowed / WAVES..(wave + 1) * allowed / WAVES;
        let knocking = numbers.map(|number| {
            let opening = opening(number, &hotkey);
            let source = source(number);
            async move { knock(source, miner.port, &opening).await }
        });
        let knocking = futures_util::future::join_all(knocking);
        if wave % 2 == 1 {
            // In the middle of it.
            let (came, took) = tokio::join!(knocking, be_served(&miner));
            flood.extend(came.into_iter().flatten());
            served.push(took);
        } else {
            flood.extend(knocking.await.into_iter().flatten());
        }
    }
    eprintln!(
        "flood: {} connections in {:?}, served meanwhile after {served:?}, memory {quiet} KiB before, {} KiB now",
        flood.len(),
        begun.elapsed(),
        memory_kib(miner.pid())
    );
    assert_eq!(served.len(), ROUNDS - 1);
    assert!(flood.len() > allowed * 9 / 10, "only {} got through", flood.len());
    served.push(be_served(&miner).await);
    let memory = memory_kib(miner.pid());
    assert!(memory < MEMORY_KIB_MAX, "{quiet} KiB before, {memory} KiB now");
    for took in &served {
        assert!(*took < SERVED_WITHIN, "{served:?}");
    }
    drop(flood);
}

#[tokio::test]
async fn ten_thousand_silent_connections_from_everywhere_do_not_keep_a_validator_out() {
    // 5,000 addresses, two connections each.
    withstand(|number| {
        let [_, _, high, low] = u32::try_from(number / 2).unwrap().to_be_bytes();
        Ipv4Addr::new(127, 1, high, low.max(1))
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_silent_connections_from_the_validators_own_address_do_not_keep_it_out() {
    withstand(|_| Ipv4Addr::LOCALHOST).await;
}
