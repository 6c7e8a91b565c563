//! `horde miner manifest`: what validators are offered, and how the operator changes it.

use clap::{Args, Subcommand};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::confirm::{ChangeArgs, Plan};
use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::open_beside;
use crate::core::config::Settings;
use crate::core::dynamic::keeper::kept;
use crate::core::dynamic::keys::Values;
use crate::core::miner::manifest::{begin, due, wanted};
use crate::core::model::{ExecutorClass, Manifest, commitment};
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::manifest::{ManifestOrder, ManifestState, OfferedClass};

/// Most executors of one class: a guard against slips of the keyboard, as for the setting.
const COUNT_MAX: u32 = 10_000;

/// `horde miner manifest …`
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Show what validators are offered, what is wanted, and when the next change takes effect
    Show,
    /// Change how many executors of a class are offered; a change counts at most every two hours
    #[command(
        after_help = "Classes that are not named keep their counts.\nExample:\n  horde miner manifest set always_on.llm.a6000=2 always_on.test=0"
    )]
    Set(SetArgs),
}

#[derive(Args, Debug)]
pub struct SetArgs {
    /// A class and how many executors of it to offer
    #[arg(required = true, value_name = "CLASS=COUNT", value_parser = count_of)]
    counts: Vec<(ExecutorClass, u32)>,
    #[command(flatten)]
    change: ChangeArgs,
}

fn count_of(text: &str) -> Result<(ExecutorClass, u32), String> {
    let (class, count) = text.split_once('=').ok_or("expected CLASS=COUNT")?;
    let class = class
        .parse::<ExecutorClass>()
        .map_err(|error| error.to_string())?;
    let count = count.parse().ok().filter(|count| *count <= COUNT_MAX);
    Ok((
        class,
        count.ok_or_else(|| format!("expected a count from 0 to {COUNT_MAX}"))?,
    ))
}

/// All that the database knows.
struct Known {
    state: ManifestState,
    order: Option<ManifestOrder>,
    offered: Vec<OfferedClass>,
    offered_since: Option<OffsetDateTime>,
    values: Values,
}

impl Known {
    async fn read(store: &MinerStore, settings: &Settings, now: OffsetDateTime) -> Result<Self, CmdError> {
        const TRIED: &str = "could not read the manifest";
        let state = store.manifest_state().await.or_fail(ExitCode::Failed, TRIED)?;
        let order = store.manifest_order().await.or_fail(ExitCode::Failed, TRIED)?;
        let (offered, offered_since) = store.offered().await.or_fail(ExitCode::Failed, TRIED)?;
        let values = kept(store).await.or_fail(ExitCode::Failed, TRIED)?;
        let state = match state {
            Some(state) => state,
            // A database from before there was a manifest: what the miner will begin with.
            None => begin(None, setting(settings)?, now),
        };
        let values = Values::clone(&values.borrow());
        Ok(Self {
            state,
            order,
            offered,
            offered_since,
            values,
        })
    }

    fn wanted(&self) -> (&Manifest, OffsetDateTime) {
        wanted(&self.state, self.order.as_ref())
    }

    fn due(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        due(&self.state, self.order.as_ref(), now)
    }
}

fn setting(settings: &Settings) -> Result<Manifest, CmdError> {
    let counts = settings.executors("miner.executors")?.iter();
    Ok(counts
        .filter_map(|(class, count)| Some((class.parse().ok()?, i64::from(*count))))
        .collect())
}

impl ManifestCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, settings) = open_beside(context).await?;
        let now = context.clock.now();
        let known = Known::read(&store, &settings, now).await?;
        match self {
            Self::Show if context.wants_data() => show_json(context, &settings, &known, now),
            Self::Show => show(context, &settings, &known, now),
            Self::Set(args) => {
                let plan = plan(&known, &args);
                if !args.change.allow(context, &settings, &plan).await? {
                    return Ok(());
                }
                set(context, &store, known, args, now).await?;
                plan.tell_undo(context);
                Ok(())
            }
        }
    }
}

fn plan(known: &Known, args: &SetArgs) -> Plan {
    let wanted = known.wanted().0;
    let mut plan = Plan::new("change", "the", "manifest");
    let mut undo = "horde miner manifest set".to_owned();
    for (class, count) in &args.counts {
        let before = wanted.0.get(class).copied().unwrap_or(0);
        plan = plan.change(
            class.to_string(),
            Some(before.to_string()),
            Some(count.to_string()),
        );
        undo = format!("{undo} {class}={before}");
    }
    plan.undo(undo)
}

async fn set(
    context: &Context,
    store: &MinerStore,
    mut known: Known,
    args: SetArgs,
    now: OffsetDateTime,
) -> Result<(), CmdError> {
    let mut wanted = known.wanted().0.clone();
    for (class, count) in args.counts {
        wanted.0.insert(class, i64::from(count));
    }
    let order = ManifestOrder {
        wanted,
        ordered_at: now,
    };
    store
        .order_manifest(order.clone())
        .await
        .or_fail(ExitCode::Failed, "could not order a change of the manifest")?;
    known.order = Some(order);
    let due = known.due(now);
    if context.wants_data() {
        let wanted = known.wanted().0;
        return context.print_data(&SetManifest {
            wanted,
            takes_effect_at: text(due)?,
        });
    }
    context.line(format_args!("wanted         {}", counts(known.wanted().0)))?;
    context.line(format_args!("takes effect   {}", when(due, now)?))
}

fn show(context: &Context, settings: &Settings, known: &Known, now: OffsetDateTime) -> Result<(), CmdError> {
    match known.offered_since {
        Some(since) => context.line(format_args!(
            "offered now    {}  (since {})",
            counts(&offered(known)),
            stamp(since)?
        ))?,
        None => context.line("offered now    nothing yet: this miner has not run")?,
    }
    for class in &known.offered {
        if let Some(reason) = &class.reason {
            context.line(format_args!("               {}: {reason}", class.class))?;
        }
    }
    let in_force = match known.state.changed_at {
        Some(changed_at) => format!("since {}", stamp(changed_at)?),
        None => "never changed".to_owned(),
    };
    context.line(format_args!(
        "in force       {}  ({in_force})",
        counts(&known.state.counted)
    ))?;
    let (wanted, since) = known.wanted();
    context.line(format_args!(
        "wanted         {}  (since {})",
        counts(wanted),
        stamp(since)?
    ))?;
    context.line(format_args!("takes effect   {}", when(known.due(now), now)?))?;
    context.line(format_args!("commitment     {}", committed(known)?))?;
    for (class, min) in settings.share_per_class("miner.multiplier_min")? {
        let share = share_of(known, class).map_or("not known".to_owned(), |share| format!("{share:.4}"));
        context.line(format_args!("multiplier     {class}: {share}, at least {min}"))?;
    }
    Ok(())
}

/// A manifest that was ordered.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SetManifest<'a> {
    /// How many executors of each class are wanted.
    wanted: &'a Manifest,
    /// When that takes effect; null if it is in force.
    takes_effect_at: Option<String>,
}

/// What a miner offers.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ShownManifest<'a> {
    /// How many executors of each class are offered now.
    offered: Manifest,
    /// Since when; null if the miner has not run.
    offered_since: Option<String>,
    /// Why less is offered than is in force, by class.
    reasons: IndexMap<String, String>,
    /// What counts for validators.
    in_force: &'a Manifest,
    /// When that changed last; null if it never has.
    changed_at: Option<String>,
    /// What is wanted.
    wanted: &'a Manifest,
    /// Since when; null if that is not known.
    wanted_since: Option<String>,
    /// When it takes effect; null if it is in force.
    takes_effect_at: Option<String>,
    /// The words of the manifest on the chain.
    commitment: String,
    /// Classes that are offered only if the subnet pays enough for them.
    multipliers: IndexMap<String, Multiplier>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Multiplier {
    /// The part of the scores that the class gets; null if that is not known.
    share: Option<f64>,
    /// The least at which it is offered.
    min: f64,
}

fn show_json(
    context: &Context,
    settings: &Settings,
    known: &Known,
    now: OffsetDateTime,
) -> Result<(), CmdError> {
    let (wanted, wanted_since) = known.wanted();
    let reasons = known.offered.iter();
    let reasons = reasons.filter_map(|class| Some((class.class.to_string(), class.reason.clone()?)));
    let multipliers = settings.share_per_class("miner.multiplier_min")?.iter();
    let multipliers = multipliers.map(|(class, min)| {
        let share = share_of(known, class);
        (class.clone(), Multiplier { share, min: *min })
    });
    context.print_data(&ShownManifest {
        offered: offered(known),
        offered_since: text(known.offered_since)?,
        reasons: reasons.collect(),
        in_force: &known.state.counted,
        changed_at: text(known.state.changed_at)?,
        wanted,
        wanted_since: text(Some(wanted_since))?,
        takes_effect_at: text(known.due(now))?,
        commitment: committed(known)?,
        multipliers: multipliers.collect(),
    })
}

fn offered(known: &Known) -> Manifest {
    known
        .offered
        .iter()
        .map(|class| (class.class, class.count))
        .collect()
}

fn committed(known: &Known) -> Result<String, CmdError> {
    commitment::merge("", &offered(known)).or_fail(ExitCode::Failed, "could not write the commitment")
}

fn share_of(known: &Known, class: &str) -> Option<f64> {
    let shares = known.values.class_shares()?;
    let class: ExecutorClass = class.parse().ok()?;
    Some(shares.get(&class).copied().unwrap_or(0.0))
}

fn counts(manifest: &Manifest) -> String {
    let counts: Vec<_> = manifest
        .0
        .iter()
        .map(|(class, count)| format!("{class}={count}"))
        .collect();
    if counts.is_empty() {
        "nothing".to_owned()
    } else {
        counts.join(" ")
    }
}

/// Says when a change takes effect.
fn when(due: Option<OffsetDateTime>, now: OffsetDateTime) -> Result<String, CmdError> {
    Ok(match due {
        None => "nothing waits".to_owned(),
        Some(due) if due <= now => "at once, or when the miner starts".to_owned(),
        Some(due) => {
            let minutes = (due - now).whole_minutes().max(0) + 1;
            let (hours, minutes) = (minutes / 60, minutes % 60);
            format!(
                "{}  (in {hours} h {minutes} min; a change counts every two hours at most)",
                stamp(due)?
            )
        }
    })
}

fn stamp(moment: OffsetDateTime) -> Result<String, CmdError> {
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    whole
        .format(&Rfc3339)
        .or_fail(ExitCode::Bug, "could not write a time")
}

fn text(moment: Option<OffsetDateTime>) -> Result<Option<String>, CmdError> {
    moment.map(stamp).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_known_class_and_a_number() {
        assert_eq!(count_of("always_on.test=0"), Ok((ExecutorClass::AlwaysOnTest, 0)));
        for text in [
            "always_on.test",
            "always_on.test=",
            "always_on.test=-1",
            "always_on.test=10001",
            "x=1",
            "=1",
        ] {
            assert!(count_of(text).is_err(), "{text}");
        }
    }
}
