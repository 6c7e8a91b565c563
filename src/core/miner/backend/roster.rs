//! A list of places that machines join and leave, kept by backends whose machines come and go.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::capacity::{Capacity, PLACES_MAX, Place, PlaceState};
use crate::core::model::ExecutorClass;

/// Some executors of one class on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Their class.
    pub(super) class: ExecutorClass,
    /// What tells the machine from all others.
    pub(super) key: Arc<str>,
    /// What its operator calls it.
    pub(super) engine: Arc<str>,
    /// How many they are.
    pub(super) count: u32,
    /// Whether the machine can be used now.
    pub(super) is_ready: bool,
}

/// The places of all machines that were ever there: slots keep their machine while others come and go.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// By class and slot, each with its machine's key.
    places: IndexMap<ExecutorClass, Vec<(Arc<str>, Place)>>,
}

impl Roster {
    /// Puts exactly the places of `groups` whose machines are ready in service: known ones again, others at the end of
    /// their class. `why` tells of a machine, by its key, why its other places are lost.
    pub(super) fn update(&mut self, groups: &[Group], why: impl Fn(&str) -> String, now: OffsetDateTime) {
        let lost = |key: &str| PlaceState::Lost {
            reason: why(key),
            since: now,
        };
        let mut wanted: HashMap<(ExecutorClass, Arc<str>), u32> = HashMap::new();
        for group in groups.iter().filter(|group| group.is_ready) {
            *wanted.entry((group.class, Arc::clone(&group.key))).or_default() += group.count;
        }
        for (class, places) in &mut self.places {
            for (key, place) in places {
                let left = wanted
                    .get_mut(&(*class, Arc::clone(key)))
                    .filter(|left| **left > 0);
                match (left, &place.state) {
                    (Some(left), _) => {
                        *left -= 1;
                        place.state = PlaceState::InService;
                    }
                    (None, PlaceState::InService) => {
                        place.state = lost(key);
                    }
                    (None, PlaceState::Lost { .. }) => {}
                }
            }
        }
        for group in groups {
            let places = self.places.entry(group.class).or_default();
            let known = places.iter().filter(|(key, _)| *key == group.key).count();
            let count = usize::try_from(group.count).unwrap_or(usize::MAX);
            for _ in known..count {
                if places.len() >= PLACES_MAX {
                    tracing::warn!(class = %group.class, "more than {PLACES_MAX} places of one class are not used");
                    break;
                }
                let place = Place {
                    engine: Some(Arc::clone(&group.engine)),
                    state: if group.is_ready {
                        PlaceState::InService
                    } else {
                        lost(&group.key)
                    },
                };
                places.push((Arc::clone(&group.key), place));
            }
        }
    }

    /// Returns the places as they are.
    pub(super) fn capacity(&self) -> Capacity {
        let places = self.places.iter().map(|(class, places)| {
            let places = places.iter().map(|(_, place)| place.clone());
            (*class, places.collect())
        });
        Capacity {
            places: places.collect(),
        }
    }

    /// Returns the key of the machine of a slot.
    pub(super) fn key(&self, class: ExecutorClass, slot: u32) -> Option<&str> {
        let places = self.places.get(&class)?;
        let (key, _) = places.get(usize::try_from(slot).ok()?)?;
        Some(key)
    }
}

/// Tells everybody of a new capacity, and the log what has changed.
pub(super) fn publish(sender: &watch::Sender<Capacity>, now: Capacity) {
    sender.send_if_modified(|known| {
        if *known == now {
            return false;
        }
        for (class, places) in &now.places {
            for (slot, place) in places.iter().enumerate() {
                let before = known.of(*class).get(slot).is_some_and(Place::is_in_service);
                let engine = place.engine.as_deref();
                match (&place.state, before) {
                    (PlaceState::Lost { reason, .. }, true) => {
                        tracing::error!(%class, slot, engine, reason, "a place for executors is lost");
                    }
                    (PlaceState::InService, false) => {
                        tracing::info!(%class, slot, engine, "a place for executors is in service");
                    }
                    (PlaceState::Lost { .. }, false) | (PlaceState::InService, true) => {}
                }
            }
        }
        *known = now;
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Manifest;

    const TEST: ExecutorClass = ExecutorClass::AlwaysOnTest;
    const CPU: ExecutorClass = ExecutorClass::AlwaysOnCpu8C16Gb;

    fn group(class: ExecutorClass, key: &str, count: u32) -> Group {
        Group {
            class,
            key: key.into(),
            engine: format!("machine {key}").into(),
            count,
            is_ready: true,
        }
    }

    #[test]
    fn slots_keep_their_machine_while_others_come_and_go() {
        let mut roster = Roster::default();
        let update = |roster: &mut Roster, seconds, groups: &[Group]| {
            let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            roster.update(groups, |key| format!("{key} is gone"), now);
        };
        let machines = |roster: &Roster| {
            let keys = (0..5).filter_map(|slot| roster.key(TEST, slot).map(str::to_owned));
            keys.collect::<Vec<_>>()
        };
        let lost = |roster: &Roster| {
            let capacity = roster.capacity();
            let places = capacity.of(TEST).iter().enumerate();
            places
                .filter_map(|(slot, place)| match &place.state {
                    PlaceState::InService => None,
                    PlaceState::Lost { reason, since } => {
                        Some((slot, reason.clone(), since.unix_timestamp()))
                    }
                })
                .collect::<Vec<_>>()
        };
        update(
            &mut roster,
            1,
            &[group(TEST, "a", 1), group(CPU, "a", 1), group(TEST, "b", 2)],
        );
        assert_eq!(machines(&roster), ["a", "b", "b"]);
        update(&mut roster, 2, &[group(TEST, "b", 1), group(TEST, "c", 1)]);
        assert_eq!(machines(&roster), ["a", "b", "b", "c"]);
        let of_a_and_b = vec![(0, "a is gone".to_owned(), 2), (2, "b is gone".to_owned(), 2)];
        assert_eq!(lost(&roster), of_a_and_b);
        update(&mut roster, 3, &[group(TEST, "b", 1), group(TEST, "c", 1)]);
        assert_eq!(lost(&roster), of_a_and_b, "since then, not since now");
        let capacity = roster.capacity();
        assert_eq!(capacity.manifest(), Manifest::from_iter([(TEST, 2), (CPU, 0)]));
        assert_eq!(capacity.of(TEST)[3].engine.as_deref(), Some("machine c"));
        update(
            &mut roster,
            4,
            &[group(TEST, "a", 2), group(CPU, "a", 1), group(TEST, "b", 2)],
        );
        assert_eq!(machines(&roster), ["a", "b", "b", "c", "a"]);
        assert_eq!(lost(&roster), [(3, "c is gone".to_owned(), 4)]);
        let manifest = roster.capacity().manifest();
        assert_eq!(manifest, Manifest::from_iter([(TEST, 4), (CPU, 1)]));
    }

    #[test]
    fn the_places_of_a_machine_that_is_not_there_yet_are_known_as_lost() {
        let mut roster = Roster::default();
        let mut groups = [group(TEST, "a", 1), group(TEST, "b", 2)];
        groups[1].is_ready = false;
        let update = |roster: &mut Roster, groups: &[Group]| {
            roster.update(groups, |_| "down".to_owned(), OffsetDateTime::UNIX_EPOCH);
        };
        update(&mut roster, &groups);
        let capacity = roster.capacity();
        assert_eq!((capacity.of(TEST).len(), capacity.manifest().count(TEST)), (3, 1));
        groups[1].is_ready = true;
        update(&mut roster, &groups);
        let capacity = roster.capacity();
        assert_eq!((capacity.of(TEST).len(), capacity.manifest().count(TEST)), (3, 3));
    }
}
