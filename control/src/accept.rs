//! The thread that accepts: it counts connections, asks the kernel who is there, and hands them to the executor.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;

use crate::limits::{ACCEPTS_PER_SECOND, MAX_CONNECTIONS};
use crate::protocol::Level;
use crate::reply::{Reply, Status};

/// How often it looks whether it is to end, s.
const LOOK_SECONDS: i64 = 1;

/// The pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Somebody who connected.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) stream: UnixStream,
    pub(crate) level: Level,
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    pub(crate) permit: Permit,
}

/// Connections of each level.
#[derive(Debug, Default)]
pub(crate) struct Open([AtomicUsize; 3]);

/// A place among them, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    open: Arc<Open>,
    level: Level,
}

impl Permit {
    fn take(open: &Arc<Open>, level: Level) -> Option<Self> {
        let count = &open.0[level as usize];
        // One thread adds, so the count is never beyond the limit.
        if count.load(Relaxed) >= MAX_CONNECTIONS[level as usize] {
            return None;
        }
        count.fetch_add(1, Relaxed);
        Some(Self { open: Arc::clone(open), level })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.0[self.level as usize].fetch_sub(1, Relaxed);
    }
}

/// Accepts until `ended`, or until nobody takes what it hands over.
pub(crate) fn accept(listeners: &[UnixListener; 3], to: &Sender<Visitor>, ended: &AtomicBool) {
    let open = Arc::new(Open::default());
    let (mut second, mut count) = (Instant::now(), 0);
    while !ended.load(Relaxed) && !to.is_closed() {
        let mut polled = listeners.each_ref().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        let timeout = Timespec { tv_sec: LOOK_SECONDS, tv_nsec: 0 };
        if poll(&mut polled, Some(&timeout)).is_err() {
            std::thread::sleep(PAUSE);
            continue;
        }
        for (level, listener) in Level::ALL.into_iter().zip(listeners) {
            match listener.accept() {
                Ok((stream, _)) => {
                    admit(stream, level, &open, to);
                    count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        if count >= ACCEPTS_PER_SECOND {
            std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, count) = (Instant::now(), 0);
        }
    }
}

fn admit(stream: UnixStream, level: Level, open: &Arc<Open>, to: &Sender<Visitor>) {
    let Ok(peer) = socket_peercred(&stream) else { return };
    let (uid, pid) = (peer.uid.as_raw(), peer.pid.as_raw_nonzero().get());
    let turned_away = match Permit::take(open, level) {
        Some(permit) => match to.try_send(Visitor { stream, level, uid, pid, permit }) {
            Ok(()) => return,
            Err(error) => error.into_inner().stream,
        },
        None => stream,
    };
    let text = format!("too many connections of level {level}, or too many at once; try again");
    // What does not fit into an empty socket is lost: it is closed either way.
    let _ = turned_away.set_nonblocking(true);
    let _ = (&turned_away).write_all(Reply::new(Status::TOO_MANY, text).encode(false).as_bytes());
}
