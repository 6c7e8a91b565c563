//! What validators told of miners' machines: the newest facts of each miner, by validator.

use rusqlite::{Connection, named_params};
use serde_json::Value;
use time::OffsetDateTime;

use super::{FacilitatorStore, from_json, json};
use crate::core::model::Hotkey;
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// Miners of whose machines one validator may tell; a subnet has 256 neurons. The one that was told longest ago goes.
const MINERS_PER_VALIDATOR_MAX: u32 = 256;

/// The newest facts about one miner's machine, from one validator.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSpecs {
    /// Who told it.
    pub validator: Hotkey,
    /// Whose machine.
    pub miner: Hotkey,
    /// The batch in which the facts were taken.
    pub batch_id: String,
    /// The facts, an object.
    pub specs: Value,
    /// When they came, UTC.
    pub received_at: OffsetDateTime,
}

impl FacilitatorStore {
    /// Keeps facts in place of older ones of the same validator about the same miner.
    pub async fn keep_specs(&self, specs: KeptSpecs) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO machine_specs (validator, miner, batch_id, specs, received_us)
                     VALUES (:validator, :miner, :batch_id, :specs, :received)",
                )?
                .execute(named_params! {
                    ":validator": specs.validator.as_str(),
                    ":miner": specs.miner.as_str(),
                    ":batch_id": specs.batch_id,
                    ":specs": json("machine specs", &specs.specs)?,
                    ":received": micros(specs.received_at),
                })?;
            connection
                .prepare_cached(
                    "DELETE FROM machine_specs WHERE rowid IN (SELECT rowid FROM machine_specs WHERE validator = ?1
                     ORDER BY received_us DESC, rowid DESC LIMIT -1 OFFSET ?2)",
                )?
                .execute((specs.validator.as_str(), MINERS_PER_VALIDATOR_MAX))?;
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns all kept facts, by miner and then by validator.
    pub async fn specs(&self) -> Result<Vec<KeptSpecs>, StoreError> {
        let query = |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT validator, miner, batch_id, specs, received_us FROM machine_specs ORDER BY miner, validator",
            )?;
            let mut rows = statement.query(())?;
            let mut kept = Vec::new();
            while let Some(row) = rows.next()? {
                kept.push(KeptSpecs {
                    validator: Hotkey::new(row.get::<_, String>(0)?),
                    miner: Hotkey::new(row.get::<_, String>(1)?),
                    batch_id: row.get(2)?,
                    specs: from_json("machine specs", &row.get::<_, String>(3)?)?,
                    received_at: moment(row.get(4)?)?,
                });
            }
            Ok(kept)
        };
        self.store.read(query).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_newest_facts_of_each_miner_are_kept_within_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
        let facts = |validator: &str, miner: u32, second: i64| KeptSpecs {
            validator: Hotkey::new(validator),
            miner: Hotkey::new(format!("miner {miner:04}")),
            batch_id: "b".to_owned(),
            specs: json!({"second": second}),
            received_at: OffsetDateTime::from_unix_timestamp(second).unwrap(),
        };
        store.keep_specs(facts("one", 0, 1)).await.unwrap();
        store.keep_specs(facts("two", 0, 2)).await.unwrap();
        store.keep_specs(facts("one", 0, 3)).await.unwrap();
        let kept = store.specs().await.unwrap();
        assert_eq!(kept, [facts("one", 0, 3), facts("two", 0, 2)]);
        for miner in 1..=MINERS_PER_VALIDATOR_MAX {
            store.keep_specs(facts("one", miner, 4)).await.unwrap();
        }
        let kept = store.specs().await.unwrap();
        assert_eq!(kept.len(), 1 + usize::try_from(MINERS_PER_VALIDATOR_MAX).unwrap());
        assert_eq!(
            kept[0].validator,
            Hotkey::new("two"),
            "the oldest of the other has gone"
        );
    }
}
