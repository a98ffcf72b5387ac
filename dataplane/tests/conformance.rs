//! Pins every encoding: SHA-256 over seeded samples of each kind of message, the frame header and the bundle.
//!
//! A failure names the kinds whose bytes changed. Such a change means that replicas of two builds do not understand each
//! other, or, for a bundle, that old signatures do not verify: it needs a new format version. Where it is meant, rewrite the
//! file and commit it with the change:
//!
//! `ATLAS_CONFORMANCE_WRITE=1 cargo test -p atlas-dataplane --test conformance`

mod samples;

use std::path::Path;

use atlas_dataplane::history::entry::put_key;
use atlas_dataplane::wire::frame::Kind;
use ring::digest::{Context, SHA256};
use samples::{Rng, evidence};

/// Samples of each kind.
const SAMPLES: usize = 64;

/// What stands above the hashes in the file.
const HEAD: &str = "# SHA-256 over the encodings of 64 seeded samples of each kind, each preceded by its length as u64 big-endian.\n\
                    # Written by tests/conformance.rs, which says what a change of this file means.\n";

fn line(name: &str, sample: impl Fn(&mut Rng) -> Vec<u8>) -> String {
    let mut rng = Rng(name.bytes().fold(0, |seed, byte| seed << 5 ^ seed >> 59 ^ u64::from(byte)));
    let mut context = Context::new(&SHA256);
    for _ in 0..SAMPLES {
        let bytes = sample(&mut rng);
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(&bytes);
    }
    format!("{name} {}", data_encoding::HEXLOWER.encode(context.finish().as_ref()))
}

fn lines() -> Vec<String> {
    let mut lines = vec![
        line("header", |rng| {
            let kind = Kind::ALL[rng.below(Kind::ALL.len())];
            let length = rng.number() as u32 as usize;
            samples::header(rng, kind, length).encode().to_vec()
        }),
        line("request", |rng| samples::request(rng, false)),
        line("bundle", |rng| samples::bundle(rng).cose().to_vec()),
        line("signed-bytes", |rng| samples::bundle(rng).signed_bytes()),
        line("statement", samples::statement),
        line("key-entry", |rng| {
            let (sequence, time_ms, mut out) = (rng.number(), rng.number() as i64, Vec::new());
            put_key(&mut out, sequence, time_ms, &samples::statement(rng));
            out
        }),
    ];
    lines.extend([
        line("checkpoint", |rng| evidence::note(rng).into_bytes()),
        line("policy", evidence::policy),
        line("proof", evidence::proof),
        line("proof-extra", evidence::payload),
        line("entry-bundle", |rng| evidence::entries(rng, 20)),
    ]);
    // The handshake's bytes are Noise's affair.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Handshake) {
        lines.push(line(&format!("{kind:?}"), |rng| samples::body(rng, kind)));
    }
    lines
}

#[test]
fn encodings_are_the_pinned_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance.txt");
    let lines = lines();
    if std::env::var_os("ATLAS_CONFORMANCE_WRITE").is_some() {
        std::fs::write(&path, format!("{HEAD}{}\n", lines.join("\n"))).expect("conformance.txt is writable");
    }
    let file = std::fs::read_to_string(&path).expect("tests/conformance.txt is part of the sources");
    let pinned: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    let mut differences = String::new();
    for old in pinned.iter().filter(|old| !lines.iter().any(|new| new == *old)) {
        differences += &format!("- {old}\n");
    }
    for new in lines.iter().filter(|new| !pinned.contains(&new.as_str())) {
        differences += &format!("+ {new}\n");
    }
    assert!(differences.is_empty(), "encodings differ from tests/conformance.txt:\n{differences}");
}
