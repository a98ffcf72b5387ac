//! Disks that fail: what they do to a replica, and when that replica may end over them.
//!
//! A disk that does not hold what was acknowledged makes its replica one that lost records, so it is spoilt only where the cluster
//! must bear one more faulty replica. Until the replica goes down nothing is wrong with what it says: its memory is right
//! ([`Machine::rots`](super::machine::Machine::rots)). It may end at any read of its log, by itself and over nothing else. Once it starts on
//! that disk it abstains, or nothing is expected of it until it does.
//!
//! A disk that cannot be read ends its replica, which does not come back before it can be read. A disk without room ends nobody:
//! the replica refuses new writes, waits with what it cannot keep, and goes on by itself once there is room.

use super::client::SimClient;
use super::plan::Fault;
use super::shelf::SimShelf;
use super::world::{Event, World};
use crate::log::{Astray, Crash, LogError};
use crate::replica::{Gauge, NodeError};

/// Between two looks of a process at the room on its disk, us: a tenth of the real pause, as runs are short.
const SPACE_LOOK_US: u64 = 100_000;

/// How long after room was short a refusal may still come, us.
const SHORT_US: u64 = 1_000_000;

/// A disk that stays full while the cluster converges, and the life of its replica then.
#[derive(Clone, Copy)]
pub(super) struct StaysFull {
    replica: usize,
    life: u32,
    /// Whether it still is.
    is_full: bool,
}

impl World {
    /// Whether nothing is expected of a replica: it is Byzantine, or lacks records and has not noticed.
    pub(super) fn is_faulty(&self, replica: usize) -> bool {
        self.plan.is_byzantine(replica) || self.machines[replica].is_doubtful
    }

    /// A replica that notices that it lacks records, or is back, is a correct one again.
    pub(super) fn look_at_doubts(&mut self, replica: usize) {
        let machine = &mut self.machines[replica];
        let Some(node) = &machine.node else { return };
        let abstains = node.ordering().abstains().is_some();
        let noticed = machine.is_doubtful && abstains;
        let back = machine.is_spoilt && !abstains && !machine.is_doubtful;
        machine.is_doubtful &= !noticed;
        machine.is_spoilt &= !back;
        if noticed {
            self.count("roll-back noticed");
        }
        if back {
            self.count("replica back without its records");
        }
    }

    /// Whether one more disk may lose what it acknowledged.
    fn bears_one_more(&self) -> bool {
        let is_one = |replica: &usize| {
            let machine = &self.machines[*replica];
            self.is_faulty(*replica) || machine.is_spoilt || machine.rots
        };
        (0..self.plan.n).filter(is_one).count() + self.plan.lost.len() < (self.plan.n - 1) / 3
    }

    /// A disk loses what it acknowledged, where the cluster must bear that.
    pub(super) fn spoil(&mut self, replica: usize, fault: Fault) {
        let bears = self.bears_one_more();
        let machine = &mut self.machines[replica];
        let Some(disk) = machine.node.as_mut().map(|node| node.log_mut().device_mut()) else { return };
        if fault == Fault::RollBack && machine.earlier.is_none() {
            let mut copy = disk.copy();
            copy.clear_faults();
            machine.earlier = Some(copy);
            machine.earlier_shelf = machine.shelf.clone();
            return;
        }
        if !bears || machine.is_spoilt || machine.rots {
            return;
        }
        let (place, bit) = (self.random.next(), self.random.below(8));
        match fault {
            Fault::BitRots => disk.flip(place, bit),
            Fault::LostWrite => disk.lead_astray(Astray::Lost),
            Fault::MisdirectedWrite => disk.lead_astray(Astray::Misdirected(place)),
            _ => return self.spoil_while_down(replica, fault, place, bit),
        }
        machine.rots = true;
        self.count(&format!("{fault:?} done"));
    }

    fn spoil_while_down(&mut self, replica: usize, fault: Fault, place: u64, bit: u64) {
        self.crash(replica, Crash::Power);
        self.count(&format!("{fault:?} done"));
        if fault == Fault::BitFlip && self.machines[replica].shelf.bears_damage() && self.random.chance(300) {
            // In a snapshot: the one before it counts, and nothing that was promised is lost.
            let random = &mut self.random;
            self.machines[replica].shelf.damage(random);
            return;
        }
        let machine = &mut self.machines[replica];
        machine.is_spoilt = true;
        match (fault, &mut machine.disk) {
            (Fault::RollBack, disk) => {
                *disk = machine.earlier.take();
                machine.shelf = std::mem::take(&mut machine.earlier_shelf);
            }
            (Fault::BitFlip, Some(disk)) => disk.flip(place, bit),
            (_, Some(disk)) => {
                disk.wipe();
                machine.shelf = SimShelf::default();
            }
            (_, None) => {}
        }
    }

    /// A write was acknowledged. If it went astray the machine or the process goes down, some time later: what was told on the
    /// strength of that write is out.
    pub(super) fn look_for_strays(&mut self, replica: usize) {
        let Some(disk) = self.machines[replica].disk_mut() else { return };
        if std::mem::take(&mut disk.strayed) == 0 {
            return;
        }
        self.count("write gone astray");
        let life = self.machines[replica].life;
        let soon = self.random.chance(500);
        let in_us = self.random.between(1, if soon { 5_000 } else { self.plan.fault_us });
        self.schedule(self.now_us + in_us, Event::Falls { replica, life });
    }

    /// The machine or the process goes down.
    pub(super) fn falls(&mut self, replica: usize) {
        let how = if self.random.chance(500) { Crash::Power } else { Crash::Kill };
        self.crash(replica, how);
    }

    /// A replica ended by itself: over its disk, and only where that failed.
    pub(super) fn ends(&mut self, replica: usize, error: &NodeError) -> Result<(), String> {
        let machine = &mut self.machines[replica];
        let rots = machine.rots;
        let is_unreadable = machine.disk_mut().is_some_and(|disk| disk.is_unreadable());
        let why = match error {
            NodeError::Log(LogError::Io { .. }) if is_unreadable => "ended over a disk that cannot be read",
            NodeError::Log(error) if rots && error.lost_records() => "ended over damage that it read",
            _ => return Err(format!("replica {replica} ends: {error}")),
        };
        self.count(why);
        self.trace_line(&format!("replica {replica} ends: {error}"));
        self.crash(replica, Crash::Kill);
        Ok(())
    }

    /// A replica could not start on a disk that cannot be read or has no room for its first segment: it is started again later.
    pub(super) fn come_again(&mut self, replica: usize) {
        self.count("not started on its disk");
        let in_us = self.random.between(1, self.plan.fault_us);
        self.schedule(self.now_us + in_us, Event::Restart { replica });
    }

    /// Nothing can be read from a disk until then.
    pub(super) fn read_fails(&mut self, replica: usize, until_us: u64) {
        if let Some(disk) = self.machines[replica].disk_mut() {
            disk.set_unreadable(true);
            self.schedule(until_us, Event::Readable { replica });
        }
    }

    pub(super) fn readable(&mut self, replica: usize) {
        if let Some(disk) = self.machines[replica].disk_mut() {
            disk.set_unreadable(false);
        }
    }

    /// Disks have no room for more than two segments from now on; until then, or until faults stop.
    pub(super) fn fill(&mut self, replicas: impl Iterator<Item = usize>, until_us: u64) {
        let lasts = self.random.chance(500);
        for replica in replicas {
            let more = if self.random.chance(600) { 0 } else { self.random.below(3) as u32 };
            self.limit(replica, Some(more));
            if !lasts {
                self.schedule(until_us, Event::Room { replica });
            }
        }
    }

    /// A disk has room for so many more segments, or for all.
    fn limit(&mut self, replica: usize, more: Option<u32>) {
        if let Some(disk) = self.machines[replica].disk_mut() {
            let segments = disk.segment_numbers().len() as u32;
            disk.limit_segments(more.map_or(u32::MAX, |more| segments + more));
        }
    }

    /// Somebody made room on a disk.
    pub(super) fn room(&mut self, replica: usize) {
        self.limit(replica, None);
    }

    /// Tells a replica about the room on its disk, as its process does.
    pub(super) fn look_at_space(&mut self, replica: usize, is_start: bool) {
        let machine = &mut self.machines[replica];
        let Some(node) = &mut machine.node else { return };
        if is_start {
            machine.gauge = Gauge::new(self.plan.low_segments * u64::from(self.plan.segment_bytes));
        } else if self.now_us < machine.space_look_us {
            return;
        }
        machine.space_look_us = self.now_us + SPACE_LOOK_US;
        let (free_bytes, is_full) = (node.log_mut().device().free_bytes(), node.is_full());
        let changed = machine.gauge.update(free_bytes, is_full);
        let is_low = machine.gauge.is_low();
        node.set_low_space(is_low);
        if is_low {
            machine.short_until_us = self.now_us + SHORT_US;
        }
        if changed && is_low {
            self.count(if is_full { "log full" } else { "low on space" });
        }
    }

    /// One disk stays full while the others converge, where the cluster must bear one more faulty replica: it stops nobody.
    pub(super) fn keep_one_full(&mut self) {
        let fills = self.plan.faults.iter().any(|fault| matches!(fault, Fault::DiskFull | Fault::DisksFull));
        let replica = self.random.index(self.plan.n);
        let fails = self.machines[replica].rots || self.machines[replica].is_spoilt;
        let may = fills && self.bears_one_more() && !self.is_faulty(replica) && !fails;
        if may && !self.plan.lost.contains(&(replica as u8)) {
            self.limit(replica, Some(0));
            self.count("disk stays full");
            self.stays_full = Some(StaysFull { replica, life: self.machines[replica].life, is_full: true });
        }
    }

    /// Once all clients have their results there is room again on the disk that stayed full.
    pub(super) fn look_at_full(&mut self) -> Result<(), String> {
        let Some(StaysFull { replica, life, is_full }) = self.stays_full else { return Ok(()) };
        if self.machines[replica].life != life {
            return Err(format!("replica {replica} did not live through its disk being full"));
        }
        if is_full && self.clients.iter().all(SimClient::is_done) {
            self.room(replica);
            self.stays_full = Some(StaysFull { replica, life, is_full: false });
        }
        Ok(())
    }
}
