//! A receiver among sources of its own making: what it asks, what it believes, whom it reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::receive::{Act, Offered, Receiver};
use super::serve::{Questions, Shelf, history_hashes, history_piece};
use super::*;
use crate::cluster::Size;
use crate::crypto::hash::leaf_hash;
use crate::history::entry;
use crate::history::store::{EntryStore, FileStore, MemoryStore};
use crate::history::tree::HistoryTree;
use crate::ordering::checkpoint::certified;
use crate::state::Entries;
use crate::types::ReplicaId;
use crate::wire::error::Misbehaviour;
use crate::wire::message::{FetchPieces, PieceHash};

const ME: ReplicaId = ReplicaId(3);

/// A history of `count` entries, some of them long, with a state of `bytes` at its end.
struct Source {
    history: MemoryStore,
    tree: HistoryTree,
    image: Vec<u8>,
}

/// An entry that holds what looks like a bundle of so many bytes.
fn bundle_entry(index: u64, length: usize) -> Vec<u8> {
    let mut cose = vec![0xd2, 0x59];
    cose.extend_from_slice(&(length as u16 + 256).to_be_bytes());
    cose.resize(cose.len() + length + 256, index as u8);
    let mut bytes = Vec::new();
    entry::put_bundle_start(&mut bytes, index, 1_000 + index as i64, &cose, [[0u8].as_slice()].into_iter());
    entry::put_skipped(&mut bytes);
    bytes
}

fn source(count: u64, bytes: usize) -> Source {
    let (mut history, mut tree) = (MemoryStore::new(), HistoryTree::new());
    for index in 0..count {
        let bytes = bundle_entry(index, (index as usize * 7_919) % 60_000);
        history.append(&bytes, 1_000 + index as i64, &tree.append(&bytes)).unwrap();
    }
    Source { history, tree, image: (0..bytes).map(|at| (at * 31 % 251) as u8).collect() }
}

impl Source {
    fn offer(&self, sequence: Sequence) -> Offered {
        let mut hasher = Hasher::default();
        hasher.update(&self.image);
        let (bytes, hashes) = hasher.finish();
        let statement = Statement {
            sequence,
            size: self.tree.size(),
            history_root: self.tree.root(),
            state_root: leaf_hash(&self.image),
            sessions: Digest::NULL,
            members: Digest::NULL,
        };
        Offered { certificate: Arc::new(certified(statement)), bytes, digest: digest(&hashes) }
    }

    fn hashes(&self, question: &FetchPieces) -> Vec<PieceHash> {
        match question.of_state {
            false => history_hashes(&self.history, question.first, self.tree.size()),
            true => {
                let mut hasher = Hasher::default();
                hasher.update(&self.image);
                hasher.finish().1.iter().map(|hash| PieceHash { entries: 0, hash: hash.0 }).collect()
            }
        }
    }

    fn piece(&self, question: &FetchPieces) -> Vec<u8> {
        match question.of_state {
            false => history_piece(&self.history, question.first, self.tree.size()).unwrap().0,
            true => self.image.chunks(PIECE_BYTES).nth(question.first as usize).unwrap().to_vec(),
        }
    }
}

/// What a source does with a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Honest,
    Silent,
    WrongPieces,
    WrongHashes,
}

#[derive(Default)]
struct Outcome {
    complete: Option<Vec<u8>>,
    reports: Vec<(ReplicaId, Misbehaviour)>,
    stalls: BTreeMap<ReplicaId, usize>,
    asked: BTreeMap<(ReplicaId, bool), usize>,
    failed: bool,
}

/// Runs a receiver until it is complete or a simulated minute has passed.
fn take<S: EntryStore>(
    source: &Source,
    manners: [Manner; 3],
    store: &mut S,
    tree: &HistoryTree,
    end: impl Fn(&Outcome) -> bool,
) -> Outcome {
    let mut receiver = Receiver::new(ME, Size::new(4).unwrap());
    for peer in 0..3 {
        receiver.offered(ReplicaId(peer), source.offer(64));
    }
    let mut outcome = Outcome::default();
    for step in 0..6_000u64 {
        receiver.go_on(step * 10_000, 0, tree, store).unwrap();
        let acts: Vec<Act> = std::iter::from_fn(|| receiver.next_act()).collect();
        for act in acts {
            match act {
                Act::Ask(peer, question) => {
                    assert_ne!(peer, ME);
                    *outcome.asked.entry((peer, question.of_state)).or_default() += 1;
                    answer(&mut receiver, source, manners[peer.index()], peer, &question);
                }
                Act::Report(peer, what) => outcome.reports.push((peer, what)),
                Act::Stalled(peer) => *outcome.stalls.entry(peer).or_default() += 1,
                Act::Complete(_, image) => outcome.complete = Some(image),
                Act::Failed(_) => outcome.failed = true,
            }
        }
        if outcome.complete.is_some() || outcome.failed || end(&outcome) {
            break;
        }
    }
    outcome
}

fn answer(receiver: &mut Receiver, source: &Source, manner: Manner, peer: ReplicaId, question: &FetchPieces) {
    let FetchPieces { sequence, of_state, hashes, first } = *question;
    match (manner, hashes) {
        (Manner::Silent, _) => {}
        (Manner::WrongHashes, true) => {
            let mut hashes = source.hashes(question);
            hashes[0].hash[0] ^= 1;
            receiver.hashes(peer, sequence, of_state, first, hashes);
        }
        (_, true) => receiver.hashes(peer, sequence, of_state, first, source.hashes(question)),
        (Manner::WrongPieces, false) => {
            let mut piece = source.piece(question);
            *piece.last_mut().unwrap() ^= 1;
            receiver.piece(peer, sequence, of_state, first, &piece);
        }
        (_, false) => receiver.piece(peer, sequence, of_state, first, &source.piece(question)),
    }
}

fn assert_taken(source: &Source, store: &mut impl EntryStore, outcome: &Outcome) {
    assert!(!outcome.failed);
    assert_eq!(outcome.complete.as_deref(), Some(&*source.image));
    assert_eq!(store.staged(), source.tree.size());
    store.adopt().unwrap();
    for index in 0..source.tree.size() {
        assert_eq!(store.entry(index), source.history.entry(index), "entry {index}");
    }
}

#[test]
fn history_and_state_come_from_all_side_by_side() {
    let source = source(200, 3 * PIECE_BYTES + 17);
    let mut store = MemoryStore::new();
    let outcome = take(&source, [Manner::Honest; 3], &mut store, &HistoryTree::new(), |_| false);
    assert!(outcome.reports.is_empty() && outcome.stalls.is_empty());
    for peer in 0..3 {
        for of_state in [false, true] {
            assert!(outcome.asked.contains_key(&(ReplicaId(peer), of_state)), "{peer} was not asked for {of_state}");
        }
    }
    assert_taken(&source, &mut store, &outcome);
}

#[test]
fn a_source_that_lies_is_reported_and_another_is_asked() {
    for (manner, what) in [(Manner::WrongPieces, "piece"), (Manner::WrongHashes, "hash")] {
        let source = source(200, 3 * PIECE_BYTES + 17);
        let mut store = MemoryStore::new();
        let manners = [manner, Manner::Honest, Manner::Honest];
        let outcome = take(&source, manners, &mut store, &HistoryTree::new(), |_| false);
        assert!(!outcome.reports.is_empty(), "no wrong {what} was reported");
        assert!(outcome.reports.iter().all(|(peer, _)| *peer == ReplicaId(0)));
        assert_taken(&source, &mut store, &outcome);
    }
}

#[test]
fn a_source_that_stalls_is_counted_and_left_alone() {
    let source = source(300, 3 * PIECE_BYTES + 17);
    let mut store = MemoryStore::new();
    let manners = [Manner::Honest, Manner::Silent, Manner::Honest];
    let outcome = take(&source, manners, &mut store, &HistoryTree::new(), |_| false);
    let stalls = outcome.stalls.get(&ReplicaId(1)).copied().unwrap_or(0);
    assert!((1..=6).contains(&stalls), "{stalls} stalls");
    assert_eq!(outcome.stalls.len(), 1);
    assert_taken(&source, &mut store, &outcome);
}

#[test]
fn one_voucher_too_few_moves_nothing() {
    let source = source(20, 100);
    let mut store = MemoryStore::new();
    let mut receiver = Receiver::new(ME, Size::new(4).unwrap());
    receiver.offered(ReplicaId(0), source.offer(64));
    let other = Offered { digest: Digest([9; 32]), ..source.offer(64) };
    receiver.offered(ReplicaId(1), other);
    receiver.go_on(0, 0, &HistoryTree::new(), &mut store).unwrap();
    assert!(receiver.next_act().is_none());
    receiver.offered(ReplicaId(2), source.offer(64));
    receiver.go_on(0, 64, &HistoryTree::new(), &mut store).unwrap();
    assert!(receiver.next_act().is_none(), "what is executed is not taken");
    receiver.offered(ReplicaId(0), source.offer(64));
    receiver.offered(ReplicaId(2), source.offer(64));
    receiver.go_on(0, 0, &HistoryTree::new(), &mut store).unwrap();
    assert!(matches!(receiver.next_act(), Some(Act::Ask(..))));
}

#[test]
fn a_transfer_goes_on_with_the_next_snapshot_and_keeps_its_history() {
    let old = source(600, 1_000);
    let mut new = source(700, 2_000);
    new.image[0] ^= 1;
    let mut store = MemoryStore::new();
    let mut receiver = Receiver::new(ME, Size::new(4).unwrap());
    let offer_of = |source: &Source, receiver: &mut Receiver, sequence| {
        (0..3).for_each(|peer| receiver.offered(ReplicaId(peer), source.offer(sequence)));
    };
    offer_of(&old, &mut receiver, 64);
    let (mut complete, mut at) = (None, 0);
    for step in 0..1_000u64 {
        receiver.go_on(step * 10_000, 0, &HistoryTree::new(), &mut store).unwrap();
        if step == 4 {
            at = store.staged();
            assert!(at > 0 && at < 600, "{at}");
            // Two newer ones push the one that is being taken out.
            offer_of(&new, &mut receiver, 127);
            offer_of(&new, &mut receiver, 128);
        }
        for act in std::iter::from_fn(|| receiver.next_act()).collect::<Vec<_>>() {
            match act {
                Act::Ask(peer, question) => {
                    assert!(step <= 4 || question.of_state || question.first >= at || question.sequence == 64);
                    let source = if question.sequence == 64 { &old } else { &new };
                    answer(&mut receiver, source, Manner::Honest, peer, &question);
                }
                Act::Complete(certificate, image) => complete = Some((certificate.sequence(), image)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(complete, Some((128, new.image.clone())));
    assert_eq!(store.staged(), 700);
}

#[test]
fn what_an_earlier_attempt_left_is_not_asked_for_again() {
    let source = source(600, 1_000);
    let dir = tempfile::tempdir().unwrap();
    let genesis = Digest([5; 32]);
    let mut store = FileStore::open(dir.path(), genesis).unwrap();
    let history = |outcome: &Outcome| outcome.asked.iter().filter(|((_, state), _)| !state).map(|(_, n)| n).sum();
    let first = take(&source, [Manner::Honest; 3], &mut store, &HistoryTree::new(), |outcome| {
        let asked: usize = history(outcome);
        asked > 40
    });
    assert!(first.complete.is_none() && store.staged() > 0);
    store.written_files().unwrap();
    drop(store);
    let mut store = FileStore::open(dir.path(), genesis).unwrap();
    let second = take(&source, [Manner::Honest; 3], &mut store, &HistoryTree::new(), |_| false);
    let fresh = {
        let mut store = MemoryStore::new();
        take(&source, [Manner::Honest; 3], &mut store, &HistoryTree::new(), |_| false)
    };
    let (second_asked, fresh_asked): (usize, usize) = (history(&second), history(&fresh));
    assert!(second_asked + 15 < fresh_asked, "{second_asked} and {fresh_asked} questions");
    assert_taken(&source, &mut store, &second);
}

#[test]
fn batches_that_come_after_all_end_it() {
    let source = source(100, 1_000);
    let mut store = MemoryStore::new();
    let mut receiver = Receiver::new(ME, Size::new(4).unwrap());
    (0..3).for_each(|peer| receiver.offered(ReplicaId(peer), source.offer(64)));
    receiver.go_on(0, 0, &HistoryTree::new(), &mut store).unwrap();
    assert!(receiver.target().is_some());
    receiver.go_on(0, 64, &HistoryTree::new(), &mut store).unwrap();
    assert!(receiver.target().is_none());
    assert_eq!(store.staged(), 0);
}

#[test]
fn a_history_without_the_certified_root_is_not_used() {
    let mut source = source(50, 1_000);
    source.tree.append(b"something else");
    let mut longer = MemoryStore::new();
    for index in 0..50 {
        longer.append(&source.history.entry(index).unwrap(), 0, &[]).unwrap();
    }
    let last = bundle_entry(50, 77);
    longer.append(&last, 5_000, &[]).unwrap();
    source.history = longer;
    let mut store = MemoryStore::new();
    let outcome = take(&source, [Manner::Honest; 3], &mut store, &HistoryTree::new(), |_| false);
    assert!(outcome.failed && outcome.complete.is_none());
    assert_eq!(store.staged(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn one_faulty_source_never_prevents_it(
        entries in 1u64..120,
        bytes in 1usize..3 * PIECE_BYTES,
        bad in 0usize..3,
        manner in prop_oneof![Just(Manner::Silent), Just(Manner::WrongPieces), Just(Manner::WrongHashes)],
        have in 0u64..120,
    ) {
        let source = source(entries, bytes);
        let mut manners = [Manner::Honest; 3];
        manners[bad] = manner;
        let mut store = source.history.first(have.min(entries)).unwrap();
        let mut tree = HistoryTree::new();
        (0..store.size()).for_each(|index| { tree.append(&store.entry(index).unwrap()); });
        let outcome = take(&source, manners, &mut store, &tree, |_| false);
        prop_assert!(outcome.reports.iter().all(|(peer, _)| peer.index() == bad));
        assert_taken(&source, &mut store, &outcome);
    }
}

#[test]
fn the_shelf_keeps_two_that_are_certified() {
    let kept = |sequence: u64, certified: bool| {
        let offer = source(1, 10).offer(sequence);
        let certificate = certified.then(|| Arc::clone(&offer.certificate));
        let durable = if certified { Durable::Yes } else { Durable::No };
        Kept { statement: *offer.certificate.statement(), bytes: 10, hashes: Arc::new([]), certificate, durable }
    };
    let mut shelf = Shelf::default();
    assert!(shelf.put(kept(64, true)).is_empty());
    assert_eq!(shelf.covers(), 0);
    assert!(shelf.put(kept(128, false)).is_empty());
    assert_eq!(shelf.covers(), 0);
    assert!(shelf.get(128).is_none(), "what nobody signed is not offered");
    assert_eq!(shelf.put(kept(192, false)), [128]);
    let certificate = source(1, 10).offer(192).certificate;
    assert!(shelf.certify(&certificate));
    assert!(!shelf.certify(&certificate));
    assert!(shelf.clear_out().is_empty());
    assert_eq!(shelf.covers(), 0, "its certificate is not on the disk");
    shelf.is_durable();
    assert_eq!(shelf.covers(), 0, "and was not to be before this one");
    shelf.will_be_durable();
    assert_eq!(shelf.covers(), 0);
    shelf.is_durable();
    assert_eq!(shelf.covers(), 64);
    let mut later = shelf.clone();
    let bare = Kept { durable: Durable::No, ..kept(256, true) };
    assert_eq!(later.put(bare), [64]);
    assert_eq!((later.covers(), later.offers()), (0, 192), "what is not on the disk yet is offered all the same");
    assert_eq!(shelf.put(kept(256, true)), [64]);
    assert_eq!((shelf.covers(), shelf.offers()), (192, 192));
    assert!(shelf.get(256).is_some());
    shelf.check(|certificate| certificate.sequence() < 256);
    assert!(shelf.get(256).is_none());
}

#[test]
fn questions_are_answered_in_turn_within_a_rate() {
    let mut questions = Questions::new(4, 1_000_000);
    let question = |first| FetchPieces { sequence: 64, of_state: true, hashes: false, first };
    for first in 0..100 {
        questions.ask(ReplicaId(1), question(first));
        questions.ask(ReplicaId(2), question(first));
    }
    let turns: Vec<_> = std::iter::from_fn(|| questions.next(0)).map(|(peer, _)| peer.0).collect();
    assert_eq!(turns.len(), 2 * MAX_ASKED, "more than that does not wait");
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]));

    questions.ask(ReplicaId(1), question(0));
    questions.ask(ReplicaId(1), question(1));
    assert!(questions.next(1_000_000).is_some());
    questions.spent(600_000);
    assert!(questions.next(1_000_000).is_none());
    let due = questions.due_us().unwrap();
    assert!((1_490_000..=1_600_000).contains(&due), "{due}");
    assert!(questions.next(due + 1).is_some());
}
