//! Where an object lies: `s3://bucket/key`, and the same read back from a presigned address.

use std::fmt;
use std::str::FromStr;

/// The longest key, in bytes (the service's own bound).
const KEY_BYTES_MAX: usize = 1024;

/// The names of the vendor's own service end like this.
const VENDOR: &str = ".amazonaws.com";

/// A bucket and a key in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// The key; empty for the bucket itself.
    pub key: String,
}

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not the scheme.
    #[error("does not begin with s3://")]
    Scheme,
    /// No bucket, or one with characters that no bucket has.
    #[error("has no bucket behind s3://: 3 to 63 of a-z, 0-9, . and -")]
    Bucket,
    /// Too long a key.
    #[error("has a key of more than {KEY_BYTES_MAX} bytes")]
    Long,
    /// A key that some programs write and others rewrite.
    #[error("has a key with an empty, . or .. part, which programs on the way would rewrite")]
    Parts,
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let rest = text.strip_prefix("s3://").ok_or(PlaceError::Scheme)?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(PlaceError::Bucket);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(PlaceError::Long);
        }
        let inner = key.strip_suffix('/').unwrap_or(key);
        let is_odd = |part: &str| matches!(part, "" | "." | "..");
        if !key.is_empty() && inner.split('/').any(is_odd) {
            return Err(PlaceError::Parts);
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl Place {
    /// Returns whether it names one object rather than a bucket or a folder.
    pub fn is_object(&self) -> bool {
        !self.key.is_empty() && !self.key.ends_with('/')
    }

    /// Returns the place of `name` below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let folder = self.key.trim_end_matches('/');
        let key = if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        };
        Self {
            bucket: self.bucket.clone(),
            key,
        }
    }

    /// Reads the place from an address that was made for it at `endpoint`, or at the vendor's own service if that is
    /// none; nothing for any other address.
    pub fn of_url(url: &str, endpoint: Option<&str>) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok()?;
        let host = url.host_str()?;
        let path = url.path().trim_start_matches('/');
        let in_path = |path: &str| {
            let (bucket, key) = path.split_once('/')?;
            Self::found(bucket, key)
        };
        let Some(endpoint) = endpoint else {
            let name = host.strip_suffix(VENDOR)?;
            // `bucket.s3.region`, `bucket.s3`, and without the bucket in the path-style of former days.
            return match name.split_once(".s3") {
                Some((bucket, region)) if region.is_empty() || region.starts_with(['.', '-']) => {
                    Self::found(bucket, path)
                }
                _ if name.starts_with("s3") => in_path(path),
                _ => None,
            };
        };
        let endpoint = reqwest::Url::parse(endpoint).ok()?;
        let own = endpoint.host_str()?;
        if url.scheme() != endpoint.scheme()
            || url.port_or_known_default() != endpoint.port_or_known_default()
        {
            return None;
        }
        if host == own {
            let prefix = endpoint.path().trim_matches('/');
            let path = path.strip_prefix(prefix)?.trim_start_matches('/');
            return in_path(path);
        }
        let bucket = host.strip_suffix(own)?.strip_suffix('.')?;
        Self::found(bucket, path)
    }

    fn found(bucket: &str, key: &str) -> Option<Self> {
        let key = decoded(key)?;
        format!("s3://{bucket}/{key}")
            .parse()
            .ok()
            .filter(Self::is_object)
    }
}

fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        && !name.starts_with(['.', '-'])
        && !name.ends_with(['.', '-'])
        && !name.contains("..")
}

/// Undoes percent-encoding; nothing if it is broken or no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_key() {
        let place: Place = "s3://data/a/b c.txt".parse().unwrap();
        assert_eq!((place.bucket.as_str(), place.key.as_str()), ("data", "a/b c.txt"));
        assert_eq!(place.to_string(), "s3://data/a/b c.txt");
        assert!(place.is_object());
        let folder: Place = "s3://data/in/".parse().unwrap();
        assert!(!folder.is_object());
        assert_eq!(folder.join("x").key, "in/x");
        assert_eq!("s3://data".parse::<Place>().unwrap().join("x").key, "x");
        for (text, error) in [
            ("data/x", PlaceError::Scheme),
            ("s3:///x", PlaceError::Bucket),
            ("s3://Data/x", PlaceError::Bucket),
            ("s3://a..b/x", PlaceError::Bucket),
            ("s3://data/a/../x", PlaceError::Parts),
            ("s3://data//x", PlaceError::Parts),
        ] {
            assert_eq!(text.parse::<Place>(), Err(error), "{text}");
        }
        let long = format!("s3://data/{}", "k".repeat(KEY_BYTES_MAX + 1));
        assert_eq!(long.parse::<Place>(), Err(PlaceError::Long));
    }

    #[test]
    fn a_presigned_address_leads_back_to_its_place() {
        let found = |url: &str, endpoint| Place::of_url(url, endpoint).map(|place| place.to_string());
        let local = Some("http://127.0.0.1:9000");
        for (url, endpoint, place) in [
            (
                "http://127.0.0.1:9000/data/a%20b.txt?X-Amz-Signature=1",
                local,
                Some("s3://data/a b.txt"),
            ),
            ("http://127.0.0.1:9001/data/a", local, None),
            ("https://127.0.0.1:9000/data/a", local, None),
            ("http://127.0.0.1:9000/data/", local, None),
            (
                "http://data.s3.local:1/a/b",
                Some("http://s3.local:1/"),
                Some("s3://data/a/b"),
            ),
            (
                "https://data.s3.eu-west-1.amazonaws.com/a/b?q",
                None,
                Some("s3://data/a/b"),
            ),
            ("https://data.s3.amazonaws.com/a", None, Some("s3://data/a")),
            (
                "https://s3.eu-west-1.amazonaws.com/data/a",
                None,
                Some("s3://data/a"),
            ),
            ("https://example.com/data/a", None, None),
            ("https://evil.example/s3.amazonaws.com/a", None, None),
            ("not an address", None, None),
        ] {
            assert_eq!(found(url, endpoint).as_deref(), place, "{url}");
        }
    }
}
