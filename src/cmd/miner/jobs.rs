//! `horde miner jobs`: the accepted jobs, those that were not accepted, and one job from all sides.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::context::Context;
use super::super::contract::OUTPUT_VERSION;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::table::{NOTHING, Table, ago, or_nothing, parse_ago, stamp, to_the_second};
use super::open_beside;
use super::show::ShowArgs;
use crate::core::miner::ledger::meaning;
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::StoreError;
use crate::core::store::miner::ledger::{
    JobFilter, JobRow, Refused, RefusedFilter, RefusedRow, Step, Strangers, Subject,
};
use crate::core::store::miner::{JobState, MinerStore};
use crate::core::tasks::Tasks;

/// Time between two looks of `--follow`.
const LOOK: Duration = Duration::from_millis(500);

/// Newest rows that `--follow` watches for changes.
const WATCHED: u32 = 500;

/// `horde miner jobs …`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: Option<JobsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

const EXAMPLES: &str = "\
Examples:
  horde miner jobs --since 2h --status failed
  horde miner jobs --rejected
  horde miner jobs --follow --json
  horde miner jobs show 3f2a";

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Show a job with its timeline, receipts and output
    Show(ShowArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// List only jobs that stand so: open, finished, failed, rejected, or a status as the list has it
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<String>,
    /// List only those of a validator; the beginning of its hotkey is enough
    #[arg(long, value_name = "HOTKEY")]
    validator: Option<String>,
    /// List only those of an executor class
    #[arg(long, value_name = "CLASS")]
    class: Option<ExecutorClass>,
    /// List only those since so long ago, such as 90s, 30m, 2h, 1d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// List so many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// List what was not accepted instead, with reason and evidence
    #[arg(long, conflicts_with = "status")]
    rejected: bool,
    /// Go on and print what changes
    #[arg(long)]
    follow: bool,
}

impl JobsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self.command {
            Some(JobsCommand::Show(args)) => args.run(context).await,
            None => self.list.run(context).await,
        }
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> Result<(), CmdError> {
        let states = states(&self.status)?;
        let since = self.since.as_deref().map(parse_ago).transpose()?;
        let since = since.map(|span| ago(context.clock.now(), span));
        let (store, _) = open_beside(context).await?;
        let view = if self.rejected {
            View::Rejected(RefusedFilter {
                validator: self.validator,
                class: self.class,
                job: None,
                since,
            })
        } else {
            View::Jobs(JobFilter {
                states,
                validator: self.validator,
                class: self.class,
                since,
            })
        };
        if self.follow {
            return follow(context, &store, &view, self.limit).await;
        }
        let items = view
            .read(&store, self.limit)
            .await
            .or_fail(ExitCode::Failed, TRIED)?;
        if items.is_empty() {
            context.say(view.hint());
        }
        if context.wants_data() {
            let rows: Vec<Shown<'_>> = items.iter().map(Item::shown).collect();
            return context.print_data(&rows);
        }
        if items.is_empty() {
            return Ok(());
        }
        view.print(context, &items)
    }
}

const TRIED: &str = "could not read the jobs";

/// Reads the words of `--status`; without any, all but what was declined.
fn states(words: &[String]) -> Result<Vec<JobState>, CmdError> {
    if words.is_empty() {
        let accepted = JobState::ALL.into_iter();
        return Ok(accepted.filter(|state| *state != JobState::Rejected).collect());
    }
    let mut states = Vec::new();
    for word in words {
        let found: Vec<JobState> = JobState::ALL
            .into_iter()
            .filter(|state| match word.to_ascii_lowercase().as_str() {
                "open" => state.is_open(),
                word => state.as_str().eq_ignore_ascii_case(word),
            })
            .collect();
        if found.is_empty() {
            let known: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
            return Err(
                CmdError::new(ExitCode::Usage, format!("{word:?} is no status of a job"))
                    .hint(format!("there are open, {}", known.join(", "))),
            );
        }
        states.extend(found);
    }
    Ok(states)
}

/// What is listed.
enum View {
    Jobs(JobFilter),
    Rejected(RefusedFilter),
}

/// A line of a list.
#[derive(Clone, PartialEq)]
enum Item {
    Job(Box<JobRow>),
    Refused(Box<RefusedRow>),
    Strangers(Strangers),
}

impl View {
    /// Returns at most `limit` items, newest first.
    async fn read(&self, store: &MinerStore, limit: u32) -> Result<Vec<Item>, StoreError> {
        match self {
            Self::Jobs(filter) => {
                let rows = store.jobs(filter.clone(), limit).await?;
                Ok(rows.into_iter().map(|row| Item::Job(Box::new(row))).collect())
            }
            Self::Rejected(filter) => {
                let rows = store.refusals(filter.clone(), limit).await?;
                let mut items: Vec<Item> = rows.into_iter().map(|row| Item::Refused(Box::new(row))).collect();
                // Strangers have no name to look for, and offer nothing.
                if filter.validator.is_none() && filter.class.is_none() {
                    let strangers = store.strangers(filter.since, limit).await?;
                    items.extend(strangers.into_iter().map(Item::Strangers));
                    items.sort_by_key(|item| std::cmp::Reverse(item.at()));
                    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                }
                Ok(items)
            }
        }
    }

    const fn hint(&self) -> &'static str {
        match self {
            Self::Jobs(_) => {
                "no such jobs; `horde miner jobs --rejected` lists what was not accepted, `horde miner check` tells \
                 whether validators can reach this miner"
            }
            Self::Rejected(_) => "nothing was rejected",
        }
    }

    fn print(&self, context: &Context, items: &[Item]) -> Result<(), CmdError> {
        match self {
            Self::Jobs(_) => job_table(items).print(context),
            Self::Rejected(_) => {
                refused_table(items).print(context)?;
                explain(context, items);
                Ok(())
            }
        }
    }
}

impl Item {
    fn at(&self) -> time::OffsetDateTime {
        match self {
            Self::Job(row) => row.created_at,
            Self::Refused(row) => row.refused.at,
            Self::Strangers(strangers) => strangers.last_at,
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Job(row) => row.job.to_string(),
            Self::Refused(row) => format!("{} {}", row.refused.subject.as_str(), row.id),
            Self::Strangers(strangers) => format!("{} {}", strangers.reason, strangers.address),
        }
    }

    fn shown(&self) -> Shown<'_> {
        match self {
            Self::Job(row) => Shown::Job(ShownJob::of(row)),
            Self::Refused(row) => Shown::Refusal(ShownRefusal::of(&row.refused)),
            Self::Strangers(strangers) => Shown::Refusal(ShownRefusal::of_strangers(strangers)),
        }
    }
}

/// Returns the exit code of a job's container: one that finished has ended with 0.
pub(super) fn exit_code(row: &JobRow) -> Option<i64> {
    match row.state {
        JobState::Finished => Some(row.exit_status.unwrap_or(0)),
        _ => row.exit_status,
    }
}

/// A row of a list, as data.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Shown<'a> {
    /// A job.
    Job(ShownJob<'a>),
    /// What was not accepted.
    Refusal(ShownRefusal<'a>),
}

/// A job, as data.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownJob<'a> {
    /// Its number in the list.
    id: i64,
    /// The job.
    job: &'a JobId,
    /// Whose it is.
    validator: &'a Hotkey,
    /// Its executor class.
    class: ExecutorClass,
    /// Its status.
    status: &'static str,
    /// The exit code of its container; null while that is not known.
    exit: Option<i64>,
    /// How long it took, in microseconds, as its receipt says; null without a receipt.
    time_took_us: Option<i64>,
    /// What it is worth, as its receipt says; null without a receipt.
    score: Option<f64>,
    /// Why it failed; null if it did not.
    reason: Option<&'a str>,
    /// More about that.
    detail: Option<&'a str>,
    /// The slot that it holds; null if none.
    slot: Option<u32>,
    /// When it was accepted.
    created_at: String,
    /// When it changed last.
    updated_at: String,
    /// When its outcome was handed to the validator; null if it was not.
    delivered_at: Option<String>,
}

impl<'a> ShownJob<'a> {
    pub(super) fn of(row: &'a JobRow) -> Self {
        Self {
            id: row.id,
            job: &row.job,
            validator: &row.validator,
            class: row.class,
            status: row.state.as_str(),
            exit: exit_code(row),
            time_took_us: row.time_took_us,
            score: row.score,
            reason: row.error_type.as_deref(),
            detail: row.error_detail.as_deref(),
            slot: row.slot,
            created_at: stamp(row.created_at),
            updated_at: stamp(row.updated_at),
            delivered_at: row.reported_at.map(stamp),
        }
    }
}

/// What was not accepted, as data.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownRefusal<'a> {
    /// When; of several, the last.
    at: String,
    /// What was refused.
    what: &'static str,
    /// Whose it was, as it said.
    validator: &'a Hotkey,
    /// Where it came from; null if that is not known.
    address: Option<&'a str>,
    /// The job, if it was one.
    job: Option<&'a JobId>,
    /// Its executor class.
    class: Option<ExecutorClass>,
    /// Why, as a code.
    reason: &'a str,
    /// Why, in words.
    words: &'a str,
    /// What the code means; null for one that is not known.
    meaning: Option<&'static str>,
    /// What helps.
    remedy: Option<&'static str>,
    /// What is known about it.
    evidence: Cow<'a, Value>,
    /// How often it happened.
    count: u64,
}

impl<'a> ShownRefusal<'a> {
    pub(super) fn of(refused: &'a Refused) -> Self {
        let (meaning, remedy) = meaning(&refused.reason).unzip();
        Self {
            at: stamp(refused.at),
            what: refused.subject.as_str(),
            validator: &refused.validator,
            address: refused.address.as_deref(),
            job: refused.job.as_ref(),
            class: refused.class,
            reason: &refused.reason,
            words: &refused.words,
            meaning,
            remedy,
            evidence: Cow::Borrowed(&refused.evidence),
            count: 1,
        }
    }

    fn of_strangers(strangers: &'a Strangers) -> Self {
        let (meaning, remedy) = meaning(&strangers.reason).unzip();
        let evidence = json!({"first_at": stamp(strangers.first_at), "last_at": stamp(strangers.last_at)});
        Self {
            at: stamp(strangers.last_at),
            what: Subject::Authentication.as_str(),
            validator: &strangers.last_validator,
            address: Some(&strangers.address),
            job: None,
            class: None,
            reason: &strangers.reason,
            words: &strangers.last_words,
            meaning,
            remedy,
            evidence: Cow::Owned(evidence),
            count: strangers.count,
        }
    }

    fn cells(&self) -> [String; 9] {
        let reason = match or_nothing(Some(self.words)) {
            words if words == NOTHING => or_nothing(Some(self.reason)),
            words => format!("{}: {words}", or_nothing(Some(self.reason))),
        };
        let class = self.class.map(|class| class.to_string());
        [
            String::new(),
            self.what.to_owned(),
            self.count.to_string(),
            or_nothing(Some(self.validator.as_str())),
            or_nothing(self.address),
            or_nothing(self.job.map(JobId::as_str)),
            or_nothing(class.as_deref()),
            reason,
            or_nothing(Some(&self.evidence.to_string())),
        ]
    }
}

/// A change that `--follow` tells; the last is of the type `end`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Change<'a> {
    /// A job came or changed.
    Job {
        /// When that was told.
        ts: String,
        /// Its number, from 1 on.
        seq: u64,
        /// The version of this form.
        schema: u32,
        /// The job.
        job: Shown<'a>,
    },
    /// Something was not accepted.
    Rejection {
        /// When that was told.
        ts: String,
        /// Its number.
        seq: u64,
        /// The version of this form.
        schema: u32,
        /// What.
        rejection: Shown<'a>,
    },
    /// It was stopped.
    End {
        /// When.
        ts: String,
        /// Its number.
        seq: u64,
        /// The version of this form.
        schema: u32,
    },
}

const JOB_COLUMNS: [&str; 10] = [
    "ID",
    "ACCEPTED",
    "JOB",
    "VALIDATOR",
    "CLASS",
    "STATUS",
    "EXIT",
    "TIME",
    "SCORE",
    "REASON",
];

fn job_cells(row: &JobRow) -> [String; 10] {
    let took = row
        .time_took_us
        .map(|micros| format!("{:.1}s", time::Duration::microseconds(micros).as_seconds_f64()));
    let reason = match (&row.error_type, &row.error_detail) {
        (Some(reason), Some(detail)) if !detail.is_empty() => Some(format!("{reason}: {detail}")),
        (reason, _) => reason.clone(),
    };
    [
        row.id.to_string(),
        to_the_second(row.created_at),
        or_nothing(Some(row.job.as_str())),
        or_nothing(Some(row.validator.as_str())),
        row.class.to_string(),
        row.state.as_str().to_owned(),
        exit_code(row).map_or_else(|| NOTHING.to_owned(), |code| code.to_string()),
        or_nothing(took.as_deref()),
        row.score
            .map_or_else(|| NOTHING.to_owned(), |score| format!("{score:.2}")),
        or_nothing(reason.as_deref()),
    ]
}

fn job_table(items: &[Item]) -> Table<10> {
    let mut table = Table::new(JOB_COLUMNS);
    for item in items {
        if let Item::Job(row) = item {
            table.add(job_cells(row));
        }
    }
    table
}

fn refused_table(items: &[Item]) -> Table<9> {
    let mut table = Table::new([
        "AT",
        "WHAT",
        "COUNT",
        "VALIDATOR",
        "ADDRESS",
        "JOB",
        "CLASS",
        "REASON",
        "EVIDENCE",
    ]);
    for item in items {
        if let Shown::Refusal(refusal) = item.shown() {
            let mut cells = refusal.cells();
            if let Some(at) = cells.first_mut() {
                *at = to_the_second(item.at());
            }
            table.add(cells);
        }
    }
    table
}

/// Says what the reasons of a list mean and what helps, each once.
fn explain(context: &Context, items: &[Item]) {
    let reasons: BTreeSet<&str> = items
        .iter()
        .filter_map(|item| match item {
            Item::Job(_) => None,
            Item::Refused(row) => Some(row.refused.reason.as_str()),
            Item::Strangers(strangers) => Some(strangers.reason.as_str()),
        })
        .collect();
    for reason in reasons {
        if let Some((meaning, remedy)) = meaning(reason) {
            context.say(format_args!("{reason}: {meaning}; remedy: {remedy}"));
        }
    }
}

/// Prints what there is, oldest first, and then what changes, until a signal comes.
async fn follow(context: &Context, store: &MinerStore, view: &View, limit: u32) -> Result<(), CmdError> {
    let tasks = Tasks::new();
    let received = context.watch(&tasks)?;
    let mut known: HashMap<String, Item> = HashMap::new();
    let mut sequence = 0_u64;
    let watched = WATCHED.max(limit);
    let mut is_first = true;
    loop {
        let items = view.read(store, watched).await.or_fail(ExitCode::Failed, TRIED)?;
        // At first the newest, as a list has them; then whatever is new or otherwise than it was.
        let shown = if is_first { limit } else { watched };
        is_first = false;
        let mut changed = Vec::new();
        let mut now = HashMap::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let key = item.key();
            let is_shown = u32::try_from(index).is_ok_and(|index| index < shown);
            if is_shown && known.get(&key) != Some(&item) {
                changed.push(item.clone());
            }
            now.insert(key, item);
        }
        known = now;
        changed.reverse();
        for item in changed {
            sequence += 1;
            print_change(context, view, &item, sequence)?;
        }
        tokio::select! {
            biased;
            () = tasks.stopped() => break,
            () = sleep(LOOK) => {}
        }
    }
    if context.wants_data() {
        context.print_data(&Change::End {
            ts: stamp(context.clock.now()),
            seq: sequence + 1,
            schema: OUTPUT_VERSION,
        })?;
    }
    Err(CmdError::quiet(ExitCode::Passed(
        received.exit_code().unwrap_or(0),
    )))
}

fn print_change(context: &Context, view: &View, item: &Item, sequence: u64) -> Result<(), CmdError> {
    if context.wants_data() {
        let (ts, seq, schema) = (stamp(context.clock.now()), sequence, OUTPUT_VERSION);
        return context.print_data(&match item.shown() {
            job @ Shown::Job(_) => Change::Job { ts, seq, schema, job },
            rejection @ Shown::Refusal(_) => Change::Rejection {
                ts,
                seq,
                schema,
                rejection,
            },
        });
    }
    let lines = match view {
        View::Jobs(_) => job_table(std::slice::from_ref(item)).lines(),
        View::Rejected(_) => refused_table(std::slice::from_ref(item)).lines(),
    };
    let skipped = usize::from(sequence > 1);
    lines.iter().skip(skipped).try_for_each(|line| context.line(line))
}

/// A step of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownStep {
    /// Which.
    pub(super) step: &'static str,
    /// When it was taken.
    pub(super) at: String,
    /// Seconds since the first.
    pub(super) since_start_seconds: f64,
    /// Seconds since the one before.
    pub(super) seconds: f64,
}

/// Returns a timeline: each step, when it was, and how long after the one before.
pub(super) fn timeline(steps: &[(Step, time::OffsetDateTime)]) -> Vec<ShownStep> {
    let start = steps.first().map(|(_, at)| *at);
    let mut before = start;
    steps
        .iter()
        .map(|(step, at)| {
            let since_start = start.map_or(time::Duration::ZERO, |start| *at - start);
            let since_last = before.map_or(time::Duration::ZERO, |before| *at - before);
            before = Some(*at);
            ShownStep {
                step: step.as_str(),
                at: stamp(*at),
                since_start_seconds: since_start.as_seconds_f64(),
                seconds: since_last.as_seconds_f64(),
            }
        })
        .collect()
}
