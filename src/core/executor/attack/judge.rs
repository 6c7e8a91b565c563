//! From what was seen to a verdict; pure.
//!
//! The outside is believed before the inside: whoever got out would not say so. An attack of which nothing was heard
//! counts as not held.

use std::collections::BTreeMap;

use serde::Serialize;

use super::catalogue::{Attack, BE_A_NEIGHBOUR, Bait, Rule};
use super::probe::{Got, Probe, Step};
use crate::core::model::Profile;

/// The capabilities that the profile `live` may leave, as bits: `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `KILL`,
/// `SETGID`, `SETUID`. Written down once more, on purpose: a right that is added to the sandbox has to be defended
/// here as well.
const LIVE_CAPABILITIES: u64 = 0b1111_1011;

/// How many more processes of a job the outside may count than its limit: those of the engine's that start it.
const PROCESSES_SLACK: usize = 8;

/// How much more of a log than its bound may lie on the disk, in bytes: buffers and the note at its end.
const LOG_SLACK_BYTES: u64 = 16 << 20;

/// How much the executor's memory may grow over a flood, in bytes.
const RESIDENT_GROWTH_MAX: u64 = 96 << 20;

/// The most characters of a stream that a report holds (wire-executor-miner §8): two ends and the gap.
const REPORT_CHARACTERS_MAX: usize = 1_000_005;

/// The longest evidence, in characters.
const EVIDENCE_CHARACTERS_MAX: usize = 400;

/// How many attempts the evidence names one by one.
const STEPS_SHOWN: usize = 4;

/// What became of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The sandbox held.
    Held,
    /// It did not.
    Broken,
    /// Nobody knows: counts as not held.
    CouldNotRun,
}

/// The verdict on one attack, with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The attack.
    pub name: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// One line of facts.
    pub evidence: String,
}

/// How a job of the attack was reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// With its results.
    Finished,
    /// As failed by itself.
    Failed {
        /// The reason, as the wire has it.
        reason: String,
        /// The container's exit code.
        exit_code: Option<i64>,
        /// Message and context, in one line.
        words: String,
    },
    /// As failed by the horde.
    HordeFailed(String),
    /// Not at all; why.
    #[default]
    None,
}

/// What the outside saw of one job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The report.
    pub(super) ending: Ending,
    /// What the inside told.
    pub(super) probes: Vec<Probe>,
    /// How many characters of its standard output the report holds.
    pub(super) stdout_characters: usize,
    /// The most processes of the job at once; none when the host's processes cannot be seen from here.
    pub(super) processes_max: Option<usize>,
    /// Those that lived after the report.
    pub(super) processes_left: Option<usize>,
    /// Containers of the job that were there after the report.
    pub(super) containers_left: usize,
    /// By how much this process's memory grew, in bytes.
    pub(super) resident_growth: u64,
    /// The most that lay in the executor's folder at once, in bytes.
    pub(super) folder_bytes_max: u64,
    /// Where the content of the host's canary file came to light.
    pub(super) leaks: Vec<String>,
    /// Whether the canary file is as it was.
    pub(super) canary_is_whole: bool,
    /// Whether the page that the job's volume names was asked for.
    pub(super) is_page_served: bool,
    /// Files that were not there before and are outside of the job's folders.
    pub(super) strays: Vec<String>,
}

/// What holds for all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scene {
    /// The profile that is tried.
    pub(super) profile: Profile,
    /// The namespaces of this process.
    pub(super) namespaces: Vec<String>,
    /// The limit of processes.
    pub(super) pids_max: u32,
    /// The limit of a log's file, in bytes.
    pub(super) log_bytes_max: u64,
    /// What the canaries heard, by attack.
    pub(super) heard: BTreeMap<String, Vec<String>>,
    /// Who visited the job that played the neighbour; none when it did not run.
    pub(super) visitors: Option<Vec<String>>,
}

/// What speaks for a verdict: `Ok` for held, `Err` for broken.
type Judged = Result<String, String>;

/// Judges one attack.
pub(super) fn judge(attack: &Attack, seen: Option<&Seen>, scene: &Scene) -> Finding {
    let (verdict, evidence) = match seen {
        None => (Verdict::CouldNotRun, "its job was not run".to_owned()),
        Some(seen) => match broken_from_outside(attack, seen, scene) {
            Some(evidence) => (Verdict::Broken, evidence),
            None => match by_rule(attack, seen, scene) {
                None => (Verdict::CouldNotRun, nothing_heard(seen)),
                Some(Ok(evidence)) => (Verdict::Held, evidence),
                Some(Err(evidence)) => (Verdict::Broken, evidence),
            },
        },
    };
    Finding {
        name: attack.name,
        verdict,
        evidence: plain(&evidence),
    }
}

/// Returns what the outside saw that no sandbox lets happen, whatever the attack says.
fn broken_from_outside(attack: &Attack, seen: &Seen, scene: &Scene) -> Option<String> {
    if let Some(heard) = scene.heard.get(attack.name).filter(|heard| !heard.is_empty()) {
        return Some(format!("a canary on the host heard it: {}", heard.join(", ")));
    }
    if !seen.canary_is_whole {
        return Some("a file of the host was changed".to_owned());
    }
    if !seen.leaks.is_empty() {
        return Some(format!("a file of the host was read: {}", seen.leaks.join(", ")));
    }
    if !seen.strays.is_empty() {
        return Some(format!("files were made outside: {}", seen.strays.join(", ")));
    }
    None
}

/// Judges by the attack's own rule; none when there is nothing to judge.
fn by_rule(attack: &Attack, seen: &Seen, scene: &Scene) -> Option<Judged> {
    let steps = || steps_of(&seen.probes, attack.name);
    Some(match attack.rule {
        Rule::Refused(words) if attack.name == "neighbour" => neighbour(steps()?, words, scene)?,
        Rule::Refused(words) => refused(steps()?, words),
        Rule::Nothing(words) => nothing(steps()?, words),
        Rule::Only(is_known) => only(steps()?, is_known),
        Rule::Capabilities => capabilities(steps()?, scene.profile)?,
        Rule::Confined => confined(steps()?)?,
        Rule::Namespaces => namespaces(steps()?, &scene.namespaces)?,
        Rule::OutOfProcesses => out_of_processes(steps()?, seen, scene),
        Rule::OutOfMemory => return out_of(steps(), &["ENOMEM"], "memory", &seen.ending),
        Rule::OutOfDisk => return out_of(steps(), &["ENOSPC", "EDQUOT", "EROFS", "EACCES"], "disk", &seen.ending),
        Rule::BoundedLog => return bounded_log(seen, scene),
        Rule::NothingLives => return nothing_lives(steps()?, seen),
        Rule::NothingFollowed => return nothing_followed(steps()?, seen),
        Rule::UploadRefused => return failed_with("upload_failed", &seen.ending),
        // A trap that was never set proves nothing.
        Rule::DownloadRefused(Bait::Page) if !seen.is_page_served => return None,
        Rule::DownloadRefused(_) => return failed_with("download_failed", &seen.ending),
    })
}

/// Returns the attempts of an attack; none when there were none, also when two lines claim to be its.
fn steps_of<'a>(probes: &'a [Probe], attack: &str) -> Option<&'a [Step]> {
    let mut of_attack = probes.iter().filter(|probe| probe.attack == attack);
    match (of_attack.next(), of_attack.next()) {
        (Some(probe), None) if !probe.steps.is_empty() => Some(&probe.steps),
        _ => None,
    }
}

fn refused(steps: &[Step], words: &[&str]) -> Judged {
    for step in steps {
        let got = match &step.got {
            Got::Refused(word) if words.contains(&word.as_str()) => continue,
            Got::Refused(word) => format!("let through to {word}"),
            Got::Done(what) => what.clone(),
            Got::Found(things) => format!("found {}", things.join(", ")),
        };
        return Err(format!("{}: {got}", step.tried));
    }
    Ok(told(steps))
}

fn nothing(steps: &[Step], words: &[&str]) -> Judged {
    let (looks, tries): (Vec<Step>, Vec<Step>) = steps
        .iter()
        .cloned()
        .partition(|step| matches!(step.got, Got::Found(_)));
    for step in &looks {
        if let Got::Found(things) = &step.got
            && !things.is_empty()
        {
            return Err(format!("{}: {}", step.tried, things.join(", ")));
        }
    }
    refused(&tries, words)?;
    Ok(told(steps))
}

fn only(steps: &[Step], is_known: fn(&str) -> bool) -> Judged {
    let mut count = 0;
    for step in steps {
        let Got::Found(things) = &step.got else {
            return Err(format!("{}: cannot be listed", step.tried));
        };
        if let Some(foreign) = things.iter().find(|thing| !is_known(thing)) {
            return Err(format!("{}: {foreign}", step.tried));
        }
        count += things.len();
    }
    // Every container has some: a list of nothing was not read.
    if count == 0 {
        return Err("nothing could be listed".to_owned());
    }
    Ok(format!("{count} of the container's own and no other"))
}

/// Returns what was found, as `key value` pairs.
fn pairs(steps: &[Step]) -> Option<Vec<(&str, &str)>> {
    let [Step {
        got: Got::Found(things),
        ..
    }] = steps
    else {
        return None;
    };
    things.iter().map(|thing| thing.split_once(' ')).collect()
}

fn capabilities(steps: &[Step], profile: Profile) -> Option<Judged> {
    let allowed = match profile {
        Profile::Live => LIVE_CAPABILITIES,
        Profile::Strict => 0,
    };
    let sets = pairs(steps)?;
    if sets.len() != 5 {
        return None;
    }
    let mut bounding = "";
    for (name, value) in sets {
        let bits = u64::from_str_radix(value, 16).ok()?;
        let foreign = bits & !allowed;
        if foreign != 0 {
            return Some(Err(format!("{name} has {foreign:#x} beyond the profile's {allowed:#x}")));
        }
        if name == "CapBnd" {
            bounding = value;
        }
    }
    Some(Ok(format!("CapBnd {bounding} within {allowed:#x}")))
}

fn confined(steps: &[Step]) -> Option<Judged> {
    let facts = pairs(steps)?;
    let fact = |name: &str| facts.iter().find_map(|(key, value)| (*key == name).then_some(*value));
    Some(match (fact("NoNewPrivs")?, fact("Seccomp")?) {
        ("1", "2") => Ok("NoNewPrivs 1, Seccomp 2 (filter)".to_owned()),
        (privileges, filter) => Err(format!("NoNewPrivs {privileges}, Seccomp {filter}")),
    })
}

/// Compares namespaces by kind. The user namespace is the executor's own unless the engine remaps users, and the
/// control group's is where the engine knows no other; both are told of by the host's checks.
fn namespaces(steps: &[Step], own: &[String]) -> Option<Judged> {
    const MUST_DIFFER: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
    let [Step {
        got: Got::Found(theirs),
        ..
    }] = steps
    else {
        return None;
    };
    for kind in MUST_DIFFER {
        let of_kind = |names: &'_ [String]| names.iter().find(|name| name.split(':').next() == Some(kind)).cloned();
        let (theirs, own) = (of_kind(theirs)?, of_kind(own)?);
        if theirs == own {
            return Some(Err(format!("{own} is the executor's own")));
        }
    }
    Some(Ok(format!("{} are the job's own", MUST_DIFFER.join(", "))))
}

fn out_of_processes(steps: &[Step], seen: &Seen, scene: &Scene) -> Judged {
    let told = refused(steps, &["EAGAIN"])?;
    let allowed = usize::try_from(scene.pids_max).unwrap_or(usize::MAX).saturating_add(PROCESSES_SLACK);
    match seen.processes_max {
        Some(count) if count > allowed => Err(format!("the host counted {count} processes of the job")),
        Some(count) => Ok(format!("{told}; the host counted {count} at most")),
        None => Ok(told),
    }
}

/// Judges an exhaustion that the kernel refuses or for which the job is stopped.
fn out_of(steps: Option<&[Step]>, words: &[&str], what: &str, ending: &Ending) -> Option<Judged> {
    match (steps, ending) {
        (Some(steps), _) => Some(refused(steps, words)),
        // It was killed before it could tell.
        (None, Ending::Failed { words, .. }) if words.contains(what) => Some(Ok(format!("the job was stopped: {words}"))),
        (None, Ending::Failed { .. } | Ending::Finished | Ending::HordeFailed(_) | Ending::None) => None,
    }
}

fn bounded_log(seen: &Seen, scene: &Scene) -> Option<Judged> {
    if seen.ending != Ending::Finished {
        return None;
    }
    let [report, folder, memory] = [
        seen.stdout_characters > REPORT_CHARACTERS_MAX,
        seen.folder_bytes_max > scene.log_bytes_max.saturating_add(LOG_SLACK_BYTES),
        seen.resident_growth > RESIDENT_GROWTH_MAX,
    ];
    let facts = format!(
        "{} characters reported, {} MiB on the disk, {} MiB more memory in the executor",
        seen.stdout_characters,
        seen.folder_bytes_max >> 20,
        seen.resident_growth >> 20,
    );
    Some(if report || folder || memory { Err(facts) } else { Ok(facts) })
}

fn nothing_lives(steps: &[Step], seen: &Seen) -> Option<Judged> {
    // A daemon that was not left behind proves nothing.
    if !steps.iter().all(|step| matches!(step.got, Got::Done(_))) {
        return None;
    }
    if seen.ending != Ending::Finished {
        return None;
    }
    Some(match (seen.processes_max, seen.processes_left, seen.containers_left) {
        (_, Some(left @ 1..), _) => Err(format!("{left} processes live after the report")),
        (_, _, left @ 1..) => Err(format!("{left} containers are there after the report")),
        (Some(most @ 2..), Some(0), 0) => Ok(format!("{most} processes before the report, none after it")),
        (_, _, 0) => Ok("the container is gone; the host's processes cannot be seen from here".to_owned()),
    })
}

fn nothing_followed(steps: &[Step], seen: &Seen) -> Option<Judged> {
    let planted = steps.iter().filter(|step| matches!(step.got, Got::Done(_))).count();
    if planted == 0 {
        return None;
    }
    match &seen.ending {
        Ending::Finished => Some(Ok(format!("{planted} planted, none followed, the job was reported"))),
        // Refused aloud is as good.
        Ending::Failed { reason, words, .. } if reason == "upload_failed" => {
            Some(Ok(format!("{planted} planted, refused: {words}")))
        }
        Ending::Failed { .. } | Ending::HordeFailed(_) | Ending::None => None,
    }
}

fn failed_with(wanted: &str, ending: &Ending) -> Option<Judged> {
    match ending {
        Ending::Failed { reason, words, .. } if reason == wanted => Some(Ok(words.clone())),
        Ending::Finished => Some(Err("the job was run and reported".to_owned())),
        Ending::Failed { .. } | Ending::HordeFailed(_) | Ending::None => None,
    }
}

fn neighbour(steps: &[Step], words: &[&str], scene: &Scene) -> Option<Judged> {
    let visitors = scene.visitors.as_ref()?;
    if let Some(visitor) = visitors.first() {
        return Some(Err(format!("another job was visited: {visitor}")));
    }
    Some(refused(steps, words).map(|told| format!("{told}; nobody came to the other job")))
}

/// Returns who came to the job that played the neighbour.
pub(super) fn visitors(probes: &[Probe]) -> Option<Vec<String>> {
    match steps_of(probes, BE_A_NEIGHBOUR)? {
        [
            Step {
                got: Got::Found(visitors),
                ..
            },
        ] => Some(visitors.clone()),
        _ => None,
    }
}

/// Sums up what attempts met.
fn told(steps: &[Step]) -> String {
    let word = |step: &Step| match &step.got {
        Got::Refused(word) => word.clone(),
        Got::Done(what) => what.clone(),
        Got::Found(things) if things.is_empty() => "nothing".to_owned(),
        Got::Found(things) => things.join(", "),
    };
    if let ([first, ..], true) = (steps, steps.len() > STEPS_SHOWN) {
        let mut words: Vec<String> = steps.iter().map(word).collect();
        words.sort();
        words.dedup();
        return format!("{} and {} more: {}", first.tried, steps.len() - 1, words.join(", "));
    }
    let parts: Vec<String> = steps.iter().map(|step| format!("{}: {}", step.tried, word(step))).collect();
    parts.join("; ")
}

fn nothing_heard(seen: &Seen) -> String {
    match &seen.ending {
        Ending::Finished => "the attacker did not say how it went".to_owned(),
        Ending::Failed {
            reason,
            exit_code,
            words,
        } => {
            let code = exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
            format!("its job failed ({reason}{code}): {words}")
        }
        Ending::HordeFailed(words) => format!("its job failed: {words}"),
        Ending::None => "its job was not reported".to_owned(),
    }
}

/// Makes one plain line of what may come from a job: no control characters, and not too long.
fn plain(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(EVIDENCE_CHARACTERS_MAX)
        .collect();
    if text.chars().count() > EVIDENCE_CHARACTERS_MAX {
        format!("{line}…")
    } else {
        line
    }
}
