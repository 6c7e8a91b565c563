//! `horde facilitator user`: who may log in and submit jobs.

use std::collections::HashSet;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::{hotkey, open_beside, words};
use crate::cmd::confirm::{ChangeArgs, Plan};
use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::cmd::table::{Table, or_nothing, printable, stamp, to_the_second};
use crate::core::config::{FacilitatorConfig, Settings};
use crate::core::model::Hotkey;
use crate::core::money::Micro;
use crate::core::store::facilitator::{FacilitatorStore, KnownUser, Ordered, USERS_MAX};

const READ_FAILED: &str = "could not read the users";

/// `horde facilitator user …`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Let a user in, now and after restarts
    #[command(
        after_help = "Example:\n  horde facilitator user add 5GrwvaEF… --note 'alice@example.com, until May'"
    )]
    Add(AddArgs),
    /// List all users: named by a command or the configuration, or with credit
    #[command(after_help = "Example:\n  horde facilitator user list --json | jq '.[] | select(.blocked)'")]
    List,
    /// Show one user: why it is let in or not, its credit, its jobs
    #[command(after_help = "Example:\n  horde facilitator user show 5GrwvaEF…")]
    Show(Who),
    /// Keep a user out, whoever lets it in; jobs that run go on
    #[command(after_help = "Example:\n  horde facilitator user block 5GrwvaEF… --reason 'key was stolen'")]
    Block(BlockArgs),
    /// Take a block back
    #[command(after_help = "Example:\n  horde facilitator user unblock 5GrwvaEF…")]
    Unblock(UnblockArgs),
}

/// Which user.
#[derive(Args, Debug)]
pub struct Who {
    /// Its address (SS58)
    hotkey: String,
}

/// `horde facilitator user add …`
#[derive(Args, Debug)]
pub struct AddArgs {
    #[command(flatten)]
    who: Who,
    /// Note who that is, in at most 200 characters
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde facilitator user block …`
#[derive(Args, Debug)]
pub struct BlockArgs {
    #[command(flatten)]
    who: Who,
    /// Note why, in at most 200 characters; the user is not told
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde facilitator user unblock …`
#[derive(Args, Debug)]
pub struct UnblockArgs {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    change: ChangeArgs,
}

impl UserCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Add(args) => add(context, &args).await,
            Self::List => list(context).await,
            Self::Show(who) => show(context, &who).await,
            Self::Block(args) => block(context, &args).await,
            Self::Unblock(args) => unblock(context, &args).await,
        }
    }
}

/// Whom the configuration lets in; a running facilitator has read it when it started.
struct Configured {
    any: bool,
    users: HashSet<Hotkey>,
}

/// A user, as the facilitator sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownUser<'a> {
    /// The user.
    hotkey: &'a Hotkey,
    /// Whether it is let in.
    admitted: bool,
    /// When it was added by a command; null if it was not.
    added_at: Option<String>,
    /// Whether the configuration names it.
    configured: bool,
    /// What the operator noted.
    note: &'a str,
    /// How it is kept out; null if it is not.
    blocked: Option<ShownBlock<'a>>,
    /// What it can spend, in micro-units.
    available_micro: Micro,
    /// What is set aside for its jobs, in micro-units.
    reserved_micro: Micro,
    /// How many jobs of it are kept.
    jobs: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownBlock<'a> {
    /// Since when.
    since: String,
    /// Why.
    reason: &'a str,
}

impl Configured {
    fn of(settings: &Settings) -> Result<Self, CmdError> {
        let config = FacilitatorConfig::from_settings(settings)?;
        Ok(Self {
            any: config.allow_any_user,
            users: config.users.into_iter().collect(),
        })
    }

    fn admits(&self, user: &KnownUser) -> bool {
        let is_named = user.added.is_some() || self.users.contains(&user.hotkey);
        user.block.is_none() && (is_named || self.any)
    }

    fn shown<'a>(&self, user: &'a KnownUser) -> ShownUser<'a> {
        ShownUser {
            hotkey: &user.hotkey,
            admitted: self.admits(user),
            added_at: user.added.map(stamp),
            configured: self.users.contains(&user.hotkey),
            note: &user.note,
            blocked: user.block.as_ref().map(|block| ShownBlock {
                since: stamp(block.since),
                reason: &block.reason,
            }),
            available_micro: user.account.available,
            reserved_micro: user.account.reserved,
            jobs: user.jobs,
        }
    }

    fn standing(&self, user: &KnownUser) -> &'static str {
        match user {
            KnownUser { block: Some(_), .. } => "blocked",
            KnownUser { added: Some(_), .. } => "added",
            _ if self.users.contains(&user.hotkey) => "configured",
            _ if self.any => "any",
            _ => "unknown",
        }
    }
}

async fn known(store: &FacilitatorStore, hotkey: &Hotkey) -> Result<KnownUser, CmdError> {
    let known = store.known_user(hotkey).await;
    known.or_fail(ExitCode::Failed, READ_FAILED)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn add(context: &Context, args: &AddArgs) -> Result<(), CmdError> {
    let hotkey = hotkey(&args.who.hotkey)?;
    let note = args.note.as_deref().map(|note| words("note", note)).transpose()?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?;
    let added = "let in by a command".to_owned();
    let mut plan = Plan::new("add", "user", hotkey.as_str())
        .change("standing", before.added.map(|_| added.clone()), Some(added))
        .undo(format!("horde facilitator user block {hotkey}"));
    if let Some(note) = &note {
        plan = plan.change("note", some(&before.note), some(note));
    }
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let ordered = store
        .add_user(&hotkey, note, context.clock.now())
        .await
        .or_fail(ExitCode::Failed, "could not add the user")?;
    let user = store
        .known_user(&hotkey)
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    context.say(match (check(ordered)?, &user.block) {
        (_, Some(_)) => format!("{hotkey} is added, and stays out until `horde facilitator user unblock`"),
        (true, None) => format!("{hotkey} is let in from now on"),
        (false, None) => format!("{hotkey} was let in already"),
    });
    told(context, &Configured::of(&settings)?, &user)
}

async fn block(context: &Context, args: &BlockArgs) -> Result<(), CmdError> {
    let hotkey = hotkey(&args.who.hotkey)?;
    let reason = words("reason", &args.reason)?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?;
    let is_blocked = |reason: &str| Some(format!("blocked {reason}").trim_end().to_owned());
    let plan = Plan::new("block", "user", hotkey.as_str())
        .change(
            "block",
            before.block.and_then(|block| is_blocked(&block.reason)),
            is_blocked(&reason),
        )
        .undo(format!("horde facilitator user unblock {hotkey}"));
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let ordered = store
        .block_user(&hotkey, reason, context.clock.now())
        .await
        .or_fail(ExitCode::Failed, "could not block the user")?;
    context.say(if check(ordered)? {
        format!("{hotkey} is kept out from now on; its jobs that run go on")
    } else {
        format!("{hotkey} was kept out already")
    });
    let user = store
        .known_user(&hotkey)
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    told(context, &Configured::of(&settings)?, &user)?;
    plan.tell_undo(context);
    Ok(())
}

async fn unblock(context: &Context, args: &UnblockArgs) -> Result<(), CmdError> {
    let hotkey = hotkey(&args.who.hotkey)?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?.block;
    let before = before.map(|block| format!("blocked {}", block.reason).trim_end().to_owned());
    let plan = Plan::new("unblock", "user", hotkey.as_str()).change("block", before.clone(), None);
    // Where there is no block, the store refuses; so does the plan.
    if before.is_some() && !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let ordered = store
        .unblock_user(&hotkey)
        .await
        .or_fail(ExitCode::Failed, "could not unblock the user")?;
    if !check(ordered)? {
        return Err(
            CmdError::new(ExitCode::NotFound, format!("{hotkey} is not blocked"))
                .hint("`horde facilitator user list` shows who is"),
        );
    }
    let configured = Configured::of(&settings)?;
    let user = store
        .known_user(&hotkey)
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    context.say(if configured.admits(&user) {
        format!("{hotkey} is let in again")
    } else {
        format!("{hotkey} is not blocked any more, and nobody lets it in: `horde facilitator user add` does")
    });
    told(context, &configured, &user)
}

/// Tells whether an order was new.
fn check(ordered: Ordered) -> Result<bool, CmdError> {
    match ordered {
        Ordered::Done => Ok(true),
        Ordered::Already => Ok(false),
        Ordered::TooMany => Err(CmdError::new(
            ExitCode::Refused,
            format!("there are {USERS_MAX} users already"),
        )
        .hint("with facilitator.allow_any_user nobody needs to be added")),
    }
}

/// Prints how a user stands after an order, for scripts.
fn told(context: &Context, configured: &Configured, user: &KnownUser) -> Result<(), CmdError> {
    if context.wants_data() {
        context.print_data(&configured.shown(user))?;
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), CmdError> {
    let (store, settings) = open_beside(context).await?;
    let configured = Configured::of(&settings)?;
    let named: Vec<Hotkey> = configured.users.iter().cloned().collect();
    let users = store
        .known_users(&named)
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    if context.wants_data() {
        let all: Vec<ShownUser<'_>> = users.iter().map(|user| configured.shown(user)).collect();
        return context.print_data(&all);
    }
    if users.is_empty() {
        context.say("no user is known: `horde facilitator user add` lets one in");
        return Ok(());
    }
    let mut table = Table::new(["HOTKEY", "STANDING", "AVAILABLE", "RESERVED", "JOBS", "NOTE"]);
    for user in &users {
        let note = user.block.as_ref().map_or(&user.note, |block| &block.reason);
        table.add([
            user.hotkey.as_str().to_owned(),
            configured.standing(user).to_owned(),
            user.account.available.to_string(),
            user.account.reserved.to_string(),
            user.jobs.to_string(),
            or_nothing(Some(note)),
        ]);
    }
    table.print(context)
}

async fn show(context: &Context, who: &Who) -> Result<(), CmdError> {
    let hotkey = hotkey(&who.hotkey)?;
    let (store, settings) = open_beside(context).await?;
    let configured = Configured::of(&settings)?;
    let user = store
        .known_user(&hotkey)
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    if context.wants_data() {
        return context.print_data(&configured.shown(&user));
    }
    let standing = match configured.standing(&user) {
        "blocked" => "kept out",
        "added" => "let in by `horde facilitator user add`",
        "configured" => "let in by facilitator.users",
        "any" => "let in by facilitator.allow_any_user",
        _ => "not let in",
    };
    context.line(format_args!("hotkey     {}", user.hotkey))?;
    context.line(format_args!("standing   {standing}"))?;
    if let Some(block) = &user.block {
        context.line(format_args!("blocked    {}", to_the_second(block.since)))?;
        context.line(format_args!("reason     {}", or_nothing(Some(&block.reason))))?;
    }
    if let Some(added) = user.added {
        context.line(format_args!("added      {}", to_the_second(added)))?;
    }
    if !user.note.is_empty() {
        context.line(format_args!("note       {}", printable(&user.note)))?;
    }
    context.line(format_args!("available  {}", user.account.available))?;
    context.line(format_args!("reserved   {}", user.account.reserved))?;
    context.line(format_args!("jobs       {}", user.jobs))
}
