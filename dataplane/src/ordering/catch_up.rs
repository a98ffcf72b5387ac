//! Nobody is left behind: statuses, DECIDED and missing bodies.

use std::sync::Arc;

use super::batch::Batch;
use super::mutants::{self, Mutant};
use super::{CATCH_UP_PAGE, Effect, Ordering, Outgoing, To};
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::limits::MAX_STATUS_SLOTS;
use crate::wire::message::{ArchivedDecided, ArchivedStatus, Heard, OpenSlot, Status};

/// Bodies asked for at once; each may have up to a batch's bytes.
const FETCHES_AT_ONCE: usize = 16;

/// Digests of bundles in the proposals that one status is answered with, beyond its first; the rest follows the next status.
const DIGESTS_AGAIN: usize = 16_384;

/// Pages of old decisions are read from the log for one peer no more often than this, us.
const LOGGED_PAGE_US: u64 = 2_000;

/// A body that was asked for and did not come is asked for elsewhere after so long, us.
const FETCH_AGAIN_US: u64 = 50_000;

impl Ordering {
    fn status(&self, ask: bool) -> Status {
        let open = self.slots.range(self.executed + 1..).take(MAX_STATUS_SLOTS).map(|(sequence, slot)| OpenSlot {
            sequence: *sequence,
            proposed: slot.has_own_q() || slot.proposal.is_some(),
            prepares: slot.prepare_bits(),
            commits: slot.commit_bits(self.view),
        });
        Status {
            view: self.view,
            low: self.stable.sequence(),
            executed: self.executed,
            active: self.active,
            ask,
            abstains: self.standing.rejoin.is_some(),
            needs: self.abstains().flatten().unwrap_or(0),
            heard: self.heard_of_all(),
            open: open.collect(),
        }
    }

    /// Statuses that are due: to all when the time has come, else to whom one is owed.
    pub(super) fn send_status(&mut self, now: Now) {
        let owed = std::mem::take(&mut self.status_to);
        if now.mono_us >= self.status_at_us {
            // One that left alone and misses nothing may wait quietly: whoever follows it will say so.
            let busy = self.is_busy() || self.is_behind() || self.new_view_at_us.is_some() || self.has_work();
            let busy = busy || self.standing.rejoin.is_some();
            let pause = if busy { self.timing.busy_status_us } else { self.timing.idle_status_us };
            self.status_at_us = now.mono_us + pause;
            let status = self.status(false);
            self.send(To::All, Outgoing::Status(status));
            if owed == 0 {
                return;
            }
        }
        let me = self.me;
        for peer in self.agreed.size.replicas().filter(|peer| owed & (1 << peer.0) != 0 && *peer != me) {
            let status = self.status(true);
            self.send(To::One(peer), Outgoing::Status(status));
        }
        // Something opened since an idle status was planned: its votes may get lost, so look again soon.
        let soon = now.mono_us + self.timing.busy_status_us;
        if self.status_at_us > soon && self.is_busy() {
            self.status_at_us = soon;
        }
    }

    /// Whether something is under way: more than votes of others, which anybody may send for any sequence.
    fn is_busy(&self) -> bool {
        self.slots
            .range(self.executed + 1..)
            .any(|(sequence, slot)| slot.is_open() || *sequence == self.executed + 1 && slot.is_voted_on())
    }

    /// Whether f+1 peers say that they executed more.
    pub(super) fn is_behind(&self) -> bool {
        let ahead = self.peers.iter().filter(|executed| **executed > Some(self.executed)).count();
        ahead >= self.agreed.size.one_correct()
    }

    /// Whether this replica takes part as one that was never away: it votes, a quorum (itself counted) has said where it is, and those
    /// whom f+1 of them agree to be ahead are no more than a window ahead, within which votes arrive by themselves.
    pub fn has_caught_up(&self) -> bool {
        let said = self.peers.iter().flatten().count() + 1;
        let reach = Some(self.executed.saturating_add(self.agreed.window));
        let ahead = self.peers.iter().filter(|executed| **executed > reach).count();
        let takes_part = self.active && self.standing.rejoin.is_none() && !self.takes_state;
        takes_part && said >= self.agreed.size.quorum() && ahead <= self.agreed.size.f()
    }

    /// Keeps the newest status of a peer until the end of the round, so that a peer that sends many costs no more.
    pub(super) fn keep_status(&mut self, from: ReplicaId, status: &ArchivedStatus) {
        let open = status.open.iter().map(|open| OpenSlot {
            sequence: open.sequence.to_native(),
            proposed: open.proposed,
            prepares: open.prepares.to_native(),
            commits: open.commits.to_native(),
        });
        let heard = status
            .heard
            .iter()
            .map(|heard| Heard { view: heard.view.to_native(), sequence: heard.sequence.to_native() });
        let ask = status.ask || self.heard[from.index()].as_ref().is_some_and(|older| older.ask);
        self.heard[from.index()] = Some(Status {
            view: status.view.to_native(),
            low: status.low.to_native(),
            executed: status.executed.to_native(),
            active: status.active,
            ask,
            abstains: status.abstains,
            needs: status.needs.to_native(),
            heard: heard.collect(),
            open: open.collect(),
        });
    }

    /// Answers the statuses of this round.
    pub(super) fn answer_statuses(&mut self, now: Now) {
        for peer in self.agreed.size.replicas() {
            if let Some(status) = self.heard[peer.index()].take() {
                self.take_status(peer, &status, now);
            }
        }
    }

    fn take_status(&mut self, from: ReplicaId, status: &Status, now: Now) {
        let executed = status.executed;
        // A replica that lost its log may tell less than before, so this is no maximum.
        self.peers[from.index()] = Some(executed);
        self.take_standing(from, status, now);
        if status.ask {
            let own = self.status(false);
            self.send(To::One(from), Outgoing::Status(own));
        }
        if executed < self.executed {
            self.send_decided(from, executed + 1, now);
        }
        if mutants::on(Mutant::NothingAgain) {
            return;
        }
        self.send_checkpoints(from, status.low);
        self.send_change(from, status, now);
        // A correct peer tells more often only where it asks for a page, and says the rest again.
        let is_due = now.mono_us >= self.again_at_us[from.index()];
        if is_due && status.view == self.view && status.active && self.active {
            self.again_at_us[from.index()] = now.mono_us + self.timing.busy_status_us / 2;
            self.send_again(from, status);
        }
    }

    /// Own votes and proposals that a peer lacks.
    fn send_again(&mut self, from: ReplicaId, status: &Status) {
        let me = 1u32 << self.me.0;
        let mut listed = status.open.iter().peekable();
        let (mut proposals, mut prepares, mut commits, mut wanted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // Where the peer has executed more, it needs the PREPAREs of those who have not, or its COMMIT could never follow.
        let first = status.executed.min(self.executed).saturating_add(1);
        let mut digests = 0;
        for (&sequence, slot) in self.slots.range(first..).take(MAX_STATUS_SLOTS) {
            if sequence <= status.executed {
                prepares.extend(slot.prepare_vote());
                continue;
            }
            while listed.next_if(|open| open.sequence < sequence).is_some() {}
            let (proposed, has_prepare, has_commit) = match listed.peek() {
                Some(open) if open.sequence == sequence => {
                    (open.proposed, open.prepares & me != 0, open.commits & me != 0)
                }
                _ => (false, false, false),
            };
            if !proposed && self.leader() == self.me {
                // Also where it is executed here: the peer may be one whose COMMIT the others need.
                if let Some(proposal) = slot.own_proposal.as_ref().filter(|_| digests <= DIGESTS_AGAIN) {
                    digests += proposal.bundles.len();
                    proposals.push(proposal.clone());
                }
            }
            if !has_prepare {
                prepares.extend(slot.prepare_vote());
            }
            if !has_commit {
                match slot.commit_vote() {
                    Some(vote) => commits.push(vote),
                    None if slot.decided.is_some() => wanted.push(sequence),
                    None => {}
                }
            }
        }
        for proposal in proposals {
            self.send(To::One(from), Outgoing::PrePrepare(proposal));
        }
        self.send_in_parts(To::One(from), &prepares, Outgoing::Prepare);
        self.send_in_parts(To::One(from), &commits, Outgoing::Commit);
        for sequence in wanted {
            self.want_commit(sequence);
        }
    }

    /// A page of decisions from `first` on: from memory, or from the log where they are older.
    fn send_decided(&mut self, to: ReplicaId, first: Sequence, now: Now) {
        let last = self.executed.min(first.saturating_add(CATCH_UP_PAGE - 1));
        let page: Vec<_> =
            self.slots.range(first..=last).filter_map(|(sequence, slot)| Some((*sequence, slot.decided?))).collect();
        if page.first().is_some_and(|(sequence, _)| *sequence == first) {
            self.send(To::One(to), Outgoing::Decided(page));
        } else if now.mono_us >= self.page_at_us[to.index()] {
            self.page_at_us[to.index()] = now.mono_us + LOGGED_PAGE_US;
            self.effects.push_back(Effect::SupplyDecided(to, first));
        }
    }

    pub(super) fn take_decided(&mut self, from: ReplicaId, message: &ArchivedDecided) {
        for item in message.decided.iter() {
            let (sequence, digest) = (item.sequence.to_native(), Digest(item.digest));
            if self.denies_decided(from, sequence, digest) || !self.in_range(sequence) {
                continue;
            }
            let one_correct = if mutants::on(Mutant::OneTeller) { 1 } else { self.agreed.size.one_correct() };
            let slot = self.slot(sequence);
            slot.told[from.index()] = Some(digest);
            if slot.decided.is_some() {
                continue;
            }
            if let Some(digest) = slot.told_decided(one_correct) {
                self.decided_told += 1;
                crate::flight::note(crate::flight::Kind::Decided, [sequence, 2, 0]);
                self.decide(sequence, digest);
            }
        }
        self.ask_for_more();
    }

    /// A replica that is behind and has used up what it was told tells its peers where it stands, and gets the next page.
    pub(super) fn ask_for_more(&mut self) {
        let pending = self.slots.get(&(self.executed + 1)).is_some_and(|slot| slot.decided.is_some());
        if !pending && self.is_behind() && self.asked != self.executed {
            // Once for each position: the timer covers a loss, and peers that cannot help are not asked without end.
            self.asked = self.executed;
            self.status_at_us = 0;
        }
    }

    pub(super) fn take_batch(&mut self, sequence: Sequence, batch: Arc<Batch>, now: Now) {
        let Some(slot) = self.slots.get_mut(&sequence) else { return };
        if slot.wants(batch.digest()).is_none() {
            return;
        }
        slot.batch = Some(batch);
        slot.fetch_at_us = None;
        self.execute_decided(true);
        self.accept_proposals(now);
        self.ask_for_more();
    }

    pub(super) fn supply(&mut self, to: ReplicaId, sequence: Sequence, digest: Digest) {
        // A correct peer asks for no more at once.
        if self.supplied[to.index()] >= FETCHES_AT_ONCE {
            return;
        }
        self.supplied[to.index()] += 1;
        let in_memory =
            self.slots.get(&sequence).and_then(|slot| slot.batch.clone()).filter(|batch| batch.digest() == digest);
        match in_memory {
            Some(batch) => self.effects.push_back(Effect::SupplyBatch(to, sequence, batch)),
            // What this replica has pre-prepared stands in its log too.
            None if (1..=self.executed).contains(&sequence) || self.slots.contains_key(&sequence) => {
                self.effects.push_back(Effect::SupplyLoggedBatch(to, sequence, digest));
            }
            None => {}
        }
    }

    /// Slots that lack a body, the lowest first, as many as are asked for at once.
    fn lacking(&self) -> impl Iterator<Item = (Sequence, u64)> + '_ {
        let slots = self.slots.range(self.executed + 1..);
        slots.filter_map(|(sequence, slot)| Some((*sequence, slot.fetch_at_us?))).take(FETCHES_AT_ONCE)
    }

    pub(super) fn fetch_deadline_us(&self) -> Option<u64> {
        self.lacking().map(|(_, at)| at).min()
    }

    pub(super) fn fetch_missing(&mut self, now: Now) {
        let due: Vec<_> = self.lacking().filter(|(_, at)| *at <= now.mono_us).map(|(sequence, _)| sequence).collect();
        for sequence in due {
            let (leader, me) = (self.leader(), self.me);
            let Some(slot) = self.slots.get_mut(&sequence) else { continue };
            let Some(digest) = slot.lacks() else {
                slot.fetch_at_us = None;
                continue;
            };
            slot.fetch_at_us = Some(now.mono_us + FETCH_AGAIN_US);
            let attempt = slot.fetches;
            slot.fetches = attempt.saturating_add(1);
            // A decided body: one voucher after the other. A proposed one: the leader, then everybody.
            let vouchers: Vec<ReplicaId> = (0u8..)
                .zip(&slot.told)
                .filter(|(index, told)| **told == Some(digest) && *index != me.0)
                .map(|(index, _)| ReplicaId(index))
                .collect();
            let to = match vouchers.get((attempt as usize + sequence as usize) % vouchers.len().max(1)) {
                Some(voucher) if slot.decided.is_some() => To::One(*voucher),
                _ if attempt == 0 && leader != me => To::One(leader),
                _ => To::All,
            };
            self.send(to, Outgoing::FetchBatch(sequence, digest));
        }
    }
}
