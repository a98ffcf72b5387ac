//! The append-only Merkle tree of the history (RFC 6962, 2.1).
//!
//! Only the right edge is kept: the roots of the perfect subtrees that the size's binary digits name, largest first.
//! So appending costs two hashes on average, the root at most 64, and memory does not grow. Proofs need the nodes further left: each
//! leaf completes some ([`Completed`]), which the [store](super::store) keeps beside the entries at places that follow from their
//! numbers ([`node_position`]).

use crate::crypto::hash::{RootBuilder, leaf_hash};
use crate::types::Digest;

/// The most leaves a tree may claim to have; the edge is then at most 63 roots.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The most nodes that one leaf completes: itself, and one at each level.
const MAX_COMPLETED: usize = 64;

/// The roots of the perfect subtrees that a leaf completes: first its own hash, then upwards.
#[derive(Clone, Copy, Debug)]
pub struct Completed {
    nodes: [Digest; MAX_COMPLETED],
    count: usize,
}

impl std::ops::Deref for Completed {
    type Target = [Digest];

    fn deref(&self) -> &[Digest] {
        &self.nodes[..self.count]
    }
}

/// How many nodes the first `size` leaves complete.
pub fn node_count(size: u64) -> u64 {
    // `size < 2^63`, see MAX_SIZE.
    (2 * size).saturating_sub(u64::from(size.count_ones()))
}

/// Where the root of the perfect subtree `index` of `2^level` leaves stands among all nodes in the order of their completion;
/// `None` where no tree has it.
pub fn node_position(level: u8, index: u64) -> Option<u64> {
    let end = index.checked_add(1)?.checked_mul(1u64.checked_shl(u32::from(level))?)?;
    (end <= MAX_SIZE).then(|| node_count(end - 1) + u64::from(level))
}

/// The right edge of an append-only tree.
#[derive(Clone, Default, Debug)]
pub struct HistoryTree(RootBuilder);

/// Bytes are not the edge of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EdgeError {
    /// Shorter than the size field.
    #[error("a tree edge begins with 8 bytes of size, this has {0} bytes")]
    Truncated(usize),
    /// The number of subtree roots is not the one that the size asks for.
    #[error("a tree of {size} leaves has an edge of {expected} bytes, this has {found}")]
    Length {
        /// The number of leaves that the edge claims.
        size: u64,
        /// Bytes that an edge of this size has.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The edge claims more than [`MAX_SIZE`] leaves.
    #[error("a tree edge claims {0} leaves; no history is that long")]
    Size(u64),
}

impl HistoryTree {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Appends the leaf that holds `entry` and gives the nodes that it completes.
    pub fn append(&mut self, entry: &[u8]) -> Completed {
        self.append_hash(leaf_hash(entry))
    }

    /// The same for a leaf that is hashed already.
    pub fn append_hash(&mut self, leaf: Digest) -> Completed {
        let mut completed = Completed { nodes: [Digest::NULL; MAX_COMPLETED], count: 0 };
        self.0.push_hash_with(leaf, |node| {
            completed.nodes[completed.count] = *node;
            completed.count += 1;
        });
        completed
    }

    /// The roots of the perfect subtrees at the right edge, largest first.
    pub fn subtrees(&self) -> &[Digest] {
        self.0.subtrees()
    }

    /// The root over all leaves.
    pub fn root(&self) -> Digest {
        self.0.root()
    }

    /// The edge as bytes, for snapshots: size as u64 big-endian, then the subtree roots from left to right.
    pub fn to_bytes(&self) -> Vec<u8> {
        let subtrees = self.0.subtrees();
        let mut bytes = Vec::with_capacity(8 + 32 * subtrees.len());
        bytes.extend_from_slice(&self.size().to_be_bytes());
        for subtree in subtrees {
            bytes.extend_from_slice(&subtree.0);
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Whether it is the right tree shows only by its root.
    ///
    /// # Errors
    /// The bytes are not the edge of any tree.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EdgeError> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(EdgeError::Truncated(bytes.len()))?;
        let size = u64::from_be_bytes(*size);
        if size > MAX_SIZE {
            return Err(EdgeError::Size(size));
        }
        let expected = 8 + 32 * size.count_ones() as usize;
        let (subtrees, left_over) = rest.as_chunks::<32>();
        let subtrees: Vec<Digest> = subtrees.iter().map(|subtree| Digest(*subtree)).collect();
        let resumed = RootBuilder::resume(size, &subtrees).filter(|_| left_over.is_empty());
        resumed.map(Self).ok_or(EdgeError::Length { size, expected, found: bytes.len() })
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
