//! The miner's copy of the dynamic configuration.

use super::super::dynamic::{self, KeptDocument, KeptValue};
use super::{MinerStore, StoreError};

impl MinerStore {
    /// Returns the values of the dynamic configuration that were read last.
    pub async fn dynamic_values(&self) -> Result<Vec<KeptValue>, StoreError> {
        self.store.read(dynamic::values).await
    }

    /// Returns how the last reading of each document went.
    pub async fn dynamic_documents(&self) -> Result<Vec<KeptDocument>, StoreError> {
        self.store.read(dynamic::documents).await
    }

    /// Keeps what a reading of the dynamic configuration brought.
    pub async fn keep_dynamic(
        &self,
        values: Vec<KeptValue>,
        documents: Vec<KeptDocument>,
    ) -> Result<(), StoreError> {
        self.store
            .write(move |connection| dynamic::keep(connection, &values, &documents))
            .await
    }
}
