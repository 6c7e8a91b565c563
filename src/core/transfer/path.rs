//! Paths below a folder, parsed so that they cannot leave it.

use std::fmt;

/// The longest path, in bytes (`PATH_MAX` of Linux).
const PATH_BYTES_MAX: usize = 4096;

/// The longest component, in bytes (`NAME_MAX` of Linux).
const NAME_BYTES_MAX: usize = 255;

/// The most folders deep that a path may be.
pub const DEPTH_MAX: usize = 64;

/// A path below some folder: at least one component, none of them empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

/// Why a text is no path below a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is nothing in it.
    #[error("the path is empty")]
    Empty,
    /// It starts at the root.
    #[error("`{0}` is an absolute path")]
    Absolute(String),
    /// It climbs out of its folder, or could.
    #[error("`{0}` leaves its folder")]
    Leaves(String),
    /// It has an empty component, a `.`, or a character that no file name has.
    #[error("`{0}` is not a plain path")]
    NotPlain(String),
    /// It is longer or deeper than the file system allows.
    #[error("`{0}…` is too long or too deep a path")]
    TooLong(String),
}

impl RelativePath {
    /// Parses a path exactly: no trailing slash, no `.` components.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        let shown = || {
            text.chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect::<String>()
        };
        if text.starts_with('/') {
            return Err(PathError::Absolute(shown()));
        }
        let mut depth = 0;
        for part in text.split('/') {
            depth += 1;
            match part {
                ".." => return Err(PathError::Leaves(shown())),
                "" | "." => return Err(PathError::NotPlain(shown())),
                _ if part.contains('\0') => return Err(PathError::NotPlain(shown())),
                _ if part.len() > NAME_BYTES_MAX => return Err(PathError::TooLong(shown())),
                _ => {}
            }
        }
        if text.len() > PATH_BYTES_MAX || depth > DEPTH_MAX {
            return Err(PathError::TooLong(shown()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Parses where a volume goes: absent, empty or `.` means the volume's folder itself, and a trailing slash is
    /// fine.
    pub fn parse_folder(text: Option<&str>) -> Result<Option<Self>, PathError> {
        match text.map(|text| {
            text.strip_suffix('/')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(text)
        }) {
            None | Some("" | ".") => Ok(None),
            Some(text) => Self::parse(text).map(Some),
        }
    }

    /// Parses an entry's name in an archive: as [`RelativePath::parse`], but `.` components, which some archivers
    /// write, are dropped. Returns `None` for the archive's own folder.
    pub fn parse_entry(name: &str) -> Result<Option<Self>, PathError> {
        let name = name.strip_suffix('/').unwrap_or(name);
        if name.starts_with('/') {
            return Err(PathError::Absolute(
                name.chars().take(200).flat_map(char::escape_debug).collect(),
            ));
        }
        let parts: Vec<&str> = name.split('/').filter(|part| *part != ".").collect();
        if parts.is_empty() {
            return Ok(None);
        }
        Self::parse(&parts.join("/")).map(Some)
    }

    /// Returns this path below `folder`.
    pub fn below(&self, folder: Option<&Self>) -> Result<Self, PathError> {
        match folder {
            None => Ok(self.clone()),
            Some(folder) => Self::parse(&format!("{folder}/{self}")),
        }
    }

    /// Returns the path as text, with `/` between components.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the components of the folder that the path lies in, and its own name.
    pub fn split(&self) -> (impl Iterator<Item = &str>, &str) {
        let (folder, name) = match self.0.rsplit_once('/') {
            Some((folder, name)) => (Some(folder), name),
            None => (None, self.0.as_str()),
        };
        (folder.into_iter().flat_map(|folder| folder.split('/')), name)
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_that_could_leave_its_folder_is_refused() {
        for text in [
            "", "/a", "..", "../a", "a/..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", ".",
        ] {
            assert!(RelativePath::parse(text).is_err(), "{text:?}");
        }
        assert!(RelativePath::parse(&"a/".repeat(DEPTH_MAX)).is_err());
        assert!(RelativePath::parse(&"a".repeat(256)).is_err());
        for text in ["a", "a/b.txt", "..a", "a..", "…", "a b", "a\\b"] {
            assert_eq!(RelativePath::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_volume_without_a_path_goes_into_the_folder_itself() {
        for text in [None, Some(""), Some(".")] {
            assert_eq!(RelativePath::parse_folder(text).unwrap(), None);
        }
        assert_eq!(
            RelativePath::parse_folder(Some("sub/dir/"))
                .unwrap()
                .unwrap()
                .as_str(),
            "sub/dir"
        );
        for text in ["/", "..", "../x", "/x"] {
            assert!(RelativePath::parse_folder(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entrys_dot_components_are_dropped_and_its_climbing_refused() {
        assert_eq!(RelativePath::parse_entry("./").unwrap(), None);
        assert_eq!(
            RelativePath::parse_entry("./a/./b/").unwrap().unwrap().as_str(),
            "a/b"
        );
        for name in ["", "/", "/a", "../a", "./../a", "a//b"] {
            assert!(RelativePath::parse_entry(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_stays_below_its_folder(text in "[a./\\\\\0]{0,12}") {
            for path in [RelativePath::parse(&text).ok(), RelativePath::parse_entry(&text).ok().flatten()]
                .into_iter()
                .flatten()
            {
                let joined = std::path::Path::new("/jail").join(path.as_str());
                prop_assert!(joined.components().all(|part| part.as_os_str() != ".."));
                prop_assert!(joined.starts_with("/jail") && joined != std::path::Path::new("/jail"));
            }
        }
    }
}
