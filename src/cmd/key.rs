//! `horde key`: make keys, show them, sign and verify with them.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use zeroize::Zeroizing;

use super::confirm::{ChangeArgs, Plan, PlanShown};
use super::context::Context;
use super::contract::{Prints, Promise, of};
use super::error::{CmdError, ExitCode, OrFail};
use crate::core::config::{Flag, Scope, WalletConfig};
use crate::core::crypto::keyfile::{self, KeyFileError, NewHotkey, Passwords};
use crate::core::crypto::{Keypair, SignatureBytes, VerifyError, ss58, text_bytes, verify};
use crate::core::model::Hotkey;

/// Largest message read from standard input, in bytes.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What these commands promise.
pub(super) const PROMISES: &[Promise] = &[
    Promise::new(
        "key new",
        Prints::Either(of::<MadeKey<'_>>, of::<PlanShown<'_>>),
        &[
            ExitCode::Refused,
            ExitCode::NotFound,
            ExitCode::Conflict,
            ExitCode::Pending,
        ],
    ),
    Promise::new(
        "key show",
        Prints::One(of::<ShownKey<'_>>),
        &[ExitCode::Refused, ExitCode::NotFound],
    ),
    Promise::new(
        "key sign",
        Prints::One(of::<Signed<'_>>),
        &[ExitCode::Refused, ExitCode::NotFound],
    ),
    Promise::new(
        "key verify",
        Prints::One(of::<Verified<'_>>),
        &[ExitCode::CheckFailed],
    ),
];

/// `horde key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new hotkey and write its file; an existing one is never overwritten
    New(NewArgs),
    /// Show the address and the public key of a key
    Show(KeyArgs),
    /// Sign a message and print the signature
    Sign(SignArgs),
    /// Verify a signature; ends with 10 if it does not match
    Verify(VerifyArgs),
}

/// In which wallet.
#[derive(Args, Debug)]
pub struct WalletArgs {
    /// Look for wallets in this directory
    #[arg(long, value_name = "DIRECTORY")]
    wallet_path: Option<PathBuf>,
    /// Use the wallet of this name
    #[arg(long, value_name = "NAME")]
    wallet: Option<String>,
    /// Use the hotkey of this name
    #[arg(long, value_name = "NAME")]
    hotkey: Option<String>,
}

/// Where the new key goes.
#[derive(Args, Debug)]
pub struct NewArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Which key.
#[derive(Args, Debug)]
pub struct KeyArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// Use the coldkey of the wallet
    #[arg(long, conflicts_with_all = ["hotkey", "uri"])]
    coldkey: bool,
    /// Use a development key such as //Alice
    #[arg(long, value_name = "URI", conflicts_with_all = ["wallet_path", "wallet", "hotkey"])]
    uri: Option<String>,
    /// Read the password of an encrypted key from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What to sign, with which key.
#[derive(Args, Debug)]
pub struct SignArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The message; hex digits after 0x stand for bytes; without it, standard input is signed as it is
    message: Option<String>,
}

/// What to verify.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The address that is said to have signed
    #[arg(long, value_name = "ADDRESS")]
    hotkey: String,
    /// The signature: 0x and 128 hex digits
    #[arg(long)]
    signature: String,
    /// The message; hex digits after 0x stand for bytes; without it, standard input is taken as it is
    message: Option<String>,
}

impl KeyCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), CmdError> {
        match self {
            Self::New(args) => new(context, &args).await,
            Self::Show(args) => show(context, &args),
            Self::Sign(args) => sign(context, &args).await,
            Self::Verify(args) => verify_signature(context, &args),
        }
    }
}

/// Returns the key that a role or command signs with: the development key if one is set, else the wallet's hotkey.
pub async fn open_hotkey(context: &Context, wallet: &WalletConfig) -> Result<Keypair, CmdError> {
    match &wallet.uri {
        Some(uri) => {
            Keypair::from_uri(uri.reveal()).or_fail(ExitCode::Configuration, "could not use wallet.uri")
        }
        None => open_file(context, wallet, wallet.hotkey_file()).await,
    }
}

/// Returns the address of the key that a role signs with, without opening what is encrypted.
pub async fn own_address(context: &Context, wallet: &WalletConfig) -> Result<Hotkey, CmdError> {
    if wallet.uri.is_some() {
        return Ok(open_hotkey(context, wallet).await?.hotkey().clone());
    }
    let private = wallet.hotkey_file();
    let mut public = private.clone().into_os_string();
    public.push("pub.txt");
    tokio::task::spawn_blocking(move || {
        keyfile::load_public(Path::new(&public)).or_else(|_| keyfile::load_public(&private))
    })
    .await
    .or_fail(ExitCode::Bug, "could not read the wallet")?
    .map_err(|error| wallet_error("could not read the wallet", &error))
}

async fn open_file(context: &Context, wallet: &WalletConfig, file: PathBuf) -> Result<Keypair, CmdError> {
    let password_file = wallet.password_file.clone();
    let variable = context
        .environment
        .get(&keyfile::password_variable(&file))
        .map(|value| Zeroizing::new(value.to_owned()));
    let interactive = context.interactive;
    // An encrypted key takes seconds of computing.
    tokio::task::spawn_blocking(move || {
        let mut ask = ask_password;
        let mut passwords = Passwords {
            file: password_file.as_deref(),
            variable: variable.as_ref().map(|value| value.as_str()),
            prompt: if interactive { Some(&mut ask) } else { None },
        };
        keyfile::load(&file, &mut passwords)
    })
    .await
    .or_fail(ExitCode::Bug, "could not read the wallet")?
    .map_err(|error| wallet_error("could not read the wallet", &error))
}

fn ask_password(path: &Path) -> io::Result<Zeroizing<String>> {
    dialoguer::Password::new()
        .with_prompt(format!("Password of {}", path.display()))
        .interact()
        .map(Zeroizing::new)
        .map_err(|dialoguer::Error::IO(error)| error)
}

pub(super) fn wallet_error(tried: &str, error: &KeyFileError) -> CmdError {
    let code = match error {
        KeyFileError::Missing { .. } => ExitCode::NotFound,
        KeyFileError::Write { .. } | KeyFileError::Key(_) => ExitCode::Failed,
        KeyFileError::Read { .. }
        | KeyFileError::NotAFile { .. }
        | KeyFileError::TooLarge { .. }
        | KeyFileError::Shared { .. }
        | KeyFileError::PublicOnly { .. }
        | KeyFileError::SealedForPublic { .. }
        | KeyFileError::Legacy { .. }
        | KeyFileError::NoPassword { .. }
        | KeyFileError::WrongPassword { .. }
        | KeyFileError::Sealed { .. }
        | KeyFileError::PasswordVariable { .. }
        | KeyFileError::PasswordFile { .. }
        | KeyFileError::Prompt { .. }
        | KeyFileError::Content { .. }
        | KeyFileError::Exists { .. } => ExitCode::Refused,
    };
    let failed = CmdError::new(code, tried).caused_by(error);
    match error.remedy() {
        Some(remedy) => failed.hint(remedy),
        None => failed,
    }
}

impl WalletArgs {
    /// Returns the settings that were given; none if no wallet is named.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let path = self.wallet_path.as_ref().map(|path| path.display().to_string());
        flags([
            ("wallet.path", "--wallet-path", path),
            ("wallet.name", "--wallet", self.wallet.clone()),
            ("wallet.hotkey", "--hotkey", self.hotkey.clone()),
        ])
    }
}

impl KeyArgs {
    fn wallet(&self, context: &Context) -> Result<WalletConfig, CmdError> {
        let password_file = self.password_file.as_ref().map(|path| path.display().to_string());
        let mut all = self.wallet.flags();
        // A wallet named on the command line outranks a development key from the file or the environment.
        let names_wallet = !all.is_empty() || self.coldkey;
        all.extend(flags([
            ("wallet.uri", "--uri", self.uri.clone()),
            ("wallet.password_file", "--password-file", password_file),
        ]));
        let settings = context.settings(Scope::Tool, all)?;
        let mut wallet = WalletConfig::from_settings(&settings)?;
        if names_wallet {
            wallet.uri = None;
        }
        Ok(wallet)
    }
}

/// A key that was made.
#[derive(Debug, Serialize, JsonSchema)]
struct MadeKey<'a> {
    /// Its address.
    hotkey: &'a Hotkey,
    /// The file with its secret.
    path: String,
    /// The file with its public part.
    public_path: String,
}

/// A key, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
struct ShownKey<'a> {
    /// Its address.
    hotkey: &'a Hotkey,
    /// Its public key, `0x` and 64 hex digits.
    public_key: &'a str,
    /// Its file; null for a development key.
    path: Option<&'a str>,
}

/// A signature.
#[derive(Debug, Serialize, JsonSchema)]
struct Signed<'a> {
    /// Who signed.
    hotkey: &'a Hotkey,
    /// The signature, `0x` and 128 hex digits.
    signature: &'a str,
}

/// Whether a signature is one.
#[derive(Debug, Serialize, JsonSchema)]
struct Verified<'a> {
    /// Who is said to have signed.
    hotkey: &'a str,
    /// Whether it did.
    valid: bool,
}

fn flags<const N: usize>(given: [(&'static str, &'static str, Option<String>); N]) -> Vec<Flag> {
    given
        .into_iter()
        .filter_map(|(key, flag, value)| value.map(|value| Flag { key, flag, value }))
        .collect()
}

async fn new(context: &Context, args: &NewArgs) -> Result<(), CmdError> {
    let settings = context.settings(Scope::Tool, args.wallet.flags())?;
    let path = WalletConfig::from_settings(&settings)?.hotkey_file();
    let tried = "could not make a hotkey";
    let hotkey = NewHotkey::generate().or_fail(ExitCode::Failed, tried)?;
    hotkey
        .check_free(&path)
        .map_err(|error| wallet_error(tried, &error))?;
    let there = || Some("a new key".to_owned());
    // Files of this machine, whatever the network: nothing is overwritten, and nothing there changes.
    let plan = Plan::new("make", "hotkey", path.display().to_string())
        .of_this_machine()
        .change(path.display().to_string(), None, there());
    if !args.change.allow(context, &settings, &plan).await? {
        return Ok(());
    }
    let public_path = hotkey.write(&path).map_err(|error| wallet_error(tried, &error))?;
    let address = hotkey.keypair.hotkey();
    if context.wants_data() {
        return context.print_data(&MadeKey {
            hotkey: address,
            path: path.display().to_string(),
            public_path: public_path.display().to_string(),
        });
    }
    context.line(address)?;
    context.say(format_args!(
        "wrote {} and {}\nkeep a copy of the first: its secretPhrase is the only way to restore this key",
        path.display(),
        public_path.display()
    ));
    Ok(())
}

fn show(context: &Context, args: &KeyArgs) -> Result<(), CmdError> {
    let wallet = args.wallet(context)?;
    let (hotkey, path) = if let Some(uri) = &wallet.uri {
        let keypair = Keypair::from_uri(uri.reveal()).or_fail(ExitCode::Refused, "could not read the URI")?;
        (keypair.hotkey().clone(), None)
    } else {
        let file = if args.coldkey {
            wallet.coldkey_file()
        } else {
            wallet.hotkey_file()
        };
        let hotkey = public_of(&file).map_err(|error| wallet_error("could not read the wallet", &error))?;
        (hotkey, Some(file))
    };
    let public_key = ss58::decode(&hotkey).or_fail(ExitCode::Refused, "could not read the address")?;
    let public_key = format!("0x{}", hex::encode(public_key));
    let path = path.map(|path| path.display().to_string());
    if context.wants_data() {
        return context.print_data(&ShownKey {
            hotkey: &hotkey,
            public_key: &public_key,
            path: path.as_deref(),
        });
    }
    context.line(format_args!("address     {hotkey}"))?;
    context.line(format_args!("public key  {public_key}"))?;
    match path {
        Some(path) => context.line(format_args!("file        {path}")),
        None => Ok(()),
    }
}

/// The address needs no password: an encrypted or missing private file leaves it to the public one beside it.
fn public_of(file: &Path) -> Result<Hotkey, KeyFileError> {
    match keyfile::load_public(file) {
        Err(
            KeyFileError::SealedForPublic { .. } | KeyFileError::Missing { .. } | KeyFileError::Legacy { .. },
        ) if keyfile::public_twin(file).exists() => keyfile::load_public(&keyfile::public_twin(file)),
        other => other,
    }
}

async fn sign(context: &Context, args: &SignArgs) -> Result<(), CmdError> {
    let wallet = args.key.wallet(context)?;
    let message = message_bytes(args.message.as_deref())?;
    let keypair = if args.key.coldkey {
        open_file(context, &wallet, wallet.coldkey_file()).await?
    } else {
        open_hotkey(context, &wallet).await?
    };
    let signature = keypair.sign(&message).to_hex_prefixed();
    if context.wants_data() {
        return context.print_data(&Signed {
            hotkey: keypair.hotkey(),
            signature: &signature,
        });
    }
    context.line(signature)
}

fn verify_signature(context: &Context, args: &VerifyArgs) -> Result<(), CmdError> {
    let tried = "could not verify the signature";
    let message = message_bytes(args.message.as_deref())?;
    let signature = SignatureBytes::parse_hex(&args.signature).or_fail(ExitCode::Usage, tried)?;
    let outcome = verify(&Hotkey::new(args.hotkey.as_str()), &message, &signature);
    let valid = match &outcome {
        Ok(()) => true,
        Err(VerifyError::Mismatch) => false,
        Err(error) => return Err(CmdError::new(ExitCode::Usage, tried).caused_by(error)),
    };
    if context.wants_data() {
        context.print_data(&Verified {
            hotkey: &args.hotkey,
            valid,
        })?;
    } else if valid {
        context.line("valid")?;
    }
    outcome.or_fail(ExitCode::CheckFailed, "the signature is not valid")
}

fn message_bytes(message: Option<&str>) -> Result<Vec<u8>, CmdError> {
    if let Some(text) = message {
        return text_bytes(text).or_fail(ExitCode::Usage, "could not read the message");
    }
    let tried = "could not read the message from standard input";
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MESSAGE_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .or_fail(ExitCode::Failed, tried)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MESSAGE_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(CmdError::new(
            ExitCode::Usage,
            format!("{tried}: larger than {MESSAGE_BYTES_MAX} bytes"),
        ))
    }
}
