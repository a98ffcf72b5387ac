//! The same log on real files.

use std::fs;

use super::{GENESIS, Item, append, item, open, scan_all};
use crate::log::{FileDevice, LogError, MIN_SEGMENT_BYTES, Method, Recovered};
use crate::types::Digest;

fn device(dir: &std::path::Path, method: Method) -> Result<FileDevice, LogError> {
    FileDevice::open(dir, GENESIS, MIN_SEGMENT_BYTES, method)
}

fn start(dir: &std::path::Path, method: Method) -> (Recovered<Item, FileDevice>, Vec<Item>) {
    open(device(dir, method).unwrap()).unwrap()
}

#[test]
fn both_ways_of_syncing_give_the_same_log() {
    let mut contents = Vec::new();
    for method in [Method::Direct, Method::Mapped] {
        let dir = tempfile::tempdir().unwrap();
        let items: Vec<Item> = (0..60).map(|key| item(key, (key as usize * 7919) % 60_000)).collect();
        let (recovered, found) = start(dir.path(), method);
        assert!(recovered.fresh && found.is_empty());
        let mut log = recovered.log;
        for (i, one) in items.iter().enumerate() {
            append(&mut log, std::slice::from_ref(one));
            log.flush().unwrap();
            // Read through the mapping after every write: pages read before the write must not hide it.
            assert_eq!(scan_all(&mut log, 0), items[..=i]);
        }
        // Dropped without any goodbye, as kill -9 does.
        drop(log);
        let (recovered, found) = start(dir.path(), method);
        assert_eq!((found.len(), recovered.torn_bytes), (60, 0));
        assert_eq!(found, items);
        contents.push([0, 1].map(|n| fs::read(dir.path().join(format!("log/0000000{n}.seg"))).unwrap()));
    }
    assert!(contents[0] == contents[1], "the bytes on disk differ");
}

#[test]
fn a_write_in_flight_at_the_end_of_the_process_harms_nothing() {
    for method in [Method::Direct, Method::Mapped] {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Vec::new();
        for round in 0..6 {
            let (recovered, found) = start(dir.path(), method);
            assert!(found.len() >= known.len() && found[..known.len()] == known[..]);
            known = found;
            let mut log = recovered.log;
            let synced: Vec<Item> = (0..3).map(|i| item(round * 10 + i, 30_000)).collect();
            append(&mut log, &synced);
            log.flush().unwrap();
            known.extend(synced);
            append(&mut log, &[item(round * 10 + 4, 100_000)]);
            assert!(log.submit().unwrap());
            append(&mut log, &[item(round * 10 + 5, 10)]);
        }
    }
}

#[test]
fn a_second_process_is_refused_and_told_which_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = device(dir.path(), Method::Direct).unwrap();
    let error = device(dir.path(), Method::Direct).map(|_| ()).unwrap_err();
    assert!(matches!(&error, LogError::Locked { dir: named } if named == dir.path()));
    assert!(error.to_string().contains(&dir.path().display().to_string()));
    drop(first);
    assert!(device(dir.path(), Method::Direct).is_ok());
}

#[test]
fn another_clusters_directory_is_refused_with_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    drop(start(dir.path(), Method::Direct));
    let other = Digest([9; 32]);
    let foreign = FileDevice::open(dir.path(), other, MIN_SEGMENT_BYTES, Method::Direct).unwrap();
    let error = crate::log::recover::<Item, _>(foreign, other, MIN_SEGMENT_BYTES, |_| {}).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LogError::WrongCluster { .. }));
    assert!(text.contains(&other.to_string()) && text.contains(&GENESIS.to_string()), "{text}");
}

#[test]
fn truncated_and_missing_files_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (recovered, _) = start(dir.path(), Method::Direct);
    let mut log = recovered.log;
    append(&mut log, &[item(1, 900_000), item(2, 900_000)]);
    log.flush().unwrap();
    drop(log);
    let path = dir.path().join("log/00000000.seg");
    let whole = fs::read(&path).unwrap();
    for length in [0, 100, 4096, 500_000] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open(device(dir.path(), Method::Direct).unwrap()).map(|_| ()).unwrap_err();
        assert!(matches!(&error, LogError::WrongLength { file, .. } if *file == path), "{length}: {error:?}");
        assert_eq!(fs::read(&path).unwrap(), whole[..length]);
    }
    fs::remove_file(&path).unwrap();
    let error = open(device(dir.path(), Method::Direct).unwrap()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, LogError::Missing { file } if *file == path), "{error:?}");
    assert!(!path.exists());
    fs::write(&path, &whole).unwrap();
    fs::remove_file(dir.path().join("log/synced_to")).unwrap();
    let error = open(device(dir.path(), Method::Direct).unwrap()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, LogError::Missing { file } if file.ends_with("synced_to")), "{error:?}");
}

#[test]
fn a_torn_tail_on_real_files_is_zeroed_before_anything_is_added() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let (recovered, _) = start(dir.path(), Method::Direct);
    let mut log = recovered.log;
    append(&mut log, &[item(1, 100)]);
    log.flush().unwrap();
    drop(log);
    let path = dir.path().join("log/00000000.seg");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xaa; 10_000], 8192).unwrap();
    drop(file);
    let (recovered, found) = start(dir.path(), Method::Direct);
    assert_eq!(found, [item(1, 100)]);
    assert!(recovered.torn_bytes >= 10_000);
    drop(recovered);
    assert!(fs::read(&path).unwrap()[4096 + 152..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_write_that_another_ring_has_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (recovered, _) = start(dir.path(), Method::Direct);
    let mut log = recovered.log;
    append(&mut log, &[item(1, 100)]);
    while log.begin_write().unwrap().is_none() {
        std::thread::yield_now();
    }
    assert!(matches!(log.flush(), Err(LogError::WriteElsewhere)));
    assert!(matches!(log.finish(), Err(LogError::WriteElsewhere)));
    // Nor may another write begin over its buffer.
    append(&mut log, &[item(2, 100)]);
    assert!(log.begin_write().unwrap().is_none());
    assert_eq!(log.durable().0, 0);
}

#[test]
fn only_the_owner_reads_the_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (mut recovered, _) = start(&data, Method::Direct);
    append(&mut recovered.log, &[item(1, 100)]);
    recovered.log.flush().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("log")), mode(&data.join("lock"))), (0o700, 0o700, 0o600));
    let files: Vec<_> = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2 && files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}
