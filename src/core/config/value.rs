//! Values of settings: kinds, parsing from text and from TOML, showing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::environment::Environment;

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any text but the empty one.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number within bounds, both included.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A time in seconds, zero or more; fractions are welcome.
    Seconds {
        /// Largest, in seconds.
        max: u32,
    },
    /// True or false.
    Bool,
    /// An IP address and a port, such as `127.0.0.1:9000`.
    SocketAddress,
    /// An IP address.
    IpAddress,
    /// Networks such as `10.0.0.0/8`, and single IP addresses, divided by commas outside TOML.
    Networks,
    /// A name or an IP address, and a port.
    HostPort,
    /// A path; `~/` is the home directory.
    Path,
    /// An address with one of these schemes.
    Url(&'static [&'static str]),
    /// Texts, divided by commas outside TOML.
    List,
    /// How many executors of which class, as `CLASS=N,…`, or as a TOML table.
    Executors,
    /// One of these words per class, as `CLASS=WORD,…`, or as a TOML table.
    WordPerClass(&'static [&'static str]),
    /// A part of the whole per class, from 0 to 1, as `CLASS=0.5,…`, or as a TOML table.
    SharePerClass,
    /// A whole number from 0 up to this per class, as `CLASS=N,…`, or as a TOML table.
    NumberPerClass(i64),
    /// This word, or a value of another kind.
    WordOr(&'static str, &'static Self),
}

/// A value that was checked against its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, a word, an address.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A time in seconds.
    Seconds(f64),
    /// True or false.
    Bool(bool),
    /// A path with its `~/` replaced.
    Path(PathBuf),
    /// Texts.
    List(Vec<String>),
    /// Networks; a single address is one of its own.
    Networks(Vec<IpNet>),
    /// Classes and counts, in the order given.
    Executors(Vec<(String, u32)>),
    /// Classes and words, in the order given.
    WordPerClass(Vec<(String, String)>),
    /// Classes and parts of the whole, in the order given.
    SharePerClass(Vec<(String, f64)>),
    /// Classes and whole numbers, in the order given.
    NumberPerClass(Vec<(String, i64)>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Seconds(seconds) => write!(f, "{seconds}"),
            Self::Bool(claim) => write!(f, "{claim}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Networks(networks) => {
                let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
                f.write_str(&networks.join(","))
            }
            Self::Executors(counts) => {
                let counts: Vec<_> = counts
                    .iter()
                    .map(|(class, count)| format!("{class}={count}"))
                    .collect();
                f.write_str(&counts.join(","))
            }
            Self::WordPerClass(words) => {
                let words: Vec<_> = words
                    .iter()
                    .map(|(class, word)| format!("{class}={word}"))
                    .collect();
                f.write_str(&words.join(","))
            }
            Self::SharePerClass(shares) => {
                let shares: Vec<_> = shares
                    .iter()
                    .map(|(class, share)| format!("{class}={share}"))
                    .collect();
                f.write_str(&shares.join(","))
            }
            Self::NumberPerClass(numbers) => {
                let numbers: Vec<_> = numbers
                    .iter()
                    .map(|(class, number)| format!("{class}={number}"))
                    .collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

/// Why a text is no value of a kind; a fragment that follows the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct KindError {
    /// What would have been right.
    pub expected: String,
    /// What was given.
    pub got: String,
}

/// Highest number of executors of one class: a guard against slips of the keyboard.
const EXECUTORS_MAX: u32 = 10_000;

impl Kind {
    /// Returns what values are right, in words.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Seconds { max } => format!("seconds from 0 to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::SocketAddress => "an IP address and a port, such as 127.0.0.1:9000".to_owned(),
            Self::IpAddress => "an IP address".to_owned(),
            Self::Networks => "networks and addresses, such as 10.0.0.0/8,192.168.1.7".to_owned(),
            Self::HostPort => "a host and a port, such as 127.0.0.1:8000".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Url(schemes) => format!("an address that begins with {}://", schemes.join(":// or ")),
            Self::List => "a list of texts".to_owned(),
            Self::Executors => format!("counts such as always_on.test=1, each up to {EXECUTORS_MAX}"),
            Self::WordPerClass(words) => {
                let example = words.first().unwrap_or(&"");
                format!(
                    "words such as always_on.test={example}, each one of {}",
                    words.join(", ")
                )
            }
            Self::SharePerClass => "parts such as always_on.test=0.5, each from 0 to 1".to_owned(),
            Self::NumberPerClass(max) => {
                format!("whole numbers such as always_on.test=100, each from 0 to {max}")
            }
            Self::WordOr(word, kind) => format!("{word}, or {}", kind.expected()),
        }
    }

    /// Parses a text from the environment or a flag.
    pub fn parse(self, text: &str, environment: &Environment) -> Result<Value, KindError> {
        let text = text.trim();
        self.value_of(text, environment).ok_or_else(|| KindError {
            expected: self.expected(),
            got: format!("{text:?}"),
        })
    }

    /// Takes a value from a TOML file.
    pub fn take(self, value: &toml::Value, environment: &Environment) -> Result<Value, KindError> {
        let taken = match (self, value) {
            (_, toml::Value::String(text)) => self.value_of(text, environment),
            (Self::Bool, toml::Value::Boolean(claim)) => Some(Value::Bool(*claim)),
            (Self::Integer { .. } | Self::Seconds { .. }, toml::Value::Integer(number)) => {
                self.value_of(&number.to_string(), environment)
            }
            (Self::Seconds { .. }, toml::Value::Float(seconds)) => {
                self.value_of(&seconds.to_string(), environment)
            }
            (Self::List, toml::Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Value::List),
            (Self::Networks, toml::Value::Array(items)) => items
                .iter()
                .map(|item| network_of(item.as_str()?))
                .collect::<Option<_>>()
                .map(Value::Networks),
            (Self::Executors, toml::Value::Table(counts)) => counts
                .iter()
                .map(|(class, count)| Some((class.clone(), count_of(&count.as_integer()?.to_string())?)))
                .collect::<Option<_>>()
                .map(Value::Executors),
            (Self::WordPerClass(known), toml::Value::Table(words)) => words
                .iter()
                .map(|(class, word)| Some((class.clone(), word_of(known, word.as_str()?)?)))
                .collect::<Option<_>>()
                .map(Value::WordPerClass),
            (Self::SharePerClass, toml::Value::Table(shares)) => shares
                .iter()
                .map(|(class, share)| Some((class.clone(), share_of(&share.to_string())?)))
                .collect::<Option<_>>()
                .map(Value::SharePerClass),
            (Self::NumberPerClass(max), toml::Value::Table(numbers)) => numbers
                .iter()
                .map(|(class, number)| {
                    Some((class.clone(), number_of(max, &number.as_integer()?.to_string())?))
                })
                .collect::<Option<_>>()
                .map(Value::NumberPerClass),
            _ => None,
        };
        taken.ok_or_else(|| KindError {
            expected: self.expected(),
            got: value.to_string(),
        })
    }

    fn value_of(self, text: &str, environment: &Environment) -> Option<Value> {
        let plain = || Value::Text(text.to_owned());
        match self {
            Self::Text => (!text.is_empty()).then(plain),
            Self::Choice(words) => words.contains(&text).then(plain),
            Self::Integer { min, max } => text
                .parse()
                .ok()
                .filter(|number| (min..=max).contains(number))
                .map(Value::Integer),
            Self::Seconds { max } => {
                let bounds = 0.0..=f64::from(max);
                text.parse()
                    .ok()
                    .filter(|seconds| bounds.contains(seconds))
                    .map(Value::Seconds)
            }
            Self::Bool => bool_of(text).map(Value::Bool),
            Self::SocketAddress => text
                .parse::<SocketAddr>()
                .ok()
                .map(|address| Value::Text(address.to_string())),
            Self::IpAddress => text
                .parse::<IpAddr>()
                .ok()
                .map(|address| Value::Text(address.to_string())),
            Self::HostPort => {
                let (host, port) = text.rsplit_once(':')?;
                let valid = !host.is_empty()
                    && !host.contains(|c: char| c.is_whitespace() || c == '/')
                    && port.parse::<u16>().is_ok_and(|port| port > 0);
                valid.then(plain)
            }
            Self::Path => (!text.is_empty()).then(|| Value::Path(environment.expand(text))),
            Self::Url(schemes) => {
                let (scheme, rest) = text.split_once("://")?;
                (schemes.contains(&scheme) && !rest.is_empty() && !rest.contains(char::is_whitespace))
                    .then(plain)
            }
            Self::List => Some(Value::List(items_of(text).map(str::to_owned).collect())),
            Self::Networks => items_of(text)
                .map(network_of)
                .collect::<Option<_>>()
                .map(Value::Networks),
            Self::Executors => {
                let counts = text.split(',').map(|pair| {
                    let (class, count) = pair.trim().split_once('=')?;
                    (!class.is_empty()).then_some((class.to_owned(), count_of(count)?))
                });
                counts.collect::<Option<_>>().map(Value::Executors)
            }
            Self::WordPerClass(known) => {
                let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                let words = pairs.map(|pair| {
                    let (class, word) = pair.split_once('=')?;
                    (!class.is_empty()).then_some((class.to_owned(), word_of(known, word)?))
                });
                words.collect::<Option<_>>().map(Value::WordPerClass)
            }
            Self::SharePerClass => {
                let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                let shares = pairs.map(|pair| {
                    let (class, share) = pair.split_once('=')?;
                    (!class.is_empty()).then_some((class.to_owned(), share_of(share)?))
                });
                shares.collect::<Option<_>>().map(Value::SharePerClass)
            }
            Self::NumberPerClass(max) => {
                let numbers = items_of(text).map(|pair| {
                    let (class, number) = pair.split_once('=')?;
                    (!class.is_empty()).then_some((class.to_owned(), number_of(max, number)?))
                });
                numbers.collect::<Option<_>>().map(Value::NumberPerClass)
            }
            Self::WordOr(word, _) if text == word => Some(plain()),
            Self::WordOr(_, kind) => kind.value_of(text, environment),
        }
    }
}

fn items_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Reads a network; bits behind its prefix are dropped, so that it is shown as it counts.
fn network_of(text: &str) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().map(IpNet::from).ok();
    text.parse::<IpNet>()
        .ok()
        .or_else(single)
        .map(|network| network.trunc())
}

fn count_of(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| *count <= EXECUTORS_MAX)
}

fn word_of(known: &[&str], word: &str) -> Option<String> {
    known.contains(&word).then(|| word.to_owned())
}

fn number_of(max: i64, text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| (0..=max).contains(number))
}

fn share_of(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

/// The words that the reference's `env.bool` understands.
fn bool_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "off" | "n" | "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, text: &str) -> Option<String> {
        kind.parse(text, &Environment::default())
            .ok()
            .map(|value| value.to_string())
    }

    #[test]
    fn each_kind_takes_its_values_and_no_others() {
        let integer = Kind::Integer { min: 1, max: 9 };
        let seconds = Kind::Seconds { max: 60 };
        let url = Kind::Url(&["ws", "wss"]);
        let words = Kind::WordPerClass(&["x", "y"]);
        for (kind, good, bad) in [
            (Kind::Text, "a", ""),
            (Kind::Choice(&["x", "y"]), "y", "z"),
            (integer, "9", "10"),
            (integer, "1", "one"),
            (seconds, "1.5", "-1"),
            (seconds, "0", "NaN"),
            (seconds, "60", "inf"),
            (Kind::SocketAddress, "0.0.0.0:80", "0.0.0.0"),
            (Kind::SocketAddress, "[::1]:80", "localhost:80"),
            (Kind::IpAddress, "10.0.0.1", "10.0.0.1:80"),
            (Kind::Networks, "10.0.0.0/8,::1/128", "10.0.0.0/33"),
            (Kind::Networks, "", "localhost"),
            (Kind::HostPort, "localhost:80", "localhost"),
            (Kind::HostPort, "10.0.0.1:80", "ws://10.0.0.1:80"),
            (Kind::Path, "/x", ""),
            (url, "ws://x/y", "http://x"),
            (url, "wss://x", "ws://"),
            (Kind::Executors, "a.b=1,c=0", "a.b"),
            (Kind::Executors, "a=10000", "a=10001"),
            (words, "a.b=x,c=y", "a.b=z"),
            (words, "", "x"),
            (Kind::SharePerClass, "a.b=0.5,c=1", "a.b=1.5"),
            (Kind::SharePerClass, "", "a.b=NaN"),
            (Kind::NumberPerClass(9), "a.b=9,c=0", "a.b=10"),
            (Kind::NumberPerClass(9), "", "a.b=-1"),
            (Kind::WordOr("off", &Kind::SocketAddress), "off", "on"),
            (Kind::WordOr("off", &Kind::SocketAddress), "[::1]:80", ""),
        ] {
            assert_eq!(parse(kind, good).as_deref(), Some(good), "{kind:?}");
            assert_eq!(parse(kind, bad), None, "{kind:?} {bad}");
        }
    }

    #[test]
    fn booleans_are_as_the_reference_reads_them() {
        for text in ["1", "True", "YES", "on"] {
            assert_eq!(parse(Kind::Bool, text).as_deref(), Some("true"));
        }
        assert_eq!(parse(Kind::Bool, "off").as_deref(), Some("false"));
        assert_eq!(parse(Kind::Bool, "perhaps"), None);
    }

    #[test]
    fn a_file_may_use_tables_arrays_and_numbers() {
        let file: toml::Table =
            toml::from_str("executors = { \"always_on.test\" = 2 }\nwords = { a = \"x\" }\nusers = [\"a\", \"b\"]\nwait = 1.5\nnets = ['10.9.0.0/8', '1.2.3.4']")
                .unwrap();
        let take = |kind: Kind, key: &str| kind.take(&file[key], &Environment::default());
        assert_eq!(
            take(Kind::Executors, "executors").unwrap().to_string(),
            "always_on.test=2"
        );
        let words = Kind::WordPerClass(&["x"]);
        assert_eq!(take(words, "words").unwrap().to_string(), "a=x");
        assert_eq!(take(Kind::List, "users").unwrap().to_string(), "a,b");
        assert_eq!(
            take(Kind::Networks, "nets").unwrap().to_string(),
            "10.0.0.0/8,1.2.3.4/32"
        );
        assert!(take(Kind::Networks, "users").is_err());
        assert_eq!(
            take(Kind::Seconds { max: 2 }, "wait").unwrap(),
            Value::Seconds(1.5)
        );
        assert!(take(Kind::Bool, "users").is_err());
        assert!(take(Kind::Text, "wait").is_err());
    }
}
