//! `horde schema`: what commands print as data, as JSON Schema.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::context::Context;
use super::contract::{OUTPUT_VERSION, Prints, Promise, of, promises};
use super::error::{CmdError, ExitCode};
use super::help::nearest;
use super::output::check_prints;
use super::table::Table;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[Promise::new(
    "schema",
    Prints::List(of::<Listed>),
    &[ExitCode::NotFound],
)];

/// `horde schema …`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  horde schema                    List the commands that print data
  horde schema job list           Print the JSON Schema of `horde job list --json`
  horde schema job list | jq -r '.items.properties | keys[]'")]
pub struct SchemaArgs {
    /// The command; without one, all commands are listed
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

/// A command that prints data.
#[derive(Serialize, JsonSchema)]
struct Listed {
    /// Its words.
    command: &'static str,
    /// What it prints: `object`, `list` or `stream` (a document a line).
    prints: &'static str,
    /// The names of the fields of a row.
    fields: Vec<String>,
    /// The version of its data: raised when a field goes or changes its meaning.
    version: u32,
}

impl SchemaArgs {
    /// Runs the command.
    pub fn run(&self, context: &Context) -> Result<(), CmdError> {
        if self.words.is_empty() {
            return list(context);
        }
        let words = self.words.join(" ");
        let Some(promise) = promises().find(|promise| promise.words == words) else {
            let all = promises().map(|promise| promise.words);
            let error = CmdError::new(ExitCode::NotFound, format!("there is no command `horde {words}`"));
            return Err(match nearest(&words, all) {
                Some(near) => error.hint(format!("did you mean `horde schema {near}`?")),
                None => error.hint("`horde schema` lists the commands that print data"),
            });
        };
        check_prints(promise)?;
        let mut schema = promise.prints.schema().unwrap_or_default();
        if let Some(object) = schema.as_object_mut() {
            object.insert("title".to_owned(), format!("horde {words}").into());
            object.insert("x-output-version".to_owned(), OUTPUT_VERSION.into());
        }
        // A document for other programmes, whatever is asked for.
        context.line(serde_json::to_string_pretty::<Value>(&schema).unwrap_or_default())
    }
}

fn list(context: &Context) -> Result<(), CmdError> {
    let listed = promises().filter_map(|promise| {
        let prints = match promise.prints {
            Prints::Nothing => return None,
            Prints::List(_) | Prints::ListOr(..) => "list",
            Prints::Stream(_) => "stream",
            Prints::One(_) | Prints::Either(..) | Prints::Under(..) | Prints::Map(..) => "object",
        };
        Some(Listed {
            command: promise.words,
            prints,
            fields: promise.prints.fields(),
            version: OUTPUT_VERSION,
        })
    });
    let listed: Vec<Listed> = listed.collect();
    if context.wants_data() {
        return context.print_data(&listed);
    }
    let mut table = Table::new(["COMMAND", "PRINTS", "FIELDS"]);
    for row in listed {
        table.add([
            row.command.to_owned(),
            row.prints.to_owned(),
            row.fields.join(","),
        ]);
    }
    table.print(context)
}
