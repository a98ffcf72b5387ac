//! What a store reads: queries of clients, snapshots of peers, entries of its own history.

use std::borrow::Cow;
use std::mem::size_of;
use std::sync::LazyLock;

use atlas::twin::TwinStore;
use atlas::twin::follow::Follower;
use atlas::twin::query::{Bound, Changes, History, Properties, Property, Query};
use atlas::twin::record::{Filter, MAX_ORIGINS, RecordItem, Records};
use atlas_dataplane::history::entry::{put_bundle_start, put_outcome};
use atlas_dataplane::state::{Answer, Application, Entries, OperationContext, Outcome, StateError};
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, Signature, TimeMs};
use atlas_dataplane::wire::bundle::{Bundle, Request};

use crate::answers::cursor;
use crate::harness::{Reached, counted, mutated};
use crate::operations::{path, sample_operation, twin};
use crate::random::Rng;

// ---- A store and its history --------------------------------------------------------------------------------------------

/// The properties that a store here has room for.
const MAX_PROPERTIES: u64 = 16;
/// Entries of the history that queries are asked about.
const ENTRIES: usize = 10;
const ORIGIN: &str = "atlas.example/fuzz";

/// Agreed time and bytes of each entry.
#[derive(Clone)]
struct Log(Vec<(TimeMs, Vec<u8>)>);

impl Entries for Log {
    fn size(&self) -> EntryIndex {
        self.0.len() as u64
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        self.0.get(usize::try_from(index).ok()?).map(|(_, entry)| Cow::Borrowed(entry.as_slice()))
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        self.0.partition_point(|(time, _)| *time < time_ms) as u64
    }
}

/// Executes operations as one entry; gives its bytes.
fn execute(store: &mut TwinStore, rng: &mut Rng, entry: EntryIndex, time_ms: TimeMs) -> Vec<u8> {
    let origin = PublicKey(rng.array());
    let mut operations = vec![sample_operation(rng).encode()];
    operations.extend(rng.list(2, |rng| sample_operation(rng).encode()));
    let access = |_: &str, _: &str| true;
    let mut outcomes = Vec::new();
    for (request, operation) in (0..).zip(&operations) {
        let position = Position { entry, request };
        let mut outcome = Outcome::default();
        store.execute(
            &OperationContext { time_ms, position, origin: &origin, access: &access },
            operation,
            &mut outcome,
        );
        outcomes.push(outcome);
    }
    let request = |operation: &Vec<u8>| Request { class: 1, not_after_ms: None, operation }.encode();
    let requests: Vec<_> = operations.iter().map(request).collect();
    let bundle =
        Bundle::sign(ORIGIN, origin, Some(1), 0, &requests, time_ms, |_| Signature([9; 64])).expect("a bundle");
    let mut out = Vec::new();
    put_bundle_start(&mut out, entry, time_ms, bundle.cose(), bundle.requests());
    for outcome in &outcomes {
        put_outcome(&mut out, outcome.code, &outcome.changes);
    }
    out
}

static WORLD: LazyLock<(TwinStore, Log)> = LazyLock::new(|| {
    let (mut store, mut log, rng) = (TwinStore::new(MAX_PROPERTIES), Log(Vec::new()), &mut Rng(4));
    for entry in 0..ENTRIES {
        let time = 1_000 + entry as i64;
        log.0.push((time, execute(&mut store, rng, entry as u64, time)));
    }
    let mut last = Answer::default();
    let newest = Query::Changes { prefix: String::new(), from: Position::default(), to: None, limit: 512 };
    assert_eq!(store.query(&log, &newest.encode(), &mut last), Code::DONE);
    assert_eq!(last.valid_from, ENTRIES as u64 - 1, "the last entry changes nothing: take another seed");
    (store, log)
});

// ---- Queries ------------------------------------------------------------------------------------------------------------

fn bound(rng: &mut Rng) -> Bound {
    let entry = rng.below(ENTRIES + 2) as u64;
    if rng.one_in(2) {
        Bound::Position(Position { entry, request: rng.below(3) as u16 })
    } else {
        Bound::Time(1_000 + entry as i64)
    }
}

fn sample_query(rng: &mut Rng) -> Query {
    let maybe = |rng: &mut Rng| rng.one_in(2);
    let prefix = |rng: &mut Rng| ["", "farm/", "farm/a", "x"][rng.below(4)].to_owned();
    let limit = if maybe(rng) { rng.below(4) as u64 } else { rng.number() };
    match rng.below(5) {
        0 => Query::Get {
            twin: twin(rng),
            property: maybe(rng).then(|| path(rng)),
            after: maybe(rng).then(|| path(rng)),
        },
        1 => Query::List { prefix: prefix(rng), after: maybe(rng).then(|| (twin(rng), path(rng))), limit },
        2 => Query::History {
            twin: twin(rng),
            property: maybe(rng).then(|| path(rng)),
            from: maybe(rng).then(|| bound(rng)),
            to: maybe(rng).then(|| bound(rng)),
            limit,
            cursor: maybe(rng).then(|| cursor(rng)).flatten(),
        },
        3 => Query::Trail {
            filter: filter(rng),
            last: rng.below(ENTRIES + 2) as u64,
            limit,
            cursor: maybe(rng).then(|| cursor(rng)).flatten(),
        },
        _ => Query::Changes {
            prefix: prefix(rng),
            from: Position { entry: rng.below(ENTRIES + 2) as u64, request: rng.below(3) as u16 },
            to: maybe(rng).then(|| rng.below(ENTRIES + 2) as u64),
            limit,
        },
    }
}

fn filter(rng: &mut Rng) -> Filter {
    let maybe = |rng: &mut Rng| rng.one_in(2);
    let prefix = |rng: &mut Rng| ["", "farm/", "farm/a", "x"][rng.below(4)].to_owned();
    let code = |rng: &mut Rng| Code([0, 0, 1, 201, 300, u16::MAX][rng.below(6)]);
    let is_whole = maybe(rng);
    Filter {
        twin: if is_whole { twin(rng) } else { prefix(rng) },
        is_whole,
        property: maybe(rng).then(|| path(rng)),
        origins: if maybe(rng) { Vec::new() } else { rng.list(MAX_ORIGINS + 1, |rng| PublicKey(rng.array())) },
        codes: (code(rng), code(rng)),
        from: maybe(rng).then(|| bound(rng)),
        to: maybe(rng).then(|| bound(rng)),
    }
}

pub(crate) fn query(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| sample_query(rng).encode())
}

/// Whatever is asked, the answer is one: a history that is whole leaves no one but the client to blame.
pub(crate) fn run_query(input: &[u8]) -> Reached {
    let (store, log) = &*WORLD;
    let mut answer = Answer { valid_from: 77, body: vec![7], wait: true };
    let decoded = counted(input.len(), || Query::decode(input));
    let code = store.query(log, input, &mut answer);
    let body = answer.body.as_slice();
    let Ok(query) = decoded else {
        assert_eq!((code, body), (Code::BAD_QUERY, &[][..]));
        return if matches!(input, [0x84, 0 | 1, ..] | [0x87, 2, ..] | [0x85, 3 | 4, ..]) {
            Reached::Header
        } else {
            Reached::Nothing
        };
    };
    assert_eq!(query.encode(), input, "an accepted query encodes to other bytes");
    if code == Code::DONE {
        let readable = match query {
            Query::Get { .. } | Query::List { .. } => Properties::decode(body).is_ok(),
            Query::History { .. } => History::decode(body).is_ok(),
            Query::Changes { .. } => Changes::decode(body).is_ok(),
            Query::Trail { .. } => Records::decode(body).is_ok(),
        };
        assert!(readable, "the answer cannot be read");
    } else {
        assert!(
            [Code::UNKNOWN_TWIN, Code::UNKNOWN_PROPERTY, Code::BAD_QUERY, Code::UNAVAILABLE].contains(&code),
            "{code:?}"
        );
        assert!(body.is_empty() && !answer.wait);
    }
    Reached::Body
}

// ---- Records ------------------------------------------------------------------------------------------------------------

/// The shortest item of a record, in bytes.
const MIN_ITEM: usize = 8;

/// What the store answers to a query for records.
pub(crate) fn records(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let filter = Filter { from: None, to: None, origins: Vec::new(), ..filter(rng) };
        let query = Query::Trail { filter, last: ENTRIES as u64 - 1, limit: 1 + rng.below(4) as u64, cursor: None };
        let (store, log) = &*WORLD;
        let mut answer = Answer::default();
        store.query(log, &query.encode(), &mut answer);
        answer.body
    })
}

pub(crate) fn run_records(input: &[u8]) -> Reached {
    let explained = input.len() * size_of::<RecordItem>().div_ceil(MIN_ITEM);
    match counted(explained, || Records::decode(input)) {
        Ok(_) => Reached::Body,
        Err(_) if matches!(input, [0x82, 0x80..=0x9b, ..]) => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

// ---- Snapshots ----------------------------------------------------------------------------------------------------------

fn snapshot_of(store: &TwinStore) -> Vec<u8> {
    let mut out = Vec::new();
    store.snapshot(&mut out).expect("writing to a Vec");
    out
}

pub(crate) fn snapshot(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        // Room for more than the one that reads it has, so that its limit is met.
        let mut store = TwinStore::new(2 * MAX_PROPERTIES);
        for _ in 0..=rng.below(3) {
            let (entry, time) = (rng.number(), rng.number() as i64);
            execute(&mut store, rng, entry, time);
        }
        snapshot_of(&store)
    })
}

/// The shortest slot of a snapshot, in bytes.
const MIN_SLOT: usize = 60;
/// What a slot takes in memory at most, its names and its places in the tables included, and its value apart.
const SLOT: usize = 4 * size_of::<Property>();

pub(crate) fn run_snapshot(input: &[u8]) -> Reached {
    let mut store = TwinStore::new(MAX_PROPERTIES);
    let before = snapshot_of(&store);
    match counted(input.len() * SLOT.div_ceil(MIN_SLOT), || store.restore(input)) {
        Ok(()) => {
            assert_eq!(snapshot_of(&store), input, "an accepted snapshot is taken again with other bytes");
            assert!(store.slot_count() <= MAX_PROPERTIES);
            let roots = (store.state_root(), store.absence_root());
            let mut again = TwinStore::new(MAX_PROPERTIES);
            again.restore(input).expect("accepted once");
            // The other way round: neither root depends on the other having been asked for.
            let (absence, state) = (again.absence_root(), again.state_root());
            assert_eq!((state, absence), roots);
            Reached::Body
        }
        Err(error) => {
            assert_eq!(snapshot_of(&store), before, "a refused snapshot leaves something");
            if let StateError::Malformed { at, .. } = error {
                assert!(at <= input.len());
            }
            if matches!(input, [0x80, ..] | [0x81..=0x97, 0x8c, ..]) { Reached::Header } else { Reached::Nothing }
        }
    }
}

// ---- Entries of the history ---------------------------------------------------------------------------------------------

/// The last entry of the history, mutated with pieces of the others.
pub(crate) fn entry(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let entries = &WORLD.1.0;
        let at = if rng.one_in(4) { rng.below(ENTRIES) } else { ENTRIES - 1 };
        entries[at].1.clone()
    })
}

/// A damaged history is nobody's fault but the replica's; what it says instead can still be read. The header check is that of
/// the changes, the body check that every twin's history leads through as well.
pub(crate) fn run_entry(input: &[u8]) -> Reached {
    let (store, log) = &*WORLD;
    let mut log = log.clone();
    log.0[ENTRIES - 1].1 = input.to_vec();
    let ask = |query: &Query| {
        let mut answer = Answer::default();
        (store.query(&log, &query.encode(), &mut answer), answer.body)
    };
    let from = Position { entry: ENTRIES as u64 - 2, request: u16::MAX };
    match ask(&Query::Changes { prefix: String::new(), from, to: None, limit: 512 }) {
        (Code::DONE, body) => drop(Changes::decode(&body).expect("the answer can be read")),
        (code, _) => {
            assert_eq!(code, Code::INTERNAL);
            return Reached::Nothing;
        }
    }
    let last = ENTRIES as u64 - 1;
    let trail = Query::Trail { filter: Filter::all(), last, limit: 512, cursor: None };
    match ask(&trail) {
        (Code::DONE, body) => drop(Records::decode(&body).expect("the answer can be read")),
        (code, _) => assert_eq!(code, Code::INTERNAL),
    }
    let _ = Follower::new().records(last, input, &Filter::all());
    let mut leads_through = true;
    for twin in ["farm/a", "farm/b", "farm/c.1", "port/a"] {
        let (property, cursor) = (None, None);
        match ask(&Query::History { twin: twin.to_owned(), property, from: None, to: None, limit: 512, cursor }) {
            (Code::DONE, body) => drop(History::decode(&body).expect("the answer can be read")),
            (code, _) => {
                assert_eq!(code, Code::INTERNAL);
                leads_through = false;
            }
        }
    }
    if leads_through { Reached::Body } else { Reached::Header }
}
