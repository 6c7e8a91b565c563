//! Questions to a person at a terminal; nobody else is ever asked.

use std::io::{self, IsTerminal};

use crate::cmd::context::Context;
use crate::cmd::error::{CmdError, ExitCode};
use crate::core::model::Hotkey;

/// Whether somebody is there who may be asked: standard input and error are terminals, and `--no-input` is absent.
pub(super) fn may_ask(context: &Context, no_input: bool) -> bool {
    !no_input && !context.wants_data() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for the image.
pub(super) async fn image() -> Result<String, CmdError> {
    ask(|| {
        dialoguer::Input::<String>::new()
            .with_prompt("Image")
            .interact_text()
    })
    .await
}

/// Asks which of several validators; returns its place in the list.
pub(super) async fn validator(known: &[Hotkey]) -> Result<Option<Hotkey>, CmdError> {
    let names: Vec<String> = known
        .iter()
        .map(|hotkey| crate::cmd::table::printable(hotkey.as_str()))
        .collect();
    let chosen = ask(move || {
        dialoguer::Select::new()
            .with_prompt("Which validator")
            .items(&names)
            .default(0)
            .interact()
    })
    .await?;
    Ok(known.get(chosen).cloned())
}

/// Runs a question on a thread of its own: it waits for a person.
async fn ask<T: Send + 'static>(
    question: impl FnOnce() -> dialoguer::Result<T> + Send + 'static,
) -> Result<T, CmdError> {
    let tried = "could not ask";
    tokio::task::spawn_blocking(question)
        .await
        .map_err(|error| CmdError::new(ExitCode::Bug, tried).caused_by(&error))?
        .map_err(|dialoguer::Error::IO(error)| {
            CmdError::new(ExitCode::Failed, tried)
                .caused_by(&error)
                .hint("--no-input asks nothing")
        })
}
