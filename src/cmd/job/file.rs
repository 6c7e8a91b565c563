//! `--file`: a job file, read and told with all that is wrong in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::core::client::draft::Draft;
use crate::core::client::jobfile::{FILE_BYTES_MAX, parse};

/// Reads a job file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Draft, CmdError> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    };
    let tried = format!("could not read the job file {name}");
    let mut text = String::new();
    let read = if is_stdin {
        io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ExitCode::NotFound,
            _ => ExitCode::Usage,
        };
        CmdError::new(code, tried.clone())
            .caused_by(&error)
            .hint("`horde job submit --example > job.toml` writes one to begin with")
    })?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        let words = format!("the job file {name} has more than {FILE_BYTES_MAX} bytes");
        return Err(CmdError::new(ExitCode::Usage, words));
    }
    let folder = if is_stdin { None } else { path.parent() };
    parse(&text, folder.unwrap_or(Path::new(""))).map_err(|problems| CmdError {
        causes: problems
            .iter()
            .map(|problem| format!("{name}:{problem}"))
            .collect(),
        ..CmdError::new(ExitCode::Usage, format!("the job file {name} cannot be used"))
            .hint("`horde job submit --example` shows every field")
    })
}

/// Reads the text of a file of variables.
pub(super) fn read_variables(path: &Path) -> Result<String, CmdError> {
    let tried = format!("could not read {}", path.display());
    let mut text = String::new();
    let file = File::open(path).or_fail(ExitCode::Usage, tried.clone())?;
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .or_fail(ExitCode::Usage, tried)?;
    Ok(text)
}
