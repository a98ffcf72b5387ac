//! What is kept, what is not, and what a file that something happened to still gives.

use std::fs;
use std::path::Path;

use super::*;
use crate::wire::limits::MAX_ANSWER_BODY;

const GENESIS: Digest = Digest([9; 32]);
const LIAR: ReplicaId = ReplicaId(3);

fn equivocation(sequence: u64) -> Misbehaviour {
    Misbehaviour::Equivocation { view: 2, sequence, first: Digest([1; 32]), second: Digest([2; 32]) }
}

fn sealed(bytes: usize) -> Sealed {
    Sealed { kind: Kind::ViewChange, replica: LIAR, body: vec![7; bytes], signature: Signature([8; 64]) }
}

fn counts(book: &Book) -> Vec<(u8, &'static str, u64)> {
    book.counts().map(|(replica, kind, count)| (replica.0, kind, count)).collect()
}

/// Notes by means of a file, as a process does.
fn session(dir: &Path, note: impl FnOnce(&mut Book)) -> Option<String> {
    let (mut file, mut book, warning) = EvidenceFile::open(dir, GENESIS);
    note(&mut book);
    book.take_counts().into_iter().for_each(|record| file.append(record));
    file.end();
    assert_eq!(file.lost(), 0);
    warning
}

fn reopened(dir: &Path) -> (Book, Option<String>) {
    let (mut file, book, warning) = EvidenceFile::open(dir, GENESIS);
    file.end();
    (book, warning)
}

fn size(dir: &Path) -> u64 {
    fs::metadata(dir.join("evidence")).unwrap().len()
}

#[test]
fn it_survives_a_restart_as_it_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    session(dir.path(), |book| {
        book.note(LIAR, &equivocation(5), Vec::new(), 1_000);
        book.note(LIAR, &Misbehaviour::TwoViewChanges { view: 4 }, vec![sealed(300), sealed(200)], 2_000);
        (0..20).for_each(|sequence| book.note(LIAR, &equivocation(sequence), Vec::new(), 3_000));
        book.note(ReplicaId(1), &Misbehaviour::BadRelay, Vec::new(), 4_000);
    });
    let (book, warning) = reopened(dir.path());
    assert_eq!(warning, None);
    assert_eq!(counts(&book), [(1, "bad_relay", 1), (3, "equivocation", 21), (3, "two_view_changes", 1)]);
    let kept = book.kept();
    assert_eq!(kept.len(), 6, "of each kind the first {KEPT}");
    let first = &kept[0];
    assert_eq!((first.at_ms, first.replica, first.kind, first.count), (1_000, LIAR, "equivocation", 1));
    assert_eq!((first.view, first.sequence), (Some(2), Some(5)));
    assert_eq!(first.digests, [Digest([1; 32]), Digest([2; 32])]);
    assert!(first.statement.contains(&Digest([2; 32]).to_string()), "{}", first.statement);
    assert_eq!((kept[1].sequence, &kept[1].messages), (None, &vec![sealed(300), sealed(200)]));
    // The next process goes on counting.
    session(dir.path(), |book| book.note(LIAR, &equivocation(1), Vec::new(), 5_000));
    let (book, _) = reopened(dir.path());
    assert_eq!((counts(&book)[1], book.kept().len()), ((3, "equivocation", 22), 6));
}

#[test]
fn misbehaviour_without_end_takes_a_bounded_share() {
    let mut book = Book::default();
    let mut bytes = 0;
    let mut all = |book: &mut Book, times: u64| {
        for sequence in 0..times {
            book.note(LIAR, &equivocation(sequence), Vec::new(), 0);
            book.note(LIAR, &Misbehaviour::TwoViewChanges { view: sequence }, vec![sealed(1 << 20); 2], 0);
            book.note(LIAR, &Misbehaviour::TwoNewViews { view: sequence }, vec![sealed(1 << 20); 2], 0);
            bytes += book.take_records().iter().map(Vec::len).sum::<usize>();
        }
        bytes
    };
    let early = all(&mut book, 100);
    let late = all(&mut book, 20_000);
    assert!(early <= MAX_BYTES + 3 * 100 * 64, "{early}");
    assert!(late - early < 20_000, "{early}, {late}");
    let in_memory: usize = book.kept().iter().flat_map(|kept| &kept.messages).map(|message| message.body.len()).sum();
    assert!(in_memory <= MAX_SHOWN);
    // A replica that has used its share up does not use up another's, and one kind leaves room for the next.
    book.note(ReplicaId(2), &Misbehaviour::TwoViewChanges { view: 1 }, vec![sealed(100); 2], 0);
    assert_eq!(book.kept().last().map(|kept| kept.messages.len()), Some(2));
    assert_eq!(counts(&book)[2], (3, "two_new_views", 20_100));
}

#[test]
fn a_status_has_room_for_whatever_is_kept() {
    let mut book = Book::default();
    for replica in 0..MAX_REPLICAS as u8 {
        for sequence in 0..6 {
            book.note(ReplicaId(replica), &equivocation(sequence), Vec::new(), 0);
            book.note(ReplicaId(replica), &Misbehaviour::WrongCheckpoint { sequence }, vec![sealed(152); 23], 0);
            book.note(ReplicaId(replica), &Misbehaviour::TwoNewViews { view: sequence }, vec![sealed(9_000); 2], 0);
            book.note(ReplicaId(replica), &Misbehaviour::BadRelay, Vec::new(), 0);
        }
    }
    let evidence = book.shown();
    assert_eq!(evidence.len(), MAX_EVIDENCE);
    // What convicts stands first, the first of each kind before the second.
    assert!(evidence[..2 * MAX_REPLICAS].iter().all(|shown| !shown.messages.is_empty()));
    let mut body = Vec::new();
    let answer = message::StatusAnswer { evidence, ..empty() };
    message::encode(&answer, &mut body);
    assert!(body.len() < MAX_ANSWER_BODY - (100 << 10), "{}", body.len());
    assert!(message::access::<message::StatusAnswer>(&body).is_ok());
}

fn empty() -> message::StatusAnswer {
    message::StatusAnswer {
        id: 0,
        replica: 0,
        view: 0,
        leader: 0,
        sequence: 0,
        size: 0,
        history_root: [0; 32],
        state_root: [0; 32],
        state_digest: [0; 32],
        log_bytes: 0,
        resident_bytes: 0,
        anonymous_bytes: 0,
        links: 0,
        abstains: false,
        needs: 0,
        pid: 0,
        free_bytes: 0,
        low_space: false,
        version: String::new(),
        counters: Vec::new(),
        evidence: Vec::new(),
    }
}

/// A file with three pieces of evidence.
fn three(dir: &Path) -> Vec<u8> {
    session(dir, |book| {
        for view in 1..4 {
            book.note(LIAR, &Misbehaviour::TwoViewChanges { view }, vec![sealed(50); 2], 0);
        }
    });
    fs::read(dir.join("evidence")).unwrap()
}

#[test]
fn a_torn_tail_is_dropped_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = three(dir.path());
    for cut in 0..whole.len() {
        fs::write(dir.path().join("evidence"), &whole[..cut]).unwrap();
        let (book, warning) = reopened(dir.path());
        assert_eq!(warning, None, "cut to {cut}");
        let kept = book.kept().len();
        assert!(kept < 3, "cut to {cut}: {kept}");
        session(dir.path(), |book| book.note(LIAR, &Misbehaviour::BadRelay, Vec::new(), 0));
        assert_eq!(reopened(dir.path()).0.kept().len(), kept + 1, "cut to {cut}");
    }
    assert!(!dir.path().join("evidence.damaged").exists());
}

#[test]
fn damage_anywhere_is_set_aside_and_never_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let whole = three(dir.path());
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x80;
        fs::write(dir.path().join("evidence"), &damaged).unwrap();
        let (book, warning) = reopened(dir.path());
        assert!(book.kept().len() < 3, "byte {at}");
        // What the damage makes look cut short is dropped as such.
        if let Some(warning) = warning {
            assert!(warning.contains("damaged"), "{warning}");
            assert_eq!(fs::read(dir.path().join("evidence.damaged")).unwrap(), damaged);
        }
        let (again, warning) = reopened(dir.path());
        assert_eq!((again.kept(), warning), (book.kept(), None), "byte {at}");
    }
    // Another cluster's, and what cannot be a file at all.
    fs::write(dir.path().join("evidence"), &whole).unwrap();
    let (mut file, book, warning) = EvidenceFile::open(dir.path(), Digest([1; 32]));
    file.end();
    assert_eq!((book.kept().len(), warning.is_some()), (0, true));
    fs::remove_file(dir.path().join("evidence")).unwrap();
    fs::create_dir(dir.path().join("evidence")).unwrap();
    let (mut file, mut book, warning) = EvidenceFile::open(dir.path(), GENESIS);
    assert!(warning.unwrap().contains("in memory alone"));
    book.note(LIAR, &Misbehaviour::BadRelay, Vec::new(), 0);
    book.take_records().into_iter().for_each(|record| file.append(record));
    file.end();
    assert_eq!((file.lost(), book.kept().len()), (1, 1));
}

#[test]
fn superseded_counts_go_at_start() {
    let dir = tempfile::tempdir().unwrap();
    session(dir.path(), |book| {
        (0..60).for_each(|sequence| book.note(LIAR, &equivocation(sequence), Vec::new(), 0));
    });
    let before = size(dir.path());
    let (book, _) = reopened(dir.path());
    assert_eq!(counts(&book), [(3, "equivocation", 60)]);
    assert!(size(dir.path()) + 55 * 30 < before);
    let tidy = size(dir.path());
    assert_eq!(counts(&reopened(dir.path()).0), [(3, "equivocation", 60)]);
    assert_eq!(size(dir.path()), tidy);
}
