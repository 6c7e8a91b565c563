//! What the validator knows of its miners: who serves, what each offers, what it has busy there.
//!
//! Manifests come from a short connection to each miner (authenticate, read, close) every five minutes, at once from
//! a miner that is new on the chain, on demand when a job finds nobody, and from every job's own connection. A miner
//! that cannot be reached has no manifest and gets no job.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::Broker;
use super::routing::{self, Candidate, Choice};
use crate::core::chain::ChainError;
use crate::core::model::subnet::{Axon, Metagraph};
use crate::core::model::{ExecutorClass, Hotkey, Manifest};
use crate::core::net::ws::{self, ConnectError, ConnectOptions};
use crate::core::net::{Event, close_code};
use crate::core::proto::validator_miner::{Authenticate, Down, Up};
use crate::core::store::StoreError;

/// Time between two looks at a miner's manifest: 5 min (wire-miner-validator §3).
const POLL_EVERY: Duration = Duration::from_secs(300);

/// Time between two looks at the chain for new miners.
const LOOK_EVERY: Duration = Duration::from_secs(12);

/// Time after which a miner that could not be reached is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Time for one poll in the background: 30 s (wire-miner-validator §3, `MANIFEST_FETCHING_TIMEOUT`).
const POLL_WITHIN: Duration = Duration::from_secs(30);

/// Time for all polls that a job waits for.
const POLL_ON_DEMAND_WITHIN: Duration = Duration::from_secs(5);

/// Polls at once: all 256 miners of a subnet within five minutes even if none answers.
const POLLS_AT_ONCE: usize = 32;

/// Window of incidents that count against a miner: 24 h (sem-organic-jobs §6).
const INCIDENT_WINDOW: time::Duration = time::Duration::hours(24);

/// How long a miner that declined as busy comes after all others: the default ttl of the receipt that keeps it busy.
const DECLINE_REMEMBERED: Duration = Duration::from_secs(7);

/// Whether and what a miner answered, and when.
#[derive(Debug, Clone)]
struct Poll {
    at: Instant,
    manifest: Option<Manifest>,
}

#[derive(Debug, Default)]
struct State {
    polls: HashMap<Hotkey, Poll>,
    busy: HashMap<(Hotkey, ExecutorClass), i64>,
    declined: HashMap<(Hotkey, ExecutorClass), Instant>,
    metagraph: Option<Arc<Metagraph>>,
}

/// The validator's memory of its miners; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Miners(Arc<Mutex<State>>);

/// An executor that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    miners: Miners,
    key: (Hotkey, ExecutorClass),
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.miners.state();
        if let Some(count) = state.busy.get_mut(&self.key) {
            *count -= 1;
            if *count <= 0 {
                state.busy.remove(&self.key);
            }
        }
    }
}

/// A miner that was picked, and its executor.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) miner: Hotkey,
    pub(super) axon: Axon,
    /// None for the trusted miner, whose executors nobody counts.
    pub(super) taken: Option<Taken>,
}

/// What is on record of miners.
#[derive(Debug)]
struct Record {
    /// How many jobs of the class each failed.
    incidents: HashMap<Hotkey, i64>,
    blacklisted: HashSet<Hotkey>,
}

/// No miner gets the job.
#[derive(Debug, Error)]
pub(super) enum RouteError {
    /// Nobody has a free executor of the class.
    #[error("no miner has a free executor of class {class}")]
    AllMinersBusy {
        /// The class.
        class: ExecutorClass,
        /// Who was asked, and why it cannot.
        skipped: Vec<(Hotkey, routing::Skip)>,
    },
    /// Nobody can tell which miners there are.
    #[error("the miners cannot be looked up")]
    Chain(#[from] ChainError),
    /// Nobody can tell how reliable they are.
    #[error("the incidents of miners cannot be read")]
    Store(#[from] StoreError),
}

/// A miner did not say what it offers.
#[derive(Debug, Error)]
enum PollError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("it closed the connection with code {0}")]
    Closed(u16),
    #[error("it did not answer in time")]
    TimedOut,
}

impl Miners {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a miner offers.
    pub(super) fn learn(&self, miner: &Hotkey, manifest: Manifest) {
        let manifest = Some(manifest);
        let at = Instant::now();
        self.state().polls.insert(miner.clone(), Poll { at, manifest });
    }

    /// Remembers that a miner cannot be reached.
    pub(super) fn lose(&self, miner: &Hotkey) {
        let at = Instant::now();
        self.state()
            .polls
            .insert(miner.clone(), Poll { at, manifest: None });
    }

    /// Remembers that a miner declined a job as busy.
    pub(super) fn declined(&self, miner: &Hotkey, class: ExecutorClass) {
        self.state()
            .declined
            .insert((miner.clone(), class), Instant::now());
    }

    /// Picks a miner and takes one of its executors, in one step, so that two jobs never take the same one.
    fn pick(
        &self,
        metagraph: &Metagraph,
        own: &Hotkey,
        class: ExecutorClass,
        record: &Record,
    ) -> Result<Route, Vec<(Hotkey, routing::Skip)>> {
        let mut state = self.state();
        state.declined.retain(|_, at| at.elapsed() < DECLINE_REMEMBERED);
        let candidates = metagraph
            .serving()
            .filter(|(neuron, _)| &neuron.hotkey != own)
            .map(|(neuron, axon)| {
                let key = (neuron.hotkey.clone(), class);
                let poll = state.polls.get(&neuron.hotkey);
                Candidate {
                    axon,
                    offered: poll
                        .and_then(|poll| poll.manifest.as_ref())
                        .map(|manifest| manifest.count(class)),
                    busy: state.busy.get(&key).copied().unwrap_or(0),
                    incidents: record.incidents.get(&neuron.hotkey).copied().unwrap_or(0),
                    declined: state.declined.contains_key(&key),
                    blacklisted: record.blacklisted.contains(&neuron.hotkey),
                    hotkey: neuron.hotkey.clone(),
                }
            })
            .collect();
        let Choice { picked, skipped } = routing::choose(candidates, rand::random);
        let Some(candidate) = picked else {
            return Err(skipped);
        };
        let key = (candidate.hotkey.clone(), class);
        *state.busy.entry(key.clone()).or_insert(0) += 1;
        let taken = Taken {
            miners: self.clone(),
            key,
        };
        Ok(Route {
            miner: candidate.hotkey,
            axon: candidate.axon,
            taken: Some(taken),
        })
    }

    /// Returns the miners whose manifest is due, and forgets those that left the subnet.
    fn due(&self, metagraph: &Metagraph, own: &Hotkey) -> Vec<(Hotkey, Axon)> {
        let mut state = self.state();
        let known: HashSet<&Hotkey> = metagraph.neurons.iter().map(|neuron| &neuron.hotkey).collect();
        state.polls.retain(|hotkey, _| known.contains(hotkey));
        let is_due = |poll: &Poll| match &poll.manifest {
            Some(_) => poll.at.elapsed() >= POLL_EVERY,
            None => poll.at.elapsed() >= RETRY_AFTER,
        };
        metagraph
            .serving()
            .filter(|(neuron, _)| &neuron.hotkey != own)
            .filter(|(neuron, _)| state.polls.get(&neuron.hotkey).is_none_or(is_due))
            .map(|(neuron, axon)| (neuron.hotkey.clone(), axon))
            .collect()
    }

    /// Returns the miners that have not said what they offer.
    fn silent(&self, metagraph: &Metagraph, own: &Hotkey) -> Vec<(Hotkey, Axon)> {
        let state = self.state();
        metagraph
            .serving()
            .filter(|(neuron, _)| &neuron.hotkey != own)
            .filter(|(neuron, _)| {
                state
                    .polls
                    .get(&neuron.hotkey)
                    .is_none_or(|poll| poll.manifest.is_none())
            })
            .map(|(neuron, axon)| (neuron.hotkey.clone(), axon))
            .collect()
    }
}

impl Broker {
    /// Picks a miner for a job of a class and takes one of its executors.
    pub(super) async fn route(&self, class: ExecutorClass) -> Result<Route, RouteError> {
        let metagraph = self.metagraph().await?;
        let since = self.clock.now() - INCIDENT_WINDOW;
        let record = Record {
            incidents: self.store.incidents(class, since).await?,
            blacklisted: self.store.blacklisted(self.clock.now()).await?,
        };
        let own = self.keypair.hotkey();
        let skipped = match self.miners.pick(&metagraph, own, class, &record) {
            Ok(route) => return Ok(route),
            Err(skipped) => skipped,
        };
        let silent = self.miners.silent(&metagraph, own);
        if silent.is_empty() {
            return Err(RouteError::AllMinersBusy { class, skipped });
        }
        tracing::debug!(miners = silent.len(), %class, "nobody known can take the job, asking those not known");
        // What is learnt within the time counts, be it not all.
        drop(timeout(POLL_ON_DEMAND_WITHIN, self.poll_all(silent)).await);
        self.miners
            .pick(&metagraph, own, class, &record)
            .map_err(|skipped| RouteError::AllMinersBusy { class, skipped })
    }

    /// Returns the way to the validator's own trusted miner, if it has one: no metagraph, no choice, no count.
    pub(super) fn trusted_route(&self) -> Option<Route> {
        let address = self.config.trusted_miner?;
        Some(Route {
            miner: Hotkey::from(Hotkey::TRUSTED_MINER),
            axon: Axon {
                ip: address.ip(),
                port: address.port(),
            },
            taken: None,
        })
    }

    /// Returns the newest metagraph, or the last one that could be read.
    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        match self.chain.metagraph().await {
            Ok(metagraph) => {
                let metagraph = Arc::new(metagraph);
                self.miners.state().metagraph = Some(Arc::clone(&metagraph));
                Ok(metagraph)
            }
            Err(error) => {
                let last = self.miners.state().metagraph.clone();
                let Some(last) = last else {
                    return Err(error);
                };
                tracing::warn!(%error, block = last.block.0, "the chain does not answer, using the last metagraph");
                Ok(last)
            }
        }
    }

    /// Keeps the manifests fresh until the validator stops.
    pub(super) async fn watch_miners(self: Arc<Self>) {
        let mut turns = self.tasks.turns(LOOK_EVERY);
        while turns.next().await {
            let look = async {
                match self.metagraph().await {
                    Ok(metagraph) => {
                        let due = self.miners.due(&metagraph, self.keypair.hotkey());
                        self.poll_all(due).await;
                    }
                    Err(error) => tracing::warn!(%error, "the miners cannot be looked up"),
                }
            };
            tokio::select! {
                biased;
                () = self.tasks.stopped() => return,
                () = look => {}
            }
        }
    }

    async fn poll_all(&self, miners: Vec<(Hotkey, Axon)>) {
        stream::iter(miners)
            .for_each_concurrent(POLLS_AT_ONCE, |(miner, axon)| async move {
                let polled = timeout(POLL_WITHIN, self.poll(&miner, axon)).await;
                match polled.unwrap_or(Err(PollError::TimedOut)) {
                    Ok(manifest) => {
                        tracing::debug!(%miner, ?manifest, "manifest read");
                        self.miners.learn(&miner, manifest);
                    }
                    Err(error) => {
                        tracing::debug!(%miner, ip = %axon.ip, port = axon.port, %error, "no manifest");
                        self.miners.lose(&miner);
                    }
                }
            })
            .await;
    }

    /// Asks one miner what it offers.
    async fn poll(&self, miner: &Hotkey, axon: Axon) -> Result<Manifest, PollError> {
        let url = self.miner_url(axon);
        let mut link = ws::connect(&url, &ConnectOptions::default(), &self.tasks).await?;
        let refused = |code| PollError::Closed(code);
        link.send(self.greeting(miner))
            .await
            .map_err(|closed| refused(closed.code))?;
        loop {
            match link.recv().await {
                Event::Text(text) => match Up::decode(&text) {
                    Ok(Up::Manifest(manifest)) => {
                        link.close(close_code::NORMAL, "").await;
                        return Ok(manifest.manifest);
                    }
                    Ok(Up::GenericError(error)) => {
                        return Err(PollError::Refused(error.details.unwrap_or_default()));
                    }
                    Ok(other) => tracing::debug!(%miner, kind = other.message_type(), "not a manifest"),
                    Err(error) => return Err(PollError::Refused(error.to_string())),
                },
                Event::Binary(_) => {}
                Event::Closed { code, .. } => return Err(PollError::Closed(code)),
            }
        }
    }

    /// Returns where a miner serves this validator.
    pub(super) fn miner_url(&self, axon: Axon) -> String {
        let address = std::net::SocketAddr::new(axon.ip, axon.port);
        format!(
            "ws://{address}/v0.1/validator_interface/{}",
            self.keypair.hotkey()
        )
    }

    /// Makes the first frame of a connection to a miner, fresh each time.
    pub(super) fn greeting(&self, miner: &Hotkey) -> String {
        let now = self.clock.unix_seconds();
        Down::Authenticate(Authenticate::signed(&self.keypair, miner.clone(), now)).encode()
    }
}
