//! A snapshot of the process environment: the only place that reads it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variables of this process, as they were when the snapshot was taken.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self {
            variables: variables.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
        }
    }
}

impl Environment {
    /// Takes a snapshot of this process; variables whose name is no UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// Returns the same with one variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Returns a variable that is set, not empty, and UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)?
            .to_str()
            .filter(|value| !value.is_empty())
    }

    /// Returns the names of all variables that are set and not empty.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, _)| name.as_str())
    }

    /// Returns the home directory: `$HOME`, if it is an absolute path.
    pub fn home(&self) -> Option<PathBuf> {
        self.absolute("HOME")
    }

    /// Returns the base of data directories: `$XDG_DATA_HOME`, else `~/.local/share`.
    pub fn data_home(&self) -> Option<PathBuf> {
        self.absolute("XDG_DATA_HOME")
            .or_else(|| Some(self.home()?.join(".local/share")))
    }

    /// Returns the base of configuration directories: `$XDG_CONFIG_HOME`, else `~/.config`.
    pub fn config_home(&self) -> Option<PathBuf> {
        self.absolute("XDG_CONFIG_HOME")
            .or_else(|| Some(self.home()?.join(".config")))
    }

    /// Returns the directory for temporary files: `$TMPDIR`, else `/tmp`.
    pub fn temporary(&self) -> PathBuf {
        self.absolute("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"))
    }

    /// Replaces a leading `~/` by the home directory; without one the path stays as it is.
    pub fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), self.home()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }

    /// The XDG specification tells to ignore relative paths.
    fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.variables
            .get(name)
            .map(PathBuf::from)
            .filter(|path| Path::is_absolute(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_directories_follow_xdg_and_ignore_relative_paths() {
        let plain = Environment::from_iter([("HOME", "/home/ann")]);
        assert_eq!(plain.data_home().unwrap(), Path::new("/home/ann/.local/share"));
        assert_eq!(plain.config_home().unwrap(), Path::new("/home/ann/.config"));
        let set = Environment::from_iter([("XDG_DATA_HOME", "/data"), ("XDG_CONFIG_HOME", "relative")]);
        assert_eq!(set.data_home().unwrap(), Path::new("/data"));
        assert_eq!(set.config_home(), None);
        assert_eq!(set.temporary(), Path::new("/tmp"));
    }

    #[test]
    fn a_tilde_is_the_home_and_an_empty_variable_is_unset() {
        let environment = Environment::from_iter([("HOME", "/home/ann"), ("EMPTY", "")]);
        assert_eq!(environment.expand("~/x"), Path::new("/home/ann/x"));
        assert_eq!(environment.expand("/~/x"), Path::new("/~/x"));
        assert_eq!(environment.get("EMPTY"), None);
        assert_eq!(format!("{environment:?}"), r#"{"EMPTY", "HOME"}"#);
    }
}
