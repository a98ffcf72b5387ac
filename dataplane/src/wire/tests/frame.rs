//! Headers: every rule by a header that breaks it alone. Reader: every way to split a stream.

use crate::types::Digest;
use crate::wire::error::Malformed;
use crate::wire::frame::{FrameReader, Header, Kind, Sender};
use crate::wire::limits::{
    HEADER_BYTES, MAX_ANSWER_BODY, MAX_CLIENT_BODY, MAX_HANDSHAKE_BODY, MAX_PEER_BODY, TAG_BYTES,
};

const SENDERS: [Sender; 4] = [Sender::Unknown, Sender::Replica, Sender::Client, Sender::Server];

fn header(kind: Kind, length: u32) -> Header {
    Header { kind, length, epoch: 0x0102_0304, cluster: *b"genesis!", sequence: 0x1122_3344_5566_7788 }
}

/// Who may send `kind`, written out as the specification has it.
fn sender_of(kind: Kind) -> Sender {
    match kind {
        Kind::Handshake => Sender::Unknown,
        Kind::PrePrepare
        | Kind::Prepare
        | Kind::Commit
        | Kind::Decided
        | Kind::Status
        | Kind::FetchBatch
        | Kind::Batch
        | Kind::ViewChange
        | Kind::NewView
        | Kind::Checkpoint
        | Kind::Stable
        | Kind::Relay
        | Kind::Offer
        | Kind::FetchPieces
        | Kind::Pieces
        | Kind::Piece
        | Kind::Cosignature => Sender::Replica,
        Kind::Submit | Kind::Query | Kind::StatusQuery | Kind::Prove => Sender::Client,
        Kind::Replies | Kind::Refused | Kind::Answer | Kind::StatusAnswer | Kind::Proof => Sender::Server,
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let expected: Vec<u8> = [
        &b"ATLS"[..],
        &[1, 32, 0, 0],
        &[0x00, 0x01, 0x00, 0x00],
        &[0x04, 0x03, 0x02, 0x01],
        b"genesis!",
        &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
    ]
    .concat();
    assert_eq!(header(Kind::Submit, 256).encode().as_slice(), expected);
}

#[test]
fn round_trip_of_every_kind_and_no_other_direction() {
    for kind in Kind::ALL {
        for sender in SENDERS {
            let header = header(kind, 100);
            let decoded = Header::decode(&header.encode(), sender);
            if sender == sender_of(kind) {
                assert_eq!(decoded, Ok(header));
            } else {
                assert!(matches!(decoded, Err(Malformed::Direction(_))), "{kind:?} from {sender:?}: {decoded:?}");
            }
        }
    }
}

#[test]
fn every_broken_header_gets_its_error() {
    let good = header(Kind::Prepare, 64).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        Header::decode(&bytes, Sender::Replica)
    };
    for (at, byte) in good.into_iter().enumerate().take(4) {
        for bit in 0..8 {
            assert_eq!(with(at, byte ^ (1 << bit)), Err(Malformed::Magic));
        }
    }
    for version in (0..=255).filter(|version| *version != 1) {
        assert_eq!(with(4, version), Err(Malformed::Version(version)));
    }
    for kind in (0..=255).filter(|kind| !Kind::ALL.iter().any(|known| *known as u8 == *kind)) {
        assert_eq!(with(5, kind), Err(Malformed::Kind(kind)));
    }
    for at in 6..8 {
        for byte in 1..=255 {
            assert_eq!(with(at, byte), Err(Malformed::Reserved));
        }
    }
}

#[test]
fn lengths_are_held_to_what_the_sender_may_send() {
    for (sender, kind, limit) in [
        (Sender::Unknown, Kind::Handshake, MAX_HANDSHAKE_BODY),
        (Sender::Replica, Kind::Batch, MAX_PEER_BODY + TAG_BYTES),
        (Sender::Client, Kind::Submit, MAX_CLIENT_BODY + TAG_BYTES),
        (Sender::Server, Kind::Answer, MAX_ANSWER_BODY + TAG_BYTES),
    ] {
        let decode = |length| Header::decode(&header(kind, length).encode(), sender).map(|header| header.length);
        let most = limit as u32;
        assert_eq!(decode(most), Ok(most));
        for length in [most + 1, u32::MAX] {
            assert_eq!(decode(length), Err(Malformed::TooLong { length, limit }));
        }
        for length in [0, TAG_BYTES as u32 - 1] {
            let expected = if kind == Kind::Handshake { Ok(length) } else { Err(Malformed::TooShort(length)) };
            assert_eq!(decode(length), expected);
        }
        assert_eq!(decode(TAG_BYTES as u32), Ok(TAG_BYTES as u32));
    }
}

#[test]
fn the_cluster_tag_is_the_start_of_the_genesis_hash() {
    let mut genesis = Digest::default();
    genesis.0[..9].copy_from_slice(b"123456789");
    assert_eq!(Header::cluster_tag(&genesis), *b"12345678");
}

/// A connection as a test sees it: the frames handed out, and when to refuse one.
#[derive(Default)]
struct Seen {
    frames: Vec<(Header, Vec<u8>)>,
    refuse: Option<u64>,
}

fn push(reader: &mut FrameReader, chunk: &[u8], seen: &mut Seen) -> Result<(), Malformed> {
    reader.push(
        &mut chunk.to_vec(),
        seen,
        |seen| if seen.frames.is_empty() { Sender::Unknown } else { Sender::Replica },
        |seen, header, raw, body| {
            assert_eq!(raw, header.encode());
            if seen.refuse == Some(header.sequence) {
                return Err(Malformed::Cluster);
            }
            seen.frames.push((header, body.to_vec()));
            // Frames are opened in place: what the handler does to a body must not reach the next frame.
            body.fill(0xff);
            Ok(())
        },
    )
}

/// A handshake frame, then frames of a replica; and the bytes of them all.
fn stream(lengths: &[u32]) -> (Vec<(Header, Vec<u8>)>, Vec<u8>) {
    let frames: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(index, length)| {
            let kind = if index == 0 { Kind::Handshake } else { Kind::Status };
            let header = Header { sequence: index as u64, ..header(kind, *length) };
            (header, (0..*length).map(|at| (at as usize + index) as u8).collect::<Vec<_>>())
        })
        .collect();
    let bytes = frames.iter().flat_map(|(header, body)| [&header.encode()[..], body].concat()).collect();
    (frames, bytes)
}

#[test]
fn any_two_cuts_give_the_same_frames() {
    let (frames, bytes) = stream(&[0, 16, 40, 17]);
    let ends: Vec<usize> = frames
        .iter()
        .scan(0, |end, (_, body)| {
            *end += HEADER_BYTES + body.len();
            Some(*end)
        })
        .collect();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let (mut reader, mut seen) = (FrameReader::default(), Seen::default());
            for chunk in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                push(&mut reader, chunk, &mut seen).unwrap();
            }
            assert_eq!(seen.frames, frames, "cuts {first} {second}");
            let split = ends
                .iter()
                .zip([0].iter().chain(&ends))
                .filter(|(end, start)| [first, second].iter().any(|cut| *start < cut && cut < end));
            assert_eq!(reader.joined(), split.count() as u64, "cuts {first} {second}");
        }
    }
}

#[test]
fn byte_by_byte_every_frame_is_joined() {
    let (frames, bytes) = stream(&[3, 16, 1000]);
    let (mut reader, mut seen) = (FrameReader::default(), Seen::default());
    for byte in bytes {
        push(&mut reader, &[byte], &mut seen).unwrap();
    }
    assert_eq!((seen.frames, reader.joined()), (frames, 3));
}

#[test]
fn an_error_mid_stream_ends_it_whether_in_place_or_joined() {
    let (frames, mut bytes) = stream(&[5, 20, 20, 20]);
    let third = 2 * HEADER_BYTES + 25;
    bytes[third] = b'X';
    for cut in 0..bytes.len() {
        let (mut reader, mut seen) = (FrameReader::default(), Seen::default());
        let result =
            push(&mut reader, &bytes[..cut], &mut seen).and_then(|()| push(&mut reader, &bytes[cut..], &mut seen));
        assert_eq!(result, Err(Malformed::Magic), "cut {cut}");
        assert_eq!(seen.frames, frames[..2], "cut {cut}");
    }
}

#[test]
fn the_handlers_error_stops_the_reader() {
    let (frames, bytes) = stream(&[5, 20, 20, 20]);
    for cut in 0..bytes.len() {
        let (mut reader, mut seen) = (FrameReader::default(), Seen { refuse: Some(2), ..Seen::default() });
        let result =
            push(&mut reader, &bytes[..cut], &mut seen).and_then(|()| push(&mut reader, &bytes[cut..], &mut seen));
        assert_eq!(result, Err(Malformed::Cluster), "cut {cut}");
        assert_eq!(seen.frames, frames[..2], "cut {cut}");
    }
}

#[test]
fn what_the_sender_may_send_is_asked_for_every_frame() {
    let (_, mut bytes) = stream(&[5, 20]);
    // A second handshake after the first ended it.
    bytes[HEADER_BYTES + 5 + 5] = Kind::Handshake as u8;
    let (mut reader, mut seen) = (FrameReader::default(), Seen::default());
    assert!(matches!(push(&mut reader, &bytes, &mut seen), Err(Malformed::Direction(_))));
    assert_eq!(seen.frames.len(), 1);
}

#[test]
fn a_declared_length_is_not_memory() {
    let (mut reader, mut seen) = (FrameReader::default(), Seen::default());
    push(&mut reader, &stream(&[0]).1, &mut seen).unwrap();
    let declared = Header { length: (MAX_PEER_BODY + TAG_BYTES) as u32, ..header(Kind::Batch, 0) };
    push(&mut reader, &declared.encode(), &mut seen).unwrap();
    push(&mut reader, &[0; 100], &mut seen).unwrap();
    assert!(reader.buffered_capacity() < 1_024, "{}", reader.buffered_capacity());
    // And a large frame that did come does not keep its memory.
    let mut rest = declared.length as usize - 100;
    while rest > 0 {
        let chunk = rest.min(100_000);
        push(&mut reader, &vec![0; chunk], &mut seen).unwrap();
        rest -= chunk;
    }
    assert_eq!(seen.frames.len(), 2);
    assert_eq!(reader.buffered_capacity(), 0);
}
