//! Cells, columns and rows that all views make alike: ages, spans, amounts, names.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::{Ask, Cell, Column, ROWS_MAX, Tone, Value};
use crate::core::model::{Hotkey, JobId, Timestamp};
use crate::core::money::Micro;
use crate::core::store::glance::{Standing, Until};
use crate::core::store::times::micros;

/// Characters of an identity that are shown at its beginning, and at its end.
const HEAD: usize = 8;
const TAIL: usize = 4;

/// Rows of a page for which no number is given.
const ROWS: usize = 200;

/// Returns columns of name, whether the cells stand at the right, and rank.
pub(in crate::tui) fn columns(columns: &[(&'static str, bool, u8)]) -> Vec<Column> {
    let column = |(name, right, rank): &(&'static str, bool, u8)| Column {
        name,
        right: *right,
        rank: *rank,
    };
    columns.iter().map(column).collect()
}

/// Returns how many rows a page has at most.
pub(in crate::tui) fn limit(ask: &Ask) -> u32 {
    let rows = if ask.rows_max == 0 {
        ROWS
    } else {
        ask.rows_max.min(ROWS_MAX)
    };
    u32::try_from(rows).unwrap_or(u32::MAX)
}

/// Returns which rows a page of things with a time has: the newest until the moment of which it tells, or those before the
/// cursor, which is the time of the last row of the page before.
pub(in crate::tui) fn until(ask: &Ask, moment: OffsetDateTime) -> Until {
    // Roles of other machines may be ahead; nothing that is known now is hidden for that.
    let us = if ask.at.is_some() {
        micros(moment)
    } else {
        i64::MAX
    };
    let before = ask
        .before
        .as_deref()
        .and_then(|cursor| cursor.parse::<i64>().ok());
    Until {
        us: before.map_or(us, |before| us.min(before.saturating_sub(1))),
        // One more than a page has, which shows whether there are more, and whether the page ends within a moment.
        limit: limit(ask).saturating_add(1),
    }
}

/// Cuts what has a time, newest first, to a page that ends where the time changes, so that the next page loses nothing;
/// returns the cursor for that.
pub(in crate::tui) fn cut<T>(
    rows: &mut Vec<T>,
    ask: &Ask,
    time: impl Fn(&T) -> OffsetDateTime,
) -> Option<String> {
    let limit = usize::try_from(limit(ask)).unwrap_or(usize::MAX);
    let next = rows.get(limit).map(&time)?;
    rows.truncate(limit);
    let whole = rows.partition_point(|row| time(row) > next);
    if whole > 0 {
        rows.truncate(whole);
    }
    rows.last().map(|row| micros(time(row)).to_string())
}

/// Returns a moment as the clock on the wall has it, UTC.
pub(in crate::tui) fn clock(moment: OffsetDateTime) -> Cell {
    let (hour, minute, second) = moment.time().as_hms();
    let text = format!(
        "{:02}-{:02} {hour:02}:{minute:02}:{second:02}.{:03}",
        u8::from(moment.month()),
        moment.day(),
        moment.millisecond(),
    );
    at(moment, text)
}

/// Returns how long ago a moment was.
pub(in crate::tui) fn age(moment: OffsetDateTime, now: OffsetDateTime) -> Cell {
    at(moment, ago(moment, now))
}

/// Returns how long ago a moment was, in words.
pub(in crate::tui) fn ago(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let passed = now - moment;
    if passed.is_negative() {
        return format!("in {}", short(-passed));
    }
    short(passed)
}

fn at(moment: OffsetDateTime, text: String) -> Cell {
    Cell {
        text,
        value: Value::Time(Timestamp::new(moment)),
        tone: Tone::Plain,
    }
}

/// Returns a span in two units at most.
pub(in crate::tui) fn short(span: Duration) -> String {
    let seconds = span.whole_seconds();
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Returns how long something took: to the millisecond below ten seconds.
pub(in crate::tui) fn span(span: Duration) -> Cell {
    let seconds = span.as_seconds_f64();
    let text = match seconds {
        ..10.0 => format!("{seconds:.3}s"),
        10.0..60.0 => format!("{seconds:.1}s"),
        _ => short(span),
    };
    number(text, seconds)
}

/// Returns a number as it is to be read.
pub(in crate::tui) fn number(text: String, value: f64) -> Cell {
    Cell {
        text,
        value: Value::Number(value),
        tone: Tone::Plain,
    }
}

/// Returns a score.
pub(in crate::tui) fn score(score: f64) -> Cell {
    number(format!("{score:.2}"), score)
}

/// Returns an amount of money.
pub(in crate::tui) fn money(amount: Micro) -> Cell {
    Cell {
        text: amount.to_string(),
        value: Value::Integer(amount.get()),
        tone: Tone::Plain,
    }
}

/// Returns bytes in the unit that suits.
pub(in crate::tui) fn bytes(bytes: u64) -> Cell {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut unit) = (bytes, 0);
    let mut rest = 0;
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    let text = if unit == 0 {
        format!("{scaled} {name}")
    } else {
        format!("{scaled}.{} {name}", rest * 10 / 1024)
    };
    Cell {
        text,
        value: Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX)),
        tone: Tone::Plain,
    }
}

/// Returns a count.
pub(in crate::tui) fn count(count: u64) -> Cell {
    Cell::integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Returns the cell of a value, or that there is none.
pub(in crate::tui) fn or_nothing<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Cell {
    value.map_or_else(Cell::nothing, cell)
}

/// Returns words, or that there are none.
pub(in crate::tui) fn words(words: &str) -> Cell {
    if words.is_empty() {
        Cell::nothing()
    } else {
        Cell::text(words)
    }
}

/// Returns an identity, shortened where it is long.
pub(in crate::tui) fn identity(text: &str) -> Cell {
    Cell {
        text: shortened(text),
        value: Value::Whole(text.to_owned()),
        tone: Tone::Plain,
    }
}

/// Returns a hotkey, shortened.
pub(in crate::tui) fn hotkey(hotkey: &Hotkey) -> Cell {
    identity(hotkey.as_str())
}

/// Returns the beginning and the end of a long identity.
pub(in crate::tui) fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= HEAD + 1 + TAIL {
        return text.to_owned();
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head}…{tail}")
}

/// Makes the key of a row that tells of a job beside others that do: what is after the `#` only tells the rows apart.
pub(in crate::tui) fn keyed(job: &JobId, mark: impl std::fmt::Display) -> Arc<str> {
    format!("{job}#{mark}").into()
}

/// Returns how a standing is coloured.
pub(in crate::tui) const fn tone(standing: Standing) -> Tone {
    match standing {
        Standing::Open => Tone::Busy,
        Standing::Good => Tone::Good,
        Standing::Bad => Tone::Bad,
        Standing::Declined => Tone::Warning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_are_short_and_keep_their_value() {
        let told = |seconds: f64| span(Duration::seconds_f64(seconds)).text;
        assert_eq!(told(0.0125), "0.013s");
        assert_eq!(told(59.94), "59.9s");
        assert_eq!(told(3600.0), "1h");
        assert_eq!(told(90_061.0), "1d1h");
        assert_eq!(bytes(1023).text, "1023 B");
        assert_eq!(bytes(1536).text, "1.5 KiB");
        assert_eq!(bytes(u64::MAX).value, Value::Integer(i64::MAX));
        assert_eq!(shortened("ż".repeat(14).as_str()).chars().count(), 13);
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(ago(now + Duration::MINUTE, now), "in 1m");
    }

    #[test]
    fn a_page_ends_where_the_time_changes() {
        let at = |seconds: i64| OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds);
        let mut rows = vec![5, 4, 3, 3, 3, 2];
        let of = |rows_max| Ask {
            rows_max,
            ..Ask::default()
        };
        assert_eq!(cut(&mut rows, &of(4), |row| at(*row)), Some("4000000".to_owned()));
        assert_eq!(rows, [5, 4]);
        let mut same = vec![3, 3, 3];
        assert_eq!(cut(&mut same, &of(2), |row| at(*row)), Some("3000000".to_owned()));
        assert_eq!(same, [3, 3], "there is no way on but to leave some out");
        let mut few = vec![3, 2];
        assert_eq!(cut(&mut few, &of(2), |row| at(*row)), None);
        let ask = Ask {
            before: Some("4000000".to_owned()),
            ..Ask::default()
        };
        assert_eq!(until(&ask, at(9)).us, 3_999_999);
    }
}
