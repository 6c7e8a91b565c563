//! The signals that a process of ours answers to, and what each of them makes it do: one table for code, help and manual.

use std::future::poll_fn;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Tasks;

/// Orders that wait to be carried out; further ones of the same kind add nothing.
const ORDERS_MAX: usize = 4;

/// What a signal orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To stop; the more often, the sooner.
    Stop,
    /// To read again what can be read again.
    Reload,
    /// To tell how things stand.
    Tell,
}

/// One signal.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub kind: SignalKind,
    /// What it orders.
    pub order: Order,
    /// The exit code of a process that it has ended before its time.
    pub exit_code: u8,
    /// What it does, for people.
    pub does: &'static str,
}

/// All signals that are answered to. SIGKILL cannot be.
pub const SIGNALS: &[Row] = &[
    Row {
        name: "SIGTERM",
        kind: SignalKind::terminate(),
        order: Order::Stop,
        exit_code: 143,
        does: "Stop in order: take nothing new, finish what is in hand within the role's grace. A second SIGTERM or SIGINT \
               ends all work at its next pause, a third ends the process at once. Exit code 0, or 143 if work was cut off",
    },
    Row {
        name: "SIGINT",
        kind: SignalKind::interrupt(),
        order: Order::Stop,
        exit_code: 130,
        does: "As SIGTERM; Ctrl-C sends it. Exit code 0, or 130 if work was cut off",
    },
    Row {
        name: "SIGHUP",
        kind: SignalKind::hangup(),
        order: Order::Reload,
        exit_code: 129,
        does: "Read the configuration again, and open the log file anew: log.level counts at once, other settings that have \
               changed are named in the log and wait for a restart. As SIGTERM if it says that the role's terminal is gone. \
               Roles only. Certificates, engines, users and orders are followed without a signal",
    },
    Row {
        name: "SIGUSR1",
        kind: SignalKind::user_defined1(),
        order: Order::Tell,
        exit_code: 138,
        does: "Write how things stand to the log: tasks, loops, jobs, executors, connections, queues, the store. Roles only",
    },
];

/// What came from outside since [`listen`] or [`listen_all`] was called.
#[derive(Clone, Debug, Default)]
pub struct Received {
    first: Arc<AtomicU8>,
    count: Arc<AtomicU8>,
}

impl Received {
    /// Returns the exit code of a process ended by the first signal: 130 (SIGINT) or 143 (SIGTERM).
    pub fn exit_code(&self) -> Option<u8> {
        match self.first.load(Ordering::Relaxed) {
            0 => None,
            code => Some(code),
        }
    }

    /// Tells whether a second signal asked to stop at once.
    pub fn is_impatient(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 1
    }

    fn note(&self, code: u8) -> u8 {
        let seen = self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if seen == 1 {
            self.first.store(code, Ordering::Relaxed);
        }
        seen
    }
}

/// Starts to watch the signals that stop the family; needs a running runtime.
///
/// The watcher outlives the family's stop, for the second and third signal, and ends with its abort.
pub fn listen(tasks: &Tasks) -> io::Result<Received> {
    let (received, _) = watch(tasks, |order| order == Order::Stop)?;
    Ok(received)
}

/// Starts to watch all signals of [`SIGNALS`], as [`listen`] does; what is to be done besides stopping is received.
pub fn listen_all(tasks: &Tasks) -> io::Result<(Received, mpsc::Receiver<Order>)> {
    watch(tasks, |_| true)
}

fn watch(tasks: &Tasks, is_wanted: fn(Order) -> bool) -> io::Result<(Received, mpsc::Receiver<Order>)> {
    let wanted = SIGNALS.iter().filter(|row| is_wanted(row.order));
    let mut signals = wanted
        .map(|row| Ok((row, signal(row.kind)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let received = Received::default();
    let (orders, waiting) = mpsc::channel(ORDERS_MAX);
    let (family, noted) = (tasks.clone(), received.clone());
    let had_terminal = io::stdin().is_terminal();
    let watching = async move {
        loop {
            let row = next(&mut signals).await;
            let order = match row.order {
                Order::Reload if had_terminal && !io::stdin().is_terminal() => Order::Stop,
                order => order,
            };
            if order == Order::Stop {
                stop(&family, &noted, row);
            } else {
                // Full means that the same is about to be done.
                orders.try_send(order).unwrap_or_default();
            }
        }
    };
    // Outside the family on purpose: the family's shutdown must not wait for the one who watches it.
    #[expect(clippy::disallowed_methods, reason = "see above; it ends with the runtime")]
    drop(tokio::spawn(watching));
    Ok((received, waiting))
}

async fn next(signals: &mut [(&'static Row, Signal)]) -> &'static Row {
    poll_fn(|cx| {
        for (row, signal) in &mut *signals {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(*row);
            }
        }
        Poll::Pending
    })
    .await
}

fn stop(family: &Tasks, received: &Received, row: &Row) {
    match received.note(row.exit_code) {
        1 => {
            tracing::info!(signal = row.name, "asked to stop; a second signal aborts");
            family.stop();
        }
        2 => {
            tracing::warn!(signal = row.name, "asked again: aborting");
            family.abort();
        }
        _ => exit_now(row.exit_code),
    }
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the third signal: nothing else helped"
)]
fn exit_now(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_stands_once_in_the_table_with_the_exit_code_of_its_number() {
        for (index, row) in SIGNALS.iter().enumerate() {
            assert!(SIGNALS.iter().skip(index + 1).all(|other| other.kind != row.kind));
            assert_eq!(
                i32::from(row.exit_code),
                128 + row.kind.as_raw_value(),
                "{}",
                row.name
            );
            assert!(
                !row.does.ends_with('.') && !row.does.contains("  "),
                "{}",
                row.does
            );
        }
    }
}
