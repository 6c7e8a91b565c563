//! A moment as receipts write it: the exact text counts, because it is signed.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// Numbers above this are milliseconds, not seconds, since 1970 (the reference parser's watershed).
const SECONDS_MAX: i64 = 20_000_000_000;

/// A datetime with microseconds and an optional offset, read as the reference reads it and written in its
/// canonical text (wire-miner-validator §6).
///
/// * UTC is written `Z`, another offset `+02:00`, a naive value has no suffix.
/// * Microseconds are omitted when 0, else exactly six digits; further digits are cut off on reading.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp {
    local: PrimitiveDateTime,
    offset: Option<UtcOffset>,
}

/// A text or number that is no datetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no datetime")]
pub struct ParseTimestampError(pub String);

impl Timestamp {
    /// Makes a timestamp of a moment; anything below a microsecond is cut off.
    pub fn new(moment: OffsetDateTime) -> Self {
        let time = moment.time();
        let micros = Time::from_hms_micro(time.hour(), time.minute(), time.second(), time.microsecond());
        Self {
            local: PrimitiveDateTime::new(moment.date(), micros.unwrap_or(time)),
            offset: Some(moment.offset()),
        }
    }

    /// Returns the moment; a naive value counts as UTC.
    pub fn moment(self) -> OffsetDateTime {
        self.local.assume_offset(self.offset.unwrap_or(UtcOffset::UTC))
    }

    /// Returns whether the text carried an offset.
    pub fn is_aware(self) -> bool {
        self.offset.is_some()
    }

    /// Returns the year as written.
    pub fn year(self) -> i32 {
        self.local.year()
    }

    /// Reads ISO 8601 text (`T`, `t`, `_` or a space between date and time; seconds may be missing; a date alone is
    /// midnight, naive) or a number of seconds or milliseconds since 1970 as text.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        let refuse = || ParseTimestampError(text.chars().take(64).collect());
        if let Ok(seconds) = text.parse::<i64>() {
            return Self::from_unix(seconds, 0).ok_or_else(refuse);
        }
        parse_iso(text).ok_or_else(refuse)
    }

    fn from_unix(value: i64, micros: i64) -> Option<Self> {
        let moment = if value.abs() > SECONDS_MAX {
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(value).checked_mul(1_000_000)?).ok()?
        } else {
            OffsetDateTime::from_unix_timestamp(value).ok()?
        };
        Some(Self::new(moment.checked_add(Duration::microseconds(micros))?))
    }

    fn from_float(value: f64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "the watershed is far below 2^53")]
        let watershed = SECONDS_MAX as f64;
        let seconds = if value.abs() > watershed {
            value / 1000.0
        } else {
            value
        };
        if !seconds.is_finite() || seconds.abs() > 253_402_300_800.0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 2.6e17, checked above")]
        let micros = (seconds * 1e6).round() as i64;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
        Some(Self::new(moment))
    }
}

/// Takes `count` ASCII digits from the front.
fn digits(text: &str, count: usize) -> Option<(u32, &str)> {
    let (head, tail) = text.split_at_checked(count)?;
    if !head.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((head.parse().ok()?, tail))
}

fn parse_iso(text: &str) -> Option<Timestamp> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    if rest.is_empty() {
        return Some(Timestamp {
            local: date.midnight(),
            offset: None,
        });
    }
    let rest = rest.strip_prefix(['T', 't', ' ', '_'])?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, mut rest) = digits(rest.strip_prefix(':')?, 2)?;
    let mut second = 0;
    let mut micros = 0;
    if let Some(tail) = rest.strip_prefix(':') {
        (second, rest) = digits(tail, 2)?;
        if let Some(tail) = rest.strip_prefix(['.', ',']) {
            let count = tail.bytes().take_while(u8::is_ascii_digit).count();
            if count == 0 || count > 9 {
                return None;
            }
            let (fraction, tail) = tail.split_at_checked(count)?;
            let six: String = fraction.chars().chain(std::iter::repeat('0')).take(6).collect();
            micros = six.parse().ok()?;
            rest = tail;
        }
    }
    let time = Time::from_hms_micro(
        u8::try_from(hour).ok()?,
        u8::try_from(minute).ok()?,
        u8::try_from(second).ok()?,
        micros,
    )
    .ok()?;
    Some(Timestamp {
        local: PrimitiveDateTime::new(date, time),
        offset: parse_offset(rest)?,
    })
}

/// Reads the suffix: nothing (naive), `Z`, or an offset of hours and minutes.
#[expect(clippy::option_option, reason = "outer: readable; inner: present")]
fn parse_offset(text: &str) -> Option<Option<UtcOffset>> {
    if text.is_empty() {
        return Some(None);
    }
    if text == "Z" || text == "z" {
        return Some(Some(UtcOffset::UTC));
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let (minutes, rest) = digits(rest.strip_prefix(':').unwrap_or(rest), 2)?;
    if !rest.is_empty() || hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = sign * i32::try_from(hours * 3600 + minutes * 60).ok()?;
    Some(Some(UtcOffset::from_whole_seconds(seconds).ok()?))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.local.date(), self.local.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        )?;
        if time.microsecond() != 0 {
            write!(f, ".{:06}", time.microsecond())?;
        }
        match self.offset {
            None => Ok(()),
            Some(offset) if offset == UtcOffset::UTC => f.write_str("Z"),
            Some(offset) => {
                let minutes = offset.whole_minutes();
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({self})")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    /// Without a format: the reference's own times may lack a zone.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

struct TimestampVisitor;

impl Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a datetime")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::parse(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Timestamp, E> {
        Timestamp::from_unix(value, 0).ok_or_else(|| E::custom(ParseTimestampError(value.to_string())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Timestamp, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Timestamp, E> {
        Timestamp::from_float(value).ok_or_else(|| E::custom(ParseTimestampError(value.to_string())))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimestampVisitor)
    }
}
