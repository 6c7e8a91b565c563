//! Layers of settings: built-in defaults < file < context < environment < flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::contexts::{Contexts, NamedContext};
use super::environment::Environment;
use super::read_bounded;
use super::settings::{ConfigError, Entry, Origin, Problem, Scope, Settings};
use super::table::{SETTINGS, Setting};
use super::value::{Kind, KindError, Value};

/// The variable that names a context.
const CONTEXT_VARIABLE: &str = "HORDE_CONTEXT";

/// A setting that the command line gave.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The setting's key.
    pub key: &'static str,
    /// The flag as typed, such as `--listen`.
    pub flag: &'static str,
    /// The value as typed.
    pub value: String,
}

/// What [`load`] builds settings from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// Whose settings.
    pub scope: Scope,
    /// The process environment.
    pub environment: &'a Environment,
    /// `--dir`: the data directory.
    pub dir: Option<PathBuf>,
    /// `--config`: a configuration file, which must exist.
    pub config: Option<PathBuf>,
    /// `--context`: the context that the command line names.
    pub context: Option<String>,
    /// Settings from flags.
    pub flags: Vec<Flag>,
}

/// Loads the settings of a scope; all problems are reported at once.
pub fn load(sources: &Sources<'_>) -> Result<Settings, ConfigError> {
    let environment = sources.environment;
    let mut layers = Layers::new(environment);
    let context = layers.choose_context(sources);
    let role_dir = |base: PathBuf| match sources.scope.role() {
        Some(role) => base.join(role),
        None => base,
    };
    let context_dir = context.as_ref().and_then(|context| context.dir.clone());
    let context_dir = context_dir.map(role_dir);
    let dir = match &sources.dir {
        // Absolute, so that its parent is known even of `.`; this fails only for an empty path.
        Some(dir) => Some(std::path::absolute(dir).unwrap_or_else(|_| dir.clone())),
        None => context_dir
            .clone()
            .or_else(|| Some(role_dir(environment.data_home()?.join("horde")))),
    };
    let file = file_of(sources, context_dir.as_deref());
    layers.add_defaults();
    let mut file_exists = false;
    if let Some(file) = &file {
        file_exists = layers.add_file(file, sources.config.is_some());
    }
    if let Some(context) = &context {
        layers.add_context(context);
    }
    layers.add_environment(sources.scope);
    for flag in &sources.flags {
        layers.add_text(flag.key, &flag.value, Origin::Flag(flag.flag));
    }
    if !layers.problems.is_empty() {
        return Err(ConfigError::Invalid {
            problems: layers.problems,
        });
    }
    let mut settings = Settings {
        scope: sources.scope,
        dir,
        file,
        file_exists,
        context: context.map(|context| context.name),
        entries: layers.entries,
    };
    settings.derive(environment);
    Ok(settings)
}

/// Returns the configuration file: `--config`, else `horde.toml` in `--dir` or in the context's directory, else under
/// the configuration home.
fn file_of(sources: &Sources<'_>, context_dir: Option<&Path>) -> Option<PathBuf> {
    let dir = sources.dir.as_deref().or(context_dir);
    sources
        .config
        .clone()
        .or_else(|| dir.map(|dir| dir.join("horde.toml")))
        .or_else(|| {
            sources
                .environment
                .config_home()
                .map(|home| home.join("horde/horde.toml"))
        })
}

/// What was read so far, the later layer over the earlier one.
pub(super) struct Layers<'a> {
    environment: &'a Environment,
    pub(super) entries: BTreeMap<&'static str, Entry>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self {
            environment,
            entries: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// Returns the context that `--context` or `HORDE_CONTEXT` names, else the one that is in use.
    ///
    /// Who says by `--dir` or `--config` where to work is not sent elsewhere by what a person once put in use; and an
    /// executor is started by its miner, not by that person.
    fn choose_context(&mut self, sources: &Sources<'_>) -> Option<NamedContext> {
        let is_executor = sources.scope == Scope::Executor;
        let says_where = sources.dir.is_some() || sources.config.is_some();
        let variable = self.environment.get(CONTEXT_VARIABLE).filter(|_| !is_executor);
        let named = match (&sources.context, variable) {
            (Some(name), _) => Some((name.as_str(), Origin::Flag("--context"))),
            (None, Some(name)) => Some((name, Origin::Environment(CONTEXT_VARIABLE.to_owned()))),
            (None, None) if is_executor || says_where => return None,
            (None, None) => None,
        };
        let contexts = match Contexts::read(self.environment) {
            Ok(contexts) => contexts,
            Err(error) => {
                self.problems.extend_from_slice(error.problems());
                return None;
            }
        };
        let Some((name, origin)) = named else {
            return contexts.find(contexts.current()?);
        };
        let found = contexts.find(name);
        if found.is_none() {
            let suggestion = contexts.nearest(name);
            self.problem(origin, format!("there is no context {name:?}"), suggestion);
        }
        found
    }

    fn add_context(&mut self, context: &NamedContext) {
        // A context that names a wallet means it, whatever development key a file has.
        if context.settings.keys().any(|key| key.starts_with("wallet.")) {
            self.entries.remove("wallet.uri");
        }
        for (key, value) in &context.settings {
            if let Some(setting) = Setting::find(key) {
                self.insert(setting, value.clone(), Origin::Context(context.name.clone()));
            }
        }
    }

    fn add_defaults(&mut self) {
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                self.add_text(setting.key, default, Origin::Default);
            }
        }
    }

    /// Adds a file; tells whether there is one.
    fn add_file(&mut self, path: &Path, must_exist: bool) -> bool {
        let origin = Origin::File(path.to_owned());
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return false,
            Err(error) => {
                self.problem(origin, format!("cannot be read: {error}"), None);
                return true;
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_sections(&table, &origin, path),
            Err(error) => self.problem(
                origin,
                format!("no valid TOML: {}", error.to_string().trim_end()),
                None,
            ),
        }
        true
    }

    /// Adds what stands in the sections of a TOML table; relative paths are seen from where the file lies.
    pub(super) fn add_sections(&mut self, table: &toml::Table, origin: &Origin, path: &Path) {
        for (section, content) in table {
            let known: Vec<_> = SETTINGS
                .iter()
                .filter_map(|s| s.key.split_once('.'))
                .filter(|(s, _)| s == section)
                .collect();
            let Some(content) = content.as_table().filter(|_| !known.is_empty()) else {
                let sections = SETTINGS
                    .iter()
                    .filter_map(|setting| Some(setting.key.split_once('.')?.0));
                let suggestion = nearest(section, sections).map(|name| format!("[{name}]"));
                self.problem(origin.clone(), format!("unknown section {section}"), suggestion);
                continue;
            };
            for (name, value) in content {
                let key = format!("{section}.{name}");
                if let Some(setting) = Setting::find(&key) {
                    self.add_toml(setting, value, origin, path);
                } else {
                    let suggestion = nearest(&key, SETTINGS.iter().map(|setting| setting.key));
                    let suggestion = suggestion.map(str::to_owned);
                    self.problem(origin.clone(), format!("unknown key {key}"), suggestion);
                }
            }
        }
    }

    fn add_toml(&mut self, setting: &'static Setting, value: &toml::Value, origin: &Origin, path: &Path) {
        match setting.kind.take(value, self.environment) {
            Ok(value) => {
                // A file means paths as seen from where it lies, wherever the command was started.
                let value = match (value, path.parent()) {
                    (Value::Path(relative), Some(parent)) => Value::Path(parent.join(relative)),
                    (value, _) => value,
                };
                self.insert(setting, value, origin.clone());
            }
            Err(error) => self.kind_problem(setting, &error, origin.clone()),
        }
    }

    fn add_environment(&mut self, scope: Scope) {
        let environment = self.environment;
        // The names of the reference first, so that our own name wins where both are set.
        let is_aliased = |setting: &&Setting| match scope {
            Scope::Executor => !setting.key.starts_with("miner."),
            Scope::Miner => setting.key.starts_with("miner."),
            _ => false,
        };
        for setting in SETTINGS.iter().filter(is_aliased) {
            if let Some((name, text)) = setting
                .alias
                .and_then(|name| Some((name, environment.get(name)?)))
            {
                let text = match setting.kind {
                    Kind::Bool => reference_truth(text),
                    _ => text,
                };
                self.add_text(setting.key, text, Origin::Environment(name.to_owned()));
            }
        }
        for name in environment.names() {
            // `HORDE_TEST_*` belongs to the test suite.
            if !name.starts_with("HORDE_") || name.starts_with("HORDE_TEST_") || name == CONTEXT_VARIABLE {
                continue;
            }
            let origin = Origin::Environment(name.to_owned());
            match SETTINGS.iter().find(|setting| setting.environment_name() == name) {
                None => {
                    let names: Vec<_> = SETTINGS.iter().map(Setting::environment_name).collect();
                    let suggestion = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                    self.problem(origin, "unknown variable".to_owned(), suggestion);
                }
                Some(setting) => match environment.get(name) {
                    Some(text) => self.add_text(setting.key, text, origin),
                    None => self.problem(origin, "the value is not UTF-8".to_owned(), None),
                },
            }
        }
    }

    fn add_text(&mut self, key: &'static str, text: &str, origin: Origin) {
        let Some(setting) = Setting::find(key) else {
            return self.problem(origin, format!("unknown key {key}"), None);
        };
        match setting.kind.parse(text, self.environment) {
            Ok(value) => self.insert(setting, value, origin),
            Err(error) => self.kind_problem(setting, &error, origin),
        }
    }

    fn insert(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.entries.insert(
            setting.key,
            Entry {
                value,
                origin,
                secret: setting.secret,
            },
        );
    }

    fn kind_problem(&mut self, setting: &Setting, error: &KindError, origin: Origin) {
        let text = if setting.secret {
            format!("{}: expected {}", setting.key, error.expected)
        } else {
            format!("{}: {error}", setting.key)
        };
        self.problem(origin, text, None);
    }

    pub(super) fn problem(&mut self, origin: Origin, text: String, suggestion: Option<String>) {
        self.problems.push(Problem {
            origin,
            text,
            suggestion,
        });
    }
}

/// Reads a truth as the reference's executor does: a number but 0 or one of its words is true, anything else is not.
fn reference_truth(text: &str) -> &'static str {
    const TRUE: [&str; 6] = ["true", "on", "ok", "y", "yes", "1"];
    let text = text.trim().to_ascii_lowercase();
    let is_true = match text.parse::<i64>() {
        Ok(number) => number != 0,
        Err(_) => TRUE.contains(&text.as_str()),
    };
    if is_true { "true" } else { "false" }
}

/// Returns the known name that is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(environment: &Environment) -> Sources<'_> {
        Sources {
            scope: Scope::Miner,
            environment,
            dir: None,
            config: None,
            context: None,
            flags: Vec::new(),
        }
    }

    fn problems(sources: &Sources<'_>) -> Vec<String> {
        load(sources)
            .unwrap_err()
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file_and_that_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("horde.toml");
        std::fs::write(
            &file,
            "[miner]\nlisten = '1.1.1.1:1'\nbackend = 'docker'\nexecutor_image = 'file'\n[log]\nlevel = 'warn'",
        )
        .unwrap();
        let environment = Environment::from_iter([
            ("HORDE_MINER_LISTEN", "2.2.2.2:2"),
            ("HORDE_MINER_EXECUTOR_IMAGE", "env"),
        ]);
        let flag = Flag {
            key: "miner.listen",
            flag: "--listen",
            value: "3.3.3.3:3".to_owned(),
        };
        let settings = load(&Sources {
            dir: Some(dir.path().to_owned()),
            flags: vec![flag],
            ..sources(&environment)
        })
        .unwrap();
        for (key, value, origin) in [
            ("miner.listen", "3.3.3.3:3", Origin::Flag("--listen")),
            (
                "miner.executor_image",
                "env",
                Origin::Environment("HORDE_MINER_EXECUTOR_IMAGE".to_owned()),
            ),
            ("miner.backend", "docker", Origin::File(file.clone())),
            ("log.format", "text", Origin::Default),
            ("miner.address", "3.3.3.3", Origin::Derived),
        ] {
            assert_eq!(settings.text(key).unwrap(), value);
            assert_eq!(settings.origin(key), Some(&origin));
        }
        assert_eq!(settings.integer::<u16>("miner.port").unwrap(), 3);
        assert_eq!(settings.file(), Some((file.as_path(), true)));
    }

    /// A home with a file and contexts that all say something, and a variable for one setting of the three.
    fn home_with_contexts() -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("horde");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("horde.toml"),
            "[chain]\nnetuid = 1\n[wallet]\nname = 'file'\nhotkey = 'file'\nuri = '//Eve'\n[log]\nlevel = 'warn'",
        )
        .unwrap();
        let contexts = "current = 'used'\n[context.used]\ndir = '/used'\n[context.used.wallet]\nname = 'used'\nhotkey = 'used'\n\
            [context.named.chain]\nnetuid = 3";
        std::fs::write(folder.join("contexts.toml"), contexts).unwrap();
        let environment = Environment::from_iter([
            ("HOME", home.path().to_str().unwrap()),
            ("XDG_CONFIG_HOME", home.path().to_str().unwrap()),
            ("HORDE_WALLET_HOTKEY", "env"),
        ]);
        (home, environment)
    }

    #[test]
    fn a_context_stands_between_the_file_and_the_environment() {
        let (home, environment) = home_with_contexts();
        let settings = load(&sources(&environment)).unwrap();
        let used = Origin::Context("used".to_owned());
        let file = Origin::File(home.path().join("horde/horde.toml"));
        // Its directory is also where the file of a role is looked for, so this one is not read.
        assert_eq!(settings.origin("log.level"), Some(&Origin::Default));
        assert_eq!(settings.dir().unwrap(), Path::new("/used/miner"));
        assert_eq!(settings.origin("wallet.name"), Some(&used));
        assert_eq!(settings.text("wallet.hotkey").unwrap(), "env");
        assert_eq!(settings.context(), Some("used"));
        // A context without a directory leaves all that it does not set to the file.
        let named = |environment: &Environment, scope, context: Option<&str>| {
            load(&Sources {
                scope,
                context: context.map(str::to_owned),
                ..sources(environment)
            })
            .unwrap()
        };
        let settings = named(&environment, Scope::Tool, Some("named"));
        let named_origin = Origin::Context("named".to_owned());
        assert_eq!(settings.origin("chain.netuid"), Some(&named_origin));
        assert_eq!(settings.origin("wallet.name"), Some(&file));
        assert_eq!(settings.text("wallet.uri").unwrap(), "//Eve");
        // The flag before the variable before what is in use.
        let variable = environment.clone().with("HORDE_CONTEXT", "finney");
        let settings = named(&variable, Scope::Tool, None);
        assert_eq!(settings.context(), Some("finney"));
        assert!(settings.is_mainnet());
        assert_eq!(
            named(&variable, Scope::Tool, Some("named")).context(),
            Some("named")
        );
        // An executor is started by its miner, whatever a person has in use.
        assert_eq!(named(&variable, Scope::Executor, None).context(), None);
    }

    #[test]
    fn a_context_that_names_a_wallet_means_it() {
        let (home, environment) = home_with_contexts();
        let settings = load(&Sources {
            config: Some(home.path().join("horde/horde.toml")),
            context: Some("used".to_owned()),
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(settings.text("wallet.name").unwrap(), "used");
        assert!(settings.optional("wallet.uri").unwrap().is_none());
    }

    #[test]
    fn where_to_work_is_said_by_dir_and_config_and_not_by_what_is_in_use() {
        let (home, environment) = home_with_contexts();
        let place = home.path().join("d");
        let config = Some(home.path().join("horde/horde.toml"));
        for (dir, config) in [(Some(place.clone()), None), (None, config)] {
            let settings = load(&Sources {
                dir,
                config,
                ..sources(&environment)
            });
            assert_eq!(settings.unwrap().context(), None);
        }
        let named = load(&Sources {
            dir: Some(place.clone()),
            context: Some("used".to_owned()),
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(named.dir().unwrap(), place);
        assert_eq!(named.text("wallet.name").unwrap(), "used");
    }

    #[test]
    fn an_unknown_context_is_an_error_with_a_suggestion() {
        let (_home, environment) = home_with_contexts();
        let flag = problems(&Sources {
            context: Some("namd".to_owned()),
            ..sources(&environment)
        });
        assert_eq!(
            flag,
            ["flag --context: there is no context \"namd\"; did you mean named?"]
        );
        let variable = environment.with("HORDE_CONTEXT", "moon");
        let told = problems(&sources(&variable));
        assert_eq!(told, ["environment HORDE_CONTEXT: there is no context \"moon\""]);
    }

    #[test]
    fn the_references_own_variables_are_as_true_as_it_reads_them() {
        for (text, truth) in [
            ("1", true),
            ("True", true),
            ("ok", true),
            ("2", true),
            ("0", false),
            ("no", false),
            ("t", false),
            ("perhaps", false),
        ] {
            let environment =
                Environment::from_iter([("DEBUG_NO_GPU_MODE", text), ("EXECUTOR_ON_HOST", text)]);
            let settings = load(&Sources {
                scope: Scope::Executor,
                ..sources(&environment)
            })
            .unwrap();
            assert_eq!(settings.bool("executor.no_gpu").unwrap(), truth, "{text}");
            assert_eq!(settings.bool("executor.on_host").unwrap(), truth, "{text}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once_with_suggestions() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("horde.toml");
        std::fs::write(
            &file,
            "[miner]\nlistn = '1.1.1.1:1'\nport = 70000\n[minner]\nx = 1",
        )
        .unwrap();
        let environment =
            Environment::from_iter([("HORDE_MINER_BACKENDS", "docker"), ("HORDE_TEST_DOCKER", "1")]);
        let at = format!("file {}", file.display());
        assert_eq!(
            problems(&Sources {
                config: Some(file),
                ..sources(&environment)
            }),
            [
                format!("{at}: unknown key miner.listn; did you mean miner.listen?"),
                format!("{at}: miner.port: expected a whole number from 1 to 65535, got 70000"),
                format!("{at}: unknown section minner; did you mean [miner]?"),
                "environment HORDE_MINER_BACKENDS: unknown variable; did you mean HORDE_MINER_BACKEND?"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist_and_be_toml() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::default();
        let missing = dir.path().join("none.toml");
        assert!(
            problems(&Sources {
                config: Some(missing),
                ..sources(&environment)
            })[0]
                .contains("cannot be read")
        );
        assert!(
            problems(&Sources {
                config: Some("/dev/zero".into()),
                ..sources(&environment)
            })[0]
                .contains("larger than")
        );
        let broken = dir.path().join("broken.toml");
        std::fs::write(&broken, "[miner").unwrap();
        assert!(
            problems(&Sources {
                config: Some(broken),
                ..sources(&environment)
            })[0]
                .contains("no valid TOML")
        );
        assert!(
            load(&Sources {
                dir: Some(dir.path().to_owned()),
                ..sources(&environment)
            })
            .is_ok()
        );
    }

    #[test]
    fn only_the_executor_hears_the_names_of_the_reference_and_prefers_our_own() {
        let environment = Environment::from_iter([
            ("MINER_ADDRESS", "ws://1.1.1.1:1"),
            ("EXECUTOR_TOKEN", "theirs"),
            ("HORDE_EXECUTOR_TOKEN", "ours"),
        ]);
        let executor = load(&Sources {
            scope: Scope::Executor,
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(executor.text("executor.miner_address").unwrap(), "ws://1.1.1.1:1");
        assert_eq!(executor.text("executor.token").unwrap(), "ours");
        let miner = load(&sources(&environment)).unwrap();
        assert!(matches!(
            miner.text("executor.miner_address"),
            Err(ConfigError::Missing { .. })
        ));
    }

    #[test]
    fn secrets_are_never_shown_but_development_keys_are() {
        let environment = Environment::from_iter([
            ("HORDE_WALLET_URI", "bottom drive obey lake"),
            ("HORDE_EXECUTOR_TOKEN", "tok-123"),
        ]);
        let settings = load(&sources(&environment)).unwrap();
        let shown: Vec<_> = settings
            .rows()
            .filter_map(|row| row.value)
            .map(|value| value.to_string())
            .collect();
        assert!(
            !shown
                .iter()
                .any(|value| value.contains("obey") || value.contains("tok-123"))
        );
        assert!(!format!("{settings:?}").contains("tok-123"));
        let environment = Environment::from_iter([("HORDE_WALLET_URI", "//Alice")]);
        assert!(load(&sources(&environment)).unwrap().rows().any(|row| {
            row.setting.key == "wallet.uri" && row.value == Some(Value::Text("//Alice".to_owned()))
        }));
    }

    #[test]
    fn data_lies_under_dir_or_the_data_home_and_the_chain_beside_it() {
        let environment = Environment::from_iter([("HOME", "/home/ann")]);
        let plain = load(&sources(&environment)).unwrap();
        assert_eq!(
            plain.dir().unwrap(),
            Path::new("/home/ann/.local/share/horde/miner")
        );
        assert_eq!(
            plain.path("chain.path").unwrap(),
            Path::new("/home/ann/.local/share/horde/chain.sqlite")
        );
        let given = load(&Sources {
            dir: Some("/d/miner-1".into()),
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(given.path("chain.path").unwrap(), Path::new("/d/chain.sqlite"));
        let tool = load(&Sources {
            scope: Scope::Tool,
            dir: Some("/d".into()),
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(tool.path("chain.path").unwrap(), Path::new("/d/chain.sqlite"));
        let nowhere = Environment::default();
        assert!(matches!(
            load(&sources(&nowhere)).unwrap().dir(),
            Err(ConfigError::NoDirectory)
        ));
    }

    #[test]
    fn paths_in_a_file_are_seen_from_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("horde.toml"), "[wallet]\npath = 'wallets'").unwrap();
        let environment = Environment::default();
        let settings = load(&Sources {
            dir: Some(dir.path().to_owned()),
            ..sources(&environment)
        })
        .unwrap();
        assert_eq!(settings.path("wallet.path").unwrap(), dir.path().join("wallets"));
    }

    #[test]
    fn where_executors_find_the_miner_depends_on_the_backend() {
        for (backend, listen, address) in [
            ("process", "0.0.0.0:8000", "127.0.0.1:8000"),
            ("docker", "0.0.0.0:8000", "172.17.0.1:8000"),
            ("docker", "10.0.0.5:8000", "10.0.0.5:8000"),
            ("process", "[::1]:8000", "[::1]:8000"),
        ] {
            let environment =
                Environment::from_iter([("HORDE_MINER_BACKEND", backend), ("HORDE_MINER_LISTEN", listen)]);
            assert_eq!(
                load(&sources(&environment))
                    .unwrap()
                    .text("miner.executor_address")
                    .unwrap(),
                address
            );
        }
    }
}
