//! Who may stay when too many connect to a listener.
//!
//! A connection is a *stranger* until its owner says that the peer has proved who it is. Strangers have places of their
//! own, so that they never take one of a trusted peer; when these are full, a stranger gives way to the newcomer:
//!
//! 1. of an address that connects faster than its rate, then of one that nobody trusted has come from lately, then of
//!    any;
//! 2. among these of the address that has most;
//! 3. of that address the oldest, which has had the most time to say who it is.
//!
//! So a flood pushes out itself, whether it comes from one address or from ten thousand, and a peer that says at once
//! who it is has time to do so even where the flood comes from its own address.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::buckets::{Buckets, Rate};

/// Connections of trusted peers at once.
pub const TRUSTED_MAX: usize = 12_288;

/// Connections of strangers at once. At 2,000 new ones a second a stranger has a second to say who it is, and these
/// many cost the listener some 40 MB.
pub const STRANGERS_MAX: usize = 2048;

/// Files that a process keeps for what is no connection: databases, logs, executors, what it connects to itself.
const OTHER_FILES: usize = 512;

/// Connections from one address: a validator's batch of thousands passes, a flood does not.
const CONNECTS: Rate = Rate {
    per_second: 200,
    burst: 4096,
};

/// Addresses that are counted at once.
const ADDRESSES_MAX: usize = 16_384;

/// How long an address is remembered whose last trusted connection has ended.
const MEMORY: Duration = Duration::from_secs(3600);

/// Addresses remembered.
const REMEMBERED_MAX: usize = 1024;

/// How many connections a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Of peers that have proved who they are.
    pub trusted_max: usize,
    /// Of others.
    pub strangers_max: usize,
    /// Of others, from one address.
    pub strangers_per_address_max: usize,
}

impl Places {
    /// Returns as many places as there are files for, at most [`TRUSTED_MAX`] and [`STRANGERS_MAX`].
    pub fn for_files(files: usize) -> Self {
        let places = files.saturating_sub(OTHER_FILES).max(files / 2);
        let strangers_max = STRANGERS_MAX.min(places / 3).max(1);
        Self {
            trusted_max: TRUSTED_MAX.min(places.saturating_sub(strangers_max)).max(1),
            strangers_max,
            // One address leaves half of the room to all others.
            strangers_per_address_max: strangers_max.div_ceil(2),
        }
    }
}

/// Allows this process as many open files as the machine lets it have, and returns how many that are.
pub fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Where a connection comes from: an IPv4 address, or the /64 of an IPv6 address, which one customer has whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()),
        }
    }
}

/// The strangers of one address, by the order in which they came.
#[derive(Debug, Default)]
struct Strangers {
    numbers: BTreeSet<u64>,
    /// Whether the newest came faster than the rate.
    is_hasty: bool,
}

/// An address from which trusted peers have come.
#[derive(Debug)]
struct Known {
    open: usize,
    left_at: Instant,
}

/// The table of a listener's connections; decides, holds nothing open.
#[derive(Debug)]
struct GuestList {
    places: Places,
    next: u64,
    strangers: HashMap<Origin, Strangers>,
    strangers_count: usize,
    trusted_count: usize,
    known: HashMap<Origin, Known>,
    connects: Buckets<Origin>,
}

impl GuestList {
    fn new(places: Places, connects: Rate) -> Self {
        Self {
            places,
            next: 0,
            strangers: HashMap::new(),
            strangers_count: 0,
            trusted_count: 0,
            known: HashMap::new(),
            connects: Buckets::new(connects, ADDRESSES_MAX),
        }
    }

    /// Lets a stranger in; returns its number and that of the stranger who has to go for it.
    fn enter(&mut self, origin: Origin, now: Instant) -> (u64, Option<u64>) {
        let number = self.next;
        self.next += 1;
        let is_hasty = self.connects.take(origin, now).is_err();
        let own = self.strangers.get(&origin).map_or(0, |own| own.numbers.len());
        let leaving = if own >= self.places.strangers_per_address_max {
            self.oldest_of(origin)
        } else if self.strangers_count >= self.places.strangers_max {
            self.first_to_go(now)
        } else {
            None
        };
        if let Some((origin, number)) = leaving {
            self.strike(origin, number);
        }
        let own = self.strangers.entry(origin).or_default();
        own.numbers.insert(number);
        own.is_hasty = is_hasty;
        self.strangers_count += 1;
        (number, leaving.map(|(_, number)| number))
    }

    fn oldest_of(&self, origin: Origin) -> Option<(Origin, u64)> {
        let own = self.strangers.get(&origin)?;
        Some((origin, *own.numbers.first()?))
    }

    fn first_to_go(&self, now: Instant) -> Option<(Origin, u64)> {
        let (_, _, oldest, origin) = self
            .strangers
            .iter()
            .filter_map(|(origin, own)| {
                let rank = match own {
                    own if own.is_hasty => 0,
                    _ if !self.is_known(*origin, now) => 1,
                    _ => 2,
                };
                let fewer = usize::MAX - own.numbers.len();
                Some((rank, fewer, *own.numbers.first()?, *origin))
            })
            .min_by_key(|(rank, fewer, oldest, _)| (*rank, *fewer, *oldest))?;
        Some((origin, oldest))
    }

    fn is_known(&self, origin: Origin, now: Instant) -> bool {
        self.known
            .get(&origin)
            .is_some_and(|known| known.open > 0 || now.duration_since(known.left_at) < MEMORY)
    }

    /// Takes a stranger off the list; false when it was not on it.
    fn strike(&mut self, origin: Origin, number: u64) -> bool {
        let Some(own) = self.strangers.get_mut(&origin) else {
            return false;
        };
        let was_there = own.numbers.remove(&number);
        if own.numbers.is_empty() {
            self.strangers.remove(&origin);
        }
        if was_there {
            self.strangers_count -= 1;
        }
        was_there
    }

    /// Makes a stranger a trusted guest; false when it has been struck off or all places are taken.
    fn trust(&mut self, origin: Origin, number: u64, now: Instant) -> bool {
        if self.trusted_count >= self.places.trusted_max || !self.strike(origin, number) {
            return false;
        }
        self.trusted_count += 1;
        if self.known.len() >= REMEMBERED_MAX && !self.known.contains_key(&origin) {
            self.forget_one();
        }
        let known = self.known.entry(origin).or_insert(Known {
            open: 0,
            left_at: now,
        });
        known.open += 1;
        true
    }

    /// Forgets the address that has been away for longest; those with open connections stay.
    fn forget_one(&mut self) {
        let longest = self
            .known
            .iter()
            .filter(|(_, known)| known.open == 0)
            .min_by_key(|(_, known)| known.left_at)
            .map(|(origin, _)| *origin);
        if let Some(origin) = longest {
            self.known.remove(&origin);
        }
    }

    /// Notes that a connection has ended.
    fn leave(&mut self, origin: Origin, number: u64, was_trusted: bool, now: Instant) {
        if !was_trusted {
            self.strike(origin, number);
            return;
        }
        self.trusted_count = self.trusted_count.saturating_sub(1);
        if let Some(known) = self.known.get_mut(&origin) {
            known.open = known.open.saturating_sub(1);
            known.left_at = now;
        }
    }
}

/// The connections of a listener.
#[derive(Debug, Clone)]
pub(super) struct Guests(Arc<Mutex<House>>);

#[derive(Debug)]
struct House {
    list: GuestList,
    /// How each stranger is told to go.
    doors: HashMap<u64, CancellationToken>,
}

impl Guests {
    pub(super) fn new(places: Places) -> Self {
        Self(Arc::new(Mutex::new(House {
            list: GuestList::new(places, CONNECTS),
            doors: HashMap::new(),
        })))
    }

    /// Seats a stranger; another one may be told to go for it.
    pub(super) fn enter(&self, peer: SocketAddr) -> Seat {
        let origin = Origin::from(peer.ip());
        let door = CancellationToken::new();
        let mut house = self.house();
        let (number, leaving) = house.list.enter(origin, Instant::now());
        if let Some(leaver) = leaving.and_then(|number| house.doors.remove(&number)) {
            leaver.cancel();
        }
        house.doors.insert(number, door.clone());
        drop(house);
        Seat(Arc::new(Guest {
            guests: self.clone(),
            origin,
            number,
            is_trusted: AtomicBool::new(false),
            door,
        }))
    }

    fn house(&self) -> MutexGuard<'_, House> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection; clones are the same place, which is free once the last is dropped.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Guest>);

#[derive(Debug)]
struct Guest {
    guests: Guests,
    origin: Origin,
    number: u64,
    is_trusted: AtomicBool,
    door: CancellationToken,
}

impl Seat {
    /// Notes that the peer has proved who it is, so that it gives way to nobody; false when there is no such place.
    pub(super) fn trust(&self) -> bool {
        let guest = &self.0;
        let mut house = guest.guests.house();
        if guest.is_trusted.load(Ordering::Relaxed) {
            return true;
        }
        let is_trusted = house.list.trust(guest.origin, guest.number, Instant::now());
        if is_trusted {
            house.doors.remove(&guest.number);
            guest.is_trusted.store(true, Ordering::Relaxed);
        }
        is_trusted
    }

    /// Returns the place as its user knows it, who does not keep it.
    pub(super) fn place(&self) -> Place {
        Place(Arc::downgrade(&self.0))
    }

    /// Waits until the connection has to give way; for ever once it is trusted.
    pub(super) async fn left(&self) {
        self.0.door.cancelled().await;
    }
}

/// A [`Seat`] that is held elsewhere, for as long as the connection lasts.
#[derive(Debug)]
pub(super) struct Place(Weak<Guest>);

impl Place {
    /// As [`Seat::trust`]; false when the connection has ended.
    pub(super) fn trust(&self) -> bool {
        self.0.upgrade().is_some_and(|guest| Seat(guest).trust())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let was_trusted = self.is_trusted.load(Ordering::Relaxed);
        let mut house = self.guests.house();
        house.doors.remove(&self.number);
        house
            .list
            .leave(self.origin, self.number, was_trusted, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: Places = Places {
        trusted_max: 3,
        strangers_max: 6,
        strangers_per_address_max: 4,
    };

    const FAST: Rate = Rate {
        per_second: 1000,
        burst: 1000,
    };

    fn address(last: u8) -> Origin {
        IpAddr::from([127, 0, 0, last]).into()
    }

    #[test]
    fn a_flood_from_one_address_pushes_out_itself() {
        let mut list = GuestList::new(PLACES, FAST);
        let now = Instant::now();
        let (other, leaving) = list.enter(address(9), now);
        assert_eq!(leaving, None);
        let first: Vec<u64> = (0..4).map(|_| list.enter(address(1), now).0).collect();
        for oldest in first {
            assert_eq!(list.enter(address(1), now).1, Some(oldest));
        }
        assert!(list.trust(address(9), other, now));
    }

    #[test]
    fn of_many_addresses_the_greediest_and_of_equals_the_oldest_gives_way() {
        let mut list = GuestList::new(PLACES, FAST);
        let now = Instant::now();
        let numbers: Vec<u64> = [1, 2, 3, 3, 4, 5]
            .map(|last| list.enter(address(last), now).0)
            .to_vec();
        assert_eq!(list.enter(address(6), now).1, Some(numbers[2]));
        assert_eq!(list.enter(address(7), now).1, Some(numbers[0]));
        assert_eq!(list.enter(address(8), now).1, Some(numbers[1]));
    }

    #[test]
    fn an_address_that_was_trusted_gives_way_after_strangers_and_a_hasty_one_before_them() {
        let rate = Rate {
            per_second: 1,
            burst: 4,
        };
        let mut list = GuestList::new(PLACES, rate);
        let now = Instant::now();
        let (trusted, _) = list.enter(address(1), now);
        assert!(list.trust(address(1), trusted, now));
        list.leave(address(1), trusted, true, now);
        let numbers: Vec<u64> = [1, 1, 1, 2, 3, 3]
            .map(|last| list.enter(address(last), now).0)
            .to_vec();
        // The first address has most, but is known.
        assert_eq!(list.enter(address(4), now).1, Some(numbers[4]));
        // Its fifth connection is above the rate, so that it is no better than a flood.
        assert_eq!(list.enter(address(1), now).1, Some(numbers[3]));
        assert_eq!(list.enter(address(5), now).1, Some(numbers[0]));
    }

    #[test]
    fn an_ipv6_customer_is_one_address_and_a_mapped_one_is_its_ipv4_address() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:2"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
    }

    #[test]
    fn there_is_a_place_for_everybody_even_where_files_are_few() {
        for files in [1, 64, 256, 1024, 20_000, usize::MAX] {
            let places = Places::for_files(files);
            assert!(places.trusted_max >= 1 && places.strangers_max >= 1, "{files}");
            assert!(
                places.strangers_per_address_max <= places.strangers_max,
                "{files}"
            );
            if files >= 64 {
                assert!(places.trusted_max + places.strangers_max < files, "{files}");
            }
        }
        assert_eq!(Places::for_files(20_000).strangers_max, STRANGERS_MAX);
    }

    proptest! {
        #[test]
        fn places_are_never_exceeded_and_the_trusted_never_give_way(
            steps in proptest::collection::vec((0_u8..3, 0_u8..5, 0_usize..16), 1..300),
        ) {
            let mut list = GuestList::new(PLACES, FAST);
            let now = Instant::now();
            let mut strangers: Vec<(Origin, u64)> = Vec::new();
            let mut trusted: Vec<(Origin, u64)> = Vec::new();
            for (what, last, pick) in steps {
                match what {
                    0 => {
                        let (number, leaving) = list.enter(address(last), now);
                        if let Some(leaving) = leaving {
                            prop_assert!(strangers.iter().any(|(_, number)| *number == leaving));
                            strangers.retain(|(_, number)| *number != leaving);
                        }
                        strangers.push((address(last), number));
                    }
                    1 if !strangers.is_empty() => {
                        let (origin, number) = strangers[pick % strangers.len()];
                        let is_room = trusted.len() < PLACES.trusted_max;
                        prop_assert_eq!(list.trust(origin, number, now), is_room);
                        if is_room {
                            strangers.retain(|(_, other)| *other != number);
                            trusted.push((origin, number));
                        }
                    }
                    _ if pick % 2 == 0 && !trusted.is_empty() => {
                        let (origin, number) = trusted.swap_remove(pick % trusted.len());
                        list.leave(origin, number, true, now);
                    }
                    _ if !strangers.is_empty() => {
                        let (origin, number) = strangers.swap_remove(pick % strangers.len());
                        list.leave(origin, number, false, now);
                    }
                    _ => {}
                }
                prop_assert_eq!(list.strangers_count, strangers.len());
                prop_assert_eq!(list.trusted_count, trusted.len());
                prop_assert!(strangers.len() <= PLACES.strangers_max);
                for last in 0..5 {
                    let own = strangers.iter().filter(|(origin, _)| *origin == address(last)).count();
                    prop_assert!(own <= PLACES.strangers_per_address_max);
                }
            }
        }
    }
}
