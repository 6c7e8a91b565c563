//! The `$NACL` envelope of encrypted wallet files: Argon2i for the key, XSalsa20-Poly1305 for the box.

use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{Key, KeyInit, Nonce, XSalsa20Poly1305};
use zeroize::Zeroizing;

/// The first bytes of a sealed file.
pub(in crate::core::crypto) const MAGIC: &[u8] = b"$NACL";

// The "sensitive" limits and the fixed salt of the Python wallet (keyfiles.json); a file does not carry its own.
const SALT: [u8; 16] = [
    0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1,
];
const PASSES: u32 = 8;
const MEMORY_KIB: u32 = 524_288;
const LANES: u32 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Returns the plain content of a sealed file.
///
/// Takes seconds and 512 MiB: call it off the runtime's workers.
pub(in crate::core::crypto) fn open(file: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let sealed = file.strip_prefix(MAGIC).ok_or(SealError::Truncated)?;
    let (nonce, boxed) = sealed
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(SealError::Truncated)?;
    let key = derive_key(password)?;
    XSalsa20Poly1305::new(Key::from_slice(key.as_ref()))
        .decrypt(Nonce::from_slice(nonce), boxed)
        .map(Zeroizing::new)
        .map_err(|_foreign| SealError::WrongPassword)
}

fn derive_key(password: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, Some(KEY_BYTES)).map_err(|_foreign| SealError::Derivation)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), &SALT, key.as_mut())
        .map_err(|error| match error {
            argon2::Error::OutOfMemory => SealError::OutOfMemory,
            _ => SealError::Derivation,
        })?;
    Ok(key)
}

/// Why a sealed file stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Shorter than its own header.
    #[error("encrypted wallet file is cut short")]
    Truncated,
    /// The box does not open: another password, or damaged content.
    #[error("wrong password, or the file is damaged")]
    WrongPassword,
    /// The 512 MiB are not there.
    #[error("opening an encrypted wallet file takes 512 MiB of memory, which are not free")]
    OutOfMemory,
    /// The password cannot be used (longer than 4 GiB).
    #[error("password cannot be turned into a key")]
    Derivation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_short_is_refused_before_the_password_is_tried() {
        for file in [&b""[..], b"$NAC", b"$NACL", b"$NACL0123456789"] {
            assert_eq!(open(file, "x").unwrap_err(), SealError::Truncated);
        }
    }
}
