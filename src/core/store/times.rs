//! How times stand in the databases: integer microseconds since 1970, UTC.

use time::OffsetDateTime;

use super::StoreError;

/// Turns a moment into what is stored; every moment that can be written fits.
pub fn micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// Turns a stored time into a moment.
pub(super) fn moment(micros: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .map_err(|error| StoreError::value("time", error))
}
