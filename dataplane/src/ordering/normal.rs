//! The normal case: propose, accept, vote, decide, execute.

use std::sync::Arc;

use super::batch::{Batch, batch_digest};
use super::change::Leading;
use super::mutants::{self, Mutant};
use super::record::{DurableVote, Phase, Record};
use super::slot::{Own, Pending};
use super::{Effect, MAX_OPEN_BYTES, Ordering, Outgoing, Proposal, To, Wanted};
use crate::flight::{self, Kind};
use crate::log::Durable;
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::error::Misbehaviour;
use crate::wire::limits::{MAX_BATCH_BUNDLES, MAX_BATCH_BYTES, MAX_VOTES};
use crate::wire::message::{ArchivedPrePrepare, ArchivedVotes};

impl Ordering {
    /// The leader proposes at once when idle, and under load what has gathered when one of its open batches is through. Before
    /// its first proposal in a view it writes down that it leads.
    pub(super) fn propose(&mut self, now: Now) {
        while self.active
            && self.leader() == self.me
            && !self.restarted_leader
            && self.unvoted.is_empty()
            && self.accepted < self.stable.sequence() + self.agreed.window
            && self.accepted - self.executed < self.timing.open_batches
            && self.in_range(self.accepted + 1)
            && self.open_bytes <= MAX_OPEN_BYTES
            && (self.pool.has_unproposed() || self.fills())
        {
            match self.leading {
                Leading::NotYet => {
                    self.leading = Leading::Staged;
                    return self.effects.push_back(Effect::Log(Record::Leads { view: self.view }));
                }
                Leading::Staged => return,
                Leading::Proposes => {}
            }
            let bundles = self.pool.take(self.timing.batch_bytes.min(MAX_BATCH_BYTES), MAX_BATCH_BUNDLES);
            let time_ms = now.wall_ms.max(self.proposed_ms);
            if !bundles.is_empty() {
                self.proposed_ms = time_ms;
            }
            let batch = if bundles.is_empty() { Batch::null() } else { Batch::new(time_ms, bundles) };
            let (view, sequence, time_ms) = (self.view, self.accepted + 1, batch.time_ms());
            let bundles = batch.bundles().iter().map(|bundle| bundle.digest()).collect();
            let proposal = Arc::new(Proposal { view, sequence, digest: batch.digest(), time_ms, bundles });
            self.slot(sequence).own_proposal = Some(Arc::clone(&proposal));
            self.send(To::All, Outgoing::PrePrepare(proposal));
            self.accept(sequence, Arc::new(batch));
        }
    }

    /// Stages Q: from here on this replica pre-prepares nothing else at (view, sequence).
    fn accept(&mut self, sequence: Sequence, batch: Arc<Batch>) {
        self.accepted = sequence;
        let view = self.view;
        let digest = batch.digest();
        self.held.pre_prepare(view, sequence, digest);
        self.standing.says(view, sequence);
        let slot = self.slot(sequence);
        let before = std::mem::replace(&mut slot.counted, batch.size());
        // A decided body stays: what a Byzantine leader proposes beside it is voted on and never executed.
        if slot.decided.is_none_or(|decided| decided == batch.digest()) {
            slot.batch = Some(Arc::clone(&batch));
        }
        slot.q = Own::Staged;
        slot.logged = Some(batch.digest());
        self.open_bytes = self.open_bytes - before + batch.size();
        self.effects.push_back(Effect::Log(match digest {
            Digest::NULL => Record::Chosen { view, sequence, digest },
            _ => Record::PrePrepared { view, sequence, batch },
        }));
        // It may have been decided before its body was here.
        self.execute_decided(true);
    }

    pub(super) fn take_proposal(&mut self, from: ReplicaId, message: &ArchivedPrePrepare, now: Now) {
        let (view, sequence) = (message.view.to_native(), message.sequence.to_native());
        if from != self.agreed.size.leader(view) {
            return self.report(from, Misbehaviour::NotLeader { view });
        }
        let last = self.stable.sequence().saturating_add(self.agreed.window);
        if view != self.view || !self.active || !self.in_range(sequence) || sequence > last {
            return;
        }
        let bundles: Vec<Digest> = message.bundles.iter().map(|digest| Digest(*digest)).collect();
        let (time_ms, digest) = (message.time_ms.to_native(), Digest(message.digest));
        let mut unique = bundles.clone();
        unique.sort_unstable();
        unique.dedup();
        // A null batch, by which a leader fills up, has neither bundles nor a time.
        let is_null = digest == Digest::NULL && unique.is_empty();
        if unique.is_empty() != is_null || unique.len() != bundles.len() {
            return self.report(from, Misbehaviour::BatchLimits { sequence });
        }
        let expected = if is_null { Digest::NULL } else { batch_digest(time_ms, bundles.iter().copied()) };
        if expected != digest && !mutants::on(Mutant::DigestBelieved) {
            return self.report(from, Misbehaviour::WrongDigest { sequence });
        }
        let drift_ms = if is_null { 0 } else { time_ms.saturating_sub(now.wall_ms) };
        if drift_ms > self.agreed.drift_ms {
            return self.report(from, Misbehaviour::Drift { sequence, drift_ms });
        }
        if drift_ms < -self.agreed.drift_ms {
            // It may have been on its way for so long, which is nobody's fault.
            return;
        }
        if !self.held.accepts(sequence, digest) || self.unvoted.contains_key(&sequence) {
            return;
        }
        let slot = self.slot(sequence);
        let first = slot.own_q_digest().or(slot.proposal.as_ref().map(|proposal| proposal.digest));
        if slot.rejected == Some(digest) || slot.decided.is_some_and(|decided| decided != digest) {
            return;
        }
        match first {
            Some(first) if first != digest && !mutants::on(Mutant::SecondProposal) => {
                self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
            }
            Some(_) if (slot.proposal.is_some() || slot.has_own_q()) && !mutants::on(Mutant::SecondProposal) => {}
            _ => {
                #[cfg(test)]
                if first.is_some() && mutants::on(Mutant::SecondProposal) {
                    slot.q = Own::None;
                    self.accepted = self.accepted.min(sequence - 1);
                }
                let slot = self.slot(sequence);
                slot.proposal = Some(Pending { digest, time_ms, bundles, found: 0 });
                flight::note(Kind::ProposalReceived, [sequence, view, u64::from(from.0)]);
                self.accept_proposals(now);
            }
        }
    }

    /// Accepts proposals in sequence as far as their bundles are here.
    pub(super) fn accept_proposals(&mut self, now: Now) {
        while self.active && self.unvoted.is_empty() && self.open_bytes <= MAX_OPEN_BYTES {
            let sequence = self.accepted + 1;
            let fetch_at = now.mono_us + self.timing.fetch_us;
            let Some(slot) = self.slots.get_mut(&sequence) else { return };
            let Some(proposal) = slot.proposal.as_mut().filter(|_| matches!(slot.q, Own::None)) else { return };
            while proposal.bundles.get(proposal.found).is_some_and(|digest| self.pool.get(digest).is_some()) {
                proposal.found += 1;
            }
            if let Some(batch) = slot.batch.clone().filter(|batch| batch.digest() == proposal.digest) {
                self.accept(sequence, batch);
                continue;
            }
            if proposal.found < proposal.bundles.len() {
                slot.fetch_at_us.get_or_insert(fetch_at);
                return;
            }
            let bundles = proposal.bundles.iter().filter_map(|digest| self.pool.get(digest).cloned()).collect();
            let is_null = proposal.digest == Digest::NULL;
            let batch = if is_null { Batch::null() } else { Batch::new(proposal.time_ms, bundles) };
            #[cfg(test)]
            let batch = if mutants::on(Mutant::DigestBelieved) { batch.claiming(proposal.digest) } else { batch };
            if batch.digest() != proposal.digest {
                // A bundle that had been found was dropped since: look again from the first.
                proposal.found = 0;
                slot.fetch_at_us.get_or_insert(fetch_at);
                return;
            }
            if batch.size() > MAX_BATCH_BYTES {
                slot.rejected = Some(batch.digest());
                slot.proposal = None;
                let leader = self.leader();
                return self.report(leader, Misbehaviour::BatchLimits { sequence });
            }
            for bundle in batch.bundles() {
                self.pool.mark_proposed(&bundle.digest());
            }
            self.accept(sequence, Arc::new(batch));
        }
    }

    pub(super) fn on_synced(&mut self, record: &Durable<Record>, now: Now) {
        match &**record {
            Record::Leaves { .. } => return self.leaves_synced(record, now),
            Record::Leads { view } if *view == self.view && self.active => self.leading = Leading::Proposes,
            Record::Enters(new_view) => return self.enters_synced(new_view),
            Record::Checkpoint(_) => return self.checkpoint_synced(record),
            _ => {}
        }
        let sequence = record.sequence();
        // A vote of a view that this replica has left never leaves.
        let vote = DurableVote::of(record)
            .filter(|vote| vote.view() == self.view && self.active || mutants::on(Mutant::VotesAfterLeaving));
        let (Some(vote), me) = (vote, self.me) else { return };
        let Some(slot) = self.slots.get_mut(&sequence) else { return };
        match vote.phase() {
            Phase::Prepare => {
                slot.own_q(record);
                slot.prepares[me.index()] = Some(vote.digest());
            }
            Phase::Commit => {
                slot.own_p(record);
                slot.commits[me.index()] = Some((vote.view(), vote.digest()));
            }
        }
        self.votes.push(vote);
        self.progress(sequence);
    }

    pub(super) fn take_prepares(&mut self, from: ReplicaId, message: &ArchivedVotes) {
        let view = message.view.to_native();
        if view != self.view || !self.active {
            return;
        }
        for vote in message.votes.iter() {
            let (sequence, digest) = (vote.sequence.to_native(), Digest(vote.digest));
            self.standing.hears(from, view, sequence);
            // What is executed may have to be voted on once more, for those who have not.
            if !self.in_range(sequence) && !self.slots.contains_key(&sequence) {
                continue;
            }
            let slot = self.slot(sequence);
            if let Some(first) = slot.contradicts_commit(from, view, digest) {
                self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
                continue;
            }
            match slot.prepares[from.index()] {
                None => {
                    slot.prepares[from.index()] = Some(digest);
                    self.progress(sequence);
                }
                Some(first) if first != digest => {
                    self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
                }
                Some(_) => {
                    if mutants::on(Mutant::DuplicatesCount)
                        && let Some(free) = slot.prepares.iter_mut().find(|vote| vote.is_none())
                    {
                        *free = Some(digest);
                        self.progress(sequence);
                    }
                }
            }
        }
    }

    pub(super) fn take_commits(&mut self, from: ReplicaId, message: &ArchivedVotes) {
        let view = message.view.to_native();
        let mut told = Vec::new();
        for vote in message.votes.iter() {
            let (sequence, digest) = (vote.sequence.to_native(), Digest(vote.digest));
            if let Some(first) = self.contradicts_vote(from, view, sequence, digest) {
                self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
                continue;
            }
            if let Some(decided) = self.slots.get(&sequence).and_then(|slot| slot.decided) {
                // The peer may be in the dark about a fast commit: it is answered at once.
                told.push((sequence, decided));
                self.want_commit(sequence);
                continue;
            }
            if !self.in_range(sequence) {
                continue;
            }
            let slot = self.slot(sequence);
            match slot.commits[from.index()] {
                Some((seen, _)) if seen >= view => {
                    if mutants::on(Mutant::DuplicatesCount)
                        && let Some(free) = slot.commits.iter_mut().find(|vote| vote.is_none())
                    {
                        *free = Some((view, digest));
                        self.progress(sequence);
                    }
                }
                _ => {
                    slot.commits[from.index()] = Some((view, digest));
                    self.progress(sequence);
                }
            }
        }
        if !told.is_empty() {
            self.send(To::One(from), Outgoing::Decided(told));
        }
    }

    /// Decides or asks for P as far as the votes of a sequence go.
    pub(super) fn progress(&mut self, sequence: Sequence) {
        let size = self.agreed.size;
        let Some(slot) = self.slots.get(&sequence).filter(|slot| slot.decided.is_none()) else { return };
        if let Some(digest) = slot.committed(self.quorum()) {
            self.decided_slow += 1;
            flight::note(Kind::Decided, [sequence, 1, 0]);
            return self.decide(sequence, digest);
        }
        // Without the own Q durable nothing is prepared, and without the own PREPARE not all n have voted.
        let Some(digest) = slot.own_q_digest() else { return };
        let votes = slot.prepared_by(&digest);
        if votes == size.n() || mutants::on(Mutant::ExecutesUndecided) {
            self.decided_fast += 1;
            flight::note(Kind::Decided, [sequence, 0, 0]);
            // The quorum came in this very round: P is needless unless somebody asks for it.
            self.to_prepare.retain(|due| *due != sequence);
            self.decide(sequence, digest);
        } else if votes >= self.quorum() && matches!(slot.p, Own::None) {
            self.to_prepare.push(sequence);
        }
    }

    /// A peer needs this replica's COMMIT for a sequence that was decided here without it: P is staged, and the COMMIT goes to
    /// all when it is durable. One that left before is sent again on a status alone, or two replicas would answer each other's
    /// COMMITs for ever.
    pub(super) fn want_commit(&mut self, sequence: Sequence) {
        if self.slots.get(&sequence).is_some_and(|slot| matches!(slot.p, Own::None)) {
            self.to_prepare.push(sequence);
        }
    }

    /// Stages P for what has enough PREPAREs and was not decided in the same round, or is asked for.
    pub(super) fn prepare_due(&mut self) {
        for sequence in std::mem::take(&mut self.to_prepare) {
            let (view, quorum) = (self.view, self.quorum());
            let Some(slot) = self.slots.get_mut(&sequence) else { continue };
            let Some(digest) = slot.own_q_digest() else { continue };
            // A decision is not enough: P without the PREPAREs of this very view could block what was decided.
            if matches!(slot.p, Own::None) && slot.prepared_by(&digest) >= quorum {
                slot.p = Own::Staged;
                self.held.prepare(view, sequence, digest);
                self.effects.push_back(Effect::Log(Record::Prepared { view, sequence, digest }));
            }
        }
    }

    /// Sends the votes that became durable in this round, those of one phase together.
    pub(super) fn send_votes(&mut self) {
        let mut votes = std::mem::take(&mut self.votes);
        if votes.is_empty() {
            return;
        }
        votes.sort_unstable_by_key(DurableVote::sequence);
        votes.dedup();
        let (prepares, commits): (Vec<_>, Vec<_>) = votes.into_iter().partition(|vote| vote.phase() == Phase::Prepare);
        self.send_in_parts(To::All, &prepares, Outgoing::Prepare);
        self.send_in_parts(To::All, &commits, Outgoing::Commit);
    }

    /// Sends votes of one phase, as many in a message as one may hold.
    pub(super) fn send_in_parts(&mut self, to: To, votes: &[DurableVote], message: fn(Vec<DurableVote>) -> Outgoing) {
        for part in votes.chunks(MAX_VOTES) {
            self.send(to, message(part.to_vec()));
        }
    }

    /// Stages the decision, with the body where the log does not have it.
    fn log_decision(&mut self, sequence: Sequence, batch: &Arc<Batch>) {
        let digest = batch.digest();
        let slot = self.slot(sequence);
        let record = if slot.logged == Some(digest) {
            Record::Decided { sequence, digest }
        } else {
            slot.logged = Some(digest);
            Record::Learned { sequence, batch: Arc::clone(batch) }
        };
        self.effects.push_back(Effect::Log(record));
    }

    /// A proposed body was fetched and holds what no correct replica votes for.
    pub(super) fn reject_body(&mut self, sequence: Sequence, digest: Digest) {
        let leader = self.leader();
        let Some(slot) = self.slots.get_mut(&sequence) else { return };
        if slot.wants(digest) == Some(Wanted::Proposed) {
            slot.proposal = None;
            slot.fetch_at_us = None;
            slot.rejected = Some(digest);
            // The digest covers every bundle, so it is the leader who chose them.
            self.report(leader, Misbehaviour::BadBundle { sequence });
        }
    }

    pub(super) fn decide(&mut self, sequence: Sequence, digest: Digest) {
        self.report_wrong_decided(sequence, digest);
        let slot = self.slot(sequence);
        slot.decided = Some(digest);
        if digest == Digest::NULL {
            slot.batch = Some(Arc::new(Batch::null()));
        }
        if slot.lacks().is_some() {
            // Due at once.
            slot.fetch_at_us = Some(0);
            slot.fetches = 0;
        }
        self.execute_decided(true);
    }

    /// Executes what is decided and here, in sequence. `log` is false while the log itself is read.
    pub(super) fn execute_decided(&mut self, log: bool) {
        loop {
            let sequence = self.executed + 1;
            let Some(slot) = self.slots.get_mut(&sequence) else { return };
            let Some(digest) = slot.decided else { return };
            let Some(batch) = slot.batch.take_if(|batch| batch.digest() == digest) else {
                slot.fetch_at_us.get_or_insert(0);
                return;
            };
            slot.executed = true;
            slot.proposal = None;
            slot.fetch_at_us = None;
            self.open_bytes -= std::mem::take(&mut slot.counted);
            if log {
                self.log_decision(sequence, &batch);
            }
            for bundle in batch.bundles().iter().filter(|_| log) {
                self.takes_out(&bundle.digest());
            }
            self.executed = sequence;
            self.accepted = self.accepted.max(sequence);
            // Null batches are no progress for those who wait.
            if digest != Digest::NULL || self.pool.len() == 0 {
                self.work_since_us = None;
                self.progressed = true;
            }
            self.effects.push_back(Effect::Execute(sequence, batch));
            // What is voted on in this view is kept until it is stable: others may need the votes.
            let old = self.executed.saturating_sub(2 * self.agreed.window);
            if self.slots.get(&old).is_some_and(|slot| old <= self.stable.sequence() || !slot.has_own_q()) {
                self.slots.remove(&old);
            }
        }
    }
}
