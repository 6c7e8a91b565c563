//! The miner's share of the dynamic configuration: which documents it reads, and the images that it preloads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::Miner;
use crate::core::config::MinerConfig;
use crate::core::docker::reference::ImageReference;
use crate::core::dynamic::keeper::{self, Document, Keeper};
use crate::core::dynamic::keys::{EXECUTOR_CLASS_WEIGHTS, MINER_KEYS, Values};
use crate::core::net::http::ClientError;
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Loop;

/// Time between two looks whether the engines still hold what was preloaded: 1 h, as users of the reference do it
/// (sem-miner §14).
const PRELOAD_EVERY: Duration = Duration::from_secs(3600);

/// Returns what the miner knew when it was last up; nothing if it is not to follow the dynamic configuration.
pub(super) async fn kept(
    config: &MinerConfig,
    store: &MinerStore,
) -> Result<watch::Sender<Arc<Values>>, StoreError> {
    match config.dynamic_config_url {
        Some(_) => keeper::kept(store).await,
        None => Ok(watch::Sender::default()),
    }
}

/// Starts to follow the dynamic configuration, if there is one.
pub(super) fn start(miner: &Arc<Miner>, tasks: &Tasks) -> Result<(), ClientError> {
    let Some(url) = &miner.config.dynamic_config_url else {
        return Ok(());
    };
    let keeper = Keeper::new(
        url,
        documents(&miner.config),
        Arc::new(miner.store.clone()),
        miner.clock.clone(),
        miner.dynamic.clone(),
    )?;
    tasks.spawn(
        "dynamic configuration",
        follow(Arc::clone(miner), keeper, tasks.clone()),
    );
    tasks.spawn("preload images", preload(Arc::clone(miner), tasks.clone()));
    Ok(())
}

/// Returns the documents of a miner, later ones winning.
fn documents(config: &MinerConfig) -> Vec<Document> {
    let environment = &config.dynamic_config_env;
    let document = |name: &str, keys: &[_]| Document {
        name: format!("{name}-config-{environment}.json"),
        keys: keys.to_vec(),
    };
    let mut documents = vec![document("miner", MINER_KEYS), document("common", MINER_KEYS)];
    if !config.multiplier_min.is_empty() {
        // What classes are worth is told to validators; a miner that asks reads it there.
        documents.insert(0, document("validator", &[EXECUTOR_CLASS_WEIGHTS]));
    }
    documents
}

async fn follow(miner: Arc<Miner>, mut keeper: Keeper, tasks: Tasks) {
    loop {
        miner.beat(Loop::Dynamic);
        let pause = tokio::select! {
            biased;
            () = tasks.stopped() => return,
            pause = keeper.refresh() => pause,
        };
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Preloads images when their list changes, and looks after them every hour.
async fn preload(miner: Arc<Miner>, tasks: Tasks) {
    let mut values = miner.dynamic.subscribe();
    let mut last = Vec::new();
    loop {
        let images = images(&values.borrow_and_update());
        if !images.is_empty() {
            tokio::select! {
                biased;
                () = tasks.stopped() => return,
                () = miner.backend.preload(&images) => {}
            }
        }
        last.clone_from(&images);
        let changed = async {
            // The sender lives as long as the miner.
            while values.changed().await.is_ok() {
                if self::images(&values.borrow_and_update()) != last {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = changed => {}
            () = sleep(PRELOAD_EVERY) => {}
        }
    }
}

fn images(values: &Values) -> Vec<ImageReference> {
    let names = values.preload_images().unwrap_or_default();
    names
        .iter()
        .filter_map(|name| match ImageReference::parse(name) {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::warn!(name, %error, "the dynamic configuration names an image that is none");
                None
            }
        })
        .collect()
}
