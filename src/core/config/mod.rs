//! Settings: built-in defaults, file, context, environment and flags, each value with its origin.
//!
//! [`SETTINGS`] is the table of everything that can be set; [`load`] layers the five sources over it and
//! reports every problem at once. A setting `miner.listen` is `listen` in the section `[miner]` of the file and
//! `HORDE_MINER_LISTEN` in the environment. Roles get plain structs, built from [`Settings`] at the door.

pub mod contexts;
pub mod engines;

mod common;
mod environment;
mod executor;
mod facilitator;
mod layers;
mod miner;
mod secret;
mod settings;
mod table;
mod validator;
mod value;
mod write;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

pub use common::{ChainConfig, WalletConfig};
pub use environment::Environment;
pub use executor::ExecutorConfig;
pub use facilitator::{FacilitatorConfig, TlsConfig};
pub use layers::{Flag, Sources, load};
pub use miner::{Backend, MinerConfig, Publishing};
pub use secret::Secret;
pub use settings::{ConfigError, Origin, Problem, Row, Scope, Settings};
pub use table::{MAINNET, SETTINGS, Setting};
pub use validator::ValidatorConfig;
pub use value::{Kind, KindError, Value};
pub use write::{commented_text, file_text};

/// Bytes of a configuration file at most: 1 MiB.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a configuration file, unless it is larger than [`FILE_BYTES_MAX`]: then it is something else.
pub fn read_bounded(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?
        .take(FILE_BYTES_MAX.saturating_add(1))
        .read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")))
    }
}
