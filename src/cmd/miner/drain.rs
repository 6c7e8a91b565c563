//! `horde miner drain` and `horde miner undrain`: before a machine is worked on, and after.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::super::confirm::{ChangeArgs, Plan};
use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::open_beside;
use crate::core::store::miner::MinerStore;

/// Time between two looks at the jobs that still run.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const FAILED: &str = "could not order it";

/// `horde miner drain …`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  horde miner drain --wait && systemctl reboot
  horde miner drain --wait 600 || echo 'some job takes longer'")]
pub struct DrainArgs {
    /// Return once no job holds an executor, or fail with exit code 7 after SECONDS
    #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
    #[expect(
        clippy::option_option,
        reason = "how clap tells a flag without a value from none"
    )]
    wait: Option<Option<u64>>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde miner undrain …`
#[derive(Args, Debug)]
pub struct UndrainArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

impl DrainArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, settings) = open_beside(context).await?;
        let plan = plan(&store, "drain", true).await?.undo("horde miner undrain");
        if !self.change.allow(context, &settings, &plan).await? {
            return Ok(());
        }
        store
            .order_draining(true)
            .await
            .or_fail(ExitCode::Failed, FAILED)?;
        plan.tell_undo(context);
        let Some(limit) = self.wait else {
            let taken = running(&store).await?;
            return tell(context, true, taken);
        };
        let started = Instant::now();
        let limit = limit.map(Duration::from_secs);
        loop {
            let taken = running(&store).await?;
            if taken == 0 {
                return tell(context, true, taken);
            }
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                tell(context, true, taken)?;
                let message = format!(
                    "{taken} jobs still hold an executor after {} s",
                    started.elapsed().as_secs()
                );
                let hint = "the miner stays drained; wait again, or stop it: what runs is then left to its next start";
                return Err(CmdError::new(ExitCode::TooLong, message).hint(hint));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl UndrainArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let (store, settings) = open_beside(context).await?;
        let plan = plan(&store, "undrain", false).await?;
        if !self.change.allow(context, &settings, &plan).await? {
            return Ok(());
        }
        store
            .order_draining(false)
            .await
            .or_fail(ExitCode::Failed, FAILED)?;
        let taken = running(&store).await?;
        tell(context, false, taken)
    }
}

async fn plan(store: &MinerStore, action: &'static str, is_draining: bool) -> Result<Plan, CmdError> {
    let before = store.is_draining().await.or_fail(ExitCode::Failed, FAILED)?;
    let word = |is_draining| Some(if is_draining { "none taken" } else { "taken" }.to_owned());
    Ok(Plan::new(action, "the", "miner").change("new jobs", word(before), word(is_draining)))
}

/// Returns how many jobs hold an executor; no more can come while the miner is draining.
async fn running(store: &MinerStore) -> Result<u32, CmdError> {
    let taken = store.slots_taken().await;
    taken.or_fail(ExitCode::Failed, "could not count the jobs")
}

/// How a miner takes jobs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Draining {
    /// Whether it takes no new ones.
    is_draining: bool,
    /// How many hold an executor.
    jobs: u32,
}

fn tell(context: &Context, is_draining: bool, jobs: u32) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(&Draining { is_draining, jobs });
    }
    let word = if is_draining {
        "draining: no new jobs are taken"
    } else {
        "taking jobs"
    };
    context.line(format_args!("{word}; {jobs} jobs hold an executor"))
}
