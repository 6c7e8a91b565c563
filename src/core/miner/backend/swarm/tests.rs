//! The backend with a swarm of which the test says everything.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::core::docker::swarm::{FoundService, NodeStanding, SwarmNode};
use crate::core::model::{ExecutorClass, JobId};

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

/// A swarm of which the test says everything.
#[derive(Debug, Default)]
struct Played {
    nodes: Mutex<Vec<SwarmNode>>,
    services: Mutex<HashMap<String, (ServiceOrder, TaskStanding)>>,
}

impl Played {
    fn set(&self, standing: &TaskStanding) {
        for (_, seen) in self.services.lock().unwrap().values_mut() {
            *seen = standing.clone();
        }
    }

    fn made(&self) -> Vec<ServiceOrder> {
        let services = self.services.lock().unwrap();
        services.values().map(|(order, _)| order.clone()).collect()
    }
}

#[async_trait]
impl Swarm for Played {
    async fn nodes(&self) -> Result<Vec<SwarmNode>, EngineError> {
        Ok(self.nodes.lock().unwrap().clone())
    }

    async fn create_service(&self, order: &ServiceOrder) -> Result<(), EngineError> {
        let service = (order.clone(), TaskStanding::Running);
        self.services.lock().unwrap().insert(order.name.clone(), service);
        Ok(())
    }

    async fn task(&self, service: &str) -> Result<Option<TaskStanding>, EngineError> {
        let services = self.services.lock().unwrap();
        Ok(services.get(service).map(|(_, standing)| standing.clone()))
    }

    async fn remove_service(&self, service: &str) -> Result<(), EngineError> {
        self.services.lock().unwrap().remove(service);
        Ok(())
    }

    async fn lingers(&self, service: &str) -> Result<bool, EngineError> {
        Ok(self.services.lock().unwrap().contains_key(service))
    }

    async fn services(&self, label: Label<'_>) -> Result<Vec<FoundService>, EngineError> {
        let Label::Owner(owner) = label else {
            return Ok(Vec::new());
        };
        let services = self.services.lock().unwrap();
        let of_owner = services.values().filter(|(order, _)| order.labels.owner == owner);
        let found = of_owner.map(|(order, _)| FoundService {
            name: order.name.clone(),
            token: Some(order.labels.token.clone()),
        });
        Ok(found.collect())
    }
}

async fn backend(swarm: &Arc<Played>, tasks: &Tasks) -> SwarmBackend {
    let terms = Terms {
        miner_address: "ws://10.0.0.1:8000".to_owned(),
        startup_seconds: 5,
        owner: "o".to_owned(),
        no_gpu: false,
        profiles: Vec::new(),
    };
    let environment = Environment::from_iter([("HORDE_WALLET_URI", "//Bob")]);
    let image = ImageReference::parse("horde-executor").unwrap();
    let swarm: Arc<dyn Swarm> = Arc::<Played>::clone(swarm);
    SwarmBackend::open(terms, &environment, image, swarm, Clock::system(), tasks)
        .await
        .unwrap()
}

fn order(class: ExecutorClass, slot: u32, token: &str) -> ExecutorOrder {
    ExecutorOrder {
        job: JobId::new("j"),
        class,
        slot,
        token: token.to_owned(),
        streaming_port: None,
        startup_seconds: None,
    }
}

#[tokio::test]
async fn an_executor_is_a_service_on_the_node_of_its_slot_and_is_told_nothing_of_the_wallet() {
    let (swarm, tasks) = (Arc::<Played>::default(), Tasks::new());
    *swarm.nodes.lock().unwrap() = vec![
        node("a", NodeStanding::Ready, 0, &[("horde.always_on.test", "1")]),
        node(
            "b",
            NodeStanding::Ready,
            1,
            &[
                ("horde.always_on.gpu-24gb", "1"),
                ("horde.address", "203.0.113.7"),
            ],
        ),
    ];
    let backend = backend(&swarm, &tasks).await;
    assert_eq!(backend.capacity().borrow().manifest().count(GPU), 1);
    let mut running = backend.start(&order(GPU, 0, "t")).await.unwrap();
    let reach = backend.reach(GPU, 0);
    assert_eq!(reach.address.as_deref(), Some("203.0.113.7"));
    let made = swarm.made();
    let [service] = made.as_slice() else {
        panic!("{made:?}")
    };
    assert_eq!((service.node.as_str(), service.gpus), ("b", 1));
    assert!(!format!("{service:?}").contains("Bob"), "{service:?}");
    // Unhealthy machines are told by the exit code, here as everywhere.
    swarm.set(&TaskStanding::Ended {
        code: Some(11),
        words: None,
    });
    assert_eq!(running.wait().await, Exit::Code(11));
    assert!(swarm.made().is_empty(), "removed once it has ended");
    let error = backend.start(&order(TEST, 1, "t")).await.unwrap_err();
    assert!(matches!(error, StartError::NoPlace { slot: 1 }), "{error}");
}

#[tokio::test]
async fn an_executor_ends_with_its_node_and_its_place_is_lost_until_the_node_is_back() {
    let (swarm, tasks) = (Arc::<Played>::default(), Tasks::new());
    let labels = [("horde.always_on.test", "1")];
    let is = |standing| vec![node("a", standing, 0, &labels)];
    *swarm.nodes.lock().unwrap() = is(NodeStanding::Ready);
    let backend = backend(&swarm, &tasks).await;
    let count = || backend.capacity().borrow().manifest().count(TEST);
    let mut running = backend.start(&order(TEST, 0, "t")).await.unwrap();
    for standing in [NodeStanding::Resting, NodeStanding::Unheard] {
        *swarm.nodes.lock().unwrap() = is(standing);
        backend.board.look().await;
        assert_eq!(count(), 0);
        let look = tokio::time::timeout(Duration::from_millis(50), running.wait()).await;
        assert!(look.is_err(), "{standing:?} ends nothing");
    }
    *swarm.nodes.lock().unwrap() = is(NodeStanding::Down);
    backend.board.look().await;
    assert_eq!(running.wait().await, Exit::Unknown);
    assert!(swarm.made().is_empty());
    *swarm.nodes.lock().unwrap() = is(NodeStanding::Ready);
    backend.board.look().await;
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn the_next_life_adopts_what_runs_clears_what_it_is_told_to_and_reaps_the_rest() {
    let (swarm, tasks) = (Arc::<Played>::default(), Tasks::new());
    *swarm.nodes.lock().unwrap() = vec![node(
        "a",
        NodeStanding::Ready,
        0,
        &[("horde.always_on.test", "4")],
    )];
    let first = backend(&swarm, &tasks).await;
    let mut processes = Vec::new();
    for (slot, token) in (0..).zip(["one", "two", "three"]) {
        let running = first.start(&order(TEST, slot, token)).await.unwrap();
        processes.push(running.process());
    }
    drop(first);
    let second = backend(&swarm, &tasks).await;
    let adopted = second
        .adopt(&order(TEST, 0, "one"), processes[0].as_deref())
        .await;
    let mut adopted = adopted.unwrap();
    assert!(second.adopt(&order(TEST, 3, "four"), None).await.is_none());
    second.clear("two", processes[1].as_deref()).await.unwrap();
    second.clear("five", None).await.unwrap();
    assert_eq!(second.reap(&|token| token == "one").await.unwrap(), 1);
    let left: Vec<_> = swarm.made().into_iter().map(|order| order.labels.token).collect();
    assert_eq!(left, ["one"]);
    adopted.kill().await;
    assert!(swarm.made().is_empty());
}

#[tokio::test]
async fn an_executor_that_the_swarm_could_not_run_has_no_exit_code() {
    let (swarm, tasks) = (Arc::<Played>::default(), Tasks::new());
    *swarm.nodes.lock().unwrap() = vec![node(
        "a",
        NodeStanding::Ready,
        0,
        &[("horde.always_on.test", "1")],
    )];
    let backend = backend(&swarm, &tasks).await;
    let mut running = backend.start(&order(TEST, 0, "t")).await.unwrap();
    swarm.set(&TaskStanding::Ended {
        code: None,
        words: Some("No such image: horde-executor".to_owned()),
    });
    assert_eq!(running.wait().await, Exit::Unknown);
}
