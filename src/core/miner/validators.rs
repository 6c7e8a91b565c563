//! Who may ask for work: the validators of the metagraph, read every minute and when a stranger knocks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::chain::{Chain, ChainError};
use crate::core::model::Hotkey;
use crate::core::model::subnet::Metagraph;

/// Time between two readings: 60 s (sem-miner §13).
pub const REFRESH: Duration = Duration::from_secs(60);

/// Shortest time between two readings that strangers cause.
const STRANGER_REFRESH: Duration = Duration::from_secs(1);

/// What a hotkey is to the miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Registered, with a validator's permit.
    Active,
    /// Registered, without one.
    Inactive,
    /// Not registered.
    Unknown,
}

impl super::Miner {
    /// Returns the standing of a hotkey that calls from `peer`: one that `horde miner check` made for its own jobs is a
    /// validator for connections of this host.
    pub(super) async fn standing(&self, hotkey: &Hotkey, peer: IpAddr) -> Standing {
        let standing = self.validators.standing(hotkey).await;
        let is_of_this_host = peer.to_canonical().is_loopback() || peer == self.config.listen.ip();
        if standing == Standing::Active || !is_of_this_host {
            return standing;
        }
        match self.store.is_check_validator(hotkey, self.clock.now()).await {
            Ok(true) => Standing::Active,
            Ok(false) => standing,
            Err(error) => {
                tracing::error!(%error, "cannot look for the hotkeys of checks");
                standing
            }
        }
    }
}

/// The validators as last read.
#[derive(Debug)]
pub struct Validators {
    chain: Arc<dyn Chain>,
    // One reading at a time; holds when the last one was tried.
    reading: Mutex<Option<Instant>>,
    /// Registered hotkeys, and whether they have a permit.
    permits: RwLock<HashMap<Hotkey, bool>>,
}

impl Validators {
    /// Knows nobody until the first reading.
    pub fn new(chain: Arc<dyn Chain>) -> Self {
        Self {
            chain,
            reading: Mutex::new(None),
            permits: RwLock::default(),
        }
    }

    /// Reads the metagraph.
    pub async fn refresh(&self) -> Result<Metagraph, ChainError> {
        let mut reading = self.reading.lock().await;
        *reading = Some(Instant::now());
        let metagraph = self.chain.metagraph().await?;
        let permits = metagraph
            .neurons
            .iter()
            .map(|neuron| (neuron.hotkey.clone(), neuron.validator_permit))
            .collect();
        *self.permits.write().unwrap_or_else(PoisonError::into_inner) = permits;
        Ok(metagraph)
    }

    /// Returns the standing of a hotkey; for one that is not known as active the chain is asked, but not more often
    /// than once a second.
    pub async fn standing(&self, hotkey: &Hotkey) -> Standing {
        let known = self.known(hotkey);
        if known == Standing::Active {
            return known;
        }
        let is_due = match *self.reading.lock().await {
            Some(last) => last.elapsed() >= STRANGER_REFRESH,
            None => true,
        };
        if is_due && let Err(error) = self.refresh().await {
            tracing::warn!(%error, "cannot read the metagraph");
        }
        self.known(hotkey)
    }

    fn known(&self, hotkey: &Hotkey) -> Standing {
        let permits = self.permits.read().unwrap_or_else(PoisonError::into_inner);
        match permits.get(hotkey) {
            Some(true) => Standing::Active,
            Some(false) => Standing::Inactive,
            None => Standing::Unknown,
        }
    }
}
