//! Settings of the validator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::common::{ChainConfig, WalletConfig};
use super::settings::{ConfigError, Settings};
use crate::core::model::Hotkey;

/// Everything that the validator needs to know before it starts.
#[derive(Clone, Debug)]
pub struct ValidatorConfig {
    /// Data directory.
    pub dir: PathBuf,
    /// Its key.
    pub wallet: WalletConfig,
    /// Its chain.
    pub chain: ChainConfig,
    /// The facilitator's endpoint for validators.
    pub facilitator_url: String,
    /// Hotkeys whose signed jobs are accepted, besides its own.
    pub whitelist: Vec<Hotkey>,
    /// Time for a miner to accept a job.
    pub reservation: Duration,
    /// Time for an executor to start, besides the spin-up of its class.
    pub startup: Duration,
    /// Time that a job may lose on the road.
    pub leeway: Duration,
    /// Longest job that is accepted.
    pub job_max: Duration,
    /// Where its own trusted miner serves; none if it has none.
    pub trusted_miner: Option<SocketAddr>,
    /// For how long a miner that cheated gets no jobs.
    pub cheat_blacklist: Duration,
}

impl ValidatorConfig {
    /// Builds it from settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            dir: settings.dir()?.to_owned(),
            wallet: WalletConfig::from_settings(settings)?,
            chain: ChainConfig::from_settings(settings)?,
            facilitator_url: settings.text("validator.facilitator_url")?.to_owned(),
            whitelist: settings
                .list("validator.whitelist")?
                .iter()
                .map(|user| Hotkey::from(user.as_str()))
                .collect(),
            reservation: settings.duration("validator.reservation_seconds")?,
            startup: settings.duration("validator.startup_seconds")?,
            leeway: settings.duration("validator.leeway_seconds")?,
            job_max: settings.duration("validator.job_seconds_max")?,
            trusted_miner: match settings.optional("validator.trusted_miner")? {
                Some(_) => Some(settings.parsed("validator.trusted_miner")?),
                None => None,
            },
            cheat_blacklist: settings.duration("validator.cheat_blacklist_seconds")?,
        })
    }
}
