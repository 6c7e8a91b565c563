//! The facilitator's database: its secret, its users and their money, the users' jobs and their histories.

mod cancels;
mod cheats;
mod credit;
mod deliveries;
mod eviction;
mod jobs;
mod ledger;
pub mod look;
mod requests;
mod specs;
mod users;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::cancels::CancelOrder;
pub use self::cheats::CheatReport;
pub use self::credit::{Account, Cost, RunningBill, Shortfall};
pub use self::deliveries::{Delivery, Overdue, Wait};
pub use self::eviction::Evicted;
pub use self::jobs::{Appended, Filter, Inserted, Job, JobSignature, JobSpec, Page, Step, Submission};
pub use self::ledger::{Grant, Granted, Imbalance, Party, Transfer, TransferFilter};
pub use self::requests::{Feedback, KEY_LIVES, KeyUse, RequestKey, Tally};
pub use self::specs::KeptSpecs;
pub use self::users::{KnownUser, Ordered, USERS_MAX, UserBlock, UserOrders};
use super::glance::COUNTED_MAX;
use super::trap::{self, Trap};
use super::{Migration, OpenError, Store, StoreError, StoreLoad};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "0001_start",
        sql: include_str!("../migrations/facilitator/0001_start.sql"),
    },
    Migration {
        name: "0002_users",
        sql: include_str!("../migrations/facilitator/0002_users.sql"),
    },
    Migration {
        name: "0003_credit",
        sql: include_str!("../migrations/facilitator/0003_credit.sql"),
    },
    Migration {
        name: "0004_requests",
        sql: include_str!("../migrations/facilitator/0004_requests.sql"),
    },
    Migration {
        name: "0005_deliveries",
        sql: include_str!("../migrations/facilitator/0005_deliveries.sql"),
    },
    Migration {
        name: "0006_cancels",
        sql: include_str!("../migrations/facilitator/0006_cancels.sql"),
    },
];

/// The version of the schema that this program writes.
pub const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// A durable step of the facilitator: where tests of crashes can set a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// A job is stored, and what it may cost is set aside.
    Submitted,
    /// A job that waited for its validator is marked as handed over.
    Pushed,
    /// A job that waited for too long is taken from whoever would hand it over.
    Withdrawn,
    /// A user's wish to end a job is kept.
    Cancelled,
    /// A status that ends nothing is stored.
    Status,
    /// The end of a job is stored, and its bill settled.
    Ended,
    /// Intervals of jobs that work are charged.
    Interval,
}

impl CrashPoint {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Submitted,
        Self::Pushed,
        Self::Withdrawn,
        Self::Status,
        Self::Interval,
        Self::Cancelled,
        Self::Ended,
    ];

    /// Returns its name in settings of tests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Pushed => "pushed",
            Self::Withdrawn => "withdrawn",
            Self::Cancelled => "cancelled",
            Self::Status => "status",
            Self::Ended => "ended",
            Self::Interval => "interval",
        }
    }
}

/// The facilitator's database; cheap to clone.
#[derive(Debug, Clone)]
pub struct FacilitatorStore {
    store: Store,
    trap: Option<Arc<Trap>>,
}

impl FacilitatorStore {
    /// Opens the database for this process alone, making it where missing.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open(path, MIGRATIONS)?;
        Ok(Self { store, trap: None })
    }

    /// Opens the database of a facilitator that may be running, for questions and orders of its administrator.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open_beside(path, MIGRATIONS)?;
        Ok(Self { store, trap: None })
    }

    /// Sets a trap, for tests of crashes.
    #[must_use]
    pub fn with_trap(mut self, trap: Option<Trap>) -> Self {
        self.trap = trap.map(Arc::new);
        self
    }

    /// Makes a change durable that is a step of the facilitator.
    async fn step<T, F>(&self, point: CrashPoint, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        trap::write(&self.store, self.trap.as_ref(), point.as_str(), change).await
    }

    /// Makes a change durable that is a step of the facilitator if something `happened`.
    async fn step_if<T, F>(
        &self,
        point: CrashPoint,
        happened: fn(&T) -> bool,
        change: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        trap::write_if(&self.store, self.trap.as_ref(), point.as_str(), happened, change).await
    }

    /// Returns what the writer has done and has to do.
    pub fn load(&self) -> StoreLoad {
        self.store.load()
    }

    /// Returns how many jobs have not ended, up to [`COUNTED_MAX`].
    pub async fn open_jobs(&self) -> Result<i64, StoreError> {
        let query = |connection: &Connection| {
            let row = connection.query_row(look::OPEN, [COUNTED_MAX], |row| row.get(0));
            Ok(row?)
        };
        self.store.read(query).await
    }

    /// Returns the secret that tokens and nonces are signed with, which is `proposal` if there is none yet.
    pub async fn secret(&self, proposal: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "INSERT INTO secret (id, bytes) VALUES (1, ?1) ON CONFLICT DO NOTHING",
                (proposal.as_slice(),),
            )?;
            Ok(connection.query_row("SELECT bytes FROM secret", (), |row| row.get(0))?)
        };
        self.store.write(change).await
    }
}

pub(super) fn json(what: &'static str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::value(what, error))
}

pub(super) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::value(what, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::job::JobStatus;
    use crate::core::model::{Hotkey, JobId};

    fn open() -> (tempfile::TempDir, FacilitatorStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn the_secret_is_made_once() {
        let (_folder, store) = open();
        assert_eq!(store.secret([1; 32]).await.unwrap(), [1; 32]);
        assert_eq!(store.secret([2; 32]).await.unwrap(), [1; 32]);
    }

    /// Jobs of before there was money are read as ever, end as ever, and cost nothing.
    #[tokio::test]
    async fn jobs_of_an_old_database_are_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facilitator.sqlite");
        {
            let store = Store::open(&path, &MIGRATIONS[..1]).unwrap();
            let fill = |connection: &Connection| {
                connection.execute_batch(
                    "INSERT INTO jobs VALUES (1, 'job', 'owner', 0, 'validator', 'always_on.test', '', NULL, '', '[]', '{}',
                        0, '', 0, 1, 1, 1, 1, NULL, '[]', '[]', 'owner', 1, '', '');
                     INSERT INTO steps VALUES (1, 0, 'sent', '{}', 0), (1, 1, 'executor_ready', '{}', 1);",
                )?;
                Ok(())
            };
            store.write(fill).await.unwrap();
        }
        let store = FacilitatorStore::open(&path).unwrap();
        let (owner, job) = (Hotkey::new("owner"), JobId::new("job"));
        let end = Step {
            status: JobStatus::Completed,
            metadata: serde_json::Map::new(),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let agree = |_: &[JobStatus]| Ok::<_, ()>(());
        let ended = store.append(&job, &Hotkey::new("validator"), end, agree).await;
        assert_eq!(ended.unwrap(), Appended::Done);
        let read = store.job(&owner, &job).await.unwrap().unwrap();
        assert_eq!((read.history.len(), read.cost), (3, None));
        assert_eq!(store.account(&owner).unwrap(), Account::default());
        assert_eq!(store.imbalances().await.unwrap(), []);
    }
}
