//! Settings of the executor.

use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use ipnet::IpNet;

use super::secret::Secret;
use super::settings::{ConfigError, Settings};
use crate::core::model::sandbox::SandboxWishes;

/// Everything that the executor needs to know before it starts; it keeps no data directory.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// The miner's endpoint, `host:port` or `ws://host:port`.
    pub miner_address: String,
    /// The token that the miner gave.
    pub token: Secret,
    /// Time to connect to the miner.
    pub startup: Duration,
    /// For how long it looks for a miner that it has lost.
    pub reconnect: Duration,
    /// Label of its containers (`horde.owner`), by which the miner that started it finds them again.
    pub owner: String,
    /// Directory of job folders.
    pub work_dir: PathBuf,
    /// The Docker engine that runs jobs.
    pub docker_host: String,
    /// Largest download of an input, in bytes; 0 means no limit.
    pub volume_bytes_max: u64,
    /// Largest output upload, in bytes.
    pub upload_bytes_max: u64,
    /// The hub that snapshots of repositories come from.
    pub hub_url: String,
    /// The operator's token for the hub.
    pub hub_token: Option<Secret>,
    /// Room for images that executors pulled, in bytes.
    pub image_cache_bytes: u64,
    /// Images that are never removed.
    pub pinned_images: GlobSet,
    /// Networks that are not public and that volumes and uploads may reach all the same.
    pub allow_addresses: Vec<IpNet>,
    /// Whether its paths are those of the engine's host, whatever it looks like.
    pub on_host: bool,
    /// Failed checks whose risk the operator takes.
    pub accept: Vec<String>,
    /// Where the client of a streaming job connects.
    pub streaming_port: u16,
    /// Whether no GPU is asked for, whatever the class.
    pub no_gpu: bool,
    /// What jobs may have.
    pub sandbox: SandboxWishes,
}

impl ExecutorConfig {
    /// Builds it from settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            miner_address: settings.text("executor.miner_address")?.to_owned(),
            token: Secret::new(settings.text("executor.token")?),
            startup: settings.duration("executor.startup_seconds")?,
            reconnect: settings.duration("executor.reconnect_seconds")?,
            owner: settings.text("executor.owner")?.to_owned(),
            work_dir: settings.path("executor.work_dir")?.to_owned(),
            docker_host: settings.text("executor.docker_host")?.to_owned(),
            // Zero and less mean none, as in the reference.
            volume_bytes_max: settings
                .integer::<i64>("executor.volume_bytes_max")?
                .max(0)
                .unsigned_abs(),
            upload_bytes_max: settings.integer("executor.upload_bytes_max")?,
            hub_url: settings.text("executor.hub_url")?.to_owned(),
            hub_token: match settings.optional("executor.hub_token")? {
                Some(_) => Some(Secret::new(settings.text("executor.hub_token")?)),
                None => None,
            },
            image_cache_bytes: settings.integer("executor.image_cache_bytes")?,
            pinned_images: pinned_images(settings)?,
            allow_addresses: settings.networks("executor.allow_addresses")?.to_owned(),
            on_host: settings.bool("executor.on_host")?,
            accept: settings.list("executor.accept")?.to_owned(),
            streaming_port: settings.integer("executor.streaming_port")?,
            no_gpu: settings.bool("executor.no_gpu")?,
            sandbox: sandbox(settings)?,
        })
    }
}

fn pinned_images(settings: &Settings) -> Result<GlobSet, ConfigError> {
    const KEY: &str = "executor.pinned_images";
    let mut set = GlobSetBuilder::new();
    for pattern in settings.list(KEY)? {
        set.add(Glob::new(pattern).map_err(|error| ConfigError::refused(settings, KEY, error))?);
    }
    set.build()
        .map_err(|error| ConfigError::refused(settings, KEY, error))
}

fn sandbox(settings: &Settings) -> Result<SandboxWishes, ConfigError> {
    let bytes = |key| match settings.optional(key)? {
        Some(_) => settings.integer(key).map(Some),
        None => Ok(None),
    };
    let cpus = match settings.optional("executor.cpus")? {
        Some(_) => Some(settings.integer("executor.cpus")?),
        None => None,
    };
    let runtime = match settings.optional("executor.runtime")? {
        Some(_) => Some(settings.text("executor.runtime")?.to_owned()),
        None => None,
    };
    Ok(SandboxWishes {
        profile: settings.parsed("executor.profile")?,
        memory_bytes: bytes("executor.memory_bytes")?,
        cpus,
        pids_max: settings.integer("executor.pids_max")?,
        nofile_max: settings.integer("executor.nofile_max")?,
        shm_bytes: bytes("executor.shm_bytes")?,
        disk_bytes: settings.integer("executor.disk_bytes")?,
        runtime,
    })
}
