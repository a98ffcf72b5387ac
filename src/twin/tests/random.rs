//! Random histories: outcomes, state, roots, snapshots and queries equal the model's.

use atlas_dataplane::history::tree::HistoryTree;
use atlas_dataplane::state::Application;
use atlas_dataplane::types::{Code, Digest, Position, PublicKey};
use proptest::prelude::*;
use proptest::sample::select;

use super::model::{GUEST, Logged, World};
use crate::twin::TwinStore;
use crate::twin::operation::{Comparison, Condition, Operation, SetProperty, Test, Write};
use crate::twin::query::{Bound, ChangeSet, Changes, History, Properties, Query};
use crate::twin::value::{Quality, Value};

const TWINS: [&str; 4] = ["farm/a", "farm/b", "farm/locked", "port/a"];
const PATHS: [&str; 4] = ["p", "q", "q/r", "s"];

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        (-3i64..3).prop_map(Value::I64),
        Just(Value::I64((1 << 53) + 1)),
        select(vec![0.0, -1.5, 0.1, 1e300, 2.0, 65504.0]).prop_map(Value::F64),
        "[ab]{0,3}".prop_map(Value::Text),
        prop::collection::vec(0u8..3, 0..3).prop_map(Value::Bytes),
    ]
}

fn property() -> impl Strategy<Value = SetProperty> {
    let quality = select(vec![Quality::Good, Quality::Uncertain, Quality::Bad, Quality::Stale]);
    (select(&PATHS), value(), quality, prop::option::of(-5i64..5)).prop_map(|(path, value, quality, source_time_ns)| {
        SetProperty { path: path.to_owned(), value, quality, source_time_ns }
    })
}

fn reason() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[a-z]{1,4}")
}

fn write() -> impl Strategy<Value = Write> {
    let twin = || select(&TWINS).prop_map(str::to_owned);
    let paths = prop::sample::subsequence(PATHS.map(str::to_owned).to_vec(), 1..3);
    prop_oneof![
        4 => (twin(), prop::collection::vec(property(), 1..4), reason()).prop_map(|(twin, mut properties, reason)| {
            properties.sort_by(|a, b| a.path.cmp(&b.path));
            properties.dedup_by(|a, b| a.path == b.path);
            Write::Set { twin, properties, reason }
        }),
        1 => (twin(), prop::option::of(paths), reason()).prop_map(|(twin, paths, reason)| Write::Delete { twin, paths, reason }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        4 => (select(&Comparison::ALL), value()).prop_map(|(comparison, value)| Test::Value(comparison, value)),
        1 => (0u64..4).prop_map(Test::Revision),
        1 => Just(Test::Exists),
        1 => Just(Test::Absent),
    ];
    (select(&TWINS), select(&PATHS), test).prop_map(|(twin, path, test)| Condition {
        twin: twin.to_owned(),
        path: path.to_owned(),
        test,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let transaction = (prop::collection::vec(condition(), 0..3), prop::collection::vec(write(), 1..4), reason());
    prop_oneof![
        3 => write().prop_map(Operation::Write),
        2 => transaction.prop_map(|(conditions, mut writes, reason)| {
            // One write a twin: a property written twice is malformed, and has a test of its own.
            let twin = |write: &Write| match write { Write::Set { twin, .. } | Write::Delete { twin, .. } => twin.clone() };
            writes.sort_by_key(twin);
            writes.dedup_by_key(|write| twin(write));
            Operation::Transaction { conditions, writes, reason }
        }),
    ]
}

pub(super) type Bundle = (bool, u8, Vec<Option<Operation>>);

pub(super) fn history() -> impl Strategy<Value = Vec<Bundle>> {
    let bundle = (any::<bool>(), 0u8..3, prop::collection::vec(prop::option::weighted(0.9, operation()), 1..5));
    prop::collection::vec(bundle, 1..25)
}

pub(super) fn play(max: usize, bundles: &[Bundle]) -> World {
    let mut world = World::new(max);
    let mut time = 1000;
    for (guest, pause, operations) in bundles {
        time += i64::from(*pause);
        if *pause == 2 {
            world.other_entry(time);
        }
        let origin = if *guest { GUEST } else { PublicKey([1; 32]) };
        world.bundle(time, origin, operations);
    }
    world
}

fn root(leaves: &[Vec<u8>]) -> Digest {
    let mut tree = HistoryTree::new();
    leaves.iter().for_each(|leaf| {
        tree.append(leaf);
    });
    tree.root()
}

/// What the sets say, one line a change.
fn flat(sets: &[ChangeSet]) -> Vec<Logged> {
    let mut lines = Vec::new();
    for set in sets {
        for change in &set.changes {
            lines.push(Logged {
                position: set.position,
                time: set.time_ms,
                origin: set.origin,
                twin: change.twin.clone(),
                path: change.property.clone(),
                value: change.value.clone(),
                quality: change.quality,
                source: change.source_time_ns,
                reason: set.reason.clone(),
                revision: change.revision,
            });
        }
    }
    lines
}

/// Operations newest first, the changes of each in their order.
fn newest_first(log: &[Logged], keep: impl Fn(&Logged) -> bool) -> Vec<Logged> {
    let mut kept: Vec<Logged> = log.iter().filter(|line| keep(line)).cloned().collect();
    kept.sort_by_key(|line| std::cmp::Reverse(line.position));
    kept
}

fn walk_history(
    world: &World,
    twin: &str,
    property: Option<&str>,
    ends: (Option<Bound>, Option<Bound>),
    limit: u64,
) -> (Code, Vec<Logged>) {
    let (mut lines, mut cursor) = (Vec::new(), None);
    loop {
        let (twin, property) = (twin.to_owned(), property.map(str::to_owned));
        let query = Query::History { twin, property, from: ends.0, to: ends.1, limit, cursor };
        let (code, answer) = world.ask(&query);
        if code != Code::DONE {
            assert!(answer.body.is_empty());
            return (code, lines);
        }
        let page = History::decode(&answer.body).unwrap();
        if let Some(first) = page.sets.first() {
            assert_eq!(answer.valid_from, first.position.entry);
        }
        lines.extend(flat(&page.sets));
        cursor = page.cursor;
        if cursor.is_none() {
            return (code, lines);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn state_and_roots_equal_the_model(bundles in history(), max in 3usize..17) {
        let mut world = play(max, &bundles[..bundles.len() / 2]);
        // Roots asked on the way must not change what they are in the end.
        prop_assert_eq!(world.store.absence_root(), root(&world.model.leaves_by_name()));
        let (frozen, mut early, mut late) = (world.store.freeze(), Vec::new(), Vec::new());
        world.store.snapshot(&mut early).unwrap();
        for (_, _, operations) in &bundles[bundles.len() / 2..] {
            world.bundle(2000, PublicKey([2; 32]), operations);
        }
        prop_assert_eq!(world.store.slot_count(), world.model.cells.len() as u64);
        prop_assert_eq!(world.store.state_root(), root(&world.model.leaves()));
        prop_assert_eq!(world.store.absence_root(), root(&world.model.leaves_by_name()));

        // What was frozen is as it was.
        frozen.write(&mut late).unwrap();
        prop_assert_eq!(late, early);
        let mut snapshot = Vec::new();
        world.store.snapshot(&mut snapshot).unwrap();
        let mut restored = TwinStore::new(max as u64);
        restored.restore(&snapshot).unwrap();
        prop_assert_eq!(restored.state_root(), world.store.state_root());
        prop_assert_eq!(restored.absence_root(), world.store.absence_root());
        let mut again = Vec::new();
        restored.snapshot(&mut again).unwrap();
        prop_assert_eq!(again, snapshot);
        // A restored store goes on like the one it was taken from.
        world.store = restored;
        world.bundle(3000, PublicKey([3; 32]), &bundles[0].2);
        prop_assert_eq!(world.store.state_root(), root(&world.model.leaves()));
    }

    #[test]
    fn lists_in_pages_equal_the_model(bundles in history(), prefix in select(vec!["", "farm/", "farm/a", "port", "x"]), limit in 1u64..6) {
        let world = play(16, &bundles);
        let (mut got, mut after) = (Vec::new(), None);
        loop {
            let (code, answer) = world.ask(&Query::List { prefix: prefix.to_owned(), after: after.clone(), limit });
            prop_assert_eq!(code, Code::DONE);
            let page = Properties::decode(&answer.body).unwrap();
            // Exactly the cells between the ends of the page, deleted ones included, decide from when on it holds.
            let touched = world.model.cells.iter().filter(|(key, _)| {
                key.0.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after)
                    && page.next.as_ref().is_none_or(|next| *key <= next)
            });
            prop_assert_eq!(answer.valid_from, touched.map(|(_, cell)| cell.position.entry).max().unwrap_or(0));
            got.extend(page.items);
            after = page.next;
            if after.is_none() { break; }
        }
        let expected = world.model.cells.iter().filter(|((twin, _), cell)| twin.starts_with(prefix) && cell.value.is_some());
        prop_assert_eq!(got.len(), expected.clone().count());
        for (item, ((twin, path), cell)) in got.iter().zip(expected) {
            prop_assert_eq!((&item.twin, &item.property, Some(&item.value)), (twin, path, cell.value.as_ref()));
            prop_assert_eq!((item.revision, item.quality, item.source_time_ns), (cell.revision, cell.quality, cell.source));
            prop_assert_eq!((item.time_ms, item.origin, item.position), (cell.time, cell.origin, cell.position));
        }
    }

    #[test]
    fn histories_equal_the_naive_log(bundles in history(), limit in 1u64..8, a in 0u64..30, b in 0u64..30, request in 0u16..3) {
        let world = play(16, &bundles);
        let (from, to) = (Position { entry: a.min(b), request: 0 }, Position { entry: a.max(b), request });
        let (from_ms, to_ms) = (1000 + a.min(b) as i64, 1000 + a.max(b) as i64);
        for twin in TWINS {
            for property in [None, Some("p"), Some("q/r")] {
                let about = |line: &Logged| line.twin == twin && property.is_none_or(|property| property == line.path);
                let unknown = if property.is_some() && world.model.cells.keys().any(|(name, _)| name == twin) {
                    Code::UNKNOWN_PROPERTY
                } else {
                    Code::UNKNOWN_TWIN
                };
                let log = &world.model.log;
                let (code, lines) = walk_history(&world, twin, property, (None, None), limit);
                prop_assert_eq!(code, if log.iter().any(about) { Code::DONE } else { unknown });
                prop_assert_eq!(lines, newest_first(log, about));

                let ends = (Some(Bound::Position(from)), Some(Bound::Position(to)));
                let (_, lines) = walk_history(&world, twin, property, ends, limit);
                prop_assert_eq!(lines, newest_first(log, |l| about(l) && (from..=to).contains(&l.position)));

                let ends = (Some(Bound::Time(from_ms)), Some(Bound::Time(to_ms)));
                let (_, lines) = walk_history(&world, twin, property, ends, limit);
                prop_assert_eq!(lines, newest_first(log, |l| about(l) && (from_ms..=to_ms).contains(&l.time)));
            }
        }
    }

    #[test]
    fn changes_in_pages_equal_the_naive_log(bundles in history(), prefix in select(vec!["", "farm/", "port/a"]), limit in 1u64..8, cut in 0u64..20) {
        let world = play(16, &bundles);
        let about = |line: &&Logged| line.twin.starts_with(prefix);
        let (mut lines, mut from) = (Vec::new(), Position::default());
        loop {
            let (code, answer) = world.ask(&Query::Changes { prefix: prefix.to_owned(), from, to: None, limit });
            prop_assert_eq!(code, Code::DONE);
            let page = Changes::decode(&answer.body).unwrap();
            prop_assert_eq!(answer.wait, page.covered == from);
            prop_assert!(page.sets.iter().all(|set| set.position > from && set.position <= page.covered));
            lines.extend(flat(&page.sets));
            if answer.wait { break; }
            from = page.covered;
        }
        let expected: Vec<Logged> = world.model.log.iter().filter(about).cloned().collect();
        prop_assert_eq!(lines, expected);

        // Up to a given entry every replica gives the same bytes, wherever it is.
        let to = cut.min(world.log.0.len() as u64 - 1);
        let query = Query::Changes { prefix: prefix.to_owned(), from: Position::default(), to: Some(to), limit: 512 };
        let (_, all) = world.ask(&query);
        let page = Changes::decode(&all.body).unwrap();
        prop_assert_eq!(page.covered, Position { entry: to, request: u16::MAX });
        let expected: Vec<Logged> = world.model.log.iter().filter(about).filter(|l| l.position.entry <= to).cloned().collect();
        prop_assert_eq!(flat(&page.sets), expected);
    }

    #[test]
    fn a_replica_behind_answers_alike_or_not_yet(bundles in history(), ahead in 1usize..5) {
        let world = play(16, &bundles);
        let behind = play(16, &bundles[..bundles.len().saturating_sub(ahead).max(1)]);
        let get = |twin: &str| Query::Get { twin: twin.to_owned(), property: None, after: None };
        for twin in TWINS {
            let (new, old) = (world.ask(&get(twin)), behind.ask(&get(twin)));
            // The later replica saw a change of this twin, or both answers are the same to the byte.
            prop_assert!(new == old || new.1.valid_from >= behind.log.0.len() as u64);
            let to = Some(Bound::Position(Position { entry: behind.log.0.len() as u64 - 1, request: u16::MAX }));
            let query = Query::History { twin: twin.to_owned(), property: None, from: None, to, limit: 5, cursor: None };
            prop_assert_eq!(world.ask(&query), behind.ask(&query));
        }
    }
}
