//! The node: rounds, effects and the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::clients::Inbox;
use super::cosigning::Cosigning;
use super::counters::Counters;
use super::meters::Meters;
use super::node_error::NodeError;
use super::noted;
use super::outgoing::encode;
use super::proofs::Proofs;
use super::reads::{ReadBudget, Reads};
use super::replay::{Replay, statement};
use super::snapshots::{Begun, Save, Snapshots};
use super::space::Full;
use super::verifying::Job;
use super::{MAX_BODIES_PER_ROUND, MAX_RELAYED_PER_ROUND, MAX_TOLD_PER_ROUND};
use crate::crypto::link::Fault;
use crate::crypto::session::SessionError;
use crate::evidence::Book;
use crate::execution::{Admission, Executed, Execution};
use crate::flight::{self, Kind as Noted, Stage};
use crate::history::notary::Notary;
use crate::history::store::EntryStore;
use crate::log::{self, AppendError, Device, Log, LogError, Lsn};
use crate::ordering::checkpoint::Certificate;
use crate::ordering::record::Record;
use crate::ordering::seal::Seals;
use crate::ordering::{Agreed, Effect, Ordering, Outgoing, Timing, To};
use crate::state::Application;
use crate::transfer::{Kept, Shelf};
use crate::types::{Digest, EntryIndex, Now, ReplicaId, Sequence};
use crate::wire::frame::Kind;

/// Records that may wait for room in the log's buffers.
pub(super) const MAX_BACKLOG: usize = 256;

/// Slots of the state that are held against their leaves at once: a tenth of a millisecond.
const SCRUB_SLOTS: usize = 128;

/// How long at least from one such look to the next, us: 65,536 slots take a minute while there is work; an idle replica looks when it wakes.
const SCRUB_EVERY_US: u64 = 100_000;

/// A client's connection, as the shell numbers them; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub u64);

/// What only the process knows and a status tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostStatus {
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Anonymous resident memory, bytes.
    pub anonymous_bytes: u64,
    /// Process id.
    pub pid: u32,
    /// Free bytes where the data lies; all ones where that is not known.
    pub free_bytes: u64,
}

/// What a node needs from the world around it: links, and a disk that writes for the log.
pub trait Shell<D: Device> {
    /// Sends a message to a replica; it may get lost.
    fn to_peer(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]);

    /// Sends a message to a client; it may get lost.
    fn to_client(&mut self, client: ClientId, kind: Kind, body: &[u8]);

    /// Whether the client takes what is sent to it; if not, answering it is in vain.
    fn takes(&self, _client: ClientId) -> bool {
        true
    }

    /// Ends a client's connection, once what was sent to it has gone out: it misbehaved. A shell without connections has nothing to
    /// do here.
    fn close_client(&mut self, _client: ClientId) {}

    /// A peer's message is about to be handed to the node: for shells that lie ([`crate::adversary`]).
    fn heard(&mut self, _peer: ReplicaId, _kind: Kind, _body: &[u8]) {}

    /// Starts the log's next write if there is one; [`Node::log_completed`] follows.
    ///
    /// # Errors
    /// The log's end.
    fn start_write(&mut self, log: &mut Log<Record, D>) -> Result<(), LogError>;

    /// Writes a snapshot to disk, after the files that it rests on were synced; [`Node::snapshot_kept`] or
    /// [`Node::snapshot_not_kept`] follows. A shell that keeps none has nothing to do: the log then stays whole.
    fn keep_snapshot(&mut self, _save: Save) {}

    /// Keeps the certificate of a snapshot's checkpoint beside it; it may get lost.
    fn keep_certificate(&mut self, _certificate: &Arc<Certificate>) {}

    /// Snapshots that are not needed any more, by their sequences.
    fn drop_snapshots(&mut self, _sequences: &[Sequence]) {}

    /// A piece of a snapshot; `None` where it cannot be read.
    fn snapshot_piece(&mut self, _sequence: Sequence, _piece: u64) -> Option<Vec<u8>> {
        None
    }

    /// Keeps a record of the evidence file; it may get lost. A shell without one has nothing to do here.
    fn keep_evidence(&mut self, _record: Vec<u8>) {}

    /// Records of evidence that got lost.
    fn evidence_lost(&self) -> u64 {
        0
    }

    /// How many jobs [`Shell::verify`] takes now; `None` where nobody checks signatures but the node.
    fn verifiers(&self) -> Option<usize> {
        None
    }

    /// Has the signatures of bundles checked ([`Job::check`]) while the node does other things; [`Node::verified`] follows. Called
    /// as often as [`Shell::verifiers`] said at most.
    fn verify(&mut self, _job: Job) {}

    /// What a status tells of the process.
    fn host(&self) -> HostStatus;
}

/// What a node is told at start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This replica.
    pub me: ReplicaId,
    /// The cluster's name, which every bundle carries.
    pub origin: String,
    /// The genesis hash, bound into the log.
    pub genesis: Digest,
    /// What the epoch agrees on.
    pub agreed: Agreed,
    /// What this replica signs with.
    pub seals: Arc<Seals>,
    /// What it cosigns with.
    pub notary: Arc<Notary>,
    /// It cosigns a head at most once in this time, us.
    pub cosign_interval_us: u64,
    /// Local timing and resources.
    pub timing: Timing,
    /// Bytes of a log segment.
    pub segment_bytes: u32,
    /// This identity never ran: an empty log is no loss.
    pub never_ran: bool,
    /// Bytes of history and state that are supplied to other replicas in a second, at most.
    pub transfer_bytes_per_second: u64,
    /// How long staged decisions may wait for another record to be written with, us.
    pub idle_write_us: u64,
    /// How long what votes wait for may wait for more to be written with it, us; 0: not at all.
    pub group_commit_us: u64,
    /// What reads may take of a turn.
    pub read_budget: ReadBudget,
}

/// What a start found in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// There was no log, or an empty one.
    pub empty: bool,
    /// Records read.
    pub records: u64,
    /// The number of the last one.
    pub last: u64,
    /// Bytes of a torn tail that were dropped.
    pub torn_bytes: u64,
    /// Highest sequence executed from the log.
    pub executed: u64,
}

/// A replica without its sockets. See the module doc of [`crate::replica`].
pub struct Node<A: Application, S: EntryStore, D: Device> {
    pub(super) config: NodeConfig,
    pub(super) ordering: Ordering,
    pub(super) log: Log<Record, D>,
    pub(super) execution: Execution<A, S>,
    /// Records that the log had no room for yet, in order. Beyond [`MAX_BACKLOG`] peers' messages that would add to it are
    /// dropped; statuses make good for them when the disk is back.
    pub(super) backlog: VecDeque<Record>,
    /// The last record that something waits for.
    urgent: Lsn,
    /// Until when it may wait for more to be written with it, us; none where a write is due as soon as the log is free.
    gathers_until_us: Option<u64>,
    /// When something was staged that nothing waits for, us.
    lazy_since_us: Option<u64>,
    /// Bundles whose signatures are to be checked at the end of the round.
    pub(super) inbox: Inbox,
    /// Where the reply to a bundle goes.
    pub(super) routes: BTreeMap<Digest, ClientId>,
    pub(super) reads: Reads,
    pub(super) counters: Counters,
    pub(super) meters: Meters,
    pub(super) evidence: Book,
    pub(super) snapshots: Snapshots,
    pub(super) cosigning: Cosigning,
    pub(super) proofs: Proofs,
    /// Whether new writes are refused for want of room on the disk.
    pub(super) low_space: bool,
    /// When slots are held against their leaves again, us.
    scrub_at_us: u64,
    /// The log has no room for its next segment.
    pub(super) full: Option<Full>,
    executed: Executed,
    pub(super) body: Vec<u8>,
    pub(super) links: u32,
    /// What was sent to each peer alone in this round.
    told: Vec<Told>,
    /// Bundles that each peer sent on in this round.
    relayed: Vec<usize>,
}

/// What was sent to one peer alone in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    messages: usize,
    bodies: usize,
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// Reads the log, executes what it says is decided, and is ready to go on. `execution` is a new one, or one that resumed the newest
    /// snapshot on the `shelf`.
    ///
    /// # Errors
    /// Damage, a log that begins behind the snapshot, another cluster's directory, a version that this program does not know: nothing was overwritten.
    pub fn recover(
        config: NodeConfig,
        mut execution: Execution<A, S>,
        mut shelf: Shelf,
        device: D,
        now: Now,
    ) -> Result<(Self, Recovery), NodeError> {
        let mut ordering = Ordering::new(config.me, config.agreed, config.timing, Arc::clone(&config.seals));
        let kept = shelf.all().iter().map(Kept::sequence).collect();
        let resumed = execution.sequence();
        if resumed > 0 {
            let certificate = shelf.get(resumed).and_then(|kept| kept.certificate.clone());
            ordering.resume(statement(&mut execution, resumed, config.genesis), certificate);
        }
        let mut replay = Replay::new(ordering, execution, config.agreed, config.genesis, kept);
        let recovered = log::recover(device, config.genesis, config.segment_bytes, |record| replay.record(&record))?;
        let Replay { mut ordering, mut execution, executed, certificates, images, promised, failed, .. } = replay;
        if let Some(error) = failed {
            return Err(error);
        }
        if recovered.log.dropped_below() > resumed {
            return Err(NodeError::NoSnapshot { dropped: recovered.log.dropped_below() });
        }
        // The log may know of signatures that came just before the end.
        let mut begun = Begun { images, ..Begun::default() };
        begun.certificates.extend(certificates.into_iter().filter(|certificate| shelf.certify(certificate)));
        begun.gone = shelf.clear_out();
        let (mut log, empty) = (recovered.log, recovered.records == 0);
        if empty {
            // The log's first record says once and for all whether anything may have been lost before it.
            let first = if config.never_ran { Record::Begins } else { Record::Abstains };
            log.append(first).map_err(|(_, error)| NodeError::Append(error))?;
            log.flush()?;
            log.drain_durable().for_each(|record| ordering.replay(&record));
        }
        execution.flush()?;
        ordering.start(now);
        let found = Recovery {
            empty,
            records: recovered.records,
            last: log.durable().0,
            torn_bytes: recovered.torn_bytes,
            executed: ordering.executed(),
        };
        let told = vec![Told::default(); config.agreed.size.n()];
        let mut snapshots = Snapshots::new(config.me, config.agreed.size, shelf, config.transfer_bytes_per_second);
        snapshots.begun = begun;
        let cosigning = Cosigning::new(&config.notary, config.agreed.size, config.cosign_interval_us, promised);
        let mut node = Self {
            config,
            ordering,
            log,
            execution,
            backlog: VecDeque::new(),
            urgent: Lsn::default(),
            gathers_until_us: None,
            lazy_since_us: None,
            inbox: Inbox::default(),
            routes: BTreeMap::new(),
            reads: Reads::default(),
            counters: Counters::default(),
            meters: Meters::default(),
            evidence: Book::default(),
            snapshots,
            cosigning,
            proofs: Proofs::default(),
            low_space: false,
            scrub_at_us: 0,
            full: None,
            executed,
            body: Vec::new(),
            links: 0,
            relayed: vec![0; told.len()],
            told,
        };
        // The head at which it starts is a head like all others.
        node.note_head();
        Ok((node, found))
    }

    /// The link to a peer came up or went down.
    pub fn on_link(&mut self, peer: ReplicaId, up: bool) {
        let bit = 1 << peer.0;
        self.links = if up { self.links | bit } else { self.links & !bit };
        self.ordering.on_link(peer, up);
        if up {
            self.cosigning.link_up(peer);
        }
    }

    /// The log's write completed: the bytes written, or the error number.
    ///
    /// # Errors
    /// A failed or short write is the end of this process: what is on the disk is not known any more.
    pub fn log_completed(&mut self, result: Result<usize, i32>, now: Now) -> Result<(), NodeError> {
        self.log.completed(result)?;
        self.published(now)
    }

    /// As [`Node::log_completed`], for a shell whose device carries out writes itself.
    ///
    /// # Errors
    /// As [`Node::log_completed`].
    pub fn log_finish(&mut self, now: Now) -> Result<(), NodeError> {
        self.log.finish()?;
        self.published(now)
    }

    fn published(&mut self, now: Now) -> Result<(), NodeError> {
        let mut promised = None;
        for record in self.log.drain_durable() {
            noted::durable(&record);
            self.ordering.synced(&record, now);
            if let Record::Cosigned(head) = *record {
                promised = Some(head);
            }
        }
        if let Some(head) = promised {
            self.cosigned_durable(head, now);
        }
        while let Some(record) = self.backlog.pop_front() {
            if !self.stage(record, now)? {
                break;
            }
        }
        Ok(())
    }

    /// Ends a round: verifies, orders, executes, answers, and starts the log's next write.
    ///
    /// # Errors
    /// The node's end.
    pub fn turn(&mut self, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        flight::stage(Stage::Verify);
        self.verify_pending(now, shell);
        flight::stage(Stage::Order);
        self.carry_out(now, shell)?;
        if self.ordering.doubts(now) {
            self.drop_settled(now);
        }
        self.ordering.flush(now);
        self.carry_out(now, shell)?;
        flight::stage(Stage::Transfer);
        self.transfer(now, shell)?;
        flight::stage(Stage::Cosign);
        self.cosign(now, shell)?;
        if now.mono_us >= self.scrub_at_us {
            self.scrub_at_us = now.mono_us + SCRUB_EVERY_US;
            self.execution.scrub(SCRUB_SLOTS).map_err(NodeError::Altered)?;
        }
        flight::stage(Stage::Write);
        self.prune_routes();
        self.told.fill(Told::default());
        self.relayed.fill(0);
        let idle = self.lazy_since_us.is_some_and(|since| now.mono_us >= since + self.config.idle_write_us);
        self.gathers_until_us = self.gathers_until_us.filter(|until| now.mono_us < *until);
        let is_urgent = self.log.durable() < self.urgent && self.gathers_until_us.is_none();
        // A full buffer must go before there is room, whether or not somebody waits for what is in it.
        let is_due = is_urgent || idle || !self.backlog.is_empty() || self.cosigning.must_write(now);
        if is_due && now.mono_us >= self.write_again_us() {
            self.start_write(now, shell)?;
            // What no write took, since one is in flight or its segment is being made, is looked at again later.
            let took_all = self.log.last() <= self.log.written() && self.backlog.is_empty();
            self.lazy_since_us = (!took_all).then_some(now.mono_us);
            self.gathers_until_us = self.gathers_until_us.filter(|_| !took_all);
            self.cosigning.wrote(took_all, now);
        }
        // The disk works meanwhile.
        for record in self.evidence.take_records() {
            shell.keep_evidence(record);
        }
        flight::stage(Stage::Read);
        self.answer_reads(now, shell);
        self.answer_proofs(now, shell);
        Ok(())
    }

    /// A round's work is done, and nothing is looked at until something happens or is due.
    pub fn rests(&mut self, now: Now) {
        self.ordering.rests(now);
    }

    /// When [`Node::turn`] is due even if nothing happens, us.
    pub fn next_deadline_us(&self) -> u64 {
        let idle_write = self.lazy_since_us.map(|since| since + self.config.idle_write_us);
        let idle_write = idle_write.map(|due| due.max(self.write_again_us()));
        let gathered = self.gathers_until_us.map(|due| due.max(self.write_again_us()));
        let reads = self.reads.next_deadline_us();
        let promise = self.cosigning.write_by_us().map(|due| due.max(self.write_again_us()));
        let wanted = self.proofs.wait_beyond(self.cosigning.certified_size(), self.execution.size());
        let history = self.cosigning.due_us(self.ordering.may_cosign(), wanted).min(self.proofs.due_us());
        let ordering = self.ordering.next_deadline_us().min(history);
        let deadlines = [Some(ordering), idle_write, gathered, promise, Some(reads), Some(self.snapshots.due_us())];
        deadlines.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    pub(super) fn carry_out(&mut self, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        while let Some(effect) = self.ordering.next_effect() {
            if !self.is_within_round(&effect) {
                self.counters.add("peers.asked_too_much", 1);
                continue;
            }
            match effect {
                Effect::Log(record) => {
                    let certificate = if let Record::Stable(certificate) = &record { Some(certificate) } else { None };
                    let certificate = certificate.cloned();
                    self.meters.logged(&record, now);
                    noted::staged(&record);
                    self.append(record, now)?;
                    if let Some(certificate) = certificate {
                        self.note_certificate(&certificate, shell)?;
                    }
                }
                Effect::Send(to, message) => self.send(to, &message, shell),
                Effect::Execute(sequence, batch) => {
                    let before = flight::stage(Stage::Execute);
                    self.execution.execute(sequence, &batch, &mut self.executed)?;
                    self.meters.executed(sequence, &batch, now);
                    noted::executed(sequence, &batch);
                    self.reply(shell);
                    self.note_head();
                    self.take_states();
                    if sequence.is_multiple_of(self.config.agreed.interval) {
                        flight::stage(Stage::Checkpoint);
                        let statement = statement(&mut self.execution, sequence, self.config.genesis);
                        self.ordering.checkpoint(statement);
                        self.take_snapshot(statement, shell)?;
                    }
                    flight::stage(before);
                }
                Effect::SupplyBatch(to, sequence, batch) => self.supply_batch(to, sequence, &batch, shell),
                Effect::SupplyLoggedBatch(to, sequence, digest) => {
                    self.supply_logged_batch(to, sequence, digest, shell)?;
                }
                Effect::SupplyDecided(to, first) => self.supply_decided(to, first, shell)?,
                Effect::Report(replica, what) => self.accuse(replica, &what, Vec::new(), now),
                Effect::Prove(replica, what, messages) => self.accuse(replica, &what, messages, now),
                Effect::Diverged(sequence) => return Err(NodeError::Diverged { sequence }),
            }
        }
        Ok(())
    }

    /// Whether an answer to one peer is within what a peer gets in a round. A small message can ask for a large body and a long
    /// walk through the log; what a peer did not get it asks for again.
    fn is_within_round(&mut self, effect: &Effect) -> bool {
        let (peer, is_body) = match effect {
            Effect::Send(To::One(peer), _) => (peer, false),
            Effect::SupplyBatch(peer, ..) | Effect::SupplyLoggedBatch(peer, ..) | Effect::SupplyDecided(peer, _) => {
                (peer, true)
            }
            Effect::Log(_)
            | Effect::Send(To::All, _)
            | Effect::Execute(..)
            | Effect::Report(..)
            | Effect::Prove(..)
            | Effect::Diverged(_) => return true,
        };
        let Some(told) = self.told.get_mut(peer.index()) else { return false };
        let (count, limit) = match is_body {
            true => (&mut told.bodies, MAX_BODIES_PER_ROUND),
            false => (&mut told.messages, MAX_TOLD_PER_ROUND),
        };
        *count += 1;
        *count <= limit
    }

    /// Counts a bundle that a peer sends on; false beyond what one may in a round.
    pub(super) fn may_relay(&mut self, from: ReplicaId) -> bool {
        let relayed = &mut self.relayed[from.index()];
        *relayed += 1;
        *relayed <= MAX_RELAYED_PER_ROUND
    }

    pub(super) fn append(&mut self, record: Record, now: Now) -> Result<(), NodeError> {
        if !record.is_urgent() {
            self.lazy_since_us.get_or_insert(now.mono_us);
        }
        if self.backlog.is_empty() {
            self.stage(record, now).map(drop)
        } else {
            self.backlog.push_back(record);
            Ok(())
        }
    }

    /// Stages a record, or keeps it for when the write in flight makes room.
    fn stage(&mut self, record: Record, now: Now) -> Result<bool, NodeError> {
        let urgent = record.is_urgent();
        match self.log.append(record) {
            Ok(lsn) => {
                if urgent {
                    // The first that no write has taken begins the wait; one that is due stays due, whatever comes behind it.
                    let is_first = self.log.written() >= self.urgent && self.gathers_until_us.is_none();
                    if is_first && self.config.group_commit_us > 0 {
                        self.gathers_until_us = Some(now.mono_us + self.config.group_commit_us);
                    }
                    self.urgent = lsn;
                }
                Ok(true)
            }
            Err((record, AppendError::Full)) => {
                self.backlog.push_front(record);
                Ok(false)
            }
            Err((_, error)) => Err(NodeError::Append(error)),
        }
    }

    fn send(&mut self, to: To, outgoing: &Outgoing, shell: &mut impl Shell<D>) {
        if let (To::All, Outgoing::PrePrepare(proposal)) = (&to, outgoing) {
            let bundles = proposal.bundles.len() as u64;
            flight::note(Noted::ProposalSent, [proposal.sequence, proposal.view, bundles]);
        }
        self.body.clear();
        let kind = encode(outgoing, &mut self.body);
        match to {
            To::One(peer) => shell.to_peer(peer, kind, &self.body),
            To::All => {
                for peer in self.config.agreed.size.replicas().filter(|peer| *peer != self.config.me) {
                    shell.to_peer(peer, kind, &self.body);
                }
            }
        }
    }

    /// Takes bundles out of the pool that nothing is left of: they are no reason to suspect the leader.
    fn drop_settled(&mut self, now: Now) {
        for bundle in self.ordering.waiting(now) {
            if matches!(self.execution.admit(&bundle), Admission::Settled(_)) {
                self.ordering.drop_bundle(&bundle.digest());
            }
        }
    }

    fn reply(&mut self, shell: &mut impl Shell<D>) {
        let mut executed = std::mem::take(&mut self.executed);
        for settled in executed.bundles.drain(..) {
            if let Some(client) = self.routes.remove(&settled.bundle) {
                flight::note_bundle(Noted::BundleReplied, &settled.bundle.0, client.0, 0);
                self.send_settled(client, settled, shell);
            }
        }
        self.executed = executed;
    }

    /// Syncs what is staged, except what waits for a segment that is still being made; true where that is all. For a clean end,
    /// where the shell's writes are done and the log's own device takes over. What was never synced was promised to nobody.
    ///
    /// # Errors
    /// The log's end.
    pub fn flush_log(&mut self) -> Result<bool, NodeError> {
        let durable = self.log.flush_made()?;
        self.execution.flush()?;
        Ok(durable == self.log.last() && self.backlog.is_empty())
    }

    /// Lets the log drop its oldest segments, all of whose records are about sequences up to `below` ([`Log::release`]): at most up to
    /// the stable checkpoint that is durable in the log, whatever is asked for. The caller has made durable the state at `below` or
    /// later (at the stable checkpoint at most, for the votes above stay in the log alone), and the history up to there.
    ///
    /// It returns at once, and does nothing while an earlier call is under way. Where the disk is full nothing is lost, and the next
    /// call tries again; `log.release.refused` counts it.
    ///
    /// # Errors
    /// A file of the log cannot be written, synced or removed. What the disk holds is consistent, but the disk is not to be trusted.
    pub fn release_log(&mut self, below: Sequence) -> Result<(), NodeError> {
        match self.log.release(below) {
            Err(LogError::NoSpace { .. } | LogError::AnchorTooLarge { .. }) => {
                self.counters.add("log.release.refused", 1);
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    /// The log, for the shell's device and for tests.
    pub fn log_mut(&mut self) -> &mut Log<Record, D> {
        &mut self.log
    }

    /// Ends the node and gives its device back, with nothing that was not durable.
    pub fn into_device(self) -> D {
        self.log.into_device()
    }

    /// Entries under the head that it promised last to cosign, for checks.
    pub(crate) fn promised_size(&self) -> EntryIndex {
        self.cosigning.promised_size()
    }

    /// The ordering core, for status and for checks.
    pub fn ordering(&self) -> &Ordering {
        &self.ordering
    }

    /// The execution, for status.
    pub fn execution(&self) -> &Execution<A, S> {
        &self.execution
    }

    /// The execution, for status and for checks.
    pub fn execution_mut(&mut self) -> &mut Execution<A, S> {
        &mut self.execution
    }

    pub(super) fn count(&mut self, what: &str) {
        self.counters.add(what, 1);
    }

    /// A connection ended over what its peer sent.
    pub(super) fn count_link_error(&mut self, error: &SessionError) {
        let fault = match error.fault() {
            Fault::Malformed => "malformed",
            Fault::Misbehaving => "misbehaving",
            Fault::Ours => "ours",
        };
        self.counters.add(&format!("links.ended.{fault}"), 1);
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
