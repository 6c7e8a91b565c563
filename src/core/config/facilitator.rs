//! Settings of the facilitator.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::common::{ChainConfig, optional_path, unless_off};
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
    /// For how long after its last sign of life a validator's jobs wait for it.
    pub away: Duration,
    /// Most volumes of a job, and most uploads.
    pub volumes_max: usize,
    /// Jobs a user may submit per second on average.
    pub submit_rate: u32,
    /// Jobs a user may have that have not ended.
    pub unfinished_max: u64,
    /// Calls for nonces and tokens per second and address on average.
    pub login_rate: u32,
    /// How long a job is kept after its end.
    pub keep: Duration,
    /// Its certificate; none where it speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Networks of proxies whose headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where to serve figures to Prometheus.
    pub metrics_listen: Option<SocketAddr>,
}

/// Where a listener's certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the certificate and the chain above it.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
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
            volumes_max: settings.integer("facilitator.volumes_max")?,
            submit_rate: settings.integer("facilitator.submit_rate")?,
            unfinished_max: settings.integer("facilitator.unfinished_max")?,
            login_rate: settings.integer("facilitator.login_rate")?,
            keep: DAY * settings.integer::<u32>("facilitator.keep_days")?,
            tls: tls(settings)?,
            trusted_proxies: settings.networks("facilitator.trusted_proxies")?.to_vec(),
            metrics_listen: match unless_off(settings, "facilitator.metrics_listen")? {
                Some(_) => Some(settings.parsed("facilitator.metrics_listen")?),
                None => None,
            },
            away: settings.duration("facilitator.away_seconds")?,
        })
    }
}

fn prices(settings: &Settings) -> Result<Vec<(ExecutorClass, Micro)>, ConfigError> {
    const KEY: &str = "facilitator.prices";
    by_class(settings, KEY, settings.number_per_class(KEY)?, |price| {
        Ok::<_, Infallible>(Micro::new(*price))
    })
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns the two files of a certificate, of which none is any use alone.
fn tls(settings: &Settings) -> Result<Option<TlsConfig>, ConfigError> {
    let certificate = optional_path(settings, "facilitator.tls_certificate")?;
    let key = optional_path(settings, "facilitator.tls_key")?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsConfig { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::refused(
            settings,
            "facilitator.tls_certificate",
            "facilitator.tls_key, the certificate's key, is not set",
        )),
        (None, Some(_)) => Err(ConfigError::refused(
            settings,
            "facilitator.tls_key",
            "facilitator.tls_certificate, the key's certificate, is not set",
        )),
    }
}
