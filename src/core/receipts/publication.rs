//! What a request for a page of receipts gets (wire-receipts-http §1): whole, packed, a part, or nothing new.
//!
//! A page only grows, so its length names its bytes: the entity tag is made of it, and a part that a reader fetched
//! stays good. Everything here is pure; headers come in as text and go out as text.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::core::model::receipt::{ACTIVE_PAGES, page_at};

/// End of the name of a page.
const SUFFIX: &str = ".jsonl";

/// Digits of a page's number: enough for the next thousand years.
const DIGITS_MAX: usize = 9;

/// Reads the number of a page out of its name, as `5984464.jsonl`.
pub fn page_of_name(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    // One name per page: no zeros in front.
    let number = digits.parse().ok().filter(|_| is_number)?;
    (digits == "0" || !digits.starts_with('0')).then_some(number)
}

/// Returns the first page that may still grow.
pub fn first_active_page(now: OffsetDateTime) -> i64 {
    page_at(now).saturating_sub(ACTIVE_PAGES - 1)
}

/// What there is of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Length of all lines in bytes, never 0.
    pub bytes: i64,
    /// Length when packed by gzip; none while it is not, or still grows.
    pub gzip_bytes: Option<i64>,
    /// When the last line was stored.
    pub changed_at: OffsetDateTime,
}

/// The headers of a request that decide, as they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked<'a> {
    /// `Accept-Encoding`.
    pub accept_encoding: Option<&'a str>,
    /// `Range`; none for a `HEAD`, which has no parts.
    pub range: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a str>,
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 304: the client has what there is.
    NotModified,
    /// 416: the part begins at or behind the end.
    Unsatisfiable,
    /// 200: all lines.
    Whole,
    /// 200: all lines, packed.
    Packed,
    /// 206: these bytes, the last one included.
    Part {
        /// The first byte.
        first: i64,
        /// The last byte.
        last: i64,
    },
}

/// An answer with the headers that name what is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to send.
    pub answer: Answer,
    /// `ETag`.
    pub etag: String,
    /// `Last-Modified`; none within the second of the last line, in which another may follow.
    pub last_modified: Option<String>,
}

/// Decides about a page that exists.
pub fn decide(page: &Published, asked: &Asked<'_>, now: OffsetDateTime) -> Decision {
    let seconds = page.changed_at.unix_timestamp();
    let is_settled = now.unix_timestamp() > seconds;
    let changed = httpdate_of(page.changed_at);
    let is_packed =
        page.gzip_bytes.is_some() && asked.range.is_none() && asked.accept_encoding.is_some_and(accepts_gzip);
    let representation = if is_packed { "-gz" } else { "" };
    let etag = format!("\"{seconds:x}-{:x}{representation}\"", page.bytes);
    let answer = if is_known(asked, &etag, seconds, is_settled) {
        Answer::NotModified
    } else if is_packed {
        Answer::Packed
    } else {
        match asked
            .range
            .filter(|_| is_same(asked.if_range, &etag, &changed, is_settled))
        {
            Some(range) => part(range, page.bytes),
            None => Answer::Whole,
        }
    };
    Decision {
        answer,
        etag,
        last_modified: is_settled.then_some(changed),
    }
}

/// Returns whether the client has this already; a tag counts more than a date.
fn is_known(asked: &Asked<'_>, etag: &str, changed: i64, is_settled: bool) -> bool {
    if let Some(tags) = asked.if_none_match {
        let mut tags = tags.split(',').map(str::trim);
        return tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    }
    is_settled
        && asked
            .if_modified_since
            .and_then(unix_of)
            .is_some_and(|since| changed <= since)
}

/// Returns whether a part fits to what the client has.
fn is_same(if_range: Option<&str>, etag: &str, changed: &str, is_settled: bool) -> bool {
    match if_range.map(str::trim) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == etag,
        Some(date) => is_settled && date == changed,
    }
}

/// Reads a `Range` of one part. Another unit and several parts are answered with the whole, what makes no sense with
/// 416, as nginx does.
fn part(range: &str, bytes: i64) -> Answer {
    let Some(spec) = range.trim().strip_prefix("bytes=").map(str::trim) else {
        return Answer::Whole;
    };
    if spec.contains(',') {
        return Answer::Whole;
    }
    let number = |text: &str| -> Option<i64> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is too large for us is behind every end.
        is_number.then(|| text.parse().unwrap_or(i64::MAX))
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Answer::Unsatisfiable;
    };
    let end = bytes.saturating_sub(1);
    let (first, last) = match (number(first.trim()), number(last.trim())) {
        (Some(first), None) if last.trim().is_empty() => (first, end),
        (Some(first), Some(last)) => (first, last.min(end)),
        (None, Some(suffix)) if first.trim().is_empty() && suffix > 0 => {
            (bytes.saturating_sub(suffix).max(0), end)
        }
        _ => return Answer::Unsatisfiable,
    };
    if first > last {
        return Answer::Unsatisfiable;
    }
    Answer::Part { first, last }
}

/// Returns whether a client takes gzip.
fn accepts_gzip(header: &str) -> bool {
    let mut any = false;
    for item in header.split(',') {
        let mut words = item.split(';').map(str::trim);
        let coding = words.next().unwrap_or_default();
        let quality = words
            .find_map(|word| word.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse::<f64>().unwrap_or(0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return quality > 0.0;
        }
        any |= coding == "*" && quality > 0.0;
    }
    any
}

fn httpdate_of(moment: OffsetDateTime) -> String {
    httpdate::fmt_http_date(SystemTime::from(moment))
}

fn unix_of(date: &str) -> Option<i64> {
    let moment = httpdate::parse_http_date(date.trim()).ok()?;
    Some(OffsetDateTime::from(moment).unix_timestamp())
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const CHANGED: OffsetDateTime = datetime!(2026-11-22 09:06:15.5 UTC);
    const NOW: OffsetDateTime = datetime!(2026-11-22 09:06:41 UTC);
    const DATE: &str = "Sun, 22 Nov 2026 09:06:15 GMT";

    fn page() -> Published {
        Published {
            bytes: 1944,
            gzip_bytes: None,
            changed_at: CHANGED,
        }
    }

    fn packed() -> Published {
        Published {
            gzip_bytes: Some(872),
            ..page()
        }
    }

    fn answer(page: &Published, asked: Asked<'_>) -> Answer {
        decide(page, &asked, NOW).answer
    }

    fn part_of(range: &str) -> Answer {
        let asked = Asked {
            range: Some(range),
            accept_encoding: Some(""),
            ..Asked::default()
        };
        answer(&page(), asked)
    }

    #[test]
    fn a_page_has_one_name() {
        assert_eq!(page_of_name("5984464.jsonl"), Some(5_984_464));
        assert_eq!(page_of_name("0.jsonl"), Some(0));
        for name in [
            "5984464",
            "05984464.jsonl",
            "-1.jsonl",
            "+1.jsonl",
            ".jsonl",
            "1.jsonl.gz",
            "x.jsonl",
            "1e3.jsonl",
            "9999999999.jsonl",
            "٣.jsonl",
        ] {
            assert_eq!(page_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_page_of_a_moment_is_that_of_the_golden_file() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/receipts_http.json")).unwrap();
        let example = &vectors["page_number_formula_example"];
        let moment = OffsetDateTime::from_unix_timestamp(example["unix_time"].as_i64().unwrap()).unwrap();
        assert_eq!(page_at(moment), example["page"].as_i64().unwrap());
        assert_eq!(
            vectors["page_time_seconds"],
            crate::core::model::receipt::PAGE_SECONDS
        );
        assert_eq!(vectors["n_active_pages"], ACTIVE_PAGES);
        assert_eq!(first_active_page(moment), page_at(moment) - 1);
    }

    /// Every exchange of the recording, by what the page held at its time.
    #[test]
    fn the_exchanges_of_the_golden_file_get_their_answers() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/receipts_http.json")).unwrap();
        let mut seen = 0;
        for step in vectors["steps"].as_array().unwrap() {
            let exchange = &step["http"][0];
            // A page that does not exist has nothing to decide about.
            let Some(bytes) = step["page_file_bytes"].as_i64() else {
                assert_eq!(exchange["status"], 404);
                continue;
            };
            let request = &exchange["request_headers"];
            let response = &exchange["response_headers"];
            let is_old = exchange["request"].as_str().unwrap().ends_with("/5984461.jsonl");
            let page = Published {
                bytes,
                gzip_bytes: is_old.then_some(872),
                changed_at: CHANGED,
            };
            let asked = Asked {
                accept_encoding: request["Accept-Encoding"].as_str(),
                range: request["Range"].as_str(),
                ..Asked::default()
            };
            let (status, length) = match answer(&page, asked) {
                Answer::Whole => (200, bytes),
                Answer::Packed => (200, 872),
                Answer::Part { first, last } => {
                    let range = format!("bytes {first}-{last}/{bytes}");
                    assert_eq!(response["Content-Range"], range);
                    (206, last - first + 1)
                }
                Answer::Unsatisfiable => {
                    assert_eq!(response["Content-Range"], format!("bytes */{bytes}"));
                    (416, 197)
                }
                Answer::NotModified => (304, 0),
            };
            assert_eq!(exchange["status"], status, "{step}");
            assert_eq!(response["Content-Length"], length.to_string(), "{step}");
            seen += 1;
        }
        assert_eq!(seen, 9);
    }

    #[test]
    fn parts_are_cut_as_by_nginx() {
        let part = |first, last| Answer::Part { first, last };
        for (range, expected) in [
            ("bytes=0-", part(0, 1943)),
            ("bytes=1943-", part(1943, 1943)),
            ("bytes=1944-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999-", Answer::Unsatisfiable),
            ("bytes=5-9", part(5, 9)),
            ("bytes=5-99999", part(5, 1943)),
            ("bytes=9-5", Answer::Unsatisfiable),
            ("bytes=-4", part(1940, 1943)),
            ("bytes=-99999", part(0, 1943)),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=", Answer::Unsatisfiable),
            ("bytes=-", Answer::Unsatisfiable),
            ("bytes=a-", Answer::Unsatisfiable),
            ("bytes=0-1,5-6", Answer::Whole),
            ("lines=5-", Answer::Whole),
        ] {
            assert_eq!(part_of(range), expected, "{range}");
        }
    }

    #[test]
    fn only_who_takes_gzip_and_asks_for_all_gets_a_packed_page() {
        for (header, takes) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("GZIP", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0, *", false),
            ("identity", false),
            ("", false),
        ] {
            let asked = Asked {
                accept_encoding: Some(header),
                ..Asked::default()
            };
            let expected = if takes { Answer::Packed } else { Answer::Whole };
            assert_eq!(answer(&packed(), asked), expected, "{header:?}");
            assert_eq!(answer(&page(), asked), Answer::Whole);
            let part = Asked {
                range: Some("bytes=9-"),
                ..asked
            };
            let expected = Answer::Part { first: 9, last: 1943 };
            assert_eq!(answer(&packed(), part), expected);
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let known = decide(&page(), &Asked::default(), NOW);
        assert_eq!(known.last_modified.as_deref(), Some(DATE));
        let tag = known.etag.as_str();
        let weak = format!("\"x\", W/{tag}");
        let none_match = |tags| Asked {
            if_none_match: Some(tags),
            // A tag that does not match is not overruled by a date that does.
            if_modified_since: Some(DATE),
            ..Asked::default()
        };
        for tags in [tag, weak.as_str(), "*"] {
            assert_eq!(answer(&page(), none_match(tags)), Answer::NotModified, "{tags}");
        }
        assert_eq!(answer(&page(), none_match("\"x\"")), Answer::Whole);
        // The packed page is another representation.
        let asked = Asked {
            accept_encoding: Some("gzip"),
            ..none_match(tag)
        };
        assert_eq!(answer(&packed(), asked), Answer::Packed);
        let since = |date| Asked {
            if_modified_since: Some(date),
            ..Asked::default()
        };
        assert_eq!(answer(&page(), since(DATE)), Answer::NotModified);
        let earlier = "Sun, 22 Nov 2026 09:06:14 GMT";
        assert_eq!(answer(&page(), since(earlier)), Answer::Whole);
        assert_eq!(answer(&page(), since("yesterday")), Answer::Whole);
    }

    #[test]
    fn within_the_second_of_its_last_line_a_page_has_no_date() {
        let now = CHANGED + Duration::milliseconds(100);
        let asked = Asked {
            if_modified_since: Some(DATE),
            ..Asked::default()
        };
        let decision = decide(&page(), &asked, now);
        assert_eq!((decision.answer, decision.last_modified), (Answer::Whole, None));
    }

    #[test]
    fn a_part_of_something_else_is_not_sent() {
        let tag = decide(&page(), &Asked::default(), NOW).etag;
        let asked = |if_range| Asked {
            range: Some("bytes=1940-"),
            if_range: Some(if_range),
            ..Asked::default()
        };
        let part = Answer::Part {
            first: 1940,
            last: 1943,
        };
        assert_eq!(answer(&page(), asked(&tag)), part);
        assert_eq!(answer(&page(), asked(DATE)), part);
        assert_eq!(answer(&page(), asked("\"x\"")), Answer::Whole);
        let weak = format!("W/{tag}");
        assert_eq!(answer(&page(), asked(&weak)), Answer::Whole);
        assert_eq!(
            answer(&page(), asked("Sun, 22 Nov 2026 09:06:16 GMT")),
            Answer::Whole
        );
    }
}
