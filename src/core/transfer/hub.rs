//! Snapshots of Hugging Face repositories: one commit, listed, filtered, fetched side by side, checked.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::core::model::volume::{HuggingfaceVolume, Patterns, RepoType};

use super::fetch::{FetchError, Fetched, Request, fetch};
use super::folder::Folder;
use super::glob::{GlobError, Globs};
use super::guard::{GuardedClient, HopError, parse_url};
use super::path::{PathError, RelativePath};

/// The hub that the reference knows.
pub const PUBLIC_HUB: &str = "https://huggingface.co";

/// How many files are fetched side by side.
const SIDE_BY_SIDE: usize = 4;

/// The largest answer of the hub's own interface, in bytes. It lists 1000 files at a time.
const PAGE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The most pages of one list.
const PAGES_MAX: usize = 1000;

/// The longest part of a repository's name, and the longest name of a revision, in bytes. The hub allows 96 and what
/// git allows.
const NAME_BYTES_MAX: usize = 255;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The operator's address of the hub is none that may be reached.
    #[error("the hub cannot be asked")]
    Address(#[source] HopError),
    /// The name is none.
    #[error("`{0}` is not the name of a repository")]
    BadRepository(String),
    /// The revision is none.
    #[error("`{0}` is not the name of a revision")]
    BadRevision(String),
    /// The token cannot travel.
    #[error("the access token has characters that no token has")]
    BadToken,
    /// The patterns cannot be used.
    #[error(transparent)]
    Patterns(#[from] GlobError),
    /// The hub does not know it, or not for this token.
    #[error("the hub has no repository {0}, or the access token does not open it")]
    NoRepository(String),
    /// The hub does not know the revision.
    #[error("the hub's repository {repository} has no revision {revision}")]
    NoRevision {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// Its owner lets only some people in.
    #[error("the hub's repository {0} is gated, and the access token does not open it")]
    Gated(String),
    /// The hub's words make no sense.
    #[error("the hub's answer makes no sense: {0}")]
    Nonsense(String),
    /// A file of the repository would lie elsewhere.
    #[error("a file of the repository was refused")]
    BadName(#[source] PathError),
    /// Two files of the repository contradict each other, or something that is there already.
    #[error("the repository's file `{0}` cannot be placed: it is in the way of another")]
    InTheWay(RelativePath),
    /// More files than allowed.
    #[error("the snapshot has more than {max} files")]
    TooManyFiles {
        /// The bound.
        max: u64,
    },
    /// More bytes than allowed.
    #[error("the snapshot has {got} bytes, more than the {max} that the executor's operator allows")]
    TooLarge {
        /// What the hub announces.
        got: u64,
        /// The bound.
        max: u64,
    },
    /// More bytes than there is room.
    #[error("the snapshot has {got} bytes, and the executor's disk has room for {free}")]
    NoRoom {
        /// What the hub announces.
        got: u64,
        /// What is free.
        free: u64,
    },
    /// The hub, or what it points to, could not be reached or said no.
    #[error("could not fetch from the hub")]
    Fetch(#[source] FetchError),
    /// Our own disk or machine failed: not the job's fault.
    #[error("the snapshot could not be stored")]
    Local(#[source] io::Error),
}

impl From<FetchError> for HubError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Local(source) => Self::Local(source),
            other => Self::Fetch(other),
        }
    }
}

/// A hub, and what its operator's account may see of it.
#[derive(Clone)]
pub struct Hub {
    url: String,
    token: Option<String>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, token } = self;
        formatter
            .debug_struct("Hub")
            .field("url", url)
            .field("has_token", &token.is_some())
            .finish()
    }
}

impl Default for Hub {
    /// The public hub, without an account.
    fn default() -> Self {
        Self::new(PUBLIC_HUB, None)
    }
}

impl Hub {
    /// Makes one; `token` serves volumes that bring none.
    pub fn new(url: impl Into<String>, token: Option<String>) -> Self {
        Self {
            url: url.into(),
            token,
        }
    }

    /// Puts a snapshot where it belongs, within the bounds given there.
    pub(super) async fn snapshot(
        &self,
        client: &GuardedClient,
        volume: &HuggingfaceVolume,
        target: &Target<'_>,
        may_use_own_token: bool,
    ) -> Result<Snapshot, HubError> {
        let own = self.token.as_ref().filter(|_| may_use_own_token);
        let token = volume.token.as_ref().or(own).map(String::as_str);
        let repository = Repository::new(&self.url, volume, token, client)?;
        let commit = repository.commit(client, target.scratch).await?;
        tracing::info!(repository = volume.repo_id, commit, "fetching a snapshot");
        let listed = repository.list(client, &commit, target).await?;
        let files = select(volume.allow_patterns.clone(), listed, target.base).await?;
        let count = u64::try_from(files.len()).unwrap_or(u64::MAX);
        if count > target.files_max {
            return Err(HubError::TooManyFiles {
                max: target.files_max,
            });
        }
        let bytes = check_room(&files, target)?;
        if let Some(base) = target.base {
            target
                .folder
                .make_folder(base)
                .map_err(|error| placing(error, base))?;
        }
        stream::iter(files)
            .map(|file| repository.fetch(client, &commit, file, target.folder))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<()>()
            .await?;
        Ok(Snapshot { files: count, bytes })
    }
}

/// Returns how many bytes the files have by the hub's word, if there is room for them.
fn check_room(files: &[HubFile], target: &Target<'_>) -> Result<u64, HubError> {
    let got = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    let max = target.bytes_max;
    if got > max {
        return Err(HubError::TooLarge { got, max });
    }
    let free = target.folder.free_bytes().map_err(HubError::Local)?;
    if got > free {
        return Err(HubError::NoRoom { got, free });
    }
    Ok(got)
}

/// What a snapshot cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Where a snapshot goes.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) folder: &'a Folder,
    pub(super) base: Option<&'a RelativePath>,
    pub(super) scratch: &'a Path,
    pub(super) files_max: u64,
    pub(super) bytes_max: u64,
}

/// A repository, and how it is asked for.
struct Repository {
    /// `owner/name`, for people.
    id: String,
    revision: String,
    /// The hub's interface for it: `…/api/models/owner/name`.
    api: Url,
    /// Its files: `…/owner/name`.
    files: Url,
    headers: HeaderMap,
}

/// A file of the hub's list.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// What is known of a large file.
#[derive(Debug, Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// A wanted file.
#[derive(Debug)]
struct HubFile {
    /// In the repository.
    name: RelativePath,
    /// In the volume.
    path: RelativePath,
    bytes: u64,
    sha256: Option<[u8; 32]>,
}

impl Repository {
    fn new(
        hub: &str,
        volume: &HuggingfaceVolume,
        token: Option<&str>,
        client: &GuardedClient,
    ) -> Result<Self, HubError> {
        let parts = repository_parts(&volume.repo_id)
            .ok_or_else(|| HubError::BadRepository(shown(&volume.repo_id)))?;
        let revision = volume
            .revision
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or("main");
        if revision.len() > NAME_BYTES_MAX || matches!(revision, "." | "..") || revision.contains('\0') {
            return Err(HubError::BadRevision(shown(revision)));
        }
        let hub = parse_url(client.policy(), hub).map_err(HubError::Address)?;
        let (kind, prefix) = match volume.repo_type {
            None | Some(RepoType::Model) => ("models", None),
            Some(RepoType::Dataset) => ("datasets", Some("datasets")),
            Some(RepoType::Space) => ("spaces", Some("spaces")),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_error| HubError::BadToken)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let api = ["api", kind].into_iter().chain(parts.iter().copied());
        Ok(Self {
            id: volume.repo_id.clone(),
            revision: revision.to_owned(),
            api: below(&hub, api)?,
            files: below(&hub, prefix.into_iter().chain(parts.iter().copied()))?,
            headers,
        })
    }

    /// Resolves the revision, once: what is listed and what is fetched are of one commit.
    async fn commit(&self, client: &GuardedClient, scratch: &Path) -> Result<String, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
        }
        let url = below(&self.api, ["revision", self.revision.as_str()])?;
        let (info, _next) = self.ask::<Info>(client, url, scratch).await?;
        let is_commit =
            (40..=64).contains(&info.sha.len()) && info.sha.bytes().all(|b| b.is_ascii_hexdigit());
        if is_commit {
            Ok(info.sha)
        } else {
            Err(HubError::Nonsense("it names no commit".to_owned()))
        }
    }

    async fn list(
        &self,
        client: &GuardedClient,
        commit: &str,
        target: &Target<'_>,
    ) -> Result<Vec<Entry>, HubError> {
        let mut url = below(&self.api, ["tree", commit])?;
        url.query_pairs_mut().append_pair("recursive", "true");
        let mut files = Vec::new();
        for _ in 0..PAGES_MAX {
            let (page, next) = self
                .ask::<Vec<Entry>>(client, url.clone(), target.scratch)
                .await?;
            files.extend(page.into_iter().filter(|entry| entry.kind == "file"));
            // Ten times what may be fetched may be listed: patterns choose from it.
            if u64::try_from(files.len()).unwrap_or(u64::MAX) > target.files_max.saturating_mul(10) {
                return Err(HubError::TooManyFiles {
                    max: target.files_max,
                });
            }
            let Some(next) = next else {
                return Ok(files);
            };
            // The token goes with it.
            if next.origin() != url.origin() {
                return Err(HubError::Nonsense("its list goes on elsewhere".to_owned()));
            }
            url = next;
        }
        Err(HubError::Nonsense(format!(
            "its list has more than {PAGES_MAX} pages"
        )))
    }

    /// Asks the hub's interface; returns its answer and where that goes on.
    async fn ask<T: DeserializeOwned>(
        &self,
        client: &GuardedClient,
        url: Url,
        scratch: &Path,
    ) -> Result<(T, Option<Url>), HubError> {
        let request = Request {
            headers: self.headers.clone(),
            ..Request::new(url.clone(), PAGE_BYTES_MAX)
        };
        let file = tempfile::tempfile_in(scratch).map_err(HubError::Local)?;
        let fetched = fetch(client, request, file)
            .await
            .map_err(|error| self.explain(error))?;
        let next = next_page(&fetched.headers, &url);
        let Fetched { mut file, .. } = fetched;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(HubError::Local)?;
        let answer = serde_json::from_slice(&text).map_err(|error| HubError::Nonsense(error.to_string()))?;
        Ok((answer, next))
    }

    async fn fetch(
        &self,
        client: &GuardedClient,
        commit: &str,
        wanted: HubFile,
        folder: &Folder,
    ) -> Result<(), HubError> {
        let parts = wanted.name.as_str().split('/');
        let url = below(&self.files, ["resolve", commit].into_iter().chain(parts))?;
        let request = Request {
            headers: self.headers.clone(),
            bytes: Some(wanted.bytes),
            sha256: wanted.sha256,
            ..Request::new(url, wanted.bytes)
        };
        let file: File = folder
            .create(&wanted.path)
            .map_err(|error| placing(error, &wanted.path))?;
        fetch(client, request, file)
            .await
            .map_err(|error| self.explain(error))?;
        Ok(())
    }

    /// Turns the hub's refusals into words.
    fn explain(&self, error: FetchError) -> HubError {
        let FetchError::Status { status, code } = &error else {
            return error.into();
        };
        match (code.as_deref(), *status) {
            (Some("RevisionNotFound"), _) => HubError::NoRevision {
                repository: self.id.clone(),
                revision: self.revision.clone(),
            },
            (Some("GatedRepo"), _) => HubError::Gated(self.id.clone()),
            (Some("RepoNotFound"), _) | (None, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND) => {
                HubError::NoRepository(self.id.clone())
            }
            _ => error.into(),
        }
    }
}

/// Chooses files and places them; a file that would lie elsewhere refuses the whole.
async fn select(
    patterns: Option<Patterns>,
    listed: Vec<Entry>,
    base: Option<&RelativePath>,
) -> Result<Vec<HubFile>, HubError> {
    let base = base.cloned();
    let choose = move || {
        let mut globs = match patterns {
            None => None,
            Some(Patterns::One(one)) => Some(Globs::parse(&[one])?),
            Some(Patterns::Many(many)) => Some(Globs::parse(&many)?),
        };
        let (mut files, mut names) = (Vec::new(), HashSet::new());
        for entry in listed {
            let is_wanted = match &mut globs {
                Some(globs) => globs.matches(&entry.path)?,
                None => true,
            };
            if is_wanted {
                let file = place(entry, base.as_ref())?;
                if !names.insert(file.name.clone()) {
                    return Err(HubError::Nonsense(format!("it lists `{}` twice", file.name)));
                }
                files.push(file);
            }
        }
        Ok(files)
    };
    // Patterns may take a second.
    tokio::task::spawn_blocking(choose)
        .await
        .map_err(|error| HubError::Local(io::Error::other(error)))?
}

fn place(entry: Entry, base: Option<&RelativePath>) -> Result<HubFile, HubError> {
    let name = RelativePath::parse(&entry.path).map_err(HubError::BadName)?;
    let path = name.below(base).map_err(HubError::BadName)?;
    let sha256 = match &entry.lfs {
        None => None,
        Some(lfs) => {
            let mut digest = [0; 32];
            hex::decode_to_slice(&lfs.oid, &mut digest)
                .map_err(|_error| HubError::Nonsense(format!("`{name}` has no SHA-256")))?;
            Some(digest)
        }
    };
    Ok(HubFile {
        name,
        path,
        bytes: entry.lfs.map_or(entry.size, |lfs| lfs.size),
        sha256,
    })
}

/// Returns the owner, if any, and the name; nothing where a part could mean something else in a URL.
fn repository_parts(id: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = id.split('/').collect();
    let is_part = |part: &&str| {
        !part.is_empty()
            && part.len() <= NAME_BYTES_MAX
            && !matches!(*part, "." | "..")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    (parts.len() <= 2 && parts.iter().all(is_part)).then_some(parts)
}

/// Appends parts to an address, each of them escaped.
fn below<'a>(url: &Url, parts: impl IntoIterator<Item = &'a str>) -> Result<Url, HubError> {
    let mut url = url.clone();
    url.path_segments_mut()
        .map_err(|()| HubError::Address(HopError::BadUrl))?
        .pop_if_empty()
        .extend(parts);
    Ok(url)
}

/// Returns the address of the next page (RFC 8288).
fn next_page(headers: &HeaderMap, here: &Url) -> Option<Url> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    let mut links = links.flat_map(|links| links.split(','));
    let next = links.find(|link| link.contains("rel=\"next\""))?;
    let (_before, target) = next.split_once('<')?;
    let (target, _behind) = target.split_once('>')?;
    here.join(target).ok()
}

fn placing(error: io::Error, path: &RelativePath) -> HubError {
    match error.kind() {
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => HubError::InTheWay(path.clone()),
        _ => HubError::Local(error),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
