//! Start of a log: what is there is judged by the table in the module doc, then the log goes on behind it.

use std::path::Path;

use super::anchor::{self, Anchor};
use super::core::Log;
use super::device::{ANCHOR, Device, SYNCED_TO, segment_name};
use super::error::{Damage, LogError};
use super::format::{BLOCK, FIRST, Found, Synced, check_segment, parse};
use super::read::{Cursor, Index};
use super::starts::Starts;
use super::{Durable, MAX_SEGMENT_BYTES, Place, Record, SIMULATED_SEGMENT_BYTES};
use crate::types::Digest;

/// A log that is ready to go on, and what its start found.
pub struct Recovered<T, D: Device> {
    /// The log, behind its last intact record.
    pub log: Log<T, D>,
    /// The directory held no log before: nothing was ever acknowledged from it.
    pub fresh: bool,
    /// Records handed to the visitor, carried ones among them.
    pub records: u64,
    /// Bytes of a torn tail that were dropped and zeroed, none of them ever acknowledged.
    pub torn_bytes: u64,
}

/// Reads a log and hands every record, in order, to `each`, first those that stand in for what was let go ([`Record::carry`]); or
/// reports what is wrong and overwrites nothing.
///
/// When this returns an error, forget what `each` was given: it came from a log that must not be used.
pub fn recover<T: Record, D: Device>(
    mut device: D,
    genesis: Digest,
    segment_bytes: u32,
    mut each: impl FnMut(Durable<T>),
) -> Result<Recovered<T, D>, LogError> {
    check_segment_bytes(segment_bytes)?;
    let segments = device.segments()?;
    let synced_to = device.path(SYNCED_TO);
    let synced = device.load_synced()?.map(|image| Synced::parse(&image, genesis, &synced_to)).transpose()?;
    let image = device.load_anchor()?;
    let anchor = image.as_ref().map(|image| anchor::decode(image, genesis, &device.path(ANCHOR))).transpose()?;
    let (first, synced) = match (&anchor, synced) {
        (None, None) => return start(device, genesis, segment_bytes, &segments),
        (Some(_), None) => return Err(LogError::Missing { file: synced_to }),
        (Some(anchor), Some(synced)) if synced.place < anchor.cursor.place => {
            return Err(LogError::BeforeAnchor { file: synced_to });
        }
        (Some(anchor), Some(synced)) => (anchor.cursor.place.segment, synced),
        (None, Some(synced)) => (0, synced),
    };
    let last = segments.last().map_or(synced.place.segment, |last| synced.place.segment.max(*last));
    for expected in first..=last {
        if segments.binary_search(&expected).is_err() {
            return Err(LogError::Missing { file: device.path(&segment_name(expected)) });
        }
    }
    let mut walk = Walk::new(genesis, synced, anchor.as_ref(), last, segment_bytes);
    let carried = anchor.map_or_else(Vec::new, |anchor| anchor.carried);
    walk.records = carried.len() as u64;
    carried.into_iter().for_each(|record| each(Durable(record)));
    walk.run(&mut device, &mut each)?;
    let leftovers = image.filter(|_| segments.first().is_some_and(|lowest| *lowest < first));
    walk.go_on(device, leftovers)
}

fn check_segment_bytes(segment_bytes: u32) -> Result<(), LogError> {
    let allowed = (SIMULATED_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes);
    if allowed && segment_bytes.is_multiple_of(BLOCK as u32) {
        Ok(())
    } else {
        Err(LogError::BadSegmentBytes(u64::from(segment_bytes)))
    }
}

/// Where a segment ends is part of how the chain is read, so an intact segment of another size is refused.
fn check_size(map: &[u8], segment_bytes: u32, file: &Path) -> Result<(), LogError> {
    match map.len() as u64 {
        found if found == u64::from(segment_bytes) => Ok(()),
        found => Err(LogError::OtherSegmentBytes { file: file.into(), found, set: segment_bytes }),
    }
}

/// No `synced_to`: a new log, or one whose creation was cut short; but never one that already holds records.
fn start<T: Record, D: Device>(
    mut device: D,
    genesis: Digest,
    segment_bytes: u32,
    segments: &[u32],
) -> Result<Recovered<T, D>, LogError> {
    for (expected, &segment) in (0..).zip(segments) {
        if segment != expected {
            return Err(LogError::Missing { file: device.path(&segment_name(expected)) });
        }
        let map = device.map(segment)?;
        let file = device.path(&segment_name(segment));
        check_segment(&map, genesis, segment, &file)?;
        check_size(&map, segment_bytes, &file)?;
        if map[BLOCK..].iter().any(|&byte| byte != 0) {
            return Err(LogError::Missing { file: device.path(SYNCED_TO) });
        }
    }
    device.prepare(0, true)?;
    check_size(&device.map(0)?, segment_bytes, &device.path(&segment_name(0)))?;
    let synced = Synced::start(genesis);
    device.create_synced(&synced.image(genesis))?;
    // Both slots are filled from the start; the next advance must outrank the second.
    let synced = Synced { turn: synced.turn + 1, ..synced };
    let log = Log::resume(device, segment_bytes, synced, synced.place, &[], Index::default(), Starts::new(genesis));
    Ok(Recovered { log, fresh: true, records: 0, torn_bytes: 0 })
}

/// The walk along the chain from the first segment to the last intact record.
struct Walk<T> {
    genesis: Digest,
    synced: Synced,
    /// The last segment.
    last: u32,
    segment_bytes: u32,
    at: Cursor,
    /// Where the next record goes: behind `at`, or in the next segment.
    next: Place,
    reached: bool,
    index: Index,
    starts: Starts<T>,
    records: u64,
    /// Segments with bytes behind the end, from where, and how many are not zero up to the last that is not.
    torn: Vec<(u32, u32)>,
    torn_bytes: u64,
    block: Vec<u8>,
}

impl<T: Record> Walk<T> {
    fn new(genesis: Digest, synced: Synced, anchor: Option<&Anchor<T>>, last: u32, segment_bytes: u32) -> Self {
        let start = Synced::start(genesis);
        let start = Cursor { place: start.place, chain: start.chain, last: start.lsn };
        let at = anchor.map_or(start, |anchor| anchor.cursor);
        Self {
            genesis,
            synced,
            last,
            segment_bytes,
            at,
            next: at.place,
            reached: false,
            index: anchor.map_or_else(Index::default, |anchor| Index::from_anchor(anchor.dropped)),
            starts: anchor.map_or_else(|| Starts::new(genesis), |anchor| Starts::anchored(genesis, anchor)),
            records: 0,
            torn: Vec::new(),
            torn_bytes: 0,
            block: Vec::new(),
        }
    }

    fn run<D: Device>(&mut self, device: &mut D, each: &mut impl FnMut(Durable<T>)) -> Result<(), LogError> {
        let mut ended = false;
        for segment in self.at.place.segment..=self.last {
            if segment >= self.synced.place.segment {
                device.settle(segment)?;
            }
            let map = device.map(segment)?;
            let file = device.path(&segment_name(segment));
            check_segment(&map, self.genesis, segment, &file)?;
            check_size(&map, self.segment_bytes, &file)?;
            if ended {
                self.note_torn(&map, Place { segment, offset: FIRST });
                continue;
            }
            ended = !self.walk_segment(&map, segment, each).map_err(|fault| fault.name(&file, segment))?;
        }
        let Place { segment, offset } = self.synced.place;
        match self.reached {
            true => Ok(()),
            false => Err(Fault::Damaged(offset, Damage::History).name(&device.path(&segment_name(segment)), segment)),
        }
    }

    /// Walks one segment; false where the log ends in it.
    fn walk_segment(&mut self, map: &[u8], segment: u32, each: &mut impl FnMut(Durable<T>)) -> Result<bool, Fault> {
        let mut place = Place { segment, offset: FIRST };
        self.next = place;
        loop {
            self.check_reached(place)?;
            match parse(map, 0, place, self.at.chain, self.at.last) {
                Found::Record { kind, key, lsn, payload, next, chain } => {
                    let record = T::decode(kind, payload).ok_or(Fault::Unknown(place.offset, kind))?;
                    let cursor = Cursor { place, ..self.at };
                    if let Some(before) = self.index.note(key, cursor) {
                        self.starts.stage(before, cursor);
                    }
                    self.starts.durable(lsn, &record);
                    place.offset = next;
                    self.at = Cursor { place, chain, last: lsn };
                    self.next = place;
                    self.records += 1;
                    each(Durable(record));
                }
                Found::End { next, chain } => {
                    place.offset = next;
                    self.at = Cursor { place, chain, ..self.at };
                    self.next = Place { segment: segment + 1, offset: FIRST };
                    self.check_reached(place)?;
                    return self.check_slack(map, place).map(|()| true);
                }
                Found::Zeros if !self.reached => return Err(Fault::Damaged(place.offset, Damage::Zeros)),
                Found::Bad if !self.reached => return Err(Fault::Damaged(place.offset, Damage::Checksum)),
                Found::Zeros | Found::Bad => {
                    self.note_torn(map, place);
                    let offset = place.offset as usize;
                    self.block = map[offset / BLOCK * BLOCK..offset].to_vec();
                    return Ok(false);
                }
            }
        }
    }

    /// At the acknowledged position the chain must be the acknowledged one; the walk must not step over it.
    fn check_reached(&mut self, place: Place) -> Result<(), Fault> {
        let synced = self.synced;
        if !self.reached && place >= synced.place {
            let same = place == synced.place && self.at.chain == synced.chain && self.at.last == synced.lsn;
            if !same {
                return Err(Fault::Damaged(place.offset, Damage::History));
            }
            self.reached = true;
        }
        Ok(())
    }

    /// Nothing is ever written behind a segment's end marker, so anything there is damage wherever it stands.
    fn check_slack(&self, map: &[u8], place: Place) -> Result<(), Fault> {
        match map[place.offset as usize..].iter().position(|&byte| byte != 0) {
            Some(at) => Err(Fault::Damaged(place.offset + at as u32, Damage::Slack)),
            None => Ok(()),
        }
    }

    fn note_torn(&mut self, map: &[u8], place: Place) {
        let rest = &map[place.offset as usize..];
        if let Some(last) = rest.iter().rposition(|&byte| byte != 0) {
            self.torn.push((place.segment, place.offset));
            self.torn_bytes += last as u64 + 1;
        }
    }

    /// Everything was judged: only now the torn tail is zeroed, the acknowledged position moves up, and segments below the anchor
    /// go, which is written once more before.
    fn go_on<D: Device>(mut self, mut device: D, leftovers: Option<Vec<u8>>) -> Result<Recovered<T, D>, LogError> {
        for &(segment, from) in &self.torn {
            device.zero(segment, from)?;
        }
        let (place, lsn, chain) = (self.at.place, self.at.last, self.at.chain);
        let synced = Synced { place, lsn, chain, turn: self.synced.turn + 1 };
        let (at, slot) = synced.slot();
        device.publish(at, &slot)?;
        if let Some(anchor) = leftovers {
            self.starts.finish_release(&anchor, &mut device)?;
        }
        let log = Log::resume(device, self.segment_bytes, synced, self.next, &self.block, self.index, self.starts);
        Ok(Recovered { log, fresh: false, records: self.records, torn_bytes: self.torn_bytes })
    }
}

/// A fault inside a segment, before it has the file's name.
enum Fault {
    Damaged(u32, Damage),
    Unknown(u32, u8),
}

impl Fault {
    fn name(self, file: &Path, segment: u32) -> LogError {
        let file = file.into();
        match self {
            Fault::Damaged(offset, what) => LogError::Damaged { file, segment, offset, what },
            Fault::Unknown(offset, kind) => LogError::Undecodable { file, offset, kind },
        }
    }
}
