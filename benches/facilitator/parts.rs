//! The parts of the stage: the chain, a list of old jobs, the facilitator under test, the bare server.

use std::path::Path;

use horde::core::chain::local::{BLOCK_TIME, LocalChain, Registration};
use horde::core::clock::Clock;
use horde::core::crypto::Keypair;
use horde::core::model::{ExecutorClass, Hotkey};
use horde::core::store::facilitator::FacilitatorStore;
use tokio::process::Command;

use crate::Failure;
use crate::process::{Process, free_address, itself};

/// The word that makes this program the bare server.
pub(crate) const BARE: &str = "--as-bare-server";

/// Validators that are connected.
pub(crate) const VALIDATORS: usize = 10;

/// The user with the long list.
pub(crate) const READER: &str = "//Reader";

/// The class of all jobs.
pub(crate) const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

/// The image that is named, and never looked for.
pub(crate) const IMAGE: &str = "horde-sample:latest";

/// The subnet on the local chain.
const NETUID: u16 = 12;

/// A validator's stake in rao: a hundred thousand tokens.
const STAKE_RAO: u64 = 100_000 * 1_000_000_000;

/// The name of the local chain's file.
const CHAIN: &str = "chain.sqlite";

/// Old jobs that are stored at a time.
const AT_ONCE: u32 = 128;

/// Makes a local chain with validators, who have permits; returns their keys.
pub(crate) async fn make_chain(directory: &Path) -> Result<Vec<Keypair>, Failure> {
    let chain = LocalChain::open(&directory.join(CHAIN), NETUID, BLOCK_TIME, Clock::system()).await?;
    let mut validators = Vec::new();
    for number in 0..VALIDATORS {
        let keypair = Keypair::from_uri(&format!("//Validator/{number}"))?;
        let hotkey = keypair.hotkey().clone();
        let registration = Registration {
            coldkey: hotkey.clone(),
            hotkey,
            stake_rao: STAKE_RAO,
            validator_permit: true,
        };
        chain.register(registration).await?;
        validators.push(keypair);
    }
    Ok(validators)
}

/// Stores a list of jobs that have ended, as a facilitator of long standing has them.
pub(crate) async fn make_list(directory: &Path, validator: &Hotkey, jobs: u32) -> Result<(), Failure> {
    let store = FacilitatorStore::open(&directory.join("facilitator").join("facilitator.sqlite"))?;
    let owner = Keypair::from_uri(READER)?.hotkey().clone();
    let now = Clock::system().now();
    let mut left = jobs;
    while left > 0 {
        let some = left.min(AT_ONCE);
        let inserts = (0..some).map(|_| store.insert(crate::old_job::make(&owner, validator, now)));
        futures_util::future::try_join_all(inserts).await?;
        left -= some;
    }
    Ok(())
}

/// Starts the facilitator under test on the chain in `directory`.
pub(crate) async fn facilitator(directory: &Path) -> Result<Process, Failure> {
    let address = free_address().await?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_horde"));
    crate::process::alone(&mut command);
    command
        .env("HORDE_CHAIN_PATH", directory.join(CHAIN))
        .env("HORDE_FACILITATOR_ALLOW_ANY_USER", "true")
        // All users log in from one address, one after the other; and a machine may run other facilitators.
        .env("HORDE_FACILITATOR_LOGIN_RATE", "1000000")
        .env("HORDE_FACILITATOR_METRICS_LISTEN", "off")
        .arg("--dir")
        .arg(directory.join("facilitator"))
        .args(["facilitator", "run", "--listen", &address.to_string()]);
    Process::start(command, address).await
}

/// Starts the bare server.
pub(crate) async fn bare() -> Result<Process, Failure> {
    let address = free_address().await?;
    let mut command = itself()?;
    command.arg(BARE).arg(address.to_string());
    Process::start(command, address).await
}
