//! Canonical JSON: the exact text that Python's `json.dumps(value, sort_keys=True)` gives.
//!
//! Receipts, signed messages and reports are signed over this text, so one byte of difference is a refused signature:
//! keys sorted by code point, everything outside printable ASCII as `\uXXXX` (surrogate pairs above the basic plane),
//! and floats printed the way `repr` prints them.
//!
//! One limit comes from [`serde_json::Value`]: an integer that does not fit 64 bits is held as a float and prints as one,
//! while Python would print all its digits. No field of any message needs such a number.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Number, Value};

/// Room that a text gets at first, in bytes: receipts and most requests fit.
const TEXT_BYTES: usize = 1024;

/// Returns `value` with sorted keys and the separators `", "` and `": "`.
pub fn spaced_sorted(value: &Value) -> String {
    let mut out = String::with_capacity(TEXT_BYTES);
    write_value(&mut out, value, &SPACED);
    out
}

/// Returns `value` with its keys in their own order and the separators `", "` and `": "`: what `json.dumps(value)` gives.
pub fn spaced(value: &Value) -> String {
    let mut out = String::with_capacity(TEXT_BYTES);
    write_value(&mut out, value, &SPACED_AS_IS);
    out
}

/// Returns `value` with sorted keys and the separators `","` and `":"`.
pub fn compact_sorted(value: &Value) -> String {
    let mut out = String::with_capacity(TEXT_BYTES);
    write_value(&mut out, value, &COMPACT);
    out
}

/// Returns the [`spaced_sorted`] text of anything that serialises, as it is written to JSON.
pub fn spaced_sorted_of(value: &impl Serialize) -> Result<String, CanonicalError> {
    Ok(spaced_sorted(&serde_json::to_value(value)?))
}

/// Returns `text` as a JSON string literal in ASCII, the quotes included.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    write_string(&mut out, text);
    out
}

/// Why a value has no canonical text: it does not serialise to JSON (a map with keys that are no strings).
#[derive(Debug, thiserror::Error)]
#[error("value does not serialise to JSON")]
pub struct CanonicalError(#[from] serde_json::Error);

struct Style {
    item: &'static str,
    key: &'static str,
    sorted: bool,
}

const SPACED: Style = Style {
    item: ", ",
    key: ": ",
    sorted: true,
};
const SPACED_AS_IS: Style = Style {
    sorted: false,
    ..SPACED
};
const COMPACT: Style = Style {
    item: ",",
    key: ":",
    sorted: true,
};

/// Recursion is bounded by the reader: `serde_json` refuses input nested deeper than 128 levels.
fn write_value(out: &mut String, value: &Value, style: &Style) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(style.item);
                }
                write_value(out, item, style);
            }
            out.push(']');
        }
        Value::Object(map) => {
            // Byte order of UTF-8 is code point order, which is how Python compares strings.
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            if style.sorted {
                entries.sort_unstable_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push_str(style.item);
                }
                write_string(out, key);
                out.push_str(style.key);
                write_value(out, item, style);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, number: &Number) {
    if let Some(integer) = number.as_i64() {
        push_fmt(out, format_args!("{integer}"));
    } else if let Some(integer) = number.as_u64() {
        push_fmt(out, format_args!("{integer}"));
    } else if let Some(float) = number.as_f64() {
        write_float(out, float);
    } else {
        push_fmt(out, format_args!("{number}"));
    }
}

/// Writes the shortest digits that read back as `float`, laid out as Python's `repr` does: plain notation for decimal
/// exponents -4 to 15 and always with a fraction, otherwise an exponent with a sign and at least two digits.
fn write_float(out: &mut String, float: f64) {
    let shortest = format!("{float:e}");
    let Some((mantissa, Ok(exponent))) = shortest
        .split_once('e')
        .map(|(mantissa, exponent)| (mantissa, exponent.parse::<i32>()))
    else {
        // Not a finite number, which a JSON value cannot hold.
        out.push_str("null");
        return;
    };
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        push_fmt(
            out,
            format_args!("{mantissa}e{sign}{:02}", exponent.unsigned_abs()),
        );
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    push_fmt(out, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

fn push_fmt(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let written = out.write_fmt(arguments);
    debug_assert!(written.is_ok(), "a string takes any text");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn floats_print_as_python_repr_prints_them() {
        for (text, expected) in [
            ("1.0", "1.0"),
            ("0.1", "0.1"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("12345678901234567000.5", "1.2345678901234567e+19"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1e-7", "1e-07"),
            ("1.5e-7", "1.5e-07"),
            ("1e100", "1e+100"),
            ("1e23", "1e+23"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("-0.0", "-0.0"),
            ("-2.5", "-2.5"),
            ("123456.789", "123456.789"),
            ("9007199254740993.0", "9007199254740992.0"),
            // Comes out one bit off if the JSON reader rounds carelessly.
            ("-9.408413481616583e-144", "-9.408413481616583e-144"),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(spaced_sorted(&value), expected, "{text}");
        }
    }

    #[test]
    fn integers_print_all_their_digits() {
        for text in ["0", "-1", "9223372036854775807", "18446744073709551615"] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(compact_sorted(&value), text);
        }
    }

    #[test]
    fn text_outside_printable_ascii_is_escaped() {
        assert_eq!(
            quoted("ż\u{2028}😀\u{7f}\u{1}\u{8}\u{c}\n\r\t\"\\/"),
            "\"\\u017c\\u2028\\ud83d\\ude00\\u007f\\u0001\\b\\f\\n\\r\\t\\\"\\\\/\""
        );
    }

    #[test]
    fn keys_are_sorted_at_every_depth_and_separators_follow_the_style() {
        let value = json!({"b": [1, {"z": null, "a": true}], "a": {}, "ż": [], "~": "x"});
        assert_eq!(
            spaced_sorted(&value),
            r#"{"a": {}, "b": [1, {"a": true, "z": null}], "~": "x", "\u017c": []}"#
        );
        assert_eq!(
            compact_sorted(&value),
            r#"{"a":{},"b":[1,{"a":true,"z":null}],"~":"x","\u017c":[]}"#
        );
    }
}
