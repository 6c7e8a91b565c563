//! SS58 addresses: a public key as the text that people and messages use, with network prefix 42.

use blake2::{Blake2b512, Digest};

use crate::core::model::Hotkey;

/// The address type of Bittensor (the generic Substrate one).
pub const PREFIX: u8 = 42;

const PUBLIC_KEY_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 2;
/// Longest text that can be a 32-byte address; longer input is refused before it is decoded.
const TEXT_CHARACTERS_MAX: usize = 64;

/// Returns the address of `public_key`.
pub fn encode(public_key: &[u8; PUBLIC_KEY_BYTES]) -> Hotkey {
    let mut bytes = Vec::with_capacity(1 + PUBLIC_KEY_BYTES + CHECKSUM_BYTES);
    bytes.push(PREFIX);
    bytes.extend_from_slice(public_key);
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    Hotkey::new(bs58::encode(bytes).into_string())
}

/// Returns the public key behind `hotkey`.
pub fn decode(hotkey: &Hotkey) -> Result<[u8; PUBLIC_KEY_BYTES], Ss58Error> {
    decode_text(hotkey.as_str())
}

/// Returns the public key behind the address `text`.
pub fn decode_text(text: &str) -> Result<[u8; PUBLIC_KEY_BYTES], Ss58Error> {
    if text.len() > TEXT_CHARACTERS_MAX {
        return Err(Ss58Error::Length);
    }
    let bytes = bs58::decode(text)
        .into_vec()
        .map_err(|_foreign| Ss58Error::Base58)?;
    let (body, found) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(Ss58Error::Length)?;
    let (prefix, key) = body.split_first().ok_or(Ss58Error::Length)?;
    let key = <[u8; PUBLIC_KEY_BYTES]>::try_from(key).map_err(|_foreign| Ss58Error::Length)?;
    if checksum(body) != *found {
        return Err(Ss58Error::Checksum);
    }
    if *prefix != PREFIX {
        return Err(Ss58Error::Prefix { got: *prefix });
    }
    Ok(key)
}

/// Why a text is no SS58 address of this network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ss58Error {
    /// A character that base 58 does not know.
    #[error("address has a character that base 58 does not know")]
    Base58,
    /// Not 35 bytes.
    #[error("address has the wrong length")]
    Length,
    /// The last two bytes do not fit the rest: a typing error.
    #[error("address has a wrong checksum")]
    Checksum,
    /// An address of another network.
    #[error("address has network prefix {got}, expected {PREFIX}")]
    Prefix {
        /// The prefix found.
        got: u8,
    },
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = Blake2b512::new();
    hasher.update(b"SS58PRE");
    hasher.update(body);
    let digest = hasher.finalize();
    let mut checksum = [0; CHECKSUM_BYTES];
    for (slot, byte) in checksum.iter_mut().zip(digest) {
        *slot = byte;
    }
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn an_address_reads_back_as_its_key() {
        let key = decode_text(ALICE).unwrap();
        assert_eq!(
            hex::encode(key),
            "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
        assert_eq!(encode(&key).as_str(), ALICE);
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", Ss58Error::Length),
            ("xyz", Ss58Error::Length),
            ("0OIl", Ss58Error::Base58),
            (
                "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ",
                Ss58Error::Checksum,
            ),
            // //Alice with the prefix of Polkadot.
            (
                "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
                Ss58Error::Prefix { got: 0 },
            ),
        ] {
            assert_eq!(decode_text(text), Err(expected), "{text}");
        }
        assert_eq!(decode_text(&"5".repeat(100_000)), Err(Ss58Error::Length));
    }
}
