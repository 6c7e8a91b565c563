//! The facilitator: the gateway between users and validators.
//!
//! Users log in, submit signed jobs and read what became of them (`api`); each validator keeps one link (`driver`).
//! A job is on the disk before its user is told so and before its validator gets it. [`start`] binds and serves.
//!
//! # Differences from the reference
//!
//! | What | Reference | Here | Why |
//! |---|---|---|---|
//! | missing, wrong or unreadable request signature | 500 HTML | 400 `{"error", "details"}` | a bad request is the caller's |
//! | signature headers on a GET | 500 HTML | ignored | they sign nothing there |
//! | unknown `executor_class`, bad `env` | 500 HTML | 400 by field | the same |
//! | `artifacts_dir` null | 400 | none | the SDK's default sends it |
//! | spaces around `args` and `docker_image` | trimmed, then the signature is wrong | kept | what is signed survives |
//! | numbers and words where texts, numbers and booleans belong | coerced | 400 by field | the same |
//! | body above the limit | 400 HTML | 413 `{"detail"}` | names the limit |
//! | job above the validator's frame limit | accepted, closes the validator's link | 413 `{"detail"}` | one user must not cut others off |
//! | missing trailing slash | 301, which loses a POST's body | served | |
//! | status after an end state | stored | `job.integrity_error` | a job ends once |
//! | status `unknown` | stored, then the job cannot be read | `job.unknown_status` | |
//! | `completed` or `streaming_ready` without metadata | handler crashes, 1011 | stored | |
//! | status of another validator's job | stored | `job.not_found` | not its business |
//! | undecodable authentication | 1011 | `auth.signature_invalid`, 3000 | |
//! | two links of one validator | both get each job | the newest; the older is closed with 1000 | a job must not run twice |
//! | link without authentication | stays | closed after 60 s | bounded |
//! | parser's `errors[]` | with `input`, `ctx`, `url` | with `loc` | same `type`, own words where the parser's are its own |
//! | volumes' and uploads' 400 | with `input`, `ctx`, `url` | `type`, `loc`, `msg` | the same |
//! | list order | unspecified | newest first | |
//! | list narrowed to more than 256 UUIDs | taken | 400 by field | bounded |
//! | job with more than it could ever run with: 1024 args or env entries, 64 volumes or uploads | accepted | 413 `{"error", "details"}` | it fails anyway |
//! | more submissions, logins or unfinished jobs than one may have | unbounded | 429 with `Retry-After` | one user must not crowd others out |
//! | repeated submission with the same `Idempotency-Key` | a second job | 200 with the first | a retry after a lost answer is safe |
//! | feedback of a hotkey's own job | 404 on PUT and POST, 500 on GET | taken and shown | here every owner is a hotkey |
//! | prices and credit | none | 402 `{"error", "details", "missing_micro", …}` where a job cannot be paid, `horde.cost` in the job | [`crate::core::money`] |
//! | `GET /api/v1/account/` | unknown | served | a user sees its money and the prices |
//! | `POST …/jobs/{uuid}/cancel/`, `GET …/jobs/{uuid}/logs/` | unknown | served | a user ends a job, and follows it |
//! | validator away, but connected a short while ago | 400 | 201; the job waits within its limits | a restart loses no job |
//! | job that its validator never ends | open for ever | `horde_failed` after its limits and slack | a job ends |
//! | cheat report without a signature | 201, the validator refuses it | 400 | it could not count |
//! | cheat report signed over the object | 500 | taken | it is the form that the reference's validators check |
//! | cheat report, `details` null | the key is dropped, the validator cannot read it | kept | |
//! | cheat report whose validator is away | lost | handed over when it is back | |
//! | `GET /api/v1/validators/`, `GET /health`, `GET /openapi.json` | unknown | served | `horde job` finds its validator, `horde up` its facilitator, others this API |

mod api;
mod asker;
mod auth;
mod cancel;
mod delivery;
mod driver;
mod eviction;
mod figures;
mod limits;
mod logs;
mod machine;
mod money;
mod submission;
mod users;
mod validators;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use self::asker::Front;
use self::auth::Gate;
use self::limits::Limits;
use self::logs::Logs;
use self::money::Prices;
use self::users::Users;
use self::validators::{ActiveValidators, Seats};
use crate::core::chain::Chain;
use crate::core::clock::Clock;
use crate::core::config::FacilitatorConfig;
use crate::core::crypto::ss58::{self, Ss58Error};
use crate::core::model::JobId;
use crate::core::net::certificates::{CertificateError, Certificates};
use crate::core::net::http;
use crate::core::store::facilitator::FacilitatorStore;
use crate::core::store::trap::Trap;
use crate::core::store::{OpenError, StoreError};
use crate::core::tasks::Tasks;
use crate::core::telemetry::facilitator::FacilitatorMetrics;
use crate::core::telemetry::metrics::Loop;

/// Links of validators at once, authenticated or not; the subnet has 256 neurons.
const LINKS_MAX: usize = 512;

/// The facilitator's database in its data directory.
pub const DATABASE: &str = "facilitator.sqlite";

/// Readers of logs that wait for news at once; further ones are answered without waiting.
const READERS_MAX: usize = 1024;

/// Longest time between two turns of the loop that follows orders, which goes through the database every second.
const ORDERS_PATIENCE: Duration = Duration::from_secs(60);

/// Why the facilitator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The database cannot be opened.
    #[error("cannot open the facilitator's database")]
    Open(#[from] OpenError),
    /// The database cannot be used.
    #[error("cannot use the facilitator's database")]
    Store(#[from] StoreError),
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// Its certificate cannot be used.
    #[error("cannot serve over TLS")]
    Certificate(#[from] CertificateError),
    /// A user is no hotkey.
    #[error("facilitator.users has an entry that is no address: {user:?}")]
    User {
        /// The entry.
        user: String,
        /// What is wrong with it.
        source: Ss58Error,
    },
}

/// What every request and every link needs; cheap to clone.
#[derive(Debug, Clone)]
struct Office(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: FacilitatorStore,
    gate: Gate,
    prices: Prices,
    active: ActiveValidators,
    seats: Seats,
    logs: Logs,
    /// Readers that wait for news of jobs.
    readers: Arc<Semaphore>,
    links: Arc<Semaphore>,
    clock: Clock,
    limits: Limits,
    front: Front,
    metrics: FacilitatorMetrics,
    /// For how long after its last sign of life a validator's jobs wait for it.
    away: Duration,
    tasks: Tasks,
}

impl Office {
    /// Shows that a loop turns.
    fn beat(&self, which: Loop) {
        self.metrics.beat(which, self.clock.unix_seconds());
        self.tasks.life().beat(which.word());
    }
}

impl std::ops::Deref for Office {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Opens the database, binds, and serves as tasks of `tasks`; returns the bound address.
pub async fn start(
    config: FacilitatorConfig,
    chain: Arc<dyn Chain>,
    clock: Clock,
    tasks: &Tasks,
) -> Result<SocketAddr, StartError> {
    start_trapped(config, chain, clock, None, tasks).await
}

async fn start_trapped(
    config: FacilitatorConfig,
    chain: Arc<dyn Chain>,
    clock: Clock,
    trap: Option<Trap>,
    tasks: &Tasks,
) -> Result<SocketAddr, StartError> {
    let limits = Limits::new(&config);
    for user in &config.users {
        ss58::decode(user).map_err(|source| StartError::User {
            user: user.as_str().to_owned(),
            source,
        })?;
    }
    let path = config.dir.join(DATABASE);
    let opening = tokio::task::spawn_blocking(move || FacilitatorStore::open(&path));
    let store = opening.await.map_err(|_| StoreError::Panicked)??.with_trap(trap);
    let secret = store.secret(rand::random()).await?;
    let users = Users::new(config.allow_any_user, config.users);
    let revision = store.orders_revision().await?;
    users.follow(store.user_orders().await?);
    if users.is_nobody() {
        tracing::warn!(
            "no user may log in: add one with `horde facilitator user add`, or set facilitator.users or \
             facilitator.allow_any_user"
        );
    }
    let certificates = match config.tls.clone() {
        None => None,
        Some(files) => {
            let loading =
                tokio::task::spawn_blocking(move || Certificates::load(&files.certificate, &files.key));
            Some(loading.await.map_err(|_| StoreError::Panicked)??)
        }
    };
    let failed = |source| StartError::Listen {
        address: config.listen,
        source,
    };
    let listener = http::listen(config.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let office = Office(Arc::new(Inner {
        store,
        gate: Gate::new(&secret, users, config.nonce, config.jwt),
        prices: Prices::new(config.prices),
        active: ActiveValidators::new(chain),
        seats: Seats::default(),
        logs: Logs::default(),
        readers: Arc::new(Semaphore::new(READERS_MAX)),
        links: Arc::new(Semaphore::new(LINKS_MAX)),
        clock,
        limits,
        front: Front {
            is_tls: certificates.is_some(),
            proxies: config.trusted_proxies,
        },
        metrics: FacilitatorMetrics::new(),
        away: config.away,
        tasks: tasks.clone(),
    }));
    if let Some(address) = config.metrics_listen {
        figures::start(&office, address).await;
    }
    tasks.life().watch(Loop::Orders.word(), ORDERS_PATIENCE);
    figures::tell_when_asked(&office);
    tasks.spawn_vital("eviction", eviction::keep(office.clone(), config.keep));
    tasks.spawn_vital("sweep of validators", driver::sweep(office.clone()));
    tasks.spawn_vital("orders", users::watch(office.clone(), revision));
    tasks.spawn_vital("charges", money::charge_running(office.clone()));
    tasks.spawn_vital("watch of deliveries", delivery::watch(office.clone()));
    let (router, serving) = (api::router(office), tasks.clone());
    let is_tls = certificates.is_some();
    if let Some(certificates) = certificates.clone() {
        tasks.spawn_vital("certificate", certificates.watch(tasks.clone()));
    }
    tasks.spawn_vital("facilitator", async move {
        match certificates {
            None => http::serve(listener, router, &serving).await,
            Some(certificates) => http::serve_tls(listener, router, &serving, certificates).await,
        }
    });
    tasks.life().serves(format!("serves at {address}"));
    tracing::info!(%address, tls = is_tls, "facilitator serves");
    Ok(address)
}

/// Serves until `tasks` is told to stop; `trap` is for tests of crashes.
pub async fn run(
    config: FacilitatorConfig,
    chain: Arc<dyn Chain>,
    clock: Clock,
    trap: Option<Trap>,
    tasks: Tasks,
) -> Result<(), StartError> {
    start_trapped(config, chain, clock, trap, &tasks).await?;
    tasks.stopped().await;
    Ok(())
}

/// Returns a UUID in the database's spelling: hyphenated, lower case.
fn canonical_uuid(text: &str) -> Option<JobId> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    Some(JobId::new(uuid.hyphenated().to_string()))
}
