//! Which images the executors of this machine pulled, when they were used, and which of them may go.
//!
//! A small file in the work directory, shared by all executors of one user: locked while it is changed, replaced
//! whole. Only images that stand in it as pulled are ever removed: what a person built or pulled is theirs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::GlobSet;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::core::clock::Clock;
use crate::core::docker::reference::ImageReference;
use crate::core::docker::{Engine, EngineError, ImageFacts};

/// How long an image counts as in use after it was last asked for: between that and its container, which then
/// protects it, lies at most the download of a volume.
const USE_SECONDS: i64 = 15 * 60;

/// Images that the file names; the one that was used longest ago is forgotten, and then stays on the engine.
const ENTRIES_MAX: usize = 1024;

/// Bytes of the largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How long another executor may hold the lock; it does for some file operations.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How long removing images may hold up the end of an executor; the next one goes on.
const EVICTION_PATIENCE: Duration = Duration::from_secs(10);

/// An image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The name under which it was asked for.
    reference: String,
    /// What it was.
    id: String,
    /// Its size, in bytes.
    bytes: u64,
    /// Whether an executor pulled it.
    pulled: bool,
    /// When it was last asked for, in Unix seconds.
    used: i64,
    /// When its registry was last asked for something newer, in Unix seconds.
    checked: i64,
}

/// Returns the entries that have to go so that pulled images fit into `budget` bytes; pure.
///
/// The one that was used longest ago goes first. What `is_pinned` names stays, and so does what was asked for a
/// moment ago, though both count.
fn victims(entries: &[Entry], budget: u64, now: i64, is_pinned: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut pulled: Vec<&Entry> = entries.iter().filter(|entry| entry.pulled).collect();
    pulled.sort_by_key(|entry| entry.used);
    let mut total = pulled
        .iter()
        .fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
    let mut victims = Vec::new();
    for entry in pulled {
        if total <= budget {
            break;
        }
        // A clock that was set back makes an image look used in the future.
        let is_in_use = now.saturating_sub(entry.used) < USE_SECONDS;
        if !is_in_use && !is_pinned(&entry.reference) {
            total = total.saturating_sub(entry.bytes);
            victims.push(entry.clone());
        }
    }
    victims
}

/// The record of images, and what the operator wants kept.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    budget: u64,
    pinned: GlobSet,
    clock: Clock,
}

impl Cache {
    /// Keeps its record in `folder`; nothing is touched before an image is noted.
    pub(super) fn new(folder: &Path, budget: u64, pinned: GlobSet, clock: Clock) -> Self {
        Self {
            folder: folder.to_owned(),
            budget,
            pinned,
            clock,
        }
    }

    /// Returns the time since an image's registry was asked, if it was for this very image.
    pub(super) fn since_check(&self, reference: &ImageReference, image: &ImageFacts) -> Option<Duration> {
        let entries = self.read().ok()?;
        let entry = entries
            .iter()
            .find(|entry| entry.is(reference) && entry.id == image.id.as_str())?;
        let seconds = self.clock.unix_seconds().checked_sub(entry.checked)?;
        Some(Duration::from_secs(u64::try_from(seconds).ok()?))
    }

    /// Notes that an image was asked for, and whether it was pulled just now or its registry was asked.
    pub(super) async fn note(&self, reference: &ImageReference, image: &ImageFacts, how: Asked) {
        let now = self.clock.unix_seconds();
        let noted = self.change(|entries| {
            let before = entries
                .iter()
                .position(|entry| entry.is(reference) && entry.id == image.id.as_str())
                .map(|index| entries.remove(index));
            let (pulled, checked) = before.map_or((false, 0), |entry| (entry.pulled, entry.checked));
            entries.push(Entry {
                reference: reference.as_str().to_owned(),
                id: image.id.as_str().to_owned(),
                bytes: image.bytes,
                pulled: pulled || how == Asked::Pulled,
                used: now,
                checked: if how == Asked::Engine { checked } else { now },
            });
            entries.sort_by_key(|entry| entry.used);
            let excess = entries.len().saturating_sub(ENTRIES_MAX);
            entries.drain(..excess);
        });
        if let Err(error) = noted.await {
            tracing::warn!(%reference, %error, "could not note that an image was used");
        }
    }

    /// Removes pulled images until the rest fits into the budget; what is in use or pinned stays.
    pub(super) async fn shrink(&self, engine: &dyn Engine) {
        match timeout(EVICTION_PATIENCE, self.evict(engine)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not make room among pulled images"),
            Err(_elapsed) => {
                tracing::info!("making room among pulled images takes long; the next executor goes on");
            }
        }
    }

    async fn evict(&self, engine: &dyn Engine) -> io::Result<()> {
        let now = self.clock.unix_seconds();
        for victim in victims(&self.read()?, self.budget, now, |name| self.is_pinned(name)) {
            match victim.remove_from(engine).await {
                Ok(()) => {
                    tracing::info!(
                        image = victim.reference,
                        id = victim.id,
                        "removed the image used longest ago"
                    );
                    self.change(|entries| entries.retain(|entry| *entry != victim))
                        .await?;
                }
                // 409: a container has it, or another name that is none of ours.
                Err(EngineError::Refused {
                    status: 409, message, ..
                }) => {
                    tracing::debug!(image = victim.reference, message, "an image is in use and stays");
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    /// Returns whether the operator keeps an image, by its whole name or without its tag.
    fn is_pinned(&self, reference: &str) -> bool {
        let repository = ImageReference::parse(reference)
            .map(|reference| reference.repository_and_tag().0.to_owned())
            .unwrap_or_default();
        self.pinned.is_match(reference) || self.pinned.is_match(repository)
    }

    fn file(&self, ending: &str) -> PathBuf {
        let user = rustix::process::geteuid().as_raw();
        self.folder.join(format!("horde-images-{user}.{ending}"))
    }

    /// Returns the entries; none when there is no file, or one that nobody can read.
    fn read(&self) -> io::Result<Vec<Entry>> {
        let path = self.file("json");
        let file = match open_own(&path, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "the record of pulled images is broken and begins anew");
            Vec::new()
        }))
    }

    /// Changes the entries, alone.
    async fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) -> io::Result<()> {
        let lock = OwnedFd::from(open_own(&self.file("lock"), OFlags::RDWR | OFlags::CREATE)?);
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(LOCK_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        let mut entries = self.read()?;
        change(&mut entries);
        let text = serde_json::to_vec(&entries).map_err(io::Error::other)?;
        let mut file = tempfile::Builder::new()
            .prefix(".horde-images-")
            .tempfile_in(&self.folder)?;
        file.write_all(&text)?;
        file.persist(self.file("json")).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Entry {
    fn is(&self, reference: &ImageReference) -> bool {
        self.reference == reference.as_str()
    }

    /// Removes the image's name if it still means this image, and the image itself otherwise.
    async fn remove_from(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        let broken = |error: &dyn std::error::Error| EngineError::Broken {
            action: "remove the image",
            message: error.to_string(),
        };
        let reference = ImageReference::parse(&self.reference).map_err(|error| broken(&error))?;
        let is_current = engine
            .find_image(&reference)
            .await?
            .is_some_and(|id| id.as_str() == self.id);
        if is_current {
            return engine.remove_image(&reference).await;
        }
        let id = ImageReference::parse(&self.id).map_err(|error| broken(&error))?;
        engine.remove_image(&id).await
    }
}

/// What was done to have an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The engine had it.
    Engine,
    /// The engine had it, and its registry was asked for something newer.
    Registry,
    /// It was pulled.
    Pulled,
}

/// Opens a file of this user's own; the folder may be open to others, who could put a link or a file there.
fn open_own(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let facts: fs::Metadata = file.metadata()?;
    let owner = std::os::unix::fs::MetadataExt::uid(&facts);
    if facts.is_file() && owner == rustix::process::geteuid().as_raw() {
        Ok(file)
    } else {
        Err(io::Error::other(format!(
            "{} belongs to somebody else",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use globset::{Glob, GlobSetBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::core::docker::ImageId;

    const NOW: i64 = 1_000_000;

    fn entry(name: &str, bytes: u64, used: i64) -> Entry {
        Entry {
            reference: name.to_owned(),
            id: format!("sha256:{name}"),
            bytes,
            pulled: true,
            used,
            checked: used,
        }
    }

    fn gone(entries: &[Entry], budget: u64, pinned: &str) -> Vec<String> {
        let victims = victims(entries, budget, NOW, |name| name == pinned);
        victims.into_iter().map(|entry| entry.reference).collect()
    }

    #[test]
    fn the_image_used_longest_ago_goes_first_and_what_is_pinned_in_use_or_not_ours_stays() {
        let mut entries = [
            entry("new", 10, NOW - 1),
            entry("middle", 10, NOW - 5000),
            entry("old", 10, NOW - 9000),
            entry("theirs", 99, 0),
        ];
        entries[3].pulled = false;
        assert_eq!(gone(&entries, 30, ""), [""; 0]);
        assert_eq!(gone(&entries, 29, ""), ["old"]);
        assert_eq!(gone(&entries, 29, "old"), ["middle"]);
        assert_eq!(gone(&entries, 0, ""), ["old", "middle"]);
    }

    proptest! {
        #[test]
        fn eviction_frees_enough_or_all_it_may_and_nothing_more(
            images in proptest::collection::vec((0_u64..100, 0_i64..NOW, any::<bool>(), any::<bool>()), 0..30),
            budget in 0_u64..1000,
        ) {
            let entries: Vec<Entry> = images
                .iter()
                .enumerate()
                .map(|(index, (bytes, used, pulled, pinned))| Entry {
                    pulled: *pulled,
                    ..entry(&format!("{index}{}", if *pinned { "p" } else { "" }), *bytes, *used)
                })
                .collect();
            let is_pinned = |name: &str| name.ends_with('p');
            let victims = victims(&entries, budget, NOW, is_pinned);
            let sum = |entries: &[Entry]| entries.iter().filter(|one| one.pulled).map(|one| one.bytes).sum::<u64>();
            let left: Vec<Entry> = entries.iter().filter(|one| !victims.contains(one)).cloned().collect();
            let may_go = |one: &Entry| one.pulled && !is_pinned(&one.reference) && NOW - one.used >= USE_SECONDS;
            prop_assert!(victims.iter().all(may_go));
            prop_assert!(sum(&left) <= budget || !left.iter().any(may_go));
            if let Some(last) = victims.last() {
                prop_assert!(sum(&left) + last.bytes > budget, "one would have been enough less");
                prop_assert!(left.iter().filter(|one| may_go(one)).all(|one| one.used >= last.used));
            }
        }
    }

    fn cache(folder: &Path, clock: &Clock, pinned: &str) -> Cache {
        let pinned = GlobSetBuilder::new()
            .add(Glob::new(pinned).unwrap())
            .build()
            .unwrap();
        Cache::new(folder, 0, pinned, clock.clone())
    }

    fn facts(id: &str) -> ImageFacts {
        ImageFacts {
            id: ImageId::new(id),
            digests: Vec::new(),
            bytes: 7,
        }
    }

    #[tokio::test]
    async fn what_is_noted_is_known_to_the_next_executor_and_a_broken_record_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5000));
        let reference = ImageReference::parse("bb:1").unwrap();
        let one = cache(folder.path(), &clock, "x");
        assert_eq!(one.since_check(&reference, &facts("a")), None);
        one.note(&reference, &facts("a"), Asked::Pulled).await;
        clock.advance(Duration::from_secs(60));
        one.note(&reference, &facts("a"), Asked::Engine).await;
        let other = cache(folder.path(), &clock, "x");
        assert_eq!(
            other.since_check(&reference, &facts("a")),
            Some(Duration::from_secs(60))
        );
        assert_eq!(other.since_check(&reference, &facts("b")), None);
        let entries = other.read().unwrap();
        assert_eq!(
            (entries.len(), entries[0].pulled, entries[0].used),
            (1, true, 5060)
        );
        fs::write(one.file("json"), "{").unwrap();
        assert_eq!(one.read().unwrap(), []);
    }

    #[test]
    fn a_record_that_somebody_else_put_there_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), &Clock::system(), "x");
        std::os::unix::fs::symlink("/etc/hostname", cache.file("json")).unwrap();
        assert!(cache.read().is_err());
    }

    #[test]
    fn a_pin_names_an_image_with_or_without_its_tag() {
        let folder = tempfile::tempdir().unwrap();
        let is_pinned = |pin: &str, name: &str| cache(folder.path(), &Clock::system(), pin).is_pinned(name);
        assert!(is_pinned("org/model", "org/model:1"));
        assert!(is_pinned("org/*", "org/model:1"));
        assert!(is_pinned("*:keep", "org/model:keep"));
        assert!(!is_pinned("org/model", "org/models:1"));
    }
}
