//! Coming back without the own records: a lost or damaged disk, or one that was set back to an earlier state.
//!
//! A replica that does not know what it promised must not promise anything else. It *abstains*: it executes what others decided and
//! says nothing that counts, neither votes nor VIEW-CHANGE, NEW-VIEW or CHECKPOINT (`Ordering::send` holds them back), until nothing
//! that it may have said can matter any more. That it abstains stands in its log ([`Record::Abstains`]) until its next VIEW-CHANGE
//! ([`Record::Leaves`]), so restarts do not end it.
//!
//! # When it abstains
//! * Its log is empty, and it is not a replica that never ran: the node says so ([`Ordering::abstain`]).
//! * f+1 peers have votes from it that its log does not know ([`Status::heard`]): one of them is correct. So after each start nothing
//!   that counts leaves before q replicas, itself among them, have told what they know, and what it staged meanwhile is no vote yet.
//! * A stable checkpoint carries its own signature, and its log does not have what it signed.
//!
//! * It resumed a snapshot whose certificate carries its own signature, and its log has neither what it signed nor the certificate.
//!
//! The last three find what others still know: peers forget what they heard when they restart, and they hear PREPAREs and
//! VIEW-CHANGEs alone. A disk that was set back unnoticed makes its replica one of the f faulty ones, as the model has it; an operator who
//! knows says so (`atlas recover`).
//!
//! # Until when
//! It waits for answers (statuses) of q other replicas. The replica itself is one of the f faulty ones until it is back, so that many
//! others are correct. An answer names the highest checkpoint that its sender has executed, and a view; it counts once both are proved:
//! that checkpoint is certified, and a NEW-VIEW, or a quorum's VIEW-CHANGEs, are here for that view or a higher one. With c and v the highest of them:
//!
//! * What it voted on lies at or below c + window: its own low watermark was a checkpoint that a quorum signed, and one of those
//!   who signed is correct and answered.
//! * It asked for no view above v + 1 and voted in none above v: whoever asks for v + 1 by itself was in v, or saw a quorum ask for v,
//!   and one of that quorum is correct and answered.
//!
//! Once a checkpoint at or above c + window is stable and executed here it asks for the view v + 1, or for the one after the
//! present. That VIEW-CHANGE has nothing to report, and no vote in v or below follows: PROTOCOL.md has the first bound; without the second,
//! an old VIEW-CHANGE for v + 1 could hide votes in v that came after it. When the view begins the replica is one like all others.
//!
//! # What the others do for it
//! The leader proposes null batches up to c + window where the cluster is idle, and is suspected if it does not; for one peer once in
//! [`FILL_AGAIN_US`], then half as often each time. A VIEW-CHANGE
//! for the next view that stays alone for [`LONE_US`] is followed, so that the peer takes part again; twice as late each time,
//! so that a Byzantine replica gains nothing by asking. A leader that abstains is replaced at once.

use super::mutants::{self, Mutant};
use super::record::Record;
use super::{Effect, Ordering, Outgoing};
use crate::types::{Now, ReplicaId, Sequence, View};
use crate::wire::message::{Heard, Status};

/// The leader fills up for one peer once in this time, us; doubled each time.
const FILL_AGAIN_US: u64 = 60_000_000;

/// A peer that asks for the next view alone is followed after so long, us; doubled each time.
const LONE_US: u64 = 2_000_000;

/// Doublings of [`LONE_US`] at most.
const MAX_DOUBLINGS: u32 = 12;

/// How far a replica that abstains has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rejoin {
    /// Replicas whose answer counts, a bit each.
    answers: u32,
    /// The highest checkpoint that they named.
    checkpoint: Sequence,
    /// The highest view that they were in or asked for.
    view: View,
    /// The sequence at or above which a checkpoint must be stable, once enough have answered.
    needs: Option<Sequence>,
    /// The view of the VIEW-CHANGE by which it comes back, once that is staged.
    asks_for: Option<View>,
}

/// What is known about peers that lost their records, and what they know about this replica.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Set while this replica abstains.
    pub(super) rejoin: Option<Rejoin>,
    /// Whether enough peers were heard since the start for anything that counts to leave.
    is_cleared: bool,
    /// Peers heard since the start, a bit each.
    told: u32,
    /// The last (view, sequence) of this replica that each peer has heard.
    claims: Vec<(View, Sequence)>,
    /// The last (view, sequence) that this replica staged a vote for.
    said: (View, Sequence),
    /// The same when the log was read: until enough have told, nothing more has left.
    said_at_start: (View, Sequence),
    /// The highest checkpoint that this replica signed.
    signed: Sequence,
    /// The last (view, sequence) that each peer voted on, as far as it was heard here.
    heard: Vec<(View, Sequence)>,
    /// The leader fills up to here with null batches.
    fill_until: Sequence,
    /// When each peer may be filled up for again, us, and how often that was done.
    fill_at_us: Vec<u64>,
    filled: Vec<u32>,
    /// The view that each peer asks for alone, and since when, us.
    lone: Vec<(View, u64)>,
    /// How often each peer was followed.
    followed: Vec<u32>,
}

impl Standing {
    pub(super) fn new(n: usize) -> Self {
        Self {
            rejoin: None,
            is_cleared: true,
            told: 0,
            claims: vec![(0, 0); n],
            said: (0, 0),
            said_at_start: (0, 0),
            signed: 0,
            heard: vec![(0, 0); n],
            fill_until: 0,
            fill_at_us: vec![0; n],
            filled: vec![0; n],
            lone: vec![(0, 0); n],
            followed: vec![0; n],
        }
    }

    /// This replica signs a checkpoint, or its log says that it did.
    pub(super) fn signs(&mut self, sequence: Sequence) {
        self.signed = self.signed.max(sequence);
    }

    /// This replica stages a vote, or read it from its log.
    pub(super) fn says(&mut self, view: View, sequence: Sequence) {
        self.said = self.said.max((view, sequence));
    }

    /// A peer voted.
    pub(super) fn hears(&mut self, from: ReplicaId, view: View, sequence: Sequence) {
        let heard = &mut self.heard[from.index()];
        *heard = (*heard).max((view, sequence));
    }
}

impl Ordering {
    /// This replica lost what it promised: it executes what others decide and says nothing that counts until that is safe.
    pub fn abstain(&mut self) {
        if self.standing.rejoin.is_some() {
            return;
        }
        self.stand_aside();
        self.effects.push_back(Effect::Log(Record::Abstains));
    }

    /// Whether this replica abstains, and the sequence at which a checkpoint must be stable for it to come back, once that is known.
    pub fn abstains(&self) -> Option<Option<Sequence>> {
        self.standing.rejoin.map(|rejoin| rejoin.needs)
    }

    pub(super) fn stand_aside(&mut self) {
        if mutants::on(Mutant::VotesUnknowing) {
            return;
        }
        self.standing.rejoin = Some(Rejoin::default());
        // Asked for, not begun: it is proved by others, or asked for again.
        self.view -= u64::from(!self.active && self.view > 0);
        self.active = false;
        self.new_view = None;
        self.new_view_at_us = None;
        self.end_view();
    }

    /// After a start: nothing that counts leaves before enough peers have told what they have of this replica.
    pub(super) fn wait_for_peers(&mut self) {
        self.standing.said_at_start = self.standing.said;
        self.standing.is_cleared = self.agreed.size.quorum() == 1 || mutants::on(Mutant::VotesUnknowing);
    }

    /// Enough peers have told what they have of this replica: nothing.
    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.standing.is_cleared = true;
    }

    /// Whether a message may leave: what counts is held back while it is not known what was said before. Whatever is held back is
    /// sent again in answer to a status.
    pub(super) fn may_say(&self, message: &Outgoing) -> bool {
        let counts = match message {
            Outgoing::PrePrepare(_)
            | Outgoing::Prepare(_)
            | Outgoing::Commit(_)
            | Outgoing::ViewChange(_)
            | Outgoing::NewView(_)
            | Outgoing::Checkpoint(_) => true,
            Outgoing::Decided(_)
            | Outgoing::Status(_)
            | Outgoing::FetchBatch(..)
            | Outgoing::Stable(_)
            | Outgoing::Relay(_) => false,
        };
        !counts || self.standing.is_cleared && self.standing.rejoin.is_none()
    }

    /// Whether this replica may cosign: it knows what it said before, or has come to where that cannot matter any more.
    pub fn may_cosign(&self) -> bool {
        (self.standing.is_cleared && self.standing.rejoin.is_none()) || mutants::on(Mutant::CosignsUnknowing)
    }

    /// What this replica heard of each, for a status.
    pub(super) fn heard_of_all(&self) -> Vec<Heard> {
        self.standing.heard.iter().map(|(view, sequence)| Heard { view: *view, sequence: *sequence }).collect()
    }

    /// What a status says about this replica's own past, and what its sender needs who lost its own.
    pub(super) fn take_standing(&mut self, from: ReplicaId, status: &Status, now: Now) {
        let bit = 1u32 << from.0;
        let size = self.agreed.size;
        let standing = &mut self.standing;
        standing.told |= bit;
        let of_me = status.heard.get(self.me.index()).map_or((0, 0), |heard| (heard.view, heard.sequence));
        standing.claims[from.index()] = of_me;
        let own = if standing.is_cleared { standing.said } else { standing.said_at_start };
        let unknown = standing.claims.iter().filter(|claim| **claim > own).count();
        if standing.rejoin.is_none() && unknown >= size.one_correct() {
            return self.abstain();
        }
        if !standing.is_cleared && standing.told.count_ones() as usize + 1 >= size.quorum() {
            standing.is_cleared = true;
            // What was held back is asked for again.
            self.status_to = u32::MAX;
            self.stage_statements();
        }
        if status.abstains {
            self.fill_for(from, status.needs, now);
            if self.active && from == self.leader() {
                self.leave(self.view + 1);
            }
        } else {
            self.count_answer(from, status);
        }
    }

    fn count_answer(&mut self, from: ReplicaId, status: &Status) {
        let (interval, window, quorum) = (self.agreed.interval, self.agreed.window, self.agreed.size.quorum());
        // One replica alone can sign a VIEW-CHANGE for any view; what a quorum asks for, or a NEW-VIEW begins, is proved.
        let mut asked: Vec<View> = self.changes.iter().flatten().map(|change| change.view).collect();
        asked.sort_unstable_by(|a, b| b.cmp(a));
        let known = asked.get(quorum - 1).copied().unwrap_or(0).max(self.view);
        let (stable, Some(rejoin)) = (self.stable.sequence(), &mut self.standing.rejoin) else { return };
        // A sender that started on an older snapshot may have executed less than it signed.
        let checkpoint = status.executed.max(status.low) / interval * interval;
        if rejoin.needs.is_some() || checkpoint > stable || status.view > known {
            return;
        }
        rejoin.answers |= 1 << from.0;
        rejoin.checkpoint = rejoin.checkpoint.max(checkpoint);
        rejoin.view = rejoin.view.max(status.view);
        if rejoin.answers.count_ones() as usize >= quorum {
            rejoin.needs = Some(rejoin.checkpoint + window);
        }
    }

    /// The snapshot that a start resumed has the own signature, and the log knows neither that nor the certificate: it was set back.
    pub(super) fn notice_older_log(&mut self, certificate: &super::checkpoint::Certificate) {
        let is_signed_here = certificate.signatures.iter().any(|(replica, _)| *replica == self.me);
        if self.has_forgotten(certificate.sequence(), is_signed_here) {
            self.abstain();
        }
    }

    /// A certificate with this replica's own signature: its log must have the statement that it signed.
    pub(super) fn has_forgotten(&self, sequence: Sequence, is_signed_here: bool) -> bool {
        is_signed_here && sequence > self.standing.signed && self.standing.rejoin.is_none()
    }

    /// A CHECKPOINT of this replica is durable; whether it may be signed now.
    pub(super) fn may_sign(&mut self, sequence: Sequence) -> bool {
        let may = self.standing.is_cleared && self.standing.rejoin.is_none();
        if may {
            self.standing.signs(sequence);
        }
        may
    }

    /// Stages the own statements that were not signed while this replica had to be silent.
    fn stage_statements(&mut self) {
        let stable = self.stable.sequence();
        for (statement, signature) in self.own_statements.range(stable + 1..).map(|(_, own)| *own) {
            if signature.is_none() {
                self.effects.push_back(Effect::Log(Record::Checkpoint(statement)));
            }
        }
    }

    /// Comes back once that is safe: asks for a view in which it said nothing before.
    pub(super) fn look_at_rejoin(&mut self) {
        let (stable, executed) = (self.stable.sequence(), self.executed);
        let Some(rejoin) = &mut self.standing.rejoin else { return };
        if rejoin.asks_for.is_some() || rejoin.needs.is_none_or(|needs| stable < needs) || executed < stable {
            return;
        }
        let view = rejoin.view.max(self.view) + 1;
        rejoin.asks_for = Some(view);
        self.leave(view);
    }

    /// A VIEW-CHANGE is durable: if it is the one to come back by, this replica abstains no more.
    pub(super) fn comes_back(&mut self, view: View) {
        if self.standing.rejoin.take_if(|rejoin| rejoin.asks_for == Some(view)).is_none() {
            return;
        }
        self.stage_statements();
    }

    /// The null batches that a peer needs, if the cluster orders nothing else.
    fn fill_for(&mut self, from: ReplicaId, needs: Sequence, now: Now) {
        let stable = self.stable.sequence();
        let reachable = needs > stable && needs <= stable.saturating_add(self.agreed.window);
        let standing = &mut self.standing;
        let (at, filled) = (&mut standing.fill_at_us[from.index()], &mut standing.filled[from.index()]);
        if reachable && needs > standing.fill_until && now.mono_us >= *at {
            standing.fill_until = needs;
            *at = now.mono_us + (FILL_AGAIN_US << (*filled).min(MAX_DOUBLINGS));
            *filled += 1;
        }
    }

    /// Whether the leader is to propose a null batch next, where nothing waits.
    pub(super) fn fills(&self) -> bool {
        self.accepted < self.standing.fill_until.max(self.fill_to)
    }

    /// Whether null batches that a peer needs are not executed yet: the leader is expected to propose them.
    pub(super) fn waits_for_fill(&self) -> bool {
        self.executed < self.standing.fill_until
    }

    /// A peer asks for a view.
    pub(super) fn note_asks(&mut self, from: ReplicaId, view: View, now: Now) {
        self.standing.hears(from, view, 0);
        self.standing.lone[from.index()] = (view, now.mono_us);
    }

    /// When a peer that asks for the next view alone is followed, us.
    pub(super) fn follow_at_us(&self) -> Option<(u64, usize)> {
        let due = self.standing.lone.iter().zip(&self.standing.followed).enumerate();
        due.filter(|(_, ((view, _), _))| self.active && *view > self.view)
            .map(|(peer, ((_, since), followed))| (since + (LONE_US << followed.min(&MAX_DOUBLINGS)), peer))
            .min()
    }

    /// Follows a peer that asks for the next view alone for long: it has a reason that others do not see.
    pub(super) fn follow(&mut self, now: Now) {
        let Some((_, peer)) = self.follow_at_us().filter(|(at, _)| *at <= now.mono_us) else { return };
        self.standing.followed[peer] += 1;
        self.standing.lone[peer].1 = now.mono_us;
        self.leave(self.view + 1);
    }
}
