use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const GENESIS: Digest = Digest([7; 32]);

fn open_sized(directory: &Path, segment_bytes: u64) -> Result<FileStore, StoreError> {
    FileStore::open_at(&Layout { segment_bytes, ..Layout::new(directory, GENESIS) })
}

/// Entry `i`: its length and bytes differ from its neighbours'.
fn sample(i: u64) -> (Vec<u8>, TimeMs) {
    let length = (i * 37 % 900 + 1) as usize;
    (vec![(i % 251) as u8; length], 1_000 + i as TimeMs / 3)
}

/// The tree of the first `size` samples.
fn tree(size: u64) -> HistoryTree {
    let mut tree = HistoryTree::new();
    for i in 0..size {
        tree.append(&sample(i).0);
    }
    tree
}

fn fill(store: &mut impl EntryStore, count: u64, flush_every: u64) {
    let mut tree = HistoryTree::new();
    for i in 0..count {
        let (entry, time) = sample(i);
        let nodes = tree.append(&entry);
        assert_eq!(store.append(&entry, time, &nodes).unwrap(), i);
        if i % flush_every == flush_every - 1 {
            store.flush().unwrap();
        }
    }
}

fn assert_equal(left: &impl EntryStore, right: &impl EntryStore) {
    assert_eq!(left.size(), right.size());
    for level in 0..10 {
        for i in 0..(left.size() >> level) + 2 {
            assert_eq!(left.node(level, i), right.node(level, i), "node {level} {i}");
        }
    }
    for i in 0..left.size() + 2 {
        assert_eq!(left.entry(i), right.entry(i), "entry {i}");
    }
    for time in 990..1_000 + left.size() as TimeMs / 3 + 5 {
        assert_eq!(left.first_at_or_after(time), right.first_at_or_after(time), "time {time}");
    }
    assert_eq!(left.entry(u64::MAX), None);
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| read(entry.unwrap())).collect();
    files.sort();
    files
}

#[test]
fn files_hold_what_memory_holds_written_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut memory = MemoryStore::new();
    fill(&mut memory, 500, 500);
    // More segments than may be open, entries both written and waiting.
    let mut store = open_sized(directory.path(), 4_096).unwrap();
    fill(&mut store, 500, 7);
    assert!(files(directory.path()).len() > 30);
    assert_equal(&store, &memory);
    store.flush().unwrap();
    assert_equal(&store, &memory);
}

#[test]
fn a_reopened_store_is_empty_and_the_same_entries_leave_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_sized(directory.path(), 8_192).unwrap();
    fill(&mut store, 200, 9);
    store.flush().unwrap();
    drop(store);
    let before = files(directory.path());

    let mut store = open_sized(directory.path(), 8_192).unwrap();
    assert_eq!((store.size(), store.entry(0), store.first_at_or_after(0)), (0, None, 0));
    fill(&mut store, 60, 4);
    let mut memory = MemoryStore::new();
    fill(&mut memory, 60, 60);
    assert_equal(&store, &memory);
    drop(store);
    assert_eq!(files(directory.path()), before);
}

#[test]
fn a_crash_in_the_middle_of_a_write_is_made_good() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = FileStore::open(directory.path(), GENESIS).unwrap();
    fill(&mut store, 50, 50);
    drop(store);
    let before = files(directory.path());
    for name in ["index", "entries-0"] {
        for length in [0, 64, 200] {
            fs::OpenOptions::new().write(true).open(directory.path().join(name)).unwrap().set_len(length).unwrap();
            let mut store = FileStore::open(directory.path(), GENESIS).unwrap();
            fill(&mut store, 50, 50);
            assert_eq!(files(directory.path()), before);
        }
    }
}

#[test]
fn files_of_another_cluster_or_format_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(FileStore::open(directory.path(), GENESIS).unwrap());
    let other = Digest([8; 32]);
    let before = files(directory.path());
    let refused = FileStore::open(directory.path(), other).unwrap_err();
    assert!(matches!(refused, StoreError::Genesis { expected, found, .. } if expected == other && found == GENESIS));
    assert_eq!(files(directory.path()), before);

    for (file, bytes) in [("index", b"ATLSHIST\0\0\0\x02".as_slice()), ("entries-0", b"someone's notes")] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(file), bytes).unwrap();
        assert!(matches!(FileStore::open(directory.path(), GENESIS).unwrap_err(), StoreError::Format { .. }));
        assert_eq!(fs::read(directory.path().join(file)).unwrap(), bytes);
    }
}

#[test]
fn rotten_bytes_are_no_entry() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = FileStore::open(directory.path(), GENESIS).unwrap();
    fill(&mut store, 10, 10);
    let path = directory.path().join("entries-0");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.entry(9), None);
    assert_eq!(store.entry(8).unwrap(), sample(8).0);
    // A length that rotted takes no memory.
    let path = directory.path().join("index");
    let mut bytes = fs::read(&path).unwrap();
    bytes[64 + 16..64 + 20].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.entry(0), None);
}

#[test]
fn a_full_disk_and_an_entry_beyond_the_limit_have_their_errors() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("index")).unwrap();
    assert!(matches!(FileStore::open(directory.path(), GENESIS).unwrap_err(), StoreError::Full { .. }));

    let directory = tempfile::tempdir().unwrap();
    let mut store = open_sized(directory.path(), 70_000).unwrap();
    assert!(matches!(store.append(&vec![0; MAX_ENTRY + 1], 0, &[]), Err(StoreError::TooLarge(_))));
    store.append(&vec![1; MAX_ENTRY], 0, &[]).unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("entries-1")).unwrap();
    // The first waits in the buffer; the second belongs to the file that cannot grow, and stays readable.
    store.append(&vec![2; MAX_ENTRY], 0, &[]).unwrap();
    assert!(matches!(store.flush(), Err(StoreError::Full { .. })));
    assert_eq!((store.size(), store.entry(1).unwrap()[0]), (2, 2));
}

#[test]
fn a_store_goes_on_with_the_entries_that_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_sized(directory.path(), 8_192).unwrap();
    let mut store = open();
    fill(&mut store, 200, 9);
    store.flush().unwrap();
    drop(store);
    let before = files(directory.path());
    for size in [0, 1, 90, 199, 200] {
        let mut store = open().resume(size).unwrap();
        assert_eq!(store.size(), size);
        let mut tree = tree(size);
        for i in size..200 {
            let (entry, time) = sample(i);
            assert_eq!(store.append(&entry, time, &tree.append(&entry)).unwrap(), i);
        }
        let mut memory = MemoryStore::new();
        fill(&mut memory, 200, 200);
        assert_equal(&store, &memory);
        store.flush().unwrap();
        assert_eq!(files(directory.path()), before, "{size}");
    }
    assert!(matches!(open().resume(201), Err(StoreError::Lost { .. })));
}

#[test]
fn any_damage_is_found_when_a_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_sized(directory.path(), 8_192).unwrap();
    let mut store = open();
    fill(&mut store, 40, 9);
    store.flush().unwrap();
    drop(store);
    for (name, whole) in files(directory.path()) {
        let path = directory.path().join(&name);
        for at in (64..whole.len()).step_by(if name == "index" { 1 } else { 13 }) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            let opened = open().resume(40);
            if name == "nodes" {
                // They follow from the entries, and are made again.
                assert!(opened.unwrap().hold_nodes(&tree(40)).unwrap(), "byte {at}");
                assert_eq!(fs::read(&path).unwrap(), whole);
                continue;
            }
            // Times are not in the checksum: they only serve to find entries.
            let is_time = name == "index" && (8..16).contains(&((at - 64) % 24));
            assert_eq!(opened.is_ok(), is_time, "{name} byte {at}");
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn what_is_staged_counts_once_it_is_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_sized(directory.path(), 8_192).unwrap();
    fill(&mut store, 50, 7);
    let mut edge = tree(50);
    for i in 50..120 {
        let (entry, time) = sample(i);
        store.stage(&entry, time, &edge.append(&entry)).unwrap();
    }
    assert_eq!((store.size(), store.staged(), store.entry(50)), (50, 120, None));
    // An append forgets them: they are the same entries all the same.
    let (entry, time) = sample(50);
    store.append(&entry, time, &tree(50).append(&entry)).unwrap();
    assert_eq!((store.size(), store.staged()), (51, 51));
    let mut edge = tree(51);
    for i in 51..120 {
        let (entry, time) = sample(i);
        store.stage(&entry, time, &edge.append(&entry)).unwrap();
    }
    let written = store.written_files().unwrap();
    assert!(written.contains(&directory.path().join("index")) && written.len() > 3, "{written:?}");
    assert!(store.written_files().unwrap().is_empty());
    store.adopt().unwrap();
    let mut memory = MemoryStore::new();
    fill(&mut memory, 120, 120);
    assert_equal(&store, &memory);
    assert_eq!(store.left_behind(119).unwrap(), sample(119).0);
    assert_eq!(store.left_behind(120), None);
}

#[test]
fn runs_of_entries_are_the_same_from_files_and_from_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_sized(directory.path(), 8_192).unwrap();
    let mut memory = MemoryStore::new();
    fill(&mut memory, 300, 300);
    // The last ones wait to be written.
    fill(&mut store, 300, 90);
    for first in 0..302 {
        for bytes in [1, 500, 3_000, 20_000] {
            for end in [first, first + 1, 250, 300] {
                assert_eq!(store.run(first, end, bytes), memory.run(first, end, bytes), "{first} {end} {bytes}");
            }
        }
    }
}

#[test]
fn nodes_that_are_gone_are_made_again_and_another_history_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_sized(directory.path(), 8_192).unwrap();
    let mut store = open();
    fill(&mut store, 300, 50);
    assert!(!store.hold_nodes(&tree(300)).unwrap());
    drop(store);
    fs::remove_file(directory.path().join("nodes")).unwrap();
    let mut store = open().resume(300).unwrap();
    assert!(store.hold_nodes(&tree(300)).unwrap());
    assert!(!store.hold_nodes(&tree(300)).unwrap());
    let mut memory = MemoryStore::new();
    fill(&mut memory, 300, 300);
    assert_equal(&store, &memory);
    assert_eq!(store.leaf_hashes(298, 9), memory.leaf_hashes(298, 9));
    let mut other = tree(299);
    other.append(b"another entry");
    assert!(matches!(store.hold_nodes(&other), Err(StoreError::Lost { .. })));
}

/// Entries that fill many pieces written behind, some of them as long as an entry may be.
fn large(i: u64) -> (Vec<u8>, TimeMs) {
    let length = if i % 97 == 13 { MAX_ENTRY } else { 40 + (i * 7_919 % 6_000) as usize };
    ((0..length).map(|at| (i as usize * 31 + at * 7 + at / 251) as u8).collect(), 1_000 + i as i64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_written_behind_reads_as_what_is_in_memory(
        steps in prop::collection::vec((1u64..120, 0u8..4), 4..12),
        segment_kib in 700u64..3_000,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open_sized(directory.path(), segment_kib << 10).unwrap();
        let (mut memory, mut hashes) = (MemoryStore::default(), HistoryTree::new());
        for (count, then) in steps {
            for _ in 0..count {
                let index = memory.size();
                let (entry, time) = large(index);
                let nodes = hashes.append(&entry).to_vec();
                store.append(&entry, time, &nodes).unwrap();
                memory.append(&entry, time, &nodes).unwrap();
                // The last entries are the ones that move from buffer to buffer.
                let near = index.saturating_sub(index * 7 % 90);
                prop_assert_eq!(store.entry(near), memory.entry(near));
            }
            match then {
                0 => store.flush().unwrap(),
                1 => drop(store.written_files().unwrap()),
                2 => {
                    let size = memory.size();
                    store.written_files().unwrap();
                    drop(store);
                    store = open_sized(directory.path(), segment_kib << 10).unwrap().resume(size).unwrap();
                }
                _ => {}
            }
            assert_equal(&store, &memory);
            let first = memory.size() / 3;
            prop_assert_eq!(store.run(first, memory.size(), 1 << 20), memory.run(first, memory.size(), 1 << 20));
        }
        let size = memory.size();
        store.written_files().unwrap();
        drop(store);
        let store = open_sized(directory.path(), segment_kib << 10).unwrap().resume(size).unwrap();
        assert_equal(&store, &memory);
    }
}
