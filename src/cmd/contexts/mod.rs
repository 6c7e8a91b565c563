//! `horde context`: named networks and servers, and which of them commands work on.

mod change;
mod row;

use clap::{Args, Subcommand};

use self::change::{AddArgs, InUse, RemoveArgs, RenameArgs, SetArgs, UseArgs};
use self::row::{ContextRow, place_of};
use super::confirm::PlanShown;
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode};
use super::table::{NOTHING, Table, printable};
use crate::core::config::contexts::{ContextError, Contexts};
use crate::core::config::{Scope, Settings};

const ABOUT: &str = "A context names a network and a server: the facilitator that jobs go to, the key that signs, the \
directory with the data of roles, or any other setting but secrets. What it sets counts before the configuration file and \
after HORDE_* variables and flags.

The context is the one of --context, else of HORDE_CONTEXT, else the one in use; where --dir or --config says where to work, \
the one in use is left out. They are kept in horde/contexts.toml in the configuration directory.";

/// A context, or what would become of one.
const ROW_OR_PLAN: Prints = Prints::Either(of::<ContextRow>, of::<PlanShown<'_>>);

/// What is in use, or what would be.
const IN_USE_OR_PLAN: Prints = Prints::Either(of::<InUse<'_>>, of::<PlanShown<'_>>);

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new("context list", Prints::List(of::<ContextRow>), &[]),
    Promise::new(
        "context show",
        Prints::One(of::<ContextRow>),
        &[ExitCode::NotFound],
    ),
    Promise::new(
        "context use",
        IN_USE_OR_PLAN,
        &[ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "context add",
        ROW_OR_PLAN,
        &[ExitCode::Conflict, ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "context set",
        ROW_OR_PLAN,
        &[ExitCode::Conflict, ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "context remove",
        IN_USE_OR_PLAN,
        &[ExitCode::Conflict, ExitCode::NotFound, ExitCode::Pending],
    ),
    Promise::new(
        "context rename",
        ROW_OR_PLAN,
        &[ExitCode::Conflict, ExitCode::NotFound, ExitCode::Pending],
    ),
];

/// `horde context …`
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List all contexts; a star marks the one that commands work on now
    #[command(after_help = "Examples:\n  horde context list\n  horde context list --json | jq -r '.[].name'")]
    List,
    /// Show what a context sets; without a name the one that commands work on now
    #[command(after_help = "Examples:\n  horde context show\n  horde context show finney")]
    Show(ShowArgs),
    /// Work on a context from now on, or on none
    #[command(after_help = change::USE_EXAMPLES)]
    Use(UseArgs),
    /// Add a context; of a directory of `horde up` it learns the facilitator's address and a key
    #[command(after_help = change::ADD_EXAMPLES)]
    Add(AddArgs),
    /// Change what a context sets
    #[command(after_help = change::SET_EXAMPLES)]
    Set(SetArgs),
    /// Remove a context; the network and its data stay as they are
    #[command(after_help = "Examples:\n  horde context remove dev\n  horde context remove dev --yes")]
    Remove(RemoveArgs),
    /// Give a context another name
    #[command(after_help = "Example:\n  horde context rename dev lab")]
    Rename(RenameArgs),
}

/// `horde context show …`
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The context
    name: Option<String>,
}

impl ContextCommand {
    /// What is said below the list of commands.
    pub const ABOUT: &'static str = ABOUT;

    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        let settings = context.settings(Scope::Tool, Vec::new())?;
        let contexts = Contexts::read(&context.environment)?;
        match self {
            Self::List => list(context, &settings, &contexts),
            Self::Show(args) => show(context, &settings, &contexts, args.name),
            Self::Use(args) => args.run(context, &settings, contexts).await,
            Self::Add(args) => args.run(context, &settings, contexts).await,
            Self::Set(args) => args.run(context, &settings, contexts).await,
            Self::Remove(args) => args.run(context, &settings, contexts).await,
            Self::Rename(args) => args.run(context, &settings, contexts).await,
        }
    }
}

fn list(context: &Context, settings: &Settings, contexts: &Contexts) -> Result<(), CmdError> {
    let in_force = settings.context();
    let rows: Vec<_> = contexts
        .all()
        .map(|named| ContextRow::new(named, in_force))
        .collect();
    if context.wants_data() {
        return context.print_data(&rows);
    }
    let mut table = Table::new(["", "NAME", "NETWORK", "FACILITATOR", "KEY", "DIRECTORY"]);
    for row in &rows {
        let or_nothing = |text: &Option<String>| printable(text.as_deref().unwrap_or(NOTHING));
        table.add([
            if row.current { "*" } else { "" }.to_owned(),
            row.name.clone(),
            place_of(row),
            or_nothing(&row.facilitator_url),
            or_nothing(&row.key),
            or_nothing(&row.directory),
        ]);
    }
    table.print(context)
}

fn show(
    context: &Context,
    settings: &Settings,
    contexts: &Contexts,
    name: Option<String>,
) -> Result<(), CmdError> {
    let Some(name) = name.or_else(|| settings.context().map(str::to_owned)) else {
        return Err(CmdError::new(ExitCode::NotFound, "no context is in use")
            .hint("`horde context list` shows those that there are, `horde context use NAME` turns to one"));
    };
    let named = contexts.known(&name).map_err(|error| refused(&error))?;
    let row = ContextRow::new(&named, settings.context());
    if context.wants_data() {
        return context.print_data(&row);
    }
    let mut lines = vec![
        ("name", row.name.clone()),
        ("network", place_of(&row)),
        ("in force", if row.current { "yes" } else { "no" }.to_owned()),
        ("built in", if row.built_in { "yes" } else { "no" }.to_owned()),
    ];
    lines.extend(row.directory.as_ref().map(|dir| ("directory", printable(dir))));
    for (name, text) in lines {
        context.line(format_args!("{name:<10}  {text}"))?;
    }
    for (key, value) in &row.settings {
        context.line(format_args!("{key} = {}", printable(value)))?;
    }
    Ok(())
}

/// Puts a refusal into words.
pub(super) fn refused(error: &ContextError) -> CmdError {
    let code = match error {
        ContextError::Unknown { .. } => ExitCode::NotFound,
        ContextError::Exists { .. } | ContextError::BuiltIn { .. } | ContextError::TooMany => {
            ExitCode::Conflict
        }
        _ => ExitCode::Usage,
    };
    let failed = CmdError::new(code, error.to_string());
    match error {
        ContextError::Unknown { near: Some(near), .. }
        | ContextError::UnknownKey { near: Some(near), .. } => failed.hint(format!("did you mean {near}?")),
        ContextError::Unknown { .. } => failed.hint("`horde context list` shows those that there are"),
        ContextError::UnknownKey { .. } => failed.hint("`horde config show` lists all settings"),
        ContextError::BuiltIn { .. } => {
            failed.hint("`horde context add NAME` makes one of your own, with any setting")
        }
        ContextError::Exists { name } => failed.hint(format!("`horde context set {name}` changes it")),
        ContextError::Secret { .. } => {
            failed.hint("secrets are read from files, such as wallet.password_file")
        }
        _ => failed,
    }
}
