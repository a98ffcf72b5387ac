//! Reading what is durable: a sparse index and a verifying scan over the mapped segments.

use super::device::{Device, segment_name};
use super::error::{Damage, LogError};
use super::format::{FIRST, Found, RECORD_HEADER, parse};
use super::{Lsn, Place};

/// Distance in the log between two points of the index, in bytes: 2,048 points, 96 KiB, per GiB of log.
pub const INDEX_STEP: u32 = 512 * 1024;

/// A place to read on from, with what is needed to verify the record there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub(super) place: Place,
    pub(super) chain: u128,
    pub(super) last: Lsn,
}

/// A point of the index: every record before `cursor` has a key of at most `before`.
struct Point {
    before: u64,
    cursor: Cursor,
}

/// Where to start looking for a key. Keys need not ascend: a point bounds all keys before it.
#[derive(Default)]
pub(super) struct Index {
    points: Vec<Point>,
    highest: u64,
}

impl Index {
    /// An index whose first record is that of an anchor: no record before has a higher key than `dropped`.
    pub(super) fn from_anchor(dropped: u64) -> Self {
        Self { points: Vec::new(), highest: dropped }
    }

    /// Takes note of a record that starts at `cursor`, in log order. Where it is its segment's first, gives the highest key before.
    pub(super) fn note(&mut self, key: u64, cursor: Cursor) -> Option<u64> {
        let is_first = self.points.last().is_none_or(|point| point.cursor.place.segment != cursor.place.segment);
        let due = self.points.last().is_none_or(|point| {
            let last = point.cursor.place;
            last.segment != cursor.place.segment || cursor.place.offset - last.offset >= INDEX_STEP
        });
        if due {
            self.points.push(Point { before: self.highest, cursor });
        }
        let before = self.highest;
        self.highest = before.max(key);
        is_first.then_some(before)
    }

    /// Forgets all points before a segment.
    pub(super) fn begin_at(&mut self, segment: u32) {
        let gone = self.points.partition_point(|point| point.cursor.place.segment < segment);
        self.points.drain(..gone);
    }

    /// The last point before which no record has a key of `key` or more; `None` while the log is empty.
    pub(super) fn find(&self, key: u64) -> Option<Cursor> {
        let after = self.points.partition_point(|point| point.before < key);
        self.points.get(after.saturating_sub(1)).map(|point| point.cursor)
    }

    pub(super) fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>()
    }
}

/// A durable record, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its number in the log.
    pub lsn: Lsn,
    /// Where it stands.
    pub place: Place,
    /// The record's kind.
    pub kind: u8,
    /// The record's key.
    pub key: u64,
    /// The record's payload.
    pub payload: &'a [u8],
}

/// The run that was written last, still in memory: a reader that follows the log's end needs no disk.
pub(super) struct Tail<'a> {
    pub segment: u32,
    pub base: u32,
    pub bytes: &'a [u8],
}

/// Walks durable records in log order and verifies each checksum again. Lends each record until the next call.
pub struct Scan<'a, D: Device> {
    device: &'a mut D,
    tail: Option<Tail<'a>>,
    map: Option<(u32, D::Map)>,
    end: Place,
    cursor: Cursor,
    key: u64,
}

impl<'a, D: Device> Scan<'a, D> {
    pub(super) fn new(device: &'a mut D, tail: Option<Tail<'a>>, end: Place, cursor: Cursor, key: u64) -> Self {
        Self { device, tail, map: None, end, cursor, key }
    }

    /// Where the next record will be read; lets a later scan go on from here.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next record whose key is high enough; `None` at the durable end.
    #[allow(clippy::should_implement_trait, reason = "it lends from the mapping, which an Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, LogError> {
        loop {
            let (place, from) = (self.cursor.place, self.cursor);
            if place >= self.end {
                return Ok(None);
            }
            self.load(place)?;
            let (window, base) = self.window(place);
            match parse(window, base, place, from.chain, from.last) {
                Found::Record { kind, key, lsn, payload, next, chain } => {
                    let length = payload.len();
                    self.cursor = Cursor { place: Place { offset: next, ..place }, chain, last: lsn };
                    if key >= self.key {
                        let (window, base) = self.window(place);
                        let start = (place.offset - base) as usize + RECORD_HEADER;
                        let payload = &window[start..start + length];
                        return Ok(Some(Entry { lsn, place, kind, key, payload }));
                    }
                }
                Found::End { next, .. } if (Place { offset: next, ..place }) == self.end => return Ok(None),
                Found::End { chain, .. } => {
                    self.cursor = Cursor { place: Place { segment: place.segment + 1, offset: FIRST }, chain, ..from };
                }
                Found::Zeros => return Err(self.damaged(place, Damage::Zeros)),
                Found::Bad => return Err(self.damaged(place, Damage::Checksum)),
            }
        }
    }

    /// Maps the segment of `place` unless the tail holds the place.
    fn load(&mut self, place: Place) -> Result<(), LogError> {
        let mapped = self.map.as_ref().is_some_and(|(segment, _)| *segment == place.segment);
        if !mapped && self.in_tail(place).is_none() {
            self.map = Some((place.segment, self.device.map(place.segment)?));
        }
        Ok(())
    }

    fn in_tail(&self, place: Place) -> Option<&Tail<'a>> {
        self.tail.as_ref().filter(|tail| tail.segment == place.segment && tail.base <= place.offset)
    }

    /// The bytes in which `place` lies and their offset in the segment.
    fn window(&self, place: Place) -> (&[u8], u32) {
        match (self.in_tail(place), &self.map) {
            (Some(tail), _) => (tail.bytes, tail.base),
            (None, Some((_, map))) => (map, 0),
            (None, None) => (&[], 0),
        }
    }

    fn damaged(&self, place: Place, what: Damage) -> LogError {
        let file = self.device.path(&segment_name(place.segment));
        LogError::Damaged { file, segment: place.segment, offset: place.offset, what }
    }
}
