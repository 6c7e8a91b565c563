//! Signed stamps that were used: each opens one connection (anchors B11, S50).
//!
//! A validator opens several connections in the same second; its sr25519 signatures are randomised, so each has its own
//! stamp, and only a copy of a stamp has the signature of another. A stamp is kept until its time is over anyway. The
//! memory is this process's: for the seconds after a restart in which an old stamp is still fresh, a copy of one used
//! before the restart passes once more.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::core::crypto::SignatureBytes;
use crate::core::model::Hotkey;
use crate::core::proto::validator_miner::AUTH_AGE_SECONDS_MAX;

/// Stamps of one validator that are kept at once: a thousand connections a second for as long as stamps are fresh.
pub const STAMPS_MAX: usize = 32_768;

/// A proof that a validator wanted to connect, whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// When it was signed, unix seconds.
    pub timestamp: i64,
    /// The signature.
    pub signature: SignatureBytes,
}

/// Why a stamp is good no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// It was used before.
    #[error("msg replayed (this signature was used before)")]
    Used,
    /// There is no room to remember it.
    #[error("too many connections (the miner remembers {STAMPS_MAX} recent ones)")]
    TooMany,
}

type Signature = [u8; 64];

/// The stamps that were used.
#[derive(Debug, Default)]
pub struct Stamps(HashMap<Hotkey, BTreeMap<i64, HashSet<Signature>>>);

impl Stamps {
    /// Uses a stamp of a validator at `now`, in unix seconds.
    pub fn use_up(&mut self, validator: &Hotkey, stamp: &Stamp, now: i64) -> Result<(), Stale> {
        self.forget(now);
        let own = self.0.entry(validator.clone()).or_default();
        let kept: usize = own.values().map(HashSet::len).sum();
        let signature = *stamp.signature.as_bytes();
        if own
            .get(&stamp.timestamp)
            .is_some_and(|used| used.contains(&signature))
        {
            return Err(Stale::Used);
        }
        if kept >= STAMPS_MAX {
            return Err(Stale::TooMany);
        }
        own.entry(stamp.timestamp).or_default().insert(signature);
        Ok(())
    }

    /// Forgets stamps that are too old to be accepted.
    fn forget(&mut self, now: i64) {
        let oldest = now.saturating_sub(AUTH_AGE_SECONDS_MAX);
        self.0.retain(|_, own| {
            while let Some(entry) = own.first_entry()
                && *entry.key() < oldest
            {
                entry.remove();
            }
            !own.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn stamp(timestamp: i64, signature: u8) -> Stamp {
        Stamp {
            timestamp,
            signature: SignatureBytes::new([signature; 64]),
        }
    }

    #[test]
    fn one_validators_flood_of_stamps_leaves_room_for_another() {
        let mut stamps = Stamps::default();
        let (alice, bob) = (Hotkey::from("alice"), Hotkey::from("bob"));
        for number in 0..STAMPS_MAX {
            let mut signature = [0; 64];
            signature[..8].copy_from_slice(&number.to_le_bytes());
            let stamp = Stamp {
                timestamp: NOW,
                signature: SignatureBytes::new(signature),
            };
            stamps.use_up(&alice, &stamp, NOW).unwrap();
        }
        assert_eq!(stamps.use_up(&alice, &stamp(NOW, 255), NOW), Err(Stale::TooMany));
        assert_eq!(stamps.use_up(&bob, &stamp(NOW, 255), NOW), Ok(()));
        let later = NOW + AUTH_AGE_SECONDS_MAX + 1;
        assert_eq!(stamps.use_up(&alice, &stamp(later, 255), later), Ok(()));
        assert_eq!(stamps.0.len(), 1, "who has no fresh stamp takes no room");
    }

    proptest! {
        #[test]
        fn while_a_stamp_is_fresh_it_is_good_once_for_each_validator(
            uses in proptest::collection::vec((0_u8..3, -10_i64..13, 0_u8..4, 0_i64..3), 1..200),
        ) {
            let mut stamps = Stamps::default();
            let mut used = HashSet::new();
            let mut now = NOW;
            for (validator, offset, signature, pause) in uses {
                now += pause;
                let timestamp = now + offset;
                let validator = Hotkey::new(validator.to_string());
                let outcome = stamps.use_up(&validator, &stamp(timestamp, signature), now);
                let is_new = used.insert((validator, timestamp, signature));
                prop_assert_eq!(outcome, if is_new { Ok(()) } else { Err(Stale::Used) });
            }
        }
    }
}
