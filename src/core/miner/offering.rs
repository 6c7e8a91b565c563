//! What validators are offered: the counts that are in force, less what rests and what does not pay.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::Miner;
use super::admission::Refusal;
use super::backend::capacity::Capacity;
use super::manifest;
use crate::core::model::{ExecutorClass, Manifest};
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::store::miner::manifest::OfferedClass;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Loop;

/// Time between two looks whether a change is due or what is offered has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns the counts that are in force at the start; the configuration offers every place.
pub(super) async fn begin(
    capacity: &Capacity,
    store: &MinerStore,
    now: OffsetDateTime,
) -> Result<Manifest, StoreError> {
    let known = store.manifest_state().await?;
    let setting = match &known {
        // Places that nobody can tell of now are not fewer.
        Some(known) if capacity.places.is_empty() => known.setting.clone(),
        Some(_) | None => capacity.all(),
    };
    let state = manifest::begin(known, setting, now);
    store.keep_manifest(state.clone()).await?;
    Ok(state.counted)
}

/// Puts a change of the operator into force if it is due.
pub(super) async fn advance(miner: &Miner) -> Result<(), StoreError> {
    let Some(state) = miner.store.manifest_state().await? else {
        return Ok(());
    };
    let order = miner.store.manifest_order().await?;
    let now = miner.clock.now();
    if let Some(next) = manifest::advance(&state, order.as_ref(), now) {
        miner.store.keep_manifest(next.clone()).await?;
        if !manifest::is_same(&next.counted, &state.counted) {
            tracing::info!(executors = %next.counted, "a change of the manifest is in force");
        }
        miner.pool.set_counted(next.counted);
        return Ok(());
    }
    if let Some(due) = manifest::due(&state, order.as_ref(), now) {
        let (wanted, _) = manifest::wanted(&state, order.as_ref());
        tracing::info!(executors = %wanted, %due, "a change of the manifest waits for its time");
    }
    Ok(())
}

/// Keeps the manifest up to date: changes come into force at their time, and commands find what is offered.
pub(super) async fn keep(miner: Arc<Miner>, tasks: Tasks) {
    let mut turns = tasks.turns(LOOK_EVERY);
    let mut told = None;
    while turns.next().await {
        miner.beat(Loop::Manifest);
        if let Err(error) = turn(&miner, &mut told).await {
            tracing::warn!(%error, "cannot keep the manifest up to date");
        }
    }
}

async fn turn(miner: &Miner, told: &mut Option<Vec<OfferedClass>>) -> Result<(), StoreError> {
    if let Some(state) = miner.store.manifest_state().await?
        && let Some(state) = manifest::follow(&state, miner.pool.all_places(), miner.clock.now())
    {
        tracing::info!(executors = %state.setting, "the backend's places are others than before");
        miner.store.keep_manifest(state).await?;
    }
    if is_due(miner).await? {
        advance(miner).await?;
    }
    let offered = classes(miner);
    if told.as_ref() != Some(&offered) {
        miner
            .store
            .keep_offered(offered.clone(), miner.clock.now())
            .await?;
        *told = Some(offered);
    }
    Ok(())
}

async fn is_due(miner: &Miner) -> Result<bool, StoreError> {
    let Some(state) = miner.store.manifest_state().await? else {
        return Ok(false);
    };
    let order = miner.store.manifest_order().await?;
    Ok(manifest::advance(&state, order.as_ref(), miner.clock.now()).is_some())
}

/// Returns what validators are told.
pub(super) fn offered(miner: &Miner) -> Manifest {
    let mut manifest = miner.pool.manifest();
    if !miner.config.multiplier_min.is_empty() {
        for (class, count) in &mut manifest.0 {
            if unprofitable(miner, *class).is_some() {
                // Not left out: a class that is not listed is none that the miner has.
                *count = 0;
            }
        }
    }
    manifest
}

/// Returns what validators are told, with the reasons for what is less than the counts in force.
fn classes(miner: &Miner) -> Vec<OfferedClass> {
    let (counted, offered) = (miner.pool.counted(), miner.pool.manifest());
    let classes = counted.0.iter().map(|(class, wanted)| {
        let count = offered.count(*class);
        let (count, reason) = match unprofitable(miner, *class) {
            Some(refusal) => (0, Some(refusal.to_string())),
            None if count < *wanted => (count, Some(shortage(miner, *class))),
            None => (count, None),
        };
        OfferedClass {
            class: *class,
            count,
            reason,
        }
    });
    classes.collect()
}

/// Says why there are fewer executors of a class than are wanted.
fn shortage(miner: &Miner, class: ExecutorClass) -> String {
    let (places, in_service) = miner.pool.places(class);
    let usable = miner.pool.usable().count(class);
    let resting = i64::try_from(in_service).unwrap_or(i64::MAX) - usable;
    let lost = places - in_service;
    format!(
        "there are {places} places, of which {lost} are lost and {resting} rest after an executor left its machine unfit"
    )
}

/// Returns why jobs of a class do not pay, if the operator has set a least share and the shares are known.
///
/// The seed's multiplier of a class is, on today's network, the share of its weight in the weights of all classes:
/// validators give that part of what they pay to the miners of the class (sem-scoring §1 and §5). There is no price per
/// job that a miner could look at.
pub(super) fn unprofitable(miner: &Miner, class: ExecutorClass) -> Option<Refusal> {
    let minima = &miner.config.multiplier_min;
    let min = minima.iter().find(|(known, _)| *known == class)?.1;
    let shares = miner.dynamic.borrow().class_shares()?;
    let share = shares.get(&class).copied().unwrap_or(0.0);
    (share < min).then_some(Refusal::Unprofitable { class, share, min })
}
