//! Proofs over the history: inclusion, consistency and ranges (RFC 6962, 2.1; RFC 9162, 2.1.3 and 2.1.4).
//!
//! Whoever makes a proof needs the roots of complete subtrees only ([`NodeHashes`]); the ragged right edge is hashed from them. A
//! proof has at most two digests a level, so it is made and checked with some hundred hashes, however long the history is.
//!
//! Inclusion is checked by [`verify_path`](crate::crypto::hash::verify_path).
//!
//! # Ranges
//! A range proof shows that leaf hashes are the leaves `[from, to)` under a root: from left to right the roots of the largest
//! subtrees that hold no leaf of the range and, with the range, make up the tree.

use super::tree::MAX_SIZE;
use crate::crypto::hash::{RootBuilder, empty_root, node_hash};
use crate::types::Digest;

/// Most digests of an inclusion or consistency proof: one a level, and the old tree's own root.
pub const MAX_PATH: usize = 64;

/// Most digests of a range proof: two a level.
pub const MAX_RANGE_PROOF: usize = 2 * MAX_PATH;

/// The inner nodes of a tree.
pub trait NodeHashes {
    /// The root of the complete subtree that is number `index`, from the left, of those with `2^level` leaves; `None` where it is
    /// not there or not known.
    fn node(&self, level: u8, index: u64) -> Option<Digest>;
}

impl<N: NodeHashes + ?Sized> NodeHashes for &N {
    fn node(&self, level: u8, index: u64) -> Option<Digest> {
        (**self).node(level, index)
    }
}

/// Leaf hashes in memory; a node is hashed whenever it is asked for. For small trees and for tests.
impl NodeHashes for [Digest] {
    fn node(&self, level: u8, index: u64) -> Option<Digest> {
        let width = 1usize.checked_shl(u32::from(level))?;
        let start = usize::try_from(index).ok()?.checked_mul(width)?;
        let leaves = self.get(start..start.checked_add(width)?)?;
        Some(root_of(leaves))
    }
}

/// The root of the tree over the first `size` leaves; `None` where a node that it needs is not known.
pub fn root<N: NodeHashes + ?Sized>(nodes: &N, size: u64) -> Option<Digest> {
    if size == 0 {
        return Some(empty_root());
    }
    subtree(nodes, 0, size)
}

/// The inclusion path of leaf `index` in the tree over the first `size` leaves, lowest sibling first; `None` where there is no such
/// leaf or a node is not known.
pub fn inclusion<N: NodeHashes + ?Sized>(nodes: &N, index: u64, size: u64) -> Option<Vec<Digest>> {
    if index >= size || size > MAX_SIZE {
        return None;
    }
    let mut path = Vec::with_capacity(MAX_PATH);
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + left_width(end - start);
        if index < middle {
            path.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(subtree(nodes, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// The proof that the tree over the first `old` leaves is the beginning of that over the first `new`; empty where `old` is 0 or
/// `new`. `None` where `old > new` or a node is not known.
pub fn consistency<N: NodeHashes + ?Sized>(nodes: &N, old: u64, new: u64) -> Option<Vec<Digest>> {
    if old > new || new > MAX_SIZE {
        return None;
    }
    let mut proof = Vec::with_capacity(MAX_PATH);
    if old == 0 || old == new {
        return Some(proof);
    }
    let (mut start, mut end) = (0, new);
    // Ends where a subtree lies within the old tree and reaches its end.
    while old < end {
        let middle = start + left_width(end - start);
        if old <= middle {
            proof.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(subtree(nodes, start, middle)?);
            start = middle;
        }
    }
    if start > 0 {
        proof.push(subtree(nodes, start, end)?);
    }
    proof.reverse();
    Some(proof)
}

/// Whether `proof` shows that the tree of `old` leaves with root `old_root` is the beginning of that of `new` leaves with root
/// `new_root` (RFC 9162, 2.1.4.2). From the empty tree only the empty proof is accepted, and only with the empty tree's root.
pub fn verify_consistency(old: u64, old_root: &Digest, new: u64, new_root: &Digest, proof: &[Digest]) -> bool {
    if old > new || new > MAX_SIZE || proof.len() > MAX_PATH {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root && (old > 0 || *old_root == empty_root());
    }
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    let (mut position, mut last) = (old - 1, new - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let mut rest = proof.iter();
    // Where the old tree is one complete subtree its root is the first node.
    let seed = if position == 0 { Some(old_root) } else { rest.next() };
    let Some(seed) = seed else { return false };
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    for node in rest {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_hash = node_hash(node, &old_hash);
            new_hash = node_hash(node, &new_hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, node);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The proof that the leaves `[from, to)` are those of the tree over the first `size`; `None` where there are no such leaves, none
/// at all, or a node is not known.
pub fn range<N: NodeHashes + ?Sized>(nodes: &N, from: u64, to: u64, size: u64) -> Option<Vec<Digest>> {
    if from >= to || to > size || size > MAX_SIZE {
        return None;
    }
    let mut proof = Vec::with_capacity(MAX_RANGE_PROOF);
    put_outside(nodes, (from, to), (0, size), &mut proof)?;
    Some(proof)
}

fn put_outside<N: NodeHashes + ?Sized>(
    nodes: &N,
    range: (u64, u64),
    (start, end): (u64, u64),
    proof: &mut Vec<Digest>,
) -> Option<()> {
    if range.0 <= start && end <= range.1 {
        return Some(());
    }
    if end <= range.0 || range.1 <= start {
        proof.push(subtree(nodes, start, end)?);
        return Some(());
    }
    let middle = start + left_width(end - start);
    put_outside(nodes, range, (start, middle), proof)?;
    put_outside(nodes, range, (middle, end), proof)
}

/// Whether `proof` shows that `leaves` (leaf hashes) are the leaves from number `from` on of the tree of `size` leaves with this
/// root. No leaves prove nothing.
pub fn verify_range(leaves: &[Digest], from: u64, size: u64, proof: &[Digest], root: &Digest) -> bool {
    let Some(to) = from.checked_add(leaves.len() as u64) else { return false };
    if from >= to || to > size || size > MAX_SIZE || proof.len() > MAX_RANGE_PROOF {
        return false;
    }
    let mut rest = proof.iter();
    let found = put_together(leaves, from, (0, size), &mut rest);
    found.as_ref() == Some(root) && rest.next().is_none()
}

fn put_together(
    leaves: &[Digest],
    from: u64,
    (start, end): (u64, u64),
    proof: &mut std::slice::Iter<'_, Digest>,
) -> Option<Digest> {
    let to = from + leaves.len() as u64;
    if from <= start && end <= to {
        return leaves.get((start - from) as usize..(end - from) as usize).map(root_of);
    }
    if end <= from || to <= start {
        return proof.next().copied();
    }
    let middle = start + left_width(end - start);
    let left = put_together(leaves, from, (start, middle), proof)?;
    let right = put_together(leaves, from, (middle, end), proof)?;
    Some(node_hash(&left, &right))
}

/// The largest power of two below `width`, which is 2 at least.
fn left_width(width: u64) -> u64 {
    1 << (u64::BITS - 1 - (width - 1).leading_zeros())
}

/// The root over the leaves `[start, end)`, at least one, `start` being a multiple of a power of two that is no smaller than their
/// number: as it is in RFC 6962's recursion.
fn subtree<N: NodeHashes + ?Sized>(nodes: &N, mut start: u64, end: u64) -> Option<Digest> {
    let mut complete = [Digest::NULL; u64::BITS as usize];
    let mut count = 0;
    while start < end {
        let level = u64::BITS - 1 - (end - start).leading_zeros();
        complete[count] = nodes.node(level as u8, start >> level)?;
        count += 1;
        start += 1 << level;
    }
    let (last, larger) = complete[..count].split_last()?;
    Some(larger.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
}

fn root_of(leaves: &[Digest]) -> Digest {
    let mut builder = RootBuilder::default();
    leaves.iter().for_each(|leaf| builder.push_hash(*leaf));
    builder.root()
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
