//! The control group of a container, seen from outside: whether anything still runs in it.
//!
//! An engine's word that a container is gone is good, the kernel's is better. It can be had only where the host's
//! groups can be seen: an executor that runs in a container itself sees others, or none, and then takes the engine's.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ContainerId;

/// Where processes are described.
const PROC: &str = "/proc";

/// Where control groups are mounted, on every distribution with systemd and in every image of an engine.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes of the longest file of the kernel that is read here.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Groups below a container's own that are looked into (version 1; version 2 counts them itself).
const GROUPS_MAX: usize = 1024;

/// Where an engine keeps the groups of its containers when nobody tells it otherwise: its own driver and systemd's.
const PARENTS: [&str; 2] = ["docker", "system.slice"];

/// The control groups of one container: one on version 2, one per resource on version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Finds the groups of a container by its first process, or by its name when that has ended already; none where
    /// the host's groups cannot be seen.
    pub fn find(container: &ContainerId, pid: Option<u32>) -> Option<Self> {
        Self::find_in(Path::new(PROC), Path::new(GROUPS), container, pid)
    }

    fn find_in(proc: &Path, groups: &Path, container: &ContainerId, pid: Option<u32>) -> Option<Self> {
        let of_process = pid.and_then(|pid| of_process(proc, groups, container, pid));
        of_process.or_else(|| by_name(groups, container))
    }

    /// Returns how many processes the kernel refused the container since it began, for its bound on them; 0 also
    /// when nobody can tell.
    pub fn refused_processes(&self) -> u64 {
        let count = |folder: &PathBuf| {
            let events = read(&folder.join("pids.events")).ok()?;
            let count = events.lines().find_map(|line| line.strip_prefix("max "))?;
            count.trim().parse::<u64>().ok()
        };
        self.folders.iter().filter_map(count).max().unwrap_or(0)
    }

    /// Returns the processes that are left, in the first group that has any; none when all are empty or gone.
    pub fn left(&self) -> io::Result<Option<Left>> {
        for folder in &self.folders {
            if let Some(processes) = processes_in(folder)? {
                return Ok(Some(Left {
                    group: folder.clone(),
                    processes,
                }));
            }
        }
        Ok(None)
    }
}

/// What is left in a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its folder.
    pub group: PathBuf,
    /// The numbers of its processes, one per line, as the kernel writes them.
    pub processes: String,
}

fn of_process(proc: &Path, groups: &Path, container: &ContainerId, pid: u32) -> Option<Cgroup> {
    let text = read(&proc.join(pid.to_string()).join("cgroup")).ok()?;
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(resources), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        // Another process may have the number by now, or here; and a path that climbs is of another view.
        if !path.contains(container.as_str()) || path.split('/').any(|part| part == "..") {
            continue;
        }
        let path = path.trim_start_matches('/');
        let mounts: Vec<PathBuf> = match resources.strip_prefix("name=").unwrap_or(resources) {
            "" => vec![groups.to_owned(), groups.join("unified")],
            name => [name]
                .into_iter()
                .chain(name.split(','))
                .map(|name| groups.join(name))
                .collect(),
        };
        let folder = mounts.into_iter().map(|mount| mount.join(path));
        folders.extend(folder.into_iter().find(|folder| folder.is_dir()));
    }
    (!folders.is_empty()).then_some(Cgroup { folders })
}

/// Where the groups of a container are, or were, by the customs of engines; none where no engine's groups are seen.
fn by_name(groups: &Path, container: &ContainerId) -> Option<Cgroup> {
    let mounts = if groups.join("cgroup.controllers").exists() {
        vec![groups.to_owned()]
    } else {
        // Each resource has a group of its own for the same processes; these two every engine uses.
        vec![groups.join("pids"), groups.join("memory")]
    };
    let mut folders = Vec::new();
    for mount in mounts {
        for parent in PARENTS.map(|parent| mount.join(parent)) {
            if parent.is_dir() {
                folders.push(parent.join(container.as_str()));
                folders.push(parent.join(format!("docker-{container}.scope")));
            }
        }
    }
    (!folders.is_empty()).then_some(Cgroup { folders })
}

/// Returns the processes of a group and of those below it; none when there are none or the group is gone.
fn processes_in(folder: &Path) -> io::Result<Option<String>> {
    // Version 2 counts the groups below, too.
    if let Some(events) = present(read(&folder.join("cgroup.events")))?
        && events.lines().any(|line| line == "populated 0")
    {
        return Ok(None);
    }
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        seen += 1;
        if seen > GROUPS_MAX {
            return Err(io::Error::other(format!("more than {GROUPS_MAX} groups")));
        }
        let Some(processes) = present(read(&folder.join("cgroup.procs")))? else {
            continue;
        };
        if !processes.trim().is_empty() {
            return Ok(Some(processes));
        }
        let Some(entries) = present(fs::read_dir(&folder))? else {
            continue;
        };
        for entry in entries {
            let Some(entry) = present(entry)? else { continue };
            if present(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Turns the errors of a group that is being removed into none.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // ENODEV: opened before, read after its removal.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The kernel's answer to a read of a removed group's file.
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0a1b2c";

    /// Writes files below a folder of the test's own.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn find(tree: &tempfile::TempDir, pid: Option<u32>) -> Option<Cgroup> {
        let root = tree.path();
        Cgroup::find_in(
            &root.join("proc"),
            &root.join("groups"),
            &ContainerId::new(ID),
            pid,
        )
    }

    #[test]
    fn a_group_of_version_1_counts_the_groups_below_it() {
        let tree = tree(&[
            (
                "proc/7/cgroup",
                "3:cpu,cpuacct:/docker/0a1b2c\n2:pids:/docker/0a1b2c\n1:name=systemd:/\n0::/\n",
            ),
            ("groups/cpu,cpuacct/docker/0a1b2c/cgroup.procs", ""),
            ("groups/pids/docker/0a1b2c/cgroup.procs", ""),
            ("groups/pids/docker/0a1b2c/below/cgroup.procs", "12\n"),
        ]);
        let group = find(&tree, Some(7)).unwrap();
        assert_eq!(group.folders.len(), 2);
        assert_eq!(group.left().unwrap().unwrap().processes, "12\n");
        fs::remove_dir_all(tree.path().join("groups/pids/docker/0a1b2c")).unwrap();
        assert_eq!(group.left().unwrap(), None);
    }

    #[test]
    fn a_group_of_version_2_says_itself_whether_it_is_populated() {
        let folder = "groups/system.slice/docker-0a1b2c.scope";
        let tree = tree(&[
            ("groups/cgroup.controllers", "pids"),
            ("proc/7/cgroup", "0::/system.slice/docker-0a1b2c.scope\n"),
            (&format!("{folder}/cgroup.events"), "populated 1\nfrozen 0\n"),
            (&format!("{folder}/cgroup.procs"), ""),
            (&format!("{folder}/sub/cgroup.procs"), "8\n9\n"),
        ]);
        let group = find(&tree, Some(7)).unwrap();
        assert_eq!(group.left().unwrap().unwrap().processes, "8\n9\n");
        fs::write(
            tree.path().join(folder).join("cgroup.events"),
            "populated 0\nfrozen 0\n",
        )
        .unwrap();
        assert_eq!(group.left().unwrap(), None);
        // The same, when its first process had ended before it could be looked at.
        assert!(
            find(&tree, None)
                .unwrap()
                .folders
                .contains(&tree.path().join(folder))
        );
    }

    #[test]
    fn refused_processes_are_counted_where_the_kernel_counts_them() {
        let tree = tree(&[
            ("groups/pids/docker/0a1b2c/pids.events", "max 17\n"),
            ("groups/memory/docker/0a1b2c/cgroup.procs", ""),
        ]);
        assert_eq!(find(&tree, None).unwrap().refused_processes(), 17);
        fs::remove_dir_all(tree.path().join("groups/pids/docker/0a1b2c")).unwrap();
        assert_eq!(find(&tree, None).unwrap().refused_processes(), 0);
    }

    #[test]
    fn a_number_that_is_another_process_here_tells_nothing() {
        for (text, why) in [
            ("0::/user.slice/session\n", "another process"),
            ("0::/../0a1b2c\n", "another view"),
            ("", "nothing"),
            ("7:0a1b2c", "no path"),
        ] {
            let tree = tree(&[("proc/7/cgroup", text), ("groups/own/cgroup.procs", "1")]);
            assert_eq!(find(&tree, Some(7)), None, "{why}");
        }
    }
}
