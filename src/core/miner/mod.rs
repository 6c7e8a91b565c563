//! Role 3: serves executors to validators.
//!
//! One listener for both sides. A validator's connection is a [`machine::Conversation`] carried out by the
//! [`driver`]; each job that it brings and that gets a slot of the [`pool`] has a [`keeper`], which starts the
//! executor through a [`backend`], lets the pure [`job`] decide, and gives the slot back when the executor is gone.
//!
//! ```text
//! validator ══ws══ driver(machine) ──letters──▶ keeper(job) ══ws══ executor
//!     ▲                  │ reserve                 │  │ start, kill
//!     └───── news ───────┼─────────────────────────┘  ▼
//!                       pool ──▶ store            backend
//! ```
//!
//! What happens to jobs, and what is not accepted, is written into the [`ledger`] for the operator; [`check`] looks at
//! the miner as its validators do.
//!
//! What is owed to others (jobs, slots, outcomes, receipts) is on the disk before anyone is told. A miner that was
//! killed ends, at its next start, what its former life left: executors, containers, open jobs.

pub mod admission;
pub mod backend;
pub mod check;
pub mod door;
pub mod driver;
pub mod job;
pub mod keeper;
pub mod ledger;
pub mod machine;
pub mod manifest;
pub mod output;
pub mod pool;
pub mod ports;
pub mod sharing;
pub mod stamps;
pub mod validators;

mod address;
mod dynamic;
mod figures;
mod offering;
mod orders;
mod pages;
mod recovery;
mod shares;
mod web;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::backend::capacity::Capacity;
use self::backend::container::ContainerBackend;
use self::backend::process::ProcessBackend;
use self::backend::{Backend, Terms};
use self::door::Door;
use self::ledger::Ledger;
use self::pool::Pool;
use self::ports::StreamingPorts;
use self::shares::Shares;
use self::validators::Validators;
use crate::core::chain::Chain;
use crate::core::clock::Clock;
use crate::core::config::{Backend as BackendKind, Environment, MinerConfig, Publishing};
use crate::core::crypto::Keypair;
use crate::core::docker::EngineError;
use crate::core::docker::engine::Bollard;
use crate::core::docker::limits::ContainerPathError;
use crate::core::docker::reference::{ImageReference, ReferenceError};
use crate::core::dynamic::keys::Values;
use crate::core::model::job::HordeReason;
use crate::core::model::subnet::Axon;
use crate::core::model::{JobId, Manifest};
use crate::core::net::LinkSender;
use crate::core::net::http::ClientError;
use crate::core::proto::validator_miner::Up;
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::validators::ListedValidator;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::{Loop, Metrics};

/// Longest wait for room in the queue of a connection that gets an outcome.
const DELIVERY_TIME: Duration = Duration::from_secs(10);

/// Time between two looks for containers that no executor knows.
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Time between two clearings of old rows.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What the miner works with.
#[derive(Debug)]
pub struct Ports {
    /// Its key.
    pub keypair: Keypair,
    /// Its chain.
    pub chain: Arc<dyn Chain>,
    /// Its database.
    pub store: MinerStore,
    /// Wall time.
    pub clock: Clock,
    /// The environment of which executors get a part.
    pub environment: Environment,
}

/// Why the miner ended.
#[derive(Debug, thiserror::Error)]
pub enum MinerError {
    /// The listener has no address.
    #[error("could not tell the address that is listened on")]
    Listener(#[source] std::io::Error),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Docker address cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The executor's image has no name.
    #[error(transparent)]
    Image(#[from] ReferenceError),
    /// A path cannot be mounted.
    #[error(transparent)]
    Mount(#[from] ContainerPathError),
    /// Nothing can be asked over HTTP.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What all connections of a miner share.
#[derive(Debug)]
pub struct Miner {
    config: MinerConfig,
    keypair: Keypair,
    clock: Clock,
    store: MinerStore,
    pool: Pool,
    ports: StreamingPorts,
    validators: Validators,
    ledger: Ledger,
    backend: Arc<dyn Backend>,
    door: Door,
    shares: Shares,
    /// What the subnet's owners set for all, as read last.
    dynamic: watch::Sender<Arc<Values>>,
    /// The address at which the miner is reached from outside; none until it is found out.
    address: watch::Sender<Option<IpAddr>>,
    metrics: Metrics,
    lines: AtomicU64,
    /// The locks of outcomes that are being delivered: one for each job, so that a slow validator holds up nobody else.
    deliveries: std::sync::Mutex<HashMap<JobId, Weak<Mutex<()>>>>,
}

impl Miner {
    fn next_line(&self) -> u64 {
        self.lines.fetch_add(1, Ordering::Relaxed)
    }

    /// Shows that a loop turns.
    fn beat(&self, which: Loop) {
        self.metrics.beat(which, self.clock.unix_seconds());
    }

    /// Returns what validators are told: what the pool offers, without the classes that do not pay.
    fn offered(&self) -> Manifest {
        offering::offered(self)
    }

    /// Returns the address at which executors of this machine are reached; loopback until it is found out.
    fn address(&self) -> IpAddr {
        self.address.borrow().unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Tells whether the pages of receipts are public.
    fn publishes_receipts(&self) -> bool {
        match self.config.publish_receipts {
            Publishing::On => true,
            Publishing::Off => false,
            Publishing::Auto => self.dynamic.borrow().receipt_transfer_enabled().unwrap_or(false),
        }
    }

    /// Ends a job whose keeper has panicked, a bug of ours, so that neither its slot nor its executor is lost.
    async fn take_over(&self, job: &JobId, token: &str) {
        if let Err(error) = self.backend.clear(token, None).await {
            tracing::error!(%job, %error, "cannot clear away an executor");
        }
        let message = "Miner failed while job was running".to_owned();
        let outcome: Up = job::miner_failed(job, HordeReason::UnhandledException, message).into();
        if let Err(error) = self.store.bury(job, outcome.encode(), self.clock.now()).await {
            tracing::error!(%job, %error, "cannot end a job");
        }
        self.pool.release(job).await;
        self.shares.end(job);
    }

    /// Returns the lock under which a job's outcome is delivered.
    fn delivery_of(&self, job: &JobId) -> Arc<Mutex<()>> {
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = deliveries.get(job).and_then(Weak::upgrade) {
            return lock;
        }
        deliveries.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Mutex::new(()));
        deliveries.insert(job.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Hands an outcome to a connection, unless its validator has got it meanwhile; false if the connection failed.
    async fn deliver(&self, job: &JobId, outcome: &str, line: &LinkSender) -> bool {
        let lock = self.delivery_of(job);
        let _held = lock.lock().await;
        match self.store.is_owed(job).await {
            Ok(true) => {}
            Ok(false) => return true,
            // Told twice is better than not at all.
            Err(error) => tracing::error!(%job, %error, "cannot tell whether an outcome was delivered"),
        }
        if !matches!(timeout(DELIVERY_TIME, line.send(outcome)).await, Ok(Ok(()))) {
            return false;
        }
        if let Err(error) = self.store.reported(job, self.clock.now()).await {
            tracing::error!(%job, %error, "cannot note that an outcome was delivered");
        }
        true
    }
}

/// Serves until the family is told to stop; clears away first what a former life left.
///
/// The listener may be bound long before: connections wait in the kernel meanwhile.
pub async fn run(
    config: MinerConfig,
    ports: Ports,
    listener: TcpListener,
    tasks: Tasks,
) -> Result<(), MinerError> {
    let local = listener.local_addr().map_err(MinerError::Listener)?;
    let Ports {
        keypair,
        chain,
        store,
        clock,
        environment,
    } = ports;
    let owner = store.owner().await?;
    let backend = make_backend(&config, &environment, owner, local)?;
    recovery::recover(&store, &backend, &clock, &tasks).await?;
    let dynamic = dynamic::kept(&config, &store).await?;
    let counted = offering::begin(&backend.capacity().borrow().clone(), &store, clock.now()).await?;
    let miner = Arc::new(Miner {
        pool: Pool::new(store.clone(), clock.clone(), backend.capacity(), counted),
        ports: StreamingPorts::new(config.streaming_ports.clone()),
        validators: Validators::new(Arc::clone(&chain), config.validator_stake_min),
        ledger: Ledger::new(store.clone(), clock.clone()),
        door: Door::new(config.validator_rate),
        shares: Shares::new(config.shares_by_stake),
        dynamic,
        address: watch::Sender::new(config.address),
        metrics: Metrics::new(),
        lines: AtomicU64::new(0),
        deliveries: std::sync::Mutex::default(),
        config,
        keypair,
        clock,
        store,
        backend,
    });
    orders::follow(&miner).await?;
    tasks.spawn("watch orders", orders::watch(Arc::clone(&miner), tasks.clone()));
    let port = miner.config.port.unwrap_or(local.port());
    tasks.spawn(
        "watch chain",
        watch_chain(Arc::clone(&miner), chain, port, tasks.clone()),
    );
    tasks.spawn("ledger", ledger::keep(Arc::clone(&miner), tasks.clone()));
    tasks.spawn("share", shares::watch(Arc::clone(&miner), tasks.clone()));
    dynamic::start(&miner, &tasks)?;
    address::start(&miner, &tasks)?;
    if let Some(address) = miner.config.metrics_listen {
        figures::start(&miner, address, &tasks).await;
    }
    tasks.spawn("manifest", offering::keep(Arc::clone(&miner), tasks.clone()));
    tasks.spawn("forget", forget(Arc::clone(&miner), tasks.clone()));
    tasks.spawn("reap", reap(Arc::clone(&miner), tasks.clone()));
    tasks.spawn("pack receipts", pages::pack(Arc::clone(&miner), tasks.clone()));
    tracing::info!(
        hotkey = %miner.keypair.hotkey(),
        address = %local,
        executors = ?miner.offered().0,
        "miner serves"
    );
    web::serve(miner, listener, &tasks).await;
    Ok(())
}

fn make_backend(
    config: &MinerConfig,
    environment: &Environment,
    owner: String,
    local: SocketAddr,
) -> Result<Arc<dyn Backend>, MinerError> {
    let engine = Arc::new(Bollard::new(&config.docker_host)?);
    let miner_address = match &config.executor_address {
        Some(address) => format!("ws://{address}"),
        None => format!("ws://{}", default_executor_address(config.backend, local)),
    };
    let terms = Terms {
        miner_address,
        startup_seconds: config.executor_startup.as_secs(),
        owner,
        no_gpu: config.no_gpu,
        profiles: config.profiles.clone(),
    };
    let capacity = Capacity::fixed(&config.executors);
    Ok(match config.backend {
        BackendKind::Process => Arc::new(ProcessBackend::new(
            terms,
            environment,
            capacity,
            &config.docker_host,
            engine,
        )),
        BackendKind::Docker => {
            let image = ImageReference::parse(&config.executor_image)?;
            let socket = engine.socket().to_owned();
            Arc::new(ContainerBackend::new(
                terms,
                environment,
                capacity,
                image,
                socket,
                engine,
            )?)
        }
    })
}

/// Returns where executors of this machine find a miner that listens at `local`.
fn default_executor_address(backend: BackendKind, local: SocketAddr) -> SocketAddr {
    if !local.ip().is_unspecified() {
        return local;
    }
    let ip = match backend {
        BackendKind::Process => [127, 0, 0, 1],
        // The host, as seen from the engine's default bridge (sem-miner §11.1).
        BackendKind::Docker => [172, 17, 0, 1],
    };
    SocketAddr::from((ip, local.port()))
}

/// Reads the validators and keeps the miner's own address announced.
async fn watch_chain(miner: Arc<Miner>, chain: Arc<dyn Chain>, port: u16, tasks: Tasks) {
    let mut ticks = interval(validators::REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_warned = false;
    let mut kept = None;
    let mut address = miner.address.subscribe();
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            _ = ticks.tick() => {}
            // An address that was found out is not left waiting.
            Ok(()) = address.changed() => {}
        }
        miner.beat(Loop::Chain);
        let hotkey = miner.keypair.hotkey();
        match miner.validators.refresh().await {
            Err(error) => tracing::warn!(%error, "cannot read the metagraph"),
            Ok(metagraph) => match metagraph.neuron(hotkey) {
                None if is_warned => {}
                None => {
                    is_warned = true;
                    tracing::warn!(%hotkey, "this miner is not registered on the subnet: no validator will find it");
                }
                Some(neuron) => {
                    // What is not known yet is announced when it is.
                    let Some(ip) = *miner.address.borrow() else {
                        continue;
                    };
                    announce(&miner, &*chain, neuron.axon, Axon { ip, port }).await;
                }
            },
        }
        keep_validators(&miner, &mut kept).await;
    }
}

/// Writes the active validators down for the operator, when they are others than before.
async fn keep_validators(miner: &Miner, kept: &mut Option<Vec<ListedValidator>>) {
    let active = miner.validators.active();
    if kept.as_ref() == Some(&active) {
        return;
    }
    match miner
        .store
        .keep_validators(active.clone(), miner.clock.now())
        .await
    {
        Ok(()) => *kept = Some(active),
        Err(error) => tracing::warn!(%error, "cannot note who validates"),
    }
}

/// Announces where the miner serves, unless the chain has it.
async fn announce(miner: &Miner, chain: &dyn Chain, known: Option<Axon>, axon: Axon) {
    if known == Some(axon) {
        return;
    }
    match chain.serve_axon(&miner.keypair, axon).await {
        Ok(()) => tracing::info!(ip = %axon.ip, port = axon.port, "address announced on the chain"),
        Err(error) => tracing::warn!(%error, "cannot announce the address on the chain"),
    }
}

/// Removes containers that no executor of this life knows.
async fn reap(miner: Arc<Miner>, tasks: Tasks) {
    let mut ticks = interval(REAP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            _ = ticks.tick() => {}
        }
        miner.beat(Loop::Reap);
        let is_alive = |token: &str| miner.pool.knows(token);
        // Jobs tell an operator soon enough that the engine does not answer.
        if let Err(error) = miner.backend.reap(&is_alive).await {
            tracing::debug!(%error, "cannot look for containers that nobody knows");
        }
    }
}

/// Clears rows that nobody needs any more.
async fn forget(miner: Arc<Miner>, tasks: Tasks) {
    let mut ticks = interval(FORGET_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            _ = ticks.tick() => {}
        }
        miner.beat(Loop::Forget);
        match miner.store.forget_old(miner.clock.now()).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "old jobs and receipts forgotten"),
            Err(error) => tracing::warn!(%error, "cannot forget old jobs"),
        }
    }
}
