//! Decoders of what is not a message: entries and log records from disk, the cluster file, and the handshake of a link.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use atlas_dataplane::cluster::error::Problem;
use atlas_dataplane::cluster::{Cluster, ConfigError};
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::{Handshake, LinkIdentity};
use atlas_dataplane::flight::file::{self, Recording, RecordingError, Why};
use atlas_dataplane::flight::{self, Kind};
use atlas_dataplane::history::entry::{
    EntryView, Member, StateView, put_bundle_start, put_config, put_key, put_outcome, put_skipped, put_state,
};
use atlas_dataplane::log::{Record as _, carried_by};
use atlas_dataplane::ordering::record::Record;
use atlas_dataplane::state::Change;
use atlas_dataplane::types::{Code, Digest, PublicKey};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::harness::{Reached, counted, mutated};
use crate::samples::{self, Rng};

// ---- Entries ------------------------------------------------------------------------------------------------------------

pub(crate) fn entry(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, sample_entry)
}

fn sample_entry(rng: &mut Rng) -> Vec<u8> {
    let (sequence, time_ms) = (rng.number(), rng.number() as i64);
    let mut out = Vec::new();
    match rng.below(5) {
        4 => put_key(&mut out, sequence, time_ms, &samples::statement(rng)),
        0 => {
            let key = |rng: &mut Rng| PublicKey([rng.next() as u8; 32]);
            let member = |rng: &mut Rng, index| Member {
                index,
                name: "replica",
                link_key: key(rng),
                protocol_key: key(rng),
                log_key: key(rng),
                cosign_key: key(rng),
            };
            let members: Vec<_> = (0..rng.below(4) as u8).map(|index| member(rng, index)).collect();
            let settings = [0xa2, 0x61, b'a', 0x01, 0x62, b'a', b'a', 0x82, 0x01, 0x61, b'x'];
            put_config(&mut out, sequence, time_ms, 0, "policy", members.into_iter(), &[key(rng)], &settings);
        }
        1 => {
            let state = StateView {
                sequence,
                time_ms,
                slot_count: rng.number(),
                state_root: Digest([rng.next() as u8; 32]),
                previous: rng.one_in(2).then(|| rng.number()),
                absence_root: rng.one_in(2).then_some(Digest([7; 32])),
            };
            put_state(&mut out, &state);
        }
        _ => {
            let bundle = samples::bundle(rng);
            put_bundle_start(&mut out, sequence, time_ms, bundle.cose(), bundle.requests());
            for _ in bundle.requests() {
                if rng.one_in(4) {
                    put_skipped(&mut out);
                    continue;
                }
                let change = |rng: &mut Rng| Change {
                    path: rng.number(),
                    revision: rng.number(),
                    previous: rng.one_in(2).then(|| rng.number()),
                };
                let changes: Vec<_> = (0..rng.below(3)).map(|_| change(rng)).collect();
                put_outcome(&mut out, Code(rng.number() as u16), &changes);
            }
        }
    }
    out
}

/// What is accepted encodes to the same bytes, as far as it can be encoded from what is offered.
pub(crate) fn run_entry(input: &[u8]) -> Reached {
    let Ok(view) = counted(input.len(), || EntryView::decode(input)) else {
        return if matches!(input, [0x85 | 0x87..=0x89, 1, 0..=3, ..]) { Reached::Header } else { Reached::Nothing };
    };
    let mut again = Vec::new();
    match &view {
        EntryView::Config(config) => {
            assert!(config.setting("").is_none() || input.contains(&0x60));
            let end = config.setting("aa").map_or(0, <[u8]>::len);
            assert!(config.administrators().count() <= input.len() && end <= input.len());
            return Reached::Body;
        }
        EntryView::State(state) => put_state(&mut again, state),
        EntryView::Key(key) => put_key(&mut again, key.sequence, key.time_ms, key.cose),
        EntryView::Bundle(bundle) => {
            put_bundle_start(&mut again, bundle.sequence, bundle.time_ms, bundle.cose, bundle.requests());
            for outcome in bundle.outcomes() {
                match outcome {
                    Some(outcome) => {
                        put_outcome(&mut again, outcome.code, &outcome.changes().collect::<Vec<_>>());
                    }
                    None => put_skipped(&mut again),
                }
            }
        }
    }
    assert_eq!(again, input, "an accepted entry encodes to other bytes");
    Reached::Body
}

// ---- Log records --------------------------------------------------------------------------------------------------------

/// Kinds of record: PRE-PREPARED, PREPARED, DECIDED, LEARNED, CHOSEN, LEAVES, LEADS, CHECKPOINT, STABLE, ENTERS, BEGINS, ABSTAINS, VOTED.
const KINDS: [u8; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];

/// The kind and the payload of a record.
pub(crate) fn record(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, sample_record)
}

fn sample_record(rng: &mut Rng) -> Vec<u8> {
    let kind = KINDS[rng.below(KINDS.len())];
    record_of(rng, kind)
}

fn record_of(rng: &mut Rng, kind: u8) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&if kind > 5 { 0 } else { rng.number() }.to_le_bytes());
    if matches!(kind, 1 | 2 | 5 | 6 | 7 | 13) {
        out.extend_from_slice(&rng.number().to_le_bytes());
    }
    match kind {
        2 | 3 | 5 => out.extend_from_slice(&[rng.next() as u8; 32]),
        8 => out.extend_from_slice(&statement(rng)),
        9 => out.extend_from_slice(&certificate(rng)),
        10 => out.extend_from_slice(&new_view(rng)),
        13 => (0..2).for_each(|_| out.extend_from_slice(&rng.number().to_le_bytes())),
        _ => {}
    }
    if !matches!(kind, 1 | 4) {
        return out;
    }
    let bundles: Vec<_> = (0..rng.below(3)).map(|_| samples::bundle(rng)).collect();
    out.extend_from_slice(&rng.number().to_le_bytes());
    out.extend_from_slice(&(bundles.len() as u32).to_le_bytes());
    for bundle in bundles {
        let lengths = bundle.requests().map(|request| request.len() as u32);
        for number in [bundle.cose().len() as u32, bundle.requests().len() as u32].into_iter().chain(lengths) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(bundle.cose());
        bundle.requests().for_each(|request| out.extend_from_slice(request));
    }
    out
}

fn statement(rng: &mut Rng) -> Vec<u8> {
    (0..144).map(|_| rng.next() as u8).collect()
}

fn certificate(rng: &mut Rng) -> Vec<u8> {
    let count = rng.below(5);
    let mut out = statement(rng);
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.extend((0..65 * count).map(|_| rng.next() as u8));
    out
}

/// Signature, view, leader, VIEW-CHANGEs with theirs, start, choices.
fn new_view(rng: &mut Rng) -> Vec<u8> {
    let mut out = vec![7; 64];
    out.extend_from_slice(&[rng.next() as u8; 9]);
    let start = certificate(rng);
    let changes = 1 + rng.below(4);
    out.extend_from_slice(&(changes as u32).to_le_bytes());
    for _ in 0..changes {
        let mut change = [&[rng.next() as u8; 9][..], &start].concat();
        for _ in 0..2 {
            let entries = rng.below(4);
            change.extend_from_slice(&(entries as u32).to_le_bytes());
            change.extend((0..48 * entries).map(|_| rng.next() as u8));
        }
        out.extend_from_slice(&(change.len() as u32).to_le_bytes());
        out.extend_from_slice(&change);
        out.extend_from_slice(&[9; 64]);
    }
    out.extend_from_slice(&start[..8]);
    let choices = rng.below(5);
    out.extend_from_slice(&(choices as u32).to_le_bytes());
    out.extend((0..32 * choices).map(|_| rng.next() as u8));
    out
}

/// Bytes of the list of bundles, for which a record's count alone makes room.
const LIST: usize = 32 << 10;

pub(crate) fn run_record(input: &[u8]) -> Reached {
    let Some((kind, payload)) = input.split_first() else { return Reached::Nothing };
    let Some((sequence, _)) = payload.split_first_chunk().filter(|_| KINDS.contains(kind)) else {
        return Reached::Nothing;
    };
    match counted(payload.len() + LIST, || Record::decode(*kind, payload)) {
        Some(record) => {
            assert_eq!(record.sequence(), u64::from_le_bytes(*sequence));
            assert_eq!(record.kind(), *kind);
            Reached::Body
        }
        None => Reached::Header,
    }
}

// ---- The log's anchor ---------------------------------------------------------------------------------------------------

const GENESIS: Digest = Digest([9; 32]);

/// Bytes of an anchor before its records, and of its checksum.
const ANCHOR_HEADER: usize = 96;
const ANCHOR_SUM: usize = 16;

/// An anchor; half of the inputs are mutated below a right length and checksum.
pub(crate) fn anchor(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = mutated(rng, sample_anchor);
    if rng.one_in(2) && bytes.len() >= ANCHOR_HEADER + ANCHOR_SUM {
        seal_anchor(&mut bytes);
    }
    bytes
}

fn sample_anchor(rng: &mut Rng) -> Vec<u8> {
    let count = rng.below(5);
    let mut out = [&b"ATLASANC"[..], &1u32.to_le_bytes(), &[0; 4], &GENESIS.0].concat();
    out.extend((0..16).map(|_| rng.next() as u8));
    for number in [rng.number(), rng.number()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(rng.number() as u32).to_le_bytes());
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for _ in 0..count {
        let kind = 6 + rng.below(8) as u8;
        let record = record_of(rng, kind);
        let payload = &record[1..];
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out.extend_from_slice(&[0; ANCHOR_SUM]);
    seal_anchor(&mut out);
    out
}

fn seal_anchor(bytes: &mut [u8]) {
    let length = bytes.len() as u32;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let (body, sum) = bytes.split_at_mut(length as usize - ANCHOR_SUM);
    sum.copy_from_slice(&xxh3_128(body).to_le_bytes());
}

/// What is accepted has a right checksum and carries as many records as it says.
pub(crate) fn run_anchor(input: &[u8]) -> Reached {
    match counted(input.len() + 8 * LIST, || carried_by::<Record>(input, GENESIS)) {
        Ok(records) => {
            let (body, sum) = input.split_at(input.len() - ANCHOR_SUM);
            assert_eq!(xxh3_128(body).to_le_bytes(), sum, "an anchor is accepted with another checksum");
            assert_eq!((records.len() as u32).to_le_bytes(), body[84..88]);
            Reached::Body
        }
        Err(_) if input.starts_with(b"ATLASANC") => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

// ---- The cluster file ---------------------------------------------------------------------------------------------------

pub(crate) static CLUSTER: LazyLock<String> = LazyLock::new(|| {
    let key = |seed: u8| SecretKey::from_seed(&[seed; 32]).public();
    let mut text = "origin = \"atlas.example/x\"\ncreated = 2026-01-31T12:00:00Z\n[settings]\ncheckpoint_interval = 32\nwindow = 32\n".to_owned();
    for i in 0..4u8 {
        let [link, protocol, log, cosign] = [1, 2, 3, 4].map(|kind| key(4 * i + kind));
        text += &format!(
            "[[replicas]]\nname = \"r{i}\"\naddress = \"h:{}\"\nlink_key = \"{link}\"\nprotocol_key = \"{protocol}\"\n\
             log_key = \"{log}\"\ncosign_key = \"{cosign}\"\n",
            7450 + u16::from(i),
        );
    }
    text + &format!(
        "[[roles]]\nname = \"a\"\nwrite = [\"plant/*:power\"]\n[[clients]]\nname = \"c\"\nkey = \"{}\"\nrole = \"a\"\n",
        key(99)
    )
});

pub(crate) fn cluster(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |_| CLUSTER.clone().into_bytes())
}

/// The memory is that of the TOML parser, which keeps a tree; the file's length bounds it before anything is parsed.
pub(crate) fn run_cluster(input: &[u8]) -> Reached {
    match Cluster::parse(input, Path::new("cluster.toml")) {
        Ok(cluster) => {
            let mut entry = Vec::new();
            cluster.put_config_entry(&mut entry);
            assert!(matches!(EntryView::decode(&entry), Ok(EntryView::Config(_))), "no CONFIG entry");
            Reached::Body
        }
        Err(ConfigError::At { line, problem, .. }) => {
            assert!(line <= input.split(|byte| *byte == b'\n').count(), "line {line}");
            if matches!(problem, Problem::NotText | Problem::Toml(_)) { Reached::Nothing } else { Reached::Header }
        }
        Err(other) => panic!("{other}"),
    }
}

// ---- Recordings of the flight recorder ------------------------------------------------------------------------------------

static RECORDING: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    flight::begin(1);
    // The ring is that of the thread that gets here first, and goes on being its.
    flight::attach("fuzz", 16);
    Kind::ALL.iter().for_each(|kind| flight::note(*kind, [1, 2, 3]));
    let path = file::dump(dir.path(), Why::Panic, "a reason").expect("a recording");
    std::fs::read(path).expect("what was written")
});

/// Half of them with checksums that hold.
pub(crate) fn recording(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = mutated(rng, |_| RECORDING.clone());
    if bytes.len() >= 128 && rng.one_in(2) {
        let length = (bytes.len() as u64).to_le_bytes();
        bytes[16..24].copy_from_slice(&length);
        let head = xxh3_64(&bytes[..64]).to_le_bytes();
        bytes[120..128].copy_from_slice(&head);
        let rest = xxh3_64(&bytes[128..]).to_le_bytes();
        bytes[80..88].copy_from_slice(&rest);
    }
    bytes
}

pub(crate) fn run_recording(input: &[u8]) -> Reached {
    match Recording::parse(input, Path::new("recording")) {
        Ok(recording) => {
            for event in recording.tracks.iter().flat_map(|track| &track.events) {
                assert!(!event.text().is_empty());
            }
            Reached::Body
        }
        Err(RecordingError::Damaged { what, .. }) => {
            let is_header = what.starts_with("its header") || what.starts_with("it has");
            if is_header { Reached::Nothing } else { Reached::Header }
        }
        Err(_) => Reached::Nothing,
    }
}

// ---- Handshakes ---------------------------------------------------------------------------------------------------------

static PROCESSES: LazyLock<[Arc<LinkIdentity>; 2]> = LazyLock::new(|| {
    [1, 2].map(|seed| {
        Arc::new(LinkIdentity::new(SecretKey::from_seed(&[seed; 32]), Digest([3; 32])).expect("random bytes"))
    })
});

/// Which message is mutated, and the seed of the mutation: a handshake draws keys, so its messages cannot be inputs.
pub(crate) fn handshake(rng: &mut Rng) -> Vec<u8> {
    [&[rng.below(4) as u8][..], &rng.next().to_be_bytes()].concat()
}

pub(crate) fn run_handshake(input: &[u8]) -> Reached {
    let [caller, called] = &*PROCESSES;
    let mut sides = [
        Handshake::initiator(Arc::clone(caller), called.public()).expect("random bytes"),
        Handshake::responder(Arc::clone(called)).expect("random bytes"),
    ];
    let (hurt, seed) = (usize::from(input[0]), u64::from_be_bytes(input[1..9].try_into().expect("8 bytes")));
    for number in 0..3 {
        let [writer, reader] = if number == 1 { [1, 0] } else { [0, 1] };
        let mut message = Vec::new();
        sides[writer].write_message(&mut message).expect("its turn");
        let sent = message.clone();
        if number == hurt {
            message = mutated(&mut Rng(seed), |_| sent.clone());
        }
        let want = sides[reader].next_message_len();
        if counted(message.len(), || sides[reader].read_message(&message)).is_err() {
            assert_ne!(message, sent, "message {number} is refused as it was sent");
            return if message.len() == want { Reached::Header } else { Reached::Nothing };
        }
        // Another X25519 key in the first message is a key; it is found to be the wrong one in the next.
        assert!(message == sent || number == 0, "message {number} is accepted with other bytes");
        if message != sent {
            let mut next = Vec::new();
            sides[reader].write_message(&mut next).expect("its turn");
            assert!(sides[writer].read_message(&next).is_err(), "a changed first message is not found");
            return Reached::Header;
        }
    }
    Reached::Body
}
