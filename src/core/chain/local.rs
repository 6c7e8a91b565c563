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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use time::macros::datetime;

    use super::*;
    use crate::core::model::Hotkey;

    const START: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);

    fn key(uri: &str) -> Keypair {
        Keypair::from_uri(uri).unwrap()
    }

    fn registration(key: &Keypair, validator_permit: bool) -> Registration {
        Registration {
            hotkey: key.hotkey().clone(),
            coldkey: Hotkey::new("cold"),
            stake_rao: 1_000_000_000,
            validator_permit,
        }
    }

    #[tokio::test]
    async fn blocks_follow_the_clock_at_the_pace_of_the_genesis() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.sqlite");
        let clock = Clock::fixed(START);
        let open = |seconds| LocalChain::open(&path, 12, Duration::from_secs(seconds), clock.clone());
        let chain = open(12).await.unwrap();
        assert_eq!(
            chain.head().await.unwrap(),
            Head {
                block: Block(0),
                time: START
            }
        );
        clock.advance(Duration::from_millis(35_999));
        let head = Head {
            block: Block(2),
            time: START + Duration::from_secs(24),
        };
        assert_eq!(chain.head().await.unwrap(), head);
        // Who comes later finds the chain as it is.
        let later = open(1).await.unwrap();
        assert_eq!(later.head().await.unwrap(), head);
        assert_eq!(later.block_time(), BLOCK_TIME);
    }

    #[tokio::test]
    async fn what_one_role_writes_the_others_see() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.sqlite");
        let clock = Clock::fixed(START);
        let open = |netuid| LocalChain::open(&path, netuid, BLOCK_TIME, clock.clone());
        let (up, miner, validator) = (
            open(12).await.unwrap(),
            open(12).await.unwrap(),
            open(12).await.unwrap(),
        );
        let (alice, bob) = (key("//Alice"), key("//Bob"));
        assert_eq!(up.register(registration(&alice, true)).await.unwrap(), 0);
        assert_eq!(up.register(registration(&bob, false)).await.unwrap(), 1);
        assert_eq!(up.register(registration(&alice, true)).await.unwrap(), 0);

        clock.advance(BLOCK_TIME);
        let axon = Axon {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 8000,
        };
        miner.serve_axon(&bob, axon).await.unwrap();
        validator.set_weights(&alice, &[(1, 7)]).await.unwrap();
        validator.set_weights(&alice, &[(1, 9), (0, 3)]).await.unwrap();

        let subnet = validator.metagraph().await.unwrap();
        assert_eq!(
            (subnet.netuid, subnet.block, subnet.neurons.len()),
            (12, Block(1), 2)
        );
        let neuron = subnet.neuron(bob.hotkey()).unwrap();
        assert_eq!(neuron.axon, Some(axon));
        assert_eq!(
            (neuron.stake_rao, neuron.validator_permit),
            (1_000_000_000, false)
        );
        assert_eq!((neuron.registered_at, neuron.last_update), (Block(0), Block(1)));
        assert_eq!(
            miner.weights().await.unwrap(),
            Weights::from([(0, vec![(0, 21845), (1, 65535)])])
        );
        // Another subnet in the same file is another world.
        assert_eq!(open(13).await.unwrap().metagraph().await.unwrap().neurons, []);
    }

    #[tokio::test]
    async fn a_refused_write_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.sqlite");
        let chain = LocalChain::open(&path, 12, BLOCK_TIME, Clock::fixed(START))
            .await
            .unwrap();
        let alice = key("//Alice");
        let axon = Axon {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 8000,
        };
        let refused = chain.serve_axon(&alice, axon).await;
        assert!(
            matches!(refused, Err(ChainError::Refused(Refusal::NotRegistered(_)))),
            "{refused:?}"
        );
        chain.register(registration(&alice, true)).await.unwrap();
        chain.set_weights(&alice, &[(0, 1)]).await.unwrap();
        chain.set_weights(&alice, &[(1, 1)]).await.unwrap_err();
        assert_eq!(
            chain.weights().await.unwrap(),
            Weights::from([(0, vec![(0, 65535)])])
        );
    }
}
