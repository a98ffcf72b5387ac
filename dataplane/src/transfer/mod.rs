//! State transfer: how a replica that has fallen behind the others' logs, or has none of its own, takes the state from them.
//!
//! Within what the logs hold a replica catches up batch by batch (`ordering/catch_up.rs`). Beyond it there are snapshots: at the same
//! checkpoints on all replicas ([`Execution::snapshot_due`](crate::execution::Execution::snapshot_due)) each replica writes its whole state to
//! disk, keeps the two newest ([`Shelf`]), and lets go of the log below the older one. All have the same bytes.
//!
//! # Who says what
//! * A peer that is asked for decisions below its log answers with an **Offer** for each certified snapshot: the certificate of its
//!   checkpoint, its length, and the digest over the hashes of its pieces.
//! * The receiver ([`Receiver`]) begins once f+1 peers made the same offer for a checkpoint above what it has executed: one of them is
//!   correct, and the certificate says what the history and the state must be.
//! * It takes the **history** first, from where its own ends: it asks f+1 peers for the hashes of the next pieces, believes what f+1
//!   say alike, and then asks all who said so for the pieces side by side. A piece is a run of whole entries of [`PIECE_BYTES`] or a
//!   little more. What an earlier attempt left on the disk is not asked for again if it hashes right: so a transfer goes on where it
//!   was, restarts included.
//! * Then the **state**: the list of hashes from anyone, held against the digest offered by f+1, and the pieces of it side by side.
//! * Nothing is used before it is whole: the history must have the certified root, the snapshot the certified state, session table and
//!   history edge. It is written to the own disk with the history before it, synced, and only then takes the place of the present
//!   state ([`Act::Complete`]). So a crash at any point leaves the old state or the new one, and a checkpoint is never signed that could not
//!   be rebuilt from the own disk.
//!
//! # Sources that lie or stall
//! A piece that does not hash to what f+1 said, and a hash or an offer that differs from theirs, is misbehaviour, reported and asked of another. A source that
//! leaves a question unanswered for [`STALL_US`] is left alone for a while, twice as long each time, and counted. Where a source has no such
//! snapshot any more it offers what it has; a transfer whose snapshot fewer than f+1 offer goes on with the newest that they do,
//! and keeps the history that it has.
//!
//! # Limits
//! A source answers [`MAX_ASKED`] questions of one peer at a time, and a few in a turn, fewer while something is being ordered; bytes in a second by the
//! setting `transfer_mib_s`, which counts what is read to be hashed as well. A receiver has [`ASKED_OF_ONE`] questions open with one source, and [`AHEAD`] pieces of
//! history that wait for those before them; of the snapshot it holds as many bytes as f+1 said it has.
//!
//! Sources: Castro & Liskov, "Practical Byzantine Fault Tolerance and Proactive Recovery" (TOCS 2002), 5.3; Bessani et al., "On the Efficiency of Durable State
//! Machine Replication" (USENIX ATC 2013) for transfers from several sources side by side.

mod receive;
mod serve;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use receive::{Act, Offered, Receiver};
pub use serve::{Questions, Shelf, history_hashes, history_piece};

use crate::crypto::hash::sha256;
use crate::ordering::checkpoint::{Certificate, Statement};
use crate::types::{Digest, Sequence};
use crate::wire::limits::MAX_PIECES;
pub use crate::wire::limits::PIECE_BYTES;

/// Hashes of pieces of history in one answer.
pub const HASHES_AT_ONCE: u64 = 4;

/// Pieces of history that a receiver knows the hashes of ahead of what it has.
pub const AHEAD: usize = 64;

/// Open questions with one source.
pub const ASKED_OF_ONE: usize = 4;

/// Questions of one peer that wait here; more are dropped, and asked again.
pub const MAX_ASKED: usize = 2 * ASKED_OF_ONE;

/// A question is asked elsewhere after so long, us.
pub const STALL_US: u64 = 500_000;

/// Where those who were asked for hashes have not agreed after so long, the others are asked as well, us.
pub const HEDGE_US: u64 = 30_000;

/// A source that stalled is left alone for so long, us; doubled each time, at most [`MAX_DOUBLINGS`] times.
pub const REST_US: u64 = 1_000_000;

/// See [`REST_US`].
pub const MAX_DOUBLINGS: u32 = 6;

/// Snapshots that are kept: the log reaches back to the older one.
pub const SNAPSHOTS_KEPT: usize = 2;

/// A snapshot that a replica has on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its checkpoint.
    pub statement: Statement,
    /// Its length, bytes.
    pub bytes: u64,
    /// SHA-256 of each piece of [`PIECE_BYTES`].
    pub hashes: Arc<[Digest]>,
    /// A quorum's signatures, once they are known.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether those are on the disk as well.
    pub durable: Durable,
}

/// Whether something is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Durable {
    /// It is not.
    #[default]
    No,
    /// It will be before the snapshot that is written next is.
    Soon,
    /// It is.
    Yes,
}

impl Kept {
    /// Its checkpoint's sequence.
    pub fn sequence(&self) -> Sequence {
        self.statement.sequence
    }

    /// Digest over the hashes of its pieces.
    pub fn digest(&self) -> Digest {
        digest(&self.hashes)
    }
}

/// Digest over the hashes of a snapshot's pieces.
pub fn digest(hashes: &[Digest]) -> Digest {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.0.as_slice()).collect();
    sha256(&hashes)
}

/// Pieces of a snapshot of so many bytes; `None` where it is too long.
pub fn pieces(bytes: u64) -> Option<usize> {
    let pieces = usize::try_from(bytes.div_ceil(PIECE_BYTES as u64)).ok()?;
    (pieces <= MAX_PIECES).then_some(pieces)
}

/// Hashes a snapshot while it is written.
#[derive(Default)]
pub struct Hasher {
    piece: Vec<u8>,
    hashes: Vec<Digest>,
    bytes: u64,
}

impl Hasher {
    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.end_piece();
            }
        }
    }

    fn end_piece(&mut self) {
        self.hashes.push(sha256(&[&self.piece]));
        self.piece.clear();
    }

    /// Length and hashes of the pieces.
    pub fn finish(mut self) -> (u64, Arc<[Digest]>) {
        if !self.piece.is_empty() {
            self.end_piece();
        }
        (self.bytes, self.hashes.into())
    }
}
