//! The one seam under the log: what a disk does for it.

use std::io;
use std::ops::Deref;
use std::path::PathBuf;

use super::error::LogError;

/// One write that must be durable when it is reported complete. The memory stays valid and unchanged until then.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The segment to write to.
    pub segment: u32,
    /// Where in the segment's file, a multiple of 4096.
    pub offset: u32,
    /// First byte of the memory, aligned to 4096.
    pub address: *const u8,
    /// Bytes to write, a multiple of 4096.
    pub len: u32,
    /// Which of the two staging buffers the memory belongs to, 0 or 1: for registered buffers.
    pub buffer: u8,
}

/// A disk that holds the log: real files ([`FileDevice`](super::FileDevice)) or the simulator's
/// ([`SimDisk`](super::SimDisk)).
///
/// The log calls `prepare`, `submit`, `wait`, `publish`, `truncate` and `truncated` while it runs, the rest at start.
pub trait Device {
    /// A segment's bytes for reading; may be a snapshot, must hold all that was written before the call.
    type Map: Deref<Target = [u8]>;

    /// The path of a file of the log, for messages.
    fn path(&self, file: &str) -> PathBuf;

    /// The numbers of the segments that exist, ascending.
    fn segments(&mut self) -> Result<Vec<u32>, LogError>;

    /// A segment's whole file.
    fn map(&mut self, segment: u32) -> Result<Self::Map, LogError>;

    /// The content of `synced_to`, or `None` where there is no such file.
    fn load_synced(&mut self) -> Result<Option<Vec<u8>>, LogError>;

    /// Writes the first `synced_to`, durably and at once or not at all.
    fn create_synced(&mut self, image: &[u8]) -> Result<(), LogError>;

    /// The content of `anchor`, or `None` where there is no such file; of one longer than any anchor may be only the beginning.
    fn load_anchor(&mut self) -> Result<Option<Vec<u8>>, LogError>;

    /// Begins to replace `anchor`, durably and at once or not at all, and then to remove all segments below `first`, the oldest
    /// first. What `publish` stored before the call is durable before the anchor. Waits for nothing; the log never asks again before
    /// `truncated` has told the outcome, and reads nothing below `first` any more.
    fn truncate(&mut self, first: u32, anchor: &[u8]) -> Result<(), LogError>;

    /// What became of `truncate`, told once; `None` while it is under way. After an error either anchor counts, and some segments
    /// below `first` may be gone if it is the new one.
    fn truncated(&mut self) -> Option<Result<(), LogError>>;

    /// Stores a slot of `synced_to`, so that it survives the process; a power cut may lose the latest.
    fn publish(&mut self, at: usize, slot: &[u8]) -> Result<(), LogError>;

    /// Makes durable whatever an earlier process wrote to the segment, so that what is read is what the disk holds.
    fn settle(&mut self, segment: u32) -> Result<(), LogError>;

    /// Fills a segment with zeros from `from` to its end, durably.
    fn zero(&mut self, segment: u32, from: u32) -> Result<(), LogError>;

    /// Whether the segment is there and zero-filled; starts to create the one after it. With `wait` it does not
    /// return before the segment is there.
    fn prepare(&mut self, segment: u32, wait: bool) -> Result<bool, LogError>;

    /// Begins a write.
    ///
    /// # Safety
    /// `bytes` is the memory that `write` describes; it stays valid and unchanged until `wait` returned or the device
    /// was dropped.
    unsafe fn submit(&mut self, write: &Write, bytes: &[u8]) -> io::Result<()>;

    /// Waits until the write that was begun is durable and returns the number of bytes written.
    fn wait(&mut self) -> io::Result<usize>;
}

/// A segment's file name.
pub(super) fn segment_name(segment: u32) -> String {
    format!("{segment:08}.seg")
}

/// The name of the file with the last acknowledged sync.
pub(super) const SYNCED_TO: &str = "synced_to";

/// The name of the file that says where a log begins whose oldest segments are gone.
pub(super) const ANCHOR: &str = "anchor";
