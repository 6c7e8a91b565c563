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
//! What is owed to others (jobs, slots, outcomes, receipts) is on the disk before anyone is told: the store's journal.
//! A miner that was killed or restarted goes on, at its next start, with what its former life left ([`recovery`]):
//! executors of our own kind work on meanwhile and come back, others are ended and reported.
//!
//! With `miner.local_validator` it is the trusted miner of that validator (sem-miner §11): it serves nobody else, is
//! addressed by 48 zeros in place of a hotkey, asks no chain, and publishes nothing. Other than in the reference,
//! what the validator signs is checked here, too.
//!
//! Asked to stop, a miner first drains: for `miner.drain_seconds` it takes no new jobs and running ones may finish. What
//! still runs then is left running for its next life if the executor can come back, and else ended and reported.

pub mod admission;
pub mod backend;
pub mod check;
pub mod door;
pub mod driver;
pub mod job;
pub mod keeper;
pub mod ledger;
pub mod line;
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
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::backend::capacity::Capacity;
use self::backend::command::{CommandBackend, CommandError};
use self::backend::fleet::{FleetBackend, FleetError, FleetSetup};
use self::backend::process::ProcessBackend;
use self::backend::swarm::SwarmBackend;
use self::backend::{Backend, Terms};
use self::door::Door;
use self::keeper::Keeper;
use self::ledger::Ledger;
use self::line::{Line, Tellings};
use self::pool::Pool;
use self::ports::StreamingPorts;
use self::shares::Shares;
use self::validators::Validators;
use crate::core::chain::Chain;
use crate::core::clock::Clock;
use crate::core::config::engines::{Road, Server, USUAL_SOCKET};
use crate::core::config::{Backend as BackendKind, Environment, MinerConfig, Publishing};
use crate::core::crypto::Keypair;
use crate::core::docker::EngineError;
use crate::core::docker::engine::Bollard;
use crate::core::docker::limits::ContainerPathError;
use crate::core::docker::reference::{ImageReference, ReferenceError};
use crate::core::dynamic::keys::Values;
use crate::core::model::job::HordeReason;
use crate::core::model::subnet::Axon;
use crate::core::model::{Hotkey, JobId, Manifest};
use crate::core::net::http::ClientError;
use crate::core::proto::validator_miner::Up;
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::validators::ListedValidator;
use crate::core::tasks::Tasks;
use crate::core::tasks::life::Life;
use crate::core::telemetry::metrics::{Loop, Metrics};

/// Longest wait for room in the queue of a connection that gets an outcome.
const DELIVERY_TIME: Duration = Duration::from_secs(10);

/// Time between two looks for containers that no executor knows.
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Longest time between two turns of the loop that follows orders, which goes through the database every second.
const ORDERS_PATIENCE: Duration = Duration::from_secs(60);

/// The setting of executors that says for how long they look for a miner that they have lost.
const EXECUTOR_RECONNECT: &str = "HORDE_EXECUTOR_RECONNECT_SECONDS";

/// Time between two clearings of old rows.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// The name of the one server that there is without a file of them: the reference's.
const OWN_SERVER: &str = "self";

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
    /// Whether a next life is to go on with what runs when this one stops; else nothing is left running, and nothing
    /// is waited for.
    pub leaves_jobs: bool,
    /// How executors are started, where it is not what the configuration says: for those who play the executors.
    pub backend: Option<Arc<dyn Backend>>,
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
    /// The engines cannot be used.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Nothing can be asked over HTTP.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A path cannot be mounted.
    #[error(transparent)]
    Mount(#[from] ContainerPathError),
    /// Executors of other machines are not told where the miner is.
    #[error(
        "where executors find the miner is not known: set miner.executor_address to an address and port of this machine that \
         theirs reach"
    )]
    ExecutorAddress,
    /// The operator's program is not there.
    #[error(transparent)]
    Command(#[from] CommandError),
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
    tellings: Tellings,
    leaves_jobs: bool,
    /// Whether the operator wants no new jobs.
    is_draining: AtomicBool,
    /// Whether this life is about to end.
    is_closing: AtomicBool,
    life: Life,
}

impl Miner {
    /// Lets a keeper look after its job, which is on the list of the pool.
    fn keep(self: &Arc<Self>, keeper: Keeper, tasks: &Tasks) {
        let (job, token) = (keeper.job().clone(), keeper.token().to_owned());
        let (miner, family) = (Arc::clone(self), tasks.clone());
        tasks.spawn("job", async move {
            if AssertUnwindSafe(keeper.run(family)).catch_unwind().await.is_err() {
                tracing::error!(%job, "the keeper of a job panicked");
                miner.take_over(&job, &token).await;
            }
        });
    }

    fn next_line(&self) -> u64 {
        self.lines.fetch_add(1, Ordering::Relaxed)
    }

    /// Shows that a loop turns.
    fn beat(&self, which: Loop) {
        self.metrics.beat(which, self.clock.unix_seconds());
        self.life.beat(which.word());
    }

    /// Returns what validators are told: what the pool offers, without the classes that do not pay.
    fn offered(&self) -> Manifest {
        let mut manifest = offering::offered(self);
        if self.is_draining.load(Ordering::Relaxed) || self.is_closing.load(Ordering::Relaxed) {
            manifest.0.values_mut().for_each(|count| *count = 0);
        }
        manifest
    }

    /// Returns the address at which executors of this machine are reached; loopback until it is found out.
    fn address(&self) -> IpAddr {
        self.address.borrow().unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Returns the hotkey by which validators address this miner: its own, or what stands for a trusted one.
    fn hotkey(&self) -> Hotkey {
        match self.config.local_validator {
            Some(_) => Hotkey::from(Hotkey::TRUSTED_MINER),
            None => self.keypair.hotkey().clone(),
        }
    }

    /// Tells whether the pages of receipts are public.
    fn publishes_receipts(&self) -> bool {
        match self.config.publish_receipts {
            // Receipts of a trusted miner are nobody's business: its validator does not count them.
            _ if self.config.local_validator.is_some() => false,
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
    async fn deliver(&self, job: &JobId, outcome: &str, line: &Line) -> bool {
        let lock = self.delivery_of(job);
        let _held = lock.lock().await;
        match self.store.is_owed(job) {
            Ok(true) if self.tellings.is_fresh(job, line, Instant::now()) => return true,
            Ok(true) => {}
            Ok(false) => return true,
            // Told twice is better than not at all.
            Err(error) => tracing::error!(%job, %error, "cannot tell whether an outcome was delivered"),
        }
        if !matches!(
            timeout(DELIVERY_TIME, line.sender.send(outcome)).await,
            Ok(Ok(()))
        ) {
            return false;
        }
        self.tellings.note(job, line);
        if let Err(error) = self.store.reported(job, self.clock.now()).await {
            tracing::error!(%job, %error, "cannot note that an outcome was delivered");
        }
        true
    }

    /// Takes the end of a connection in: closed in good order, the validator has what was told over it.
    async fn note_end_of(&self, line: &Line, is_orderly: bool) {
        let own = self.tellings.take(line);
        for job in own.iter().filter(|_| is_orderly) {
            if let Err(error) = self.store.acknowledged(job, self.clock.now()).await {
                tracing::error!(%job, %error, "cannot note that an outcome was received");
            }
        }
    }
}

/// Serves until the family is told to stop and jobs have had their time to finish; goes on first with what a former life
/// left.
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
        leaves_jobs,
        backend,
    } = ports;
    // Goes on while jobs have their time to finish.
    let work = tasks.outliving_child();
    let backend = if let Some(backend) = backend {
        backend
    } else {
        let owner = store.owner().await?;
        let home = Home {
            local,
            leaves_jobs,
            clock: &clock,
            tasks: &work,
        };
        make_backend(&config, &environment, owner, home).await?
    };
    let dynamic = dynamic::kept(&config, &store).await?;
    let capacity = backend.capacity().borrow().clone();
    let counted = offering::begin(&capacity, &store, clock.now()).await?;
    let miner = Arc::new(Miner {
        pool: Pool::new(store.clone(), clock.clone(), backend.capacity(), counted),
        ports: StreamingPorts::new(config.streaming_ports.clone()),
        validators: known_validators(&config, Arc::clone(&chain)),
        ledger: Ledger::new(store.clone(), clock.clone()),
        door: Door::new(config.validator_rate),
        shares: Shares::new(config.shares_by_stake),
        dynamic,
        address: watch::Sender::new(config.address),
        metrics: Metrics::new(),
        lines: AtomicU64::new(0),
        deliveries: std::sync::Mutex::default(),
        tellings: Tellings::default(),
        leaves_jobs,
        is_draining: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
        life: tasks.life().clone(),
        config,
        keypair,
        clock,
        store,
        backend,
    });
    orders::follow(&miner).await?;
    recovery::recover(&miner, &work).await?;
    work.spawn("watch orders", orders::watch(Arc::clone(&miner), work.clone()));
    if miner.config.local_validator.is_some() {
        keep_validators(&miner, &mut None).await;
    } else {
        let port = miner.config.port.unwrap_or(local.port());
        work.spawn(
            "watch chain",
            watch_chain(Arc::clone(&miner), chain, port, work.clone()),
        );
    }
    work.spawn("ledger", ledger::keep(Arc::clone(&miner), work.clone()));
    work.spawn("share", shares::watch(Arc::clone(&miner), work.clone()));
    dynamic::start(&miner, &work)?;
    address::start(&miner, &work)?;
    if let Some(address) = miner.config.metrics_listen {
        figures::start(&miner, address, &work).await;
    }
    work.spawn("manifest", offering::keep(Arc::clone(&miner), work.clone()));
    work.spawn("forget", forget(Arc::clone(&miner), work.clone()));
    work.spawn("reap", reap(Arc::clone(&miner), work.clone()));
    work.spawn("pack receipts", pages::pack(Arc::clone(&miner), work.clone()));
    miner.life.watch(Loop::Orders.word(), ORDERS_PATIENCE);
    figures::tell_when_asked(&miner);
    miner
        .life
        .serves(format!("serves at {local} offering {}", miner.offered()));
    tracing::info!(
        hotkey = %miner.hotkey(),
        address = %local,
        executors = %miner.offered(),
        "miner serves"
    );
    tokio::join!(
        web::serve(Arc::clone(&miner), listener, &work),
        close(&miner, &tasks, &work)
    );
    Ok(())
}

/// Returns the validators that a miner serves: those of the chain, or the one whose trusted miner it is.
fn known_validators(config: &MinerConfig, chain: Arc<dyn Chain>) -> Validators {
    let validators = Validators::new(chain, config.validator_stake_min);
    match &config.local_validator {
        Some(validator) => validators.of_one(validator.clone()),
        None => validators,
    }
}

/// Waits until the miner is asked to stop, gives jobs their time to finish, then ends its work.
async fn close(miner: &Miner, tasks: &Tasks, work: &Tasks) {
    tasks.stopped().await;
    miner.is_closing.store(true, Ordering::Relaxed);
    let patience = if miner.leaves_jobs {
        miner.config.drain
    } else {
        Duration::ZERO
    };
    if timeout(patience, miner.pool.emptied()).await.is_err() {
        tracing::info!(
            seconds = patience.as_secs(),
            "jobs still run at the end of the time to finish"
        );
    }
    work.stop();
}

/// What a backend needs to know of the miner that it is of.
#[derive(Clone, Copy)]
struct Home<'a> {
    local: SocketAddr,
    leaves_jobs: bool,
    clock: &'a Clock,
    tasks: &'a Tasks,
}

async fn make_backend(
    config: &MinerConfig,
    environment: &Environment,
    owner: String,
    home: Home<'_>,
) -> Result<Arc<dyn Backend>, MinerError> {
    let Home {
        local,
        leaves_jobs,
        clock,
        tasks,
    } = home;
    // How long they look for this miner is how long it waits for them.
    let reconnect = config.executor_reconnect.as_secs().to_string();
    let environment = &environment.clone().with(EXECUTOR_RECONNECT, &reconnect);
    let miner_address = match &config.executor_address {
        Some(address) => format!("ws://{address}"),
        None => format!("ws://{}", default_executor_address(config, local)?),
    };
    let terms = Terms {
        miner_address,
        startup_seconds: config.executor_startup.as_secs(),
        owner,
        no_gpu: config.no_gpu,
        profiles: config.profiles.clone(),
    };
    Ok(match config.backend {
        BackendKind::Process => {
            if config.engines.is_some() {
                tracing::warn!(
                    "the setting miner.engines is for the docker backend, and not used by this one"
                );
            }
            let backend = ProcessBackend::new(
                terms,
                environment,
                Capacity::fixed(&config.executors),
                &config.docker_host,
                Arc::new(Bollard::new(&config.docker_host)?),
            );
            Arc::new(backend.outliving_miner(leaves_jobs))
        }
        BackendKind::Docker => {
            let setup = FleetSetup {
                terms,
                environment: environment.clone(),
                image: ImageReference::parse(&config.executor_image)?,
                clock: clock.clone(),
                file: config.engines.clone(),
                servers: vec![own_server(config)?],
            };
            FleetBackend::start(setup, tasks).await?
        }
        BackendKind::Swarm => {
            let image = ImageReference::parse(&config.executor_image)?;
            let engine = Arc::new(Bollard::new(&config.docker_host)?);
            let swarm = SwarmBackend::open(terms, environment, image, engine, clock.clone(), tasks);
            Arc::new(swarm.await?)
        }
        BackendKind::Command => {
            let command = config.command.clone();
            let backend = CommandBackend::open(terms, environment, command, clock.clone(), tasks);
            Arc::new(backend.await?)
        }
    })
}

/// Returns the engine of the settings, for a miner without a file of servers.
fn own_server(config: &MinerConfig) -> Result<Server, MinerError> {
    let engine = Bollard::new(&config.docker_host)?;
    Ok(Server {
        name: OWN_SERVER.to_owned(),
        executors: config.executors.clone(),
        road: Road::Unix(engine.socket().unwrap_or(Path::new(USUAL_SOCKET)).to_owned()),
        address: None,
    })
}

/// Returns where executors find a miner that listens at `local`.
fn default_executor_address(config: &MinerConfig, local: SocketAddr) -> Result<SocketAddr, MinerError> {
    if !local.ip().is_unspecified() {
        return Ok(local);
    }
    let ip = match config.backend {
        BackendKind::Process => [127, 0, 0, 1].into(),
        // The host, as seen from the engine's default bridge (sem-miner §11.1).
        BackendKind::Docker => [172, 17, 0, 1].into(),
        // They may be anywhere, so as validators do.
        BackendKind::Swarm | BackendKind::Command => config.address.ok_or(MinerError::ExecutorAddress)?,
    };
    Ok(SocketAddr::from((ip, local.port())))
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
    let mut turns = tasks.turns(REAP_EVERY);
    while turns.next().await {
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
    let mut turns = tasks.turns(FORGET_EVERY);
    while turns.next().await {
        miner.beat(Loop::Forget);
        match miner.store.forget_old(miner.clock.now()).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "old jobs and receipts forgotten"),
            Err(error) => tracing::warn!(%error, "cannot forget old jobs"),
        }
    }
}
