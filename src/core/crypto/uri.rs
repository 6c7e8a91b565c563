//! Secret URIs and BIP-39 phrases: from the words a person keeps to a secret key.

use bip39::{Language, Mnemonic};
use blake2::Blake2b;
use blake2::Digest;
use blake2::digest::consts::U32;
use pbkdf2::pbkdf2_hmac;
use rand::TryRng as _;
use rand::rngs::SysRng;
use schnorrkel::SecretKey;
use schnorrkel::derive::{ChainCode, Derivation};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::core::crypto::keypair;

/// The phrase behind `//Alice` and the other development keys, known to everybody.
pub const DEVELOPMENT_PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const SEED_BYTES: usize = 32;
/// Longest secret URI read, in bytes; a phrase of 24 words with a few junctions is below 300.
const URI_BYTES_MAX: usize = 4096;
/// Rounds of PBKDF2, fixed by the BIP-39 scheme.
const PBKDF2_ROUNDS: u32 = 2048;
/// Entropy of a 12-word phrase, in bytes.
const NEW_ENTROPY_BYTES: usize = 16;

/// Returns the secret key of a URI: `[phrase or 0x seed](/soft | //hard)*[///password]`.
pub(in crate::core::crypto) fn secret_from_uri(uri: &str) -> Result<SecretKey, UriError> {
    if uri.len() > URI_BYTES_MAX {
        return Err(UriError::TooLong);
    }
    let (rest, password) = uri.split_once("///").unwrap_or((uri, ""));
    let (root, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let root = if root.is_empty() { DEVELOPMENT_PHRASE } else { root };
    let seed = match root.strip_prefix("0x") {
        Some(digits) => seed_from_hex(digits)?,
        None => seed_from_phrase(root, password)?,
    };
    let mut secret = keypair::expand(&seed);
    for junction in junctions(path)? {
        secret = match junction {
            Junction::Soft(code) => secret.derived_key_simple(ChainCode(code), b"").0,
            Junction::Hard(code) => {
                let (mini, _chain_code) = secret.hard_derive_mini_secret_key(Some(ChainCode(code)), b"");
                keypair::expand(&Zeroizing::new(mini.to_bytes()))
            }
        };
    }
    Ok(secret)
}

/// Returns the seed of a phrase in the Substrate scheme: PBKDF2 over the entropy, not over the words.
pub(in crate::core::crypto) fn seed_from_phrase(
    phrase: &str,
    password: &str,
) -> Result<Zeroizing<[u8; SEED_BYTES]>, UriError> {
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, phrase).map_err(phrase_error)?;
    let (padded, length) = mnemonic.to_entropy_array();
    let padded = Zeroizing::new(padded);
    let entropy = padded.get(..length).unwrap_or_default();
    let salt = Zeroizing::new(format!("mnemonic{password}"));
    let mut wide = Zeroizing::new([0; 64]);
    pbkdf2_hmac::<Sha512>(entropy, salt.as_bytes(), PBKDF2_ROUNDS, wide.as_mut());
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    for (slot, byte) in seed.iter_mut().zip(wide.iter()) {
        *slot = *byte;
    }
    Ok(seed)
}

/// Returns the 32 bytes that 64 hex digits spell; a leading `0x` must be gone.
pub(in crate::core::crypto) fn seed_from_hex(digits: &str) -> Result<Zeroizing<[u8; SEED_BYTES]>, UriError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    hex::decode_to_slice(digits, seed.as_mut()).map_err(|_foreign| UriError::Seed)?;
    Ok(seed)
}

/// Returns a new phrase of twelve words from the randomness of the operating system.
pub fn new_phrase() -> Result<Zeroizing<String>, UriError> {
    let mut entropy = Zeroizing::new([0; NEW_ENTROPY_BYTES]);
    SysRng
        .try_fill_bytes(entropy.as_mut())
        .map_err(|_foreign| UriError::NoRandomness)?;
    let mnemonic = Mnemonic::from_entropy_in(Language::English, entropy.as_ref()).map_err(phrase_error)?;
    Ok(Zeroizing::new(mnemonic.to_string()))
}

/// Why a URI or phrase gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Longer than any real URI.
    #[error("secret URI is longer than {URI_BYTES_MAX} bytes")]
    TooLong,
    /// Not 12, 15, 18, 21 or 24 words.
    #[error("phrase has {got} words, expected 12, 15, 18, 21 or 24")]
    WordCount {
        /// The number of words found.
        got: usize,
    },
    /// A word outside the English list; the word itself is secret and stays out.
    #[error("word {position} of the phrase is not in the English word list")]
    UnknownWord {
        /// Which word, counted from 1.
        position: usize,
    },
    /// All words exist and do not belong together: one is wrong or out of place.
    #[error("phrase has a wrong checksum")]
    Checksum,
    /// After `0x` come not exactly 64 hex digits.
    #[error("seed is not 64 hex digits")]
    Seed,
    /// A path that is not made of `/name` and `//name`.
    #[error("derivation path is not made of /soft and //hard junctions")]
    Path,
    /// The operating system gave no random bytes.
    #[error("operating system gave no random bytes")]
    NoRandomness,
}

enum Junction {
    Soft([u8; 32]),
    Hard([u8; 32]),
}

fn junctions(path: &str) -> Result<Vec<Junction>, UriError> {
    let mut junctions = Vec::new();
    let mut rest = path;
    while let Some(after) = rest.strip_prefix('/') {
        let (hard, after) = after
            .strip_prefix('/')
            .map_or((false, after), |after| (true, after));
        let (name, tail) = after.find('/').map_or((after, ""), |at| after.split_at(at));
        if name.is_empty() {
            return Err(UriError::Path);
        }
        let code = chain_code(name);
        junctions.push(if hard {
            Junction::Hard(code)
        } else {
            Junction::Soft(code)
        });
        rest = tail;
    }
    Ok(junctions)
}

/// A number is its eight little-endian bytes, a name its SCALE encoding, hashed if it is longer than a chain code.
fn chain_code(name: &str) -> [u8; 32] {
    let encoded = if let Ok(number) = name.parse::<u64>() {
        number.to_le_bytes().to_vec()
    } else {
        let mut encoded = compact_length(name.len());
        encoded.extend_from_slice(name.as_bytes());
        encoded
    };
    let mut code = [0; 32];
    if encoded.len() > code.len() {
        code.copy_from_slice(&Blake2b::<U32>::digest(&encoded));
    } else {
        for (slot, byte) in code.iter_mut().zip(encoded) {
            *slot = byte;
        }
    }
    code
}

/// SCALE's compact integer for lengths below 2^14, which [`URI_BYTES_MAX`] guarantees.
fn compact_length(length: usize) -> Vec<u8> {
    let short = u16::try_from(length).unwrap_or(u16::MAX);
    match u8::try_from(short) {
        Ok(byte) if byte < 64 => vec![byte << 2],
        _ => ((short << 2) | 0b01).to_le_bytes().to_vec(),
    }
}

fn phrase_error(error: bip39::Error) -> UriError {
    match error {
        bip39::Error::BadWordCount(got) => UriError::WordCount { got },
        bip39::Error::UnknownWord(index) => UriError::UnknownWord {
            position: index.saturating_add(1),
        },
        bip39::Error::InvalidChecksum
        | bip39::Error::BadEntropyBitCount(_)
        | bip39::Error::AmbiguousLanguages(_) => UriError::Checksum,
    }
}
