use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const GENESIS: Digest = Digest([7; 32]);

fn identity(seed: u8, genesis: Digest) -> Arc<LinkIdentity> {
    Arc::new(LinkIdentity::new(SecretKey::from_seed(&[seed; 32]), genesis).unwrap())
}

fn pair() -> (Handshake, Handshake) {
    let responder = identity(2, GENESIS);
    let expected = responder.public();
    (Handshake::initiator(identity(1, GENESIS), expected).unwrap(), Handshake::responder(responder).unwrap())
}

fn written(handshake: &mut Handshake) -> Vec<u8> {
    let want = handshake.next_message_len();
    let mut message = Vec::new();
    handshake.write_message(&mut message).unwrap();
    assert_eq!(message.len(), want);
    message
}

fn done(progress: Progress) -> Established {
    match progress {
        Progress::Done(established) => *established,
        other => panic!("{other:?}"),
    }
}

fn established() -> (Established, Established) {
    let (mut a, mut b) = pair();
    b.read_message(&written(&mut a)).unwrap();
    a.read_message(&written(&mut b)).unwrap();
    let mut third = Vec::new();
    let at_a = done(a.write_message(&mut third).unwrap());
    (at_a, done(b.read_message(&third).unwrap()))
}

#[test]
fn both_ends_learn_who_the_other_is_and_talk_both_ways() {
    let (mut a, mut b) = established();
    assert_eq!(a.peer, SecretKey::from_seed(&[2; 32]).public());
    assert_eq!(b.peer, SecretKey::from_seed(&[1; 32]).public());
    for (from, to) in [(&mut a.sealer, &mut b.opener), (&mut b.sealer, &mut a.opener)] {
        for sequence in 0..3 {
            let mut buf = b"headthe body".to_vec();
            assert_eq!(from.next_sequence(), sequence);
            assert_eq!(from.seal_in_place(b"head", &mut buf, 4).unwrap(), sequence);
            assert_eq!(&buf[..4], b"head");
            assert_eq!(buf.len(), 12 + TAG_LEN);
            assert_ne!(&buf[4..12], b"the body");
            assert_eq!(to.open_in_place(sequence, b"head", &mut buf[4..]).unwrap(), b"the body");
        }
    }
}

#[test]
fn progress_says_whose_turn_it_is() {
    let (mut a, mut b) = pair();
    assert_eq!(b.write_message(&mut Vec::new()).unwrap_err(), LinkError::OutOfTurn);
    assert_eq!(b.read_message(&[0; 32]).unwrap_err(), LinkError::Poisoned);
    let (_, mut b2) = pair();
    let mut first = Vec::new();
    assert!(matches!(a.write_message(&mut first), Ok(Progress::Read)));
    assert!(matches!(b2.read_message(&first), Ok(Progress::Write)));
    assert_eq!(a.write_message(&mut Vec::new()).unwrap_err(), LinkError::OutOfTurn);
}

#[test]
fn a_finished_handshake_takes_no_more() {
    let (mut a, mut b) = pair();
    b.read_message(&written(&mut a)).unwrap();
    a.read_message(&written(&mut b)).unwrap();
    let third = written(&mut a);
    b.read_message(&third).unwrap();
    assert_eq!(a.next_message_len(), 0);
    assert_eq!(a.write_message(&mut Vec::new()).unwrap_err(), LinkError::Poisoned);
    assert_eq!(b.read_message(&third).unwrap_err(), LinkError::Poisoned);
}

#[test]
fn somebody_else_than_was_called_is_refused() {
    let other = SecretKey::from_seed(&[3; 32]).public();
    let mut a = Handshake::initiator(identity(1, GENESIS), other).unwrap();
    let mut b = Handshake::responder(identity(2, GENESIS)).unwrap();
    b.read_message(&written(&mut a)).unwrap();
    let error = a.read_message(&written(&mut b)).unwrap_err();
    assert_eq!(error, LinkError::WrongIdentity { expected: other, got: SecretKey::from_seed(&[2; 32]).public() });
    assert_eq!(error.fault(), Fault::Misbehaving);
    assert_eq!(a.write_message(&mut Vec::new()).unwrap_err(), LinkError::Poisoned);
}

#[test]
fn another_cluster_is_refused() {
    let b_identity = identity(2, Digest([8; 32]));
    let mut a = Handshake::initiator(identity(1, GENESIS), b_identity.public()).unwrap();
    let mut b = Handshake::responder(b_identity).unwrap();
    b.read_message(&written(&mut a)).unwrap();
    assert_eq!(a.read_message(&written(&mut b)).unwrap_err(), LinkError::HandshakeForged { number: 2 });
}

/// A Noise session of the attacker's own, which says in message `2` or `3` whatever payload it likes.
struct Attacker {
    noise: HandshakeState,
    x25519: Vec<u8>,
}

impl Attacker {
    fn new(role: Role) -> Self {
        let pair = builder().unwrap().generate_keypair().unwrap();
        let prologue = [context::LINK, &GENESIS.0].concat();
        let builder = builder().unwrap().prologue(&prologue).unwrap().local_private_key(&pair.private).unwrap();
        let noise = match role {
            Role::Initiator => builder.build_initiator().unwrap(),
            Role::Responder => builder.build_responder().unwrap(),
        };
        Self { noise, x25519: pair.public }
    }

    fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = [0; 1024];
        let len = self.noise.write_message(payload, &mut message).unwrap();
        message[..len].to_vec()
    }

    fn read(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = [0; 1024];
        let len = self.noise.read_message(message, &mut payload).unwrap();
        payload[..len].to_vec()
    }

    fn signed_by(&self, key: &SecretKey, role: Role) -> Vec<u8> {
        let signature = key.sign(&signed_bytes(role, &GENESIS, &self.x25519, self.noise.get_handshake_hash()));
        [key.public().0.as_slice(), &signature.0].concat()
    }
}

/// The attacker runs one Noise session with each side and passes the true payloads on between them.
#[test]
fn a_man_in_the_middle_who_passes_payloads_on_is_refused() {
    let (mut a, mut b) = pair();
    let (mut to_a, mut to_b) = (Attacker::new(Role::Responder), Attacker::new(Role::Initiator));
    to_a.read(&written(&mut a));
    b.read_message(&to_b.write(&[])).unwrap();
    let true_payload = to_b.read(&written(&mut b));
    let error = a.read_message(&to_a.write(&true_payload)).unwrap_err();
    assert_eq!(error, LinkError::IdentityForged { claimed: SecretKey::from_seed(&[2; 32]).public() });
    assert_eq!(error.fault(), Fault::Misbehaving);

    // Towards the responder, with the payload of an initiator that called the attacker.
    let mallory = SecretKey::from_seed(&[3; 32]);
    let mut a = Handshake::initiator(identity(1, GENESIS), mallory.public()).unwrap();
    let mut to_a = Attacker::new(Role::Responder);
    to_a.read(&written(&mut a));
    let own = to_a.signed_by(&mallory, Role::Responder);
    a.read_message(&to_a.write(&own)).unwrap();
    let stolen = to_a.read(&written(&mut a));
    let error = b.read_message(&to_b.write(&stolen)).unwrap_err();
    assert_eq!(error, LinkError::IdentityForged { claimed: SecretKey::from_seed(&[1; 32]).public() });
}

/// What a replica signed as responder is worth nothing from an initiator, even with its own X25519 key.
#[test]
fn a_payload_of_the_other_role_is_refused() {
    let key = SecretKey::from_seed(&[1; 32]);
    for (role, accepted) in [(Role::Initiator, true), (Role::Responder, false)] {
        let (_, mut b) = pair();
        let mut attacker = Attacker::new(Role::Initiator);
        b.read_message(&attacker.write(&[])).unwrap();
        attacker.read(&written(&mut b));
        let payload = attacker.signed_by(&key, role);
        let result = b.read_message(&attacker.write(&payload));
        assert_eq!(result.is_ok(), accepted);
        if !accepted {
            assert_eq!(result.unwrap_err(), LinkError::IdentityForged { claimed: key.public() });
        }
    }
}

/// Each side's own messages, sent back to it.
#[test]
fn reflected_messages_are_refused() {
    let (mut a, mut b) = pair();
    let first = written(&mut a);
    assert!(a.read_message(&first).is_err());
    b.read_message(&first).unwrap();
    let second = written(&mut b);
    assert!(b.read_message(&second).is_err());

    // An initiator whose call to another is answered by its own responder half knows that it called another.
    let own = identity(1, GENESIS);
    let mut a = Handshake::initiator(own.clone(), SecretKey::from_seed(&[2; 32]).public()).unwrap();
    let mut b = Handshake::responder(own).unwrap();
    b.read_message(&written(&mut a)).unwrap();
    assert!(matches!(a.read_message(&written(&mut b)), Err(LinkError::WrongIdentity { .. })));
}

/// A signature made for one handshake, presented in another with the same X25519 key (stolen, say).
#[test]
fn a_signature_of_an_earlier_handshake_is_refused() {
    let key = SecretKey::from_seed(&[1; 32]);
    let mut attacker = Attacker::new(Role::Initiator);
    let early = attacker.signed_by(&key, Role::Initiator);
    let (_, mut b) = pair();
    b.read_message(&attacker.write(&[])).unwrap();
    attacker.read(&written(&mut b));
    assert_eq!(
        b.read_message(&attacker.write(&early)).unwrap_err(),
        LinkError::IdentityForged { claimed: key.public() }
    );
}

/// A signature in the right role and transcript, but for an X25519 key that is not the one of the session.
#[test]
fn a_signature_for_another_x25519_key_is_refused() {
    let key = SecretKey::from_seed(&[1; 32]);
    let (_, mut b) = pair();
    let mut attacker = Attacker::new(Role::Initiator);
    b.read_message(&attacker.write(&[])).unwrap();
    attacker.read(&written(&mut b));
    attacker.x25519[0] ^= 1;
    let payload = attacker.signed_by(&key, Role::Initiator);
    let error = b.read_message(&attacker.write(&payload)).unwrap_err();
    assert_eq!(error, LinkError::IdentityForged { claimed: key.public() });
}

/// With a key of small order anybody's signature holds, so nobody may claim one.
#[test]
fn an_identity_of_small_order_is_refused() {
    let (_, mut b) = pair();
    let mut attacker = Attacker::new(Role::Initiator);
    b.read_message(&attacker.write(&[])).unwrap();
    attacker.read(&written(&mut b));
    let mut payload = [0; PAYLOAD_LEN];
    (payload[0], payload[32]) = (1, 1);
    assert!(matches!(b.read_message(&attacker.write(&payload)), Err(LinkError::IdentityForged { .. })));
}

#[test]
fn handshake_messages_have_one_length_each() {
    for len in [0, 31, 33, MAX_HANDSHAKE_MESSAGE, 70_000] {
        let (_, mut b) = pair();
        let error = b.read_message(&vec![0; len]).unwrap_err();
        assert_eq!(error, LinkError::MessageLength { number: 1, got: len, want: 32 });
        assert_eq!(error.fault(), Fault::Malformed);
    }
}

fn sealed(sealer: &mut Sealer, body: &[u8]) -> Vec<u8> {
    let mut buf = body.to_vec();
    sealer.seal_in_place(b"head", &mut buf, 0).unwrap();
    buf
}

#[test]
fn a_replayed_frame_ends_the_link() {
    let (mut a, mut b) = established();
    let mut frame = sealed(&mut a.sealer, b"pay 5");
    let mut copy = frame.clone();
    b.opener.open_in_place(0, b"head", &mut frame).unwrap();
    let error = b.opener.open_in_place(0, b"head", &mut copy.clone()).unwrap_err();
    assert_eq!(error, LinkError::Replayed { expected: 1, got: 0 });
    assert_eq!(b.opener.open_in_place(1, b"head", &mut copy).unwrap_err(), LinkError::Poisoned);
}

#[test]
fn a_replayed_frame_under_a_new_number_is_forged() {
    let (mut a, mut b) = established();
    let mut frame = sealed(&mut a.sealer, b"pay 5");
    let mut copy = frame.clone();
    b.opener.open_in_place(0, b"head", &mut frame).unwrap();
    assert_eq!(b.opener.open_in_place(1, b"head", &mut copy).unwrap_err(), LinkError::Forged { sequence: 1 });
}

#[test]
fn a_reordered_or_dropped_frame_ends_the_link() {
    let (mut a, mut b) = established();
    let mut first = sealed(&mut a.sealer, b"1");
    let mut second = sealed(&mut a.sealer, b"2");
    let error = b.opener.open_in_place(1, b"head", &mut second).unwrap_err();
    assert_eq!(error, LinkError::Skipped { expected: 0, got: 1 });
    assert_eq!(b.opener.open_in_place(0, b"head", &mut first).unwrap_err(), LinkError::Poisoned);
}

#[test]
fn a_frame_cut_short_ends_the_link() {
    let body = b"some body";
    for keep in 0..body.len() + TAG_LEN {
        let (mut a, mut b) = established();
        let mut frame = sealed(&mut a.sealer, body);
        let error = b.opener.open_in_place(0, b"head", &mut frame[..keep]).unwrap_err();
        let want = if keep < TAG_LEN { LinkError::Truncated { got: keep } } else { LinkError::Forged { sequence: 0 } };
        assert_eq!(error, want);
    }
}

#[test]
fn a_frame_of_the_other_direction_is_forged() {
    let (mut a, _) = established();
    let mut frame = sealed(&mut a.sealer, b"own");
    assert_eq!(a.opener.open_in_place(0, b"head", &mut frame).unwrap_err(), LinkError::Forged { sequence: 0 });
}

#[test]
fn every_flipped_bit_is_noticed() {
    static LINK: LazyLock<(LessSafeKey, Vec<u8>)> = LazyLock::new(|| {
        let (mut a, b) = established();
        (b.opener.0.key, sealed(&mut a.sealer, b"some body"))
    });
    let open = |head: &[u8], frame: &mut [u8]| {
        let mut opener = Opener(Direction { key: LINK.0.clone(), next: 0, poisoned: false });
        opener.open_in_place(0, head, frame).map(|_| ())
    };
    assert_eq!(open(b"head", &mut LINK.1.clone()), Ok(()));
    for bit in 0..LINK.1.len() * 8 {
        let mut frame = LINK.1.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(b"head", &mut frame), Err(LinkError::Forged { sequence: 0 }));
    }
    for bit in 0..32 {
        let mut head = *b"head";
        head[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&head, &mut LINK.1.clone()), Err(LinkError::Forged { sequence: 0 }));
    }
}

#[test]
fn keys_are_replaced_together_and_old_ones_open_nothing_new() {
    let (mut a, mut b) = established();
    let old = b.opener.0.key.clone();
    for next in [&mut a.sealer.0.next, &mut b.opener.0.next] {
        *next = REKEY_FRAMES - 1;
    }
    let mut last = sealed(&mut a.sealer, b"under the old key");
    let mut first = sealed(&mut a.sealer, b"under the new key");
    let mut copy = first.clone();
    assert_eq!(b.opener.open_in_place(REKEY_FRAMES - 1, b"head", &mut last).unwrap(), b"under the old key");
    assert_eq!(b.opener.open_in_place(REKEY_FRAMES, b"head", &mut first).unwrap(), b"under the new key");
    let mut stale = Opener(Direction { key: old, next: REKEY_FRAMES, poisoned: false });
    assert!(stale.open_in_place(REKEY_FRAMES, b"head", &mut copy).is_err());
}

#[test]
fn the_last_number_is_never_used() {
    let (mut a, mut b) = established();
    a.sealer.0.next = u64::MAX - 1;
    b.opener.0.next = u64::MAX - 1;
    let mut frame = sealed(&mut a.sealer, b"the last");
    b.opener.open_in_place(u64::MAX - 1, b"head", &mut frame).unwrap();
    assert_eq!(a.sealer.seal_in_place(b"", &mut Vec::new(), 0).unwrap_err(), LinkError::Exhausted);
    assert_eq!(b.opener.open_in_place(u64::MAX, b"", &mut frame).unwrap_err(), LinkError::Exhausted);
    assert_eq!(LinkError::Exhausted.fault(), Fault::Ours);
}

#[test]
fn sealing_beyond_the_buffer_is_our_error_and_ends_the_link() {
    let (mut a, _) = established();
    assert_eq!(a.sealer.seal_in_place(b"", &mut vec![0; 3], 4).unwrap_err(), LinkError::Library);
    assert_eq!(a.sealer.seal_in_place(b"", &mut vec![0; 3], 0).unwrap_err(), LinkError::Poisoned);
}

/// What may happen to a message on its way.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: usize, bits: u8 },
    Cut(usize),
    Grow(Vec<u8>),
    Replace(Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (0..MAX_HANDSHAKE_MESSAGE, 1u8..).prop_map(|(at, bits)| Mutation::Flip { at, bits }),
        1 => (0..MAX_HANDSHAKE_MESSAGE).prop_map(Mutation::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Mutation::Grow),
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Mutation::Replace),
    ]
}

fn mutate(message: &mut Vec<u8>, mutation: &Mutation) {
    match mutation {
        Mutation::Flip { at, bits } => {
            let at = at % message.len();
            message[at] ^= bits;
        }
        Mutation::Cut(len) => message.truncate(*len % message.len()),
        Mutation::Grow(more) => message.extend_from_slice(more),
        Mutation::Replace(other) => message.clone_from(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// A handshake with one message changed on its way ends with an error on at least one side and never with a link at
    /// both ends; nothing panics.
    #[test]
    fn a_changed_message_never_makes_a_link(which in 0usize..3, mutation in mutation()) {
        let (mut a, mut b) = pair();
        let mut links = 0;
        for number in 0..3 {
            let (from, to) = if number == 1 { (&mut b, &mut a) } else { (&mut a, &mut b) };
            let mut message = Vec::new();
            links += usize::from(matches!(from.write_message(&mut message), Ok(Progress::Done(_))));
            if number == which {
                mutate(&mut message, &mutation);
            }
            match to.read_message(&message) {
                Ok(progress) => links += usize::from(matches!(progress, Progress::Done(_))),
                Err(error) => {
                    prop_assert_ne!(error.fault(), Fault::Ours);
                    prop_assert_eq!(to.read_message(&message).unwrap_err(), LinkError::Poisoned);
                    break;
                }
            }
        }
        prop_assert!(links < 2);
    }
}
