//! Reading and writing of the plain little-endian bytes that records and signed messages are made of.

use crate::types::{Digest, ReplicaId, Signature};

/// What is not read yet. Reading past the end gives `None`.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest)
    }

    pub(super) fn replica(&mut self) -> Option<ReplicaId> {
        self.array().map(|[index]: [u8; 1]| ReplicaId(index))
    }

    pub(super) fn signature(&mut self) -> Option<Signature> {
        self.array().map(Signature)
    }

    /// A count of elements of `size` bytes each, all of which are here.
    pub(super) fn count(&mut self, size: usize) -> Option<usize> {
        let count = self.u32()? as usize;
        (count.checked_mul(size)? <= self.0.len()).then_some(count)
    }
}
