//! Where the entries are kept.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

pub use super::file_store::FileStore;
use crate::state::Entries;
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

/// Keeps entries in their order. Positions start at 0 whenever a store is opened; see [`FileStore`].
pub trait EntryStore: Entries {
    /// Appends an entry of agreed time `time_ms`, which is never before that of the entry before. It can be read at once.
    ///
    /// # Errors
    /// Nothing was appended.
    fn append(&mut self, entry: &[u8], time_ms: TimeMs) -> Result<EntryIndex, StoreError>;

    /// Hands what was appended to the operating system; called once per poll. It may be called again after an error.
    ///
    /// # Errors
    /// The entries stay readable, the files hold a part of them.
    fn flush(&mut self) -> Result<(), StoreError>;
}

/// Why entries cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file belongs to another cluster; nothing was written.
    #[error(
        "{path} belongs to another cluster: its genesis is {found}, this cluster's is {expected}; check the data directory in the config"
    )]
    Genesis {
        /// Which file.
        path: PathBuf,
        /// The cluster that runs.
        expected: Digest,
        /// The cluster that the file was written for.
        found: Digest,
    },
    /// The file is not a history file of this version; nothing was written.
    #[error("{path} is not a history file of version {version}: move it away, or run the build that wrote it")]
    Format {
        /// Which file.
        path: PathBuf,
        /// The version that this build writes.
        version: u32,
    },
    /// The disk or the user's quota is full.
    #[error("no space left for {path}: free some and start the replica again")]
    Full {
        /// Which file.
        path: PathBuf,
    },
    /// The entry is larger than an entry may be: a fault of ours, as bundles are checked before they are ordered.
    #[error("an entry of {0} bytes where at most {MAX_ENTRY} are allowed")]
    TooLarge(usize),
    /// Any other failure of the file system.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// The first of `size` entries whose time is `time_ms` or later, by bisection; an entry without a known time counts as earlier.
pub(super) fn bisect(size: u64, time_ms: TimeMs, time_of: impl Fn(EntryIndex) -> Option<TimeMs>) -> EntryIndex {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        if time_of(middle).is_some_and(|time| time >= time_ms) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Entries in memory, for simulations and tests: it grows with the history.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryStore {
    bytes: Vec<u8>,
    /// End in `bytes`, and agreed time, of each entry.
    index: Vec<(usize, TimeMs)>,
}

impl MemoryStore {
    /// A store without entries.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Entries for MemoryStore {
    fn size(&self) -> EntryIndex {
        self.index.len() as EntryIndex
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        let index = usize::try_from(index).ok()?;
        let (end, _) = *self.index.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.index.get(before)).map_or(0, |before| before.0);
        self.bytes.get(start..end).map(Cow::Borrowed)
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        bisect(self.size(), time_ms, |index| self.index.get(index as usize).map(|entry| entry.1))
    }
}

impl EntryStore for MemoryStore {
    fn append(&mut self, entry: &[u8], time_ms: TimeMs) -> Result<EntryIndex, StoreError> {
        if entry.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge(entry.len()));
        }
        let index = self.size();
        self.bytes.extend_from_slice(entry);
        self.index.push((self.bytes.len(), time_ms));
        Ok(index)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
