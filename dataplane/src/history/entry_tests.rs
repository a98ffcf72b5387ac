use minicbor::Encoder;
use minicbor::data::Tag;
use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn member(index: u8, name: &str) -> Member<'_> {
    Member {
        index,
        name,
        link_key: key(index),
        protocol_key: key(index + 1),
        log_key: key(index + 2),
        cosign_key: key(index + 3),
    }
}

fn config() -> Vec<u8> {
    let mut bytes = Vec::new();
    let settings = [0xa2, 0x61, b'a', 0x01, 0x62, b'a', b'a', 0x82, 0x01, 0x02];
    let members = [member(0, "north"), member(1, "south")];
    put_config(&mut bytes, 0, -5, 3, "quorum x\n", members.into_iter(), &[key(9)], &settings);
    bytes
}

const COSE: [u8; 6] = [0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40];

fn bundle() -> Vec<u8> {
    let mut bytes = Vec::new();
    let requests: [&[u8]; 3] = [&[0x83, 0, 0xf6, 1], &[0x83, 1, 0xf6, 2], &[0x83, 2, 0xf6, 3]];
    put_bundle_start(&mut bytes, 300, 70_000, &COSE, requests.into_iter());
    let change = |path, revision, previous| Change { path, revision, previous };
    put_outcome(&mut bytes, Code::DONE, &[change(0, 24, None), change(256, 70_000, Some(1 << 40))]);
    put_skipped(&mut bytes);
    put_outcome(&mut bytes, Code::FORBIDDEN, &[]);
    bytes
}

fn state(absence_root: Option<Digest>) -> StateView {
    StateView {
        sequence: 512,
        time_ms: 9,
        slot_count: 3,
        state_root: Digest([4; 32]),
        previous: absence_root.map(|_| 17),
        absence_root,
    }
}

fn state_bytes(view: &StateView) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_state(&mut bytes, view);
    bytes
}

/// The bundle entry once more, by an encoder that is not ours.
#[test]
fn a_bundle_entry_has_the_bytes_of_the_format() {
    let mut e = Encoder::new(Vec::new());
    e.array(7).unwrap().u8(1).unwrap().u8(1).unwrap().u16(300).unwrap().u32(70_000).unwrap();
    e.tag(Tag::new(18)).unwrap().array(4).unwrap().bytes(&[]).unwrap().map(0).unwrap();
    e.bytes(&[]).unwrap().bytes(&[]).unwrap();
    e.array(3).unwrap();
    for (class, operation) in [(0, 1), (1, 2), (2, 3)] {
        e.array(3).unwrap().u8(class).unwrap().null().unwrap().u8(operation).unwrap();
    }
    e.array(3).unwrap().array(2).unwrap().u8(0).unwrap().array(2).unwrap();
    e.array(3).unwrap().u8(0).unwrap().u8(24).unwrap().null().unwrap();
    e.array(3).unwrap().u16(256).unwrap().u32(70_000).unwrap().u64(1 << 40).unwrap();
    e.null().unwrap().array(2).unwrap().u8(201).unwrap().array(0).unwrap();
    assert_eq!(bundle(), e.into_writer());
}

#[test]
fn entries_read_back_as_written() {
    let bytes = config();
    let Ok(EntryView::Config(view)) = EntryView::decode(&bytes) else { panic!("no CONFIG") };
    assert_eq!((view.sequence, view.time_ms, view.epoch, view.policy), (0, -5, 3, "quorum x\n"));
    assert_eq!(view.members, [member(0, "north"), member(1, "south")]);
    assert_eq!(view.administrators().collect::<Vec<_>>(), [key(9)]);
    assert_eq!(view.setting("aa"), Some([0x82, 1, 2].as_slice()));
    assert_eq!(view.setting("b"), None);

    let bytes = bundle();
    let entry = EntryView::decode(&bytes).unwrap();
    assert_eq!((entry.sequence(), entry.time_ms()), (300, 70_000));
    let EntryView::Bundle(view) = entry else { panic!("no BUNDLE") };
    assert_eq!(view.cose, COSE);
    assert_eq!(view.requests().nth(1), Some([0x83, 1, 0xf6, 2].as_slice()));
    let outcomes: Vec<_> = view.outcomes().collect();
    let changes: Vec<_> = outcomes[0].unwrap().changes().map(|c| (c.path, c.revision, c.previous)).collect();
    assert_eq!(changes, [(0, 24, None), (256, 70_000, Some(1 << 40))]);
    assert_eq!(outcomes[1], None);
    assert_eq!((outcomes[2].unwrap().code, outcomes[2].unwrap().changes), (Code::FORBIDDEN, [0x80].as_slice()));

    for view in [state(None), state(Some(Digest([5; 32])))] {
        let bytes = state_bytes(&view);
        let Ok(EntryView::State(read)) = EntryView::decode(&bytes) else { panic!("no STATE") };
        assert_eq!(read, view);
    }
}

#[test]
fn a_key_entry_is_a_statement_at_its_place() {
    let mut bytes = Vec::new();
    put_key(&mut bytes, 300, -70_000, &COSE);
    let mut e = Encoder::new(Vec::new());
    e.array(5).unwrap().u8(1).unwrap().u8(3).unwrap().u16(300).unwrap().i32(-70_000).unwrap();
    e.tag(Tag::new(18)).unwrap().array(4).unwrap().bytes(&[]).unwrap().map(0).unwrap();
    e.bytes(&[]).unwrap().bytes(&[]).unwrap();
    assert_eq!(bytes, e.into_writer());
    let view = EntryView::decode(&bytes).unwrap();
    assert_eq!((view.sequence(), view.time_ms()), (300, -70_000));
    let EntryView::Key(view) = view else { panic!("no KEY") };
    assert_eq!((view.cose, view.signer()), (COSE.as_slice(), None));
    // Without the tag, with a byte more, with an item more.
    let at = bytes.len() - COSE.len();
    assert!(EntryView::decode(&[&bytes[..at], &COSE[1..]].concat()).is_err());
    assert!(EntryView::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert_eq!(EntryView::decode(&[&[0x86], &bytes[1..], &[0]].concat()).unwrap_err(), EntryError::Malformed(0));
}

#[test]
fn other_encodings_are_refused() {
    let good = state_bytes(&state(None));
    // [1, 2, 512, 9, ...]: the kind as 0x18 0x02, and a byte behind the end.
    let long = [&good[..2], &[0x18, 0x02], &good[3..]].concat();
    assert!(matches!(EntryView::decode(&long), Err(EntryError::Malformed(_))));
    let trailing = [good.as_slice(), &[0]].concat();
    assert!(matches!(EntryView::decode(&trailing), Err(EntryError::Malformed(_))));
    assert!(matches!(EntryView::decode(&good[..good.len() - 1]), Err(EntryError::Malformed(_))));
    let kind = [&good[..2], &[0x05], &good[3..]].concat();
    assert_eq!(EntryView::decode(&kind).unwrap_err(), EntryError::Unknown { version: 1, kind: 5 });
    // Two settings in the wrong order; an endless list of members.
    let mut bytes = Vec::new();
    let swapped = [0xa2, 0x62, b'a', b'a', 0x01, 0x61, b'a', 0x01];
    put_config(&mut bytes, 0, 0, 0, "", [member(0, "n")].into_iter(), &[], &swapped);
    assert!(matches!(EntryView::decode(&bytes), Err(EntryError::Malformed(_))));
    let endless = [0x89, 1, 0, 0, 0, 0, 0x60, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(EntryView::decode(&endless), Err(EntryError::Malformed(_))));
    // Fewer outcomes than requests.
    let mut bytes = Vec::new();
    put_bundle_start(&mut bytes, 1, 1, &COSE, [[0x80].as_slice(), &[0x80]].into_iter());
    bytes.pop();
    bytes.extend_from_slice(&[0x81, 0xf6]);
    assert!(matches!(EntryView::decode(&bytes), Err(EntryError::Malformed(_))));
}

/// Reads everything that an entry offers, and writes it again.
fn encode_again(view: &EntryView<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match view {
        EntryView::Config(_) => return None,
        EntryView::State(state) => put_state(&mut bytes, state),
        EntryView::Key(view) => put_key(&mut bytes, view.sequence, view.time_ms, view.cose),
        EntryView::Bundle(view) => {
            put_bundle_start(&mut bytes, view.sequence, view.time_ms, view.cose, view.requests());
            for outcome in view.outcomes() {
                match outcome {
                    Some(outcome) => {
                        put_outcome(&mut bytes, outcome.code, &outcome.changes().collect::<Vec<_>>());
                    }
                    None => put_skipped(&mut bytes),
                }
            }
        }
    }
    Some(bytes)
}

proptest! {
    #[test]
    fn what_is_read_is_the_only_encoding_of_it(
        kind in 0..4,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = match kind {
            0 => config(),
            1 => bundle(),
            2 => {
                let mut bytes = Vec::new();
                put_key(&mut bytes, 300, 70_000, &COSE);
                bytes
            }
            _ => state_bytes(&state(Some(Digest([1; 32])))),
        };
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(view) = EntryView::decode(&bytes) && let Some(again) = encode_again(&view) {
            prop_assert_eq!(again, bytes);
        }
    }
}
