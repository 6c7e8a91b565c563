//! What a miner does first: it goes on with what a former life left, and ends what it cannot go on with.
//!
//! | the journal says | the executor | then |
//! |---|---|---|
//! | not started | does not run | started now, while its validator still waits; else ended |
//! | not started, starting | runs | adopted: it connects as if nothing had been |
//! | ready or running, comes back by itself | runs | adopted: it has its time to come back |
//! | ready or running, does not come back | | killed at once, `executor_disconnected` |
//! | starting, cancelled by its user | runs or not | killed, and the job has ended as cancelled |
//! | ready or running, cancelled, comes back by itself | runs | adopted, and asked to end the job |
//! | over | runs | adopted until it has been thanked for its report and has exited |
//! | over, to be killed | | killed |
//! | anything | does not run | ended, unless it is over; its slot is given back |
//!
//! The outcome of a job that is over waits in the store for its validator.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Miner;
use super::backend::{Backend, ExecutorOrder, Running};
use super::job::{Job, miner_failed};
use super::keeper::{Adoption, Keeper, LETTERS, Letter};
use super::pool::Post;
use crate::core::clock::Backoff;
use crate::core::model::job::{HordeReason, JobStage};
use crate::core::proto::job::{FullJob, InitialJob, JobFailed};
use crate::core::proto::validator_miner::{Down, Up};
use crate::core::store::StoreError;
use crate::core::store::miner::{JobState, Leftover};
use crate::core::tasks::Tasks;

/// Time for one executor and its containers to be cleared away before serving; what takes longer goes on beside.
const CLEAR_TIME: Duration = Duration::from_secs(10);

/// Shortest and longest pause between attempts to clear away on an engine that does not answer.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// For how long after its reservation an executor is still started, besides the time that validators give it.
const START_SLACK: Duration = Duration::from_secs(10);

/// What is to be done for a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Go on with its executor, if that still runs; the flag says whether it is to be started if it does not.
    Adopt { or_start: bool },
    /// End its executor, by force.
    End,
}

fn plan(leftover: &Leftover, is_awaited: bool) -> Plan {
    match leftover.state {
        _ if leftover.is_doomed => Plan::End,
        JobState::WaitingForExecutor if leftover.cancelled.is_some() => Plan::End,
        JobState::WaitingForExecutor => Plan::Adopt {
            or_start: !leftover.is_started && is_awaited,
        },
        JobState::WaitingForPayload | JobState::Running if !leftover.resumes => Plan::End,
        JobState::WaitingForPayload
        | JobState::Running
        | JobState::Finished
        | JobState::Failed
        | JobState::Rejected => Plan::Adopt { or_start: false },
    }
}

/// Adopts executors and jobs of a former life, ends what cannot be adopted, and frees the slots of what is ended.
///
/// An engine that does not answer is asked again in the background: its containers are then dead or unreachable, and
/// the slots must not be lost to that.
pub(super) async fn recover(miner: &Arc<Miner>, tasks: &Tasks) -> Result<(), StoreError> {
    let leftovers = miner.store.leftovers().await?;
    let recovered = leftovers.into_iter().map(|leftover| take(miner, leftover, tasks));
    join_all(recovered).await.into_iter().collect()
}

async fn take(miner: &Arc<Miner>, leftover: Leftover, tasks: &Tasks) -> Result<(), StoreError> {
    let (job, state) = (leftover.job.clone(), leftover.state.as_str());
    let age = age(leftover.accepted, miner.clock.now());
    let request = read(&leftover);
    let is_awaited = request.as_ref().is_some_and(|(request, _)| {
        let spin_up = u64::try_from(request.executor_class.spin_up_seconds()).unwrap_or(0);
        age < Duration::from_secs(spin_up) + miner.config.executor_startup + START_SLACK
    });
    let plan = plan(&leftover, is_awaited);
    if let (Plan::Adopt { or_start }, Some((request, order)), Some(slot)) = (plan, request, leftover.slot) {
        let executor = ExecutorOrder {
            job: job.clone(),
            class: request.executor_class,
            slot,
            token: leftover.token.clone(),
            streaming_port: leftover.streaming_port,
            startup_seconds: None,
        };
        let running = miner.backend.adopt(&executor, leftover.process.as_deref()).await;
        if let Some(running) = &running
            && !leftover.is_started
        {
            let noted = miner.store.started(&job, running.process(), miner.clock.now());
            noted.await?;
        }
        if running.is_some() || or_start {
            tracing::info!(%job, state, is_running = running.is_some(), "going on with a job of a former life");
            adopt(miner, leftover, executor, (request, order), running, tasks);
            return Ok(());
        }
    }
    if leftover.state.is_open() {
        tracing::warn!(%job, state, "a former life of this miner left a job that cannot go on");
    } else {
        tracing::info!(%job, state, "the executor of a job of a former life is seen off");
    }
    end(miner, leftover, tasks).await
}

/// Reads what the validator had sent; what this version cannot read cannot go on.
fn read(leftover: &Leftover) -> Option<(Box<InitialJob>, Option<Box<FullJob>>)> {
    let request = match Down::decode(&leftover.request) {
        Ok(Down::InitialJob(request)) => Box::new(request),
        Ok(_) | Err(_) => return None,
    };
    match leftover.order.as_deref().map(Down::decode) {
        None => Some((request, None)),
        Some(Ok(Down::FullJob(order))) => Some((request, Some(Box::new(order)))),
        Some(Ok(_) | Err(_)) => None,
    }
}

fn adopt(
    miner: &Arc<Miner>,
    leftover: Leftover,
    executor: ExecutorOrder,
    (request, order): (Box<InitialJob>, Option<Box<FullJob>>),
    running: Option<Box<dyn Running>>,
    tasks: &Tasks,
) {
    let (letters, mailbox) = mpsc::channel(LETTERS);
    let post = Post {
        validator: leftover.validator,
        class: executor.class,
        slot: executor.slot,
        token: leftover.token,
        letters,
        is_leaving: !leftover.state.is_open(),
    };
    if leftover.cancelled.is_some() && leftover.state.is_open() {
        // Its first letter: there is room.
        drop(post.letters.try_send(Letter::Cancelled(None)));
    }
    miner.pool.enter(&leftover.job, post);
    let age = age(leftover.accepted, miner.clock.now());
    let is_streaming = request.streaming_details.is_some();
    let reach = miner.backend.reach(executor.class, executor.slot);
    let address = reach.address.unwrap_or_else(|| miner.address().to_string());
    let adoption = Adoption {
        job: Job::adopted(request, &address, leftover.state, order, leftover.resumes),
        port: leftover.streaming_port.and_then(|port| miner.ports.reclaim(port)),
        order: executor,
        running,
        is_streaming,
        time_left: miner.config.executor_ttl.saturating_sub(age),
        outcome: leftover.outcome,
    };
    miner.keep(Keeper::adopt(Arc::clone(miner), adoption, mailbox), tasks);
}

/// Ends what cannot go on: the executor, its containers, the job, the slot.
async fn end(miner: &Miner, leftover: Leftover, tasks: &Tasks) -> Result<(), StoreError> {
    let is_cancelled = leftover.cancelled.is_some();
    let stage = match leftover.state {
        JobState::Running => JobStage::Execution,
        JobState::WaitingForPayload => JobStage::VolumeDownload,
        JobState::WaitingForExecutor | JobState::Finished | JobState::Failed | JobState::Rejected => {
            JobStage::ExecutorStartup
        }
    };
    let Leftover {
        job, token, process, ..
    } = leftover;
    let is_cleared = match timeout(CLEAR_TIME, miner.backend.clear(&token, process.as_deref())).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%job, %error, "cannot clear away what it left; trying on");
            false
        }
        Err(_) => {
            tracing::warn!(%job, "clearing away what it left takes long; going on beside");
            false
        }
    };
    if !is_cleared {
        let backend = Arc::clone(&miner.backend);
        tasks.spawn("clear", clear(backend, token, process, tasks.clone()));
    }
    // Not cancelled as long as something of it may run.
    let outcome: Up = if is_cancelled && is_cleared {
        JobFailed::cancelled(job.clone(), stage).into()
    } else {
        let message = "Miner was restarted while job was running".to_owned();
        miner_failed(&job, HordeReason::ExecutorDisconnected, message).into()
    };
    miner.store.bury(&job, outcome.encode(), miner.clock.now()).await
}

async fn clear(backend: Arc<dyn Backend>, token: String, process: Option<String>, tasks: Tasks) {
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

fn age(accepted: OffsetDateTime, now: OffsetDateTime) -> Duration {
    // A wall clock that was set back makes it look young.
    Duration::try_from(now - accepted).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{Hotkey, JobId};

    #[test]
    fn what_cannot_come_back_or_is_to_be_killed_is_ended_and_the_rest_is_adopted() {
        let leftover = |state, is_started, resumes, is_doomed| Leftover {
            job: JobId::new("j"),
            validator: Hotkey::from("v"),
            token: "t".to_owned(),
            process: None,
            state,
            slot: Some(0),
            request: String::new(),
            order: None,
            streaming_port: None,
            is_started,
            resumes,
            is_doomed,
            cancelled: None,
            accepted: OffsetDateTime::UNIX_EPOCH,
            outcome: None,
        };
        let adopt = |or_start| Plan::Adopt { or_start };
        for (state, is_started, resumes, is_awaited, expected) in [
            (JobState::WaitingForExecutor, false, false, true, adopt(true)),
            (JobState::WaitingForExecutor, false, false, false, adopt(false)),
            (JobState::WaitingForExecutor, true, false, true, adopt(false)),
            (JobState::WaitingForPayload, true, false, true, Plan::End),
            (JobState::WaitingForPayload, true, true, true, adopt(false)),
            (JobState::Running, true, false, true, Plan::End),
            (JobState::Running, true, true, false, adopt(false)),
            (JobState::Finished, true, true, false, adopt(false)),
            (JobState::Failed, true, false, false, adopt(false)),
        ] {
            let case = leftover(state, is_started, resumes, false);
            assert_eq!(plan(&case, is_awaited), expected, "{case:?}");
            let doomed = leftover(state, is_started, resumes, true);
            assert_eq!(plan(&doomed, is_awaited), Plan::End);
            let cancelled = Leftover {
                cancelled: Some(OffsetDateTime::UNIX_EPOCH),
                ..case
            };
            let is_early = state == JobState::WaitingForExecutor;
            assert_eq!(
                plan(&cancelled, is_awaited),
                if is_early { Plan::End } else { expected }
            );
        }
    }
}
