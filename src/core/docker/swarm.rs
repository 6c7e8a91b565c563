//! Many machines as one engine: what the miner asks of a Docker Swarm.
//!
//! [`Swarm`] is the port; a real engine that manages a swarm answers it over its Unix socket. An executor is a
//! service of one replica that is never restarted. Swarm also has *jobs* (`ReplicatedJob`), made for what runs once;
//! but their tasks and stopped containers stay for ever when they have ended by themselves and their service is
//! removed, and go on running when they have not (moby issues 42789 and 44312; seen with 20.10). A replica goes with
//! its service.

use std::collections::HashMap;
use std::net::IpAddr;

use async_trait::async_trait;
use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use bollard::errors::Error as ClientError;
use bollard::models::{
    GenericResourcesInner, GenericResourcesInnerDiscreteResourceSpec, Mount, MountType, Node,
    NodeSpecAvailabilityEnum, NodeState, ResourceObject, ServiceSpec, ServiceSpecMode,
    ServiceSpecModeReplicated, Task, TaskSpec, TaskSpecContainerSpec, TaskSpecPlacement, TaskSpecResources,
    TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum, TaskState,
};
use bollard::query_parameters::{ListServicesOptionsBuilder, ListTasksOptionsBuilder};

use super::engine::Bollard;
use super::limits::{BindMount, Labels};
use super::reference::ImageReference;
use super::{EngineError, LABEL_JOB, LABEL_OWNER, LABEL_TOKEN, Label};

/// The kind under which nodes list their GPUs: what Docker's own documentation calls it.
pub const GPU_RESOURCE: &str = "NVIDIA-GPU";

/// Returns the name of the service of an executor: its token would be too long for one.
pub fn service_name(token: &str) -> String {
    let digest = Blake2b::<U16>::digest(token.as_bytes());
    format!("horde-{}", hex::encode(digest))
}

/// A machine of a swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmNode {
    /// Its identifier.
    pub id: String,
    /// What it calls itself; two may have one name.
    pub hostname: String,
    /// Where it is, as the managers see it.
    pub address: Option<IpAddr>,
    /// Whether it can be given work.
    pub standing: NodeStanding,
    /// What the operator has written on it.
    pub labels: HashMap<String, String>,
    /// How many GPUs it says that it has for services.
    pub gpus: u64,
}

/// Whether a node can be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStanding {
    /// Yes.
    Ready,
    /// No: its operator has paused it (what runs on it runs on) or drained it (what runs on it is ended).
    Resting,
    /// No: the manager has not heard of it, perhaps since it was started itself a moment ago.
    Unheard,
    /// No, and what ran on it is lost.
    Down,
}

/// A service to be made: one container, run once, on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOrder {
    /// Its name, unique in the swarm; at most 63 letters, digits and dashes.
    pub name: String,
    /// The node to run on, by its identifier.
    pub node: String,
    /// The image, as each node finds it.
    pub image: ImageReference,
    /// The arguments; empty means the image's own.
    pub command: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Our labels, of the service and of its container.
    pub labels: Labels,
    /// What the container sees of its node's files.
    pub mounts: Vec<BindMount>,
    /// How many GPUs are set aside for it.
    pub gpus: u32,
    /// Seconds that it has to end by itself when it is removed.
    pub grace_seconds: u32,
}

/// A service found by its owner's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundService {
    /// Its name.
    pub name: String,
    /// The executor that it runs, when it says so.
    pub token: Option<String>,
}

/// What a service's container is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStanding {
    /// It has not started, with the swarm's words on why, when it has any.
    Waiting(Option<String>),
    /// It runs.
    Running,
    /// It has ended.
    Ended {
        /// Its exit code; none when it never ran.
        code: Option<i64>,
        /// The swarm's words on it.
        words: Option<String>,
    },
}

/// What is asked of a swarm's manager.
#[async_trait]
pub trait Swarm: Send + Sync + std::fmt::Debug {
    /// Lists the machines.
    async fn nodes(&self) -> Result<Vec<SwarmNode>, EngineError>;

    /// Makes a service, whose container then starts by itself.
    async fn create_service(&self, order: &ServiceOrder) -> Result<(), EngineError>;

    /// Returns what a service's container is about, or `None` when there is no such service (any more).
    async fn task(&self, service: &str) -> Result<Option<TaskStanding>, EngineError>;

    /// Ends and removes a service; its container ends within its grace. One that is gone is fine.
    async fn remove_service(&self, service: &str) -> Result<(), EngineError>;

    /// Returns whether a service's container may still be somewhere, also when the service has been removed.
    async fn lingers(&self, service: &str) -> Result<bool, EngineError>;

    /// Lists services that carry a label of ours.
    async fn services(&self, label: Label<'_>) -> Result<Vec<FoundService>, EngineError>;
}

#[async_trait]
impl Swarm for Bollard {
    async fn nodes(&self) -> Result<Vec<SwarmNode>, EngineError> {
        let nodes = self
            .client()
            .await?
            .list_nodes(None::<bollard::query_parameters::ListNodesOptions>)
            .await
            .map_err(|error| self.explain_swarm("list the nodes of the swarm", error))?;
        Ok(nodes.into_iter().filter_map(described).collect())
    }

    async fn create_service(&self, order: &ServiceOrder) -> Result<(), EngineError> {
        let made = self
            .client()
            .await?
            .create_service(service_body(order), None)
            .await
            .map_err(|error| self.explain_swarm("create the service", error))?;
        for warning in made.warnings.unwrap_or_default() {
            tracing::warn!(service = order.name, warning, "docker warned about a service");
        }
        Ok(())
    }

    async fn task(&self, service: &str) -> Result<Option<TaskStanding>, EngineError> {
        let filters = HashMap::from([("service", vec![service])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        match self.client().await?.list_tasks(Some(options)).await {
            Ok(tasks) => Ok(Some(standing(&tasks))),
            Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.explain_swarm("look at the service", error)),
        }
    }

    async fn remove_service(&self, service: &str) -> Result<(), EngineError> {
        match self.client().await?.delete_service(service).await {
            Ok(()) | Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.explain_swarm("remove the service", error)),
        }
    }

    async fn lingers(&self, service: &str) -> Result<bool, EngineError> {
        // By its name: what the engine knows a task by once its service is gone.
        let filters = HashMap::from([("name", vec![service])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        let tasks = self
            .client()
            .await?
            .list_tasks(Some(options))
            .await
            .map_err(|error| self.explain_swarm("list the tasks of the swarm", error))?;
        Ok(!tasks.is_empty())
    }

    async fn services(&self, label: Label<'_>) -> Result<Vec<FoundService>, EngineError> {
        let filters = HashMap::from([("label", vec![label.to_string()])]);
        let options = ListServicesOptionsBuilder::default().filters(&filters).build();
        let services = self
            .client()
            .await?
            .list_services(Some(options))
            .await
            .map_err(|error| self.explain_swarm("list the services", error))?;
        let found = services.into_iter().filter_map(|service| {
            let spec = service.spec?;
            let labels = spec.labels.unwrap_or_default();
            // The manager has filtered already; asked again, since removal is what follows.
            if labels.get(label.key()).map(String::as_str) != Some(label.value()) {
                return None;
            }
            Some(FoundService {
                name: spec.name?,
                token: labels.get(LABEL_TOKEN).cloned(),
            })
        });
        Ok(found.collect())
    }
}

impl Bollard {
    /// Turns the client's error into ours, and says what to do about an engine that manages no swarm.
    fn explain_swarm(&self, action: &'static str, error: ClientError) -> EngineError {
        match error {
            // 503: in no swarm, a worker, or without enough other managers.
            ClientError::DockerResponseServerError {
                status_code: 503,
                message,
            } => EngineError::NoManager { action, message },
            error => self.explain(action, error),
        }
    }
}

fn described(node: Node) -> Option<SwarmNode> {
    let (spec, status) = (node.spec.unwrap_or_default(), node.status.unwrap_or_default());
    let description = node.description.unwrap_or_default();
    let standing = match (status.state, spec.availability) {
        (Some(NodeState::READY), Some(NodeSpecAvailabilityEnum::ACTIVE) | None) => NodeStanding::Ready,
        (Some(NodeState::READY), _) => NodeStanding::Resting,
        (Some(NodeState::DOWN), _) => NodeStanding::Down,
        _ => NodeStanding::Unheard,
    };
    let resources = description
        .resources
        .and_then(|resources| resources.generic_resources);
    Some(SwarmNode {
        id: node.id?,
        hostname: description.hostname.unwrap_or_default(),
        // A manager that was told no address of its own says 0.0.0.0.
        address: status
            .addr
            .and_then(|address| address.parse::<IpAddr>().ok())
            .filter(|address| !address.is_unspecified()),
        standing,
        labels: spec.labels.unwrap_or_default(),
        gpus: resources.iter().flatten().map(gpus).sum(),
    })
}

/// Counts the GPUs of an entry: one with a name of its own, or a number of them.
fn gpus(resource: &GenericResourcesInner) -> u64 {
    let is_gpu = |kind: &Option<String>| kind.as_deref() == Some(GPU_RESOURCE);
    let named = resource
        .named_resource_spec
        .iter()
        .filter(|named| is_gpu(&named.kind));
    let discrete = resource
        .discrete_resource_spec
        .iter()
        .filter(|discrete| is_gpu(&discrete.kind))
        .filter_map(|discrete| u64::try_from(discrete.value?).ok());
    named.map(|_| 1).chain(discrete).sum()
}

/// Tells what a service is about from its tasks: the first that has ended speaks for it, since a second would be a
/// replacement that nobody wants.
fn standing(tasks: &[Task]) -> TaskStanding {
    let mut best = TaskStanding::Waiting(None);
    for status in tasks.iter().filter_map(|task| task.status.as_ref()) {
        let words = || status.err.clone().filter(|words| !words.is_empty());
        match status.state {
            Some(
                TaskState::COMPLETE
                | TaskState::FAILED
                | TaskState::SHUTDOWN
                | TaskState::REJECTED
                | TaskState::ORPHANED
                | TaskState::REMOVE,
            ) => {
                let container = status.container_status.as_ref();
                let has_run = container
                    .and_then(|container| container.container_id.as_ref())
                    .is_some_and(|id| !id.is_empty());
                return TaskStanding::Ended {
                    code: container
                        .and_then(|container| container.exit_code)
                        .filter(|_| has_run),
                    words: words(),
                };
            }
            Some(TaskState::RUNNING) => best = TaskStanding::Running,
            _ if best == TaskStanding::Running => {}
            _ => best = TaskStanding::Waiting(words()),
        }
    }
    best
}

/// Writes the manager's request for a service.
fn service_body(order: &ServiceOrder) -> ServiceSpec {
    const SECOND: i64 = 1_000_000_000;
    let mut labels = HashMap::from([
        (LABEL_OWNER.to_owned(), order.labels.owner.clone()),
        (LABEL_TOKEN.to_owned(), order.labels.token.clone()),
    ]);
    if let Some(job) = &order.labels.job {
        labels.insert(LABEL_JOB.to_owned(), job.clone());
    }
    let mounts = order.mounts.iter().map(|mount| Mount {
        target: Some(mount.target.as_str().to_owned()),
        source: Some(mount.source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(false),
        ..Mount::default()
    });
    let reservations = (order.gpus > 0).then(|| ResourceObject {
        generic_resources: Some(vec![GenericResourcesInner {
            discrete_resource_spec: Some(GenericResourcesInnerDiscreteResourceSpec {
                kind: Some(GPU_RESOURCE.to_owned()),
                value: Some(order.gpus.into()),
            }),
            named_resource_spec: None,
        }]),
        ..ResourceObject::default()
    });
    let container = TaskSpecContainerSpec {
        image: Some(order.image.as_str().to_owned()),
        labels: Some(labels.clone()),
        // The arguments: a service's `command` would take the place of the image's entry point.
        args: (!order.command.is_empty()).then(|| order.command.clone()),
        env: Some(
            order
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        mounts: Some(mounts.collect()),
        stop_grace_period: Some(i64::from(order.grace_seconds) * SECOND),
        tty: Some(false),
        open_stdin: Some(false),
        ..TaskSpecContainerSpec::default()
    };
    ServiceSpec {
        name: Some(order.name.clone()),
        labels: Some(labels),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            resources: reservations.map(|reservations| TaskSpecResources {
                reservations: Some(reservations),
                ..TaskSpecResources::default()
            }),
            restart_policy: Some(TaskSpecRestartPolicy {
                condition: Some(TaskSpecRestartPolicyConditionEnum::NONE),
                ..TaskSpecRestartPolicy::default()
            }),
            placement: Some(TaskSpecPlacement {
                constraints: Some(vec![format!("node.id=={}", order.node)]),
                ..TaskSpecPlacement::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        ..ServiceSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, from_value, json};

    use super::super::limits::ContainerPath;
    use super::*;

    fn order() -> ServiceOrder {
        ServiceOrder {
            name: "horde-1".to_owned(),
            node: "n1".to_owned(),
            image: ImageReference::parse("horde-executor").unwrap(),
            command: vec!["executor".to_owned(), "run".to_owned()],
            env: vec![("A".to_owned(), "b=c".to_owned())],
            labels: Labels {
                owner: "o".to_owned(),
                token: "t".to_owned(),
                job: None,
            },
            mounts: vec![BindMount {
                source: PathBuf::from("/tmp"),
                target: ContainerPath::parse("/tmp").unwrap(),
            }],
            gpus: 0,
            grace_seconds: 5,
        }
    }

    #[test]
    fn a_service_runs_once_on_its_node_with_the_labels_on_both_levels() {
        let body = serde_json::to_value(service_body(&order())).unwrap();
        let labels = json!({"horde.owner": "o", "horde.token": "t"});
        assert_eq!(
            body,
            json!({
                "Name": "horde-1",
                "Labels": labels,
                "TaskTemplate": {
                    "ContainerSpec": {
                        "Image": "horde-executor:latest",
                        "Labels": labels,
                        "Args": ["executor", "run"],
                        "Env": ["A=b=c"],
                        "TTY": false,
                        "OpenStdin": false,
                        "Mounts": [{"Target": "/tmp", "Source": "/tmp", "Type": "bind", "ReadOnly": false}],
                        "StopGracePeriod": 5_000_000_000_i64,
                    },
                    "RestartPolicy": {"Condition": "none"},
                    "Placement": {"Constraints": ["node.id==n1"]},
                },
                "Mode": {"Replicated": {"Replicas": 1}},
            })
        );
    }

    #[test]
    fn names_of_services_are_short_and_differ() {
        let token = "00000000-0000-4000-8000-000000000001-9d2b0c4e-5f10-4f6e-8f6e-0123456789ab";
        let name = service_name(token);
        assert!(name.len() <= 63, "{name}");
        assert_ne!(name, service_name("other"));
    }

    #[test]
    fn gpus_are_set_aside_as_generic_resources() {
        let order = ServiceOrder { gpus: 1, ..order() };
        let body = serde_json::to_value(service_body(&order)).unwrap();
        assert_eq!(
            body.pointer("/TaskTemplate/Resources/Reservations/GenericResources"),
            Some(&json!([{"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 1}}]))
        );
    }

    fn node(state: &str, availability: &str, resources: &Value) -> SwarmNode {
        let node = json!({
            "ID": "n1",
            "Spec": {"Labels": {"horde.always_on.test": "2"}, "Role": "worker", "Availability": availability},
            "Description": {"Hostname": "vm", "Resources": {"GenericResources": resources}},
            "Status": {"State": state, "Addr": "10.0.0.7"},
        });
        described(from_value(node).unwrap()).unwrap()
    }

    #[test]
    fn only_nodes_that_are_ready_and_active_are_given_work() {
        for (state, availability, wanted) in [
            ("ready", "active", NodeStanding::Ready),
            ("ready", "drain", NodeStanding::Resting),
            ("ready", "pause", NodeStanding::Resting),
            ("down", "active", NodeStanding::Down),
            ("unknown", "active", NodeStanding::Unheard),
            ("disconnected", "drain", NodeStanding::Unheard),
        ] {
            assert_eq!(
                node(state, availability, &Value::Null).standing,
                wanted,
                "{state} {availability}"
            );
        }
    }

    #[test]
    fn gpus_count_by_name_and_by_number() {
        let resources = json!([
            {"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-aa"}},
            {"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-bb"}},
            {"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 2}},
            {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 3}},
        ]);
        let node = node("ready", "active", &resources);
        assert_eq!(node.gpus, 4);
        assert_eq!(node.address, Some(IpAddr::from([10, 0, 0, 7])));
    }

    fn seen(tasks: Value) -> TaskStanding {
        standing(&from_value::<Vec<Task>>(tasks).unwrap())
    }

    #[test]
    fn a_task_that_has_ended_speaks_for_its_service() {
        let failed = json!({"Status": {"State": "failed", "Err": "task: non-zero exit (3)",
            "ContainerStatus": {"ContainerID": "0a", "PID": 0, "ExitCode": 3}}});
        let pending = json!({"Status": {"State": "pending", "Err": "no suitable node"}});
        let ended = TaskStanding::Ended {
            code: Some(3),
            words: Some("task: non-zero exit (3)".to_owned()),
        };
        assert_eq!(seen(json!([pending, failed])), ended);
        assert_eq!(seen(json!([])), TaskStanding::Waiting(None));
        assert_eq!(
            seen(json!([pending])),
            TaskStanding::Waiting(Some("no suitable node".to_owned()))
        );
        let running = json!({"Status": {"State": "running"}});
        assert_eq!(seen(json!([running, pending])), TaskStanding::Running);
    }

    #[test]
    fn a_task_that_never_ran_has_no_exit_code_though_the_manager_says_zero() {
        let rejected = json!([{"Status": {"State": "rejected", "Err": "No such image: x",
            "ContainerStatus": {"ContainerID": "", "PID": 0, "ExitCode": 0}}}]);
        let ended = TaskStanding::Ended {
            code: None,
            words: Some("No such image: x".to_owned()),
        };
        assert_eq!(seen(rejected), ended);
    }
}
