//! How many signatures and sealed frames can one core make and check, and from which batch size on does batching pay?
//!
//! Ed25519 by ed25519-zebra (ZIP 215; single and batched verification accept the same): sign, verify one, and verify batches of
//! 1 to 1,024 under one key (one client's stream) and under a key each (many clients). AES-256-GCM by ring, as links seal and
//! open frames: in place, the 32-byte header as associated data. Throughput is per signature and per byte.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_zebra::{Signature, SigningKey, VerificationKey, VerificationKeyBytes, batch};
use rand_core::OsRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// About what is under a bundle's signature.
const MESSAGE_BYTES: usize = 160;
const BATCHES: [usize; 6] = [1, 4, 16, 64, 256, 1_024];
const FRAMES: [usize; 3] = [128, 1 << 10, 16 << 10];
const HEADER_BYTES: usize = 32;

type Signed = (VerificationKeyBytes, Signature, [u8; MESSAGE_BYTES]);

fn key(number: usize) -> SigningKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    SigningKey::from(seed)
}

/// Different messages, by `keys` keys in turn.
fn signed(count: usize, keys: usize) -> Vec<Signed> {
    let keys: Vec<SigningKey> = (0..keys).map(key).collect();
    (0..count)
        .map(|index| {
            let mut message = [3; MESSAGE_BYTES];
            message[..8].copy_from_slice(&index.to_le_bytes());
            let key = &keys[index % keys.len()];
            (VerificationKeyBytes::from(key), key.sign(&message), message)
        })
        .collect()
}

fn single(c: &mut Criterion) {
    let signing = key(0);
    let (bytes, signature, message) = signed(1, 1)[0];
    c.bench_function("ed25519/sign", |b| b.iter(|| signing.sign(black_box(&message))));
    c.bench_function("ed25519/verify, key known", |b| {
        let key = VerificationKey::try_from(bytes).expect("a valid key");
        b.iter(|| key.verify(black_box(&signature), &message).expect("a valid signature"));
    });
    c.bench_function("ed25519/verify, key from bytes", |b| {
        b.iter(|| {
            let key = VerificationKey::try_from(black_box(bytes)).expect("a valid key");
            key.verify(&signature, &message).expect("a valid signature");
        });
    });
}

fn batches(c: &mut Criterion) {
    for (name, many) in [("ed25519/batch, one key", false), ("ed25519/batch, a key each", true)] {
        let mut group = c.benchmark_group(name);
        for size in BATCHES {
            let signed = signed(size, if many { size } else { 1 });
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| {
                    let mut verifier = batch::Verifier::new();
                    for (key, signature, message) in &signed {
                        verifier.queue((*key, *signature, message));
                    }
                    verifier.verify(OsRng).expect("valid signatures");
                });
            });
        }
        group.finish();
    }
}

fn sealing(c: &mut Criterion) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).expect("32 bytes"));
    let nonce = || Nonce::assume_unique_for_key([5; 12]);
    let header = [1; HEADER_BYTES];
    for (name, open) in [("aes-256-gcm/seal", false), ("aes-256-gcm/open", true)] {
        let mut group = c.benchmark_group(name);
        for size in FRAMES {
            let plain = vec![2; size];
            let mut sealed = plain.clone();
            key.seal_in_place_append_tag(nonce(), Aad::from(header), &mut sealed).expect("within the limits");
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                if open {
                    // Opening overwrites the frame: each time on a fresh copy, made outside the measured part.
                    b.iter_batched_ref(
                        || sealed.clone(),
                        |frame| key.open_in_place(nonce(), Aad::from(header), frame).expect("own frame").len(),
                        BatchSize::SmallInput,
                    );
                } else {
                    let mut frame = plain.clone();
                    b.iter(|| key.seal_in_place_separate_tag(nonce(), Aad::from(header), black_box(&mut frame)));
                }
            });
        }
        group.finish();
    }
}

criterion_group!(benches, single, batches, sealing);
criterion_main!(benches);
