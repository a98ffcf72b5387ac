//! Signatures that are checked beside a replica, while it goes on.

use super::outbox::Outbox;
use super::world::{Event, World};

/// One in so many seeds has replicas with verifiers.
const SEEDS: u64 = 5;

/// How long a job takes at most, us: in any order, and in some runs longer than a proposal needs to come.
const JOB_US: u64 = 6_000;

/// Jobs at a time that a seed's replicas have checked beside them, if any.
pub(super) fn of_seed(seed: u64) -> Option<usize> {
    (seed % SEEDS == SEEDS - 1).then_some(2)
}

impl World {
    /// Takes the jobs of a turn.
    pub(super) fn have_checked(&mut self, replica: usize, outbox: &mut Outbox) {
        let life = self.machines[replica].life;
        for job in outbox.jobs.drain(..) {
            self.machines[replica].jobs.push(job);
            self.count("signatures checked beside a replica");
            let takes_us = self.random.between(1, JOB_US);
            self.schedule(self.now_us + takes_us, Event::Checked { replica, life });
        }
    }

    pub(super) fn checked(&mut self, replica: usize) -> Result<(), String> {
        let now = self.clock(replica);
        let jobs = self.machines[replica].jobs.len();
        if jobs == 0 {
            return Ok(());
        }
        let which = self.random.index(jobs);
        let machine = &mut self.machines[replica];
        let mut job = machine.jobs.swap_remove(which);
        job.check();
        let Some(node) = &mut machine.node else { return Ok(()) };
        node.verified(job, now, &mut machine.outbox);
        self.turn(replica)
    }
}
