//! How many executors a backend can run: places by class, each of some engine, in service or lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use time::OffsetDateTime;

use crate::core::model::{ExecutorClass, Manifest};

/// Most places of one class: beyond any horde, and small enough to be looked through for each job.
pub const PLACES_MAX: usize = 10_000;

/// Whether executors can run at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceState {
    /// They can.
    InService,
    /// Its engine or machine does not answer, or was taken out.
    Lost {
        /// Why.
        reason: String,
        /// Since when.
        since: OffsetDateTime,
    },
}

/// Where one executor at a time can run; its number within its class is its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The engine or machine that it is of; none where the backend has but one, or does not tell.
    pub engine: Option<Arc<str>>,
    /// Whether it can be used.
    pub state: PlaceState,
}

impl Place {
    /// Tells whether executors can run there.
    pub fn is_in_service(&self) -> bool {
        self.state == PlaceState::InService
    }
}

/// All places of a backend, by class; the index of a place is its slot.
///
/// A slot keeps its number for as long as a job may hold it: what goes out of service is lost, not removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Places by class, in the order in which the manifest lists them.
    pub places: IndexMap<ExecutorClass, Vec<Place>>,
}

impl Capacity {
    /// Returns so many places of each class, all in service and of no engine in particular.
    pub fn fixed(executors: &[(ExecutorClass, u32)]) -> Self {
        let place = Place {
            engine: None,
            state: PlaceState::InService,
        };
        let places = executors
            .iter()
            .map(|(class, count)| {
                let count = usize::try_from(*count).unwrap_or(PLACES_MAX).min(PLACES_MAX);
                (*class, vec![place.clone(); count])
            })
            .collect();
        Self { places }
    }

    /// Returns the places of a class.
    pub fn of(&self, class: ExecutorClass) -> &[Place] {
        self.places.get(&class).map_or(&[], Vec::as_slice)
    }

    /// Returns the slots of a class that are in service.
    pub fn in_service(&self, class: ExecutorClass) -> impl Iterator<Item = u32> {
        self.of(class)
            .iter()
            .zip(0_u32..)
            .filter_map(|(place, slot)| place.is_in_service().then_some(slot))
    }

    /// Returns how many places of each class there are, in service or not.
    pub fn all(&self) -> Manifest {
        self.places
            .iter()
            .map(|(class, places)| (*class, i64::try_from(places.len()).unwrap_or(i64::MAX)))
            .collect()
    }

    /// Returns how many executors of each class are in service; classes of which none is stay in the list.
    pub fn manifest(&self) -> Manifest {
        self.places
            .keys()
            .map(|class| {
                let count = self.in_service(*class).count();
                (*class, i64::try_from(count).unwrap_or(i64::MAX))
            })
            .collect()
    }

    /// Returns the slots of a class that are in service and not in `busy`, in the order in which they are to be given:
    /// always one of the engine that has least to do, those before it in the list counted, then the lowest.
    ///
    /// `busy` are slots of all classes, since classes share engines.
    pub fn preferred(&self, class: ExecutorClass, busy: &HashSet<(ExecutorClass, u32)>) -> Vec<u32> {
        let mut load: HashMap<Option<&str>, usize> = HashMap::new();
        for (class, slot) in busy {
            if let Some(place) = usize::try_from(*slot)
                .ok()
                .and_then(|slot| self.of(*class).get(slot))
            {
                *load.entry(place.engine.as_deref()).or_default() += 1;
            }
        }
        let mut free: Vec<(usize, u32)> = Vec::new();
        for (place, slot) in self.of(class).iter().zip(0_u32..) {
            if place.is_in_service() && !busy.contains(&(class, slot)) {
                let load = load.entry(place.engine.as_deref()).or_default();
                free.push((*load, slot));
                *load += 1;
            }
        }
        free.sort_unstable();
        free.into_iter().map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;
    const OTHER: ExecutorClass = ExecutorClass::AlwaysOnCpu8C16Gb;

    fn place(engine: &str) -> Place {
        Place {
            engine: Some(engine.into()),
            state: PlaceState::InService,
        }
    }

    #[test]
    fn work_goes_to_the_engine_that_has_least_and_never_to_a_lost_one() {
        let mut capacity = Capacity {
            places: IndexMap::from([
                (CLASS, vec![place("a"), place("a"), place("b"), place("b")]),
                (OTHER, vec![place("a")]),
            ]),
        };
        assert_eq!(capacity.preferred(CLASS, &HashSet::new()), [0, 2, 1, 3]);
        assert_eq!(capacity.preferred(CLASS, &HashSet::from([(CLASS, 0)])), [2, 1, 3]);
        assert_eq!(
            capacity.preferred(CLASS, &HashSet::from([(OTHER, 0)])),
            [2, 0, 3, 1],
            "classes share engines"
        );
        assert_eq!(
            capacity.preferred(CLASS, &HashSet::from([(CLASS, 9)])),
            [0, 2, 1, 3],
            "a slot of before"
        );
        for place in capacity.places.get_mut(&CLASS).unwrap().iter_mut().take(2) {
            place.state = PlaceState::Lost {
                reason: "gone".to_owned(),
                since: OffsetDateTime::UNIX_EPOCH,
            };
        }
        assert_eq!(capacity.preferred(CLASS, &HashSet::from([(CLASS, 2)])), [3]);
        assert_eq!(capacity.manifest().count(CLASS), 2);
        assert_eq!(
            capacity.preferred(ExecutorClass::AlwaysOnGpu24Gb, &HashSet::new()),
            [0; 0]
        );
    }
}
