//! Suspecting a leader.
//!
//! # The timer
//! While something waits to be executed and nothing is, a backup first sends all what clients sent it ([`Timing::relay_us`]), then
//! leaves the view ([`Timing::suspect_us`], doubled with each view since the last stable checkpoint in which nothing was executed;
//! sooner where the link to the leader is down: [`Timing::hint_us`]; later under load: [`Pace`]). Any execution begins the wait anew,
//! and so does a standstill of this replica itself ([`super::awake`]). A replica that has left gives the next leader the same time,
//! but only once a quorum asks for that view: one that was cut off does not climb alone.
//!
//! # Slow and unfair leaders
//! A leader under which work lies about, or little is done ([`super::expect`]), and one that passes over a client ([`super::fair`]) are
//! replaced as well. Both hold against it only what it was sent: what it could have proposed for half of its
//! patience, and what is old, is sent on to all, a few bundles at a time.
//!
//! # What nothing is left of
//! Bundles whose requests were all executed or can never be, by this replica's own state, are no reason for anything. Before it
//! sends bundles on, and before it leaves, the node is asked to take them out ([`Ordering::doubts`], [`Ordering::drop_bundle`]). And the
//! copy of a bundle that is read in the very round in which the bundle is executed does not get into the pool ([`Ordering::submit`]): the
//! node admitted it by its state before the execution.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::awake::Awake;
use super::expect::{Expect, Look};
use super::fair::{Fair, MAX_LOOKED_AT};
use super::mutants::{self, Mutant};
use super::pool::{Oldest, Taken};
use super::{Ordering, Outgoing, Timing, To};
use crate::histogram::Histogram;
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::bundle::Bundle;

/// Bundles that are sent on to the leader at once, the oldest first.
const MAX_RELAYED: usize = 64;

/// Old bundles that are sent on at once: as evidence, since the leader has them most probably.
const MAX_OLD_RELAYED: usize = 8;

/// What is old is looked for so many times in a timer, and what was sent on is not sent on again for one.
const LOOKS: u64 = 8;

/// A leader is given so many times the longest that executions took lately, up to [`Factors::load`](super::Factors) times the timer's least.
const PACE: u64 = 8;

/// Why a replica left its view on its own account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suspicion {
    /// Nothing was executed for too long.
    Idle,
    /// The next leader did not begin its view in time.
    Absent,
    /// The leader let work lie, or got little done.
    Slow,
    /// It passed over a client.
    Unfair,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "nothing was executed for too long",
            Self::Absent => "its leader did not begin it in time",
            Self::Slow => "its leader is slow",
            Self::Unfair => "its leader passes over a client",
        })
    }
}

/// How long executions let what waits wait lately: under load a batch takes longer, and that is not the leader's fault.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
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
    fn forget(&mut self) {
        self.since_us = None;
    }

    /// [`PACE`] times the longest wait lately, from `least_us` to `most` times that: a leader that gets slower and slower gains no more.
    fn timeout_us(&self, least_us: u64, most: u64) -> u64 {
        (PACE * self.longest_us).clamp(least_us, most.max(1) * least_us)
    }
}

/// What a replica sees of its leader.
#[derive(Debug)]
pub(super) struct Watch {
    /// How fast executions were lately.
    pace: Pace,
    /// Whether this replica itself had the time.
    pub(super) awake: Awake,
    /// It had not, since the last look.
    blind: bool,
    expect: Expect,
    fair: Fair,
    /// Bundles that were executed in this round: copies that were read in it are no work.
    pub(super) served_now: BTreeSet<Digest>,
    /// Those of them that waited here.
    served: Vec<Taken>,
    /// The oldest that waits and stands in no proposal, at the last look at another leader.
    oldest: Option<Oldest>,
    /// Since when, us, and since which executed sequence nothing is open though something could be.
    closed_since: Option<(Sequence, u64)>,
    /// When the leader is suspected of passing over a client, us.
    unfair_at_us: Option<u64>,
    /// When old bundles are looked for next, us.
    old_at_us: u64,
    /// How long bundles waited here.
    pub(super) waits: Histogram,
    /// Why this replica left its view.
    pub(super) suspicion: Option<Suspicion>,
}

impl Watch {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            pace: Pace::default(),
            awake: Awake::default(),
            blind: false,
            expect: Expect::new(timing.suspect_us, timing.batch_bytes as u64, timing.factors),
            fair: Fair::new(timing.suspect_us, timing.factors),
            served_now: BTreeSet::new(),
            served: Vec::new(),
            oldest: None,
            closed_since: None,
            unfair_at_us: None,
            old_at_us: 0,
            waits: Histogram::default(),
            suspicion: None,
        }
    }

    /// Other local timing.
    pub(super) fn retime(&mut self, timing: &Timing) {
        self.expect.set_timer(timing.suspect_us, timing.factors);
        self.fair.set_timer(timing.suspect_us, timing.factors);
    }

    /// A view ends.
    pub(super) fn end_view(&mut self) {
        self.pace.forget();
        self.expect.end_view();
        self.fair.end_view();
        (self.unfair_at_us, self.oldest) = (None, None);
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

    pub(super) fn suspect_timeout_us(&self) -> u64 {
        let Timing { suspect_us, hint_us, factors, .. } = self.timing;
        let leader_is_down = self.links_down & (1 << self.leader().0) != 0;
        let base_us = if leader_is_down { hint_us } else { self.watch.pace.timeout_us(suspect_us, factors.load) };
        base_us << self.failures.min(factors.doublings)
    }

    pub(super) fn new_view_timeout_us(&self) -> u64 {
        self.timing.suspect_us << self.failures.min(self.timing.factors.doublings)
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
        Some(self.work_since_us?.saturating_add(patience * self.suspect_timeout_us()))
    }

    /// Whether this replica takes part in the view of another.
    fn follows_other(&self) -> bool {
        self.active && self.leader() != self.me && self.standing.rejoin.is_none()
    }

    /// Whether another replica leads and this one can judge it.
    fn judges(&self) -> bool {
        self.follows_other() && !self.is_behind()
    }

    /// Whether it may be about to leave its view.
    fn doubts_leader(&self, now_us: u64) -> bool {
        let unfair_us = self.watch.unfair_at_us.filter(|_| self.judges());
        let due = self.suspect_at_us().into_iter().chain(unfair_us).any(|at| at <= now_us);
        self.active && (due || self.watch.expect.nears(now_us))
    }

    /// Whether it is about to leave its view, or to send bundles on, so that what it waits for is worth another look.
    pub fn doubts(&self, now: Now) -> bool {
        let mut relays = self.relay_due_us().into_iter().chain(self.old_due_us());
        self.doubts_leader(now.mono_us) || relays.any(|at| at <= now.mono_us)
    }

    /// Why this replica left a view last, if it was on its own account.
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.watch.suspicion
    }

    /// Bundles that stand in no proposal, for the node's look at them: all before it leaves, and the oldest before it sends them on.
    pub fn waiting(&self, now: Now) -> Vec<Arc<Bundle>> {
        let most = if self.doubts_leader(now.mono_us) { usize::MAX } else { MAX_RELAYED };
        self.pool.waiting().take(most).cloned().collect()
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
        self.look_at_work(now);
        let slow = self.look_at_pauses(now);
        if self.suspect_at_us().is_some_and(|at| at <= now.mono_us) {
            self.failures = self.failures.saturating_add(u32::from(!self.progressed));
            return self.suspects(if self.active { Suspicion::Idle } else { Suspicion::Absent });
        }
        if slow && !mutants::on(Mutant::BearsSlowness) {
            self.watch.expect.fall();
            return self.suspects(Suspicion::Slow);
        }
        if self.passes_over(now) {
            self.watch.fair.fall(now.mono_us);
            return self.suspects(Suspicion::Unfair);
        }
        self.relay(now);
    }

    fn suspects(&mut self, why: Suspicion) {
        self.leave(self.view + 1);
        self.watch.suspicion = Some(why);
    }

    /// The wait for an execution.
    fn look_at_work(&mut self, now: Now) {
        self.watch.blind = self.watch.awake.was_blind(self.timing.suspect_us, now.mono_us);
        self.watch.pace.look(self.work_since_us, now.mono_us);
        if !self.has_work() {
            self.work_since_us = None;
        } else if self.work_since_us.is_none() {
            self.work_since_us = Some(now.mono_us);
            self.watch.awake.wait_ends();
        } else if let Some(since_us) = self.work_since_us.filter(|_| self.watch.blind && self.active) {
            self.work_since_us = Some(self.watch.awake.prolong(since_us, self.timing.suspect_us, now.mono_us));
        }
        self.watch.pace.since_us = self.work_since_us;
    }

    /// What was executed since the last look, and whether the leader could propose something; whether it is too slow.
    fn look_at_pauses(&mut self, now: Now) -> bool {
        let served = std::mem::take(&mut self.watch.served);
        for taken in &served {
            self.watch.expect.executed(taken.bytes);
            self.watch.waits.record(now.mono_us.saturating_sub(taken.arrived_us));
        }
        let view_us = self.view_since_us;
        let executed =
            served.iter().map(|taken| (taken.key, taken.arrived_us, taken.relayed_us.map(|at| at.max(view_us))));
        self.watch.fair.executed(executed, now.mono_us);
        let is_open = self.accepted > self.executed || !self.unvoted.is_empty();
        let is_full = self.accepted >= self.stable.sequence() + self.agreed.window;
        match self.watch.closed_since {
            Some((sequence, _)) if sequence == self.executed && !is_open && !is_full => {}
            _ => self.watch.closed_since = (!is_open && !is_full).then_some((self.executed, now.mono_us)),
        }
        let oldest = if self.judges() { self.pool.oldest() } else { None };
        self.watch.oldest = oldest;
        let closed_us = self.watch.closed_since.map(|(_, at)| at);
        let idle_since_us = closed_us.zip(oldest).map(|(at, oldest)| at.max(oldest.arrived_us));
        self.watch.expect.look(Look {
            now_us: now.mono_us,
            blind: self.watch.blind,
            lag_us: self.watch.awake.lag_us(),
            judges: self.judges(),
            waits: self.pool.len() > 0,
            idle_since_us,
            relayed: oldest.is_some_and(|oldest| oldest.relayed),
        })
    }

    /// Whether a client is passed over for too long.
    fn passes_over(&mut self, now: Now) -> bool {
        if !self.judges() || mutants::on(Mutant::BearsUnfairness) {
            self.watch.unfair_at_us = None;
            return false;
        }
        let is_due = self.watch.unfair_at_us.is_some_and(|at| at <= now.mono_us);
        if is_due || self.watch.old_at_us <= now.mono_us {
            let view_us = self.view_since_us;
            let waiting = self.pool.relayed().take(MAX_LOOKED_AT).map(|(key, at)| (key, at.max(view_us)));
            self.watch.unfair_at_us = self.watch.fair.suspect_at_us(waiting, now.mono_us);
        }
        self.watch.unfair_at_us.is_some_and(|at| at <= now.mono_us)
    }

    /// Sends bundles on: because nothing happens, because the leader lets them lie, because they are old.
    fn relay(&mut self, now: Now) {
        let now_us = now.mono_us;
        if self.relay_due_us().is_some_and(|at| at <= now_us) {
            self.relay_at_us = now_us + self.timing.suspect_us / LOOKS;
            self.send_on(MAX_RELAYED, now_us, now_us);
            self.watch.expect.relayed(now_us);
        }
        if self.old_due_us().is_some_and(|at| at <= now_us) {
            self.send_on(MAX_OLD_RELAYED, now_us.saturating_sub(self.watch.fair.old_us()), now_us);
        }
        if self.watch.old_at_us <= now_us {
            self.watch.old_at_us = now_us + self.timing.suspect_us / LOOKS;
        }
    }

    fn send_on(&mut self, most: usize, until_us: u64, now_us: u64) {
        for bundle in self.pool.relay(most, until_us, self.timing.suspect_us, now_us) {
            self.send(To::All, Outgoing::Relay(bundle));
        }
    }

    /// When what waits is to be sent on since nothing happens with it, us.
    fn relay_due_us(&self) -> Option<u64> {
        if !self.follows_other() || self.pool.len() == 0 {
            return None;
        }
        let idle_us = self.work_since_us.map(|at| at + self.timing.relay_us);
        let pause_us = self.watch.expect.relay_at_us();
        Some(idle_us.into_iter().chain(pause_us).min()?.max(self.relay_at_us))
    }

    /// When old bundles are to be sent on, us.
    fn old_due_us(&self) -> Option<u64> {
        let oldest = self.watch.oldest.filter(|_| self.follows_other())?;
        Some(self.watch.old_at_us.max(oldest.arrived_us.saturating_add(self.watch.fair.old_us())))
    }

    /// A bundle is executed.
    pub(super) fn takes_out(&mut self, digest: &Digest) {
        self.watch.served_now.insert(*digest);
        self.watch.served.extend(self.pool.remove(digest));
    }

    /// A round of events is over; when the next look is due.
    pub(super) fn plans(&mut self, now: Now) {
        self.watch.served.clear();
        self.watch.served_now.clear();
        self.watch.awake.plans(now.mono_us, self.next_deadline_us());
    }

    /// A round's work is done: the replica goes to sleep. Work that takes long is told from sleep by this.
    pub fn rests(&mut self, now: Now) {
        self.watch.awake.rests(now.mono_us);
    }

    /// When [`Ordering::look_at_leader`] has something to do, us.
    pub(super) fn leader_deadline_us(&self) -> u64 {
        let follow = self.follow_at_us().map(|(at, _)| at);
        let unfair_us = self.watch.unfair_at_us.filter(|_| self.judges());
        let look_us = self.watch.expect.look_at_us().filter(|_| self.judges());
        let due = [self.suspect_at_us(), follow, self.relay_due_us(), self.old_due_us(), unfair_us, look_us];
        due.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// The link to a peer came up or went down.
    pub(super) fn note_link(&mut self, peer: ReplicaId, up: bool) {
        let bit = 1 << peer.0;
        self.links_down = if up { self.links_down & !bit } else { self.links_down | bit };
    }
}
