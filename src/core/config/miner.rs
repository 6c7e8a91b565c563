//! Settings of the miner.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::common::{ChainConfig, WalletConfig, unless_off};
use super::engines::BUILT_IN;
use super::settings::{AUTO, ConfigError, Settings};
use crate::core::model::subnet::is_public;
use crate::core::model::{ExecutorClass, Hotkey, Profile};

/// How executors are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// As child processes.
    Process,
    /// As containers.
    Docker,
    /// As services of a Docker Swarm.
    Swarm,
    /// By the operator's own program.
    Command,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Process, Self::Docker, Self::Swarm, Self::Command];

    /// Returns the setting's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Swarm => "swarm",
            Self::Command => "command",
        }
    }
}

/// Whether receipts are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishing {
    /// As the subnet's dynamic configuration says.
    Auto,
    /// Whatever it says.
    On,
    /// Never.
    Off,
}

/// Everything that the miner needs to know before it starts.
#[derive(Clone, Debug)]
pub struct MinerConfig {
    /// Data directory.
    pub dir: PathBuf,
    /// Its key.
    pub wallet: WalletConfig,
    /// Its chain.
    pub chain: ChainConfig,
    /// Where to serve validators and executors.
    pub listen: SocketAddr,
    /// Address announced on the chain; none means that it is to be found out.
    pub address: Option<IpAddr>,
    /// Whether its chain is one of this machine, where every address is as good as another.
    pub is_local: bool,
    /// Who is asked for the address.
    pub address_services: Vec<String>,
    /// Port announced on the chain; none means the port that it listens on.
    pub port: Option<u16>,
    /// Where its executors find it, `host:port`; none means the address and port that it listens on.
    pub executor_address: Option<String>,
    /// How executors are started.
    pub backend: Backend,
    /// The operator's program and what stands before the verb, command backend.
    pub command: Vec<String>,
    /// How many executors of which class, in the order given; backends process and docker.
    pub executors: Vec<(ExecutorClass, u32)>,
    /// Which rights jobs of a class have; other classes have what their executor is set to.
    pub profiles: Vec<(ExecutorClass, Profile)>,
    /// Image of executors, backends docker and swarm.
    pub executor_image: String,
    /// The Docker engine that runs executors.
    pub docker_host: String,
    /// The file of servers that says which engines there are instead; none means the one of `docker_host`.
    pub engines: Option<PathBuf>,
    /// Time for an executor to connect.
    pub executor_startup: Duration,
    /// Time after which an executor is removed.
    pub executor_ttl: Duration,
    /// For how long an executor looks for a miner that it has lost, and is waited for.
    pub executor_reconnect: Duration,
    /// Time that running jobs have to finish once the miner is asked to stop.
    pub drain: Duration,
    /// Ports of this host for the clients of streaming jobs.
    pub streaming_ports: RangeInclusive<u16>,
    /// Whether executors ask for no GPU.
    pub no_gpu: bool,
    /// The one validator whose trusted miner this is; none for a miner of the subnet.
    pub local_validator: Option<Hotkey>,
    /// Least stake of a validator, in whole units.
    pub validator_stake_min: u64,
    /// Connections, and jobs, that a validator may bring per second on average.
    pub validator_rate: u32,
    /// Whether validators share the executors by their stake.
    pub shares_by_stake: bool,
    /// Whether receipts are published.
    pub publish_receipts: Publishing,
    /// The folder of the dynamic configuration; none means that none is read.
    pub dynamic_config_url: Option<String>,
    /// Which of its environments.
    pub dynamic_config_env: String,
    /// The least share of a class in what the subnet pays, from 0 to 1.
    pub multiplier_min: Vec<(ExecutorClass, f64)>,
    /// Where figures are served.
    pub metrics_listen: Option<SocketAddr>,
}

impl MinerConfig {
    /// Builds it from settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let port = match settings.optional("miner.port")? {
            Some(_) => Some(settings.integer("miner.port")?),
            None => None,
        };
        let executor_address = match settings.optional("miner.executor_address")? {
            Some(_) => Some(settings.text("miner.executor_address")?.to_owned()),
            None => None,
        };
        let engines = match settings.optional("miner.engines")? {
            Some(_) => Some(settings.path("miner.engines")?),
            None => None,
        };
        // The reference's word for its own file, which one machine with one engine has.
        let engines = engines
            .filter(|path| !path.ends_with(BUILT_IN))
            .map(Path::to_owned);
        let word = settings.text("miner.backend")?;
        let backend = Backend::ALL.into_iter().find(|backend| backend.as_str() == word);
        Ok(Self {
            dir: settings.dir()?.to_owned(),
            wallet: WalletConfig::from_settings(settings)?,
            chain: ChainConfig::from_settings(settings)?,
            listen: settings.parsed("miner.listen")?,
            address: address(settings)?,
            is_local: settings.network()? == "local",
            address_services: settings.list("miner.address_services")?.to_owned(),
            port,
            executor_address,
            backend: backend.unwrap_or(Backend::Process),
            command: match settings.optional("miner.command")? {
                Some(_) => settings.list("miner.command")?.to_vec(),
                None => Vec::new(),
            },
            executors: executors(settings)?,
            profiles: profiles(settings)?,
            executor_image: settings.text("miner.executor_image")?.to_owned(),
            docker_host: settings.text("miner.docker_host")?.to_owned(),
            engines,
            executor_startup: settings.duration("miner.executor_startup_seconds")?,
            executor_ttl: settings.duration("miner.executor_ttl_seconds")?,
            executor_reconnect: settings.duration("executor.reconnect_seconds")?,
            drain: settings.duration("miner.drain_seconds")?,
            streaming_ports: ports(settings)?,
            no_gpu: settings.bool("miner.no_gpu")?,
            local_validator: match settings.optional("miner.local_validator")? {
                Some(_) => Some(Hotkey::from(settings.text("miner.local_validator")?)),
                None => None,
            },
            validator_stake_min: validator_stake_min(settings)?,
            validator_rate: settings.integer("miner.validator_rate")?,
            shares_by_stake: settings.text("miner.sharing")? == "stake",
            publish_receipts: match settings.text("miner.publish_receipts")? {
                "on" => Publishing::On,
                "off" => Publishing::Off,
                _ => Publishing::Auto,
            },
            dynamic_config_url: unless_off(settings, "miner.dynamic_config_url")?.map(str::to_owned),
            dynamic_config_env: dynamic_config_env(settings)?,
            multiplier_min: multiplier_min(settings)?,
            metrics_listen: match unless_off(settings, "miner.metrics_listen")? {
                Some(_) => Some(settings.parsed("miner.metrics_listen")?),
                None => None,
            },
        })
    }
}

/// Returns the least stake of validators: on a local chain, where stakes mean nothing, none unless it is set; else that
/// of the reference (sem-miner §2.2).
fn validator_stake_min(settings: &Settings) -> Result<u64, ConfigError> {
    const KEY: &str = "miner.validator_stake_min";
    if settings.optional(KEY)?.is_some() {
        return settings.integer(KEY);
    }
    Ok(match settings.network()? {
        "local" => 0,
        _ => 1000,
    })
}

/// Services of which two must agree.
const SERVICES_MIN: usize = 2;

/// Services that are asked at most.
const SERVICES_MAX: usize = 16;

fn address(settings: &Settings) -> Result<Option<IpAddr>, ConfigError> {
    const KEY: &str = "miner.address";
    const SERVICES: &str = "miner.address_services";
    let services = settings.list(SERVICES)?;
    let is_web = |service: &String| service.starts_with("https://") || service.starts_with("http://");
    if services.len() > SERVICES_MAX || !services.iter().all(is_web) {
        let text = format!("expected at most {SERVICES_MAX} addresses that begin with https://");
        return Err(ConfigError::refused(settings, SERVICES, text));
    }
    if settings.text(KEY)? == AUTO {
        if services.len() < SERVICES_MIN {
            let text =
                "auto needs two services or more, of which two must agree; a local chain has none by itself";
            return Err(ConfigError::refused(settings, SERVICES, text));
        }
        return Ok(None);
    }
    let ip: IpAddr = settings.parsed(KEY)?;
    if settings.network()? != "local" && !is_public(ip) {
        let text = format!("{ip} is no public address: validators on the internet cannot reach it");
        return Err(ConfigError::refused(settings, KEY, text));
    }
    Ok(Some(ip))
}

fn dynamic_config_env(settings: &Settings) -> Result<String, ConfigError> {
    const KEY: &str = "miner.dynamic_config_env";
    let name = settings.text(KEY)?;
    // It becomes a part of an address.
    if name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    {
        return Ok(name.to_owned());
    }
    let text = format!("expected letters, digits, - and _, got {name:?}");
    Err(ConfigError::refused(settings, KEY, text))
}

fn multiplier_min(settings: &Settings) -> Result<Vec<(ExecutorClass, f64)>, ConfigError> {
    const KEY: &str = "miner.multiplier_min";
    by_class(settings, KEY, settings.share_per_class(KEY)?, |share| {
        Ok::<_, Infallible>(*share)
    })
}

fn ports(settings: &Settings) -> Result<RangeInclusive<u16>, ConfigError> {
    const KEY: &str = "miner.streaming_ports";
    let text = settings.text(KEY)?;
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (0 < first && first <= last).then_some(first..=last)
    });
    range.ok_or_else(|| {
        let wanted = "expected two ports from 1 to 65535, the lower one first, such as 6000-6999";
        ConfigError::refused(settings, KEY, format!("{wanted}, got {text:?}"))
    })
}

fn executors(settings: &Settings) -> Result<Vec<(ExecutorClass, u32)>, ConfigError> {
    const KEY: &str = "miner.executors";
    by_class(settings, KEY, settings.executors(KEY)?, |count| {
        Ok::<_, Infallible>(*count)
    })
}

fn profiles(settings: &Settings) -> Result<Vec<(ExecutorClass, Profile)>, ConfigError> {
    const KEY: &str = "miner.profiles";
    by_class(settings, KEY, settings.word_per_class(KEY)?, |word| word.parse())
}

/// Reads the classes of pairs; each may be there once.
pub(super) fn by_class<W, V, E: fmt::Display>(
    settings: &Settings,
    key: &'static str,
    pairs: &[(String, W)],
    read: impl Fn(&W) -> Result<V, E>,
) -> Result<Vec<(ExecutorClass, V)>, ConfigError> {
    let mut known: Vec<(ExecutorClass, V)> = Vec::new();
    for (name, value) in pairs {
        let class = name
            .parse::<ExecutorClass>()
            .map_err(|error| ConfigError::refused(settings, key, error))?;
        if known.iter().any(|(other, _)| *other == class) {
            return Err(ConfigError::refused(
                settings,
                key,
                format!("class {name} is there twice"),
            ));
        }
        let value = read(value).map_err(|error| ConfigError::refused(settings, key, error))?;
        known.push((class, value));
    }
    Ok(known)
}
