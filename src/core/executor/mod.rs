//! Role 4: runs one job for a miner, then exits.
//!
//! It connects with its token before it does anything slow, prepares, fetches the input, runs the container with
//! no network, captures both streams within bounds, delivers the output, reports once, and removes its container
//! and its folders: only those, by label and by name. [`machine`] decides, the driver does. A miner of our own kind may
//! be restarted meanwhile: the [`road`] to it is found again.

pub mod attack;
mod cache;
mod capture;
pub mod cleaner;
mod container;
mod describe;
mod driver;
mod guard;
mod images;
mod live;
pub mod machine;
mod road;
pub mod shortfall;
pub mod streaming;
pub mod usage;
mod workspace;

use std::sync::Arc;

use tokio::time::Instant;

use crate::core::clock::Clock;
use crate::core::config::ExecutorConfig;
use crate::core::docker::Engine;
use crate::core::docker::place::Place;
use crate::core::host::facts::Host;
use crate::core::host::floors::{Floors, TableError};
use crate::core::host::gpu::NvmlGpus;
use crate::core::host::hygiene::Dirt;
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, CONNECT_ATTEMPTS, ConnectError, ConnectOptions};
use crate::core::proto::miner_executor::EXTENSIONS;
use crate::core::tasks::Tasks;
use crate::core::transfer::address::Policy;
use crate::core::transfer::download::Downloader;
use crate::core::transfer::hub::Hub;
use crate::core::transfer::upload::Uploader;

use cache::Cache;
use container::Identity;
use driver::{Driver, Ports};
use guard::Guard;
use images::Images;
use machine::{Machine, Outcome};
use road::Road;

/// The path of the miner's endpoint, before the token (wire-executor-miner §1).
const ENDPOINT: &str = "/v0.1/executor_interface/";

/// The longest token, in bytes: with what is put around it, it names a container.
const TOKEN_BYTES_MAX: usize = 200;

/// Why an executor ended without having reported.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The token could not be part of an address or of a container's name.
    #[error("the token is not made of letters, digits, `-`, `_` and `.`")]
    BadToken,
    /// The table of versions in the binary is broken: a bug.
    #[error(transparent)]
    Floors(#[from] TableError),
    /// The miner was not reached.
    #[error("could not connect to the miner")]
    Connect(#[from] ConnectError),
    /// The miner went away before the job was reported.
    #[error("the miner closed the connection before the job was reported")]
    LinkLost,
    /// The engine does not remove the job's container; the miner was told.
    #[error("the job's container could not be removed: the log names it")]
    ContainerLeft,
    /// The job was reported, and has left the GPUs unclean.
    #[error("the GPUs are not fit for another job")]
    Unclean(#[from] Dirt),
    /// The miner sent no job in time.
    #[error("the miner sent no job within the start-up limit")]
    NoJob,
}

impl RunError {
    /// Returns whether the machine is not fit for another job until somebody has looked after it.
    pub fn is_unhealthy(&self) -> bool {
        matches!(self, Self::Unclean(_) | Self::ContainerLeft)
    }
}

/// Runs one job for the miner of the configuration; returns once it is reported and everything is removed.
pub async fn run(config: ExecutorConfig, engine: Arc<dyn Engine>, tasks: Tasks) -> Result<(), RunError> {
    let started = Instant::now();
    let token = config.token.reveal().to_owned();
    if !is_token(&token) {
        return Err(RunError::BadToken);
    }
    let miner = endpoint(&config.miner_address);
    let url = format!("{miner}{ENDPOINT}{token}");
    let options = ConnectOptions {
        extensions: Extensions::of(EXTENSIONS),
        ..ConnectOptions::default()
    };
    let link = tokio::select! {
        biased;
        () = tasks.stopped() => return Ok(()),
        link = ws::connect_patiently(&url, &options, &tasks, CONNECT_ATTEMPTS) => link?,
    };
    tracing::info!(%miner, after = ?started.elapsed(), "connected to the miner");
    let policy = Arc::new(Policy::new(config.allow_addresses.clone()));
    let host = Host::new(Arc::clone(&engine), Arc::new(NvmlGpus::new()));
    let hub_token = config.hub_token.as_ref().map(|token| token.reveal().to_owned());
    let downloader = Downloader::new(config.volume_bytes_max, Arc::clone(&policy))
        .within(config.sandbox.disk_bytes)
        .with_hub(Hub::new(&config.hub_url, hub_token));
    let cache = Cache::new(
        &config.work_dir,
        config.image_cache_bytes,
        config.pinned_images,
        Clock::system(),
    );
    let ports = Ports {
        images: Arc::new(Images::new(Arc::clone(&engine), cache)),
        engine,
        place: config.on_host.then_some(Place::Host),
        guard: Arc::new(Guard::new(host, Floors::built_in()?, config.accept)),
        downloader: Arc::new(downloader),
        uploader: Arc::new(Uploader::new(config.upload_bytes_max, policy)),
        clock: Clock::system(),
        tasks: tasks.clone(),
    };
    let identity = Identity {
        owner: config.owner.clone(),
        token,
        no_gpu: config.no_gpu,
        streaming_port: config.streaming_port,
    };
    let machine = Machine::new(Instant::now(), config.startup, miner);
    let road = Road::new(link, url, options, config.reconnect, tasks);
    let outcome = Driver::new(machine, road, ports, identity, config.sandbox, &config.work_dir)
        .run()
        .await?;
    tracing::info!(?outcome, "done");
    match outcome {
        Outcome::Finished | Outcome::Failed | Outcome::HordeFailed | Outcome::Stopped => Ok(()),
        Outcome::ContainerLeft => Err(RunError::ContainerLeft),
        Outcome::LinkLost => Err(RunError::LinkLost),
        Outcome::NoJob => Err(RunError::NoJob),
    }
}

/// Returns a miner's address as a URL without a trailing slash; one without a scheme is plain WebSocket.
fn endpoint(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("ws://{address}")
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TOKEN_BYTES_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests;
