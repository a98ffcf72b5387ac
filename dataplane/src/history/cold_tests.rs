use std::fs;
use std::sync::Arc;

use super::*;
use crate::history::store::{EntryStore, FileStore, Layout, MemoryStore, StoreError};
use crate::history::tree::HistoryTree;
use crate::state::Entries;
use crate::transfer::history_hashes;

const GENESIS: Digest = Digest([7; 32]);
const SEGMENT_BYTES: u64 = 8_192;
const COUNT: u64 = 300;
/// Entries under the oldest snapshot.
const SETTLED: u64 = 240;
const NOTHING: Keep = Keep { bytes: 0, ms: 0 };
const STEPS: [Step; 6] = [Step::Copied, Step::Synced, Step::Checked, Step::Renamed, Step::Told, Step::Removed];

/// Entry `i`: its length and bytes differ from its neighbours'.
fn sample(i: u64) -> (Vec<u8>, TimeMs) {
    (vec![(i % 251) as u8; (i * 37 % 900 + 1) as usize], 1_000 + 10 * i as TimeMs)
}

fn fill(store: &mut impl EntryStore) -> HistoryTree {
    let mut tree = HistoryTree::new();
    for i in 0..COUNT {
        let (entry, time) = sample(i);
        let nodes = tree.append(&entry);
        store.append(&entry, time, &nodes).unwrap();
    }
    store.flush().unwrap();
    tree
}

/// A history in many small segments, and an empty directory for cold storage.
struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
    layout: Layout,
    cold: Arc<Cold>,
    ledger: Ledger,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cold");
        fs::create_dir(&root).unwrap();
        let cold = Arc::new(Cold::new(&root, GENESIS, ReplicaId(2)));
        let layout = Layout {
            segment_bytes: SEGMENT_BYTES,
            cold: Some(Arc::clone(&cold)),
            ..Layout::new(&dir.path().join("history"), GENESIS)
        };
        fill(&mut FileStore::open_at(&layout).unwrap());
        let ledger = Ledger::open(&layout.directory, GENESIS).unwrap();
        Self { _dir: dir, root, layout, cold, ledger }
    }

    fn mover(&self, keep: Keep) -> Mover<'_> {
        Mover::new(&self.ledger, &self.cold, keep)
    }

    fn tend(&self) -> Tended {
        self.mover(NOTHING).tend(SETTLED, &mut |_| ())
    }

    fn reopen(&self) -> FileStore {
        FileStore::reopen(&self.layout, COUNT).unwrap()
    }

    fn hot(&self, segment: u64) -> PathBuf {
        segment_path(&self.layout.directory, segment)
    }

    fn copy(&self, segment: u64) -> PathBuf {
        segment_path(self.cold.folder(), segment)
    }

    fn counts(&self) -> [u64; NAMES.len()] {
        self.mover(NOTHING).count();
        self.cold.counts().map(|(_, value)| value)
    }

    /// Whether a file has the whole segment.
    fn is_whole(&self, path: &Path, segment: u64) -> bool {
        let span = self.ledger.span(segment, COUNT).unwrap();
        self.ledger.check(path, span, &mut |_| ()).is_ok()
    }
}

fn memory() -> MemoryStore {
    let mut memory = MemoryStore::new();
    fill(&mut memory);
    memory
}

/// All that can be asked of a history is as in memory.
fn assert_all(store: &FileStore) {
    let memory = memory();
    for i in 0..COUNT {
        assert_eq!(store.entry(i), memory.entry(i), "{i}");
        assert_eq!(store.run(i, COUNT, 3_000), memory.run(i, COUNT, 3_000), "{i}");
    }
    assert_eq!(store.leaf_hashes(0, COUNT), memory.leaf_hashes(0, COUNT));
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn moved_segments_are_read_where_they_are_and_leave_the_roots_without_it() {
    let place = Place::new();
    let before = place.reopen();
    let below = place.mover(NOTHING).movable_below(SETTLED);
    let all = hot(&place.layout.directory).len() as u64;
    assert!(below > 5 && below < all, "{below} of {all}");
    assert_eq!(place.tend().moved, below);
    assert_eq!(place.counts()[..3], [all - below, below, 0]);
    assert_eq!(place.tend().moved, 0);
    place.cold.probe().unwrap();
    // Both one that had the files open when they went, and one that starts now.
    for store in [before, place.reopen()] {
        assert_all(&store);
    }

    // Cold storage is gone: a start does without, and whoever asks is told that there is nothing to read.
    fs::rename(&place.root, place.root.with_extension("away")).unwrap();
    let gone = Layout { cold: Some(Arc::new(Cold::new(&place.root, GENESIS, ReplicaId(2)))), ..place.layout.clone() };
    let mut store = FileStore::reopen(&gone, COUNT).unwrap();
    assert_eq!((store.entry(0), store.run(0, COUNT, 10_000)), (None, None));
    assert!(history_hashes(&store, 0, COUNT).is_empty());
    assert_eq!(store.entry(SETTLED).unwrap(), sample(SETTLED).0);
    assert_eq!(store.leaf_hashes(0, COUNT), memory().leaf_hashes(0, COUNT));
    assert!(!store.hold_nodes(&fill(&mut MemoryStore::new())).unwrap());
    assert_eq!(place.counts()[..3], [all - below, below, below]);
    // A segment that was not moved and is not there is lost all the same.
    fs::remove_file(stub_path(&gone.directory, 1)).unwrap();
    assert!(matches!(FileStore::reopen(&gone, COUNT).unwrap_err(), StoreError::Lost { .. }));
}

#[test]
fn storage_that_does_not_answer_is_not_asked() {
    let place = Place::new();
    assert!(place.tend().moved > 0);
    let silent = Cold::new(&place.root, GENESIS, ReplicaId(2));
    let layout = Layout { cold: Some(Arc::new(silent)), ..Layout::new(&place.layout.directory, GENESIS) };
    let store = FileStore::reopen(&layout, COUNT).unwrap();
    assert_eq!(store.entry(0), None);
    layout.cold.as_ref().unwrap().probe().unwrap();
    assert_eq!(store.entry(0).unwrap(), sample(0).0);
}

#[test]
fn what_either_class_keeps_stays() {
    let place = Place::new();
    let below = |bytes, ms, settled| place.mover(Keep { bytes, ms }).movable_below(settled);
    let all = below(0, 0, SETTLED);
    let (end, _) = place.ledger.end_of(SETTLED - 1).unwrap();
    assert_eq!(below(4 * SEGMENT_BYTES, 0, SETTLED), (end - 4 * SEGMENT_BYTES) / SEGMENT_BYTES);
    assert!(below(4 * SEGMENT_BYTES, 0, SETTLED) < all);
    // Ten milliseconds an entry: what is younger than the hundredth stays, with all of its segment.
    let by_age = below(0, 10 * (SETTLED - 100), SETTLED);
    assert_eq!(by_age, place.ledger.segment_of(100).unwrap());
    assert!(place.ledger.span(by_age, SETTLED).unwrap().end > 100);
    assert_eq!(below(end, 0, SETTLED), 0);
    assert_eq!(below(0, u64::MAX, SETTLED), 0);
    assert_eq!([below(0, 0, 0), below(0, 0, 1)], [0, 0]);
    // The segment of the last settled entry never goes, even where this is its last.
    let last = place.ledger.span(3, COUNT).unwrap().end;
    assert_eq!(below(0, 0, last), 3);
}

#[test]
fn a_crash_at_any_step_leaves_a_whole_copy_and_the_next_life_goes_on() {
    for step in STEPS {
        let place = Place::new();
        let crash = |passed: Step| match passed == step {
            true => Err(ColdError::Absent { path: PathBuf::new() }),
            false => Ok(()),
        };
        let moved = place.mover(NOTHING).move_segment(2, SETTLED, &mut |_| (), &mut { crash });
        assert!(moved.is_err(), "{step:?}");
        if step == Step::Copied {
            // Not synced: the power took half of it.
            let part = OpenOptions::new().write(true).open(part_path(place.cold.folder(), 2)).unwrap();
            part.set_len(2_000).unwrap();
        }
        let (is_hot, is_cold) = (place.is_whole(&place.hot(2), 2), place.is_whole(&place.copy(2), 2));
        assert_eq!((is_hot, is_cold), (step != Step::Removed, step as u8 >= Step::Renamed as u8), "{step:?}");
        place.cold.probe().unwrap();
        assert_all(&place.reopen());

        place.mover(NOTHING).clean_up();
        let tended = place.tend();
        assert!(tended.ended.is_none() && tended.stays.is_none(), "{step:?}: {tended:?}");
        assert!(!place.hot(2).exists() && place.is_whole(&place.copy(2), 2));
        assert!(numbered(place.cold.folder(), ".part").is_empty());
        assert_all(&place.reopen());
    }
}

#[test]
fn a_rotten_segment_stays_and_a_rotten_copy_is_made_anew() {
    let place = Place::new();
    let below = place.mover(NOTHING).movable_below(SETTLED);
    flip(&place.hot(1), 3_000);
    let whole = fs::read(place.hot(4)).unwrap();
    fs::write(place.hot(4), &whole[..whole.len() - 1]).unwrap();
    // Somebody left a copy that is not right.
    fs::create_dir_all(place.cold.folder()).unwrap();
    fs::copy(place.hot(3), place.copy(3)).unwrap();
    flip(&place.copy(3), 100);
    let tended = place.tend();
    assert_eq!(tended.moved, below - 2);
    match tended.stays {
        Some(ColdError::Damaged { path, at, .. }) => {
            assert_eq!(path, place.hot(1));
            assert!((2_000..=3_000).contains(&at), "{at}");
        }
        other => panic!("{other:?}"),
    }
    assert!(place.hot(1).exists() && place.hot(4).exists() && !place.hot(3).exists());
    assert!(place.is_whole(&place.copy(3), 3));
    assert_eq!(place.counts()[4], 2);
}

#[test]
fn a_copy_that_rots_or_goes_is_named_and_can_be_brought_back() {
    let place = Place::new();
    assert!(place.tend().moved > 0);
    let other = place.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::copy(place.copy(2), segment_path(&other, 2)).unwrap();
    let span = check(&place.ledger, place.cold.folder(), 2).unwrap();
    let length = fs::metadata(place.copy(2)).unwrap().len() as usize;
    flip(&place.copy(2), length - 1);
    place.cold.probe().unwrap();
    assert_eq!(place.reopen().entry(span.end - 1), None);
    assert_eq!(place.reopen().entry(span.first).unwrap(), sample(span.first).0);
    for wrong in [check(&place.ledger, place.cold.folder(), 2), bring_back(&place.ledger, place.cold.folder(), 2)] {
        assert!(matches!(wrong, Err(ColdError::Damaged { entry, .. }) if entry == span.end - 1), "{wrong:?}");
    }
    assert!(!place.hot(2).exists() && numbered(&place.layout.directory, ".part").is_empty());
    fs::remove_file(place.copy(2)).unwrap();
    assert!(matches!(check(&place.ledger, place.cold.folder(), 2), Err(ColdError::File(StoreError::Io { .. }))));
    assert_eq!(place.counts()[2], 1);

    assert_eq!(bring_back(&place.ledger, &other, 2).unwrap(), span);
    assert!(!moved(&place.layout.directory).contains(&2));
    assert_all(&place.reopen());
    // Another segment's entries, or another cluster's, are none of this one.
    fs::copy(place.copy(3), segment_path(&other, 2)).unwrap();
    assert!(matches!(check(&place.ledger, &other, 2), Err(ColdError::Damaged { .. })));
    flip(&segment_path(&other, 2), 40);
    assert!(matches!(check(&place.ledger, &other, 2), Err(ColdError::File(StoreError::Genesis { .. }))));
    assert!(matches!(check(&place.ledger, &other, 1 << 40), Err(ColdError::Index { .. })));
}

#[test]
fn storage_that_is_full_or_not_there_loses_nothing() {
    let place = Place::new();
    let before = hot(&place.layout.directory);
    fs::rename(&place.root, place.root.with_extension("away")).unwrap();
    assert!(matches!(place.tend().ended, Some(ColdError::Absent { path }) if path == place.root));
    assert!(place.cold.probe().is_err());
    fs::rename(place.root.with_extension("away"), &place.root).unwrap();

    fs::create_dir_all(place.cold.folder()).unwrap();
    std::os::unix::fs::symlink("/dev/full", part_path(place.cold.folder(), 0)).unwrap();
    let full = place.tend();
    match full.ended {
        Some(ColdError::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
        other => panic!("{other:?}"),
    }
    assert_eq!((full.moved, hot(&place.layout.directory)), (0, before));
    assert_eq!(place.counts()[4], 2);

    // There is room again. Then the storage is unmounted, and its empty mount point takes nothing.
    place.mover(NOTHING).move_segment(0, SETTLED, &mut |_| (), &mut |_| Ok(())).unwrap();
    fs::rename(&place.root, place.root.with_extension("away")).unwrap();
    fs::create_dir(&place.root).unwrap();
    assert!(matches!(place.tend().ended, Some(ColdError::Absent { path }) if path == place.cold.folder()));
    assert!(place.hot(1).exists() && fs::read_dir(&place.root).unwrap().next().is_none());
}

/// A replica without its disk writes all entries again; the copies of before are used.
#[test]
fn a_history_that_is_written_again_finds_its_old_copies() {
    let place = Place::new();
    let moved = place.tend().moved;
    let copied = place.counts()[3];
    let mut store = FileStore::open_at(&place.layout).unwrap();
    fill(&mut store);
    assert!(place.hot(0).exists());
    assert_all(&store);
    assert_eq!(place.tend().moved, moved);
    assert_eq!(place.counts()[3], copied, "nothing was copied");
    store.flush().unwrap();
    place.cold.probe().unwrap();
    assert_all(&place.reopen());
}

#[test]
fn a_directory_keeps_the_size_of_its_segments() {
    let place = Place::new();
    let layout = Layout { segment_bytes: 1 << 20, ..place.layout.clone() };
    assert_all(&FileStore::reopen(&layout, COUNT).unwrap());
    assert_eq!(place.ledger.segment_bytes(), SEGMENT_BYTES);
}
