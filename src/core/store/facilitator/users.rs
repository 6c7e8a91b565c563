//! Users: who is let in, who is kept out; written by commands beside the facilitator, which looks for what is new.

use std::collections::HashSet;

use rusqlite::{Connection, Row};
use time::OffsetDateTime;

use super::FacilitatorStore;
use super::credit::{self, Account};
use crate::core::model::Hotkey;
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// Users that can be ordered about: their hotkeys lie in the memory of the running facilitator (some 100 bytes each).
pub const USERS_MAX: u32 = 100_000;

/// What the administrator ordered about users, for the running facilitator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserOrders {
    /// Those who are let in.
    pub added: HashSet<Hotkey>,
    /// Those who are kept out, also of those who were added.
    pub blocked: HashSet<Hotkey>,
}

/// Since when and why a user is kept out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserBlock {
    /// Since when, UTC.
    pub since: OffsetDateTime,
    /// The administrator's words; perhaps empty.
    pub reason: String,
}

/// All that is known of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownUser {
    /// Who.
    pub hotkey: Hotkey,
    /// When the administrator let it in, UTC; none if not by a command.
    pub added: Option<OffsetDateTime>,
    /// The administrator's words about it; perhaps empty.
    pub note: String,
    /// Whether and why it is kept out.
    pub block: Option<UserBlock>,
    /// Its money.
    pub account: Account,
    /// How many jobs it has submitted.
    pub jobs: u64,
}

/// What became of an order about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// It was new.
    Done,
    /// It was so already.
    Already,
    /// There are [`USERS_MAX`] already.
    TooMany,
}

/// A user with its accounts and its number of jobs; the ends of the sum are chosen by the statements that use it.
const KNOWN: &str =
    "SELECT who.hotkey, u.added_us, coalesce(u.note, ''), u.blocked_us, coalesce(u.reason, ''),
        coalesce((SELECT balance FROM accounts WHERE hotkey = who.hotkey AND kind = 'available'), 0),
        coalesce((SELECT balance FROM accounts WHERE hotkey = who.hotkey AND kind = 'reserved'), 0),
        (SELECT count(*) FROM jobs WHERE owner = who.hotkey)
    FROM who LEFT JOIN users u ON u.hotkey = who.hotkey ORDER BY who.hotkey";

impl FacilitatorStore {
    /// Returns how many orders the administrator has given in the life of the database; whoever saw another number
    /// before has to look for what has changed.
    pub async fn orders_revision(&self) -> Result<i64, StoreError> {
        let query = |connection: &Connection| {
            Ok(connection
                .prepare_cached("SELECT revision FROM operator")?
                .query_row((), |row| row.get(0))?)
        };
        self.store.read(query).await
    }

    /// Returns what the administrator ordered about users.
    pub async fn user_orders(&self) -> Result<UserOrders, StoreError> {
        let query = |connection: &Connection| {
            let mut orders = UserOrders::default();
            let mut statement = connection
                .prepare_cached("SELECT hotkey, added_us IS NOT NULL, blocked_us IS NOT NULL FROM users")?;
            let rows = statement.query_map((), |row| {
                Ok((Hotkey::new(row.get::<_, String>(0)?), row.get(1)?, row.get(2)?))
            })?;
            for row in rows {
                let (hotkey, is_added, is_blocked): (Hotkey, bool, bool) = row?;
                if is_blocked {
                    orders.blocked.insert(hotkey);
                } else if is_added {
                    orders.added.insert(hotkey);
                }
            }
            Ok(orders)
        };
        self.store.read(query).await
    }

    /// Lets a user in from now on, and notes `note` where there is one.
    pub async fn add_user(
        &self,
        hotkey: &Hotkey,
        note: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Ordered, StoreError> {
        let hotkey = hotkey.clone();
        self.order(&hotkey.clone(), move |connection| {
            let changed = connection.execute(
                "INSERT INTO users (hotkey, added_us, note) VALUES (?1, ?2, coalesce(?3, ''))
                 ON CONFLICT (hotkey) DO UPDATE SET added_us = coalesce(added_us, ?2), note = coalesce(?3, note)
                 WHERE added_us IS NULL OR coalesce(?3 <> note, 0)",
                (hotkey.as_str(), micros(now), note),
            )?;
            Ok(changed)
        })
        .await
    }

    /// Keeps a user out from now on, whoever let it in; its jobs that run go on.
    pub async fn block_user(
        &self,
        hotkey: &Hotkey,
        reason: String,
        now: OffsetDateTime,
    ) -> Result<Ordered, StoreError> {
        let hotkey = hotkey.clone();
        self.order(&hotkey.clone(), move |connection| {
            let changed = connection.execute(
                "INSERT INTO users (hotkey, blocked_us, reason) VALUES (?1, ?2, ?3)
                 ON CONFLICT (hotkey) DO UPDATE SET blocked_us = coalesce(blocked_us, ?2), reason = ?3
                 WHERE blocked_us IS NULL OR reason <> ?3",
                (hotkey.as_str(), micros(now), reason),
            )?;
            Ok(changed)
        })
        .await
    }

    /// Takes a block back; then a user is let in by whoever let it in before.
    pub async fn unblock_user(&self, hotkey: &Hotkey) -> Result<Ordered, StoreError> {
        let hotkey = hotkey.clone();
        self.order(&hotkey.clone(), move |connection| {
            let forgotten = connection.execute(
                "DELETE FROM users WHERE hotkey = ?1 AND blocked_us IS NOT NULL AND added_us IS NULL",
                (hotkey.as_str(),),
            )?;
            let changed = connection.execute(
                "UPDATE users SET blocked_us = NULL, reason = '' WHERE hotkey = ?1 AND blocked_us IS NOT NULL",
                (hotkey.as_str(),),
            )?;
            Ok(forgotten + changed)
        })
        .await
    }

    /// Returns everybody of whom the administrator has spoken or who has an account, and those of `more`, by hotkey.
    pub async fn known_users(&self, more: &[Hotkey]) -> Result<Vec<KnownUser>, StoreError> {
        let more = super::json("hotkeys", &more)?;
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare(&format!(
                "WITH who (hotkey) AS (SELECT hotkey FROM users UNION SELECT hotkey FROM accounts WHERE hotkey <> ''
                    UNION SELECT value FROM json_each(?1))
                 {KNOWN}"
            ))?;
            let rows = statement.query_map((more,), |row| Ok(read_user(row)))?;
            let mut users = Vec::new();
            for row in rows {
                users.push(row??);
            }
            Ok(users)
        };
        self.store.read(query).await
    }

    /// Returns what is known of one user; without orders, money and jobs where it is nobody.
    pub async fn known_user(&self, hotkey: &Hotkey) -> Result<KnownUser, StoreError> {
        let hotkey = hotkey.clone();
        let query = move |connection: &Connection| {
            connection
                .prepare(&format!("WITH who (hotkey) AS (SELECT ?1) {KNOWN}"))?
                .query_row((hotkey.as_str(),), |row| Ok(read_user(row)))?
        };
        self.store.read(query).await
    }

    /// Writes an order, and raises the revision that the running facilitator looks at, together; `change` returns how
    /// many rows it changed.
    async fn order(
        &self,
        hotkey: &Hotkey,
        change: impl FnOnce(&Connection) -> Result<usize, StoreError> + Send + 'static,
    ) -> Result<Ordered, StoreError> {
        let hotkey = hotkey.clone();
        let change = move |connection: &Connection| {
            let (others, is_known): (u32, bool) = connection.query_row(
                "SELECT count(*), coalesce(max(hotkey = ?1), 0) FROM users",
                (hotkey.as_str(),),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if others >= USERS_MAX && !is_known {
                return Ok(Ordered::TooMany);
            }
            if change(connection)? == 0 {
                return Ok(Ordered::Already);
            }
            connection.execute("UPDATE operator SET revision = revision + 1", ())?;
            Ok(Ordered::Done)
        };
        self.store.write(change).await
    }
}

fn read_user(row: &Row<'_>) -> Result<KnownUser, StoreError> {
    let since: Option<i64> = row.get(3)?;
    let block = since.map(|since| {
        Ok::<_, StoreError>(UserBlock {
            since: moment(since)?,
            reason: row.get(4)?,
        })
    });
    let jobs: i64 = row.get(7)?;
    Ok(KnownUser {
        hotkey: Hotkey::new(row.get::<_, String>(0)?),
        added: row.get::<_, Option<i64>>(1)?.map(moment).transpose()?,
        note: row.get(2)?,
        block: block.transpose()?,
        account: Account {
            available: credit::amount(row, 5)?,
            reserved: credit::amount(row, 6)?,
        },
        jobs: jobs.unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-15 12:30:45 UTC);

    #[tokio::test]
    async fn orders_about_users_raise_the_revision_once_and_are_read_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
        let (alice, bob) = (Hotkey::from("alice"), Hotkey::from("bob"));
        let add = |note: Option<&str>| store.add_user(&alice, note.map(str::to_owned), NOW);
        assert_eq!(add(None).await.unwrap(), Ordered::Done);
        assert_eq!(add(None).await.unwrap(), Ordered::Already);
        assert_eq!(add(Some("a friend")).await.unwrap(), Ordered::Done);
        assert_eq!(add(None).await.unwrap(), Ordered::Already);
        for hotkey in [&alice, &bob] {
            let block = |reason: &str| store.block_user(hotkey, reason.to_owned(), NOW);
            assert_eq!(block("rude").await.unwrap(), Ordered::Done);
            assert_eq!(block("rude").await.unwrap(), Ordered::Already);
        }
        assert_eq!(store.orders_revision().await.unwrap(), 4);
        let orders = store.user_orders().await.unwrap();
        assert!(orders.added.is_empty(), "who is blocked is not let in");
        assert_eq!(orders.blocked, HashSet::from([alice.clone(), bob.clone()]));
        let known = store.known_user(&alice).await.unwrap();
        assert_eq!((known.added, known.note.as_str()), (Some(NOW), "a friend"));
        assert_eq!(
            known.block.as_ref().map(|block| block.reason.as_str()),
            Some("rude")
        );

        assert_eq!(store.unblock_user(&alice).await.unwrap(), Ordered::Done);
        assert_eq!(store.unblock_user(&bob).await.unwrap(), Ordered::Done);
        assert_eq!(store.unblock_user(&bob).await.unwrap(), Ordered::Already);
        let orders = store.user_orders().await.unwrap();
        assert_eq!(orders.added, HashSet::from([alice.clone()]));
        assert!(orders.blocked.is_empty());
        let known = store.known_users(std::slice::from_ref(&bob)).await.unwrap();
        let names: Vec<_> = known.iter().map(|user| user.hotkey.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
    }
}
