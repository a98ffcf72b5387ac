//! Backups: the history up to a certified checkpoint, the newest snapshot of the state under it, and the cluster's public files, in a
//! directory that a later backup adds to and that a stopped replica is restored from.
//!
//! ```text
//! manifest.json            size and root of the history, the snapshot, and every file below with its length and SHA-256
//! cluster.toml             the genesis, byte for byte
//! history/                 an export (C2SP tlog-tiles, `crate::audit`) without a manifest: `atlas audit DIR/history` checks it anywhere
//! state/S.snapshot         the state at checkpoint S, and
//! state/S.certificate      a quorum's signatures under that checkpoint
//! replica-I/H.config.toml  the configuration of the replica that it was taken at; H: the first half of its SHA-256
//! replica-I/keys/          its private keys, where that was asked for
//! ```
//! History and state are the same on all replicas, so a backup taken at one restores any other; only `replica-I/` is that replica's own.
//!
//! # Taking one ([`take()`])
//! Beside a running replica, which is neither stopped nor asked for what its files hold: entries and hashes below the newest
//! certified snapshot are read from `DIR/history` ([`HistoryFiles`](atlas_dataplane::history::files)), where the snapshot's name
//! vouches that they are synced and stay. The checkpoint with the quorum's cosignatures, and the entries since that snapshot,
//! come through the protocol as for an export. Reading and writing together keep to a rate ([`Pace`]). Before anything is written
//! the roots at the checkpoint, at the snapshot and at the backup that is there already are computed from the leaf hashes and
//! compared; then each entry is held against its hash, and the snapshot is restored into a store of its own and its roots
//! compared with the checkpoint's STATE entry.
//!
//! A second backup into the directory writes what is new. What is there is read and held against the hashes; what is damaged is copied
//! anew and named. `quick` believes the earlier manifest for entries whose files have the right length.
//!
//! Each file is written under another name, synced and renamed. The names of all files but `history/checkpoint` and
//! `manifest.json` say what is in them, so none of them is ever changed; nothing is deleted. The checkpoint is replaced when all
//! tiles under it are there, the manifest last. So a backup that is broken off leaves the earlier one whole, and is gone on with
//! by the next. One at a time: the directory has a lock.
//!
//! # Restoring ([`restore`])
//! Everything is verified first: lengths and SHA-256 by the manifest, which tells damage, then what needs no trust in it: the
//! audit of `history/` under the policy of the *replica's own* cluster file, and the snapshot's certificate, roots and state.
//! Then the data directory is put together ([`atlas_dataplane::replica::restore`]), without a log: **the replica abstains** until
//! nothing that it may have said after the backup can matter (PROTOCOL.md, "Recovery"), and takes the rest from its peers. What
//! is in the directory is moved aside, and only if that was asked for.
//!
//! # When more than f replicas lost their logs
//! There is no restoring the cluster under its genesis then, by this or by copying directories, and that is no want of a command:
//! * Votes after the backup are gone. A replica that votes again without them can help to decide another batch where one was
//!   decided, acknowledged and certified: clients hold receipts, auditors checkpoints, of a history that the restored cluster
//!   would contradict under the same keys. A replica never cosigns a smaller size than before, nor another root for a size
//!   (FORMATS.md): all of them would, and evidence against each would be genuine.
//! * Nobody can tell from a backup that nothing came after it. That is what the answers of q others are for by which a replica rejoins, and
//!   restored replicas do not give them: they wait for each other for ever. That is the safe end of it.
//!
//! So with q logs left (whose replicas may be stopped, but not set back) the others are restored one by one; with fewer the plant
//! is founded anew: `atlas init`, a new origin, new keys. The old history stays what it is, provable for ever under its own
//! policy from the backup. To write its end into the new genesis the formats have no place: a genesis is entry 0 of its own tree.
//! Whoever needs the last values as a beginning reads them from the backup (`atlas trail DIR/history`), and sets them in the new
//! cluster under his own name and with that reason, as what they are: his word about the past.
//!
//! A copy of the whole data directory of a replica that is *stopped*, started once and in one place only, is neither backup nor
//! restore: nothing is older then.

pub mod manifest;
pub mod restore;
pub mod take;
mod vault;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atlas_dataplane::types::Digest;

pub use manifest::Manifest;
pub use restore::{Restored, Verified, place, verify};
pub use take::{Options, Subject, Taken, take};

/// Why a backup was not taken, does not hold, or was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
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
    /// Something else is in the directory.
    #[error("{} is not empty and holds no backup; choose a new directory, or that of an earlier backup", .0.display())]
    NotABackup(PathBuf),
    /// Another cluster's.
    #[error("{}: a backup of {found}; this replica is of {expected}", path.display())]
    OtherCluster {
        /// Which file says so.
        path: PathBuf,
        /// Its cluster: origin and genesis.
        found: String,
        /// The one that was expected.
        expected: String,
    },
    /// Another process writes there.
    #[error("{} is in use: another backup is being taken into it", .0.display())]
    InUse(PathBuf),
    /// The backup is ahead of the cluster.
    #[error(
        "the backup in {} has {has} entries, the cluster has certified {certified}: the cluster is older than its backup. It was set back, or \
         this is another one with its keys; find out before anything else, and keep this backup",
        dir.display()
    )]
    Ahead {
        /// The directory.
        dir: PathBuf,
        /// Entries in the backup.
        has: u64,
        /// Entries that the cluster certified.
        certified: u64,
    },
    /// Two histories.
    #[error(
        "the first {size} entries of the cluster's history have root {found}, the backup in {} has {had}, and both were certified: the \
         history was split. Keep this backup, it is evidence",
        dir.display()
    )]
    Split {
        /// The directory.
        dir: PathBuf,
        /// Entries.
        size: u64,
        /// Root in the backup.
        had: Digest,
        /// Root in the cluster.
        found: Digest,
    },
    /// What the replica has does not hold.
    #[error("{0}")]
    Source(String),
    /// What was asked for through the protocol did not come, or does not hold; another replica may do better.
    #[error("{0}")]
    Tail(String),
    /// A file of the backup.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What the audit of its history found, with the file.
    #[error("{0}")]
    Audit(String),
    /// There is data, and nobody said that it may go aside.
    #[error("{0}")]
    Occupied(String),
    /// The replica's keys.
    #[error("{0}")]
    Keys(String),
    /// The data directory.
    #[error(transparent)]
    Replica(#[from] atlas_dataplane::replica::process::RunError),
}

impl BackupError {
    /// Whether evidence does not hold, rather than something failing.
    pub fn is_proof(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. } | Self::Audit(_) | Self::Split { .. } | Self::Ahead { .. } | Self::Source(_)
        )
    }
}

/// For `map_err`.
pub(crate) fn io_fault(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.into();
    move |source| BackupError::Io { path, doing, source }
}

/// Keeps reading and writing to so many bytes a second.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    since: Instant,
    spent: Cell<u64>,
}

/// A pause shorter than this is saved up.
const PAUSE: Duration = Duration::from_millis(5);

impl Pace {
    /// At most so many; 0 means one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), since: Instant::now(), spent: Cell::new(0) }
    }

    /// So many were read or written: waits until they may have been.
    pub fn spend(&self, bytes: usize) {
        let spent = self.spent.get().saturating_add(bytes as u64);
        self.spent.set(spent);
        let due = Duration::from_secs_f64(spent as f64 / self.bytes_per_second as f64);
        let ahead = due.saturating_sub(self.since.elapsed());
        if ahead >= PAUSE {
            std::thread::sleep(ahead);
        }
    }
}

#[cfg(test)]
mod tests;
