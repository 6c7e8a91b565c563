//! Bytes into and out of a job: the real downloader and uploader against servers that the test plays, well and badly.

mod hostile;
mod hub;
mod hub_server;
mod server;
mod uploads;
mod volumes;
mod zips;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use horde::core::model::volume::Volume;
use horde::core::transfer::address::Policy;
use horde::core::transfer::download::{DownloadError, Downloader};
use horde::core::transfer::folder::Folder;
use serde_json::Value;
use tempfile::TempDir;

/// The most that one download of these tests may weigh.
const BYTES_MAX: u64 = 1_000_000;

/// Everything on loopback is allowed, and nothing else.
fn loopback() -> Arc<Policy> {
    Arc::new(Policy::new(vec!["127.0.0.0/8".parse().unwrap()]))
}

fn downloader() -> Downloader {
    Downloader::new(BYTES_MAX, loopback())
}

/// The folders of a job.
struct Job {
    dir: TempDir,
}

impl Job {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["volume", "scratch", "output"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::open(&self.path(name)).unwrap()
    }

    async fn fetch(&self, downloader: &Downloader, volume: Value) -> Result<(), DownloadError> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let result = downloader
            .fetch(volume, &self.folder("volume"), &self.path("scratch"))
            .await;
        assert_eq!(
            fs::read_dir(self.path("scratch")).unwrap().count(),
            0,
            "scratch is left"
        );
        result
    }

    /// Returns the regular files of the volume.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(dir: &Path, root: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                assert!(kind.is_dir() || kind.is_file(), "{}", path.display());
                if kind.is_dir() {
                    walk(&path, root, files);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let (mut files, root) = (BTreeMap::new(), self.path("volume"));
        walk(&root, &root, &mut files);
        files
    }
}

/// Writes an error with all its causes, as the miner gets it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
