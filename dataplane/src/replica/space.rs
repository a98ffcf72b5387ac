//! Room on the disk. Below a mark this replica takes no new writes, so that what was taken can still be finished.
//!
//! All disks of a cluster fill together, since all hold the same. Below [`low_space_mib`](crate::cluster::settings::LocalConfig) a
//! client's new bundle is refused with [`Code::LOW_SPACE`](crate::types::Code::LOW_SPACE), and what others relay is dropped. Everything
//! else goes on: what was accepted is ordered, others' proposals are voted on (one full disk of many stops nobody), reads are
//! answered, view changes, checkpoints and catching up proceed. Once an eighth more than the mark is free the replica takes writes
//! again, by itself; clients repeat what was refused until their time is up.
//!
//! A log without room for its next segment waits: what it cannot make durable is promised to nobody, all that it holds stays, and
//! every [`FULL_PAUSE_US`] it tries again. Until it has written again space counts as low, whatever the mark is.
//!
//! A write is refused for good only where fewer than f+1 replicas have room. With f+1 or more the cluster goes on: those take the
//! write, and where the leader drops it they replace the leader, as they would one that is slow.
//!
//! The room is looked at once a second by a thread of its own, since a file system may take its time to answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::node::{Node, Shell};
use super::node_error::NodeError;
use crate::history::store::EntryStore;
use crate::log::{Device, LogError, Lsn};
use crate::state::Application;
use crate::types::Now;

/// Between two tries of a log to make its next segment on a full disk, us.
pub(super) const FULL_PAUSE_US: u64 = 200_000;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What is free, where nothing is known.
const UNKNOWN: u64 = u64::MAX;

/// Free bytes where a directory lies, as they were a moment ago.
pub(super) struct SpaceWatch(Arc<AtomicU64>);

impl SpaceWatch {
    /// Looks at once, and then again and again.
    pub(super) fn start(dir: PathBuf) -> Self {
        let free = Arc::new(AtomicU64::new(look(&dir).unwrap_or(UNKNOWN)));
        let told = Arc::clone(&free);
        let work = move || {
            // Ends with the replica.
            while Arc::strong_count(&told) > 1 {
                std::thread::sleep(PAUSE);
                if let Some(bytes) = look(&dir) {
                    told.store(bytes, Ordering::Relaxed);
                }
            }
        };
        // Without a thread the first look stands.
        let _ = crate::cores::spawn("space", work);
        Self(free)
    }

    /// Bytes that this process may still write; all ones where the file system does not say.
    pub(super) fn free_bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn look(dir: &PathBuf) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Whether space is low: from below the mark until an eighth more than the mark is free, so that it does not flicker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gauge {
    mark_bytes: u64,
    is_low: bool,
}

impl Gauge {
    /// With a mark of 0 space is low only while the log is full.
    pub(crate) fn new(mark_bytes: u64) -> Self {
        Self { mark_bytes, is_low: false }
    }

    /// Takes a look into account, and whether the log has no room; true where that changes something.
    pub(crate) fn update(&mut self, free_bytes: u64, is_full: bool) -> bool {
        let needed = if self.is_low { self.enough_bytes() } else { self.mark_bytes };
        let was_low = std::mem::replace(&mut self.is_low, is_full || free_bytes < needed);
        was_low != self.is_low
    }

    /// Another mark; what is low now is looked at again with the next update.
    pub(super) fn set_mark(&mut self, mark_bytes: u64) {
        self.mark_bytes = mark_bytes;
    }

    pub(crate) fn is_low(&self) -> bool {
        self.is_low
    }

    /// What must be free before writes are taken again.
    pub(super) fn enough_bytes(&self) -> u64 {
        self.mark_bytes.saturating_add(self.mark_bytes / 8)
    }
}

/// A log that found no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full {
    /// It tries again then, us.
    again_us: u64,
    /// The last durable record: it is full until there is a later one.
    durable: Lsn,
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// Starts the log's next write. Where there is no room for it, it is tried again later.
    pub(super) fn start_write(&mut self, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        match shell.start_write(&mut self.log) {
            Err(LogError::NoSpace { .. }) => {
                self.count("log.full");
                self.full = Some(Full { again_us: now.mono_us + FULL_PAUSE_US, durable: self.log.durable() });
                Ok(())
            }
            started => Ok(started?),
        }
    }

    /// From when on a write may be tried, us.
    pub(super) fn write_again_us(&self) -> u64 {
        self.full.map_or(0, |full| full.again_us)
    }

    /// Whether the log found no room for its next segment and has written nothing since.
    pub fn is_full(&self) -> bool {
        self.full.is_some_and(|full| self.log.durable() <= full.durable)
    }

    /// Records that wait for room in the log's buffers: at most what a round adds beyond 256.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Room on the disk is low, or not any more.
    pub fn set_low_space(&mut self, is_low: bool) {
        self.low_space = is_low;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_from_the_mark_until_an_eighth_more_is_free() {
        let mut gauge = Gauge::new(800);
        let mut look = |free| {
            let changed = gauge.update(free, false);
            (changed, gauge.is_low())
        };
        assert_eq!([800, 799, 850, 899].map(&mut look), [(false, false), (true, true), (false, true), (false, true)]);
        assert_eq!([900, 800, 0].map(&mut look), [(true, false), (false, false), (true, true)]);
        let mut off = Gauge::new(0);
        assert!(!off.update(0, false) && !off.is_low());
        assert!(off.update(0, true) && off.is_low());
        assert!(off.update(0, false) && !off.is_low());
    }

    #[test]
    fn the_room_of_a_real_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let free = SpaceWatch::start(dir.path().to_owned()).free_bytes();
        assert!(free > 0 && free < UNKNOWN, "{free}");
        assert_eq!(SpaceWatch::start("/no/such/place".into()).free_bytes(), UNKNOWN);
    }
}
