//! The files of a history: their header, what stands in the index, and reading and writing segments of entries.
//!
//! A segment is read where it lies: in `DIR/history/`, else in cold storage ([`super::cold`]). A read never makes a file, and only
//! files in `DIR/history/` are written.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::cold::Cold;
use super::store::StoreError;
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

const MAGIC: &[u8; 8] = b"ATLSHIST";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const RECORD_BYTES: usize = 24;
pub(super) const NODE_BYTES: usize = 32;

/// Bytes of a file of entries, its header included, if nothing else is asked for; the next entry that would pass it starts a new file.
pub const SEGMENT_BYTES: u64 = 256 << 20;

/// Files of entries held open for reading at most; the one used longest ago is closed.
pub(super) const MAX_OPEN_SEGMENTS: usize = 8;

/// The smallest and the largest segment that a header may name.
const SEGMENT_BOUNDS: std::ops::RangeInclusive<u64> = (HEADER_BYTES + 1) as u64..=1 << 40;

/// Where in a header the segments' size stands: 0 for [`SEGMENT_BYTES`].
const SIZE_AT: usize = 16;

const _: () = assert!(SEGMENT_BYTES > (HEADER_BYTES + MAX_ENTRY) as u64);

/// Where a history lies, and how.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory of index, nodes and segments.
    pub directory: PathBuf,
    /// The cluster's genesis hash.
    pub genesis: Digest,
    /// Bytes of a segment where the directory is new; one that is there keeps its own.
    pub segment_bytes: u64,
    /// Where moved segments are read.
    pub cold: Option<Arc<Cold>>,
}

impl Layout {
    /// Everything in one directory, in segments of [`SEGMENT_BYTES`].
    pub fn new(directory: &Path, genesis: Digest) -> Self {
        Self { directory: directory.to_path_buf(), genesis, segment_bytes: SEGMENT_BYTES, cold: None }
    }
}

/// An entry's place, as the index has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) at: u64,
    pub(super) time_ms: TimeMs,
    pub(super) length: u32,
    pub(super) checksum: u32,
}

impl Record {
    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.at.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.time_ms.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_be_bytes());
        bytes[20..].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
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

    /// What the index file has for an entry.
    pub(super) fn read(index: &File, entry: EntryIndex) -> Option<Self> {
        let mut bytes = [0; RECORD_BYTES];
        index.read_exact_at(&mut bytes, record_offset(entry)).ok()?;
        Self::from_bytes(&bytes)
    }

    /// Whether these are the bytes of the entry.
    pub(super) fn is_of(self, entry: &[u8]) -> bool {
        entry.len() == self.length as usize && checksum(entry) == self.checksum
    }
}

/// Where a segment lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Hot,
    Cold,
}

/// The files of entries.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) directory: PathBuf,
    genesis: Digest,
    /// Bytes of a segment.
    pub(super) bytes: u64,
    cold: Option<Arc<Cold>>,
    /// How often segments had moved when the open files were last looked at.
    moves: Cell<u64>,
    /// Open files by segment, the one used last at the end.
    open: RefCell<Vec<(u64, Place, File)>>,
}

impl Segments {
    pub(super) fn new(layout: &Layout, bytes: u64) -> Self {
        let Layout { directory, genesis, cold, .. } = layout.clone();
        Self { directory, genesis, bytes, cold, moves: Cell::new(0), open: RefCell::default() }
    }

    /// Makes the file of a segment, or checks the header of the one that is there.
    pub(super) fn make(&self, segment: u64) -> Result<(), StoreError> {
        self.write(segment, &[], HEADER_BYTES as u64)
    }

    /// The segment of an entry, and where in it the entry begins.
    pub(super) fn place(&self, record: Record) -> (u64, u64) {
        (record.at / self.bytes, record.at % self.bytes)
    }

    /// Writes into a segment in the directory; makes it where there is none.
    pub(super) fn write(&self, segment: u64, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        let path = segment_path(&self.directory, segment);
        let open = || open_file(&path, self.genesis, self.bytes).map(|(file, _)| file);
        self.with(segment, Place::Hot, open, |file| file.write_all_at(bytes, at))
    }

    /// Reads from a segment as it lies in one place.
    pub(super) fn read<T>(
        &self,
        segment: u64,
        place: Place,
        use_file: impl FnOnce(&File) -> io::Result<T>,
    ) -> Option<T> {
        let open = || match (place, &self.cold) {
            (Place::Hot, _) => {
                let path = segment_path(&self.directory, segment);
                open_existing(&path, self.genesis, self.bytes, OpenOptions::new().read(true).write(true))
            }
            (Place::Cold, Some(cold)) => {
                let path = segment_path(cold.folder(), segment);
                open_existing(&path, self.genesis, self.bytes, OpenOptions::new().read(true))
            }
            (Place::Cold, None) => Err(io_error(&self.directory, io::ErrorKind::NotFound.into())),
        };
        // Storage that does not answer must not hold up a replica.
        let is_there = place == Place::Hot || self.cold.as_ref().is_some_and(|cold| cold.is_reachable());
        is_there.then(|| self.with(segment, place, open, use_file).ok()).flatten()
    }

    /// Fills `bytes` from a segment, wherever it lies; gives whether it could.
    pub(super) fn fill(&self, segment: u64, bytes: &mut [u8], at: u64) -> bool {
        [Place::Hot, Place::Cold]
            .iter()
            .any(|place| self.read(segment, *place, |file| file.read_exact_at(bytes, at)).is_some())
    }

    /// The entry of a record; `None` where no file has what the record says.
    pub(super) fn entry(&self, record: Record) -> Option<Vec<u8>> {
        let (segment, at) = self.place(record);
        if record.length as usize > MAX_ENTRY {
            return None;
        }
        let mut entry = vec![0; record.length as usize];
        [Place::Hot, Place::Cold].iter().find_map(|place| {
            self.read(segment, *place, |file| file.read_exact_at(&mut entry, at))?;
            record.is_of(&entry).then(|| std::mem::take(&mut entry))
        })
    }

    /// Whether a segment was moved to cold storage and is not in the directory any more.
    pub(super) fn is_moved(&self, segment: u64) -> bool {
        !segment_path(&self.directory, segment).exists() && super::cold::stub_path(&self.directory, segment).exists()
    }

    /// Closes files of segments that were moved away, so that their room is free.
    pub(super) fn let_go(&self) {
        let moves = self.cold.as_ref().map_or(0, |cold| cold.moves());
        if self.moves.replace(moves) != moves {
            self.open.borrow_mut().clear();
        }
    }

    fn with<T>(
        &self,
        segment: u64,
        place: Place,
        make: impl FnOnce() -> Result<File, StoreError>,
        use_file: impl FnOnce(&File) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        self.let_go();
        let mut open = self.open.borrow_mut();
        let file = match open.iter().position(|(number, known, _)| (*number, *known) == (segment, place)) {
            Some(at) => open.remove(at).2,
            None => make()?,
        };
        let result = use_file(&file).map_err(|source| io_error(&segment_path(&self.directory, segment), source));
        if place == Place::Cold && result.is_err() {
            return result;
        }
        if open.len() >= MAX_OPEN_SEGMENTS {
            open.remove(0);
        }
        open.push((segment, place, file));
        result
    }
}

pub(super) fn checksum(entry: &[u8]) -> u32 {
    xxh3_64(entry) as u32
}

pub(super) fn record_offset(index: EntryIndex) -> u64 {
    (HEADER_BYTES as u64).saturating_add(index.saturating_mul(RECORD_BYTES as u64))
}

pub(super) fn node_offset(position: u64) -> u64 {
    (HEADER_BYTES as u64).saturating_add(position.saturating_mul(NODE_BYTES as u64))
}

pub(super) fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("entries-{segment}"))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        _ => StoreError::Io { path, source },
    }
}

fn header(genesis: Digest, segment_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    let size = if segment_bytes == SEGMENT_BYTES { 0 } else { segment_bytes };
    header[SIZE_AT..SIZE_AT + 8].copy_from_slice(&size.to_be_bytes());
    header[32..].copy_from_slice(&genesis.0);
    header
}

/// The size of segments that a header names; `None` where it is no header.
fn segment_bytes(found: &[u8; HEADER_BYTES]) -> Option<u64> {
    let (_, size) = found[..SIZE_AT + 8].split_last_chunk::<8>()?;
    let size = Some(u64::from_be_bytes(*size)).filter(|size| *size > 0).unwrap_or(SEGMENT_BYTES);
    let expected = header(Digest::NULL, size);
    (found[..32] == expected[..32] && SEGMENT_BOUNDS.contains(&size)).then_some(size)
}

fn read_header(file: &File) -> io::Result<[u8; HEADER_BYTES]> {
    let mut found = [0; HEADER_BYTES];
    let length = file.metadata()?.len().min(HEADER_BYTES as u64) as usize;
    file.read_exact_at(&mut found[..length], 0)?;
    Ok(found)
}

fn check_header(path: &Path, found: &[u8; HEADER_BYTES], genesis: Digest) -> Result<u64, StoreError> {
    let format = || StoreError::Format { path: path.to_path_buf(), version: VERSION };
    let size = segment_bytes(found).ok_or_else(format)?;
    if found[32..] == genesis.0 {
        return Ok(size);
    }
    let mut other = [0; 32];
    other.copy_from_slice(&found[32..]);
    Err(StoreError::Genesis { path: path.to_path_buf(), expected: genesis, found: Digest(other) })
}

/// Opens a file and checks its header; writes one into a file that is new. A header of zeros alone is that of a file which
/// was made just before the power went. Gives the size of segments that it names too.
pub(super) fn open_file(path: &Path, genesis: Digest, segment_bytes: u64) -> Result<(File, u64), StoreError> {
    let failed = |source| io_error(path, source);
    let mut options = OpenOptions::new();
    // What clients wrote is theirs: nobody else on the host reads it.
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    let found = read_header(&file).map_err(failed)?;
    if found == [0; HEADER_BYTES] {
        file.write_all_at(&header(genesis, segment_bytes), 0).map_err(failed)?;
        return Ok((file, segment_bytes));
    }
    let size = check_header(path, &found, genesis)?;
    Ok((file, size))
}

/// Opens a file that must be there, of a history with segments of this size.
pub(super) fn open_existing(
    path: &Path,
    genesis: Digest,
    segment_bytes: u64,
    options: &OpenOptions,
) -> Result<File, StoreError> {
    let file = options.open(path).map_err(|source| io_error(path, source))?;
    let found = read_header(&file).map_err(|source| io_error(path, source))?;
    match check_header(path, &found, genesis)? {
        size if size == segment_bytes => Ok(file),
        _ => Err(StoreError::Format { path: path.to_path_buf(), version: VERSION }),
    }
}

/// Opens the index of a history that is there; gives the size of its segments too.
pub(super) fn open_index(directory: &Path, genesis: Digest) -> Result<(File, u64), StoreError> {
    let path = directory.join("index");
    let file = File::open(&path).map_err(|source| io_error(&path, source))?;
    let found = read_header(&file).map_err(|source| io_error(&path, source))?;
    let size = check_header(&path, &found, genesis)?;
    Ok((file, size))
}
