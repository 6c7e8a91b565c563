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
//! | `POST …/jobs/{uuid}/cancel/`, `GET …/jobs/{uuid}/logs/` | unknown | served | a user ends a job, and follows it |
//! | validator away, but connected a short while ago | 400 | 201; the job waits within its limits | a restart loses no job |
//! | job that its validator never ends | open for ever | `horde_failed` after its limits and slack | a job ends |
//! | cheat report without a signature | 201, the validator refuses it | 400 | it could not count |
//! | cheat report signed over the object | 500 | taken | it is the form that the reference's validators check |
//! | cheat report, `details` null | the key is dropped, the validator cannot read it | kept | |
//! | cheat report whose validator is away | lost | handed over when it is back | |
//! | `GET /api/v1/validators/`, `GET /health` | unknown | served | `horde job` finds its validator, `horde up` its facilitator |

mod api;
mod auth;
mod cancel;
mod delivery;
mod driver;
mod logs;
mod machine;
mod submission;
mod validators;

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use self::auth::{Gate, Users};
use self::logs::Logs;
use self::validators::{ActiveValidators, Seats};
use crate::core::chain::Chain;
use crate::core::clock::Clock;
use crate::core::config::FacilitatorConfig;
use crate::core::crypto::ss58::{self, Ss58Error};
use crate::core::model::JobId;
use crate::core::net::http;
use crate::core::store::facilitator::FacilitatorStore;
use crate::core::store::{OpenError, StoreError};
use crate::core::tasks::Tasks;

/// Links of validators at once, authenticated or not; the subnet has 256 neurons.
const LINKS_MAX: usize = 512;

/// Readers of logs that wait for news at once; further ones are answered without waiting.
const READERS_MAX: usize = 1024;

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
    active: ActiveValidators,
    seats: Seats,
    logs: Logs,
    /// Readers that wait for news of jobs.
    readers: Arc<Semaphore>,
    links: Arc<Semaphore>,
    clock: Clock,
    body_bytes_max: usize,
    /// For how long after its last sign of life a validator's jobs wait for it.
    away: Duration,
    tasks: Tasks,
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
    for user in &config.users {
        ss58::decode(user).map_err(|source| StartError::User {
            user: user.as_str().to_owned(),
            source,
        })?;
    }
    let path = config.dir.join("facilitator.sqlite");
    let opening = tokio::task::spawn_blocking(move || FacilitatorStore::open(&path));
    let store = opening.await.map_err(|_| StoreError::Panicked)??;
    let secret = store.secret(rand::random()).await?;
    let users = if config.allow_any_user {
        Users::Any
    } else {
        Users::Listed(HashSet::from_iter(config.users))
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
        active: ActiveValidators::new(chain),
        seats: Seats::default(),
        logs: Logs::default(),
        readers: Arc::new(Semaphore::new(READERS_MAX)),
        links: Arc::new(Semaphore::new(LINKS_MAX)),
        clock,
        body_bytes_max: config.body_bytes_max,
        away: config.away,
        tasks: tasks.clone(),
    }));
    tasks.spawn_vital("sweep of validators", driver::sweep(office.clone()));
    tasks.spawn_vital("watch of deliveries", delivery::watch(office.clone()));
    let (router, serving) = (api::router(office), tasks.clone());
    tasks.spawn_vital("facilitator", async move {
        http::serve(listener, router, &serving).await;
    });
    tracing::info!(%address, "facilitator serves");
    Ok(address)
}

/// Serves until `tasks` is told to stop.
pub async fn run(
    config: FacilitatorConfig,
    chain: Arc<dyn Chain>,
    clock: Clock,
    tasks: Tasks,
) -> Result<(), StartError> {
    start(config, chain, clock, &tasks).await?;
    tasks.stopped().await;
    Ok(())
}

/// Returns a UUID in the database's spelling: hyphenated, lower case.
fn canonical_uuid(text: &str) -> Option<JobId> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    Some(JobId::new(uuid.hyphenated().to_string()))
}

/// An error with all its sources, in one line.
struct Causes<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
