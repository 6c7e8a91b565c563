//! Carries out what [`super::sharing`] decides, where the operator has turned it on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Miner;
use super::keeper::Letter;
use super::sharing::{Decision, Request, Sharing};
use crate::core::model::{Hotkey, JobId};
use crate::core::proto::job::InitialJob;
use crate::core::tasks::Tasks;

/// Time between two looks at jobs that reach a boundary.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a job takes that names no limits, in seconds: the total of the legacy mode (wire-miner-validator §5).
const SECONDS_UNSAID: u32 = 300;

/// The shares of validators; none when whoever comes first has the executors.
#[derive(Debug)]
pub(super) struct Shares(Option<Mutex<Sharing>>);

impl Shares {
    pub(super) fn new(by_stake: bool) -> Self {
        Self(by_stake.then(Mutex::default))
    }

    /// Decides on a request of a validator; none when nothing is shared by stake, or the job runs already.
    pub(super) fn ask(
        &self,
        miner: &Miner,
        validator: &Hotkey,
        job: &InitialJob,
        knows: bool,
    ) -> Option<Decision> {
        let mut sharing = self.sharing()?;
        if sharing.has(&job.job_uuid) {
            return None;
        }
        sharing.set_stakes(miner.validators.stakes());
        let request = Request {
            job: &job.job_uuid,
            validator,
            class: job.executor_class,
            seconds: seconds(job),
            knows,
            slots: u32::try_from(miner.pool.manifest().count(job.executor_class)).unwrap_or(u32::MAX),
        };
        Some(sharing.ask(request, Instant::now()))
    }

    /// Notes that a job has left its executor, or got none after all.
    pub(super) fn end(&self, job: &JobId) {
        if let Some(mut sharing) = self.sharing() {
            sharing.end(job, Instant::now());
        }
    }

    fn due(&self) -> Vec<JobId> {
        self.sharing()
            .map_or_else(Vec::new, |mut sharing| sharing.due(Instant::now()))
    }

    fn sharing(&self) -> Option<MutexGuard<'_, Sharing>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns how long a job may take, by the limits that its validator set.
fn seconds(job: &InitialJob) -> u32 {
    let Some(timing) = &job.executor_timing else {
        return job
            .timeout_seconds
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(SECONDS_UNSAID);
    };
    let stages = [
        timing.download_time_limit,
        timing.execution_time_limit,
        timing.upload_time_limit,
    ];
    let seconds = stages
        .iter()
        .fold(0, |sum: i64, limit| sum.saturating_add(*limit));
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// Stops best-effort jobs at their boundaries, until the family is told to stop.
pub(super) async fn watch(miner: Arc<Miner>, tasks: Tasks) {
    if miner.shares.0.is_none() {
        return;
    }
    let mut turns = tasks.turns(LOOK_EVERY);
    while turns.next().await {
        for job in miner.shares.due() {
            if let Some(post) = miner.pool.post(&job) {
                tracing::info!(%job, validator = %post.validator, "best-effort job stops at its boundary");
                // A keeper that has just left needs nobody any more.
                drop(post.letters.send(Letter::Preempted).await);
            }
        }
    }
}
