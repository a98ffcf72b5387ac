//! Decoders of evidence files: checkpoints, policies, proofs and what is in them, entry bundles of an export.

use atlas_dataplane::history::note::{Note, NoteError};
use atlas_dataplane::history::slot_leaf::SlotLeaf;
use atlas_dataplane::history::tiles::{Tile, TileKind, parse_entries, put_entry};
use atlas_dataplane::history::tlog_policy::{Policy, PolicyError};
use atlas_dataplane::history::tlog_proof::{Payload, ProofError, TlogProof};

use crate::harness::{Reached, counted, mutated};
use crate::samples::{Rng, evidence as samples};

// ---- Checkpoints and policies -------------------------------------------------------------------------------------------

pub(crate) fn note(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| samples::note(rng).into_bytes())
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
    mutated(rng, samples::policy)
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

pub(crate) fn proof(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, samples::proof)
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
    mutated(rng, samples::payload)
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

pub(crate) fn leaf(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, samples::leaf)
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
    let bytes = mutated(rng, |rng| samples::entries(rng, width));
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
            0 => TileKind::Entries,
            level => TileKind::Hashes(level as u8),
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
