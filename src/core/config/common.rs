//! What several roles share: the wallet and the chain.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::Secret;
use super::settings::{ConfigError, OFF, Settings};
use super::value::Value;

/// Which key a role signs with.
#[derive(Clone, Debug)]
pub struct WalletConfig {
    /// Directory of Bittensor wallets.
    pub path: PathBuf,
    /// Name of the wallet.
    pub name: String,
    /// Name of the hotkey in the wallet.
    pub hotkey: String,
    /// A development key such as `//Alice` instead of the wallet.
    pub uri: Option<Secret>,
    /// File that holds the password of an encrypted key.
    pub password_file: Option<PathBuf>,
}

impl WalletConfig {
    /// Builds it from settings; a development key is refused unless the chain is local.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let uri = match settings.optional("wallet.uri")? {
            Some(_) => Some(Secret::new(settings.text("wallet.uri")?)),
            None => None,
        };
        if uri.is_some() && settings.network()? != "local" {
            let text = "a development key is everybody's key: only for the local chain";
            return Err(ConfigError::refused(settings, "wallet.uri", text));
        }
        Ok(Self {
            path: settings.path("wallet.path")?.to_owned(),
            name: settings.text("wallet.name")?.to_owned(),
            hotkey: settings.text("wallet.hotkey")?.to_owned(),
            uri,
            password_file: optional_path(settings, "wallet.password_file")?,
        })
    }

    /// Returns the file of the hotkey.
    pub fn hotkey_file(&self) -> PathBuf {
        self.wallet().join("hotkeys").join(&self.hotkey)
    }

    /// Returns the file of the coldkey.
    pub fn coldkey_file(&self) -> PathBuf {
        self.wallet().join("coldkey")
    }

    fn wallet(&self) -> PathBuf {
        self.path.join(&self.name)
    }
}

/// Which chain a role reads.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// The file of the local chain.
    pub path: PathBuf,
    /// Number of the subnet.
    pub netuid: u16,
    /// Pace of the local chain.
    pub block: Duration,
}

impl ChainConfig {
    /// Builds it from settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        if settings.network()? != "local" {
            let text = "roles run on the local chain only, in this version; users reach other networks";
            return Err(ConfigError::refused(settings, "chain.network", text));
        }
        let path = match settings.optional("chain.path")? {
            Some(_) => settings.path("chain.path")?.to_owned(),
            None => return Err(ConfigError::NoDirectory),
        };
        let block = settings.duration("chain.block_seconds")?;
        if block.is_zero() {
            return Err(ConfigError::refused(
                settings,
                "chain.block_seconds",
                "blocks need some time",
            ));
        }
        Ok(Self {
            path,
            netuid: settings.integer("chain.netuid")?,
            block,
        })
    }
}

/// Returns a path that may be unset.
pub(super) fn optional_path(settings: &Settings, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
    match settings.optional(key)? {
        Some(Value::Path(path)) => Ok(Some(Path::to_owned(path))),
        Some(_) => Err(ConfigError::Undeclared { key }),
        None => Ok(None),
    }
}

/// Returns a text unless it is the word for none.
pub(super) fn unless_off<'a>(
    settings: &'a Settings,
    key: &'static str,
) -> Result<Option<&'a str>, ConfigError> {
    Ok(Some(settings.text(key)?).filter(|text| *text != OFF))
}
