//! The persistent log: what a replica promised, so that it keeps it after any crash.
//!
//! # What is durable when
//! Stage, sync, publish. [`Log::append`] encodes a record into the active staging buffer; [`Log::begin_write`] hands
//! all that gathered to the device as one write (group commit: while a write is in flight the next one gathers);
//! [`Log::completed`] takes the outcome. Only then the records come out of [`Log::drain_durable`] as [`Durable`], a
//! type that nothing else in the crate can make: a vote that wants a `Durable` cannot leave before its sync. A failed
//! or short write ends the log: every later call is refused, the replica restarts and reads what is really there.
//!
//! # Files
//! - `DIR/lock`: held by `flock` while the process lives; a second process is told which directory it shares.
//! - `DIR/log/00000000.seg` ...: segments of `segment_bytes`, zero-filled ahead of need by a thread of their own,
//!   written append-only. Created as `.tmp`, synced, renamed, directory synced: a `.seg` is whole or not there. The
//!   first 4 KiB are a header: magic, format version, number, length, genesis hash, checksum.
//! - `DIR/log/synced_to`: a header and two slots, each in a sector of its own, written in turn through a mapping after
//!   each sync and before anything is published. A slot names the place, LSN and checksum of the last durable record.
//! - `DIR/log/anchor`: where the log begins once its oldest segments were let go; created as `.tmp` like a segment. Header of 96 bytes:
//!   magic, format version, the file's length, genesis hash, checksum and LSN of the record before the first that is left, the highest
//!   key that was let go, the first segment, a count. So many carried records follow (length, kind, key, payload), and an XXH3-128 of
//!   all before.
//!
//! A record is a 40-byte header (checksum 16, length 4, kind 1, zeros 3, LSN 8, key 8), the payload, and zeros up to a
//! multiple of 8. Its checksum is XXH3-128 over the previous record's checksum, header and payload, seeded with segment
//! and offset; the first is seeded by the genesis hash. So each record vouches for everything before it, and valid
//! bytes of an earlier life behind a torn tail are never taken for its continuation. No record spans segments: a marker
//! (kind 255, in the chain) ends one where 40 bytes are left for it, and the chain goes on in the next.
//!
//! XXH3 finds faults of hardware and software. It is no defence against someone who can write to the directory.
//!
//! # Writing the last block again
//! A write covers whole 4 KiB blocks. The last is mostly part-filled, and the next write starts with it: the same bytes
//! up to where the durable records end, then new ones. A torn write leaves each 512-byte sector old or new. Both hold
//! the same durable bytes, so tearing cannot harm them. Readers of the mapping look only below the durable end, at
//! bytes that never change; after an O_DIRECT write the kernel drops the pages that it made stale.
//!
//! # Letting go of the oldest
//! [`Log::release`] drops the leading segments all of whose records have keys up to a given one; records without a key (0) never
//! hold a segment back. What those, and others, left standing is *carried*: a type of record folds each durable record into a bounded
//! list ([`Record::carry`]), and the list as it was before a segment's first record is what a start hands out in place of all before.
//! The same list says how far anything may go ([`Record::bound`]), so that nothing goes whose justification is only staged. The
//! segment that holds the durable end always stays.
//!
//! The thread that makes segments does the work, and nobody waits: it syncs `synced_to`, which must never be older on the disk than the
//! anchor; makes the new anchor durable under its name; then removes the files, the oldest first, one at a time between segments that
//! are to be made; then syncs the directory. A crash leaves the old anchor and all files, or the new one and any of the files below
//! it, which the next start removes, having written the same anchor once more: it may have been renamed and not synced. One release is
//! under way at a time; asking meanwhile does nothing. One that fails is told at the next call, and tried again at the one after.
//!
//! From the call on nothing below is read: a scan starts at the first record that is left, and [`Log::dropped_below`] says which keys
//! may be missing. The caller has all that is let go elsewhere, durably.
//!
//! # Start
//! [`recover`] hands out the carried records, walks the chain from the first record and hands each one out. What it finds decides:
//!
//! | found | decision |
//! | --- | --- |
//! | no `synced_to`, no `anchor`, and no segment or only such as hold nothing (creation was cut short) | a new log |
//! | no `synced_to`, but an `anchor`, anything in a segment, or a gap in the segments | [`LogError::Missing`] |
//! | `synced_to` of another length, version or cluster | `WrongLength`, `WrongVersion`, `WrongCluster` |
//! | `synced_to` without magic, with a damaged header, or with no valid slot | [`LogError::SyncedToDamaged`] |
//! | one valid slot | it counts |
//! | no `anchor` | the log begins with segment 0 and the genesis |
//! | `anchor` of another length, version or cluster | `WrongLength`, `WrongVersion`, `WrongCluster` |
//! | `anchor` without magic, or with a wrong checksum | [`LogError::AnchorDamaged`] |
//! | an intact carried record that does not decode | [`LogError::Undecodable`] |
//! | `synced_to` points before the anchor's segment | [`LogError::BeforeAnchor`], one of the two is older |
//! | segments below the anchor's | removed unread, once all else was judged |
//! | from the first segment on: a gap, or none where the anchor or `synced_to` points | [`LogError::Missing`] |
//! | any segment of another length, version or cluster | `WrongLength`, `WrongVersion`, `WrongCluster` |
//! | any segment of another size than the setting `segment_bytes` | [`LogError::OtherSegmentBytes`] |
//! | any segment header damaged or of another number | [`LogError::Damaged`] |
//! | below `synced_to`: anything but the next intact record | [`LogError::Damaged`] with segment and offset |
//! | at `synced_to`: another checksum or LSN, or a record that spans it | [`LogError::Damaged`], a file is older |
//! | above: an intact record | kept; what it lies in was synced before it was read |
//! | above: zeros or anything else | the end: all behind it is dropped, and zeroed before anything is added |
//! | behind a segment's end marker: anything but zeros | [`LogError::Damaged`] |
//! | an intact record that does not decode | [`LogError::Undecodable`] |
//!
//! Every error leaves every byte as it was. A process that was killed leaves `synced_to` exact. A power cut may lose
//! its latest stores (the kernel writes it back within its usual half a minute, and it is synced with each new
//! segment). Records above an older `synced_to` are still found by the chain; but a bit that rots there, in the same
//! half minute before the power cut, looks like a torn tail. That coincidence counts towards f.
//!
//! # Reading
//! [`Log::scan_from`] finds a key (the sequence number) by a sparse index, one point per [`INDEX_STEP`] bytes of log
//! (96 KiB a GiB), and walks on through read-only mappings, without a copy, verifying each checksum again. At most two
//! segments stay mapped, so resident memory does not grow with the log. What was written last is served from its
//! staging buffer. Keys need not ascend.
//!
//! # The device
//! [`Device`] is the one seam. [`FileDevice`] has two ways to make the tail durable ([`Method`]); [`SimDisk`] is the
//! simulator's, forgets what was not synced and injects faults. A replica takes the [`Write`] to its own ring instead
//! (`FileDevice::fd`, O_DIRECT, RWF_DSYNC) and reports by `completed`; a log that is dropped with such a write under
//! way leaks its buffer rather than free memory that the kernel reads.
//!
//! The choice is [`Method::Direct`]. `cargo bench --bench log_append`, 2 shared vCPUs, ext4 on a virtual
//! disk, three runs beside other work (lowest to highest; the last row two runs, one for each way of caching):
//!
//! | a sync | p50 | p99 | written to the device |
//! | --- | --- | --- | --- |
//! | direct, 4 KiB | 94-128 us | 149-269 us | 4.2 kB |
//! | mapped, 4 KiB | 93-133 us | 166-4,000 us | 4.2-4.4 kB |
//! | direct, 64 KiB | 115-118 us | 176-259 us | 65.7 kB |
//! | mapped, 64 KiB | 163-477 us | 4,100-8,000 us | 74-76 kB |
//! | mapped, 64 KiB, segment page-cached (read, or zeroed without dropping its pages) | 183-3,100 us | 317-7,900 us | 211-247 kB |
//!
//! At 4 KiB the two are equal. At 64 KiB the mapping is slower, its tail far longer, and it writes up to 3.8 times the
//! bytes once the page cache holds the segment, for the kernel writes back whole folios. It depends on what is cached,
//! so it cannot be promised; the maker of segments drops its pages for that reason. A mapped store can also end the
//! process by SIGBUS on a bad block, where a direct write reports an error.
//!
//! # Limits
//! [`MAX_RECORD`], [`BUFFER_BYTES`], [`MAX_STAGED`], [`MIN_SEGMENT_BYTES`], [`MAX_SEGMENT_BYTES`], [`MAX_ANCHOR`]. At a full buffer or
//! queue `append` gives the record back ([`AppendError::Full`]): the caller holds back until the write completes. The
//! same happens while a segment is being made; a full disk is [`LogError::NoSpace`], loses nothing and may be tried again.
//! For each segment the carried records are kept in memory, which their bound bounds. Where they do not fit an anchor
//! nothing is let go ([`LogError::AnchorTooLarge`]). Segment numbers end at 2^32: 128 PiB of log in segments of the usual size. A
//! program that knows no anchors finds segment 0 missing in a log that was cut.
//!
//! # Sources
//! Torn writes told apart from rot, recovery by a table proved exhaustively: TigerBeetle's journal. Crash model with any
//! subset of sectors: Pillai et al., OSDI 2014. Failed fsync is fatal: Rebello et al., USENIX ATC 2020.

mod anchor;
mod buffer;
mod bus;
mod core;
mod device;
mod error;
mod files;
mod format;
mod maker;
mod reactor;
mod read;
mod recover;
mod sim_disk;
mod starts;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod astray_tests;

use std::fmt;
use std::ops::Deref;

pub(crate) use buffer::Blocks;
pub(crate) use bus::explain_read_errors;

pub use self::core::Log;
pub use anchor::carried_by;
pub use device::{Device, Write};
pub use error::{AppendError, Damage, LogError, SyncFault};
pub(crate) use files::move_aside;
pub use files::{FileDevice, Method, hold, set_aside};
pub use format::{BLOCK, FORMAT_VERSION, RECORD_HEADER};
pub use reactor::{LOG_WRITE, ReactorWriter};
pub use read::{Cursor, Entry, INDEX_STEP, Scan};
pub use recover::{Recovered, recover};
pub use sim_disk::{Astray, Crash, SimDisk};

/// The longest payload of a record, in bytes; in segments below 4 MiB less, see [`Log::max_record`].
pub const MAX_RECORD: usize = 2 * 1024 * 1024;
/// The longest anchor, in bytes: it holds what the records that were let go left standing.
pub const MAX_ANCHOR: usize = 4 * MAX_RECORD;
/// Bytes of each of the two staging buffers: a record of [`MAX_RECORD`] fits behind a segment's end.
pub const BUFFER_BYTES: usize = MAX_RECORD + 64 * 1024;
/// Records staged or waiting in the queue of durable ones; beyond it `append` answers [`AppendError::Full`].
pub const MAX_STAGED: usize = 8192;
/// The size of a segment unless the local setting `segment_bytes` says otherwise.
pub const DEFAULT_SEGMENT_BYTES: u32 = 32 * 1024 * 1024;
/// The smallest segment; production uses 4 MiB or more.
pub const MIN_SEGMENT_BYTES: u32 = 1024 * 1024;
/// The smallest segment in simulations, whose logs are truncated within a short run.
pub const SIMULATED_SEGMENT_BYTES: u32 = 16 * 1024;
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
///
/// A clone should be cheap: what a record left standing is kept for each segment.
pub trait Record: Clone {
    /// What kind of record this is, `1..=254`. 0 and 255 are the log's own.
    fn kind(&self) -> u8;

    /// What the record is found by: the sequence number. Need not ascend.
    fn key(&self) -> u64;

    /// Writes the payload, straight into the staging buffer. May be asked again after [`AppendError::Full`].
    fn encode(&self, out: &mut Sink<'_>);

    /// Reads a payload that passed its checksum; `None` where this program does not know it.
    fn decode(kind: u8, payload: &[u8]) -> Option<Self>;

    /// Takes note of a record in the list of those that stand in for all up to here: what a start is handed first, in this order,
    /// once they were let go. It must be bounded, for it has to fit [`MAX_ANCHOR`]. Where this keeps nothing, nothing is carried.
    fn carry(_kept: &mut Vec<Self>, _record: &Self) {}

    /// The highest key up to which records may be let go, by what the list says that stands in for all durable ones. A promise of
    /// the caller of [`Log::release`] that has to be durable itself is looked for here.
    fn bound(_kept: &[Self]) -> u64 {
        u64::MAX
    }
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
