//! The view change as a state machine: leaving a view, joining others who leave, beginning the next.
//!
//! A replica is *active* in its view until it leaves it. Leaving: it votes no more, stages its VIEW-CHANGE behind every Q and P, and
//! sends it once it is durable. The leader of the next view collects VIEW-CHANGEs until they decide, sends NEW-VIEW, and begins;
//! everybody else begins with the NEW-VIEW, whoever passes it on. A replica begins by staging the NEW-VIEW, before any Q of the view,
//! so that a restart finds the view's choices; then it votes on every choice above its low watermark, executed or not, and only
//! after that on free proposals.
//!
//! It leaves when its timers say so ([`super::suspect`]), when f+1 others did, when the leader itself asks to be replaced, and when it
//! restarts as a leader that may have proposed what its disk does not know.
//!
//! # Limits
//! One VIEW-CHANGE of each replica is kept, the latest; of one peer [`MAX_CHANGES_A_ROUND`] are verified in a round. One
//! NEW-VIEW is kept, that of the present view. Each is sent to one peer again no more often than every [`SEND_AGAIN_US`].

use std::sync::Arc;

use super::mutants::{self, Mutant};
use super::record::Record;
use super::slot::Own;
use super::view_change::{self, SignedNewView, SignedViewChange, body};
use super::{Effect, Ordering, Outgoing, To};
use crate::log::Durable;
use crate::types::{Digest, Now, ReplicaId, Sequence, Signature, View};
use crate::wire::error::Misbehaviour;
use crate::wire::message::{ArchivedNewView, ArchivedViewChange, Status};

/// VIEW-CHANGEs and NEW-VIEWs of one peer that are verified in a round.
const MAX_CHANGES_A_ROUND: usize = 4;

/// A VIEW-CHANGE or NEW-VIEW is sent to a peer again no more often than this, us.
const SEND_AGAIN_US: u64 = 20_000;

/// How far this replica may act as the leader of its view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Leading {
    /// Nothing was proposed yet.
    #[default]
    NotYet,
    /// It is being written down that something may be proposed.
    Staged,
    /// It may propose.
    Proposes,
}

impl Ordering {
    /// Leaves every view below `view`.
    pub(super) fn leave(&mut self, view: View) {
        if view <= self.view {
            return;
        }
        self.view = view;
        self.active = false;
        self.fill_to = 0;
        self.watch.suspicion = None;
        self.new_view = None;
        self.new_view_at_us = None;
        self.end_view();
        self.standing.says(view, 0);
        let mut report = self.held.report();
        if mutants::on(Mutant::ConcealsP) {
            report.prepared.clear();
        }
        let body = body(view, self.me, &self.stable, &report);
        self.effects.push_back(Effect::Log(Record::Leaves { view, body }));
    }

    /// Forgets what belongs to the view that ends.
    pub(super) fn end_view(&mut self) {
        self.restarted_leader = false;
        self.progressed = false;
        self.open_bytes = 0;
        self.leading = Leading::NotYet;
        self.votes.clear();
        self.to_prepare.clear();
        self.unvoted.clear();
        self.work_since_us = None;
        self.watch.end_view();
        self.again_at_us.fill(0);
        self.slots.values_mut().for_each(super::slot::Slot::leave_view);
        self.pool.release_all();
        self.accepted = self.executed.max(self.stable.sequence());
    }

    /// The own VIEW-CHANGE is durable.
    pub(super) fn leaves_synced(&mut self, record: &Durable<Record>, now: Now) {
        if let Record::Leaves { view, .. } = &**record {
            self.comes_back(*view);
        }
        let Some(change) = SignedViewChange::own(record, &self.seals).filter(|change| change.view == self.view) else {
            return;
        };
        self.changes[self.me.index()] = Some(change.clone());
        if !self.active {
            self.send(To::All, Outgoing::ViewChange(change));
            self.look_at_changes(now);
        }
    }

    /// VIEW-CHANGE from a peer: its own.
    pub fn on_view_change(&mut self, from: ReplicaId, message: &ArchivedViewChange, now: Now) {
        let view = message.body.first_chunk().map_or(0, |view| View::from_le_bytes(*view));
        let known = self.changes[from.index()].as_ref();
        if known.is_some_and(|known| known.view > view || *known.parts().0 == *message.body) {
            return;
        }
        // Views far ahead are asked for by who climbs alone, or by who wants signatures checked: those may wait.
        let is_near = view <= self.view.saturating_add(1);
        if !is_near && now.mono_us < self.far_at_us[from.index()] || !self.may_verify(from) {
            return;
        }
        self.far_at_us[from.index()] = now.mono_us + SEND_AGAIN_US / 2;
        let known = self.changes[from.index()].as_ref();
        match SignedViewChange::open(&message.body, Signature(message.signature), &self.agreed, &self.seals) {
            Err(what) => self.report_view_change(from, what, &message.body, Signature(message.signature)),
            Ok(change) if change.replica != from => {
                self.report(from, Misbehaviour::InvalidViewChange { view: change.view });
            }
            Ok(change) => {
                // Who lost its records says again what it may have said before, from a checkpoint that makes that void.
                let is_void = |known: &SignedViewChange| known.report.h + self.agreed.window <= change.report.h;
                if let Some(known) = known.filter(|known| known.view == change.view && !is_void(known)) {
                    let both = vec![known.sealed(), change.sealed()];
                    return self.prove(from, Misbehaviour::TwoViewChanges { view }, both);
                }
                self.report_concealed(from, &change);
                self.changes[from.index()] = Some(change);
                self.note_asks(from, view, now);
                self.join(from, view);
                self.look_at_changes(now);
            }
        }
    }

    /// Counts a signed message of a peer; false beyond what is verified of one in a round.
    pub(super) fn may_verify(&mut self, from: ReplicaId) -> bool {
        let verified = &mut self.verified[from.index()];
        *verified += 1;
        *verified <= MAX_CHANGES_A_ROUND
    }

    /// Leaves where f+1 others did, or where the leader of the present view asks for the next.
    fn join(&mut self, from: ReplicaId, view: View) {
        if self.standing.rejoin.is_some() {
            return;
        }
        let higher = self.changes.iter().flatten().map(|change| change.view).filter(|view| *view > self.view);
        let (count, least) = higher.fold((0, View::MAX), |(count, least), view| (count + 1, least.min(view)));
        if count >= self.agreed.size.one_correct() {
            self.leave(least);
        } else if self.active && from == self.leader() && view == self.view + 1 {
            self.leave(view);
        }
    }

    /// Begins the view as its leader if what is here decides; otherwise gives the leader time once a quorum asks for the view.
    fn look_at_changes(&mut self, now: Now) {
        if self.active || self.standing.rejoin.is_some() {
            return;
        }
        let (view, quorum) = (self.view, self.agreed.size.quorum());
        // Who asks for a higher view has left this one as well. Counting only those who ask for this very view would wedge: a
        // Byzantine replica may show its VIEW-CHANGE to one correct replica alone, which then goes on to the next view alone.
        if self.changes.iter().flatten().filter(|change| change.view >= view).count() < quorum {
            return;
        }
        self.new_view_at_us.get_or_insert(now.mono_us.saturating_add(self.new_view_timeout_us()));
        let set = view_change::fitting(self.changes.iter().flatten().filter(|change| change.view == view));
        let own = set.iter().any(|change| change.replica == self.me);
        if self.leader() == self.me
            && own
            && let Some(new_view) = SignedNewView::own(view, self.me, &set, &self.agreed, &self.seals)
        {
            self.enter(Arc::new(new_view), now);
        }
    }

    /// NEW-VIEW, from its leader or from whoever has it.
    pub fn on_new_view(&mut self, from: ReplicaId, message: &ArchivedNewView, now: Now) {
        let view = message.body.first_chunk().map_or(0, |view| View::from_le_bytes(*view));
        if view == self.view && self.active {
            return self.report_second_new_view(from, message);
        }
        let abstains = self.standing.rejoin.is_some();
        if view < self.view || view == self.view && abstains || view == 0 || !self.may_verify(from) {
            return;
        }
        let changes = &self.changes;
        let known = |replica: ReplicaId| changes.get(replica.index()).and_then(Option::as_ref);
        match SignedNewView::open(&message.body, Signature(message.signature), &self.agreed, &self.seals, known) {
            Ok(new_view) if abstains => {
                self.view = view;
                self.adopt(Arc::clone(&new_view.certificate));
            }
            Ok(new_view) => self.enter(Arc::new(new_view), now),
            Err(what) => self.report_new_view(from, what, &message.body, Signature(message.signature)),
        }
    }

    fn enter(&mut self, new_view: Arc<SignedNewView>, now: Now) {
        self.adopt(Arc::clone(&new_view.certificate));
        if self.standing.rejoin.is_some() {
            self.view = new_view.view;
            return;
        }
        self.effects.push_back(Effect::Log(Record::Enters(Arc::clone(&new_view))));
        self.begin(new_view);
        self.passes_on = self.leader() != self.me;
        self.view_since_us = now.mono_us;
        // What others say meanwhile may have come too early to be kept.
        self.status_to = u32::MAX;
        self.accept_choices(now);
    }

    /// The beginning of a view is durable: its leader tells it. A leader that told it before could restart without knowing that it
    /// did, and begin the view with another set.
    pub(super) fn enters_synced(&mut self, new_view: &Arc<SignedNewView>) {
        if self.active && new_view.view == self.view && self.leader() == self.me {
            self.passes_on = true;
            self.send(To::All, Outgoing::NewView(Arc::clone(new_view)));
        }
    }

    /// Takes part in a view.
    pub(super) fn begin(&mut self, new_view: Arc<SignedNewView>) {
        self.view = new_view.view;
        self.active = true;
        self.new_view_at_us = None;
        self.end_view();
        let (start, low) = (new_view.choices.start, self.stable.sequence());
        for (sequence, digest) in (start + 1..).zip(&new_view.choices.digests).filter(|(sequence, _)| *sequence > low) {
            self.unvoted.insert(sequence, *digest);
            self.accepted = self.accepted.max(sequence);
        }
        self.new_view = Some(new_view);
    }

    /// Votes on the view's choices as far as their bodies are here: Q first, as for any proposal.
    pub(super) fn accept_choices(&mut self, now: Now) {
        let last = self.executed.saturating_add(2 * self.agreed.window);
        let due: Vec<(Sequence, Digest)> = self.unvoted.range(..=last).map(|(at, digest)| (*at, *digest)).collect();
        let view = self.view;
        for (sequence, digest) in due {
            let executed = sequence <= self.executed;
            let slot = self.slot(sequence);
            let body = slot.batch.clone().filter(|batch| batch.digest() == digest);
            let is_logged = executed || digest == Digest::NULL || slot.logged == Some(digest);
            if slot.decided.is_some_and(|decided| decided != digest) {
                // Not possible with at most f Byzantine replicas. What is decided stays.
                self.unvoted.remove(&sequence);
                continue;
            }
            let record = match body {
                _ if is_logged => Record::Chosen { view, sequence, digest },
                Some(batch) => Record::PrePrepared { view, sequence, batch },
                None => {
                    if slot.chosen.replace(digest).is_none() {
                        slot.fetch_at_us = Some(now.mono_us);
                        slot.fetches = 0;
                    }
                    continue;
                }
            };
            slot.chosen = None;
            slot.q = Own::Staged;
            slot.logged = Some(digest);
            if digest == Digest::NULL && !executed {
                slot.batch = Some(Arc::new(super::batch::Batch::null()));
            }
            let held: Vec<Digest> =
                slot.batch.iter().flat_map(|batch| batch.bundles()).map(|bundle| bundle.digest()).collect();
            held.iter().for_each(|bundle| self.pool.mark_proposed(bundle));
            self.unvoted.remove(&sequence);
            self.held.pre_prepare(view, sequence, digest);
            self.standing.says(view, sequence);
            self.effects.push_back(Effect::Log(record));
        }
    }

    /// What a peer that is not in this replica's view lacks: how the view began, or that this replica left.
    pub(super) fn send_change(&mut self, to: ReplicaId, status: &Status, now: Now) {
        let is_here = status.view == self.view && (status.active || status.abstains);
        if status.view > self.view || is_here && self.active || now.mono_us < self.change_at_us[to.index()] {
            return;
        }
        let own = self.changes[self.me.index()].clone().filter(|change| change.view == self.view);
        match (&self.new_view, own) {
            (Some(new_view), _) if self.active && self.passes_on => {
                let new_view = Arc::clone(new_view);
                self.send(To::One(to), Outgoing::NewView(new_view));
            }
            (_, Some(own)) if !self.active => self.send(To::One(to), Outgoing::ViewChange(own)),
            _ => return,
        }
        self.change_at_us[to.index()] = now.mono_us + SEND_AGAIN_US;
    }
}
