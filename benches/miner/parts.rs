//! The parts of the stage: the chain, the miner under test, the bare server.

use std::path::Path;

use horde::core::chain::local::{BLOCK_TIME, LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;

use crate::Failure;
use crate::process::{Process, free_address, itself};
use crate::script::CLASS;

/// The word that makes this program the miner under test.
pub(crate) const MINER: &str = "--as-miner";

/// The word that makes this program the bare server.
pub(crate) const BARE: &str = "--as-bare-server";

/// The development key of the miner.
pub(crate) const MINER_KEY: &str = "//Bob";

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

/// Starts the miner under test on the chain in `directory`.
pub(crate) async fn miner(directory: &Path, socket: &Path) -> Result<Process, Failure> {
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
    Process::start(command, address).await
}

/// Starts the bare server.
pub(crate) async fn bare() -> Result<Process, Failure> {
    let address = free_address().await?;
    let mut command = itself()?;
    command.arg(BARE).arg(address.to_string());
    Process::start(command, address).await
}
