//! An amount of money: whole micro-units, written for people as decimal units.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Digits behind the point of a unit.
const DECIMALS: usize = 6;

/// An amount in millionths of a unit; JSON has the whole number, people read units (`1.5`).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Micro(i64);

/// Why a text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It is no decimal number.
    #[error("expected a number of units with at most {DECIMALS} digits behind the point, such as 25 or 0.5")]
    Format,
    /// It is more than is moved at once.
    #[error("expected at most {} units", Micro::MAX)]
    TooLarge,
}

impl Micro {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// How many make a unit.
    pub const PER_UNIT: i64 = 1_000_000;

    /// Most that an operator can move at once: a guard against slips of the keyboard.
    pub const MAX: Self = Self(1_000_000_000 * Self::PER_UNIT);

    /// Wraps a number of micro-units.
    pub const fn new(micro: i64) -> Self {
        Self(micro)
    }

    /// Returns the number of micro-units.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Returns the sum; the largest number in place of a larger one.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns what is left; the smallest number in place of a smaller one.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns what so many cost; the largest number in place of a larger one.
    #[must_use]
    pub const fn times(self, count: i64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl fmt::Display for Micro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let per_unit = Self::PER_UNIT.unsigned_abs();
        let (units, rest) = (self.0.unsigned_abs() / per_unit, self.0.unsigned_abs() % per_unit);
        let text = if rest == 0 {
            format!("{sign}{units}")
        } else {
            let digits = format!("{rest:0DECIMALS$}");
            format!("{sign}{units}.{}", digits.trim_end_matches('0'))
        };
        f.pad(&text)
    }
}

impl FromStr for Micro {
    type Err = AmountError;

    /// Reads units: digits, perhaps a point with one to six digits behind it, perhaps a minus in front, nothing else.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (units, decimals) = match digits.split_once('.') {
            Some((_, "")) => return Err(AmountError::Format),
            Some(parts) => parts,
            None => (digits, ""),
        };
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = !units.is_empty() && (units == "0" || !units.starts_with('0'));
        if !is_plain || !are_digits(units) || !are_digits(decimals) || decimals.len() > DECIMALS {
            return Err(AmountError::Format);
        }
        // Only digits are left, so what does not parse is too large.
        let number = |text: &str| text.parse::<i64>().map_err(|_| AmountError::TooLarge);
        let micro = number(units)?
            .checked_mul(Self::PER_UNIT)
            .and_then(|micro| micro.checked_add(number(&format!("{decimals:0<DECIMALS$}")).ok()?))
            .filter(|micro| *micro <= Self::MAX.0)
            .ok_or(AmountError::TooLarge)?;
        Ok(Self(if is_negative { -micro } else { micro }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_to_the_millionth_and_written_without_needless_zeros() {
        for (text, micro) in [
            ("0", 0),
            ("25", 25_000_000),
            ("0.5", 500_000),
            ("0.000001", 1),
            ("1.000001", 1_000_001),
            ("-3.25", -3_250_000),
            ("1000000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Micro(micro)), "{text}");
            assert_eq!(Micro(micro).to_string(), text);
        }
        assert_eq!("1.50".parse(), Ok(Micro(1_500_000)));
    }

    #[test]
    fn what_is_no_plain_decimal_is_refused() {
        for text in [
            "",
            "-",
            ".5",
            "5.",
            "+1",
            "1e3",
            "1_000",
            "1,5",
            "01",
            "00",
            "0x1",
            " 1",
            "1 ",
            "1.0000001",
            "--1",
            "1.-5",
            "٣",
            "NaN",
            "inf",
            "1.2.3",
        ] {
            assert_eq!(text.parse::<Micro>(), Err(AmountError::Format), "{text:?}");
        }
        for text in ["1000000000.000001", "99999999999999999999999", "-1000000001"] {
            assert_eq!(text.parse::<Micro>(), Err(AmountError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn the_smallest_number_can_be_written() {
        assert_eq!(Micro(i64::MIN).to_string(), "-9223372036854.775808");
    }
}
