//! `horde status`: what runs here, how jobs went, and what to look at, on one screen.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail as _};
use super::table::{NOTHING, Table, printable, stamp};
use crate::core::config::Scope;
use crate::core::doctor::facts::{Room, running_for};
use crate::core::store::Holder;
use crate::core::store::glance::Outcomes;
use crate::core::tasks::Tasks;
use crate::tui::roles::{self, Alert, ChainState, Standing};
use crate::tui::source::Source;

/// Pause between two looks, unless another is asked for.
const PAUSE: &str = "2";

/// Longest pause between two looks, in seconds: an hour.
const PAUSE_MAX: u64 = 3600;

const EXAMPLES: &str = "\
Examples:
  horde status                           What runs here
  horde status miner --watch             Look again every 2 s, until Ctrl-C
  horde status --watch 10 --json         A document every 10 s
  horde status --json | jq -r '.alerts[]'

Exit codes: 0 when all is well, 3 when no role keeps data here, 10 when something does not work: a database cannot be
read, a role is stopped with open jobs, or jobs are stuck. What failed when `horde doctor` looked last is a warning.";

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "status",
    Prints::Under("roles", of::<Report>),
    &[ExitCode::NotFound, ExitCode::CheckFailed],
)];

/// `horde status …`
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Tell of these only: a role such as miner, or the name of its directory such as miner-1 [default: all]
    #[arg(value_name = "ROLE")]
    roles: Vec<String>,
    /// Look again every so many seconds, until Ctrl-C
    #[arg(
        long,
        short,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = PAUSE,
        value_parser = clap::value_parser!(u64).range(1..=PAUSE_MAX)
    )]
    watch: Option<u64>,
}

/// What runs here.
#[derive(Debug, Serialize, JsonSchema)]
struct Report {
    /// When, RFC 3339 in UTC.
    at: String,
    /// The version of this program.
    version: &'static str,
    /// The data directory.
    directory: PathBuf,
    /// The chain that the roles share; none if they have begun none.
    chain: Option<ChainRow>,
    /// The roles, in the order of a job's road.
    roles: Vec<RoleRow>,
    /// What to look at.
    alerts: Vec<AlertRow>,
}

/// A chain.
#[derive(Debug, Serialize, JsonSchema)]
struct ChainRow {
    /// Which network it is.
    network: &'static str,
    /// Its newest block.
    block: i64,
    /// How old that is.
    age_seconds: f64,
    /// The subnets in it.
    subnets: Vec<SubnetRow>,
}

/// A subnet.
#[derive(Debug, Serialize, JsonSchema)]
struct SubnetRow {
    /// Its number.
    netuid: u16,
    /// How many blocks ago weights were set; none if they never were.
    weights_age_blocks: Option<i64>,
    /// How long ago that was.
    weights_age_seconds: Option<f64>,
}

/// A role.
#[derive(Debug, Serialize, JsonSchema)]
struct RoleRow {
    /// The name of its directory, or the role's word.
    name: String,
    /// The role's word.
    role: &'static str,
    /// Whether it runs: `running`, `draining`, `stopped`, `unreadable` or `unknown`.
    state: StateWord,
    /// Its process.
    pid: Option<u32>,
    /// For how long that runs.
    uptime_seconds: Option<u64>,
    /// Jobs that have not ended.
    open_jobs: i64,
    /// How jobs of the last hour went.
    hour: OutcomesRow,
    /// How jobs of the last day went.
    day: OutcomesRow,
    /// Executors that are taken; of miners.
    executors_busy: Option<i64>,
    /// Executors that there are; of miners.
    executors_total: Option<i64>,
    /// Reports or outcomes that a peer has not taken.
    owed: i64,
    /// Validators that were heard within 2 minutes; of facilitators.
    peers: Option<u64>,
    /// Bytes of the database and of its log.
    database_bytes: u64,
    /// When they were written last, RFC 3339 in UTC.
    written_at: Option<String>,
    /// Bytes that are free where they lie.
    disk_free_bytes: Option<u64>,
    /// What the last `horde doctor` found of its clock.
    clock: Option<String>,
    /// Its data directory.
    directory: PathBuf,
}

/// Whether a role runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum StateWord {
    /// It runs.
    Running,
    /// It runs, and takes no new jobs.
    Draining,
    /// It does not run.
    Stopped,
    /// Its database cannot be read.
    Unreadable,
    /// This system does not tell.
    Unknown,
}

/// How jobs went.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
struct OutcomesRow {
    /// With results.
    good: u64,
    /// Without.
    bad: u64,
    /// Declined.
    declined: u64,
    /// Not ended.
    open: u64,
    /// Whether there are more than were counted.
    is_more: bool,
}

/// Something to look at.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct AlertRow {
    /// `bad` if something does not work, `warning` if something needs a look.
    level: Level,
    /// What, and what helps.
    message: String,
}

/// How grave something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// Something does not work.
    Bad,
    /// Something needs a look.
    Warning,
}

impl StatusArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.settings(Scope::Tool, Vec::new())?;
        let dir = settings.dir()?.to_owned();
        let Some(seconds) = self.watch else {
            let report = self.look(context, &dir).await?;
            print(context, &report)?;
            return end(&report);
        };
        let pause = Duration::from_secs(seconds);
        let tasks = Tasks::new();
        let received = context.watch(&tasks)?;
        let mut screen = Screen::new(context);
        loop {
            let report = tokio::select! {
                biased;
                () = tasks.stopped() => break,
                report = self.look(context, &dir) => report?,
            };
            screen.show(&report)?;
            tokio::select! {
                biased;
                () = tasks.stopped() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        Err(CmdError::quiet(ExitCode::Passed(
            received.exit_code().unwrap_or(130),
        )))
    }

    async fn look(&self, context: &Context, dir: &Path) -> Result<Report, CmdError> {
        let (wanted, dir, clock) = (self.roles.clone(), dir.to_owned(), context.clock.clone());
        tokio::task::spawn_blocking(move || {
            let mut source = Source::of(&dir);
            source.clock = clock;
            report(&source, &wanted)
        })
        .await
        .or_fail(ExitCode::Bug, "could not look at the roles")?
    }
}

/// Reads everything; blocks.
fn report(source: &Source, wanted: &[String]) -> Result<Report, CmdError> {
    let is_wanted = |name: &str, role: &str| wanted.iter().any(|word| word == name || word == role);
    let places = source.places.iter();
    let places = places.filter(|place| wanted.is_empty() || is_wanted(&place.name, place.role.word()));
    let now = source.clock.now();
    let standings: Vec<Standing> = places.map(|place| roles::standing(place, now)).collect();
    if standings.is_empty() {
        return Err(nothing(source));
    }
    let mut alerts: Vec<Alert> = roles::shared(source).into_iter().collect();
    let chain = roles::chain(source, now).unwrap_or_else(|error| {
        alerts.push(Alert::bad(error.to_string()));
        None
    });
    alerts.extend(
        standings
            .iter()
            .flat_map(|standing| standing.state.alerts.clone()),
    );
    Ok(Report {
        at: stamp(now),
        version: env!("CARGO_PKG_VERSION"),
        directory: source.dir.clone(),
        chain: chain.map(ChainRow::from),
        roles: standings.into_iter().map(RoleRow::from).collect(),
        alerts: alerts.into_iter().map(AlertRow::from).collect(),
    })
}

/// Says that there is nothing to tell of, and what would change that.
fn nothing(source: &Source) -> CmdError {
    let dir = source.dir.display();
    if source.places.is_empty() {
        return CmdError::new(ExitCode::NotFound, format!("no role keeps data in {dir}"))
            .hint("`horde up` starts a whole network on this machine, `horde init` sets a role up")
            .hint("`--dir` names the directory that a role was started with");
    }
    let names: Vec<&str> = source.places.iter().map(|place| place.name.as_str()).collect();
    CmdError::new(ExitCode::NotFound, format!("no such role keeps data in {dir}"))
        .hint(format!("there are {}", names.join(", ")))
}

/// Ends as it must: 10 when something does not work.
fn end(report: &Report) -> Result<(), CmdError> {
    let bad = report.alerts.iter().filter(|alert| alert.level == Level::Bad);
    match bad.count() {
        0 => Ok(()),
        1 => Err(CmdError::new(
            ExitCode::CheckFailed,
            "something does not work; it is named above",
        )),
        many => Err(CmdError::new(
            ExitCode::CheckFailed,
            format!("{many} things do not work; they are named above"),
        )),
    }
    .map_err(|error| error.hint("`horde doctor` looks for causes, `horde dashboard` shows more"))
}

fn print(context: &Context, report: &Report) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(report);
    }
    lines(report).iter().try_for_each(|line| context.line(line))
}

/// Shows one report after the other: in place on a terminal, one below the other elsewhere.
struct Screen<'a> {
    context: &'a Context,
    is_terminal: bool,
    /// Lines of the report that is shown.
    shown: usize,
}

impl<'a> Screen<'a> {
    fn new(context: &'a Context) -> Self {
        let is_dumb = context.environment.get("TERM") == Some("dumb");
        Self {
            context,
            is_terminal: io::stdout().is_terminal() && !is_dumb,
            shown: 0,
        }
    }

    fn show(&mut self, report: &Report) -> Result<(), CmdError> {
        if self.context.wants_data() {
            return self.context.print_data(report);
        }
        let lines = lines(report);
        if !self.is_terminal {
            if self.shown > 0 {
                self.context.line("")?;
            }
            self.shown = lines.len();
            return lines.iter().try_for_each(|line| self.context.line(line));
        }
        let text = redrawn(&lines, self.shown);
        self.shown = lines.len();
        self.context.bytes(text.as_bytes())
    }
}

/// Returns what puts lines in the place of those that are shown, without clearing the screen.
fn redrawn(lines: &[String], shown: usize) -> String {
    let mut text = if shown > 0 {
        format!("\u{1b}[{shown}A\r")
    } else {
        String::new()
    };
    for line in lines {
        text.extend([line, "\u{1b}[K\n"]);
    }
    text.push_str("\u{1b}[J");
    text
}

/// Returns a report as people read it.
fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "directory  {}",
        printable(&report.directory.display().to_string())
    )];
    if let Some(chain) = &report.chain {
        lines.push(format!(
            "chain      block {}, {} old (a {} chain)",
            chain.block,
            span(chain.age_seconds),
            chain.network
        ));
        for subnet in &chain.subnets {
            let weights = match (subnet.weights_age_blocks, subnet.weights_age_seconds) {
                (Some(blocks), Some(seconds)) => format!("set {blocks} blocks ago ({})", span(seconds)),
                _ => "never set".to_owned(),
            };
            lines.push(format!("weights    {weights} in subnet {}", subnet.netuid));
        }
    }
    lines.push(format!("horde      {}", report.version));
    lines.push(String::new());
    let mut table = Table::new([
        "ROLE",
        "STATE",
        "UP",
        "OPEN",
        "HOUR",
        "DAY",
        "EXECUTORS",
        "OWED",
        "PEERS",
        "SIZE",
        "FREE",
    ]);
    for role in &report.roles {
        table.add(cells(role));
    }
    lines.extend(table.lines());
    let clocks = report
        .roles
        .iter()
        .filter_map(|role| Some((&role.name, role.clock.as_ref()?)));
    let clocks: Vec<String> = clocks
        .map(|(name, clock)| format!("clock      {}: {}", printable(name), printable(clock)))
        .collect();
    if !clocks.is_empty() {
        lines.push(String::new());
        lines.extend(clocks);
    }
    if !report.alerts.is_empty() {
        lines.push(String::new());
    }
    for alert in &report.alerts {
        let word = match alert.level {
            Level::Bad => "BAD",
            Level::Warning => "warning",
        };
        lines.push(format!("{word:<9}  {}", printable(&alert.message)));
    }
    lines
}

fn cells(role: &RoleRow) -> [String; 11] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let word = match role.state {
        StateWord::Running => "running",
        StateWord::Draining => "draining",
        StateWord::Stopped => "stopped",
        StateWord::Unreadable => "unreadable",
        StateWord::Unknown => "unknown",
    };
    let state = match role.pid {
        Some(pid) => format!("{word} ({pid})"),
        None => word.to_owned(),
    };
    #[expect(clippy::cast_precision_loss, reason = "no process runs for that long")]
    let up = role.uptime_seconds.map(|seconds| span(seconds as f64));
    let executors = role.executors_busy.zip(role.executors_total);
    [
        printable(&role.name),
        state,
        or_nothing(up),
        role.open_jobs.to_string(),
        outcomes(role.hour),
        outcomes(role.day),
        or_nothing(executors.map(|(busy, total)| format!("{busy}/{total}"))),
        role.owed.to_string(),
        or_nothing(role.peers.map(|peers| peers.to_string())),
        bytes(role.database_bytes),
        or_nothing(role.disk_free_bytes.map(bytes)),
    ]
}

/// Returns how jobs went in a few words.
fn outcomes(row: OutcomesRow) -> String {
    let mut words: Vec<String> = [
        (row.good, "good"),
        (row.bad, "bad"),
        (row.declined, "declined"),
        (row.open, "open"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    if words.is_empty() {
        return NOTHING.to_owned();
    }
    if row.is_more {
        words.push("and more".to_owned());
    }
    words.join(" ")
}

/// Returns a span in two units at most.
fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).map_or(u64::MAX, |span| span.as_secs());
    let (days, hours, minutes) = (whole / 86_400, whole / 3600, whole / 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", whole % 60),
        (0, hours, minutes) => format!("{hours}h{}m", minutes % 60),
        (days, hours, _) => format!("{days}d{}h", hours % 24),
    }
}

/// Returns a number of bytes as people read it.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut number = bytes;
    let mut unit = "B";
    for next in UNITS {
        if number < 10 * 1024 {
            break;
        }
        number /= 1024;
        unit = next;
    }
    format!("{number} {unit}")
}

impl From<ChainState> for ChainRow {
    fn from(chain: ChainState) -> Self {
        let subnet = |(netuid, set): (u16, Option<(i64, time::Duration)>)| SubnetRow {
            netuid,
            weights_age_blocks: set.map(|(blocks, _)| blocks),
            weights_age_seconds: set.map(|(_, age)| age.as_seconds_f64()),
        };
        Self {
            network: "local",
            block: chain.block,
            age_seconds: chain.age.as_seconds_f64(),
            subnets: chain.weights.into_iter().map(subnet).collect(),
        }
    }
}

impl From<Standing> for RoleRow {
    fn from(standing: Standing) -> Self {
        let Standing {
            place,
            running,
            footprint,
            state,
        } = standing;
        let pid = match running {
            Holder::Process(pid) => Some(pid),
            Holder::Nobody | Holder::Unknown => None,
        };
        Self {
            role: place.role.word(),
            state: match running {
                _ if state.is_unreadable => StateWord::Unreadable,
                Holder::Process(_) if state.is_draining => StateWord::Draining,
                Holder::Process(_) => StateWord::Running,
                Holder::Nobody => StateWord::Stopped,
                Holder::Unknown => StateWord::Unknown,
            },
            pid,
            uptime_seconds: pid.and_then(running_for).map(|span| span.as_secs()),
            open_jobs: state.open,
            hour: state.hour.into(),
            day: state.day.into(),
            executors_busy: state.executors.map(|(busy, _)| busy),
            executors_total: state.executors.map(|(_, total)| total),
            owed: state.owed,
            peers: state.peers,
            database_bytes: footprint.bytes,
            written_at: footprint.written_at.map(stamp),
            disk_free_bytes: Room::read(&place.dir).ok().map(|room| room.bytes),
            clock: state.clock,
            name: place.name,
            directory: place.dir,
        }
    }
}

impl From<Outcomes> for OutcomesRow {
    fn from(outcomes: Outcomes) -> Self {
        let Outcomes {
            good,
            bad,
            declined,
            open,
            is_more,
        } = outcomes;
        Self {
            good,
            bad,
            declined,
            open,
            is_more,
        }
    }
}

impl From<Alert> for AlertRow {
    fn from(alert: Alert) -> Self {
        Self {
            level: if alert.is_bad { Level::Bad } else { Level::Warning },
            message: alert.words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_have_two_units_at_most() {
        for (seconds, words) in [
            (5.9, "5s"),
            (65.0, "1m5s"),
            (7260.0, "2h1m"),
            (90_000.0, "1d1h"),
            (-1.0, "0s"),
        ] {
            assert_eq!(span(seconds), words);
        }
        for (number, words) in [
            (0, "0 B"),
            (10_239, "10239 B"),
            (20_480, "20 KiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(number), words);
        }
    }

    #[test]
    fn a_screen_is_redrawn_in_place() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(redrawn(&lines, 0), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert!(redrawn(&lines, 3).starts_with("\u{1b}[3A\ra"));
    }

    #[test]
    fn outcomes_are_told_in_words() {
        let row = OutcomesRow {
            good: 2,
            bad: 1,
            declined: 0,
            open: 0,
            is_more: true,
        };
        assert_eq!(outcomes(row), "2 good 1 bad and more");
        assert_eq!(outcomes(OutcomesRow::from(Outcomes::default())), NOTHING);
    }
}
