//! What can be seen of a validator without being one: all reads, by a [`Look`].

use std::path::Path;

use super::MIGRATIONS;
use crate::core::store::look::{Look, LookError};

/// A validator's database, opened to be read only, beside the validator or without it.
#[derive(Debug)]
pub struct ValidatorLook {
    look: Look,
}

impl ValidatorLook {
    /// Opens the database at `path`; blocks.
    pub fn open(path: &Path) -> Result<Self, LookError> {
        let look = Look::open(path, MIGRATIONS)?;
        Ok(Self { look })
    }

    /// Returns the look itself, for what it tells of the schema.
    pub fn look(&self) -> &Look {
        &self.look
    }
}
