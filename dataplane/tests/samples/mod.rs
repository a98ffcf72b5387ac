//! Seeded samples of everything that travels, shared by the conformance test and the fuzz harness.

pub(crate) mod evidence;
mod random;

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::{PublicKey, Signature};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION, Request};
use atlas_dataplane::wire::frame::{Header, Kind};
use atlas_dataplane::wire::message::{
    Answer, Batch, Checkpoint, Cosignature, Counter, Decided, Evidence, FetchBatch, FetchPieces, Heard, NewView, Offer,
    OpenSlot, Piece, PieceHash, Pieces, PrePrepare, Proof, Prove, Query, Refused, Relay, Replies, Reply, Sealed,
    Stable, Status, StatusAnswer, StatusQuery, Submit, ViewChange, Vote, Votes, WireBundle, encode,
};
use atlas_dataplane::wire::statement::{KeyChange, KeyStatement, Validity};
pub(crate) use random::Rng;

/// The cluster that sampled bundles are signed for.
pub(crate) const ORIGIN: &str = "atlas.example/samples";

/// A header for a body of `length` bytes, tag included.
pub(crate) fn header(rng: &mut Rng, kind: Kind, length: usize) -> Header {
    Header { kind, length: length as u32, epoch: rng.number() as u32, cluster: rng.array(), sequence: rng.number() }
}

fn vote(rng: &mut Rng) -> Vote {
    Vote { sequence: rng.number(), digest: rng.array() }
}

fn reply(rng: &mut Rng) -> Reply {
    Reply {
        session: rng.number(),
        number: rng.number(),
        sequence: rng.number(),
        entry: rng.number(),
        request: rng.number() as u16,
        time_ms: rng.number() as i64,
        code: rng.number() as u16,
        changes: rng.bytes(40).into(),
        detail: rng.text(20),
    }
}

fn open_slot(rng: &mut Rng) -> OpenSlot {
    OpenSlot {
        sequence: rng.number(),
        proposed: rng.one_in(2),
        prepares: rng.number() as u32,
        commits: rng.number() as u32,
    }
}

fn status_answer(rng: &mut Rng) -> StatusAnswer {
    StatusAnswer {
        id: rng.number(),
        replica: rng.number() as u8,
        view: rng.number(),
        leader: rng.number() as u8,
        sequence: rng.number(),
        size: rng.number(),
        history_root: rng.array(),
        state_root: rng.array(),
        state_digest: rng.array(),
        log_bytes: rng.number(),
        resident_bytes: rng.number(),
        anonymous_bytes: rng.number(),
        links: rng.number() as u32,
        abstains: rng.one_in(2),
        needs: rng.number(),
        pid: rng.number() as u32,
        free_bytes: rng.number(),
        low_space: rng.one_in(2),
        version: rng.text(14),
        counters: rng.list(6, |rng| Counter { name: rng.text(20), value: rng.number() }),
        evidence: rng.list(3, evidence),
    }
}

fn evidence(rng: &mut Rng) -> Evidence {
    Evidence {
        replica: rng.number() as u8,
        kind: rng.text(16),
        at_ms: rng.number() as i64,
        view: rng.number(),
        sequence: rng.number(),
        digests: rng.list(2, |rng| rng.array()),
        statement: rng.text(30),
        messages: rng.list(2, |rng| Sealed {
            kind: rng.number() as u8,
            replica: rng.number() as u8,
            body: rng.list(40, |rng| rng.number() as u8),
            signature: rng.array(),
        }),
    }
}

/// An operation: one deterministic CBOR item, not the one that opens a session.
fn operation(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Vec::new());
    let kind = rng.below(if depth == 0 { 6 } else { 7 });
    // Writing to a Vec cannot fail.
    let _ = match kind {
        0 => encoder.u64(rng.number()),
        1 => encoder.i64(rng.next() as i64 >> rng.below(64)),
        2 => encoder.bytes(&rng.bytes(40)),
        3 => encoder.str(&rng.text(30)),
        4 => encoder.bool(rng.one_in(2)),
        5 => encoder.f64(f64::from_bits(0x3ff1_2345_6789_abcd ^ (rng.next() >> 12))),
        _ => {
            let items = rng.list(5, |rng| operation(rng, depth - 1));
            let _ = encoder.array(items.len() as u64);
            items.iter().for_each(|item| encoder.writer_mut().extend_from_slice(item));
            Ok(&mut encoder)
        }
    };
    let bytes = encoder.into_writer();
    if bytes == OPEN_SESSION { vec![0x80] } else { bytes }
}

/// An encoded request.
pub(crate) fn request(rng: &mut Rng, opens: bool) -> Vec<u8> {
    let operation = if opens { OPEN_SESSION.to_vec() } else { operation(rng, 4) };
    let not_after_ms = rng.one_in(2).then(|| rng.number() as i64);
    Request { class: rng.number() as u8, not_after_ms, operation: &operation }.encode()
}

/// The requests of a bundle and the session that they are for; they open one where there is none.
pub(crate) fn requests(rng: &mut Rng) -> (Option<u64>, Vec<Vec<u8>>) {
    let session = (!rng.one_in(4)).then(|| rng.number());
    let mut requests = vec![request(rng, session.is_none())];
    requests.extend(rng.list(6, |rng| request(rng, false)));
    (session, requests)
}

/// A valid bundle; its signature is random, which only the verify stage would see.
pub(crate) fn bundle(rng: &mut Rng) -> Bundle {
    let (session, requests) = requests(rng);
    let first = session.map_or(0, |_| rng.number() >> 1);
    let (key, signature) = (PublicKey(rng.array()), Signature(rng.array()));
    Bundle::sign(ORIGIN, key, session, first, &requests, rng.number() as i64, |_| signature)
        .expect("a sampled bundle is valid")
}

/// A key statement's COSE_Sign1; its signature is random.
pub(crate) fn statement(rng: &mut Rng) -> Vec<u8> {
    let from_ms = rng.one_in(2).then(|| rng.number() as u32 as i64);
    let until_ms = rng.one_in(2).then(|| (1 << 33) + (rng.number() as u32 as i64));
    let validity = Validity { from_ms, until_ms };
    let change = match rng.below(3) {
        0 => {
            let role = rng.one_in(2).then(|| format!("role-{}", rng.number()));
            KeyChange::Register { name: format!("Née {}", rng.number()), role, validity }
        }
        1 => KeyChange::Rotate { replaces: PublicKey(rng.array()), validity },
        _ => KeyChange::Revoke,
    };
    let reason = rng.one_in(2).then(|| rng.text(30));
    let key = SecretKey::from_seed(&rng.array()).public();
    let statement = KeyStatement { number: rng.number(), key, change, reason };
    statement.sign(ORIGIN, PublicKey(rng.array()), |_| Signature(rng.array()))
}

pub(crate) fn wire_bundle(rng: &mut Rng) -> WireBundle {
    let bundle = bundle(rng);
    WireBundle { cose: bundle.cose().to_vec(), requests: bundle.requests().map(<[u8]>::to_vec).collect() }
}

/// The body of a frame of this kind, in the clear.
pub(crate) fn body(rng: &mut Rng, kind: Kind) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        Kind::Handshake => out = rng.bytes(300),
        Kind::PrePrepare => encode(
            &PrePrepare {
                view: rng.number(),
                sequence: rng.number(),
                time_ms: rng.number() as i64,
                digest: rng.array(),
                bundles: rng.list(8, Rng::array),
            },
            &mut out,
        ),
        Kind::Prepare | Kind::Commit => Votes { view: rng.number(), votes: rng.list(8, vote) }.encode(&mut out),
        Kind::Decided => encode(&Decided { decided: rng.list(8, vote) }, &mut out),
        Kind::Status => encode(
            &Status {
                view: rng.number(),
                low: rng.number(),
                executed: rng.number(),
                active: rng.one_in(2),
                ask: rng.one_in(2),
                abstains: rng.one_in(2),
                needs: rng.number(),
                heard: rng.list(4, |rng| Heard { view: rng.number(), sequence: rng.number() }),
                open: rng.list(6, open_slot),
            },
            &mut out,
        ),
        Kind::FetchBatch => encode(&FetchBatch { sequence: rng.number(), digest: rng.array() }, &mut out),
        Kind::Batch => encode(
            &Batch {
                sequence: rng.number(),
                digest: rng.array(),
                time_ms: rng.number() as i64,
                bundles: rng.list(3, wire_bundle),
            },
            &mut out,
        ),
        Kind::ViewChange => encode(&ViewChange { body: rng.bytes(300), signature: rng.array() }, &mut out),
        Kind::NewView => encode(&NewView { body: rng.bytes(900), signature: rng.array() }, &mut out),
        Kind::Checkpoint => encode(&Checkpoint { body: rng.bytes(144), signature: rng.array() }, &mut out),
        Kind::Stable => encode(&Stable { certificate: rng.bytes(400) }, &mut out),
        Kind::Relay => encode(&Relay { bundle: wire_bundle(rng) }, &mut out),
        Kind::Offer => {
            encode(&Offer { certificate: rng.bytes(400), bytes: rng.number(), digest: rng.array() }, &mut out);
        }
        Kind::FetchPieces => encode(
            &FetchPieces {
                sequence: rng.number(),
                of_state: rng.one_in(2),
                hashes: rng.one_in(2),
                first: rng.number(),
            },
            &mut out,
        ),
        Kind::Pieces => encode(
            &Pieces {
                sequence: rng.number(),
                of_state: rng.one_in(2),
                first: rng.number(),
                hashes: rng.list(8, |rng| PieceHash { entries: rng.number(), hash: rng.array() }),
            },
            &mut out,
        ),
        Kind::Piece => encode(
            &Piece { sequence: rng.number(), of_state: rng.one_in(2), first: rng.number(), bytes: rng.bytes(500) },
            &mut out,
        ),
        Kind::Prove => encode(
            &Prove {
                id: rng.number(),
                wait_ms: rng.number() as u32,
                what: rng.number() as u8,
                first: rng.number(),
                count: rng.number(),
                name: rng.bytes(40),
            },
            &mut out,
        ),
        Kind::Proof => encode(
            &Proof { id: rng.number(), code: rng.number() as u16, size: rng.number(), body: rng.bytes(200) },
            &mut out,
        ),
        Kind::Cosignature => encode(
            &Cosignature {
                size: rng.number(),
                root: rng.array(),
                time_s: rng.number(),
                signature: rng.array(),
                again: rng.one_in(2),
                wanted: rng.one_in(3),
            },
            &mut out,
        ),
        Kind::Submit => encode(&Submit { bundle: wire_bundle(rng) }, &mut out),
        Kind::Replies => encode(&Replies { bundle: rng.array(), replies: rng.list(5, reply) }, &mut out),
        Kind::Refused => encode(
            &Refused {
                bundle: rng.array(),
                first: rng.number(),
                count: rng.number() as u32,
                code: rng.number() as u16,
                retry_after_ms: rng.number() as u32,
            },
            &mut out,
        ),
        Kind::Query => encode(
            &Query { id: rng.number(), min_size: rng.number(), wait_ms: rng.number() as u32, query: rng.bytes(60) },
            &mut out,
        ),
        Kind::Answer => encode(
            &Answer {
                id: rng.number(),
                code: rng.number() as u16,
                size: rng.number(),
                valid_from: rng.number(),
                body: rng.bytes(200),
            },
            &mut out,
        ),
        Kind::StatusQuery => encode(&StatusQuery { id: rng.number() }, &mut out),
        Kind::StatusAnswer => encode(&status_answer(rng), &mut out),
    }
    out
}
