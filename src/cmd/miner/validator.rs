//! `horde miner validator`: whom the miner serves, by the chain and by its operator.

use std::time::Duration;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::confirm::{ChangeArgs, Plan};
use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::open_beside;
use crate::core::crypto::ss58;
use crate::core::model::Hotkey;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::validators::{Block, KnownValidator};

/// Characters of the longest reason of a block, which every declined job is told.
const REASON_CHARS_MAX: usize = 200;

/// Longest block that has an end: ten years.
const BLOCK_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

const BLOCK_EXAMPLES: &str = "Examples:
  horde miner validator block 5GrwvaEF… --reason 'pays for nothing'
  horde miner validator block 5GrwvaEF… --reason 'under discussion' --for 12h";

const READ_FAILED: &str = "could not read the validators";

/// `horde miner validator …`
#[derive(Debug, Subcommand)]
pub enum ValidatorCommand {
    /// List the validators that the miner knows, and what was ordered about them
    List,
    /// Let a hotkey in that the chain does not know as a validator: for debugging
    Add(WhoArgs),
    /// Take back that a hotkey is let in
    Remove(WhoArgs),
    /// Refuse the jobs of a validator
    #[command(after_help = BLOCK_EXAMPLES)]
    Block(BlockArgs),
    /// Take the jobs of a validator again
    Unblock(WhoArgs),
}

/// About whom.
#[derive(Args, Debug)]
struct Who {
    /// Its address
    hotkey: String,
}

/// About whom, and whether it is meant.
#[derive(Args, Debug)]
pub struct WhoArgs {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Whom to block, why and how long.
#[derive(Args, Debug)]
pub struct BlockArgs {
    #[command(flatten)]
    who: Who,
    /// Tell the validator why, in at most 200 characters
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// End the block after this time, such as 90s, 30m, 12h or 7d [default: never]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    #[command(flatten)]
    change: ChangeArgs,
}

impl ValidatorCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::List => list(context).await,
            Self::Add(args) => add(context, &args).await,
            Self::Remove(args) => remove(context, &args).await,
            Self::Block(args) => block(context, &args).await,
            Self::Unblock(args) => unblock(context, &args).await,
        }
    }
}

impl Who {
    /// Returns the address, checked: a slip of the finger must not become an order about nobody.
    fn hotkey(&self) -> Result<Hotkey, CmdError> {
        let hotkey = Hotkey::new(self.hotkey.as_str());
        ss58::decode(&hotkey)
            .or_fail(
                ExitCode::Usage,
                format!("{:?} is no address of a hotkey", self.hotkey),
            )
            .map_err(|error| error.hint("`horde miner validator list` shows those that are known"))?;
        Ok(hotkey)
    }
}

/// Reads a time such as `90s`, `30m`, `12h` or `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wanted = "expected a whole number and one of s, m, h, d, such as 12h";
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        Some("d") => 86_400,
        _ => return Err(wanted.to_owned()),
    };
    let number: u32 = digits.parse().map_err(|_| wanted.to_owned())?;
    let duration = Duration::from_secs(u64::from(number) * unit);
    if number == 0 || duration > BLOCK_MAX {
        return Err("expected more than nothing and at most 3650d".to_owned());
    }
    Ok(duration)
}

async fn list(context: &Context) -> Result<(), CmdError> {
    let (store, _) = open_beside(context).await?;
    let known = store
        .known_validators()
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    let now = context.clock.now();
    if context.wants_data() {
        let all: Vec<ShownValidator<'_>> = known.iter().map(|validator| shown(validator, now)).collect();
        return context.print_data(&all);
    }
    if known.is_empty() {
        context.say("no validator is known: the miner notes them when it runs");
    }
    for validator in &known {
        context.line(in_words(validator, now))?;
    }
    Ok(())
}

/// A validator, as this miner sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownValidator<'a> {
    /// The validator.
    hotkey: &'a Hotkey,
    /// Whether it is let in.
    active: bool,
    /// Whether it is let in by command, whatever the chain says.
    debug: bool,
    /// Its stake, in whole units.
    stake: u64,
    /// How its jobs are declined; null if they are not.
    blocked: Option<ShownBlock<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownBlock<'a> {
    /// Why.
    reason: &'a str,
    /// Until when; null if until it is taken back.
    until: Option<String>,
}

fn shown(validator: &KnownValidator, now: OffsetDateTime) -> ShownValidator<'_> {
    let block = validator.block.as_ref().filter(|block| block.holds_at(now));
    ShownValidator {
        hotkey: &validator.hotkey,
        active: validator.is_active || validator.is_debug,
        debug: validator.is_debug,
        stake: stake(validator),
        blocked: block.map(|block| ShownBlock {
            reason: &block.reason,
            until: block.until.and_then(|until| until.format(&Rfc3339).ok()),
        }),
    }
}

/// Prints how a validator stands after an order, for scripts.
async fn told(context: &Context, store: &MinerStore, hotkey: &Hotkey) -> Result<(), CmdError> {
    if !context.wants_data() {
        return Ok(());
    }
    let known = store
        .known_validators()
        .await
        .or_fail(ExitCode::Failed, READ_FAILED)?;
    let found = known.iter().find(|validator| validator.hotkey == *hotkey);
    let unknown = ShownValidator {
        hotkey,
        active: false,
        debug: false,
        stake: 0,
        blocked: None,
    };
    let now = context.clock.now();
    context.print_data(&found.map_or(unknown, |validator| shown(validator, now)))
}

/// Returns the stake in whole units.
fn stake(validator: &KnownValidator) -> u64 {
    validator.stake_rao / 1_000_000_000
}

fn in_words(validator: &KnownValidator, now: OffsetDateTime) -> String {
    let standing = match validator {
        KnownValidator { is_debug: true, .. } => "debug",
        KnownValidator { is_active: true, .. } => "active",
        _ => "inactive",
    };
    let mut line = format!(
        "{:<48}  {standing:<8}  {:>12}",
        validator.hotkey.as_str(),
        stake(validator)
    );
    if let Some(block) = validator.block.as_ref().filter(|block| block.holds_at(now)) {
        line.push_str("  blocked: ");
        line.push_str(&block.reason);
        if let Some(until) = block.until.and_then(|until| until.format(&Rfc3339).ok()) {
            line.push_str(" (until ");
            line.push_str(&until);
            line.push(')');
        }
    }
    line
}

async fn known(store: &MinerStore, hotkey: &Hotkey) -> Result<Option<KnownValidator>, CmdError> {
    let known = store.known_validators().await;
    let known = known.or_fail(ExitCode::Failed, "could not read the validators")?;
    Ok(known.into_iter().find(|validator| validator.hotkey == *hotkey))
}

async fn add(context: &Context, args: &WhoArgs) -> Result<(), CmdError> {
    let hotkey = args.who.hotkey()?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?;
    let let_in = |is_let_in: bool| is_let_in.then(|| "by a command".to_owned());
    let plan = Plan::new("let in", "validator", hotkey.as_str())
        .change(
            "let in",
            let_in(before.is_some_and(|known| known.is_debug)),
            let_in(true),
        )
        .undo(format!("horde miner validator remove {hotkey}"));
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let is_new = store
        .add_debug_validator(&hotkey, context.clock.now())
        .await
        .or_fail(ExitCode::Failed, "could not add the validator")?;
    context.say(if is_new {
        format!("{hotkey} is let in from now on")
    } else {
        format!("{hotkey} was let in already")
    });
    told(context, &store, &hotkey).await
}

async fn remove(context: &Context, args: &WhoArgs) -> Result<(), CmdError> {
    let hotkey = args.who.hotkey()?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?;
    let is_let_in = before.is_some_and(|known| known.is_debug);
    let plan = Plan::new("let go", "validator", hotkey.as_str())
        .change("let in", Some("by a command".to_owned()), None)
        .undo(format!("horde miner validator add {hotkey}"));
    // Where nothing was ordered, the store refuses; so does the plan.
    if is_let_in && !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let was_there = store
        .remove_debug_validator(&hotkey)
        .await
        .or_fail(ExitCode::Failed, "could not remove the validator")?;
    if !was_there {
        return Err(not_ordered(format!(
            "{hotkey} was not let in by `horde miner validator add`"
        )));
    }
    context.say(format!(
        "{hotkey} is let in only if the chain knows it as a validator"
    ));
    told(context, &store, &hotkey).await
}

async fn block(context: &Context, args: &BlockArgs) -> Result<(), CmdError> {
    let hotkey = args.who.hotkey()?;
    let reason = args.reason.trim();
    let chars = reason.chars().count();
    if !(1..=REASON_CHARS_MAX).contains(&chars) || reason.contains(char::is_control) {
        let message =
            format!("a reason is one line of 1 to {REASON_CHARS_MAX} characters, this one has {chars}");
        return Err(CmdError::new(ExitCode::Usage, message));
    }
    let now = context.clock.now();
    let block = Block {
        reason: reason.to_owned(),
        until: args
            .time
            .and_then(|time| now.checked_add(time::Duration::try_from(time).ok()?)),
    };
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?.and_then(|known| known.block);
    let in_words = |block: &Block| {
        let until = block.until.and_then(|until| until.format(&Rfc3339).ok());
        let until = until.map_or_else(String::new, |until| format!(" (until {until})"));
        format!("{}{until}", block.reason)
    };
    let plan = Plan::new("block", "validator", hotkey.as_str())
        .change("block", before.as_ref().map(in_words), Some(in_words(&block)))
        .undo(format!("horde miner validator unblock {hotkey}"));
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let until = block.until.and_then(|until| until.format(&Rfc3339).ok());
    store
        .block_validator(&hotkey, block, now)
        .await
        .or_fail(ExitCode::Failed, "could not block the validator")?;
    let until = until.map_or_else(
        || "until `horde miner validator unblock`".to_owned(),
        |until| format!("until {until}"),
    );
    context.say(format!("jobs of {hotkey} are declined {until}"));
    plan.tell_undo(context);
    told(context, &store, &hotkey).await
}

async fn unblock(context: &Context, args: &WhoArgs) -> Result<(), CmdError> {
    let hotkey = args.who.hotkey()?;
    let (store, settings) = open_beside(context).await?;
    let before = known(&store, &hotkey).await?;
    let plan = Plan::new("unblock", "validator", hotkey.as_str()).change(
        "block",
        before.and_then(|known| known.block).map(|block| block.reason),
        None,
    );
    // Where there is no block, the store refuses; so does the plan.
    if !plan.is_empty() && !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let was_blocked = store
        .unblock_validator(&hotkey)
        .await
        .or_fail(ExitCode::Failed, "could not unblock the validator")?;
    if !was_blocked {
        return Err(not_ordered(format!("{hotkey} is not blocked")));
    }
    context.say(format!("jobs of {hotkey} are taken again"));
    told(context, &store, &hotkey).await
}

fn not_ordered(message: String) -> CmdError {
    CmdError::new(ExitCode::NotFound, message).hint("`horde miner validator list` shows what is ordered")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_bounds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in [
            "",
            "h",
            "12",
            "1.5h",
            "-1h",
            "0m",
            "12 h",
            "3651d",
            "99999999999d",
            "1hh",
            "1w",
        ] {
            duration(wrong).unwrap_err();
        }
    }
}
