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
