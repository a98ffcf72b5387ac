//! What goes wrong, and the moment from which on nothing does.

use super::plan::Fault;
use super::world::{Event, World};
use crate::log::Crash;
use crate::types::ReplicaId;

impl World {
    /// Lets one of the run's faults happen and plans the next.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        if self.stable {
            return Ok(());
        }
        let gap = self.random.between(1, 2 * self.plan.fault_gap_us);
        self.schedule(self.now_us + gap, Event::Fault);
        let place = self.random.index(self.plan.faults.len());
        let Some(fault) = self.plan.faults.get(place).copied() else { return Ok(()) };
        self.count(&format!("{fault:?}"));
        // Half of them hit whoever leads: the view changes that follow are where agreement is hardest.
        let replica = if self.random.chance(500) { self.leader() } else { self.random.index(self.plan.n) };
        self.trace_line(&format!("{fault:?} {replica}"));
        let until_us = self.now_us + self.random.between(1, self.plan.fault_us);
        match fault {
            Fault::Kill => self.crash(replica, Crash::Kill),
            Fault::KillInTurn => self.machines[replica].dies_in_turn = true,
            Fault::Power => self.crash(replica, Crash::Power),
            Fault::PowerAll => (0..self.plan.n).for_each(|replica| self.crash(replica, Crash::Power)),
            Fault::Partition => {
                let side = self.random.next();
                let nodes = self.plan.n + self.plan.clients;
                self.block_where(until_us, nodes, |from, to| (side >> from ^ side >> to) & 1 == 1);
            }
            Fault::OneWay => {
                let other = self.random.index(self.plan.n);
                self.network.block(replica, other, until_us);
                self.schedule(until_us, Event::LinksUp);
            }
            Fault::Isolated => {
                let nodes = self.plan.n + self.plan.clients;
                self.block_where(until_us, nodes, |from, to| from == replica || to == replica);
            }
            Fault::Flapping => {
                let all = self.random.chance(300);
                let other = self.random.index(self.plan.n);
                for to in (0..self.plan.n).filter(|to| *to != replica && (all || *to == other)) {
                    self.schedule(self.now_us, Event::Flap { from: replica, to, until_us });
                }
            }
            Fault::SlowDisk => self.machines[replica].slow_disk_until_us = until_us,
            Fault::ClockDrifts => {
                let fast = self.random.chance(500);
                let ppm = self.random.between(1_000, 900_000) as i64;
                self.machines[replica].clock_goes(if fast { ppm } else { -ppm }, self.now_us);
            }
            Fault::ClockStops => self.machines[replica].clock_goes(-1_000_000, self.now_us),
            Fault::Pause => self.machines[replica].paused_until_us = until_us,
            Fault::ClockJump => {
                let most = self.plan.clock_ms as u64;
                self.machines[replica].error_ms = self.random.between(0, 2 * most) as i64 - most as i64;
            }
            Fault::Wipe | Fault::RollBack | Fault::BitFlip => self.spoil(replica, fault),
            Fault::BitRots | Fault::LostWrite | Fault::MisdirectedWrite => self.spoil(replica, fault),
            Fault::ReadsFail => self.read_fails(replica, until_us),
            Fault::DiskFull => self.fill(replica..replica + 1, until_us),
            Fault::DisksFull => self.fill(0..self.plan.n, until_us),
            Fault::SyncFails => {
                if let Some(node) = &mut self.machines[replica].node {
                    node.log_mut().device_mut().fail_next_sync();
                }
            }
        }
        Ok(())
    }

    /// The leader of the highest view that a replica is in.
    fn leader(&self) -> usize {
        let nodes = self.machines.iter().filter_map(|machine| machine.node.as_ref());
        let view = nodes.map(|node| node.ordering().view()).max().unwrap_or(0);
        (view % self.plan.n as u64) as usize
    }

    fn block_where(&mut self, until_us: u64, nodes: usize, blocked: impl Fn(usize, usize) -> bool) {
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| blocked(from, *to)) {
                self.network.block(from, to, until_us);
            }
        }
        self.schedule(until_us, Event::LinksUp);
    }

    /// A partition ended: links are made again.
    pub(super) fn links_up(&mut self) {
        for replica in 0..self.plan.n {
            let Some(node) = &mut self.machines[replica].node else { continue };
            for peer in (0..self.plan.n).filter(|peer| *peer != replica) {
                node.on_link(ReplicaId(peer as u8), true);
            }
        }
    }

    /// The replica's machine or process goes down, and comes up again later.
    pub(super) fn crash(&mut self, replica: usize, how: Crash) {
        let Some(mut node) = self.machines[replica].node.take() else { return };
        self.machines[replica].synced = node.log_mut().durable().0;
        let mut disk = node.into_device();
        disk.crash(how);
        let machine = &mut self.machines[replica];
        machine.disk = Some(disk);
        machine.is_spoilt |= std::mem::take(&mut machine.rots);
        machine.paused_until_us = 0;
        let mut down_us = self.random.between(1, self.plan.fault_us);
        if self.plan.segment_bytes < 1 << 20 && self.random.chance(500) {
            // So long that the others' logs begin behind it.
            down_us *= 6;
            self.count("long down");
        }
        self.schedule(self.now_us + down_us, Event::Restart { replica });
        // A process that dies closes its links; a machine without power does not.
        for other in (0..self.plan.n).filter(|other| how == Crash::Kill && *other != replica) {
            if let Some(node) = &mut self.machines[other].node {
                node.on_link(ReplicaId(replica as u8), false);
            }
        }
    }

    /// From here on nothing goes wrong any more, except what Byzantine replicas and clients do.
    pub(super) fn stabilise(&mut self) -> Result<(), String> {
        if !self.must_converge() {
            self.finish_safety();
            return Ok(());
        }
        self.stable = true;
        self.network.heal();
        let drift = self.plan.drift_ms as u64;
        for replica in 0..self.plan.n {
            let machine = &mut self.machines[replica];
            machine.dies_in_turn = false;
            machine.slow_disk_until_us = 0;
            machine.clock_goes(0, self.now_us);
            machine.paused_until_us = 0;
            machine.error_ms = self.random.between(0, drift / 2) as i64 - (drift / 4) as i64;
            if let Some(disk) = machine.disk_mut() {
                disk.clear_faults();
            }
            self.restart(replica)?;
        }
        for replica in self.plan.lost.clone() {
            let replica = usize::from(replica);
            self.trace_line(&format!("replica {replica} stays down"));
            let machine = &mut self.machines[replica];
            machine.node = None;
            machine.disk = None;
        }
        self.keep_one_full();
        self.links_up();
        self.schedule(self.now_us, Event::Look);
        Ok(())
    }
}
