//! Role 2: broker between facilitator and miners.
//!
//! One connection to the facilitator brings jobs and takes reports ([`intake`]). A job whose user's signature is good
//! goes to a miner that [`routing`] picks among those that [`miners`] knows; [`machine`] says what happens next,
//! [`driver`] does it; [`cancel`] ends it sooner, when its user wants that. Jobs, receipts and reports are on disk
//! before anybody hears of them: a report is repeated until the facilitator has answered it ([`asides`] are not), and a
//! job that a crash interrupted is reported as failed at the next start.
//!
//! A job for the trusted miner goes to the address of `validator.trusted_miner`; reports that a miner cheated are judged
//! by [`cheats`], and routing passes such a miner over for a while.
//!
//! Not here yet: allowance and collateral (every routed job counts as paid for, nobody is slashed), synthetic batches,
//! scores and weights.

mod asides;
mod cancel;
mod cheats;
mod driver;
mod intake;
pub mod machine;
mod miners;
pub mod routing;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;

use self::asides::Asides;
use self::cancel::Cancels;
use self::machine::{Limits, Now};
use self::miners::Miners;
use crate::core::chain::Chain;
use crate::core::clock::Clock;
use crate::core::config::ValidatorConfig;
use crate::core::crypto::Keypair;
use crate::core::model::Hotkey;
use crate::core::model::JobId;
use crate::core::model::job::{HordeReason, JobStatus, Participant};
use crate::core::model::receipt::ReceiptPayload;
use crate::core::proto::facilitator_validator::HordeFailure;
use crate::core::receipts::{self, About, ReceiptError, Work};
use crate::core::store::validator::{Entry, PendingJob, ValidatorStore};
use crate::core::store::{OpenError, StoreError};
use crate::core::tasks::Tasks;
use crate::core::telemetry::STATE_TARGET;

/// Jobs that run at once; a further one is rejected with this reason.
const JOBS_MAX: usize = 1024;

/// How long ended jobs and incidents are kept: as long as the facilitator keeps jobs (wire-facilitator-validator §5).
const JOBS_KEPT: time::Duration = time::Duration::days(7);

/// How long receipts are kept: the largest ttl that one may have (wire-miner-validator §11).
const RECEIPTS_KEPT: time::Duration = time::Duration::days(30);

/// Time between two clearings of what is too old.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What the validator works with, besides its settings.
#[derive(Debug)]
pub struct Ports {
    /// Signs.
    pub keypair: Keypair,
    /// Knows the miners.
    pub chain: Arc<dyn Chain>,
    /// Tells the time.
    pub clock: Clock,
}

/// The validator could not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// Its file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What the last run left cannot be settled.
    #[error("the jobs of the last run could not be settled")]
    Settle(#[from] StoreError),
    /// A receipt cannot be written.
    #[error("a receipt could not be signed")]
    Sign(#[from] ReceiptError),
}

/// What all parts of a running validator share.
#[derive(Debug)]
struct Broker {
    config: ValidatorConfig,
    keypair: Keypair,
    chain: Arc<dyn Chain>,
    clock: Clock,
    store: ValidatorStore,
    miners: Miners,
    tasks: Tasks,
    /// One permit per running job.
    slots: Arc<Semaphore>,
    /// Rings when a report was stored.
    owed: Notify,
    /// The last report that the facilitator answered.
    answered: watch::Sender<i64>,
    /// What the facilitator is told besides reports.
    asides: Asides,
    /// The running jobs, by what stops them.
    cancels: Cancels,
    /// Takes the store's error after which the role must stop.
    fatal: mpsc::Sender<StoreError>,
}

/// Runs the validator until its family of tasks is asked to stop; running jobs then end as failed.
pub async fn run(config: ValidatorConfig, ports: Ports, tasks: &Tasks) -> Result<(), RunError> {
    let path = config.dir.join("validator.sqlite");
    let opening = tokio::task::spawn_blocking(move || ValidatorStore::open(&path));
    let store = opening.await.map_err(|_| StoreError::Panicked)??;
    let (fatal, mut fatal_errors) = mpsc::channel(1);
    let broker = Arc::new(Broker {
        config,
        keypair: ports.keypair,
        chain: ports.chain,
        clock: ports.clock,
        store,
        miners: Miners::default(),
        tasks: tasks.clone(),
        slots: Arc::new(Semaphore::new(JOBS_MAX)),
        owed: Notify::new(),
        answered: watch::Sender::new(0),
        asides: Asides::default(),
        cancels: Cancels::default(),
        fatal,
    });
    broker.settle_last_run().await?;
    tasks.life().watch(intake::LOOP, intake::LOOP_PATIENCE);
    tell_when_asked(&broker);
    tasks
        .life()
        .serves("takes jobs as soon as the facilitator answers");
    tracing::info!(
        hotkey = %broker.keypair.hotkey(),
        facilitator = %broker.config.facilitator_url,
        "validator runs"
    );
    tasks.spawn_vital("miners", Arc::clone(&broker).watch_miners());
    tasks.spawn_vital("reports", Arc::clone(&broker).forget_answered());
    tasks.spawn_vital("janitor", Arc::clone(&broker).prune());
    tasks.spawn_vital("facilitator", Arc::clone(&broker).serve_facilitator());
    let stopped = tasks.token();
    tasks.spawn_vital("store", async move {
        tokio::select! {
            biased;
            () = stopped.cancelled() => Ok(()),
            error = fatal_errors.recv() => error.map_or(Ok(()), Err),
        }
    });
    tasks.stopped().await;
    Ok(())
}

/// Writes how things stand to the log whenever somebody wants to know.
fn tell_when_asked(broker: &Arc<Broker>) {
    let known = Arc::downgrade(broker);
    broker.tasks.life().when_asked(move || {
        let Some(broker) = known.upgrade() else { return };
        tracing::info!(
            target: STATE_TARGET,
            jobs = JOBS_MAX.saturating_sub(broker.slots.available_permits()),
            last_answered = *broker.answered.borrow(),
            "state of the validator"
        );
        let load = broker.store.load();
        tracing::info!(
            target: STATE_TARGET,
            writes = load.writes,
            commits = load.commits,
            waiting = load.waiting,
            "state of the store"
        );
    });
}

impl Broker {
    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            wall: self.clock.now(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            reservation: self.config.reservation,
            startup: self.config.startup,
            leeway: self.config.leeway,
            whole: self.config.job_max,
        }
    }

    /// Stores what happened to a job, and rings for the reports among it.
    async fn record(&self, job: &JobId, entries: Vec<Entry>) -> Result<(), StoreError> {
        let reports = entries.iter().any(|entry| matches!(entry, Entry::Status { .. }));
        self.store.record(job.clone(), entries, self.clock.now()).await?;
        if reports {
            self.owed.notify_one();
        }
        Ok(())
    }

    /// Says that the store failed; the role stops if it will go on failing.
    fn store_failed(&self, job: &JobId, error: StoreError) {
        tracing::error!(%job, %error, "the store failed");
        if error.is_fatal() {
            // Full means that an earlier error stops the role already.
            drop(self.fatal.try_send(error));
        }
    }

    /// Ends the jobs that the last run left: a report upward, a finished receipt to the miner if it can be reached.
    async fn settle_last_run(self: &Arc<Self>) -> Result<(), RunError> {
        for pending in self.store.pending_jobs().await? {
            tracing::warn!(job = %pending.job, "the last run ended before this job");
            if pending.is_cancelled {
                self.settle_cancelled(pending).await?;
                continue;
            }
            self.settle(pending).await?;
        }
        Ok(())
    }

    /// Ends a job of the last run as interrupted.
    async fn settle(self: &Arc<Self>, pending: PendingJob) -> Result<(), RunError> {
        let mut entries = Vec::new();
        let mut parting = None;
        if let PendingJob {
            miner: Some((miner, axon)),
            receipted: true,
            ..
        } = &pending
        {
            let now = self.clock.now();
            let about = About {
                job_uuid: &pending.job,
                miner,
                now,
            };
            let work = Work {
                started: pending.started,
                took: (now - pending.started).min(machine::TOOK_MAX),
                score: 0.0,
                block_numbers: Vec::new(),
            };
            let receipt = receipts::sign_finished(&self.keypair, about, work)?;
            entries.push(Entry::Receipt {
                payload: ReceiptPayload::Finished(receipt.payload.clone()),
                signature: receipt.signature.clone(),
            });
            parting = Some((miner.clone(), *axon, driver::finished_frame(receipt)));
        }
        let details = HordeFailure {
            reported_by: Participant::Validator,
            reason: HordeReason::UnhandledException,
            message: "The validator was interrupted while the job was running".to_owned(),
            context: None,
        };
        let frame = machine::status_frame(&pending.job, JobStatus::Failed, Some(machine::horde(details)));
        entries.push(Entry::Status {
            status: JobStatus::Failed,
            frame,
        });
        entries.push(Entry::Ended);
        self.record(&pending.job, entries).await?;
        if let Some((miner, axon, frame)) = parting {
            let broker = Arc::clone(self);
            self.tasks.spawn("parting", async move {
                broker
                    .hand_over(&pending.job, &miner, axon, frame, driver::PATIENT)
                    .await;
            });
        }
        Ok(())
    }

    /// Forgets answered reports on disk; many answers in a row cost one write.
    async fn forget_answered(self: Arc<Self>) {
        let mut answers = self.answered.subscribe();
        loop {
            tokio::select! {
                biased;
                changed = answers.changed() => if changed.is_err() { return },
                () = self.tasks.stopped() => return,
            }
            let up_to = *answers.borrow_and_update();
            if let Err(error) = self.store.answered(up_to).await {
                // They are sent once more after a restart, which does no harm.
                tracing::warn!(%error, "answered reports could not be forgotten");
            }
        }
    }

    async fn prune(self: Arc<Self>) {
        let mut turns = self.tasks.turns(PRUNE_EVERY);
        while turns.next().await {
            let now = self.clock.now();
            if let Err(error) = self.store.prune(now - JOBS_KEPT, now - RECEIPTS_KEPT).await {
                tracing::warn!(%error, "old jobs could not be cleared");
            }
        }
    }

    /// Says whether a signer's jobs are taken.
    fn trusts(&self, signatory: &Hotkey) -> bool {
        signatory == self.keypair.hotkey() || self.config.whitelist.contains(signatory)
    }
}
