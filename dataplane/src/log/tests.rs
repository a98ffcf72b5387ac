//! Recovery judged case by case, faults of the disk, and limits; `model`, `real_files` and `release` have the rest.

mod model;
mod real_files;
mod release;

use super::*;
use crate::types::Digest;

pub(super) const GENESIS: Digest = Digest([7; 32]);
const OTHER: Digest = Digest([8; 32]);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub kind: u8,
    pub key: u64,
    pub body: Vec<u8>,
}

impl Record for Item {
    fn kind(&self) -> u8 {
        self.kind
    }

    fn key(&self) -> u64 {
        self.key
    }

    fn encode(&self, out: &mut Sink<'_>) {
        out.put(&self.key.to_le_bytes());
        out.put(&self.body);
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        let (key, body) = payload.split_first_chunk::<8>()?;
        (kind < 100).then(|| Self { kind, key: u64::from_le_bytes(*key), body: body.to_vec() })
    }

    /// The last two that have no key.
    fn carry(kept: &mut Vec<Self>, record: &Self) {
        if record.key == 0 {
            kept.push(record.clone());
            kept.drain(..kept.len().saturating_sub(2));
        }
    }

    /// [`CAP`] says what may go.
    fn bound(kept: &[Self]) -> u64 {
        let cap = kept.iter().rfind(|item| item.kind == CAP);
        cap.and_then(|cap| cap.body.first()).map_or(u64::MAX, |cap| u64::from(*cap))
    }
}

/// The kind of an item without a key whose first byte bounds what may be let go.
pub(super) const CAP: u8 = 50;

/// What stands in for items that were let go.
pub(super) fn carried(items: &[Item]) -> Vec<Item> {
    items.iter().fold(Vec::new(), |mut kept, item| {
        Item::carry(&mut kept, item);
        kept
    })
}

pub(super) fn item(key: u64, length: usize) -> Item {
    Item { kind: 1 + (key % 3) as u8, key, body: (0..length).map(|i| (i as u64 * 31 + key) as u8 | 1).collect() }
}

type SimLog = Log<Item, SimDisk>;

pub(super) fn open<D: Device>(device: D) -> Result<(Recovered<Item, D>, Vec<Item>), LogError> {
    let mut items = Vec::new();
    let recovered = recover(device, GENESIS, MIN_SEGMENT_BYTES, |item: Durable<Item>| items.push(item.into_inner()))?;
    Ok((recovered, items))
}

fn sim(seed: u64) -> SimLog {
    open(SimDisk::new(seed, GENESIS, MIN_SEGMENT_BYTES)).unwrap().0.log
}

pub(super) fn append<D: Device>(log: &mut Log<Item, D>, items: &[Item]) {
    for item in items {
        log.append(item.clone()).unwrap();
    }
}

fn scan_all<D: Device>(log: &mut Log<Item, D>, key: u64) -> Vec<Item> {
    let mut scan = log.scan_from(key);
    let mut items = Vec::new();
    while let Some(entry) = scan.next().unwrap() {
        items.push(Item::decode(entry.kind, entry.payload).unwrap());
    }
    items
}

/// Two full segments and a third with the tail; the last two records lie above `synced_to`.
fn disk_with_history() -> (Vec<Item>, SimDisk) {
    let items: Vec<Item> = (0..30).map(|key| item(key, 80_000)).collect();
    let mut log = sim(1);
    append(&mut log, &items[..14]);
    log.flush().unwrap();
    append(&mut log, &items[14..28]);
    log.flush().unwrap();
    // A killed process leaves `synced_to` as it was last stored.
    let mut disk = log.into_device();
    disk.crash(Crash::Kill);
    let synced = disk.content().into_iter().find(|(name, _)| name == "synced_to").unwrap().1;
    let mut log = open(disk).unwrap().0.log;
    append(&mut log, &items[28..]);
    log.flush().unwrap();
    let mut disk = log.into_device();
    disk.tamper_synced_to(|bytes| *bytes = synced);
    assert_eq!(disk.segment_numbers(), [0, 1, 2]);
    (items, disk)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum SyncedTo {
    Good,
    OneSlot,
    NoSlot,
    Missing,
    Short,
    Foreign,
    Version,
    Magic,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Head {
    Good,
    Missing,
    Short,
    Foreign,
    Version,
    Magic,
    Flipped,
    Renamed,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bytes {
    Good,
    Flipped,
    Zeroed,
}

fn rewrite_header(bytes: &mut [u8], genesis: Digest, segment: u32) {
    let header = format::segment_header(genesis, segment, u64::from(MIN_SEGMENT_BYTES));
    bytes[..BLOCK].copy_from_slice(&header);
}

fn spoil_synced(disk: &mut SimDisk, how: SyncedTo) {
    match how {
        SyncedTo::Good => {}
        // The newer slot: the older one names a position further back, which only widens what may be torn.
        SyncedTo::OneSlot => disk.tamper_synced_to(|b| {
            let turns = [512, 1024].map(|at| u64::from_le_bytes(b[at..at + 8].try_into().unwrap()));
            b[if turns[0] > turns[1] { 512 } else { 1024 }] ^= 1;
        }),
        SyncedTo::NoSlot => disk.tamper_synced_to(|b| (b[520], b[1030]) = (!b[520], !b[1030])),
        SyncedTo::Missing => disk.remove_synced_to(),
        SyncedTo::Short => disk.tamper_synced_to(|b| b.truncate(700)),
        SyncedTo::Foreign => {
            disk.tamper_synced_to(|b| *b = format::Synced::start(OTHER).image(OTHER).to_vec());
        }
        SyncedTo::Version => disk.tamper_synced_to(|b| b[8] = 9),
        SyncedTo::Magic => disk.tamper_synced_to(|b| b[0] = b'X'),
    }
}

fn spoil_head(disk: &mut SimDisk, segment: u32, how: Head) {
    match how {
        Head::Good => {}
        Head::Missing => disk.remove(segment),
        Head::Short => disk.tamper(segment, |b| b.truncate(500_000)),
        Head::Foreign => disk.tamper(segment, |b| rewrite_header(b, OTHER, segment)),
        Head::Version => disk.tamper(segment, |b| b[8] = 9),
        Head::Magic => disk.tamper(segment, |b| b[1] = b'X'),
        Head::Flipped => disk.tamper(segment, |b| b[2000] ^= 4),
        Head::Renamed => disk.tamper(segment, |b| rewrite_header(b, GENESIS, 77)),
    }
}

fn spoil(bytes: &mut [u8], how: Bytes) {
    match how {
        Bytes::Good => {}
        Bytes::Flipped => bytes[100] ^= 0x10,
        Bytes::Zeroed => bytes.fill(0),
    }
}

/// The table of the module doc, written out once more: `Ok` is how many records come back, `Err` the error's name.
fn verdict(synced: SyncedTo, head: Head, below: Bytes, above: Bytes) -> Result<usize, &'static str> {
    match synced {
        SyncedTo::NoSlot | SyncedTo::Magic => return Err("SyncedToDamaged"),
        SyncedTo::Short => return Err("WrongLength"),
        SyncedTo::Foreign => return Err("WrongCluster"),
        SyncedTo::Version => return Err("WrongVersion"),
        SyncedTo::Good | SyncedTo::OneSlot | SyncedTo::Missing => {}
    }
    // The segment with the spoilt head comes second; without `synced_to` the first one, full of records, decides.
    if synced == SyncedTo::Missing {
        return Err("Missing");
    }
    match head {
        Head::Missing => Err("Missing"),
        // Segments are judged in the order of the log, and this damage lies in the first.
        _ if below != Bytes::Good => Err("Damaged"),
        Head::Short => Err("WrongLength"),
        Head::Foreign => Err("WrongCluster"),
        Head::Version => Err("WrongVersion"),
        Head::Magic | Head::Flipped | Head::Renamed => Err("Damaged"),
        Head::Good => Ok(if above == Bytes::Good { 30 } else { 28 }),
    }
}

#[test]
fn every_row_of_the_decision_table() {
    use Bytes::{Flipped, Good, Zeroed};
    let (items, _) = disk_with_history();
    let synced_states = [
        SyncedTo::Good,
        SyncedTo::OneSlot,
        SyncedTo::NoSlot,
        SyncedTo::Missing,
        SyncedTo::Short,
        SyncedTo::Foreign,
        SyncedTo::Version,
        SyncedTo::Magic,
    ];
    let heads = [
        Head::Good,
        Head::Missing,
        Head::Short,
        Head::Foreign,
        Head::Version,
        Head::Magic,
        Head::Flipped,
        Head::Renamed,
    ];
    // Sizes as the format has them: 13 records fit a segment (40 + 8 + 80,000 bytes each), 26 lie in the first two.
    let record = RECORD_HEADER + 8 + 80_000;
    let (below_at, above_at) = (BLOCK + record, BLOCK + 2 * record);
    for synced in synced_states {
        for head in heads {
            for below in [Good, Flipped, Zeroed] {
                for above in [Good, Flipped, Zeroed] {
                    let (_, mut disk) = disk_with_history();
                    disk.tamper(2, |b| spoil(&mut b[above_at..above_at + record], above));
                    disk.tamper(0, |b| spoil(&mut b[below_at..below_at + record], below));
                    spoil_head(&mut disk, 1, head);
                    spoil_synced(&mut disk, synced);
                    check_row(
                        disk,
                        &items,
                        verdict(synced, head, below, above),
                        &format!("{synced:?} {head:?} {below:?} {above:?}"),
                    );
                }
            }
        }
    }
}

/// Lends a disk to recovery and lets the test look at it afterwards, as files on a real disk would stay.
struct Kept<'a>(&'a mut SimDisk);

impl Device for Kept<'_> {
    type Map = <SimDisk as Device>::Map;

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.0.path(file)
    }

    fn segments(&mut self) -> Result<Vec<u32>, LogError> {
        self.0.segments()
    }

    fn map(&mut self, segment: u32) -> Result<Self::Map, LogError> {
        self.0.map(segment)
    }

    fn load_synced(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        self.0.load_synced()
    }

    fn create_synced(&mut self, image: &[u8]) -> Result<(), LogError> {
        self.0.create_synced(image)
    }

    fn load_anchor(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        self.0.load_anchor()
    }

    fn truncate(&mut self, first: u32, anchor: &[u8]) -> Result<(), LogError> {
        self.0.truncate(first, anchor)
    }

    fn truncated(&mut self) -> Option<Result<(), LogError>> {
        self.0.truncated()
    }

    fn publish(&mut self, at: usize, slot: &[u8]) -> Result<(), LogError> {
        self.0.publish(at, slot)
    }

    fn settle(&mut self, segment: u32) -> Result<(), LogError> {
        self.0.settle(segment)
    }

    fn zero(&mut self, segment: u32, from: u32) -> Result<(), LogError> {
        self.0.zero(segment, from)
    }

    fn prepare(&mut self, segment: u32, wait: bool) -> Result<bool, LogError> {
        self.0.prepare(segment, wait)
    }

    unsafe fn submit(&mut self, write: &Write, bytes: &[u8]) -> std::io::Result<()> {
        // SAFETY: handed on with the caller's promise.
        unsafe { self.0.submit(write, bytes) }
    }

    fn wait(&mut self) -> std::io::Result<usize> {
        self.0.wait()
    }
}

fn check_row(mut disk: SimDisk, items: &[Item], expected: Result<usize, &'static str>, row: &str) {
    let before = disk.content();
    let found = open(Kept(&mut disk)).map(|(mut recovered, found)| {
        // A log that starts goes on: what is added is there after the next start, and nothing stale with it.
        append(&mut recovered.log, &[item(99, 10)]);
        recovered.log.flush().unwrap();
        found
    });
    match (found, expected) {
        (Ok(found), Ok(count)) => {
            assert_eq!(found, items[..count], "{row}");
            let (_, again) = open(disk).unwrap();
            assert_eq!(again[..count], items[..count], "{row}");
            assert_eq!(again[count..], [item(99, 10)], "{row}");
        }
        (Err(error), Err(name)) => {
            assert!(format!("{error:?}").starts_with(name), "{row}: {error:?}");
            assert_eq!(before, disk.content(), "{row}: overwritten");
        }
        (found, expected) => panic!("{row}: {:?} instead of {expected:?}", found.map(|items| items.len())),
    }
}

#[test]
fn any_bit_flipped_below_the_acknowledged_sync_is_found() {
    let mut log = sim(3);
    append(&mut log, &[item(1, 0), item(2, 13), item(3, 100)]);
    log.flush().unwrap();
    let end = BLOCK + 3 * RECORD_HEADER + 8 + 24 + 112;
    let mut disk = log.into_device();
    // The header block in steps, every bit of the records.
    for byte in (0..BLOCK).step_by(61).chain(0..64).chain(BLOCK..end) {
        for bit in 0..8 {
            disk.tamper(0, |bytes| bytes[byte] ^= 1 << bit);
            let error = open(Kept(&mut disk)).map(|_| ()).unwrap_err();
            let version = matches!(error, LogError::WrongVersion { .. }) && (8..12).contains(&byte);
            assert!(matches!(error, LogError::Damaged { segment: 0, .. }) || version, "{byte} {bit}: {error:?}");
            disk.tamper(0, |bytes| bytes[byte] ^= 1 << bit);
        }
    }
    assert_eq!(open(disk).unwrap().1.len(), 3);
}

#[test]
fn damage_behind_a_segments_end_is_found() {
    let (_, mut disk) = disk_with_history();
    disk.tamper(0, |bytes| *bytes.last_mut().unwrap() = 1);
    let error = open(disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { segment: 0, what: Damage::Slack, .. }), "{error:?}");
}

#[test]
fn an_older_copy_of_a_segment_is_found() {
    let mut log = sim(4);
    append(&mut log, &[item(1, 100)]);
    log.flush().unwrap();
    let old = log.device().content()[0].1.clone();
    append(&mut log, &[item(2, 100)]);
    log.flush().unwrap();
    let mut disk = log.into_device();
    disk.tamper(0, |bytes| *bytes = old);
    let error = open(disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { what: Damage::Zeros, .. }), "{error:?}");
}

#[test]
fn a_failed_sync_is_the_end_and_publishes_nothing() {
    let mut log = sim(5);
    append(&mut log, &[item(1, 10)]);
    log.flush().unwrap();
    assert_eq!(log.drain_durable().count(), 1);
    append(&mut log, &[item(2, 10)]);
    log.device_mut().fail_next_sync();
    let error = log.flush().unwrap_err();
    assert!(matches!(error, LogError::SyncFailed { cause: SyncFault::Errno(libc::EIO), .. }), "{error:?}");
    assert_eq!(log.drain_durable().count(), 0);
    assert_eq!(log.durable(), Lsn(1));
    assert!(matches!(log.append(item(3, 1)), Err((_, AppendError::Stopped))));
    assert!(matches!(log.flush(), Err(LogError::Stopped)));
    assert!(matches!(log.begin_write(), Err(LogError::Stopped)));
    assert_eq!(scan_all(&mut log, 0), [item(1, 10)]);
    let mut disk = log.into_device();
    disk.crash(Crash::Power);
    assert_eq!(open(disk).unwrap().1[0], item(1, 10));
}

#[test]
fn a_short_write_is_a_failed_sync() {
    let mut log = sim(6);
    append(&mut log, &[item(1, 10)]);
    let write = log.begin_write().unwrap().unwrap();
    assert_eq!((write.len, write.offset, write.address as usize % BLOCK), (4096, 4096, 0));
    let error = log.completed(Ok(512)).unwrap_err();
    assert!(matches!(error, LogError::SyncFailed { cause: SyncFault::Short { written: 512, asked: 4096 }, .. }));
    assert_eq!(log.drain_durable().count(), 0);
}

#[test]
fn nothing_is_durable_or_readable_before_its_completion() {
    let mut log = sim(7);
    append(&mut log, &[item(1, 10)]);
    assert_eq!(log.drain_durable().count(), 0);
    assert!(log.submit().unwrap());
    append(&mut log, &[item(2, 10), item(3, 10)]);
    assert!(!log.submit().unwrap(), "one write at a time");
    assert_eq!((log.drain_durable().count(), scan_all(&mut log, 0).len()), (0, 0));
    assert_eq!(log.finish().unwrap(), Lsn(1));
    assert_eq!(log.drain_durable().map(Durable::into_inner).collect::<Vec<_>>(), [item(1, 10)]);
    assert_eq!(scan_all(&mut log, 0).len(), 1);
    let syncs = log.device().syncs;
    assert_eq!(log.flush().unwrap(), Lsn(3));
    assert_eq!(log.device().syncs, syncs + 1, "what gathered goes in one write");
    assert_eq!(scan_all(&mut log, 0), [item(1, 10), item(2, 10), item(3, 10)]);
}

#[test]
fn a_full_buffer_hands_the_record_back_and_goes_on_after_the_write() {
    let mut log = sim(8);
    let big = item(1, log.max_record() - 8);
    let too_big = item(1, log.max_record() - 7);
    assert!(matches!(log.append(too_big), Err((_, AppendError::TooLarge(_)))));
    append(&mut log, std::slice::from_ref(&big));
    assert!(log.submit().unwrap());
    append(&mut log, &[big.clone(), big.clone()]);
    let (back, error) = log.append(big.clone()).unwrap_err();
    assert_eq!((&back, error), (&big, AppendError::Full));
    log.flush().unwrap();
    append(&mut log, &[back]);
    log.flush().unwrap();
    assert_eq!(scan_all(&mut log, 0), vec![big; 4]);
    let many = (0..MAX_STAGED as u64).map(|key| item(key, 0)).collect::<Vec<_>>();
    log.drain_durable().for_each(drop);
    append(&mut log, &many);
    assert!(matches!(log.append(item(0, 0)), Err((_, AppendError::Full))));
}

#[test]
fn a_full_disk_stops_no_earlier_than_needed_and_loses_nothing() {
    let mut log = sim(9);
    log.device_mut().limit_segments(1);
    append(&mut log, &[item(1, 900_000), item(2, 900_000)]);
    let error = log.flush().unwrap_err();
    assert!(matches!(error, LogError::NoSpace { needed: 1_048_576, .. }), "{error:?}");
    assert_eq!(log.drain_durable().count(), 1);
    log.device_mut().limit_segments(2);
    assert_eq!(log.flush().unwrap(), Lsn(2));
    assert_eq!(open(log.into_device()).unwrap().1.len(), 2);
}

#[test]
fn a_segment_that_is_not_ready_only_delays() {
    let mut log = sim(10);
    log.device_mut().slow_segments(true);
    append(&mut log, &[item(1, 900_000), item(2, 900_000)]);
    assert!(log.submit().unwrap());
    log.finish().unwrap();
    assert!(!log.submit().unwrap());
    assert_eq!(log.drain_durable().count(), 1);
    assert!(log.submit().unwrap());
    assert_eq!(log.finish().unwrap(), Lsn(2));
}

#[test]
fn a_log_that_ends_does_not_wait_for_a_segment() {
    let mut log = sim(10);
    log.device_mut().slow_segments(true);
    append(&mut log, &[item(1, 900_000), item(2, 900_000)]);
    assert_eq!(log.flush_made().unwrap(), Lsn(1));
    assert_eq!(log.flush().unwrap(), Lsn(2));
}

#[test]
fn a_new_log_whose_creation_was_cut_short_starts_again() {
    let mut disk = SimDisk::new(1, GENESIS, MIN_SEGMENT_BYTES);
    disk.prepare(0, true).unwrap();
    // The segment after the first is made beside the first `synced_to`, so it may be there before.
    disk.prepare(1, true).unwrap();
    assert!(open(Kept(&mut disk)).unwrap().0.fresh);
    disk.remove_synced_to();
    disk.remove(0);
    let error = open(disk).map(|_| ()).unwrap_err();
    assert!(matches!(&error, LogError::Missing { file } if file.ends_with("00000000.seg")), "{error:?}");
    let mut log = sim(1);
    append(&mut log, &[item(1, 1)]);
    log.flush().unwrap();
    assert!(!open(log.into_device()).unwrap().0.fresh);
}

#[test]
fn an_unknown_record_is_named() {
    let mut log = sim(11);
    append(&mut log, &[Item { kind: 200, key: 1, body: vec![] }]);
    log.flush().unwrap();
    let error = open(log.into_device()).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Undecodable { kind: 200, offset: 4096, .. }), "{error:?}");
}

#[test]
fn settings_out_of_bounds_are_refused() {
    for bytes in [0, SIMULATED_SEGMENT_BYTES - BLOCK as u32, MIN_SEGMENT_BYTES + 1, MAX_SEGMENT_BYTES + BLOCK as u32] {
        let disk = SimDisk::new(1, GENESIS, SIMULATED_SEGMENT_BYTES);
        let error = recover::<Item, _>(disk, GENESIS, bytes, |_| {}).map(|_| ()).unwrap_err();
        assert!(matches!(error, LogError::BadSegmentBytes(_)), "{bytes}");
    }
}

#[test]
fn another_segment_size_is_refused_and_overwrites_nothing() {
    let mut log = sim(14);
    append(&mut log, &[item(1, 1)]);
    log.flush().unwrap();
    let mut disk = log.into_device();
    let before = disk.content();
    let error = recover::<Item, _>(Kept(&mut disk), GENESIS, 2 * MIN_SEGMENT_BYTES, |_| {}).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::OtherSegmentBytes { found: 1_048_576, set: 2_097_152, .. }), "{error:?}");
    // The write that the process had synced is on the disk before and after; nothing else changed.
    assert_eq!(before, disk.content());
    assert_eq!(open(disk).unwrap().1, [item(1, 1)]);
    let empty = SimDisk::new(1, GENESIS, MIN_SEGMENT_BYTES);
    let error = recover::<Item, _>(empty, GENESIS, 2 * MIN_SEGMENT_BYTES, |_| {}).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::OtherSegmentBytes { .. }), "{error:?}");
}

#[test]
fn the_index_stays_small_and_finds_keys_that_do_not_ascend() {
    let mut log = sim(12);
    let mut items = Vec::new();
    for round in 0..40 {
        // Views change: later records may name lower sequence numbers.
        let batch: Vec<Item> = (0..10).map(|i| item((round * 10 + i) / 2 + (i % 3), 20_000)).collect();
        append(&mut log, &batch);
        log.flush().unwrap();
        log.drain_durable().for_each(drop);
        items.extend(batch);
    }
    for key in [0, 1, 57, 111, 200, 201, 202, 500] {
        let expected: Vec<Item> = items.iter().filter(|item| item.key >= key).cloned().collect();
        assert_eq!(scan_all(&mut log, key), expected, "{key}");
    }
    let per_gib = log.index_bytes() as u64 * (1 << 30) / log.bytes();
    assert!(per_gib < 200 * 1024, "{per_gib}");
}

#[test]
fn a_scan_goes_on_from_its_cursor() {
    let mut log = sim(13);
    let items: Vec<Item> = (0..40).map(|key| item(key, 90_000)).collect();
    let mut cursor = log.scan_from(0).cursor();
    let mut found = Vec::new();
    for batch in items.chunks(3) {
        append(&mut log, batch);
        log.flush().unwrap();
        let mut scan = log.scan_on(cursor, 0);
        while let Some(entry) = scan.next().unwrap() {
            found.push(Item::decode(entry.kind, entry.payload).unwrap());
        }
        cursor = scan.cursor();
    }
    assert_eq!(found, items);
}
