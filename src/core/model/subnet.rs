//! The subnet as the chain shows it: hotkeys, neurons, the metagraph.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A hotkey as it travels: SS58 text that nobody has checked yet.
///
/// The wires carry addresses that are no valid SS58 (`fake-hotkey` of the reachability probe, the 48 zeros of
/// the trusted miner), so decoding to a public key is a separate step that can fail (`crypto::ss58::decode`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Hotkey(String);

impl Hotkey {
    /// The hotkey that stands for a validator's own trusted miner: 48 zeros (wire-miner-validator §2).
    pub const TRUSTED_MINER: &'static str = "000000000000000000000000000000000000000000000000";

    /// Wraps an address as it came.
    pub fn new(address: impl Into<String>) -> Self {
        Self(address.into())
    }

    /// Returns the address text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({})", self.0)
    }
}

impl From<&str> for Hotkey {
    fn from(address: &str) -> Self {
        Self(address.to_owned())
    }
}

/// A block number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Block(pub u64);

/// Where a neuron can be reached, as announced on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axon {
    /// The address; the chain refuses loopback, a local chain does not.
    pub ip: IpAddr,
    /// The TCP port, never 0.
    pub port: u16,
}

/// Tells whether an address can be reached from the whole internet, as far as the address itself tells.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            let is_benchmark = first == 198 && (18..20).contains(&second);
            let is_reserved = first == 0 || first >= 240;
            let is_protocol = first == 192 && second == 0 && ip.octets()[2] == 0;
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || is_shared
                || is_benchmark
                || is_reserved
                || is_protocol)
        }
        // The part that is given out to networks, 2000::/3, but for documentation.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            let is_documentation = (first, second) == (0x2001, 0x0db8) || first == 0x3fff;
            first & 0xe000 == 0x2000 && !is_documentation
        }
    }
}

/// One registered hotkey of the subnet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// Its slot in the subnet.
    pub uid: u16,
    /// The key that signs.
    pub hotkey: Hotkey,
    /// The key that owns.
    pub coldkey: Hotkey,
    /// Effective stake in rao (10^-9 of the token).
    pub stake_rao: u64,
    /// The announced address, if it announced one.
    pub axon: Option<Axon>,
    /// Whether it may set weights.
    pub validator_permit: bool,
    /// When it was registered.
    pub registered_at: Block,
    /// When it last set weights or served.
    pub last_update: Block,
}

/// All neurons of a subnet at one block, ordered by uid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metagraph {
    /// The subnet's number.
    pub netuid: u16,
    /// The block it was read at.
    pub block: Block,
    /// Its neurons by rising uid.
    pub neurons: Vec<Neuron>,
}

impl Metagraph {
    /// Returns the neuron of a hotkey.
    pub fn neuron(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| &neuron.hotkey == hotkey)
    }

    /// Returns the neurons that announced an address.
    pub fn serving(&self) -> impl Iterator<Item = (&Neuron, Axon)> {
        self.neurons
            .iter()
            .filter_map(|neuron| neuron.axon.map(|axon| (neuron, axon)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_networks_at_home_are_not_public() {
        for ip in [
            "1.1.1.1",
            "172.15.0.1",
            "100.63.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "172.17.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "192.0.0.9",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
