//! Bittensor wallet files: `<wallets>/<name>/{coldkey,coldkeypub.txt,hotkeys/<hotkey>,hotkeys/<hotkey>pub.txt}`.
//!
//! A private file is plain JSON (hotkeys) or the same JSON in a `$NACL` envelope (coldkeys). It is read only if no other
//! user of the machine can read it, and written only where nothing is yet.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::core::crypto::keypair::{KeyError, Keypair};
use crate::core::crypto::sealed::{self, SealError};
use crate::core::crypto::ss58::{self, Ss58Error};
use crate::core::crypto::uri;
use crate::core::model::Hotkey;

/// Largest wallet file read, in bytes; real ones are below 1 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Largest password file read, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4 * 1024;
/// Readable by the owner only.
const PRIVATE_MODE: u32 = 0o600;
/// Any access for group or others.
const SHARED_BITS: u32 = 0o077;

/// Asks a person for the password of a file.
pub type AskPassword<'a> = dyn FnMut(&Path) -> io::Result<Zeroizing<String>> + 'a;

/// Where the password of an encrypted file comes from; the first that is set decides.
#[derive(Default)]
pub struct Passwords<'a> {
    /// A file with the password on its only line, private like a key.
    pub file: Option<&'a Path>,
    /// The value of the environment variable called [`password_variable`], as the Python wallet leaves it.
    pub variable: Option<&'a str>,
    /// A question to the person at the terminal.
    pub prompt: Option<&'a mut AskPassword<'a>>,
}

impl std::fmt::Debug for Passwords<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Passwords")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Returns the name of the environment variable in which the Python wallet keeps the password of the file at `path`.
pub fn password_variable(path: &Path) -> String {
    let path = path.to_string_lossy().replace(['/', '.'], "_");
    format!("BT_PW_{}", path.to_uppercase())
}

/// Reads the private key at `path`.
///
/// An encrypted file takes seconds and 512 MiB to open: call this off the runtime's workers.
pub fn load(path: &Path, passwords: &mut Passwords<'_>) -> Result<Keypair, KeyFileError> {
    let content = read_private(path, FILE_BYTES_MAX)?;
    let kind = FileKind::of(&content);
    let plain = match kind {
        FileKind::Plain => content,
        FileKind::Sealed => {
            let password = password_for(path, passwords)?;
            sealed::open(&content, &password).map_err(|source| match source {
                SealError::WrongPassword => KeyFileError::WrongPassword {
                    path: path.to_owned(),
                },
                SealError::Truncated | SealError::OutOfMemory | SealError::Derivation => {
                    KeyFileError::Sealed {
                        path: path.to_owned(),
                        source,
                    }
                }
            })?
        }
        FileKind::Legacy(format) => {
            return Err(KeyFileError::Legacy {
                path: path.to_owned(),
                format,
            });
        }
    };
    match parse(&plain) {
        Ok(KeyFile::Private(keypair)) => Ok(keypair),
        Ok(KeyFile::Public(_)) => Err(KeyFileError::PublicOnly {
            path: path.to_owned(),
        }),
        Err(source) => Err(KeyFileError::Content {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads the address in the file at `path`: a `*pub.txt`, or a plain private file, which then must be private.
pub fn load_public(path: &Path) -> Result<Hotkey, KeyFileError> {
    let (file, mode) = open_file(path)?;
    let content = read_all(path, file, FILE_BYTES_MAX)?;
    match FileKind::of(&content) {
        FileKind::Plain => {}
        FileKind::Sealed => {
            return Err(KeyFileError::SealedForPublic {
                path: path.to_owned(),
            });
        }
        FileKind::Legacy(format) => {
            return Err(KeyFileError::Legacy {
                path: path.to_owned(),
                format,
            });
        }
    }
    match parse(&content) {
        Ok(KeyFile::Public(hotkey)) => Ok(hotkey),
        Ok(KeyFile::Private(keypair)) => {
            refuse_shared(path, mode)?;
            Ok(keypair.hotkey().clone())
        }
        Err(source) => Err(KeyFileError::Content {
            path: path.to_owned(),
            source,
        }),
    }
}

/// What a plain wallet file holds.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart where it is made, never kept in numbers"
)]
pub enum KeyFile {
    /// A key that can sign.
    Private(Keypair),
    /// An address only.
    Public(Hotkey),
}

/// Reads the JSON of a wallet file.
///
/// Of several secrets the first decides, as in the Python wallet: `secretPhrase`, `secretSeed`, `privateKey`, then
/// `ss58Address` for a public file. Every value must be text or null.
pub fn parse(content: &[u8]) -> Result<KeyFile, ContentError> {
    let fields: Fields = serde_json::from_slice(content).map_err(|error| {
        // The text of a serde error can quote the value, which may be the secret.
        match error.classify() {
            serde_json::error::Category::Data => ContentError::NotTextFields,
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => ContentError::NotJson,
        }
    })?;
    if let Some(phrase) = fields.get("secretPhrase") {
        return Ok(KeyFile::Private(Keypair::from_phrase(phrase)?));
    }
    if let Some(seed) = fields.get("secretSeed") {
        let seed = uri::seed_from_hex(bare(seed)).map_err(KeyError::from)?;
        return Ok(KeyFile::Private(Keypair::from_seed(&seed)));
    }
    if let Some(private_key) = fields.get("privateKey") {
        let mut bytes = Zeroizing::new([0; 64]);
        hex::decode_to_slice(bare(private_key), bytes.as_mut())
            .map_err(|_foreign| ContentError::PrivateKey)?;
        return Ok(KeyFile::Private(Keypair::from_private_key(&bytes)?));
    }
    let address = fields.get("ss58Address").ok_or(ContentError::NoKey)?;
    let hotkey = Hotkey::new(address);
    ss58::decode(&hotkey)?;
    Ok(KeyFile::Public(hotkey))
}

/// Why the content of a wallet file gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not JSON.
    #[error("file is not JSON")]
    NotJson,
    /// JSON, but not an object whose values are all text or null.
    #[error("file is not a JSON object of text values")]
    NotTextFields,
    /// No secret and no address; a public key alone does not count.
    #[error("file has none of secretPhrase, secretSeed, privateKey, ss58Address")]
    NoKey,
    /// Not 128 hex digits.
    #[error("privateKey is not 128 hex digits")]
    PrivateKey,
    /// A phrase, seed or private key that is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An address that is none.
    #[error("ss58Address is not an address: {0}")]
    Address(#[from] Ss58Error),
}

/// A new hotkey with the words it can be restored from.
pub struct NewHotkey {
    /// The twelve words.
    pub phrase: Zeroizing<String>,
    /// The pair.
    pub keypair: Keypair,
}

impl std::fmt::Debug for NewHotkey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NewHotkey")
            .field("keypair", &self.keypair)
            .finish_non_exhaustive()
    }
}

impl NewHotkey {
    /// Makes a hotkey from the randomness of the operating system.
    pub fn generate() -> Result<Self, KeyError> {
        let phrase = uri::new_phrase()?;
        let keypair = Keypair::from_phrase(&phrase)?;
        Ok(Self { phrase, keypair })
    }

    /// Restores a hotkey from its twelve words.
    pub fn restore(phrase: &str) -> Result<Self, KeyError> {
        let phrase = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" "));
        let keypair = Keypair::from_phrase(&phrase)?;
        Ok(Self { phrase, keypair })
    }

    /// Checks that neither of the two files is there.
    pub fn check_free(&self, path: &Path) -> Result<(), KeyFileError> {
        let taken = [path.to_owned(), public_twin(path)];
        match taken.into_iter().find(|path| path.exists()) {
            Some(path) => Err(KeyFileError::Exists { path }),
            None => Ok(()),
        }
    }

    /// Writes the private file at `path` (mode 0600) and its public twin beside it; overwrites nothing.
    ///
    /// Returns the path of the public file. Folders are made as needed, readable by the owner only.
    pub fn write(&self, path: &Path) -> Result<PathBuf, KeyFileError> {
        self.check_free(path)?;
        let public_path = public_twin(path);
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| KeyFileError::Write {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        write_new(path, &self.private_json()?)?;
        write_new(&public_path, &self.public_json())?;
        Ok(public_path)
    }

    fn private_json(&self) -> Result<Zeroizing<String>, KeyError> {
        let seed = uri::seed_from_phrase(&self.phrase, "")?;
        let seed = Zeroizing::new(hex::encode(seed.as_ref()));
        let private_key = Zeroizing::new(hex::encode(self.keypair.private_key().as_ref()));
        let public_key = hex::encode(self.keypair.public_key());
        // Every value is hex, base 58 or words of the list, so nothing needs escaping; and no copy of the secret stays
        // behind in a tree of values.
        Ok(Zeroizing::new(format!(
            "{{\"accountId\":\"0x{public_key}\",\"publicKey\":\"0x{public_key}\",\"privateKey\":\"0x{}\",\
             \"secretPhrase\":\"{}\",\"secretSeed\":\"0x{}\",\"ss58Address\":\"{}\"}}",
            private_key.as_str(),
            self.phrase.as_str(),
            seed.as_str(),
            self.keypair.hotkey(),
        )))
    }

    fn public_json(&self) -> String {
        let public_key = format!("0x{}", hex::encode(self.keypair.public_key()));
        let mut fields = Map::new();
        fields.insert("accountId".to_owned(), Value::String(public_key.clone()));
        fields.insert("publicKey".to_owned(), Value::String(public_key));
        fields.insert(
            "ss58Address".to_owned(),
            Value::String(self.keypair.hotkey().to_string()),
        );
        Value::Object(fields).to_string()
    }
}

/// Returns the path of the public file beside a private one: `<name>pub.txt`.
pub fn public_twin(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("pub.txt");
    path.with_file_name(name)
}

/// Why a wallet file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Nothing there.
    #[error("no wallet file at {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There, but not readable.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder, a socket, a device.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Larger than a wallet or password file can be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Other users of the machine can read or change a secret.
    #[error("{path} is open to other users (mode {mode:04o})")]
    Shared {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A public file where a private one is needed.
    #[error("{path} holds a public key only")]
    PublicOnly {
        /// The file.
        path: PathBuf,
    },
    /// An encrypted file where an address was asked for.
    #[error("{path} is encrypted")]
    SealedForPublic {
        /// The file.
        path: PathBuf,
    },
    /// Encrypted in a form that wallets no longer write.
    #[error("{path} is encrypted as {format}, which is not supported")]
    Legacy {
        /// The file.
        path: PathBuf,
        /// The form.
        format: LegacyFormat,
    },
    /// Encrypted, and no password was offered.
    #[error("{path} is encrypted and no password was given")]
    NoPassword {
        /// The file.
        path: PathBuf,
    },
    /// The password did not open it.
    #[error("wrong password for {path}, or the file is damaged")]
    WrongPassword {
        /// The file.
        path: PathBuf,
    },
    /// Encrypted and not openable for another reason.
    #[error("could not open {path}")]
    Sealed {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: SealError,
    },
    /// The environment variable does not hold what the Python wallet writes.
    #[error("environment variable {variable} does not hold a wallet password")]
    PasswordVariable {
        /// Its name.
        variable: String,
    },
    /// The password file holds no text.
    #[error("password file {path} does not hold one line of text")]
    PasswordFile {
        /// The file.
        path: PathBuf,
    },
    /// Asking failed.
    #[error("could not ask for the password of {path}")]
    Prompt {
        /// The wallet file.
        path: PathBuf,
        /// What the terminal said.
        #[source]
        source: io::Error,
    },
    /// Readable, and no key in it.
    #[error("{path} is not a wallet file")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ContentError,
    },
    /// A file is there already, which is never overwritten.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Could not be written.
    #[error("could not write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A new key could not be made.
    #[error("could not make a key")]
    Key(#[from] KeyError),
}

impl KeyFileError {
    /// Returns what a person can do about it, as a sentence part for a hint.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Missing { path } => Some(if path.parent().is_some_and(|folder| folder.ends_with("hotkeys")) {
                "make one with `horde key new`, or point wallet.path, wallet.name and wallet.hotkey at it".to_owned()
            } else {
                "check wallet.path and wallet.name".to_owned()
            }),
            Self::Shared { path, .. } => Some(format!("run `chmod 600 {}`", path.display())),
            Self::PublicOnly { path } => Some(match private_twin(path) {
                Some(private) => format!("name the private file instead: {}", private.display()),
                None => "restore the private file from its phrase with `btcli wallet regen-hotkey`".to_owned(),
            }),
            Self::SealedForPublic { path } => {
                Some(format!("read the address from {}", public_twin(path).display()))
            }
            Self::Legacy { .. } => Some(
                "restore the key from its phrase with `btcli wallet regen-coldkey` or `regen-hotkey`, which writes \
                 today's format"
                    .to_owned(),
            ),
            Self::NoPassword { path } => Some(format!(
                "set wallet.password_file to a file of mode 0600 with the password, or the variable {}, or run on a \
                 terminal",
                password_variable(path)
            )),
            Self::WrongPassword { .. } => Some("check the password and try again".to_owned()),
            Self::PasswordVariable { variable } => Some(format!(
                "unset {variable}, or let `btcli` or the Python wallet write it (base64 of the password XOR the name)"
            )),
            Self::PasswordFile { path } => {
                Some(format!("put the password alone on the first line of {}", path.display()))
            }
            Self::Exists { path } => {
                Some(format!("choose another name, or move {} away; it is never overwritten", path.display()))
            }
            Self::Content { source: ContentError::NoKey | ContentError::NotJson, .. } => {
                Some("restore the file from its phrase with `btcli wallet regen-hotkey`".to_owned())
            }
            Self::Sealed { source: SealError::OutOfMemory, .. } => {
                Some("free memory, or use a plain hotkey file".to_owned())
            }
            Self::Read { .. }
            | Self::NotAFile { .. }
            | Self::TooLarge { .. }
            | Self::Sealed { .. }
            | Self::Prompt { .. }
            | Self::Content { .. }
            | Self::Write { .. }
            | Self::Key(_) => None,
        }
    }
}

/// Forms of encryption that wallets once wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyFormat {
    /// `$ANSIBLE_VAULT`.
    AnsibleVault,
    /// Fernet tokens, `gAAAAA…`.
    Fernet,
}

impl std::fmt::Display for LegacyFormat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::AnsibleVault => "Ansible Vault",
            Self::Fernet => "Fernet",
        })
    }
}

enum FileKind {
    Plain,
    Sealed,
    Legacy(LegacyFormat),
}

impl FileKind {
    fn of(content: &[u8]) -> Self {
        if content.starts_with(sealed::MAGIC) {
            Self::Sealed
        } else if content.starts_with(b"$ANSIBLE_VAULT") {
            Self::Legacy(LegacyFormat::AnsibleVault)
        } else if content.starts_with(b"gAAAAA") {
            Self::Legacy(LegacyFormat::Fernet)
        } else {
            Self::Plain
        }
    }
}

/// The text fields of a wallet file, wiped when dropped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Fields(std::collections::HashMap<String, Option<String>>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Option::as_deref)
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        for value in self.0.values_mut().flatten() {
            value.zeroize();
        }
    }
}

fn bare(digits: &str) -> &str {
    digits.strip_prefix("0x").unwrap_or(digits)
}

fn private_twin(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix("pub.txt")?;
    Some(path.with_file_name(name))
}

fn password_for(path: &Path, passwords: &mut Passwords<'_>) -> Result<Zeroizing<String>, KeyFileError> {
    if let Some(file) = passwords.file {
        let content = read_private(file, PASSWORD_BYTES_MAX)?;
        let text = std::str::from_utf8(&content).map_err(|_foreign| KeyFileError::PasswordFile {
            path: file.to_owned(),
        })?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.contains('\n') {
            return Err(KeyFileError::PasswordFile {
                path: file.to_owned(),
            });
        }
        return Ok(Zeroizing::new(line.to_owned()));
    }
    if let Some(value) = passwords.variable {
        let variable = password_variable(path);
        return reveal(value, &variable).ok_or(KeyFileError::PasswordVariable { variable });
    }
    if let Some(prompt) = passwords.prompt.as_mut() {
        return prompt(path).map_err(|source| KeyFileError::Prompt {
            path: path.to_owned(),
            source,
        });
    }
    Err(KeyFileError::NoPassword {
        path: path.to_owned(),
    })
}

/// The Python wallet hides the password in its variable: base64 of the text XOR the variable's own name.
fn reveal(value: &str, variable: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(STANDARD.decode(value.trim()).ok()?);
    for (byte, key) in bytes.iter_mut().zip(variable.bytes().cycle()) {
        *byte ^= key;
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

fn read_private(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let (file, mode) = open_file(path)?;
    let content = read_all(path, file, limit)?;
    // A public file may be open to all; that it is not the private one is the better message then.
    if !is_public(&content) {
        refuse_shared(path, mode)?;
    }
    Ok(content)
}

fn is_public(content: &[u8]) -> bool {
    matches!(parse(content), Ok(KeyFile::Public(_)))
}

fn refuse_shared(path: &Path, mode: u32) -> Result<(), KeyFileError> {
    if mode & SHARED_BITS == 0 {
        Ok(())
    } else {
        Err(KeyFileError::Shared {
            path: path.to_owned(),
            mode: mode & 0o7777,
        })
    }
}

/// Opens a regular file and returns its mode, taken from the open file so that nobody can swap it in between.
fn open_file(path: &Path) -> Result<(File, u32), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing {
            path: path.to_owned(),
        },
        _ => KeyFileError::Read {
            path: path.to_owned(),
            source,
        },
    };
    // Opening a pipe would wait for its writer, so look before.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    Ok((file, mode))
}

fn read_all(path: &Path, file: File, limit: u64) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut content = Zeroizing::new(Vec::new());
    let read = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|source| KeyFileError::Read {
            path: path.to_owned(),
            source,
        })?;
    if u64::try_from(read).is_ok_and(|read| read <= limit) {
        Ok(content)
    } else {
        Err(KeyFileError::TooLarge {
            path: path.to_owned(),
            limit,
        })
    }
}

/// Writes a file that appears whole or not at all, and only if its name is free.
fn write_new(path: &Path, content: &str) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists {
            path: path.to_owned(),
        },
        _ => KeyFileError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-key-")
        .permissions(fs::Permissions::from_mode(PRIVATE_MODE))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path)
        .map_err(|error| failed(error.error))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}
