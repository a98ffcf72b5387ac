use std::sync::mpsc::channel;

use super::*;
use crate::ordering::checkpoint::certified;
use crate::replica::snapshots::Save;

const GENESIS: Digest = Digest([6; 32]);

fn statement(sequence: Sequence) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: sequence, history_root: none, state_root: none, sessions: none, members: none }
}

fn writer(data: &Path) -> SnapshotWriter {
    SnapshotWriter { dir: data.join("state"), genesis: GENESIS, files: Vec::new(), certificates: Vec::new() }
}

fn image(sequence: Sequence) -> Vec<u8> {
    (0..2 * PIECE_BYTES as u64 + 99).map(|at| (at * sequence % 251) as u8).collect()
}

/// Keeps a certified snapshot of each sequence.
fn keep(data: &Path, sequences: &[Sequence]) -> Vec<Kept> {
    let mut writer = writer(data);
    let save = |sequence: &Sequence| {
        let certificate = Some(Arc::new(certified(statement(*sequence))));
        let save = Save::taken(statement(*sequence), certificate, Vec::new(), Arc::new(image(*sequence)));
        match writer.save(&save) {
            Outcome::Kept(kept) => kept,
            Outcome::NoRoom(_) => panic!("no room"),
            Outcome::Failed(error) => panic!("{error}"),
        }
    };
    sequences.iter().map(save).collect()
}

#[test]
fn what_was_kept_is_found_again_and_its_pieces_are_those_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let kept = keep(dir.path(), &[64, 128]);
    let (shelf, damaged) = load(dir.path(), GENESIS).unwrap();
    assert_eq!(shelf.all(), kept);
    for sequence in [64, 128] {
        assert_eq!(super::image(dir.path(), GENESIS, sequence).unwrap(), Some(image(sequence)));
    }
    assert!(damaged.is_empty());
    assert_eq!(shelf.covers(), 64);

    let (done, outcomes) = channel::<Outcome>();
    let (orders, _to_do) = channel::<Order>();
    drop(done);
    let mut files = SnapshotFiles { dir: dir.path().join("state"), orders, outcomes, open: None };
    for sequence in [64, 128, 64] {
        for (number, piece) in image(sequence).chunks(PIECE_BYTES).enumerate() {
            assert_eq!(files.piece(sequence, number as u64).as_deref(), Some(piece));
        }
        assert_eq!(files.piece(sequence, 3), None);
        assert_eq!(files.piece(sequence, u64::MAX), None);
    }
    assert_eq!(files.piece(192, 0), None);
}

#[test]
fn what_is_dropped_goes_and_what_was_not_finished_too() {
    let dir = tempfile::tempdir().unwrap();
    keep(dir.path(), &[64, 128]);
    let state = dir.path().join("state");
    fs::write(state.join("192.tmp"), b"half").unwrap();
    let files = SnapshotFiles::start(dir.path(), GENESIS, || {}).unwrap();
    files.remove(&[64]);
    let save = Save::taken(statement(192), None, Vec::new(), Arc::new(image(192)));
    files.save(save);
    let outcome = files.outcomes.recv().unwrap();
    assert!(matches!(outcome, Outcome::Kept(kept) if kept.sequence() == 192 && kept.certificate.is_none()));
    let mut names: Vec<_> = super::files(&state).map(|path| path.file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["128.certificate", "128.snapshot", "192.snapshot"]);
}

#[test]
fn any_flipped_bit_sends_the_start_to_the_snapshot_before() {
    let dir = tempfile::tempdir().unwrap();
    keep(dir.path(), &[64, 128]);
    let path = dir.path().join("state/128.snapshot");
    let whole = fs::read(&path).unwrap();
    let spread = (0..HEADER_BYTES).chain((HEADER_BYTES..whole.len()).step_by(40_009)).chain([whole.len() - 1]);
    for at in spread {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        let (shelf, damaged) = load(dir.path(), GENESIS).unwrap();
        assert_eq!(shelf.all().iter().map(Kept::sequence).collect::<Vec<_>>(), [64], "byte {at}");
        assert_eq!(damaged, std::slice::from_ref(&path), "byte {at}");
        fs::remove_file(path.with_extension("damaged")).unwrap();
    }
    for length in [0, 100, HEADER_BYTES, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(load(dir.path(), GENESIS).unwrap().0.all().len(), 1, "{length} bytes");
        fs::remove_file(path.with_extension("damaged")).unwrap();
    }
}

#[test]
fn a_damaged_certificate_is_none() {
    let dir = tempfile::tempdir().unwrap();
    keep(dir.path(), &[64]);
    let path = dir.path().join("state/64.certificate");
    for bytes in [&b""[..], b"nothing of the kind", &certified(statement(128)).bytes()] {
        fs::write(&path, bytes).unwrap();
        let shelf = load(dir.path(), GENESIS).unwrap().0;
        assert_eq!(shelf.all()[0].certificate, None);
        assert!(shelf.get(64).is_none());
    }
}

#[test]
fn another_clusters_snapshot_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    keep(dir.path(), &[64]);
    let before = fs::read(dir.path().join("state/64.snapshot")).unwrap();
    let error = load(dir.path(), Digest([7; 32])).unwrap_err();
    assert!(matches!(error, SnapshotError::Foreign { what: "another cluster", .. }), "{error}");
    assert_eq!(fs::read(dir.path().join("state/64.snapshot")).unwrap(), before);
}

#[test]
fn what_a_snapshot_rests_on_must_be_there_to_be_synced() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("history/index");
    let save = Save::taken(statement(64), None, vec![missing.clone()], Arc::new(image(64)));
    match writer(dir.path()).save(&save) {
        Outcome::Failed(SnapshotError::Io { file, doing: "sync", .. }) => assert_eq!(file, missing),
        _ => panic!("a snapshot without its history"),
    }
    assert!(load(dir.path(), GENESIS).unwrap().0.all().is_empty());
}
