//! What can be wrong with a log, each with a message that says what, where and what to do.

use std::io;
use std::path::PathBuf;

use crate::types::Digest;

/// Why a log cannot start or go on. Nothing on disk was overwritten when recovery returns one of these.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process holds the directory.
    #[error("data directory {dir} is in use by another process; stop that replica first, or give this one its own")]
    Locked {
        /// The replica's data directory.
        dir: PathBuf,
    },
    /// The operating system refused an operation on a file.
    #[error("cannot {doing} {file}: {source}; check the file's owner, its mode and the disk")]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was attempted, as a verb.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The disk has no room for the next segment. Nothing is lost, and it may be tried again.
    #[error(
        "disk full: the next log segment in {dir} needs {needed} bytes, {free} are free; make room, then start again"
    )]
    NoSpace {
        /// The log's directory.
        dir: PathBuf,
        /// Bytes that the segment takes.
        needed: u64,
        /// Bytes that were free.
        free: u64,
    },
    /// A file that the log needs is gone.
    #[error(
        "{file} is missing; records that were acknowledged are lost: restore it, or rejoin as a replica that lost data"
    )]
    Missing {
        /// The missing file.
        file: PathBuf,
    },
    /// A file is not as long as it was made.
    #[error("{file} has {found} bytes, it was made with {expected}; restore it, or rejoin as a replica that lost data")]
    WrongLength {
        /// The file.
        file: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length it must have.
        expected: u64,
    },
    /// Bytes that were acknowledged as durable are no longer what was written.
    #[error(
        "{file} is damaged at offset {offset}, below the last acknowledged sync: {what}; the disk may be failing. \
         Keep the directory for analysis and rejoin as a replica that lost data"
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The segment's number.
        segment: u32,
        /// Where in the file, in bytes.
        offset: u32,
        /// What is wrong there.
        what: Damage,
    },
    /// Neither slot of `synced_to` holds a valid position.
    #[error(
        "{file} is damaged: neither of its two slots holds a valid position; restore it, or rejoin as a replica that lost data"
    )]
    SyncedToDamaged {
        /// The `synced_to` file.
        file: PathBuf,
    },
    /// The file was written by another cluster's replica.
    #[error(
        "{file} belongs to another cluster: its genesis is {found}, this cluster's is {expected}; check the data directory in the config"
    )]
    WrongCluster {
        /// The file.
        file: PathBuf,
        /// The genesis hash in the file.
        found: Digest,
        /// The genesis hash of the cluster file.
        expected: Digest,
    },
    /// The file was written in a format that this version does not read.
    #[error("{file} has format version {found}, this program reads version {expected}; run the version that wrote it")]
    WrongVersion {
        /// The file.
        file: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },
    /// A record is intact but not one that this program knows.
    #[error(
        "{file} offset {offset}: the record of kind {kind} is intact but unknown to this program; run the version that wrote it"
    )]
    Undecodable {
        /// The segment's file.
        file: PathBuf,
        /// Where the record starts.
        offset: u32,
        /// The record's kind.
        kind: u8,
    },
    /// A write or its sync failed: the replica must end, restart and read what is really there.
    #[error(
        "write and sync of {file} at offset {offset} failed ({cause}); nothing after it was published. Check the disk, then restart"
    )]
    SyncFailed {
        /// The segment's file.
        file: PathBuf,
        /// Where the write began.
        offset: u32,
        /// What the device reported.
        cause: SyncFault,
    },
    /// The log refused because an earlier write failed.
    #[error("the log stopped after a failed write; restart the replica")]
    Stopped,
    /// The log was to finish a write that it did not begin.
    #[error("a write of the log is with another ring; wait for its completion first")]
    WriteElsewhere,
    /// The directory was made with another segment size; writing with this one would spoil it.
    #[error(
        "{file} was made with segment_bytes = {found}, the setting is {set}; set it back, it is fixed for a directory's life"
    )]
    OtherSegmentBytes {
        /// The segment's file.
        file: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The setting, in bytes.
        set: u32,
    },
    /// A setting is outside its bounds.
    #[error("segment_bytes = {0} is not allowed: a multiple of 4096 from 1048576 (1 MiB) to 1073741824 (1 GiB)")]
    BadSegmentBytes(u64),
}

impl LogError {
    /// Whether acknowledged records are lost: this directory's log can never be gone on with, and its replica must abstain until
    /// that is safe. All other errors go away by what their messages say.
    pub fn lost_records(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::WrongLength { .. } | Self::Damaged { .. } | Self::SyncedToDamaged { .. } => {
                true
            }
            Self::Locked { .. }
            | Self::Io { .. }
            | Self::NoSpace { .. }
            | Self::WrongCluster { .. }
            | Self::WrongVersion { .. }
            | Self::Undecodable { .. }
            | Self::SyncFailed { .. }
            | Self::Stopped
            | Self::WriteElsewhere
            | Self::OtherSegmentBytes { .. }
            | Self::BadSegmentBytes(_) => false,
        }
    }
}

/// What is wrong at a damaged place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// The file does not begin with this format's magic.
    #[error("the file header has no log magic")]
    Magic,
    /// The file header's checksum does not match.
    #[error("the file header's checksum does not match")]
    Header,
    /// The file header names another segment.
    #[error("the file header names another segment; files were renamed or mixed up")]
    Number,
    /// The chained checksum does not match, or a record's fields cannot be.
    #[error("the record's checksum does not match")]
    Checksum,
    /// Zeros where an acknowledged record must be.
    #[error("zeros where a record must be")]
    Zeros,
    /// Bytes behind the segment's end that must be zero are not.
    #[error("bytes behind the segment's last record are not zero")]
    Slack,
    /// The records do not lead to the acknowledged position: a segment or `synced_to` is of another time.
    #[error("the records do not lead to the acknowledged position; a file is older than the others")]
    History,
}

/// How a write failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SyncFault {
    /// The system reported an error number.
    #[error("error {}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// Fewer bytes were written than asked.
    #[error("short write: {written} of {asked} bytes")]
    Short {
        /// Bytes written.
        written: u32,
        /// Bytes asked for.
        asked: u32,
    },
}

/// Why a record was not staged. The record is handed back; nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The staging buffer is full: hold back until the write in flight completes.
    #[error("the log's staging buffer is full")]
    Full,
    /// The record is longer than a record may be.
    #[error("the record is longer than {0} bytes")]
    TooLarge(usize),
    /// A write failed earlier.
    #[error("the log stopped after a failed write")]
    Stopped,
}
