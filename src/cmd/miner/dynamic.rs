//! `horde miner dynamic`: what the subnet's owners have set, as this miner has read it.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::context::Context;
use super::super::error::{CmdError, ExitCode, OrFail};
use super::open_beside;
use crate::core::config::Settings;
use crate::core::dynamic::keeper::kept;
use crate::core::dynamic::keys::{Entry, MINER_KEYS, Values};
use crate::core::store::dynamic::KeptDocument;

/// `horde miner dynamic …`
#[derive(Args, Debug)]
pub struct DynamicArgs {}

impl DynamicArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CmdError> {
        let Self {} = self;
        let (store, settings) = open_beside(context).await?;
        let tried = "could not read the dynamic configuration";
        let values = kept(&store).await.or_fail(ExitCode::Failed, tried)?;
        let documents = store.dynamic_documents().await.or_fail(ExitCode::Failed, tried)?;
        let values = values.borrow().clone();
        if context.wants_data() {
            return print_data(context, &settings, &values, &documents);
        }
        print(context, &values, &documents)?;
        if settings.text("miner.dynamic_config_url")? == "off" {
            context
                .say("the dynamic configuration is off (miner.dynamic_config_url): what is kept is not used");
        } else if documents.is_empty() {
            context.say("it has not been read yet: a running miner reads it every five minutes");
        }
        Ok(())
    }
}

fn print(context: &Context, values: &Values, documents: &[KeptDocument]) -> Result<(), CmdError> {
    let now = context.clock.now();
    for key in MINER_KEYS {
        let (value, from) = match values.0.get(key.name) {
            Some(entry) => (
                entry.value.to_string(),
                format!("{}, {} ago", entry.document, age(now, entry.fetched_at)),
            ),
            None => ("not set".to_owned(), "default".to_owned()),
        };
        let problem = values
            .problem(*key)
            .map_or(String::new(), |problem| format!("; {problem}"));
        context.line(format_args!("{:37} {value}  ({from}{problem})", key.name))?;
    }
    for document in documents {
        let outcome = document.error.as_deref().unwrap_or("read");
        context.line(format_args!(
            "{:37} {outcome}  ({} ago)",
            document.name,
            age(now, document.tried_at)
        ))?;
    }
    Ok(())
}

/// The subnet's dynamic configuration, as this miner has read it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Dynamic<'a> {
    /// Where it is read; `off` if it is not.
    url: &'a str,
    /// What this miner uses of it.
    values: Vec<ShownValue<'a>>,
    /// Its documents.
    documents: Vec<ShownDocument<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownValue<'a> {
    /// Its key.
    key: &'static str,
    /// Its value, of whatever type it has; null if it is not set.
    value: Option<&'a Value>,
    /// The document that has it.
    document: Option<&'a str>,
    /// How many seconds ago it was read.
    age_seconds: Option<i64>,
    /// Why it is not used; null if it is.
    problem: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ShownDocument<'a> {
    /// Its name.
    name: &'a str,
    /// When it was last tried.
    tried_at: String,
    /// Why it could not be read; null if it could.
    error: Option<&'a str>,
}

fn print_data(
    context: &Context,
    settings: &Settings,
    values: &Values,
    documents: &[KeptDocument],
) -> Result<(), CmdError> {
    let now = context.clock.now();
    let keys = MINER_KEYS.iter().map(|key| {
        let entry = values.0.get(key.name);
        ShownValue {
            key: key.name,
            value: entry.map(|entry| &entry.value),
            document: entry.map(|entry| entry.document.as_str()),
            age_seconds: entry.map(|entry: &Entry| seconds(now, entry.fetched_at)),
            problem: values.problem(*key),
        }
    });
    let mut list = Vec::new();
    for document in documents {
        let tried_at = document
            .tried_at
            .format(&Rfc3339)
            .or_fail(ExitCode::Bug, "could not write a time")?;
        list.push(ShownDocument {
            name: &document.name,
            tried_at,
            error: document.error.as_deref(),
        });
    }
    context.print_data(&Dynamic {
        url: settings.text("miner.dynamic_config_url")?,
        values: keys.collect(),
        documents: list,
    })
}

fn seconds(now: OffsetDateTime, then: OffsetDateTime) -> i64 {
    (now - then).whole_seconds().max(0)
}

/// Writes an age as people say it.
fn age(now: OffsetDateTime, then: OffsetDateTime) -> String {
    match seconds(now, then) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
