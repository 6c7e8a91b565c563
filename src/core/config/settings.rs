//! Checked settings: each value with its origin, and what can be wrong with them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::environment::Environment;
use super::table::{MAINNET, SETTINGS, Setting};
use super::value::Value;

/// The word for an address that is to be found out.
pub(super) const AUTO: &str = "auto";

/// The word for what is not wanted.
pub(super) const OFF: &str = "off";

/// The folder of the subnet's dynamic configuration (wire-dynamic-config §1).
const DYNAMIC_CONFIG_URL: &str =
    "https://raw.githubusercontent.com/backend-developers-ltd/compute-horde-dynamic-config/master/";

/// Who tells a machine under which address it is seen, in the order of the reference (sem-miner §7).
const ADDRESS_SERVICES: &[&str] = &[
    "https://checkip.amazonaws.com",
    "https://ifconfig.me/ip",
    "https://ipinfo.io/ip",
    "https://myip.dnsomatic.com",
    "https://ident.me",
];

/// Whose settings are loaded; decides the data directory and which foreign variable names count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `horde facilitator`.
    Facilitator,
    /// `horde validator`.
    Validator,
    /// `horde miner`.
    Miner,
    /// `horde executor`.
    Executor,
    /// Every other command: its directory is the one that holds those of the roles.
    Tool,
}

impl Scope {
    /// Returns the name of the role's section and of its directory; none for a tool.
    pub fn role(self) -> Option<&'static str> {
        match self {
            Self::Facilitator => Some("facilitator"),
            Self::Validator => Some("validator"),
            Self::Miner => Some("miner"),
            Self::Executor => Some("executor"),
            Self::Tool => None,
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Follows from other settings.
    Derived,
    /// A configuration file.
    File(PathBuf),
    /// A named context.
    Context(String),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived => f.write_str("derived"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Context(name) => write!(f, "context {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What: a lower-case fragment.
    pub text: String,
    /// The known name nearest to an unknown one.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)?;
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean {name}?"),
            None => Ok(()),
        }
    }
}

/// Why settings could not be loaded or used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something is wrong; all of it is listed.
    #[error("{}", counted(problems.len()))]
    Invalid {
        /// Every problem that was found.
        problems: Vec<Problem>,
    },
    /// A setting that this command needs is unset.
    #[error("setting {key} is needed but not set")]
    Missing {
        /// Its key.
        key: &'static str,
    },
    /// There is no directory to keep data in.
    #[error("no data directory: neither --dir nor a home directory is set")]
    NoDirectory,
    /// A key is not in the table, or not of the kind that is asked for: a bug of ours.
    #[error("setting {key} is not declared as it is used")]
    Undeclared {
        /// The key.
        key: &'static str,
    },
}

fn counted(problems: usize) -> String {
    match problems {
        1 => "a setting is wrong".to_owned(),
        many => format!("{many} settings are wrong"),
    }
}

impl ConfigError {
    /// Returns the problems, each of them a line.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems } => problems,
            Self::Missing { .. } | Self::NoDirectory | Self::Undeclared { .. } => &[],
        }
    }

    /// Returns a refusal of one value, naming its origin.
    pub fn refused(settings: &Settings, key: &'static str, text: impl fmt::Display) -> Self {
        let origin = settings.origin(key).cloned().unwrap_or(Origin::Default);
        Self::Invalid {
            problems: vec![Problem {
                origin,
                text: format!("{key}: {text}"),
                suggestion: None,
            }],
        }
    }
}

/// Checked settings with their origins.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) scope: Scope,
    pub(super) dir: Option<PathBuf>,
    pub(super) file: Option<PathBuf>,
    pub(super) file_exists: bool,
    pub(super) context: Option<String>,
    pub(super) entries: BTreeMap<&'static str, Entry>,
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
    pub(super) secret: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", shown(&self.value, self.secret), self.origin)
    }
}

/// Masks a secret; a development key such as `//Alice` is none.
fn shown(value: &Value, secret: bool) -> String {
    let text = value.to_string();
    if secret && !text.starts_with("//") {
        "***".to_owned()
    } else {
        text
    }
}

/// One row of `horde config show`.
#[derive(Clone, Debug)]
pub struct Row {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value with secrets masked; none if unset.
    pub value: Option<Value>,
    /// Where the value came from; none if unset.
    pub origin: Option<Origin>,
}

impl Settings {
    /// Returns whose settings these are.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Returns the data directory; it may not exist yet.
    pub fn dir(&self) -> Result<&Path, ConfigError> {
        self.dir.as_deref().ok_or(ConfigError::NoDirectory)
    }

    /// Returns the path of the configuration file, and whether there is one.
    pub fn file(&self) -> Option<(&Path, bool)> {
        self.file.as_deref().map(|path| (path, self.file_exists))
    }

    /// Returns the name of the context that is in force.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Returns the name of the network: `local`, `test` or `finney`.
    pub fn network(&self) -> Result<&str, ConfigError> {
        self.text("chain.network")
    }

    /// Tells whether this is the main network, where work and money are real.
    pub fn is_mainnet(&self) -> bool {
        self.network().is_ok_and(|network| network == MAINNET)
    }

    /// Returns every setting in the order of the table, secrets masked.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        SETTINGS.iter().map(|setting| {
            let entry = self.entries.get(setting.key);
            let value = entry.map(|entry| {
                if entry.secret {
                    Value::Text(shown(&entry.value, true))
                } else {
                    entry.value.clone()
                }
            });
            Row {
                setting,
                value,
                origin: entry.map(|entry| entry.origin.clone()),
            }
        })
    }

    /// Returns the keys whose values differ, in the order of the table; secrets count by what they are.
    pub fn changed(&self, other: &Self) -> Vec<&'static str> {
        let value = |settings: &Self, key| settings.entries.get(key).map(|entry| entry.value.clone());
        let keys = SETTINGS.iter().map(|setting| setting.key);
        keys.filter(|key| value(self, *key) != value(other, *key))
            .collect()
    }

    /// Takes over the value of a key from others.
    pub fn take_over(&mut self, key: &'static str, other: &Self) {
        match other.entries.get(key) {
            Some(entry) => self.entries.insert(key, entry.clone()),
            None => self.entries.remove(key),
        };
    }

    /// Returns where a setting's value came from; none if it is unset.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.get(key).map(|entry| &entry.origin)
    }

    /// Returns a value that is set or missing.
    pub fn optional(&self, key: &'static str) -> Result<Option<&Value>, ConfigError> {
        match self.entries.get(key) {
            Some(entry) => Ok(Some(&entry.value)),
            None if Setting::find(key).is_some() => Ok(None),
            None => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a value that must be set.
    pub fn required(&self, key: &'static str) -> Result<&Value, ConfigError> {
        self.optional(key)?.ok_or(ConfigError::Missing { key })
    }

    /// Returns a text, a word or an address.
    pub fn text(&self, key: &'static str) -> Result<&str, ConfigError> {
        match self.required(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a text that parses, such as a socket address.
    pub fn parsed<T: FromStr>(&self, key: &'static str) -> Result<T, ConfigError> {
        self.text(key)?
            .parse()
            .map_err(|_| ConfigError::Undeclared { key })
    }

    /// Returns a whole number as the type that its bounds fit.
    pub fn integer<T: TryFrom<i64>>(&self, key: &'static str) -> Result<T, ConfigError> {
        match self.required(key)? {
            Value::Integer(number) => T::try_from(*number).map_err(|_| ConfigError::Undeclared { key }),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a time.
    pub fn duration(&self, key: &'static str) -> Result<Duration, ConfigError> {
        match self.required(key)? {
            Value::Seconds(seconds) => {
                Duration::try_from_secs_f64(*seconds).map_err(|_| ConfigError::Undeclared { key })
            }
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns true or false.
    pub fn bool(&self, key: &'static str) -> Result<bool, ConfigError> {
        match self.required(key)? {
            Value::Bool(claim) => Ok(*claim),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a path.
    pub fn path(&self, key: &'static str) -> Result<&Path, ConfigError> {
        match self.required(key)? {
            Value::Path(path) => Ok(path),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns texts.
    pub fn list(&self, key: &'static str) -> Result<&[String], ConfigError> {
        match self.required(key)? {
            Value::List(items) => Ok(items),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns networks.
    pub fn networks(&self, key: &'static str) -> Result<&[IpNet], ConfigError> {
        match self.required(key)? {
            Value::Networks(networks) => Ok(networks),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns counts of executors by class.
    pub fn executors(&self, key: &'static str) -> Result<&[(String, u32)], ConfigError> {
        match self.required(key)? {
            Value::Executors(counts) => Ok(counts),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a word by class.
    pub fn word_per_class(&self, key: &'static str) -> Result<&[(String, String)], ConfigError> {
        match self.required(key)? {
            Value::WordPerClass(words) => Ok(words),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a part of the whole by class.
    pub fn share_per_class(&self, key: &'static str) -> Result<&[(String, f64)], ConfigError> {
        match self.required(key)? {
            Value::SharePerClass(shares) => Ok(shares),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Returns a whole number by class.
    pub fn number_per_class(&self, key: &'static str) -> Result<&[(String, i64)], ConfigError> {
        match self.required(key)? {
            Value::NumberPerClass(numbers) => Ok(numbers),
            _ => Err(ConfigError::Undeclared { key }),
        }
    }

    /// Fills in what follows from other settings, so that it is shown like everything else.
    pub(super) fn derive(&mut self, environment: &Environment) {
        if let Some(dir) = self.dir.clone() {
            let shared = match self.scope {
                Scope::Tool => dir.as_path(),
                _ => dir.parent().unwrap_or(&dir),
            };
            self.derive_one("chain.path", Value::Path(shared.join("chain.sqlite")));
        }
        self.derive_one("executor.work_dir", Value::Path(environment.temporary()));
        // Nobody outside is asked for what a local chain needs.
        let is_local = self.text("chain.network").is_ok_and(|network| network == "local");
        let url = if is_local { OFF } else { DYNAMIC_CONFIG_URL };
        self.derive_one("miner.dynamic_config_url", Value::Text(url.to_owned()));
        let services: &[&str] = if is_local { &[] } else { ADDRESS_SERVICES };
        let services = services.iter().map(|service| (*service).to_owned()).collect();
        self.derive_one("miner.address_services", Value::List(services));
        let Ok(listen) = self.parsed::<SocketAddr>("miner.listen") else {
            return;
        };
        if listen.ip().is_unspecified() && !is_local {
            self.derive_one("miner.address", Value::Text(AUTO.to_owned()));
        }
        let announced = if listen.ip().is_unspecified() {
            "127.0.0.1".to_owned()
        } else {
            listen.ip().to_string()
        };
        self.derive_one("miner.address", Value::Text(announced.clone()));
        // Port 0 is chosen when the miner binds; nothing can be derived from it before.
        if listen.port() == 0 {
            return;
        }
        self.derive_one("miner.port", Value::Integer(i64::from(listen.port())));
        // From inside a container the host is the gateway of Docker's default bridge.
        let host = match self.text("miner.backend") {
            Ok("docker") if listen.ip().is_unspecified() => "172.17.0.1".to_owned(),
            _ => announced,
        };
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        self.derive_one(
            "miner.executor_address",
            Value::Text(format!("{host}:{}", listen.port())),
        );
    }

    fn derive_one(&mut self, key: &'static str, value: Value) {
        self.entries.entry(key).or_insert(Entry {
            value,
            origin: Origin::Derived,
            secret: false,
        });
    }
}
