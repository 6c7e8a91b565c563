//! What can be seen of a miner without being one: all reads, by a [`Look`].

use std::path::Path;

use super::ledger::{Counter, JobDetails, JobFilter, JobRow, query};
use super::{MIGRATIONS, journal};
use crate::core::model::JobId;
use crate::core::store::look::{Look, LookError};

/// A miner's database, opened to be read only, beside the miner or without it.
#[derive(Debug)]
pub struct MinerLook {
    look: Look,
}

impl MinerLook {
    /// Opens the database at `path`; blocks.
    pub fn open(path: &Path) -> Result<Self, LookError> {
        let look = Look::open(path, MIGRATIONS)?;
        Ok(Self { look })
    }

    /// Returns the look itself, for what it tells of the schema.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Tells whether the operator wants no new jobs.
    pub fn is_draining(&self) -> Result<bool, LookError> {
        self.look.read(journal::is_draining)
    }

    /// Returns how often what happened, by event, reason and validator.
    pub fn counters(&self) -> Result<Vec<Counter>, LookError> {
        self.look.read(query::counters)
    }

    /// Returns at most `limit` jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, LookError> {
        self.look
            .read(|connection| query::jobs(connection, filter, limit))
    }

    /// Returns everything about a job.
    pub fn job(&self, job: &JobId) -> Result<Option<JobDetails>, LookError> {
        self.look.read(|connection| query::details(connection, job))
    }
}
