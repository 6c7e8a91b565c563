//! What two peers of our own agree on beyond the wire, while the session is opened.
//!
//! The client offers names in the header [`HEADER`] of its upgrade request, the server answers with those that it
//! knows, too. A peer that has never heard of the header neither offers nor answers any, so it is sent nothing but
//! the wire.

use axum::http::{HeaderMap, HeaderValue};

/// The header that carries names, divided by commas, on the upgrade request and on its answer.
pub const HEADER: &str = "x-horde-features";

/// Names read from one header; those beyond are as if they were not there.
const NAMES_MAX: usize = 16;

/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 32;

/// Bytes of the longest header value that is read at all.
const HEADER_BYTES_MAX: usize = NAMES_MAX * (NAME_BYTES_MAX + 2);

/// Names of extensions, each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(Vec<String>);

impl Extensions {
    /// Takes names of this program; what could not travel is left out.
    pub fn of(names: &[&str]) -> Self {
        let mut extensions = Self::default();
        for name in names {
            extensions.add(name);
        }
        extensions
    }

    /// Returns whether there is this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Returns those that the other side has, too.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|name| other.has(name)).cloned().collect())
    }

    /// Reads a peer's headers; anything that is no name is ignored.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut extensions = Self::default();
        let values = headers.get_all(HEADER).iter().take(NAMES_MAX);
        let texts = values.filter_map(|value| value.to_str().ok());
        for text in texts.filter(|text| text.len() <= HEADER_BYTES_MAX) {
            for name in text.split(',') {
                extensions.add(name.trim_matches([' ', '\t']));
            }
        }
        extensions
    }

    /// Returns the header's value; none when there is nothing to say.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        HeaderValue::from_str(&self.0.join(", ")).ok()
    }

    fn add(&mut self, name: &str) {
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if is_name && !self.has(name) && self.0.len() < NAMES_MAX {
            self.0.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&[u8]]) -> Extensions {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        Extensions::read(&headers)
    }

    #[test]
    fn names_are_read_from_all_headers_and_what_is_none_is_ignored() {
        assert_eq!(
            read(&[b"output, a-1\t,output", b"b"]),
            Extensions::of(&["output", "a-1", "b"])
        );
        for nothing in [&b""[..], b",,", b"UPPER", b"two words", b"\xff", b"k=v"] {
            assert_eq!(read(&[nothing]), Extensions::default());
        }
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(read(&[long.as_bytes()]), Extensions::default());
    }

    #[test]
    fn a_peer_cannot_make_the_list_long() {
        let many: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
        assert_eq!(read(&[many.join(",").as_bytes()]).0.len(), NAMES_MAX);
        let values: Vec<&[u8]> = many.iter().map(String::as_bytes).collect();
        assert_eq!(read(&values).0.len(), NAMES_MAX);
    }

    #[test]
    fn only_what_both_sides_know_is_agreed_on() {
        let (ours, theirs) = (Extensions::of(&["a", "b"]), Extensions::of(&["c", "b"]));
        assert_eq!(ours.shared_with(&theirs), Extensions::of(&["b"]));
        assert_eq!(ours.shared_with(&Extensions::default()).header(), None);
    }

    proptest! {
        #[test]
        fn any_header_reads_as_what_would_be_written(value in proptest::collection::vec(any::<u8>(), 0..700)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value);
            let read = Extensions::read(&headers);
            prop_assert!(read.0.len() <= NAMES_MAX);
            if let Some(written) = read.header() {
                headers.insert(HEADER, written);
                prop_assert_eq!(Extensions::read(&headers), read);
            }
        }
    }
}
