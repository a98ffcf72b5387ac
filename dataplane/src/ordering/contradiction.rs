//! What a replica says against what it said before, or against what a quorum did.
//!
//! Nothing here changes what is voted or decided: a contradiction is reported, with what was signed where something was, and the message
//! counts for no more than it did. A correct replica brings none of it about, restarts included: what it votes, reports and
//! signs is durable first and stays reported until a checkpoint is stable above it.

use super::checkpoint::SignedStatement;
use super::mutants::{self, Mutant};
use super::slot::Slot;
use super::view_change::SignedViewChange;
use super::{Ordering, View};
use crate::crypto::context;
use crate::evidence::Sealed;
use crate::types::{Digest, ReplicaId, Sequence, Signature};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;
use crate::wire::message::ArchivedNewView;

impl SignedStatement {
    /// The CHECKPOINT of `replica` as evidence.
    pub(super) fn sealed(&self, replica: ReplicaId) -> Sealed {
        let body = self.statement.bytes().to_vec();
        Sealed { kind: Kind::Checkpoint, replica, body, signature: self.signature }
    }
}

impl Slot {
    /// What a replica COMMITted in the view in which it now PREPAREs another digest.
    pub(super) fn contradicts_commit(&self, from: ReplicaId, view: View, digest: Digest) -> Option<Digest> {
        self.commits[from.index()].filter(|(seen, first)| *seen == view && *first != digest).map(|(_, first)| first)
    }
}

impl Ordering {
    /// What a replica COMMITted or PREPAREd in the view in which it now COMMITs another digest.
    pub(super) fn contradicts_vote(
        &self,
        from: ReplicaId,
        view: View,
        sequence: Sequence,
        digest: Digest,
    ) -> Option<Digest> {
        let slot = self.slots.get(&sequence)?;
        let prepared = slot.prepares[from.index()].filter(|first| view == self.view && *first != digest);
        slot.contradicts_commit(from, view, digest).or(prepared)
    }

    /// Whether a DECIDED contradicts what is decided here; reported.
    pub(super) fn denies_decided(&mut self, from: ReplicaId, sequence: Sequence, said: Digest) -> bool {
        let decided = self.slots.get(&sequence).and_then(|slot| slot.decided).filter(|decided| *decided != said);
        if let Some(decided) = decided {
            self.report(from, Misbehaviour::WrongDecided { sequence, decided, said });
        }
        decided.is_some()
    }

    /// A sequence is decided: who said before that something else is has lied.
    pub(super) fn report_wrong_decided(&mut self, sequence: Sequence, decided: Digest) {
        let told = self.slots.get(&sequence).map(|slot| slot.told.clone()).unwrap_or_default();
        for (index, said) in (0u8..).zip(told) {
            if let Some(said) = said.filter(|said| *said != decided) {
                self.report(ReplicaId(index), Misbehaviour::WrongDecided { sequence, decided, said });
            }
        }
    }

    /// A certificate says what the state is at `sequence`: who signed another has diverged or lies.
    pub(super) fn report_wrong_checkpoints(&mut self, sequence: Sequence) {
        let statements = self.statements.get(&sequence).cloned().unwrap_or_default();
        for (index, signed) in (0u8..).zip(statements) {
            if let Some(signed) = signed.filter(|signed| signed.statement != *self.stable.statement()) {
                self.prove_wrong_checkpoint(ReplicaId(index), &signed);
            }
        }
    }

    /// Whether a CHECKPOINT contradicts the stable one; reported if its signature holds.
    pub(super) fn denies_stable(&mut self, from: ReplicaId, signed: &SignedStatement) -> bool {
        let stable = self.stable.statement();
        if signed.statement.sequence != stable.sequence || stable.sequence == 0 || signed.statement == *stable {
            return false;
        }
        if !self.may_verify(from) {
            return true;
        }
        if self.seals.holds(from, context::CHECKPOINT, &signed.statement.bytes(), &signed.signature) {
            self.prove_wrong_checkpoint(from, signed);
        } else {
            self.report(from, Misbehaviour::BadSignature { what: "CHECKPOINT" });
        }
        true
    }

    fn prove_wrong_checkpoint(&mut self, from: ReplicaId, signed: &SignedStatement) {
        let statement = *self.stable.statement();
        let quorum = self.stable.signatures.iter();
        let certified =
            quorum.map(|(replica, signature)| SignedStatement { statement, signature: *signature }.sealed(*replica));
        let messages = std::iter::once(signed.sealed(from)).chain(certified).collect();
        self.prove(from, Misbehaviour::WrongCheckpoint { sequence: statement.sequence }, messages);
    }

    /// A VIEW-CHANGE that is not valid: it convicts its sender if the sender signed it.
    pub(super) fn report_view_change(
        &mut self,
        from: ReplicaId,
        what: Misbehaviour,
        body: &[u8],
        signature: Signature,
    ) {
        match what {
            Misbehaviour::InvalidViewChange { .. }
                if self.seals.holds(from, context::VIEW_CHANGE, body, &signature) =>
            {
                let message = Sealed { kind: Kind::ViewChange, replica: from, body: body.to_vec(), signature };
                self.prove(from, what, vec![message]);
            }
            _ => self.report(from, what),
        }
    }

    /// A VIEW-CHANGE must report each vote that its sender sent above its checkpoint, in a view below: the digest that it PREPAREd,
    /// and that or a later one that it COMMITted.
    pub(super) fn report_concealed(&mut self, from: ReplicaId, change: &SignedViewChange) {
        let (view, report) = (change.view, &change.report);
        let first = if mutants::on(Mutant::AccusesRashly) { 0 } else { report.h.saturating_add(1) };
        let concealed = self.slots.range(first..).find_map(|(sequence, slot)| {
            let prepare = slot.prepares[from.index()].filter(|_| self.view < view).map(|digest| (self.view, digest));
            let pre_prepared = prepare.filter(|(voted_in, digest)| {
                let mut same = report.pre_prepared.iter();
                !same.any(|entry| entry.sequence == *sequence && entry.digest == *digest && entry.view >= *voted_in)
            });
            let commit = slot.commits[from.index()].filter(|(voted_in, _)| *voted_in < view);
            let prepared = commit.filter(|(voted_in, digest)| {
                !report.prepared.iter().any(|entry| {
                    entry.sequence == *sequence
                        && (entry.view > *voted_in || entry.view == *voted_in && entry.digest == *digest)
                })
            });
            pre_prepared.or(prepared).map(|(voted_in, voted)| (voted_in, *sequence, voted))
        });
        if let Some((voted_in, sequence, voted)) = concealed {
            let what = Misbehaviour::ConcealedVote { view, voted_in, sequence, voted };
            self.prove(from, what, vec![change.sealed()]);
        }
    }

    /// A NEW-VIEW that is not valid: it convicts the leader if the leader signed it, whoever passes it on, for then nobody else
    /// can have made it. One that the leader did not sign, nobody correct passes on.
    pub(super) fn report_new_view(&mut self, from: ReplicaId, what: Misbehaviour, body: &[u8], signature: Signature) {
        match what {
            Misbehaviour::InvalidNewView { view } => {
                let leader = self.agreed.size.leader(view);
                if !self.seals.holds(leader, context::NEW_VIEW, body, &signature) {
                    return self.report(from, Misbehaviour::BadSignature { what: "NEW-VIEW" });
                }
                let message = Sealed { kind: Kind::NewView, replica: leader, body: body.to_vec(), signature };
                self.prove(leader, what, vec![message]);
            }
            _ => self.report(from, what),
        }
    }

    /// Another NEW-VIEW for the present view than the one that this replica began it with: a correct leader has made its own
    /// durable before it tells anybody.
    pub(super) fn report_second_new_view(&mut self, from: ReplicaId, message: &ArchivedNewView) {
        let Some(known) = self.new_view.clone() else { return };
        let (view, (body, signature)) = (self.view, known.parts());
        if *body == *message.body || !self.may_verify(from) {
            return;
        }
        let leader = self.agreed.size.leader(view);
        let second = Signature(message.signature);
        if !self.seals.holds(leader, context::NEW_VIEW, &message.body, &second) {
            return self.report(from, Misbehaviour::BadSignature { what: "NEW-VIEW" });
        }
        let sealed =
            |body: &[u8], signature| Sealed { kind: Kind::NewView, replica: leader, body: body.to_vec(), signature };
        let both = vec![sealed(body, *signature), sealed(&message.body, second)];
        self.prove(leader, Misbehaviour::TwoNewViews { view }, both);
    }
}
