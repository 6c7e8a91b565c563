//! Keys and signatures: sr25519, SS58, wallet files, canonical JSON, signing blobs.
//!
//! [`Keypair`] signs, [`verify`] checks; [`signed`] knows what exactly is signed in each message, [`canonical`] prints
//! JSON as the signatures need it. [`keyfile`] reads and writes Bittensor wallet files. This room never asks a person or
//! the environment for a password: whoever opens a wallet passes the means in.

pub mod canonical;
pub mod keyfile;
pub mod signed;
pub mod ss58;

mod keypair;
mod sealed;
mod uri;

pub use keypair::{
    KeyError, Keypair, SignatureBytes, SignatureFormatError, VerifyError, text_bytes, verify, verify_hex,
    verify_public,
};
pub use sealed::SealError;
pub use uri::{DEVELOPMENT_PHRASE, UriError, new_phrase};
