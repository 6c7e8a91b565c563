//! A stand-in for the Hugging Face hub on loopback: revisions, lists in pages, files, and a CDN for the large ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::server::{Reply, Seen, Server, answer};

/// Files of one page of a list.
const PAGE: usize = 2;

/// A repository.
#[derive(Clone, Default)]
pub(super) struct Repository {
    /// Files of each commit; those with large content travel by the CDN.
    pub(super) commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Where branches and tags point.
    pub(super) revisions: BTreeMap<String, String>,
    /// The token that it takes to see it.
    pub(super) token: Option<String>,
    /// Whether its owner lets only some in.
    pub(super) is_gated: bool,
}

/// What the hub does wrong.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Flaw {
    #[default]
    None,
    /// The CDN's bytes are not those of the list.
    Bytes,
    /// The list's sizes are not those of the files.
    Sizes,
    /// The list goes on at another server.
    NextElsewhere,
    /// `main` moves on as soon as it was asked for.
    Moves,
}

/// A hub in progress.
pub(super) struct HubServer {
    pub(super) server: Server,
    cdn: Server,
}

/// Content from which on a file is large, in bytes.
pub(super) const LARGE: usize = 100;

/// Returns the name of a commit.
pub(super) fn commit(number: u8) -> String {
    format!("{number:040x}")
}

impl HubServer {
    /// Starts one; the repositories are named as in addresses: `models/owner/name`.
    pub(super) async fn start(repositories: BTreeMap<String, Repository>, flaw: Flaw) -> Self {
        let repositories = Arc::new(Mutex::new(repositories));
        let files = Arc::clone(&repositories);
        // Another host, so that the token must stay behind.
        let cdn = Server::start_at("127.0.0.2", move |seen, _number| {
            Reply::Bytes(serve_large(&files.lock().unwrap(), seen, flaw))
        })
        .await;
        let large = cdn.url("");
        let server = Server::start(move |seen, _number| {
            Reply::Bytes(serve(&mut repositories.lock().unwrap(), seen, flaw, &large))
        })
        .await;
        Self { server, cdn }
    }

    /// Returns the large files' requests.
    pub(super) fn large(&self) -> Vec<Seen> {
        self.cdn.seen()
    }
}

fn not_found(code: &str) -> Vec<u8> {
    answer("404 Not Found", &[("x-error-code", code)], b"{\"error\": \"no\"}")
}

fn serve_large(repositories: &BTreeMap<String, Repository>, seen: &Seen, flaw: Flaw) -> Vec<u8> {
    let mut parts = seen.path().trim_start_matches('/').splitn(5, '/');
    let mut next = || parts.next().unwrap();
    let id = format!("{}/{}/{}", next(), next(), next());
    let content = &repositories[&id].commits[next()][&next().replace("%20", " ")];
    let mut content = content.clone();
    if flaw == Flaw::Bytes {
        content[0] ^= 1;
    }
    answer("200 OK", &[("etag", "\"v\"")], &content)
}

fn serve(repositories: &mut BTreeMap<String, Repository>, seen: &Seen, flaw: Flaw, cdn: &str) -> Vec<u8> {
    let (path, query) = seen.path().split_once('?').unwrap_or((seen.path(), ""));
    let (id, verb, rest) = parsed(path);
    let Some(repository) = repositories.get_mut(&id) else {
        // The hub does not tell strangers what does not exist from what is closed to them.
        return answer("401 Unauthorized", &[("x-error-code", "RepoNotFound")], b"");
    };
    let token = seen
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    if repository
        .token
        .as_deref()
        .is_some_and(|wanted| token != Some(wanted))
    {
        return answer("401 Unauthorized", &[("x-error-code", "RepoNotFound")], b"");
    }
    if repository.is_gated {
        return answer("403 Forbidden", &[("x-error-code", "GatedRepo")], b"");
    }
    match verb {
        "revision" => {
            let Some(known) = repository.revisions.get(&rest).cloned() else {
                return not_found("RevisionNotFound");
            };
            if flaw == Flaw::Moves {
                repository.revisions.insert(rest, commit(99));
            }
            answer(
                "200 OK",
                &[],
                json!({ "sha": known, "siblings": [] }).to_string().as_bytes(),
            )
        }
        "tree" => list(&repository.commits[&rest], seen, query, flaw),
        _ => {
            let (commit, name) = rest.split_once('/').unwrap();
            let Some(content) = repository.commits[commit].get(&name.replace("%20", " ")) else {
                return not_found("EntryNotFound");
            };
            if content.len() < LARGE {
                return answer("200 OK", &[], content);
            }
            answer(
                "302 Found",
                &[("location", &format!("{cdn}/{id}/{commit}/{name}"))],
                b"",
            )
        }
    }
}

/// Returns the repository, what is asked of it, and the rest.
fn parsed(path: &str) -> (String, &str, String) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (kind, parts) = match parts.as_slice() {
        ["api", kind, rest @ ..] => (*kind, rest),
        ["datasets", rest @ ..] => ("datasets", rest),
        ["spaces", rest @ ..] => ("spaces", rest),
        rest => ("models", rest),
    };
    let [owner, name, verb, rest @ ..] = parts else {
        panic!("the hub has no {path}");
    };
    (
        format!("{kind}/{owner}/{name}"),
        verb,
        rest.join("/").replace("%2F", "/"),
    )
}

fn list(files: &BTreeMap<String, Vec<u8>>, seen: &Seen, query: &str, flaw: Flaw) -> Vec<u8> {
    assert!(query.contains("recursive=true"), "{query}");
    let start: usize = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("cursor="))
        .map_or(0, |cursor| cursor.parse().unwrap());
    let mut entries = vec![json!({ "type": "directory", "path": "d", "oid": "0", "size": 0 })];
    entries.extend(
        files
            .iter()
            .skip(start)
            .take(PAGE)
            .map(|(path, content)| entry(path, content, flaw)),
    );
    let body = Value::from(entries).to_string();
    let next = start + PAGE;
    if next >= files.len() {
        return answer("200 OK", &[], body.as_bytes());
    }
    let host = match flaw {
        Flaw::NextElsewhere => "127.0.0.3:1",
        _ => seen.header("host").unwrap(),
    };
    let path = seen.path().split_once('?').unwrap().0;
    let link = format!("<http://{host}{path}?recursive=true&cursor={next}>; rel=\"next\"");
    answer("200 OK", &[("link", &link)], body.as_bytes())
}

fn entry(path: &str, content: &[u8], flaw: Flaw) -> Value {
    let size = content.len() + usize::from(flaw == Flaw::Sizes);
    if content.len() < LARGE {
        return json!({ "type": "file", "path": path, "oid": "1", "size": size });
    }
    let oid = hex::encode(Sha256::digest(content));
    json!({ "type": "file", "path": path, "oid": "1", "size": size,
            "lfs": { "oid": oid, "size": size, "pointerSize": 134 } })
}
