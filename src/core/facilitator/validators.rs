//! Which validators are active on the chain, and which of them are connected now.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::machine::{ACTIVE_WITHIN, DISPATCH_WITHIN, SILENT_AFTER};
use crate::core::chain::{Chain, ChainError};
use crate::core::model::Hotkey;
use crate::core::net::LinkSender;

/// How old the list of active validators must be for an unknown hotkey to have it read again. Keeps strangers from
/// having the chain read at their pace.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The validators with a permit, as last read from the chain.
#[derive(Debug)]
pub(super) struct ActiveValidators {
    chain: Arc<dyn Chain>,
    known: tokio::sync::Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    read_at: Instant,
    hotkeys: HashSet<Hotkey>,
}

impl ActiveValidators {
    pub(super) fn new(chain: Arc<dyn Chain>) -> Self {
        Self {
            chain,
            known: tokio::sync::Mutex::new(None),
        }
    }

    /// Tells whether a hotkey is an active validator; one that was not yet, is looked up again.
    pub(super) async fn contains(&self, hotkey: &Hotkey) -> Result<bool, ChainError> {
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref() {
            let age = known.read_at.elapsed();
            let is_known = known.hotkeys.contains(hotkey);
            if (is_known && age < ACTIVE_WITHIN) || (!is_known && age < READ_AGAIN_AFTER) {
                return Ok(is_known);
            }
        }
        let hotkeys = self.read().await?;
        let is_active = hotkeys.contains(hotkey);
        *known = Some(Known {
            read_at: Instant::now(),
            hotkeys,
        });
        Ok(is_active)
    }

    async fn read(&self) -> Result<HashSet<Hotkey>, ChainError> {
        let metagraph = self.chain.metagraph().await?;
        Ok(metagraph
            .neurons
            .into_iter()
            .filter(|neuron| neuron.validator_permit)
            .map(|neuron| neuron.hotkey)
            .collect())
    }
}

/// The validators that are connected and authenticated, one link each: the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct Seats(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    seats: BTreeMap<Hotkey, Seat>,
}

/// What is known of a connected validator besides its hotkey.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Whether it says that it never runs a job twice.
    pub(super) refuses_duplicates: bool,
    /// Whether it can end jobs that their users cancel.
    pub(super) cancels: bool,
    /// Whether it passes on what running jobs write.
    pub(super) logs: bool,
    /// When it connected, UTC.
    pub(super) since: OffsetDateTime,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    sender: LinkSender,
    peer: Peer,
    heard_at: Instant,
}

/// The way to a connected validator, and what it knows beyond the wire.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    /// The way.
    pub(super) link: LinkSender,
    /// Whether it can end jobs that their users cancel.
    pub(super) cancels: bool,
    /// Whether it passes on what running jobs write.
    pub(super) logs: bool,
}

impl Reach {
    pub(super) fn new(link: LinkSender, peer: Peer) -> Self {
        let Peer { cancels, logs, .. } = peer;
        Self { link, cancels, logs }
    }
}

impl Seats {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats a validator and returns the seat's number, and the link that sat there before.
    pub(super) fn take(
        &self,
        hotkey: &Hotkey,
        (sender, peer): (LinkSender, Peer),
        now: Instant,
    ) -> (u64, Option<LinkSender>) {
        let mut inner = self.lock();
        inner.next = inner.next.wrapping_add(1);
        let number = inner.next;
        let seat = Seat {
            number,
            sender,
            peer,
            heard_at: now,
        };
        let before = inner.seats.insert(hotkey.clone(), seat);
        (number, before.map(|seat| seat.sender))
    }

    /// Notes a sign of life.
    pub(super) fn heard(&self, hotkey: &Hotkey, number: u64, now: Instant) {
        if let Some(seat) = self.lock().seats.get_mut(hotkey)
            && seat.number == number
        {
            seat.heard_at = now;
        }
    }

    /// Frees a seat, unless a newer link has taken it.
    pub(super) fn leave(&self, hotkey: &Hotkey, number: u64) {
        let mut inner = self.lock();
        if inner.seats.get(hotkey).is_some_and(|seat| seat.number == number) {
            inner.seats.remove(hotkey);
        }
    }

    /// Returns the link of a validator that may get jobs now.
    pub(super) fn ready(&self, hotkey: &Hotkey, now: Instant) -> Option<LinkSender> {
        self.link(hotkey, now).map(|(sender, _)| sender)
    }

    /// Returns the link of a validator that may get jobs now, and what is known of it.
    pub(super) fn link(&self, hotkey: &Hotkey, now: Instant) -> Option<(LinkSender, Peer)> {
        let inner = self.lock();
        let seat = inner.seats.get(hotkey)?;
        (now.duration_since(seat.heard_at) < DISPATCH_WITHIN).then(|| (seat.sender.clone(), seat.peer))
    }

    /// Returns the way to a validator that is connected, be it silent.
    pub(super) fn reach(&self, hotkey: &Hotkey) -> Option<Reach> {
        let inner = self.lock();
        let seat = inner.seats.get(hotkey)?;
        Some(Reach::new(seat.sender.clone(), seat.peer))
    }

    /// Returns the validators that may get jobs now, by rising hotkey.
    pub(super) fn all_ready(&self, now: Instant) -> Vec<Hotkey> {
        let inner = self.lock();
        let ready = inner
            .seats
            .iter()
            .filter(|(_, seat)| now.duration_since(seat.heard_at) < DISPATCH_WITHIN);
        ready.map(|(hotkey, _)| hotkey.clone()).collect()
    }

    /// Returns all links, and whether each has been silent for too long.
    pub(super) fn all(&self, now: Instant) -> Vec<(Hotkey, LinkSender, bool)> {
        let inner = self.lock();
        let seats = inner.seats.iter().map(|(hotkey, seat)| {
            let is_silent = now.duration_since(seat.heard_at) >= SILENT_AFTER;
            (hotkey.clone(), seat.sender.clone(), is_silent)
        });
        seats.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::net::ws::{Limits, pair};
    use crate::core::tasks::Tasks;

    #[tokio::test]
    async fn the_newest_link_of_a_validator_has_its_seat() {
        let tasks = Tasks::new();
        let (one, _far) = pair(&tasks, &Limits::default()).await;
        let seats = Seats::default();
        let hotkey = Hotkey::new("5x");
        let start = Instant::now();
        let peer = Peer {
            refuses_duplicates: false,
            cancels: false,
            logs: false,
            since: OffsetDateTime::UNIX_EPOCH,
        };
        let (first, before) = seats.take(&hotkey, (one.sender(), peer), start);
        assert!(before.is_none());
        let (second, before) = seats.take(&hotkey, (one.sender(), peer), start);
        assert!(before.is_some());
        // The link that was replaced says nothing any more.
        let late = start + DISPATCH_WITHIN;
        seats.heard(&hotkey, first, late);
        assert!(seats.ready(&hotkey, late).is_none());
        seats.leave(&hotkey, first);
        assert_eq!(seats.all(late).len(), 1);
        seats.heard(&hotkey, second, late);
        assert!(seats.ready(&hotkey, late).is_some());
        assert_eq!(seats.all_ready(late), std::slice::from_ref(&hotkey));
        assert!(seats.all(late + SILENT_AFTER)[0].2);
        seats.leave(&hotkey, second);
        assert!(seats.ready(&hotkey, late).is_none());
        tasks.shut_down(Duration::ZERO).await;
    }
}
