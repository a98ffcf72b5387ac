use super::*;
use crate::crypto::SecretKey;

const GENESIS: Digest = Digest([9; 32]);

fn identity(seed: u8) -> Arc<LinkIdentity> {
    Arc::new(LinkIdentity::new(SecretKey::from_seed(&[seed; 32]), GENESIS).unwrap())
}

fn admit_clients(_key: &PublicKey) -> Option<Sender> {
    Some(Sender::Client)
}

fn nothing(_peer: &Peer, _kind: Kind, _body: &mut [u8]) -> Result<(), FrameError> {
    panic!("no frame was sent");
}

/// A client and a replica after the handshake.
fn established() -> (Session, Session) {
    let server = identity(2);
    let mut wire = Vec::new();
    let mut a = Session::initiator(identity(1), &GENESIS, 0, server.public(), Sender::Server, &mut wire).unwrap();
    let mut b = Session::responder(server, &GENESIS, 0).unwrap();
    let mut back = Vec::new();
    assert_eq!(b.receive(&mut wire, &mut back, admit_clients, nothing), Ok(Status::Handshake));
    let mut third = Vec::new();
    let status = a.receive(&mut back, &mut third, |_| None, nothing).unwrap();
    assert!(matches!(status, Status::JustEstablished(Peer { class: Sender::Server, .. })));
    let mut empty = Vec::new();
    let status = b.receive(&mut third, &mut empty, admit_clients, nothing).unwrap();
    let client = Peer { key: identity(1).public(), class: Sender::Client };
    assert_eq!(status, Status::JustEstablished(client));
    assert_eq!(b.peer(), Some(client));
    assert!(empty.is_empty());
    (a, b)
}

fn frame(session: &mut Session, kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.send(kind, &mut out, |out| out.extend_from_slice(body)).unwrap();
    assert_eq!(out.len(), frame_bytes(body.len()));
    out
}

fn received(session: &mut Session, chunk: &mut [u8]) -> Result<Vec<(Kind, Vec<u8>)>, SessionError> {
    let mut frames = Vec::new();
    let mut out = Vec::new();
    session.receive(
        chunk,
        &mut out,
        |_| None,
        |_, kind, body| {
            frames.push((kind, body.to_vec()));
            Ok(())
        },
    )?;
    assert!(out.is_empty());
    Ok(frames)
}

#[test]
fn frames_pass_both_ways_in_any_pieces() {
    for piece in [1, 7, 31, 33, 4096] {
        let (mut a, mut b) = established();
        let mut stream = frame(&mut a, Kind::Submit, b"first");
        a.send(Kind::Query, &mut stream, |out| out.extend_from_slice(&[7; 3000])).unwrap();
        let mut got = Vec::new();
        for chunk in stream.chunks_mut(piece) {
            got.extend(received(&mut b, chunk).unwrap());
        }
        assert_eq!(got, [(Kind::Submit, b"first".to_vec()), (Kind::Query, vec![7; 3000])]);
        let mut back = frame(&mut b, Kind::Answer, b"");
        assert_eq!(received(&mut a, &mut back).unwrap(), [(Kind::Answer, Vec::new())]);
    }
}

#[test]
fn the_last_handshake_message_and_a_frame_may_come_together() {
    let server = identity(2);
    let mut wire = Vec::new();
    let mut a = Session::initiator(identity(1), &GENESIS, 0, server.public(), Sender::Server, &mut wire).unwrap();
    let mut b = Session::responder(server, &GENESIS, 0).unwrap();
    let mut back = Vec::new();
    b.receive(&mut wire, &mut back, admit_clients, nothing).unwrap();
    let mut third = Vec::new();
    a.receive(&mut back, &mut third, |_| None, nothing).unwrap();
    a.send(Kind::Submit, &mut third, |out| out.push(1)).unwrap();
    let mut seen = Vec::new();
    let status = b.receive(&mut third, &mut Vec::new(), admit_clients, |peer, kind, body| {
        seen.push((peer.class, kind, body.to_vec()));
        Ok(())
    });
    assert!(matches!(status, Ok(Status::JustEstablished(_))));
    assert_eq!(seen, [(Sender::Client, Kind::Submit, vec![1])]);
}

#[test]
fn a_repeated_frame_ends_the_session_for_good() {
    let (mut a, mut b) = established();
    let mut first = frame(&mut a, Kind::Submit, b"x");
    assert_eq!(received(&mut b, &mut first.clone()).unwrap().len(), 1);
    let error = received(&mut b, &mut first).unwrap_err();
    assert_eq!(error, SessionError::Link(LinkError::Replayed { expected: 1, got: 0 }));
    assert_eq!(error.fault(), Fault::Misbehaving);
    let mut next = frame(&mut a, Kind::Submit, b"y");
    assert_eq!(received(&mut b, &mut next), Err(SessionError::Link(LinkError::Poisoned)));
    assert_eq!(b.send(Kind::Answer, &mut Vec::new(), |_| ()), Err(SessionError::NotEstablished));
}

#[test]
fn every_changed_byte_of_a_frame_ends_the_session() {
    let length = frame_bytes(3);
    for at in (0..length).filter(|at| !(8..12).contains(at)) {
        let (mut a, mut b) = established();
        let mut bytes = frame(&mut a, Kind::Submit, b"abc");
        bytes[at] ^= 0x04;
        assert!(received(&mut b, &mut bytes).is_err(), "byte {at}");
    }
}

#[test]
fn a_frame_of_another_class_or_cluster_is_refused() {
    let (mut a, mut b) = established();
    let mut bytes = frame(&mut a, Kind::Prepare, b"vote");
    let error = received(&mut b, &mut bytes).unwrap_err();
    assert_eq!(error, Malformed::Direction("this kind of frame").into());
    assert_eq!(error.fault(), Fault::Malformed);

    let mut wire = Vec::new();
    let server = identity(2);
    let other = Digest([8; 32]);
    Session::initiator(identity(1), &other, 0, server.public(), Sender::Server, &mut wire).unwrap();
    let mut b = Session::responder(server, &GENESIS, 0).unwrap();
    assert_eq!(received(&mut b, &mut wire), Err(Malformed::Cluster.into()));
}

#[test]
fn who_is_not_admitted_gets_nothing() {
    let server = identity(2);
    let mut wire = Vec::new();
    let mut a = Session::initiator(identity(1), &GENESIS, 0, server.public(), Sender::Server, &mut wire).unwrap();
    let mut b = Session::responder(server, &GENESIS, 0).unwrap();
    let (mut back, mut third) = (Vec::new(), Vec::new());
    b.receive(&mut wire, &mut back, |_| None, nothing).unwrap();
    a.receive(&mut back, &mut third, |_| None, nothing).unwrap();
    a.send(Kind::Submit, &mut third, |out| out.push(1)).unwrap();
    let error = b.receive(&mut third, &mut Vec::new(), |_| None, nothing).unwrap_err();
    assert_eq!(error, SessionError::NotAdmitted(identity(1).public()));
    assert!(!b.is_established());
}

#[test]
fn sealed_frames_before_the_handshake_are_refused() {
    let (mut a, _) = established();
    let mut bytes = frame(&mut a, Kind::Submit, b"x");
    let mut b = Session::responder(identity(2), &GENESIS, 0).unwrap();
    assert_eq!(received(&mut b, &mut bytes), Err(Malformed::Direction("this kind of frame").into()));
    assert_eq!(b.send(Kind::Answer, &mut Vec::new(), |_| ()), Err(SessionError::NotEstablished));
}

#[test]
fn a_body_beyond_the_peers_limit_is_not_sent_and_the_session_goes_on() {
    let (mut a, mut b) = established();
    let mut out = vec![5];
    let limit = Sender::Client.max_body() - TAG_BYTES;
    let error = a.send(Kind::Submit, &mut out, |out| out.resize(out.len() + limit + 1, 0)).unwrap_err();
    assert_eq!(error, SessionError::BodyTooLong { body: limit + 1, limit });
    assert_eq!(out, [5]);
    let mut fits = frame(&mut a, Kind::Submit, &vec![0; limit]);
    assert_eq!(received(&mut b, &mut fits).unwrap().len(), 1);
}

#[test]
fn frames_of_another_epoch_are_dropped_and_counted() {
    let (mut a, mut b) = established();
    a.core.epoch = 1;
    let mut old = frame(&mut a, Kind::Submit, b"x");
    assert_eq!(received(&mut b, &mut old).unwrap(), []);
    assert_eq!(b.other_epoch(), 1);
    a.core.epoch = 0;
    let mut now = frame(&mut a, Kind::Submit, b"y");
    assert_eq!(received(&mut b, &mut now).unwrap().len(), 1);
}

#[test]
fn a_handler_ends_the_session_by_an_error() {
    let (mut a, mut b) = established();
    let mut stream = frame(&mut a, Kind::Submit, b"bad");
    stream.extend(frame(&mut a, Kind::Submit, b"next"));
    let mut calls = 0;
    let result = b.receive(
        &mut stream,
        &mut Vec::new(),
        |_| None,
        |_, _, _| {
            calls += 1;
            Err(Malformed::Archive.into())
        },
    );
    assert_eq!((calls, result), (1, Err(Malformed::Archive.into())));
    assert!(!b.is_established());
}
