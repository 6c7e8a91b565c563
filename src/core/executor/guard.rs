//! The door: nothing of a stranger's runs on a machine whose security checks do not hold.

use crate::core::docker::EngineError;
use crate::core::docker::info::EngineInfo;
use crate::core::host::checks::{self, Finding, Status};
use crate::core::host::facts::Host;
use crate::core::host::floors::Floors;

use super::container::ours;
use super::machine::Fault;

/// Looks at the machine before jobs run on it; what was read once is kept.
#[derive(Debug)]
pub(super) struct Guard {
    host: Host,
    floors: Floors,
    accepted: Vec<String>,
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
        }
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
                Status::Held | Status::Failed | Status::Advice => {}
            }
        }
        let failed: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| finding.status == Status::Failed)
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Fault::Insecure(failed))
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
