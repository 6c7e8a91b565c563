//! What systemd hears of a role: that it serves, what it does, that it reloads or stops, and that its loops turn.

use std::fmt;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::core::config::Environment;
use crate::core::tasks::life::Standing;

/// Hands states over.
type Way = Box<dyn FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send>;

/// The way to systemd; silent where there is none.
pub(super) struct Systemd {
    send: Option<Way>,
    watchdog: Option<Duration>,
    is_failing: bool,
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd")
            .field("is_there", &self.send.is_some())
            .field("watchdog", &self.watchdog)
            .finish_non_exhaustive()
    }
}

impl Systemd {
    /// Looks whether this process is a service that systemd wants to hear of.
    pub(super) fn of(environment: &Environment) -> Self {
        match environment.get("NOTIFY_SOCKET") {
            Some(_) => Self::new(Some(Box::new(sd_notify::notify)), sd_notify::watchdog_enabled()),
            None => Self::new(None, None),
        }
    }

    /// Makes a way of one's own, such as none.
    pub(super) fn new(send: Option<Way>, watchdog: Option<Duration>) -> Self {
        Self {
            send,
            watchdog,
            is_failing: false,
        }
    }

    /// Returns the time between two signs of life that systemd is content with: three fit into what it waits.
    pub(super) fn beat(&self) -> Option<Duration> {
        self.watchdog
            .map(|watchdog| watchdog / 3)
            .filter(|beat| !beat.is_zero())
    }

    /// Tells how far the role is.
    pub(super) fn tell(&mut self, standing: &Standing) {
        if standing.serves {
            self.send(&[NotifyState::Ready, NotifyState::Status(&standing.words)]);
        } else if !standing.words.is_empty() {
            self.send(&[NotifyState::Status(&standing.words)]);
        }
    }

    /// Tells that the configuration is read again; [`Systemd::tell`] tells that it has been.
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the kernel does not tell how long it runs"),
        }
    }

    /// Tells that the role stops.
    pub(super) fn stopping(&mut self) {
        let words = "stopping: takes nothing new, finishes what is in hand";
        self.send(&[NotifyState::Stopping, NotifyState::Status(words)]);
    }

    /// Gives the sign of life.
    pub(super) fn is_alive(&mut self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Tells what is wrong, in place of a sign of life.
    pub(super) fn complain(&mut self, words: &str) {
        self.send(&[NotifyState::Status(words)]);
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        let Some(send) = &mut self.send else { return };
        match send(states) {
            Ok(()) => self.is_failing = false,
            Err(error) if self.is_failing => tracing::debug!(%error, "systemd cannot be told"),
            Err(error) => {
                self.is_failing = true;
                tracing::warn!(%error, "systemd cannot be told how the role is");
            }
        }
    }
}
