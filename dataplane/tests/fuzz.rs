//! Fuzzing of every decoder on stable Rust: mutated valid encodings, in a loop, for a given time.
//!
//! `fuzz/harness.rs` says how it is run and when it fails. The twin store's decoders have targets of their own in the root crate.
//!
//! A new decoder is a new row in [`targets`].

#[path = "fuzz/disk.rs"]
mod disk;
#[path = "fuzz/evidence.rs"]
mod evidence;
#[path = "fuzz/harness.rs"]
mod harness;
#[path = "fuzz/images.rs"]
mod images;
mod samples;

use std::fmt::Debug;

use atlas_dataplane::cbor::Writer;
use atlas_dataplane::crypto::hash::merkle_root;
use atlas_dataplane::execution::identities::page::Page;
use atlas_dataplane::wire::bundle::{Bundle, Request};
use atlas_dataplane::wire::error::{BundleError, Malformed};
use atlas_dataplane::wire::frame::{FrameReader, Header, Kind, Sender};
use atlas_dataplane::wire::limits::{HEADER_BYTES, TAG_BYTES};
use atlas_dataplane::wire::message::{
    Answer, Batch, Checkpoint, Decided, FetchBatch, FetchPieces, NewView, Offer, Piece, Pieces, PrePrepare, Query,
    Refused, Relay, Replies, Stable, Status, StatusAnswer, StatusQuery, Submit, ViewChange, Votes, access,
};
use atlas_dataplane::wire::statement::SignedStatement;
use harness::{Reached, Target, counted, mutated};
use samples::{ORIGIN, Rng};

/// Every decoder that outsiders' bytes reach.
fn targets() -> Vec<Target> {
    macro_rules! messages {
        ($($message:ident)+) => {
            vec![$(message(Kind::$message, |body| accepts(body, access::<$message>))),+]
        };
    }
    let mut targets = messages!(Offer FetchPieces Pieces Piece PrePrepare Decided Status FetchBatch Batch ViewChange NewView Checkpoint Stable Relay Submit Replies Refused Query Answer StatusQuery StatusAnswer);
    targets.push(message(Kind::Prepare, |body| accepts(body, Votes::access)));
    targets.push(message(Kind::Commit, |body| accepts(body, Votes::access)));
    targets.push(Target::new("frames", stream, run_stream));
    targets.push(Target::new("request", |rng| mutated(rng, |rng| samples::request(rng, false)), run_request));
    targets.push(Target::new("bundle", bundle, run_bundle));
    targets.push(Target::new("statement", |rng| mutated(rng, samples::statement), run_statement));
    targets.push(Target::new("identities", identities, run_identities));
    targets.push(Target::new("entry", disk::entry, disk::run_entry));
    targets.push(Target::new("record", disk::record, disk::run_record));
    targets.push(Target::new("image", images::image, images::run_image));
    targets.push(Target::new("anchor", disk::anchor, disk::run_anchor));
    targets.push(Target::new("cluster file", disk::cluster, disk::run_cluster));
    targets.push(Target::new("recording", disk::recording, disk::run_recording));
    targets.push(Target::new("checkpoint", evidence::note, evidence::run_note));
    targets.push(Target::new("policy", evidence::policy, evidence::run_policy));
    targets.push(Target::new("proof", evidence::proof, evidence::run_proof));
    targets.push(Target::new("proof's extra", evidence::payload, evidence::run_payload));
    targets.push(Target::new("slot leaf", evidence::leaf, evidence::run_leaf));
    targets.push(Target::new("entry bundle", evidence::entries, evidence::run_entries));
    targets.push(Target::new("tile path", evidence::tile, evidence::run_tile));
    targets.push(Target::new("handshake", disk::handshake, disk::run_handshake));
    targets
}

#[test]
fn mutated_encodings_harm_no_decoder() {
    harness::run(targets());
}

// ---- Messages -----------------------------------------------------------------------------------------------------------

/// A frame with this kind of body: half of the inputs have the body mutated below a right header.
fn message(kind: Kind, accepts: fn(&[u8]) -> bool) -> Target {
    let frame = move |rng: &mut Rng, body: &[u8]| {
        let header = samples::header(rng, kind, body.len() + TAG_BYTES);
        [&header.encode()[..], body, &[0; TAG_BYTES]].concat()
    };
    let input = move |rng: &mut Rng| {
        if rng.one_in(2) {
            let body = mutated(rng, |rng| samples::body(rng, kind));
            frame(rng, &body)
        } else {
            mutated(rng, |rng| {
                let body = samples::body(rng, kind);
                frame(rng, &body)
            })
        }
    };
    let run = move |input: &[u8]| {
        let (frames, _) = read_frames(input, sender_of(kind));
        let Some((_, body)) = frames.iter().find(|(header, _)| header.kind == kind) else { return Reached::Nothing };
        // What sealing would have taken off.
        if accepts(&body[..body.len() - TAG_BYTES]) { Reached::Body } else { Reached::Header }
    };
    Target { name: format!("{kind:?}"), input: Box::new(input), run: Box::new(run) }
}

/// Whether a body is accepted; then it must say the same at another address, and refuse one more byte on either side.
fn accepts<A: Debug + ?Sized>(body: &[u8], access: for<'a> fn(&'a [u8]) -> Result<&'a A, Malformed>) -> bool {
    let Ok(archived) = counted(body.len(), || access(body)) else { return false };
    let padded = [&[0], body, &[0]].concat();
    let again = access(&padded[1..=body.len()]).expect("accepted at one address, refused at another");
    assert_eq!(format!("{archived:?}"), format!("{again:?}"));
    assert!(access(&padded[1..]).is_err() && access(&padded[..=body.len()]).is_err(), "accepted with a byte too many");
    true
}

// ---- Frames -------------------------------------------------------------------------------------------------------------

fn sender_of(kind: Kind) -> Sender {
    match kind {
        Kind::Handshake => Sender::Unknown,
        Kind::Submit | Kind::Query | Kind::StatusQuery => Sender::Client,
        Kind::Replies | Kind::Refused | Kind::Answer | Kind::StatusAnswer => Sender::Server,
        _ => Sender::Replica,
    }
}

/// A few frames between replicas, mutated as one piece.
fn stream(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let mut bytes = Vec::new();
        for _ in 0..=rng.below(4) {
            let body = rng.bytes(100);
            bytes.extend_from_slice(&samples::header(rng, Kind::Status, body.len() + TAG_BYTES).encode());
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(&[0; TAG_BYTES]);
        }
        bytes
    })
}

fn run_stream(input: &[u8]) -> Reached {
    let (frames, result) = read_frames(input, Sender::Replica);
    let bytes: Vec<u8> = frames.iter().flat_map(|(header, body)| [&header.encode()[..], body].concat()).collect();
    assert!(input.starts_with(&bytes), "frames handed out are not what was sent");
    match frames.len() {
        0 => Reached::Nothing,
        _ if result.is_ok() && bytes.len() == input.len() => Reached::Body,
        _ => Reached::Header,
    }
}

type Frames = Vec<(Header, Vec<u8>)>;

/// The frames of a stream, which must be the same whole and cut in three.
fn read_frames(input: &[u8], sender: Sender) -> (Frames, Result<(), Malformed>) {
    let whole = read_cut(input, [0, 0], sender);
    let sum = input.iter().map(|byte| usize::from(*byte)).sum::<usize>();
    let (a, b) = (sum % (input.len() + 1), (sum / 7) % (input.len() + 1));
    assert_eq!(read_cut(input, [a.min(b), a.max(b)], sender), whole, "cut at {a} and {b}");
    whole
}

fn read_cut(input: &[u8], [a, b]: [usize; 2], sender: Sender) -> (Frames, Result<(), Malformed>) {
    let mut bytes = input.to_vec();
    // Ranges into what was sent, with room for all: the handler's memory is not the decoder's.
    let mut copied = Vec::with_capacity(input.len());
    let mut headers = Vec::with_capacity(input.len() / HEADER_BYTES + 1);
    let mut state = (&mut copied, &mut headers);
    let result = counted(input.len(), || {
        let mut reader = FrameReader::default();
        let (first, rest) = bytes.split_at_mut(a);
        let (second, third) = rest.split_at_mut(b - a);
        [first, second, third].into_iter().try_for_each(|chunk| {
            reader.push(
                chunk,
                &mut state,
                |_| sender,
                |(copied, headers), header, raw, body| {
                    assert_eq!(header.encode(), raw, "an accepted header encodes to other bytes");
                    copied.extend_from_slice(body);
                    headers.push(header);
                    Ok::<(), Malformed>(())
                },
            )
        })
    });
    let mut rest = copied.as_slice();
    let mut frames = Vec::new();
    for header in headers {
        let (body, after) = rest.split_at(header.length as usize);
        frames.push((header, body.to_vec()));
        rest = after;
    }
    (frames, result)
}

// ---- Bundles ------------------------------------------------------------------------------------------------------------

fn run_request(input: &[u8]) -> Reached {
    match counted(input.len(), || Request::decode(input)) {
        Some(request) => {
            assert_eq!(request.encode(), input, "an accepted request encodes to other bytes");
            Reached::Body
        }
        // Array head, a class of one byte and no deadline: the operation is at fault.
        None if matches!(input, [0x83, 0..24, 0xf6, ..]) => Reached::Header,
        None => Reached::Nothing,
    }
}

/// A bundle in a form of this harness: count, two bytes of length per request, requests, COSE_Sign1. Every other one has the
/// requests mutated below a right root, so that they are reached at all.
fn bundle(rng: &mut Rng) -> Vec<u8> {
    let (session, mut requests) = samples::requests(rng);
    if rng.one_in(2) {
        let hurt = rng.below(requests.len());
        requests[hurt] = mutated(rng, |_| requests[hurt].clone());
    }
    let cose = cose(rng, session, &requests);
    let cose = if rng.one_in(2) { mutated(rng, |_| cose.clone()) } else { cose };
    if rng.one_in(8) {
        let at = rng.below(requests.len());
        requests[at] = mutated(rng, |rng| samples::request(rng, false));
    }
    let mut out = vec![requests.len() as u8];
    requests.iter().for_each(|request| out.extend_from_slice(&(request.len() as u16).to_be_bytes()));
    requests.iter().for_each(|request| out.extend_from_slice(request));
    out.extend_from_slice(&cose);
    out
}

fn cose(rng: &mut Rng, session: Option<u64>, requests: &[Vec<u8>]) -> Vec<u8> {
    let root = merkle_root(requests.iter().map(Vec::as_slice));
    let mut payload = minicbor::Encoder::new(Vec::new());
    payload.array(7).unwrap().str("atlas-bundle/1").unwrap().str(ORIGIN).unwrap();
    let first = match session {
        Some(session) => payload.u64(session).map(|_| rng.number()).unwrap(),
        None => payload.null().map(|_| 0).unwrap(),
    };
    payload.u64(first).unwrap().u64(requests.len() as u64).unwrap().bytes(&root.0).unwrap();
    payload.i64(rng.number() as i64).unwrap();
    let key = [&[0xa2, 0x01, 0x27, 0x04, 0x58, 0x20], &[7; 32][..]].concat();
    let payload = payload.into_writer();
    [&[0xd2, 0x84, 0x58, 38], &key[..], &[0xa0, 0x58, payload.len() as u8], &payload, &[0x58, 64], &[9; 64]].concat()
}

fn run_bundle(input: &[u8]) -> Reached {
    let count = usize::from(input[0]);
    let (lengths, mut rest) = input[1..].split_at(2 * count);
    let mut requests = Vec::new();
    for length in lengths.chunks_exact(2) {
        let (request, after) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
        requests.push(request);
        rest = after;
    }
    match counted(input.len(), || Bundle::parse(rest, requests.iter().copied(), ORIGIN)) {
        Ok(bundle) => {
            assert_eq!(bundle.cose(), rest, "an accepted bundle has other bytes");
            assert!(bundle.requests().eq(requests.iter().copied()), "an accepted bundle has other requests");
            assert_eq!(bundle.decoded_requests().count(), count);
            assert!(bundle.fits_entry(0));
            let header = bundle.header();
            let again = Bundle::sign(
                ORIGIN,
                *bundle.key(),
                header.session,
                header.first,
                &requests.iter().map(|request| request.to_vec()).collect::<Vec<_>>(),
                header.client_time_ms,
                |_| *bundle.signature(),
            );
            assert_eq!(again.as_ref(), Ok(&bundle), "an accepted bundle encodes to other bytes");
            Reached::Body
        }
        Err(BundleError::Cose | BundleError::Payload) => Reached::Nothing,
        Err(_) => Reached::Header,
    }
}

// ---- Identities ---------------------------------------------------------------------------------------------------------

/// What is accepted encodes to the same bytes: nothing else says the same.
fn run_statement(input: &[u8]) -> Reached {
    let Ok(signed) = counted(input.len(), || SignedStatement::parse(input, ORIGIN)) else {
        return if input.starts_with(&[0xd2, 0x84]) { Reached::Header } else { Reached::Nothing };
    };
    let signature = input.last_chunk().copied().expect("a statement ends with its signature");
    let again = signed.statement.sign(ORIGIN, signed.signer, |_| atlas_dataplane::types::Signature(signature));
    assert_eq!(again, input, "an accepted statement encodes to other bytes");
    Reached::Body
}

/// A page of identities as a lying replica may send it.
fn identities(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let mut bytes = Vec::new();
        let count = rng.below(4);
        Writer(&mut bytes).array(3).uint(rng.number()).uint(rng.number()).array(count);
        for _ in 0..count {
            let name = rng.text(20);
            let mut out = Writer(&mut bytes);
            out.array(7).bytes(&rng.array::<32>()).text(&name).optional(
                rng.one_in(2).then_some("role"),
                |out, role| {
                    out.text(role);
                },
            );
            out.null().int(rng.number() as i64).uint(rng.number());
            match rng.one_in(2) {
                true => out.null(),
                false => out.array(3).int(rng.number() as i64).uint(rng.number()).bytes(&rng.array::<32>()),
            };
        }
        bytes
    })
}

fn run_identities(input: &[u8]) -> Reached {
    match Page::decode(input) {
        Ok(page) => {
            assert!(page.items.len() <= input.len());
            Reached::Body
        }
        Err(_) if input.first() == Some(&0x83) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}
