//! The normal case: propose, accept, vote, decide, execute.

use std::sync::Arc;

use super::batch::{Batch, batch_digest};
use super::mutants::{self, Mutant};
use super::record::{DurableVote, Phase, Record};
use super::slot::{Own, Proposal};
use super::{Effect, Ordering, Outgoing, To};
use crate::log::Durable;
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::error::Misbehaviour;
use crate::wire::limits::{MAX_BATCH_BUNDLES, MAX_BATCH_BYTES};
use crate::wire::message::{ArchivedPrePrepare, ArchivedVotes};

impl Ordering {
    /// The leader proposes at once when idle, and under load what has gathered when one of its open batches is through.
    pub(super) fn propose(&mut self, now: Now) {
        while self.leader() == self.me
            && self.accepted - self.executed < self.timing.open_batches.min(self.agreed.window)
            && self.pool.has_unproposed()
        {
            let bundles = self.pool.take(self.timing.batch_bytes.min(MAX_BATCH_BYTES), MAX_BATCH_BUNDLES);
            let time_ms = now.wall_ms.max(self.proposed_ms);
            self.proposed_ms = time_ms;
            self.accept(self.accepted + 1, Arc::new(Batch::new(time_ms, bundles)));
        }
    }

    /// Stages Q: from here on this replica pre-prepares nothing else at (view, sequence).
    fn accept(&mut self, sequence: Sequence, batch: Arc<Batch>) {
        self.accepted = sequence;
        let view = self.view;
        let slot = self.slot(sequence);
        slot.batch = Some(Arc::clone(&batch));
        slot.q = Own::Staged;
        slot.logged = Some(batch.digest());
        self.effects.push_back(Effect::Log(Record::PrePrepared { view, sequence, batch }));
        // It may have been decided before its body was here.
        self.execute_decided(true);
    }

    pub(super) fn take_proposal(&mut self, from: ReplicaId, message: &ArchivedPrePrepare, now: Now) {
        let (view, sequence) = (message.view.to_native(), message.sequence.to_native());
        if view != self.view {
            return;
        }
        if from != self.leader() {
            return self.report(from, Misbehaviour::NotLeader { view });
        }
        if !self.in_range(sequence) {
            return;
        }
        let bundles: Vec<Digest> = message.bundles.iter().map(|digest| Digest(*digest)).collect();
        let (time_ms, digest) = (message.time_ms.to_native(), Digest(message.digest));
        let mut unique = bundles.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.is_empty() || unique.len() != bundles.len() {
            return self.report(from, Misbehaviour::BatchLimits { sequence });
        }
        if batch_digest(time_ms, bundles.iter().copied()) != digest && !mutants::on(Mutant::DigestBelieved) {
            return self.report(from, Misbehaviour::WrongDigest { sequence });
        }
        let drift_ms = time_ms.saturating_sub(now.wall_ms);
        if drift_ms > self.agreed.drift_ms {
            return self.report(from, Misbehaviour::Drift { sequence, drift_ms });
        }
        let slot = self.slot(sequence);
        let first = slot.own_q_digest().or(slot.proposal.as_ref().map(|proposal| proposal.digest));
        match first {
            Some(first) if first != digest && !mutants::on(Mutant::SecondProposal) => {
                self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
            }
            Some(first) if first == digest => {}
            _ => {
                #[cfg(test)]
                if first.is_some() {
                    slot.q = Own::None;
                    self.accepted = self.accepted.min(sequence - 1);
                }
                let slot = self.slot(sequence);
                slot.proposal = Some(Proposal { digest, time_ms, bundles, found: 0 });
                self.accept_proposals(now);
            }
        }
    }

    /// Accepts proposals in sequence as far as their bundles are here.
    pub(super) fn accept_proposals(&mut self, now: Now) {
        loop {
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
            let batch = Batch::new(proposal.time_ms, bundles);
            #[cfg(test)]
            let batch = if mutants::on(Mutant::DigestBelieved) { batch.claiming(proposal.digest) } else { batch };
            if batch.digest() != proposal.digest {
                // A bundle that had been found was dropped since: look again from the first.
                proposal.found = 0;
                slot.fetch_at_us.get_or_insert(fetch_at);
                return;
            }
            if batch.size() > MAX_BATCH_BYTES {
                let leader = self.leader();
                return self.report(leader, Misbehaviour::BatchLimits { sequence });
            }
            for bundle in batch.bundles() {
                self.pool.mark_proposed(&bundle.digest());
            }
            self.accept(sequence, Arc::new(batch));
        }
    }

    pub(super) fn on_synced(&mut self, record: &Durable<Record>, _now: Now) {
        let sequence = record.sequence();
        let Some(vote) = DurableVote::of(record) else { return };
        let (me, leads) = (self.me, self.leader() == self.me);
        let Some(slot) = self.slots.get_mut(&sequence) else { return };
        match vote.phase() {
            Phase::Prepare => {
                slot.own_q(record);
                slot.prepares[me.index()] = Some(vote.digest());
                let proposal = slot.own_proposal.clone().filter(|_| leads);
                if slot.executed {
                    slot.own_proposal = None;
                }
                if let Some(proposal) = proposal {
                    self.send(To::All, Outgoing::PrePrepare(proposal));
                }
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
        if view != self.view {
            return;
        }
        for vote in message.votes.iter() {
            let (sequence, digest) = (vote.sequence.to_native(), Digest(vote.digest));
            if !self.in_range(sequence) {
                continue;
            }
            let slot = self.slot(sequence);
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
                Some((seen, first)) if seen == view && first != digest => {
                    self.report(from, Misbehaviour::Equivocation { view, sequence, first, second: digest });
                }
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
            return self.decide(sequence, digest);
        }
        // Without the own Q durable nothing is prepared, and without the own PREPARE not all n have voted.
        let Some(digest) = slot.own_q_digest() else { return };
        let votes = slot.prepared_by(&digest);
        if votes == size.n() || mutants::on(Mutant::ExecutesUndecided) {
            self.decided_fast += 1;
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
    ///
    /// What is decided had enough PREPAREs, even if a restart forgot whose, or this replica learned it from DECIDED and has no Q
    /// of its own: nothing else can be chosen at its sequence, and the others may need this very COMMIT.
    pub(super) fn prepare_due(&mut self) {
        for sequence in std::mem::take(&mut self.to_prepare) {
            let (view, quorum) = (self.view, self.quorum());
            let Some(slot) = self.slots.get_mut(&sequence).filter(|slot| matches!(slot.p, Own::None)) else { continue };
            let prepared = slot.own_q_digest().filter(|digest| slot.prepared_by(digest) >= quorum);
            let Some(digest) = slot.decided.filter(|_| slot.executed).or(prepared) else { continue };
            slot.p = Own::Staged;
            self.effects.push_back(Effect::Log(Record::Prepared { view, sequence, digest }));
        }
    }

    /// Sends the votes that became durable in this round, those of one phase together.
    pub(super) fn send_votes(&mut self) {
        let mut votes = std::mem::take(&mut self.votes);
        votes.sort_unstable_by_key(DurableVote::sequence);
        votes.dedup();
        let (prepares, commits): (Vec<_>, Vec<_>) = votes.into_iter().partition(|vote| vote.phase() == Phase::Prepare);
        if !prepares.is_empty() {
            self.send(To::All, Outgoing::Prepare(prepares));
        }
        if !commits.is_empty() {
            self.send(To::All, Outgoing::Commit(commits));
        }
    }

    pub(super) fn decide(&mut self, sequence: Sequence, digest: Digest) {
        let slot = self.slot(sequence);
        slot.decided = Some(digest);
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
            let Some(batch) = slot.batch.take_if(|batch| batch.digest() == digest) else { return };
            slot.executed = true;
            slot.own_proposal = None;
            slot.proposal = None;
            slot.fetch_at_us = None;
            if log {
                let record = if slot.logged == Some(digest) {
                    Record::Decided { sequence, digest }
                } else {
                    Record::Learned { sequence, batch: Arc::clone(&batch) }
                };
                self.effects.push_back(Effect::Log(record));
            }
            for bundle in batch.bundles() {
                self.pool.remove(&bundle.digest());
            }
            self.executed = sequence;
            self.accepted = self.accepted.max(sequence);
            self.effects.push_back(Effect::Execute(sequence, batch));
            let kept = self.executed.saturating_sub(2 * self.agreed.window);
            while self.slots.first_key_value().is_some_and(|(oldest, _)| *oldest <= kept) {
                self.slots.pop_first();
            }
        }
    }
}
