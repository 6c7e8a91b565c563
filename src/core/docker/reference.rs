//! Image references, parsed before they become part of an engine's URL.

use std::fmt;

/// The longest reference that we pass on, in bytes. Docker's own bound for a name is 255, a digest adds 72.
const REFERENCE_BYTES_MAX: usize = 512;

/// The name of an image: `[registry/]path[:tag][@digest]`, with a tag or a digest always present.
///
/// A reference comes from a stranger and is put into the path of a request to the engine, so it is parsed into the
/// characters that references have; anything else could name another endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference(String);

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("the image name is empty")]
    Empty,
    /// More than any registry allows.
    #[error("the image name has {got} bytes, more than {REFERENCE_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// Not the shape of a reference.
    #[error("`{text}` is not an image name")]
    Malformed {
        /// The text, with control characters escaped.
        text: String,
    },
}

impl ImageReference {
    /// Parses a reference; a missing tag becomes `latest`, also behind a registry with a port.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLong { got: text.len() });
        }
        let malformed = || ReferenceError::Malformed {
            text: text.escape_debug().to_string(),
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let is_digest = |digest: &str| {
            digest.split_once(':').is_some_and(|(algorithm, value)| {
                !algorithm.is_empty()
                    && !value.is_empty()
                    && digest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b":+._-".contains(&byte))
            })
        };
        let is_part = |part: &str| {
            part.bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
        };
        if !name.split('/').all(is_part) || !digest.is_none_or(is_digest) {
            return Err(malformed());
        }
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if name.ends_with(':') {
            return Err(malformed());
        }
        // `sha256:…` and bare identifiers of local images are left alone: a tag behind them means something else.
        if digest.is_some() || has_tag {
            return Ok(Self(text.to_owned()));
        }
        Ok(Self(format!("{text}:latest")))
    }

    /// Returns the whole reference.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Splits into what the engine calls repository and tag; the tag is empty when a digest names the image.
    pub fn repository_and_tag(&self) -> (&str, &str) {
        if self.0.contains('@') {
            return (&self.0, "");
        }
        match self.0.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            Some(_) | None => (&self.0, ""),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_latest_also_behind_a_port() {
        for (text, wanted) in [
            ("busybox", "busybox:latest"),
            ("bb:1", "bb:1"),
            ("127.0.0.1:5555/bb", "127.0.0.1:5555/bb:latest"),
            ("127.0.0.1:5555/bb:1", "127.0.0.1:5555/bb:1"),
            ("org/name@sha256:0a1b", "org/name@sha256:0a1b"),
        ] {
            assert_eq!(ImageReference::parse(text).unwrap().as_str(), wanted);
        }
    }

    #[test]
    fn a_reference_that_could_name_another_endpoint_is_refused() {
        for text in [
            "", "a/../b", "..", "a//b", "/a", "a b", "a?x=1", "a#b", "a%2fb", "a:", "a@", "a@x", "a\0",
        ] {
            assert!(ImageReference::parse(text).is_err(), "{text:?}");
        }
        assert!(ImageReference::parse(&"a".repeat(600)).is_err());
    }

    #[test]
    fn a_reference_splits_at_its_tag_and_not_at_a_port() {
        let parts = |text: &str| {
            let reference = ImageReference::parse(text).unwrap();
            let (repository, tag) = reference.repository_and_tag();
            (repository.to_owned(), tag.to_owned())
        };
        assert_eq!(parts("h:5/n"), ("h:5/n".to_owned(), "latest".to_owned()));
        assert_eq!(parts("n:2"), ("n".to_owned(), "2".to_owned()));
        assert_eq!(parts("n@sha256:00").1, "");
    }
}
