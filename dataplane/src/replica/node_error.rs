//! Why a node ends.

use crate::execution::ExecutionError;
use crate::execution::image::ResumeError;
use crate::history::store::StoreError;
use crate::log::{AppendError, LogError};
use crate::state::Altered;
use crate::types::{Digest, EntryIndex, Sequence};

/// Why a node ends. Nothing it could still say may be trusted, so the process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record was refused by the log.
    #[error("the log refuses a record: {0}")]
    Append(AppendError),
    /// Execution failed.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The history failed.
    #[error(transparent)]
    History(#[from] StoreError),
    /// A snapshot that f+1 replicas vouched for cannot be used.
    #[error("a snapshot from other replicas cannot be used here: {0}")]
    Install(ResumeError),
    /// The log begins behind everything from which the state could be made.
    #[error(
        "the log begins behind sequence {dropped}, and no snapshot from there on can be read: the state is lost with them, and must be \
         taken from the other replicas"
    )]
    NoSnapshot {
        /// Up to here the log was let go.
        dropped: Sequence,
    },
    /// This replica has another history than the one that a quorum cosigned.
    #[error(
        "this replica's history of {size} entries has the root {own}, and a quorum of the others cosigned {certified}: its disk, its memory \
         or its program is at fault; keep the data directory for inspection and start it again with an empty one"
    )]
    DivergedHistory {
        /// Entries.
        size: EntryIndex,
        /// The own root over them.
        own: Digest,
        /// The others'.
        certified: Digest,
        /// The others' signatures, as a note.
        note: String,
    },
    /// What is read of the history's nodes is not what was written.
    #[error(
        "the nodes of the history's tree in DIR/history/nodes are damaged: start the replica again, which makes them anew from the entries"
    )]
    Nodes,
    /// The state in memory is not what operations made.
    #[error(
        "{0}: the memory of this server is at fault, or somebody writes into it. Start the replica again: it reads its state from its files; \
         test the memory if it comes back"
    )]
    Altered(Box<Altered>),
    /// This replica came to another state than a quorum.
    #[error(
        "this replica's state at sequence {sequence} is not the one that a quorum signed: its disk, its memory or its program is at \
         fault; keep the data directory for inspection and start it again with an empty one"
    )]
    Diverged {
        /// The checkpoint.
        sequence: Sequence,
    },
}
