//! sr25519 key pairs and signatures: schnorrkel with the signing context of Substrate.

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schnorrkel::{ExpansionMode, MiniSecretKey, PublicKey, SecretKey, Signature};
use zeroize::Zeroizing;

use crate::core::crypto::ss58::{self, Ss58Error};
use crate::core::crypto::uri::{self, UriError};
use crate::core::model::Hotkey;

/// Every signature of the network is made under this label.
const SIGNING_CONTEXT: &[u8] = b"substrate";
const SEED_BYTES: usize = 32;
const PRIVATE_KEY_BYTES: usize = 64;
const SIGNATURE_BYTES: usize = 64;

/// A secret key with its public key and address.
///
/// The secret is wiped when the pair is dropped and never shows in debug output.
#[derive(Clone)]
pub struct Keypair {
    inner: schnorrkel::Keypair,
    hotkey: Hotkey,
}

impl Keypair {
    /// Returns the pair of a secret URI: `//Alice` (on the well-known development phrase), `<phrase>//hard/soft`,
    /// `0x<seed>//hard`, each with an optional `///<password>` for the phrase.
    pub fn from_uri(uri: &str) -> Result<Self, KeyError> {
        Ok(Self::from_secret(uri::secret_from_uri(uri)?))
    }

    /// Returns the pair of a BIP-39 phrase, made from its entropy as Substrate does it.
    pub fn from_phrase(phrase: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(&*uri::seed_from_phrase(phrase, "")?))
    }

    /// Returns the pair of a raw seed.
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Self {
        Self::from_secret(expand(seed))
    }

    /// Returns the pair of a 64-byte private key: scalar and nonce, as wallet files hold it.
    pub fn from_private_key(private_key: &[u8; PRIVATE_KEY_BYTES]) -> Result<Self, KeyError> {
        let secret = SecretKey::from_bytes(private_key).map_err(|_foreign| KeyError::PrivateKey)?;
        Ok(Self::from_secret(secret))
    }

    fn from_secret(secret: SecretKey) -> Self {
        let inner = secret.to_keypair();
        let hotkey = ss58::encode(&inner.public.to_bytes());
        Self { inner, hotkey }
    }

    /// Returns the address of this pair.
    pub fn hotkey(&self) -> &Hotkey {
        &self.hotkey
    }

    /// Returns the public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.inner.public.to_bytes()
    }

    /// Returns the private key (scalar and nonce), wiped when dropped; for writing a wallet file only.
    pub fn private_key(&self) -> Zeroizing<[u8; PRIVATE_KEY_BYTES]> {
        Zeroizing::new(self.inner.secret.to_bytes())
    }

    /// Returns a signature over `message`; each call gives another one, because signing is randomised.
    pub fn sign(&self, message: &[u8]) -> SignatureBytes {
        let context = schnorrkel::signing_context(SIGNING_CONTEXT);
        SignatureBytes(self.inner.sign(context.bytes(message)).to_bytes())
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keypair")
            .field("hotkey", &self.hotkey)
            .finish_non_exhaustive()
    }
}

/// Returns the secret key of a seed, expanded as Substrate does it.
#[expect(
    clippy::expect_used,
    reason = "only the length can be wrong, and the type fixes it"
)]
pub(in crate::core::crypto) fn expand(seed: &[u8; SEED_BYTES]) -> SecretKey {
    MiniSecretKey::from_bytes(seed)
        .expect("32 bytes are a seed")
        .expand(ExpansionMode::Ed25519)
}

/// Why no key pair came out of what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret URI or the phrase in it.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// 64 bytes whose scalar is not reduced.
    #[error("private key is not a valid sr25519 key")]
    PrivateKey,
}

/// The 64 bytes of an sr25519 signature, of any content: only [`verify`] tells whether they are one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignatureBytes([u8; SIGNATURE_BYTES]);

impl SignatureBytes {
    /// Wraps raw bytes.
    pub const fn new(bytes: [u8; SIGNATURE_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }

    /// Returns `0x` and 128 lower-case hex digits, the form of all websocket messages.
    pub fn to_hex_prefixed(&self) -> String {
        format!("0x{}", self.to_hex())
    }

    /// Returns 128 lower-case hex digits, the form of the HTTP login.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Returns standard base64, the form of signed requests.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads `0x` and 128 hex digits.
    pub fn parse_hex(text: &str) -> Result<Self, SignatureFormatError> {
        Self::parse_hex_bare(text.strip_prefix("0x").ok_or(SignatureFormatError::Unprefixed)?)
    }

    /// Reads 128 hex digits without a prefix.
    pub fn parse_hex_bare(text: &str) -> Result<Self, SignatureFormatError> {
        let mut bytes = [0; SIGNATURE_BYTES];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(hex::FromHexError::InvalidHexCharacter { .. }) => Err(SignatureFormatError::Hex),
            Err(hex::FromHexError::OddLength | hex::FromHexError::InvalidStringLength) => {
                if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    Err(SignatureFormatError::Length)
                } else {
                    Err(SignatureFormatError::Hex)
                }
            }
        }
    }

    /// Reads standard base64 with padding.
    pub fn parse_base64(text: &str) -> Result<Self, SignatureFormatError> {
        let bytes = STANDARD
            .decode(text)
            .map_err(|_foreign| SignatureFormatError::Base64)?;
        <[u8; SIGNATURE_BYTES]>::try_from(bytes.as_slice())
            .map(Self)
            .map_err(|_foreign| SignatureFormatError::Length)
    }
}

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SignatureBytes({})", self.to_hex_prefixed())
    }
}

/// Why a text is no signature at all, as opposed to a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFormatError {
    /// Hex digits without `0x` in front.
    #[error("signature does not start with 0x")]
    Unprefixed,
    /// A character that is no hex digit.
    #[error("signature has a character that is no hex digit")]
    Hex,
    /// Not base64.
    #[error("signature is not base64")]
    Base64,
    /// Not 64 bytes.
    #[error("signature is not 64 bytes long")]
    Length,
}

/// Checks that `signature` was made over `message` by the key behind `hotkey`.
///
/// As in every Substrate wallet, a signature over `<Bytes>message</Bytes>` counts too: browser extensions wrap what they
/// sign.
pub fn verify(hotkey: &Hotkey, message: &[u8], signature: &SignatureBytes) -> Result<(), VerifyError> {
    if let Some(public) = KNOWN.find(hotkey) {
        return verify_with(&public, message, signature);
    }
    let public = public_key(&ss58::decode(hotkey)?)?;
    verify_with(&public, message, signature)?;
    KNOWN.note(hotkey, public);
    Ok(())
}

/// Keys that have been unpacked once, by their address: those of peers that sign one message after another.
///
/// Only keys that have made a right signature get in, so strangers cannot crowd them out for nothing.
struct KnownKeys(RwLock<HashMap<Hotkey, PublicKey>>);

/// Keys that are kept unpacked: more than the validators of a subnet. When they are more, all are forgotten.
const KNOWN_MAX: usize = 1024;

static KNOWN: LazyLock<KnownKeys> = LazyLock::new(|| KnownKeys(RwLock::default()));

impl KnownKeys {
    fn find(&self, hotkey: &Hotkey) -> Option<PublicKey> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(hotkey).copied()
    }

    fn note(&self, hotkey: &Hotkey, public: PublicKey) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(hotkey.clone(), public);
    }
}

/// Checks `signature` against a raw public key; see [`verify`].
pub fn verify_public(
    public_key: &[u8; 32],
    message: &[u8],
    signature: &SignatureBytes,
) -> Result<(), VerifyError> {
    verify_with(&self::public_key(public_key)?, message, signature)
}

fn public_key(bytes: &[u8; 32]) -> Result<PublicKey, VerifyError> {
    PublicKey::from_bytes(bytes).map_err(|_foreign| VerifyError::NotAKey)
}

fn verify_with(public: &PublicKey, message: &[u8], signature: &SignatureBytes) -> Result<(), VerifyError> {
    // Bytes that are no signature (no schnorrkel marker, scalar not reduced) are a wrong signature, not a malformed one.
    let signature = Signature::from_bytes(signature.as_bytes()).map_err(|_foreign| VerifyError::Mismatch)?;
    let context = schnorrkel::signing_context(SIGNING_CONTEXT);
    if public.verify(context.bytes(message), &signature).is_ok() {
        return Ok(());
    }
    let mut wrapped = Vec::with_capacity(message.len().saturating_add(15));
    wrapped.extend_from_slice(b"<Bytes>");
    wrapped.extend_from_slice(message);
    wrapped.extend_from_slice(b"</Bytes>");
    public
        .verify(context.bytes(&wrapped), &signature)
        .map_err(|_foreign| VerifyError::Mismatch)
}

/// Checks a signature written as `0x` and 128 hex digits; see [`verify`].
pub fn verify_hex(hotkey: &Hotkey, message: &[u8], signature: &str) -> Result<(), VerifyError> {
    verify(hotkey, message, &SignatureBytes::parse_hex(signature)?)
}

/// Returns the bytes that the wallets of this network sign for a text: its UTF-8, or, if it starts with `0x`, the bytes
/// that its hex digits spell.
pub fn text_bytes(text: &str) -> Result<Vec<u8>, VerifyError> {
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).map_err(|_foreign| VerifyError::HexMessage),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The signature is well formed and was not made by this key over this message.
    #[error("signature does not match")]
    Mismatch,
    /// The signature cannot be read.
    #[error(transparent)]
    Format(#[from] SignatureFormatError),
    /// The signer is no address of this network.
    #[error("signer is not an address: {0}")]
    Signer(#[from] Ss58Error),
    /// The signer's 32 bytes are no point of the curve.
    #[error("signer is not a public key")]
    NotAKey,
    /// The message starts with `0x` and is not hex.
    #[error("message starts with 0x and is not hex")]
    HexMessage,
}
