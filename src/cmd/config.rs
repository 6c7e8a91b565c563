//! `horde config`: show every setting with its origin, check them, tell where the file lies.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::CmdError;
use crate::core::config::{
    ChainConfig, ExecutorConfig, FacilitatorConfig, MinerConfig, Row, Scope, Settings, ValidatorConfig,
    Value, WalletConfig,
};

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("config show", Prints::Map("key", of::<ShownSetting>), &[]),
    Promise::new("config check", Prints::One(of::<Checked>), &[]),
    Promise::new("config path", Prints::One(of::<ShownPath<'_>>), &[]),
];

/// `horde config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every setting, its value and where the value comes from
    Show(RoleArgs),
    /// Check the configuration, of one role or of all
    Check(RoleArgs),
    /// Print the path of the configuration file
    Path(RoleArgs),
}

/// Whose configuration.
#[derive(Args, Debug)]
pub struct RoleArgs {
    /// As this role sees it
    #[arg(value_enum)]
    role: Option<Role>,
}

/// A role, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Facilitator,
    Validator,
    Miner,
    Executor,
}

impl RoleArgs {
    fn scope(&self) -> Scope {
        match self.role {
            Some(Role::Facilitator) => Scope::Facilitator,
            Some(Role::Validator) => Scope::Validator,
            Some(Role::Miner) => Scope::Miner,
            Some(Role::Executor) => Scope::Executor,
            None => Scope::Tool,
        }
    }

    fn settings(&self, context: &Context) -> Result<Settings, CmdError> {
        context.settings(self.scope(), Vec::new())
    }
}

impl ConfigCommand {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "all commands have one shape")]
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::Show(args) => show(context, &args),
            Self::Check(args) => check(context, &args),
            Self::Path(args) => path(context, &args),
        }
    }
}

/// Rows that concern the scope: all for a tool, else those of the role and those that all roles share.
fn concerns(row: &Row, scope: Scope) -> bool {
    let section = row.setting.key.split_once('.').map_or("", |(section, _)| section);
    let is_role = ["facilitator", "validator", "miner", "executor", "client"].contains(&section);
    scope.role().is_none_or(|role| !is_role || section == role)
}

fn show(context: &Context, args: &RoleArgs) -> Result<(), CmdError> {
    let settings = args.settings(context)?;
    let rows: Vec<_> = settings
        .rows()
        .filter(|row| concerns(row, args.scope()))
        .collect();
    if context.wants_data() {
        let rows: IndexMap<&str, ShownSetting> = rows
            .iter()
            .map(|row| (row.setting.key, ShownSetting::of(row)))
            .collect();
        return context.print_data(&rows);
    }
    let shown = |row: &Row| {
        row.value
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let key_width = rows.iter().map(|row| row.setting.key.len()).max().unwrap_or(0);
    let value_width = rows
        .iter()
        .map(|row| shown(row).chars().count())
        .max()
        .unwrap_or(0);
    for row in &rows {
        let origin = row
            .origin
            .as_ref()
            .map_or_else(|| "unset".to_owned(), ToString::to_string);
        context.line(format_args!(
            "{:key_width$}  {:value_width$}  {origin}",
            row.setting.key,
            shown(row)
        ))?;
    }
    Ok(())
}

/// A setting, its value, and where the value comes from.
#[derive(Debug, Serialize, JsonSchema)]
struct ShownSetting {
    /// The value in its own type; null if it is not set, a text of stars if it is secret.
    value: Json,
    /// Where the value comes from; null if it is not set.
    origin: Option<String>,
    /// The variable that sets it.
    environment: String,
    /// What it means.
    doc: &'static str,
}

impl ShownSetting {
    fn of(row: &Row) -> Self {
        Self {
            value: value_json(row),
            origin: row.origin.as_ref().map(ToString::to_string),
            environment: row.setting.environment_name(),
            doc: row.setting.doc,
        }
    }
}

/// Whether the configuration is sound.
#[derive(Debug, Serialize, JsonSchema)]
struct Checked {
    /// Always true: otherwise the command fails.
    ok: bool,
}

/// Where the configuration file lies.
#[derive(Debug, Serialize, JsonSchema)]
struct ShownPath<'a> {
    /// Its path.
    path: &'a Path,
    /// Whether it is there.
    exists: bool,
}

fn value_json(row: &Row) -> Json {
    match &row.value {
        None => Json::Null,
        Some(Value::Integer(number)) => json!(number),
        Some(Value::Seconds(seconds)) => json!(seconds),
        Some(Value::Bool(claim)) => json!(claim),
        Some(Value::List(items)) => json!(items),
        Some(Value::Networks(networks)) => {
            json!(networks.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        Some(Value::Executors(counts)) => Json::Object(
            counts
                .iter()
                .map(|(class, count)| (class.clone(), json!(count)))
                .collect(),
        ),
        Some(Value::WordPerClass(words)) => Json::Object(
            words
                .iter()
                .map(|(class, word)| (class.clone(), json!(word)))
                .collect(),
        ),
        Some(Value::SharePerClass(shares)) => Json::Object(
            shares
                .iter()
                .map(|(class, share)| (class.clone(), json!(share)))
                .collect(),
        ),
        Some(Value::NumberPerClass(numbers)) => Json::Object(
            numbers
                .iter()
                .map(|(class, number)| (class.clone(), json!(number)))
                .collect(),
        ),
        Some(other @ (Value::Text(_) | Value::Path(_))) => json!(other.to_string()),
    }
}

fn check(context: &Context, args: &RoleArgs) -> Result<(), CmdError> {
    let settings = args.settings(context)?;
    match args.scope() {
        Scope::Facilitator => FacilitatorConfig::from_settings(&settings).map(drop)?,
        Scope::Validator => ValidatorConfig::from_settings(&settings).map(drop)?,
        Scope::Miner => MinerConfig::from_settings(&settings).map(drop)?,
        Scope::Executor => ExecutorConfig::from_settings(&settings).map(drop)?,
        Scope::Tool => {
            WalletConfig::from_settings(&settings)?;
            // Roles are for the local chain; a user of another network needs none of theirs.
            if settings.network()? != "local" {
                return sound(context);
            }
            ChainConfig::from_settings(&settings)?;
            FacilitatorConfig::from_settings(&settings)?;
            ValidatorConfig::from_settings(&settings)?;
            MinerConfig::from_settings(&settings)?;
        }
    }
    sound(context)
}

fn sound(context: &Context) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(&Checked { ok: true });
    }
    context.line("the configuration is sound")
}

fn path(context: &Context, args: &RoleArgs) -> Result<(), CmdError> {
    let settings = args.settings(context)?;
    let Some((path, exists)) = settings.file() else {
        return Err(crate::core::config::ConfigError::NoDirectory.into());
    };
    if context.wants_data() {
        return context.print_data(&ShownPath { path, exists });
    }
    context.line(path.display())
}
