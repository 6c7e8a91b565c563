//! What a miner does first: it ends what a former life, killed in the middle of something, left.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::backend::Backend;
use super::job::miner_failed;
use crate::core::clock::{Backoff, Clock};
use crate::core::model::job::HordeReason;
use crate::core::proto::validator_miner::Up;
use crate::core::store::StoreError;
use crate::core::store::miner::{Leftover, MinerStore};
use crate::core::tasks::Tasks;

/// Time for one executor and its containers to be cleared away before serving; what takes longer goes on beside.
const CLEAR_TIME: Duration = Duration::from_secs(10);

/// Shortest and longest pause between attempts to clear away on an engine that does not answer.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Ends executors, containers and jobs of a former life and frees their slots.
///
/// In an orderly life nothing is left and nothing is done. An engine that does not answer is asked again in the
/// background: its containers are then dead or unreachable, and the slots must not be lost to that.
pub(super) async fn recover(
    store: &MinerStore,
    backend: &std::sync::Arc<dyn Backend>,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<(), StoreError> {
    for Leftover {
        job,
        token,
        process,
        state,
    } in store.leftovers().await?
    {
        tracing::warn!(%job, state = state.as_str(), "a former life of this miner left a job");
        match timeout(CLEAR_TIME, backend.clear(&token, process.as_deref())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%job, %error, "cannot clear away what it left; trying on");
                tasks.spawn("clear", clear(backend.clone(), token, process, tasks.clone()));
            }
            Err(_) => {
                tracing::warn!(%job, "clearing away what it left takes long; going on beside");
                tasks.spawn("clear", clear(backend.clone(), token, process, tasks.clone()));
            }
        }
        let outcome: Up = miner_failed(
            &job,
            HordeReason::ExecutorDisconnected,
            "Miner was restarted while job was running".to_owned(),
        )
        .into();
        store.bury(&job, outcome.encode(), clock.now()).await?;
    }
    Ok(())
}

async fn clear(backend: std::sync::Arc<dyn Backend>, token: String, process: Option<String>, tasks: Tasks) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = sleep(backoff.pause()) => {}
        }
        match backend.clear(&token, process.as_deref()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(token, %error, "still cannot clear away what a former life left"),
        }
    }
}
