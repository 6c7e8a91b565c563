//! `horde facilitator credit`: what users can pay with, and where it went.

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::{hotkey, open_beside, words};
use crate::cmd::confirm::{ChangeArgs, Danger, Plan};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::table::{NOTHING, Table, ago, or_nothing, parse_ago, stamp, to_the_second};
use crate::core::model::{Hotkey, JobId};
use crate::core::money::Micro;
use crate::core::store::facilitator::{Grant, Granted, Transfer, TransferFilter};

/// Characters of the longest key.
const KEY_CHARS_MAX: usize = 128;

const ADD_HELP: &str =
    "Amounts are decimal units with at most six digits behind the point; a negative one takes credit \
back, as far as it is not set aside for jobs.

Examples:
  horde facilitator credit add 5GrwvaEF… 25 --note 'invoice 1043' --key invoice-1043
  horde facilitator credit add 5GrwvaEF… -2.5 --note 'booked twice'";

const LIST_HELP: &str = "What each transfer is for: credit and debit (given and taken back by `credit add`), reserve (set \
aside with a submission), interval (ten minutes of a job that works), charge (the rest of what a job used), refund \
(intervals of a job that the horde spoiled), return (what was set aside and not used).

Examples:
  horde facilitator credit list 5GrwvaEF… --since 7d
  horde facilitator credit list --job 0b9f5f3e-… --json";

/// `horde facilitator credit …`
#[derive(Debug, Subcommand)]
pub enum CreditCommand {
    /// Give a user credit, or take it back
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List transfers of the ledger, newest first
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Check the books: balances against transfers, bills against transfers, the sum against zero
    #[command(
        after_help = "Example:\n  horde facilitator credit check || echo 'ask for help before anything else'"
    )]
    Check,
}

/// `horde facilitator credit add …`
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The user's address (SS58)
    hotkey: String,
    /// How much, in units, such as 25 or 0.5
    #[arg(allow_negative_numbers = true)]
    amount: String,
    /// Note what for, in at most 200 characters
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Give it once under this key, however often this is asked for
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde facilitator credit list …`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only of this user
    hotkey: Option<String>,
    /// Only of this job
    #[arg(long, value_name = "UUID")]
    job: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<KindWord>,
    /// Only of this last while, such as 90s, 15m, 2h, 7d
    #[arg(long, value_name = "SPAN")]
    since: Option<String>,
    /// Show at most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindWord {
    Credit,
    Debit,
    Reserve,
    Interval,
    Charge,
    Refund,
    Return,
}

impl KindWord {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
            Self::Reserve => "reserve",
            Self::Interval => "interval",
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::Return => "return",
        }
    }
}

impl CreditCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Add(args) => add(context, args).await,
            Self::List(args) => list(context, args).await,
            Self::Check => check(context).await,
        }
    }
}

async fn add(context: &Context, args: AddArgs) -> Result<(), CmdError> {
    let grant = Grant {
        hotkey: hotkey(&args.hotkey)?,
        amount: amount(&args.amount)?,
        note: words("note", &args.note)?,
        key: args.key.map(key).transpose()?,
    };
    let (user, asked) = (grant.hotkey.clone(), grant.amount);
    let (store, settings) = open_beside(context).await?;
    let known = store
        .known_user(&user)
        .await
        .or_fail(ExitCode::Failed, "could not read the account")?;
    let available = known.account.available;
    if grant.key.is_none() && asked < Micro::ZERO && available.plus(asked) < Micro::ZERO {
        return Err(too_little(&user, available));
    }
    let plan = Plan::new("change the credit of", "user", user.as_str()).change(
        "available",
        Some(available.to_string()),
        Some(available.plus(asked).to_string()),
    );
    let plan = if asked < Micro::ZERO {
        plan.danger(Danger::Ask, "credit that was given is taken back")
    } else {
        plan
    };
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let granted = store
        .grant(grant, context.clock.now())
        .await
        .or_fail(ExitCode::Failed, "could not add the credit")?;
    let (is_new, available) = match granted {
        Granted::Done(available) => (true, available),
        Granted::Already(available) => (false, available),
        Granted::KeyTaken => {
            return Err(CmdError::new(
                ExitCode::Refused,
                "this key was used for another amount or another user; nothing was added",
            )
            .hint("`horde facilitator credit list --kind credit` shows what for"));
        }
        Granted::TooLittle(available) => return Err(too_little(&user, available)),
    };
    context.say(match (is_new, asked < Micro::ZERO) {
        (true, false) => format!("{user} got {asked} units and has {available} available"),
        (true, true) => format!(
            "{} units were taken back; {user} has {available} available",
            Micro::ZERO.minus(asked)
        ),
        (false, _) => format!("this was done before under its key; {user} has {available} available"),
    });
    if context.wants_data() {
        context.print_data(&Given {
            hotkey: &user,
            added: is_new,
            amount_micro: asked,
            available_micro: available,
        })?;
    }
    Ok(())
}

fn too_little(user: &Hotkey, available: Micro) -> CmdError {
    let message = format!("{user} has only {available} units that could be taken back; nothing was");
    CmdError::new(ExitCode::Refused, message).hint("what is set aside for jobs comes back when they end")
}

/// Reads an amount that moves something.
fn amount(text: &str) -> Result<Micro, CmdError> {
    let amount: Micro = text
        .parse()
        .or_fail(ExitCode::Usage, format!("{text:?} is no amount"))?;
    if amount == Micro::ZERO {
        return Err(CmdError::new(
            ExitCode::Usage,
            "an amount of nothing moves nothing",
        ));
    }
    Ok(amount)
}

fn key(key: String) -> Result<String, CmdError> {
    let is_good = (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good {
        return Ok(key);
    }
    let message = format!("a key has 1 to {KEY_CHARS_MAX} printable ASCII characters and no spaces");
    Err(CmdError::new(ExitCode::Usage, message))
}

async fn list(context: &Context, args: ListArgs) -> Result<(), CmdError> {
    let now = context.clock.now();
    let filter = TransferFilter {
        hotkey: args.hotkey.as_deref().map(hotkey).transpose()?,
        job: args.job.map(JobId::new),
        kind: args.kind.map(KindWord::as_str),
        since: args
            .since
            .map(|since| Ok::<_, CmdError>(ago(now, parse_ago(&since)?)))
            .transpose()?,
    };
    let (store, _settings) = open_beside(context).await?;
    let transfers = store
        .transfers(filter, args.limit)
        .await
        .or_fail(ExitCode::Failed, "could not read the ledger")?;
    if context.wants_data() {
        let all: Vec<ShownTransfer<'_>> = transfers.iter().map(shown).collect();
        return context.print_data(&all);
    }
    if transfers.is_empty() {
        context.say("there are no such transfers");
        return Ok(());
    }
    let mut table = Table::new(["AT", "KIND", "AMOUNT", "FROM", "TO", "USER", "JOB", "NOTE"]);
    for transfer in &transfers {
        let user = user_of(transfer).map_or_else(|| NOTHING.to_owned(), ToString::to_string);
        table.add([
            to_the_second(transfer.at),
            transfer.kind.clone(),
            transfer.amount.to_string(),
            transfer.taken_from.as_str().to_owned(),
            transfer.given_to.as_str().to_owned(),
            user,
            transfer
                .job
                .as_ref()
                .map_or_else(|| NOTHING.to_owned(), ToString::to_string),
            or_nothing(Some(&transfer.note)),
        ]);
    }
    table.print(context)
}

/// Returns whose money moved: one side of every transfer is a user's.
fn user_of(transfer: &Transfer) -> Option<&Hotkey> {
    let hotkey = transfer.taken_from.hotkey();
    hotkey.or_else(|| transfer.given_to.hotkey())
}

fn shown(transfer: &Transfer) -> ShownTransfer<'_> {
    ShownTransfer {
        id: transfer.id,
        at: stamp(transfer.at),
        kind: &transfer.kind,
        hotkey: user_of(transfer),
        from: transfer.taken_from.as_str(),
        to: transfer.given_to.as_str(),
        amount_micro: transfer.amount,
        job: transfer.job.as_ref(),
        key: transfer.key.as_deref(),
        note: &transfer.note,
    }
}

/// What became of a grant.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Given<'a> {
    /// The user.
    hotkey: &'a Hotkey,
    /// Whether it was added now; false if that was done before under its key.
    added: bool,
    /// What was asked for, in micro-units; negative takes credit back.
    amount_micro: Micro,
    /// What the user can spend now, in micro-units.
    available_micro: Micro,
}

/// A transfer of the ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownTransfer<'a> {
    /// Its number.
    id: i64,
    /// When it was made.
    at: String,
    /// What for: grant, reserve, charge, refund or return.
    kind: &'a str,
    /// The user whom it concerns.
    hotkey: Option<&'a Hotkey>,
    /// The account that it took from.
    from: &'a str,
    /// The account that it gave to.
    to: &'a str,
    /// How much, in micro-units.
    amount_micro: Micro,
    /// The job; null for a grant.
    job: Option<&'a JobId>,
    /// The key of a grant; null without one.
    key: Option<&'a str>,
    /// What the operator noted.
    note: &'a str,
}

/// Whether the books balance.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Books<'a> {
    /// Whether they do.
    balanced: bool,
    /// Where they do not.
    imbalances: Vec<ShownImbalance<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownImbalance<'a> {
    /// What.
    what: &'a str,
    /// What is written, in micro-units.
    written_micro: i64,
    /// What was moved, in micro-units.
    moved_micro: i64,
}

async fn check(context: &Context) -> Result<(), CmdError> {
    let (store, _settings) = open_beside(context).await?;
    let imbalances = store
        .imbalances()
        .await
        .or_fail(ExitCode::Failed, "could not read the ledger")?;
    if context.wants_data() {
        let all = imbalances.iter().map(|found| ShownImbalance {
            what: &found.what,
            written_micro: found.kept,
            moved_micro: found.moved,
        });
        context.print_data(&Books {
            balanced: imbalances.is_empty(),
            imbalances: all.collect(),
        })?;
    } else {
        imbalances.iter().try_for_each(|found| context.line(found))?;
    }
    if imbalances.is_empty() {
        context.say("the books balance");
        return Ok(());
    }
    let message = format!("the books do not balance in {} places", imbalances.len());
    Err(CmdError::new(ExitCode::CheckFailed, message)
        .hint("the database was changed by something else than horde, or is damaged: keep a copy of it"))
}
