//! From what was seen to a verdict; pure.
//!
//! The outside is believed before the inside: whoever got out would not say so. An attack of which nothing was heard
//! counts as not held.

use std::collections::BTreeMap;

use schemars::JsonSchema;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
        Rule::OutOfDisk => {
            return out_of(
                steps(),
                &["ENOSPC", "EDQUOT", "EROFS", "EACCES"],
                "disk",
                &seen.ending,
            );
        }
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
    let [
        Step {
            got: Got::Found(things),
            ..
        },
    ] = steps
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
            return Some(Err(format!(
                "{name} has {foreign:#x} beyond the profile's {allowed:#x}"
            )));
        }
        if name == "CapBnd" {
            bounding = value;
        }
    }
    Some(Ok(format!("CapBnd {bounding} within {allowed:#x}")))
}

fn confined(steps: &[Step]) -> Option<Judged> {
    let facts = pairs(steps)?;
    let fact = |name: &str| {
        facts
            .iter()
            .find_map(|(key, value)| (*key == name).then_some(*value))
    };
    Some(match (fact("NoNewPrivs")?, fact("Seccomp")?) {
        ("1", "2") => Ok("NoNewPrivs 1, Seccomp 2 (filter)".to_owned()),
        (privileges, filter) => Err(format!("NoNewPrivs {privileges}, Seccomp {filter}")),
    })
}

/// Compares namespaces by kind. The user namespace is the executor's own unless the engine remaps users, and the
/// control group's is where the engine knows no other; both are told of by the host's checks.
fn namespaces(steps: &[Step], own: &[String]) -> Option<Judged> {
    const MUST_DIFFER: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
    let [
        Step {
            got: Got::Found(theirs),
            ..
        },
    ] = steps
    else {
        return None;
    };
    for kind in MUST_DIFFER {
        let of_kind = |names: &'_ [String]| {
            names
                .iter()
                .find(|name| name.split(':').next() == Some(kind))
                .cloned()
        };
        let (theirs, own) = (of_kind(theirs)?, of_kind(own)?);
        if theirs == own {
            return Some(Err(format!("{own} is the executor's own")));
        }
    }
    Some(Ok(format!("{} are the job's own", MUST_DIFFER.join(", "))))
}

fn out_of_processes(steps: &[Step], seen: &Seen, scene: &Scene) -> Judged {
    let told = refused(steps, &["EAGAIN"])?;
    let allowed = usize::try_from(scene.pids_max)
        .unwrap_or(usize::MAX)
        .saturating_add(PROCESSES_SLACK);
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
        (None, Ending::Failed { words, .. }) if words.contains(what) => {
            Some(Ok(format!("the job was stopped: {words}")))
        }
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
    Some(if report || folder || memory {
        Err(facts)
    } else {
        Ok(facts)
    })
}

fn nothing_lives(steps: &[Step], seen: &Seen) -> Option<Judged> {
    // A daemon that was not left behind proves nothing.
    if !steps.iter().all(|step| matches!(step.got, Got::Done(_))) {
        return None;
    }
    if seen.ending != Ending::Finished {
        return None;
    }
    Some(
        match (seen.processes_max, seen.processes_left, seen.containers_left) {
            (_, Some(left @ 1..), _) => Err(format!("{left} processes live after the report")),
            (_, _, left @ 1..) => Err(format!("{left} containers are there after the report")),
            (Some(most @ 2..), Some(0), 0) => {
                Ok(format!("{most} processes before the report, none after it"))
            }
            (_, _, 0) => {
                Ok("the container is gone; the host's processes cannot be seen from here".to_owned())
            }
        },
    )
}

fn nothing_followed(steps: &[Step], seen: &Seen) -> Option<Judged> {
    let planted = steps
        .iter()
        .filter(|step| matches!(step.got, Got::Done(_)))
        .count();
    if planted == 0 {
        return None;
    }
    match &seen.ending {
        Ending::Finished => Some(Ok(format!(
            "{planted} planted, none followed, the job was reported"
        ))),
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
        return format!(
            "{} and {} more: {}",
            first.tried,
            steps.len() - 1,
            words.join(", ")
        );
    }
    let parts: Vec<String> = steps
        .iter()
        .map(|step| format!("{}: {}", step.tried, word(step)))
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::executor::attack::catalogue::find;

    fn refused_with(word: &str) -> Got {
        Got::Refused(word.to_owned())
    }

    fn found(things: &[&str]) -> Got {
        Got::Found(things.iter().map(|thing| (*thing).to_owned()).collect())
    }

    fn seen(attack: &str, got: &[Got]) -> Seen {
        let step = |got: &Got| Step {
            tried: "it".to_owned(),
            got: got.clone(),
        };
        Seen {
            ending: Ending::Finished,
            probes: vec![Probe {
                attack: attack.to_owned(),
                steps: got.iter().map(step).collect(),
            }],
            canary_is_whole: true,
            ..Seen::default()
        }
    }

    fn failed(reason: &str, words: &str) -> Ending {
        Ending::Failed {
            reason: reason.to_owned(),
            exit_code: Some(137),
            words: words.to_owned(),
        }
    }

    fn scene() -> Scene {
        let own = ["ipc:[1]", "mnt:[2]", "net:[3]", "pid:[4]", "uts:[5]", "user:[6]"];
        Scene {
            namespaces: own.map(str::to_owned).to_vec(),
            pids_max: 100,
            log_bytes_max: 1 << 20,
            visitors: Some(Vec::new()),
            ..Scene::default()
        }
    }

    fn verdict(attack: &str, seen: &Seen, scene: &Scene) -> Verdict {
        judge(find(attack).unwrap(), Some(seen), scene).verdict
    }

    #[test]
    fn what_an_attempt_met_decides() {
        use Verdict::{Broken, CouldNotRun, Held};
        let others = ["ipc:[9]", "mnt:[9]", "net:[9]", "pid:[9]", "uts:[9]", "user:[6]"];
        let shared = ["ipc:[9]", "mnt:[9]", "net:[3]", "pid:[9]", "uts:[9]", "user:[6]"];
        let sets = |bounding| {
            let bounding = format!("CapBnd {bounding}");
            let sets = ["CapInh 0", "CapPrm fb", "CapEff fb", &bounding, "CapAmb 0"];
            found(&sets)
        };
        let cases: Vec<(&str, Vec<Got>, Verdict)> = vec![
            ("mount", vec![refused_with("EPERM"), refused_with("ENOSYS")], Held),
            (
                "mount",
                vec![refused_with("EPERM"), refused_with("EINVAL")],
                Broken,
            ),
            (
                "mount",
                vec![refused_with("EPERM"), Got::Done("mounted".to_owned())],
                Broken,
            ),
            ("mount", Vec::new(), CouldNotRun),
            ("bpf", vec![refused_with("EFAULT")], Broken),
            ("tcp-internet", vec![refused_with("ENETUNREACH")], Held),
            ("tcp-internet", vec![refused_with("ECONNREFUSED")], Broken),
            ("host-loopback", vec![refused_with("ECONNREFUSED")], Held),
            ("routes", vec![found(&[])], Held),
            ("routes", vec![found(&["eth0 to 00000000"])], Broken),
            (
                "abstract-sockets",
                vec![refused_with("ECONNREFUSED"), found(&["@x"])],
                Broken,
            ),
            ("devices", vec![found(&["null", "nvidia0"])], Held),
            ("devices", vec![found(&["null", "sda"])], Broken),
            ("devices", vec![found(&[])], Broken),
            ("capabilities", vec![sets("00fb")], Held),
            ("capabilities", vec![sets("a80425fb")], Broken),
            ("capabilities", vec![found(&["CapBnd 0"])], CouldNotRun),
            (
                "no-new-privileges",
                vec![found(&["NoNewPrivs 1", "Seccomp 2"])],
                Held,
            ),
            (
                "no-new-privileges",
                vec![found(&["NoNewPrivs 0", "Seccomp 2"])],
                Broken,
            ),
            (
                "no-new-privileges",
                vec![found(&["NoNewPrivs 1", "Seccomp 0"])],
                Broken,
            ),
            ("namespaces", vec![found(&others)], Held),
            ("namespaces", vec![found(&shared)], Broken),
            ("namespaces", vec![found(&["net:[9]"])], CouldNotRun),
            ("descriptors", vec![refused_with("EMFILE")], Held),
            (
                "descriptors",
                vec![Got::Done("no limit was met".to_owned())],
                Broken,
            ),
            ("neighbour", vec![refused_with("ECONNREFUSED")], Held),
            ("leftover-daemon", vec![refused_with("EAGAIN")], CouldNotRun),
        ];
        for (attack, got, wanted) in cases {
            assert_eq!(
                verdict(attack, &seen(attack, &got), &scene()),
                wanted,
                "{attack} {got:?}"
            );
        }
    }

    #[test]
    fn the_outside_is_believed_before_the_inside() {
        let innocent = || seen("host-addresses", &[refused_with("ENETUNREACH")]);
        assert_eq!(verdict("host-addresses", &innocent(), &scene()), Verdict::Held);
        let mut heard = scene();
        heard
            .heard
            .insert("host-addresses".to_owned(), vec!["tcp".to_owned()]);
        assert_eq!(verdict("host-addresses", &innocent(), &heard), Verdict::Broken);
        for spoil in [
            |seen: &mut Seen| seen.canary_is_whole = false,
            |seen: &mut Seen| seen.leaks.push("in an upload".to_owned()),
            |seen: &mut Seen| seen.strays.push("/tmp/x".to_owned()),
        ] {
            let mut spoiled = innocent();
            spoil(&mut spoiled);
            assert_eq!(verdict("host-addresses", &spoiled, &scene()), Verdict::Broken);
        }
        let mut visited = scene();
        visited.visitors = Some(vec!["tcp".to_owned()]);
        let quiet = seen("neighbour", &[refused_with("ECONNREFUSED")]);
        assert_eq!(verdict("neighbour", &quiet, &visited), Verdict::Broken);
        visited.visitors = None;
        assert_eq!(verdict("neighbour", &quiet, &visited), Verdict::CouldNotRun);
    }

    #[test]
    fn an_exhaustion_is_held_by_a_refusal_or_by_the_end_of_the_job() {
        let bomb = seen("fork-bomb", &[refused_with("EAGAIN")]);
        let counted = |processes_max| Seen {
            processes_max,
            ..bomb.clone()
        };
        assert_eq!(verdict("fork-bomb", &counted(None), &scene()), Verdict::Held);
        assert_eq!(verdict("fork-bomb", &counted(Some(100)), &scene()), Verdict::Held);
        assert_eq!(
            verdict("fork-bomb", &counted(Some(200)), &scene()),
            Verdict::Broken
        );
        let silent = |ending| Seen {
            ending,
            canary_is_whole: true,
            ..Seen::default()
        };
        let killed = silent(failed(
            "nonzero_return_code",
            "the job ran out of memory: limit 1 MiB",
        ));
        assert_eq!(verdict("memory", &killed, &scene()), Verdict::Held);
        let crashed = silent(failed("nonzero_return_code", "exit code 139"));
        assert_eq!(verdict("memory", &crashed, &scene()), Verdict::CouldNotRun);
        assert_eq!(
            verdict("memory", &silent(Ending::None), &scene()),
            Verdict::CouldNotRun
        );
        let rich = seen("memory", &[Got::Done("no limit was met".to_owned())]);
        assert_eq!(verdict("memory", &rich, &scene()), Verdict::Broken);
        let full = silent(failed(
            "nonzero_return_code",
            "the job used more disk than its limit",
        ));
        assert_eq!(verdict("disk", &full, &scene()), Verdict::Held);
        assert_eq!(
            verdict("disk", &seen("disk", &[refused_with("ENOSPC")]), &scene()),
            Verdict::Held
        );
    }

    #[test]
    fn a_trap_is_held_only_by_the_refusal_that_is_meant() {
        let trapped = |ending, is_page_served| Seen {
            ending,
            is_page_served,
            canary_is_whole: true,
            ..Seen::default()
        };
        let refused = || failed("download_failed", "no");
        for (attack, ending, is_page_served, wanted) in [
            ("zip-slip", refused(), true, Verdict::Held),
            ("zip-slip", refused(), false, Verdict::CouldNotRun),
            ("zip-slip", Ending::Finished, true, Verdict::Broken),
            ("zip-slip", failed("timeout", "late"), true, Verdict::CouldNotRun),
            ("local-file", refused(), false, Verdict::Held),
            (
                "single-file-link",
                failed("upload_failed", "no"),
                false,
                Verdict::Held,
            ),
            ("single-file-link", Ending::Finished, false, Verdict::Broken),
            (
                "single-file-link",
                Ending::HordeFailed("x".to_owned()),
                false,
                Verdict::CouldNotRun,
            ),
        ] {
            let seen = trapped(ending, is_page_served);
            assert_eq!(verdict(attack, &seen, &scene()), wanted, "{attack} {seen:?}");
        }
    }

    #[test]
    fn nothing_of_a_job_may_live_after_its_report_nor_grow_without_bound() {
        let left = || seen("leftover-daemon", &[Got::Done("it was left behind".to_owned())]);
        let case = |processes_max, processes_left, containers_left| Seen {
            processes_max,
            processes_left,
            containers_left,
            ..left()
        };
        for (seen, wanted) in [
            (case(Some(2), Some(0), 0), Verdict::Held),
            (case(None, None, 0), Verdict::Held),
            (case(Some(2), Some(1), 0), Verdict::Broken),
            (case(Some(2), Some(0), 1), Verdict::Broken),
        ] {
            assert_eq!(verdict("leftover-daemon", &seen, &scene()), wanted, "{seen:?}");
        }
        let flood = |characters, bytes, growth| Seen {
            stdout_characters: characters,
            folder_bytes_max: bytes,
            resident_growth: growth,
            ..seen("log-flood", &[])
        };
        for (seen, wanted) in [
            (flood(1_000_005, 1 << 20, 1 << 20), Verdict::Held),
            (flood(1_000_006, 0, 0), Verdict::Broken),
            (flood(0, 1 << 30, 0), Verdict::Broken),
            (flood(0, 0, 1 << 30), Verdict::Broken),
        ] {
            assert_eq!(verdict("log-flood", &seen, &scene()), wanted, "{seen:?}");
        }
    }

    #[test]
    fn two_lines_that_claim_one_attack_are_as_good_as_none() {
        let mut twice = seen("bpf", &[refused_with("EPERM")]);
        twice.probes.extend(twice.probes.clone());
        assert_eq!(verdict("bpf", &twice, &scene()), Verdict::CouldNotRun);
        assert_eq!(
            judge(find("bpf").unwrap(), None, &scene()).verdict,
            Verdict::CouldNotRun
        );
    }

    #[test]
    fn evidence_is_one_plain_line() {
        let long = format!("a\u{1b}[31m\n{}", "x".repeat(1000));
        let line = plain(&long);
        assert!(line.starts_with("a [31m x") && line.chars().count() == EVIDENCE_CHARACTERS_MAX + 1);
    }
}
