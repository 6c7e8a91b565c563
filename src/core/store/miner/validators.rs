//! Rows about validators: who they are by the chain, and what the operator ordered about them.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, named_params};
use time::{Duration, OffsetDateTime};

use super::super::StoreError;
use super::MinerStore;
use crate::core::model::Hotkey;
use crate::core::store::times::{micros, moment};

/// Debug validators, and blocks, that are kept at most: no operator types more, and a slip of a script must not fill
/// the memory.
pub const ORDERS_MAX: usize = 4096;

/// How long a validator is remembered that is not on the list any more.
const REMEMBERED: Duration = Duration::days(30);

/// A validator by the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedValidator {
    /// Who.
    pub hotkey: Hotkey,
    /// Its stake in rao.
    pub stake_rao: u64,
}

/// Why and how long a validator's jobs are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The operator's words.
    pub reason: String,
    /// Until when; none means for ever.
    pub until: Option<OffsetDateTime>,
}

impl Block {
    /// Tells whether it still holds.
    pub fn holds_at(&self, now: OffsetDateTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What the operator ordered about validators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidatorOrders {
    /// Those who are let in whatever the chain says.
    pub debug: HashSet<Hotkey>,
    /// Those whose jobs are refused, also blocks that hold no longer.
    pub blocks: HashMap<Hotkey, Block>,
}

/// All that is known of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownValidator {
    /// Who.
    pub hotkey: Hotkey,
    /// Whether it was active when the chain was read last.
    pub is_active: bool,
    /// Its stake in rao when it was last on the list.
    pub stake_rao: u64,
    /// Whether the operator lets it in whatever the chain says.
    pub is_debug: bool,
    /// Why its jobs are refused.
    pub block: Option<Block>,
}

impl MinerStore {
    /// Keeps the list of active validators as read from the chain; all others become inactive.
    pub async fn keep_validators(
        &self,
        list: Vec<ListedValidator>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let change = move |connection: &Connection| {
            connection.execute("UPDATE validator SET is_active = 0", ())?;
            let forgotten = now.checked_sub(REMEMBERED).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            connection.execute("DELETE FROM validator WHERE seen_at < ?1", (micros(forgotten),))?;
            let mut statement = connection.prepare_cached(
                "INSERT INTO validator (hotkey, stake_rao, is_active, seen_at) VALUES (:hotkey, :stake, 1, :now)
                 ON CONFLICT (hotkey) DO UPDATE SET stake_rao = :stake, is_active = 1, seen_at = :now",
            )?;
            for validator in &list {
                statement.execute(named_params! {
                    ":hotkey": validator.hotkey.as_str(),
                    ":stake": i64::try_from(validator.stake_rao).unwrap_or(i64::MAX),
                    ":now": micros(now),
                })?;
            }
            Ok(())
        };
        self.store.write(change).await
    }

    /// Returns what the operator ordered about validators.
    pub async fn validator_orders(&self) -> Result<ValidatorOrders, StoreError> {
        self.store
            .read(|connection| {
                Ok(ValidatorOrders {
                    debug: debug(connection)?,
                    blocks: blocks(connection)?,
                })
            })
            .await
    }

    /// Returns all that is known of validators: active ones first, by falling stake.
    pub async fn known_validators(&self) -> Result<Vec<KnownValidator>, StoreError> {
        self.store.read(known).await
    }

    /// Lets a hotkey in, whatever the chain says; false when it was let in already.
    pub async fn add_debug_validator(
        &self,
        hotkey: &Hotkey,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let hotkey = hotkey.clone();
        self.order(move |connection| {
            make_room(connection, "SELECT count(*) FROM validator_debug")?;
            let added = connection.execute(
                "INSERT INTO validator_debug (hotkey, added_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                (hotkey.as_str(), micros(now)),
            )?;
            Ok(added == 1)
        })
        .await
    }

    /// Takes that back; false when there was nothing to take back.
    pub async fn remove_debug_validator(&self, hotkey: &Hotkey) -> Result<bool, StoreError> {
        let hotkey = hotkey.clone();
        self.order(move |connection| {
            let removed = connection.execute(
                "DELETE FROM validator_debug WHERE hotkey = ?1",
                (hotkey.as_str(),),
            )?;
            Ok(removed == 1)
        })
        .await
    }

    /// Refuses a validator's jobs from now on; replaces an earlier block.
    pub async fn block_validator(
        &self,
        hotkey: &Hotkey,
        block: Block,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let hotkey = hotkey.clone();
        self.order(move |connection| {
            connection.execute(
                "DELETE FROM validator_block WHERE blocked_until <= ?1",
                (micros(now),),
            )?;
            make_room(connection, "SELECT count(*) FROM validator_block")?;
            connection.execute(
                "INSERT OR REPLACE INTO validator_block (hotkey, reason, blocked_at, blocked_until)
                 VALUES (?1, ?2, ?3, ?4)",
                (
                    hotkey.as_str(),
                    block.reason,
                    micros(now),
                    block.until.map(micros),
                ),
            )?;
            Ok(())
        })
        .await
    }

    /// Takes a validator's jobs again; false when it was not blocked.
    pub async fn unblock_validator(&self, hotkey: &Hotkey) -> Result<bool, StoreError> {
        let hotkey = hotkey.clone();
        self.order(move |connection| {
            let removed = connection.execute(
                "DELETE FROM validator_block WHERE hotkey = ?1",
                (hotkey.as_str(),),
            )?;
            Ok(removed == 1)
        })
        .await
    }

    /// Writes an order, and raises the revision that the running miner looks at, together.
    async fn order<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store
            .write(move |connection| {
                let outcome = change(connection)?;
                connection.execute("UPDATE operator SET revision = revision + 1", ())?;
                Ok(outcome)
            })
            .await
    }
}

fn make_room(connection: &Connection, count: &str) -> Result<(), StoreError> {
    let rows: i64 = connection.query_row(count, (), |row| row.get(0))?;
    if usize::try_from(rows).is_ok_and(|rows| rows >= ORDERS_MAX) {
        let reason = format!("there are {ORDERS_MAX} already, remove some first");
        return Err(StoreError::value("list of validators", reason));
    }
    Ok(())
}

fn debug(connection: &Connection) -> Result<HashSet<Hotkey>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT hotkey FROM validator_debug")?;
    let rows = statement.query_map((), |row| Ok(Hotkey::new(row.get::<_, String>(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn blocks(connection: &Connection) -> Result<HashMap<Hotkey, Block>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT hotkey, reason, blocked_until FROM validator_block")?;
    let mut rows = statement.query(())?;
    let mut blocks = HashMap::new();
    while let Some(row) = rows.next()? {
        let block = Block {
            reason: row.get(1)?,
            until: row.get::<_, Option<i64>>(2)?.map(moment).transpose()?,
        };
        blocks.insert(Hotkey::new(row.get::<_, String>(0)?), block);
    }
    Ok(blocks)
}

pub(super) fn known(connection: &Connection) -> Result<Vec<KnownValidator>, StoreError> {
    let (mut debug, mut blocks) = (debug(connection)?, blocks(connection)?);
    let mut statement = connection.prepare_cached(
        "SELECT hotkey, is_active, stake_rao FROM validator ORDER BY is_active DESC, stake_rao DESC, hotkey",
    )?;
    let rows = statement.query_map((), |row| {
        let stake: i64 = row.get(2)?;
        Ok((Hotkey::new(row.get::<_, String>(0)?), row.get(1)?, stake))
    })?;
    let mut known = Vec::new();
    for row in rows {
        let (hotkey, is_active, stake) = row?;
        known.push(KnownValidator {
            is_debug: debug.remove(&hotkey),
            block: blocks.remove(&hotkey),
            stake_rao: stake.unsigned_abs(),
            hotkey,
            is_active,
        });
    }
    // Those that only the operator speaks of.
    let mut others: Vec<Hotkey> = debug.iter().chain(blocks.keys()).cloned().collect();
    others.sort();
    others.dedup();
    known.extend(others.into_iter().map(|hotkey| KnownValidator {
        is_active: false,
        stake_rao: 0,
        is_debug: debug.contains(&hotkey),
        block: blocks.get(&hotkey).cloned(),
        hotkey,
    }));
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-15 12:30:45 UTC);

    #[tokio::test]
    async fn orders_raise_the_revision_and_are_read_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        let (alice, bob) = (Hotkey::from("alice"), Hotkey::from("bob"));
        let before = store.orders_revision().await.unwrap();
        assert!(store.add_debug_validator(&alice, NOW).await.unwrap());
        assert!(!store.add_debug_validator(&alice, NOW).await.unwrap());
        let block = Block {
            reason: "it's \"rude\"".to_owned(),
            until: Some(NOW + Duration::hours(2)),
        };
        store.block_validator(&bob, block.clone(), NOW).await.unwrap();
        assert_eq!(store.orders_revision().await.unwrap(), before + 3);
        let orders = store.validator_orders().await.unwrap();
        assert_eq!(orders.debug, HashSet::from([alice.clone()]));
        assert_eq!(orders.blocks, HashMap::from([(bob.clone(), block.clone())]));
        assert!(block.holds_at(NOW + Duration::hours(1)));
        assert!(!block.holds_at(NOW + Duration::hours(2)));

        let list = vec![ListedValidator {
            hotkey: bob.clone(),
            stake_rao: 7,
        }];
        store.keep_validators(list, NOW).await.unwrap();
        let known = store.known_validators().await.unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(
            (known[0].hotkey.as_str(), known[0].is_active, known[0].stake_rao),
            ("bob", true, 7)
        );
        assert_eq!(known[0].block.as_ref(), Some(&block));
        assert!(known[1].is_debug && !known[1].is_active);
        store.keep_validators(Vec::new(), NOW).await.unwrap();
        assert!(!store.known_validators().await.unwrap()[0].is_active);

        assert!(store.unblock_validator(&bob).await.unwrap());
        assert!(!store.unblock_validator(&bob).await.unwrap());
        assert!(store.remove_debug_validator(&alice).await.unwrap());
        assert_eq!(
            store.validator_orders().await.unwrap(),
            ValidatorOrders::default()
        );
    }
}
