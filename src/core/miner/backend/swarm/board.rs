//! What is known of a swarm: its nodes, what they offer, and whether they are there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::STOP_SECONDS;
use super::super::capacity::{Capacity, PLACES_MAX};
use super::super::roster::{Group, Roster, publish};
use super::LOOK_PAUSE;
use crate::core::clock::Clock;
use crate::core::docker::EngineError;
use crate::core::docker::swarm::{GPU_RESOURCE, NodeStanding, Swarm, SwarmNode};
use crate::core::model::ExecutorClass;
use crate::core::tasks::Tasks;

/// Beginning of our labels on nodes; a class follows.
const LABEL_PREFIX: &str = "horde.";

/// The label of the address at which clients of streaming jobs find a node.
const ADDRESS_LABEL: &str = "horde.address";

/// Time between two looks at the nodes.
const NODES_EVERY: Duration = Duration::from_secs(2);

/// Time beyond its grace that a removed executor has to be gone.
const REMOVAL_TIME: Duration = Duration::from_secs(5);

/// What is known of the swarm, kept up to date.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) swarm: Arc<dyn Swarm>,
    clock: Clock,
    no_gpu: bool,
    state: Mutex<State>,
    pub(super) capacity: watch::Sender<Capacity>,
}

#[derive(Debug, Default)]
struct State {
    /// The nodes by their identifier, as last seen.
    nodes: HashMap<String, SwarmNode>,
    roster: Roster,
    /// What is wrong with the nodes' labels.
    complaints: BTreeSet<String>,
    /// Why the manager does not answer, if it does not.
    trouble: Option<String>,
}

impl Board {
    /// Makes one that knows nothing yet.
    pub(super) fn new(swarm: Arc<dyn Swarm>, clock: Clock, no_gpu: bool) -> Self {
        Self {
            swarm,
            clock,
            no_gpu,
            state: Mutex::default(),
            capacity: watch::Sender::default(),
        }
    }

    /// Looks again and again until the family stops.
    pub(super) async fn watch(self: Arc<Self>, tasks: Tasks) {
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => return,
                () = sleep(NODES_EVERY) => self.look().await,
            }
        }
    }

    /// Looks at the nodes and tells everybody what has changed.
    pub(super) async fn look(&self) {
        let seen = self.swarm.nodes().await;
        let now = {
            let mut state = self.state();
            match seen {
                Ok(nodes) => state.take(nodes, self.no_gpu, self.clock.now()),
                Err(error) => state.lose_all(&error, self.clock.now()),
            }
            state.roster.capacity()
        };
        publish(&self.capacity, now);
    }

    /// Returns the node of a slot, unless nothing can be started there.
    pub(super) fn node_of(&self, class: ExecutorClass, slot: u32) -> Option<String> {
        let state = self.state();
        let node = state.nodes.get(state.roster.key(class, slot)?)?;
        (node.standing == NodeStanding::Ready).then(|| node.id.clone())
    }

    /// Returns where clients find the node of a slot.
    pub(super) fn address(&self, class: ExecutorClass, slot: u32) -> Option<IpAddr> {
        let state = self.state();
        let node = state.nodes.get(state.roster.key(class, slot)?)?;
        let labelled = node.labels.get(ADDRESS_LABEL).and_then(|text| text.parse().ok());
        labelled.or(node.address)
    }

    /// Returns whether a node is known to be down, or to have left the swarm.
    pub(super) fn is_lost(&self, node: &str) -> bool {
        let state = self.state();
        state.trouble.is_none()
            && state
                .nodes
                .get(node)
                .is_none_or(|node| node.standing == NodeStanding::Down)
    }

    /// Waits until a removed service has left nothing; false if something stays.
    pub(super) async fn is_gone(&self, service: &str) -> Result<bool, EngineError> {
        let patience = Instant::now() + Duration::from_secs(STOP_SECONDS.into()) + REMOVAL_TIME;
        while self.swarm.lingers(service).await? {
            if Instant::now() >= patience {
                return Ok(false);
            }
            sleep(LOOK_PAUSE).await;
        }
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, nodes: Vec<SwarmNode>, no_gpu: bool, now: OffsetDateTime) {
        if self.trouble.take().is_some() {
            tracing::info!("the swarm's manager answers again");
        }
        for node in &nodes {
            let before = self.nodes.get(&node.id).map(|node| node.standing);
            if before == Some(node.standing) || !node.labels.keys().any(|key| key.starts_with(LABEL_PREFIX)) {
                continue;
            }
            let (id, hostname) = (&node.id, &node.hostname);
            match node.standing {
                NodeStanding::Ready => tracing::info!(id, hostname, "a node of the swarm is ready"),
                NodeStanding::Resting => {
                    tracing::warn!(id, hostname, "a node of the swarm is paused or drained");
                }
                NodeStanding::Unheard => tracing::warn!(id, hostname, "a node of the swarm is not heard of"),
                NodeStanding::Down => tracing::error!(id, hostname, "a node of the swarm is lost"),
            }
        }
        for (id, node) in &self.nodes {
            if !nodes.iter().any(|other| other.id == *id) {
                tracing::warn!(id, hostname = node.hostname, "a node has left the swarm");
            }
        }
        let (groups, complaints) = groups(&nodes, no_gpu);
        for complaint in complaints.difference(&self.complaints) {
            tracing::warn!("{complaint}");
        }
        self.complaints = complaints;
        self.nodes = nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
        let why = |id: &str| match self.nodes.get(id).map(|node| node.standing) {
            Some(NodeStanding::Ready) => "the labels of its node say so",
            Some(NodeStanding::Resting) => "its node is paused or drained",
            Some(NodeStanding::Unheard) => "its node is not heard of",
            Some(NodeStanding::Down) => "its node is down",
            None => "its node has left the swarm",
        };
        self.roster.update(&groups, |id| why(id).to_owned(), now);
    }

    /// Nothing can be started while the manager does not answer; what runs may run on.
    fn lose_all(&mut self, error: &EngineError, now: OffsetDateTime) {
        let trouble = error.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!(%error, "the swarm's manager does not answer: nothing can be started");
        }
        self.roster.update(&[], |_| trouble.clone(), now);
        self.trouble = Some(trouble);
    }
}

/// Reads what the nodes offer, once they are ready, and what is wrong with their labels.
fn groups(nodes: &[SwarmNode], no_gpu: bool) -> (Vec<Group>, BTreeSet<String>) {
    let mut groups = Vec::new();
    let mut complaints = BTreeSet::new();
    let mut nodes: Vec<&SwarmNode> = nodes.iter().collect();
    // So that a restarted miner numbers its slots alike.
    nodes.sort_by(|one, other| (&one.hostname, &one.id).cmp(&(&other.hostname, &other.id)));
    for node in &nodes {
        let is_alone = nodes
            .iter()
            .filter(|other| other.hostname == node.hostname)
            .count()
            == 1;
        let engine = if is_alone {
            node.hostname.clone()
        } else {
            format!("{} ({})", node.hostname, node.id)
        };
        let mut gpus = node.gpus;
        let labels: BTreeMap<_, _> = node.labels.iter().collect();
        for (key, value) in labels {
            let Some(class) = key.strip_prefix(LABEL_PREFIX) else {
                continue;
            };
            if key == ADDRESS_LABEL {
                if value.parse::<IpAddr>().is_err() {
                    complaints.insert(format!("node {engine}: label {key}={value:?} is no IP address"));
                }
                continue;
            }
            let Ok(class) = class.parse::<ExecutorClass>() else {
                complaints.insert(format!("node {engine}: label {key} names no executor class"));
                continue;
            };
            let fits = |count: &u32| usize::try_from(*count).is_ok_and(|count| count <= PLACES_MAX);
            let Some(mut count) = value.parse::<u32>().ok().filter(fits) else {
                let wanted = format!("is no number of executors from 0 to {PLACES_MAX}");
                complaints.insert(format!("node {engine}: label {key}={value:?} {wanted}"));
                continue;
            };
            if class.has_gpu() && !no_gpu {
                let most = u32::try_from(gpus).unwrap_or(u32::MAX);
                if count > most {
                    complaints.insert(format!(
                        "node {engine}: label {key}={count}, but only {most} of its {GPU_RESOURCE} are left for them \
                         (dockerd lists them with --node-generic-resource)"
                    ));
                    count = most;
                }
                gpus = gpus.saturating_sub(count.into());
            }
            groups.push(Group {
                class,
                key: node.id.as_str().into(),
                engine: engine.as_str().into(),
                count,
                is_ready: node.standing == NodeStanding::Ready,
            });
        }
    }
    (groups, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: ExecutorClass = ExecutorClass::AlwaysOnTest;
    const GPU: ExecutorClass = ExecutorClass::AlwaysOnGpu24Gb;

    fn node(id: &str, standing: NodeStanding, gpus: u64, labels: &[(&str, &str)]) -> SwarmNode {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        SwarmNode {
            id: id.to_owned(),
            hostname: format!("host-{id}"),
            address: None,
            standing,
            labels: labels.collect(),
            gpus,
        }
    }

    fn counts(nodes: &[SwarmNode], no_gpu: bool) -> Vec<(ExecutorClass, String, u32)> {
        let (groups, _) = groups(nodes, no_gpu);
        groups
            .into_iter()
            .filter(|group| group.is_ready)
            .map(|group| (group.class, group.key.to_string(), group.count))
            .collect()
    }

    #[test]
    fn nodes_that_are_ready_offer_what_their_labels_say() {
        let labels = [
            ("horde.always_on.test", "2"),
            ("horde.always_on.cpu.8c.16gb", "1"),
            ("rack", "7"),
        ];
        let nodes = [
            node("b", NodeStanding::Ready, 0, &labels),
            node("a", NodeStanding::Ready, 0, &[("horde.always_on.test", "1")]),
            node("c", NodeStanding::Resting, 0, &labels),
            node("d", NodeStanding::Down, 0, &labels),
            node("e", NodeStanding::Unheard, 0, &labels),
        ];
        let wanted = [
            (TEST, "a".to_owned(), 1),
            (ExecutorClass::AlwaysOnCpu8C16Gb, "b".to_owned(), 1),
            (TEST, "b".to_owned(), 2),
        ];
        assert_eq!(counts(&nodes, false), wanted);
        assert!(groups(&nodes, false).1.is_empty());
    }

    #[test]
    fn a_node_offers_no_more_executors_with_a_gpu_than_it_lists_gpus() {
        let labels = [
            ("horde.always_on.gpu-24gb", "2"),
            ("horde.always_on.llm.a6000", "2"),
        ];
        let nodes = [node("a", NodeStanding::Ready, 3, &labels)];
        let llm = ExecutorClass::AlwaysOnLlmA6000;
        let of = |gpu, second| vec![(GPU, "a".to_owned(), gpu), (llm, "a".to_owned(), second)];
        assert_eq!(counts(&nodes, false), of(2, 1));
        assert_eq!(groups(&nodes, false).1.len(), 1);
        assert_eq!(counts(&nodes, true), of(2, 2));
    }

    #[test]
    fn labels_that_mean_nothing_are_complained_about() {
        let labels = [
            ("horde.always_on.test", "two"),
            ("horde.no.such", "1"),
            ("horde.address", "here"),
            ("horde.always_on.cpu.8c.16gb", "10001"),
        ];
        let (groups, complaints) = groups(&[node("a", NodeStanding::Ready, 0, &labels)], false);
        assert!(groups.is_empty());
        assert_eq!(complaints.len(), 4, "{complaints:?}");
    }

    #[test]
    fn a_manager_that_does_not_answer_loses_the_places_but_no_executor() {
        let mut state = State::default();
        let nodes = || {
            vec![node(
                "a",
                NodeStanding::Ready,
                0,
                &[("horde.always_on.test", "1")],
            )]
        };
        state.take(nodes(), false, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(state.roster.capacity().manifest().count(TEST), 1);
        state.lose_all(
            &EngineError::NoManager {
                action: "list the nodes of the swarm",
                message: "gone".to_owned(),
            },
            OffsetDateTime::UNIX_EPOCH,
        );
        assert_eq!(state.roster.capacity().manifest().count(TEST), 0);
        assert!(state.trouble.is_some() && state.nodes.contains_key("a"));
        state.take(nodes(), false, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(state.roster.capacity().manifest().count(TEST), 1);
    }
}
