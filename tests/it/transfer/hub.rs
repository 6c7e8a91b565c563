//! Snapshots of repositories, from a hub that the test plays.

use std::collections::BTreeMap;

use horde::core::transfer::download::Downloader;
use horde::core::transfer::hub::Hub;
use serde_json::{Value, json};

use super::hub_server::{Flaw, HubServer, Repository, commit};
use super::{BYTES_MAX, Job, downloader, told};

fn files(names: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    let owned = names
        .iter()
        .map(|(name, content)| ((*name).to_owned(), content.to_vec()));
    owned.collect()
}

/// A repository of two commits, the second of which is `main`.
fn repository() -> Repository {
    let old = files(&[("README.md", b"old")]);
    let new = files(&[
        ("README.md", b"new"),
        ("config.json", b"{}"),
        ("d/notes 1.txt", b"n"),
        ("d/model.safetensors", &[b'm'; 5000]),
        ("d/e/model.bin", &[b'b'; 3000]),
    ]);
    let revisions = [("main", 2), ("v1", 1), ("refs/pr/1", 1), (&commit(1), 1)];
    Repository {
        commits: [(commit(1), old), (commit(2), new)].into(),
        revisions: revisions
            .map(|(name, number)| (name.to_owned(), commit(number)))
            .into(),
        ..Repository::default()
    }
}

async fn hub(flaw: Flaw) -> HubServer {
    let private = Repository {
        token: Some("hf_user".to_owned()),
        ..repository()
    };
    let operators = Repository {
        token: Some("hf_operator".to_owned()),
        ..repository()
    };
    let gated = Repository {
        is_gated: true,
        ..repository()
    };
    let hostile = |name: &str| Repository {
        commits: [(commit(1), files(&[(name, b"x")]))].into(),
        revisions: [("main".to_owned(), commit(1))].into(),
        ..Repository::default()
    };
    let repositories = [
        ("models/o/n", repository()),
        ("datasets/o/n", repository()),
        ("models/o/private", private),
        ("models/o/operators", operators),
        ("models/o/gated", gated),
        ("models/o/climbs", hostile("../escaped")),
        ("models/o/absolute", hostile("/etc/escaped")),
    ];
    let repositories = repositories.map(|(name, repository)| (name.to_owned(), repository));
    HubServer::start(repositories.into(), flaw).await
}

fn downloader_of(hub: &HubServer) -> Downloader {
    downloader().with_hub(Hub::new(hub.server.url(""), Some("hf_operator".to_owned())))
}

fn volume(repo: &str, more: &Value) -> Value {
    let mut volume = json!({ "volume_type": "huggingface_volume", "repo_id": repo });
    volume
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    volume
}

async fn snapshot(hub: &HubServer, volume: Value) -> Result<Vec<String>, String> {
    let job = Job::new();
    match job.fetch(&downloader_of(hub), volume).await {
        Ok(()) => Ok(job.files().into_keys().collect()),
        Err(error) => Err(told(&error)),
    }
}

#[tokio::test]
async fn a_snapshot_is_the_tree_of_one_commit() {
    let (hub, job) = (hub(Flaw::None).await, Job::new());
    job.fetch(&downloader_of(&hub), volume("o/n", &json!({})))
        .await
        .unwrap();
    assert_eq!(job.files(), repository().commits[&commit(2)]);
    assert_eq!(hub.large().len(), 2);
    for seen in hub.large() {
        assert_eq!(seen.header("authorization"), None, "the token stays with the hub");
    }
    for seen in hub.server.seen() {
        assert_eq!(
            seen.header("authorization"),
            Some("Bearer hf_operator"),
            "{}",
            seen.line
        );
    }
}

#[tokio::test]
async fn revision_kind_folder_and_patterns_choose_what_is_fetched() {
    let hub = hub(Flaw::None).await;
    let all = [
        "README.md",
        "config.json",
        "d/e/model.bin",
        "d/model.safetensors",
        "d/notes 1.txt",
    ];
    for (more, wanted) in [
        (json!({ "repo_type": "dataset" }), &all[..]),
        (json!({ "repo_type": "model", "revision": "main" }), &all[..]),
        (json!({ "revision": "v1" }), &["README.md"]),
        (json!({ "revision": "refs/pr/1" }), &["README.md"]),
        (
            json!({ "revision": commit(1), "relative_path": "a/b/" }),
            &["a/b/README.md"],
        ),
        (json!({ "allow_patterns": "*.json" }), &["config.json"]),
        (
            json!({ "allow_patterns": "*model*" }),
            &["d/e/model.bin", "d/model.safetensors"],
        ),
        (
            json!({ "allow_patterns": ["d/", "README.??"] }),
            &[
                "README.md",
                "d/e/model.bin",
                "d/model.safetensors",
                "d/notes 1.txt",
            ],
        ),
        (json!({ "allow_patterns": ["none"] }), &[]),
        (json!({ "allow_patterns": [] }), &[]),
    ] {
        let got = snapshot(&hub, volume("o/n", &more)).await.unwrap();
        assert_eq!(got, wanted, "{more}");
    }
}

#[tokio::test]
async fn the_operators_account_serves_only_a_volume_that_stands_alone() {
    let hub = hub(Flaw::None).await;
    let multi = |volume: Value| json!({ "volume_type": "multi_volume", "volumes": [volume] });
    let closed = "the access token does not open it";
    for (volume, outcome) in [
        (volume("o/operators", &json!({})), None),
        (multi(volume("o/operators", &json!({}))), Some(closed)),
        (volume("o/private", &json!({})), Some(closed)),
        (volume("o/private", &json!({ "token": "hf_user" })), None),
        (multi(volume("o/private", &json!({ "token": "hf_user" }))), None),
        (
            volume("o/private", &json!({ "token": "bad\nheader" })),
            Some("has characters that no token has"),
        ),
    ] {
        let result = snapshot(&hub, volume.clone()).await;
        assert_eq!(result.is_ok(), outcome.is_none(), "{volume}: {result:?}");
        if let Some(words) = outcome {
            let error = result.unwrap_err();
            assert!(error.contains(words) && !error.contains("hf_"), "{error}");
        }
    }
}

#[tokio::test]
async fn what_the_hub_does_not_have_is_told_in_words_and_asked_for_once() {
    let hub = hub(Flaw::None).await;
    for (repo, more, words, requests) in [
        ("o/none", json!({}), "no repository o/none", 1),
        ("o/gated", json!({}), "o/gated is gated", 1),
        (
            "o/n",
            json!({ "revision": "none" }),
            "o/n has no revision none",
            1,
        ),
        ("o/climbs", json!({}), "leaves its folder", 2),
        ("o/absolute", json!({}), "absolute path", 2),
        ("../etc", json!({}), "is not the name of a repository", 0),
        ("a/b/c", json!({}), "is not the name of a repository", 0),
        ("o/..", json!({}), "is not the name of a repository", 0),
        ("o/n?x", json!({}), "is not the name of a repository", 0),
        (
            "o/n",
            json!({ "revision": ".." }),
            "is not the name of a revision",
            0,
        ),
        (
            "o/n",
            json!({ "relative_path": "../x" }),
            "relative_path was refused",
            0,
        ),
        (
            "o/n",
            json!({ "allow_patterns": "x".repeat(1025) }),
            "an allow_pattern has more than",
            4,
        ),
    ] {
        let before = hub.server.seen().len();
        let error = snapshot(&hub, volume(repo, &more)).await.unwrap_err();
        assert!(error.contains(words), "{repo} {more}: {error}");
        assert_eq!(hub.server.seen().len() - before, requests, "{repo} {more}");
    }
}

#[tokio::test]
async fn a_hub_that_lies_is_not_believed() {
    for (flaw, words) in [
        (Flaw::Bytes, "SHA-256 is not the announced one"),
        (Flaw::Sizes, "should have another number"),
        (Flaw::NextElsewhere, "its list goes on elsewhere"),
    ] {
        let hub = hub(flaw).await;
        let wanted = volume("o/n", &json!({ "allow_patterns": "d/model*" }));
        let error = snapshot(&hub, wanted).await.unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    // A branch that moves between two questions does not mix two commits.
    let hub = hub(Flaw::Moves).await;
    assert_eq!(snapshot(&hub, volume("o/n", &json!({}))).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_snapshot_over_its_bounds_is_refused_before_a_file_is_fetched() {
    let (hub, job) = (hub(Flaw::None).await, Job::new());
    let tight = downloader_of(&hub).within(8000);
    let error = job.fetch(&tight, volume("o/n", &json!({}))).await.unwrap_err();
    assert!(
        told(&error).contains("8006 bytes, more than the 8000"),
        "{}",
        told(&error)
    );
    assert_eq!((job.files().len(), hub.large().len()), (0, 0));
    // Only what is wanted counts.
    let few = volume("o/n", &json!({ "allow_patterns": "*.json" }));
    job.fetch(&tight, few).await.unwrap();
    // A hub that the operator's policy does not open is not asked.
    let shut =
        Downloader::new(BYTES_MAX, std::sync::Arc::default()).with_hub(Hub::new(hub.server.url(""), None));
    let error = job.fetch(&shut, volume("o/n", &json!({}))).await.unwrap_err();
    assert!(told(&error).contains("a loopback address"), "{}", told(&error));
}
