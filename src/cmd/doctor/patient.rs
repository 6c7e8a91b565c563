//! Who is looked at: the roles that keep data here or are configured here, or a client where there is none.

use std::path::{Path, PathBuf};

use super::super::context::Context;
use crate::core::config::{
    Backend, ChainConfig, ConfigError, ExecutorConfig, FacilitatorConfig, MinerConfig, Origin, Scope,
    Settings, ValidatorConfig, WalletConfig,
};
use crate::core::doctor::catalogue::Who;
use crate::core::store::places::{self, Role};

/// Directories below the data directory whose configuration is looked for.
const DIRECTORIES_MAX: usize = 1000;

/// One role to look at.
#[derive(Debug)]
pub(super) struct Patient {
    pub(super) who: Who,
    /// The name of its directory, or the role's word.
    pub(super) name: String,
    /// Its data directory; none for those that keep no data.
    pub(super) dir: Option<PathBuf>,
    /// What it is set to.
    pub(super) config: Result<Config, ConfigError>,
}

/// What a role is set to.
#[derive(Debug)]
pub(super) enum Config {
    Client(WalletConfig, Settings),
    Facilitator(Box<FacilitatorConfig>),
    Validator(Box<ValidatorConfig>),
    Miner(Box<MinerConfig>, Settings),
    Executor(Settings),
}

impl Config {
    fn of(who: Who, settings: Settings) -> Result<Self, ConfigError> {
        Ok(match who {
            Who::Facilitator => Self::Facilitator(Box::new(FacilitatorConfig::from_settings(&settings)?)),
            Who::Validator => Self::Validator(Box::new(ValidatorConfig::from_settings(&settings)?)),
            Who::Miner => Self::Miner(Box::new(MinerConfig::from_settings(&settings)?), settings),
            Who::Executor => {
                // What a miner gives each of its executors need not be set.
                match ExecutorConfig::from_settings(&settings) {
                    Ok(_) | Err(ConfigError::Missing { .. }) => Self::Executor(settings),
                    Err(error) => return Err(error),
                }
            }
            Who::Client | Who::Machine => Self::Client(WalletConfig::from_settings(&settings)?, settings),
        })
    }

    /// Returns whose key it signs with; none for those without a key.
    pub(super) fn wallet(&self) -> Option<&WalletConfig> {
        match self {
            Self::Client(wallet, _) => Some(wallet),
            Self::Validator(config) => Some(&config.wallet),
            Self::Miner(config, _) if config.local_validator.is_none() => Some(&config.wallet),
            Self::Miner(..) | Self::Facilitator(_) | Self::Executor(_) => None,
        }
    }

    /// Returns its chain.
    pub(super) fn chain(&self) -> Option<&ChainConfig> {
        match self {
            Self::Facilitator(config) => Some(&config.chain),
            Self::Validator(config) => Some(&config.chain),
            Self::Miner(config, _) => Some(&config.chain),
            Self::Client(..) | Self::Executor(_) => None,
        }
    }
}

const fn scope(who: Who) -> Scope {
    match who {
        Who::Facilitator => Scope::Facilitator,
        Who::Validator => Scope::Validator,
        Who::Miner => Scope::Miner,
        Who::Executor => Scope::Executor,
        Who::Client | Who::Machine => Scope::Tool,
    }
}

/// Returns the role that keeps a database.
pub(super) const fn keeper(who: Who) -> Option<Role> {
    match who {
        Who::Facilitator => Some(Role::Facilitator),
        Who::Validator => Some(Role::Validator),
        Who::Miner => Some(Role::Miner),
        Who::Executor | Who::Client | Who::Machine => None,
    }
}

const fn who(role: Role) -> Who {
    match role {
        Role::Facilitator => Who::Facilitator,
        Role::Validator => Who::Validator,
        Role::Miner => Who::Miner,
    }
}

/// Returns the directory that holds the data of the roles: `--dir`, that of the context, or what all roles of this user
/// share.
pub(super) fn root(context: &Context) -> Option<PathBuf> {
    match context.dir() {
        Some(dir) => Some(std::path::absolute(dir).unwrap_or_else(|_| dir.clone())),
        None => match context.settings_in(Scope::Tool, None) {
            Ok(settings) => settings.dir().ok().map(Path::to_owned),
            // The configuration is told to be wrong; what is here is looked for all the same.
            Err(_) => context.environment.data_home().map(|home| home.join("horde")),
        },
    }
}

/// Finds those to look at: the wanted ones, or all that are here.
pub(super) fn find(context: &Context, wanted: &[Who]) -> Vec<Patient> {
    let mut here = Here {
        context,
        root: root(context),
        found: Vec::new(),
    };
    here.add_keepers();
    here.add_configured();
    let mut patients = here.found;
    if wanted.is_empty() {
        if patients.is_empty() {
            patients.push(alone(context, Who::Client));
        }
    } else {
        patients.retain(|patient| wanted.contains(&patient.who));
        for who in wanted {
            if *who != Who::Machine && !patients.iter().any(|patient| patient.who == *who) {
                patients.push(alone(context, *who));
            }
        }
    }
    patients.extend(executor_of(&patients));
    patients.sort_by(|a, b| (a.who, &a.name).cmp(&(b.who, &b.name)));
    patients
}

/// Returns a role that nothing here tells of, as it would be if it were started now.
fn alone(context: &Context, who: Who) -> Patient {
    let settings = context.settings_in(scope(who), context.dir().cloned());
    let dir = keeper(who).and_then(|role| match &settings {
        Ok(settings) => settings.dir().ok().map(Path::to_owned),
        Err(_) => match context.dir() {
            Some(_) => root(context),
            None => root(context).map(|root| root.join(role.word())),
        },
    });
    Patient {
        who,
        name: who.word().to_owned(),
        dir,
        config: settings.and_then(|settings| Config::of(who, settings)),
    }
}

/// Returns what runs the jobs of the first miner whose executors run on this machine.
fn executor_of(patients: &[Patient]) -> Option<Patient> {
    if patients.iter().any(|patient| patient.who == Who::Executor) {
        return None;
    }
    patients.iter().find_map(|patient| match &patient.config {
        Ok(Config::Miner(config, settings)) => match config.backend {
            Backend::Process | Backend::Docker => Some(Patient {
                who: Who::Executor,
                name: Who::Executor.word().to_owned(),
                dir: None,
                config: Ok(Config::Executor(settings.clone())),
            }),
            Backend::Swarm | Backend::Command => None,
        },
        _ => None,
    })
}

/// What is found under the data directory.
struct Here<'a> {
    context: &'a Context,
    root: Option<PathBuf>,
    found: Vec<Patient>,
}

impl Here<'_> {
    /// Adds the roles that keep a database.
    fn add_keepers(&mut self) {
        let Some(root) = &self.root else { return };
        for place in places::find(root) {
            let settings = self.settings(who(place.role), &place.dir);
            self.add(who(place.role), place.name, &place.dir, settings);
        }
    }

    /// Adds the roles that a configuration file has a section of, and that keep no data yet.
    fn add_configured(&mut self) {
        let Some(root) = self.root.clone() else { return };
        let folders = std::fs::read_dir(&root).into_iter().flatten().flatten();
        let folders = folders.take(DIRECTORIES_MAX).map(|entry| entry.path());
        let mut below: Vec<PathBuf> = folders.filter(|path| path.join("horde.toml").is_file()).collect();
        below.sort();
        for who in self.sections(self.context.dir().cloned()) {
            let dir = match self.context.dir() {
                Some(_) => root.clone(),
                None => root.join(who.word()),
            };
            let settings = self.settings(who, &dir);
            self.add(who, who.word().to_owned(), &dir, settings);
        }
        for dir in below {
            let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            for who in self.sections(Some(dir.clone())) {
                let settings = self.settings(who, &dir);
                self.add(who, name.clone().unwrap_or_default(), &dir, settings);
            }
        }
    }

    /// Returns the roles whose settings the configuration file of a directory names.
    fn sections(&self, dir: Option<PathBuf>) -> Vec<Who> {
        let Ok(settings) = self.context.settings_in(Scope::Tool, dir) else {
            return Vec::new();
        };
        let is_named = |who: &Who| {
            settings.rows().any(|row| {
                let section = row.setting.key.split_once('.').map(|(section, _)| section);
                section == Some(who.word()) && matches!(row.origin, Some(Origin::File(_)))
            })
        };
        let roles = [Who::Facilitator, Who::Validator, Who::Miner];
        roles.into_iter().filter(is_named).collect()
    }

    /// Returns the settings that a role with this directory has.
    fn settings(&self, who: Who, dir: &Path) -> Result<Settings, ConfigError> {
        let usual = self.root.as_ref().map(|root| root.join(who.word()));
        let is_usual = self.context.dir().is_none() && usual.as_deref() == Some(dir);
        let dir = (!is_usual).then(|| dir.to_owned());
        self.context.settings_in(scope(who), dir)
    }

    fn add(&mut self, who: Who, name: String, dir: &Path, settings: Result<Settings, ConfigError>) {
        let is_known = |patient: &Patient| patient.who == who && patient.dir.as_deref() == Some(dir);
        if !self.found.iter().any(is_known) {
            self.found.push(Patient {
                who,
                name,
                dir: Some(dir.to_owned()),
                config: settings.and_then(|settings| Config::of(who, settings)),
            });
        }
    }
}
