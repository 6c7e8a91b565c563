//! The local chain: blocks by the clock, everything else in one file that all roles of a machine share.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use thiserror::Error;
use time::OffsetDateTime;

use super::{Chain, ChainError, Head, Refusal, Weights, rules};
pub use crate::core::store::local_chain::Registration;
use crate::core::{
    clock::Clock,
    crypto::Keypair,
    model::subnet::{Axon, Block, Metagraph},
    store::{
        OpenError, StoreError,
        local_chain::{Genesis, LocalChainStore, Step},
    },
};

/// Time between two blocks of the real chain, and of the local one unless told otherwise: 12 s (chain.md §1).
pub const BLOCK_TIME: Duration = Duration::from_secs(12);

/// A subnet of the local chain.
#[derive(Debug, Clone)]
pub struct LocalChain {
    store: LocalChainStore,
    clock: Clock,
    netuid: u16,
    genesis: Genesis,
}

/// The local chain could not be opened.
#[derive(Debug, Error)]
pub enum LocalChainError {
    /// Its file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its file cannot be read.
    #[error("the local chain cannot be read")]
    Store(#[from] StoreError),
}

impl LocalChain {
    /// Opens the chain in the file at `path`, making it where missing.
    ///
    /// The first process to open a chain sets its genesis to now and its pace to `block_time`
    /// (at least a millisecond); the others find it as it is.
    pub async fn open(
        path: &Path,
        netuid: u16,
        block_time: Duration,
        clock: Clock,
    ) -> Result<Self, LocalChainError> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || LocalChainStore::open(&path));
        let store = opening.await.map_err(|_| StoreError::Panicked)??;
        let proposal = Genesis {
            unix_millis: unix_millis(clock.now()),
            block_millis: i64::try_from(block_time.as_millis()).unwrap_or(i64::MAX).max(1),
        };
        let genesis = store.genesis(proposal).await?;
        Ok(Self {
            store,
            clock,
            netuid,
            genesis,
        })
    }

    /// Returns the time between two blocks.
    pub fn block_time(&self) -> Duration {
        Duration::from_millis(self.genesis.block_millis.unsigned_abs())
    }

    /// Registers a hotkey, or updates its stake, coldkey and permit; returns its uid.
    ///
    /// On a real chain this costs the owner money and is no business of the roles, so the trait lacks it.
    pub async fn register(&self, registration: Registration) -> Result<u16, ChainError> {
        let block = self.newest().block;
        let uid = self.store.register(self.netuid, registration, block).await?;
        Ok(uid.ok_or(Refusal::SubnetFull)?)
    }

    /// The newest block, which follows from the clock alone; before the genesis it is block 0.
    fn newest(&self) -> Head {
        let Genesis {
            unix_millis: start,
            block_millis,
        } = self.genesis;
        let elapsed = unix_millis(self.clock.now()).saturating_sub(start).max(0);
        let number = elapsed.checked_div(block_millis).unwrap_or(0);
        let time = start.saturating_add(number.saturating_mul(block_millis));
        Head {
            block: Block(number.unsigned_abs()),
            time: OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        }
    }
}

fn unix_millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl From<StoreError> for ChainError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

#[async_trait]
impl Chain for LocalChain {
    async fn head(&self) -> Result<Head, ChainError> {
        Ok(self.newest())
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        Ok(self.store.metagraph(self.netuid, self.newest().block).await?)
    }

    async fn serve_axon(&self, signer: &Keypair, axon: Axon) -> Result<(), ChainError> {
        let hotkey = signer.hotkey().clone();
        let served = move |subnet: &Metagraph| {
            let uid = rules::serve(subnet, &hotkey, axon)?;
            Ok::<_, Refusal>(Step::Serve { uid, axon })
        };
        Ok(self
            .store
            .apply(self.netuid, self.newest().block, served)
            .await??)
    }

    async fn set_weights(&self, signer: &Keypair, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let hotkey = signer.hotkey().clone();
        let wanted = weights.to_vec();
        let weighed = move |subnet: &Metagraph| {
            let (uid, weights) = rules::weigh(subnet, &hotkey, &wanted)?;
            Ok::<_, Refusal>(Step::Weigh { uid, weights })
        };
        Ok(self
            .store
            .apply(self.netuid, self.newest().block, weighed)
            .await??)
    }

    async fn weights(&self) -> Result<Weights, ChainError> {
        Ok(self.store.weights(self.netuid).await?)
    }
}
