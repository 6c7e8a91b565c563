//! What a job may have: the pure step from a job to its container.
//!
//! Nothing that a peer sends reaches the engine's host configuration but through [`ContainerSpec`], and
//! [`container_body`] is the only place that writes one. What a job may use and do comes from its [`Sandbox`], which
//! is the operator's and the engine's word alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
};

use super::sandbox::Sandbox;
use super::{ContainerId, ImageId, LABEL_JOB, LABEL_OWNER, LABEL_TOKEN};

/// The most processes and threads of a helper: one process with a handful of threads.
pub const HELPER_PIDS_MAX: i64 = 64;

/// The most memory of a helper, in bytes; what runs in one copies bytes or reads a few files.
pub const HELPER_MEMORY_BYTES: i64 = 256 * 1024 * 1024;

/// What a cleaner may do beyond a helper: enter folders that only their owners may, and take files out of sticky ones.
const CLEANER_CAPABILITIES: [&str; 2] = ["DAC_OVERRIDE", "FOWNER"];

/// The longest path inside a container that a peer may name, in bytes (`PATH_MAX` of Linux).
const CONTAINER_PATH_BYTES_MAX: usize = 4096;

/// Folders of a container that belong to the kernel or the engine; nothing is mounted over or into them.
const RESERVED_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The runtime that gives containers their GPUs.
pub(super) const GPU_RUNTIME: &str = "nvidia";

/// How a job's container sees devices; the two presets of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// No device.
    None,
    /// All NVIDIA GPUs, through the NVIDIA runtime.
    NvidiaAll,
}

/// How a container reaches other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Not at all; only its own loopback.
    None,
    /// Through the engine's default bridge: executors and helpers, never jobs.
    Bridge,
    /// Through the engine's default bridge, and the port at this address of the host leads to the same port in the
    /// container: helpers, never jobs.
    Published(SocketAddr),
    /// As another container does, whose interfaces and sockets it shares: helpers, never jobs.
    Container(ContainerId),
}

/// A folder or file of the host that a container sees, for reading and writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// The path on the host of the engine.
    pub source: PathBuf,
    /// The path in the container.
    pub target: ContainerPath,
}

/// An absolute path inside a container at which something of ours may be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPath(String);

/// Why a text is no path to mount at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerPathError {
    /// It does not start at the root.
    #[error("`{0}` is not an absolute path")]
    NotAbsolute(String),
    /// It is the root itself, or it steps upwards.
    #[error("`{0}` is not a folder that can be mounted")]
    NotAFolder(String),
    /// It belongs to the kernel or the engine.
    #[error("`{0}` is reserved")]
    Reserved(String),
    /// It is longer than the kernel allows.
    #[error("the path has more than {CONTAINER_PATH_BYTES_MAX} bytes")]
    TooLong,
}

impl ContainerPath {
    /// Parses a path; a trailing slash is dropped.
    pub fn parse(text: &str) -> Result<Self, ContainerPathError> {
        if text.len() > CONTAINER_PATH_BYTES_MAX {
            return Err(ContainerPathError::TooLong);
        }
        let shown = || text.escape_debug().to_string();
        let Some(rest) = text.strip_prefix('/') else {
            return Err(ContainerPathError::NotAbsolute(shown()));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !rest.split('/').all(is_plain) {
            return Err(ContainerPathError::NotAFolder(shown()));
        }
        let path = format!("/{rest}");
        let is_reserved = RESERVED_FOLDERS.iter().any(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if is_reserved {
            return Err(ContainerPathError::Reserved(shown()));
        }
        Ok(Self(path))
    }

    /// Returns the path, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The labels of a container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// On whose behalf it runs.
    pub owner: String,
    /// The executor's token.
    pub token: String,
    /// The job, when it is a job's container.
    pub job: Option<String>,
}

/// What an executor's container may see of its host, beyond the mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A stranger's job: hardened.
    Job {
        /// Its view of devices.
        preset: Preset,
        /// What it may use and do.
        sandbox: Sandbox,
    },
    /// A piece of this program beside a job, in the image of [`super::own`]: trusted code that talks to strangers, so
    /// it may do nothing but what it is for. No capability, a root that it cannot write to, few processes, little
    /// memory, and no network unless [`ContainerSpec::network`] says so.
    Helper {
        /// The user that it runs as: the one whose files it is to touch.
        uid: u32,
        /// The group that it runs as.
        gid: u32,
        /// Its view of devices.
        preset: Preset,
    },
    /// A piece of this program that removes what users of any number left in its mounts: a helper that runs as root
    /// and may touch anybody's files, of which it sees no others.
    Cleaner,
    /// Our own executor: trusted, since it holds the engine's socket anyway; the engine removes it when it ends.
    Executor,
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// The image, by content.
    pub image: ImageId,
    /// The command; empty for the image's own.
    pub command: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// Our labels.
    pub labels: Labels,
    /// What it sees of the host's files.
    pub mounts: Vec<BindMount>,
    /// How it reaches others.
    pub network: Network,
    /// What it is.
    pub role: Role,
}

/// Writes the engine's request for a container.
pub(crate) fn container_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut labels = HashMap::from([
        (LABEL_OWNER.to_owned(), spec.labels.owner.clone()),
        (LABEL_TOKEN.to_owned(), spec.labels.token.clone()),
    ]);
    if let Some(job) = &spec.labels.job {
        labels.insert(LABEL_JOB.to_owned(), job.clone());
    }
    ContainerCreateBody {
        image: Some(spec.image.as_str().to_owned()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(match &spec.role {
            Role::Job { preset, sandbox } => sandbox.environment(*preset, &spec.env),
            Role::Helper { .. } | Role::Cleaner | Role::Executor => spec
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        }),
        labels: Some(labels),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        open_stdin: Some(false),
        user: match &spec.role {
            Role::Helper { uid, gid, .. } => Some(format!("{uid}:{gid}")),
            Role::Cleaner => Some("0:0".to_owned()),
            Role::Job { sandbox, .. } => sandbox.user(),
            // Its image says who runs in it.
            Role::Executor => None,
        },
        exposed_ports: match spec.network {
            Network::Published(address) => Some(vec![port_name(address)]),
            Network::None | Network::Bridge | Network::Container(_) => None,
        },
        host_config: Some(host_config(spec)),
        ..ContainerCreateBody::default()
    }
}

fn port_name(address: SocketAddr) -> String {
    format!("{}/tcp", address.port())
}

fn binding(address: SocketAddr) -> PortBinding {
    let ip = address.ip();
    PortBinding {
        // None means all addresses of both families.
        host_ip: (!ip.is_unspecified()).then(|| ip.to_string()),
        host_port: Some(address.port().to_string()),
    }
}

fn host_config(spec: &ContainerSpec) -> HostConfig {
    let mounts = spec.mounts.iter().map(|mount| Mount {
        target: Some(mount.target.as_str().to_owned()),
        source: Some(mount.source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(false),
        ..Mount::default()
    });
    let shared = HostConfig {
        mounts: Some(mounts.collect()),
        network_mode: Some(match &spec.network {
            Network::None => "none".to_owned(),
            Network::Bridge | Network::Published(_) => "bridge".to_owned(),
            Network::Container(other) => format!("container:{other}"),
        }),
        port_bindings: match spec.network {
            Network::Published(address) => Some(HashMap::from([(
                port_name(address),
                Some(vec![binding(address)]),
            )])),
            Network::None | Network::Bridge | Network::Container(_) => None,
        },
        // Said aloud, so that an engine configured with other defaults cannot weaken it.
        privileged: Some(false),
        publish_all_ports: Some(false),
        ..HostConfig::default()
    };
    match &spec.role {
        Role::Executor => HostConfig {
            auto_remove: Some(true),
            ..shared
        },
        Role::Job { preset, sandbox } => sandbox.host_config(*preset, shared),
        Role::Helper { preset, .. } => helper(*preset, shared),
        Role::Cleaner => HostConfig {
            cap_add: Some(CLEANER_CAPABILITIES.map(str::to_owned).to_vec()),
            ..helper(Preset::None, shared)
        },
    }
}

fn helper(preset: Preset, shared: HostConfig) -> HostConfig {
    let has_gpus = preset == Preset::NvidiaAll;
    HostConfig {
        auto_remove: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        readonly_rootfs: Some(true),
        ipc_mode: Some("private".to_owned()),
        pids_limit: Some(HELPER_PIDS_MAX),
        memory: Some(HELPER_MEMORY_BYTES),
        // The sum of memory and swap, so none.
        memory_swap: Some(HELPER_MEMORY_BYTES),
        log_config: Some(no_log()),
        runtime: has_gpus.then(|| GPU_RUNTIME.to_owned()),
        device_requests: has_gpus.then(|| vec![all_gpus()]),
        ..shared
    }
}

/// The output is read through the attached stream only; a log file on the host would have no bound.
pub(super) fn no_log() -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("none".to_owned()),
        config: None,
    }
}

/// Asks for every GPU of the machine (wire-executor-miner §7).
pub(super) fn all_gpus() -> DeviceRequest {
    DeviceRequest {
        driver: Some("nvidia".to_owned()),
        count: Some(-1),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::docker::sandbox::tests::sandbox;
    use crate::core::model::Profile;

    fn job(preset: Preset) -> ContainerSpec {
        ContainerSpec {
            name: "ch-t-job".to_owned(),
            image: ImageId::new("sha256:00"),
            command: vec!["echo".to_owned()],
            env: vec![("A".to_owned(), "b=c".to_owned())],
            labels: Labels {
                owner: "o".to_owned(),
                token: "t".to_owned(),
                job: Some("j".to_owned()),
            },
            mounts: vec![BindMount {
                source: PathBuf::from("/w/volume"),
                target: ContainerPath::parse("/volume/").unwrap(),
            }],
            network: Network::None,
            role: Role::Job {
                preset,
                sandbox: sandbox(Profile::Live),
            },
        }
    }

    #[test]
    fn a_job_gets_no_network_and_only_its_mounts() {
        let body = container_body(&job(Preset::None));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.binds, None);
        assert_eq!(host.mounts.unwrap().len(), 1);
        assert_eq!(
            body.env,
            Some(vec!["A=b=c".to_owned(), "NVIDIA_VISIBLE_DEVICES=void".to_owned()])
        );
    }

    #[test]
    fn a_helper_has_no_capability_and_shares_only_the_network_it_was_given() {
        let mut spec = job(Preset::None);
        spec.network = Network::Container(ContainerId::new("0a1b"));
        spec.role = Role::Helper {
            uid: 1000,
            gid: 1001,
            preset: Preset::None,
        };
        let body = container_body(&spec);
        assert_eq!(body.user.as_deref(), Some("1000:1001"));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("container:0a1b"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.pids_limit, Some(HELPER_PIDS_MAX));
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(HELPER_MEMORY_BYTES), Some(HELPER_MEMORY_BYTES))
        );
        assert_eq!((host.privileged, host.runtime), (Some(false), None));
    }

    #[test]
    fn a_cleaner_is_a_helper_that_may_only_touch_anybodys_files() {
        let mut spec = job(Preset::None);
        spec.role = Role::Helper {
            uid: 0,
            gid: 0,
            preset: Preset::None,
        };
        let helper = container_body(&spec);
        spec.role = Role::Cleaner;
        let mut cleaner = container_body(&spec);
        let more = cleaner.host_config.as_mut().unwrap().cap_add.take();
        assert_eq!(more, Some(vec!["DAC_OVERRIDE".to_owned(), "FOWNER".to_owned()]));
        assert_eq!(cleaner, helper);
    }

    #[test]
    fn a_port_is_published_at_one_address_or_at_all() {
        let mut spec = job(Preset::None);
        for (address, ip) in [("127.0.0.1:6006", Some("127.0.0.1")), ("[::]:6006", None)] {
            spec.network = Network::Published(address.parse().unwrap());
            let body = container_body(&spec);
            assert_eq!(body.exposed_ports, Some(vec!["6006/tcp".to_owned()]));
            let host = body.host_config.unwrap();
            assert_eq!(host.network_mode.as_deref(), Some("bridge"));
            let bindings = host.port_bindings.unwrap().remove("6006/tcp").unwrap().unwrap();
            assert_eq!(bindings[0].host_ip.as_deref(), ip);
            assert_eq!(bindings[0].host_port.as_deref(), Some("6006"));
        }
    }

    #[test]
    fn an_empty_command_leaves_the_images_own() {
        let mut spec = job(Preset::None);
        spec.command.clear();
        assert_eq!(container_body(&spec).cmd, None);
    }

    #[test]
    fn a_container_path_is_absolute_plain_and_not_the_kernels() {
        assert_eq!(
            ContainerPath::parse("/artifacts/").unwrap().as_str(),
            "/artifacts"
        );
        assert_eq!(ContainerPath::parse("/a/b").unwrap().as_str(), "/a/b");
        for text in [
            "",
            "/",
            "a",
            "//",
            "/a//b",
            "/a/../b",
            "/.",
            "/proc",
            "/proc/self",
            "/dev/shm",
            "/sys/",
        ] {
            assert!(ContainerPath::parse(text).is_err(), "{text:?}");
        }
        assert!(ContainerPath::parse("/process").is_ok());
    }
}
