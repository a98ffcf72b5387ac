//! Checking Ed25519 signatures by the ZIP 215 rules.

use ed25519_zebra::batch::{self, Item};
use ed25519_zebra::{Signature as ZebraSignature, VerificationKey, VerificationKeyBytes};
use rand_core::{CryptoRng, OsRng, RngCore};

use crate::types::{PublicKey, Signature};

/// Whether `signature` is one of `key` over `message`. A key that is no point of the curve has no signatures.
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    VerificationKey::try_from(key.0)
        .and_then(|key| key.verify(&ZebraSignature::from_bytes(&signature.0), message))
        .is_ok()
}

/// Why a public key must not stand for anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WeakKey {
    /// The bytes are no point of the curve: no signature of it can exist.
    #[error("these bytes are no Ed25519 public key")]
    NotAPoint,
    /// A point of small order: everybody can make its signatures.
    #[error("everybody can sign for this key (it is a point of small order)")]
    SmallOrder,
}

/// Refuses keys that cannot sign and keys for which everybody can sign.
pub fn check_public_key(key: &PublicKey) -> Result<(), WeakKey> {
    VerificationKey::try_from(key.0).map_err(|_| WeakKey::NotAPoint)?;
    // R = the neutral point and s = 0 satisfy the cofactored equation for a point of small order, whatever the message,
    // and for another point only if the challenge is a multiple of the group's order.
    let mut neutral = [0; 64];
    neutral[0] = 1;
    if verify(key, b"atlas-weak-key", &Signature(neutral)) { Err(WeakKey::SmallOrder) } else { Ok(()) }
}

/// Checks many signatures together at less than half the price of checking each; the answers are those of [`verify`].
///
/// All together first. When that fails each is checked by itself: with any share of bad signatures the price is at most
/// that of the batch and the single checks, which bisecting would exceed. The chance that a batch holds with a bad
/// signature in it is 2^-128, by random factors that the signers cannot know.
///
/// `T` is whatever names an item to the caller. The number of items is the caller's to bound.
pub struct BatchVerifier<T> {
    items: Vec<(Item, T)>,
}

impl<T> BatchVerifier<T> {
    /// An empty batch with room for `capacity` items.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { items: Vec::with_capacity(capacity) }
    }

    /// Adds a signature. The message is hashed here and need not be kept.
    pub fn push(&mut self, key: &PublicKey, message: &[u8], signature: &Signature, token: T) {
        let key = VerificationKeyBytes::from(key.0);
        self.items.push((Item::from((key, ZebraSignature::from_bytes(&signature.0), message)), token));
    }

    /// How many signatures wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Checks all, empties the batch, and yields in the order of adding each token and whether its signature holds.
    pub fn verify(&mut self) -> impl Iterator<Item = (T, bool)> + '_ {
        let all_hold = self.items.len() > 1 && self.all_hold();
        self.items.drain(..).map(move |(item, token)| (token, all_hold || item.verify_single().is_ok()))
    }

    /// Whether all of them hold; false tells nothing about any one.
    pub fn all_hold(&self) -> bool {
        let mut batch = batch::Verifier::new();
        for (item, _) in &self.items {
            batch.queue(item.clone());
        }
        batch.verify(Coefficients::default()).is_ok()
    }
}

/// The system's random numbers, fetched for several factors at a time: a factor takes 16 bytes, and a call into the system each would
/// cost as much as a hundredth of a check.
struct Coefficients {
    bytes: [u8; 512],
    used: usize,
}

impl Default for Coefficients {
    fn default() -> Self {
        Self { bytes: [0; 512], used: 512 }
    }
}

impl RngCore for Coefficients {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        if out.len() > self.bytes.len() - self.used {
            if out.len() > self.bytes.len() {
                return OsRng.fill_bytes(out);
            }
            OsRng.fill_bytes(&mut self.bytes);
            self.used = 0;
        }
        out.copy_from_slice(&self.bytes[self.used..self.used + out.len()]);
        self.used += out.len();
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Coefficients {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_factor_comes_twice() {
        let mut random = Coefficients::default();
        let mut draw = |length: usize| {
            let mut bytes = vec![0; length];
            random.fill_bytes(&mut bytes);
            bytes
        };
        let factors: BTreeSet<_> = (0..1_000).map(|at| draw(if at % 7 == 0 { 24 } else { 16 })).collect();
        assert_eq!(factors.len(), 1_000);
        assert!(draw(2_000).iter().any(|byte| *byte != 0));
    }
}
