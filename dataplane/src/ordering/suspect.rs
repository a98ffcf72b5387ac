//! Suspecting a leader.
//!
//! While something waits to be executed and nothing is, a backup first sends all what clients sent it ([`Timing::relay_us`]), then
//! leaves the view ([`Timing::suspect_us`], doubled with each view since the last stable checkpoint in which nothing was executed; sooner where
//! the link to the leader is down: [`Timing::hint_us`]; later under load: [`Pace`]). Any execution begins the wait anew. A replica that has left gives the
//! next leader the same time, but only once a quorum asks for that view: one that was cut off does not climb alone.
//!
//! A leader that keeps others' bundles moving is suspected as well where the oldest bundle here waits for [`FAIRNESS`] times as long:
//! bundles are proposed in order of arrival, and what a client sent to few of the replicas was sent on to all.
//!
//! Bundles whose requests were all executed or can never be, by this replica's own state, do not count: before it leaves, the node is
//! asked to take them out ([`Ordering::doubts`], [`Ordering::drop_bundle`]).

use std::sync::Arc;

use super::{Ordering, Outgoing, Timing, To};
use crate::types::{Digest, Now, ReplicaId};
use crate::wire::bundle::Bundle;

/// Bundles that are sent on to the leader at once, the oldest first.
const MAX_RELAYED: usize = 64;

/// A bundle may wait for so many times [`Timing::suspect_us`] in a view before its leader is suspected of passing it over.
const FAIRNESS: u64 = 40;

/// A leader is given so many times the longest that executions took lately.
const PACE: u64 = 8;

/// And at most so many times the timer's least.
const MAX_PACE: u64 = 4;

/// Doublings of a timer at most.
const MAX_DOUBLINGS: u32 = 12;

/// How long executions let what waits wait lately: under load a batch takes longer, and that is not the leader's fault.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Since when something waited when it was looked at last, us.
    since_us: Option<u64>,
    /// The longest wait, halved with each second that has passed since, us.
    longest_us: u64,
    at_us: u64,
}

impl Pace {
    /// Something waits since `work_since_us`, or an execution ended the wait.
    fn look(&mut self, work_since_us: Option<u64>, now_us: u64) {
        let ended = self.since_us.filter(|since| work_since_us != Some(*since));
        let seconds = now_us.saturating_sub(self.at_us) / 1_000_000;
        if seconds > 0 {
            (self.longest_us, self.at_us) = (self.longest_us >> seconds.min(63), now_us);
        }
        if let Some(waited) = ended.map(|since| now_us.saturating_sub(since)).filter(|waited| *waited > self.longest_us)
        {
            (self.longest_us, self.at_us) = (waited, now_us);
        }
    }

    /// A view ends: what waited in it tells nothing of the next leader.
    pub(super) fn forget(&mut self) {
        self.since_us = None;
    }

    /// [`PACE`] times the longest wait lately, from `least_us` to [`MAX_PACE`] times that: a leader that gets slower and slower gains no more.
    fn timeout_us(&self, least_us: u64) -> u64 {
        (PACE * self.longest_us).clamp(least_us, MAX_PACE * least_us)
    }
}

impl Ordering {
    /// Whether something waits to be executed.
    pub(super) fn has_work(&self) -> bool {
        let one_correct = self.agreed.size.one_correct();
        // What f+1 replicas voted on a correct one has seen proposed, even if nothing but the votes came here.
        let mut open = self.slots.range(self.executed + 1..);
        self.pool.len() > 0
            || !self.unvoted.is_empty()
            || self.waits_for_fill()
            || open.any(|(_, slot)| slot.is_open() || slot.voters() >= one_correct)
    }

    fn suspect_timeout_us(&self) -> u64 {
        let Timing { suspect_us, hint_us, .. } = self.timing;
        let leader_is_down = self.links_down & (1 << self.leader().0) != 0;
        let base_us = if leader_is_down { hint_us } else { self.pace.timeout_us(suspect_us) };
        base_us << self.failures.min(MAX_DOUBLINGS)
    }

    pub(super) fn new_view_timeout_us(&self) -> u64 {
        self.timing.suspect_us << self.failures.min(MAX_DOUBLINGS)
    }

    /// When this replica leaves its view if nothing is executed until then, us.
    fn suspect_at_us(&self) -> Option<u64> {
        if !self.active {
            return self.new_view_at_us;
        }
        if self.takes_state {
            return None;
        }
        // A leader that gets nothing done is of no use either, though all may be the backups' fault: it is the last to ask.
        // And who is behind what f+1 others executed has them to wait for, not the leader.
        let patience = match (self.is_behind(), self.leader() == self.me) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => 1,
        };
        let idle = self.work_since_us?.saturating_add(patience * self.suspect_timeout_us());
        // Others' bundles are executed, and one that all were sent is passed over.
        let unfair = self
            .pool
            .oldest_us()
            .map(|at| at.max(self.view_since_us).saturating_add(FAIRNESS * self.timing.suspect_us));
        Some(idle.min(unfair.unwrap_or(u64::MAX)))
    }

    /// Whether it is about to leave its view, so that what it waits for is worth another look.
    pub fn doubts(&self, now: Now) -> bool {
        self.active && self.suspect_at_us().is_some_and(|at| at <= now.mono_us)
    }

    /// Bundles that stand in no proposal, for the node's look at them.
    pub fn waiting(&self) -> Vec<Arc<Bundle>> {
        self.pool.waiting().cloned().collect()
    }

    /// A bundle has nothing left that could be executed.
    pub fn drop_bundle(&mut self, digest: &Digest) {
        self.pool.remove(digest);
    }

    pub(super) fn look_at_leader(&mut self, now: Now) {
        if self.standing.rejoin.is_some() {
            return;
        }
        self.follow(now);
        if self.restarted_leader {
            self.restarted_leader = false;
            return self.leave(self.view + 1);
        }
        self.pace.look(self.work_since_us, now.mono_us);
        if !self.has_work() {
            self.work_since_us = None;
        } else if self.work_since_us.is_none() {
            self.work_since_us = Some(now.mono_us);
            self.relay_at_us = self.relay_at_us.min(now.mono_us + self.timing.relay_us);
        }
        self.pace.since_us = self.work_since_us;
        if self.suspect_at_us().is_some_and(|at| at <= now.mono_us) {
            self.failures = self.failures.saturating_add(u32::from(!self.progressed));
            return self.leave(self.view + 1);
        }
        let old = self.pool.oldest_us().is_some_and(|at| at + FAIRNESS / 2 * self.timing.suspect_us <= now.mono_us);
        let relays = self.active && self.leader() != self.me;
        if relays
            && (self.work_since_us.is_some_and(|at| at + self.timing.relay_us <= now.mono_us) || old)
            && self.relay_at_us <= now.mono_us
        {
            self.relay_at_us = now.mono_us + self.timing.suspect_us;
            let waiting: Vec<_> = self.pool.waiting().take(MAX_RELAYED).cloned().collect();
            for bundle in waiting {
                self.send(To::All, Outgoing::Relay(bundle));
            }
        }
    }

    /// When [`Ordering::look_at_leader`] has something to do, us.
    pub(super) fn leader_deadline_us(&self) -> u64 {
        let relays = self.active && self.leader() != self.me && self.pool.len() > 0;
        let relay = self.work_since_us.filter(|_| relays).map(|at| self.relay_at_us.max(at + self.timing.relay_us));
        let follow = self.follow_at_us().map(|(at, _)| at);
        [relay, self.suspect_at_us(), follow].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// The link to a peer came up or went down.
    pub(super) fn note_link(&mut self, peer: ReplicaId, up: bool) {
        let bit = 1 << peer.0;
        self.links_down = if up { self.links_down & !bit } else { self.links_down | bit };
    }
}
