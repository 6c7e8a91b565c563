//! `horde init`: writes a configuration, with a key and a place for data, and tells what comes next.

mod questions;
mod write;

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

pub use self::questions::InitRole;
use self::questions::{Answers, KeySource};
use self::write::{NewFile, backup_of, make_directory, restored, write_file};
use super::confirm::{ChangeArgs, Danger, Plan, PlanShown, may_ask};
use super::context::Context;
use super::contexts;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use super::key::{WalletArgs, own_address, wallet_error};
use crate::core::config::contexts::{Contexts, NamedContext};
use crate::core::config::{
    FacilitatorConfig, MinerConfig, Origin, Settings, ValidatorConfig, Value, WalletConfig, commented_text,
};
use crate::core::crypto::Keypair;
use crate::core::crypto::keyfile::NewHotkey;
use crate::core::model::Hotkey;

/// What this command promises.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "init",
    Prints::Either(of::<Done>, of::<PlanShown<'_>>),
    &[
        ExitCode::NotFound,
        ExitCode::Refused,
        ExitCode::Conflict,
        ExitCode::Pending,
    ],
)];

pub(super) const EXAMPLES: &str = "Examples:
  horde init                                   Ask everything
  horde init user --facilitator http://127.0.0.1:9000 --key-uri //Charlie
  horde init miner --dir /srv/miner --executors always_on.llm.a6000=2 --wallet mine --new-key
  horde init facilitator --allow-any-user --dry-run";

/// `horde init …`
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// Who is to be set up
    #[arg(value_enum)]
    role: Option<InitRole>,
    /// Sign with a development key such as //Alice; local network only
    #[arg(long, value_name = "URI", conflicts_with_all = ["wallet_path", "wallet", "hotkey", "new_key", "import_key"])]
    key_uri: Option<String>,
    #[command(flatten)]
    wallet: WalletArgs,
    /// Make the hotkey
    #[arg(long, conflicts_with = "import_key")]
    new_key: bool,
    /// Restore the hotkey from its twelve words in this file, - for standard input
    #[arg(long, value_name = "FILE")]
    import_key: Option<PathBuf>,
    /// Miner, facilitator: where to serve
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Miner: how executors are started: process, docker, swarm or command
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Miner: how many executors of which class to offer
    #[arg(long, value_name = "CLASS=N,…")]
    executors: Option<String>,
    #[expect(clippy::doc_markdown, reason = "help on a terminal, not Markdown")]
    /// Validator: the facilitator's endpoint, such as ws://127.0.0.1:9000/ws/v0/
    #[arg(long, value_name = "URL")]
    facilitator_url: Option<String>,
    /// Facilitator: hotkeys that may submit jobs
    #[arg(long, value_name = "HOTKEY,…", conflicts_with = "allow_any_user")]
    users: Option<String>,
    /// Facilitator: let every hotkey submit jobs
    #[arg(long)]
    allow_any_user: bool,
    /// User: the network: local, test or finney
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// User: the facilitator that jobs are submitted to
    #[arg(long, value_name = "URL")]
    facilitator: Option<String>,
    /// Keep this as a context of this name
    #[arg(long, value_name = "NAME")]
    save_context: Option<String>,
    /// Replace a configuration file that exists: what it says of other roles is kept, and so is a copy of it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What was set up.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    /// Who.
    role: &'static str,
    /// The configuration file.
    config: PathBuf,
    /// The copy of the one that was there before.
    backup: Option<PathBuf>,
    /// The directory for data; null for a user, who keeps none.
    directory: Option<PathBuf>,
    /// The address of the key; null for a facilitator, which has none.
    hotkey: Option<Hotkey>,
    /// The file of the key, if it was made now.
    key_file: Option<PathBuf>,
    /// The context that was added.
    context: Option<String>,
    /// What to type next.
    next: Vec<String>,
}

/// All that is to be done, checked.
struct Work {
    answers: Answers,
    settings: Settings,
    file: NewFile,
    directory: Option<PathBuf>,
    key: Option<(NewHotkey, PathBuf)>,
    hotkey: Option<Hotkey>,
    contexts: Option<Contexts>,
}

impl InitArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        if let Some(role) = self.role {
            // Better said before the first question.
            self.file(context, role)?;
        }
        let asks = may_ask(context, self.change.is_silent());
        let answers = self.answers(asks).await?;
        let work = self.work(context, answers).await?;
        let plan = plan(context, &work);
        if self.change.is_dry() && !context.wants_data() {
            context.bytes(work.file.text.as_bytes())?;
            context.line("")?;
        }
        if !self.change.allow(context, &work.settings, &plan).await? {
            return Ok(());
        }
        let done = carry_out(context, work)?;
        tell(context, &done)
    }

    /// Returns the file to write and what it replaces; refuses one that exists unless it may be replaced.
    fn file(&self, context: &Context, role: InitRole) -> Result<(PathBuf, Settings), CmdError> {
        let before = context.settings(role.scope(), Vec::new())?;
        let Some((file, exists)) = before.file() else {
            return Err(crate::core::config::ConfigError::NoDirectory.into());
        };
        if exists && !self.force {
            return Err(
                CmdError::new(ExitCode::Conflict, format!("{} exists", file.display()))
                    .hint("--force replaces it and keeps a copy; --dir DIRECTORY sets up another place"),
            );
        }
        // It is told, and must be found from elsewhere.
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        Ok((path, before))
    }

    /// Checks everything: the settings as the role would, the key, the context; changes nothing.
    async fn work(&self, context: &Context, answers: Answers) -> Result<Work, CmdError> {
        let role = answers.role;
        let (path, before) = self.file(context, role)?;
        let keys: Vec<_> = answers.settings.iter().map(|flag| flag.key).collect();
        let settings = context.settings(role.scope(), answers.settings.clone())?;
        check(role, &settings)?;
        let (key, hotkey) = key_of(context, &answers, &settings).await?;
        let names_wallet = matches!(
            answers.key,
            KeySource::Wallet | KeySource::New | KeySource::Words(_)
        );
        let mut values: Vec<(&str, Value)> = Vec::new();
        for row in settings.rows() {
            let is_of_file = matches!(before.origin(row.setting.key), Some(Origin::File(_)));
            // A development key would outrank the wallet that was chosen.
            let is_outdated = names_wallet && row.setting.key == "wallet.uri";
            if (is_of_file && !is_outdated) || keys.contains(&row.setting.key) {
                // Not of the row, which hides what is secret.
                values.extend(
                    settings
                        .optional(row.setting.key)?
                        .map(|value| (row.setting.key, value.clone())),
                );
            }
        }
        let head = format!(
            "Settings of horde for a {0}, written by `horde init {0}`.\n`horde config show` tells of every setting its \
             value and where that comes from.",
            role.word()
        );
        let text = commented_text(&head, &values, role.others());
        let directory = settings.dir()?.to_owned();
        let directory = (role != InitRole::User).then_some(directory);
        let contexts = match &answers.context {
            Some(name) => Some(Self::contexts_with(context, name, &values)?),
            None => None,
        };
        Ok(Work {
            file: NewFile {
                backup: backup_of(&path)?,
                path,
                text,
            },
            answers,
            settings,
            directory,
            key,
            hotkey,
            contexts,
        })
    }

    /// Returns the contexts with a new one of these settings.
    fn contexts_with(
        context: &Context,
        name: &str,
        values: &[(&'static str, Value)],
    ) -> Result<Contexts, CmdError> {
        let mut contexts = Contexts::read(&context.environment)?;
        contexts
            .check_new(name)
            .map_err(|error| contexts::refused(&error))?;
        let mut named = NamedContext::empty(name);
        let is_shared = |key: &str| {
            ["client.", "wallet.", "chain."]
                .iter()
                .any(|section| key.starts_with(section))
        };
        for (key, value) in values.iter().filter(|(key, _)| is_shared(key)) {
            named
                .set(key, &value.to_string(), &context.environment)
                .map_err(|error| contexts::refused(&error))?;
        }
        contexts.put(named);
        Ok(contexts)
    }
}

/// Checks the settings as the role does when it starts.
fn check(role: InitRole, settings: &Settings) -> Result<(), CmdError> {
    match role {
        InitRole::Miner => MinerConfig::from_settings(settings).map(drop)?,
        InitRole::Validator => ValidatorConfig::from_settings(settings).map(drop)?,
        InitRole::Facilitator => FacilitatorConfig::from_settings(settings).map(drop)?,
        InitRole::User => WalletConfig::from_settings(settings).map(drop)?,
    }
    Ok(())
}

/// Returns the key that is to be written, if it is new, and its address.
async fn key_of(
    context: &Context,
    answers: &Answers,
    settings: &Settings,
) -> Result<(Option<(NewHotkey, PathBuf)>, Option<Hotkey>), CmdError> {
    let mut wallet = WalletConfig::from_settings(settings)?;
    if answers.key != KeySource::Development {
        wallet.uri = None;
    }
    let tried = "could not make a hotkey";
    let fresh = match &answers.key {
        KeySource::Nowhere => return Ok((None, None)),
        KeySource::Development => {
            let uri = settings.text("wallet.uri")?;
            let keypair =
                Keypair::from_uri(uri).or_fail(ExitCode::Usage, format!("{uri:?} is no development key"))?;
            return Ok((None, Some(keypair.hotkey().clone())));
        }
        KeySource::Wallet => {
            let address = own_address(context, &wallet).await;
            let address =
                address.map_err(|error| error.hint("--new-key makes it, --import-key FILE restores it"))?;
            return Ok((None, Some(address)));
        }
        KeySource::New => NewHotkey::generate().or_fail(ExitCode::Failed, tried)?,
        KeySource::Words(file) => restored(file)?,
    };
    let path = wallet.hotkey_file();
    fresh
        .check_free(&path)
        .map_err(|error| wallet_error(tried, &error))?;
    let address = fresh.keypair.hotkey().clone();
    Ok((Some((fresh, path)), Some(address)))
}

fn plan(context: &Context, work: &Work) -> Plan {
    let there = |is_there: bool| is_there.then(|| "there".to_owned());
    let text = if context.wants_data() {
        work.file.text.clone()
    } else {
        "written".to_owned()
    };
    let before = there(work.file.backup.is_some());
    let path = |path: &PathBuf| path.display().to_string();
    let mut plan = Plan::new("set up", "a", work.answers.role.word())
        .of_this_machine()
        .change(path(&work.file.path), before, Some(text));
    if let Some(backup) = &work.file.backup {
        plan = plan
            .change(path(backup), None, Some("a copy of what is there".to_owned()))
            .danger(
                Danger::Ask,
                "the configuration file is replaced; a copy of it is kept",
            );
    }
    if let Some(directory) = &work.directory {
        plan = plan.change(path(directory), there(directory.exists()), there(true));
    }
    if let Some((_, file)) = &work.key {
        plan = plan.change(path(file), None, work.hotkey.as_ref().map(ToString::to_string));
    }
    if let Some(name) = &work.answers.context {
        plan = plan.change(format!("context {name}"), None, there(true));
    }
    plan
}

/// Does it: what nobody can restore first, and the file that makes it count last.
fn carry_out(context: &Context, work: Work) -> Result<Done, CmdError> {
    let role = work.answers.role;
    if let Some(directory) = &work.directory {
        make_directory(directory)?;
    }
    let mut key_file = None;
    if let Some((fresh, path)) = work.key {
        fresh
            .write(&path)
            .map_err(|error| wallet_error("could not write the key", &error))?;
        key_file = Some(path);
    }
    write_file(&work.file)?;
    if let Some(contexts) = &work.contexts {
        contexts
            .write()
            .or_fail(ExitCode::Failed, "could not write the contexts")?;
    }
    // What was written, read as the role will.
    check(role, &context.settings(role.scope(), Vec::new())?)?;
    Ok(Done {
        role: role.word(),
        config: work.file.path,
        backup: work.file.backup,
        directory: work.directory,
        hotkey: work.hotkey,
        key_file,
        context: work.answers.context,
        next: next(context, role),
    })
}

/// Returns the next three commands, as they must be typed here.
fn next(context: &Context, role: InitRole) -> Vec<String> {
    let commands: [&str; 3] = match role {
        InitRole::Miner => ["doctor miner", "miner run", "miner check"],
        InitRole::Validator => ["doctor validator", "validator run", "validator blacklist"],
        InitRole::Facilitator => ["doctor facilitator", "facilitator run", "facilitator user list"],
        InitRole::User => ["key show", "job list", "help job submit"],
    };
    let place = context.place_flags();
    let line = |command: &&str| {
        let place = if command.starts_with("help") {
            ""
        } else {
            place.as_str()
        };
        format!("horde {command}{place}")
    };
    commands.iter().map(line).collect()
}

fn tell(context: &Context, done: &Done) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(done);
    }
    let path = |path: &PathBuf| path.display().to_string();
    let lines = [
        ("wrote", Some(path(&done.config))),
        ("copy", done.backup.as_ref().map(path)),
        ("data", done.directory.as_ref().map(path)),
        ("key", done.hotkey.as_ref().map(ToString::to_string)),
        ("key file", done.key_file.as_ref().map(path)),
        ("context", done.context.clone()),
    ];
    for (name, text) in lines {
        if let Some(text) = text {
            context.line(format_args!("{name:<9} {text}"))?;
        }
    }
    context.line("next")?;
    done.next
        .iter()
        .try_for_each(|command| context.line(format_args!("  {command}")))?;
    if done.key_file.is_some() {
        context.say("keep a copy of the key file: the twelve words in it (secretPhrase) are the only way to restore it");
    }
    Ok(())
}
