//! Ed25519 by `ed25519-zebra`: of the libraries that follow ZIP 215, where a batch accepts exactly what single
//! verification accepts, the fastest known.
//!
//! Signing alone is up to ten microseconds quicker in libraries written in assembler: a few percent of the floor, and not worth a C toolchain to everyone who builds this.

use std::hint::black_box;
use std::time::Duration;

use ed25519_zebra::{Signature, SigningKey, VerificationKey, VerificationKeyBytes, batch};
use rand_core::OsRng;

use super::{FloorError, Percentiles, repeat};

/// Signatures in a batch.
pub(super) const BATCH: usize = 64;
/// Bytes under a signature: about a bundle's header and root.
const MESSAGE_BYTES: usize = 128;

pub(super) struct Signatures {
    pub(super) sign: Percentiles,
    pub(super) verify: Percentiles,
    pub(super) verify_batch: Percentiles,
}

/// Measures each of the three for `budget`.
pub(super) fn measure(budget: Duration) -> Result<Signatures, FloorError> {
    let message = [0x5a; MESSAGE_BYTES];
    let key = SigningKey::new(OsRng);
    let sign = repeat(budget, 1, || {
        black_box(key.sign(black_box(&message)));
        Ok::<_, FloorError>(())
    })?;

    let signature = key.sign(&message);
    let public = VerificationKey::from(&key);
    let verify = repeat(budget, 1, || {
        public.verify(black_box(&signature), black_box(&message)).map_err(|_| FloorError::Signature)
    })?;

    let signed: Vec<(VerificationKeyBytes, Signature)> = (0..BATCH)
        .map(|_| SigningKey::new(OsRng))
        .map(|key| (VerificationKeyBytes::from(&key), key.sign(&message)))
        .collect();
    let verify_batch = repeat(budget, BATCH as u64, || {
        let mut verifier = batch::Verifier::new();
        for (public, signature) in &signed {
            verifier.queue((*public, *signature, &message));
        }
        verifier.verify(OsRng).map_err(|_| FloorError::Signature)
    })?;

    Ok(Signatures {
        sign: Percentiles::of(&sign),
        verify: Percentiles::of(&verify),
        verify_batch: Percentiles::of(&verify_batch),
    })
}
