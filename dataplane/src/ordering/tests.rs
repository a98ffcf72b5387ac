//! Tests of the core alone: one replica, its events and its effects. Clusters of them run in [`crate::sim`].

use std::sync::Arc;

use super::batch::Batch;
use super::checkpoint::forged;
use super::record::{DurableVote, Record};
use super::seal;
use super::{Agreed, Effect, Ordering, Outgoing, Timing, To, Wanted};
use crate::cluster::Size;
use crate::crypto::keys::SecretKey;
use crate::log::{self, Durable, Log, SimDisk};
use crate::types::{Digest, Now, ReplicaId, Sequence};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::error::Misbehaviour;
use crate::wire::message::{self, Decided, OpenSlot, PrePrepare, Status, Vote, Votes};

const WALL_MS: i64 = 1_790_000_000_000;
const LEADER: ReplicaId = ReplicaId(0);

fn at(mono_us: u64) -> Now {
    Now { mono_us, wall_ms: WALL_MS + (mono_us / 1_000) as i64 }
}

/// A bundle of one request by one of many identities.
fn bundle(identity: u8, first: u64) -> Arc<Bundle> {
    let key = SecretKey::from_seed(&[identity; 32]);
    let (session, operation) = if first == 0 { (None, &OPEN_SESSION[..]) } else { (Some(1), &[0x00][..]) };
    let requests = [Request { class: 0, not_after_ms: None, operation }.encode()];
    let signed = Bundle::sign("atlas.example/test", key.public(), session, first, &requests, WALL_MS, |m| key.sign(m));
    Arc::new(signed.unwrap())
}

fn batch_of(time_ms: i64, bundles: &[Arc<Bundle>]) -> Arc<Batch> {
    Arc::new(Batch::new(time_ms, bundles.to_vec()))
}

/// A core and its log.
struct Core {
    ordering: Ordering,
    log: Option<Log<Record, SimDisk>>,
    now: Now,
}

const GENESIS: Digest = Digest([1; 32]);
const SEGMENT: u32 = 1 << 20;

impl Core {
    fn new(me: u8) -> Self {
        Self::with(me, 8, Timing::default())
    }

    fn with(me: u8, window: u64, timing: Timing) -> Self {
        Self::on(SimDisk::new(1, GENESIS, SEGMENT), me, window, timing)
    }

    fn on(disk: SimDisk, me: u8, window: u64, timing: Timing) -> Self {
        let agreed = Agreed { size: Size::new(4).unwrap(), window, interval: window, drift_ms: 100 };
        let mut ordering = Ordering::new(ReplicaId(me), agreed, timing, seal::sample(me));
        let recovered = log::recover(disk, GENESIS, SEGMENT, |record| ordering.replay(&record)).unwrap();
        ordering.start(at(0));
        ordering.clear();
        Self { ordering, log: Some(recovered.log), now: at(0) }
    }

    /// The process ends; what was not synced is gone.
    fn restart(mut self, me: u8) -> Self {
        let mut disk = self.log.take().unwrap().into_device();
        disk.crash(log::Crash::Power);
        Self::on(disk, me, 8, Timing::default())
    }

    /// Effects since the last call, statuses left out; records are staged.
    fn effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.ordering.next_effect() {
            if let Effect::Log(record) = &effect {
                self.log.as_mut().unwrap().append(record.clone()).unwrap();
            }
            if !matches!(&effect, Effect::Send(_, Outgoing::Status(_))) {
                effects.push(effect);
            }
        }
        effects
    }

    fn flush(&mut self) -> Vec<Effect> {
        self.ordering.flush(self.now);
        self.effects()
    }

    /// Makes everything staged durable and ends the round.
    fn sync(&mut self) -> Vec<Effect> {
        let log = self.log.as_mut().unwrap();
        log.flush().unwrap();
        let durable: Vec<Durable<Record>> = log.drain_durable().collect();
        for record in durable {
            self.ordering.synced(&record, self.now);
        }
        self.flush()
    }

    fn propose(&mut self, from: ReplicaId, sequence: Sequence, batch: &Batch) -> Vec<Effect> {
        let bundles = batch.bundles().iter().map(|bundle| bundle.digest().0).collect();
        let digest = batch.digest().0;
        self.propose_as(from, &PrePrepare { view: 0, sequence, time_ms: batch.time_ms(), digest, bundles })
    }

    fn propose_as(&mut self, from: ReplicaId, proposal: &PrePrepare) -> Vec<Effect> {
        let mut body = Vec::new();
        message::encode(proposal, &mut body);
        self.ordering.on_pre_prepare(from, message::access::<PrePrepare>(&body).unwrap(), self.now);
        self.flush()
    }

    fn votes(
        &mut self,
        phase: fn(&mut Ordering, ReplicaId, &message::ArchivedVotes),
        from: u8,
        view: u64,
        votes: &[(u64, Digest)],
    ) -> Vec<Effect> {
        let votes = votes.iter().map(|(sequence, digest)| Vote { sequence: *sequence, digest: digest.0 }).collect();
        let mut body = Vec::new();
        Votes { view, votes }.encode(&mut body);
        phase(&mut self.ordering, ReplicaId(from), Votes::access(&body).unwrap());
        self.flush()
    }

    fn prepare(&mut self, from: u8, sequence: Sequence, digest: Digest) -> Vec<Effect> {
        self.votes(Ordering::on_prepares, from, 0, &[(sequence, digest)])
    }

    fn commit(&mut self, from: u8, sequence: Sequence, digest: Digest) -> Vec<Effect> {
        self.votes(Ordering::on_commits, from, 0, &[(sequence, digest)])
    }

    fn decided(&mut self, from: u8, sequence: Sequence, digest: Digest) -> Vec<Effect> {
        let mut body = Vec::new();
        message::encode(&Decided { decided: vec![Vote { sequence, digest: digest.0 }] }, &mut body);
        self.ordering.on_decided(ReplicaId(from), message::access::<Decided>(&body).unwrap());
        self.flush()
    }

    fn status(&mut self, from: u8, executed: Sequence, open: Vec<OpenSlot>) -> Vec<Effect> {
        let mut body = Vec::new();
        message::encode(&Status { view: 0, low: 0, executed, active: true, open, ..Status::default() }, &mut body);
        self.ordering.on_status(ReplicaId(from), message::access::<Status>(&body).unwrap());
        self.flush()
    }

    /// The leader of view 0 with a proposal of one bundle at sequence 1, which is not durable yet, and its batch.
    fn leader_with_proposal(identity: u8) -> (Self, Arc<Batch>) {
        let mut core = Self::new(0);
        core.ordering.submit(bundle(identity, 0), core.now).unwrap();
        assert_eq!(short(&core.flush()), ["log leads 0"]);
        let effects = core.sync();
        assert_eq!(short(&effects), ["PRE-PREPARE 1", "log Q 1"]);
        let Some(Effect::Log(Record::PrePrepared { batch, .. })) = effects.last() else { unreachable!() };
        let batch = Arc::clone(batch);
        (core, batch)
    }

    /// A backup that has pre-prepared a batch of one bundle at sequence 1, durably.
    fn backup_with_q(me: u8) -> (Self, Arc<Batch>) {
        let mut core = Self::new(me);
        let one = bundle(1, 0);
        core.ordering.submit(Arc::clone(&one), core.now).unwrap();
        let batch = batch_of(WALL_MS, &[one]);
        core.propose(LEADER, 1, &batch);
        core.sync();
        (core, batch)
    }
}

/// Effects in short.
fn short(effects: &[Effect]) -> Vec<String> {
    let votes =
        |votes: &[DurableVote]| votes.iter().map(|vote| vote.sequence().to_string()).collect::<Vec<_>>().join(" ");
    let one = |effect: &Effect| match effect {
        Effect::Log(Record::PrePrepared { sequence, .. }) => format!("log Q {sequence}"),
        Effect::Log(Record::Prepared { sequence, .. }) => format!("log P {sequence}"),
        Effect::Log(Record::Decided { sequence, .. }) => format!("log decided {sequence}"),
        Effect::Log(Record::Learned { sequence, .. }) => format!("log learned {sequence}"),
        Effect::Log(Record::Chosen { sequence, .. }) => format!("log Q again {sequence}"),
        Effect::Log(Record::Leaves { view, .. }) => format!("log leaves for {view}"),
        Effect::Log(Record::Enters(new_view)) => format!("log enters {}", new_view.view),
        Effect::Log(Record::Begins) => "log begins".into(),
        Effect::Log(Record::Abstains) => "log abstains".into(),
        Effect::Log(Record::Leads { view }) => format!("log leads {view}"),
        Effect::Log(Record::Checkpoint(statement)) => format!("log checkpoint {}", statement.sequence),
        Effect::Log(Record::Stable(certificate)) => format!("log stable {}", certificate.sequence()),
        Effect::Log(Record::Voted { sequence, .. }) => format!("log voted {sequence}"),
        Effect::Log(Record::Cosigned(head)) => format!("log cosigned {}", head.size),
        Effect::Diverged(sequence) => format!("diverged {sequence}"),
        Effect::Send(to, message) => {
            let to = if let To::One(peer) = to { format!("to {peer} ") } else { String::new() };
            let what = match message {
                Outgoing::PrePrepare(proposal) => format!("PRE-PREPARE {}", proposal.sequence),
                Outgoing::Prepare(prepares) => format!("PREPARE {}", votes(prepares)),
                Outgoing::Commit(commits) => format!("COMMIT {}", votes(commits)),
                Outgoing::Decided(decided) => format!("DECIDED {}", decided.len()),
                Outgoing::Status(_) => "status".into(),
                Outgoing::FetchBatch(sequence, _) => format!("fetch {sequence}"),
                Outgoing::ViewChange(change) => format!("VIEW-CHANGE {}", change.view()),
                Outgoing::NewView(new_view) => format!("NEW-VIEW {}", new_view.view),
                Outgoing::Checkpoint(signed) => format!("CHECKPOINT {}", signed.statement.sequence),
                Outgoing::Stable(certificate) => format!("stable {}", certificate.sequence()),
                Outgoing::Relay(_) => "relay".into(),
            };
            to + &what
        }
        Effect::Execute(sequence, _) => format!("execute {sequence}"),
        Effect::SupplyBatch(to, sequence, _) => format!("supply {sequence} to {to}"),
        Effect::SupplyLoggedBatch(to, sequence, _) => format!("supply logged {sequence} to {to}"),
        Effect::SupplyDecided(to, first) => format!("supply decided from {first} to {to}"),
        Effect::Report(replica, what) | Effect::Prove(replica, what, _) => {
            format!("report {replica} {}", what.to_string().split(' ').next().unwrap())
        }
    };
    effects.iter().map(one).collect()
}

fn open(sequence: Sequence, proposed: bool, prepares: u32, commits: u32) -> Vec<OpenSlot> {
    vec![OpenSlot { sequence, proposed, prepares, commits }]
}

#[test]
fn a_leader_proposes_before_its_sync_votes_after_it_and_commits_fast_when_all_prepare() {
    let (mut core, batch) = Core::leader_with_proposal(1);
    let digest = batch.digest();
    assert_eq!(short(&core.sync()), ["PREPARE 1"]);
    assert!(core.prepare(1, 1, digest).is_empty());
    // A quorum stages P; the last PREPARE decides at once.
    assert_eq!(short(&core.prepare(2, 1, digest)), ["log P 1"]);
    assert_eq!(short(&core.prepare(3, 1, digest)), ["log decided 1", "execute 1"]);
}

#[test]
fn a_backup_votes_after_its_syncs_and_executes_on_a_quorum_of_commits() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    core.ordering.submit(Arc::clone(&one), core.now).unwrap();
    let batch = batch_of(WALL_MS, &[one]);
    assert_eq!(short(&core.propose(LEADER, 1, &batch)), ["log Q 1"]);
    assert_eq!(short(&core.sync()), ["PREPARE 1"]);
    core.prepare(0, 1, batch.digest());
    assert_eq!(short(&core.prepare(2, 1, batch.digest())), ["log P 1"]);
    assert_eq!(short(&core.sync()), ["COMMIT 1"]);
    assert!(core.commit(0, 1, batch.digest()).is_empty());
    assert_eq!(short(&core.commit(2, 1, batch.digest())), ["log decided 1", "execute 1"]);
}

#[test]
fn all_prepares_in_one_round_need_no_commit() {
    let (mut core, batch) = Core::backup_with_q(1);
    for from in [0, 2, 3] {
        let mut body = Vec::new();
        Votes { view: 0, votes: vec![Vote { sequence: 1, digest: batch.digest().0 }] }.encode(&mut body);
        core.ordering.on_prepares(ReplicaId(from), Votes::access(&body).unwrap());
    }
    assert_eq!(short(&core.flush()), ["log decided 1", "execute 1"]);
}

#[test]
fn a_backup_takes_sequences_in_order() {
    let mut core = Core::new(1);
    let (one, two) = (bundle(1, 0), bundle(2, 0));
    for bundle in [&one, &two] {
        core.ordering.submit(Arc::clone(bundle), core.now).unwrap();
    }
    assert!(core.propose(LEADER, 2, &batch_of(WALL_MS, &[two])).is_empty());
    assert_eq!(short(&core.propose(LEADER, 1, &batch_of(WALL_MS, &[one]))), ["log Q 1", "log Q 2"]);
}

#[test]
fn a_missing_bundle_is_waited_for_then_asked_of_the_leader_then_of_all() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    let batch = batch_of(WALL_MS, &[Arc::clone(&one)]);
    assert!(core.propose(LEADER, 1, &batch).is_empty());
    core.now = at(core.ordering.next_deadline_us().max(5_000));
    assert_eq!(short(&core.flush()), ["to 0 fetch 1"]);
    core.now = at(100_000);
    assert_eq!(short(&core.flush()), ["fetch 1"]);
    assert_eq!(core.ordering.wants(1, batch.digest()), Some(Wanted::Proposed));
    core.ordering.on_batch(1, batch, core.now);
    assert_eq!(short(&core.flush()), ["log Q 1"]);
}

#[test]
fn a_second_digest_for_a_sequence_is_equivocation_and_gets_no_vote() {
    let (mut core, _) = Core::backup_with_q(1);
    let other = batch_of(WALL_MS + 1, &[bundle(2, 0)]);
    let effects = core.propose(LEADER, 1, &other);
    assert!(matches!(effects[..], [Effect::Report(LEADER, Misbehaviour::Equivocation { sequence: 1, .. })]));
}

#[test]
fn only_the_leader_may_propose() {
    let mut core = Core::new(1);
    let effects = core.propose(ReplicaId(2), 1, &batch_of(WALL_MS, &[bundle(1, 0)]));
    assert!(matches!(effects[..], [Effect::Report(ReplicaId(2), Misbehaviour::NotLeader { view: 0 })]));
}

#[test]
fn a_time_ahead_of_the_drift_bound_is_misbehaviour_and_one_behind_is_late() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    core.ordering.submit(Arc::clone(&one), core.now).unwrap();
    let effects = core.propose(LEADER, 1, &batch_of(WALL_MS + 101, &[Arc::clone(&one)]));
    assert!(matches!(effects[..], [Effect::Report(LEADER, Misbehaviour::Drift { drift_ms: 101, .. })]));
    assert!(core.propose(LEADER, 1, &batch_of(WALL_MS - 101, &[Arc::clone(&one)])).is_empty());
    assert_eq!(short(&core.propose(LEADER, 1, &batch_of(WALL_MS - 100, &[one]))), ["log Q 1"]);
}

#[test]
fn a_batch_digest_is_recomputed() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    core.ordering.submit(Arc::clone(&one), core.now).unwrap();
    let honest = batch_of(WALL_MS, &[Arc::clone(&one)]);
    let lie = PrePrepare {
        view: 0,
        sequence: 1,
        time_ms: WALL_MS + 1,
        digest: honest.digest().0,
        bundles: vec![one.digest().0],
    };
    let effects = core.propose_as(LEADER, &lie);
    assert!(matches!(effects[..], [Effect::Report(LEADER, Misbehaviour::WrongDigest { sequence: 1 })]));
}

#[test]
fn empty_batches_and_batches_with_a_bundle_twice_are_refused() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    core.ordering.submit(Arc::clone(&one), core.now).unwrap();
    for bundles in [vec![], vec![Arc::clone(&one), one]] {
        let effects = core.propose(LEADER, 1, &batch_of(WALL_MS, &bundles));
        assert!(matches!(effects[..], [Effect::Report(LEADER, Misbehaviour::BatchLimits { sequence: 1 })]));
    }
}

#[test]
fn an_idle_leader_orders_nothing() {
    let mut core = Core::new(0);
    for second in 0..100 {
        core.now = at(second * 1_000_000);
        assert!(core.flush().is_empty());
    }
}

#[test]
fn a_repeated_vote_of_a_replica_counts_once() {
    let (mut core, batch) = Core::backup_with_q(1);
    for _ in 0..5 {
        assert!(core.prepare(2, 1, batch.digest()).is_empty());
    }
    for _ in 0..5 {
        assert!(core.commit(2, 1, batch.digest()).is_empty());
    }
}

#[test]
fn votes_of_another_view_do_not_count() {
    let (mut core, batch) = Core::backup_with_q(1);
    for from in [0, 2, 3] {
        assert!(core.votes(Ordering::on_prepares, from, 1, &[(1, batch.digest())]).is_empty());
    }
    // COMMITs of different views make no quorum together.
    for from in [0, 2, 3] {
        let view = u64::from(from);
        assert!(core.votes(Ordering::on_commits, from, view, &[(1, batch.digest())]).is_empty());
    }
}

#[test]
fn two_votes_of_a_replica_for_one_sequence_are_equivocation() {
    let (mut core, batch) = Core::backup_with_q(1);
    core.prepare(2, 1, batch.digest());
    assert_eq!(short(&core.prepare(2, 1, Digest([9; 32]))), ["report 2 two"]);
    core.commit(2, 1, batch.digest());
    assert_eq!(short(&core.commit(2, 1, Digest([9; 32]))), ["report 2 two"]);
}

#[test]
fn decided_of_one_replica_is_not_enough_and_of_two_is() {
    let (mut core, batch) = Core::backup_with_q(1);
    assert!(core.decided(2, 1, batch.digest()).is_empty());
    assert!(core.decided(2, 1, batch.digest()).is_empty());
    assert_eq!(short(&core.decided(3, 1, batch.digest())), ["log decided 1", "execute 1"]);
}

#[test]
fn a_decided_body_that_is_missing_is_asked_of_who_vouched() {
    let mut core = Core::new(1);
    let batch = batch_of(WALL_MS, &[bundle(1, 0)]);
    core.decided(2, 1, batch.digest());
    let fetch = short(&core.decided(3, 1, batch.digest()));
    assert!(fetch == ["to 2 fetch 1"] || fetch == ["to 3 fetch 1"], "{fetch:?}");
    assert_eq!(core.ordering.wants(1, batch.digest()), Some(Wanted::Decided));
    core.ordering.on_batch(1, batch, core.now);
    assert_eq!(short(&core.flush()), ["log learned 1", "execute 1"]);
}

#[test]
fn a_quorum_of_commits_without_the_body_asks_for_it() {
    let mut core = Core::new(1);
    let batch = batch_of(WALL_MS, &[bundle(1, 0)]);
    for from in [0, 2] {
        assert!(core.commit(from, 1, batch.digest()).is_empty());
    }
    assert_eq!(short(&core.commit(3, 1, batch.digest())), ["to 0 fetch 1"]);
}

/// Found by seed 601: the proposal came after the decision, and nothing looked at the decision again.
#[test]
fn a_proposal_that_comes_after_its_decision_is_executed() {
    let mut core = Core::new(1);
    let one = bundle(1, 0);
    let batch = batch_of(WALL_MS, &[Arc::clone(&one)]);
    for from in [0, 2, 3] {
        core.commit(from, 1, batch.digest());
    }
    core.ordering.submit(one, core.now).unwrap();
    assert_eq!(short(&core.propose(LEADER, 1, &batch)), ["log Q 1", "log decided 1", "execute 1"]);
}

/// A proposal that waits for an earlier sequence is accepted once that was executed by what peers say.
#[test]
fn a_proposal_behind_a_sequence_that_was_told_is_accepted() {
    let mut core = Core::new(1);
    let (one, two) = (bundle(1, 0), bundle(2, 0));
    core.ordering.submit(Arc::clone(&two), core.now).unwrap();
    core.propose(LEADER, 2, &batch_of(WALL_MS, &[two]));
    let first = batch_of(WALL_MS, &[one]);
    core.decided(2, 1, first.digest());
    core.decided(3, 1, first.digest());
    core.ordering.on_batch(1, first, core.now);
    assert_eq!(short(&core.flush()), ["log learned 1", "execute 1", "log Q 2"]);
}

#[test]
fn a_peer_in_the_dark_gets_decided_and_then_a_commit() {
    let (mut core, batch) = Core::backup_with_q(1);
    for from in [0, 2, 3] {
        core.prepare(from, 1, batch.digest());
    }
    core.sync();
    let (mut fast, batch) = Core::backup_with_q(1);
    for from in [0, 2, 3] {
        let mut body = Vec::new();
        Votes { view: 0, votes: vec![Vote { sequence: 1, digest: batch.digest().0 }] }.encode(&mut body);
        fast.ordering.on_prepares(ReplicaId(from), Votes::access(&body).unwrap());
    }
    fast.flush();
    assert_eq!(short(&fast.commit(2, 1, batch.digest())), ["to 2 DECIDED 1", "log P 1"]);
    assert_eq!(short(&fast.sync()), ["COMMIT 1"]);
}

/// Found by seed 0: replicas that had decided answered each other's COMMITs with COMMITs for ever.
#[test]
fn a_commit_that_left_is_not_sent_again_for_a_commit() {
    let (mut core, batch) = Core::backup_with_q(1);
    core.prepare(0, 1, batch.digest());
    core.prepare(2, 1, batch.digest());
    core.sync();
    core.commit(0, 1, batch.digest());
    core.commit(2, 1, batch.digest());
    assert_eq!(core.ordering.executed(), 1);
    assert_eq!(short(&core.commit(3, 1, batch.digest())), ["to 3 DECIDED 1"]);
}

#[test]
fn what_a_peer_lacks_by_its_status_is_sent_again() {
    let (mut core, batch) = Core::backup_with_q(1);
    assert_eq!(short(&core.status(2, 0, open(1, true, 0b0100, 0))), ["to 2 PREPARE 1"]);
    core.now = at(100_000);
    assert!(core.status(2, 0, open(1, true, 0b0110, 0)).is_empty());
    core.prepare(0, 1, batch.digest());
    core.prepare(2, 1, batch.digest());
    core.sync();
    assert_eq!(short(&core.status(3, 0, open(1, true, 0b0111, 0))), ["to 3 COMMIT 1"]);
}

#[test]
fn a_leader_proposes_again_to_whom_lacks_the_proposal() {
    let (mut core, _) = Core::leader_with_proposal(1);
    core.sync();
    for ms in [1, 100] {
        core.now = at(ms * 1_000);
        assert_eq!(short(&core.status(2, 0, Vec::new())), ["to 2 PRE-PREPARE 1", "to 2 PREPARE 1"]);
        // Who tells it in every round has it looked for no more often.
        core.now.mono_us += 1_000;
        assert!(core.status(2, 0, Vec::new()).is_empty());
    }
}

/// Found by seed 243: a replica whose COMMIT the others needed never got a proposal that the leader had executed.
#[test]
fn a_leader_proposes_again_what_it_has_executed() {
    let (mut core, batch) = Core::leader_with_proposal(1);
    core.sync();
    for from in 1..4 {
        core.prepare(from, 1, batch.digest());
    }
    core.sync();
    assert_eq!(core.ordering.executed(), 1);
    let effects = short(&core.status(2, 0, Vec::new()));
    assert!(effects.contains(&"to 2 PRE-PREPARE 1".to_owned()), "{effects:?}");
}

#[test]
fn a_restarted_replica_stands_by_its_votes() {
    let (core, batch) = Core::backup_with_q(1);
    let mut core = core.restart(1);
    core.effects();
    let other = batch_of(WALL_MS + 1, &[bundle(2, 0)]);
    assert_eq!(short(&core.propose(LEADER, 1, &other)), ["report 0 two"]);
    assert_eq!(short(&core.status(0, 0, open(1, true, 0b0001, 0))), ["to 0 PREPARE 1"]);
    core.prepare(0, 1, batch.digest());
    assert_eq!(short(&core.prepare(2, 1, batch.digest())), ["log P 1"]);
}

/// It may have proposed what its disk does not know, so it asks to be replaced.
#[test]
fn a_leader_that_restarts_proposes_no_more_and_asks_for_the_next_view() {
    let (core, _) = Core::leader_with_proposal(1);
    let mut core = core.restart(0);
    core.effects();
    core.ordering.submit(bundle(2, 0), core.now).unwrap();
    assert_eq!(short(&core.flush()), ["log leaves for 1"]);
    assert_eq!(short(&core.sync()), ["VIEW-CHANGE 1"]);
    assert!(!core.ordering.is_active());
}

#[test]
fn a_leader_that_restarts_before_it_proposed_anything_leads_on() {
    let core = Core::new(0);
    let mut core = core.restart(0);
    core.ordering.submit(bundle(2, 0), core.now).unwrap();
    assert_eq!(short(&core.flush()), ["log leads 0"]);
}

#[test]
fn a_new_client_can_start_while_one_replica_is_down() {
    let (mut core, batch) = Core::leader_with_proposal(77);
    core.sync();
    for from in [1, 2] {
        core.prepare(from, 1, batch.digest());
    }
    core.sync();
    core.commit(1, 1, batch.digest());
    assert_eq!(short(&core.commit(2, 1, batch.digest())), ["log decided 1", "execute 1"]);
}

#[test]
fn nothing_is_kept_of_sequences_outside_the_window() {
    let mut core = Core::new(1);
    for sequence in [17, 1_000, u64::MAX] {
        let digest = Digest([3; 32]);
        core.prepare(2, sequence, digest);
        core.commit(2, sequence, digest);
        core.decided(2, sequence, digest);
        core.propose(LEADER, sequence, &batch_of(WALL_MS, &[bundle(1, 0)]));
    }
    assert_eq!(core.ordering.slots(), 0);
    core.prepare(2, 16, Digest([3; 32]));
    assert_eq!(core.ordering.slots(), 1);
}

#[test]
fn a_leader_keeps_as_many_batches_open_as_it_may_and_the_rest_gathers() {
    let mut core = Core::with(0, 8, Timing { open_batches: 2, ..Timing::default() });
    core.ordering.submit(bundle(1, 0), core.now).unwrap();
    core.flush();
    assert_eq!(short(&core.sync()), ["PRE-PREPARE 1", "log Q 1"]);
    core.ordering.submit(bundle(2, 0), core.now).unwrap();
    assert_eq!(short(&core.flush()), ["PRE-PREPARE 2", "log Q 2"]);
    for identity in 3..=9 {
        core.ordering.submit(bundle(identity, 0), core.now).unwrap();
        assert!(core.flush().is_empty());
    }
    assert_eq!(core.ordering.pooled(), 9);
}

/// Seed 3000000918 found it: proposals above a certificate that is far ahead made more slots than there is room for.
#[test]
fn a_leader_far_behind_the_stable_checkpoint_proposes_nothing_outside_what_it_keeps() {
    let mut core = Core::with(0, 2, Timing { open_batches: 7, ..Timing::default() });
    core.ordering.adopt(Arc::new(forged(4)));
    core.ordering.submit(bundle(1, 0), core.now).unwrap();
    core.flush();
    let effects = short(&core.sync());
    assert!(!effects.iter().any(|effect| effect.starts_with("PRE-PREPARE")), "{effects:?}");
    assert_eq!(core.ordering.slots(), 0);
}

#[test]
fn a_bundle_that_nobody_orders_is_dropped_after_its_age() {
    let mut core = Core::new(1);
    core.ordering.submit(bundle(1, 0), core.now).unwrap();
    core.now = at(29_999_999);
    core.flush();
    assert_eq!(core.ordering.pooled(), 1);
    core.now = at(30_000_000);
    core.flush();
    assert_eq!(core.ordering.pooled(), 0);
}

#[test]
fn how_long_a_leader_has_follows_the_settings_in_force() {
    let mut core = Core::new(1);
    core.ordering.on_link(ReplicaId(0), false);
    let due_us = |core: &Core| core.ordering.suspect_timeout_us();
    assert_eq!(due_us(&core), 30_000);
    core.ordering.retime(Timing { hint_us: 75_000, ..Timing::default() });
    assert_eq!(due_us(&core), 75_000);
    core.ordering.failures = 40;
    assert_eq!(due_us(&core), 75_000 << 12);
    let factors = super::Factors { doublings: 4, ..super::Factors::default() };
    core.ordering.retime(Timing { factors, ..Timing::default() });
    assert_eq!((due_us(&core), core.ordering.new_view_timeout_us()), (30_000 << 4, 150_000 << 4));
}
