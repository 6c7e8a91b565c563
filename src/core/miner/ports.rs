//! Ports of this host at which the clients of streaming jobs find their executors.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// The ports that a miner gives to its executors, one to each streaming job; clones share them.
#[derive(Debug, Clone)]
pub struct StreamingPorts {
    range: RangeInclusive<u16>,
    leased: Arc<Mutex<BTreeSet<u16>>>,
}

impl StreamingPorts {
    /// Makes the ports of a range.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self {
            range,
            leased: Arc::default(),
        }
    }

    /// Returns the lowest port that is neither leased nor used by another program; none when there is none.
    ///
    /// The reference never gives a port back (wire-executor-miner §3); here the lease's end does.
    pub fn lease(&self) -> Option<PortLease> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        let port = self
            .range
            .clone()
            .find(|port| !leased.contains(port) && is_free(*port))?;
        leased.insert(port);
        Some(PortLease {
            port,
            leased: Arc::clone(&self.leased),
        })
    }

    /// Returns a port that a former life had leased, whoever listens there: its executor does.
    ///
    /// None when it is leased again already.
    pub fn reclaim(&self, port: u16) -> Option<PortLease> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.insert(port).then(|| PortLease {
            port,
            leased: Arc::clone(&self.leased),
        })
    }
}

/// Returns how many ports of a range nobody listens at now.
pub fn count_free(range: &RangeInclusive<u16>) -> usize {
    range.clone().filter(|port| is_free(*port)).count()
}

/// Tells whether nobody listens at a port now.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    leased: Arc<Mutex<BTreeSet<u16>>>,
}

impl PortLease {
    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.remove(&self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_again_only_after_it_was_given_back() {
        // Three neighbours of which one is taken, wherever this machine has them.
        let (range, taken) = (20_000..60_000_u16)
            .step_by(3)
            .find_map(|first| {
                let range = first..=first + 2;
                let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, first + 1)).ok()?;
                (is_free(first) && is_free(first + 2)).then_some((range, taken))
            })
            .unwrap();
        let ports = StreamingPorts::new(range.clone());
        let (low, high) = (ports.lease().unwrap(), ports.lease().unwrap());
        assert_eq!((low.port(), high.port()), (*range.start(), *range.end()));
        assert!(ports.lease().is_none());
        assert!(ports.reclaim(low.port()).is_none());
        let of_former_life = ports.reclaim(range.start() + 1).unwrap();
        assert!(ports.reclaim(of_former_life.port()).is_none());
        drop(low);
        assert_eq!(ports.clone().lease().unwrap().port(), *range.start());
        drop(taken);
    }
}
