//! A context as it is shown.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::cmd::table::{NOTHING, printable};
use crate::core::config::contexts::NamedContext;

/// One context.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ContextRow {
    /// Its name.
    pub(super) name: String,
    /// Whether commands work on it now.
    pub(super) current: bool,
    /// Whether it is always there and cannot be changed.
    pub(super) built_in: bool,
    /// The network that it names: local, test or finney; null if it names none.
    pub(super) network: Option<String>,
    /// Whether that is the main network.
    pub(super) mainnet: bool,
    /// The facilitator that jobs are submitted to.
    pub(super) facilitator_url: Option<String>,
    /// Whose signature they carry: a development key, or the wallet and the hotkey.
    pub(super) key: Option<String>,
    /// The directory with the data of roles.
    pub(super) directory: Option<String>,
    /// All that it sets, by key.
    pub(super) settings: BTreeMap<&'static str, String>,
}

impl ContextRow {
    pub(super) fn new(named: &NamedContext, in_force: Option<&str>) -> Self {
        let wallet = [named.text("wallet.name"), named.text("wallet.hotkey")];
        let wallet: Vec<String> = wallet.into_iter().flatten().collect();
        Self {
            name: named.name.clone(),
            current: in_force == Some(named.name.as_str()),
            built_in: named.is_built_in,
            network: named.network(),
            mainnet: named.is_mainnet(),
            facilitator_url: named.text("client.facilitator_url"),
            key: named
                .text("wallet.uri")
                .or_else(|| Some(wallet.join("/")).filter(|name| !name.is_empty())),
            directory: named.dir.as_ref().map(|dir| dir.display().to_string()),
            settings: named
                .settings
                .iter()
                .map(|(key, value)| (*key, value.to_string()))
                .collect(),
        }
    }
}

/// Names the network; the main one in a word that nobody overlooks.
pub(super) fn place_of(row: &ContextRow) -> String {
    match &row.network {
        Some(network) if row.mainnet => format!("{} MAINNET", printable(network)),
        Some(network) => printable(network),
        None => NOTHING.to_owned(),
    }
}
