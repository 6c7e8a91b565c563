//! The machine's description for the miner: read beside everything else, never waited for long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::core::docker::limits::{ContainerSpec, Labels, Network, Preset, Role};
use crate::core::docker::own::own_image;
use crate::core::docker::{Engine, EngineError, StreamName};
use crate::core::host::specs;
use crate::core::proto::job::Context;

use super::container::Identity;
use super::guard::Guard;

/// The longest that the report may wait for the description.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest that a container may take to describe the GPUs.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// The longest description that a container of ours may write, in bytes.
const HELPER_BYTES_MAX: usize = 256 * 1024;

/// The section of the description that a container can read where this process cannot.
const GPU: &str = "gpu";

/// Describes the machine; `gpus` says whether jobs of this class get GPUs.
///
/// An executor in a container does not see the driver's library; where the engine has the NVIDIA runtime, the GPUs
/// are described from inside a container that has it.
pub(super) async fn describe(
    guard: &Guard,
    engine: &dyn Engine,
    identity: &Identity,
    disk: &Path,
    gpus: bool,
) -> Context {
    // An engine that does not answer is told elsewhere.
    let (system, has_runtime) = match guard.host().engine().await {
        Ok(facts) => (facts.info.operating_system.clone(), facts.has_nvidia_runtime()),
        Err(_) => (String::new(), false),
    };
    let (nvml, disk) = (Arc::clone(guard.host().gpus()), disk.to_owned());
    let read = move || (specs::read(&*nvml, &disk, &system), nvml.has_library());
    let (mut specs, has_library) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "could not describe the machine");
            return Context::new();
        }
    };
    if gpus && has_runtime && !has_library {
        match timeout(HELPER_PATIENCE, described_inside(engine, identity)).await {
            Ok(Ok(gpu)) => {
                specs.insert(GPU.to_owned(), gpu);
            }
            Ok(Err(error)) => {
                specs.insert(format!("{GPU}_scrape_error"), error.to_string().into());
            }
            Err(_elapsed) => {
                let error = format!("no answer within {} s", HELPER_PATIENCE.as_secs());
                specs.insert(format!("{GPU}_scrape_error"), error.into());
            }
        }
    }
    specs.into_iter().collect()
}

/// Why a container did not describe the GPUs.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("could not make the helper's image: {0}")]
    Image(String),
    #[error("the helper ended with {0}")]
    Exit(i64),
    #[error("the helper wrote no description of the GPUs")]
    NoDescription,
}

async fn described_inside(engine: &dyn Engine, identity: &Identity) -> Result<Value, HelperError> {
    let image = own_image(engine)
        .await
        .map_err(|error| HelperError::Image(error.to_string()))?;
    let spec = ContainerSpec {
        name: format!("ch-{}-specs", identity.token),
        image,
        command: ["executor", "specs", "--json"].map(str::to_owned).to_vec(),
        env: [
            ("NVIDIA_VISIBLE_DEVICES", "all"),
            ("NVIDIA_DRIVER_CAPABILITIES", "utility"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        labels: Labels {
            owner: identity.owner.clone(),
            token: identity.token.clone(),
            job: None,
        },
        mounts: Vec::new(),
        network: Network::None,
        role: Role::Helper {
            uid: NOBODY,
            gid: NOBODY,
            preset: Preset::NvidiaAll,
        },
    };
    let container = engine.create(&spec).await?;
    let described = async {
        let mut output = engine.attach(&container).await?;
        engine.start(&container).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = output.next().await {
            let chunk = chunk?;
            if chunk.stream == StreamName::Stdout && bytes.len() < HELPER_BYTES_MAX {
                bytes.extend_from_slice(&chunk.bytes);
            }
        }
        match engine.wait(&container).await? {
            0 => gpu_of(&bytes).ok_or(HelperError::NoDescription),
            code => Err(HelperError::Exit(code)),
        }
    }
    .await;
    engine.remove(&container).await?;
    described
}

/// The user of the helper: nobody's, as most systems number it.
const NOBODY: u32 = 65_534;

fn gpu_of(bytes: &[u8]) -> Option<Value> {
    let mut specs: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    specs.remove(GPU)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_description_is_taken_for_one() {
        let specs = br#"{"gpu": {"count": 1, "details": []}, "cpu": {}}"#;
        assert_eq!(gpu_of(specs), Some(json!({ "count": 1, "details": [] })));
        for bytes in [&b""[..], b"[]", b"{}", b"error: no"] {
            assert_eq!(gpu_of(bytes), None);
        }
    }
}
