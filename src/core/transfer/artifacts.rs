//! Artifacts: small files that travel inside the last message.

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;

use super::folder::{Folder, OpenError};
use super::path::RelativePath;

/// An artifact of this size or more is not sent, in bytes (wire-executor-miner §8).
pub const ARTIFACT_BYTES_MAX: u64 = 1_000_000;

/// The most that all artifacts of a job weigh together, in bytes: as base64 and beside both streams they still fit
/// the 50 MiB that a peer reads.
pub const ARTIFACTS_BYTES_MAX: u64 = 24_000_000;

/// The most entries of the artifacts' folder that are looked at.
pub const ARTIFACTS_MAX: usize = 10_000;

/// Why an entry of the artifacts' folder is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// It has [`ARTIFACT_BYTES_MAX`] bytes or more.
    TooLarge,
    /// With it, all would have more than [`ARTIFACTS_BYTES_MAX`].
    NoRoom,
    /// A folder, link, pipe, socket or device.
    NotAFile,
    /// Its name is no text, so that no message can carry it.
    NotText,
    /// The job took the right to read it away.
    Denied,
}

impl LeftOut {
    /// Returns the word for it on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
            Self::NotAFile => "not_a_regular_file",
            Self::NotText => "name_not_text",
            Self::Denied => "not_readable",
        }
    }
}

/// The artifacts of a job, and a verdict for each entry that is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifacts {
    /// Base64 by path inside the container.
    pub files: IndexMap<String, String>,
    /// The paths inside the container of the others.
    pub left_out: Vec<(String, LeftOut)>,
    /// How many entries there are beyond [`ARTIFACTS_MAX`], none of which is sent.
    pub more: usize,
}

/// Reads the regular files directly in `folder`, which the job knew as `container_path`; blocks.
pub fn collect(folder: &Folder, container_path: &str) -> io::Result<Artifacts> {
    let names = folder.names(ARTIFACTS_MAX)?;
    let mut artifacts = Artifacts {
        more: names.more,
        ..Artifacts::default()
    };
    let mut room = ARTIFACTS_BYTES_MAX;
    for name in names.plain {
        let path = format!("{container_path}/{name}");
        match read(folder, &name, &mut room)? {
            Ok(content) => {
                artifacts.files.insert(path, STANDARD.encode(content));
            }
            Err(why) => artifacts.left_out.push((path, why)),
        }
    }
    for name in names.odd {
        artifacts
            .left_out
            .push((format!("{container_path}/{name}"), LeftOut::NotText));
    }
    Ok(artifacts)
}

/// Reads one file, or says why not; a file that still grows is read to its bound only.
fn read(folder: &Folder, name: &RelativePath, room: &mut u64) -> io::Result<Result<Vec<u8>, LeftOut>> {
    let file = match folder.read(name) {
        Ok(file) => file,
        Err(OpenError::NotAFile(_) | OpenError::NotFound(_)) => return Ok(Err(LeftOut::NotAFile)),
        Err(OpenError::Denied(_)) => return Ok(Err(LeftOut::Denied)),
        Err(OpenError::Failed { source, .. }) => return Err(source),
    };
    // Asked before it is read: a hole of a terabyte costs nothing.
    if file.metadata()?.len() >= ARTIFACT_BYTES_MAX {
        return Ok(Err(LeftOut::TooLarge));
    }
    let mut content = Vec::new();
    file.take(ARTIFACT_BYTES_MAX).read_to_end(&mut content)?;
    let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if bytes >= ARTIFACT_BYTES_MAX {
        return Ok(Err(LeftOut::TooLarge));
    }
    let Some(left) = room.checked_sub(bytes) else {
        return Ok(Err(LeftOut::NoRoom));
    };
    *room = left;
    Ok(Ok(content))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
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
        let odd = std::ffi::OsStr::from_bytes(b"odd-\xff");
        fs::write(outside.path().join(odd), "x").unwrap();
        let hole = fs::File::create(outside.path().join("hole")).unwrap();
        hole.set_len(1 << 40).unwrap();
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
            ("hole", LeftOut::TooLarge),
            ("link", LeftOut::NotAFile),
            ("odd-\u{fffd}", LeftOut::NotText),
        ];
        let left_out = left_out.map(|(name, why)| (format!("/artifacts/{name}"), why));
        assert_eq!(artifacts.left_out, left_out);
        assert_eq!(artifacts.more, 0);
    }

    #[test]
    fn all_artifacts_together_fit_one_message_and_the_rest_is_counted() {
        let outside = tempfile::tempdir().unwrap();
        for number in 0..25 {
            fs::write(outside.path().join(format!("{number:02}")), vec![0; 999_999]).unwrap();
        }
        let folder = Folder::open(outside.path()).unwrap();
        let artifacts = collect(&folder, "/a").unwrap();
        assert_eq!(artifacts.files.len(), 24);
        assert_eq!(artifacts.left_out, [("/a/24".to_owned(), LeftOut::NoRoom)]);
        assert_eq!(folder.names(20).unwrap().more, 5);
    }
}
