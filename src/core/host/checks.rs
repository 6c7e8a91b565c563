//! Is this machine fit to run strangers' jobs: facts and floors become findings. Pure.

use std::fmt::Display;

use schemars::JsonSchema;
use serde::Serialize;

use super::facts::{Facts, KernelFacts, Reading};
use super::floors::{Applies, Component, Doubt, Floor, Floors, Verdict};
use super::version::Version;

/// The name of the check whether system calls are filtered.
pub const SECCOMP: &str = "seccomp";

/// The name of the check whether memory and processes can be limited.
pub const LIMITS: &str = "limits";

/// The flaw that let a process without privileges set a program that the host's root runs (wire-executor-miner §10).
pub const RELEASE_AGENT: &str = "CVE-2022-0492";

/// The first kernels without it (24f600856418 in 5.17 and its backports).
const RELEASE_AGENT_FIXED: [&str; 7] = [
    "4.9.301", "4.14.266", "4.19.229", "5.4.177", "5.10.97", "5.15.20", "5.16.6",
];

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it must be.
    Held,
    /// Not as it must be: no job runs.
    Failed,
    /// Not as it must be, and the operator takes the risk.
    Accepted,
    /// Nobody can tell.
    Unknown,
    /// As it may be; better were otherwise.
    Advice,
    /// Not looked at; `actual` says why.
    Skipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The check's name; what `executor.accept` names.
    pub check: String,
    /// What came of it.
    pub status: Status,
    /// What is.
    pub actual: String,
    /// What must be.
    pub required: String,
    /// What it is good for.
    pub purpose: String,
    /// What an operator can do.
    pub remedy: String,
    /// The vulnerabilities that set the bar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cves: Vec<String>,
}

/// What a check requires, what it is good for, and what helps when it fails.
pub type Words = (&'static str, &'static str, &'static str);

impl Finding {
    /// Makes a finding of a check with these words.
    pub fn new(check: &str, status: Status, actual: impl Display, words: Words) -> Self {
        let (required, purpose, remedy) = words;
        Self {
            check: check.to_owned(),
            status,
            actual: actual.to_string(),
            required: required.to_owned(),
            purpose: purpose.to_owned(),
            remedy: remedy.to_owned(),
            cves: Vec::new(),
        }
    }
}

/// Looks at what must hold before a stranger's job runs; with `accepted` findings being the operator's risk.
///
/// Checks about GPUs are made when the facts hold some.
pub fn security(facts: &Facts, floors: &Floors, accepted: &[String]) -> Vec<Finding> {
    let mut findings = vec![release_agent(facts), seccomp(facts), limits(facts)];
    let applying = floors.list.iter().filter(|floor| match floor.applies {
        Applies::Always => true,
        Applies::Gpu => facts.nvidia.is_some(),
    });
    findings.extend(applying.map(|floor| judge(floor, facts)));
    for finding in &mut findings {
        // A risk that has a name can be taken; a machine that cannot limit jobs, or filter their calls, is none.
        let has_name = !finding.cves.is_empty();
        if finding.status == Status::Failed && has_name && accepted.contains(&finding.check) {
            finding.status = Status::Accepted;
        }
    }
    findings
}

/// Returns the accepted names that no vulnerability has: slips of the operator.
pub fn unknown_names<'a>(floors: &Floors, accepted: &'a [String]) -> Vec<&'a str> {
    let is_known = |name: &str| name == RELEASE_AGENT || floors.list.iter().any(|floor| floor.id == name);
    accepted
        .iter()
        .map(String::as_str)
        .filter(|name| !is_known(name))
        .collect()
}

/// Tells what keeps a process in a container from setting a release agent on the host: any one of these is enough,
/// besides that no container of ours ever has `CAP_SYS_ADMIN`.
fn release_agent(facts: &Facts) -> Finding {
    let kernel = &facts.kernel;
    let fixed: Vec<Version> = RELEASE_AGENT_FIXED
        .iter()
        .filter_map(|text| Version::read(text))
        .collect();
    let is_fixed = kernel_version(kernel).version.is_some_and(|version| {
        match fixed.iter().find(|fixed| fixed.branch(2) == version.branch(2)) {
            Some(fixed) => version >= *fixed,
            None => fixed.last().is_some_and(|newest| version > *newest),
        }
    });
    let has_no_namespaces =
        kernel.user_namespaces_max == Some(0) || kernel.unprivileged_user_namespaces == Some(false);
    let guards = [
        (is_fixed, "the kernel has the fix"),
        (has_seccomp(facts), "system calls are filtered"),
        (
            has_no_namespaces,
            "users without privileges make no user namespaces",
        ),
        (
            facts.engine.info.security_option("apparmor").is_some(),
            "AppArmor forbids mounts",
        ),
        (
            facts.engine.info.security_option("selinux").is_some(),
            "SELinux confines containers",
        ),
    ];
    let held: Vec<&str> = guards
        .iter()
        .filter(|(is_held, _)| *is_held)
        .map(|(_, words)| *words)
        .collect();
    Finding {
        check: RELEASE_AGENT.to_owned(),
        status: if held.is_empty() {
            Status::Failed
        } else {
            Status::Held
        },
        actual: if held.is_empty() {
            "nothing forbids it".to_owned()
        } else {
            held.join(", ")
        },
        required:
            "one of: kernel 5.17 or a fixed older one, seccomp, AppArmor, SELinux, no unprivileged user \
                   namespaces"
                .to_owned(),
        purpose: "a job could have the host's root run a program of its choice (cgroup release agent)"
            .to_owned(),
        remedy: "update the kernel, or switch Docker's seccomp profile on".to_owned(),
        cves: vec![RELEASE_AGENT.to_owned()],
    }
}

fn has_seccomp(facts: &Facts) -> bool {
    facts
        .engine
        .info
        .security_option("seccomp")
        .is_some_and(|profile| profile != "unconfined")
}

fn seccomp(facts: &Facts) -> Finding {
    let profile = facts.engine.info.security_option("seccomp");
    Finding {
        check: SECCOMP.to_owned(),
        status: if has_seccomp(facts) {
            Status::Held
        } else {
            Status::Failed
        },
        actual: match profile {
            Some("") => "on".to_owned(),
            Some(profile) => format!("profile {profile}"),
            None => "off".to_owned(),
        },
        required: "on".to_owned(),
        purpose: "keeps dangerous system calls from jobs".to_owned(),
        remedy:
            "remove seccomp-profile: unconfined from /etc/docker/daemon.json, and use a kernel with seccomp"
                .to_owned(),
        cves: Vec::new(),
    }
}

fn limits(facts: &Facts) -> Finding {
    let can = facts.engine.info.can_limit;
    let missing: Vec<&str> = [
        (can.memory, "memory"),
        (can.pids, "processes"),
        (can.cpu, "processor time"),
    ]
    .into_iter()
    .filter_map(|(can, words)| (!can).then_some(words))
    .collect();
    Finding {
        check: LIMITS.to_owned(),
        status: if missing.is_empty() {
            Status::Held
        } else {
            Status::Failed
        },
        actual: if missing.is_empty() {
            format!(
                "memory, processes and processor time, by cgroup {}",
                facts.engine.info.cgroup_version
            )
        } else {
            format!("no limit of {}", missing.join(", "))
        },
        required: "memory, processes and processor time can be limited".to_owned(),
        purpose: "a job could starve the machine".to_owned(),
        remedy: "boot with the memory, pids and cpu control groups on (see the warnings of `docker info`)"
            .to_owned(),
        cves: Vec::new(),
    }
}

/// A program's version as it was read.
struct Found<'a> {
    reading: Reading,
    /// The version of the distribution's package.
    package: Option<&'a str>,
    /// Whether a vendor patches it without saying so in the version.
    is_vendors: bool,
}

fn judge(floor: &Floor, facts: &Facts) -> Finding {
    let found = find(floor.component, facts);
    let (verdict, actual) = match &found.reading {
        Reading::Unreadable(why) => (by_doubt(floor.unreadable), format!("could not be read: {why}")),
        Reading::Known(text) => match Version::read(text) {
            None => (by_doubt(floor.unreadable), format!("could not be read: {text:?}")),
            Some(version) => {
                let verdict = floor.judge(&version, found.package);
                let is_older = floor.introduced.as_ref().is_some_and(|first| version < *first);
                let words = match found.package.filter(|package| package.starts_with(text.as_str())) {
                    Some(package) => package.to_owned(),
                    None => text.clone(),
                };
                // A vendor's old kernel may have got the flaw, or the fix, from a newer one.
                if found.is_vendors && (verdict == Verdict::Flawed || is_older) {
                    (Verdict::Unknown, format!("{words}, with patches of its vendor"))
                } else {
                    (verdict, words)
                }
            }
        },
    };
    Finding {
        check: floor.id.clone(),
        status: match verdict {
            Verdict::Fixed => Status::Held,
            Verdict::Flawed => Status::Failed,
            Verdict::Unknown => Status::Unknown,
        },
        actual: format!("{} {actual}", floor.component.as_str()),
        required: floor.required(),
        purpose: floor.purpose.clone(),
        remedy: floor.remedy.clone(),
        cves: floor.cves().map(str::to_owned).collect(),
    }
}

fn by_doubt(doubt: Doubt) -> Verdict {
    match doubt {
        Doubt::Fails => Verdict::Flawed,
        Doubt::Told => Verdict::Unknown,
    }
}

fn find(component: Component, facts: &Facts) -> Found<'_> {
    let plain = |reading| Found {
        reading,
        package: None,
        is_vendors: false,
    };
    let part = |name: &str| match facts.engine.version.component(name) {
        Some(part) if !part.version.is_empty() => Found {
            reading: Reading::Known(part.version.clone()),
            package: Some(part.commit.as_str()),
            is_vendors: false,
        },
        Some(_) | None => plain(Reading::Unreadable(format!(
            "the engine names no version of {name}"
        ))),
    };
    let nvidia = |read: fn(&super::facts::NvidiaFacts) -> &Reading| match &facts.nvidia {
        Some(nvidia) => plain(read(nvidia).clone()),
        None => plain(Reading::Unreadable("not looked for".to_owned())),
    };
    match component {
        Component::Kernel => {
            let kernel = kernel_version(&facts.kernel);
            Found {
                reading: match kernel.version {
                    Some(version) => Reading::Known(version.to_string()),
                    None => Reading::Unreadable(format!("{:?}", facts.kernel.release)),
                },
                package: None,
                is_vendors: kernel.is_vendors,
            }
        }
        Component::Runc => part("runc"),
        Component::Containerd => part("containerd"),
        Component::Docker => plain(Reading::Known(facts.engine.version.engine.clone())),
        Component::NvidiaContainerToolkit => nvidia(|nvidia| &nvidia.toolkit),
        Component::NvidiaDriver => nvidia(|nvidia| &nvidia.driver),
    }
}

/// A kernel's place among the releases of its project.
#[derive(Debug, PartialEq, Eq)]
struct KernelVersion {
    version: Option<Version>,
    /// Whether its vendor patches it without changing that.
    is_vendors: bool,
}

/// Finds out which release a kernel is: Debian follows the stable releases and says which one in `/proc/version`,
/// Ubuntu says from which one it began, and what Red Hat and SUSE build on says nothing about their fixes.
fn kernel_version(kernel: &KernelFacts) -> KernelVersion {
    let mut words = kernel.build.split_whitespace();
    if let Some(version) = words
        .by_ref()
        .find(|word| *word == "Debian")
        .and_then(|_| words.next())
        .and_then(Version::read)
    {
        return KernelVersion {
            version: Some(version),
            is_vendors: false,
        };
    }
    let began = kernel
        .signature
        .as_deref()
        .and_then(|text| text.split_whitespace().next_back());
    KernelVersion {
        version: began
            .and_then(Version::read)
            .or_else(|| Version::read(&kernel.release)),
        is_vendors: began.is_some()
            || kernel.build.contains("Ubuntu")
            || kernel.release.contains(".el")
            || kernel.release.ends_with("-default"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{EngineFacts, NvidiaFacts};
    use super::*;
    use crate::core::docker::info::{CanLimit, CgroupVersion, Component as Part, EngineInfo, EngineVersion};

    fn part(name: &str, version: &str, commit: &str) -> Part {
        Part {
            name: name.to_owned(),
            version: version.to_owned(),
            commit: commit.to_owned(),
        }
    }

    /// A machine without a fault.
    fn sound() -> Facts {
        Facts {
            engine: EngineFacts {
                version: EngineVersion {
                    engine: "28.5.2".to_owned(),
                    api: "1.51".to_owned(),
                    components: vec![
                        part("containerd", "v1.7.29", "442cb34"),
                        part("runc", "1.3.3", "v1.3.3-0-gd842d77"),
                    ],
                },
                info: EngineInfo {
                    cgroup_version: CgroupVersion::V2,
                    can_limit: CanLimit {
                        memory: true,
                        swap: true,
                        pids: true,
                        cpu: true,
                    },
                    security_options: vec![
                        "name=apparmor".to_owned(),
                        "name=seccomp,profile=builtin".to_owned(),
                    ],
                    ..EngineInfo::default()
                },
            },
            kernel: KernelFacts {
                release: "6.12.90".to_owned(),
                ..KernelFacts::default()
            },
            nvidia: None,
        }
    }

    fn status(facts: &Facts, check: &str, accepted: &[&str]) -> Status {
        let accepted: Vec<String> = accepted.iter().map(|name| (*name).to_owned()).collect();
        let findings = security(facts, &Floors::built_in().unwrap(), &accepted);
        let mut found = findings.iter().filter(|finding| finding.check == check);
        let status = found.next().unwrap_or_else(|| panic!("{check}")).status;
        assert_eq!(found.next(), None, "{check} is there twice");
        status
    }

    #[test]
    fn a_sound_machine_holds_everything() {
        let findings = security(&sound(), &Floors::built_in().unwrap(), &[]);
        assert!(findings.len() >= 9);
        for finding in findings {
            assert_eq!(finding.status, Status::Held, "{finding:?}");
        }
    }

    #[test]
    fn an_old_runc_fails_until_the_operator_accepts_that_very_finding() {
        let mut facts = sound();
        facts.engine.version.components[1] = part("runc", "1.1.5+ds1", "1.1.5+ds1-1+deb12u1");
        assert_eq!(status(&facts, "CVE-2024-21626", &[]), Status::Held);
        assert_eq!(status(&facts, "CVE-2025-31133", &[]), Status::Failed);
        assert_eq!(
            status(&facts, "CVE-2025-31133", &["CVE-2025-31133"]),
            Status::Accepted
        );
        assert_eq!(
            status(&facts, "CVE-2025-31133", &["CVE-2025-52565", "runc"]),
            Status::Failed
        );
    }

    #[test]
    fn what_cannot_be_read_fails_only_where_it_is_needed() {
        let mut facts = sound();
        facts.engine.version.components = vec![part("containerd", "", ""), part("runc", "", "")];
        facts.kernel.release = "?".to_owned();
        assert_eq!(status(&facts, "CVE-2025-31133", &[]), Status::Failed);
        assert_eq!(status(&facts, "CVE-2024-25621", &[]), Status::Unknown);
        assert_eq!(status(&facts, "CVE-2022-0847", &[]), Status::Unknown);
        facts.nvidia = Some(NvidiaFacts {
            count: Ok(1),
            driver: Reading::Known("580.95.05".to_owned()),
            toolkit: Reading::Unreadable("not here".to_owned()),
        });
        assert_eq!(status(&facts, "CVE-2025-23266", &[]), Status::Failed);
        assert_eq!(status(&facts, "CVE-2025-23280", &[]), Status::Held);
    }

    #[test]
    fn the_toolkit_that_the_reference_takes_is_refused() {
        let mut facts = sound();
        let toolkit = |version: &str| {
            Some(NvidiaFacts {
                count: Ok(1),
                driver: Reading::Known("535.274.02".to_owned()),
                toolkit: Reading::Known(version.to_owned()),
            })
        };
        facts.nvidia = toolkit("1.17.4");
        assert_eq!(status(&facts, "CVE-2025-23266", &[]), Status::Failed);
        facts.nvidia = toolkit("1.17.8");
        assert_eq!(status(&facts, "CVE-2025-23266", &[]), Status::Held);
    }

    #[test]
    fn one_guard_against_release_agents_is_enough_and_none_is_not() {
        let bare = |change: fn(&mut Facts)| {
            let mut facts = sound();
            facts.kernel.release = "5.10.90".to_owned();
            facts.engine.info.security_options.clear();
            change(&mut facts);
            status(&facts, RELEASE_AGENT, &[])
        };
        assert_eq!(bare(|_| {}), Status::Failed);
        assert_eq!(
            bare(|facts| facts.kernel.release = "5.10.97".to_owned()),
            Status::Held
        );
        assert_eq!(
            bare(|facts| facts.kernel.release = "5.17.0".to_owned()),
            Status::Held
        );
        assert_eq!(
            bare(|facts| facts.kernel.user_namespaces_max = Some(0)),
            Status::Held
        );
        assert_eq!(
            bare(|facts| facts.kernel.unprivileged_user_namespaces = Some(false)),
            Status::Held
        );
        assert_eq!(
            bare(|facts| facts.engine.info.security_options = vec!["name=seccomp,profile=default".to_owned()]),
            Status::Held
        );
        assert_eq!(
            bare(|facts| facts.engine.info.security_options =
                vec!["name=seccomp,profile=unconfined".to_owned()]),
            Status::Failed
        );
    }

    #[test]
    fn missing_limits_and_a_missing_filter_fail() {
        let mut facts = sound();
        facts.engine.info.can_limit.pids = false;
        facts.engine.info.security_options = vec!["name=apparmor".to_owned()];
        assert_eq!(status(&facts, LIMITS, &[]), Status::Failed);
        assert_eq!(status(&facts, SECCOMP, &[]), Status::Failed);
        assert_eq!(status(&facts, SECCOMP, &["seccomp"]), Status::Failed);
    }

    #[test]
    fn kernels_are_placed_as_their_vendors_name_them() {
        let kernel = |release: &str, build: &str, signature: Option<&str>| {
            let kernel = kernel_version(&KernelFacts {
                release: release.to_owned(),
                build: build.to_owned(),
                signature: signature.map(str::to_owned),
                ..KernelFacts::default()
            });
            (kernel.version.map(|version| version.branch(3)), kernel.is_vendors)
        };
        let debian =
            "Linux version 6.1.0-47-amd64 (x) (gcc) #1 SMP PREEMPT_DYNAMIC Debian 6.1.170-3 (2026-05-01)";
        assert_eq!(
            kernel("6.1.0-47-amd64", debian, None),
            (Some(vec![6, 1, 170]), false)
        );
        let ubuntu = Some("Ubuntu 6.8.0-110.110-generic 6.8.12");
        assert_eq!(
            kernel("6.8.0-110-generic", "…Ubuntu…", ubuntu),
            (Some(vec![6, 8, 12]), true)
        );
        assert_eq!(
            kernel("5.14.0-362.el9.x86_64", "", None),
            (Some(vec![5, 14, 0]), true)
        );
        assert_eq!(
            kernel("6.18.44-fc-v657", "", None),
            (Some(vec![6, 18, 44]), false)
        );
        assert_eq!(kernel("", "", None), (None, false));
    }

    #[test]
    fn a_vendors_kernel_that_looks_old_is_told_but_not_refused() {
        let mut facts = sound();
        facts.kernel.release = "5.14.0-362.el9.x86_64".to_owned();
        assert_eq!(status(&facts, "CVE-2022-0847", &[]), Status::Unknown);
        facts.kernel.release = "4.18.0-553.el8.x86_64".to_owned();
        assert_eq!(status(&facts, "CVE-2022-0847", &[]), Status::Unknown);
        facts.kernel.release = "5.14.0".to_owned();
        assert_eq!(status(&facts, "CVE-2022-0847", &[]), Status::Failed);
    }

    #[test]
    fn a_slip_in_the_accepted_names_is_noticed() {
        let floors = Floors::built_in().unwrap();
        let names = ["CVE-2025-31133", "seccomp", "CVE-2025-3113"].map(str::to_owned);
        assert_eq!(unknown_names(&floors, &names), ["seccomp", "CVE-2025-3113"]);
    }
}
