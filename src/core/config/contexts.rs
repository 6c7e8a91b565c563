//! Named contexts: a network and a server each, from which settings are taken.
//!
//! They lie in `contexts.toml` beside `horde.toml`. A context holds a data directory, if it has one, and settings in
//! their sections, as a configuration file does:
//!
//! ```toml
//! current = "dev"
//!
//! [context.dev]
//! dir = "/srv/horde"
//!
//! [context.dev.client]
//! facilitator_url = "http://127.0.0.1:9000"
//! ```
//!
//! A context holds no secrets: whoever reads it learns addresses and names of keys, and at most a development key, which
//! is everybody's.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::layers::{Layers, nearest};
use super::read_bounded;
use super::settings::{ConfigError, Origin, Problem};
use super::table::{MAINNET, Setting};
use super::value::{KindError, Value};
use super::write::sections_of;

/// Most contexts of a file.
pub const CONTEXTS_MAX: usize = 100;

/// Characters of the longest name.
pub const NAME_CHARS_MAX: usize = 40;

/// Contexts that are always there: name, and what each sets.
const BUILT_IN: &[(&str, &[(&str, &str)])] = &[
    (
        MAINNET,
        &[
            ("chain.network", MAINNET),
            ("chain.netuid", "12"),
            ("client.facilitator_url", "https://facilitator.computehorde.io"),
        ],
    ),
    (
        "local",
        &[
            ("chain.network", "local"),
            ("client.facilitator_url", "http://127.0.0.1:9000"),
        ],
    ),
];

/// One context.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedContext {
    /// Its name.
    pub name: String,
    /// Whether it is always there and cannot be changed.
    pub is_built_in: bool,
    /// The directory with the data of its roles, if it has its own.
    pub dir: Option<PathBuf>,
    /// What it sets, by key.
    pub settings: BTreeMap<&'static str, Value>,
}

impl NamedContext {
    /// Returns a context that sets nothing yet.
    pub fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_built_in: false,
            dir: None,
            settings: BTreeMap::new(),
        }
    }

    fn built_in(name: &str, settings: &[(&str, &str)], environment: &Environment) -> Self {
        let settings = settings.iter().filter_map(|(key, text)| {
            let setting = Setting::find(key)?;
            Some((setting.key, setting.kind.parse(text, environment).ok()?))
        });
        Self {
            is_built_in: true,
            settings: settings.collect(),
            ..Self::empty(name)
        }
    }

    /// Returns what it sets a key to, as text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(Value::to_string)
    }

    /// Returns the network that it names; what it leaves open is local unless something else says otherwise.
    pub fn network(&self) -> Option<String> {
        self.text("chain.network")
    }

    /// Tells whether it is one of the main network.
    pub fn is_mainnet(&self) -> bool {
        self.network().is_some_and(|network| network == MAINNET)
    }

    /// Sets a key to a value as typed; a relative path is seen from where the command was started.
    pub fn set(&mut self, key: &str, text: &str, environment: &Environment) -> Result<(), ContextError> {
        let Some(setting) = Setting::find(key) else {
            return Err(ContextError::UnknownKey {
                key: key.to_owned(),
                near: nearest_key(key).map(str::to_owned),
            });
        };
        if let Some(reason) = refusal(setting, text) {
            return Err(ContextError::Secret {
                key: setting.key,
                reason,
            });
        }
        let value = setting
            .kind
            .parse(text, environment)
            .map_err(|source| ContextError::BadValue {
                key: setting.key,
                source,
            })?;
        let value = match value {
            Value::Path(path) => Value::Path(std::path::absolute(&path).unwrap_or(path)),
            value => value,
        };
        self.settings.insert(setting.key, value);
        Ok(())
    }
}

/// Returns why a context may not hold this, if so.
fn refusal(setting: &Setting, text: &str) -> Option<&'static str> {
    match (setting.secret, setting.key) {
        (false, _) => None,
        (true, "wallet.uri") if text.starts_with("//") => None,
        (true, "wallet.uri") => Some("only a development key such as //Alice may stand in it"),
        (true, _) => Some("it is a secret"),
    }
}

fn nearest_key(key: &str) -> Option<&'static str> {
    nearest(key, super::table::SETTINGS.iter().map(|setting| setting.key))
}

/// Why contexts were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The name cannot be one.
    #[error("{name:?} is no name of a context: 1 to {NAME_CHARS_MAX} letters, digits, - and _")]
    BadName {
        /// As given.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no context {name:?}")]
    Unknown {
        /// As given.
        name: String,
        /// The nearest that there is.
        near: Option<String>,
    },
    /// There is one of that name already.
    #[error("there is a context {name} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// It is built in.
    #[error("the context {name} is built in: it cannot be changed")]
    BuiltIn {
        /// The name.
        name: String,
    },
    /// There are too many.
    #[error("there are {CONTEXTS_MAX} contexts, and no more fit")]
    TooMany,
    /// There is no such setting.
    #[error("there is no setting {key}")]
    UnknownKey {
        /// As given.
        key: String,
        /// The nearest that there is.
        near: Option<String>,
    },
    /// A context must not hold it.
    #[error("{key} does not belong into a context: {reason}")]
    Secret {
        /// The key.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The value is none of the setting.
    #[error("{key}: {source}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: KindError,
    },
}

/// All contexts, and which is in use.
#[derive(Clone, Debug)]
pub struct Contexts {
    file: PathBuf,
    current: Option<String>,
    own: BTreeMap<String, NamedContext>,
    built_in: Vec<NamedContext>,
}

impl Contexts {
    /// Reads the contexts of this person; all problems are reported at once.
    pub fn read(environment: &Environment) -> Result<Self, ConfigError> {
        let Some(home) = environment.config_home() else {
            return Ok(Self::none(PathBuf::new(), environment));
        };
        let file = home.join("horde/contexts.toml");
        let text = match read_bounded(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(ConfigError::Invalid {
                    problems: vec![Problem {
                        origin: Origin::File(file),
                        text: format!("cannot be read: {error}"),
                        suggestion: None,
                    }],
                });
            }
        };
        Self::parse(&text, &file, environment).map_err(|problems| ConfigError::Invalid { problems })
    }

    fn none(file: PathBuf, environment: &Environment) -> Self {
        let built_in = BUILT_IN
            .iter()
            .map(|(name, settings)| NamedContext::built_in(name, settings, environment));
        Self {
            file,
            current: None,
            own: BTreeMap::new(),
            built_in: built_in.collect(),
        }
    }

    /// Reads the text of a file.
    fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, Vec<Problem>> {
        let origin = Origin::File(file.to_owned());
        let mut contexts = Self::none(file.to_owned(), environment);
        let mut layers = Layers::new(environment);
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                layers.problem(
                    origin,
                    format!("no valid TOML: {}", error.to_string().trim_end()),
                    None,
                );
                return Err(layers.problems);
            }
        };
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("current", toml::Value::String(name)) => contexts.current = Some(name.clone()),
                ("context", toml::Value::Table(all)) => {
                    for (name, content) in all {
                        if let Some(context) = one(name, content, file, &mut layers) {
                            contexts.own.insert(name.clone(), context);
                        }
                    }
                }
                ("current", _) => layers.problem(origin.clone(), "current: expected a name".to_owned(), None),
                ("context", _) => {
                    layers.problem(origin.clone(), "context: expected a table".to_owned(), None);
                }
                _ => {
                    let near = nearest(key, ["current", "context"].into_iter()).map(str::to_owned);
                    layers.problem(origin.clone(), format!("unknown key {key}"), near);
                }
            }
        }
        if contexts.own.len() > CONTEXTS_MAX {
            let words = format!("{} contexts, at most {CONTEXTS_MAX} are read", contexts.own.len());
            layers.problem(origin.clone(), words, None);
        }
        if let Some(name) = &contexts.current
            && layers.problems.is_empty()
            && contexts.find(name).is_none()
        {
            let near = contexts.nearest(name);
            layers.problem(origin, format!("current: there is no context {name:?}"), near);
        }
        if layers.problems.is_empty() {
            Ok(contexts)
        } else {
            Err(layers.problems)
        }
    }

    /// Returns the file, whether it exists or not.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the name of the context in use.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Returns all contexts by name, those that are built in last.
    pub fn all(&self) -> impl Iterator<Item = &NamedContext> {
        self.own.values().chain(&self.built_in)
    }

    /// Returns a context.
    pub fn find(&self, name: &str) -> Option<NamedContext> {
        self.all().find(|context| context.name == name).cloned()
    }

    /// Returns the name that is near enough to be meant.
    pub fn nearest(&self, name: &str) -> Option<String> {
        nearest(name, self.all().map(|context| context.name.as_str())).map(str::to_owned)
    }

    /// Returns a context, or that there is none.
    pub fn known(&self, name: &str) -> Result<NamedContext, ContextError> {
        self.find(name).ok_or_else(|| ContextError::Unknown {
            name: name.to_owned(),
            near: self.nearest(name),
        })
    }

    /// Returns a context that can be changed.
    pub fn changeable(&self, name: &str) -> Result<NamedContext, ContextError> {
        let context = self.known(name)?;
        if context.is_built_in {
            return Err(ContextError::BuiltIn { name: context.name });
        }
        Ok(context)
    }

    /// Checks that a context of this name could be added.
    pub fn check_new(&self, name: &str) -> Result<(), ContextError> {
        if !is_name(name) {
            return Err(ContextError::BadName {
                name: name.to_owned(),
            });
        }
        match self.find(name) {
            Some(context) if context.is_built_in => return Err(ContextError::BuiltIn { name: context.name }),
            Some(context) => return Err(ContextError::Exists { name: context.name }),
            None => {}
        }
        if self.own.len() >= CONTEXTS_MAX {
            return Err(ContextError::TooMany);
        }
        Ok(())
    }

    /// Puts a context in use, or none.
    pub fn turn_to(&mut self, name: Option<&str>) -> Result<(), ContextError> {
        self.current = name
            .map(|name| self.known(name))
            .transpose()?
            .map(|context| context.name);
        Ok(())
    }

    /// Adds a context or puts it in the place of the one of its name.
    pub fn put(&mut self, context: NamedContext) {
        self.own.insert(context.name.clone(), context);
    }

    /// Takes a context out; what is in use is then none.
    pub fn take_out(&mut self, name: &str) {
        self.own.remove(name);
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
    }

    /// Gives a context another name, under which it stays in use.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), ContextError> {
        let context = self.changeable(old)?;
        self.check_new(new)?;
        let is_current = self.current.as_deref() == Some(old);
        self.take_out(old);
        self.put(NamedContext {
            name: new.to_owned(),
            ..context
        });
        if is_current {
            self.current = Some(new.to_owned());
        }
        Ok(())
    }

    /// Returns the text of the file.
    fn text(&self) -> String {
        let mut all = toml::Table::new();
        for context in self.own.values() {
            let mut table = sections_of(context.settings.iter().map(|(key, value)| (*key, value)));
            if let Some(dir) = &context.dir {
                table.insert("dir".to_owned(), dir.to_string_lossy().into_owned().into());
            }
            all.insert(context.name.clone(), table.into());
        }
        let mut file = toml::Table::new();
        if let Some(current) = &self.current {
            file.insert("current".to_owned(), current.clone().into());
        }
        if !all.is_empty() {
            file.insert("context".to_owned(), all.into());
        }
        format!("# Kept by `horde context`, which keeps no comments.\n\n{file}")
    }

    /// Writes the file, whole or not at all; only its owner may read it.
    pub fn write(&self) -> io::Result<()> {
        let folder = self
            .file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .ok_or_else(|| io::Error::other("no home directory is set"))?;
        std::fs::create_dir_all(folder)?;
        let mut fresh = tempfile::Builder::new()
            .prefix(".contexts")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(folder)?;
        fresh.write_all(self.text().as_bytes())?;
        fresh.as_file().sync_all()?;
        fresh.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Reads one context of a file.
fn one(name: &str, content: &toml::Value, file: &Path, layers: &mut Layers<'_>) -> Option<NamedContext> {
    let origin = Origin::Context(name.to_owned());
    if !is_name(name) {
        let words = ContextError::BadName {
            name: name.to_owned(),
        }
        .to_string();
        layers.problem(Origin::File(file.to_owned()), words, None);
        return None;
    }
    if BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
        let words = ContextError::BuiltIn {
            name: name.to_owned(),
        }
        .to_string();
        layers.problem(Origin::File(file.to_owned()), words, None);
        return None;
    }
    let Some(table) = content.as_table() else {
        layers.problem(origin, "expected a table".to_owned(), None);
        return None;
    };
    let mut table = table.clone();
    let dir = match table.remove("dir") {
        None => None,
        Some(toml::Value::String(dir)) if !dir.is_empty() => {
            let dir = layers.environment().expand(&dir);
            Some(
                file.parent()
                    .map_or_else(|| dir.clone(), |parent| parent.join(&dir)),
            )
        }
        Some(_) => {
            layers.problem(origin.clone(), "dir: expected a path".to_owned(), None);
            None
        }
    };
    layers.entries.clear();
    layers.add_sections(&table, &origin, file);
    let mut settings = BTreeMap::new();
    for (key, entry) in std::mem::take(&mut layers.entries) {
        let refused = Setting::find(key).and_then(|setting| refusal(setting, &entry.value.to_string()));
        match refused {
            Some(reason) => layers.problem(
                origin.clone(),
                ContextError::Secret { key, reason }.to_string(),
                None,
            ),
            None => {
                settings.insert(key, entry.value);
            }
        }
    }
    Some(NamedContext {
        name: name.to_owned(),
        is_built_in: false,
        dir,
        settings,
    })
}

/// Tells whether this can be the name of a context: it is a word of command lines and of TOML.
fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::super::FILE_BYTES_MAX;
    use super::*;

    const FILE: &str = "/c/horde/contexts.toml";

    fn environment() -> Environment {
        Environment::from_iter([("HOME", "/home/ann")])
    }

    fn parsed(text: &str) -> Result<Contexts, Vec<String>> {
        Contexts::parse(text, Path::new(FILE), &environment())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut contexts = parsed("").unwrap();
        let mut dev = NamedContext::empty("dev");
        dev.dir = Some("/srv/horde".into());
        for (key, text) in [
            ("client.facilitator_url", "http://127.0.0.1:9001"),
            ("wallet.uri", "//Charlie"),
            ("wallet.path", "/wallets"),
            ("chain.netuid", "7"),
            ("miner.executors", "always_on.test=2"),
        ] {
            dev.set(key, text, &environment()).unwrap();
        }
        contexts.put(dev.clone());
        contexts.put(NamedContext::empty("other"));
        contexts.turn_to(Some("dev")).unwrap();
        let read = parsed(&contexts.text()).unwrap();
        assert_eq!(read.find("dev"), Some(dev));
        assert_eq!(read.current(), Some("dev"));
        let names: Vec<_> = read.all().map(|context| context.name.as_str()).collect();
        assert_eq!(names, ["dev", "other", "finney", "local"]);
    }

    #[test]
    fn the_built_in_ones_set_what_they_say_and_stay_as_they_are() {
        let mut contexts = parsed("current = 'finney'").unwrap();
        let finney = contexts.find("finney").unwrap();
        assert!(finney.is_mainnet());
        assert_eq!(finney.settings.len(), 3);
        assert!(!contexts.find("local").unwrap().is_mainnet());
        assert!(matches!(
            contexts.changeable("finney"),
            Err(ContextError::BuiltIn { .. })
        ));
        assert!(matches!(
            contexts.check_new("local"),
            Err(ContextError::BuiltIn { .. })
        ));
        assert!(matches!(
            contexts.rename("finney", "mine"),
            Err(ContextError::BuiltIn { .. })
        ));
    }

    #[test]
    fn everything_wrong_with_a_file_is_told_at_once() {
        let told = parsed(
            "curent = 'dev'\n[context.dev]\ndir = 3\n[context.dev.wallet]\nnme = 'x'\n[context.dev.executor]\ntoken = 't'\n\
             [context.dev.chain]\nnetwork = 'moon'\n[context.'a b']\n[context.finney]\n[context.eve.wallet]\nuri = 'word word'",
        );
        let file = format!("file {FILE}");
        assert_eq!(
            told.unwrap_err(),
            [
                format!("{file}: \"a b\" is no name of a context: 1 to 40 letters, digits, - and _"),
                "context dev: dir: expected a path".to_owned(),
                "context dev: chain.network: expected one of local, test, finney, got \"moon\"".to_owned(),
                "context dev: unknown key wallet.nme; did you mean wallet.name?".to_owned(),
                "context dev: executor.token does not belong into a context: it is a secret".to_owned(),
                "context eve: wallet.uri does not belong into a context: only a development key such as //Alice may stand in it"
                    .to_owned(),
                format!("{file}: the context finney is built in: it cannot be changed"),
                format!("{file}: unknown key curent; did you mean current?"),
            ]
        );
    }

    #[test]
    fn a_file_beyond_all_measure_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("XDG_CONFIG_HOME", dir.path())]);
        let mut contexts = Contexts::read(&environment).unwrap();
        contexts.put(NamedContext::empty("dev"));
        contexts.write().unwrap();
        assert_eq!(
            std::fs::metadata(contexts.file()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(Contexts::read(&environment).unwrap().find("dev").is_some());
        let much = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        std::fs::write(contexts.file(), much).unwrap();
        let error = Contexts::read(&environment).unwrap_err();
        assert!(
            error.problems()[0].text.contains("larger than 1048576 bytes"),
            "{error:?}"
        );
        let many: Vec<String> = (0..=CONTEXTS_MAX).map(|n| format!("[context.c{n}]\n")).collect();
        assert_eq!(
            parsed(&many.concat()).unwrap_err(),
            [format!("file {FILE}: 101 contexts, at most 100 are read")]
        );
    }

    #[test]
    fn a_renamed_context_stays_in_use_and_one_taken_out_does_not() {
        let mut contexts = parsed("current = 'dev'\n[context.dev]\n[context.other]").unwrap();
        assert!(matches!(
            contexts.rename("dev", "other"),
            Err(ContextError::Exists { .. })
        ));
        assert!(matches!(
            contexts.rename("dev", "x y"),
            Err(ContextError::BadName { .. })
        ));
        contexts.rename("dev", "lab").unwrap();
        assert_eq!(contexts.current(), Some("lab"));
        contexts.take_out("lab");
        assert_eq!(contexts.current(), None);
        match contexts.turn_to(Some("othr")) {
            Err(ContextError::Unknown { near, .. }) => assert_eq!(near.as_deref(), Some("other")),
            other => panic!("{other:?}"),
        }
    }
}
