//! Fetches the documents and keeps what they said last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::document::read;
use super::keys::{Entry, Key, Values};
use crate::core::clock::Clock;
use crate::core::net::get::Getter;
use crate::core::net::http::ClientError;
use crate::core::store::StoreError;
use crate::core::store::dynamic::{KeptDocument, KeptValue};
use crate::core::store::miner::MinerStore;

/// Time between two readings: 5 min (wire-dynamic-config §1).
const REFRESH: Duration = Duration::from_secs(300);

/// Pauses after readings that failed, before the ordinary one: those of the reference.
const RETRIES: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(180),
];

/// Largest document: the published ones have some ten kilobytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Time for one document.
const DOCUMENT_TIME: Duration = Duration::from_secs(30);

/// Longest text of an error that is kept.
const ERROR_CHARS_MAX: usize = 500;

/// How the reference calls itself (wire-dynamic-config §1).
const USER_AGENT: &str = "backend-developers-ltd";

/// Where a role keeps what it read.
#[async_trait]
pub trait Shelf: std::fmt::Debug + Send + Sync {
    /// Returns every value that was kept.
    async fn values(&self) -> Result<Vec<KeptValue>, StoreError>;

    /// Keeps what a reading brought: values in place of those before, and how it went with each document.
    async fn keep(&self, values: Vec<KeptValue>, documents: Vec<KeptDocument>) -> Result<(), StoreError>;
}

#[async_trait]
impl Shelf for MinerStore {
    async fn values(&self) -> Result<Vec<KeptValue>, StoreError> {
        self.dynamic_values().await
    }

    async fn keep(&self, values: Vec<KeptValue>, documents: Vec<KeptDocument>) -> Result<(), StoreError> {
        self.keep_dynamic(values, documents).await
    }
}

/// A document to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name, which follows the address of the folder.
    pub name: String,
    /// The keys that are taken from it.
    pub keys: Vec<Key>,
}

/// Reads documents again and again.
#[derive(Debug)]
pub struct Keeper {
    folder: String,
    documents: Vec<Document>,
    getter: Getter,
    shelf: Arc<dyn Shelf>,
    clock: Clock,
    values: watch::Sender<Arc<Values>>,
    failures: usize,
}

/// Returns what a role knew when it was last up, to begin with.
pub async fn kept(shelf: &dyn Shelf) -> Result<watch::Sender<Arc<Values>>, StoreError> {
    let kept = shelf.values().await?;
    let values = kept.into_iter().filter_map(|kept| {
        // The table takes no other text than JSON.
        let value = serde_json::from_str(&kept.value).ok()?;
        let entry = Entry {
            value,
            document: kept.document,
            fetched_at: kept.fetched_at,
        };
        Some((kept.key, entry))
    });
    Ok(watch::Sender::new(Arc::new(Values(values.collect()))))
}

impl Keeper {
    /// Makes one that reads `documents`, later ones winning, from the folder at `url`.
    pub fn new(
        url: &str,
        documents: Vec<Document>,
        shelf: Arc<dyn Shelf>,
        clock: Clock,
        values: watch::Sender<Arc<Values>>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            folder: format!("{}/", url.trim_end_matches('/')),
            documents,
            getter: Getter::new(DOCUMENT_TIME, Some(USER_AGENT))?,
            shelf,
            clock,
            values,
            failures: 0,
        })
    }

    /// Reads every document once; returns how long to wait before the next reading.
    pub async fn refresh(&mut self) -> Duration {
        let known = self.values.borrow().0.clone();
        let mut found: BTreeMap<String, Entry> = BTreeMap::new();
        let mut documents = Vec::new();
        for document in &self.documents {
            let (values, error) = self.read(document).await;
            if error.is_some() {
                // What it said before stands against the documents in front of it.
                let before = known.iter().filter(|(_, entry)| entry.document == document.name);
                found.extend(before.map(|(key, entry)| (key.clone(), entry.clone())));
            }
            found.extend(values);
            documents.push(KeptDocument {
                name: document.name.clone(),
                tried_at: self.clock.now(),
                error,
            });
        }
        let is_whole = documents.iter().all(|document| document.error.is_none());
        for document in &documents {
            if let Some(error) = &document.error {
                tracing::warn!(
                    document = document.name,
                    error,
                    "cannot read the dynamic configuration"
                );
            }
        }
        self.take_over(found, documents).await;
        self.failures = if is_whole {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let retry = self
            .failures
            .checked_sub(1)
            .and_then(|failed| RETRIES.get(failed));
        retry.copied().unwrap_or(REFRESH)
    }

    async fn read(&self, document: &Document) -> (Vec<(String, Entry)>, Option<String>) {
        let url = format!("{}{}", self.folder, document.name);
        let text = match self.getter.text(&url, DOCUMENT_BYTES_MAX).await {
            Ok(text) => text,
            Err(error) => return (Vec::new(), Some(words(&error))),
        };
        let now = self.clock.now();
        let is_known = |key: &str| document.keys.iter().any(|known| known.name == key);
        let reading = read(&text, is_known, now);
        let values = reading.values.into_iter().map(|(key, value)| {
            let entry = Entry {
                value,
                document: document.name.clone(),
                fetched_at: now,
            };
            (key, entry)
        });
        (values.collect(), reading.error.as_ref().map(|error| words(error)))
    }

    async fn take_over(&self, found: BTreeMap<String, Entry>, documents: Vec<KeptDocument>) {
        let kept = found.iter().map(|(key, entry)| KeptValue {
            key: key.clone(),
            value: entry.value.to_string(),
            document: entry.document.clone(),
            fetched_at: entry.fetched_at,
        });
        if let Err(error) = self.shelf.keep(kept.collect(), documents).await {
            tracing::error!(%error, "cannot keep the dynamic configuration");
        }
        let mut values = Values::clone(&self.values.borrow());
        for (key, entry) in found {
            let is_new = values
                .0
                .get(&key)
                .is_none_or(|before| before.value != entry.value);
            if is_new {
                tracing::info!(key, value = %entry.value, document = entry.document, "dynamic configuration");
            }
            values.0.insert(key, entry);
        }
        self.values.send_replace(Arc::new(values));
    }
}

/// An error with its sources, in one line of bounded length.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.chars().take(ERROR_CHARS_MAX).collect()
}
