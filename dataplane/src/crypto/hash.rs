//! SHA-256 and the RFC 6962 hashes.

use ring::digest::{Context, SHA256};

use crate::types::Digest;

/// SHA-256 over the parts one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Digest(out)
}

/// RFC 6962 leaf hash.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    sha256(&[&[0], leaf])
}

/// RFC 6962 node hash.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    sha256(&[&[1], &left.0, &right.0])
}
/// RFC 6962 root of the leaves.
pub fn merkle_root<'a>(leaves: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut stack: Vec<(Digest, u64)> = Vec::new();
    for leaf in leaves {
        let mut hash = leaf_hash(leaf);
        let mut size = 1;
        while let Some((left, left_size)) = stack.last().copied() {
            if left_size != size {
                break;
            }
            hash = node_hash(&left, &hash);
            size *= 2;
            stack.pop();
        }
        stack.push((hash, size));
    }
    let Some((mut hash, _)) = stack.pop() else { return sha256(&[]) };
    while let Some((left, _)) = stack.pop() {
        hash = node_hash(&left, &hash);
    }
    hash
}
