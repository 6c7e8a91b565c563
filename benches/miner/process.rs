//! Processes beside the load generator: their start, their end, and what they have used.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use horde::core::chain::local::{BLOCK_TIME, LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::script::CLASS;

/// The word that makes this program the miner under test.
pub(crate) const MINER: &str = "--as-miner";

/// The word that makes this program the bare server.
pub(crate) const BARE: &str = "--as-bare-server";

/// The development key of the miner.
pub(crate) const MINER_KEY: &str = "//Bob";

/// Time that a process has to end what is in hand.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The subnet on the local chain.
const NETUID: u16 = 12;

/// A validator's stake in rao: a hundred thousand tokens.
const STAKE_RAO: u64 = 100_000 * 1_000_000_000;

/// Validators on the chain; a subnet has 256 places.
const VALIDATORS: usize = 200;

/// The name of the local chain's file.
const CHAIN: &str = "chain.sqlite";

/// Executors of the miner: as many as there are jobs at a time, and some for those that are about to leave.
const EXECUTORS: usize = 128;

/// Milliseconds of one tick of the kernel's accounts: it shows hundredths of a second to every program.
const TICK_MS: f64 = 10.0;

/// A process of ours that is ended with this.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// Makes a local chain with validators, who have permits, and the miner; returns the validators' keys.
pub(crate) async fn make_chain(directory: &Path) -> Result<Vec<Keypair>, Failure> {
    let chain = LocalChain::open(&directory.join(CHAIN), NETUID, BLOCK_TIME, Clock::system()).await?;
    let mut validators = Vec::new();
    for number in 0..VALIDATORS {
        validators.push(Keypair::from_uri(&format!("//Validator/{number}"))?);
    }
    let miner = Keypair::from_uri(MINER_KEY)?;
    let neurons = validators.iter().map(|keypair| (keypair, STAKE_RAO));
    for (keypair, stake_rao) in neurons.chain([(&miner, 0)]) {
        let hotkey = keypair.hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao,
            validator_permit: stake_rao > 0,
        };
        chain.register(registration).await?;
    }
    Ok(validators)
}

impl Process {
    /// Starts the miner under test on the chain in `directory`.
    pub(crate) async fn miner(directory: &Path, socket: &Path) -> Result<Self, Failure> {
        let address = free_address().await?;
        let mut command = itself()?;
        command
            .env("HORDE_CHAIN_PATH", directory.join(CHAIN))
            .env("HORDE_WALLET_URI", MINER_KEY)
            .env("HORDE_MINER_EXECUTORS", format!("{CLASS}={EXECUTORS}"))
            .env("HORDE_MINER_ADDRESS", "127.0.0.1")
            .env("HORDE_MINER_DYNAMIC_CONFIG_URL", "off")
            .env("HORDE_MINER_METRICS_LISTEN", "off")
            .arg(MINER)
            .arg(directory)
            .arg(address.to_string())
            .arg(socket);
        Self::start(command, address).await
    }

    /// Starts the bare server.
    pub(crate) async fn bare() -> Result<Self, Failure> {
        let address = free_address().await?;
        let mut command = itself()?;
        command.arg(BARE).arg(address.to_string());
        Self::start(command, address).await
    }

    async fn start(mut command: Command, address: SocketAddr) -> Result<Self, Failure> {
        let mut child = command.spawn()?;
        let attempts = async {
            loop {
                match TcpStream::connect(address).await {
                    Ok(_) => return Ok::<_, Failure>(()),
                    Err(_) if child.try_wait()?.is_some() => return Err("it ended at its start".into()),
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, attempts)
            .await
            .map_err(|_| Failure::from("it does not listen"))??;
        Ok(Self { child, address })
    }

    fn id(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("a process has ended early")?)
    }

    /// Returns the milliseconds of CPU that it has used, user and system.
    pub(crate) fn cpu_ms(&self) -> Result<f64, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.id()?))?;
        // The second field is the program's name in parentheses; the times are fields 14 and 15.
        let (_, fields) = text.rsplit_once(") ").ok_or("an unknown stat")?;
        let mut fields = fields.split(' ').skip(11);
        let user: f64 = fields.next().ok_or("no user time")?.parse()?;
        let system: f64 = fields.next().ok_or("no system time")?.parse()?;
        Ok((user + system) * TICK_MS)
    }

    /// Returns its resident memory in KB (1000 bytes).
    pub(crate) fn resident_kb(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS in its status")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1.024)
    }

    /// Ends it the way a service manager does and waits for it.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()?)?).ok_or("no process")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "it does not stop")??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("it ended with {status}").into())
        }
    }
}

/// Returns this very program, with nothing of this process's own settings.
fn itself() -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
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
    Ok(command)
}

/// Returns a loopback address that was free a moment ago.
async fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
