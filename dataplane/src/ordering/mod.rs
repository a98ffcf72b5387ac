//! The ordering core: PBFT with a fast commit, as a pure state machine.
//!
//! [`Ordering`] takes an event and the time and leaves [`Effect`]s in a queue. It owns no socket, clock, thread, file or random
//! source; the simulator and the replica drive the same code.
//!
//! # Where what is
//! The normal case is in `normal`; what makes good for lost messages in `catch_up`; leaving a view and beginning the next in `change`
//! with its messages in [`view_change`] and its rule in [`choice`]; when to leave in `suspect`, with what is expected of a leader in
//! `expect`, of its fairness in `fair`, and whether this replica can judge at all in `awake`; the low watermark in [`checkpoint`];
//! coming back after the disk was lost in `rejoin`; what is logged, and the votes that this permits, in [`record`]; what stays of
//! records that the log lets go in `carry`.
//!
//! # Messages and states
//! Per sequence above the low watermark there is a [`slot`](self) that goes through, in each view,
//!
//! ```text
//! empty -> proposed or chosen -> Q staged -> Q durable: PREPARE -> prepared (P staged) -> P durable: COMMIT -> decided -> executed
//! ```
//!
//! * The leader takes the next sequence, sends PRE-PREPARE and stages Q with the batch beside it. Before its first proposal in a view
//!   it has made durable that it leads; one that finds this after a restart asks for the next view.
//! * A backup accepts s only after s-1 in the same view, one digest per (view, sequence), when it holds every bundle. Bundles
//!   come from the clients; one that is missing after [`Timing::fetch_us`] is asked for, from the leader, then from all.
//! * PREPAREs of all n decide (fast). Own Q durable and PREPAREs of q: P is staged. COMMITs of q for one (view, sequence,
//!   digest) decide. DECIDED of f+1 decides. No timer chooses among them.
//! * Decided batches execute in sequence; a decided body that is missing is fetched from those who vouched.
//!
//! # What is durable when
//! Votes leave as [`DurableVote`]s, which can be made only from a record that the log has synced; VIEW-CHANGE and CHECKPOINT are
//! signed from durable records likewise. Votes of a view that was left meanwhile do not leave at all. Decisions are written
//! without being waited for.
//!
//! # Nobody is left behind
//! Replicas exchange [`Status`] now and then and after each reconnect. Whoever sees that a peer
//! lacks something sends it again: the stable checkpoint and the own CHECKPOINT, NEW-VIEW or the own VIEW-CHANGE, and in the same view
//! the proposal (the leader), its own PREPARE, its COMMIT (staging P first where a fast commit had made it needless); and DECIDED
//! for what it has executed, a bounded page at a time. So a lost message delays and never wedges. Who is behind the others' logs
//! takes history and state from them ([`crate::transfer`]), and goes on from there (`Ordering::install`).
//!
//! # Memory
//! Slots exist for `2 * window` sequences on either side of what is executed, and where this replica voted above the low watermark;
//! bodies are released when executed and served from the log after that. The pool of bundles is bounded in bytes, and shared
//! fairly among the identities that use it: at its limit a client is refused, its neighbours are not.
//!
//! # Where this differs from the letter of the rules
//! * The timer for a NEW-VIEW starts when a quorum asks for that view *or a higher one*: see `change`.
//! * The leader applies its own timer, with twice the patience: a view in which all others have executed everything, and so suspect
//!   nobody, would otherwise last though its leader can finish nothing.
//! * The window equals the checkpoint interval: a smaller one would end before the next checkpoint.
//! * Bodies of choices are asked of the new leader first, then of all.
//! * A replica that lost its records comes back in a view above all that a quorum of others proves, beside the bound on sequences; and
//!   a VIEW-CHANGE that stays alone is followed after a while: see `rejoin`.
//! * Under load a leader's timer is longer, at most fourfold: see `suspect`. A replica that itself stood still waits anew: see `awake`.
//! * Of a leader's delay only that counts in which nothing was open and it had what it needs, and its rate only where old work lies
//!   there, so that neither load nor clients nor other replicas can make it look slow: see `expect`.
//! * A NEW-VIEW must fit a record of the log ([`view_change::MAX_NEW_VIEW`]). Correct replicas' reports fit by far, unless several
//!   Byzantine leaders in a row made each of them accept a different digest at every sequence of the window: with 4 replicas that
//!   cannot reach the limit, with 19 or more five such views could.
//!
//! Not here yet: membership changes.
//!
//! Source: Castro & Liskov, "Practical Byzantine Fault Tolerance and Proactive Recovery", TOCS 2002; the fast path as in
//! Kotla et al., Zyzzyva (SOSP 2007), with the repairs that PROTOCOL.md states.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::cluster::Size;
use crate::evidence::Sealed;
use crate::histogram::Histogram;
use crate::log::Durable;
use crate::types::{Code, Digest, Now, PublicKey, ReplicaId, Sequence, Signature, TimeMs, View};
use crate::wire::bundle::Bundle;
use crate::wire::error::Misbehaviour;
use crate::wire::message::{ArchivedDecided, ArchivedPrePrepare, ArchivedStatus, ArchivedVotes, Status};

mod awake;
pub mod batch;
mod bytes;
mod carry;
#[cfg(test)]
mod carry_tests;
mod catch_up;
#[cfg(test)]
mod catch_up_tests;
mod change;
#[cfg(test)]
mod change_tests;
pub mod checkpoint;
pub mod choice;
mod contradiction;
#[cfg(test)]
mod contradiction_tests;
mod expect;
mod factors;
mod fair;
#[cfg(test)]
mod late_body_tests;
pub(crate) mod mutants;
mod normal;
mod pool;
pub mod record;
mod recovery;
mod rejoin;
#[cfg(test)]
mod rejoin_tests;
pub mod seal;
mod slot;
mod suspect;
#[cfg(test)]
mod tests;
pub mod view_change;

use batch::Batch;
use change::Leading;
use checkpoint::{Certificate, SignedStatement, Statement};
use choice::Held;
pub use factors::Factors;
use mutants::Mutant;
pub use pool::BUNDLE_OVERHEAD;
use pool::{Pool, SHARES};
use record::{DurableVote, Record};
use rejoin::Standing;
use seal::Seals;
use slot::Slot;
pub use suspect::Suspicion;
use suspect::Watch;
use view_change::{SignedNewView, SignedViewChange};

/// What all replicas of the epoch agree on.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// The membership's size.
    pub size: Size,
    /// Open sequences allowed above the low watermark: as many as lie between two checkpoints, since fewer would never reach
    /// the next.
    pub window: u64,
    /// K: a checkpoint is taken every so many sequences.
    pub interval: u64,
    /// How far a proposal's time may be off the own clock, ms.
    pub drift_ms: i64,
}

/// Local settings: they change timing and resources only.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Batches that a leader keeps open at once; what arrives meanwhile gathers in the next.
    pub open_batches: u64,
    /// Most bytes of bundles in a batch that this replica proposes.
    pub batch_bytes: usize,
    /// Bytes of bundles that wait here to be ordered.
    pub pool_bytes: usize,
    /// How long a backup waits for a bundle from its client before it asks for it, us.
    pub fetch_us: u64,
    /// Between statuses while something is open or a peer is known to be ahead, us.
    pub busy_status_us: u64,
    /// Between statuses otherwise, us.
    pub idle_status_us: u64,
    /// A bundle that was not ordered for so long is dropped, us; its client sends it again.
    pub bundle_age_us: u64,
    /// How long nothing may be executed while something waits before the leader is suspected, us; doubled while views fail.
    pub suspect_us: u64,
    /// The same where the link to the leader is down, us.
    pub hint_us: u64,
    /// How long nothing may be executed before the leader is sent what clients sent here, us.
    pub relay_us: u64,
    /// What makes a leader slow or unfair.
    pub factors: Factors,
    /// An identity may use at most one part in so many of the pool, however few use it.
    pub pool_shares: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open_batches: 4,
            batch_bytes: 256 << 10,
            pool_bytes: 32 << 20,
            fetch_us: 5_000,
            busy_status_us: 50_000,
            idle_status_us: 1_000_000,
            bundle_age_us: 30_000_000,
            suspect_us: 150_000,
            hint_us: 30_000,
            relay_us: 40_000,
            factors: Factors::default(),
            pool_shares: SHARES,
        }
    }
}

/// Bytes of accepted bodies that are not executed; beyond them a replica accepts nothing more until it executes. It bounds what
/// a Byzantine leader can make a replica hold.
pub const MAX_OPEN_BYTES: usize = 64 << 20;

/// Decisions in one DECIDED message that catches a peer up.
pub const CATCH_UP_PAGE: u64 = 64;

/// Whom to send to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// Every other replica.
    All,
    /// One replica.
    One(ReplicaId),
}

/// A message to send.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// The leader's proposal.
    PrePrepare(Arc<Proposal>),
    /// PREPAREs of one view.
    Prepare(Vec<DurableVote>),
    /// COMMITs of one view.
    Commit(Vec<DurableVote>),
    /// What this replica knows decided.
    Decided(Vec<(Sequence, Digest)>),
    /// What this replica has.
    Status(Status),
    /// Asks for a batch's body.
    FetchBatch(Sequence, Digest),
    /// What this replica, which leaves its view, reports.
    ViewChange(SignedViewChange),
    /// How the present view began.
    NewView(Arc<SignedNewView>),
    /// This replica's state at a checkpoint.
    Checkpoint(SignedStatement),
    /// The stable checkpoint.
    Stable(Arc<Certificate>),
    /// A client's bundle, for the leader.
    Relay(Arc<Bundle>),
}

/// What a leader proposes at a sequence. It is no vote: it leaves before anything is durable, and a leader that restarts and finds
/// that it may have proposed in its view asks for the next.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// The view.
    pub view: View,
    /// The sequence.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
    /// The leader's time.
    pub time_ms: TimeMs,
    /// The digests of the batch's bundles.
    pub bundles: Vec<Digest>,
}

/// What the core wants done, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Stage the record; hand it back by [`Ordering::synced`] once it is durable.
    Log(Record),
    /// Send a message.
    Send(To, Outgoing),
    /// Execute the batch: the next in sequence, committed.
    Execute(Sequence, Arc<Batch>),
    /// Send the body of a batch from memory.
    SupplyBatch(ReplicaId, Sequence, Arc<Batch>),
    /// Send the body of an executed batch, read from the log.
    SupplyLoggedBatch(ReplicaId, Sequence, Digest),
    /// Send a page of old decisions, read from the log, from this sequence on.
    SupplyDecided(ReplicaId, Sequence),
    /// A peer did what a correct replica does not do.
    Report(ReplicaId, Misbehaviour),
    /// The same, with what it signed to convict it.
    Prove(ReplicaId, Misbehaviour, Vec<Sealed>),
    /// This replica's state at the checkpoint is not the certified one: it must stop.
    Diverged(Sequence),
}

/// Why a body is wanted, which decides how it is verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The digest is decided: f+1 replicas vouched, the digest alone is checked.
    Decided,
    /// The digest is only proposed: every bundle is to be verified as one from a client.
    Proposed,
}

/// The ordering core of one replica.
#[derive(Debug)]
pub struct Ordering {
    me: ReplicaId,
    agreed: Agreed,
    timing: Timing,
    seals: Arc<Seals>,
    view: View,
    /// Whether this replica takes part in the view; otherwise it has left the ones below and waits for the NEW-VIEW.
    active: bool,
    leading: Leading,
    /// This replica led its view, may have proposed in it and restarted: it asks for the next.
    restarted_leader: bool,
    /// As leader it fills up with null batches to here: somebody wants a checkpoint.
    fill_to: Sequence,
    /// The own P and Q above the low watermark.
    held: Held,
    /// The highest stable checkpoint in the log, as it was read.
    logged_stable: Sequence,
    /// The stable checkpoint, which is the low watermark.
    stable: Arc<Certificate>,
    /// What replicas signed at checkpoints above.
    statements: BTreeMap<Sequence, Vec<Option<SignedStatement>>>,
    /// The own states at checkpoints, the stable one and above, with the signature once they are durable.
    own_statements: BTreeMap<Sequence, (Statement, Option<Signature>)>,
    /// The latest VIEW-CHANGE of each replica.
    changes: Vec<Option<SignedViewChange>>,
    /// VIEW-CHANGEs and NEW-VIEWs of each peer that were verified in this round.
    verified: Vec<usize>,
    /// Whether the NEW-VIEW may be told to others: the own one once it is durable.
    passes_on: bool,
    /// How the present view began.
    new_view: Option<Arc<SignedNewView>>,
    /// The present view's choices that this replica has not voted on.
    unvoted: BTreeMap<Sequence, Digest>,
    /// When each peer may be sent a VIEW-CHANGE or NEW-VIEW again, us.
    change_at_us: Vec<u64>,
    /// Views in which nothing was executed, since the last stable checkpoint.
    failures: u32,
    /// Whether anything was executed in this view.
    progressed: bool,
    /// When each peer may have a VIEW-CHANGE for a view far ahead verified, us.
    far_at_us: Vec<u64>,
    /// History and state are being taken from others: what waits has that to wait for, not the leader.
    takes_state: bool,
    /// Since when something waits and nothing was executed, us.
    work_since_us: Option<u64>,
    relay_at_us: u64,
    /// Since when this replica takes part in its view, us.
    view_since_us: u64,
    /// When the next leader's time is up, us.
    new_view_at_us: Option<u64>,
    /// Replicas whose links are down, a bit each.
    links_down: u32,
    /// Highest executed sequence.
    executed: Sequence,
    /// Every sequence up to here is accepted in this view, or executed.
    accepted: Sequence,
    /// The leader's latest proposed time.
    proposed_ms: i64,
    slots: BTreeMap<Sequence, Slot>,
    pool: Pool,
    /// What each replica last said that it executed; nothing before its first status.
    peers: Vec<Option<Sequence>>,
    effects: VecDeque<Effect>,
    /// Own votes that became durable since the last flush.
    votes: Vec<DurableVote>,
    /// Sequences with enough PREPAREs for P, since the last flush.
    to_prepare: Vec<Sequence>,
    status_at_us: u64,
    /// The latest status of each peer in this round.
    heard: Vec<Option<Status>>,
    /// Bodies asked for by each peer in this round.
    supplied: Vec<usize>,
    /// When each peer may have its next page from the log, us.
    page_at_us: Vec<u64>,
    /// What each peer lacks is looked for and sent again no earlier than this, us.
    again_at_us: Vec<u64>,
    /// Peers were asked for decisions above this.
    asked: Sequence,
    /// Bytes of accepted bodies that are not executed.
    open_bytes: usize,
    /// A status is due at the next flush, to these replicas (a bit each).
    status_to: u32,
    decided_fast: u64,
    decided_slow: u64,
    decided_told: u64,
    /// What this replica sees of its leader.
    watch: Watch,
    /// Whether this replica may vote, and what it knows of others who may not.
    standing: Standing,
}

/// How many sequences were decided in which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decisions {
    /// By PREPAREs of all.
    pub fast: u64,
    /// By COMMITs of a quorum.
    pub slow: u64,
    /// By DECIDED of f+1.
    pub told: u64,
}

impl Ordering {
    /// A core with nothing ordered yet.
    pub fn new(me: ReplicaId, agreed: Agreed, timing: Timing, seals: Arc<Seals>) -> Self {
        Self {
            me,
            agreed,
            timing,
            seals,
            view: 0,
            active: true,
            leading: Leading::NotYet,
            restarted_leader: false,
            fill_to: 0,
            held: Held::default(),
            logged_stable: 0,
            stable: Arc::new(Certificate::genesis()),
            statements: BTreeMap::new(),
            own_statements: BTreeMap::new(),
            changes: vec![None; agreed.size.n()],
            verified: vec![0; agreed.size.n()],
            passes_on: true,
            new_view: None,
            unvoted: BTreeMap::new(),
            change_at_us: vec![0; agreed.size.n()],
            failures: 0,
            progressed: false,
            far_at_us: vec![0; agreed.size.n()],
            takes_state: false,
            work_since_us: None,
            relay_at_us: 0,
            view_since_us: 0,
            new_view_at_us: None,
            links_down: 0,
            executed: 0,
            accepted: 0,
            proposed_ms: i64::MIN,
            slots: BTreeMap::new(),
            pool: Pool::new(timing.pool_bytes, timing.pool_shares),
            peers: vec![None; agreed.size.n()],
            effects: VecDeque::new(),
            votes: Vec::new(),
            to_prepare: Vec::new(),
            heard: vec![None; agreed.size.n()],
            supplied: vec![0; agreed.size.n()],
            page_at_us: vec![0; agreed.size.n()],
            again_at_us: vec![0; agreed.size.n()],
            asked: Sequence::MAX,
            open_bytes: 0,
            status_at_us: 0,
            status_to: 0,
            decided_fast: 0,
            decided_slow: 0,
            decided_told: 0,
            watch: Watch::new(&timing),
            standing: Standing::new(agreed.size.n()),
        }
    }

    /// The stable checkpoint's sequence: the low watermark.
    pub fn low(&self) -> Sequence {
        self.stable.sequence()
    }

    /// Whether this replica takes part in its view, and is not between two.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The present view.
    pub fn view(&self) -> View {
        self.view
    }

    /// The leader of the present view.
    pub fn leader(&self) -> ReplicaId {
        self.agreed.size.leader(self.view)
    }

    /// Highest executed sequence.
    pub fn executed(&self) -> Sequence {
        self.executed
    }

    /// Tells whether history and state are being taken from others. Until that ends no leader is suspected.
    pub fn takes_state(&mut self, takes: bool) {
        if self.takes_state != takes {
            self.takes_state = takes;
            self.work_since_us = None;
        }
    }

    /// Other local timing and resources, from now on. What waits stays, whatever the pool's new limit.
    pub fn retime(&mut self, timing: Timing) {
        self.timing = timing;
        self.pool.set_limit(timing.pool_bytes, timing.pool_shares);
        self.watch.retime(&timing);
    }

    /// The local timing and resources in force.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// This replica leads, and asks for the next view in order to be replaced; `None` where it does not lead, or abstains. Without a
    /// quorum of others who follow nothing is ordered until they do.
    pub fn step_down(&mut self) -> Option<View> {
        if !self.active || self.leader() != self.me || self.standing.rejoin.is_some() {
            return None;
        }
        self.leave(self.view + 1);
        Some(self.view)
    }

    /// Somebody wants a checkpoint now: as leader this replica fills up with null batches to the next one, which changes nothing but
    /// sequence numbers. Gives its sequence, which may be behind it already where nothing was ordered since; `None` where it does not lead.
    pub fn checkpoint_now(&mut self) -> Option<Sequence> {
        if !self.active || self.leader() != self.me || self.standing.rejoin.is_some() {
            return None;
        }
        self.fill_to = self.accepted.next_multiple_of(self.agreed.interval);
        Some(self.fill_to)
    }

    /// How long bundles waited here, from being verified to their execution.
    pub fn waits(&self) -> &Histogram {
        &self.watch.waits
    }

    /// Bytes of the bundles that wait to be ordered.
    pub fn pooled_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Whether anything waits to be ordered or executed.
    pub fn is_ordering(&self) -> bool {
        self.has_work()
    }

    /// Sequences that something is kept of: at most four windows.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Bundles that wait to be ordered.
    pub fn pooled(&self) -> usize {
        self.pool.len()
    }

    /// A body that was asked for holds what no correct replica votes for.
    pub fn on_bad_batch(&mut self, sequence: Sequence, digest: Digest) {
        self.reject_body(sequence, digest);
    }

    /// Whether a bundle of this size from this identity would be kept, so that no signature is checked in vain.
    pub fn has_room(&self, key: &PublicKey, size: usize, to_come: usize) -> bool {
        self.pool.has_room(key, size, to_come)
    }

    /// Whether the bundle waits here to be ordered.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.pool.get(digest).is_some()
    }

    /// How sequences were decided since the start.
    pub fn decisions(&self) -> Decisions {
        Decisions { fast: self.decided_fast, slow: self.decided_slow, told: self.decided_told }
    }

    /// A bundle that was verified (format, signature, the application's check), from its client.
    ///
    /// # Errors
    /// [`Code::OVERLOADED`] when the client's share of the pool is used up. One that was executed in this very round is taken and not kept.
    pub fn submit(&mut self, bundle: Arc<Bundle>, now: Now) -> Result<(), Code> {
        if self.watch.served_now.contains(&bundle.digest()) {
            return Ok(());
        }
        self.pool.insert(bundle, now.mono_us)?;
        self.accept_proposals(now);
        Ok(())
    }

    /// A record became durable.
    pub fn synced(&mut self, record: &Durable<Record>, now: Now) {
        if record.is_urgent() {
            self.watch.awake.synced();
        }
        self.on_synced(record, now);
    }

    /// PRE-PREPARE from a peer.
    pub fn on_pre_prepare(&mut self, from: ReplicaId, message: &ArchivedPrePrepare, now: Now) {
        self.take_proposal(from, message, now);
    }

    /// PREPAREs from a peer.
    pub fn on_prepares(&mut self, from: ReplicaId, message: &ArchivedVotes) {
        self.take_prepares(from, message);
    }

    /// COMMITs from a peer.
    pub fn on_commits(&mut self, from: ReplicaId, message: &ArchivedVotes) {
        self.take_commits(from, message);
    }

    /// DECIDED from a peer.
    pub fn on_decided(&mut self, from: ReplicaId, message: &ArchivedDecided) {
        self.take_decided(from, message);
    }

    /// A status from a peer; answered by [`Ordering::flush`].
    pub fn on_status(&mut self, from: ReplicaId, message: &ArchivedStatus) {
        self.keep_status(from, message);
    }

    /// A peer asks for a body.
    pub fn on_fetch(&mut self, from: ReplicaId, sequence: Sequence, digest: Digest) {
        self.supply(from, sequence, digest);
    }

    /// Whether the body of (sequence, digest) is wanted; anything else that a peer sends is dropped unread.
    pub fn wants(&self, sequence: Sequence, digest: Digest) -> Option<Wanted> {
        self.slots.get(&sequence).and_then(|slot| slot.wants(digest))
    }

    /// A body that was asked for, its digest recomputed and its bundles verified as [`Wanted`] says.
    pub fn on_batch(&mut self, sequence: Sequence, batch: Arc<Batch>, now: Now) {
        self.take_batch(sequence, batch, now);
    }

    /// The link to a peer came up or went down.
    pub fn on_link(&mut self, peer: ReplicaId, up: bool) {
        self.note_link(peer, up);
        if up {
            self.status_to |= 1 << peer.0;
        }
    }

    /// Time passed, or a round of events is over: proposes what has gathered, sends the votes that became durable, asks for
    /// what is missing.
    pub fn flush(&mut self, now: Now) {
        self.supplied.fill(0);
        self.verified.fill(0);
        self.answer_statuses(now);
        self.look_at_rejoin();
        self.look_at_leader(now);
        self.accept_choices(now);
        self.accept_proposals(now);
        self.propose(now);
        self.prepare_due();
        self.send_votes();
        self.fetch_missing(now);
        self.send_status(now);
        self.pool.expire(now.mono_us, self.timing.bundle_age_us);
        self.plans(now);
    }

    /// When [`Ordering::flush`] is to be called next even if nothing happens, us.
    pub fn next_deadline_us(&self) -> u64 {
        let fetch = self.fetch_deadline_us().unwrap_or(u64::MAX);
        fetch.min(self.status_at_us).min(self.leader_deadline_us())
    }

    /// The next effect.
    pub fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if matches!(&effect, Some(Effect::Log(record)) if record.is_urgent()) {
            self.watch.awake.staged();
        }
        effect
    }

    /// Whether a sequence is inside what slots are kept for.
    fn in_range(&self, sequence: Sequence) -> bool {
        mutants::on(Mutant::NoWindow)
            || sequence > self.executed && sequence <= self.executed.saturating_add(2 * self.agreed.window)
    }

    /// Votes that prepare, and votes that commit.
    fn quorum(&self) -> usize {
        self.agreed.size.quorum() - usize::from(mutants::on(Mutant::SmallQuorum))
    }

    /// The slot of a sequence that is in range.
    fn slot(&mut self, sequence: Sequence) -> &mut Slot {
        let n = self.agreed.size.n();
        self.slots.entry(sequence).or_insert_with(|| Slot::new(n))
    }

    fn send(&mut self, to: To, message: Outgoing) {
        if !self.may_say(&message) {
            return;
        }
        self.effects.push_back(Effect::Send(to, message));
    }

    fn report(&mut self, replica: ReplicaId, what: Misbehaviour) {
        self.effects.push_back(Effect::Report(replica, what));
    }

    fn prove(&mut self, replica: ReplicaId, what: Misbehaviour, messages: Vec<Sealed>) {
        self.effects.push_back(Effect::Prove(replica, what, messages));
    }
}
