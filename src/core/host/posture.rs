//! What an operator wants to know beyond the security of a machine: is there room, is there an image, are there GPUs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::checks::{Finding, Status};
use super::facts::{Facts, NvidiaFacts};
use crate::core::docker::info::CgroupVersion;

/// Bytes of a gibibyte.
const GIBIBYTE: u64 = 1024 * 1024 * 1024;

/// What is known of the folder that jobs' folders lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whether a file could be made in it, or why not.
    pub writable: Result<(), String>,
    /// Whether others may replace what lies in it.
    pub is_open_to_others: bool,
    /// Free space for this user, in bytes.
    pub free_bytes: Result<u64, String>,
}

impl WorkDir {
    /// Looks at a folder; blocks. A file is made in it and removed again.
    pub fn read(path: &Path) -> Self {
        // Writable for all and without the sticky bit.
        let is_open = |mode: u32| mode & 0o002 != 0 && mode & 0o1000 == 0;
        Self {
            path: path.to_owned(),
            writable: tempfile::tempfile_in(path)
                .map(drop)
                .map_err(|error| error.to_string()),
            is_open_to_others: fs::metadata(path).is_ok_and(|facts| is_open(facts.mode())),
            free_bytes: rustix::fs::statvfs(path)
                .map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize))
                .map_err(|error| error.to_string()),
        }
    }
}

/// What jobs will ask of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Room for one job's input and output, in bytes.
    pub disk_bytes: u64,
    /// Whether jobs get GPUs.
    pub gpus: bool,
}

/// Looks at a machine's posture; `image` is the executor's image, when it is there.
pub fn posture(facts: &Facts, work_dir: &WorkDir, image: Option<&str>, wants: Wants) -> Vec<Finding> {
    let mut findings = vec![
        docker(facts),
        cgroups(facts),
        swap(facts),
        user_namespace(facts),
        folder(work_dir),
        disk(work_dir, wants.disk_bytes),
        executor_image(image),
    ];
    if wants.gpus {
        findings.push(runtime(facts));
        findings.extend(facts.nvidia.as_ref().map(gpus));
    }
    findings
}

/// Returns the finding of an engine that does not answer; everything else is unknown then.
pub fn no_docker(why: String) -> Finding {
    Finding {
        status: Status::Failed,
        actual: why,
        ..docker_finding()
    }
}

fn docker_finding() -> Finding {
    Finding {
        check: "docker".to_owned(),
        status: Status::Held,
        actual: String::new(),
        required: "answers".to_owned(),
        purpose: "runs the jobs' containers".to_owned(),
        remedy: "install and start Docker, and let this user use it (see executor.docker_host)".to_owned(),
        cves: Vec::new(),
    }
}

fn docker(facts: &Facts) -> Finding {
    let version = &facts.engine.version;
    Finding {
        actual: format!("{} with API {}", version.engine, version.api),
        ..docker_finding()
    }
}

fn cgroups(facts: &Facts) -> Finding {
    let version = &facts.engine.info.cgroup_version;
    Finding {
        check: "cgroup".to_owned(),
        status: match version {
            CgroupVersion::V1 | CgroupVersion::V2 => Status::Held,
            CgroupVersion::Unknown => Status::Unknown,
        },
        actual: version.to_string(),
        required: "v1 or v2; better v2".to_owned(),
        purpose: "limits jobs, and tells that nothing of them is left".to_owned(),
        remedy: "boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        cves: Vec::new(),
    }
}

fn swap(facts: &Facts) -> Finding {
    let can = facts.engine.info.can_limit.swap;
    Finding {
        check: "swap".to_owned(),
        status: if can { Status::Held } else { Status::Advice },
        actual: if can {
            "can be limited"
        } else {
            "cannot be limited"
        }
        .to_owned(),
        required: "can be limited".to_owned(),
        purpose: "a job beyond its memory is stopped rather than swapped out".to_owned(),
        remedy: "boot with swapaccount=1, or switch swap off".to_owned(),
        cves: Vec::new(),
    }
}

fn user_namespace(facts: &Facts) -> Finding {
    let has_one = facts.engine.info.has_user_namespace();
    Finding {
        check: "user-namespace".to_owned(),
        status: if has_one { Status::Held } else { Status::Advice },
        actual: if has_one { "root in a container is nobody on the host" } else { "root in a container is root on the host, without most of its rights" }
            .to_owned(),
        required: "optional".to_owned(),
        purpose: "a job that breaks out is still nobody".to_owned(),
        remedy: "set userns-remap in /etc/docker/daemon.json, or run Docker rootless; then look whether GPUs still work"
            .to_owned(),
        cves: Vec::new(),
    }
}

fn folder(work_dir: &WorkDir) -> Finding {
    let path = work_dir.path.display();
    let (status, actual) = match &work_dir.writable {
        Err(why) => (Status::Failed, format!("{path}: {why}")),
        Ok(()) if work_dir.is_open_to_others => (
            Status::Failed,
            format!("{path}: others may replace what lies in it"),
        ),
        Ok(()) => (Status::Held, format!("{path}: this user may write")),
    };
    Finding {
        check: "work-dir".to_owned(),
        status,
        actual,
        required: "this user may write, others not, or with the sticky bit".to_owned(),
        purpose: "holds the jobs' input and output".to_owned(),
        remedy: "set executor.work_dir to a folder of this user's own".to_owned(),
        cves: Vec::new(),
    }
}

fn disk(work_dir: &WorkDir, wanted: u64) -> Finding {
    let (status, actual) = match &work_dir.free_bytes {
        Ok(free) => (
            if *free >= wanted {
                Status::Held
            } else {
                Status::Failed
            },
            format!("{} GiB free in {}", free / GIBIBYTE, work_dir.path.display()),
        ),
        Err(why) => (Status::Unknown, why.clone()),
    };
    Finding {
        check: "disk".to_owned(),
        status,
        actual,
        required: format!("{} GiB", wanted.div_ceil(GIBIBYTE)),
        purpose: "one job's input and output at their limits".to_owned(),
        remedy: "make room, or set executor.work_dir to another disk".to_owned(),
        cves: Vec::new(),
    }
}

fn executor_image(image: Option<&str>) -> Finding {
    Finding {
        check: "image".to_owned(),
        status: if image.is_some() {
            Status::Held
        } else {
            Status::Advice
        },
        actual: image.unwrap_or("not there").to_owned(),
        required: "there, when miners start executors as containers".to_owned(),
        purpose: "executors run in it with miner.backend = docker".to_owned(),
        remedy: "horde executor image".to_owned(),
        cves: Vec::new(),
    }
}

fn runtime(facts: &Facts) -> Finding {
    let is_there = facts.engine.has_nvidia_runtime();
    Finding {
        check: "nvidia-runtime".to_owned(),
        status: if is_there { Status::Held } else { Status::Failed },
        actual: if is_there { "there" } else { "the engine has none" }.to_owned(),
        required: "there".to_owned(),
        purpose: "brings GPUs into jobs".to_owned(),
        remedy: "install nvidia-container-toolkit, run nvidia-ctk runtime configure --runtime=docker and restart Docker"
            .to_owned(),
        cves: Vec::new(),
    }
}

fn gpus(nvidia: &NvidiaFacts) -> Finding {
    let (status, actual) = match &nvidia.count {
        Ok(0) => (Status::Failed, "0".to_owned()),
        Ok(count) => (Status::Held, count.to_string()),
        Err(why) => (Status::Failed, why.clone()),
    };
    Finding {
        check: "gpu".to_owned(),
        status,
        actual,
        required: "1 or more".to_owned(),
        purpose: "jobs of GPU classes compute on them".to_owned(),
        remedy: "install the NVIDIA driver (nvidia-smi must list the GPUs), or set executor.no_gpu"
            .to_owned(),
        cves: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{EngineFacts, KernelFacts, Reading};
    use super::*;

    fn facts() -> Facts {
        let mut engine = EngineFacts::default();
        engine.info.cgroup_version = CgroupVersion::V1;
        Facts {
            engine,
            kernel: KernelFacts::default(),
            nvidia: Some(NvidiaFacts {
                count: Ok(0),
                driver: Reading::Known(String::new()),
                toolkit: Reading::Known(String::new()),
            }),
        }
    }

    fn status(findings: &[Finding], check: &str) -> Option<Status> {
        findings
            .iter()
            .find(|finding| finding.check == check)
            .map(|finding| finding.status)
    }

    #[test]
    fn a_folder_that_cannot_be_used_fails() {
        let folder = tempfile::tempdir().unwrap();
        let wants = Wants {
            disk_bytes: u64::MAX,
            gpus: false,
        };
        let look = |path: &Path| posture(&facts(), &WorkDir::read(path), None, wants);
        let findings = look(folder.path());
        assert_eq!(status(&findings, "work-dir"), Some(Status::Held));
        assert_eq!(status(&findings, "disk"), Some(Status::Failed));
        assert_eq!(status(&findings, "image"), Some(Status::Advice));
        assert_eq!(status(&findings, "gpu"), None);
        let missing = look(Path::new("/no/such/folder"));
        assert_eq!(status(&missing, "work-dir"), Some(Status::Failed));
        assert_eq!(status(&missing, "disk"), Some(Status::Unknown));
        let mut open = WorkDir::read(folder.path());
        open.is_open_to_others = true;
        assert_eq!(
            status(&posture(&facts(), &open, None, wants), "work-dir"),
            Some(Status::Failed)
        );
    }

    #[test]
    fn a_machine_that_is_to_have_gpus_needs_them_and_the_runtime() {
        let work_dir = WorkDir::read(Path::new("/"));
        let wants = Wants {
            disk_bytes: 0,
            gpus: true,
        };
        let mut facts = facts();
        let findings = posture(&facts, &work_dir, Some("x"), wants);
        assert_eq!(status(&findings, "gpu"), Some(Status::Failed));
        assert_eq!(status(&findings, "nvidia-runtime"), Some(Status::Failed));
        facts.engine.info.runtimes.insert("nvidia".to_owned(), None);
        if let Some(nvidia) = &mut facts.nvidia {
            nvidia.count = Ok(2);
        }
        let findings = posture(&facts, &work_dir, Some("x"), wants);
        assert_eq!(status(&findings, "gpu"), Some(Status::Held));
        assert_eq!(status(&findings, "nvidia-runtime"), Some(Status::Held));
    }
}
