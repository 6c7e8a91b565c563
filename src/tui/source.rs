//! Where pages come from: the databases of the roles in one data directory, opened to be read only.

use std::path::PathBuf;

use crate::core::store::places::Place;

/// The databases of a data directory.
#[derive(Debug, Default)]
pub struct Source {
    /// The data directory.
    pub dir: PathBuf,
    /// The roles' databases in it.
    pub places: Vec<Place>,
}
