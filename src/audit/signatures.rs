//! Checking clients' signatures: strictly first, as every tool outside does; by ZIP 215, as the cluster does, where that fails.

use std::collections::HashMap;

use atlas_dataplane::crypto;
use atlas_dataplane::types::{PublicKey, Signature};
use ed25519_dalek::{Verifier, VerifyingKey};

/// Keys that a thread remembers; beyond it forgets all and begins anew.
const MAX_KEYS: usize = 4_096;

/// How a signature holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// By every rule.
    Strictly,
    /// By the rules of ZIP 215 alone: whoever holds the key made it so on purpose.
    Zip215Only,
    /// Not at all.
    No,
}

/// Keys of one thread, decompressed.
#[derive(Default)]
pub(super) struct Keys(HashMap<PublicKey, Option<VerifyingKey>>);

impl Keys {
    pub(super) fn check(&mut self, key: &PublicKey, message: &[u8], signature: &Signature) -> Held {
        if self.0.len() >= MAX_KEYS {
            self.0.clear();
        }
        let strict = self.0.entry(*key).or_insert_with(|| {
            // A key that is written in a second way is nothing that outside tools take.
            let point = VerifyingKey::from_bytes(&key.0).ok();
            point.filter(|point| point.to_edwards().compress().0 == key.0)
        });
        let signed = ed25519_dalek::Signature::from_bytes(&signature.0);
        if strict.as_ref().is_some_and(|strict| strict.verify(message, &signed).is_ok()) {
            return Held::Strictly;
        }
        if crypto::verify(key, message, signature) { Held::Zip215Only } else { Held::No }
    }
}
