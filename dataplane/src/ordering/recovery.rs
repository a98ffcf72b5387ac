//! A restart: what the own log says, in its order, and where it leaves off.
//!
//! Records of a view stand behind its beginning ([`Record::Enters`]), and that stands behind what was voted before, so reading them in
//! order gives back the views, P, Q, the choices not voted on yet, and the checkpoints. What was staged and not synced is gone,
//! and nothing that rested on it had left. Where the log's oldest records were let go, what they left standing comes first
//! (`carry`), and the state up to there is here already.

use std::sync::Arc;

use super::Effect;
use super::Ordering;
use super::awake::Awake;
use super::batch::Batch;
use super::change::Leading;
use super::checkpoint::{Certificate, Statement};
use super::mutants::{self, Mutant};
use super::record::Record;
use super::slot::Slot;
use super::view_change::SignedViewChange;
use crate::log::Durable;
use crate::types::{Digest, Now, Sequence, View};

impl Ordering {
    /// Begins behind a snapshot on the own disk: before the log is read.
    pub fn resume(&mut self, statement: Statement, certificate: Option<Arc<Certificate>>) {
        self.executed = statement.sequence;
        self.accepted = statement.sequence;
        self.own_statements.insert(statement.sequence, (statement, None));
        if let Some(certificate) = certificate {
            self.stabilise(certificate);
        }
    }

    /// A snapshot that peers supplied is durable and has taken the place of the state: everything up to its checkpoint is executed.
    pub fn install(&mut self, certificate: &Arc<Certificate>) {
        let sequence = certificate.sequence();
        if sequence <= self.executed {
            return;
        }
        self.adopt(Arc::clone(certificate));
        let later = self.slots.split_off(&(sequence + 1));
        let passed = std::mem::replace(&mut self.slots, later);
        self.open_bytes -= passed.values().map(|slot| slot.counted).sum::<usize>();
        self.own_statements.retain(|other, _| *other > sequence);
        self.own_statements.insert(sequence, (*certificate.statement(), None));
        self.executed = sequence;
        self.accepted = self.accepted.max(sequence);
        self.work_since_us = None;
        self.progressed = true;
        self.asked = Sequence::MAX;
        self.execute_decided(true);
        self.ask_for_more();
    }

    /// Takes back a record of the own log, in log order, before anything else happens. Executions come out as effects.
    pub fn replay(&mut self, record: &Durable<Record>) {
        let sequence = record.sequence();
        match &**record {
            Record::PrePrepared { .. } if mutants::on(Mutant::ForgetsQ) => {}
            Record::PrePrepared { view, batch, .. } => {
                self.held.pre_prepare(*view, sequence, batch.digest());
                self.standing.says(*view, sequence);
                self.unvoted.remove(&sequence);
                self.proposed_ms = self.proposed_ms.max(batch.time_ms());
                if sequence > self.executed {
                    let slot = self.slot(sequence);
                    slot.logged = Some(batch.digest());
                    slot.batch = Some(Arc::clone(batch));
                }
                self.replay_q(*view, record);
            }
            Record::Chosen { view, digest, .. } => {
                self.held.pre_prepare(*view, sequence, *digest);
                self.standing.says(*view, sequence);
                self.unvoted.remove(&sequence);
                if sequence > self.executed && *digest == Digest::NULL {
                    let slot = self.slot(sequence);
                    slot.logged = Some(*digest);
                    slot.batch = Some(Arc::new(Batch::null()));
                }
                self.replay_q(*view, record);
            }
            Record::Prepared { view, digest, .. } => {
                self.held.prepare(*view, sequence, *digest);
                if *view == self.view
                    && let Some(slot) = self.slots.get_mut(&sequence)
                {
                    slot.own_p(record);
                }
            }
            Record::Decided { digest, .. } if sequence > self.executed => {
                self.slot(sequence).decided = Some(*digest);
            }
            Record::Learned { batch, .. } if sequence > self.executed => {
                let slot = self.slot(sequence);
                slot.decided = Some(batch.digest());
                slot.batch = Some(Arc::clone(batch));
                slot.logged = Some(batch.digest());
            }
            Record::Decided { .. } | Record::Learned { .. } | Record::Cosigned(_) => {}
            Record::Leaves { .. } if mutants::on(Mutant::ForgetsView) => {}
            Record::Leaves { view, .. } => {
                self.standing.says(*view, 0);
                self.standing.rejoin = None;
                self.view = *view;
                self.active = false;
                self.new_view = None;
                self.end_view();
                self.changes[self.me.index()] = SignedViewChange::own(record, &self.seals);
            }
            Record::Enters(new_view) => {
                self.logged_stable = self.logged_stable.max(new_view.certificate.sequence());
                self.stabilise(Arc::clone(&new_view.certificate));
                self.begin(Arc::clone(new_view));
            }
            Record::Begins => {}
            Record::Abstains => self.stand_aside(),
            Record::Leads { .. } => self.leading = Leading::Proposes,
            Record::Checkpoint(statement) => {
                self.standing.signs(statement.sequence);
                self.replay_checkpoint(statement);
            }
            Record::Stable(certificate) => {
                self.logged_stable = self.logged_stable.max(certificate.sequence());
                self.stabilise(Arc::clone(certificate));
            }
            Record::Voted { view, sequence, time_ms } => {
                self.standing.says(*view, *sequence);
                self.proposed_ms = self.proposed_ms.max(*time_ms);
            }
        }
        self.execute_decided(false);
    }

    /// Q of the present view; records of a view stand behind its beginning.
    fn replay_q(&mut self, view: View, record: &Durable<Record>) {
        let sequence = record.sequence();
        if view == self.view && (sequence > self.executed || self.slots.contains_key(&sequence)) {
            self.slot(sequence).own_q(record);
        }
    }

    /// The log is read: goes on where it ended.
    pub fn start(&mut self, now: Now) {
        let me = self.me;
        // What came out while the log was read stands in it.
        self.watch.awake = Awake::default();
        self.accepted = self.accepted.max(self.executed).max(self.stable.sequence());
        while self.slots.get(&(self.accepted + 1)).is_some_and(Slot::has_own_q) {
            self.accepted += 1;
        }
        for slot in self.slots.values_mut() {
            slot.prepares[me.index()] = slot.own_q_digest();
            slot.count_own_commit(me);
        }
        let stable = self.stable.sequence();
        if stable > self.logged_stable {
            // It came with a snapshot: what is voted on above it must not stand in the log without it.
            self.effects.push_back(Effect::Log(Record::Stable(Arc::clone(&self.stable))));
            self.notice_older_log(&Arc::clone(&self.stable));
        }
        let statements = self.own_statements.range(stable + 1..).map(|(_, own)| own);
        let statements = statements.filter(|(_, signature)| signature.is_none());
        for statement in statements.filter(|_| self.standing.rejoin.is_none()) {
            self.effects.push_back(Effect::Log(Record::Checkpoint(statement.0)));
        }
        self.restarted_leader = self.active && self.leader() == me && self.leading != Leading::NotYet;
        self.restarted_leader &= !mutants::on(Mutant::LeaderGoesOn);
        self.status_at_us = now.mono_us;
        self.wait_for_peers();
    }
}
