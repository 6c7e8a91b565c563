//! What the processes cost by themselves: start of a miner and its memory, start of an executor.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use horde::core::chain::local::{BLOCK_TIME, LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::host::floors::Floors;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Failure;
use crate::figure::Sample;

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The development key of the validator.
pub(crate) const VALIDATOR: &str = "//Alice";

/// The development key of the miner.
pub(crate) const MINER: &str = "//Bob";

/// The subnet on the local chain.
const NETUID: u16 = 12;

/// The validator's stake in rao: a hundred thousand tokens.
const STAKE_RAO: u64 = 100_000 * 1_000_000_000;

/// The file of the local chain.
const CHAIN: &str = "chain.sqlite";

/// How long a miner is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(1);

/// What was measured of a miner.
#[derive(Debug, Default)]
pub(crate) struct Miner {
    /// Seconds from its start until it takes connections.
    pub(crate) start: Sample,
    /// Resident memory of all its processes at rest, in MB (10^6 bytes).
    pub(crate) megabytes: Sample,
}

/// Returns the binary under test, with nothing of this process's own settings.
pub(crate) fn horde() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_horde"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HORDE_") {
            command.env_remove(name);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Makes a local chain with the validator, who has a permit, and the miner.
pub(crate) async fn make_chain(directory: &Path) -> Result<(), Failure> {
    let chain = LocalChain::open(&directory.join(CHAIN), NETUID, BLOCK_TIME, Clock::system()).await?;
    for (uri, stake_rao) in [(VALIDATOR, STAKE_RAO), (MINER, 0)] {
        let hotkey = Keypair::from_uri(uri)?.hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao,
            validator_permit: stake_rao > 0,
        };
        chain.register(registration).await?;
    }
    Ok(())
}

/// Starts a miner with a development key and one executor class, on the local chain in `directory`.
///
/// Its executors take every named risk of the machine: what runs here is the benchmark's own.
pub(crate) fn start_miner(directory: &Path, listen: SocketAddr) -> Result<Child, Failure> {
    let risks: Vec<_> = Floors::built_in()?
        .list
        .into_iter()
        .map(|floor| floor.id)
        .collect();
    let mut command = horde();
    command
        .env("HORDE_EXECUTOR_ACCEPT", risks.join(","))
        .env("HORDE_WALLET_URI", MINER)
        .env("HORDE_CHAIN_PATH", directory.join(CHAIN))
        .arg("--dir")
        .arg(directory.join("miner"))
        .args([
            "miner",
            "run",
            "--backend",
            "process",
            "--executors",
            "always_on.test=2",
        ])
        .arg("--listen")
        .arg(listen.to_string());
    Ok(command.spawn()?)
}

/// Waits until somebody takes connections at `address`.
pub(crate) async fn listening(address: SocketAddr, child: &mut Child) -> Result<(), Failure> {
    let attempts = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(_) if child.try_wait()?.is_some() => return Err("the miner ended at its start".into()),
                Err(_) => sleep(Duration::from_micros(500)).await,
            }
        }
    };
    timeout(PATIENCE, attempts)
        .await
        .map_err(|_| "the miner does not listen")?
}

/// Returns a loopback address that was free a moment ago.
pub(crate) async fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

/// Ends a process the way a service manager does and waits for it.
pub(crate) async fn stop(mut child: Child) -> Result<(), Failure> {
    if let Some(id) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
    }
    timeout(PATIENCE, child.wait())
        .await
        .map_err(|_| "the miner does not stop")??;
    Ok(())
}

/// Starts a miner anew for each run, after one start that makes its database and does not count (the
/// reference was measured with a migrated database, too).
pub(crate) async fn miner_start_and_memory(runs: usize) -> Result<Miner, Failure> {
    let mut measured = Miner::default();
    let directory = tempfile::tempdir()?;
    make_chain(directory.path()).await?;
    for run in 0..=runs {
        let address = free_address().await?;
        let started = Instant::now();
        let mut child = start_miner(directory.path(), address)?;
        listening(address, &mut child).await?;
        let start = started.elapsed().as_secs_f64();
        if run > 0 {
            sleep(IDLE).await;
            let id = child.id().ok_or("the miner ended while idle")?;
            measured.start.add(start);
            measured.megabytes.add(resident_megabytes(id)?);
        }
        stop(child).await?;
    }
    Ok(measured)
}

/// Returns the resident memory of a process and all its descendants, in MB.
fn resident_megabytes(id: u32) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in its status")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let mut sum = kilobytes * 1024.0 / 1e6;
    for child in children.split_whitespace() {
        sum += resident_megabytes(child.parse()?)?;
    }
    Ok(sum)
}

/// Starts an executor for each run; a listener stands in for the miner.
pub(crate) async fn executor_start(runs: usize) -> Result<Sample, Failure> {
    let mut sample = Sample::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("ws://{}", listener.local_addr()?);
    for _ in 0..runs {
        let started = Instant::now();
        let mut child = horde()
            .env("MINER_ADDRESS", &address)
            .env("EXECUTOR_TOKEN", "benchmark")
            .args(["executor", "run", "--startup-time-limit", "5"])
            .spawn()?;
        timeout(PATIENCE, shake_hands(&listener))
            .await
            .map_err(|_| "the executor does not connect")??;
        sample.add(started.elapsed().as_secs_f64());
        child.kill().await?;
    }
    Ok(sample)
}

/// Answers one websocket handshake and drops the connection.
async fn shake_hands(listener: &TcpListener) -> Result<(), Failure> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (mut stream, _) = listener.accept().await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Err("the executor closed before its handshake was over".into());
        }
    }
    let request = String::from_utf8(request)?;
    let key = request
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then(|| value.trim())
        })
        .ok_or("the executor sent no websocket key")?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}
