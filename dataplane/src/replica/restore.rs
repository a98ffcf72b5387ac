//! A stopped replica's data directory from verified history and state.
//!
//! What a backup holds is what others decided; what the replica itself promised since is not in it. So this is
//! [`recover`](super::recover) with history and state at hand: there is no log afterwards, the mark of a new identity is gone,
//! and the start that follows abstains from voting until nothing that the replica may have said can matter
//! (`ordering/rejoin.rs`). What the backup has spares it transfers, and is no more believed than its own disk: the snapshot
//! counts by its certificate, entries beyond it by what peers say.
//!
//! # Order
//! Everything is written into `DIR/restore.part` and synced while the directory's lock is held. Then, in this order: the mark
//! goes, the log is moved aside, state and history are moved aside, history and state take their places, each step durable before
//! the next. From the second step on there is no log; so a crash anywhere leaves a directory on which a replica abstains, with
//! the old or the new state or none. Nothing is deleted but `restore.part`: that of an earlier restore, and this one's where it is refused.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::copies::SnapshotCopy;
use super::start;
use crate::cluster::ReplicaConfig;
use crate::history::files::HistoryFiles;
use crate::history::store::{EntryStore, FileStore, Layout, StoreError};
use crate::history::tree::HistoryTree;
use crate::log::{self, LogError};
use crate::replica::process::RunError;
use crate::state::Entries;
use crate::types::{Digest, EntryIndex, Sequence, TimeMs};

/// Where it is put together.
const PART: &str = "restore.part";

/// What a replica's data directory holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Present {
    /// There is a log: what the replica promised.
    pub log: bool,
    /// Entries that the history has room for, if there is one that can be read.
    pub entries: Option<EntryIndex>,
    /// The newest snapshot's sequence.
    pub state: Option<Sequence>,
    /// Which of the three directories are there.
    pub names: Vec<&'static str>,
}

/// A directory that is being put together; the lock is held.
pub struct Restoring {
    data: PathBuf,
    keys: PathBuf,
    part: PathBuf,
    /// Until it has its place.
    store: Option<FileStore>,
    tree: HistoryTree,
    snapshot: bool,
    _lock: Box<dyn std::any::Any>,
}

impl std::fmt::Debug for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring").field("data", &self.data).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Restoring {
    /// Takes the lock of the data directory, made if missing, and begins.
    ///
    /// # Errors
    /// [`LogError::Locked`] while a replica runs there; the file system's own.
    pub fn begin(config: &ReplicaConfig, genesis: Digest) -> Result<Self, RunError> {
        let data = config.data.clone();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&data);
        made.map_err(log_fault(&data, "create"))?;
        let lock = Box::new(log::hold(&data)?);
        let part = data.join(PART);
        match fs::remove_dir_all(&part) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(log_fault(&part, "remove what an earlier restore left in")(source).into());
            }
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&part).map_err(log_fault(&part, "create"))?;
        let mut layout = Layout::new(&part.join("history"), genesis);
        layout.segment_bytes = config.history.segment_mib << 20;
        let store = Some(FileStore::open_at(&layout)?);
        let (tree, keys) = (HistoryTree::new(), config.keys.clone());
        Ok(Self { data, keys, part, store, tree, snapshot: false, _lock: lock })
    }

    /// What is in the directory now.
    pub fn present(&self, genesis: Digest) -> Present {
        let is_there = |name: &&str| self.data.join(name).exists();
        let names: Vec<_> = ["log", "history", "state"].into_iter().filter(is_there).collect();
        let history = HistoryFiles::open(&self.data.join("history"), genesis, None).ok();
        let entries = history.and_then(|history| history.size().ok());
        let state = super::snapshot_files::sequences(&self.data.join("state")).ok();
        let state = state.and_then(|sequences| sequences.last().copied());
        Present { log: names.contains(&"log"), entries, state, names }
    }

    /// Appends the next entry, of this agreed time.
    ///
    /// # Errors
    /// The file system's.
    pub fn append(&mut self, entry: &[u8], time_ms: TimeMs) -> Result<(), StoreError> {
        let nodes = self.tree.append(entry);
        match &mut self.store {
            Some(store) => store.append(entry, time_ms, &nodes).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Entries so far.
    pub fn size(&self) -> EntryIndex {
        self.store.as_ref().map_or(0, |store| store.size())
    }

    /// The root over them.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// Adds a snapshot, once.
    ///
    /// # Errors
    /// The file system's.
    pub fn put_snapshot(&mut self, snapshot: &SnapshotCopy) -> Result<(), RunError> {
        let dir = self.part.join("state");
        snapshot.write(&dir).map_err(log_fault(&dir, "write"))?;
        self.snapshot = true;
        Ok(())
    }

    /// From now on a start without a log abstains. [`Restoring::finish`] sees to it too; whoever puts keys in place before does it now.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_never_ran(&self) -> Result<(), RunError> {
        start::forget_never_ran(&self.keys)
    }

    /// Makes it the replica's; gives where to what was there is moved.
    ///
    /// # Errors
    /// The file system's. See the module for what is there then.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, RunError> {
        if let Some(mut store) = self.store.take() {
            for file in store.written_files()? {
                File::open(&file).and_then(|file| file.sync_all()).map_err(log_fault(&file, "sync"))?;
            }
        }
        sync(&self.part)?;
        start::forget_never_ran(&self.keys)?;
        let mut aside = Vec::new();
        for name in ["log", "state", "history"] {
            aside.extend(log::move_aside(&self.data, name)?);
        }
        let places = [("history", true), ("state", self.snapshot)];
        for (name, _) in places.iter().filter(|(_, is_there)| *is_there) {
            let place = self.data.join(name);
            fs::rename(self.part.join(name), &place).map_err(log_fault(&place, "put in its place"))?;
            sync(&self.data)?;
        }
        fs::remove_dir(&self.part).map_err(log_fault(&self.part, "remove"))?;
        sync(&self.data)?;
        Ok(aside)
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        // What was refused leaves nothing behind; what cannot be removed now the next restore removes.
        drop(self.store.take());
        let _ = fs::remove_dir_all(&self.part);
    }
}

fn sync(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(log_fault(dir, "sync"))
}

fn log_fault<'a>(file: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> LogError + 'a {
    move |source| LogError::Io { file: file.to_path_buf(), doing, source }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
