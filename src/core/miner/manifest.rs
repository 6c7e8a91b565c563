//! What counts of what the operator wants: a change at most every two hours (the seed's rule for manifests).
//!
//! ```text
//! setting, order ──▶ wanted ──(two hours after the last change)──▶ counted
//! ```
//!
//! Pure: the time is an argument. Only the operator's changes wait here; what is lost, rests or does not pay is taken
//! off what counts at once, elsewhere.

use time::{Duration, OffsetDateTime};

use crate::core::model::Manifest;
use crate::core::store::miner::manifest::{ManifestOrder, ManifestState};

/// Shortest time between two changes that count: two hours, 7200 s (the seed: "at a frequency of once every 2 hours").
pub const CHANGE_EVERY: Duration = Duration::hours(2);

/// Returns the state of a miner that starts with these counts in its configuration.
///
/// A first manifest changes nothing that validators know, so the first change after it may come at once. A
/// configuration that reads differently than at the last start is the operator's latest word.
pub fn begin(known: Option<ManifestState>, setting: Manifest, now: OffsetDateTime) -> ManifestState {
    match known {
        None => ManifestState {
            counted: setting.clone(),
            changed_at: None,
            setting,
            setting_at: now,
        },
        Some(known) if is_same(&known.setting, &setting) => known,
        Some(known) => ManifestState {
            setting,
            setting_at: now,
            ..known
        },
    }
}

/// Returns the state after machines joined or were given other counts, which is the operator's word as the configuration
/// is; none if all is as before, or if no place is known, since whoever could tell them does not answer.
pub fn follow(known: &ManifestState, places: Manifest, now: OffsetDateTime) -> Option<ManifestState> {
    if places.0.is_empty() || is_same(&known.setting, &places) {
        return None;
    }
    Some(ManifestState {
        setting: places,
        setting_at: now,
        ..known.clone()
    })
}

/// Returns what the operator wants: the later of the order and the configuration, and since when.
pub fn wanted<'a>(
    state: &'a ManifestState,
    order: Option<&'a ManifestOrder>,
) -> (&'a Manifest, OffsetDateTime) {
    match order {
        Some(order) if order.ordered_at >= state.setting_at => (&order.wanted, order.ordered_at),
        Some(_) | None => (&state.setting, state.setting_at),
    }
}

/// Returns when what is wanted takes effect, which may be past; none if it counts already.
pub fn due(
    state: &ManifestState,
    order: Option<&ManifestOrder>,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let (wanted, since) = wanted(state, order);
    if is_same(wanted, &state.counted) {
        return None;
    }
    Some(match state.changed_at {
        None => since.min(now),
        // A clock that was ahead must not hold a change up for longer than the rule does.
        Some(changed_at) => changed_at.min(now).checked_add(CHANGE_EVERY).unwrap_or(now),
    })
}

/// Returns the state after a change that is due, or with a time of change set right; none if nothing is to be done.
pub fn advance(
    state: &ManifestState,
    order: Option<&ManifestOrder>,
    now: OffsetDateTime,
) -> Option<ManifestState> {
    if state.changed_at.is_some_and(|changed_at| changed_at > now) {
        return Some(ManifestState {
            changed_at: Some(now),
            ..state.clone()
        });
    }
    due(state, order, now).filter(|due| *due <= now)?;
    Some(ManifestState {
        counted: wanted(state, order).0.clone(),
        changed_at: Some(now),
        ..state.clone()
    })
}

/// Tells whether validators would see no difference but the order of the classes.
pub fn is_same(one: &Manifest, other: &Manifest) -> bool {
    let covers = |one: &Manifest, other: &Manifest| {
        one.0
            .keys()
            .all(|class| one.count(*class) == other.count(*class) && other.lists(*class))
    };
    covers(one, other) && covers(other, one)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::core::model::ExecutorClass;

    const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);
    const CLASS: ExecutorClass = ExecutorClass::AlwaysOnTest;

    fn manifest(count: i64) -> Manifest {
        Manifest::from_iter([(CLASS, count)])
    }

    fn order(count: i64, ordered_at: OffsetDateTime) -> ManifestOrder {
        ManifestOrder {
            wanted: manifest(count),
            ordered_at,
        }
    }

    fn after(hours: i64) -> OffsetDateTime {
        NOW + Duration::hours(hours)
    }

    #[test]
    fn machines_that_join_are_the_operators_word_and_silence_is_none() {
        let state = begin(None, Manifest::default(), NOW);
        assert_eq!(follow(&state, Manifest::default(), NOW), None);
        let state = follow(&state, manifest(2), after(1)).unwrap();
        let state = advance(&state, None, after(1)).unwrap();
        assert_eq!(state.counted, manifest(2));
        assert_eq!(follow(&state, manifest(2), after(2)), None);
        assert_eq!(follow(&state, Manifest::default(), after(2)), None);
        let state = follow(&state, manifest(3), after(2)).unwrap();
        assert_eq!(due(&state, None, after(2)), Some(after(3)));
    }

    #[test]
    fn the_first_change_counts_at_once_and_the_next_two_hours_later() {
        let state = begin(None, manifest(1), NOW);
        assert_eq!(due(&state, None, NOW), None);
        assert_eq!(advance(&state, None, NOW), None);
        let first = order(2, after(1));
        assert_eq!(due(&state, Some(&first), after(1)), Some(after(1)));
        let state = advance(&state, Some(&first), after(1)).unwrap();
        assert_eq!(state.counted, manifest(2));
        assert_eq!(due(&state, Some(&first), after(1)), None);
        let second = order(3, after(2));
        assert_eq!(due(&state, Some(&second), after(2)), Some(after(3)));
        assert_eq!(
            advance(&state, Some(&second), after(3) - Duration::seconds(1)),
            None
        );
        // What was wanted in between does not count.
        let third = order(4, after(2) + Duration::minutes(30));
        let state = advance(&state, Some(&third), after(3)).unwrap();
        assert_eq!((&state.counted, state.changed_at), (&manifest(4), Some(after(3))));
    }

    #[test]
    fn a_change_that_is_taken_back_in_time_is_none() {
        let state = ManifestState {
            changed_at: Some(NOW),
            ..begin(None, manifest(1), NOW)
        };
        let back = order(1, after(1));
        assert_eq!(due(&state, Some(&back), after(1)), None);
        assert_eq!(advance(&state, Some(&back), after(9)), None);
    }

    #[test]
    fn the_latest_word_counts_be_it_the_command_or_the_configuration() {
        let state = begin(None, manifest(1), NOW);
        let state = advance(&state, Some(&order(2, after(1))), after(1)).unwrap();
        // The same configuration at the next start is no new word.
        let again = begin(Some(state.clone()), manifest(1), after(2));
        assert_eq!(wanted(&again, Some(&order(2, after(1)))).0, &manifest(2));
        let edited = begin(Some(state), manifest(7), after(2));
        assert_eq!(
            wanted(&edited, Some(&order(2, after(1)))),
            (&manifest(7), after(2))
        );
        assert_eq!(edited.counted, manifest(2), "what counts outlives the restart");
        assert_eq!(due(&edited, None, after(2)), Some(after(3)));
    }

    #[test]
    fn a_clock_that_was_ahead_holds_a_change_up_for_two_hours_at_most() {
        let state = ManifestState {
            changed_at: Some(after(24 * 365)),
            ..begin(None, manifest(1), NOW)
        };
        let change = order(2, NOW);
        assert_eq!(due(&state, Some(&change), NOW), Some(after(2)));
        let state = advance(&state, Some(&change), NOW).unwrap();
        assert_eq!(state.counted, manifest(1));
        assert_eq!(
            advance(&state, Some(&change), after(2)).unwrap().counted,
            manifest(2)
        );
    }

    #[test]
    fn two_manifests_differ_by_counts_and_classes_and_not_by_their_order() {
        let other = ExecutorClass::AlwaysOnGpu24Gb;
        let one = Manifest::from_iter([(CLASS, 1), (other, 2)]);
        assert!(is_same(&one, &Manifest::from_iter([(other, 2), (CLASS, 1)])));
        assert!(!is_same(&one, &manifest(1)));
        assert!(!is_same(&manifest(1), &one));
        assert!(!is_same(&manifest(1), &manifest(2)));
    }
}
