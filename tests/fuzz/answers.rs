//! What replicas answer to queries. The encoders here are the test's own: the store encodes from its slots.

use std::mem::size_of;

use atlas::cli::changes::{TwinChanges, decode as decode_event};
use atlas::twin::query::{ChangeSet, Changes, Cursor, History, Properties, Property, PropertyChange, Query};
use atlas_dataplane::cbor::Writer;
use atlas_dataplane::client::PageDecoder as _;
use atlas_dataplane::types::{Position, PublicKey};

use crate::harness::{Reached, counted, mutated};
use crate::operations::{path, quality, reason, sample_value, time, twin};
use crate::random::Rng;

/// The shortest property of an answer, in bytes.
const MIN_PROPERTY: usize = 44;
/// The shortest change of an answer, in bytes.
const MIN_CHANGE: usize = 7;

/// Input that explains the memory of an answer of `length` bytes whose shortest items take `least` bytes there and `kept` here.
fn explained(length: usize, kept: usize, least: usize) -> usize {
    length * kept.div_ceil(least)
}

fn array_of_two(out: &[u8]) -> Reached {
    if matches!(out, [0x82, 0x80..=0x9b, ..]) { Reached::Header } else { Reached::Nothing }
}

// ---- Get and list -------------------------------------------------------------------------------------------------------

fn position(rng: &mut Rng) -> Position {
    Position { entry: rng.number(), request: rng.number() as u16 }
}

fn property(rng: &mut Rng) -> Property {
    Property {
        twin: twin(rng),
        property: path(rng),
        value: sample_value(rng),
        revision: rng.number(),
        quality: quality(rng),
        source_time_ns: time(rng),
        time_ms: rng.number() as i64,
        origin: PublicKey(rng.array()),
        position: position(rng),
    }
}

pub(crate) fn properties(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let next = rng.one_in(2).then(|| (twin(rng), path(rng)));
        encode_properties(&Properties { items: rng.list(3, property), next })
    })
}

fn encode_properties(answer: &Properties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let out = &mut Writer(&mut bytes);
    out.array(2).array(answer.items.len());
    for item in &answer.items {
        item.value.borrowed().encode(out.array(10).text(&item.twin).text(&item.property));
        put_time(out.uint(item.revision).uint(item.quality as u64), item.source_time_ns);
        out.int(item.time_ms).bytes(&item.origin.0);
        put_place(out, item.position);
    }
    out.optional(answer.next.as_ref(), |out, (twin, property)| {
        out.array(2).text(twin).text(property);
    });
    bytes
}

fn put_time(out: &mut Writer<'_>, time: Option<i64>) {
    out.optional(time, |out, time| {
        out.int(time);
    });
}

fn put_place(out: &mut Writer<'_>, position: Position) {
    out.uint(position.entry).uint(u64::from(position.request));
}

pub(crate) fn run_properties(input: &[u8]) -> Reached {
    let explained = explained(input.len(), size_of::<Property>(), MIN_PROPERTY);
    match counted(explained, || Properties::decode(input)) {
        Ok(answer) => {
            assert_eq!(encode_properties(&answer), input, "an accepted answer encodes to other bytes");
            Reached::Body
        }
        Err(_) => array_of_two(input),
    }
}

// ---- History and changes ------------------------------------------------------------------------------------------------

fn change(rng: &mut Rng) -> PropertyChange {
    PropertyChange {
        twin: twin(rng),
        property: path(rng),
        value: rng.one_in(2).then(|| sample_value(rng)),
        quality: quality(rng),
        source_time_ns: time(rng),
        revision: rng.number(),
    }
}

fn change_set(rng: &mut Rng) -> ChangeSet {
    ChangeSet {
        // Near each other, so that some are of the same operation.
        position: Position { entry: 7, request: rng.below(2) as u16 },
        time_ms: rng.number() as i64,
        origin: PublicKey(rng.array()),
        reason: reason(rng),
        changes: rng.list(3, change),
    }
}

fn put_sets(out: &mut Writer<'_>, sets: &[ChangeSet]) {
    out.array(sets.len());
    for set in sets {
        put_place(out.array(6), set.position);
        out.int(set.time_ms).bytes(&set.origin.0).optional(set.reason.as_ref(), |out, reason| {
            out.text(reason);
        });
        out.array(set.changes.len());
        for change in &set.changes {
            out.array(6).text(&change.twin).text(&change.property);
            match &change.value {
                Some(value) => value.borrowed().encode(out),
                None => {
                    out.undefined();
                }
            }
            put_time(out.uint(change.quality as u64), change.source_time_ns);
            out.uint(change.revision);
        }
    }
}

/// A cursor's bytes: opaque to clients, so they are written here as they travel.
fn sample_cursor(rng: &mut Rng, out: &mut Writer<'_>) {
    out.array(2);
    let below = rng.one_in(2).then(|| Position { entry: rng.below(12) as u64, request: rng.below(3) as u16 });
    out.optional(below, |out, below| put_place(out.array(2), below));
    let heads =
        rng.list(4, |rng| (rng.below(6) as u64, if rng.one_in(8) { rng.number() } else { rng.below(10) as u64 }));
    out.array(heads.len());
    for (slot, entry) in heads {
        out.array(2).uint(slot).uint(entry);
    }
}

fn sample_history(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let out = &mut Writer(&mut bytes);
    put_sets(out.array(2), &rng.list(3, change_set));
    if rng.one_in(2) {
        sample_cursor(rng, out);
    } else {
        out.null();
    }
    bytes
}

pub(crate) fn cursor(rng: &mut Rng) -> Option<Cursor> {
    let mut bytes = vec![0x82, 0x80];
    sample_cursor(rng, &mut Writer(&mut bytes));
    History::decode(&bytes).expect("an empty page with a cursor").cursor
}

pub(crate) fn history(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, sample_history)
}

pub(crate) fn run_history(input: &[u8]) -> Reached {
    let explained = explained(input.len(), size_of::<PropertyChange>(), MIN_CHANGE);
    match counted(explained, || History::decode(input)) {
        Ok(History { sets, cursor }) => {
            let mut again = Vec::new();
            put_sets(Writer(&mut again).array(2), &sets);
            again.extend_from_slice(&encode_cursor(cursor));
            assert_eq!(again, input, "an accepted answer encodes to other bytes");
            Reached::Body
        }
        Err(_) => array_of_two(input),
    }
}

/// A cursor, or null, as a query ends with it.
fn encode_cursor(cursor: Option<Cursor>) -> Vec<u8> {
    let query = |cursor| {
        let (twin, property, from, to, limit) = (String::new(), None, None, None, 0);
        Query::History { twin, property, from, to, limit, cursor }.encode()
    };
    let start = query(None).len() - 1;
    query(cursor)[start..].to_vec()
}

pub(crate) fn changes(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        put_sets(out.array(2), &rng.list(3, change_set));
        put_place(out.array(2), position(rng));
        bytes
    })
}

/// A page is also cut into one event for each operation, which together say the same.
pub(crate) fn run_changes(input: &[u8]) -> Reached {
    let explained = explained(input.len(), size_of::<PropertyChange>(), MIN_CHANGE);
    let page = counted(explained, || TwinChanges { prefix: String::new() }.decode(input));
    let Ok(Changes { sets, covered }) = counted(explained, || Changes::decode(input)) else {
        assert!(page.is_none(), "a malformed page is taken");
        return array_of_two(input);
    };
    let mut again = Vec::new();
    let out = &mut Writer(&mut again);
    put_sets(out.array(2), &sets);
    put_place(out.array(2), covered);
    assert_eq!(again, input, "an accepted answer encodes to other bytes");
    let page = page.expect("a good page is refused");
    assert_eq!(page.covered, covered);
    let mut told = Vec::new();
    for (position, event) in &page.events {
        let sets = decode_event(event).expect("an event of a good page");
        assert!(sets.iter().all(|set| set.position == *position));
        told.extend(sets);
    }
    assert_eq!(told, sets, "the events say something else than their page");
    assert!(page.events.windows(2).all(|pair| pair[0].0 != pair[1].0), "two events of one operation");
    Reached::Body
}
