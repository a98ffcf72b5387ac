//! Where the entries are kept.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

pub use super::file_store::FileStore;
use super::proof::NodeHashes;
pub use super::segments::{Layout, SEGMENT_BYTES};
use super::tree::{HistoryTree, node_count, node_position};
use crate::state::Entries;
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

/// Keeps entries in their order. Positions start at 0 whenever a store is opened; see [`FileStore`].
pub trait EntryStore: Entries + NodeHashes {
    /// Appends an entry of agreed time `time_ms`, which is never before that of the entry before, and the nodes of the tree that it
    /// completes. It can be read at once.
    ///
    /// # Errors
    /// Nothing was appended.
    fn append(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<EntryIndex, StoreError>;

    /// Hashes of the entries from `first` on, at most `count`.
    fn leaf_hashes(&self, first: EntryIndex, count: u64) -> Vec<Digest> {
        (first..first.saturating_add(count)).map_while(|index| self.node(0, index)).collect()
    }

    /// Makes sure that the nodes of all entries are those under this edge of the tree, as a resumed snapshot has it; nodes that are
    /// not are made again from the entries. Gives whether that was needed.
    ///
    /// # Errors
    /// [`StoreError::Lost`] where the entries do not hash to this edge; and as [`EntryStore::flush`].
    fn hold_nodes(&mut self, _edge: &HistoryTree) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Hands all that was appended to the operating system. It may be called again after an error.
    ///
    /// # Errors
    /// The entries stay readable, the files hold a part of them.
    fn flush(&mut self) -> Result<(), StoreError>;

    /// Stages an entry of the same history that a peer supplied, behind those staged before. It is not read as an entry before
    /// [`EntryStore::adopt`]. An append forgets what is staged.
    ///
    /// # Errors
    /// Nothing was staged.
    fn stage(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<(), StoreError>;

    /// Entries, the staged ones included.
    fn staged(&self) -> EntryIndex;

    /// Forgets what is staged.
    fn unstage(&mut self);

    /// What is staged is appended.
    ///
    /// # Errors
    /// As [`EntryStore::flush`].
    fn adopt(&mut self) -> Result<(), StoreError>;

    /// The entry that an earlier life left at this place, if there is one: nothing says that it is the right one.
    fn left_behind(&self, _index: EntryIndex) -> Option<Vec<u8>> {
        None
    }

    /// Hands everything to the operating system, what is staged too, and gives the files that were written to since this was asked
    /// last: whoever needs the entries durable syncs them.
    ///
    /// # Errors
    /// As [`EntryStore::flush`].
    fn written_files(&mut self) -> Result<Vec<PathBuf>, StoreError> {
        Ok(Vec::new())
    }
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
    /// Entries that were durable are not there any more.
    #[error("entry {entry} of the history in {path} is lost or damaged, though a snapshot rests on it")]
    Lost {
        /// The directory.
        path: PathBuf,
        /// The entry.
        entry: EntryIndex,
    },
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
    /// The tree's nodes in the order of their completion.
    nodes: Vec<Digest>,
    staged: Vec<(Vec<u8>, TimeMs, Vec<Digest>)>,
}

impl MemoryStore {
    /// A store without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store of the first `size` entries of this one; `None` where it has fewer.
    pub fn first(&self, size: EntryIndex) -> Option<Self> {
        let index = self.index.get(..usize::try_from(size).ok()?)?.to_vec();
        let end = index.last().map_or(0, |last| last.0);
        let nodes = self.nodes.get(..usize::try_from(node_count(size)).ok()?)?.to_vec();
        Some(Self { bytes: self.bytes.get(..end)?.to_vec(), index, nodes, staged: Vec::new() })
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

impl NodeHashes for MemoryStore {
    fn node(&self, level: u8, index: u64) -> Option<Digest> {
        self.nodes.get(usize::try_from(node_position(level, index)?).ok()?).copied()
    }
}

impl EntryStore for MemoryStore {
    fn append(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<EntryIndex, StoreError> {
        if entry.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge(entry.len()));
        }
        let index = self.size();
        self.unstage();
        self.bytes.extend_from_slice(entry);
        self.index.push((self.bytes.len(), time_ms));
        self.nodes.extend_from_slice(nodes);
        Ok(index)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn stage(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<(), StoreError> {
        if entry.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge(entry.len()));
        }
        self.staged.push((entry.to_vec(), time_ms, nodes.to_vec()));
        Ok(())
    }

    fn staged(&self) -> EntryIndex {
        self.size() + self.staged.len() as EntryIndex
    }

    fn unstage(&mut self) {
        self.staged.clear();
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        for (entry, time_ms, nodes) in std::mem::take(&mut self.staged) {
            self.append(&entry, time_ms, &nodes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
