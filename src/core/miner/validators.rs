//! Who may ask for work: the validators of the metagraph, read every minute and when a stranger knocks, and those of
//! the operator.
//!
//! The reference of Oct 2024 takes neurons with at least 1000 units of stake, or the fixed hotkey
//! [`FIXED_VALIDATOR`], sorted with the fixed one first and then by stake, the first 24 (sem-miner §2.2, chain.md §3).
//! Today's takes what its chain service lists, which is who has the chain's permit. On today's network both come to
//! this rule: registered, and either the fixed hotkey, or with a permit and with at least the stake of
//! `miner.validator_stake_min`. A cut after 24 is not made: the chain itself gives permits to so many of the richest
//! only as its hyperparameter `max_validators` says, and a validator that may set weights must be able to send jobs.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::chain::{Chain, ChainError};
use crate::core::model::Hotkey;
use crate::core::model::subnet::Metagraph;
use crate::core::store::miner::validators::{Block, ListedValidator, ValidatorOrders};

/// Time between two readings: 60 s (sem-miner §13).
pub const REFRESH: Duration = Duration::from_secs(60);

/// Shortest time between two readings that strangers cause.
const STRANGER_REFRESH: Duration = Duration::from_secs(1);

/// The validator that every miner of the network serves, whatever its stake (`BAC_VALIDATOR_SS58_ADDRESS`,
/// chain.md §3).
pub const FIXED_VALIDATOR: &str = "5HBVrFGy6oYhhh71m9fFGYD7zbKyAeHnWN8i8s9fJTBMCtEE";

/// Rao in one unit of stake.
const RAO: u64 = 1_000_000_000;

/// What a hotkey is to the miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// On the list of validators, or let in by the operator.
    Active,
    /// Registered, but not on the list.
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

/// What the chain says, by the rule of this file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Roll {
    /// The active ones in their order.
    active: Vec<ListedValidator>,
    active_hotkeys: HashSet<Hotkey>,
    registered: HashSet<Hotkey>,
}

impl Roll {
    fn of(metagraph: &Metagraph, stake_min_rao: u64) -> Self {
        let mut active: Vec<ListedValidator> = metagraph
            .neurons
            .iter()
            .filter(|neuron| {
                neuron.hotkey.as_str() == FIXED_VALIDATOR
                    || (neuron.validator_permit && neuron.stake_rao >= stake_min_rao)
            })
            .map(|neuron| ListedValidator {
                hotkey: neuron.hotkey.clone(),
                stake_rao: neuron.stake_rao,
            })
            .collect();
        active.sort_by_key(|validator| {
            let is_fixed = validator.hotkey.as_str() == FIXED_VALIDATOR;
            (!is_fixed, Reverse(validator.stake_rao))
        });
        Self {
            active_hotkeys: active.iter().map(|validator| validator.hotkey.clone()).collect(),
            active,
            registered: metagraph
                .neurons
                .iter()
                .map(|neuron| neuron.hotkey.clone())
                .collect(),
        }
    }

    fn standing(&self, hotkey: &Hotkey) -> Standing {
        if self.active_hotkeys.contains(hotkey) {
            Standing::Active
        } else if self.registered.contains(hotkey) {
            Standing::Inactive
        } else {
            Standing::Unknown
        }
    }
}

/// The validators as last read.
#[derive(Debug)]
pub struct Validators {
    chain: Arc<dyn Chain>,
    stake_min_rao: u64,
    /// Whether the roll is fixed.
    is_local: bool,
    // One reading at a time; holds when the last one was tried.
    reading: Mutex<Option<Instant>>,
    roll: RwLock<Roll>,
    orders: RwLock<ValidatorOrders>,
}

impl Validators {
    /// Knows nobody until the first reading; `stake_min` is in whole units.
    pub fn new(chain: Arc<dyn Chain>, stake_min: u64) -> Self {
        Self {
            chain,
            stake_min_rao: stake_min.saturating_mul(RAO),
            is_local: false,
            reading: Mutex::new(None),
            roll: RwLock::default(),
            orders: RwLock::default(),
        }
    }

    /// Reads the metagraph.
    pub async fn refresh(&self) -> Result<Metagraph, ChainError> {
        let mut reading = self.reading.lock().await;
        *reading = Some(Instant::now());
        let metagraph = self.chain.metagraph().await?;
        let roll = Roll::of(&metagraph, self.stake_min_rao);
        *self.roll.write().unwrap_or_else(PoisonError::into_inner) = roll;
        Ok(metagraph)
    }

    /// Takes over what the operator ordered.
    pub fn set_orders(&self, orders: ValidatorOrders) {
        *self.orders.write().unwrap_or_else(PoisonError::into_inner) = orders;
    }

    /// Returns the active validators of the chain, in their order.
    pub fn active(&self) -> Vec<ListedValidator> {
        let roll = self.roll.read().unwrap_or_else(PoisonError::into_inner);
        roll.active.clone()
    }

    /// Returns the stake in rao of each active validator, those of the operator included.
    pub fn stakes(&self) -> HashMap<Hotkey, u64> {
        let orders = self.orders.read().unwrap_or_else(PoisonError::into_inner);
        let debug = orders.debug.iter().map(|hotkey| (hotkey.clone(), 0));
        let listed = self.active();
        let listed = listed
            .into_iter()
            .map(|validator| (validator.hotkey, validator.stake_rao));
        debug.chain(listed).collect()
    }

    /// Returns why a validator's jobs are refused, if they are.
    pub fn block(&self, hotkey: &Hotkey, now: OffsetDateTime) -> Option<Block> {
        let orders = self.orders.read().unwrap_or_else(PoisonError::into_inner);
        let block = orders.blocks.get(hotkey)?;
        block.holds_at(now).then(|| block.clone())
    }

    /// Knows one validator and never asks a chain: a validator's own trusted miner.
    #[must_use]
    pub fn of_one(mut self, validator: Hotkey) -> Self {
        let roll = Roll {
            active_hotkeys: HashSet::from([validator.clone()]),
            registered: HashSet::from([validator.clone()]),
            active: vec![ListedValidator {
                hotkey: validator,
                stake_rao: 0,
            }],
        };
        *self.roll.get_mut().unwrap_or_else(PoisonError::into_inner) = roll;
        self.is_local = true;
        self
    }

    /// Returns the standing of a hotkey; for one that is not known as active the chain is asked, but not more often
    /// than once a second.
    pub async fn standing(&self, hotkey: &Hotkey) -> Standing {
        let known = self.known(hotkey);
        if known == Standing::Active || self.is_local {
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
        let orders = self.orders.read().unwrap_or_else(PoisonError::into_inner);
        if orders.debug.contains(hotkey) {
            return Standing::Active;
        }
        drop(orders);
        let roll = self.roll.read().unwrap_or_else(PoisonError::into_inner);
        roll.standing(hotkey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::subnet::{Block as ChainBlock, Neuron};

    fn neuron(uid: u16, hotkey: &str, units: u64, validator_permit: bool) -> Neuron {
        Neuron {
            uid,
            hotkey: Hotkey::from(hotkey),
            coldkey: Hotkey::from("cold"),
            stake_rao: units * RAO,
            axon: None,
            validator_permit,
            registered_at: ChainBlock(0),
            last_update: ChainBlock(0),
        }
    }

    #[test]
    fn permit_and_stake_make_a_validator_and_the_fixed_one_comes_first() {
        let metagraph = Metagraph {
            netuid: 12,
            block: ChainBlock(1),
            neurons: vec![
                neuron(0, "rich", 5000, true),
                neuron(1, "at the threshold", 1000, true),
                neuron(2, "poor", 999, true),
                neuron(3, "rich without a permit", 9000, false),
                neuron(4, FIXED_VALIDATOR, 0, false),
                neuron(5, "richest", 6000, true),
            ],
        };
        let roll = Roll::of(&metagraph, 1000 * RAO);
        let order: Vec<&str> = roll
            .active
            .iter()
            .map(|validator| validator.hotkey.as_str())
            .collect();
        assert_eq!(order, [FIXED_VALIDATOR, "richest", "rich", "at the threshold"]);
        for (hotkey, standing) in [
            ("rich", Standing::Active),
            ("poor", Standing::Inactive),
            ("rich without a permit", Standing::Inactive),
            ("nobody", Standing::Unknown),
        ] {
            assert_eq!(roll.standing(&Hotkey::from(hotkey)), standing, "{hotkey}");
        }
    }
}
