//! Where pages come from: the databases of the roles in one data directory, opened to be read only.

use std::error::Error;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::event::Header;
use super::view::{Ask, LoadError};
use crate::core::clock::Clock;
use crate::core::model::Timestamp;
use crate::core::store::facilitator::look::FacilitatorLook;
use crate::core::store::local_chain::ChainLook;
use crate::core::store::look::LookError;
use crate::core::store::miner::look::MinerLook;
use crate::core::store::places::{self, Place, Role};
use crate::core::store::validator::look::ValidatorLook;

/// Roles of one kind that a page looks at; `horde up` starts a handful.
const PLACES_MAX: usize = 32;

/// The databases of a data directory.
#[derive(Debug, Default)]
pub struct Source {
    /// The data directory.
    pub dir: PathBuf,
    /// The roles' databases in it.
    pub places: Vec<Place>,
    /// Tells what time it is, for ages.
    pub clock: Clock,
    /// The network and the subnet of the configuration, where that is known.
    pub network: Option<(String, u16)>,
}

/// The open database of one role.
#[derive(Debug)]
pub struct Seen<L> {
    /// Whose it is.
    pub place: Place,
    /// The database.
    pub look: L,
}

impl Source {
    /// Finds the databases of a directory.
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            places: places::find(dir),
            ..Self::default()
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

    /// Returns the moment of which a page tells: now, unless another is asked for.
    pub fn moment(&self, ask: &Ask) -> OffsetDateTime {
        ask.at.map_or_else(|| self.clock.now(), Timestamp::moment)
    }

    /// Opens the facilitators' databases.
    pub fn facilitators(&self) -> Result<Vec<Seen<FacilitatorLook>>, LoadError> {
        self.open(Role::Facilitator, FacilitatorLook::open)
    }

    /// Opens the validators' databases.
    pub fn validators(&self) -> Result<Vec<Seen<ValidatorLook>>, LoadError> {
        self.open(Role::Validator, ValidatorLook::open)
    }

    /// Opens the miners' databases.
    pub fn miners(&self) -> Result<Vec<Seen<MinerLook>>, LoadError> {
        self.open(Role::Miner, MinerLook::open)
    }

    /// Opens the local chain that the roles share, if there is one: in the data directory, or above that of one role.
    pub fn chain(&self) -> Result<Option<ChainLook>, LoadError> {
        let above = self.dir.parent();
        for dir in [Some(self.dir.as_path()), above].into_iter().flatten() {
            let path = dir.join("chain.sqlite");
            if path.is_file() {
                return ChainLook::open(&path)
                    .map(Some)
                    .map_err(|error| refused(&path, &error));
            }
        }
        Ok(None)
    }

    fn open<L>(
        &self,
        role: Role,
        open: fn(&Path) -> Result<L, LookError>,
    ) -> Result<Vec<Seen<L>>, LoadError> {
        let mut seen = Vec::new();
        for place in self
            .places
            .iter()
            .filter(|place| place.role == role)
            .take(PLACES_MAX)
        {
            match open(&place.database()) {
                Ok(look) => seen.push(Seen {
                    place: place.clone(),
                    look,
                }),
                // Deleted since it was found.
                Err(LookError::Missing { .. }) => {}
                Err(error) => return Err(refused(&place.database(), &error)),
            }
        }
        Ok(seen)
    }
}

impl<L> Seen<L> {
    /// Turns an error of the database into words.
    pub fn ask<T>(&self, answer: impl FnOnce(&L) -> Result<T, LookError>) -> Result<T, LoadError> {
        answer(&self.look).map_err(|error| refused(&self.place.database(), &error))
    }
}

/// Says which database does not answer, and why, each thing once.
pub fn refused(path: &Path, error: &LookError) -> LoadError {
    let database = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned();
    let reason = match error {
        LookError::Missing { .. } => "there is none".to_owned(),
        LookError::File { source, .. } => source.to_string(),
        LookError::Newer { found, known, .. } => {
            format!(
                "it has schema version {found}, this program knows versions up to {known}: a newer horde has written it"
            )
        }
        LookError::Older {
            found, known, lacks, ..
        } => format!(
            "it has schema version {found} of {known} ({lacks}): its role brings it up to date when it starts"
        ),
        // What SQLite calls it stands behind our own words; what is behind that says the same again.
        LookError::Store { source, .. } => match source.source() {
            Some(cause) => format!("{source}: {cause}"),
            None => source.to_string(),
        },
    };
    LoadError::Database { database, reason }
}
