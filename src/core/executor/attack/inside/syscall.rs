//! Raw system calls of the attacker: the only file of the crate with unsafe code.
//!
//! An attacker does not use polite wrappers: some of what it tries has none. What can be called is a closed list
//! ([`Call`]) whose arguments are numbers and null pointers chosen here, so that even where a call is let through, it
//! ends in the kernel's own refusal (`EFAULT`, `EINVAL`) instead of doing anything.

use std::os::fd::{AsRawFd, RawFd};

use libc::{c_long, timespec};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use super::let_pass;

/// A system call that a sandbox must refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Puts a key into a keyring.
    AddKey,
    /// Asks for a key.
    RequestKey,
    /// Names the session's keyring.
    Keyctl,
    /// Loads a BPF program.
    Bpf,
    /// Makes a descriptor that handles page faults.
    Userfaultfd,
    /// Opens a performance counter.
    PerfEventOpen,
    /// Opens a file by its handle, whatever the mount namespace (the "shocker" escape).
    OpenByHandleAt,
    /// Loads a kernel module.
    InitModule,
    /// Removes a kernel module.
    DeleteModule,
    /// Loads another kernel.
    KexecLoad,
    /// Restarts the machine; the magic numbers are wrong.
    Reboot,
    /// Sets the clock.
    ClockSettime,
    /// Gives swap back.
    Swapoff,
    /// Reads the kernel's log.
    Syslog,
    /// Takes the highest priority.
    Setpriority,
    /// Makes a user namespace for this process.
    UnshareUser,
    /// Makes a mount namespace for this process.
    UnshareMount,
    /// Makes a network namespace for this process.
    UnshareNetwork,
    /// Makes a process in a new user namespace.
    CloneUser,
    /// Opens the machine's input and output ports.
    #[cfg(target_arch = "x86_64")]
    Iopl,
}

impl Call {
    /// Returns the number and the arguments. Every argument is a number or a null pointer.
    fn parameters(self) -> (c_long, [c_long; 5]) {
        match self {
            Self::AddKey => (libc::SYS_add_key, [0, 0, 0, 0, SESSION_KEYRING]),
            Self::RequestKey => (libc::SYS_request_key, [0, 0, 0, SESSION_KEYRING, 0]),
            // Operation 0: return the identifier of a keyring.
            Self::Keyctl => (libc::SYS_keyctl, [0, SESSION_KEYRING, 0, 0, 0]),
            // Command 5: load a program, here of no bytes.
            Self::Bpf => (libc::SYS_bpf, [5, 0, 0, 0, 0]),
            Self::Userfaultfd => (libc::SYS_userfaultfd, [libc::O_CLOEXEC.into(), 0, 0, 0, 0]),
            Self::PerfEventOpen => (libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
            Self::OpenByHandleAt => (libc::SYS_open_by_handle_at, [0, 0, 0, 0, 0]),
            Self::InitModule => (libc::SYS_init_module, [0, 0, 0, 0, 0]),
            Self::DeleteModule => (libc::SYS_delete_module, [0, 0, 0, 0, 0]),
            // Flags that do not exist: refused after the permission was checked, before anything is done.
            Self::KexecLoad => (libc::SYS_kexec_load, [0, 0, 0, 0xff00, 0]),
            Self::Reboot => (libc::SYS_reboot, [0, 0, 0, 0, 0]),
            Self::ClockSettime => (libc::SYS_clock_settime, [0, 0, 0, 0, 0]),
            Self::Swapoff => (libc::SYS_swapoff, [0, 0, 0, 0, 0]),
            // Action 3: read everything, here into no buffer.
            Self::Syslog => (libc::SYS_syslog, [3, 0, 0, 0, 0]),
            Self::Setpriority => (libc::SYS_setpriority, [0, 0, -20, 0, 0]),
            Self::UnshareUser => (libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]),
            Self::UnshareMount => (libc::SYS_unshare, [libc::CLONE_NEWNS.into(), 0, 0, 0, 0]),
            Self::UnshareNetwork => (libc::SYS_unshare, [libc::CLONE_NEWNET.into(), 0, 0, 0, 0]),
            Self::CloneUser => {
                let flags = c_long::from(libc::CLONE_NEWUSER) | c_long::from(libc::SIGCHLD);
                (libc::SYS_clone, [flags, 0, 0, 0, 0])
            }
            #[cfg(target_arch = "x86_64")]
            Self::Iopl => (libc::SYS_iopl, [3, 0, 0, 0, 0]),
        }
    }
}

/// The identifier that stands for the session's keyring.
const SESSION_KEYRING: c_long = -3;

/// What a child of the attacker does; nothing but system calls, since a forked process may not allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    /// Tries a call and exits with its error number, 0 when it was let through.
    Tries(Call),
    /// Enters the namespace behind a descriptor and exits with its error number, 0 when it was let in.
    Enters(RawFd),
    /// Waits to be killed, at most [`LIFE`].
    Sleeps,
    /// Leaves a grandchild in a session of its own that outlives it, at most [`LIFE`].
    LeavesADaemon,
    /// Dies of a signal that dumps core.
    Crashes,
}

/// The longest that a child lives when nobody kills it: an attack that succeeds must not stay.
static LIFE: timespec = timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// Makes a child process; returns the kernel's refusal, or who it is.
pub(super) fn fork(child: Child) -> Result<Pid, Errno> {
    let pid = call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0])?;
    if pid == 0 {
        live(child);
    }
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

/// Makes a child and waits for its end.
pub(super) fn fork_and_wait(child: Child) -> Result<WaitStatus, Errno> {
    let pid = fork(child)?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tries a call in a child, so that its success changes nothing here; returns the refusal, if it was one.
pub(super) fn attempt(wanted: Call) -> Result<(), Errno> {
    told(fork_and_wait(Child::Tries(wanted))?)
}

/// Tries to enter a namespace in a child; returns the refusal, if it was one.
pub(super) fn enter(namespace: &impl AsRawFd) -> Result<(), Errno> {
    told(fork_and_wait(Child::Enters(namespace.as_raw_fd()))?)
}

fn told(status: WaitStatus) -> Result<(), Errno> {
    match status.exit_status() {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code)),
        // Killed instead of refused: what a stricter filter does.
        None => Err(Errno::PERM),
    }
}

/// What a child does until it ends.
fn live(child: Child) -> ! {
    let code = match child {
        Child::Tries(wanted) => {
            let (number, arguments) = wanted.parameters();
            call(number, arguments).map_or_else(Errno::raw_os_error, |_| 0)
        }
        Child::Enters(descriptor) => {
            call(libc::SYS_setns, [descriptor.into(), 0, 0, 0, 0]).map_or_else(Errno::raw_os_error, |_| 0)
        }
        Child::Sleeps => {
            sleep();
            0
        }
        Child::LeavesADaemon => {
            let_pass(call(libc::SYS_setsid, [0; 5]));
            if call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]) == Ok(0) {
                // Without the streams of its parent, as a daemon.
                for descriptor in 0..3 {
                    let_pass(call(libc::SYS_close, [descriptor, 0, 0, 0, 0]));
                }
                sleep();
            }
            0
        }
        Child::Crashes => {
            let own = call(libc::SYS_getpid, [0; 5]).unwrap_or(0);
            if own > 0 {
                let_pass(call(libc::SYS_kill, [own, libc::SIGABRT.into(), 0, 0, 0]));
            }
            0
        }
    };
    loop {
        let_pass(call(libc::SYS_exit_group, [code.into(), 0, 0, 0, 0]));
    }
}

#[expect(
    unsafe_code,
    reason = "ppoll reads one constant; no safe wrapper may be called after a fork"
)]
fn sleep() {
    // SAFETY: no descriptors, no signal mask, and a time that lives as long as the program.
    unsafe {
        libc::syscall(libc::SYS_ppoll, 0, 0, &raw const LIFE, 0, 0);
    }
}

#[expect(
    unsafe_code,
    reason = "what an attacker tries has no safe wrapper; numbers and arguments are the constants above"
)]
fn call(number: c_long, arguments: [c_long; 5]) -> Result<c_long, Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: every caller is in this file and passes numbers, descriptors and null pointers only, so the kernel
    // reads and writes no memory of this process. Forks continue in `live`, which never returns.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, 0) };
    if result == -1 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_meets_comes_back_as_its_error_number() {
        // With the right to restart the machine the magic numbers are wrong.
        assert!(matches!(attempt(Call::Reboot), Err(Errno::PERM | Errno::INVAL)));
    }

    #[test]
    fn a_child_that_crashes_is_seen_to() {
        let status = fork_and_wait(Child::Crashes).unwrap();
        assert_eq!(status.terminating_signal(), Some(libc::SIGABRT));
    }

    #[test]
    fn a_sleeper_can_be_killed() {
        let pid = fork(Child::Sleeps).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.terminating_signal(), Some(libc::SIGKILL));
    }
}
