//! Snapshots as files that are copied: out of a running replica's `DIR/state/`, into a backup, and back into the directory of one
//! that is stopped.
//!
//! A copy is the file's bytes with the certificate's beside it. One that is here holds in itself: the header is this cluster's,
//! the bytes have the digest that it names, and the certificate is a quorum's and of the header's statement. That the state in it
//! is the one under the certified roots shows [`SnapshotCopy::check`], which restores it into an application.

use std::borrow::Cow;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

pub use super::snapshot_files::SnapshotError;
use super::snapshot_files::{self, HEADER_BYTES};
use crate::cluster::Cluster;
use crate::execution::image::{self, ResumeError};
use crate::ordering::checkpoint::{Certificate, Statement};
use crate::state::Application;
use crate::types::Sequence;
use crate::wire::limits::{MAX_CERTIFICATE, MAX_PIECES, PIECE_BYTES};

/// The longest file of a snapshot, bytes.
pub const MAX_SNAPSHOT_FILE: u64 = HEADER_BYTES as u64 + MAX_PIECES as u64 * PIECE_BYTES as u64;

/// The longest file of a certificate, bytes.
pub const MAX_CERTIFICATE_FILE: usize = MAX_CERTIFICATE;

/// Looks at the directory before a snapshot counts as none: one that is let go meanwhile has a newer one beside it.
const LOOKS: usize = 4;

/// A whole snapshot with its certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotCopy {
    certificate: Certificate,
    file: Vec<u8>,
}

/// Why bytes are no snapshot that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CopyFault {
    /// The header or what it is over.
    #[error("{0}")]
    File(&'static str),
    /// The certificate.
    #[error("the certificate beside it {0}")]
    Certificate(&'static str),
}

impl SnapshotCopy {
    /// Of the bytes of the two files; all but the application's state is checked.
    ///
    /// # Errors
    /// What is wrong, and with which of the two.
    pub fn from_bytes(file: Vec<u8>, certificate: &[u8], cluster: &Cluster) -> Result<Self, CopyFault> {
        let statement = snapshot_files::check_file(&file, cluster.genesis()).map_err(CopyFault::File)?;
        let certificate =
            Certificate::from_bytes(certificate).ok_or(CopyFault::Certificate("is damaged or cut short"))?;
        if *certificate.statement() != statement {
            return Err(CopyFault::Certificate("is of another checkpoint"));
        }
        if !certificate.is_of(cluster) {
            return Err(CopyFault::Certificate("is not signed by a quorum of this cluster's replicas"));
        }
        Ok(Self { certificate, file })
    }

    /// The newest snapshot in a data directory that is whole and certified. The replica may run.
    ///
    /// # Errors
    /// The file system's.
    pub fn newest(data: &Path, cluster: &Cluster) -> Result<Option<Self>, SnapshotError> {
        let dir = data.join("state");
        for _ in 0..LOOKS {
            let mut is_gone = false;
            for sequence in snapshot_files::sequences(&dir)?.into_iter().rev() {
                match Self::read(&dir, sequence, cluster) {
                    Ok(Ok(found)) => return Ok(Some(found)),
                    // Not certified yet, or damaged: the one before it counts.
                    Ok(Err(_)) => {}
                    Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => is_gone = true,
                    Err(error) => return Err(error),
                }
            }
            if !is_gone {
                break;
            }
        }
        Ok(None)
    }

    fn read(dir: &Path, sequence: Sequence, cluster: &Cluster) -> Result<Result<Self, CopyFault>, SnapshotError> {
        let [name, certificate] = names(sequence);
        let read = |name: &str, max: u64| {
            let path = dir.join(name);
            let mut bytes = Vec::new();
            let read = File::open(&path).and_then(|file| file.take(max).read_to_end(&mut bytes));
            read.map_err(|source| SnapshotError::Io { file: path, doing: "read", source }).map(|_| bytes)
        };
        let certificate = read(&certificate, MAX_CERTIFICATE_FILE as u64 + 1)?;
        Ok(Self::from_bytes(read(&name, MAX_SNAPSHOT_FILE + 1)?, &certificate, cluster))
    }

    /// The checkpoint.
    pub fn statement(&self) -> &Statement {
        self.certificate.statement()
    }

    /// Names and bytes of its two files.
    pub fn files(&self) -> [(String, Cow<'_, [u8]>); 2] {
        let [file, certificate] = names(self.statement().sequence);
        [(file, Cow::Borrowed(&self.file)), (certificate, Cow::Owned(self.certificate.bytes()))]
    }

    /// Restores the state into `application` and compares it, and all else in the snapshot, with the certified checkpoint;
    /// `last_entry` is the last entry of the history there, under the certified root: the checkpoint's STATE entry. It takes the
    /// memory that the state takes.
    ///
    /// # Errors
    /// What differs.
    pub fn check<A: Application>(
        &self,
        cluster: &Cluster,
        application: A,
        last_entry: &[u8],
    ) -> Result<(), ResumeError> {
        image::check(cluster, application, &self.file[HEADER_BYTES..], self.statement(), last_entry)
    }

    /// Writes both files into a new directory and syncs them.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(dir)?;
        for (name, bytes) in self.files() {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        File::open(dir)?.sync_all()
    }
}

/// The names of the two files of a snapshot.
pub fn names(sequence: Sequence) -> [String; 2] {
    [format!("{sequence}.snapshot"), format!("{sequence}.certificate")]
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
