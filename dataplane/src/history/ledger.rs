//! What a history's directory knows of its segments: which entries each has, and whether a file has them.
//!
//! It reads index and nodes by files of its own, so it may work beside the replica on all that is synced there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::segments::{
    HEADER_BYTES, NODE_BYTES, RECORD_BYTES, Record, io_error, node_offset, open_existing, open_index, record_offset,
};
use super::store::StoreError;
use super::tree::node_count;
use crate::crypto::hash::leaf_hash;
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

/// Records read at a time, and bytes.
const RECORDS_AT_ONCE: u64 = 4_096;
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const _: () = assert!(CHUNK_BYTES > MAX_ENTRY);

/// Why a segment cannot be moved, checked or brought back.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// The directory of cold storage is not there.
    #[error("cold storage {} is not there: mount it, or create the directory if it is new", path.display())]
    Absent {
        /// The directory.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// Another cluster's file, or no history file.
    #[error(transparent)]
    File(#[from] StoreError),
    /// An entry does not hash to what the history has.
    #[error("{}: entry {entry}, at byte {at}, is not the entry of the history: the file is damaged or of another history", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The entry.
        entry: EntryIndex,
        /// Where in the file it begins.
        at: u64,
    },
    /// The index does not say where the entries of a segment are.
    #[error("{}/index does not tell which entries segment {segment} has: it has none, or the record of entry {entry} is damaged", path.display())]
    Index {
        /// The directory.
        path: PathBuf,
        /// The segment.
        segment: u64,
        /// The first entry without a place.
        entry: EntryIndex,
    },
}

impl ColdError {
    /// Whether it is one segment's own, so that others may be moved all the same.
    pub fn is_of_one_segment(&self) -> bool {
        use StoreError::{Format, Genesis};
        matches!(self, Self::Damaged { .. } | Self::Index { .. } | Self::File(Format { .. } | Genesis { .. }))
    }
}

/// For `map_err`.
pub(super) fn fault<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> ColdError + 'a {
    move |source| ColdError::Io { path: path.to_path_buf(), doing, source }
}

/// The entries of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first.
    pub first: EntryIndex,
    /// The first behind them.
    pub end: EntryIndex,
    /// Length of the file, header included.
    pub bytes: u64,
}

/// Index and nodes of a history.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    genesis: Digest,
    segment_bytes: u64,
    index: File,
    nodes: File,
}

impl Ledger {
    /// Opens the files of a history's directory for reading.
    ///
    /// # Errors
    /// One of them is not there, or of another cluster or format.
    pub fn open(directory: &Path, genesis: Digest) -> Result<Self, ColdError> {
        let (index, segment_bytes) = open_index(directory, genesis)?;
        let nodes = directory.join("nodes");
        let nodes = File::open(&nodes).map_err(|source| io_error(&nodes, source))?;
        Ok(Self { directory: directory.to_path_buf(), genesis, segment_bytes, index, nodes })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many entries the index has room for; the last of them need not be there.
    ///
    /// # Errors
    /// The file system's.
    pub fn size(&self) -> Result<EntryIndex, ColdError> {
        let length = self.index.metadata().map_err(fault(&self.directory, "look at the index in"))?.len();
        Ok(length.saturating_sub(HEADER_BYTES as u64) / RECORD_BYTES as u64)
    }

    /// The segment of an entry.
    pub(super) fn segment_of(&self, entry: EntryIndex) -> Option<u64> {
        Some(Record::read(&self.index, entry)?.at / self.segment_bytes)
    }

    /// Where an entry ends, counted over all segments, and its agreed time.
    pub(super) fn end_of(&self, entry: EntryIndex) -> Option<(u64, TimeMs)> {
        let record = Record::read(&self.index, entry)?;
        Some((record.at.saturating_add(u64::from(record.length)), record.time_ms))
    }

    /// The first of `size` entries that is later than `time_ms`.
    pub(super) fn first_after(&self, time_ms: TimeMs, size: EntryIndex) -> EntryIndex {
        partition(size, |entry| Record::read(&self.index, entry).is_some_and(|record| record.time_ms <= time_ms))
    }

    /// The cluster's genesis hash.
    pub(super) fn genesis(&self) -> Digest {
        self.genesis
    }

    /// Bytes of a segment.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The entries of a segment, of the first `size`.
    ///
    /// # Errors
    /// The index does not name any there.
    pub fn span(&self, segment: u64, size: EntryIndex) -> Result<Span, ColdError> {
        let index = |entry| ColdError::Index { path: self.directory.clone(), segment, entry };
        let start = segment.checked_mul(self.segment_bytes).ok_or_else(|| index(0))?;
        let below = |limit: u64| {
            // A record that was never written has zeros, and stands behind all others.
            let is_below = move |record: Record| record.at >= HEADER_BYTES as u64 && record.at < limit;
            move |entry| Record::read(&self.index, entry).is_some_and(is_below)
        };
        let first = partition(size, below(start));
        let end = partition(size, below(start.saturating_add(self.segment_bytes)));
        let last = end.checked_sub(1).filter(|last| *last >= first).ok_or_else(|| index(first))?;
        let (bytes, _) = self.end_of(last).ok_or_else(|| index(last))?;
        let bytes = bytes.checked_sub(start).filter(|bytes| *bytes <= self.segment_bytes);
        Ok(Span { first, end, bytes: bytes.ok_or_else(|| index(last))? })
    }

    /// Reads a whole segment and holds each entry against its leaf hash, of which every root is made. `pace` is told how much was read.
    ///
    /// # Errors
    /// Which entry is not what the history has; the file's header; the file system's.
    pub fn check(&self, path: &Path, span: Span, pace: &mut dyn FnMut(usize)) -> Result<(), ColdError> {
        let file = open_existing(path, self.genesis, self.segment_bytes, fs::OpenOptions::new().read(true))?;
        let mut read = Ahead { file: &file, bytes: Vec::new(), at: 0 };
        let mut at = HEADER_BYTES as u64;
        for first in (span.first..span.end).step_by(RECORDS_AT_ONCE as usize) {
            let count = RECORDS_AT_ONCE.min(span.end - first);
            for (entry, (record, leaf)) in (first..).zip(self.records(first, count)?) {
                let damaged = || ColdError::Damaged { path: path.to_path_buf(), entry, at };
                let length = record.length as usize;
                if record.at % self.segment_bytes != at || length > MAX_ENTRY {
                    let segment = record.at / self.segment_bytes;
                    return Err(ColdError::Index { path: self.directory.clone(), segment, entry });
                }
                let bytes = read.take(at, length, pace).map_err(fault(path, "read"))?.ok_or_else(damaged)?;
                if leaf_hash(bytes) != leaf {
                    return Err(damaged());
                }
                at += length as u64;
            }
        }
        Ok(())
    }

    /// Places and leaf hashes of entries.
    pub(super) fn records(&self, first: EntryIndex, count: u64) -> Result<Vec<(Record, Digest)>, ColdError> {
        let failed = fault(&self.directory, "read index and nodes in");
        let mut records = vec![0; count as usize * RECORD_BYTES];
        self.index.read_exact_at(&mut records, record_offset(first)).map_err(&failed)?;
        let start = node_count(first);
        let mut nodes = vec![0; (node_count(first + count) - start) as usize * NODE_BYTES];
        self.nodes.read_exact_at(&mut nodes, node_offset(start)).map_err(&failed)?;
        let leaf = |entry: EntryIndex| {
            let at = (node_count(entry) - start) as usize * NODE_BYTES;
            nodes.get(at..)?.first_chunk::<NODE_BYTES>().map(|leaf| Digest(*leaf))
        };
        let records = (first..).zip(records.chunks_exact(RECORD_BYTES));
        Ok(records.filter_map(|(entry, record)| Some((Record::from_bytes(record)?, leaf(entry)?))).collect())
    }
}

/// Reads a file from front to back in larger pieces.
struct Ahead<'a> {
    file: &'a File,
    bytes: Vec<u8>,
    at: u64,
}

impl Ahead<'_> {
    /// The bytes there; `None` where the file ends before.
    fn take(&mut self, at: u64, length: usize, pace: &mut dyn FnMut(usize)) -> io::Result<Option<&[u8]>> {
        if at + length as u64 > self.at + self.bytes.len() as u64 {
            self.bytes.resize(CHUNK_BYTES, 0);
            let mut done = 0;
            while done < CHUNK_BYTES {
                match self.file.read_at(&mut self.bytes[done..], at + done as u64)? {
                    0 => break,
                    read => done += read,
                }
            }
            self.bytes.truncate(done);
            self.at = at;
            pace(done);
        }
        let start = (at - self.at) as usize;
        Ok(self.bytes.get(start..start + length))
    }
}

/// The first of `size` numbers for which this does not hold, if it holds for all before it and none behind it.
fn partition(size: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
