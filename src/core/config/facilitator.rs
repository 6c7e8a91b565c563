//! Settings of the facilitator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::common::ChainConfig;
use super::settings::{ConfigError, Settings};
use crate::core::model::Hotkey;

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
    /// How long a login lasts.
    pub jwt: Duration,
    /// How long a login may take.
    pub nonce: Duration,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// For how long after its last sign of life a validator's jobs wait for it.
    pub away: Duration,
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
            jwt: settings.duration("facilitator.jwt_seconds")?,
            nonce: settings.duration("facilitator.nonce_seconds")?,
            body_bytes_max: settings.integer("facilitator.body_bytes_max")?,
            away: settings.duration("facilitator.away_seconds")?,
        })
    }
}
