//! Decoders of evidence files: checkpoints, policies, proofs and what is in them, entry bundles of an export.

use atlas_dataplane::cbor::Writer;
use atlas_dataplane::cluster::policy::{TYPE_COSIGNATURE, TYPE_LOG, cosigner_name, vkey};
use atlas_dataplane::history::note::{CheckpointBody, Note, NoteError, SignatureLine, assemble};
use atlas_dataplane::history::slot_leaf::SlotLeaf;
use atlas_dataplane::history::tiles::{Tile, parse_entries, put_entry};
use atlas_dataplane::history::tlog_policy::{Policy, PolicyError};
use atlas_dataplane::history::tlog_proof::{Neighbour, Payload, ProofError, TlogProof, render};
use atlas_dataplane::types::{Digest, PublicKey, ReplicaId};

use crate::harness::{Reached, counted, mutated};
use crate::samples::{ORIGIN, Rng};

// ---- Checkpoints and policies -------------------------------------------------------------------------------------------

pub(crate) fn note(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| sample_note(rng).into_bytes())
}

fn sample_note(rng: &mut Rng) -> String {
    let body = CheckpointBody { origin: ORIGIN.to_owned(), size: 1 + (rng.number() >> 2), root: Digest(rng.array()) };
    let line = |rng: &mut Rng, name: String, length| SignatureLine {
        name,
        key_id: rng.array(),
        bytes: (0..length).map(|_| rng.next() as u8).collect(),
    };
    let logs: Vec<_> = (0..=rng.below(2)).map(|_| line(rng, ORIGIN.to_owned(), 64)).collect();
    let cosigned: Vec<_> =
        (0..rng.below(5) as u8).map(|i| line(rng, cosigner_name(ORIGIN, ReplicaId(i)), 72)).collect();
    assemble(&body, &logs, &cosigned).expect("a size and a log line")
}

pub(crate) fn run_note(input: &[u8]) -> Reached {
    match counted(input.len(), || Note::parse(input)) {
        Ok(note) => {
            assert_eq!(note.to_string().as_bytes(), input, "an accepted checkpoint renders to other bytes");
            Reached::Body
        }
        Err(NoteError::Line { .. } | NoteError::TooManyLines) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

pub(crate) fn policy(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let count = 1 + rng.below(5) as u8;
        let mut text = String::from("# a policy\n");
        for _ in 0..count {
            text += &format!("log {}\n", vkey(ORIGIN, TYPE_LOG, &PublicKey(rng.array())));
        }
        for i in 0..count {
            let key = vkey(&cosigner_name(ORIGIN, ReplicaId(i)), TYPE_COSIGNATURE, &PublicKey(rng.array()));
            text += &format!("witness r{i} {key}\n");
        }
        let members: Vec<_> = (0..count).map(|i| format!("r{i}")).collect();
        let threshold = ["any", "all", "1"][rng.below(3)];
        text += &format!("group replicas {threshold} {}\nquorum replicas\n", members.join(" "));
        text.into_bytes()
    })
}

pub(crate) fn run_policy(input: &[u8]) -> Reached {
    // The names of a line are held in tables of fixed entries, a line of few bytes makes an entry of some hundred.
    match counted(4 * input.len(), || Policy::parse(input)) {
        Ok(policy) => {
            assert!(!policy.logs().is_empty() && policy.liars() < policy.witnesses().len().max(1));
            if let Some((k, n)) = policy.threshold() {
                assert!(1 <= k && k <= n && n <= policy.witnesses().len());
            }
            Reached::Body
        }
        Err(PolicyError::Line { line, .. }) if line > 2 => Reached::Header,
        Err(PolicyError::NoLog | PolicyError::NoQuorum) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

// ---- Proofs -------------------------------------------------------------------------------------------------------------

fn path(rng: &mut Rng) -> Vec<Digest> {
    rng.list(6, |rng| Digest(rng.array()))
}

fn sample_payload(rng: &mut Rng) -> Vec<u8> {
    let entry = rng.bytes(100);
    match rng.below(3) {
        0 => Payload::Receipt { entry: &entry }.encode(),
        1 => {
            let leaf = sample_leaf(rng);
            Payload::State { entry: &entry, slot: rng.number(), leaf: &leaf, path: path(rng) }.encode()
        }
        _ => {
            let leaves = rng.list(2, |rng| (rng.number(), sample_leaf(rng), path(rng)));
            let neighbour = |(index, leaf, path): &'_ (u64, Vec<u8>, Vec<Digest>)| (*index, leaf.clone(), path.clone());
            let parts: Vec<_> = leaves.iter().map(neighbour).collect();
            let neighbours =
                parts.iter().map(|(index, leaf, path)| Neighbour { index: *index, leaf, path: path.clone() });
            Payload::Absence { entry: &entry, neighbours: neighbours.collect() }.encode()
        }
    }
}

pub(crate) fn proof(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let extra = (!rng.one_in(4)).then(|| sample_payload(rng));
        let (index, path) = (rng.number() >> 2, path(rng));
        render(extra.as_deref(), index, &path, &sample_note(rng)).into_bytes()
    })
}

pub(crate) fn run_proof(input: &[u8]) -> Reached {
    match counted(input.len(), || TlogProof::parse(input)) {
        Ok(proof) => {
            assert_eq!(proof.render().as_bytes(), input, "an accepted proof renders to other bytes");
            Reached::Body
        }
        Err(ProofError::Checkpoint { .. }) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

pub(crate) fn payload(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, sample_payload)
}

pub(crate) fn run_payload(input: &[u8]) -> Reached {
    match counted(input.len(), || Payload::decode(input)) {
        Ok(payload) => {
            assert_eq!(payload.encode(), input, "an accepted payload encodes to other bytes");
            Reached::Body
        }
        Err(_) if matches!(input, [0x82, 0, ..] | [0x85, 1, ..] | [0x83, 2, ..]) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

fn sample_leaf(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer(&mut bytes);
    out.array(12).text("atlas-slot/1").uint(rng.number()).text(&rng.text(8)).text(&rng.text(8)).uint(rng.number());
    out.uint(rng.number()).uint(rng.number() & 0xffff).int(rng.number() as i64);
    out.optional(rng.one_in(2).then(|| rng.number() as i64), |out, time| {
        out.int(time);
    });
    out.bytes(&rng.array::<32>()).uint(rng.below(4) as u64);
    match rng.below(4) {
        0 => out.undefined(),
        1 => out.float(0.5),
        2 => out.bytes(&rng.bytes(9)),
        _ => out.text(&rng.text(9)),
    };
    bytes
}

pub(crate) fn leaf(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, sample_leaf)
}

pub(crate) fn run_leaf(input: &[u8]) -> Reached {
    match counted(input.len(), || SlotLeaf::decode(input)) {
        Ok(leaf) => {
            assert!(leaf.twin.len() + leaf.property.len() + leaf.value.map_or(0, <[u8]>::len) < input.len());
            Reached::Body
        }
        Err(_) if input.starts_with(b"\x8c\x6catlas-slot/1") => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

// ---- Tiles --------------------------------------------------------------------------------------------------------------

/// A width, then an entry bundle.
pub(crate) fn entries(rng: &mut Rng) -> Vec<u8> {
    let width = 1 + rng.below(20) as u8;
    let bytes = mutated(rng, |rng| {
        let mut bytes = Vec::new();
        for _ in 0..width {
            assert!(put_entry(&mut bytes, &rng.bytes(20)));
        }
        bytes
    });
    [&[width], bytes.as_slice()].concat()
}

pub(crate) fn run_entries(input: &[u8]) -> Reached {
    let Some((width, bytes)) = input.split_first() else { return Reached::Nothing };
    // An entry of two bytes makes a place of three words.
    match counted(16 * bytes.len(), || parse_entries(bytes, u16::from(*width))) {
        Ok(entries) => {
            let mut again = Vec::new();
            assert!(entries.iter().all(|(_, entry)| put_entry(&mut again, entry)));
            assert_eq!(again, bytes, "an accepted entry bundle encodes to other bytes");
            Reached::Body
        }
        Err(_) if bytes.len() > 2 => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

pub(crate) fn tile(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let kind = match rng.below(4) {
            0 => atlas_dataplane::history::tiles::TileKind::Entries,
            level => atlas_dataplane::history::tiles::TileKind::Hashes(level as u8),
        };
        Tile { kind, index: rng.number(), width: 1 + rng.below(256) as u16 }.path().into_bytes()
    })
}

pub(crate) fn run_tile(input: &[u8]) -> Reached {
    let Ok(text) = str::from_utf8(input) else { return Reached::Nothing };
    match counted(input.len(), || Tile::parse(text)) {
        Some(tile) => {
            assert_eq!(tile.path(), text, "an accepted path is written otherwise");
            Reached::Body
        }
        None if text.starts_with("tile/") => Reached::Header,
        None => Reached::Nothing,
    }
}
