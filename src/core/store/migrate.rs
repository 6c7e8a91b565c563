//! Numbered migrations: brings a database from any older version to the newest, or refuses it.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// One step of a schema. The first of a list makes version 1; landed steps are never edited.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Name of the file, for messages: `0001_start`.
    pub name: &'static str,
    /// The statements, taken in by `include_str!`.
    pub sql: &'static str,
}

/// Carries out what the database lacks, all of it or nothing.
pub(super) fn run(
    connection: &mut Connection,
    path: &Path,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    let refused = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    // Immediate even to look: two processes that share a database must not both find it empty.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    let found: u32 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(refused)?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let Some(missing) = usize::try_from(found)
        .ok()
        .and_then(|done| migrations.get(done..))
    else {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    };
    for migration in missing {
        transaction
            .execute_batch(migration.sql)
            .map_err(|source| OpenError::Migration {
                path: path.to_owned(),
                name: migration.name,
                source,
            })?;
    }
    if !missing.is_empty() {
        transaction
            .pragma_update(None, "user_version", known)
            .map_err(refused)?;
    }
    transaction.commit().map_err(refused)
}
