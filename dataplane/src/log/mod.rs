//! Placeholder spec.

mod buffer;
mod core;
mod device;
mod error;
mod files;
mod format;
mod maker;
mod read;
mod recover;
mod sim_disk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

pub use self::core::Log;
pub use device::{Device, Write};
pub use error::{AppendError, Damage, LogError, SyncFault};
pub use files::{FileDevice, Method};
pub use format::{BLOCK, FORMAT_VERSION, RECORD_HEADER};
pub use read::{Cursor, Entry, INDEX_STEP, Scan};
pub use recover::{Recovered, recover};
pub use sim_disk::{Crash, SimDisk};

/// The longest payload of a record, in bytes; in segments below 4 MiB less, see [`Log::max_record`].
pub const MAX_RECORD: usize = 2 * 1024 * 1024;
/// Bytes of each of the two staging buffers: a record of [`MAX_RECORD`] fits behind a segment's end.
pub const BUFFER_BYTES: usize = MAX_RECORD + 64 * 1024;
/// Records staged or waiting in the queue of durable ones; beyond it `append` answers [`AppendError::Full`].
pub const MAX_STAGED: usize = 8192;
/// The size of a segment unless the local setting `segment_bytes` says otherwise.
pub const DEFAULT_SEGMENT_BYTES: u32 = 32 * 1024 * 1024;
/// The smallest segment; production uses 4 MiB or more.
pub const MIN_SEGMENT_BYTES: u32 = 1024 * 1024;
/// The largest segment.
pub const MAX_SEGMENT_BYTES: u32 = 1024 * 1024 * 1024;

/// The longest payload in segments of a size, in bytes.
fn max_record(segment_bytes: u32) -> usize {
    // The header block, and a record's header.
    MAX_RECORD.min(segment_bytes as usize - BLOCK - RECORD_HEADER)
}

/// A record's number in the log: 1, 2, 3 ... without gaps; 0 is "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where bytes stand in the log; ordered as the log is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// The segment's number.
    pub segment: u32,
    /// The offset in the segment's file, in bytes.
    pub offset: u32,
}

/// What a log stores. Decoding must take back what encoding gave.
pub trait Record: Sized {
    /// What kind of record this is, `1..=254`. 0 and 255 are the log's own.
    fn kind(&self) -> u8;

    /// What the record is found by: the sequence number. Need not ascend.
    fn key(&self) -> u64;

    /// Writes the payload, straight into the staging buffer. May be asked again after [`AppendError::Full`].
    fn encode(&self, out: &mut Sink<'_>);

    /// Reads a payload that passed its checksum; `None` where this program does not know it.
    fn decode(kind: u8, payload: &[u8]) -> Option<Self>;
}

/// Where a record's payload is written: bounded memory in the staging buffer.
pub struct Sink<'a> {
    memory: &'a mut [u8],
    start: usize,
    at: usize,
    limit: usize,
    over: bool,
}

impl<'a> Sink<'a> {
    fn new(memory: &'a mut [u8], start: usize, limit: usize) -> Self {
        Self { memory, start, at: start, limit, over: false }
    }

    /// Appends bytes. Beyond the limit they are dropped and the append fails.
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        let fits = !self.over && end <= self.start + self.limit;
        match self.memory.get_mut(self.at..end).filter(|_| fits) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at = end;
            }
            None => self.over = true,
        }
    }

    fn finish(self) -> Option<usize> {
        (!self.over).then_some(self.at - self.start)
    }
}

/// A record that the log has made durable. Only the log makes one, after the sync that covers the record: whoever asks
/// for a `Durable<T>` cannot be handed anything that a power cut could take back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// The record itself.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
