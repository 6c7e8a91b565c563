//! Which roles keep a database under a data directory; finds them, opens nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// The file in a role's directory, or in that of all roles, that holds what the last checks found.
pub const CHECKS_FILE: &str = "checks.json";

/// A role that keeps a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `facilitator.sqlite`.
    Facilitator,
    /// `validator.sqlite`.
    Validator,
    /// `miner.sqlite`.
    Miner,
}

impl Role {
    /// All of them, in the order of a job's road.
    pub const ALL: [Self; 3] = [Self::Facilitator, Self::Validator, Self::Miner];

    /// Returns the role's word on the command line, which is also that of its section and its directory.
    pub fn word(self) -> &'static str {
        match self {
            Self::Facilitator => "facilitator",
            Self::Validator => "validator",
            Self::Miner => "miner",
        }
    }

    /// Returns the name of its database.
    pub fn database(self) -> &'static str {
        match self {
            Self::Facilitator => "facilitator.sqlite",
            Self::Validator => "validator.sqlite",
            Self::Miner => "miner.sqlite",
        }
    }
}

/// The database of one role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Whose it is.
    pub role: Role,
    /// The name of its directory, as in `miner-1`; the role's word if the database lies in the data directory itself.
    pub name: String,
    /// The directory of the role's data.
    pub dir: PathBuf,
}

impl Place {
    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.dir.join(self.role.database())
    }
}

/// Directories of a data directory that are looked at; what lies beyond is not found.
const DIRECTORIES_MAX: usize = 1000;

/// Finds the databases in `dir` and in the directories right below it (those of a role by itself, of all roles of a
/// machine, and of `horde up`), in the order of a job's road and of the names. What cannot be read holds none.
pub fn find(dir: &Path) -> Vec<Place> {
    let mut folders = vec![(None, dir.to_owned())];
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .take(DIRECTORIES_MAX)
    {
        let path = entry.path();
        if path.is_dir() {
            folders.push((Some(entry.file_name().to_string_lossy().into_owned()), path));
        }
    }
    let mut places = Vec::new();
    for (name, folder) in folders {
        for role in Role::ALL {
            if folder.join(role.database()).is_file() {
                places.push(Place {
                    role,
                    name: name.clone().unwrap_or_else(|| role.word().to_owned()),
                    dir: folder.clone(),
                });
            }
        }
    }
    places.sort();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_found_in_a_directory_and_right_below_it_in_the_order_of_the_road() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "miner-2/miner.sqlite",
            "miner-1/miner.sqlite",
            "facilitator/facilitator.sqlite",
            "validator.sqlite",
            "deep/er/miner.sqlite",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found: Vec<_> = find(root.path())
            .into_iter()
            .map(|place| (place.role, place.name))
            .collect();
        assert_eq!(
            found,
            [
                (Role::Facilitator, "facilitator".to_owned()),
                (Role::Validator, "validator".to_owned()),
                (Role::Miner, "miner-1".to_owned()),
                (Role::Miner, "miner-2".to_owned()),
            ]
        );
        assert_eq!(find(&root.path().join("nowhere")), []);
    }
}
