//! The thread that accepts: it counts connections, asks the kernel who is there, and hands them to the executor.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::limits::{ACCEPTS_PER_SECOND, MAX_CONNECTIONS, USER_SHARE};
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
    /// 0 where it lives in another namespace of processes.
    pub(crate) pid: i32,
    pub(crate) permit: Permit,
}

/// Connections of each level by user; users without one are not in it.
#[derive(Debug, Default)]
pub(crate) struct Open(Mutex<[BTreeMap<u32, usize>; 3]>);

/// A place among them, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    open: Arc<Open>,
    level: Level,
    uid: u32,
}

impl Permit {
    fn take(open: &Arc<Open>, level: Level, uid: u32) -> Option<Self> {
        let mut all = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let users = &mut all[level as usize];
        let own = users.get(&uid).copied().unwrap_or(0);
        let most = MAX_CONNECTIONS[level as usize];
        if users.values().sum::<usize>() >= most || own >= most / USER_SHARE {
            return None;
        }
        users.insert(uid, own + 1);
        Some(Self { open: Arc::clone(open), level, uid })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut all = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let users = &mut all[self.level as usize];
        match users.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(users.remove(&self.uid)),
        }
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
    let Ok(peer) = getsockopt(&stream, PeerCredentials) else { return };
    let (uid, pid) = (peer.uid(), peer.pid());
    let turned_away = match Permit::take(open, level, uid) {
        Some(permit) => match to.try_send(Visitor { stream, level, uid, pid, permit }) {
            Ok(()) => return,
            Err(error) => error.into_inner().stream,
        },
        None => stream,
    };
    let text = format!("too many connections of level {level} or of user {uid}, or too many at once; try again");
    // What does not fit into an empty socket is lost: it is closed either way.
    let _ = turned_away.set_nonblocking(true);
    let _ = (&turned_away).write_all(Reply::new(Status::TOO_MANY, text).encode(false).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_half_of_a_level_and_places_come_back() {
        let open = Arc::new(Open::default());
        let take = |level, uid| Permit::take(&open, level, uid);
        let mut held: Vec<Permit> = std::iter::from_fn(|| take(Level::Admin, 1_000)).collect();
        assert_eq!(held.len(), MAX_CONNECTIONS[2] / USER_SHARE);
        let others: Vec<Permit> = (0..).map_while(|uid| take(Level::Admin, uid)).collect();
        assert_eq!(held.len() + others.len(), MAX_CONNECTIONS[2]);
        assert!(take(Level::Viewer, 1_000).is_some(), "levels do not take each other's places");
        held.pop();
        let again = take(Level::Admin, 1_000);
        assert!(again.is_some() && take(Level::Admin, 9).is_none());
        drop((held, others, again));
        assert!(open.0.lock().unwrap().iter().all(BTreeMap::is_empty));
    }
}
