//! What the chain lets pass, mirrored as pure functions (chain.md §1, "chain-side checks").

use std::collections::BTreeSet;

use thiserror::Error;

use crate::core::model::subnet::{Axon, Hotkey, Metagraph, Neuron};

/// Why the chain refuses a write.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The hotkey is not in the subnet.
    #[error("hotkey {0} is not registered")]
    NotRegistered(Hotkey),
    /// The subnet has no free slot.
    #[error("the subnet is full")]
    SubnetFull,
    /// Port 0 cannot be announced.
    #[error("port 0 cannot be announced")]
    InvalidPort,
    /// The neuron may not set weights for others.
    #[error("hotkey {0} has no validator permit")]
    NoPermit(Hotkey),
    /// Nothing to set.
    #[error("a row of weights cannot be empty")]
    NoWeights,
    /// A target appears twice.
    #[error("uid {0} appears twice")]
    DuplicateUid(u16),
    /// A target is not in the subnet.
    #[error("uid {0} does not exist")]
    UnknownUid(u16),
}

/// Lets a registered neuron announce an address, and returns its uid.
pub fn serve(subnet: &Metagraph, hotkey: &Hotkey, axon: Axon) -> Result<u16, Refusal> {
    if axon.port == 0 {
        return Err(Refusal::InvalidPort);
    }
    Ok(registered(subnet, hotkey)?.uid)
}

/// Lets a permitted neuron set its weights, and returns its uid and the row to store.
///
/// In the order of the chain: registered, permit (a single weight for itself
/// needs none), no target twice, known targets; then the largest is scaled up to 65535.
pub fn weigh(
    subnet: &Metagraph,
    hotkey: &Hotkey,
    weights: &[(u16, u16)],
) -> Result<(u16, Vec<(u16, u16)>), Refusal> {
    let neuron = registered(subnet, hotkey)?;
    let only_itself = matches!(weights, [(uid, _)] if *uid == neuron.uid);
    if !neuron.validator_permit && !only_itself {
        return Err(Refusal::NoPermit(hotkey.clone()));
    }
    if weights.is_empty() {
        return Err(Refusal::NoWeights);
    }
    let known: BTreeSet<u16> = subnet.neurons.iter().map(|neuron| neuron.uid).collect();
    let mut seen = BTreeSet::new();
    for &(uid, _) in weights {
        if !seen.insert(uid) {
            return Err(Refusal::DuplicateUid(uid));
        }
        if !known.contains(&uid) {
            return Err(Refusal::UnknownUid(uid));
        }
    }
    Ok((neuron.uid, upscale(weights)))
}

fn registered<'a>(subnet: &'a Metagraph, hotkey: &Hotkey) -> Result<&'a Neuron, Refusal> {
    subnet
        .neuron(hotkey)
        .ok_or_else(|| Refusal::NotRegistered(hotkey.clone()))
}

/// Scales so that the largest value is 65535, rounding down as the chain does; all zeros stay so.
fn upscale(weights: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let largest = weights.iter().map(|&(_, value)| value).max().unwrap_or(0);
    let scale = |value: u16| {
        let scaled = u32::from(value) * u32::from(u16::MAX) / u32::from(largest.max(1));
        u16::try_from(scaled).unwrap_or(u16::MAX)
    };
    weights.iter().map(|&(uid, value)| (uid, scale(value))).collect()
}
