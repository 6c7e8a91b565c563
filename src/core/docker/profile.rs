//! What each profile lets a job do, with the reason for every right that is left.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::limits::Preset;
use crate::core::model::Profile;

/// The capabilities of root in a job's container under the profile `live`, each with what ordinary images do with
/// it. Everything else that an engine gives by default is dropped: `NET_RAW` and `NET_BIND_SERVICE` (there is no
/// network), `MKNOD` (no device is a job's to make), `AUDIT_WRITE`, `SETFCAP`, `SETPCAP` and `SYS_CHROOT` (nothing
/// in a container that runs one job needs them). No-new-privileges holds besides, so that none of these can be had
/// through a file.
const LIVE_CAPABILITIES: [(&str, &str); 7] = [
    (
        "CHOWN",
        "entry points give files to the user that the job runs as; installers set owners",
    ),
    (
        "DAC_OVERRIDE",
        "root reads and writes what other users of the image own, such as a home folder",
    ),
    (
        "FOWNER",
        "root sets modes and times of files that other users own: chmod -R, tar, installers",
    ),
    (
        "FSETID",
        "a mode with set-group-id survives chown and writes: shared folders, installers",
    ),
    (
        "KILL",
        "an init process that is root ends its workers that run as another user",
    ),
    (
        "SETGID",
        "entry points become an ordinary group: su-exec, gosu, setpriv, su",
    ),
    (
        "SETUID",
        "entry points become an ordinary user: su-exec, gosu, setpriv, su",
    ),
];

/// Sizes of folders are given in parts of the job's memory.
const PARTS: u64 = 16;

/// The folders in memory that a job under the profile `strict` may write to, with their size in sixteenths of its
/// memory, of which they are a part.
const STRICT_FOLDERS: [(&str, u64); 4] = [("/tmp", 4), ("/var/tmp", 4), ("/run", 1), (STRICT_HOME, 4)];

/// The home of a job under the profile `strict`.
const STRICT_HOME: &str = "/home/job";

/// How many users jobs under the profile `strict` are spread over.
const USERS: u64 = 30_000;

/// The first of these users, 70000 to 99999: above what hosts and their services use (up to 65535), below what
/// engines map the users of containers to (`SUB_UID_MIN` is 100000).
const FIRST_USER: u32 = 70_000;

/// The first of these users where a user namespace maps 65536 of them: 20000 to 49999 in the container.
const FIRST_MAPPED_USER: u32 = 20_000;

/// Beginning of the names of variables that the NVIDIA runtime obeys.
const RUNTIME_PREFIX: &str = "NVIDIA_";

/// Variables that begin like this but are read by the libraries in the container only.
const LIBRARIES_OWN: [&str; 1] = ["NVIDIA_TF32_OVERRIDE"];

/// What the NVIDIA runtime is told when the job has GPUs: all of them, to compute with, and none of the further
/// devices that an image could ask for by its own environment.
const GPU_VARIABLES: [(&str, &str); 6] = [
    ("NVIDIA_VISIBLE_DEVICES", "all"),
    ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
    ("NVIDIA_GDS", "disabled"),
    ("NVIDIA_MOFED", "disabled"),
    ("NVIDIA_NVSWITCH", "disabled"),
    ("NVIDIA_GDRCOPY", "disabled"),
];

/// What it is told when the job has none: on many GPU machines it is the runtime of every container.
const NO_GPU_VARIABLES: [(&str, &str); 1] = [("NVIDIA_VISIBLE_DEVICES", "void")];

/// A folder in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemoryFolder {
    /// Where it is.
    pub(super) path: &'static str,
    /// How it is mounted.
    pub(super) options: String,
}

/// Returns the capabilities that a profile leaves.
pub(super) fn capabilities(profile: Profile) -> Vec<String> {
    match profile {
        Profile::Live => LIVE_CAPABILITIES
            .iter()
            .map(|(name, _reason)| (*name).to_owned())
            .collect(),
        Profile::Strict => Vec::new(),
    }
}

/// Returns a sentence's end that says what a job may do under a profile.
pub(super) fn rights(profile: Profile) -> String {
    match profile {
        Profile::Live => {
            let names: Vec<&str> = LIVE_CAPABILITIES.iter().map(|(name, _)| *name).collect();
            format!(
                "root inside the container with the capabilities {} and no others, a root file system that can be \
                 written to, no network, no new privileges through set-user-id files",
                names.join(", ")
            )
        }
        Profile::Strict => {
            let folders: Vec<&str> = STRICT_FOLDERS.iter().map(|(path, _)| *path).collect();
            format!(
                "a user that is not root, no capability, no network, and only /volume, /output, the artifacts and \
                 {} to write to",
                folders.join(", ")
            )
        }
    }
}

/// Returns the user that a job runs as; none for the image's own.
///
/// It is drawn from the executor's token, which is another one for each job. Two of them draw the same user once in
/// [`USERS`] times; what keeps them apart then are their containers, as under the other profile.
pub(super) fn user(profile: Profile, token: &str, is_mapped: bool) -> Option<u32> {
    match profile {
        Profile::Live => None,
        Profile::Strict => {
            let mut hasher = DefaultHasher::new();
            token.hash(&mut hasher);
            let drawn = u32::try_from(hasher.finish() % USERS).unwrap_or(0);
            Some(drawn + if is_mapped { FIRST_MAPPED_USER } else { FIRST_USER })
        }
    }
}

/// Returns the folders in memory that a profile needs; `user` owns the home.
pub(super) fn memory_folders(profile: Profile, user: Option<u32>, memory_bytes: u64) -> Vec<MemoryFolder> {
    let Some(user) = user.filter(|_| profile == Profile::Strict) else {
        return Vec::new();
    };
    let folder = |(path, parts): (&'static str, u64)| {
        let bytes = memory_bytes / PARTS * parts;
        let who = if path == STRICT_HOME {
            format!("uid={user},gid={user},mode=0700")
        } else {
            "mode=1777".to_owned()
        };
        // Programs may run from there, as compilers of kernels demand; they are the job's own.
        MemoryFolder {
            path,
            options: format!("rw,exec,nosuid,nodev,size={bytes},{who}"),
        }
    };
    STRICT_FOLDERS.into_iter().map(folder).collect()
}

/// Returns the environment of a job's container: the profile's, then what the peer and the image may not change.
pub(super) fn environment(profile: Profile, preset: Preset, given: &[(String, String)]) -> Vec<String> {
    let is_given = |wanted: &str| given.iter().any(|(name, _)| name == wanted);
    let home = (profile == Profile::Strict && !is_given("HOME")).then(|| format!("HOME={STRICT_HOME}"));
    let mut variables: Vec<String> = given
        .iter()
        .filter(|(name, _)| !is_the_runtimes(name))
        .map(|(name, value)| format!("{name}={value}"))
        .chain(home)
        .collect();
    let forced: &[(&str, &str)] = match preset {
        Preset::None => &NO_GPU_VARIABLES,
        Preset::NvidiaAll => &GPU_VARIABLES,
    };
    variables.extend(forced.iter().map(|(name, value)| format!("{name}={value}")));
    variables
}

/// Returns whether a variable is one that the NVIDIA runtime obeys, so that no peer may set it.
///
/// A name is judged as the container will see it: up to its first `=`.
pub fn is_the_runtimes(name: &str) -> bool {
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    name.starts_with(RUNTIME_PREFIX) && !LIBRARIES_OWN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_nvidia_runtime_obeys_is_never_a_peers() {
        for name in [
            "NVIDIA_VISIBLE_DEVICES",
            "NVIDIA_DRIVER_CAPABILITIES",
            "NVIDIA_MOFED",
            "NVIDIA_REQUIRE_CUDA",
            "NVIDIA_VISIBLE_DEVICES=all",
        ] {
            assert!(is_the_runtimes(name), "{name}");
        }
        for name in ["NVIDIA_TF32_OVERRIDE", "LD_PRELOAD", "nvidia_visible_devices", ""] {
            assert!(!is_the_runtimes(name), "{name}");
        }
        let given = [
            ("A".to_owned(), "1".to_owned()),
            ("NVIDIA_VISIBLE_DEVICES".to_owned(), "all".to_owned()),
            ("NVIDIA_GDS=enabled".to_owned(), "x".to_owned()),
        ];
        assert_eq!(
            environment(Profile::Live, Preset::None, &given),
            ["A=1", "NVIDIA_VISIBLE_DEVICES=void"]
        );
        let variables = environment(Profile::Live, Preset::NvidiaAll, &given);
        assert_eq!(
            variables[..3],
            [
                "A=1",
                "NVIDIA_VISIBLE_DEVICES=all",
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            ]
        );
        assert!(variables.contains(&"NVIDIA_GDS=disabled".to_owned()));
    }

    #[test]
    fn a_strict_job_has_a_home_unless_it_names_one() {
        let home = |given: &[(String, String)]| environment(Profile::Strict, Preset::None, given).remove(0);
        assert_eq!(home(&[]), "HOME=/home/job");
        assert_eq!(home(&[("HOME".to_owned(), "/output".to_owned())]), "HOME=/output");
    }

    #[test]
    fn users_of_strict_jobs_differ_and_stay_in_their_range() {
        let mut users: Vec<u32> = (0..1000)
            .filter_map(|number| user(Profile::Strict, &format!("token-{number}"), false))
            .collect();
        assert!(users.iter().all(|user| (70_000..100_000).contains(user)));
        users.sort_unstable();
        users.dedup();
        assert!(users.len() > 950, "{}", users.len());
        let mapped = user(Profile::Strict, "t", true).unwrap();
        assert!((20_000..50_000).contains(&mapped));
        assert_eq!(user(Profile::Live, "t", false), None);
    }

    #[test]
    fn folders_in_memory_leave_room_for_the_job_itself() {
        let parts: u64 = STRICT_FOLDERS.iter().map(|(_, parts)| parts).sum();
        assert!(parts < PARTS);
        let folders = memory_folders(Profile::Strict, Some(70_001), 16 << 20);
        assert_eq!(
            folders[3].options,
            "rw,exec,nosuid,nodev,size=4194304,uid=70001,gid=70001,mode=0700"
        );
        assert_eq!(folders[2].options, "rw,exec,nosuid,nodev,size=1048576,mode=1777");
        assert_eq!(memory_folders(Profile::Live, None, 16 << 20), []);
    }
}
