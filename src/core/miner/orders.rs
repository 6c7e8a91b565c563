//! What the operator orders by commands beside the running miner: looked for every second, and once at the start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Miner, offering};
use crate::core::store::StoreError;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Loop;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows new orders until the family is told to stop.
pub(super) async fn watch(miner: Arc<Miner>, tasks: Tasks) {
    let mut turns = tasks.turns(LOOK_EVERY);
    let mut followed = None;
    let mut is_failing = false;
    while turns.next().await {
        miner.beat(Loop::Orders);
        match look(&miner, followed).await {
            Ok(revision) => {
                followed = Some(revision);
                is_failing = false;
            }
            Err(error) if is_failing => tracing::debug!(%error, "cannot read the operator's orders"),
            Err(error) => {
                is_failing = true;
                tracing::error!(%error, "cannot read the operator's orders");
            }
        }
    }
}

/// Follows what was ordered since the revision that was followed last; returns the one that is followed now.
async fn look(miner: &Miner, followed: Option<i64>) -> Result<i64, StoreError> {
    let revision = miner.store.orders_revision().await?;
    if followed != Some(revision) {
        follow(miner).await?;
    }
    Ok(revision)
}

/// Takes over everything that is ordered now; one line for each kind of order.
pub(super) async fn follow(miner: &Miner) -> Result<(), StoreError> {
    offering::advance(miner).await?;
    validators(miner).await?;
    drain(miner).await?;
    Ok(())
}

async fn validators(miner: &Miner) -> Result<(), StoreError> {
    let orders = miner.store.validator_orders().await?;
    miner.validators.set_orders(orders);
    Ok(())
}

async fn drain(miner: &Miner) -> Result<(), StoreError> {
    let is_draining = miner.store.is_draining().await?;
    if miner.is_draining.swap(is_draining, Ordering::Relaxed) != is_draining {
        if is_draining {
            tracing::info!("draining: no new jobs are taken (`horde miner undrain` ends it)");
        } else {
            tracing::info!("no longer draining: jobs are taken again");
        }
    }
    Ok(())
}
