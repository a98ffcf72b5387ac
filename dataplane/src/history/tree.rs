//! The append-only Merkle tree of RFC 6962 (2.1): leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right).
//!
//! Only the right edge is kept: the roots of the complete subtrees that the size's binary digits name, largest first.
//! So appending costs two hashes on average, the root at most 64, and memory does not grow. Proofs need the leaves
//! and are made elsewhere.

use ring::digest::{Context, SHA256, digest};

use crate::types::Digest;

/// The most leaves a tree may claim to have; the edge is then at most 63 roots.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The hash of a leaf that holds `entry`.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    hash_parts(&[&[0], entry])
}

/// The hash of the node above `left` and `right`.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut input = [1; 65];
    input[1..33].copy_from_slice(&left.0);
    input[33..].copy_from_slice(&right.0);
    to_digest(&digest(&SHA256, &input))
}

/// The root of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    hash_parts(&[])
}

fn hash_parts(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    to_digest(&context.finish())
}

fn to_digest(hash: &ring::digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_ref());
    Digest(bytes)
}

/// The right edge of an append-only tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistoryTree {
    size: u64,
    /// Roots of the complete subtrees from left to right: one per set bit of `size`, most significant first.
    peaks: Vec<Digest>,
}

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
        Self { size: 0, peaks: Vec::with_capacity(64) }
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends the leaf that holds `entry` and returns its hash.
    pub fn append(&mut self, entry: &[u8]) -> Digest {
        let leaf = leaf_hash(entry);
        self.append_hash(leaf);
        leaf
    }

    /// Appends a leaf whose hash is known.
    pub fn append_hash(&mut self, leaf: Digest) {
        let mut node = leaf;
        // Each trailing one of the old size is a complete subtree as large as the new one: the two become one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root over all leaves.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }

    /// The edge as bytes, for snapshots: size as u64 big-endian, then the subtree roots from left to right.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 32 * self.peaks.len());
        bytes.extend_from_slice(&self.size.to_be_bytes());
        for peak in &self.peaks {
            bytes.extend_from_slice(&peak.0);
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Whether it is the right tree shows only by its root.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EdgeError> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(EdgeError::Truncated(bytes.len()))?;
        let size = u64::from_be_bytes(*size);
        if size > MAX_SIZE {
            return Err(EdgeError::Size(size));
        }
        let count = size.count_ones() as usize;
        if rest.len() != 32 * count {
            return Err(EdgeError::Length { size, expected: 8 + 32 * count, found: bytes.len() });
        }
        let mut tree = Self::new();
        tree.size = size;
        tree.peaks.extend(rest.as_chunks::<32>().0.iter().map(|peak| Digest(*peak)));
        Ok(tree)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
