//! What a run came to.

use super::world::World;
use super::{Failure, Report};

impl World {
    pub(super) fn failure(&self, what: String) -> Box<Failure> {
        Box::new(Failure { config: self.config, at_us: self.now_us, what, report: self.report() })
    }

    pub(super) fn report(&self) -> Report {
        let mut decided = [0; 3];
        for node in self.machines.iter().filter_map(|machine| machine.node.as_ref()) {
            let decisions = node.ordering().decisions();
            decided[0] += decisions.fast;
            decided[1] += decisions.slow;
            decided[2] += decisions.told;
        }
        let mut faults = self.faults.clone();
        let views = self.machines.iter().filter_map(|machine| machine.node.as_ref()).map(|node| node.ordering().view());
        faults.insert("views".into(), views.max().unwrap_or(0));
        faults.insert("messages lost".into(), self.network.lost);
        faults.insert("messages doubled".into(), self.network.doubled);
        let correct = self.machines.iter().enumerate().filter(|(replica, _)| !self.plan.is_byzantine(*replica));
        for node in correct.filter_map(|(_, machine)| machine.node.as_ref()) {
            for (_, kind, count) in node.evidence().counts() {
                *faults.entry(format!("seen {kind}")).or_default() += count;
            }
        }
        Report {
            chain: self.chain,
            events: self.handled,
            simulated_us: self.now_us,
            executions: self.checker.executions() as u64,
            accepted: self.checker.accepted,
            votes: self.checker.votes_checked,
            decided,
            converged: self.idle.is_some(),
            faults,
        }
    }
}
