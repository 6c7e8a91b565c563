//! What a user writes for an input or an output of a job: `data/`, `https://…`, `hf://owner/repo`, `s3://bucket/key`.

use std::path::PathBuf;

use crate::core::model::upload::{Fields, RelativePathError, check_relative_path};
use crate::core::model::volume::{HuggingfaceVolume, Patterns, RepoType};
use crate::core::s3::{Place, PlaceError};

/// The folder below which a job finds its input.
const VOLUME: &str = "/volume";

/// The folder below which a job leaves its output.
const OUTPUT: &str = "/output";

/// Micro-units of one unit of credit.
pub const MICRO: u64 = 1_000_000;

/// Why a text names no input, output or amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No input's path.
    #[error("the path {0:?} is not below /volume")]
    NotAVolume(String),
    /// No output's path.
    #[error("the path {0:?} does not name a file below /output")]
    NotAnOutput(String),
    /// A path with two spellings.
    #[error("the path {path:?} {problem}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: RelativePathError,
    },
    /// Nothing where something should be.
    #[error("the source is empty")]
    NoSource,
    /// No repository of the hub.
    #[error("{0:?} is not hf://owner/name, with @revision and /path or /pattern if wanted")]
    Hub(String),
    /// No place in S3.
    #[error("{text:?} {problem}")]
    S3 {
        /// As written.
        text: String,
        /// What is wrong with it.
        problem: PlaceError,
    },
    /// A bucket or a folder where one object should be.
    #[error("{0:?} names no object: a key is missing, or ends with /")]
    NoObject(String),
    /// A folder of S3 as input.
    #[error("the path of {0:?} must name a file: an object of S3 is one file")]
    FileWanted(String),
    /// Nothing that can be sent to.
    #[error(
        "{0:?} is no place for an output: http://, https://, post+http://, post+https:// or s3://bucket/key"
    )]
    Target(String),
    /// No amount.
    #[error("{0:?} is no amount of credit: a number with at most six places behind the point, as in 2.5")]
    Amount(String),
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or folder of this machine.
    Local(PathBuf),
    /// An address that the executor fetches from.
    Url(String),
    /// A snapshot of the hub; `relative_path` and `token` are filled in later.
    Hub(HuggingfaceVolume),
    /// An object, to be fetched by a presigned address.
    S3(Place),
}

/// An input as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes, below the volume's folder; empty for that folder itself.
    pub path: String,
    /// Whether `path` was written as a folder, with a slash at its end.
    pub is_folder: bool,
}

impl VolumeRequest {
    /// Reads a source and a path.
    pub fn new(source: &str, path: &str) -> Result<Self, SourceError> {
        let inner = below(path, VOLUME).ok_or_else(|| SourceError::NotAVolume(path.to_owned()))?;
        let is_folder = inner.is_empty() || inner.ends_with('/');
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if !inner.is_empty() {
            check(path, inner)?;
        }
        let source = read_source(source)?;
        if is_folder && let Source::S3(place) = &source {
            return Err(SourceError::FileWanted(place.to_string()));
        }
        Ok(Self {
            source,
            path: inner.to_owned(),
            is_folder,
        })
    }

    /// Returns folder and name of the file that the path names; no name if it names a folder.
    pub fn split(&self) -> (&str, Option<&str>) {
        if self.is_folder {
            return (&self.path, None);
        }
        match self.path.rsplit_once('/') {
            Some((folder, name)) => (folder, Some(name)),
            None => ("", Some(&self.path)),
        }
    }
}

fn read_source(text: &str) -> Result<Source, SourceError> {
    if text.is_empty() {
        return Err(SourceError::NoSource);
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Source::Url(text.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("hf://") {
        return hub(rest)
            .map(Source::Hub)
            .ok_or_else(|| SourceError::Hub(text.to_owned()));
    }
    if text.starts_with("s3://") {
        return object(text).map(Source::S3);
    }
    Ok(Source::Local(PathBuf::from(text)))
}

/// Reads `[datasets/|spaces/]owner/name[@revision][/path or pattern]`.
fn hub(text: &str) -> Option<HuggingfaceVolume> {
    let (kind, rest) = match text.split_once('/')? {
        ("datasets", rest) => (Some(RepoType::Dataset), rest),
        ("spaces", rest) => (Some(RepoType::Space), rest),
        ("models", rest) => (Some(RepoType::Model), rest),
        _ => (None, text),
    };
    let (owner, rest) = rest.split_once('/')?;
    let (name, inner) = match rest.split_once('/') {
        Some((name, inner)) => (name, inner),
        None => (rest, ""),
    };
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !is_name(owner) || !is_name(name) || revision.is_some_and(str::is_empty) {
        return None;
    }
    Some(HuggingfaceVolume {
        repo_id: format!("{owner}/{name}"),
        repo_type: kind,
        revision: revision.map(str::to_owned),
        relative_path: None,
        allow_patterns: patterns(inner),
        token: None,
    })
}

/// Returns the patterns for a path in a repository: a pattern as it is, a folder with all in it, and for anything else
/// both, since the name does not tell a file from a folder.
fn patterns(inner: &str) -> Option<Patterns> {
    if inner.is_empty() {
        return None;
    }
    if inner.contains(['*', '?', '[']) {
        return Some(Patterns::One(inner.to_owned()));
    }
    if inner.ends_with('/') {
        return Some(Patterns::One(format!("{inner}*")));
    }
    Some(Patterns::Many(vec![inner.to_owned(), format!("{inner}/*")]))
}

/// Reads the place of one object.
pub fn object(text: &str) -> Result<Place, SourceError> {
    let place = place(text)?;
    if !place.is_object() {
        return Err(SourceError::NoObject(text.to_owned()));
    }
    Ok(place)
}

/// Reads a place, which may be a bucket or a folder.
pub fn place(text: &str) -> Result<Place, SourceError> {
    text.parse().map_err(|problem| SourceError::S3 {
        text: text.to_owned(),
        problem,
    })
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As the body of a PUT.
    Put(String),
    /// As the last part of a form.
    Post(String),
    /// To an object, by a presigned PUT.
    S3(Place),
}

/// An output as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRequest {
    /// The file, below the output folder.
    pub path: String,
    /// Where it goes.
    pub target: Target,
    /// Form fields in front of the file; only for [`Target::Post`].
    pub fields: Option<Fields>,
    /// Request headers.
    pub headers: Option<Fields>,
}

impl OutputRequest {
    /// Reads a path and a target.
    pub fn new(path: &str, target: &str) -> Result<Self, SourceError> {
        let inner = below(path, OUTPUT)
            .filter(|inner| !inner.is_empty() && !inner.ends_with('/'))
            .ok_or_else(|| SourceError::NotAnOutput(path.to_owned()))?;
        check(path, inner)?;
        let is_url = |text: &str| text.starts_with("http://") || text.starts_with("https://");
        let target = match target.strip_prefix("post+") {
            Some(url) if is_url(url) => Target::Post(url.to_owned()),
            None if is_url(target) => Target::Put(target.to_owned()),
            None if target.starts_with("s3://") => Target::S3(object(target)?),
            _ => return Err(SourceError::Target(hide_query(target))),
        };
        Ok(Self {
            path: inner.to_owned(),
            target,
            fields: None,
            headers: None,
        })
    }
}

/// Returns what of an absolute path lies below `root`, without leading slash; empty for the root itself.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root)?;
    match rest.strip_prefix('/') {
        Some(inner) => Some(inner),
        None => rest.is_empty().then_some(rest),
    }
}

fn check(path: &str, inner: &str) -> Result<(), SourceError> {
    check_relative_path(inner).map_err(|problem| SourceError::Path {
        path: path.to_owned(),
        problem,
    })
}

/// Returns an address as it may be shown: what stands behind the `?` may be a signature, and so a secret, and so may
/// be what stands in front of an `@`.
pub fn hide_query(url: &str) -> String {
    let (address, has_query) = match url.split_once(['?', '#']) {
        Some((address, _)) => (address, true),
        None => (url, false),
    };
    let mut shown = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let has_path = rest.contains('/');
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{}{path}", if has_path { "/" } else { "" })
        }
        None => address.to_owned(),
    };
    if has_query {
        shown.push_str("?<hidden>");
    }
    shown
}

/// Reads an amount of credit, in micro-units.
pub fn amount(text: &str) -> Result<u64, SourceError> {
    let wrong = || SourceError::Amount(text.to_owned());
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let places: u64 = format!("{places:0<6}").parse().map_err(|_| wrong())?;
    whole
        .checked_mul(MICRO)
        .and_then(|micro| micro.checked_add(places))
        .ok_or_else(wrong)
}

/// Writes an amount of micro-units as credit.
pub fn show_amount(micro: u64) -> String {
    let text = format!("{}.{:06}", micro / MICRO, micro % MICRO);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub_of(text: &str) -> HuggingfaceVolume {
        match VolumeRequest::new(text, "/volume/m").unwrap().source {
            Source::Hub(volume) => volume,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_volume_is_read_with_its_kind() {
        let local = VolumeRequest::new("data/", "/volume/in/").unwrap();
        assert_eq!((local.path.as_str(), local.is_folder), ("in", true));
        assert_eq!(local.source, Source::Local("data/".into()));
        let file = VolumeRequest::new("a", "/volume/d/b.txt").unwrap();
        assert_eq!(file.split(), ("d", Some("b.txt")));
        assert_eq!(VolumeRequest::new("a", "/volume").unwrap().split(), ("", None));
        for (source, path) in [
            ("a", "/output/x"),
            ("a", "volume/x"),
            ("a", "/volumes/x"),
            ("a", "/volume/../x"),
            ("a", "/volume/x//"),
            ("", "/volume/x"),
            ("hf://name", "/volume/x"),
            ("hf://a/b@", "/volume/x"),
            ("s3://bucket/", "/volume/x"),
            ("s3://bucket/key", "/volume/x/"),
        ] {
            assert!(VolumeRequest::new(source, path).is_err(), "{source} {path}");
        }
    }

    #[test]
    fn a_repository_of_the_hub_has_kind_revision_and_patterns() {
        let plain = hub_of("hf://org/model");
        assert_eq!((plain.repo_id.as_str(), plain.repo_type), ("org/model", None));
        assert_eq!((plain.revision, plain.allow_patterns), (None, None));
        let data = hub_of("hf://datasets/org/data@v1.0/sub/*.json");
        assert_eq!(data.repo_type, Some(RepoType::Dataset));
        assert_eq!(data.revision.as_deref(), Some("v1.0"));
        assert_eq!(data.allow_patterns, Some(Patterns::One("sub/*.json".to_owned())));
        assert_eq!(
            hub_of("hf://org/model/sub/").allow_patterns,
            Some(Patterns::One("sub/*".to_owned()))
        );
        assert_eq!(
            hub_of("hf://org/model/sub").allow_patterns,
            Some(Patterns::Many(vec!["sub".to_owned(), "sub/*".to_owned()]))
        );
    }

    #[test]
    fn an_output_is_a_file_and_a_target() {
        let target = |to: &str| OutputRequest::new("/output/a/b", to).map(|output| output.target);
        assert_eq!(target("http://h/x"), Ok(Target::Put("http://h/x".to_owned())));
        assert_eq!(
            target("post+https://h/x"),
            Ok(Target::Post("https://h/x".to_owned()))
        );
        assert!(matches!(target("s3://bucket/key"), Ok(Target::S3(_))));
        for to in ["ftp://h/x", "post+ftp://h", "s3://bucket", "s3://bucket/d/", ""] {
            assert!(target(to).is_err(), "{to}");
        }
        for path in ["/output", "/output/", "/output/a/", "/volume/a", "/output/../a"] {
            assert!(OutputRequest::new(path, "http://h").is_err(), "{path}");
        }
    }

    #[test]
    fn what_may_be_a_secret_in_an_address_is_hidden() {
        for (url, shown) in [
            ("https://h/a?X-Amz-Signature=s", "https://h/a?<hidden>"),
            ("https://u:p@h/a", "https://h/a"),
            ("https://h", "https://h"),
            ("s3://bucket/key", "s3://bucket/key"),
        ] {
            assert_eq!(hide_query(url), shown);
        }
    }

    #[test]
    fn amounts_are_read_to_the_micro_unit() {
        for (text, micro) in [("0", 0), ("2", 2_000_000), ("2.5", 2_500_000), ("0.000001", 1)] {
            assert_eq!(amount(text), Ok(micro));
            assert_eq!(show_amount(micro), text);
        }
        for text in ["", "-1", "1.", ".5", "1.0000001", "1e3", "99999999999999999999"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }
}
