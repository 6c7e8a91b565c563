//! `horde doctor`: what keeps the roles of this machine from working, and what helps.

mod look;
mod patient;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;

use self::look::Outcome as Made;
use self::patient::Patient;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail as _};
use super::findings::{self, FindingRow};
use super::help::nearest;
use super::table::{Table, stamp};
use crate::core::doctor::catalogue::{self, CHECKS, Check, Who};
use crate::core::doctor::mend::Mend;
use crate::core::host::checks::{RELEASE_AGENT, Status};
use crate::core::host::floors::Floors;
use crate::core::store::places::CHECKS_FILE;

/// How long checks are made in silence.
const SILENCE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  horde doctor                           Look at all roles that keep data here or are configured here
  horde doctor miner                     Look at the miner, and at what runs its jobs
  horde doctor --only key-file,listen
  horde doctor --fix                     Make missing directories, take private files from others' eyes
  horde doctor --explain clock           Tell how a check is made, and what helps
  horde doctor client --facilitator https://facilitator.example

Exit codes: 0 when no check failed, 10 when one did.
The results of a whole look are kept in each role's directory, where `horde dashboard --view checks` shows them.";

/// `horde doctor …`
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Look at these roles only [default: those that are here, else a client]
    #[arg(value_enum, value_name = "ROLE")]
    roles: Vec<RoleArg>,
    /// Make only these checks
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these checks out
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    skip: Vec<String>,
    /// Put right what is safe to put right, say what was changed, and look again
    #[arg(long)]
    fix: bool,
    /// Ask this facilitator, as a client
    #[arg(long, value_name = "URL")]
    facilitator: Option<String>,
    /// Write the results to this file as well, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Tell what a check requires, how it is made and what helps
    #[arg(long, value_name = "CHECK", conflicts_with_all = ["only", "skip", "fix", "junit", "roles", "list"])]
    explain: Option<String>,
    /// List all checks
    #[arg(long, conflicts_with_all = ["only", "skip", "fix", "junit", "roles"])]
    list: bool,
}

/// A role, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Client,
    Facilitator,
    Validator,
    Miner,
    Executor,
}

impl From<RoleArg> for Who {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Client => Self::Client,
            RoleArg::Facilitator => Self::Facilitator,
            RoleArg::Validator => Self::Validator,
            RoleArg::Miner => Self::Miner,
            RoleArg::Executor => Self::Executor,
        }
    }
}

/// What the doctor found.
#[derive(Debug, Serialize, JsonSchema)]
struct Report {
    /// When, RFC 3339 in UTC.
    at: String,
    /// What `--fix` has changed.
    changed: Vec<String>,
    /// What was found, role by role.
    checks: Vec<FindingRow>,
}

/// A check that can be made.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckRow {
    /// Its name.
    check: String,
    /// The roles that it concerns; `machine` for all.
    roles: Vec<&'static str>,
    /// What must be.
    required: String,
    /// What it is good for.
    purpose: String,
    /// How it is made.
    how: String,
    /// What helps when it fails.
    remedy: String,
}

/// The checks that there are, or the one that is explained.
#[derive(Debug, Serialize, JsonSchema)]
struct Known<'a> {
    /// In the order in which they are told.
    checks: Vec<&'a CheckRow>,
}

/// What is printed as data: what was found, or with `--list` and `--explain` what could be.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it stands for its schema")]
enum Printed<'a> {
    Found(Report),
    Known(Known<'a>),
}

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "doctor",
    Prints::Under("checks", of::<Printed<'_>>),
    &[ExitCode::CheckFailed],
)];

impl DoctorArgs {
    /// Runs the command; ends with 10 when a check failed.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let all = all_checks()?;
        if let Some(name) = &self.explain {
            return explain(context, &all, name);
        }
        if self.list {
            return list(context, &all);
        }
        for name in self.only.iter().chain(&self.skip) {
            find(&all, name)?;
        }
        let wanted: Vec<Who> = self.roles.iter().copied().map(Who::from).collect();
        let mut changed = Vec::new();
        let mut patients = patient::find(context, &wanted);
        let mut made = self.look(context, &patients).await;
        if self.fix {
            changed = mend(context, self.mends(&made)).await?;
            if !changed.is_empty() {
                patients = patient::find(context, &wanted);
                made = self.look(context, &patients).await;
            }
        }
        let checks = self.rows(made);
        if checks.is_empty() {
            return Err(CmdError::new(ExitCode::Usage, "no check is left to make")
                .hint("`horde doctor --list` names all of them and whom they concern"));
        }
        let report = Report {
            at: stamp(context.clock.now()),
            changed,
            checks,
        };
        self.keep(context, &report, &patients);
        if let Some(path) = &self.junit {
            std::fs::write(path, findings::junit("horde doctor", &report.checks))
                .or_fail(ExitCode::Failed, format!("could not write {}", path.display()))?;
        }
        if context.wants_data() {
            context.print_data(&report)?;
        } else {
            for line in findings::lines(&report.checks, !context.speaks_utf8()) {
                context.line(line)?;
            }
        }
        end(&report.checks)
    }

    /// Makes the checks, all at once.
    async fn look(&self, context: &Context, patients: &[Patient]) -> Vec<Made> {
        let facilitator = self.facilitator.as_deref();
        let mut groups = vec![look::of_machine()];
        for patient in patients {
            groups.extend(look::of_patient(context, patient, facilitator));
        }
        groups.retain(|group| {
            group.names.iter().any(|name| self.wants(name)) || (group.has_versions() && self.wants_versions())
        });
        let slow = tokio::time::sleep(SILENCE);
        let names: BTreeSet<&str> = groups.iter().map(|group| group.role).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let words = format!("looking at {} …", names.join(", "));
        let work = join_all(groups.into_iter().map(look::Group::make));
        tokio::pin!(work, slow);
        tokio::select! {
            made = &mut work => made,
            () = &mut slow => {
                context.say(words);
                work.await
            }
        }
    }

    /// Tells whether a check is to be made.
    fn wants(&self, name: &str) -> bool {
        let is_in = |names: &[String]| names.iter().any(|other| other == name);
        (self.only.is_empty() || is_in(&self.only)) && !is_in(&self.skip)
    }

    /// Tells whether any check of a program's version is to be made.
    fn wants_versions(&self) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| catalogue::find(name).is_none())
    }

    /// Returns what would put wanted checks right, each thing once.
    fn mends(&self, made: &[Made]) -> BTreeSet<Mend> {
        let found = made.iter().flat_map(|made| &made.found);
        let wanted = found.filter(|judged| self.wants(&judged.finding.check));
        wanted.flat_map(|judged| judged.mends.iter().cloned()).collect()
    }

    /// Returns the wanted rows: role by role, in the order of the catalogue.
    fn rows(&self, made: Vec<Made>) -> Vec<FindingRow> {
        let mut roles: Vec<String> = Vec::new();
        let mut rows: Vec<(usize, usize, FindingRow)> = Vec::new();
        for Made { role, found, took } in made {
            let place = roles.iter().position(|known| *known == role).unwrap_or_else(|| {
                roles.push(role.clone());
                roles.len() - 1
            });
            for judged in found {
                if self.wants(&judged.finding.check) {
                    let row = FindingRow {
                        role: Some(role.clone()),
                        duration_ms: u64::try_from(took.as_millis()).ok(),
                        ..FindingRow::from(&judged.finding)
                    };
                    rows.push((place, catalogue::place(&row.finding.check), row));
                }
            }
        }
        // Sorting is stable: versions stay in the order of their table.
        rows.sort_by_key(|(role, check, _)| (*role, *check));
        rows.into_iter().map(|(_, _, row)| row).collect()
    }

    /// Keeps the results of a whole look where the dashboard finds them.
    fn keep(&self, context: &Context, report: &Report, patients: &[Patient]) {
        if !self.only.is_empty() || !self.skip.is_empty() {
            return;
        }
        let mut of_roles: BTreeSet<&str> = BTreeSet::new();
        for (name, dir) in look::dirs(patients) {
            of_roles.insert(name);
            keep_in(dir, report, |role| role == name);
        }
        let Some(root) = patient::root(context).filter(|_| !of_roles.is_empty()) else {
            return;
        };
        let is_a_roles = look::dirs(patients).any(|(_, dir)| *dir == root);
        if !is_a_roles {
            keep_in(&root, report, |role| !of_roles.contains(role));
        }
    }
}

/// Writes some of the results into a directory of this user's; what cannot be kept was at least told.
fn keep_in(dir: &Path, report: &Report, is_its: impl Fn(&str) -> bool) {
    let checks = report
        .checks
        .iter()
        .filter(|row| row.role.as_deref().is_some_and(&is_its));
    let kept = Report {
        at: report.at.clone(),
        changed: Vec::new(),
        checks: checks.cloned().collect(),
    };
    if let Err(error) = write_kept(dir, &kept) {
        tracing::debug!(dir = %dir.display(), %error, "the results are not kept");
    }
}

fn write_kept(dir: &Path, kept: &Report) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    // A file of root's in another user's directory would be in that user's way.
    if std::fs::metadata(dir)?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("the directory is another user's"));
    }
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(serde_json::to_string(kept)?.as_bytes())?;
    file.persist(dir.join(CHECKS_FILE))
        .map(drop)
        .map_err(|error| error.error)
}

/// Puts right what is safe to put right; returns what was changed.
async fn mend(context: &Context, mends: BTreeSet<Mend>) -> Result<Vec<String>, CmdError> {
    let carry_out = move || {
        let mends = mends.into_iter();
        mends.map(|mend| (mend.carry_out(), mend)).collect::<Vec<_>>()
    };
    let done = tokio::task::spawn_blocking(carry_out)
        .await
        .or_fail(ExitCode::Bug, "could not put anything right")?;
    let mut changed = Vec::new();
    for (outcome, mend) in done {
        match outcome {
            Ok(()) => {
                context.say(&mend);
                changed.push(mend.to_string());
            }
            Err(error) => context.say(format_args!("could not do this: {mend}: {error}")),
        }
    }
    if changed.is_empty() {
        context.say("nothing to put right that is safe to put right");
    }
    Ok(changed)
}

/// Ends as it must.
fn end(rows: &[FindingRow]) -> Result<(), CmdError> {
    let failed = rows.iter().filter(|row| row.finding.status == Status::Failed);
    let failed: Vec<String> = failed
        .map(|row| {
            format!(
                "{} of {}",
                row.finding.check,
                row.role.as_deref().unwrap_or_default()
            )
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let error = CmdError::new(
        ExitCode::CheckFailed,
        format!("not as it must be: {}", failed.join(", ")),
    );
    Err(error.hint("the remedies are above; `horde doctor --explain CHECK` tells more"))
}

/// Returns all checks: the catalogue, and the versions of programs.
fn all_checks() -> Result<Vec<CheckRow>, CmdError> {
    let floors = Floors::built_in().or_fail(ExitCode::Bug, "could not read the table of versions")?;
    let of_catalogue = |check: &Check| CheckRow {
        check: check.name.to_owned(),
        roles: check.of.iter().map(|who| who.word()).collect(),
        required: check.required.to_owned(),
        purpose: check.purpose.to_owned(),
        how: check.how.to_owned(),
        remedy: check.remedy.to_owned(),
    };
    let mut all: Vec<CheckRow> = CHECKS.iter().map(of_catalogue).collect();
    all.push(CheckRow {
        check: RELEASE_AGENT.to_owned(),
        roles: vec![Who::Executor.word()],
        required: "one of: a fixed kernel, seccomp, AppArmor, SELinux, no unprivileged user namespaces"
            .to_owned(),
        purpose: "a job could have the host's root run a program of its choice (cgroup release agent)"
            .to_owned(),
        how: "the kernel's version and switches, and the engine's security options".to_owned(),
        remedy: "update the kernel, or switch Docker's seccomp profile on".to_owned(),
    });
    all.extend(floors.list.iter().map(|floor| CheckRow {
        check: floor.id.clone(),
        roles: vec![Who::Executor.word()],
        required: floor.required(),
        purpose: floor.purpose.clone(),
        how: format!(
            "the version of {} that the engine or the system tells",
            floor.component.as_str()
        ),
        remedy: floor.remedy.clone(),
    }));
    Ok(all)
}

fn find<'a>(all: &'a [CheckRow], name: &str) -> Result<&'a CheckRow, CmdError> {
    all.iter().find(|row| row.check == name).ok_or_else(|| {
        let error = CmdError::new(ExitCode::Usage, format!("there is no check {name:?}"));
        match nearest(name, all.iter().map(|row| row.check.as_str())) {
            Some(near) => error.hint(format!(
                "did you mean {near}? `horde doctor --list` names all of them"
            )),
            None => error.hint("`horde doctor --list` names all of them"),
        }
    })
}

fn explain(context: &Context, all: &[CheckRow], name: &str) -> Result<(), CmdError> {
    let row = find(all, name)?;
    if context.wants_data() {
        return context.print_data(&Known { checks: vec![row] });
    }
    for (name, text) in [
        ("check", row.check.as_str()),
        ("roles", &row.roles.join(", ")),
        ("required", &row.required),
        ("purpose", &row.purpose),
        ("how", &row.how),
        ("remedy", &row.remedy),
    ] {
        context.line(format_args!("{name:<8}  {text}"))?;
    }
    Ok(())
}

fn list(context: &Context, all: &[CheckRow]) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(&Known {
            checks: all.iter().collect(),
        });
    }
    let mut table = Table::new(["CHECK", "ROLES", "REQUIRED"]);
    for row in all {
        table.add([row.check.clone(), row.roles.join(","), row.required.clone()]);
    }
    table.print(context)
}
