//! Links between the nodes of a simulation: loss, delay, reordering, duplication, and partitions that come and go.

use super::plan::Plan;
use super::random::Random;

/// See the module.
pub(super) struct Network {
    nodes: usize,
    /// Until when nothing passes, by sender and receiver, us.
    blocked_until: Vec<u64>,
    random: Random,
    loss: u64,
    duplicates: u64,
    corrupt: u64,
    late: u64,
    delay_us: u64,
    jitter_us: u64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
}

impl Network {
    pub(super) fn new(nodes: usize, plan: &Plan, random: Random) -> Self {
        Self {
            nodes,
            blocked_until: vec![0; nodes * nodes],
            random,
            loss: plan.loss,
            duplicates: plan.duplicates,
            corrupt: plan.corrupt,
            late: plan.late,
            delay_us: plan.delay_us,
            jitter_us: plan.jitter_us,
            sent: 0,
            lost: 0,
            doubled: 0,
        }
    }

    /// From now on every message arrives once, within a bound.
    pub(super) fn heal(&mut self) {
        self.blocked_until.fill(0);
        (self.loss, self.duplicates, self.corrupt, self.late) = (0, 0, 0, 0);
    }

    pub(super) fn block(&mut self, from: usize, to: usize, until_us: u64) {
        if let Some(blocked) = self.blocked_until.get_mut(from * self.nodes + to) {
            *blocked = until_us.max(*blocked);
        }
    }

    /// Whether something sent now arrives, if it is not lost.
    pub(super) fn passes(&self, from: usize, to: usize, now_us: u64) -> bool {
        self.blocked_until.get(from * self.nodes + to).is_none_or(|until| *until <= now_us)
    }

    /// Whether the next message is damaged on its way.
    pub(super) fn damages(&mut self) -> bool {
        self.corrupt > 0 && self.random.chance(self.corrupt)
    }

    /// When the copies of a message arrive: none, one or two times, us.
    pub(super) fn arrivals(&mut self, from: usize, to: usize, now_us: u64) -> [Option<u64>; 2] {
        self.sent += 1;
        if !self.passes(from, to, now_us) || self.random.chance(self.loss) {
            self.lost += 1;
            return [None, None];
        }
        let first = Some(now_us + self.delay());
        let second = self.random.chance(self.duplicates).then(|| now_us + self.delay());
        self.doubled += u64::from(second.is_some());
        [first, second]
    }

    fn delay(&mut self) -> u64 {
        let delay = self.delay_us + self.random.below(self.jitter_us);
        if self.random.chance(self.late) { 20 * delay } else { delay }
    }
}
