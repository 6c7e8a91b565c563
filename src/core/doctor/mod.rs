//! What keeps a role from working, besides the machine's fitness for jobs: facts become findings.
//!
//! [`facts`] reads files, limits and ports, [`judge`] is the pure step from facts to findings, [`catalogue`] says of
//! every check what it requires, what it is good for, how it is made and what helps, and [`mend`] puts right what can be
//! put right without risk.

pub mod catalogue;
pub mod facts;
pub mod judge;
pub mod mend;
pub mod port;

use std::fmt::Display;

use self::catalogue::find;
use crate::core::host::checks::{Finding, Status, Words};

/// Makes a finding of a check of the [`catalogue`].
pub fn finding(check: &str, status: Status, actual: impl Display) -> Finding {
    Finding::new(check, status, actual, words(check))
}

/// Makes the finding of a check that was not made.
pub fn skipped(check: &str, why: impl Display) -> Finding {
    finding(check, Status::Skipped, why)
}

/// Returns what a check requires, what it is good for, and what helps when it fails.
pub fn words(check: &str) -> Words {
    find(check).map_or(("", "", "see the reason"), |check| {
        (check.required, check.purpose, check.remedy)
    })
}
