//! Entries in files.
//!
//! `DIR/history/index` has a record of 24 bytes per entry: its offset (u64), agreed time (i64), length (u32) and checksum (low half
//! of XXH3-64, u32), all big-endian. `DIR/history/entries-N` holds the bytes: offset `N * SEGMENT_BYTES + i` is byte `i` of the file N, and no
//! entry lies in two files. Every file begins with a header of 64 bytes: magic, version, genesis hash.
//!
//! Appended entries gather in two buffers, from which they can be read at once; [`FileStore::flush`] writes each with one call
//! (one more where a segment ends). Reads are positioned reads of written entries. Memory is the buffers, at most
//! [`FLUSH_BYTES`] and an entry, and [`MAX_OPEN_SEGMENTS`] open files, however long the history gets.
//!
//! Positions start at 0 whenever the store is opened: the replica executes its log again and the same bytes are written over
//! themselves. Until then old records are not served, so nothing that a crash tore is ever read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::store::{EntryStore, StoreError, bisect};
use crate::state::Entries;
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

const MAGIC: &[u8; 8] = b"ATLSHIST";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 24;

/// Bytes of a file of entries, its header included; the next entry that would pass it starts a new file.
pub(super) const SEGMENT_BYTES: u64 = 256 << 20;

/// Appended bytes that wait for a flush at most; an append beyond it flushes by itself.
pub(super) const FLUSH_BYTES: usize = 4 << 20;

/// Files of entries held open for reading at most; the one used longest ago is closed.
pub(super) const MAX_OPEN_SEGMENTS: usize = 8;

const _: () = assert!(SEGMENT_BYTES > (HEADER_BYTES + MAX_ENTRY) as u64);

/// Entries in `DIR/history/`. One process at a time; the caller holds the directory's lock.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    genesis: Digest,
    segment_bytes: u64,
    index: File,
    /// Entries whose records are in the index file.
    written: u64,
    records: Vec<u8>,
    /// Segment of the buffered bytes, and where in it they begin.
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
    /// Open files by segment, the one used last at the end.
    open: RefCell<Vec<(u64, File)>>,
}

/// An entry's place, as the index has it.
#[derive(Clone, Copy)]
struct Record {
    at: u64,
    time_ms: TimeMs,
    length: u32,
    checksum: u32,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.at.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.time_ms.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_be_bytes());
        bytes[20..].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk::<8>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            at: u64::from_be_bytes(*at),
            time_ms: TimeMs::from_be_bytes(*time),
            length: u32::from_be_bytes(*length),
            checksum: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

impl FileStore {
    /// Opens `directory` (made if missing) for the cluster with this genesis hash; the store is empty until entries are
    /// appended again.
    ///
    /// # Errors
    /// A file there is of another cluster or format, or the file system fails. Nothing was written over then.
    pub fn open(directory: &Path, genesis: Digest) -> Result<Self, StoreError> {
        Self::open_sized(directory, genesis, SEGMENT_BYTES)
    }

    /// As [`FileStore::open`]; tests take small segments.
    pub(super) fn open_sized(directory: &Path, genesis: Digest, segment_bytes: u64) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| io_error(directory, source))?;
        let index = open_file(&directory.join("index"), genesis)?;
        let first = open_file(&segment_path(directory, 0), genesis)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            genesis,
            segment_bytes,
            index,
            written: 0,
            records: Vec::new(),
            segment: 0,
            offset: HEADER_BYTES as u64,
            bytes: Vec::new(),
            open: RefCell::new(vec![(0, first)]),
        })
    }

    fn record(&self, index: EntryIndex) -> Option<Record> {
        match index.checked_sub(self.written) {
            Some(buffered) => {
                let start = usize::try_from(buffered).ok()?.checked_mul(RECORD_BYTES)?;
                Record::from_bytes(self.records.get(start..start.checked_add(RECORD_BYTES)?)?)
            }
            None => {
                let mut bytes = [0; RECORD_BYTES];
                self.index.read_exact_at(&mut bytes, record_offset(index)).ok()?;
                Record::from_bytes(&bytes)
            }
        }
    }

    /// Runs `use_file` on the file of `segment`.
    fn with_segment<T>(&self, segment: u64, use_file: impl FnOnce(&File) -> io::Result<T>) -> Result<T, StoreError> {
        let path = || segment_path(&self.directory, segment);
        let mut open = self.open.borrow_mut();
        let file = match open.iter().position(|(number, _)| *number == segment) {
            Some(place) => open.remove(place).1,
            None => open_file(&path(), self.genesis)?,
        };
        let result = use_file(&file).map_err(|source| io_error(&path(), source));
        if open.len() >= MAX_OPEN_SEGMENTS {
            open.remove(0);
        }
        open.push((segment, file));
        result
    }

    fn write_bytes(&mut self) -> Result<(), StoreError> {
        if !self.bytes.is_empty() {
            self.with_segment(self.segment, |file| file.write_all_at(&self.bytes, self.offset))?;
            self.offset += self.bytes.len() as u64;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Entries for FileStore {
    fn size(&self) -> EntryIndex {
        self.written + (self.records.len() / RECORD_BYTES) as u64
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        let record = self.record(index)?;
        let (segment, at) = (record.at / self.segment_bytes, record.at % self.segment_bytes);
        let length = record.length as usize;
        if length > MAX_ENTRY {
            return None;
        }
        let entry = if segment == self.segment && at >= self.offset {
            let start = usize::try_from(at - self.offset).ok()?;
            Cow::Borrowed(self.bytes.get(start..start.checked_add(length)?)?)
        } else {
            let mut entry = vec![0; length];
            self.with_segment(segment, |file| file.read_exact_at(&mut entry, at)).ok()?;
            Cow::Owned(entry)
        };
        (checksum(&entry) == record.checksum).then_some(entry)
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        bisect(self.size(), time_ms, |index| self.record(index).map(|record| record.time_ms))
    }
}

impl EntryStore for FileStore {
    fn append(&mut self, entry: &[u8], time_ms: TimeMs) -> Result<EntryIndex, StoreError> {
        if entry.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge(entry.len()));
        }
        if self.bytes.len() >= FLUSH_BYTES {
            self.flush()?;
        }
        if self.offset + (self.bytes.len() + entry.len()) as u64 > self.segment_bytes {
            self.write_bytes()?;
            self.segment += 1;
            self.offset = HEADER_BYTES as u64;
        }
        let index = self.size();
        let record = Record {
            at: self.segment * self.segment_bytes + self.offset + self.bytes.len() as u64,
            time_ms,
            length: entry.len() as u32,
            checksum: checksum(entry),
        };
        self.bytes.extend_from_slice(entry);
        self.records.extend_from_slice(&record.to_bytes());
        Ok(index)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.write_bytes()?;
        if !self.records.is_empty() {
            self.index
                .write_all_at(&self.records, record_offset(self.written))
                .map_err(|source| io_error(&self.directory.join("index"), source))?;
            self.written += (self.records.len() / RECORD_BYTES) as u64;
            self.records.clear();
        }
        Ok(())
    }
}

fn checksum(entry: &[u8]) -> u32 {
    xxh3_64(entry) as u32
}

fn record_offset(index: EntryIndex) -> u64 {
    (HEADER_BYTES as u64).saturating_add(index.saturating_mul(RECORD_BYTES as u64))
}

fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("entries-{segment}"))
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        _ => StoreError::Io { path, source },
    }
}

/// Opens a file and checks its header; writes one into a file that is new. A header of zeros alone is that of a file which
/// was made just before the power went.
fn open_file(path: &Path, genesis: Digest) -> Result<File, StoreError> {
    let failed = |source| io_error(path, source);
    let mut options = OpenOptions::new();
    // What clients wrote is theirs: nobody else on the host reads it.
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    let mut header = [0; HEADER_BYTES];
    let length = file.metadata().map_err(failed)?.len().min(HEADER_BYTES as u64) as usize;
    file.read_exact_at(&mut header[..length], 0).map_err(failed)?;
    let mut expected = [0; HEADER_BYTES];
    expected[..8].copy_from_slice(MAGIC);
    expected[8..12].copy_from_slice(&VERSION.to_be_bytes());
    expected[32..].copy_from_slice(&genesis.0);
    if header == [0; HEADER_BYTES] {
        file.write_all_at(&expected, 0).map_err(failed)?;
    } else if header[..32] != expected[..32] {
        return Err(StoreError::Format { path: path.to_path_buf(), version: VERSION });
    } else if header != expected {
        let mut found = [0; 32];
        found.copy_from_slice(&header[32..]);
        return Err(StoreError::Genesis { path: path.to_path_buf(), expected: genesis, found: Digest(found) });
    }
    Ok(file)
}
