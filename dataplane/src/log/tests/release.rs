//! Letting go of the oldest segments, and the anchor, case by case; `model` has the crashes.

use std::fs;
use std::path::Path;

use super::{CAP, GENESIS, Item, Kept, OTHER, append, carried, item, open, scan_all, sim};
use crate::log::anchor::{self, Anchor};
use crate::log::read::Cursor;
use crate::log::{
    Crash, Device, Durable, FileDevice, Log, LogError, Lsn, MAX_ANCHOR, MIN_SEGMENT_BYTES, Method, Place, SimDisk,
    carried_by,
};
use crate::types::Digest;

/// An item without a key.
fn mark(kind: u8, byte: u8) -> Item {
    Item { kind, key: 0, body: vec![byte; 30] }
}

/// Some items without a key among others whose keys ascend from 1: about five segments of 13 each.
fn history() -> Vec<Item> {
    (0..60).map(|i| if i % 9 == 4 { mark(1, i as u8) } else { item(1 + i, 80_000) }).collect()
}

fn append_all<D: Device>(log: &mut Log<Item, D>, items: &[Item]) {
    for item in items {
        append(log, std::slice::from_ref(item));
        log.flush().unwrap();
    }
    log.drain_durable().for_each(drop);
}

fn release<D: Device>(log: &mut Log<Item, D>, below: u64) {
    log.release(below).unwrap();
    while log.is_releasing() {
        std::thread::yield_now();
    }
}

/// The number of items before the first that is left.
fn gone<D: Device>(log: &mut Log<Item, D>) -> usize {
    log.scan_from(0).next().unwrap().map_or(0, |entry| entry.lsn.0 as usize - 1)
}

/// The segments that are there, without the one that is made ahead.
fn segments<D: Device>(log: &mut Log<Item, D>) -> Vec<u32> {
    let last = log.scan_from(u64::MAX).cursor().place.segment;
    log.device_mut().segments().unwrap().into_iter().filter(|segment| *segment <= last).collect()
}

/// What must come out of a log of which the first items are gone.
fn left(items: &[Item], gone: usize) -> Vec<Item> {
    [&carried(&items[..gone]), &items[gone..]].concat()
}

/// Releases step by step and reads back each time, by way of `again`: the end of the process and the next one.
fn releases_and_reads_back<D: Device>(mut log: Log<Item, D>, mut again: impl FnMut(Log<Item, D>) -> D) {
    let items = history();
    append_all(&mut log, &items);
    assert_eq!(segments(&mut log), [0, 1, 2, 3, 4]);
    let (whole, mut before, mut asked) = (log.bytes(), 0, 0);
    for below in [0, 12, 13, 14, 30, 29, 0, 45, u64::MAX] {
        release(&mut log, below);
        asked = asked.max(below);
        let gone_now = gone(&mut log);
        let highest = items[..gone_now].iter().map(|item| item.key).max().unwrap_or(0);
        assert_eq!(log.dropped_below(), highest, "{below}");
        assert!(highest <= asked && gone_now >= before, "{below}: {gone_now}");
        // What stays first would have been too much, or holds the end.
        let first = log.first_segment();
        assert_eq!(segments(&mut log), (first..5).collect::<Vec<_>>(), "{below}");
        assert!(first == 4 || items.iter().skip(gone_now).take(16).any(|item| item.key > asked), "{below}: {first}");
        assert_eq!(log.bytes(), whole - u64::from(first) * u64::from(MIN_SEGMENT_BYTES));
        for key in [0, 20, 40, 55] {
            let expected: Vec<Item> = items[gone_now..].iter().filter(|item| item.key >= key).cloned().collect();
            assert_eq!(scan_all(&mut log, key), expected, "{below} {key}");
        }
        before = gone_now;
        let (recovered, found) = open(again(log)).unwrap();
        assert_eq!(found, left(&items, gone_now), "{below}");
        assert_eq!((recovered.records, recovered.fresh), (found.len() as u64, false));
        log = recovered.log;
        assert_eq!((log.dropped_below(), log.first_segment(), gone(&mut log)), (highest, first, gone_now));
    }
    assert_eq!(log.first_segment(), 4, "all but the segment that holds the end");
    // It goes on, and may be cut again.
    let more: Vec<Item> = (100..150).map(|key| item(key, 80_000)).collect();
    append_all(&mut log, &more);
    release(&mut log, 140);
    let items = [items, more].concat();
    let gone = gone(&mut log);
    assert!(gone > before && log.first_segment() > 4);
    let (recovered, found) = open(again(log)).unwrap();
    assert_eq!(found, left(&items, gone));
    assert_eq!(recovered.log.last(), Lsn(items.len() as u64));
}

#[test]
fn what_is_let_go_is_carried_and_the_rest_comes_back() {
    releases_and_reads_back(sim(1), Log::into_device);
    for method in [Method::Direct, Method::Mapped] {
        let dir = tempfile::tempdir().unwrap();
        let start = || FileDevice::open(dir.path(), GENESIS, MIN_SEGMENT_BYTES, method).unwrap();
        releases_and_reads_back(open(start()).unwrap().0.log, |log| {
            drop(log);
            start()
        });
    }
}

/// A log with its first segments gone, and all its items.
fn cut() -> (SimDisk, Vec<Item>, usize) {
    let (mut log, items) = (sim(2), history());
    append_all(&mut log, &items);
    release(&mut log, 30);
    let gone = gone(&mut log);
    assert!(log.first_segment() == 2 && !carried(&items[..gone]).is_empty());
    (log.into_device(), items, gone)
}

fn refused(disk: &mut SimDisk) -> LogError {
    let before = disk.content();
    let error = open(Kept(disk)).map(|_| ()).unwrap_err();
    assert_eq!(disk.content(), before, "overwritten: {error:?}");
    error
}

fn anchor_of(disk: &SimDisk) -> Vec<u8> {
    disk.content().into_iter().find(|(name, _)| name == "anchor").unwrap().1
}

#[test]
fn every_flipped_bit_of_the_anchor_is_found() {
    let (mut disk, items, gone) = cut();
    for byte in 0..anchor_of(&disk).len() {
        for bit in 0..8 {
            disk.tamper_anchor(|anchor| anchor[byte] ^= 1 << bit);
            let error = refused(&mut disk);
            match error {
                LogError::WrongVersion { .. } => assert!((8..12).contains(&byte)),
                LogError::WrongLength { .. } => assert!((12..16).contains(&byte) && error.lost_records()),
                _ => assert!(matches!(error, LogError::AnchorDamaged { .. }) && error.lost_records(), "{byte}"),
            }
            disk.tamper_anchor(|anchor| anchor[byte] ^= 1 << bit);
        }
    }
    assert_eq!(open(disk).unwrap().1, left(&items, gone));
}

#[test]
fn an_anchor_that_does_not_fit_the_rest_is_refused() {
    type Spoil = fn(&mut SimDisk);
    let rows: [(&str, bool, Spoil); 12] = [
        ("WrongLength", true, |disk| disk.tamper_anchor(|anchor| anchor.truncate(100))),
        ("WrongLength", true, |disk| disk.tamper_anchor(|anchor| anchor.push(0))),
        ("AnchorDamaged", true, |disk| disk.tamper_anchor(Vec::clear)),
        ("WrongVersion", false, |disk| disk.tamper_anchor(|anchor| anchor[8] = 9)),
        ("WrongCluster", false, |disk| write_anchor(disk, OTHER, |_| ())),
        ("Undecodable", false, |disk| write_anchor(disk, GENESIS, |anchor| anchor.carried[0].kind = 200)),
        // Without it, and with one that names what is gone or was never there.
        ("Missing", true, SimDisk::remove_anchor),
        ("Missing", true, SimDisk::remove_synced_to),
        ("Missing", true, |disk| disk.remove(2)),
        ("Missing", true, |disk| write_anchor(disk, GENESIS, |anchor| anchor.cursor.place.segment = 1)),
        ("BeforeAnchor", true, |disk| write_anchor(disk, GENESIS, |anchor| anchor.cursor.place.segment = 5)),
        // Another chain than the one that goes on there.
        ("Damaged", true, |disk| write_anchor(disk, GENESIS, |anchor| anchor.cursor.chain ^= 1)),
    ];
    for (name, lost, spoil) in rows {
        let (mut disk, ..) = cut();
        spoil(&mut disk);
        let error = refused(&mut disk);
        assert!(format!("{error:?}").starts_with(name), "{error:?} instead of {name}");
        assert_eq!(error.lost_records(), lost, "{error:?}");
    }
}

/// Replaces the anchor by one that says something else, whole.
fn write_anchor(disk: &mut SimDisk, genesis: Digest, change: impl FnOnce(&mut Anchor<Item>)) {
    let mut anchor = anchor::decode(&anchor_of(disk), GENESIS, Path::new("anchor")).unwrap();
    change(&mut anchor);
    let image = anchor::encode(anchor.cursor, anchor.dropped, &anchor.carried, genesis).unwrap();
    disk.tamper_anchor(|bytes| *bytes = image);
}

#[test]
fn the_anchors_bytes_are_read_back() {
    let cursor = Cursor { place: Place { segment: 7, offset: 4096 }, chain: 11 << 100, last: Lsn(1 << 40) };
    let items: Vec<Item> = (0..9).map(|length| item(length as u64, length * 3)).collect();
    for count in 0..items.len() {
        let image = anchor::encode(cursor, 99, &items[..count], GENESIS).unwrap();
        let read: Anchor<Item> = anchor::decode(&image, GENESIS, Path::new("anchor")).unwrap();
        assert_eq!(read, Anchor { cursor, dropped: 99, carried: items[..count].to_vec() });
        assert_eq!(carried_by::<Item>(&image, GENESIS).unwrap(), items[..count]);
    }
    let long = vec![item(1, MAX_ANCHOR / 5); 6];
    assert!(anchor::encode(cursor, 99, &long[..4], GENESIS).is_some());
    assert!(anchor::encode(cursor, 99, &long, GENESIS).is_none());
}

#[test]
fn what_the_durable_records_forbid_is_not_let_go() {
    let mut log = sim(3);
    append_all(&mut log, &[mark(CAP, 5)]);
    append_all(&mut log, &(1..60).map(|key| item(key, 80_000)).collect::<Vec<_>>());
    // Staged alone it permits nothing.
    append(&mut log, &[mark(CAP, 40)]);
    release(&mut log, u64::MAX);
    assert_eq!((log.first_segment(), log.dropped_below()), (0, 0));
    log.flush().unwrap();
    release(&mut log, u64::MAX);
    assert!((20..=40).contains(&log.dropped_below()));
}

#[test]
fn a_scan_goes_on_behind_what_was_let_go() {
    let (mut log, items) = (sim(4), history());
    append_all(&mut log, &items);
    let start = log.scan_from(0).cursor();
    release(&mut log, 30);
    let gone = gone(&mut log);
    let mut scan = log.scan_on(start, 0);
    let entry = scan.next().unwrap().unwrap();
    assert_eq!((entry.lsn, entry.key), (Lsn(gone as u64 + 1), items[gone].key));
    let mut count = 1;
    while scan.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, items.len() - gone);
    let end = scan.cursor();
    assert!(log.scan_on(end, 0).next().unwrap().is_none());
}

#[test]
fn a_release_that_fails_loses_nothing_and_is_tried_again() {
    let (mut log, items) = (sim(5), history());
    append_all(&mut log, &items);
    log.device_mut().fail_next_truncation();
    log.release(30).unwrap();
    while log.is_releasing() {}
    let (_, found) = open(log.device().copy()).unwrap();
    assert_eq!(found, items);
    assert!(matches!(log.release(30), Err(LogError::NoSpace { .. })));
    // Reading goes on above as well.
    assert!(gone(&mut log) > 0);
    append_all(&mut log, &[item(100, 10)]);
    release(&mut log, 30);
    let gone = gone(&mut log);
    assert_eq!(open(log.into_device()).unwrap().1, left(&[items, vec![item(100, 10)]].concat(), gone));
}

#[test]
fn one_release_is_under_way_at_a_time_and_a_stopped_log_begins_none() {
    let (mut log, items) = (sim(6), history());
    append_all(&mut log, &items);
    log.release(15).unwrap();
    log.release(30).unwrap();
    assert_eq!(log.first_segment(), 1);
    while log.is_releasing() {}
    let gone = gone(&mut log);
    assert_eq!(log.device().segment_numbers()[0], 1);
    append(&mut log, &[item(100, 10)]);
    log.device_mut().fail_next_sync();
    assert!(log.flush().is_err());
    assert!(matches!(log.release(60), Err(LogError::Stopped)));
    let mut disk = log.into_device();
    disk.crash(Crash::Power);
    assert_eq!(open(disk).unwrap().1[..3], left(&items, gone)[..3]);
}

#[test]
fn an_empty_log_has_nothing_to_let_go() {
    let mut log = sim(7);
    release(&mut log, u64::MAX);
    append(&mut log, &[item(1, 900_000), item(2, 900_000)]);
    release(&mut log, u64::MAX);
    assert_eq!((log.first_segment(), log.dropped_below()), (0, 0));
    // A segment whose first record is staged alone is none to begin at.
    assert!(log.submit().unwrap());
    log.finish().unwrap();
    release(&mut log, u64::MAX);
    assert_eq!(log.first_segment(), 0);
    log.flush().unwrap();
    release(&mut log, u64::MAX);
    assert_eq!((log.first_segment(), log.dropped_below()), (1, 1));
}

#[test]
fn files_that_were_not_removed_go_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = || FileDevice::open(dir.path(), GENESIS, MIN_SEGMENT_BYTES, Method::Direct).unwrap();
    let (mut log, items) = (open(start()).unwrap().0.log, history());
    append_all(&mut log, &items);
    let name = |segment: u32| dir.path().join(format!("log/{segment:08}.seg"));
    let old: Vec<Vec<u8>> = [0, 1].map(|segment| fs::read(name(segment)).unwrap()).to_vec();
    release(&mut log, 30);
    assert!(!name(0).exists() && !name(1).exists() && name(2).exists());
    let gone = gone(&mut log);
    // Ended in the middle: the process gives up, whatever is left.
    log.release(u64::MAX).unwrap();
    drop(log);
    let anchored = open(start()).unwrap().0.log.first_segment();
    assert!(anchored == 2 || anchored == 4);
    // A gap among what is left over, and bytes that are no segment, harm nothing.
    fs::write(name(1), &old[1]).unwrap();
    fs::write(name(0), b"rubbish").unwrap();
    let (recovered, found) = open(start()).unwrap();
    assert!(found == left(&items, gone) || anchored == 4);
    let mut log = recovered.log;
    while log.is_releasing() {
        std::thread::yield_now();
    }
    assert!(!name(0).exists() && !name(1).exists());
    // Without its anchor the log is not a log.
    drop(log);
    fs::remove_file(dir.path().join("log/anchor")).unwrap();
    let error = open(start()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, LogError::Missing { .. }) && error.lost_records(), "{error:?}");
}

#[test]
fn a_foreign_record_type_reads_nothing_from_an_anchor() {
    let (disk, items, gone) = cut();
    let image = anchor_of(&disk);
    assert_eq!(carried_by::<Item>(&image, GENESIS).unwrap(), carried(&items[..gone]));
    assert!(matches!(carried_by::<Item>(&image, OTHER), Err(LogError::WrongCluster { .. })));
    let mut seen = 0;
    crate::log::recover(disk, GENESIS, MIN_SEGMENT_BYTES, |_: Durable<Item>| seen += 1).unwrap();
    assert_eq!(seen, items.len() - gone + carried(&items[..gone]).len());
}
