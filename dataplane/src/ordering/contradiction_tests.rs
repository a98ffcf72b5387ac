//! Each contradiction is reported once it is there, with what convicts it; repetitions are not.

use super::checkpoint::Statement;
use super::seal::{self, Seals};
use super::view_change::{SignedNewView, SignedViewChange, lies};
use super::{Agreed, Effect, Ordering, Timing};
use crate::cluster::Size;
use crate::crypto::keys::SecretKey;
use crate::crypto::verify;
use crate::evidence::Sealed;
use crate::types::{Digest, Now, ReplicaId, Signature};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;
use crate::wire::message::{self, Decided, Vote, Votes};

const NOW: Now = Now { mono_us: 1_000, wall_ms: 1_790_000_000_000 };
const ONE: Digest = Digest([1; 32]);
const OTHER: Digest = Digest([2; 32]);
const LIAR: ReplicaId = ReplicaId(3);

fn agreed() -> Agreed {
    Agreed { size: Size::new(4).unwrap(), window: 8, interval: 8, drift_ms: 100 }
}

/// Replica 2, which listens.
struct Witness(Ordering);

type Charge = (ReplicaId, Misbehaviour, Vec<Sealed>);

impl Witness {
    fn new() -> Self {
        let mut ordering = Ordering::new(ReplicaId(2), agreed(), Timing::default(), seal::sample(2));
        ordering.start(NOW);
        Self(ordering)
    }

    /// What was reported since the last call. The messages must convict the accused before anybody who has its key.
    fn charges(&mut self) -> Vec<Charge> {
        let mut charges = Vec::new();
        self.0.flush(NOW);
        while let Some(effect) = self.0.next_effect() {
            match effect {
                Effect::Report(replica, what) => charges.push((replica, what, Vec::new())),
                Effect::Prove(replica, what, messages) => {
                    assert_eq!(messages.first().map(|message| message.replica), Some(replica));
                    messages.iter().for_each(third_party_verifies);
                    charges.push((replica, what, messages));
                }
                _ => {}
            }
        }
        charges
    }

    fn vote(&mut self, kind: Kind, view: u64, sequence: u64, digest: Digest) -> Vec<Charge> {
        let mut body = Vec::new();
        Votes { view, votes: vec![Vote { sequence, digest: digest.0 }] }.encode(&mut body);
        let votes = Votes::access(&body).unwrap();
        match kind {
            Kind::Prepare => self.0.on_prepares(LIAR, votes),
            _ => self.0.on_commits(LIAR, votes),
        }
        self.charges()
    }

    fn decided(&mut self, from: u8, sequence: u64, digest: Digest) -> Vec<Charge> {
        let mut body = Vec::new();
        message::encode(&Decided { decided: vec![Vote { sequence, digest: digest.0 }] }, &mut body);
        self.0.on_decided(ReplicaId(from), message::access::<Decided>(&body).unwrap());
        self.charges()
    }

    fn checkpoint(&mut self, from: u8, state: u8, forged: bool) -> Vec<Charge> {
        let body = statement(state).bytes().to_vec();
        let signer = if forged { 0 } else { from };
        let signature = seal::sample(signer).sign(b"atlas-checkpoint/1", &body);
        let mut encoded = Vec::new();
        message::encode(&message::Checkpoint { body, signature: signature.0 }, &mut encoded);
        self.0.on_checkpoint(ReplicaId(from), message::access::<message::Checkpoint>(&encoded).unwrap());
        self.charges()
    }

    fn view_change(&mut self, from: ReplicaId, (body, signature): (Vec<u8>, Signature)) -> Vec<Charge> {
        let mut encoded = Vec::new();
        message::encode(&message::ViewChange { body, signature: signature.0 }, &mut encoded);
        self.0.on_view_change(from, message::access::<message::ViewChange>(&encoded).unwrap(), NOW);
        self.charges()
    }

    fn new_view(&mut self, from: ReplicaId, body: &[u8], signature: &Signature) -> Vec<Charge> {
        let mut encoded = Vec::new();
        message::encode(&message::NewView { body: body.to_vec(), signature: signature.0 }, &mut encoded);
        self.0.on_new_view(from, message::access::<message::NewView>(&encoded).unwrap(), NOW);
        self.charges()
    }
}

fn statement(state: u8) -> Statement {
    let root = Digest([state; 32]);
    Statement { sequence: 8, size: 1, history_root: root, state_root: root, sessions: root, members: root }
}

/// As PROTOCOL.md has it, by nothing but public keys: context, epoch, origin, body.
fn third_party_verifies(message: &Sealed) {
    let context: &[u8] = match message.kind {
        Kind::Checkpoint => b"atlas-checkpoint/1",
        Kind::ViewChange => b"atlas-view-change/1",
        Kind::NewView => b"atlas-new-view/1",
        other => panic!("nobody signs {other:?}"),
    };
    let origin = b"atlas.example/test";
    let signed = [context, &0u32.to_be_bytes(), &(origin.len() as u32).to_be_bytes(), origin, &message.body].concat();
    let key = SecretKey::from_seed(&[200 + message.replica.0; 32]).public();
    assert!(verify(&key, &signed, &message.signature), "{message:?}");
}

fn kinds(charges: &[Charge]) -> Vec<(u8, &'static str, usize)> {
    charges.iter().map(|(replica, what, messages)| (replica.0, what.kind(), messages.len())).collect()
}

#[test]
fn two_votes_of_one_replica_contradict_each_other() {
    for (first, second) in [
        (Kind::Prepare, Kind::Prepare),
        (Kind::Commit, Kind::Commit),
        (Kind::Prepare, Kind::Commit),
        (Kind::Commit, Kind::Prepare),
    ] {
        let mut witness = Witness::new();
        assert_eq!(kinds(&witness.vote(first, 0, 1, ONE)), []);
        assert_eq!(kinds(&witness.vote(first, 0, 1, ONE)), [], "a repetition is nothing");
        assert_eq!(kinds(&witness.vote(second, 0, 1, ONE)), []);
        let charges = witness.vote(second, 0, 1, OTHER);
        let what = Misbehaviour::Equivocation { view: 0, sequence: 1, first: ONE, second: OTHER };
        assert_eq!(charges, [(LIAR, what, vec![])], "{first:?}, {second:?}");
        assert_eq!(what.digests(), [ONE, OTHER]);
    }
    // In another view a replica may commit to something else.
    let mut witness = Witness::new();
    assert_eq!(kinds(&witness.vote(Kind::Commit, 0, 1, ONE)), []);
    assert_eq!(kinds(&witness.vote(Kind::Commit, 1, 1, OTHER)), []);
}

#[test]
fn who_denies_what_is_decided_lies() {
    let mut witness = Witness::new();
    assert_eq!(kinds(&witness.decided(3, 1, OTHER)), []);
    assert_eq!(kinds(&witness.decided(0, 1, ONE)), []);
    // Two of four make it decided; replica 3 said something else before, and says it again.
    assert_eq!(kinds(&witness.decided(1, 1, ONE)), [(3, "wrong_decided", 0)]);
    assert_eq!(kinds(&witness.decided(3, 1, OTHER)), [(3, "wrong_decided", 0)]);
    assert_eq!(kinds(&witness.decided(0, 1, ONE)), []);
}

#[test]
fn two_states_at_a_checkpoint_convict() {
    let mut witness = Witness::new();
    assert_eq!(kinds(&witness.checkpoint(3, 1, false)), []);
    assert_eq!(kinds(&witness.checkpoint(3, 1, false)), []);
    assert_eq!(kinds(&witness.checkpoint(3, 2, false)), [(3, "two_checkpoints", 2)]);
    // What nobody signed convicts nobody of two states.
    assert_eq!(kinds(&witness.checkpoint(1, 2, true)), [(1, "bad_signature", 0)]);
}

#[test]
fn a_state_against_a_quorum_convicts_with_the_quorum_beside_it() {
    let mut witness = Witness::new();
    assert_eq!(kinds(&witness.checkpoint(3, 2, false)), []);
    assert_eq!(kinds(&witness.checkpoint(0, 1, false)), []);
    assert_eq!(kinds(&witness.checkpoint(1, 1, false)), []);
    // A quorum of three needs the witness itself, as a certificate from elsewhere has it.
    let body = statement(1).bytes();
    let mut certificate = body.to_vec();
    certificate.extend_from_slice(&3u32.to_le_bytes());
    for index in 0..3 {
        certificate.push(index);
        certificate.extend_from_slice(&seal::sample(index).sign(b"atlas-checkpoint/1", &body).0);
    }
    let mut encoded = Vec::new();
    message::encode(&message::Stable { certificate }, &mut encoded);
    witness.0.on_stable(ReplicaId(0), message::access::<message::Stable>(&encoded).unwrap());
    assert_eq!(kinds(&witness.charges()), [(3, "wrong_checkpoint", 4)]);
    // And again, when it is too late to count.
    assert_eq!(kinds(&witness.checkpoint(3, 2, false)), [(3, "wrong_checkpoint", 4)]);
    assert_eq!(kinds(&witness.checkpoint(1, 1, false)), []);
    assert_eq!(kinds(&witness.checkpoint(1, 2, true)), [(1, "bad_signature", 0)]);
}

#[test]
fn a_view_change_must_report_what_was_voted() {
    let seals = seal::sample(LIAR.0);
    let mut witness = Witness::new();
    witness.vote(Kind::Prepare, 0, 1, ONE);
    let silent = lies::leave(1, LIAR, &seals);
    let honest = lies::view_change(&silent.0, &seals, |report| {
        report.pre_prepared.push(super::choice::Entry { sequence: 1, digest: ONE, view: 0 });
    });
    assert_eq!(kinds(&witness.view_change(LIAR, honest.clone().unwrap())), []);
    let charges = witness.view_change(LIAR, silent.clone());
    assert_eq!(kinds(&charges), [(3, "two_view_changes", 2)]);
    assert_eq!(charges[0].2[0].body, honest.unwrap().0);

    for kind in [Kind::Prepare, Kind::Commit] {
        let mut witness = Witness::new();
        witness.vote(kind, 0, 1, ONE);
        let charges = witness.view_change(LIAR, silent.clone());
        let what = Misbehaviour::ConcealedVote { view: 1, voted_in: 0, sequence: 1, voted: ONE };
        assert_eq!((charges.len(), charges[0].1, charges[0].2.len()), (1, what, 1));
        assert_eq!(kinds(&witness.view_change(LIAR, silent.clone())), [], "a repetition is nothing");
    }
}

#[test]
fn a_view_change_that_is_not_valid_convicts_who_signed_it() {
    let seals = seal::sample(LIAR.0);
    let (body, _) = lies::leave(1, LIAR, &seals);
    // A vote in a view that is not below.
    let invalid = lies::view_change(&body, &seals, |report| {
        report.prepared.push(super::choice::Entry { sequence: 1, digest: ONE, view: 1 });
    });
    let invalid = invalid.unwrap();
    assert_eq!(kinds(&Witness::new().view_change(LIAR, invalid.clone())), [(3, "invalid_view_change", 1)]);
    // Another replica cannot put it on its signer, nor on anybody else.
    assert_eq!(kinds(&Witness::new().view_change(ReplicaId(1), invalid)), [(1, "invalid_view_change", 0)]);
}

fn new_view(set: [u8; 3], seals: &Seals) -> (Vec<u8>, Signature) {
    let changes = set.map(|index| {
        let seals = seal::sample(index);
        let (body, signature) = lies::leave(1, ReplicaId(index), &seals);
        SignedViewChange::open(&body, signature, &agreed(), &seals).unwrap()
    });
    let set: Vec<_> = changes.iter().collect();
    let new_view = SignedNewView::own(1, ReplicaId(1), &set, &agreed(), seals).unwrap();
    let (body, signature) = new_view.parts();
    (body.to_vec(), *signature)
}

#[test]
fn a_new_view_that_does_not_follow_convicts_its_leader() {
    let seals = seal::sample(1);
    let (body, signature) = new_view([0, 1, 2], &seals);
    let (wrong, signed) = lies::choices(&body, &seals, |choices| choices.push(ONE)).unwrap();
    let mut witness = Witness::new();
    assert_eq!(kinds(&witness.new_view(ReplicaId(3), &wrong, &signed)), [(1, "invalid_new_view", 1)]);
    // What the leader did not sign is on who sends it.
    assert_eq!(kinds(&witness.new_view(ReplicaId(3), &wrong, &signature)), [(3, "bad_signature", 0)]);
    assert_eq!(kinds(&witness.new_view(ReplicaId(3), &body, &signature)), []);
    assert_eq!(kinds(&witness.new_view(ReplicaId(0), &body, &signature)), [], "a repetition is nothing");
    let (second, signed) = new_view([0, 1, 3], &seals);
    assert_eq!(kinds(&witness.new_view(ReplicaId(0), &second, &signed)), [(1, "two_new_views", 2)]);
}
