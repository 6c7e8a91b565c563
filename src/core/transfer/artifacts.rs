//! Artifacts: small files that travel inside the last message.

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;

use super::folder::{Folder, OpenError};

/// An artifact of this size or more is not sent, in bytes (wire-executor-miner §8).
pub const ARTIFACT_BYTES_MAX: u64 = 1_000_000;

/// The most that all artifacts of a job weigh together, in bytes: as base64 and beside both streams they still fit
/// the 50 MiB that a peer reads.
pub const ARTIFACTS_BYTES_MAX: u64 = 24_000_000;

/// Why an entry of the artifacts' folder is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// It has [`ARTIFACT_BYTES_MAX`] bytes or more.
    TooLarge,
    /// With it, all would have more than [`ARTIFACTS_BYTES_MAX`].
    NoRoom,
    /// A folder, link, pipe or device.
    NotAFile,
}

/// The artifacts of a job, and a verdict for each entry that is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifacts {
    /// Base64 by path inside the container.
    pub files: IndexMap<String, String>,
    /// The names of the others.
    pub left_out: Vec<(String, LeftOut)>,
}

/// Reads the regular files directly in `folder`, which the job knew as `container_path`; blocks.
pub fn collect(folder: &Folder, container_path: &str) -> io::Result<Artifacts> {
    let mut artifacts = Artifacts::default();
    let mut total = 0;
    for name in folder.names()? {
        let mut leave_out = |why| artifacts.left_out.push((name.to_string(), why));
        let file = match folder.read(&name) {
            Ok(file) => file,
            Err(OpenError::NotAFile(_) | OpenError::NotFound(_)) => {
                leave_out(LeftOut::NotAFile);
                continue;
            }
            Err(OpenError::Failed { source, .. }) => return Err(source),
        };
        let mut content = Vec::new();
        file.take(ARTIFACT_BYTES_MAX).read_to_end(&mut content)?;
        let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if bytes >= ARTIFACT_BYTES_MAX {
            leave_out(LeftOut::TooLarge);
        } else if total + bytes > ARTIFACTS_BYTES_MAX {
            leave_out(LeftOut::NoRoom);
        } else {
            total += bytes;
            artifacts
                .files
                .insert(format!("{container_path}/{name}"), STANDARD.encode(content));
        }
    }
    Ok(artifacts)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn regular_files_are_sent_and_every_other_entry_gets_a_verdict() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("a.bin"), "art\n").unwrap();
        fs::write(outside.path().join("big"), vec![0; 1_000_000]).unwrap();
        fs::write(outside.path().join("fits"), vec![0; 999_999]).unwrap();
        fs::create_dir(outside.path().join("dir")).unwrap();
        symlink("/etc/passwd", outside.path().join("link")).unwrap();
        let artifacts = collect(&Folder::open(outside.path()).unwrap(), "/artifacts").unwrap();
        assert_eq!(
            artifacts.files.get("/artifacts/a.bin").map(String::as_str),
            Some("YXJ0Cg==")
        );
        assert_eq!(
            artifacts.files.keys().collect::<Vec<_>>(),
            ["/artifacts/a.bin", "/artifacts/fits"]
        );
        let left_out = [
            ("big", LeftOut::TooLarge),
            ("dir", LeftOut::NotAFile),
            ("link", LeftOut::NotAFile),
        ];
        let left_out = left_out.map(|(name, why)| (name.to_owned(), why));
        assert_eq!(artifacts.left_out, left_out);
    }
}
