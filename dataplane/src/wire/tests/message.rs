//! Messages: what is written is read back, every count is held to its limit, and a body has no byte too many or too few.

use std::fmt::Debug;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Portable, Serialize};

use crate::wire::error::Malformed;
use crate::wire::frame::Kind;
use crate::wire::limits::{
    MAX_BATCH_BUNDLES, MAX_BATCH_BYTES, MAX_BUNDLE_REQUESTS, MAX_CLIENT_BODY, MAX_COUNTERS, MAX_ENTRY, MAX_EVIDENCE,
    MAX_EVIDENCE_BYTES, MAX_EVIDENCE_PARTS, MAX_PEER_BODY, MAX_QUERY, MAX_REPLICAS, MAX_REPLIES, MAX_STATUS_SLOTS,
    MAX_VOTES, MIN_REQUEST,
};
use crate::wire::message::{
    self, Answer, Batch, Counter, Decided, Evidence, FetchBatch, Heard, Message, OpenSlot, PrePrepare, Query, Refused,
    Replies, Reply, Sealed, Status, StatusAnswer, StatusQuery, Submit, Vote, Votes, WireBundle, access, encode,
};

fn bytes<M>(message: &M) -> Vec<u8>
where
    M: Message
        + for<'a> Serialize<rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, Failure>>,
{
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

/// What `message` says, archived, in the words of its Debug; and that neither place nor neighbours in memory matter, and that
/// the body has exactly its bytes.
fn round_trip<M>(message: &M) -> String
where
    M: Message
        + for<'a> Serialize<rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, Failure>>,
    M::Archived:
        Portable + Debug + for<'a> CheckBytes<Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, Failure>>,
{
    let body = bytes(message);
    let text = format!("{:?}", access::<M>(&body).expect("own encoding"));
    for shift in 1..8 {
        let mut appended = vec![0xaa; shift];
        encode(message, &mut appended);
        assert_eq!(&appended[shift..], body, "bytes do not depend on where they are written");
        assert_eq!(format!("{:?}", access::<M>(&appended[shift..]).expect("unaligned")), text);
        assert!(access::<M>(&appended).is_err(), "{shift} bytes before the message");
        appended.extend_from_slice(&[0; 3]);
        assert!(access::<M>(&appended[shift..]).is_err(), "bytes after the message");
    }
    for length in 0..body.len().min(300) {
        assert!(access::<M>(&body[..length]).is_err(), "cut to {length}");
        assert!(access::<M>(&body[length + 1..]).is_err(), "{} bytes cut off", length + 1);
    }
    text
}

fn wire_bundle(requests: usize, length: usize) -> WireBundle {
    WireBundle { cose: vec![1; 10], requests: vec![vec![2; length]; requests] }
}

fn reply(detail: &str) -> Reply {
    Reply {
        session: 1,
        number: 2,
        sequence: 3,
        entry: 4,
        request: 5,
        time_ms: -6,
        code: 7,
        changes: message::Changes::from_slice(&[0x80]),
        detail: detail.to_owned(),
    }
}

fn evidence(digests: usize, messages: usize, body: usize) -> Evidence {
    let sealed = Sealed { kind: 25, replica: 3, body: vec![1; body], signature: [2; 64] };
    Evidence {
        replica: 3,
        kind: "two_checkpoints".to_owned(),
        at_ms: -4,
        view: u64::MAX,
        sequence: 64,
        digests: vec![[5; 32]; digests],
        statement: "short".to_owned(),
        messages: vec![sealed; messages],
    }
}

fn with_evidence(evidence: Vec<Evidence>) -> StatusAnswer {
    StatusAnswer { evidence, ..status_answer(1) }
}

fn status_answer(counters: usize) -> StatusAnswer {
    StatusAnswer {
        id: 1,
        replica: 2,
        view: 3,
        leader: 3,
        sequence: 4,
        size: 5,
        history_root: [6; 32],
        state_root: [7; 32],
        state_digest: [8; 32],
        log_bytes: 9,
        resident_bytes: 10,
        anonymous_bytes: 11,
        links: 0b1011,
        abstains: true,
        needs: 512,
        pid: 12,
        free_bytes: 13,
        low_space: true,
        version: "0.1.0-long-version".to_owned(),
        counters: (0..counters).map(|i| Counter { name: format!("dropped {i}"), value: i as u64 }).collect(),
        evidence: vec![evidence(2, 2, 7), evidence(0, 0, 0)],
    }
}

#[test]
fn every_message_is_read_as_it_was_written() {
    let proposal = PrePrepare { view: 1, sequence: 2, time_ms: -3, digest: [4; 32], bundles: vec![[5; 32], [6; 32]] };
    let body = bytes(&proposal);
    let archived = access::<PrePrepare>(&body).unwrap();
    assert_eq!((archived.view.to_native(), archived.sequence.to_native(), archived.time_ms.to_native()), (1, 2, -3));
    assert_eq!((archived.digest, archived.bundles.as_slice()), ([4; 32], &[[5; 32], [6; 32]][..]));
    round_trip(&proposal);

    let text = round_trip(&Decided { decided: vec![Vote { sequence: 77, digest: [8; 32] }] });
    assert!(text.contains("77"), "{text}");
    let open = vec![OpenSlot { sequence: 9, proposed: true, prepares: 0b101, commits: 1 << 31 }];
    let text = round_trip(&Status { view: 1, low: 2, executed: 3, active: true, ask: true, open, ..Status::default() });
    assert!(text.contains("true") && text.contains(&(1u32 << 31).to_string()), "{text}");
    round_trip(&FetchBatch { sequence: 1, digest: [2; 32] });
    round_trip(&Batch {
        sequence: 1,
        digest: [2; 32],
        time_ms: 3,
        bundles: vec![wire_bundle(2, 7), wire_bundle(0, 0)],
    });
    round_trip(&Submit { bundle: wire_bundle(3, 5) });
    // rkyv keeps texts of up to 8 bytes in place: both sides of that border.
    for detail in ["", "8 bytes!", "9 bytes!!", "condition 2 does not hold"] {
        let text = round_trip(&Replies { bundle: [1; 32], replies: vec![reply(detail), reply("")] });
        assert!(text.contains(detail), "{text}");
    }
    round_trip(&Refused { bundle: [1; 32], first: 2, count: 3, code: 500, retry_after_ms: 5 });
    round_trip(&Query { id: 1, min_size: 2, wait_ms: 3, query: vec![1, 2, 3] });
    round_trip(&Answer { id: 1, code: 0, size: 3, valid_from: 2, body: vec![4; 100] });
    round_trip(&StatusQuery { id: u64::MAX });
    round_trip(&status_answer(3));
}

#[test]
fn votes_of_both_kinds_are_read_as_they_were_written() {
    let votes = Votes { view: 3, votes: (0..4).map(|i| Vote { sequence: i, digest: [i as u8; 32] }).collect() };
    let mut body = vec![0xaa];
    votes.encode(&mut body);
    let archived = Votes::access(&body[1..]).unwrap();
    assert_eq!(archived.view.to_native(), 3);
    for (archived, vote) in archived.votes.iter().zip(&votes.votes) {
        assert_eq!((archived.sequence.to_native(), archived.digest), (vote.sequence, vote.digest));
    }
    assert_eq!(Votes::access(&body).err(), Some(Malformed::Archive));
    assert_eq!(Votes::access(&body[2..]).err(), Some(Malformed::Archive));
}

#[test]
fn kinds_and_messages_agree() {
    let kinds = [
        PrePrepare::KIND,
        Decided::KIND,
        Status::KIND,
        FetchBatch::KIND,
        Batch::KIND,
        message::ViewChange::KIND,
        message::NewView::KIND,
        message::Checkpoint::KIND,
        message::Stable::KIND,
        message::Relay::KIND,
        message::Offer::KIND,
        message::FetchPieces::KIND,
        message::Pieces::KIND,
        message::Piece::KIND,
        Submit::KIND,
        Replies::KIND,
        Refused::KIND,
        Query::KIND,
        Answer::KIND,
        StatusQuery::KIND,
        StatusAnswer::KIND,
        message::Prove::KIND,
        message::Proof::KIND,
        message::Cosignature::KIND,
        Kind::Prepare,
        Kind::Commit,
        Kind::Handshake,
    ];
    for kind in Kind::ALL {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), 1, "{kind:?}");
    }
}

/// `at(limit)` is accepted and `at(limit + 1)` is refused with both counts.
fn bounded<M>(limit: usize, at: impl Fn(usize) -> M)
where
    M: Message
        + for<'a> Serialize<rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, Failure>>,
    M::Archived: Portable + for<'a> CheckBytes<Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, Failure>>,
{
    assert!(access::<M>(&bytes(&at(limit))).is_ok());
    match access::<M>(&bytes(&at(limit + 1))).err() {
        Some(Malformed::Count { count, limit: stated, .. }) => assert_eq!((count, stated), (limit + 1, limit)),
        other => panic!("{:?} {other:?}", M::KIND),
    }
}

#[test]
fn counts_beyond_their_limits_are_malformed() {
    let vote = Vote { sequence: 1, digest: [2; 32] };
    bounded(MAX_BATCH_BUNDLES, |n| PrePrepare {
        view: 1,
        sequence: 2,
        time_ms: 3,
        digest: [4; 32],
        bundles: vec![[5; 32]; n],
    });
    bounded(MAX_VOTES, |n| Decided { decided: vec![vote; n] });
    bounded(MAX_STATUS_SLOTS, |n| Status {
        view: 1,
        low: 2,
        executed: 3,
        active: true,
        open: vec![OpenSlot { sequence: 9, proposed: true, prepares: 0, commits: 0 }; n],
        ..Status::default()
    });
    bounded(MAX_REPLICAS, |n| Status { heard: vec![Heard { view: 1, sequence: 2 }; n], ..Status::default() });
    let batch = |bundles| Batch { sequence: 1, digest: [2; 32], time_ms: 3, bundles };
    bounded(MAX_BATCH_BUNDLES, |n| batch(vec![wire_bundle(0, 0); n]));
    bounded(MAX_BUNDLE_REQUESTS, |n| batch(vec![wire_bundle(n, 1)]));
    bounded(MAX_BATCH_BYTES, |n| batch(vec![wire_bundle(0, 0), wire_bundle(1, n - 20)]));
    bounded(MAX_BUNDLE_REQUESTS, |n| Submit { bundle: wire_bundle(n, 1) });
    bounded(MAX_REPLIES, |n| Replies { bundle: [1; 32], replies: vec![reply("a longer detail"); n] });
    bounded(MAX_QUERY, |n| Query { id: 1, min_size: 2, wait_ms: 3, query: vec![0; n] });
    bounded(MAX_COUNTERS, status_answer);
    bounded(MAX_EVIDENCE, |n| with_evidence(vec![evidence(1, 0, 0); n]));
    bounded(MAX_EVIDENCE_PARTS, |n| with_evidence(vec![evidence(n, 1, 1)]));
    bounded(MAX_EVIDENCE_PARTS, |n| with_evidence(vec![evidence(1, n, 1)]));
    bounded(MAX_EVIDENCE_BYTES, |n| with_evidence(vec![evidence(1, 1, n - 10), evidence(0, 2, 5)]));

    let mut body = Vec::new();
    Votes { view: 1, votes: vec![vote; MAX_VOTES] }.encode(&mut body);
    assert!(Votes::access(&body).is_ok());
    let mut body = Vec::new();
    Votes { view: 1, votes: vec![vote; MAX_VOTES + 1] }.encode(&mut body);
    assert!(matches!(Votes::access(&body).err(), Some(Malformed::Count { count, .. }) if count == MAX_VOTES + 1));
}

#[test]
fn the_batch_with_most_lists_fits_a_frame() {
    // The shortest requests, as many as a batch's bytes and a bundle's count allow: the lists weigh more than the content.
    let cose = 150;
    let bundle_bytes = cose + MAX_BUNDLE_REQUESTS * MIN_REQUEST;
    let bundle = WireBundle { cose: vec![0; cose], requests: vec![vec![0; MIN_REQUEST]; MAX_BUNDLE_REQUESTS] };
    let batch =
        Batch { sequence: 1, digest: [0; 32], time_ms: 0, bundles: vec![bundle; MAX_BATCH_BYTES / bundle_bytes] };
    let body = bytes(&batch);
    assert!(access::<Batch>(&body).is_ok());
    assert!(body.len() > 2 * MAX_BATCH_BYTES, "{}", body.len());
    assert!(body.len() <= MAX_PEER_BODY, "{}", body.len());
}

#[test]
fn the_largest_bundle_fits_a_clients_frame() {
    let requests = vec![vec![0; (MAX_ENTRY - 200) / MAX_BUNDLE_REQUESTS]; MAX_BUNDLE_REQUESTS];
    let body = bytes(&Submit { bundle: WireBundle { cose: vec![0; 200], requests } });
    assert!(body.len() <= MAX_CLIENT_BODY, "{}", body.len());
}

#[test]
fn a_bool_is_zero_or_one_and_text_is_utf8() {
    let mut body = bytes(&Status { ask: true, ..Status::default() });
    let at = body.iter().position(|byte| *byte == 1).expect("the only 1 is `ask`");
    body[at] = 2;
    assert_eq!(access::<Status>(&body).err(), Some(Malformed::Archive));
    let mut body = bytes(&Replies { bundle: [0; 32], replies: vec![reply("a text of its own")] });
    let at = body.windows(4).position(|window| window == b"text").unwrap();
    body[at] = 0xff;
    assert_eq!(access::<Replies>(&body).err(), Some(Malformed::Archive));
}
