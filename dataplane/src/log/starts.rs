//! Where each segment's records start, what the records before left standing, and letting go of the oldest.

use std::collections::VecDeque;

use super::anchor::{self, Anchor};
use super::device::Device;
use super::error::LogError;
use super::read::{Cursor, Index};
use super::{Lsn, MAX_ANCHOR, Record};
use crate::types::Digest;

/// The first record of a segment.
struct Start<T> {
    /// No record before has a higher key.
    before: u64,
    cursor: Cursor,
    /// What the records before left standing.
    carried: Vec<T>,
}

/// The segments that hold durable records, the first of which is where the log begins.
pub(super) struct Starts<T> {
    genesis: Digest,
    durable: VecDeque<Start<T>>,
    /// Those whose first record is not durable yet.
    staged: VecDeque<(u64, Cursor)>,
    /// What all durable records left standing.
    standing: Vec<T>,
    /// Where the log begins by the anchor on the disk.
    anchored: u32,
    /// What an anchor said at the start: no record that was let go has a higher key.
    dropped: u64,
    /// Where it will begin, while the device works on that.
    under_way: Option<u32>,
    failed: Option<LogError>,
}

impl<T: Record> Starts<T> {
    /// A log that begins at the genesis.
    pub(super) fn new(genesis: Digest) -> Self {
        Self {
            genesis,
            durable: VecDeque::new(),
            staged: VecDeque::new(),
            standing: Vec::new(),
            anchored: 0,
            dropped: 0,
            under_way: None,
            failed: None,
        }
    }

    /// A log that begins at an anchor.
    pub(super) fn anchored(genesis: Digest, anchor: &Anchor<T>) -> Self {
        let (standing, dropped) = (anchor.carried.clone(), anchor.dropped);
        Self { standing, dropped, anchored: anchor.cursor.place.segment, ..Self::new(genesis) }
    }

    /// A segment's first record was staged, at `cursor`.
    pub(super) fn stage(&mut self, before: u64, cursor: Cursor) {
        self.staged.push_back((before, cursor));
    }

    /// A record is durable. To be told in log order.
    pub(super) fn durable(&mut self, lsn: Lsn, record: &T) {
        if let Some((before, cursor)) = self.staged.pop_front_if(|(_, cursor)| cursor.last.0.wrapping_add(1) == lsn.0) {
            self.durable.push_back(Start { before, cursor, carried: self.standing.clone() });
        }
        T::carry(&mut self.standing, record);
    }

    /// The first segment.
    pub(super) fn first(&self) -> u32 {
        self.durable.front().map_or(self.anchored, |start| start.cursor.place.segment)
    }

    /// The first record, once there is a durable one.
    pub(super) fn first_record(&self) -> Option<Cursor> {
        self.durable.front().map(|start| start.cursor)
    }

    /// No record that was let go has a higher key.
    pub(super) fn dropped(&self) -> u64 {
        self.durable.front().map_or(self.dropped, |start| start.before)
    }

    /// Looks at what became of the last [`release`](Self::release); true while it is under way.
    pub(super) fn look<D: Device>(&mut self, device: &mut D) -> bool {
        let Some(segment) = self.under_way else { return false };
        match device.truncated() {
            None => return true,
            Some(Ok(())) => self.anchored = segment,
            Some(Err(error)) => self.failed = Some(error),
        }
        self.under_way = None;
        false
    }

    /// See [`Log::release`](super::Log::release).
    pub(super) fn release<D: Device>(&mut self, below: u64, index: &mut Index, device: &mut D) -> Result<(), LogError> {
        if self.look(device) {
            return Ok(());
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let below = below.min(T::bound(&self.standing));
        // What is highest before a start never falls from one to the next. The last one's segment holds the durable end.
        let gone = self.durable.iter().skip(1).take_while(|start| start.before <= below).count();
        let Some(start) = self.durable.get(gone) else { return Ok(()) };
        let segment = start.cursor.place.segment;
        if segment == self.anchored {
            return Ok(());
        }
        let image = anchor::encode(start.cursor, start.before, &start.carried, self.genesis);
        device.truncate(segment, &image.ok_or(LogError::AnchorTooLarge { limit: MAX_ANCHOR })?)?;
        // From here on nothing is read below, for the files go one by one.
        self.under_way = Some(segment);
        self.durable.drain(..gone);
        index.begin_at(segment);
        Ok(())
    }

    /// Files that an earlier process did not come to remove go now, once the anchor is durable for certain.
    pub(super) fn finish_release<D: Device>(&mut self, image: &[u8], device: &mut D) -> Result<(), LogError> {
        device.truncate(self.anchored, image)?;
        self.under_way = Some(self.anchored);
        Ok(())
    }
}
