//! Money: amounts in millionths of a unit, and what a job costs. Pure: no IO, no clock, no fractions.
//!
//! # What a job costs
//!
//! A job is charged by the second, at the price that its class had when it was submitted.
//!
//! | When | What happens |
//! |---|---|
//! | submission | the price of all seconds that its limits allow is set aside ([`TimeLimits::seconds`]) |
//! | every ten minutes of work | what these ten minutes cost is charged ([`Bill::intervals_over`]) |
//! | the end | what was used and is not charged yet is charged, the rest is given back ([`Bill::settle`]) |
//!
//! **Used** is the time from the first state that shows that an executor works (`executor_ready`, `volumes_ready`,
//! `streaming_ready`, `execution_done`) to the end, by the facilitator's own clock, rounded up to a second, and never more
//! than was set aside. A job that completes although none of these states was told has worked since it was accepted, or
//! else since it was received or sent.
//!
//! | End | Charged |
//! |---|---|
//! | `completed` | what was used |
//! | `failed` by the job itself, also by its user's cancelling | what was used; nothing if no executor worked |
//! | `failed` with `horde_failure_details`, `horde_failed`, `rejected` | nothing; intervals that were charged are refunded |
//! | none | the intervals that were charged |

mod amount;
mod bill;

pub use self::amount::{AmountError, Micro};
pub use self::bill::{Bill, End, INTERVAL_SECONDS, Moment, PRICE_MAX, Settlement, TimeLimits, working_since};
