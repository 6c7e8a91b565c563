//! Settings of the facilitator.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::common::ChainConfig;
use super::miner::by_class;
use super::settings::{ConfigError, Settings};
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::money::Micro;

/// Everything that the facilitator needs to know before it starts.
#[derive(Clone, Debug)]
pub struct FacilitatorConfig {
    /// Data directory.
    pub dir: PathBuf,
    /// Its chain.
    pub chain: ChainConfig,
    /// Where to serve users and validators.
    pub listen: SocketAddr,
    /// Whether jobs of every hotkey that can sign are accepted.
    pub allow_any_user: bool,
    /// Hotkeys that may submit jobs.
    pub users: Vec<Hotkey>,
    /// What a second of a class costs, in the order given; nothing is charged where this is empty.
    pub prices: Vec<(ExecutorClass, Micro)>,
    /// How long a login lasts.
    pub jwt: Duration,
    /// How long a login may take.
    pub nonce: Duration,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
}

impl FacilitatorConfig {
    /// Builds it from settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            dir: settings.dir()?.to_owned(),
            chain: ChainConfig::from_settings(settings)?,
            listen: settings.parsed("facilitator.listen")?,
            allow_any_user: settings.bool("facilitator.allow_any_user")?,
            users: settings
                .list("facilitator.users")?
                .iter()
                .map(|user| Hotkey::from(user.as_str()))
                .collect(),
            prices: prices(settings)?,
            jwt: settings.duration("facilitator.jwt_seconds")?,
            nonce: settings.duration("facilitator.nonce_seconds")?,
            body_bytes_max: settings.integer("facilitator.body_bytes_max")?,
        })
    }
}

fn prices(settings: &Settings) -> Result<Vec<(ExecutorClass, Micro)>, ConfigError> {
    const KEY: &str = "facilitator.prices";
    by_class(settings, KEY, settings.number_per_class(KEY)?, |price| {
        Ok::<_, Infallible>(Micro::new(*price))
    })
}
