//! The file of servers of the miner's docker backend: which Docker engines there are, and what each runs.
//!
//! The reference's file is accepted as it is (wire-executor-miner §3): a map of names to `executor_class`, `mode`
//! (`local` or `ssh`), `host`, `ssh_port`, `username` and `key_path`, one executor each. Ours adds `count` or
//! `executors` (counts by class), `docker_host` with `tls_ca`, `tls_cert` and `tls_key`, and `address`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

use crate::core::model::ExecutorClass;

/// Most bytes of a file of servers.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most servers of a file: beyond any horde of one miner.
pub const SERVERS_MAX: usize = 1000;

/// Most executors of one class on one server.
pub const EXECUTORS_MAX: u32 = 1000;

/// Most executors of one class on all servers together.
const CLASS_MAX: u32 = 10_000;

/// Most characters of a server's name.
const NAME_CHARS_MAX: usize = 64;

/// Most bytes of a host or user name.
const HOST_BYTES_MAX: usize = 253;

/// The path that the reference gives to its built-in file, which says what our settings say without one.
pub const BUILT_IN: &str = "__default__";

/// The word of the reference for the class in its variable of the same name.
pub const DEFAULT_CLASS_WORD: &str = "DEFAULT_EXECUTOR_CLASS";

/// Where a machine has its engine's socket.
pub const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// Keys of a server.
const KEYS: [&str; 13] = [
    "executor_class",
    "count",
    "executors",
    "mode",
    "host",
    "ssh_port",
    "username",
    "key_path",
    "docker_host",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "address",
];

/// A Docker engine that runs executors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name in the file, for logs and for finding it again.
    pub name: String,
    /// How many executors of which class it runs.
    pub executors: Vec<(ExecutorClass, u32)>,
    /// How it is reached.
    pub road: Road,
    /// The address or name under which clients of streaming jobs find its executors, where it is said or follows
    /// from the road; else that of the miner.
    pub address: Option<String>,
}

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Road {
    /// Over a socket of this machine.
    Unix(PathBuf),
    /// Over TCP: with TLS, or plain to this machine.
    Tcp {
        /// The address, `host:port`.
        address: String,
        /// Who is trusted and as whom to speak.
        tls: Option<Tls>,
    },
    /// Over the socket of another machine, through ssh.
    Ssh(Ssh),
}

impl Road {
    /// Tells whether executors of this engine listen at ports of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for Road {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(socket) => write!(formatter, "unix://{}", socket.display()),
            Self::Tcp { address, .. } => write!(formatter, "tcp://{address}"),
            Self::Ssh(ssh) => write!(formatter, "ssh://{}@{}:{}", ssh.username, ssh.host, ssh.port),
        }
    }
}

/// Files for TLS to an engine, each PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the engine's certificate.
    pub ca: PathBuf,
    /// The miner's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A machine that is reached through ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// Its name or address.
    pub host: String,
    /// The port of its ssh server.
    pub port: u16,
    /// The user there, who may use the engine.
    pub username: String,
    /// The private key.
    pub key_path: PathBuf,
}

/// Why a file of servers cannot be used: all that is wrong with it, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("\n"))]
pub struct EnginesError {
    /// What is wrong where, and what to do about it.
    pub problems: Vec<String>,
}

impl EnginesError {
    fn one(problem: String) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

/// Reads a file of servers; `folder` is where relative paths in it begin, `default_class` what the word
/// [`DEFAULT_CLASS_WORD`] means.
pub fn parse(text: &str, folder: &Path, default_class: ExecutorClass) -> Result<Vec<Server>, EnginesError> {
    if text.len() > FILE_BYTES_MAX {
        let problem =
            format!("the file has more than {FILE_BYTES_MAX} bytes: split the horde over several miners");
        return Err(EnginesError::one(problem));
    }
    let entries: IndexMap<String, Value> = serde_saphyr::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        EnginesError::one(format!(
            "the file is no YAML map of server names: {reason}; write it as `name: {{executor_class: …, mode: local}}`"
        ))
    })?;
    let mut problems = Vec::new();
    if entries.is_empty() {
        problems.push("the file names no server: add one, or unset miner.engines".to_owned());
    }
    if entries.len() > SERVERS_MAX {
        problems.push(format!(
            "the file names more than {SERVERS_MAX} servers: use several miners"
        ));
    }
    let mut servers = Vec::new();
    for (name, value) in entries.iter().take(SERVERS_MAX) {
        let mut entry = Entry {
            name,
            value,
            folder,
            default_class,
            problems: Vec::new(),
        };
        servers.extend(entry.read());
        problems.append(&mut entry.problems);
    }
    look_at_all(&servers, &mut problems);
    if problems.is_empty() {
        Ok(servers)
    } else {
        Err(EnginesError { problems })
    }
}

/// Finds what is wrong between servers.
fn look_at_all(servers: &[Server], problems: &mut Vec<String>) {
    let mut roads = BTreeSet::new();
    let mut totals: IndexMap<ExecutorClass, u32> = IndexMap::new();
    for server in servers {
        if !roads.insert(server.road.to_string()) {
            problems.push(format!(
                "server {}: {} is there already: give one entry all its executors (executors: {{CLASS: N}})",
                server.name, server.road
            ));
        }
        for (class, count) in &server.executors {
            let total = totals.entry(*class).or_default();
            *total = total.saturating_add(*count);
        }
    }
    for (class, total) in totals {
        if total > CLASS_MAX {
            problems.push(format!(
                "{total} executors of class {class} are more than {CLASS_MAX}: use several miners"
            ));
        }
    }
}

/// A server while it is read.
struct Entry<'a> {
    name: &'a str,
    value: &'a Value,
    folder: &'a Path,
    default_class: ExecutorClass,
    problems: Vec<String>,
}

impl Entry<'_> {
    fn read(&mut self) -> Option<Server> {
        let is_name = (1..=NAME_CHARS_MAX).contains(&self.name.chars().count())
            && !self.name.chars().any(char::is_control);
        if !is_name {
            self.wrong(format!(
                "the name must have 1 to {NAME_CHARS_MAX} printable characters"
            ));
        }
        let Some(keys) = self.value.as_object() else {
            self.wrong("it must be a map with at least executor_class and mode");
            return None;
        };
        for key in keys.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            let known = KEYS.join(", ");
            self.wrong(format!(
                "the key `{}` is not known (known: {known})",
                key.escape_debug()
            ));
        }
        let executors = self.executors();
        let road = self.road();
        let address = self.address(road.as_ref());
        if self.problems.is_empty() {
            Some(Server {
                name: self.name.to_owned(),
                executors,
                road: road?,
                address,
            })
        } else {
            None
        }
    }

    fn wrong(&mut self, problem: impl fmt::Display) {
        let name: String = self.name.escape_debug().take(NAME_CHARS_MAX).collect();
        self.problems.push(format!("server {name}: {problem}"));
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// Returns a text; what YAML takes for a number is one, too.
    fn text(&mut self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => {
                self.wrong(format!("{key} must be a text"));
                None
            }
        }
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        Some(self.folder.join(text))
    }

    fn class(&mut self, text: &str) -> Option<ExecutorClass> {
        if text == DEFAULT_CLASS_WORD {
            return Some(self.default_class);
        }
        let class = text.parse::<ExecutorClass>();
        class.map_err(|error| self.wrong(error)).ok()
    }

    fn count(&mut self, key: &str, value: &Value) -> Option<u32> {
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=EXECUTORS_MAX).contains(count));
        if count.is_none() {
            self.wrong(format!("{key} must be a number from 1 to {EXECUTORS_MAX}"));
        }
        count
    }

    fn executors(&mut self) -> Vec<(ExecutorClass, u32)> {
        let Some(executors) = self.get("executors").cloned() else {
            let Some(class) = self.text("executor_class") else {
                self.wrong("executor_class is missing: say what it runs, for example always_on.gpu-24gb");
                return Vec::new();
            };
            let count = match self.get("count").cloned() {
                Some(count) => self.count("count", &count),
                None => Some(1),
            };
            return self.class(&class).zip(count).into_iter().collect();
        };
        if self.get("executor_class").is_some() || self.get("count").is_some() {
            self.wrong("executors says it all: leave executor_class and count out");
        }
        let Some(counts) = executors.as_object().filter(|counts| !counts.is_empty()) else {
            self.wrong("executors must be a map of classes to numbers, such as {always_on.test: 2}");
            return Vec::new();
        };
        let mut read: Vec<(ExecutorClass, u32)> = Vec::new();
        for (class, count) in counts {
            let (Some(class), Some(count)) = (self.class(class), self.count(class, count)) else {
                continue;
            };
            if read.iter().any(|(other, _)| *other == class) {
                self.wrong(format!("class {class} is there twice"));
            }
            read.push((class, count));
        }
        read
    }

    fn road(&mut self) -> Option<Road> {
        let mode = self.text("mode");
        match (mode.as_deref(), self.get("docker_host").is_some()) {
            (Some("ssh"), true) => {
                self.wrong("mode ssh has no docker_host: the socket there is always /var/run/docker.sock");
                None
            }
            (Some("ssh"), false) => self.ssh().map(Road::Ssh),
            (Some("local") | None, true) => self.docker_host(),
            (Some("local"), false) => Some(Road::Unix(PathBuf::from(USUAL_SOCKET))),
            (None, false) => {
                self.wrong("mode is missing: local, ssh, or a docker_host instead");
                None
            }
            (Some(_), _) => {
                self.wrong("mode must be local or ssh");
                None
            }
        }
    }

    fn ssh(&mut self) -> Option<Ssh> {
        for key in ["host", "username", "key_path"] {
            if self.get(key).is_none() {
                self.wrong(format!("mode ssh needs {key}"));
            }
        }
        let port = match self.get("ssh_port") {
            None => Some(22),
            Some(port) => port
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0),
        };
        if port.is_none() {
            self.wrong("ssh_port must be a number from 1 to 65535");
        }
        let (host, username, key_path) = (self.host("host"), self.host("username"), self.path("key_path"));
        Some(Ssh {
            host: host?,
            port: port?,
            username: username?,
            key_path: key_path?,
        })
    }

    /// Reads a name that becomes an argument of ssh: of few characters, none of which makes it an option.
    fn host(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        let is_plain = is_plain(&text);
        if !is_plain {
            self.wrong(format!(
                "{key} must be a plain name or address: letters, digits and ._:- only"
            ));
        }
        is_plain.then_some(text)
    }

    fn docker_host(&mut self) -> Option<Road> {
        let text = self.text("docker_host")?;
        if let Some(socket) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Some(Road::Unix(PathBuf::from(socket)));
        }
        let address = text
            .strip_prefix("tcp://")
            .map(|address| address.trim_end_matches('/'));
        let parts = address.and_then(|address| {
            let (host, port) = address.rsplit_once(':')?;
            let is_host = is_plain(host.trim_start_matches('[').trim_end_matches(']'));
            let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
            (is_host && is_port).then_some((address, host))
        });
        let Some((address, host)) = parts else {
            self.wrong("docker_host must look like unix:///var/run/docker.sock or tcp://host:2376");
            return None;
        };
        let tls = self.tls();
        let is_here = host == "localhost" || ip(host).is_some_and(|ip| ip.is_loopback());
        if tls.is_none() && !is_here && self.problems.is_empty() {
            self.wrong("a docker_host elsewhere needs tls_ca, tls_cert and tls_key: without, the machine is anybody's");
        }
        Some(Road::Tcp {
            address: address.to_owned(),
            tls,
        })
    }

    fn tls(&mut self) -> Option<Tls> {
        const TLS: [&str; 3] = ["tls_ca", "tls_cert", "tls_key"];
        let given = TLS.iter().filter(|key| self.get(key).is_some()).count();
        if given == 0 {
            return None;
        }
        if given < TLS.len() {
            self.wrong("TLS needs all of tls_ca, tls_cert and tls_key");
            return None;
        }
        let [ca, cert, key] = TLS.map(|key| self.path(key));
        Some(Tls {
            ca: ca?,
            cert: cert?,
            key: key?,
        })
    }

    fn address(&mut self, road: Option<&Road>) -> Option<String> {
        if let Some(text) = self.text("address") {
            let ip = ip(&text).map(|ip| ip.to_string());
            if ip.is_none() {
                self.wrong("address must be an IP address: the one at which clients find this server");
            }
            return ip;
        }
        match road? {
            Road::Unix(_) => None,
            Road::Tcp { address, .. } => {
                let (host, _) = address.rsplit_once(':')?;
                Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
            }
            // The reference tells clients the host as it is configured.
            Road::Ssh(ssh) => Some(ssh.host.clone()),
        }
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_plain(text: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&text.len())
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: ExecutorClass = ExecutorClass::SpinUp4MinGpu24Gb;

    fn read(text: &str) -> Result<Vec<Server>, EnginesError> {
        parse(text, Path::new("/etc/horde"), GPU)
    }

    #[test]
    fn the_references_file_is_read_as_it_is() {
        let servers = read(
            "self:\n  executor_class: DEFAULT_EXECUTOR_CLASS\n  mode: local\n\
             far:\n  executor_class: always_on.llm.a6000\n  mode: ssh\n  host: 192.0.2.7\n  \
             ssh_port: 2222\n  username: ubuntu\n  key_path: /etc/horde/box.key\n\
             next:\n  executor_class: always_on.llm.a6000\n  mode: ssh\n  host: gpu.example\n  \
             username: ubuntu\n  key_path: keys/id\n",
        )
        .unwrap();
        assert_eq!(servers[0].executors, [(GPU, 1)]);
        assert_eq!(servers[0].road, Road::Unix(USUAL_SOCKET.into()));
        assert_eq!(servers[0].address, None);
        assert_eq!(servers[1].road.to_string(), "ssh://ubuntu@192.0.2.7:2222");
        assert_eq!(servers[1].address.as_deref(), Some("192.0.2.7"));
        let Road::Ssh(ssh) = &servers[2].road else {
            panic!("{servers:?}")
        };
        assert_eq!(
            (ssh.port, ssh.key_path.as_path()),
            (22, Path::new("/etc/horde/keys/id"))
        );
    }

    #[test]
    fn an_entry_says_more_in_our_own_words() {
        let servers = read(
            "a: {executors: {always_on.test: 2, always_on.cpu.8c.16gb: 1}, docker_host: 'unix:///run/a.sock', \
                 address: 198.51.100.1}\n\
             b: {executor_class: always_on.test, count: 3, docker_host: 'tcp://gpu.example:2376', \
                 tls_ca: ca.pem, tls_cert: cert.pem, tls_key: key.pem}\n",
        )
        .unwrap();
        assert_eq!(
            servers[0].executors,
            [
                (ExecutorClass::AlwaysOnTest, 2),
                (ExecutorClass::AlwaysOnCpu8C16Gb, 1)
            ]
        );
        assert!(servers[0].road.is_local() && !servers[1].road.is_local());
        assert_eq!(servers[0].address.as_deref(), Some("198.51.100.1"));
        assert_eq!(servers[1].executors, [(ExecutorClass::AlwaysOnTest, 3)]);
        assert_eq!(servers[1].address.as_deref(), Some("gpu.example"));
        let Road::Tcp { tls: Some(tls), .. } = &servers[1].road else {
            panic!("{servers:?}")
        };
        assert_eq!(tls.ca, Path::new("/etc/horde/ca.pem"));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_where() {
        let error = read(
            "a: {executor_class: always_on.tset, mode: local}\n\
             b: {executor_class: always_on.test, mode: ssh, host: '-oProxyCommand=x', username: u, key_path: k}\n\
             c: {executor_class: always_on.test, docker_host: 'tcp://192.0.2.1:2375'}\n\
             d: {executor_class: always_on.test, count: 0, mode: local, colour: red}\n\
             e: 5\n\
             f: {executor_class: always_on.test, mode: local}\n\
             g: {executor_class: always_on.test, mode: local}\n",
        )
        .unwrap_err();
        let expected = [
            "server a: unknown executor class",
            "server b: host must be a plain name",
            "server c: a docker_host elsewhere needs tls_ca",
            "server d: the key `colour` is not known",
            "server d: count must be a number from 1 to 1000",
            "server e: it must be a map",
            "server g: unix:///var/run/docker.sock is there already",
        ];
        assert_eq!(error.problems.len(), expected.len(), "{error}");
        for (problem, beginning) in error.problems.iter().zip(expected) {
            assert!(problem.starts_with(beginning), "{problem}");
        }
    }

    #[test]
    fn what_is_no_map_of_servers_is_refused_in_one_line() {
        for text in ["", "- a\n- b\n", "a: {mode: local", "x", "a: {}\na: {}\n"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.problems.len(), 1, "{text:?}: {error}");
            assert!(!error.problems[0].contains('\n'), "{error}");
        }
        // A file that unfolds to more than a machine can hold.
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, inner) in ["b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .zip(["a", "b", "c", "d", "e", "f", "g", "h"])
        {
            let inner = vec![format!("*{inner}"); 9].join(", ");
            bomb = format!("{bomb}{name}: &{name} [{inner}]\n");
        }
        assert!(read(&bomb).is_err());
        assert!(read(&" ".repeat(FILE_BYTES_MAX + 1)).is_err());
    }
}
