//! What a replica knows of one sequence.

use std::sync::Arc;

use super::batch::Batch;
use super::record::{DurableVote, Phase, Record};
use super::{Proposal, Wanted};
use crate::log::Durable;
use crate::types::{Digest, ReplicaId, TimeMs, View};

/// A proposal of the present view, whose bundles may not be here yet.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Pending {
    pub(super) digest: Digest,
    pub(super) time_ms: TimeMs,
    pub(super) bundles: Vec<Digest>,
    /// So many of the first bundles were found in the pool: assembling goes on there.
    pub(super) found: usize,
}

/// How far a record of the own log is.
#[derive(Clone, Debug, Default)]
pub(super) enum Own<T> {
    #[default]
    None,
    Staged,
    Durable(T),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) proposal: Option<Pending>,
    /// What the present view chose here, until this replica has voted on it.
    pub(super) chosen: Option<Digest>,
    /// The body of the accepted proposal or of the decided digest; released on execution.
    pub(super) batch: Option<Arc<Batch>>,
    /// The batch whose body stands in the log, or is staged for it.
    pub(super) logged: Option<Digest>,
    /// Own Q of the present view.
    pub(super) q: Own<DurableVote>,
    /// What this replica proposed here as leader of the present view, to send again: a peer may lack it long after this
    /// replica has executed.
    pub(super) own_proposal: Option<Arc<Proposal>>,
    /// Own P of the present view.
    pub(super) p: Own<DurableVote>,
    /// PREPAREs of the present view by replica.
    pub(super) prepares: Vec<Option<Digest>>,
    /// The latest COMMIT by replica.
    pub(super) commits: Vec<Option<(View, Digest)>>,
    /// DECIDED by replica.
    pub(super) told: Vec<Option<Digest>>,
    pub(super) decided: Option<Digest>,
    pub(super) executed: bool,
    /// A proposed digest whose body no correct replica votes for.
    pub(super) rejected: Option<Digest>,
    /// Bytes of the accepted body that count against the budget of open bodies.
    pub(super) counted: usize,
    /// A missing body is asked for at this time, us; how often it was asked for.
    pub(super) fetch_at_us: Option<u64>,
    pub(super) fetches: u32,
}

impl Slot {
    pub(super) fn new(n: usize) -> Self {
        Self {
            proposal: None,
            chosen: None,
            batch: None,
            logged: None,
            q: Own::None,
            own_proposal: None,
            p: Own::None,
            prepares: vec![None; n],
            commits: vec![None; n],
            told: vec![None; n],
            decided: None,
            executed: false,
            rejected: None,
            counted: 0,
            fetch_at_us: None,
            fetches: 0,
        }
    }

    /// Own Q became durable, or was read from the log.
    pub(super) fn own_q(&mut self, record: &Durable<Record>) {
        if let Some(vote) = DurableVote::of(record).filter(|vote| vote.phase() == Phase::Prepare) {
            self.q = Own::Durable(vote);
            self.logged = Some(vote.digest());
        }
    }

    /// Own P became durable, or was read from the log.
    pub(super) fn own_p(&mut self, record: &Durable<Record>) {
        if let Some(vote) = DurableVote::of(record).filter(|vote| vote.phase() == Phase::Commit) {
            self.p = Own::Durable(vote);
        }
    }

    /// What belongs to a view is over.
    pub(super) fn leave_view(&mut self) {
        self.proposal = None;
        self.chosen = None;
        self.q = Own::None;
        self.own_proposal = None;
        self.p = Own::None;
        self.prepares.fill(None);
        self.rejected = None;
        self.counted = 0;
        self.fetches = 0;
        // What is decided is still wanted.
        self.fetch_at_us = self.lacks().map(|_| 0);
    }

    pub(super) fn has_own_q(&self) -> bool {
        !matches!(self.q, Own::None)
    }

    pub(super) fn own_q_digest(&self) -> Option<Digest> {
        match &self.q {
            Own::Durable(vote) => Some(vote.digest()),
            Own::None | Own::Staged => None,
        }
    }

    /// The durable PREPARE, to send again.
    pub(super) fn prepare_vote(&self) -> Option<DurableVote> {
        match &self.q {
            Own::Durable(vote) => Some(*vote),
            Own::None | Own::Staged => None,
        }
    }

    /// The durable COMMIT, to send again.
    pub(super) fn commit_vote(&self) -> Option<DurableVote> {
        match &self.p {
            Own::Durable(vote) => Some(*vote),
            Own::None | Own::Staged => None,
        }
    }

    /// Counts the own COMMIT among the others, after a restart.
    pub(super) fn count_own_commit(&mut self, me: ReplicaId) {
        if let Own::Durable(vote) = &self.p {
            self.commits[me.index()] = Some((vote.view(), vote.digest()));
        }
    }

    /// Whether there is more to the slot than votes of others, which anybody may send for any sequence.
    pub(super) fn is_open(&self) -> bool {
        self.proposal.is_some() || self.chosen.is_some() || self.has_own_q() || self.decided.is_some()
    }

    /// Whether others voted on it in the present view, or say that it is decided.
    pub(super) fn is_voted_on(&self) -> bool {
        self.prepares.iter().chain(&self.told).any(Option::is_some)
    }

    /// Replicas whose PREPARE for `digest` is here.
    pub(super) fn prepared_by(&self, digest: &Digest) -> usize {
        self.prepares.iter().filter(|vote| vote.as_ref() == Some(digest)).count()
    }

    /// Replicas whose PREPARE is here, a bit each.
    pub(super) fn prepare_bits(&self) -> u32 {
        bits(self.prepares.iter().map(Option::is_some))
    }

    /// Replicas whose COMMIT of `view` is here, a bit each.
    pub(super) fn commit_bits(&self, view: View) -> u32 {
        bits(self.commits.iter().map(|vote| vote.is_some_and(|(of, _)| of == view)))
    }

    /// How many replicas voted on it or say that it is decided.
    pub(super) fn voters(&self) -> usize {
        let told = bits(self.told.iter().map(Option::is_some));
        let committed = bits(self.commits.iter().map(Option::is_some));
        (self.prepare_bits() | committed | told).count_ones() as usize
    }

    /// A digest that `quorum` replicas COMMITted in one view.
    pub(super) fn committed(&self, quorum: usize) -> Option<Digest> {
        most(&self.commits, quorum).map(|(_, digest)| digest)
    }

    /// A digest that `one_correct` replicas say is decided.
    pub(super) fn told_decided(&self, one_correct: usize) -> Option<Digest> {
        most(&self.told, one_correct)
    }

    /// The digest whose body is lacking: the decided one, else the chosen one, else the proposed one.
    pub(super) fn lacks(&self) -> Option<Digest> {
        if self.executed {
            return None;
        }
        let wanted = self.decided.or(self.chosen).or_else(|| {
            let undecided = self.proposal.as_ref().filter(|_| !self.has_own_q());
            undecided.map(|proposal| proposal.digest)
        })?;
        let here = self.batch.as_ref().is_some_and(|batch| batch.digest() == wanted);
        (!here).then_some(wanted)
    }

    pub(super) fn wants(&self, digest: Digest) -> Option<Wanted> {
        if self.lacks() != Some(digest) {
            return None;
        }
        let vouched = self.decided == Some(digest) || self.chosen == Some(digest);
        Some(if vouched { Wanted::Decided } else { Wanted::Proposed })
    }
}

/// The value that at least `enough` of the votes name.
fn most<T: PartialEq + Copy>(votes: &[Option<T>], enough: usize) -> Option<T> {
    // At most 32 votes: counting pairs is cheaper than any table.
    votes.iter().flatten().find(|vote| votes.iter().flatten().filter(|other| other == vote).count() >= enough).copied()
}

fn bits(flags: impl Iterator<Item = bool>) -> u32 {
    flags.enumerate().fold(0, |bits, (index, set)| if set { bits | (1 << index) } else { bits })
}
