//! The manifest: what the operator wants, what counts, what is offered.

use rusqlite::{Connection, OptionalExtension};
use time::OffsetDateTime;

use super::{MinerStore, StoreError};
use crate::core::model::{ExecutorClass, Manifest};
use crate::core::store::times::{micros, moment};

/// What the operator ordered last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestOrder {
    /// Counts of all classes.
    pub wanted: Manifest,
    /// When.
    pub ordered_at: OffsetDateTime,
}

/// What counts, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestState {
    /// Counts that are in force.
    pub counted: Manifest,
    /// When they were changed last; none if they never were.
    pub changed_at: Option<OffsetDateTime>,
    /// The counts of the configuration.
    pub setting: Manifest,
    /// Since when the configuration reads so.
    pub setting_at: OffsetDateTime,
}

/// What validators are told of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedClass {
    /// The class.
    pub class: ExecutorClass,
    /// How many executors are offered.
    pub count: i64,
    /// Why it is less than what counts.
    pub reason: Option<String>,
}

impl MinerStore {
    /// Keeps what the operator wants, and raises the revision of orders.
    pub async fn order_manifest(&self, order: ManifestOrder) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO manifest_order (id, wanted, ordered_at) VALUES (1, ?1, ?2)",
                (text(&order.wanted)?, micros(order.ordered_at)),
            )?;
            connection.execute("UPDATE operator SET revision = revision + 1", ())?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns what the operator ordered last.
    pub async fn manifest_order(&self) -> Result<Option<ManifestOrder>, StoreError> {
        let query = |connection: &Connection| {
            let row: Option<(String, i64)> = connection
                .query_row("SELECT wanted, ordered_at FROM manifest_order", (), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            row.map(|(wanted, ordered_at)| {
                Ok(ManifestOrder {
                    wanted: manifest(&wanted)?,
                    ordered_at: moment(ordered_at)?,
                })
            })
            .transpose()
        };
        self.store.read(query).await
    }

    /// Keeps what counts.
    pub async fn keep_manifest(&self, state: ManifestState) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO manifest_state (id, counted, changed_at, setting, setting_at)
                 VALUES (1, ?1, ?2, ?3, ?4)",
                (
                    text(&state.counted)?,
                    state.changed_at.map(micros),
                    text(&state.setting)?,
                    micros(state.setting_at),
                ),
            )?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns what counts; none before the first start.
    pub async fn manifest_state(&self) -> Result<Option<ManifestState>, StoreError> {
        self.store.read(state).await
    }

    /// Keeps what validators are told from now on.
    pub async fn keep_offered(
        &self,
        offered: Vec<OfferedClass>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute("DELETE FROM manifest_offered", ())?;
            for (position, offered) in offered.iter().enumerate() {
                connection.execute(
                    "INSERT INTO manifest_offered (class, position, count, reason, offered_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    (
                        offered.class.as_str(),
                        i64::try_from(position).unwrap_or(i64::MAX),
                        offered.count,
                        &offered.reason,
                        micros(now),
                    ),
                )?;
            }
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns what validators are told, and since when; the time is none if there is nothing.
    pub async fn offered(&self) -> Result<(Vec<OfferedClass>, Option<OffsetDateTime>), StoreError> {
        self.store.read(offered).await
    }
}

pub(super) fn offered(
    connection: &Connection,
) -> Result<(Vec<OfferedClass>, Option<OffsetDateTime>), StoreError> {
    let mut statement = connection
        .prepare("SELECT class, count, reason, offered_at FROM manifest_offered ORDER BY position")?;
    let mut rows = statement.query(())?;
    let (mut offered, mut since) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let class: String = row.get(0)?;
        offered.push(OfferedClass {
            class: class
                .parse()
                .map_err(|error| StoreError::value("executor class", error))?,
            count: row.get(1)?,
            reason: row.get(2)?,
        });
        since = Some(moment(row.get(3)?)?);
    }
    Ok((offered, since))
}

pub(super) fn state(connection: &Connection) -> Result<Option<ManifestState>, StoreError> {
    let row: Option<(String, Option<i64>, String, i64)> = connection
        .query_row(
            "SELECT counted, changed_at, setting, setting_at FROM manifest_state",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .optional()?;
    row.map(|(counted, changed_at, setting, setting_at)| {
        Ok(ManifestState {
            counted: manifest(&counted)?,
            changed_at: changed_at.map(moment).transpose()?,
            setting: manifest(&setting)?,
            setting_at: moment(setting_at)?,
        })
    })
    .transpose()
}

fn text(manifest: &Manifest) -> Result<String, StoreError> {
    serde_json::to_string(manifest).map_err(|error| StoreError::value("manifest", error))
}

fn manifest(text: &str) -> Result<Manifest, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::value("manifest", error))
}
