//! Where this process is, as the engine sees it: on its host, or in one of its containers.
//!
//! An executor in a container binds its folders into containers of the host's engine, which knows them under the
//! host's paths. Those are found through what the engine says of the executor's own container.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ContainerId, Engine, EngineError};

/// The most that is read of a file of `/proc`, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files that an engine mounts into its containers from a folder that bears their identifier.
const OWN_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// How many characters an identifier has.
const ID_CHARACTERS: usize = 64;

/// A folder or file of the host that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// The path on the host of the engine.
    pub source: PathBuf,
    /// The path in the container.
    pub target: PathBuf,
}

/// Where this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Not in a container of the engine: its paths are taken for the engine's.
    Host,
    /// In a container of the engine.
    Container {
        /// The container.
        id: ContainerId,
        /// What it sees of the host.
        mounts: Vec<HostMount>,
    },
}

/// A path of a container that its host does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} lies in the executor's own container, where jobs cannot see it: start that container with a folder of \
     the host mounted there, as with `-v /tmp:/tmp`"
)]
pub struct NotMounted {
    /// The path.
    pub path: PathBuf,
}

impl Place {
    /// Finds out where this process is; asks the engine only when there are signs of a container.
    pub async fn find(engine: &dyn Engine) -> Result<Self, EngineError> {
        let read = |path| read(path).unwrap_or_default();
        let (mounts, groups) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
        for id in candidates(&mounts, &groups) {
            // Another engine's container, as with an engine in a container, is not known to this one.
            if let Some(mounts) = engine.host_mounts(&id).await? {
                return Ok(Self::Container { id, mounts });
            }
        }
        Ok(Self::Host)
    }

    /// Returns a path of this process as the engine's host has it.
    pub fn on_host(&self, path: &Path) -> Result<PathBuf, NotMounted> {
        let mounts = match self {
            Self::Host => return Ok(path.to_owned()),
            Self::Container { mounts, .. } => mounts,
        };
        // The deepest mount hides what lies above it.
        let deepest = mounts
            .iter()
            .filter_map(|mount| Some((mount, path.strip_prefix(&mount.target).ok()?)))
            .max_by_key(|(mount, _)| mount.target.components().count());
        match deepest {
            Some((mount, rest)) if rest.as_os_str().is_empty() => Ok(mount.source.clone()),
            Some((mount, rest)) => Ok(mount.source.join(rest)),
            None => Err(NotMounted {
                path: path.to_owned(),
            }),
        }
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns what may be the identifier of this process's container: from the files that engines mount, then from its
/// control groups, which a container of its own cgroup namespace does not see.
fn candidates(mountinfo: &str, cgroup: &str) -> Vec<ContainerId> {
    let of_mounts = mountinfo.lines().filter_map(|line| {
        // Fields 4 and 5: the path in the file system that is mounted, and where it is mounted.
        let mut fields = line.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        OWN_FILES.contains(&target).then(|| identifier(root))?
    });
    let of_groups = cgroup.lines().filter_map(identifier);
    let mut found: Vec<ContainerId> = Vec::new();
    for id in of_mounts.chain(of_groups) {
        if !found.contains(&id) {
            found.push(id);
        }
    }
    found
}

/// Returns the first part of a path that looks like a container's identifier, as in `…/docker-0a1b….scope`.
fn identifier(path: &str) -> Option<ContainerId> {
    path.split(['/', '-', '.', ':'])
        .find(|part| part.len() == ID_CHARACTERS && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(ContainerId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sign: &str) -> ContainerId {
        ContainerId::new(sign.repeat(ID_CHARACTERS))
    }

    #[test]
    fn a_container_is_known_by_the_files_that_its_engine_mounts_or_by_its_groups() {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let mounts = format!(
            "700 600 0:50 / / rw - overlay overlay rw\n\
             701 700 254:0 /var/lib/docker/containers/{one}/hostname /etc/hostname rw - ext4 /dev/vda rw\n\
             702 700 254:0 /var/lib/docker/containers/{one}/hosts /etc/hosts rw - ext4 /dev/vda rw\n\
             703 700 254:0 /var/lib/docker/containers/{two}/shm /somewhere rw - ext4 /dev/vda rw\n"
        );
        assert_eq!(candidates(&mounts, ""), [id("1")]);
        for groups in [
            format!("12:pids:/docker/{two}\n0::/"),
            format!("0::/system.slice/docker-{two}.scope"),
        ] {
            assert_eq!(candidates("", &groups), [id("2")]);
            assert_eq!(candidates(&mounts, &groups), [id("1"), id("2")]);
        }
        for groups in ["0::/", "", "12:pids:/user.slice/user-0.slice/session-1.scope"] {
            assert_eq!(candidates("garbage\n\n1 2 3", groups), []);
        }
    }

    #[test]
    fn paths_are_the_hosts_by_the_deepest_mount_or_not_at_all() {
        let mount = |source: &str, target: &str| HostMount {
            source: source.into(),
            target: target.into(),
        };
        let place = Place::Container {
            id: id("1"),
            mounts: vec![
                mount("/var/run/docker.sock", "/var/run/docker.sock"),
                mount("/srv/jobs", "/tmp"),
                mount("/fast", "/tmp/fast"),
            ],
        };
        for (path, host) in [
            (
                "/tmp/horde-executor-x/volume",
                Some("/srv/jobs/horde-executor-x/volume"),
            ),
            ("/tmp", Some("/srv/jobs")),
            ("/tmp/fast/a", Some("/fast/a")),
            ("/tmp/faster", Some("/srv/jobs/faster")),
            ("/tmpx", None),
            ("/data", None),
        ] {
            let found = place.on_host(Path::new(path)).ok();
            assert_eq!(found.as_deref(), host.map(Path::new), "{path}");
            assert_eq!(Place::Host.on_host(Path::new(path)).unwrap(), Path::new(path));
        }
        let error = place.on_host(Path::new("/data")).unwrap_err().to_string();
        assert!(
            error.contains("-v /tmp:/tmp") && error.contains("/data"),
            "{error}"
        );
    }
}
