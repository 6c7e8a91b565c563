//! What changes contexts: use, add, set, remove, rename.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::refused;
use super::row::ContextRow;
use crate::cmd::confirm::{ChangeArgs, Danger, Plan};
use crate::cmd::context::{Context, quoted};
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::core::config::contexts::{ContextError, Contexts, NamedContext};
use crate::core::config::{Environment, Scope, Settings, Sources, load};
use crate::core::devnet::plan::USER;

pub(super) const USE_EXAMPLES: &str = "Examples:
  horde context use finney
  horde context use --none";

pub(super) const ADD_EXAMPLES: &str = "Examples:
  horde context add dev --dir ~/horde-dev --use      What `horde up --dir ~/horde-dev` runs
  horde context add office --network finney --facilitator https://facilitator.computehorde.io --wallet office
  horde context add lab --set chain.netuid=7 --set log.level=debug";

pub(super) const SET_EXAMPLES: &str = "Examples:
  horde context set dev client.facilitator_url=http://127.0.0.1:9001
  horde context set dev dir=~/other --unset wallet.uri";

/// `horde context use …`
#[derive(Args, Debug)]
pub struct UseArgs {
    /// The context
    #[arg(required_unless_present = "none")]
    name: Option<String>,
    /// Work on no context: only the configuration file counts
    #[arg(long, conflicts_with = "name")]
    none: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde context add …`
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Its name: letters, digits, - and _
    name: String,
    /// The network: local, test or finney
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// The facilitator that jobs are submitted to
    #[arg(long, value_name = "URL")]
    facilitator: Option<String>,
    /// Sign with a development key such as //Charlie
    #[arg(long, value_name = "URI", conflicts_with_all = ["wallet", "hotkey"])]
    key_uri: Option<String>,
    /// Use the wallet of this name
    #[arg(long, value_name = "NAME")]
    wallet: Option<String>,
    /// Use the hotkey of this name
    #[arg(long, value_name = "NAME")]
    hotkey: Option<String>,
    /// Set any other setting, or `dir`
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Work on it from now on
    #[arg(long = "use")]
    turn: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde context set …`
#[derive(Args, Debug)]
pub struct SetArgs {
    /// The context
    name: String,
    /// A setting and its value; `dir` is the directory with the data of roles
    #[arg(value_name = "KEY=VALUE", value_parser = pair, required_unless_present = "unset")]
    set: Vec<(String, String)>,
    /// Leave this setting to what else sets it
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde context remove …`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The context
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `horde context rename …`
#[derive(Args, Debug)]
pub struct RenameArgs {
    /// The context
    old: String,
    /// Its new name
    new: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What `horde context use` and `remove` leave.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct InUse<'a> {
    /// The context in use; null if there is none.
    current: Option<&'a str>,
    /// Whether it is one of the main network.
    mainnet: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl UseArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        settings: &Settings,
        mut contexts: Contexts,
    ) -> Result<(), CmdError> {
        let before = contexts.current().map(str::to_owned);
        let plan = plan("use", self.name.as_deref().unwrap_or("(none)"));
        let plan = plan.change("current", before.clone(), self.name.clone());
        let plan = match &before {
            Some(name) => plan.undo(format!("horde context use {name}")),
            None => plan.undo("horde context use --none"),
        };
        contexts
            .turn_to(self.name.as_deref())
            .map_err(|error| refused(&error))?;
        if !self.change.allow(context, settings, &plan).await? {
            return Ok(());
        }
        write(&contexts)?;
        tell_current(context, &contexts)?;
        let shadow = settings.context().filter(|name| contexts.current() != Some(name));
        if let Some(name) = shadow.filter(|_| settings.context() != before.as_deref()) {
            context.say(format_args!(
                "now and here --context or HORDE_CONTEXT names {name}, which counts"
            ));
        }
        plan.tell_undo(context);
        Ok(())
    }
}

/// Tells which context is in use, and loudly if things are real there.
fn tell_current(context: &Context, contexts: &Contexts) -> Result<(), CmdError> {
    let current = contexts.current();
    let mainnet = current
        .and_then(|name| contexts.find(name))
        .is_some_and(|named| named.is_mainnet());
    if context.wants_data() {
        return context.print_data(&InUse { current, mainnet });
    }
    match current {
        Some(name) if mainnet => context.say(format_args!(
            "commands work on {name} from now on: the MAINNET, where jobs, money and blame are real"
        )),
        Some(name) => context.say(format_args!("commands work on {name} from now on")),
        None => context.say("no context is in use"),
    }
    Ok(())
}

impl AddArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        settings: &Settings,
        mut contexts: Contexts,
    ) -> Result<(), CmdError> {
        contexts.check_new(&self.name).map_err(|error| refused(&error))?;
        let mut named = NamedContext::empty(&self.name);
        let dir = context.dir().cloned();
        let dir = dir.or_else(|| {
            self.set
                .iter()
                .find(|(key, _)| key == "dir")
                .map(|(_, dir)| dir.into())
        });
        if let Some(dir) = &dir {
            self.learn(context, &mut named, &absolute(context, dir)?)?;
        }
        let own = [
            ("chain.network", &self.network),
            ("client.facilitator_url", &self.facilitator),
            ("wallet.uri", &self.key_uri),
            ("wallet.name", &self.wallet),
            ("wallet.hotkey", &self.hotkey),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        let pairs: Vec<_> = own.chain(self.set.iter().cloned()).collect();
        apply(context, &mut named, &pairs, &[])?;
        let mut plan = differences(plan("add", &self.name), &NamedContext::empty(&self.name), &named)
            .change("name", None, Some(self.name.clone()))
            .undo(format!("horde context remove {}", self.name));
        contexts.put(named.clone());
        if self.turn {
            let before = contexts.current().map(str::to_owned);
            plan = plan.change("current", before, Some(self.name.clone()));
            contexts
                .turn_to(Some(&self.name))
                .map_err(|error| refused(&error))?;
        }
        if !self.change.allow(context, settings, &plan).await? {
            return Ok(());
        }
        write(&contexts)?;
        tell(context, settings, &contexts, &named, "added")
    }

    /// Takes from a directory of `horde up` where its facilitator serves, and a key whose jobs it takes.
    fn learn(&self, context: &Context, named: &mut NamedContext, dir: &Path) -> Result<(), CmdError> {
        named.dir = Some(dir.to_owned());
        let Some(facilitator) = role_of(dir, Scope::Facilitator)? else {
            context.say(format_args!(
                "{} holds no configuration of a facilitator: its address is not known",
                dir.display()
            ));
            return Ok(());
        };
        let listen: SocketAddr = facilitator.parsed("facilitator.listen")?;
        let ip = if listen.ip().is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            listen.ip()
        };
        let scheme = match facilitator.optional("facilitator.tls_certificate")? {
            Some(_) => "https",
            None => "http",
        };
        let url = format!("{scheme}://{}", SocketAddr::new(ip, listen.port()));
        let mut pairs = vec![
            ("chain.network".to_owned(), facilitator.network()?.to_owned()),
            ("client.facilitator_url".to_owned(), url),
        ];
        let validator = role_of(dir, Scope::Validator)?;
        let is_development = match &validator {
            Some(validator) => validator.optional("wallet.uri")?.is_some(),
            None => false,
        };
        if is_development && self.wallet.is_none() && self.hotkey.is_none() {
            pairs.push(("wallet.uri".to_owned(), USER.uri.to_owned()));
        }
        apply(context, named, &pairs, &[])
    }
}

/// Loads what a role's own file in a network's directory says, and nothing else; none if there is no such file.
fn role_of(dir: &Path, scope: Scope) -> Result<Option<Settings>, CmdError> {
    let role = dir.join(scope.role().unwrap_or_default());
    if !role.join("horde.toml").exists() {
        return Ok(None);
    }
    let sources = Sources {
        scope,
        environment: &Environment::default(),
        dir: Some(role),
        config: None,
        context: None,
        flags: Vec::new(),
    };
    Ok(Some(load(&sources)?))
}

impl SetArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        settings: &Settings,
        mut contexts: Contexts,
    ) -> Result<(), CmdError> {
        let before = contexts.changeable(&self.name).map_err(|error| refused(&error))?;
        let mut named = before.clone();
        apply(context, &mut named, &self.set, &self.unset)?;
        let plan = differences(plan("change", &self.name), &before, &named);
        contexts.put(named.clone());
        if !self.change.allow(context, settings, &plan).await? {
            return Ok(());
        }
        write(&contexts)?;
        tell(context, settings, &contexts, &named, "changed")
    }
}

impl RemoveArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        settings: &Settings,
        mut contexts: Contexts,
    ) -> Result<(), CmdError> {
        let named = contexts.changeable(&self.name).map_err(|error| refused(&error))?;
        let mut plan = plan("remove", &self.name);
        let was_current = contexts.current() == Some(self.name.as_str());
        if was_current {
            plan = plan.change("current", Some(self.name.clone()), None);
        }
        let plan = differences(plan, &named, &NamedContext::empty(&self.name))
            .change("name", Some(self.name.clone()), None)
            .danger(
                Danger::Ask,
                "what it sets is forgotten; the network and its data stay as they are",
            )
            .undo(again(&named, was_current));
        if !self.change.allow(context, settings, &plan).await? {
            return Ok(());
        }
        contexts.take_out(&self.name);
        write(&contexts)?;
        if context.wants_data() {
            let current = contexts.current();
            let current_named = current.and_then(|name| contexts.find(name));
            context.print_data(&InUse {
                current,
                mainnet: current_named.is_some_and(|named| named.is_mainnet()),
            })?;
        } else {
            context.say(format_args!("the context {} is removed", self.name));
        }
        plan.tell_undo(context);
        Ok(())
    }
}

impl RenameArgs {
    pub(super) async fn run(
        self,
        context: &Context,
        settings: &Settings,
        mut contexts: Contexts,
    ) -> Result<(), CmdError> {
        let plan = plan("rename", &self.old)
            .change("name", Some(self.old.clone()), Some(self.new.clone()))
            .undo(format!("horde context rename {} {}", self.new, self.old));
        contexts
            .rename(&self.old, &self.new)
            .map_err(|error| refused(&error))?;
        let named = contexts.known(&self.new).map_err(|error| refused(&error))?;
        if !self.change.allow(context, settings, &plan).await? {
            return Ok(());
        }
        write(&contexts)?;
        tell(context, settings, &contexts, &named, "renamed")?;
        plan.tell_undo(context);
        Ok(())
    }
}

fn plan(action: &'static str, name: &str) -> Plan {
    Plan::new(action, "context", name).of_this_machine()
}

/// Adds all that differs between two states of a context.
fn differences(mut plan: Plan, before: &NamedContext, after: &NamedContext) -> Plan {
    let dir = |named: &NamedContext| named.dir.as_ref().map(|dir| dir.display().to_string());
    plan = plan.change("dir", dir(before), dir(after));
    let mut keys: Vec<_> = before.settings.keys().chain(after.settings.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        plan = plan.change(*key, before.text(key), after.text(key));
    }
    plan
}

/// Sets and unsets; all problems are told at once.
fn apply(
    context: &Context,
    named: &mut NamedContext,
    set: &[(String, String)],
    unset: &[String],
) -> Result<(), CmdError> {
    let mut problems = Vec::new();
    for (key, value) in set {
        if key == "dir" {
            named.dir = Some(absolute(context, Path::new(value))?);
        } else if let Err(error) = named.set(key, value, &context.environment) {
            problems.push(error);
        }
    }
    for key in unset {
        if key == "dir" {
            named.dir = None;
        } else if named.settings.remove(key.as_str()).is_none() {
            problems.push(ContextError::UnknownKey {
                key: key.clone(),
                near: None,
            });
        }
    }
    let mut problems = problems.iter();
    let Some(first) = problems.next() else {
        return Ok(());
    };
    let first = refused(first);
    if problems.len() == 0 {
        return Err(first);
    }
    let words = format!("{} of the settings are wrong", problems.len() + 1);
    let mut failed = CmdError::new(ExitCode::Usage, words);
    for error in std::iter::once(first).chain(problems.map(refused)) {
        failed.causes.push(error.message);
        failed.hints.extend(error.hints);
    }
    Err(failed)
}

fn absolute(context: &Context, dir: &Path) -> Result<PathBuf, CmdError> {
    let dir = context.environment.expand(&dir.to_string_lossy());
    std::path::absolute(&dir).or_fail(ExitCode::Usage, format!("{:?} is no path", dir.display()))
}

/// Returns the command that adds a context like this one.
fn again(named: &NamedContext, is_current: bool) -> String {
    let dir = named.dir.iter().map(|dir| format!("dir={}", dir.display()));
    let pairs = named.settings.iter().map(|(key, value)| format!("{key}={value}"));
    let mut command = format!("horde context add {}", named.name);
    for pair in dir.chain(pairs) {
        command.push_str(" --set ");
        command.push_str(&quoted(&pair));
    }
    if is_current {
        command.push_str(" --use");
    }
    command
}

fn write(contexts: &Contexts) -> Result<(), CmdError> {
    contexts.write().or_fail(
        ExitCode::Failed,
        format!("could not write {}", contexts.file().display()),
    )
}

/// Tells what became of a context.
fn tell(
    context: &Context,
    settings: &Settings,
    contexts: &Contexts,
    named: &NamedContext,
    done: &str,
) -> Result<(), CmdError> {
    let in_force = contexts.current().or(settings.context());
    if context.wants_data() {
        return context.print_data(&ContextRow::new(named, in_force));
    }
    let mark = if named.is_mainnet() {
        ", one of the MAINNET,"
    } else {
        ""
    };
    context.say(format_args!("the context {}{mark} is {done}", named.name));
    if in_force != Some(named.name.as_str()) {
        context.say(format_args!(
            "to work on it: horde context use {0}, or --context {0} for one command",
            named.name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_a_command_that_a_shell_reads_as_it_was_meant() {
        let mut named = NamedContext::empty("dev");
        named.dir = Some("/my data".into());
        let environment = Environment::default();
        named.set("wallet.name", "ann's", &environment).unwrap();
        named.set("chain.netuid", "7", &environment).unwrap();
        assert_eq!(
            again(&named, true),
            r"horde context add dev --set 'dir=/my data' --set chain.netuid=7 --set 'wallet.name=ann'\''s' --use"
        );
    }
}
