//! The door: nothing of a stranger's runs on a machine whose security checks do not hold.

use tokio::sync::OnceCell;

use crate::core::docker::EngineError;
use crate::core::docker::info::EngineInfo;
use crate::core::host::checks::{self, Finding, Status};
use crate::core::host::facts::Host;
use crate::core::host::floors::Floors;
use crate::core::host::gpu::Usage;
use crate::core::host::hygiene::{self, Dirt};

use super::container::ours;
use super::machine::Fault;

/// Looks at the machine before jobs run on it; what was read once is kept.
#[derive(Debug)]
pub(super) struct Guard {
    host: Host,
    floors: Floors,
    accepted: Vec<String>,
    /// How the GPUs were used before the job, when it gets some.
    gpu_floor: OnceCell<Vec<Usage>>,
}

impl Guard {
    /// Makes a guard that lets the operator's `accepted` findings pass.
    pub(super) fn new(host: Host, floors: Floors, accepted: Vec<String>) -> Self {
        for name in checks::unknown_names(&floors, &accepted) {
            tracing::warn!(name, "executor.accept names no vulnerability that is checked");
        }
        Self {
            host,
            floors,
            accepted,
            gpu_floor: OnceCell::new(),
        }
    }

    /// Returns the reader of the machine.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Returns what the engine says of itself and its machine.
    pub(super) async fn engine(&self) -> Result<&EngineInfo, Fault> {
        match self.host.engine().await {
            Ok(engine) => Ok(&engine.info),
            Err(error) => Err(unasked(error)),
        }
    }

    /// Lets a job in, or tells what does not hold; `gpus` says whether it gets GPUs.
    pub(super) async fn admit(&self, gpus: bool) -> Result<(), Fault> {
        let facts = self.host.facts(gpus).await.map_err(unasked)?;
        let findings = checks::security(&facts, &self.floors, &self.accepted);
        for finding in &findings {
            let Finding {
                check,
                actual,
                required,
                ..
            } = finding;
            match finding.status {
                Status::Accepted => tracing::warn!(check, actual, required, "a risk that the operator takes"),
                Status::Unknown => {
                    tracing::info!(check, actual, required, "nobody can tell whether it holds");
                }
                Status::Held | Status::Failed | Status::Advice | Status::Skipped => {}
            }
        }
        let failed: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| finding.status == Status::Failed)
            .collect();
        if !failed.is_empty() {
            return Err(Fault::Insecure(failed));
        }
        if gpus {
            self.measure().await;
        }
        Ok(())
    }

    /// Notes how the GPUs are used before the job; once.
    async fn measure(&self) {
        let measured = self
            .gpu_floor
            .get_or_try_init(|| hygiene::usage(self.host.gpus()))
            .await;
        if let Err(error) = measured {
            tracing::warn!(%error, "nobody will know whether the job leaves the GPUs clean");
        }
    }

    /// Waits until the GPUs are as they were before the job. Without a look before there is nothing to compare.
    pub(super) async fn settle(&self) -> Result<(), Dirt> {
        match self.gpu_floor.get() {
            Some(floor) => hygiene::settle(self.host.gpus(), floor).await,
            None => Ok(()),
        }
    }
}

/// An engine that is not there is told in words for a person.
fn unasked(error: EngineError) -> Fault {
    match error {
        EngineError::Unreachable { .. } | EngineError::UnsupportedAddress { .. } => {
            Fault::Refused(error.to_string())
        }
        other => ours(other),
    }
}
