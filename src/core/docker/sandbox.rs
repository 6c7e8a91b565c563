//! The sandbox of one job: what the operator wishes, fitted to what the engine can do.
//!
//! Made from settings and from the engine's word only. Its fields are private and nothing that a peer sends is an
//! argument of [`Sandbox::fit`], so no message can widen it.

use std::collections::HashMap;

use bollard::models::{HostConfig, HostConfigCgroupnsModeEnum, ResourcesUlimits};

use super::info::{CgroupVersion, EngineInfo};
use super::limits::{GPU_RUNTIME, Preset, all_gpus, no_log};
use super::profile;
use crate::core::model::Profile;
use crate::core::model::sandbox::SandboxWishes;

/// What the machine keeps for itself of its memory: one part of so many, within the two bounds below.
const RESERVE_PART: u64 = 20;

/// The least that the machine keeps, in bytes, but for tiny machines.
const RESERVE_BYTES_MIN: u64 = 256 << 20;

/// The most that the machine keeps, in bytes.
const RESERVE_BYTES_MAX: u64 = 2 << 30;

/// The largest part of a tiny machine's memory that is kept.
const RESERVE_PART_MAX: u64 = 4;

/// A job's weight on the processors, half of what everything else has: an executor that answers its miner goes first.
const CPU_SHARES: i64 = 512;

/// How much sooner the kernel kills a job than anything else when the whole machine runs out of memory.
const OOM_SCORE: i64 = 500;

/// Beginning of the names of runtimes that containerd finds by itself.
const SHIM_PREFIX: &str = "io.containerd.";

/// Billionths of a processor in one.
const NANO: i64 = 1_000_000_000;

/// Why there can be no sandbox on this engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The kernel or the engine's mode does not let it bound something.
    #[error(
        "the engine cannot limit a job's {what}: enable the kernel's {controller} controller; a rootless engine \
         needs cgroup v2 and delegation (systemd: Delegate={controller})"
    )]
    CannotLimit {
        /// What.
        what: &'static str,
        /// The controller that does it.
        controller: &'static str,
    },
    /// The engine filters no system calls.
    #[error(
        "the engine filters no system calls (seccomp): use one that is built with it, on a kernel that has it"
    )]
    NoSeccomp,
    /// The memory of the machine is not known.
    #[error("the engine does not say how much memory there is: set executor.memory_bytes")]
    UnknownMemory,
    /// The configured runtime is none of the engine's.
    #[error("executor.runtime is `{wanted}`, but the engine has only {known}: configure it in daemon.json")]
    NoRuntime {
        /// What is configured.
        wanted: String,
        /// What there is.
        known: String,
    },
}

/// How system calls are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seccomp {
    /// By the engine's built-in filter, asked for by name, so that no other default can take its place.
    Builtin,
    /// By the engine's default: engines before 23.0 do not know the name, and a filter of the operator's own stays.
    Default,
}

/// What one job may use and do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    profile: Profile,
    memory_bytes: u64,
    nano_cpus: Option<i64>,
    pids_max: u32,
    nofile_max: u32,
    shm_bytes: u64,
    disk_bytes: u64,
    is_disk_bounded_by_engine: bool,
    is_swappiness_known: bool,
    seccomp: Seccomp,
    runtime: Option<String>,
    has_gpu_runtime: bool,
    user: Option<u32>,
}

impl Sandbox {
    /// Fits the operator's wishes to the engine; `token` tells the job from others.
    pub fn fit(wishes: &SandboxWishes, engine: &EngineInfo, token: &str) -> Result<Self, SandboxError> {
        for (can, what, controller) in [
            (engine.can_limit.memory, "memory", "memory"),
            (engine.can_limit.pids, "processes", "pids"),
        ] {
            if !can {
                return Err(SandboxError::CannotLimit { what, controller });
            }
        }
        let seccomp = match engine.security_option("seccomp") {
            None => return Err(SandboxError::NoSeccomp),
            // An old engine that filters nothing does not know the name either, and refuses the container.
            Some("builtin" | "unconfined") => Seccomp::Builtin,
            Some(_) => Seccomp::Default,
        };
        let memory_bytes = memory_bytes(wishes.memory_bytes, engine.memory_bytes)?;
        let cpus = match (wishes.cpus.map(u64::from), engine.cpus) {
            (wish, 0) => wish,
            // An engine refuses more than there is.
            (wish, there) => Some(wish.unwrap_or(there).min(there)),
        };
        let nano = |cpus: u64| i64::try_from(cpus).ok().and_then(|cpus| cpus.checked_mul(NANO));
        Ok(Self {
            profile: wishes.profile,
            memory_bytes,
            nano_cpus: cpus.filter(|_| engine.can_limit.cpu).and_then(nano),
            pids_max: wishes.pids_max,
            nofile_max: wishes.nofile_max,
            shm_bytes: wishes.shm_bytes.unwrap_or(memory_bytes / 2).min(memory_bytes),
            disk_bytes: wishes.disk_bytes,
            is_disk_bounded_by_engine: has_quotas(engine),
            is_swappiness_known: engine.cgroup_version == CgroupVersion::V1,
            seccomp,
            runtime: runtime(wishes.runtime.as_deref(), engine)?,
            has_gpu_runtime: engine.runtimes.contains_key(GPU_RUNTIME),
            user: profile::user(wishes.profile, token, engine.has_user_namespace()),
        })
    }

    /// Returns the rights of the job.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Returns the memory of the job, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Returns how many processes and threads it may have at once.
    pub fn pids_max(&self) -> u32 {
        self.pids_max
    }

    /// Returns the size of its `/dev/shm`, in bytes.
    pub fn shm_bytes(&self) -> u64 {
        self.shm_bytes
    }

    /// Returns what it may write to the disk, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Returns whether the engine has a runtime that gives GPUs to containers.
    pub fn has_gpu_runtime(&self) -> bool {
        self.has_gpu_runtime
    }

    /// Returns the rights of the job in words, to follow `a job has`.
    pub fn rights(&self) -> String {
        profile::rights(self.profile)
    }

    /// Returns the user that the job runs as, as an engine reads it; none for the image's own.
    pub(super) fn user(&self) -> Option<String> {
        self.user.map(|user| format!("{user}:{user}"))
    }

    /// Returns the environment of the job's container.
    pub(super) fn environment(&self, preset: Preset, given: &[(String, String)]) -> Vec<String> {
        profile::environment(self.profile, preset, given)
    }

    /// Writes the bounds into the part of a request that says what a container may do to its host.
    ///
    /// Fields of which nothing is said keep the engine's defaults on purpose: `masked_paths` and `readonly_paths`
    /// (its list grows with the kernel, one of ours would not), `userns_mode` (any word would switch a remapped
    /// engine's protection off), `pid_mode` and `uts_mode` (a namespace of its own). The number of processes is
    /// bounded by the control group and not by a limit of the user, which all containers of that user would share.
    /// The weight on the disk is left alone: kernels without a scheduler that knows it refuse the container.
    pub(super) fn host_config(&self, preset: Preset, shared: HostConfig) -> HostConfig {
        let memory = i64::try_from(self.memory_bytes).unwrap_or(i64::MAX);
        HostConfig {
            auto_remove: Some(false),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(profile::capabilities(self.profile)),
            security_opt: Some(self.security_options()),
            readonly_rootfs: Some(self.profile == Profile::Strict),
            tmpfs: self.memory_folders(&shared),
            devices: Some(Vec::new()),
            ipc_mode: Some("private".to_owned()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            memory: Some(memory),
            // The sum of memory and swap, so no swap. An engine that cannot warns at every container.
            memory_swap: Some(memory),
            memory_swappiness: self.is_swappiness_known.then_some(0),
            oom_kill_disable: Some(false),
            oom_score_adj: Some(OOM_SCORE),
            nano_cpus: self.nano_cpus,
            cpu_shares: Some(CPU_SHARES),
            pids_limit: Some(i64::from(self.pids_max)),
            shm_size: Some(i64::try_from(self.shm_bytes).unwrap_or(i64::MAX)),
            ulimits: Some(self.ulimits(preset)),
            storage_opt: self
                .is_disk_bounded_by_engine
                .then(|| HashMap::from([("size".to_owned(), self.disk_bytes.to_string())])),
            log_config: Some(no_log()),
            runtime: match preset {
                Preset::None => self.runtime.clone(),
                Preset::NvidiaAll => Some(GPU_RUNTIME.to_owned()),
            },
            device_requests: Some(match preset {
                Preset::None => Vec::new(),
                Preset::NvidiaAll => vec![all_gpus()],
            }),
            ..shared
        }
    }

    fn security_options(&self) -> Vec<String> {
        let seccomp = match self.seccomp {
            Seccomp::Builtin => Some("seccomp=builtin".to_owned()),
            Seccomp::Default => None,
        };
        std::iter::once("no-new-privileges:true".to_owned())
            .chain(seccomp)
            .collect()
    }

    /// Returns the folders in memory but for those where something of ours is mounted.
    fn memory_folders(&self, shared: &HostConfig) -> Option<HashMap<String, String>> {
        let is_taken = |path: &str| {
            let mounts = shared.mounts.iter().flatten();
            mounts
                .flat_map(|mount| &mount.target)
                .any(|target| target == path)
        };
        let folders = profile::memory_folders(self.profile, self.user, self.memory_bytes);
        let folders: HashMap<String, String> = folders
            .into_iter()
            .filter(|folder| !is_taken(folder.path))
            .map(|folder| (folder.path.to_owned(), folder.options))
            .collect();
        (!folders.is_empty()).then_some(folders)
    }

    fn ulimits(&self, preset: Preset) -> Vec<ResourcesUlimits> {
        let limit = |name: &str, value: i64| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(value),
            hard: Some(value),
        };
        let mut limits = vec![
            limit("nofile", i64::from(self.nofile_max)),
            // A core file is the job's memory on the operator's disk.
            limit("core", 0),
        ];
        if preset == Preset::NvidiaAll {
            // CUDA locks memory; the bound on memory holds for it.
            limits.push(limit("memlock", -1));
        }
        limits
    }
}

/// Returns a job's memory: what is wished, or all but the machine's reserve; never more than there is.
fn memory_bytes(wish: Option<u64>, there: u64) -> Result<u64, SandboxError> {
    match (wish, there) {
        (None, 0) => Err(SandboxError::UnknownMemory),
        (Some(wish), 0) => Ok(wish),
        (Some(wish), there) => Ok(wish.min(there)),
        (None, there) => {
            let reserve = (there / RESERVE_PART).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
            Ok(there - reserve.min(there / RESERVE_PART_MAX))
        }
    }
}

/// Returns whether the storage driver can bound the root of a container.
fn has_quotas(engine: &EngineInfo) -> bool {
    let is_on = |file_system: &str| {
        engine
            .storage_status
            .iter()
            .any(|(key, value)| key == "Backing Filesystem" && value == file_system)
    };
    match engine.storage_driver.as_str() {
        "btrfs" | "zfs" => true,
        // Only when it is mounted with project quotas, which nobody says; asked for, and left out when refused.
        "overlay2" => is_on("xfs"),
        _ => false,
    }
}

fn runtime(wanted: Option<&str>, engine: &EngineInfo) -> Result<Option<String>, SandboxError> {
    match wanted {
        None => Ok(None),
        Some(name) if engine.runtimes.contains_key(name) || name.starts_with(SHIM_PREFIX) => {
            Ok(Some(name.to_owned()))
        }
        Some(name) => Err(SandboxError::NoRuntime {
            wanted: name.to_owned(),
            known: engine.runtimes.keys().cloned().collect::<Vec<_>>().join(", "),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::docker::info::CanLimit;

    /// An ordinary machine: 8 processors, 16 GiB, a current engine with the NVIDIA runtime.
    pub(crate) fn engine() -> EngineInfo {
        EngineInfo {
            cpus: 8,
            memory_bytes: 16 << 30,
            storage_driver: "overlay2".to_owned(),
            storage_status: vec![("Backing Filesystem".to_owned(), "extfs".to_owned())],
            cgroup_version: CgroupVersion::V2,
            can_limit: CanLimit {
                memory: true,
                swap: true,
                pids: true,
                cpu: true,
            },
            security_options: vec!["name=seccomp,profile=builtin".to_owned()],
            runtimes: ["runc", "nvidia"].map(|name| (name.to_owned(), None)).into(),
            ..EngineInfo::default()
        }
    }

    pub(crate) fn wishes(profile: Profile) -> SandboxWishes {
        SandboxWishes {
            profile,
            memory_bytes: None,
            cpus: None,
            pids_max: 4096,
            nofile_max: 16_384,
            shm_bytes: None,
            disk_bytes: 64 << 30,
            runtime: None,
        }
    }

    pub(crate) fn sandbox(profile: Profile) -> Sandbox {
        Sandbox::fit(&wishes(profile), &engine(), "t").unwrap()
    }

    #[test]
    fn what_is_not_wished_follows_from_the_machine() {
        let host = sandbox(Profile::Live).host_config(Preset::None, HostConfig::default());
        let memory = (16 << 30) - (16 << 30) / 20;
        assert_eq!((host.memory, host.memory_swap), (Some(memory), Some(memory)));
        assert_eq!(host.nano_cpus, Some(8 * NANO));
        assert_eq!(host.shm_size, Some(memory / 2));
        assert_eq!(host.storage_opt, None);
        for (there, left) in [
            (256_u64 << 20, 192_u64 << 20),
            (2 << 30, (2 << 30) - (256 << 20)),
            (1 << 40, (1 << 40) - (2 << 30)),
        ] {
            assert_eq!(memory_bytes(None, there), Ok(left));
        }
    }

    #[test]
    fn wishes_hold_up_to_what_there_is() {
        let wishes = SandboxWishes {
            memory_bytes: Some(1 << 30),
            cpus: Some(64),
            shm_bytes: Some(2 << 30),
            runtime: Some("nvidia".to_owned()),
            ..wishes(Profile::Live)
        };
        let host = Sandbox::fit(&wishes, &engine(), "t")
            .unwrap()
            .host_config(Preset::None, HostConfig::default());
        assert_eq!((host.memory, host.shm_size), (Some(1 << 30), Some(1 << 30)));
        assert_eq!(host.nano_cpus, Some(8 * NANO));
        assert_eq!(host.runtime.as_deref(), Some("nvidia"));
    }

    #[test]
    fn an_engine_that_cannot_confine_is_refused_in_words() {
        let refused = |change: fn(&mut EngineInfo, &mut SandboxWishes)| {
            let (mut engine, mut wishes) = (engine(), wishes(Profile::Live));
            change(&mut engine, &mut wishes);
            Sandbox::fit(&wishes, &engine, "t").unwrap_err().to_string()
        };
        for (text, words) in [
            (
                refused(|engine, _| engine.can_limit.memory = false),
                "job's memory",
            ),
            (
                refused(|engine, _| engine.can_limit.pids = false),
                "job's processes",
            ),
            (refused(|engine, _| engine.security_options.clear()), "seccomp"),
            (
                refused(|engine, _| engine.memory_bytes = 0),
                "executor.memory_bytes",
            ),
            (
                refused(|_, wishes| wishes.runtime = Some("runsc".to_owned())),
                "only nvidia, runc",
            ),
        ] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn system_calls_are_filtered_also_where_the_engines_default_is_not_to() {
        for (profile, said) in [
            ("builtin", true),
            ("unconfined", true),
            ("default", false),
            ("/etc/docker/own.json", false),
        ] {
            let engine = EngineInfo {
                security_options: vec![format!("name=seccomp,profile={profile}")],
                ..engine()
            };
            let sandbox = Sandbox::fit(&wishes(Profile::Live), &engine, "t").unwrap();
            let options = sandbox.security_options();
            assert_eq!(options.contains(&"seccomp=builtin".to_owned()), said, "{profile}");
            assert!(options.contains(&"no-new-privileges:true".to_owned()));
        }
    }

    #[test]
    fn a_disk_quota_is_asked_for_where_the_driver_may_have_it() {
        for (driver, file_system, asked) in [
            ("overlay2", "extfs", false),
            ("overlay2", "xfs", true),
            ("btrfs", "", true),
            ("vfs", "xfs", false),
        ] {
            let engine = EngineInfo {
                storage_driver: driver.to_owned(),
                storage_status: vec![("Backing Filesystem".to_owned(), file_system.to_owned())],
                ..engine()
            };
            assert_eq!(has_quotas(&engine), asked, "{driver} on {file_system}");
        }
    }

    #[test]
    fn a_strict_job_has_no_right_but_its_folders_in_memory() {
        let shared = HostConfig {
            mounts: Some(vec![bollard::models::Mount {
                target: Some("/tmp".to_owned()),
                ..bollard::models::Mount::default()
            }]),
            ..HostConfig::default()
        };
        let sandbox = sandbox(Profile::Strict);
        let host = sandbox.host_config(Preset::None, shared);
        assert_eq!(host.cap_add, Some(Vec::new()));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert!(sandbox.user().is_some_and(|user| !user.starts_with('0')));
        let mut folders: Vec<String> = host.tmpfs.unwrap().into_keys().collect();
        folders.sort_unstable();
        // What is mounted at /tmp is the job's artifacts then.
        assert_eq!(folders, ["/home/job", "/run", "/var/tmp"]);
    }

    #[test]
    fn gpus_are_there_by_preset_only_and_change_no_bound() {
        let sandbox = sandbox(Profile::Live);
        let without = sandbox.host_config(Preset::None, HostConfig::default());
        let with = sandbox.host_config(Preset::NvidiaAll, HostConfig::default());
        assert_eq!(
            (without.runtime, without.device_requests),
            (None, Some(Vec::new()))
        );
        assert_eq!(with.runtime.as_deref(), Some("nvidia"));
        let requests = with.device_requests.unwrap();
        assert_eq!(requests[0].count, Some(-1));
        assert_eq!(requests[0].capabilities, Some(vec![vec!["gpu".to_owned()]]));
        assert_eq!(with.security_opt, without.security_opt);
        assert_eq!((with.cap_add, with.cap_drop), (without.cap_add, without.cap_drop));
        let locked = with.ulimits.unwrap().pop().unwrap();
        assert_eq!((locked.name.as_deref(), locked.hard), (Some("memlock"), Some(-1)));
    }
}
