//! The attacker: what runs in the job's container and tries to get out.
//!
//! It is blunt on purpose: it tries, writes down what the kernel answered, and judges nothing. Whatever it takes —
//! processes, memory, disk — it stops taking at the bounds of its orders, so that even a broken sandbox costs the
//! host little; and nothing that it starts outlives a minute.

mod exhaust;
mod files;
mod kernel;
mod network;
mod plant;
mod syscall;

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

pub(super) use files::namespaces;

use super::elf;
use super::probe::{Got, Orders, Probe, Step};

/// Why the attacker gave up.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// This is not the container of an attack: elsewhere, what it tries might work.
    #[error("this runs in the containers of `horde executor check --attack` only")]
    WrongPlace,
    /// The orders are not ours.
    #[error("the orders cannot be read")]
    BadOrders(#[from] serde_json::Error),
    /// There is no attack of that name.
    #[error("there is no attack `{0}`")]
    UnknownAttack(String),
    /// What was found could not be told.
    #[error("could not write to standard output")]
    Output(#[from] io::Error),
}

/// Tries what `orders` (JSON) ask for, one attack after another, and writes a line about each to `out`. Blocks.
pub fn run(orders: &str, out: &mut dyn Write) -> Result<(), InsideError> {
    // Only the attack's image has this file.
    if !Path::new(elf::SETUID_PATH).exists() {
        return Err(InsideError::WrongPlace);
    }
    let orders: Orders = serde_json::from_str(orders)?;
    for name in &orders.attacks {
        let steps = attempt(name, &orders, out)?;
        tell(name, steps, out)?;
    }
    Ok(())
}

fn attempt(name: &str, orders: &Orders, out: &mut dyn Write) -> Result<Vec<Step>, InsideError> {
    let inside = [network::attempt, kernel::attempt, files::attempt];
    if let Some(steps) = inside.iter().find_map(|attempt| attempt(name, orders)) {
        return Ok(steps);
    }
    if let Some(steps) = plant::attempt(name, orders) {
        return Ok(steps);
    }
    exhaust::attempt(name, orders, out)?.ok_or_else(|| InsideError::UnknownAttack(name.to_owned()))
}

fn tell(attack: &str, steps: Vec<Step>, out: &mut dyn Write) -> Result<(), InsideError> {
    let probe = Probe {
        attack: attack.to_owned(),
        steps,
    };
    // A line of its own, also behind a flood that did not end one.
    writeln!(out, "{}", serde_json::to_string(&probe)?)?;
    Ok(out.flush()?)
}

/// Writes down what came of an attempt; `done` says what it means that it worked.
fn step<T>(tried: impl Into<String>, result: Result<T, impl Into<Refusal>>, done: impl Into<String>) -> Step {
    Step {
        tried: tried.into(),
        got: match result {
            Ok(_) => Got::Done(done.into()),
            Err(refusal) => Got::Refused(refusal.into().0),
        },
    }
}

/// Writes down what there was to see.
fn found(tried: impl Into<String>, things: Vec<String>) -> Step {
    Step {
        tried: tried.into(),
        got: Got::Found(things),
    }
}

/// Lets the failure of an attempt to tidy up pass: what it would have removed goes with the container.
fn let_pass<T, E>(_result: Result<T, E>) {}

#[expect(
    clippy::disallowed_methods,
    reason = "the attacker is alone in its process; a runtime has nothing else to do"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The name of a refusal, as the manual pages have it.
struct Refusal(String);

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        // The kernel's own name is the only stable word; the library prints it as `Os { … }` or by number.
        let name = ERRNO_NAMES
            .iter()
            .find_map(|(known, name)| (*known == errno).then_some(*name));
        Self(name.map_or_else(|| format!("errno {}", errno.raw_os_error()), str::to_owned))
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::from(errno),
            None => Self(error.kind().to_string()),
        }
    }
}

/// The refusals that the attacks meet.
const ERRNO_NAMES: [(Errno, &str); 32] = [
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::SRCH, "ESRCH"),
    (Errno::IO, "EIO"),
    (Errno::NXIO, "ENXIO"),
    (Errno::NOEXEC, "ENOEXEC"),
    (Errno::BADF, "EBADF"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::FAULT, "EFAULT"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::XDEV, "EXDEV"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
    (Errno::PROTONOSUPPORT, "EPROTONOSUPPORT"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::NETUNREACH, "ENETUNREACH"),
    (Errno::HOSTUNREACH, "EHOSTUNREACH"),
    (Errno::CONNREFUSED, "ECONNREFUSED"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
    (Errno::CONNRESET, "ECONNRESET"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_name_of_the_manual_pages() {
        assert_eq!(Refusal::from(Errno::PERM).0, "EPERM");
        assert_eq!(
            Refusal::from(io::Error::from_raw_os_error(libc::ENETUNREACH)).0,
            "ENETUNREACH"
        );
        assert_eq!(Refusal::from(io::Error::other("x")).0, "other error");
        assert_eq!(Refusal::from(Errno::from_raw_os_error(121)).0, "errno 121");
    }

    #[test]
    fn nothing_is_tried_outside_of_the_attacks_image() {
        let mut out = Vec::new();
        assert!(matches!(run("{}", &mut out), Err(InsideError::WrongPlace)));
        assert!(out.is_empty());
    }
}
