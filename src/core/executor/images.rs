//! From an image's name to the image that runs: found, refreshed or pulled, and then fixed by its content.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError, ImageFacts, ImageId};

use super::cache::{Asked, Cache};
use super::container::ours;
use super::machine::Fault;

/// How long a registry's word on a tag is good. The reference asks at every job; ten minutes is what its miners
/// take to refresh their own images.
const FRESH_FOR: Duration = Duration::from_secs(600);

/// How long a registry may take to say what a tag means now; the local image is used after that.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(3);

/// How much of the stage's time is kept for the rest of the stage when an image that is there is pulled anew.
const RESERVE: Duration = Duration::from_secs(1);

/// Free bytes that the engine's disk must have for a pull: images of jobs have some gigabytes, and a disk that is
/// full stops every container on it.
const FREE_BYTES_MIN: u64 = 2 * 1024 * 1024 * 1024;

/// An image that is at hand.
#[derive(Debug, Clone)]
pub(super) struct LocalImage {
    /// The name under which it was asked for.
    pub(super) reference: ImageReference,
    /// What it was at that moment; this runs, whatever the name means later.
    pub(super) id: ImageId,
}

/// Where images come from.
#[derive(Debug)]
pub(super) struct Images {
    engine: Arc<dyn Engine>,
    cache: Cache,
}

impl Images {
    /// Gets images onto `engine`.
    pub(super) fn new(engine: Arc<dyn Engine>, cache: Cache) -> Self {
        Self { engine, cache }
    }

    /// Finds an image, or fetches it; `until` is when the stage ends.
    ///
    /// A tag is asked about at its registry, once in [`FRESH_FOR`], when the image came from one: a name with a
    /// digest means one image for ever, and what was built here is in no registry. When the registry does not
    /// answer, or what it has cannot be fetched in time, the image that is there is used.
    pub(super) async fn obtain(&self, name: &str, until: Option<Instant>) -> Result<LocalImage, Fault> {
        let reference = ImageReference::parse(name).map_err(|error| Fault::NoImage(error.to_string()))?;
        let image = match self.look(&reference).await? {
            Some(image) => self.refresh(&reference, image, until).await?,
            None => self.pull(&reference).await?,
        };
        let ImageFacts { id, digests, .. } = image;
        tracing::info!(%reference, id = id.as_str(), digest = digests.first(), "the image of the job");
        Ok(LocalImage { reference, id })
    }

    /// Removes images that were pulled and do not fit into the budget any more.
    pub(super) async fn shrink(&self) {
        self.cache.shrink(&*self.engine).await;
    }

    async fn look(&self, reference: &ImageReference) -> Result<Option<ImageFacts>, Fault> {
        self.engine.inspect_image(reference).await.map_err(ours)
    }

    async fn refresh(
        &self,
        reference: &ImageReference,
        image: ImageFacts,
        until: Option<Instant>,
    ) -> Result<ImageFacts, Fault> {
        let is_fixed = reference.repository_and_tag().1.is_empty() || image.digests.is_empty();
        if is_fixed {
            return Ok(image);
        }
        let since_check = self.cache.since_check(reference, &image);
        if since_check.is_some_and(|age| age < FRESH_FOR) {
            self.cache.note(reference, &image, Asked::Engine).await;
            return Ok(image);
        }
        let asked = timeout(REGISTRY_PATIENCE, self.engine.registry_digest(reference)).await;
        match asked {
            Ok(Ok(digest)) if image.digests.iter().any(|known| known.ends_with(&digest)) => {}
            Ok(Ok(digest)) => {
                tracing::info!(%reference, digest, "the registry has another image by this name");
                let until = until.and_then(|until| until.checked_sub(RESERVE));
                let until = until.unwrap_or_else(|| Instant::now() + REGISTRY_PATIENCE);
                match timeout_at(until, self.pull(reference)).await {
                    Ok(Ok(newer)) => return Ok(newer),
                    Ok(Err(fault)) => {
                        tracing::warn!(%reference, ?fault, "could not pull it: the older image is used");
                    }
                    Err(_elapsed) => {
                        tracing::warn!(%reference, "no time to pull it: the older image is used");
                    }
                }
            }
            Ok(Err(error)) => tracing::info!(%reference, %error, "the image that is there is used"),
            Err(_elapsed) => {
                tracing::info!(%reference, "the registry does not answer: the image that is there is used");
            }
        }
        self.cache.note(reference, &image, Asked::Registry).await;
        Ok(image)
    }

    async fn pull(&self, reference: &ImageReference) -> Result<ImageFacts, Fault> {
        self.make_room().await?;
        let started = Instant::now();
        self.engine.pull(reference).await.map_err(|error| match error {
            unreachable @ EngineError::Unreachable { .. } => ours(unreachable),
            other => Fault::NoImage(other.to_string()),
        })?;
        let Some(image) = self.look(reference).await? else {
            return Err(Fault::NoImage(format!(
                "{reference} is not there after it was pulled"
            )));
        };
        tracing::info!(%reference, bytes = image.bytes, took = ?started.elapsed(), "pulled an image");
        self.cache.note(reference, &image, Asked::Pulled).await;
        Ok(image)
    }

    /// Makes sure that the engine's disk has room for an image, as far as that can be seen from here.
    async fn make_room(&self) -> Result<(), Fault> {
        let root = PathBuf::from(self.engine.info().await.map_err(ours)?.root_dir);
        let Some(free) = free_bytes(&root).filter(|free| *free < FREE_BYTES_MIN) else {
            return Ok(());
        };
        tracing::warn!(free, folder = %root.display(), "the engine's disk is nearly full");
        self.cache.shrink(&*self.engine).await;
        match free_bytes(&root) {
            Some(free) if free < FREE_BYTES_MIN => Err(Fault::NoImage(format!(
                "the disk of {} has {free} bytes free; a pull needs {FREE_BYTES_MIN}",
                root.display()
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// Returns the free bytes below a folder; none when it is not seen from here, as inside a container.
fn free_bytes(folder: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(folder).ok()?;
    facts.f_bavail.checked_mul(facts.f_frsize)
}
