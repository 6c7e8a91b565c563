//! Making the checks: each group reads its facts within a time limit and has them judged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::super::check;
use super::super::context::Context;
use super::patient::{Config, Patient, keeper};
use crate::core::config::{ChainConfig, ConfigError, MinerConfig, Origin, Settings, WalletConfig};
use crate::core::crypto::Keypair;
use crate::core::crypto::keyfile::{self, KeyFileError, Passwords};
use crate::core::doctor::catalogue::Who;
use crate::core::doctor::facts::{self, Directory, KeyFile, Room};
use crate::core::doctor::judge::{self, ChainFacts, Judged, Looked, Pair, PrivateKey};
use crate::core::doctor::port::{Tried, try_listen};
use crate::core::doctor::{finding, skipped};
use crate::core::host::checks::{Finding, Status};
use crate::core::miner::check as miner_check;
use crate::core::miner::check::probe;
use crate::core::miner::ports::count_free;
use crate::core::model::Hotkey;
use crate::core::model::subnet::{Block, Metagraph};
use crate::core::net::certificates::Certificates;
use crate::core::store::local_chain::ChainLook;
use crate::core::store::look::{Look, LookError, files};
use crate::core::store::places::Role;
use crate::core::store::times::micros;
use crate::core::store::{Holder, holder, lock_path};

/// The longest that checks which are made together may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest that SQLite may look through a database.
const LOOK_THROUGH: Duration = Duration::from_secs(10);

/// Why a check is not made where the configuration cannot be read.
const NOT_CONFIGURED: &str = "see config";

/// Checks that are made together, of one role.
pub(super) struct Group<'a> {
    /// Whose.
    pub(super) role: &'a str,
    /// Which.
    pub(super) names: &'static [&'static str],
    work: Pin<Box<dyn Future<Output = Vec<Judged>> + 'a>>,
}

/// What came of a group.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) role: String,
    pub(super) found: Vec<Judged>,
    pub(super) took: Duration,
}

impl<'a> Group<'a> {
    fn new(
        role: &'a str,
        names: &'static [&'static str],
        work: impl Future<Output = Vec<Judged>> + 'a,
    ) -> Self {
        Self {
            role,
            names,
            work: Box::pin(work),
        }
    }

    /// Tells whether programs' versions are looked at as well, whose checks the table of versions names.
    pub(super) fn has_versions(&self) -> bool {
        self.names == EXECUTOR
    }

    /// Makes the checks.
    pub(super) async fn make(self) -> Outcome {
        let began = Instant::now();
        let found = timeout(PATIENCE, self.work).await;
        let found = found.unwrap_or_else(|_late| unanswered(self.names));
        Outcome {
            role: self.role.to_owned(),
            found,
            took: began.elapsed(),
        }
    }
}

/// Returns the findings of checks that took too long.
fn unanswered(names: &[&str]) -> Vec<Judged> {
    let words = format!("no answer within {} s", PATIENCE.as_secs());
    let unknown = |name: &&str| Judged::from(finding(name, Status::Unknown, &words));
    names.iter().map(unknown).collect()
}

/// Returns the checks of the machine itself.
pub(super) fn of_machine() -> Group<'static> {
    Group::new(Who::Machine.word(), &["open-files", "memory"], async {
        let read = blocking(|| (facts::open_files_max(), facts::memory_available())).await;
        match read {
            Ok((files, memory)) => vec![judge::open_files(files).into(), judge::memory(&memory).into()],
            Err(why) => vec![finding("memory", Status::Unknown, why).into()],
        }
    })
}

/// Returns the checks of a role; a client asks the facilitator at `facilitator`.
pub(super) fn of_patient<'a>(
    context: &'a Context,
    patient: &'a Patient,
    facilitator: Option<&'a str>,
) -> Vec<Group<'a>> {
    let name = patient.name.as_str();
    let look = PatientLook {
        context,
        patient,
        facilitator,
    };
    let mut groups = Vec::new();
    // What runs jobs has its settings from the miner that starts it.
    if patient.who != Who::Executor || patient.config.is_err() {
        groups.push(Group::new(name, &["config"], async {
            vec![config(patient).into()]
        }));
    }
    if let (Some(role), Some(dir)) = (keeper(patient.who), &patient.dir) {
        groups.push(Group::new(
            name,
            &["data-dir", "space", "permissions", "wal", "lock"],
            directory(role, dir),
        ));
        groups.push(Group::new(name, &["schema", "database"], database(role, dir)));
        groups.push(Group::new(name, &["systemd"], look.unit(role)));
    }
    match patient.who {
        Who::Machine => {}
        Who::Client => {
            groups.push(Group::new(name, KEYS, look.keys()));
            groups.push(Group::new(name, &["facilitator", "clock"], look.facilitator()));
        }
        Who::Facilitator => {
            groups.push(Group::new(name, &["chain"], look.chain()));
            groups.push(Group::new(name, &["certificate"], look.certificate()));
            groups.push(Group::new(name, &["listen", "metrics"], look.addresses()));
        }
        Who::Validator => {
            groups.push(Group::new(name, KEYS, look.keys()));
            groups.push(Group::new(name, &["chain", "registered", "permit"], look.chain()));
            groups.push(Group::new(name, &["facilitator", "clock"], look.facilitator()));
        }
        Who::Miner => {
            groups.push(Group::new(name, KEYS, look.keys()));
            groups.push(Group::new(name, &["chain", "registered"], look.chain()));
            groups.push(Group::new(name, &["clock"], look.clock()));
            groups.push(Group::new(name, &["listen", "metrics"], look.addresses()));
            groups.push(Group::new(name, &["streaming-ports"], look.streaming_ports()));
        }
        Who::Executor => groups.push(Group::new(name, EXECUTOR, look.executor())),
    }
    groups
}

/// The checks of keys.
const KEYS: &[&str] = &["key-file", "key-pair", "coldkey"];

/// The checks of what runs jobs, besides those of versions.
const EXECUTOR: &[&str] = &[
    "docker",
    "cgroup",
    "swap",
    "user-namespace",
    "work-dir",
    "disk",
    "image",
    "nvidia-runtime",
    "gpu",
    "seccomp",
    "limits",
];

fn config(patient: &Patient) -> Finding {
    match &patient.config {
        Ok(_) => finding("config", Status::Held, "sound"),
        Err(error) => finding("config", Status::Failed, problems(error)),
    }
}

/// Returns everything that is wrong, in one line.
fn problems(error: &ConfigError) -> String {
    match error.problems() {
        [] => error.to_string(),
        problems => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            problems.join("; ")
        }
    }
}

/// Looks at the data directory and at the files in it.
async fn directory(role: Role, dir: &Path) -> Vec<Judged> {
    let dir = dir.to_owned();
    let read = blocking(move || {
        let database = dir.join(role.database());
        let lock = lock_path(&database);
        let is_usable = !lock.exists()
            || rustix::fs::access(&lock, rustix::fs::Access::WRITE_OK | rustix::fs::Access::READ_OK).is_ok();
        let modes = files(&database).map(|path| KeyFile::read(&path));
        let [_, log, _] = files(&database);
        let log = std::fs::metadata(log).map_or(0, |facts| facts.len());
        let mut found = vec![
            judge::data_dir(&Directory::read(&dir)),
            judge::space(&dir, &Room::read(&dir)).into(),
        ];
        if database.exists() {
            found.push(judge::permissions(&modes));
            found.push(judge::wal(log).into());
            found.push(judge::lock(holder(&database), &lock, is_usable).into());
        } else {
            found.extend(no_database(&["permissions", "wal", "lock"]));
        }
        found
    });
    read.await
        .unwrap_or_else(|why| vec![finding("data-dir", Status::Unknown, why).into()])
}

fn no_database(names: &[&str]) -> Vec<Judged> {
    let skip = |name: &&str| Judged::from(skipped(name, "there is no database yet"));
    names.iter().map(skip).collect()
}

/// Opens the database and has SQLite look through it, for as long as there is time.
async fn database(role: Role, dir: &Path) -> Vec<Judged> {
    let path = dir.join(role.database());
    let opened = blocking(move || Look::of_role(role, &path)).await;
    let look = match opened {
        Ok(Ok(look)) => look,
        Ok(Err(LookError::Missing { .. })) => return no_database(&["schema", "database"]),
        Ok(Err(LookError::Newer { found, known, .. })) => {
            return vec![
                judge::schema(found, known).into(),
                skipped("database", "see schema").into(),
            ];
        }
        Ok(Err(error)) => return damaged(words_of(&error)),
        Err(why) => return damaged(why),
    };
    let (found, known) = look.schema();
    let interrupter = look.interrupter();
    let work = blocking(move || look.faults());
    tokio::pin!(work);
    let looked = tokio::select! {
        faults = &mut work => match faults {
            Ok(Ok(faults)) => Looked::Through(faults),
            Ok(Err(error)) => Looked::Refused(words_of(&error)),
            Err(why) => Looked::Refused(why),
        },
        () = sleep(LOOK_THROUGH) => {
            interrupter.interrupt();
            // Nobody wants its answer any more, only its end.
            drop(work.await);
            Looked::NotWhole(LOOK_THROUGH)
        }
    };
    vec![
        judge::schema(found, known).into(),
        judge::database(&looked).into(),
    ]
}

fn damaged(why: String) -> Vec<Judged> {
    vec![
        skipped("schema", "see database").into(),
        judge::database(&Looked::Refused(why)).into(),
    ]
}

/// What is looked at with a role's settings.
#[derive(Clone, Copy)]
struct PatientLook<'a> {
    context: &'a Context,
    patient: &'a Patient,
    facilitator: Option<&'a str>,
}

impl<'a> PatientLook<'a> {
    /// Returns the configuration, or the findings of checks that cannot be made without it.
    fn config(self, names: &[&str]) -> Result<&'a Config, Vec<Judged>> {
        let skip = |name: &&str| Judged::from(skipped(name, NOT_CONFIGURED));
        self.patient
            .config
            .as_ref()
            .map_err(|_| names.iter().map(skip).collect())
    }

    async fn unit(self, role: Role) -> Vec<Judged> {
        let home = self.context.environment.config_home();
        let unit = blocking(move || facts::unit(role.word(), home.as_deref())).await;
        vec![judge::systemd(unit.unwrap_or_default().as_ref()).into()]
    }

    async fn keys(self) -> Vec<Judged> {
        let config = match self.config(KEYS) {
            Ok(config) => config,
            Err(skipped) => return skipped,
        };
        let Some(wallet) = config.wallet() else {
            let why = "the trusted miner of one validator signs nothing";
            return KEYS.iter().map(|name| skipped(name, why).into()).collect();
        };
        let (hotkey, coldkey) = (wallet.hotkey_file(), wallet.coldkey_file());
        let is_development = wallet.uri.is_some();
        let is_client = self.patient.who == Who::Client;
        let read = blocking(move || {
            let mut found = Vec::new();
            if is_development {
                for name in ["key-file", "key-pair"] {
                    found.push(skipped(name, "wallet.uri is a development key").into());
                }
            } else {
                let file = KeyFile::read(&hotkey);
                found.push(judge::key_file(&file));
                found.push(if file.mode.is_some() {
                    judge::key_pair(&pair(&hotkey)).into()
                } else {
                    skipped("key-pair", "see key-file").into()
                });
            }
            // A user may well have the coldkey at hand.
            if !is_client {
                found.push(judge::coldkey(&KeyFile::read(&coldkey)).into());
            }
            found
        });
        read.await
            .unwrap_or_else(|why| vec![finding("key-file", Status::Unknown, why).into()])
    }

    async fn chain(self) -> Vec<Judged> {
        let names = ["chain", "registered", "permit"];
        let is_validator = self.patient.who == Who::Validator;
        let config = match self.config(&names) {
            Ok(config) => config,
            Err(skipped) => return skipped,
        };
        let Some(ChainConfig { path, netuid, .. }) = config.chain() else {
            return Vec::new();
        };
        let now_us = micros(self.context.clock.now());
        let (path, netuid) = (path.clone(), *netuid);
        let own = config.wallet().map(own_hotkey);
        let read = blocking(move || {
            let read = read_chain(&path, netuid, now_us);
            let facts = match &read {
                Ok(read) => Ok(read.as_ref().map(|(facts, _)| facts.clone())),
                Err(error) => Err(words_of(error)),
            };
            let mut found: Vec<Judged> = vec![judge::chain(&path, netuid, &facts).into()];
            match (own, read) {
                (None, _) => {}
                (Some(own), Ok(Some((_, metagraph)))) => match own() {
                    Ok(hotkey) => {
                        found.push(judge::registered(&hotkey, &metagraph).into());
                        if is_validator {
                            found.push(judge::permit(&hotkey, &metagraph).into());
                        }
                    }
                    Err(why) => found.push(skipped("registered", format_args!("see key-pair: {why}")).into()),
                },
                (Some(_), _) => found.push(skipped("registered", "see chain").into()),
            }
            found
        });
        read.await
            .unwrap_or_else(|why| vec![finding("chain", Status::Unknown, why).into()])
    }

    async fn facilitator(self) -> Vec<Judged> {
        let config = match self.config(&["facilitator", "clock"]) {
            Ok(config) => config,
            Err(skipped) => return skipped,
        };
        let url = match (config, self.facilitator) {
            (Config::Validator(config), _) => Some(config.facilitator_url.as_str()),
            (_, Some(url)) => Some(url),
            (Config::Client(_, settings), None) => named_facilitator(settings),
            _ => None,
        };
        let Some(url) = url.map(origin_of) else {
            let why = "no facilitator is named: set client.facilitator_url, use a context, or pass --facilitator URL";
            return vec![skipped("facilitator", why).into(), skipped("clock", why).into()];
        };
        let answer = probe::get(&url).await.map(|answer| answer.status);
        let clock = if answer.is_ok() {
            self.ask_time(&url).await
        } else {
            skipped("clock", "see facilitator")
        };
        vec![judge::facilitator(&url, &answer).into(), clock.into()]
    }

    async fn clock(self) -> Vec<Judged> {
        let settings = match self.config(&["clock"]) {
            Ok(Config::Miner(_, settings)) => settings,
            Ok(_) => return Vec::new(),
            Err(skipped) => return skipped,
        };
        let found = match settings.text("miner.clock_url") {
            Ok(url) => self.ask_time(url).await,
            Err(_) => skipped(
                "clock",
                "miner.clock_url is not set, and no other server is asked",
            ),
        };
        vec![found.into()]
    }

    async fn ask_time(self, url: &str) -> Finding {
        let told = probe::ask_time(url, &self.context.clock).await;
        judge::clock(self.context.clock.now(), None, Some(told))
    }

    async fn certificate(self) -> Vec<Judged> {
        let tls = match self.config(&["certificate"]) {
            Ok(Config::Facilitator(config)) => config.tls.clone(),
            Ok(_) => return Vec::new(),
            Err(skipped) => return skipped,
        };
        let Some(tls) = tls else {
            return vec![
                skipped(
                    "certificate",
                    "facilitator.tls_certificate is not set: it serves http",
                )
                .into(),
            ];
        };
        let path = tls.certificate.clone();
        let loaded = blocking(move || {
            Certificates::load(&tls.certificate, &tls.key)
                .map(drop)
                .map_err(|error| words_of(&error))
        });
        let loaded = loaded.await.and_then(|loaded| loaded);
        vec![judge::certificate(&path, &loaded).into()]
    }

    async fn addresses(self) -> Vec<Judged> {
        let names = ["listen", "metrics"];
        let (listen, metrics) = match self.config(&names) {
            Ok(Config::Facilitator(config)) => (config.listen, config.metrics_listen),
            Ok(Config::Miner(config, _)) => (config.listen, config.metrics_listen),
            Ok(_) => return Vec::new(),
            Err(skipped) => return skipped,
        };
        let database = keeper(self.patient.who)
            .zip(self.patient.dir.as_ref())
            .map(|(role, dir)| dir.join(role.database()));
        let read = blocking(move || {
            let role = database.map_or(Holder::Nobody, |path| holder(&path));
            vec![
                judge_address("listen", Some(listen), role).into(),
                judge_address("metrics", metrics, role).into(),
            ]
        });
        read.await
            .unwrap_or_else(|why| vec![finding("listen", Status::Unknown, why).into()])
    }

    async fn streaming_ports(self) -> Vec<Judged> {
        let config: &MinerConfig = match self.config(&["streaming-ports"]) {
            Ok(Config::Miner(config, _)) => config,
            Ok(_) => return Vec::new(),
            Err(skipped) => return skipped,
        };
        let range = config.streaming_ports.clone();
        let executors = config.executors.iter().map(|(_, count)| count).sum();
        let found = match blocking(move || count_free(&range)).await {
            Ok(free) => miner_check::streaming_ports(&config.streaming_ports, free, executors),
            Err(why) => finding("streaming-ports", Status::Unknown, why),
        };
        vec![found.into()]
    }

    async fn executor(self) -> Vec<Judged> {
        let settings = match self.config(EXECUTOR) {
            Ok(Config::Executor(settings)) => settings,
            Ok(_) => return Vec::new(),
            Err(skipped) => return skipped,
        };
        match check::look(settings, false).await {
            Ok(found) => found.into_iter().map(Judged::from).collect(),
            Err(error) => vec![finding("docker", Status::Failed, error).into()],
        }
    }
}

/// Returns the facilitator that a user has named, rather than the one that commands try by themselves.
fn named_facilitator(settings: &Settings) -> Option<&str> {
    const KEY: &str = "client.facilitator_url";
    let is_named = !matches!(settings.origin(KEY), None | Some(Origin::Default));
    settings.text(KEY).ok().filter(|_| is_named)
}

fn judge_address(check: &str, address: Option<SocketAddr>, role: Holder) -> Finding {
    let Some(address) = address else {
        return skipped(check, "off");
    };
    if address.port() == 0 {
        return skipped(check, "port 0 is any free one");
    }
    let tried: Tried = try_listen(address);
    judge::listen(check, address, &tried, role)
}

/// Reads what the two files of a hotkey say; an encrypted one stays closed.
fn pair(private: &Path) -> Pair {
    let twin = keyfile::public_twin(private);
    Pair {
        private: match keyfile::load(private, &mut Passwords::default()) {
            Ok(keypair) => PrivateKey::Known(keypair.hotkey().clone()),
            Err(KeyFileError::NoPassword { .. }) => PrivateKey::Sealed,
            Err(error) => PrivateKey::Refused(words_of(&error)),
        },
        public: twin
            .exists()
            .then(|| keyfile::load_public(&twin).map_err(|error| words_of(&error))),
    }
}

/// Returns what finds out the address of a key without a password; it blocks.
fn own_hotkey(wallet: &WalletConfig) -> impl FnOnce() -> Result<Hotkey, String> + Send + use<> {
    let (uri, file) = (wallet.uri.clone(), wallet.hotkey_file());
    move || {
        if let Some(uri) = uri {
            return Keypair::from_uri(uri.reveal())
                .map(|keypair| keypair.hotkey().clone())
                .map_err(|error| words_of(&error));
        }
        keyfile::load_public(&keyfile::public_twin(&file))
            .or_else(|_| keyfile::load_public(&file))
            .map_err(|error| words_of(&error))
    }
}

/// Reads a local chain; none if there is none.
fn read_chain(path: &Path, netuid: u16, now_us: i64) -> Result<Option<(ChainFacts, Metagraph)>, LookError> {
    let look = match ChainLook::open(path) {
        Ok(look) => look,
        Err(LookError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(genesis) = look.genesis()? else {
        return Ok(None);
    };
    let passed = (now_us / 1000).saturating_sub(genesis.unix_millis).max(0);
    let block = passed
        .checked_div(genesis.block_millis)
        .unwrap_or(0)
        .unsigned_abs();
    let facts = ChainFacts {
        block,
        netuids: look.netuids()?,
    };
    Ok(Some((facts, look.metagraph(netuid, Block(block))?)))
}

/// Returns the address of a server as HTTP has it, without a path.
fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let scheme = match scheme {
        "ws" => "http",
        "wss" => "https",
        other => other,
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    format!("{scheme}://{host}/")
}

/// Returns an error with its causes, in one line.
fn words_of(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        next = cause.source();
    }
    words
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|_| "the look at it failed: a bug of horde".to_owned())
}

/// Returns the directories that belong to these roles.
pub(super) fn dirs(patients: &[Patient]) -> impl Iterator<Item = (&str, &PathBuf)> {
    patients
        .iter()
        .filter_map(|patient| Some((patient.name.as_str(), patient.dir.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_facilitator_is_asked_at_its_root_over_http() {
        for (url, expected) in [
            ("ws://127.0.0.1:9000/ws/v0/", "http://127.0.0.1:9000/"),
            ("wss://host/ws/v0/?a#b", "https://host/"),
            ("https://host", "https://host/"),
            ("host:80/x", "http://host:80/"),
        ] {
            assert_eq!(origin_of(url), expected);
        }
    }

    #[test]
    fn what_does_not_answer_is_unknown_by_name() {
        let found = unanswered(&["listen", "metrics"]);
        let found: Vec<_> = found
            .iter()
            .map(|judged| (judged.finding.check.as_str(), judged.finding.status))
            .collect();
        assert_eq!(found, [("listen", Status::Unknown), ("metrics", Status::Unknown)]);
    }
}
