//! The table of the oldest versions that may run strangers' jobs, and the pure step from a version to a verdict.

use serde::{Deserialize, Deserializer};

use super::version::{Revision, Version};

/// The table, as it lies in the repository.
const TABLE: &str = include_str!("floors.toml");

/// A program whose version is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// The host's kernel.
    Kernel,
    /// The program that starts containers.
    Runc,
    /// The program that keeps them.
    Containerd,
    /// The engine.
    Docker,
    /// What brings GPUs into containers.
    NvidiaContainerToolkit,
    /// The driver of the GPUs.
    NvidiaDriver,
}

impl Component {
    /// Returns the name as the table has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Runc => "runc",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::NvidiaContainerToolkit => "nvidia-container-toolkit",
            Self::NvidiaDriver => "nvidia-driver",
        }
    }
}

/// Which machines a floor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    /// All.
    Always,
    /// Those whose jobs get GPUs.
    Gpu,
}

/// What follows when a version says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// No job runs.
    #[default]
    Fails,
    /// It is told, and jobs run.
    Told,
}

/// A package of a distribution that holds a fix under an older version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backport {
    /// Whose package.
    pub distribution: String,
    /// Its first fixed version.
    pub package: String,
}

/// The oldest versions of one program without one flaw.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// The name under which an operator may accept the risk: the CVE that set the floor.
    pub id: String,
    /// Further CVEs that the same versions fix.
    #[serde(default)]
    pub also: Vec<String>,
    /// The program.
    pub component: Component,
    /// Where it counts.
    pub applies: Applies,
    /// What a version that cannot be read means.
    pub unreadable: Doubt,
    /// The first version with the flaw.
    #[serde(default, deserialize_with = "optional_version")]
    pub introduced: Option<Version>,
    /// The first fixed release of each branch, oldest first.
    #[serde(deserialize_with = "versions")]
    pub fixed: Vec<Version>,
    /// How many numbers name a branch.
    pub branch: usize,
    /// What a branch between the listed ones is.
    pub gaps: Doubt,
    /// What a branch below all listed ones is.
    #[serde(default)]
    pub older: Doubt,
    /// What the flaw lets a job do.
    pub purpose: String,
    /// What an operator can do.
    pub remedy: String,
    /// Where the versions are from.
    pub source: String,
    /// Packages that hold the fix under an older version.
    #[serde(default)]
    pub backport: Vec<Backport>,
}

/// What a version is by a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Without the flaw.
    Fixed,
    /// With the flaw.
    Flawed,
    /// The table does not tell.
    Unknown,
}

impl Floor {
    /// Judges a version; `package` is the distribution's own, where it is known.
    pub fn judge(&self, version: &Version, package: Option<&str>) -> Verdict {
        if self.introduced.as_ref().is_some_and(|first| version < first) {
            return Verdict::Fixed;
        }
        if package.and_then(Revision::read).is_some_and(|own| {
            self.backport
                .iter()
                .filter_map(|backport| Revision::read(&backport.package))
                .any(|fixed| own.is_at_least(&fixed))
        }) {
            return Verdict::Fixed;
        }
        let branch = version.branch(self.branch);
        let judge = |is_fixed| if is_fixed { Verdict::Fixed } else { Verdict::Flawed };
        if let Some(fixed) = self
            .fixed
            .iter()
            .find(|fixed| fixed.branch(self.branch) == branch)
        {
            return judge(version >= fixed);
        }
        let doubt = |doubt| match doubt {
            Doubt::Fails => Verdict::Flawed,
            Doubt::Told => Verdict::Unknown,
        };
        match (self.fixed.first(), self.fixed.last()) {
            (_, Some(newest)) if version > newest => Verdict::Fixed,
            (Some(oldest), _) if version < oldest => doubt(self.older),
            _ => doubt(self.gaps),
        }
    }

    /// Returns the fixed versions in words: `1.2.8, 1.3.3 or newer (Debian 12: 1.1.5-1+deb12u1)`.
    pub fn required(&self) -> String {
        let fixed: Vec<String> = self.fixed.iter().map(ToString::to_string).collect();
        let packages = self
            .backport
            .iter()
            .map(|backport| format!(" ({}: {})", backport.distribution, backport.package));
        format!("{} or newer{}", fixed.join(", "), packages.collect::<String>())
    }

    /// Returns all CVEs.
    pub fn cves(&self) -> impl Iterator<Item = &str> {
        [&self.id].into_iter().chain(&self.also).map(String::as_str)
    }
}

/// All floors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// In the order in which they are told.
    #[serde(rename = "floor")]
    pub list: Vec<Floor>,
}

/// Why the table cannot be used; a test proves that the one in the binary can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the table of version floors is broken: {0}")]
pub struct TableError(String);

impl Floors {
    /// Reads the table in the binary.
    pub fn built_in() -> Result<Self, TableError> {
        Self::parse(TABLE)
    }

    fn parse(text: &str) -> Result<Self, TableError> {
        toml::from_str(text).map_err(|error| TableError(error.to_string()))
    }
}

fn versions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Version>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| version(text)).collect()
}

fn optional_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Version>, D::Error> {
    version(&String::deserialize(deserializer)?).map(Some)
}

fn version<E: serde::de::Error>(text: &str) -> Result<Version, E> {
    Version::read(text).ok_or_else(|| E::custom(format_args!("{text:?} is no version")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn judge(id: &str, version: &str, package: Option<&str>) -> Verdict {
        let floors = Floors::built_in().unwrap();
        let floor = floors.list.iter().find(|floor| floor.id == id).unwrap();
        floor.judge(&Version::read(version).unwrap(), package)
    }

    #[test]
    fn the_table_in_the_binary_can_be_read_and_is_in_order() {
        let floors = Floors::built_in().unwrap();
        let ids: BTreeSet<_> = floors.list.iter().map(|floor| &floor.id).collect();
        assert_eq!(ids.len(), floors.list.len());
        for floor in &floors.list {
            assert!(floor.cves().all(|cve| cve.starts_with("CVE-20")), "{}", floor.id);
            assert!(floor.source.starts_with("https://"), "{}", floor.id);
            assert!(floor.fixed.is_sorted() && !floor.fixed.is_empty(), "{}", floor.id);
            for backport in &floor.backport {
                assert!(
                    Revision::read(&backport.package).is_some(),
                    "{}",
                    backport.package
                );
            }
        }
    }

    #[test]
    fn a_table_with_a_slip_is_refused() {
        for text in [
            "",
            "[[floor]]\nid = 'x'",
            &TABLE.replace("\"1.17.8\"", "\"newest\""),
            &TABLE.replace("purpose", "purpos"),
        ] {
            assert!(Floors::parse(text).is_err());
        }
    }

    /// Versions that are known to be fixed or flawed, by branch.
    #[test]
    fn versions_are_judged_by_their_branch() {
        use Verdict::{Fixed, Flawed, Unknown};
        for (id, version, verdict) in [
            ("CVE-2025-31133", "1.1.5+ds1", Flawed),
            ("CVE-2025-31133", "1.1.15", Flawed),
            ("CVE-2025-31133", "1.2.7", Flawed),
            ("CVE-2025-31133", "1.2.8", Fixed),
            ("CVE-2025-31133", "1.3.0", Flawed),
            ("CVE-2025-31133", "1.3.3-0ubuntu1~24.04.2", Fixed),
            ("CVE-2025-31133", "1.4.0-rc.2", Flawed),
            ("CVE-2025-31133", "1.4.0", Fixed),
            ("CVE-2025-31133", "1.5.0-rc.1", Fixed),
            ("CVE-2024-21626", "1.1.11", Flawed),
            ("CVE-2024-21626", "1.2.0", Fixed),
            ("CVE-2024-25621", "1.6.38", Flawed),
            ("CVE-2024-25621", "2.2.0", Fixed),
            ("CVE-2022-24769", "20.10.12", Flawed),
            ("CVE-2022-24769", "23.0.1", Fixed),
            ("CVE-2025-23266", "1.17.4", Flawed),
            ("CVE-2025-23266", "1.19.0", Fixed),
            ("CVE-2025-23280", "535.261.03", Flawed),
            ("CVE-2025-23280", "550.163.01", Flawed),
            ("CVE-2025-23280", "570.195.03", Fixed),
            ("CVE-2025-23280", "580.82.07", Flawed),
            ("CVE-2025-23280", "590.48.01", Fixed),
            ("CVE-2022-0847", "5.4.0", Fixed),
            ("CVE-2022-0847", "5.10.101", Flawed),
            ("CVE-2022-0847", "5.13.9", Flawed),
            ("CVE-2022-0847", "6.1.0", Fixed),
            ("CVE-2026-31431", "6.18.44-fc-v657", Fixed),
            ("CVE-2026-31431", "6.18.5", Flawed),
            ("CVE-2026-31431", "6.1.99", Unknown),
            ("CVE-2026-31431", "6.14.1", Unknown),
            ("CVE-2026-31431", "7.0.1", Fixed),
        ] {
            assert_eq!(judge(id, version, None), verdict, "{id} {version}");
        }
    }

    #[test]
    fn a_distributions_package_with_the_fix_counts_as_fixed() {
        let id = "CVE-2024-21626";
        assert_eq!(
            judge(id, "1.1.5+ds1", Some("1.1.5+ds1-1+deb12u1")),
            Verdict::Fixed
        );
        assert_eq!(judge(id, "1.1.5+ds1", Some("1.1.5+ds1-1+b4")), Verdict::Flawed);
        assert_eq!(judge(id, "1.1.5+ds1", Some("f19387a")), Verdict::Flawed);
        let id = "CVE-2024-25621";
        assert_eq!(
            judge(id, "1.6.20~ds1", Some("1.6.20~ds1-1+deb12u3")),
            Verdict::Fixed
        );
        assert_eq!(
            judge(id, "1.6.20~ds1", Some("1.6.20~ds1-1+deb12u1")),
            Verdict::Flawed
        );
    }
}
