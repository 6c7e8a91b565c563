//! The identities of jobs that were submitted from here lately: for shells to offer. A convenience; nothing is owed to it,
//! so what cannot be read or written is left.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::core::config::Environment;
use crate::core::model::JobId;

/// Identities that are kept.
const KEPT_MAX: usize = 200;

/// Bytes of the file that are read.
const BYTES_MAX: u64 = 64 * 1024;

fn file(environment: &Environment) -> Option<PathBuf> {
    Some(environment.data_home()?.join("horde/recent-jobs"))
}

/// Returns the identities, newest first.
pub(in crate::cmd) fn read(environment: &Environment) -> Vec<String> {
    let Some(file) = file(environment) else {
        return Vec::new();
    };
    let mut text = String::new();
    let opened = fs::File::open(file).map(|file| file.take(BYTES_MAX));
    if opened
        .and_then(|mut file| file.read_to_string(&mut text))
        .is_err()
    {
        return Vec::new();
    }
    text.lines().rev().map(str::to_owned).collect()
}

/// Notes a job that was submitted.
pub(super) fn note(environment: &Environment, job: &JobId) {
    let Some(file) = file(environment) else { return };
    let mut known = read(environment);
    known.retain(|other| other != job.as_str());
    known.truncate(KEPT_MAX - 1);
    known.reverse();
    known.push(job.to_string());
    if let Err(error) = write(&file, &known) {
        tracing::debug!(%error, "the job was not noted for completions");
    }
}

/// Replaces the file as a whole; `tempfile` makes it for its owner alone.
fn write(file: &Path, jobs: &[String]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    for job in jobs {
        writeln!(new, "{job}")?;
    }
    new.persist(file).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_each_once_and_not_too_many() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("XDG_DATA_HOME", home.path())]);
        assert!(read(&environment).is_empty());
        for number in 0..KEPT_MAX + 5 {
            note(&environment, &JobId::new(format!("job-{number}")));
        }
        note(&environment, &JobId::new("job-100"));
        let read = read(&environment);
        assert_eq!(read.len(), KEPT_MAX);
        assert_eq!(read.first().unwrap(), "job-100");
        assert_eq!(read.iter().filter(|job| *job == "job-100").count(), 1);
    }
}
