//! Start of a log: what is there is judged by the table in the module doc, then the log goes on behind it.

use std::path::Path;

use super::core::Log;
use super::device::{Device, SYNCED_TO, segment_name};
use super::error::{Damage, LogError};
use super::format::{BLOCK, FIRST, Found, Synced, check_segment, parse};
use super::read::{Cursor, Index};
use super::{Durable, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Place, Record};
use crate::types::Digest;

/// A log that is ready to go on, and what its start found.
pub struct Recovered<T, D: Device> {
    /// The log, behind its last intact record.
    pub log: Log<T, D>,
    /// The directory held no log before: nothing was ever acknowledged from it.
    pub fresh: bool,
    /// Records handed to the visitor.
    pub records: u64,
    /// Bytes of a torn tail that were dropped and zeroed, none of them ever acknowledged.
    pub torn_bytes: u64,
}

/// Reads a log and hands every record, in order, to `each`; or reports what is wrong and overwrites nothing.
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
    let Some(image) = device.load_synced()? else {
        return start(device, genesis, segment_bytes, &segments);
    };
    let synced = Synced::parse(&image, genesis, &device.path(SYNCED_TO))?;
    for expected in 0..=synced.place.segment.max(segments.len().saturating_sub(1) as u32) {
        if segments.binary_search(&expected).is_err() {
            return Err(LogError::Missing { file: device.path(&segment_name(expected)) });
        }
    }
    let mut walk = Walk::new(genesis, synced, segments.len() as u32, segment_bytes);
    walk.run(&mut device, &mut each)?;
    walk.go_on(device)
}

fn check_segment_bytes(segment_bytes: u32) -> Result<(), LogError> {
    let allowed = (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes);
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
    let log = Log::resume(device, segment_bytes, synced, synced.place, &[], Index::default());
    Ok(Recovered { log, fresh: true, records: 0, torn_bytes: 0 })
}

/// The walk along the chain from the first segment to the last intact record.
struct Walk {
    genesis: Digest,
    synced: Synced,
    segments: u32,
    segment_bytes: u32,
    at: Cursor,
    /// Where the next record goes: behind `at`, or in the next segment.
    next: Place,
    reached: bool,
    index: Index,
    records: u64,
    /// Segments with bytes behind the end, from where, and how many are not zero up to the last that is not.
    torn: Vec<(u32, u32)>,
    torn_bytes: u64,
    block: Vec<u8>,
}

impl Walk {
    fn new(genesis: Digest, synced: Synced, segments: u32, segment_bytes: u32) -> Self {
        let start = Synced::start(genesis);
        let at = Cursor { place: start.place, chain: start.chain, last: start.lsn };
        Self {
            genesis,
            synced,
            segments,
            segment_bytes,
            at,
            next: start.place,
            reached: false,
            index: Index::default(),
            records: 0,
            torn: Vec::new(),
            torn_bytes: 0,
            block: Vec::new(),
        }
    }

    fn run<T: Record, D: Device>(&mut self, device: &mut D, each: &mut impl FnMut(Durable<T>)) -> Result<(), LogError> {
        let mut ended = false;
        for segment in 0..self.segments {
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
    fn walk_segment<T: Record>(
        &mut self,
        map: &[u8],
        segment: u32,
        each: &mut impl FnMut(Durable<T>),
    ) -> Result<bool, Fault> {
        let mut place = Place { segment, offset: FIRST };
        self.next = place;
        loop {
            self.check_reached(place)?;
            match parse(map, 0, place, self.at.chain, self.at.last) {
                Found::Record { kind, key, lsn, payload, next, chain } => {
                    let record = T::decode(kind, payload).ok_or(Fault::Unknown(place.offset, kind))?;
                    self.index.note(key, Cursor { place, ..self.at });
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

    /// Everything was judged: only now the torn tail is zeroed and the acknowledged position moves up.
    fn go_on<T: Record, D: Device>(self, mut device: D) -> Result<Recovered<T, D>, LogError> {
        for &(segment, from) in &self.torn {
            device.zero(segment, from)?;
        }
        let (place, lsn, chain) = (self.at.place, self.at.last, self.at.chain);
        let synced = Synced { place, lsn, chain, turn: self.synced.turn + 1 };
        let (at, slot) = synced.slot();
        device.publish(at, &slot)?;
        let log = Log::resume(device, self.segment_bytes, synced, self.next, &self.block, self.index);
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
