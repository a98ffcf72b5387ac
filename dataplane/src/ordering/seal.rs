//! Signatures of replicas over what third parties must believe: CHECKPOINT, VIEW-CHANGE, NEW-VIEW.
//!
//! `context || epoch as u32 big-endian || length of the origin as u32 big-endian || origin || body`, under the protocol key. What is
//! signed for one purpose, cluster or epoch is worth nothing for another.

use crate::crypto::{SecretKey, verify};
use crate::types::{Epoch, PublicKey, ReplicaId, Signature};

/// What a replica signs with, and how it verifies the others.
pub struct Seals {
    origin: String,
    epoch: Epoch,
    members: Vec<PublicKey>,
    key: SecretKey,
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seals").field("origin", &self.origin).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Seals {
    /// `members` are the protocol keys of the epoch's replicas by index; `key` is the private one of this replica.
    pub fn new(origin: String, epoch: Epoch, members: Vec<PublicKey>, key: SecretKey) -> Self {
        Self { origin, epoch, members, key }
    }

    fn message(&self, context: &[u8], body: &[u8]) -> Vec<u8> {
        signed_bytes(context, self.epoch, &self.origin, body)
    }

    pub(crate) fn sign(&self, context: &[u8], body: &[u8]) -> Signature {
        self.key.sign(&self.message(context, body))
    }

    pub(crate) fn holds(&self, replica: ReplicaId, context: &[u8], body: &[u8], signature: &Signature) -> bool {
        let Some(key) = self.members.get(replica.index()) else { return false };
        verify(key, &self.message(context, body), signature)
    }
}

/// What is signed of a body.
pub(crate) fn signed_bytes(context: &[u8], epoch: Epoch, origin: &str, body: &[u8]) -> Vec<u8> {
    let length = origin.len() as u32;
    [context, &epoch.to_be_bytes(), &length.to_be_bytes(), origin.as_bytes(), body].concat()
}

/// The seals of one of four replicas, for tests.
#[cfg(test)]
pub(crate) fn sample(me: u8) -> std::sync::Arc<Seals> {
    let key = |index: u8| SecretKey::from_seed(&[200 + index; 32]);
    let members = (0..4).map(|index| key(index).public()).collect();
    std::sync::Arc::new(Seals::new("atlas.example/test".to_owned(), 0, members, key(me)))
}
