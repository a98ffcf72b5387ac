//! SHA-256 and the Merkle tree hash of RFC 6962 (RFC 9162, section 2.1).

use ring::digest::{self, Context, SHA256};

use crate::types::Digest;

/// SHA-256 over the parts one after the other, as if they were joined.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    to_digest(&context.finish())
}

fn to_digest(hash: &digest::Digest) -> Digest {
    let mut digest = Digest::default();
    digest.0.copy_from_slice(hash.as_ref());
    digest
}

/// Leaves up to this length are hashed in one piece, bytes.
const SHORT_LEAF: usize = 255;

/// Hash of a leaf: `SHA-256(0x00 || leaf)`.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    // As with nodes: most leaves are short, and a copy of them is cheaper than a second call.
    let mut input = [0; 1 + SHORT_LEAF];
    match input.get_mut(1..=leaf.len()) {
        Some(place) => {
            place.copy_from_slice(leaf);
            to_digest(&digest::digest(&SHA256, &input[..=leaf.len()]))
        }
        None => sha256(&[&[0], leaf]),
    }
}

/// Hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    // One piece: most of what a tree costs is nodes, and one call is cheaper than three.
    let mut input = [1; 65];
    input[1..33].copy_from_slice(&left.0);
    input[33..].copy_from_slice(&right.0);
    to_digest(&digest::digest(&SHA256, &input))
}

/// Hash of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    sha256(&[])
}

/// Most levels that a [`RootBuilder`] ever needs: one for each bit of the leaf count.
const LEVELS: usize = u64::BITS as usize;

/// Computes a Merkle root leaf by leaf: one hash for the leaf, on average one for a node, no allocation.
#[derive(Clone, Debug)]
pub struct RootBuilder {
    /// Roots of the perfect subtrees that the leaves so far fall into, largest first: one per set bit of `size`. What
    /// lies behind those is left over from earlier.
    subtrees: [Digest; LEVELS],
    size: u64,
}

impl Default for RootBuilder {
    fn default() -> Self {
        Self { subtrees: [Digest::default(); LEVELS], size: 0 }
    }
}

impl RootBuilder {
    /// Goes on where a tree of `size` leaves ended, whose perfect subtrees have these roots, largest first; `None` where
    /// their number is not that of the set bits of `size`.
    pub fn resume(size: u64, subtrees: &[Digest]) -> Option<Self> {
        let mut builder = Self { size, ..Self::default() };
        (subtrees.len() == size.count_ones() as usize).then(|| {
            builder.subtrees[..subtrees.len()].copy_from_slice(subtrees);
            builder
        })
    }

    /// Appends a leaf's bytes and returns its hash.
    pub fn push(&mut self, leaf: &[u8]) -> Digest {
        let hash = leaf_hash(leaf);
        self.push_hash(hash);
        hash
    }

    /// Appends a leaf that is hashed already ([`leaf_hash`]).
    pub fn push_hash(&mut self, hash: Digest) {
        self.push_hash_with(hash, |_| {});
    }

    /// The same, and tells the root of each perfect subtree that the leaf completes, from the leaf itself upwards.
    pub fn push_hash_with(&mut self, mut hash: Digest, mut completed: impl FnMut(&Digest)) {
        let mut top = self.size.count_ones() as usize;
        completed(&hash);
        for _ in 0..self.size.trailing_ones() {
            top -= 1;
            hash = node_hash(&self.subtrees[top], &hash);
            completed(&hash);
        }
        self.subtrees[top] = hash;
        self.size += 1;
    }

    /// How many leaves were appended.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees that the leaves so far fall into, largest first: one per set bit of the size.
    pub fn subtrees(&self) -> &[Digest] {
        &self.subtrees[..self.size.count_ones() as usize]
    }

    /// The root over the leaves so far.
    pub fn root(&self) -> Digest {
        match self.subtrees().split_last() {
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

/// RFC 6962, 2.1, word for word: split at the largest power of two below the size. For tests.
#[cfg(test)]
pub(crate) fn root_by_definition(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root_by_definition(left), &root_by_definition(right))
        }
    }
}
