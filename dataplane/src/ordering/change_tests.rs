//! View changes among four cores without a log's delays: a round of messages at a time, some of them withheld.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::Batch;
use super::checkpoint::Statement;
use super::record::Record;
use super::{Agreed, Effect, Ordering, Outgoing, Timing, To, seal};
use crate::cluster::Size;
use crate::crypto::keys::SecretKey;
use crate::log::{self, Log, Record as _, SimDisk};
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::message::{self, Status, Vote, Votes};

const GENESIS: Digest = Digest([1; 32]);
const SEGMENT: u32 = 1 << 20;
const WALL_MS: i64 = 1_790_000_000_000;
const WINDOW: u64 = 16;

pub(super) struct Core {
    pub(super) ordering: Ordering,
    log: Log<Record, SimDisk>,
    executed: Vec<(Sequence, Digest)>,
}

/// Four cores and what passes between them.
pub(super) struct Four {
    pub(super) cores: Vec<Core>,
    pub(super) now: Now,
    mail: VecDeque<(usize, usize, Outgoing)>,
    /// Whether a message from one to another arrives.
    pub(super) passes: fn(usize, usize, &Outgoing) -> bool,
}

fn bundle(identity: u8) -> Arc<Bundle> {
    let key = SecretKey::from_seed(&[identity; 32]);
    let requests = [Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode()];
    let signed = Bundle::sign("atlas.example/test", key.public(), None, 0, &requests, WALL_MS, |m| key.sign(m));
    Arc::new(signed.unwrap())
}

/// Some state that is the same wherever the same was executed last.
fn state_at(sequence: Sequence, last: Digest) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: 0, history_root: last, state_root: none, sessions: none, members: none }
}

/// A batch's body in a log.
fn find(log: &mut Log<Record, SimDisk>, sequence: Sequence, digest: Digest) -> Option<Arc<Batch>> {
    let mut scan = log.scan_from(sequence);
    while let Some(entry) = scan.next().unwrap() {
        match Record::decode(entry.kind, entry.payload) {
            Some(Record::PrePrepared { batch, .. } | Record::Learned { batch, .. }) if batch.digest() == digest => {
                return Some(batch);
            }
            _ => {}
        }
    }
    None
}

impl Four {
    pub(super) fn new() -> Self {
        let agreed = Agreed { size: Size::new(4).unwrap(), window: WINDOW, interval: WINDOW, drift_ms: 1_000_000 };
        let core = |me: u8| {
            let mut ordering = Ordering::new(ReplicaId(me), agreed, Timing::default(), seal::sample(me));
            let log = log::recover(SimDisk::new(1, GENESIS, SEGMENT), GENESIS, SEGMENT, |_| {}).unwrap().log;
            let now = Now { mono_us: 0, wall_ms: WALL_MS };
            ordering.start(now);
            ordering.clear();
            Core { ordering, log, executed: Vec::new() }
        };
        let now = Now { mono_us: 0, wall_ms: WALL_MS };
        Self { cores: (0..4).map(core).collect(), now, mail: VecDeque::new(), passes: |_, _, _| true }
    }

    pub(super) fn window(&self) -> u64 {
        WINDOW
    }

    /// A replica starts again from a log that holds these records and no others.
    pub(super) fn set_back(&mut self, at: usize, records: Vec<Record>) {
        let mut log = log::recover(SimDisk::new(1, GENESIS, SEGMENT), GENESIS, SEGMENT, |_| {}).unwrap().log;
        for record in records {
            log.append(record).unwrap();
        }
        log.flush().unwrap();
        self.start(at, log.into_device());
    }

    /// A replica's process ends and starts again.
    pub(super) fn restart(&mut self, at: usize) {
        let mut log = log::recover(SimDisk::new(1, GENESIS, SEGMENT), GENESIS, SEGMENT, |_| {}).unwrap().log;
        std::mem::swap(&mut log, &mut self.cores[at].log);
        log.flush().unwrap();
        self.start(at, log.into_device());
    }

    fn start(&mut self, at: usize, disk: SimDisk) {
        let agreed = self.cores[at].ordering.agreed;
        let mut ordering = Ordering::new(ReplicaId(at as u8), agreed, Timing::default(), seal::sample(at as u8));
        let mut executed = Vec::new();
        let read = |record: log::Durable<Record>| {
            ordering.replay(&record);
            while let Some(effect) = ordering.next_effect() {
                if let Effect::Execute(sequence, batch) = effect {
                    executed.push((sequence, batch.digest()));
                    if sequence.is_multiple_of(WINDOW) {
                        ordering.checkpoint(state_at(sequence, batch.digest()));
                    }
                }
            }
        };
        let log = log::recover(disk, GENESIS, SEGMENT, read).unwrap().log;
        ordering.start(self.now);
        self.cores[at] = Core { ordering, log, executed };
    }

    pub(super) fn submit(&mut self, identity: u8, to: &[usize]) {
        for at in to {
            self.cores[*at].ordering.submit(bundle(identity), self.now).unwrap();
        }
    }

    /// Lets `alive` work for some time: rounds of 1 ms in which records become durable and messages arrive.
    pub(super) fn run(&mut self, alive: &[usize], ms: u64) {
        for _ in 0..ms {
            self.now.mono_us += 1_000;
            self.now.wall_ms += 1;
            for at in alive {
                self.turn(*at);
            }
            for (from, to, message) in std::mem::take(&mut self.mail) {
                if alive.contains(&to) && (self.passes)(from, to, &message) {
                    self.deliver(from, to, &message);
                }
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let Core { ordering, log, executed } = &mut self.cores[at];
        let mut bodies = Vec::new();
        let (doubted, active) = (ordering.doubts(self.now), ordering.is_active());
        ordering.flush(self.now);
        // Before it leaves on its own account the node takes out what nothing is left of.
        let left = active && !ordering.is_active() && ordering.suspicion().is_some();
        assert!(doubted || !left, "replica {at} leaves without a doubt: {:?}", ordering.suspicion());
        while let Some(effect) = ordering.next_effect() {
            match effect {
                Effect::Log(record) => drop(log.append(record).unwrap()),
                Effect::Send(To::All, message) => {
                    (0..4).filter(|to| *to != at).for_each(|to| self.mail.push_back((at, to, message.clone())));
                }
                Effect::Send(To::One(to), message) => self.mail.push_back((at, to.index(), message)),
                Effect::SupplyBatch(to, sequence, batch) => {
                    bodies.push((to.index(), sequence, batch));
                }
                Effect::SupplyLoggedBatch(to, sequence, digest) => {
                    bodies.extend(find(log, sequence, digest).map(|batch| (to.index(), sequence, batch)));
                }
                Effect::Execute(sequence, batch) => {
                    executed.push((sequence, batch.digest()));
                    if sequence.is_multiple_of(WINDOW) {
                        ordering.checkpoint(state_at(sequence, batch.digest()));
                    }
                }
                Effect::Report(peer, what) | Effect::Prove(peer, what, _) => panic!("{at} accuses {peer}: {what}"),
                _ => {}
            }
        }
        log.flush().unwrap();
        let durable: Vec<_> = log.drain_durable().collect();
        durable.iter().for_each(|record| ordering.synced(record, self.now));
        for (to, sequence, batch) in bodies {
            let core = &mut self.cores[to].ordering;
            if core.wants(sequence, batch.digest()).is_some() {
                core.on_batch(sequence, batch, self.now);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: &Outgoing) {
        let (core, from, now) = (&mut self.cores[to].ordering, ReplicaId(from as u8), self.now);
        let mut body = Vec::new();
        let votes = |votes: &[super::record::DurableVote]| Votes {
            view: votes[0].view(),
            votes: votes.iter().map(|vote| Vote { sequence: vote.sequence(), digest: vote.digest().0 }).collect(),
        };
        match message {
            Outgoing::PrePrepare(proposal) => {
                let proposal = message::PrePrepare {
                    view: proposal.view,
                    sequence: proposal.sequence,
                    time_ms: proposal.time_ms,
                    digest: proposal.digest.0,
                    bundles: proposal.bundles.iter().map(|digest| digest.0).collect(),
                };
                message::encode(&proposal, &mut body);
                core.on_pre_prepare(from, message::access::<message::PrePrepare>(&body).unwrap(), now);
            }
            Outgoing::Prepare(prepares) => {
                votes(prepares).encode(&mut body);
                core.on_prepares(from, Votes::access(&body).unwrap());
            }
            Outgoing::Commit(commits) => {
                votes(commits).encode(&mut body);
                core.on_commits(from, Votes::access(&body).unwrap());
            }
            Outgoing::Decided(decided) => {
                let decided = decided.iter().map(|(sequence, digest)| Vote { sequence: *sequence, digest: digest.0 });
                message::encode(&message::Decided { decided: decided.collect() }, &mut body);
                core.on_decided(from, message::access::<message::Decided>(&body).unwrap());
            }
            Outgoing::Status(status) => {
                message::encode(status, &mut body);
                core.on_status(from, message::access::<Status>(&body).unwrap());
            }
            Outgoing::ViewChange(change) => {
                let (bytes, signature) = change.parts();
                message::encode(&message::ViewChange { body: bytes.to_vec(), signature: signature.0 }, &mut body);
                core.on_view_change(from, message::access::<message::ViewChange>(&body).unwrap(), now);
            }
            Outgoing::NewView(new_view) => {
                let (bytes, signature) = new_view.parts();
                message::encode(&message::NewView { body: bytes.to_vec(), signature: signature.0 }, &mut body);
                core.on_new_view(from, message::access::<message::NewView>(&body).unwrap(), now);
            }
            Outgoing::Relay(bundle) => {
                if !core.holds(&bundle.digest()) {
                    core.submit(Arc::clone(bundle), now).unwrap();
                }
            }
            Outgoing::FetchBatch(sequence, digest) => core.on_fetch(from, *sequence, *digest),
            Outgoing::Checkpoint(signed) => {
                let statement = signed.statement.bytes().to_vec();
                message::encode(&message::Checkpoint { body: statement, signature: signed.signature.0 }, &mut body);
                core.on_checkpoint(from, message::access::<message::Checkpoint>(&body).unwrap());
            }
            Outgoing::Stable(certificate) => {
                message::encode(&message::Stable { certificate: certificate.bytes() }, &mut body);
                core.on_stable(from, message::access::<message::Stable>(&body).unwrap());
            }
        }
    }

    pub(super) fn views(&self, of: &[usize]) -> Vec<(u64, bool)> {
        of.iter().map(|at| (self.cores[*at].ordering.view(), self.cores[*at].ordering.is_active())).collect()
    }

    pub(super) fn assert_executed(&self, by: &[usize], count: usize) {
        for at in by {
            assert_eq!(self.cores[*at].executed.len(), count, "replica {at} in {:?}", self.views(&[0, 1, 2, 3]));
            assert_eq!(self.cores[*at].executed, self.cores[by[0]].executed);
        }
    }
}

pub(super) const ALL: [usize; 4] = [0, 1, 2, 3];
const REST: [usize; 3] = [1, 2, 3];

#[test]
fn a_dead_leader_is_replaced_and_what_clients_sent_is_ordered() {
    let mut four = Four::new();
    four.submit(1, &ALL);
    four.run(&ALL, 20);
    four.assert_executed(&ALL, 1);
    four.submit(2, &REST);
    four.run(&REST, 300);
    four.assert_executed(&REST, 2);
    assert_eq!(four.views(&REST), [(1, true); 3]);
    // It comes back and follows.
    four.run(&ALL, 2_000);
    four.assert_executed(&ALL, 2);
    assert_eq!(four.views(&ALL), [(1, true); 4]);
}

/// With the link down the leader is given less time.
#[test]
fn a_closed_link_is_a_hint() {
    let mut four = Four::new();
    REST.iter().for_each(|at| four.cores[*at].ordering.on_link(ReplicaId(0), false));
    four.submit(1, &REST);
    four.run(&REST, 60);
    four.assert_executed(&REST, 1);
}

/// Committed by COMMITs at one replica alone, which nobody hears of: the next view must choose it.
#[test]
fn what_one_replica_has_committed_survives_the_view() {
    let mut four = Four::new();
    // 3 hears everything; of COMMITs the others hear nothing, and without 0's PREPARE at 1 and 2 there is no fast commit.
    four.passes = |from, to, message| match message {
        Outgoing::Commit(_) | Outgoing::Decided(_) | Outgoing::Status(_) => to == 3,
        Outgoing::Prepare(_) => from != 3 || to == 3,
        _ => true,
    };
    four.submit(1, &ALL);
    four.run(&ALL, 10);
    four.assert_executed(&[3], 1);
    assert!(REST[..2].iter().all(|at| four.cores[*at].executed.is_empty()));
    let decided = four.cores[3].executed[0];
    // 3 is gone, and 0, which leads, says nothing any more.
    four.passes = |_, _, _| true;
    four.submit(2, &[1, 2]);
    four.run(&[0, 1, 2], 600);
    assert_eq!(four.cores[1].executed[0], decided);
    assert_eq!(four.cores[2].executed[0], decided);
}

type Passes = fn(usize, usize, &Outgoing) -> bool;

/// 3 decides alone while `before` says what passes, and 0 is gone. In view 1 nobody else decides while `meanwhile` does; once all passes
/// they must, in that view: DECIDED of 3 alone is not enough.
fn decides_in_view_1_once_all_passes(before: Passes, meanwhile: Passes) {
    let mut four = Four::new();
    four.passes = before;
    four.submit(1, &ALL);
    four.run(&ALL, 10);
    four.assert_executed(&[3], 1);
    four.passes = meanwhile;
    four.submit(2, &[1, 2]);
    while four.views(&REST) != [(1, true); 3] {
        assert!(four.now.mono_us < 2_000_000, "{:?}", four.views(&REST));
        four.run(&REST, 1);
    }
    four.run(&REST, 20);
    four.assert_executed(&[1, 2], 0);
    four.passes = |_, _, _| true;
    four.run(&REST, 120);
    four.assert_executed(&REST, 2);
    assert_eq!(four.views(&REST), [(1, true); 3]);
}

/// Found by seed 959: a COMMIT of an earlier view stood for the one of this view, which was never sent again, in view after view.
#[test]
fn a_commit_of_an_earlier_view_is_no_substitute_for_one_of_this() {
    // Of COMMITs only those to and from 3 arrive; in view 1 those of 3 get lost.
    let before: Passes = |from, to, message| match message {
        Outgoing::Commit(_) => to == 3 || from == 3,
        Outgoing::Decided(_) | Outgoing::Status(_) => to == 3,
        Outgoing::Prepare(_) => from != 3 || to == 3,
        _ => true,
    };
    decides_in_view_1_once_all_passes(before, |from, _, message| match message {
        Outgoing::Commit(votes) => from != 3 && votes[0].view() == 1,
        Outgoing::Prepare(votes) => votes[0].view() == 1,
        _ => true,
    });
}

/// A replica that has decided needs the PREPAREs of those who have not, or it cannot COMMIT in their view: they are sent again.
#[test]
fn who_has_decided_is_sent_the_prepares_that_it_lacks() {
    // The others hear nothing of what 3 heard; in view 1 their PREPAREs do not get to 3.
    let before: Passes = |from, to, message| match message {
        Outgoing::Commit(_) | Outgoing::Decided(_) | Outgoing::Status(_) => to == 3,
        Outgoing::Prepare(_) => from != 3 || to == 3,
        _ => true,
    };
    decides_in_view_1_once_all_passes(before, |_, to, message| match message {
        Outgoing::Commit(votes) => votes[0].view() == 1,
        Outgoing::Prepare(votes) => votes[0].view() == 1 && to != 3,
        _ => true,
    });
}

/// Found by seed 359: all others had executed everything and suspected nobody, and the leader could finish nothing.
#[test]
fn a_leader_that_gets_nothing_done_asks_to_be_replaced() {
    let mut four = Four::new();
    four.submit(1, &[0]);
    four.run(&[0], 400);
    assert_eq!(four.views(&[0]), [(1, false)]);
}

/// Found by seed 207: one replica alone was shown a third VIEW-CHANGE and went on to the view after. Those who stayed count it.
#[test]
fn who_asks_for_a_higher_view_has_left_the_lower_ones() {
    let mut four = Four::new();
    four.cores[3].ordering.leave(2);
    four.submit(1, &[2, 3]);
    // 1, which would lead view 1, is dead; 0 and 2 leave view 0 in time, and must not wait for it for ever.
    four.run(&[0, 2, 3], 1_500);
    four.assert_executed(&[0, 2, 3], 1);
    assert!(four.views(&[2]).iter().all(|(view, active)| *view >= 2 && *active));
}

/// Found by seed 5733: of a sequence only f+1 votes had come, and nothing that a timer ran for.
#[test]
fn votes_of_a_correct_replica_are_work_that_waits() {
    let mut four = Four::new();
    for from in [2, 3] {
        let mut body = Vec::new();
        Votes { view: 0, votes: vec![Vote { sequence: 1, digest: [7; 32] }] }.encode(&mut body);
        four.cores[1].ordering.on_prepares(ReplicaId(from), Votes::access(&body).unwrap());
        four.run(&[1], 200);
        // One replica alone may lie.
        assert_eq!(four.views(&[1]), [if from == 2 { (0, true) } else { (1, false) }]);
    }
}

/// A replica alone does not climb: it asks for the next view and no further.
#[test]
fn one_that_was_cut_off_does_not_climb() {
    let mut four = Four::new();
    four.submit(1, &[2]);
    four.run(&[2], 5_000);
    assert_eq!(four.views(&[2]), [(1, false)]);
}

/// An idle cluster suspects nobody.
#[test]
fn without_work_there_is_no_suspicion() {
    let mut four = Four::new();
    four.run(&ALL, 3_000);
    four.run(&REST, 3_000);
    assert_eq!(four.views(&ALL), [(0, true); 4]);
}

/// Byzantine or not, a VIEW-CHANGE whose signature or place does not hold changes nothing.
#[test]
fn forged_view_changes_move_nobody() {
    let mut four = Four::new();
    four.cores[1].ordering.leave(1);
    four.turn(1);
    four.turn(1);
    let change = four.mail.iter().find_map(|(_, _, message)| match message {
        Outgoing::ViewChange(change) => Some(change.clone()),
        _ => None,
    });
    let change = change.expect("it says that it leaves");
    let (bytes, signature) = change.parts();
    for (from, damage) in [(2u8, None), (1, Some(0)), (1, Some(8)), (1, Some(100)), (1, Some(bytes.len() - 1))] {
        let mut body = bytes.to_vec();
        if let Some(at) = damage {
            body[at] ^= 1;
        }
        let mut encoded = Vec::new();
        message::encode(&message::ViewChange { body, signature: signature.0 }, &mut encoded);
        let core = &mut four.cores[3].ordering;
        core.on_view_change(ReplicaId(from), message::access::<message::ViewChange>(&encoded).unwrap(), four.now);
        let effects: Vec<_> = std::iter::from_fn(|| core.next_effect()).collect();
        assert!(effects.iter().all(|effect| matches!(effect, Effect::Report(..) | Effect::Prove(..))), "{effects:?}");
        assert_eq!(effects.len(), 1, "it is put down to its sender");
        assert_eq!((core.view(), core.is_active()), (0, true));
        core.flush(four.now);
        while core.next_effect().is_some() {}
    }
}

/// Found by seed 11336: a null batch came back from the log as an empty one with another digest.
#[test]
fn a_null_batch_is_read_back_as_one() {
    let mut log = log::recover(SimDisk::new(1, GENESIS, SEGMENT), GENESIS, SEGMENT, |_| {}).unwrap().log;
    let learned = Record::Learned { sequence: 7, batch: Arc::new(Batch::null()) };
    log.append(learned.clone()).unwrap();
    log.flush().unwrap();
    let mut read = Vec::new();
    log::recover(log.into_device(), GENESIS, SEGMENT, |record| read.push(Record::clone(&record))).unwrap();
    assert_eq!(read, [learned]);
}

/// A leader that keeps one client's bundles moving and passes over another's is replaced.
#[test]
fn a_leader_that_passes_over_a_client_is_suspected() {
    let mut four = Four::new();
    // The leader never hears of the first client, and nobody's relay reaches it.
    four.submit(200, &REST);
    four.passes = |_, to, message| to != 0 || !matches!(message, Outgoing::Relay(_));
    for identity in 1..=70 {
        four.submit(identity, &ALL);
        four.run(&ALL, 100);
    }
    assert!(four.views(&REST).iter().all(|(view, _)| *view > 0), "{:?}", four.views(&REST));
    four.run(&ALL, 500);
    // Two bundles may share a batch.
    four.assert_executed(&ALL, four.cores[0].executed.len());
    assert!(four.cores.iter().all(|core| core.ordering.pooled() == 0));
}

/// A client's copy that is read in the round in which the bundle is executed would lie in the pool for ever.
#[test]
fn a_copy_that_comes_with_the_execution_is_not_kept() {
    let mut four = Four::new();
    four.submit(1, &[0]);
    while four.cores[3].ordering.executed() == 0 {
        four.run(&ALL, 1);
    }
    four.submit(1, &[3]);
    assert_eq!(four.cores[3].ordering.pooled(), 0);
}

/// Its log holds a checkpoint, which comes out again while it is read and is not synced once more.
#[test]
fn a_replica_that_read_its_log_suspects_in_time() {
    let mut four = Four::new();
    for identity in 1..=WINDOW as u8 + 4 {
        four.submit(identity, &ALL);
        four.run(&ALL, 10);
    }
    REST.iter().for_each(|at| four.restart(*at));
    four.run(&ALL, 200);
    let count = four.cores[1].executed.len();
    four.submit(100, &REST);
    four.run(&REST, 300);
    four.assert_executed(&REST, count + 1);
}
