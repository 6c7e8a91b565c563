//! The facilitator's database: its secret, the users' jobs and their histories.

mod cancels;
mod cheats;
mod deliveries;
mod jobs;
mod specs;

use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

pub use self::cancels::CancelOrder;
pub use self::cheats::CheatReport;
pub use self::deliveries::{Delivery, Overdue, Wait};
pub use self::jobs::{Appended, Filter, Job, JobSignature, JobSpec, Page, Step, Submission};
pub use self::specs::KeptSpecs;
use super::{Migration, OpenError, Store, StoreError};

const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "0001_start",
        sql: include_str!("../migrations/facilitator/0001_start.sql"),
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

/// The facilitator's database; cheap to clone.
#[derive(Debug, Clone)]
pub struct FacilitatorStore {
    store: Store,
}

impl FacilitatorStore {
    /// Opens the database for this process alone, making it where missing.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open(path, MIGRATIONS)?;
        Ok(Self { store })
    }

    /// Opens a database that exists, beside the facilitator that may be running.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let store = Store::open_beside(path, MIGRATIONS)?;
        Ok(Self { store })
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

pub(super) fn micros(moment: OffsetDateTime) -> Result<i64, StoreError> {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).map_err(|error| StoreError::value("time", error))
}

pub(super) fn moment(micros: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .map_err(|error| StoreError::value("time", error))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
