//! Staging, group commit and completion: the log's running state, pure over a [`Device`].

use std::collections::VecDeque;
use std::io;

use super::buffer::{Buffer, Run};
use super::device::{Device, SYNCED_TO, Write, segment_name};
use super::error::{AppendError, LogError, SyncFault};
use super::format::{BLOCK, FIRST, KIND_END, RECORD_HEADER, Synced, padded, seal};
use super::read::{Cursor, Index, Scan, Tail};
use super::starts::Starts;
use super::{BUFFER_BYTES, Durable, Lsn, MAX_STAGED, Place, Record, Sink};

/// A log of records of one type on one device. See the module for what is durable when.
pub struct Log<T, D: Device> {
    // Dropped first: a device with a write in flight waits for it before the buffers go.
    device: D,
    active: Buffer,
    flight: Buffer,
    /// The write that the device has, and the run it carries.
    writing: Option<(Write, Run)>,
    /// The write is with this log's own device, not with another ring.
    own: bool,
    /// The last run that completed, while its bytes are still in `flight`.
    recent: Option<Run>,
    /// Which of the two buffers `flight` is.
    turn: u8,
    segment_bytes: u32,
    max_record: usize,
    last: Lsn,
    chain: u128,
    synced: Synced,
    staged: VecDeque<(Lsn, T)>,
    index: Index,
    starts: Starts<T>,
    stopped: bool,
}

impl<T: Record, D: Device> Log<T, D> {
    /// A log that goes on at `next`. `block` holds the bytes of the block of `next` before it.
    pub(super) fn resume(
        device: D,
        segment_bytes: u32,
        synced: Synced,
        next: Place,
        block: &[u8],
        index: Index,
        starts: Starts<T>,
    ) -> Self {
        let mut active = Buffer::new(BUFFER_BYTES);
        active.bytes_mut()[..block.len()].copy_from_slice(block);
        let offset = next.offset - block.len() as u32;
        active.runs.push_back(Run { segment: next.segment, offset, start: 0, end: block.len(), reach: synced });
        Self {
            device,
            active,
            flight: Buffer::new(BUFFER_BYTES),
            writing: None,
            own: false,
            recent: None,
            turn: 1,
            segment_bytes,
            max_record: super::max_record(segment_bytes),
            last: synced.lsn,
            chain: synced.chain,
            synced,
            staged: VecDeque::with_capacity(MAX_STAGED),
            index,
            starts,
            stopped: false,
        }
    }

    /// Stages a record and returns its number. It is neither durable nor readable before a write that holds it has
    /// completed. On an error the record comes back and nothing changed.
    pub fn append(&mut self, record: T) -> Result<Lsn, (T, AppendError)> {
        if self.stopped {
            return Err((record, AppendError::Stopped));
        }
        if self.staged.len() >= MAX_STAGED {
            return Err((record, AppendError::Full));
        }
        match self.stage(&record) {
            Ok(lsn) => {
                self.staged.push_back((lsn, record));
                Ok(lsn)
            }
            Err(error) => Err((record, error)),
        }
    }

    fn stage(&mut self, record: &T) -> Result<Lsn, AppendError> {
        let Some(&run) = self.active.runs.back() else { return Err(AppendError::Stopped) };
        let room = self.active.bytes().len().saturating_sub(run.end + RECORD_HEADER + 8);
        let at = run.end;
        let mut sink = Sink::new(&mut self.active.bytes_mut()[at..], RECORD_HEADER, room.min(self.max_record));
        record.encode(&mut sink);
        let Some(length) = sink.finish() else {
            let full = room < self.max_record;
            return Err(if full { AppendError::Full } else { AppendError::TooLarge(self.max_record) });
        };
        let end = RECORD_HEADER + length;
        let fits = run.next().offset as usize + padded(end) <= self.segment_bytes as usize;
        let run = if fits { run } else { self.roll(run, length)? };
        let (place, at) = (run.next(), run.end);
        let lsn = Lsn(self.last.0 + 1);
        let bytes = self.active.bytes_mut();
        bytes[at + end..at + padded(end)].fill(0);
        let before = self.chain;
        self.chain = seal(&mut bytes[at..at + end], place, before, record.kind(), lsn, record.key());
        let cursor = Cursor { place, chain: before, last: self.last };
        if let Some(highest) = self.index.note(record.key(), cursor) {
            self.starts.stage(highest, cursor);
        }
        self.last = lsn;
        self.extend(at + padded(end));
        Ok(lsn)
    }

    /// Ends the segment of `run` and begins a run in the next one, moving the payload that was encoded behind `run`.
    fn roll(&mut self, run: Run, length: usize) -> Result<Run, AppendError> {
        let at = run.end;
        let marker =
            if run.next().offset as usize + RECORD_HEADER <= self.segment_bytes as usize { RECORD_HEADER } else { 0 };
        let start = (at + marker).next_multiple_of(BLOCK);
        let payload = start + RECORD_HEADER;
        let segment = run.segment.checked_add(1).ok_or(AppendError::Full)?;
        if payload + padded(length) > self.active.bytes().len() {
            return Err(AppendError::Full);
        }
        let bytes = self.active.bytes_mut();
        bytes.copy_within(at + RECORD_HEADER..at + RECORD_HEADER + length, payload);
        if marker > 0 {
            self.chain = seal(&mut bytes[at..at + marker], run.next(), self.chain, KIND_END, self.last, 0);
            self.extend(at + marker);
        }
        let next = Run { segment, offset: FIRST, start, end: start, reach: self.synced };
        self.active.runs.push_back(next);
        Ok(next)
    }

    /// The last run of the active buffer now ends at `end` with the record staged last.
    fn extend(&mut self, end: usize) {
        let (lsn, chain) = (self.last, self.chain);
        if let Some(run) = self.active.runs.back_mut() {
            run.end = end;
            run.reach = Synced { place: run.next(), lsn, chain, turn: 0 };
        }
    }

    /// Takes what has gathered for the device, in one write: at most one is in flight. `None` where there is nothing
    /// to write, a write is in flight, or the next segment is not there yet (ask again).
    ///
    /// The caller carries it out durably (whole, then synced) and reports by [`completed`](Self::completed).
    pub fn begin_write(&mut self) -> Result<Option<Write>, LogError> {
        self.begin(false)
    }

    fn begin(&mut self, wait: bool) -> Result<Option<Write>, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        self.starts.look(&mut self.device);
        if self.writing.is_some() || (self.flight.runs.is_empty() && !self.swap()) {
            return Ok(None);
        }
        let Some(&run) = self.flight.runs.front() else { return Ok(None) };
        if !self.device.prepare(run.segment, wait)? {
            return Ok(None);
        }
        let len = self.flight.seal_run(&run) as u32;
        let address = self.flight.bytes()[run.start..].as_ptr();
        let write = Write { segment: run.segment, offset: run.offset, address, len, buffer: self.turn };
        self.flight.runs.pop_front();
        self.flight.busy = true;
        self.writing = Some((write, run));
        Ok(Some(write))
    }

    /// Turns the active buffer into the one in flight; the other goes on with the last block, so that it is whole.
    fn swap(&mut self) -> bool {
        let Some(&run) = self.active.runs.back() else { return false };
        if self.active.runs.len() == 1 && run.reach.lsn == self.synced.lsn {
            return false;
        }
        std::mem::swap(&mut self.active, &mut self.flight);
        self.turn ^= 1;
        self.recent = None;
        let whole = run.start + (run.end - run.start) / BLOCK * BLOCK;
        let kept = run.end - whole;
        self.active.bytes_mut()[..kept].copy_from_slice(&self.flight.bytes()[whole..run.end]);
        let offset = run.offset + (whole - run.start) as u32;
        self.active.runs.push_back(Run { offset, start: 0, end: kept, ..run });
        true
    }

    /// The outcome of the write in flight: the bytes written, or the error number. Returns the last durable record.
    ///
    /// A failed or short write is the log's end: every later call is refused.
    pub fn completed(&mut self, result: Result<usize, i32>) -> Result<Lsn, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        let Some((write, run)) = self.writing.take() else { return Ok(self.synced.lsn) };
        self.flight.busy = false;
        self.own = false;
        let cause = match result {
            Ok(written) if written == write.len as usize => None,
            Ok(written) => Some(SyncFault::Short { written: written as u32, asked: write.len }),
            Err(errno) => Some(SyncFault::Errno(errno)),
        };
        if let Some(cause) = cause {
            self.stopped = true;
            let file = self.device.path(&segment_name(write.segment));
            return Err(LogError::SyncFailed { file, offset: write.offset, cause });
        }
        let synced = Synced { turn: self.synced.turn + 1, ..run.reach };
        let (at, slot) = synced.slot();
        if let Err(error) = self.device.publish(at, &slot) {
            self.stopped = true;
            return Err(error);
        }
        let [known, durable] =
            [self.synced.lsn, synced.lsn].map(|reach| self.staged.partition_point(|(lsn, _)| *lsn <= reach));
        for (lsn, record) in self.staged.range(known..durable) {
            self.starts.durable(*lsn, record);
        }
        self.synced = synced;
        self.recent = Some(run);
        Ok(synced.lsn)
    }

    /// Lets go of the oldest segments: those in which, and before which, every record has a key of at most `below` (0 for a record
    /// without one), as far as the durable records permit ([`Record::bound`]), but never the segment that holds the durable end.
    /// What they left standing is carried on ([`Record::carry`]) and comes first at the next start.
    ///
    /// It returns at once; the device works on. While it does, and where there is nothing to let go, this does nothing.
    /// From here on nothing is read below, and [`Log::dropped_below`] says so.
    ///
    /// # Errors
    /// What became of the last release, where it failed: nothing is lost, and the next call tries again.
    /// [`LogError::AnchorTooLarge`]; [`LogError::Stopped`].
    pub fn release(&mut self, below: u64) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        self.starts.release(below, &mut self.index, &mut self.device)
    }

    /// Whether the device is still about the last [`release`](Self::release).
    pub fn is_releasing(&mut self) -> bool {
        self.starts.look(&mut self.device)
    }

    /// Records with a key up to this one may have been let go, none with a higher one; 0 while nothing was.
    pub fn dropped_below(&self) -> u64 {
        self.starts.dropped()
    }

    /// The number of the first segment.
    pub fn first_segment(&self) -> u32 {
        self.starts.first()
    }

    /// Takes out the records that have become durable, in order.
    pub fn drain_durable(&mut self) -> impl Iterator<Item = Durable<T>> + '_ {
        let durable = self.staged.iter().take_while(|(lsn, _)| *lsn <= self.synced.lsn).count();
        self.staged.drain(..durable).map(|(_, record)| Durable(record))
    }

    /// [`begin_write`](Self::begin_write), carried out by the device itself; returns whether a write was begun.
    pub fn submit(&mut self) -> Result<bool, LogError> {
        let write = self.begin(false)?;
        write.map_or(Ok(false), |write| self.hand_over(&write).map(|()| true))
    }

    fn hand_over(&mut self, write: &Write) -> Result<(), LogError> {
        let Some((_, run)) = self.writing else { return Ok(()) };
        let bytes = &self.flight.bytes()[run.start..run.start + write.len as usize];
        // SAFETY: `flight` is not touched while `writing` is set; should the log go first, the device is dropped before
        // the buffers, and `into_device` leaks a busy one.
        match unsafe { self.device.submit(write, bytes) } {
            Ok(()) => {
                self.own = true;
                Ok(())
            }
            Err(error) => self.completed(Err(errno(&error))).map(|_| ()),
        }
    }

    /// Waits for the write that [`submit`](Self::submit) began; [`completed`](Self::completed) says what follows. Refused, with
    /// nothing changed, where another ring has the write: its kernel may still read the buffer.
    pub fn finish(&mut self) -> Result<Lsn, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if self.writing.is_none() {
            return Ok(self.synced.lsn);
        }
        if !self.own {
            return Err(LogError::WriteElsewhere);
        }
        let result = self.device.wait().map_err(|error| errno(&error));
        self.completed(result)
    }

    /// Makes everything staged durable by the device itself, waiting where needed. Refused while another ring has a write.
    pub fn flush(&mut self) -> Result<Lsn, LogError> {
        self.flush_all(true)
    }

    /// As [`flush`](Self::flush), but leaves what belongs into a segment that is still being made: for an end that cannot wait
    /// until the disk has taken a whole segment of zeros. Returns the last durable record.
    pub fn flush_made(&mut self) -> Result<Lsn, LogError> {
        self.flush_all(false)
    }

    fn flush_all(&mut self, wait: bool) -> Result<Lsn, LogError> {
        self.finish()?;
        while let Some(write) = self.begin(wait)? {
            self.hand_over(&write)?;
            self.finish()?;
        }
        Ok(self.synced.lsn)
    }

    /// The last durable record; 0 before the first.
    pub fn durable(&self) -> Lsn {
        self.synced.lsn
    }

    /// The last record that is durable or in the write in flight.
    pub fn written(&self) -> Lsn {
        self.writing.map_or(self.synced.lsn, |(_, run)| run.reach.lsn)
    }

    /// The last staged record; 0 before the first.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Bytes that the log's segments take up to the durable end, headers included, without those that were let go.
    pub fn bytes(&self) -> u64 {
        let whole = self.synced.place.segment - self.starts.first();
        u64::from(whole) * u64::from(self.segment_bytes) + u64::from(self.synced.place.offset)
    }

    /// The longest payload that a record may have, in bytes.
    pub fn max_record(&self) -> usize {
        self.max_record
    }

    /// Memory of the sparse index, in bytes.
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// The staging buffers' addresses and length in bytes, by [`Write::buffer`]: to register them with a ring.
    pub fn buffers(&self) -> [(*const u8, usize); 2] {
        let (flight, active) = (self.flight.bytes(), self.active.bytes());
        let by_turn = if self.turn == 0 { [flight, active] } else { [active, flight] };
        by_turn.map(|bytes| (bytes.as_ptr(), bytes.len()))
    }

    /// Whether a write that was begun lies within the first `bytes` of its staging buffer.
    pub(super) fn registered_prefix(&self, write: &Write, bytes: usize) -> bool {
        let start = write.address.addr().wrapping_sub(self.flight.bytes().as_ptr().addr());
        start.saturating_add(write.len as usize) <= bytes
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for the simulator's faults.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Gives the device back and forgets all that is not durable, as the end of the process does.
    pub fn into_device(self) -> D {
        self.device
    }

    /// Reads durable records whose key is at least `key`, in log order, starting close before the first. Of keys up to
    /// [`Log::dropped_below`] some or all records may be missing.
    pub fn scan_from(&mut self, key: u64) -> Scan<'_, D> {
        let cursor = self.index.find(key);
        self.scan(cursor, key)
    }

    /// Goes on where an earlier scan's [`Scan::cursor`] stood, or at the first record that is left if that was let go meanwhile:
    /// [`Entry::lsn`](super::Entry) shows the gap.
    pub fn scan_on(&mut self, cursor: Cursor, key: u64) -> Scan<'_, D> {
        let first = self.starts.first_record().filter(|first| cursor.place < first.place);
        let cursor = first.unwrap_or(cursor);
        self.scan(Some(cursor), key)
    }

    fn scan(&mut self, cursor: Option<Cursor>, key: u64) -> Scan<'_, D> {
        let tail = self.recent.map(|run| Tail {
            segment: run.segment,
            base: run.offset,
            bytes: &self.flight.bytes()[run.start..run.end],
        });
        let cursor =
            cursor.unwrap_or(Cursor { place: self.synced.place, chain: self.synced.chain, last: self.synced.lsn });
        Scan::new(&mut self.device, tail, self.synced.place, cursor, key)
    }

    /// The path of the file that says up to where everything is durable.
    pub fn synced_to(&self) -> std::path::PathBuf {
        self.device.path(SYNCED_TO)
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
