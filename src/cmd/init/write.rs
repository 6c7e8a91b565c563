//! What `horde init` reads and writes: the words of a key, a directory, a file and the copy of the one before.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::core::crypto::keyfile::NewHotkey;

/// Bytes of the longest file of twelve words.
const WORDS_BYTES_MAX: u64 = 1024;

/// Most copies that are kept beside each other.
const BACKUPS_MAX: u32 = 100;

/// A file to write.
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Where what is there goes.
    pub(super) backup: Option<PathBuf>,
}

/// Returns the name of the copy of a file, if there is one to copy.
pub(super) fn backup_of(path: &Path) -> Result<Option<PathBuf>, CmdError> {
    if !path.exists() {
        return Ok(None);
    }
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}.bak"));
        PathBuf::from(name)
    };
    let free = (1..=BACKUPS_MAX).map(name).find(|copy| !copy.exists());
    free.map(Some).ok_or_else(|| {
        let words = format!("there are {BACKUPS_MAX} copies of {} already", path.display());
        CmdError::new(ExitCode::Conflict, words).hint("remove those that are not needed")
    })
}

/// Makes a directory that only its owner may enter, unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), CmdError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_fail(ExitCode::Failed, format!("could not make {}", path.display()))
}

/// Writes a file, whole or not at all, after a copy of the one before; one that came meanwhile is left as it is.
pub(super) fn write_file(file: &NewFile) -> Result<(), CmdError> {
    written(file).or_fail(
        ExitCode::Failed,
        format!("could not write {}", file.path.display()),
    )
}

fn written(file: &NewFile) -> io::Result<()> {
    let folder = file.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut fresh = tempfile::Builder::new()
        .prefix(".horde")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    fresh.write_all(file.text.as_bytes())?;
    fresh.as_file().sync_all()?;
    if let Some(backup) = &file.backup {
        std::fs::copy(&file.path, backup)?;
        fresh.persist(&file.path)
    } else {
        fresh.persist_noclobber(&file.path)
    }
    .map_err(|error| error.error)?;
    Ok(())
}

/// Restores a hotkey from the words in a file or, for `-`, on standard input.
pub(super) fn restored(file: &Path) -> Result<NewHotkey, CmdError> {
    let tried = "could not read the words of the key";
    let mut words = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        io::stdin()
            .lock()
            .take(WORDS_BYTES_MAX)
            .read_to_string(&mut words)
    } else {
        let opened = File::open(file).or_fail(ExitCode::NotFound, tried)?;
        opened.take(WORDS_BYTES_MAX).read_to_string(&mut words)
    };
    read.or_fail(ExitCode::Failed, tried)?;
    NewHotkey::restore(&words).or_fail(ExitCode::Refused, tried)
}
