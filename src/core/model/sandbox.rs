//! What an operator lets jobs have: a profile of rights, and bounds.

use std::fmt;
use std::str::FromStr;

/// Which rights a job's container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// Ordinary images work: root inside, a root that can be written to, the few capabilities that they need.
    #[default]
    Live,
    /// No capability, no root user, a root that cannot be written to but for folders in memory.
    Strict,
}

impl Profile {
    /// The words of all profiles, as settings write them.
    pub const WORDS: &'static [&'static str] = &["live", "strict"];

    /// Returns the profile as settings write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile {0:?} (known: live, strict)")]
pub struct UnknownProfile(pub String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        match text {
            "live" => Ok(Self::Live),
            "strict" => Ok(Self::Strict),
            other => Err(UnknownProfile(other.to_owned())),
        }
    }
}

/// What an operator configured for the jobs of an executor; what is not given follows from the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxWishes {
    /// Which rights.
    pub profile: Profile,
    /// Memory in bytes, also for what lies in `/dev/shm` and other folders in memory.
    pub memory_bytes: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Processes and threads at once.
    pub pids_max: u32,
    /// Open files of one process.
    pub nofile_max: u32,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: Option<u64>,
    /// What a job may write to the disk in bytes: the root of its container and the folders of the spec together.
    pub disk_bytes: u64,
    /// The engine's runtime for jobs without GPUs, such as `runsc`; none for the engine's own choice.
    pub runtime: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_a_profile_and_the_other_way_round() {
        for word in Profile::WORDS {
            assert_eq!(word.parse::<Profile>().unwrap().as_str(), *word);
        }
        assert!("Live".parse::<Profile>().is_err());
    }
}
