//! A batch: the unit of agreement. Bundles in an order, and the leader's time.

use std::sync::Arc;

use crate::crypto::hash::sha256;
use crate::types::{Digest, TimeMs};
use crate::wire::bundle::Bundle;

/// Bundles under one sequence number, with the digest that replicas vote on.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    digest: Digest,
    time_ms: TimeMs,
    bundles: Vec<Arc<Bundle>>,
}

impl Batch {
    /// A batch of `bundles` at the leader's time `time_ms`.
    pub fn new(time_ms: TimeMs, bundles: Vec<Arc<Bundle>>) -> Self {
        let digest = batch_digest(time_ms, bundles.iter().map(|bundle| bundle.digest()));
        Self { digest, time_ms, bundles }
    }

    /// The null batch: what a new view chooses where nothing can have been decided. Executing it changes nothing.
    pub fn null() -> Self {
        Self { digest: Digest::NULL, time_ms: 0, bundles: Vec::new() }
    }

    /// The batch under a digest that it does not have.
    #[cfg(test)]
    pub(super) fn claiming(self, digest: Digest) -> Self {
        Self { digest, ..self }
    }

    /// What is voted on.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The leader's time; the agreed time is this or that of the sequence before, whichever is later.
    pub fn time_ms(&self) -> TimeMs {
        self.time_ms
    }

    /// The bundles in order.
    pub fn bundles(&self) -> &[Arc<Bundle>] {
        &self.bundles
    }

    /// Bytes of all bundles.
    pub fn size(&self) -> usize {
        self.bundles.iter().map(|bundle| bundle.size()).sum()
    }
}

/// `SHA-256("atlas-batch/1" || t as u64 big-endian || count as u32 big-endian || SHA-256 of each bundle)` (FORMATS.md).
pub fn batch_digest(time_ms: TimeMs, bundles: impl ExactSizeIterator<Item = Digest>) -> Digest {
    let count = bundles.len() as u32;
    let mut bytes = Vec::with_capacity(32 + 32 * bundles.len());
    bytes.extend_from_slice(b"atlas-batch/1");
    bytes.extend_from_slice(&time_ms.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    for digest in bundles {
        bytes.extend_from_slice(&digest.0);
    }
    sha256(&[&bytes])
}
