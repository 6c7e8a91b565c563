//! Rows of the dynamic configuration, for the databases of the roles that have one.

use rusqlite::Connection;
use time::OffsetDateTime;

use super::StoreError;
use crate::core::store::times::{micros, moment};

/// A value as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptValue {
    /// Its key.
    pub key: String,
    /// JSON.
    pub value: String,
    /// The document that set it.
    pub document: String,
    /// When it was last read there.
    pub fetched_at: OffsetDateTime,
}

/// How the last reading of a document went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDocument {
    /// Its name.
    pub name: String,
    /// When that was.
    pub tried_at: OffsetDateTime,
    /// Why it could not be read, or not to its end.
    pub error: Option<String>,
}

pub(super) fn values(connection: &Connection) -> Result<Vec<KeptValue>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT key, value, document, fetched_at FROM dynamic_value ORDER BY key")?;
    let mut rows = statement.query(())?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        values.push(KeptValue {
            key: row.get(0)?,
            value: row.get(1)?,
            document: row.get(2)?,
            fetched_at: moment(row.get(3)?)?,
        });
    }
    Ok(values)
}

pub(super) fn documents(connection: &Connection) -> Result<Vec<KeptDocument>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name, tried_at, error FROM dynamic_document ORDER BY name")?;
    let mut rows = statement.query(())?;
    let mut documents = Vec::new();
    while let Some(row) = rows.next()? {
        documents.push(KeptDocument {
            name: row.get(0)?,
            tried_at: moment(row.get(1)?)?,
            error: row.get(2)?,
        });
    }
    Ok(documents)
}

/// Keeps values in place of those before, and how it went with each document; other documents are forgotten.
pub(super) fn keep(
    connection: &Connection,
    values: &[KeptValue],
    documents: &[KeptDocument],
) -> Result<(), StoreError> {
    for kept in values {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO dynamic_value (key, value, document, fetched_at) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((&kept.key, &kept.value, &kept.document, micros(kept.fetched_at)))?;
    }
    connection.execute("DELETE FROM dynamic_document", ())?;
    for document in documents {
        connection
            .prepare_cached("INSERT INTO dynamic_document (name, tried_at, error) VALUES (?1, ?2, ?3)")?
            .execute((&document.name, micros(document.tried_at), &document.error))?;
    }
    Ok(())
}
