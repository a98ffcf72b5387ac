//! The simulated disk's own faults, and what recovery makes of each.

use super::tests::{GENESIS, Item, item, open};
use super::*;

/// More than two blocks, so that no later write carries a whole record again.
const BYTES: usize = 9_000;

fn log() -> Log<Item, SimDisk> {
    open(SimDisk::new(1, GENESIS, MIN_SEGMENT_BYTES)).unwrap().0.log
}

fn write(log: &mut Log<Item, SimDisk>, keys: std::ops::Range<u64>) {
    for key in keys {
        log.append(item(key, BYTES)).unwrap();
        log.flush().unwrap();
    }
}

fn start_again(log: Log<Item, SimDisk>, how: Crash) -> Result<u64, LogError> {
    let mut disk = log.into_device();
    disk.crash(how);
    open(disk).map(|(recovered, items)| {
        assert_eq!(recovered.records, items.len() as u64);
        recovered.records
    })
}

#[test]
fn a_lost_write_is_a_loss_of_records_whatever_is_written_behind_it() {
    for later in [0, 1, 5] {
        let mut log = log();
        write(&mut log, 0..3);
        log.device_mut().lead_astray(Astray::Lost);
        write(&mut log, 3..4);
        assert_eq!((log.device().strayed, log.durable()), (1, Lsn(4)));
        write(&mut log, 4..4 + later);
        // What it wrote last it has in memory; what it must read from the disk it does not serve.
        let mut scan = log.scan_from(0);
        let mut served = 0;
        let ended = loop {
            match scan.next() {
                Ok(Some(entry)) => {
                    assert_eq!(Item::decode(entry.kind, entry.payload), Some(item(served, BYTES)));
                    served += 1;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(later == 0 || ended.as_ref().is_err_and(LogError::lost_records), "{ended:?} after {served}");
        assert!(start_again(log, Crash::Kill).is_err_and(|error| error.lost_records()));
    }
}

#[test]
fn a_misdirected_write_is_a_loss_of_records_wherever_it_lands() {
    for to in 0..200 {
        let mut log = log();
        write(&mut log, 0..3);
        log.device_mut().lead_astray(Astray::Misdirected(to * 977));
        write(&mut log, 3..5);
        assert_eq!(log.device().strayed, 1);
        let before = log.device().content();
        let mut disk = log.into_device();
        disk.crash(Crash::Kill);
        let unreadable = disk.copy();
        assert!(open(disk).is_err_and(|error| error.lost_records()), "{to}");
        assert_eq!(unreadable.content()[0], before[0]);
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_not_a_loss_and_keeps_all() {
    let mut log = log();
    write(&mut log, 0..150);
    log.device_mut().set_unreadable(true);
    assert!(matches!(log.scan_from(0).next(), Err(LogError::Io { doing: "read", .. })));
    // It can still be written to.
    write(&mut log, 150..151);
    let mut disk = log.into_device();
    disk.crash(Crash::Power);
    let copy = disk.copy();
    let error = open(disk).err().unwrap();
    assert!(!error.lost_records() && error.to_string().contains("cannot read"), "{error}");
    let mut readable = copy;
    readable.clear_faults();
    assert_eq!(open(readable).unwrap().0.records, 151);
}

#[test]
fn rot_under_a_running_log_is_never_served() {
    let mut found = 0;
    for place in 0..200 {
        let mut log = log();
        write(&mut log, 0..20);
        log.device_mut().flip(place * 7_919, place % 8);
        let mut scan = log.scan_from(0);
        let mut key = 0;
        loop {
            match scan.next() {
                Ok(Some(entry)) => assert_eq!(Item::decode(entry.kind, entry.payload), Some(item(key, BYTES))),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.lost_records(), "{error}");
                    found += 1;
                    break;
                }
            }
            key += 1;
        }
    }
    assert!(found > 100, "{found}");
}
