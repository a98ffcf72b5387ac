use std::fs;

use super::*;
use crate::crypto::hash::leaf_hash;
use crate::history::store::{EntryStore, FileStore, Layout};
use crate::history::tree::HistoryTree;

const GENESIS: Digest = Digest([7; 32]);
const COUNT: u64 = 200;

fn sample(i: u64) -> Vec<u8> {
    vec![(i % 251) as u8; (i * 37 % 900 + 1) as usize]
}

/// A history in small segments that a store has open, as a replica has.
fn history(dir: &Path) -> (PathBuf, FileStore) {
    let directory = dir.join("history");
    let layout = Layout { segment_bytes: 8_192, ..Layout::new(&directory, GENESIS) };
    let (mut store, mut tree) = (FileStore::open_at(&layout).unwrap(), HistoryTree::new());
    for i in 0..COUNT {
        let nodes = tree.append(&sample(i));
        store.append(&sample(i), 10 * i as i64, &nodes).unwrap();
    }
    store.flush().unwrap();
    (directory, store)
}

fn read_all(files: &mut HistoryFiles) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < COUNT {
        all.extend(files.entries(all.len() as u64, 7.min(COUNT - all.len() as u64)).unwrap());
    }
    all
}

#[test]
fn what_a_store_wrote_is_read_beside_it_wherever_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, _store) = history(dir.path());
    let cold = dir.path().join("cold");
    fs::create_dir(&cold).unwrap();
    let mut files = HistoryFiles::open(&directory, GENESIS, Some(&cold)).unwrap();
    let expected: Vec<_> = (0..COUNT).map(sample).collect();
    assert_eq!(files.size().unwrap(), COUNT);
    assert_eq!(read_all(&mut files), expected);
    let leaves = files.leaf_hashes(3, COUNT - 3).unwrap();
    assert_eq!(leaves, expected[3..].iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>());
    // A segment moves while it is read, as to cold storage.
    files.entries(0, 1).unwrap();
    fs::rename(directory.join("entries-0"), cold.join("entries-0")).unwrap();
    assert_eq!(read_all(&mut files), expected);
    let before: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!before.contains(&"entries-0".into()), "nothing is made");
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, store) = history(dir.path());
    drop(store);
    let other = HistoryFiles::open(&directory, Digest([8; 32]), None).unwrap_err();
    assert!(other.to_string().contains("belongs to another cluster"), "{other}");
    let mut files = HistoryFiles::open(&directory, GENESIS, None).unwrap();
    fs::remove_file(directory.join("entries-1")).unwrap();
    let missing = (0..COUNT).find_map(|entry| files.entries(entry, 1).err()).unwrap();
    assert!(missing.to_string().contains("entries-1"), "{missing}");
    // A record that no entry can have.
    let mut index = fs::read(directory.join("index")).unwrap();
    index[64 + 24 * 5 + 16..64 + 24 * 5 + 20].fill(0xff);
    fs::write(directory.join("index"), index).unwrap();
    let damaged = files.entries(5, 1).unwrap_err();
    assert!(damaged.to_string().contains("the record of entry 5 is damaged"), "{damaged}");
    assert!(files.leaf_hashes(COUNT - 1, 2).is_err(), "beyond the end");
    assert!(HistoryFiles::open(dir.path(), GENESIS, None).is_err());
}
