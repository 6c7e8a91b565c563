//! What values a receipt may hold (wire-miner-validator §11, as the published wheel 0.0.27 checks them).

use crate::core::model::receipt::{JobFinished, ReceiptPayload};
use crate::core::model::{JobId, Timestamp};

/// Longest time to live: 30 days, in seconds.
pub const TTL_SECONDS_MAX: i64 = 2_592_000;

/// Longest duration of a job: 365 days, in microseconds.
const TIME_TOOK_US_MAX: i64 = 31_536_000_000_000;

/// Most characters of a score.
const SCORE_CHARS_MAX: usize = 256;

/// Most allowance blocks of one job.
const BLOCK_NUMBERS_MAX: usize = 10_000;

/// Largest block number.
const BLOCK_NUMBER_MAX: i64 = 4_294_967_296;

/// First year of a datetime.
const YEAR_MIN: i32 = 2000;

/// Last year of a datetime.
const YEAR_MAX: i32 = 2099;

/// A value of a receipt that the subnet does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// Not a UUID in canonical lower-case form.
    #[error("job_uuid {0:?} is not a lower-case UUID")]
    JobUuid(String),
    /// A datetime without offset.
    #[error("{field} has no time zone")]
    Naive {
        /// The field.
        field: &'static str,
    },
    /// A datetime outside of 2000 to 2099.
    #[error("{field} lies in year {year}, not in {YEAR_MIN} to {YEAR_MAX}")]
    Year {
        /// The field.
        field: &'static str,
        /// The year as written.
        year: i32,
    },
    /// A number out of its range.
    #[error("{field} is {value}, not in 0 to {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// The value.
        value: i64,
        /// The largest value.
        max: i64,
    },
    /// A score that is not `digits[.digits]` of at most 256 characters.
    #[error("score_str is not a decimal number of at most {SCORE_CHARS_MAX} characters")]
    Score,
    /// Too many block numbers.
    #[error("{0} block numbers, at most {BLOCK_NUMBERS_MAX} are allowed")]
    BlockCount(usize),
}

/// Checks every value of a receipt.
pub fn check_bounds(payload: &ReceiptPayload) -> Result<(), BoundsError> {
    check_uuid(payload.job_uuid())?;
    check_time("timestamp", payload.timestamp())?;
    match payload {
        ReceiptPayload::Started(started) => check_range("ttl", started.ttl, TTL_SECONDS_MAX),
        ReceiptPayload::Accepted(accepted) => {
            check_time("time_accepted", accepted.time_accepted)?;
            check_range("ttl", accepted.ttl, TTL_SECONDS_MAX)
        }
        ReceiptPayload::Finished(finished) => check_finished(finished),
    }
}

fn check_finished(finished: &JobFinished) -> Result<(), BoundsError> {
    check_time("time_started", finished.time_started)?;
    check_range("time_took_us", finished.time_took_us, TIME_TOOK_US_MAX)?;
    if !is_score(&finished.score_str) {
        return Err(BoundsError::Score);
    }
    let blocks = &finished.block_numbers;
    if blocks.len() > BLOCK_NUMBERS_MAX {
        return Err(BoundsError::BlockCount(blocks.len()));
    }
    blocks
        .iter()
        .try_for_each(|&block| check_range("block_numbers", block, BLOCK_NUMBER_MAX))
}

fn check_uuid(job: &JobId) -> Result<(), BoundsError> {
    if job.is_canonical_uuid() {
        Ok(())
    } else {
        Err(BoundsError::JobUuid(job.as_str().chars().take(64).collect()))
    }
}

fn check_time(field: &'static str, time: Timestamp) -> Result<(), BoundsError> {
    if !time.is_aware() {
        return Err(BoundsError::Naive { field });
    }
    let year = time.year();
    if (YEAR_MIN..=YEAR_MAX).contains(&year) {
        Ok(())
    } else {
        Err(BoundsError::Year { field, year })
    }
}

fn check_range(field: &'static str, value: i64, max: i64) -> Result<(), BoundsError> {
    if (0..=max).contains(&value) {
        Ok(())
    } else {
        Err(BoundsError::Range { field, value, max })
    }
}

fn is_score(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    text.len() <= SCORE_CHARS_MAX && digits(whole) && digits(fraction)
}
