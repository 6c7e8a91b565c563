//! Questions of `horde job` to a person at a terminal.

use crate::cmd::confirm::ask;
pub(super) use crate::cmd::confirm::may_ask;
use crate::cmd::error::CmdError;
use crate::cmd::table::printable;
use crate::core::model::Hotkey;

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
    let names: Vec<String> = known.iter().map(|hotkey| printable(hotkey.as_str())).collect();
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
