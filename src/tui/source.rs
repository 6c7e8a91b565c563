//! Where pages come from: the databases of the roles in one data directory, opened to be read only.

use std::path::{Path, PathBuf};

use super::event::Header;
use crate::core::store::places::{Place, find};

/// The databases of a data directory.
#[derive(Debug, Default)]
pub struct Source {
    /// The data directory.
    pub dir: PathBuf,
    /// The roles' databases in it.
    pub places: Vec<Place>,
}

impl Source {
    /// Finds the databases of a directory.
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            places: find(dir),
        }
    }

    /// Returns what stands at the top of the screen.
    pub fn header(&self, context: Option<(String, bool)>) -> Header {
        Header {
            roles: self.places.iter().map(|place| place.name.clone()).collect(),
            context,
            dir: self.dir.display().to_string(),
        }
    }
}
