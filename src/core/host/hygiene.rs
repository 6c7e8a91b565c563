//! Are the GPUs as they were before a job: no process of it, and its memory given back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::gpu::{GpuError, Gpus, Usage};

/// How long a driver may take to give back what a process that is gone has held.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// How much more memory than before may be in use, in bytes: what the driver itself keeps after the first use of a
/// GPU. A job that was left running holds a context of several hundred MiB at least.
const TOLERANCE_BYTES: u64 = 256 * 1024 * 1024;

/// What is wrong with the GPUs after a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dirt {
    /// A process computes that did not before.
    #[error("process {pid} still computes on the GPU {uuid} after the job's end")]
    Process {
        /// The GPU.
        uuid: String,
        /// The process, as the host numbers it.
        pid: u32,
    },
    /// Memory is in use that was not before.
    #[error("the GPU {uuid} has {used_bytes} bytes in use after the job's end; before it, {floor_bytes}")]
    Memory {
        /// The GPU.
        uuid: String,
        /// In use now.
        used_bytes: u64,
        /// In use before the job.
        floor_bytes: u64,
    },
    /// A GPU does not answer any more.
    #[error("the GPU {uuid} is not there any more after the job's end")]
    Lost {
        /// The GPU.
        uuid: String,
    },
    /// Nobody knows.
    #[error(transparent)]
    Unreadable(#[from] GpuError),
}

/// Compares the use of the GPUs now with that before the job.
pub fn judge(floor: &[Usage], now: &[Usage]) -> Result<(), Dirt> {
    for before in floor {
        let uuid = before.uuid.clone();
        let Some(after) = now.iter().find(|after| after.uuid == before.uuid) else {
            return Err(Dirt::Lost { uuid });
        };
        if let Some(&pid) = after.processes.iter().find(|pid| !before.processes.contains(pid)) {
            return Err(Dirt::Process { uuid, pid });
        }
        if after.used_bytes > before.used_bytes.saturating_add(TOLERANCE_BYTES) {
            return Err(Dirt::Memory {
                uuid,
                used_bytes: after.used_bytes,
                floor_bytes: before.used_bytes,
            });
        }
    }
    Ok(())
}

/// Waits until the GPUs are as they were, [`PATIENCE`] at most.
pub async fn settle(gpus: &Arc<dyn Gpus>, floor: &[Usage]) -> Result<(), Dirt> {
    settle_within(PATIENCE, PAUSE, gpus, floor).await
}

async fn settle_within(
    patience: Duration,
    pause: Duration,
    gpus: &Arc<dyn Gpus>,
    floor: &[Usage],
) -> Result<(), Dirt> {
    if floor.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + patience;
    loop {
        let verdict = match usage(gpus).await {
            Ok(now) => judge(floor, &now),
            Err(error) => Err(error.into()),
        };
        match verdict {
            Err(_) if Instant::now() < deadline => sleep(pause).await,
            verdict => return verdict,
        }
    }
}

/// Asks how the GPUs are used, on a thread that may block.
pub async fn usage(gpus: &Arc<dyn Gpus>) -> Result<Vec<Usage>, GpuError> {
    let gpus = Arc::clone(gpus);
    tokio::task::spawn_blocking(move || gpus.usage())
        .await
        .unwrap_or_else(|error| {
            Err(GpuError {
                what: "the use of the GPUs",
                why: error.to_string(),
            })
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::gpu::play::PlayedGpus;
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const SHORT: Duration = Duration::from_millis(200);
    const PAUSE_IN_TESTS: Duration = Duration::from_millis(2);

    fn used(mebibytes: u64, processes: &[u32]) -> Vec<Usage> {
        vec![Usage {
            uuid: "GPU-1".to_owned(),
            used_bytes: mebibytes * MIB,
            processes: processes.to_vec(),
        }]
    }

    #[test]
    fn what_was_there_before_the_job_is_not_its_dirt() {
        let floor = used(500, &[7]);
        for (now, is_clean) in [
            (used(500, &[7]), true),
            (used(700, &[]), true),
            (used(757, &[7]), false),
            (used(100, &[7, 8]), false),
            (Vec::new(), false),
        ] {
            assert_eq!(judge(&floor, &now).is_ok(), is_clean, "{now:?}");
        }
        assert_eq!(judge(&[], &used(9000, &[1])), Ok(()));
    }

    fn gpus(answers: Vec<Result<Vec<Usage>, GpuError>>) -> Arc<dyn Gpus> {
        Arc::new(PlayedGpus {
            usage: Mutex::new(answers),
            ..PlayedGpus::default()
        })
    }

    #[tokio::test]
    async fn memory_that_is_given_back_late_is_waited_for() {
        let busy = || Ok(used(20_000, &[42]));
        let gpus = gpus(vec![busy(), busy(), Ok(used(3, &[]))]);
        assert_eq!(
            settle_within(SHORT, PAUSE_IN_TESTS, &gpus, &used(2, &[])).await,
            Ok(())
        );
    }

    #[tokio::test]
    async fn a_process_that_stays_is_dirt_after_the_patience() {
        let gpus = gpus(vec![Ok(used(20_000, &[42]))]);
        let began = Instant::now();
        let dirt = settle_within(SHORT, PAUSE_IN_TESTS, &gpus, &used(2, &[]))
            .await
            .unwrap_err();
        assert!(matches!(dirt, Dirt::Process { pid: 42, .. }), "{dirt}");
        assert!(began.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_driver_that_stops_answering_is_dirt_too() {
        let error = GpuError {
            what: "a GPU",
            why: "it has fallen off the bus".to_owned(),
        };
        let gpus = gpus(vec![Err(error.clone())]);
        assert_eq!(
            settle_within(SHORT, PAUSE_IN_TESTS, &gpus, &used(2, &[])).await,
            Err(Dirt::Unreadable(error))
        );
    }
}
