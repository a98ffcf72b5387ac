//! The files of a history, read beside the replica that writes them.
//!
//! Nothing is made, locked or written here. What a snapshot in `DIR/state/` vouches for was synced before the snapshot got its
//! name, and is never written differently after: so whoever reads entries below that size reads what will stay. What is read is
//! not believed for that: the caller holds leaf hashes and entries against a certified root.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ledger::fault;
use super::ledger::{ColdError, Ledger};
use super::segments::{open_existing, segment_path};
use super::store::StoreError;
use crate::types::{Digest, EntryIndex};
use crate::wire::limits::MAX_ENTRY;

/// Entries or hashes given at a time.
const AT_ONCE: u64 = 4_096;

/// A history's directory, and where its older segments may have gone.
#[derive(Debug)]
pub struct HistoryFiles {
    ledger: Ledger,
    cold: Option<PathBuf>,
    /// The segment that was read last.
    open: Option<(u64, PathBuf, File)>,
}

impl HistoryFiles {
    /// Opens `DIR/history` of the cluster with this genesis hash; `cold` is the replica's own folder in cold storage.
    ///
    /// # Errors
    /// It is not there, or of another cluster or format.
    pub fn open(directory: &Path, genesis: Digest, cold: Option<&Path>) -> Result<Self, ColdError> {
        Ok(Self { ledger: Ledger::open(directory, genesis)?, cold: cold.map(Path::to_path_buf), open: None })
    }

    /// How many entries the index has room for; the last of them need not be there.
    ///
    /// # Errors
    /// The file system's.
    pub fn size(&self) -> Result<EntryIndex, ColdError> {
        self.ledger.size()
    }

    /// Hashes of the entries from `first` on, at most `count` and a few thousand.
    ///
    /// # Errors
    /// The file system's; they are not there.
    pub fn leaf_hashes(&self, first: EntryIndex, count: u64) -> Result<Vec<Digest>, ColdError> {
        Ok(self.ledger.records(first, count.min(AT_ONCE))?.into_iter().map(|(_, leaf)| leaf).collect())
    }

    /// The entries themselves, likewise.
    ///
    /// # Errors
    /// The file system's; a record that is damaged; a segment that is neither here nor in cold storage.
    pub fn entries(&mut self, first: EntryIndex, count: u64) -> Result<Vec<Vec<u8>>, ColdError> {
        let mut entries = Vec::new();
        for (entry, (record, _)) in (first..).zip(self.ledger.records(first, count.min(AT_ONCE))?) {
            let (segment, at) = (record.at / self.ledger.segment_bytes(), record.at % self.ledger.segment_bytes());
            if record.length as usize > MAX_ENTRY {
                return Err(ColdError::Index { path: self.ledger.directory().to_path_buf(), segment, entry });
            }
            let mut bytes = vec![0; record.length as usize];
            let (path, file) = self.segment(segment)?;
            file.read_exact_at(&mut bytes, at).map_err(fault(path, "read"))?;
            entries.push(bytes);
        }
        Ok(entries)
    }

    /// A segment: in the directory, else in cold storage.
    fn segment(&mut self, segment: u64) -> Result<(&Path, &File), ColdError> {
        let open = match self.open.take().filter(|(number, ..)| *number == segment) {
            Some(open) => open,
            None => self.open_segment(segment)?,
        };
        let (_, path, file) = self.open.insert(open);
        Ok((path, file))
    }

    fn open_segment(&self, segment: u64) -> Result<(u64, PathBuf, File), ColdError> {
        let folders = [Some(self.ledger.directory()), self.cold.as_deref()];
        let mut missing = None;
        for folder in folders.into_iter().flatten() {
            let path = segment_path(folder, segment);
            let (genesis, bytes) = (self.ledger.genesis(), self.ledger.segment_bytes());
            match open_existing(&path, genesis, bytes, OpenOptions::new().read(true)) {
                Ok(file) => return Ok((segment, path, file)),
                Err(StoreError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                    missing = Some(StoreError::Io { path, source });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(missing.map_or_else(|| ColdError::Absent { path: self.ledger.directory().to_path_buf() }, ColdError::from))
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
