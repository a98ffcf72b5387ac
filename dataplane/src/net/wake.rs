//! What wakes a reactor besides sockets and files: other threads, through an eventfd, and signals, through a signalfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::socket::check;

/// Wakes a reactor that sleeps, from any thread; see [`Event::Woken`](super::Event::Woken).
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    eventfd: OwnedFd,
    /// Set from the first wake until the reactor has seen it, so that further ones cost no system call.
    pending: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let raw = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the kernel has just returned this descriptor to us alone.
        let eventfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { shared: Arc::new(Shared { eventfd, pending: AtomicBool::new(false) }) })
    }

    /// Makes the reactor return from its wait, now or the next time; wakes that come before it looked are one.
    ///
    /// What this thread wrote before is visible to the reactor's thread when it has the event.
    pub fn wake(&self) {
        if !self.shared.pending.swap(true, Ordering::AcqRel) {
            let one = 1u64;
            // SAFETY: eight bytes that live across the call. It can neither block nor fail: at most one wake is
            // outstanding, so the counter never nears its limit.
            unsafe { libc::write(self.shared.eventfd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }

    pub(super) fn raw_fd(&self) -> i32 {
        self.shared.eventfd.as_raw_fd()
    }

    /// Notes that the reactor has seen the wake; what is written from now on needs another.
    pub(super) fn seen(&self) {
        self.shared.pending.swap(false, Ordering::AcqRel);
    }
}

/// Signals that arrive as events.
#[derive(Debug)]
pub(super) struct Signals {
    signalfd: OwnedFd,
}

impl Signals {
    /// Blocks `signals` in the calling thread and opens a descriptor that reads them.
    pub(super) fn new(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: sigset_t is plain integers, for which all bits zero is a value; sigemptyset initialises it anyway.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives across the calls.
        check(unsafe { libc::sigemptyset(&raw mut set) })?;
        for &signal in signals {
            // SAFETY: as above; a number that is no signal is an error.
            check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set is initialised.
        let raw = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the kernel has just returned this descriptor to us alone.
        Ok(Self { signalfd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    pub(super) fn raw_fd(&self) -> i32 {
        self.signalfd.as_raw_fd()
    }

    /// The next signal that arrived, if any.
    pub(super) fn next(&self) -> Option<i32> {
        // SAFETY: signalfd_siginfo is plain integers, for which all bits zero is a value.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let bytes = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most `bytes` into info, which lives across the call.
        let read = unsafe { libc::read(self.raw_fd(), (&raw mut info).cast(), bytes) };
        if usize::try_from(read) == Ok(bytes) { i32::try_from(info.ssi_signo).ok() } else { None }
    }
}
