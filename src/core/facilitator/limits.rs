//! What one user or one address may ask for, and how much may be in memory for all of them at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::core::config::FacilitatorConfig;
use crate::core::model::Hotkey;
use crate::core::net::buckets::{Buckets, Empty, Rate};
use crate::core::net::guests::Origin;
use crate::core::store::facilitator::JobSpec;

/// Users whose submissions are counted at once.
const USERS_MAX: usize = 16_384;

/// Addresses whose logins are counted at once.
const ADDRESSES_MAX: usize = 16_384;

/// How many seconds' worth of a rate may come at once.
const BURST_SECONDS: u32 = 10;

/// Bytes of request bodies in memory at once (128 MiB), counted as they come in: a client that sends slowly holds what
/// it has sent, not what it has announced.
const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes of answers in memory at once (256 MiB), until the clients have taken them.
const ANSWERS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Lists and jobs that are read at once; each may need the room of the largest page.
const READS_MAX: usize = 4;

/// Longest wait for a turn to read.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Most arguments of a job, and most variables of its environment.
const TEXTS_MAX: usize = 1024;

/// Bytes of the longest argument, or variable with its name and `=`, that Linux starts a program with: `MAX_ARG_STRLEN`
/// less the byte that ends it. A job with a longer one could never run.
const TEXT_BYTES_MAX: usize = 131_071;

/// A request cannot be served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the facilitator serves as many requests as it can")]
pub(super) struct Full;

/// A job is larger than what is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Oversize {
    /// Too many of something.
    #[error("{what} has {count} entries, at most {most} are taken")]
    Count {
        what: &'static str,
        count: usize,
        most: usize,
    },
    /// A text that no program can be started with.
    #[error("{what} has an entry of {bytes} bytes, a program can be given {TEXT_BYTES_MAX}")]
    Text { what: &'static str, bytes: usize },
}

/// Counts and bounds.
#[derive(Debug)]
pub(super) struct Limits {
    submissions: Mutex<Buckets<Hotkey>>,
    logins: Mutex<Buckets<Origin>>,
    bodies: Room,
    answers: Room,
    reads: Semaphore,
    volumes_max: usize,
    /// Jobs a user may have that have not ended.
    pub(super) unfinished_max: u64,
    /// Largest request body, in bytes.
    pub(super) body_bytes_max: usize,
}

impl Limits {
    pub(super) fn new(config: &FacilitatorConfig) -> Self {
        let rate = |per_second: u32| Rate {
            per_second,
            burst: per_second.saturating_mul(BURST_SECONDS),
        };
        Self {
            submissions: Mutex::new(Buckets::new(rate(config.submit_rate), USERS_MAX)),
            logins: Mutex::new(Buckets::new(rate(config.login_rate), ADDRESSES_MAX)),
            bodies: Room::new(BODIES_BYTES_MAX),
            answers: Room::new(ANSWERS_BYTES_MAX),
            reads: Semaphore::new(READS_MAX),
            volumes_max: config.volumes_max,
            unfinished_max: config.unfinished_max,
            body_bytes_max: config.body_bytes_max,
        }
    }

    /// Counts a submission of a user.
    pub(super) fn submission(&self, user: &Hotkey, now: Instant) -> Result<(), Empty> {
        let mut buckets = self.submissions.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(user.clone(), now)
    }

    /// Counts a call for a nonce or a token.
    pub(super) fn login(&self, address: IpAddr, now: Instant) -> Result<(), Empty> {
        let mut buckets = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(Origin::from(address), now)
    }

    /// Begins to hold a body.
    pub(super) fn body(&self) -> Held {
        self.bodies.begin()
    }

    /// Begins to hold an answer.
    pub(super) fn answer(&self) -> Held {
        self.answers.begin()
    }

    /// Waits for a turn to read jobs.
    pub(super) async fn read(&self) -> Result<SemaphorePermit<'_>, Full> {
        self.read_within(READ_WAIT).await
    }

    async fn read_within(&self, wait: Duration) -> Result<SemaphorePermit<'_>, Full> {
        match timeout(wait, self.reads.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Full),
        }
    }

    /// Checks the parts of a job; how large it is together is known when it is written for its validator.
    pub(super) fn measure(&self, spec: &JobSpec) -> Result<(), Oversize> {
        for (what, count, most) in [
            ("args", spec.args.len(), TEXTS_MAX),
            ("env", spec.env.len(), TEXTS_MAX),
            ("volumes", spec.volumes.len(), self.volumes_max),
            ("uploads", spec.uploads.len(), self.volumes_max),
        ] {
            if count > most {
                return Err(Oversize::Count { what, count, most });
            }
        }
        let args = spec.args.iter().map(|text| ("args", text.len()));
        let env = spec.env.iter().map(|(name, value)| {
            let bytes = name.len().saturating_add(value.len()).saturating_add(1);
            ("env", bytes)
        });
        match args.chain(env).find(|(_, bytes)| *bytes > TEXT_BYTES_MAX) {
            Some((what, bytes)) => Err(Oversize::Text { what, bytes }),
            None => Ok(()),
        }
    }
}

/// Memory that is shared, in pieces of [`Room::UNIT`].
#[derive(Debug)]
struct Room(Arc<Semaphore>);

impl Room {
    const UNIT: usize = 1024;

    fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / Self::UNIT)))
    }

    fn begin(&self) -> Held {
        Held {
            room: Arc::clone(&self.0),
            permit: None,
            bytes: 0,
        }
    }
}

/// A part of the shared memory, free once this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Held {
    /// Takes room for so many bytes more; never waits, since who waits holds what others wait for.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        self.bytes = self.bytes.saturating_add(bytes);
        let have = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let lack = self.bytes.div_ceil(Room::UNIT).saturating_sub(have);
        if lack == 0 {
            return Ok(());
        }
        let lack = u32::try_from(lack).map_err(|_| Full)?;
        let more = Arc::clone(&self.room)
            .try_acquire_many_owned(lack)
            .map_err(|_| Full)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::core::model::ExecutorClass;

    fn limits() -> Limits {
        Limits {
            submissions: Mutex::new(Buckets::new(
                Rate {
                    per_second: 1,
                    burst: 2,
                },
                4,
            )),
            logins: Mutex::new(Buckets::new(
                Rate {
                    per_second: 1,
                    burst: 1,
                },
                4,
            )),
            bodies: Room::new(4 * Room::UNIT),
            answers: Room::new(Room::UNIT),
            reads: Semaphore::new(1),
            volumes_max: 1,
            unfinished_max: 1,
            body_bytes_max: 1,
        }
    }

    fn spec() -> JobSpec {
        JobSpec {
            target_validator: Hotkey::new("v"),
            executor_class: ExecutorClass::AlwaysOnTest,
            docker_image: String::new(),
            job_namespace: None,
            tag: String::new(),
            args: Vec::new(),
            env: IndexMap::new(),
            use_gpu: false,
            artifacts_dir: String::new(),
            on_trusted_miner: false,
            download_time_limit: 1,
            execution_time_limit: 1,
            streaming_start_time_limit: 1,
            upload_time_limit: 1,
            streaming_client_cert: None,
            volumes: Vec::new(),
            uploads: Vec::new(),
        }
    }

    #[test]
    fn room_is_taken_as_it_is_needed_and_given_back() {
        let limits = limits();
        let mut one = limits.body();
        for _ in 0..3 * Room::UNIT {
            one.grow(1).unwrap();
        }
        let mut other = limits.body();
        other.grow(Room::UNIT).unwrap();
        assert_eq!(other.grow(1), Err(Full));
        drop(one);
        other.grow(1).unwrap();
    }

    #[test]
    fn users_and_addresses_are_counted_apart() {
        let (limits, now) = (limits(), Instant::now());
        let (ann, bob) = (Hotkey::new("ann"), Hotkey::new("bob"));
        limits.submission(&ann, now).unwrap();
        limits.submission(&ann, now).unwrap();
        limits.submission(&ann, now).unwrap_err();
        limits.submission(&bob, now).unwrap();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        limits.login(address(1), now).unwrap();
        limits.login(address(1), now).unwrap_err();
        limits.login(address(2), now).unwrap();
    }

    #[test]
    fn what_a_program_cannot_be_started_with_is_refused() {
        let limits = limits();
        let mut job = spec();
        job.args = vec!["x".repeat(TEXT_BYTES_MAX)];
        job.env = IndexMap::from([("A".to_owned(), "x".repeat(TEXT_BYTES_MAX - 2))]);
        limits.measure(&job).unwrap();
        job.env = IndexMap::from([("A".to_owned(), "x".repeat(TEXT_BYTES_MAX - 1))]);
        let refusal = limits.measure(&job).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "env has an entry of 131072 bytes, a program can be given 131071"
        );
        let mut job = spec();
        job.args = vec![String::new(); TEXTS_MAX + 1];
        let refusal = limits.measure(&job).unwrap_err().to_string();
        assert_eq!(refusal, "args has 1025 entries, at most 1024 are taken");
    }

    #[tokio::test]
    async fn whoever_gets_no_turn_to_read_is_told_so() {
        let limits = limits();
        let turn = limits.read().await.unwrap();
        assert!(limits.read_within(Duration::ZERO).await.is_err());
        drop(turn);
        assert!(limits.read_within(Duration::ZERO).await.is_ok());
    }
}
