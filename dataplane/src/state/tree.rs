//! An RFC 6962 tree over a growing array of leaves that may change: the state root and its kin.

use crate::crypto::hash::{empty_root, node_hash};
use crate::types::Digest;

/// A Merkle tree that keeps all its nodes and hashes again only above leaves that changed.
///
/// A node without a right neighbour rises unchanged to the next level, which gives exactly the tree of RFC 6962. Memory
/// is about 64 bytes a leaf; a change costs one hash a level, shared by changes that lie close together.
#[derive(Clone, Debug, Default)]
pub struct DenseTree {
    /// `levels[0]` holds the leaves, each further level the nodes above; valid except above the dirty leaves.
    levels: Vec<Vec<Digest>>,
    /// Indices of leaves set since the last root, each once.
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
}

impl DenseTree {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of leaves.
    pub fn len(&self) -> usize {
        self.is_dirty.len()
    }

    /// Whether there is no leaf.
    pub fn is_empty(&self) -> bool {
        self.is_dirty.is_empty()
    }

    /// The hash of leaf `index`, or `None` where there is no such leaf.
    pub fn leaf(&self, index: usize) -> Option<Digest> {
        self.levels.first()?.get(index).copied()
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Digest) {
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        self.levels[0].push(leaf);
        self.dirty.push(self.is_dirty.len());
        self.is_dirty.push(true);
    }

    /// Replaces the hash of leaf `index`; `false`, and nothing done, where there is no such leaf.
    pub fn set(&mut self, index: usize, leaf: Digest) -> bool {
        let Some(place) = self.levels.first_mut().and_then(|leaves| leaves.get_mut(index)) else {
            return false;
        };
        *place = leaf;
        if !self.is_dirty[index] {
            self.is_dirty[index] = true;
            self.dirty.push(index);
        }
        true
    }

    /// The inclusion path of leaf `index`, lowest sibling first, in the tree that [`DenseTree::root`] was asked for last; `None` where
    /// there is no such leaf, or a leaf has changed since.
    pub fn path(&self, index: usize) -> Option<Vec<Digest>> {
        if index >= self.len() || !self.dirty.is_empty() {
            return None;
        }
        let mut path = Vec::with_capacity(self.levels.len());
        let (mut at, mut level) = (index, 0);
        while let Some(nodes) = self.levels.get(level).filter(|nodes| nodes.len() > 1) {
            // A node without a neighbour rises as it is.
            path.extend(nodes.get(at ^ 1));
            at /= 2;
            level += 1;
        }
        Some(path)
    }

    /// The root over all leaves; hashes what changed since it was asked last.
    pub fn root(&mut self) -> Digest {
        for &index in &self.dirty {
            self.is_dirty[index] = false;
        }
        self.dirty.sort_unstable();
        let mut level = 0;
        while self.levels.get(level).is_some_and(|nodes| nodes.len() > 1) {
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            let (below, above) = self.levels.split_at_mut(level + 1);
            let (children, parents) = (&below[level], &mut above[0]);
            parents.resize(children.len().div_ceil(2), Digest::NULL);
            for index in &mut self.dirty {
                *index /= 2;
            }
            self.dirty.dedup();
            for &index in &self.dirty {
                parents[index] = match &children[2 * index..] {
                    [left, right, ..] => node_hash(left, right),
                    [lone] => *lone,
                    [] => Digest::NULL,
                };
            }
            level += 1;
        }
        self.dirty.clear();
        self.levels.get(level).and_then(|nodes| nodes.first().copied()).unwrap_or_else(empty_root)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
