//! What must hold of cosignatures: promised durably before they leave, under the root of the one history, and never for less than
//! before. The roots are computed here, from the entries alone.

use std::collections::BTreeSet;

use ring::digest::{SHA256, digest};

use crate::wire::message::ArchivedCosignature;

/// See the module.
#[derive(Default)]
pub(super) struct Heads {
    /// Roots by size, from 1 on, as far as they were asked for.
    roots: Vec<[u8; 32]>,
    /// Perfect subtrees at the right edge: levels and hashes.
    edge: Vec<(u32, [u8; 32])>,
    /// The largest size that each replica signed.
    signed: Vec<u64>,
    /// Signed by these, of entries that the checker has not been shown yet.
    unseen: Vec<(usize, u64, [u8; 32])>,
    pub(super) checked: u64,
}

fn hash(prefix: u8, parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = vec![prefix];
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    out
}

impl Heads {
    pub(super) fn new(n: usize) -> Self {
        Self { signed: vec![0; n], ..Self::default() }
    }

    fn root(&mut self, entries: &[Vec<u8>], size: u64) -> Option<[u8; 32]> {
        while (self.roots.len() as u64) < size {
            let mut node = (0, hash(0, &[entries.get(self.roots.len())?]));
            while let Some((level, left)) = self.edge.pop_if(|(level, _)| *level == node.0) {
                node = (level + 1, hash(1, &[&left, &node.1]));
            }
            self.edge.push(node);
            let mut subtrees = self.edge.iter().rev();
            let last = subtrees.next().map(|(_, hash)| *hash)?;
            self.roots.push(subtrees.fold(last, |right, (_, left)| hash(1, &[left, &right])));
        }
        self.roots.get(usize::try_from(size.checked_sub(1)?).ok()?).copied()
    }

    /// A correct replica is back, with all its records: it may not promise less than it signed.
    pub(super) fn comes_back(&self, replica: usize, promised: u64) -> Result<(), String> {
        let signed = self.signed[replica];
        if promised < signed {
            return Err(format!(
                "replica {replica} comes back with a promise of {promised} entries, and had cosigned {signed}"
            ));
        }
        Ok(())
    }

    /// A correct replica tells its signature; `durable` are the promises on its disk, where they are known.
    pub(super) fn leaves(
        &mut self,
        replica: usize,
        message: &ArchivedCosignature,
        entries: &[Vec<u8>],
        durable: Option<&BTreeSet<(u64, [u8; 32])>>,
    ) -> Result<(), String> {
        let (size, root) = (message.size.to_native(), message.root);
        self.checked += 1;
        if size < self.signed[replica] {
            return Err(format!("replica {replica} cosigns {size} entries after it cosigned {}", self.signed[replica]));
        }
        self.signed[replica] = size;
        if durable.is_some_and(|durable| !durable.contains(&(size, root))) {
            return Err(format!("replica {replica} cosigns {size} entries without a durable promise"));
        }
        self.unseen.push((replica, size, root));
        let shown = entries.len() as u64;
        for (replica, size, root) in self.unseen.extract_if(.., |(_, size, _)| *size <= shown).collect::<Vec<_>>() {
            if self.root(entries, size) != Some(root) {
                return Err(format!("replica {replica} cosigns a root of {size} entries that is not theirs"));
            }
        }
        Ok(())
    }
}
