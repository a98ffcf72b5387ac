//! A simulated machine: its disk, its clock, and the replica on it.

use std::collections::VecDeque;

use super::outbox::Outbox;
use super::shelf::{Saving, SimShelf};
use super::world::SimNode;
use crate::adversary::Adversary;
use crate::history::store::MemoryStore;
use crate::log::SimDisk;
use crate::replica::{Gauge, Job};

/// Wall time at the start, ms since the Unix epoch.
pub(super) const BASE_MS: i64 = 1_790_000_000_000;

/// A machine with its replica.
pub(super) struct Machine {
    pub(super) node: Option<SimNode>,
    /// The disk, while the replica is down.
    pub(super) disk: Option<SimDisk>,
    pub(super) life: u32,
    /// The process's start, us: its monotonic clock begins there.
    pub(super) born_us: u64,
    /// Wall clock error, ms.
    pub(super) error_ms: i64,
    /// By how many us in a second that error grows, and since when.
    drift_ppm: (i64, u64),
    /// Whether the replica takes new writes, as its process would tell it.
    pub(super) gauge: Gauge,
    /// When the room on the disk is looked at next, us.
    pub(super) space_look_us: u64,
    /// Until when new writes may be refused for want of room, us.
    pub(super) short_until_us: u64,
    pub(super) slow_disk_until_us: u64,
    pub(super) paused_until_us: u64,
    pub(super) dies_in_turn: bool,
    pub(super) turn_due: bool,
    pub(super) wake_us: u64,
    pub(super) outbox: Outbox,
    /// What the disk held some time ago.
    pub(super) earlier: Option<SimDisk>,
    /// Snapshots and the history on its disk, what they were some time ago, and the snapshot that is being written.
    pub(super) shelf: SimShelf,
    pub(super) earlier_shelf: SimShelf,
    pub(super) saving: VecDeque<(Saving, MemoryStore)>,
    /// Signatures that are being checked beside the replica.
    pub(super) jobs: Vec<Job>,
    /// Records that were durable when it went down last.
    pub(super) synced: u64,
    /// The disk does not hold what the replica that runs believes, or may not.
    pub(super) rots: bool,
    /// The disk failed, and the replica is not back yet.
    pub(super) is_spoilt: bool,
    /// It was so at some start: records of one log are no measure for those of another.
    pub(super) was_spoilt: bool,
    /// It lacks records and has not noticed: until it does it is one of the faulty ones.
    pub(super) is_doubtful: bool,
    pub(super) adversary: Option<Adversary>,
}

impl Machine {
    /// A machine that was never switched on.
    pub(super) fn new(disk: SimDisk, error_ms: i64, adversary: Option<Adversary>) -> Self {
        Self {
            node: None,
            disk: Some(disk),
            life: 0,
            born_us: 0,
            error_ms,
            drift_ppm: (0, 0),
            gauge: Gauge::new(0),
            space_look_us: 0,
            short_until_us: 0,
            slow_disk_until_us: 0,
            paused_until_us: 0,
            dies_in_turn: false,
            turn_due: false,
            wake_us: u64::MAX,
            outbox: Outbox::default(),
            earlier: None,
            shelf: SimShelf::default(),
            earlier_shelf: SimShelf::default(),
            saving: VecDeque::new(),
            jobs: Vec::new(),
            synced: 0,
            rots: false,
            is_spoilt: false,
            was_spoilt: false,
            is_doubtful: false,
            adversary,
        }
    }

    /// The disk, whether the replica runs or not; none where the machine stays down.
    pub(super) fn disk_mut(&mut self) -> Option<&mut SimDisk> {
        match &mut self.node {
            Some(node) => Some(node.log_mut().device_mut()),
            None => self.disk.as_mut(),
        }
    }

    /// From now on the wall clock gains so much in a second; what it is wrong by already stays.
    pub(super) fn clock_goes(&mut self, drift_ppm: i64, now_us: u64) {
        self.error_ms += self.drifted_ms(now_us);
        self.drift_ppm = (drift_ppm, now_us);
    }

    pub(super) fn wall_ms(&self, now_us: u64) -> i64 {
        BASE_MS + (now_us / 1_000) as i64 + self.error_ms + self.drifted_ms(now_us)
    }

    fn drifted_ms(&self, now_us: u64) -> i64 {
        let (ppm, since_us) = self.drift_ppm;
        (now_us - since_us) as i64 / 1_000 * ppm / 1_000_000
    }
}
