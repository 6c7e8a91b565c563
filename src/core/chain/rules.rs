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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::core::model::subnet::Block;

    fn neuron(uid: u16, validator_permit: bool) -> Neuron {
        Neuron {
            uid,
            hotkey: hotkey(uid),
            coldkey: Hotkey::new("cold"),
            stake_rao: 0,
            axon: None,
            validator_permit,
            registered_at: Block(0),
            last_update: Block(0),
        }
    }

    fn hotkey(uid: u16) -> Hotkey {
        Hotkey::new(format!("hot {uid}"))
    }

    /// Neuron 0 may set weights, 1 and 2 may not.
    fn subnet() -> Metagraph {
        Metagraph {
            netuid: 12,
            block: Block(1),
            neurons: vec![neuron(0, true), neuron(1, false), neuron(2, false)],
        }
    }

    #[test]
    fn an_address_needs_a_registered_neuron_and_a_port() {
        let axon = |port| Axon {
            ip: Ipv4Addr::LOCALHOST.into(),
            port,
        };
        assert_eq!(serve(&subnet(), &hotkey(1), axon(8000)), Ok(1));
        assert_eq!(serve(&subnet(), &hotkey(1), axon(0)), Err(Refusal::InvalidPort));
        assert_eq!(
            serve(&subnet(), &hotkey(9), axon(8000)),
            Err(Refusal::NotRegistered(hotkey(9)))
        );
    }

    #[test]
    fn weights_are_refused_for_the_reasons_of_the_chain() {
        let refused =
            |signer, weights: &[(u16, u16)]| weigh(&subnet(), &hotkey(signer), weights).unwrap_err();
        assert_eq!(refused(9, &[(1, 1)]), Refusal::NotRegistered(hotkey(9)));
        assert_eq!(refused(1, &[(2, 1)]), Refusal::NoPermit(hotkey(1)));
        assert_eq!(refused(0, &[]), Refusal::NoWeights);
        assert_eq!(refused(0, &[(1, 1), (1, 2)]), Refusal::DuplicateUid(1));
        assert_eq!(refused(0, &[(1, 1), (7, 2)]), Refusal::UnknownUid(7));
    }

    #[test]
    fn a_weight_for_itself_alone_needs_no_permit() {
        assert_eq!(weigh(&subnet(), &hotkey(1), &[(1, 3)]), Ok((1, vec![(1, 65535)])));
    }

    #[test]
    fn weights_are_scaled_up_to_the_largest_value() {
        let scaled = |weights: &[(u16, u16)]| weigh(&subnet(), &hotkey(0), weights).unwrap().1;
        assert_eq!(scaled(&[(1, 1), (2, 3)]), [(1, 21845), (2, 65535)]);
        assert_eq!(scaled(&[(1, 65535), (2, 1)]), [(1, 65535), (2, 1)]);
        assert_eq!(scaled(&[(1, 0), (2, 0)]), [(1, 0), (2, 0)]);
    }
}
