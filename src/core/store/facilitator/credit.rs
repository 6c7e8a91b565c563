//! The money of jobs: set aside with the submission, charged while they work, settled with their end. What each step
//! amounts to is decided by [`Bill`]; here it is kept, in the transaction of the step that causes it.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use time::OffsetDateTime;

use super::jobs::Step;
use super::{CrashPoint, FacilitatorStore};
use crate::core::model::job::JobStatus;
use crate::core::model::{Hotkey, JobId};
use crate::core::money::{Bill, End, INTERVAL_SECONDS, Micro, Moment, working_since};
use crate::core::store::StoreError;
use crate::core::store::times::micros;

/// The account that what is charged goes to.
const INCOME: i64 = 2;

/// A user's money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// What new jobs can be paid from.
    pub available: Micro,
    /// What is set aside for jobs that have not ended.
    pub reserved: Micro,
}

/// What a job costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// What was set aside for it.
    pub reserved: Micro,
    /// What it was charged so far; final once it has ended.
    pub charged: Micro,
    /// For how many seconds.
    pub seconds: i64,
}

/// A user has less than a job may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// What the job may cost.
    pub required: Micro,
    /// What the user has.
    pub available: Micro,
}

impl Shortfall {
    /// Returns what is missing.
    pub fn missing(&self) -> Micro {
        self.required.minus(self.available)
    }
}

/// A job that works and is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningBill {
    /// Its row.
    pub id: i64,
    /// What was agreed.
    pub bill: Bill,
    /// Since when it works, microseconds since 1970.
    pub since_us: i64,
    /// How many intervals are charged already.
    pub intervals: i64,
}

/// The two accounts of a user who can pay for a job.
pub(super) struct Purse {
    available: i64,
    reserved: i64,
}

/// Looks whether a user can pay for a job; makes the accounts of one who needs nothing.
pub(super) fn purse(
    connection: &Connection,
    owner: &Hotkey,
    bill: &Bill,
) -> Result<Result<Purse, Shortfall>, StoreError> {
    let required = bill.reserved();
    let found = account_of(connection, owner, "available")?;
    let balance = found.map_or(Micro::ZERO, |(_, balance)| balance);
    if balance < required {
        let available = balance;
        return Ok(Err(Shortfall { required, available }));
    }
    let (available, reserved) = accounts(connection, owner)?;
    Ok(Ok(Purse { available, reserved }))
}

/// Returns a user's two accounts, `available` first, made where missing.
pub(super) fn accounts(connection: &Connection, owner: &Hotkey) -> Result<(i64, i64), StoreError> {
    let account = |kind| -> Result<i64, StoreError> {
        if let Some((id, _)) = account_of(connection, owner, kind)? {
            return Ok(id);
        }
        connection
            .prepare_cached("INSERT INTO accounts (kind, hotkey, balance) VALUES (?1, ?2, 0)")?
            .execute((kind, owner.as_str()))?;
        Ok(connection.last_insert_rowid())
    };
    Ok((account("available")?, account("reserved")?))
}

fn account_of(
    connection: &Connection,
    owner: &Hotkey,
    kind: &str,
) -> Result<Option<(i64, Micro)>, StoreError> {
    let found = connection
        .prepare_cached("SELECT id, balance FROM accounts WHERE hotkey = ?1 AND kind = ?2")?
        .query_row((owner.as_str(), kind), |row| Ok((row.get(0)?, amount(row, 1)?)))
        .optional()?;
    Ok(found)
}

/// Opens the bill of a job that was just stored, and sets aside what it may cost.
pub(super) fn reserve(
    connection: &Connection,
    (seq, uuid): (i64, &JobId),
    purse: &Purse,
    bill: &Bill,
    at: OffsetDateTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO bills (job, job_uuid, available, reserved, price, seconds_max)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            seq,
            uuid.as_str(),
            purse.available,
            purse.reserved,
            bill.price.get(),
            bill.seconds_max,
        ))?;
    let id = connection.last_insert_rowid();
    Transfer::new("reserve", purse.available, purse.reserved, bill.reserved()).carry_out(
        connection,
        id,
        micros(at),
    )
}

/// Settles the bill of a job that ends with this step, if it has one.
pub(super) fn settle(connection: &Connection, seq: i64, step: &Step) -> Result<(), StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT id, available, reserved, price, seconds_max, charged, intervals FROM bills
             WHERE job = ?1 AND settled_us IS NULL",
        )?
        .query_row((seq,), |row| Ok(OpenBill::read(row)))
        .optional()?
        .transpose()?;
    let Some(open) = found else {
        return Ok(());
    };
    let steps = moments(connection, seq)?;
    let at_us = micros(step.created_at);
    let end = End {
        moment: Moment {
            status: step.status,
            at_us,
        },
        has_horde_failure: step.metadata.contains_key("horde_failure_details"),
    };
    let settled = open.bill.settle(open.charged, &steps, &end);
    for transfer in [
        Transfer::new("charge", open.reserved, INCOME, settled.charge),
        Transfer::new("refund", INCOME, open.available, settled.refund),
        Transfer::new("return", open.reserved, open.available, settled.give_back),
    ] {
        transfer.carry_out(connection, open.id, at_us)?;
    }
    connection
        .prepare_cached("UPDATE bills SET charged = ?2, seconds = ?3, settled_us = ?4 WHERE id = ?1")?
        .execute((open.id, settled.total.get(), settled.seconds, at_us))?;
    Ok(())
}

/// Returns the states that a job has had, and when.
fn moments(connection: &Connection, seq: i64) -> Result<Vec<Moment>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT status, created_us FROM steps WHERE job = ?1")?;
    let rows = statement.query_map((seq,), |row| {
        Ok(Moment {
            status: JobStatus::from_word(&row.get::<_, String>(0)?),
            at_us: row.get(1)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns what a job costs; none if it is not charged.
pub(super) fn cost_of(connection: &Connection, seq: i64) -> Result<Option<Cost>, StoreError> {
    let found = connection
        .prepare_cached("SELECT price, seconds_max, charged, seconds FROM bills WHERE job = ?1")?
        .query_row((seq,), |row| {
            let bill = Bill {
                price: amount(row, 0)?,
                seconds_max: row.get(1)?,
            };
            Ok(Cost {
                reserved: bill.reserved(),
                charged: amount(row, 2)?,
                seconds: row.get(3)?,
            })
        })
        .optional()?;
    Ok(found)
}

impl FacilitatorStore {
    /// Returns a user's money, by a look in place.
    pub fn account(&self, hotkey: &Hotkey) -> Result<Account, StoreError> {
        self.store.read_here(|connection| {
            let balance = |kind| -> Result<Micro, StoreError> {
                let found = account_of(connection, hotkey, kind)?;
                Ok(found.map_or(Micro::ZERO, |(_, balance)| balance))
            };
            Ok(Account {
                available: balance("available")?,
                reserved: balance("reserved")?,
            })
        })
    }

    /// Returns the charged jobs of which it is known that they work, and since when, by rising row; without those that
    /// were submitted too late for an interval to be over at `now`.
    pub async fn running_bills(&self, now: OffsetDateTime) -> Result<Vec<RunningBill>, StoreError> {
        let now_us = micros(now);
        let query = move |connection: &Connection| {
            let mut bills = connection.prepare_cached(
                "SELECT b.id, b.job, b.price, b.seconds_max, b.intervals
                 FROM bills b INDEXED BY bills_open JOIN jobs j ON j.seq = b.job
                 WHERE b.settled_us IS NULL AND j.created_us + min(b.seconds_max, ?2) * 1000000 <= ?1 ORDER BY b.id",
            )?;
            let mut rows = bills.query((now_us, INTERVAL_SECONDS))?;
            let mut running = Vec::new();
            while let Some(row) = rows.next()? {
                let Some(since_us) = working_since(&moments(connection, row.get(1)?)?) else {
                    continue;
                };
                running.push(RunningBill {
                    id: row.get(0)?,
                    bill: Bill {
                        price: amount(row, 2)?,
                        seconds_max: row.get(3)?,
                    },
                    since_us,
                    intervals: row.get(4)?,
                });
            }
            Ok(running)
        };
        self.store.read(query).await
    }

    /// Charges these bills (row, number of intervals that are over) for the intervals that are over and not charged yet;
    /// returns how many were charged. A bill that was settled meanwhile is left alone.
    pub async fn charge_intervals(
        &self,
        over: Vec<(i64, i64)>,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let change = move |connection: &Connection| {
            let mut count = 0;
            for (id, over) in over {
                let found = connection
                    .prepare_cached(
                        "SELECT id, available, reserved, price, seconds_max, charged, intervals FROM bills
                         WHERE id = ?1 AND settled_us IS NULL",
                    )?
                    .query_row((id,), |row| Ok(OpenBill::read(row)))
                    .optional()?
                    .transpose()?;
                if let Some(open) = found {
                    count += open.charge_until(over, micros(now), connection)?;
                }
            }
            Ok(count)
        };
        self.step(CrashPoint::Interval, change).await
    }
}

/// A bill that is not settled.
struct OpenBill {
    id: i64,
    available: i64,
    reserved: i64,
    bill: Bill,
    charged: Micro,
    intervals: i64,
}

impl OpenBill {
    fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get(0)?,
            available: row.get(1)?,
            reserved: row.get(2)?,
            bill: Bill {
                price: amount(row, 3)?,
                seconds_max: row.get(4)?,
            },
            charged: amount(row, 5)?,
            intervals: row.get(6)?,
        })
    }

    /// Charges the intervals up to this one; returns how many that were.
    fn charge_until(&self, over: i64, at_us: i64, connection: &Connection) -> Result<u64, StoreError> {
        let mut count = 0;
        let (mut seconds, mut charged) = (0, Micro::ZERO);
        for number in self.intervals.saturating_add(1)..=over {
            let of_interval = self.bill.interval_seconds(number);
            let amount = self.bill.price.times(of_interval);
            let transfer = Transfer {
                interval: number,
                ..Transfer::new("interval", self.reserved, INCOME, amount)
            };
            transfer.carry_out(connection, self.id, at_us)?;
            seconds += of_interval;
            charged = charged.plus(amount);
            count += 1;
        }
        if count > 0 {
            connection
                .prepare_cached(
                    "UPDATE bills SET charged = charged + ?2, seconds = seconds + ?3, intervals = ?4 WHERE id = ?1",
                )?
                .execute((self.id, charged.get(), seconds, over))?;
        }
        Ok(count)
    }
}

/// A transfer that a job causes.
struct Transfer {
    kind: &'static str,
    taken_from: i64,
    given_to: i64,
    amount: Micro,
    interval: i64,
}

impl Transfer {
    fn new(kind: &'static str, taken_from: i64, given_to: i64, amount: Micro) -> Self {
        Self {
            kind,
            taken_from,
            given_to,
            amount,
            interval: 0,
        }
    }

    /// Writes it for a bill, unless it moves nothing.
    fn carry_out(&self, connection: &Connection, bill: i64, at_us: i64) -> Result<(), StoreError> {
        if self.amount == Micro::ZERO {
            return Ok(());
        }
        connection
            .prepare_cached(
                "INSERT INTO transfers (at_us, kind, taken_from, given_to, amount, bill, interval)
                 VALUES (:at_us, :kind, :taken_from, :given_to, :amount, :bill, :interval)",
            )?
            .execute(named_params! {
                ":at_us": at_us,
                ":kind": self.kind,
                ":taken_from": self.taken_from,
                ":given_to": self.given_to,
                ":amount": self.amount.get(),
                ":bill": bill,
                ":interval": self.interval,
            })?;
        Ok(())
    }
}

/// Reads an amount.
pub(super) fn amount(row: &Row<'_>, column: usize) -> rusqlite::Result<Micro> {
    row.get(column).map(Micro::new)
}
