//! The chain: a trait, and a local implementation that the roles of one machine share.
//!
//! Reads are about one subnet, which the implementation knows. Writes are
//! extrinsics signed by a hotkey, free of charge, and refused by the same rules
//! everywhere ([`Refusal`]).

pub mod local;
pub mod rules;

use std::{collections::BTreeMap, error::Error, fmt::Debug};

use async_trait::async_trait;
use thiserror::Error;
use time::OffsetDateTime;

pub use self::rules::Refusal;
use crate::core::{
    crypto::Keypair,
    model::subnet::{Axon, Block, Metagraph},
};

/// The newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub block: Block,
    /// Its time, in UTC.
    pub time: OffsetDateTime,
}

/// The rows of weights of a subnet: uid of the validator → (uid of the miner, weight) by rising uid.
pub type Weights = BTreeMap<u16, Vec<(u16, u16)>>;

/// The chain did not do what was asked.
#[derive(Debug, Error)]
pub enum ChainError {
    /// The chain's rules forbid it.
    #[error("the chain refuses: {0}")]
    Refused(#[from] Refusal),
    /// The chain cannot be reached or read; trying again may help.
    #[error("the chain is not available")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// A subnet of a chain, as the roles see it.
#[async_trait]
pub trait Chain: Debug + Send + Sync {
    /// Returns the newest block.
    async fn head(&self) -> Result<Head, ChainError>;

    /// Returns all neurons of the subnet at the newest block.
    async fn metagraph(&self) -> Result<Metagraph, ChainError>;

    /// Announces where the signer's neuron can be reached.
    async fn serve_axon(&self, signer: &Keypair, axon: Axon) -> Result<(), ChainError>;

    /// Replaces the signer's row of weights; values are scaled up so that the largest is 65535.
    async fn set_weights(&self, signer: &Keypair, weights: &[(u16, u16)]) -> Result<(), ChainError>;

    /// Returns all rows of weights of the subnet.
    async fn weights(&self) -> Result<Weights, ChainError>;
}
