//! What an engine says about itself and about the machine that it runs on.

use std::collections::BTreeMap;
use std::fmt;

use bollard::models::{SystemInfo, SystemVersion, SystemVersionComponents};

/// Versions of an engine and of the programs that it works with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineVersion {
    /// The engine's own version, such as `28.2.2`.
    pub engine: String,
    /// The newest API that it speaks, such as `1.50`.
    pub api: String,
    /// Its parts, as it names them: `Engine`, `containerd`, `runc`, …
    pub components: Vec<Component>,
}

/// A program that an engine works with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Component {
    /// Its name, such as `runc`.
    pub name: String,
    /// Its version, such as `1.3.3` or `1.1.5+ds1`; empty when the engine could not read it.
    pub version: String,
    /// The commit that it was built from. Debian writes its package revision here: `1.1.5+ds1-1+deb12u1`.
    pub commit: String,
}

impl EngineVersion {
    /// Returns a part by its name; names differ in case between engines.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components
            .iter()
            .find(|component| component.name.eq_ignore_ascii_case(name))
    }
}

/// The version of the control groups that limits are set through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per resource.
    V1,
    /// One hierarchy for all.
    V2,
    /// The engine does not say.
    #[default]
    Unknown,
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Unknown => "unknown",
        })
    }
}

/// Which limits the kernel lets an engine set; false also when the engine does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent answers of the engine"
)]
pub struct CanLimit {
    /// Memory.
    pub memory: bool,
    /// Memory together with swap.
    pub swap: bool,
    /// Processes and threads.
    pub pids: bool,
    /// Time on the processors.
    pub cpu: bool,
}

/// What an engine says about itself and its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineInfo {
    /// The kernel's release, such as `6.1.0-13-amd64`.
    pub kernel: String,
    /// The operating system, such as `Debian GNU/Linux 12 (bookworm)`.
    pub operating_system: String,
    /// The architecture as the kernel names it, such as `x86_64`.
    pub architecture: String,
    /// Processors; 0 when the engine does not say.
    pub cpus: u64,
    /// Memory in bytes; 0 when the engine does not say.
    pub memory_bytes: u64,
    /// The storage driver, such as `overlay2`.
    pub storage_driver: String,
    /// What the storage driver says of itself, such as (`Backing Filesystem`, `extfs`).
    pub storage_status: Vec<(String, String)>,
    /// The folder in which images and containers lie.
    pub root_dir: String,
    /// Who keeps the control groups: `cgroupfs` or `systemd`; empty when the engine does not say.
    pub cgroup_driver: String,
    /// The control groups that limits are set through.
    pub cgroup_version: CgroupVersion,
    /// Which limits work.
    pub can_limit: CanLimit,
    /// The engine's security options, such as `name=seccomp,profile=default`, `name=apparmor` or `name=userns`.
    pub security_options: Vec<String>,
    /// The runtimes by name, with the path of each where the engine says it.
    pub runtimes: BTreeMap<String, Option<String>>,
    /// The runtime of containers that name none.
    pub default_runtime: String,
    /// What the engine warns about, such as missing limits.
    pub warnings: Vec<String>,
}

impl EngineInfo {
    /// Returns the value of a security option: `Some("default")` of `name=seccomp,profile=default` for `seccomp`,
    /// an empty text for an option without a profile, and none when the engine does not list it.
    pub fn security_option(&self, name: &str) -> Option<&str> {
        self.security_options.iter().find_map(|option| {
            let mut fields = option.split(',');
            let is_it = fields.next()?.strip_prefix("name=")? == name;
            is_it.then(|| {
                fields
                    .find_map(|field| field.strip_prefix("profile="))
                    .unwrap_or("")
            })
        })
    }

    /// Returns whether root in a container is somebody else on the host: a remapped or a rootless engine.
    pub fn has_user_namespace(&self) -> bool {
        ["userns", "rootless"]
            .iter()
            .any(|name| self.security_option(name).is_some())
    }
}

impl From<SystemVersion> for EngineVersion {
    fn from(version: SystemVersion) -> Self {
        let components = version.components.unwrap_or_default();
        Self {
            engine: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            components: components.into_iter().map(Component::from).collect(),
        }
    }
}

impl From<SystemVersionComponents> for Component {
    fn from(component: SystemVersionComponents) -> Self {
        let mut details = component.details.unwrap_or_default();
        Self {
            name: component.name,
            version: component.version,
            commit: details.remove("GitCommit").unwrap_or_default(),
        }
    }
}

impl From<SystemInfo> for EngineInfo {
    fn from(info: SystemInfo) -> Self {
        let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let pair = |row: Vec<String>| {
            let mut row = row.into_iter();
            Some((row.next()?, row.next()?))
        };
        let cgroup_version = match info.cgroup_version.map(|version| version.to_string()).as_deref() {
            Some("1") => CgroupVersion::V1,
            Some("2") => CgroupVersion::V2,
            _ => CgroupVersion::Unknown,
        };
        let cgroup_driver = info.cgroup_driver.map(|driver| driver.to_string());
        Self {
            cgroup_driver: cgroup_driver.unwrap_or_default(),
            kernel: info.kernel_version.unwrap_or_default(),
            operating_system: info.operating_system.unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            cpus: count(info.ncpu),
            memory_bytes: count(info.mem_total),
            storage_driver: info.driver.unwrap_or_default(),
            storage_status: info
                .driver_status
                .unwrap_or_default()
                .into_iter()
                .filter_map(pair)
                .collect(),
            root_dir: info.docker_root_dir.unwrap_or_default(),
            cgroup_version,
            can_limit: CanLimit {
                memory: info.memory_limit.unwrap_or_default(),
                swap: info.swap_limit.unwrap_or_default(),
                pids: info.pids_limit.unwrap_or_default(),
                cpu: info.cpu_cfs_quota.unwrap_or_default(),
            },
            security_options: info.security_options.unwrap_or_default(),
            runtimes: info
                .runtimes
                .unwrap_or_default()
                .into_iter()
                .map(|(name, runtime)| (name, runtime.path))
                .collect(),
            default_runtime: info.default_runtime.unwrap_or_default(),
            warnings: info.warnings.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_says_nothing_is_known_to_have_said_nothing() {
        let info = EngineInfo::from(SystemInfo::default());
        assert_eq!(info, EngineInfo::default());
        assert_eq!(
            EngineVersion::from(SystemVersion::default()),
            EngineVersion::default()
        );
    }

    #[test]
    fn a_debian_engines_parts_keep_the_revision_of_their_packages() {
        let version: SystemVersion = serde_json::from_str(
            r#"{"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "Components": [
                {"Name": "Engine", "Version": "20.10.24+dfsg1", "Details": {"GitCommit": "5d6db84"}},
                {"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1+deb12u1"}},
                {"Name": "docker-init", "Version": "0.19.0"}]}"#,
        )
        .unwrap();
        let version = EngineVersion::from(version);
        let runc = version.component("RunC").unwrap();
        assert_eq!(
            (runc.version.as_str(), runc.commit.as_str()),
            ("1.1.5+ds1", "1.1.5+ds1-1+deb12u1")
        );
        assert_eq!(version.component("docker-init").unwrap().commit, "");
        assert_eq!(version.component("rootlesskit"), None);
    }

    #[test]
    fn security_options_are_read_by_name() {
        let info = EngineInfo {
            security_options: ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]
                .map(str::to_owned)
                .to_vec(),
            ..EngineInfo::default()
        };
        assert_eq!(info.security_option("seccomp"), Some("builtin"));
        assert_eq!(info.security_option("apparmor"), Some(""));
        assert_eq!(info.security_option("userns"), None);
        assert!(!info.has_user_namespace());
        let remapped = EngineInfo {
            security_options: vec!["name=userns".to_owned()],
            ..info
        };
        assert!(remapped.has_user_namespace());
    }
}
