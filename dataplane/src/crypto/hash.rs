//! SHA-256 and the Merkle tree hash of RFC 6962 (RFC 9162, section 2.1).

use ring::digest::{Context, SHA256};

use crate::types::Digest;

/// SHA-256 over the parts one after the other, as if they were joined.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.0.copy_from_slice(context.finish().as_ref());
    digest
}

/// Hash of a leaf: `SHA-256(0x00 || leaf)`.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    sha256(&[&[0], leaf])
}

/// Hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    sha256(&[&[1], &left.0, &right.0])
}

/// Hash of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    sha256(&[])
}

/// Most levels that a [`RootBuilder`] ever needs: one for each bit of the leaf count.
const LEVELS: usize = u64::BITS as usize;

/// Computes a Merkle root leaf by leaf: one hash for the leaf, on average one for a node, no allocation.
#[derive(Clone)]
pub struct RootBuilder {
    /// Roots of the perfect subtrees that the leaves so far fall into, largest first: one per set bit of `size`.
    subtrees: [Digest; LEVELS],
    size: u64,
}

impl Default for RootBuilder {
    fn default() -> Self {
        Self { subtrees: [Digest::default(); LEVELS], size: 0 }
    }
}

impl RootBuilder {
    /// Appends a leaf's bytes.
    pub fn push(&mut self, leaf: &[u8]) {
        self.push_hash(leaf_hash(leaf));
    }

    /// Appends a leaf that is hashed already ([`leaf_hash`]).
    pub fn push_hash(&mut self, mut hash: Digest) {
        let mut top = self.size.count_ones() as usize;
        for _ in 0..self.size.trailing_ones() {
            top -= 1;
            hash = node_hash(&self.subtrees[top], &hash);
        }
        self.subtrees[top] = hash;
        self.size += 1;
    }

    /// How many leaves were appended.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over the leaves so far.
    pub fn root(&self) -> Digest {
        let subtrees = &self.subtrees[..self.size.count_ones() as usize];
        match subtrees.split_last() {
            None => empty_root(),
            Some((last, larger)) => larger.iter().rev().fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// The root over leaves given as bytes.
pub fn merkle_root<'a>(leaves: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut builder = RootBuilder::default();
    for leaf in leaves {
        builder.push(leaf);
    }
    builder.root()
}

fn root_of_hashes(hashes: &[Digest]) -> Digest {
    let mut builder = RootBuilder::default();
    for hash in hashes {
        builder.push_hash(*hash);
    }
    builder.root()
}

/// The inclusion path of leaf `index` in the tree over `hashes` (leaf hashes), lowest sibling first; at most one digest
/// per level. `None` when there is no such leaf.
///
/// Hashes every leaf's node once: for the requests of one bundle, not for the history.
pub fn merkle_path(hashes: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= hashes.len() {
        return None;
    }
    let mut path = Vec::with_capacity(hashes.len().next_power_of_two().trailing_zeros() as usize);
    let (mut subtree, mut index) = (hashes, index);
    while subtree.len() > 1 {
        let (left, right) = subtree.split_at(subtree.len().next_power_of_two() / 2);
        if index < left.len() {
            path.push(root_of_hashes(right));
            subtree = left;
        } else {
            path.push(root_of_hashes(left));
            index -= left.len();
            subtree = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that the leaf with hash `leaf` is number `index` of the `size` leaves under `root`
/// (RFC 9162, section 2.1.3.2).
pub fn verify_path(leaf: &Digest, index: u64, size: u64, path: &[Digest], root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            // The last node of a level without a sibling moves up as it is, level by level.
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}
