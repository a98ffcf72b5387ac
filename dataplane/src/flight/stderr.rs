//! The standard error, of which nobody knows whether anybody reads it.
//!
//! A pipe that is full holds up whoever writes to it, and with the standard library's lock everybody else who wants to. Here nobody
//! takes that lock: a write waits for room, for a bounded time, and a line that finds none is given up.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use rustix::stdio::stderr;

/// Bytes of one write: a pipe that has room takes so many at once (PIPE_BUF, pipe(7)).
const PIECE: usize = 4_096;

/// Between two looks whether waiting has an end.
const LOOK: Duration = Duration::from_millis(50);

/// Writes all of it, as long as `waits`, given how long it has waited already, has patience.
///
/// # Errors
/// What the system said; [`io::ErrorKind::TimedOut`] where there was no room in time.
pub fn write_all(mut bytes: &[u8], waits: impl Fn(Duration) -> bool) -> io::Result<()> {
    let since = Instant::now();
    while !bytes.is_empty() {
        if !has_room(LOOK)? {
            if !waits(since.elapsed()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            continue;
        }
        match write(stderr(), &bytes[..bytes.len().min(PIECE)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a write would not wait, or fail at once.
fn has_room(patience: Duration) -> io::Result<bool> {
    let mut all = [PollFd::from_borrowed_fd(stderr(), PollFlags::OUT)];
    let patience = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut all, Some(&patience)) {
        Ok(_) => Ok(!all[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
