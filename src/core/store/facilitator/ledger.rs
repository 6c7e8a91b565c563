//! The ledger as the administrator sees it: credit given and taken back, transfers listed, the books checked.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

use super::FacilitatorStore;
use super::credit::{accounts, amount};
use crate::core::model::{Hotkey, JobId};
use crate::core::money::Micro;
use crate::core::store::StoreError;
use crate::core::store::times::{micros, moment};

/// The account that all credit comes from.
const ISSUED: i64 = 1;

/// Most problems of the books that are told at once.
const PROBLEMS_MAX: usize = 100;

/// Credit that the administrator gives, or takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub hotkey: Hotkey,
    /// How much; below zero it is taken back.
    pub amount: Micro,
    /// Why, in the administrator's words; perhaps empty.
    pub note: String,
    /// A key under which it is given once, however often it is asked for.
    pub key: Option<String>,
}

/// What became of a [`Grant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// It is done; this is what the user has available now.
    Done(Micro),
    /// It was done before under its key; this is what the user has available now.
    Already(Micro),
    /// Something else was done under its key.
    KeyTaken,
    /// The user has less than is to be taken back: this.
    TooLittle(Micro),
}

/// The side of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// Where all credit comes from.
    Issued,
    /// What was charged.
    Income,
    /// What a user can pay new jobs from.
    Available(Hotkey),
    /// What is set aside of a user's.
    Reserved(Hotkey),
}

impl Party {
    fn read(kind: &str, hotkey: String) -> Result<Self, StoreError> {
        match kind {
            "issued" => Ok(Self::Issued),
            "income" => Ok(Self::Income),
            "available" => Ok(Self::Available(Hotkey::new(hotkey))),
            "reserved" => Ok(Self::Reserved(Hotkey::new(hotkey))),
            other => Err(StoreError::value("account", other)),
        }
    }

    /// Returns the word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Income => "income",
            Self::Available(_) => "available",
            Self::Reserved(_) => "reserved",
        }
    }

    /// Returns whose it is; none of the facilitator's own.
    pub const fn hotkey(&self) -> Option<&Hotkey> {
        match self {
            Self::Issued | Self::Income => None,
            Self::Available(hotkey) | Self::Reserved(hotkey) => Some(hotkey),
        }
    }
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Its number, rising with time.
    pub id: i64,
    /// When, UTC.
    pub at: OffsetDateTime,
    /// What for: credit, debit, reserve, interval, charge, refund, return.
    pub kind: String,
    /// Whose account it was taken from.
    pub taken_from: Party,
    /// Whose account it was given to.
    pub given_to: Party,
    /// How much, more than nothing.
    pub amount: Micro,
    /// The job that caused it.
    pub job: Option<JobId>,
    /// The key that the administrator gave.
    pub key: Option<String>,
    /// The administrator's words.
    pub note: String,
}

/// Which transfers are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferFilter {
    /// Only of this user.
    pub hotkey: Option<Hotkey>,
    /// Only of this job.
    pub job: Option<JobId>,
    /// Only of this kind.
    pub kind: Option<&'static str>,
    /// Only since then, UTC.
    pub since: Option<OffsetDateTime>,
}

/// A rule of double entry that the books break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imbalance {
    /// Which, as in `account 7`.
    pub what: String,
    /// By the balances.
    pub kept: i64,
    /// By the transfers.
    pub moved: i64,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} is written, {} by the transfers",
            self.what, self.kept, self.moved
        )
    }
}

/// Rules that hold after every transaction, each as a query of those that break it: name, kept, moved.
const RULES: [&str; 4] = [
    "SELECT 'the sum of all balances', sum(balance), 0 FROM accounts HAVING sum(balance) <> 0",
    "SELECT 'account ' || a.id || ' (' || a.kind || ' ' || a.hotkey || ')', a.balance, coalesce(sum(t.amount), 0)
     FROM accounts a LEFT JOIN (
        SELECT given_to AS account, amount FROM transfers
        UNION ALL SELECT taken_from, -amount FROM transfers) t ON t.account = a.id
     GROUP BY a.id HAVING a.balance <> coalesce(sum(t.amount), 0)",
    "SELECT 'bill ' || b.id || ' (charged)', b.charged, coalesce(sum(CASE t.kind
            WHEN 'interval' THEN t.amount WHEN 'charge' THEN t.amount WHEN 'refund' THEN -t.amount ELSE 0 END), 0) AS moved
     FROM bills b LEFT JOIN transfers t ON t.bill = b.id GROUP BY b.id HAVING b.charged <> moved",
    "SELECT 'bill ' || b.id || ' (set aside)', iif(b.settled_us IS NULL, b.price * b.seconds_max - b.charged, 0),
        coalesce(sum(CASE t.kind WHEN 'reserve' THEN t.amount WHEN 'refund' THEN 0 ELSE -t.amount END), 0) AS moved
     FROM bills b LEFT JOIN transfers t ON t.bill = b.id
     GROUP BY b.id HAVING moved <> iif(b.settled_us IS NULL, b.price * b.seconds_max - b.charged, 0)",
];

impl FacilitatorStore {
    /// Gives a user credit, or takes it back as far as it is available.
    pub async fn grant(&self, grant: Grant, now: OffsetDateTime) -> Result<Granted, StoreError> {
        let change = move |connection: &Connection| {
            let Grant {
                hotkey,
                amount,
                note,
                key,
            } = grant;
            let (account, _) = accounts(connection, &hotkey)?;
            let available = balance(connection, account)?;
            let (kind, taken_from, given_to) = if amount < Micro::ZERO {
                ("debit", account, ISSUED)
            } else {
                ("credit", ISSUED, account)
            };
            let moved = Micro::new(amount.get().saturating_abs());
            let earlier: Option<bool> = connection
                .prepare_cached(
                    "SELECT taken_from = ?2 AND given_to = ?3 AND amount = ?4 FROM transfers WHERE key = ?1",
                )?
                .query_row((&key, taken_from, given_to, moved.get()), |row| row.get(0))
                .optional()?;
            match earlier {
                Some(true) => return Ok(Granted::Already(available)),
                Some(false) => return Ok(Granted::KeyTaken),
                None => {}
            }
            if amount < Micro::ZERO && available < moved {
                return Ok(Granted::TooLittle(available));
            }
            if amount != Micro::ZERO {
                connection
                    .prepare_cached(
                        "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount, key, note)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute((micros(now), kind, taken_from, given_to, moved.get(), key, note))?;
            }
            Ok(Granted::Done(balance(connection, account)?))
        };
        self.store.write(change).await
    }

    /// Returns the newest `limit` transfers that the filter lets pass, newest first.
    pub async fn transfers(&self, filter: TransferFilter, limit: u32) -> Result<Vec<Transfer>, StoreError> {
        let query = move |connection: &Connection| {
            // Two conditions on the same rows would keep SQLite from using the indexes.
            let of_user = match filter.hotkey {
                Some(_) => {
                    "t.id IN (SELECT t.id FROM transfers t JOIN accounts a ON a.id = t.taken_from WHERE a.hotkey = :hotkey
                        UNION SELECT t.id FROM transfers t JOIN accounts a ON a.id = t.given_to WHERE a.hotkey = :hotkey)"
                }
                None => ":hotkey IS NULL",
            };
            let mut statement = connection.prepare(&format!(
                "SELECT t.id, t.at_us, t.kind, f.kind, f.hotkey, g.kind, g.hotkey, t.amount, b.job_uuid, t.key, t.note
                 FROM transfers t JOIN accounts f ON f.id = t.taken_from JOIN accounts g ON g.id = t.given_to
                    LEFT JOIN bills b ON b.id = t.bill
                 WHERE {of_user} AND (:job IS NULL OR b.job_uuid = :job) AND (:kind IS NULL OR t.kind = :kind)
                    AND (:since IS NULL OR t.at_us >= :since)
                 ORDER BY t.id DESC LIMIT :limit"
            ))?;
            let rows = statement.query_map(
                named_params! {
                    ":hotkey": filter.hotkey.as_ref().map(Hotkey::as_str),
                    ":job": filter.job.as_ref().map(JobId::as_str),
                    ":kind": filter.kind,
                    ":since": filter.since.map(micros),
                    ":limit": limit,
                },
                |row| Ok(read_transfer(row)),
            )?;
            let mut transfers = Vec::new();
            for row in rows {
                transfers.push(row??);
            }
            Ok(transfers)
        };
        self.store.read(query).await
    }

    /// Checks the books: every balance is what its transfers make it, every bill is what its transfers say, and all
    /// balances add up to zero. Reads the whole ledger.
    pub async fn imbalances(&self) -> Result<Vec<Imbalance>, StoreError> {
        let query = |connection: &Connection| {
            let mut found = Vec::new();
            for rule in RULES {
                let mut statement = connection.prepare(rule)?;
                let rows = statement.query_map((), |row| {
                    Ok(Imbalance {
                        what: row.get(0)?,
                        kept: row.get(1)?,
                        moved: row.get(2)?,
                    })
                })?;
                for row in rows.take(PROBLEMS_MAX) {
                    found.push(row?);
                }
            }
            Ok(found)
        };
        self.store.read(query).await
    }
}

fn balance(connection: &Connection, account: i64) -> Result<Micro, StoreError> {
    Ok(connection
        .prepare_cached("SELECT balance FROM accounts WHERE id = ?1")?
        .query_row((account,), |row| amount(row, 0))?)
}

pub(super) fn read_transfer(row: &Row<'_>) -> Result<Transfer, StoreError> {
    let party = |kind, hotkey| Party::read(&row.get::<_, String>(kind)?, row.get(hotkey)?);
    Ok(Transfer {
        id: row.get(0)?,
        at: moment(row.get(1)?)?,
        kind: row.get(2)?,
        taken_from: party(3, 4)?,
        given_to: party(5, 6)?,
        amount: amount(row, 7)?,
        job: row.get::<_, Option<String>>(8)?.map(JobId::new),
        key: row.get(9)?,
        note: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the code above does wrong, the schema does not let money appear, vanish or move twice.
    #[tokio::test]
    async fn the_schema_refuses_what_double_entry_forbids() {
        let folder = tempfile::tempdir().unwrap();
        let store = FacilitatorStore::open(&folder.path().join("facilitator.sqlite")).unwrap();
        let grant = Grant {
            hotkey: Hotkey::new("owner"),
            amount: Micro::new(100),
            note: String::new(),
            key: None,
        };
        store.grant(grant, OffsetDateTime::UNIX_EPOCH).await.unwrap();
        let job = "INSERT INTO jobs VALUES (1, 'job', 'owner', 0, 'validator', 'always_on.test', '', NULL, '', '[]', '{}', 0,
                '', 0, 1, 1, 1, 1, NULL, '[]', '[]', 'owner', 1, '', '');
             INSERT INTO bills (job, job_uuid, available, reserved, price, seconds_max) VALUES (1, 'job', 3, 4, 10, 6);
             INSERT INTO transfers (at_us, kind, taken_from, given_to, amount, bill) VALUES (0, 'reserve', 3, 4, 60, 1)";
        let tried = async |words: &'static str| {
            let change = move |connection: &Connection| Ok(connection.execute_batch(words)?);
            store.store.write(change).await
        };
        tried(job).await.unwrap();
        assert_eq!(store.imbalances().await.unwrap(), []);
        for wrong in [
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount, bill) VALUES (0, 'reserve', 3, 4, 1, 1)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'debit', 3, 1, 41)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'credit', 1, 3, 0)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'credit', 1, 3, -5)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'credit', 3, 3, 5)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'credit', 1, 99, 5)",
            "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount) VALUES (0, 'charge', 4, 2, 5)",
            "UPDATE transfers SET amount = 1",
            "DELETE FROM transfers",
            "INSERT INTO accounts (kind, hotkey, balance) VALUES ('available', 'thief', 5)",
            "UPDATE accounts SET hotkey = 'thief' WHERE hotkey = 'owner'",
            "DELETE FROM accounts",
            "UPDATE bills SET charged = 61",
            "UPDATE bills SET price = 1",
            "DELETE FROM bills",
            "INSERT INTO steps VALUES (1, 0, 'failed', '{}', 0)",
            "DELETE FROM jobs",
        ] {
            let error = tried(wrong).await.unwrap_err();
            assert!(error.is_constraint(), "{wrong}: {error:?}");
        }
        tried("UPDATE bills SET settled_us = 0").await.unwrap();
        assert!(
            tried("UPDATE bills SET charged = 1")
                .await
                .unwrap_err()
                .is_constraint()
        );
        // What was set aside and is neither charged nor given back is found.
        let found = store.imbalances().await.unwrap();
        let told: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["bill 1 (set aside): 0 is written, 60 by the transfers"]);
        // A job may be forgotten once its bill is settled; the bill stays.
        tried("DELETE FROM jobs").await.unwrap();
        let listed = store.transfers(TransferFilter::default(), 9).await.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed.first().unwrap().job, Some(JobId::new("job")));
    }
}
